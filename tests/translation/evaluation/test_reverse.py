"""Translations teach what their labels say: right ones well, wrong ones wrongly, unknown ones nothing."""

import numpy as np
import pytest

from translation.evaluation.reverse import ReverseMeter


@pytest.fixture(scope="module")
def bright():
    """Noise images [n, 16, 16, 3], half of them bright; their labels [n, 1]."""

    def make(count, seed):
        rng = np.random.default_rng(seed)
        labels = (np.arange(count) % 2).astype(np.int8)[:, None]
        images = rng.integers(0, 90, (count, 16, 16, 3)) + 150 * labels[:, :, None, None].astype(int)
        return images.astype(np.uint8), labels

    return make


def meter_of(bright, fast, steps):
    images, labels = bright(20, 1)
    config = fast.model_copy(update={"reverse_steps": steps, "classifier_batch": 8})
    return ReverseMeter(("Bright",), images, labels, config, "cpu", 0)


def test_right_labels_teach_and_wrong_ones_mislead(bright, fast):
    meter = meter_of(bright, fast, 16)
    images, labels = bright(32, 2)
    right = meter.score(images, labels)
    wrong = meter.score(images, 1 - labels)
    assert right.shape == (20, 2) and (right[:, 1] == 1).all() and meter.steps == 16
    assert right[:, 0].mean() > 0.9 and wrong[:, 0].mean() < 0.1


def test_an_unknown_bit_of_a_real_image_is_not_counted(bright, fast):
    meter = meter_of(bright, fast, 1)
    meter.labels[3] = -1
    assert meter.score(*bright(4, 2)).sum(0)[1] == 19
