"""The projection study: what every head reads and writes, how circular it is, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.errors import RequestError
from mi_superposition.figures.heads import (
    circularity_ranking,
    ov_singular_directions,
    projection_animation,
    projection_chart,
    projection_multiples,
)
from mi_superposition.heads import Circularity, HeadProjections, circularity, project_heads
from mi_superposition.models import load_model, load_snapshots, model_folder, untrained_copy, weights_of
from mi_superposition.runs import content_hash, open_run, write_tensors
from mi_superposition.site import FigureRecord, Page, Section, write_site
from mi_superposition.site.records import Item

COMMAND = "heads project"
MATRICES = {"Q": "query", "K": "key", "V": "value", "O": "output"}


@dataclass(frozen=True)
class ProjectionStudy:
    """Projections of a trained model and of an untrained one, with the circularity of the ten digits in each."""

    trained: HeadProjections
    circular: dict[str, Circularity]
    untrained_circular: dict[str, Circularity]
    ramp_share: float
    untrained_ov_singular_value: float
    frames: dict[str, list[Float[Tensor, "digit d_head"]]]
    head: int
    position: int
    digit: int


def projection_study(
    model: HookedTransformer,
    *,
    snapshots: Sequence[tuple[int, HookedTransformer]] = (),
    position: int = 0,
    digit: int = 5,
    seed: int = 0,
) -> ProjectionStudy:
    """Measure all heads; the head shown large is the one whose value vectors are most circular (share × roundness).

    ``snapshots`` are (epoch, model) pairs for the animation. Raises ``RequestError`` for a position or digit that is
    not there.
    """
    if not 0 <= digit <= 9:
        raise RequestError(f"digit = {digit}: give 0 to 9")
    if not 0 <= position < model.cfg.n_ctx:
        raise RequestError(f"position = {position}: the model has 0 to {model.cfg.n_ctx - 1}")
    trained = project_heads(model)
    untrained = project_heads(untrained_copy(model, seed))
    circular = digit_circularity(trained, position)
    ramp = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1)
    score = circular["V"].share * circular["V"].roundness
    head = int(score.argmax())
    frames = {
        str(epoch): _digit_points(project_heads(snapshot, positions=[position]), head, 0)
        for epoch, snapshot in snapshots
    }
    return ProjectionStudy(
        trained=trained,
        circular=circular,
        untrained_circular=digit_circularity(untrained, position),
        ramp_share=float(circularity(ramp).share),
        untrained_ov_singular_value=float(untrained.ov_singular_values.max()),
        frames=frames,
        head=head,
        position=position,
        digit=digit,
    )


def digit_circularity(projections: HeadProjections, position: int) -> dict[str, Circularity]:
    """Circularity of the ten digits in every head, for Q, K, V and O."""
    return {
        name: circularity(projections.output if name == "O" else getattr(projections, field)[:, position, :10])
        for name, field in MATRICES.items()
    }


def projection_metrics(study: ProjectionStudy) -> dict[str, Any]:
    """The study's numbers, flat; each beside its untrained control."""
    metrics: dict[str, Any] = {"ramp_share": study.ramp_share}
    for name in MATRICES:
        for label, measured in [("", study.circular[name]), ("_untrained", study.untrained_circular[name])]:
            metrics[f"circularity_{name.lower()}_mean{label}"] = float(measured.share.mean())
            metrics[f"circularity_{name.lower()}_max{label}"] = float(measured.share.max())
            metrics[f"roundness_{name.lower()}_mean{label}"] = float(measured.roundness.mean())
    return metrics


