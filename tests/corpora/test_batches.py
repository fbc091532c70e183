"""Token batches: every token once, where it says it is, in rows that do not depend on the batch size."""

import copy
import itertools

import pytest
import torch
from conftest import TINY_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mi_superposition import load_model, pool_texts, untrained_copy
from mi_superposition.corpora import model_batches, token_batches
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.protocol import beginning_token
from mi_superposition.stories.train import train_tokenizer

TEXTS = [f"Once there was a {word}. " * count for word, count in (("cat", 1), ("dog", 9), ("fox", 3), ("owl", 2))]
TOKENIZER = train_tokenizer(TEXTS, 280)
TOKENS = [TOKENIZER(text)["input_ids"] for text in TEXTS]


def rows_of(batches):
    """Rows without padding: (tokens, mask, document, place) of each."""
    rows = []
    for batch in batches:
        assert batch.tokens.shape == batch.mask.shape == batch.document.shape == batch.place.shape
        for row in zip(
            batch.tokens.tolist(), batch.mask.tolist(), batch.document.tolist(), batch.place.tolist(), strict=True
        ):
            length = max([place + 1 for place, counted in enumerate(row[1]) if counted], default=0)
            rows.append(tuple(tuple(items[:length]) for items in row))
    return rows


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 9),
    context=st.integers(2, 40),
    join=st.booleans(),
    bos=st.booleans(),
    shuffle=st.sampled_from([None, 1, 3, 100]),
)
def test_every_token_stands_once_where_it_says(batch, context, join, bos, shuffle):
    batches = token_batches(TEXTS, TOKENIZER, batch, context, join=join, prepend_bos=bos, shuffle=shuffle)
    found = {}
    for tokens, mask, document, place in rows_of(batches):
        assert len(tokens) <= context
        if bos:
            assert tokens[0] == TOKENIZER.bos_token_id
            assert not mask[0]
        if not join:
            assert len({d for d, counted in zip(document, mask, strict=True) if counted}) == 1
        for token, counted, d, p in zip(tokens, mask, document, place, strict=True):
            if counted:
                assert (d, p) not in found
                found[d, p] = token
            else:
                assert (d, p) == (-1, -1)
                assert token == TOKENIZER.eos_token_id
    wanted = {(d, p): token for d, tokens in enumerate(TOKENS) for p, token in enumerate(tokens)}
    assert found == wanted
    assert batches.counts.tokens == len(wanted)
    assert batches.counts.documents == len(TEXTS)


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("shuffle", [None, 2])
def test_rows_do_not_depend_on_the_batch_size(join, shuffle):
    alternatives = [
        rows_of(token_batches(TEXTS, TOKENIZER, batch, 16, join=join, shuffle=shuffle, seed=3)) for batch in (1, 3, 50)
    ]
    assert alternatives[0] == alternatives[1] == alternatives[2]


def test_the_seed_decides_the_order():
    def documents(seed):
        batches = token_batches([f"text {number}" for number in range(30)], TOKENIZER, 4, 64, shuffle=8, seed=seed)
        return [row[2][1] for row in rows_of(batches)]

    assert documents(0) == documents(0) != documents(1)
    assert sorted(documents(0)) == list(range(30))


def test_a_second_pass_is_the_first_again():
    batches = token_batches(TEXTS, TOKENIZER, 2, 10, shuffle=3)
    assert rows_of(batches) == rows_of(batches)
    counts = str(batches.counts)
    list(batches)
    assert str(batches.counts) == counts


def test_long_documents_are_split_or_cut_and_counted():
    batches = token_batches(TEXTS, TOKENIZER, 4, 16)
    list(batches)
    long = [tokens for tokens in TOKENS if len(tokens) > 15]
    assert batches.counts.split == len(long) > 0
    assert "longer than a row go on in the next" in str(batches.counts)
    cut = token_batches(TEXTS, TOKENIZER, 4, 16, long="truncate")
    rows = rows_of(cut)
    assert len(rows) == len(TEXTS)
    assert cut.counts.truncated == len(long)
    assert cut.counts.dropped_tokens == sum(len(tokens) - 15 for tokens in long)
    assert f"{cut.counts.dropped_tokens} tokens dropped" in str(cut.counts)


def test_an_end_token_within_a_document_is_text():
    """Somebody wrote it there: it is neither the end of the document nor a token of its own."""
    for text in ("a<|endoftext|>b", "<|endoftext|>"):
        [row] = rows_of(token_batches([text], TOKENIZER, 1, 64))
        assert TOKENIZER.eos_token_id not in row[0][1:]
        assert TOKENIZER.decode(row[0][1:]) == text


