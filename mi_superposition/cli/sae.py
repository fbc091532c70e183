"""Commands about sparse autoencoders."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mi_superposition.cli.command import Command, progress, stop_on_signal, text_table, where


@dataclass(frozen=True)
class SaeTrain(Command):
    """Train sparse autoencoders on a hook's activations; run again on the same folder to go on where it stopped.

    Several hooks, widths or sparsities make a grid. One document in ten is held out, by the hash of its text.
    """

    out: Path
    """Run folder; SAELens reads it with SAE.load_from_disk (several: a folder in it for each)."""
    model: str = "stories"
    """Bundled model, folder in Hugging Face layout, run folder, or id on the hub."""
    hook: tuple[str, ...] = ("blocks.1.hook_resid_pre",)
    """Hooks whose activations are read."""
    corpus: str = "stories"
    """Bundled corpus, file, folder, or dataset id on the hub."""
    split: str = "train"
    """Split of the corpus, where it has several."""
    column: str = "text"
    """Column with the text, where the corpus has columns."""
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"] = "topk"
    """SAELens's."""
    d_sae: tuple[int, ...] = (2048,)
    """Features."""
    k: tuple[int, ...] = ()
    """Features active at each token, for 'topk', 'batchtopk' and 'matryoshka'. Default: 32."""
    sparsity: tuple[float, ...] = ()
    """Weight of the sparsity loss: L1 for 'standard' and 'gated', L0 for 'jumprelu'. Default: 2."""
    normalize: Literal["none", "expected_average_only_in", "layer_norm"] = "expected_average_only_in"
    """SAELens's scaling of activations; 'expected_average_only_in' is folded into the weights at the end."""
    learning_rate: float = 2e-3
    """Adam's learning rate after its warm-up."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises from 0."""
    decay_share: float = 0.2
    """Share of the steps, at the end, in which it falls to 0."""
    dead_after: int = 100
    """Steps without firing after which a feature counts as dead, and is revived where the architecture can."""
    tokens: int = 1_000_000
    """Tokens trained on, over and over the corpus if it is shorter."""
    batch_size: int = 2048
    """Tokens in a step."""
    buffer_batches: int = 32
    """Batches in the buffer in which tokens are shuffled."""
    activations: Path | None = None
    """Folder in which activations are written once, and read by every later training with the same stream. Default: none."""
    activations_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How they are written; in single precision the result is bit-identical to one without the folder."""
    batch: int = 32
    """Rows of text the model is given at once."""
    context: int | None = None
    """Tokens in a row; longer documents go on in the next. Default: the model's context."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the model's arithmetic as it reads; 'bfloat16' runs it under autocast."""
    threads: int = 2
    """CPU threads. On a CPU the weights are bit-identical between runs with the same number."""
    seed: int = 0
    """Seed of the order of tokens and of the initial weights."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda where there is one."""
    engine: Literal["local", "ray"] = "local"
    """A grid is trained in one pass over the text in this process, or each autoencoder as a task of Ray."""
    ray_address: str | None = None
    """Address of a running Ray cluster whose workers share the run folder. Default: one is started on this machine."""

    def run(self) -> str:
        """Train, or go on, or say that it is finished."""
        from mi_superposition.sae.config import SaeConfig
        from mi_superposition.studies.sae.rows import COLUMNS, cells
        from mi_superposition.studies.sae.training import (
            SaeRequest,
            StreamRequest,
            TextRequest,
            grid_of_jobs,
            training_table,
            write_sae_run,
        )

        config = SaeConfig(
            architecture=self.architecture,
            normalize=self.normalize,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_share=self.decay_share,
            dead_after=self.dead_after,
            seed=self.seed,
        )
        text = TextRequest(
            self.model, self.corpus, self.split, self.column, self.context, self.batch, self.precision, self.device
        )
        stream = StreamRequest(self.tokens, self.batch_size, self.buffer_batches, self.threads, self.seed)
        jobs = grid_of_jobs(self.hook, config, self.d_sae, self.k, self.sparsity)
        request = SaeRequest(text, stream, jobs, self.activations, self.activations_dtype)
        by_task = self.engine == "ray" and len(jobs) > 1
        done = 0
        with (
            stop_on_signal() as stopping,
            progress("autoencoder" if by_task else "step", len(jobs) if by_task else stream.n_steps) as advance,
        ):

            def on_log(row: dict[str, Any]) -> None:
                nonlocal done
                first: dict[str, Any] = next(iter(row["saes"].values()), {})
                state = ", ".join(
                    f"{name} {first[key]:.3g}"
                    for key, name in (
                        ("loss", "loss"),
                        ("l0", "L0"),
                        ("explained_variance", "explained"),
                        ("dead_features", "dead"),
                    )
                    if first.get(key) is not None
                )
                advance(row["step"] - done, state)
                done = row["step"]

            trained = write_sae_run(
                self.out,
                request,
                engine=self.engine,
                ray_address=self.ray_address,
                on_start=lambda line: print(line, file=sys.stderr),
                on_log=on_log,
                on_stage=lambda stage: advance(0, stage),
                should_stop=stopping,
            )
        table = text_table(
            ["held-out text", *(name for name, _ in COLUMNS.values())],
            [[name, *cells(found)] for name, found in training_table(self.out)],
        )
        return f"{table}\n{where(not trained, self.out)}"


