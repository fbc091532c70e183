"""Links from a head to what reads what it writes: neurons of later layers, and features of a sparse autoencoder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.heads.scan import HeadScan, HeadWeights, written_directions
from mi_superposition.heads.scan.config import HeadPagesConfig, HeadScanConfig
from mi_superposition.heads.scan.reading import DIRECTIONS, DRAWS, HeadReaders, readers_of_heads
from mi_superposition.models import FEATURES, load_model
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.effects import input_directions
from mi_superposition.sae import load_sae
from mi_superposition.sae.files import processing_of
from mi_superposition.site.head_records import HEADS, HeadLinks
from mi_superposition.site.records import Link
from mi_superposition.site.unit_records import found_address, unit_slug
from mi_superposition.studies.neurons.readers import scanned_saes

_SHOWN = 8


def reader_links(
    scan: HeadScan, model: HookedModel, config: HeadPagesConfig, asked: HeadScanConfig
) -> list[list[HeadLinks]]:
    """For each head its lists of readers. Raises ``RequestError`` for an autoencoder of another model, or of no residual stream."""
    if config.neurons is not None and not config.neurons.is_dir():
        raise RequestError(
            f"neurons = {str(config.neurons)!r}: there is no such folder; give one that 'neurons pages' wrote"
        )
    lists: list[list[HeadLinks]] = [[] for _ in scan.names]
    if not getattr(model.cfg, "attn_only", False):
        reading = {
            f"blocks.{layer}.mlp.hook_post": input_directions(model, layer) for layer in range(model.cfg.n_layers)
        }
        # Where attention and MLP run in parallel, the layer's own neurons do not read its heads.
        own = 0 if f"blocks.{scan.layers[0]}.hook_resid_mid" in model.hook_dict else 1
        later = [
            [f"blocks.{after}.mlp.hook_post" for after in range(layer + own, model.cfg.n_layers)]
            for layer in scan.layers
            for _ in range(scan.n_heads)
        ]
        _add(lists, "Neurons that read what it writes (cosine)", model, reading, later, config, asked)
    if config.sae is not None:
        # The weights processed as those were that the autoencoder was trained on.
        processing = processing_of(load_sae(config.sae))
        other = (
            load_model(asked.model.name, device=config.device.device, process_weights=processing)
            if processing
            else model
        )
        features, sae = _features(config.sae, other)
        layer = _last_layer_before(features.removesuffix(FEATURES))
        later = [[features] * (one <= layer) for one in scan.layers for _ in range(scan.n_heads)]
        reading = {features: sae.W_enc.detach().float().cpu()}
        _add(lists, "Features that read what it writes (cosine)", other, reading, later, config, asked)
    return lists


def _add(
    lists: list[list[HeadLinks]],
    title: str,
    model: HookedModel,
    reading: Mapping[str, Float[Tensor, "d_model _unit"]],
    later: Sequence[Sequence[str]],
    config: HeadPagesConfig,
    asked: HeadScanConfig,
) -> None:
    written, _ = written_directions(HeadWeights.of(model), DIRECTIONS)
    found = readers_of_heads(written, reading, later, _SHOWN, seed=asked.kept.random.seed)
    for links, readers in zip(lists, found, strict=True):
        if readers is not None:
            links.append(_links(title, readers, config))


def _links(title: str, readers: HeadReaders, config: HeadPagesConfig) -> HeadLinks:
    here = (config.out / HEADS).resolve()

    def named(hook: str, unit: int) -> str | Link:
        name = f"feature {unit}" if hook.endswith(FEATURES) else unit_slug(hook, unit)
        if config.neurons is None or (address := found_address(config.neurons, hook, unit)) is None:
            return name
        return Link(name, Path(os.path.relpath((config.neurons / address).resolve(), here)).as_posix())

    return HeadLinks(
        title=title,
        links=[(named(one.hook, one.unit), one.cosine) for one in readers.nearest],
        control=(
            f"Nearest to one of the {DIRECTIONS} directions in which the head writes most. The nearest of as many random directions of equal "
            f"covariance: {readers.chance:.2f} ± {readers.chance_deviation:.2f} ({DRAWS} draws)."
        ),
    )


def _features(name: str, model: HookedModel) -> tuple[str, Any]:
    [(features, sae)] = scanned_saes(name, model).items()
    if _last_layer_before(features.removesuffix(FEATURES)) is None:
        raise RequestError(
            f"sae = {name!r}: reads {features.removesuffix(FEATURES)!r}; heads write into the residual stream, so give one of hook_resid_…"
        )
    return features, sae


def _last_layer_before(hook: str) -> Any:
    """The last layer whose heads write into a hook of the residual stream; ``None`` for another hook."""
    words = hook.split(".")
    if len(words) != 3 or words[0] != "blocks" or not words[2].startswith("hook_resid_"):
        return None
    return int(words[1]) - (words[2] == "hook_resid_pre")
