"""Writes the table and the plots of README.md from the results in results/.

    python -m benchmarks.report            # write them
    python -m benchmarks.report --check    # check that the table matches the results

It measures nothing. The targets are defined only here. Figures that miss their target, and figures
that were not measured, are shown as plainly as the others. A target is compared with the median of the
rounds, by wall time. The same results give the same files, byte for byte.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BENCHMARKS = ("path", "embedding", "end_to_end", "state", "freshness", "scaling", "gpu")
"""All benchmarks, in the order in which they run and are reported."""

FOLDER = Path(__file__).resolve().parent
BEGIN = "<!-- results: written by python -m benchmarks.report -->"
END = "<!-- end of results -->"
_NOT_MEASURED, _NO_GPU = "not measured", "not measured here: needs a GPU"
_END_TO_END_RATE = "_events_per_s"


class Direction(StrEnum):
    """The side of a target on which a figure is good."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


class Target(NamedTuple):
    """The value that a figure must reach; `needs_gpu` if it can be measured only with a GPU."""

    direction: Direction
    value: float
    needs_gpu: bool = False

    def reached(self, value: float) -> bool:
        """Whether a figure reaches the target."""
        return value >= self.value if self.direction is Direction.AT_LEAST else value <= self.value

    def times_as_good(self, value: float) -> float:
        """A figure as a multiple of the target: above 1 is better than the target."""
        return value / self.value if self.direction is Direction.AT_LEAST else self.value / value

    def __str__(self) -> str:
        return f"{self.direction} {self.value:g}"


def _at_least(value: float) -> Target:
    return Target(Direction.AT_LEAST, value)


def _at_most(value: float) -> Target:
    return Target(Direction.AT_MOST, value)


def _on_a_gpu(value: float) -> Target:
    return Target(Direction.AT_LEAST, value, needs_gpu=True)


TARGETS: Mapping[str, Mapping[str, Target]] = {
    "path": {
        "kafka_path_over_ceiling_uniform": _at_least(0.60),
        "path_over_idiomatic_uniform": _at_least(2.0),
    },
    "embedding": {
        "short_over_limit": _at_least(0.80),
        "long_over_limit": _at_least(0.80),
        "short_over_sentence_transformers": _at_least(1.5),
        "long_over_sentence_transformers": _at_least(1.2),
    },
    "end_to_end": {
        "end_to_end_over_embedder": _at_least(0.95),
        "end_to_end_over_embedder_one_core": _at_least(0.95),
        "end_to_end_over_loop": _at_least(5.0),
    },
    "state": {
        "bytes_per_key_1m": _at_most(150),
        "bytes_per_key_5m": _at_most(150),
        "resume_1m_s": _at_most(2.0),
        "share_lost_busy_1m": _at_most(0.05),
        "share_lost_busy_5m": _at_most(0.05),
    },
    "freshness": {
        "acknowledged_p99_over_window_and_batch": _at_most(3.0),
        "visible_p99_over_window_and_batch": _at_most(3.0),
    },
    "scaling": {"kafka_two_over_one": _at_least(1.7)},
    "gpu": {
        "gpu_over_sentence_transformers_bf16": _on_a_gpu(2.0),
        "gpu_busy_share": _on_a_gpu(0.85),
    },
}
"""Benchmark → figure → its target.

The targets of `path` are for uniformly drawn changes of the large table, over a real broker and in
memory. The other workloads are easier for one side: by Zipf's law windows save more work, and with few
rows one state per row costs less.
"""


