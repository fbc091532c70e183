"""The model behind a scan that is another one by now, or has gone: its pages are not made, and one line says why."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from mi_superposition.cli import main


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_pages_need_the_model_that_was_scanned(what, shop, tmp_path, capsys):
    model, scan, site = tmp_path / "model", tmp_path / "scan", tmp_path / "site"
    shutil.copytree(shop.model, model)
    words = ["neurons", "scan", "--model", model, "--corpus", shop.texts, "--documents", "20", "--threads", "1"]
    assert main([str(word) for word in [*words, "--out", scan]]) == 0
    if what == "gone":
        model.rename(tmp_path / "elsewhere")
    else:
        weights = load_file(model / "model.safetensors")
        name = next(name for name in weights if "mlp" in name)
        save_file(weights | {name: weights[name] + 1}, model / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    code = main(["neurons", "pages", "--scan", str(scan), "--out", str(site)])
    said = capsys.readouterr().err.splitlines()
    assert code in (1, 2)
    assert str(model) in said[-1]
    assert said[-1].startswith("mi-superposition: ")
    assert not site.exists()
