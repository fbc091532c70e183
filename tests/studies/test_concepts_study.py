"""The command on word lists and on labels, of hooked models and of encoders: numbers, controls, pages, wrong requests."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

from mi_superposition.cli import main
from mi_superposition.concepts.words import STORY_CONCEPTS
from mi_superposition.errors import WorkError
from mi_superposition.models import load_model, weights_of
from mi_superposition.runs import content_hash, read_json
from mi_superposition.studies.concepts.findings import FINDINGS, STATES
from mi_superposition.studies.concepts.measure import measure_layer
from mi_superposition.studies.concepts.page import concepts_items
from mi_superposition.studies.concepts.section import BUNDLED, REAL, STORIES
from mi_superposition.studies.concepts.study import ConceptsRequest, load_findings, write_concepts_run
from mi_superposition.training import Stopped

QUICK = ["--random-lists", "2", "--random-probes", "1", "--permutations", "50", "--threads", "1"]
SMALL = ["--most", "2500", "--per-concept", "60", *QUICK]


LISTS = {name: list(STORY_CONCEPTS[name]) for name in ("positive", "negative", "animals", "outdoors")}


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Four of the bundled concepts as a file: what few sentences hold enough of."""
    file = tmp_path_factory.mktemp("lists") / "lists.json"
    file.write_text(json.dumps(LISTS))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory, lists):
    """The bundled model on some bundled stories, by the command."""
    out = tmp_path_factory.mktemp("concepts") / "run"
    assert main(["concepts", "--out", str(out), "--concepts", str(lists), *SMALL]) == 0
    return out


def reviews(folder, n=80):
    """Texts whose label a word tells, in the schema of SST-2."""
    words = {0: ("dull", "bad", "flat"), 1: ("good", "fine", "great")}
    rows = [(f"a {words[label][k % 3]} film number {k} and {k % 7} more", label) for k in range(n) for label in (0, 1)]
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    Dataset.from_dict(
        {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}, features=features
    ).to_parquet(folder / "reviews.parquet")
    return folder / "reviews.parquet"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small, fresh DistilBERT with a tokenizer of these words."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "number", "and", "more"]
    vocabulary += ["dull", "bad", "flat", "good", "fine", "great", *map(str, range(100))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(vocabulary), dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=32
    )
    DistilBertModel(config).save_pretrained(folder / "model")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "model")
    return folder / "model"


