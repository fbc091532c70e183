"""Stringer's SimpleNet on MNIST in its own recipe: what its weights, its neurons and its heat maps of digits show.

    python scripts/replicas/simplenet_neurons.py --data mnist --out simplenet_neurons.json   # mnist: train.parquet and test.parquet

Controls are the networks before training and networks trained in the same recipe on labels in a random order, which learn something,
but nothing of digits. About two minutes for each seed on one core.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from digit_places import INK, Pictures, heat, holes, top_ink, without
from jaxtyping import Float, Int
from replica import STRINGER, Row, Verdict, percentile, report, spread
from scipy.stats import kurtosis, rankdata, spearmanr
from simplenet_ranks import BATCH, LAYERS, Trained, inputs, trained
from torch import Tensor

from mi_superposition.corpora.images import load_images
from mi_superposition.linalg import cosine_similarity
from mi_superposition.models.classifiers import SimpleNet
from mi_superposition.neurons.control import randomised

# The source's properties of digits.
PROPERTIES = {"loops": (0, 6, 8, 9), "lines": (1, 4, 7), "curves": (2, 3, 5)}
# A neuron stands for a property where it tells it from the other digits as well as this, of 1; chance is one half.
STANDS_FOR = 0.95
STATES = TRAINED, PERMUTED, UNTRAINED = "trained", "labels permuted", "untrained"


def activations(
    network: SimpleNet, images: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "image neuron"]:
    """Of the 128 neurons of the first layer and the 64 of the second."""
    with torch.no_grad():
        first = torch.relu(network.fc1(images.flatten(1)))
        return torch.cat([first, torch.relu(network.fc2(first))], dim=1)


def rank_sums(
    values: Float[Tensor, "image neuron"], labels: Int[Tensor, " image"]
) -> Float[np.ndarray, "digit neuron"]:
    """The sum of the ranks of each digit's images by each neuron's activation, ties at their mean rank."""
    ranks = rankdata(values.numpy(), axis=0)
    return np.stack([ranks[(labels == digit).numpy()].sum(axis=0) for digit in range(10)])


def areas(
    sums: Float[np.ndarray, "digit neuron"], counts: Int[np.ndarray, " digit"], group: Sequence[int]
) -> Float[np.ndarray, " neuron"]:
    """The area under the ROC curve with which each neuron tells a group of digits from the others."""
    own = counts[list(group)].sum()
    return (sums[list(group)].sum(axis=0) - own * (own + 1) / 2) / (own * (counts.sum() - own))


def partitions() -> list[tuple[tuple[int, ...], ...]]:
    """All ways to part ten digits into groups of four, three and three."""
    found = []
    for four in itertools.combinations(range(10), 4):
        first, *rest = (digit for digit in range(10) if digit not in four)
        for two in itertools.combinations(rest, 2):
            found.append((four, (first, *two), tuple(digit for digit in rest if digit not in two)))
    return found


def best_areas(
    found: Float[np.ndarray, "digit neuron"], counts: Int[np.ndarray, " digit"], groups: Sequence[Sequence[int]]
) -> float:
    """The area of the best neuron for each group, their mean."""
    return float(np.mean([areas(found, counts, group).max() for group in groups]))


def standing_for(
    found: Float[np.ndarray, "digit neuron"], counts: Int[np.ndarray, " digit"], groups: Sequence[Sequence[int]]
) -> int:
    """How many neurons stand for one of the groups."""
    return int((np.stack([areas(found, counts, group) for group in groups]).max(axis=0) >= STANDS_FOR).sum())


def accuracy(network: SimpleNet, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified rightly."""
    with torch.no_grad():
        return float((network(images).argmax(dim=1) == labels).double().mean())


def classes(values: Float[Tensor, "image neuron"], labels: Int[Tensor, " image"]) -> Float[Tensor, " neuron"]:
    """The effective number of digits that activate each neuron: exp of the entropy of its mean activation's shares. NaN where it never is."""
    means = torch.stack([values[labels == digit].double().mean(dim=0) for digit in range(10)])
    shares = means / means.sum(dim=0)
    return torch.special.entr(shares).sum(dim=0).exp()


