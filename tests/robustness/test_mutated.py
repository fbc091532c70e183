"""Files of ours that became something else: whoever reads them back says so in one line, or is right all the same."""

import contextlib
import io
import random
import shutil

import pytest
from robustness.fixtures import FULL
from robustness.mutations import mutated

import mi_superposition as ms
from mi_superposition.cli import commands, main
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json, write_json
from mi_superposition.runs import MANIFEST, METRICS
from mi_superposition.site.folder import LIST
from mi_superposition.subjects import Study

STUDIES = [name for name, command in commands().items() if isinstance(command, Study)]
# Of each run so many mutations; in a full run all of them.
TRIED = 40
LONGEST = 400
# Each takes a second or less.
QUICK = {"addition train", "toy train", "neurons order", "sae train"}


def some_of(folder, seed, names=()):
    every = [one for one in mutated(folder) if not names or one[1].name in names]
    random.Random(seed).shuffle(every)
    return every if FULL else every[:TRIED]


def told_in_one_line(read, what):
    """Whether it was refused, in one line that is not long."""
    try:
        read()
    except (RequestError, WorkError) as error:
        said = str(error)
        assert "\n" not in said, (what, said)
        assert len(said) < LONGEST, (what, said)
        return True
    return False


def command_of(words):
    """The exit code of a command, checked to say one line where it fails."""
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        code = main([str(word) for word in words])
    assert code in (0, 1, 2), words
    if code:
        last = error.getvalue().splitlines()[-1]
        assert last.startswith("mi-superposition: "), (words, error.getvalue())
        assert len(last) < LONGEST, (words, last)
    return code


@contextlib.contextmanager
def as_bytes(path, content):
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory):
    """A finished run of a command."""

    def run(name):
        out = tmp_path_factory.mktemp("mutated") / "run"
        assert command_of(shop.request(name, out)) == 0
        return out

    return run


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
)
def test_a_run_folder_is_read_or_refused_in_one_line(name, finished, tmp_path, counts, capsys):
    run = finished(name)
    refused = 0
    for what, path, content in some_of(run, name):
        counts["mutated files"] += 1
        with as_bytes(path, content):
            if path.name != MANIFEST and not ("second" in what and path.name == METRICS):
                # Whatever was done to it, it is not what the run wrote.
                with pytest.raises(WorkError, match=r"was changed since the run wrote it|metrics.json' is damaged"):
                    ms.load_run(run)
                refused += 1
                continue
            refused += told_in_one_line(lambda: ms.load_run(run).summary(), (path, what))
            command_of(["page", run, "--out", tmp_path / "page"])
            command_of([*name.split(), "--config", run / MANIFEST, "--print-config"])
    counts["of them refused"] += refused
    assert refused > 0
    # And whole again, it is read.
    ms.load_run(run)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
)
def test_a_run_that_kept_no_hashes_is_held_to_what_is_declared(name, finished, counts):
    """Those of version 0.1."""
    run = finished(name)
    manifest = read_json(run / MANIFEST)
    del manifest["files"]
    write_json(run / MANIFEST, manifest)
    for what, path, content in some_of(run, f"{name} declared"):
        counts["mutated files"] += 1
        with as_bytes(path, content):
            counts["of them refused"] += told_in_one_line(lambda: ms.load_run(run), (path, what))


def test_a_file_of_a_run_is_gone_or_named_elsewhere(finished):
    run = finished("toy train")
    [weights] = [name for name in read_json(run / MANIFEST)["files"] if name.endswith(".safetensors")]
    (run / weights).rename(run.parent / weights)
    with pytest.raises(WorkError, match=rf"{weights}' is missing"):
        ms.load_run(run)
    (run.parent / weights).rename(run / weights)
    manifest = read_json(run / MANIFEST)
    write_json(run / MANIFEST, manifest | {"files": {"../run/history.jsonl": "0" * 64}})
    with pytest.raises(WorkError, match="is missing"):
        ms.load_run(run)


def test_models_and_autoencoders(shop, tmp_path, counts):
    for name, file, load in (("addition", "model.json", ms.load_model), ("sae", "cfg.json", ms.load_sae)):
        folder = tmp_path / name
        shutil.copytree(shop.root / name, folder)
        for what, path, content in some_of(folder, name, [file]):
            counts["mutated files"] += 1
            with as_bytes(path, content):
                counts["of them refused"] += told_in_one_line(
                    lambda load=load, folder=folder: load(folder), (path, what)
                )


def test_a_saved_model(tiny_gpt2, tmp_path, counts):
    ms.save_model(tiny_gpt2.hooked, tmp_path / "saved")
    for what, path, content in some_of(tmp_path / "saved", "saved", ["model.json"]):
        counts["mutated files"] += 1
        with as_bytes(path, content):
            counts["of them refused"] += told_in_one_line(lambda: ms.load_model(tmp_path / "saved"), (path, what))


def test_the_list_of_a_site(finished, tmp_path, counts):
    run, site = finished("addition train"), tmp_path / "site"
    command = ["page", run, "--out", site]
    assert command_of(command) == 0
    original = (site / LIST).read_bytes()
    for _, path, content in some_of(site, "site", [LIST]):
        counts["mutated files"] += 1
        before = {file: file.read_bytes() for file in site.rglob("*.html")}
        path.write_bytes(content)
        counts["of them refused"] += command_of(command) != 0
        # What is no list of ours removes nothing.
        assert all(file.exists() for file in before)
        path.write_bytes(original)
