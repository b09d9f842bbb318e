"""Built-in data: drawn faces whose true translation is known.

A face is drawn from *content* factors (pose, shape, skin, expression, background …, all from one seed)
and *style* attributes (hair colour, glasses, beard, hat). The same content can be drawn under any
attributes, so what a translation should have looked like, and which images truly share content, are known:
no photo set offers that.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from index_store.errors import RgunitError
from translation.drawings.content import HAIR_COLOURS, Content
from translation.drawings.painter import paint

STYLE_ATTRIBUTES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Glasses", "Beard", "Hat")
"""Attributes that can be changed without changing the content."""
CONTENT_ATTRIBUTES = (
    "Smiling",
    "Pale_Skin",
    "Narrow_Face",
    "Facing_Left",
    "Long_Hair",
    "Bright_Background",
)
"""Attributes decided by the content factors: they measure what a translation or a neighbour keeps."""
ATTRIBUTES = STYLE_ATTRIBUTES + CONTENT_ATTRIBUTES
GROUPS = (HAIR_COLOURS,)
_VERSION = "face-v1"


def draw_face(content: Content, attributes: Mapping[str, int], size: int) -> NDArray[np.uint8]:
    """`content` drawn under `attributes` ({style attribute: 0 or 1}, absent = 0): uint8 [size, size, 3].

    Raises ValueError for an attribute that cannot be drawn and for two hair colours at once.
    """
    if unknown := set(attributes) - set(STYLE_ATTRIBUTES):
        raise ValueError(f"cannot draw {', '.join(sorted(unknown))}: only {', '.join(STYLE_ATTRIBUTES)}")
    on = {name for name, value in attributes.items() if value == 1}
    if len(on & set(HAIR_COLOURS)) > 1:
        raise ValueError(f"a face has at most one hair colour, not {', '.join(sorted(on & set(HAIR_COLOURS)))}")
    return paint(content, frozenset(on), size)


def labels_of(content: Content, attributes: Mapping[str, int]) -> NDArray[np.int8]:
    """Labels int8 [A] in {0, 1} of a drawn face, in the order of ATTRIBUTES."""
    style = [int(attributes.get(name, 0) == 1) for name in STYLE_ATTRIBUTES]
    kept = [
        content.smile > 0.2,
        content.skin < 0.3,
        content.width < 0.95,
        content.yaw < 0,
        content.hair_length > 0.5,
        content.background_light > 0.5,
    ]
    return np.array(style + [int(bit) for bit in kept], dtype=np.int8)


def random_attributes(random: np.random.Generator) -> dict[str, int]:
    """Style attributes of one face, with mild correlations; every combination the group allows occurs."""
    hair = random.choice(4, p=[0.3, 0.27, 0.31, 0.12])  # the last: none of the three (red or grey)
    attributes = {name: int(hair == i) for i, name in enumerate(HAIR_COLOURS)}
    attributes["Glasses"] = int(random.random() < 0.4)
    attributes["Beard"] = int(random.random() < (0.28 if attributes["Blond_Hair"] else 0.42))
    attributes["Hat"] = int(random.random() < (0.3 if attributes["Glasses"] else 0.38))
    return attributes


def name_drawing(content: Content, attributes: Mapping[str, int]) -> str:
    """The text that a face can be drawn again from: `face-v1:SEED:ATTRIBUTE+ATTRIBUTE`."""
    return f"{_VERSION}:{content.seed}:" + "+".join(n for n in STYLE_ATTRIBUTES if attributes.get(n) == 1)


def parse_drawing(drawing: str) -> tuple[Content, dict[str, int]]:
    """Content and style attributes of a text made by `name_drawing`. Raises RgunitError if it is none."""
    version, _, rest = drawing.partition(":")
    seed, _, names = rest.partition(":")
    on = [name for name in names.split("+") if name]
    if version != _VERSION or not seed.isdecimal() or not set(on) <= set(STYLE_ATTRIBUTES):
        raise RgunitError(f"{drawing!r} is no built-in drawing: expected {_VERSION}:SEED:ATTRIBUTE+ATTRIBUTE")
    return Content.from_seed(int(seed)), {name: int(name in on) for name in STYLE_ATTRIBUTES}


def true_translation(drawing: str, labels: ArrayLike, names: Sequence[str], size: int) -> NDArray[np.uint8]:
    """What the drawn face looks like under other labels: uint8 [size, size, 3].

    `labels` [len(names)] in {1, 0, −1 = as drawn}; a hair colour that is set clears the others. What `names`
    leaves out stays as drawn, and so does content (a content attribute among `names` is passed over).
    """
    content, attributes = parse_drawing(drawing)
    wanted = dict(zip(names, np.asarray(labels).tolist(), strict=True))
    return draw_face(content, restyled(attributes, wanted), size)


def restyled(attributes: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    """Style attributes with what is `wanted` in {1, 0}; a hair colour that is set clears the others."""
    cleared = HAIR_COLOURS if any(wanted.get(name) == 1 for name in HAIR_COLOURS) else ()
    given = {name: value for name, value in wanted.items() if name in STYLE_ATTRIBUTES and value in (0, 1)}
    return {**attributes, **dict.fromkeys(cleared, 0), **given}


def make_dataset(
    folder: Path,
    *,
    images: int,
    size: int,
    seed: int,
    unlabelled_share: float = 0.15,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, Path, Path]:
    """Draw faces of `size` pixels under `folder`: (labelled folder, its CSV, unlabelled folder).

    `images` are labelled; a further `unlabelled_share` of as many are not.

    The CSV holds `image`, ATTRIBUTES, `split` (every fifth is test) and `drawing`, the text for
    `true_translation`. Unlabelled images have no CSV. The same arguments write the same bytes.
    `progress(done, total)` is called after each image.
    """
    labelled, unlabelled = folder / "labelled", folder / "unlabelled"
    table = labelled / "labels.csv"
    for path in (labelled, unlabelled):
        path.mkdir(parents=True, exist_ok=True)
    total = images + round(images * unlabelled_share)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *ATTRIBUTES, "split", "drawing"])
        for i in range(total):
            random = np.random.default_rng([seed, i])
            content = Content.from_seed(int(random.integers(2**48)))
            attributes = random_attributes(random)
            into = labelled if i < images else unlabelled
            name = f"{i:06d}.png"
            Image.fromarray(draw_face(content, attributes, size)).save(into / name, compress_level=1)
            if i < images:
                split = "test" if i % 5 == 4 else "train"
                bits = labels_of(content, attributes).tolist()
                writer.writerow([name, *bits, split, name_drawing(content, attributes)])
            if progress is not None:
                progress(i + 1, total)
    return labelled, table, unlabelled
