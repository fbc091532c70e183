import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from fake_hub import into_hub_cache

from mi_superposition.corpora.labelled import columns_of, load_labelled_texts
from mi_superposition.errors import RequestError, WorkError

ROWS = [("a good film", 1), ("a bad film", 0), ("a good film ", 1), ("", 1), ("so so", 0)]


@pytest.fixture
def sst2(tmp_path):
    features = Features(
        {"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"]), "idx": Value("int32")}
    )
    rows = {"sentence": [text for text, _ in ROWS], "label": [label for _, label in ROWS], "idx": list(range(5))}
    folder = tmp_path / "sst2"
    folder.mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


def test_parquet_with_class_labels(sst2):
    found = load_labelled_texts(sst2 / "train.parquet")
    # Copies count once, empty texts not at all.
    assert found.texts == ("a good film", "a bad film", "so so")
    assert found.labels == (1, 0, 0)
    assert found.classes == ("negative", "positive")
    assert load_labelled_texts(sst2 / "train.parquet", limit=2).texts == ("a good film", "a bad film")
    assert columns_of(sst2 / "train.parquet") == ("sentence", "label", "idx")
    assert columns_of("stories") == ()


def test_lines_and_tables_with_words_as_labels(tmp_path):
    rows = [{"text": "rain again", "mood": "sad"}, {"text": "sun again", "mood": "glad"}]
    (tmp_path / "moods.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "moods.csv").write_text("text,mood\nrain again,sad\nsun again,glad\n")
    for name in ("moods.jsonl", "moods.csv"):
        found = load_labelled_texts(tmp_path / name, label_column="mood")
        assert (found.classes, found.labels) == (("glad", "sad"), (1, 0))
        assert columns_of(tmp_path / name) == ("text", "mood")


def test_a_dataset_of_the_hub_cache(sst2, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    into_hub_cache(tmp_path / "hub", "stanfordnlp/sst2", sst2, kind="datasets")
    found = load_labelled_texts("stanfordnlp/sst2")
    assert found.texts == load_labelled_texts(sst2 / "train.parquet").texts
    with pytest.raises(RequestError, match="has no split 'test'"):
        load_labelled_texts("stanfordnlp/sst2", split="test")
    assert columns_of("stanfordnlp/sst2") == ("sentence", "label", "idx")


def test_what_is_missing(sst2, tmp_path):
    file = sst2 / "train.parquet"
    with pytest.raises(RequestError, match="has no column 'labels': did you mean 'label'"):
        load_labelled_texts(file, label_column="labels")
    with pytest.raises(RequestError, match="has no column 'mood': it has 'sentence', 'label', 'idx'"):
        load_labelled_texts(file, label_column="mood")
    with pytest.raises(RequestError, match="has no column 'review'"):
        load_labelled_texts(file, column="review")
    with pytest.raises(RequestError, match=r"'no.parquet' is not there"):
        load_labelled_texts("no.parquet")
    with pytest.raises(RequestError, match="'stories' holds no labels"):
        load_labelled_texts("stories")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(WorkError, match="cannot read"):
        load_labelled_texts(tmp_path / "broken.parquet")
    with pytest.raises(WorkError, match="neither a file here nor in the local hub cache"):
        load_labelled_texts("nobody/nothing")


def test_a_file_without_rows(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    for read in (load_labelled_texts, columns_of):
        with pytest.raises(WorkError, match=r"cannot read .*none.jsonl"):
            read(tmp_path / "none.jsonl")


def test_a_file_sorted_by_label(tmp_path):
    rows = [{"text": f"text {k}", "label": k // 50} for k in range(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(RequestError, match=r"the first 40 texts of .* have one label"):
        load_labelled_texts(tmp_path / "rows.jsonl", limit=40)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 1, 1], r"have one label \('1'\): a concept needs texts without it"),
        ([0, -1, 1], "row 1 of .* has the label -1"),
        ([0.5, 1.5, 1.0], "row 0 of .* has the label 0.5"),
        ([None, "a", "b"], "row 0 of .* has the label None"),
    ],
)
def test_labels_that_are_none(labels, said, tmp_path):
    Dataset.from_dict({"text": ["a", "b", "c"], "label": labels}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(RequestError, match=said):
        load_labelled_texts(tmp_path / "rows.parquet")
