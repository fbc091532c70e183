import copy
import warnings

import pytest
import torch

from mi_superposition.errors import RequestError
from mi_superposition.heads import ablate_heads, head_logits, head_outputs, keep_only, leave_out


def tokens_for(model, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.cfg.d_vocab, (n, model.cfg.n_ctx), generator=generator)


@pytest.fixture(scope="module")
def deep_model():
    """Two layers with MLPs and normalisation: nothing of it is linear in its heads."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = HookedTransformerConfig(
            n_layers=2,
            n_heads=4,
            d_head=4,
            d_model=16,
            d_mlp=32,
            n_ctx=8,
            d_vocab=11,
            act_fn="gelu",
            seed=0,
            device="cpu",
        )
        model = HookedTransformer(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_masks(n_heads, n=9, seed=0):
    return torch.rand(n, n_heads, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_masks():
    assert keep_only(3).tolist() == [[True, False, False], [False, True, False], [False, False, True]]
    assert torch.equal(leave_out(3), ~keep_only(3))


@pytest.mark.parametrize("replace_with", ["zero", "mean", "resample"])
def test_both_routes_agree(tiny_model, replace_with):
    tokens, keep = tokens_for(tiny_model), random_masks(4)
    linear = ablate_heads(tiny_model, tokens, keep, replace_with=replace_with, seed=5, method="linear")
    hooks = ablate_heads(tiny_model, tokens, keep, replace_with=replace_with, seed=5, method="hooks")
    assert (linear - hooks).abs().max() <= 1e-4
    assert linear.shape == (9, 6, 7, 10)


@pytest.mark.parametrize("layer", [0, 1])
def test_zero_ablation_is_surgery_on_w_o(deep_model, tiny_model, layer):
    for model, at in [(deep_model, layer), (tiny_model, 0)]:
        tokens, keep = tokens_for(model), random_masks(4)
        got = ablate_heads(model, tokens, keep, layer=at)
        for mask, logits in zip(keep, got, strict=True):
            operated = copy.deepcopy(model)
            with torch.no_grad():
                operated.blocks[at].attn.W_O[~mask] = 0
                assert (operated(tokens) - logits).abs().max() <= 1e-4


@pytest.mark.parametrize("replace_with", ["zero", "mean", "resample"])
def test_keeping_everything_changes_nothing(deep_model, tiny_model, replace_with):
    everything = torch.ones(1, 4, dtype=torch.bool)
    for model in (deep_model, tiny_model):
        tokens = tokens_for(model)
        got = ablate_heads(model, tokens, everything, replace_with=replace_with)[0]
        assert (got - model(tokens)).abs().max() <= 1e-5


def test_mean_ablation_of_all_heads_forgets_the_example(tiny_model):
    tokens = tokens_for(tiny_model)
    tokens[:, -1] = 3
    none = torch.zeros(1, 4, dtype=torch.bool)
    # Control first: with its heads the model tells the examples apart at the last position.
    assert tiny_model(tokens)[:, -1].std(dim=0).max() > 1e-2
    got = ablate_heads(tiny_model, tokens, none, replace_with="mean")[0, :, -1]
    assert got.std(dim=0).max() < 1e-5


def test_resampling_gives_every_example_anothers_output(tiny_model):
    tokens = tokens_for(tiny_model)
    tokens[:, -1] = 3
    none = torch.zeros(1, 4, dtype=torch.bool)
    clean = tiny_model(tokens)[:, -1]
    got = ablate_heads(tiny_model, tokens, none, replace_with="resample", seed=1)[0, :, -1]
    distance = torch.cdist(got, clean)
    donors = distance.argmin(dim=1)
    assert distance.amin(dim=1).max() < 1e-5
    assert sorted(donors.tolist()) == list(range(6))
    assert (donors != torch.arange(6)).all()
    again = ablate_heads(tiny_model, tokens, none, replace_with="resample", seed=1)[0, :, -1]
    assert torch.equal(got, again)


def test_conditions_do_not_see_each_other_or_the_memory_budget(deep_model):
    tokens, keep = tokens_for(deep_model), random_masks(4)
    at_once = ablate_heads(deep_model, tokens, keep, layer=1)
    one_by_one = ablate_heads(deep_model, tokens, keep, layer=1, memory_budget=1)
    assert (at_once - one_by_one).abs().max() < 1e-5


def test_positions_are_a_slice_of_the_whole(tiny_model, deep_model):
    for model in (tiny_model, deep_model):
        tokens, keep = tokens_for(model), random_masks(4)
        whole = ablate_heads(model, tokens, keep)
        assert (ablate_heads(model, tokens, keep, positions=slice(3, 5)) - whole[:, :, 3:5]).abs().max() < 1e-6


def test_head_logits_add_up_to_the_model(tiny_model):
    tokens = tokens_for(tiny_model)
    parts = head_logits(tiny_model, head_outputs(tiny_model, tokens)).sum(dim=0)
    stream = tiny_model.W_E[tokens] + tiny_model.W_pos[: tokens.shape[1]]
    rest = (stream + tiny_model.blocks[0].attn.b_O) @ tiny_model.W_U + tiny_model.b_U
    assert (parts + rest - tiny_model(tokens)).abs().max() < 1e-5


def test_a_gpt2_bridge_works_too(tmp_path):
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=16, n_positions=8, vocab_size=12)
    reference = transformers.GPT2LMHeadModel(config).eval()
    reference.save_pretrained(tmp_path)
    # A copy: a bridge changes the model it is given.
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu", hf_model=copy.deepcopy(reference))
    tokens, keep = torch.randint(12, (3, 8), generator=torch.Generator().manual_seed(0)), random_masks(4, n=3)
    got = ablate_heads(bridge, tokens, keep, layer=1)
    for mask, logits in zip(keep, got, strict=True):
        operated = copy.deepcopy(reference)
        with torch.no_grad():
            operated.transformer.h[1].attn.c_proj.weight[~mask.repeat_interleave(4)] = 0
            assert (operated(tokens).logits - logits).abs().max() < 1e-4


def test_an_attention_only_bridge_takes_the_linear_route():
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        n_layers=1, n_heads=4, d_head=2, d_model=16, n_ctx=7, d_vocab=12, d_vocab_out=10, attn_only=True,
        normalization_type=None, architecture="TransformerLensNative", seed=0,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config)
    tokens, keep = tokens_for(bridge), random_masks(4)
    linear = ablate_heads(bridge, tokens, keep, replace_with="mean", method="linear")
    hooks = ablate_heads(bridge, tokens, keep, replace_with="mean", method="hooks")
    assert (linear[0] - linear[1]).abs().max() > 1e-4
    assert (linear - hooks).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        (dict(keep=torch.ones(2, 5, dtype=torch.bool)), r"\(2, 5\).*4 heads"),
        (dict(keep=torch.ones(2, 4)), "float32"),
        (dict(layer=1), "layer = 1"),
        (dict(replace_with="median"), "'median'"),
        (dict(tokens=torch.full((2, 7), 12)), "token 12"),
        (dict(tokens=torch.full((2, 7), -1)), "token -1"),
        (dict(tokens=torch.zeros(2, 8, dtype=torch.long)), "8 positions"),
        (dict(tokens=torch.zeros(1, 7, dtype=torch.long), replace_with="resample"), "batch of 1"),
    ],
)
def test_wrong_requests_quote_the_value(tiny_model, changes, quoted):
    from mi_superposition.heads.ablation import _check_request

    request = dict(keep=torch.ones(1, 4, dtype=torch.bool), layer=0, replace_with="zero") | changes
    tokens = request.pop("tokens", None)
    # The check itself, because in these tests a type checker stands before the public function.
    asked = [] if tokens is None else [tokens]
    with pytest.raises(RequestError, match=quoted):
        (ablate_heads if asked else _check_request)(tiny_model, *asked, **request)


def test_the_linear_route_is_refused_where_it_does_not_hold(deep_model):
    with pytest.raises(RequestError, match="linear"):
        ablate_heads(deep_model, tokens_for(deep_model), random_masks(4), method="linear")


@pytest.mark.parametrize("memory_budget", [1, 1 << 28])
def test_heads_of_several_layers_at_once(deep_model, memory_budget):
    """Kept heads of the second layer read what is left of the first."""
    tokens = tokens_for(deep_model)
    keep = torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(3)) < 0.5
    got = ablate_heads(deep_model, tokens, keep, memory_budget=memory_budget)
    for masks, logits in zip(keep, got, strict=True):
        operated = copy.deepcopy(deep_model)
        with torch.no_grad():
            for block, mask in zip(operated.blocks, masks, strict=True):
                block.attn.W_O[~mask] = 0
            assert (operated(tokens) - logits).abs().max() <= 1e-4
    # The other layer whole is one layer alone.
    one_layer = torch.stack([keep[:, 0], torch.ones_like(keep[:, 0])], dim=1)
    alone = ablate_heads(deep_model, tokens, keep[:, 0], replace_with="mean")
    assert (ablate_heads(deep_model, tokens, one_layer, replace_with="mean") - alone).abs().max() < 1e-5


@pytest.mark.parametrize("replace_with", ["mean", "resample"])
def test_positions_that_do_not_count_are_in_no_mean_and_give_nothing(deep_model, tiny_model, replace_with):
    for model in (deep_model, tiny_model):
        tokens = tokens_for(model, n=4)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, 3:], mask[1, 5:] = False, False
        none = torch.zeros(1, 4, dtype=torch.bool)
        others = tokens.clone()
        others[~mask] = (others[~mask] + 1) % model.cfg.d_vocab
        # What stands in the padding changes nothing where it counts.
        one, two = (
            ablate_heads(model, some, none, replace_with=replace_with, mask=mask)[0] for some in (tokens, others)
        )
        assert (one - two)[mask].abs().max() < 1e-5
        unmasked, changed = (ablate_heads(model, some, none, replace_with=replace_with)[0] for some in (tokens, others))
        assert (unmasked - changed)[mask].abs().max() > 1e-3


def test_the_mean_is_that_of_the_positions_that_count(deep_model):
    tokens = tokens_for(deep_model, n=4)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 3:] = False
    z = head_outputs(deep_model, tokens, 1)
    means = torch.stack([z[mask[:, position], position].mean(dim=0) for position in range(tokens.shape[1])])
    expected = deep_model.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: means.expand_as(z))]
    )
    none = torch.zeros(1, 4, dtype=torch.bool)
    got = ablate_heads(deep_model, tokens, none, layer=1, replace_with="mean", mask=mask)[0]
    assert (got - expected)[mask].abs().max() < 1e-5


@pytest.mark.parametrize("memory_budget", [1, 1 << 28])
def test_a_loss_instead_of_logits(deep_model, memory_budget):
    tokens, keep = tokens_for(deep_model, n=4), random_masks(4)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[2, 4:] = False
    logits = ablate_heads(deep_model, tokens, keep, layer=1, mask=mask)
    found = ablate_heads(deep_model, tokens, keep, layer=1, mask=mask, reduce="loss", memory_budget=memory_budget)
    assert found.shape == (9, 4)
    for condition in range(9):
        for row in range(4):
            chosen = logits[condition, row].log_softmax(dim=-1)[:-1].gather(1, tokens[row, 1:, None])[:, 0]
            assert float(found[condition, row]) == pytest.approx(-float(chosen[mask[row, 1:]].mean()), abs=1e-5)

    def difference(logits, tokens):
        return logits[:, -1, 3] - logits[:, -1, 5] + 0 * tokens[:, 0]

    got = ablate_heads(deep_model, tokens, keep, layer=1, reduce=difference, memory_budget=memory_budget)
    assert (got - (logits[:, :, -1, 3] - logits[:, :, -1, 5])).abs().max() < 1e-5


def test_a_reduction_of_a_model_that_is_linear_in_its_heads(tiny_model):
    tokens, keep = tokens_for(tiny_model), random_masks(4)
    whole = ablate_heads(tiny_model, tokens, keep)
    got = ablate_heads(tiny_model, tokens, keep, reduce=lambda logits, tokens: logits.argmax(dim=-1).float())
    assert torch.equal(got, whole.argmax(dim=-1).float())
    with pytest.raises(RequestError, match="logits are not over the tokens"):
        ablate_heads(tiny_model, tokens, keep, reduce="loss")


def test_texts_are_read_as_the_model_reads_them(tiny_gpt2):
    """Rows of different lengths: the same loss as each text by itself."""
    model, texts = tiny_gpt2.hooked, ["a cat ran", "the dog and the fox like to run and play there"]
    keep = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    together = ablate_heads(model, texts, keep, reduce="loss")
    for row, text in enumerate(texts):
        assert (ablate_heads(model, [text], keep, reduce="loss")[:, 0] - together[:, row]).abs().max() < 1e-5
    tokens = model.to_tokens(texts)
    assert (ablate_heads(model, tokens, keep, reduce="loss") - together).abs().max() < 1e-5


def test_wrong_requests_of_several_layers(deep_model):
    tokens = tokens_for(deep_model)
    for keep, options, said in (
        (torch.ones(2, 3, 4, dtype=torch.bool), {}, r"has shape \(2, 3, 4\): the model has 2 layers of 4 heads"),
        (torch.ones(1, 4, dtype=torch.bool), {"reduce": "loss", "positions": slice(3)}, "a reduction gets all of them"),
        (torch.ones(1, 4, dtype=torch.bool), {"reduce": lambda logits, tokens: 3}, "reduce gives int"),
        (torch.ones(1, 4, dtype=torch.bool), {"mask": torch.ones(2, 2, dtype=torch.bool)}, "mask has shape"),
    ):
        with pytest.raises(RequestError, match=said):
            ablate_heads(deep_model, tokens, keep, **options)
