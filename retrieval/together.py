"""One function for many threads: calls that arrive together are one call of it.

The one idea: nobody waits for others to come. Who finds the network free runs it, with all that came while it was busy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST = 32
"""Images of a forward pass."""


@dataclass
class _Call:
    """What one thread asks for, and what becomes of it."""

    given: tuple[Any, ...]
    key: Hashable
    answer: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    done: bool = False


class Together:
    """`run`, a function of arrays [B, …] that gives arrays [B, …] or None, for many threads: calls that wait at the
    same time and have the same `key`, shapes and types are one call of it. `told` gets the number of calls of each."""

    def __init__(self, run: Callable[..., Sequence[Any]], told: Callable[[int], None] | None = None) -> None:
        self._run, self._told = run, told
        self._waiting: list[_Call] = []
        self._guard, self._busy = threading.Lock(), threading.Lock()

    def __call__(self, *given: Any, key: Hashable = None) -> list[Any]:
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

    def joined(self, parts: Sequence[Any]) -> Any:
        """Arrays behind each other."""
        return np.concatenate(parts)

    def parted(self, whole: Any, sizes: Sequence[int]) -> Sequence[Any]:
        """The parts of these sizes."""
        return np.split(whole, np.cumsum(sizes)[:-1])

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
            given = [self.joined(part) if len(part) > 1 else part[0] for part in parts]
            sizes = [len(call.given[0]) for call in calls]
            whole = self._run(*given) if key is None else self._run(*given, key)
            split = [[None] * len(calls) if one is None else self.parted(one, sizes) for one in whole]
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
