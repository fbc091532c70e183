"""Every command end to end on a tiny model, and every wrong request as one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import small_config

from mi_superposition import runs
from mi_superposition.addition.train import train_addition
from mi_superposition.cli import commands, main, terminal
from mi_superposition.files import PARTIAL, read_json, read_tensors, write_tensors
from mi_superposition.progress import Progress
from mi_superposition.subjects import chapters
from mi_superposition.training import Stopped

TINY = [
    "--n-digits", "2", "--n-heads", "4", "--d-model", "16", "--batch-size", "256", "--n-train", "1000", "--n-test", "50",
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A finished run of a tiny model, as `addition train` leaves it."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert not train_addition(small_config(), out).finished_already
    return out


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_training_leaves_a_whole_run_and_repeats_at_no_cost(tiny_run):
    metrics = read_json(tiny_run / "metrics.json")
    assert {
        "test_accuracy",
        "test_sum_accuracy",
        "accuracy_by_digit",
        "train_accuracy",
        "steps",
        "steps_per_second",
    } <= set(metrics)
    assert metrics["steps"] == 24
    assert len(metrics["accuracy_by_digit"]) == 3
    assert [row["epoch"] for row in runs.read_history(tiny_run)] == [2, 4, 6]
    assert runs.read_manifest(tiny_run, "addition train")["config"]["n_heads"] == 4
    before = files(tiny_run)
    assert "checkpoint.safetensors" not in before
    assert train_addition(small_config(), tiny_run).finished_already
    assert files(tiny_run) == before


def test_commands_end_to_end(tiny_run, tmp_path, capsys):
    for command, extra in [
        (["heads", "ablate"], ["--n-problems", "50", "--random-sets", "20"]),
        (["heads", "project"], []),
    ]:
        out = tmp_path / command[1]
        request = [*command, "--model", str(tiny_run), "--out", str(out), *extra]
        assert main(request) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"results: {out}"
        runs.read_manifest(out, " ".join(command))
        assert (out / "page" / "index.html").exists()
        numbers = read_json(out / "metrics.json")
        assert all(isinstance(value, int | float | list) for value in numbers.values())
        before = files(out)
        assert main(request) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {out}"
        assert files(out) == before
    assert files(tmp_path / "ablate")["page/images/ablation.gif"][:6] == b"GIF89a"


def test_toy_commands_end_to_end(tmp_path, capsys):
    for command, extra in [
        (["toy", "train"], ["--task", "abs", "--n-instances", "3", "--n-steps", "20", "--probability", "0.5", "0.1"]),
        (["toy", "study", "logic"], ["--n-instances", "2", "--n-steps", "3"]),
    ]:
        out = tmp_path / command[1]
        request = [*command, "--out", str(out), *extra]
        assert main(request) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"results: {out}"
        runs.read_manifest(out, " ".join(command[:2]))
        before = files(out)
        assert main(request) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {out}"
        assert files(out) == before
    assert read_json(tmp_path / "train" / "metrics.json")["steps"] == 20
    assert (tmp_path / "study" / "page" / "toy-logic.html").exists()


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(tmp_path):
    """A real process, killed without warning at two moments, against one left alone."""
    request = ["addition", "train", *TINY, "--epochs", "60"]
    program = [sys.executable, "-m", "mi_superposition.cli"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run([*program, *request, "--out", str(whole)], capture_output=True).returncode == 0
    kills = 0
    for rows in (1, 6):
        process = subprocess.Popen([*program, *request, "--out", str(killed)], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(runs.read_history(killed)) < rows:
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            if not (killed / "metrics.json").exists():
                assert read_json(killed / "manifest.json")["status"] == "running"
    assert kills == 2
    assert subprocess.run([*program, *request, "--out", str(killed)], capture_output=True).returncode == 0
    expected, got = files(whole), files(killed)
    for timed in ("metrics.json",):
        a, b = json.loads(expected.pop(timed)), json.loads(got.pop(timed))
        assert a.pop("steps_per_second") > 0
        b.pop("steps_per_second")
        assert a == b
    assert expected == got


def test_autoregressive_training_goes_on_exactly(tmp_path):
    config = small_config(answer="autoregressive")
    train_addition(config, tmp_path / "whole")
    asked = iter([False] * 9 + [True])
    progress = Progress()
    progress.should_stop = lambda: next(asked)
    with pytest.raises(Stopped):
        train_addition(config, tmp_path / "stopped", progress)
    train_addition(config, tmp_path / "stopped")
    expected, got = files(tmp_path / "whole"), files(tmp_path / "stopped")
    assert expected.pop("metrics.json") != b""
    got.pop("metrics.json")
    assert expected == got


def test_a_stop_signal_saves_and_says_how_to_go_on(tmp_path):
    program = [sys.executable, "-m", "mi_superposition.cli"]
    request = [*program, "addition", "train", *TINY, "--epochs", "2000", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(request, stderr=subprocess.PIPE, text=True)
    while len(runs.read_history(tmp_path / "run")) < 1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"stopped after step \d+: run the same command again to resume", error)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_help_names_every_command_and_option(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name, command in commands().items():
        assert f"  {name} " in overview
        with pytest.raises(SystemExit) as stop:
            main([*name.split(), "--help"])
        assert stop.value.code == 0
        helped = capsys.readouterr().out
        for option in command.load_config().options():
            flag = f"--{option.name.replace('_', '-')}"
            assert "positional" in helped if "Positional" in str(option.annotation) else flag in helped, flag


def test_help_needs_no_torch():
    code = "import sys; from mi_superposition.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def wrong(name, arguments, code, *quoted):
    return pytest.param(arguments, code, quoted, id=name)


@pytest.mark.parametrize(
    ("arguments", "code", "quoted"),
    [
        wrong("unknown command", "heads ablte --out {new}", 2, "'heads ablte'", "'heads ablate'"),
        wrong("half a command", "heads", 2, "'heads'", "'heads project'"),
        wrong("unknown option", "heads ablate --out {new} --modle x", 2, "--modle"),
        wrong("no output", "heads ablate", 2, "--out"),
        wrong("unknown model", "heads ablate --model additon --out {new}", 2, "'additon'", "'addition'"),
        wrong("strange model", "heads project --model {empty} --out {new}", 2, "empty", "holds no model"),
        wrong("unknown preset", "addition train --preset papr --out {new}", 2, "papr", "paper"),
        wrong("zero heads", "addition train --n-heads 0 --out {new}", 2, "n_heads = 0", "at least 1"),
        wrong("zero width", "addition train --d-head 0 --out {new}", 2, "d_head = 0"),
        wrong("too many digits", "addition train --n-digits 12 --out {new}", 2, "n_digits = 12", "1 to 9"),
        wrong("too few problems", "addition train --n-digits 1 --out {new}", 2, "1 digits"),
        wrong("not a number", "addition train --epochs many --out {new}", 2, "many"),
        wrong("run of another command", "heads ablate --out {tiny}", 2, "'addition train'"),
        wrong("other options", "addition train --out {tiny}", 2, "give another folder or the same options"),
        wrong("folder with other files", "heads ablate --out {theirs}", 2, "thesis.tex"),
        wrong("report over other files", "report --out {theirs}", 2, "thesis.tex"),
        wrong("report over a run", "report --out {tiny}", 2, "holds other files"),
        wrong("output is a file", "heads project --out {theirs}/thesis.tex", 2, "is a file"),
        wrong("head out of range", "heads project --model {tiny} --head 4 --out {new}", 2, "head = 4", "0 to 3"),
        wrong("other way to answer", "heads ablate --model {spoken} --out {new}", 2, "'autoregressive'", "'masked'"),
        wrong("seed too large", "addition train --seed 99999999999999999999 --out {new}", 2, "seed = 9999"),
        wrong("not enough memory", "addition train --d-model 999999999999 --out {huge}", 2, "of memory:", "are free"),
        wrong("manifest of another shape", "heads ablate --model {listed} --out {new}", 1, "manifest.json"),
        wrong("model of another shape", "heads ablate --model {bare} --out {new}", 1, "model.json"),
        wrong("a place nobody may write", "heads project --model {tiny} --out /sys/here", 1, "/sys/here"),
        wrong("digit out of range", "heads project --model {tiny} --digit 10 --out {new}", 2, "digit = 10"),
        wrong(
            "position out of range",
            "heads project --model {tiny} --position 7 --out {new}",
            2,
            "position = 7",
            "0 to 6",
        ),
        wrong("no problems", "heads ablate --model {tiny} --n-problems 0 --out {new}", 2, "n_problems = 0"),
        wrong("truncated weights", "heads ablate --model {truncated} --out {new}", 1, "model.safetensors"),
        wrong(
            "weights of another shape",
            "heads ablate --model {reshaped} --out {new}",
            1,
            "model.safetensors",
            "was changed",
        ),
        wrong("damaged manifest", "heads ablate --model {damaged} --out {new}", 1, "manifest.json"),
        wrong("cannot create the folder", "heads project --model {tiny} --out /dev/null/x", 1, "/dev/null"),
        wrong("probability above 1", "toy train --probability 0.5 1.5 --out {new}", 2, "probability = 1.5", "0 to 1"),
        wrong("a bottleneck too wide", "toy train --n-hidden 9 --out {new}", 2, "n_hidden = 9", "fewer than 5"),
        wrong(
            "importance of another length",
            "toy train --importance 1 0.5 --out {new}",
            2,
            "importance has 2 values",
            "5",
        ),
        wrong("a ratio too large", "toy train --importance-ratio 1e300 --out {new}", 2, "ratio = 1e+300"),
        wrong("too many threads", "toy train --threads 100000000000 --out {new}", 2, "threads = 100000000000"),
        wrong("unknown task", "toy train --task xor --out {new}", 2, "xor", "and"),
        wrong("inputs of another task", "toy train --task and --inputs normal --out {new}", 2, "'normal'", "'binary'"),
        wrong(
            "a model of another task", "toy train --task abs --network neuron --out {new}", 2, "'abs'", "'computation'"
        ),
        wrong("an odd number of features", "toy train --task or --n-features 7 --out {new}", 2, "n_features = 7"),
        wrong("dropout of everything", "toy train --dropout 1 --out {new}", 2, "dropout = 1.0", "below 1"),
        wrong("weights tied to nothing", "toy train --task max --tied True --out {new}", 2, "tied = True", "'max'"),
        wrong(
            "an option of before", "toy train --weights tied --out {new}", 2, "--weights is no option", "--tied True"
        ),
        wrong("no device", "toy train --device cuda --out {new}", 2, "device = 'cuda'"),
        wrong("unknown study", "toy study direction --out {new}", 2, "direction"),
        wrong("a study of nothing", "toy study width --n-steps 0 --out {new}", 2, "steps = 0"),
        wrong("a run as a study", "toy study width --out {tiny}", 2, "'addition train'"),
        wrong("full disk", "heads project --model {tiny} --out {full}", 1, "No space left"),
    ],
)
def test_wrong_requests_are_one_line(arguments, code, quoted, tiny_run, tmp_path, capsys, monkeypatch):
    places = _places(tiny_run, tmp_path)
    if "{full}" in arguments:
        _fill_the_disk(monkeypatch)
    before = files(tmp_path)
    got = main(arguments.format(**places).split())
    out, error = capsys.readouterr()
    last = error.splitlines()[-1]
    assert got == code, error
    assert out == ""
    assert last.startswith("mi-superposition: ")
    for text in quoted:
        assert text in last
    assert "Traceback" not in error
    # A wrong request leaves nothing, nor does what fails before the work.
    after = files(tmp_path)
    new = {name for name in after if name not in before}
    assert {name: content for name, content in after.items() if name not in new} == before
    assert not [name for name in new if name.endswith((PARTIAL, ".lock"))]
    assert new == set()


def _places(tiny_run, tmp_path):
    """The good run and several ways in which folders are not what was meant."""
    import shutil

    places = {
        name: tmp_path / name
        for name in (
            "new",
            "empty",
            "theirs",
            "truncated",
            "reshaped",
            "damaged",
            "full",
            "huge",
            "listed",
            "bare",
            "spoken",
        )
    }
    for name in ("truncated", "reshaped", "damaged", "listed", "bare", "spoken"):
        shutil.copytree(tiny_run, places[name])
    weights = places["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    tensors, _ = read_tensors(places["reshaped"] / "model.safetensors")
    tensors["embed.W_E"] = torch.zeros(12, 8)
    write_tensors(places["reshaped"] / "model.safetensors", tensors)
    (places["damaged"] / "manifest.json").write_text("{")
    (places["listed"] / "manifest.json").write_text("[]")
    (places["bare"] / "model.json").write_text("{}")
    spoken = places["spoken"] / "manifest.json"
    spoken.write_text(spoken.read_text().replace('"masked"', '"autoregressive"'))
    places["empty"].mkdir()
    places["theirs"].mkdir()
    (places["theirs"] / "thesis.tex").write_text("years of work")
    return {**places, "tiny": tiny_run}


def _fill_the_disk(monkeypatch):
    """Every write from now on finds the disk full, as the kernel would say it."""

    def full(disk, path, content):
        raise OSError(28, os.strerror(28), str(path))

    for change in ("write", "append"):
        monkeypatch.setattr(f"mi_superposition.files.Disk.{change}", full)


def test_the_report_names_its_chapters():
    [option] = [one for one in commands()["report"].load_config().options() if one.name == "sections"]
    assert option.help == f"Sections to build: {', '.join(chapters())}. Default: all."


@pytest.mark.parametrize("name", [name for name, command in commands().items() if command.renamed])
def test_options_of_the_first_version_are_taken_under_their_old_names(name):
    """Every old name leads to an option that is there."""
    command = commands()[name]
    known = {option.name.replace("_", "-") for option in command.load_config().options()}
    for old, new in command.renamed.items():
        assert new in known
        assert old not in known


def test_a_configuration_is_printed_and_read_back(tiny_run, tmp_path, capsys):
    words = ["heads", "ablate", "--model", str(tiny_run), "--n-problems", "50", "--random-sets", "20"]
    assert main([*words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["config"]["n_problems"] == 50
    (tmp_path / "asked.json").write_text(printed)
    assert main(["heads", "ablate", "--config", str(tmp_path / "asked.json"), "--out", str(tmp_path / "one")]) == 0
    # A run's own manifest reruns it exactly; options after it change it.
    again = ["heads", "ablate", "--config", str(tmp_path / "one" / "manifest.json")]
    assert main([*again, "--out", str(tmp_path / "two")]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert main([*again, "--seed", "1", "--out", str(tmp_path / "three")]) == 0
    assert read_json(tmp_path / "three" / "manifest.json")["config"]["seed"] == 1
    (tmp_path / "typo.json").write_text('{"command": "heads ablate", "config": {"problemz": 5}}')
    for file, quoted in (
        (tmp_path / "typo.json", "option 'problemz'"),
        (tmp_path / "none.json", "there is no such file"),
        (tiny_run / "manifest.json", "'addition train'"),
    ):
        capsys.readouterr()
        assert main(["heads", "ablate", "--config", str(file), "--out", str(tmp_path / "four")]) == 2
        assert quoted in capsys.readouterr().err.splitlines()[-1]


def test_a_finished_run_is_shown_again_without_measuring(tiny_run, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert main(["heads", "project", "--model", str(tiny_run), "--out", str(out)]) == 0
    before = files(out)

    def never(*given, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr("mi_superposition.studies.heads.project.projection_study", never)
    assert main(["page", str(out), "--out", str(tmp_path / "page")]) == 0
    shown = files(tmp_path / "page")
    assert shown == {
        name.removeprefix("page/"): content for name, content in before.items() if name.startswith("page/")
    }
    # A page that is gone is written again by the command itself.
    (out / "page" / "index.html").unlink()
    assert main(["heads", "project", "--model", str(tiny_run), "--out", str(out)]) == 0
    assert files(out) == before


def test_an_option_of_several_values_given_twice_has_them_all(capsys):
    words = ["neurons", "scan", "--hook", "a", "--documents", "4", "--hook=b", "c", "--print-config"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["config"]["hook"] == ["a", "b", "c"]
    assert main(["toy", "train", "--l1", "0", "--l1", "0.5", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["l1"] == [0.0, 0.5]


def test_an_option_of_one_value_given_twice_is_refused(capsys):
    assert main(["neurons", "scan", "--documents", "4", "--documents", "5", "--print-config"]) == 2
    assert capsys.readouterr().err == "mi-superposition: --documents is given twice: give it once\n"


def test_what_takes_longer_than_a_day_says_how_long_after_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    for total, expected in ((100_000, "at this speed it takes 2.3 days; stopped, it goes on later"), (10_000, None)):
        progress = terminal.TerminalProgress()
        progress.begin("step", total)
        for step in range(100):
            now[0] += 2.0
            progress.advance(1, f"{step}")
        progress.close()
        said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "days" in line]
        assert len(said) == (expected is not None)
        assert all(line.endswith(expected) for line in said)
