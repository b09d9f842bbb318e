"""Forking while threads use a store: a child finds no lock that nobody will give back.

The one idea: whatever keeps locks of its own outside Python (SQLite, HDF5, FAISS) is called in `native`, for moments;
a fork waits until no other thread is in there, and holds those up that come. Then the child makes the store's own
locks and connections anew (`after_fork`), and FAISS works there without its threads, which a fork does not copy.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakSet

LONGEST = 30.0  # seconds that a fork waits; an integrity check of a large catalog may take longer


class Forked(Protocol):
    """What has locks or connections."""

    def after_fork(self) -> None:
        """Make them anew, in the child."""


P = ParamSpec("P")
T = TypeVar("T")

_changed = threading.Condition()
_inside: dict[int, int] = {}  # threads that are in `native`, and how deep
_forking = False
_known: WeakSet[Forked] = WeakSet()


def remember(one: Forked) -> None:
    """Have `after_fork` called in every child."""
    _known.add(one)


@contextmanager
def native() -> Iterator[None]:
    """Around a call into a library with locks of its own; never around waiting for another thread."""
    me = threading.get_ident()
    with _changed:
        if me not in _inside:
            while _forking:
                _changed.wait()
        _inside[me] = _inside.get(me, 0) + 1
    try:
        yield
    finally:
        with _changed:
            _inside[me] -= 1
            if not _inside[me]:
                del _inside[me]
                if _forking:
                    _changed.notify_all()


def natively(function: Callable[P, T]) -> Callable[P, T]:
    """The function, in `native`."""

    @wraps(function)
    def inside(*args: P.args, **named: P.kwargs) -> T:
        with native():
            return function(*args, **named)

    return inside


def _before() -> None:
    global _forking
    until = time.monotonic() + LONGEST
    me = threading.get_ident()
    _changed.acquire()
    while _forking:  # another thread forks
        _changed.wait()
    _forking = True
    while any(thread != me for thread in _inside) and (left := until - time.monotonic()) > 0:
        _changed.wait(left)


def _in_parent() -> None:
    global _forking
    _forking = False
    _changed.notify_all()
    _changed.release()


def _in_child() -> None:
    global _changed, _forking, _inside
    me = threading.get_ident()
    _changed, _forking, _inside = threading.Condition(), False, {me: _inside[me]} if me in _inside else {}
    if (faiss := sys.modules.get("faiss")) is not None:
        faiss.omp_set_num_threads(1)  # of this thread, whose pool is not there; others make their own
    for one in list(_known):
        one.after_fork()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
