"""Evaluating autoencoders into a run folder: on held-out text, each beside its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mi_superposition.corpora import Corpus, TokenBatches, load_corpus
from mi_superposition.errors import RequestError
from mi_superposition.models import shuffled_copy
from mi_superposition.runs import Run, open_run, read_json, read_manifest, write_json
from mi_superposition.sae import (
    ActivationStream,
    SaeConfig,
    SaeJob,
    check_sae,
    evaluate_reconstructions,
    save_sae,
    train_saes,
)
from mi_superposition.sae.baselines import brought_to, largest_dimensions, principal_components, random_dictionary
from mi_superposition.sae.evaluate import Reconstruct, activation_statistics, reconstruct_with
from mi_superposition.sae.files import BUNDLED_SAES, SAE_CONFIG, read_sae, sae_folders, sae_identity
from mi_superposition.sae.train import CHECKPOINT
from mi_superposition.site import Page, Section, write_site
from mi_superposition.studies.sae.page import evaluation_items
from mi_superposition.studies.sae.rows import FOREIGN, KINDS, LARGEST, PCA, RANDOM, SAE, SHUFFLED, Row
from mi_superposition.studies.sae.training import StreamRequest, TextRequest
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "sae evaluate"
EVALUATION = "evaluation.json"
_LEAD = "Every number stands beside what needs no training, or was trained on a model that knows nothing."
_CONTROLS = "controls"
# Tokens of the text trained on from which the baselines are made.
_BASELINE_TOKENS = 2**16


@dataclass(frozen=True)
class EvaluationRequest:
    """What is evaluated on what. Empty, ``text.model`` is the model the autoencoder was trained on; ``hook`` and
    ``text.context`` likewise.

    ``documents``: held-out documents, from the first on. ``control_corpus``: text the control autoencoders are trained on;
    default: that of ``text``. ``control_tokens``: how many of its tokens; default: as many as the autoencoder saw; 0 for none.
    """

    sae: str
    text: TextRequest = field(default_factory=lambda: TextRequest(model=""))
    hook: str | None = None
    documents: int | None = None
    control_corpus: str | None = None
    control_tokens: int | None = None
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("documents", 1), ("control_tokens", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RequestError(f"{name} = {value}: must be at least {least}")


@dataclass(frozen=True)
class _Opened:
    """Everything an evaluation reads."""

    request: EvaluationRequest
    text: TextRequest
    model: Any
    corpus: Corpus
    control_corpus: Corpus
    saes: Mapping[str, Any]
    hooks: Mapping[str, str]

    def held_out(self) -> TokenBatches:
        return self.text.batches(self.model, self.corpus, held_out=True, most=self.request.documents)


@dataclass(frozen=True)
class _Controls:
    """A model that knows nothing, and for each autoencoder one trained on it; how many tokens of which text it saw."""

    model: Any
    saes: Mapping[str, Any]


def evaluation_folder(sae: str) -> Path:
    """Where an evaluation goes unless another place is named. Raises ``RequestError`` for a bundled autoencoder."""
    if sae in BUNDLED_SAES:
        raise RequestError(f"{sae!r} is bundled: name a folder for its evaluation (--out)")
    return Path(sae) / "evaluation"


def write_sae_evaluation(
    out: Path,
    request: EvaluationRequest,
    *,
    on_progress: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Evaluate every autoencoder of a run beside its baselines; false when it was done already.

    The control autoencoders are trained with checkpoints and kept; a run that was stopped goes on from there, and evaluates
    anew. ``on_progress`` is told of tokens, trained on and evaluated. Raises ``RequestError`` for an autoencoder of another
    model, and ``training.Stopped`` when asked to stop.
    """
    folders = sae_folders(request.sae)
    opened = _open(request, {name: read_sae(folder) for name, folder in folders.items()})
    inputs = opened.text.identity(opened.model, opened.corpus)
    inputs["saes"] = {name: sae_identity(folder) for name, folder in folders.items()}
    opened.text.check_held_out(opened.model, opened.corpus)
    tokens = 0

    def on_tokens(n: int, state: str) -> None:
        nonlocal tokens
        tokens += n
        on_progress(n, state)
        if should_stop():
            raise Stopped(tokens, "token")

    with open_run(out, COMMAND, asdict(replace(request, text=opened.text)), inputs) as run:
        if run.finished:
            return False
        if not (out / EVALUATION).exists():
            with fixed_arithmetic(request.threads):
                controls = _trained_controls(run, opened, on_progress, should_stop)
                rows = [
                    row
                    for hook in dict.fromkeys(opened.hooks.values())
                    for row in _rows(opened, hook, controls, on_tokens)
                ]
            told = {"model": opened.text.model, "corpus": opened.text.corpus, "rows": [asdict(row) for row in rows]}
            write_json(out / EVALUATION, told)
        rows = read_rows(out)
        on_progress(0, "page")
        write_site([_section(rows, opened)], out / "page", title="mi_superposition", lead=_LEAD)
        run.finish({f"{row.sae}/{row.kind}/{name}": value for row in rows for name, value in row.numbers.items()})
        (run.path / CHECKPOINT).unlink(missing_ok=True)
    return True


