"""Training autoencoders into a run folder: one or a grid of them, here in one pass over the text or as tasks of Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mi_superposition.corpora import Corpus, TokenBatches, load_corpus, model_batches
from mi_superposition.corpora.corpus import BUNDLED_CORPORA
from mi_superposition.corpora.tokens import tokenizer_hash
from mi_superposition.engine import Engine, check_engine, name_for_workers, results_of
from mi_superposition.errors import RequestError
from mi_superposition.models import BUNDLED_MODELS, hook_widths, load_model, weights_of
from mi_superposition.runs import MANIFEST, METRICS, Run, content_hash, open_run, read_json
from mi_superposition.sae import (
    ActivationSource,
    ActivationStream,
    Documents,
    SaeConfig,
    SaeJob,
    save_sae,
    store_activations,
    train_saes,
)
from mi_superposition.sae.config import BY_K
from mi_superposition.sae.evaluate import activation_statistics, evaluate_reconstructions, reconstruct_with
from mi_superposition.sae.files import trained_on
from mi_superposition.sae.stored import check_store, stored_bytes
from mi_superposition.sae.train import CHECKPOINT
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "sae train"
# Held-out tokens on which the numbers at the end of a training are measured.
_MEASURED_TOKENS = 2**15


@dataclass(frozen=True)
class TextRequest:
    """Which model reads which text, and how."""

    model: str = "stories"
    corpus: str = "stories"
    split: str = "train"
    column: str = "text"
    context: int | None = None
    batch: int = 32
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("context", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RequestError(f"{name} = {value}: must be at least {least}")
        if self.precision not in ("float32", "bfloat16"):
            raise RequestError(f"precision = {self.precision!r}: give 'float32' or 'bfloat16'")
        if self.device == "mps":
            raise RequestError("device = 'mps': has no double precision, which sums are taken in; give 'cpu' or 'cuda'")

    def open(self) -> tuple[Any, Corpus]:
        """The model and the corpus. Raises ``RequestError`` for one that is not there."""
        return load_model(self.model, device=self.device), load_corpus(
            self.corpus, split=self.split, column=self.column
        )

    def check_held_out(self, model: Any, corpus: Corpus) -> None:
        """Raise ``RequestError`` for a corpus that holds nothing out."""
        if next(iter(self.batches(model, corpus, held_out=True)), None) is None:
            raise RequestError("the corpus holds out no text (one document in ten): give a longer one")

    def identity(self, model: Any, corpus: Corpus) -> dict[str, Any]:
        """What activations depend on beside the stream: recorded in run folders. Raises ``RequestError`` for a model without
        tokenizer.
        """
        self.batches(model, corpus, held_out=True)
        return {
            "model": {"name": self.model, "sha256": content_hash(weights_of(model))},
            "tokenizer": {"sha256": tokenizer_hash(model.tokenizer)},
            "corpus": corpus.identity() | {"split": self.split, "column": self.column},
        }

    def batches(self, model: Any, corpus: Corpus, *, held_out: bool, most: int | None = None) -> TokenBatches:
        """The text trained on, or the text held out (its first ``most`` documents), as the model reads it."""
        return model_batches(model, Documents(corpus, held_out=held_out, most=most), self.batch, context=self.context)


@dataclass(frozen=True)
class StreamRequest:
    """How many tokens are trained on, and how they are mixed."""

    tokens: int = 1_000_000
    batch_size: int = 2048
    buffer_batches: int = 32
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        # A batch of one has no variance to explain.
        for name, least in (("tokens", 1), ("batch_size", 2), ("buffer_batches", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least {least}")

    @property
    def n_steps(self) -> int:
        """Batches in so many tokens, the last one rounded up."""
        return -(-self.tokens // self.batch_size)


@dataclass(frozen=True)
class SaeRequest:
    """A training of one or several autoencoders: all that the result depends on.

    ``activations``: where they are written once, to be read by other trainings too, as ``activations_dtype``.
    """

    text: TextRequest = field(default_factory=TextRequest)
    stream: StreamRequest = field(default_factory=StreamRequest)
    jobs: tuple[SaeJob, ...] = ()
    activations: Path | None = None
    activations_dtype: str = "float32"

    @property
    def kept_as(self) -> str:
        """The precision in which activations pass from the model to the autoencoders."""
        return "float32" if self.activations is None else self.activations_dtype


def grid_of_jobs(
    hooks: Sequence[str], config: SaeConfig, d_sae: Sequence[int], k: Sequence[int], sparsity: Sequence[float]
) -> tuple[SaeJob, ...]:
    """Every hook with every width and every k (or weight of the sparsity loss); one alone is called "sae"."""
    by_k = config.architecture in BY_K
    given, values = ("sparsity", sparsity) if by_k else ("k", k)
    if values:
        raise RequestError(
            f"{given} = {values[0]}: {config.architecture!r} is made sparse by {'k' if by_k else 'sparsity'}"
        )
    levels: list[dict[str, Any]] = [{"k": one} for one in k] if by_k else [{"sparsity": one} for one in sparsity]
    jobs = []
    for hook, width, level in itertools.product(hooks, d_sae or (config.d_sae,), levels or [{}]):
        one = replace(config, d_sae=width, **level)
        label = f"k{one.k}" if by_k else f"s{one.sparsity:g}"
        jobs.append(SaeJob(f"{hook}-{width}-{label}", hook, one))
    if len({job.name for job in jobs}) < len(jobs):
        raise RequestError("the same hook, width and sparsity twice: name each once")
    return (replace(jobs[0], name="sae"),) if len(jobs) == 1 else tuple(jobs)


@dataclass(frozen=True)
class _Task:
    """One autoencoder of a grid for a worker: a run of its own. ``names``: model and corpus as they were asked for."""

    out: Path
    request: SaeRequest
    names: tuple[str, str]


def write_sae_run(
    out: Path,
    request: SaeRequest,
    *,
    engine: Engine = "local",
    ray_address: str | None = None,
    names: tuple[str, str] | None = None,
    on_start: Callable[[str], None] = lambda line: None,
    on_log: Callable[[dict[str, Any]], None] = lambda row: None,
    on_stage: Callable[[str], None] = lambda stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train into a run folder, or go on with it; false when it was finished already.

    One autoencoder lies in the folder itself, several in a folder each. Local ones share a pass over the text; with Ray each
    is a task with a pass, and a run, of its own, and the weights are the same. ``on_start`` is told what will be held in memory
    and on disk before anything is, ``on_stage`` of work that is no step. ``names`` are those of model and corpus that the
    autoencoders remember. Raises ``RequestError`` for a request that cannot be met, ``training.Stopped`` after a checkpoint
    when asked to stop.
    """
    check_engine(engine)
    text, by_task = request.text, engine == "ray" and len(request.jobs) > 1
    if by_task and request.activations is not None:
        raise RequestError(
            f"activations = {str(request.activations)!r}: tasks of Ray read the text themselves; leave it out"
        )
    model, corpus = text.open()
    widths = hook_widths(model, {job.hook for job in request.jobs})
    for job in request.jobs:
        _check_width(job, widths[job.hook])
    text = replace(text, device=str(model.W_E.device))
    request = replace(request, text=text)
    stream = None if by_task else _stream(model, corpus, request)
    inputs = text.identity(model, corpus)
    config = {
        "text": asdict(text),
        "stream": asdict(request.stream),
        "saes": {job.name: {"hook": job.hook} | asdict(job.config) for job in request.jobs},
        "activations_dtype": request.kept_as,
    }
    begun = (out / MANIFEST).exists()
    if not begun:
        # What cannot be done is found out before there is a run folder, which would then refuse a better request.
        text.check_held_out(model, corpus)
        if stream is not None:
            if request.activations is not None:
                check_store(
                    stream, request.activations, request.stream.n_steps, dtype=request.activations_dtype,
                    inputs=_stored_inputs(request, model, inputs),
                )  # fmt: skip
            on_start(_sizes(request, widths))
            with fixed_arithmetic(request.stream.threads):
                stream.batch(0)
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return False
        if stream is None:
            metrics = _from_workers(run, request, ray_address, on_log, should_stop)
        else:
            if begun:
                on_start(_sizes(request, widths))
            with fixed_arithmetic(request.stream.threads):
                source = _stored(stream, request, inputs, widths, on_start, on_stage, should_stop)
                saes = train_saes(
                    request.jobs, source, request.stream.n_steps, metadata=_remembered(model, request, names), run=run,
                    device=text.device, on_log=on_log, should_stop=should_stop,
                )  # fmt: skip
                for job in request.jobs:
                    save_sae(saes[job.name], sae_folder(out, request, job))
                on_stage("held-out text")
                metrics = _measured(model, corpus, request, saes)
        run.finish(metrics)
        (run.path / CHECKPOINT).unlink(missing_ok=True)
    return True


