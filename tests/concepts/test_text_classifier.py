import itertools

import pytest
import torch
from transformers import BertTokenizerFast

from mi_superposition.concepts.classifier import text_accuracy, train_text_classifier
from mi_superposition.concepts.config import EncoderConfig
from mi_superposition.errors import RequestError
from mi_superposition.models.encoders import fresh_encoder
from mi_superposition.training import Stopped

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "bad", "great", "dull"]
TEXTS = [f"a {word} film" for word in ("good", "bad", "great", "dull")] * 40
LABELS = [1, 0, 1, 0] * 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("words") / "vocab.txt"
    file.write_text("\n".join(WORDS))
    return BertTokenizerFast(str(file))


def fresh():
    settings = dict(model_type="distilbert", vocab_size=len(WORDS), dim=16, hidden_dim=32, n_layers=1, n_heads=2)
    return fresh_encoder(settings, 2, 0)


def test_it_learns_and_goes_on_exactly(tokenizer, tmp_path):
    config = EncoderConfig("train", "test", "tokenizer", epochs=4, batch_size=16, learning_rate=5e-3)
    whole = fresh()
    before = text_accuracy(whole.eval(), tokenizer, TEXTS, LABELS, 16)
    train_text_classifier(whole, tokenizer, TEXTS, LABELS, config)
    assert text_accuracy(whole, tokenizer, TEXTS, LABELS, 16) == 1 > before
    parts = fresh()
    calls = itertools.count(1)
    with pytest.raises(Stopped):
        train_text_classifier(
            parts, tokenizer, TEXTS, LABELS, config, checkpoint=tmp_path / "c", should_stop=lambda: next(calls) == 13
        )
    # Another process would begin with fresh weights and another state of the global generator.
    torch.manual_seed(99)
    again = fresh()
    train_text_classifier(again, tokenizer, TEXTS, LABELS, config, checkpoint=tmp_path / "c")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("context", 2), ("learning_rate", 0.0), ("dim", 100), ("layers", 0)],
)
def test_wrong_numbers(field, value):
    with pytest.raises(RequestError, match=f"{field} = {value}"):
        EncoderConfig("train", "test", "tokenizer", **{field: value})
