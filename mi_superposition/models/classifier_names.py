"""Image classifiers that are built here, by name. Imports no torch, so that a command line can be checked without it."""

from __future__ import annotations

from typing import Literal

CLASSIFIERS = ("simplenet", "resnet50")
# How a ResNet sees an image first. "imagenet": a convolution of 7 × 7 and stride 2, then pooling. "small": 3 × 3 and stride 1
# without pooling, as is usual for images of 32 × 32. "small-pooled": that with pooling, for a quarter of the arithmetic.
Stem = Literal["imagenet", "small", "small-pooled"]
