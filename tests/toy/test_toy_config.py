"""Requests of toy models: defaults that depend on others, the grid of settings, wrong ones, and those of version 0.1."""

import json

import pytest

from mi_superposition.cli import main
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json, write_json
from mi_superposition.parts import SeedPart, ThreadsPart
from mi_superposition.runs import recorded_config
from mi_superposition.toy import ToyConfig, ToySetting, load_toy, train_toy
from mi_superposition.toy.config import ToyArchitecture

SMALL = ToyConfig(
    n_features=4, n_hidden=2, probability=(0.5, 0.1), n_instances=2, n_steps=5, batch_size=16, threads=ThreadsPart(1)
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ToyArchitecture("bottleneck", "uniform", 5, 2, 5, True)),
        ({"network": "neuron"}, ToyArchitecture("neuron", "uniform", 5, 5, 5, True)),
        ({"task": "abs"}, ToyArchitecture("computation", "signed", 5, 5, 5, False)),
        ({"task": "and"}, ToyArchitecture("computation", "binary", 6, 6, 3, False)),
        ({"task": "max", "n_features": 8}, ToyArchitecture("computation", "signed", 8, 8, 4, False)),
    ],
)
def test_defaults_that_depend_on_other_options(options, expected):
    config = ToyConfig(**options)
    assert config.architecture == expected
    resolved = config.resolved()
    assert resolved.architecture == expected
    assert (resolved.network, resolved.n_features, resolved.tied) == (
        expected.network,
        expected.n_features,
        expected.tied,
    )
    assert resolved.resolved() == resolved
    # What was not asked for follows when the rest changes.
    assert config.replace(task="or", network=None, n_features=4).architecture.inputs == "binary"


def test_settings_are_the_product_of_the_axes_the_last_one_fastest():
    config = ToyConfig(
        n_features=3, n_hidden=1, probability=(0.5, 0.4), probability_ratio=(1.0, 0.5), importance_ratio=(1.0, 0.1), l1=(0.0, 0.2)
    )  # fmt: skip
    ones, falling, uneven = 1.0, (1.0, 0.1, 0.1**2), (0.4, 0.2, 0.1)
    assert config.settings == (
        ToySetting(0.5, ones), ToySetting(0.5, ones, l1=0.2), ToySetting(0.5, falling), ToySetting(0.5, falling, l1=0.2),
        ToySetting(uneven, ones), ToySetting(uneven, ones, l1=0.2), ToySetting(uneven, falling), ToySetting(uneven, falling, l1=0.2),
    )  # fmt: skip
    given = config.replace(importance_ratio=(1.0,), importance=(3.0, 2.0, 0.0), l1=(0.0,))
    assert {setting.importance for setting in given.settings} == {(3.0, 2.0, 0.0)}
    # One importance per output: a pair has one.
    assert ToyConfig(task="and", importance_ratio=(0.5,)).settings[0].importance == (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_hidden": 5}, r"n_hidden = 5: a bottleneck of 5 features has fewer than 5"),
        ({"n_hidden": 0}, r"n_hidden = 0: must be at least 1"),
        ({"network": "bottleneck", "task": "abs"}, r"the bottleneck model reconstructs; take network = 'computation'"),
        ({"task": "and", "inputs": "signed"}, r"'and' is defined for 'binary'"),
        ({"task": "and", "n_features": 5}, r"n_features = 5: the task 'and' takes pairs, give an even number"),
        ({"task": "and", "tied": True}, r"tied = True: the task 'and' has other outputs than inputs"),
        ({"sets": "correlated"}, r"n_features = 5: must be a multiple of set_size = 2"),
        (
            {"sets": "correlated", "n_features": 4, "probability_ratio": (0.5,)},
            r"features in correlated sets share one",
        ),
        ({"probability": ()}, r"probability = \(\): give at least one"),
        ({"importance": (1.0, 2.0)}, r"importance has 2 values: give 5"),
        ({"importance": (1.0,) * 5, "importance_ratio": (0.9,)}, r"importance_ratio = \(0.9,\): leave it out"),
        ({"probability": (0.1, 0.2, 0.3), "probability_ratio": (1.0, 0.9)}, r"has 2 values: give 1 or 3"),
        ({"probability": (0.5,), "probability_ratio": (1.5,)}, r"makes a probability 2.53125, above 1"),
        (
            {"importance_ratio": (1e12,), "n_features": 40},
            r"importance_ratio = 1000000000000.0: 1.0 times it, 39 times over, is too large",
        ),
        ({"importance_ratio": (1e300,)}, r"importance_ratio = 1e\+300: must be at most 1e\+12"),
        ({"n_kept": 17}, r"n_kept = 17: there are only 16 instances"),
        ({"snapshots": (20_000,)}, r"snapshots = \(20000,\): must be 0 to n_steps = 10000"),
        ({"learning_rate": float("nan")}, r"learning_rate = nan: must be a finite number"),
        ({"probability": (1.5,)}, r"probability = 1.5: must be 0 to 1"),
        ({"probability": (0.5, -0.1)}, r"probability = -0.1"),
        ({"probability": (float("nan"),)}, r"probability = nan"),
        ({"importance": (-1.0,) * 5}, r"importance = -1.0: must be at least 0"),
        ({"dropout": (1.0,)}, r"dropout = 1.0: must be at least 0 and below 1"),
        ({"l1": (-0.1,)}, r"l1 = -0.1: must be at least 0"),
    ],
)
def test_wrong_requests_say_what_would_be_right(options, message):
    with pytest.raises(RequestError, match=message):
        ToyConfig(**options)