def cancelled(weight: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
    """The share of a row's weights that others of the row cancel: 1 - |sum| / sum of magnitudes."""
    return 1 - weight.sum(dim=1).abs() / weight.abs().sum(dim=1)


def largest_cosine(weight: Float[Tensor, "out in"]) -> float:
    """The largest magnitude of the cosine of two rows."""
    return float(cosine_similarity(weight).abs().fill_diagonal_(0).max())


def read(data: Path, seeds: int, epochs: int) -> dict[str, Any]:
    """Train the networks and measure all of them; by measure and state a value for each seed."""
    images = load_images(data)
    pixels, test, labels = inputs(images.train), inputs(images.test), images.test.labels
    counts = np.bincount(labels.numpy(), minlength=10)
    ink = (images.test.pixels.flatten(1).float() / 255) > INK
    loop = torch.tensor([bool(holes(image)) for image in images.test.pixels[:, 0].float().numpy() / 255])
    pictures = Pictures(images.test, test)
    every = partitions()
    found: dict[str, Any] = {"accuracy": []}
    by_state: dict[str, dict[str, list[Any]]] = {}
    for seed in range(seeds):
        runs: dict[str, SimpleNet] = {}
        mine: Trained = trained(seed, pixels, images.train.labels, epochs)
        shuffle = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
        runs = dict(zip(STATES, (mine.after, trained(seed, pixels, images.train.labels[shuffle], epochs).after, mine.before), strict=True))  # fmt: skip
        found["accuracy"].append(accuracy(mine.after, test, labels))
        maps = {state: heat(network, test, labels) for state, network in runs.items()}
        for state, network in runs.items():
            by_state.setdefault(state, {})
            for name, value in _of_network(
                network, mine.after, maps[state], test, labels, counts, ink, loop, every, pictures
            ).items():
                by_state[state].setdefault(name, []).append(value)
        generator = torch.Generator().manual_seed(seed)
        for name in LAYERS:
            weight = getattr(mine.after, name).weight.detach()
            for kind in ("shuffled", "spectrum"):
                by_state.setdefault(kind, {}).setdefault(f"{name}: cosine", []).append(
                    largest_cosine(randomised(weight, kind, generator))
                )
        at_random = torch.rand(ink.shape, generator=generator)
        by_state.setdefault("random ink", {}).setdefault("accuracy without", []).append(
            accuracy(mine.after, without(test, top_ink(at_random, ink)), labels)
        )
        by_state.setdefault("brightest ink", {}).setdefault("accuracy without", []).append(
            accuracy(mine.after, without(test, top_ink(test.flatten(1) + 1e-3 * at_random, ink)), labels)
        )
        print(f"seed {seed}: accuracy {found['accuracy'][-1]:.4f}", flush=True)
    return found | {"states": by_state}


def _of_network(
    network: SimpleNet,
    judge: SimpleNet,
    scores: Tensor,
    test: Tensor,
    labels: Tensor,
    counts: Any,
    ink: Tensor,
    loop: Tensor,
    every: Sequence[Any],
    pictures: Pictures,
) -> dict[str, Any]:
    """Everything that is measured of one network; ``judge`` reads images without the ink that the map of this one points to."""
    values = activations(network, test)
    half = torch.arange(len(test)) % 2 == 0
    sums = rank_sums(values, labels)
    measured: dict[str, Any] = {}
    # The best neuron is found on half of the images and judged on the others.
    halves = [rank_sums(values[some], labels[some]) for some in (half, ~half)]
    numbers = [np.bincount(labels[some].numpy(), minlength=10) for some in (half, ~half)]
    for name, group in PROPERTIES.items():
        best = int(areas(halves[0], numbers[0], group).argmax())
        measured[f"best for {name}"] = float(areas(halves[1], numbers[1], group)[best])
    alone = [areas(halves[0], numbers[0], (digit,)).argmax() for digit in range(10)]
    measured["best for one digit"] = float(
        np.mean([areas(halves[1], numbers[1], (digit,))[best] for digit, best in enumerate(alone)])
    )
    measured["standing for a property"] = standing_for(sums, counts, list(PROPERTIES.values()))
    others = [best_areas(sums, counts, groups) for groups in every]
    measured["best for random groups"] = float(np.mean(others))
    measured["random groups below"] = percentile(best_areas(sums, counts, list(PROPERTIES.values())), others)
    measured["standing for one digit"] = standing_for(sums, counts, [(digit,) for digit in range(10)])
    # Twos and fours are written with a loop and without one.
    within = []
    for digit in (2, 4):
        some = labels == digit
        both = np.stack(
            [rankdata(values[some].numpy(), axis=0)[(loop[some] == has).numpy()].sum(axis=0) for has in (True, False)]
        )
        two = np.array([int(loop[some].sum()), int((~loop[some]).sum())])
        within.append(areas(both, two, (0,)))
    best = int(areas(halves[0], numbers[0], PROPERTIES["loops"]).argmax())
    measured["loop neuron within twos and fours"] = float(np.mean([some[best] for some in within]))
    effective, active = classes(values, labels), (values > 0).double().mean(dim=0)
    alive = effective.isfinite()
    measured["classes per neuron"] = float(effective[alive].median())
    measured["neurons for fewer than two classes"] = int((effective[alive] < 2).sum())
    measured["active share"] = float(active.mean())
    measured["sparse are specialised"] = float(spearmanr(active[alive], effective[alive]).statistic)
    measured["permuted: classes per neuron"] = float(
        classes(values, labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))])[alive].median()
    )
    for name in LAYERS:
        weight = getattr(network, name).weight.detach()
        measured[f"{name}: kurtosis"] = float(kurtosis(weight.flatten().numpy()))
        measured[f"{name}: cosine"] = largest_cosine(weight)
        measured[f"{name}: cancelled"] = float(cancelled(weight).mean())
    measured["accuracy without"] = accuracy(judge, without(test, top_ink(scores, ink)), labels)
    hot = heat(network, *pictures.fives)
    inked = (
        pictures.fives[0] > pictures.fives[0].min() + INK * (pictures.fives[0].max() - pictures.fives[0].min())
    ).flatten(1)
    by_half = [float((hot * some).sum() / some.sum()) for some in (pictures.lower, inked)]
    measured["lower half of a 5: heat here"] = by_half[0] / by_half[1]
    for name, (some, own, here, elsewhere) in pictures.places.items():
        hot = heat(network, some, own)
        inked = (some > some.min() + INK * (some.max() - some.min())).flatten(1)
        whole = (hot * inked).sum(dim=1) / inked.sum(dim=1)
        # Of the mean over digits, as a single digit's mean can be near zero.
        for where, place in (("here", here), ("elsewhere", elsewhere)):
            measured[f"{name}: heat {where}"] = float(
                ((hot * place).sum(dim=1) / place.sum(dim=1).clamp_min(1)).mean() / whole.mean()
            )
            measured[f"{name}: lost {where}"] = accuracy(network, some, own) - accuracy(
                network, without(some, place), own
            )
    return measured


