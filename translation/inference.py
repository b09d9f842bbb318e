"""Translations of single pictures, as the command `translate` gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from index_store.errors import ImageRefused
from index_store.images import made_by, mark_of, write_image
from index_store.workspace import Workspace
from translation.framing import Framing
from translation.inputs import Input, Names, check_out, find_inputs, nothing
from translation.progress import Progress
from translation.records import Records
from translation.translator import Translator
from translation.work import lacks_collection, neighbour_rows, prepare_work


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
    framing: Framing | None = None,
    source: str | None = None,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    reject: Callable[[Path, str], None] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Translate pictures and write PNGs into `out`, and their list: rows {source, target, path, neighbours, mask, box,
    kept}.

    A path may be a folder: every file below it (`find_inputs`); what is no image there is left out, and told to
    `reject` with the reason. Files are NAME-SAMPLE.png and, of a method with a mask, NAME-SAMPLE-mask.png; where such a
    file is there that is no translation of the same picture, NAME-2-SAMPLE.png and so on. With an edit
    a style is sampled for each (seed, picture, sample); with `style_of` alone it is that picture's μ, so `samples` must
    be 1. `guidance` in [0, 1]: by default 1 for a guided translator, 0 for others. `k` neighbours guide: by default as
    many as in training; another number is for guidance by attention or patches. `source`: the domain that the pictures
    are of, for a method with an encoder a domain; by default the workspace's labels say it.

    A method with a style translates squares of the run's size: `framing` says which part of a picture that is (`box`:
    left, top, width and height of it, None where it is all), and the rest is as it was. One without gives each picture
    in its own size, or with `size` with its shorter side scaled to that; beyond `max_pixels` (by default what half of
    the free memory takes) in tiles. Pictures are read one at a time, but a file that is named itself and cannot be read
    is refused before anything is written.

    What is there already, of the same picture and made with the same settings, is `kept`: a second start goes on where
    the first stopped.
    """
    inputs = find_inputs(paths, out)
    check_out(out)
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
        framing=framing,
        seed=seed,
        source=source,
    )
    progress, names, records = progress or Progress(), Names(out, inputs), Records(out, translator.schema)
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
            made_path, mask_path = out / f"{name}-{sample}.png", out / f"{name}-{sample}-mask.png"
            how, about = work.key(picture, sample), {"box": None if picture.part is None else list(picture.part)}
            there = records.find(made_path)
            if there is not None and made_by(made_path) == how and (not there["mask"] or mask_path.exists()):
                rows.append({**there, **about, "kept": True})
                continue
            made = work.translate(picture, sample)
            if made.mask is not None:  # before the picture, by which both are known to be done
                write_image(mask_path, made.mask, made_of=mark)
            write_image(made_path, made.pixels, made_of=mark, made_by=how)
            row = {
                "source": str(one.path.absolute()),
                "target": made.target,
                "path": str(made_path.absolute()),
                "neighbours": neighbour_rows(workspace, made),
                "mask": None if made.mask is None else str(mask_path.absolute()),
            }
            records.add(row)
            rows.append({**row, **about, "kept": False})
    records.close()
    if not rows:
        raise nothing(", ".join(sorted({str(one.folder) for one in inputs})))
    return rows
