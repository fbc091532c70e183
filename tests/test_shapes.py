"""The tests run with every annotated shape checked, but for what numba compiles."""

import pkgutil
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from conftest import COMPILED, is_unchecked
from jaxtyping import TypeCheckError
from numba.core.dispatcher import Dispatcher

import mi_superposition
from mi_superposition.linalg import unit_rows
from mi_superposition.neurons import cosine_similarity, order_neurons


def test_a_wrong_shape_is_refused():
    assert unit_rows(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        unit_rows(torch.ones(3))


def test_every_module_is_checked_but_the_compiled_ones_and_configurations():
    names = {info.name for info in pkgutil.walk_packages(mi_superposition.__path__, "mi_superposition.")}
    unchecked = {name for name in names if not type(find_spec(name).loader).__module__.startswith("jaxtyping.")}
    assert unchecked == {name for name in names if is_unchecked(name)}
    assert unchecked > COMPILED


def test_what_is_compiled_works():
    for name in COMPILED:
        assert any(isinstance(thing, Dispatcher) for thing in vars(import_module(name)).values()), name
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    assert sorted(order_neurons(cosine_similarity(rows)).order.tolist()) == list(range(12))
