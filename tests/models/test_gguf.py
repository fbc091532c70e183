"""Models in one GGUF file: what comes out is what transformers made of them before they were converted."""

import shutil
import sys

import gguf
import numpy as np
import pytest
import torch
import transformers as T
from transformer_lens import HookedTransformer

from mi_superposition import load_model
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import load_check_of

HEADS, GROUPS, LAYERS = 4, 2, 2
WORDS = ["<s>", "</s>", *map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ca", "cat", "Ġcat"]
CONFIG = T.LlamaConfig(
    vocab_size=len(WORDS), hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    num_key_value_heads=GROUPS, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
TOKENS = torch.randint(2, len(WORDS), (2, 20), generator=torch.Generator().manual_seed(0))
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def of_ggml(name, weight):
    """A weight's name and layout in a GGUF file, where rotary pairs lie beside each other."""
    for ours, theirs in {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}.items():
        if name == f"{ours}.weight":
            return f"{theirs}.weight", weight
    layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": GROUPS}.get(part)
    if heads is not None:
        weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
    return f"blk.{layer}.{NAMES[part]}.weight", weight


def written(path, network, kind):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3] + [1] * (len(WORDS) - 2))
    writer.add_token_merges(["c a", "ca t", "Ġ cat"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, parameter in network.state_dict().items():
        theirs, weight = of_ggml(name, parameter.numpy())
        weight = np.ascontiguousarray(weight)
        if weight.ndim == 2:
            writer.add_tensor(theirs, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = T.LlamaForCausalLM(CONFIG).eval()
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def predicted(model):
    with torch.no_grad():
        out = model(TOKENS)
    return getattr(out, "logits", out).log_softmax(-1)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(gguf.GGMLQuantizationType.F32, 1e-4), (gguf.GGMLQuantizationType.Q8_0, 0.3)]
)
def test_it_is_the_model_that_was_converted(network, kind, tolerance, tmp_path, capsys):
    model = load_model(written(tmp_path / "model.gguf", network, kind), device="cpu")
    wanted, found = predicted(network), predicted(model)
    difference = float((found - wanted).abs().max())
    assert difference < tolerance * float(wanted.std())
    # Eight bits are fewer than there were.
    assert (difference > 1e-3) == (kind != gguf.GGMLQuantizationType.F32)
    assert load_check_of(model).difference < 1e-3
    assert "weights as transformers dequantises them" in capsys.readouterr().err
    assert model.to_str_tokens("a cat", prepend_bos=False) == ["a", " cat"]
    assert isinstance(model, HookedTransformer)


def test_its_tokenizer_is_its_own_whatever_lies_beside_it(network, tiny_gpt2, tmp_path):
    path = written(tmp_path / "MODEL.GGUF", network, gguf.GGMLQuantizationType.F32)
    for file in tiny_gpt2.folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert load_model(path, device="cpu").to_str_tokens("a cat", prepend_bos=False) == ["a", " cat"]
    with pytest.raises(RequestError, match=r"other\.gguf' is not there"):
        load_model(tmp_path / "other.gguf", device="cpu")


def test_a_file_that_is_damaged(network, tmp_path):
    path = written(tmp_path / "model.gguf", network, gguf.GGMLQuantizationType.F32)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises((WorkError, RequestError), match=r"model\.gguf") as raised:
        load_model(path, device="cpu")
    assert "\n" not in str(raised.value)


def test_without_the_package_that_reads_it(network, tmp_path, monkeypatch):
    path = written(tmp_path / "model.gguf", network, gguf.GGMLQuantizationType.F32)
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.is_gguf_available", lambda *_: False)
    with pytest.raises(RequestError, match=r"pip install 'mi-superposition\[gguf\]'"):
        load_model(path, device="cpu")
