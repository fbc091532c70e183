"""Training a sparse autoencoder: SAELens's own runner against ours, interleaved in one process, medians.

    python benchmarks/sae.py                       # three rounds of 500,000 tokens each
    python benchmarks/sae.py --tokens 1000000 --rounds 1
    python benchmarks/sae.py --shape gpt2 --tokens 40000 --rounds 1 --no-half

Same model, hook, text, architecture (top-k, eight features a dimension, k = 32), batch, buffer, learning rate and
schedule; the runner logs nothing and writes nothing. Explained variance is measured afterwards, by us, on the same held-out
text. The lower bound is the model's forward pass to the hook over as many tokens and the encoder's product, which comes before
the k features are chosen and so is dense. The other four products of a step, and all that comes after, have k features
at each token: a dense one (SAELens's) multiplies zeros, so it is in no lower bound.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from sae_lens import SAE, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig
from timing import Row, machine, parser, timed, write_rows
from transformers import GPT2Config, GPT2LMHeadModel

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.sae import ActivationStream, Documents, Fidelity, SaeConfig, SaeJob, evaluate_sae, train_saes

RUNNER, OURS, HALF = "SAELens's runner", "ours", "ours, bfloat16 model"
# By the way it is a bound of.
BOUNDS = {RUNNER: "lower bound", OURS: "lower bound", HALF: "lower bound, bfloat16 model"}
K, BATCH, ROWS = 32, 2048, 32
N_HELD_OUT = 100


@dataclass(frozen=True)
class Task:
    """An autoencoder of a model's residual stream, eight times as wide."""

    model: HookedModel
    hook: str
    # Batches in the buffer that is filled before the first step.
    buffer_batches: int

    @property
    def config(self) -> SaeConfig:
        """The recipe of both ways."""
        return SaeConfig(d_sae=8 * self.model.cfg.d_model, k=K)


def story_model() -> Task:
    """The bundled model, before its last layer."""
    return Task(load_model("stories", device="cpu"), "blocks.1.hook_resid_pre", 32)


def gpt2_shape() -> Task:
    """Random weights in the shape of GPT-2 small, before its seventh layer of twelve, in contexts of 256 tokens of the bundled tokenizer, whose
    number is no matter here.
    """
    tokenizer = load_model("stories", device="cpu").tokenizer
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(n_positions=256, vocab_size=len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Task(load_model(folder, device="cpu"), "blocks.6.hook_resid_pre", 8)


SHAPES = {"stories": story_model, "gpt2": gpt2_shape}


def runner(task: Task, texts: list[str], n_steps: int) -> SAE[Any]:
    """SAELens's runner; the norm of the activations is estimated from as many batches as ours."""
    model, ours = task.model, task.config
    decay = int(ours.decay_share * n_steps)
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(
            d_in=model.cfg.d_model, d_sae=ours.d_sae, k=K, normalize_activations=ours.normalize
        ),
        model_name="stories", hook_name=task.hook, is_dataset_tokenized=False, context_size=model.cfg.n_ctx, streaming=False,
        # So many rows of tokens make a buffer as large as ours.
        n_batches_in_buffer=BATCH * task.buffer_batches // model.cfg.n_ctx, store_batch_size_prompts=ROWS,
        training_tokens=n_steps * BATCH, train_batch_size_tokens=BATCH, lr=ours.learning_rate, lr_end=ours.learning_rate,
        lr_warm_up_steps=ours.warmup_steps, lr_decay_steps=decay, dead_feature_window=ours.dead_after,
        feature_sampling_window=ours.dead_after, n_batches_for_norm_estimate=16, exclude_special_tokens=True,
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


def ours(task: Task, texts: list[str], n_steps: int, *, precision: str = "float32") -> SAE[Any]:
    """The same through our stream and step."""
    stream = ActivationStream(
        task.model, model_batches(task.model, texts, ROWS), [task.hook], batch_size=BATCH, buffer_batches=task.buffer_batches, precision=precision
    )  # fmt: skip
    return train_saes([SaeJob("sae", task.hook, task.config)], stream, n_steps)["sae"]


def lower_bound(task: Task, pieces: list[TokenBatch], n_steps: int, *, precision: str = "float32") -> None:
    """Forward passes to the hook over as many tokens, and the encoder's product: nothing is tokenized, mixed or learnt."""
    d_model, d_sae = task.model.cfg.d_model, task.config.d_sae
    x, W, product = torch.randn(BATCH, d_model), torch.randn(d_model, d_sae), torch.empty(BATCH, d_sae)
    tokens = 0
    while tokens < n_steps * BATCH:
        for piece in pieces:
            read_hooks(task.model, piece.tokens, [task.hook], precision=precision)
            tokens += int(piece.mask.sum())
            if tokens >= n_steps * BATCH:
                break
    for _ in range(n_steps):
        torch.mm(x, W, out=product)


def compare(
    task: Task, n_tokens: int, rounds: int, *, half: bool = True
) -> tuple[int, dict[str, float], dict[str, Fidelity]]:
    """How many steps were taken, median seconds of each way (the usual one first), and what its autoencoder is worth."""
    model = task.model
    texts = list(Documents(load_corpus("stories"), held_out=False))
    unseen = itertools.islice(Documents(load_corpus("stories"), held_out=True), N_HELD_OUT)
    held_out = list(model_batches(model, unseen, ROWS))
    pieces = [piece for batch in model_batches(model, texts, ROWS) for piece in batch.pieces(model.W_E.device)]
    n_steps = -(-n_tokens // BATCH)
    ways: dict[str, Callable[[], Any]] = {
        RUNNER: lambda: runner(task, texts, n_steps),
        OURS: lambda: ours(task, texts, n_steps),
        HALF: lambda: ours(task, texts, n_steps, precision="bfloat16"),
        BOUNDS[OURS]: lambda: lower_bound(task, pieces, n_steps),
        BOUNDS[HALF]: lambda: lower_bound(task, pieces, n_steps, precision="bfloat16"),
    }
    if not half:
        del ways[HALF], ways[BOUNDS[HALF]]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    made: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(timed(lambda name=name, way=way: made.__setitem__(name, way())))
    worth = {name: evaluate_sae(model, sae, held_out, hook=task.hook) for name, sae in made.items() if sae is not None}
    return n_steps, {name: statistics.median(times) for name, times in taken.items()}, worth


def main() -> None:
    """Print the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--tokens", type=int, default=500_000)
    options_of.add_argument("--rounds", type=int, default=3)
    options_of.add_argument(
        "--shape",
        choices=SHAPES,
        default="stories",
        help="the bundled model, or random weights in the shape of GPT-2 small",
    )
    options_of.add_argument(
        "--no-half",
        action="store_true",
        help="leave out bfloat16, which takes long where a processor has no instructions for it",
    )
    options = options_of.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if options.rows:
        n_steps, taken, worth = compare(story_model(), *((20_000, 1) if options.quick else (250_000, 3)))
        explained = {name: f"{found.explained_variance:.3f}" for name, found in worth.items()}
        remark = f"held-out variance {explained[OURS]} and {explained[RUNNER]}"
        name = f"a top-k autoencoder: {n_steps * BATCH:,} tokens"
        write_rows(
            options.rows,
            [Row(name, taken[OURS], RUNNER, taken[RUNNER], "forward pass and encoder", taken[BOUNDS[OURS]], remark)],
        )
        return
    n_steps, taken, worth = compare(SHAPES[options.shape](), options.tokens, options.rounds, half=not options.no_half)
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
