"""Effects of heads on text: ablation by hooks written out, resampling by brute force, classes and references on small cases."""

import math
import warnings

import pytest
import torch
import transformers as T
from transformer_lens.model_bridge import TransformerBridge

from mi_superposition import load_model
from mi_superposition.corpora import model_batches
from mi_superposition.errors import RequestError
from mi_superposition.heads.effects import LayerEffects, add_documents, layer_ablations
from mi_superposition.heads.forward import Ablation, LayerForward
from mi_superposition.heads.prediction import prediction_changes
from mi_superposition.heads.reference import FEWEST_AT_A_POSITION, Reference, reference_of
from mi_superposition.heads.resampling import ResampledMeans
from mi_superposition.heads.token_classes import TokenClasses

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=32, vocab_size=61)  # fmt: skip
GROUPED = SIZES | dict(num_key_value_heads=2)
MODELS = {
    "GPT-2": T.GPT2Config(
        vocab_size=61, n_positions=32, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    ),
    "GPT-NeoX": T.GPTNeoXConfig(**SIZES),
    "Llama, grouped queries": T.LlamaConfig(**GROUPED),
    "a bridge": T.LlamaConfig(**GROUPED, attention_bias=True),
    "a bridge, parallel": T.PhiConfig(**SIZES),
    "a bridge, normalised after attention": T.Gemma2Config(**GROUPED, head_dim=8, sliding_window=8),
}


def saved(config, folder):
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = T.AutoModelForCausalLM.from_config(config)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        network.save_pretrained(folder)
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    return saved(MODELS[request.param], tmp_path_factory.mktemp("model"))


def documents(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 61, (n,), generator=generator).tolist() for n in lengths]


REFERENCE = [9, 14, 20, 20, 12, 17, 20, 18, 11, 20, 16, 20]
MEASURED = [20, 7, 13, 20, 2]


def batches(model, texts, first=0):
    return model_batches(model, texts, 3, long="truncate", by_length=True, first_document=first)


CLASSES = TokenClasses([f"<{n}>" for n in range(61)], known=False)


def measured(model, layer, default="mean", texts=None, first=100):
    reference = reference_of(model, layer, batches(model, documents(REFERENCE)))
    effects = LayerEffects(layer_ablations(4, default), len(CLASSES.names), default, n_examples=2, n_resamples=100)
    forward = LayerForward(model, layer, 0)
    texts = documents(MEASURED, seed=1) if texts is None else texts
    add_documents(effects, forward, reference, batches(model, texts, first), CLASSES)
    return effects, forward, reference


def test_effects_are_those_of_hooks_written_out(model):
    layer, hook = 1, "blocks.1.attn.hook_z"
    effects, forward, reference = measured(model, layer)
    assert forward.is_fast == (not isinstance(model, TransformerBridge))
    means = effects.means.means()
    texts = documents(MEASURED, seed=1)
    n_tokens = sum(len(text) - 1 for text in texts)
    for kind in ("zero", "mean", "overall mean", "resample"):
        for head in (0, 3, None):
            loss = divergence = 0.0
            for number, text in enumerate(texts, start=100):
                tokens = torch.tensor([text])
                with torch.no_grad():
                    whole = model(tokens)[0, :-1].double().log_softmax(-1)

                    def put_in(z, hook, number=number, kind=kind, head=head):
                        z = z.clone()
                        for position in range(z.shape[1]):
                            if kind == "zero":
                                stands_in = torch.zeros_like(z[0, 0])
                            elif kind == "mean":
                                stands_in = reference.position_mean[position]
                            elif kind == "overall mean":
                                stands_in = reference.overall_mean
                            else:
                                stands_in = reference._of_others([number], z.shape[1], 0)[0, position]
                            heads = range(4) if head is None else [head]
                            for one in heads:
                                z[0, position, one] = stands_in[one]
                        return z

                    without = model.run_with_hooks(tokens, fwd_hooks=[(hook, put_in)])[0, :-1].double().log_softmax(-1)
                right = tokens[0, 1:, None]
                loss += float((whole - without).gather(1, right).sum())
                divergence += float((whole.exp() * (whole - without)).sum())
            row = means[effects.of(Ablation(kind, head))]
            assert float(row[0]) == pytest.approx(loss / n_tokens, abs=2e-5), (kind, head)
            assert float(row[1]) == pytest.approx(divergence / n_tokens, abs=2e-5), (kind, head)
            assert divergence > 1e-3


