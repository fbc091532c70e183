"""Is a word's representation another one in another context? Stringer's 'bark', and nine more words with two meanings, in a real model.

    python scripts/replicas/words_in_context.py --model smollm2-135m --out words.json

The source names GPT-2 and the sentences 'A dog's bark' and 'The bark on the tree', and gives no number. Every word stands at the end of
three sentences for each of two meanings. The control that asks most is a word of one meaning in the same sentences: its states differ
by what stands before it as well. The other is the untrained model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from jaxtyping import Float
from replica import STRINGER, Row, report
from torch import Tensor

import mi_superposition as ms
from mi_superposition.linalg import unit_rows
from mi_superposition.models import read_hooks, untrained_copy
from mi_superposition.models.protocol import HookedModel

# The source's two, up to the word; a causal model has read no more when it comes to it.
BARKS = ("A dog's bark", "The bark on the tree")
# Three beginnings for each of two meanings.
SENTENCES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bark": (("At night we heard the neighbour's dog and its loud", "The puppy was angry, and everyone woke from its", "The hound ran to the gate with a deep"), ("The old oak tree had a rough brown", "The beaver gnawed at the birch and pulled off the", "With a knife he cut his name into the trunk's")),
    "bank": (("She paid the money into her account at the", "He asked for a loan and a credit card at the", "The robbers took all the cash from the"), ("They sat down to fish on the river's muddy", "The boat was tied to a willow on the other", "The stream rose and flooded the grass on its")),
    "bat": (("At dusk a small animal with leather wings flew out of the cave, a", "In the dark it finds insects by its cries, the", "Hanging upside down from the roof of the barn there slept a"), ("The baseball player swung his wooden", "He hit the ball over the fence with his new", "The cricket captain came to the pitch and picked up his")),
    "spring": (("After the long winter, snow melts and flowers open in the", "The birds come back and lay their eggs in", "We plant the seeds each year in early"), ("The mattress was broken because of a bent metal", "The watchmaker wound the tiny steel", "The toy jumps when you press down its coiled")),
    "match": (("To light the candle she struck a", "He lit the fire in the stove with his last", "The box was wet, so we could not strike a"), ("The two football teams played a hard", "The tennis champion lost the final", "The crowd cheered when their team won the")),
    "seal": (("On the ice a grey animal with flippers caught a fish, it was a", "The polar bear waited at the hole in the ice for a", "At the zoo the children fed herring to the"), ("The king pressed his ring into the wax to leave his", "The letter was closed with red wax and an official", "The document is not valid without a stamp and the notary's")),
    "crane": (("In the marsh there stood a tall white bird on one leg, a", "With its long beak it caught a frog, the", "Above the lake flew a heron and a"), ("The builders lifted the steel beams with a tall", "At the harbour the containers are unloaded by a", "The heavy concrete block hung from the hook of the")),
    "palm": (("The fortune teller read the lines on my", "He held the coin tightly in his sweaty", "She slapped the table with her open"), ("On the hot beach they lay in the shade of a", "A coconut fell down from the tall", "The island's only tree was a")),
    "trunk": (("The elephant lifted the log with its long", "At the zoo it sprayed water over its back with its", "The calf held on to its mother's tail with its little"), ("He put the suitcases into the car and closed the", "The spare wheel of the car is under the mat in the", "She opened the boot, or as Americans say, the")),
    "nail": (("The carpenter took the hammer and drove in a", "The picture hangs on the wall from a rusty", "The tyre was flat because it had run over a"), ("She painted every finger with red polish and broke a", "He bit his finger and tore off the", "The manicure was perfect but for one short")),
}  # fmt: skip
# Words of one meaning that take the place of the others.
PLAIN = ("chair", "shirt", "window", "bottle", "ladder")


class Split(NamedTuple):
    """Of one word: mean cosine of its states in sentences of one meaning, and of different meanings."""

    same: float
    different: float

    @property
    def gap(self) -> float:
        """How much closer it is to itself in the same meaning."""
        return self.same - self.different


def last_states(model: HookedModel, tokenizer: Any, texts: Sequence[str]) -> Float[Tensor, "layer text d"]:
    """The residual stream after every layer, and before the first, at the last token of each text."""
    hooks = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers))]
    rows = []
    for text in texts:
        words = tokenizer(text, add_special_tokens=False).input_ids
        # The end of a text that is too long: its last token is looked at.
        tokens = [tokenizer.bos_token_id, *words[-(model.cfg.n_ctx - 1) :]]
        found = read_hooks(model, torch.tensor([tokens]), hooks)
        rows.append(torch.stack([found[hook][0, -1].float().cpu() for hook in hooks]))
    return torch.stack(rows, dim=1)


def split_of(states: Float[Tensor, "sentence d"]) -> Split:
    """Of a word's states, the first half of one meaning."""
    cosines, n = unit_rows(states) @ unit_rows(states).T, len(states) // 2
    meaning = torch.arange(len(states)) < n
    pairs = torch.triu(torch.ones_like(cosines, dtype=torch.bool), diagonal=1)
    together = meaning[:, None] == meaning
    return Split(float(cosines[pairs & together].mean()), float(cosines[pairs & ~together].mean()))


