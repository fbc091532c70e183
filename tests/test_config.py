"""Configurations: declared once, checked wherever their values come from, the same on the command line, in a file and in Python."""

import ast
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st

import mi_superposition
from mi_superposition import parts
from mi_superposition.cli import commands, main
from mi_superposition.config import AtLeast1, Config, Positive, Share
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.neurons.config import ScanConfig
from mi_superposition.parts import ModelPart, SeedPart, WorkersPart
from mi_superposition.subjects import Study

PACKAGE = Path(mi_superposition.__file__).parent


@dataclass(frozen=True)
class Example(Config):
    """An example."""

    model: ModelPart = ModelPart(model="mine")
    size: AtLeast1 = 3
    """How large."""
    rate: Positive = 0.5
    """How fast."""
    kind: Literal["a", "b"] = "a"
    """Which kind."""
    share: Annotated[float, Interval(ge=0, lt=1)] | None = None
    """A fraction. Default: none."""
    names: tuple[str, ...] = ()
    """Names."""
    place: Path | None = None
    """A path. Default: none."""
    random: SeedPart = SeedPart()
    workers: WorkersPart = WorkersPart()


def test_it_is_flat_outside_and_nested_inside():
    flat = Example().flat()
    assert flat == {
        "model": "mine", "size": 3, "rate": 0.5, "kind": "a", "share": None, "names": [], "place": None, "seed": 0,
        "engine": "local", "ray_address": None,
    }  # fmt: skip
    assert [option.name for option in Example.options()] == list(flat)
    assert {option.name: option.default for option in Example.options()}["model"] == "mine"
    assert ModelPart().model == "stories"
    # Who does the work is no part of what was asked for.
    assert "engine" not in Example().identity()


@given(
    st.builds(
        Example,
        size=st.integers(1, 10**6),
        rate=st.floats(1e-300, 1e12),
        kind=st.sampled_from(["a", "b"]),
        share=st.none() | st.floats(0, 0.999),
        names=st.lists(st.text()).map(tuple),
        place=st.none() | st.just(Path("a/b")),
    )
)
def test_it_comes_back_from_json(config):
    assert Example.from_flat(json.loads(json.dumps(config.flat()))) == config
    assert config.replace(**config.values()) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "size = 0: must be at least 1"),
        ({"size": 2.0}, "size = 2.0: must be a whole number"),
        ({"size": True}, "size = True: must be a whole number"),
        ({"rate": 0}, "rate = 0.0: must be above 0"),
        ({"rate": float("nan")}, "rate = nan: must be a finite number"),
        ({"kind": "c"}, "kind = 'c': give 'a' or 'b'"),
        ({"share": 1.0}, "share = 1.0: must be at least 0 and below 1"),
        ({"names": "abc"}, "names = 'abc': give a list"),
        ({"names": [1]}, "names = 1: must be text"),
        ({"place": 3}, "place = 3: must be a path"),
        ({"seed": 2**63}, f"seed = {2**63}: must be 0 to {2**63 - 1}"),
        ({"sise": 3}, "option 'sise': Example has 'model'"),
    ],
)
def test_a_wrong_value_is_quoted_wherever_it_comes_from(changes, said):
    with pytest.raises(RequestError) as error:
        Example().replace(**changes)
    assert str(error.value).startswith(said)
    with pytest.raises(RequestError):
        Example.from_flat(changes)


def test_lists_will_do_and_parts_are_given_by_their_options():
    assert Example(names=["a", "b"]).names == ("a", "b")
    assert Example.of(seed=3, size=2) == Example().replace(seed=3, size=2)
    with pytest.raises(RequestError, match=r"model = 'gpt2': give options by name, Example.of\(OPTION=VALUE\)"):
        Example(model="gpt2")


def all_options():
    return [(name, option) for name, command in commands().items() for option in command.load_config().options()]


def test_every_option_has_help_and_a_name_of_its_own():
    for name, command in commands().items():
        options = command.load_config().options()
        assert len({option.name for option in options}) == len(options), name
        for option in options:
            assert option.help.endswith((".", ")", "'")), (name, option.name)


# What the autoencoder remembers is the default there.
REMEMBERED = {("sae evaluate", "model"), ("sae evaluate", "context")}


def test_a_shared_option_is_declared_by_its_part_alone():
    """Or by a part made of it, where its range or its default are narrower."""
    declared: dict[str, list[type]] = {}
    for part in vars(parts).values():
        if isinstance(part, type) and issubclass(part, Config) and part is not Config:
            for name in vars(part).get("__annotations__", {}):
                declared.setdefault(name, []).append(part)
    for name, option in all_options():
        if option.name in declared and (name, option.name) not in REMEMBERED:
            assert issubclass(option.part, tuple(declared[option.name])), (name, option.name)


def test_what_a_command_does_takes_its_configuration_and_nothing_else():
    for name, command in commands().items():
        if isinstance(command, Study):
            given_to = list(inspect.signature(command.measuring().measure).parameters)
            assert given_to == ["config", "out", "progress"], name
        else:
            assert list(inspect.signature(command.running().run).parameters) == ["config", "progress"], name


def defaults_of(path: Path):
    """Parameters with a default that says something, of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            pairs = [
                *zip(reversed(arguments.args), reversed(arguments.defaults), strict=False),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            for argument, default in pairs:
                if isinstance(default, ast.Constant) and default.value is not None:
                    yield node.name, argument.arg


def test_no_default_of_an_option_stands_twice():
    """Neither what measures nor what shows says again what the configuration says."""
    known = {option.name for _, option in all_options()}
    for room in ("studies", "pages", "report", "cli"):
        for path in (PACKAGE / room).rglob("*.py"):
            again = [(function, name) for function, name in defaults_of(path) if name in known]
            assert again == [], path


@dataclass(frozen=True)
class ScanWithOneMore(ScanConfig):
    """CONTRIBUTING's worked example: a scan with one more option."""

    min_active: Share = 0.0
    """Fraction of tokens on which a unit must be active to be kept."""


def test_an_option_is_added_in_one_place(tiny_gpt2, tmp_path, monkeypatch, capsys):
    """Its flag, its help, its range, its place in the run folder and old run folders all follow from the field."""
    (tmp_path / "words.txt").write_text("<|endoftext|>".join(f"a cat ran to dog {n}" for n in range(12)))
    words = [
        "neurons",
        "scan",
        "--model",
        str(tiny_gpt2.folder),
        "--corpus",
        str(tmp_path / "words.txt"),
        "--threads",
        "1",
    ]
    before, after = tmp_path / "before", tmp_path / "after"
    assert main([*words, "--out", str(before)]) == 0
    monkeypatch.setattr(commands()["neurons scan"].__class__, "load_config", lambda self: ScanWithOneMore)
    with pytest.raises(SystemExit):
        main(["neurons", "scan", "--help"])
    assert "Fraction of tokens on which" in capsys.readouterr().out
    assert main([*words, "--min-active", "2", "--out", str(after)]) == 2
    assert "min_active = 2.0: must be 0 to 1" in capsys.readouterr().err
    # A run of before the option counts as one with its default, and is finished.
    assert main([*words, "--out", str(before)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished already")
    assert main([*words, "--min-active", "0.5", "--out", str(before)]) == 2
    assert "min_active = 0.0, not 0.5" in capsys.readouterr().err
    assert main([*words, "--min-active", "0.5", "--out", str(after)]) == 0
    assert read_json(after / "manifest.json")["config"]["min_active"] == 0.5
