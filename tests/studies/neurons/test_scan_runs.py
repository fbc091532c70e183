"""Scans as run folders: killed, stopped, resumed, and shared out among Ray's workers, always the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from robustness.workshop import with_options
from stopping import StopsAfter

import mi_superposition as ms
from mi_superposition import load_corpus
from mi_superposition.cli import main
from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json, read_state, read_tensors, write_json, write_tensors
from mi_superposition.neurons import ScanConfig, scan_neurons
from mi_superposition.progress import Progress
from mi_superposition.studies.neurons.scan import measure
from mi_superposition.studies.neurons.shards import Shard, scan_shard
from mi_superposition.training import Stopped

RESULT = ("scan.safetensors", "calibration.safetensors", "metrics.json", "manifest.json")
WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of one to ninety words."""
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(1, 90))) for _ in range(400)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("<|endoftext|>".join(documents))
    return path


@pytest.fixture(scope="module")
def request_of(tiny_gpt2, corpus):
    """The command line of a scan of it in ten shards."""

    def request(out, *more):
        options = {
            "--model": tiny_gpt2.folder,
            "--corpus": corpus,
            "--shard": 40,
            "--threads": 1,
            "--top-k": 5,
            "--out": out,
        }
        return with_options(["neurons", "scan", *(word for option in options.items() for word in option)], more)

    return request


@pytest.fixture(scope="module")
def whole(request_of, tmp_path_factory):
    """The scan, left alone."""
    out = tmp_path_factory.mktemp("scans") / "whole"
    assert main(request_of(out)) == 0
    return out


def same_bytes(a, b):
    for name in RESULT[:-1]:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    one, other = (read_json(run / "manifest.json") for run in (a, b))
    for manifest in (one, other):
        # Who did the work.
        for name in ("engine", "ray_address"):
            del manifest["config"][name]
    assert one == other
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()} == set(RESULT)


