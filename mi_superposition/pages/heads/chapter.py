"""The report's chapter on superposition among heads, and behind it what every head does for the predictions; from runs that come with the
package (``scripts/head_trigrams.py``, ``scripts/head_effects.py``).
"""

from __future__ import annotations

from dataclasses import replace

from mi_superposition.heads.trigrams.result import HeadSharing
from mi_superposition.pages.heads import ablate_text, trigrams
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.site import Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.studies.heads import ablate_text as ablation_study
from mi_superposition.studies.heads import trigrams as study

CHAPTER = "heads"
TITLE = "Superposition among heads"

_COMMAND = "mi-superposition heads trigrams --out RUN"
ALTERNATIVES = (
    Alternative(
        "stories that the model did not write, and Holm's correction",
        "116 of 600 trigrams pass, 0 of 100 random ones; 2.0 heads each, 17 features of one head without a common token",
        "mi-superposition heads trigrams --corpus tinystories.parquet --documents 8000 --features 600 --occurrences 16 --controls 100 --correction holm --out RUN",
        "heads.md",
    ),
    Alternative(
        "a code over heads: features told apart from all others by their heads, beside permuted matrices",
        "123 of 211, permuted within heads 124: many features share heads, but their profiles are no code of their own",
        _COMMAND,
        "heads.md",
    ),
    Alternative(
        "what the MLPs make of it, not the heads",
        "with all MLP outputs held 53 % of the edges' effect stays; 47 % goes through MLPs",
        _COMMAND,
        "heads.md",
    ),
    Alternative(
        "a toy with known trigrams: does a small effective number of heads mean that features are not spread?",
        "1.1 heads each with 2 heads, 2.7 with 16, where untrained ones have 5.4: it grows with the heads there are, so read it beside the carrying heads",
        "python scripts/head_toy.py",
        "heads.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:  # noqa: ARG001
    """The bundled runs."""
    return {
        "trigrams": Job(study.COMMAND, bundled=study.BUNDLED),
        "ablation": Job(ablation_study.COMMAND, bundled=ablation_study.BUNDLED),
    }


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """Skip trigrams of the bundled stories, their heads, and the toy that calibrates the measure; behind it every head ablated."""
    result = study.load(runs[CHAPTER]["trigrams"])
    shown = trigrams.section(result, slug=CHAPTER, title=TITLE)
    ablated = ablate_text.page(ablation_study.load(runs[CHAPTER]["ablation"]), slug="head-ablation")
    return replace(shown, headline=headline(result), alternatives=ALTERNATIVES, more=[ablated])


def headline(result: HeadSharing) -> Headline:
    """Whether more features were found than there are heads, and than would be if those tested passed as often as random trigrams."""
    by_chance = result.n_tested * result.n_random_kept / max(1, len(result.random_effect))
    return Headline(
        result.n_features,
        {"heads of the model": result.n_layers * result.n_heads, "at the rate of random trigrams": by_chance},
        yes="There are more attentional features than heads",
        no="There are not shown to be more attentional features than heads",
    )
