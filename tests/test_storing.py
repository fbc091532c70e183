"""Results on disk come back as they were, and a damaged or older file is one line."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash, read_tensors, write_tensors
from mi_superposition.heads.config import AblateConfig
from mi_superposition.storing import read_record, write_record


@dataclass(frozen=True)
class Inner:
    values: Float[Tensor, " n"]
    name: str


@dataclass(frozen=True)
class Outer:
    config: AblateConfig
    inner: Inner
    maybe: Inner | None
    by_name: dict[str, Inner]
    by_number: dict[int, float]
    many: list[list[Float[Tensor, " n"]]]
    pair: tuple[str, int]
    names: tuple[str, ...]
    number: float
    extra: Tensor | None = None
    more: dict[str, Tensor] = field(default_factory=dict)


def outer(**changes):
    inner = Inner(torch.arange(3.0), "a/b")
    values = dict(
        config=AblateConfig().replace(seed=4),
        inner=inner,
        maybe=None,
        by_name={"x": inner, "y/z": Inner(torch.zeros(0), "")},
        by_number={3: 0.1, 5: float("inf")},
        many=[[torch.ones(2)], []],
        pair=("one", 2),
        names=("p", "q"),
        number=1 / 3,
    )
    return Outer(**{**values, **changes})


def same(one, other):
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, n), getattr(other, n)) for n in one.__dataclass_fields__
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"maybe": Inner(torch.ones(1), "m")},
        {"extra": torch.eye(2)},
        {"more": {"a": torch.ones(1, dtype=torch.bool)}},
    ],
)
def test_a_record_comes_back_as_it_was(tmp_path, changes):
    path = tmp_path / "record.safetensors"
    write_record(path, outer(**changes))
    assert same(outer(**changes), read_record(path, Outer))
    # Other programs read the tensors by their names.
    assert torch.equal(load_file(path)["inner/values"], torch.arange(3.0))
    before = path.read_bytes()
    write_record(path, outer(**changes))
    assert path.read_bytes() == before


def test_other_files_are_one_line(tmp_path):
    path = tmp_path / "record.safetensors"
    write_record(path, Inner(torch.zeros(1), "a"))
    with pytest.raises(
        RequestError, match=r"lacks 'config', which this version shows: run the command again in a new folder"
    ):
        read_record(path, Outer)
    write_tensors(path, {"values": torch.zeros(1)})
    with pytest.raises(RequestError, match="written by an older version"):
        read_record(path, Inner)
    write_tensors(path, {"values": torch.zeros(1)}, {"record": "[1, 2]"})
    with pytest.raises(WorkError, match="is damaged"):
        read_record(path, Inner)
    path.write_bytes(b"\x00")
    with pytest.raises(WorkError, match="cannot read tensors"):
        read_record(path, Inner)


@dataclass(frozen=True)
class Counted:
    counts: dict[int, float]
    names: tuple[str, ...]
    inner: Inner


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": [1, 2]}, "counts: must be an object"),
        ({"counts": {"x": 1.0}}, "counts: Expected `int`"),
        ({"counts": {"1": "a"}}, "counts/1: Expected `float`"),
        ({"names": "ab"}, "names: must be a list"),
        ({"names": ["a", 3]}, "names/1: Expected `str`"),
        ({"inner": 3}, "inner holds no record"),
    ],
)
def test_a_record_is_what_its_annotations_say(tmp_path, changes, said):
    path = tmp_path / "record.safetensors"
    write_record(path, Counted({1: 2.0}, ("a",), Inner(torch.zeros(1), "b")))
    tensors, metadata = read_tensors(path)
    told = json.loads(metadata["record"]) | changes
    write_tensors(path, tensors, {"record": json.dumps(told)})
    with pytest.raises(WorkError) as error:
        read_record(path, Counted)
    assert said in str(error.value)


def test_a_hash_is_of_the_values_alone():
    """Not of how they lie in memory: a single value may have any stride."""
    one, part = torch.tensor(3).expand(1), torch.arange(10)[3:5]
    assert content_hash({"a": one}) == content_hash({"a": torch.tensor([3])}) != content_hash({"a": torch.tensor([4])})
    assert content_hash({"a": part}) == content_hash({"a": torch.tensor([3, 4])})
    assert content_hash({"a": torch.zeros(0, 3)}) != content_hash({"a": torch.zeros(0, 2)})
