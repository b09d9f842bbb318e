import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from index_store.duplicates import DISTANCE, alike, near_pairs, perceptual_hash, thumbs
from tests.places import SHARED


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures uint8 [count, 96, 96, 3] with a spectrum like that of photographs."""
    rng = np.random.default_rng(seed)
    number = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192)[None]) * 192
    waves = np.fft.fft2(rng.normal(size=(count, 3, 192, 192))) / np.maximum(number, 1) ** 1.5
    planes = np.fft.ifft2(waves).real[:, :, :96, :96]
    planes = (planes - planes.mean(axis=(2, 3), keepdims=True)) / planes.std(axis=(2, 3), keepdims=True)
    return (128 + 50 * planes).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def distances(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.bitwise_count(perceptual_hash(a) ^ perceptual_hash(b))


def each(pixels: NDArray[np.uint8], change: object) -> NDArray[np.uint8]:
    return np.stack([np.asarray(change(Image.fromarray(one))) for one in pixels])  # type: ignore[operator]


def encoded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


def test_a_copy_is_found_and_another_picture_is_not() -> None:
    own = pictures(30)
    assert (distances(own, own) == 0).all()
    assert (distances(own, each(own, encoded)) <= DISTANCE).all()
    assert (distances(own, each(own, lambda image: image.resize((40, 40)))) <= DISTANCE).all()
    assert (distances(own, np.minimum(own * 0.8 + 30, 255).astype(np.uint8)) <= DISTANCE).all()
    cropped = each(own, lambda image: encoded(image.crop((1, 1, 95, 95)).resize((96, 96))))
    assert (distances(own, cropped) <= DISTANCE).mean() > 0.95
    assert (distances(own, pictures(30, seed=1)) > 2 * DISTANCE).all()
    assert (distances(own, own[:, :, ::-1]) > DISTANCE).all()  # a mirrored picture is another


def test_pictures_of_one_colour_are_alike() -> None:
    flat = np.array([0, 128, 255], np.uint8)[:, None, None, None] + np.zeros((3, 20, 30, 3), np.uint8)
    assert perceptual_hash(flat).tolist() == [0, 0, 0]
    assert perceptual_hash(flat[:0]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from([0, 1, 6, 11, 40, 64]))
def test_near_pairs_are_those_of_all_pairs(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 40, np.uint64)
    hashes[20:] = hashes[:20] ^ np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (20, 8), np.uint64), axis=1)
    hashes[5] = hashes[9]
    table = np.bitwise_count(hashes[:, None] ^ hashes[None])
    np.testing.assert_array_equal(near_pairs(hashes, limit), np.argwhere(np.triu(table <= limit, 1)))


def test_pairs_of_more_hashes_than_a_block() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 12_000, np.uint64)
    hashes[11_000] = hashes[7] ^ np.uint64(0b1011)
    assert near_pairs(hashes).tolist() == [[7, 11_000]]
    assert near_pairs(np.zeros(1500, np.uint64), 20).shape == (1500 * 1499 // 2, 2)
    assert near_pairs(hashes[:1]).shape == (0, 2)


def test_real_copies_in_celeba() -> None:
    archive = SHARED / "data" / "celeba128_10k.tar"
    if not archive.exists():
        pytest.skip("the CelebA pack is not there")
    import tarfile

    with tarfile.open(archive) as tar:
        names = [one for one in tar.getmembers() if one.name.endswith(".jpg")][:200]
        own = np.stack([np.asarray(Image.open(tar.extractfile(one)).convert("RGB")) for one in names])  # type: ignore[arg-type]
    assert (distances(own, each(own, encoded)) <= DISTANCE).all()
    cropped = each(own, lambda image: encoded(image.crop((1, 1, 127, 127)).resize((128, 128))))
    assert (distances(own, cropped) <= DISTANCE).mean() > 0.9
    assert len(near_pairs(perceptual_hash(own))) <= 5  # of 19,900 pairs of aligned faces


def test_copies_have_the_colours_of_one_picture_and_others_do_not() -> None:
    own = pictures(30)
    for change in (encoded, lambda image: encoded(image.crop((1, 1, 95, 95)).resize((96, 96)))):
        assert alike(thumbs(own), thumbs(each(own, change))).all()
    assert alike(thumbs(own), thumbs(np.clip(own.astype(int) + 25, 0, 255).astype(np.uint8))).mean() > 0.9  # brighter
    assert not alike(thumbs(own), thumbs(pictures(30, seed=1))).any()
    assert not alike(thumbs(own), thumbs(own[..., ::-1])).all()  # other colours, the same grey waves or nearly
