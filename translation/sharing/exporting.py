"""A run as something to share: its weights for use alone, its settings without this machine's paths, what guides it."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.images import write_image
from index_store.places import sha256_of
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.graphs import Traced, write_graph, write_search
from retrieval.loading import load_network, trained_on
from retrieval.retriever import Retriever
from retrieval.tensors import to_tensor
from translation.guidance import Guide, with_pixels
from translation.guides import guide_filter
from translation.indexing import open_retriever, require_index
from translation.methods import find_method
from translation.progress import Progress
from translation.runs import GUIDED, RETRIEVAL, TRANSLATION, method_of, target_of
from translation.sharing.card import write_card
from translation.sharing.package import LABELS, MANIFEST, PICTURES, VECTORS, Form, Manifest, pack, seal
from translation.training.checkpoints import open_checkpoint
from translation.training.memory import within_memory
from translation.translator import Translator

TRANSLATOR = "translator.onnx"
KEPT = ("attributes_used", "seed", "neighbours", "source", "target", "encoders_fingerprint")
"""Of a run's settings, beside its configuration, what is shared."""
REFERENCES = ("translation_run", "retrieval_run")
BATCH = 256
NO_GRAPH = {"crops": "it takes each picture in its own size", "group": "it has an encoder for each domain"}
"""By what a method draws: why it has no graphs."""
TRIED = 3  # pictures that graphs are checked on


@dataclass(frozen=True)
class Exported:
    """Where it lies, its files with their hashes, the largest difference of a graph (None without), the collection."""

    out: Path
    files: list[dict[str, str]]
    parity: float | None
    manifest: Manifest


