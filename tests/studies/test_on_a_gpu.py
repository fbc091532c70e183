"""Every command that takes a device gives on a GPU what it gives on a CPU, within the tolerance stated beside it."""

import pytest
import torch

from mi_superposition import load_model
from mi_superposition.cli import main
from mi_superposition.files import read_json
from mi_superposition.neurons.scan import UnitReader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TEXT = ["--corpus", "stories", "--documents", "60"]
SCAN = ["neurons", "scan", *TEXT, "--top-k", "5", "--threads", "2"]
SAE = [
    "sae",
    "train",
    *TEXT,
    "--d-sae",
    "256",
    "--k",
    "16",
    "--tokens",
    "60000",
    "--batch-size",
    "512",
    "--buffer-batches",
    "8",
]
# A feature near the line between rare and dense, or dead and alive, may fall on its other side.
COUNTS = ("/dead", "/dense", "/l0")
# Command, and how far a number may be from that of the CPU: relative, or absolute where that is more. What reads only is exact to
# what sums in another order lose; trainings and searches go other ways from the first rounding on, and end in as good a place.
COMMANDS = {
    "scan": (SCAN, 2e-3, 0.05),
    "contexts": (["neurons", "contexts", *TEXT, "--hook", "blocks.1.mlp.hook_post", "--threads", "2"], 2e-3, 0.05),
    "order": (["neurons", "order", "--layer", "1", "--controls", "2", "--seconds", "0.1"], 1e-3, 1e-3),
    "order by activations": (
        ["neurons", "order", "--weights", "activations", *TEXT, "--controls", "2", "--seconds", "0.1"],
        1e-2,
        1e-2,
    ),
    "sae train": (SAE, 0.05, 0.02),
    "sae evaluate": (["sae", "evaluate", "--sae", "stories", *TEXT, "--control-tokens", "0"], 2e-3, 2e-3),
    "toy train": (["toy", "train", "--n-instances", "8", "--n-steps", "1500", "--learning-rate", "0.01"], 0.05, 0.02),
    "spectra of a language model": (["spectra", "--model", "stories", *TEXT], 2e-3, 2e-3),
    "spectra of a classifier": (["spectra", "--epochs", "0", "--documents", "300"], 2e-3, 2e-3),
    "concepts": (
        ["concepts", "--random-lists", "3", "--permutations", "50", "--per-concept", "60"],
        0.02,
        0.03,
    ),
}


def numbers(arguments, folder):
    assert main([*arguments, "--out", str(folder)]) == 0
    return read_json(folder / "metrics.json")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_numbers_of_a_gpu_are_those_of_a_cpu(command, tmp_path):
    arguments, relative, absolute = COMMANDS[command]
    on = {device: numbers([*arguments, "--device", device], tmp_path / device) for device in ("cpu", "cuda")}
    assert on["cpu"].keys() == on["cuda"].keys()
    measured = {name for name, value in on["cpu"].items() if value is not None and "second" not in name}
    far = {
        name: (on["cpu"][name], on["cuda"][name])
        for name in measured
        if on["cuda"][name]
        != pytest.approx(on["cpu"][name], rel=0.15 if name.endswith(COUNTS) else relative, abs=absolute)
    }
    assert not far


def test_pages_of_a_scan_that_a_gpu_made(tmp_path):
    assert main([*SCAN, "--device", "cuda", "--out", str(tmp_path / "scan")]) == 0
    site = tmp_path / "site"
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--device", "cuda", "--out", str(site)]) == 0
    assert (site / "index.html").exists()
    assert main(["neurons", "try", "--neuron", "1.5", "It is a dog.", "--device", "cuda"]) == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_on_a_gpu(precision):
    """Single precision is single precision: no TF32 in between."""
    tokens = torch.arange(64).reshape(2, 32)
    read = {
        device: UnitReader.of(load_model("stories", device=device), precision=precision).read(tokens)
        for device in ("cpu", "cuda")
    }
    for hook, (units, _) in read["cpu"].items():
        error = (units - read["cuda"][hook][0]).abs().max() / units.abs().max()
        assert error < (1e-5 if precision == "float32" else 3e-2), (hook, float(error))


def test_auto_is_the_gpu():
    assert load_model("stories", device="auto").W_E.device.type == "cuda"
