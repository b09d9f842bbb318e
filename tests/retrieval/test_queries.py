import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from retrieval.queries import compose
from retrieval.tensors import to_tensor
from tests.retrieval.colours import ColourEncoders, paint


def picture(red: int, green: int) -> NDArray[np.uint8]:
    return paint(np.random.default_rng(0), np.array([red, green], np.int8), pattern=1)


def numbers(style: torch.Tensor) -> list[float]:
    """Each attribute's 8 numbers, which are equal here, as one."""
    each = style.view(-1, 8)
    assert torch.allclose(each, each[:, :1])
    return each[:, 0].tolist()


def test_bits_not_named_keep_the_known_label_and_unknown_ones_follow_the_style() -> None:
    encoders = ColourEncoders()
    edit = encoders.schema.edit("-Red")
    image = picture(1, 0)  # looks red, not green
    assert compose(encoders, image, edit=edit).target.tolist() == [0, 0]
    known = np.array([-1, 1], np.int8)  # the label says green, whatever it looks like
    query = compose(encoders, image, edit=edit, known_labels=known)
    assert query.target.tolist() == [0, 1]
    assert query.target.dtype == np.int8
    assert numbers(query.style) == [-1, 1]  # the component's mean
    unknown = compose(encoders, image, edit=encoders.schema.edit("+Green"), known_labels=np.array([-1, -1], np.int8))
    assert unknown.target.tolist() == [1, 1]
    assert known.tolist() == [-1, 1]  # the caller's array is left alone


def test_the_content_is_that_of_the_picture() -> None:
    encoders = ColourEncoders()
    image = picture(1, 0)
    query = compose(encoders, image, edit=encoders.schema.edit("+Green"))
    floats = torch.from_numpy(image)[None].permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(query.content, encoders.content(floats))


def test_the_style_of_another_picture_is_its_own_numbers() -> None:
    encoders = ColourEncoders()
    other = picture(0, 1)
    query = compose(encoders, picture(1, 0), style_of=other)
    floats = torch.from_numpy(other)[None].permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(query.style, encoders.style(floats))
    assert query.target.tolist() == [0, 1]


def test_an_edit_overrides_its_bits_of_the_other_pictures_style() -> None:
    encoders = ColourEncoders()
    plain = compose(encoders, picture(1, 0), style_of=picture(0, 1))
    both = compose(encoders, picture(1, 0), style_of=picture(0, 1), edit=encoders.schema.edit("+Red"))
    assert numbers(both.style)[0] == 1.0
    assert numbers(both.style)[1] == numbers(plain.style)[1] != 1.0  # μ, not the component's mean
    assert both.target.tolist() == [1, 1]
    # An exclusive group: what +Red ends is replaced too.
    encoders.schema = AttributeSchema(("Red", "Green"), (("Red", "Green"),))
    both = compose(encoders, picture(1, 0), style_of=picture(0, 1), edit=encoders.schema.edit("+Red"))
    assert numbers(both.style) == [1.0, -1.0]
    assert both.target.tolist() == [1, 0]


def test_a_generator_draws_from_the_component_instead_of_its_mean() -> None:
    encoders = ColourEncoders()
    edit = encoders.schema.edit("+Green")
    one, same, other = (
        compose(encoders, picture(1, 0), edit=edit, generator=torch.Generator().manual_seed(seed)).style
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert encoders.style_labels(one).tolist() == [[1, 1]]


def test_without_an_edit_the_query_is_the_picture_itself() -> None:
    encoders = ColourEncoders()
    query = compose(encoders, picture(1, 0))
    assert query.target.tolist() == [1, 0]
    torch.testing.assert_close(query.style, encoders.style(to_tensor(picture(1, 0)[None], "cpu")))


def test_of_several_pictures_the_mean_content_and_the_majority_of_labels() -> None:
    encoders = ColourEncoders()
    images = np.stack([picture(1, 0), picture(1, 1), picture(0, 1)])
    query = compose(encoders, images, edit=encoders.schema.edit("+Red"))
    assert query.target.tolist() == [1, 1]
    torch.testing.assert_close(query.content, encoders.content(to_tensor(images, "cpu")).mean(0, keepdim=True))
    assert query.contents.shape[0] == 3 and numbers(query.style) == [1, 1]
    known = np.array([[-1, 0], [-1, 0], [-1, -1]], np.int8)  # the labels outvote what the last one looks like
    assert compose(encoders, images, edit=encoders.schema.edit("+Red"), known_labels=known).target.tolist() == [1, 0]
    even = compose(encoders, images[[0, 2]], edit=encoders.schema.edit("+Red"))
    assert even.target.tolist() == [1, 0]  # the first decides


def test_a_query_needs_the_right_size() -> None:
    encoders = ColourEncoders()
    with pytest.raises(RgunitError, match=r"\[32, 32, 3\], not uint8 \[16, 32, 3\]"):
        compose(encoders, picture(1, 0)[:16], edit=encoders.schema.edit("+Red"))


@pytest.mark.filterwarnings("error")
def test_a_read_only_picture_is_read_like_any_other() -> None:
    image = picture(1, 0)
    image.flags.writeable = False  # as a decoder may hand it out
    pixels = to_tensor(image[None, :, ::-1], "cpu")
    assert pixels.shape == (1, 3, 32, 32)
    assert (pixels.min() >= -1) and (pixels.max() <= 1)
    np.testing.assert_allclose(pixels[0, 0, 0, 0], image[0, -1, 0] / 127.5 - 1, rtol=1e-5)
