"""What the source documents claim, number by number, and what became of each claim here.

The claims are in ``bundled/sources/claims.toml``, one a row. A claim that a replica answers names it (a script of ``scripts/replicas``)
and the rows of its table; ours and the control's numbers are then taken from what the replica wrote (``replicas.json`` beside it).
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from mi_superposition.errors import WorkError
from mi_superposition.schemas import convert_as, read_as

# By the name that a claim has for its source, in the order in which they are shown.
SOURCES = {
    "stringer": "R. A. Stringer, Unravelling Superposition",
    "thaman": "K. Thaman, A. Rigg, N. Oozeer, J. David, Experiments in Superposition, Alignment Jam 10",
    "arena": "ARENA, Toy models of superposition (C. McDougall)",
    "pramodith": "Pramodith B., Mechanistic Interpretability: What's Superposition?",
}
Verdict = Literal["confirmed", "not confirmed", "refuted", "cannot be tested here", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
# What a table of claims shows of each, in this order.
COLUMNS = ("where", "claim", "reported", "ours", "control", "verdict")

# Of a claim for which nothing was done.
NOTHING = "nothing yet"

FOLDER = Path(__file__).parent / "bundled" / "sources"
CLAIMS, REPLICAS = "claims.toml", "replicas.json"

_Text = Annotated[str, Meta(min_length=1)]
_Value = float | int | str | None


@dataclass(frozen=True)
class ReplicaRow:
    """A row of a replica's table: the source's number, ours, the control's, and what the replica says of it."""

    claim: _Text
    source: _Value
    ours: _Value
    control: _Value
    verdict: str
    why: str


@dataclass(frozen=True)
class Replica:
    """What a script of ``scripts/replicas`` measured, with which settings and versions."""

    replica: _Text
    settings: dict[str, Any]
    rows: list[ReplicaRow]
    versions: dict[str, str]

    def row(self, claim: str) -> ReplicaRow | None:
        """The row of this claim; ``None`` where there is no such row."""
        return next((row for row in self.rows if row.claim == claim), None)


@dataclass(frozen=True)
class Claim:
    """One claim, number, exercise or open question of a source (``where`` in it), and what became of it.

    ``did`` and ``evidence`` say by which command and in which files ``ours`` and ``control`` were measured, ``why`` what the verdict rests
    on. ``rows`` are those of the ``replica`` that answers it, where one does.
    """

    source: str
    where: str
    claim: str
    reported: str
    did: str
    ours: str
    control: str
    verdict: Verdict
    why: str
    evidence: str
    replica: str | None = None
    rows: tuple[str, ...] = ()

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """What a table shows of it, by ``COLUMNS``; commands stand between backticks."""
        ours = self.ours if self.did == NOTHING else f"{self.ours}. How: {self.did}"
        return self.where, self.claim, self.reported, ours, self.control, f"{self.verdict}: {self.why}"


@dataclass(frozen=True)
class _Written:
    """A claim as the file has it: with numbers of its own, or with a replica's rows."""

    source: Literal["stringer", "thaman", "arena", "pramodith"]
    where: _Text
    claim: _Text
    reported: _Text
    did: _Text
    verdict: Verdict
    why: _Text
    evidence: _Text
    ours: _Text | None = None
    control: _Text | None = None
    replica: _Text | None = None
    rows: tuple[_Text, ...] = ()


@dataclass(frozen=True)
class _File:
    claim: list[_Written]


def load_claims(folder: Path = FOLDER) -> list[Claim]:
    """All claims, in the order of the sources. Raises ``WorkError`` for files that hold something else, or name a row that is not there."""
    replicas = load_replicas(folder)
    path = folder / CLAIMS
    try:
        parsed = tomllib.loads(path.read_text(encoding="utf-8"))
        written: _File = convert_as(parsed, _File, CLAIMS)
        return [_completed(one, replicas) for one in written.claim]
    except (OSError, ValueError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {error}") from error


def load_replicas(folder: Path = FOLDER) -> dict[str, Replica]:
    """What the replicas measured, by the name of their script."""
    return read_as(folder / REPLICAS, dict[str, Replica])


def counts(claims: Sequence[Claim]) -> dict[str, Counter[str]]:
    """How many claims of each source have which verdict."""
    return {source: Counter(claim.verdict for claim in claims if claim.source == source) for source in SOURCES}


def _completed(written: _Written, replicas: Mapping[str, Replica]) -> Claim:
    place = f"{written.source}, {written.where}"
    ours, control = written.ours, written.control
    if written.replica is None:
        if ours is None or control is None or written.rows:
            raise ValueError(f"{place}: without a replica it has ours and control, and no rows")
    else:
        if ours is not None or control is not None or not written.rows:
            raise ValueError(f"{place}: with a replica it has its rows, and neither ours nor control")
        rows = [_named(replicas, written.replica, row, place) for row in written.rows]
        ours = _told(rows, [row.ours for row in rows])
        # Of one row it follows ours, which says what it is of.
        control = _shown(rows[0].control) if len(rows) == 1 else _told(rows, [row.control for row in rows])
    return Claim(
        written.source, written.where, written.claim, written.reported, written.did, ours, control, written.verdict,
        written.why, written.evidence, written.replica, written.rows,
    )  # fmt: skip


def _named(replicas: Mapping[str, Replica], name: str, claim: str, place: str) -> ReplicaRow:
    row = replicas[name].row(claim) if name in replicas else None
    if row is None:
        raise ValueError(f"{place}: no replica {name!r} has a row {claim!r}")
    return row


def _told(rows: Sequence[ReplicaRow], values: Sequence[_Value]) -> str:
    """The values of a replica's rows, with what each is of."""
    told = [f"{row.claim}: {_shown(value)}" for row, value in zip(rows, values, strict=True) if value is not None]
    return "; ".join(told) or _shown(None)


def _shown(value: _Value) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
