"""What a drawn face is made of: factors that stay, all of one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair")


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
    def from_seed(seed: int) -> Content:
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
