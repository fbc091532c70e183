"""Features of an autoencoder as units of a scan, and their pages."""

import shutil

import pytest
import torch
from studies.sae.sae_runs import HOOK, NEURONS, corpus_of

from mi_superposition import load_run
from mi_superposition.cli import main
from mi_superposition.sae import load_sae

FEATURES = f"{HOOK}.features"


def test_features_are_scanned_and_have_pages(trained_sae, tiny_gpt2, tmp_path):
    scan, site = tmp_path / "scan", tmp_path / "site"
    options = [
        "--model",
        str(tiny_gpt2.folder),
        "--corpus",
        corpus_of(trained_sae),
        "--sae",
        str(trained_sae),
        "--top-k",
        "5",
    ]
    assert main(["neurons", "scan", *options, "--hook", NEURONS, "--out", str(scan)]) == 0
    found = load_run(scan).hooks[FEATURES]
    assert found.n_units == 48
    sae = load_sae(trained_sae)
    # Its most active features are those that fire on the most tokens.
    assert 0 < float(found.fraction_active.max()) <= 1
    assert float(found.fraction_active.sum()) == pytest.approx(4, abs=0.2)
    # Where it is not active it has no example, however few there are.
    shown = found.top.document >= 0
    assert (found.top.activation[shown] > 0).all()
    assert not shown.all()
    assert not (found.bottom.document >= 0).any()
    assert main(["neurons", "pages", "--scan", str(scan), "--out", str(site)]) == 0
    page = (site / "neurons" / f"{FEATURES}.7.html").read_text()
    for heading in ("Raises the logits of", "Most similar by decoder (cosine)", "Reads from (cosine)"):
        assert heading in page
    assert 'href="L0N' in page
    neuron = (site / "neurons" / "L0N3.html").read_text()
    assert "Read by (cosine)" in neuron
    assert f'href="{FEATURES}.' in neuron
    # The strongest reader of neuron 3, by brute force.
    written = tiny_gpt2.hooked.blocks[0].mlp.W_out[3]
    cosines = torch.cosine_similarity(sae.W_enc.T, written[None], dim=1)
    best = int(cosines.abs().argmax())
    assert f'<a href="{FEATURES}.{best}.html">' in neuron
    assert f"{float(cosines[best]):+.2f}" in neuron


def test_a_scan_of_features_alone(trained_sae, tiny_gpt2, tmp_path):
    options = ["--model", str(tiny_gpt2.folder), "--corpus", corpus_of(trained_sae), "--sae", str(trained_sae)]
    assert main(["neurons", "scan", *options, "--documents", "40", "--out", str(tmp_path / "scan")]) == 0
    assert list(load_run(tmp_path / "scan").hooks) == [FEATURES]


def test_pages_of_an_autoencoder_that_is_another_one_by_now(sae_command, tiny_gpt2, tmp_path, capsys):
    sae = tmp_path / "sae"
    assert main(sae_command(sae, "--tokens", 500)) == 0
    options = ["--model", str(tiny_gpt2.folder), "--corpus", corpus_of(sae), "--sae", str(sae), "--documents", "40"]
    assert main(["neurons", "scan", *options, "--out", str(tmp_path / "scan")]) == 0
    shutil.rmtree(sae)
    assert main(sae_command(sae, "--tokens", 600)) == 0
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")]) == 2
    assert "has changed since" in capsys.readouterr().err
