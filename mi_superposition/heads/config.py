"""What studies of attention heads are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast0, AtLeast1, AtLeast2, Config
from mi_superposition.parts import (
    AdditionModelPart,
    DevicePart,
    RowPart,
    SeedPart,
    TextPart,
    WorkersPart,
    WorkerThreadsPart,
)

Replacement = Literal["zero", "mean", "resample"]
# "mean" is that of each position.
HeadReplacement = Literal["zero", "mean", "overall mean", "resample"]
# A standard error by resampling so few documents says little; so few give no mean either.
FEWEST_DOCUMENTS = 10


@dataclass(frozen=True)
class AblateModelPart(AdditionModelPart):
    """Which model."""

    model: str = "addition"
    """Model: bundled name ('addition', 'addition-exact', 'stories'), run folder, Hugging Face folder, or Hub id. An addition model is
    studied on sums, any other on text."""


@dataclass(frozen=True)
class TextAblationPart(Config):
    """How heads are ablated on text."""

    layer: tuple[AtLeast0, ...] = ()
    """Layers whose heads are ablated, on text and on tasks; sets of heads are of all layers. Default: all."""
    row: RowPart = RowPart()
    reference_documents: Annotated[int, Interval(ge=FEWEST_DOCUMENTS, le=100_000)] = 200
    """Documents, from the start of the corpus, that give means and other documents' outputs; the effects are measured on those after
    them. Of a short corpus half."""
    text_replacement: HeadReplacement = "mean"
    """Replacement in examples, classes of tokens, controls, tasks, sets and pairs: 'zero', the head's 'mean' at each position, its
    'overall mean', or its output on another document ('resample'). The effect of each head is measured with all four."""
    resamples: Annotated[int, Interval(ge=100, le=100_000)] = 1000
    """Times that the documents are drawn anew for the standard errors."""
    examples: AtLeast1 = 10
    """Examples for each head of the tokens that lose most, one a document."""
    tasks: str | None = None
    """File of tasks, .jsonl with 'prompt', 'right', 'wrong' and perhaps 'task' in each line. Default: the bundled tasks."""
    task_sets: AtLeast0 = 100
    """Random sets of heads, all different, to compare the small set of each task with; 0 to look for no sets, which of many heads takes
    longest."""
    pair_heads: Annotated[int, Interval(ge=0, le=1000)] = 16
    """Heads, those with the largest effects, of which all pairs are ablated; 0 for none."""
    pair_documents: AtLeast2 = 12
    """Documents on which pairs are ablated."""
    shard: AtLeast1 = 50
    """Documents per shard of text. A shard of one layer is the unit of work for a worker; an interruption loses at most those in
    progress."""


@dataclass(frozen=True)
class AblateConfig(Config):
    """Ablate attention heads: what each does for the predictions of a model on text, or for the sums of an addition model.

    Of an addition model each head is kept alone and ablated, and small sets are found that still add: --digit-order, --replace-with,
    --n-problems and --random-sets are for it. With any other model all further options are for text and tasks; run again to resume.
    """

    model: AblateModelPart = AblateModelPart()
    replace_with: Replacement = "zero"
    """Replacement for an ablated head's output in an addition model: 'zero', its 'mean' over random problems, or its output on another
    random problem ('resample')."""
    # Every head's logits for every problem are held at once.
    n_problems: Annotated[int, Interval(ge=2, le=20_000)] = 2000
    """Random problems on which an addition model's accuracy is measured."""
    random_sets: Annotated[int, Interval(ge=1, le=100_000)] = 500
    """Random head sets of an addition model, all different, to compare each small set with; all sets of that size where there are no more."""
    text: TextPart = TextPart(documents=40)
    on_text: TextAblationPart = TextAblationPart()
    random: SeedPart = SeedPart()
    threads: WorkerThreadsPart = WorkerThreadsPart()
    device: DevicePart = DevicePart()
    workers: WorkersPart = WorkersPart()


@dataclass(frozen=True)
class ProjectConfig(Config):
    """Project digits and positions onto the queries, keys, values and outputs of every head of an addition model."""

    model: AdditionModelPart = AdditionModelPart()
    head: AtLeast0 | None = None
    """Head to show in detail. Default: the head with the most circular values."""
    position: AtLeast0 = 0
    """Position at which the digits are shown."""
    digit: Annotated[int, Interval(ge=0, le=9)] = 5
    """Digit shown at all positions."""
