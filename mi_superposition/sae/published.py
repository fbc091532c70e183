"""Published autoencoders, by the names of SAELens's registry: fetched once, and kept in SAELens's own format."""

from __future__ import annotations

import difflib
import re
import warnings
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from mi_superposition.errors import RequestError, WorkError, first_line
from mi_superposition.models.hub import HUB_ERRORS, kept_beside_hub_cache

# Ways of scaling that SAELens folds into the weights where it has the factor, and leaves standing where it has none.
_UNSCALED = ("expected_average_only_in",)
# At most so many of the names there are stand in an error.
_NAMED = 3


def kept_folder(name: str) -> Path:
    """Where ``RELEASE:ID`` is kept, or will be. Raises ``RequestError`` for a name that SAELens's registry does not have.

    ``RELEASE`` is a name of the registry (``gpt2-small-res-jb``, ``gemma-scope-2b-pt-res``) or a hub id with autoencoders in SAELens's
    format.
    """
    release, sae_id = _parts(name)
    _check(release, sae_id)
    return kept_beside_hub_cache("saes", *(re.sub(r"[^\w.-]+", "--", part) for part in (release, sae_id)))


def fetch_published(name: str) -> SAE[Any]:
    """The autoencoder ``RELEASE:ID`` by SAELens's own converters, from the hub or its local cache.

    Raises ``WorkError`` for one that cannot be had, and ``RequestError`` for one whose factor of scaling did not come with it.
    """
    release, sae_id = _parts(name)
    try:
        # It advises how a model would be loaded with its own functions.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except HUB_ERRORS as error:
        raise WorkError(
            f"{name!r} is not in the local hub cache, and the hub cannot be reached or does not give it: "
            f"{first_line(error)}"
        ) from error
    # Its converters raise errors of all kinds for files that are damaged or of another layout.
    except Exception as error:
        raise WorkError(f"SAELens cannot read {name!r}: {first_line(error)}") from error
    if sae.cfg.normalize_activations in _UNSCALED:
        raise RequestError(
            f"{name!r} reads activations scaled to an average norm, and the factor did not come with it: give a release that SAELens lists"
        )
    return sae


def _parts(name: str) -> tuple[str, str]:
    release, _, sae_id = name.partition(":")
    return release, sae_id


def _check(release: str, sae_id: str) -> None:
    known = get_pretrained_saes_directory()
    if release in known:
        ids = list(known[release].saes_map)
        if sae_id not in ids:
            near = difflib.get_close_matches(sae_id, ids, n=_NAMED) or ids[:_NAMED]
            raise RequestError(
                f"{sae_id!r} is none of the {len(ids)} autoencoders of {release!r}: give {', '.join(map(repr, near))}, …"
            )
    elif "/" not in release or not sae_id:
        near = difflib.get_close_matches(release, known, n=_NAMED)
        hint = f"did you mean {near[0]!r}?" if near else "see the list of pretrained SAEs in SAELens's documentation"
        raise RequestError(f"{release!r} is no release of autoencoders that SAELens knows: {hint}")