def _open(request: EvaluationRequest, saes: dict[str, Any]) -> _Opened:
    metadata = next(iter(saes.values())).cfg.metadata
    model_name = request.text.model or metadata.model_name
    if not model_name:
        raise RequestError(f"{request.sae!r} does not say which model it reads: name one")
    text = replace(request.text, model=model_name)
    model, corpus = text.open()
    # Read as it was trained, unless asked for otherwise.
    context = text.context or min(metadata.context_size or model.cfg.n_ctx, model.cfg.n_ctx)
    text = replace(text, device=str(model.W_E.device), context=context)
    hooks = {name: check_sae(sae, model, request.hook) for name, sae in saes.items()}
    control_corpus = corpus
    if request.control_corpus is not None:
        control_corpus = load_corpus(request.control_corpus, split=text.split, column=text.column)
    return _Opened(
        request, text, model, corpus, control_corpus, {name: sae.to(text.device) for name, sae in saes.items()}, hooks
    )


def _section(rows: list[Row], opened: _Opened) -> Section:
    """The page of an evaluation, which looks into the autoencoder that explains most."""
    ours = [row for row in rows if row.kind == SAE]
    best = max(ours, key=lambda row: row.numbers["explained_variance"])
    components = next(row for row in rows if row.kind == PCA and row.sae == best.sae)
    corpus = Path(opened.text.corpus).name
    page = Page(
        slug="sae",
        title="Sparse autoencoders",
        intro=f"{', '.join(dict.fromkeys(row.hook for row in ours))} of {Path(opened.text.model).name}, on held-out documents of {corpus}.",
        items=evaluation_items(rows, opened.model, opened.saes[best.sae].cpu(), main=best),
    )
    return Section(
        slug="sae",
        title=page.title,
        summary=f"{len(ours)} of them, beside baselines with as many features a token."
        if len(ours) > 1
        else "Beside baselines with as many features a token.",
        number=f"{best.numbers['explained_variance']:.3f} explained",
        number_is=f"share of the variance, with {best.numbers['l0']:.1f} features a token",
        control=f"{components.numbers['explained_variance']:.3f} by as many principal components",
        page=page,
    )


