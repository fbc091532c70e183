"""Models of many configurations, saved and loaded: each predicts what transformers predicts, or is refused in one line that says why."""

import json
import warnings
from contextlib import contextmanager

import pytest
import torch
import transformers as T

from mi_superposition import load_model
from mi_superposition.errors import RequestError
from mi_superposition.models import load_check_of

GPT2 = dict(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4)
SIZES = dict(hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, vocab_size=97)  # fmt: skip
GROUPED = SIZES | dict(num_key_value_heads=2)
OPT = dict(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32)  # fmt: skip
NEO = dict(vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=64)
BLOOM = dict(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)


def rope(kind, **entries):
    return dict(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **entries})


BASE_500 = dict(rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0})
LINEAR = rope("linear", factor=4.0)
DYNAMIC = rope("dynamic", factor=4.0, original_max_position_embeddings=16)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
LONGROPE = rope("longrope", short_factor=[1.5] * 4, long_factor=[3.0] * 4, original_max_position_embeddings=16)
WINDOW = dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)

HOOKED = {
    "GPT-2": T.GPT2Config(**GPT2),
    "GPT-2, inner 48": T.GPT2Config(**GPT2, n_inner=48),
    "GPT-2, exact gelu": T.GPT2Config(**GPT2, activation_function="gelu"),
    "GPT-2, relu": T.GPT2Config(**GPT2, activation_function="relu"),
    "GPT-Neo, window 8": T.GPTNeoConfig(**NEO, attention_types=[[["global", "local"], 1]], window_size=8),
    "GPT-NeoX": T.GPTNeoXConfig(**SIZES),
    "GPT-NeoX, all of each head": T.GPTNeoXConfig(**SIZES, rotary_pct=1.0),
    "GPT-NeoX, one after the other": T.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    "GPT-J": T.GPTJConfig(**GPT2, rotary_dim=4),
    "OPT": T.OPTConfig(**OPT),
    "BLOOM": T.BloomConfig(**BLOOM),
    "Llama": T.LlamaConfig(**SIZES),
    "Llama, grouped queries": T.LlamaConfig(**GROUPED),
    "Llama, another base": T.LlamaConfig(**GROUPED, **BASE_500),
    "Llama, tied": T.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "Llama 3's rotary": T.LlamaConfig(**GROUPED, **LLAMA3),
    "Mistral": T.MistralConfig(**GROUPED, sliding_window=None),
    "Mistral, window 8": T.MistralConfig(**GROUPED, sliding_window=8),
    "Llama, dynamic": T.LlamaConfig(**GROUPED, **DYNAMIC),
    "Mistral, head_dim 16": T.MistralConfig(**GROUPED, sliding_window=None, head_dim=16),
    "Qwen2": T.Qwen2Config(**GROUPED),
    "Qwen3": T.Qwen3Config(**GROUPED, head_dim=8),
    "Mixtral": T.MixtralConfig(**GROUPED, num_local_experts=2),
    "Phi-3": T.Phi3Config(**GROUPED, pad_token_id=0),
}
BRIDGED = {
    "GPT-2, tanh": T.GPT2Config(**GPT2, activation_function="tanh"),
    "GPT-J, inner 40": T.GPTJConfig(**GPT2, rotary_dim=4, n_inner=40),
    "GPT-NeoX, another base": T.GPTNeoXConfig(**SIZES, **BASE_500),
    "GPT-NeoX, linear": T.GPTNeoXConfig(**SIZES, **rope("linear", factor=4.0, partial_rotary_factor=1.0)),
    "OPT without biases": T.OPTConfig(**OPT, enable_bias=False),
    "BLOOM, residual after its norm": T.BloomConfig(**BLOOM, apply_residual_connection_post_layernorm=True),
    "Llama, attention_bias": T.LlamaConfig(**GROUPED, attention_bias=True),
    "Llama, mlp_bias": T.LlamaConfig(**GROUPED, mlp_bias=True),
    "Llama, linear": T.LlamaConfig(**GROUPED, **LINEAR),
    "Llama, yarn": T.LlamaConfig(**GROUPED, **YARN),
    "Llama, head_dim 16": T.LlamaConfig(**GROUPED, head_dim=16),
    "Mistral, linear": T.MistralConfig(**GROUPED, sliding_window=None, **LINEAR),
    "Qwen2, window 8": T.Qwen2Config(**GROUPED, **WINDOW),
    "Qwen2, yarn": T.Qwen2Config(**GROUPED, **YARN),
    "Qwen2, head_dim 16": T.Qwen2Config(**GROUPED, head_dim=16),
    "Qwen3, attention_bias": T.Qwen3Config(**GROUPED, head_dim=8, attention_bias=True),
    "Qwen3, yarn": T.Qwen3Config(**GROUPED, head_dim=8, **YARN),
    "Qwen3, window 8": T.Qwen3Config(**GROUPED, head_dim=8, **WINDOW),
    "Phi-3, half of each head": T.Phi3Config(**GROUPED, pad_token_id=0, **rope("default", partial_rotary_factor=0.5)),
    "Phi-3, longrope": T.Phi3Config(**GROUPED, pad_token_id=0, original_max_position_embeddings=16, **LONGROPE),
    "Phi": T.PhiConfig(**SIZES),
    "Gemma": T.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
    "Gemma 2, window 8": T.Gemma2Config(**GROUPED, head_dim=8, sliding_window=8),
    "Gemma 3, window 8": T.Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=8),
    "OLMo": T.OlmoConfig(**SIZES),
    "OLMo 2": T.Olmo2Config(**SIZES),
    "Falcon": T.FalconConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "StableLM": T.StableLmConfig(**GROUPED),
    "SmolLM 3": T.SmolLM3Config(**GROUPED, pad_token_id=0),
    "Granite": T.GraniteConfig(**GROUPED, embedding_multiplier=2.0, attention_multiplier=0.3, residual_multiplier=0.5, logits_scaling=2.0),
    "GPT-BigCode": T.GPTBigCodeConfig(**GPT2),
}  # fmt: skip
REFUSED = {
    "GPT-NeoX without attention bias": (T.GPTNeoXConfig(**SIZES, attention_bias=False), "attention_bias = False"),
    "Cohere": (T.CohereConfig(**GROUPED), "TransformerBridge gives other log-probabilities"),
}
TOKENS = torch.randint(0, 97, (2, 60), generator=torch.Generator().manual_seed(1))


