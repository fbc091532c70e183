"""Shared by all tests: nothing may ask the hub, and what numba compiles is left as it is."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# With `-n` each process has a core: more threads, whatever a command asks for, wait for those of the other. Read when torch is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from importlib.machinery import PathFinder

# jaxtyping's hook (`--jaxtyping-packages` in pyproject.toml) checks every annotated axis at every call. Modules without such
# annotations are found before the hook finds them, and so are those that numba compiles (it can neither see through a checking
# wrapper nor keep what it compiled of one), configurations (they check their values themselves and say more of a wrong one), and
# the site's records, of which there are thousands a page.
COMPILED = {f"mi_superposition.neurons.{module}" for module in ("bound", "near_tree", "path", "scan.kernel")}


def is_unchecked(name, file):
    return (
        name in COMPILED
        or name.rpartition(".")[2] in ("config", "parts")
        or name.startswith("mi_superposition.site.")
        or "jaxtyping" not in Path(file).read_text()
    )


class UncheckedFinder(PathFinder):
    """Python's own finder, for these modules alone."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if not name.startswith("mi_superposition"):
            return None
        found = super().find_spec(name, path, target)
        return found if found and found.origin and is_unchecked(name, found.origin) else None


# Before any module of the package is imported.
sys.meta_path.insert(0, UncheckedFinder)

from dataclasses import dataclass, replace

import pytest
import torch
from filelock import FileLock
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.train import build_addition_model
from mi_superposition.models.catalogue import BUNDLED_MODELS
from mi_superposition.sae.catalogue import BUNDLED_SAES

torch.set_num_threads(1)

pytest_plugins = ["robustness.fixtures", "studies.sae.sae_runs"]


# What is made by tests that share it, so that one worker makes it once. Of what takes longest each stands for itself.
SMALL_REPORT = "test_report_pages.py::test_every_kind_of_page_of_a_small_report"
GROUPS = {
    "report": ("test_report.py", SMALL_REPORT, "site/test_site.py"),
    "ray": ("studies/neurons/test_scan_runs.py", "studies/neurons/test_contexts.py", "studies/sae/", "pages/sae/"),
}
ALONE = ("test_notebooks.py", "robustness/", "test_report_pages.py", "models/test_architectures.py")
# Begun first: what takes longest, the small report by one worker and the workshop by the other.
FIRST = (*GROUPS["report"], "robustness/", "test_notebooks.py", "studies/", "pages/", "test_")