def splits(model: HookedModel, tokenizer: Any, words: Sequence[str] | None) -> list[list[Split]]:
    """By layer the split of every word, or with ``words`` that of each of these in all words' sentences. States are measured from the mean
    state of the same word in other words' sentences, as all states share a large mean.
    """

    @functools.cache
    def state(text: str, word: str) -> Float[Tensor, "layer d"]:
        return last_states(model, tokenizer, [f"{text} {word}"])[:, 0]

    sentences = [[*one, *other] for one, other in SENTENCES.values()]
    by_word = []
    for place, (word, some) in enumerate(zip(SENTENCES, sentences, strict=True)):
        elsewhere = [text for number, them in enumerate(sentences) if number != place for text in them[::3]]
        for put in [word] if words is None else words:
            own, others = (torch.stack([state(text, put) for text in texts], dim=1) for texts in (some, elsewhere))
            by_word.append(own - others.mean(dim=1, keepdim=True))
    return [[split_of(states[layer]) for states in by_word] for layer in range(by_word[0].shape[0])]


def barks(model: HookedModel, tokenizer: Any, word: str = "bark") -> Float[Tensor, " layer"]:
    """Cosine of the word's states in the source's two sentences, as they are."""
    first, second = BARKS
    texts = [first.replace("bark", word), second.replace("bark", word).split(word)[0] + word]
    states = last_states(model, tokenizer, texts)
    return torch.cosine_similarity(states[:, 0], states[:, 1], dim=-1)


def main(model: str, seeds: int = 3, out: Path | None = None) -> None:
    """Read, compare.

    Args:
        model: Language model: a folder in Hugging Face layout.
        seeds: Untrained models, from seed 0 up.
        out: JSON file of all numbers.
    """
    network: Any = ms.load_model(model)
    reader = network.tokenizer
    bark, plain = barks(network, reader), torch.stack([barks(network, reader, word) for word in PLAIN], dim=1)
    mine, control = splits(network, reader, None), splits(network, reader, PLAIN)
    fresh = [untrained_copy(network, seed) for seed in range(seeds)]
    untrained, blank_bark = (
        [splits(one, reader, None) for one in fresh],
        torch.stack([barks(one, reader) for one in fresh]),
    )
    n_layers, per = network.cfg.n_layers, len(PLAIN)
    gaps = torch.tensor([[one.gap for one in layer] for layer in mine])
    # Each word beside the mean of the plain words in its sentences.
    beside = torch.tensor([[one.gap for one in layer] for layer in control]).view(len(mine), -1, per).mean(dim=2)
    blank = torch.tensor([[[one.gap for one in layer] for layer in some] for some in untrained]).mean(dim=0)
    rows = []
    for layer in dict.fromkeys((0, n_layers // 4, n_layers // 2, 3 * n_layers // 4, n_layers)):
        where = f"after layer {layer - 1}" if layer else "before layer 0"
        rows.append(Row(f"{where}: cosine of 'bark' in the source's two sentences", "different", float(bark[layer]), f"words of one meaning {float(plain[layer].mean()):.3f} ({float(plain[layer].min()):.3f} to {float(plain[layer].max()):.3f}), untrained {float(blank_bark[:, layer].mean()):.3f}", "confirmed" if layer and float(bark[layer]) < 0.999 else "ours", "" if layer else "the same token"))  # fmt: skip
    for layer in dict.fromkeys(max(quarter * n_layers // 4, 1) for quarter in (1, 2, 3, 4)):
        more = int((gaps[layer] > beside[layer]).sum())
        rows.append(Row(f"after layer {layer - 1}: ten words are closer to themselves in one meaning than in two, difference of cosines", "by context", f"{float(gaps[layer].mean()):.3f}", f"words of one meaning in the same sentences {float(beside[layer].mean()):.3f}, untrained {float(blank[layer].mean()):.3f}", "confirmed" if more >= 9 else "not confirmed", f"more than the words of one meaning for {more} of {len(SENTENCES)}"))  # fmt: skip
    rows.append(Row("the first meaning of 'bark' is told from the second by the source's second sentence", "'on the tree'", "no: it comes after the word", None, "refuted", "a causal model such as GPT-2 has read 'The' alone when it reads 'bark'"))  # fmt: skip
    settings = {
        "model": Path(model).name,
        "words": len(SENTENCES),
        "sentences": 6,
        "plain words": per,
        "untrained": seeds,
    }
    details = {
        "bark": bark.tolist(), "plain": plain.tolist(), "gaps": gaps.tolist(), "gaps_of_plain_words": beside.tolist(),
        "gaps_untrained": blank.tolist(), "words": list(SENTENCES),
    }  # fmt: skip
    report("words in context", STRINGER, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
