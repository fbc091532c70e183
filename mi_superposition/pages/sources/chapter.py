"""The report's chapter on the sources: every claim of them with its verdict. It has no runs: what it shows comes with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.sources import COLUMNS, SOURCES, VERDICTS, Claim, counts, load_claims

CHAPTER = "sources"
TITLE = "The sources, claim by claim"
INTRO = (
    "Every experiment, number, exercise and open question of the documents that this package started from, with what was measured here, "
    "its control and a verdict. A claim without a number is judged by what it says; one that nothing here measured is not tested, with "
    "the experiment that would answer it."
)


def jobs(request: ChapterRequest) -> dict[str, Job]:  # noqa: ARG001
    """None."""
    return {}


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """A table of counts, and a page per source."""
    claims = load_claims()
    total = Counter(claim.verdict for claim in claims)
    return Section(
        slug=CHAPTER,
        title=TITLE,
        summary="What the sources claim, what was measured here, and what became of each claim.",
        number=f"{total['confirmed']} of {len(claims)}",
        number_is="claims, numbers and exercises of the sources confirmed",
        control=", ".join(f"{total[verdict]} {verdict}" for verdict in VERDICTS[1:]),
        page=Page(CHAPTER, TITLE, INTRO, [_counted(claims)]),
        more=[_page_of(source, [claim for claim in claims if claim.source == source]) for source in SOURCES],
        headline=headline(claims),
        alternatives=alternatives(claims),
    )


def headline(claims: Sequence[Claim]) -> Headline:
    """Whether more claims were confirmed than all others together."""
    confirmed = sum(claim.verdict == "confirmed" for claim in claims)
    return Headline(
        confirmed,
        {"all others together": len(claims) - confirmed},
        yes="Most claims of the sources are confirmed",
        no="Most claims of the sources are not confirmed here",
    )


def alternatives(claims: Sequence[Claim]) -> tuple[Alternative, ...]:
    """Other ways to count: only claims that were tried, and source by source."""
    total, found = Counter(claim.verdict for claim in claims), counts(claims)
    each = ", ".join(f"{found[source]['confirmed']} of {found[source].total()} ({source})" for source in SOURCES)
    return (
        Alternative(
            "only claims that were tried",
            f"{total['confirmed']} confirmed, {total['not confirmed']} not confirmed and {total['refuted']} refuted",
            "python scripts/sources.py",
            "sources.md",
        ),
        Alternative("source by source", f"confirmed: {each}", "python scripts/sources.py", "sources.md"),
    )


def _address(source: str) -> str:
    return f"{CHAPTER}-{source}"


def _counted(claims: Sequence[Claim]) -> TableRecord:
    rows: list[list[str | Link]] = [
        [Link(SOURCES[source], f"{_address(source)}.html"), *_numbers(found)]
        for source, found in counts(claims).items()
    ]
    rows.append(["all", *_numbers(Counter(claim.verdict for claim in claims))])
    return TableRecord(
        id="counts",
        title="Claims by source and verdict",
        look_at=(
            "Refuted: the source's own numbers, its code or ours say the opposite. Not confirmed: tried, and not seen, or seen in the "
            "control as well. Cannot be tested here: it takes a model that is not at hand, or says nothing that could be measured."
        ),
        columns=["source", *VERDICTS, "all"],
        rows=rows,
        prose=(28, *[12] * (len(VERDICTS) + 1)),
    )


def _numbers(found: Counter[str]) -> list[str]:
    return [*(str(found[verdict]) for verdict in VERDICTS), str(found.total())]


def _page_of(source: str, claims: Sequence[Claim]) -> Page:
    table = TableRecord(
        id="claims",
        title="Claims",
        look_at="In the order of the source. The verdict comes last, with what it rests on.",
        columns=COLUMNS,
        rows=[[cell.replace("`", "") for cell in claim.cells] for claim in claims],
        prose=(14, 19, 11, 23, 13, 20),
    )
    found = Counter(claim.verdict for claim in claims)
    told = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)
    return Page(_address(source), SOURCES[source], f"{len(claims)} claims, numbers and exercises: {told}.", [table])
