"""What runs beside the event loop: a bounded queue of work, what was made for a while, and counts of it all."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from cli.serve.gate import Refused

P = ParamSpec("P")
T = TypeVar("T")

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Seconds, the limits of the histogram."""


class Workers:
    """Threads for work that blocks, and at most `waiting` requests that wait for one."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._most = threads + waiting
        self.inside = 0

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What `work` gives. Refused with 503 where the queue is full."""
        if self.inside >= self._most:
            raise Refused(503, "too many requests are waiting: try again soon", {"Retry-After": "1"})
        self.inside += 1
        done = asyncio.wrap_future(self._pool.submit(work, *args, **options))
        done.add_done_callback(self._left)
        return await asyncio.shield(done)

    def _left(self, _: object) -> None:
        self.inside -= 1

    def close(self) -> None:
        """Wait for what runs; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)


class Shelf:
    """Pictures that were made, each under a name that nobody can guess: at most so many bytes, for so many seconds."""

    def __init__(self, most: int = 256 * 2**20, seconds: float = 600.0) -> None:
        self._most, self._seconds = most, seconds
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._guard = threading.Lock()
        self.bytes = 0

    def put(self, data: bytes) -> str:
        """Keep it and return its name."""
        name = secrets.token_urlsafe(18)
        with self._guard:
            self._kept[name] = time.monotonic(), data
            self.bytes += len(data)
            self._forget()
        return name

    def get(self, name: str) -> bytes | None:
        """What has this name, None if nothing has any more."""
        with self._guard:
            self._forget()
            found = self._kept.get(name)
            return None if found is None else found[1]

    def clear(self) -> None:
        """Keep nothing."""
        with self._guard:
            self._kept.clear()
            self.bytes = 0

    def _forget(self) -> None:
        """Let go what is too old or too much, the oldest first."""
        oldest = time.monotonic() - self._seconds
        while self._kept and (self.bytes > self._most or next(iter(self._kept.values()))[0] < oldest):
            _, (_, data) = self._kept.popitem(last=False)
            self.bytes -= len(data)


class Counts:
    """Numbers of a running server in the text format of Prometheus."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._within: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._passes = self._calls = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer of a route."""
        with self._guard:
            self._answered[route, status] += 1
            self._within.setdefault(route, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
            self._seconds[route] = self._seconds.get(route, 0.0) + seconds

    def shared(self, calls: int) -> None:
        """Count a forward pass that so many calls shared."""
        with self._guard:
            self._passes += 1
            self._calls += calls

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it, with `gauges` {name: (what it is, value)}."""
        lines: list[str] = []

        def head(name: str, kind: str, told: str) -> None:
            lines.extend((f"# HELP {name} {told}", f"# TYPE {name} {kind}"))

        with self._guard:
            head("rgunit_requests_total", "counter", "Answers by route and status.")
            for (route, status), count in sorted(self._answered.items()):
                lines.append(f'rgunit_requests_total{{route="{route}",status="{status}"}} {count}')
            head("rgunit_request_seconds", "histogram", "Time to answer by route.")
            for route, counts in sorted(self._within.items()):
                total = 0
                for limit, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                    total += count
                    lines.append(f'rgunit_request_seconds_bucket{{route="{route}",le="{limit}"}} {total}')
                lines.append(f'rgunit_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                lines.append(f'rgunit_request_seconds_count{{route="{route}"}} {total}')
            head("rgunit_forward_passes_total", "counter", "Forward passes of the networks.")
            lines.append(f"rgunit_forward_passes_total {self._passes}")
            head("rgunit_forward_calls_total", "counter", "Calls that shared those passes.")
            lines.append(f"rgunit_forward_calls_total {self._calls}")
        for name, (told, value) in gauges.items():
            head(name, "gauge", told)
            lines.append(f"{name} {value:g}")
        return "\n".join(lines) + "\n"
