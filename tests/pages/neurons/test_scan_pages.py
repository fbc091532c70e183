"""From a scan to pages, as a user does it: the numbers on a page are the scan's."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import TINY_TEXT
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mi_superposition import load_run
from mi_superposition.cli import main
from mi_superposition.files import PARTIAL, read_json
from mi_superposition.models import save_model
from mi_superposition.neurons import neuron_vectors
from mi_superposition.neurons.config import PagesConfig
from mi_superposition.pages.neurons.records import layer_records, unit_records
from mi_superposition.pages.neurons.scan import write
from mi_superposition.pages.neurons.scanned import open_scan
from mi_superposition.progress import Progress
from mi_superposition.studies.neurons.scan import load as load_scan
from mi_superposition.training import Stopped

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    """A scan of neurons and of a residual stream."""
    folder = tmp_path_factory.mktemp("scan")
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(1, 60))) for _ in range(150)]
    (folder / "words.txt").write_text("<|endoftext|>".join(documents))
    request = [
        "neurons",
        "scan",
        "--model",
        str(tiny_gpt2.folder),
        "--corpus",
        str(folder / "words.txt"),
        "--out",
        str(folder / "run"),
    ]
    hooks = [*(f"blocks.{layer}.mlp.hook_post" for layer in (0, 1)), "blocks.1.hook_resid_pre"]
    assert main([*request, "--hook", *hooks]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "site"
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(out)]) == 0
    return out


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_unit_has_a_page(site):
    pages = {path.name for path in (site / "neurons").glob("*.html")}
    wanted = {f"L{layer}N{neuron}.html" for layer in (0, 1) for neuron in range(48)}
    wanted |= {f"blocks.1.hook_resid_pre.{unit}.html" for unit in range(16)}
    assert pages == wanted | {"L0.html", "L1.html", "blocks.1.hook_resid_pre.html"}
    assert "Beginning-of-text, end-of-text and padding tokens are excluded" in (site / "index.html").read_text()
    assert not (site / "assets" / "plotly.min.js").exists()


def test_a_page_shows_the_scan(site, run, tiny_gpt2):
    scan, hook, unit = load_scan(run), "blocks.1.mlp.hook_post", 11
    found = scan.hooks[hook]
    html = (site / "neurons" / "L1N11.html").read_text()
    examples = re.findall(r'<li data-at="([\d ]+)" data-l="(.*?)" data-a="(.*?)"><b>(.*?)</b>', html)
    low, high = (float(re.search(rf'data-{end}="(.*?)"', html)[1]) for end in ("low", "high"))
    assert (low, high) == pytest.approx((float(found.minimum[unit]), float(found.maximum[unit])), rel=1e-5)
    for slot in range(20):
        at, _, codes, shown = examples[slot]
        document, place, _, kept = map(int, at.split())
        assert (document, place) == (found.top.document[unit, slot], found.top.position[unit, slot])
        assert float(shown) == pytest.approx(float(found.top.activation[unit, slot]), abs=0.006)
        steps = np.frombuffer(base64.b64decode(codes + "A" * (-len(codes) % 4)), np.uint8)
        bits = np.unpackbits(steps)[: 12 * (len(codes) // 2)].reshape(-1, 12)
        values = bits @ (1 << np.arange(11, -1, -1))
        wanted = found.top.window[unit, slot].float().numpy()
        reach = len(wanted) // 2
        for offset, step in enumerate(values, kept - place + reach):
            if np.isnan(wanted[offset]):
                assert step == 4095
            else:
                assert low + step / 4094 * (high - low) == pytest.approx(wanted[offset], abs=2e-3 * (high - low))
    similarity = neuron_vectors(tiny_gpt2.hooked, 1, "out").similarity().fill_diagonal_(-2)
    nearest = int(similarity[unit].argmax())
    assert f'Most similar by output (cosine)</h3>\n<ul class="units">\n<li><a href="L1N{nearest}.html">' in html


def test_documents_are_those_of_the_scan(site, run):
    from mi_superposition import load_model
    from mi_superposition.corpora.tokens import token_strings

    scan, model = load_scan(run), load_model(run and json.loads((run / "manifest.json").read_text())["config"]["model"])
    strings = token_strings(model.tokenizer, model.cfg.d_vocab)
    found = {}
    for path in (site / "neurons" / "documents").iterdir():
        found |= json.loads(re.fullmatch(r"neuronDocuments\((.*)\);\n", path.read_text())[1])
    assert found == {str(number): [strings[token] for token in tokens] for number, tokens in scan.documents.items()}


def test_a_second_export_changes_no_byte_and_another_machine_makes_the_same(site, run, tmp_path):
    before = files(site)
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(site)]) == 0
    assert files(site) == before
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(tmp_path / "other")]) == 0
    assert files(tmp_path / "other") == before


@pytest.mark.slow
def test_an_export_that_is_killed_leaves_whole_pages_only(site, run, tmp_path):
    out = tmp_path / "killed"
    request = [sys.executable, "-m", "mi_superposition.cli", "neurons", "pages", "--scan", str(run), "--out", str(out)]
    process = subprocess.Popen(request, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(list((out / "neurons").glob("*N*.html"))) < 10:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "index.html").exists()
    whole = files(site)
    for name, content in files(out).items():
        if not name.endswith(PARTIAL):
            assert content == whole[name], name
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(out)]) == 0
    assert files(out) == whole


def test_another_model_under_the_same_name_is_refused(run, tiny_gpt2, tmp_path, monkeypatch, capsys):
    from mi_superposition.models import untrained_copy
    from mi_superposition.pages.neurons import scanned

    monkeypatch.setattr(scanned, "load_model", lambda name, device: untrained_copy(tiny_gpt2.hooked, 0))
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(tmp_path / "site")]) == 2
    assert "has changed since" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_wrong_requests(run, tiny_gpt2, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(tmp_path / "full")]) == 2
    assert "mine.txt" in capsys.readouterr().err
    assert main(["neurons", "pages", "--scan", str(tmp_path), "--out", str(tmp_path / "site")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert main(["neurons", "pages", "--scan", str(tiny_gpt2.folder), "--out", str(tmp_path / "site")]) == 2
    assert not (tmp_path / "site").exists()


def test_page_writes_the_same_site(site, run, tmp_path):
    assert main(["page", str(run), "--out", str(tmp_path / "again")]) == 0
    assert files(tmp_path / "again") == files(site)


def test_asked_to_stop_it_stops_between_pages(run, tmp_path):
    class Asked(Progress):
        def should_stop(self):
            return True

    with pytest.raises(Stopped, match="stopped after page 0"):
        write(run, tmp_path / "site", Asked())
    assert not (tmp_path / "site" / "index.html").exists()


def test_a_scan_that_is_cut_short_says_so(run, tmp_path, capsys):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    content = (broken / "scan.safetensors").read_bytes()
    (broken / "scan.safetensors").write_bytes(content[: len(content) // 2])
    assert main(["neurons", "pages", "--scan", str(broken), "--out", str(tmp_path / "site")]) == 1
    assert "scan.safetensors" in capsys.readouterr().err


def test_records_of_some_units_are_those_of_all(run):
    scanned, _ = open_scan(run, device="cpu")
    hook = "blocks.0.mlp.hook_post"
    every = [record for record in unit_records(scanned) if record.hook == hook]
    some = list(unit_records(scanned, units={hook: [3, 40]}))
    assert [record.unit for record in every] == list(range(48))
    assert [repr(record) for record in some] == [repr(every[unit]) for unit in (3, 40)]
    assert some[1].name == "Layer 0, neuron 40"
    # What falls into the intervals is all there is.
    for record in some:
        counted = sum(int(re.search(r": ([\d,]+) token", title)[1].replace(",", "")) for title, _ in record.tenths)
        assert counted == scanned.scan.n_tokens
        for title, examples in record.tenths:
            assert (len(examples) == 0) == title.endswith(": 0 tokens")


def test_the_table_of_a_layer_is_the_scan(run):
    scanned, _ = open_scan(run, device="cpu")
    layer = next(record for record in layer_records(scanned) if record.hook == "blocks.1.mlp.hook_post")
    found = scanned.scan.hooks[layer.hook]
    assert layer.columns["max"] == found.maximum.tolist()
    assert layer.columns["contexts"] == found.contexts.tolist()
    assert layer.n_units == 48


def test_a_model_without_a_tokenizer_and_its_tokens(tmp_path, capsys):
    """From the command line to pages on which tokens are their numbers."""
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=1,
            d_model=8,
            n_ctx=16,
            d_head=4,
            n_heads=2,
            d_mlp=6,
            d_vocab=20,
            act_fn="relu",
            seed=0,
            device="cpu",
        )
    )
    save_model(model, tmp_path / "model")
    tokens = np.random.default_rng(0).integers(0, 20, (40, 12))
    np.save(tmp_path / "tokens.npy", tokens)
    options = ["--model", str(tmp_path / "model"), "--corpus", str(tmp_path / "tokens.npy")]
    assert main(["neurons", "scan", *options, "--out", str(tmp_path / "scan")]) == 0
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")]) == 0
    [largest, *_] = load_run(tmp_path / "scan").examples("blocks.0.mlp.hook_post", 3).largest
    activations = model.run_with_cache(torch.tensor(tokens))[1]["blocks.0.mlp.hook_post"][..., 3]
    assert largest.activation == pytest.approx(float(activations.max()), abs=1e-5)
    shown = largest.tokens[largest.position - largest.first]
    assert shown == f"<{tokens[largest.document, largest.position]}>"
    assert shown.replace("<", "&lt;").replace(">", "&gt;") in (tmp_path / "site" / "neurons" / "L0N3.html").read_text()
    # Texts it cannot read: said before anything is written.
    capsys.readouterr()
    assert main(["neurons", "scan", *options[:2], "--out", str(tmp_path / "other")]) == 2
    assert "came without a tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    # Another order of the same rows is another corpus, and a token it does not have is named.
    np.save(tmp_path / "tokens.npy", tokens + 1)
    assert main(["neurons", "scan", *options, "--out", str(tmp_path / "third")]) == 1
    assert "has token 20: the model has no such embedding, of which the last is 19" in capsys.readouterr().err


def test_pages_of_another_tokenizer_are_refused(tiny_gpt2, tmp_path, capsys):
    """The same vocabulary, but another normaliser: other tokens are shown than were read."""
    shutil.copytree(tiny_gpt2.folder, tmp_path / "model")
    (tmp_path / "words.txt").write_text("<|endoftext|>".join(TINY_TEXT))
    options = ["--model", str(tmp_path / "model"), "--corpus", str(tmp_path / "words.txt")]
    assert main(["neurons", "scan", *options, "--out", str(tmp_path / "scan")]) == 0
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    capsys.readouterr()
    for words in (
        ["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")],
        ["neurons", "scan", *options, "--out", str(tmp_path / "scan")],
    ):
        assert main(words) == 2
    said = capsys.readouterr().err
    assert "the tokenizer of" in said
    assert "was made with tokenizer = " in said
    assert not (tmp_path / "site").exists()
    # A run of version 0.1 has the hash of the vocabulary alone, which is the same.
    manifest = read_json(tmp_path / "scan" / "manifest.json")
    del manifest["inputs"]["tokenizer"]["whole"]
    (tmp_path / "scan" / "manifest.json").write_text(json.dumps(manifest))
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")]) == 0


def test_layouts(run, site, tmp_path):
    """Few units have a page each; 'together' has a page for each hook, and the same units."""
    out = tmp_path / "together"
    request = ["neurons", "pages", "--scan", str(run), "--out"]
    assert main([*request, str(out), "--layout", "together"]) == 0
    names = {path.name for path in (out / "neurons").glob("*.html")}
    hooks = {"L0", "L1", "blocks.1.hook_resid_pre"}
    assert names == {"L0N.html", "L1N.html", "blocks.1.hook_resid_pre.units.html", "all.html"} | {
        f"{hook}.html" for hook in hooks
    }
    assert main([*request, str(tmp_path / "separate"), "--layout", "separate"]) == 0
    assert files(tmp_path / "separate") == files(site)
    [limit] = [
        n
        for n in range(4000, 4200)
        if PagesConfig.lays_together("auto", n + 1) and not PagesConfig.lays_together("auto", n)
    ]
    assert limit == 4096
