import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_superposition.concepts.split import split_by_labels, split_by_words
from mi_superposition.concepts.words import (
    BUNDLED_CONCEPTS,
    check_concepts,
    held,
    load_concepts,
    random_lists,
    sentences,
    words_of,
)
from mi_superposition.errors import RequestError, WorkError

LISTS = {"good": ("nice", "kind", "glad", "fun"), "bad": ("sad", "mean", "sorry", "angry")}


def texts(n=60):
    """Of every word of either list as many texts, and of neither."""
    words = [word for some in LISTS.values() for word in some]
    found = [f"it was {word} number{chr(97 + k % 26)} again" for word in words for k in range(n // 4)]
    return [*found, *(f"a tree stood there number{chr(97 + k % 26)}" for k in range(200))]


def test_which_concept_a_text_contains():
    found = held(["A NICE day", "nice and sad", "no such thing", "kind, nice!", "nicely done"], LISTS)
    assert found.concept == (0, -1, -1, 0, -1)
    assert found.word == (0, -1, -1, 0, -1)


def test_sentences():
    document = 'One day a cat came. "Hello you there!" it said so. Oh no.\nThe end is here'
    assert list(sentences([document])) == ["One day a cat came.", '"Hello you there!', "it said so.", "The end is here"]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=200))
def test_hostile_texts_have_words_in_small_letters(text):
    for word in words_of(text):
        assert word == word.lower()
        assert not any(letter.isspace() or letter.isdigit() or letter in "_-.!?" for letter in word)
    list(sentences([text]))


def test_lists_of_a_file(tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps({"good": ["Nice", "kind", "nice"], "bad": ["sad", "mean"]}))
    assert load_concepts(tmp_path / "lists.json") == {"good": ("nice", "kind"), "bad": ("sad", "mean")}
    for name in BUNDLED_CONCEPTS:
        assert check_concepts(load_concepts(name)) == load_concepts(name)


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"good": ["nice", "kind"]}, "1 concepts: give at least two"),
        ({"good": ["nice", "kind"], "bad": []}, "concept 'bad' has 0 words: give at least two"),
        ({"good": ["nice", "kind"], "bad": ["sad", "nice"]}, "'nice' stands in 'good' and 'bad'"),
        ({"good": ["nice", "two words"], "bad": ["sad", "mean"]}, "'two words' of concept 'good' is no single word"),
        ({"good": ["nice", 3], "bad": ["sad", "mean"]}, "3 of concept 'good' is no single word"),
        ({"good": "nice", "bad": ["sad", "mean"]}, "must hold an object of lists"),
        ([], "must hold an object of lists"),
    ],
)
def test_lists_that_are_none(lists, said, tmp_path):
    (tmp_path / "lists.json").write_text(json.dumps(lists))
    with pytest.raises(RequestError, match=said):
        load_concepts(tmp_path / "lists.json")


def test_files_that_are_none(tmp_path):
    with pytest.raises(RequestError, match="'nowhere' is not there: give 'stories', 'sentiment' or a JSON file"):
        load_concepts("nowhere")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(WorkError, match="cannot read"):
        load_concepts(tmp_path / "broken.json")


def test_no_word_is_on_both_sides():
    found = [words_of(text) for text in texts()]
    # A text with words of both halves belongs to neither side.
    found.append({"nice", "kind"})
    split = split_by_words(found, list(LISTS.values()), names=list(LISTS), per_concept=20, seed=0)
    sides = []
    for side in (split.train, split.test):
        of_concepts = side.of_concepts()
        assert of_concepts.labels.bincount().tolist() == [20, 20]
        # Half as many as of both concepts.
        assert int((side.labels == -1).sum()) == 20
        sides.append(
            {word for text in of_concepts.index.tolist() for word in found[text] if word in sum(LISTS.values(), ())}
        )
        for text, label in zip(of_concepts.index.tolist(), of_concepts.labels.tolist(), strict=True):
            assert found[text] & set(list(LISTS.values())[label])
            assert len(found) - 1 != text
        neutral = side.index[side.labels == -1].tolist()
        assert not any(found[text] & set(sum(LISTS.values(), ())) for text in neutral)
    assert not sides[0] & sides[1]
    assert not set(split.train.index.tolist()) & set(split.test.index.tolist())
    # One group per word.
    assert len(split.train.of_concepts().groups.unique()) == 4


def test_forms_of_a_word_are_on_one_side():
    found = [
        {word, f"x{k}"} for word in ("mom", "mommy", "dad", "daddy", "cat", "dog", "cow", "hen") for k in range(15)
    ]
    lists = [("mom", "mommy", "dad", "daddy"), ("cat", "dog", "cow", "hen")]
    split = split_by_words([*found, {"none"}], lists, names=["family", "animals"], per_concept=100, seed=0)
    words = [
        {word for text in side.of_concepts().index.tolist() for word in found[text]}
        for side in (split.train, split.test)
    ]
    assert ("mom" in words[0]) == ("mommy" in words[0]) != ("dad" in words[0]) == ("daddy" in words[0])


