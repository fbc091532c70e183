"""Sparse autoencoders evaluated from the command line, next to their baselines and their control."""

import copy

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from studies.sae.sae_runs import HOOK, NEURONS, corpus_of, evaluation_of

from mi_superposition import load_corpus, load_model, load_run
from mi_superposition.cli import main
from mi_superposition.corpora import model_batches
from mi_superposition.files import read_json, write_json
from mi_superposition.parts import TextPart, ThreadsPart
from mi_superposition.progress import Progress
from mi_superposition.sae import Documents, SaeConfig, SaeEvaluateConfig, evaluate_sae, load_sae, save_sae, train_sae
from mi_superposition.studies.sae.evaluate import FEATURES, load, measure
from mi_superposition.studies.sae.rows import (
    AUTOENCODER,
    COST,
    FOREIGN,
    KINDS,
    LARGEST,
    PCA,
    PROJECTED,
    PURSUED,
    PURSUED_ACTIVATIONS,
    PURSUED_DECODER,
    PURSUED_RANDOM,
    RANDOM,
    SAME_TOKENS,
    SHUFFLED,
    strongest,
)
from mi_superposition.training import Stopped


def test_the_evaluation_has_every_baseline(evaluated_sae):
    rows = {row.kind: row.numbers for row in load(evaluated_sae).rows}
    # All text is short enough for matching pursuit.
    assert list(rows) == [kind for kind in KINDS if kind != SAME_TOKENS]
    assert len({numbers["tokens"] for numbers in rows.values()}) == 1
    for kind in set(rows) - {AUTOENCODER, *PURSUED}:
        assert rows[kind]["l0"] == pytest.approx(rows[AUTOENCODER]["l0"], abs=0.05)
    assert rows[AUTOENCODER]["explained_variance"] > rows[FOREIGN]["explained_variance"]
    # A shuffled model expects nothing sensible: no loss of its is told.
    assert "ce" not in rows[SHUFFLED]
    assert 0 < rows[SHUFFLED]["explained_variance"] < 1


def test_a_search_is_compared_on_the_same_tokens(trained_sae, evaluated_sae, tmp_path):
    whole = {row.kind: row.numbers for row in load(evaluated_sae).rows}
    for searched, projected in ((PURSUED_RANDOM, RANDOM), (PURSUED_ACTIVATIONS, PROJECTED)):
        assert whole[searched]["explained_variance"] > whole[projected]["explained_variance"]
    assert whole[PURSUED_DECODER]["explained_variance"] > whole[AUTOENCODER]["explained_variance"]
    assert whole[PURSUED_ACTIVATIONS][COST] > whole[AUTOENCODER][COST] == 16 * 48
    more = ["--control-tokens", 0, "--forward-batch", 8, "--out"]
    assert main(evaluation_of(trained_sae, "--pursuit-tokens", 50, *more, tmp_path / "some")) == 0
    some = {row.kind: row.numbers for row in load(tmp_path / "some").rows}
    tokens = {some[kind]["tokens"] for kind in (SAME_TOKENS, *PURSUED)}
    assert len(tokens) == 1
    assert 50 <= tokens.pop() < some[AUTOENCODER]["tokens"] == whole[AUTOENCODER]["tokens"]
    # The first batches, as if there were no others.
    sae = load_sae(trained_sae)
    model = load_model(sae.cfg.metadata.model_name, device="cpu")
    texts = Documents(load_corpus(corpus_of(trained_sae)), held_out=True)
    batches = list(model_batches(model, texts, 8, context=sae.cfg.metadata.context_size))
    first = [batch for n, batch in enumerate(batches) if sum(int(one.mask.sum()) for one in batches[:n]) < 50]
    wanted = evaluate_sae(model, sae, first)
    for name in ("tokens", "explained_variance", "ce"):
        assert some[SAME_TOKENS][name] == pytest.approx(wanted.numbers()[name], rel=1e-5)
    best = strongest(some)
    assert best.autoencoder == some[SAME_TOKENS if best.kind in PURSUED else AUTOENCODER]
    assert main(evaluation_of(trained_sae, "--pursuit-tokens", 0, *more, tmp_path / "none")) == 0
    none = load(tmp_path / "none")
    assert not {row.kind for row in none.rows} & {SAME_TOKENS, *PURSUED}
    assert "matching pursuit" not in none.summary()


def test_the_strongest_baseline_is_named():
    numbers = {
        AUTOENCODER: {"explained_variance": 0.9, COST: 10},
        SAME_TOKENS: {"explained_variance": 0.8, COST: 10},
        PCA: {"explained_variance": 0.5},
        PURSUED_ACTIVATIONS: {"explained_variance": 0.7, COST: 25},
        PURSUED_DECODER: {"explained_variance": 0.99, COST: 25},
    }
    best = strongest(numbers)
    assert (best.kind, best.autoencoder, best.cost) == (PURSUED_ACTIVATIONS, numbers[SAME_TOKENS], 2.5)
    best = strongest(numbers | {PCA: {"explained_variance": 0.75}})
    assert (best.kind, best.autoencoder, best.cost) == (PCA, numbers[AUTOENCODER], None)


