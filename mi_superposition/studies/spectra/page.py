"""Effective ranks told on a page: by layer, during training, whole spectra, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mi_superposition.figures.lines import Line, framed_lines, lines, stacked_lines
from mi_superposition.figures.spectra import weight_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.spectra.result import KINDS, Kind, LayerSpectra, Spectrum
from mi_superposition.studies.spectra.findings import RANDOM, STATES, Findings
from mi_superposition.studies.spectra.subjects import histogram_middles

# What the ranks say, and what they do not.
CAUTION = (
    "A low rank says that some directions carry next to nothing, not that the others hold one feature each: a layer of full rank may "
    "keep one feature a dimension or eight, and a layer of low rank may crowd many into the few it uses. The ranks bound "
    "the room there is; how it is shared they do not see."
)
_SHOWN_LAYERS = 12
_POINTS = 120
_EDGE = "edge"
_IN_ORDER = "in the network's order"
_Key = TypeVar("_Key")


def spectra_items(findings: Findings) -> list[Item]:
    """Figures and tables of one run."""
    items: list[Item] = [_by_layer(findings), *_during_training(findings), _spectra(findings)]
    items += [*_histograms(findings), *_weights(findings)]
    return [*items, *(table for kind in KINDS for table in _tables(findings, kind))]


def intro(findings: Findings) -> str:
    """What was measured, in a sentence or two."""
    request, numbers = findings.request, findings.numbers
    if "test_accuracy" not in numbers:
        read = (
            f"on the text of {request['corpus'] or 'stories'}"
            if findings.spectra["trained"].activations
            else "weights alone"
        )
        return f"{request['network']} as it is, {read}."
    return (
        f"{request['network']} on {request['images'] or 'digits'}, {request['training']['epochs']} epochs: {100 * numbers['test_accuracy']:.1f} % of "
        f"the test images right ({100 * numbers['test_accuracy_untrained']:.1f} % untrained, {100 / numbers['n_classes']:.1f} % by chance)."
    )


def ranks_table(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a terminal: energy ranks of all layers, trained, untrained and random."""
    everything, energy = findings.all_spectra(), findings.request["energy"]
    rows = [
        [
            f"{name}, {kind}",
            str(len(spectrum.values)),
            *(str(spectra.of(kind)[name].ranks(energy).energy_rank) for spectra in everything.values()),
        ]
        for kind in KINDS
        for name, spectrum in findings.spectra["trained"].of(kind).items()
    ]
    return [f"energy rank at {energy:g}", "largest", *everything], rows


def mean_ratio(findings: Findings, state: str, kind: Kind) -> float:
    """The ratio of ranks, mean of the layers."""
    ratios = findings.ratios(state, kind).values()
    return sum(ratios) / len(ratios)


def depth_in_words(findings: Findings, kind: Kind) -> str:
    """Spearman's correlation of ranks with depth, trained and untrained; empty for few layers."""
    found = {state: findings.depth_correlation(state, kind) for state in STATES}
    if None in found.values():
        return ""
    return f"{kind} {found['trained']:+.2f} trained, {found['untrained']:+.2f} untrained"


