"""The projection study: what every head reads and writes, how circular it is, and how it came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.train import load_addition_model
from mi_superposition.errors import RequestError
from mi_superposition.figures.heads import (
    circularity_ranking,
    ov_singular_directions,
    projection_animation,
    projection_chart,
    projection_multiples,
)
from mi_superposition.heads import Circularity, HeadProjections, circularity, project_heads
from mi_superposition.models import load_snapshots, local_model_folder, untrained_copy, weights_of
from mi_superposition.runs import content_hash, open_run, write_tensors
from mi_superposition.site import FigureRecord, Page, Section, write_site
from mi_superposition.site.records import Item

COMMAND = "heads project"
N_UNTRAINED = 5
STAGES = ("projections", "pages")
MATRICES = {"Q": "query", "K": "key", "V": "value", "O": "output"}


@dataclass(frozen=True)
class ProjectionStudy:
    """Projections of a trained model, the circularity of the ten digits in it and in untrained models.

    ``untrained`` holds one entry a model and name, ``head`` is the head shown large.
    """

    trained: HeadProjections
    circular: dict[str, Circularity]
    untrained: list[dict[str, Circularity]]
    untrained_ov_ratio: float
    ramp_share: float
    frames: dict[str, list[Float[Tensor, "digit d_head"]]]
    head: int
    position: int
    digit: int

    def untrained_mean(self, name: str, quantity: Literal["share", "roundness"]) -> float:
        """Mean of a measure of circularity over the heads of the untrained models."""
        return mean(float(getattr(circular[name], quantity).mean()) for circular in self.untrained)


def projection_study(
    model: HookedTransformer,
    *,
    snapshots: Sequence[tuple[int, HookedTransformer]] = (),
    head: int | None = None,
    position: int = 0,
    digit: int = 5,
) -> ProjectionStudy:
    """Measure all heads. ``head`` is shown large; by default the one whose values are most circular, by share ×
    roundness. ``snapshots`` are (epoch, model) pairs for the animation.

    Raises ``RequestError`` for a head, position or digit that is not there.
    """
    check_place(model, head, position, digit)
    trained = project_heads(model, tokens=range(10))
    controls = [project_heads(untrained_copy(model, seed), tokens=range(10)) for seed in range(N_UNTRAINED)]
    circular = digit_circularity(trained)
    ramp = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1)
    if head is None:
        head = int((circular["V"].share * circular["V"].roundness).argmax())
    frames = {
        str(epoch): _digit_points(project_heads(snapshot, positions=[position]), head, 0)
        for epoch, snapshot in snapshots
    }
    return ProjectionStudy(
        trained=trained,
        circular=circular,
        untrained=[digit_circularity(control) for control in controls],
        untrained_ov_ratio=mean(float(_ov_ratio(control).mean()) for control in controls),
        ramp_share=float(circularity(ramp).share),
        frames=frames,
        head=head,
        position=position,
        digit=digit,
    )


def check_place(model: HookedTransformer, head: int | None, position: int, digit: int) -> None:
    """Raise ``RequestError`` unless the model has this head and position and there is such a digit."""
    for name, value, high in [
        ("digit", digit, 9),
        ("position", position, model.cfg.n_ctx - 1),
        ("head", head or 0, model.cfg.n_heads - 1),
    ]:
        if not 0 <= value <= high:
            raise RequestError(f"{name} = {value}: give 0 to {high}")


def digit_circularity(projections: HeadProjections) -> dict[str, Circularity]:
    """Circularity of the ten digits in every head, for Q, K, V and O.

    The position does not matter: it moves all ten digits alike, and their mean is taken out.
    """
    return {
        name: circularity(projections.output if name == "O" else getattr(projections, field)[:, 0, :10])
        for name, field in MATRICES.items()
    }


def projection_metrics(study: ProjectionStudy) -> dict[str, Any]:
    """The study's numbers, flat; each beside the mean of its untrained controls."""
    metrics: dict[str, Any] = {"ramp_share": study.ramp_share, "n_untrained": len(study.untrained)}
    for name in MATRICES:
        of = f"_{name.lower()}_"
        controls = [circular[name] for circular in study.untrained]
        for label, models in [("", [study.circular[name]]), ("_untrained", controls)]:
            metrics[f"circularity{of}mean{label}"] = mean(float(measured.share.mean()) for measured in models)
            metrics[f"circularity{of}max{label}"] = mean(float(measured.share.max()) for measured in models)
            metrics[f"roundness{of}mean{label}"] = mean(float(measured.roundness.mean()) for measured in models)
    return metrics


