"""What is asked of a run in use: checked against what it can do, then made a picture at a time.

A picture that is in the workspace (by path or bytes) keeps its known labels and is never its own neighbour; a foreign
one works like it, its labels read off its style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.attributes import Edit
from index_store.decoding import SMALLEST_SIDE
from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.images import Pixels, prepare, read_image
from index_store.names import is_text, printable, quoted
from index_store.workspace import RunRecord, Workspace
from retrieval.composing import style_edit
from retrieval.pictures import Picture, Source
from retrieval.queries import ComposedQuery, compose
from retrieval.retriever import Retriever
from retrieval.tensors import to_pixels, to_tensor
from translation.agreement import agreement_of
from translation.anysize import scaled, smallest_limit, translate_any_size
from translation.framing import Box, Framing
from translation.guides import guide_filter
from translation.indexing import neighbour_table, open_retriever, require_index
from translation.methods import Joins
from translation.neighbours import Neighbours
from translation.runs import direction_of, target_of
from translation.translator import Translator


def picture_key(pixels: Pixels) -> int:
    """A number that a picture always gets, whatever it is called and whatever is beside it."""
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")


def neighbour_rows(workspace: Workspace, made: Made) -> list[dict[str, Any]]:
    """The images that guided a translation, nearest first: image_id, path, origin, distance (None: drawn at random)."""
    known = neighbour_table(workspace, made.ids)
    far = [None] * made.ids.shape[1] if made.distances is None else [float(f"{d:.6g}") for d in made.distances[0]]
    return [{**known[int(i)], "distance": d} for i, d in zip(made.ids[0], far, strict=True)]


class Read(NamedTuple):
    """A picture, its pixels [size, size, 3], those in its own size [H, W, 3], and which part the square is."""

    picture: Picture
    square: Pixels
    own: Pixels
    part: Box | None = None


class Made(NamedTuple):
    """What a picture became, with its mask if there is one, the labels aimed at, and the neighbours' ids [1, k] and
    distances."""

    pixels: Pixels
    mask: Pixels | None
    target: dict[str, int | None]
    ids: NDArray[np.int64]
    distances: NDArray[np.float32] | None


@dataclass(frozen=True)
class Work:
    """What all pictures are translated with."""

    workspace: Workspace
    translator: Translator
    edit: Edit | None
    goal: Edit | None
    other: Read | None
    guides: Neighbours | None
    strength: float
    size: int | None
    max_pixels: int | None
    seed: int
    source: Edit | None = None
    framing: Framing = field(default_factory=Framing)
    about: str = ""
    """What was asked for, as text: with the same a picture becomes the same."""

    def key(self, read: Read, sample: int) -> str:
        """What a translation is known by that was made of the same picture in the same way."""
        return hashlib.sha256(f"{self.about} {picture_key(read.own)} {sample}".encode()).hexdigest()[:32]

    def read(self, source: Source | Picture) -> Read:
        """Decode a picture, once. ImageRefused with the reason."""
        if isinstance(source, str | Path) and not is_text(str(source)):
            raise ImageRefused(f"{printable(str(source))}: its name is not UTF-8: rename it")
        picture, side = Picture.of(self.workspace, source), self.translator.size
        place = picture.source
        name = str(place) if isinstance(place, str | Path) else "the picture"
        pixels = read_image(place, white=picture.white) if isinstance(place, str | Path) else prepare(place, name=name)
        if self.translator.style_dim:
            part = self.framing.part(pixels, name)
            return Read(picture, self.framing.square(pixels, side), pixels, part)
        own = pixels if self.size is None else scaled(pixels, self.size, name)
        return Read(picture, prepare(pixels, size=side, name=name), own)

    def translate(self, read: Read, sample: int) -> Made:
        """Sample `sample` of a picture. What is drawn depends on the picture, not on those beside it."""
        return self._make(read, self._composed(read, sample), sample)

    def strip(self, other: Work, read: Read, steps: int) -> list[Made]:
        """The way from this work's style of a picture to the other's in equal steps, both ends among them.

        Each step has its own neighbours, those of the style that it is in; its labels are those of the nearer end.
        UsageError of a run that has no style.
        """
        if not self.translator.style_dim:
            assert self.translator.run is not None
            raise UsageError(f"run {self.translator.run.id} has no style, so there is nothing between two of them")
        first, last = self._composed(read, 0), other._composed(read, 0)
        made = []
        for share in np.linspace(0, 1, steps):
            near = first if share < 0.5 else last
            style = torch.lerp(first.style, last.style, float(share))
            made.append(self._make(read, replace(near, style=style), 0))
        return made

    def _known(self, read: Read) -> NDArray[np.int8] | None:
        """The labels of a picture, as they are known or said."""
        if self.source is not None:
            return self.source.apply(np.zeros(len(self.translator.schema.names), np.int8))
        return read.picture.labels(self.workspace, self.translator.schema)

    def _told(self, read: Read) -> Translator:
        """The translator for a picture: of an encoder a domain, that of the picture's."""
        if not isinstance(self.translator.method, Joins):
            return self.translator
        known = self._known(read)
        labels = np.full(len(self.translator.schema.names), -1, np.int8) if known is None else known
        return self.translator.told(torch.from_numpy(labels)[None])

    def _drawn(self, read: Read, sample: int) -> list[int]:
        """What the draws of a sample are seeded by."""
        return [self.seed, picture_key(read.square), sample]

    def _composed(self, read: Read, sample: int) -> ComposedQuery:
        """The content of a picture and the style that its sample is to have."""
        known, draw = self._known(read), None
        if self.edit is not None:
            state = np.random.SeedSequence(self._drawn(read, sample)).generate_state(1)
            draw = torch.Generator().manual_seed(int(state[0]))
        translator = self._told(read)
        return compose(
            translator,
            read.square,
            edit=self.edit,
            style_of=self.other.square if self.other else None,
            known_labels=known,
            style_of_labels=self.other.picture.labels(self.workspace, translator.schema) if self.other else None,
            generator=draw,
        )

    def _make(self, read: Read, query: ComposedQuery, sample: int) -> Made:
        """The picture in a style, guided by neighbours of both."""
        translator = self._told(read)
        images = to_tensor(read.square[None], translator.device)
        ids, far, guide, style = np.empty((1, 0), np.int64), None, None, query.style
        if self.guides is not None:
            own = np.array([-1 if read.picture.image_id is None else read.picture.image_id], np.int64)
            rng = np.random.default_rng(self._drawn(read, sample))
            ids, far = self.guides.found(query.content, query.style, own, [rng], images)
            guide, style = self.guides.guide(translator, ids, style, self.strength)
        target = translator.schema.describe(query.target if self.goal is None else self.goal.apply(query.target))
        if not translator.style_dim:
            return Made(translate_any_size(translator, read.own, guide, most=self.max_pixels), None, target, ids, far)
        made = translator.translate(images, query.content, style, guide=guide)
        mask = None
        if made.mask is not None:
            square = to_pixels(made.mask.mul(2).sub(1).expand(-1, 3, -1, -1))[0]
            mask = self.framing.back(square, np.zeros_like(read.own))
        return Made(self.framing.back(to_pixels(made.image)[0], read.own), mask, target, ids, far)


