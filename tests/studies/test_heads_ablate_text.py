"""``heads ablate`` on text, end to end: its numbers, resuming, Ray, tasks, sets and wrong requests."""

import importlib.util
import json
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from stopping import StopsAfter

from mi_superposition import load_model, load_run
from mi_superposition.cli import main
from mi_superposition.files import read_json
from mi_superposition.heads import ablate_heads, leave_out
from mi_superposition.heads.config import AblateConfig
from mi_superposition.heads.sets import smallest_set
from mi_superposition.heads.tasks import induction_task, logit_differences, read_tasks
from mi_superposition.models import untrained_copy
from mi_superposition.pages.heads import ablate_tasks
from mi_superposition.studies.heads import ablate
from mi_superposition.training import Stopped

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
SMALL = ["--reference-documents", "12", "--documents", "14", "--shard", "5", "--threads", "1", "--resamples", "100", "--examples", "3", "--pair-heads", "3", "--pair-documents", "4", "--task-sets", "4"]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "words.jsonl"
    texts = [" ".join(generator.choice(WORDS, generator.integers(2, 40))) for _ in range(40)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks") / "animals.jsonl"
    lines = [
        {"prompt": f"Once upon a time there was a {w}", "right": a, "wrong": b}
        for w in WORDS[:5]
        for a, b in ((".", "e"), ("e", "."))
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def request_of(tiny_gpt2, corpus, tasks):
    """The command line."""
    words = [
        "heads",
        "ablate",
        "--model",
        str(tiny_gpt2.folder),
        "--corpus",
        str(corpus),
        "--tasks",
        str(tasks),
        *SMALL,
    ]
    return lambda out, *more: [*words, *more, "--out", str(out)]


@pytest.fixture(scope="module")
def run(request_of, tmp_path_factory):
    """The study, left alone."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(request_of(out)) == 0
    return out


def test_a_run(run, tiny_gpt2, corpus, capsys):
    study = load_run(run)
    frame = study.to_frame()
    assert len(frame) == 4
    assert study.n_documents == 14
    assert set(study.effects) == {"zero", "mean", "overall mean", "resample", "random direction", "untrained"}
    assert sorted(path.name for path in run.iterdir()) == [
        "manifest.json",
        "metrics.json",
        "page",
        "text_ablation.safetensors",
    ]
    metrics = read_json(run / "metrics.json")
    # The same by the public function, with means taken of nothing: zero.
    model = tiny_gpt2.hooked
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()][12:26]
    total = tokens = 0.0
    for text in texts:
        read = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"][:31]])
        read = torch.cat([torch.zeros(1, 1, dtype=torch.long), read], dim=1)
        keep = torch.cat([torch.ones(1, 2, dtype=torch.bool), leave_out(2)])
        loss = ablate_heads(model, read, keep, layer=1, reduce="loss", mask=torch.arange(read.shape[1])[None] > 0)[:, 0]
        total = total + (loss[1:] - loss[:1]) * (read.shape[1] - 1)
        tokens += read.shape[1] - 1
    for head in (0, 1):
        assert metrics[f"layer_1/head_{head}/zero_loss"] == pytest.approx(float(total[head] / tokens), abs=2e-5)
    assert metrics["tokens"] == tokens
    assert main(["heads", "ablate", "--config", str(run / "manifest.json"), "--out", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out


def test_the_page(run, visit):
    for width in (1280, 390):
        page, problems, requests = visit(run / "page" / "ablation.html", width=width)
        assert not problems
        assert not requests
        assert page.locator("details.texts").count() == 4
        assert page.locator("details.texts .peak").count() > 0


# Layers, trained and not; tasks; the search of a set.
@pytest.mark.parametrize("times", [1, 4, 9, 14, 20, 26])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(times, run, tmp_path):
    config = AblateConfig.from_flat(read_json(run / "manifest.json")["config"])
    with pytest.raises(Stopped):
        ablate.measure(config, tmp_path / "run", StopsAfter(times))
    assert not (tmp_path / "run" / "metrics.json").exists()
    ablate.measure(config, tmp_path / "run")
    for name in ("text_ablation.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()
    assert not (tmp_path / "run" / "layers").exists()


def test_workers_give_the_same_bytes(run, tmp_path, monkeypatch):
    """What a worker gets and gives back is pickled, as Ray does it."""

    def of_workers(work, pieces, **_):
        return (pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(piece))))) for piece in pieces)

    pytest.importorskip("ray")
    monkeypatch.setattr("mi_superposition.studies.heads.ablate_text_shards.results_of", of_workers)
    config = AblateConfig.from_flat(read_json(run / "manifest.json")["config"]).replace(engine="ray")
    ablate.measure(config, tmp_path / "run")
    for name in ("text_ablation.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def same_bytes(one, two):
    for name in ("text_ablation.safetensors", "metrics.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")
def test_two_workers_of_ray_give_the_same_bytes(run, request_of, tmp_path):
    """Of a running cluster, by its address."""
    done = subprocess.run([sys.executable, "-c", _ON_TWO_WORKERS, *request_of(tmp_path / "ray", "--engine", "ray")], capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    workers = set(done.stdout.splitlines()[-1].split())
    assert len(workers) == 2
    same_bytes(tmp_path / "ray", run)


# Every shard leaves the name of the worker that measured it.
_ON_TWO_WORKERS = """
import sys, tempfile
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from mi_superposition.cli import main
from mi_superposition.studies.heads import ablate_text_shards as shards

ablate_shard, notes = shards.ablate_shard, Path(tempfile.mkdtemp())

def noted(shard):
    (notes / ray.get_runtime_context().get_node_id()).touch()
    return ablate_shard(shard)

shards.ablate_shard = noted
cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, include_dashboard=False)
code = main([*sys.argv[1:], "--ray-address", cluster.address])
ray.shutdown()
cluster.shutdown()
print(*[path.name for path in notes.iterdir()])
sys.exit(code)
"""


@pytest.mark.slow
def test_killed_or_stopped_anywhere_it_ends_with_the_same_bytes(run, request_of, tmp_path):
    """Real processes: killed without warning in the first layer, in the second, in the control's first, then asked to stop."""
    out = tmp_path / "killed"
    program = [sys.executable, "-c", _SLOWLY, *request_of(out)]
    moments = [("trained-000-begun", signal.SIGKILL), ("trained-001-begun", signal.SIGKILL), ("untrained-000-begun", signal.SIGKILL), ("untrained-001-begun", signal.SIGINT)]  # fmt: skip
    for name, number in moments:
        process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
        while not (out / "layers" / f"{name}.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert not (out / "metrics.json").exists()
    assert "run the same command again" in error
    # Layers that were done are there, and no other of the four.
    assert {path.name for path in (out / "layers").glob("*0?.safetensors")} >= {f"{state}.safetensors" for state in ("trained-000", "trained-001", "untrained-000")}  # fmt: skip
    assert main(request_of(out)) == 0
    same_bytes(out, run)
    assert not (out / "layers").exists()


# A checkpoint after every shard, each of which takes a while.
_SLOWLY = """
import sys, time
from mi_superposition.cli import main
from mi_superposition.studies.heads import ablate_text_shards as shards

shards._CHECKPOINT_EVERY = 0.0
measured = shards._measured

def slowly(*given):
    time.sleep(0.2)
    return measured(*given)

shards._measured = slowly
sys.exit(main(sys.argv[1:]))
"""


def test_logit_differences_are_those_of_each_prompt_by_itself(tiny_gpt2, tasks):
    model = tiny_gpt2.hooked
    [task] = read_tasks(model, tasks)
    found = logit_differences(model, task)
    keep = torch.ones(1, 2, 2, dtype=torch.bool)
    keep[0, 1, 0] = False
    ablated = logit_differences(model, task, keep, "zero")[0]

    def zero(z, hook):
        z[:, :, 0] = 0
        return z

    for number, line in enumerate(map(json.loads, tasks.read_text().splitlines())):
        ids = [
            model.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (line["prompt"], line["right"], line["wrong"])
        ]
        tokens = torch.tensor([[0, *ids[0]]])
        for wanted, logits in (
            (found, model(tokens)),
            (ablated, model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", zero)])),
        ):
            difference = logits[0, -1, ids[1][0]] - logits[0, -1, ids[2][0]]
            assert float(wanted[number]) == pytest.approx(float(difference), abs=1e-4)
    # A prompt and its counterpart stay together, and what is right once is wrong once.
    one, two = task.halves()
    assert len(one) + len(two) == len(task)
    assert sorted(one.right.tolist()) == sorted(one.wrong.tolist())


def test_tasks_under_every_replacement(run, tiny_gpt2, tasks):
    """Changes are those of the public function, prompt by prompt."""
    study, model = load_run(run), tiny_gpt2.hooked
    [task] = read_tasks(model, tasks)
    found = study.tasks["animals"]
    assert list(found.changes) == ["zero", "mean", "overall mean", "resample"]
    mask = torch.arange(task.tokens.shape[1]) <= task.last[:, None]
    rows = torch.arange(len(task))

    def differences(keep, kind):
        logits = ablate_heads(model, task.tokens, keep, replace_with=kind, mask=mask, seed=0)[0]
        return logits[rows, task.last, task.right] - logits[rows, task.last, task.wrong]

    whole = differences(torch.ones(1, 2, 2, dtype=torch.bool), "zero")
    for kind, some in found.changes.items():
        for layer, head in ((0, 1), (1, 0), (1, 2)):
            keep = torch.ones(1, 2, 2, dtype=torch.bool)
            keep[0, layer, slice(None) if head == 2 else head] = False
            change = (differences(keep, kind) - whole).double()
            assert float(some.change[layer, head]) == pytest.approx(float(change.mean()), abs=1e-4)
            assert float(some.error[layer, head]) == pytest.approx(float(change.std() / len(task) ** 0.5), abs=1e-4)
    assert found.difference == pytest.approx(float(whole.mean()), abs=1e-4)


def test_tasks_of_some_layers_and_no_sets(run, tmp_path):
    config = AblateConfig.from_flat(read_json(run / "manifest.json")["config"])
    ablate.measure(config.replace(layer=(1,), task_sets=0), tmp_path / "run")
    whole, some = load_run(run), load_run(tmp_path / "run")
    assert some.layers == [1]
    for name, task in some.tasks.items():
        assert task.kept is None
        for kind, changes in task.changes.items():
            assert changes.change.tolist() == whole.tasks[name].changes[kind].change[1:].tolist()
            assert changes.error.tolist() == whole.tasks[name].changes[kind].error[1:].tolist()
    assert f"{some.to_frame()['animals_change'].loc[1, 0]:.6f}" == f"{whole.to_frame()['animals_change'].loc[1, 0]:.6f}"
    assert main(["page", str(tmp_path / "run")]) == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert not any("layer_0" in name or "set_size" in name for name in metrics)


def test_of_many_layers_the_largest_and_the_median_are_shown(run, monkeypatch):
    study = load_run(run)
    table = ablate_tasks._tasks_by_replacement(study)
    assert table.columns[-2:] == ["all heads of layer 0", "all heads of layer 1"]
    monkeypatch.setattr(ablate_tasks, "_LAYERS_SHOWN", 1)
    table = ablate_tasks._tasks_by_replacement(study)
    assert table.columns[-3:] == ["layer", "without its heads", "median layer"]
    [row] = [row for row in table.rows if row[0] == "animals, mean"]
    changes = study.tasks["animals"].changes["mean"].change[:, -1]
    assert row[-3] == str(int(changes.argmin()))
    assert row[-2].startswith(f"{float(changes.min()):+.2f} ± ")
    # Of two layers the mean.
    assert row[-1] == f"{float(changes.mean()):+.2f}"


def test_induction_prompts(tiny_gpt2):
    task = induction_task(tiny_gpt2.hooked, 0)
    for tokens, last, right, wrong in zip(task.tokens, task.last, task.right, task.wrong, strict=True):
        text = tokens[1 : int(last) + 1].tolist()
        before = [at for at, token in enumerate(text[:-1]) if token == text[-1]]
        assert len(before) == 1
        assert text[before[0] + 1] == int(right) != int(wrong)
        assert int(wrong) in text


@pytest.fixture(scope="module")
def stories():
    return load_model("stories", device="cpu")


def test_the_bundled_tasks_can_be_done_and_not_by_an_untrained_model(stories):
    found = read_tasks(stories, None)
    assert [task.name for task in found] == ["pronoun", "name", "object"]
    untrained = untrained_copy(stories, 0)
    for task in found:
        assert sorted(task.right.tolist()) == sorted(task.wrong.tolist())
        assert float((logit_differences(stories, task) > 0).double().mean()) > 0.9
        assert float((logit_differences(untrained, task) > 0).double().mean()) < 0.75


def test_the_smallest_set():
    """Heads that add: the few large ones are found, and one that only looks large is dropped."""
    worth = torch.tensor([0.0, 0.5, 0.01, 0.3, 0.0, 0.17, 0.02, 0.0])

    def kept(sets):
        return sets.double() @ worth.double()

    assert smallest_set(kept, 8).nonzero()[:, 0].tolist() == [1, 3, 5]
    assert smallest_set(kept, 8, share=1.0).sum() == 5

    # The first head is needed only while the second is there: the third would do alone, which a greedy search need not find.
    def tangled(sets):
        return torch.where(sets[:, 0] | ~sets[:, 1], 1.0, 0.5).double() * (sets[:, 1] | sets[:, 2]).double()

    assert smallest_set(tangled, 3).tolist() == [True, True, False]


def wrong(name, *said, tasks=None, corpus=None, options=()):
    return pytest.param(tasks, corpus, options, said, id=name)


@pytest.mark.parametrize(
    ("lines", "texts", "options", "said"),
    [
        wrong("same text", "line 1", "right and wrong are both ' a'", tasks=[{"prompt": "x", "right": " a", "wrong": " a"}]),
        wrong("several tokens", "line 2", "wrong ' hippopotamus' is", tasks=[{"prompt": "x", "right": "a", "wrong": "b"}, {"prompt": "x", "right": "a", "wrong": " hippopotamus"}]),
        wrong("no token", "right '' is 0 tokens", tasks=[{"prompt": "x", "right": "", "wrong": "a"}]),
        wrong("no prompt", "line 1", "prompt", tasks=[{"right": "a", "wrong": "b"}]),
        wrong("long prompt", "the prompt has", "at most 32", tasks=[{"prompt": "x " * 60, "right": "a", "wrong": "b"}]),
        wrong("empty tasks", "is empty", tasks=[]),
        wrong("no tasks", "No such file", options=["--tasks", "nowhere.jsonl"]),
        wrong("short corpus", "has 19 documents: too few to resample from, give at least 20", corpus=19),
        wrong("few documents", "documents = 9", "give at least 10", options=["--documents", "9"]),
        wrong("long context", "33", "2 to 32", options=["--document-tokens", "33"]),
        wrong("no such layer", "layer = 2: the model has layers 0 to 1", options=["--layer", "2"]),
    ],
)  # fmt: skip
def test_wrong_requests(lines, texts, options, said, tiny_gpt2, corpus, tmp_path, capsys):
    path, text = tmp_path / "tasks.jsonl", corpus
    if texts is not None:
        text = tmp_path / "short.jsonl"
        text.write_text("\n".join(corpus.read_text().splitlines()[:texts]))
    words = ["heads", "ablate", "--model", str(tiny_gpt2.folder), "--corpus", str(text), *SMALL]
    if lines is not None:
        path.write_text("\n".join(map(json.dumps, lines)))
        words += ["--tasks", str(path)]
    for name, value in zip(options[::2], options[1::2], strict=True):
        words = [*words[: words.index(name)], *words[words.index(name) + 2 :]] if name in words else words
        words += [name, value]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    for one in said:
        assert one in error
    assert not out.exists()


@pytest.mark.parametrize("command", ["ablate", "scan", "trigrams"])
def test_a_model_without_attention_is_refused_before_its_weights_are_read(command, tmp_path, corpus, capsys):
    folder = tmp_path / "mamba"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 2}))
    words = ["heads", command, "--model", str(folder), "--corpus", str(corpus), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "'mamba': it has no attention heads" in error
    assert not (tmp_path / "out").exists()
