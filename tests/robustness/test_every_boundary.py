"""Every command that takes a folder, stopped before and within every single change it makes to the disk, ends with the same bytes."""

import os
import shutil
from pathlib import Path

import pytest
from robustness.workshop import WRITES_NOTHING, contents

from mi_superposition import files
from mi_superposition.cli import commands, main
from mi_superposition.files import read_json
from mi_superposition.runs import MANIFEST

LONG = [name for name in commands() if name not in WRITES_NOTHING]


class Remembering(files.Disk):
    """Keeps a copy of a folder as each change leaves it, and of each file half written: what a crash at that point would leave."""

    def __init__(self, folder: Path, kept: Path):
        self.folder, self.kept, self.changes, self.states = folder, kept, 0, []

    def remember(self):
        self.states.append(self.kept / f"{len(self.states):05d}")
        shutil.copytree(self.folder, self.states[-1])

    def make_folder(self, path):
        self.changes += 1
        new = not path.exists()
        super().make_folder(path)
        if new:
            self.remember()

    def write(self, path, content):
        self.changes += 1
        super().write(path, content[: len(content) // 2])
        self.remember()
        super().write(path, content)
        self.remember()

    def append(self, path, content):
        self.changes += 1
        super().append(path, content[: len(content) // 2])
        self.remember()
        super().append(path, content[len(content) // 2 :])
        self.remember()

    def sync(self, path):
        self.changes += 1
        super().sync(path)

    def move(self, path, to):
        self.changes += 1
        super().move(path, to)
        self.remember()

    def remove(self, path):
        self.changes += 1
        there = path.exists()
        super().remove(path)
        if there:
            self.remember()

    def remove_folder(self, path):
        self.changes += 1
        super().remove_folder(path)
        self.remember()


@pytest.mark.parametrize("name", LONG)
def test_stopped_at_every_change_it_ends_with_the_same_bytes(name, shop, tmp_path, counts, monkeypatch):
    out = tmp_path / "out"
    words = shop.request(name, out)
    disk = Remembering(out, tmp_path)
    with monkeypatch.context() as watched:
        watched.setattr(files, "_disk", disk)
        assert main(words) == 0
    expected = contents(out)
    for state in disk.states:
        shutil.rmtree(out)
        os.rename(state, out)
        # Complete or visibly incomplete, never half written.
        if (out / MANIFEST).exists() and "status" in (manifest := read_json(out / MANIFEST)):
            finished = manifest["status"] == "finished"
            # The pages of a run are written once it is finished, their index last.
            shown = (out / "page" / "index.html").exists()
            whole_by_now = {file for file in expected if shown or not file.startswith("page/")}
            assert not finished or contents(out).keys() >= whole_by_now
        assert main(words) == 0
        found = contents(out)
        assert found.keys() == expected.keys(), state.name
        assert [file for file in found if found[file] != expected[file]] == [], state.name
    counts["changes to a disk"] += disk.changes
    counts["crashes resumed"] += len(disk.states)
