"""Translations of single pictures, as the command `translate` gives them.

A picture that is in the workspace (by path or bytes) keeps its known labels and is never its own neighbour; a foreign
one works like it, its labels read off its style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.attributes import Edit
from index_store.decoding import SMALLEST_SIDE
from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.images import Pixels, prepare, read_image, write_image
from index_store.names import is_text, printable
from index_store.workspace import RunRecord, Workspace
from retrieval.composing import style_edit
from retrieval.pictures import Picture, Source
from retrieval.queries import compose
from retrieval.tensors import to_pixels, to_tensor
from translation.anysize import scaled, smallest_limit, translate_any_size
from translation.indexing import neighbour_table, open_retriever, require_index
from translation.inputs import Input, Names, find_inputs, mark_of, nothing
from translation.neighbours import POOL, Neighbours
from translation.progress import Progress
from translation.runs import direction_of, target_of
from translation.translator import Translator


def translate_images(
    workspace: Workspace,
    paths: Sequence[Path | Input],
    *,
    to: str | None = None,
    style_of: Path | None = None,
    samples: int = 1,
    guidance: float | None = None,
    k: int | None = None,
    run: str | None = None,
    size: int | None = None,
    max_pixels: int | None = None,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    reject: Callable[[Path, str], None] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Translate pictures and write PNGs into `out`: rows {source, target, path, neighbours, mask}.

    A path may be a folder: every file below it (`find_inputs`); what is no image there is left out, and told to
    `reject` with the reason. Files are NAME-SAMPLE.png and, of a method with a mask, NAME-SAMPLE-mask.png; where such a
    file is there that is no translation of the same picture, NAME-2-SAMPLE.png and so on. With an edit
    a style is sampled for each (seed, picture, sample); with `style_of` alone it is that picture's μ, so `samples` must
    be 1. `guidance` in [0, 1]: by default 1 for a guided translator, 0 for others. `k` neighbours guide: by default as
    many as in training; another number is for guidance by attention or patches.

    A method with a style gives squares of the run's size, centre-cropped; one without gives each picture in its own
    size, or with `size` with its shorter side scaled to that; beyond `max_pixels` (by default what half of the free
    memory takes) in tiles. Pictures are read one at a time, but a file that is named itself and cannot be read is
    refused before anything is written.
    """
    inputs = find_inputs(paths, out)
    translator = Translator.load(workspace, run, device)
    work = prepare_work(
        workspace,
        translator,
        to=to,
        style_of=style_of,
        samples=samples,
        guidance=guidance,
        k=k,
        size=size,
        max_pixels=max_pixels,
        seed=seed,
    )
    progress, names = progress or Progress(), Names(out, inputs)
    if translator.neighbours and guidance is None and translator.run and lacks_collection(workspace, translator.run):
        progress.note("unguided: no collection (the model was shared without what guides it)")
    rows: list[dict[str, Any]] = []
    for done, one in enumerate(inputs):
        progress.step(done, len(inputs))
        try:
            picture = work.read(one.path)
        except ImageRefused as error:
            if one.folder is None:
                raise
            if reject is not None:
                reject(one.path, str(error))
            continue
        name, mark = names.take(one, samples), mark_of(one.path)
        for sample in range(samples):
            made = work.translate(picture, sample)
            made_path, mask_path = out / f"{name}-{sample}.png", out / f"{name}-{sample}-mask.png"
            write_image(made_path, made.pixels, made_of=mark)
            if made.mask is not None:
                write_image(mask_path, made.mask, made_of=mark)
            known = neighbour_table(workspace, made.ids)
            rows.append(
                {
                    "source": str(one.path.absolute()),
                    "target": made.target,
                    "path": str(made_path.absolute()),
                    "neighbours": [known[int(i)] for i in made.ids[0]],
                    "mask": None if made.mask is None else str(mask_path.absolute()),
                }
            )
    if not rows:
        raise nothing(", ".join(sorted({str(one.folder) for one in inputs})))
    return rows


def picture_key(pixels: Pixels) -> int:
    """A number that a picture always gets, whatever it is called and whatever is beside it."""
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")


class _Read(NamedTuple):
    """A picture, its pixels [size, size, 3], and without a style those in its own size [H, W, 3]."""

    picture: Picture
    square: Pixels
    own: Pixels


