"""rgunit from Python: a collection, its training, queries, translations and their evaluation in one namespace.

    import rgunit

    faces = rgunit.Workspace.open("faces")
    for one in rgunit.Translator.open(faces).translate("me.jpg", to="+Blond_Hair", samples=3):
        one.image.show()

`workspace` is a folder or a `Workspace`; a picture is a path, a PIL image, uint8 [H, W, 3] or a tensor [3, H, W] in
[−1, 1]; `settings` is a dictionary as in a preset, `{"translation": {"batch": 4}}`. Nothing is written but into the
workspace. Importing this loads no torch; what is asked for is loaded then. Errors are `RgunitError` with one sentence
that says what to do, and `UsageError` (a RgunitError) for what cannot be meant.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.layouts import check_readings, understood
from index_store.names import dotted
from index_store.splits import untested
from index_store.workspace import Workspace as _Workspace

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

    from torch import Tensor

    from retrieval.pictures import Results
    from translation.config import Config
    from translation.work import Work

__all__ = [
    "Added",
    "ImageRefused",
    "MethodInfo",
    "Result",
    "RgunitError",
    "Run",
    "Translated",
    "Translator",
    "UsageError",
    "Workspace",
    "evaluate",
    "forget",
    "methods",
    "query",
    "run",
    "train",
]

T = TypeVar("T")
Pixels = NDArray[np.uint8]
Settings = Mapping[str, Any]
WIDTH, LINES, SHOWN = 100, 40, 5  # of what is printed: columns, lines, and things of a kind


_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)( (?=['\"A-Z\d+-]))?|(?<![\w-])-k\b")
_CALLED = {"set": "settings", "resume": "resume=True", "allow-changes": 'resume="changed"', "from": "start"}


@contextmanager
def _said() -> Iterator[None]:
    """Errors in the words of Python: options of the command as arguments; whole commands in `…` stay as they are."""
    try:
        yield
    except RgunitError as error:
        parts = str(error).split("`")
        parts[::2] = [_OPTION.sub(_as_argument, part) for part in parts[::2]]
        error.args = ("`".join(parts), *error.args[1:])
        raise


def _as_argument(option: re.Match[str]) -> str:
    """`--style-of` as style_of; with a value behind it, `--to '+A'`, as to='+A'."""
    name, value = option[1] or "k", option[2] or ""
    return _CALLED[name] + value if name in _CALLED else name.replace("-", "_") + ("=" if value else "")


@dataclass(frozen=True)
class Added:
    """What `Workspace.add` did: images added, already there, refused [{path, reason}], and all that there are now.

    And what else it saw: `updated` images with their columns {name: images}; paths of images that were found at another
    place, are other pictures now, are gone, or stay dark in deep grey; `notes` on columns that became text and splits;
    `understood`, how the labels were read.
    """

    added: int
    duplicates: int
    rejected: list[dict[str, str]]
    total: int
    updated: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    dark: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = [
            f"{self.added} added, {self.duplicates} there already, {len(self.rejected)} refused: {self.total} in all"
        ]
        if self.changes:
            told[0] += f"; {self.updated} updated ({', '.join(f'{name} {n}' for name, n in self.changes.items())})"
        told += [*self.understood, *self.notes]
        told += [f"refused: {one['path']}: {one['reason']}" for one in self.rejected[:SHOWN]]
        told += [f"{name}: {one}" for name in _SEEN for one in getattr(self, name)[:SHOWN]]
        return _screen(told)


_SEEN = ("moved", "replaced", "gone", "dark")


class Workspace(_Workspace):
    """A collection with its labels, vectors and runs, in a folder; a context manager."""

    @_said()
    def add(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        attributes: str | Path | None = None,
        origin: Literal["real", "unlabelled"] = "real",
        split: str | None = None,
        split_by: str | None = None,
        groups: Sequence[str] = (),
        update: bool = False,
        white_level: float | None = None,
        domains: Sequence[str] = (),
    ) -> Added:
        """Register the images of folders or files where they are, as `rgunit add` does.

        `attributes`: a CSV of labels; `groups`: attributes of which at most one is true, "A|B|C".
        `update` takes labels, split and texts of known images anew; `white_level` is what is white in deep grey;
        `domains`: names of folders that are the domains.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        if attributes is None and origin == "real" and not domains and len(given) > 1:
            check_readings([Path(path).absolute() for path in given], [self.path])
        reports = [
            self.add_images(
                Path(path),
                attributes=None if attributes is None else Path(attributes),
                origin=origin,
                split=split,
                split_by=split_by,
                groups=_names(groups),
                update=update,
                white_level=white_level,
                domains=_names(domains),
            )
            for path in given
        ]
        notes = [note for report in reports for note in report.notes]
        return Added(
            added=sum(report.added for report in reports),
            duplicates=sum(report.duplicates for report in reports),
            rejected=[{"path": one.path, "reason": one.reason} for report in reports for one in report.rejected],
            total=len(self.images()),
            updated=sum(report.updated for report in reports),
            changes=dict(sum((Counter(report.changes) for report in reports), Counter())),
            notes=[*notes, *([note] if (note := untested(self)) else [])],
            understood=understood(report.reading for report in reports),
            **{name: [one for report in reports for one in getattr(report, name)] for name in _SEEN},
        )


