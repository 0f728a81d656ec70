"""The model alone: the embedder's speed as a share of what the machine can multiply.

    python -m benchmarks.embedding

It measures `TransformerEmbedder` with all-MiniLM-L6-v2 on real docstrings, separately for short and
long ones. Tokenizing is included; loading and warming up the model, the stream and the store are not.

In the same process, taking turns, it is compared with

- `limit`: the tokens per second that the machine could multiply in the matrix shapes and dtype of the
  model, with the faster of PyTorch's two libraries. It counts only the matrix products of the model's
  layers and attention, so it is an upper bound;
- `matmul`: the same with `torch.matmul`, which PyTorch uses by default;
- `sentence_transformers`: its `encode` with batches of 8, 32 and 128; the fastest counts;
- the embedder itself in `bfloat16` and `int8`. The result also has their `loss` against float32: the
  cosine of the vectors, and the share of a text's ten nearest neighbours that they still find.
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
    """Floating-point operations of the matrix products that a BERT-like encoder needs at least.

    Args:
        config: Configuration of the model.
        lengths: Tokens of each text, without padding.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * inner)
    attention = sum(2 * 2 * length * length * hidden for length in lengths)
    return float(config.num_hidden_layers * (sum(lengths) * per_token + attention))


def flops_per_second(config: Any, rows: int, *, onednn: bool) -> Callable[[], Rate]:
    """A contestant: operations per second of a library in the shapes of the model's largest layer."""
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
    """Rates in tokens per second, and figures about the texts.

    Args:
        texts: The texts to embed.
        embedders: `rowvec` in float32, the others by the name of their dtype.
        reference: The model in sentence-transformers.
        rounds: How many times each contestant runs.
        config: Configuration of the model.
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
        torch.set_num_threads(CORES)  # The embedder's threads have set it to 1.
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
    """The rate of the fastest contestant in each round."""
    return [
        max(rates, key=lambda rate: rate.wall)
        for rates in zip(*(turns.rates[name] for name in names), strict=True)
    ]


def loss(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> dict[str, float]:
    """How far unit vectors differ from the exact ones of the same texts.

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
