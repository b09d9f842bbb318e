"""A copy is nearer to its neighbour than people are to each other; real pictures hardly ever are."""

import numpy as np
import pytest

from translation.evaluation.copies import CopyMeter, copy_threshold


def mean_and_grain(images):
    return images.reshape(len(images), -1)[:, ::97].astype(np.float32) - 128


@pytest.fixture(scope="module")
def meter(workspace):
    test = workspace.images("split=test").ids
    real = mean_and_grain(workspace.load(test, 32))
    return CopyMeter(workspace, 32, mean_and_grain, copy_threshold(real[:60], real[60:]))  # 10 people against 10


def test_a_neighbour_with_a_little_noise_is_a_copy_and_an_unlike_face_is_none(workspace, meter):
    guides = workspace.images("split=train").ids[:12].reshape(4, 3)
    noise = np.random.default_rng(0).integers(0, 3, (4, 32, 32, 3))
    near = np.minimum(workspace.load(guides[:, 2], 32).astype(int) + noise, 255).astype(np.uint8)
    assert meter.copied(mean_and_grain(near), guides).all(), "also of the third neighbour"
    assert not meter.copied(mean_and_grain(255 - near), guides).any()
    assert not meter.copied(mean_and_grain(near), np.full((4, 1), -1)).any()


def test_the_threshold_is_what_one_in_a_hundred_real_pictures_falls_below():
    angles = np.linspace(0.1, 1.5, 101)
    real = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = copy_threshold(real, np.array([[3.0, 0.0]], np.float32))
    assert found == pytest.approx(1 - np.cos(angles[1]), rel=1e-3)
