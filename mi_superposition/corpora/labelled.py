"""Labelled texts by name: from a file, or from the Hugging Face hub."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from mi_superposition.corpora.files import text_column
from mi_superposition.corpora.hub import hub_rows
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import text_hash
from mi_superposition.parts import TextPart

_READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}


@dataclass(frozen=True)
class LabelledTexts:
    """Different texts with a label each; ``classes`` names the labels."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def identity(self) -> dict[str, str]:
        """Name, and the SHA-256 of the texts and labels: what a run folder records of them."""
        rows = [f"{label} {text}" for label, text in zip(self.labels, self.texts, strict=True)]
        return {"name": self.name, "sha256": text_hash(rows)}


def load_labelled_texts(
    name: str | Path,
    *,
    label_column: str = "label",
    column: str | None = None,
    split: str = TextPart.split,
    config: str | None = None,
    limit: int | None = None,
    on_row: Callable[[int, str], None] = lambda by, state: None,
) -> LabelledTexts:
    """Texts and their labels from columns of a ``.parquet``, ``.jsonl`` or ``.csv`` file, or of a dataset on the hub.

    ``column`` holds the text (by default ``text`` or ``sentence``), ``label_column`` a class label, a whole number or a word.
    Of copies of one text the first counts; rows without text are passed over. ``limit``: read so many rows, from the first on.

    Raises ``RequestError`` for a name, split or column that is not there, labels that are missing, of another kind or all
    the same; ``WorkError`` for a damaged file or a network that fails.
    """

    def read(rows: IterableDataset) -> Iterator[tuple[str, int | str, tuple[str, ...]]]:
        return _rows(str(name), rows, column, label_column)

    path = Path(name)
    if path.suffix in _READERS:
        if not path.is_file():
            raise RequestError(f"{str(name)!r} is not there: give a file that exists")
        found = _from_file(path, read)
    elif not _is_hub_id(name):
        raise RequestError(f"{str(name)!r} holds no labels: give {', '.join(_READERS)} or a dataset id OWNER/NAME")
    else:
        found = hub_rows(str(name), split, config, read)
    labels: dict[str, int | str] = {}
    classes: tuple[str, ...] = ()
    for text, label, named in islice(found, limit):
        classes = classes or named
        labels.setdefault(text.strip(), label)
        on_row(1, "reading texts")
    return _whole(str(name), labels, classes, limit)


def _whole(name: str, labels: Mapping[str, int | str], classes: tuple[str, ...], limit: int | None) -> LabelledTexts:
    kinds = sorted({str(label) for label in labels.values()}) if not classes else list(classes)
    if len(set(labels.values())) < 2:
        only = repr(str(next(iter(labels.values())))) if labels else "none"
        read = f"the first {limit:,} texts" if limit is not None else "the texts"
        raise RequestError(f"{read} of {name!r} have one label ({only}): a concept needs texts without it")
    if classes:
        numbers = [int(label) for label in labels.values()]
    else:
        place = {kind: number for number, kind in enumerate(kinds)}
        numbers = [place[str(label)] for label in labels.values()]
    return LabelledTexts(name, tuple(labels), tuple(numbers), tuple(kinds))


def _from_file(path: Path, read: Callable[[IterableDataset], Iterator[Any]]) -> Iterator[Any]:
    try:
        rows = load_dataset(_READERS[path.suffix], data_files={"all": str(path)}, split="all", streaming=True)
        yield from read(rows)
    except RequestError:
        raise
    except (pa.ArrowException, OSError, DatasetGenerationError, ValueError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error
    except StopIteration as error:
        # What datasets says of a file without rows.
        raise WorkError(f"cannot read {str(path)!r}: it holds no rows") from error


def _rows(
    name: str, rows: IterableDataset, column: str | None, label_column: str
) -> Iterator[tuple[str, int | str, tuple[str, ...]]]:
    features: dict[str, Any] = dict(rows.features or {})
    if not features:
        # What has no schema shows it in its first row.
        features = dict.fromkeys(next(iter(rows), {}))
    there = ", ".join(map(repr, features)) or "none"
    text = text_column(features, column)
    for wanted in (text, label_column):
        if wanted not in features:
            near = difflib.get_close_matches(wanted, features, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {there}"
            raise RequestError(f"{name!r} has no column {wanted!r}: {hint}")
    kind = features[label_column]
    classes = tuple(map(str, kind.names)) if isinstance(kind, ClassLabel) else ()
    for number, row in enumerate(rows):
        label = row[label_column]
        if not isinstance(label, int | str) or label == -1:
            raise RequestError(
                f"row {number} of {name!r} has the label {label!r}: labels are class labels, whole numbers or words"
            )
        if isinstance(row[text], str) and row[text].strip():
            yield row[text], label, classes


def columns_of(name: str | Path, split: str = TextPart.split) -> tuple[str, ...]:
    """Columns of a ``.parquet``, ``.jsonl`` or ``.csv`` file, or of a dataset on the hub; none for what has no columns.

    Raises as ``load_labelled_texts``.
    """

    def columns(rows: IterableDataset) -> Iterator[str]:
        return iter(rows.column_names or next(iter(rows), {}))

    path = Path(name)
    if path.suffix in _READERS and path.is_file():
        return tuple(_from_file(path, columns))
    if not path.suffix and _is_hub_id(name):
        return tuple(hub_rows(str(name), split, None, columns))
    return ()


def _is_hub_id(name: str | Path) -> bool:
    parts = str(name).split("/")
    return not Path(name).exists() and len(parts) == 2 and all(parts) and not str(name).startswith(".")
