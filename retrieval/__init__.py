"""Finding images by content and style: the embedding, its training, composed queries, their evaluation.

The one idea: `Retriever` is all that a caller needs; importing this package costs nothing until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.content_models import ContentModel, content_model
    from retrieval.pictures import Neighbour, Picture, Results
    from retrieval.retriever import Retriever

__all__ = ["ContentModel", "Neighbour", "Picture", "Results", "Retriever", "content_model"]

_HOMES = {
    "ContentModel": "content_models",
    "content_model": "content_models",
    "Neighbour": "pictures",
    "Picture": "pictures",
    "Results": "pictures",
    "Retriever": "retriever",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"retrieval.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
