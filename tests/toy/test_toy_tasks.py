import itertools
from typing import get_args

import pytest
import torch
from scipy.stats import kstest, norm, uniform

from mi_superposition.toy import ToyConfig
from mi_superposition.toy.config import Inputs
from mi_superposition.toy.tasks import InputSampler, targets

CPU = torch.device("cpu")
N = 20_000


def drawn(**options):
    config = ToyConfig(
        **{"network": "computation", "n_features": 4, "n_hidden": 3, "probability": (0.3,), **options},
    )
    return InputSampler(config, CPU).draw("batch", 0, N)


@pytest.mark.parametrize("inputs", get_args(Inputs))
def test_features_are_zero_as_often_as_asked(inputs):
    x = drawn(inputs=inputs, probability=(1.0, 0.3, 0.01))
    share = (x != 0).float().mean(dim=(1, 2))
    for got, wanted in zip(share.tolist(), (1.0, 0.3, 0.01), strict=True):
        assert abs(got - wanted) < 5 * (wanted * (1 - wanted) / (4 * N)) ** 0.5 + 1e-4


@pytest.mark.parametrize(
    ("inputs", "law"), [("uniform", uniform(0, 1)), ("signed", uniform(-1, 2)), ("normal", norm())]
)
@pytest.mark.parametrize("probability", [1.0, 0.3, 0.01])
def test_values_that_are_not_zero_have_the_right_law(inputs, law, probability):
    x = drawn(inputs=inputs, probability=(probability,))
    assert kstest(x[x != 0].numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("inputs", "values"), [("binary", {0.0, 1.0}), ("ternary", {-1.0, 0.0, 1.0})])
def test_discrete_inputs(inputs, values):
    x = drawn(inputs=inputs)
    assert set(x.unique().tolist()) == values
    if inputs == "ternary":
        assert abs(float(x[x != 0].mean())) < 0.05


def test_the_law_is_that_of_the_usual_two_draws():
    """One uniform number for both, against one for the mask and one for the value."""
    generator = torch.Generator().manual_seed(0)
    mask, value = torch.rand(N, generator=generator) < 0.2, torch.rand(N, generator=generator)
    ours = drawn(inputs="uniform", probability=(0.2,))[0, 0]
    assert kstest(ours.numpy(), (mask * value).numpy()).pvalue > 1e-3


def test_features_are_independent():
    x = drawn(inputs="signed")[0]
    assert torch.corrcoef((x != 0).float()).fill_diagonal_(0).abs().max() < 0.04
    assert torch.corrcoef(x).fill_diagonal_(0).abs().max() < 0.04


def test_correlated_features_are_zero_together_and_have_values_of_their_own():
    x = drawn(sets="correlated")[0]
    active = x != 0
    assert torch.equal(active[0], active[1])
    assert torch.equal(active[2], active[3])
    both = torch.stack((x[0][active[0]], x[1][active[0]]))
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.06
    assert abs(float(torch.corrcoef(active[[0, 2]].float())[0, 1])) < 0.04


def test_of_anticorrelated_features_one_at_most_is_not_zero():
    x = drawn(sets="anticorrelated", inputs="binary")[0]
    assert x[0:2].sum(dim=0).max() == 1
    share = x.mean(dim=1)
    assert (share - 0.15).abs().max() < 0.02


def test_probability_by_feature():
    x = drawn(probability=(0.8, 0.3), probability_ratio=(0.5, 0.0))
    wanted = torch.tensor([[0.8, 0.4, 0.2, 0.1], [0.3, 0.0, 0.0, 0.0]])
    assert ((x != 0).float().mean(dim=2) - wanted).abs().max() < 0.02
    assert not x.isnan().any()


def test_draws_repeat_and_differ():
    config = ToyConfig(probability=(0.5, 0.5))
    one, other = InputSampler(config, CPU), InputSampler(config, CPU)
    a = one.draw("batch", 3, 64)
    one.draw("batch", 4, 64)
    assert torch.equal(a, other.draw("batch", 3, 64))
    for purpose, index in [("batch", 4), ("held out", 3)]:
        assert not torch.equal(a, other.draw(purpose, index, 64))
    assert not torch.equal(a[0], a[1])


def test_targets_of_all_binary_pairs():
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2))).T[None]
    assert targets("and", x)[0, 0].tolist() == [0, 0, 0, 1]
    assert targets("or", x)[0, 0].tolist() == [0, 1, 1, 1]


def test_targets_of_numbers():
    x = torch.tensor([[[-0.5, 0.25], [0.25, -1.0]]])
    assert targets("max", x)[0].tolist() == [[0.5, 1.0]]
    assert targets("abs", x)[0].tolist() == [[0.5, 0.25], [0.25, 1.0]]
    assert targets("square", x)[0].tolist() == [[0.25, 0.0625], [0.0625, 1.0]]
    assert torch.equal(targets("reconstruct", x), x)
