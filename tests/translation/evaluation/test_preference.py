"""What people chose blind: shares, intervals, and files of choices that cannot be meant."""

import json
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError, UsageError
from translation.evaluation.preference import choose_arms, one_a_person, read_preference, wilson
from translation.evaluation.protocol import Pairs

LEFT = [True, False] * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = {"page": "p", "arms": ["guided", "unguided"], "first_is_left": LEFT}
    (tmp_path / "key.json").write_text(json.dumps(key))
    return tmp_path


def choices(folder: Path, judge: str, chosen: dict[str, object], page: str = "p") -> Path:
    path = folder / f"{judge}.json"
    path.write_text(json.dumps({"page": page, "judge": judge, "choices": chosen}))
    return path


def side(number: int, first: bool) -> str:
    return "left" if LEFT[number] == first else "right"


def test_the_share_is_of_the_first_arm_whatever_side_it_was_on(folder: Path) -> None:
    found = read_preference(folder, [choices(folder, "a", {str(i): side(i, i < 30) for i in range(40)})])
    assert (found.arms, found.share, found.judged, found.judges, found.equal) == (
        ("guided", "unguided"),
        0.75,
        40,
        1,
        0,
    )
    assert found.verdict == "better" and found.interval[0] > 0.5
    lost = read_preference(folder, [choices(folder, "a", {str(i): side(i, i < 10) for i in range(40)})])
    assert lost.verdict == "worse" and lost.share == 0.25
    few = read_preference(folder, [choices(folder, "a", {str(i): side(i, i < 3) for i in range(4)})])
    assert few.verdict == "no difference" and few.judged == 4


def test_several_people_make_no_more_pairs_and_no_difference_is_a_half(folder: Path) -> None:
    files = [choices(folder, judge, {str(i): side(i, True) for i in range(20)}) for judge in "abc"]
    assert read_preference(folder, files).interval == read_preference(folder, files[:1]).interval
    files.append(choices(folder, "d", {str(i): "equal" for i in range(20)}))
    found = read_preference(folder, files)
    assert (found.share, found.equal, found.judges, found.judged) == (0.875, 20, 4, 20)


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "cannot be read as a file of choices"),
        ("[]", "is no file of choices"),
        ('{"page": "q", "judge": "a", "choices": {"0": "left"}}', "was made with another page"),
        ('{"page": "p", "judge": "a", "choices": {"40": "left"}}', "choices that its page cannot have made"),
        ('{"page": "p", "judge": "a", "choices": {"0": ["left"]}}', "choices that its page cannot have made"),
        ('{"page": "p", "judge": "a", "choices": {}}', "nothing was chosen yet"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(folder: Path, text: str, told: str) -> None:
    path = folder / "bad.json"
    path.write_text(text)
    with pytest.raises(RgunitError, match=told) as caught:
        read_preference(folder, [path])
    assert "bad.json" in str(caught.value) and "\n" not in str(caught.value)


def test_one_person_counts_once_and_absent_files_are_named(folder: Path) -> None:
    file = choices(folder, "a", {"0": "left"})
    with pytest.raises(RgunitError, match="are of the same person"):
        read_preference(folder, [file, file])
    with pytest.raises(RgunitError, match=r"none\.json cannot be read"):
        read_preference(folder, [folder / "none.json"])
    with pytest.raises(RgunitError, match=r"key\.json cannot be read"):
        read_preference(folder / "elsewhere", [file])


def test_two_arms_are_chosen() -> None:
    known = ["stage1", "unguided", "guided", "copy"]
    assert choose_arms(known) == ("guided", "unguided") and choose_arms(["stage1", "copy"]) == ("stage1", "copy")
    assert choose_arms(known, ("copy", "guided")) == ("copy", "guided")
    for asked in (("guided",), ("guided", "guided"), ("guided", "best")):
        with pytest.raises(UsageError, match="stage1, unguided, guided, copy"):
            choose_arms(known, asked)


def test_no_two_pairs_are_of_one_person() -> None:
    ids, bits = np.arange(12), np.zeros((12, 1), np.int8)
    people = tuple(f"p{i // 3}" for i in range(12))
    pairs = Pairs(("a",), ids, ids, bits, bits + np.int8(1), ids, people, ids, people)
    rows = one_a_person(pairs, 10, seed=0)
    assert sorted(people[row] for row in rows) == ["p0", "p1", "p2", "p3"]
    assert len(one_a_person(pairs, 2, seed=0)) == 2 and (one_a_person(pairs, 10, seed=0) == rows).all()


def test_the_interval_of_all_is_no_point() -> None:
    low, high = wilson(1.0, 20)
    assert low == pytest.approx(0.8389, abs=1e-4) and high == 1.0
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
