"""Models for many threads: calls that arrive together share one forward pass, and what was loaded stays loaded.

The one idea: nobody waits for others to come. Who finds the network free runs it, with all that came while it was busy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from retrieval.loading import trained_on
from retrieval.retriever import Retriever
from translation.guidance import Guide
from translation.methods import Method, Translation
from translation.translator import Translator

MOST = 32
"""Images of a forward pass."""

Tensors = Sequence[Tensor | None]


@dataclass
class _Call:
    """What one thread asks for, and what becomes of it."""

    given: tuple[Tensor, ...]
    key: Hashable
    answer: list[Tensor | None] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False


class Together:
    """`run`, a function of tensors [B, …] that gives tensors [B, …], for many threads: calls that wait at the same time
    and have the same `key`, shapes and types are one call of it. `told` gets the number of calls of each."""

    def __init__(self, run: Callable[..., Tensors], told: Callable[[int], None] | None = None) -> None:
        self._run, self._told = run, told
        self._waiting: list[_Call] = []
        self._guard, self._busy = threading.Lock(), threading.Lock()

    def __call__(self, *given: Tensor, key: Hashable = None) -> list[Tensor | None]:
        """The part of the answer that is of `given`; `key` is handed to `run` and the same for all of a call."""
        shapes = tuple((one.shape[1:], one.dtype, one.device) for one in given)
        mine = _Call(given, (key, shapes))
        with self._guard:
            self._waiting.append(mine)
        with self._busy:
            if not mine.done:
                self._answer(self._take(mine), key)
        if mine.error is not None:
            raise mine.error
        return mine.answer

    def _take(self, mine: _Call) -> list[_Call]:
        """`mine` and those that wait and can go with it, the first of them first."""
        with self._guard:
            taken, images = [mine], len(mine.given[0])
            for call in self._waiting:
                if call is not mine and call.key == mine.key and images + len(call.given[0]) <= MOST:
                    taken.append(call)
                    images += len(call.given[0])
            self._waiting = [call for call in self._waiting if not any(call is one for one in taken)]
        return taken

    def _answer(self, calls: list[_Call], key: Hashable) -> None:
        """Run all of them at once; where that fails, each has failed."""
        try:
            parts = zip(*(call.given for call in calls), strict=True)
            given = [torch.cat(part) if len(part) > 1 else part[0] for part in parts]
            sizes = [len(call.given[0]) for call in calls]
            whole = self._run(*given) if key is None else self._run(*given, key)
            split = [[None] * len(calls) if one is None else torch.split(one, sizes) for one in whole]
            for place, call in enumerate(calls):
                call.answer = [one[place] for one in split]
        except BaseException as error:
            for call in calls:
                call.error = error
        finally:
            for call in calls:
                call.done = True
        if self._told is not None:
            self._told(len(calls))


class SharedTranslator(Translator):
    """A translator for many threads, of another one's networks."""

    def __init__(self, of: Translator, told: Callable[[int], None] | None = None) -> None:
        super().__init__(cast(Method, of.method), config=of.config, schema=of.schema, device=of.device, run=of.run)
        self._content = Together(lambda images: [Translator.content(self, images)], told)
        self._style = Together(lambda images: [Translator.style(self, images)], told)

        def plain(images: Tensor, content: Tensor, style: Tensor) -> Tensors:
            made = Translator.translate(self, images, content, style)
            return made.image, made.raw, made.mask

        def guided(images: Tensor, content: Tensor, style: Tensor, near: Tensor, strength: float) -> Tensors:
            made = Translator.translate(self, images, content, style, guide=Guide(near, strength))
            return made.image, made.raw, made.mask

        self._plain, self._guided = Together(plain, told), Together(guided, told)

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
        self._embedded = Together(lambda content, style: [Retriever.embed(self, content, style)], told)
        self._pooled = Together(lambda content: [Retriever.content_vectors(self, content)], told)

    def embed(self, content: Tensor, style: Tensor) -> Tensor:
        return _one(self._embedded(content, style))

    def content_vectors(self, content: Tensor) -> Tensor:
        return _one(self._pooled(content))


def _one(answer: Sequence[Tensor | None]) -> Tensor:
    assert answer[0] is not None
    return answer[0]
