"""The page of a head ablation."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from torch import Tensor

from mi_superposition.addition.ablation import HeadSets
from mi_superposition.figures.addition import ablation_accuracy, ablation_animation, head_set_accuracy, push_counts
from mi_superposition.figures.animation import ablation_gif
from mi_superposition.pages.heads import ablate_text
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import ImageRecord, Item, TableRecord
from mi_superposition.studies.heads.ablate import N_UNTRAINED, HeadAblation, load
from mi_superposition.studies.heads.ablate_text_result import TextAblation


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    study = load(folder)
    if isinstance(study, TextAblation):
        return ablate_text.sections(study)
    animation = ImageRecord(
        id="animation",
        title="The same maps as an animation",
        look_at="All conditions as an animation, for use where pages with scripts are not possible.",
        alt="Heat maps of the correct digit's logit and of every digit's logit, one frame per set of heads kept",
        file_name="ablation.gif",
        content=ablation_gif(study.maps, study.maps.conditions),
    )
    page = Page(
        slug="ablation",
        title=f"Head ablation of {study.config.model.name}",
        intro="Each head kept alone and each head ablated; every number has a control.",
        items=[*items(study), animation],
    )
    return [
        Section(
            slug="ablation",
            title="Head ablation",
            summary=page.intro,
            number=f"{study.effects.share:.2f}",
            number_is="mean effect of ablating one head, relative to ablating all heads",
            control=f"{study.untrained_effects.share:.2f} in untrained models",
            page=page,
        )
    ]


def figure(study: HeadAblation) -> go.Figure:
    """Accuracy with each head alone, and without it."""
    return ablation_accuracy(study.maps)


def items(study: HeadAblation) -> list[Item]:
    """The study as figures with their words."""
    maps, sets, counts = study.maps, study.sets, study.counts
    n_heads = study.n_heads
    all_accuracy, none_accuracy = (float(maps.accuracy[maps.of(name)].mean()) for name in ("all", "none"))
    replaced = {
        "zero": "zero",
        "mean": "their mean over random problems",
        "resample": "their output on another random problem",
    }
    table = TableRecord(
        id="head-sets-table",
        title="Head sets per digit",
        look_at=(
            "Sets come from greedy backward elimination, which need not find the smallest set. Each set is chosen on one sample of "
            "problems and evaluated on another. The other sets are all different: every one of that size, or as many random ones as "
            "were asked for. Last columns: the share of them that is less accurate, and how many are exactly as accurate."
        ),
        columns=[
            "answer digit", "heads", "accuracy", "accuracy, all heads", "other sets", "their mean", "their best", "percentile", "ties",
        ],
        rows=[
            [
                str(digit),
                str(int(sets.size[digit])),
                _percent(sets.accuracy[digit]),
                _percent(sets.accuracy_of_all[digit]),
                f"{'all' if sets.enumerated[digit] else 'random'} {sets.n_others[digit]}",
                _percent(sets.mean_of_others[digit]),
                _percent(sets.best_of_others[digit]),
                f"{100 * float(sets.percentile[digit]):.1f}" if sets.n_others[digit] else "–",
                str(sets.as_accurate[digit]),
            ]
            for digit in range(len(sets.size))
        ],
    )  # fmt: skip
    return [
        FigureRecord(
            id="ablation-maps",
            title="Logits with one head kept, and with one head ablated",
            look_at=(
                "Left: logit of the correct ones digit for every pair of ones digits a and b. Right: the logit of each digit. The slider "
                "first keeps each head alone (all others ablated), then ablates each head. Ablated heads are replaced by "
                f"{replaced[study.config.replace_with]}. The colour scale is the same for all. A head that depends on a + b shows "
                "diagonal stripes."
            ),
            number=(
                f"Ablating all heads changes the correct logit by {study.effects.of_all:.1f} (root mean square over "
                f"the 100 problems); ablating one head changes it by {study.effects.share:.2f} times as much, on "
                "average."
            ),
            control=(
                f"{study.untrained_effects.of_all:.4f} and {study.untrained_effects.share:.2f} in untrained models (mean of "
                f"{N_UNTRAINED}); if heads contributed independently it would be {n_heads**-0.5:.2f}."
            ),
            figure=ablation_animation(maps, maps.conditions),
        ),
        FigureRecord(
            id="ablation-accuracy",
            title="Accuracy with only one head, and with one head ablated",
            look_at=(
                "Top: accuracy when only this head is kept. Bottom: accuracy when only this head is ablated; dark cells are heads that an "
                "answer digit needs."
            ),
            number=f"The best single head per digit reaches {100 * study.best_alone:.1f} % accuracy, averaged over digits.",
            control=(
                f"{100 * study.untrained_best_alone:.1f} % for the best single head of untrained models (mean of {N_UNTRAINED}), "
                f"{100 * none_accuracy:.1f} % with all heads ablated, {100 * all_accuracy:.1f} % with none ablated."
            ),
            figure=figure(study),
        ),
        FigureRecord(
            id="pushes",
            title="Direct contributions to the correct logit",
            look_at=(
                "For each of the 100 sums of two digits: how many heads contribute more to the correct digit's logit than to the ten "
                "digits on average (positive), and how many contribute less (negative)."
            ),
            number=f"{float(counts.n_up.float().mean()):.1f} of {n_heads} heads contribute positively on average.",
            control=f"{study.untrained_n_up:.1f} of {n_heads} in untrained models, where contributions are noise.",
            figure=push_counts(counts),
        ),
        FigureRecord(
            id="head-sets",
            title="How few heads a digit needs",
            look_at=(
                "Blue: a head set chosen greedily on one sample of problems to keep 95 % of the digit's accuracy, "
                "evaluated on another sample. Boxes: other sets of the same size, no two of them alike. If they "
                "were as good, the blue points would lie inside the boxes."
            ),
            number=(
                f"On average {float(sets.size.float().mean()):.1f} of {n_heads} heads per digit keep at least "
                f"{100 * float((sets.accuracy / sets.accuracy_of_all).min()):.1f} % of its accuracy."
            ),
            control=(
                f"Other sets of those sizes reach {100 * float(sets.mean_of_others.mean()):.1f} % on average; the greedy "
                f"sets {100 * float(sets.accuracy.mean()):.1f} %. {weakest(sets)}"
            ),
            figure=head_set_accuracy(sets),
        ),
        table,
    ]


def weakest(sets: HeadSets) -> str:
    """The digit whose set beats the smallest share of the others, or that there is none."""
    compared = [digit for digit, others in enumerate(sets.n_others) if others]
    if not compared:
        return "No digit's set can be compared: there is no other of its size."
    numbers = [sets.n_others[digit] for digit in compared]
    if all(sets.less_accurate[digit] == sets.n_others[digit] for digit in compared):
        return f"Every one is more accurate than each of the {min(numbers)} to {max(numbers)} other sets that it is compared with."
    digit = min(compared, key=lambda digit: float(sets.percentile[digit]))
    others, ties = sets.n_others[digit], sets.as_accurate[digit]
    which = f"all {others} other sets" if sets.enumerated[digit] else f"{others} different random sets"
    return (
        f"Weakest is digit {digit}: its {int(sets.size[digit])} heads are more accurate than {sets.less_accurate[digit]} of {which} of that "
        f"size and exactly as accurate as {ties}."
    )


def _percent(value: Tensor) -> str:
    return f"{100 * float(value):.1f} %"
