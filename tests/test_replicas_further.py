"""Replicas of what the sources leave open or say without a number: their measures by hand or by brute force, each script at a small size."""

import itertools
import re

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pictures
from sklearn.metrics import roc_auc_score
from test_replicas import beside, functions, run  # noqa: F401

from mi_superposition.neurons.config import ContextsConfig
from mi_superposition.parts import DevicePart, ModelPart, TextPart
from mi_superposition.studies.neurons.contexts import measure

TEXT = "\n".join(
    f"Once upon a time there was a cat number {number}. The dog ran to the cat and they sat." for number in range(40)
)


def drawn(digit, variant, generator):
    """A digit in rough strokes: 8 as two rings, some twos and fours with a ring, all with a faint background."""
    image = generator.integers(0, 60, (28, 28), dtype=np.uint8)

    def ring(top, left):
        image[top : top + 8, left : left + 8] = 255
        image[top + 2 : top + 6, left + 2 : left + 6] = 0

    if digit in (0, 6, 8, 9) or (digit in (2, 4) and variant % 2):
        ring(3, 8)
    if digit == 8:
        ring(9, 8)
    image[20:22, 4 : 6 + 2 * digit] = 255
    return image


@pytest.fixture
def digits(tmp_path):
    """A folder with a few dozen digits in the layout of MNIST."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        images = [Pictures.fromarray(drawn(number // 13, number % 13, generator)) for number in range(130)]
        features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
        table = Dataset.from_dict(
            {"image": images, "label": [number // 13 for number in range(130)]}, features=features
        )
        table.to_parquet(str(tmp_path / f"{split}.parquet"))
    return tmp_path


def test_losses_as_small_as_printed(functions):  # noqa: F811
    as_small = functions("simplenet_losses.py")["as_small"]
    losses = np.full((2, 2, 60), 1.0)
    # Of 100 losses of the last batches of the first epoch one is as small as its 0.0020; earlier batches do not count.
    losses[1, 0, -1] = 0.002
    losses[0, 1, 5] = 0.0
    assert as_small(losses) == [0.01, 0.0]


def test_losses_at_a_small_size(run, digits):  # noqa: F811
    rows, record = run("simplenet_losses.py", "--data", digits, "--seeds", 2, "--epochs", 2, "--runs", 2)
    assert np.shape(record["details"]["last_losses"]) == (2, 2, 2, 3)
    # So few steps leave losses near log 10.
    assert rows["loss of the last batch of epoch 1"]["verdict"] == "refuted"
    assert sum("the printed losses fit best here" in row["why"] for row in rows.values()) == 0


def test_areas_are_those_of_scikit_learn(functions):  # noqa: F811
    script = functions("simplenet_neurons.py")
    generator = torch.Generator().manual_seed(0)
    # Rounded, so that there are ties.
    values, labels = torch.randn(200, 4, generator=generator).round(decimals=1), torch.arange(200) % 10
    sums, counts = script["rank_sums"](values, labels), np.bincount(labels.numpy())
    for group in ((3,), (0, 6, 8, 9)):
        expected = [roc_auc_score(np.isin(labels, group), column) for column in values.T.numpy()]
        np.testing.assert_allclose(script["areas"](sums, counts, group), expected)
    values[:, 0] = torch.isin(labels, torch.tensor([1, 4, 7])).float()
    sums = script["rank_sums"](values, labels)
    assert script["standing_for"](sums, counts, [(1, 4, 7)]) == 1
    assert script["standing_for"](sums, counts, [(1, 4)]) == 0
    parted = script["partitions"]()
    assert len({tuple(sorted(some)) for some in parted}) == 2100
    assert all(sorted(itertools.chain(*some)) == list(range(10)) for some in parted)


def test_digits_per_neuron_and_cancelled_weights(functions):  # noqa: F811
    script = functions("simplenet_neurons.py")
    labels = torch.arange(100) % 10
    values = torch.stack([(labels == 3).float(), torch.ones(100), (labels < 2).float(), torch.zeros(100)], dim=1)
    torch.testing.assert_close(
        script["classes"](values, labels),
        torch.tensor([1.0, 10.0, 2.0, torch.nan], dtype=torch.float64),
        equal_nan=True,
    )
    weight = torch.tensor([[1.0, -1.0, 2.0, -2.0], [1.0, 1.0, 1.0, 1.0], [3.0, -1.0, 0.0, 0.0]])
    torch.testing.assert_close(script["cancelled"](weight), torch.tensor([1.0, 0.0, 0.5]))
    assert script["largest_cosine"](weight) == pytest.approx(4 / (10 * 10) ** 0.5, abs=1e-6)


def test_places_of_digits(functions):  # noqa: F811
    script = functions("digit_places.py")
    eight = drawn(8, 0, np.random.default_rng(0)) / 255
    # Rings around (6.5, 11.5) and (12.5, 11.5).
    assert sorted(script["holes"](eight)) == [(6.5, 11.5), (12.5, 11.5)]
    assert tuple(script["crossing"](eight)) == (9.5, 11.5)
    assert script["crossing"](drawn(0, 0, np.random.default_rng(0)) / 255) is None
    assert script["bowl"](drawn(5, 0, np.random.default_rng(0)) / 255) == (21.0, 15.0)
    assert script["disc"]((5, 5), (11, 11)).sum() == 29
    ink = torch.zeros(2, 30, dtype=torch.bool)
    ink[0, :20] = ink[1, 3] = True
    taken = script["top_ink"](torch.arange(30.0).expand(2, -1), ink)
    assert taken.nonzero().tolist() == [[0, 18], [0, 19], [1, 3]]


def test_a_heat_map_is_exact_for_a_linear_network(functions):  # noqa: F811
    heat = functions("digit_places.py")["heat"]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 10, bias=False))
    images, labels = torch.rand(4, 1, 3, 3), torch.tensor([1, 5, 5, 0])
    logits = network(images - images.min())
    added = logits.gather(1, labels[:, None])[:, 0] - logits.mean(dim=1)
    torch.testing.assert_close(heat(network, images, labels).sum(dim=1), added.detach())


def test_neurons_at_a_small_size(run, digits):  # noqa: F811
    rows, record = run("simplenet_neurons.py", "--data", digits, "--seeds", 2, "--epochs", 2)
    assert set(record["details"]["states"]) >= {"trained", "labels permuted", "untrained", "random ink"}
    assert rows["fc1: share of a neuron's weights that others cancel"]["source"] == "regions cancel out"
    kurtosis = record["details"]["states"]["untrained"]["fc1: kurtosis"]
    assert kurtosis == pytest.approx([-1.2, -1.2], abs=0.02)


def test_no_neuron_is_shared_where_none_is(functions):  # noqa: F811
    script = functions("stringer_generalisation.py")
    for kind in script["KINDS"]:
        networks = script["Nets"](kind, 2, 16, 0)
        x = torch.rand(1, 5, 16)
        networks(x)[0, :, 3].sum().backward()
        # Which neurons of the second layer matter to digit 3, and how many connections each has.
        mattering = networks.biases[1].grad[0, 0].nonzero().flatten().tolist()
        connections = networks.masks.second.sum(dim=2)
        if kind == "none shared":
            assert set(mattering) <= set(range(18, 24))
        if kind != "shared":
            assert (connections == 12).all()
            assert (networks.masks.output.sum(dim=2) == 6).all()


def test_toy_features_with_a_dimension_each_do_not_interfere(functions):  # noqa: F811
    bottlenecks = functions("stringer_generalisation.py")["bottlenecks"]
    apart, free = (bottlenecks(kind, 200, 2, 300) for kind in ("a dimension each", "free"))
    assert max(apart.interference) < 1e-6 < min(free.interference)
    assert max(apart.represented) <= 5


def test_generalisation_at_a_small_size(run, digits):  # noqa: F811
    options = ["--nets", 2, "--steps", 5, "--toy-steps", 5, "--sizes", 20]
    rows, record = run("stringer_generalisation.py", "--data", digits, *options)
    assert len(record["details"]["none shared, 20"]["unseen"]) == 2
    assert len(rows) == 2


def test_matched_features(functions):  # noqa: F811
    matched = functions("sae_sentences.py")["matched"]
    directions = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    turned = directions[torch.randperm(6)] * torch.tensor([-2.0, 1, 3, 1, -1, 1])[:, None]
    assert matched(directions, turned) == pytest.approx(1, abs=1e-6)
    assert matched(torch.eye(4)[:2], torch.eye(4)[2:]) == 0


def test_sentences_at_a_small_size(run, tiny_gpt2):  # noqa: F811
    rows, record = run("sae_sentences.py", "--model", tiny_gpt2.folder, "--seeds", 2)
    assert rows["of the three more sentences one repeats the first"]["ours"] == "2 of 4 lines are the first"
    assert len(record["details"]["losses"]) == 3
    assert len(record["details"]["other_sentence"]) == 2


def test_a_words_meanings(functions):  # noqa: F811
    script = functions("words_in_context.py")
    states = torch.eye(4)[torch.tensor([0, 0, 0, 1, 1, 2])]
    split = script["split_of"](states)
    # Within: three pairs of the first meaning, one of three of the second; between: none.
    assert split == (pytest.approx(4 / 6), 0.0)
    assert len(script["SENTENCES"]) == 10
    assert all(len(some) == 3 for both in script["SENTENCES"].values() for some in both)


def test_words_at_a_small_size(run, tiny_gpt2):  # noqa: F811
    rows, record = run("words_in_context.py", "--model", tiny_gpt2.folder, "--seeds", 1)
    assert np.shape(record["details"]["gaps"]) == (3, 10)
    # Before the first layer it is the same token, but in the other place.
    assert rows["before layer 0: cosine of 'bark' in the source's two sentences"]["verdict"] == "ours"


def test_measures_of_features(functions):  # noqa: F811
    measures = functions("feature_measures.py")
    tokens = torch.arange(40) % 4
    acts = torch.zeros(40, 4)
    acts[:, 0] = (tokens == 2).float()
    acts[:, 1] = 1.0
    acts[:, 2] = (tokens < 2).float()
    # Active on too few tokens to be judged.
    acts[0, 3] = 1.0
    assert measures["words"](acts, tokens) == (pytest.approx(1 / 3), 2.0)
    divided = measures["shares"](acts, tokens)
    torch.testing.assert_close(divided[:, 2], torch.tensor([0.5, 0.5, 0, 0]))
    assert measures["related"](divided, torch.tensor([1, 2, 1, 3])) == pytest.approx((0.25 + 0.5 + 0.5) / 3)
    values = torch.tensor([3.0, 1.0, 2.0, 9.0])
    assert measures["partners"](values).tolist() == [3, 2, 0, 1]
    assert (measures["partners"](values, torch.Generator()) != torch.arange(4)).all()


def test_the_best_linear_estimate_of_noisy_activations(functions):  # noqa: F811
    measures = functions("feature_measures.py")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 3
    noisy = x + 0.5 * torch.randn(x.shape, generator=generator)
    linear = measures["Linear"].of(x)
    # By regression of the clean activations on the noisy ones.
    ones = torch.cat([noisy, torch.ones(len(x), 1)], dim=1)
    fitted = ones @ torch.linalg.lstsq(ones, x).solution
    errors = [float((made - x).square().mean()) for made in (linear.wiener(noisy, 0.25), fitted, noisy)]
    assert errors[1] <= errors[0] < 1.02 * errors[1] < errors[2]
    torch.testing.assert_close(linear.first(x, 6), x, atol=1e-4, rtol=1e-4)


def test_every_state_once_before_any_comes_again(functions):  # noqa: F811
    script = functions("sae_features.py")
    states = torch.arange(2048.0)[:, None]
    stream = script["Shuffled"]("hook", states, 0)
    first = [stream.batch(index)["hook"] for index in range(4)]
    for turn in (first[:2], first[2:]):
        assert torch.equal(torch.cat(turn).sort(dim=0).values, states)
    assert not torch.equal(first[0], first[2])
    assert torch.equal(stream.batch(1)["hook"], first[1])


def test_features_of_a_small_model(functions, tiny_gpt2, tmp_path, monkeypatch):  # noqa: F811
    script = functions("sae_features.py")
    (tmp_path / "text.txt").write_text(TEXT.replace("\n", "<|endoftext|>"))
    setting = script["Setting"](
        "tiny", str(tiny_gpt2.folder), "blocks.1.hook_resid_pre", (1, 2), 2, 1, 1024, 3, 40, k=4
    )
    work = tmp_path / "work"
    work.mkdir()
    found = script["measured"](setting, tmp_path / "text.txt", tmp_path / "text.txt", work)
    assert sorted(path.name for path in work.iterdir() if path.is_dir()) == [
        f"tiny-{kind}-{time}-0" for kind in ("shuffled", "trained") for time in (1, 2)
    ]
    assert found.untrained[2] > found.untrained[1]
    rows = script["_rows"](setting, found)
    assert all(row.claim.startswith("tiny: ") for row in rows)
    assert len({row.claim for row in rows}) == len(rows)
    # A second time nothing is trained, and all is the same.
    assert script["measured"](setting, tmp_path / "text.txt", tmp_path / "text.txt", work) == found


def test_nearly_orthogonal_vectors(functions):  # noqa: F811
    script = functions("pramodith_directions.py")
    vectors = script["nearly_orthogonal"](12, torch.Generator().manual_seed(0))
    cosines = (vectors @ vectors.T).abs().fill_diagonal_(0)
    assert float(cosines.max()) <= script["COSINE"] + 1e-6
    # In four dimensions the bound of Welch says at most five, and there are some at least.
    assert 1 < len(script["nearly_orthogonal"](4, torch.Generator().manual_seed(0))) <= script["welch"](4)
    assert script["fit"](np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 9.0])) == (
        pytest.approx(2),
        pytest.approx(0, abs=1e-9),
    )


def test_directions_at_a_small_size(run, tiny_gpt2, tmp_path):  # noqa: F811
    words, draw = sorted(set(TEXT.split())), np.random.default_rng(0)
    # Unlike each other: near-duplicates give no examples.
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(" ".join(draw.choice(words, 30)) for _ in range(60)))
    config = ContextsConfig(
        model=ModelPart(str(tiny_gpt2.folder)), text=TextPart(corpus=str(tmp_path / "text.txt"), documents=60),
        random_directions=20, device=DevicePart("cpu"),
    )  # fmt: skip
    measure(config, tmp_path / "contexts")
    rows, record = run(
        "pramodith_directions.py", "--contexts", tmp_path / "contexts", "--seeds", 1, "--dimensions", 4, 8, 12
    )
    assert rows["8 dimensions: random vectors with cosines of at most 0.3"]["control"].startswith(
        "8 exactly orthogonal"
    )
    assert sum("units with fewer than" in claim for claim in rows) == 4
    assert all(0 <= one["share"] <= 1 for one in record["details"]["neurons"].values())


def test_similarities_that_agree(functions):  # noqa: F811
    agreement = functions("thaman_orders.py")["agreement"]
    matrix = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.T
    assert agreement(matrix, -2 * matrix) == (pytest.approx(1), 1.0)
    assert agreement(matrix, 1 / (1 + matrix.abs())).spearman == pytest.approx(-1)


def test_orders_at_a_small_size(run, tiny_gpt2):  # noqa: F811
    options = ["--model", tiny_gpt2.folder, "--documents", 5, "--samples", 2, "--seconds", 0, "--only", "W_O, layer 1"]
    rows, record = run("thaman_orders.py", *options)
    assert set(record["details"]) == {"W_O, layer 1", "activations, layer 0", "activations, layer 1"}
    assert all(re.search(r"z [+-]", row["ours"]) for claim, row in rows.items() if "order score," in claim)
    kinds = record["details"]["activations, layer 0"]["controls"]
    assert set(kinds) == {"activations shifted in position", "untrained initialisation", "same row norms and spectrum"}
