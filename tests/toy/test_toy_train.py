import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json, read_state, read_tensors, write_json
from mi_superposition.parts import ThreadsPart
from mi_superposition.progress import Progress
from mi_superposition.toy import ToyConfig, load_toy, train_toy
from mi_superposition.toy.train import ToyLearner
from mi_superposition.training import Stopped

SMALL = ToyConfig(
    n_features=4, n_hidden=2, probability=(0.5, 0.1), n_instances=3, n_kept=2, n_steps=60, batch_size=64,
    snapshots=(0, 20, 60), threads=ThreadsPart(1),
)  # fmt: skip


class Stopping(Progress):
    """Asks to stop once, after some steps."""

    def __init__(self, after):
        self.answers = iter([*[False] * after, True])

    def should_stop(self):
        return next(self.answers, False)


def same(a, b):
    assert torch.equal(a.weights.W_in, b.weights.W_in)
    assert torch.equal(a.weights.b, b.weights.b)
    assert torch.equal(a.loss, b.loss)
    for step in a.config.snapshots:
        assert torch.equal(a.snapshots[step].W_out, b.snapshots[step].W_out)


def test_training_repeats_and_the_seed_matters():
    same(train_toy(SMALL), train_toy(SMALL))
    assert not torch.equal(train_toy(SMALL).loss, train_toy(SMALL.replace(seed=1)).loss)


def test_the_kept_instances_are_the_best_in_their_order():
    models = train_toy(SMALL.replace(n_instances=6, n_kept=3))
    for setting in range(2):
        expected = models.loss[setting].sort().values[:3]
        assert torch.equal(models.loss[setting][models.kept[setting]], expected)
    assert torch.equal(models.best_loss, models.loss.amin(dim=1))
    learner = ToyLearner(models.config)
    learner.W_in.copy_(models.weights.W_in[:, :1].expand_as(learner.W_in))
    learner.b.copy_(models.weights.b[:, :1].expand_as(learner.b))
    # The best instance's weights do give its loss.
    torch.testing.assert_close(learner.held_out()[0][:, 0], models.best_loss)


