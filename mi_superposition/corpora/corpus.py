"""Corpora by name: bundled, from a file or folder, or from the Hugging Face hub."""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mi_superposition.corpora.files import (
    COMPRESSED,
    Content,
    Document,
    csv_documents,
    jsonl_documents,
    numpy_documents,
    parquet_documents,
    saved_documents,
    text_documents,
)
from mi_superposition.corpora.hub import check_hub_id, hub_documents
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import file_hash, text_hash
from mi_superposition.parts import TextPart

BUNDLED_CORPORA = {"stories": Path(__file__).parent.parent / "bundled" / "stories-corpus" / "stories.parquet"}
END_OF_TEXT = TextPart.separator
# What is counted of a corpus: its documents, and what is no document or not as it was written.
KINDS = ("documents", "empty", "broken", "missing", "repaired")
_FIRST_FEW = 3
# So many may be lost of any corpus.
_FEW_LOST = 9


@dataclass(frozen=True)
class CorpusCounts:
    """What one pass found. ``documents`` were given; the others were passed over, except ``repaired``.

    ``empty``: nothing but white space. ``broken``: a line that is no JSON object, or a row that cannot be read.
    ``missing``: the column is absent, null or no text. ``repaired``: bytes that are no UTF-8, given with U+FFFD in their
    place. ``examples`` says where the first few of these were.
    """

    documents: int = 0
    empty: int = 0
    broken: int = 0
    missing: int = 0
    repaired: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        problems = [f"{count:,} {name}" for name in KINDS[1:] if (count := getattr(self, name))]
        where = f" ({'; '.join(self.examples)})" if self.examples else ""
        return f"{self.documents:,} documents" + (f", {', '.join(problems)}{where}" if problems else "")


