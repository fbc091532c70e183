"""What an ablated head's output is replaced by: its means over other documents, or its output on one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora.batches import TokenBatch
from mi_superposition.heads.forward import Ablation, Clean
from mi_superposition.models.protocol import HookedModel
from mi_superposition.models.reading import read_hooks
from mi_superposition.training import seeded_generator

# The mean at a position that fewer documents reach would be those documents: the mean over all positions stands in for it.
FEWEST_AT_A_POSITION = 8
# Documents whose outputs are kept for others: of each, all heads of a layer at every position.
N_DONORS = 32


class Piece(NamedTuple):
    """Rows, each the beginning of one document, without the padding that none of them needs."""

    tokens: Int[Tensor, "batch pos"]
    length: Int[Tensor, " batch"]
    batch: TokenBatch


def pieces_of(batches: Iterable[TokenBatch], device: torch.device) -> Iterable[Piece]:
    """Rows in pieces as a model on that device reads them fastest."""
    for batch in batches:
        for piece in batch.pieces(device):
            # A beginning token is a part of what a head reads, padding is not.
            length = (piece.mask * torch.arange(1, piece.mask.shape[1] + 1)).amax(dim=1)
            width = int(length.max())
            yield Piece(piece.tokens[:, :width], length, piece)


@dataclass(frozen=True)
class Reference:
    """Outputs (``hook_z``) of the heads of a layer on documents of their own, which are in no measurement.

    ``position_mean`` is the mean at each position over the documents that reach it; over all positions where these are fewer than
    ``FEWEST_AT_A_POSITION``. ``overall_mean`` is that over all tokens. ``donors``: the outputs on some of the documents, whose numbers
    of tokens are ``donor_length``.
    """

    position_mean: Float[Tensor, "pos head d_head"]
    overall_mean: Float[Tensor, "head d_head"]
    donors: Float[Tensor, "donor donor_pos head d_head"]
    donor_length: Int[Tensor, " donor"]

    def to(self, device: torch.device) -> Reference:
        """The same on a device."""
        return Reference(*(tensor.to(device) for tensor in vars(self).values()))

    def replacing(self, clean: Clean, documents: list[int], default: str, seed: int) -> Callable[[Ablation], Tensor]:
        """What stands in for the layer's outputs on some rows, by the ablation; of a random direction what ``default`` says.

        Another document is drawn for each row from its number and the seed alone: at every position the first, in a random order, of those
        that are so long; where none is, the overall mean.
        """
        width = clean.z.shape[1]
        made: dict[str, Tensor] = {}

        def make(kind: str) -> Tensor:
            if kind == "zero":
                return torch.zeros_like(clean.z[:1, :1])
            if kind == "overall mean":
                return self.overall_mean[None, None]
            return self.position_mean[None, :width] if kind == "mean" else self._of_others(documents, width, seed)

        def replaced(ablation: Ablation) -> Tensor:
            kind = default if ablation.done == "random direction" else ablation.done
            if kind not in made:
                made[kind] = make(kind)
            return made[kind]

        return replaced

    def _of_others(self, documents: list[int], width: int, seed: int) -> Float[Tensor, "batch pos head d_head"]:
        reaches = self.donor_length.cpu()[:, None] > torch.arange(width)
        rows = []
        for number in documents:
            order = torch.randperm(len(self.donors), generator=seeded_generator(seed, "another document", number))
            rows.append(order[reaches[order].int().argmax(dim=0)])
        chosen = torch.stack(rows).to(self.donors.device)
        positions = torch.arange(width, device=chosen.device).clamp_max(self.donors.shape[1] - 1)
        found = self.donors[chosen, positions]
        none = ~reaches.any(dim=0).to(chosen.device)
        found[:, none] = self.overall_mean
        return found


@torch.no_grad()
def reference_of(model: HookedModel, layer: int, batches: Iterable[TokenBatch]) -> Reference:
    """The reference of a layer from documents, each a row. Means are taken in double precision."""
    cfg, hook = model.cfg, f"blocks.{layer}.attn.hook_z"
    sums = torch.zeros(cfg.n_ctx, cfg.n_heads, cfg.d_head, dtype=torch.float64)
    reached = torch.zeros(cfg.n_ctx, dtype=torch.float64)
    donors: dict[int, Tensor] = {}
    for piece in pieces_of(batches, model.W_E.device):
        z = read_hooks(model, piece.tokens, [hook])[hook].unflatten(2, (cfg.n_heads, cfg.d_head)).cpu()
        there = torch.arange(z.shape[1]) < piece.length[:, None]
        sums[: z.shape[1]] += (z.double() * there[..., None, None]).sum(dim=0)
        reached[: z.shape[1]] += there.sum(dim=0)
        for row, number in enumerate(piece.batch.document.amax(dim=1).tolist()):
            # The documents of the lowest numbers, in whatever order they come.
            donors[number] = z[row, : int(piece.length[row])].clone()
        donors = {number: donors[number] for number in sorted(donors)[:N_DONORS]}
    longest = int((reached > 0).sum())
    overall = (sums.sum(dim=0) / reached.sum()).float()
    mean = (sums / reached.clamp_min(1)[:, None, None]).float()
    mean[reached < FEWEST_AT_A_POSITION] = overall
    kept = list(donors.values())
    outputs = torch.zeros(len(kept), max(longest, 1), cfg.n_heads, cfg.d_head)
    for row, z in zip(outputs, kept, strict=True):
        row[: len(z)] = z
    return Reference(mean, overall, outputs, torch.tensor([len(z) for z in kept]))