def export_run(
    workspace: Workspace,
    run_id: str,
    form: Form,
    out: Path,
    *,
    with_index: bool = False,
    licence: str | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a run of stage translation, guided or retrieval, with the runs that it stands on, to a new folder or zip.

    `torch`: weights as safetensors and settings; `hub`: the same as a Hugging Face folder with a model card; `onnx`:
    graphs for any batch, checked against PyTorch. `with_index` adds the pictures that guide and are searched (training
    and unlabelled ones, at the run's size) with labels and vectors, for which `licence` must say what may be done with
    them. Whole or not at all. UsageError or RgunitError names what cannot be done.
    """
    run = workspace.run(run_id)
    _check(run, form, out, with_index, licence)
    progress = progress or Progress()
    chain = _chain(workspace, run)
    home = out.absolute().parent
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export-", dir=home) as temporary, within_memory(f"run {run.id}", "cpu"):
        folder = Path(temporary) / "model"
        folder.mkdir()
        about: dict[str, Any] = {
            "form": form,
            "made_by": f"rgunit {version('rgunit')}",
            "command": _command(run, form, out, licence),
            "attributes": list(workspace.schema.names),
            "groups": [list(group) for group in workspace.schema.groups],
            "runs": [_described(one, chain, form) for one in chain],
        }
        if form == "onnx":
            about["parity"] = _write_graphs(workspace, chain, folder)
        else:
            for place, one in enumerate(chain):
                _write_weights(one, folder / about["runs"][place]["weights"])
        if with_index:
            about["collection"] = _write_collection(workspace, chain, folder, str(licence), progress)
        if form == "hub":
            _write_hub_config(folder, run)
        manifest = seal(folder, about)
        write_card(folder, manifest, run, workspace)
        if out.suffix == ".zip":
            pack(folder, Path(temporary) / out.name)
            (Path(temporary) / out.name).rename(out)
            files = [{"path": str(out.absolute()), "sha256": sha256_of(out)}]
        else:
            told = {name: file.sha256 for name, file in manifest.files.items() if not name.endswith(".png")}
            told[MANIFEST] = sha256_of(folder / MANIFEST)  # which names all others by theirs
            folder.rename(out)
            files = [{"path": str((out / name).absolute()), "sha256": sha} for name, sha in sorted(told.items())]
    return Exported(out.absolute(), files, manifest.parity, manifest)


def _command(run: RunRecord, form: Form, out: Path, licence: str | None) -> str:
    """What wrote it, without this machine's places."""
    more = ["--with-index", "--licence", licence] if licence else []
    return shlex.join(["rgunit", "export", run.id, "--format", form, *more, "--out", out.name])


def _check(run: RunRecord, form: Form, out: Path, with_index: bool, licence: str | None) -> None:
    """Refuse what cannot be done, before any work."""
    if run.stage not in (TRANSLATION, GUIDED, RETRIEVAL):
        raise UsageError(
            f"run {run.id} is of stage {run.stage}: export a run of stage translation, guided or retrieval"
        )
    if not (run.path / CHECKPOINT).is_file():
        raise RgunitError(f"run {run.id} has no checkpoint yet: train it first")
    if out.exists() and (not out.is_dir() or out.suffix == ".zip" or any(out.iterdir())):
        raise UsageError(f"--out {out} is there already: give a new folder, or a new .zip")
    if with_index and form == "onnx":
        raise UsageError("--with-index goes with --format hub or torch: ONNX graphs are for other programs")
    if with_index and not (licence or "").strip():
        raise UsageError(
            "--with-index shares pictures: say by --licence what others may do with them (such as 'CC BY 4.0')"
        )
    if licence and not with_index:
        raise UsageError("--licence is of the pictures that --with-index adds: leave it out, or add --with-index")
    if with_index and run.stage == TRANSLATION:
        raise UsageError(f"run {run.id} is of stage translation, which nothing guides: leave --with-index out")
    if run.stage == GUIDED and with_index and run.config.get("neighbours") != "retrieved":
        raise UsageError(f"run {run.id} is not guided by what is retrieved: leave --with-index out")
    why = NO_GRAPH.get(find_method(method_of(run)).draws)
    if run.stage != RETRIEVAL and form == "onnx" and why is not None:
        raise UsageError(f"run {run.id} ({method_of(run)}) has no ONNX form, since {why}: take --format hub or torch")


def _chain(workspace: Workspace, run: RunRecord) -> list[RunRecord]:
    """The runs that a run stands on, each before what stands on it, itself last."""
    found: list[RunRecord] = []
    for name in REFERENCES if run.stage != TRANSLATION else ():
        if run.stage == GUIDED and name == "translation_run":
            continue  # it has its own encoders; the retrieval run brings those that it was trained on
        if other := run.config.get(name):
            found += [one for one in _chain(workspace, workspace.run(str(other))) if one not in found]
    return [*found, run]


def _described(run: RunRecord, chain: list[RunRecord], form: Form) -> dict[str, Any]:
    """A run as the manifest tells it."""
    ids = [one.id for one in chain]
    settings = {name: run.config[name] for name in KEPT if name in run.config}
    settings["config"] = _without_places(run.config["config"])
    weights = "model.safetensors" if run is chain[-1] else f"{run.stage}{ids.index(run.id) + 1}.safetensors"
    return {
        "stage": run.stage,
        "preset": run.preset,
        "steps": run.steps,
        "weights": None if form == "onnx" else weights,
        "settings": settings,
        "stands_on": {n: ids.index(run.config[n]) for n in REFERENCES if run.config.get(n) in ids},
    }


def _without_places(config: Any) -> Any:
    """A configuration without files of this machine and runs of this workspace, which use does not need."""
    if isinstance(config, Mapping):
        return {
            k: "" if isinstance(v, str) and k in ("embedding", "extractor") else _without_places(v)
            for k, v in config.items()
        }
    if isinstance(config, list | tuple):
        return [_without_places(one) for one in config]
    return "" if isinstance(config, str) and ("/" in config or "\\" in config) else config


def _write_weights(run: RunRecord, path: Path) -> None:
    """The weights that are used after training, `NETWORK.TENSOR`: averages, or of a run without any the networks."""
    with open_checkpoint(run.path / CHECKPOINT) as (file, _):
        names = list(file.keys())
        prefix = "average." if any(name.startswith("average.") for name in names) else "networks."
        tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names if name.startswith(prefix)}
    if run.stage == RETRIEVAL:
        wanted: tuple[str, ...] = ("embedding",)
    else:
        wanted = tuple(_networks_in_use(run))
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name.partition(".")[0] in wanted}
    save_file(kept, path, metadata={"format": "pt"})


def _networks_in_use(run: RunRecord) -> set[str]:
    """The names of the networks that use needs. A discriminator stays where the method reads images by it."""
    with open_checkpoint(run.path / CHECKPOINT) as (file, _):
        there = {name.split(".")[1] for name in file.keys()}  # noqa: SIM118
    judges = {"discriminator", "critic", "projector"} - set(getattr(find_method(method_of(run)), "encoders", ()))
    return there - judges


