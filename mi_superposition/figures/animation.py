"""Animated GIFs, for places where a page with scripts cannot go."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageColor, ImageDraw, ImageFont
from plotly.colors import sample_colorscale
from torch import Tensor

from mi_superposition.addition.ablation import AblationMaps
from mi_superposition.figures.style import DIVERGING

# The palette of all frames: shades of the scale, an odd number so that 0 has its own, then greys for lines and text.
_SHADES, _GREYS = 191, 64
_SIZE = (830, 306)
# Left, top and the width of a cell, all in pixels: the right digit's map, then one per digit.
_PANELS = [(44, 78, 18), *((246 + 99 * (digit % 5), 56 + 128 * (digit // 5), 9) for digit in range(10))]
_BAR_LEFT, _BAR_TOP, _BAR_WIDTH = 752, 56, 14
_TITLE, _LABEL, _TICK = 17, 14, 12


def ablation_gif(maps: AblationMaps, conditions: Sequence[str], *, frames_per_second: int = 3) -> bytes:
    """The right digit's logit (left) and every digit's (2 × 5), one frame per condition, on one colour scale.

    A map has ``a`` down and ``b`` across, as ``AblationMaps`` has.
    """
    limit = float(maps.by_digit.abs().max()) or 1.0
    ground = _ground(limit)
    frames = []
    for condition in conditions:
        row = maps.of(condition)
        titled = ground.copy()
        _write(titled, (_SIZE[0] // 2, 20), f"heads kept: {condition}", _TITLE)
        frames.append(_frame(titled, [maps.correct[row], *maps.by_digit[row]], limit))
    first, *rest = frames
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=rest, duration=1000 // frames_per_second, loop=0)
    return content.getvalue()


def _ground(limit: float) -> Image.Image:
    """What all frames share, in grey: borders, names and ticks of the maps and of the colour bar."""
    image = Image.new("L", _SIZE, 255)
    draw = ImageDraw.Draw(image)
    for index, (left, top, cell) in enumerate(_PANELS):
        draw.rectangle((left - 1, top - 1, left + 10 * cell, top + 10 * cell), outline=0)
        name, size = ("right digit", _LABEL) if index == 0 else (f"digit {index - 1}", _TICK)
        _write(image, (left + 5 * cell, top - 12), name, size)
    left, top, cell = _PANELS[0]
    for digit in range(10):
        middle = digit * cell + cell // 2
        _write(image, (left + middle, top + 10 * cell + 11), str(digit), _TICK)
        _write(image, (left - 10, top + middle), str(digit), _TICK)
    _write(image, (left + 5 * cell, top + 10 * cell + 30), "b", _LABEL)
    _write(image, (left - 30, top + 5 * cell), "a", _LABEL)
    right, bottom = _BAR_LEFT + _BAR_WIDTH, _BAR_TOP + _SHADES
    draw.rectangle((_BAR_LEFT - 1, _BAR_TOP - 1, right, bottom), outline=0)
    _write(image, (_BAR_LEFT + _BAR_WIDTH // 2, _BAR_TOP - 18), "logit", _LABEL)
    for share in (-1, -0.5, 0, 0.5, 1):
        y = _BAR_TOP + round((1 - share) / 2 * (_SHADES - 1))
        draw.line((right, y, right + 4, y), fill=0)
        _write(image, (right + 8, y), f"{share * limit:.3g}", _TICK, anchor="lm")
    return image


def _frame(ground: Image.Image, maps: Sequence[Float[Tensor, "a b"]], limit: float) -> Image.Image:
    """The ground with the maps in their places, all in colours of the palette."""
    pixels = _SHADES + np.asarray(ground) // (256 // _GREYS)
    for (left, top, cell), values in zip(_PANELS, maps, strict=True):
        shades = np.rint((values.cpu().numpy() / limit + 1) / 2 * (_SHADES - 1))
        pixels[top : top + 10 * cell, left : left + 10 * cell] = shades.repeat(cell, axis=0).repeat(cell, axis=1)
    pixels[_BAR_TOP : _BAR_TOP + _SHADES, _BAR_LEFT : _BAR_LEFT + _BAR_WIDTH] = np.arange(_SHADES)[::-1, None]
    frame = Image.fromarray(pixels)
    frame.putpalette(_palette())
    return frame


@functools.cache
def _palette() -> list[int]:
    """Red, green and blue of every colour, one after another."""
    shades = map(ImageColor.getrgb, sample_colorscale(f"{DIVERGING}_r", _SHADES))
    greys = np.linspace(0, 255, _GREYS).round().astype(int).tolist()
    return [level for colour in (*shades, *((grey,) * 3 for grey in greys)) for level in colour]


def _write(image: Image.Image, at: tuple[int, int], text: str, size: int, *, anchor: str = "mm") -> None:
    """Black text with its middle at a pixel, or what else ``anchor`` says in Pillow's letters."""
    ImageDraw.Draw(image).text(at, text, fill=0, font=ImageFont.load_default(size), anchor=anchor)
