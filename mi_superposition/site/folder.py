"""A site's folder, and the list of its files that is kept in it: nothing else is ever written over or removed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypedDict

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import PARTIAL, append_lines, file_hash, remove, remove_if_empty, write_file
from mi_superposition.runs import LOCK, check_place, is_page_of_run, locked
from mi_superposition.schemas import parse_as

# The list: a line with what the site is, then one a file with the hash of what is to stand in it, before it is written.
LIST = ".mi-superposition-site.jsonl"
_FORMAT = 1
# Files whose lines are added to the list at once.
_TOGETHER = 64
_HASH = re.compile(r"[0-9a-f]{64}")
# What a site can be, and how that is said.
RUN, UNITS, HEAD_PAGES, REPORT = "run", "units", "heads", "report"
_SAID = {RUN: "the pages of a run", UNITS: "pages of neurons", HEAD_PAGES: "pages of heads", REPORT: "a report"}


class _Header(TypedDict):
    """The first line of a site's list; each further one is an address and its file's hash."""

    site: str
    format: int


class SiteFolder:
    """A folder that is new, empty, or holds a site of this package: of the ``kind`` asked for (``RUN``, ``UNITS``, ``HEAD_PAGES`` or ``REPORT``).

    Raises ``RequestError`` for any other folder, and for a place that is no site's: the working directory, a home folder.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        # By the address of each file every content that was to stand there.
        self._listed: dict[str, set[str]] = {}
        self._known_folders: set[Path] = set()
        # Whether the list has its first line.
        self._begun = False
        # The page of a run of version 0.1 has no list; what is in it is listed first, as its folder is the run's.
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
        self._begin()
        remaining = iter(files)
        while some := list(itertools.islice(remaining, _TOGETHER)):
            for address, _ in some:
                self._check_free(address)
            self._add((address, hashlib.sha256(content).hexdigest()) for address, content in some)
            for address, content in some:
                write_file(self.folder / address, content)

    def add_folder(self, address: str) -> None:
        """List all files of a folder in the site that other code of this package has just made, such as a run."""
        self._begin()
        self._add(self._files_in(self.folder / address))

    def lists_any_in(self, address: str) -> bool:
        """Whether any file of a folder in the site is listed."""
        return any(listed.startswith(f"{address}/") for listed in self._listed)

    def listed(self) -> Iterator[str]:
        """Addresses of the files that are there and stand in the list as they are."""
        return (address for address in sorted(self._listed) if self._is_as_written(address))

    def remove(self, addresses: Collection[str]) -> None:
        """Remove files that are in the list as they are, and folders that this leaves empty. All else stays."""
        for address in sorted(addresses):
            if address in self._listed and self._is_as_written(address):
                path = self.folder / address
                remove(path)
                for above in path.relative_to(self.folder).parents[:-1]:
                    remove_if_empty(self.folder / above)

    def _is_as_written(self, address: str) -> bool:
        path = self.folder / address
        return not self._through_link(path) and path.is_file() and file_hash(path) in self._listed[address]

    def _begin(self) -> None:
        """Write the list's first line, and in the page of an old run what is there."""
        if not self._begun:
            old = [[*one] for one in self._files_in(self.folder)] if self._of_old_run else []
            lines = [{"site": self.kind, "format": _FORMAT}, *old]
            if old:
                # At once: a part of it would be a list of its own.
                write_file(self.folder / LIST, "".join(json.dumps(line) + "\n" for line in lines).encode())
            else:
                append_lines(self.folder / LIST, map(json.dumps, lines))
            self._listed = {address: {digest} for address, digest in old}
            self._begun, self._of_old_run = True, False

    def _files_in(self, folder: Path) -> list[tuple[str, str]]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        kept = [path for path in paths if path.name not in (LOCK, LIST) and not path.name.endswith(PARTIAL)]
        return [(path.relative_to(self.folder).as_posix(), file_hash(path)) for path in kept]

    def _add(self, files: Iterable[tuple[str, str]]) -> None:
        new = [[address, digest] for address, digest in files if digest not in self._listed.get(address, ())]
        if new:
            append_lines(self.folder / LIST, map(json.dumps, new))
        for address, digest in new:
            self._listed.setdefault(address, set()).add(digest)

    def clear_partial(self) -> None:
        """Remove what a killed process was writing."""
        for address in [*self._listed, LIST]:
            partial = self.folder / (address + PARTIAL)
            if not self._through_link(partial.parent) and partial.is_file() and not partial.is_symlink():
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
        if path.is_symlink():
            raise RequestError(f"{str(path)!r} is a link: give a new folder")
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
        header: _Header = parse_as(lines[0], _Header, f"{path}, line 1")
        found, number = header["site"], header["format"]
        listed: dict[str, set[str]] = {}
        for place, line in enumerate(lines[1:], start=2):
            address, digest = parse_as(line, tuple[str, str], f"{path}, line {place}")
            if not (_HASH.fullmatch(digest) and _is_inside(address)):
                raise WorkError(
                    f"{f'{path}, line {place}'!r} is damaged: {address!r} is no file of a site with its hash"
                )
            listed.setdefault(address, set()).add(digest)
        if number != _FORMAT:
            raise RequestError(f"{str(self.folder)!r} was written by another version: give a new folder")
        if found != self.kind:
            raise RequestError(
                f"{str(self.folder)!r} holds {_SAID.get(found, 'another site')}, not {_SAID[self.kind]}: give another folder"
            )
        self._listed, self._begun = listed, True

    def _check_free(self, address: str) -> None:
        if not _is_inside(address):
            raise RequestError(f"{address!r} is no address in a site: give one like 'pages/name.html'")
        path = self.folder / address
        if self._through_link(path) or path.with_name(path.name + PARTIAL).is_symlink():
            raise RequestError(
                f"{str(path)!r} is, or is behind, a link: move it away, or give a new folder for the site"
            )
        if not path.exists():
            return
        if path.is_dir() or address not in self._listed:
            raise RequestError(f"{str(path)!r} was not written by this package: move it away, or give a new folder")
        if file_hash(path) not in self._listed[address]:
            raise RequestError(f"{str(path)!r} was changed since it was written: move it away, or give a new folder")

    def _through_link(self, path: Path) -> bool:
        if path.is_symlink():
            return True
        above = path.parent
        while above != self.folder and above != above.parent and above not in self._known_folders:
            if above.is_symlink():
                return True
            if above.is_dir():
                self._known_folders.add(above)
            above = above.parent
        return False


@contextmanager
def opened_site(folder: Path, kind: str) -> Iterator[SiteFolder]:
    """A site that no other process of ours writes meanwhile. Raises as ``SiteFolder``, before anything is there, and as ``locked``."""
    SiteFolder(folder, kind)
    # The page of a run with its run, which takes away what a killed process left of the lock.
    with locked(folder.parent if is_page_of_run(folder) else folder):
        # Another process may have written it until now.
        yield SiteFolder(folder, kind)


def _is_inside(address: str) -> bool:
    path = PurePosixPath(address)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == address
