"""Zero-pair translation: what a modality is, who learns what in each phase, and the experiment from start to table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from translation.config import Config, load_config
from translation.drawings import Content, draw_face, name_drawing
from translation.drawings.maps import CLASS_OF, CLASSES, drawn_parts
from translation.evaluation.experiments.modalities import Meter, run_modalities
from translation.methods.zero_pair import ZeroPair
from translation.modalities import ModalitySampler, distance, seen_as
from translation.objectives.modal import berhu
from translation.sampling import Batch
from translation.stages import train_translation
from translation.training.health import FIRST, Health
from translation.training.task import Engine

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "translation.batch=2", "translation.steps=10"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
    *("evaluation.classifier_epochs=1",),
)


def small(*overrides: str, preset: str = "zero-pair") -> Config:
    return load_config(preset, overrides=[*TINY, *overrides])


def moved_at(t: int, *overrides: str) -> tuple[set[str], set[str]]:
    """The networks that step t of 10 changes, and its terms."""
    torch.manual_seed(0)
    method = ZeroPair.build(small(*overrides), AttributeSchema(()), "translation")
    none = torch.zeros(2, 0)
    parts = torch.randint(0, 13, (2, 32, 32), dtype=torch.uint8)
    batch = Batch(torch.rand(2, 3, 32, 32) * 2 - 1, none, none, none, domains=(1, 0), parts=parts)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD([p for n in player.networks for p in method.networks[n].parameters()], 1e-3)
        for name, player in method.players.items()
    }
    before = {name: parameters_to_vector(n.parameters()).clone() for name, n in method.networks.items()}
    terms = Engine(optimizers).run(method.step(batch, t))
    assert method.phase == 1 + ("latent" in str(terms)) + ("pseudo" in str(terms))
    assert all(value.isfinite() for value in terms.values())
    after = {name: parameters_to_vector(n.parameters()) for name, n in method.networks.items()}
    return {n for n in after if not torch.equal(after[n], before[n])}, {n.rpartition("/")[2] for n in terms}


def test_each_phase_trains_what_the_thesis_says() -> None:
    pair = {"encoder-depth", "decoder-depth", "decoder-rgb", "discriminator"}
    assert moved_at(0) == ({*pair, "encoder-rgb"}, {"adversarial", "translation"})
    moved, terms = moved_at(5)
    assert moved == pair, "the anchor's encoder is frozen"
    assert terms == {"adversarial", "translation", "autoencoder", "latent"}
    moved, terms = moved_at(9)
    assert moved == {*pair, "decoder-segmentation"} and "pseudo" in terms, "what makes the pseudo-pairs is not asked"
    assert moved_at(9, "translation.weights.pseudo=0") == moved_at(5)


def test_the_next_phase_is_not_taken_for_a_divergence() -> None:
    config = small()
    method = ZeroPair.build(config, AttributeSchema(()), "translation")
    health = Health(method, config.translation, "translation")
    assert not any(health.judge({"generator/translation": 0.5}) for _ in range(2 * FIRST))
    method.phase = 2  # of `step`: rgb and squared weigh a thousand times as much
    assert not any(health.judge({"generator/translation": 500.0}) for _ in range(2 * FIRST))
    assert "diverges" in str(health.judge({"generator/translation": 5e5}))


def test_opponents_edges_and_distances_are_worked_out_by_hand() -> None:
    colour = torch.tensor([1.0, -0.5, 0.25])[None, :, None, None].expand(1, 3, 4, 4)
    assert seen_as("opponent1", colour, None).unique().item() == pytest.approx(0.75)
    assert seen_as("opponent2", colour, None).unique().item() == pytest.approx(-0.375)
    assert seen_as("edges", colour, None).unique().item() == pytest.approx(-1)
    step = torch.full((1, 3, 4, 4), -1.0)
    step[..., 2:] = 1
    assert seen_as("edges", step, None)[0, 0, 1].tolist() == pytest.approx([-1, 1, 1, -1])
    assert distance(torch.tensor([-1.0, 1.0, 3.0])).tolist() == [2, 1, 1]
    made, wanted = torch.tensor([0.0, 1.0, 0.1, 0.0])[None, None, None], torch.zeros(1, 1, 1, 4)
    assert berhu(made, wanted).item() == pytest.approx(((1 + 0.04) / 0.4 + 0.1) / 4), "c = 0.2"


def test_a_drawing_knows_its_parts() -> None:
    content = Content.from_seed(5)
    parts = drawn_parts(name_drawing(content, {}), 32)
    there = {CLASSES[CLASS_OF[part]] for part in np.unique(parts)}
    assert {"background", "hair", "skin", "clothes", "eyes"} <= there and not {"hat", "beard", "glasses"} & there
    hat = drawn_parts(name_drawing(content, {"Hat": 1}), 32) == 12
    changed = (draw_face(content, {"Hat": 1}, 32) != draw_face(content, {}, 32)).any(2)
    assert hat.any() and changed[hat].mean() > 0.95, "the map lies where the picture changes"


def test_no_image_shows_two_modalities_beside_the_anchor(workspace: Workspace) -> None:
    draws = ModalitySampler(workspace, ("rgb", "depth", "segmentation"), 32, batch=2, seed=0)
    assert not np.intersect1d(*draws.ids).size
    one, other = draws.draw(0), draws.draw(1)
    assert one.domains == (1, 0) and other.domains == (2, 0)
    assert np.isin(one.ids, draws.ids[0]).all() and np.isin(other.ids, draws.ids[1]).all()
    again = draws.draw(0)
    assert np.array_equal(one.ids, again.ids) and one.parts is not None and np.array_equal(one.parts, again.parts)  # type: ignore[arg-type]
    plain = ModalitySampler(workspace, ("opponent1", "opponent2", "rgb"), 32, batch=2, seed=0)
    assert plain.draw(0).parts is None and sum(map(len, plain.ids)) > sum(map(len, draws.ids)), "unlabelled images too"


def test_miou_counts_the_classes_that_occur(workspace: Workspace) -> None:
    meter = Meter("segmentation", workspace, None)
    wanted, made = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
    planes = [torch.nn.functional.one_hot(one, len(CLASSES)).mT[None, :, :, None].float() for one in (made, wanted)]
    meter.add(planes[0].reshape(1, len(CLASSES), 1, 4), planes[1].reshape(1, len(CLASSES), 1, 4), np.zeros((1, 0)))
    assert meter.measures() == {"miou": pytest.approx((1 / 2 + 2 / 3) / 2), "pixels": 0.75}


def test_rows_are_trained_judged_and_not_done_twice(workspace: Workspace, tmp_path: Path) -> None:
    given = {"rows": ("pseudo-pairs",), "overrides": [*TINY, "translation.steps=3"], "device": "cpu"}
    found = run_modalities(workspace, "zero-pair", tmp_path / "out", **given)  # type: ignore[arg-type]
    row = found["rows"]["pseudo-pairs"]
    assert set(row["unseen: depth to segmentation"]) == {"miou", "pixels"}
    assert set(row["cascade: segmentation to depth"]) == {"within", "rmse", "rmse_log"}
    assert -1 <= row["latent: depth and segmentation"]["alignment"] <= 1
    assert set(row["seen: depth to rgb"]) == {"rmse", "accuracy", "group"} and row["real"]["rmse"] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["pseudo-pairs-0.json", "pseudo-pairs-0.png"]
    runs = len(workspace.runs())
    assert run_modalities(workspace, "zero-pair", tmp_path / "out", **given) == found  # type: ignore[arg-type]
    assert len(workspace.runs()) == runs
    with pytest.raises(RgunitError, match="other settings"):
        run_modalities(workspace, "zero-pair", tmp_path / "out", **{**given, "overrides": list(TINY)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no row is called 'all'"):
        run_modalities(workspace, "zero-pair", tmp_path / "out", rows=("all",))
    with pytest.raises(UsageError, match="zero-pair or zero-pair-colours"):
        run_modalities(workspace, "demo", tmp_path / "out", rows=("pseudo-pairs",), overrides=())


def test_it_resumes_bit_for_bit(workspace: Workspace) -> None:
    def run(steps: int, resume: bool) -> Path:
        config = small(f"translation.steps={steps}", "translation.align=0", "translation.weights.pseudo=0")
        return train_translation(workspace, config, device="cpu", resume=resume).run.path

    whole, half = run(3, False), run(2, False)
    assert run(3, True) == half
    a, b = load_file(whole / CHECKPOINT), load_file(half / CHECKPOINT)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (('networks.modalities=["rgb", "depth"]',), "three or more"),
        (('networks.modalities=["rgb", "depth", "heat"]',), "three or more"),
        (("translation.align=0.9",), "translation.pseudo comes before"),
        (("networks.pools=4",), "leaves 2 of 32 px"),
    ],
)
def test_bad_settings_are_refused(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        small(*settings)


def test_a_collection_that_was_not_drawn_has_no_depth(tmp_path: Path, drawn: Path) -> None:
    with Workspace.ensure(tmp_path / "plain") as workspace:
        workspace.add_images(drawn / "unlabelled", origin="unlabelled")
        with pytest.raises(UsageError, match="depth and segmentation are known of drawn faces only"):
            train_translation(workspace, small(), device="cpu")
        with pytest.raises(UsageError, match="no --attributes-used"):
            train_translation(workspace, small(), attributes_used=("Glasses",), device="cpu")
