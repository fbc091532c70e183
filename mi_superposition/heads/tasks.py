"""Tasks: prompts with a right and a wrong next token, and how an ablation changes the difference of their logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_superposition.corpora.batches import begins_with_token
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.heads.ablation import logits_at
from mi_superposition.heads.config import HeadReplacement
from mi_superposition.models.protocol import HookedModel, beginning_token
from mi_superposition.schemas import parse_as
from mi_superposition.training import seeded_generator

BUNDLED_TASKS = Path(__file__).parent.parent / "bundled" / "tasks" / "stories.jsonl"
INDUCTION = "induction"
# Of random tokens, which are then all repeated.
_INDUCTION_PROMPTS, _INDUCTION_TOKENS = 64, 12
# A bundled task of which fewer prompts can be read is left out.
_FEWEST_PROMPTS = 16


class TaskLine(msgspec.Struct):
    """A line of a file of tasks."""

    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    right: str
    wrong: str
    task: str | None = None


@dataclass(frozen=True)
class Task:
    """Prompts of one task, padded on the right; ``last`` is the position that predicts, ``right`` and ``wrong`` are tokens."""

    name: str
    tokens: Int[Tensor, "prompt pos"]
    last: Int[Tensor, " prompt"]
    right: Int[Tensor, " prompt"]
    wrong: Int[Tensor, " prompt"]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, which: Tensor) -> Task:
        """Some of the prompts."""
        return Task(self.name, *(tensor[which] for tensor in (self.tokens, self.last, self.right, self.wrong)))

    def halves(self) -> tuple[Task, Task]:
        """Every other pair of prompts, and the rest: a prompt and its counterpart stay together."""
        pair = torch.arange(len(self)) // 2 % 2
        return self.part(pair == 0), self.part(pair == 1)


def read_lines(path: Path) -> list[tuple[int, TaskLine]]:
    """Lines of a file of tasks with their numbers, before there is a model to read them.

    Raises ``RequestError`` for a file that is not there or empty, a line that is no task, and one whose right and wrong are the same.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RequestError(f"tasks = {str(path)!r}: {error.strerror}; give a .jsonl file") from error
    rows = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_as(line, TaskLine, f"{path}, line {number}")
        except WorkError as error:
            raise RequestError(f"{error}; each line is an object with 'prompt', 'right' and 'wrong'") from error
        if row.right == row.wrong:
            raise RequestError(f"{str(path)!r}, line {number}: right and wrong are both {row.right!r}")
        rows.append((number, row))
    if not rows:
        raise RequestError(
            f"tasks = {str(path)!r}: is empty; each line is an object with 'prompt', 'right' and 'wrong'"
        )
    return rows


def read_tasks(model: HookedModel, path: Path | None) -> list[Task]:
    """The tasks of a file as a model reads them, by their names in the order of the file; with ``None`` the bundled ones, of which
    prompts are left out whose right or wrong is not one token of this model, and tasks of which too few are left.

    Raises ``RequestError`` as ``read_lines``, and for a line that the model cannot read: which, and why.
    """
    if model.tokenizer is None:
        if path is None:
            return []
        raise RequestError(f"tasks = {str(path)!r}: the model came without a tokenizer, it cannot read texts")
    source = path or BUNDLED_TASKS
    by_name: dict[str, list[tuple[list[int], int, int]]] = {}
    for number, line in read_lines(source):
        try:
            prompt = _prompt(model, line)
        except RequestError as error:
            if path is None:
                continue
            raise RequestError(f"{str(path)!r}, line {number}: {error}") from None
        by_name.setdefault(line.task or source.stem, []).append(prompt)
    fewest = 1 if path else _FEWEST_PROMPTS
    return [_stacked(name, prompts) for name, prompts in by_name.items() if len(prompts) >= fewest]


def induction_task(model: HookedModel, seed: int) -> Task | None:
    """Random tokens twice: in the second half, after a token that stood before, right is what followed it then, and wrong another of the
    tokens. ``None`` for a model whose context or vocabulary is too small for it. Olsson et al. 2022, "repeated random tokens".
    """
    length = min(_INDUCTION_TOKENS, (model.cfg.n_ctx - 1) // 2)
    if length < 3 or model.cfg.d_vocab < 2 * length:
        return None
    generator = seeded_generator(seed, "induction task")
    beginning = [] if not begins_with_token(model) else [beginning_token(model)]
    prompts = []
    for _ in range(_INDUCTION_PROMPTS):
        tokens = torch.randperm(model.cfg.d_vocab, generator=generator)[:length]
        at, other = torch.randperm(length - 1, generator=generator)[:2].tolist()
        # The token before the right one comes a second time; both candidates stand in the first half.
        text = [*beginning, *tokens.tolist(), *tokens[: at + 1].tolist()]
        prompts.append((text, int(tokens[at + 1]), int(tokens[other + 1])))
    return _stacked(INDUCTION, prompts)


@torch.no_grad()
def logit_differences(
    model: HookedModel,
    task: Task,
    keep: Bool[Tensor, "condition layer head"] | None = None,
    replace_with: HeadReplacement = "mean",
    seed: int = 0,
) -> Float[Tensor, "*condition prompt"]:
    """Logit of the right token minus that of the wrong one (nats), of the whole model or with only some heads kept.

    Means and other examples' outputs are those of the task's own prompts.
    """
    whole = keep is None
    kept = torch.ones(1, model.cfg.n_layers, model.cfg.n_heads, dtype=torch.bool) if keep is None else keep
    mask = torch.arange(task.tokens.shape[1]) <= task.last[:, None]
    found = torch.zeros(len(kept), len(task))
    for piece in logits_at(model, task.tokens, kept, task.last, replace_with=replace_with, mask=mask, seed=seed):
        right, wrong = (
            piece.logits.gather(
                2, index[piece.examples].to(piece.logits.device).expand(len(piece.logits), -1)[..., None]
            )
            for index in (task.right, task.wrong)
        )
        found[piece.conditions, piece.examples] = (right - wrong)[..., 0].float().cpu()
    return found[0] if whole else found


def accuracy(differences: Float[Tensor, " prompt"]) -> float:
    """Share of prompts whose right token has the larger logit; by chance a half."""
    return float((differences > 0).double().mean())


def _prompt(model: HookedModel, line: TaskLine) -> tuple[list[int], int, int]:
    def tokens(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    right, wrong = (_single(name, text, tokens(text)) for name, text in (("right", line.right), ("wrong", line.wrong)))
    if right == wrong:
        raise RequestError(f"right {line.right!r} and wrong {line.wrong!r} are the same token")
    text = [beginning_token(model)] * begins_with_token(model) + tokens(line.prompt)
    if len(text) > model.cfg.n_ctx:
        raise RequestError(f"the prompt has {len(text)} tokens: the model reads at most {model.cfg.n_ctx}")
    return [int(token) for token in text if token is not None], right, wrong


def _single(name: str, text: str, tokens: list[int]) -> int:
    if len(tokens) != 1:
        raise RequestError(f"{name} {text!r} is {len(tokens)} tokens: give one that is a single token")
    return tokens[0]


def _stacked(name: str, prompts: list[tuple[list[int], int, int]]) -> Task:
    width = max(len(tokens) for tokens, _, _ in prompts)
    rows = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens, _, _ in prompts])
    last = torch.tensor([len(tokens) - 1 for tokens, _, _ in prompts])
    right, wrong = (torch.tensor([prompt[at] for prompt in prompts]) for at in (1, 2))
    return Task(name, rows, last, right, wrong)