def _remembered(model: Any, request: SaeRequest, names: tuple[str, str] | None) -> dict[str, Any]:
    """What is written beside the weights of how they came to be."""
    text = request.text
    model_name, corpus_name = names or (text.model, text.corpus)
    known = trained_on(model, model_name, corpus_name, text.context or model.cfg.n_ctx)
    told = asdict(replace(text, model=model_name, corpus=corpus_name)) | asdict(request.stream)
    return known | {"training": told | {"activations_dtype": request.kept_as}}


def sae_folder(out: Path, request: SaeRequest, job: SaeJob) -> Path:
    """Where a run keeps an autoencoder."""
    return out if len(request.jobs) == 1 else out / job.name


def training_table(out: Path) -> list[tuple[str, dict[str, float | int]]]:
    """The held-out numbers of a finished training, by autoencoder."""
    rows: dict[str, dict[str, float | int]] = {}
    for key, value in read_json(out / METRICS).items():
        name, number = key.rsplit("/", 1)
        rows.setdefault(name, {})[number] = value
    return list(rows.items())


def _check_width(job: SaeJob, d_in: int) -> None:
    # Ours: a nest that does not even have a feature for each dimension nests nothing of interest.
    if job.config.architecture == "matryoshka" and job.config.d_sae < d_in:
        raise RequestError(
            f"d_sae = {job.config.d_sae}: 'matryoshka' nests widths down to an eighth, and {job.hook!r} has {d_in} dimensions; "
            "give as many features at least"
        )


