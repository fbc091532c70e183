"""A subject of another package appears wherever subjects are listed, from one line of registration."""

import os
import subprocess
import sys
from pathlib import Path

FILES = {
    "coins/__init__.py": """
from mi_superposition.subjects import Chapter, Study, Subject

SUBJECT = Subject(
    name="coins",
    question="Is a coin fair?",
    studies=(Study("coins toss", "TossConfig", config="coins.config", studies="coins.toss", pages="coins.show"),),
    chapters=(Chapter("coins", "Coins", "And now for coins.", "one in two", "coins.show"),),
)
""",
    "coins/config.py": """
from dataclasses import dataclass
from mi_superposition.config import AtLeast1, Config
from mi_superposition.parts import SeedPart

@dataclass(frozen=True)
class TossConfig(Config):
    \"\"\"Toss a coin.\"\"\"

    tosses: AtLeast1 = 100
    \"\"\"How often.\"\"\"
    random: SeedPart = SeedPart()
""",
    "coins/toss.py": """
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from mi_superposition.results import Result
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record

@dataclass(frozen=True, repr=False)
class Tosses(Result):
    DRAWN_BY: ClassVar[str] = "coins.show:figure"

    heads: torch.Tensor

    def summary(self):
        return f"{float(self.heads.float().mean()):.2f} heads (0.50 for a fair coin)"

    def to_frame(self):
        return pd.DataFrame({"heads": self.heads.tolist()})

def measure(config, out, progress):
    with open_run(out, "coins toss", config) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        generator = torch.Generator().manual_seed(config.random.seed)
        tosses = Tosses(torch.rand(config.tosses, generator=generator) < 0.5)
        write_record(out / "tosses.safetensors", tosses)
        run.finish({"heads": float(tosses.heads.float().mean())})
    return Outcome(out, finished_already=False)

def load(folder):
    read_manifest(folder, "coins toss")
    return read_record(folder / "tosses.safetensors", Tosses)
""",
    "coins/show.py": """
import plotly.graph_objects as go

from coins.config import TossConfig
from coins.toss import load
from mi_superposition.pages.request import Job
from mi_superposition.site import FigureRecord, Page, Section

def figure(tosses):
    return go.Figure(go.Bar(x=["heads"], y=[int(tosses.heads.sum())]))

def sections(folder):
    tosses = load(folder)
    record = FigureRecord("tosses", "Tosses", "Look at the bar.", "1 bar", "0 bars", figure(tosses))
    page = Page("coins", "Coins", tosses.summary(), [record])
    return [Section("coins", "Coins", "s", tosses.summary(), "n", "0.50", page)]

def jobs(request):
    return {"toss": Job("coins toss", TossConfig(tosses=1000))}

def section(runs, request):
    return sections(runs["coins"]["toss"])[0]
""",
    "coins-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: coins\nVersion: 1.0\n",
    "coins-1.0.dist-info/entry_points.txt": "[mi_superposition.subjects]\ncoins = coins:SUBJECT\n",
}


# In a process of its own, in which the package is installed.
USES = """
import mi_superposition as ms
from mi_superposition.cli import main

def run(*words):
    try:
        assert main(list(words)) == 0, words
    except SystemExit as end:
        # After help.
        assert not end.code, words
    print("----")

run("--help")
run("coins", "toss", "--help")
run("coins", "toss", "--tosses", "200", "--out", "run")
run("page", "run", "--out", "page")
run("report", "--sections", "coins", "--out", "site")
result = ms.load_run("run")
print(result, type(result.plot()), len(result.to_frame()))
"""


def test_a_subject_of_another_package(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.lstrip())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-c", USES]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    overview, options, tossed, _, _, read = done.stdout.split("----\n")
    assert "  coins toss " in overview
    assert "--tosses" in options
    assert tossed.splitlines()[-2].endswith("(0.50 for a fair coin)")
    assert (tmp_path / "run" / "page" / "coins.html").is_file()
    assert (tmp_path / "page" / "coins.html").read_bytes() == (tmp_path / "run" / "page" / "coins.html").read_bytes()
    assert read.startswith("Tosses(0.")
    assert read.split()[-1] == "200"
    index = Path(tmp_path / "site" / "index.html").read_text()
    assert "And now for coins." in index
    assert "one in two" in index
    assert (tmp_path / "site" / "runs" / "coins-toss" / "manifest.json").is_file()
