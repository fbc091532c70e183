"""Head ablation of an addition model: every head kept alone, every head left out, small sets, and an untrained control.

Of any other model the command measures what ``studies.heads.ablate_text`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

import pandas as pd
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
from mi_superposition.heads.config import AblateConfig
from mi_superposition.models import MODEL_CONFIG, load_model, model_folder, model_record, untrained_copy
from mi_superposition.models.saved import is_whole
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.heads import ablate_text
from mi_superposition.studies.heads.ablate_text_result import TextAblation

COMMAND = "heads ablate"
RESULT = "ablation.safetensors"
N_UNTRAINED = 5


@dataclass(frozen=True, repr=False)
class HeadAblation(Result):
    """Everything measured; ``untrained_*`` are means over ``N_UNTRAINED`` fresh models of the same shape."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.heads.ablate:figure"

    config: AblateConfig
    maps: AblationMaps
    counts: CircuitCounts
    sets: HeadSets
    effects: HeadEffects
    untrained_effects: HeadEffects
    untrained_n_up: float
    untrained_best_alone: float

    @property
    def n_heads(self) -> int:
        """Heads of the model."""
        return self.counts.push.shape[0]

    @property
    def untrained_share(self) -> float:
        """How much of the heads' joint effect on the right answer an untrained model has."""
        return self.untrained_effects.of_all / self.effects.of_all

    @property
    def best_alone(self) -> float:
        """Accuracy of the best head of each digit when it is the only one left, mean over the digits."""
        return best_alone(self.maps)

    def summary(self) -> str:
        """The effect of one head beside its control."""
        return (
            f"{self.n_heads} heads of {self.config.model.name}: leaving one out moves the right logit by {self.effects.share:.2f} of what "
            f"all do together ({self.untrained_effects.share:.2f} in untrained models); "
            f"{float(self.sets.size.float().mean()):.1f} heads per digit keep 95 % of its accuracy"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per head: accuracy of the head alone and of all heads without it, mean over the answer digits, and in how many
        digits' small sets it is.
        """
        accuracy = self.maps.accuracy.mean(dim=1).tolist()
        rows = [
            {
                "head": head,
                "accuracy_alone": accuracy[self.maps.of(f"only {head}")],
                "accuracy_without": accuracy[self.maps.of(f"without {head}")],
                "in_small_sets_of_digits": int(self.sets.heads[:, head].sum()),
            }
            for head in range(self.n_heads)
        ]
        return pd.DataFrame(rows).set_index("head")

    def metrics(self) -> dict[str, Any]:
        """All numbers, flat; lists run over the answer digits, ones first."""
        maps, sets = self.maps, self.sets
        return {
            "accuracy_all_heads_by_digit": maps.accuracy[maps.of("all")].tolist(),
            "accuracy_no_heads_by_digit": maps.accuracy[maps.of("none")].tolist(),
            "best_head_alone": self.best_alone,
            "best_head_alone_untrained": self.untrained_best_alone,
            "effect_of_all_heads": self.effects.of_all,
            "effect_of_all_heads_untrained": self.untrained_effects.of_all,
            "effect_remaining_untrained_share": self.untrained_share,
            "effect_of_one_head": self.effects.of_one,
            "effect_of_one_head_untrained": self.untrained_effects.of_one,
            "effect_of_one_head_share": self.effects.share,
            "effect_of_one_head_share_untrained": self.untrained_effects.share,
            "heads_pushing_up_mean": float(self.counts.n_up.float().mean()),
            "heads_pushing_down_mean": float(self.counts.n_down.float().mean()),
            "heads_pushing_up_mean_untrained": self.untrained_n_up,
            "n_heads": self.n_heads,
            "head_set_size_by_digit": sets.size.tolist(),
            "head_set_accuracy_by_digit": sets.accuracy.tolist(),
            "head_set_accuracy_of_all_by_digit": sets.accuracy_of_all.tolist(),
            "other_set_accuracy_mean_by_digit": sets.mean_of_others.tolist(),
            "other_set_accuracy_max_by_digit": sets.best_of_others.tolist(),
            "other_sets_by_digit": sets.n_others,
            "other_sets_less_accurate_by_digit": sets.less_accurate,
            "other_sets_as_accurate_by_digit": sets.as_accurate,
        }


def best_alone(maps: AblationMaps) -> float:
    """Accuracy of the best head of each digit when it is the only one left, mean over the digits."""
    only = [i for i, name in enumerate(maps.conditions) if name.startswith("only")]
    return float(maps.accuracy[only].amax(dim=0).mean())


def ablation_study(
    model: HookedTransformer, config: AblateConfig | None = None, *, progress: Progress = SILENT
) -> HeadAblation:
    """Measure a model (``config.model`` only names it) and its untrained controls."""
    config = config or AblateConfig()
    settings: dict[str, Any] = dict(
        replace_with=config.replace_with, n_problems=config.n_problems, seed=config.random.seed
    )
    progress.advance(1, "maps of every head")
    maps = ablation_maps(model, **settings)
    progress.advance(1, "pushes")
    counts = circuit_counts(model)
    progress.advance(1, "small head sets")
    sets = smallest_head_sets(model, n_random=config.random_sets, **settings)
    progress.advance(1, "untrained control")
    controls = [untrained_copy(model, seed=index) for index in range(N_UNTRAINED)]
    control_maps = [ablation_maps(control, **settings) for control in controls]
    effects = [head_effects(some) for some in control_maps]
    return HeadAblation(
        config=config,
        maps=maps,
        counts=counts,
        sets=sets,
        effects=head_effects(maps),
        untrained_effects=HeadEffects(
            of_all=mean(effect.of_all for effect in effects), of_one=mean(effect.of_one for effect in effects)
        ),
        untrained_best_alone=mean(best_alone(some) for some in control_maps),
        untrained_n_up=mean(float(circuit_counts(control).n_up.float().mean()) for control in controls),
    )


def measure(config: AblateConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder. Raises as ``load_addition_model`` and ``open_run`` do, and of other models as
    ``ablate_text.measure``.
    """
    if not is_addition(config.model.name):
        return ablate_text.measure(config, out, progress)
    model = load_addition_model(config.model.name, config.model.digit_order)
    inputs = {"model": model_record(config.model.name, model)}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.begin("stage", 5)
        found = ablation_study(model, config, progress=progress)
        write_record(out / RESULT, found)
        run.finish(found.metrics())
    return Outcome(out, finished_already=False)


def is_addition(name: str) -> bool:
    """Whether a model is one that is studied on sums: of this package's own layout, and none that reads text."""
    folder = model_folder(name)
    if folder is None or not (folder / MODEL_CONFIG).is_file():
        return False
    if not is_whole(folder):
        return True
    cfg = load_model(folder, device="cpu").cfg
    return cfg.d_vocab_out != cfg.d_vocab


def load(folder: Path) -> HeadAblation | TextAblation:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    if (folder / ablate_text.RESULT).exists():
        return ablate_text.load(folder)
    return load_addition(folder)


def load_addition(folder: Path) -> HeadAblation:
    """The result of an addition model's run, finished and known to be one."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, HeadAblation)
