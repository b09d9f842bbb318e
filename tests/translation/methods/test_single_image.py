"""CUT on two single pictures: what is cut out, who learns from what, how it goes on, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from tests.translation.resume import same_after_a_stop
from tests.translation.small import Notes
from translation.config import Config, load_config
from translation.evaluation.arms import open_arms
from translation.fitting import tell_if_enlarged
from translation.inference import translate_images
from translation.methods.single_image import SingleImage
from translation.pipeline import run_all
from translation.sampling import Batch, CropSampler
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.sessions import StageResult
from translation.training.task import Engine

TINY = (
    *("networks.width=0.05", "networks.discriminator_width=0.05", "networks.blocks=2", "networks.projection=8"),
    *("translation.batch=4", "translation.steps=4", "translation.constant=1", "data.size=32"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)
ONE, OTHER = "id=1", "id=2"


def tiny(*overrides: str) -> Config:
    return load_config("single-image", overrides=[*TINY, *overrides])


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[Workspace]:
    """Two pictures without labels: 1 is 96×64 and red from the left to the right, 2 is 48×80 and blue."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = np.arange(96) * 2
    Image.fromarray(red).save(folder / "a.png")
    Image.fromarray(np.full((80, 48, 3), (0, 0, 200), np.uint8)).save(folder / "b.png")
    with Workspace.ensure(tmp_path / "workspace") as workspace:
        workspace.add_images(folder, origin="unlabelled")
        yield workspace


def sampler(workspace: Workspace, **how: float) -> CropSampler:
    given = {"size": 32, "batch": 4, "zoom": 3.0, "seed": 1, **how}
    return CropSampler(workspace, ONE, OTHER, **given)  # type: ignore[arg-type]


def test_crops_are_of_seed_step_and_process_alone_and_of_both_pictures(pictures: Workspace) -> None:
    one, again = sampler(pictures), sampler(pictures)
    one.draw(0)
    first, second = one.draw(9).crops, again.draw(9).crops
    assert first is not None and second is not None
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == first[1].shape == (4, 32, 32, 3)
    assert (first[0][..., 2] == 0).all() and (first[1] == (0, 0, 200)).all()
    for other in (one.draw(10).crops, sampler(pictures, rank=1).draw(9).crops, sampler(pictures, seed=2).draw(9).crops):
        assert other is not None and not np.array_equal(other[0], first[0])


def test_crops_are_shrunk_by_up_to_the_zoom_and_mirrored_in_half_of_the_cases(pictures: Workspace) -> None:
    def spans(zoom: float, mirror: bool) -> np.ndarray:
        """How much redder each crop is at its right than at its left."""
        made = [sampler(pictures, zoom=zoom, mirror=mirror).draw(step).crops for step in range(60)]
        reds = np.concatenate([crops[0][:, 16, :, 0].astype(int) for crops in made if crops is not None])
        return reds[:, -1] - reds[:, 0]

    assert set(spans(1, False)) == {62}, "at its own resolution: 31 columns of 2"
    shrunk = spans(3, False)
    assert shrunk.min() < 75 and 150 < shrunk.max() <= 190, "up to the whole width, 96 to 32 columns"
    assert 0.4 < (spans(1, True) < 0).mean() < 0.6


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (ONE, "id=7", "--target 'id=7' is 0 images, and one is needed"),
        (ONE, "split=train", "is 2 images, and one is needed"),
        (ONE, ONE, "are the same picture, id=1"),
        (None, None, "name them, --source PICTURE --target PICTURE"),
        (ONE, None, "give both, or none"),
        (ONE, "gone/b.png", "there is no picture gone/b.png"),
        (ONE, "FOREIGN", "is not in the workspace: `rgunit add` it first"),
    ],
)
def test_pictures_that_cannot_be_meant_are_refused_before_a_run(
    pictures: Workspace, source: str | None, target: str | None, said: str
) -> None:
    if target == "FOREIGN":
        target = str(pictures.path / "foreign.png")
        Image.new("RGB", (40, 40)).save(target)
    with pytest.raises((RgunitError, UsageError)) as refused:
        train_translation(pictures, tiny(), source=source, target=target, device="cpu")
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert pictures.runs() == []


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    images, target = torch.rand(2, 4, 3, 32, 32, generator=g) * 2 - 1
    none = torch.zeros(4, 0, dtype=torch.int8)
    return Batch(images, none, none, torch.zeros(0, 4, 0), references=target)


