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


@pytest.mark.parametrize(("precise", "off"), [(False, 1e-5), (True, 1e-13)])
@pytest.mark.parametrize("d", [1, 255, 256, 600])
def test_wide_ones_are_multiplied_by_halves(d, precise, off):
    """In blocks of 256, whatever is left of the last; the other half is the mirror of what was multiplied."""
    data = torch.randn(50, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d)) * 3 + 1000
    accumulator = CovarianceAccumulator(d, precise=precise)
    for some in data.split(17):
        accumulator.update(some if precise else some.float())
    read = data.numpy() if precise else data.float().double().numpy()
    wanted = np.cov(read, rowvar=False, bias=True).reshape(d, d)
    assert np.abs(accumulator.covariance().numpy() - wanted).max() <= off * wanted.max()


def test_constants_that_binary_numbers_miss_correlate_with_nothing():
    """0.1 has no exact mean in single precision."""
    accumulator = CovarianceAccumulator(31)
    data = torch.cat([torch.linspace(-0.7, 0.3, 30).expand(8192, 30), torch.randn(8192, 1)], dim=1)
    for some in data.split(2048):
        accumulator.update(some)
    assert accumulator.correlation()[:30].abs().max() == 0


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
