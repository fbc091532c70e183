"""Published autoencoders: from a hub cache laid out as huggingface_hub does, through SAELens's registry and converters."""

import json

import numpy as np
import pytest
import torch
from fake_hub import into_hub_cache
from sae_lens import SAE, StandardSAE, StandardSAEConfig
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.saes.sae import SAEMetadata

from mi_superposition import load_sae
from mi_superposition.cli import main
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.sae.files import sae_folders

GPT2, GEMMA = "gpt2-small-res-jb:blocks.8.hook_resid_pre", "gemma-scope-2b-pt-res:layer_20/width_16k/average_l0_71"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache, in the place of the user's."""
    cache = tmp_path / "hf" / "hub"
    cache.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def published(hub_cache, name, folder):
    """Lay a folder out as the snapshot that the registry says an autoencoder is in."""
    release, _, sae_id = name.partition(":")
    entry = get_pretrained_saes_directory()[release]
    place = folder.parent / "repository" / entry.saes_map[sae_id]
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    into_hub_cache(hub_cache, entry.repo_id, folder.parent / "repository")


def test_one_in_saelens_own_format(hub_cache, tmp_path, monkeypatch):
    torch.manual_seed(0)
    sae = StandardSAE(StandardSAEConfig(d_in=768, d_sae=16, metadata=SAEMetadata(hook_name="blocks.8.hook_resid_pre")))
    sae.W_dec.data = torch.nn.functional.normalize(torch.randn(16, 768), dim=1)
    sae.save_model(tmp_path / "made")
    published(hub_cache, GPT2, tmp_path / "made")
    found = load_sae(GPT2)
    assert torch.equal(found.W_dec, sae.W_dec)
    assert found.cfg.metadata.hook_name == "blocks.8.hook_resid_pre"
    # Kept in SAELens's format, and read from there by now.
    [(name, folder)] = sae_folders(GPT2).items()
    assert name == GPT2
    assert torch.equal(SAE.load_from_disk(folder).W_dec, sae.W_dec)
    monkeypatch.setattr(SAE, "from_pretrained", None)
    assert torch.equal(load_sae(GPT2).W_dec, sae.W_dec)


# Gemma 2's real sizes: the converter takes no others.
@pytest.mark.slow
def test_one_that_is_converted(hub_cache, tmp_path):
    """Gemma Scope's arrays: a JumpReLU autoencoder, equal to the formula."""
    rng = np.random.default_rng(0)
    d, n = 2304, 16384
    shapes = {"W_enc": (d, n), "W_dec": (n, d), "b_enc": (n,), "b_dec": (d,), "threshold": (n,)}
    arrays = {key: rng.standard_normal(shape, dtype=np.float32) / 50 for key, shape in shapes.items()}
    arrays["threshold"] = np.abs(arrays["threshold"])
    (tmp_path / "made").mkdir()
    np.savez(tmp_path / "made" / "params.npz", **arrays)
    published(hub_cache, GEMMA, tmp_path / "made")
    sae = load_sae(GEMMA)
    x = torch.randn(5, 2304, generator=torch.Generator().manual_seed(0))
    given = {key: torch.tensor(array) for key, array in arrays.items()}
    before = x @ given["W_enc"] + given["b_enc"]
    expected = (before * (before > given["threshold"])).relu() @ given["W_dec"] + given["b_dec"]
    torch.testing.assert_close(sae(x), expected, atol=1e-4, rtol=1e-4)
    assert sae.cfg.metadata.hook_name == "blocks.20.hook_resid_post"


def test_what_cannot_be_had_is_one_line(hub_cache, tmp_path, capsys):
    for name, error, said in (
        ("gpt2-small-res-jp:blocks.8.hook_resid_pre", RequestError, "did you mean 'gpt2-small-res-jb'"),
        (
            "gpt2-small-res-jb:blocks.88.hook_resid_pre",
            RequestError,
            "none of the 13 autoencoders .*'blocks.8.hook_resid_pre'",
        ),
        (GPT2, WorkError, "not in the local hub cache"),
        ("nobody/nothing:folder", WorkError, "nobody/nothing:folder"),
    ):
        with pytest.raises(error, match=said):
            load_sae(name)
    assert main(["sae", "evaluate", "--sae", GPT2, "--out", str(tmp_path / "run")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    # Arrays that SAELens's converter does not take.
    (tmp_path / "made").mkdir()
    np.savez(tmp_path / "made" / "params.npz", W_enc=np.ones((3, 2)))
    published(hub_cache, GEMMA, tmp_path / "made")
    with pytest.raises(WorkError, match="SAELens cannot read 'gemma-scope"):
        load_sae(GEMMA)


def test_a_published_one_is_evaluated_and_its_features_have_pages(hub_cache, tiny_gpt2, tmp_path):
    made = tmp_path / "made"
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=8, metadata=SAEMetadata(hook_name="blocks.1.hook_resid_pre")))
    sae.save_model(made)
    published(hub_cache, GPT2, made)
    (tmp_path / "words.txt").write_text("<|endoftext|>".join(f"a cat ran to dog {n} and play" for n in range(80)))
    reads = ["--model", str(tiny_gpt2.folder), "--corpus", str(tmp_path / "words.txt"), "--sae", GPT2]
    assert main(["neurons", "scan", *reads, "--out", str(tmp_path / "scan")]) == 0
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")]) == 0
    assert len(list((tmp_path / "site" / "neurons").glob("*.features.?.html"))) == 8
    assert main(["sae", "evaluate", *reads, "--control-tokens", "0", "--out", str(tmp_path / "evaluation")]) == 0
    manifest = json.loads((tmp_path / "evaluation" / "manifest.json").read_text())
    assert GPT2 in json.dumps(manifest)
