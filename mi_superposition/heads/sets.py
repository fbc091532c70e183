"""Sets of heads: the smallest that keeps a task, beside other sets of its size, and what two heads do beyond the sum of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.heads.config import HeadReplacement, TextAblationPart
from mi_superposition.heads.tasks import Task, accuracy, logit_differences
from mi_superposition.models.protocol import HookedModel
from mi_superposition.training import seeded_generator

# Of a task's logit difference that a small set keeps.
SHARE = 0.95
Keeping = Callable[[Bool[Tensor, "set head"]], Float[Tensor, " set"]]


@dataclass(frozen=True)
class TaskSet:
    """The heads that keep a task, chosen on one half of its prompts; all numbers are of the other half.

    ``heads``: [layer, head], all others replaced. ``kept``: the mean logit difference over that of the whole model. ``others``: the same of other
    sets of that size, no two alike, and ``chosen_others`` on the half that chose, so that the best of them can be chosen there too.
    """

    heads: Bool[Tensor, "layer head"]
    kept_where_chosen: float
    kept: float
    accuracy: float
    others: Float[Tensor, " set"]
    chosen_others: Float[Tensor, " set"]

    @property
    def size(self) -> int:
        """Number of heads."""
        return int(self.heads.sum())

    @property
    def best_of_others(self) -> float:
        """What the best other set keeps: best where the set was chosen, measured where it was not. Not a number without other sets."""
        return float(self.others[self.chosen_others.argmax()]) if len(self.others) else float("nan")


def task_set(
    model: HookedModel,
    task: Task,
    *,
    replace_with: HeadReplacement = TextAblationPart.text_replacement,
    n_random: int = TextAblationPart.task_sets,
    seed: int = 0,
    on_sets: Callable[[], None] = lambda: None,
) -> TaskSet:
    """The smallest set of heads that a greedy search finds to keep 95 % of a task's logit difference; it need not be the smallest there is.

    Heads are ranked by what the loss of each alone takes from the logit difference; of the sets of the first 1, 2, … heads the smallest
    that keeps enough is taken, and from it the head is dropped whose going leaves most, again and again while enough is left. ``on_sets`` is
    called before sets are measured.
    """
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    halves = task.halves()
    wholes = [float(logit_differences(model, half).mean()) for half in halves]

    def keeping(number: int) -> Keeping:
        def kept(sets: Tensor) -> Tensor:
            on_sets()
            found = logit_differences(model, halves[number], sets.view(-1, n_layers, n_heads), replace_with, seed)
            return found.double().mean(dim=1) / wholes[number]

        return kept

    heads = smallest_set(keeping(0), n_layers * n_heads)
    others = other_sets(heads, n_random, seeded_generator(seed, f"random sets for {task.name}"))
    together = torch.cat([heads[None], others])
    chosen, measured = keeping(0)(together), keeping(1)(together)
    differences = logit_differences(model, halves[1], heads.view(1, n_layers, n_heads), replace_with, seed)[0]
    return TaskSet(
        heads.view(n_layers, n_heads), float(chosen[0]), float(measured[0]), accuracy(differences), measured[1:].clone(), chosen[1:].clone()
    )  # fmt: skip


def smallest_set(kept: Keeping, n_heads: int, share: float = SHARE) -> Bool[Tensor, " head"]:
    """The set that the search of ``task_set`` finds; all heads where no smaller one keeps ``share``."""
    one_out = ~torch.eye(n_heads, dtype=torch.bool)
    ranked = kept(one_out).argsort(stable=True)
    first = torch.zeros(n_heads, n_heads, dtype=torch.bool)
    for size in range(1, n_heads + 1):
        first[size - 1, ranked[:size]] = True
    enough = kept(first) >= share
    enough[-1] = True
    heads = first[int(enough.int().argmax())]
    while int(heads.sum()) > 1:
        members = heads.nonzero()[:, 0]
        smaller = heads.repeat(len(members), 1)
        smaller[torch.arange(len(members)), members] = False
        left = kept(smaller)
        if float(left.max()) < share:
            break
        heads = smaller[int(left.argmax())]
    return heads


def other_sets(keep: Bool[Tensor, " head"], n_random: int, generator: torch.Generator) -> Bool[Tensor, "set head"]:
    """``n_random`` other sets of as many heads, drawn uniformly and no two alike; every other set where there are no more."""
    n_heads, size = len(keep), int(keep.sum())
    n_others = math.comb(n_heads, size) - 1
    if n_others <= 4 * n_random:
        every = torch.zeros(n_others + 1, n_heads, dtype=torch.bool)
        members = torch.tensor(list(itertools.combinations(range(n_heads), size)), dtype=torch.long)
        every.scatter_(1, members.reshape(n_others + 1, size), True)
        found = every[(every != keep).any(dim=1)]
        return found if n_others <= n_random else found[torch.randperm(n_others, generator=generator)[:n_random]]
    # At most a quarter of all sets is taken, so few rounds are needed. `unique` sorts, hence the shuffle before the surplus is cut off.
    found = torch.zeros(0, n_heads, dtype=torch.bool)
    while len(found) < n_random:
        ranks = torch.rand(n_random + n_random // 8 + 8, n_heads, generator=generator).argsort(dim=1).argsort(dim=1)
        found = torch.cat([found, ranks < size]).unique(dim=0)
        found = found[(found != keep).any(dim=1)]
    return found[torch.randperm(len(found), generator=generator)[:n_random]]


def head_pairs(heads: Int[Tensor, "head 2"]) -> Int[Tensor, "pair 2"]:
    """Every pair of some heads, by their places in the list."""
    return torch.tensor(list(itertools.combinations(range(len(heads)), 2)), dtype=torch.long).view(-1, 2)
