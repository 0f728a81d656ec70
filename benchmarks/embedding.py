"""The model alone: how much of the machine's arithmetic becomes vectors.

    python -m benchmarks.embedding

`TransformerEmbedder` on all-MiniLM-L6-v2 and real docstrings, short ones and long ones by
themselves, tokenizing included; the model is loaded and warm. It leaves out the stream and the store.

By turns, in the same process, against

- `limit`: what the machine multiplies in the model's own matrix shapes and dtype, as tokens, by the
  faster of PyTorch's two libraries. The products of the model's layers and its attention are counted,
  so that nothing can be faster;
- `matmul`: the same by `torch.matmul`, which is all that a user of PyTorch gets unasked;
- `sentence_transformers`: its `encode` with batches of 8, 32 and 128, of which the best counts;
- the embedder itself in less than float32: `bfloat16` and `int8`. What they lose is told beside it
  (`loss`): how close the vectors stay, and which share of a text's ten nearest neighbours they find.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

from benchmarks import corpus
from benchmarks.contracts import MODEL
from benchmarks.measuring import Rate, Rounds, clocks, parser, print_result, progress, take_turns
from operators.contract.sections import EmbeddingSection
from operators.model.encoder import CORES
from operators.model.files import resolve_model
from operators.model.onednn import OneDnnLinear
from operators.model.transformer import TransformerEmbedder

BATCH_SIZES = (8, 32, 128)
NEAREST = 10
LOSS_TEXTS = 1_000
_LIMIT_SECONDS = 0.5


def flops(config: Any, lengths: list[int]) -> float:
    """Floating-point operations of the products that a BERT-like encoder cannot do without.

    Args:
        config: Of the model.
        lengths: Tokens of each text, without padding.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    attention = sum(2 * 2 * length * length * hidden for length in lengths)
    return float(config.num_hidden_layers * (sum(lengths) * per_token + attention))


def flops_per_second(config: Any, rows: int, *, onednn: bool) -> Callable[[], Rate]:
    """What a library multiplies, in the shapes of the model's largest layer, there and back."""
    hidden, inner = config.hidden_size, config.intermediate_size
    states, wide = torch.randn(rows, hidden), torch.empty(rows, inner)
    up, down = torch.nn.Linear(hidden, inner), torch.nn.Linear(inner, hidden)
    packed_up, packed_down = OneDnnLinear(up), OneDnnLinear(down)
    one = 2 * 2 * rows * hidden * inner

    def run() -> Rate:
        done, started = 0, clocks()
        with torch.inference_mode():
            while time.perf_counter() < started[0] + _LIMIT_SECONDS:
                if onednn:
                    packed_down(packed_up(states))
                else:
                    torch.matmul(states, up.weight.T, out=wide)
                    torch.matmul(wide, down.weight.T)
                done += one
        return Rate.of(done, started, clocks())

    return run


