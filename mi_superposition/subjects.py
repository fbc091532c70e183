"""What there is to study: the one list that the command line, the report, the docs and the tests read.

A study is a command with a configuration, a module that measures and a module that shows; the three are found by the
command's words. ``neurons order`` is configured by ``mi_superposition.neurons.config``, measured by
``mi_superposition.studies.neurons.order`` and shown by ``mi_superposition.pages.neurons.order``. Everything is named here
and imported only when it is used, so that help needs no torch.

Another package adds a subject by an entry point in the group ``mi_superposition.subjects`` that leads to a ``Subject``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mi_superposition.config import Config

GROUP = "mi_superposition.subjects"


@dataclass(frozen=True)
class Study:
    """A command that measures into a run folder.

    ``config``, ``studies`` and ``pages`` name modules; the usual ones follow from the command's words. ``studies`` has
    ``measure(config, out, progress) -> Outcome`` and ``load(folder) -> Result``; ``pages`` has ``sections(folder) -> list[Section]``, or
    ``write(folder, out, progress) -> Path`` for thousands of pages. ``shown_at_once``: whether the command writes the pages too.
    ``renamed`` maps names of options in version 0.1 to those of today, for command lines and run folders of that time; ``removed`` maps those that are no more to what to give instead.
    """

    command: str
    config_class: str
    config: str = ""
    studies: str = ""
    pages: str = ""
    shown_at_once: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        subject, *verb = self.command.split()
        path = ".".join([subject, *(verb or ["measure"])])
        for name, usual in (
            ("config", f"mi_superposition.{subject}.config"),
            ("studies", f"mi_superposition.studies.{path}"),
            ("pages", f"mi_superposition.pages.{path}"),
        ):
            if not getattr(self, name):
                object.__setattr__(self, name, usual)

    def load_config(self) -> type[Config]:
        """The configuration's class."""
        return getattr(import_module(self.config), self.config_class)

    def measuring(self) -> Any:
        """The module that measures."""
        return import_module(self.studies)

    def showing(self) -> Any:
        """The module that shows."""
        return import_module(self.pages)


@dataclass(frozen=True)
class Tool:
    """A command that is no study: ``module`` has ``run(config, progress) -> str``, the line that says what was done."""

    command: str
    config_class: str
    config: str
    module: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)

    def load_config(self) -> type[Config]:
        """The configuration's class."""
        return getattr(import_module(self.config), self.config_class)

    def running(self) -> Any:
        """The module that does it."""
        return import_module(self.module)


@dataclass(frozen=True)
class Chapter:
    """A part of the report: ``story`` leads on to it from the chapter before, ``reported`` is what the source says.

    ``pages`` names the module with ``jobs(request) -> dict[str, Job]``, the runs that it is made of, and
    ``section(runs, request) -> Section``, made of their folders. ``files``: what ``report --full`` reads of real data, as files of the
    folder that ``--data`` names.
    """

    name: str
    title: str
    story: str
    reported: str
    pages: str
    files: tuple[str, ...] = ()

    def showing(self) -> Any:
        """The module that shows."""
        return import_module(self.pages)


