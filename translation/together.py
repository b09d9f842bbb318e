"""Models for many threads: calls that arrive together share one forward pass, and what was loaded stays loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from retrieval.loading import trained_on
from retrieval.retriever import Retriever
from retrieval.together import Together
from translation.guidance import Guide
from translation.methods import Joins, Method, Translation
from translation.translator import Translator

Tensors = Sequence[Tensor | None]


class TensorsTogether(Together):
    """`Together` of tensors."""

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def parted(self, whole: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
        return torch.split(whole, list(sizes))


class SharedTranslator(Translator):
    """A translator for many threads, of another one's networks."""

    def __init__(self, of: Translator, told: Callable[[int], None] | None = None) -> None:
        super().__init__(cast(Method, of.method), config=of.config, schema=of.schema, device=of.device, run=of.run)
        self._of = of
        self._content = TensorsTogether(lambda images: [Translator.content(self, images)], told)
        self._style = TensorsTogether(lambda images: [Translator.style(self, images)], told)

        def plain(images: Tensor, content: Tensor, style: Tensor) -> Tensors:
            made = Translator.translate(self, images, content, style)
            return made.image, made.raw, made.mask

        def guided(images: Tensor, content: Tensor, style: Tensor, near: Tensor, strength: float) -> Tensors:
            made = Translator.translate(self, images, content, style, guide=Guide(near, strength))
            return made.image, made.raw, made.mask

        self._plain, self._guided = TensorsTogether(plain, told), TensorsTogether(guided, told)

    def told(self, source: Tensor) -> Translator:
        """As the translator says; one for images of certain domains works alone: others' are not its own."""
        return self._of.told(source) if isinstance(self.method, Joins) else self

    def content(self, images: Tensor) -> Tensor:
        return _one(self._content(images))

    def style(self, images: Tensor) -> Tensor:
        return _one(self._style(images))

    def translate(self, images: Tensor, content: Tensor, style: Tensor, *, guide: Guide | None = None) -> Translation:
        if guide is not None and (guide.shown is not None or guide.window is not None):
            return super().translate(images, content, style, guide=guide)  # a tile of a large picture, alone
        if guide is None or guide.strength == 0:
            image, raw, mask = self._plain(images, content, style)
        else:
            image, raw, mask = self._guided(images, content, style, guide.neighbours, key=guide.strength)
        assert image is not None and raw is not None
        return Translation(image, raw, mask)


class SharedRetriever(Retriever):
    """A retriever for many threads, of another one's network."""

    def __init__(self, of: Retriever, told: Callable[[int], None] | None = None) -> None:
        super().__init__(
            of.workspace,
            of.run,
            of.network,
            encoders_fingerprint=trained_on(of.run),
            encoders=of.encoders,
            device=of.device,
        )
        self._embedded = TensorsTogether(lambda content, style: [Retriever.embed(self, content, style)], told)
        self._pooled = TensorsTogether(lambda content: [Retriever.content_vectors(self, content)], told)

    def embed(self, content: Tensor, style: Tensor) -> Tensor:
        return _one(self._embedded(content, style))

    def content_vectors(self, content: Tensor) -> Tensor:
        return _one(self._pooled(content))


def _one(answer: Sequence[Tensor | None]) -> Tensor:
    assert answer[0] is not None
    return answer[0]
