"""An order by clusters: a path is not a clustering, and the other way round."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.cluster import HDBSCAN
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.neurons.order import order_neurons
from mi_superposition.parts import SeedPart
from mi_superposition.results import Result


@dataclass(frozen=True, repr=False)
class ClusterOrder(Result):
    """Neurons cluster by cluster. ``label`` is each neuron's cluster, -1 for none, numbered along the order."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.neuron_order:cluster_sizes"

    order: Int[Tensor, " neuron"]
    label: Int[Tensor, " neuron"]

    @property
    def n_clusters(self) -> int:
        """Number of clusters, those without one not counted."""
        return int(self.label.max()) + 1

    def summary(self) -> str:
        """How many clusters there are, and how many neurons are in none."""
        return f"{self.n_clusters} clusters of {len(self.label):,} neurons, of which {int((self.label < 0).sum()):,} are in none"

    def to_frame(self) -> pd.DataFrame:
        """One row per position in the order: the neuron and its cluster, -1 for none."""
        columns = {"neuron": self.order.tolist(), "cluster": self.label[self.order].tolist()}
        return pd.DataFrame(columns).rename_axis("position")


def cluster_neurons(
    similarity: Float[Tensor, "neuron neuron"],
    *,
    min_size: int = 5,
    seed: int = SeedPart.seed,
    search_seconds: float = 0.2,
) -> ClusterOrder:
    """Clusters by density (HDBSCAN of scikit-learn, distance 1 - similarity²), each ordered within, and the clusters
    ordered by their mean squared similarity; neurons in no cluster come last, ordered too.

    Raises ``RequestError`` for ``min_size`` below 2, and as ``order_neurons`` does.
    """
    if min_size < 2:
        raise RequestError(f"min_size = {min_size}: a cluster has at least 2 neurons")
    # Refuses what cannot be ordered before any work is done.
    whole = order_neurons(similarity, seed=seed, seconds=0.0, bound=False)
    n = len(similarity)
    cluster_of = torch.full((n,), -1)
    if n >= max(2 * min_size, 5):
        distance = (1 - similarity.detach().cpu().double().square()).clamp_(0, 1).fill_diagonal_(0)
        with warnings.catch_warnings():
            # A change of a default of scikit-learn's that does not concern a matrix made for this call.
            warnings.simplefilter("ignore", FutureWarning)
            clusterer = HDBSCAN(min_cluster_size=min_size, metric="precomputed", copy=False)
            cluster_of = torch.from_numpy(clusterer.fit(distance.numpy()).labels_).long()
    count = int(cluster_of.max()) + 1
    if count == 0:
        return ClusterOrder(whole.order, cluster_of)

    def ordered(members: Int[Tensor, " member"]) -> Int[Tensor, " member"]:
        within = order_neurons(similarity[members][:, members], seed=seed, seconds=search_seconds, bound=False)
        return members[within.order]

    member = (cluster_of[:, None] == torch.arange(count)).float()
    between = member.T @ similarity.detach().cpu().float().square() @ member
    between = between / member.sum(0) / member.sum(0)[:, None]
    along = order_neurons(between.sqrt(), seed=seed, seconds=search_seconds, bound=False).order
    blocks = [ordered((cluster_of == cluster).nonzero().flatten()) for cluster in along.tolist()]
    alone = (cluster_of == -1).nonzero().flatten()
    renumbered = torch.full((n,), -1)
    for number, block in enumerate(blocks):
        renumbered[block] = number
    return ClusterOrder(torch.cat([*blocks, ordered(alone)] if len(alone) else blocks), renumbered)
