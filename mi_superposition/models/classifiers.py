"""Image classifiers by name: a small one of three linear layers, ResNet-50, or any that transformers can load."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.catalogue import HUGGING_FACE_CONFIG
from mi_superposition.models.classifier_names import CLASSIFIERS, Stem
from mi_superposition.models.hub import fetch_model, refuse_own_code
from mi_superposition.parts import SeedPart
from mi_superposition.training import derived_seed


class SimpleNet(nn.Module):
    """Pixels → 128 → 64 → classes, with ReLU between."""

    def __init__(self, n_pixels: int, n_classes: int):
        super().__init__()
        self.fc1 = nn.Linear(n_pixels, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, n_classes)

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image label"]:
        """Logits (nats)."""
        hidden = torch.relu(self.fc1(images.flatten(1)))
        return self.fc3(torch.relu(self.fc2(hidden)))


def build_classifier(
    name: str | Path,
    *,
    shape: tuple[int, int, int],
    n_classes: int,
    stem: Stem = "imagenet",
    pretrained: bool = True,
    seed: int = SeedPart.seed,
) -> nn.Module:
    """A classifier of images of ``shape`` (channels, height, width), on the CPU; see ``logits``.

    ``name`` is ``"simplenet"`` or ``"resnet50"`` (both freshly initialised from ``seed``), or an image classifier in Hugging
    Face layout: a folder, or an id on the hub such as ``"microsoft/resnet-50"``. That one keeps its weights, except in layers
    of another shape than these classes, channels or ``stem`` want, which are fresh; ``pretrained=False`` makes all fresh.

    Raises ``RequestError`` for a name that is not there, a stem for another network than a ResNet, and images that it cannot
    read; ``WorkError`` for damaged weights or a network that fails. Leaves the global random state as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "classifier") % 2**63)
        if str(name) == "simplenet":
            network: nn.Module = SimpleNet(shape[0] * shape[1] * shape[2], n_classes)
        elif str(name) == "resnet50":
            config = ResNetConfig(num_channels=shape[0])
            config.num_labels = n_classes
            network = ResNetForImageClassification(config)
        else:
            network = _from_folder(_folder(name), str(name), shape[0], n_classes, pretrained)
        if stem != "imagenet":
            _set_stem(network, name, shape[0], stem)
    _check_reads(network, name, shape)
    return network


def logits(network: nn.Module, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image label"]:
    """What a classifier of ours or of transformers says (nats)."""
    said = network(images)
    return said if isinstance(said, Tensor) else said.logits


def _folder(name: str | Path) -> Path:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / HUGGING_FACE_CONFIG).is_file():
            raise RequestError(f"{str(name)!r} is a folder without {HUGGING_FACE_CONFIG}: it holds no network")
        return folder
    if len(parts := str(name).split("/")) == 2 and all(parts) and not str(name).startswith("."):
        return fetch_model(str(name), tokenizer=False)
    near = difflib.get_close_matches(str(name), CLASSIFIERS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"give {' or '.join(map(repr, CLASSIFIERS))}, a folder or a hub id"
    raise RequestError(f"{str(name)!r} is no network: {hint}")


def _from_folder(folder: Path, name: str, n_channels: int, n_classes: int, pretrained: bool) -> nn.Module:
    changed: dict[str, Any] = {"num_labels": n_classes}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if hasattr(config, "num_channels"):
            changed["num_channels"] = n_channels
        config.update(changed)
        if not pretrained:
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
        loader: Any = AutoModelForImageClassification
        network, loaded = loader.from_pretrained(
            folder,
            config=config,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {str(error).strip().splitlines()[0]}") from error
    except (ValueError, KeyError) as error:
        refuse_own_code(name, error)
        raise RequestError(f"{name!r} is no image classifier of transformers: give one") from error
    # Transformers makes up what it does not find; what has another shape for other classes or channels is to be fresh.
    if absent := sorted(map(str, loaded["missing_keys"])):
        raise WorkError(f"the weights in {str(folder)!r} are damaged: {absent[0]} is missing")
    return network.float()


def _set_stem(network: nn.Module, name: str | Path, n_channels: int, stem: Stem) -> None:
    embedder = getattr(getattr(network, "resnet", None), "embedder", None)
    if embedder is None:
        raise RequestError(f"stem = {stem!r}: only a ResNet has one, {str(name)!r} does not")
    before = embedder.embedder.convolution
    fresh = nn.Conv2d(n_channels, before.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    embedder.embedder.convolution = fresh
    if stem == "small":
        embedder.pooler = nn.Identity()


@torch.no_grad()
def _check_reads(network: nn.Module, name: str | Path, shape: tuple[int, int, int]) -> None:
    was_training = network.training
    try:
        logits(network.eval(), torch.zeros(1, *shape))
    except (ValueError, RuntimeError) as error:
        size = " × ".join(map(str, shape))
        raise RequestError(
            f"{str(name)!r} cannot read images of {size}: {str(error).strip().splitlines()[0]}"
        ) from error
    finally:
        network.train(was_training)