@dataclass(frozen=True)
class Run:
    """A training that ended: its id, stage, steps, seconds, and the last numbers that it logged."""

    run: str
    stage: str
    steps: int
    seconds: float
    metrics: dict[str, float] = field(repr=False)
    stopped: bool = False


class Result(Mapping[str, Any]):
    """The keys of the command's JSON, also as attributes; printed, one screen."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked for while it is copied or unpickled
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        raise AttributeError(f"no {name!r} here: there are {', '.join(self._values)}")

    def __repr__(self) -> str:
        return f"Result of {', '.join(self._values)}"

    def __str__(self) -> str:
        from rich.console import Console

        from translation.evaluation.report.terminal import terminal_table

        if "retrieval" in self and "translation" in self:
            table = terminal_table(self["retrieval"], self["translation"])
        elif "copy" in self:
            table = terminal_table(None, self)
        elif "queries" in self and "random" in self:
            table = terminal_table(self, None)
        else:
            return _screen([f"{name}: {_brief(value)}" for name, value in self.items()])
        shown = io.StringIO()
        Console(width=WIDTH, file=shown).print(table)
        return shown.getvalue()


@dataclass(frozen=True)
class MethodInfo:
    """A method that can be trained: its name, paper, what a collection needs for it, and its presets."""

    name: str
    title: str
    paper: str
    year: int
    needs: tuple[str, ...]
    guidance: tuple[str, ...]
    sampling: tuple[str, ...]
    objectives: tuple[str, ...]
    presets: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.title}, {self.year}; needs {', '.join(self.needs)}; presets {', '.join(self.presets)}"
        )


@dataclass(frozen=True)
class Translated:
    """A translation, `pixels` uint8 [H, W, 3]. `source`: the picture as given; `target`: {attribute: 1, 0 or None}.

    `mask` uint8 [H, W, 3], where the method has one: black keeps the source. `neighbours`: the images that guided it,
    [{image_id, path, origin, distance}], nearest first. `box`: the part that was translated (left, top, width, height),
    None where it is all.
    """

    source: Any = field(repr=False)
    target: dict[str, int | None] = field(repr=False)
    pixels: Pixels = field(repr=False)
    mask: Pixels | None = field(repr=False)
    neighbours: tuple[dict[str, Any], ...] = field(repr=False)
    box: tuple[int, int, int, int] | None = None

    def __str__(self) -> str:
        height, width = self.pixels.shape[:2]
        labels = " ".join(f"{'+' if bit else '-'}{name}" for name, bit in self.target.items() if bit is not None)
        guided = f", guided by {len(self.neighbours)} images" if self.neighbours else ""
        return _screen([f"{width} × {height}{guided}: {labels}"])

    @property
    def image(self) -> Image.Image:
        """It as a PIL image."""
        return Image.fromarray(self.pixels)


class Translator:
    """A trained translation model in use. `open` and `from_pretrained` load one; a context manager, which closes it."""

    def __init__(
        self,
        workspace: _Workspace,
        run: str | None,
        device: str,
        *,
        owner: bool,
        home: TemporaryDirectory[str] | None = None,
    ) -> None:
        from translation.translator import Translator as Loaded

        self.workspace, self._owner, self._home = workspace, owner, home
        self._loaded = Loaded.load(workspace, run, device)

    @staticmethod
    @_said()
    def open(workspace: str | Path | _Workspace, run: str | None = None, *, device: str = "auto") -> Translator:
        """The translator of a run; by default the newest guided one, else the newest of stage 1."""
        if isinstance(workspace, _Workspace):
            return Translator(workspace, run, device, owner=False)
        opened = _Workspace.open(workspace)
        try:
            return Translator(opened, run, device, owner=True)
        except BaseException:
            opened.close()
            raise

    @staticmethod
    @_said()
    def from_pretrained(source: str | Path, *, device: str = "auto", **options: Any) -> Translator:
        """A model of a folder that `save_pretrained` or `rgunit export --format hub` wrote, or of the Hugging Face hub
        by its name; guided where the pictures that guide it came with it. Needs `rgunit[hub]`, for a folder no network.

        `options` are those of the hub's `from_pretrained`: revision, token, cache_dir, local_files_only and
        force_download. It is checked as by `rgunit import-model`, and lies in a temporary folder until it is closed.
        """
        from translation.sharing.hub import load

        workspace, run, home = load(source, **options)
        try:
            return Translator(workspace, run, device, owner=True, home=home)
        except BaseException:
            workspace.close()
            home.cleanup()
            raise

    @_said()
    def save_pretrained(self, folder: str | Path, *, licence: str | None = None, **options: Any) -> None:
        """Write it to a new folder as `rgunit export --format hub`: weights, settings, model card. Needs `rgunit[hub]`.

        `licence` says what others may do with the pictures that guide it, and puts them into the folder; without it
        those stay out, unless the model was loaded with them. `options` are those of the hub's `save_pretrained`, by
        which it can also be pushed (repo_id, push_to_hub).
        """
        from translation.sharing.hub import save

        assert self._loaded.run is not None
        save(self.workspace, self._loaded.run.id, Path(folder), licence=licence, **options)

    def close(self) -> None:
        """Close the workspace, if `open` was given a folder."""
        if self._owner:
            self.workspace.close()
        if self._home is not None:
            self._home.cleanup()

    def __enter__(self) -> Translator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def attributes(self) -> tuple[str, ...]:
        """Those that it can edit."""
        return self._loaded.schema.names

    @_said()
    def translate(
        self,
        pictures: str | Path | Image.Image | Pixels | Tensor | Sequence[Any],
        *,
        to: str | None = None,
        style_of: str | Path | Image.Image | Pixels | Tensor | None = None,
        samples: int = 1,
        guidance: float = 1.0,
        k: int | None = None,
        size: int | None = None,
        box: tuple[int, int, int, int] | None = None,
        fit: bool = False,
        source: str | None = None,
        seed: int = 0,
    ) -> list[Translated]:
        """Translations of a picture, of several, or of a folder's: pictures × samples in one list.

        `to` is an edit ("+Blond_Hair -Male"), `style_of` a picture whose style is taken; a run that learned one
        direction needs neither. `guidance` in [0, 1] has no effect on a run without neighbours. What is no image in a
        folder is left out. A run of squares translates the middle of a picture, or `box` (left, top, width, height), or
        with `fit` all of it; the rest is as it was. `source` is the domain of the pictures, for a run with an encoder a
        domain.
        """
        from translation.framing import Framing, parse_box
        from translation.work import neighbour_rows, prepare_work

        work: Work = prepare_work(
            self.workspace,
            self._loaded,
            to=to,
            style_of=None if style_of is None else _source(style_of),
            samples=samples,
            guidance=guidance if self._loaded.neighbours else None,
            k=k,
            size=size,
            max_pixels=None,
            framing=Framing(None if box is None else parse_box(",".join(map(str, box))), fit),
            seed=seed,
            source=source,
        )
        found: list[Translated] = _Listed()
        for picture, read in _each(work.read, pictures):
            for sample in range(samples):
                made = work.translate(read, sample)
                near = tuple(neighbour_rows(self.workspace, made))
                found.append(Translated(picture, made.target, made.pixels, made.mask, near, read.part))
        return found


@_said()
def run(
    workspace: str | Path | _Workspace,
    *,
    preset: str | None = None,
    method: str | None = None,
    minutes: float | None = None,
    settings: Settings | None = None,
    attributes_used: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
) -> Result:
    """All stages, evaluation and the report, as `rgunit run`: keys stages, retrieval, translation, report."""
    from translation.pipeline import run_all

    with _opened(workspace) as opened:
        config = _configuration(opened, preset, method, settings)
        made = run_all(
            opened, config, attributes_used=tuple(_names(attributes_used)), minutes=minutes, seed=seed, device=device
        )
    report = None if made.report is None else str(made.report.absolute())
    return Result(
        {"stages": made.stages, "retrieval": made.retrieval, "translation": made.translation, "report": report}
    )


@_said()
def train(
    workspace: str | Path | _Workspace,
    stage: Literal["translation", "retrieval", "guided", "generator", "miner", "extractor"],
    *,
    preset: str | None = None,
    method: str | None = None,
    minutes: float | None = None,
    settings: Settings | None = None,
    resume: bool = False,
    **options: Any,
) -> Run:
    """One stage. `options` are those of `translation.train_translation`, `train_retrieval`, `train_guided`,
    `train_generator`, `train_miner` and `train_extractor`: attributes_used, source, target, neighbours,
    translation_run, retrieval_run, source_run, transfer, sources, protect, seed, device."""
    from translation import generator_stages, stages

    start = {
        "translation": stages.train_translation,
        "retrieval": stages.train_retrieval,
        "guided": stages.train_guided,
        "generator": generator_stages.train_generator,
        "miner": generator_stages.train_miner,
        "extractor": stages.train_extractor,
    }
    if stage not in start:
        raise UsageError(f"there is no stage {stage!r}: train {', '.join(start)}")
    with _opened(workspace) as opened:
        config = _configuration(opened, preset, method, settings, stage)
        given = {"minutes": minutes, "resume": resume, **options}
        if "attributes_used" in given:
            given["attributes_used"] = tuple(_names(given["attributes_used"]))
        try:
            made = start[stage](opened, config, **given)  # type: ignore[operator]
        except TypeError as error:
            raise _unknown_option(error, f"train {stage}") from None
    return Run(made.run.id, made.run.stage, made.steps, made.seconds, made.metrics, made.stopped)


class _Asked(TypedDict, total=False):
    """The options of `query`."""

    to: str | None
    style_of: str | Path | Image.Image | Pixels | Tensor | None
    text: str | None
    content_weight: float | None
    k: int
    where: str | None
    labels: Literal["prefer", "require", "ignore"]
    run: str | None


@overload
def query(workspace: str | Path | _Workspace, picture: None = None, **options: Unpack[_Asked]) -> Results: ...
@overload
def query(workspace: str | Path | _Workspace, picture: str | Path, **options: Unpack[_Asked]) -> Any: ...
@overload
def query(
    workspace: str | Path | _Workspace, picture: Image.Image | Pixels | Tensor, **options: Unpack[_Asked]
) -> Results: ...
@overload
def query(workspace: str | Path | _Workspace, picture: Sequence[Any], **options: Unpack[_Asked]) -> list[Results]: ...
@_said()
def query(
    workspace: str | Path | _Workspace,
    picture: str | Path | Image.Image | Pixels | Tensor | Sequence[Any] | None = None,
    *,
    to: str | None = None,
    style_of: str | Path | Image.Image | Pixels | Tensor | None = None,
    text: str | None = None,
    content_weight: float | None = None,
    k: int = 10,
    where: str | None = None,
    labels: Literal["prefer", "require", "ignore"] = "prefer",
    run: str | None = None,
) -> Any:
    """The k best images to a picture's content in another style: `Results`, a sequence of `Neighbour`, best first.

    Of a list of pictures or a folder's a list of them; what is no image in a folder is left out. `labels`: how known
    labels count, as `rgunit query --labels`. `text` asks by words, alone or beside a picture, where the workspace has a
    text model (`rgunit index build --text-model FOLDER`).
    """
    if picture is None:
        from cli.choices import check_words
        from retrieval.words import search_text

        check_words(text, to=to, style_of=style_of, content_weight=content_weight, run=run)
        assert text is not None
        with _opened(workspace) as opened:
            opened.check_filter(where)
            return search_text(opened, text, k=k, where=where, labels=labels)
    from retrieval.reading import open_searcher

    def ask(source: Any) -> Results:
        return retriever.search(
            source,
            edit=to,
            style_of=None if style_of is None else _source(style_of),
            text=text,
            content_weight=content_weight,
            k=k,
            where=where,
            labels=labels,
        )

    with _opened(workspace) as opened:
        opened.check_filter(where)
        with open_searcher(opened, run) as retriever:
            several = not isinstance(picture, str | Path) and isinstance(picture, Sequence)
            if not several and not (isinstance(picture, str | Path) and Path(picture).is_dir()):
                return ask(_source(picture))
            return _Listed(found for _, found in _each(ask, picture))


@_said()
def forget(
    workspace: str | Path | _Workspace,
    *,
    where: str | None = None,
    ids: Sequence[int] = (),
    dry_run: bool = False,
) -> Result:
    """Leave nothing of images in the workspace, as `rgunit index remove --forget`: keys removed, generated, deleted,
    rewritten, outside, learned, left, unsure, keeps (`index_store.forgetting.Forgotten`).

    Without `where` and `ids` it ends what an earlier call began.
    """
    with _opened(workspace) as opened:
        return Result(asdict(opened.forget(where, ids=list(ids) or None, dry_run=dry_run)))


@_said()
def evaluate(workspace: str | Path | _Workspace | None, what: str, **options: Any) -> Result:
    """What `rgunit evaluate WHAT` measures, with the keys of its JSON.

    `what` and the `options` that it takes: retrieval (run, device and those of `RetrievalProtocol`), translation
    (both_ways and those of `translation.evaluate_translation_runs`), generator (of `evaluate_generator`), judges (arms
    {arm: run}, classifiers), unseen and modalities (preset, settings, seeds, out …), guidance, bias, scarce, parts and
    transfer (of their plans in `translation.evaluation.experiments`; `workspace` None draws faces; without `out`
    nothing is trained, and the cost is told).
    """
    from translation.evaluation.kinds import EXPERIMENTS, OF_WORKSPACE

    if isinstance(options.get("settings"), Mapping):
        options["settings"] = _overrides(options["settings"])
    try:
        if what in EXPERIMENTS:
            folder = workspace.path if isinstance(workspace, _Workspace) else workspace
            return Result(EXPERIMENTS[what](None if folder is None else Path(folder), **options))
        if what not in OF_WORKSPACE:
            names = ", ".join([*OF_WORKSPACE, *EXPERIMENTS])
            raise UsageError(f"there is no evaluation of {what!r}: there are {names}")
        if workspace is None:
            raise UsageError(f"`evaluate {what}` needs a workspace")
        with _opened(workspace) as opened:
            return Result(OF_WORKSPACE[what](opened, **options))
    except TypeError as error:
        raise _unknown_option(error, f"evaluate {what}") from None


def methods() -> list[MethodInfo]:
    """What can be trained."""
    from translation.config import presets_of
    from translation.methods import METHODS, find_method

    found: list[MethodInfo] = _Listed()
    for name in METHODS:
        about = asdict(find_method(name).about)
        about.pop("measured")
        found.append(MethodInfo(name=name, presets=tuple(presets_of(name)), **about))
    return found


def _screen(lines: Sequence[str]) -> str:
    """Lines that fit one screen."""
    more = len(lines) - LINES
    shown = [*lines[: LINES - 1], f"… and {more + 1} more"] if more > 0 else lines
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in shown)


def _brief(value: Any) -> str:
    """A value of an answer in a few words: numbers with three decimals, of what is inside at most two levels."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return ", ".join(
            name if isinstance(one, Mapping | list) else f"{name} {_brief(one)}" for name, one in value.items()
        )
    if isinstance(value, list | tuple):
        return f"{len(value)} of them" if any(isinstance(one, Mapping | list) for one in value) else str(value)
    return "–" if value is None else str(value)


