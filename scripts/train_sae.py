"""Train sparse autoencoders on the story model's residual stream, evaluate them, and bundle one (minutes, resumable).

    python scripts/train_sae.py --out runs/sae --corpus train.parquet

trains one for each number of active features in one pass over the text and prints the held-out table, baselines included.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from mi_superposition.cli.command import progress, stop_on_signal, text_table
from mi_superposition.runs import read_json, write_json
from mi_superposition.sae import SaeConfig, load_sae, save_sae
from mi_superposition.sae.files import BUNDLED_SAES
from mi_superposition.studies.sae.evaluation import EVALUATION, EvaluationRequest, load_evaluation, write_sae_evaluation
from mi_superposition.studies.sae.rows import COLUMNS, cells, losses_without
from mi_superposition.studies.sae.training import SaeRequest, StreamRequest, TextRequest, grid_of_jobs, write_sae_run

HOOK = "blocks.1.hook_resid_pre"


@dataclass(frozen=True)
class Options:
    """What to train, and what to do with it."""

    out: Path
    """Run folders: 'saes' and 'evaluation'."""
    model: str = "stories"
    """Bundled model, folder in Hugging Face layout, run folder, or id on the hub."""
    hook: str = HOOK
    """Hook whose activations are read."""
    corpus: str = "stories"
    """Text trained on, one document in ten held out: bundled corpus, file, folder, or dataset id on the hub."""
    evaluate_on: str = "stories"
    """Text whose held-out documents they are evaluated on."""
    tokens: int = 3_000_000
    """Tokens trained on."""
    batch_size: int = 2048
    """Tokens in a step."""
    buffer_batches: int = 32
    """Batches in the buffer in which tokens are shuffled."""
    d_sae: int = 2048
    """Features."""
    k: tuple[int, ...] = (8, 16, 32, 64)
    """Features active at each token, an autoencoder each."""
    bundled_k: int = 32
    """The one that is bundled."""
    bundle: bool = False
    """Write that one, in half precision, and the table into the package."""


def main(options: Options) -> None:
    """Train, evaluate, print, bundle."""
    jobs = grid_of_jobs([options.hook], SaeConfig(), [options.d_sae], options.k, [])
    stream = StreamRequest(options.tokens, options.batch_size, options.buffer_batches)
    request = SaeRequest(TextRequest(options.model, options.corpus), stream, jobs)
    saes, evaluation = options.out / "saes", options.out / "evaluation"
    done = 0
    with stop_on_signal() as stopping, progress("step", request.stream.n_steps) as advance:

        def on_log(row: dict) -> None:
            nonlocal done
            explained = ", ".join(f"{one['explained_variance']:.3f}" for one in row["saes"].values())
            advance(row["step"] - done, f"explained {explained}")
            done = row["step"]

        write_sae_run(saes, request, on_start=print, on_log=on_log, should_stop=stopping)
    with stop_on_signal() as stopping, progress("token") as advance:
        wanted = EvaluationRequest(
            str(saes), TextRequest(options.model, options.evaluate_on), control_corpus=options.corpus
        )
        write_sae_evaluation(evaluation, wanted, on_progress=advance, should_stop=stopping)
    rows = load_evaluation(evaluation)
    heading = ["", *(name for name, _ in COLUMNS.values())]
    print(text_table(heading, [[f"{row.sae}: {row.kind}", *cells(row.numbers)] for row in rows]))
    print(*losses_without(rows), sep="\n")
    if options.bundle:
        [name] = [job.name for job in jobs if job.config.k == options.bundled_k]
        folder = BUNDLED_SAES["stories"]
        save_sae(load_sae(saes / name), folder, dtype=torch.float16)
        write_json(folder / EVALUATION, read_json(evaluation / EVALUATION) | {"bundled": name})
        print(f"bundled: {folder}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