@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_its_own_networks_alone(pictures: Workspace, mover: str) -> None:
    torch.manual_seed(0)
    method = SingleImage.build(tiny(), pictures.schema.subset(()), "translation")
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(
            [p for n in player.networks for p in method.networks[n].parameters()], 1.0 if name == mover else 0.0
        )
        for name, player in method.players.items()
    }
    before = {name: torch.cat([p.detach().flatten() for p in n.parameters()]) for name, n in method.networks.items()}
    terms = Engine(optimizers).run(method.step(batch(), 0))
    after = {name: torch.cat([p.detach().flatten() for p in n.parameters()]) for name, n in method.networks.items()}
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(method.players[mover].networks)
    assert set(terms) == {
        *("discriminator/adversarial", "discriminator/gradient_penalty", "generator/adversarial"),
        *("generator/nce", "generator/target_nce", "generator/identity"),
    }
    assert all(value.isfinite() and not value.requires_grad for value in terms.values())
    assert float(terms["discriminator/gradient_penalty"]) > 0


def test_terms_without_weight_are_left_out(pictures: Workspace) -> None:
    off = [f"translation.weights.{name}=0" for name in ("nce", "target_nce", "identity", "gradient_penalty")]
    method = SingleImage.build(tiny(*off), pictures.schema.subset(()), "translation")
    steps = method.step(batch(), 0)
    assert [set(next(steps).terms) for _ in range(2)] == [{"adversarial"}, {"adversarial"}]


def test_an_encoder_that_halves_thrice_takes_any_size_too(pictures: Workspace, tmp_path: Path) -> None:
    config = tiny("networks.halvings=3", "translation.steps=1")
    train_translation(pictures, config, source=ONE, target=OTHER, device="cpu")
    Image.new("RGB", (45, 51), (90, 30, 20)).save(tmp_path / "odd.png")
    (row,) = translate_images(pictures, [tmp_path / "odd.png"], out=tmp_path / "out", device="cpu")
    assert Image.open(row["path"]).size == (45, 51)


def test_it_resumes_bit_for_bit_and_translates_at_the_pictures_own_size(pictures: Workspace, tmp_path: Path) -> None:
    by_path = str(pictures.images(OTHER).paths[0])

    def run(steps: int, resume: bool) -> StageResult:
        config = tiny(f"translation.steps={steps}")
        return train_translation(pictures, config, source=ONE, target=by_path, device="cpu", resume=resume)

    half = same_after_a_stop(run)
    assert list((half / "samples").iterdir())
    assert pictures.runs()[-1].config["target"] == OTHER
    unnamed = train_translation(pictures, tiny("translation.steps=5"), device="cpu", resume=True)
    assert unnamed.run.path == half and unnamed.steps == 5, "the run knows its pictures"
    with pytest.raises(RgunitError, match="cannot go on with another source, target"):
        train_translation(
            pictures, tiny("translation.steps=6"), source=OTHER, target=ONE, device="cpu", resume="changed"
        )
    with pytest.raises(UsageError, match="draws no styles"):
        translate_images(pictures, [Path(by_path)], samples=2, out=tmp_path / "three", device="cpu")
    (row,) = translate_images(pictures, [Path(pictures.images(ONE).paths[0])], out=tmp_path / "out", device="cpu")
    assert row["mask"] is None and Image.open(row["path"]).size == (96, 64)

    for stage in (train_retrieval, train_guided):
        with pytest.raises(RgunitError, match=r"learned from two pictures|takes no guidance"):
            stage(pictures, tiny(), device="cpu")
    with pytest.raises(RgunitError, match="nothing is held out to evaluate it on"):
        open_arms(pictures, device="cpu")
    with pytest.raises(UsageError, match="nothing to retrieve or to evaluate"):
        run_all(pictures, tiny(), device="cpu")


def test_a_picture_that_is_enlarged_to_a_crop_is_told(pictures: Workspace) -> None:
    notes = Notes()
    tell_if_enlarged(pictures, tiny("data.size=96"), notes, (ONE, OTHER))
    assert notes.told and all("is enlarged to crops of 96 px (data.size)" in note for note in notes.told)
    tell_if_enlarged(pictures, tiny(), silent := Notes(), (ONE, OTHER))
    assert silent.told == []
