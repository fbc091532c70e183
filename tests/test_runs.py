import json
import os
import stat
from typing import TypedDict

import numpy as np
import pytest
import torch

from mi_superposition import files, runs
from mi_superposition.errors import RequestError, WorkError


def test_a_run_goes_from_running_to_finished(tmp_path):
    out = tmp_path / "run"
    with runs.open_run(out, "some command", {"seed": 3, "sizes": (1, 2)}, {"model": {"sha256": "ab"}}) as run:
        assert not run.finished
        assert files.read_json(out / runs.MANIFEST)["status"] == "running"
        with pytest.raises(RequestError, match="not finished"):
            runs.read_manifest(out)
        run.finish({"accuracy": 0.5})
    manifest = runs.read_manifest(out, "some command")
    assert manifest["config"] == {"seed": 3, "sizes": [1, 2]}
    # A build for CUDA calls itself 2.13.0+cu130, and is installed as 2.13.0.
    assert torch.__version__.partition("+")[0] == manifest["versions"]["torch"].partition("+")[0]
    assert files.read_json(out / runs.METRICS) == {"accuracy": 0.5}
    with runs.open_run(out, "some command", {"seed": 3, "sizes": (1, 2)}, {"model": {"sha256": "ab"}}) as again:
        assert again.finished
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "metrics.json"]


def test_another_request_is_refused(tmp_path):
    out = tmp_path / "run"
    with runs.open_run(out, "one", {"seed": 3}):
        pass
    for command, config, quoted in [("two", {"seed": 3}, "'two'"), ("one", {"seed": 4}, "seed = 3, not 4")]:
        with pytest.raises(RequestError, match=quoted), runs.open_run(out, command, config):
            pass
    with pytest.raises(RequestError, match="'one'"):
        runs.read_manifest(out, "two")


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=r"thesis\.tex"), runs.open_run(tmp_path, "one", {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RequestError, match="is a file"), runs.open_run(tmp_path / "thesis.tex", "one", {}):
        pass


def test_two_processes_cannot_write_one_run(tmp_path):
    with (
        runs.open_run(tmp_path / "run", "one", {}),
        pytest.raises(RequestError, match="another process"),
        runs.open_run(tmp_path / "run", "one", {}),
    ):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    files.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"file\.json.*No space left"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(WorkError, match="Permission denied"), runs.open_run(tmp_path / "run", "one", {}):
        pass
    tmp_path.chmod(stat.S_IRWXU)


def test_numbers_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "metrics.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_truncated_tensor_file_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_tensors(path, {"w": torch.arange(1000.0)})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WorkError, match=r"model\.safetensors"):
        files.read_tensors(path)


def test_any_optimizer_state_survives(tmp_path):
    state = {
        "state": {0: {"step": torch.tensor(3.0), "lists": [[], [torch.eye(2)]], "none": None}},
        "groups": [{"betas": (0.9, 0.98), "lr": 1e-3, "params": [0], "on": True}],
    }
    files.write_state(tmp_path / "c.safetensors", state)
    back = files.read_state(tmp_path / "c.safetensors")
    assert back["groups"] == state["groups"]
    assert back["groups"][0]["betas"] == (0.9, 0.98)
    assert back["state"][0]["none"] is None
    assert back["state"][0]["lists"][0] == []
    assert torch.equal(back["state"][0]["lists"][1][0], torch.eye(2))
    files.write_tensors(tmp_path / "weights.safetensors", {"w": torch.eye(2)})
    with pytest.raises(WorkError, match="no saved state"):
        files.read_state(tmp_path / "weights.safetensors")


def test_history_drops_torn_and_later_rows(tmp_path):
    with runs.open_run(tmp_path / "run", "one", {}) as run:
        for step in (1, 2, 3):
            run.append_history({"step": step, "loss": 1 / step})
        with (run.path / runs.HISTORY).open("ab") as file:
            file.write(b'{"step": 4, "lo')
        assert [row["step"] for row in runs.read_history(run.path)] == [1, 2, 3]
        run.rewind_history(2)
        assert (run.path / runs.HISTORY).read_text() == json.dumps({"step": 1, "loss": 1.0}) + "\n" + json.dumps(
            {"step": 2, "loss": 0.5}
        ) + "\n"


def test_content_hash_tells_values_shapes_and_types_apart():
    base = {"w": torch.zeros(2, 3)}
    others = [
        {"w": torch.zeros(3, 2)},
        {"v": torch.zeros(2, 3)},
        {"w": torch.zeros(2, 3).half()},
        {"w": torch.ones(2, 3)},
    ]
    hashes = {files.content_hash(tensors) for tensors in [base, *others]}
    assert len(hashes) == 5
    assert files.content_hash({"w": torch.zeros(3, 2).T.contiguous()}) == files.content_hash(base)


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 12), (1, 1)])
def test_content_hash_takes_tensors_without_stride(shape):
    """As numpy gives them where there is one entry or none."""
    strange = torch.zeros(shape, dtype=torch.int64).as_strided(shape, (0,) * len(shape))
    assert files.content_hash({"w": strange}) == files.content_hash({"w": torch.zeros(shape, dtype=torch.int64)})