def projection_items(study: ProjectionStudy) -> list[Item]:
    """The study as figures with their words."""
    value = study.circular["V"]
    share, roundness = value.share[study.head], value.roundness[study.head]
    # The control of a chosen head is the head that the same choice finds where there is nothing to find.
    best = [float((circular["V"].share * circular["V"].roundness).max()) for circular in study.untrained]
    items: list[Item] = [
        FigureRecord(
            id="projections",
            title=f"What head {study.head} reads and writes",
            look_at=(
                f"Top: the ten digits at position {study.position} as this head's queries, keys and values see them, and "
                "the direction in which it writes each digit. Bottom: all positions holding the digit "
                f"{study.digit}. The answer positions hold '=', so queries of digits exist but are never used."
            ),
            number=f"Its values put {100 * float(share):.0f} % of their variance in one frequency, roundness {float(roundness):.2f}: product {float(share * roundness):.2f}.",
            control=f"{mean(best):.2f} for the best head of an untrained model (mean of {len(best)}).",
            figure=projection_chart(study.trained, study.head, position=study.position, digit=study.digit),
        ),
        FigureRecord(
            id="circularity",
            title="Are the digits on a circle?",
            look_at=(
                "Heads ranked by share times roundness: the share of the variance in one Fourier frequency over the digits, and how round "
                "that component is (0: a line, 1: a circle), against an untrained model. Digits on a line along a cosine have a share of 1 and "
                "no roundness. The dotted line is a plain ramp 0, 1, … 9, which is no circle either."
            ),
            number=(
                "Share and roundness, means over heads: "
                + ", ".join(
                    f"{name} {float(one.share.mean()):.2f} and {float(one.roundness.mean()):.2f}"
                    for name, one in study.circular.items()
                )
                + "."
            ),
            control=(
                ", ".join(
                    f"{name} {study.untrained_mean(name, 'share'):.2f} and {study.untrained_mean(name, 'roundness'):.2f}"
                    for name in study.circular
                )
                + f" in untrained models (mean of {len(study.untrained)}; one is drawn); {study.ramp_share:.2f} and 0 for a ramp."
            ),
            figure=circularity_ranking(study.circular, study.untrained[0], study.ramp_share),
        ),
        FigureRecord(
            id="ov",
            title=f"Singular directions of head {study.head}'s OV circuit",
            look_at="Left: how strongly each digit read excites a direction. Right: which digits that direction votes for.",
            number=(
                f"The second singular value is {float(_ov_ratio(study.trained)[study.head]):.2f} of the first, "
                f"{float(_ov_ratio(study.trained).mean()):.2f} on average over heads (0: one dimension used, 1: both alike)."
            ),
            control=f"{study.untrained_ov_ratio:.2f} on average in untrained models.",
            figure=ov_singular_directions(study.trained, study.head),
        ),
    ]
    if study.frames:
        first, last = (circularity(points[2]) for points in (list(study.frames.values())[i] for i in (0, -1)))
        items.append(
            FigureRecord(
                id="projection-training",
                title=f"How head {study.head} got there",
                look_at="Move the slider back through training: the same ten digits, axes fixed over all snapshots.",
                number=(
                    f"V at epoch {list(study.frames)[-1]}: {100 * float(last.share):.0f} % in one frequency, roundness "
                    f"{float(last.roundness):.2f}."
                ),
                control=(
                    f"{100 * float(first.share):.0f} % and {float(first.roundness):.2f} at epoch {next(iter(study.frames))}."
                ),
                figure=projection_animation(study.frames),
            )
        )
    return items


