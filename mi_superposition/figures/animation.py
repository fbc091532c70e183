"""Animated GIFs, for places where a page with scripts cannot go."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mi_superposition.addition.ablation import AblationMaps


def ablation_gif(maps: AblationMaps, conditions: Sequence[str], *, frames_per_second: int = 3) -> bytes:
    """The right digit's logit (left) and every digit's (2 × 5), one frame a condition, on one colour scale."""
    limit = float(maps.by_digit.abs().max())
    # An own Figure, not pyplot: no window system and no global state.
    figure = Figure(figsize=(9.2, 3.4), dpi=90, layout="constrained")
    grid = figure.add_gridspec(2, 7)
    scale: dict[str, Any] = dict(cmap="RdBu_r", vmin=-limit, vmax=limit)
    large = figure.add_subplot(grid[:, :2])
    images = [large.imshow(maps.correct[0].numpy(), **scale)]
    large.set(xlabel="b", ylabel="a", xticks=range(10), yticks=range(10), title="right digit")
    for digit in range(10):
        axes = figure.add_subplot(grid[digit // 5, 2 + digit % 5])
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"digit {digit}", fontsize=9)
        images.append(axes.imshow(maps.by_digit[0, digit].numpy(), **scale))
    figure.colorbar(images[0], ax=figure.axes, label="logit", shrink=0.9)
    title = figure.suptitle("")

    def show(condition: str) -> list[Artist]:
        row = maps.of(condition)
        for image, panel in zip(images, [maps.correct[row], *maps.by_digit[row]], strict=True):
            image.set_data(panel.numpy())
        title.set_text(f"heads kept: {condition}")
        return [*images, title]

    return _gif(figure, show, conditions, frames_per_second)


def _gif(figure: Figure, show: Callable[[str], list[Artist]], frames: Sequence[str], frames_per_second: int) -> bytes:
    """Draw each frame in memory and join them."""
    canvas = FigureCanvasAgg(figure)
    pictures = []
    for frame in frames:
        show(frame)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()))
    # One palette for all frames: a colour means the same logit in each.
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(pictures)))
    for index, picture in enumerate(pictures):
        strip.paste(picture, (0, index * height))
    palette = strip.quantize(256)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=rest, duration=1000 // frames_per_second, loop=0)
    return content.getvalue()
