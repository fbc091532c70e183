"""Commands on machines that lack something: a reader, a terminal, a home, a place for temporary files, a folder that stays where it is."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from robustness.test_limits import UNSHARE, may
from robustness.workshop import WRITES_NOTHING, contents, finish, with_options

import mi_superposition
from mi_superposition.cli import commands
from mi_superposition.files import PARTIAL, read_json
from mi_superposition.runs import LOCK, MANIFEST, read_history

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals and shells of POSIX")


def some(fast, *, of):
    """Commands, of which all but ``fast`` are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in fast)) for name in of]


FOLDERS = [name for name in commands() if name not in WRITES_NOTHING]
# A training that takes minutes, and has a row of history at once.
LONG = {
    "toy train": ["--n-steps", 200_000],
    "addition train": ["--epochs", 5_000_000, "--log-every-epochs", 10],
}


def program(words):
    return [sys.executable, "-m", "mi_superposition.cli", *map(str, words)]


def environment(**changes):
    """That of the tests, in which Python keeps what is said for a while as it does everywhere else; ``None`` leaves a variable out."""
    package = str(Path(mi_superposition.__file__).parents[1])
    found = {**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": None, "OMP_WAIT_POLICY": None, **changes}
    return {name: value for name, value in found.items() if value is not None}


def shell(script, words, *, options=(), **changes):
    """The command as "$@" of a script, which says its exit code on descriptor 3: that code, standard output and standard error."""
    reading, writing = os.pipe()
    try:
        command = [*options, "bash", "-c", f"exec 3>&{writing}; {script}", "bash", *program(words)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment(**changes), pass_fds=[writing]
        )
        os.close(writing)
        code = os.read(reading, 100).decode().strip()
    finally:
        os.close(reading)
    assert code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return int(code), done.stdout, done.stderr


RUN = '"$@"; echo $? >&3'


def in_letters(text):
    """As a terminal with no other letters shows it."""
    return text.encode("ascii", "backslashreplace").decode()


@pytest.fixture(scope="module")
def whole(shop, tmp_path_factory):
    """What a command makes on a usual machine, and what it says, with WHOLE for its folder."""
    root = tmp_path_factory.mktemp("whole")

    @functools.cache
    def make(name):
        out = root / name.replace(" ", "-")
        code, said, error = shell(RUN, shop.request(name, out))
        assert code == 0, error
        return contents(out), said.replace(str(out), "WHOLE")

    return make


# Machines on which every command ends as on any other: a script, and the environment.
LETTERS = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LACKING = {**LETTERS, "TERM": "dumb", "HOME": None, "TMPDIR": __file__}
FILES = "ulimit -n 64; "
MACHINES = {
    "no terminal that can do anything": (RUN, {"TERM": "dumb"}),
    "an alphabet of English letters": (RUN, LETTERS),
    "no home": (RUN, {"HOME": None}),
    "a home that is not there": (RUN, {"HOME": "/proc/none"}),
    "a temporary folder that is a file": (RUN, {"TMPDIR": __file__}),
    "a temporary folder that is not there": (RUN, {"TMPDIR": "/proc/none"}),
    "64 open files": (FILES + RUN, {}),
    "no standard output": ('"$@" >&-; echo $? >&3', {}),
    "no standard error": ('"$@" 2>&-; echo $? >&3', {}),
    "no standard stream": ('"$@" <&- >&- 2>&-; echo $? >&3', {}),
    "a reader who goes away": ('{ "$@"; echo $? >&3; } | true', {}),
    "a reader of everything who goes away": ('{ "$@" 2>&1; echo $? >&3; } | true', {}),
    "a standard error that is full": ('"$@" 2>/dev/full; echo $? >&3', {}),
    "all of that": (FILES + RUN, LACKING),
    "all of that and no standard stream": (FILES + '"$@" <&- >&- 2>&-; echo $? >&3', LACKING),
    "all of that and no reader": (FILES + '{ "$@" 2>&1; echo $? >&3; } | true', LACKING),
}
FAST = {("toy train", machine) for machine in MACHINES if machine.startswith("all of that")}


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        pytest.param(name, machine, marks=[pytest.mark.slow] * ((name, machine) not in FAST))
        for name in commands()
        for machine in MACHINES
    ],
)
def test_on_a_strange_machine_a_command_ends_as_on_any_other(name, machine, shop, whole, tmp_path, counts):
    expected, said = whole(name)
    script, changes = MACHINES[machine]
    out = tmp_path / "out"
    code, out_said, error = shell(script, shop.request(name, out), **changes)
    assert code == 0, error
    assert "mi-superposition: " not in error
    if script.endswith(RUN):
        assert in_letters(out_said) == in_letters(said).replace("WHOLE", str(out))
    found = contents(out)
    assert found.keys() == expected.keys()
    assert [file for file in found if found[file] != expected[file]] == []
    counts["strange machines"] += 1


