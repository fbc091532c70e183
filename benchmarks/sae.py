"""Training a sparse autoencoder: SAELens's own runner against ours, interleaved in one process, medians.

    python benchmarks/sae.py                       # three rounds of 500,000 tokens each
    python benchmarks/sae.py --tokens 1000000 --rounds 1

Same model (the bundled one), hook, text, architecture (top-k, 2048 features, k = 32), batch, buffer, learning rate and
schedule; the runner logs nothing and writes nothing. Explained variance is measured afterwards, by us, on the same held-out text. The floor is the model's forward pass to the hook
over as many tokens and the five dense matrix products of a training step, and nothing else.
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
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig
from timing import Row, machine, parser, timed, write_rows

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.models import read_hooks
from mi_superposition.sae import ActivationStream, Documents, SaeConfig, SaeJob, evaluate_sae, train_saes

RUNNER = "SAELens's runner"
HOOK, D_SAE, K, BATCH, BUFFER_BATCHES, ROWS = "blocks.1.hook_resid_pre", 2048, 32, 2048, 32, 32
CONFIG = SaeConfig(d_sae=D_SAE, k=K)


def runner(model: Any, texts: list[str], n_steps: int) -> Any:
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


def ours(model: Any, texts: list[str], n_steps: int, *, precision: str = "float32") -> Any:
    """The same through our stream and step."""
    stream = ActivationStream(
        model, model_batches(model, texts, ROWS), [HOOK], batch_size=BATCH, buffer_batches=BUFFER_BATCHES, precision=precision
    )  # fmt: skip
    return train_saes([SaeJob("sae", HOOK, CONFIG)], stream, n_steps)["sae"]


def floor(model: Any, pieces: list[TokenBatch], n_steps: int) -> None:
    """Forward passes to the hook over as many tokens, and the products of a step: nothing is tokenized or mixed."""
    x, W, wide = torch.randn(BATCH, model.cfg.d_model), torch.randn(model.cfg.d_model, D_SAE), torch.randn(BATCH, D_SAE)
    tokens = 0
    while tokens < n_steps * BATCH:
        for piece in pieces:
            read_hooks(model, piece.tokens, [HOOK])
            tokens += int(piece.mask.sum())
            if tokens >= n_steps * BATCH:
                break
    for _ in range(n_steps):
        # Encode, decode, and the gradients of decoder, features and encoder.
        x @ W, wide @ W.T, wide.T @ x, x @ W, x.T @ wide


def compare(n_tokens: int, rounds: int) -> tuple[int, dict[str, float], dict[str, Any]]:
    """How many steps were taken, median seconds of each way (the usual one first), and what its autoencoder is worth."""
    model = load_model("stories", device="cpu")
    texts = list(Documents(load_corpus("stories"), held_out=False))
    held_out = list(model_batches(model, Documents(load_corpus("stories"), held_out=True), ROWS))
    pieces = [piece for batch in model_batches(model, texts, ROWS) for piece in batch.pieces(model.W_E.device)]
    n_steps = -(-n_tokens // BATCH)
    ways: dict[str, Callable[[], Any]] = {
        RUNNER: lambda: runner(model, texts, n_steps),
        "ours": lambda: ours(model, texts, n_steps),
        "ours, bfloat16 model": lambda: ours(model, texts, n_steps, precision="bfloat16"),
        "floor": lambda: floor(model, pieces, n_steps),
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
        remark = f"held-out variance {explained['ours']} and {explained[RUNNER]}"
        task = f"a top-k autoencoder: {n_steps * BATCH:,} tokens"
        write_rows(
            options.rows,
            [Row(task, taken["ours"], RUNNER, taken[RUNNER], "forward pass and five products", taken["floor"], remark)],
        )
        return
    n_steps, taken, worth = compare(options.tokens, options.rounds)
    print(machine())
    print(f"{n_steps:,} steps of {BATCH:,} tokens, {options.rounds} rounds\n")
    print(
        "| | tokens/s | of the runner's | of the floor's | explained, held out | L0 | dead |\n|---|---|---|---|---|---|---|"
    )
    rate = {name: n_steps * BATCH / seconds for name, seconds in taken.items()}
    for name, value in rate.items():
        found = worth.get(name)
        told = f"{found.explained_variance:.3f} | {found.l0:.1f} | {found.dead}" if found else "| |"
        print(f"| {name} | {value:,.0f} | {value / rate[RUNNER]:.2f} | {value / rate['floor']:.2f} | {told} |")


if __name__ == "__main__":
    main()
