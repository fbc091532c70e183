"""Spectra of a network's layers into a run folder: trained here or taken as it is, beside its untrained copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mi_superposition.corpora import load_corpus
from mi_superposition.corpora.images import load_images
from mi_superposition.errors import RequestError
from mi_superposition.models import BUNDLED_MODELS, load_model, weights_of
from mi_superposition.models.classifiers import CLASSIFIERS, Stem, build_classifier
from mi_superposition.runs import HISTORY, MANIFEST, METRICS, Run, content_hash, open_run, read_manifest, write_tensors
from mi_superposition.site import Page, Section, write_site
from mi_superposition.spectra import ENERGY
from mi_superposition.spectra.classifier import CHECKPOINT, ClassifierTraining
from mi_superposition.spectra.result import save_spectra
from mi_superposition.studies.spectra.findings import PICTURES, STATES, Findings, read_findings, save_pictures
from mi_superposition.studies.spectra.page import CAUTION, intro, spectra_items
from mi_superposition.studies.spectra.subjects import ImageSubject, LanguageSubject, Subject
from mi_superposition.training import fixed_arithmetic

COMMAND = "spectra"
_WEIGHTS = "network.safetensors"
# What of a run its page is made of.
KEPT = (
    MANIFEST, METRICS, HISTORY, *(f"{state}.safetensors" for state in STATES), PICTURES,
)  # fmt: skip


@dataclass(frozen=True)
class SpectraRequest:
    """What is measured on what.

    ``images`` (default for a classifier of ours: digits) or ``corpus`` (default for a language model: stories) says which kind
    of network ``network`` names. ``layers``: patterns of their names. ``most``: so many images or documents, from the first on;
    default: all. ``measured_on``: which images. ``energy``: the share that counts in ``energy_rank``.
    """

    network: str = "simplenet"
    images: str | None = None
    corpus: str | None = None
    split: str = "train"
    column: str = "text"
    image_column: str | None = None
    label_column: str | None = None
    layers: tuple[str, ...] = ("*",)
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    stem: Stem = "imagenet"
    measured_on: Literal["train", "test"] = "test"
    most: int | None = None
    energy: float = ENERGY
    threads: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("threads", "most"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} = {value}: must be at least 1")
        if not 0 < self.energy <= 1:
            raise RequestError(f"energy = {self.energy}: must be above 0 and at most 1")
        if self.images is not None and self.corpus is not None:
            raise RequestError(f"images = {self.images!r} and corpus = {self.corpus!r}: a network reads one of them")
        if self.images is not None and self.network in BUNDLED_MODELS:
            raise RequestError(f"images = {self.images!r}: {self.network!r} is a language model, give a corpus")
        if self.corpus is not None and self.network in CLASSIFIERS:
            raise RequestError(f"corpus = {self.corpus!r}: {self.network!r} reads images, give those")

    @property
    def of_images(self) -> bool:
        """Whether the network reads images."""
        return self.images is not None or self.network in CLASSIFIERS


def open_subject(request: SpectraRequest, *, on_image: Callable[[int, str], None] = lambda by, state: None) -> Subject:
    """Load what a request names. Raises as ``load_images``, ``build_classifier``, ``load_model`` and ``load_corpus`` do, and
    ``RequestError`` for layers that are not there.
    """
    if request.of_images:
        images = load_images(
            request.images or "digits",
            image_column=request.image_column,
            label_column=request.label_column,
            on_image=on_image,
        )
        if request.training.epochs and request.training.batch_size > len(images.train):
            raise RequestError(
                f"batch_size = {request.training.batch_size}: there are {len(images.train)} images to train on"
            )

        def build(pretrained: bool) -> Any:
            return build_classifier(
                request.network, shape=images.shape, n_classes=len(images.classes), stem=request.stem,
                pretrained=pretrained, seed=request.training.seed,
            )  # fmt: skip

        return ImageSubject(
            build, images, request.training, request.layers, name=request.network, measured_on=request.measured_on,
            most=request.most, energy=request.energy, device=request.device,
        )  # fmt: skip
    model = load_model(request.network, device=request.device)
    corpus = None
    if model.tokenizer is not None:
        corpus = load_corpus(request.corpus or "stories", split=request.split, column=request.column)
    elif request.corpus is not None:
        raise RequestError(
            f"corpus = {request.corpus!r}: {request.network!r} came without a tokenizer and can read no text"
        )
    identity = {"model": {"name": request.network, "sha256": content_hash(weights_of(model))}}
    return LanguageSubject(
        model, corpus, request.layers, name=request.network, most=request.most, seed=request.training.seed,
        identity=identity,
    )  # fmt: skip


def write_spectra_run(
    out: Path,
    request: SpectraRequest,
    subject: Subject,
    *,
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train if asked to, measure both states, and write spectra, numbers and a page; false when it was done already.

    Training goes on from its checkpoint; a pass that was stopped is made again, what was measured before is kept. Raises as
    ``open_run`` and ``training.Stopped`` when asked to stop.
    """
    config = asdict(request)
    with open_run(out, COMMAND, config, subject.inputs()) as run:
        if not run.finished:
            with fixed_arithmetic(request.threads):
                _write(run, subject, on_step, should_stop)
            return True
        (out / CHECKPOINT).unlink(missing_ok=True)
    return False


def _write(
    run: Run,
    subject: Subject,
    on_step: Callable[[int, str], None],
    should_stop: Callable[[], bool],
) -> None:
    subject.train(run, on_step, should_stop)
    for state in STATES:
        path = run.path / f"{state}.safetensors"
        if not path.exists():
            save_spectra(subject.measure(state, on_step, should_stop), path)
    on_step(0, "page")
    save_pictures({state: subject.pictures(state) for state in STATES}, run.path)
    numbers = subject.metrics()
    if isinstance(subject, ImageSubject):
        write_tensors(run.path / _WEIGHTS, dict(subject.network("trained").state_dict()))
    findings = read_findings(run.path, run.manifest["config"], numbers)
    write_site([_section(findings)], run.path / "page", title="mi_superposition", lead="")
    run.finish(findings.metrics())
    (run.path / CHECKPOINT).unlink(missing_ok=True)


def load_findings(folder: Path) -> Findings:
    """What a finished run found. Raises ``RequestError`` for a folder that is no such run, ``WorkError`` for damaged files."""
    return read_findings(folder, read_manifest(folder, COMMAND)["config"])


def _section(findings: Findings) -> Section:
    title = f"Effective rank of {findings.request['network']}"
    return Section(
        slug="spectra",
        title=title,
        summary="How many directions each layer's weights and activations use, beside the untrained network and random matrices.",
        number="",
        number_is=intro(findings),
        control="",
        page=Page(slug="spectra", title=title, intro=f"{intro(findings)} {CAUTION}", items=spectra_items(findings)),
    )
