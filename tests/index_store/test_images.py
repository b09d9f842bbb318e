"""Decoding: whatever a file holds comes out as RGB, or is refused with its reason."""

import os
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from index_store import decoding
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


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def test_how_bright_deep_grey_is_follows_its_type_and_not_its_brightest_pixel(tmp_path):
    grey = np.linspace(0, 1, 48 * 48).reshape(48, 48)
    for name, array, top in (
        ("full.png", (grey * 65535).astype(np.uint16), 255),
        ("twelve.png", (grey * 4095).astype(np.uint16), 16),
        ("255.png", (grey * 255).astype(np.uint16), 1),
        ("256.png", (grey * 256).astype(np.uint16), 1),
        ("full.tif", (grey * 65535).astype(np.uint16), 255),
        ("float.tif", grey.astype(np.float32), 255),
        ("half.tif", (grey / 2).astype(np.float32), 128),
    ):
        pixels = read_image(save(tmp_path / name, array))
        assert (pixels.max(), pixels.min()) == (top, 0) and (np.diff(pixels[:, -1, 0].astype(int)) >= 0).all()
    (tmp_path / "a.pgm").write_bytes(b"P5 20 20 4095\n" + np.full(400, 4095, ">u2").tobytes())
    assert (read_image(tmp_path / "a.pgm") == 255).all()


def test_deep_grey_with_no_known_white_is_refused_with_the_remedy_and_read_once_white_is_said(tmp_path):
    grey = np.linspace(0, 1, 400).reshape(20, 20).astype(np.float32)
    holed = grey.copy()
    holed[3, 3] = np.nan
    for name, array, reason in (
        ("nan.tif", holed, "NaN"),
        ("beyond.tif", grey * 3000, "--white-level 4095"),
        ("below.tif", grey - 0.5, "negative"),
        ("signed.tif", (grey * 2000 - 1000).astype(np.int32), "negative"),
        ("counts.tif", (grey * 1000).astype(np.int32), "--white-level 1023"),
    ):
        with pytest.raises(ImageRefused, match=reason):
            read_image(save(tmp_path / name, array))
    assert read_image(tmp_path / "beyond.tif", white=3000).max() == 255
    assert read_image(tmp_path / "counts.tif", white=2000).max() == 128
    assert read_image(save(tmp_path / "t.png", np.full((20, 20), 4095, np.uint16)), white=4095).min() == 255


def test_deep_grey_is_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60), np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (60, 40, 3)


def test_long_texts_and_profiles_of_a_png_are_not_the_picture(tmp_path, picture):
    told = PngInfo()
    told.add_text("workflow", "x" * 3_000_000, zip=True)
    told.add_itxt("prompt", "y" * 3_000_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.png", pnginfo=told, icc_profile=bytes(3_000_000), exif=exif)
    assert (read_image(tmp_path / "a.png") == np.rot90(picture, -1)).all()
    told = PngInfo()
    told.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    Image.fromarray(picture).save(tmp_path / "b.png", pnginfo=told)
    assert read_image(tmp_path / "b.png").shape == read_image(tmp_path / "a.png").shape


def test_only_regular_files_are_read_and_pictures_inside_others_have_the_same_limit(tmp_path):
    os.mkfifo(tmp_path / "q.png")
    for place, reason in ((tmp_path / "q.png", "no regular file"), (tmp_path, "is a folder"), ("a\0b", "null")):
        with pytest.raises(ImageRefused, match=reason):
            read_image(place)
    inside = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 20000, 20000, 8, 2, 0, 0, 0, 0)
    entry = struct.pack("<HHHBBBBHHII", 0, 1, 1, 64, 64, 0, 0, 1, 32, len(inside), 22)
    (tmp_path / "bomb.ico").write_bytes(entry + inside)
    with pytest.raises(ImageRefused, match="20000 x 20000"):
        read_image(tmp_path / "bomb.ico")
    Image.new("RGB", (32, 32)).save(tmp_path / "good.ico", sizes=[(32, 32)])
    assert read_image(tmp_path / "good.ico").shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
def test_formats_whose_decoders_take_much_memory_have_a_limit_of_their_own(tmp_path, monkeypatch, kind):
    path = tmp_path / "bomb"
    Image.new("RGB", (1024, 1024), (9, 9, 9)).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert read_image(path).shape == (1024, 1024, 3)
    monkeypatch.setitem(decoding._MOST, kind, 1_000_000)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(ImageRefused, match=f"1024 x 1024 is too large .at most 1 megapixels as {kind}, 64 as JPEG"):
        read_image(path)


def test_a_webp_says_its_size_before_memory_is_taken_for_it(tmp_path, monkeypatch):
    head = b"VP8X" + struct.pack("<II", 10, 0) + (16382).to_bytes(3, "little") * 2
    (tmp_path / "large.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head)
    monkeypatch.setattr(decoding.Image, "open", lambda *words, **more: pytest.fail("it was opened"))
    with pytest.raises(ImageRefused, match="16383 x 16383 is too large"):
        read_image(tmp_path / "large.webp")
    for lossless in (True, False):
        image = Image.new("RGB", (70, 30))
        image.save(tmp_path / "small.webp", lossless=lossless)
        assert decoding._canvas((tmp_path / "small.webp").read_bytes()) == (70, 30)
