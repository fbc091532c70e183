"""The replicas of the sources: their arithmetic, what of them is exact, and each script at a small size."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_config
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

from mi_superposition.addition.train import train_addition
from mi_superposition.models.encoders import save_encoder
from mi_superposition.studies.toy.absolute import AbsoluteStudy
from mi_superposition.studies.toy.neurons import NeuronsStudy
from mi_superposition.studies.toy.penalties import L1
from mi_superposition.toy import ToyConfig, ToyModels, bundled_study, load_toy
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.train import ToyLearner

FOLDER = Path(__file__).parent.parent / "scripts" / "replicas"
HELPER = "replica.py"
# Parts of scripts: they have no command of their own.
PARTS = ("digit_places.py", "feature_measures.py")
VERDICTS = {"confirmed", "not confirmed", "refuted", "cannot be tested here", "ours"}
CONCEPT_WORDS = (
    "good great excellent wonderful fantastic bad terrible awful horrible poor okay fine average mediocre so"
)


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """As when a script is called by its name: what stands beside it can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def functions():
    """The functions of a script, as it is imported."""
    return lambda script: runpy.run_path(str(FOLDER / script))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script; its rows by claim, and the whole record that it wrote."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--out", str(out)])
        runpy.run_path(str(FOLDER / script), run_name="__main__")
        record, said = json.loads(out.read_text()), capsys.readouterr().out
        assert record["versions"]["torch"]
        rows = {row["claim"]: row for row in record["rows"]}
        # Claims are what a table of sources finds them by.
        assert len(rows) == len(record["rows"])
        assert {row["verdict"] for row in rows.values()} <= VERDICTS
        assert all(claim in said for claim in rows)
        return rows, record

    return run


@pytest.mark.parametrize(
    "path", sorted(set(FOLDER.glob("*.py")) - {FOLDER / part for part in (HELPER, *PARTS)}), ids=lambda path: path.name
)
def test_every_replica_says_what_it_does(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert f"scripts/replicas/{path.name}" in capsys.readouterr().out


def test_a_table_of_numbers(functions):
    helper = functions(HELPER)
    assert [helper["shown"](value) for value in (None, 0.123456, 67, "all")] == ["–", "0.1235", "67", "all"]
    assert helper["spread"]([1.0, 2.0, 6.0]) == "3 (1 to 6)"
    assert helper["percentile"](2.0, [1.0, 2.0, 3.0, 4.0]) == 25
    # Clopper and Pearson: of none of n, 1 - 0.025^(1/n).
    assert helper["share"](0, 24) == f"0 of 24 (0 to {100 * (1 - 0.025 ** (1 / 24)):.0f} %)"


def test_the_simple_language_model_is_that_of_the_source(functions, run):
    script = functions("simple_language_model.py")
    matrix = script["drawn"](42).correlation
    printed = [value for row in script["PRINTED"] for value in row]
    np.testing.assert_allclose(matrix[*torch.triu_indices(6, 6, 1)], printed, atol=5e-5)
    state = torch.get_rng_state()
    assert not torch.equal(script["drawn"](41).correlation, matrix)
    assert torch.equal(torch.get_rng_state(), state)
    rows, record = run("simple_language_model.py", "--seeds", 20, "--picture", "maps.html")
    assert rows["6 × 6 correlations, largest difference"]["verdict"] == "confirmed"
    assert rows["second version, corrcoef(…, dim=0), gives the same matrix"]["ours"] == "TypeError"
    assert len(record["details"]["mean_magnitude_of_other_seeds"]) == 20
    assert "Hidden activations" in Path("maps.html").read_text()


def test_ranks_of_simplenet_are_counted_as_the_source_does(functions):
    ranks = functions("simplenet_ranks.py")["ranks"]
    # Squares 16, 4, 1, 0.04: 95 % by two, 99.8 % by three.
    assert ranks(torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.2]))) == (2, 3)