def test_a_run_is_the_scan(whole, tiny_gpt2, corpus, request_of, capsys):
    model = tiny_gpt2.hooked
    batches = list(token_batches(load_corpus(corpus), model.tokenizer, 16, model.cfg.n_ctx))
    wanted, got = scan_neurons(model, batches, top_k=5), ms.load_run(whole)
    assert (got.n_documents, got.n_tokens) == (wanted.n_documents, wanted.n_tokens) == (400, wanted.n_tokens)
    for hook, found in wanted.hooks.items():
        torch.testing.assert_close(got.hooks[hook].top.activation, found.top.activation)
        torch.testing.assert_close(got.hooks[hook].mean, found.mean)
        assert torch.equal(got.hooks[hook].histogram.sum(1), found.histogram.sum(1))
        for document in got.hooks[hook].top.document.unique().tolist():
            text = list(load_corpus(corpus))[document]
            assert got.documents[document] == model.tokenizer(text, add_special_tokens=False)["input_ids"]
    before = (whole / "manifest.json").stat().st_mtime_ns
    # By its options, or by what it says of itself.
    again = ["neurons", "scan", "--config", str(whole / "manifest.json"), "--out", str(whole)]
    assert main(again) == 0
    assert main(request_of(whole)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {whole}"
    assert (whole / "manifest.json").stat().st_mtime_ns == before


def test_a_run_shows_itself(whole, tiny_gpt2):
    scan = ms.load_run(whole)
    assert len(repr(scan)) < 400
    assert "400 documents" in repr(scan)
    frame = scan.to_frame()
    assert frame.index.names == ["hook", "unit"]
    assert len(frame) == scan.n_units == 96
    hook = "blocks.1.mlp.hook_post"
    assert frame.loc[hook, 7]["maximum"] == float(scan.hooks[hook].maximum[7])
    strings = [scan.vocabulary[token].strip() for token in scan.hooks[hook].top_tokens[7, :5].tolist()]
    assert frame.loc[hook, 7]["top_tokens"] == " ".join(strings)
    assert "86 more rows" in scan._repr_html_()
    assert isinstance(scan.plot(), go.Figure)
    assert {trace.name for trace in scan.plot().data} >= {"Layer 1, trained", "Layer 1, permuted across units"}


def test_one_unit_is_plain_data(whole, tiny_gpt2):
    scan, hook = ms.load_run(whole), "blocks.1.mlp.hook_post"
    examples = scan.examples(hook, 7)
    frame = examples.to_frame()
    found = scan.hooks[hook]
    np.testing.assert_allclose(frame["activation"], found.top.activation[7])
    assert frame["document"].tolist() == found.top.document[7].tolist()
    tokens = [scan.documents[d][p] for d, p in zip(frame["document"], frame["position"], strict=True)]
    assert frame["token"].tolist() == [scan.vocabulary[token] for token in tokens]
    text = "".join(scan.vocabulary[token] for token in scan.documents[frame["document"][0]])
    assert frame["before"][0] + frame["token"][0] + frame["after"][0] in text
    # What the tokenizer says is what the run has kept of it.
    assert scan.examples(hook, 7, tiny_gpt2.hooked.tokenizer).to_frame().equals(frame)
    assert len(repr(examples)) < 400
    assert isinstance(examples.plot(), go.Figure)
    with pytest.raises(RequestError, match="unit = 48"):
        scan.examples(hook, 48)
    with pytest.raises(RequestError, match=r"blocks\.2\.mlp\.hook_post"):
        scan.examples("blocks.2.mlp.hook_post", 0)


def test_a_scan_of_version_0_1_is_read(whole, tiny_gpt2, tmp_path):
    """Its configuration was nested and under other names, and it had no vocabulary."""
    old = tmp_path / "old"
    shutil.copytree(whole, old)
    manifest = read_json(old / "manifest.json")
    config = manifest["config"]
    kept = {
        name: config.pop(name)
        for name in ("top_k", "spare", "per_tenth", "reach", "n_bins", "active_above", "correlation_share", "seed")
    }
    config |= {"hooks": config.pop("hook"), "batch": config.pop("forward_batch"), "column": "text", "settings": kept}
    del config["engine"], config["ray_address"]
    write_json(old / "manifest.json", manifest | {"format": 1})
    tensors, metadata = read_tensors(old / "scan.safetensors")
    counts = json.loads(metadata["counts"])
    del counts["vocabulary"]
    write_tensors(old / "scan.safetensors", tensors, {"counts": json.dumps(counts)})
    scan, new = ms.load_run(old), ms.load_run(whole)
    assert scan.settings == new.settings
    assert torch.equal(
        scan.hooks["blocks.0.mlp.hook_post"].top.position, new.hooks["blocks.0.mlp.hook_post"].top.position
    )
    assert "top_tokens" not in scan.to_frame()
    with pytest.raises(RequestError, match="give the model's tokenizer"):
        scan.examples("blocks.0.mlp.hook_post", 0)
    frame = scan.examples("blocks.0.mlp.hook_post", 0, tiny_gpt2.hooked.tokenizer).to_frame()
    assert frame.equals(new.examples("blocks.0.mlp.hook_post", 0).to_frame())


@pytest.mark.parametrize(
    "change", [("--top-k", 6), ("--seed", 1), ("--documents", 399), ("--hook", "blocks.0.hook_resid_pre")]
)
def test_another_request_is_refused(whole, request_of, change, capsys):
    assert main(request_of(whole, *change)) == 2
    assert "give another folder or the same options" in capsys.readouterr().err


def test_another_corpus_under_the_same_name_is_refused(tiny_gpt2, request_of, tmp_path, capsys):
    path = tmp_path / "words.txt"
    path.write_text("a cat")
    assert main(request_of(tmp_path / "run", "--corpus", path)) == 0
    path.write_text("a dog")
    assert main(request_of(tmp_path / "run", "--corpus", path)) == 2
    assert "was made with corpus" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_or_stopped_anywhere_it_ends_with_the_same_bytes(whole, request_of, tmp_path):
    """Real processes, killed without warning before the first shard and after two, then asked to stop after four more."""
    out = tmp_path / "killed"
    program = [sys.executable, "-c", _CHECKPOINT_EVERY_SHARD, *request_of(out)]
    for more, number, code in ((0, signal.SIGKILL, -9), (2, signal.SIGKILL, -9), (4, signal.SIGINT, 130)):
        # Counted from where it goes on: before its first own shard it may not yet listen.
        shards = _shards_done(out) + more
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        while _shards_done(out) < shards:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == code
        assert not (out / "metrics.json").exists()
    assert "run the same command again" in error
    assert main(request_of(out)) == 0
    same_bytes(whole, out)


@pytest.mark.parametrize(("times", "begun"), [(0, False), (1, True), (4, True)])
def test_stopped_before_a_shard_is_done_it_begins_again(tiny_gpt2, corpus, tmp_path, times, begun):
    """Within the sample of the calibration, or after it: then the ranges are those of the sample."""
    config = ScanConfig().replace(model=str(tiny_gpt2.folder), corpus=str(corpus), documents=120, shard=100, top_k=3)
    measure(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        measure(config, tmp_path / "run", StopsAfter(times))
    assert (tmp_path / "run" / "calibration.safetensors").exists() == begun
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    measure(config, tmp_path / "run")
    for name in RESULT[:-1]:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


_CHECKPOINT_EVERY_SHARD = """
import sys
import time
from mi_superposition.cli import main
from mi_superposition.studies import sharded
from mi_superposition.studies.neurons import shards
sharded.CHECKPOINT_EVERY = 0.0
# Shards so small would be done before anybody could kill the process.
scan_here = shards._scan_here


def slowly(*given):
    time.sleep(0.1)
    return scan_here(*given)


shards._scan_here = slowly
sys.exit(main(sys.argv[1:]))
"""


def _shards_done(out):
    try:
        return read_state(out / "checkpoint.safetensors")["shards"]
    except Exception:
        return 0 if (out / "calibration.safetensors").exists() else -1


ray_installed = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("ray"), reason="Ray is not installed: pip install -e '.[cluster]'"
)


@pytest.mark.slow
@ray_installed
def test_two_workers_of_ray_give_the_same_bytes(whole, request_of, tmp_path):
    """Of a running cluster, by its address; and a worker killed midway changes nothing."""
    out = tmp_path / "ray"
    program = [sys.executable, "-c", _RAY_THAT_KILLS_A_WORKER, *request_of(out, "--engine", "ray")]
    killed = tmp_path / "killed"
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "KILL_ONCE": str(killed)})
    assert done.returncode == 0, done.stderr
    assert killed.read_text()
    same_bytes(whole, out)