def test_a_state_of_empty_arrays_is_kept(tmp_path):
    state = {"none": torch.from_numpy(np.zeros(0, np.int64)), "rows": torch.from_numpy(np.zeros((0, 12), np.int8))}
    files.write_state(tmp_path / "state.safetensors", state)
    kept = files.read_state(tmp_path / "state.safetensors")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in kept.items()} == {
        "none": (torch.int64, (0,)),
        "rows": (torch.int8, (0, 12)),
    }


def test_what_somebody_else_keeps_in_the_folder_of_a_run_is_no_result(tmp_path):
    with runs.open_run(tmp_path / "run", "toy train", {"a": 1}) as run:
        (tmp_path / "run" / "log.txt").write_text("one line")
        (tmp_path / "run" / ".DS_Store").write_bytes(b"x")
        runs.write_json(tmp_path / "run" / "model.json", {"a": 1})
        run.finish({"loss": 1.0, "seconds": 2.0})
    manifest = runs.read_manifest(tmp_path / "run")
    assert set(manifest["files"]) == {"metrics.json", "model.json"}
    (tmp_path / "run" / "log.txt").write_text("another line")
    (tmp_path / "run" / ".DS_Store").unlink()
    # How long it took is no result either.
    (tmp_path / "run" / "metrics.json").write_text('{"loss": 1.0, "seconds": 3.0}')
    assert runs.read_manifest(tmp_path / "run") == manifest
    (tmp_path / "run" / "metrics.json").write_text('{"loss": 2.0, "seconds": 2.0}')
    with pytest.raises(WorkError, match=r"metrics.json' was changed since the run wrote it: put it back"):
        runs.read_manifest(tmp_path / "run")


def test_only_a_finished_run_is_sealed(tmp_path):
    with runs.open_run(tmp_path / "run", "toy train", {"a": 1}), pytest.raises(RequestError, match="is not finished"):
        runs.seal(tmp_path / "run")


@pytest.mark.parametrize(
    "state", ["[]", '{"dict": 3}', '{"dict": [[1, 2]]}', '{"a": 1, "b": 2}', "nonsense", "[" * 10_000]
)
def test_a_checkpoint_that_is_something_else_is_one_line(tmp_path, state):
    path = tmp_path / "checkpoint.safetensors"
    files.write_tensors(path, {}, {"state": state})
    with pytest.raises(WorkError, match=r"checkpoint.safetensors' is damaged: it is no saved state") as error:
        files.read_state(path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_was_changed_is_refused_though_it_can_be_read(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    files.write_state(path, {"step": 3, "weights": torch.ones(4)})
    tensors, metadata = files.read_tensors(path)
    # As written by version 0.1, without a hash; with another number; with another weight.
    files.write_tensors(path, tensors, {"state": metadata["state"]})
    assert files.read_state(path)["step"] == 3
    for changed in (
        (tensors, metadata | {"state": metadata["state"].replace("3", "4")}),
        ({"0": torch.zeros(4)}, metadata),
    ):
        files.write_tensors(path, *changed)
        with pytest.raises(WorkError, match=r"checkpoint.safetensors' was changed since it was written"):
            files.read_state(path)


def test_a_history_that_is_damaged_is_refused_before_work_goes_on(tmp_path):
    with runs.open_run(tmp_path / "run", "one", {}) as run:
        run.append_history({"step": 1, "loss": 0.5})
        run.append_history({"step": 2, "loss": None})
        before = (run.path / runs.HISTORY).read_bytes()
        with pytest.raises(WorkError, match=r"history.jsonl, line 2' is damaged: loss: Expected `float`, got `null`"):
            run.rewind_history(1, TypedDict("Row", {"step": int, "loss": float}))
        assert (run.path / runs.HISTORY).read_bytes() == before


def test_another_process_that_works_for_this_one_writes_nothing_once_the_folder_has_gone(tmp_path):
    folder = tmp_path / "run"
    with runs.locked(folder):
        locks = files.locks_held()
    assert list(locks) == [(folder / runs.LOCK).resolve()]
    (folder / runs.LOCK).touch()
    with files.held_by_another({folder / runs.LOCK: (folder / runs.LOCK).stat().st_ino}):
        files.write_file(folder / "a" / "b", b"1")
        folder.rename(tmp_path / "elsewhere")
        for write in (
            lambda: files.write_file(folder / "a" / "b", b"2"),
            lambda: files.read_tensors(folder / "a" / "b"),
        ):
            with pytest.raises(WorkError, match="was renamed or removed while it was written"):
                write()
        files.write_file(tmp_path / "other", b"3")
    assert not folder.exists()
    files.write_file(folder / "c", b"4")


def test_an_option_that_became_another_type_is_put_right(tmp_path):
    """``True`` is equal to ``1``, and would be refused when the finished run is read."""
    with runs.open_run(tmp_path / "run", "a command", {"threads": 1}):
        pass
    manifest = files.read_json(tmp_path / "run" / "manifest.json")
    files.write_json(tmp_path / "run" / "manifest.json", manifest | {"config": {"threads": True}})
    with runs.open_run(tmp_path / "run", "a command", {"threads": 1}) as run:
        run.finish({})
    assert files.read_json(tmp_path / "run" / "manifest.json")["config"]["threads"] is not True
