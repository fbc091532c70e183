"""How well a language model predicts text, in bits per character: comparable between tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mi_superposition.errors import RequestError

_BATCH = 16


@torch.no_grad()
def bits_per_character(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> float:
    """Bits the model needs for the documents, each on its own, over the number of their characters.

    A document starts after the beginning token and its end token is predicted too. Of a document longer than the
    context every token is predicted once: windows overlap by half the context, and each predicts what the one
    before it did not reach. Raises ``RequestError`` when there are no characters.
    """
    characters = sum(map(len, documents))
    if not characters:
        raise RequestError(f"{len(documents)} documents with no characters: bits per character need some")
    n_ctx, end = model.config.n_positions, tokenizer.eos_token_id
    windows: list[tuple[list[int], int]] = []
    for document in documents:
        tokens = [end, *tokenizer(document, split_special_tokens=True, verbose=False)["input_ids"], end]
        first = 1
        for start in range(0, len(tokens) - 1, n_ctx // 2):
            window = tokens[start : start + n_ctx + 1]
            windows.append((window, first - start))
            first = start + len(window)
            if first == len(tokens):
                break
    # Windows of one length side by side: little padding.
    windows.sort(key=lambda window: len(window[0]))
    was_training, nats = model.training, 0.0
    model.eval()
    for batch in (windows[at : at + _BATCH] for at in range(0, len(windows), _BATCH)):
        width = len(batch[-1][0])
        tokens_in = torch.full((len(batch), width), end, device=model.device)
        # Where nothing is predicted: padding, and what an earlier window predicted.
        targets = torch.full((len(batch), width), -100, device=model.device)
        for row, (window, first) in enumerate(batch):
            tokens_in[row, : len(window)] = torch.tensor(window)
            targets[row, first : len(window)] = torch.tensor(window[first:])
        logits = model(input_ids=tokens_in[:, :-1]).logits.float()
        nats += F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), reduction="sum").item()
    model.train(was_training)
    return nats / math.log(2) / characters
