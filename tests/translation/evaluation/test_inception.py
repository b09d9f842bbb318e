"""FID, KID, IS and LPIPS by torchmetrics, their weights from files that never run code (random ones here)."""

import io
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from index_store.errors import RgunitError
from translation.evaluation.distances import frechet
from translation.evaluation.inception import (
    ALEXNET_FILE,
    Inception,
    PerceptualDistance,
    inception_score,
    kernel_distance,
    read_weights,
)


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """The network of FID with random weights, as the published file: a PyTorch state dictionary."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, *more, **options):
            return None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Random("inception-v3-compat", ["2048"], nothing)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif name == "fc.weight":
            parameter.mul_(10)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory):
    """AlexNet's convolutions with random weights, as safetensors."""
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    state = {f"features.{i}.weight": torch.nn.init.kaiming_normal_(torch.empty(shape)) for i, shape in shapes.items()}
    state |= {f"features.{i}.bias": torch.zeros(shape[0]) for i, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file(state, path)
    return path


def test_inception_gives_features_and_logits_of_every_image(inception_file):
    images = random_images(2)
    reading = Inception(str(inception_file)).read(images)
    assert reading.features.shape == (2, 2048) and reading.logits.shape == (2, 1008)
    assert np.isfinite(reading.logits).all() and np.abs(reading.features[0] - reading.features[1]).max() > 0
    kernel = torch.load(inception_file, weights_only=True)["fc.weight"].numpy()
    assert reading.logits == pytest.approx(reading.features @ kernel.T, rel=1e-3, abs=1e-3)


def test_fid_is_torchmetrics_own():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(torch.nn.Identity):
        num_features = 8

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 8)), rng.normal(1, 2, size=(40, 8))
    metric = FrechetInceptionDistance(feature=Features())
    metric.update(torch.from_numpy(a), real=False)
    metric.update(torch.from_numpy(b), real=True)
    assert frechet(a, b).distance == pytest.approx(float(metric.compute()), rel=1e-6)


def test_a_score_of_one_kind_of_image_is_1_and_of_ten_sure_kinds_10():
    sure = 50 * np.eye(10, dtype=np.float32)
    assert inception_score(np.repeat(sure[:1], 40, axis=0)) == pytest.approx(1)
    assert inception_score(np.tile(sure, (100, 1))) == pytest.approx(10, rel=0.1)


def test_kernel_distance_is_about_0_for_the_same_distribution_and_more_for_another():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(60, 16)).astype(np.float32) for _ in range(2))
    assert abs(kernel_distance(a, b)) < 0.5 < kernel_distance(a, b + 2)
    assert kernel_distance(a, b) == kernel_distance(a, b)


def test_lpips_is_0_between_equal_images_and_is_taken_from_the_file(alexnet_file, tmp_path):
    images = random_images(3)
    network = PerceptualDistance(str(alexnet_file))
    assert network.kind == "alex"
    assert network.diversity(np.repeat(images[:1], 3, axis=0)) == pytest.approx(0, abs=1e-6)
    assert network.diversity(images) > 0.01
    state = read_weights(alexnet_file)
    torch.save({name: tensor.flip(0) for name, tensor in state.items()}, tmp_path / "other.pth")
    assert PerceptualDistance(str(tmp_path / "other.pth")).diversity(images) != pytest.approx(network.diversity(images))


def test_what_is_absent_or_no_such_network_is_refused_with_its_name(alexnet_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RgunitError, match=r"no weights at nowhere\.pth: give --inception-weights the file of https"):
        Inception("nowhere.pth")
    with pytest.raises(RgunitError, match=f"torch's cache has no .*{ALEXNET_FILE}: put the file .* or give --lpips"):
        PerceptualDistance("cache")
    with pytest.raises(RgunitError, match="does not hold the weights of FID's Inception"):
        Inception(str(alexnet_file))
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "small.safetensors")
    with pytest.raises(RgunitError, match="does not hold torchvision's AlexNet or VGG-16"):
        PerceptualDistance(str(tmp_path / "small.safetensors"))
    for name in ("rubbish.pth", "rubbish.safetensors"):
        (tmp_path / name).write_bytes(b"rubbish")
        with pytest.raises(RgunitError, match=f"{name} holds no weights that can be read"):
            Inception(str(tmp_path / name))


def test_torch_s_cache_is_used_when_asked_for(alexnet_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / ALEXNET_FILE
    place.parent.mkdir(parents=True)
    torch.save(read_weights(alexnet_file), place)
    assert PerceptualDistance("cache").path == place


def test_a_file_s_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(RgunitError, match="without running its code"):
        Inception(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()
