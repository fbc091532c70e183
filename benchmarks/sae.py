"""Training a sparse autoencoder: SAELens's own runner against ours, interleaved in one process, medians.

    python benchmarks/sae.py                       # three rounds of 500,000 tokens each
    python benchmarks/sae.py --tokens 1000000 --rounds 1

Same model (the bundled one), hook, text, architecture (top-k, 2048 features, k = 32), batch, buffer, learning rate and
schedule; the runner logs nothing and writes nothing. Explained variance is measured afterwards, by us, on the same held-out
text. The lower bound is the model's forward pass to the hook over as many tokens and the encoder's product, which comes before
the k features are chosen and so is dense. The other four products of a step, and all that comes after, have k of 2,048 features
at each token: a dense one (SAELens's) multiplies zeros, so it is in no lower bound.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig
from timing import Row, machine, parser, timed, write_rows

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae import ActivationStream, Documents, Fidelity, SaeConfig, SaeJob, evaluate_sae, train_saes

RUNNER, OURS, HALF = "SAELens's runner", "ours", "ours, bfloat16 model"
# By the way it is a bound of.
BOUNDS = {RUNNER: "lower bound", OURS: "lower bound", HALF: "lower bound, bfloat16 model"}
HOOK, D_SAE, K, BATCH, BUFFER_BATCHES, ROWS = "blocks.1.hook_resid_pre", 2048, 32, 2048, 32, 32
CONFIG = SaeConfig(d_sae=D_SAE, k=K)


def runner(model: HookedModel, texts: list[str], n_steps: int) -> SAE[Any]:
    """SAELens's runner; the norm of the activations is estimated from as many batches as ours."""
    decay = int(CONFIG.decay_share * n_steps)
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=model.cfg.d_model, d_sae=D_SAE, k=K, normalize_activations=CONFIG.normalize
        ),
        model_name="stories", hook_name=HOOK, is_dataset_tokenized=False, context_size=model.cfg.n_ctx, streaming=False,
        # So many rows of tokens make a buffer as large as ours.
        n_batches_in_buffer=BATCH * BUFFER_BATCHES // (ROWS * model.cfg.n_ctx), store_batch_size_prompts=ROWS,
        training_tokens=n_steps * BATCH, train_batch_size_tokens=BATCH, lr=CONFIG.learning_rate, lr_end=CONFIG.learning_rate,
        lr_warm_up_steps=CONFIG.warmup_steps, lr_decay_steps=decay, dead_feature_window=CONFIG.dead_after,
        feature_sampling_window=CONFIG.dead_after, n_batches_for_norm_estimate=16, exclude_special_tokens=True,
        logger=LoggingConfig(log_to_wandb=False), n_checkpoints=0, checkpoint_path=None, output_path=None, device="cpu",
        verbose=False,
    )  # fmt: skip
    with (
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        dataset = Dataset.from_dict({"text": texts})
        return LanguageModelSAETrainingRunner(config, override_model=model, override_dataset=dataset).run().eval()


def ours(model: HookedModel, texts: list[str], n_steps: int, *, precision: str = "float32") -> SAE[Any]:
    """The same through our stream and step."""
    stream = ActivationStream(
        model, model_batches(model, texts, ROWS), [HOOK], batch_size=BATCH, buffer_batches=BUFFER_BATCHES, precision=precision
    )  # fmt: skip
    return train_saes([SaeJob("sae", HOOK, CONFIG)], stream, n_steps)["sae"]


def lower_bound(model: HookedModel, pieces: list[TokenBatch], n_steps: int, *, precision: str = "float32") -> None:
    """Forward passes to the hook over as many tokens, and the encoder's product: nothing is tokenized, mixed or learnt."""
    x, W = torch.randn(BATCH, model.cfg.d_model), torch.randn(model.cfg.d_model, D_SAE)
    product = torch.empty(BATCH, D_SAE)
    tokens = 0
    while tokens < n_steps * BATCH:
        for piece in pieces:
            read_hooks(model, piece.tokens, [HOOK], precision=precision)
            tokens += int(piece.mask.sum())
            if tokens >= n_steps * BATCH:
                break
    for _ in range(n_steps):
        torch.mm(x, W, out=product)


def compare(n_tokens: int, rounds: int) -> tuple[int, dict[str, float], dict[str, Fidelity]]:
    """How many steps were taken, median seconds of each way (the usual one first), and what its autoencoder is worth."""
    model = load_model("stories", device="cpu")
    texts = list(Documents(load_corpus("stories"), held_out=False))
    held_out = list(model_batches(model, Documents(load_corpus("stories"), held_out=True), ROWS))
    pieces = [piece for batch in model_batches(model, texts, ROWS) for piece in batch.pieces(model.W_E.device)]
    n_steps = -(-n_tokens // BATCH)
    ways: dict[str, Callable[[], Any]] = {
        RUNNER: lambda: runner(model, texts, n_steps),
        OURS: lambda: ours(model, texts, n_steps),
        HALF: lambda: ours(model, texts, n_steps, precision="bfloat16"),
        BOUNDS[OURS]: lambda: lower_bound(model, pieces, n_steps),
        BOUNDS[HALF]: lambda: lower_bound(model, pieces, n_steps, precision="bfloat16"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    made: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(timed(lambda name=name, way=way: made.__setitem__(name, way())))
    worth = {name: evaluate_sae(model, sae, held_out, hook=HOOK) for name, sae in made.items() if sae is not None}
    return n_steps, {name: statistics.median(times) for name, times in taken.items()}, worth


def main() -> None:
    """Print the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--tokens", type=int, default=500_000)
    options_of.add_argument("--rounds", type=int, default=3)
    options = options_of.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if options.rows:
        n_steps, taken, worth = compare(*((20_000, 1) if options.quick else (250_000, 3)))
        explained = {name: f"{found.explained_variance:.3f}" for name, found in worth.items()}
        remark = f"held-out variance {explained[OURS]} and {explained[RUNNER]}"
        task = f"a top-k autoencoder: {n_steps * BATCH:,} tokens"
        write_rows(
            options.rows,
            [Row(task, taken[OURS], RUNNER, taken[RUNNER], "forward pass and encoder", taken[BOUNDS[OURS]], remark)],
        )
        return
    n_steps, taken, worth = compare(options.tokens, options.rounds)
    print(machine())
    print(f"{n_steps:,} steps of {BATCH:,} tokens, {options.rounds} rounds\n")
    print(
        "| | tokens/s | of the runner's | of the lower bound's | explained, held out | L0 | dead |\n|---|---|---|---|---|---|---|"
    )
    rate = {name: n_steps * BATCH / seconds for name, seconds in taken.items()}
    for name, value in rate.items():
        found, bound = worth.get(name), rate[BOUNDS.get(name, name)]
        told = f"{found.explained_variance:.3f} | {found.l0:.1f} | {found.dead}" if found else "| |"
        print(f"| {name} | {value:,.0f} | {value / rate[RUNNER]:.2f} | {value / bound:.2f} | {told} |")


if __name__ == "__main__":
    main()