def pictures(path, n, size, channels=()):
    """A parquet file of random images of two classes."""
    generator = np.random.default_rng(0)
    images = [Pictures.fromarray(generator.integers(0, 256, (size, size, *channels), dtype=np.uint8)) for _ in range(n)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    Dataset.from_dict({"image": images, "label": [k % 2 for k in range(n)]}, features=features).to_parquet(str(path))


def test_simplenet_at_a_small_size(run, tmp_path):
    for split in ("train", "test"):
        pictures(tmp_path / f"{split}.parquet", 130, 28)
    rows, record = run("simplenet_ranks.py", "--data", tmp_path, "--seeds", 2, "--epochs", 1)
    assert len(record["details"]["trained"]["fc1"]) == 2
    # Untrained weights are uniform random numbers: nearly all directions are in use.
    assert record["details"]["untrained"]["fc1"] == [{"source": 124, "ours": 125}] * 2
    assert rows["fc1: energy rank, ours"]["why"].startswith("one more")


def test_pramodith_is_taken_at_his_printed_weights(functions):
    script = functions("pramodith_toy.py")
    printed = torch.tensor(script["RELU"]).T
    torch.testing.assert_close(
        script["signed_interference"](printed)[0], torch.tensor(0.1810), atol=1e-3, rtol=0
    )  # features 0 and 3, the others are orthogonal
    assert float(script["nearest_angles"](printed[None], axes=True)) < script["SAME"]
    pentagon = torch.arange(5) * 2 * torch.pi / 5
    for axes, expected in ((True, 36.0), (False, 72.0)):
        nearest = script["nearest_angles"](torch.stack([pentagon.cos(), pentagon.sin()])[None], axes=axes)
        torch.testing.assert_close(nearest, torch.tensor([expected]), atol=1e-2, rtol=0)
    np.testing.assert_allclose(script["probabilities"](400_000), (0.05**3, 1 - 0.9**2), atol=2e-3)


def test_pramodith_at_a_small_size(run):
    rows, record = run("pramodith_toy.py", "--steps", 20, "--instances", 2, "--picture", "toy.html")
    assert rows["sparsity 0.5: all five are represented"]["ours"].endswith(" %)")
    assert np.shape(record["details"]["relu, sparsity 0.9"]["W"]) == (2, 5, 2)
    assert "W^T W, sparsity 0.9" in Path("toy.html").read_text()


@pytest.mark.slow
def test_pramodiths_linear_weights_to_four_digits(run):
    rows, _ = run("pramodith_toy.py", "--instances", 2)
    assert rows["linear, no sparsity: W, largest difference"]["verdict"] == "confirmed"
    assert rows["sparsity 0.5: features with a norm above ½"]["ours"] == "2 (2 to 2)"


def test_the_table_of_resnet(functions, run):
    script = functions("resnet_table.py")
    assert script["counted"](np.array([1.0, 4.0, 2.0, 0.2])) == 2
    rows, record = run("resnet_table.py")
    layers = {line["name"]: line for line in record["details"]["layers"]}
    assert len(layers) == 53
    assert layers["conv1"]["noise"] / 64 == pytest.approx(0.984, abs=5e-4)
    assert layers["layer4.0.conv3"]["noise"] / 2048 == pytest.approx(0.061, abs=5e-4)
    assert layers["layer4.0.conv3"]["limit"] == 128
    assert all(line["source"] < line["limit"] for line in layers.values())
    possible = "ours: energy rank / the largest possible rank"
    assert rows[f"{possible}, mean of 54 layers"]["ours"] == pytest.approx(0.660, abs=5e-4)
    assert rows[f"{possible}, mean of 54 layers"]["control"] == "untrained 0.510"
    assert rows[f"{possible}, mean of 54 layers"]["why"].startswith("21 of 54")
    assert rows[f"{possible} falls with depth (Spearman)"]["ours"] == pytest.approx(-0.68, abs=5e-3)


@pytest.mark.slow
def test_an_untrained_resnet_in_the_formula_of_the_source(run, tmp_path):
    for split, n in (("train", 4), ("test", 1280)):
        pictures(tmp_path / f"{split}.parquet", n, 32, (3,))
    _, record = run("resnet_table.py", "--images", tmp_path)
    assert all(0 < line["untrained"] <= line["limit"] for line in record["details"]["layers"])


def test_arenas_blocks_and_pairs(functions):
    script = functions("arena_toy.py")
    square = torch.zeros(4, 5)
    square[:2, :3] = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    square[2, 3] = square[3, 4] = 1.0
    corners = torch.zeros(4, 4)
    corners[:3, :3] = 2 * torch.eye(3) - 1
    for W, name in ((square, "3 × 2 block"), (corners, "three corners of a tetrahedron")):
        assert script["blocks_in"](W) == {name}
        assert not script["blocks_in"](W.abs())
    # Ten features, a pair of five neurons each.
    pairs = torch.zeros(5, 10)
    for feature, (first, second) in enumerate(torch.combinations(torch.arange(5)).tolist()):
        pairs[[first, second], feature] = 1.0
    assert int(script["own_pairs"](pairs - 0.7 * (pairs == 0))) == 10
    pairs[:, 9] = pairs[:, 8]
    assert int(script["own_pairs"](pairs)) == 9
    assert int(script["own_pairs"](torch.eye(5))) == 0


def test_arena_at_a_small_size(run, tmp_path):
    options = ["--instances", 3, "--steps", 2, "--probabilities", 0.01, "--runs", tmp_path / "runs"]
    rows, record = run("arena_toy.py", *options)
    # Of the bundled models.
    assert rows["dense: the five most important features have a neuron each"]["verdict"] == "confirmed"
    assert rows["medium sparsity: 3 × 2 block"]["verdict"] == "confirmed"
    assert record["details"]["own_pairs_of_kept_instances"]["0.03"][0] == 10
    assert (tmp_path / "runs" / "extreme-0.01" / "metrics.json").exists()


def test_controls_of_a_sentence_keep_what_they_should(functions):
    script = functions("sae_sentence.py")
    states = torch.randn(14, 6, generator=torch.Generator().manual_seed(0))
    shuffled, mixed = script["shuffled"](states, 0), script["mixed"](states, 0)
    assert torch.equal(shuffled.sort(dim=0).values, states.sort(dim=0).values)
    assert not torch.equal(shuffled, states)
    torch.testing.assert_close(mixed.mean(dim=0), states.mean(dim=0))
    torch.testing.assert_close(mixed.T.cov(), states.T.cov())
    assert not torch.allclose(mixed, states, atol=0.1)


def test_an_autoencoder_of_a_sentence_at_a_small_size(run, tiny_gpt2):
    rows, record = run(
        "sae_sentence.py", "--model", tiny_gpt2.folder, "--seeds", 1, "--sentence", "a cat ran to dog", "--picture", "s.html"
    )  # fmt: skip
    assert rows["loss after 100 steps"]["source"] == pytest.approx(10.9564)
    assert np.shape(record["details"]["losses"]["mixed"]) == (1, 5)
    assert "Activations at each token" in Path("s.html").read_text()


def test_the_state_of_a_sentence_is_that_of_transformers(functions, tiny_gpt2):
    from mi_superposition.models import read_hooks

    hook, tokens = functions("sae_sentence.py")["HOOK"], torch.tensor([[5, 9, 20]])
    norm = tiny_gpt2.hooked.ln_final
    states = read_hooks(tiny_gpt2.hooked, tokens, [hook])[hook] * norm.w + norm.b
    expected = tiny_gpt2.transformers(tokens, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_correlations_with_concepts(functions):
    correlations = functions("distilbert_words.py")["correlations"]
    generator = torch.Generator().manual_seed(0)
    texts, concepts = torch.randn(5, 7, generator=generator), torch.randn(2, 7, generator=generator)
    expected = [[np.corrcoef(text, concept)[0, 1] for concept in concepts] for text in texts]
    np.testing.assert_allclose(correlations(texts, concepts, False), expected, atol=1e-6)
    shifted = correlations(texts + 3 * concepts[:1], concepts + 3 * concepts[:1], True)
    torch.testing.assert_close(shifted, correlations(texts, concepts, True))


def test_concept_words_at_a_small_size(run, tmp_path):
    other = [f"word{chr(97 + number // 10)}{chr(97 + number % 10)}" for number in range(60)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "-", "film", *CONCEPT_WORDS.split(), *other]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    config = DistilBertConfig(vocab_size=len(words), dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=64)  # fmt: skip
    save_encoder(DistilBertModel(config), tokenizer, tmp_path / "encoder")
    sentences = [f"film {words[7 + n % 15]} {other[n % 60]} {other[7 * n % 60]}" for n in range(120)]
    table = pd.DataFrame({"sentence": sentences, "label": [n % 2 for n in range(120)]})
    table.to_parquet(tmp_path / "texts.parquet")
    options = [
        "--model",
        "encoder",
        "--texts",
        "texts.parquet",
        "--length",
        16,
        "--other-length",
        32,
        "--draws",
        3,
        "--picture",
        "p.html",
    ]
    rows, record = run("distilbert_words.py", *options)
    assert rows["padded: positive"]["source"] == pytest.approx(0.33541)
    assert np.shape(record["details"]["trained, masked"]["random_lists"]) == (3, 3)
    assert Path("p.html").exists()


def test_distances_of_heads(functions):
    distances = functions("thaman_addition.py")["relative_distances"]
    same = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 2, 1)
    torch.testing.assert_close(distances(torch.cat([same, torch.ones(2, 7, 2)], dim=1)), torch.zeros(2))
    # Twelve points at equal distances.
    torch.testing.assert_close(distances(torch.eye(12)[None]), torch.ones(1))


def test_the_reports_sums_and_what_a_guess_can_know(functions):
    script = functions("thaman_addition.py")
    assert all(map(script["reads_rightly"], script["EXAMPLES"]))
    assert not script["reads_rightly"]("4321008765002196001")
    known = torch.tensor([[0, 1], [0, 1], [0, 1], [2, 3]])
    assert script["best_guess"](known, torch.tensor([5, 5, 6, 7])) == 0.75


def test_statements_on_addition(run):
    rows, record = run("thaman_addition.py", "--seeds", 2)
    for name in ("keys", "values"):
        row = rows[f"{name}: both numbers at nearly the same points, distance / mean distance"]
        assert row["verdict"] == "confirmed"
        assert max(record["details"][name]) < 0.25
    assert rows["solutions of x + y ≤ 9 with digits x and y"]["ours"] == 55


def test_a_model_that_reads_its_answer(run, tmp_path):
    config = small_config(n_digits=6, answer="autoregressive", epochs=1)
    train_addition(config, tmp_path / "reader")
    _, record = run("thaman_addition.py", "--seeds", 1, "--autoregressive", tmp_path / "reader")
    assert record["details"]["autoregressive"]["uniform"] == pytest.approx(1 / 14)


def test_alignment_and_pairs_of_toy_models(functions):
    script = functions("thaman_toy.py")
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    assert script["alignment"](torch.eye(6)) < -3
    assert abs(script["alignment"](turn)) < 4
    # As far from the dimensions as can be: all weights of one magnitude.
    hadamard = torch.tensor([[1.0, 1], [1, -1]])
    assert script["alignment"](torch.kron(hadamard, hadamard)) > 2
    assert script["antipodal"](0.3 * torch.tensor([[1.0, -1, 0], [0, 0, 1]])) == 2
    company = script["company"](torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    torch.testing.assert_close(company, torch.tensor([1.0, 2, 2]))


def test_statements_on_toy_models(run):
    rows, record = run("thaman_toy.py", "--steps", 3)
    assert rows["dropout: negative weights on the diagonal of W^T W"]["verdict"] == "refuted"
    assert rows["max: ReLU performs worse, median loss / constant's"]["verdict"] == "refuted"
    # Of the best of ten: dropout raises them, and much of it removes them.
    assert record["details"]["falling_features_in_antipodal_pairs"][3] == [6, 8, 8, 6, 14, 16, 16, 0]


def test_what_is_told_of_dropout(functions):
    script = functions("thaman_dropout.py")
    # Two antipodal pairs and a feature of its own: all at fractions. A feature of norm 0 is not kept.
    W = torch.tensor([[1.0, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, 0]])
    share, blurred = script["gathered"](W)
    assert share == 1
    assert 0.05 < blurred < 0.5
    assert script["negative_share"](W) == 1
    assert script["negative_share"](W.abs()) == 0
    random = torch.randn(200, 10, 40, generator=torch.Generator().manual_seed(0))
    assert script["negative_share"](random) == pytest.approx(0.5, abs=0.01)
    ratio = script["smaller_over_larger"](torch.tensor([[[1.0, 0.0]], [[1.0, -0.9]], [[0.5, 1.0]]]))
    torch.testing.assert_close(ratio, torch.tensor([0.0, 0.9, 0.5]))
    assert script["between"](ratio).tolist() == [False, False, True]
    old, new, after = (
        torch.tensor([[10.0, 10], [4, 4]]),
        torch.tensor([[20.0, 20], [4, 4.5]]),
        torch.tensor([[18.0, 18], [4, 4]]),
    )
    assert script["stuck"](old, new, after) == [pytest.approx(0.2), None]
    assert script["less_stuck"]([0.4, 0.1, None])
    assert not script["less_stuck"]([0.4, 0.3])
    assert not script["less_stuck"]([0.05, 0.01])


def test_statements_on_dropout(run):
    rows, record = run("thaman_dropout.py", "--steps", 2, "--instances", 2)
    # Of the bundled study: negative interference without dropout too, and points at one half until dropout is large.
    assert rows["negative interactions, share of the squared products (sparsity 0.99)"]["verdict"] == "not confirmed"
    even = rows["features at the fractions of the known shapes, equal importance, sparsity 0.7"]
    assert even["verdict"] == "confirmed"
    assert np.shape(record["details"]["at_fractions_and_blurred"]["even"]) == (5, 8, 2)
    assert len(record["details"]["between"]) == 6
    # Hardly trained, no model has changed over.
    assert all(value is None or abs(value) < 50 for value in record["details"]["stuck_0.3_to_0.03"])


def test_losing_a_dimension_by_brute_force(functions):
    script = functions("thaman_dropout.py")
    models = load_toy(bundled_study("dropout") / "runs" / "even")
    own, _ = script["one_dimension_less"](models, 4, batches=1)
    learner = ToyLearner(models.config.replace(probability=(0.01,)))
    # One instance at dropout 0.1, one dimension after the other.
    inputs, (W, b) = learner.sampler.draw("held out", 0, 512)[2], (models.weights.W_in[34, 3], models.weights.b[34, 3])
    losses = []
    for gone in range(10):
        rest = torch.cat([W[:gone], W[gone + 1 :]])
        losses.append(float((torch.relu(rest.T @ (rest @ inputs) + b[:, None]) - inputs).square().mean()))
    assert float(own[2, 3]) == pytest.approx(np.mean(losses) / float(models.constant_loss[34]), rel=1e-4)


def test_neurons_that_change_over(functions):
    script = functions("arena_neurons.py")
    # A step, a slope over three stages, one that stays, one that comes back.
    shares = torch.tensor([[1.0, 1.0, 1.0, 0.5], [1.0, 0.8, 1.0, 0.5], [0.5, 0.7, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0]])
    assert script["widths"](shares) == (2, [1, 3])
    torch.testing.assert_close(
        script["largest_share"](torch.tensor([[3.0, 1.0], [0.0, 2.0]])), torch.tensor([0.9, 1.0])
    )


def test_a_hidden_bias_and_its_absence(functions):
    script = functions("arena_neurons.py")
    config = NeuronsStudy.trainings(False)["relu"].replace(probability=(0.5,), n_instances=2, n_kept=1, n_steps=3)
    linear = script["biased"](config, relu=False, bias=False)
    # Without a hidden ReLU there is none to take out.
    torch.testing.assert_close(linear.without, linear.loss)
    layer = script["biased"](config, relu=True, bias=True)
    assert not torch.allclose(layer.without, layer.loss)
    assert bool(((layer.positive > 0) & (layer.positive < 1)).all())


def test_instances_with_pairs_alone(functions):
    kinds = functions("arena_neurons.py")["kinds"]
    W_in = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    mixed = W_in + 0.8 * W_in.flip(1)
    weights = ToyWeights(torch.stack([W_in, mixed])[None], torch.stack([W_in.abs().T, mixed.abs().T])[None], torch.zeros(1, 2, 2))  # fmt: skip
    assert kinds(weights) == (0, 1, 1)


def test_statements_on_layers(run):
    rows, record = run("arena_neurons.py", "--steps", 2, "--stage", 1, "--instances", 2, "--motifs", 2)
    assert len(record["details"]["best_monosemantic"]) == 25
    assert np.shape(record["details"]["motif_pairs_neither"]) == (24, 3)
    # Hardly trained, no instance has a motif.
    assert rows["how often the motif is, by probability and importance"]["verdict"] == "not confirmed"


def test_corrections_of_a_motif_made_by_hand(functions):
    # Neuron 0 serves feature 0 (strong) and feature 1 (weak); neuron 1 takes away what feature 0 adds to output 1; neuron 3 writes
    # as negatively to output 1, but reads nothing.
    W_in = torch.tensor([[2.0, 0.5], [2.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    W_out = torch.tensor([[0.5, 0.0, 0.0, 0.0], [2.0, -2.0, 1.0, -2.0]])
    usual = AbsoluteStudy.trainings(False)["motif"]
    config = usual.replace(n_features=2, n_hidden=4, n_instances=1, n_kept=1).resolved()
    one = torch.zeros(1, 1)
    weights = ToyWeights(W_in[None, None], W_out[None, None], torch.zeros(1, 1, 2))
    models = ToyModels(config, weights, one.long(), one, one, torch.ones(1), {})
    ((intact, without, other, plain, plain_without, plain_other),) = functions("arena_neurons.py")["corrections"](models, 0).tolist()  # fmt: skip
    assert without > 2 * intact
    assert other == intact
    # As much is taken away as was added, so that the last ReLU has nothing to do.
    assert plain == pytest.approx(intact, abs=1e-6)
    assert (plain_without, plain_other) == (pytest.approx(without), plain)


def test_classes_of_features(functions):
    script = functions("thaman_tasks.py")
    # Dense features 0 and 1 have a dimension each; sparse feature 2 lies on feature 0, feature 3 is not there.
    found = script["company"](torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, 0]]))
    assert float(found["dense"]) == 0
    assert float(found["between"]) == 0.5
    assert found["sparse"].isnan()
    both = script["serves_both"](torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0.1], [0, 0, 0, 1]]))
    assert float(both) == pytest.approx(1 / 3)


