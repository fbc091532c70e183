"""What a measurement is given to read: texts, tokens as ``model.to_tokens`` gives them, or batches."""

import pytest
import torch
from conftest import TINY_TEXT

from mi_superposition.corpora import TokenBatch, as_batches, model_batches
from mi_superposition.errors import RequestError
from mi_superposition.neurons import scan_neurons
from mi_superposition.neurons.config import ScanSettings

SETTINGS = ScanSettings(top_k=2)


def counted(batches):
    """The tokens that count, row by row."""
    return [row[mask].tolist() for batch in batches for row, mask in zip(batch.tokens, batch.mask, strict=True)]


def test_tokens_texts_and_batches_are_read_alike(tiny_gpt2):
    model = tiny_gpt2.hooked
    wanted = counted(model_batches(model, TINY_TEXT, 2))
    together = model.to_tokens(TINY_TEXT)
    one_by_one = [model.to_tokens(text) for text in TINY_TEXT]
    for given in (TINY_TEXT, together, one_by_one, [tokens[0] for tokens in one_by_one], [together[:2], together[2:]]):
        batches = as_batches(model, given)
        assert counted(batches) == wanted
        # Again and again.
        assert counted(batches) == wanted
    scans = [scan_neurons(model, given, SETTINGS) for given in (list(model_batches(model, TINY_TEXT, 2)), together)]
    for first, second in zip(*(scan.hooks.values() for scan in scans), strict=True):
        assert torch.allclose(first.mean, second.mean, atol=1e-5)
    assert scans[0].n_documents == scans[1].n_documents == len(TINY_TEXT)


def test_padding_on_either_side_does_not_count(tiny_gpt2):
    model = tiny_gpt2.hooked
    padding = model.tokenizer.pad_token_id
    texts = [model.to_tokens(text)[0].tolist() for text in (TINY_TEXT[0], "Once upon")]
    width = max(map(len, texts))
    right = torch.tensor([[*text, *[padding] * (width - len(text))] for text in texts])
    left = torch.tensor([[*[padding] * (width - len(text)), *text] for text in texts])
    assert counted(as_batches(model, right)) == counted(as_batches(model, left)) == [text[1:] for text in texts]


def test_what_counts_is_apart_from_what_a_document_is(tiny_model):
    """Of an algorithmic model one position alone: all documents are still others."""
    tokens = torch.randint(0, 10, (64, tiny_model.cfg.n_ctx), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, -1] = True
    hook = "blocks.0.attn.hook_z"
    scan = scan_neurons(tiny_model, tokens, ScanSettings(top_k=5), mask=mask, hooks=hook)
    assert scan.n_documents == 64
    assert scan.n_tokens == 64
    units = scan.hooks[hook]
    assert not units.top.activation.isnan().any()
    assert bool((units.top.position == tokens.shape[1] - 1).all())
    # By hand, as a batch whose documents are the positions that count.
    rows = torch.arange(64)[:, None].expand_as(tokens).where(mask, -1)
    place = torch.arange(tokens.shape[1]).expand_as(tokens).where(mask, -1)
    by_hand = scan_neurons(tiny_model, [TokenBatch(tokens, mask, rows, place)], ScanSettings(top_k=5), hooks=[hook])
    assert torch.equal(by_hand.hooks[hook].top.activation, units.top.activation)
    assert by_hand.n_documents == 64


@pytest.mark.parametrize(
    ("given", "mask", "said"),
    [
        ("a text", None, "a text: give token_batches"),
        (iter([torch.zeros(1, 3, dtype=torch.long)]), None, "can be read only once"),
        (torch.zeros(1, 3), None, "give whole numbers"),
        (torch.zeros(0, 3, dtype=torch.long), None, "neither empty"),
        (torch.full((1, 3), 300), None, "token 300: the vocabulary is 0 to 299"),
        (torch.zeros(1, 99, dtype=torch.long), None, "99 positions: the model reads at most 32"),
        (torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), r"mask has shape \(1, 2\)"),
        ([[1, 2, 3]], None, "a list of list: give texts, tensors"),
        ([torch.zeros(3, dtype=torch.long)], [], "mask: 0 for 1 tensors"),
        (["a text"], torch.ones(1, 2, dtype=torch.bool), "mask: is for tokens"),
    ],
)
def test_anything_else_is_refused(given, mask, said, tiny_gpt2):
    with pytest.raises(RequestError, match=said):
        as_batches(tiny_gpt2.hooked, given, mask)