def measure(
    texts: list[str],
    embedders: Mapping[str, TransformerEmbedder],
    reference: SentenceTransformer,
    rounds: int,
    config: Any,
) -> tuple[Rounds, dict[str, float | int]]:
    """Rates in tokens per second, and what the set was.

    Args:
        texts: The set.
        embedders: `rowvec` in float32, the others by their dtype.
        reference: Of sentence-transformers.
        rounds: How often each runs.
        config: Of the model.
    """
    embedder = embedders["rowvec"]
    lengths = [min(n, embedder.max_length) for n in embedder.count_tokens(texts)]
    tokens = sum(lengths)
    share = tokens / flops(config, lengths)
    made: dict[str, Any] = {}

    def products(*, onednn: bool) -> Callable[[], Rate]:
        multiply = flops_per_second(config, embedder.max_batch_tokens, onednn=onednn)

        def run() -> Rate:
            torch.set_num_threads(CORES)
            rate = multiply()
            return Rate(rate.wall * share, rate.cpu * share)

        return run

    def embed(name: str) -> Rate:
        started = clocks()
        made[name] = embedders[name].embed(texts)
        return Rate.of(tokens, started, clocks())

    def encode(batch_size: int) -> Rate:
        torch.set_num_threads(CORES)  # the embedder's threads have said that there is but one
        started = clocks()
        made["reference"] = reference.encode(
            texts, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return Rate.of(tokens, started, clocks())

    for each in embedders.values():
        each.embed(texts[:64])
    reference.encode(texts[:64], show_progress_bar=False)
    before = embedder.tokens_total, embedder.padded_tokens_total
    turns = take_turns(
        rounds,
        {
            "matmul": products(onednn=False),
            "onednn": products(onednn=True),
            **{name: partial(embed, name) for name in embedders},
            **{f"encode_{size}": partial(encode, size) for size in BATCH_SIZES},
        },
    )
    apart = float(np.abs(made["rowvec"] - made["reference"]).max())
    assert apart < 1e-4, f"the vectors differ by {apart}: they cannot be compared"
    padded = embedder.padded_tokens_total - before[1]
    best = {
        "limit": _best(turns, ["matmul", "onednn"]),
        "sentence_transformers": _best(turns, [f"encode_{size}" for size in BATCH_SIZES]),
    }
    return Rounds({**turns.rates, **best}), {
        "texts": len(texts),
        "tokens": tokens,
        "tokens_per_text": round(tokens / len(texts), 1),
        "padding": round(padded / (embedder.tokens_total - before[0]) - 1, 4),
        "largest_difference": float(f"{apart:.2g}"),
    }


def _best(turns: Rounds, names: list[str]) -> list[Rate]:
    """The fastest of several contestants, round by round."""
    return [
        max(rates, key=lambda rate: rate.wall)
        for rates in zip(*(turns.rates[name] for name in names), strict=True)
    ]


def loss(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> dict[str, float]:
    """What unit vectors lose against exact ones of the same texts.

    Returns:
        The lowest and the mean cosine of a text's two vectors, and `recall_at_10`: the share of its
        ten nearest neighbours by the exact vectors that are among its ten nearest by the others.
    """
    cosines = (exact * other).sum(1)
    found = [
        len(np.intersect1d(*both)) / NEAREST
        for both in zip(_neighbours(exact), _neighbours(other), strict=True)
    ]
    return {
        "lowest_cosine": round(float(cosines.min()), 5),
        "mean_cosine": round(float(cosines.mean()), 6),
        "recall_at_10": round(float(np.mean(found)), 4),
    }


def _neighbours(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return np.argpartition(near, -NEAREST, axis=1)[:, -NEAREST:]


def main() -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args()
    rounds = given.rounds or (1 if given.quick else 5)
    texts = corpus.docstrings()
    sets = {
        "short": corpus.short(texts, 64 if given.quick else 600),
        "long": corpus.long(texts, 16 if given.quick else 80),
    }
    dtypes = {"rowvec": "float32", "bfloat16": "bfloat16", "int8": "int8"}
    embedders = {
        name: TransformerEmbedder(
            EmbeddingSection.model_validate({"model": MODEL, "device": "cpu", "dtype": dtype})
        )
        for name, dtype in dtypes.items()
    }
    reference = SentenceTransformer(str(resolve_model(MODEL)), device="cpu")
    config = AutoConfig.from_pretrained(resolve_model(MODEL))
    ratios: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    counts: dict[str, Any] = {"rounds": rounds, "threads": CORES}
    for name, chosen in sets.items():
        progress(f"{name}: {len(chosen)} texts")
        turns, counts[name] = measure(chosen, embedders, reference, rounds, config)
        for other in ("limit", "matmul", "sentence_transformers"):
            ratios |= turns.ratios(f"{name}_over_{other}", "rowvec", other)
        for dtype in ("bfloat16", "int8"):
            ratios |= turns.ratios(f"{name}_{dtype}_over_float32", dtype, "rowvec")
        rates |= {f"{name}_{key}": v for key, v in turns.per_second("tokens").items()}
    sample = texts[: 64 if given.quick else LOSS_TEXTS]
    progress(f"loss: {len(sample)} texts")
    vectors = {name: embedder.embed(sample) for name, embedder in embedders.items()}
    counts["loss"] = {"texts": len(sample)} | {
        dtype: loss(vectors["rowvec"], vectors[dtype]) for dtype in ("bfloat16", "int8")
    }
    print_result("embedding", quick=given.quick, ratios=ratios, rates=rates, counts=counts)


if __name__ == "__main__":
    main()
