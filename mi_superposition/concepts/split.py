"""Texts sorted by concept, some to train on and some held out."""

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
# One text in so many is held out.
_TEST_ONE_IN = 4
# Words that begin with so many letters alike are taken for forms of one.
_STEM = 3


@dataclass(frozen=True)
class Side:
    """Texts of one side: their indices among all texts, their concepts (-1: none), and the groups that are permuted as one."""

    index: Int[Tensor, " text"]
    labels: Int[Tensor, " text"]
    groups: Int[Tensor, " text"]

    def of_concepts(self) -> Side:
        """Those that belong to a concept."""
        some = self.labels != NO_CONCEPT
        return Side(self.index[some], self.labels[some], self.groups[some])


@dataclass(frozen=True)
class ConceptSplit:
    """The texts that directions and probes are made of, and those they are tested on."""

    n_concepts: int
    train: Side
    test: Side


def split_by_words(
    words: Sequence[set[str]],
    lists: Sequence[Sequence[str]],
    *,
    names: Sequence[str],
    per_concept: int,
    seed: int,
    random_halves: int | None = None,
) -> ConceptSplit:
    """Texts by the words they contain. Half of each concept's words are for training and half for testing, so that what holds
    on held-out texts is not the words themselves; texts with words of both halves, or of several concepts, are on neither side.

    Each side has at most ``per_concept`` texts of each concept, and half as many of none as of all concepts. Texts with the same
    word are one group; words that begin with the same three letters, such as mom and mommy, are on one side. The words are halved by their
    frequency, by turns, or at random with the seed ``random_halves``.
    Raises ``RequestError`` for a concept of which there are too few texts.
    """
    counts = Counter(word for some in words for word in some)
    generator = None if random_halves is None else seeded_generator(random_halves, "halves of words")
    parted = [_halves(of_concept, counts, generator) for of_concept in lists]
    for name, of_concept, (_, second) in zip(names, lists, parted, strict=True):
        if not second:
            raise RequestError(
                f"concept {name!r}: its words {', '.join(map(repr, of_concept))} all begin alike; give some that do not"
            )
    halves = [first for first, _ in parted] + [second for _, second in parted]
    which = held_in(words, halves)
    anywhere = {word for of_concept in lists for word in of_concept}
    none = [text for text, some in enumerate(words) if some and not some & anywhere]
    n = len(lists)
    order = torch.randperm(len(words), generator=seeded_generator(seed, "texts of concepts")).tolist()
    rank = {text: number for number, text in enumerate(order)}
    none.sort(key=rank.__getitem__)
    sides = []
    for side in range(2):
        index, labels, groups = [], [], []
        for concept in range(n):
            half = side * n + concept
            texts = sorted((text for text, one in enumerate(which.concept) if one == half), key=rank.__getitem__)
            if len(texts) < LEAST:
                raise RequestError(
                    f"concept {names[concept]!r}: {len(texts)} texts hold one of {', '.join(map(repr, halves[half]))} and no "
                    f"other concept's words; at least {LEAST} are needed"
                )
            texts = texts[:per_concept]
            index += texts
            labels += [concept] * len(texts)
            groups += [1000 * half + which.word[text] for text in texts]
        n_neutral = max(1, n * per_concept // 2)
        neutral = none[side * n_neutral : (side + 1) * n_neutral]
        index += neutral
        labels += [NO_CONCEPT] * len(neutral)
        groups += [-1 - text for text in neutral]
        sides.append(Side(torch.tensor(index), torch.tensor(labels), torch.tensor(groups)))
    return ConceptSplit(n, sides[0], sides[1])


def _halves(
    words: Sequence[str], counts: Counter[str], generator: torch.Generator | None = None
) -> tuple[list[str], list[str]]:
    """Two lists of its words, by turns from the most frequent on: both sides get as many texts as can be. Or by turns in a random order."""
    families: dict[str, list[str]] = {}
    for word in words:
        families.setdefault(word[:_STEM], []).append(word)
    ranked = sorted(families.values(), key=lambda family: -sum(counts[word] for word in family))
    if generator is not None:
        ranked = [ranked[place] for place in torch.randperm(len(ranked), generator=generator).tolist()]
    first, second = ([word for family in ranked[side::2] for word in family] for side in range(2))
    return first, second


def split_by_labels(labels: Sequence[int], *, names: Sequence[str], per_concept: int, seed: int) -> ConceptSplit:
    """Texts by their labels, one in four held out; at most ``per_concept`` texts of each label on either side, each a group of
    its own. Raises ``RequestError`` for a label of which there are too few texts.
    """
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "texts of labels"))
    labelled = torch.tensor(labels)[order]
    present = sorted(set(labels))
    train, test = [], []
    for label in present:
        texts = order[labelled == label]
        n_test = min(len(texts) // _TEST_ONE_IN, per_concept)
        if n_test < LEAST:
            raise RequestError(
                f"label {names[label]!r}: {len(texts)} texts have it; at least {LEAST * _TEST_ONE_IN} are needed"
            )
        test.append(texts[:n_test])
        train.append(texts[n_test : n_test + per_concept])

    def side(parts: list[Tensor]) -> Side:
        index = torch.cat(parts)
        numbers = torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)])
        return Side(index, numbers, torch.arange(len(index)))

    return ConceptSplit(len(present), side(train), side(test))
