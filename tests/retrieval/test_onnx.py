"""A user's network reads the box it was told to; what is none is refused in one line."""

import csv
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError, UsageError
from retrieval.onnx import OnnxNetwork, parse_crop
from tests.places import SHARED

FACE_CROP = "25.84,24.69,76.48,89.23@128"


@pytest.fixture
def images() -> np.ndarray:
    """Three images of 32 px, black but for a red square in columns 8–15 and rows 16–31 of the second."""
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[1, 16:, 8:16, 0] = 255
    return pixels


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_features_are_the_first_output_for_every_image(write_network, tmp_path, images, batch):
    network = OnnxNetwork(write_network(tmp_path / "j.onnx", [batch, 3, 16, 8]))
    features = network.features(images)
    assert features.shape == (3, 3)
    black, white = -127.5 / 128, 127.5 / 128
    share = 8 * 16 / 32**2
    assert features[0] == pytest.approx([black] * 3)
    assert features[1] == pytest.approx([black + share * (white - black), black, black], abs=0.01)
    assert features[2] == pytest.approx(features[0])


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ("Transpose", r"j\.onnx gives \[8, 8, 3, 3\] for 3 images"),
        ("ReduceMean", r"j\.onnx gives \[1, 1, 1, 1\] for 3 images"),
        ("Log", r"j\.onnx gives features that are not finite"),
    ],
)
def test_features_that_are_none_of_an_image_are_refused(write_network, tmp_path, images, operation, told):
    network = OnnxNetwork(write_network(tmp_path / "j.onnx", ["n", 3, 8, 8], operation))
    with pytest.raises(RgunitError, match=told):
        network.features(images)


@pytest.mark.parametrize("crop", ["8,16,8,16@32", "16,32,16,32@64", "2,4,2,4@8"])
def test_a_crop_is_scaled_from_its_side_to_the_image(write_network, tmp_path, images, crop):
    network = OnnxNetwork(write_network(tmp_path / "j.onnx", ["n", 3, 16, 8]), crop)
    assert network.features(images)[1] == pytest.approx([127.5 / 128, -127.5 / 128, -127.5 / 128], abs=1e-4)


@pytest.mark.parametrize("crop", ["", "1,2,3,4", "1,2,3@4", "a,b,c,d@e", "0,0,1,1@0", "1..2,0,1,1@8"])
def test_a_malformed_crop_says_how_to_write_one(crop):
    with pytest.raises(UsageError, match="left,top,width,height@side"):
        parse_crop(crop)


@pytest.mark.parametrize("crop", ["0,0,9,8@8", "-1,0,4,4@8", "0,0,0,4@8"])
def test_a_crop_outside_the_image_is_refused(crop):
    with pytest.raises(UsageError, match="must lie within the 8×8 image"):
        parse_crop(crop)


def test_no_crop_is_the_whole_image():
    assert parse_crop(None) == (0, 0, 1, 1)


def test_a_missing_file_and_one_that_is_no_network_are_refused(tmp_path):
    with pytest.raises(RgunitError, match="no network at"):
        OnnxNetwork(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(RgunitError, match="no ONNX network"):
        OnnxNetwork(tmp_path / "text.onnx")


@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], ["n", 1, 8, 8], ["n", 3, 8]])
def test_a_network_that_takes_no_image_of_fixed_size_is_refused(write_network, tmp_path, shape):
    with pytest.raises(RgunitError, match="fixed height and width"):
        OnnxNetwork(write_network(tmp_path / "j.onnx", shape))


def test_images_of_another_shape_are_refused(write_network, tmp_path, images):
    network = OnnxNetwork(write_network(tmp_path / "j.onnx", ["n", 3, 8, 8]))
    with pytest.raises(ValueError, match="S, S, 3"):
        network.features(images[:, :16])


@pytest.mark.skipif(not (SHARED / "weights/mobilefacenet.onnx").exists(), reason="shared face network is absent")
@pytest.mark.skipif(not (SHARED / "data/celeba128_10k.tar").exists(), reason="shared CelebA pack is absent")
def test_a_face_network_knows_two_pictures_of_one_person():
    with (SHARED / "data/celeba128_10k.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["identity"]))[:100]  # 20 people × 5
    with tarfile.open(SHARED / "data/celeba128_10k.tar") as tar:
        names = {Path(name).name: name for name in tar.getnames()}
        files = [BytesIO(tar.extractfile(names[row["image"]]).read()) for row in rows]
    faces = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    features = OnnxNetwork(SHARED / "weights/mobilefacenet.onnx", FACE_CROP).features(faces)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    people = np.array([row["identity"] for row in rows])
    same = people[:, None] == people[None]
    cosine = unit @ unit.T
    assert features.shape == (100, 128)
    assert cosine[same & ~np.eye(100, dtype=bool)].mean() > 0.45
    assert abs(cosine[~same].mean()) < 0.1
