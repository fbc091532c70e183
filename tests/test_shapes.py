"""The tests run with every annotated shape checked, but for what numba compiles."""

import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import COMPILED
from jaxtyping import TypeCheckError
from numba.core.dispatcher import Dispatcher

import mi_superposition
from mi_superposition.linalg import unit_rows
from mi_superposition.neurons import cosine_similarity, order_neurons


def test_a_wrong_shape_is_refused():
    assert unit_rows(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        unit_rows(torch.ones(3))


def test_every_module_with_annotated_axes_is_checked_but_the_compiled_ones_and_the_site():
    specs = [find_spec(info.name) for info in pkgutil.walk_packages(mi_superposition.__path__, "mi_superposition.")]
    unchecked = {spec.name for spec in specs if not type(spec.loader).__module__.startswith("jaxtyping.")}
    annotated = {spec.name for spec in specs if "jaxtyping" in Path(spec.origin).read_text()}
    in_site = {name for name in annotated if name.startswith("mi_superposition.site.")}
    assert unchecked > COMPILED
    assert unchecked & annotated - COMPILED == in_site
    assert len(annotated - unchecked) > 60


def test_what_is_compiled_works():
    for name in COMPILED:
        assert any(isinstance(thing, Dispatcher) for thing in vars(import_module(name)).values()), name
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    assert sorted(order_neurons(cosine_similarity(rows)).order.tolist()) == list(range(12))
