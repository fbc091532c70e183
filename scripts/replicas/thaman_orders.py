"""Two further directions of Thaman et al.: the order of other matrices than the neurons' output weights, and of neurons by activations.

    python scripts/replicas/thaman_orders.py --out orders.json

On the bundled story model, with the score of docs/neuron-order.md. Rows of every matrix are ordered; controls are random matrices,
ordered too. Neurons by their activations are compared with random neurons, whose input weights have the same norms and spectrum, that
read the same text in the same trained model: their activations are correlated because what they read is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from einops import rearrange
from jaxtyping import Float
from replica import THAMAN, Row, Verdict, report
from scipy.stats import spearmanr
from torch import Tensor

import mi_superposition as ms
from mi_superposition.corpora import model_batches
from mi_superposition.models import read_hooks, untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronVectors, control_vectors, measure_control, neuron_vectors, order_neurons
from mi_superposition.neurons.control import KINDS, WEIGHT_KINDS, Control, hash_seed, randomised
from mi_superposition.neurons.order import NeuronOrder
from mi_superposition.streaming import CovarianceAccumulator

# What neurons read, before the normalisation's weight and bias, and what they give.
READ, GIVEN = "ln2.hook_normalized", "mlp.hook_post"
SHIFTED, SPECTRUM, UNTRAINED = "shifted", "spectrum", "untrained"
SEED = 0


class Ordered(NamedTuple):
    """An order, and those of the samples of every control."""

    order: NeuronOrder
    controls: list[Control]

    @property
    def hardest(self) -> Control:
        """The control with the largest mean score."""
        return max(self.controls, key=lambda control: float(control.scores.mean()))

    @property
    def gain(self) -> float:
        """By how much the score exceeds the mean of the hardest control."""
        return self.hardest.gain(self.order.score)

    @property
    def above(self) -> bool:
        """Whether no order of any control sample can score as much."""
        return self.order.score > max(control.highest for control in self.controls)

    def told(self) -> tuple[str, str]:
        """Ours and the control's cell."""
        bound = "above" if self.above else "not above"
        hardest = self.hardest
        mean, deviation = float(hardest.scores.mean()), float(hardest.scores.std())
        return (
            f"{self.order.score:.2f}, {100 * self.gain:+.1f} %, z {hardest.z_score(self.order.score):+.0f}, {bound} every order of every sample",
            f"{hardest.name}: {mean:.2f} ± {deviation:.2f}, at most {hardest.highest:.2f}",
        )


def matrices(model: HookedModel) -> dict[str, Float[Tensor, "row d"]]:
    """By name all large matrices but the neurons' own, with rows in the residual stream."""
    found: dict[str, Tensor] = {"W_E": model.W_E, "W_U": model.W_U.T}
    for layer, block in enumerate(model.blocks):
        for name in ("W_Q", "W_K", "W_V"):
            found[f"{name}, layer {layer}"] = rearrange(getattr(block.attn, name), "head d inner -> (head inner) d")
        found[f"W_O, layer {layer}"] = rearrange(block.attn.W_O, "head inner d -> (head inner) d")
    return {name: matrix.detach().float().cpu() for name, matrix in found.items()}


def by_weights(model: HookedModel, name: str, samples: int, seconds: float) -> Ordered:
    """The order of a matrix's rows."""
    vectors = NeuronVectors((matrices(model)[name],))
    order = order_neurons(vectors.similarity(), seed=SEED, seconds=seconds)

    def untrained(seed: int) -> NeuronVectors:
        return NeuronVectors((matrices(untrained_copy(model, seed))[name],))

    def drawn(kind: str) -> Iterator[Tensor]:
        return (one.similarity() for one in control_vectors(vectors, kind, samples, seed=SEED, untrained=untrained))

    return Ordered(order, [measure_control(kind, drawn(kind), seed=SEED, seconds=seconds) for kind in WEIGHT_KINDS])


def correlations(activations: Float[Tensor, "token neuron"]) -> Float[Tensor, "neuron neuron"]:
    """Pearson correlation of every two neurons."""
    sums = CovarianceAccumulator(activations.shape[1])
    for some in activations.split(4096):
        sums.update(some)
    return sums.correlation()


