"""The numbers of a real pretrained model: the script's commands, what it bundles, and what the report says of them."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mi_superposition import real
from mi_superposition.cli.parsing import parse
from mi_superposition.errors import WorkError
from mi_superposition.files import read_json, write_json
from mi_superposition.pages.real.chapter import beside_bundled
from mi_superposition.subjects import chapters, find_study

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
    write_json(
        tmp_path / step.name / "metrics.json", {"score": 1.25, "heads": [1.0, 4.0, 2.0], "names": ["x"], "gain": None}
    )
    write_json(tmp_path / step.name / "manifest.json", {"inputs": {"model": {"sha256": "0" * 64}}})
    write_json(tmp_path / "seconds.json", {step.name: 3.0, "other": 1.0})
    monkeypatch.setattr(script, "BUNDLED_REAL", tmp_path / "bundled.json")
    script.bundle(script.steps(), tmp_path, "a machine")
    found = read_json(tmp_path / "bundled.json")
    assert found["metrics"] == {
        step.name: {"score": 1.25, "heads/median": 2.0, "heads/largest": 4.0, "heads/smallest": 1.0, "gain": None}
    }
    assert found["seconds"] == {step.name: 3.0}
    assert found["machines"] == {step.name: "a machine"}
    monkeypatch.setattr(real, "BUNDLED_REAL", tmp_path / "bundled.json")
    assert real.load_real().by_layer("order-{layer}", "score") == [1.25]


def test_what_was_bundled_of_other_steps_stays_and_other_weights_are_refused(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "BUNDLED_REAL", tmp_path / "bundled.json")
    for number, step in enumerate(script.steps()[:3]):
        runs = tmp_path / str(number)
        write_json(runs / step.name / "metrics.json", {"score": float(number)})
        write_json(runs / step.name / "manifest.json", {"inputs": {"model": {"sha256": str(number // 2) * 64}}})
        write_json(runs / "seconds.json", {step.name: 1.0})
    first, second, third = script.steps()[:3]
    script.bundle([first], tmp_path / "0", "one machine")
    script.bundle([second], tmp_path / "1", "another")
    found = read_json(tmp_path / "bundled.json")
    assert found["metrics"] == {first.name: {"score": 0.0}, second.name: {"score": 1.0}}
    assert found["machines"] == {first.name: "one machine", second.name: "another"}
    with pytest.raises(SystemExit, match="different weights"):
        script.bundle([third], tmp_path / "2", "a third")
    assert read_json(tmp_path / "bundled.json") == found


def test_damaged_numbers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "BUNDLED_REAL", tmp_path / "bundled.json")
    write_json(tmp_path / "bundled.json", {"name": "x"})
    with pytest.raises(WorkError, match="damaged"):
        real.load_real()


def test_the_column_beside_the_bundled_models_follows_from_the_numbers():
    measured = real.load_real()
    cells = beside_bundled(measured)
    assert set(cells) < set(chapters())
    metrics = {name: dict(numbers) for name, numbers in measured.metrics.items()}
    metrics["order-7"]["gain"] = 0.01
    metrics["sae-evaluation"]["sae/autoencoder/explained_variance"] = 0.5
    metrics["contexts"]["blocks.15.mlp.hook_post/contexts_untrained_median"] = 3.0
    for name in metrics["spectra"]:
        if name.endswith(".weights.untrained.possible_ratio"):
            metrics["spectra"][name] = 0.25
    changed = beside_bundled(replace(measured, metrics=metrics))
    assert changed["neuron-order"].startswith("**+1% to ")
    assert changed["sae"].startswith("**0.500**")
    assert changed["neuroscope"].endswith("untrained 3.0")
    assert changed["spectra"].endswith("untrained 0.25")
    assert all(changed[name] != cells[name] for name in ("neuron-order", "sae", "neuroscope", "spectra"))
