"""A large symmetric matrix as a pyramid of PNG tiles, with its values beside them for the reader's pointer.

Level 0 is one pixel a cell; every further level is half as wide, a pixel showing the entry of largest magnitude among
the four below it. Only tiles on and above the diagonal are written: the viewer draws the others mirrored.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.site.records import MatrixRecord

TILE = 256
# Entries -1 to 1 are kept as whole numbers -127 to 127, and shown in half as many shades, which nobody can tell apart:
# noise takes most of the room, and its last bit most of that.
STEPS = 127
SHADES = 63
_BLUE, _WHITE, _RED = (5, 48, 97), (247, 247, 247), (103, 0, 31)
_MIDDLE_BLUE, _MIDDLE_RED = (67, 147, 195), (214, 96, 77)
# A little below 1: small entries are what one looks for, but noise should stay pale.
_COLOUR_EXPONENT = 0.85


def matrix_files(record: MatrixRecord) -> Iterator[tuple[str, bytes]]:
    """``matrix/ID/VIEW/LEVEL/ROW-COLUMN.png`` and ``matrix/ID/VIEW/values/ROW-COLUMN.js``: addresses in the site, and contents."""
    for view in record.views:
        folder = f"matrix/{record.id}/{view.key}"
        level, number = quantised(view.similarity), 0
        if view.values_of is None:
            yield from _values(level, f"{folder}/values", f"{record.id}/{view.key}")
        while True:
            yield from _pictures(level, f"{folder}/{number}")
            if len(level) <= TILE:
                break
            level, number = halved(level), number + 1


def quantised(similarity: Float[Tensor, "row row"]) -> NDArray[np.int8]:
    """Entries of -1 to 1 as whole numbers -127 to 127. Raises ``RequestError`` for a NaN or an entry outside."""
    values = similarity.detach().cpu().numpy()
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1.001:
        raise RequestError("a matrix shown has entries of -1 to 1 and no NaN")
    return np.asarray(np.rint(values * STEPS), dtype=np.int8)


def halved(level: NDArray[np.int8]) -> NDArray[np.int8]:
    """Half as wide: of each four entries the one of largest magnitude (a positive one before a negative one)."""
    size = -(-len(level) // 2) * 2
    padded = np.zeros((size, size), np.int8)
    padded[: len(level), : len(level)] = level
    blocks = [padded[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    # Symmetric whatever the order of the four: ties are broken by value and not by place.
    most = np.maximum.reduce(blocks)
    least = np.minimum.reduce(blocks)
    return np.asarray(np.where(most >= -least, most, least), dtype=np.int8)


def palette() -> list[int]:
    """Colours of the shades -63 … 63 as red, green, blue after each other: blue, white at 0, red."""
    colours: list[int] = []
    for entry in range(-SHADES, SHADES + 1):
        share = (abs(entry) / SHADES) ** _COLOUR_EXPONENT
        middle, end = (_MIDDLE_RED, _RED) if entry > 0 else (_MIDDLE_BLUE, _BLUE)
        near, far, at = (_WHITE, middle, 2 * share) if share < 0.5 else (middle, end, 2 * share - 1)
        colours += [round(a + (b - a) * at) for a, b in zip(near, far, strict=True)]
    return colours


def _pictures(level: NDArray[np.int8], folder: str) -> Iterator[tuple[str, bytes]]:
    colours = palette()
    for row, column, tile in _tiles(level):
        shades = np.rint(tile * (SHADES / STEPS)) + SHADES
        image = Image.fromarray(shades.astype(np.uint8), mode="P")
        image.putpalette(colours)
        content = io.BytesIO()
        image.save(content, "PNG", compress_level=9)
        yield f"{folder}/{row}-{column}.png", content.getvalue()


def _values(level: NDArray[np.int8], folder: str, key: str) -> Iterator[tuple[str, bytes]]:
    for row, column, tile in _tiles(level):
        packed = base64.b64encode(zlib.compress(tile.tobytes(), 9)).decode()
        # A script and not data to be fetched: a page opened from disk may load the one and not the other.
        yield f"{folder}/{row}-{column}.js", f'matrixValues("{key}/{row}-{column}", "{packed}");\n'.encode()


def _tiles(level: NDArray[np.int8]):
    n_tiles = -(-len(level) // TILE)
    for row in range(n_tiles):
        for column in range(row, n_tiles):
            tile = level[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            yield row, column, np.ascontiguousarray(tile)