def projection_items(study: ProjectionStudy) -> list[Item]:
    """The study as figures with their words."""
    trained = {name: measured.share for name, measured in study.circular.items()}
    untrained = {name: measured.share for name, measured in study.untrained_circular.items()}
    share, roundness = study.circular["V"].share[study.head], study.circular["V"].roundness[study.head]
    mean, control = float(trained["V"].mean()), float(untrained["V"].mean())
    items: list[Item] = [
        FigureRecord(
            id="projections",
            title=f"What head {study.head} reads and writes",
            look_at=(
                f"Top: the ten digits at position {study.position} as this head's queries, keys and values see them, and "
                "the direction in which it writes each digit. Bottom: all positions holding the digit "
                f"{study.digit}. The answer positions hold '=', so queries of digits exist but are never used."
            ),
            number=f"Its values put {100 * float(share):.0f} % of their variance in one frequency, roundness {float(roundness):.2f}.",
            control=f"{100 * control:.0f} % is the mean of untrained heads.",
            figure=projection_chart(study.trained, study.head, position=study.position, digit=study.digit),
        ),
        FigureRecord(
            id="circularity",
            title="Are the digits on a circle?",
            look_at=(
                "Heads ranked by the share of variance in one Fourier frequency over the digits, against an untrained model. "
                "The dotted line is a plain ramp 0, 1, … 9, which is no circle."
            ),
            number=f"V: {100 * mean:.0f} % on average over heads.",
            control=f"{100 * control:.0f} % untrained, {100 * study.ramp_share:.0f} % for a ramp.",
            figure=circularity_ranking(trained, untrained, study.ramp_share),
        ),
        FigureRecord(
            id="ov",
            title=f"Singular directions of head {study.head}'s OV circuit",
            look_at="Left: how strongly each digit read excites a direction. Right: which digits that direction votes for.",
            number=_singular_sentence(study.trained, study.head),
            control=f"{study.untrained_ov_singular_value:.2f} is the largest of any untrained head.",
            figure=ov_singular_directions(study.trained, study.head),
        ),
    ]
    if study.frames:
        items.append(
            FigureRecord(
                id="projection-training",
                title=f"How head {study.head} got there",
                look_at="Move the slider back through training: the same ten digits, axes fixed over all snapshots.",
                number=f"{len(study.frames)} snapshots up to epoch {list(study.frames)[-1]}.",
                control="Epoch 0 is the untrained model.",
                figure=projection_animation(study.frames),
            )
        )
    return items


def all_heads_page(study: ProjectionStudy) -> Page:
    """One page with every head as small multiples."""
    n_heads = study.trained.query.shape[0]
    return Page(
        slug="addition-projections",
        title="Projections of every head",
        intro=f"The ten digits at position {study.position} under Q, K, V and O of all {n_heads} heads. Colours run around the wheel from 0 to 9.",
        items=[
            FigureRecord(
                id="all-heads",
                title="All heads",
                look_at="Look for rings and for ramps: rings compute modulo ten, ramps carry.",
                number=f"{n_heads} heads, {4 * n_heads} planes.",
                control="the ranking against an untrained model is on the section's main page",
                figure=projection_multiples(study.trained, position=study.position),
            )
        ],
    )


def write_projection_run(out: Path, *, model_name: str, position: int, digit: int, seed: int) -> bool:
    """Run the study into a run folder; true when it was finished already."""
    model = load_model(model_name)
    config = dict(position=position, digit=digit, seed=seed)
    inputs = {"model": {"name": model_name, "sha256": content_hash(weights_of(model))}}
    study = projection_study(
        model, snapshots=load_snapshots(model_folder(model_name)), position=position, digit=digit, seed=seed
    )
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return True
        projections = study.trained
        write_tensors(
            out / "projections.safetensors",
            {
                **{field: getattr(projections, field) for field in MATRICES.values()},
                "ov": projections.ov,
                "ov_singular_values": projections.ov_singular_values,
                **{f"circularity_{name}": measured.share for name, measured in study.circular.items()},
                **{f"roundness_{name}": measured.roundness for name, measured in study.circular.items()},
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
            control=f"{100 * float(study.untrained_circular['V'].share.mean()):.0f} % untrained",
            page=page,
            more=[all_heads_page(study)],
        )
        write_site([section], out / "page", title="Head projections", lead="")
        run.finish(projection_metrics(study))
    return False


def _digit_points(projections: HeadProjections, head: int, position: int) -> list[Tensor]:
    read = [getattr(projections, field)[head, position, :10] for field in ("query", "key", "value")]
    return [*read, projections.output[head]]


def _singular_sentence(projections: HeadProjections, head: int) -> str:
    values = projections.ov_singular_values[head]
    return "Singular values " + ", ".join(f"{float(value):.2f}" for value in values) + "."
