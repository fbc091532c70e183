import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens import SkipTranscoder, SkipTranscoderConfig, Transcoder, TranscoderConfig
from sklearn.linear_model import orthogonal_mp

from mi_superposition import load_model
from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import untrained_copy
from mi_superposition.sae import (
    SaeConfig,
    check_sae,
    evaluate_reconstructions,
    evaluate_sae,
    load_sae,
    save_sae,
    train_sae,
)
from mi_superposition.sae.baselines import (
    brought_to,
    encoding_cost,
    largest_dimensions,
    largest_projections,
    matching_pursuit,
    principal_components,
    pursued,
    pursuit_cost,
    random_dictionary,
    random_unit_directions,
)
from mi_superposition.sae.evaluate import activation_sample, activation_statistics, reconstruct_with
from mi_superposition.sae.files import trained_on
from mi_superposition.streaming import CovarianceAccumulator
from mi_superposition.training import seeded_generator

HOOK = "blocks.1.hook_resid_pre"
TEXTS = [f"a cat {n} ran to dog {n * n} and there was play, said the {n % 7} owl" for n in range(40)]
CONFIG = SaeConfig(d_sae=64, k=4, warmup_steps=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def model(tiny_gpt2):
    return tiny_gpt2.hooked


@pytest.fixture(scope="module")
def batches(model):
    return list(token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx))


@pytest.fixture(scope="module")
def sae(model):
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    return train_sae(model, batches, HOOK, CONFIG, n_steps=60, batch_size=64, buffer_batches=4)


@pytest.fixture(scope="module")
def statistics(model, batches):
    return activation_statistics(model, batches, HOOK)


def clean_rows(model, batches):
    """Activations of the tokens that count and the cross-entropy of each next one, a row of text at a time."""
    activations, losses = [], []
    for batch in batches:
        for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
            with torch.no_grad():
                logits, cache = model.run_with_cache(tokens[None], names_filter=HOOK)
            activations.append(cache[HOOK][0][mask])
            for place in range(len(tokens) - 1):
                if mask[place] and mask[place + 1]:
                    losses.append(-logits[0, place].log_softmax(dim=0)[tokens[place + 1]])
    return torch.cat(activations), torch.stack(losses)


def evaluated(model, batches, reconstruct, mean):
    return evaluate_reconstructions(model, batches, HOOK, {"one": reconstruct}, mean)["one"]


def test_the_activations_themselves(model, batches, statistics):
    found = evaluated(model, batches, lambda x: (x, x), statistics.mean.float())
    assert found.explained_variance == 1
    assert found.mse == 0
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.relative_bias == pytest.approx(1, abs=1e-6)
    assert found.ce == pytest.approx(found.ce_clean, abs=1e-6)
    assert found.kl == pytest.approx(0, abs=1e-6)


def test_their_mean_and_nothing(model, batches, statistics):
    mean = statistics.mean.float()
    found = evaluated(model, batches, lambda x: (mean.expand_as(x), torch.zeros(len(x), 3)), mean)
    assert found.explained_variance == pytest.approx(0, abs=1e-5)
    assert found.ce == pytest.approx(found.ce_mean, abs=1e-6)
    assert (found.l0, found.dead, found.dense) == (0, 3, 0)
    nothing = evaluated(model, batches, lambda x: (torch.zeros_like(x), torch.ones(len(x), 3)), mean)
    assert nothing.ce == pytest.approx(nothing.ce_zero, abs=1e-6)
    assert nothing.explained_variance < 0
    assert (nothing.l0, nothing.dead, nothing.dense) == (3, 0, 3)


def test_shrunk_reconstructions_are_told_apart_from_wrong_ones(model, batches, statistics):
    mean = statistics.mean.float()
    shrunk = evaluated(model, batches, lambda x: ((x - mean) * 0.7 + mean, x), mean)
    assert shrunk.relative_bias == pytest.approx(0.7, abs=1e-5)
    assert shrunk.explained_variance == pytest.approx(1 - 0.3**2, abs=1e-4)
    # A projection is wrong, but not too short.
    projected = evaluated(model, batches, principal_components(statistics, 4), mean)
    assert projected.relative_bias == pytest.approx(1, abs=1e-3)
    assert projected.explained_variance < 0.95


