"""The bundled autoencoder is what its table says, and SAELens reads it."""

import pytest
import torch
from sae_lens import SAE

from mi_superposition import load_corpus, load_model, load_run
from mi_superposition.corpora import model_batches
from mi_superposition.files import content_hash
from mi_superposition.models import weights_of
from mi_superposition.runs import read_manifest
from mi_superposition.sae import Documents, check_sae, evaluate_reconstructions, load_sae
from mi_superposition.sae.baselines import largest_dimensions, principal_components, random_dictionary
from mi_superposition.sae.catalogue import BUNDLED_SAES, EVALUATION_FOLDER, REAL_EVALUATION_FOLDER
from mi_superposition.sae.evaluate import activation_statistics, reconstruct_with
from mi_superposition.sae.files import sae_identity
from mi_superposition.studies.sae.rows import (
    AUTOENCODER,
    FOREIGN,
    LARGEST,
    PCA,
    PROJECTED,
    PURSUED_ACTIVATIONS,
    PURSUED_DECODER,
    PURSUED_RANDOM,
    RANDOM,
    SHUFFLED,
    strongest,
)

FOLDER = BUNDLED_SAES["stories"]


@pytest.fixture(scope="module")
def model():
    return load_model("stories", device="cpu")


@pytest.fixture(scope="module")
def table():
    evaluation = load_run(FOLDER / EVALUATION_FOLDER)
    return evaluation.of(evaluation.main.sae)


def test_it_is_small_and_saelens_reads_it(model):
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 3_000_000
    sae = SAE.load_from_disk(str(FOLDER))
    assert sae.W_dec.dtype == torch.float16
    assert sae.cfg.metadata.model_name == "stories"
    assert check_sae(load_sae("stories"), model) == "blocks.1.hook_resid_pre"
    # Nothing of the machine it was made on.
    assert "/" not in sae.cfg.metadata.dataset_path
    assert "/" not in str(read_manifest(FOLDER / EVALUATION_FOLDER)["config"])


def test_on_real_stories_an_untrained_dictionary_that_is_searched_explains_more(model):
    evaluation = load_run(FOLDER / REAL_EVALUATION_FOLDER)
    manifest = read_manifest(FOLDER / REAL_EVALUATION_FOLDER)
    assert "/" not in str(manifest["config"])
    assert manifest["inputs"]["model"]["sha256"] == content_hash(weights_of(model))
    assert manifest["inputs"]["saes"] == {"stories": sae_identity(FOLDER)}
    table = evaluation.of("stories")
    assert {numbers["tokens"] for numbers in table.values()} == {19_405}
    explained = {kind: numbers["explained_variance"] for kind, numbers in table.items()}
    assert round(explained[AUTOENCODER], 3) == 0.901
    assert explained[PURSUED_ACTIVATIONS] > explained[AUTOENCODER] > explained[PROJECTED] + 0.1
    assert explained[PURSUED_DECODER] > explained[PURSUED_ACTIVATIONS] > explained[PURSUED_RANDOM] + 0.1
    assert strongest(table).kind == PURSUED_ACTIVATIONS
    assert 2.9 < strongest(table).cost < 3.0


def test_its_evaluation_is_a_finished_run(table, model):
    evaluation = load_run(FOLDER / EVALUATION_FOLDER)
    assert len(evaluation.to_frame()) == 24
    assert evaluation.main.numbers == table[AUTOENCODER]
    # The features are those of the autoencoder as it is bundled.
    assert evaluation.features.n_features == 2048
    assert torch.equal(evaluation.features.decoder, load_sae("stories").W_dec.detach()[::32])
    recorded = read_manifest(FOLDER / EVALUATION_FOLDER)["inputs"]["model"]["sha256"]
    assert recorded == content_hash(weights_of(model))


def test_it_beats_every_baseline_with_as_many_features_a_token(table):
    for kind in (PCA, LARGEST, RANDOM, FOREIGN):
        assert table[kind]["l0"] >= table[AUTOENCODER]["l0"] - 1e-6
        assert table[AUTOENCODER]["explained_variance"] > table[kind]["explained_variance"] + 0.1
        assert table[AUTOENCODER]["ce"] < table[kind]["ce"]
        assert table[AUTOENCODER]["kl"] < table[kind]["kl"]


def test_what_it_explains_it_would_nearly_explain_in_a_shuffled_model(table):
    assert 0.8 < table[SHUFFLED]["explained_variance"] < table[AUTOENCODER]["explained_variance"]


@pytest.mark.slow
def test_the_table_is_measured_again_on_some_of_the_text(model, table):
    corpus = load_corpus("stories")
    sae, hook, k = load_sae("stories"), "blocks.1.hook_resid_pre", 32
    statistics = activation_statistics(
        model, model_batches(model, Documents(corpus, held_out=False), 32), hook, most_tokens=2**15
    )
    ways = {
        AUTOENCODER: reconstruct_with(sae),
        PCA: principal_components(statistics, k),
        LARGEST: largest_dimensions(statistics, k),
        RANDOM: random_dictionary(statistics, 2048, k),
    }
    some = list(model_batches(model, Documents(corpus, held_out=True, limit=40), 32))
    for kind, found in evaluate_reconstructions(model, some, hook, ways, statistics.mean.float()).items():
        assert found.explained_variance == pytest.approx(table[kind]["explained_variance"], abs=0.02)
        assert found.ce == pytest.approx(table[kind]["ce"], rel=0.1)
        assert found.recovered == pytest.approx(table[kind]["recovered"], abs=0.02)
