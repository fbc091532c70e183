"""Write the bundled tasks: prompts in the style of the bundled story model, with a right and a wrong next token.

    python scripts/story_tasks.py            # rewrites mi_superposition/bundled/tasks/stories.jsonl, and prints how often the model is right

Every prompt has a counterpart right after it in which right and wrong are exchanged, so that a model without context is right half the
time. Tried too, and not taken, as the model is right less often: 'The dogs in the park' were / was (72 %), which of two friends is spoken
to (81 %) or speaks (39 %), and whether a quotation mark must be closed (60 %).
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from mi_superposition import load_model
from mi_superposition.files import write_file
from mi_superposition.heads.tasks import BUNDLED_TASKS, accuracy, logit_differences, read_tasks

GIRLS = (
    "Lily",
    "Lucy",
    "Mia",
    "Sue",
    "Anna",
    "Sara",
    "Emma",
    "Amy",
    "Jane",
    "Mary",
    "Daisy",
    "Molly",
    "Kitty",
    "Bella",
    "Lila",
    "Jill",
)
BOYS = (
    "Tom",
    "Tim",
    "Ben",
    "Max",
    "Jack",
    "Sam",
    "Bob",
    "Billy",
    "Joe",
    "John",
    "Timmy",
    "Tommy",
    "Jimmy",
    "Mark",
    "Peter",
    "Jake",
)
THINGS = (
    "ball", "doll", "car", "toy", "book", "box", "hat", "cake", "apple", "cookie", "kite", "boat", "flower", "stick", "dog", "cat", "bird",
    "bear", "tree", "rock", "leaf", "bike", "train", "truck",
)  # fmt: skip


def prompts() -> list[dict[str, str]]:
    """All tasks, each prompt followed by its counterpart."""
    rows = []

    def add(task: str, prompt: str, right: str, wrong: str) -> None:
        rows.append({"task": task, "prompt": prompt, "right": f" {right}", "wrong": f" {wrong}"})

    for girl, boy in zip(GIRLS, BOYS, strict=True):
        for ending in ("One day,", "When the sun came up,"):
            add("pronoun", f"Once upon a time, there was a little girl named {girl}. {ending}", "she", "he")
            add("pronoun", f"Once upon a time, there was a little boy named {boy}. {ending}", "he", "she")
    for kind, names in (("girl", GIRLS), ("boy", BOYS)):
        for one, other in itertools.pairwise((*names, names[0])):
            for name, another in ((one, other), (other, one)):
                text = f"Once upon a time, there was a little {kind} named {name}. {name} liked to play in the park. One day,"
                add("name", text, name, another)
    for number, (one, other) in enumerate(itertools.pairwise((*THINGS, THINGS[0]))):
        owner = (*GIRLS, *BOYS)[number]
        for thing, another in ((one, other), (other, one)):
            add("object", f"{owner} had a big {thing}. One day, {owner} wanted to play with the", thing, another)
    return rows


def main() -> None:
    """Write and measure."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    ).parse_args()
    lines = [json.dumps(row, ensure_ascii=False) for row in prompts()]
    write_file(Path(BUNDLED_TASKS), ("\n".join(lines) + "\n").encode())
    model = load_model("stories", device="cpu")
    for task in read_tasks(model, None):
        found = logit_differences(model, task)
        print(
            f"{task.name:10} {len(found):4} prompts, right {100 * accuracy(found):.1f} %, logit difference {float(found.mean()):.2f}"
        )


if __name__ == "__main__":
    main()
