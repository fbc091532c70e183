"""The workshop, furnished once; a small report; how many times each thing is tried; and the counts, told at the end."""

import os
from collections import Counter

import pytest
import torch
from robustness import workshop

from mi_superposition.files import read_json
from mi_superposition.models import build_gpt2, save_hugging_face
from mi_superposition.pages.request import Job
from mi_superposition.runs import METRICS
from mi_superposition.site import Page, Section
from mi_superposition.site.records import TableRecord
from mi_superposition.stories.train import train_tokenizer
from mi_superposition.subjects import Chapter
from mi_superposition.toy.config import ToyConfig

# With ROBUSTNESS=full every command is killed twenty times and fed fifty malformed requests.
FULL = os.environ.get("ROBUSTNESS") == "full"
COUNTS: Counter[str] = Counter()


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A small story model, its texts, and finished runs."""
    from conftest import built_once

    root = built_once(tmp_path_factory, "workshop", _furnished)
    return workshop.Workshop(root, root / "model")


def _furnished(root):
    sizes = dict(d_vocab=400, n_ctx=64, d_model=16, d_mlp=48, n_layers=2, n_heads=2)
    model = build_gpt2(**sizes, dropout=0.0, end_token=0, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_hugging_face(model, train_tokenizer(workshop.TEXTS, 400), root / "model")
    workshop.furnish(root, root / "model")


class SmallChapter(Chapter):
    """A chapter of one small run."""

    def showing(self):
        return self

    def jobs(self, request):
        return {"train": Job("toy train", ToyConfig.of(n_instances=1, n_steps=2))}

    def section(self, runs, request):
        rows = [
            [name, str(value)]
            for name, value in read_json(runs[self.name]["train"] / METRICS).items()
            if "second" not in name
        ]
        page = Page(
            self.name, self.title, "intro", [TableRecord("numbers", "Numbers", "what", ["name", "value"], rows)]
        )
        return Section(self.name, self.title, "summary", "1", "number", "control", page)


@pytest.fixture
def small_report(monkeypatch):
    """A report of two small chapters."""
    small = {name: SmallChapter(name, name.title(), "on", "was reported", "") for name in ("one", "two")}
    for module in ("config", "write"):
        monkeypatch.setattr(f"mi_superposition.report.{module}.chapters", lambda: small)


@pytest.fixture(scope="session")
def counts():
    """What was tried, counted by kind."""
    return COUNTS


def pytest_sessionfinish(session):
    """A worker hands its counts over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["robustness"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """And they are added up."""
    COUNTS.update(getattr(node, "workeroutput", {}).get("robustness", {}))


def pytest_terminal_summary(terminalreporter):
    """A line with the counts."""
    if COUNTS:
        told = ", ".join(f"{number:,} {what}" for what, number in sorted(COUNTS.items()))
        terminalreporter.write_line(f"robustness: {told}")
