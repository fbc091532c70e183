"""The command on word lists and on labels, of hooked models and of encoders: numbers, controls, pages, wrong requests."""

import itertools
import json
import math

import plotly.graph_objects as go
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

from mi_superposition.cli import main
from mi_superposition.concepts.config import ConceptsConfig
from mi_superposition.concepts.words import STORY_CONCEPTS
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json
from mi_superposition.progress import Progress
from mi_superposition.studies.concepts.measure import RESULT, load, measure, middle_layer
from mi_superposition.training import Stopped

QUICK = ["--random-lists", "2", "--random-probes", "1", "--permutations", "50", "--threads", "1"]
SMALL = ["--documents", "1800", "--per-concept", "50", *QUICK]

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
    layers += ["blocks.1.hook_resid_post"]
    for layer in layers:
        assert {
            f"{layer}.{name}"
            for name in ("probe", "nearest", "shuffled", "untrained.probe", "random.probe", "shared_units")
        } <= set(metrics)
        # The trained model's probe recognises words that were held out, and none of its controls does.
        assert metrics[f"{layer}.probe"] > 0.5
        assert metrics[f"{layer}.probe"] > metrics[f"{layer}.untrained.probe"] + 0.1
        assert abs(metrics[f"{layer}.random.probe"] - 0.25) < 0.15
        assert abs(metrics[f"{layer}.shuffled"] - 0.25) < 0.15
    html = (run / "page" / "concepts.html").read_text()
    for name in ("probes", "principal", "directions", "overlap", "simple-model", "simple-correlations"):
        assert f'data-figure="{name}-data"' in html
    assert not list(run.glob("pooled*"))
    before = {name: (run / name).read_bytes() for name in (RESULT, "metrics.json", "manifest.json")}
    assert main(["concepts", "--out", str(run), "--concepts", str(lists), *SMALL]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("finished already")
    # In the order in which the model runs them, below the headings.
    assert [line.split()[0] for line in said[2:7]] == layers
    assert {name: (run / name).read_bytes() for name in before} == before


def test_the_result_read_again(run):
    result = load(run)
    assert result.concepts == tuple(LISTS)
    measured = result.trained["blocks.1.mlp.hook_post"]
    assert measured.effects.shape == (4, 1024)
    assert measured.shared.diagonal().tolist() == [20] * 4
    numbers = read_json(run / "metrics.json")
    assert result.metrics() == {name: value for name, value in numbers.items() if not name.startswith("corpus/")}
    assert numbers["corpus/documents"] == 2500
    assert result.words.all_words == [word for some in LISTS.values() for word in some[:5]]
    assert result.words.layer == "blocks.1.hook_resid_pre"


def test_what_a_result_can_do(run):
    result = load(run)
    assert len(repr(result)) < 400
    assert "chance 0.250" in repr(result)
    assert "<table" in result._repr_html_()
    frame = result.to_frame()
    assert list(frame.index) == list(result.trained)
    assert frame["probe"].tolist() == [one.probe for one in result.trained.values()]
    assert {"probe_random_lists", "shared_units", "shared_units_random_lists"} <= set(frame.columns)
    assert isinstance(result.plot(), go.Figure)


def test_the_page_again(run, tmp_path):
    assert main(["page", str(run), "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "concepts.html").read_bytes() == (run / "page" / "concepts.html").read_bytes()


class StopsAt(Progress):
    """Asked to stop at one of the questions whether to."""

    def __init__(self, question):
        self.question, self.asked = question, itertools.count(1)

    def should_stop(self):
        return next(self.asked) == self.question


@pytest.mark.slow
def test_stopped_anywhere_it_ends_with_the_same_bytes(run, lists, tmp_path):
    config = ConceptsConfig().replace(
        concepts=str(lists), documents=1800, per_concept=50, random_lists=2, random_probes=1, permutations=50, threads=1
    )
    # Among the texts, and among the layers.
    for question in (5, 90):
        with pytest.raises(Stopped):
            measure(config, tmp_path / "run", StopsAt(question))
    assert not measure(config, tmp_path / "run").finished_already
    for name in (RESULT, "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_a_run_of_version_01(run, lists, tmp_path, capsys):
    """Its options have their names of today; its result was stored otherwise and is refused in a line."""
    manifest = read_json(run / "manifest.json")
    options = manifest["config"]
    old = {**options, "most": options["documents"], "top_k": options["units_per_concept"]}
    manifest["format"], manifest["config"] = (
        1,
        {k: v for k, v in old.items() if k not in ("documents", "units_per_concept")},
    )
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "metrics.json").write_bytes((run / "metrics.json").read_bytes())
    (tmp_path / RESULT).write_bytes((run / RESULT).read_bytes().replace(b'"record"', b'"findin"', 1))
    small = ["--most" if word == "--documents" else word for word in SMALL]
    for command in (
        ["page", str(tmp_path)],
        ["concepts", "--concepts", str(lists), "--out", str(tmp_path), "--top-k", "20", *small],
    ):
        assert main(command) == 2
        assert "was written by an older version" in capsys.readouterr().err
    # The names of its options stay, and mean the same.
    assert main(["concepts", "--concepts", str(lists), "--out", str(run), "--top-k", "20", *small]) == 0


def test_labels_of_a_file_in_a_hooked_model(tmp_path, capsys):
    file = reviews(tmp_path)
    assert main(["concepts", "--corpus", str(file), "--out", str(tmp_path / "run"), *QUICK]) == 0
    said = capsys.readouterr().out
    assert "2 concepts in stories: balanced accuracy of a linear probe" in said
    result = load(tmp_path / "run")
    assert result.words is None
    assert not result.shares_units
    assert math.isnan(result.trained["blocks.0.mlp.hook_post"].mean_shared)
    assert not [name for name in result.to_frame().columns if "shared" in name or "random" in name]
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["chance"] == 0.5
    assert metrics["bag_of_words"] == 1
    assert metrics["blocks.1.hook_resid_post.probe"] > 0.9
    # Two labels are each other's complement: their units are the same, so nothing is said of sharing.
    assert not any("shared" in name for name in metrics)
    assert 'data-figure="overlap-data"' not in (tmp_path / "run" / "page" / "concepts.html").read_text()


@pytest.mark.slow
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
    result = load(tmp_path / "run")
    assert list(result.trained) == [
        "hidden_states.0",
        "transformer.layer.0.ffn.activation",
        "hidden_states.1",
        "transformer.layer.1.ffn.activation",
        "hidden_states.2",
    ]
    # Nothing in it was trained, and words can be distinguished all the same.
    assert result.untrained["hidden_states.0"].probe > 0.9
    assert middle_layer(list(result.trained)) == "hidden_states.1"
    # And again by its manifest.
    assert (
        main(["concepts", "--config", str(tmp_path / "run" / "manifest.json"), "--out", str(tmp_path / "again")]) == 0
    )
    for name in (RESULT, "metrics.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--corpus", "nowhere.parquet"], "'nowhere.parquet' is not there"),
        (["--labels", "label"], "'stories' holds no labels"),
        (["--concepts", "nowhere.json"], "'nowhere.json' is not there"),
        (["--concepts", "sentiment"], "concept 'negative'"),
        (["--documents", "50"], "texts hold one of"),
        (["--documents", "0"], "documents = 0: must be at least 1"),
        (["--model", "addition"], "came without a tokenizer"),
        (["--model", "storis"], "did you mean 'stories'"),
        (["--units-per-concept", "0"], "units_per_concept = 0: must be at least 1"),
        (["--random-probes", "60"], "random_probes = 60: must be at most random_lists = 50"),
        (["--concepts", "stories", "--labels", "mood"], "give --labels none to use word lists"),
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
        (["--corpus", str(file), "--concepts", "sentiment"], "the texts have labels; give --labels none"),
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
    for name in ("manifest.json", RESULT):
        (tmp_path / name).write_bytes((run / name).read_bytes()[: 10**9 if name == "manifest.json" else 500])
    with pytest.raises(WorkError, match=RESULT):
        load(tmp_path)
    with pytest.raises(RequestError, match="is not a run folder"):
        load(tmp_path / "nowhere")
