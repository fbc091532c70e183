"""The numbers of a real pretrained model: the script's commands, what it bundles, and what the report says of them."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mi_superposition import real
from mi_superposition.cli.parsing import parse
from mi_superposition.errors import WorkError
from mi_superposition.files import read_json, write_json
from mi_superposition.subjects import find_study

PATH = Path(__file__).parent.parent / "scripts" / "real_models.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("real_models", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_command_of_the_script_is_one(script):
    places = dict.fromkeys(("smollm2", "minilm", "train", "held_out", "out"), "stories") | {"device": "cpu"}
    for step in script.steps():
        words = step.command.format(**places).split()
        study = find_study(" ".join(words[:2])) or find_study(words[0])
        assert study is not None, step
        parse(study, [*words[len(study.command.split()) :], "--out", "runs"])


def test_every_bundled_number_is_of_a_step(script):
    names = [step.name for step in script.steps()]
    measured = real.load_real()
    assert set(measured.metrics) <= set(names)
    assert measured.layers() == list(range(30))


def test_what_is_bundled_is_what_was_measured(script, tmp_path, monkeypatch):
    step = script.steps()[0]
    write_json(tmp_path / step.name / "metrics.json", {"score": 1.25, "list": [1.0], "gain": None})
    write_json(tmp_path / step.name / "manifest.json", {"inputs": {"model": {"sha256": "0" * 64}}})
    write_json(tmp_path / "seconds.json", {step.name: 3.0, "other": 1.0})
    monkeypatch.setattr(script, "BUNDLED_REAL", tmp_path / "bundled.json")
    script.bundle(script.steps(), tmp_path, "a machine")
    found = read_json(tmp_path / "bundled.json")
    assert found["metrics"] == {step.name: {"score": 1.25, "gain": None}}
    assert found["seconds"] == {step.name: 3.0}
    monkeypatch.setattr(real, "BUNDLED_REAL", tmp_path / "bundled.json")
    assert real.load_real().by_layer("order-{layer}", "score") == [1.25]


def test_damaged_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "BUNDLED_REAL", tmp_path / "bundled.json")
    write_json(tmp_path / "bundled.json", {"name": "x"})
    with pytest.raises(WorkError, match="damaged"):
        real.load_real()
