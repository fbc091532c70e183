"""What the report says of the heads of a real pretrained model."""

from __future__ import annotations

from statistics import median

from mi_superposition.real import RealModel, value_of
from mi_superposition.site.records import TableRecord

HEADS, ABLATED = "heads-scan", "heads-ablate"
# What is measured of every head, as it is called here.
HEAD_MEASURES = {
    "entropy": "entropy of attention, nats",
    "first": "attention to the first token",
    "previous": "attention to the previous token",
    "induction": "induction score",
    "duplicate_token": "duplicate-token score",
    "copying": "copying score of OV",
    "qk_rank": "effective rank of QK",
    "ov_rank": "effective rank of OV",
}


def head_items(real: RealModel) -> list[TableRecord]:
    """What its heads attend to, and what the model loses without them."""
    return [_attention(real), _ablated(real), _tasks(real)]


def _attention(real: RealModel) -> TableRecord:
    numbers = real.metrics[HEADS]

    def cells(measure: str) -> list[str]:
        states = (measure, f"{measure}/untrained", f"{measure}/permuted")
        return [
            ""
            if f"{state}/median" not in numbers
            else f"{value_of(numbers, f'{state}/median'):.2f} ({value_of(numbers, f'{state}/largest'):.2f})"
            for state in states
        ]

    return TableRecord(
        id="heads",
        title="What its heads attend to",
        look_at=(
            f"Median of the {numbers['heads']} heads, the largest in brackets, over {numbers['tokens']:,} tokens. Permuted: attention within the "
            "causal triangle in another order."
        ),
        columns=["of a head", "trained", "untrained", "permuted"],
        rows=[[told, *cells(measure)] for measure, told in HEAD_MEASURES.items()],
    )


def _ablated(real: RealModel) -> TableRecord:
    numbers = real.metrics[ABLATED]
    layers = sorted({int(name.split("/")[0].removeprefix("layer_")) for name in numbers if name.startswith("layer_")})

    def of_heads(layer: int, what: str) -> str:
        found = [
            value_of(numbers, name)
            for name in numbers
            if name.startswith(f"layer_{layer}/head_") and name.endswith(f"/{what}_loss")
        ]
        return f"{median(found):.4f} ({max(found):.4f})"

    def of_all(layer: int, what: str) -> str:
        name = f"layer_{layer}/all_heads/{what}_loss"
        return f"{value_of(numbers, name):.3f} ± {value_of(numbers, f'{name}_error'):.3f}"

    return TableRecord(
        id="heads-ablated",
        title="What the model loses without a head",
        look_at=(
            f"Change of the loss in nats a token ({numbers['tokens']:,} tokens of {numbers['documents']} stories, whose loss is {value_of(numbers, 'loss'):.3f}) when a head's output is "
            "replaced by its mean: the median of a layer's heads, the largest in brackets. Controls: the same change of the residual stream turned in a random direction, and the "
            "untrained model. All heads of a layer at once, ± one standard error. The layers are those whose neurons' contexts are compared."
        ),
        columns=["layer", "a head", "in a random direction", "untrained", "all heads", "all in a random direction", "the whole layer"],
        rows=[
            [str(layer), of_heads(layer, "mean"), of_heads(layer, "random_direction"), of_heads(layer, "untrained"),
             of_all(layer, "mean"), of_all(layer, "random_direction"), f"{value_of(numbers, f'layer_{layer}/whole_layer_loss'):.3f}"]
            for layer in layers
        ],
    )  # fmt: skip


def _tasks(real: RealModel) -> TableRecord:
    numbers = real.metrics[ABLATED]
    names = [name.removeprefix("task_").partition("/")[0] for name in numbers if name.endswith("/accuracy")]

    def row(task: str) -> list[str]:
        changes = {
            name: value_of(numbers, name)
            for name in numbers
            if name.startswith(f"task_{task}/layer_") and "/head_" in name
        }
        most = min(changes, key=lambda name: changes[name])
        _, layer, head, _ = most.split("/")
        return [
            task, f"{100 * value_of(numbers, f'task_{task}/accuracy'):.0f} % ({100 * value_of(numbers, f'task_{task}/accuracy_untrained'):.0f} %)",
            f"{value_of(numbers, f'task_{task}/logit_difference'):.2f} ({value_of(numbers, f'task_{task}/logit_difference_untrained'):.2f})",
            f"{layer.removeprefix('layer_')}.{head.removeprefix('head_')}", f"{changes[most]:+.2f}", f"{median(changes.values()):+.2f}",
        ]  # fmt: skip

    return TableRecord(
        id="tasks",
        title="Tasks without a head",
        look_at=(
            "Prompts whose right token has the larger logit, and the difference of the logits of the right and the wrong token (untrained in brackets); how it changes without the head of "
            "these layers that matters most, and without the median head, replaced by its mean over the task's prompts."
        ),
        columns=["task", "right", "logit difference", "head", "without it", "without the median head"],
        rows=[row(task) for task in names],
    )
