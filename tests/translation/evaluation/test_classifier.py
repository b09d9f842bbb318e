"""The classifier learns what the labels say, from real training images, once a workspace."""

import numpy as np
import pytest
import torch

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from translation.config import load_config
from translation.evaluation.classifier import AttributeClassifier, build_network, train_classifier
from translation.evaluation.config import EvaluationConfig


def test_drawn_hats_and_glasses_are_seen_in_people_never_shown(classifier):
    assert classifier.names[:3] == ("Black_Hair", "Blond_Hair", "Brown_Hair")
    assert classifier.per_attribute["Hat"] > 0.8
    assert classifier.per_attribute["Glasses"] > 0.8
    assert classifier.accuracy == pytest.approx(np.mean(list(classifier.per_attribute.values())))


def test_readings_do_not_depend_on_the_batch(workspace, classifier):
    images = workspace.load(workspace.images("split=test").ids[:5], 32)
    together, alone = classifier.read(images), [classifier.read(images[row : row + 1]) for row in range(5)]
    assert together.logits.shape == (5, len(classifier.names)) and together.features.shape == (5, 512)
    assert set(np.unique(together.bits)) <= {0, 1} and together.bits.dtype == np.int8
    assert np.concatenate([one.features for one in alone]) == pytest.approx(together.features, abs=1e-4)


def test_images_of_another_size_are_refused(classifier):
    with pytest.raises(ValueError, match="32, 32, 3"):
        classifier.read(np.zeros((2, 64, 64, 3), np.uint8))


def test_the_second_time_it_comes_from_the_cache(workspace, classifier, fast):
    again = train_classifier(workspace, 32, fast)
    images = workspace.load(workspace.images("split=test").ids[:4], 32)
    assert again.fingerprint == classifier.fingerprint and again.seconds == classifier.seconds
    assert (again.read(images).logits == classifier.read(images).logits).all()


def test_a_broken_cache_file_says_to_delete_it(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RgunitError, match="delete it and evaluate again"):
        AttributeClassifier.load(tmp_path / "c.safetensors")


def test_equal_images_have_diversity_0_and_unlike_ones_more(workspace, classifier):
    images = workspace.load(workspace.images("split=test").ids[[0, 20, 40]], 32)
    assert classifier.diversity(np.repeat(images[:1], 3, axis=0)) == pytest.approx(0, abs=1e-6)
    assert classifier.diversity(images) > 0.05


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (64, 2), (128, 2)])
def test_the_stem_fits_the_image(size, stride):
    network = build_network("resnet18", 7, size).eval()
    assert network.conv1.stride == (stride, stride)
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 7)


def test_a_resnet50_has_2048_features():
    assert build_network("resnet50", 7, 64).fc.in_features == 2048


def test_training_stops_at_its_minutes(workspace):
    calls = []
    config = EvaluationConfig(classifier_epochs=1000, classifier_minutes=0.02, classifier_batch=16)
    trained = train_classifier(workspace, 32, config, progress=lambda done, total: calls.append((done, total)))
    assert trained.seconds < 20 and trained.steps < trained.planned == calls[-1][1]
    assert calls[-1][0] < calls[-1][1] == 1000 * (len(workspace.images("split=train")) // 16)


def test_a_workspace_without_labelled_images_is_refused(tmp_path):
    with Workspace.create(tmp_path / "w") as empty, pytest.raises(RgunitError, match="no labelled real images"):
        train_classifier(empty, 32, EvaluationConfig())


def test_the_papers_preset_judges_by_a_resnet50_which_learns_as_well(workspace, tmp_path):
    config = load_config("paper-celeba-128").evaluation
    assert config.classifier == "resnet50"
    short = config.model_copy(update={"classifier_batch": 4, "classifier_epochs": 0.05})
    taught = train_classifier(workspace, 32, short, seed=9)
    assert (taught.architecture, taught.steps) == ("resnet50", taught.planned) and taught.steps >= 1
    assert taught.read(workspace.load(workspace.images("split=test").ids[:2], 32)).features.shape == (2, 2048)