def test_two_classes_have_their_probabilities(functions):
    script = functions("thaman_tasks.py")
    weights, losses = script["two_classes"](ToyConfig.of(n_features=6, n_hidden=2, n_instances=3, n_steps=2))
    assert weights.W_in.shape == (5, 3, 2, 6)
    assert bool((losses.diff(dim=1) >= 0).all())
    # Errors of the sparse class count for more and more.
    assert bool((losses[:, 0].diff() > 0).all())


def test_activations_are_swapped_where_it_is_said(functions):
    script = functions("thaman_tasks.py")
    models = load_toy(bundled_study("penalties") / "runs" / "gelu")
    assert torch.equal(
        script["treated"](models, len(L1), None), script["treated"](models, len(L1), torch.nn.functional.gelu)
    )
    found = script["swapped"](models, 0)
    # GELU and ReLU differ between -1 and 1; beyond, hardly.
    assert found["between -1 and 1"] > found["beyond"] > 0.95


def test_statements_on_tasks_and_activations(run):
    rows, record = run("thaman_tasks.py", "--steps", 1, "--instances", 1)
    assert set(record["details"]["represented"]) == {"relu", "gelu", "linear", "leaky_relu", "silu", "tanh", "solu"}
    assert rows["max: inputs of a neuron (effective number), 10 to 80 neurons"]["verdict"] != "confirmed"


