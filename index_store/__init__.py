"""What is known: images, labels, vectors; how they are kept and searched. Speaks NumPy, never torch.

The one idea: importing this package costs nothing; SQLAlchemy, HDF5 and FAISS load when a store is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index_store.store import Found, IndexStore, Report
    from index_store.workspace import ImageTable, Workspace

__all__ = ["Found", "ImageTable", "IndexStore", "Report", "Workspace"]


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first asked for."""
    if name in ("Found", "IndexStore", "Report"):
        from index_store import store

        return getattr(store, name)
    if name in ("ImageTable", "Workspace"):
        from index_store import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module 'index_store' has no attribute {name!r}")
