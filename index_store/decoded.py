"""Decoded images that are kept in memory while they fit; the least recently used ones go."""

from __future__ import annotations

import threading
from collections import OrderedDict

from index_store.images import Pixels

MOST = 256 * 2**20  # bytes of pixels
Known = tuple[int, int, float | None]


class DecodedImages:
    """Images uint8 [S, S, 3] by id, side S and white level. Threads may share it."""

    def __init__(self) -> None:
        self._images: OrderedDict[Known, Pixels] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    def get(self, known: Known) -> Pixels | None:
        """An image, None where it is not kept."""
        with self._guard:
            if known in self._images:
                self._images.move_to_end(known)
            return self._images.get(known)

    def keep(self, known: Known, pixels: Pixels) -> None:
        """Remember an image."""
        with self._guard:
            if known not in self._images:
                self._images[known] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > MOST:
                _, gone = self._images.popitem(last=False)
                self._bytes -= gone.nbytes

    def after_fork(self) -> None:
        """In a forked child: a lock that no thread of the parent holds."""
        self._guard = threading.Lock()
