"""A site's folder, and the list of its files that is kept in it: nothing else is ever written over or removed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import PARTIAL, append_lines, remove, write_file
from mi_superposition.runs import LOCK, check_place, is_page_of_run

# The list: a line with what the site is, then one a file with the hash of what is to stand in it, before it is written.
LIST = ".mi-superposition-site.jsonl"
_FORMAT = 1
# Files whose lines are added to the list at once.
_TOGETHER = 64
_HASH = re.compile(r"[0-9a-f]{64}")
# What a site can be, and how that is said.
RUN, UNITS, REPORT = "run", "units", "report"
_SAID = {RUN: "the pages of a run", UNITS: "pages of neurons", REPORT: "a report"}


class SiteFolder:
    """A folder that is new, empty, or holds a site of this package: of the ``kind`` asked for (``RUN``, ``UNITS`` or ``REPORT``).

    Raises ``RequestError`` for any other folder, and for a place that is no site's: the working directory, a home folder.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        # By the address of each file every content that was to stand there.
        self._listed: dict[str, set[str]] = {}
        self._known_folders: set[Path] = set()
        # Whether the list has its first line.
        self._begun = False
        # The page of a run of version 0.1 has no list; what is in it may be written over, as its folder is the run's.
        self._of_old_run = False
        check_place(folder)
        self._open()

    def write(self, address: str, content: bytes) -> None:
        """Write one file, whole or not at all. Raises as ``write_all``."""
        self.write_all([(address, content)])

    def write_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, taken one after the other, by their addresses in the site.

        Raises ``RequestError`` for a place where something stands that this package did not write, or that was changed since, and
        ``WorkError`` when the disk refuses.
        """
        remaining = iter(files)
        while some := list(itertools.islice(remaining, _TOGETHER)):
            new = []
            for address, content in some:
                digest = hashlib.sha256(content).hexdigest()
                self._check_free(address)
                if digest not in self._listed.get(address, ()):
                    new.append([address, digest])
            header = [] if self._begun else [json.dumps({"site": self.kind, "format": _FORMAT})]
            if header or new:
                append_lines(self.folder / LIST, [*header, *map(json.dumps, new)])
                self._begun = True
            for address, digest in new:
                self._listed.setdefault(address, set()).add(digest)
            for address, content in some:
                write_file(self.folder / address, content)

    def add_folder(self, address: str) -> None:
        """List all files of a folder in the site that other code of this package wrote, such as a run."""
        new = []
        for path in sorted(path for path in (self.folder / address).rglob("*") if path.is_file()):
            name, digest = path.relative_to(self.folder).as_posix(), _digest(path)
            if digest not in self._listed.get(name, ()):
                new.append([name, digest])
                self._listed.setdefault(name, set()).add(digest)
        if new:
            append_lines(self.folder / LIST, map(json.dumps, new))

    def listed(self) -> Iterator[str]:
        """Addresses of the files that are there and stand in the list as they are."""
        self._read()
        for address, digests in sorted(self._listed.items()):
            path = self.folder / address
            if not self._through_link(path) and path.is_file() and _digest(path) in digests:
                yield address

    def remove(self, addresses: Collection[str]) -> None:
        """Remove files that are in the list as they are, and folders that this leaves empty. All else stays."""
        for address in set(self.listed()) & set(addresses):
            path = self.folder / address
            remove(path)
            for above in path.relative_to(self.folder).parents[:-1]:
                if any((self.folder / above).iterdir()):
                    break
                remove(self.folder / above)

    def clear_partial(self) -> None:
        """Remove what a killed process was writing."""
        for address in [*self._listed, LIST]:
            partial = self.folder / (address + PARTIAL)
            if not self._through_link(partial) and partial.is_file():
                remove(partial)

    def _open(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise RequestError(f"{str(self.folder)!r} is a file: give a folder for the site")
        if not self.folder.is_dir():
            return
        self._read()
        if self._begun:
            return
        others = [path.name for path in self.folder.iterdir() if path.name not in (LOCK, LIST, LIST + PARTIAL)]
        if others and is_page_of_run(self.folder):
            self._of_old_run = True
        elif others:
            raise RequestError(
                f"{str(self.folder)!r} holds other files ({min(others)!r}, …): give a new or empty folder, or a site of this package"
            )

    def _read(self) -> None:
        path = self.folder / LIST
        if not path.is_file():
            return
        content = path.read_bytes()
        whole, _, cut = content.rpartition(b"\n")
        if cut:
            # A line that was cut off: of a file that was not written yet.
            write_file(path, whole + b"\n" * bool(whole))
        lines = whole.splitlines()
        if not lines:
            return
        try:
            header, *entries = map(json.loads, lines)
            found, number = header["site"], header["format"]
            listed: dict[str, set[str]] = {}
            for address, digest in entries:
                if not (_HASH.fullmatch(digest) and _is_inside(address)):
                    raise ValueError
                listed.setdefault(address, set()).add(digest)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise WorkError(f"{str(path)!r} is damaged: it is no list of a site's files; give a new folder") from None
        if number != _FORMAT:
            raise RequestError(f"{str(self.folder)!r} was written by another version: give a new folder")
        if found != self.kind:
            raise RequestError(
                f"{str(self.folder)!r} holds {_SAID.get(found, 'another site')}, not {_SAID[self.kind]}: give another folder"
            )
        self._listed, self._begun = listed, True

    def _check_free(self, address: str) -> None:
        path = self.folder / address
        if self._through_link(path):
            raise RequestError(
                f"{str(path)!r} is, or is behind, a link: move it away, or give a new folder for the site"
            )
        if not path.exists() or self._of_old_run:
            return
        if path.is_dir() or address not in self._listed:
            raise RequestError(f"{str(path)!r} was not written by this package: move it away, or give a new folder")
        if _digest(path) not in self._listed[address]:
            raise RequestError(f"{str(path)!r} was changed since it was written: move it away, or give a new folder")

    def _through_link(self, path: Path) -> bool:
        if path.is_symlink():
            return True
        above = path.parent
        while above != self.folder and above not in self._known_folders:
            if above.is_symlink():
                return True
            if above.is_dir():
                self._known_folders.add(above)
            above = above.parent
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_inside(address: str) -> bool:
    path = PurePosixPath(address)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == address
