"""Tokenizers of models: read from their folder, and written into one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mi_superposition.errors import RequestError, WorkError, first_line
from mi_superposition.files import write_file
from mi_superposition.models.hub import TOKENIZER_FILES, refuse_own_code

_SENTENCE_PIECE = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model")
# Until the process ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []
# What tokenizers treat in different ways: the beginning of a text, spaces, lines, letters, digits.
_PROBE_TEXTS = ("Once upon a time", "The cat, the dog.", "a\nb", "2 + 2 = 4")


def read_tokenizer(folder: Path, gguf_file: str | None = None) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or that within a GGUF file of it; ``None`` for a model saved without.

    One that transformers makes of a SentencePiece file alone is compared with SentencePiece itself. Raises ``RequestError`` where it
    gives other tokens, and ``WorkError`` for damaged files.
    """
    if gguf_file is not None:
        return _within(folder, gguf_file)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    tokenizer = _tokenizer(folder)
    alone = next((folder / file for file in _SENTENCE_PIECE if (folder / file).is_file()), None)
    if alone is not None and not (folder / "tokenizer.json").is_file():
        _check_against_sentence_piece(tokenizer, alone)
    return tokenizer


def _within(folder: Path, gguf_file: str) -> PreTrainedTokenizerBase:
    """The tokenizer within a GGUF file, whatever lies beside it; in files of its own, from which TransformerLens reads it again."""
    kept = tempfile.TemporaryDirectory(prefix="gguf")
    _kept.append(kept)
    place = Path(kept.name)
    # Beside other tokenizers transformers would take one of those.
    (place / gguf_file).symlink_to((folder / gguf_file).resolve())
    save_tokenizer(_tokenizer(place, gguf_file), place)
    return _tokenizer(place)


def _check_against_sentence_piece(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    try:
        original = SentencePieceProcessor(model_file=str(path))
    # It has no exceptions of its own.
    except Exception as error:
        raise RequestError(
            f"{str(path)!r} is no SentencePiece file ({first_line(error)}): put the model's tokenizer.json beside it"
        ) from error
    # Words of its own alphabet, whatever that is.
    own = original.decode(
        [token for token in range(original.get_piece_size()) if len(original.id_to_piece(token)) > 2][:40]
    )
    for text in (*_PROBE_TEXTS, own):
        expected = original.encode(text)
        # What neither knows is counted in different ways.
        if original.unk_id() in expected:
            continue
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        # Some models keep their first tokens for others than SentencePiece: what the tokens stand for decides.
        if [original.id_to_piece(token) for token in expected] != tokenizer.convert_ids_to_tokens(found):
            raise RequestError(
                f"{str(path)!r}: without tokenizer.json, transformers makes other tokens of a text than SentencePiece does ({text!r}: "
                f"{found[:4]} for {expected[:4]}); put the model's tokenizer.json beside it"
            )


def _tokenizer(folder: Path, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, gguf_file=gguf_file
        )
    except ImportError as error:
        raise RequestError(f"the tokenizer in {str(folder)!r} needs another package: {first_line(error)}") from error
    # The parser of tokenizer.json has no exception of its own.
    except Exception as error:
        refuse_own_code(folder, error)
        raise WorkError(f"the tokenizer in {str(folder)!r} is damaged: {first_line(error)}") from error


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files as ``from_pretrained`` of transformers reads them, each whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            write_file(folder / path.name, path.read_bytes())
