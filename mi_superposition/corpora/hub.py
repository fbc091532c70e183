"""Rows of datasets on the Hugging Face hub, streamed; from its local cache where they are there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from datasets import IterableDataset, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from mi_superposition.corpora.files import Document, row_documents, text_column
from mi_superposition.errors import RequestError, WorkError

_DATA = (".parquet", ".json", ".jsonl", ".csv", ".txt", ".gz")
_SHARD = re.compile(r"^(.*)-\d{5}-of-(\d{5})")


_Read = TypeVar("_Read")


def check_hub_id(name: str) -> None:
    """Raise ``RequestError`` for a name that no dataset on the hub can have."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise RequestError(f"{name!r} is no file here, and no id on the hub can be written so") from None


def hub_documents(name: str, split: str, column: str | None, config: str | None) -> Iterator[Document]:
    """The text in ``column`` of one split. Raises as ``load_corpus`` says."""
    return hub_rows(name, split, config, lambda rows: _documents(name, rows, column))


def hub_rows(
    name: str, split: str, config: str | None, read: Callable[[IterableDataset], Iterator[_Read]]
) -> Iterator[_Read]:
    """What ``read`` makes of the rows of one split, streamed from the hub or from its local cache.

    Raises ``RequestError`` for a dataset, configuration or split that is not there or not open to this user, ``WorkError``
    when the network fails and the cache does not hold it.
    """
    check_hub_id(name)
    # What the cache holds may be an old state of the dataset: it stands in where there is no hub to ask.
    if not constants.HF_HUB_OFFLINE:
        begun = False
        try:
            for item in _streamed(name, name, split, config, read):
                begun = True
                yield item
            return
        except _HubUnreachable as error:
            if begun:
                raise WorkError(f"the connection to the hub was lost while reading {name!r}: start again") from error
    cached = _cached(name)
    try:
        if cached is None:
            raise _HubUnreachable
        yield from _streamed(name, cached, split, config, read)
    except _HubUnreachable as error:
        raise WorkError(
            f"{name!r} is neither a file here nor in the local hub cache, and the hub cannot be reached: "
            "try again on a network, or give a file"
        ) from error


class _HubUnreachable(Exception):
    pass


def _streamed(
    name: str, source: str, split: str, config: str | None, read: Callable[[IterableDataset], Iterator[_Read]]
) -> Iterator[_Read]:
    """What ``read`` makes of a dataset id or of a folder with its files; ``name`` is what to call it."""
    try:
        # Asked first: a split that is not there is refused in many ways further on.
        splits = get_dataset_split_names(source, config)
        if split not in splits:
            raise RequestError(f"{name!r} has no split {split!r}: it has {', '.join(map(repr, splits))}")
        yield from read(load_dataset(source, config, split=split, streaming=True))
    except (RequestError, WorkError):
        raise
    except (GatedRepoError, RepositoryNotFoundError, DatasetNotFoundError) as error:
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            raise RequestError(
                f"{name!r} is gated: accept its terms on its page, then log in with 'hf auth login' or set HF_TOKEN"
            ) from error
        raise RequestError(f"{name!r} is not on the hub: check the spelling, or log in if it is private") from error
    except HfHubHTTPError as error:
        raise WorkError(f"the hub failed on {name!r}: {str(error).splitlines()[0]}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HTTPError, ConnectionError, TimeoutError) as error:
        raise _HubUnreachable from error
    except UnicodeDecodeError as error:
        raise WorkError(
            f"{name!r} holds text that is no UTF-8: download it and give the file, which repairs it"
        ) from error
    except ValueError as error:
        # What datasets says of a configuration that is not there.
        raise RequestError(f"{name!r} cannot be read as a dataset: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise WorkError(f"{name!r} could not be read to its end: {str(error).splitlines()[0]}") from error


def _documents(name: str, rows: IterableDataset, column: str | None) -> Iterator[Document]:
    names = rows.column_names
    if names is None:
        names = list(next(iter(rows), {}))
    column = text_column(names, column)
    if names and column not in names:
        raise RequestError(f"{name!r} has no column {column!r}: it has {', '.join(map(repr, sorted(names)))}")
    yield from row_documents(rows, column)


def _cached(name: str) -> str | None:
    """The dataset's snapshot in the hub cache, if there is one with data in it.

    Raises ``WorkError`` when shards are missing: files are numbered as ``train-00000-of-00002.parquet``.
    """
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    files = [path for path in folder.rglob("*.*") if path.suffix in _DATA]
    shards = Counter(match.group(1, 2) for path in files if (match := _SHARD.search(path.name)))
    for (prefix, total), there in shards.items():
        if there < int(total):
            raise WorkError(
                f"the local hub cache holds {there} of {int(total)} files {prefix!r} of {name!r}: get the rest"
            )
    return str(folder) if files else None
