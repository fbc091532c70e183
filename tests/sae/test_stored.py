import pytest
import torch
from safetensors import safe_open

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.sae import ActivationStream, SaeConfig, SaeJob, StoredActivations, store_activations, train_saes
from mi_superposition.sae.stored import stored_bytes
from mi_superposition.training import Stopped

HOOKS = ["blocks.1.hook_resid_pre", "blocks.0.mlp.hook_post"]
TEXTS = [f"a cat {n} ran to dog {n * n} and there was play, said the {n % 7} owl" for n in range(60)]


@pytest.fixture
def stream(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    return ActivationStream(model, batches, HOOKS, batch_size=32, buffer_batches=4)


def test_the_batches_are_the_streams(stream, tmp_path):
    stored = store_activations(stream, tmp_path / "kept", 10)
    for index in (9, 0, 4, 3):
        for hook in HOOKS:
            assert torch.equal(stored.batch(index)[hook], stream.batch(index)[hook])
    size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("*.safetensors"))
    expected = stored_bytes({HOOKS[0]: 16, HOOKS[1]: 48}, 320)
    assert expected <= size < expected + 4096


def test_the_model_reads_the_text_only_once(stream, tmp_path):
    store_activations(stream, tmp_path / "kept", 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "batch", None)
        again = store_activations(stream, tmp_path / "kept", 8)
    assert again.n_batches == 8


def test_training_on_what_was_stored_gives_the_same_weights(stream, tmp_path):
    stored = store_activations(stream, tmp_path / "kept", 12)
    job = SaeJob("one", HOOKS[0], SaeConfig(d_sae=32, k=4, warmup_steps=2))
    streamed, kept = (train_saes([job], source, 12)["one"].state_dict() for source in (stream, stored))
    for name, value in streamed.items():
        assert torch.equal(kept[name], value)


def test_stopped_it_goes_on_and_keeps_what_it_had(stream, tmp_path):
    asked = iter([True])
    with pytest.raises(Stopped):
        store_activations(stream, tmp_path / "kept", 10, should_stop=lambda: next(asked))
    with pytest.raises(RequestError, match="not finished"):
        StoredActivations(tmp_path / "kept")
    first = next((tmp_path / "kept").glob("*.safetensors"))
    written = first.stat().st_mtime_ns
    store_activations(stream, tmp_path / "kept", 10)
    assert first.stat().st_mtime_ns == written


def test_half_precision_takes_half(stream, tmp_path):
    stored = store_activations(stream, tmp_path / "kept", 4, dtype="float16")
    with safe_open(next((tmp_path / "kept").glob("*.safetensors")), framework="pt") as file:
        assert file.get_tensor(HOOKS[0]).dtype == torch.float16
    torch.testing.assert_close(stored.batch(1)[HOOKS[0]], stream.batch(1)[HOOKS[0]], atol=1e-2, rtol=1e-2)


def test_wrong_requests(stream, tmp_path):
    with pytest.raises(RequestError, match=r"dtype = 'int8': give 'float32' or"):
        store_activations(stream, tmp_path / "kept", 4, dtype="int8")
    stored = store_activations(stream, tmp_path / "kept", 4)
    with pytest.raises(RequestError, match=r"batch 4: .* holds 4"):
        stored.batch(4)
    with pytest.raises(RequestError, match="was made with n_batches = 4, not 5"):
        store_activations(stream, tmp_path / "kept", 5)
    path = next((tmp_path / "kept").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WorkError, match="cannot read"):
        StoredActivations(tmp_path / "kept").batch(0)