def test_planes_and_components(functions):
    script = functions("pramodith_interference.py")
    plane = torch.eye(5)[:2]
    turned = torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) @ plane
    assert float(script["principal_angle"](plane, turned)) == pytest.approx(0, abs=1e-3)
    assert float(script["principal_angle"](plane, torch.eye(5)[[0, 3]])) == pytest.approx(90)
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5.0, 1, 1, 4])
    assert float(script["principal_angle"](script["components"](x), torch.eye(5)[[1, 4]])) < 5


def test_interference_by_sign(functions):
    script = functions("pramodith_interference.py")
    G = torch.tensor([[[1.0, 0.5, -0.5], [0.5, 1, 0], [-0.5, 0, 1]]])
    assert script["without"](G, 1)[0].tolist() == [[1, 0, -0.5], [0, 1, 0], [-0.5, 0, 1]]
    assert script["without"](G, -1)[0].tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert torch.equal(script["without"](G, 0)[0], torch.eye(3))
    x = torch.tensor([[1.0, 0, 0]])
    # Feature 0 alone: output 1 gets a half, output 2 minus a half, which ReLU removes.
    assert script["errors"](G, torch.zeros(1, 3), x, True)[0].tolist() == [0, 0.25, 0]
    assert script["errors"](G, torch.zeros(1, 3), x, False)[0].tolist() == [0, 0.25, 0.25]


def test_statements_on_interference(run):
    rows, record = run("pramodith_interference.py", "--steps", 1, "--instances", 2, "--three", 2)
    row = rows["error of an output with one other feature active that pushes it up (sparsity 0.9)"]
    assert row["ours"] > 100 * record["details"]["error_pushed_up_and_down"][1]
    # Hardly trained, a linear model represents what one with ReLU does.
    assert rows["features represented, by sparsity"]["verdict"] == "not confirmed"


@pytest.mark.slow
@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="REAL_DATA names no folder with MNIST")
def test_simplenet_in_the_recipe_of_the_source(run):
    rows, _ = run("simplenet_ranks.py", "--data", Path(os.environ["REAL_DATA"]) / "mnist", "--seeds", 2)
    assert rows["fc1: rank of the weights, its count, of 128"]["verdict"] == "confirmed"
    assert rows["fc2: rank of the weights, its count, of 64"]["verdict"] == "confirmed"
