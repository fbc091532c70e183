"""What the README shows: its picture, its tables of results and of speeds, all from measurements, and its table of entry points.

    python scripts/readme.py            # builds the report in a folder of its own first: about three minutes on two cores
    python scripts/readme.py --tables   # the tables alone, from docs/findings.json and benchmarks/results.json

What the report found goes to docs/findings.json, the picture to docs/overview.png, what could have refuted the headlines to
docs/headlines.md. A test holds the README to both JSON files, docs/headlines.md to the first, and the report to the first.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from mi_superposition import load_model
from mi_superposition.figures.style import BLUE, GREY
from mi_superposition.files import read_json, write_file, write_json
from mi_superposition.heads import digit_circularity, project_heads
from mi_superposition.models import untrained_copy
from mi_superposition.neurons import control_vectors, neuron_vectors, order_neurons
from mi_superposition.pages.real.chapter import CHAPTER as REAL_CHAPTER
from mi_superposition.pages.real.chapter import beside_bundled
from mi_superposition.progress import Progress
from mi_superposition.provenance import versions
from mi_superposition.real import load_real
from mi_superposition.report.config import ReportConfig
from mi_superposition.report.write import RUNS, write_report
from mi_superposition.runs import MANIFEST, METRICS
from mi_superposition.sae.catalogue import BUNDLED_SAES, REAL_EVALUATION_FOLDER
from mi_superposition.studies.concepts.measure import BUNDLED as CONCEPTS
from mi_superposition.studies.concepts.measure import load as load_concepts
from mi_superposition.studies.neurons.contexts import load as load_contexts
from mi_superposition.studies.sae.rows import (
    AUTOENCODER,
    PCA,
    PROJECTED,
    PURSUED_ACTIVATIONS,
    PURSUED_RANDOM,
    SHUFFLED,
)
from mi_superposition.studies.spectra.measure import BUNDLED as SPECTRA
from mi_superposition.subjects import GENERAL, subjects
from mi_superposition.toy import bundled_study, load_toy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from run import between_marks  # noqa: E402

README, FINDINGS, SPEEDS = ROOT / "README.md", ROOT / "docs" / "findings.json", ROOT / "benchmarks" / "results.json"
PICTURE, HEADLINES = ROOT / "docs" / "overview.png", ROOT / "docs" / "headlines.md"
_INK = "#24292f"


def main() -> None:
    """Measure, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing: write the tables from what was measured"
    )
    options = parser.parse_args()
    if not options.tables:
        with tempfile.TemporaryDirectory() as folder:
            site = Path(folder) / "site"
            write_json(FINDINGS, findings(site))
            draw_picture(PICTURE, site / RUNS)
    text = readme(README.read_text(), read_json(FINDINGS), read_json(SPEEDS))
    write_file(README, text.encode())
    write_file(HEADLINES, headlines_page(read_json(FINDINGS)).encode())


