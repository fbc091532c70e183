"""Where the ink of MNIST's digits is, and what a heat map says of it, for simplenet_neurons.py: holes, crossings, curves, attributions."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn

from mi_superposition.corpora.images import Images

# Ink is brighter than a half. A place of a digit is a disc; so large a share of its ink is taken away by a map.
INK, RADIUS, TAKEN = 0.5, 3.0, 0.1


def holes(image: Float[np.ndarray, "height width"]) -> list[tuple[float, float]]:
    """The middles of the holes in a digit's ink, the largest first; specks of one or two pixels are none."""
    parts, n = ndimage.label(np.pad(image <= INK, 1, constant_values=True))
    outside = parts[0, 0]
    sizes = {part: int((parts == part).sum()) for part in range(1, n + 1) if part != outside}
    kept = sorted((part for part, size in sizes.items() if size > 2), key=lambda part: -sizes[part])
    return [tuple(value - 1 for value in ndimage.center_of_mass(parts == part)) for part in kept]


def crossing(image: Float[np.ndarray, "height width"]) -> tuple[float, float] | None:
    """The middle of an 8 with two holes: halfway between them."""
    found = holes(image)
    return None if len(found) != 2 else tuple(np.mean(found, axis=0))


def lower_half(ink: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The ink below its middle."""
    rows = np.nonzero(ink)[0]
    return ink & (np.arange(len(ink))[:, None] > (rows.min() + rows.max()) / 2)


def bowl(image: Float[np.ndarray, "height width"]) -> tuple[float, float] | None:
    """The curve of a 5: where the lower half of its ink reaches furthest to the right."""
    if not (image > INK).any():
        return None
    rows, columns = np.nonzero(lower_half(image > INK))
    return float(rows[columns == columns.max()].mean()), float(columns.max())


def disc(middle: tuple[float, float], shape: tuple[int, ...]) -> Bool[np.ndarray, "height width"]:
    """The pixels near a place."""
    rows, columns = np.indices(shape)
    return (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= RADIUS**2


class Pictures:
    """The fives and eights of the test images with their places, and random places beside them."""

    def __init__(self, images: Images, pixels: Tensor):
        brightness = images.pixels[:, 0].float().numpy() / 255
        generator = np.random.default_rng(0)
        self.places: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        fives = (images.labels == 5).nonzero().flatten()
        self.fives = pixels[fives], images.labels[fives]
        lower = [lower_half(brightness[number] > INK) for number in fives.tolist() if (brightness[number] > INK).any()]
        self.lower = torch.from_numpy(np.array(lower).reshape(len(lower), -1))
        for name, digit, find in (("crossing of an 8", 8, crossing), ("curve of a 5", 5, bowl)):
            chosen, here, elsewhere = [], [], []
            for number in (images.labels == digit).nonzero().flatten().tolist():
                middle = find(brightness[number])
                if middle is None:
                    continue
                ink = brightness[number] > INK
                other = np.argwhere(ink)[generator.integers(ink.sum())]
                chosen.append(number)
                here.append(disc(middle, ink.shape) & ink)
                elsewhere.append(disc(tuple(other), ink.shape) & ink)
            flat = [torch.from_numpy(np.array(some).reshape(len(some), -1)) for some in (here, elsewhere)]
            self.places[name] = (pixels[chosen], images.labels[chosen], *flat)


def heat(
    network: nn.Module, images: Float[Tensor, "image channel height width"], labels: Int[Tensor, " image"]
) -> Float[Tensor, "image pixel"]:
    """Brightness above the background times the gradient of the label's logit over the mean logit: what each pixel adds to it."""
    read = images.clone().requires_grad_()
    logits = network(read)
    (logits.gather(1, labels[:, None]).sum() - logits.mean(dim=1).sum()).backward()
    assert read.grad is not None
    return ((images - images.min()) * read.grad).flatten(1)


def without(
    images: Float[Tensor, "image channel height width"], taken: Bool[Tensor, "image pixel"]
) -> Float[Tensor, "image channel height width"]:
    """The images with some pixels as dark as the background."""
    return torch.where(taken.view_as(images), images.min(), images)


def top_ink(scores: Float[Tensor, "image pixel"], ink: Bool[Tensor, "image pixel"]) -> Bool[Tensor, "image pixel"]:
    """Of each image the tenth of its ink with the highest scores."""
    wanted = (TAKEN * ink.sum(dim=1)).ceil().long()
    order = scores.masked_fill(~ink, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    return ink & (order < wanted[:, None])
