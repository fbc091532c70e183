"""Documents from datasets on the Hugging Face hub, streamed; from its local cache where they are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets import IterableDataset, get_dataset_split_names, load_dataset
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from mi_superposition.corpora.files import Document, row_documents
from mi_superposition.errors import RequestError, WorkError


def hub_documents(name: str, split: str, column: str, config: str | None) -> Iterator[Document]:
    """The text in ``column`` of one split. Raises as ``load_corpus`` says."""
    source = _cached(name) or name
    try:
        # Asked first: a split that is not there is refused in many ways further on.
        splits = get_dataset_split_names(source, config)
        if split not in splits:
            raise RequestError(f"{name!r} has no split {split!r}: it has {', '.join(map(repr, splits))}")
        rows = load_dataset(source, config, split=split, streaming=True)
        yield from _documents(name, rows, column)
    except GatedRepoError as error:
        raise RequestError(
            f"{name!r} is gated: accept its terms on its page, then log in with 'hf auth login' or set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise RequestError(f"{name!r} is not on the hub: check the spelling, or log in if it is private") from error
    except HfHubHTTPError as error:
        raise WorkError(f"the hub failed on {name!r}: {str(error).splitlines()[0]}") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HTTPError, ConnectionError, TimeoutError) as error:
        raise WorkError(
            f"{name!r} is neither a file here nor in the local hub cache, and the hub cannot be reached: "
            "try again on a network, or give a file"
        ) from error
    except (ValueError, OSError) as error:
        # What datasets says of a configuration that is not there, or of files it cannot make rows of.
        raise RequestError(f"{name!r} cannot be read as a dataset: {str(error).splitlines()[0]}") from error


def _documents(name: str, rows: IterableDataset, column: str) -> Iterator[Document]:
    names = rows.column_names
    if names is None:
        names = list(next(iter(rows), {}))
    if names and column not in names:
        raise RequestError(f"{name!r} has no column {column!r}: it has {', '.join(map(repr, sorted(names)))}")
    yield from row_documents(rows, column)


def _cached(name: str) -> str | None:
    """The dataset's snapshot in the hub cache, if there is one with data in it."""
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    data = any(path.suffix in (".parquet", ".json", ".jsonl", ".csv", ".txt", ".gz") for path in folder.rglob("*.*"))
    return str(folder) if data else None
