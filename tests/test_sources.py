"""The claims of the sources: every row whole, every number of a replica the one that it wrote, the page of docs made from them."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from mi_superposition.errors import WorkError
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.pages.sources.chapter import section
from mi_superposition.site import write_site
from mi_superposition.sources import (
    CLAIMS,
    FOLDER,
    REPLICAS,
    SOURCES,
    VERDICTS,
    Claim,
    counts,
    load_claims,
    load_replicas,
)

ROOT = Path(__file__).parent.parent
# A row of a replica answers these, but was written for another claim.
OTHERWISE = ("Summary, privileged but not aligned basis",)
CLAIM = """
[[claim]]
source = "arena"
where = "1"
claim = "It is so."
reported = "1"
did = "arithmetic"
verdict = "confirmed"
why = "It is."
evidence = "none"
"""


@pytest.fixture(scope="module")
def claims():
    return load_claims()


@pytest.fixture
def folder(tmp_path):
    """A folder for claims, with one replica."""
    row = {"claim": "a", "source": 1, "ours": 0.123456, "control": None, "verdict": "ours", "why": ""}
    other = row | {"claim": "b", "ours": "as much", "control": "2 untrained"}
    replica = {"replica": "one", "settings": {}, "rows": [row, other], "versions": {}}
    (tmp_path / REPLICAS).write_text(json.dumps({"one": replica}))
    return tmp_path


@pytest.fixture
def script(monkeypatch):
    """`scripts/sources.py` as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import sources

    return sources


def test_every_claim_is_whole(claims):
    assert len(claims) == 219
    assert list(dict.fromkeys(claim.source for claim in claims)) == list(SOURCES)
    for claim in claims:
        for field in fields(Claim):
            value = getattr(claim, field.name)
            assert (isinstance(value, str) and value.strip() == value != "") or field.name in ("replica", "rows"), claim
        assert claim.verdict in VERDICTS
        assert (claim.verdict == "not tested") == ("Would answer it: " in claim.why), claim
    written = tomllib.loads((FOLDER / CLAIMS).read_text())["claim"]
    known = {field.name for field in fields(Claim)}
    assert all(set(row) <= known for row in written)


def test_evidence_is_there(claims):
    for claim in claims:
        for name in claim.evidence.split("; "):
            assert name.startswith("none") or (ROOT / name).exists(), (claim.where, name)


def test_replicas_are_scripts_whose_rows_are_named(claims):
    replicas = load_replicas()
    assert {claim.replica for claim in claims} - {None} == set(replicas)
    for name, replica in replicas.items():
        assert (ROOT / "scripts" / "replicas" / f"{name}.py").is_file()
        assert all(row.claim and row.verdict in (*VERDICTS, "ours") for row in replica.rows)
    # Where one row answers a claim, both say the same of it.
    for claim in claims:
        if claim.replica is not None and len(claim.rows) == 1:
            row = replicas[claim.replica].row(claim.rows[0])
            assert row is not None
            assert row.verdict in (claim.verdict, "ours") or claim.where in OTHERWISE, claim


def test_counts_are_of_all_claims(claims):
    found = counts(claims)
    assert list(found) == list(SOURCES)
    assert sum(counter.total() for counter in found.values()) == len(claims)


def test_numbers_come_from_the_replica(folder):
    (folder / CLAIMS).write_text(
        CLAIM + 'replica = "one"\nrows = ["a"]\n' + CLAIM + 'replica = "one"\nrows = ["a", "b"]\n'
    )
    one, two = load_claims(folder)
    assert (one.ours, one.control) == ("a: 0.1235", "none")
    assert (two.ours, two.control) == ("a: 0.1235; b: as much", "b: 2 untrained")
    assert one.cells[-1] == "confirmed: It is."


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (CLAIM, "without a replica it has ours and control"),
        (CLAIM + 'replica = "one"\nrows = ["c"]\n', "no replica 'one' has a row 'c'"),
        (CLAIM + 'replica = "two"\nrows = ["a"]\n', "no replica 'two' has a row 'a'"),
        (CLAIM + 'replica = "one"\nrows = ["a"]\nours = "1"\ncontrol = "1"\n', "neither ours nor control"),
        (CLAIM.replace('"confirmed"', '"open"') + 'ours = "1"\ncontrol = "1"\n', "Invalid enum value 'open'"),
        (CLAIM.replace('"It is."', '""') + 'ours = "1"\ncontrol = "1"\n', r"claim\[0\].*why"),
        ("[[claim", "cannot read"),
    ],
)
def test_a_claim_that_is_wrong_is_refused_in_one_line(folder, changed, said):
    (folder / CLAIMS).write_text(changed)
    with pytest.raises(WorkError, match=said) as refused:
        load_claims(folder)
    assert "\n" not in str(refused.value)


def test_the_page_of_docs_is_what_the_script_writes(claims, script):
    assert script.PAGE.read_text() == script.page(claims)


def test_text_in_a_table_of_markdown(script):
    assert script.markdown("|x| of 2*3 is `a_b|c`, d_e < 1") == r"\|x\| of 2\*3 is `a_b\|c`, d\_e \< 1"


def test_the_chapter_has_every_claim(claims):
    found = section({}, ChapterRequest(["sources"]))
    tables = [page.items[0] for page in found.more]
    assert [len(table.rows) for table in tables] == [counter.total() for counter in counts(claims).values()]
    assert [page.title for page in found.more] == list(SOURCES.values())
    assert found.page.items[0].rows[-1][-1] == str(len(claims))
    assert found.number.endswith(f" of {len(claims)}")


@pytest.mark.browser
def test_a_row_of_sentences_is_a_block_on_a_narrow_screen(tmp_path, visit):
    write_site([section({}, ChapterRequest(["sources"]))], tmp_path / "site", title="t", lead="l")
    for width, display in ((1440, "table-cell"), (390, "block")):
        page, problems, _ = visit(tmp_path / "site" / "sources-arena.html", width=width)
        assert problems == []
        cell = page.locator("table.prose td").nth(1)
        assert cell.evaluate("cell => getComputedStyle(cell).display") == display
        assert cell.get_attribute("data-column") == "reported"
        assert page.evaluate("document.querySelector('.scroll').scrollWidth") <= width
