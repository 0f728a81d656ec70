"""What is printed: control characters from outside are escaped, and credentials are left out."""

import io
import json
import logging
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.contract.sections import Contract, KafkaSection, MilvusSection
from operators.errors import ContractError, FatalError, RecordError
from operators.printable import LogFormatter, json_printable, printable, without_credentials

FORGED = "2026-01-01 00:00:00,000 INFO Running"

EVIL = [
    f"\n{FORGED}",
    f"\r\n{FORGED}",
    f"\x0b{FORGED}",
    f"\x85{FORGED}",
    f"\u2028{FORGED}",
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31m",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x7f\x08\x00",
    "\u202etxt.exe",
    "\u2066\u2069\u061c\u200f",
    "\ud800",
    "\ufeff\u200b",
]


def is_harmless(text: str) -> bool:
    """Whether no character of a text is a control character, an invisible one, or half of one."""
    allowed = "\u200c\u200d\u00ad"  # part of the spelling of words and of signs
    bad = {"Cc", "Cs", "Zl", "Zp"}
    return not any(unicodedata.category(c) in bad and c not in allowed for c in text) and not (
        set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
    )


@pytest.mark.parametrize("evil", EVIL)
def test_a_control_character_is_escaped(evil: str) -> None:
    shown = printable(f"column '{evil}'")
    assert is_harmless(shown)
    assert "\\" in shown
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_becomes_harmless_and_stays_json(text: str) -> None:
    assert is_harmless(printable(text))
    for ascii_only in (True, False):
        written = json_printable(json.dumps({text: [text]}, ensure_ascii=ascii_only))
        assert is_harmless(written)
        assert json.loads(written) == {text: [text]}


@pytest.mark.parametrize("text", ["größe", "数据库", "👩‍💻 naïve", "a\\x1b", "می‌خواهم", ""])
def test_words_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_pretty_json_keeps_its_lines() -> None:
    assert json_printable(json.dumps({"a": 1}, indent=2)) == '{\n  "a": 1\n}'


@pytest.mark.parametrize("kind", [FatalError, RecordError, ContractError])
@pytest.mark.parametrize("evil", EVIL)
def test_an_error_is_one_line_without_escapes(kind: type[FatalError], evil: str) -> None:
    error = kind(subject=f"topic {evil}", cause=f"column '{evil}' is new", hint=f"name {evil}")
    assert is_harmless(str(error))
    assert error.cause == f"column '{evil}' is new"


@pytest.mark.parametrize("evil", EVIL)
def test_each_detail_of_an_error_is_one_line(evil: str) -> None:
    error = ContractError(
        subject="c.toml", cause="2 problems", details=[evil, "two"], hint="nothing was started"
    )
    first, one, two, last = str(error).split("\n")
    assert (first, two, last) == ("c.toml: 2 problems", "  - two", "Nothing was started.")
    assert is_harmless(one)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def logged(log: str, *values: object, error: BaseException | None = None) -> str:
    """What the handler writes for one message."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    record = logging.LogRecord(
        "x\n", logging.INFO, "", 1, log, values, (type(error), error, None) if error else None
    )
    handler.handle(record)
    return stream.getvalue()


@pytest.mark.parametrize("evil", EVIL)
def test_a_message_of_the_log_is_one_line(evil: str) -> None:
    written = logged("table %s has a new column '%s'", evil, evil)
    assert written.endswith("\n")
    assert is_harmless(written[:-1])


@pytest.mark.parametrize("evil", EVIL)
def test_a_traceback_forges_no_line_of_the_log(evil: str) -> None:
    written = logged("Stopped by", error=ValueError(evil)).splitlines()
    assert all(is_harmless(line) for line in written)
    assert all(line.startswith("    ") for line in written[1:])


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://registry:8081", "http://registry:8081"),
        ("http://u:S3CRET@registry:8081/path", "http://registry:8081/path"),
        ("https://root:S3/CRET@host:1", "https://host:1"),
        ("https://root:S3?CR#ET@host:1", "https://host:1"),
        ("https://root:S3@CRET@host:1", "https://host:1"),
        ("https://S3CRET@host", "https://host"),
        ("http://u:S3CRET@a:1,http://v:S3CRET@b:2", "http://a:1,http://b:2"),
        ("http://u:S3CRET@a:1, http://b:2", "http://a:1,http://b:2"),
        ("http://u:S3,CRET@a:1", "http://a:1"),
        ("u:S3CRET@kafka:9092,u:S3CRET@kafka2:9092", "kafka2:9092"),
        ("a:9092,b:9092", "a:9092,b:9092"),
        ("./milvus.db", "./milvus.db"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_a_repr_shows_no_credentials() -> None:
    milvus = MilvusSection.model_construct(uri="https://root:S3CRET@host:1", token=None)
    kafka = KafkaSection.model_construct(bootstrap_servers="u:S3CRET@host:1")
    whole = Contract.model_construct(milvus=milvus, kafka=kafka)
    for shown in (repr(milvus), str(kafka), repr(whole), f"{whole}"):
        assert "S3CRET" not in shown
        assert "host:1" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("asked http://u:S3CRET@host:1/x twice", "asked http://host:1/x twice"),
        ("'https://root:S3/CRET@host'", "'https://host'"),
        ("https://S3CRET@host", "https://host"),
        ("redis://:S3CRET@host", "redis://host"),
        ("http://u:S3@CRET@a:1 and http://v:S3CRET@b", "http://a:1 and http://b"),
        ("https://host/model@main", "https://host/model@main"),
        ("u@example.org", "u@example.org"),
    ],
)
def test_an_address_in_another_programs_words(text: str, shown: str) -> None:
    assert str(FatalError(subject="x", cause=text)) == f"x: {shown}."
    assert logged("%s", text).endswith(f"{shown}\n")
    assert logged("Stopped", error=ValueError(text)).endswith(f"{shown}\n")


def test_a_hint_says_where_user_and_password_go_and_shows_none() -> None:
    hint = (
        "write postgresql://user:password@host:5432/db, not as postgresql://ann:S3CR3T@host:5432/db"
    )
    told = str(FatalError(subject="dsn", cause="it is none", hint=hint))
    assert "postgresql://user:password@host:5432/db" in told
    assert "S3CR3T" not in told
    assert "ann" not in told