class Corpus:
    """Documents in their order, read anew at every pass and never all in memory: texts, or lists of tokens.

    ``counts`` is about the last pass, or the one under way; ``None`` before the first. With ``limit`` a pass ends after so many
    documents.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[Document]],
        location: Path | None = None,
        limit: int | None = None,
        separator: str = TextPart.separator,
    ):
        self.name = name
        self.separator = separator
        self.location = location
        self.limit = limit
        self.counts: CorpusCounts | None = None
        self._read = read
        self._told = False

    def __iter__(self) -> Iterator[Content]:
        self.counts = CorpusCounts()
        try:
            for document in self._read():
                self._count(document)
                if document.text is not None and not _is_empty(document.text):
                    yield document.text
                    if self.counts.documents == self.limit:
                        break
        finally:
            # Of a pass that a reader ends early too.
            self._tell()
        counts = self.counts
        if counts.broken + counts.missing > max(counts.documents, _FEW_LOST):
            raise WorkError(
                f"corpus {self.name!r}: {counts}: more is lost than read; mend the file, or name its column"
            )

    def losses(self, documents: int | None = None) -> dict[str, float | int]:
        """What ``CorpusCounts`` counts on the way to so many documents (default: all), as the numbers ``corpus/KIND`` of a run.

        The corpus is read for it, so that they do not depend on how the work went; one that is streamed is not, and has none.
        """
        if self.location is None:
            return {}
        for _ in itertools.islice(self, documents):
            pass
        return {f"corpus/{kind}": getattr(self.counts, kind) for kind in KINDS}

    def _tell(self) -> None:
        """What a pass lost, on standard error, once."""
        counts = self.counts
        if counts is not None and not self._told and (counts.broken or counts.missing or counts.repaired):
            self._told = True
            print(f"corpus {self.name!r}: {counts}", file=sys.stderr, flush=True)

    def _count(self, document: Document) -> None:
        counts = self.counts or CorpusCounts()
        if document.text is not None:
            kind = "empty" if _is_empty(document.text) else "documents"
            counts = replace(counts, **{kind: getattr(counts, kind) + 1})
        if document.problem is not None:
            kind = document.problem
            examples = counts.examples
            if len(examples) < _FIRST_FEW:
                examples = (*examples, f"{kind} at {document.where}")
            counts = replace(counts, **{kind: getattr(counts, kind) + 1}, examples=examples)
        self.counts = counts

    def identity(self) -> dict[str, str]:
        """Name and, for what lies on this machine, the SHA-256 of its bytes: what a run folder records of its corpus."""
        if self.location is None:
            return {"name": self.name}
        if self.location.is_file():
            # Recorded where it is another than usual: runs without one were read with that.
            other = {} if self.separator == TextPart.separator else {"separator": self.separator}
            return {"name": self.name, "sha256": file_hash(self.location), **other}
        parts = sorted(path for path in self.location.rglob("*") if path.is_file())
        names = [f"{path.relative_to(self.location)} {file_hash(path)}" for path in parts]
        return {"name": self.name, "sha256": text_hash(names)}


def _is_empty(text: Content) -> bool:
    return not (text.strip() if isinstance(text, str) else text)


def texts_of(corpus: Corpus) -> Iterator[str]:
    """The documents of a corpus, for what reads words. Raises ``RequestError`` for one of tokens."""
    for document in corpus:
        if not isinstance(document, str):
            raise RequestError(f"corpus {corpus.name!r} holds tokens: give one of texts")
        yield document


def corpus_of(text: TextPart) -> Corpus:
    """The whole corpus that a configuration names. Raises as ``load_corpus``."""
    # As it is written on a command line.
    separator = text.separator.replace("\\n", "\n").replace("\\t", "\t")
    return load_corpus(text.corpus, split=text.split, column=text.column, separator=separator)


def load_corpus(
    name: str | Path,
    *,
    split: str = TextPart.split,
    column: str | None = None,
    config: str | None = None,
    separator: str = TextPart.separator,
    documents: int | None = None,
) -> Corpus:
    """A corpus by name, or its first ``documents``.

    ``name`` is ``"stories"`` (bundled); a ``.txt`` file, whose documents are parted by ``separator``; a ``.jsonl``, ``.csv``,
    ``.tsv`` or ``.parquet`` file or a folder written by ``save_to_disk`` of datasets, with the text or its tokens in ``column`` (by
    default the first of ``text``, ``sentence``, ``input_ids`` and ``tokens`` that is there); a ``.npy`` file of tokens [document,
    position]; or a dataset id on the hub, streamed (from the local hub cache where the hub cannot be reached). Files of text may be
    compressed (``.jsonl.gz``, ``.txt.zst``). ``split`` is for saved folders and the hub, ``config`` for the hub.

    Empty documents, broken lines and rows without text are passed over and counted, bytes that are no UTF-8 are replaced
    by U+FFFD and counted: see ``Corpus.counts``; a pass that meets any says so once on standard error, and fails with ``WorkError`` where
    more is lost than read, and that is ten or more. A text file may begin with a byte-order mark, which says how it is encoded (UTF-8, UTF-16 or UTF-32). Raises ``RequestError`` for a name, split or column that is not there
    (with those that are) and ``WorkError`` for a file that is damaged as a whole or a network that fails.
    """
    if not separator:
        raise RequestError("separator = '': give the text that stands between two documents")
    if documents is not None and documents < 1:
        raise RequestError(f"documents = {documents}: must be at least 1")
    read, location = _reader(name, split, column, config, separator)
    return Corpus(str(name), read, location, documents, separator)


def _reader(
    name: str | Path, split: str, column: str | None, config: str | None, separator: str
) -> tuple[Callable[[], Iterator[Document]], Path | None]:
    """What reads a corpus, and where it lies on this machine."""
    if str(name) in BUNDLED_CORPORA:
        path = BUNDLED_CORPORA[str(name)]
        return (lambda: parquet_documents(path, "text")), path
    path = Path(name)
    if path.is_dir():
        return (lambda: saved_documents(path, split, column)), path
    of_text: dict[str, Callable[[], Iterator[Document]]] = {
        ".txt": lambda: text_documents(path, separator),
        ".jsonl": lambda: jsonl_documents(path, column),
        ".csv": lambda: csv_documents(path, column, ","),
        ".tsv": lambda: csv_documents(path, column, "\t"),
    }
    others: dict[str, Callable[[], Iterator[Document]]] = {
        ".parquet": lambda: parquet_documents(path, column),
        ".npy": lambda: numpy_documents(path),
    }
    compressed = path.suffix in COMPRESSED
    read = of_text.get(Path(path.stem).suffix) if compressed else (of_text | others).get(path.suffix)
    if read is not None:
        if not path.is_file():
            raise RequestError(f"{str(name)!r} is not there: give a file that exists")
        return read, path
    if path.exists():
        raise RequestError(
            f"{str(name)!r} is no corpus: give {', '.join(of_text)} (also {', '.join(COMPRESSED)}), {', '.join(others)} or a folder "
            "saved by datasets"
        )
    parts = str(name).split("/")
    if not 1 <= len(parts) <= 2 or not all(parts) or str(name).startswith((".", os.sep)):
        raise RequestError(f"{str(name)!r} is not there, and no dataset id either: give a file, a folder or OWNER/NAME")
    near = difflib.get_close_matches(str(name), BUNDLED_CORPORA, n=1)
    if near and len(parts) == 1:
        raise RequestError(f"{str(name)!r} is no corpus: did you mean {near[0]!r}?")
    check_hub_id(str(name))
    return (lambda: hub_documents(str(name), split, column, config)), None