@pytest.mark.parametrize("words", [["--help"], ["toy", "train", "--help"], ["toy", "train", "--print-config"]])
def test_what_is_asked_for_may_be_read_in_part_or_not_at_all(words):
    for script in ('{ "$@"; echo $? >&3; } | head -1', '"$@" >&-; echo $? >&3', '"$@" 2>&-; echo $? >&3'):
        code, _, error = shell(script, words)
        assert (code, error) == (0, "")
    code, _, error = shell('"$@" >/dev/full; echo $? >&3', words)
    assert (code, error) == (1, "mi-superposition: No space left on device 'standard output'\n")


def test_a_wrong_request_is_one_where_nobody_reads_why():
    for closed in ("2>&-", ">&- 2>&-"):
        assert shell(f'"$@" {closed}; echo $? >&3', ["toy", "train", "--n-steps", "0"]) == (2, "", "")


_NOTHING_TO_WRITE = """
mount --make-rprivate / && mount --bind "$PLACE" /mnt && mount -o remount,ro,bind / && cd / || exit
"""


@pytest.mark.skipif(not may("--mount"), reason="namespaces are not permitted here")
@pytest.mark.parametrize("name", some(["neurons order"], of=FOLDERS))
def test_where_only_one_folder_can_be_written_it_runs_if_temporary_files_may_go_there(name, shop, tmp_path, counts):
    """As in many containers: neither the home nor what is installed can be written, so nothing compiled is kept."""
    options = [*UNSHARE, "--mount"]
    script = f"{_NOTHING_TO_WRITE} {RUN}"
    place = {"PLACE": str(tmp_path), "HOME": None, "NUMBA_CACHE_DIR": None}
    words = shop.request(name, Path("/mnt/out"))
    code, said, error = shell(script, words, options=options, TMPDIR=None, **place)
    assert (code, said) == (1, ""), error
    assert error.startswith("mi-superposition: No usable temporary directory found in ["), error
    assert error.endswith("]: set TMPDIR to a folder that can be written\n"), error
    code, _, error = shell(script, words, options=options, TMPDIR="/mnt", **place)
    assert code == 0, error
    assert (tmp_path / "out").exists()
    counts["read-only machines"] += 1