class _Listed(list[T]):
    """A list that prints a line for each."""

    def __str__(self) -> str:
        return _screen([str(one) for one in self])


def _unknown_option(error: TypeError, what: str) -> Exception:
    """A UsageError for an option that there is not or that is missing, else the error itself."""
    said = str(error)
    if "unexpected keyword" in said:
        return UsageError(f"`{what}` has no option {said.rsplit(' ', 1)[-1]}")
    if "required keyword-only" in said:
        return UsageError(f"`{what}` needs {said.partition(': ')[2]}")
    return error


@contextmanager
def _opened(workspace: str | Path | _Workspace) -> Iterator[_Workspace]:
    """The workspace; closed again where it was a folder."""
    if isinstance(workspace, _Workspace):
        yield workspace
        return
    with _Workspace.open(workspace) as opened:
        yield opened


def _configuration(
    workspace: _Workspace,
    preset: str | None,
    method: str | None,
    settings: Settings | None,
    stage: str = "translation",
) -> Config:
    """As the command chooses it: a preset, else the newest run's settings, with `settings` over them."""
    from cli.choices import configuration

    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"settings are a dictionary as in a preset, not {type(settings).__name__}")
    return configuration(workspace, preset, None, _overrides(settings or {}), method=method, stage=stage)


def _overrides(settings: Settings) -> list[str]:
    """Settings as the packages take them: SECTION.KEY=VALUE."""
    return [f"{name}={json.dumps(value, default=_plain)}" for name, value in dotted(settings).items()]


