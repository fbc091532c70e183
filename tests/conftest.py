"""Shared by all tests: the package is imported with its shapes checked, and nothing may ask the hub."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

from jaxtyping import install_import_hook

# Before any module of the package is imported: every annotated axis is checked at every call.
_hook = install_import_hook("mi_superposition", "beartype.beartype")

import pytest
import torch

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.train import build_addition_model

torch.set_num_threads(1)


def small_config(**changes) -> AdditionConfig:
    """Two-digit additions with four heads: trains in a second."""
    fields = dict(
        preset="paper",
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
    return AdditionConfig(**{**fields, **changes})


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


@pytest.fixture(scope="session")
def report_site(tmp_path_factory):
    """The whole report, built once as a user builds it."""
    from mi_superposition.cli import main

    site = tmp_path_factory.mktemp("report") / "site"
    assert main(["report", "--out", str(site)]) == 0
    return site


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; tests that ask for it are skipped where it is missing."""
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
