"""Opening what was trained: a retrieval run's network, and the translation model that reads pictures for it.

The one idea: imports go one way, so the model's package announces itself: an entry point of the group
`rgunit.encoders`, named after the stage of its runs, is a function (workspace, run id, device) → `Encoders`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import cast

import torch
from pydantic import ValidationError

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.config import RetrievalConfig
from retrieval.network import Network, make_network, shapes_of
from retrieval.protocol import Encoders

PREFIX = "networks.embedding."
ENTRY_POINTS = "rgunit.encoders"


def resolve_device(device: torch.device | str) -> torch.device:
    """`auto` is CUDA where there is one; cpu, cuda, cuda:N, mps are themselves. RgunitError for what is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        raise UsageError(f"{device!r} is no device: take auto, cpu, cuda, cuda:N or mps") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise RgunitError("no CUDA device is available here: use --device cpu or auto")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise RgunitError(f"there is no {wanted}: the CUDA devices here are 0 to {torch.cuda.device_count() - 1}")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise RgunitError("no MPS device is available here: use --device cpu or auto")
    return wanted


def load_encoders(workspace: Workspace, record: RunRecord, device: torch.device) -> Encoders:
    """The translation model that a retrieval run was trained on, from the package that announces its runs' stage."""
    return load_encoders_of(workspace, str(record.config["translation_run"]), str(device))


def load_encoders_of(workspace: Workspace, translation_run: str, device: str) -> Encoders:
    """The translation model of a run, from the package that announces its stage."""
    source = workspace.run(translation_run)
    for point in entry_points(group=ENTRY_POINTS, name=source.stage):
        return cast(Encoders, point.load()(workspace, source.id, device))
    raise RgunitError(
        f"nothing installed reads runs of stage {source.stage}: install rgunit as a package (`make setup`), "
        "or pass `encoders`"
    )


def check_encoders(record: RunRecord, encoders: Encoders) -> None:
    """Raises RgunitError unless these are the encoders that a retrieval run was trained on."""
    used = tuple(record.config.get("attributes_used", ()))
    if used != encoders.schema.names:
        raise RgunitError(
            f"retrieval run {record.id} was trained on the attributes {', '.join(used)}, the translator on "
            f"{', '.join(encoders.schema.names)}: run `rgunit train retrieval`"
        )
    if trained_on(record) != encoders.fingerprint:
        raise RgunitError(
            f"retrieval run {record.id} is older than its translator: it was trained on run "
            f"{record.config.get('translation_run')} with the weights {trained_on(record)[:12]}, and these are "
            f"{encoders.fingerprint[:12]}: run `rgunit train retrieval`, then `rgunit index build`"
        )


def trained_on(record: RunRecord) -> str:
    """The fingerprint of the encoders that a retrieval run was trained on."""
    return str(record.config.get("encoders_fingerprint") or record.summary.get("encoders_fingerprint", ""))


def load_network(record: RunRecord) -> Network:
    """The embedding network of a run: its shapes by the run's configuration and the tensors, then its weights."""
    from safetensors import SafetensorError, safe_open

    path = record.path / CHECKPOINT
    try:
        settings = record.config["config"]
        config = RetrievalConfig.model_validate(settings["retrieval"])
        content_size = int(settings["data"]["size"]) // 4
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            weights = {key.removeprefix(PREFIX): file.get_tensor(key) for key in names if key.startswith(PREFIX)}
        network = make_network(config, content_size=content_size, **shapes_of(weights, config, content_size))
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise RgunitError(
            f"{path} does not hold the embedding network of run {record.id} ({why}): run `rgunit train retrieval`"
        ) from None
    return network