class Figure(NamedTuple):
    """One row of the table; the median is None if the figure was not measured."""

    benchmark: str
    name: str
    target: Target | None
    median: float | None = None
    lowest: float = 0.0
    highest: float = 0.0
    by_cpu: float | None = None

    @property
    def unmeasured(self) -> str:
        """The reason why the figure was not measured, as far as its target says."""
        needs_gpu = self.target is not None and self.target.needs_gpu
        return _NO_GPU if needs_gpu else _NOT_MEASURED

    @property
    def verdict(self) -> str:
        """The last cell of the row; good and bad verdicts are equally bold."""
        if self.median is None:
            return f"**{self.unmeasured}**"
        if self.target is None:
            return "–"
        return "**reached**" if self.target.reached(self.median) else "**NOT REACHED**"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The existing results by benchmark, in the order of `BENCHMARKS`.

    Raises:
        SystemExit: A result is of a quick run, whose figures mean nothing.
    """
    found = {}
    for name in BENCHMARKS:
        path = folder / f"{name}.json"
        if path.exists():
            found[name] = orjson.loads(path.read_bytes())
            if found[name]["quick"]:
                raise SystemExit(f"{path.name} is of a quick run: its figures mean nothing")
    return found


def figures(results: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """For each benchmark, first the figures with a target, then all others."""
    return [each for name in BENCHMARKS for each in _figures_of(name, results.get(name))]


def _figures_of(benchmark: str, result: Mapping[str, Any] | None) -> Iterator[Figure]:
    targets = TARGETS.get(benchmark, {})
    ranges = result["ranges"] if result else {}
    others = [name for name in ranges if name not in targets and not _is_cpu(name, ranges)]
    for name in [*targets, *others]:
        target = targets.get(name)
        if result is None or name not in ranges:
            yield Figure(benchmark, name, target)
            continue
        lowest, highest = ranges[name]
        by_cpu = result.get(f"{name}_cpu")
        yield Figure(benchmark, name, target, result[name], lowest, highest, by_cpu)


def _is_cpu(name: str, names: Iterable[str]) -> bool:
    return name.endswith("_cpu") and name.removesuffix("_cpu") in names


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown between the markers."""
    every = figures(results)
    held = [each for each in every if each.target is not None]
    lines = [
        f"{sum('NOT' not in each.verdict and each.median is not None for each in held)} of "
        f"{len(held)} targets are reached.",
        *_named("Not reached", held, "**NOT REACHED**"),
        *_named("Not measured", held, f"**{_NOT_MEASURED}**"),
        *_named("Not measured for want of a GPU", held, f"**{_NO_GPU}**"),
        "",
        "| benchmark | ratio | median | lowest – highest | by CPU time | target | |",
        "|---|---|---|---|---|---|---|",
        *map(_row, every),
        "",
        *(f"- `{name}`: {_machine(result['machine'])}" for name, result in results.items()),
    ]
    return "\n".join(lines)


def _named(what: str, held: Sequence[Figure], verdict: str) -> list[str]:
    names = [f"`{figure.name}`" for figure in held if figure.verdict == verdict]
    return [f"{what}: {', '.join(names)}."] if names else []


