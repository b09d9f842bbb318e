"""Labels in an answer: what is known to contradict comes last, and of those that fit the nearest by content first.

The one idea: a stored image's label counts where it is known, and nowhere else: images without labels stay in the
places that their distances give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from index_store.errors import UsageError
from index_store.names import quoted
from index_store.queries import Found

if TYPE_CHECKING:
    from index_store.attributes import AttributeSchema, Edit

Policy = Literal["prefer", "require", "ignore"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Labels = NDArray[np.int8]
Ids = NDArray[np.int64]
Near = Callable[[int, str, Ids], Found]
"""A search for one query: (k, filter, ids to leave out) → `Found` with one row."""


def policy_named(name: str) -> Policy:
    """UsageError for what is none of `POLICIES`."""
    if name not in POLICIES:
        raise UsageError(f"labels are one of {', '.join(POLICIES)}, not {name!r}")
    return name


def asked_labels(target: Labels, known: Sequence[Labels | None], edit: Edit | None) -> Labels:
    """What is asked for and not guessed, int8 [A] (−1: nothing): an edit's bits, and the target's where it is known.

    `known` are the labels int8 [A] of the pictures that the style is of (None: a foreign one); of several, those count
    that more than half of them are known to have.
    """
    asked = np.full(len(target), -1, np.int8)
    if known:
        agree = np.sum([np.zeros(len(target), bool) if row is None else row == target for row in known], axis=0)
        asked = np.where((2 * agree > len(known)) & (target >= 0), target, -1).astype(np.int8)
    if edit is not None:
        changed = [*edit.bits, *edit.cleared]
        asked[changed] = target[changed]
    return asked


@dataclass(frozen=True)
class LabelSearch:
    """A search that labels take part in, over attributes `names` in the order of `asked` and `sought` int8 [A].

    `sought` are the labels of the style that is sought, read off a picture where they are not known, `asked` those of
    them that are asked for (`asked_labels`); −1: none. `near` orders all images, `by_content` those that have the
    labels sought, with the distances of `near` (None: it cannot). `labels` gives the images of a filter, of
    all or of some ids: ids [n] and labels int8 [n, A].
    """

    schema: AttributeSchema
    names: Sequence[str]
    asked: Labels
    sought: Labels
    policy: Policy
    near: Near
    by_content: Callable[[int, str, Ids], Found | None] | None
    labels: Callable[[str, Ids | None], tuple[Ids, Labels]]

    def __call__(self, k: int, where: str, exclude: Ids) -> Found:
        """The k best images of a filter, with the distances of `near`; −1 and inf stand behind the last.

        With "ignore", or where no label is asked for, `near`'s answer. Else first, in order of distance, those that are
        not known to contradict what is asked for and, the fewest contradictions first, all others ("prefer"), or those
        that are known to agree with it and no others ("require"). Those that are known to have exactly the labels
        sought share the places that they have among the others in order of content.
        """
        decided = self.schema.filter(where).bits
        asked = self._bits(self.asked, decided, where)
        if self.policy == "ignore" or (self.asked < 0).all():
            return self.near(k, where, exclude)
        answer = _Answer(k, exclude)
        form, told = (
            ("{}={}", "the labels asked for") if self.policy == "require" else ("{}={}|?", "no label against it")
        )
        found = self.near(k, _narrowed(where, asked, form), exclude)
        if not any(decided.get(column, bit) != bit for column, bit in self._columns(self.sought).items()):
            found = self._by_content(found, _narrowed(where, self._bits(self.sought, decided), "{}={}"), exclude)
        answer.take(found, told)
        if answer.missing and self.policy == "prefer" and asked:
            every, labels = self.labels(where, None)
            against = ((self.asked >= 0) & (labels >= 0) & (labels != self.asked)).sum(axis=1)
            for count in np.unique(against[against > 0]).tolist():
                left_out = np.union1d(answer.left_out, every[against != count])
                answer.take(self.near(answer.missing, where, left_out), f"{count} against it")
                if not answer.missing:
                    break
        return answer.found()

    def _by_content(self, found: Found, exact: str, exclude: Ids) -> Found:
        """An answer with its images of the filter `exact` exchanged for those of that filter nearest by content."""
        there = found.ids[0][found.ids[0] >= 0]
        places = np.flatnonzero(np.isin(found.ids[0], self.labels(exact, there)[0]))
        best = self.by_content(len(places), exact, exclude) if self.by_content and len(places) else None
        if best is None:
            return found
        ids, distances = found.ids.copy(), found.distances.copy()
        ids[0, places], distances[0, places] = best.ids[0], best.distances[0]
        return Found(ids, distances, f"{found.plan}; those that fit: {best.plan}")

    def _columns(self, labels: Labels) -> dict[int, int]:
        """{column of the schema: bit} of labels int8 [A]."""
        pairs = zip(self.names, labels.tolist(), strict=True)
        return {self.schema.index(name): bit for name, bit in pairs if bit >= 0}

    def _bits(self, labels: Labels, decided: Mapping[int, int], where: str = "") -> dict[str, int]:
        """{name: bit} of labels int8 [A], beside those that the filter decides.

        Raises UsageError where labels are required that are not known, or that the filter leaves out.
        """
        columns = self._columns(labels)
        against = [column for column, bit in columns.items() if decided.get(column, bit) != bit]
        if self.policy == "require" and not columns:
            raise UsageError(
                "--labels require: no label is asked for, since those of the picture are not known: "
                "say what by --to, or by --where '+Name'"
            )
        if self.policy == "require" and where and against:
            told = f"{'+' if columns[against[0]] else '-'}{quoted(self.schema.names[against[0]])}"
            raise UsageError(f"--labels require asks for {told}, which the filter {where!r} leaves out")
        return {self.schema.names[column]: bit for column, bit in columns.items() if column not in decided}


class _Answer:
    """The images found so far, best first, of k."""

    def __init__(self, k: int, exclude: Ids) -> None:
        self._k, self._exclude = k, exclude
        self._ids, self._distances = np.empty(0, np.int64), np.empty(0, np.float32)
        self._told: list[str] = []

    @property
    def missing(self) -> int:
        """How many are still to be found."""
        return self._k - len(self._ids)

    @property
    def left_out(self) -> Ids:
        """What is not to be found any more."""
        return np.union1d(self._exclude, self._ids)

    def take(self, found: Found, what: str) -> None:
        """Put the images of a search behind those that are there."""
        new = found.ids[0] >= 0
        self._ids = np.append(self._ids, found.ids[0][new])
        self._distances = np.append(self._distances, found.distances[0][new])
        if new.any():
            self._told.append(f"{what}: {found.plan}")

    def found(self) -> Found:
        """All of them, with −1 and inf behind the last."""
        short = (0, self.missing)
        ids = np.pad(self._ids, short, constant_values=-1)[None]
        return Found(ids, np.pad(self._distances, short, constant_values=np.inf)[None], "; ".join(self._told))


def _narrowed(where: str, bits: dict[str, int], form: str) -> str:
    """A filter with further terms."""
    return " ".join([where, *(form.format(quoted(name), bit) for name, bit in bits.items())]).strip()
