"""Training a sparse autoencoder: SAELens's own runner against ours, interleaved in one process, medians.

    python benchmarks/sae.py                       # three rounds of 500,000 tokens each
    python benchmarks/sae.py --tokens 1000000 --rounds 1

Same model (the bundled one), hook, text, architecture (top-k, 2048 features, k = 32), batch, buffer, learning rate and
schedule; the runner logs nothing and writes nothing. Explained variance is measured afterwards, by us, on the same held-out text. The floor is the model's forward pass to the hook
over as many tokens and the five dense matrix products of a training step, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.models import read_hooks
from mi_superposition.sae import ActivationStream, Documents, SaeConfig, SaeJob, evaluate_sae, train_saes

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model("stories", device="cpu")
    texts = list(Documents(load_corpus("stories"), held_out=False))
    held_out = list(model_batches(model, Documents(load_corpus("stories"), held_out=True), ROWS))
    pieces = [piece for batch in model_batches(model, texts, ROWS) for piece in batch.pieces(model.W_E.device)]
    n_steps = -(-options.tokens // BATCH)
    ways: dict[str, Callable[[], Any]] = {
        "SAELens's runner": lambda: runner(model, texts, n_steps),
        "ours": lambda: ours(model, texts, n_steps),
        "ours, bfloat16 model": lambda: ours(model, texts, n_steps, precision="bfloat16"),
        "floor": lambda: floor(model, pieces, n_steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            sae = way()
            seconds[name].append(time.perf_counter() - started)
            if sae is not None:
                found[name] = evaluate_sae(model, sae, held_out, hook=HOOK)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{n_steps:,} steps of {BATCH:,} tokens, {options.rounds} rounds\n")
    print(
        "| | tokens/s | of the runner's | of the floor's | explained, held out | L0 | dead |\n|---|---|---|---|---|---|---|"
    )
    rate = {name: n_steps * BATCH / statistics.median(times) for name, times in seconds.items()}
    for name in ways:
        measured = found.get(name)
        told = f"{measured.explained_variance:.3f} | {measured.l0:.1f} | {measured.dead}" if measured else "| |"
        print(
            f"| {name} | {rate[name]:,.0f} | {rate[name] / rate[next(iter(ways))]:.2f} | {rate[name] / rate['floor']:.2f} | {told} |"
        )


if __name__ == "__main__":
    main()