class _Bar(Progress):
    """Where the report is, on a bar."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def advance(self, by: int = 1, state: str = "") -> None:
        """Move it."""
        self.bar.set_postfix_str(state, refresh=False)
        self.bar.update(by)


def findings(site: Path) -> dict[str, Any]:
    """What a report built anew at ``site`` says of each section, and how long it took."""
    with tqdm(unit="stage") as bar:
        began = time.perf_counter()
        write_report(ReportConfig(out=site), _Bar(bar))
        seconds = time.perf_counter() - began
        sections = read_json(site / MANIFEST)["sections"]
    return {
        "versions": versions(),
        "cores": os.cpu_count(),
        "report_seconds": round(seconds),
        "sections": {name: section["card"] for name, section in sections.items()},
    }


def readme(text: str, found: dict[str, Any], speeds: dict[str, Any]) -> str:
    """The README with its tables in their places."""
    tables = {"findings": findings_table(found), "entry points": entry_points_table(), "speeds": speeds_table(speeds)}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: made by scripts/readme.py -->\n", f"<!-- end of {name} -->\n"
        text = between_marks(text, begin, end, table)
    return text


def findings_table(found: dict[str, Any]) -> str:
    """A row a section: what was reported, what was found in the models made here and by chance, and in a real one."""
    real = load_real()
    in_real = beside_bundled(real)
    rows = [
        f"| {card['title']} | {card['reported']} | **{card['number']}**: {card['number_is']} | {card['control']} | {in_real.get(name, '–')} | {card['claim']} |"
        for name, card in found["sections"].items()
        # Its row is the column.
        if name != REAL_CHAPTER
    ]
    told = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    minutes, seconds = divmod(found["report_seconds"], 60)
    return "\n".join(
        [
            f"| | reported | in a small model made here | control | in one made by others ({real.name}) | conclusion |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Measured by `python scripts/readme.py`; the report it builds took {minutes} min {seconds} s on {found['cores']} cores ({told}).",
            "",
        ]
    )


def headlines_page(found: dict[str, Any]) -> str:
    """A page of docs: each headline with its claim, its control and the alternatives that could have refuted it."""
    parts = [
        "# Headlines, and what could have refuted them",
        "",
        "Each section of the report has one number. Its claim is a sentence that follows from the number and its controls: it is another one if the",
        "number is on the other side of any control (`tests/test_headlines.py`). Below each stand the choices that a critical reader might make",
        "otherwise, with what came out. The numbers are those of the pages named, and a test holds them to these. The numbers that matter most",
        "are computed once more by other means in `tests/second_opinion`.",
        "",
        "`python scripts/readme.py` writes this page from what the report says; the report has the same tables.",
        "",
    ]
    for card in found["sections"].values():
        parts += [f"## {card['title']}", "", f"**{card['number']}**: {card['number_is']}.", ""]
        parts += [f"Control: {card['control']}.", "", f"Claim: {card['claim']}", ""]
        parts += ["| tried | found | how | where |", "| --- | --- | --- | --- |"]
        parts += [
            f"| {one['tried']} | {one['found']} | `{one['command']}` | [{one['page']}]({one['page']}) |"
            for one in card["alternatives"]
        ]
        parts.append("")
    return "\n".join(parts)


def entry_points_table() -> str:
    """A row per subject: the question, the commands, and what does it from Python."""
    rows = [
        ("All studies as one site, and any run again as a page", [tool.command for tool in GENERAL], ("ms.write_page",))
    ]
    rows += [
        (subject.question, [one.command for one in (*subject.studies, *subject.tools)], subject.python)
        for subject in subjects()
        if subject.studies
    ]
    return "\n".join(
        [
            "| question | command | from Python |",
            "|---|---|---|",
            *(
                f"| {question} | {', '.join(f'`{name}`' for name in names)} | {', '.join(f'`{name}`' for name in python)} |"
                for question, names, python in rows
            ),
            "",
        ]
    )


def speeds_table(speeds: dict[str, Any]) -> str:
    """A row a benchmark's row."""
    rows = [
        f"| {row['task']} | {row['usual_way']} | {_ratio(row['usual'] / row['ours'])} | {_ratio(row['ours'] / row['lower_bound'])} × {row['lower_bound_is']} | {row['remark']} |"
        for benchmark in speeds.values()
        for row in benchmark["rows"]
    ]
    return "\n".join(
        [
            "| task | baseline | speed-up | time / lower bound | remark |",
            "|---|---|---:|---|---|",
            *rows,
            "",
        ]
    )


