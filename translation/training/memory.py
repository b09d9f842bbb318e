"""Settings that need more memory than there is end in a sentence, not by the system's killing the process.

The one idea: on a CPU Linux promises more than it has and then kills somebody. While a run is made and trained, this
process may take no more than what is free (RLIMIT_DATA), so that the allocation that is too much fails, and is told.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import OutOfMemoryError, cuda

from index_store.errors import RgunitError

_CGROUP = Path("/sys/fs/cgroup")
_TOLD = ("can't allocate memory", "bad_alloc", "out of memory", "overflow", "Cannot allocate memory")
REMEDY = "take a smaller batch (`--set translation.batch=…`), size (`data.size`) or width (`networks.width`)"


@contextmanager
def within_memory(what: str, device: str, remedy: str = REMEDY) -> Iterator[None]:
    """Around work whose size the settings decide: RgunitError where it needs more memory than is free.

    Only work on a CPU is limited: a GPU's driver reserves addresses that are no memory.
    """
    limit = device == "cpu" or not cuda.is_available()
    free = free_bytes()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if limit and free is not None:
        _allow(_taken() + free, before)
    try:
        yield
    except (MemoryError, OutOfMemoryError, OverflowError, RuntimeError, ValueError) as error:
        if not isinstance(error, (MemoryError, OutOfMemoryError)) and not any(one in str(error) for one in _TOLD):
            raise
        there = "" if free is None or not limit else f" ({free / 1e9:.1f} GB are free)"
        raise RgunitError(f"{what} needs more memory than there is{there}: {remedy}") from error
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, before)


def free_bytes() -> int | None:
    """Bytes that this process can still get: of the machine, or of its container; None where nothing tells."""
    with suppress(OSError, ValueError, KeyError):
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(told[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
        with suppress(OSError, ValueError):  # "max": no limit
            most = int((_CGROUP / "memory.max").read_text())
            free = min(free, most - int((_CGROUP / "memory.current").read_text()))
        return max(free, 0)
    return None


def _taken() -> int:
    """Bytes that count for RLIMIT_DATA and are taken."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _allow(most: int, before: tuple[int, int]) -> None:
    """Let this process take so many bytes, unless less is allowed already."""
    soft, hard = before
    if soft == resource.RLIM_INFINITY or most < soft:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
