"""``save_model`` and ``load_model`` give any ``HookedTransformer`` back."""

import json

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition import load_model, save_model
from mi_superposition.corpora import model_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.attention_only import without_deprecations

SIZES = dict(n_layers=2, d_model=16, n_heads=2, d_head=8, n_ctx=16, d_vocab=20, device="cpu", seed=0)
KINDS = {
    "MLP and layer norm": dict(act_fn="gelu", d_mlp=24),
    "rotary, RMS, gated": dict(
        act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8, gated_mlp=True, d_mlp=24
    ),
    "attention alone": dict(attn_only=True, normalization_type=None),
    "grouped queries": dict(act_fn="relu", n_key_value_heads=1),
    "other output vocabulary": dict(act_fn="solu_ln", d_vocab_out=5, d_mlp=24),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_hooked_transformer_comes_back(kind, tmp_path):
    with without_deprecations():
        model = HookedTransformer(HookedTransformerConfig(**SIZES, **KINDS[kind])).eval()
    save_model(model, tmp_path / "mine")
    again = load_model(tmp_path / "mine", device="cpu")
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))
    assert again.tokenizer is None


def test_with_its_tokenizer_precision_and_what_it_remembers(tiny_gpt2, tmp_path):
    model = load_model(tiny_gpt2.folder, device="cpu", dtype="bfloat16", process_weights=True)
    save_model(model, tmp_path)
    again = load_model(tmp_path, device="cpu", dtype="bfloat16")
    assert again.W_E.dtype == torch.bfloat16
    assert again.cfg.normalization_type == "LNPre"
    texts = ["Once upon a time", "The end."]
    rows = [next(iter(model_batches(some, texts, 2))).tokens for some in (model, again)]
    assert torch.equal(*rows)
    with torch.no_grad():
        assert torch.equal(again(rows[0]), model(rows[0]))
    assert again.processed_weights == model.processed_weights


def test_the_bundled_addition_model_too(paper_model, tmp_path):
    save_model(paper_model, tmp_path)
    tokens = torch.zeros(1, 19, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path, device="cpu")(tokens), paper_model(tokens))


def test_a_model_is_its_own_model(paper_model):
    assert load_model(paper_model) is paper_model


def test_what_cannot_be_saved_or_read_is_said(paper_model, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RequestError, match=r"holds files \('thesis.tex'"):
        save_model(paper_model, tmp_path)
    save_model(paper_model, tmp_path / "model")
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    described["hooked_transformer"]["d_model"] = "wide"
    (tmp_path / "model" / "model.json").write_text(json.dumps(described))
    with pytest.raises(WorkError, match=r"model\.json' is damaged"):
        load_model(tmp_path / "model", device="cpu")