# The worker that takes the fourth shard dies of it, once.
_RAY_THAT_KILLS_A_WORKER = """
import os, signal, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from mi_superposition.cli import main
from mi_superposition.studies.neurons import shards

scan_shard = shards.scan_shard
killed = Path(os.environ["KILL_ONCE"])

def dies_once(shard):
    if shard.number == 3 and not killed.exists():
        killed.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return scan_shard(shard)

shards.scan_shard = dies_once
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
code = main([*sys.argv[1:], "--ray-address", cluster.address])
cluster.shutdown()
sys.exit(code)
"""


def test_a_worker_leaves_a_finished_shard_alone(tmp_path):
    out = tmp_path / "000000.safetensors"
    out.write_bytes(b"")
    assert scan_shard(Shard(0, 0, ["a", "b"], ScanConfig(), "trained", {}, "", None, out)) == (2, out)


def test_without_ray_a_clear_line(request_of, tmp_path, monkeypatch, capsys):
    from mi_superposition import engine

    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert main(request_of(tmp_path / "run", "--engine", "ray")) == 2
    assert "pip install 'mi-superposition[cluster]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        (["--shard", "0"], "shard = 0"),
        (["--context", "33"], "context = 33"),
        (["--documents", "0"], "documents = 0"),
        (["--hook", "blocks.0.mlp.hook_pst"], "did you mean 'blocks.0.mlp.hook_post'"),
        (["--model", "addition"], "attention only, no MLP neurons"),
        (["--model", "addition", "--hook", "blocks.0.attn.hook_z"], "without a tokenizer"),
        (["--corpus", "nothing.txt"], "nothing.txt"),
    ],
)
def test_wrong_requests_leave_nothing(request_of, tmp_path, options, quoted, capsys):
    assert main(request_of(tmp_path / "run", *options)) == 2
    error = capsys.readouterr().err
    assert quoted in error
    assert error.strip().count("\n") == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tiny_gpt2, tmp_path):
    """The peak of a process that scans ten times as much."""
    program = [sys.executable, "-c", _PEAK, str(tiny_gpt2.folder), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = map(int, done.stdout.split())
    assert second < 1.05 * first


_PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from mi_superposition.neurons import ScanConfig
from mi_superposition.studies.neurons.scan import measure
model, folder = sys.argv[1], Path(sys.argv[2])
words = "cat dog fox time there was liked to run play".split()
generator = np.random.default_rng(0)
for n in (1000, 10_000):
    corpus = folder / f"{n}.txt"
    corpus.write_text("<|endoftext|>".join(" ".join(generator.choice(words, 20)) for _ in range(n)))
    config = ScanConfig().replace(model=model, corpus=str(corpus), shard=100, threads=1)
    measure(config, folder / f"run-{n}")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Counting(Progress):
    """What was told: by bar, its unit and what was done of it, step by step; and how much was expected last."""

    def __init__(self):
        self.bars, self.expected = [], None

    def begin(self, unit, total=None):
        self.bars.append((unit, total, []))

    def advance(self, by=1, state=""):
        self.bars[-1][2].append(by)

    def expect(self, total):
        self.expected = total


@pytest.mark.parametrize(("shard", "batch", "read_twice"), [(25, 32, True), (40, 8, True), (40, 32, False)])
def test_progress_counts_tokens_piece_by_piece(tiny_gpt2, corpus, tmp_path, shard, batch, read_twice):
    """From the first piece of the calibration on; at the end every token was counted once, and as many were expected."""
    config = ScanConfig().replace(
        model=str(tiny_gpt2.folder), corpus=str(corpus), documents=60, shard=shard, forward_batch=batch
    )
    told = Counting()
    measure(config, tmp_path / "run", told)
    *calibration, scan = told.bars
    # What the sample of the calibration reads is not read again, unless a shard or a batch is smaller than it.
    assert len(calibration) == read_twice
    assert all(bar[:2] == ("token", None) and any(bar[2]) for bar in told.bars)
    n_tokens = ms.load_run(tmp_path / "run").n_tokens
    assert sum(scan[2]) == n_tokens == told.expected
    assert max(scan[2]) < n_tokens / 3
