"""A pool for training: images encoded once by the frozen translator, and a few translations of each.

The one idea: making a triplet's images anew costs a hundred times what training on it does. So each image of a pool
gets a row of slots (itself, translations, a changed view), encoded once, and every triplet is a choice of slots.
A pool is derived: it lies in the workspace's cache, any training with the same translator may use it, and it can be
deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from index_store.workspace import Workspace
from retrieval.domains import Domains
from retrieval.protocol import Encoders
from retrieval.tensors import to_tensor

ITSELF, OWN, FIRST, SECOND, VIEW = 0, 1, 2, 3, -1
"""An image's slots: as it is, translated to its own domain, to one and to another domain, and a changed view of it."""
SLOTS = 5
STYLELESS = 3
"""Slots where the model has no style: the image as it is, its one translation (OWN), and a changed view."""
WITHOUT = 2
"""Slots of a pool without translations: the image as it is, and a changed view."""
CHUNK = 32
READY = "ready.json"
MEASURED = 8192  # images that `statistics` takes

Halves = NDArray[np.float16]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TripletPool:
    """n images with m encodings each: SLOTS, STYLELESS, or WITHOUT translations.

    content float16 [n, m, C, h, h] (memory-mapped); style μ float32 [n, m, S]; given float32 [n, m, S]: the style
    that a translation was asked for (0 elsewhere); domain int64 [n, m]: rows of `vectors` int8 [D, A].
    """

    ids: Rows
    vectors: NDArray[np.int8]
    domain: Rows
    content: Halves
    style: Floats
    given: Floats

    def __len__(self) -> int:
        return len(self.ids)

    def statistics(self) -> tuple[Iterator[Tensor], Tensor]:
        """Batches of content [b, C, h, h] of up to MEASURED images as they are, and the styles [n, S] of all."""
        some = np.linspace(0, len(self) - 1, min(MEASURED, len(self))).astype(np.int64)
        parts = np.array_split(some, max(1, len(some) // 256))
        return (torch.from_numpy(self.content[part, ITSELF]) for part in parts), torch.from_numpy(self.style[:, ITSELF])


@dataclass(frozen=True)
class Choice:
    """What a batch of triplets is made of: images and slots int64 [B]. The medium negative has the style of the
    positive, all others their own."""

    image: Rows
    target: Rows  # the positive's slot; the anchor is the image's own content with that slot's `given`
    easy: Rows  # another image
    medium: Rows  # another image …
    medium_slot: Rows  # … and its translation to the same domain
    hard: Rows  # the image's slot in another domain


class PoolSampler:
    """Draws triplets from a pool: the same choices as making them anew, but of translations that are there."""

    def __init__(self, pool: TripletPool) -> None:
        self.pool = pool
        self.domains = Domains(pool.vectors[pool.domain[:, ITSELF]])
        of = pool.domain[:, [FIRST, SECOND]]
        places = np.stack(np.broadcast_arrays(np.arange(len(pool))[:, None], [FIRST, SECOND]), axis=2).reshape(-1, 2)
        order = np.argsort(of.reshape(-1), kind="stable")
        self._entries = places[order]  # (image, slot) of every translation, domain after domain
        self._sizes = np.bincount(of.reshape(-1), minlength=len(pool.vectors))
        self._starts = np.cumsum(self._sizes) - self._sizes
        own = {tuple(vector): row for row, vector in enumerate(self.domains.vectors.tolist())}
        self._numbers = np.array([own[tuple(vector)] for vector in pool.vectors.tolist()])  # of `vectors` in `domains`

    def draw(self, rng: np.random.Generator, size: int) -> Choice:
        """`size` triplets by a generator: all four negatives of each."""
        pool, n = self.pool, len(self.pool)
        image = rng.choice(n, size, replace=size > n)
        first = rng.random(size) < 0.5
        other = np.where(first, SECOND, FIRST)
        usable = pool.domain[image, SECOND] != pool.domain[image, ITSELF]
        target = np.where(first | ~usable, FIRST, SECOND)
        hard = np.where(pool.domain[image, other] != pool.domain[image, target], other, OWN)
        domain = pool.domain[image, target]
        easy = self.domains.draw_outside(rng, self._numbers[domain], not_image=image)
        start, count = self._starts[domain], self._sizes[domain]
        place = start + rng.integers(0, count)
        for _ in (FIRST, SECOND):  # past the image's own
            again = self._entries[place, 0] == image
            place = np.where(again, start + (place - start + 1) % count, place)
        alone = self._entries[place, 0] == image  # nothing else was translated there: any other image's translation
        medium = np.where(alone, easy, self._entries[place, 0])
        medium_slot = np.where(alone, FIRST, self._entries[place, 1])
        return Choice(image, target, easy, medium, medium_slot, hard)


def pool_rows(ids: Rows, seed: int, *, slots: int, channels: int, size: int, gigabytes: float) -> Rows:
    """Which images of ids [n] a pool of at most so many GB of content [slots, C, size, size] takes: rows, ascending."""
    most = max(2, int(gigabytes * 1e9 / (2 * slots * channels * size**2)))
    return np.sort(np.random.default_rng(seed).permutation(len(ids))[:most])


def open_pool(
    workspace: Workspace,
    encoders: Encoders,
    ids: Rows,
    labels: NDArray[np.int8],
    *,
    gigabytes: float = 2.0,
    translations: bool = True,
    seed: int = 0,
    kept: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TripletPool:
    """The pool of images int64 [n] with labels int8 [n, A] over the encoders' attributes, made where it is not there.

    A pool that does not fit in `gigabytes` takes as many images as fit, by `seed`. Made in chunks: what an interrupted
    call has made is used by the next. Making one deletes the pools of other translators first, unless `kept`. Of a
    model without a style there is one translation an image, whatever its labels are.
    """
    slots = WITHOUT if not translations else SLOTS if encoders.style_dim else STYLELESS
    side = encoders.size // 4
    rows = pool_rows(ids, seed, slots=slots, channels=encoders.content_channels, size=side, gigabytes=gigabytes)
    ids, labels = ids[rows], labels[rows]
    digest = hashlib.sha256(f"{encoders.fingerprint} {seed} {side} {slots}".encode())
    for part in (ids, labels):
        digest.update(np.ascontiguousarray(part).tobytes())
    folder = workspace.path / "cache" / "pools" / f"{encoders.fingerprint[:12]}-{digest.hexdigest()[:12]}"
    if not kept and not folder.is_dir():
        for old in folder.parent.glob("*"):
            if not old.name.startswith(encoders.fingerprint[:12]):
                shutil.rmtree(old, ignore_errors=True)
    domains = Domains(labels)
    plan = _plan(domains, seed) if slots == SLOTS else np.stack([domains.of] * slots, axis=1)
    shape = (len(ids), slots, encoders.content_channels, side, side)
    kinds = _kinds(encoders, shape)
    arrays = _ready(folder, kinds)
    if arrays is None:
        _fill(workspace, encoders, folder, ids, domains, plan, shape, seed, progress)
        arrays = {name: _opened(folder / f"{name}.npy", *kind, mode="r") for name, kind in kinds.items()}
    none = np.zeros((*shape[:2], 0), np.float32)
    return TripletPool(
        ids=ids,
        vectors=domains.vectors,
        domain=plan,
        content=arrays["content"],
        style=np.array(arrays.get("style", none)),
        given=np.array(arrays.get("given", none)),
    )


def _kinds(encoders: Encoders, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The arrays of a pool with content of this shape, and their kinds; without a style there is content alone."""
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {"content": (shape, np.float16)}
    if encoders.style_dim:
        for name in ("style", "given"):
            kinds[name] = (*shape[:2], encoders.style_dim), np.float32
    return kinds


def _plan(domains: Domains, seed: int) -> Rows:
    """Which domain each slot is of, int64 [n, SLOTS]: drawn as often as images have it, different where they can be."""
    rng = np.random.default_rng([seed, 1])
    own = domains.of
    first = domains.of[domains.draw_outside(rng, own)]
    second = first
    if len(domains) > 2:
        second = domains.of[domains.draw_outside(rng, first)]
        for _ in range(64):
            same = second == own
            if not same.any():
                break
            second = np.where(same, domains.of[domains.draw_outside(rng, first)], second)
        second = np.where(second == own, first, second)
    return np.stack([own, own, first, second, own], axis=1)


def _fill(
    workspace: Workspace,
    encoders: Encoders,
    folder: Path,
    ids: Rows,
    domains: Domains,
    plan: Rows,
    shape: tuple[int, ...],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Encode every slot of every image into the folder's arrays, chunk by chunk."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [slice(start, start + CHUNK) for start in range(0, len(ids), CHUNK)]
    log, kinds = folder / "done.txt", _kinds(encoders, shape)
    try:
        arrays = {name: _opened(folder / f"{name}.npy", *kind, mode="r+") for name, kind in kinds.items()}
        done = _done(log)
    except (OSError, ValueError):  # none yet, or half-made by a call that was killed: made anew
        log.unlink(missing_ok=True)
        arrays = {name: _made(folder / f"{name}.npy", *kind) for name, kind in kinds.items()}
        done = set()
    todo = [number for number in range(len(parts)) if number not in done]
    # One thread an operation and one chunk a thread: cores that other work shares are used better than by halves.
    workers = 1 if encoders.device.type == "cuda" else max(1, len(os.sched_getaffinity(0)))

    def encode(number: int) -> int:
        if workers > 1:
            torch.set_num_threads(1)
        part = parts[number]
        made = _encode(
            workspace, encoders, ids[part], domains.vectors[plan[part]], np.random.default_rng([seed, 2, number])
        )
        for name, array in arrays.items():
            array[part] = made[name]
        return number

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, "pool") as executor, log.open("a") as written:
        try:
            for count, number in enumerate(executor.map(encode, todo), start=len(done) + 1):
                written.write(f"{number}\n")
                if count % 16 == 0:
                    for array in arrays.values():
                        array.flush()
                    written.flush()
                if progress is not None:
                    progress(min(count * CHUNK, len(ids)), len(ids))
        finally:
            torch.set_num_threads(threads)
            executor.shutdown(cancel_futures=True)
    for array in arrays.values():
        array.flush()
    ready = folder / f"{READY}.new"
    ready.write_text(json.dumps({"images": len(ids), "slots": shape[1], "encoders": encoders.fingerprint}))
    ready.replace(folder / READY)


def _ready(folder: Path, kinds: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, Any] | None:
    """The arrays of a pool that is whole, else None."""
    try:
        json.loads((folder / READY).read_text())
        return {name: _opened(folder / f"{name}.npy", *kind, mode="r") for name, kind in kinds.items()}
    except (OSError, ValueError):
        (folder / READY).unlink(missing_ok=True)
        return None


def _done(log: Path) -> set[int]:
    """The chunks that a log tells; a kill may have cut its last line."""
    return {int(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")}


def _opened(path: Path, shape: tuple[int, ...], kind: Any, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
    """The memory-mapped array of a file. ValueError or OSError where it is not whole, or has another shape."""
    there = np.lib.format.open_memmap(path, mode="r")  # not yet to be written: that would make a short file longer
    if there.shape != shape or there.dtype != kind:
        raise ValueError(f"{path} has another shape")
    return there if mode == "r" else np.lib.format.open_memmap(path, mode=mode)


def _made(path: Path, shape: tuple[int, ...], kind: Any) -> np.memmap[Any, Any]:
    """A new memory-mapped array of a file."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


@torch.no_grad()
def _encode(
    workspace: Workspace, encoders: Encoders, ids: Rows, labels: NDArray[np.int8], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """All slots of images [b] with the label vectors int8 [b, m, A] of their slots."""
    b, each = len(ids), labels.shape[1] - WITHOUT
    images = to_tensor(workspace.load(ids, encoders.size), encoders.device)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    asked = np.zeros((*labels.shape[:2], encoders.style_dim), np.float32)
    with torch.autocast(encoders.device.type, torch.bfloat16):
        content, encoded = encoders.content(images), [changed_view(images, rng)]
        if each:
            wanted = torch.from_numpy(np.ascontiguousarray(labels[:, OWN:VIEW]).reshape(b * each, labels.shape[-1]))
            given = encoders.sample_style(wanted, generator).to(encoders.device)
            sources = images.repeat_interleave(each, 0), content.repeat_interleave(each, 0)
            encoded.insert(0, encoders.translate(*sources, given.to(content.dtype)).image.float())
            asked[:, OWN:VIEW] = given.float().cpu().numpy().reshape(b, each, -1)
        contents = torch.cat([content, encoders.content(torch.cat(encoded))]).float()
        styles = encoders.style(torch.cat([images, *encoded])).float()

    def slots(rows: Tensor) -> NDArray[Any]:
        translated = rows[b : b + b * each].view(b, each, *rows.shape[1:])
        ordered = torch.cat([rows[:b, None], translated, rows[b + b * each :, None]], dim=1)
        return ordered.cpu().numpy()

    return {"content": slots(contents).astype(np.float16), "style": slots(styles), "given": asked}


def changed_view(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image [B, 3, H, W] mirrored or not, cropped (60 … 100 % of the side) and with other light and colour.

    What the content of an image should not depend on; for a content head's positives.
    """
    n = len(images)
    side = rng.uniform(0.6, 1.0, n)
    shift = rng.uniform(-1, 1, (n, 2)) * (1 - side)[:, None]
    flip = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * flip, side, shift
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False).to(images)
    view = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(rng.uniform(0.7, 1.3, (n, 3, 1, 1)).astype(np.float32)).to(images)
    bias = torch.from_numpy(rng.uniform(-0.15, 0.15, (n, 1, 1, 1)).astype(np.float32)).to(images)
    grey = torch.from_numpy((rng.random((n, 1, 1, 1)) < 0.2).astype(np.float32)).to(images)
    view = view * gain + bias
    return (view + grey * (view.mean(dim=1, keepdim=True) - view)).clamp(-1, 1)