def test_forms_of_one_word_alone_cannot_be_parted():
    found = [words_of(text) for text in texts()]
    with pytest.raises(RequestError, match="concept 'kin': its words 'mom', 'mommy' all begin alike"):
        split_by_words(found, [LISTS["good"], ("mom", "mommy")], names=["good", "kin"], per_concept=20, seed=0)


def test_a_concept_of_which_there_is_nothing():
    found = [words_of(text) for text in texts()]
    lists = {**LISTS, "space": ("rocket", "moon")}
    with pytest.raises(RequestError, match="concept 'space': 0 texts hold one of 'rocket' and no other"):
        split_by_words(found, list(lists.values()), names=list(lists), per_concept=20, seed=0)


def test_random_lists_are_of_other_words_as_frequent():
    vocabulary = [f"w{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(400)]
    found = [
        {word for rank, word in enumerate(vocabulary) if (number * 7919 + rank * 104729) % 1000 < 1000 // (rank + 2)}
        for number in range(3000)
    ]
    concepts = [vocabulary[0:8:2], vocabulary[40:80:10]]
    drawn = random_lists(found, concepts, 0)
    flat = [word for words in drawn for word in words]
    assert len(set(flat)) == 8
    assert not set(flat) & {word for words in concepts for word in words}
    assert drawn != random_lists(found, concepts, 1)
    assert drawn == random_lists(found, concepts, 0)
    counts = {word: sum(word in words for words in found) for word in vocabulary}
    rare = [counts[word] for word in drawn[1]]
    assert max(rare) < 3 * max(counts[word] for word in concepts[1])
    assert min(rare) > min(counts[word] for word in concepts[1]) / 3
    assert min(counts[word] for word in drawn[0]) > max(rare)
    with pytest.raises(RequestError, match="too few for random lists"):
        random_lists([{"a", "b"}], [["a"]], 0)


def test_labels_are_parted_and_balanced():
    labels = [0] * 300 + [1] * 100 + [2] * 60
    split = split_by_labels(labels, names=("a", "b", "c"), per_concept=50, seed=0)
    assert split.train.labels.bincount().tolist() == [50, 50, 45]
    assert split.test.labels.bincount().tolist() == [50, 25, 15]
    index = torch.cat((split.train.index, split.test.index))
    assert len(index.unique()) == len(index)
    for side in (split.train, split.test):
        assert [labels[text] for text in side.index.tolist()] == side.labels.tolist()
    with pytest.raises(RequestError, match="label 'b': 20 texts have it; at least 40 are needed"):
        split_by_labels([0] * 300 + [1] * 20, names=("a", "b"), per_concept=50, seed=0)


@pytest.mark.parametrize(
    ("text", "words", "sentences_of_it"),
    [
        ("Кошка спит. Собака бежит в парке!", {"кошка", "собака", "парке"}, 1),
        ("Der süße Hund läuft. Die Tür ist über dem Boden.", {"süße", "läuft", "tür", "über"}, 2),
        ("कुत्ता पार्क में दौड़ता है। बिल्ली दूध पीती है।", {"कुत्ता", "पार्क", "दौड़ता", "बिल्ली"}, 2),
        ("小狗在公园里跑。今天天气很好！", {"小狗", "公园", "天气"}, 2),
        ("L'eau est froide aujourd'hui.", {"l'eau", "froide", "aujourd'hui"}, 1),
        ("ΟΔΥΣΣΕΥΣ ist ein Held.", {"οδυσσευς", "held"}, 1),
    ],
)
def test_words_of_any_alphabet(text, words, sentences_of_it):
    assert words <= words_of(text)
    assert len(list(sentences([text]))) == sentences_of_it
    assert check_concepts({"one": sorted(words)[:2], "two": ["other", "words"]})


@pytest.mark.parametrize("word", ["two words", "", "-", "7up", "_", "а1"])
def test_what_is_no_word(word):
    with pytest.raises(RequestError, match="no single word of letters"):
        check_concepts({"one": ["fine", word], "two": ["other", "words"]})


def test_words_beside_another_script_marks_and_long_words():
    assert {"iphone", "手机"} <= words_of("我用iPhone手机")
    assert "café" in words_of("cafe\u0301")
    assert check_concepts({"one": ["cafe\u0301", "b"], "two": ["c", "d"]})["one"][0] == "café"
    assert "มหาวิทยาลัย" in words_of("ฉันไปมหาวิทยาลัยทุกวัน")
    with pytest.raises(RequestError, match="is longer than 12 letters"):
        check_concepts({"one": ["很" * 13, "b"], "two": ["c", "d"]})


def test_random_words_of_a_script_without_spaces_are_no_parts_of_a_concept():
    texts = [
        words_of(f"今天{word}的小狗在公园里跑来跑去{n}") for n in range(30) for word in ("快乐", "高兴", "难过", "生气")
    ]
    drawn = random_lists(texts, [("快乐", "高兴"), ("难过", "生气")], seed=0, near=5)
    for words in drawn:
        for word in words:
            assert not any(word in own or own in word for own in ("快乐", "高兴", "难过", "生气")), word
