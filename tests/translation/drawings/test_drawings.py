"""Drawn faces: content stays where style changes, labels say what was drawn, a seed draws the same bytes."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError
from translation.drawings import (
    ATTRIBUTES,
    GROUPS,
    STYLE_ATTRIBUTES,
    Content,
    draw_face,
    labels_of,
    make_dataset,
    name_drawing,
    parse_drawing,
    random_attributes,
    true_translation,
)


def test_the_same_content_under_two_hair_colours_differs_only_where_hair_is() -> None:
    size = 64
    for seed in range(12):
        content = Content.from_seed(seed)
        blond = draw_face(content, {"Blond_Hair": 1}, size).astype(int)
        black = draw_face(content, {"Black_Hair": 1}, size).astype(int)
        changed = np.abs(blond - black).sum(axis=2) > 0
        assert 0.02 < changed.mean() < 0.6
        corners = changed[:4, :4] | changed[:4, -4:]
        assert not corners.any()  # the background stays
        cy, cx = round((0.55 + content.shift[1]) * size), round((0.5 + content.shift[0]) * size)
        assert not changed[cy + 4 : cy + 12, cx - 4 : cx + 5].any()  # nose and mouth stay


@pytest.mark.parametrize("name", ["Glasses", "Beard", "Hat"])
def test_an_attribute_changes_its_own_part_of_the_face(name: str) -> None:
    content = Content.from_seed(7)
    before, after = draw_face(content, {}, 64), draw_face(content, {name: 1}, 64)
    rows = np.flatnonzero((before != after).any(axis=(1, 2)))
    low, high = {"Glasses": (20, 48), "Beard": (33, 60), "Hat": (0, 32)}[name]
    assert len(rows) > 4
    assert rows.min() >= low
    assert rows.max() <= high


def test_a_face_is_drawn_the_same_every_time_and_at_any_size() -> None:
    content = Content.from_seed(3)
    small = draw_face(content, {"Hat": 1}, 32)
    assert small.shape == (32, 32, 3)
    assert small.dtype == np.uint8
    assert np.array_equal(small, draw_face(Content.from_seed(3), {"Hat": 1}, 32))
    large = draw_face(content, {"Hat": 1}, 128)
    assert large.shape == (128, 128, 3)
    averaged = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 4  # the same picture


def test_two_hair_colours_at_once_and_unknown_attributes_are_refused() -> None:
    content = Content.from_seed(0)
    with pytest.raises(ValueError, match="at most one hair colour"):
        draw_face(content, {"Black_Hair": 1, "Blond_Hair": 1}, 32)
    with pytest.raises(ValueError, match="cannot draw Smiling"):
        draw_face(content, {"Smiling": 1}, 32)


def test_labels_follow_the_attributes_and_the_content_factors() -> None:
    content = Content.from_seed(11)
    labels = dict(zip(ATTRIBUTES, labels_of(content, {"Brown_Hair": 1, "Hat": 1}).tolist(), strict=True))
    assert [labels[n] for n in STYLE_ATTRIBUTES] == [0, 0, 1, 0, 0, 1]
    assert labels["Facing_Left"] == int(content.yaw < 0)
    assert labels["Smiling"] == int(content.smile > 0.2)


def test_every_combination_of_attributes_occurs_and_no_content_label_is_rare() -> None:
    random = np.random.default_rng(0)
    drawn = [random_attributes(random) for _ in range(2000)]
    combinations = {tuple(d[n] for n in STYLE_ATTRIBUTES) for d in drawn}
    assert len(combinations) == 4 * 2 * 2 * 2  # three hair colours or none
    assert all(sum(d[n] for n in GROUPS[0]) <= 1 for d in drawn)
    labels = np.array([labels_of(Content.from_seed(i), {}) for i in range(400)])
    shares = labels[:, len(STYLE_ATTRIBUTES) :].mean(axis=0)
    assert ((shares > 0.3) & (shares < 0.7)).all()


def test_the_true_translation_redraws_the_content_under_other_labels() -> None:
    content = Content.from_seed(21)
    drawing = name_drawing(content, {"Blond_Hair": 1, "Beard": 1})
    same, attributes = parse_drawing(drawing)
    assert same == content
    assert [n for n, v in attributes.items() if v] == ["Blond_Hair", "Beard"]
    names = ("Black_Hair", "Blond_Hair", "Smiling", "Glasses")
    # black clears blond, the beard is not named and stays, an unknown bit stays, a content bit is passed over
    got = true_translation(drawing, [1, -1, 1, -1], names, 48)
    assert np.array_equal(got, draw_face(content, {"Black_Hair": 1, "Beard": 1}, 48))
    with pytest.raises(RgunitError, match="no built-in drawing"):
        true_translation("photo.jpg", [1], ("Hat",), 48)


def test_a_dataset_has_labels_splits_and_drawings_that_match_its_images(tmp_path: Path) -> None:
    labelled, table, unlabelled = make_dataset(tmp_path / "faces", images=40, size=32, seed=5)
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 40
    assert len(list(unlabelled.glob("*.png"))) == 6
    assert {r["split"] for r in rows} == {"train", "test"}
    assert sum(r["split"] == "test" for r in rows) == 8
    from index_store.images import read_image

    for row in rows[:5]:
        bits = [int(row[n]) for n in STYLE_ATTRIBUTES]
        truth = true_translation(row["drawing"], bits, STYLE_ATTRIBUTES, 32)
        assert np.array_equal(read_image(labelled / row["image"]), truth)

    def digest(folder: Path) -> list[str]:
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))]

    make_dataset(tmp_path / "again", images=40, size=32, seed=5)
    assert digest(tmp_path / "faces") == digest(tmp_path / "again")
