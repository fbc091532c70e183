"""Loading: logits are those of transformers, from a folder, the hub cache and the hub itself; every refusal is one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import HUB_FILES, into_hub_cache, serve_hub
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, T5Config

from mi_superposition import load_model
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash, read_tensors, write_tensors
from mi_superposition.models import untrained_copy, weights_of
from mi_superposition.models.catalogue import hub_id, nearest_name
from mi_superposition.models.tokenizer_files import read_tokenizer


def tiny_neo(folder: Path, noise: float = 0.05, **changes) -> GPTNeoForCausalLM:
    """A random GPT-Neo as the TinyStories models are built: global and local attention by turns."""
    sizes = dict(vocab_size=300, hidden_size=32, num_layers=2, num_heads=4, window_size=8, max_position_embeddings=2048)
    config = GPTNeoConfig(
        **{**sizes, **changes}, attention_types=[[["global", "local"], 1]], bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # So that no bias is zero; small, or logits of a wide model grow until float32 itself is coarser than 1e-4.
            parameter.add_(noise * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def largest_difference(model, reference, tokens) -> float:
    with torch.no_grad():
        return float((model(tokens) - reference(tokens).logits).abs().max())


@pytest.fixture(scope="session")
def neo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neo") / "TinyStories-2Layers-tiny"
    return folder, tiny_neo(folder)


TOKENS = torch.randint(300, (2, 30), generator=torch.Generator().manual_seed(0))


def test_a_local_gpt_neo_gives_the_logits_of_transformers(neo):
    folder, reference = neo
    model = load_model(folder, device="cpu")
    assert largest_difference(model, reference, TOKENS) < 1e-4
    assert model.cfg.n_ctx == 512
    assert not model.training


@pytest.mark.slow
def test_the_exact_tiny_stories_shape(tmp_path):
    folder = tmp_path / "TinyStories-2Layers-33M"
    reference = tiny_neo(folder, noise=0.01, vocab_size=50257, hidden_size=1024, num_heads=16, window_size=256)
    model = load_model(folder, device="cpu")
    assert model.blocks[0].mlp.W_out.shape == (4096, 1024)
    tokens = torch.randint(50257, (2, 300), generator=torch.Generator().manual_seed(0))
    assert largest_difference(model, reference, tokens) < 1e-4
    assert model(tokens).std() > 0.1


def test_a_local_gpt2_gives_the_logits_of_transformers(tiny_gpt2):
    assert largest_difference(tiny_gpt2.hooked, tiny_gpt2.transformers, TOKENS) < 1e-4
    assert tiny_gpt2.hooked.to_tokens("Once upon")[0, 0] == 0
    # Not four times d_model: TransformerLens by itself would take that for granted.
    assert tiny_gpt2.hooked.cfg.d_mlp == 48


def test_processed_weights_predict_the_same(tiny_gpt2):
    processed = load_model(tiny_gpt2.folder, device="cpu", process_weights=True)
    with torch.no_grad():
        wanted = tiny_gpt2.transformers(TOKENS).logits.log_softmax(-1)
        assert torch.allclose(processed(TOKENS).log_softmax(-1), wanted, atol=1e-4)
    assert processed.blocks[0].mlp.W_out.mean(dim=1).abs().max() < 1e-6
    assert tiny_gpt2.hooked.blocks[0].mlp.W_out.mean(dim=1).abs().max() > 1e-3


def test_the_name_of_a_parent_folder_means_nothing(tiny_gpt2, tmp_path):
    folder = tmp_path / "llama" / "gemma-3-t5-bert"
    shutil.copytree(tiny_gpt2.folder, folder)
    assert largest_difference(load_model(folder, device="cpu"), tiny_gpt2.transformers, TOKENS) < 1e-4


def test_context_and_precision_are_as_asked(neo):
    folder, _ = neo
    model = load_model(folder, device="cpu", n_ctx=64, dtype="bfloat16")
    assert model.W_pos.shape[0] == 64
    assert model.W_E.dtype == torch.bfloat16
    with pytest.raises(RequestError, match="n_ctx = 0"):
        load_model(folder, n_ctx=0)
    with pytest.raises(RequestError, match="dtype = 'int8': give 'float32'"):
        load_model(folder, dtype="int8")
    with pytest.raises(RequestError, match="device = 'tpu'"):
        load_model(folder, device="tpu")


def test_a_bundled_model_keeps_asked_precision():
    assert load_model("addition", device="cpu", dtype="float64").W_E.dtype == torch.float64


def test_an_untrained_copy_has_the_shapes_and_nothing_else(tiny_gpt2):
    model = tiny_gpt2.hooked
    before = torch.get_rng_state()
    first, again, other = (untrained_copy(model, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert first.W_out.shape == model.W_out.shape
    assert torch.equal(first.W_out, again.W_out)
    assert not torch.equal(first.W_out, other.W_out)
    assert not torch.allclose(first.W_out, model.W_out)


# --- the hub ---


def test_the_hub_cache_is_enough_offline(neo, tmp_path, monkeypatch):
    folder, reference = neo
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    into_hub_cache(tmp_path, "roneneldan/TinyStories-2Layers-33M", folder)
    for name in ("roneneldan/TinyStories-2Layers-33M", "tiny-stories-2L-33M"):
        model = load_model(name, device="cpu")
        assert largest_difference(model, reference, TOKENS) < 1e-4
        assert model.cfg.n_ctx == 512


def test_half_a_snapshot_is_not_a_model(neo, tmp_path, monkeypatch):
    folder, _ = neo
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = into_hub_cache(tmp_path, "roneneldan/TinyStories-1M", folder)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WorkError, match="not in the local hub cache"):
        load_model("roneneldan/TinyStories-1M")


def test_transformer_lens_own_layout_from_the_cache(tmp_path, monkeypatch, tiny_model, tiny_gpt2):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cfg = tiny_model.cfg
    fields = dict(
        d_model=cfg.d_model, n_layers=1, d_mlp=0, d_head=cfg.d_head, n_heads=cfg.n_heads, n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab, act_fn=None, attn_only=True, normalization_type=None, tokenizer_name="NeelNanda/tok",
    )  # fmt: skip
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(fields))
    state = dict(tiny_model.state_dict())
    # Their vocabularies are as large going out as coming in.
    state["unembed.W_U"] = torch.randn(cfg.d_model, cfg.d_vocab)
    state["unembed.b_U"] = torch.zeros(cfg.d_vocab)
    torch.save(state, made / "model_final.pth")
    into_hub_cache(tmp_path, "NeelNanda/Attn_Only_1L512W_C4_Code", made)
    into_hub_cache(tmp_path, "NeelNanda/tok", tiny_gpt2.folder, only=("tokenizer.json", "tokenizer_config.json"))
    model = load_model("attn-only-1l", device="cpu")
    assert torch.equal(model.blocks[0].attn.W_Q, tiny_model.blocks[0].attn.W_Q)
    assert model.tokenizer is not None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-small", "openai-community/gpt2"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("tiny-stories-33M", "roneneldan/TinyStories-33M"),
        ("gelu-1l", "NeelNanda/GELU_1L512W_C4_Code"),
        ("somebody/their-model", "somebody/their-model"),
    ],
)
def test_names_stand_for_hub_ids(name, wanted):
    assert hub_id(name) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("storeis", "stories"),
        ("roneneldan/TinyStorys-33M", "roneneldan/TinyStories-33M"),
        ("roneneldan/tinystories-2layer-33m", "roneneldan/TinyStories-2Layers-33M"),
        ("openai-comunity/gpt2", "openai-community/gpt2"),
    ],
)
def test_the_nearest_name(name, wanted):
    assert nearest_name(name) == wanted


@pytest.fixture(scope="module")
def hub(neo, tmp_path_factory):
    """A hub of our own on this machine, asked over HTTP by a process that has never seen it."""
    with serve_hub({"roneneldan/TinyStories-1M": neo[0]}, gated={"meta-llama/Llama-2-7b-hf"}) as address:
        yield address


def ask(address: str, cache: Path, *names: str) -> list[list[str]]:
    """What ``load_model`` says of each name, in a process with that hub and cache: [kind, message], and standard error."""
    code = (
        "import json, sys\n"
        "from mi_superposition import load_model\n"
        "said = []\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        model = load_model(name, device='cpu')\n"
        "        said.append(['loaded', str(tuple(model.W_E.shape))])\n"
        "    except Exception as error:\n"
        "        said.append([type(error).__name__, str(error)])\n"
        "print(json.dumps(said))\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return [*json.loads(done.stdout.splitlines()[-1]), ["stderr", done.stderr]]


@pytest.mark.slow
def test_downloading_and_every_refusal_of_the_hub(hub, tmp_path):
    loaded, misspelt, gated, stderr = ask(
        hub, tmp_path, "roneneldan/TinyStories-1M", "roneneldan/TinyStorys-1M", "meta-llama/Llama-2-7b-hf"
    )
    assert loaded == ["loaded", "(300, 32)"]
    assert "downloading roneneldan/TinyStories-1M: " in stderr[1]
    assert f"{len(HUB_FILES)} files" in stderr[1]
    assert " MB" in stderr[1]
    assert misspelt == [
        "RequestError",
        "'roneneldan/TinyStorys-1M' is not on the hub: did you mean 'roneneldan/TinyStories-1M'?",
    ]
    assert gated[0] == "RequestError"
    assert "'meta-llama/Llama-2-7b-hf' is gated: accept its terms" in gated[1]
    # What was downloaded is there when the hub is not.
    [again, missing, _] = ask("http://127.0.0.1:9", tmp_path, "roneneldan/TinyStories-1M", "roneneldan/TinyStories-3M")
    assert again == loaded
    assert missing[0] == "WorkError"
    assert "'roneneldan/TinyStories-3M' is not in the local hub cache and the hub cannot be reached" in missing[1]
    assert "\n" not in missing[1]


# --- what is not a model ---


def damaged(tiny_gpt2, tmp_path, file: str, content: bytes) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_gpt2.folder, folder)
    (folder / file).write_bytes(content)
    return folder


def test_damaged_files_are_failed_work(tiny_gpt2, tmp_path):
    weights = (tiny_gpt2.folder / "model.safetensors").read_bytes()
    for number, (file, content) in enumerate(
        [("config.json", b"{"), ("config.json", b"[]"), ("model.safetensors", weights[:1000]), ("tokenizer.json", b"{")]
    ):
        folder = damaged(tiny_gpt2, tmp_path / str(number), file, content)
        with pytest.raises(WorkError, match="damaged|cannot read") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


def test_a_tensor_that_is_missing_is_not_made_up(tiny_gpt2, tmp_path):
    tensors, metadata = read_tensors(tiny_gpt2.folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_proj.weight"]
    folder = damaged(tiny_gpt2, tmp_path, "model.safetensors", b"")
    write_tensors(folder / "model.safetensors", tensors, metadata)
    with pytest.raises(WorkError, match=r"damaged: transformer\.h\.1\.mlp\.c_proj\.weight is missing"):
        load_model(folder)


def test_only_tiny_stories_are_shortened(tiny_gpt2, tmp_path):
    tiny_neo(tmp_path / "tinystories-project" / "neo", max_position_embeddings=1024)
    assert load_model(tmp_path / "tinystories-project" / "neo", device="cpu").cfg.n_ctx == 1024
    with pytest.raises(RequestError, match="n_ctx = 2000: must be 1 to 32"):
        load_model(tiny_gpt2.folder, n_ctx=2000)
    with pytest.raises(RequestError, match="n_ctx = 5: 'addition' keeps"):
        load_model("addition", n_ctx=5)


def test_a_model_cached_in_parts_is_not_whole(neo, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = tmp_path / "made"
    made.mkdir()
    shutil.copy(neo[0] / "config.json", made)
    (made / "model-00001-of-00002.safetensors").write_bytes((neo[0] / "model.safetensors").read_bytes())
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    into_hub_cache(tmp_path, "roneneldan/TinyStories-8M", made)
    with pytest.raises(WorkError, match="not in the local hub cache"):
        load_model("roneneldan/TinyStories-8M")


@pytest.mark.parametrize("kind", ["T5ForConditionalGeneration", "MadeUpModel"])
def test_another_architecture_is_named(tiny_gpt2, tmp_path, kind):
    model_type = "t5" if kind.startswith("T5") else "made-up"
    config = json.dumps({"model_type": model_type, "architectures": [kind]}).encode()
    with pytest.raises(RequestError, match=f"{kind}.*transformers reads no causal language model"):
        load_model(damaged(tiny_gpt2, tmp_path, "config.json", config))


def test_folders_and_names_without_a_model(tmp_path):
    with pytest.raises(RequestError, match="it holds no model"):
        load_model(tmp_path)
    with pytest.raises(RequestError, match="'adition' is no model: did you mean 'addition'"):
        load_model("adition")


def test_weights_are_laid_out_as_the_forward_pass_reads_them(tmp_path):
    """TransformerLens copies these at every call where they are not; what is computed is the same to the last bit."""
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    weights = [model.W_U, *(getattr(block.mlp, name) for block in model.blocks for name in ("W_in", "W_gate", "W_out"))]
    assert all(weight.T.is_contiguous() for weight in weights)
    tokens, before = torch.arange(20)[None], content_hash(weights_of(model))
    found = model(tokens)
    for weight in weights:
        weight.data = weight.data.contiguous()
    assert torch.equal(model(tokens), found)
    assert content_hash(weights_of(model)) == before


def with_sentence_piece_alone(folder, file, config, model_type):
    """A folder whose tokenizer is a SentencePiece file, trained here."""
    folder.mkdir()
    text = [
        f"Once upon a time there was a {animal} who liked to {deed}."
        for animal in ("cat", "dog")
        for deed in ("run", "play")
    ]
    (folder / "text.txt").write_text("\n".join(text))
    SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "pieces"),
        vocab_size=60 if model_type == "bpe" else 27,
        model_type=model_type,
        minloglevel=2,
    )
    (folder / "pieces.model").rename(folder / file)
    config.save_pretrained(folder)
    return folder


def test_a_sentence_piece_file_alone_is_compared_with_sentence_piece(tmp_path):
    """What transformers makes of it may begin a text with other tokens."""
    folder = with_sentence_piece_alone(tmp_path / "llama", "tokenizer.model", LlamaConfig(vocab_size=60), "bpe")
    with pytest.raises(RequestError, match="makes other tokens of a text than SentencePiece does"):
        read_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"no such file")
    with pytest.raises((RequestError, WorkError), match="is no SentencePiece file|is damaged"):
        read_tokenizer(folder)
    folder = with_sentence_piece_alone(tmp_path / "t5", "spiece.model", T5Config(vocab_size=60), "unigram")
    original, found = SentencePieceProcessor(model_file=str(folder / "spiece.model")), read_tokenizer(folder)
    for line in ("Once upon a cat", "the dog liked to play."):
        tokens = found(line, add_special_tokens=False)["input_ids"]
        assert found.convert_ids_to_tokens(tokens) == [original.id_to_piece(token) for token in original.encode(line)]


def test_weights_in_a_file_are_refused_with_the_way_to_convert_them(tmp_path):
    torch.save({"W_E": torch.zeros(2, 2)}, tmp_path / "weights.pt")
    with pytest.raises(
        RequestError, match=r"weights\.pt' is a file: give a folder or a .gguf file; .*ms\.save_model\(model, folder\)"
    ):
        load_model(tmp_path / "weights.pt")
