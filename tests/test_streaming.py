"""The accumulator equals NumPy over everything at once, however the samples come."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_superposition.errors import RequestError
from mi_superposition.streaming import CovarianceAccumulator


def samples(n, d=4, seed=0, shift=50.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) @ torch.rand(d, d) + shift


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 1000))
def test_any_cut_gives_numpys_correlation(cuts, seed):
    data = samples(40, seed=seed)
    accumulator = CovarianceAccumulator(4)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        accumulator.update(data[start:end])
    assert np.allclose(accumulator.correlation().numpy(), np.corrcoef(data.double().numpy(), rowvar=False), atol=1e-4)
    assert np.allclose(accumulator.mean.numpy(), data.double().mean(0).numpy())


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 40))
def test_merge_equals_one_pass(cut):
    data = samples(40)
    whole, a, b = (CovarianceAccumulator(4) for _ in range(3))
    whole.update(data)
    a.update(data[:cut])
    b.update(data[cut:])
    merged = CovarianceAccumulator.merge(a, b)
    assert merged.n == whole.n
    assert torch.allclose(merged.mean, whole.mean)
    assert torch.allclose(merged.products, whole.products, rtol=1e-4)


def test_what_never_varies_correlates_with_nothing():
    data = samples(30)
    data[:, 2] = 7.0
    accumulator = CovarianceAccumulator(4)
    accumulator.update(data[:11])
    accumulator.update(data[11:])
    found = accumulator.correlation()
    assert found[2].abs().max() == 0
    assert found[0, 0] == pytest.approx(1, abs=1e-5)


def test_too_few_and_not_finite():
    accumulator = CovarianceAccumulator(2)
    accumulator.update(torch.ones(1, 2))
    with pytest.raises(RequestError, match="1 samples"):
        accumulator.correlation()
    with pytest.raises(RequestError, match="NaN"):
        accumulator.update(torch.tensor([[float("nan"), 0.0]]))
