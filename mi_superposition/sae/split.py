"""Text trained on and text held out: which is which depends on the text alone."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

from mi_superposition.corpora import Content

# One document in so many is held out.
HELD_OUT_ONE_IN = 10


class Documents:
    """The documents of a corpus that are trained on, or with ``held_out`` the others (the first ``limit`` of them); can be
    read again and again.

    Copies of one text are on one side, whatever the corpus they come from.
    """

    def __init__(self, corpus: Iterable[Content], *, held_out: bool, limit: int | None = None):
        self.corpus, self.held_out, self.limit = corpus, held_out, limit

    def __iter__(self) -> Iterator[Content]:
        return itertools.islice((text for text in self.corpus if is_held_out(text) == self.held_out), self.limit)


def is_held_out(text: Content) -> bool:
    """Whether a document is never trained on: by the hash of its text without the space around it, or of its tokens."""
    content = text.strip().encode("utf-8", "surrogatepass") if isinstance(text, str) else repr(text).encode()
    digest = hashlib.sha256(content).digest()
    return int.from_bytes(digest[:8], "little") % HELD_OUT_ONE_IN == 0
