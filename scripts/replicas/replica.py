"""What every replica shares: a source's number, ours and the control's side by side, printed and written as JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import binomtest

from mi_superposition.figures.style import styled
from mi_superposition.files import write_file, write_json
from mi_superposition.provenance import versions
from mi_superposition.sources import SOURCES

# "ours" is a number to which no claim of the source corresponds.
Verdict = Literal["confirmed", "not confirmed", "refuted", "cannot be tested here", "ours"]
Number = float | str | None

STRINGER, THAMAN, ARENA, PRAMODITH = SOURCES.values()

_BEGAN = time.perf_counter()


@dataclass(frozen=True)
class Row:
    """One claim or number of a source, and what became of it; ``why`` says what the verdict rests on."""

    claim: str
    source: Number
    ours: Number
    control: Number
    verdict: Verdict
    why: str = ""


class Heatmap(NamedTuple):
    """A picture of a matrix, its first row at the top."""

    title: str
    values: Sequence[Sequence[float]]
    across: str
    down: str


def report(
    name: str,
    source: str,
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    details: Mapping[str, Any],
    out: Path | None,
) -> None:
    """Print the rows as a table and, with ``out``, write them with everything else. NaN is refused."""
    print(f"\n{source}: {name}\n" + ", ".join(f"{key} {value}" for key, value in settings.items()) + "\n")
    lines = [("claim", "source", "ours", "control", "verdict")]
    lines += [(row.claim, shown(row.source), shown(row.ours), shown(row.control), row.verdict) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for number, line in enumerate(lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number and rows[number - 1].why:
            print(f"    {rows[number - 1].why}")
    if out is not None:
        record = {
            "replica": name,
            "source": source,
            "settings": dict(settings),
            "rows": [asdict(row) for row in rows],
            "details": dict(details),
            "seconds": round(time.perf_counter() - _BEGAN, 1),
            "versions": versions(),
        }
        write_json(out, record)


def shown(value: Number) -> str:
    """A number as the table shows it."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(values: Sequence[float]) -> str:
    """The mean of several seeds and their range."""
    return f"{sum(values) / len(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def percentile(value: float, others: Sequence[float]) -> float:
    """Percentage of the others that are smaller."""
    return 100 * sum(other < value for other in others) / len(others)


def share(hits: int, of: int) -> str:
    """A count with its exact 95 % interval, in per cent."""
    low, high = binomtest(hits, of).proportion_ci()
    return f"{hits} of {of} ({100 * low:.0f} to {100 * high:.0f} %)"


def draw(path: Path | None, heatmaps: Sequence[Heatmap], bars: Mapping[str, Sequence[float]] | None = None) -> None:
    """Write heat maps below each other, and bars below them, as one HTML file."""
    if path is None:
        return
    titles = [heatmap.title for heatmap in heatmaps] + list(bars or {})
    figure = make_subplots(rows=len(titles), cols=1, subplot_titles=titles)
    for row, heatmap in enumerate(heatmaps, start=1):
        figure.add_trace(go.Heatmap(z=heatmap.values, colorscale="Viridis", showscale=False), row, 1)
        figure.update_yaxes(autorange="reversed", title=heatmap.down, row=row, col=1)
        figure.update_xaxes(title=heatmap.across, row=row, col=1)
    for row, values in enumerate((bars or {}).values(), start=len(heatmaps) + 1):
        figure.add_trace(go.Bar(y=list(values), showlegend=False), row, 1)
    write_file(path, styled(figure, height=340 * len(titles)).to_html().encode())