def _plain(value: Any) -> Any:
    """A setting that JSON does not know: a path as text, a number of numpy as a number."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _source(picture: Any) -> Any:
    """A picture as the packages take it: a tensor [3, H, W] in [−1, 1] as uint8 [H, W, 3], all else as it is.

    UsageError for what is no picture.
    """
    if isinstance(picture, str | Path):
        if picture == "":
            raise UsageError("a picture's path is empty")
        return Path(picture)
    if isinstance(picture, Image.Image | np.ndarray):
        return picture
    if type(picture).__module__.partition(".")[0] == "torch":
        return _pixels(picture)
    raise UsageError(
        f"a picture is a path, a PIL image, uint8 [height, width, 3] or a tensor, not {type(picture).__name__}"
    )


def _pixels(tensor: Tensor) -> Pixels:
    """uint8 [H, W, 3] of a tensor [3, H, W] in [−1, 1], or of uint8. UsageError for other shapes and values."""
    import torch

    values = tensor.detach().cpu()
    if values.ndim != 3 or values.shape[0] != 3:
        raise UsageError(f"a tensor must be [3, height, width] in [−1, 1], not {list(values.shape)}")
    if values.dtype != torch.uint8:
        if not values.is_floating_point() or not bool((values.abs() <= 1.001).all()):  # NaN is not, either
            raise UsageError(f"a tensor's values must lie in [−1, 1] (or be uint8), and these {values.dtype} do not")
        values = ((values.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels: Pixels = values.permute(1, 2, 0).contiguous().numpy()
    return pixels


def _names(names: str | Sequence[str]) -> list[str]:
    """One name, or several."""
    return [names] if isinstance(names, str) else list(names)


def _each(read: Callable[[Any], T], pictures: Any) -> Iterator[tuple[Any, T]]:
    """Each picture as it was given, and what `read` makes of it; of a folder those that are images."""
    several = isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes)
    for picture in pictures if several else [pictures]:
        source = _source(picture)
        if isinstance(source, Path) and source.is_dir():
            from index_store.files import image_files

            found = 0
            for file in image_files(source):
                try:
                    made = read(file)
                except ImageRefused:
                    continue
                found += 1
                yield file, made
            if not found:
                raise RgunitError(f"{source} holds no image that can be read: name a folder with images")
        else:
            yield picture, read(source)