def test_every_number_against_token_by_token(model, batches, sae):
    found = evaluate_sae(model, sae, batches, hook=HOOK)
    x, losses = clean_rows(model, batches)
    with torch.no_grad():
        acts = sae.encode(x)
        made = sae.decode(acts)
    assert found.n_tokens == len(x)
    assert found.ce_clean == pytest.approx(float(losses.double().mean()), rel=1e-5)
    assert found.l0 == pytest.approx(float((acts > 0).sum(dim=1).double().mean()), rel=1e-6)
    assert found.mse == pytest.approx(float((made - x).double().square().mean()), rel=1e-4)
    total = (x.double() - x.double().mean(dim=0)).square().sum()
    assert found.explained_variance == pytest.approx(1 - float((made - x).double().square().sum() / total), rel=1e-4)
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(made, x).double().mean()), rel=1e-4)
    assert torch.equal(found.fires, (acts > 0).sum(dim=0))
    assert found.dead == int((acts > 0).any(dim=0).logical_not().sum())


def test_the_loss_with_reconstructions_against_one_row_at_a_time(model, batches, sae):
    """The beginning token keeps its own activation, everything else is what the autoencoder makes of it."""
    found = evaluate_sae(model, sae, batches, hook=HOOK)
    losses, divergences = [], []
    for batch in batches:
        for tokens, mask in zip(batch.tokens, batch.mask, strict=True):

            def splice(value, hook, mask=mask):
                changed = value.clone()
                changed[0, mask] = sae.decode(sae.encode(value[0, mask]))
                return changed

            with torch.no_grad():
                clean = model(tokens[None])[0].log_softmax(dim=1)
                spliced = model.run_with_hooks(tokens[None], fwd_hooks=[(HOOK, splice)])[0].log_softmax(dim=1)
            for place in range(len(tokens) - 1):
                if mask[place] and mask[place + 1]:
                    losses.append(-spliced[place, tokens[place + 1]])
                    divergences.append((clean[place].exp() * (clean[place] - spliced[place])).sum())
    assert found.ce == pytest.approx(float(torch.stack(losses).double().mean()), rel=1e-4)
    assert found.kl == pytest.approx(float(torch.stack(divergences).double().mean()), rel=1e-3)
    assert found.kl > 1e-4


def test_shares_of_the_loss(model, batches, statistics):
    found = evaluated(model, batches, lambda x: (x, x), statistics.mean.float())
    some = replace(found, ce_clean=1.0, ce=1.5, ce_mean=3.0, ce_zero=6.0)
    assert some.recovered == 0.75
    assert some.recovered_from_zero == 0.9
    # Where the mean does no harm there is nothing to recover: no share is given, and the other numbers stay.
    harmless = replace(found, ce_clean=1.0, ce=1.5, ce_mean=1.0005, ce_zero=0.9)
    assert harmless.recovered is None
    assert harmless.recovered_from_zero is None
    assert "recovered" not in harmless.numbers()
    assert harmless.numbers()["ce"] == 1.5


def test_a_hook_without_a_place_for_each_token(model, batches):
    with pytest.raises(RequestError, match="units need the axes"):
        activation_statistics(model, batches, "blocks.1.attn.hook_pattern")