def test_joined_documents_are_always_parted():
    texts = ["a", "b", "c"] * 5
    for bos in (True, False):
        for row in rows_of(token_batches(texts, TOKENIZER, 1, 8, join=True, prepend_bos=bos)):
            neighbours = zip(row[2], row[2][1:], strict=False)
            assert all(a == b or -1 in (a, b) for a, b in neighbours)


def test_joined_rows_are_full_but_the_last():
    rows = rows_of(token_batches(TEXTS, TOKENIZER, 1, 12, join=True))
    # Beside the beginning token eleven places a row, and an end token after each document.
    needed = sum(map(len, TOKENS)) + len(TOKENS)
    assert len(rows) in (needed // 11, -(-needed // 11))
    assert len(rows) < len(rows_of(token_batches(TEXTS, TOKENIZER, 1, 12)))


def test_a_tokenizer_that_adds_a_beginning_by_itself_adds_no_second(tiny_gpt2):
    """TransformerLens sets its tokenizers so."""
    tokenizer = tiny_gpt2.hooked.tokenizer
    batch = next(iter(token_batches(["Once upon"], tokenizer, 1, 32)))
    assert batch.tokens[0].tolist().count(tokenizer.bos_token_id) == 1
    assert batch.tokens.tolist() == tiny_gpt2.hooked.to_tokens("Once upon").tolist()


def test_padding_changes_nothing_that_counts(tiny_gpt2):
    model = tiny_gpt2.hooked
    texts = ["Once", "Once upon a time there was a dog"]
    together = next(iter(token_batches(texts, model.tokenizer, 2, 32)))
    alone = next(iter(token_batches(texts[:1], model.tokenizer, 1, 32)))
    width = alone.tokens.shape[1]
    assert torch.equal(together.tokens[0, :width], alone.tokens[0])
    assert not together.mask[0, width:].any()
    with torch.no_grad():
        assert torch.allclose(model(together.tokens)[0, :width], model(alone.tokens)[0], atol=1e-5)


def test_only_as_much_is_read_as_is_asked_for():
    def endless():
        for number in itertools.count():
            assert number < 300, "read far ahead"
            yield f"text {number}"

    for batch in itertools.islice(token_batches(endless(), TOKENIZER, 2, 16), 3):
        assert len(batch.tokens) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(batch=0), "batch = 0"),
        (dict(context=0), "context = 0"),
        (dict(context=1), "a row needs at least 2"),
        (dict(shuffle=0), "shuffle = 0"),
        (dict(long="drop"), "long = 'drop'"),
    ],
)
def test_wrong_requests(options, said):
    sizes = {"batch": 2, "context": 8, **options}
    with pytest.raises((RequestError, TypeError), match=said) as caught:
        token_batches.__wrapped__(TEXTS, TOKENIZER, sizes.pop("batch"), sizes.pop("context"), **sizes)
    assert isinstance(caught.value, RequestError)


def test_batches_as_a_model_wants_them(tiny_gpt2):
    model = tiny_gpt2.hooked
    texts = ["a cat ran to dog and there was play " * 4]
    got, expected = (
        list(model_batches(model, texts, 2)),
        list(token_batches(texts, model.tokenizer, 2, model.cfg.n_ctx)),
    )
    assert [batch.tokens.tolist() for batch in got] == [batch.tokens.tolist() for batch in expected]
    assert next(iter(model_batches(model, texts, 2, context=8))).tokens.shape[1] == 8
    with pytest.raises(RequestError, match=r"context = 33: must be 2 to 32"):
        model_batches(model, texts, 2, context=33)
    with pytest.raises(RequestError, match=r"context = 0: must be at least 1"):
        model_batches(model, texts, 2, context=0)


@pytest.mark.parametrize("begins", [True, False])
def test_a_model_reads_what_its_own_to_tokens_gives(begins, tiny_gpt2, monkeypatch):
    """With a beginning token or without, as it was trained; what is asked for in so many words comes first."""
    model, texts = tiny_gpt2.hooked, ["a cat ran to dog", "Once upon a time"]
    monkeypatch.setattr(model.cfg, "default_prepend_bos", begins)
    for text in texts:
        [batch] = model_batches(model, [text], batch=1)
        assert batch.tokens.tolist() == model.to_tokens(text).tolist()
        assert (batch.tokens[0, 0] == model.tokenizer.bos_token_id) == begins
        for asked in (True, False):
            [batch] = model_batches(model, [text], batch=1, prepend_bos=asked)
            assert batch.tokens.tolist() == model.to_tokens(text, prepend_bos=asked).tolist()


