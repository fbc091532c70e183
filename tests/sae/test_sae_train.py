import contextlib
import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import open_run
from mi_superposition.sae import (
    ActivationStream,
    SaeConfig,
    SaeJob,
    SaeTrainConfig,
    load_sae,
    save_sae,
    train_sae,
    train_saes,
)
from mi_superposition.sae import train as training
from mi_superposition.sae.config import Architecture
from mi_superposition.sae.train import SaeLearner
from mi_superposition.training import Stopped

ARCHITECTURES = get_args(Architecture)
HOOK = "blocks.1.hook_resid_pre"
TEXTS = [f"a cat {n} ran to dog {n * n} and there was play, said the {n % 7} owl" for n in range(60)]
SMALL = SaeConfig(d_sae=64, k=4, warmup_steps=3, dead_after=20, learning_rate=5e-3)


@pytest.fixture
def stream(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    return ActivationStream(model, batches, [HOOK, "blocks.0.mlp.hook_post"], batch_size=64, buffer_batches=4)


def config(architecture):
    if architecture in ("standard", "gated", "jumprelu"):
        return SaeConfig(
            architecture=architecture, d_sae=64, k=4, sparsity=0.1, warmup_steps=3, dead_after=20, learning_rate=5e-3
        )
    return replace(SMALL, architecture=architecture)


def weights(sae):
    return {name: value.clone() for name, value in sae.state_dict().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_saves_and_loads(architecture, stream, tmp_path):
    rows = []
    job = SaeJob("one", HOOK, config(architecture))
    sae = train_saes([job], stream, 120, metadata={"model_name": "tiny"}, on_log=rows.append)["one"]
    first, last = (rows[index]["saes"]["one"] for index in (0, -1))
    assert last["explained_variance"] > first["explained_variance"]
    assert last["explained_variance"] > 0.5
    save_sae(sae, tmp_path)
    loaded = SAE.load_from_disk(str(tmp_path))
    assert loaded.cfg.metadata.hook_name == HOOK
    assert loaded.cfg.metadata.model_name == "tiny"
    assert loaded.cfg.metadata.trained_with["d_sae"] == 64
    x = stream.batch(0)[HOOK]
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), sae(x), atol=1e-5, rtol=1e-5)
    # The scale of the activations is folded in: it reads what the model gives.
    with torch.no_grad():
        error = (loaded(x) - x).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert float(error) < 0.6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stopped_anywhere_it_ends_with_the_same_weights(architecture, stream, tmp_path):
    job = SaeJob("one", HOOK, config(architecture))
    request = job.config
    with open_run(tmp_path / "whole", "sae test", request) as run:
        whole = train_saes([job], stream, 40, run=run)["one"]
    for _ in range(3):
        with open_run(tmp_path / "parts", "sae test", request) as run, contextlib.suppress(Stopped):
            parts = train_saes(
                [job], stream, 40, run=run, should_stop=iter([*[False] * 14, True, *[False] * 40]).__next__
            )["one"]
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    histories = [(tmp_path / name / "history.jsonl").read_bytes() for name in ("whole", "parts")]
    assert histories[0] == histories[1]
    assert json.loads(histories[0].splitlines()[-1])["step"] == 40


def test_activations_scaled_token_by_token(stream, tmp_path):
    job = SaeJob("one", HOOK, replace(config("standard"), normalize="layer_norm"))
    sae = train_saes([job], stream, 60)["one"]
    save_sae(sae, tmp_path)
    x = stream.batch(0)[HOOK]
    with torch.no_grad():
        torch.testing.assert_close(load_sae(tmp_path)(x), sae(x), atol=1e-5, rtol=1e-5)
        # A token ten times as long, and moved, is reconstructed as well.
        torch.testing.assert_close(sae(10 * x + 3), 10 * sae(x) + 3, atol=0.05, rtol=0.01)


def test_activations_by_head_are_saved_as_saelens_has_them(tiny_gpt2, tmp_path):
    model, hook = tiny_gpt2.hooked, "blocks.1.attn.hook_z"
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    sae = train_sae(model, batches, hook, SMALL, n_steps=20, batch_size=64, buffer_batches=4)
    save_sae(sae, tmp_path)
    theirs, ours = SAE.load_from_disk(str(tmp_path)), load_sae(tmp_path)
    by_head = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = theirs(by_head)
        assert made.shape == by_head.shape
        torch.testing.assert_close(made.flatten(1), ours(by_head.flatten(1)), atol=1e-5, rtol=1e-5)
    save_sae(ours, tmp_path / "again")
    assert SAE.load_from_disk(str(tmp_path / "again")).cfg.reshape_activations == "hook_z"


