"""Labelled images by name: bundled, from a folder of parquet files, or from the Hugging Face hub."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Image, IterableDataset, load_dataset
from jaxtyping import Int, UInt8
from PIL import UnidentifiedImageError
from torch import Tensor

from mi_superposition.corpora.hub import hub_rows
from mi_superposition.errors import RequestError, WorkError

BUNDLED_IMAGES = ("digits",)
# What columns are called in the usual datasets, where their types do not say what they hold.
_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "fine_label")
# Of the digits one in so many is tested on.
_TEST_ONE_IN = 5
_BRIGHTEST_DIGIT = 16


@dataclass(frozen=True)
class Images:
    """Images of one size with their labels; ``pixels`` are 0 to 255."""

    pixels: UInt8[Tensor, "image channel height width"]
    labels: Int[Tensor, " image"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LabelledImages:
    """Images to train on, images to test on, and what their labels are called."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width

    def identity(self) -> dict[str, str]:
        """Name, and the SHA-256 of all pixels and labels: what a run folder records of them."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(str(tuple(part.pixels.shape)).encode())
            digest.update(part.pixels.numpy().tobytes())
            digest.update(part.labels.numpy().tobytes())
        return {"name": self.name, "sha256": digest.hexdigest()}


class _Example(NamedTuple):
    """One row: pixels ``[height width channel]``, its label, and the classes where the dataset names them."""

    pixels: np.ndarray
    label: int
    classes: tuple[str, ...] | None


def load_images(
    name: str | Path,
    *,
    splits: tuple[str, str] = ("train", "test"),
    image_column: str | None = None,
    label_column: str | None = None,
    config: str | None = None,
    on_image: Callable[[int, str], None] = lambda by, state: None,
) -> LabelledImages:
    """Labelled images by name, all in memory.

    ``name`` is ``"digits"`` (1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn; the last fifth is tested
    on); a folder with a parquet file for each of ``splits``, such as ``train.parquet`` and ``test.parquet``; or a dataset id
    on the hub such as ``"ylecun/mnist"`` (from the local hub cache where the hub cannot be reached), ``config`` its
    configuration. Columns are found by their types, image and class label, unless they are given. Grey images have one
    channel, all others are read as three. ``on_image`` is told of every image read.

    Raises ``RequestError`` for a name, split or column that is not there, images of several sizes, and labels of one class
    or of none; ``WorkError`` for what is damaged or a network that fails.
    """
    if str(name) in BUNDLED_IMAGES:
        return _digits()
    wanted = (image_column, label_column)
    first: _Example | None = None
    parts = []
    for split in splits:
        pixels: list[np.ndarray] = []
        labels: list[int] = []
        for example in _examples_of(name, split, config, wanted):
            first = first or example
            if example.pixels.shape != first.pixels.shape:
                raise RequestError(
                    f"image {len(pixels)} of {split!r} of {str(name)!r} is {_size(example.pixels)}, the first is "
                    f"{_size(first.pixels)}: give images of one size"
                )
            if example.label < 0:
                raise RequestError(
                    f"image {len(pixels)} of {split!r} of {str(name)!r} has no label: give another split"
                )
            pixels.append(example.pixels)
            labels.append(example.label)
            on_image(1, f"reading {split}")
        if not labels:
            raise RequestError(f"{split!r} of {str(name)!r} holds no images")
        parts.append(Images(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)))
    return _whole(str(name), parts[0], parts[1], first.classes if first else None)


def _whole(name: str, train: Images, test: Images, classes: tuple[str, ...] | None) -> LabelledImages:
    found = train.labels.unique()
    if len(found) < 2:
        raise RequestError(f"all images of {name!r} have the label {int(found[0])}: a classifier needs two classes")
    last = int(max(train.labels.max(), test.labels.max()))
    named = classes if classes is not None and len(classes) > last else tuple(map(str, range(last + 1)))
    return LabelledImages(name, train, test, named)


def _digits() -> LabelledImages:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy((digits.images * (255 / _BRIGHTEST_DIGIT)).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target).long()
    n = len(labels) - len(labels) // _TEST_ONE_IN
    return _whole("digits", Images(pixels[:n], labels[:n]), Images(pixels[n:], labels[n:]), None)


def _examples_of(
    name: str | Path, split: str, config: str | None, wanted: tuple[str | None, str | None]
) -> Iterator[_Example]:
    def read(rows: IterableDataset) -> Iterator[_Example]:
        return _examples(str(name), rows, wanted)

    folder = Path(name)
    if folder.is_dir():
        file = folder / f"{split}.parquet"
        if not file.is_file():
            there = ", ".join(repr(path.name) for path in sorted(folder.glob("*.parquet"))) or "no parquet file"
            raise RequestError(f"{str(name)!r} has no {file.name!r}: it has {there}")
        return _from_file(file, read)
    if folder.exists():
        raise RequestError(f"{str(name)!r} is a file: give the folder with train.parquet and test.parquet")
    if len(parts := str(name).split("/")) != 2 or not all(parts) or str(name).startswith("."):
        near = difflib.get_close_matches(str(name), BUNDLED_IMAGES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give 'digits', a folder or OWNER/NAME"
        raise RequestError(f"{str(name)!r} is not there: {hint}")
    return hub_rows(str(name), split, config, read)


def _from_file(file: Path, read: Callable[[IterableDataset], Iterator[_Example]]) -> Iterator[_Example]:
    try:
        yield from read(load_dataset("parquet", data_files={"all": str(file)}, split="all", streaming=True))
    except (pa.ArrowException, OSError) as error:
        raise WorkError(f"cannot read {str(file)!r}: {str(error).splitlines()[0]}") from error


def _examples(name: str, rows: IterableDataset, wanted: tuple[str | None, str | None]) -> Iterator[_Example]:
    features: dict[str, Any] = dict(rows.features or {})
    image = _column(name, features, "images", wanted[0], Image, _IMAGE_NAMES)
    label = _column(name, features, "labels", wanted[1], ClassLabel, _LABEL_NAMES)
    kind = features[label]
    classes = tuple(map(str, kind.names)) if isinstance(kind, ClassLabel) else None
    # Undecoded, so that one image that cannot be read is told from a file that cannot.
    rows = rows.select_columns([image, label]).cast_column(image, Image(decode=False))
    decode = Image(decode=True)
    for number, row in enumerate(rows):
        if row[image] is None or row[label] is None:
            raise RequestError(f"row {number} of {name!r} has no {image if row[image] is None else label!s}")
        try:
            picture = decode.decode_example(row[image])
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise WorkError(f"image {number} of {name!r} cannot be read: {str(error).splitlines()[0]}") from error
        if picture.mode.startswith(("I", "F")):
            raise RequestError(
                f"image {number} of {name!r} has more than 8 bits a pixel (mode {picture.mode!r}): bring it to 8"
            )
        grey = picture.mode in ("1", "L")
        pixels = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.uint8)
        if not isinstance(row[label], int):
            raise RequestError(f"row {number} of {name!r} has the label {row[label]!r}: labels are whole numbers")
        yield _Example(pixels[:, :, None] if grey else pixels, row[label], classes)


def _column(
    name: str, features: dict[str, Any], what: str, wanted: str | None, kind: type, usual: tuple[str, ...]
) -> str:
    """The column asked for, or the first of that type, or the first with a usual name."""
    there = ", ".join(map(repr, features)) or "none"
    if wanted is not None:
        if wanted not in features:
            raise RequestError(f"{name!r} has no column {wanted!r}: it has {there}")
        return wanted
    typed = [column for column, feature in features.items() if isinstance(feature, kind)]
    named = [column for column in usual if column in features]
    # Where several are typed (fine and coarse labels), the usual name decides.
    found = [column for column in named if column in typed] or typed or named
    if not found:
        raise RequestError(f"{name!r} has no column of {what}: it has {there}; name it")
    return found[0]


def _size(pixels: np.ndarray) -> str:
    height, width, channels = pixels.shape
    return f"{height} × {width} pixels of {channels} channel{'s' if channels > 1 else ''}"
