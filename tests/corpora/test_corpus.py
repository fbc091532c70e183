"""Corpora: every format gives the same documents, whatever is broken is counted, and nothing is read whole."""

import codecs
import csv
import gzip
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from fake_hub import into_hub_cache

from mi_superposition import load_corpus
from mi_superposition.corpora import CorpusCounts, corpus_of, texts_of
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.parts import TextPart

DOCUMENTS = ["One day a cat sat.\nIt purred.", "Ein Märchen – 猫 🐈", "  indented", "last"]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def everywhere(tmp_path):
    """The same documents in every format."""
    pq.write_table(pa.table({"text": DOCUMENTS, "other": [1, 2, 3, 4]}), tmp_path / "a.parquet", row_group_size=2)
    Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "saved")
    DatasetDict({"train": Dataset.from_dict({"text": DOCUMENTS})}).save_to_disk(tmp_path / "saved-dict")
    lines = "\n".join(json.dumps({"text": text}) for text in DOCUMENTS)
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["text", "other"], *((text, 1) for text in DOCUMENTS)])
    pq.write_table(pa.table({"text": pa.array(DOCUMENTS, pa.string_view())}), tmp_path / "view.parquet")
    pq.write_table(pa.table({"text": pa.array(DOCUMENTS, pa.large_string())}), tmp_path / "large.parquet")
    pq.write_table(pa.table({"text": pa.array(DOCUMENTS).dictionary_encode()}), tmp_path / "dictionary.parquet")
    return [
        write(tmp_path, "a.txt", "<|endoftext|>".join(DOCUMENTS)),
        write(tmp_path, "a.txt.gz", gzip.compress("<|endoftext|>".join(DOCUMENTS).encode())),
        write(tmp_path, "a.jsonl", lines),
        write(tmp_path, "a.jsonl.zst", pa.compress(lines.encode(), "zstd", asbytes=True)),
        write(tmp_path, "a.csv", table.getvalue()),
        write(tmp_path, "a.csv.gz", gzip.compress(table.getvalue().encode("utf-16"))),
        write(tmp_path, "a.tsv", table.getvalue().replace(",1\r\n", "\t1\r\n").replace(",other", "\tother")),
        tmp_path / "a.parquet",
        tmp_path / "view.parquet",
        tmp_path / "large.parquet",
        tmp_path / "dictionary.parquet",
        tmp_path / "saved",
        tmp_path / "saved-dict",
    ]


def test_every_format_gives_the_same_documents_again_and_again(everywhere):
    for path in everywhere:
        corpus = load_corpus(path)
        assert corpus.counts is None
        assert list(corpus) == DOCUMENTS, path
        assert list(corpus) == DOCUMENTS, path
        assert str(corpus.counts) == "4 documents"


