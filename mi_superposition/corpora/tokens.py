"""Tokens as text a person can read: every byte shows, nothing hides."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mi_superposition.files import text_hash

# A longer token is cut here.
LONGEST_SHOWN = 80
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 over its vocabulary: what a run folder records of it."""
    return text_hash([json.dumps(sorted(tokenizer.get_vocab().items()))])


def token_strings(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> list[str]:
    """What each of ``d_vocab`` tokens stands for, by its number; a byte that is no whole character as ``\\xe2``.

    A number without a token, as models have that round their vocabulary up, gives ``<12>``.
    """
    known = min(len(tokenizer), d_vocab)
    names = [*tokenizer.convert_ids_to_tokens(list(range(known))), *[None] * (d_vocab - known)]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = backend is not None and '"ByteLevel"' in backend.to_str()
    to_byte = {character: byte for byte, character in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_tokens)
    strings = []
    for number, name in enumerate(names):
        if name is None:
            strings.append(f"<{number}>")
        elif name in special:
            strings.append(name)
        elif byte_level and all(character in to_byte for character in name):
            strings.append(bytes(to_byte[character] for character in name).decode("utf-8", "backslashreplace"))
        elif match := _BYTE_TOKEN.fullmatch(name):
            strings.append(bytes([int(match[1], 16)]).decode("utf-8", "backslashreplace"))
        else:
            # SentencePiece's sign for a space.
            strings.append(name.replace("\u2581", " "))
    return strings


def visible_tokens(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> list[str]:
    """``token_strings`` as they are shown: see ``visible``."""
    return [visible(string) for string in token_strings(tokenizer, d_vocab)]


def visible(token: str) -> str:
    """The token with what cannot be seen made visible: line ends as ↵, marks and controls as ``\\u200f``, very long ones cut.

    Spaces stay, because in running text they can be seen.
    """
    if token.isascii() and token.isprintable() and len(token) <= LONGEST_SHOWN:
        return token
    shown = "".join(_NAMED.get(character) or _escaped(character) for character in token[: LONGEST_SHOWN + 1])
    if len(token) > LONGEST_SHOWN or len(shown) > 2 * LONGEST_SHOWN:
        return f"{shown[:LONGEST_SHOWN]}… ({len(token):,} characters)"
    return shown


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    if category in _HIDDEN or (category == "Zs" and character != " "):
        return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
    return character
