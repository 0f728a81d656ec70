"""On a GPU: the embedder against sentence-transformers, and how busy a whole run keeps the GPU.

    python -m benchmarks.gpu

It needs a CUDA device and ends with a message if there is none; `--device cpu --quick` only checks
that it runs.

- `short_…` and `long_over_sentence_transformers_bf16`: `TransformerEmbedder` against `encode` in
  bfloat16 with its best batch size of 32 … 1,024, on the same texts, tokenizing included. The lower of
  the two is `gpu_over_sentence_transformers_bf16`;
- `minilm_rows_per_s` and `base_rows_per_s`: texts per second of a table's rows through
  all-MiniLM-L6-v2, and through an encoder of 110 million parameters, which is BERT's base configuration
  with random weights: its vectors are meaningless, but take as long to compute;
- `gpu_busy_share`: the share of a whole run, from first record to last commit, in which the device ran
  a kernel or a copy, by PyTorch's profiler. The run and its check are those of `end_to_end`, with
  Milvus Lite. On a CPU, PyTorch's operations are counted instead.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, BertConfig, BertModel

from benchmarks import corpus
from benchmarks.contracts import MODEL, TOPIC
from benchmarks.end_to_end import Embedded, build_history, run_rowvec
from benchmarks.measuring import Rate, Rounds, clocks, parser, print_result, progress, take_turns
from benchmarks.over_kafka import fill
from flows.embedded.broker import Broker
from operators.contract.sections import EmbeddingSection
from operators.model.files import resolve_model
from operators.model.transformer import TransformerEmbedder

BATCH_SIZES = (32, 64, 128, 256, 512, 1_024)
CLOSE = 0.99
"""Lowest allowed cosine between the two in bfloat16; a different model would be far below."""


def against_sentence_transformers(
    texts: Sequence[str], device: str, rounds: int, batch_sizes: Sequence[int] = BATCH_SIZES
) -> Rounds:
    """Texts per second of the embedder, and of `encode` at the best batch size of each round."""
    embedder = TransformerEmbedder(EmbeddingSection(model=MODEL, device=device, dtype="bfloat16"))
    reference = SentenceTransformer(
        str(resolve_model(MODEL)), device=device, model_kwargs={"dtype": torch.bfloat16}
    )
    made: dict[str, Any] = {}

    def rowvec() -> Rate:
        began = clocks()
        made["rowvec"] = embedder.embed(texts)
        return Rate.of(len(texts), began, clocks())

    def encode(batch_size: int) -> Rate:
        began = clocks()
        made["reference"] = reference.encode(
            list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return Rate.of(len(texts), began, clocks())

    peers = {f"encode_{size}": partial(encode, size) for size in batch_sizes}
    contestants: dict[str, Callable[[], Rate]] = {"rowvec": rowvec, **peers}
    take_turns(1, contestants)  # Warm up: load kernels, allocate memory.
    turns = take_turns(rounds, contestants)
    alike = (made["rowvec"] * made["reference"].astype(np.float32)).sum(1).min()
    assert alike > CLOSE, f"the vectors have a cosine of {alike}: they cannot be compared"
    best = [
        max(rates, key=lambda rate: rate.wall)
        for rates in zip(*(turns.rates[name] for name in peers), strict=True)
    ]
    return Rounds({**turns.rates, "sentence_transformers_bf16": best})


def base_encoder(folder: Path, *, quick: bool) -> Path:
    """BERT's base configuration (if quick, a small one), random weights, and the tokenizer of MODEL."""
    small = BertConfig(num_hidden_layers=1, hidden_size=96, intermediate_size=96)
    encoder = BertModel(small if quick else BertConfig())
    encoder.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model(MODEL)).save_pretrained(folder)
    progress(f"random weights: {encoder.num_parameters():,} parameters")
    return folder


def rows_per_second(model: str, texts: Sequence[str], device: str, rounds: int) -> list[Rate]:
    """Texts per second of the embedder alone, after a warm-up."""
    embedder = TransformerEmbedder(EmbeddingSection(model=model, device=device))

    def run() -> Rate:
        began = clocks()
        embedder.embed(texts)
        return Rate.of(len(texts), began, clocks())

    run()
    return take_turns(rounds, {Path(model).name: run}).rates[Path(model).name]


def busy_share(device: str, rows: int, updates: int) -> tuple[float, Rate]:
    """The share of a whole run in which the device is busy, and the run's events per second."""
    on_gpu = device.startswith("cuda")
    history = build_history(corpus.of_rows(), rows, updates)
    profiler = profile(
        activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU],
        # On a CPU it would otherwise profile this thread only, and the model runs on another one.
        experimental_config=_ExperimentalConfig(profile_all_threads=not on_gpu),
    )
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            broker.create_topic(TOPIC, 1)
            fill(broker.bootstrap_servers, history.changes)
            rate = run_rowvec(broker.bootstrap_servers, history, Embedded(), device, profiler.start)
            profiler.stop()
        finally:
            broker.stop()
    events: Iterable[Any] = profiler.events() or ()  # type: ignore[no-untyped-call]
    seconds = covered(
        (event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type.name == ("CUDA" if on_gpu else "CPU")
    )
    return seconds * rate.wall / len(history.changes), rate


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The total length of the union of time spans."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda", help="cpu: only to see that it runs")
    given = options.parse_args()
    on_gpu = given.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        options.error("there is no CUDA device: nothing to measure")
    rounds = given.rounds or (1 if given.quick else 5)
    most = 8 if given.quick else None
    texts = corpus.docstrings()
    sets = {
        "short": [text for text in texts if len(text) <= corpus.SHORT_CHARACTERS][:most],
        "long": [text for text in texts if len(text) >= corpus.LONG_CHARACTERS][:most],
    }
    ratios: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    name = "over_sentence_transformers_bf16"
    for key, chosen in sets.items():
        progress(f"{key}: {len(chosen)} texts")
        sizes = BATCH_SIZES[:2] if given.quick else BATCH_SIZES
        turns = against_sentence_transformers(chosen, given.device, rounds, sizes)
        ratios |= turns.ratios(f"{key}_{name}", "rowvec", "sentence_transformers_bf16")
        rates |= {f"{key}_{rate}": v for rate, v in turns.per_second("texts").items()}
    both = zip(*(ratios[f"{key}_{name}"] for key in sets), strict=True)
    ratios[f"gpu_{name}"] = [min(pair) for pair in both]
    rows = corpus.of_rows()[:most]
    with tempfile.TemporaryDirectory() as folder:
        base = base_encoder(Path(folder) / "base", quick=given.quick)
        for key, model in (("minilm", MODEL), ("base", str(base))):
            measured = rows_per_second(model, rows, given.device, rounds)
            rates[f"{key}_rows_per_s"] = [rate.wall for rate in measured]
    runs = [
        busy_share(given.device, *((20, 40) if given.quick else (8_000, 32_000)))
        for _ in range(min(rounds, 2))
    ]
    ratios["gpu_busy_share"] = [share for share, _ in runs]
    rates["end_to_end_events_per_s"] = [rate.wall for _, rate in runs]
    print_result(
        "gpu",
        quick=given.quick,
        ratios=ratios,
        rates=rates,
        counts={
            "device": torch.cuda.get_device_name(given.device) if on_gpu else given.device,
            "short_texts": len(sets["short"]),
            "long_texts": len(sets["long"]),
            "row_texts": len(rows),
            "base_weights": "random",
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    main()
