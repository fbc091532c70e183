"""Pages of the neurons of a model of 46,080 (30 layers of 1,536, the shape of SmolLM2-135M's MLPs): both layouts of `neurons pages`.

    python benchmarks/pages.py                                 # random weights, bundled stories
    python benchmarks/pages.py --model FOLDER --documents 60   # a model of yours
    python benchmarks/pages.py --units 512                     # one page a unit for so many, from which all are extrapolated

What is timed is the export of a finished scan, without loading the model: processor seconds of one thread, and seconds by the
clock. Then the pages are opened from disk in Chromium, a window 390 pixels wide: by the clock, until the unit is drawn. A keystroke in the
filter of the table of all units: until its rows have their layout.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright
from timing import machine
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import model_batches
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronScan, ScanConfig, scan_neurons
from mi_superposition.neurons.scan import mlp_hooks
from mi_superposition.pages.neurons.records import document_records, unit_records
from mi_superposition.pages.neurons.scan import scan_record
from mi_superposition.pages.neurons.scanned import ScannedUnits
from mi_superposition.site.folder import UNITS as UNITS_SITE
from mi_superposition.site.folder import SiteFolder
from mi_superposition.site.records import UNITS
from mi_superposition.site.unit_pages import write_unit_pages
from mi_superposition.site.unit_records import UnitRecord, unit_address, units_slug

# Layers scanned at once, for memory; pages opened.
_LAYERS, _OPENED = 5, 20


def random_llama(folder: Path) -> HookedModel:
    """A narrow Llama with as many neurons as SmolLM2-135M, and the tokenizer of the bundled story model."""
    tokenizer = load_model("stories", device="cpu").tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, device="cpu")


def scanned_in_parts(model: HookedModel, documents: int) -> NeuronScan:
    """The scan of all neurons as a run folder has it, some layers at a time."""
    batches = list(model_batches(model, islice(load_corpus("stories"), documents), 32, by_length=True))
    parts = []
    hooks = mlp_hooks(model)
    for first in tqdm(range(0, len(hooks), _LAYERS), unit="part", desc="scan"):
        part = scan_neurons(model, batches, hooks=hooks[first : first + _LAYERS])
        stored = NeuronScan.from_tensors(
            part.tensors(), hooks=list(part.hooks), n_documents=part.n_documents, n_tokens=part.n_tokens, settings=part.settings, vocabulary=part.vocabulary
        )  # fmt: skip
        parts.append(stored)
    joined = {hook: units for part in parts for hook, units in part.hooks.items()}
    shown = {number: tokens for part in parts for number, tokens in part.documents.items()}
    return replace(parts[0], hooks=joined, documents=dict(sorted(shown.items())))


@dataclass(frozen=True)
class Export:
    """An export of so many units: processor seconds, seconds by the clock, bytes and files."""

    units: int
    seconds: float
    clock: float
    n_bytes: int
    files: int

    def row(self, name: str) -> str:
        """A line of the table."""
        return (
            f"{name:34} {self.units:7,} {self.seconds:8.1f} {self.clock:8.1f} {self.units / self.seconds:9,.0f} {self.n_bytes / 1e6:9,.1f} "
            f"{self.files:7,} {self.n_bytes / self.units:10,.0f}"
        )


def export(scanned: ScannedUnits, out: Path, *, together: bool, units: int | None = None) -> Export:
    """Write the pages, or the first ``units`` of them."""
    began, clock = time.process_time(), time.perf_counter()
    records: Iterator[UnitRecord] = islice(unit_records(scanned), units)
    n_units = units or scanned.scan.n_units
    write_unit_pages(
        scan_record(scanned, ScanConfig()), tqdm(records, total=n_units, unit="unit", desc="pages"), document_records(scanned),
        SiteFolder(out, UNITS_SITE), site_title="Neuroscope", index="index.html", together=together,
    )  # fmt: skip
    taken = time.process_time() - began, time.perf_counter() - clock
    files = [path for path in out.rglob("*") if path.is_file()]
    return Export(n_units, *taken, sum(path.stat().st_size for path in files), len(files))


def milliseconds_to_show(page: Page, address: str, drawn: str) -> float:
    """From the request for a page until it is drawn, in a window that had another one before."""
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(drawn, state="attached")
    return 1000 * (time.perf_counter() - began)


def shown(site: Path, hooks: list[str], n_units: int, *, together: bool) -> list[float]:
    """Milliseconds for pages from all over the site, after a first one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(bypass_csp=True, viewport={"width": 390, "height": 800})
        taken = []
        for number in range(_OPENED + 1):
            hook, unit = hooks[number * 7 % len(hooks)], number * 7919 % n_units
            address = f"{UNITS}/{units_slug(hook)}.html#{unit}" if together else unit_address(hook, unit)
            drawn = "main[aria-busy=false] .text span" if together else ".text span"
            taken.append(milliseconds_to_show(page, f"{site.as_uri()}/{address}", drawn))
        browser.close()
    return taken[1:]


