"""The pages of trainings and evaluations of autoencoders, from their run folders."""

import plotly.graph_objects as go
import pytest
from studies.sae.sae_runs import HOOK, evaluation_of

from mi_superposition import load_model
from mi_superposition.cli import main
from mi_superposition.corpora import model_batches
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.pages.sae import chapter
from mi_superposition.pages.sae.evaluate import what_it_buys
from mi_superposition.runs import read_manifest
from mi_superposition.sae import Documents, evaluate_sae, features_of_sentence, load_sae
from mi_superposition.sae.features import participation, written_before
from mi_superposition.studies.sae.rows import AUTOENCODER, PROJECTED, PURSUED_ACTIVATIONS, PURSUED_DECODER, SAME_TOKENS


def test_the_page_of_an_evaluation(evaluated_sae, sae_grid, tmp_path):
    html = (evaluated_sae / "page" / "sae.html").read_text()
    for text in (
        "the same, evaluated on its own model",
        "principal components",
        "median cosine with the nearest",
        "The features of a sentence",
        "What the SAE adds to an untrained dictionary",
        "training activations, by matching pursuit",
    ):
        assert text in html
    # One alone has no frontier.
    assert "frontier" not in html
    out = tmp_path / "evaluation"
    assert main(evaluation_of(sae_grid, "--out", out)) == 0
    html = (out / "page" / "sae.html").read_text()
    assert html.count('data-figure="frontier-') == 2


def test_the_page_of_a_training(trained_sae, sae_grid, tmp_path):
    for run, names in ((trained_sae, ["sae"]), (sae_grid, [f"{HOOK}-48-k2", f"{HOOK}-48-k4"])):
        html = (run / "page" / "training.html").read_text()
        assert 'data-figure="explained-variance-data"' in html
        assert 'data-figure="dead-features-data"' in html
        for name in names:
            assert f'<th scope="row">{name}</th>' in html


@pytest.mark.parametrize("run", ["trained_sae", "evaluated_sae"])
def test_a_page_written_again_is_the_same(run, request, tmp_path):
    folder = request.getfixturevalue(run)
    assert main(["page", str(folder), "--out", str(tmp_path / "page")]) == 0
    for path in (folder / "page").glob("*.html"):
        assert (tmp_path / "page" / path.name).read_bytes() == path.read_bytes()


def test_results_of_functions_draw_themselves(trained_sae, tiny_gpt2, sae_corpus):
    model, sae = tiny_gpt2.hooked, load_sae(trained_sae)
    held_out = list(model_batches(model, Documents(sae_corpus.read_text().split("<|endoftext|>"), held_out=True), 8))
    fidelity = evaluate_sae(model, sae, held_out)
    sentence = features_of_sentence(model, sae, "a cat ran", n=5)
    shared = participation(written_before(model, HOOK), sae.W_enc.detach().T)
    for result, n in ((fidelity, 48), (sentence, 5), (shared, 48)):
        assert len(repr(result)) < 400
        assert "<table" in result._repr_html_()
        assert len(result.to_frame()) == n
        assert isinstance(result.plot(), go.Figure)
    frame = fidelity.to_frame()
    assert frame["density"].sum() == pytest.approx(fidelity.l0)
    assert (frame["tokens"] == 0).sum() == fidelity.dead


def test_the_sentences_follow_the_numbers():
    def numbers(explained, cost=10):
        return {"explained_variance": explained, "ce": 1.5, "encoding_multiply_adds": cost, "tokens": 5}

    told = {AUTOENCODER: numbers(0.9), PURSUED_ACTIVATIONS: numbers(0.95, 49), PROJECTED: numbers(0.6)}
    told |= {PURSUED_DECODER: numbers(0.97, 49)}
    said = what_it_buys(told)
    assert (
        "explain more than the SAE (0.950, cross-entropy 1.500; SAE 0.900, cross-entropy 1.500), at 4.9 times" in said
    )
    assert "by largest projections, they explain less than the SAE (0.600" in said
    assert "the SAE's directions explain more than the untrained ones (0.970" in said
    worse = what_it_buys(told | {PURSUED_ACTIVATIONS: numbers(0.85, 30), PURSUED_DECODER: numbers(0.8, 30)})
    assert (
        "explain less than the SAE (0.850, cross-entropy 1.500; SAE 0.900, cross-entropy 1.500), at 3.0 times" in worse
    )
    assert "the SAE's directions explain less than the untrained ones (0.800" in worse
    # Where the search was on some of the tokens, with the autoencoder's number on these.
    assert "explain as much as the SAE" in what_it_buys(told | {SAME_TOKENS: numbers(0.95)})


def test_the_chapter_is_made_of_finished_runs():
    request = ChapterRequest(["sae"])
    jobs = chapter.jobs(request)
    assert read_manifest(jobs["evaluation"].bundled)["command"] == "sae evaluate"
    assert read_manifest(jobs["real"].bundled)["config"]["corpus"] == "validation.parquet"
    assert jobs["recovery"].command == "sae recover"
    assert load_model(chapter.NAME, device="cpu").cfg.n_layers == 2
