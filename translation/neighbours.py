"""Where guidance comes from: the ids of the images to look at, and their content maps, kept in a bounded cache.

Retrieved neighbours of (E_c(x), s) are searched among the images that may guide (`guides.py`), never x itself; random
ones (the control) are drawn from the same images. The search looks at no label, so an image
without any can guide like another, unless neighbours are to agree with the source (`guided.agree`) or to be of the
target domain, where the style does not tell it. A search has favourites, a few images that are nearest to very many
queries; neighbours drawn from a pool of nearest ones are more, and so are the styles that they bring.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.retriever import Retriever
from retrieval.tensors import at_size, to_tensor
from translation.agreement import Agreement
from translation.guidance import Guidance, Guide, with_pixels
from translation.guides import Pool, guide_filter, not_drawn
from translation.hiding import draw_hidden, draw_shown
from translation.methods import Guidable
from translation.sampling import Batch, Guides
from translation.sections import GuidedConfig
from translation.translator import Translator

TINY = 1e-8  # no division by 0
STYLES = 1 << 16  # styles that are kept, of some hundred bytes each


class Neighbours:
    """Neighbours of a batch, by `retriever` or, where that is None, at random."""

    def __init__(
        self,
        workspace: Workspace,
        translator: Translator,
        retriever: Retriever | None,
        *,
        k: int,
        cache_mib: int = 512,
        pixels: bool = False,
        pool: int = 0,
        where: str = "",
        origins: Pool = "real",
        agreement: Agreement | None = None,
    ) -> None:
        self.workspace, self.translator, self.retriever, self.k = workspace, translator, retriever, k
        self.agreement = agreement
        self.pixels = pixels
        self.where = f"{guide_filter(origins)} {where}".strip()
        table = workspace.images(self.where)
        self._barred = not_drawn(workspace) if origins != "real" else np.empty(0, np.int64)
        table = table.select(~np.isin(table.ids, self._barred))
        self.pool: NDArray[np.int64] = table.ids
        self._labels = table.labels[:, workspace.schema.indices(translator.schema.names)]
        if len(self.pool) <= k:
            raise RgunitError(
                f"guidance by {k} neighbours needs more than {k} training images to look at, there are "
                f"{len(self.pool)}: {'add images' if origins == 'real' else 'make some by `rgunit generate`'} or "
                "lower --set guided.neighbours"
            )
        if agreement is not None:
            agreement.require(self.pool, k)
        self._own = retriever is None or retriever.encoders.fingerprint == translator.fingerprint
        self._cache: OrderedDict[int, Tensor] = OrderedDict()
        self._styles: dict[int, Tensor] = {}
        self._lock = threading.Lock()
        self._limit = cache_mib << 20
        self._among = min(max(k, pool), len(self.pool) - 1)  # the nearest ones that k are drawn from
        self._bytes = 0

    def find(
        self,
        content: Tensor,
        style: Tensor,
        own: NDArray[np.int64],
        rngs: Iterable[np.random.Generator],
        images: Tensor | None = None,
    ) -> NDArray[np.int64]:
        """int64 [B, k] ids for content [B, C, h, w] in style [B, S], nearest first; by a generator an image.

        `own` [B] are the sources' ids (−1: foreign). `images` [B, 3, H, W] are asked for where another translator's
        retrieval searches, which reads them itself, and by content alone, or where they must agree with neighbours.
        Where the style does not tell the domain, neighbours are of that of the labels that the style carries, as far
        as it has enough of them.
        """
        return self.found(content, style, own, rngs, images)[0]

    def found(
        self,
        content: Tensor,
        style: Tensor,
        own: NDArray[np.int64],
        rngs: Iterable[np.random.Generator],
        images: Tensor | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """As `find`, with the distances float32 [B, k] of the search; None where neighbours are drawn at random."""
        bits = None if self.agreement is None else self.agreement.bits(own, images)
        if self.retriever is None:
            return self.at_random(own, rngs, bits), None
        agreed = [""] * len(own) if bits is None or self.agreement is None else self.agreement.filters(bits)
        domains = [""] * len(own) if self.translator.style_tells else self._domains(style)
        terms = [f"{a} {d}" for a, d in zip(agreed, domains, strict=True)]
        ids, distances = self._nearest(content, style, own, images, terms)
        if any(domains) and (short := np.flatnonzero((ids >= 0).sum(axis=1) < self.k)).size:
            part = None if images is None else images[short]
            more, far = self._nearest(content[short], style[short], own[short], part, [agreed[i] for i in short])
            for i, others, away in zip(short, more, far, strict=True):
                ids[i], distances[i] = _filled_up(ids[i], distances[i], others, away)
        count = (ids >= 0).sum(axis=1)
        if (count < self.k).any():
            raise RgunitError(
                f"the index holds fewer than {self.k} training images of retrieval run "
                f"{self.retriever.encoder_name} to look at: run `rgunit index build` first"
            )
        if self._among == self.k:
            return ids, distances
        places = [np.sort(rng.choice(n, self.k, replace=False)) for n, rng in zip(count, rngs, strict=False)]
        chosen = np.stack(places)
        return np.take_along_axis(ids, chosen, axis=1), np.take_along_axis(distances, chosen, axis=1)

    def _nearest(
        self, content: Tensor, style: Tensor, own: NDArray[np.int64], images: Tensor | None, terms: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids [B, among], −1 where fewer pass an image's filter `terms` beside that of all, and their distances."""
        assert self.retriever is not None
        out = np.append(self.workspace.left_out, self._barred)
        exclude = [np.append(out, i) if i >= 0 else out for i in own]
        where: str | list[str] = self.where
        if any(term.strip() for term in terms):
            where = [f"{self.where} {term}".strip() for term in terms]
        if self._own:
            vectors = self.retriever.embed(content, style).cpu().numpy()
            found = self.retriever.nearest(vectors, k=self._among, where=where, exclude=exclude)
        else:
            assert images is not None
            theirs = self.retriever.content_vectors(self._read(images)).cpu().numpy()
            found = self.retriever.nearest_weighted(theirs, None, 1.0, k=self._among, where=where, exclude=exclude)
        return found.ids, found.distances

    def _domains(self, style: Tensor) -> list[str]:
        """A filter for the labels that each of styles [B, S] carries, none of a label that it does not tell."""
        labels = self.translator.style_labels(style).cpu().numpy()
        return [self.translator.schema.terms(row) for row in labels]

    @torch.no_grad()
    def _read(self, images: Tensor) -> Tensor:
        """The content of images [B, 3, H, W] by the encoders that the retrieval was trained on, at their size."""
        assert self.retriever is not None
        encoders = self.retriever.encoders
        return encoders.content(at_size(images, encoders.size))

    def at_random(
        self, own: NDArray[np.int64], rngs: Iterable[np.random.Generator], bits: NDArray[np.int8] | None = None
    ) -> NDArray[np.int64]:
        """int64 [B, k] different ids of the pool, none of them the source's; by a generator an image.

        They agree with `bits` [B, n] of the attributes to agree in.
        """
        rows = np.empty((len(own), self.k), np.int64)
        pools: dict[bytes, NDArray[np.int64]] = {}  # a look at every label of the pool, once for bits that are alike
        if bits is not None and self.agreement is not None:
            pools = {row.tobytes(): self.agreement.agreeing(self.pool, row) for row in np.unique(bits, axis=0)}
        for i, (image, rng) in enumerate(zip(own, rngs, strict=False)):
            pool = pools[bits[i].tobytes()] if bits is not None and pools else self.pool
            drawn = pool[rng.choice(len(pool), self.k + 1, replace=False)]
            rows[i] = drawn[drawn != image][: self.k]
        return rows

    def real(self, ids: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The images themselves as D sees real ones: [B, 3, H, W] in [−1, 1], labels int8 [B, A] (−1: unknown)."""
        images = to_tensor(self.workspace.load(ids, self.translator.size), self.translator.device)
        labels = self._labels[np.searchsorted(self.pool, ids)]
        return images, torch.from_numpy(labels).to(self.translator.device)

    def content(self, ids: NDArray[np.int64]) -> Tensor:
        """E_c of images [B, k] → [B, k, C, h, w] float32; maps once made are kept in half precision.

        With `pixels` C + 48 channels: the image itself is behind its content.
        """
        wanted = np.unique(ids)
        with self._lock:
            maps = {int(i): self._cache[int(i)] for i in wanted if int(i) in self._cache}
            for i in maps:
                self._cache.move_to_end(i)
        missing = np.array([i for i in wanted if int(i) not in maps], np.int64)
        if len(missing):
            images = self._images(missing)
            encoded = self.translator.content(images)
            encoded = (with_pixels(encoded, images) if self.pixels else encoded).to(torch.bfloat16)
            with self._lock:
                for i, one in zip(missing.tolist(), encoded.unbind(0), strict=False):
                    maps[i] = one.clone()
                    self._keep(i, maps[i])
        stacked = torch.stack([maps[int(i)] for i in ids.reshape(-1)]).float()
        return stacked.view(*ids.shape, *stacked.shape[1:])

    def style(self, ids: NDArray[np.int64], style: Tensor, share: float = 1.0) -> Tensor:
        """A `share` of the way from `style` [B, 8·A], the one wanted, to that of neighbours [B, k] as far as it is it.

        An attribute's 8 coordinates are the mean of E_s over the neighbours whose bit is that of `style`; where none
        has it they stay as they are. So the attributes stay what they should be, and the draw gives way to what is
        seen together in images.
        """
        wanted = np.unique(ids)
        with self._lock:
            styles = {int(i): self._styles[int(i)] for i in wanted if int(i) in self._styles}
        missing = np.array([i for i in wanted if int(i) not in styles], np.int64)
        if len(missing):
            styles.update(zip(missing.tolist(), self.translator.style(self._images(missing)).unbind(0), strict=False))
        with self._lock:
            self._styles |= styles
            while len(self._styles) > STYLES:  # the oldest first
                self._styles.pop(next(iter(self._styles)))
        theirs = torch.stack([styles[int(i)] for i in ids.reshape(-1)]).view(*ids.shape, -1)
        return torch.lerp(style, agreeing(theirs, style, self.translator.style_labels), share)

    def guide(
        self, translator: Translator, ids: NDArray[np.int64], style: Tensor, strength: float = 1.0
    ) -> tuple[Guide | None, Tensor]:
        """What a translator takes from neighbours [B, k]: their content, if it fuses any, and the style [B, S].

        Of the way to their style that it was trained with, `strength` in [0, 1] is gone.
        """
        guide = Guide(self.content(ids), strength) if "fusion" in translator.networks else None
        if share := translator.config.guided.neighbour_style:
            style = self.style(ids, style, share * strength)
        return guide, style

    def _images(self, ids: NDArray[np.int64]) -> Tensor:
        """Images to encode [n, 3, H, W]; on a GPU some of them again at the end, up to a power of two.

        There cuDNN tries its kernels anew for every shape, and how many images are missing differs from step to step.
        """
        if self.translator.device.type != "cpu":
            ids = np.resize(ids, 1 << (len(ids) - 1).bit_length())
        return to_tensor(self.workspace.load(ids, self.translator.size), self.translator.device)

    def _keep(self, image: int, content: Tensor) -> None:
        size = content.numel() * content.element_size()
        if size > self._limit or image in self._cache:
            return
        while self._bytes + size > self._limit:
            _, dropped = self._cache.popitem(last=False)
            self._bytes -= dropped.numel() * dropped.element_size()
        self._cache[image] = content
        self._bytes += size


def _filled_up(
    found: NDArray[np.int64], distances: NDArray[np.float32], more: NDArray[np.int64], far: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What was found [k] with its distances, and in place of −1 the first of `more` [k] that are not there yet."""
    there = found >= 0
    new = ~np.isin(more, found[there])
    ids, away = np.concatenate([found[there], more[new]]), np.concatenate([distances[there], far[new]])
    return ids[: len(found)], away[: len(found)]


def agreeing(theirs: Tensor, style: Tensor, labels_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean [B, S] over those of `theirs` [B, k, S] that have each attribute as `style` [B, S]; that, where none has.

    `labels_of` reads labels [n, A] off styles [n, S], of which each attribute has S / A numbers.
    """
    wanted = labels_of(style)
    bits = labels_of(theirs.flatten(0, 1)).view(*theirs.shape[:2], -1)
    right = (bits == wanted[:, None]).repeat_interleave(style.shape[1] // wanted.shape[1], dim=2)
    count = right.sum(1)
    return torch.where(count > 0, (theirs * right).sum(1) / count.clamp(min=1), style)


class Guiding:
    """Shows the batches of stage 3 their neighbours.

    What a step shows of them (`neighbour_dropout`, `random_k`, `content_dropout`) is drawn on the host from (seed,
    step, process), like everything else. `fused`: whether the method has a guidance that takes their content. Without
    `neighbours` (the ablation “none”) the batch is encoded only.
    """

    def __init__(
        self,
        method: Guidable,
        neighbours: Neighbours | None,
        settings: GuidedConfig,
        *,
        fused: bool,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.method, self.neighbours, self.settings, self.fused = method, neighbours, settings, fused
        self.seed, self.rank = seed, rank

    @property
    def learned(self) -> tuple[NDArray[np.int64], ...]:
        """The ids of the images that may be shown."""
        return () if self.neighbours is None else (self.neighbours.pool,)

    @torch.no_grad()
    def __call__(self, step: int, batch: Batch, ids: NDArray[np.int64]) -> Batch:
        """The batch with what the frozen encoders give, made once for search and step in full precision, as the index
        was filled, and with its neighbours."""
        batch = replace(batch, encoded=self.method.encode(batch.images))
        if self.neighbours is None:
            return batch
        g, size, neighbours = self.settings, len(ids), self.neighbours
        queries = self.method.queries(batch)[: None if self.fused else 1]
        found = neighbours.find(
            torch.cat([query.content for query in queries]) if len(queries) > 1 else queries[0].content,
            torch.cat([query.style for query in queries]) if len(queries) > 1 else queries[0].style,
            np.concatenate([ids] * len(queries)),
            repeat(np.random.default_rng([self.seed, 5, step, self.rank])),
            batch.images if len(queries) == 1 else batch.images.repeat(len(queries), 1, 1, 1),
        )
        rng = np.random.default_rng([self.seed, 8, step, self.rank])
        if g.random_k:
            found = found[:, : rng.integers(1, g.neighbours + 1)]
        drawn = draw_shown(size, g.neighbour_dropout, rng)
        shown = torch.from_numpy(drawn).to(batch.images.device) if g.neighbour_dropout else None
        guides = Guides(shown=shown)
        if g.neighbour_as_real:
            guides = replace(guides, real=neighbours.real(found[:size, 0]))
        if g.neighbour_style:
            wanted = queries[0].style
            style = neighbours.style(found[:size], wanted, g.neighbour_style)
            guides = replace(guides, style=style if shown is None else torch.where(shown[:, None], style, wanted))
        if not self.fused:
            return replace(batch, guides=replace(guides, shown=None))
        guides = replace(guides, maps=torch.split(neighbours.content(found), size))
        if g.content_dropout:  # an image that sees no neighbours sees all of itself
            side = queries[0].content.shape[2]
            hidden = draw_hidden(size, side, g.content_dropout, rng) & drawn[:, None, None, None]
            guides = replace(guides, hidden=torch.from_numpy(hidden).to(batch.images.device))
        return replace(batch, guides=guides)

    def guide(
        self, images: Tensor, content: Tensor, style: Tensor, ids: NDArray[np.int64]
    ) -> tuple[Guide | None, Tensor]:
        """For a sample picture of images with these ids."""
        if self.neighbours is None:
            return None, style
        found = self.neighbours.find(content, style, ids, repeat(np.random.default_rng([self.seed, 6])), images)
        if share := self.settings.neighbour_style:
            style = self.neighbours.style(found, style, share)
        return (Guide(self.neighbours.content(found)) if self.fused else None), style

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        return use_of_neighbours(self.method, batch)


@torch.no_grad()
def use_of_neighbours(method: Guidable, batch: Batch) -> dict[str, Tensor]:
    """Whether guidance is used, right after a step on the encoded batch; nothing where none is shown.

    neighbour_gate: how far its way is open. neighbour_share: ‖neighbours' part‖ / ‖source's part‖ of c_total, where
    they enter there. fusion_gradient: norm of the step's gradient. neighbour_swap (batches of 2 or more): how much the
    translation changes when each image is given another's neighbours, ‖x̂(r) − x̂(r′)‖ / ‖x̂(r) − x‖.
    """
    guidance = method.networks.get("fusion")
    if not isinstance(guidance, Guidance) or not batch.guides.maps:
        return {}
    (content, style), neighbours = method.queries(batch)[0], batch.guides.maps[0]
    gradients = [p.grad.float().norm() for p in guidance.parameters() if p.grad is not None]
    measured = {
        "neighbour_gate": guidance.gate().float(),
        "fusion_gradient": torch.stack(gradients).norm() if gradients else content.new_zeros(()),
    }
    if not guidance.pixels:
        source, theirs = (part.float() for part in guidance.branches(content, neighbours))
        measured["neighbour_share"] = theirs.norm() / source.norm().clamp(min=TINY)
    if len(batch.images) > 1:
        own, others = (
            method.decode(content, style, batch.images, Guide(shown)).image.float()
            for shown in (neighbours, neighbours.roll(1, 0))
        )
        measured["neighbour_swap"] = (own - others).norm() / (own - batch.images).norm().clamp(min=TINY)
    return measured