def heeding_signals():
    """Where the tests run under nohup, what they begin would not heed SIGHUP either."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def begun(words, out, **options):
    """The command in a process of its own, once it has said in its history how it stands."""
    process = subprocess.Popen(
        program(words), stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=heeding_signals, **options
    )
    until = time.monotonic() + 120
    while not read_history(out):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
    return process


def ended(process):
    """Its exit code and the last line that it said."""
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error, error
    return process.returncode, error.replace("\r", "\n").splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGHUP, 129),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", some(["addition train"], of=LONG))
def test_a_signal_to_stop_leaves_a_checkpoint(name, number, code, shop, tmp_path, counts):
    out = tmp_path / "out"
    words = with_options(shop.request(name, out), LONG[name])
    process = begun(words, out)
    process.send_signal(number)
    got, last = ended(process)
    assert got == code
    assert last.startswith("mi-superposition: stopped after step ")
    assert last.endswith(": run the same command again to resume")
    assert (out / "checkpoint.safetensors").exists()
    assert read_json(out / MANIFEST)["status"] == "running"
    assert not (out / LOCK).exists()
    # And it goes on from there.
    rows = len(read_history(out))
    process = begun(words, out)
    until = time.monotonic() + 60
    while len(read_history(out)) <= rows:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate()
    counts["signals"] += 1


@pytest.mark.slow
def test_the_end_of_a_terminal_stops_what_nohup_did_not_begin(shop, tmp_path):
    """A terminal that goes away takes standard output and error with it."""
    out = tmp_path / "out"
    words = with_options(shop.request("addition train", out), LONG["addition train"])
    ours, theirs = os.openpty()
    process = subprocess.Popen(program(words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment())
    os.close(theirs)
    while not read_history(out):
        assert process.poll() is None
        time.sleep(0.01)
    os.close(ours)
    rows = len(read_history(out))
    while len(read_history(out)) < rows + 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    assert (out / "checkpoint.safetensors").exists()
    ignored = begun(words, out, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    ignored.send_signal(signal.SIGHUP)
    rows = len(read_history(out))
    while len(read_history(out)) < rows + 3:
        assert ignored.poll() is None
        time.sleep(0.01)
    ignored.send_signal(signal.SIGTERM)
    assert ended(ignored)[0] == 130


@pytest.mark.parametrize(
    "how", ["renamed", *(pytest.param(how, marks=pytest.mark.slow) for how in ("removed", "replaced"))]
)
@pytest.mark.parametrize("name", some(["addition train"], of=LONG))
def test_a_run_that_is_renamed_or_removed_while_it_is_written_is_not_made_anew(name, how, shop, tmp_path, counts):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    words = with_options(shop.request(name, out), LONG[name])
    process = begun(words, out)
    # Where it is renamed it is moved at once, and what is removed is first; so that nothing is written between.
    os.rename(out, elsewhere)
    if how == "removed":
        shutil.rmtree(elsewhere)
    if how == "replaced":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        (out / LOCK).touch()
    code, last = ended(process)
    assert code == 1
    assert last == (
        f"mi-superposition: {str(out)!r} was renamed or removed while it was written, or .lock in it: run the command again where it is now, or for a "
        "new folder"
    )
    assert out.exists() == (how == "replaced")
    if how == "replaced":
        assert sorted(path.name for path in out.iterdir()) == [LOCK, "mine.txt"]
    if how != "removed":
        # Under its new name it is a run like any other that was stopped, and goes on.
        rows = len(read_history(elsewhere))
        process = begun(with_options(shop.request(name, elsewhere), LONG[name]), elsewhere)
        while len(read_history(elsewhere)) <= rows:
            assert process.poll() is None
            time.sleep(0.01)
        assert not list(elsewhere.glob(f"*{PARTIAL}")) or process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 130
    counts["folders moved away"] += 1


# What Ray's workers write: a run for each autoencoder, or a file for each shard. Options, and what is there once they are at it.
ON_WORKERS = {
    "sae train": (["--k", 2, 4, "--tokens", 20_000_000, "--buffer-batches", 8], "*/history.jsonl"),
    "neurons scan": (["--shard", 1], "shards/*.safetensors"),
}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")
@pytest.mark.parametrize("name", ON_WORKERS)
def test_workers_make_no_folder_anew_that_was_renamed(name, shop, tmp_path, counts):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    more, written = ON_WORKERS[name]
    words = with_options(shop.request(name, out), [*more, "--engine", "ray"])
    process = subprocess.Popen(program(words), stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 120
    while not any(out.glob(written)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.rename(out, elsewhere)
    code, last = ended(process)
    assert code == 1, last
    assert last.startswith(f"mi-superposition: {str(out)!r} was renamed or removed while it was written")
    assert not out.exists()
    assert read_json(elsewhere / MANIFEST)["status"] == "running"
    counts["folders moved away"] += 1


def test_two_commands_on_one_folder_by_any_of_its_names(shop, tmp_path, counts):
    """The second is refused, and the first notices nothing."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    out = real / "out"
    words = with_options(shop.request("addition train", out), LONG["addition train"])
    process = begun(words, out)
    names = [out, link / "out", real / ".." / "real" / "out", Path(os.path.relpath(out))]
    for other in names:
        code, said, error = finish(with_options(words, ["--out", other]), tmp_path / "said")
        assert (code, said) == (2, "")
        assert error == (
            f"mi-superposition: {str(other)!r} is being written by another process: wait for it or take another folder\n"
        )
        counts["second commands"] += 1
    if may("--mount"):
        bound = tmp_path / "bound"
        bound.mkdir()
        script = f'mount --bind "{real}" "{bound}"; {RUN}'
        elsewhere = with_options(words, ["--out", bound / "out"])
        code, _, error = shell(script, elsewhere, options=[*UNSHARE, "--mount"])
        assert code == 2
        assert "is being written by another process" in error
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 130
    assert (out / "checkpoint.safetensors").exists()


def test_waiting_threads_do_not_spin_where_nobody_says_otherwise():
    """Read by the library when torch is loaded, so torch must come later."""
    code = (
        "import os, sys\n"
        "from mi_superposition.cli import main\n"
        "main(['--help'])\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    for given, expected in ((None, "PASSIVE False"), ("ACTIVE", "ACTIVE False")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment(OMP_WAIT_POLICY=given)
        )
        assert done.stdout.splitlines()[-1] == expected
