"""Files of ours that became something else: whoever reads them back says so in one line, or is right all the same."""

import re
import shutil

import pytest
from robustness.altered import command_of, some_of, told_in_one_line, try_each
from robustness.mutations import IN_REVERSE

import mi_superposition as ms
from mi_superposition.cli import commands
from mi_superposition.errors import WorkError
from mi_superposition.files import read_json, write_json
from mi_superposition.runs import MANIFEST, METRICS
from mi_superposition.site.folder import LIST
from mi_superposition.subjects import Study

STUDIES = [name for name, command in commands().items() if isinstance(command, Study)]
# Each takes a second or less.
QUICK = {"addition train", "toy train", "neurons order", "sae train"}


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
def test_a_run_folder_is_read_or_refused_in_one_line(name, finished, tmp_path, counts):
    run = finished(name)

    def read(what, path):
        # Of what lies in folders of its own there are none.
        hashed = path.parent == run and path.name != MANIFEST
        # Of numbers the hash is of their names and values, but for timings: in another order they are the same.
        if hashed and not (path.name == METRICS and ("second" in what or what == IN_REVERSE)):
            # Whatever was done to it, it is not what the run wrote.
            said = "read, though it is not what the run wrote"
            try:
                ms.load_run(run)
            except WorkError as error:
                said = str(error)
            assert re.search(r"was changed since the run wrote it|metrics.json' is damaged", said), said
            return True
        command_of(["page", run, "--out", tmp_path / "page"])
        command_of([*name.split(), "--config", run / MANIFEST, "--print-config"])
        return told_in_one_line(lambda: ms.load_run(run).summary())

    try_each(some_of(run, name), read, counts)
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
    try_each(some_of(run, f"{name} declared"), lambda what, path: told_in_one_line(lambda: ms.load_run(run)), counts)


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
        read = lambda what, path, load=load, folder=folder: told_in_one_line(lambda: load(folder))  # noqa: E731
        try_each(some_of(folder, name, [file]), read, counts)


def test_a_saved_model(tiny_gpt2, tmp_path, counts):
    saved = tmp_path / "saved"
    ms.save_model(tiny_gpt2.hooked, saved)
    read = lambda what, path: told_in_one_line(lambda: ms.load_model(saved))  # noqa: E731
    try_each(some_of(saved, "saved", ["model.json"]), read, counts)


@pytest.mark.parametrize("name", ["page", "neurons pages"])
def test_the_list_of_a_site(name, shop, tmp_path, counts):
    site = tmp_path / "site"
    command = shop.request(name, site)
    assert command_of(command) == 0
    list_before = (site / LIST).read_bytes()
    files = {file for file in site.rglob("*") if file.is_file()}
    (site / "mine.html").write_text("mine")

    def read(what, path):
        refused = command_of(command) != 0
        # What is no list of ours removes nothing.
        assert all(file.exists() for file in files)
        assert (site / "mine.html").read_text() == "mine"
        (site / LIST).write_bytes(list_before)
        return refused

    try_each(some_of(site, "site", [LIST]), read, counts)
