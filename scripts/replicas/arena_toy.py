"""ARENA's neurons: its blocks, pairs of neurons for each feature, pairs of opposite input signs, importance from 0.8.

    python scripts/replicas/arena_toy.py --runs runs/arena --out arena.json

Reads the bundled studies `neurons` (10 features, 5 neurons) and `absolute`, and trains what these lack: the best of 1,000 instances
at extreme sparsity (most of the time: half an hour on one core), and |x| with the source's importances.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import tyro
from jaxtyping import Float, Int
from replica import ARENA, Row, report, share
from torch import Tensor

from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.studies.toy.absolute import motifs_by_instance, pairs_by_instance, permuted
from mi_superposition.toy import ToyConfig, ToyModels, bundled_study, load_toy, train_toy
from mi_superposition.toy.geometry import cosines
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.polysemanticity import monosemantic, signed_pairs

# A weight of at least this magnitude makes a neuron one of a feature's (ours).
LARGE, TOLERANCE = 0.25, 0.2
# Cosines of three features: two opposite ones and one at right angles to both, and three of a tetrahedron's corners.
BLOCKS = {"3 × 2 block": (2, (-1.0, 0.0, 0.0)), "three corners of a tetrahedron": (3, (-1 / 3, -1 / 3, -1 / 3))}


def blocks(W: Float[Tensor, "neuron feature"]) -> Iterator[tuple[list[int], int]]:
    """Features that large weights link by way of neurons, and how many neurons these are."""
    large = (W.abs() >= LARGE).float()
    linked = torch.linalg.matrix_power(large.T @ large, W.shape[1]) > 0
    for first, row in enumerate(linked):
        features = row.nonzero()[:, 0].tolist()
        if features and features[0] == first:
            yield features, int(large[:, features].any(dim=1).sum())


def blocks_in(W: Float[Tensor, "neuron feature"]) -> set[str]:
    """The names of the blocks of three features and two or three neurons that there are."""
    above, names = torch.triu_indices(3, 3, offset=1).unbind(), set()
    for features, neurons in blocks(W):
        if len(features) == 3:
            between = cosines(W[:, features])[above].sort().values
            for name, (wanted, expected) in BLOCKS.items():
                if neurons == wanted and float((between - torch.tensor(expected)).abs().max()) <= TOLERANCE:
                    names.add(name)
    return names


def own_pairs(W: Float[Tensor, "*many neuron feature"]) -> Int[Tensor, "*many"]:
    """How many features have a pair of neurons that no other has: the two alone have 90 % of its squared positive weights, the
    smaller at least half of the larger. Inputs are positive, so a negative weight only switches its neuron off.
    """
    positive = W.clamp_min(0)
    (first, second), neurons = positive.topk(2, dim=-2).values.unbind(-2), positive.topk(2, dim=-2).indices
    two = (first**2 + second**2 >= 0.9 * positive.square().sum(dim=-2)) & (second >= (first / 2).clamp_min(LARGE))
    names = 1 + neurons.amax(dim=-2) * W.shape[-2] + neurons.amin(dim=-2)
    ordered = torch.where(two, names, 0).sort(dim=-1).values
    return ((ordered.diff(dim=-1) != 0) & (ordered[..., 1:] > 0)).sum(dim=-1) + (ordered[..., 0] > 0)


def shuffled(W: Tensor) -> Tensor:
    """The control: which feature each weight of a neuron belongs to is drawn anew."""
    return W.gather(-1, torch.rand(W.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=-1))


def trained(name: str, config: ToyConfig, runs: Path | None) -> ToyModels:
    """Train, resuming in a folder of that name where there is one."""
    with terminal_progress() as progress:
        return train_toy(config, runs and runs / name, progress)


def main(
    runs: Path | None = None,
    instances: int = 1000,
    probabilities: tuple[float, ...] = (0.01, 0.001),
    steps: int = 5000,
    out: Path | None = None,
) -> None:
    """Measure, train, measure.

    Args:
        runs: Folder to train in; what is there is gone on with. Default: none is kept.
        instances: Instances of which the best is taken at extreme sparsity.
        probabilities: That a feature is present at extreme sparsity.
        steps: Of what is trained.
        out: JSON file of all numbers.
    """
    small = load_toy(bundled_study("neurons") / "runs" / "relu")
    absolute = {name: load_toy(bundled_study("absolute") / "runs" / name) for name in ("hundred", "pairs", "motif")}
    W, untrained, chances = small.weights.W_in, initial_weights(small.config).W_in, small.config.probability
    dense = monosemantic(W[0, 0])
    serves = sorted(int(row.abs().argmax()) for row in W[0, 0][dense])
    mono = monosemantic(W).sum(dim=-1)[:, 0].tolist()
    rows = [Row("dense: the five most important features have a neuron each", "0 to 4", ", ".join(map(str, serves)), f"{int(monosemantic(untrained[0]).sum())} monosemantic neurons untrained", "confirmed" if serves == list(range(5)) else "refuted"),
            Row("fewer monosemantic neurons as sparsity increases, best of 50", "5 to 0", " ".join(map(str, mono)), "0 untrained", "confirmed" if mono[0] == 5 and mono[-1] == 0 else "refuted")]  # fmt: skip
    seen = {what: [[blocks_in(one) for one in some] for some in many] for what, many in (("trained", W), ("shuffled", shuffled(W)), ("untrained", untrained))}  # fmt: skip
    counts = {name: {what: [sum(name in one for one in some) for some in many] for what, many in seen.items()} for name in BLOCKS}  # fmt: skip
    for name in BLOCKS:
        most = max(counts[name]["trained"])
        at, controls = counts[name]["trained"].index(most), {what: max(found) for what, found in counts[name].items()}
        rows.append(Row(f"medium sparsity: {name}", "seen", f"{share(most, W.shape[1])} instances at {1 - chances[at]:g}", f"at most {controls['shuffled']} shuffled, {controls['untrained']} untrained", "confirmed" if most > 2 * max(controls["shuffled"], controls["untrained"]) else "not confirmed"))  # fmt: skip
    pairs = {f"{p}": own_pairs(W[index]).tolist() for index, p in enumerate(chances)}
    for p in probabilities:
        config = small.config.replace(probability=(p,), n_instances=instances, n_kept=min(50, instances), n_steps=steps)
        many = trained(f"extreme-{p}", config, runs)
        found, control = own_pairs(many.weights.W_in[0]), own_pairs(shuffled(many.weights.W_in[0]))
        pairs[f"{p}, best of {instances}"] = found.tolist()
        rows.append(Row(f"sparsity {1 - p:g}: a pair of neurons for each of 10 features", "10; its author: not seen", f"{int(found[0])} (best of {instances}); best of 50: {pairs[str(p)][0] if str(p) in pairs else '–'}", f"{float(control.float().mean()):.1f} shuffled", "confirmed" if int(found[0]) == 10 else "not confirmed", f"the {len(found)} best: mean {float(found.float().mean()):.1f}; all 10 in {int((found == 10).sum())}; loss / constant's {float(many.loss_ratio.min()):.4f}"))  # fmt: skip
    best = max((int(values[0]), name) for name, values in pairs.items())
    rows.append(Row("high sparsity: a pair of neurons for each feature, at any", "10", f"{best[0]}, probability {best[1]}", None, "confirmed" if best[0] == 10 else "not confirmed"))  # fmt: skip

    hundred = absolute["hundred"].weights
    for index, p in list(enumerate(absolute["hundred"].config.probability))[:2]:
        layer = hundred.W_in[index, 0], hundred.W_out[index, 0]
        served = {int(row.abs().argmax()) for row in layer[0][monosemantic(layer[0])]}
        both = {pair.feature for pair in signed_pairs(*layer)}
        loose = {pair.feature for pair in signed_pairs(*(part[index, 0] for part in (permuted(hundred).W_in, permuted(hundred).W_out)))}  # fmt: skip
        rows.append(Row(f"|x| of 100, probability {p:g}: features with a neuron have one of each sign", "all", f"{len(both)} of {len(served)}", f"{len(loose)} shuffled", "confirmed" if both == served else "not confirmed"))  # fmt: skip
    rows.append(Row("|x| of 100: monosemantic neurons of 40 as sparsity increases", "many to 0", " ".join(map(str, monosemantic(hundred.W_in).sum(dim=-1)[:, 0].tolist())), None, "confirmed", "best of 4"))  # fmt: skip
    for name, n in (("pairs", 20), ("motif", 10)):
        usual = absolute[name].config
        config = usual.replace(importance_ratio=(1.0,), importance=tuple(0.8 ** (i + 1) for i in range(n)), n_steps=steps)  # fmt: skip
        models = trained(name, config, runs)
        if name == "pairs":
            mean = float(pairs_by_instance(models.weights).float().mean())
            from_one = float(pairs_by_instance(absolute[name].weights).float().mean())
            rows += [Row("|x| of 20, probability 0.5: features computed by a pair of opposite signs, of 10 neurons", "pairs of opposite signs", mean, f"{float(pairs_by_instance(permuted(models.weights)).float().mean()):.2f} shuffled", "confirmed", "mean of 64 instances"),
                     Row("importance from 0.8 instead of from 1: the same", None, mean, f"{from_one:.4g} from 1", "ours", "the same loss times 0.8; its title says 0.75^i where its code has 0.8^i")]  # fmt: skip
        else:
            motif, chance = (sum(map(bool, motifs_by_instance(some))) for some in (models.weights, permuted(models.weights)))  # fmt: skip
            rows.append(Row("|x| of 10, probability 0.35: some instances have the asymmetric motif", "some of 6", share(motif, len(models.kept[0])), f"{chance} shuffled", "confirmed" if motif > chance else "not confirmed"))  # fmt: skip
    settings = {"instances at extreme sparsity": instances, "probabilities": ", ".join(map(str, probabilities)), "steps": steps, "batch": small.config.batch_size, "learning rate": small.config.learning_rate, "seed": small.config.random.seed}  # fmt: skip
    report("neurons", ARENA, settings, rows, {"probability": list(chances), "instances_with_block": counts, "own_pairs_of_kept_instances": pairs}, out)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
