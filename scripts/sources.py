"""The page "The sources, claim by claim" (docs/sources.md), from the claims and the replicas' results that the package has.

python scripts/sources.py                      # writes docs/sources.md
python scripts/sources.py --replicas FOLDER    # first takes the results there, NAME.json of scripts/replicas/NAME.py --out
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mi_superposition.files import read_json, write_file, write_json
from mi_superposition.sources import COLUMNS, FOLDER, REPLICAS, SOURCES, VERDICTS, Claim, counts, load_claims

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "sources.md"
# Of what a replica wrote, all but the details.
KEPT = ("replica", "settings", "rows", "versions")

INTRODUCTION = """# The sources, claim by claim

Every experiment, number, exercise and open question of the documents that this package started from, in their order: where it stands, what
was measured here and how, its control, and a verdict.

- **confirmed**: measured, and so; or right by arithmetic or definition.
- **not confirmed**: tried, and not seen, or seen in the control as well.
- **refuted**: the source's own numbers, its code or a measurement say the opposite.
- **cannot be tested here**: it takes a model that is not at hand, or says nothing that a number could answer.
- **not tested**: nothing here measured it. The row says what would.

`python scripts/sources.py` writes this page from `mi_superposition/bundled/sources`. Numbers beside a script of `scripts/replicas` are those
that the script wrote; the others stand in the files named after them. The report has the same tables.
"""


def main() -> None:
    """Take results where there are new ones, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=Path, metavar="FOLDER", help="results of scripts/replicas to take")
    options = parser.parse_args()
    if options.replicas is not None:
        found = {path.stem: read_json(path) for path in sorted(options.replicas.glob("*.json"))}
        before = read_json(FOLDER / REPLICAS) if (FOLDER / REPLICAS).exists() else {}
        taken = {name: {key: one[key] for key in KEPT} for name, one in found.items()}
        write_json(FOLDER / REPLICAS, before | taken)
    write_file(PAGE, page(load_claims()).encode())


def page(claims: Sequence[Claim]) -> str:
    """The page of these claims."""
    parts = [INTRODUCTION, "## Claims by source and verdict\n", counts_table(claims)]
    for source, name in SOURCES.items():
        parts += [f"## {name}\n", claims_table([claim for claim in claims if claim.source == source])]
    return "\n".join(parts)


def counts_table(claims: Sequence[Claim]) -> str:
    """A row a source, and one of all."""
    rows = [(SOURCES[source], found) for source, found in counts(claims).items()]
    rows.append(("all", Counter(claim.verdict for claim in claims)))
    return _table(
        ["source", *VERDICTS, "all"],
        [[name, *(str(found[verdict]) for verdict in VERDICTS), str(found.total())] for name, found in rows],
        ["---", *["---:"] * (len(VERDICTS) + 1)],
    )


def claims_table(claims: Sequence[Claim]) -> str:
    """A row a claim, with the files that hold its numbers."""
    rows = []
    for claim in claims:
        where, said, reported, ours, control, verdict = map(markdown, claim.cells)
        files = ", ".join(
            f"`{name}`" for name in claim.evidence.split("; ") if not name.startswith("none") and name not in claim.did
        )
        bold = verdict.replace(claim.verdict, f"**{claim.verdict}**", 1)
        rows.append([where, said, reported, f"{ours} ({files})" if files else ours, control, bold])
    return _table(COLUMNS, rows, ["---"] * len(COLUMNS))


def markdown(text: str) -> str:
    """Text as it is, in a cell of a table; what stands between backticks is code."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_<\[\]$~^])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[str]) -> str:
    lines = [columns, rules, *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), ""])


if __name__ == "__main__":
    main()
