"""Classes of tokens by what they look like: the first of a word, a name, punctuation, one that was there before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

CLASSES = {
    "first of a word": "begins with a space and a letter or digit, or stands where a text or a line begins",
    "inside a word": "goes on with the word of the token before",
    "name": "the first of a word with a capital, where no sentence or speech begins, and not 'I'",
    "punctuation": "without letters and digits, and more than space",
    "repeated": "stood before in the same document",
    "new": "did not stand before in the same document",
}
# After these a capital means nothing.
_ENDS = tuple(".!?:;\"'“”‘’«»(){}[]-–—…*")


class TokenClasses:
    """Which classes each token of a text belongs to, from what the tokens of a vocabulary look like; a token can be in several.

    ``strings`` are those of ``corpora.tokens.token_strings``. Of a vocabulary without texts only repeated and new tokens are known.
    """

    def __init__(self, strings: Sequence[str], *, known: bool):
        self.names = tuple(CLASSES) if known else ("repeated", "new")
        self._known = known
        stripped = [string.strip() for string in strings]
        word = [bool(string) and string[0].isalnum() for string in stripped]
        self._word = torch.tensor(word)
        self._spaced = torch.tensor([w and string[0].isspace() for w, string in zip(word, strings, strict=True)])
        self._capital = torch.tensor([w and s[0].isupper() and s != "I" for w, s in zip(word, stripped, strict=True)])
        self._mark = torch.tensor([bool(s) and not any(c.isalnum() for c in s) for s in stripped])
        self._ends_word = torch.tensor([bool(s) and s[-1:].isalnum() for s in strings])
        self._ends_sentence = torch.tensor([s.endswith(_ENDS) or not s or o[-1:] == "\n" for s, o in zip(stripped, strings, strict=True)])  # fmt: skip

    def of(self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos class"]:
        """Classes of the tokens of some rows, each the beginning of one document; ``real``: where its tokens stand."""
        tokens = tokens.cpu()
        same = (tokens[:, :, None] == tokens[:, None, :]) & real.cpu()[:, None, :]
        repeated = same.tril(-1).any(dim=2)
        if not self._known:
            return torch.stack([repeated, ~repeated], dim=2)
        # At the beginning of a document nothing stands before.
        there = torch.nn.functional.pad(real.cpu()[:, :-1], (1, 0))
        before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        goes_on = self._ends_word[before] & there
        first = self._word[tokens] & (self._spaced[tokens] | ~goes_on)
        inside = self._word[tokens] & ~first
        name = first & self._capital[tokens] & there & ~self._ends_sentence[before]
        return torch.stack([first, inside, name, self._mark[tokens], repeated, ~repeated], dim=2)