def test_an_evaluation_is_not_done_twice(evaluated_sae, trained_sae, capsys):
    metrics = (evaluated_sae / "metrics.json").read_bytes()
    assert main(evaluation_of(trained_sae)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"finished already: {evaluated_sae}"
    assert (evaluated_sae / "metrics.json").read_bytes() == metrics


def test_the_result_of_an_evaluation(evaluated_sae):
    result = load_run(evaluated_sae)
    assert len(repr(result)) < 400
    assert f"by {KINDS[strongest(result.of(result.main.sae)).kind]}" in result._repr_html_()
    assert result.to_frame().index.names == ["autoencoder", "reconstruction"]
    assert len(result.to_frame()) == len(KINDS) - 1
    assert isinstance(result.plot(), go.Figure)
    features = result.features
    assert features.n_features == 48
    assert {kind: len(cosines) for kind, cosines in features.nearest.items()} == dict.fromkeys(features.nearest, 48)
    # The neurons of the first layer stand before the hook.
    assert all(len(counts) == 48 for counts in features.sharing.features_of_neuron.values())


def test_a_manifest_is_a_configuration(evaluated_sae, tmp_path):
    out = tmp_path / "again"
    assert main(["sae", "evaluate", "--config", str(evaluated_sae / "manifest.json"), "--out", str(out)]) == 0
    assert (out / "metrics.json").read_bytes() == (evaluated_sae / "metrics.json").read_bytes()
    assert (out / FEATURES).read_bytes() == (evaluated_sae / FEATURES).read_bytes()


def test_an_evaluation_of_version_0_1_is_read(trained_sae, tmp_path, capsys):
    """It did not keep the features of the autoencoder: the table is shown without them, until the command adds them."""
    out = tmp_path / "old"
    more = ["--documents", 5, "--control-tokens", 0, "--out", out]
    assert main(evaluation_of(trained_sae, *more)) == 0
    manifest = read_json(out / "manifest.json")
    now = manifest["config"]
    text = {name: now[name] for name in ("model", "corpus", "split", "context", "device")}
    rest = {
        name: now[name] for name in ("sae", "hook", "documents", "control_corpus", "control_tokens", "threads", "seed")
    }
    old = {"text": text | {"column": "text", "batch": 32, "precision": "float32"}, **rest}
    # Nor the hashes of what it wrote.
    del manifest["files"]
    write_json(out / "manifest.json", manifest | {"format": 1, "config": old})
    (out / FEATURES).unlink()
    assert load(out).config == SaeEvaluateConfig.from_flat(now)
    assert main(["page", str(out), "--out", str(tmp_path / "page")]) == 0
    html = (tmp_path / "page" / "sae.html").read_text()
    assert "principal components" in html
    assert "features of a sentence" not in html
    metrics = (out / "metrics.json").read_bytes()
    for last in ("results", "finished already"):
        assert main(evaluation_of(trained_sae, *more)) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(last)
    assert (out / "metrics.json").read_bytes() == metrics
    assert "features of a sentence" in (out / "page" / "sae.html").read_text()


def test_a_whole_grid_is_evaluated(sae_grid, tmp_path):
    out = tmp_path / "evaluation"
    assert main(evaluation_of(sae_grid, "--control-tokens", 0, "--documents", 5, "--out", out)) == 0
    evaluation = load(out)
    assert len(evaluation.rows) == 4 * (len(KINDS) - 3)
    assert {row.hook for row in evaluation.rows} == {HOOK, NEURONS}
    # The features are those of the one that explains most.
    ours = [row.numbers["explained_variance"] for row in evaluation.rows if row.kind == AUTOENCODER]
    assert evaluation.main.numbers["explained_variance"] == max(ours)
    assert evaluation.main.sae == evaluation.features.sae


def test_an_autoencoder_of_another_model(trained_sae, capsys, tmp_path):
    assert main(evaluation_of(trained_sae, "--out", tmp_path / "out", "--model", "stories")) == 2
    assert "was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--architecture", "standard", "--sparsity", "0.3"], ["--architecture", "batchtopk"],
                ["--architecture", "jumprelu", "--sparsity", "0.5", "--normalize", "layer_norm"]], ids=lambda some: some[1]
)  # fmt: skip
def test_other_architectures_are_evaluated_too(sae_command, options, tmp_path):
    k = [] if options[1] == "batchtopk" else ["--k"]
    arguments = sae_command(tmp_path / "run", *options, *k)
    assert main([word for word in arguments if not k or word != "--k"]) == 0
    assert main(evaluation_of(tmp_path / "run")) == 0
    rows = {row.kind: row.numbers for row in load(tmp_path / "run" / "evaluation").rows}
    assert set(rows) == set(KINDS) - {SAME_TOKENS}
    wanted = min(np.ceil(rows[AUTOENCODER]["l0"]), 16)
    for kind in (PCA, LARGEST, RANDOM, PROJECTED, PURSUED_RANDOM):
        assert rows[kind]["l0"] == pytest.approx(wanted, abs=0.05)
    assert rows[FOREIGN]["l0"] <= wanted + 1e-6