def _row(figure: Figure) -> str:
    measured = figure.median is not None
    cells = [
        figure.benchmark,
        f"`{figure.name}`",
        _number(figure.median),
        f"{_number(figure.lowest)} – {_number(figure.highest)}" if measured else "–",
        _number(figure.by_cpu),
        str(figure.target) if figure.target else "–",
        figure.verdict,
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    """A number with three significant digits and no exponent."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{float(f'{value:.3g}'):g}"


def _machine(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cores']} cores ({machine['machine']}), load {machine['load']} at the end, "
        f"Python {machine['python']}, {packages}"
    )


def replaced(readme: str, body: str) -> str:
    """README with `body` between its markers.

    Raises:
        SystemExit: README does not have each marker once, in this order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise SystemExit(f"README.md needs the lines {BEGIN} and {END}, once each")
    return f"{before}{begin}\n{body}\n{end}{after}"


def write(folder: Path = FOLDER) -> None:
    """Write README's table and both plots from the results in `folder`/results."""
    results = read_results(folder / "results")
    readme = folder / "README.md"
    readme.write_text(
        replaced(readme.read_text(encoding="utf-8"), table(results)), encoding="utf-8"
    )
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    draw_targets(figures(results), plots / "targets.svg")
    if "end_to_end" in results:
        draw_end_to_end(results["end_to_end"], plots / "end_to_end.svg")


def is_current(folder: Path = FOLDER) -> bool:
    """Whether README's table matches the results."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    return replaced(readme, table(read_results(folder / "results"))) == readme


_REACHED, _MISSED, _OTHER = "#2b6cb0", "#c05621", "#a0aec0"
_WIDTH_INCHES = 9.0


def draw_targets(every: Sequence[Figure], path: Path) -> None:
    """Plot each figure with a target as a multiple of it; unmeasured figures are empty rows."""
    held = [(each, each.target) for each in every if each.target is not None]
    with _drawing(path, len(held)) as axes:
        axes.set_xscale("log")
        for place, (figure, target) in enumerate(held):
            if figure.median is None:
                axes.text(1.03, place, figure.unmeasured, va="center", color="gray")
                continue
            good = target.times_as_good(figure.median)
            ends = [target.times_as_good(end) for end in (figure.lowest, figure.highest)]
            reached = target.reached(figure.median)
            axes.barh(
                place,
                good - 1,
                left=1,
                color=_REACHED if reached else _MISSED,
                hatch=None if reached else "///",
                edgecolor="white",
            )
            _whiskers(axes, place, good, ends)
        axes.axvline(1, color="black", linewidth=1.2)
        axes.set_yticks(range(len(held)), [_label(figure, target) for figure, target in held])
        axes.set_xlabel("times as good as the target, on a log scale; hatched: not reached")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.4), max(high, 2.5))
        ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
        axes.set_xticks(
            [tick for tick in ticks if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        )


def _whiskers(axes: "Axes", place: int, middle: float, ends: Sequence[float]) -> None:
    """Draw the range from the worst round to the best."""
    spread = [[max(0.0, middle - min(ends))], [max(0.0, max(ends) - middle)]]
    axes.errorbar(middle, place, xerr=spread, color="black", capsize=3, linewidth=1.2)


def _label(figure: Figure, target: Target) -> str:
    return f"{figure.name}\n{_number(figure.median)}  (target {target})"


def draw_end_to_end(result: Mapping[str, Any], path: Path) -> None:
    """Plot the events per second of each contestant, the fastest on top."""
    rates: dict[str, list[float]] = {
        name.removesuffix(_END_TO_END_RATE): values
        for name, values in result["rates"].items()
        if name.endswith(_END_TO_END_RATE)
    }
    ordered = sorted(rates.items(), key=lambda item: -median(item[1]))
    with _drawing(path, len(ordered)) as axes:
        for place, (name, values) in enumerate(ordered):
            middle = median(values)
            axes.barh(place, middle, color=_REACHED if name == "end_to_end" else _OTHER)
            _whiskers(axes, place, middle, values)
            axes.text(max(values), place, f"  {_number(middle)}", va="center")
        names = {
            "end_to_end": "Rowvec",
            "end_to_end_one_core": "Rowvec, model on one core",
            "embedder_final": "embedder alone, last texts",
        }
        axes.set_yticks(range(len(ordered)), [names.get(name, name) for name, _ in ordered])
        axes.set_xlabel("events per second; whiskers: all rounds")
        axes.margins(x=0.12)
        axes.set_xlim(left=0)


@contextmanager
def _drawing(path: Path, bars: int) -> Iterator["Axes"]:
    """A chart of `bars` horizontal bars, the first one on top; saved as SVG at the end.

    It has no date and a fixed salt, so that the same figures give the same file. Text is stored as
    text, so that the file does not depend on the fonts of this machine.
    """
    import matplotlib
    from matplotlib.figure import Figure as Chart

    with matplotlib.rc_context({"svg.hashsalt": "rowvec", "svg.fonttype": "none", "font.size": 9}):
        chart = Chart(figsize=(_WIDTH_INCHES, 0.9 + 0.42 * bars), layout="constrained")
        axes = chart.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        yield axes
        axes.set_ylim(bars - 0.4, -0.6)
        chart.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Write or check the table and the plots."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    if not options.parse_args().check:
        write()
    elif not is_current():
        sys.exit("benchmarks/README.md is out of date: run python -m benchmarks.report")


if __name__ == "__main__":
    main()