def by_activations(
    model: HookedModel, layer: int, documents: int, samples: int, seconds: float
) -> tuple[Ordered, Float[Tensor, "neuron neuron"]]:
    """The order of a layer's neurons by their activations on real text, and their correlations."""
    batches = list(model_batches(model, ms.load_corpus("stories", documents=documents), 32))

    def heard(reader: HookedModel, part: str) -> Tensor:
        hook = f"blocks.{layer}.{part}"
        return torch.cat([read_hooks(reader, batch.tokens, [hook])[hook][batch.mask].float() for batch in batches])

    mlp, norm = model.blocks[layer].mlp, model.blocks[layer].ln2
    read, given = (heard(model, READ) * norm.w + norm.b).detach(), heard(model, GIVEN)
    kernel: Any = mlp.act_fn
    # That what is put in the neurons' place computes as they do.
    torch.testing.assert_close(kernel(read @ mlp.W_in + mlp.b_in), given, atol=1e-3, rtol=1e-3)

    def drawn(kind: str) -> Iterator[Tensor]:
        for sample in range(samples):
            generator = torch.Generator().manual_seed(hash_seed(SEED, kind, sample))
            if kind == SPECTRUM:
                weights = randomised(mlp.W_in.detach().T, "spectrum", generator)
                yield correlations(kernel(F.linear(read, weights, mlp.b_in)).detach())
            elif kind == SHIFTED:
                n, width = given.shape
                places = (torch.arange(n)[:, None] + torch.randint(n, (width,), generator=generator)) % n
                yield correlations(given.gather(0, places))
            else:
                yield correlations(heard(untrained_copy(model, SEED + sample), GIVEN))

    similarity = correlations(given)
    order = order_neurons(similarity, seed=SEED, seconds=seconds)
    kinds = (SHIFTED, UNTRAINED, SPECTRUM)
    controls = [measure_control(kind, drawn(kind), seed=SEED, seconds=seconds) for kind in kinds]
    return Ordered(order, controls), similarity


class Agreement(NamedTuple):
    """How alike two similarities of the same neurons are: rank correlation of the magnitudes of all pairs, and the share of neurons
    whose most similar other is the same in both.
    """

    spearman: float
    same_nearest: float


def agreement(one: Float[Tensor, "neuron neuron"], other: Float[Tensor, "neuron neuron"]) -> Agreement:
    """Of two similarities."""
    first, second = (matrix.abs().clone().fill_diagonal_(-1.0) for matrix in (one, other))
    pairs = torch.triu_indices(*one.shape, offset=1).unbind()
    nearest = float((first.argmax(dim=1) == second.argmax(dim=1)).double().mean())
    return Agreement(float(spearmanr(first[pairs], second[pairs]).statistic), nearest)


def main(
    model: str = "stories",
    documents: int = 500,
    samples: int = 20,
    seconds: float = 0.5,
    only: tuple[str, ...] = (),
    out: Path | None = None,
) -> None:
    """Order and compare.

    Args:
        model: Language model with the residual stream in every matrix's rows.
        documents: Bundled stories read for activations.
        samples: Samples of every control; of matrices with more than 2,048 rows a quarter.
        seconds: Search for every order, as in `neurons order`.
        only: Matrices to order; all, unless some are named.
        out: JSON file of all numbers.
    """
    network: Any = ms.load_model(model)
    rows, details = [], {}
    chosen = [name for name in matrices(network) if not only or name in only]
    found: dict[str, Ordered] = {}
    for name in chosen:
        many = len(matrices(network)[name]) > 2048
        found[name] = by_weights(network, name, max(samples // 4, 2) if many else samples, seconds)
        print(name, *found[name].told(), flush=True)
        rows.append(_row(f"rows of {name}: order score, over the hardest control", found[name]))
    above = [name for name, one in found.items() if one.above]
    rows.append(Row("matrices whose order scores more than any order of any control sample can", "expected", f"{len(above)} of {len(found)}: {', '.join(above) or 'none'}", "0 of as many by chance", _of(found)))  # fmt: skip
    for layer in range(network.cfg.n_layers):
        ordered, similarity = by_activations(network, layer, documents, samples, seconds)
        found[f"activations, layer {layer}"] = ordered
        print(f"activations, layer {layer}", *ordered.told(), flush=True)
        rows.append(_row(f"activations of layer {layer}: order score, over the hardest control", ordered))
        generator = torch.Generator().manual_seed(SEED)
        for weights in ("in", "out"):
            cosines = neuron_vectors(network, layer, weights).similarity()
            mine = agreement(similarity, cosines)
            shuffle = torch.randperm(len(cosines), generator=generator)
            chance = agreement(similarity, cosines[shuffle][:, shuffle])
            rows.append(Row(f"layer {layer}: similar by activations are similar by {weights}put weights", None, f"Spearman {mine.spearman:.2f} of all pairs, the same most similar neuron for {100 * mine.same_nearest:.0f} %", f"neurons permuted: {chance.spearman:.2f}, {100 * chance.same_nearest:.1f} %", "ours"))  # fmt: skip
    details = {name: _details(one) for name, one in found.items()}
    settings = {"model": Path(model).name, "documents": documents, "samples": samples, "seconds": seconds, "seed": SEED}
    report("orders of other matrices and of activations", THAMAN, settings, rows, details, out)


def _row(claim: str, ordered: Ordered) -> Row:
    ours, control = ordered.told()
    return Row(claim, "structure is expected", ours, control, "confirmed" if ordered.above else "not confirmed")


def _of(found: Mapping[str, Ordered]) -> Verdict:
    return "confirmed" if all(one.above for one in found.values()) else "not confirmed"


def _details(one: Ordered) -> dict[str, Any]:
    controls = {KINDS[control.kind]: control.scores.tolist() for control in one.controls}
    return {"score": one.order.score, "bound": one.order.upper_bound, "controls": controls}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
