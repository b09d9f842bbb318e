"""Decoding: whatever a file holds comes out as RGB, or is refused with its reason."""

import numpy as np
import pytest
from PIL import Image

from index_store.errors import ImageRefused
from index_store.images import prepare, read_image, write_image


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_a_written_image_reads_back_the_same_and_leaves_no_other_file(tmp_path, picture):
    write_image(tmp_path / "sub" / "a.png", picture)
    assert (read_image(tmp_path / "sub" / "a.png") == picture).all()
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_any_mode_becomes_rgb(tmp_path, picture, mode):
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = Image.fromarray(picture)
    image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(file)
    pixels = read_image(file)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    if mode == "I;16":
        assert (pixels == picture[..., :1]).all()


def test_alpha_is_laid_over_white(tmp_path):
    clear = np.zeros((20, 20, 4), np.uint8)
    Image.fromarray(clear, "RGBA").save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


def test_exif_orientation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (60, 40, 3)


def test_a_size_crops_the_centre_square(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    write_image(tmp_path / "a.png", wide)
    assert (read_image(tmp_path / "a.png", size=32) == 200).all()
    assert read_image(tmp_path / "a.png", size=48).shape == (48, 48, 3)


def test_what_is_no_image_is_refused_with_its_reason(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(picture[:15, :15]).save(tmp_path / "tiny.png")
    Image.new("1", (8001, 8001)).save(tmp_path / "huge.png")
    reasons = {"truncated.jpg": "truncated", "text.jpg": "not an image", "empty.png": "not an image"}
    reasons |= {"tiny.png": "too small", "huge.png": "too large", "absent.png": "cannot be read"}
    for name, reason in reasons.items():
        with pytest.raises(ImageRefused, match=reason) as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_picture_in_memory_is_read_like_its_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    write_image(tmp_path / "a.png", pixels)
    wanted = read_image(tmp_path / "a.png", size=32)
    np.testing.assert_array_equal(prepare(pixels, size=32), wanted)
    np.testing.assert_array_equal(prepare(Image.fromarray(pixels), size=32), wanted)
    assert prepare(Image.fromarray(pixels).convert("LA")).shape == (40, 60, 3)
    with pytest.raises(ImageRefused, match=r"the query: must be uint8 \[height, width, 3\], not float64"):
        prepare(pixels / 255.0, name="the query")
    with pytest.raises(ImageRefused, match="8 x 40 is too small"):
        prepare(pixels[:, :8])