@pytest.mark.parametrize(
    "options",
    [dict(long="truncate", context=8), dict(join=True), dict(shuffle=3, seed=5), dict(by_length=True)],
    ids=str,
)
def test_a_model_takes_every_option(options, tiny_gpt2):
    model = tiny_gpt2.hooked
    direct = {"context": model.cfg.n_ctx, **options}
    expected = token_batches(TEXTS, model.tokenizer, 2, **direct)
    assert rows_of(model_batches(model, TEXTS, 2, **options)) == rows_of(expected)


def test_a_beginning_that_the_tokenizer_does_not_have():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.bos_token = None
    with pytest.raises(RequestError, match="prepend_bos = True: the tokenizer has no beginning-of-sequence token"):
        token_batches(TEXTS, tokenizer, 2, 8, prepend_bos=True)


@pytest.mark.parametrize(
    ("special", "names"),
    [
        (["[UNK]"], {"unk_token": "[UNK]"}),
        (["[PAD]", "[UNK]"], {"pad_token": "[PAD]", "unk_token": "[UNK]"}),
        (["[UNK]", "[END]"], {"unk_token": "[UNK]", "eos_token": "[END]"}),
        ([], {}),
    ],
)
def test_no_beginning_token_is_made_up(special, names, tmp_path):
    """TransformerLens lets another token stand for one that a tokenizer does not have."""
    words = Tokenizer(BPE(unk_token=names.get("unk_token")))
    words.pre_tokenizer = ByteLevel()
    words.train_from_iterator(TINY_TEXT, BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(tmp_path)
    sizes = dict(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path)
    own = AutoTokenizer.from_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    for read in (model, untrained_copy(model, seed=0)):
        assert beginning_token(read, own) is None
    [batch] = model_batches(model, TINY_TEXT[:1], 1)
    assert batch.tokens[0].tolist() == own(TINY_TEXT[0], add_special_tokens=False)["input_ids"]
    assert bool(batch.mask.all())
    with pytest.raises(RequestError, match="has no beginning-of-sequence token"):
        model_batches(model, TINY_TEXT[:1], 1, prepend_bos=True)
    assert set(pool_texts(model, TINY_TEXT)) == set(pool_texts(untrained_copy(model, 0), TINY_TEXT, tokenizer=own))


def test_documents_of_tokens_are_read_as_texts_are(tiny_gpt2):
    """With a beginning token and padding, or without, and beside texts."""
    model = tiny_gpt2.hooked
    texts = ["a cat ran", "the dog and the fox like to play"]
    encoded = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    beginning, padding = model.tokenizer.bos_token_id, model.tokenizer.pad_token_id
    padding = beginning if padding is None else padding
    dressed = [[beginning, *encoded[0], padding, padding], encoded[1]]
    [expected] = model_batches(model, texts, 4)
    for documents in (encoded, dressed, [texts[0], encoded[1]]):
        [found] = model_batches(model, documents, 4)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.mask, expected.mask)
        assert found.content == expected.content


def test_a_model_without_a_tokenizer_reads_tokens_and_no_texts(tiny_model):
    [batch] = model_batches(tiny_model, [[1, 2, 3], [4, 5]], 4)
    assert batch.tokens.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    with pytest.raises(RequestError, match="without a tokenizer: it cannot read a text; give tokens"):
        list(model_batches(tiny_model, ["words"], 4))


@pytest.mark.parametrize("tokens", [[1, 2, 999], [3, -1]])
def test_a_token_without_an_embedding_is_named(tokens, tiny_model):
    last = tiny_model.cfg.d_vocab - 1
    with pytest.raises(
        WorkError,
        match=rf"document 1 has token {max(tokens, key=abs) if 999 in tokens else -1}: .*the last is {last}",
    ):
        list(model_batches(tiny_model, [[1], tokens], 4))


def test_a_padding_token_that_was_added_later_is_never_read(tiny_gpt2):
    tokenizer = copy.deepcopy(tiny_gpt2.hooked.tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<later>"})
    assert tokenizer.pad_token_id >= tiny_gpt2.hooked.cfg.d_vocab
    batches = token_batches(["a cat", "a dog and a fox"], tokenizer, 2, 16, d_vocab=tiny_gpt2.hooked.cfg.d_vocab)
    [batch] = batches
    assert int(batch.tokens.max()) < tiny_gpt2.hooked.cfg.d_vocab