def _ratio(value: float) -> str:
    """To two digits, or to a whole number."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def draw_picture(path: Path, runs: Path) -> None:
    """One panel per subject: the result in blue, its control in grey. ``runs`` are those of a report."""
    panels: dict[str, Callable[[Axes], None]] = {
        "5 sparse features in 2 dimensions;\nwithout ReLU only 2": _toy,
        "10 digits in a 2-d head\nthat adds; untrained": _heads,
        "neighbouring neurons, most similar\nstretch; random matrix, ordered too": _order,
        "contexts of a neuron\n(among its 20 top examples)": partial(_contexts, runs=runs),
        "variance of real stories explained\nby 32 active features": _autoencoders,
        "effective rank / dimension\n(w: weights, a: activations)": _ranks,
        "concept probe accuracy, held-out\nwords, layer by layer": _concepts,
    }
    plt.rcParams |= {"font.family": "DejaVu Sans", "font.size": 10, "text.color": _INK, "axes.edgecolor": GREY}
    figure, grid = plt.subplots(2, 4, figsize=(12, 6.4), dpi=110, layout="constrained", facecolor="white")
    *axes, last = grid.flat
    for axis, (title, draw) in zip(axes, tqdm(panels.items(), unit="panel"), strict=True):
        draw(axis)
        axis.set_title(title, fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_INK, labelsize=9)
    last.axis("off")
    last.text(0, 0.62, "measured", color=BLUE, fontsize=17, fontweight="bold")
    last.text(0, 0.48, "and its control", color=GREY, fontsize=17, fontweight="bold")
    last.text(0, 0.30, "Every panel, and a page behind\neach: mi-superposition report", fontsize=10, va="top")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    plt.close(figure)
    write_file(path, content.getvalue())


def _toy(axis: Axes) -> None:
    for name, colour, width in (("linear", GREY, 4), ("relu", BLUE, 2)):
        models = load_toy(bundled_study("directions") / "runs" / name)
        for x, y in models.W_in[models.config.probability.index(0.1)].T.tolist():
            axis.annotate(
                "", (x, y), (0, 0), arrowprops=dict(arrowstyle="-|>", color=colour, lw=width, shrinkA=0, shrinkB=0)
            )
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)


def _heads(axis: Axes) -> None:
    """The value points of the head and position where the digits lie most on a circle; the same head untrained."""
    model = load_model("addition", device="cpu")
    trained = project_heads(model, tokens=range(10))
    untrained = project_heads(untrained_copy(model, seed=0), tokens=range(10))
    best = digit_circularity(trained)["V"]
    head = int((best.share * best.roundness).argmax())
    # Neighbours at that frequency, joined.
    ring = sorted(range(10), key=lambda digit: int(best.frequency[head]) * digit % 10)
    for projections, colour in ((untrained, GREY), (trained, BLUE)):
        points = projections.value[head, 0] - projections.value[head, 0].mean(dim=0)
        points = points / points.norm(dim=1).max()
        axis.plot(*points[[*ring, ring[0]]].T, color=colour, lw=0.8, alpha=0.4)
        for digit, (x, y) in enumerate(points.tolist()):
            axis.text(x, y, str(digit), color=colour, ha="center", va="center", fontweight="bold")
    axis.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)


def _order(axis: Axes) -> None:
    """The tightest stretch of neurons, and those of a random matrix of the same spectrum."""
    vectors = neuron_vectors(load_model("stories", device="cpu"), 1, "out")
    control = next(iter(control_vectors(vectors, "spectrum", 1, seed=0)))
    shown, n = [], 24
    for one in (vectors, control):
        similarity = one.similarity()
        order = order_neurons(similarity, seconds=0.5).order
        ordered = similarity[order][:, order].square()
        neighbours = ordered.diagonal(1).unfold(0, n - 1, 1).mean(dim=1)
        start = int(neighbours.argmax())
        shown.append(ordered[start : start + n, start : start + n].fill_diagonal_(1))
    gap = torch.full((1, n), torch.nan)
    axis.imshow(torch.cat([shown[0], gap, shown[1]]), cmap="Blues", vmin=0, vmax=0.5, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[["left", "bottom"]].set_visible(False)


def _contexts(axis: Axes, runs: Path) -> None:
    """Those of the last layer's neurons in the report's run, and of its controls."""
    result = load_contexts(runs / "neuroscope-contexts")
    found = result.hooks[result.main]
    assert found.untrained is not None
    edges = torch.linspace(1, 20, 39).tolist()
    axis.hist(found.permuted, edges, color=GREY, alpha=0.35, label="permuted")
    axis.hist(found.untrained, edges, color=GREY, alpha=0.8, label="untrained")
    # As many directions as neurons would give, of every kind.
    for number, some in enumerate(found.directions.values()):
        axis.hist(
            some,
            edges,
            weights=[len(found.contexts) / len(some)] * len(some),
            color=_INK,
            histtype="step",
            lw=0.7,
            label=None if number else "random directions",
        )
    axis.hist(found.contexts, edges, color=BLUE, alpha=0.8)
    axis.set(yticks=[], xlim=(1, 20), xticks=[1, 5, 10, 15, 20])
    axis.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="upper left")


def _autoencoders(axis: Axes) -> None:
    rows = read_json(BUNDLED_SAES["stories"] / REAL_EVALUATION_FOLDER / "evaluation.json")["rows"]
    explained = {row["kind"]: row["numbers"]["explained_variance"] for row in rows}
    kinds = {
        AUTOENCODER: "autoencoder",
        PURSUED_ACTIVATIONS: "activations, pursuit",
        SHUFFLED: "shuffled model",
        PROJECTED: "activations",
        PURSUED_RANDOM: "random, pursuit",
        PCA: "PCA",
    }
    for place, (kind, label) in enumerate(reversed(kinds.items())):
        axis.barh(place, explained[kind], 0.7, color=BLUE if kind == AUTOENCODER else GREY)
        axis.annotate(
            f"{label} {explained[kind]:.3f}",
            (0, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="white",
        )
    axis.set(xlim=(0, 1), yticks=[])


def _ranks(axis: Axes) -> None:
    metrics = read_json(SPECTRA / "simplenet-mnist" / METRICS)
    names = {"fc1 w": "fc1.weights", "fc2 w": "fc2.weights", "fc1 a": "fc1.activations", "fc2 a": "fc2.activations"}
    for place, name in enumerate(names.values()):
        for state, colour, shift in (("", BLUE, -0.3), ("untrained.", GREY, 0.0), ("random.", "#c4c8ce", 0.3)):
            axis.bar(place + shift, metrics[f"{name}.{state}energy_rank"] / metrics[f"{name}.n"], 0.28, color=colour)
    axis.set_xticks(range(len(names)), list(names))
    axis.set(ylim=(0, 1))


def _concepts(axis: Axes) -> None:
    found = load_concepts(CONCEPTS / "stories")
    layers = list(found.layers["trained"])
    for state, colour in (("untrained", GREY), ("trained", BLUE)):
        axis.plot([found.layers[state][layer].probe for layer in layers], color=colour, marker="o", ms=4)
    random = [sum(found.random[layer].probes) / len(found.random[layer].probes) for layer in layers]
    axis.plot(random, ":", color=GREY, marker="o", ms=3)
    axis.axhline(found.chance, color=GREY, lw=0.8, ls="--")
    axis.axhline(found.bag_of_words, color=GREY, lw=1.2)
    for y, said in (
        (found.bag_of_words, "bag of the other words"),
        (found.layers["untrained"][layers[0]].probe, "untrained"),
        (random[0], "random word lists, chance"),
    ):
        axis.annotate(said, (0, y), (0, 5), textcoords="offset points", fontsize=8)
    axis.set(ylim=(0, 1), xticks=[])


if __name__ == "__main__":
    main()