def rows_of(states: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Row]:
    """The rows of the table, from what was measured by state and name."""

    def told(name: str, *where: str) -> str:
        return ", ".join(f"{state} {spread(states[state][name])}" for state in where)

    def row(
        claim: str, name: str, verdict: Verdict, why: str = "", *, source: str | None = None, more: Sequence[str] = ()
    ) -> Row:
        return Row(claim, source, spread(states[TRAINED][name]), told(name, PERMUTED, UNTRAINED, *more), verdict, why)

    mine = states[TRAINED]
    rows = [
        row(f"{what}: area under the ROC curve of the best neuron", f"best for {what}", "ours") for what in PROPERTIES
    ]
    rows += [
        Row(f"neurons of 192 that stand for loops, lines or curves (area at least {STANDS_FOR})", "not one to one", spread(mine["standing for a property"]), told("standing for a property", PERMUTED, UNTRAINED) + f"; for a single digit {spread(mine['standing for one digit'])}", "confirmed" if max(mine["standing for a property"]) < 10 else "not confirmed"),
        Row("best neurons for the three properties, mean area", None, spread([sum(some) / 3 for some in zip(*(mine[f"best for {what}"] for what in PROPERTIES), strict=True)]), f"all {len(partitions()):,} partings of the digits into groups of as many {spread(mine['best for random groups'])}, of which {spread(mine['random groups below'])} % are lower; single digits {spread(mine['best for one digit'])}", "ours"),
        row("the best neuron for loops, area for loops within twos and fours", "loop neuron within twos and fours", "ours", "written with a loop or without one; chance is 0.5"),
        row("effective number of digits of the median neuron", "classes per neuron", "ours", f"labels permuted when it is measured: {spread(mine['permuted: classes per neuron'])}"),
        row("neurons of 192 with fewer than two digits", "neurons for fewer than two classes", "ours"),
        row("share of images on which a neuron is active", "active share", "ours"),
        row("neurons that are active rarely are specialised, Spearman", "sparse are specialised", "confirmed" if min(mine["sparse are specialised"]) > max(*states[PERMUTED]["sparse are specialised"], *states[UNTRAINED]["sparse are specialised"]) else "not confirmed", "of active share and effective number of digits", source="perhaps"),
    ]  # fmt: skip
    for name in LAYERS:
        rows += [
            row(f"{name}: excess kurtosis of the weights", f"{name}: kurtosis", "confirmed" if min(mine[f"{name}: kurtosis"]) > max(*states[PERMUTED][f"{name}: kurtosis"], *states[UNTRAINED][f"{name}: kurtosis"]) else "not confirmed", "0 for a normal distribution, -1.2 for the uniform one that training begins with", source="high values"),
            row(f"{name}: largest magnitude of the cosine of two neurons", f"{name}: cosine", "confirmed" if min(mine[f"{name}: cosine"]) > max(value for state in (PERMUTED, UNTRAINED, "shuffled", "spectrum") for value in states[state][f"{name}: cosine"]) else "not confirmed", "shuffled: entries within each row; spectrum: random with the same row norms and spectrum", source="structure", more=("shuffled", "spectrum")),
            row(f"{name}: share of a neuron's weights that others cancel", f"{name}: cancelled", "confirmed" if min(mine[f"{name}: cancelled"]) > max(states[UNTRAINED][f"{name}: cancelled"]) else "refuted" if max(mine[f"{name}: cancelled"]) < min(states[UNTRAINED][f"{name}: cancelled"]) else "not confirmed", source="regions cancel out"),
        ]  # fmt: skip
    without = "accuracy without"
    rows.append(Row("accuracy without the tenth of the ink that a heat map points to", "high predictive value", spread(mine[without]), told(without, PERMUTED, UNTRAINED, "random ink", "brightest ink"), "confirmed" if max(mine[without]) < min(value for state in states if state != TRAINED and without in states[state] for value in states[state][without]) else "not confirmed", "maps of the other networks, read by the trained one"))  # fmt: skip
    for place in ("crossing of an 8", "curve of a 5"):
        here, elsewhere = mine[f"{place}: heat here"], mine[f"{place}: heat elsewhere"]
        rows.append(Row(f"{place}: heat over that of all its ink", "highlighted", spread(here), f"at a random place of its ink {spread(elsewhere)}, untrained {spread(states[UNTRAINED][f'{place}: heat here'])}", _higher(here, elsewhere)))  # fmt: skip
        here, elsewhere = mine[f"{place}: lost here"], mine[f"{place}: lost elsewhere"]
        rows.append(Row(f"{place}: accuracy lost without it", "high predictive value", spread(here), f"without a random place of its ink {spread(elsewhere)}", _higher(here, elsewhere)))  # fmt: skip
    rows.append(Row("lower half of a 5: heat over that of all its ink", "highlighted", spread(mine["lower half of a 5: heat here"]), told("lower half of a 5: heat here", UNTRAINED), "confirmed" if min(mine["lower half of a 5: heat here"]) > 1 else "not confirmed"))  # fmt: skip
    return rows


def _higher(here: Sequence[float], elsewhere: Sequence[float]) -> Verdict:
    """By all seeds."""
    if all(map(operator.gt, here, elsewhere)):
        return "confirmed"
    return "refuted" if all(map(operator.lt, here, elsewhere)) else "not confirmed"


def main(data: Path, seeds: int = 5, epochs: int = 5, out: Path | None = None) -> None:
    """Train, measure.

    Args:
        data: Folder with MNIST's train.parquet and test.parquet.
        seeds: Networks of each kind, from seed 0 up.
        epochs: Epochs of training; the source's are 5.
        out: JSON file of all numbers.
    """
    found = read(data, seeds, epochs)
    settings = {"data": "MNIST", "seeds": seeds, "epochs": epochs, "batch": BATCH, "optimizer": "Adam, 0.001"}
    report("what SimpleNet on MNIST shows", STRINGER, settings, rows_of(found["states"]), found, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
