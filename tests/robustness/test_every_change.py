"""Every command that takes a folder, stopped within every change that it makes to the disk, ends with the same bytes.

One run remembers what its folder looks like within each change; each of these states is put back and the command run again.
That is what kills at random moments look for by chance (``test_killed.py`` has a few real ones).
"""

import errno
import os
import shutil
from pathlib import Path

import pytest
from robustness.fixtures import FULL
from robustness.workshop import WRITES_NOTHING, contents

from mi_superposition import files
from mi_superposition.cli import commands, main
from mi_superposition.files import PARTIAL, read_json
from mi_superposition.runs import MANIFEST
from mi_superposition.site.folder import LIST

# Of these pages are all there is.
SHOWING = {"page", "heads pages", "neurons pages", "report"}
COMMANDS = [name for name in commands() if name not in WRITES_NOTHING]


class Watched(files.Disk):
    """A disk that is asked before and within every change to a file or folder inside ``folder``."""

    def __init__(self, folder: Path):
        self.folder, self.changes = folder, 0

    def at(self, state: str) -> None:
        """``state``: "before" a change, "half" written, or "after" it."""

    def _change(self, path, change):
        if not path.is_relative_to(self.folder):
            return change()
        self.changes += 1
        self.at("before")
        change()
        self.at("after")

    def make_folder(self, path):
        make = super().make_folder
        if path.exists():
            make(path)
        else:
            self._change(path, lambda: make(path))

    def write(self, path, content):
        write = super().write

        def change():
            write(path, content[: len(content) // 2])
            self.at("half")
            write(path, content)

        self._change(path, change)

    def append(self, path, content):
        append = super().append

        def change():
            append(path, content[: len(content) // 2])
            self.at("half")
            append(path, content[len(content) // 2 :])

        self._change(path, change)

    def sync(self, path):
        sync = super().sync
        self._change(path, lambda: sync(path))

    def move(self, path, to):
        move = super().move
        self._change(path, lambda: move(path, to))

    def remove(self, path):
        remove = super().remove
        if path.exists():
            self._change(path, lambda: remove(path))

    def remove_folder(self, path):
        remove = super().remove_folder
        self._change(path, lambda: remove(path))


class Remembering(Watched):
    """Copies the folder at every state that a crash can leave.

    Half a file is the hardest of those around a write: what was written before is there whole, and the file itself must be begun
    again. So it alone is remembered, and the state before a removal; and of the pages of a finished run, which all commands write
    in the same way, the first state alone unless ``with_pages``; of the lines of a site's list, which are all alike, the first two. In a
    full run every state is remembered.
    """

    def __init__(self, folder, kept, *, with_pages):
        super().__init__(folder)
        self.kept, self.with_pages, self.states, self.removing = kept, with_pages, [], False
        self.listed = 0

    def at(self, state):
        if not self.folder.exists() or not (FULL or ((state == "half" or self.removing) and self._counts())):
            return
        self.states.append(self.kept / f"{len(self.states):05d}")
        shutil.copytree(self.folder, self.states[-1])

    def _counts(self):
        return self.with_pages or not any((self.folder / "page").rglob(f"*{PARTIAL}")) or not self._shown()

    def _shown(self):
        return any((state / "page").exists() for state in self.states)

    def append(self, path, content):
        self.listed += path.name == LIST
        if FULL or path.name != LIST or self.listed <= 2:
            super().append(path, content)
        else:
            files.Disk.append(self, path, content)

    def remove(self, path):
        self.removing = True
        super().remove(path)
        self.removing = False


# These take longest.
SLOW = {"sae evaluate", "spectra", "concepts", "toy study", "neurons contexts"}
# Tests that share the states of a command among them, every so manieth each.
PARTS = {"sae train": 3, "report": 2, "neurons pages": 2, "toy train": 2}
STOPPED = [
    pytest.param(name, part, id=f"{name}-{part}", marks=[pytest.mark.slow] * (name in SLOW))
    for name in COMMANDS
    for part in range(PARTS.get(name, 1))
]


@pytest.mark.usefixtures("small_report")
@pytest.mark.parametrize(("name", "part"), STOPPED)
def test_stopped_within_every_change_it_ends_with_the_same_bytes(name, part, shop, tmp_path, counts, monkeypatch):
    out = tmp_path / "out"
    words = ["report", "--out", str(out)] if name == "report" else shop.request(name, out)
    disk = Remembering(out, tmp_path, with_pages=name in SHOWING)
    with monkeypatch.context() as watched:
        watched.setattr(files, "_disk", disk)
        assert main(words) == 0
    assert len(disk.states) > 3
    expected = contents(out)
    states = disk.states[part :: PARTS.get(name, 1)]
    for state in states:
        shutil.rmtree(out)
        os.rename(state, out)
        # Complete or visibly incomplete, never half written.
        if (out / MANIFEST).exists() and "status" in (manifest := read_json(out / MANIFEST)):
            finished = manifest["status"] == "finished"
            # The pages of a run are written once it is finished, their index last.
            shown = (out / "page" / "index.html").exists()
            whole_by_now = {file for file in expected if shown or not file.startswith("page/")}
            assert not finished or contents(out).keys() >= whole_by_now
        assert main(words) == 0, state.name
        found = contents(out)
        assert found.keys() == expected.keys(), state.name
        assert [file for file in found if found[file] != expected[file]] == [], state.name
    counts["changes to a disk"] += disk.changes if part == 0 else 0
    counts["crashes gone on from"] += len(states)


class Failing(Watched):
    """Refuses every change from the ``nth`` on that needs room."""

    def __init__(self, folder, nth):
        super().__init__(folder)
        self.nth = nth

    def at(self, state):
        if state == "before" and self.changes >= self.nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def remove(self, path):
        files.Disk.remove(self, path)

    def remove_folder(self, path):
        files.Disk.remove_folder(self, path)


@pytest.mark.usefixtures("small_report")
@pytest.mark.parametrize("name", COMMANDS if FULL else ["page"])
def test_a_disk_that_is_full_at_any_change_is_said_in_one_line_and_costs_nothing(
    name, shop, tmp_path, counts, monkeypatch, capsys
):
    whole = tmp_path / "whole"
    watched = Failing(whole, 10**9)
    with monkeypatch.context() as patched:
        patched.setattr(files, "_disk", watched)
        assert main(shop.request(name, whole)) == 0
    expected = contents(whole)
    for nth in range(1, watched.changes + 1):
        out = tmp_path / f"full-{nth}"
        words = shop.request(name, out)
        capsys.readouterr()
        with monkeypatch.context() as patched:
            patched.setattr(files, "_disk", Failing(out, nth))
            code = main(words)
        error = capsys.readouterr().err.splitlines()
        assert code == 1, nth
        assert error[-1].startswith("mi-superposition: cannot "), error
        assert "No space left on device" in error[-1], error
        assert not list(out.rglob(f"*{PARTIAL}"))
        assert main(words) == 0
        found = contents(out)
        assert found.keys() == expected.keys(), nth
        assert [file for file in found if found[file] != expected[file]] == [], nth
        shutil.rmtree(out)
    counts["full disks gone on from"] += watched.changes
