"""How names are written: attributes in edits, filters and lists, and the words that other tools have for splits.

The one idea: a name in quotes is that name, whatever it holds (a quote in it is written twice), and NFC and NFD
spellings are one name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from index_store.errors import UsageError

QUOTED = r'"(?:[^"]|"")*"'
_PART = r"\s*(?:" + QUOTED + r'\s*|[^"{0}][^{0}]*|)'
_PLAIN = re.compile(r"\w[\w.-]*")

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What other tools call splits, in lower case, and what it means."""
SPLIT_NUMBERS = {"0": "train", "1": "val", "2": "test"}  # CelebA's


def same(name: str) -> str:
    """A name in the one spelling (NFC) that names are compared in."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Whether a file's name, which may be any bytes, is text that can be written down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file's name with those of its bytes that are no text written as their numbers."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_plain(name: str) -> bool:
    """Whether a name is a plain word: letters, digits and . _ -, which no option has to quote."""
    return bool(_PLAIN.fullmatch(name))


def quoted(name: str) -> str:
    """An attribute's name as every option takes it: in quotes unless it is a plain word."""
    return name if is_plain(name) else '"' + name.replace('"', '""') + '"'


def unquoted(text: str) -> str:
    """Undo `quoted`, spaces around it left out."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def listed_names(text: str | None, separator: str = ",") -> tuple[str, ...]:
    """The names in `A,"B, C",D`; what is in quotes is not split. UsageError where a quote is not closed."""
    names, rest = [], (text or "").strip()
    part = re.compile(_PART.replace("{0}", re.escape(separator)))
    while rest:
        found = part.match(rest)
        end = found.end() if found else 0
        if end < len(rest) and rest[end] != separator:
            raise UsageError(f"cannot read {text!r} at {rest[end:]!r}: a name in quotes ends with its second quote")
        names.append(unquoted(rest[:end]))
        rest = rest[end + 1 :]
    return tuple(name for name in names if name)


def split_meant(word: str) -> str | None:
    """The split that a word means (`Training`, `VALID`, `dev`), None if it is none of those that are known."""
    return SPLIT_WORDS.get(word.strip().lower())


def typed_split(text: str) -> str:
    """The split of `--split NAME`: any plain name; a known word in another spelling is what it means."""
    name = text.strip()
    if not is_plain(name):
        raise UsageError(f"--split {text!r}: write a plain name, of letters, digits and . _ - (train, held, 2024-03)")
    return split_meant(name) or name


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{section.key: value} of nested settings, in their order."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