_KEYSTROKE = """(text) => {
    const input = document.getElementById("filter");
    const began = performance.now();
    input.value = text;
    input.dispatchEvent(new Event("input"));
    document.getElementById("units").offsetHeight;
    return performance.now() - began;
}"""
_SORT = """() => {
    const began = performance.now();
    document.querySelectorAll("#units thead button")[1].click();
    document.getElementById("units").offsetHeight;
    return performance.now() - began;
}"""


def table(site: Path) -> tuple[float, list[float], float]:
    """Of the table of all units, in milliseconds: until it shows, each of some keystrokes, a sort."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(bypass_csp=True, viewport={"width": 390, "height": 800})
        milliseconds_to_show(page, f"{site.as_uri()}/index.html", "h1")
        first = milliseconds_to_show(page, f"{site.as_uri()}/{UNITS}/all.html", "#units tbody tr")
        words = ["t", "th", "the", "", "d", "do", "dog", "1", "15", "L", "L1", "e", ""]
        strokes = [float(page.evaluate(_KEYSTROKE, text)) for text in words]
        sort = float(page.evaluate(_SORT))
        browser.close()
    return first, strokes, sort


def main() -> None:
    """Print the tables."""
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--model", help="a model instead of the random one")
    options_of.add_argument("--documents", type=int, default=200)
    options_of.add_argument("--units", type=int, default=1024, help="how many get a page of their own")
    options_of.add_argument("--out", type=Path, help="keep the sites in this folder")
    options = options_of.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        out = options.out or Path(scratch)
        model = load_model(options.model, device="cpu") if options.model else random_llama(Path(scratch) / "model")
        scan = scanned_in_parts(model, options.documents)
        scanned = ScannedUnits(scan, model)
        print(f"{machine()}\n{scan.n_units:,} units, {scan.n_documents:,} documents, {scan.n_tokens:,} tokens\n")
        print(
            f"{'layout':34} {'units':>7} {'CPU s':>8} {'clock s':>8} {'units/s':>9} {'MB':>9} {'files':>7} {'bytes/unit':>10}"
        )
        print(export(scanned, out / "together", together=True).row("together"))
        print(
            export(scanned, out / "separate", together=False, units=options.units).row("separate, some of them"),
            flush=True,
        )
        hooks = list(scan.hooks)
        n = scan.hooks[hooks[0]].n_units
        for name, taken in (
            ("together", shown(out / "together", hooks, n, together=True)),
            ("separate", shown(out / "separate", hooks[:1], min(options.units, n), together=False)),
        ):
            print(
                f"\na unit shows, {name}: {statistics.median(taken):.0f} ms (median of {len(taken)}), {max(taken):.0f} ms at most",
                end="",
            )
        first, strokes, sort = table(out / "together")
        print(
            f"\ntable of all units: shows in {first:.0f} ms; a keystroke in its filter {statistics.median(strokes):.0f} ms (median), "
            f"{max(strokes):.0f} ms at most; a sort {sort:.0f} ms"
        )


if __name__ == "__main__":
    main()
