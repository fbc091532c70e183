"""The head-ablation study: every head kept alone, every head left out, small sets, and an untrained control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformer_lens import HookedTransformer

from mi_superposition.addition.ablation import (
    AblationMaps,
    CircuitCounts,
    HeadEffects,
    HeadSets,
    ablation_maps,
    circuit_counts,
    head_effects,
    smallest_head_sets,
)
from mi_superposition.addition.train import load_addition_model
from mi_superposition.errors import RequestError
from mi_superposition.figures.addition import ablation_accuracy, ablation_animation, head_set_accuracy, push_counts
from mi_superposition.figures.animation import ablation_gif
from mi_superposition.heads.ablation import Replacement
from mi_superposition.models import untrained_copy, weights_of
from mi_superposition.runs import content_hash, open_run, write_file, write_tensors
from mi_superposition.site import FigureRecord, Page, Section, write_site
from mi_superposition.site.records import ImageRecord, Item, TableRecord

COMMAND = "heads ablate"
N_UNTRAINED = 5
# Every head's logits for every problem are held at once; random sets are tried 64 at a time.
MAX_PROBLEMS, MAX_RANDOM_SETS = 20_000, 100_000
STAGES = ("maps of every head", "pushes", "small head sets", "untrained control", "pages")


@dataclass(frozen=True)
class AblationStudy:
    """Everything measured; ``untrained_*`` come from ``N_UNTRAINED`` fresh models of the same shape."""

    maps: AblationMaps
    counts: CircuitCounts
    sets: HeadSets
    effects: HeadEffects
    untrained_effects: HeadEffects
    untrained_n_up: float
    untrained_best_alone: float
    replace_with: str

    @property
    def untrained_share(self) -> float:
        """How much of the heads' joint effect on the right answer an untrained model has."""
        return self.untrained_effects.of_all / self.effects.of_all