def test_the_global_generator_is_left_alone(stream):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    SaeLearner([SaeJob("one", HOOK, SMALL)], stream, 10, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides(stream):
    def trained(seed):
        return weights(train_saes([SaeJob("one", HOOK, replace(SMALL, seed=seed))], stream, 5)["one"])["W_dec"]

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_several_in_one_pass_are_what_each_would_be_alone(stream):
    jobs = [
        SaeJob("narrow", HOOK, replace(SMALL, d_sae=32)),
        SaeJob("neurons", "blocks.0.mlp.hook_post", config("standard")),
    ]
    together = train_saes(jobs, stream, 30)
    for job in jobs:
        alone = train_saes([job], stream, 30)[job.name]
        for name, value in weights(alone).items():
            assert torch.equal(value, weights(together[job.name])[name])


def test_a_loss_that_is_not_finite_is_named(stream):
    learner = SaeLearner([SaeJob("one", HOOK, SMALL)], stream, 10, "cpu")
    with torch.no_grad():
        learner.trainers["one"].sae.W_enc.fill_(float("nan"))
    with pytest.raises(WorkError, match=r"the loss of 'one' is nan at step 0"):
        learner.step(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "topkk"}, r"architecture = 'topkk': give 'standard', 'topk'"),
        ({"architecture": {}}, r"architecture = {}: give 'standard', 'topk'"),
        ({"k": 65, "d_sae": 64}, r"k = 65: there are only 64 features"),
        ({"k": 0}, r"k = 0: must be at least 1"),
        ({"architecture": "topk", "sparsity": 1.0}, r"'topk' is made sparse by k"),
        ({"architecture": "standard", "sparsity": -1.0}, r"sparsity = -1.0: must be at least 0"),
        ({"architecture": "matryoshka", "d_sae": 64, "k": 32}, r"an eighth, must hold k = 32"),
        ({"normalize": "layer_norm"}, r"normalize = 'layer_norm'"),
        ({"normalize": "max"}, r"normalize = 'max': give 'none'"),
        ({"learning_rate": 0.0}, r"learning_rate = 0.0: must be above 0"),
        ({"decay_share": 1.0}, r"decay_share = 1.0: must be at least 0 and below 1"),
        ({"seed": -1}, r"seed = -1"),
    ],
)
def test_wrong_requests(options, message):
    with pytest.raises(RequestError, match=message):
        SaeConfig(**options)


def test_one_and_a_grid_of_them_are_declared_once():
    """What is said of an option, and its default, are those of one autoencoder."""
    alone = {option.name: option for option in SaeConfig.options()}
    of_grid = {option.name: option for option in SaeTrainConfig.options()}
    assert set(alone) <= set(of_grid)
    assert {name: option.help for name, option in alone.items()} == {name: of_grid[name].help for name in alone}
    [job] = SaeTrainConfig().jobs
    assert job == SaeJob("sae", HOOK, SaeConfig())
    grid = SaeTrainConfig(architecture="standard", d_sae=(32, 64), sparsity=(0.1, 3.0), learning_rate=1e-3)
    jobs = grid.replace(seed=5).jobs
    assert [job.name for job in jobs] == [f"{HOOK}-{d_sae}-s{level}" for d_sae in (32, 64) for level in ("0.1", "3")]
    assert jobs[-1].config == SaeConfig(architecture="standard", d_sae=64, sparsity=3.0, learning_rate=1e-3, seed=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hook": ()}, r"hook = \(\): give at least one"),
        ({"d_sae": ()}, r"d_sae = \(\): give at least one"),
        ({"d_sae": (64, 0)}, r"d_sae = 0: must be at least 1"),
        ({"k": (4, 65), "d_sae": (64,)}, r"k = 65: there are only 64 features"),
    ],
)
def test_wrong_grids(options, message):
    with pytest.raises(RequestError, match=message):
        SaeTrainConfig(**options)


def renamed(architecture):
    """A configuration whose architecture its own check does not know."""
    config = replace(SMALL, seed=0)
    object.__setattr__(config, "architecture", architecture)
    return config


def test_an_architecture_that_nothing_trains_is_named(stream, monkeypatch):
    """Never another one in its place."""
    with pytest.raises(RequestError, match=r"architecture = 'abstopk': SAELens [\d.]+ can train 'standard', 'topk'"):
        train_saes([SaeJob("one", HOOK, renamed("abstopk"))], stream, 5)
    # Nor where SAELens itself has dropped it.
    monkeypatch.delitem(SAE_TRAINING_CLASS_REGISTRY, "gated")
    with pytest.raises(
        RequestError, match=r"architecture = 'gated': SAELens [\d.]+ can train .*'jumprelu', 'matryoshka'"
    ):
        train_saes([SaeJob("one", HOOK, config("gated"))], stream, 5)


def test_a_further_architecture_of_saelens_is_a_line(stream, monkeypatch):
    line = training._Architecture("abstopk", lambda config: {"k": config.k})
    monkeypatch.setitem(training._ARCHITECTURES, "abstopk", line)
    sae = train_saes([SaeJob("one", HOOK, renamed("abstopk"))], stream, 60)["one"]
    assert (sae.cfg.architecture(), sae.cfg.k) == ("abstopk", 4)


def test_every_architecture_that_can_be_asked_for_has_its_line():
    assert tuple(training._ARCHITECTURES) == ARCHITECTURES


def test_the_door_trains_one(tiny_gpt2, stream):
    model = tiny_gpt2.hooked
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    sae = train_sae(model, batches, HOOK, SMALL, n_steps=5, batch_size=64, buffer_batches=4)
    alone = train_saes([SaeJob("any name", HOOK, SMALL)], stream, 5)["any name"]
    for name, value in weights(alone).items():
        assert torch.equal(value, weights(sae)[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_on_a_cuda_device_it_learns_the_same(architecture, stream):
    job = SaeJob("one", HOOK, config(architecture))
    explained = []
    for device in ("cpu", "cuda"):
        rows = []
        sae = train_saes([job], stream, 60, device=device, on_log=rows.append)["one"]
        assert sae.W_dec.device.type == "cpu"
        explained.append(rows[-1]["saes"]["one"]["explained_variance"])
    assert explained[0] == pytest.approx(explained[1], abs=0.02)