@pytest.mark.parametrize(
    ("option", "word"), [("task", "xor"), ("network", "deep"), ("activation", "sigmoid"), ("tied", "2")]
)
def test_wrong_words(option, word, tmp_path, capsys):
    assert main(["toy", "train", f"--{option}", word, "--out", str(tmp_path / "run")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert option in line
    assert word in line
    assert not (tmp_path / "run").exists()


def test_wrong_parts():
    with pytest.raises(RequestError, match=r"seed = -1"):
        SeedPart(-1)
    with pytest.raises(RequestError, match=r"device = 'tpu': give 'auto', 'cpu', 'cuda' or 'mps'"):
        train_toy(SMALL.replace(device="tpu"))


def settings_of_0_1(config):
    """The settings as version 0.1 recorded them."""

    def by_index(value):
        return list(value) if isinstance(value, tuple) else value

    return [
        {"probability": by_index(one.probability), "importance": by_index(one.importance), "dropout": one.dropout, "l1": one.l1}
        for one in config.settings
    ]  # fmt: skip


def as_of_0_1(folder, settings):
    """Make the manifest of a run the one that version 0.1 would have written."""
    manifest = read_json(folder / "manifest.json")
    axes = ("probability", "probability_ratio", "importance_ratio", "importance", "dropout", "l1")
    rest = {name: value for name, value in manifest["config"].items() if name not in axes}
    write_json(folder / "manifest.json", {**manifest, "format": 1, "config": {**rest, "settings": settings}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"importance_ratio": (0.9, 1.0, 0.3), "dropout": (0.0, 0.5)},
        {"probability": (0.3, 0.7, 0.1), "probability_ratio": (0.9, 1.0, 0.35), "l1": (0.1,)},
        {"importance": (1.0, 0.5, 0.1, 7.0)},
    ],
)
def test_a_run_of_version_0_1_loads_and_is_finished(options, tmp_path):
    config = SMALL.replace(**options)
    models = train_toy(config, tmp_path / "run")
    as_of_0_1(tmp_path / "run", settings_of_0_1(config))
    read = load_toy(tmp_path / "run")
    assert read.config.settings == config.settings
    assert read.config.resolved() == models.config
    # The same request again: nothing is trained.
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    assert train_toy(config, tmp_path / "run").loss.tolist() == models.loss.tolist()
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda settings: settings[:-1], "are no grid"),
        (lambda settings: [{**one, "probability": [0.5, 0.4, 0.3, 0.2]} for one in settings[:1]], "have probabilities that"),
        (
            lambda settings: [{**one, "importance": weights} for one in settings[:1] for weights in ([1.0, 2.0, 1.0, 2.0], [2.0, 1.0, 1.0, 1.0])],
            "have importances that differ otherwise than by a ratio",
        ),
    ],
)  # fmt: skip
def test_settings_of_version_0_1_that_are_no_options_today_are_refused(change, message, tmp_path, capsys):
    config = SMALL.replace(l1=(0.0, 0.1))
    train_toy(config, tmp_path / "run")
    as_of_0_1(tmp_path / "run", change(settings_of_0_1(config)))
    with pytest.raises(RequestError, match=f"the settings of this run of version 0.1 {message}"):
        load_toy(tmp_path / "run")
    assert main(["page", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("settings", [None, [], [{"probability": 0.5}], "all"])
def test_a_damaged_manifest_of_version_0_1(settings, tmp_path):
    train_toy(SMALL, tmp_path)
    as_of_0_1(tmp_path, settings)
    with pytest.raises(WorkError, match="damaged"):
        load_toy(tmp_path)


def test_the_flat_form_of_a_config():
    config = SMALL.replace(seed=3, importance=(1.0, 2.0, 3.0, 4.0))
    assert ToyConfig.from_flat(json.loads(json.dumps(config.flat()))) == config
    assert (
        recorded_config({"format": 2, "command": "toy train", "config": config.flat(), "inputs": {}}) == config.flat()
    )
