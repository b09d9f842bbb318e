"""Asking the workspace's index for pictures by content and style, without torch: what every kind of retriever does.

Vectors carry the fingerprint of the weights that made them (encoders and embedding network together), so that those of
two trainings are never compared.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.queries import Found
from index_store.workspace import RunRecord, Workspace
from retrieval.composing import Composed, Floats, Reader, compose_read, descendants, no_style, style_edit
from retrieval.content_models import SETTING, ContentModel, kept_model
from retrieval.labels import LabelSearch, Near, Policy, asked_labels, policy_named
from retrieval.pictures import Picture, Results, Source, neighbours_of, with_origin, with_origins
from retrieval.scales import scale_of, spread
from retrieval.words import Words, read_words

if TYPE_CHECKING:
    from index_store.queries import Where

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Searcher(ABC):
    """A retrieval run that can be asked. `run`, `fingerprint` and `style_dim` are its own; `place` is its device.

    A context manager; it closes the workspace if it opened it.
    """

    workspace: Workspace
    run: RunRecord
    fingerprint: str
    place: str = "cpu"
    _owner: bool = False
    _model: tuple[str | None, ContentModel | None] = (None, None)

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """What reads pictures for it, made when first asked for."""

    @property
    @abstractmethod
    def style_dim(self) -> int:
        """Numbers of the style that it reads beside the content; 0 where its translation model has none."""

    @abstractmethod
    def embedded(self, content: Floats, style: Floats) -> Vectors:
        """content [B, C, h, h] and style [B, S] → embeddings float32 [B, dim]."""

    @abstractmethod
    def contents_read(self, contents: Floats) -> Vectors:
        """content [B, C, h, h] → content vectors float32 [B, ·] of length 1."""

    def close(self) -> None:
        """Close the workspace if `open` was given a folder."""
        if self._owner:
            self.workspace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def encoder_name(self) -> str:
        """The name of its embeddings in the index: the run's id."""
        return self.run.id

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """The names of its vectors in the index: embeddings, content vectors and, where it has a style, those."""
        names = self.run.id, f"{self.run.id}.content", f"{self.run.id}.style"
        return names if self.style_dim else names[:2]

    def search(
        self,
        image: Source | Picture | Sequence[Source | Picture],
        *,
        edit: str | None = None,
        style_of: Source | Picture | None = None,
        text: str | None = None,
        content_weight: float | None = None,
        k: int = 10,
        where: str | None = None,
        origin: str | None = None,
        labels: Policy | str = "prefer",
    ) -> Results:
        """The k nearest images to the content of a picture in another style; to the picture itself where none is told.

        `image` is a path, a PIL image or uint8 [H, W, 3] of any size, or several of them, whose mean content is
        sought. `edit` ("+Blond_Hair -Male") changes labels and `style_of` takes another picture's style (see
        `compose`). `where` is a filter, `origin` short for `origin=` in it; without either real and unlabelled
        images are found. A picture that the workspace has is never found by itself, nor is what was made from it.

        Known labels count, unless `labels` is "ignore" (`retrieval/labels.py`): what is known to
        contradict what is asked for (the edit, and the known labels of the pictures that the style is of) comes last,
        with "require" only what is known to agree with it; those known to have exactly the labels sought stand in their
        places in order of content. So distances need not rise with the rank.

        Distances are squared Euclidean ones of the embedding. With `content_weight` W in [0, 1] they are
        W · content + (1 − W) · style, each divided by its mean over the collection (`retrieval/scales.py`), the
        content by the user's model where the index was built with one. A run without a style looks for content alone:
        it takes no edit, no `style_of` and no other weight than 1; `where` filters by attributes. A weight of 1 looks
        at no style, so that of the labels only the edit's count then. Where its model has a style that says nothing of
        the domain, an edit and `style_of` filter by the labels that they lead to.

        With `text` half of the distance is that of the words in the text model's space, each half divided by its
        standard deviation over the collection (`retrieval/scales.py`), so that both decide alike; what fits then stands
        in that order, too.

        Raises RgunitError and UsageError in one line: a broken picture, an unknown attribute, nothing indexed.
        """
        if k < 1:
            raise UsageError(f"-k must be at least 1, not {k}")
        if content_weight is not None and not 0 <= content_weight <= 1:
            raise UsageError(f"the content weight must lie in 0 … 1, not {content_weight:g}")
        one = isinstance(image, str | Path | Image.Image | np.ndarray | Picture)
        given = cast("Sequence[Source | Picture]", [image] if one else image)
        if not given:
            raise UsageError("a query needs at least one picture")
        led = edit is not None or style_of is not None
        if led and not self.style_dim and not self.reader.style_dim:
            raise no_style(self._named())
        policy = policy_named(labels)
        where = with_origin(self.workspace, where, origin)
        workspace, reader = self.workspace, self.reader
        change = None if edit is None else style_edit(workspace, reader, edit)
        pictures = [Picture.of(workspace, one) for one in given]
        other = None if style_of is None else Picture.of(workspace, style_of)
        started = time.perf_counter()
        schema, unknown = reader.schema, np.full(len(reader.schema.names), -1, np.int8)
        known = [one.labels(workspace, schema) for one in pictures]
        query = compose_read(
            reader,
            np.stack([one.at(reader.size) for one in pictures]),
            edit=change,
            style_of=None if other is None else other.at(reader.size),
            known_labels=np.stack([unknown if row is None else row for row in known]),
            style_of_labels=None if other is None else other.labels(workspace, schema),
        )
        if led and not self.style_dim:  # its translation model has styles that say nothing of the domain
            where = f"{where or ''} {schema.terms(query.target)}".strip()
        own = [one.image_id for one in pictures if one.image_id is not None]
        styled = known if other is None else [other.labels(workspace, schema)]
        words = None if text is None else read_words(workspace, text, device=self.place)
        alone = content_weight == 1  # no style is looked at
        asked = asked_labels(query.target, [] if alone else styled, change)
        orders = self._orders(query, pictures, content_weight, words)
        search = LabelSearch(
            workspace.schema, schema.names, asked, asked if alone else query.target, policy, *orders, self._labels
        )
        found = search(k, where, descendants(workspace, own) if own else np.empty(0, np.int64))
        neighbours = neighbours_of(workspace, found.ids[0], found.distances[0])
        milliseconds = 1e3 * (time.perf_counter() - started)
        plan = found.plan + (words.note if words else "")
        return Results(neighbours, schema.describe(query.target), plan, milliseconds, policy, text)

    def _orders(
        self, query: Composed, pictures: Sequence[Picture], weight: float | None, words: Words | None = None
    ) -> tuple[Near, Callable[[int, str, Ids], Found | None] | None]:
        """How all images are ordered, and how those with the labels sought (None: as all)."""
        if weight is not None:
            model = self._content_model() if weight else None
            content, style = self._contents(query, pictures, model) if weight else None, query.style
            return self._fused(*self._weighted(content, style, weight, model), words), None
        vector = self.embedded(query.content, query.style)
        if words is not None:
            self._require(self.encoder_name, self.fingerprint)
            own = f"{self.encoder_name}@{self.fingerprint}"
            return self._fused({own: vector}, {own: 1.0}, words), None

        def near(k: int, where: str, exclude: Ids) -> Found:
            return self.nearest(vector, k=k, where=where, exclude=exclude)

        def by_content(k: int, where: str, exclude: Ids) -> Found | None:
            model = self._content_model()
            if self._scale(*self._content_encoder(model)) is None:  # an index of before, or not built with the model
                return None
            content = self._contents(query, pictures, model)
            found = self.nearest_weighted(content, None, 1.0, model=model, k=k, where=where, exclude=exclude)
            if (found.ids < 0).any():  # some have no content vector
                return None
            stored = self.workspace.store().vectors(found.ids[0], encoder=f"{self.encoder_name}@{self.fingerprint}")
            return Found(found.ids, np.square(stored - vector).sum(axis=1, dtype=np.float32)[None], found.plan)

        return near, by_content

    def _contents(self, query: Composed, pictures: Sequence[Picture], model: ContentModel | None) -> Vectors:
        """The content that is sought, [1, ·], by the run or by the user's model."""
        if model is None:
            return _mean_direction(self.contents_read(query.contents))
        return _mean_direction(model(np.stack([one.at(model.side) for one in pictures])))

    def _labels(self, where: str, ids: Ids | None) -> tuple[Ids, NDArray[np.int8]]:
        """The images of a filter (of some ids), ids [n] and their labels int8 [n, A] over the style's attributes."""
        table = self.workspace.images(where, ids=ids)
        return table.ids, table.labels[:, self.workspace.schema.indices(self.reader.schema.names)]

    def nearest(self, vectors: ArrayLike, *, k: int = 10, where: Where = None, exclude: Any = None) -> Found:
        """The k nearest indexed images of embeddings float32 [dim] or [q, dim]; see `IndexStore.search`.

        `where` is one filter or one for each query; without an `origin=` in it, real and unlabelled images only.
        Raises RgunitError while nothing is indexed.
        """
        self._require(self.encoder_name, self.fingerprint)
        return self.workspace.store().search(
            np.asarray(vectors, np.float32),
            k=k,
            where=with_origins(self.workspace, where),
            exclude=exclude,
            encoder=f"{self.encoder_name}@{self.fingerprint}",
        )

    def nearest_weighted(
        self,
        content: Vectors,
        style: Vectors | None,
        weight: float,
        *,
        model: ContentModel | None = None,
        k: int = 10,
        where: Where = None,
        exclude: Any = None,
    ) -> Found:
        """The k nearest images by weight · content + (1 − weight) · style distance, each divided by its mean.

        content float32 [q, ·] by this retriever or, where given, by `model`; style float32 [q, S], which weight 1
        does not look at (None). `where` and `exclude` as in `nearest`. Exact. Raises RgunitError while these vectors
        are not indexed, UsageError where another weight than 1 is asked of a run without a style.
        """
        near = self._fused(*self._weighted(content, style, weight, model))
        return near(k, where, exclude)

    def _weighted(
        self, content: Vectors | None, style: Vectors | None, weight: float, model: ContentModel | None
    ) -> tuple[dict[str, Vectors], dict[str, float]]:
        """Content and style as queries and their weights, by encoder; see `nearest_weighted`."""
        if weight < 1 and (style is None or not self.style_dim):
            raise UsageError(f"{self._named()} has no style to weigh content against: ask with a content weight of 1")
        styles = self.encoder_names[-1]
        encoder, mark = self._content_encoder(model)
        parts = ((encoder, mark, content, weight), (styles, self.fingerprint, style, 1 - weight))
        queries, weights = {}, {}
        for name, seal, vectors, share in parts:
            if share > 0 and vectors is not None:
                scale = self._require(name, seal)
                queries[f"{name}@{seal}"], weights[f"{name}@{seal}"] = vectors, share / scale
        return queries, weights

    def _fused(
        self, queries: dict[str, Vectors], weights: dict[str, float], words: Words | None = None
    ) -> Callable[[int, Where, Any], Found]:
        """A search by a weighted sum of distances; with words by the mean of it and theirs, each over its spread."""
        if words is not None:
            both = [(queries, weights), ({words.encoder: words.vector}, {words.encoder: 1.0})]
            spreads = [spread(self.workspace, *one) for one in both]
            queries = queries | {words.encoder: words.vector}
            weights = {name: one / (2 * spreads[0]) for name, one in weights.items()}
            weights[words.encoder] = 1 / (2 * spreads[1])

        def near(k: int, where: Where, exclude: Any) -> Found:
            found = self.workspace.store().search_fused(
                queries, weights, k=k, where=with_origins(self.workspace, where), exclude=exclude
            )
            told = found.plan
            for name in queries:
                told = told.replace(name, name.partition("@")[0])
            return Found(found.ids, found.distances, told)

        return near

    def _named(self) -> str:
        """It in a message: its run and the one that it was trained on."""
        return f"retrieval run {self.run.id}, on translation run {self.run.config.get('translation_run', '?')},"

    def _content_encoder(self, model: ContentModel | None) -> tuple[str, str]:
        """The name and the fingerprint of content vectors: the run's, or those of the user's model."""
        if model is None:
            return self.encoder_names[1], self.fingerprint
        return model.encoder_name, model.fingerprint

    def _scale(self, encoder: str, seal: str) -> float | None:
        """The scale of indexed vectors, None if there are none, or theirs was never measured."""
        there = (encoder, seal) in {(info.name, info.fingerprint) for info in self.workspace.store().encoders()}
        if not there:
            return None
        return 1.0 if encoder == self.encoder_name else scale_of(self.workspace, encoder, seal)

    def _require(self, encoder: str, seal: str) -> float:
        """The scale of indexed vectors. Raises RgunitError if there are none, or theirs was never measured."""
        scale = self._scale(encoder, seal)
        if scale is not None:
            return scale
        what = "content model" if not encoder.startswith(self.run.id) else f"retrieval run {self.run.id}"
        raise RgunitError(
            f"{self.workspace.path} has no vectors {encoder} of the {what} as it is now ({seal[:12]}): "
            "run `rgunit index build`"
        )

    def _content_model(self) -> ContentModel | None:
        """The user's model that content is taken from, loaded once; None where it is this run's own."""
        told = self.workspace.meta(SETTING)
        if self._model[0] != told:
            self._model = told, kept_model(self.workspace, device=self.place)
        return self._model[1]


def _mean_direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of vectors [n, d], at length 1: [1, d]."""
    mean = vectors.mean(axis=0, keepdims=True)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
