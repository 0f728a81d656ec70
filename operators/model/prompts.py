"""Prompts: what a model wants in front of a document, and in front of a query. No torch here.

The rules are those of sentence-transformers' `encode_document` and `encode_query`: the prompt called
`document` or `query` counts, also if it is empty. Older files name others, and the two ways in which
those can be read give different vectors; then the contract has to say which one is meant.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from operators.contract.sections import EmbeddingSection
from operators.model.files import model_error

_OLDER_NAMES = ("passage", "corpus")
"""Names that a document's prompt had before sentence-transformers settled on `document`."""


class Family(NamedTuple):
    """Models that were trained with prompts, and what those are."""

    names: re.Pattern[str]
    document: str
    query: str


def _family(names: str, document: str, query: str) -> Family:
    return Family(re.compile(names, re.IGNORECASE), document, query)


_TASK = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
)
_SEARCH = "Represent this sentence for searching relevant passages: "

FAMILIES = (
    _family(r"\be5-.*instruct|e5-mistral|SFR-Embedding|Linq-Embed", "", _TASK),
    _family(r"\be5-", "passage: ", "query: "),
    _family(r"gte-qwen|gte-.*instruct|Qwen3-Embedding", "", _TASK),
    _family(r"bge-.*-zh", "", "为这个句子生成表示以用于检索相关文章:"),
    _family(r"bge-(small|base|large)-en", "", _SEARCH),
    _family(r"mxbai-embed|UAE-Large", "", _SEARCH),
    _family(r"snowflake-arctic-embed.*-v2", "", "query: "),
    _family(r"snowflake-arctic-embed", "", _SEARCH),
    _family(r"nomic-embed|modernbert-embed", "search_document: ", "search_query: "),
    _family(r"embeddinggemma", "title: none | text: ", "task: search result | query: "),
    _family(r"\bruri-(small|base|large)", "文章: ", "クエリ: "),
)
"""Known families, the most special first. Those that need no prompt (bge-m3, gte-base) are not here."""


class Prompts(NamedTuple):
    """A prompt for each role."""

    document: str
    query: str


class OwnPrompts(NamedTuple):
    """The prompts in a model's own files.

    Attributes:
        document: In front of each document; None if the files can be read in two ways.
        query: In front of each query; None if the files can be read in two ways.
        unclear: For those that are None: what the files say, to be quoted in the error.
        named: The prompts that the model's name takes for granted. That of documents is read as by
            Rowvec's first release, so that a collection keeps its name if its vectors are the same.
    """

    document: str | None = ""
    query: str | None = ""
    unclear: Mapping[str, str] = {}
    named: Prompts = Prompts("", "")


NO_PROMPTS = OwnPrompts()


def own_prompts(name: str, shared: Mapping[str, Any]) -> OwnPrompts:
    """Read the prompts of `config_sentence_transformers.json`.

    Raises:
        FatalError: They are not texts by name, or the default is none of them.
    """
    given = shared.get("prompts") or {}
    default_name = shared.get("default_prompt_name")
    if not isinstance(given, dict) or any(
        not isinstance(text, str | None) for text in given.values()
    ):
        raise model_error(
            name, "has prompts that are no texts", "Mend its prompts, or fetch it again"
        )
    prompts = {key: text or "" for key, text in given.items()}
    if default_name is not None and default_name not in {*prompts, "document", "query"}:
        raise model_error(
            name,
            f"has no prompt '{default_name}', which it names as default_prompt_name",
            "Mend config_sentence_transformers.json, or fetch the model again",
        )
    default = prompts.get(default_name, "") if default_name is not None else ""
    older = {key: prompts[key] for key in _OLDER_NAMES if prompts.get(key)}
    by_default = {f"default_prompt_name '{default_name}'": default} if default else {}
    unclear = {}
    for role, others in (("document", older | by_default), ("query", by_default)):
        if role not in prompts and others:  # guard: model-prompt-unclear
            unclear[role] = ", ".join(f"{key} ({text!r})" for key, text in others.items())
    documents = [prompts[key] for key in ("document", *_OLDER_NAMES) if prompts.get(key)]
    return OwnPrompts(
        None if "document" in unclear else prompts.get("document", ""),
        None if "query" in unclear else prompts.get("query", ""),
        unclear,
        Prompts(documents[0] if documents else default, prompts.get("query", default)),
    )


def chosen(name: str, own: OwnPrompts, section: EmbeddingSection) -> Prompts:
    """The prompts of the contract, or else the model's own.

    Raises:
        FatalError: The model's files can be read in two ways, and the contract does not decide.
    """
    roles = (
        ("document", section.document_prompt, own.document),
        ("query", section.query_prompt, own.query),
    )
    used = []
    for role, contract, files in roles:
        prompt = files if contract is None else contract
        if prompt is None:
            raise model_error(
                name,
                f"names no prompt '{role}', but {own.unclear[role]}; sentence-transformers puts "
                f"nothing in front of a {role} then, its older releases did",
                f'Set {role}_prompt in [embedding] to what its authors mean; "" is none',
            )
        used.append(prompt)
    return Prompts(*used)


def advice(names: str, used: Prompts, section: EmbeddingSection) -> str:
    """A warning if the model is of a family that needs a prompt, and neither side has one; else "".

    Args:
        names: What the model is called: by the contract, and in its own config.json.
        used: The prompts that are used.
        section: What it sets is never warned of, not even if it is empty.
    """
    family = next((each for each in FAMILIES if each.names.search(names)), None)
    if family is None:
        return ""
    roles = (
        ("document_prompt", section.document_prompt, used.document, family.document),
        ("query_prompt", section.query_prompt, used.query, family.query),
    )
    lacking = [
        f"{key} = {json.dumps(wanted, ensure_ascii=False)}"
        for key, contract, prompt, wanted in roles
        if wanted and not prompt and contract is None
    ]
    if not lacking:
        return ""
    return (
        "models of this kind are trained with a prompt, and neither the model's files nor the contract "
        f'has one. Set {" and ".join(lacking)} in [embedding], or "" if the texts bring it'
    )


def check_room(name: str, role: str, tokens: int, most: int) -> None:
    """Refuse a prompt that leaves no room for a text: all texts would have the same vector.

    Args:
        name: The model's.
        role: Whose prompt it is: "document" or "query".
        tokens: Tokens of the prompt, with the special ones.
        most: Tokens that the model reads.

    Raises:
        FatalError: The prompt fills all that the model reads.
    """
    if tokens >= most:  # guard: model-prompt-room
        raise model_error(
            name,
            f"reads {most} tokens, and its {role} prompt has {tokens}: nothing of a text is left",
            f"Shorten {role}_prompt, or raise max_length",
        )
