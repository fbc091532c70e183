"""Commands that take a run, go on with one, or write a site again, of which a field of a file became something else."""

import functools
import shutil

import pytest
from robustness.altered import command_of, some_of, try_each
from robustness.workshop import TEXTS, contents, with_options
from stopping import StopsAfter

from mi_superposition.cli import commands
from mi_superposition.cli.parsing import parse
from mi_superposition.files import read_json, write_json
from mi_superposition.runs import CHECKPOINT, HISTORY, MANIFEST
from mi_superposition.site.folder import LIST
from mi_superposition.training import Stopped

# By command: the run it takes, the option that names it, and what makes the request small enough to be made a thousand times.
READERS = {
    "neurons pages": ("small-scan", "--scan", []),
    "neurons scan": ("sae", "--sae", ["--documents", 4]),
    "sae evaluate": ("sae", "--sae", ["--documents", 4, "--pursuit-tokens", 0]),
    "concepts": ("sae", "--sae", ["--permutations", 5, "--random-lists", 2]),
    "heads ablate": ("addition", "--model", ["--n-problems", 20, "--random-sets", 5]),
    "heads project": ("addition", "--model", []),
    "addition evaluate": ("addition", "--model", ["--n-problems", 100]),
}
# Of these a sample takes half a minute.
SLOW = {"concepts"}


def results(folder):
    """What a command made, without what it says of its request."""
    return {
        name: content
        for name, content in contents(folder).items()
        if name not in (MANIFEST, LIST) and not name.startswith("page/")
    }


@pytest.fixture(scope="module")
def few_texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("few") / "texts.txt"
    path.write_text("<|endoftext|>".join(TEXTS[:24]))
    return path


@pytest.mark.parametrize("hashes", [True, False], ids=["as it is", "without hashes"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in READERS])
def test_a_run_that_another_command_takes(name, hashes, shop, few_texts, tmp_path, counts):
    """With the hashes of its files a run that is accepted gives the same result, unless its manifest says another valid thing."""
    kind, option, small = READERS[name]
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(shop.root / kind, run)
    if not hashes:
        manifest = read_json(run / MANIFEST)
        del manifest["files"]
        write_json(run / MANIFEST, manifest)
    words = with_options(shop.request(name, out), [option, run, *small])
    if "--corpus" in words and name != "concepts":
        words = with_options(words, ["--corpus", few_texts])
    assert command_of(words) == 0
    expected = results(out)

    def read(what, path):
        shutil.rmtree(out, ignore_errors=True)
        code = command_of(words)
        if code == 0:
            assert hashes is False or path.name == MANIFEST or results(out) == expected
        # A wrong request leaves nothing.
        assert code != 2 or not out.exists()
        return code != 0

    try_each(some_of(run, f"{name} {hashes}", tried=15), read, counts)


# Each is stopped when it has a checkpoint.
TRAININGS = {"addition train": 3, "toy train": 6, "sae train": 6, "neurons scan": 10, "spectra": 4, "sae evaluate": 4}
MORE = {
    "addition train": ["--log-every-epochs", 1],
    "spectra": ["--epochs", 2, "--layers", "fc*"],
    "sae evaluate": ["--documents", 4, "--pursuit-tokens", 0],
}


@pytest.fixture(scope="module")
def stopped(shop, tmp_path_factory):
    """The words of a command, the folder of a run that was stopped midway, and what is there when it has gone on to its end."""

    @functools.cache
    def run(name):
        root = tmp_path_factory.mktemp("stopped")
        words = with_options(shop.request(name, root / "run"), MORE.get(name, []))
        command = commands()[name]
        request = parse(command, words[len(name.split()) :])
        with pytest.raises(Stopped):
            command.measuring().measure(request.config, root / "run", StopsAfter(TRAININGS[name]))
        assert (root / "run" / CHECKPOINT).exists()
        shutil.copytree(root / "run", root / "whole")
        assert command_of(with_options(words, ["--out", root / "whole"])) == 0
        return words, root / "run", results(root / "whole")

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("spectra", "sae evaluate"))) for name in TRAININGS]
)
def test_a_run_that_was_stopped(name, stopped, tmp_path, counts):
    """What goes on goes on to the same result, but for the rows of its history that are what somebody made of them."""
    words, run, expected = stopped(name)
    out = tmp_path / "out"
    words = with_options(words, ["--out", out])

    def read(what, path):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(run, out)
        if command_of(words) != 0:
            # Put right, it goes on.
            assert (out / CHECKPOINT).read_bytes() == (run / CHECKPOINT).read_bytes()
            return True
        found = results(out)
        assert found.keys() == expected.keys()
        altered = {HISTORY} if path.name == HISTORY else set()
        assert [file for file in found if found[file] != expected[file] and file not in altered] == []
        return False

    mutations = some_of(run, name, tried=20)
    assert {path.name for _, path, _ in mutations} >= {CHECKPOINT, MANIFEST}
    try_each(mutations, read, counts)


@pytest.mark.usefixtures("small_report")
def test_a_report(tmp_path, counts):
    """Its list, its manifest and its runs. What is accepted ends in the very same site; what is the user's stays."""
    site, out = tmp_path / "site", tmp_path / "out"
    assert command_of(["report", "--out", site]) == 0
    (site / "mine.html").write_text("mine")
    expected = contents(site)

    def read(what, path):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site, out)
        refused = command_of(["report", "--out", out]) != 0
        found = contents(out)
        assert found["mine.html"] == b"mine"
        if not refused:
            assert found.keys() == expected.keys()
            # What is of no use to a site that is whole stays as somebody made it.
            altered = path.relative_to(site).as_posix()
            assert [file for file in found if found[file] != expected[file] and file != altered] == []
        return refused

    try_each(some_of(site, "report", tried=30), read, counts)