def ablation_study(
    model: HookedTransformer,
    *,
    replace_with: Replacement = "zero",
    n_problems: int = 2000,
    n_random: int = 500,
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> AblationStudy:
    """Measure the trained model and its control; ``on_stage`` gets each name of ``STAGES`` as it begins.

    Raises ``RequestError`` for no problems or no random sets.
    """
    _check_sizes(n_problems, n_random)
    on_stage(STAGES[0])
    maps = ablation_maps(model, replace_with=replace_with, n_problems=n_problems, seed=seed)
    on_stage(STAGES[1])
    counts = circuit_counts(model)
    on_stage(STAGES[2])
    sets = smallest_head_sets(model, replace_with=replace_with, n_random=n_random, n_problems=n_problems, seed=seed)
    on_stage(STAGES[3])
    controls = [untrained_copy(model, seed=index) for index in range(N_UNTRAINED)]
    control_maps = [
        ablation_maps(control, replace_with=replace_with, n_problems=n_problems, seed=seed) for control in controls
    ]
    effects = [head_effects(some) for some in control_maps]
    return AblationStudy(
        maps=maps,
        counts=counts,
        sets=sets,
        effects=head_effects(maps),
        untrained_effects=HeadEffects(
            of_all=mean(effect.of_all for effect in effects), of_one=mean(effect.of_one for effect in effects)
        ),
        untrained_best_alone=mean(_best_alone(some) for some in control_maps),
        untrained_n_up=mean(float(circuit_counts(control).n_up.float().mean()) for control in controls),
        replace_with=replace_with,
    )


def _best_alone(maps: AblationMaps) -> float:
    """Accuracy of the best head of each digit when it is the only one left, mean over the digits."""
    only = [i for i, name in enumerate(maps.conditions) if name.startswith("only")]
    return float(maps.accuracy[only].amax(dim=0).mean())


def ablation_metrics(study: AblationStudy) -> dict[str, Any]:
    """The study's numbers, flat; lists run over the answer digits, ones first."""
    maps, sets = study.maps, study.sets
    return {
        "accuracy_all_heads_by_digit": maps.accuracy[maps.of("all")].tolist(),
        "accuracy_no_heads_by_digit": maps.accuracy[maps.of("none")].tolist(),
        "best_head_alone": _best_alone(maps),
        "best_head_alone_untrained": study.untrained_best_alone,
        "effect_of_all_heads": study.effects.of_all,
        "effect_of_all_heads_untrained": study.untrained_effects.of_all,
        "effect_remaining_untrained_share": study.untrained_share,
        "effect_of_one_head": study.effects.of_one,
        "effect_of_one_head_untrained": study.untrained_effects.of_one,
        "effect_of_one_head_share": study.effects.share,
        "effect_of_one_head_share_untrained": study.untrained_effects.share,
        "heads_pushing_up_mean": float(study.counts.n_up.float().mean()),
        "heads_pushing_down_mean": float(study.counts.n_down.float().mean()),
        "heads_pushing_up_mean_untrained": study.untrained_n_up,
        "n_heads": study.counts.push.shape[0],
        "head_set_size_by_digit": sets.size.tolist(),
        "head_set_accuracy_by_digit": sets.accuracy.tolist(),
        "head_set_accuracy_of_all_by_digit": sets.accuracy_of_all.tolist(),
        "random_set_accuracy_mean_by_digit": sets.random_accuracy.mean(dim=1).tolist(),
        "random_set_accuracy_max_by_digit": sets.random_accuracy.amax(dim=1).tolist(),
        "head_set_percentile_by_digit": (100 * sets.percentile).tolist(),
        "n_random_sets": sets.random_accuracy.shape[1],
    }


def ablation_items(study: AblationStudy) -> list[Item]:
    """The study as figures with their words."""
    maps, sets, counts = study.maps, study.sets, study.counts
    n_heads = counts.push.shape[0]
    all_accuracy, none_accuracy = (float(maps.accuracy[maps.of(name)].mean()) for name in ("all", "none"))
    replaced = {"zero": "zero", "mean": "their mean over problems", "resample": "their output on another problem"}
    table = TableRecord(
        id="head-sets-table",
        title="Head sets, digit by digit",
        look_at=(
            "Sizes come from greedy backward elimination, which is not proven to find the smallest set. Sets are chosen "
            "on one sample of problems and measured on another."
        ),
        columns=["answer digit", "heads", "accuracy", "of all heads", "random sets, mean", "best random", "percentile"],
        rows=[
            [
                str(digit),
                str(int(sets.size[digit])),
                _percent(sets.accuracy[digit]),
                _percent(sets.accuracy_of_all[digit]),
                _percent(sets.random_accuracy[digit].mean()),
                _percent(sets.random_accuracy[digit].amax()),
                f"{100 * float(sets.percentile[digit]):.1f}",
            ]
            for digit in range(len(sets.size))
        ],
    )
    return [
        FigureRecord(
            id="ablation-maps",
            title="One head at a time",
            look_at=(
                "Move the slider through the heads, each kept alone and then each left out: the logit of the right ones "
                "digit, and of each digit, over the two digits that are added. The heads not kept are replaced by "
                f"{replaced[study.replace_with]}; the colour scale never changes. A head that reads a digit sum shows "
                "diagonal stripes."
            ),
            number=(
                f"All heads together move the right logit by {study.effects.of_all:.1f} (root mean square "
                f"over the 100 problems); leaving out one head moves it by {study.effects.share:.2f} of that on average."
            ),
            control=(
                f"{study.untrained_effects.of_all:.4f} and {study.untrained_effects.share:.2f} in untrained models (mean of "
                f"{N_UNTRAINED}); independent heads would give {n_heads**-0.5:.2f}."
            ),
            figure=ablation_animation(maps, maps.conditions),
        ),
        FigureRecord(
            id="ablation-accuracy",
            title="Accuracy with one head, and without it",
            look_at=(
                "Top: what each head can do alone. Bottom: dark cells are heads that an answer digit cannot do without."
            ),
            number=f"The best single head of each digit reaches {100 * _best_alone(maps):.1f} % per digit on average.",
            control=f"{100 * study.untrained_best_alone:.1f} % for the best of as many heads of untrained models (mean of {N_UNTRAINED}), {100 * none_accuracy:.1f} % with no head at all, {100 * all_accuracy:.1f} % with all {n_heads}.",
            figure=ablation_accuracy(maps),
        ),
        FigureRecord(
            id="pushes",
            title="Heads that push the right answer up, and down",
            look_at=(
                "For each of the 100 one-digit sums, how many heads raise the right digit's logit above their mean push "
                "on all ten, and how many lower it."
            ),
            number=f"{float(counts.n_up.float().mean()):.1f} of {n_heads} heads push up on average.",
            control=f"{study.untrained_n_up:.1f} of {n_heads} in untrained models, where pushes are noise.",
            figure=push_counts(counts),
        ),
        FigureRecord(
            id="head-sets",
            title="How few heads are enough for a digit",
            look_at=(
                "Blue: a set found greedily to keep 95 % of the digit's accuracy on one sample of problems, measured on "
                "another. Boxes: random sets of the same size. If any heads would do, blue would lie in the box."
            ),
            number=(
                f"{float(sets.size.float().mean()):.1f} of {n_heads} heads a digit on average keep "
                f"{100 * float((sets.accuracy / sets.accuracy_of_all).min()):.1f} % or more of its accuracy."
            ),
            control=(
                f"Random sets of those sizes reach {100 * float(sets.random_accuracy.mean()):.1f} % on average; the greedy "
                f"sets {100 * float(sets.accuracy.mean()):.1f} %. At its worst digit the greedy set beats "
                f"{100 * float(sets.percentile.min()):.1f} % of {sets.random_accuracy.shape[1]} random sets."
            ),
            figure=head_set_accuracy(sets),
        ),
        table,
    ]


def write_ablation_run(
    out: Path,
    *,
    model_name: str,
    replace_with: Replacement,
    n_problems: int,
    n_random: int,
    seed: int,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> bool:
    """Run the study into a run folder; true when it was finished already."""
    _check_sizes(n_problems, n_random)
    model = load_addition_model(model_name)
    config = dict(replace_with=replace_with, problems=n_problems, random_sets=n_random, seed=seed)
    inputs = {"model": {"name": model_name, "sha256": content_hash(weights_of(model))}}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return True
        study = ablation_study(
            model, replace_with=replace_with, n_problems=n_problems, n_random=n_random, seed=seed, on_stage=on_stage
        )
        on_stage(STAGES[4])
        write_tensors(
            out / "ablation.safetensors",
            {
                "keep_correct_logit": study.maps.correct,
                "keep_logits_by_digit": study.maps.by_digit,
                "accuracy": study.maps.accuracy,
                "push": study.counts.push,
                "head_sets": study.sets.heads,
                "random_set_accuracy": study.sets.random_accuracy,
            },
            {"conditions": "\n".join(study.maps.conditions)},
        )
        gif = ablation_gif(study.maps, study.maps.conditions)
        write_file(out / "ablation.gif", gif)
        write_site([_section(study, model_name, gif)], out / "page", title="Head ablation", lead="")
        run.finish(ablation_metrics(study))
    return False


def _check_sizes(n_problems: int, n_random: int) -> None:
    for name, value, low, high in [
        ("problems", n_problems, 2, MAX_PROBLEMS),
        ("random_sets", n_random, 1, MAX_RANDOM_SETS),
    ]:
        if not low <= value <= high:
            raise RequestError(f"{name} = {value}: give {low} to {high}")


def _section(study: AblationStudy, model_name: str, gif: bytes) -> Section:
    animation = ImageRecord(
        id="animation",
        title="The same as an animation",
        look_at="Every condition in turn, for places where a page with scripts cannot go.",
        alt="Heat maps of the right digit's logit and of each digit's, one frame for each set of heads kept",
        file_name="ablation.gif",
        content=gif,
    )
    page = Page(
        slug="ablation",
        title=f"Head ablation of {model_name}",
        intro="Every head kept alone and left out, and the control beside each number.",
        items=[*ablation_items(study), animation],
    )
    return Section(
        slug="ablation",
        title="Head ablation",
        summary=page.intro,
        number=f"{study.effects.share:.2f}",
        number_is="mean effect of leaving out one head, in units of the joint effect of all",
        control=f"{study.untrained_effects.share:.2f} in untrained models",
        page=page,
    )


def _percent(value: torch.Tensor) -> str:
    return f"{100 * float(value):.1f} %"
