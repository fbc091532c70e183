"""Malformed requests of every command: one line, the right exit code, nothing half done."""

from __future__ import annotations

import contextlib
import io
import shutil
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from robustness.fixtures import FULL
from robustness.workshop import WRITES_NOTHING

from mi_superposition.cli import commands, main
from mi_superposition.files import read_json
from mi_superposition.runs import MANIFEST

EXAMPLES = 50 if FULL else 10
# No option of any command is a number like these. As text they are names of nothing.
_NOT_NUMBERS = [
    "",
    "x",
    "nan",
    "-nan",
    "1..5",
    "--5",
    "1e",
    "0x1g",
    "½",
    "1,5",
    "-inf",
    "\u202e1",
    "1 2",
    "None",
    "[]",
    "-1",
]
_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    [
        "/nonexistent",
        "../..",
        "~",
        "a\nb",
        "-",
        "x" * 300,
        "\ud800",
        "%s",
        "{}",
        "hub/none",
        "a/b/c",
        "con",
        "--out",
        "file:///etc",
    ]
)
_JUNK = st.binary(max_size=200) | st.sampled_from(
    [
        b"{",
        b"[]",
        b"null",
        b"PAR1",
        b"\xff\xfe\x00",
        b'{"status": "finished"}',
        b"\x08\0\0\0\0\0\0\0{}      ",
        b"[[1, 2], 3]",
    ]
)
_FILES = [
    "texts.txt",
    "lines.jsonl",
    "table.parquet",
    "table.csv",
    "lists.json",
    "manifest.json",
    "config.json",
    "model.safetensors",
]


def takes_number(option) -> bool:
    return any(word in str(option.annotation) for word in ("int", "float")) and "str" not in str(option.annotation)


def takes_path(option) -> bool:
    return "Path" in str(option.annotation) or option.name in (
        "model",
        "corpus",
        "sae",
        "images",
        "concepts",
        "activations",
    )


def positional(option) -> bool:
    return "Positional" in str(option.annotation)


@st.composite
def malformed(draw, name, shop, scratch):
    """The words of a small request of a command with something wrong in them, and what it was."""
    words = shop.request(name, scratch / "out")
    fields = [
        option for option in commands()[name].load_config().options() if option.name != "out" and not positional(option)
    ]
    numbers, paths = [f for f in fields if takes_number(f)], [f for f in fields if takes_path(f)]
    kinds = (
        ["option", "word"] + ["text"] * bool(fields) + ["number"] * bool(numbers) * 3 + ["junk", "run"] * bool(paths)
    )
    match draw(st.sampled_from(kinds)):
        case "option":
            return [*words, f"--{draw(st.text(string.ascii_lowercase, min_size=1, max_size=8))}-not-there", "1"]
        case "word":
            return [*words, f"!{draw(_NAMES)}"]
        case "number":
            option = draw(st.sampled_from(numbers))
            return [*words, _flag(option), draw(st.sampled_from(_NOT_NUMBERS))]
        case "text":
            option = draw(
                st.sampled_from(
                    [f for f in fields if not takes_number(f) and "bool" not in str(f.annotation)] or fields
                )
            )
            return [*words, _flag(option), f"no such thing {draw(_NAMES)}"]
        case "junk":
            file = scratch / "junk" / draw(st.sampled_from(_FILES))
            file.parent.mkdir()
            file.write_bytes(draw(_JUNK))
            return [*words, _flag(draw(st.sampled_from(paths))), str(draw(st.sampled_from([file, file.parent])))]
        case "run":
            # A folder that holds the start of something else's run.
            out = scratch / "out"
            out.mkdir()
            (out / draw(st.sampled_from([MANIFEST, "metrics.json", "thesis.tex"]))).write_bytes(draw(_JUNK))
            return words


def _flag(field) -> str:
    return f"--{field.name.replace('_', '-')}"


@pytest.mark.parametrize("name", commands())
def test_malformed_requests_are_one_line_and_leave_nothing_half_done(name, shop, tmp_path_factory, counts, monkeypatch):
    scratch, well_formed = tmp_path_factory.mktemp("malformed"), []
    # A name that was meant to be wrong may be right for a new folder.
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        words = data.draw(malformed(name, shop, scratch))
        out = scratch / "out"
        before = {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}
        said, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
            code = main(words)
        counts["malformed requests"] += 1
        last = (error.getvalue().splitlines() or [""])[-1]
        assert code in (0, 1, 2), words
        assert {path: path.read_bytes() for path in before} == before or code == 0, words
        if code:
            assert last.startswith("mi-superposition: "), (words, error.getvalue())
            assert len(last) > len("mi-superposition: ") + 5, (words, last)
            assert said.getvalue() == "", words
            new = {path for path in out.rglob("*") if path.is_file()} - before.keys()
            if code == 2:
                assert not new, (words, new)
            elif (out / MANIFEST) in new:
                assert read_json(out / MANIFEST)["status"] == "running", words
        else:
            # Some are well-formed after all: then the whole result is there.
            counts["of them well-formed after all"] += 1
            assert out.exists() or name in WRITES_NOTHING, words
            well_formed.append(words)

    check()
    # Or the requests are not malformed enough to say anything.
    assert len(well_formed) <= EXAMPLES // 3, well_formed