def test_principal_components_are_the_best_of_their_rank(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    mean = x.double().mean(dim=0)
    U, S, V = torch.linalg.svd(x.double() - mean, full_matrices=False)
    best = (U[:, :5] * S[:5]) @ V[:5] + mean
    made, coordinates = principal_components(statistics, 5)(x)
    torch.testing.assert_close(made.double(), best, atol=1e-3, rtol=1e-3)
    assert coordinates.shape == (len(x), 5)
    whole, _ = principal_components(statistics, 16)(x)
    torch.testing.assert_close(whole, x, atol=1e-3, rtol=1e-3)


def test_largest_dimensions_keep_the_furthest_from_the_mean(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    mean = statistics.mean.float()
    made, kept = largest_dimensions(statistics, 3)(x)
    assert torch.equal((kept != 0).sum(dim=1), torch.full((len(x),), 3))
    for row in range(0, len(x), 50):
        order = (x[row] - mean).abs().argsort(descending=True)
        torch.testing.assert_close(made[row, order[:3]], x[row, order[:3]])
        torch.testing.assert_close(made[row, order[3:]], mean[order[3:]])


def test_the_random_dictionary_has_the_best_coefficients_for_its_choice(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    made, acts = random_dictionary(statistics, 64, 4)(x)
    assert torch.equal((acts != 0).sum(dim=1), torch.full((len(x),), 4))
    # What is left over is at right angles to every direction that was chosen: no other coefficients are better.
    directions = torch.randn(64, 16, generator=seeded_generator(0, "random dictionary", 64))
    directions /= directions.norm(dim=1, keepdim=True)
    torch.testing.assert_close(acts @ directions + statistics.mean.float(), made, atol=1e-4, rtol=1e-3)
    along = (x - made) @ directions.T
    assert float((along * (acts != 0)).abs().max()) < 0.02 * float((x - made).norm(dim=1).mean())
    # And those chosen are the ones it points along most.
    most = ((x - statistics.mean.float()) @ directions.T).abs().topk(4, dim=1).indices
    assert (acts.gather(1, most) != 0).all()
    different, _ = random_dictionary(statistics, 64, 4, seed=1)(x)
    assert not torch.allclose(different, made)


@pytest.mark.parametrize(("d", "n", "k"), [(16, 64, 5), (24, 24, 24), (32, 200, 1)])
def test_matching_pursuit_against_scikit_learn(d, n, k):
    atoms = random_unit_directions(n, d)
    # More than are taken up at once.
    x = torch.randn(1100, d, generator=seeded_generator(0, "pursued"))
    made, acts = pursued(torch.full((d,), 0.5), 3 * atoms, k)(x + 0.5)
    wanted = orthogonal_mp(atoms.double().T.numpy(), x.double().T.numpy(), n_nonzero_coefs=k).T
    assert np.array_equal(acts.numpy() != 0, wanted != 0)
    np.testing.assert_allclose(acts.numpy(), wanted, atol=2e-3)
    np.testing.assert_allclose(made.numpy() - 0.5, wanted @ atoms.numpy(), atol=1e-3)


def test_matching_pursuit_of_what_it_has_and_of_copies():
    atoms = random_unit_directions(20, 12)
    twice = torch.cat((atoms, atoms))
    x = torch.cat((4 * atoms[:3], torch.randn(50, 12, generator=seeded_generator(1, "pursued"))))
    taken, weights, rest = matching_pursuit(x, twice, 6)
    assert weights.isfinite().all()
    torch.testing.assert_close((weights[:, :, None] * twice[taken]).sum(dim=1) + rest, x, atol=1e-4, rtol=1e-4)
    # One that is an atom is that atom; of a pair of copies the other one adds nothing.
    assert taken[:3, 0].remainder(20).tolist() == [0, 1, 2]
    torch.testing.assert_close(weights[:3, 0], torch.full((3,), 4.0))
    assert float(weights[:3, 1:].abs().max()) < 1e-4
    _, _, alone = matching_pursuit(x, atoms, 6)
    torch.testing.assert_close(rest, alone, atol=1e-3, rtol=1e-3)
    assert pursued(torch.zeros(12), atoms, 6)(torch.zeros(2, 12))[1].abs().max() == 0


def test_a_search_finds_more_than_the_largest_projections(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    mean, sample = statistics.mean.float(), activation_sample(model, batches, HOOK, 64, most_tokens=10**6, seed=0)
    left = {
        make: float((make(mean, sample - mean, 4)(x)[0] - x).square().sum()) for make in (largest_projections, pursued)
    }
    assert left[pursued] < 0.9 * left[largest_projections]


def test_a_sample_of_activations(model, batches):
    x, _ = clean_rows(model, batches)
    rows = {tuple(row) for row in x.round(decimals=3).tolist()}
    drawn = [activation_sample(model, batches, HOOK, 20, most_tokens=10**6, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert {tuple(row) for row in drawn[0].round(decimals=3).tolist()} <= rows
    # Without replacement, all where there are fewer, and of the first tokens alone when asked.
    assert len(activation_sample(model, batches, HOOK, 10**6, most_tokens=10**6, seed=0)) == len(x)
    n_first = int(batches[0].mask.sum())
    first = activation_sample(model, batches, HOOK, 10**6, most_tokens=n_first, seed=0)
    torch.testing.assert_close(first.sum(dim=0), x[:n_first].sum(dim=0), atol=1e-2, rtol=1e-3)
    with pytest.raises(RequestError, match="gives no tokens"):
        activation_sample(model, [], HOOK, 3, most_tokens=10, seed=0)


def test_what_it_costs_to_find_features():
    assert encoding_cost(256, 2048) == 256 * 2048
    # The first products, and the first step of a triangular system; then for each more atom those of one more.
    assert pursuit_cost(256, 2048, 1) == encoding_cost(256, 2048) + 1
    assert pursuit_cost(256, 2048, 3) == encoding_cost(256, 2048) + 2048 * (1 + 2) + 1 + 4 + 9


def test_a_reconstruction_for_other_activations_is_brought_to_these(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    other = CovarianceAccumulator(16)
    other.update(3 * x + 5)
    heard = []

    def reconstruct(values):
        heard.append(values)
        return values, values

    made, _ = brought_to(reconstruct, statistics, other)(x)
    torch.testing.assert_close(heard[0], 3 * x + 5, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(made, x, atol=1e-4, rtol=1e-4)


def test_of_an_autoencoder_only_the_most_active_features(sae, model, batches):
    x, _ = clean_rows(model, batches)
    with torch.no_grad():
        whole, acts = reconstruct_with(sae)(x)
        fewer, some = reconstruct_with(sae, 2)(x)
    assert torch.equal(acts, sae.encode(x))
    assert int((some != 0).sum(dim=1).max()) == 2
    assert torch.equal(some.amax(dim=1), acts.amax(dim=1))
    assert float((fewer - x).square().sum()) > float((whole - x).square().sum())


def test_without_losses_the_rest_is_the_same(model, batches, sae, statistics):
    ways, mean = {"sae": reconstruct_with(sae)}, statistics.mean.float()
    whole = evaluate_reconstructions(model, batches, HOOK, ways, mean)["sae"].numbers()
    quick = evaluate_reconstructions(model, batches, HOOK, ways, mean, losses=False)["sae"].numbers()
    assert quick == {name: whole[name] for name in quick}
    assert set(whole) - set(quick) >= {"ce", "ce_clean", "kl"}


@pytest.mark.parametrize("make", [principal_components, largest_dimensions])
@pytest.mark.parametrize("k", [0, 17])
def test_more_dimensions_than_there_are(make, k, statistics):
    with pytest.raises(RequestError, match=f"k = {k}: must be 1 to 16"):
        make(statistics, k)


def test_reconstructions_that_are_not_finite(model, batches):
    with pytest.raises(WorkError, match="the reconstructions of 'one' hold a NaN"):
        evaluated(model, batches, lambda x: (x / 0, x), torch.zeros(16))


def test_a_text_without_tokens(model, sae):
    with pytest.raises(RequestError, match="gives no tokens"):
        evaluate_sae(model, sae, [], hook=HOOK)


def test_an_autoencoder_of_another_model(model, tmp_path):
    batches = token_batches(TEXTS, model.tokenizer, 8, model.cfg.n_ctx)
    sae = train_sae(model, batches, HOOK, CONFIG, n_steps=2, batch_size=64, buffer_batches=4)
    for name, value in trained_on(model, "tiny", "texts", 32).items():
        setattr(sae.cfg.metadata, name, value)
    save_sae(sae, tmp_path)
    loaded = load_sae(tmp_path)
    assert check_sae(loaded, model) == HOOK
    with pytest.raises(RequestError, match=r"was trained on 'tiny' with the weights [0-9a-f]{12}…: these are"):
        check_sae(loaded, untrained_copy(model, 0))
    with pytest.raises(RequestError, match=r"did you mean 'blocks.1.hook_resid_pre'"):
        check_sae(loaded, model, "blocks.1.hook_resid_pr")
    with pytest.raises(RequestError, match=r"reads 16 dimensions: 'blocks.0.mlp.hook_post' has 48"):
        check_sae(loaded, model, "blocks.0.mlp.hook_post")


READ, PREDICTED = "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"


def transcoder_of(kind=Transcoder, config=TranscoderConfig, *, d_out=16, target=PREDICTED):
    """A transcoder with random weights."""
    options = config(d_in=16, d_out=d_out, d_sae=32, apply_b_dec_to_input=False)
    options.metadata.hook_name, options.metadata.hook_name_out = READ, target
    transcoder = kind(options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in transcoder.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape, generator=generator))
    return transcoder


def both_hooks(model, batches):
    """What is read, and what is to be predicted, at the tokens that count."""
    found = []
    for batch in batches:
        _, cache = model.run_with_cache(batch.tokens, names_filter=[READ, PREDICTED])
        found.append([cache[hook][batch.mask] for hook in (READ, PREDICTED)])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize(
    ("kind", "config"), [(Transcoder, TranscoderConfig), (SkipTranscoder, SkipTranscoderConfig)], ids=["plain", "skip"]
)
def test_a_transcoder_is_compared_with_what_it_predicts(model, batches, kind, config):
    transcoder = transcoder_of(kind, config)
    x, y = both_hooks(model, batches)
    with torch.no_grad():
        made = transcoder(x)
    found = evaluate_sae(model, transcoder, batches)
    assert found.hook == PREDICTED
    assert found.mse == pytest.approx(float((made - y).square().mean()), rel=1e-4)
    expected = 1 - float((made - y).square().sum() / (y - y.mean(dim=0)).square().sum())
    assert found.explained_variance == pytest.approx(expected, rel=1e-4)

    read, losses = {}, []

    def hear(activation, hook):
        read[READ] = activation

    def replace(activation, hook):
        with torch.no_grad():
            spliced = transcoder(read[READ])
        return torch.where(read["mask"][..., None], spliced, activation)

    for batch in batches:
        read["mask"] = batch.mask
        with torch.no_grad():
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=[(READ, hear), (PREDICTED, replace)])
        counts = batch.mask[:, :-1] & batch.mask[:, 1:]
        wanted = logits.log_softmax(-1)[:, :-1].gather(2, batch.tokens[:, 1:, None])[..., 0]
        losses.append(-wanted[counts])
    assert found.ce == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


def test_the_best_map_that_skips_the_features_explains_what_is_linear(model, batches):
    """A skip transcoder without features is linear regression."""
    transcoder = transcoder_of(SkipTranscoder, SkipTranscoderConfig)
    x, y = both_hooks(model, batches)
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    solution = torch.linalg.lstsq(ones, y).solution
    with torch.no_grad():
        transcoder.W_dec.zero_()
        transcoder.W_skip.copy_(solution[:-1].T)
        transcoder.b_dec.copy_(solution[-1])
    residual = (ones @ solution - y).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert evaluate_sae(model, transcoder, batches).explained_variance == pytest.approx(1 - float(residual), abs=1e-4)


def test_a_transcoder_whose_target_is_not_known_or_does_not_fit(model, batches):
    with pytest.raises(RequestError, match=r"does not say which hook it predicts"):
        evaluate_sae(model, transcoder_of(target=None), batches)
    with pytest.raises(RequestError, match=r"predicts 12 dimensions: 'blocks.0.hook_mlp_out' has 16"):
        evaluate_sae(model, transcoder_of(d_out=12), batches)
    with pytest.raises(RequestError, match=r"did you mean 'blocks.0.hook_mlp_out'"):
        evaluate_sae(model, transcoder_of(target="blocks.0.hook_mlp_ou"), batches)


def test_an_autoencoder_of_processed_weights_wants_them(tiny_gpt2, sae):
    centred = load_model(tiny_gpt2.folder, device="cpu", process_weights={"center_writing_weights": True})
    sae = copy.deepcopy(sae)
    # One that names no model was trained a moment ago, on this one.
    assert check_sae(sae, centred, HOOK) == HOOK
    sae.cfg.metadata.model_name = "tiny"
    sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    assert check_sae(sae, centred, HOOK) == HOOK
    with pytest.raises(
        RequestError, match=r"trained on a model with center_writing_weights, this one has weights as they"
    ):
        check_sae(sae, tiny_gpt2.hooked, HOOK)
    sae.cfg.metadata.model_from_pretrained_kwargs = {}
    with pytest.raises(
        RequestError, match=r"with weights as they are in its file, this one has center_writing_weights"
    ):
        check_sae(sae, centred, HOOK)


def test_half_precision_on_disk_and_back(sae, batches, model, tmp_path):
    save_sae(sae, tmp_path / "half", dtype=torch.float16)
    half = load_sae(tmp_path / "half")
    assert half.W_dec.dtype == torch.float32
    # A loaded one is saved as it is.
    save_sae(half, tmp_path / "again")
    again = load_sae(tmp_path / "again")
    assert torch.equal(again.W_dec, half.W_dec)
    first, second = (evaluate_sae(model, one, batches, hook=HOOK).explained_variance for one in (sae, half))
    assert first == pytest.approx(second, abs=1e-3)


def test_folders_without_an_autoencoder(tmp_path):
    with pytest.raises(RequestError, match=r"holds no sparse autoencoder: give 'stories'"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(WorkError, match="cannot read the autoencoder in"):
        load_sae(tmp_path)


def test_weights_cut_short(sae, tmp_path):
    save_sae(sae, tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WorkError, match="cannot read the autoencoder in"):
        load_sae(tmp_path)


def test_the_statistics_are_those_of_the_tokens_that_count(model, batches, statistics):
    x, _ = clean_rows(model, batches)
    assert isinstance(statistics, CovarianceAccumulator)
    torch.testing.assert_close(statistics.mean, x.double().mean(dim=0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(statistics.covariance(), x.double().T.cov(correction=0), atol=1e-4, rtol=1e-3)
    assert activation_statistics(model, batches, HOOK, most_tokens=50).n < statistics.n
