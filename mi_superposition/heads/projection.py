"""Where each head puts tokens and positions: its queries, keys, values and output directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.models.protocol import HookedModel
from mi_superposition.results import Result

_MAX_POINTS = 50_000_000


# Where points of a head come from, by the usual letter: names of fields of ``HeadProjections``.
MATRICES = {"Q": "query", "K": "key", "V": "value", "O": "output"}


@dataclass(frozen=True, repr=False)
class HeadProjections(Result):
    """Projections of ``W_E[token] + W_pos[position]`` by every head of one layer, in activation units.

    ``output`` holds the direction of each output token in a head: ``(W_O[h] @ W_U)[:, t]``, logits per unit of
    ``z``. ``b_O`` belongs to no head and is left out. ``ov`` is the circuit from the token read to the logit
    written, ``W_E W_V[h] W_O[h] W_U`` (Elhage et al. 2021), its mean over the chosen tokens and over the logits taken
    out: the first is an offset, the second invisible to a softmax. With it come its singular values and directions:
    rows of ``ov_read`` over the tokens read, rows of ``ov_write`` over the tokens written. ``before_rotation``: queries and keys are those
    of a model with rotary positions before it rotates them, the same at every position.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.heads:projection_multiples"

    query: Float[Tensor, "head pos token d_head"]
    key: Float[Tensor, "head pos token d_head"]
    value: Float[Tensor, "head pos token d_head"]
    output: Float[Tensor, "head token_out d_head"]
    ov: Float[Tensor, "head token token_out"]
    ov_singular_values: Float[Tensor, "head rank"]
    ov_read: Float[Tensor, "head rank token"]
    ov_write: Float[Tensor, "head rank token_out"]
    tokens: Int[Tensor, " token"]
    positions: Int[Tensor, " pos"]
    before_rotation: bool = False

    @property
    def ov_ratio(self) -> Float[Tensor, " head"]:
        """Second over first singular value of each head's OV circuit: 0 for a head that uses one dimension."""
        values = self.ov_singular_values
        return values[:, 1] / values[:, 0] if values.shape[1] > 1 else torch.zeros(len(values))

    def summary(self) -> str:
        """How much was projected."""
        n_heads, n_positions, n_tokens, d_head = self.value.shape
        rotation = ", queries and keys before rotation" if self.before_rotation else ""
        return (
            f"Q, K, V and O of {n_heads} heads of {d_head} dimensions, {n_tokens} tokens at {n_positions} positions{rotation}; second over first "
            f"singular value of OV {float(self.ov_ratio.mean()):.2f} on average (0: one dimension in use)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per head: largest singular value of its OV circuit, the second over it, and the mean norm of its points."""
        norms = {name: self.points(name).norm(dim=-1).flatten(1).mean(dim=1).tolist() for name in MATRICES}
        return pd.DataFrame(
            {
                "ov_singular_value": self.ov_singular_values[:, 0].tolist(),
                "ov_ratio": self.ov_ratio.tolist(),
                **{f"{name}_norm": values for name, values in norms.items()},
            }
        ).rename_axis("head")

    def points(self, matrix: str) -> Float[Tensor, "head ... d_head"]:
        """The points of Q, K, V or O, by that letter."""
        return getattr(self, MATRICES[matrix])


@dataclass(frozen=True)
class Circularity:
    """How much of points on ten (or n) digits is one frequency of their discrete Fourier transform.

    ``share`` is the variance in the strongest frequency over the whole variance, ``frequency`` which one (cycles
    over the digits), and ``roundness`` how far that component is from a line: 1 a circle, 0 a line. All
    dimensionless. A straight, evenly spaced ramp has share 0.63 at frequency 1 but roundness 0, so read both.
    """

    share: Float[Tensor, " *points"]
    frequency: Int[Tensor, " *points"]
    roundness: Float[Tensor, " *points"]


@torch.no_grad()
def project_heads(
    model: HookedModel,
    *,
    layer: int = 0,
    tokens: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
) -> HeadProjections:
    """Q, K and V of embedding plus position (biases included), O onto the unembedding, for every head of a layer, in single precision.

    Without learnt positions (rotary ones, ALiBi) the embedding alone is projected, before any rotation: every position gives the same.
    For layers above the first, or with normalisation, this is the direct path from the embedding alone. ``tokens``
    and ``positions`` default to all the model has. Raises ``RequestError`` for a layer, token or position the
    model lacks, and where the answer would not fit in memory.
    """
    cfg = model.cfg
    if not 0 <= layer < cfg.n_layers:
        raise RequestError(f"layer = {layer}: the model has layers 0 to {cfg.n_layers - 1}")
    token_index = _index(tokens, cfg.d_vocab, "token")
    position_index = _index(positions, cfg.n_ctx, "position")
    n_points = cfg.n_heads * cfg.d_head * len(token_index) * len(position_index)
    if n_points > _MAX_POINTS:
        raise RequestError(
            f"{len(token_index)} tokens at {len(position_index)} positions are {n_points} numbers: "
            f"choose tokens and positions (at most {_MAX_POINTS} numbers)"
        )
    attn = model.blocks[layer].attn
    device = model.W_E.device
    embedded = model.W_E[token_index.to(device)].float()
    stream = _positions(model, position_index.to(device))[:, None] + embedded

    def of_heads(matrix: Tensor) -> Tensor:
        # Keys and values that several heads share, once for each of these.
        return matrix.float().repeat_interleave(cfg.n_heads // len(matrix), dim=0)

    def project(letter: str) -> Tensor:
        weight = of_heads(getattr(attn, f"W_{letter}"))
        points = einsum(stream, weight, "pos token d_model, head d_model d_head -> head pos token d_head")
        bias: Tensor | None = getattr(attn, f"b_{letter}", None)
        return points if bias is None else points + of_heads(bias)[:, None, None]

    to_logits = attn.W_O.float() @ model.W_U.float()
    ov = embedded @ of_heads(attn.W_V) @ to_logits
    ov = ov - ov.mean(dim=1, keepdim=True)
    ov = ov - ov.mean(dim=2, keepdim=True)
    read, singular_values, write = torch.linalg.svd(ov, full_matrices=False)
    rank = min(cfg.d_head, singular_values.shape[-1])
    return HeadProjections(
        query=project("Q"),
        key=project("K"),
        value=project("V"),
        output=to_logits.transpose(1, 2),
        ov=ov,
        ov_singular_values=singular_values[:, :rank],
        ov_read=read.transpose(1, 2)[:, :rank],
        ov_write=write[:, :rank],
        tokens=token_index,
        positions=position_index,
        before_rotation=cfg.positional_embedding_type == "rotary",
    )


def _positions(model: HookedModel, index: Int[Tensor, " pos"]) -> Float[Tensor, "pos d_model"]:
    """What each position adds to the embedding: nothing where positions come in by attention."""
    kind = model.cfg.positional_embedding_type
    if kind in ("rotary", "alibi"):
        return torch.zeros(len(index), model.cfg.d_model, device=index.device)
    learnt = getattr(model, "W_pos", None)
    if kind != "standard" or learnt is None:
        raise RequestError(f"the model has positions of the kind {kind!r} and no W_pos to project its heads with")
    return learnt[index].float()


def digit_circularity(projections: HeadProjections) -> dict[str, Circularity]:
    """Circularity of the tokens 0 to 9 in every head, for Q, K, V and O; ``tokens`` of the projections must begin with these.

    The position does not matter: it moves all ten digits alike, and their mean is taken out.
    """
    return {
        name: circularity(projections.output if name == "O" else projections.points(name)[:, 0, :10])
        for name in MATRICES
    }


def circularity(points: Float[Tensor, "*points digit xy"]) -> Circularity:
    """Fourier content of points over the digits, their mean taken out.

    Frequencies k and n - k are one for real points. Points that do not move at all give share 0. Thaman et al.
    judge by eye whether they lie on a circle; the two numbers are ours.
    """
    n_digits = points.shape[-2]
    centred = (points - points.mean(dim=-2, keepdim=True)).double()
    spectrum = torch.fft.rfft(centred, dim=-2)[..., 1:, :]
    # Every frequency but n / 2 stands for two of the full transform.
    twice = torch.full((spectrum.shape[-2],), 2.0, dtype=torch.float64, device=points.device)
    if n_digits % 2 == 0:
        twice[-1] = 1.0
    power = spectrum.abs().square().sum(dim=-1) * twice
    total = power.sum(dim=-1)
    strongest = power.argmax(dim=-1)
    share = power.gather(-1, strongest[..., None])[..., 0] / total.clamp_min(1e-30)
    mode = spectrum.gather(-2, strongest[..., None, None].expand(*strongest.shape, 1, points.shape[-1]))[..., 0, :]
    # The mode traces the ellipse Re(c e^{it}); its half-axes are the singular values of [Re c; Im c].
    axes = torch.linalg.svdvals(torch.stack([mode.real, mode.imag], dim=-2))
    second = axes[..., 1] if axes.shape[-1] > 1 else torch.zeros_like(axes[..., 0])
    roundness = second / axes[..., 0].clamp_min(1e-30)
    return Circularity(share.float(), strongest + 1, roundness.float())


def fourier_plane(points: Float[Tensor, "digit d_head"]) -> Float[Tensor, "2 d_head"]:
    """Orthonormal axes of the plane in which the digits' strongest Fourier component lies: the one that ``circularity`` measures.

    In two dimensions the axes are the coordinates themselves, and there is nothing to choose. A component that is a line has as its
    second axis the direction in which the digits vary most beside it.
    """
    d_head = points.shape[1]
    if d_head <= 2:
        return torch.eye(2, d_head, dtype=points.dtype, device=points.device)
    centred = (points - points.mean(dim=0)).double()
    spectrum = torch.fft.rfft(centred, dim=0)[1:]
    # Half of the digits' frequency stands for one of the full transform, the others for two.
    twice = torch.full((len(spectrum), 1), 2.0, dtype=torch.float64, device=points.device)
    if len(points) % 2 == 0:
        twice[-1] = 1
    mode = spectrum[int((spectrum.abs().square() * twice).sum(dim=1).argmax())]
    _, sizes, axes = torch.linalg.svd(torch.stack([mode.real, mode.imag]), full_matrices=False)
    if sizes[1] < 1e-9 * sizes[0]:
        beside = centred - (centred @ axes[0])[:, None] * axes[0]
        axes = torch.stack([axes[0], torch.linalg.svd(beside, full_matrices=False)[2][0]])
    return axes.to(points.dtype)


def _index(chosen: Sequence[int] | None, available: int, what: str) -> Int[Tensor, " index"]:
    if chosen is None:
        return torch.arange(available)
    for value in chosen:
        if not 0 <= value < available:
            raise RequestError(f"{what} {value}: the model has 0 to {available - 1}")
    return torch.tensor(list(chosen), dtype=torch.long)