def prepare_work(
    workspace: Workspace,
    translator: Translator,
    *,
    to: str | None,
    style_of: Source | Picture | None,
    samples: int,
    guidance: float | None,
    k: int | None,
    size: int | None,
    max_pixels: int | None,
    framing: Framing | None,
    seed: int,
    source: str | None = None,
    guides: Callable[[int], Neighbours] | None = None,
) -> Work:
    """Check what is asked for against what the run can do. UsageError or RgunitError names what cannot be done.

    `guides` gives what looks up so many neighbours; by default it is opened as the run was trained (`open_guides`).
    """
    assert translator.run is not None
    if not translator.style_dim:
        _check_direction(translator, to, style_of)
        to = None
    elif to is None and style_of is None:
        raise UsageError(
            "a translation needs an edit (--to '+Blond_Hair') or a picture to take the style of (--style-of)"
        )
    joins = isinstance(translator.method, Joins)
    if joins and style_of is not None:
        raise UsageError(f"run {translator.run.id} ({translator.config.method}) has domains and no styles: use --to")
    if source is not None and not joins:
        raise UsageError(
            f"--source says of which domain the pictures are, and run {translator.run.id} "
            f"({translator.config.method}) has one encoder for all: leave it out"
        )
    if joins and samples > 1:
        raise UsageError(
            f"run {translator.run.id} ({translator.config.method}) draws nothing, so every sample would be the same: "
            "leave --samples out"
        )
    if samples < 1:
        raise UsageError(f"--samples must be at least 1, not {samples}")
    if samples > 1 and not translator.style_dim:
        raise UsageError(
            f"run {translator.run.id} ({translator.config.method}) draws no styles, so every sample would be the same: "
            "leave --samples out"
        )
    if to is None and samples > 1 and translator.style_dim:
        raise UsageError("--style-of alone gives one style, so --samples must be 1: add --to to sample")
    if guidance is not None and not 0 <= guidance <= 1:
        raise UsageError(f"--guidance must lie in 0 … 1, not {guidance:g}")
    if k is not None and k < 1:
        raise UsageError(f"-k must be at least 1, not {k}: --guidance 0 translates without neighbours")
    _check_sizes(translator, size, max_pixels, framing)
    edit = style_edit(workspace, translator, to) if to is not None else None
    strength = (1.0 if translator.neighbours else 0.0) if guidance is None else guidance
    if strength and lacks_collection(workspace, translator.run):
        if guidance is not None:
            raise RgunitError(
                f"run {translator.run.id} was imported without a collection, so nothing can guide it: leave --guidance "
                "out, or add images and run `rgunit index build`"
            )
        strength = 0.0
    if strength and not translator.neighbours:
        raise RgunitError(
            f"run {translator.run.id} was trained without neighbours, so it cannot be guided: "
            "name a guided run with --run, or leave --guidance out"
        )
    if k is not None and not strength:
        why = "--guidance is 0" if translator.neighbours else f"run {translator.run.id} was trained without neighbours"
        raise UsageError(f"-k says how many neighbours guide, but {why}: leave -k out")
    if k is not None and translator.takes not in (None, k):
        raise UsageError(
            f"run {translator.run.id} is guided by exactly {translator.takes} neighbours, not {k}: leave -k out, "
            "or train with --set guided.guidance=attention or patches, which take any number"
        )
    count = k or translator.neighbours
    found = None
    if strength:
        found = open_guides(workspace, translator, count) if guides is None else guides(count)
    own = None if source is None else _source(workspace, translator, source)
    work = Work(workspace, translator, edit, _goal(translator), None, found, strength, size, max_pixels, seed, own)
    if style_of is not None:
        work = replace(work, other=work.read(style_of))
    style = None if work.other is None else picture_key(work.other.square)
    run, pool = translator.run, 0 if found is None else len(found.pool)
    asked = (run.id, run.steps, run.seconds, edit and edit.text, style, strength, k, pool, size, framing, seed, source)
    return replace(work, framing=framing or Framing(), about=repr(asked))