def saved(config, folder, edit=None):
    """A model of random weights, large enough for every part to matter, in ``folder``; and what transformers then says of the tokens."""
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = T.AutoModelForCausalLM.from_config(config)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        network.save_pretrained(folder)
        if edit is not None:
            file = folder / "config.json"
            file.write_text(json.dumps(edit(json.loads(file.read_text()))))
        network = T.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
        return network(TOKENS).logits


@contextmanager
def memory_of_nan():
    """New memory holds NaN, so what is read before it was written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# The bridge folds their weights into something else; the check says so.
NOT_PROCESSED = {"BLOOM, residual after its norm"}


@pytest.mark.parametrize("process_weights", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*HOOKED, *BRIDGED])
def test_it_predicts_what_transformers_predicts(name, process_weights, tmp_path, capsys):
    wanted = saved((HOOKED | BRIDGED)[name], tmp_path).log_softmax(-1)
    if process_weights and name in NOT_PROCESSED:
        with pytest.raises(RequestError, match="with fold_ln, center_writing_weights"):
            load_model(tmp_path, device="cpu", process_weights=True)
        return
    with memory_of_nan():
        model = load_model(tmp_path, device="cpu", process_weights=process_weights)
    with torch.no_grad():
        found = model(TOKENS).log_softmax(-1)
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.std())
    check = load_check_of(model)
    assert check.positions > 16
    assert check.difference < 1e-3
    if not process_weights:
        assert check.implementation == ("HookedTransformer" if name in HOOKED else "TransformerBridge")
    assert ("loaded as a TransformerBridge" in capsys.readouterr().err) == (check.implementation == "TransformerBridge")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_held_is_refused_for_a_true_reason(name, tmp_path):
    config, why = REFUSED[name]
    saved(config, tmp_path)
    with pytest.raises(RequestError, match=why):
        load_model(tmp_path, device="cpu")


OLDER = {
    "Llama, linear": (T.LlamaConfig(**GROUPED), {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    "GPT-NeoX, base 500": (T.GPTNeoXConfig(**SIZES, rotary_pct=1.0), {"rotary_pct": 1.0, "rotary_emb_base": 500}),
    "GPT-2, stale n_ctx": (T.GPT2Config(**GPT2), {"n_ctx": 1024}),
    "GPT-2, no architectures": (T.GPT2Config(**GPT2), {"architectures": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_files_as_older_versions_wrote_them(name, tmp_path):
    config, entries = OLDER[name]

    def older(settings):
        settings.pop("rope_parameters", None)
        return settings | entries

    wanted = saved(config, tmp_path, older)
    with torch.no_grad():
        found = load_model(tmp_path, device="cpu")(TOKENS)
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.std())
