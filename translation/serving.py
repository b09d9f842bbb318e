"""A workspace that answers many: its runs stay loaded, and what threads ask at the same time is computed together.

The one idea: nothing is answered here that the commands do not answer; only loading is done once. A run that was
trained further, or is newer, is loaded when it is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT, RunRecord
from index_store.workspace import Workspace
from retrieval.pictures import Picture
from retrieval.retriever import Retriever
from retrieval.runs import find_run
from translation.neighbours import Neighbours
from translation.runs import default_run
from translation.together import SharedRetriever, SharedTranslator
from translation.translator import Translator
from translation.work import Made, Work, open_guides, prepare_work

KEPT = 8
"""Loaded runs that are kept; the least recently used ones go."""
PIXELS = 2**21
"""The most pixels of a picture that is translated in its own size."""
SAMPLES = 16
"""Threads for samples of one picture, which so share a forward pass."""

T = TypeVar("T")


@dataclass(frozen=True)
class Goal:
    """A style to translate into: an edit, the style of a picture, or the second edited by the first."""

    to: str | None = None
    style_of: Picture | None = None


class Serving:
    """The runs of a workspace for many threads. `told` gets the number of calls that shared a forward pass."""

    def __init__(self, workspace: Workspace, device: str = "auto", told: Callable[[int], None] | None = None) -> None:
        self.workspace, self.device = workspace, device
        self._told = told
        self._kept: OrderedDict[Hashable, _Slot] = OrderedDict()
        self._guard = threading.Lock()
        self._samples = ThreadPoolExecutor(SAMPLES, "samples")

    def close(self) -> None:
        """End its threads. The workspace stays open."""
        self._samples.shutdown(cancel_futures=True)

    # Asking

    def translate(
        self,
        picture: Picture,
        goal: Goal,
        *,
        samples: int = 1,
        guidance: float | None = None,
        neighbours: Literal["retrieved", "random"] | None = None,
        source: str | None = None,
        run: str | None = None,
        seed: int = 0,
    ) -> tuple[RunRecord, list[Made]]:
        """The samples of a picture in a style, with the run that made them.

        `neighbours`: at random instead of as in training. `source`: the domain of the picture, as the command takes it.
        UsageError for a picture of more pixels than PIXELS where a run gives it in its own size.
        """
        record, work = self._work(goal, samples, guidance, neighbours, source, run, seed)
        read = work.read(picture)
        height, width = read.own.shape[:2]
        if height * width > PIXELS:
            raise UsageError(
                f"{width} x {height} is too large to be translated here (at most {PIXELS / 1e6:.1f} megapixels): "
                "make it smaller, or take `rgunit translate`"
            )
        return record, list(self._samples.map(partial(work.translate, read), range(samples)))

    def interpolate(
        self,
        picture: Picture,
        ends: tuple[Goal, Goal],
        steps: int,
        *,
        guidance: float | None = None,
        source: str | None = None,
        run: str | None = None,
        seed: int = 0,
    ) -> tuple[RunRecord, list[Made]]:
        """The way between two styles of a picture in steps, with the run that made it."""
        record, first = self._work(ends[0], 1, guidance, None, source, run, seed)
        _, last = self._work(ends[1], 1, guidance, None, source, record.id, seed)
        return record, first.strip(last, first.read(picture), steps)

    def warm(self) -> None:
        """Load the runs that are asked for by default; RgunitError where there are none."""
        self.retriever(find_run(self.workspace, None))
        record = default_run(self.workspace)
        translator = self._translator(record)
        if translator.neighbours:
            self._guides(record, translator, at_random=False, k=translator.neighbours)

    # What is loaded

    def _work(
        self,
        goal: Goal,
        samples: int,
        guidance: float | None,
        neighbours: str | None,
        source: str | None,
        run: str | None,
        seed: int,
    ) -> tuple[RunRecord, Work]:
        record = default_run(self.workspace) if run is None else self.workspace.run(run)
        translator = self._translator(record)
        work = prepare_work(
            self.workspace,
            translator,
            to=goal.to,
            style_of=goal.style_of,
            samples=samples,
            guidance=guidance,
            k=None,
            size=None,
            max_pixels=None,
            framing=None,
            seed=seed,
            source=source,
            guides=lambda k: self._guides(record, translator, at_random=neighbours == "random", k=k),
        )
        return record, work

    def retriever(self, record: RunRecord) -> Retriever:
        """A retrieval run, loaded."""

        def load() -> Retriever:
            of = self.workspace.run(str(record.config["translation_run"]))
            opened = Retriever.open(self.workspace, record.id, encoders=self._translator(of))
            return SharedRetriever(opened, self._told)

        return self._keep(("retriever", *_mark(record)), load)

    def _translator(self, record: RunRecord) -> Translator:
        def load() -> Translator:
            return SharedTranslator(Translator.load(self.workspace, record.id, self.device), self._told)

        return self._keep(("translator", *_mark(record)), load)

    def _guides(self, record: RunRecord, translator: Translator, *, at_random: bool, k: int) -> Neighbours:
        def load() -> Neighbours:
            def of(run: str) -> Retriever:
                return self.retriever(self.workspace.run(run))

            return open_guides(self.workspace, translator, k, at_random=at_random, load=of)

        return self._keep(("guides", at_random, k, self.workspace.forgotten(), *_mark(record)), load)

    def _keep(self, key: Hashable, load: Callable[[], T]) -> T:
        """What is kept under a key; who asks while it is loaded waits for it."""
        with self._guard:
            slot = self._kept.setdefault(key, _Slot())
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        with slot.lock:
            if slot.held is None:
                slot.held = load()
            held: T = slot.held
            return held


@dataclass
class _Slot:
    """A place for what is loaded."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    held: Any = None


def _mark(record: RunRecord) -> tuple[str, int]:
    """A run as it is now: trained further it is another one."""
    file = record.path / CHECKPOINT
    return record.id, file.stat().st_mtime_ns if file.exists() else 0