def lacks_collection(workspace: Workspace, run: RunRecord) -> bool:
    """Whether a run was imported into a workspace in which nothing is that may guide."""
    return "imported" in run.config and not len(workspace.images(f"{guide_filter('real')} {target_of(run)}".strip()))


def _source(workspace: Workspace, translator: Translator, text: str) -> Edit:
    """The domain that pictures are said to be of, by its name or as an edit (+NAME)."""
    name = text if text.startswith(("+", "-", '"')) or "=" in text else f"+{quoted(text)}"
    edit = style_edit(workspace, translator, name)
    if list(edit.bits.values()) != [1]:
        domains = ", ".join(map(quoted, translator.schema.names))
        raise UsageError(f"--source {text!r} is no domain: give one of {domains}")
    return edit


def _check_sizes(
    translator: Translator, size: int | None, max_pixels: int | None, framing: Framing | None = None
) -> None:
    """UsageError for sizes that a run cannot give."""
    assert translator.run is not None
    if framing is not None and framing.box is not None and framing.fit:
        raise UsageError("--box takes a part of the picture and --fit all of it: give one of them")
    if framing is not None and framing != Framing() and not translator.style_dim:
        raise UsageError(
            f"run {translator.run.id} ({translator.config.method}) translates whole pictures of any shape: leave "
            f"{'--fit' if framing.fit else '--box'} out"
        )
    for name, value in (("--size", size), ("--max-pixels", max_pixels)):
        if value is not None and translator.style_dim:
            raise UsageError(
                f"run {translator.run.id} ({translator.config.method}) translates squares of {translator.size} pixels, "
                f"so {name} changes nothing: leave it out"
            )
    if size is not None and size < SMALLEST_SIDE:
        raise UsageError(f"--size must be at least {SMALLEST_SIDE}, not {size}")
    if max_pixels is not None and max_pixels < smallest_limit(translator):
        raise UsageError(
            f"--max-pixels must be at least {smallest_limit(translator)} for run {translator.run.id}, not "
            f"{max_pixels}: a tile must see what is around it"
        )


def _check_direction(translator: Translator, to: str | None, style_of: Source | Picture | None) -> None:
    """UsageError where what is asked for is not the one direction that the run has learned."""
    assert translator.run is not None
    source, target = direction_of(translator.run) or ("", "")
    if style_of is not None or (to is not None and to.strip() != target):
        asked = "--style-of" if style_of is not None else f"--to {to!r}"
        raise UsageError(
            f"run {translator.run.id} ({translator.config.method}) translates {source!r} to "
            f"{target!r} and nothing else, so {asked} cannot be done: leave it out"
        )


def _goal(translator: Translator) -> Edit | None:
    """What a run of one direction does to labels, as far as its target domain says so."""
    if translator.style_dim or translator.run is None:
        return None
    with suppress(UsageError):
        return translator.schema.edit(target_of(translator.run))
    return None


def open_guides(
    workspace: Workspace,
    translator: Translator,
    k: int,
    *,
    at_random: bool = False,
    load: Callable[[str], Retriever] | None = None,
) -> Neighbours:
    """What a guided run looks up: by the retrieval it was trained with, or at random like in its training.

    `at_random`: at random whatever it was trained with, for a comparison. `load` gives the retriever of a run; then
    images that have no vector yet do not guide, instead of all having to have one.
    """
    assert translator.run is not None
    retriever = None
    if translator.run.config["neighbours"] == "retrieved" and not at_random:
        run = str(translator.run.config["retrieval_run"])
        if load is None:
            retriever = open_retriever(workspace, run, str(translator.device))
            require_index(workspace, retriever)
        else:
            retriever = load(run)
    g = translator.config.guided
    return Neighbours(
        workspace,
        translator,
        retriever,
        k=k,
        cache_mib=g.feature_cache,
        pixels=translator.pixels,
        pool=g.neighbour_pool,
        where=target_of(translator.run),
        origins=g.pool,
        agreement=agreement_of(workspace, translator),
    )