def test_a_layer_that_is_left_out(model):
    effects, _, _ = measured(model, 1)
    loss = 0.0
    for text in documents(MEASURED, seed=1):
        tokens, kept = torch.tensor([text]), {}
        with torch.no_grad():
            whole = model.run_with_hooks(
                tokens, fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook, kept=kept: kept.update(x=x))]
            )
            without = model.run_with_hooks(
                tokens, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook, kept=kept: kept["x"])]
            )
        change = whole.log_softmax(-1) - without.log_softmax(-1)
        loss += float(change[0, :-1].gather(1, tokens[0, 1:, None]).sum())
    found = float(effects.means.means()[effects.of(Ablation("layer")), 0])
    assert found == pytest.approx(loss / sum(n - 1 for n in MEASURED), abs=2e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_beginning_at_a_layer_gives_what_hooks_give(model, layer):
    """Of every layer and kind of ablation, where some positions count, the losses and divergences of whole passes with hooks."""
    texts = documents([20, 11], seed=5)
    tokens = torch.tensor([text + [0] * (20 - len(text)) for text in texts])
    counts = torch.arange(20) < torch.tensor([[19], [10]])
    right = tokens[:, 1:][counts[:, :-1]]
    z = torch.randn(2, 20, 4, model.cfg.d_head, generator=torch.Generator().manual_seed(1))
    ablations = [Ablation("zero", 2), Ablation("resample"), Ablation("random direction", 0), Ablation("layer")]
    found = []
    for fast in (None, False):
        forward = LayerForward(model, layer, 0)
        forward._fast = fast if fast is False else forward._fast
        with torch.no_grad():
            clean = forward.read(tokens, counts)
            found.append(forward.changes(clean, ablations, lambda one: z if one.done != "zero" else 0 * z, right))
    for one, other in zip(*found, strict=True):
        assert one.shape == (4, 29)
        assert float(other.abs().mean()) > 1e-2
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_random_direction_has_the_same_norm_at_every_token(model):
    """What it adds to the residual stream of the layer is as long as what replacing the head adds, and points elsewhere."""
    forward = LayerForward(model, 2, 0)
    tokens = torch.tensor(documents([20, 20], seed=3))
    clean = forward.read(tokens, torch.ones(2, 20, dtype=torch.bool))
    heard = {}
    hook = model.hook_dict["blocks.2.hook_resid_post" if clean.middle is None else "blocks.2.hook_resid_mid"]
    changes = {}
    forward._fast = False
    base = clean.after if clean.middle is None else clean.middle
    for done in ("zero", "random direction"):
        hook.add_hook(lambda x, hook: heard.update(x=x))
        forward.ablated(clean, [Ablation(done, 1)], lambda _: torch.zeros_like(clean.z))
        changes[done] = heard["x"] - base
    with torch.no_grad():
        model.reset_hooks()
    zero, random = changes["zero"], changes["random direction"]
    assert float(zero.norm(dim=-1).min()) > 1e-3
    assert torch.allclose(zero.norm(dim=-1), random.norm(dim=-1), rtol=1e-3)
    assert float(torch.cosine_similarity(zero, random, dim=-1).abs().mean()) < 0.5


def test_parts_of_a_corpus_merge_to_the_whole(model):
    if isinstance(model, TransformerBridge):
        pytest.skip("the same code")
    texts = documents(MEASURED, seed=1)
    whole, _, _ = measured(model, 2)
    one, _, _ = measured(model, 2, texts=texts[:2], first=100)
    two, _, _ = measured(model, 2, texts=texts[2:], first=102)
    one.merge(two)
    assert (one.means.means() - whole.means.means()).abs().max() < 1e-5
    assert (one.means.standard_errors() - whole.means.standard_errors()).abs().max() < 1e-5
    assert [[e.document for e in some] for some in one.examples.values()] == [
        [e.document for e in some] for some in whole.examples.values()
    ]
    again, _, _ = measured(model, 2, texts=[])
    again.load_state(whole.state())
    assert torch.equal(again.means.sums, whole.means.sums)
    assert again.examples == whole.examples


def test_examples_are_the_tokens_that_lose_most(model):
    if isinstance(model, TransformerBridge):
        pytest.skip("the same code")
    effects, _, _ = measured(model, 1, default="zero")
    texts = documents(MEASURED, seed=1)
    largest = []
    for number, text in enumerate(texts, start=100):
        tokens = torch.tensor([text])

        def zero(z, hook):
            z[:, :, 2] = 0
            return z

        with torch.no_grad():
            change = model(tokens).log_softmax(-1) - model.run_with_hooks(
                tokens, fwd_hooks=[("blocks.1.attn.hook_z", zero)]
            ).log_softmax(-1)
        rises = change[0, :-1].gather(1, tokens[0, 1:, None])[:, 0]
        largest.append((float(rises.max()), number, 1 + int(rises.argmax())))
    wanted = sorted(largest, reverse=True)[:2]
    for example, (value, document, position) in zip(effects.examples[2], wanted, strict=True):
        assert (example.document, example.position) == (document, position)
        assert example.change == pytest.approx(value, abs=1e-4)
        at = example.position - example.first
        assert example.tokens[at] == texts[document - 100][position]
        assert example.changes[at] == pytest.approx(example.change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 20.0, 300.0])
