"""The protocol that copying cannot win: other people's labels, other people's images as the reference.

The people of the test split are divided in halves A and B. Every image of A is to be translated to the label vector
of an image of B that differs in at least one used bit; Fréchet distances are to the images of B; guidance may look
things up among training and unlabelled images only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_store.attributes import AttributeSchema, named
from index_store.errors import RgunitError
from index_store.learned import NOBODY, left_out
from index_store.whole import write_text
from index_store.workspace import ImageTable, Workspace
from translation.guides import LOOKED_UP, ORIGINS, Pool, not_drawn
from translation.pairing import members

IDENTITY = "identity"  # the text field that says who is in an image


@dataclass(frozen=True)
class Pairs:
    """n translations to make, the same for every arm.

    `source` and `reference` int64 [n]: ids of an image of A and of the image of B that lends its labels.
    `before` and `target` int8 [n, U] in {1, 0, −1}: the used attributes of the source and what they are to become.
    `seeds` int64 [n]: for the style sample. `people` [n]: who the source shows. `others` int64 [m]: all images of B,
    `other_people` [m].
    """

    attributes: tuple[str, ...]
    source: NDArray[np.int64]
    reference: NDArray[np.int64]
    before: NDArray[np.int8]
    target: NDArray[np.int8]
    seeds: NDArray[np.int64]
    people: tuple[str, ...]
    others: NDArray[np.int64]
    other_people: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """[n, U]: attributes known before and after, and different."""
        return np.asarray((self.before >= 0) & (self.target >= 0) & (self.before != self.target))

    @property
    def kept(self) -> NDArray[np.bool_]:
        """[n, U]: attributes known before and after, and equal."""
        return np.asarray((self.before >= 0) & (self.before == self.target))

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whose influence on a distance is told: of the sources [n] and of the reference [m]."""
        return self.people, self.other_people

    def save(self, path: Path) -> None:
        """One JSON line a pair (half A) and one an image of half B, written whole; `load` reads them again.

        Of a pair: source, person, reference, before and target {name: bit or null}, changed [names], seed.
        """
        lines: list[dict[str, object]] = []
        for row, changed in enumerate(self.changed):
            lines.append(
                {
                    "half": "A",
                    "source": int(self.source[row]),
                    "person": self.people[row],
                    "reference": int(self.reference[row]),
                    "before": named(self.attributes, self.before[row]),
                    "target": named(self.attributes, self.target[row]),
                    "changed": [self.attributes[column] for column in np.flatnonzero(changed)],
                    "seed": int(self.seeds[row]),
                }
            )
        others = zip(self.others.tolist(), self.other_people, strict=True)
        lines += [{"half": "B", "image": image, "person": person} for image, person in others]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    @staticmethod
    def load(path: Path) -> Pairs:
        """The list that `save` wrote. RgunitError where the file is no such list."""
        try:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            a, b = ([line for line in lines if line["half"] == half] for half in "AB")
            attributes = tuple(str(name) for name in a[0]["target"])
            return Pairs(
                attributes=attributes,
                source=np.array([int(line["source"]) for line in a], np.int64),
                reference=np.array([int(line["reference"]) for line in a], np.int64),
                before=_bits(attributes, [line["before"] for line in a]),
                target=_bits(attributes, [line["target"] for line in a]),
                seeds=np.array([int(line["seed"]) for line in a], np.int64),
                people=tuple(str(line["person"]) for line in a),
                others=np.array([int(line["image"]) for line in b], np.int64),
                other_people=tuple(str(line["person"]) for line in b),
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise RgunitError(
                f"{path} is not a list of pairs ({type(error).__name__}: {error}): delete it, and a new one is made"
            ) from None


def _bits(attributes: Sequence[str], rows: Sequence[dict[str, int | None]]) -> NDArray[np.int8]:
    """int8 [n, U]; ValueError for anything but 1, 0 and null."""
    bits = np.array([[-1 if row[name] is None else row[name] for name in attributes] for row in rows])
    if bits.size == 0 or not np.isin(bits, (1, 0, -1)).all():
        raise ValueError("an attribute is not 1, 0 or null")
    return bits.astype(np.int8)


def kept_pairs(
    folder: Path,
    workspace: Workspace,
    attributes: AttributeSchema,
    *,
    split: str,
    limit: int,
    seed: int,
    exchanged: bool = False,
    direction: tuple[str, str] | None = None,
    learned: NDArray[np.int64] = NOBODY,
    domains: Sequence[str] = (),
) -> tuple[Pairs, bool]:
    """The list of pairs kept in `folder` for this split, number, seed and order of halves; made where there is none.

    So arms that are evaluated later, perhaps after images were added, are judged on the same pairs. True: a list was
    there but an image of it is gone (or no longer a real one of the split), so that a new one took its place.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", split)
    among = "".join(f"-{re.sub(r'[^A-Za-z0-9]', '_', one)}" for one in domains)
    path = folder / f"pairs-{name}-{limit}-{seed}{'-exchanged' if exchanged else ''}{among}.jsonl"
    stale = False
    if path.exists():
        pairs = Pairs.load(path)
        wanted = np.unique(np.concatenate([pairs.source, pairs.reference, pairs.others]))
        there = workspace.images(f"split={split} origin=real").ids
        there = there[~left_out(there, learned, split)]
        if pairs.attributes == attributes.names and np.isin(wanted, there).all():
            return pairs, False
        stale = True
    pairs = make_pairs(
        workspace,
        attributes,
        split=split,
        limit=limit,
        seed=seed,
        exchanged=exchanged,
        direction=direction,
        learned=learned,
        domains=domains,
    )
    pairs.save(path)
    return pairs, stale


def make_pairs(
    workspace: Workspace,
    attributes: AttributeSchema,
    *,
    split: str = "test",
    limit: int = 1000,
    seed: int = 0,
    exchanged: bool = False,
    direction: tuple[str, str] | None = None,
    learned: NDArray[np.int64] = NOBODY,
    domains: Sequence[str] = (),
) -> Pairs:
    """Pairs over the real images of `split`, `attributes` being the used ones; the same for the same images and seed.

    Bits that the reference does not know stay as the source has them. No image of B lends its labels a second time
    before all have. `exchanged`: the halves change their roles; of two evaluations, one so, everyone is source and
    reference. `direction`: filters of the domains that sources and references are of, for a translator that learned
    one direction. `learned`: ids that a run to be judged learned from; none is in a pair. `domains`: only images of
    which one of these attributes, and no other one in use, is true.
    RgunitError where a half is empty or too few images differ in a used bit.
    """
    table = workspace.images(f"split={split} origin=real")
    columns = workspace.schema.indices(attributes.names)
    used = table.labels[:, columns]
    among = np.isin(members(used), attributes.indices(domains)) if domains else (used >= 0).any(1)
    table = table.select(np.flatnonzero(among))
    barred = left_out(table.ids, learned, split)
    table = table.select(~barred)
    people = people_of(table)
    half = halves(people, seed) ^ exchanged
    a, b = np.flatnonzero(~half), np.flatnonzero(half)
    if direction is not None:
        sides = [np.isin(table.ids, workspace.images(f"split={split} origin=real {where}").ids) for where in direction]
        a, b = a[sides[0][a]], b[sides[1][b]]
    if len(a) < 2 or len(b) < 2:
        raise RgunitError(
            f"split {split} has {len(table)} labelled real images of {len(set(people))} people: evaluating a "
            f"translation needs 2 images in each of two halves with nobody in common; add more with --split {split}"
            f"{barred_told(barred)}"
        )
    labels = table.labels[:, columns]
    rng = np.random.default_rng(seed)
    a = np.sort(rng.permutation(a)[:limit])
    partner = _partners(labels[a], labels[b], attributes, rng)
    matched = partner >= 0
    if matched.sum() < 2:
        raise RgunitError(
            f"images of split {split} hardly differ in {', '.join(attributes.names)}: nothing to translate; "
            f"use other attributes (--attributes-used) or add images{barred_told(barred)}"
        )
    source, reference = a[matched], b[partner[matched]]
    return Pairs(
        attributes=attributes.names,
        source=table.ids[source],
        reference=table.ids[reference],
        before=labels[source],
        target=_target(labels[source], labels[reference], attributes),
        seeds=rng.integers(0, 2**31, size=len(source)),
        people=tuple(people[row] for row in source),
        others=table.ids[b],
        other_people=tuple(people[row] for row in b),
    )


def barred_told(barred: NDArray[np.bool_]) -> str:
    """What an error adds where images bool [n] were left out, "" if none was."""
    count = int(barred.sum())
    return f" ({count} are left out: the runs learned from them when they were in another split)" if count else ""


def seeds_of_samples(seed: int, count: int) -> NDArray[np.int64]:
    """Seeds int64 [count] of several translations of one pair: the first is the pair's own."""
    return (int(seed) + 7919 * np.arange(count, dtype=np.int64)) % 2**31


def people_of(table: ImageTable) -> list[str]:
    """Who each image shows: the text field `identity`, else (or where it is empty) the image by itself."""
    names = table.fields.get(IDENTITY) or [None] * len(table)
    return [f"person {name}" if name else f"image {key}" for name, key in zip(names, table.ids, strict=True)]


def halves(people: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """[n]: whether an image is in half B. Nobody is in both.

    People are taken in the order of a hash of `seed` and name, each into the half that has fewer images so far.
    """
    count = dict.fromkeys(people, 0)
    for name in people:
        count[name] += 1
    ordered = sorted(count, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    in_a, in_b = 0, 0
    side: dict[str, bool] = {}
    for name in ordered:
        side[name] = in_b < in_a
        if side[name]:
            in_b += count[name]
        else:
            in_a += count[name]
    return np.array([side[name] for name in people], dtype=bool)


def check_neighbours(
    workspace: Workspace,
    source: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    split: str = "test",
    pool: Pool = "real",
) -> None:
    """RgunitError unless neighbours [n] or [n, k] (−1 = none) are images outside `split` that may guide (`guides.py`).

    Guidance that could retrieve test images, translations, images drawn by a generator that had seen test images, or
    the source itself would answer by copying.
    """
    found = neighbours.reshape(len(source), -1)
    if (found == source[:, None]).any():
        raise RgunitError("an image was retrieved as its own neighbour: the evaluation would reward copying")
    ids = np.unique(found[found >= 0])
    table = workspace.images(ids=ids)
    origins = ORIGINS[pool].split("|")
    barred = np.isin(table.ids, not_drawn(workspace)) if pool != "real" else np.zeros(len(table), np.bool_)
    for key, where, origin, out in zip(table.ids, table.split, table.origin, barred, strict=True):
        if where == split or origin not in origins:
            raise RgunitError(
                f"image {key} ({origin}, split {where}) was retrieved in an evaluation: guidance may use only "
                f"{' and '.join(origins)} images outside split {split}"
            )
        if out:
            raise RgunitError(
                f"image {key} (generated) was retrieved in an evaluation: it is a translation, or its generator "
                f"learned from images outside split {LOOKED_UP}"
            )


def _partners(
    before: NDArray[np.int8], labels: NDArray[np.int8], attributes: AttributeSchema, rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each row of `before` [n, U] a row of `labels` [m, U] that changes a bit, −1 where none does.

    A random order of the m rows, repeated as needed; a row that would change nothing swaps with another pair where
    that suits both, else takes any row that suits it.
    """
    n, m = len(before), len(labels)
    partner = np.concatenate([rng.permutation(m) for _ in range(-(-n // m))])[:n]

    def differs(rows: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.bool_]:
        after = _target(before[rows], labels[of], attributes)
        return np.asarray(((before[rows] >= 0) & (after >= 0) & (before[rows] != after)).any(1))

    everyone = np.arange(n)
    for row in np.flatnonzero(~differs(everyone, partner)):
        mine = np.full(n, partner[row])
        good = np.flatnonzero(differs(np.full(n, row), partner) & differs(everyone, mine))
        if len(good):
            other = rng.choice(good)
            partner[row], partner[other] = partner[other], partner[row]
            continue
        any_row = np.flatnonzero(differs(np.full(m, row), np.arange(m)))
        partner[row] = rng.choice(any_row) if len(any_row) else -1
    return partner


def _target(before: NDArray[np.int8], reference: NDArray[np.int8], attributes: AttributeSchema) -> NDArray[np.int8]:
    """The reference's labels [n, U], the source's own where unknown; a member of a group turned on clears the rest."""
    after = np.where(reference >= 0, reference, before)
    for group in attributes.groups:
        members = attributes.indices(group)
        lent = (reference[:, members] == 1).any(1, keepdims=True) & (reference[:, members] < 0)
        after[:, members] = np.where(lent, 0, after[:, members])
    return after.astype(np.int8)
