"""The model alone: how much of the machine's arithmetic becomes vectors.

    python -m benchmarks.embedding

`TransformerEmbedder` on all-MiniLM-L6-v2 and real docstrings, short ones and long ones by
themselves, tokenizing included; the model is loaded and warm. It leaves out the stream and the store.

By turns, in the same process, against

- `limit`: what the machine multiplies in the model's own matrix shapes and dtype, as tokens. The
  products of the model's layers and its attention are counted, so that nothing can be faster;
- `sentence_transformers`: its `encode` with batches of 8, 32 and 128, of which the best counts.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

from benchmarks import corpus
from benchmarks.contracts import MODEL
from benchmarks.measuring import Rate, Rounds, clocks, parser, print_result, progress, take_turns
from operators.contract import EmbeddingSection
from operators.model_files import resolve_model
from operators.transformer import TransformerEmbedder

BATCH_SIZES = (8, 32, 128)
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


def flops_per_second(config: Any, rows: int) -> Callable[[], Rate]:
    """What the machine multiplies, in the shapes of the model's largest layer, there and back."""
    hidden, inner = config.hidden_size, config.intermediate_size
    states, up = torch.randn(rows, hidden), torch.randn(hidden, inner)
    wide, down = torch.empty(rows, inner), torch.randn(inner, hidden)
    one = 2 * 2 * rows * hidden * inner

    def run() -> Rate:
        done, started = 0, clocks()
        with torch.inference_mode():
            while time.perf_counter() < started[0] + _LIMIT_SECONDS:
                torch.matmul(states, up, out=wide)
                torch.matmul(wide, down, out=states)
                states.mul_(1e-3)  # or it would grow beyond what can be multiplied
                done += one
        return Rate.of(done, started, clocks())

    return run


def measure(
    texts: list[str],
    embedder: TransformerEmbedder,
    reference: SentenceTransformer,
    rounds: int,
    config: Any,
) -> tuple[Rounds, dict[str, float | int]]:
    """Rates in tokens per second, and what the set was."""
    lengths = [min(n, embedder.max_length) for n in embedder.count_tokens(texts)]
    tokens = sum(lengths)
    share = tokens / flops(config, lengths)
    products = flops_per_second(config, embedder.max_batch_tokens)
    made: dict[str, Any] = {}

    def limit() -> Rate:
        rate = products()
        return Rate(rate.wall * share, rate.cpu * share)

    def rowvec() -> Rate:
        started = clocks()
        made["rowvec"] = embedder.embed(texts)
        return Rate.of(tokens, started, clocks())

    def encode(batch_size: int) -> Rate:
        started = clocks()
        made["reference"] = reference.encode(
            texts, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return Rate.of(tokens, started, clocks())

    embedder.embed(texts[:64])
    reference.encode(texts[:64], show_progress_bar=False)
    before = embedder.tokens_total, embedder.padded_tokens_total
    turns = take_turns(
        rounds,
        {
            "limit": limit,
            "rowvec": rowvec,
            **{f"encode_{size}": partial(encode, size) for size in BATCH_SIZES},
        },
    )
    apart = float(np.abs(made["rowvec"] - made["reference"]).max())
    assert apart < 1e-4, f"the vectors differ by {apart}: they cannot be compared"
    padded = embedder.padded_tokens_total - before[1]
    best = [
        max(both, key=lambda rate: rate.wall)
        for both in zip(*(turns.rates[f"encode_{size}"] for size in BATCH_SIZES), strict=True)
    ]
    return Rounds({**turns.rates, "sentence_transformers": best}), {
        "texts": len(texts),
        "tokens": tokens,
        "tokens_per_text": round(tokens / len(texts), 1),
        "padding": round(padded / (embedder.tokens_total - before[0]) - 1, 4),
        "largest_difference": float(f"{apart:.2g}"),
    }


def main() -> None:
    """Measure and print."""
    given = parser(__doc__).parse_args()
    rounds = given.rounds or (1 if given.quick else 5)
    texts = corpus.docstrings()
    sets = {
        "short": corpus.short(texts, 64 if given.quick else 600),
        "long": corpus.long(texts, 16 if given.quick else 80),
    }
    embedder = TransformerEmbedder(EmbeddingSection(model=MODEL, device="cpu"))
    reference = SentenceTransformer(str(resolve_model(MODEL)), device="cpu")
    config = AutoConfig.from_pretrained(resolve_model(MODEL))
    ratios: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    counts: dict[str, Any] = {"rounds": rounds, "threads": torch.get_num_threads()}
    for name, chosen in sets.items():
        progress(f"{name}: {len(chosen)} texts")
        turns, counts[name] = measure(chosen, embedder, reference, rounds, config)
        ratios |= turns.ratios(f"{name}_over_limit", "rowvec", "limit")
        ratios |= turns.ratios(
            f"{name}_over_sentence_transformers", "rowvec", "sentence_transformers"
        )
        rates |= {f"{name}_{key}": v for key, v in turns.per_second("tokens").items()}
    print_result("embedding", quick=given.quick, ratios=ratios, rates=rates, counts=counts)


if __name__ == "__main__":
    main()
