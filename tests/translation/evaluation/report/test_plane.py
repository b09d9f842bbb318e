import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from translation.evaluation.report.charts import LETTER
from translation.evaluation.report.plane import Point, draw_plane, plane, points_of

SVG = "{http://www.w3.org/2000/svg}"
CURVE = [{"weight": w / 10, "attributes": 0.95 - w / 50, "content": 0.74 + w / 500} for w in range(1, 10)]
POINTS = [
    Point("ours", 0.93, 0.765, spread=(0.01, 0.004)),
    Point("random <images>", 0.65, 0.742, control=True),
    Point("right labels", 1.0, 0.744, control=True),
    Point("labels as a filter", 0.999, 0.7438, control=True),
]


def test_points_stand_where_their_numbers_are() -> None:
    root = ET.fromstring(str(plane(POINTS, CURVE, label="x")))
    dots = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in root.iter("circle") if c.get("class") != "bead"]
    across, up = [x for x, _ in dots], [y for _, y in dots]
    # Equal steps of the numbers are equal steps on the page.
    scale = (across[2] - across[1]) / (1.0 - 0.65)
    assert across[0] - across[1] == pytest.approx(scale * 0.28, abs=0.2)
    assert up[0] == min(up)  # the most content is highest
    assert len([c for c in root.iter("circle") if c.get("class") == "bead"]) == len(CURVE)
    (line,) = root.iter("polyline")
    assert len(line.get("points", "").split()) == len(CURVE)


CROWDED = [Point(f"retrieval number {i}", 0.9 + i / 400, 0.75 + (i % 3) / 300, control=True) for i in range(9)]


@pytest.mark.parametrize("points", [POINTS, CROWDED], ids=["few", "crowded"])
@pytest.mark.parametrize("width", [560, 340])
def test_names_are_told_apart_stay_on_the_page_and_lie_on_no_point(points: list[Point], width: int) -> None:
    root = ET.fromstring(str(plane(points, CURVE, label="x", width=width)))
    height = float(root.get("viewBox", "").split()[3])
    dots = [(float(c.get("cx", "")), float(c.get("cy", "")), float(c.get("r", ""))) for c in root.iter("circle")]
    boxes = []
    for one in root.iter("text"):
        if one.get("class", "").startswith("name") or "of content" in (one.text or ""):
            x, y, long = float(one.get("x", "")), float(one.get("y", "")), LETTER * len(one.text or "")
            left = x - {"start": 0, "middle": long / 2, "end": long}[one.get("text-anchor", "")]
            boxes.append((left, y - 9, left + long, y + 2))
    assert len(boxes) == len(points) + 2
    for i, a in enumerate(boxes):
        assert a[0] >= 0 and a[2] <= width and a[1] >= 0 and a[3] <= height
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:i])
        assert not any(a[0] < x + r and x - r < a[2] and a[1] < y + r and y - r < a[3] for x, y, r in dots)


def test_a_file_of_its_own_is_whole_and_has_its_colours(tmp_path: Path) -> None:
    path = draw_plane(POINTS, [], tmp_path / "new" / "plane.svg")
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    assert "random <images>" in {one.text for one in root.iter(f"{SVG}text")}
    style = next(root.iter(f"{SVG}style")).text or ""
    assert "prefers-color-scheme: dark" in style
    used = {name for one in root.iter() for name in (one.get("class") or "").split()} - {"tick", "chart"}
    assert used <= set(re.findall(r"\.([a-z]\w*)", style))
    assert [one.name for one in path.parent.iterdir()] == ["plane.svg"]


def test_the_points_of_an_evaluation() -> None:
    scores = {"attributes": 0.9, "content": 0.7, "average": 0.8}
    summary = {**scores, "random": scores, "baselines": {"style_only": scores, "late_fusion": scores}}
    assert [point.name for point in points_of(summary)] == ["this run", "random images", "style alone"]
    bare = {**scores, "content": None}
    assert points_of({**bare, "random": bare}) == []
    assert plane([], [], label="x") == ""
