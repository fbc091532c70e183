"""Documents from files, one at a time: texts, or the numbers of their tokens. A damaged part costs that part; a damaged whole is an
error.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import itertools
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetDict, load_from_disk

from mi_superposition.errors import RequestError, WorkError

# Where the text is, or its tokens, if nothing else is asked for: the first of these that is there.
TEXT_COLUMNS = ("text", "sentence", "input_ids", "tokens")
# Files of text may be compressed.
COMPRESSED = (".gz", ".zst", ".bz2")
# What a document is: its text, or its tokens.
Content = str | list[int]
_READ_BYTES = 1 << 20
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# A text of so many lines that is one document may be meant as one a line.
_MANY_LINES = 50
_ROWS = 256


class Document(NamedTuple):
    """A document's text or tokens, or ``None`` where there is none; what was wrong with it, and where it stands."""

    text: Content | None
    problem: Literal["broken", "missing", "repaired"] | None = None
    where: str = ""


def text_column(names: Collection[str], column: str | None = None) -> str:
    """The column with the text: the one asked for, else the first of ``TEXT_COLUMNS`` that ``names`` has."""
    return column or next((usual for usual in TEXT_COLUMNS if usual in names), TEXT_COLUMNS[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The bytes of a file, decompressed as its ending says. Raises ``WorkError`` where they cannot be read."""
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            yield io.BufferedReader(stream)
    except (pa.ArrowException, OSError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error


def text_documents(path: Path, separator: str) -> Iterator[Document]:
    """The stretches of a text file between separators, without the line breaks next to them."""
    parting = separator.encode()
    pending, offset = bytearray(), 0
    with _opened(path) as file:
        recoded = file.read(4).startswith(tuple(mark for mark in _MARKS if mark != codecs.BOM_UTF8))
    for block in _utf8_blocks(path):
        # Only what is new is searched, with as much of the old as a separator may begin in.
        searched, start = max(len(pending) - len(parting) + 1, 0), 0
        pending += block
        while (end := pending.find(parting, searched)) >= 0:
            yield _decoded(bytes(pending[start:end]), f"byte {offset + start}", recoded)
            start = searched = end + len(parting)
        del pending[:start]
        offset += start
    lines = pending.count(b"\n")
    if not offset and lines >= _MANY_LINES:
        _say_once(
            f"{path}: no {separator!r} in it, so its {lines + 1:,} lines are one document; --separator '\\n' reads each as one"
        )
    # What follows the last separator is a document only if there is something.
    if pending.strip():
        yield _decoded(bytes(pending), f"byte {offset}", recoded)


@functools.cache
def _say_once(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _utf8_blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, block by block; without a byte-order mark, and in UTF-8 where that says UTF-16 or UTF-32."""
    with _opened(path) as file:
        first = file.read(_READ_BYTES)
        # The mark of UTF-16 begins like that of UTF-32, which is therefore looked for first.
        mark = next((mark for mark in _MARKS if first.startswith(mark)), None)
        blocks = itertools.chain([first.removeprefix(mark or b"")], iter(lambda: file.read(_READ_BYTES), b""))
        if mark in (None, codecs.BOM_UTF8):
            yield from blocks
            return
        decoder = codecs.getincrementaldecoder(_MARKS[mark])(errors="replace")
        for block in blocks:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()


def _decoded(content: bytes, where: str, recoded: bool) -> Document:
    """``recoded``: from UTF-16 or UTF-32, in which what could not be read is replaced by now; ``where`` is then in UTF-8."""
    try:
        text = content.decode().strip("\r\n")
        return Document(text, "repaired", where) if recoded and "\N{REPLACEMENT CHARACTER}" in text else Document(text)
    except UnicodeDecodeError as error:
        return Document(content.decode(errors="replace").strip("\r\n"), "repaired", f"{where} + {error.start}")


def jsonl_documents(path: Path, column: str | None) -> Iterator[Document]:
    """The text or tokens in ``column`` of every line; blank lines are no documents. Without a column the first line with one of
    ``TEXT_COLUMNS`` decides.
    """
    known: set[str] = set()
    found = False
    with _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                text = line.decode()
                problem: Literal["repaired"] | None = None
            except UnicodeDecodeError:
                text, problem = line.decode(errors="replace"), "repaired"
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                yield Document(None, "broken", where)
                continue
            known |= set(row)
            if column is None and not known.isdisjoint(TEXT_COLUMNS):
                column = text_column(known)
            value = None if column is None else row.get(column)
            if _are_tokens(value):
                found = True
                yield Document(value, problem, where)
                continue
            if not isinstance(value, str):
                yield Document(None, "missing", where)
                continue
            found = True
            # JSON can spell half of a surrogate pair, which is no text.
            whole = value.encode("utf-8", "replace").decode()
            yield Document(whole, problem or ("repaired" if whole != value else None), where)
    wanted = text_column(known, column)
    if known and not found and wanted not in known:
        raise RequestError(_no_column(path, wanted, known))


def csv_documents(path: Path, column: str | None, delimiter: str) -> Iterator[Document]:
    """The text in ``column`` of every row below the heading; a row with more or fewer fields than that is broken.

    In a table parted by tabs quotes are quotes, unless all of them are as a table's are.
    """
    # No field of a text is too long.
    csv.field_size_limit(2**31 - 1)
    quoting = csv.QUOTE_MINIMAL if delimiter == "," or _is_quoted(path, delimiter) else csv.QUOTE_NONE
    with _table(path, delimiter, quoting) as (rows, is_recoded):
        try:
            names = rows.fieldnames or []
            column = text_column(names, column)
            if column not in names:
                raise RequestError(_no_column(path, column, names))
            for number, row in enumerate(rows, start=1):
                value = row[column]
                if None in row or None in row.values():
                    yield Document(None, "broken", f"row {number}")
                else:
                    whole = value.encode("utf-8", "surrogateescape").decode(errors="replace")
                    repaired = whole != value or (is_recoded and "\N{REPLACEMENT CHARACTER}" in whole)
                    yield Document(whole, "repaired" if repaired else None, f"row {number}")
        except csv.Error as error:
            raise WorkError(f"cannot read {str(path)!r}: {error} at line {rows.line_num}") from error


@contextmanager
def _table(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[Any, bool]]:
    """The rows of a table, and whether it is in UTF-16 or UTF-32, in which what cannot be read is replaced at once."""
    with _opened(path) as file:
        mark = next((mark for mark in _MARKS if file.peek(4).startswith(mark)), codecs.BOM_UTF8)
        is_recoded = mark != codecs.BOM_UTF8
        # Marks are left out by these encodings; bytes that are no UTF-8 become surrogates, which no text has.
        encoding = _MARKS[mark].removesuffix("-le").removesuffix("-be") if is_recoded else "utf-8-sig"
        errors = "replace" if is_recoded else "surrogateescape"
        lines = io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")
        yield csv.DictReader(lines, delimiter=delimiter, quoting=quoting, strict=True), is_recoded


def _is_quoted(path: Path, delimiter: str) -> bool:
    with _table(path, delimiter, csv.QUOTE_MINIMAL) as (rows, _):
        try:
            return all(None not in row and None not in row.values() for row in rows)
        except csv.Error:
            return False


def numpy_documents(path: Path) -> Iterator[Document]:
    """The rows of an array of tokens [document, position], mapped into memory and not read into it."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype.kind not in "iu":
        what = f"shape {rows.shape} and dtype {rows.dtype}" if isinstance(rows, np.ndarray) else "several arrays"
        raise RequestError(
            f"{str(path)!r} holds {what}: give whole numbers [document, position]; tokens.reshape(-1, 128) cuts one long text"
        )
    for row in rows:
        yield Document(row.tolist())


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int for token in value)


def parquet_documents(path: Path, column: str | None) -> Iterator[Document]:
    """The text or tokens in ``column`` of every row, a few hundred rows at a time."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = text_column(names, column)
            if column not in names:
                raise RequestError(_no_column(path, column, names))
            yield from _column_documents(file.iter_batches(batch_size=_ROWS, columns=[column]))
    except (pa.ArrowException, OSError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error


def _column_documents(tables: Iterable[Any]) -> Iterator[Document]:
    """The texts or tokens of Arrow tables of one column."""
    number = 0
    for table in tables:
        # As bytes: pyarrow refuses a whole batch for one string that is no UTF-8.
        for value in _as_bytes(table.column(0)):
            number += 1
            if isinstance(value, bytes):
                yield _decoded_row(value, f"row {number}")
            elif _are_tokens(value):
                yield Document(value)
            else:
                yield Document(None, "missing", f"row {number}")


def _as_bytes(values: Any) -> list[Any]:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _as_bytes(values.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = values.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
    elif pa.types.is_string_view(kind):
        values = values.cast(pa.binary_view())
    return values.to_pylist()


def _decoded_row(content: bytes, where: str) -> Document:
    try:
        return Document(content.decode())
    except UnicodeDecodeError:
        return Document(content.decode(errors="replace"), "repaired", where)


def saved_documents(path: Path, split: str, column: str | None) -> Iterator[Document]:
    """The text or tokens in ``column`` of a folder written by ``save_to_disk``, mapped into memory and not read into it."""
    try:
        saved = load_from_disk(str(path))
    except FileNotFoundError as error:
        raise RequestError(f"{str(path)!r} is no folder written by save_to_disk of datasets") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {str(error).splitlines()[0]}") from error
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise RequestError(f"{str(path)!r} has no split {split!r}: it has {', '.join(map(repr, saved))}")
        saved = saved[split]
    column = text_column(saved.column_names, column)
    if column not in saved.column_names:
        raise RequestError(_no_column(path, column, saved.column_names))
    yield from _column_documents(saved.select_columns([column]).with_format("arrow").iter(_ROWS))


def row_documents(rows: Any, column: str) -> Iterator[Document]:
    """The text or tokens in ``column`` of rows that are mappings."""
    row: Mapping[str, Any]
    for number, row in enumerate(rows, start=1):
        text = row.get(column)
        known = isinstance(text, str) or _are_tokens(text)
        yield Document(text) if known else Document(None, "missing", f"row {number}")


def _no_column(path: Path, column: str, names: Any) -> str:
    return f"{str(path)!r} has no column {column!r}: it has {', '.join(map(repr, sorted(names)))}"