def test_changes_of_a_prediction_are_those_of_double_precision(scale, dtype):
    """By the compiled pass over single numbers, and by torch for others."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(70, 50, generator=generator)
    changed = logits + scale * torch.randn(70, 50, generator=generator)
    right = torch.randint(50, (70,), generator=generator)
    given = (logits.to(dtype), logits.to(dtype).softmax(-1), changed.to(dtype))
    loss, divergence = prediction_changes(*given, right)
    before, after = logits.double().log_softmax(-1), changed.double().log_softmax(-1)
    wanted = (before - after).gather(1, right[:, None])[:, 0]
    assert torch.allclose(loss.double(), wanted, rtol=1e-4, atol=3e-7 * max(scale, 1))
    wanted = (before.exp() * (before - after)).sum(-1)
    # Divergences of 1e-9 nats are found where single-precision log-probabilities differ by 1e-6.
    assert torch.allclose(divergence.double(), wanted, rtol=2e-2, atol=1e-10 if scale < 1e-3 else 1e-5 * scale)


def test_a_prediction_that_is_not_a_number_stays_none():
    logits = torch.zeros(3, 20)
    changed = logits.clone()
    changed[1, 4] = float("nan")
    loss, divergence = prediction_changes(logits, logits.softmax(-1), changed, torch.tensor([0, 1, 2]))
    assert loss.isnan().tolist() == divergence.isnan().tolist() == [False, True, False]


def test_standard_errors_by_brute_force_and_in_theory():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(5, 60, (300, 2), generator=generator).double()
    sums = counts[:, None] * (0.5 + torch.randn(300, 3, 1, generator=generator).double()) + torch.randn(
        300, 3, 2, generator=generator
    )
    whole = ResampledMeans(3, 2, n_resamples=2000, seed=7)
    whole.update(range(300), sums, counts)
    weights = torch.stack([whole._weights(number) for number in range(300)])
    brute = torch.stack(
        [(weights[:, r, None, None] * sums).sum(0) / (weights[:, r, None] * counts).sum(0) for r in range(2000)]
    )
    assert torch.allclose(whole.standard_errors(), brute.std(dim=0))
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.02)
    # The delta method for a ratio of means (Cochran 1977, Sampling Techniques, 2.30).
    means = sums.sum(0) / counts.sum(0)
    residual = sums - means * counts[:, None]
    theory = residual.square().sum(0).sqrt() / counts.sum(0)
    assert torch.allclose(whole.standard_errors(), theory, rtol=0.1)
    one, two = ResampledMeans(3, 2, n_resamples=2000, seed=7), ResampledMeans(3, 2, n_resamples=2000, seed=7)
    one.update(range(120), sums[:120], counts[:120])
    two.update(range(120, 300), sums[120:], counts[120:])
    one.merge(two)
    assert torch.allclose(one.standard_errors(), whole.standard_errors())


def test_means_of_documents_of_different_lengths(tmp_path):
    model = saved(MODELS["GPT-2"], tmp_path)
    texts = documents(REFERENCE)
    found = reference_of(model, 1, batches(model, texts))
    z = []
    for text in texts:
        with torch.no_grad():
            z.append(model.run_with_cache(torch.tensor([text]))[1]["blocks.1.attn.hook_z"][0])
    overall = torch.cat(z).mean(dim=0)
    assert torch.allclose(found.overall_mean, overall, atol=1e-5)
    for position in range(32):
        there = [one[position] for one in z if len(one) > position]
        wanted = torch.stack(there).mean(dim=0) if len(there) >= FEWEST_AT_A_POSITION else overall
        assert torch.allclose(found.position_mean[position], wanted, atol=1e-5), position
    assert found.donor_length.tolist() == REFERENCE
    stands_in = found._of_others([100], 32, 0)[0]
    for position in range(32):
        longer = [one[position] for one in z if len(one) > position]
        candidates = longer or [overall]
        assert any(torch.allclose(stands_in[position], one, atol=1e-5) for one in candidates)


def test_classes_of_tokens():
    strings = [
        "<pad>",
        "Once",
        " upon",
        " there",
        " was",
        " Li",
        "ly",
        ".",
        " She",
        " said",
        '"',
        "Hi",
        "!",
        " I",
        "\n",
        "the",
    ]
    index = {string: number for number, string in enumerate(strings)}
    text = ["Once", " upon", " was", " Li", "ly", ".", " She", " was", " I", '"', "Hi", "!", "\n", "the", " Li"]
    tokens = torch.tensor([[index[one] for one in text] + [0, 0]])
    real = torch.arange(17)[None] < 15
    classes = TokenClasses(strings, known=True)
    found = classes.of(tokens, real)[0]
    by_class = {name: [text[at] for at in range(15) if found[at, number]] for number, name in enumerate(classes.names)}
    assert by_class["inside a word"] == ["ly"]
    # The last follows a word; 'She', 'Hi' and 'the' begin sentences, and 'I' is no name.
    assert by_class["name"] == [" Li", " Li"]
    assert by_class["punctuation"] == [".", '"', "!"]
    assert by_class["repeated"] == [" was", " Li"]
    assert by_class["first of a word"] == ["Once", " upon", " was", " Li", " She", " was", " I", "Hi", "the", " Li"]
    assert set(by_class["new"]) | set(by_class["repeated"]) == set(text)


def test_a_layer_that_is_not_there(tmp_path):
    model = saved(MODELS["GPT-2"], tmp_path)
    with pytest.raises(RequestError, match=r"layer = 3: the model has layers 0 to 2"):
        LayerForward(model, 3, 0)
    assert math.isnan(float(ResampledMeans(1, 1, n_resamples=100, seed=0).means()))
    assert isinstance(reference_of(model, 0, batches(model, documents([5]))), Reference)