class _Made(NamedTuple):
    """What a picture became, with its mask if there is one, the labels aimed at, and the neighbours' ids [1, k]."""

    pixels: Pixels
    mask: Pixels | None
    target: dict[str, int | None]
    ids: NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """What all pictures are translated with."""

    workspace: Workspace
    translator: Translator
    edit: Edit | None
    goal: Edit | None
    other: _Read | None
    guides: Neighbours | None
    strength: float
    size: int | None
    max_pixels: int | None
    seed: int

    def read(self, source: Source) -> _Read:
        """Decode a picture, once. ImageRefused with the reason."""
        if isinstance(source, str | Path) and not is_text(str(source)):
            raise ImageRefused(f"{printable(str(source))}: its name is not UTF-8: rename it")
        picture, side = Picture.of(self.workspace, source), self.translator.size
        if self.translator.style_dim:
            square = picture.at(side)
            return _Read(picture, square, square)
        name = str(source) if isinstance(source, str | Path) else "the picture"
        pixels = (
            read_image(source, white=picture.white) if isinstance(source, str | Path) else prepare(source, name=name)
        )
        own = pixels if self.size is None else scaled(pixels, self.size, name)
        return _Read(picture, prepare(pixels, size=side, name=name), own)

    def translate(self, read: _Read, sample: int) -> _Made:
        """Sample `sample` of a picture. What is drawn depends on the picture, not on those beside it."""
        translator, draw = self.translator, None
        drawn = [self.seed, picture_key(read.square), sample]
        if self.edit is not None:
            state = np.random.SeedSequence(drawn).generate_state(1)
            draw = torch.Generator().manual_seed(int(state[0]))
        query = compose(
            translator,
            read.square,
            edit=self.edit,
            style_of=self.other.square if self.other else None,
            known_labels=read.picture.labels(self.workspace, translator.schema),
            style_of_labels=self.other.picture.labels(self.workspace, translator.schema) if self.other else None,
            generator=draw,
        )
        images = to_tensor(read.square[None], translator.device)
        ids, guide, style = np.empty((1, 0), np.int64), None, query.style
        if self.guides is not None:
            own = np.array([-1 if read.picture.image_id is None else read.picture.image_id], np.int64)
            rng = np.random.default_rng(drawn)
            ids = self.guides.find(query.content, query.style, own, [rng], images)
            guide, style = self.guides.guide(translator, ids, style, self.strength)
        target = translator.schema.describe(query.target if self.goal is None else self.goal.apply(query.target))
        if not translator.style_dim:
            return _Made(translate_any_size(translator, read.own, guide, most=self.max_pixels), None, target, ids)
        made = translator.translate(images, query.content, style, guide=guide)
        mask = None if made.mask is None else to_pixels(made.mask.mul(2).sub(1).expand(-1, 3, -1, -1))[0]
        return _Made(to_pixels(made.image)[0], mask, target, ids)


def prepare_work(
    workspace: Workspace,
    translator: Translator,
    *,
    to: str | None,
    style_of: Source | None,
    samples: int,
    guidance: float | None,
    k: int | None,
    size: int | None,
    max_pixels: int | None,
    seed: int,
) -> Work:
    """Check what is asked for against what the run can do. UsageError or RgunitError names what cannot be done."""
    assert translator.run is not None
    if not translator.style_dim:
        _check_direction(translator, to, style_of)
        to = None
    elif to is None and style_of is None:
        raise UsageError(
            "a translation needs an edit (--to '+Blond_Hair') or a picture to take the style of (--style-of)"
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
    _check_sizes(translator, size, max_pixels)
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
    guides = _guides(workspace, translator, k or translator.neighbours) if strength else None
    work = Work(workspace, translator, edit, _goal(translator), None, guides, strength, size, max_pixels, seed)
    return work if style_of is None else replace(work, other=work.read(style_of))


def lacks_collection(workspace: Workspace, run: RunRecord) -> bool:
    """Whether a run was imported into a workspace in which nothing is that may guide."""
    return "imported" in run.config and not len(workspace.images(f"{POOL} {target_of(run)}".strip()))


def _check_sizes(translator: Translator, size: int | None, max_pixels: int | None) -> None:
    """UsageError for sizes that a run cannot give."""
    assert translator.run is not None
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


def _check_direction(translator: Translator, to: str | None, style_of: Source | None) -> None:
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


def _guides(workspace: Workspace, translator: Translator, k: int) -> Neighbours:
    """What a guided run looks up: by the retrieval it was trained with, or at random like in its training."""
    assert translator.run is not None
    retriever = None
    if translator.run.config["neighbours"] == "retrieved":
        retriever = open_retriever(workspace, str(translator.run.config["retrieval_run"]), str(translator.device))
        require_index(workspace, retriever)
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
    )
