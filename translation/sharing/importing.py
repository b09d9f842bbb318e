"""A shared model taken into a workspace: checked whole before anything is written, then runs, pictures and vectors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from index_store.attributes import AttributeSchema
from index_store.catalog import Catalog
from index_store.errors import Locked, RgunitError, UsageError
from index_store.features import Record
from index_store.learned import keep_learned
from index_store.places import sha256_of
from index_store.replay import schema_header
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.config import RetrievalConfig
from retrieval.graphs import keep_graphs
from retrieval.network import make_network, shapes_of
from retrieval.retriever import Retriever
from retrieval.scales import measure_scale
from translation.config import parse_config
from translation.indexing import open_retriever
from translation.progress import Progress
from translation.runs import RETRIEVAL
from translation.sharing.package import LABELS, PICTURES, VECTORS, Manifest, SharedRun, opened
from translation.training.checkpoints import later, save_tensors
from translation.training.memory import within_memory
from translation.translator import method_of_run


@dataclass(frozen=True)
class Imported:
    """The run that was shared, all runs that came, how many pictures, and whether something may guide it."""

    run: str
    stage: str
    runs: list[dict[str, str]]
    images: int
    licence: str | None


def import_model(path: Path, source: Path, *, sha256: str | None = None, progress: Progress | None = None) -> Imported:
    """Take a folder or a zip of `export_run` into the workspace at `path`, which is made where there is none.

    `sha256`: what the zip, or a folder's `rgunit.json`, must have. Everything is checked first: hashes, schema, and
    that the weights are those of the networks that the settings describe. RgunitError names what does not fit; what was
    written by then goes again.
    """
    if not source.exists():
        raise UsageError(f"{source} is not there: give the folder or zip of `rgunit export`")
    fresh = not Catalog.exists(path.absolute())
    beside = path.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    if sha256 is not None and source.is_file() and sha256_of(source) != sha256.lower():
        raise RgunitError(f"{source} has another SHA-256 than {sha256}: fetch it again")
    with opened(source, beside) as (folder, manifest, digest):
        if sha256 is not None and source.is_dir() and digest != sha256.lower():
            raise RgunitError(f"{source}: its rgunit.json has another SHA-256 than {sha256}: fetch it again")
        if manifest.form == "onnx":
            raise RgunitError(f"{source} holds ONNX graphs, which are for other programs: import --format hub or torch")
        _check(source, folder, manifest)
        if fresh and path.exists() and any(path.iterdir()):
            raise UsageError(f"{path} is no workspace and not empty: give another --workspace")
        try:
            with Workspace.ensure(path) as workspace, _whole_or_not(workspace, digest) as made:
                return _take(workspace, folder, manifest, digest, made, progress or Progress())
        except (Locked, FileExistsError):  # somebody made it meanwhile
            raise
        except BaseException:
            if fresh:
                shutil.rmtree(path, ignore_errors=True)
            raise


def _home(workspace: Workspace, digest: str) -> Path:
    """Where the pictures of a shared model are copied to."""
    return workspace.path / "images" / "imported" / digest[:16]


@contextmanager
def _whole_or_not(workspace: Workspace, digest: str) -> Iterator[list[str]]:
    """Around writing, which notes its runs in the list: what was written goes again where that fails, but for
    attributes that are new to the schema. What others wrote meanwhile stays."""
    home, made = _home(workspace, digest), list[str]()
    there = home.exists()  # then an earlier import's pictures are in it, and registered
    try:
        yield made
    except BaseException:
        with suppress(RgunitError, OSError):  # why it failed is told instead
            for run in made:
                workspace.update_run(run, status="failed")
            workspace.delete_runs(made)
            if not there:
                table = workspace.images()
                own = [Path(path).is_relative_to(home) for path in table.paths]
                workspace.store().remove(table.ids[np.array(own, np.bool_)])
                shutil.rmtree(home, ignore_errors=True)
        raise


def _check(source: Path, folder: Path, manifest: Manifest) -> None:
    """RgunitError unless every run can be built, and its weights are those of its networks."""
    try:
        schema = AttributeSchema(tuple(manifest.attributes), tuple(tuple(group) for group in manifest.groups))
        for run in manifest.runs:
            _check_run(folder, run, schema)
        if manifest.collection:
            _vectors(folder, manifest)
    except (ValidationError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RgunitError(f"{source} is no model that this rgunit reads: {reason}") from None


def _check_run(folder: Path, run: SharedRun, schema: AttributeSchema) -> None:
    """See `_check`: one run, built once and thrown away."""
    used = schema.subset(tuple(str(name) for name in run.settings["attributes_used"]))
    for name in ("source", "target"):
        if name in run.settings:
            schema.filter(str(run.settings[name]))
    weights = folder / str(run.weights)
    with safe_open(weights, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    with within_memory(f"the run of stage {run.stage}", "cpu", "use it on a larger machine"):
        if run.stage == RETRIEVAL:
            networks = {"embedding": _network(run, weights)}
        else:
            networks = dict(method_of_run(run.settings, run.stage, used).networks)
        wanted = {
            f"{n}.{key}": tuple(t.shape)
            for n, network in networks.items()
            for key, t in network.state_dict().items()
            if f"{n}.{key}" in shapes or key not in later(network)
        }
    if wanted != shapes:
        odd = sorted(wanted.items() ^ shapes.items())[0]
        raise ValueError(
            f"{run.weights} does not hold the networks that its settings describe ({odd[0]}, {list(odd[1])})"
        )


def _network(run: SharedRun, weights: Path) -> Any:
    """The embedding network of a retrieval run, freshly made."""
    parse_config(run.settings["config"])
    config = RetrievalConfig.model_validate(run.settings["config"]["retrieval"])
    size = int(run.settings["config"]["data"]["size"]) // 4
    prefix = "embedding."
    with safe_open(weights, framework="pt") as file:
        tensors = {n.removeprefix(prefix): file.get_tensor(n) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118
    return make_network(config, content_size=size, **shapes_of(tensors, config, size))


def _vectors(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The collection's vectors by kind, float32 [n, ·]. ValueError where they are not the pictures'."""
    assert manifest.collection is not None
    with safe_open(folder / VECTORS, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, tensor in found.items():
        if tensor.ndim != 2 or len(tensor) != manifest.collection.images or not tensor.isfinite().all():
            raise ValueError(f"the collection's vectors {name!r} are not one for each of its pictures")
    if not {"embedding", "content"} <= found.keys() <= {"embedding", "content", "style"}:
        raise ValueError(f"the collection has the vectors {', '.join(sorted(found))}")
    if not any(run.stage == RETRIEVAL for run in manifest.runs):
        raise ValueError("a collection needs a retrieval run")
    return found


def _take(
    workspace: Workspace, folder: Path, manifest: Manifest, digest: str, noted: list[str], progress: Progress
) -> Imported:
    """Write everything: schema, pictures, runs (whose ids are noted at once), vectors."""
    _extend_schema(workspace, manifest)
    home = _home(workspace, digest)
    ids = _take_pictures(workspace, folder, manifest, home) if manifest.collection else np.empty(0, np.int64)
    made: list[RunRecord] = []
    licence = manifest.collection.licence if manifest.collection else None
    for place, run in enumerate(manifest.runs):
        progress.step(place, len(manifest.runs))
        settings = dict(run.settings)
        settings |= {name: made[other].id for name, other in run.stands_on.items()}
        settings["imported"] = {"sha256": digest, "made_by": manifest.made_by, "licence": licence}
        record = workspace.add_run(run.stage, run.preset, settings)
        noted.append(record.id)
        with safe_open(folder / str(run.weights), framework="pt") as file:
            prefix = "networks" if run.stage == RETRIEVAL else "average"
            tensors = {f"{prefix}.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_tensors(record.path / CHECKPOINT, tensors, {"step": run.steps, "optimizer_scalars": {}})
        keep_learned(record.path, ids)
        workspace.update_run(record.id, status="done", steps=run.steps)
        made.append(workspace.run(record.id))
    if manifest.collection:
        retrieval = [one for one in made if one.stage == RETRIEVAL][-1]
        retriever = open_retriever(workspace, retrieval.id, "cpu")
        _put_vectors(workspace, retriever, ids, _vectors(folder, manifest))
        if (why := keep_graphs(retriever)) is not None:
            progress.note(f"asking run {retrieval.id} will need torch: {why}")
    told = [{"id": one.id, "stage": one.stage} for one in made]
    return Imported(made[-1].id, made[-1].stage, told, len(set(ids.tolist())), licence)


def _extend_schema(workspace: Workspace, manifest: Manifest) -> None:
    """The attributes and groups that the model knows."""
    with workspace.catalog.writing():
        schema = workspace.schema.extend(manifest.attributes, manifest.groups)
        if schema != workspace.schema:
            workspace.catalog.write(Record("schema", schema_header(schema)))


def _take_pictures(workspace: Workspace, folder: Path, manifest: Manifest, home: Path) -> NDArray[np.int64]:
    """Copy the collection into the workspace and register it as training images; ids in the order of its numbers."""
    names = manifest.pictures()
    for name in names:
        target = home / name.removeprefix("collection/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target)
    for origin, place in PICTURES.items():
        if (part := home / Path(place).name).is_dir():
            labels = folder / LABELS if origin == "real" else None
            told = workspace.add_images(part, attributes=labels, origin=origin, split="train")
            if told.rejected:
                raise RgunitError(f"{told.rejected[0].path}: {told.rejected[0].reason}")
    ids = [workspace.image_for_path(home / name.removeprefix("collection/")) for name in names]
    if None in ids:
        raise RgunitError(f"{names[ids.index(None)]} was not taken: is it in the workspace with other labels?")
    return np.array(ids, np.int64)


def _put_vectors(
    workspace: Workspace, retriever: Retriever, ids: NDArray[np.int64], vectors: dict[str, Tensor]
) -> None:
    """Attach the vectors under the run's new name, and measure their scales."""
    first = np.unique(ids, return_index=True)[1]  # two pictures may be one, small as they are
    for kind, name in zip(("embedding", "content", "style"), retriever.encoder_names, strict=False):
        if kind not in vectors:
            raise RgunitError(f"the collection has no {kind} vectors")
        rows = vectors[kind].float().numpy()[first]
        workspace.put_vectors(ids[first], rows, encoder=name, fingerprint=retriever.fingerprint)
        if kind != "embedding":
            measure_scale(workspace, name, retriever.fingerprint)
