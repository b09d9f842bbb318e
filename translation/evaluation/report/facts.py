"""What was run, on what and where: the part of a report that comes from the workspace and the machine."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from index_store.names import dotted

if TYPE_CHECKING:
    from index_store.workspace import Workspace

PACKAGES = ("rgunit", "torch", "lightning-fabric", "faiss-gpu-cuvs", "faiss-cpu", "numpy", "pillow", "h5py")


def data_facts(workspace: Workspace, attributes_used: Sequence[str]) -> dict[str, Any]:
    """Counts by origin and split, and for each attribute how many labelled images have it.

    Keys: images, by_origin {name: n}, by_split {name: n} (real images), labelled, attributes [{name, used, positive
    (share of known), unknown (share)}] with the used ones first, groups, violations.
    """
    table = workspace.images()
    origin = np.asarray(table.origin, dtype=object)
    real = table.select(np.flatnonzero(origin == "real"))
    names = workspace.schema.names
    rows = []
    for name in sorted(names, key=lambda name: (name not in attributes_used, names.index(name))):
        labels = real.labels[:, names.index(name)]
        known = labels >= 0
        rows.append(
            {
                "name": name,
                "used": name in attributes_used,
                "positive": float((labels == 1).sum() / known.sum()) if known.any() else None,
                "unknown": float(1 - known.mean()) if len(labels) else 0.0,
            }
        )
    return {
        "images": len(table),
        "by_origin": dict(Counter(str(name) for name in origin)),
        "by_split": dict(Counter(str(name) for name in real.split)),
        "labelled": int((real.labels >= 0).any(axis=1).sum()) if len(real) else 0,
        "attributes": rows,
        "groups": [list(group) for group in workspace.schema.groups],
        "violations": workspace.schema.violations(real.labels) if len(real) else 0,
    }


def machine_facts(device: str) -> dict[str, str]:
    """The machine and the versions that made the numbers, in words."""
    facts = {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Memory": _bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "Device": _device(device),
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    facts["Versions"] = ", ".join(found)
    return facts


def peak_memory() -> int:
    """Bytes that this process held at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory(size: int | None) -> str:
    """A size in words: that of `size` bytes, of this process's peak where it is None."""
    return _bytes(peak_memory() if size is None else size)


def duration(seconds: float) -> str:
    """Seconds in words: 8.2 s, 4 min 05 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested configuration as (`section.key`, value) lines, in its own order."""
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for name, value in dotted(config).items()
    ]


def _bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _device(device: str) -> str:
    torch = sys.modules.get("torch")  # a report alone is no reason to load it
    if device != "cpu" and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "CPU" if device in ("cpu", "auto") else device