def test_what_the_command_leaves(run, lists, capsys):
    metrics = read_json(run / "metrics.json")
    assert metrics["chance"] == 0.25
    layers = ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post", "blocks.1.hook_resid_pre", "blocks.1.mlp.hook_post"]
    for layer in [*layers, "blocks.1.hook_resid_post"]:
        assert {
            f"{layer}.{name}"
            for name in ("probe", "nearest", "shuffled", "untrained.probe", "random.probe", "shared_units")
        } <= set(metrics)
        # Words that were held out are told by the trained model, and by none of its controls.
        assert metrics[f"{layer}.probe"] > 0.5
        assert metrics[f"{layer}.probe"] > metrics[f"{layer}.untrained.probe"] + 0.15
        assert abs(metrics[f"{layer}.random.probe"] - 0.25) < 0.15
        assert abs(metrics[f"{layer}.shuffled"] - 0.25) < 0.15
    html = (run / "page" / "concepts.html").read_text()
    for name in ("probes", "principal", "directions", "overlap", "simple-model", "simple-correlations"):
        assert f'data-figure="{name}-data"' in html
    assert not list(run.glob("pooled*"))
    assert main(["concepts", "--out", str(run), "--concepts", str(lists), *SMALL]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("finished already")
    # In the order in which the model runs them.
    assert [line.split()[0] for line in said.splitlines()[1:5]] == layers


def test_what_is_kept_is_what_was_found(run):
    findings = load_findings(run)
    assert findings.concepts == tuple(LISTS)
    found = findings.layers["trained"]["blocks.1.mlp.hook_post"]
    assert found.effects.shape == (4, 1024)
    assert found.shared.diagonal().tolist() == [20] * 4
    assert findings.metrics() == read_json(run / "metrics.json")
    links = {layer: {unit: f"neurons/L1N{unit}.html" for unit in range(1024)} for layer in findings.layers["trained"]}
    tables = [item for item in concepts_items(findings, pages=links) if item.id == "several"]
    assert all("neurons/" in row[0].address for row in tables[0].rows if row[0] != "none")


def test_stopped_anywhere_it_ends_with_the_same_bytes(run, lists, tmp_path):
    request = ConceptsRequest(
        concepts=str(lists), most=2500, per_concept=60, random_lists=2, random_probes=1, permutations=50, threads=1
    )
    for after in (5, 90):
        calls = itertools.count(1)
        with pytest.raises(Stopped):
            write_concepts_run(
                tmp_path / "run", request, should_stop=lambda calls=calls, after=after: next(calls) == after
            )
    assert write_concepts_run(tmp_path / "run", request)
    for name in (FINDINGS, "metrics.json", "page/concepts.html"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_labels_of_a_file_in_a_hooked_model(tmp_path, capsys):
    file = reviews(tmp_path)
    assert main(["concepts", "--corpus", str(file), "--out", str(tmp_path / "run"), *QUICK]) == 0
    said = capsys.readouterr().out
    assert "Concepts are the texts' labels" in said
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["chance"] == 0.5
    assert metrics["bag_of_words"] == 1
    assert metrics["blocks.1.hook_resid_post.probe"] > 0.9
    # Two labels are each other's rest: their units are the same, so nothing is said of sharing.
    assert not any("shared" in name for name in metrics)
    assert 'data-figure="overlap-data"' not in (tmp_path / "run" / "page" / "concepts.html").read_text()


def test_two_word_lists_may_share_units(tmp_path, capsys):
    (tmp_path / "lists.json").write_text(json.dumps({name: LISTS[name] for name in ("animals", "outdoors")}))
    options = ["--concepts", str(tmp_path / "lists.json"), "--out", str(tmp_path / "run"), *SMALL]
    assert main(["concepts", *options]) == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert "blocks.1.mlp.hook_post.shared_units" in metrics
    assert "blocks.1.mlp.hook_post.random.shared_units" in metrics
    assert 'data-figure="overlap-data"' in (tmp_path / "run" / "page" / "concepts.html").read_text()


def test_an_encoder_of_transformers(encoder, tmp_path):
    file = reviews(tmp_path)
    assert (
        main(["concepts", "--model", str(encoder), "--corpus", str(file), "--out", str(tmp_path / "run"), *QUICK]) == 0
    )
    findings = load_findings(tmp_path / "run")
    assert list(findings.layers["trained"]) == [
        "hidden_states.0",
        "transformer.layer.0.ffn.activation",
        "hidden_states.1",
        "transformer.layer.1.ffn.activation",
        "hidden_states.2",
    ]
    # Nothing in it was trained, and words can be told apart all the same.
    assert findings.layers["untrained"]["hidden_states.0"].probe > 0.9
    assert findings.word_layer == "hidden_states.1"


def test_a_layer_with_planted_concepts():
    """Units moved by several concepts are counted, and by chance no others."""
    from mi_superposition.concepts.material import by_words

    words = [("aa", "ab", "ac", "ad"), ("ba", "bb", "bc", "bd"), ("ca", "cb", "cc", "cd")]
    texts = [{word, f"x{k}"} for some in words for word in some for k in range(30)] + [{f"y{k}"} for k in range(200)]
    material = by_words(texts, words, names=["a", "b", "c"], per_concept=50, seed=0)
    points = torch.randn(len(texts), 100, generator=torch.Generator().manual_seed(0))
    for concept, some in enumerate(words):
        member = torch.tensor([bool(text & set(some)) for text in texts])
        units = {0: range(0, 8), 1: range(4, 12), 2: range(20, 28)}[concept]
        points[member] += 3 * torch.tensor([float(unit in units) for unit in range(100)])
    found = measure_layer(points, material, top_k=8, permutations=200, seed=0)
    assert found.shared.tolist() == [[8, 4, 0], [4, 8, 0], [0, 0, 8]]
    assert found.probe > 0.95
    assert found.nearest > 0.9
    assert abs(found.shuffled - 1 / 3) < 0.15
    assert max(one.p for one in found.separations) < 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--corpus", "nowhere.parquet"], "'nowhere.parquet' is not there"),
        (["--labels", "label"], "'stories' holds no labels"),
        (["--concepts", "nowhere.json"], "'nowhere.json' is not there"),
        (["--concepts", "sentiment"], "concept 'negative'"),
        (["--most", "50"], "texts hold one of"),
        (["--model", "addition"], "came without a tokenizer"),
        (["--model", "storis"], "did you mean 'stories'"),
        (["--top-k", "0"], "top_k = 0: must be at least 1"),
        (["--random-probes", "60"], "random_probes = 60: there are 50 random lists"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(options, said, tmp_path, capsys):
    assert main(["concepts", "--out", str(tmp_path / "run"), *options]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_wrong_files_are_one_line_and_leave_nothing(tmp_path, capsys):
    file = reviews(tmp_path)
    (tmp_path / "one.jsonl").write_text(
        "\n".join(json.dumps({"text": f"text {k}", "label": "same"}) for k in range(90))
    )
    (tmp_path / "few.jsonl").write_text("\n".join(json.dumps({"text": f"text {k}", "label": k % 5}) for k in range(90)))
    (tmp_path / "lists.json").write_text(json.dumps({"good": ["good", "fine"], "none": ["zeppelin", "quark"]}))
    for options, said in [
        (["--corpus", str(file), "--labels", "mood"], "has no column 'mood'"),
        (["--corpus", str(file), "--column", "text"], "has no column 'text'"),
        (["--corpus", str(file), "--concepts", "sentiment"], "texts go by their labels"),
        (["--corpus", str(tmp_path / "one.jsonl")], "have one label ('same')"),
        (["--corpus", str(tmp_path / "few.jsonl")], "label '0': 18 texts have it"),
        (
            ["--corpus", str(file), "--labels", "none", "--concepts", str(tmp_path / "lists.json")],
            "concept 'none': 0 texts hold",
        ),
    ]:
        assert main(["concepts", "--out", str(tmp_path / "run"), *options]) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_a_damaged_result(run, tmp_path):
    for name in ("manifest.json", FINDINGS):
        (tmp_path / name).write_bytes((run / name).read_bytes()[: 10**9 if name == "manifest.json" else 500])
    with pytest.raises(WorkError, match="findings.safetensors"):
        load_findings(tmp_path)


def test_what_is_bundled_is_of_the_bundled_model_and_what_its_page_says():
    """The table's numbers, and that the model they are of is the one that is loaded."""
    told = (Path(__file__).parents[2] / "docs" / "concepts.md").read_text()
    for name in (STORIES, *REAL):
        findings = load_findings(BUNDLED / name)
        trained, untrained = (findings.layers[state][findings.best(state)].probe for state in STATES)
        error = findings.error
        cells = [
            f"{trained:.3f} ± {error:.3f}",
            f"{untrained:.3f}",
            f"{findings.best_random:.3f}" if findings.by_words else "",
        ]
        assert f"| {' | '.join([*cells, f'{findings.bag_of_words:.3f}'])} |".replace("|  |", "| |") in told
        # What the text says: better than every control, but for the story model on reviews.
        rivals = [untrained, findings.best_random, findings.bag_of_words, findings.chance]
        assert (trained > max(rivals) + 2 * error) == (name != "sst2-labels-stories")
        model = read_json(BUNDLED / name / "manifest.json")["inputs"]["model"]
        if model["name"] == "stories":
            assert model["sha256"] == content_hash(weights_of(load_model("stories", device="cpu")))
