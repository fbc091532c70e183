"""The README and the pages of docs: their commands run, their code runs, their links lead somewhere, their numbers are measured."""

import json
import re
import shlex
from pathlib import Path

import pytest
from robustness.workshop import with_options

from mi_superposition.cli import commands as known
from mi_superposition.cli import main
from mi_superposition.files import read_json

ROOT = Path(__file__).parent.parent
# commands.md is made when the docs are built.
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.stem != "commands")]
# What makes each command quick; what it says otherwise stands as it is.
SMALLER = {
    "report": ["--sections", "toy"],
    "addition train": ["--epochs", "1", "--n-train", "2000", "--n-test", "100"],
    "addition evaluate": ["--n-problems", "1000"],
    "addition certify": ["--boxes", "100", "--n-problems", "1000", "--threads", "1"],
    "addition program": ["--n-fit", "2000", "--n-problems", "500", "--random-sets", "5"],
    "heads trigrams": [
        "--features",
        "20",
        "--controls",
        "2",
        "--occurrences",
        "4",
        "--tried",
        "60",
        "--permutations",
        "2",
    ],
    "page": [],
    "neurons contexts": ["--documents", "40"],
    "sae recover": [],
    "heads ablate": ["--n-problems", "50", "--random-sets", "20"],
    "heads project": [],
    "neurons order": ["--controls", "2", "--seconds", "0.02"],
    "heads scan": ["--documents", "40"],
    "heads pages": [],
    "neurons scan": ["--documents", "40"],
    "neurons pages": [],
    "neurons try": [],
    "toy train": ["--n-instances", "2", "--n-steps", "10"],
    "toy study": ["--n-instances", "1", "--n-steps", "10"],
    "sae train": ["--tokens", "4000", "--batch-size", "64", "--buffer-batches", "4", "--d-sae", "64", "--k", "4"],
    "sae evaluate": ["--control-tokens", "0", "--documents", "10"],
    "spectra": ["--epochs", "1"],
    "concepts": [
        "--documents",
        "4000",
        "--per-concept",
        "50",
        "--random-lists",
        "2",
        "--random-probes",
        "1",
        "--permutations",
        "20",
    ],
}


def blocks(page, language):
    """The fenced blocks of a page in a language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for name, text in found if name == language]


def commands(page):
    """The lines of its blocks that call us, as words."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("mi-superposition ")]


def name_of(words):
    return next(name for name in (" ".join(words[:2]), words[0]) if name in known())


def test_the_readme_has_every_command():
    assert sorted(name_of(words) for words in commands(PAGES[0])) == sorted(known())


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    """As it stands, but smaller, one after the other in one folder."""
    monkeypatch.chdir(tmp_path)
    for words in commands(PAGES[0]):
        assert main(with_options(words, SMALLER[name_of(words)])) == 0, words
        said = capsys.readouterr().out.splitlines()
        if "--out" in words:
            out = words[words.index("--out") + 1]
            assert re.fullmatch(rf"[\w ,]+: {out}(/index.html)?", said[-1]), said
            assert (tmp_path / out).is_dir()


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_commands_of_the_pages_are_those_of_the_readme(page):
    assert all(words in commands(PAGES[0]) for words in commands(page))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text()], ids=lambda page: page.stem
)
def test_code_runs_as_it_stands(page, tmp_path, tiny_gpt2, monkeypatch):
    """All blocks of a page, one after the other, where a model and a text of one's own lie."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "folder").symlink_to(tiny_gpt2.folder)
    texts = [f"Once upon a time there was a cat who ran {n} miles." for n in range(40)]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps({"story": text}) for text in texts))
    names = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for address in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / address).exists(), address


@pytest.fixture
def script(monkeypatch):
    """`scripts/readme.py` as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import readme

    return readme


def test_the_tables_are_those_of_the_committed_results(script):
    text = PAGES[0].read_text()
    assert script.readme(text, read_json(script.FINDINGS), read_json(script.SPEEDS)) == text
    for name in ("findings", "entry points", "speeds"):
        assert text.count(f"<!-- {name}: made by scripts/readme.py -->") == 1
    assert script.HEADLINES.read_text() == script.headlines_page(read_json(script.FINDINGS))


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+(?:\.\d+)?", text.replace(",", ""))]


@pytest.mark.slow
def test_the_committed_results_are_those_of_the_report(script, whole_report_site):
    """Built here anew: the same words, and numbers within two per cent, as another processor rounds otherwise."""
    committed = read_json(script.FINDINGS)["sections"]
    sections = read_json(whole_report_site / "manifest.json")["sections"]
    assert list(committed) == list(sections)
    for name, section in sections.items():
        assert list(section["card"]) == list(committed[name])
        for key in section["card"]:
            told, written = (json.dumps(card[key]) for card in (section["card"], committed[name]))
            assert re.sub(r"[\d.,]+", "#", told) == re.sub(r"[\d.,]+", "#", written)
            assert numbers(told) == pytest.approx(numbers(written), rel=0.02)


def test_every_number_of_the_readme_is_measured(script):
    """Outside the tables, and names, versions and code, it has none of its own."""
    text = PAGES[0].read_text()
    for name in ("findings", "entry points", "speeds"):
        text = re.sub(rf"<!-- {name}: .*?<!-- end of {name} -->", "", text, flags=re.S)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`]*`|\[[^\]]*\]\([^)]*\)", "", text)
    text = text.replace("Python 3.11", "")
    text = re.sub(
        r"Exit\s+codes:\s+0 done, 1 the work failed, 2 the request was wrong, 130 stopped by the user, 129", "", text
    )
    assert re.findall(r"\d[\d.,]*\s*%?", text) == []
