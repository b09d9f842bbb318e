"""What a stage takes from the workspace and the stages before it, and what is told where other things were asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.workspace import Workspace
from retrieval.pictures import Picture
from translation.config import Config
from translation.methods import find_method, methods_of, trains_stage
from translation.pairing import anchor_of, group_schema
from translation.progress import Progress
from translation.sections import StageConfig
from translation.translator import Translator


def require_stage(config: Config, stage: str) -> None:
    """RgunitError where a configuration's method has not a stage."""
    if not trains_stage(config.method, stage):
        raise RgunitError(
            f"the method {config.method} has no stage {stage}: give --method {' or '.join(methods_of(stage))}, or a "
            "preset of such a one"
        )


def used_schema(workspace: Workspace, config: Config, names: Sequence[str]) -> AttributeSchema:
    """The style's attributes: those named, else the preset's where the workspace has all of them, else all.

    None for a method that learns from two pictures or from modalities; for one of a group's domains that group's.
    """
    if (draws := find_method(config.method).draws) in ("crops", "modalities"):
        if names:
            what = "two pictures" if draws == "crops" else "images alone"
            raise UsageError(f"{config.method} learns from {what} and knows no attributes: no --attributes-used")
        return workspace.schema.subset(())
    if not workspace.schema.names:
        raise RgunitError(
            "the workspace has no labelled images: add some with `rgunit add DIR --attributes labels.csv`"
        )
    given = names
    if not names:
        known = [name for name in config.data.attributes_used if name in workspace.schema.names]
        names = known if len(known) == len(config.data.attributes_used) and known else workspace.schema.names
    if len(set(names)) != len(names):
        raise UsageError(f"--attributes-used names an attribute twice: {', '.join(map(quoted, names))}")
    schema = workspace.schema.subset(tuple(names))
    if find_method(config.method).draws == "group":
        schema = group_schema(schema, given, config.method)
        anchor_of(schema.names, getattr(config.translation, "anchor", ""))
    return schema


def used_domains(
    schema: AttributeSchema, config: Config, source: str | None, target: str | None
) -> tuple[str, str] | None:
    """The filters of source and target of a method that learns one direction; None for others.

    By default the two members of the group in use, where it is all that is used (two folders: the first to the second);
    else images without and with the first attribute. UsageError where they are given for a method that learns no
    direction, or only one of them.
    """
    draws = find_method(config.method).draws
    if draws in ("labels", "group", "modalities"):
        if source is not None or target is not None:
            raise UsageError(
                f"--source and --target are for methods that learn one direction, and {config.method} learns all: "
                "leave them out"
            )
        return None
    if (source is None) != (target is None):
        raise UsageError("--source and --target are two filters: give both, or none")
    if source is not None and target is not None:
        return source, target
    if draws == "crops":
        raise UsageError(f"{config.method} learns from two pictures: name them, --source PICTURE --target PICTURE")
    first = schema.names[0]
    if len(schema.names) == 2 and any(set(group) == set(schema.names) for group in schema.groups):
        return f"+{quoted(first)}", f"+{quoted(schema.names[1])}"
    return f"-{quoted(first)}", f"+{quoted(first)}"


def resumed_direction(workspace: Workspace, config: Config) -> tuple[str | None, str | None]:
    """The filters of the newest run of the configuration's method, for a session that goes on with it."""
    for run in reversed(workspace.runs("translation")):
        if not run.empty and run.config["config"].get("method") == config.method and "target" in run.config:
            return str(run.config["source"]), str(run.config["target"])
    return None, None


def picture_filter(workspace: Workspace, text: str | None) -> str | None:
    """`id=N` for the path of a picture that the workspace has; other text as it is. RgunitError for a foreign one."""
    if text is None:
        return None
    if not Path(text).is_file():
        if "/" in text or Path(text).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"):
            raise RgunitError(f"there is no picture {text}: name one of the workspace by its path, or by id=N")
        return text
    number = Picture.of(workspace, Path(text)).image_id
    if number is None:
        raise RgunitError(f"{text} is not in the workspace: `rgunit add` it first")
    return f"id={number}"


def fitted(config: Config, translator: Translator, progress: Progress) -> Config:
    """The configuration with the translator's own size and networks: a later stage cannot choose others.

    RgunitError where it is for images of another size; what else it would have otherwise is told.
    """
    own = translator.config
    run = "the translator" if translator.run is None else f"run {translator.run.id}"
    if config.method != own.method:
        raise RgunitError(
            f"{run} is of method {own.method} and the settings, preset {config.preset}, are of {config.method}: "
            f"give --preset {own.preset}, or train translation with yours first"
        )
    if config.data.size != own.data.size:
        raise RgunitError(
            f"{run} translates at {own.data.size} px and the settings, preset {config.preset}, are of "
            f"{config.data.size} px: give --preset {own.preset} --set data.size={own.data.size}, or train translation "
            "with yours first"
        )
    asked = {"data": (config.data, own.data), "networks": (config.networks, own.networks)}
    told = [
        f"{section}.{key} {getattr(have, key)}, not {value}"
        for section, (wanted, have) in asked.items()
        for key, value in wanted
        if value != getattr(have, key) and key not in ("attributes_used", "perceptual_weights")
    ]
    if told:
        progress.note(f"as {run} was trained: {'; '.join(told)}")
    networks = own.networks
    if moved := getattr(config.networks, "perceptual_weights", ""):  # a file, which may lie elsewhere now
        networks = networks.model_copy(update={"perceptual_weights": moved})
    return config.model_copy(update={"data": own.data, "networks": networks})


def tell_what_is_off(config: Config, stage: StageConfig, progress: Progress) -> None:
    """A note where a stage does without what is set: a perceptual term without its network's file, hops in stage 3."""
    weighs = getattr(stage.weights, "perceptual", 0)
    if weighs and not getattr(config.networks, "perceptual_weights", ""):
        progress.note("the perceptual term is off: no networks.perceptual_weights given")
    if stage is config.guided and config.sampling.hops > 1:
        progress.note("sampling.hops is of stage 1: stage 3 goes straight to its targets")


def tell_if_enlarged(
    workspace: Workspace, config: Config, progress: Progress, pictures: tuple[str, str] | None = None
) -> None:
    """A note where the training images, by nine of them, are smaller than what is trained; of a method that learns from
    two `pictures` (their filters), where one of these is smaller than a crop of it."""
    if pictures is not None:
        for where in pictures:
            for path in workspace.images(f"origin=real|unlabelled {where}").paths[:1]:
                size, side = _size_of(path), config.data.size
                if size and min(size) < side:
                    progress.note(f"{path}, of {size[0]} x {size[1]} px, is enlarged to crops of {side} px (data.size)")
        return
    paths = workspace.images("split=train origin=real").paths
    sides = [min(size) for path in paths[:: max(1, len(paths) // 9)][:9] if (size := _size_of(path))]
    if sides and (usual := int(np.median(sides))) < config.data.size:
        progress.note(f"the images, of {usual} px, are enlarged to {config.data.size} px, the size of the settings")


def _size_of(path: str) -> tuple[int, int] | None:
    """Width and height of a picture, by its head; None where it cannot be read."""
    with suppress(OSError), Image.open(path) as image:
        return image.size
    return None
