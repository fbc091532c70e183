"""What is asked for when sparse autoencoders are trained or evaluated. Imports no torch, so the command line can show it at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast0, AtLeast1, AtLeast2, Config, NonNegative, Positive
from mi_superposition.errors import RequestError
from mi_superposition.parts import (
    BatchPart,
    DoubleDevicePart,
    ForwardPart,
    ModelPart,
    SeedPart,
    TextPart,
    ThreadsPart,
    WorkersPart,
    WorkerThreadsPart,
)
from mi_superposition.sae.catalogue import BUNDLED_SAES, EVALUATION_FOLDER, is_published

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"]
BY_K = ("topk", "batchtopk", "matryoshka")
# Weight of the sparsity loss where none is given, for architectures that have one (ours: about 20 to 60 features active on
# the bundled model's residual stream).
_USUAL_SPARSITY = {"standard": 2.0, "gated": 2.0, "jumprelu": 2.0}


@dataclass(frozen=True, kw_only=True)
class _Autoencoders(Config):
    """What is said of one autoencoder, or of a grid of them that differ in three of these options."""

    architecture: Architecture = "topk"
    """SAELens architecture. 'matryoshka' nests widths of an eighth, a quarter, a half and all of the features."""
    d_sae: int | tuple[int, ...]
    """Number of features."""
    k: int | tuple[int, ...]
    """Active features per token, for 'topk', 'batchtopk' and 'matryoshka'. Default: 32."""
    sparsity: float | tuple[float, ...] | None
    """Weight of the sparsity loss: L1 for 'standard' and 'gated', L0 for 'jumprelu'. Default: 2."""
    normalize: Literal["none", "expected_average_only_in", "layer_norm"] = "expected_average_only_in"
    """SAELens activation scaling. 'expected_average_only_in' is folded into the weights after training."""
    learning_rate: Positive = 2e-3
    """Peak Adam learning rate, after warm-up."""
    warmup_steps: AtLeast0 = 50
    """Steps over which the learning rate rises from 0."""
    decay_share: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Fraction of the steps, at the end, over which the learning rate falls to 0."""
    dead_after: AtLeast1 = 100
    """Steps without activation after which a feature counts as dead, and is revived if the architecture supports this."""


# Options of which all autoencoders of a grid have the same.
_SHARED = [one.name for one in fields(_Autoencoders) if one.name not in ("d_sae", "k", "sparsity")]


@dataclass(frozen=True, kw_only=True)
class SaeConfig(SeedPart, _Autoencoders):
    """One sparse autoencoder, in SAELens's terms. ``seed`` is that of its initial weights."""

    d_sae: AtLeast1 = 2048
    k: AtLeast1 = 32
    sparsity: NonNegative | None = None

    def __post_init__(self) -> None:
        # A list, as what is not checked yet may be nothing that has a hash.
        if self.sparsity is None and self.architecture in list(_USUAL_SPARSITY):
            object.__setattr__(self, "sparsity", _USUAL_SPARSITY[self.architecture])
        super().__post_init__()

    def check(self) -> None:
        """What the architecture is made sparse by, and whether it can be."""
        if self.architecture in BY_K:
            if self.k > self.d_sae:
                raise RequestError(f"k = {self.k}: there are only {self.d_sae} features")
            if self.sparsity is not None:
                raise RequestError(f"sparsity = {self.sparsity}: {self.architecture!r} is made sparse by k")
            if self.normalize == "layer_norm":
                raise RequestError(
                    f"normalize = 'layer_norm': SAELens's {self.architecture!r} revives dead features only without it"
                )
        if self.architecture == "matryoshka" and self.d_sae // 8 < self.k:
            raise RequestError(
                f"d_sae = {self.d_sae}: the smallest of four nested widths, an eighth, must hold k = {self.k}"
            )


@dataclass(frozen=True)
class SaeJob:
    """One autoencoder of several that read the same stream: its name, the hook it reads, what it is."""

    name: str
    hook: str
    config: SaeConfig