def test_column_split_and_separator(tmp_path):
    saved = DatasetDict({"train": Dataset.from_dict({"a": ["x"]}), "test": Dataset.from_dict({"a": ["y"]})})
    saved.save_to_disk(tmp_path / "saved")
    assert list(load_corpus(tmp_path / "saved", split="test", column="a")) == ["y"]
    path = write(tmp_path, "b.txt", "one\n\n\ntwo\n\n\nthree\n")
    assert list(load_corpus(path, separator="\n\n\n")) == ["one", "two", "three"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_a_separator_across_two_blocks_still_parts(tmp_path, monkeypatch, block):
    monkeypatch.setattr("mi_superposition.corpora.files._READ_BYTES", block)
    path = write(tmp_path, "a.txt", "<|endoftext|>".join(DOCUMENTS) + "<|endoftext|>\n")
    assert list(load_corpus(path)) == DOCUMENTS


def test_what_is_broken_in_jsonl_is_counted_and_placed(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"{broken",
        b'["no object"]',
        b"",
        b'{"text": null}',
        b'{"other": "x"}',
        b'{"text": "  "}',
        b'{"text": "caf\xe9"}',
        b'{"text": "end"}',
    ]
    corpus = load_corpus(write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert list(corpus) == ["good", "caf\ufffd", "end"]
    counts = corpus.counts
    assert (counts.documents, counts.broken, counts.missing, counts.empty, counts.repaired) == (3, 2, 2, 1, 1)
    assert str(counts).endswith("(broken at line 2; broken at line 3; missing at line 5)")


def test_hostile_json(tmp_path):
    lines = [b'\xef\xbb\xbf{"text": "first"}', b'{"text": "half \\ud83d"}', b"[" * 100_000, b'{"text": "last"}']
    corpus = load_corpus(write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert list(corpus) == ["first", "half ?", "last"]
    assert (corpus.counts.repaired, corpus.counts.broken) == (1, 1)


def test_bad_utf8_in_a_saved_folder(tmp_path):
    strings = pa.array([b"fine", b"b\xffd"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 2, strings.buffers())
    Dataset(pa.table({"text": bad})).save_to_disk(tmp_path / "saved")
    corpus = load_corpus(tmp_path / "saved")
    assert list(corpus) == ["fine", "b\ufffdd"]
    assert corpus.counts.repaired == 1


def test_bad_utf8_in_text_and_parquet(tmp_path):
    corpus = load_corpus(write(tmp_path, "a.txt", b"fine<|endoftext|>b\xffd<|endoftext|><|endoftext|>end"))
    assert list(corpus) == ["fine", "b\ufffdd", "end"]
    assert (corpus.counts.repaired, corpus.counts.empty) == (1, 1)
    assert "repaired at byte 17 + 1" in str(corpus.counts)
    strings = pa.array([b"fine", b"b\xffd", None], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, strings.buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    corpus = load_corpus(tmp_path / "a.parquet")
    assert list(corpus) == ["fine", "b\ufffdd"]
    assert (corpus.counts.repaired, corpus.counts.missing) == (1, 1)


def test_a_wrong_column_says_which_there_are(tmp_path, everywhere):
    for path in everywhere:
        if ".txt" in path.name:
            continue
        with pytest.raises(RequestError, match=r"no column 'txt': it has .*'text'"):
            list(load_corpus(path, column="txt"))


def test_without_a_column_it_is_text_or_sentence(tmp_path):
    """A file without 'text' is read by its 'sentence'; where both are there, and for identity, nothing changes."""
    rows = {"only": {"sentence": ["a", "b"], "label": [0, 1]}, "both": {"sentence": ["no", "no"], "text": ["a", "b"]}}
    for name, columns in rows.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        Dataset.from_dict(columns).save_to_disk(tmp_path / name)
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        write(tmp_path, f"{name}.jsonl", "\n".join(lines))
        for path in (tmp_path / f"{name}.parquet", tmp_path / name, tmp_path / f"{name}.jsonl"):
            corpus = load_corpus(path)
            assert list(corpus) == ["a", "b"], path
            column = "sentence" if name == "only" else "text"
            assert list(load_corpus(path, column=column)) == ["a", "b"]
            assert corpus.identity() == load_corpus(path, column=column).identity()
    # The first line that has either decides.
    path = write(tmp_path, "late.jsonl", '{"id": 1}\n{"sentence": "a"}\n{"text": "b"}\n')
    corpus = load_corpus(path)
    assert list(corpus) == ["a"]
    assert corpus.counts.missing == 2
    for name in ("none.jsonl", "none.parquet"):
        if name.endswith("parquet"):
            pq.write_table(pa.table({"story": ["a"]}), tmp_path / name)
        else:
            write(tmp_path, name, '{"story": "a"}')
        with pytest.raises(RequestError, match="no column 'text': it has 'story'"):
            list(load_corpus(tmp_path / name))


def test_wrong_names(tmp_path):
    for name, said in [
        ("storie", "did you mean 'stories'"),
        (tmp_path / "none.txt", "is not there"),
        ("./nowhere", "is not there"),
        (write(tmp_path, "a.docx", "x"), "is no corpus: give .txt"),
    ]:
        with pytest.raises(RequestError, match=said):
            load_corpus(name)
    with pytest.raises(RequestError, match="separator"):
        load_corpus("stories", separator="")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="save_to_disk"):
        list(load_corpus(tmp_path / "empty"))
    with pytest.raises(WorkError, match="cannot read"):
        list(load_corpus(write(tmp_path, "a.parquet", "PAR1 no")))


def test_a_split_that_is_not_there(tmp_path):
    DatasetDict({"train": Dataset.from_dict({"text": ["x"]})}).save_to_disk(tmp_path / "saved")
    with pytest.raises(RequestError, match="no split 'test': it has 'train'"):
        list(load_corpus(tmp_path / "saved", split="test"))


# --- the hub ---


@pytest.fixture
def cached_dataset(tmp_path, monkeypatch):
    """A dataset in the hub cache, with two splits, as ``huggingface_hub`` lays it out."""
    made = tmp_path / "made" / "data"
    made.mkdir(parents=True)
    pq.write_table(pa.table({"text": DOCUMENTS}), made / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"text": ["held out"]}), made / "validation-00000-of-00001.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    into_hub_cache(tmp_path / "hub", "roneneldan/TinyStories", made.parent, kind="datasets")


@pytest.mark.usefixtures("cached_dataset")
def test_a_cached_dataset_is_streamed_offline():
    assert list(load_corpus("roneneldan/TinyStories")) == DOCUMENTS
    assert list(load_corpus("roneneldan/TinyStories", split="validation")) == ["held out"]
    with pytest.raises(RequestError, match="no column 'story': it has 'text'"):
        list(load_corpus("roneneldan/TinyStories", column="story"))
    with pytest.raises(
        RequestError, match="^'roneneldan/TinyStories' has no split 'test': it has 'train', 'validation'"
    ):
        list(load_corpus("roneneldan/TinyStories", split="test"))


def test_a_cached_dataset_of_sentences_needs_no_column(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    pq.write_table(pa.table({"sentence": DOCUMENTS, "label": [0, 1, 0, 1]}), tmp_path / "made" / "train.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    into_hub_cache(tmp_path / "hub", "stanfordnlp/sst2", tmp_path / "made", kind="datasets")
    assert list(load_corpus("stanfordnlp/sst2")) == DOCUMENTS


@pytest.mark.usefixtures("cached_dataset")
def test_a_cached_dataset_stands_in_for_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def refuse(source, *_):
        asked.append(source)
        if source == "roneneldan/TinyStories":
            raise ConnectionError("no network")
        return ["train", "validation"]

    monkeypatch.setattr("mi_superposition.corpora.hub.get_dataset_split_names", refuse)
    assert list(load_corpus("roneneldan/TinyStories")) == DOCUMENTS
    assert len(asked) == 2


def test_a_part_of_a_cached_dataset_is_not_taken_for_the_whole(cached_dataset, tmp_path):
    for shard in (tmp_path / "hub").rglob("train-00000-of-00001.parquet"):
        shard.rename(shard.with_name("train-00000-of-00002.parquet"))
    with pytest.raises(WorkError, match="holds 1 of 2 files 'train' of 'roneneldan/TinyStories'"):
        list(load_corpus("roneneldan/TinyStories"))


@pytest.mark.usefixtures("cached_dataset")
def test_a_dataset_that_is_nowhere_is_one_line():
    with pytest.raises(WorkError, match="neither a file here nor in the local hub cache") as caught:
        list(load_corpus("somebody/nothing"))
    assert "\n" not in str(caught.value)


# --- memory ---

LAZY = """
import resource, sys
from mi_superposition import load_corpus
load_corpus(sys.argv[1]).counts
import pyarrow.parquet, datasets, torch, transformers
from mi_superposition.corpora.files import text_documents
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 120_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
corpus = load_corpus(sys.argv[1])
characters = sum(len(document) for document in corpus)
print(corpus.counts.documents, characters)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["big.txt", "big.jsonl", "big.parquet"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits are Linux's")
def test_a_corpus_larger_than_memory_is_read(tmp_path, name):
    """240 MB of text with room for 120 MB: whoever holds it all runs out."""
    path, document, n = tmp_path / name, "word " * 2000, 24_000
    if name == "big.parquet":
        schema = pa.schema({"text": pa.string()})
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for _ in range(240):
                writer.write_table(pa.table({"text": [document] * 100}, schema=schema))
    else:
        part = document + "<|endoftext|>" if name == "big.txt" else json.dumps({"text": document}) + "\n"
        with path.open("w") as file:
            for _ in range(n):
                file.write(part)
    done = subprocess.run(
        [sys.executable, "-c", LAZY, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(n), str(n * len(document))]
    hoarder = LAZY.replace("sum(len(document) for document in corpus)", "sum(map(len, list(corpus)))")
    hoarded = subprocess.run(
        [sys.executable, "-c", hoarder, str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert hoarded.returncode != 0, "the limit would not have caught a reader that keeps everything"


def test_the_first_documents_are_those_that_hold_text(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("one", " ", "two", "three")))
    corpus = load_corpus(path, documents=2)
    assert list(corpus) == list(corpus) == ["one", "two"]
    assert (corpus.counts.documents, corpus.counts.empty) == (2, 1)
    with pytest.raises(RequestError, match="documents = 0: must be at least 1"):
        load_corpus(path, documents=0)


def test_what_is_lost_is_said_once_on_standard_error(tmp_path, capsys):
    lines = [json.dumps({"text": f"story {n}"}) for n in range(20)] + ["{broken"] * 5
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    corpus = load_corpus(tmp_path / "some.jsonl")
    assert len(list(corpus)) == len(list(corpus)) == 20
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].endswith("20 documents, 5 broken (broken at line 21; broken at line 22; broken at line 23)")


def test_a_corpus_of_which_most_is_lost_is_no_corpus(tmp_path):
    lines = [json.dumps({"text" if n < 10 else "body": f"story {n}"}) for n in range(100)] + ["{broken"] * 50
    (tmp_path / "lost.jsonl").write_text("\n".join(lines))
    with pytest.raises(WorkError, match="10 documents, 50 broken, 90 missing .*more is lost than read"):
        list(load_corpus(tmp_path / "lost.jsonl"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-8"])
def test_a_byte_order_mark_says_how_a_text_is_encoded(encoding, tmp_path):
    stories = ["A “quoted” dog 😀.", "Ein Märchen.", "今天天气很好"]
    content = "<|endoftext|>".join(stories)
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "a.txt").write_bytes(mark + content.encode(encoding))
    corpus = load_corpus(tmp_path / "a.txt")
    assert list(corpus) == stories
    assert corpus.counts == CorpusCounts(documents=3)


TOKENS = [[5, 6, 7], [8, 9, 10]]


def test_tokens_in_every_format(tmp_path):
    np.save(tmp_path / "a.npy", np.array(TOKENS, dtype=np.uint16))
    for kind in (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int16(), 3)):
        pq.write_table(pa.table({"input_ids": pa.array(TOKENS, kind)}), tmp_path / "a.parquet")
        assert list(load_corpus(tmp_path / "a.parquet")) == TOKENS
    Dataset.from_dict({"input_ids": TOKENS, "attention_mask": [[1] * 3] * 2}).save_to_disk(tmp_path / "saved")
    write(tmp_path, "a.jsonl", "\n".join(json.dumps({"tokens": tokens}) for tokens in TOKENS))
    for name in ("a.npy", "saved", "a.jsonl"):
        assert list(load_corpus(tmp_path / name)) == TOKENS, name
        assert load_corpus(tmp_path / name, documents=1).identity()
    with pytest.raises(RequestError, match="holds tokens: give one of texts"):
        list(texts_of(load_corpus(tmp_path / "a.npy")))


def test_wrong_arrays_are_one_line(tmp_path):
    for array, said in (
        (np.arange(6), r"shape \(6,\) and dtype int64: .*reshape"),
        (np.ones((2, 3)), "dtype float64"),
    ):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(RequestError, match=said):
            list(load_corpus(tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(WorkError, match="cannot read"):
        list(load_corpus(tmp_path / "a.npy"))


def test_broken_rows_of_a_table_are_counted(tmp_path):
    path = write(tmp_path, "a.csv", b'text,other\nfine,1\ntoo,many,fields\nfew\n,2\nb\xff,3\n"two\nlines",4\n')
    corpus = load_corpus(path)
    assert list(corpus) == ["fine", "b\ufffd", "two\nlines"]
    counts = corpus.counts
    assert (counts.documents, counts.broken, counts.empty, counts.repaired) == (3, 2, 1, 1)
    with pytest.raises(RequestError, match="has no column 'words': it has 'other', 'text'"):
        list(load_corpus(path, column="words"))


def test_quotes_in_tables(tmp_path):
    """In one parted by tabs they are quotes; one that never closes in another is not the end of the file."""
    tabs = write(tmp_path, "a.tsv", 'sentence\tlabel\n" it is bad\t0\ngood film\t1\n"great" one\t1\n')
    assert list(load_corpus(tabs)) == ['" it is bad', "good film", '"great" one']
    with pytest.raises(WorkError, match="cannot read"):
        list(load_corpus(write(tmp_path, "a.csv", 'text\n"abc\nfoo\nbar')))
    odd = write(tmp_path, "odd.csv", b"\xff\xfet\x00e\x00x\x00t\x00\n\x00a\x00\n\x00\x00\xd8\n\x00b\x00\n")
    corpus = load_corpus(odd)
    assert next(iter(corpus)) == "a"
    assert len(list(corpus)) >= 2


def test_no_tokens_are_an_empty_document(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"input_ids": []}\n{"input_ids": [1, 2]}\n')
    corpus = load_corpus(path)
    assert list(corpus) == [[1, 2]]
    assert (corpus.counts.empty, corpus.counts.missing) == (1, 0)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.csv.bz2"])
def test_a_damaged_compressed_file_is_one_line(name, tmp_path):
    with pytest.raises(WorkError, match="cannot read"):
        list(load_corpus(write(tmp_path, name, b"this is not compressed at all, whatever its name says")))


def test_a_text_of_many_lines_without_a_separator_says_so(tmp_path, capsys):
    lines = [f"story {n}" for n in range(100)]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    assert len(list(load_corpus(tmp_path / "lines.txt"))) == 1
    assert "100 lines are one document; --separator '\\n' reads each as one" in capsys.readouterr().err
    assert list(corpus_of(TextPart(corpus=str(tmp_path / "lines.txt"), separator="\\n"))) == lines
    assert capsys.readouterr().err == ""
