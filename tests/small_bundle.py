"""The bundled story model and its autoencoder cut down to 64 units a layer: a report of them has all pages, few of each kind."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from mi_superposition.files import content_hash, read_json, read_tensors, write_json, write_tensors
from mi_superposition.models import BUNDLED_MODELS, load_model, weights_of
from mi_superposition.models.hugging_face import save_hugging_face
from mi_superposition.sae.catalogue import BUNDLED_SAES
from mi_superposition.sae.files import SAE_CONFIG, SAE_WEIGHTS

UNITS = 64


def small_bundle(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Folders of the small model and of the small autoencoder, by the names of the bundled ones."""
    whole = GPT2LMHeadModel.from_pretrained(BUNDLED_MODELS["stories"])
    state = whole.state_dict()
    for name, value in state.items():
        if name.endswith(("mlp.c_fc.weight", "mlp.c_fc.bias")):
            state[name] = value[..., :UNITS].clone()
        elif name.endswith("mlp.c_proj.weight"):
            state[name] = value[:UNITS].clone()
    config = whole.config
    config.n_inner = UNITS
    with torch.random.fork_rng():
        small = GPT2LMHeadModel(config)
    small.load_state_dict(state)
    save_hugging_face(small, AutoTokenizer.from_pretrained(BUNDLED_MODELS["stories"]), root / "model")
    folder = root / "sae"
    shutil.copytree(BUNDLED_SAES["stories"], folder)
    tensors, _ = read_tensors(folder / SAE_WEIGHTS)
    described = read_json(folder / SAE_CONFIG)
    d_sae = described["d_sae"]
    for name, value in tensors.items():
        for axis, size in enumerate(value.shape):
            if size == d_sae:
                value = value.narrow(axis, 0, UNITS)
        tensors[name] = value
    described["d_sae"] = UNITS
    described["metadata"]["model_sha256"] = content_hash(weights_of(load_model(root / "model", device="cpu")))
    write_tensors(folder / SAE_WEIGHTS, tensors)
    write_json(folder / SAE_CONFIG, json.loads(json.dumps(described)))
    return {"stories": root / "model"}, {"stories": folder}
