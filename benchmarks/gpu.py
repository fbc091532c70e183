"""The scan and the training of an autoencoder on a GPU beside the model's bare forward pass, in tokens per second, interleaved, medians.

    python benchmarks/gpu.py                           # the bundled model, and the shape of GPT-2 small with random weights
    python benchmarks/gpu.py --model FOLDER            # and a model of your own

The floor of both is the forward pass on the same batches: through all layers for the scan of all neurons, to the middle of the model
for the autoencoder of its residual stream. The scan's statistics are made on the CPU, so its cores count too. Needs a CUDA device; with
`--device cpu` it can be tried anywhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import interleaved, machine
from transformers import GPT2Config, GPT2LMHeadModel

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch
from mi_superposition.models import read_hooks
from mi_superposition.neurons import ScanSettings, scan_neurons
from mi_superposition.neurons.scan import mlp_hooks
from mi_superposition.sae import SaeConfig, train_sae

ROUNDS = 3
CONTEXT = 128


def main() -> None:
    """Print one line for each model and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="a further model: name or folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=512, help="rows of 128 tokens")
    options = parser.parse_args()
    print(machine(), torch.cuda.get_device_name() if options.device == "cuda" else "")
    models = {
        "stories": load_model("stories", device=options.device),
        "GPT-2 small's shape": gpt2_small(options.device),
    }
    models |= {Path(name).name: load_model(name, device=options.device) for name in options.model}
    for name, model in models.items():
        measured(name, model, options.rows)


def gpt2_small(device: str) -> Any:
    """The shape alone: random weights."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(GPT2Config(n_positions=CONTEXT)).save_pretrained(folder)
        return load_model(folder, device=device)


def measured(name: str, model: Any, rows: int) -> None:
    """The lines of one model."""
    batches = token_rows(model, rows)
    n_tokens = sum(int(batch.mask.sum()) for batch in batches)
    middle = f"blocks.{model.cfg.n_layers // 2}.hook_resid_pre"
    width = 8 * model.cfg.d_model

    def forward(hook: str, precision: str) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                read_hooks(model, batch.tokens, {hook}, precision=precision)
            synchronize(model)

        return run

    def scan(precision: str) -> Callable[[], object]:
        return lambda: scan_neurons(model, batches, ScanSettings(top_k=20), precision=precision)

    def sae() -> None:
        train_sae(
            model, batches, middle, SaeConfig(d_sae=width, k=32), n_steps=n_tokens // 2048, batch_size=2048, buffer_batches=4
        )  # fmt: skip
        synchronize(model)

    ways = {
        "forward, all layers": forward(mlp_hooks(model)[-1], "float32"),
        "forward, all layers, bfloat16": forward(mlp_hooks(model)[-1], "bfloat16"),
        "scan of all neurons": scan("float32"),
        "scan of all neurons, bfloat16": scan("bfloat16"),
        "forward, to the middle": forward(middle, "float32"),
        f"autoencoder of {width:,} features, to the middle": sae,
    }
    for way, seconds in interleaved(ways, ROUNDS).items():
        print(f"{name:22} {way:50} {n_tokens / seconds:12,.0f} tokens/s", flush=True)


def token_rows(model: Any, rows: int) -> list[TokenBatch]:
    """Rows of stories joined, or of random tokens for a model without a tokenizer, 64 to a batch."""
    if model.tokenizer is None:
        tokens = torch.randint(model.cfg.d_vocab, (rows, CONTEXT), generator=torch.Generator().manual_seed(0))
    else:
        joined = [
            token for text in load_corpus("stories", documents=rows * 2) for token in model.tokenizer(text)["input_ids"]
        ]
        tokens = torch.tensor((joined * (1 + rows * CONTEXT // len(joined)))[: rows * CONTEXT]).reshape(rows, CONTEXT)
    numbers, place = torch.arange(rows)[:, None].expand_as(tokens), torch.arange(CONTEXT)[None].expand_as(tokens)
    return [
        TokenBatch(tokens[some], torch.ones_like(tokens[some], dtype=torch.bool), numbers[some], place[some])
        for some in (slice(first, first + 64) for first in range(0, rows, 64))
    ]


def synchronize(model: Any) -> None:
    """Wait for the device: its calls return before they are done."""
    if model.W_E.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
