"""Translations of single pictures, as the command `translate` gives them.

A picture that is in the workspace (by path or bytes) keeps its known labels and is never its own neighbour; a foreign
one works like it, its labels read off its style.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index_store.attributes import Edit
from index_store.errors import RgunitError, UsageError
from index_store.images import read_image, write_image
from index_store.workspace import Workspace
from retrieval.pictures import Picture
from retrieval.queries import compose, style_edit
from retrieval.tensors import to_pixels, to_tensor
from translation.indexing import neighbour_table, open_retriever, require_index
from translation.neighbours import Neighbours
from translation.runs import direction_of, target_of
from translation.translator import Translator


def translate_images(
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    to: str | None = None,
    style_of: Path | None = None,
    samples: int = 1,
    guidance: float | None = None,
    k: int | None = None,
    run: str | None = None,
    out: Path,
    seed: int = 0,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Translate pictures and write PNGs into `out`: rows {source, target, path, neighbours, mask}.

    A path may be a folder: every image below it (`find_pictures`). Files are NAME-SAMPLE.png and, of a method with a
    mask, NAME-SAMPLE-mask.png. With an edit a style is sampled for each (seed, picture,
    sample); with `style_of` alone it is that picture's μ, so `samples` must be 1. `guidance` in [0, 1]: by default 1
    for a guided translator, 0 for others. `k` neighbours guide: by default as many as in training; another number is
    for guidance by attention or patches. All pictures are read before any is written.
    """
    translator = Translator.load(workspace, run, device)
    if not translator.style_dim:
        _check_direction(translator, to, style_of)
        to = None
    elif to is None and style_of is None:
        raise UsageError(
            "a translation needs an edit (--to '+Blond_Hair') or a picture to take the style of (--style-of)"
        )
    if samples < 1:
        raise UsageError(f"--samples must be at least 1, not {samples}")
    if to is None and samples > 1 and translator.style_dim:
        raise UsageError("--style-of alone gives one style, so --samples must be 1: add --to to sample")
    if guidance is not None and not 0 <= guidance <= 1:
        raise UsageError(f"--guidance must lie in 0 … 1, not {guidance:g}")
    if k is not None and k < 1:
        raise UsageError(f"-k must be at least 1, not {k}: --guidance 0 translates without neighbours")
    edit = style_edit(workspace, translator, to) if to is not None else None
    goal = _goal(translator)
    strength = (1.0 if translator.neighbours else 0.0) if guidance is None else guidance
    assert translator.run is not None
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
    guides = _guides(workspace, translator, device, k or translator.neighbours) if strength else None
    found, _ = find_pictures(paths, out)
    pictures = [Picture.of(workspace, path) for path, _ in found]
    decoded = [picture.at(translator.size) for picture in pictures]
    other = Picture.of(workspace, style_of) if style_of is not None else None
    other_pixels = other.at(translator.size) if other else None
    rows: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    for number, ((path, name), picture, pixels) in enumerate(zip(found, pictures, decoded, strict=True)):
        for sample in range(samples):
            draw = None
            if edit is not None:
                draw = torch.Generator().manual_seed(
                    int(np.random.SeedSequence([seed, number, sample]).generate_state(1)[0])
                )
            query = compose(
                translator,
                pixels,
                edit=edit,
                style_of=other_pixels,
                known_labels=picture.labels(workspace, translator.schema),
                style_of_labels=other.labels(workspace, translator.schema) if other else None,
                generator=draw,
            )
            images = to_tensor(pixels[None], translator.device)
            own = np.array([-1 if picture.image_id is None else picture.image_id], np.int64)
            ids = np.empty((1, 0), np.int64)
            guide, style = None, query.style
            if guides is not None:
                rng = np.random.default_rng([seed, number, sample])
                ids = guides.find(query.content, query.style, own, [rng], images)
                guide, style = guides.guide(translator, ids, style, strength)
            made = translator.translate(images, query.content, style, guide=guide)
            made_path, mask_path = out / f"{name}-{sample}.png", out / f"{name}-{sample}-mask.png"
            made_path.parent.mkdir(parents=True, exist_ok=True)
            write_image(made_path, to_pixels(made.image)[0])
            if made.mask is not None:
                write_image(mask_path, to_pixels(made.mask.mul(2).sub(1).expand(-1, 3, -1, -1))[0])
            known = neighbour_table(workspace, ids)
            rows.append(
                {
                    "source": str(path.absolute()),
                    "target": translator.schema.describe(query.target if goal is None else goal.apply(query.target)),
                    "path": str(made_path.absolute()),
                    "neighbours": [known[int(i)] for i in ids[0]],
                    "mask": None if made.mask is None else str(mask_path.absolute()),
                }
            )
    return rows


def _check_direction(translator: Translator, to: str | None, style_of: Path | None) -> None:
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


def _guides(workspace: Workspace, translator: Translator, device: str, k: int) -> Neighbours:
    """What a guided run looks up: by the retrieval it was trained with, or at random like in its training."""
    assert translator.run is not None
    retriever = None
    if translator.run.config["neighbours"] == "retrieved":
        retriever = open_retriever(workspace, str(translator.run.config["retrieval_run"]), device)
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


def find_pictures(paths: Sequence[Path], out: Path) -> tuple[list[tuple[Path, str]], list[dict[str, str]]]:
    """Pictures to translate with the names of their outputs, and what in a folder is none: {path, reason}.

    A file is itself, and refused by the caller if it is no image; a folder is every image below it, sorted, hidden
    files and what lies in `out` left out. Names are those of the files (of a folder's, relative to it) without suffix,
    numbered where two are alike. RgunitError for a folder without an image.
    """
    found: list[tuple[Path, str]] = []
    rejected: list[dict[str, str]] = []
    for path in paths:
        if not path.is_dir():
            found.append((path, path.stem))
            continue
        before = len(found)
        for file in sorted(path.rglob("*")):
            inner = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in inner.parts):
                continue
            if out.resolve() in file.resolve().parents:
                continue
            try:
                read_image(file)
            except RgunitError as error:
                rejected.append({"path": str(file.absolute()), "reason": str(error)})
            else:
                found.append((file, str(inner.with_suffix(""))))
        if len(found) == before:
            raise RgunitError(f"{path} holds no image that can be read: name a folder with images, or the images")
    taken: set[str] = set()
    named: list[tuple[Path, str]] = []
    for file, wanted in found:
        name, n = wanted, 1
        while name in taken:
            n += 1
            name = f"{wanted}-{n}"
        taken.add(name)
        named.append((file, name))
    return named, rejected
