"""Built-in data: drawn faces whose true translation is known.

A face is drawn from *content* factors (pose, shape, skin, expression, background …, all from one seed)
and *style* attributes (hair colour, glasses, beard, hat). The same content can be drawn under any
attributes, so what a translation should have looked like, and which images truly share content, are known:
no photo set offers that.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from index_store.errors import RgunitError
from translation.faces import HAIR_COLOURS, paint

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


@dataclass(frozen=True)
class Content:
    """What stays: the factors of one drawn face, all of them decided by `seed`.

    Factors that carry a label leave a gap around their threshold, so that no label is a matter of taste.
    """

    seed: int
    yaw: float  # -1 … 1, negative faces left; never within ±0.2
    tilt: float  # radians
    shift: tuple[float, float]  # of the head, in image sides
    scale: float
    width: float  # of the face, about 1
    height: float
    jaw: float  # 0 pointed … 1 square
    skin: float  # 0 pale … 1 dark
    smile: float  # -1 … 1
    mouth_open: float  # 0 … 1
    brow: float  # -1 frowning … 1 raised
    brow_weight: float
    eye_size: float
    eye_spacing: float
    eye_colour: int  # 0 … 4
    nose: float
    hair_length: float  # 0 … 1
    hair_cut: int  # 0 … 3: side part, fringe, centre part, swept up
    hair_volume: float
    hair_wave: float  # 0 straight … 1 curly
    hair_shade: float  # -1 … 1, within its colour; its sign picks red or grey where no hair colour is set
    background_hue: float
    background_light: float  # 0 dark … 1 bright
    background_angle: float
    clothes_hue: float
    clothes_light: float
    frame: int  # 0 round, 1 square glasses
    hat: int  # 0 beanie, 1 brimmed
    hat_hue: float

    @staticmethod
    def from_seed(seed: int) -> "Content":
        """The content that `seed` (≥ 0) stands for: the same on every machine."""
        random = np.random.default_rng([0xFACE, seed])

        def between(low: float, high: float) -> float:
            return float(random.uniform(low, high))

        def either(chance: float, low: tuple[float, float], high: tuple[float, float]) -> float:
            return between(*(high if random.random() < chance else low))

        smile = either(0.5, (-0.7, 0.05), (0.5, 1.0))
        skin = either(0.55, (0.42, 1.0), (0.0, 0.22))
        width = either(0.45, (1.0, 1.12), (0.8, 0.9))
        yaw = either(0.5, (0.2, 1.0), (-1.0, -0.2))
        hair_length = either(0.45, (0.0, 0.35), (0.65, 1.0))
        light = either(0.5, (0.0, 0.3), (0.7, 1.0))
        return Content(
            seed=seed,
            yaw=yaw,
            tilt=between(-0.12, 0.12),
            shift=(between(-0.03, 0.03), between(-0.02, 0.02)),
            scale=between(0.94, 1.05),
            width=width,
            height=between(0.96, 1.05),
            jaw=between(0, 1),
            skin=skin,
            smile=smile,
            mouth_open=between(0, 1) if smile > 0.2 else between(0, 0.4),
            brow=between(-1, 1),
            brow_weight=between(0.8, 1.3),
            eye_size=between(0.9, 1.2),
            eye_spacing=between(0.94, 1.08),
            eye_colour=int(random.integers(5)),
            nose=between(0.8, 1.2),
            hair_length=hair_length,
            hair_cut=int(random.integers(4)),
            hair_volume=between(0.0, 1.0),
            hair_wave=between(0.0, 1.0),
            hair_shade=between(-1, 1),
            background_hue=between(0, 1),
            background_light=light,
            background_angle=between(0, 6.283),
            clothes_hue=between(0, 1),
            clothes_light=between(0.25, 0.9),
            frame=int(random.integers(2)),
            hat=int(random.integers(2)),
            hat_hue=between(0, 1),
        )


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
    if any(wanted.get(name) == 1 for name in HAIR_COLOURS):
        attributes.update(dict.fromkeys(HAIR_COLOURS, 0))
    attributes.update({n: v for n, v in wanted.items() if n in STYLE_ATTRIBUTES and v in (0, 1)})
    return draw_face(content, attributes, size)


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
