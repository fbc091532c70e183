"""Train sparse autoencoders on the story model's residual stream, evaluate them, and bundle one (minutes, resumable).

    python scripts/train_sae.py --out runs/sae --corpus train.parquet

trains one for each number of active features in one pass over the text and prints the held-out table, baselines included.
Options of `mi-superposition sae train` change the training.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from mi_superposition import load_model
from mi_superposition.cli.parsing import parse
from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.files import read_json, write_json
from mi_superposition.pages.render import write_page
from mi_superposition.parts import TextPart
from mi_superposition.runs import MANIFEST, METRICS, seal
from mi_superposition.sae import SaeEvaluateConfig, SaeTrainConfig, load_sae, save_sae
from mi_superposition.sae.catalogue import BUNDLED_SAES, EVALUATION_FOLDER
from mi_superposition.storing import write_record
from mi_superposition.studies.sae import evaluate, train
from mi_superposition.studies.sae.features import learned_features
from mi_superposition.subjects import find_study

# Where they are other than those of the command.
DEFAULTS = {"--tokens": ["3000000"], "--k": ["8", "16", "32", "64"]}
NAME = "stories"


def main() -> None:
    """Train, evaluate, print, bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs 'saes' and 'evaluation'")
    parser.add_argument("--evaluate-on", default="stories", help="text whose held-out documents they are evaluated on")
    parser.add_argument("--bundled-k", type=int, default=32, help="active features of the one that is bundled")
    parser.add_argument(
        "--bundle", action="store_true", help="write it, in half precision, and the table into the package"
    )
    options, words = parser.parse_known_args()
    config = training_config(words)

    saes, evaluation = options.out / "saes", options.out / "evaluation"
    text = TextPart(corpus=options.evaluate_on)
    with terminal_progress() as progress:
        train.measure(config, saes, progress)
        wanted = SaeEvaluateConfig(sae=str(saes), text=text, control_corpus=config.text.corpus)
        evaluate.measure(wanted, evaluation, progress)
    write_page(evaluation)
    print(evaluate.load(evaluation).told())
    if options.bundle:
        [name] = [job.name for job in config.jobs if job.config.k == options.bundled_k]
        bundle(saes, evaluation, name)
        print(f"bundled: {name}")


def training_config(words: list[str]) -> SaeTrainConfig:
    """What these options of `sae train` ask for, with the defaults of this script."""
    study = find_study(train.COMMAND)
    assert study is not None
    usual = [word for name, values in DEFAULTS.items() if name not in words for word in (name, *values)]
    config = parse(study, [*words, *usual, "--out", "saes"]).config
    assert isinstance(config, SaeTrainConfig)
    return config


def bundle(saes: Path, evaluation: Path, name: str) -> None:
    """Write one of the autoencoders and the evaluation of all into the package."""
    folder = BUNDLED_SAES[NAME]
    save_sae(load_sae(saes / name), folder, dtype=torch.float16)
    into = folder / EVALUATION_FOLDER
    into.mkdir(exist_ok=True)
    for file in (METRICS, evaluate.EVALUATION):
        shutil.copy(evaluation / file, into / file)
    # Of the one that is bundled, as it is bundled.
    sae = load_sae(NAME)
    write_record(
        into / evaluate.FEATURES,
        learned_features(load_model(sae.cfg.metadata.model_name, device="cpu"), sae, name, sae.cfg.metadata.hook_name),
    )
    manifest = read_json(evaluation / MANIFEST)
    # Nothing of the machine it was made on.
    for option in ("sae", "control_corpus"):
        manifest["config"][option] = Path(manifest["config"][option]).name
    write_json(into / MANIFEST, manifest)
    seal(into)


if __name__ == "__main__":
    main()