def test_nothing_active_is_evaluated_without_a_share_of_nothing(trained_sae, tmp_path):
    sae = load_sae(trained_sae)
    with torch.no_grad():
        sae.b_enc.fill_(-1e4)
    save_sae(sae, tmp_path / "silent")
    assert main(evaluation_of(tmp_path / "silent", "--control-tokens", 0, corpus=corpus_of(trained_sae))) == 0
    numbers = load(tmp_path / "silent" / "evaluation").rows[0].numbers
    assert (numbers["l0"], numbers["dead"]) == (0, 48)
    assert "relative_bias" not in numbers


def test_an_autoencoder_that_does_not_name_its_hook(trained_sae, tmp_path, capsys):
    sae = load_sae(trained_sae)
    sae.cfg.metadata.hook_name = None
    save_sae(sae, tmp_path / "unnamed")
    arguments = evaluation_of(tmp_path / "unnamed", "--control-tokens", 0, corpus=corpus_of(trained_sae))
    assert main(arguments) == 2
    assert "does not say which hook it reads" in capsys.readouterr().err
    assert main([*arguments, "--hook", HOOK]) == 0
    assert "features of a sentence" in (tmp_path / "unnamed" / "evaluation" / "page" / "sae.html").read_text()


def test_an_autoencoder_that_does_not_name_its_model(trained_sae, tmp_path, capsys):
    sae = load_sae(trained_sae)
    sae.cfg.metadata.model_name = None
    save_sae(sae, tmp_path / "unnamed")
    assert main(evaluation_of(tmp_path / "unnamed", corpus=corpus_of(trained_sae))) == 2
    assert "does not record its model: give --model" in capsys.readouterr().err


def test_a_bundled_one_needs_a_place_for_its_evaluation(capsys):
    assert main(["sae", "evaluate", "--sae", "stories"]) == 2
    assert "'stories' is bundled: name a folder for its evaluation (--out)" in capsys.readouterr().err


class Watched(Progress):
    """Notes every stage, and asks to stop when one of them is reached."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def advance(self, by=1, state=""):
        self.seen.append(state)

    def should_stop(self):
        return self.stop_at in self.seen


def test_an_evaluation_stopped_goes_on_with_its_controls(trained_sae, evaluated_sae, tmp_path):
    config = SaeEvaluateConfig(
        sae=str(trained_sae), text=TextPart(corpus=corpus_of(trained_sae)), threads=ThreadsPart(1)
    )
    stopped = Watched(stop_at="autoencoders")
    with pytest.raises(Stopped):
        measure(config, tmp_path / "out", stopped)
    assert "control, training" in stopped.seen
    resumed = Watched()
    assert not measure(config, tmp_path / "out", resumed).finished_already
    assert "control, training" not in resumed.seen
    assert load(tmp_path / "out").rows == load(evaluated_sae).rows


def test_an_autoencoder_is_evaluated_on_the_activations_it_was_trained_on(tiny_gpt2, sae_corpus, tmp_path):
    """A model whose residual stream has a mean, an autoencoder of it without that mean, on rows without a beginning token."""
    network = copy.deepcopy(tiny_gpt2.transformers)
    with torch.no_grad():
        network.transformer.wte.weight.add_(1.0)
    network.save_pretrained(tmp_path / "model")
    load_model(tiny_gpt2.folder, device="cpu").tokenizer.save_pretrained(tmp_path / "model")
    processing = {"center_writing_weights": True}
    centred = load_model(tmp_path / "model", device="cpu", process_weights=processing)
    texts = list(load_corpus(str(sae_corpus)))
    rows = model_batches(centred, Documents(texts, held_out=False), 8, prepend_bos=False)
    options = SaeConfig(d_sae=48, k=8, learning_rate=1e-2)
    sae = train_sae(centred, rows, HOOK, options, n_steps=150, batch_size=64, buffer_batches=8)
    metadata = sae.cfg.metadata
    metadata.hook_name, metadata.model_name, metadata.prepend_bos = HOOK, str(tmp_path / "model"), False
    metadata.model_from_pretrained_kwargs, metadata.context_size = processing, 32
    save_sae(sae, tmp_path / "sae")
    held_out = model_batches(centred, Documents(texts, held_out=True), 8, prepend_bos=False)
    wanted = evaluate_sae(centred, sae, list(held_out)).explained_variance
    assert wanted > 0.5
    out = tmp_path / "run"
    assert main(evaluation_of(tmp_path / "sae", "--out", out, corpus=sae_corpus)) == 0
    [row] = [row for row in load(out).rows if row.kind == AUTOENCODER]
    assert row.numbers["explained_variance"] == pytest.approx(wanted, abs=1e-4)
