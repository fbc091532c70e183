import pytest
import torch

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.sae import ActivationStream, Documents
from mi_superposition.sae.split import is_held_out

HOOK = "blocks.1.hook_resid_pre"
TEXTS = [f"a cat {n} ran to dog {n * n} and there was play, said the {n % 7} owl" for n in range(60)]


@pytest.fixture
def model(tiny_gpt2):
    return tiny_gpt2.hooked


def batches(model, texts=TEXTS):
    return token_batches(texts, model.tokenizer, 8, model.cfg.n_ctx)


def stream(model, **options):
    options = {"hooks": [HOOK], "batch_size": 32, "buffer_batches": 4, **options}
    return ActivationStream(model, batches(model), **options)


def all_activations(model):
    """Every token that counts, in the corpus's order, one row of text at a time."""
    found = []
    for batch in batches(model):
        for tokens, mask in zip(batch.tokens, batch.mask, strict=True):
            with torch.no_grad():
                _, cache = model.run_with_cache(tokens[None], names_filter=HOOK)
            found.append(cache[HOOK][0][mask])
    return torch.cat(found)


def rows(tensor):
    return sorted(tuple(round(value, 3) for value in row) for row in tensor.tolist())


def test_each_buffer_holds_the_next_tokens_of_the_corpus_each_once(model):
    expected, some = all_activations(model), stream(model)
    for number in range(len(expected) // 128):
        got = torch.cat([some.batch(4 * number + index)[HOOK] for index in range(4)])
        torch.testing.assert_close(
            got[got[:, 0].argsort()], (part := expected[128 * number : 128 * (number + 1)])[part[:, 0].argsort()],
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip


def test_it_goes_on_over_the_end_of_the_corpus(model):
    n, some = len(all_activations(model)), stream(model)
    # Far into the second pass: the same tokens, in other company and another order.
    index = (n // 32) + 5
    assert some.batch(index)[HOOK].shape == (32, 16)
    expected = torch.cat((all_activations(model), all_activations(model)))
    buffer = index // 4
    got = torch.cat([some.batch(4 * buffer + within)[HOOK] for within in range(4)])
    part = expected[128 * buffer : 128 * (buffer + 1)]
    torch.testing.assert_close(got[got[:, 0].argsort()], part[part[:, 0].argsort()], atol=1e-4, rtol=1e-4)


def test_any_batch_is_the_same_however_it_is_reached(model):
    one = stream(model)
    in_order = [one.batch(index)[HOOK] for index in range(24)]
    for index in (23, 0, 9, 10, 4):
        assert torch.equal(one.batch(index)[HOOK], in_order[index])
        assert torch.equal(stream(model).batch(index)[HOOK], in_order[index])


def test_the_order_is_random_and_the_seeds(model):
    expected = all_activations(model)[:128]
    got = torch.cat([stream(model).batch(index)[HOOK] for index in range(4)])
    other = torch.cat([stream(model, seed=1).batch(index)[HOOK] for index in range(4)])
    assert not torch.allclose(got, expected, atol=1e-3)
    assert not torch.equal(got, other)
    assert rows(got) == rows(other)


def test_a_piece_longer_than_the_buffer(model):
    some = stream(model, batch_size=5, buffer_batches=3)
    got = torch.cat([some.batch(index)[HOOK] for index in range(12)])
    expected = all_activations(model)[:60]
    torch.testing.assert_close(got[got[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=1e-4, rtol=1e-4)


def test_several_hooks_in_step(model):
    both = stream(model, hooks=[HOOK, "blocks.0.mlp.hook_post"])
    found = both.batch(3)
    assert found["blocks.0.mlp.hook_post"].shape == (32, 48)
    assert torch.equal(found[HOOK], stream(model).batch(3)[HOOK])


def test_the_model_stops_at_the_last_hook(model):
    heard = []
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda value, hook: heard.append(1))]):
        stream(model).batch(0)
    assert heard == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hooks": ["blocks.1.hook_resid_pro"]}, r"did you mean 'blocks.1.hook_resid_pre'\?"),
        ({"hooks": []}, r"hooks = \[\]: name at least one"),
        ({"batch_size": 0}, r"batch_size = 0: must be at least 1"),
        ({"buffer_batches": 0}, r"buffer_batches = 0"),
    ],
)
def test_wrong_requests(model, options, message):
    with pytest.raises(RequestError, match=message):
        stream(model, **options)


def test_a_corpus_shorter_than_the_buffer(model):
    with pytest.raises(RequestError, match=r"tokens, fewer than a buffer of 128,000 \(1,000 batches of 128\)"):
        stream(model, batch_size=128, buffer_batches=1000).batch(0)


def test_batches_that_can_be_read_only_once(model):
    with pytest.raises(RequestError, match="only once"):
        ActivationStream(model, iter(batches(model)), [HOOK])


def test_activations_that_are_not_finite(model):
    def poison(value, hook):
        value[0, 0] = float("nan")
        return value

    with (
        pytest.raises(WorkError, match="hold a NaN"),
        model.hooks(fwd_hooks=[("hook_embed", poison)]),
    ):
        stream(model).batch(0)


def test_no_text_is_on_both_sides():
    corpus = [f"story {n}" for n in range(500)] + ["story 3", " story 4\n"]
    trained, held_out = set(Documents(corpus, held_out=False)), set(Documents(corpus, held_out=True))
    assert trained | held_out == set(corpus)
    assert not {text.strip() for text in trained} & {text.strip() for text in held_out}
    assert 20 < len(held_out) < 90
    assert is_held_out("\ud800") in (True, False)
