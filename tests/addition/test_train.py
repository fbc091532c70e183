import inspect
import itertools

import pytest
import torch
from conftest import small_config

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.problems import fresh_operands, masked, with_answers
from mi_superposition.addition.train import (
    STARTS,
    _Batches,
    _begun,
    _problems,
    answer_logits,
    build_addition_model,
    evaluate_addition,
    snapshot_epochs,
    train_addition,
)
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.models import BUNDLED_MODELS, MODEL_WEIGHTS, load_model, load_snapshots, untrained_copy
from mi_superposition.progress import Progress
from mi_superposition.runs import HISTORY, read_config, read_metrics
from mi_superposition.training import Stopped, train


def test_presets_are_the_studys():
    paper, exact = (AdditionConfig.PRESETS[name] for name in ("paper", "exact"))
    assert (paper.n_train, paper.n_test, paper.batch_size, paper.epochs) == (25_000, 2_000, 256, 1000)
    assert (paper.n_heads, paper.d_head, paper.d_model, paper.n_digits) == (32, 2, 128, 6)
    assert exact.n_train is None
    assert paper.replace(batch_size=100).epoch_steps == 250


def test_the_recipe_of_thaman_et_al():
    """AdamW of torch but for the rate, cosine from the first step, and loaders that drop the last batch."""
    thaman, paper = (AdditionConfig.PRESETS[name] for name in ("thaman", "paper"))
    plain = inspect.signature(torch.optim.AdamW).parameters
    assert (thaman.beta1, thaman.beta2) == plain["betas"].default
    assert thaman.weight_decay == plain["weight_decay"].default
    assert (thaman.learning_rate, thaman.warmup_steps, thaman.decay) == (1e-3, 0, "cosine")
    assert (thaman.epoch_steps, thaman.n_steps, thaman.n_tested) == (97, 97_000, 1_792)
    assert (paper.epoch_steps, paper.n_tested) == (98, 2_000)
    # In data and sizes they are one, and our own recipe is no other than it was.
    same = dict(learning_rate=5e-3, beta2=0.98, warmup_steps=500, drop_last=False)
    assert thaman.replace(**same) == paper == AdditionConfig()


def test_the_last_batch_is_left_out(tmp_path):
    config = small_config(n_train=50, n_test=40, batch_size=16, steps_per_epoch=None, epochs=3, drop_last=True)
    problems, test = _problems(config)
    batches = [_Batches(config, problems)(step) for step in range(config.n_steps)]
    assert [len(batch) for batch in batches] == [16] * 9
    # Another two problems are left out in each epoch.
    left_out = []
    for epoch in range(3):
        seen = {tuple(row) for batch in batches[3 * epoch : 3 * epoch + 3] for row in batch.tolist()}
        left_out.append({tuple(row) for row in problems.tolist()} - seen)
        assert len(left_out[-1]) == 2
    assert len(set.union(*left_out)) > 2
    assert len(test) == 32
    train_addition(config, tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")
    assert (metrics["n_test"], metrics["n_train"], metrics["steps"]) == (32, 50, 9)
    for name in ("n_train", "n_test"):
        with pytest.raises(RequestError, match=f"{name} = 15: with drop_last there must be at least batch_size = 16"):
            small_config(**{"n_train": 50, "n_test": 40, "batch_size": 16, "drop_last": True, name: 15})


def test_the_model_is_the_studys():
    cfg = build_addition_model(AdditionConfig()).cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.d_head, cfg.d_model) == (1, 32, 2, 128)
    assert (cfg.d_vocab, cfg.d_vocab_out, cfg.n_ctx) == (12, 10, 19)
    assert cfg.attn_only
    assert cfg.normalization_type is None