def load_evaluation(folder: Path) -> list[Row]:
    """The table of a finished evaluation. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_rows(folder)


def read_rows(folder: Path) -> list[Row]:
    """The table beside a bundled autoencoder, or in a finished run."""
    return [Row(**row) for row in read_json(folder / EVALUATION)["rows"]]


def _trained_controls(
    run: Run, opened: _Opened, on_progress: Callable[[int, str], None], should_stop: Callable[[], bool]
) -> _Controls | None:
    """For each autoencoder that says how it was trained, one trained with the same settings on a shuffled model."""
    request, training = opened.request, next(iter(opened.saes.values())).cfg.metadata.training or {}
    made = {name: sae.cfg.metadata.trained_with for name, sae in opened.saes.items()}
    jobs = [
        SaeJob(name, opened.hooks[name], SaeConfig(**{key: one[key] for key in _CONFIG_FIELDS & one.keys()}))
        for name, one in made.items()
        if one
    ]
    tokens = training.get("tokens", 1) if request.control_tokens is None else request.control_tokens
    if not jobs or not training or not tokens:
        return None
    shuffled = shuffled_copy(opened.model, request.seed)
    folder = run.path / _CONTROLS
    if not all((folder / job.name / SAE_CONFIG).is_file() for job in jobs):
        stream = StreamRequest(
            tokens=tokens, threads=request.threads,
            **{name: training[name] for name in ("batch_size", "buffer_batches", "seed")},
        )  # fmt: skip
        text = replace(opened.text, batch=training["batch"], precision=training["precision"])
        # The copy has no tokenizer: it reads what the trained model reads.
        source = ActivationStream(
            shuffled, text.batches(opened.model, opened.control_corpus, held_out=False), list(dict.fromkeys(opened.hooks.values())),
            batch_size=stream.batch_size, buffer_batches=stream.buffer_batches, seed=stream.seed, precision=text.precision,
        )  # fmt: skip
        try:
            source.batch(0)
        except RequestError as error:
            raise RequestError(f"the control's training: {error}, or control_tokens = 0 for none") from None
        done = 0

        def on_log(row: dict[str, Any]) -> None:
            nonlocal done
            on_progress((row["step"] - done) * stream.batch_size, "control, training")
            done = row["step"]

        trained = train_saes(
            jobs, source, stream.n_steps, run=run, device=text.device, on_log=on_log, should_stop=should_stop
        )
        for name, sae in trained.items():
            save_sae(sae, folder / name)
    return _Controls(shuffled, {job.name: read_sae(folder / job.name, device=opened.text.device) for job in jobs})


_CONFIG_FIELDS = {one.name for one in fields(SaeConfig)}


def _rows(opened: _Opened, hook: str, controls: _Controls | None, on_tokens: Callable[[int, str], None]) -> list[Row]:
    """The autoencoders of one hook, and the baselines of each with as many features a token."""
    model, held_out = opened.model, opened.held_out()
    trained_on_text = opened.text.batches(model, opened.corpus, held_out=False)
    statistics = activation_statistics(model, trained_on_text, hook, most_tokens=_BASELINE_TOKENS)
    mean, saes = statistics.mean.float(), {name: sae for name, sae in opened.saes.items() if opened.hooks[name] == hook}
    ways: dict[tuple[str, str], Reconstruct] = {(name, SAE): reconstruct_with(sae) for name, sae in saes.items()}
    # How sparse they are decides how sparse the baselines have to be.
    alone = evaluate_reconstructions(
        model, held_out, hook, ways, mean, losses=False, on_tokens=lambda n: on_tokens(n, "autoencoders")
    )
    own: dict[tuple[str, str], Reconstruct] = {}
    if controls is not None:
        reread = activation_statistics(controls.model, trained_on_text, hook, most_tokens=_BASELINE_TOKENS)
    for name, sae in saes.items():
        # Rounded up, and so never less than the autoencoder has.
        k = min(max(math.ceil(alone[name, SAE].l0), 1), len(mean))
        ways[name, PCA] = principal_components(statistics, k)
        ways[name, LARGEST] = largest_dimensions(statistics, k)
        ways[name, RANDOM] = random_dictionary(statistics, sae.cfg.d_sae, k, seed=opened.request.seed)
        if controls is not None and name in controls.saes:
            ways[name, FOREIGN] = brought_to(reconstruct_with(controls.saes[name], k), statistics, reread)
            own[name, SHUFFLED] = reconstruct_with(controls.saes[name])
    found = evaluate_reconstructions(
        model, held_out, hook, ways, mean, on_tokens=lambda n: on_tokens(n, "autoencoders and baselines")
    )
    if controls is not None and own:
        # What a shuffled model expects of text means nothing: no losses.
        found |= evaluate_reconstructions(
            controls.model, held_out, hook, own, reread.mean.float(), losses=False,
            on_tokens=lambda n: on_tokens(n, "control, on its own model"),
        )  # fmt: skip
    return [Row(*key, hook, found[key].numbers()) for name in saes for kind in KINDS if (key := (name, kind)) in found]
