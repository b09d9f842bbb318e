"""Asking by words: the images of the index that are nearest to a text, without torch and without a retrieval run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.labels import Policy, policy_named
from retrieval.pictures import Results, neighbours_of, with_origin
from retrieval.text_models import kept_text_model


@dataclass(frozen=True)
class Words:
    """Words as a query: their vector float32 [1, d] of length 1, `encoder` (name@fingerprint) of the pictures' vectors.

    `note` is what the answer's plan tells beside it."""

    text: str
    vector: NDArray[np.float32]
    encoder: str
    note: str = ""


def read_words(workspace: Workspace, text: str, *, device: str = "cpu") -> Words:
    """Words by the workspace's text model. RgunitError where it has none, or no picture was indexed by it."""
    model = kept_text_model(workspace, device=device)
    if model is None:
        raise RgunitError(
            f"{workspace.path} has no text model, which --text needs: run `rgunit index build --text-model FOLDER` "
            "with a CLIP or SigLIP that was exported to ONNX"
        )
    there = {(info.name, info.fingerprint) for info in workspace.store().encoders()}
    if (model.encoder_name, model.fingerprint) not in there:
        raise RgunitError(
            f"{workspace.path} has no vectors {model.encoder_name} of its text model yet: run `rgunit index build`"
        )
    vector = model.words(text)
    note = "; the words are more than the model reads: their end was left out" if model.cut(text) else ""
    return Words(text, vector, f"{model.encoder_name}@{model.fingerprint}", note)


def search_text(
    workspace: Workspace,
    text: str,
    *,
    k: int = 10,
    where: str | None = None,
    origin: str | None = None,
    labels: Policy | str = "prefer",
    device: str = "cpu",
) -> Results:
    """The k images nearest to words alone: by the cosine of their vectors in the text model's space.

    `distance` is the squared Euclidean one of unit vectors, 2 − 2 · cosine. `where` and `origin` filter as in
    `Searcher.search`. No label is asked for, so `labels` "require" is refused (UsageError).
    """
    policy, started = policy_named(labels), time.perf_counter()
    if policy == "require":
        raise UsageError("--labels require needs a label to ask for, and words alone name none: take --where '+Name'")
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    where = with_origin(workspace, where, origin)
    words = read_words(workspace, text, device=device)
    found = workspace.store().search(words.vector, k=k, where=where, encoder=words.encoder)
    neighbours = neighbours_of(workspace, found.ids[0], found.distances[0])
    milliseconds = 1e3 * (time.perf_counter() - started)
    target: dict[str, int | None] = dict.fromkeys(workspace.schema.names)
    plan = f"{words.encoder.partition('@')[0]}: {found.plan}{words.note}"
    return Results(neighbours, target, plan, milliseconds, policy, text)