def _sizes(request: SaeRequest, widths: dict[str, int]) -> str:
    stream = request.stream
    held = stream.batch_size * stream.buffer_batches
    needed = sum(widths[hook] for hook in {job.hook for job in request.jobs}) * held * 4
    weights = sum(2 * widths[job.hook] * job.config.d_sae for job in request.jobs) * 4
    # Weights, gradients, Adam's two moments, and once more weights and moments twice as a checkpoint is written.
    return (
        f"{stream.n_steps:,} steps of {stream.batch_size:,} tokens; buffer of {held:,} tokens, {needed / 2**20:,.0f} MiB; "
        f"autoencoders {10 * weights / 2**20:,.0f} MiB while they train"
    )


def _stream(model: Any, corpus: Corpus, request: SaeRequest) -> ActivationStream:
    stream = request.stream
    return ActivationStream(
        model, request.text.batches(model, corpus, held_out=False), list(dict.fromkeys(job.hook for job in request.jobs)),
        batch_size=stream.batch_size, buffer_batches=stream.buffer_batches, seed=stream.seed,
        precision=request.text.precision,
    )  # fmt: skip


def _stored(
    stream: ActivationStream,
    request: SaeRequest,
    inputs: dict[str, Any],
    widths: dict[str, int],
    on_start: Callable[[str], None],
    on_stage: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> ActivationSource:
    """The stream, or what was, or now is, written down of it."""
    if request.activations is None:
        return stream
    n_batches, written = request.stream.n_steps, 0
    size = stored_bytes(widths, n_batches * stream.batch_size, request.activations_dtype)
    on_start(f"activations: {size / 2**20:,.0f} MiB in {request.activations}")

    def on_buffer(batches: int) -> None:
        nonlocal written
        written += batches
        on_stage(f"activations, {written:,} of {n_batches:,} batches")

    return store_activations(
        stream, request.activations, n_batches, dtype=request.activations_dtype,
        inputs=_stored_inputs(request, stream.model, inputs), on_buffer=on_buffer, should_stop=should_stop,
    )  # fmt: skip


def _stored_inputs(request: SaeRequest, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What activations on disk were made of."""
    return inputs | {"text": {"context": request.text.context or model.cfg.n_ctx, "batch": request.text.batch}}


def _measured(model: Any, corpus: Corpus, request: SaeRequest, saes: Mapping[str, Any]) -> dict[str, float | int]:
    """Each autoencoder on the first held-out tokens."""
    batches, n = [], 0
    for batch in request.text.batches(model, corpus, held_out=True):
        batches.append(batch)
        n += int(batch.mask.sum())
        if n >= _MEASURED_TOKENS:
            break
    metrics: dict[str, float | int] = {}
    for hook in dict.fromkeys(job.hook for job in request.jobs):
        jobs = [job for job in request.jobs if job.hook == hook]
        found = evaluate_reconstructions(
            model, batches, hook,
            {job.name: reconstruct_with(saes[job.name].to(model.W_E.device)) for job in jobs},
            activation_statistics(model, batches, hook).mean.float(),
        )  # fmt: skip
        metrics |= {f"{name}/{number}": value for name, one in found.items() for number, value in one.numbers().items()}
    return metrics


def _from_workers(
    run: Run,
    request: SaeRequest,
    ray_address: str | None,
    on_log: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> dict[str, float | int]:
    """Every autoencoder as a task; those finished before are not done again."""
    text = request.text
    sent = replace(
        text, model=name_for_workers(text.model, BUNDLED_MODELS), corpus=name_for_workers(text.corpus, BUNDLED_CORPORA)
    )
    tasks = [
        _Task(
            run.path.resolve() / job.name,
            replace(request, jobs=(replace(job, name="sae"),), text=sent),
            (text.model, text.corpus),
        )
        for job in request.jobs
    ]
    metrics: dict[str, float | int] = {}
    work = results_of(
        train_task, tasks, engine="ray", address=ray_address, cpus=request.stream.threads,
        gpus=int(text.device.startswith("cuda")),
    )  # fmt: skip
    for done, (job, found) in enumerate(zip(request.jobs, work, strict=True), start=1):
        metrics |= {f"{job.name}/{name.removeprefix('sae/')}": value for name, value in found.items()}
        on_log({"step": done, "saes": {}})
        if should_stop() and done < len(tasks):
            raise Stopped(done, "autoencoder")
    return metrics


def train_task(task: _Task) -> dict[str, float | int]:
    """What a worker does: train one autoencoder into its run folder, or find it finished; its held-out numbers."""
    write_sae_run(task.out, task.request, names=task.names)
    return dict(read_json(task.out / METRICS))