def _rings(measured: Circularity) -> int:
    return int(((measured.share > 0.9) & (measured.roundness > 0.5)).sum())


def all_heads_page(study: ProjectionStudy) -> Page:
    """One page with every head as small multiples."""
    n_heads = study.trained.query.shape[0]
    return Page(
        slug="all-heads",
        title="Projections of every head",
        intro=f"The ten digits at position {study.position} under Q, K, V and O of all {n_heads} heads. Colours run around the wheel from 0 to 9.",
        items=[
            FigureRecord(
                id="all-heads",
                title="All heads",
                look_at="Look for rings: ten digits in order around a circle. Each plane is drawn square, at its own scale.",
                number=(
                    f"{_rings(study.circular['O'])} of {n_heads} heads write the digits as a ring: more than 90 % of their variance in one "
                    "frequency, with a roundness above one half."
                ),
                control=(
                    f"{mean(_rings(circular['O']) for circular in study.untrained):.1f} heads of an untrained "
                    f"model (mean of {len(study.untrained)})."
                ),
                figure=projection_multiples(study.trained, position=study.position),
            )
        ],
    )


def write_projection_run(
    out: Path,
    *,
    model_name: str,
    head: int | None,
    position: int,
    digit: int,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> bool:
    """Run the study into a run folder; true when it was finished already."""
    model = load_addition_model(model_name)
    check_place(model, head, position, digit)
    config = dict(head=head, position=position, digit=digit)
    inputs = {"model": {"name": model_name, "sha256": content_hash(weights_of(model))}}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return True
        on_stage(STAGES[0])
        snapshots = load_snapshots(local_model_folder(model_name))
        study = projection_study(model, snapshots=snapshots, head=head, position=position, digit=digit)
        on_stage(STAGES[1])
        projections = study.trained
        write_tensors(
            out / "projections.safetensors",
            {
                **{field: getattr(projections, field) for field in MATRICES.values()},
                "ov": projections.ov,
                "ov_singular_values": projections.ov_singular_values,
                **{f"circularity_{name}": measured.share for name, measured in study.circular.items()},
                **{f"roundness_{name}": measured.roundness for name, measured in study.circular.items()},
                **{f"frequency_{name}": measured.frequency for name, measured in study.circular.items()},
                **{
                    f"untrained_circularity_{name}": torch.stack([circular[name].share for circular in study.untrained])
                    for name in MATRICES
                },
            },
        )
        items = projection_items(study)
        page = Page(
            slug="projections",
            title=f"Head projections of {model_name}",
            intro="What every head reads and writes.",
            items=items,
        )
        section = Section(
            slug="projections",
            title="Head projections",
            summary=page.intro,
            number=f"{100 * float(study.circular['V'].share.mean()):.0f} %",
            number_is="of the digits' variance under V lies in one frequency (mean over heads)",
            control=f"{100 * study.untrained_mean('V', 'share'):.0f} % untrained",
            page=page,
            more=[all_heads_page(study)],
        )
        write_site([section], out / "page", title="Head projections", lead="")
        run.finish(projection_metrics(study))
    return False


def _digit_points(projections: HeadProjections, head: int, position: int) -> list[Tensor]:
    read = [getattr(projections, field)[head, position, :10] for field in ("query", "key", "value")]
    return [*read, projections.output[head]]


def _ov_ratio(projections: HeadProjections) -> Float[Tensor, " head"]:
    """Second over first singular value of each head's OV circuit: 0 for a head that uses one dimension."""
    values = projections.ov_singular_values
    return values[:, 1] / values[:, 0] if values.shape[1] > 1 else torch.zeros(len(values))