def test_seeds_name_the_weights_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [build_addition_model(small_config(seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(models[0].W_E, models[1].W_E)
    assert not torch.equal(models[0].W_E, models[2].W_E)


@pytest.mark.parametrize("answer", ["masked", "autoregressive"])
def test_one_digit_sums_are_learnt(tmp_path, answer):
    """All of it on problems small enough to be learnt at once: loop, loss, data, evaluation."""
    config = small_config(
        n_digits=1, n_train=90, n_test=2, batch_size=90, steps_per_epoch=1, epochs=800, n_heads=8, d_model=32,
        learning_rate=2e-2, answer=answer, log_every_epochs=500, warmup_steps=50, digit_focus=0.0,
    )  # fmt: skip
    assert train_addition(config, tmp_path / "run")
    model = load_model(tmp_path / "run", device="cpu")
    operands = fresh_operands(500, n_digits=1, part="train", generator=torch.Generator().manual_seed(0))
    assert evaluate_addition(model, operands, answer).per_digit > 0.95
    # The control: the same evaluation of the same architecture before training.
    assert evaluate_addition(untrained_copy(model, seed=0), operands, answer).per_digit < 0.6


def test_autoregressive_logits_come_from_the_position_before(tiny_model):
    operands = fresh_operands(5, n_digits=2, part="train", generator=torch.Generator().manual_seed(0))
    tokens = with_answers(operands)
    expected = tiny_model(tokens)[:, 3:6]
    assert (answer_logits(tiny_model, operands, "autoregressive") - expected).abs().max() < 1e-6


def test_accuracy_is_a_count(tiny_model):
    operands = fresh_operands(300, n_digits=2, part="train", generator=torch.Generator().manual_seed(0))
    accuracy = evaluate_addition(tiny_model, operands)
    guessed = tiny_model(masked(with_answers(operands)))[:, 4:].argmax(dim=-1)
    right = guessed == with_answers(operands)[:, 4:]
    assert accuracy.by_digit.tolist() == pytest.approx(right.double().mean(dim=0).tolist())
    assert accuracy.whole_sum == pytest.approx(float(right.all(dim=1).double().mean()))


def test_the_best_of_several_starts_is_trained(tmp_path):
    """As if it had been the only one, on the same problems in the same order, wherever the choice was interrupted."""
    config = small_config(starts=3, start_epochs=2)
    train_addition(config, tmp_path / "run")
    losses = read_json(tmp_path / "run" / STARTS)
    problems, _ = _problems(config)
    expected = []
    for start in range(3):
        model, learner = _begun(config, problems, start)
        train(learner, 0, 7)
        learner.take_mean_loss()
        # The last fifth of eight steps is one step.
        train(learner, 7, 8)
        expected.append(learner.take_mean_loss())
    assert losses == expected
    chosen = losses.index(min(losses))
    assert read_metrics(tmp_path / "run")["start"] == chosen
    model, learner = _begun(config, problems, chosen)
    train(learner, 0, config.n_steps)
    assert torch.equal(load_model(tmp_path / "run", device="cpu").W_E, model.W_E)
    assert len({float(build_addition_model(config, start).W_E.detach().sum()) for start in range(3)}) == 3
    # The first start is the one of a run without choice.
    assert torch.equal(build_addition_model(config, 0).W_E, build_addition_model(small_config()).W_E)

    class StopInTheSecond(Progress):
        calls = 0

        def should_stop(self):
            self.calls += 1
            return self.calls == 11

    with pytest.raises(Stopped):
        train_addition(config, tmp_path / "again", StopInTheSecond())
    assert read_json(tmp_path / "again" / STARTS) == losses[:1]
    train_addition(config, tmp_path / "again")
    for name in (STARTS, MODEL_WEIGHTS, HISTORY):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_snapshots_grow_by_a_tenth():
    epochs = snapshot_epochs(1000)
    assert epochs[:3] == [0, 1, 2]
    assert epochs[-1] == 1000
    assert len(epochs) < 80
    late = [b / a for a, b in itertools.pairwise(epochs[20:-1])]
    assert max(late) < 1.15
    assert min(late) > 1.05


def test_snapshots_end_with_the_model_itself(tmp_path):
    train_addition(small_config(), tmp_path / "run")
    snapshots = load_snapshots(tmp_path / "run")
    assert [epoch for epoch, _ in snapshots] == snapshot_epochs(6)
    final = load_model(tmp_path / "run", device="cpu")
    # Snapshots are half precision.
    assert (snapshots[-1][1].W_E - final.W_E).abs().max() < 1e-3
    assert (snapshots[0][1].W_E - final.W_E).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        (dict(n_heads=0), "n_heads = 0"),
        (dict(learning_rate=0.0), "learning_rate = 0.0"),
        (dict(threads=0), "threads = 0"),
        (dict(starts=2, start_epochs=7), "start_epochs = 7: the whole training has epochs = 6"),
    ],
)
def test_wrong_configurations_quote_the_value(changes, quoted):
    with pytest.raises(RequestError, match=quoted):
        small_config(**changes)


def test_the_bundle_is_small_and_what_it_says():
    size = sum(
        path.stat().st_size
        for name, folder in BUNDLED_MODELS.items()
        if name.startswith("addition")
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert size <= 3_000_000
    for name, preset in [("addition", "paper"), ("addition-exact", "exact")]:
        config = read_config(BUNDLED_MODELS[name], AdditionConfig, "addition train")
        assert config == AdditionConfig.PRESETS[preset].replace(seed=config.random.seed)
        assert len(load_snapshots(BUNDLED_MODELS[name])) > 5


def test_a_model_that_is_no_table_is_refused(tiny_model):
    import copy

    deeper = copy.deepcopy(tiny_model)
    deeper.cfg.n_layers = 2
    operands = fresh_operands(3, n_digits=2, part="train", generator=torch.Generator().manual_seed(0))
    with pytest.raises(RequestError, match="n_layers = 2"):
        evaluate_addition(deeper, operands)


@pytest.mark.parametrize(
    ("name", "per_digit", "whole_sums"), [("addition", 0.98, 0.86), ("addition-exact", 0.99, 0.94)]
)
def test_the_bundled_models_add(name, per_digit, whole_sums):
    fresh = fresh_operands(50_000, part="test", generator=torch.Generator().manual_seed(1))
    model = load_model(name, device="cpu")
    accuracy = evaluate_addition(model, fresh)
    assert accuracy.per_digit >= per_digit
    assert accuracy.whole_sum >= whole_sums
    assert evaluate_addition(untrained_copy(model, seed=0), fresh).per_digit < 0.2


def test_a_share_of_fresh_problems_has_nines():
    plain, changed = (
        _Batches(small_config(n_digits=6, n_train=None, batch_size=1000, nines=nines), None)(3) for nines in (0.0, 0.3)
    )
    nine = (changed[:, :6] + changed[:, 6:] == 9).double().mean(dim=1)
    assert float(nine[:300].mean()) == pytest.approx(0.55, abs=0.03)
    assert torch.equal(changed[300:], plain[300:])
    with pytest.raises(RequestError, match=r"nines = 0.3: only fresh problems can be chosen"):
        small_config(nines=0.3)


def test_a_second_descent_has_its_own_rate_and_batches():
    from mi_superposition.addition.train import _Batches, _learning_rate

    config = small_config(
        n_train=None, epochs=10, restart_epoch=5, restart_learning_rate=1e-3, restart_batch_size=32, learning_rate=1e-2
    )
    rate = _learning_rate(config)
    rates = [rate(step) for step in range(config.n_steps)]
    assert max(rates[:20]) == pytest.approx(1e-2)
    assert rates[19] < 2e-3
    assert max(rates[20:]) == pytest.approx(1e-3)
    assert rates[-1] < 2e-4
    batches = _Batches(config, None)
    assert [len(batches(step)) for step in (0, 19, 20, 39)] == [16, 16, 32, 32]
    # A shorter run keeps the share of each descent.
    exact = AdditionConfig.PRESETS["exact"].replace(epochs=27)
    assert (exact.second_descent, exact.epochs) == (24, 27)
