"""Training many toy models: the usual loop against ours, interleaved in one process, medians.

    python benchmarks/toy.py            # a step of 7 settings, 100 features, 40 hidden; instances of 5 -> 2
    python benchmarks/toy.py --learn    # both for 10,000 steps: the losses they reach, and the law of their inputs

The usual loop draws one number for the mask and one for the value, multiplies with einsum, and leaves the gradient to
autograd and the step to Adam. With `--learn` the inputs of both are compared: values that are not zero by a Kolmogorov-Smirnov
test, how many are not zero by a binomial test. The lower bound is the five products of matrices in a step, and nothing
else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from scipy.stats import binomtest, kstest
from timing import Row, interleaved, machine, parser, write_rows

from mi_superposition.parts import SeedPart
from mi_superposition.toy import ToyConfig
from mi_superposition.toy.train import ToyLearner

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
FEATURES, HIDDEN, BATCH = 100, 40, 1024


class UsualLoop:
    """|x| computed by one hidden layer, a model for each probability."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        n = len(PROBABILITIES)
        self.probability = torch.tensor(PROBABILITIES)[:, None]
        self.W1 = torch.nn.Parameter(torch.nn.init.xavier_normal_(torch.empty(n, FEATURES, HIDDEN)))
        self.W2 = torch.nn.Parameter(torch.nn.init.xavier_normal_(torch.empty(n, HIDDEN, FEATURES)))
        self.b = torch.nn.Parameter(torch.zeros(n, FEATURES))
        # Each weight matrix above is initialised as one; its own fans are those of a single instance.
        with torch.no_grad():
            for instance in range(n):
                torch.nn.init.xavier_normal_(self.W1[instance])
                torch.nn.init.xavier_normal_(self.W2[instance])
        self.optimizer = torch.optim.Adam([self.W1, self.W2, self.b], lr=1e-3)

    def draw(self) -> torch.Tensor:
        """``[batch instance feature]``"""
        shape = (BATCH, len(PROBABILITIES), FEATURES)
        value = 2 * torch.rand(shape, generator=self.generator) - 1
        mask = torch.rand(shape, generator=self.generator) <= self.probability
        return torch.where(mask, value, torch.zeros(()))

    def errors(self, x: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each instance."""
        hidden = torch.relu(torch.einsum("bif,ifh->bih", x, self.W1))
        out = torch.relu(torch.einsum("bih,iho->bio", hidden, self.W2) + self.b)
        return (x.abs() - out).square().mean(dim=(0, 2))

    def step(self, step: int) -> None:  # noqa: ARG002
        """Descend once."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.errors(self.draw()).sum()
        loss.backward()
        self.optimizer.step()


def ours(instances: int = 1, seed: int = 0) -> ToyLearner:
    """The same models and task."""
    config = ToyConfig(
        task="abs",
        n_features=FEATURES,
        n_hidden=HIDDEN,
        probability=PROBABILITIES,
        n_instances=instances,
        batch_size=BATCH,
        random=SeedPart(seed),
    )
    return ToyLearner(config)


def lower_bound() -> Callable[[int], None]:
    """The five products of a step."""
    n = len(PROBABILITIES)
    x, out = torch.randn(2, n, FEATURES, BATCH)
    hidden = torch.randn(n, HIDDEN, BATCH)
    W1, W2 = torch.randn(n, HIDDEN, FEATURES), torch.randn(n, FEATURES, HIDDEN)

    def products(step: int) -> None:  # noqa: ARG001
        torch.bmm(W1, x)
        torch.bmm(W2, hidden)
        torch.bmm(out, hidden.transpose(1, 2))
        torch.bmm(W2.transpose(1, 2), out)
        torch.bmm(hidden, x.transpose(1, 2))

    return products


def calls(ways: dict[str, Callable[[int], None]]) -> dict[str, Callable[[], None]]:
    """Each way as a call that takes its next step."""

    def next_step(step: Callable[[int], None]) -> Callable[[], None]:
        numbers = itertools.count()
        return lambda: step(next(numbers))

    return {name: next_step(step) for name, step in ways.items()}


def steps(rounds: int, block: int) -> dict[str, float]:
    """Median seconds per step of each way, the usual one first."""
    ways = {"usual loop": UsualLoop(0).step, "ours": ours().step, "lower bound: the products": lower_bound()}
    return interleaved(calls(ways), rounds, block=block)


def compare_steps() -> None:
    """One step of each way."""
    taken = {name: 1000 * value for name, value in steps(15, 40).items()}
    print(f"\n7 settings, {FEATURES} features, {HIDDEN} hidden, batch {BATCH}")
    print(f"{'way':26} {'ms a step':>9} {'times faster':>13}")
    for name, value in taken.items():
        print(f"{name:26} {value:9.2f} {taken['usual loop'] / value:13.2f}")


def compare_instances() -> None:
    """Cost per instance by the number of instances."""
    print("\n5 features, 2 hidden, one setting, batch 1024")
    print(f"{'instances':>9} {'ms a step':>10} {'µs a step and instance':>23} {'seconds for 10,000 steps':>25}")
    counts = (1, 10, 100, 1000)
    ways = {str(n): ToyLearner(ToyConfig(n_instances=n)).step for n in counts}
    taken = interleaved(calls(ways), 5, block=30)
    for n in counts:
        value = 1000 * taken[str(n)]
        print(f"{n:9d} {value:10.2f} {1000 * value / n:23.1f} {10 * value:25.0f}")


def learn(n_steps: int) -> None:
    """Both loops to the end, and what they are fed."""
    usual, fast = UsualLoop(0), ours()
    began = time.perf_counter()
    for step in range(n_steps):
        usual.step(step)
    middle = time.perf_counter()
    for step in range(n_steps):
        fast.step(step)
    end = time.perf_counter()
    print(f"\n{n_steps:,} steps: usual loop {middle - began:.0f} s, ours {end - middle:.0f} s")
    with torch.no_grad():
        usual_loss = torch.stack([usual.errors(usual.draw()) for _ in range(32)]).mean(dim=0)
    our_loss, _ = fast.held_out()
    print(f"{'probability':>11} {'usual loss':>11} {'our loss':>11} {'ratio':>6} {'values, p':>10} {'share, p':>9}")
    # Enough batches for ten thousand inputs that are not zero, of each probability.
    n = 1 + 10_000 // int(min(PROBABILITIES) * BATCH * FEATURES)
    usual_x = torch.stack([usual.draw() for _ in range(n)])
    our_x = torch.stack([fast.sampler.draw("batch", n_steps + index, BATCH) for index in range(n)])
    for index, probability in enumerate(PROBABILITIES):
        both = [usual_x[:, :, index].flatten().numpy(), our_x[:, index].flatten().numpy()]
        values = kstest(*(x[x != 0] for x in both)).pvalue
        share = binomtest(int((both[1] != 0).sum()), both[1].size, probability).pvalue
        a, b = float(usual_loss[index]), float(our_loss[index, 0])
        print(f"{probability:11} {a:11.3e} {b:11.3e} {b / a:6.2f} {values:10.2f} {share:9.2f}")


def main() -> None:
    """Print the tables."""
    options_of = parser(__doc__)
    options_of.add_argument("--learn", action="store_true", help="train both to the end")
    options_of.add_argument("--steps", type=int, default=10_000)
    options = options_of.parse_args()
    # What a training run sets, for both.
    torch.set_flush_denormal(True)
    if options.rows:
        (usual_way, usual), (_, ours_takes), (_, bound_takes) = steps(*((1, 2) if options.quick else (15, 40))).items()
        task = "toy models: a step of 7 settings, 100 features"
        write_rows(options.rows, [Row(task, ours_takes, usual_way, usual, "its five products", bound_takes)])
        return
    print(machine())
    if options.learn:
        learn(options.steps)
    else:
        compare_steps()
        compare_instances()


if __name__ == "__main__":
    main()
