"""Stories sampled from the story model: a corpus that may be passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mi_superposition.errors import RequestError
from mi_superposition.parts import SeedPart
from mi_superposition.training import seeded_generator

_BATCH = 100


def sample_stories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    n: int,
    *,
    seed: int = SeedPart.seed,
    temperature: float = 0.8,
    known: frozenset[str] = frozenset(),
    on_story: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """``n`` different stories, each ended by the model itself within its context.

    A story that runs on to the end of the context, that came before, or that is one of ``known`` (the text the model was
    trained on) is drawn again. Raises ``RequestError`` for ``n`` or a temperature that is not above 0.
    """
    if n < 1 or temperature <= 0:
        raise RequestError(f"n = {n}, temperature = {temperature}: both must be above 0")
    seen: set[str] = set(known)
    given, end = 0, tokenizer.eos_token_id
    start = torch.full((_BATCH, 1), end, device=model.device)
    model.eval()
    for batch in range(100 * (n // _BATCH + 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded_generator(seed, "sample", batch).initial_seed() % 2**63)
            rows = model.generate(  # type: ignore[operator]
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                max_length=model.config.n_positions,
                pad_token_id=end,
                use_cache=True,
            )
        for tokens in rows[:, 1:].tolist():
            if end not in tokens:
                continue
            story = str(tokenizer.decode(tokens[: tokens.index(end)])).strip()
            if not story or story in seen:
                continue
            seen.add(story)
            on_story()
            yield story
            given += 1
            if given == n:
                return
    raise RequestError(f"n = {n}: the model repeats itself and gave {given} different stories; raise the temperature")
