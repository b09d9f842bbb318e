"""Exact search and k-means by FAISS on a GPU, and the vectors that are kept there.

The one idea: the GPU picks candidates from all the vectors that it is handed (never with a selector, which FAISS drops
there without a word), and `index.exact_search` makes of them what it makes of the CPU's. So the CPU is the oracle, and
a `Device` without a GPU, which computes by FAISS's CPU twins, goes the same way.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from index_store import forking
from index_store.errors import RgunitError, UsageError
from index_store.index import Ids, Vectors, faiss

MOST = 2048  # neighbours that FAISS finds at once on a GPU
BUDGET_MIB = 8192
PROBE = 65_536  # rows of the searches that are timed


@dataclass(frozen=True)
class Times:
    """Microseconds, measured for a number of queries: what a call takes, a row kept on the device, a row sent there;
    and a row on the CPU."""

    call: float
    row: float
    sent: float
    cpu: float


class Device:
    """A GPU by its number (None: FAISS's CPU twins) with a budget in MiB for vectors kept on it.

    FAISS's resources of a GPU serve one thread at a time; threads that share a `Device` wait for each other. In a
    forked child it is of no use (CUDA's rule): `usable` says so.
    """

    def __init__(self, number: int | None, budget_mib: int = BUDGET_MIB) -> None:
        if budget_mib < 1:
            raise UsageError(f"the device's budget must be at least 1 MiB, not {budget_mib}")
        self.number, self.budget = number, budget_mib * 2**20
        self.name = "the CPU's twin of a GPU" if number is None else f"cuda:{number}"
        self.usable = True
        self._guard = threading.RLock()
        self._resources: Any = None
        self._held: OrderedDict[int, tuple[Vectors, Any]] = OrderedDict()
        self._times: dict[tuple[int, int], Times] = {}
        forking.remember(self)

    def after_fork(self) -> None:
        """In a forked child: left alone, for CUDA does not live through a fork."""
        self._guard = threading.RLock()
        self.usable = self.number is None

    @property
    def held_bytes(self) -> int:
        """Bytes of the vectors that are kept on it."""
        return sum(vectors.nbytes for vectors, _ in self._held.values())

    def fits(self, k: int) -> bool:
        """Whether it can find k neighbours."""
        return self.usable and k <= MOST

    def keeps(self, size: int) -> bool:
        """Whether vectors of so many bytes may be kept on it."""
        return size <= self.budget

    def flat(self, dim: int) -> Any:
        """An empty FAISS index of plain vectors on the device."""
        if self.number is None:
            return faiss().IndexFlatL2(dim)
        config = faiss().GpuIndexFlatConfig()
        config.device = self.number
        return faiss().GpuIndexFlatL2(self._ready(), dim, config)

    def _ready(self) -> Any:
        """FAISS's resources of the GPU, made when they are first needed."""
        if self._resources is None:
            self._resources = faiss().StandardGpuResources()
        return self._resources

    def knn(self, queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return FAISS's squared distances [q, k] and rows [q, k] of vectors [n, d].

        They are kept on the device if they fit its budget (those that were not used lately give way), and else sent
        there in blocks.
        """
        with forking.native(), self._guard:
            index = self._kept(vectors)
            if index is not None:
                found: tuple[Vectors, Ids] = index.search(queries, k)
                return found
            return self._sent(queries, vectors, k)

    def _kept(self, vectors: Vectors) -> Any:
        """The index of vectors on the device, made if they fit; None if they do not."""
        held = self._held.get(id(vectors))  # the array is kept too, so that its number stays its own
        if held is not None:
            self._held.move_to_end(id(vectors))
            return held[1]
        if not self.keeps(vectors.nbytes):
            return None
        while self._held and self.held_bytes + vectors.nbytes > self.budget:
            self._held.popitem(last=False)
        index = self.flat(vectors.shape[1])
        for start in range(0, len(vectors), PROBE):  # a memory-mapped file is read in blocks
            index.add(np.ascontiguousarray(vectors[start : start + PROBE]))
        self._held[id(vectors)] = vectors, index
        return index

    def _sent(self, queries: Vectors, vectors: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Search vectors that are sent there in blocks of half the budget at most."""
        if self.number is None:
            distances, rows = faiss().knn(queries, vectors, k)
            return distances, rows.astype(np.int64)
        self._held.clear()
        limit = self.budget // 2
        found: tuple[Vectors, Ids] = faiss().knn_gpu(
            self._ready(), queries, vectors, k, device=self.number, vectorsMemoryLimit=limit
        )
        return found

    def forget(self) -> None:
        """Keep no vectors any more."""
        with self._guard:
            self._held.clear()

    def times(self, dim: int, queries: int) -> Times:
        """What searches with so many queries take here and on the CPU, measured when first asked for."""
        bucket = min(queries.bit_length(), 10)
        with forking.native(), self._guard:
            if (dim, bucket) not in self._times:
                self._times[dim, bucket] = self._measure(dim, 2 ** (bucket - 1))
            return self._times[dim, bucket]

    def _measure(self, dim: int, queries: int) -> Times:
        """Time searches of random vectors: of few and of many, kept and sent, and by the CPU."""
        rng = np.random.default_rng(0)
        few, many = (rng.standard_normal((rows, dim), np.float32) for rows in (PROBE // 8, PROBE))
        asked = rng.standard_normal((queries, dim), np.float32)
        flats = [self.flat(dim), self.flat(dim)]
        for flat, vectors in zip(flats, (few, many), strict=True):
            flat.add(vectors)
        short, long = (_best(lambda flat=flat: flat.search(asked, 10)) for flat in flats)
        row = max(0.0, long - short) / (len(many) - len(few))
        begun = time.perf_counter()
        sent = self.flat(dim)
        sent.add(many)
        sending = (time.perf_counter() - begun) / len(many)
        cpu = _best(lambda: faiss().knn(asked, many, 10)) / len(many)
        call = max(0.0, short - row * len(few))
        return Times(*(1e6 * seconds for seconds in (call, row, sending, cpu)))

    def cost(self, rows: int, dim: int, queries: int) -> tuple[float, float]:
        """Microseconds that `queries` queries of `rows` rows take on the device, and on the CPU."""
        told = self.times(dim, queries)
        kept = self.keeps(4 * rows * dim)
        return told.call + rows * (told.row + (0.0 if kept else told.sent)), rows * told.cpu

    def told(self, size: int) -> str:
        """Say where vectors of so many bytes are searched, and whether they stay there."""
        budget = self.budget // 2**20
        if self.keeps(size):
            return f"on {self.name} (vectors kept there: {self.held_bytes / 2**20:.0f} of {budget} MiB)"
        return f"on {self.name} (vectors sent there in blocks: {size / 2**20:.0f} MiB are over {budget} MiB)"


def _best(call: Any) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def device_of(name: str, budget_mib: int = BUDGET_MIB) -> Device | None:
    """The device of a name: `cpu` (None: no device), `cuda`, `cuda:N`, or `auto` (a GPU if there is one).

    RgunitError where FAISS finds no such GPU, UsageError for another name. `mps` is none of FAISS's: the CPU.
    """
    if name in ("cpu", "mps"):
        return None
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdecimal()):
        raise UsageError(f"device {name!r}: choose auto, cpu, cuda or cuda:N")
    count = faiss().get_num_gpus() if hasattr(faiss(), "StandardGpuResources") else 0
    if int(number or 0) < count:
        return Device(int(number or 0), budget_mib)
    if kind == "auto":
        return None
    seen = f"{count} GPUs" if count else "no GPU"
    raise RgunitError(f"device {name}: FAISS finds {seen} here (it needs its GPU build and a driver): use --device cpu")