@dataclass(frozen=True)
class StreamPart(Config):
    """Number of training tokens, and their shuffling."""

    tokens: AtLeast1 = 1_000_000
    """Training tokens; a shorter corpus is repeated."""
    # A batch of one has no variance to explain.
    batch_size: AtLeast2 = 2048
    """Tokens per step."""
    buffer_batches: AtLeast1 = 32
    """Batches in the shuffling buffer."""

    @property
    def n_steps(self) -> int:
        """Batches in so many tokens, the last one rounded up."""
        return -(-self.tokens // self.batch_size)


@dataclass(frozen=True)
class StorePart(Config):
    """Where activations are kept. The result is the same with or without."""

    AFFECTS_RESULT: ClassVar[bool] = False

    activations: Path | None = None
    """Folder for activations, written once and reused by later trainings on the same stream. Default: not stored."""


@dataclass(frozen=True, kw_only=True)
class SaeTrainConfig(_Autoencoders):
    """Train sparse autoencoders on the activations of one or more hooks. Run again to resume.

    Several hooks, widths or sparsities make a grid. One document in ten is held out, chosen by a hash of its text.
    """

    model: ModelPart = ModelPart()
    hook: tuple[str, ...] = ("blocks.1.hook_resid_pre",)
    """Hooks whose activations are read."""
    text: TextPart = TextPart()
    d_sae: tuple[AtLeast1, ...] = (SaeConfig.d_sae,)
    k: tuple[AtLeast1, ...] = ()
    sparsity: tuple[NonNegative, ...] = ()
    stream: StreamPart = StreamPart()
    store: StorePart = StorePart()
    activations_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of stored activations. With 'float32' the result is bit-identical to training without stored
    activations."""
    forward: ForwardPart = ForwardPart()
    device: DoubleDevicePart = DoubleDevicePart()
    threads: WorkerThreadsPart = WorkerThreadsPart(threads=2)
    random: SeedPart = SeedPart()
    workers: WorkersPart = WorkersPart()

    def check(self) -> None:
        """A grid of autoencoders that can be trained, each named once, where it can be."""
        for name in ("hook", "d_sae"):
            if not getattr(self, name):
                raise RequestError(f"{name} = (): give at least one")
        by_k = self.architecture in BY_K
        name, values = ("sparsity", self.sparsity) if by_k else ("k", self.k)
        if values:
            raise RequestError(
                f"{name} = {values[0]}: {self.architecture!r} is made sparse by {'k' if by_k else 'sparsity'}"
            )
        if len({job.name for job in self.jobs}) < len(self.jobs):
            raise RequestError("two grid entries are identical: give each hook, width and sparsity once")
        if self.by_task and self.store.activations is not None:
            raise RequestError(
                f"activations = {str(self.store.activations)!r}: tasks of Ray read the text themselves; leave it out"
            )

    @property
    def jobs(self) -> tuple[SaeJob, ...]:
        """Every hook with every width and every k (or weight of the sparsity loss); one alone is called "sae"."""
        shared = {name: getattr(self, name) for name in _SHARED} | {"seed": self.random.seed}
        by_k = self.architecture in BY_K
        levels: list[dict[str, Any]] = [{"k": k} for k in self.k] if by_k else [{"sparsity": s} for s in self.sparsity]
        jobs = []
        for hook, width, level in itertools.product(self.hook, self.d_sae, levels or [{}]):
            config = SaeConfig(d_sae=width, **shared, **level)
            label = f"k{config.k}" if by_k else f"s{config.sparsity:g}"
            jobs.append(SaeJob(f"{hook}-{width}-{label}", hook, config))
        return (replace(jobs[0], name="sae"),) if len(jobs) == 1 else tuple(jobs)

    @property
    def by_task(self) -> bool:
        """Whether each autoencoder is a task of Ray with a pass over the text of its own."""
        return self.workers.engine == "ray" and len(self.jobs) > 1

    def resolved(self, *, device: str) -> SaeTrainConfig:
        """The same, its defaults that depend on others in place: what is recorded, so that one request is recorded in one way."""
        first = self.jobs[0].config
        by_k = self.architecture in BY_K
        level = {"k": self.k or (first.k,)} if by_k else {"sparsity": self.sparsity or (first.sparsity,)}
        stored_as = self.activations_dtype if self.store.activations is not None else "float32"
        return self.replace(device=device, activations_dtype=stored_as, **level)

    @classmethod
    def flattened(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Version 0.1 recorded each autoencoder of the grid in full: back to the grid."""
        saes = list(recorded["saes"].values())
        level = "k" if saes[0]["architecture"] in BY_K else "sparsity"
        grid = {name: list(dict.fromkeys(sae[name] for sae in saes)) for name in ("hook", "d_sae", level)}
        rest = {name: value for name, value in recorded.items() if name != "saes"}
        return super().flattened(rest) | saes[0] | {"k": [], "sparsity": []} | grid


@dataclass(frozen=True)
class SaeEvaluateConfig(Config):
    """Evaluate sparse autoencoders on held-out text next to their baselines.

    Baselines use the same number of features per token: principal components, the dimensions furthest from their mean, random
    directions and training activations as dictionaries (also searched by orthogonal matching pursuit), and an autoencoder trained with the
    same settings on a model with shuffled weights (evaluated on both models).
    """

    sae: str
    """Run folder of 'sae train', folder in SAELens's layout; or, with --out, RELEASE:ID of SAELens's registry or the bundled 'stories'."""
    model: str | None = None
    """Model, if its name or path differs from the one recorded at training."""
    hook: str | None = None
    """Hook to read. Default: the one recorded at training."""
    text: TextPart = TextPart()
    control_corpus: str | None = None
    """Training text for the control autoencoder. Default: --corpus."""
    control_tokens: AtLeast0 | None = None
    """Training tokens for the control autoencoder; 0 for no control. Default: as many as the evaluated one."""
    pursuit_tokens: AtLeast0 = 2**14
    """Held-out tokens for orthogonal matching pursuit, rounded up to whole batches; 0 for none."""
    forward: BatchPart = BatchPart()
    context: AtLeast2 | None = None
    """Tokens per sequence; longer documents continue in the next sequence. Default: as recorded at training."""
    device: DoubleDevicePart = DoubleDevicePart()
    threads: ThreadsPart = ThreadsPart()
    random: SeedPart = SeedPart()

    def usual_out(self) -> Path:
        """'evaluation' in the autoencoder's folder.

        Raises ``RequestError`` for a bundled or published autoencoder, whose folder is not the user's.
        """
        if self.sae in BUNDLED_SAES or is_published(self.sae):
            kind = "bundled" if self.sae in BUNDLED_SAES else "published"
            raise RequestError(f"{self.sae!r} is {kind}: name a folder for its evaluation (--out)")
        return Path(self.sae) / EVALUATION_FOLDER


@dataclass(frozen=True)
class SaeRecoverConfig(Config):
    """Test whether sparse autoencoders find the true features of a toy model, where these are known.

    Autoencoders are trained on its hidden layer: with its features as sparse as in its own training, and with all of them
    always active.
    """

    n_features: AtLeast2 = 20
    """Features of the toy model; the autoencoders have twice as many."""
    n_hidden: AtLeast1 = 8
    """Hidden dimensions of the toy model, which the autoencoders read."""
    probability: Annotated[float, Interval(gt=0, le=1)] = 0.05
    """Probability that a feature of the toy model is active."""
    toy_steps: AtLeast1 = 4000
    """Training steps of the toy model."""
    sae_steps: AtLeast1 = 1500
    """Training steps of each autoencoder."""
    threads: ThreadsPart = ThreadsPart(threads=1)
    random: SeedPart = SeedPart()

    def check(self) -> None:
        """A bottleneck, whose features must share dimensions."""
        if self.n_hidden >= self.n_features:
            raise RequestError(f"n_hidden = {self.n_hidden}: must be fewer than the {self.n_features} features")
