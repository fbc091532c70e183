"""What ranks are made of, on a page: whole spectra, distributions of activations, and weights."""

from __future__ import annotations

from mi_superposition.figures.lines import Line, framed_lines
from mi_superposition.figures.spectra import spectrum_frames, weight_heatmaps
from mi_superposition.pages.spectra.ranks import evenly
from mi_superposition.site import FigureRecord
from mi_superposition.studies.spectra.measure import RANDOM, SpectraResult
from mi_superposition.studies.spectra.network import STATES
from mi_superposition.studies.spectra.pictures import bin_middles

_SPECTRA = 8
_HISTOGRAMS = 12
# Standard deviations from the mean beyond which an activation is in a tail.
_TAIL = 3


def whole_spectra(result: SpectraResult) -> FigureRecord:
    """Singular values by rank for a few layers of each kind."""
    layers = [
        (kind, name) for kind in result.kinds for name in evenly(list(result.spectra["trained"].of(kind)), _SPECTRA)
    ]
    states = result.all_spectra
    kind, name = layers[0]
    first = {state: spectra.of(kind)[name] for state, spectra in states.items()}
    return FigureRecord(
        id="spectra",
        title="Singular value spectra",
        look_at=(
            "Singular values by rank, on logarithmic axes; the slider selects the layer. Dotted: the edge, which the "
            "largest singular value of a large random matrix with independent entries of the same standard deviation "
            "crosses in one draw of a hundred (Marchenko & Pastur 1967, with the margin of Tracy and Widom: Johnstone 2001). "
            "Values above it indicate structure, if the entries are otherwise independent. Samples at different spatial positions of one image are not "
            "independent, so for convolutional activations this is a weak test. For activations the values are "
            "standard deviations along principal directions."
        ),
        number=f"{name}, {kind}: {first['trained'].above_edge} of {len(first['trained'].values)} values above the edge",
        control=f"{first['untrained'].above_edge} untrained, {first[RANDOM].above_edge} random",
        figure=spectrum_frames(
            {
                f"{name}, {kind}": {state: spectra.of(kind)[name] for state, spectra in states.items()}
                for kind, name in layers
            }
        ),
    )


def activation_histograms(result: SpectraResult) -> list[FigureRecord]:
    """How activations of a few layers are distributed; nothing where none were measured."""
    histograms = {state: result.pictures[state].histograms for state in STATES}
    shown = evenly(list(histograms["trained"]), _HISTOGRAMS)
    if not shown:
        return []
    middles = bin_middles()
    x = [round(value, 3) for value in middles.tolist()]
    normal = (-middles.square() / 2).exp()
    normal = normal / normal.sum()

    def line(fractions: list[float]) -> Line:
        # A logarithmic axis has no zero.
        points = [(at, value) for at, value in zip(x, fractions, strict=True) if value > 0]
        return Line([at for at, _ in points], [float(f"{value:.3g}") for _, value in points])

    frames = {
        name: {**{state: line(histograms[state][name].tolist()) for state in STATES}, "normal": line(normal.tolist())}
        for name in shown
    }
    tail = middles.abs() > _TAIL
    tails = {state: float(sum(histograms[state][name][tail].sum() for name in shown)) / len(shown) for state in STATES}
    return [
        FigureRecord(
            id="histograms",
            title="Distribution of activations",
            look_at=(
                "All channels of a layer pooled, on one batch, standardised (mean 0, standard deviation 1); the slider selects the layer. "
                "Heavy tails: a few inputs activate a layer strongly, or channels differ in scale."
            ),
            number=f"{100 * tails['trained']:.2f} % beyond three standard deviations (mean of the layers shown)",
            control=f"{100 * tails['untrained']:.2f} % untrained, {100 * float(normal[tail].sum()):.2f} % of a normal distribution",
            figure=framed_lines(
                frames, "layer", x_title="activation (standard deviations from the mean)", y_title="fraction of values", log_y=True
            ),
        )
    ]  # fmt: skip


def weight_maps(result: SpectraResult) -> list[FigureRecord]:
    """Some entries of some weight matrices; nothing where no weights were measured."""
    weights = {state: result.pictures[state].weights for state in STATES}
    if not weights["trained"]:
        return []
    name, matrix = next(iter(weights["trained"].items()))
    untrained = weights["untrained"][name]
    return [
        FigureRecord(
            id="weights",
            title="Weights",
            look_at=(
                "Of larger matrices, evenly spaced rows and columns are shown; a convolution kernel is flattened over its spatial "
                "positions. The slider selects the layer; both panels share a scale."
            ),
            number=f"{name}: standard deviation {float(matrix.std()):.3f}, largest |weight| {float(matrix.abs().max()):.2f}",
            control=f"{float(untrained.std()):.3f} and {float(untrained.abs().max()):.2f} before training",
            figure=weight_heatmaps(
                {layer: {state: weights[state][layer] for state in STATES} for layer in weights["trained"]}, "layer"
            ),
        )
    ]
