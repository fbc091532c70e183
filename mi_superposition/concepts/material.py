"""Texts sorted by concept, some to learn from and some held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from mi_superposition.concepts.words import NO_CONCEPT, held_in
from mi_superposition.errors import RequestError
from mi_superposition.training import seeded_generator

# With fewer texts of a concept on a side its accuracy would be that of chance.
LEAST = 10
_TEST_SHARE = 4
# Words that begin with so many letters alike are taken for forms of one.
_STEM = 3


@dataclass(frozen=True)
class Side:
    """Texts of one side: their places among all texts, their concepts (-1: none), and what keeps together in a permutation."""

    places: Int[Tensor, " text"]
    labels: Int[Tensor, " text"]
    groups: Int[Tensor, " text"]

    def of_concepts(self) -> Side:
        """Those that belong to one."""
        some = self.labels != NO_CONCEPT
        return Side(self.places[some], self.labels[some], self.groups[some])


@dataclass(frozen=True)
class Material:
    """What directions and probes learn from, and what they are tried on."""

    n_concepts: int
    train: Side
    test: Side


def by_words(
    found: Sequence[set[str]], lists: Sequence[Sequence[str]], *, names: Sequence[str], per_concept: int, seed: int
) -> Material:
    """Texts by the words they hold. Half of each concept's words are for one side and half for the other, so that what is
    found on held-out texts is not the words themselves; texts with words of both sides, or of several concepts, are in neither.

    Each side has at most ``per_concept`` texts of each concept, and half as many of none as of all concepts. Texts with the same
    word keep together; words that begin with the same three letters, such as mom and mommy, are on one side.
    Raises ``RequestError`` for a concept of which too few texts are found.
    """
    counts = Counter(word for words in found for word in words)
    parted = [_halves(words, counts) for words in lists]
    for name, words, (_, second) in zip(names, lists, parted, strict=True):
        if not second:
            raise RequestError(
                f"concept {name!r}: its words {', '.join(map(repr, words))} all begin alike; give some that do not"
            )
    halves = [first for first, _ in parted] + [second for _, second in parted]
    which = held_in(found, halves)
    anywhere = {word for words in lists for word in words}
    none = [place for place, words in enumerate(found) if words and not words & anywhere]
    n = len(lists)
    order = torch.randperm(len(found), generator=seeded_generator(seed, "texts of concepts")).tolist()
    rank = {place: number for number, place in enumerate(order)}
    none.sort(key=rank.__getitem__)
    sides = []
    for side in range(2):
        places, labels, groups = [], [], []
        for concept in range(n):
            half = side * n + concept
            some = sorted((place for place, one in enumerate(which.concept) if one == half), key=rank.__getitem__)
            if len(some) < LEAST:
                raise RequestError(
                    f"concept {names[concept]!r}: {len(some)} texts hold one of {', '.join(map(repr, halves[half]))} and no "
                    f"other concept's words; at least {LEAST} are needed"
                )
            some = some[:per_concept]
            places += some
            labels += [concept] * len(some)
            groups += [1000 * half + which.word[place] for place in some]
        n_neutral = max(1, n * per_concept // 2)
        neutral = none[side * n_neutral : (side + 1) * n_neutral]
        places += neutral
        labels += [NO_CONCEPT] * len(neutral)
        groups += [-1 - place for place in neutral]
        sides.append(Side(torch.tensor(places), torch.tensor(labels), torch.tensor(groups)))
    return Material(n, sides[0], sides[1])


def _halves(words: Sequence[str], counts: Counter[str]) -> tuple[list[str], list[str]]:
    """Two lists of its words, by turns from the most frequent on: both sides get as many texts as can be."""
    families: dict[str, list[str]] = {}
    for word in words:
        families.setdefault(word[:_STEM], []).append(word)
    ranked = sorted(families.values(), key=lambda family: -sum(counts[word] for word in family))
    first, second = ([word for family in ranked[side::2] for word in family] for side in range(2))
    return first, second


def by_labels(labels: Sequence[int], *, names: Sequence[str], per_concept: int, seed: int) -> Material:
    """Texts by their labels, one in four held out; at most ``per_concept`` texts of each label to learn from. Raises
    ``RequestError`` for a label of which too few texts are found.
    """
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "texts of labels"))
    labelled = torch.tensor(labels)[order]
    present = sorted(set(labels))
    train, test = [], []
    for label in present:
        some = order[labelled == label]
        n_test = min(len(some) // _TEST_SHARE, per_concept)
        if n_test < LEAST:
            raise RequestError(
                f"label {names[label]!r}: {len(some)} texts have it; at least {LEAST * _TEST_SHARE} are needed"
            )
        test.append(some[:n_test])
        train.append(some[n_test : n_test + per_concept])

    def side(parts: list[Tensor]) -> Side:
        places = torch.cat(parts)
        numbers = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
        return Side(places, numbers, torch.arange(len(places)))

    return Material(len(present), side(train), side(test))
