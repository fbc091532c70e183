"""What a study of the order of neurons found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from mi_superposition.neurons import ClusterOrder, Control, NeuronOrder, Spot
from mi_superposition.neurons.config import OrderConfig
from mi_superposition.results import Result
from mi_superposition.studies.neurons.packed import PackedSimilarity


@dataclass(frozen=True)
class ShortOrder:
    """The score that a short search finds for one layer and choice of weights; ``z`` by kind of control."""

    layer: int
    weights: str
    score: float
    gap: float
    z: dict[str, float]


@dataclass(frozen=True)
class Thinned:
    """What is left without the ``n_removed`` neurons that are more similar to another (in magnitude) than ``above``, ordered, and samples of
    the control ``kind`` drawn anew for the rest, ordered. ``highest``: no order of any sample can score more.

    The samples keep their own close pairs, so the comparison is against the trained order.
    """

    above: float
    n_removed: int
    score: float
    kind: str
    samples: int
    mean: float
    deviation: float
    highest: float

    @property
    def gain(self) -> float:
        """By how much the score exceeds the mean of the samples', relative to it (0 for a mean of 0)."""
        return self.score / self.mean - 1 if self.mean > 0 else 0.0


@dataclass(frozen=True, repr=False)
class OrderResult(Result):
    """An order of neurons with everything it is compared with.

    ``own_order_score`` is the score of the neurons in the model's own order. ``example_clusters``: how many clusters the same
    clustering finds in the first sample of each kind of control, ``control_clusters`` in the first few. ``spots`` are judged by the kind ``spot_kind``, that with the most
    similar windows. ``thinned`` are orders without close pairs. ``similarity`` is the trained matrix, ``example`` the first sample of the strictest control.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.neurons.order_items:figure"

    config: OrderConfig
    order: NeuronOrder
    own_order_score: float
    clusters: ClusterOrder
    controls: list[Control]
    example_clusters: dict[str, int]
    spots: list[Spot]
    spot_kind: str
    similarity: PackedSimilarity
    example: PackedSimilarity
    every_layer: list[ShortOrder] = field(default_factory=list)
    control_clusters: dict[str, list[int]] = field(default_factory=dict)
    thinned: list[Thinned] = field(default_factory=list)

    @property
    def hardest(self) -> Control:
        """The control that scores highest on average once it is ordered."""
        return hardest_of(self.controls)

    @property
    def gain(self) -> float:
        """By how much the trained score exceeds the mean score of the hardest control, relative to it."""
        return self.hardest.gain(self.order.score)

    @property
    def highest_control(self) -> float:
        """The largest score that any order of any sample of any control can have; infinite where it was not computed."""
        return max(control.highest for control in self.controls)

    def clusters_in(self, kind: str) -> list[int]:
        """How many clusters there are in the samples of a kind that were clustered."""
        return self.control_clusters.get(kind) or [self.example_clusters[kind]]

    @property
    def strictest(self) -> Control:
        """The control against which the trained score has the smallest z."""
        return strictest_of(self.controls, self.order.score)

    @property
    def spot_control(self) -> Control:
        """The control that judges the spots."""
        return next(control for control in self.controls if control.kind == self.spot_kind)

    @property
    def smallest_p(self) -> float:
        """The p of a spot that is better than every window of every sample."""
        return 1 / (1 + len(self.spot_control.window_max))

    @property
    def best_spots(self) -> list[Spot]:
        """The spots that are better than every window of every sample."""
        return [spot for spot in self.spots if spot.p <= self.smallest_p]

    @property
    def opposite_share(self) -> float:
        """Fraction of neighbours with a negative similarity: the score squares similarities, so these count as much."""
        return float((self.order.neighbours < 0).float().mean())

    def summary(self) -> str:
        """The score, its bound, how far it is from its hardest control, and the z of the strictest."""
        of, hardest, strictest = self.config, self.hardest, self.strictest
        highest = (
            f", no order of any sample above {self.highest_control:.2f}" if math.isfinite(self.highest_control) else ""
        )
        return (
            f"{len(self.order.order):,} neurons of {of.model.name} by {of.weights!r}: score {self.order.score:.2f} (upper bound "
            f"{self.order.upper_bound:.2f}), {100 * self.gain:+.1f} % relative to the hardest control ({hardest.name}: "
            f"{float(hardest.scores.mean()):.2f} ± {float(hardest.scores.std()):.2f}{highest}), z = "
            f"{strictest.z_score(self.order.score):+.1f} relative to the strictest ({strictest.name})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per matrix: the trained one, and the samples of each kind of control."""
        score = self.order.score
        rows = {
            "trained": {
                "samples": 1,
                "score": score,
                "upper_bound": self.order.upper_bound,
                "clusters": self.clusters.n_clusters,
            }
        } | {
            control.kind: {
                "samples": len(control.scores),
                "score": float(control.scores.mean()),
                "standard_deviation": float(control.scores.std()),
                "gain": control.gain(score),
                "upper_bound": control.highest,
                "z": control.z_score(score),
                "p": control.p_value(score),
                "percentile": control.percentile(score),
                "clusters": sum(counts) / len(counts),
            }
            for control in self.controls
            for counts in [self.clusters_in(control.kind)]
        }
        columns = ["samples", "score", "standard_deviation", "gain", "upper_bound", "z", "p", "percentile", "clusters"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("matrix")

    def metrics(self) -> dict[str, float | int]:
        """All numbers, flat. What is infinite is left out: the z of a control that never varies, bounds that were not computed."""
        score = self.order.score
        metrics: dict[str, float | int] = {
            "n_neurons": len(self.order.order),
            "score": score,
            "upper_bound": self.order.upper_bound,
            "gap": self.order.gap,
            "unordered_score": self.own_order_score,
            "opposite_neighbours": self.opposite_share,
            "clusters": self.clusters.n_clusters,
            "spots_above_control": len(self.best_spots),
            "spots_above_control_p": self.smallest_p,
            "gain": self.gain,
            "highest_control": self.highest_control,
        }
        for control in self.controls:
            metrics |= {
                f"{control.kind}_samples": len(control.scores),
                f"{control.kind}_score_mean": float(control.scores.mean()),
                f"{control.kind}_score_sd": float(control.scores.std()),
                f"{control.kind}_p": control.p_value(score),
                f"{control.kind}_percentile": control.percentile(score),
                f"{control.kind}_gain": control.gain(score),
                f"{control.kind}_upper_bound": control.highest,
                f"{control.kind}_clusters": self.example_clusters[control.kind],
                f"{control.kind}_clusters_max": max(self.clusters_in(control.kind)),
                f"{control.kind}_z": control.z_score(score),
            }
        for short in self.every_layer:
            name = f"layer{short.layer}_{short.weights}"
            metrics |= {f"{name}_score": short.score, f"{name}_gap": short.gap}
            metrics |= {f"{name}_{kind}_z": z for kind, z in short.z.items()}
        for one in self.thinned:
            name = f"without_above_{one.above:g}"
            metrics |= {
                f"{name}_removed": one.n_removed,
                f"{name}_score": one.score,
                f"{name}_{one.kind}_score_mean": one.mean,
                f"{name}_{one.kind}_score_sd": one.deviation,
                f"{name}_{one.kind}_upper_bound": one.highest,
                f"{name}_gain": one.gain,
            }
        return {name: value for name, value in metrics.items() if not math.isinf(value)}


def hardest_of(controls: list[Control]) -> Control:
    """The control with the largest mean score."""
    return max(controls, key=lambda control: float(control.scores.mean()))


def strictest_of(controls: list[Control], score: float) -> Control:
    """The control against which a score has the smallest z."""
    return min(controls, key=lambda control: control.z_score(score))