@dataclass(frozen=True)
class SaeEvaluate(Command):
    """Evaluate sparse autoencoders on held-out text beside their baselines, and write their page.

    Baselines have as many features a token: principal components, largest dimensions, random directions, and an autoencoder
    trained with the same settings on the model with shuffled weights. That one is shown on its own model too.
    """

    sae: str
    """Run folder of 'sae train', folder in SAELens's layout, or the bundled 'stories' (which needs --out)."""
    out: Path | None = None
    """Run folder; the page is page/index.html below it. Default: 'evaluation' in the autoencoder's folder."""
    corpus: str = "stories"
    """Bundled corpus, file, folder, or dataset id on the hub; only its held-out documents are evaluated on."""
    split: str = "train"
    """Split of the corpus, where it has several."""
    column: str = "text"
    """Column with the text, where the corpus has columns."""
    documents: int | None = None
    """Held-out documents, from the first on. Default: all."""
    model: str = ""
    """Model, if it now goes by another name than when the autoencoder was trained."""
    hook: str | None = None
    """Hook it reads. Default: the one it was trained on."""
    control_corpus: str | None = None
    """Text the autoencoder of the shuffled model is trained on. Default: that of --corpus."""
    control_tokens: int | None = None
    """Tokens of it; 0 for no such control. Default: as many as the autoencoder saw."""
    batch: int = 32
    """Rows of text the model is given at once."""
    context: int | None = None
    """Tokens in a row; longer documents go on in the next. Default: as it was trained."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Seed of the baselines."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda where there is one."""

    def run(self) -> str:
        """Evaluate, or go on, or say that it is finished; the table."""
        from mi_superposition.studies.sae.evaluation import (
            EvaluationRequest,
            evaluation_folder,
            load_evaluation,
            write_sae_evaluation,
        )
        from mi_superposition.studies.sae.rows import COLUMNS, SAE, cells, losses_without
        from mi_superposition.studies.sae.training import TextRequest

        text = TextRequest(
            self.model, self.corpus, self.split, self.column, self.context, self.batch, device=self.device
        )
        request = EvaluationRequest(
            self.sae,
            text,
            self.hook,
            self.documents,
            self.control_corpus,
            self.control_tokens,
            self.threads,
            self.seed,
        )
        out = evaluation_folder(self.sae) if self.out is None else self.out
        with stop_on_signal() as stopping, progress("token") as advance:
            done = write_sae_evaluation(out, request, on_progress=advance, should_stop=stopping)
        rows = load_evaluation(out)
        table = text_table(
            ["on held-out text", *(name for name, _ in COLUMNS.values())],
            [[f"{row.sae}: {row.kind}" if row.kind == SAE else f"  {row.kind}", *cells(row.numbers)] for row in rows],
        )
        return "\n".join([table, *losses_without(rows), where(not done, out)])