def _write_graphs(workspace: Workspace, chain: list[RunRecord], folder: Path) -> float:
    """Every graph of a run, checked on pictures of the workspace; returns the largest difference."""
    run = chain[-1]
    retrieval = next((one for one in chain if one.stage == RETRIEVAL), None)
    network = None if retrieval is None else load_network(retrieval)
    reader = Translator.load(workspace, run.id if run.stage != RETRIEVAL else chain[0].id, "cpu")
    images = _tried(workspace, reader.size)
    content, style = reader.content(images), reader.style(images).float()
    named = f"run {run.id} ({reader.config.method})"
    try:
        worst, own = [], retrieval is not None and trained_on(retrieval) == reader.fingerprint
        if reader.method.encoders:
            worst.append(write_search(folder, reader, reader.networks, network if own else None, images))
        styled = {"style": style} if reader.style_dim else {}
        if run.stage != RETRIEVAL:
            given = {"images": images, **styled}
            if reader.neighbours and "fusion" in reader.networks:
                shown = with_pixels(content, images) if reader.pixels else content
                given["neighbours"] = torch.stack([shown.roll(i, 0) for i in range(reader.neighbours)], 1)
            named += f", guided by {reader.config.guided.guidance}" if "neighbours" in given else ""
            made = _translating(reader, "neighbours" in given)
            outputs = ("image", "mask")[: len(made(*(tensor[:1] for tensor in given.values())))]
            worst.append(write_graph(folder / TRANSLATOR, made, given, outputs))
    except RgunitError as error:
        raise RgunitError(f"{named} has no ONNX form: {error}; --format hub or torch shares it") from error
    return max(worst)


def _tried(workspace: Workspace, size: int) -> Tensor:
    """A few pictures float [3, 3, size, size]; noise where the workspace has none."""
    ids = workspace.images("origin=real|unlabelled").ids[:TRIED]
    if len(ids) == TRIED:
        return to_tensor(workspace.load(ids, size))
    return torch.rand(TRIED, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _translating(reader: Translator, guided: bool) -> Traced:
    """images, style where there is one, neighbours' content [n, k, C, h, w] where guided → image, and mask if any."""

    def translate(images: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        guide = Guide(more[-1]) if guided else None
        style = more[0] if reader.style_dim else images.new_zeros(images.shape[0], 0)
        made = reader.method.decode(reader.method.content(images), style, images, guide)
        return (made.image,) if made.mask is None else (made.image, made.mask)

    return Traced(reader.networks, translate)


def _write_collection(
    workspace: Workspace, chain: list[RunRecord], folder: Path, licence: str, progress: Progress
) -> dict[str, Any]:
    """The pictures that guide, at the run's size, their labels and their vectors; what the manifest tells of them."""
    retrieval = next(one for one in chain if one.stage == RETRIEVAL)
    retriever = open_retriever(workspace, retrieval.id, "cpu")
    workspace.leave_out_missing(guide_filter("real"), progress.note)
    require_index(workspace, retriever)
    table = workspace.images(f"{guide_filter('real')} {target_of(chain[-1])}".strip())
    if not len(table):
        raise RgunitError(f"{workspace.path} has no training images: nothing can guide")
    size = retriever.encoders.size
    names: list[str] = []
    for start in range(0, len(table), BATCH):
        progress.step(start, len(table))
        pixels = workspace.load(table.ids[start : start + BATCH], size)
        for row, one in enumerate(pixels, start=start):
            names.append(f"{PICTURES[str(table.origin[row])]}/{row:08d}.png")
            write_image(folder / names[-1], one)
    labelled = [row for row in range(len(table)) if str(table.origin[row]) == "real"]
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        columns = np.flatnonzero((table.labels >= 0).any(axis=0))
        writer.writerow(["image", *(table.schema.names[column] for column in columns)])
        for row in labelled:
            bits = ["" if bit < 0 else int(bit) for bit in table.labels[row, columns]]
            writer.writerow([Path(names[row]).name, *bits])
    save_file(_vectors(workspace, retriever, table.ids), folder / VECTORS)
    return {"images": len(table), "size": size, "licence": licence.strip()}


def _vectors(workspace: Workspace, retriever: Retriever, ids: np.ndarray[Any, Any]) -> dict[str, Tensor]:
    """The vectors of images, in the order of ids: embedding, content and, where there is one, style."""
    store, kinds = workspace.store(), ("embedding", "content", "style")
    return {
        kind: torch.from_numpy(np.ascontiguousarray(store.vectors(ids, encoder=f"{name}@{retriever.fingerprint}")))
        for kind, name in zip(kinds, retriever.encoder_names, strict=False)
    }


def _write_hub_config(folder: Path, run: RunRecord) -> None:
    """`config.json` as other programs look for it; `rgunit.json` is what is read back."""
    told = {
        "library_name": "rgunit",
        "model_type": method_of(run),
        "stage": run.stage,
        "image_size": run.config["config"]["data"]["size"],
        "attributes": list(run.config["attributes_used"]),
        "config": _without_places(run.config["config"]),
    }
    (folder / "config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
