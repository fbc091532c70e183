"""The ablation study's GIF, read back as a viewer reads it."""

import io

import numpy as np
import torch
from PIL import Image

from mi_superposition.addition.ablation import AblationMaps
from mi_superposition.figures.animation import _PANELS, ablation_gif

# The ends and the middle of plotly's RdBu, reversed.
LOWEST, ZERO, HIGHEST = (5, 48, 97), (247, 247, 247), (103, 0, 31)


def maps(by_digit):
    names = ["all", "none"]
    return AblationMaps(names, by_digit[:, 3], by_digit, torch.zeros(2, 7))


def frames(content):
    image = Image.open(io.BytesIO(content))
    assert image.info["duration"] == 330
    for index in range(image.n_frames):
        image.seek(index)
        yield np.asarray(image.convert("RGB"))


def cell(frame, panel, a, b):
    left, top, size = _PANELS[panel]
    block = frame[top + a * size : top + (a + 1) * size, left + b * size : left + (b + 1) * size]
    assert (block == block[0, 0]).all()
    return tuple(block[0, 0].tolist())


def test_a_frame_per_condition_with_every_logit_in_its_cell():
    by_digit = torch.zeros(2, 10, 10, 10)
    by_digit[0, 3, 2, 7], by_digit[0, 9, 0, 5], by_digit[1, 3, 2, 7] = 8.0, -8.0, -8.0
    everything, nothing = frames(ablation_gif(maps(by_digit), ["all", "none"]))
    # The right digit's map comes first, then one per digit.
    assert cell(everything, 0, 2, 7) == cell(everything, 1 + 3, 2, 7) == HIGHEST
    assert cell(everything, 1 + 9, 0, 5) == cell(nothing, 0, 2, 7) == LOWEST
    assert cell(everything, 0, 7, 2) == cell(nothing, 1 + 9, 0, 5) == ZERO
    # The title names the condition, and what stands beside the maps stays as it is.
    assert (everything[:30] != nothing[:30]).any()
    left = slice(0, _PANELS[0][0] - 1)
    assert (everything[30:, left] == nothing[30:, left]).all()


def test_logits_that_are_all_0_have_the_colour_of_0():
    [frame] = frames(ablation_gif(maps(torch.zeros(2, 10, 10, 10)), ["none"]))
    assert cell(frame, 0, 0, 0) == ZERO
