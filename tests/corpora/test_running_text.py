"""Running text of tokens reads as the text does: characters that are made of several tokens show as themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mi_superposition.corpora.tokens import running_text, visible, visible_tokens, whole_characters
from mi_superposition.neurons.scan import Excerpt
from mi_superposition.neurons.scan.examples import UnitExamples
from mi_superposition.neurons.scan.shading import shaded_html
from mi_superposition.neurons.scan.text import TextActivations
from mi_superposition.pages.neurons.text import coloured_text, numbered_text

TEXTS = [
    "“It is nice,” she said. “Let’s go.”",
    "今天天气很好，小狗在公园里。",
    "कुत्ता पार्क में दौड़ता है",
    "I am happy 😀 today",
]


@pytest.fixture(scope="module")
def byte_level():
    """A vocabulary like GPT-2's: bytes, merged where English merges them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["It is nice to be happy. She said I am happy today."] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def running(tokenizer, text):
    strings = visible_tokens(tokenizer, len(tokenizer))
    return running_text([strings[token] for token in tokenizer(text)["input_ids"]])


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_any_alphabet_read_as_themselves(byte_level, text):
    tokens = byte_level(text)["input_ids"]
    shown = running(byte_level, text)
    assert len(shown) == len(tokens)
    assert "".join(shown) == text
    # A character stands where its first byte is.
    assert shown[0] == visible(text[0]) or text.startswith(shown[0])


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_reads_with_what_cannot_be_seen_made_visible(byte_level, text):
    found = "".join(running(byte_level, text))
    # Joiners stay where they join letters that are not ASCII.
    as_shown = "".join(
        letter if letter in "\u200c\u200d" and at and not text[at - 1].isascii() else visible(letter)
        for at, letter in enumerate(text)
    )
    assert found == as_shown


def test_bytes_that_make_no_character_stay_escaped():
    assert running_text(["\\xe2\\x80", "a", "\\x9c", "\\xff", " b"]) == ["\\xe2\\x80", "a", "\\x9c", "\\xff", " b"]
    assert running_text(["\\xe2", "\\xe2", "\\x80", "\\x9c", "\\x80"]) == ["\\xe2", "“", "", "", "\\x80"]
    assert running_text(["\\x80"] * 6) == ["\\x80"] * 6
    assert running_text([]) == [] == whole_characters([])


def test_a_zero_width_character_of_several_tokens_does_not_hide():
    assert running_text(["a", "\\xe2\\x80", "\\x8b"]) == ["a", "\\u200b", ""]
    assert running_text(["a", "\\xe2\\x80", "\\x8d"]) == ["a", "\\u200d", ""]
    assert running_text(["é", "\\xe2\\x80", "\\x8d"]) == ["é", "\u200d", ""]


def test_a_token_that_spells_a_byte_is_not_taken_for_one():
    vocabulary = {word: number for number, word in enumerate(["\\xe2", "\\x80", "\\x9c"])}
    spelling = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)))
    strings = visible_tokens(spelling, 3)
    assert strings == ["\\\\xe2", "\\\\x80", "\\\\x9c"]
    assert running_text(strings) == strings


def test_a_character_has_the_activations_of_all_its_tokens():
    tokens = ["\\xe2", "\\x80", "\\x9c", "Hi"]
    measured = TextActivations("L0N0", tuple(tokens), (0.1, -0.5, 0.2, 1.0))
    assert numbered_text(measured) == "“[0.10|-0.50|0.20]Hi[1.00]"
    assert coloured_text(measured).count("“") == 1
    html = shaded_html(running_text(tokens), [float("nan"), -0.5, 0.2, 1.0], 1.0)
    assert "title='no activation kept, -0.500, 0.200'" in html
    assert html.count("<span") == 2
    # The strongest, half as deep as the deepest, in the colour of those below zero.
    assert "rgba(40, 120, 200, 0.31)'>“<" in html


def test_an_example_within_a_character_shows_all_of_it():
    tokens = running_text(["a", "\\xe2", "\\x80", "\\x9c", "Hi"])
    excerpt = Excerpt(0, 2, 0.5, 1, tokens[1:], 1, np.array([0.1, 0.5, 0.2, 0.0], np.float32))
    one = UnitExamples(
        "blocks.0.mlp.hook_post",
        0,
        (excerpt,),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(2),
        0.5,
        0.0,
        0.5,
        1.0,
        1.0,
    )
    row = one.to_frame().iloc[0]
    assert (row["before"], row["token"], row["after"]) == ("", "“", "Hi")
    assert one.samples() == [(["“", "Hi"], [0.5, 0.0])]
