"""Concepts as word lists: which texts contain one, and random lists of the same word frequency."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.training import derived_seed

# The label of texts without any concept word, or with words of several.
NO_CONCEPT = -1
# Letters of any alphabet, with the marks and joiners that belong to them.
_LETTERS = r"\p{L}[\p{L}\p{M}\u200c\u200d]*"
_WORD = regex.compile(rf"{_LETTERS}(?:'{_LETTERS})?")
_SENTENCE_END = regex.compile(r"(?<=[.!?।])[\"”’']?\s+|(?<=[。！？][\"”’'」』]?)(?![\"”’'」』])\s*")
# Scripts that put no space between words: every stretch of so many letters may be one.
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+")
_LONGEST_UNSPACED = 12
# The fewest words of a sentence, or its fewest letters in such a script.
_FEWEST_WORDS = 3

# Ours, made for stories for small children.
STORY_CONCEPTS: Mapping[str, tuple[str, ...]] = {
    "positive": ("happy", "happily", "love", "loved", "fun", "smiled", "laughed", "proud", "excited", "nice", "kind", "glad"),
    "negative": ("sad", "scared", "cried", "angry", "afraid", "worried", "hurt", "mean", "lonely", "upset", "bad", "sorry"),
    "animals": ("dog", "cat", "bird", "bunny", "bear", "fish", "frog", "duck", "rabbit", "mouse", "squirrel", "butterfly"),
    "family": ("mom", "dad", "mommy", "daddy", "mother", "father", "sister", "brother", "grandma", "grandpa", "family", "parents"),
    "food": ("cake", "cookies", "apple", "food", "eat", "ate", "lunch", "soup", "bread", "hungry", "candy", "delicious"),
    "outdoors": ("park", "tree", "garden", "forest", "flowers", "grass", "river", "rain", "sun", "beach", "pond", "leaves"),
}  # fmt: skip
# Ours, of sentiment, for reviews, after Stringer's concepts, of whose fifteen words they have three.
SENTIMENT_CONCEPTS: Mapping[str, tuple[str, ...]] = {
    "positive": ("good", "great", "best", "funny", "love", "enjoyable", "beautiful", "moving", "charming", "smart", "delightful", "entertaining"),
    "negative": ("bad", "worst", "dull", "boring", "predictable", "tedious", "silly", "stupid", "flat", "mess", "fails", "lacks"),
    "neutral": ("film", "movie", "story", "character", "screen", "director", "scene", "plot", "time", "year", "life", "world"),
}  # fmt: skip
BUNDLED_CONCEPTS = {"stories": STORY_CONCEPTS, "sentiment": SENTIMENT_CONCEPTS}


@dataclass(frozen=True)
class Held:
    """Which concept each text contains, and by which of its words (both -1 for none or several concepts).

    A text with several words of one concept goes by the first of them in the list.
    """

    concept: tuple[int, ...]
    word: tuple[int, ...]


def load_concepts(name: str | Path) -> dict[str, tuple[str, ...]]:
    """Word lists: ``"stories"``, ``"sentiment"``, or a JSON file ``{"concept": ["word", …], …}``.

    Raises ``RequestError`` for a name that is not there, fewer than two concepts, fewer than two words in one, or a word that
    stands in two; ``WorkError`` for a file that is no JSON.
    """
    if str(name) in BUNDLED_CONCEPTS:
        return dict(BUNDLED_CONCEPTS[str(name)])
    path = Path(name)
    if not path.is_file():
        raise RequestError(f"{str(name)!r} is not there: give {', '.join(map(repr, BUNDLED_CONCEPTS))} or a JSON file")
    try:
        lists = json.loads(path.read_bytes())
    except ValueError as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error
    if not isinstance(lists, dict) or not all(isinstance(words, list) for words in lists.values()):
        raise RequestError(f"{str(path)!r} must hold an object of lists: {{'concept': ['word', …], …}}")
    return check_concepts({str(concept): tuple(words) for concept, words in lists.items()})


def check_concepts(concepts: Mapping[str, Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    """The lists in small letters. Raises ``RequestError`` as ``load_concepts``."""
    if len(concepts) < 2:
        raise RequestError(f"{len(concepts)} concepts: give at least two")
    found: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for concept, words in concepts.items():
        for word in words:
            if not isinstance(word, str) or not _WORD.fullmatch(_lower(word)):
                raise RequestError(f"{word!r} of concept {concept!r} is no single word of letters")
            if len(word) > _LONGEST_UNSPACED and _UNSPACED.search(word):
                raise RequestError(
                    f"{word!r} of concept {concept!r} is longer than {_LONGEST_UNSPACED} letters and marks, up to which words are looked "
                    "for in scripts without spaces"
                )
            if owner.setdefault(_lower(word), concept) != concept:
                raise RequestError(f"{word!r} stands in {owner[_lower(word)]!r} and {concept!r}: give it one concept")
        found[concept] = tuple(dict.fromkeys(map(_lower, words)))
        if len(found[concept]) < 2:
            raise RequestError(f"concept {concept!r} has {len(found[concept])} words: give at least two")
    return found


def words_of(text: str) -> set[str]:
    """Its words in small letters; in scripts without spaces every stretch of letters that may be one."""
    found = set(_WORD.findall(_lower(text)))
    for run in [word for word in found if _UNSPACED.search(word)]:
        found |= set(filter(None, _UNSPACED.split(run)))
        for part in _UNSPACED.findall(run):
            found |= {
                part[start : start + length] for length in range(1, _LONGEST_UNSPACED + 1) for start in range(len(part))
            }
    return found


def _lower(text: str) -> str:
    # A letter and its mark may be one character or two.
    return unicodedata.normalize("NFC", text.lower())


def sentences(documents: Iterable[str]) -> Iterator[str]:
    """The sentences of texts, as full stops, question and exclamation marks part them; of at least three words, or letters of a script
    without spaces.
    """
    for document in documents:
        for line in document.splitlines():
            for sentence in _SENTENCE_END.split(line):
                unspaced = max(map(len, _UNSPACED.findall(sentence)), default=0)
                if max(len(sentence.split()), unspaced) >= _FEWEST_WORDS:
                    yield sentence.strip()


def without_words(text: str, words: set[str]) -> str:
    """The text without these words (in small letters); a full stop where nothing is left."""
    left = _WORD.sub(lambda match: "" if _lower(match[0]) in words else match[0], text)
    if any(_UNSPACED.search(word) for word in words):
        for word in sorted(words, key=len, reverse=True):
            left = left.replace(word, "") if _UNSPACED.search(word) else left
    return left if left.strip() else "."


def held(texts: Sequence[str], concepts: Mapping[str, Sequence[str]]) -> Held:
    """For each text the one concept whose words it contains."""
    return held_in([words_of(text) for text in texts], list(concepts.values()))


def held_in(texts: Sequence[set[str]], lists: Sequence[Sequence[str]]) -> Held:
    """As ``held``, for texts given by their words."""
    owner = {word: (number, rank) for number, words in enumerate(lists) for rank, word in enumerate(words)}
    concept, word = [], []
    for words in texts:
        hits = sorted(owner[one] for one in words if one in owner)
        alone = bool(hits) and hits[0][0] == hits[-1][0]
        concept.append(hits[0][0] if alone else NO_CONCEPT)
        word.append(hits[0][1] if alone else NO_CONCEPT)
    return Held(tuple(concept), tuple(word))


def random_lists(
    texts: Sequence[set[str]], concepts: Sequence[Sequence[str]], seed: int, *, near: int = 20
) -> list[tuple[str, ...]]:
    """Lists of other words, for texts given by their words: for each word of each concept one drawn from the ``near`` words that
    occur in most nearly as many texts.

    None of them is in any concept or drawn twice, nor, in scripts without spaces, a part of a concept's word or around one. Raises ``RequestError`` where the texts have too few other words.
    """
    counts = Counter(word for words in texts for word in words)
    taken = {word for words in concepts for word in words}
    unspaced = [word for word in taken if _UNSPACED.search(word)]
    if unspaced:
        # Each would mark the texts that the concept's word marks.
        near_them = {other for other in counts if any(other in word or word in other for word in unspaced)}
        counts = Counter({word: count for word, count in counts.items() if word in taken or word not in near_them})
    if len(counts.keys() - taken) < len(taken) + near:
        raise RequestError(f"the texts hold {len(counts)} different words: too few for random lists of {len(taken)}")
    generator = np.random.default_rng(derived_seed(seed, "random words"))
    others = sorted(counts.keys() - taken)
    frequency = np.log1p(np.array([counts[word] for word in others], dtype=float))
    free = np.ones(len(others), dtype=bool)
    lists = []
    for words in concepts:
        drawn = []
        for word in words:
            distance = np.where(free, np.abs(frequency - np.log1p(counts[word])), np.inf)
            chosen = int(generator.choice(np.argpartition(distance, near)[:near]))
            free[chosen] = False
            drawn.append(others[chosen])
        lists.append(tuple(drawn))
    return lists
