"""Pooling, directions, probes, overlap: brute force, planted concepts, and chance."""

import itertools
import math

import plotly.graph_objects as go
import pytest
import torch
from scipy.stats import ttest_ind
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from mi_superposition.concepts import (
    SimpleLanguageModel,
    bag_of_words_accuracy,
    balanced_accuracy,
    concept_directions,
    concept_effects,
    effect_sizes,
    masked_mean,
    mean_shared,
    pool_texts,
    principal_coordinates,
    probe_accuracy,
    separation,
    shared_units,
    top_units,
)
from mi_superposition.concepts.components import between_fraction, permuted_by_group, plane_variance
from mi_superposition.concepts.permutation import pair_separation
from mi_superposition.concepts.simple import (
    chance_magnitudes,
    correlations,
    mean_magnitude,
    word_correlations,
)
from mi_superposition.concepts.split import ConceptSplit, Side
from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.encoders import is_encoder, load_encoder

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "cat",
    "dog",
    "ran",
    "and",
    "was",
    "sad",
    "happy",
    "very",
    "the",
]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A small DistilBERT and a small BERT in Hugging Face layout, with a tokenizer."""
    root = tmp_path_factory.mktemp("encoders")
    (root / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(root / "vocab.txt"))
    torch.manual_seed(0)
    distil = DistilBertConfig(
        vocab_size=len(WORDS), dim=16, hidden_dim=24, n_layers=2, n_heads=2, max_position_embeddings=12
    )
    bert = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=12
    )  # fmt: skip
    for name, network in (("distilbert", DistilBertModel(distil)), ("bert", BertForMaskedLM(bert))):
        network.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def test_the_mean_leaves_padding_out():
    values = torch.tensor([[[1.0], [3.0], [math.nan]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert masked_mean(values, mask).flatten().tolist() == [2.0, 8.0]
    with pytest.raises(RequestError, match="text 1 of the batch has no tokens"):
        masked_mean(values, torch.tensor([[True, True, True], [False, False, False]]))


def test_a_hooked_models_texts_are_pooled_one_by_one(tiny_gpt2):
    model = tiny_gpt2.hooked
    texts = ["a cat ran to the dog", "play", "there was a dog and a cat and a dog", "a"]
    pooled = pool_texts(model, texts)
    assert next(iter(pooled)) == "blocks.0.hook_resid_pre"
    for number, text in enumerate(texts):
        # No padding, a beginning that is read and not counted.
        ids = [model.tokenizer.bos_token_id, *model.tokenizer(text, add_special_tokens=False).input_ids]
        _, cache = model.run_with_cache(torch.tensor([ids[: model.cfg.n_ctx]]))
        for name, values in pooled.items():
            torch.testing.assert_close(values[number], cache[name][0, 1:].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_positions_of_roberta_begin_behind_padding(encoders, tmp_path):
    tokenizer = BertTokenizerFast(str(encoders / "vocab.txt"))
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=14, pad_token_id=0,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert encoder.context == 13
    assert pool_texts(encoder, [" ".join(["cat"] * 40)])["hidden_states.1"].shape == (1, 16)


@pytest.mark.parametrize(("kind", "neurons"), [("distilbert", "ffn.activation"), ("bert", "intermediate")])
def test_an_encoders_texts_are_pooled_without_padding_and_special_tokens(encoders, kind, neurons):
    encoder = load_encoder(encoders / kind)
    texts = ["a cat ran", "the very sad dog and the happy cat ran", "dog", "a b c d e f g h i j k l m n o p q r s"]
    pooled = pool_texts(encoder, texts)
    assert [name for name in pooled if name.startswith("hidden_states")] == [f"hidden_states.{n}" for n in range(3)]
    assert pooled[next(name for name in pooled if name.endswith(neurons))].shape == (4, 24)
    for number, text in enumerate(texts):
        tokens = encoder.tokenizer(text, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            states = encoder.network(**tokens, output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            expected = state[0, 1:-1].mean(dim=0)
            torch.testing.assert_close(pooled[f"hidden_states.{layer}"][number], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RequestError, match=r"text 1 \(''\) has no tokens"):
        pool_texts(encoder, ["a cat", ""])


def test_what_is_an_encoder_and_what_is_not(encoders, tiny_gpt2, tmp_path):
    assert is_encoder(encoders / "bert")
    assert not is_encoder("stories")
    assert not is_encoder(tiny_gpt2.folder)
    with pytest.raises(RequestError, match="is no encoder: give a BERT"):
        load_encoder(tiny_gpt2.folder)
    untrained = load_encoder(encoders / "bert").untrained(0)
    weight = next(iter(untrained.network.state_dict().values()))
    assert torch.equal(weight, next(iter(load_encoder(encoders / "bert").untrained(0).network.state_dict().values())))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((encoders / "bert" / name).read_bytes())
    with pytest.raises(RequestError, match="came without a tokenizer"):
        load_encoder(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((encoders / "bert" / name).read_bytes())
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(WorkError, match="are damaged"):
        load_encoder(tmp_path / "bare")


def planted(n=600, d=30, strength=2.0, concepts=3):
    """Gaussian texts about a common mean far from zero; each concept adds along a direction of its own."""
    labels = torch.arange(n) % (concepts + 1) - 1
    directions = torch.linalg.qr(gaussian(d, concepts, seed=1)).Q.T
    points = gaussian(n, d) + 20 * gaussian(d, seed=2)
    for concept in range(concepts):
        points[labels == concept] += strength * directions[concept]
    return points, labels, directions


def test_planted_directions_are_found_and_the_common_mean_is_not():
    points, labels, directions = planted(n=4000, strength=3.0)
    found = concept_directions(points, labels, 3)
    assert float((found.directions * directions).sum(dim=1).min()) > 0.8
    cosines = found.cosines(points)
    for concept in range(3):
        assert float(cosines[labels == concept, concept].mean()) > 0.2
        assert float(cosines[labels != concept, concept].mean()) < 0.05
    # Without centring everything lies along everything.
    plain = torch.nn.functional.normalize(torch.stack([points[labels == c].mean(dim=0) for c in range(3)]), dim=1)
    assert float((torch.nn.functional.normalize(points, dim=1) @ plain.T).min()) > 0.95
    some = labels >= 0
    assert balanced_accuracy(cosines[some].argmax(dim=1), labels[some]) > 0.8


def test_a_concept_without_texts():
    points, labels, _ = planted()
    with pytest.raises(RequestError, match="concept 3 is that of 0 of 600 texts"):
        concept_directions(points, labels, 4)
    with pytest.raises(RequestError, match="concept 0 is that of 5 of 5 texts"):
        concept_directions(points[:5], torch.zeros(5, dtype=torch.long), 1)


def test_the_permutation_test_is_the_exact_one():
    """All 20 assignments of three of six texts, by hand."""
    scores = torch.tensor([3.0, 2.5, 1.0, 0.9, 0.2, 0.1])
    member = torch.tensor([True, True, False, True, False, False])
    found = separation(scores, member, permutations=20_000)
    differences = []
    for inside in itertools.combinations(range(6), 3):
        flags = torch.zeros(6, dtype=torch.bool)
        flags[list(inside)] = True
        differences.append(float(scores[flags].mean() - scores[~flags].mean()))
    exact = sum(value >= found.difference - 1e-6 for value in differences) / len(differences)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert (found.inside, found.outside) == pytest.approx((6.4 / 3, 1.3 / 3), rel=1e-5)


def test_under_no_effect_p_is_uniform():
    ps = [
        separation(gaussian(40, seed=seed), torch.arange(40) < 15, permutations=99, seed=seed).p for seed in range(300)
    ]
    assert sum(p <= 0.1 for p in ps) / len(ps) == pytest.approx(0.1, abs=0.05)
    assert min(ps) >= 0.01


def test_texts_of_one_word_count_once():
    """Two words told apart perfectly prove nothing, however many texts hold them."""
    scores = torch.cat([torch.ones(100), torch.zeros(100)])
    member = torch.arange(200) < 100
    assert separation(scores, member).p < 0.01
    assert separation(scores, member, groups=(torch.arange(200) >= 100).long()).p > 0.4
    with pytest.raises(RequestError, match="a group has texts of the concept and others"):
        separation(scores, member, groups=torch.zeros(200, dtype=torch.long))
    with pytest.raises(RequestError, match="200 of 200 texts are of the concept"):
        separation(scores, torch.ones(200, dtype=torch.bool))


def test_probes_find_what_is_there_and_nothing_else():
    points, labels, _ = planted(n=1200, strength=4.0)
    some = labels >= 0
    points, labels = points[some], labels[some]
    train, test = slice(0, 500), slice(500, None)
    assert probe_accuracy(points[train], labels[train], points[test], labels[test]) > 0.9
    noise = gaussian(len(points), 200, seed=5)
    assert probe_accuracy(noise[train], labels[train], noise[test], labels[test]) == pytest.approx(1 / 3, abs=0.08)
    with pytest.raises(RequestError, match="all 4 texts have the label 1: a probe needs two"):
        probe_accuracy(points[:4], torch.ones(4, dtype=torch.long), points[:4], labels[:4])


def test_words_alone():
    texts = [f"a {word} film" for word in ("good", "bad") for _ in range(20)]
    labels = torch.arange(40) // 20
    assert bag_of_words_accuracy(texts, labels, ["good one", "bad one"], torch.tensor([0, 1])) == 1.0
    assert bag_of_words_accuracy(texts, labels, ["fine", "poor"], torch.tensor([0, 1])) == 0.5
    # What defines the labels hides what else tells them, unless it is left out.
    texts = [f"{word} {hint}" for word, hint in (("good", "sun"), ("bad", "rain")) for _ in range(20)]
    held_out = (["a sun", "a rain"], torch.tensor([0, 1]))
    assert bag_of_words_accuracy(texts, labels, *held_out, without=["good", "bad"]) == 1.0


def test_effect_sizes_are_cohens():
    points, labels, _ = planted()
    member = labels == 0
    found = effect_sizes(points, member)
    t = ttest_ind(points[member].numpy(), points[~member].numpy(), axis=0).statistic
    n, m = int(member.sum()), int((~member).sum())
    torch.testing.assert_close(found, torch.from_numpy(t * math.sqrt(1 / n + 1 / m)).float(), rtol=1e-3, atol=1e-4)
    points[:, 3] = 1.0
    assert float(effect_sizes(points, member)[3]) == 0
    with pytest.raises(RequestError, match="1 of 600 texts are of the concept"):
        effect_sizes(points, torch.arange(600) == 0)


def test_shared_units_by_hand():
    effects = torch.tensor([[5.0, -4.0, 1.0, 0.0], [0.1, 3.0, -2.0, 0.0], [0.0, 0.1, 0.3, 9.0]])
    top = top_units(effects, 2)
    assert [set(units) for units in top.tolist()] == [{0, 1}, {1, 2}, {2, 3}]
    assert shared_units(top).tolist() == [[2, 1, 0], [1, 2, 1], [0, 1, 2]]
    with pytest.raises(RequestError, match="k = 5: must be 1 to 4"):
        top_units(effects, 5)


def test_noise_shares_what_random_sets_do():
    """Concepts that are nothing, measured as the study does: no more shared units than k * k / n."""
    n, k, units = 4, 20, 200
    found = []
    for seed in range(30):
        labels = torch.arange(400) % (n + 4)
        labels[labels >= n] = -1
        texts = torch.arange(400)
        side = Side(texts[:200], labels[:200], texts[:200])
        split = ConceptSplit(n, side, Side(texts[200:], labels[200:], texts[200:]))
        found.append(mean_shared(shared_units(top_units(concept_effects(gaussian(400, units, seed=seed), split), k))))
    assert sum(found) / len(found) == pytest.approx(k * k / units, rel=0.1)


def test_principal_coordinates():
    points = gaussian(50, 8) * torch.tensor([5.0, 3.0, *[0.1] * 6])
    coordinates, explained = principal_coordinates(points)
    assert float(explained.sum()) > 0.99
    centred = points - points.mean(dim=0)
    torch.testing.assert_close(
        torch.cdist(coordinates, coordinates), torch.cdist(centred, centred), rtol=0.05, atol=0.5
    )
    labels = torch.arange(50) % 2
    assert between_fraction(torch.stack([labels.float(), labels.float()], dim=1), labels) == pytest.approx(1)
    assert between_fraction(coordinates, labels) < 0.2


def test_groups_are_permuted_whole():
    groups = torch.arange(60) // 5
    labels = (groups // 4).long()
    permuted = permuted_by_group(labels, groups, 0)
    assert all(len(permuted[groups == group].unique()) == 1 for group in range(12))
    assert permuted.bincount().tolist() == labels.bincount().tolist()
    assert not torch.equal(permuted, labels)


def test_the_simple_model_is_noise():
    """Its correlations are those of any other seed."""
    model = SimpleLanguageModel(12, seed=3)
    assert torch.equal(model.embedding.weight, SimpleLanguageModel(12, seed=3).embedding.weight)
    expected = torch.relu(model.embedding.weight @ model.linear.weight.T + model.linear.bias)
    torch.testing.assert_close(model.hidden(), expected.detach())
    rows = gaussian(4, 9)
    torch.testing.assert_close(correlations(rows), torch.corrcoef(rows), rtol=1e-4, atol=1e-5)
    sizes = chance_magnitudes(12, 10, 5, seeds=200)
    share = float((sizes <= mean_magnitude(correlations(model.hidden()))).float().mean())
    assert 0.005 < share < 0.995


def test_the_plane_beside_its_controls():
    labels, groups = torch.arange(60) // 20, torch.arange(60) // 5
    points = gaussian(60, 2) + 3 * labels[:, None]
    plane = plane_variance(points, gaussian(60, 2, seed=1), labels, groups)
    assert plane.trained == between_fraction(points, labels) > max(plane.permuted)
    assert len(plane.permuted) == 100
    assert plane.untrained < 0.2
    assert plane.permuted_mean == pytest.approx(sum(plane.permuted) / 100)


def test_words_of_one_concept_are_compared_with_words_of_two():
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    matrix = torch.where(owner[:, None] == owner[None, :], 0.9, 0.1)
    found = pair_separation(matrix, owner)
    assert (found.inside, found.outside) == pytest.approx((0.9, 0.1))
    assert found.p < 0.2
    words = {"a": ("aa", "ab"), "b": ("ba", "bb"), "c": ("ca", "cb")}
    trained = torch.eye(3).repeat_interleave(2, dim=0) + 0.01 * gaussian(6, 3)
    measured = word_correlations(words, "layer", trained, gaussian(6, 3))
    assert measured.all_words == ["aa", "ab", "ba", "bb", "ca", "cb"]
    assert measured.trained_separation.difference > 1
    assert measured.simple.shape == measured.untrained.shape == (6, 6)
    assert (len(measured.chance_magnitudes), len(measured.chance_separations)) == (1000, 200)


def test_directions_as_a_result():
    points, labels, _ = planted()
    found = concept_directions(points, labels, 3)
    assert "3 concept directions in 30 dimensions" in repr(found)
    assert found.to_frame().shape == (3, 3)
    assert isinstance(found.plot(), go.Figure)


def test_tokens_are_pooled_as_the_texts_they_stand_for(tiny_gpt2):
    model, texts = tiny_gpt2.hooked, ["a cat ran", "there was a dog, and it ran away", "a"]
    wanted = pool_texts(model, texts)
    rows = [model.to_tokens(text)[0] for text in texts]
    for given in (model.to_tokens(texts), rows):
        found = pool_texts(model, given)
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)


def test_what_is_no_text_of_its_own_is_not_pooled(tiny_gpt2, encoders):
    model = tiny_gpt2.hooked
    with pytest.raises(RequestError, match="a text takes several rows"):
        pool_texts(model, token_batches(["a cat ran " * 30], model.tokenizer, 2, 8))
    with pytest.raises(RequestError, match="an encoder reads texts"):
        pool_texts(load_encoder(encoders / "bert"), model.to_tokens("a cat"))
    with pytest.raises(RequestError, match="no texts: give at least one"):
        pool_texts(model, [])
    with pytest.raises(RequestError, match=r"texts = 'a cat': give a list of texts"):
        pool_texts(model, "a cat")


def test_some_batches_of_a_corpus_are_pooled_in_their_order(tiny_gpt2):
    model, texts = tiny_gpt2.hooked, ["a cat ran", "there was a dog", "an owl", "play"]
    batches = list(token_batches(texts, model.tokenizer, 2, 32, prepend_bos=True))
    found, wanted = pool_texts(model, batches[1:]), pool_texts(model, texts[2:])
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-4)