def test_the_first_and_last_snapshots_are_the_ends():
    models = train_toy(SMALL)
    assert torch.equal(models.snapshots[60].W_in, models.weights.W_in)
    assert not torch.equal(models.snapshots[0].W_in, models.weights.W_in)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(tmp_path, dropout):
    config = SMALL.replace(probability=(0.3,), dropout=(dropout,), l1=(0.01,))
    train_toy(config, tmp_path / "whole")
    for _ in range(4):
        with contextlib.suppress(Stopped):
            train_toy(config, tmp_path / "parts", Stopping(after=16))
    for name in ("weights.safetensors", "history.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "mi_superposition.cli", "toy", "train", "--n-steps", "4000", "--n-instances", "4"]
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", tmp_path / "killed"], stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_json(tmp_path / "killed" / "manifest.json")["status"] == "running"
    subprocess.run([*command, "--out", tmp_path / "killed"], check=True, capture_output=True)
    for name in ("weights.safetensors", "history.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_run_folder_says_everything_and_loads(tmp_path):
    config = SMALL.replace(probability=(0.5,), probability_ratio=(0.8,), importance=(1.0, 0.2, 0.0, 3.0))
    models = train_toy(config, tmp_path / "run")
    same(load_toy(tmp_path / "run"), models)
    assert load_toy(tmp_path / "run").config == models.config == config.resolved()
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["best_loss"] == models.best_loss.tolist()
    assert metrics["best_loss"][0] <= metrics["median_loss"][0] <= metrics["worst_loss"][0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60
    # Called again it reads what is there.
    same(train_toy(config, tmp_path / "run"), models)


def test_a_damaged_run_is_named(tmp_path):
    train_toy(SMALL, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(WorkError, match=r"weights.safetensors' was changed since the run wrote it"):
        load_toy(tmp_path / "run")


def test_a_manifest_of_other_settings_is_named(tmp_path):
    """An option that is missing counts as at its default: here one setting where there were two."""
    train_toy(SMALL, tmp_path / "run")
    manifest = read_json(tmp_path / "run" / "manifest.json")
    del manifest["config"]["probability"]
    write_json(tmp_path / "run" / "manifest.json", manifest)
    with pytest.raises(
        WorkError, match=r"weights.safetensors' is not of its manifest: W_in is \[2, .*by the options \[1, "
    ):
        load_toy(tmp_path / "run")


def test_learning_beats_both_controls():
    models = train_toy(SMALL.replace(n_steps=1500, learning_rate=1e-2, snapshots=()))
    assert bool((models.best_loss < 0.8 * models.constant_loss).all())
    assert bool((models.best_loss < 0.5 * models.untrained_loss.median(dim=1).values).all())


def test_the_constant_loss_is_the_variance():
    """Of sparse uniform numbers: p/3 - p²/4."""
    models = train_toy(SMALL.replace(n_steps=1, snapshots=(), batch_size=4096))
    expected = [p / 3 - p * p / 4 for p in (0.5, 0.1)]
    assert models.constant_loss.tolist() == pytest.approx(expected, rel=0.02)


def test_two_sparse_features_in_one_dimension_become_an_antipodal_pair():
    """The analytic case: both features, opposite directions, no interference thanks to ReLU."""
    config = ToyConfig(
        n_features=2, n_hidden=1, probability=(0.02,), n_instances=8, n_steps=4000, batch_size=256, learning_rate=1e-2,
        threads=ThreadsPart(1),
    )  # fmt: skip
    w = train_toy(config).W_in[0, 0]
    assert w.sign().sum() == 0
    assert w.abs().min() > 0.9


def test_linear_models_find_the_principal_components():
    """A linear bottleneck without bias can do no better than keep the two most important features."""
    config = ToyConfig(
        activation="linear", inputs="signed", probability=(1.0,), importance_ratio=(0.5,), n_instances=4, n_steps=3000,
        batch_size=256, learning_rate=1e-2, decay="linear", threads=ThreadsPart(1),
    )  # fmt: skip
    models = train_toy(config)
    assert models.W_in[0].norm(dim=0).tolist() == pytest.approx([1, 1, 0, 0, 0], abs=0.05)
    # What is lost is the variance 1/3 of the other three, by importance.
    assert float(models.best_loss) == pytest.approx((0.25 + 0.125 + 0.0625) / 3 / 5, rel=0.05)


def test_a_loss_that_is_not_finite_names_the_instance_and_the_last_good_state_is_kept(tmp_path):
    class Poisoned(ToyLearner):
        def step(self, step):
            if step == 55:
                self.W_in[1, 2] = float("nan")
            super().step(step)

    # Long before the first checkpoint, which is due after 1,000 steps.
    config = SMALL.replace(n_steps=10_000, snapshots=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mi_superposition.toy.train.ToyLearner", Poisoned)
        with pytest.raises(
            WorkError, match=r"step 55 of instance 2 of setting 1 .*probability=0.1.* is nan.* after step 55"
        ):
            train_toy(config, tmp_path / "run")
        with pytest.raises(WorkError, match=r"is nan: try a lower learning rate$"):
            train_toy(config)
    saved = read_state(tmp_path / "run" / "checkpoint.safetensors")
    assert saved["step"] == 55


def test_a_held_out_loss_that_is_not_finite_leaves_no_half_result(tmp_path):
    with pytest.raises(WorkError, match=r"held-out loss of instance \d of setting \d .* is (nan|inf)"):
        train_toy(SMALL.replace(n_steps=1, snapshots=(), learning_rate=1e12), tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert read_json(tmp_path / "run" / "manifest.json")["status"] == "running"


def test_saved_tensors_are_plain(tmp_path):
    train_toy(SMALL, tmp_path)
    tensors, _ = read_tensors(tmp_path / "weights.safetensors")
    assert tensors["W_in"].shape == (2, 2, 2, 4)
    assert tensors["20/W_in"].shape == (2, 2, 2, 4)
    assert tensors["loss"].shape == (2, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_such_device():
    with pytest.raises(RequestError, match=r"device = 'cuda': this machine has none"):
        train_toy(SMALL.replace(device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu():
    models = train_toy(SMALL.replace(device="cuda", n_steps=1500, learning_rate=1e-2, snapshots=()))
    assert bool((models.best_loss < 0.8 * models.constant_loss).all())