@dataclass(frozen=True)
class Subject:
    """Something to study: its commands, its chapters of the report, and its pages of the docs.

    ``python`` names what does the same from Python, as users of ``import mi_superposition as ms`` write it.
    """

    name: str
    question: str
    studies: tuple[Study, ...] = ()
    tools: tuple[Tool, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    python: tuple[str, ...] = ()
    docs: tuple[str, ...] = ()


# Commands about all subjects.
GENERAL: tuple[Tool, ...] = (
    Tool("report", "ReportConfig", "mi_superposition.report.config", "mi_superposition.report.write"),
    Tool("page", "PageConfig", "mi_superposition.pages.config", "mi_superposition.pages.render"),
)

# In the order of the report's story.
SUBJECTS: tuple[Subject, ...] = (
    Subject(
        name="toy",
        question="How do features share dimensions?",
        studies=(
            Study(
                "toy train",
                "ToyConfig",
                renamed={
                    "model": "network",
                    "features": "n-features",
                    "hidden": "n-hidden",
                    "instances": "n-instances",
                    "steps": "n-steps",
                },
                removed={"weights": "--tied True or --tied False"},
            ),
            Study(
                "toy study", "ToyStudyConfig", renamed={"name": "study", "instances": "n-instances", "steps": "n-steps"}
            ),
        ),
        chapters=(
            Chapter(
                "toy",
                "Toy models",
                "A network needs more features than it has dimensions. In toy models with known features one can see what happens: several features share one dimension if they are rarely active together.",
                "5 sparse features in 2 dimensions form a pentagon; without ReLU only 2 are represented (Elhage et al. 2022)",
                "mi_superposition.pages.toy.chapter",
            ),
        ),
        python=("ms.train_toy", "ms.ToyConfig"),
        docs=("toy.md",),
    ),
    Subject(
        name="addition",
        question="Which digits does a model that adds get right?",
        studies=(
            Study(
                "addition train",
                "AdditionConfig",
                renamed={
                    "digits": "n-digits",
                    "heads": "n-heads",
                    "train-problems": "n-train",
                    "test-problems": "n-test",
                },
            ),
            Study("addition evaluate", "AdditionEvaluateConfig"),
            Study("addition program", "AdditionProgramConfig"),
            Study("addition certify", "AdditionCertifyConfig"),
        ),
        chapters=(
            Chapter(
                "addition",
                "Addition by 32 heads",
                "Next, a small transformer that is trained on one task: 32 attention heads with two dimensions each have to represent ten digits and their sums.",
                "97.99, 97.95 and 98.13 % of the digits of 1,792 test problems in three notebooks (Thaman, Rigg, Oozeer & David, Experiments in Superposition)",
                "mi_superposition.pages.addition.chapter",
            ),
        ),
        python=("ms.train_addition", "ms.certify_addition", "ms.load_model"),
        docs=("addition.md", "certificate.md"),
    ),
    Subject(
        name="heads",
        question="What do attention heads do?",
        studies=(
            Study("heads ablate", "AblateConfig", renamed={"problems": "n-problems"}),
            Study("heads project", "ProjectConfig"),
            Study("heads scan", "HeadScanConfig", config="mi_superposition.heads.scan.config", shown_at_once=False),
            Study("heads trigrams", "TrigramsConfig", config="mi_superposition.heads.trigrams.config"),
        ),
        tools=(
            Tool(
                "heads pages",
                "HeadPagesConfig",
                "mi_superposition.heads.scan.config",
                "mi_superposition.pages.heads.scan",
            ),
        ),
        chapters=(
            Chapter(
                "heads",
                "Superposition among heads",
                "In a language model nobody has set the heads a task. Skip trigrams are one that can be found in text: do heads share them, as they share the digits?",
                "left open: it needs a fixed task for the heads, more attentional features than heads, and a way to tell these from what the MLP remembers (Thaman, Rigg, Oozeer & David, Experiments in Superposition)",
                "mi_superposition.pages.heads.chapter",
            ),
        ),
        python=("ms.ablate_heads", "ms.project_heads", "ms.scan_heads"),
        docs=("addition.md", "heads.md"),
    ),
    Subject(
        name="neurons",
        question="Do neurons have an order, and what makes each of them fire?",
        studies=(
            Study("neurons order", "OrderConfig", renamed={"rows": "documents"}),
            Study(
                "neurons scan",
                "ScanConfig",
                shown_at_once=False,
                renamed={"batch": "forward-batch", "hooks": "hook"},
            ),
            Study("neurons contexts", "ContextsConfig"),
        ),
        tools=(
            Tool(
                "neurons pages", "PagesConfig", "mi_superposition.neurons.config", "mi_superposition.pages.neurons.scan"
            ),
            Tool("neurons try", "TryConfig", "mi_superposition.neurons.config", "mi_superposition.pages.neurons.text"),
        ),
        chapters=(
            Chapter(
                "neuron-order",
                "The order of neurons",
                "The features of a language model are not known in advance. First, only its weights: do they show an order of the neurons, or would any matrix look like this after the same ordering?",
                "the ordered W^T W shows structure; no number was given, and one random matrix was compared by eye (Thaman, Rigg, Oozeer & David, Experiments in Superposition)",
                "mi_superposition.pages.neurons.order_chapter",
            ),
            Chapter(
                "neuroscope",
                "What makes each neuron fire",
                "Weights do not show what a neuron responds to; text does. If there are more features than neurons, some neurons must respond to several contexts.",
                "pages of examples, many of them polysemantic (Neuroscope, Nanda 2022); no comparable number",
                "mi_superposition.pages.neurons.neuroscope_chapter",
                ("tinystories/validation.parquet",),
            ),
        ),
        python=("ms.order_neurons", "ms.scan_neurons"),
        docs=("neuron-order.md", "neuroscope.md"),
    ),
    Subject(
        name="sae",
        question="Which directions are features?",
        studies=(
            Study("sae train", "SaeTrainConfig", renamed={"batch": "forward-batch"}),
            Study("sae evaluate", "SaeEvaluateConfig", renamed={"batch": "forward-batch"}),
            Study("sae recover", "SaeRecoverConfig"),
        ),
        chapters=(
            Chapter(
                "sae",
                "Features from a sparse autoencoder",
                "If neurons mix features, the features may be other directions, of which only a few are active at a time. A sparse autoencoder searches for such directions.",
                "more features than dimensions, easier to interpret than neurons (Cunningham et al. 2023, Bricken et al. 2023)",
                "mi_superposition.pages.sae.chapter",
                ("tinystories/train.parquet",),
            ),
        ),
        python=("ms.train_sae", "ms.evaluate_sae", "ms.load_sae"),
        docs=("sae.md",),
    ),
    Subject(
        name="spectra",
        question="How many directions are in use?",
        studies=(Study("spectra", "SpectraConfig", renamed={"network": "model", "most": "documents"}),),
        chapters=(
            Chapter(
                "spectra",
                "Effective rank",
                "How many dimensions does a layer use? Effective rank counts the directions in use; it does not show how many features share them.",
                "weights: 110 (113 in the text) of 128 and 54 of 64 (R. A. Stringer, Unravelling Superposition)",
                "mi_superposition.pages.spectra.chapter",
                ("mnist/train.parquet", "mnist/test.parquet", "cifar100/train.parquet", "cifar100/test.parquet"),
            ),
        ),
        python=("ms.effective_ranks", "ms.weight_spectrum"),
        docs=("effective-rank.md",),
    ),
    Subject(
        name="concepts",
        question="Are concepts directions, and do they share neurons?",
        studies=(Study("concepts", "ConceptsConfig", renamed={"most": "documents", "top-k": "units-per-concept"}),),
        chapters=(
            Chapter(
                "concepts",
                "Concepts",
                "Finally, the opposite approach: start from human concepts. Are they directions in the model, and do they share neurons?",
                "correlations of texts with three concepts: 0.335, 0.339 and 0.372 (0.375 in the other version), not centred (R. A. Stringer, Unravelling Superposition)",
                "mi_superposition.pages.concepts.chapter",
                ("sst2/train.parquet", "sst2/validation.parquet", "distilbert-tokenizer/tokenizer.json"),
            ),
        ),
        python=("ms.concept_directions", "ms.probe_accuracy"),
        docs=("concepts.md",),
    ),
    Subject(
        name="real",
        question="What of it holds in a real pretrained model?",
        chapters=(
            Chapter(
                "real",
                "A real pretrained model",
                "All this was in models made here. What of it holds in a language model that others trained?",
                "whether the ordered W^T W of a large model has structure was left open (Thaman, Rigg, Oozeer & David, Experiments in Superposition)",
                "mi_superposition.pages.real.chapter",
            ),
        ),
        docs=("real-models.md",),
    ),
    Subject(
        name="sources",
        question="What became of the claims of the sources?",
        chapters=(
            Chapter(
                "sources",
                "The sources, claim by claim",
                "Last, the documents from which all this started: each of their claims, numbers and exercises, beside what was measured here.",
                "claims and numbers of R. A. Stringer; K. Thaman, A. Rigg, N. Oozeer, J. David; ARENA (C. McDougall); Pramodith B.",
                "mi_superposition.pages.sources.chapter",
            ),
        ),
        docs=("sources.md",),
    ),
)


@cache
def subjects() -> tuple[Subject, ...]:
    """All subjects, ours first, then those of other packages by name."""
    others = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return (*SUBJECTS, *(point.load() for point in others))


def find_study(command: str) -> Study | None:
    """The study of a command; ``None`` for a command that is none."""
    return next((study for subject in subjects() for study in subject.studies if study.command == command), None)


def chapters() -> dict[str, Chapter]:
    """The report's chapters by name, in the order of its story."""
    return {chapter.name: chapter for subject in subjects() for chapter in subject.chapters}
