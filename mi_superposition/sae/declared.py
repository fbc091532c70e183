"""What ``cfg.json`` must hold of an autoencoder: SAELens takes it as it comes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import torch
from sae_lens import SAE

from mi_superposition.parts import Precision
from mi_superposition.schemas import convert_as

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
# Fields of SAELens's configurations that say no more than one of these are held to it.
_PLAIN = (int, float, bool, str)


class _Training(TypedDict):
    """How a run of 'sae train' trained it: what its control is trained with."""

    tokens: NotRequired[_Count]
    batch_size: _Count
    buffer_batches: _Count
    batch: _Count
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    precision: Precision
    documents: NotRequired[_Count | None]


class _Metadata(TypedDict, total=False):
    """Of ``metadata`` what is used here."""

    hook_name: str | None
    hook_name_out: str | None
    model_name: str | None
    model_sha256: str | None
    model_from_pretrained_kwargs: dict[str, Any] | None
    context_size: _Count | None
    prepend_bos: bool | None
    trained_with: dict[str, Any] | None
    training: _Training | None


def check_declared(sae: SAE[Any]) -> None:
    """Raise ``ValueError``, with the field, where the configuration of an autoencoder holds something else than SAELens, or this package
    as it trained it, says.
    """
    hints = typing.get_type_hints(type(sae.cfg))
    for field in dataclasses.fields(sae.cfg):
        if _is_plain(hints[field.name]):
            convert_as(getattr(sae.cfg, field.name), hints[field.name], field.name)
    convert_as(dict(sae.cfg.metadata.items()), _Metadata, "metadata")


@torch.no_grad()
def check_encodes(sae: SAE[Any]) -> None:
    """Raise whatever torch does where an autoencoder cannot take a token, such as for a k that it has not so many features for."""
    sae.decode(sae.encode(torch.zeros(1, sae.cfg.d_in, device=sae.W_dec.device)))


def _is_plain(hint: Any) -> bool:
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return True
    return hint in _PLAIN or (bool(inside) and all(one is type(None) or _is_plain(one) for one in inside))