def _some(items: Sequence[_Key], most: int = _SHOWN_LAYERS) -> list[_Key]:
    """The first, the last and those evenly between."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _kinds(findings: Findings) -> list[Kind]:
    return [kind for kind in KINDS if findings.spectra["trained"].of(kind)]


def _by_layer(findings: Findings) -> FigureRecord:
    kinds = _kinds(findings)
    panels: dict[str, dict[str, Line]] = {
        kind: {
            state: Line([float(place) for place in range(1, len(ratios) + 1)], list(ratios.values()))
            for state in (*STATES, RANDOM)
            for ratios in [findings.ratios(state, kind)]
        }
        for kind in kinds
    }
    depth = "; ".join(words for kind in kinds if (words := depth_in_words(findings, kind)))
    means = {state: [mean_ratio(findings, state, kind) for kind in kinds] for state in (*STATES, RANDOM)}

    def said(state: str) -> str:
        return ", ".join(f"{value:.2f} {kind}" for value, kind in zip(means[state], kinds, strict=True))

    return FigureRecord(
        id="ranks-by-layer",
        title="Effective rank by layer",
        look_at=(
            f"For each layer, {_IN_ORDER}, the number of directions that hold {100 * findings.request['energy']:g} % of the squared singular "
            f"values, over the most there could be (min of rows and columns). Activations of a layer from few channels to many cannot fill more directions than it has inputs." + (f" Spearman's correlation of that with depth: {depth}." if depth else "")
        ),
        number=f"{said('trained')} (means of the layers)",
        control=f"untrained {said('untrained')}; random matrices of the same shapes {said(RANDOM)}",
        figure=stacked_lines(
            panels,
            names={kind: list(findings.spectra["trained"].of(kind)) for kind in kinds},
            x_title=f"layer, {_IN_ORDER}",
            y_title="energy rank / largest",
        ),
    )  # fmt: skip


def _during_training(findings: Findings) -> list[Item]:
    rows = findings.history
    if len(rows) < 2:
        return []
    # Zero has no place on a logarithmic axis: it stands half a step before the first.
    x = [float(row["step"] or 0.5) for row in rows]
    items: list[Item] = []
    for kind in _kinds(findings):
        largest = {name: len(spectrum.values) for name, spectrum in findings.spectra["trained"].of(kind).items()}
        shown = _some(list(largest), 5)
        first, last = ([row[kind][name][0] / largest[name] for name in shown] for row in (rows[0], rows[-1]))
        items.append(
            FigureRecord(
                id=f"training-{kind}",
                title=f"During training: {kind}",
                look_at=(
                    "The same ratio at steps that grow; the leftmost point is before training."
                    + (f" Activations on {_watched_in_words(findings)}." if kind == "activations" else "")
                ),
                number=f"{sum(last) / len(last):.2f} at the end (mean of those shown); accuracy {rows[-1]['watched_accuracy']:.3f}",
                control=f"{sum(first) / len(first):.2f} before training; accuracy {rows[0]['watched_accuracy']:.3f}",
                figure=lines(
                    {name: Line(x, [row[kind][name][0] / largest[name] for row in rows]) for name in shown},
                    x_title="step (leftmost: before training)",
                    y_title="energy rank / largest",
                    log_x=True,
                ),
            )
        )
    return items


def _watched_in_words(findings: Findings) -> str:
    return f"the first {findings.numbers.get('watched_images', 0):,} test images"


def _spectra(findings: Findings) -> FigureRecord:
    named = [(kind, name) for kind in _kinds(findings) for name in _some(list(findings.spectra["trained"].of(kind)), 8)]
    everything = findings.all_spectra()
    frames = {f"{name}, {kind}": _spectrum_lines(everything, kind, name) for kind, name in named}
    kind, name = named[0]
    trained = findings.spectra["trained"].of(kind)[name]
    beyond = {state: _beyond(spectra.of(kind)[name]) for state, spectra in everything.items()}
    return FigureRecord(
        id="spectra",
        title="Whole spectra",
        look_at=(
            "Singular values by rank, both on logarithmic axes; the slider leads through layers. The level is the edge at which the values of "
            "large random matrices with independent entries of the trained one's deviation end (Marchenko & Pastur 1967); what stands above it is "
            "structure, if entries were independent otherwise. Samples of an image's places are not, so of convolutions' activations it "
            "is a low bar. Of activations the values are standard deviations along principal directions."
        ),
        number=f"{name}, {kind}: {beyond['trained']} of {len(trained.values)} values beyond their edge",
        control=f"{beyond['untrained']} untrained, {beyond[RANDOM]} random",
        figure=framed_lines(
            frames, "layer", x_title="rank", y_title="singular value", log_x=True, log_y=True, levels={_EDGE}
        ),
    )  # fmt: skip


def _beyond(spectrum: Spectrum) -> int:
    """How many values lie beyond the random edge of a matrix with the same deviation."""
    return int((spectrum.values > spectrum.edge).sum())


def _spectrum_lines(everything: dict[str, LayerSpectra], kind: Kind, name: str) -> dict[str, Line]:
    found = {}
    for state, spectra in everything.items():
        values = spectra.of(kind)[name].values
        # Zeros, of dead channels say, have no logarithm.
        values = values[values > 1e-9 * float(values[0])] if len(values) else values
        places = sorted(
            {round(len(values) ** (step / (_POINTS - 1))) for step in range(_POINTS)} if len(values) else []
        )
        found[state] = Line(
            [float(place) for place in places], [float(f"{float(values[place - 1]):.4g}") for place in places]
        )
    trained = everything["trained"].of(kind)[name]
    found[_EDGE] = Line([1.0, float(len(trained.values))], [trained.edge] * 2)
    return found


def _histograms(findings: Findings) -> list[Item]:
    shares = {state: findings.pictures[state].histograms for state in STATES}
    shown = _some(list(shares["trained"]))
    if not shown:
        return []
    middles = histogram_middles()
    x = [round(value, 3) for value in middles.tolist()]
    normal = (-middles.square() / 2).exp()
    normal = normal / normal.sum()

    def line(values: list[float]) -> Line:
        kept = [(place, value) for place, value in zip(x, values, strict=True) if value > 0]
        return Line([place for place, _ in kept], [float(f"{value:.3g}") for _, value in kept])

    frames = {
        name: {**{state: line(shares[state][name].tolist()) for state in STATES}, "normal": line(normal.tolist())}
        for name in shown
    }
    far = middles.abs() > 3
    tails = {state: float(sum(shares[state][name][far].sum() for name in shown)) / len(shown) for state in STATES}
    return [
        FigureRecord(
            id="histograms",
            title="How activations are spread",
            look_at="Of all channels of a layer together, on one batch, about their mean and in their deviation; the slider leads through layers. Heavy tails: few inputs drive a layer strongly, or its channels differ in size.",
            number=f"{100 * tails['trained']:.2f} % beyond three deviations (mean of those shown)",
            control=f"{100 * tails['untrained']:.2f} % untrained, {100 * float(normal[far].sum()):.2f} % of a normal distribution",
            figure=framed_lines(frames, "layer", x_title="activation (deviations from the mean)", y_title="share of values", log_y=True),
        )
    ]  # fmt: skip


def _weights(findings: Findings) -> list[Item]:
    pictures = {state: findings.pictures[state].weights for state in STATES}
    if not pictures["trained"]:
        return []
    name, matrix = next(iter(pictures["trained"].items()))
    return [
        FigureRecord(
            id="weights",
            title="Weights",
            look_at="Rows and columns evenly picked of larger matrices; a kernel's places side by side. The slider leads through layers; both panels of a layer share a scale.",
            number=f"{name}: {float(matrix.std()):.3f} deviation, {float(matrix.abs().max()):.2f} the largest",
            control=f"{float(pictures['untrained'][name].std()):.3f} and {float(pictures['untrained'][name].abs().max()):.2f} before training",
            figure=weight_heatmaps(
                {layer: {state: pictures[state][layer] for state in STATES} for layer in pictures["trained"]}, "layer"
            ),
        )
    ]  # fmt: skip


def _tables(findings: Findings, kind: Kind) -> list[Item]:
    trained = findings.spectra["trained"].of(kind)
    if not trained:
        return []
    everything, energy = findings.all_spectra(), findings.request["energy"]
    rows = []
    for name, spectrum in trained.items():
        found = {state: spectra.of(kind)[name].ranks(energy) for state, spectra in everything.items()}
        rows.append(
            [
                name,
                f"{spectrum.rows:,} × {spectrum.columns:,}",
                *(f"{ranks.energy_rank:,}" for ranks in found.values()),
                f"{found['trained'].sum_rank:,}",
                *(f"{ranks.entropy_rank:,.1f}" for ranks in found.values()),
                f"{found['trained'].participation_ratio:,.1f}",
                f"{found['trained'].stable_rank:,.1f}",
            ]
        )
    return [
        TableRecord(
            id=f"table-{kind}",
            title=f"All layers: {kind}",
            look_at=(
                f"Energy: the fewest singular values whose squares sum to {100 * energy:g} % of all; sum: the same of the values "
                "themselves, trained. Entropy: Roy & Vetterli 2007. Participation and stable rank, trained: dominated by the largest values. "
                + ("Rows are samples: images times places, or tokens." if kind == "activations" else "Rows are outputs.")
            ),
            columns=[
                "layer", "rows × columns", "energy, trained", "untrained", "random", "sum", "entropy, trained", "untrained", "random",
                "participation", "stable",
            ],
            rows=rows,
        )
    ]  # fmt: skip
