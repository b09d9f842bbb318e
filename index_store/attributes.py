"""Attribute names, exclusive groups, and the small language of edits and filters.

The one idea: labels are int8 in {1 true, 0 false, -1 unknown}, and a row of labels packs into two bit masks
(known, value). This module is the only place that knows the syntax `+Blond_Hair -Male split=test id=17|18`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from index_store.errors import UnknownAttribute, UsageError
from index_store.names import QUOTED, listed_names, quoted, same, split_meant, unquoted

ORIGINS = ("real", "unlabelled", "generated")
RESERVED = ("split", "origin")
KEYS = (*RESERVED, "id")
"""What a filter asks for as `name=value` beside attributes. `id` is no reserved name: older workspaces may have it."""

Labels = npt.NDArray[np.int8]
Bits = npt.NDArray[np.uint8]

_NAME = rf'(?P<quoted>{QUOTED})|(?P<plain>[^\s,="+?-][^\s,="]*)'
_EITHER = re.compile(r"(?P<bit>[01])\|\?|\?\|(?P<last>[01])")
_TERM = re.compile(rf"(?P<sign>[-+?]?)(?:{_NAME})(?:=(?:(?P<quoted_value>{QUOTED})|(?P<value>[^\s,\"]*)))?")


@dataclass(frozen=True)
class Edit:
    """A change of labels: `bits` maps attribute index to 0 or 1, `cleared` are the group members that `+X` ends."""

    bits: Mapping[int, int]
    cleared: tuple[int, ...] = ()
    text: str = ""

    def apply(self, labels: Labels) -> Labels:
        """Return int8 [..., A] with the edit made; bits that it does not name stay as they are."""
        edited = np.array(labels, dtype=np.int8, copy=True)
        edited[..., list(self.cleared)] = 0
        for index, bit in self.bits.items():
            edited[..., index] = bit
        return edited


@dataclass(frozen=True)
class Filter:
    """Which rows to keep: `bits` maps attribute index to 1 (known true), 0 (known false) or -1 (unknown).

    `maybe` maps one to 1 or 0 that it is, or unknown. `split`, `origin` and `ids` name the values that are kept; None
    keeps all.
    """

    bits: Mapping[int, int] = field(default_factory=dict)
    split: frozenset[str] | None = None
    origin: frozenset[str] | None = None
    ids: frozenset[int] | None = None
    text: str = ""
    maybe: Mapping[int, int] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Whether every row passes."""
        return not self.bits and not self.maybe and self.split is None and self.origin is None and self.ids is None

    def masks(self, width: int) -> tuple[Bits, Bits, Bits]:
        """Return uint8 [width] byte masks (bits that must be known, their values, bits that must be unknown)."""
        known, value, unknown = (np.zeros(width, np.uint8) for _ in range(3))
        for index, bit in self.bits.items():
            byte, place = index // 8, np.uint8(1 << index % 8)
            if bit < 0:
                unknown[byte] |= place
            else:
                known[byte] |= place
                if bit:
                    value[byte] |= place
        return known, value, unknown

    def match_bits(self, known: Bits, value: Bits) -> npt.NDArray[np.bool_]:
        """Return bool [n]: which rows of the packed labels uint8 [n, B] pass (by their labels alone)."""
        keep = np.ones(len(known), np.bool_)
        for byte, (must, truth, unknown) in enumerate(zip(*self.masks(known.shape[1]), strict=True)):
            if must or unknown:
                column = known[:, byte] & (must | unknown) if unknown else known[:, byte] & must
                keep &= column == must
            if must:
                keep &= (value[:, byte] & must) == truth
        for index, bit in self.maybe.items():
            byte, place = index // 8, np.uint8(1 << index % 8)
            other = ~value[:, byte] if bit else value[:, byte]
            keep &= (known[:, byte] & other & place) == 0
        return keep

    def match_labels(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Return bool [n]: which rows of labels int8 [n, A] pass (by their labels alone)."""
        keep = np.ones(len(labels), np.bool_)
        for index, bit in self.bits.items():
            keep &= labels[:, index] == bit
        for index, bit in self.maybe.items():
            keep &= labels[:, index] != 1 - bit
        return keep

    def match_ids(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return bool [n]: which of the ids int64 [n] pass (by `ids` alone)."""
        if self.ids is None:
            return np.ones(len(ids), np.bool_)
        largest = np.iinfo(np.int64).max
        return np.isin(ids, np.array(sorted(one for one in self.ids if one <= largest), np.int64))


@dataclass(frozen=True)
class AttributeSchema:
    """Attribute names in column order, and groups of which at most one member is meant to be true."""

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in self.names:
            if same(name) in seen or not name.strip() or name in RESERVED:
                why = "is reserved" if name in RESERVED else "is there twice" if name.strip() else "is no name"
                raise UsageError(f"attribute {name!r} {why}: every attribute needs its own name")
            seen.add(same(name))
        for group in self.groups:
            if len(group) < 2 or len(set(group)) != len(group):
                raise UsageError(f"group {'|'.join(group)!r} needs at least two different attributes")
            self.indices(group)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def width(self) -> int:
        """Bytes of a packed mask."""
        return (len(self.names) + 7) // 8

    def index(self, name: str, keys: Sequence[str] = ()) -> int:
        """Return the column of an attribute; `UnknownAttribute` offers the nearest names, also of `keys`."""
        try:
            return self.names.index(name)
        except ValueError:
            for place, other in enumerate(self.names):
                if same(other) in (same(name), same(unquoted(name))):
                    return place
            lower = {other.lower(): other for other in (*keys, *self.names)}
            near = [lower[hit] for hit in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
            if near:
                hint = f"did you mean {' or '.join(map(quoted, near))}?"
            elif self.names:
                more = ", …" if len(self.names) > 12 else ""
                hint = f"there are {', '.join(map(quoted, self.names[:12]))}{more}"
            else:
                hint = "the workspace has no attributes"
            raise UnknownAttribute(f"unknown attribute {name!r}: {hint}") from None

    def indices(self, names: Sequence[str]) -> list[int]:
        """Return the columns of several attributes, in the order given."""
        return [self.index(name) for name in names]

    def subset(self, names: Sequence[str]) -> AttributeSchema:
        """Return the schema of some attributes in the order given; groups keep what is left, if two or more are."""
        names = [self.names[column] for column in self.indices(names)]
        groups = (tuple(name for name in group if name in names) for group in self.groups)
        return AttributeSchema(tuple(names), tuple(group for group in groups if len(group) > 1))

    def extend(self, names: Sequence[str], groups: Sequence[Sequence[str]] = ()) -> AttributeSchema:
        """Return the schema with new attributes and groups appended; what is there already stays as it is."""
        known = {same(name): name for name in reversed(self.names)}
        fresh = tuple(name for name in names if known.setdefault(same(name), name) == name and name not in self.names)
        merged = list(self.groups)
        for group in (tuple(known.get(same(name), name) for name in group) for group in groups):
            if not any(set(group) == set(other) for other in merged):
                merged.append(group)
        return AttributeSchema(self.names + fresh, tuple(merged))

    def rivals(self, index: int) -> tuple[int, ...]:
        """Return the other members of the groups that an attribute belongs to."""
        name = self.names[index]
        others = {other for group in self.groups if name in group for other in group if other != name}
        return tuple(sorted(self.names.index(other) for other in others))

    def edit(self, text: str) -> Edit:
        """Parse `+Blond_Hair -Male` or `Blond_Hair=1,Male=0`; contradictions and empty edits raise `UsageError`."""
        bits: dict[int, int] = {}
        for sign, name, value in _terms(text, "edit"):
            if sign == "?" or value == "?":
                raise UsageError(f"edit {text!r}: an edit sets or clears, it cannot ask for unknown ({quoted(name)})")
            bit = _bit(text, sign, name, value, "edit")
            index = self.index(name)
            if bits.setdefault(index, bit) != bit:
                raise UsageError(f"edit {text!r} contradicts itself: {quoted(name)} is both set and cleared")
        if not bits:
            raise UsageError(
                "the edit is empty: name at least one attribute, for example "
                f"'+{quoted(self.names[0]) if self.names else 'Name'}'"
            )
        cleared: set[int] = set()
        for index, bit in bits.items():
            if bit:
                rivals = self.rivals(index)
                both = [self.names[rival] for rival in rivals if bits.get(rival) == 1]
                if both:
                    raise UsageError(
                        f"edit {text!r} contradicts itself: {quoted(self.names[index])} and {quoted(both[0])} "
                        "exclude each other"
                    )
                cleared.update(rivals)
        return Edit(bits, tuple(sorted(cleared - set(bits))), text)

    def filter(self, text: str | None) -> Filter:
        """Parse `+A -B ?C D=1|? split=test origin=real|unlabelled id=17|18`; empty keeps everything.

        `D=1|?` keeps what is true or unknown. Raises UsageError for a contradiction, an unknown origin, an id that is
        no number; an id that no image has keeps nothing.
        """
        bits: dict[int, int] = {}
        maybe: dict[int, set[int]] = {}
        choices: dict[str, frozenset[str]] = {}
        for sign, name, value in _terms(text or "", "filter"):
            if name in KEYS and not sign and value is not None:
                wanted = frozenset(part.strip() for part in value.split("|") if part.strip())
                if not wanted:
                    raise UsageError(f"filter {text!r}: {name}= needs a value")
                strange = sorted(wanted - set(ORIGINS)) if name == "origin" else []
                if strange:
                    raise UsageError(f"filter {text!r}: unknown origin {strange[0]!r}, there are {', '.join(ORIGINS)}")
                if name == "id":
                    wanted = frozenset(str(_id(text or "", part)) for part in wanted)
                if name == "split":  # a word of another tool means ours, and itself where it was typed as a name
                    wanted |= {split_meant(part) or part for part in wanted}
                if not (wanted := choices.get(name, wanted) & wanted):
                    raise UsageError(f"filter {text!r} contradicts itself: two values of {name}")
                choices[name] = wanted
                continue
            if "id" in choices and not sign and value is None and name.isdecimal():
                several = "|".join((*sorted(choices["id"]), name))
                raise UsageError(f"filter {text!r}: several ids are written id={several}")
            column = self.index(name, KEYS if not sign else ())
            if not sign and value is not None and (either := _EITHER.fullmatch(value)):
                maybe.setdefault(column, set()).add(int(either["bit"] or either["last"]))
                continue
            bit = -1 if sign == "?" or (not sign and value == "?") else _bit(text or "", sign, name, value, "filter")
            if bits.setdefault(column, bit) != bit:
                raise UsageError(f"filter {text!r} contradicts itself: two values of {name}")
        for index, either_bits in maybe.items():
            if len(either_bits) > 1:  # true or unknown, and false or unknown
                either_bits.clear()
                bits.setdefault(index, -1)
            if bits.get(index, -1) >= 0 and bits[index] not in either_bits:
                raise UsageError(f"filter {text!r} contradicts itself: two values of {self.names[index]}")
        open_bits = {index: either_bits.pop() for index, either_bits in maybe.items() if index not in bits}
        ids = frozenset(map(int, choices["id"])) if "id" in choices else None
        return Filter(bits, choices.get("split"), choices.get("origin"), ids, (text or "").strip(), open_bits)

    def terms(self, labels: npt.ArrayLike) -> str:
        """Return the filter for images whose known labels are those of one row int8 [A]; −1 asks for nothing."""
        named = zip(self.names, np.asarray(labels).tolist(), strict=True)
        return " ".join(f"{'+' if bit else '-'}{quoted(name)}" for name, bit in named if bit >= 0)

    def pack(self, labels: npt.ArrayLike) -> tuple[Bits, Bits]:
        """Pack int8 [n, A] in {1, 0, -1} into (known, value), each uint8 [n, ceil(A / 8)], low bit first."""
        array = np.asarray(labels)
        if array.ndim != 2 or array.shape[1] != len(self.names):
            raise UsageError(f"labels have shape {list(array.shape)}: needed is [n, {len(self.names)}]")
        if array.size and not np.isin(array, (-1, 0, 1)).all():
            raise UsageError("labels must be 1 (true), 0 (false) or -1 (unknown)")
        return (
            np.packbits(array != -1, axis=1, bitorder="little"),
            np.packbits(array == 1, axis=1, bitorder="little"),
        )

    def unpack(self, known: Bits, value: Bits) -> Labels:
        """Undo `pack`: return int8 [n, A]."""
        count = len(self.names)
        if count == 0:
            return np.zeros((len(known), 0), np.int8)
        truth = np.unpackbits(value, axis=1, count=count, bitorder="little").view(np.int8)
        told = np.unpackbits(known, axis=1, count=count, bitorder="little").view(np.int8)
        return np.asarray(np.where(told, truth, np.int8(-1)), np.int8)

    def violations(self, labels: Labels) -> int:
        """Count the rows of int8 [n, A] that have more than one member of a group true."""
        broken = np.zeros(len(labels), np.bool_)
        for group in self.groups:
            broken |= (labels[:, self.indices(group)] == 1).sum(axis=1) > 1
        return int(broken.sum())

    def describe(self, labels: Labels) -> dict[str, int | None]:
        """Return {name: 1, 0 or None} of one row int8 [A]."""
        return named(self.names, labels)


def named(names: Sequence[str], labels: Labels) -> dict[str, int | None]:
    """A row of labels int8 [A] as {name: 1, 0, or None where it is not known}."""
    return {name: None if bit < 0 else int(bit) for name, bit in zip(names, labels, strict=True)}


def parse_group(text: str) -> tuple[str, ...]:
    """Split `Black_Hair|"Fair, blond"` into its names."""
    return listed_names(text, "|")


def _terms(text: str, what: str) -> list[tuple[str, str, str | None]]:
    """Split a text into (sign, name, value or None)."""
    terms: list[tuple[str, str, str | None]] = []
    position = 0
    while True:
        while position < len(text) and (text[position].isspace() or text[position] == ","):
            position += 1
        if position >= len(text):
            return terms
        match = _TERM.match(text, position)
        end = match.end() if match else position
        if not match or (end < len(text) and not text[end].isspace() and text[end] != ","):
            raise UsageError(
                f"cannot read {what} {text!r} at {text[position:]!r}: "
                "write terms like +Name -Name Name=1, with double quotes around names that are no plain words"
            )
        name = unquoted(match["quoted"]) if match["quoted"] is not None else match["plain"]
        value = unquoted(match["quoted_value"]) if match["quoted_value"] is not None else match["value"]
        terms.append((match["sign"], name, value))
        position = end


def _id(text: str, value: str) -> int:
    """Return the number of an image that a filter names."""
    if not (value.isascii() and value.isdecimal()):
        raise UsageError(f"filter {text!r}: {value!r} is no image id: an id is a whole number, as in id=17 or id=17|18")
    return int(value.lstrip("0")[:20] or "0")  # 20 digits are more than any id has


def _bit(text: str, sign: str, name: str, value: str | None, what: str) -> int:
    """Return the 0 or 1 that a term asks for."""
    if sign and value is None:
        return int(sign == "+")
    if not sign and value in ("0", "1"):
        return int(value)
    raise UsageError(
        f"cannot read {what} {text!r}: write +{quoted(name)} or {quoted(name)}=1 for true, "
        f"-{quoted(name)} or {quoted(name)}=0 for false"
    )
