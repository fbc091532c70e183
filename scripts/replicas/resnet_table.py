"""Stringer's table of 53 layers of ResNet-50 on CIFAR-100, beside noise in its formula, the largest possible ranks, and ours.

    python scripts/replicas/resnet_table.py --out resnet.json
    python scripts/replicas/resnet_table.py --images cifar100 --out resnet.json     # and an untrained network in its formula

Its hook keeps the last batch of 128 images only, and its ``reshape(C, -1)`` mixes images with channels: no rank can exceed the
128 × height × width columns that it makes. Ours are of the bundled run: channels as variables, all test images, another training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from replica import STRINGER, Row, report
from scipy.stats import spearmanr
from torch import nn

from mi_superposition.corpora.images import load_images
from mi_superposition.models.classifiers import build_classifier
from mi_superposition.spectra import gaussian_spectrum
from mi_superposition.studies.spectra import measure as study

BATCH, BATCHES, ENERGY = 128, 10, 0.99
MEAN, DEVIATION = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# Its layers in its order, with our names for them, channels, positions of the output on images of 32 × 32, and its effective ranks.
SOURCE = Path(__file__).with_suffix(".csv")
LOSSES = [3.3070, 2.5782, 2.1787, 2.0079, 1.7884, 1.6728, 1.5569, 1.4626, 1.4110, 1.3250]
ACCURACIES = [25.89, 41.69, 45.72, 48.87, 50.87, 51.85, 53.72, 53.80, 54.18, 55.82]


def counted(singular_values: np.ndarray) -> int:
    """The source's count: singular values whose cumulative energy is below 99 %."""
    energy = np.sort(singular_values)[::-1].astype(float) ** 2
    return int((energy.cumsum() / energy.sum() < ENERGY).sum())


@torch.no_grad()
def untrained(images: Path) -> dict[str, int]:
    """An untrained network in the source's formula, by our names of its layers: the tenth batch of test images."""
    test = load_images(images).test.pixels[(BATCHES - 1) * BATCH : BATCHES * BATCH].float() / 255
    network = build_classifier("resnet50", shape=(3, 32, 32), n_classes=100)
    found: dict[str, int] = {}

    def hook(name: str, output: torch.Tensor) -> None:
        found[name] = counted(torch.linalg.svdvals(output.reshape(output.shape[1], -1)).numpy())

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, output, name=name: hook(name, output))
    network.eval()((test - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None])
    return found


def table(seed: int, images: Path | None) -> tuple[pd.DataFrame, study.SpectraResult]:
    """A row for each layer, and the bundled run. ``possible``: of our ranks, where a narrower layer comes before."""
    run = study.load(study.BUNDLED / "resnet50-cifar100")
    ranks = run.to_frame()
    activations = ranks.xs("activations", level="kind")
    possible = activations["possible"]
    frame = pd.read_csv(SOURCE, index_col="ours")
    columns = BATCH * frame["positions"]
    frame["noise"] = [counted(gaussian_spectrum(*shape, seed).numpy()) for shape in zip(columns, frame["channels"], strict=True)]  # fmt: skip
    frame["limit"] = np.minimum(columns, frame["channels"])
    if images is not None:
        frame["untrained"] = pd.Series(untrained(images))
    frame["ours"] = activations["energy_rank"]
    frame["ours_untrained"] = activations["energy_rank_untrained"]
    frame["ours_possible"] = possible
    return frame.set_index("name"), run


def falls(ratios: pd.Series) -> float:
    """Spearman correlation with depth."""
    return float(spearmanr(range(len(ratios)), ratios).statistic)


def main(images: Path | None = None, seed: int = 0, out: Path | None = None) -> None:
    """Compare.

    Args:
        images: Folder of CIFAR-100, for an untrained network in the source's formula.
        seed: Of the noise.
        out: JSON file of all numbers.
    """
    frame, run = table(seed, images)
    print("noise, limit and untrained: in the source's formula\n" + frame.drop(columns="positions").to_string())
    ratios = frame.div(frame["channels"], axis=0)
    at, named = ratios.loc["layer4.0.conv3"], [name for name in ("noise", "untrained") if name in frame]
    controls = ", ".join(f"{name} {falls(ratios[name]):.2f}" for name in named)
    left = ", ".join(f"{name} {falls(frame[name] / frame['noise']):.2f}" for name in named[1:]) or None
    fall, ours = falls(ratios["source"]), falls(ratios["ours"])
    rows = [
        Row("rank / channels falls with depth (Spearman, 53 layers)", fall, ours, controls, "confirmed", "controls: in its formula"),
        Row("it falls as later layers learn more abstract representations", fall, ours, controls, "not confirmed", "an untrained network in its formula falls as well, and so does noise: samples become fewer than channels"),
        Row("rank / rank of noise falls with depth (Spearman)", falls(frame["source"] / frame["noise"]), None, left, "ours", "what is left of the fall without the sample size"),
        Row("conv1: rank / channels", ratios["source"].iloc[0], ratios["ours"].iloc[0], f"noise {ratios['noise'].iloc[0]:.3f}", "ours"),
        Row("layer4.0.conv3: 0.059 of the dimensions are used", at["source"], at["ours"], f"noise {at['noise']:.3f}", "refuted", "its formula has 128 samples for 2,048 channels and cannot give more than 0.0625"),
        Row("worked example: Conv2d(2048, 512) has rank 67", 67, "70 and 62 in its own table", None, "refuted", "layer4.1.conv1 and layer4.2.conv1 are the layers of that shape"),
    ]  # fmt: skip
    # Ours with the classifier, in the network's own order.
    ranks = run.to_frame()
    full = ranks.xs("activations", level="kind")
    possible = full["possible"]
    narrow = int((possible < full["maximum"]).sum())
    for what, most, why in (
        ("channels", full["maximum"], ""),
        ("the largest possible rank", possible, f"{narrow} of {len(full)} layers cannot reach their channels"),
    ):
        mine, control = full["energy_rank"] / most, full["energy_rank_untrained"] / most
        rows += [
            Row(f"ours: energy rank / {what}, mean of 54 layers", None, mine.mean(), f"untrained {control.mean():.3f}", "ours", why),
            Row(f"ours: energy rank / {what} falls with depth (Spearman)", None, falls(mine), f"untrained {falls(control):.2f}", "ours", "nearly as much before training"),
        ]  # fmt: skip
    accuracy, before = 100 * run.numbers["test_accuracy"], 100 * run.numbers["test_accuracy_untrained"]
    why = "the source: pretrained on ImageNet, Adam, 10 epochs; ours: from scratch, AdamW, 4 epochs, a stem of 3 × 3"
    rows.append(Row("accuracy on the test images, per cent", 55.82, accuracy, f"untrained {before:.1f}", "cannot be tested here", why))  # fmt: skip
    settings = {"batch": BATCH, "energy": ENERGY, "seed": seed, "layers": len(frame), "ours": run.subject}
    details = {
        "layers": frame.reset_index().to_dict("records"),
        "source_training": {"loss": LOSSES, "accuracy_percent": ACCURACIES},
        "our_training": [{key: row[key] for key in ("epoch", "loss")} for row in run.history],
    }
    report("53 layers of ResNet-50", STRINGER, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
