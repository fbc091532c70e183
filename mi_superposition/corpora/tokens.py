"""Tokens as text a person can read: every byte shows, nothing hides."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mi_superposition.files import text_hash
from mi_superposition.runs import WHOLE

# A longer token is cut here.
LONGEST_SHOWN = 80
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# As a byte is shown that is no whole character, and not as a text is that looks the same.
_BYTE = re.compile(r"(?<!\\)\\x([0-9a-f]{2})")
# Zero-width non-joiner and joiner: letters of many scripts and emoji are written with them.
_JOINERS = "\u200c\u200d"


def tokenizer_identity(tokenizer: Any) -> dict[str, str] | None:
    """What a run folder records of a tokenizer, ``None`` without one: SHA-256 of its vocabulary, and of what else decides which tokens a text has.

    Runs of version 0.1 have the first alone: a tokenizer with other merges or another normaliser can have the same vocabulary.
    """
    if tokenizer is None:
        return None
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        model = getattr(getattr(tokenizer, "sp_model", None), "serialized_model_proto", lambda: b"")()
        whole = [type(tokenizer).__name__, vocabulary, hashlib.sha256(model).hexdigest()]
    else:
        # What decides which tokens a text has; how it is written down is the library's, and changes with its version.
        state = json.loads(backend.to_str())
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["model"].get("merges") or ()]
        # The pieces of a unigram model have scores, which its vocabulary leaves out.
        scored = state["model"]["vocab"] if isinstance(state["model"].get("vocab"), list) else []
        whole = [json.dumps([merges, scored, state["normalizer"], state["pre_tokenizer"]], sort_keys=True)]
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return {"sha256": text_hash([vocabulary]), WHOLE: text_hash([*whole, special])}


def token_strings(tokenizer: PreTrainedTokenizerBase | None, d_vocab: int) -> list[str]:
    """What each of ``d_vocab`` tokens stands for, by its number; a byte that is no whole character as ``\\xe2``, and a text that looks
    the same with one backslash more.

    A number without a token, as models have that round their vocabulary up or came without a tokenizer, gives ``<12>``.
    """
    if tokenizer is None:
        return [f"<{number}>" for number in range(d_vocab)]
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
            strings.append(_decoded(bytes(to_byte[character] for character in name)))
        elif match := _BYTE_TOKEN.fullmatch(name):
            strings.append(_decoded(bytes([int(match[1], 16)])))
        else:
            # SentencePiece's sign for a space.
            strings.append(_BYTE.sub(r"\\\g<0>", name.replace("\u2581", " ")))
    return strings


def _decoded(token: bytes) -> str:
    # Bytes that are no text become surrogates, which no text has.
    text = token.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", _BYTE.sub(r"\\\g<0>", text))


def visible_tokens(tokenizer: PreTrainedTokenizerBase | None, d_vocab: int) -> list[str]:
    """``token_strings`` as they are shown: see ``visible``."""
    return [visible(string) for string in token_strings(tokenizer, d_vocab)]


def running_text(tokens: Sequence[str]) -> list[str]:
    """Tokens of a text as they read one after the other: a character that is made of several tokens stands in the first of them, and
    the others are empty.

    ``tokens`` are those of ``visible_tokens``. Bytes that make no character stay escaped.
    """
    if not any("\\x" in token for token in tokens):
        return list(tokens)
    shown = [""] * len(tokens)
    # Bytes that may become a character, each with the number of its token.
    waiting: list[tuple[int, int]] = []

    def release() -> None:
        for byte, at in waiting:
            shown[at] += f"\\x{byte:02x}"
        waiting.clear()

    for at, token in enumerate(tokens):
        # A text, a byte, a text, …
        for number, part in enumerate(_BYTE.split(token)):
            if number % 2 == 0:
                if part:
                    release()
                    shown[at] += part
                continue
            byte = int(part, 16)
            if waiting and not 0x80 <= byte < 0xC0:
                release()
            waiting.append((byte, at))
            character = bytes(byte for byte, _ in waiting).decode("utf-8", "ignore")
            if character:
                first = waiting[0][1]
                waiting.clear()
                shown[first] += (
                    character if character in _JOINERS and _joins(shown[: first + 1]) else visible(character)
                )
            elif len(waiting) >= 4:
                release()
    release()
    return shown


def _joins(before: Sequence[str]) -> bool:
    """Whether a joiner has something to join."""
    last = next((token[-1] for token in reversed(before) if token), "")
    return not last.isascii()


def whole_characters(tokens: Sequence[str]) -> list[tuple[str, range]]:
    """Tokens of ``running_text`` with those together that make one character: the text, and the positions of its tokens."""
    starts = [at for at, token in enumerate(tokens) if token or at == 0]
    ends = [*starts[1:], len(tokens)]
    return [(tokens[start], range(start, end)) for start, end in zip(starts, ends, strict=bool(starts))]


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
