"""How similar neurons are: by the directions they read and write, or by when they are active."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.linalg import cosine_similarity, inner_products
from mi_superposition.models.protocol import HookedModel
from mi_superposition.models.reading import read_hooks
from mi_superposition.neurons.config import Measure, OrderConfig
from mi_superposition.streaming import CovarianceAccumulator

_NAMED = ("out", "in", "gate", "both")
# Their similarities are 1.6 GB in float32, and an order needs a few copies.
_MOST_ROWS = 20_000


@dataclass(frozen=True)
class NeuronVectors:
    """One or more vectors for each neuron; the similarity of two neurons is the mean of that of their vectors."""

    parts: tuple[Float[Tensor, "neuron _"], ...]

    def similarity(self, measure: Measure = OrderConfig.measure) -> Float[Tensor, "neuron neuron"]:
        """Similarity of every two neurons (dimensionless, -1 to 1), on the CPU: the mean over the parts of

        ``"cosine"``: the cosine of their vectors; ``"inner"``: their inner product, W^T W as it stands, over its largest
        entry. Raises ``RequestError`` for another measure.
        """
        if measure == "cosine":
            return _mean([cosine_similarity(part) for part in self.parts])
        if measure != "inner":
            raise RequestError(f"measure = {measure!r}: give 'cosine' or 'inner'")
        products = _mean([inner_products(part.float()) for part in self.parts])
        return products.div_(float(products.abs().max()) or 1.0)


def _mean(matrices: list[Float[Tensor, "neuron neuron"]]) -> Float[Tensor, "neuron neuron"]:
    total = matrices[0]
    for matrix in matrices[1:]:
        total += matrix
    return total.div_(len(matrices))


def neuron_vectors(model: HookedModel, layer: int = 0, weights: str = OrderConfig.weights) -> NeuronVectors:
    """The vectors of a layer's MLP neurons, or the rows of any matrix of the model.

    ``weights``: ``"out"``, what each neuron writes (rows of ``W_out``); ``"in"``, what it reads (columns of
    ``W_in``, and in a gated MLP of ``W_gate`` too, whose product with the input decides whether the neuron is active); ``"gate"``, those
    of ``W_gate`` alone; ``"both"``, what it reads and writes; or the name of a parameter with two axes, such as ``embed.W_E`` (its rows; add ``.T`` for
    its columns). Raises ``RequestError`` for a layer or a matrix that is not there.
    """
    if weights not in _NAMED:
        return NeuronVectors((_named_matrix(model, weights),))
    check_layer(model, layer)
    mlp = model.blocks[layer].mlp
    out = mlp.W_out.detach().cpu()
    gate = getattr(mlp, "W_gate", None)
    if weights == "gate" and gate is None:
        raise RequestError("weights = 'gate': the model's MLPs have no gate; give 'in', 'out' or 'both'")
    gates = () if gate is None else (_columns(gate),)
    read = (*gates, _columns(mlp.W_in))
    return NeuronVectors({"out": (out,), "in": read, "gate": gates, "both": (*read, out)}[weights])


def _columns(matrix: Float[Tensor, "d_model d_mlp"]) -> Float[Tensor, "d_mlp d_model"]:
    return rearrange(matrix.detach().cpu(), "d_model d_mlp -> d_mlp d_model")


def check_layer(model: HookedModel, layer: int) -> None:
    """Raise ``RequestError`` unless the model has MLP neurons in that layer."""
    if getattr(model.cfg, "attn_only", False):
        raise RequestError("the model has attention only: it has no MLP neurons to order")
    if not 0 <= layer < model.cfg.n_layers:
        raise RequestError(f"layer = {layer}: the model has layers 0 to {model.cfg.n_layers - 1}")
    if getattr(model.blocks[layer].mlp, "W_out", None) is None:
        raise RequestError(
            f"layer = {layer}: its MLP is a mixture of experts, which has no one set of neurons; name a matrix instead"
        )


def _named_matrix(model: HookedModel, name: str) -> Float[Tensor, "row column"]:
    parameters = dict(model.named_parameters())
    bare = name.removesuffix(".T")
    if bare not in parameters:
        two = [known for known, value in parameters.items() if value.ndim == 2 and "blocks" not in known]
        raise RequestError(
            f"weights = {name!r}: give 'out', 'in', 'gate', 'both' or a matrix of the model, such as {' or '.join(two[:3])}"
        )
    matrix = parameters[bare].detach().cpu()
    if matrix.ndim != 2:
        raise RequestError(f"weights = {name!r} has {matrix.ndim} axes {tuple(matrix.shape)}: give one with two")
    matrix = matrix.T if name.endswith(".T") else matrix
    if len(matrix) > _MOST_ROWS:
        raise RequestError(
            f"weights = {name!r} has {len(matrix):,} rows: a matrix of all their pairs is too large above {_MOST_ROWS:,}"
        )
    return matrix


@torch.no_grad()
def neuron_correlations(
    model: HookedModel,
    batches: Iterable[tuple[Int[Tensor, "_batch _pos"], Bool[Tensor, "_batch _pos"]]],
    layer: int = 0,
    *,
    shift: torch.Generator | None = None,
) -> Float[Tensor, "neuron neuron"]:
    """Pearson correlation between the activations of a layer's MLP neurons over a corpus, in one pass.

    ``batches`` gives tokens and which of them count. With ``shift``, the control: within each batch every neuron's activations are
    shifted circularly by a random number of positions of its own, so that each neuron keeps its sequence of activations and only
    their alignment with those of other neurons is random.
    """
    check_layer(model, layer)
    hook = f"blocks.{layer}.mlp.hook_post"
    accumulator = CovarianceAccumulator(model.blocks[layer].mlp.W_out.shape[0])
    for tokens, counted in batches:
        activations = read_hooks(model, tokens, [hook])[hook].cpu()[counted].float()
        if shift is not None:
            n, d = activations.shape
            steps = torch.randint(max(n, 1), (d,), generator=shift)
            activations = activations.gather(0, (torch.arange(n)[:, None] + steps) % max(n, 1))
        accumulator.update(activations)
    return accumulator.correlation()
