"""Every method with every part, through the command: what the configuration admits trains, all else says why not.

The methods and what they take come from the registry, so a new one is covered by being in it.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from index_store.errors import UsageError
from index_store.workspace import Workspace
from tests.cli.conftest import Answer, Command
from translation.config import load_config, presets_of
from translation.methods import METHODS, find_method

NARROW = {"width": "0.0625", "blocks": "1"}
"""What networks' settings that end so are set to."""
SHORT = (
    *("data.size=32", "translation.steps=2", "translation.batch=4", "training.log_every=1"),
    *("training.tensorboard=false", "retrieval.steps=1", "retrieval.batch=4", "index.generated=0"),
)
GUIDED = ("guided.steps=2", "guided.batch=4", "guided.neighbours=2", "guided.guidance=attention")
SAMPLING = {
    "weights": ("sampling.informative=true", "sampling.embedding=r2"),
    "weights from the store": ("sampling.informative=true", "sampling.embedding=store:r2"),
    "hops": ("sampling.hops=2",),
}
GUIDANCE = {
    **{kind: (f"guided.guidance={kind}",) for kind in ("convolution", "attention", "patches")},
    "neighbour_style": ("guided.neighbour_style=0.5",),
    "neighbour_dropout": ("guided.neighbour_dropout=0.5",),
    "neighbour_pool": ("guided.neighbour_pool=4",),
    "neighbour_as_real": ("guided.neighbour_as_real=true",),
    "content_dropout": ("guided.content_dropout=0.3",),
    "random_k": ("guided.random_k=true",),
}
NAMES = [name for name in METHODS if find_method(name).draws != "images"]  # those are stages of their own
USED = {"crops": (), "modalities": (), "group": ("--attributes-used", "Black_Hair,Blond_Hair,Brown_Hair")}
"""What is learned, by what a method draws; others learn glasses and beards."""


def about(name: str) -> Any:
    return find_method(name).about


def objectives_of(name: str) -> dict[str, tuple[str, ...]]:
    """Those that are a weight of a method which has others in their place too."""
    weights = find_method(name).sections.translation.model_fields["weights"].default
    stages = ("translation", "guided") if about(name).guidance else ("translation",)
    found = {one: tuple(f"{stage}.weights.{one}=1" for stage in stages) for one in about(name).objectives}
    return {one: settings for one, settings in found.items() if hasattr(weights, one)}


def parts_of(name: str) -> dict[str, tuple[str, ...]]:
    """All parts that there are, by name, whether the method takes them or not."""
    return SAMPLING | objectives_of(name) | (GUIDANCE if about(name).guidance else {})


def narrow(name: str) -> tuple[str, ...]:
    fields = find_method(name).sections.networks.model_fields
    whole = ("networks.halvings=0",) if name == "gmm_unit" else ()  # its first preset is for larger pictures
    return *whole, *(f"networks.{field}={NARROW[end]}" for field in fields for end in NARROW if field.endswith(end))


def sets(settings: Iterable[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def words(name: str, settings: Iterable[str], folder: Path) -> list[str]:
    """Settings of a method; of one that learns one direction also which."""
    given = ["--preset", presets_of(name)[0], *sets((*SHORT, *narrow(name), *settings))]
    if find_method(name).draws == "crops":
        with Workspace.open(folder) as workspace:
            one, other = workspace.images("split=train origin=real").ids[:2]
        given += ["--source", f"id={one}", "--target", f"id={other}"]
    return given


def train(rgunit: Command, folder: Path, name: str, settings: Iterable[str]) -> Answer:
    """Stage 1 of a method."""
    given = words(name, settings, folder)
    used = USED.get(find_method(name).draws, ("--attributes-used", "Glasses,Beard"))
    return rgunit("-w", folder, "--json", "train", "translation", *given, *used)


def guide(rgunit: Command, folder: Path, name: str, settings: Iterable[str]) -> Answer:
    """Stage 3 on the newest runs of stages 1 and 2."""
    return rgunit("-w", folder, "--json", "train", "guided", *words(name, (*GUIDED, *settings), folder))


def prepare(rgunit: Command, folder: Path, name: str, settings: Iterable[str] = ()) -> None:
    """What stage 3 starts from: stages 1 and 2 of the method and the index."""
    assert train(rgunit, folder, name, settings).status == 0
    assert rgunit("-w", folder, "train", "retrieval", *words(name, (), folder)).status == 0
    assert rgunit("-w", folder, "index", "build").status == 0


def admits(name: str, settings: Iterable[str]) -> bool:
    """Whether the configuration takes these settings."""
    try:
        load_config(presets_of(name)[0], overrides=[*SHORT, *narrow(name), *settings])
    except UsageError:
        return False
    return True


@pytest.fixture
def indexed(tmp_path: Path, template: Path) -> Path:
    """A workspace with stages 1 and 2 of `gmm_unit`, r1 and r2, and everything indexed."""
    shutil.copytree(template, tmp_path / "faces")
    return tmp_path / "faces"


@pytest.mark.parametrize("name", NAMES)
def test_each_method_trains_with_all_of_its_parts_at_once(rgunit: Command, indexed: Path, name: str) -> None:
    taken = {"informative": SAMPLING["weights from the store"], "hops": SAMPLING["hops"]}
    parts = [*(taken[part] for part in about(name).sampling), *objectives_of(name).values()]
    done = train(rgunit, indexed, name, itertools.chain(*parts))
    assert done.status == 0 and done.json["steps"] == 2, done.err


@pytest.mark.parametrize("name", [name for name in NAMES if about(name).guidance])
def test_each_method_that_can_be_guided_is(rgunit: Command, indexed: Path, name: str) -> None:
    prepare(rgunit, indexed, name)
    done = guide(rgunit, indexed, name, ["guided.neighbour_dropout=0.5", "guided.neighbour_pool=4"])
    assert done.status == 0 and done.json["steps"] == 2, done.err


@pytest.mark.parametrize("name", NAMES)
def test_a_part_that_a_method_does_not_take_is_refused_with_the_reason(
    rgunit: Command, indexed: Path, name: str
) -> None:
    with Workspace.open(indexed) as workspace:
        before = [run.id for run in workspace.runs()]
    for part, settings in {"informative": SAMPLING["weights"], "hops": SAMPLING["hops"]}.items():
        if part not in about(name).sampling:
            done = train(rgunit, indexed, name, settings)
            assert done.status in (1, 2) and f"sampling.{part} is not for {name}" in done.error
    if not about(name).guidance:
        done = guide(rgunit, indexed, name, ())
        assert done.status in (1, 2) and done.error
    with Workspace.open(indexed) as workspace:
        assert [run.id for run in workspace.runs()] == before, "nothing is left behind"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_pair_of_parts_works_or_is_refused_with_the_reason(rgunit: Command, indexed: Path, name: str) -> None:
    parts = parts_of(name)
    if about(name).guidance:
        prepare(rgunit, indexed, name)
    pairs = sorted(itertools.combinations(parts, 2), key=lambda pair: not set(pair) <= set(GUIDANCE))
    for one, other in pairs:  # those of guidance first: they go on from what was prepared without any part
        settings = (*parts[one], *parts[other])
        admitted = admits(name, settings)
        done = train(rgunit, indexed, name, settings)
        if admitted and {one, other} & set(GUIDANCE):
            if not {one, other} <= set(GUIDANCE):
                prepare(rgunit, indexed, name, settings)
            done = guide(rgunit, indexed, name, settings)
        told = f"{name}: {one} and {other}: {done.err}"
        if admitted:
            assert done.status == 0, told
        else:
            assert done.status in (1, 2) and len(done.error) > 20, told
