"""Our evaluation beside SAELens's ``run_evals``: the same tokens, the same numbers, or the definition that differs."""

from functools import partial

import pytest
import torch
from datasets import Dataset
from sae_lens import ActivationsStore, run_evals
from sae_lens.evals import get_eval_everything_config
from sae_lens.training.activation_scaler import ActivationScaler

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import model_batches
from mi_superposition.sae import Documents, evaluate_sae, load_sae

CONTEXT, ROWS, BATCHES = 64, 8, 3


@pytest.fixture(scope="module")
def model():
    return load_model("stories", device="cpu")


@pytest.fixture(scope="module")
def sae():
    return load_sae("stories")


@pytest.fixture(scope="module")
def texts(model):
    """Held-out stories that fill a row: SAELens drops shorter ones and cannot pad."""
    held_out = Documents(load_corpus("stories"), held_out=True, limit=100)
    long = [text for text in held_out if len(model.to_tokens(text, truncate=False)[0]) >= CONTEXT]
    return long[: ROWS * BATCHES]


@pytest.fixture(scope="module")
def tokens(model, texts):
    return torch.stack([model.to_tokens(text)[0, :CONTEXT] for text in texts])


@pytest.fixture(scope="module")
def ours(model, sae, texts):
    batches = list(model_batches(model, texts, ROWS, context=CONTEXT, long="truncate"))
    return evaluate_sae(model, sae, batches)


@pytest.fixture(scope="module")
def theirs(model, sae, texts):
    """Between its two passes SAELens does not go back to the first text, whatever it says: so many are given that the second
    begins with it again.
    """
    dataset = Dataset.from_dict({"text": texts})
    with pytest.warns(UserWarning, match="Dataset is not tokenized"):
        store = ActivationsStore.from_sae(
            model, sae, dataset, context_size=CONTEXT, streaming=False, store_batch_size_prompts=ROWS,
            total_tokens=len(texts), disable_concat_sequences=True,
        )  # fmt: skip
    groups, _ = run_evals(sae, store, model, ActivationScaler(), get_eval_everything_config(ROWS, BATCHES, BATCHES))
    return {name: value for group in groups.values() for name, value in group.items()}


@pytest.fixture(scope="module")
def reconstructed(model, sae, tokens):
    """Activations and reconstructions of the tokens that count, ``[batch token d]`` each."""
    hook = sae.cfg.metadata.hook_name
    with torch.no_grad():
        x = model.run_with_cache(tokens, names_filter=hook)[1][hook][:, 1:]
        return [values.double().unflatten(0, (BATCHES, ROWS)).flatten(1, 2) for values in (x, sae(x))]


@pytest.fixture(scope="module")
def spliced(model, sae, tokens):
    """Log-probabilities at every position, by what stands in the place of the activations of which positions."""

    def put(value, hook, first, make):
        return torch.cat([value[:, :first], make(value[:, first:])], dim=1)

    def expected(first, make):
        hook = (sae.cfg.metadata.hook_name, partial(put, first=first, make=make))
        return model.run_with_hooks(tokens, fwd_hooks=[hook]).log_softmax(dim=-1)

    with torch.no_grad():
        return {
            "clean": model(tokens).log_softmax(dim=-1),
            "sae": expected(1, sae),
            "zero": expected(1, torch.zeros_like),
            "zero and the beginning": expected(0, torch.zeros_like),
        }


def test_the_tokens_are_the_same(ours, theirs):
    """The beginning token counts in neither, though SAELens's count of tokens has it."""
    assert ours.n_tokens == ROWS * BATCHES * (CONTEXT - 1)
    assert theirs["total_tokens_eval_sparsity_variance"] == ROWS * BATCHES * CONTEXT


def test_what_is_defined_alike_is_equal(ours, theirs):
    """Explained variance is 1 - squared error / squared deviation from the mean of all these tokens, in both."""
    assert ours.l0 == pytest.approx(theirs["l0"], rel=1e-6)
    assert ours.explained_variance == pytest.approx(theirs["explained_variance"], abs=1e-5)
    assert ours.cosine == pytest.approx(theirs["cossim"], abs=1e-5)
    assert ours.ce_clean == pytest.approx(theirs["ce_loss_without_sae"], rel=1e-5)
    assert ours.ce == pytest.approx(theirs["ce_loss_with_sae"], rel=1e-5)


def test_their_squared_error_is_summed_over_dimensions(ours, theirs, sae):
    assert theirs["mse"] == pytest.approx(ours.mse * sae.cfg.d_in, rel=1e-5)


def test_their_legacy_explained_variance_is_a_mean_of_ratios(ours, theirs, reconstructed):
    """Over tokens, of error / deviation from the batch's mean: a token near the mean weighs as much as one far from it."""
    x, made = reconstructed
    errors, deviations = (x - made).square().sum(dim=2), (x - x.mean(dim=1, keepdim=True)).square().sum(dim=2)
    assert theirs["explained_variance_legacy"] == pytest.approx(float((1 - errors / deviations).mean()), abs=1e-5)
    assert theirs["explained_variance_legacy"] > ours.explained_variance + 0.001


def test_their_ablation_zeroes_the_beginning_too(ours, theirs, spliced, tokens):
    """Ours leaves it its activation, as it does under the reconstruction."""

    def surprise(name):
        after = spliced[name][:, 1:-1].gather(2, tokens[:, 2:, None])
        return -float(after.double().mean())

    assert ours.ce_zero == pytest.approx(surprise("zero"), rel=1e-5)
    assert theirs["ce_loss_with_ablation"] == pytest.approx(surprise("zero and the beginning"), rel=1e-5)
    assert abs(theirs["ce_loss_with_ablation"] - ours.ce_zero) > 0.1
    # The share that is recovered follows from the three raw ones, in both.
    for found, ablated in (
        (ours.recovered_from_zero, ours.ce_zero),
        (theirs["ce_loss_score"], theirs["ce_loss_with_ablation"]),
    ):
        assert found == pytest.approx((ablated - ours.ce) / (ablated - ours.ce_clean), rel=1e-4)


def test_their_divergence_counts_the_last_position_too(ours, theirs, spliced):
    """Ours counts predictions that can be checked, the same as in the cross-entropies: all but the last of a row."""
    clean = spliced["clean"].double()
    divergence = (clean.exp() * (clean - spliced["sae"])).sum(dim=-1)
    assert ours.kl == pytest.approx(float(divergence[:, 1:-1].mean()), rel=1e-3)
    assert theirs["kl_div_with_sae"] == pytest.approx(float(divergence[:, 1:].mean()), rel=1e-3)


def test_their_bias_is_measured_from_zero(ours, theirs, reconstructed):
    """And averaged over batches; ours is measured from the mean, so that a large mean does not hide shrinkage."""
    x, made = reconstructed
    by_batch = made.square().sum(dim=(1, 2)) / (made * x).sum(dim=(1, 2))
    assert theirs["relative_reconstruction_bias"] == pytest.approx(float(by_batch.mean()), rel=1e-5)
    mean = x.mean(dim=(0, 1))
    from_mean = (made - mean).square().sum() / ((made - mean) * (x - mean)).sum()
    assert ours.relative_bias == pytest.approx(float(from_mean), rel=1e-5)