def in_tests(nodeid):
    return nodeid.removeprefix("tests/")


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that both workers end together."""
    items.sort(
        key=lambda item: next((at for at, start in enumerate(FIRST) if in_tests(item.nodeid).startswith(start)), 99)
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Groups of files, else whole files, so that a module's fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            test = in_tests(nodeid)
            group = next((group for group, starts in GROUPS.items() if test.startswith(starts)), None)
            return group or (nodeid if test.startswith(ALONE) else test.partition("::")[0])

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def small_config(**changes) -> AdditionConfig:
    """Two-digit additions with four heads: trains in a second."""
    fields = dict(
        n_digits=2,
        n_heads=4,
        d_head=2,
        d_model=16,
        n_train=64,
        n_test=16,
        batch_size=16,
        epochs=6,
        steps_per_epoch=4,
        warmup_steps=2,
        log_every_epochs=2,
    )
    return AdditionConfig().replace(**{**fields, **changes})


@pytest.fixture(scope="session")
def tiny_model():
    """An untrained two-digit addition model whose weights are large enough for heads to differ."""
    model = build_addition_model(small_config())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def paper_model():
    """The bundled model."""
    from mi_superposition import load_model

    return load_model("addition", device="cpu")


def built_once(tmp_path_factory, name, build):
    """The folder ``name`` that ``build(folder)`` makes, for all workers of a run of the tests: the first that needs it makes it."""
    # Each worker has a folder of its own in that of the run.
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.done").exists():
            build(root / name)
            (root / f"{name}.done").touch()
    return root / name


# Options of the runs of a small report, by their command.
SMALLER = {
    "addition evaluate": {"n_problems": 2_000},
    "addition program": {"n_fit": 2_000, "n_problems": 500, "random_sets": 5},
    "addition certify": {"boxes": 100, "n_problems": 1_000},
    "heads ablate": {"n_problems": 200, "random_sets": 50},
    "neurons order": {"controls": 3, "seconds": 0.05},
    "neurons contexts": {"documents": 100, "random_directions": 32},
    "sae recover": {"toy_steps": 600, "sae_steps": 100},
}


@pytest.fixture(scope="session")
def report_site(tmp_path_factory):
    """A report with all its pages, of models with at most 64 units a layer, and of short runs."""
    return built_once(tmp_path_factory, "report", _small_report)


@pytest.fixture(scope="session")
def whole_report_site(tmp_path_factory):
    """The whole report, built as a user builds it."""
    return built_once(tmp_path_factory, "whole-report", _whole_report)


def _small_report(site):
    from small_bundle import small_bundle

    from mi_superposition.report import write

    models, saes = small_bundle(site.with_name("small-bundle"))
    made = write._made

    def made_smaller(job, folder, request):
        return made(replace(job, config=job.config.replace(**SMALLER.get(job.command, {}))), folder, request)

    with pytest.MonkeyPatch.context() as patch:
        for known, small in ((BUNDLED_MODELS, models), (BUNDLED_SAES, saes)):
            for name, folder in small.items():
                patch.setitem(known, name, folder)
        patch.setattr(write, "_made", made_smaller)
        _whole_report(site)


def _whole_report(site):
    from mi_superposition.cli import main

    assert main(["report", "--out", str(site)]) == 0


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests that ask for it are skipped where it is missing.

    Pages that wait for an expression to come true are opened with ``bypass_csp=True``: Playwright evaluates it within the page.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield running
        running.close()


@pytest.fixture(scope="session")
def visit(browser):
    """Opens a page from disk and scrolls through it: the page, its console errors and its requests to anywhere else.

    All in one window, which keeps the script that draws figures compiled: what was opened before is gone.
    """
    page = browser.new_page()
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            requests.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )

    def open_page(path: Path, *, width: int, scheme: str = "light"):
        problems.clear()
        requests.clear()
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.goto(path.as_uri())
        for figure in page.locator(".figure").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".main-svg").first.wait_for(state="attached")
        return page, problems, requests

    yield open_page
    page.close()


@dataclass(frozen=True)
class TinyGPT2:
    """A random GPT-2 with two layers in Hugging Face layout: its folder, and both ways of holding it."""

    folder: Path
    transformers: GPT2LMHeadModel
    hooked: HookedTransformer


TINY_TEXT = [
    f"Once upon a time there was a {word} who liked to run and play. The end." for word in ("cat", "dog", "fox")
]


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory):
    """Weights large enough for its logits and neurons to differ."""
    from mi_superposition import load_model
    from mi_superposition.models import build_gpt2, save_hugging_face
    from mi_superposition.stories.train import train_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    tokenizer = train_tokenizer(TINY_TEXT, 300)
    model = build_gpt2(
        d_vocab=300, n_ctx=32, d_model=16, d_mlp=48, n_layers=2, n_heads=2, dropout=0.0, end_token=0, seed=0
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Through half precision, in which it is saved.
            parameter.copy_((parameter + 0.2 * torch.randn(parameter.shape, generator=generator)).half().float())
    save_hugging_face(model, tokenizer, folder)
    return TinyGPT2(folder, model, load_model(folder, device="cpu"))


@pytest.fixture
def visit_site(browser, site):
    """``site`` is a fixture of the test's own file. Opens a page from disk, as wide as a phone; at the end there must have been no error, and no request outside the folder."""
    context = browser.new_context(bypass_csp=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: requests.append(request.url))

    def go(address):
        page.goto(f"{site.as_uri()}/{address}")
        return page

    yield go
    assert problems == []
    assert [url for url in requests if not url.startswith(site.as_uri())] == []
    assert page.evaluate("window.broken") is None
    context.close()
