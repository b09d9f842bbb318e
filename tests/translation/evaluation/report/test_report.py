"""The report: one safe, self-contained file, honest words for numbers, cases chosen by score and not by eye."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from index_store.errors import UsageError
from index_store.workspace import Workspace
from retrieval.evaluation import RetrievalEvaluation
from retrieval.sheets import BAD, GAP, GOOD, LINE, TILE
from retrieval.tensors import to_tensor
from translation.drawings import GROUPS, STYLE_ATTRIBUTES, make_dataset
from translation.evaluation.distances import frechet
from translation.evaluation.evaluate import Evaluation, PairScores
from translation.evaluation.protocol import make_pairs
from translation.evaluation.report import (
    Neighbour,
    Output,
    ReportData,
    RetrievalRow,
    TranslationRow,
    collect,
    terminal_table,
    verdicts,
    write_report,
)
from translation.evaluation.report.charts import Dot, Line, dot_chart, line_chart, number, ticks
from translation.evaluation.report.curves import charts_of
from translation.evaluation.report.examples import cases, edit_words
from translation.evaluation.report.report import picture
from translation.evaluation.report.sheet import pair_sheet
from translation.evaluation.report.verdicts import headlines, plain_words, signed, state_of
from translation.evaluation.truth import truth_of
from translation.translator import Translation

RETRIEVAL: dict[str, Any] = {
    "k": 10,
    "queries": 20,
    "attributes": 0.8,
    "content": 0.55,
    "average": 0.675,
    "per_attribute": {"Hat": 0.9, "Beard": 0.52},
    "random": {"attributes": 0.6, "content": 0.55, "average": 0.575, "per_attribute": {"Hat": 0.5, "Beard": 0.5}},
}


def arm(changed: float | None, fd: float = 5.0, truth: float | None = 0.07) -> dict[str, Any]:
    return {
        "accuracy_changed": changed,
        "accuracy_kept": 0.9,
        "fd_attr": fd,
        "fd_judge": None,
        "diversity": 0.01,
        "identity": None,
        "truth": truth,
        "n": 100,
    }


TRANSLATION: dict[str, Any] = {
    "unguided": arm(0.80),
    "guided": arm(0.81, fd=4.0),
    "random": arm(None, truth=None),
    "copy": arm(0.05, fd=9.0, truth=0.11),
    "neighbour": arm(0.8, fd=2.0, truth=0.2),
    "floor": {"fd_attr": 1.0, "fd_judge": None},
    "intervals": {"unguided": {"accuracy_changed": [0.75, 0.85]}, "guided": {"accuracy_changed": [0.76, 0.86]}},
    "comparisons": {
        "guided vs unguided": {
            "accuracy_changed": {"difference": 0.01, "interval": [-0.02, 0.04]},
            "fd_attr": {"difference": -1.0, "interval": [-1.5, -0.5]},
        }
    },
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("report")
    labelled, table, unlabelled = make_dataset(folder / "faces", images=100, size=32, seed=1)
    made = Workspace.create(folder / "workspace")
    made.add_images(labelled, attributes=table, groups=["|".join(GROUPS[0])])
    made.add_images(unlabelled, origin="unlabelled")
    return made


def plain(**changes: Any) -> ReportData:
    data = ReportData(title="A run", preset="demo", seed=3, device="cpu", attributes_used=("Hat",), stages=[])
    return replace(data, **changes)


class _Reader(HTMLParser):
    """Fails on tags that do not close; remembers where anything would be fetched from."""

    VOID = frozenset({"meta", "img", "circle", "line", "polyline", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(path: Path) -> tuple[str, _Reader]:
    text, reader = path.read_text(encoding="utf-8"), _Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def rows_of(side: int, count: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def noise() -> Any:
        return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

    hit = [Neighbour(noise(), "a.png", 0.5, {"Hat": k > 3, "Beard": None}, "real") for k in range(10)]
    output = [Output(name, noise(), {"+Hat": True, "−Beard": False}) for name in ("unguided", "random", "guided")]
    return {
        "retrieval_rows": [RetrievalRow("best", noise(), "q.png", "+Hat", {"Hat": 1}, hit, 0.6)] * count,
        "translation_rows": [
            TranslationRow("worst", noise(), "s.png", "+Hat", output, [noise()] * 3, rng.random((side, side)), noise())
        ]
        * count,
    }


def test_a_report_is_one_file_that_fetches_nothing_and_runs_nothing(workspace: Workspace, tmp_path: Path) -> None:
    rows = [{"step": s, "generator/cycle": 1 / s, "mask_mean": 0.5, "images_per_second": 9.0} for s in range(1, 90)]
    data = plain(
        retrieval=RETRIEVAL,
        translation=TRANSLATION,
        metrics={"translation (r1)": rows},
        stages=[{"name": "translation", "seconds": 61.0, "steps": 90}],
        config={"data": {"size": 32}},
        commands=["rgunit demo"],
        **rows_of(32, count=2),
    )
    path = write_report(workspace, tmp_path / "deep" / "report.html", data)
    text, reader = read(path)
    assert all(source.startswith(("data:image/", "#")) for source in reader.sources)
    assert "script" not in reader.tags
    assert "http" not in text
    for told in (
        "1 min 01 s",
        "rgunit demo",
        "not learned",
        "no difference",
        "115 images",
        "data.size",
        "top neighbour",
    ):
        assert told in text
    assert not list(path.parent.glob("*.writing"))


def test_labels_paths_and_settings_cannot_write_markup(workspace: Workspace, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    retrieval = {**RETRIEVAL, "per_attribute": {evil: 0.5}, "baselines": {evil: RETRIEVAL["random"]}}
    hit = Neighbour(np.zeros((32, 32, 3), np.uint8), evil, 0.1, {evil: False}, evil)
    row = RetrievalRow("best", hit.image, evil, evil, {evil: 1}, [hit], 0.0)
    pair = TranslationRow("worst", hit.image, evil, evil, [Output(evil, hit.image, {evil: False})])
    data = plain(
        title=evil,
        preset=evil,
        attributes_used=(evil,),
        stages=[{"name": evil, "seconds": 1.0, "steps": 1, "run": evil}],
        metrics={evil: [{"step": s, "loss": 1.0 + s} for s in range(5)]},
        config={evil: evil},
        commands=[evil],
        notes=[evil],
        retrieval=retrieval,
        retrieval_rows=[row],
        translation_rows=[pair],
    )
    text, reader = read(write_report(workspace, tmp_path / "report.html", data))
    assert "<img src=x" not in text
    assert all(source.startswith(("data:image/", "#")) for source in reader.sources)


def test_parts_that_were_not_measured_are_left_out(workspace: Workspace, tmp_path: Path) -> None:
    text, _ = read(write_report(workspace, tmp_path / "empty.html", plain()))
    assert "Nothing was evaluated" in text
    assert 'id="retrieval"' not in text
    assert 'id="translation"' not in text
    assert 'id="curves"' not in text
    bare = {"unguided": arm(0.8, truth=None), "copy": arm(0.1, truth=None), "guided": None}
    text, _ = read(write_report(workspace, tmp_path / "bare.html", plain(translation=bare)))
    assert "distance to the truth" not in text
    assert "FD-judge" not in text
    text, _ = read(write_report(workspace, tmp_path / "searched.html", plain(retrieval=RETRIEVAL)))
    assert "most found</th>" not in text
    favourite = {**RETRIEVAL, "most_found": 0.117}
    text, _ = read(write_report(workspace, tmp_path / "favourite.html", plain(retrieval=favourite)))
    assert "most found</th>" in text and "0.117" in text


def test_a_report_stays_small_however_many_and_large_the_pictures(workspace: Workspace, tmp_path: Path) -> None:
    path = write_report(workspace, tmp_path / "large.html", plain(**rows_of(200)))  # noise: nothing compresses worse
    assert path.stat().st_size < 8_000_000


def test_small_pictures_are_kept_exactly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    uri = picture(pixels)
    again = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    assert np.array_equal(np.asarray(again), pixels)


def test_not_learned_is_said_of_what_hardly_beats_chance() -> None:
    found = verdicts(TRANSLATION, RETRIEVAL)
    assert state_of(found, "retrieval", "attributes") == "learned"
    assert state_of(found, "Hat", "one attribute") == "learned"
    assert state_of(found, "Beard", "one attribute") == "not learned"
    assert state_of(found, "retrieval", "content") == "no difference"
    assert state_of(found, "unguided", "accuracy_changed") == "learned"
    assert state_of(found, "unguided", "truth") == "learned"
    assert state_of(found, "random", "accuracy_changed") is None  # never measured, so nothing is said

    wide = {**TRANSLATION, "intervals": {"unguided": {"accuracy_changed": [0.54, 0.95]}}}
    assert state_of(verdicts(wide, None), "unguided", "accuracy_changed") == "not learned"
    far = {**TRANSLATION, "unguided": arm(0.8, truth=0.12)}
    assert state_of(verdicts(far, None), "unguided", "truth") == "not learned"
    weak = {**RETRIEVAL, "attributes": 0.649}
    assert state_of(verdicts(None, weak), "retrieval", "attributes") == "not learned"


def test_a_translation_worked_if_it_is_near_the_truth_where_the_edit_acts_and_harms_nothing_else() -> None:
    def judged(inside: float, whole: float) -> dict[str, Any]:
        guided = {**arm(0.81, truth=whole), "truth_edit": inside}
        return {**TRANSLATION, "guided": guided, "copy": {**arm(0.05, truth=0.11), "truth_edit": 0.3}}

    near = judged(0.15, 0.07)
    assert state_of(verdicts(near, None), "guided", "truth_edit") == "learned", "half of copying's is enough"
    assert "By the drawn truth it worked: its distance is 50 % of copying's where" in plain_words(near, None)
    for failed in (judged(0.16, 0.07), judged(0.1, 0.12)):
        assert "By the drawn truth it did not work" in plain_words(failed, None)
    assert state_of(verdicts(judged(0.16, 0.07), None), "guided", "truth_edit") == "not learned"
    assert "drawn truth" not in plain_words(TRANSLATION, None), "evaluations made before measured no region"


def test_arms_closer_than_their_interval_are_no_difference() -> None:
    found = verdicts(TRANSLATION, None)
    assert state_of(found, "guided against unguided", "accuracy_changed") == "no difference"
    assert state_of(found, "guided against unguided", "fd_attr") == "better"
    bought = {
        **TRANSLATION,
        "comparisons": {
            "guided vs unguided": {
                "accuracy_changed": {"difference": -0.03, "interval": [-0.05, -0.01]},
                "fd_attr": {"difference": -1.0, "interval": [-1.5, -0.5]},
            }
        },
    }
    texts = [v.text for v in verdicts(bought, None) if v.measure == "fd_attr" and v.gap]
    assert "does not count" in texts[0]
    unpaired = {**TRANSLATION, "comparisons": {}}  # then the intervals of both arms decide
    assert state_of(verdicts(unpaired, None), "guided against unguided", "accuracy_changed") == "no difference"


def test_the_summary_names_every_failure_once() -> None:
    told = headlines(TRANSLATION, RETRIEVAL)
    assert [v.text for v in told if v.state == "not learned"] == [
        "Retrieval: Beard is not found better than by chance."
    ]
    assert sum("no difference in" in v.text for v in told) == 1
    assert signed(-0.0123) == "−0.012"
    assert signed(-1e-7) == "0"
    assert signed(12.34) == "+12.3"


def test_arms_that_failed_alike_are_told_in_one_sentence_and_a_poor_classifier_is_named() -> None:
    failed = {
        "unguided": arm(0.3, truth=0.12),
        "guided": arm(0.31, truth=0.13),
        "copy": arm(0.05, truth=0.11),
        "classifier": {"architecture": "resnet18", "accuracy": 0.66},
    }
    told = [v.text for v in headlines(failed, None) if v.state == "not learned"]
    assert len(told) == 3
    assert "unguided 0.300 and guided 0.310" in told[0]
    assert "66 %" in told[2]


def test_what_was_trained_too_shortly_is_said_before_anything_and_compares_no_arms() -> None:
    steps = {"stage1": 18, "guided": 2, "random": 2, "unguided": 2}
    short = {**TRANSLATION, "steps": steps, "classifier": {"accuracy": 0.9, "steps": 30, "planned_steps": 100}}
    told = headlines(short, RETRIEVAL)
    assert told[0].text == (
        "Too short to draw conclusions: the first training (stage 1) made 18 steps of the 200 that show anything, the "
        "shortest of the trainings that are compared made 2 steps of 50 and the classifier that judges made 30 of its "
        "100 (--classifier-minutes). Give it about 25 times the time."
    )
    assert plain_words(short, RETRIEVAL).startswith("Too short") and "Guidance" not in plain_words(short, RETRIEVAL)
    assert not any(" against " in v.subject for v in told)
    unequal = {**short, "steps": {**dict.fromkeys(steps, 500), "guided": 400}, "classifier": {}}
    assert headlines(unequal, None)[0].text == (
        "No conclusions can be drawn: the arms made different numbers of steps (guided 400, random 500, unguided 500). "
        "Train them for equal steps."
    )
    enough = {**short, "steps": dict.fromkeys(steps, 500), "classifier": {"steps": 60, "planned_steps": 100}}
    assert any(" against " in v.subject for v in headlines(enough, None)), "what is long enough is compared"
    assert not any(v.subject == "run" for v in headlines(TRANSLATION, None)), "an older evaluation noted no steps"


def test_the_plain_words_say_what_was_learned_and_whether_guidance_helps() -> None:
    assert plain_words(None, None) == ""
    assert (
        plain_words(None, {**RETRIEVAL, "attributes": 0.6}) == "Retrieval did not learn to find what it is asked for."
    )
    told = plain_words(TRANSLATION, RETRIEVAL)
    assert told.startswith(
        "Retrieval finds what it is asked for, except Beard. The translator changes what it is asked to change, and"
    )
    assert told.endswith("Guidance improves FD-attr.")
    same = {**TRANSLATION, "comparisons": {"guided vs unguided": {"truth": {"difference": 0.0, "interval": [-1, 1]}}}}
    assert "Guidance makes no measurable difference." in plain_words(same, None)
    lost = {**TRANSLATION, "guided": arm(0.4, truth=0.07), "intervals": {}}
    assert "did not learn to change what it is asked to change, but comes nearer" in plain_words(lost, None)


def test_the_terminal_table_uses_the_same_words() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(terminal_table(RETRIEVAL, TRANSLATION))
    text = console.export_text()
    assert re.search(r"attributes\s+0\.800\s+0\.600\s+learned", text)
    assert "not learned: Beard" in text
    assert re.search(r"guided\s.*better: FD-attr", text)
    assert re.search(r"copy of the input\s.*control", text)


def test_retrieval_by_content_alone_is_not_blamed_for_labels_that_nobody_can_ask_it_for() -> None:
    shuffled = {**RETRIEVAL, **{name: RETRIEVAL["random"][name] for name in ("attributes", "per_attribute")}}
    assert any(verdict.state == "not learned" for verdict in verdicts(None, shuffled))
    bare = dict.fromkeys(("attributes", "average")) | {"per_attribute": {}, "by_change": {}}
    for told in (
        {**shuffled, "style": False},
        {**RETRIEVAL, **bare, "random": {**RETRIEVAL["random"], **bare}, "style": False},
    ):
        assert [verdict.measure for verdict in verdicts(None, told)] == ["content"]
        console = Console(file=io.StringIO(), width=100)
        console.print(terminal_table(told, None))
        assert "not learn" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_further_measures_are_shown_where_there_are_any_and_judged_where_they_can_be() -> None:
    guided = {**TRANSLATION["guided"], "fid": 41.5, "inception_score": 2.5, "neighbour_copies": 0.02, "reverse": None}
    gap = {"fid": {"difference": -2.0, "interval": [-3.0, -1.0]}}
    compared = {"guided vs unguided": {**TRANSLATION["comparisons"]["guided vs unguided"], **gap}}
    answer = {**TRANSLATION, "guided": guided, "comparisons": compared}
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(terminal_table(None, answer))
    shown = console.export_text()
    assert "FID" in shown and "41.500" in shown and "copies" in shown and "2.500" in shown
    assert "LPIPS" not in shown and "reverse" not in shown
    assert state_of(verdicts(answer, None), "guided against unguided", "fid") == "better"


def test_a_collapsed_mask_is_reported(workspace: Workspace, tmp_path: Path) -> None:
    rows = [{"step": s, "mask_mean": 0.001} for s in (1, 2, 3)]
    text, _ = read(write_report(workspace, tmp_path / "mask.html", plain(metrics={"translation (r1)": rows})))
    assert "copies its input everywhere" in text


def test_charts_pass_over_what_is_missing_and_never_divide_by_nothing() -> None:
    nan = float("nan")
    assert line_chart([Line("a", [1], [1.0])], label="one point") == ""
    assert line_chart([Line("a", [1, 2], [nan, nan])], label="nothing") == ""
    assert "<polyline" in line_chart([Line("a", [1, 2, 3], [1.0, nan, 2.0])], label="a gap")
    for y in ([0.0, 0.0], [5.0, 5.0], [-1.0, -1.0], [1e-5, 1e3], [-3.0, 4.0]):
        svg = line_chart([Line("a", [0, 1], y)], label="any")
        assert "nan" not in svg
        assert "inf" not in svg
    assert "&lt;b&gt;" in line_chart([Line("a", [0, 1], [0, 1])], label="<b>")
    assert dot_chart([Dot("a", nan)], label="none", x_range=(0, 1)) == ""
    assert "whisker" in dot_chart([Dot("a", 0.5, (0.4, 0.6))], label="one", x_range=(0, 1), marks={"goal": 0.7})
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [number(x) for x in (0, 0.05, 1500, 2e6, 4e-5, -2)] == ["0", "0.05", "1.5k", "2M", "4e−5", "−2"]
    assert [chart.title for chart in charts_of([{"step": s, "mask_mean": 0.1 * s} for s in range(4)])] == ["Mask"]


def test_a_run_has_the_curves_of_its_method_and_the_general_ones() -> None:
    rows = [{"step": s, "mask_mean": 0.5, "generator/nce": 5.0 - s, "images_per_second": 9.0} for s in range(3)]
    assert [chart.title for chart in charts_of(rows, "gmm_unit")] == ["Mask", "Speed"]
    assert [chart.title for chart in charts_of(rows, "cut")] == ["Patches told apart", "Speed"]
    with pytest.raises(UsageError, match="did you mean cut"):
        charts_of(rows, "cutt")


def test_cases_are_the_best_the_worst_and_others_none_twice() -> None:
    chosen = cases(np.array([5.0, 1.0, 9.0, 2.0, 7.0, 3.0, 4.0]), 2, seed=0)
    assert [row for case, row in chosen if case == "best"] == [1, 3]
    assert [row for case, row in chosen if case == "worst"] == [2, 4]
    assert len({row for _, row in chosen}) == 6
    assert cases(np.array([1.0]), 3, seed=0) == [("best", 0)]
    assert edit_words(np.array([1, 0, -1], np.int8), np.array([0, 0, 1], np.int8), ["A", "B", "C_D"]) == "−A +C D"


class Painter:
    """An arm that knows the truth and paints it: a translator without a network."""

    def __init__(self, workspace: Workspace) -> None:
        truth = truth_of(workspace, STYLE_ATTRIBUTES, 32)
        assert truth is not None
        self.truth, self.pool = truth, workspace.images("split=train origin=real").ids

    def translate(self, source: Any, target: Any, seeds: Any) -> tuple[Translation, Any]:
        painted = self.truth(source, target)
        assert painted is not None
        image = to_tensor(painted, torch.device("cpu"))
        neighbours = np.stack([self.pool[[i % 5, i % 7, i % 9]] for i in source])
        return Translation(image, image, torch.ones(len(source), 1, 32, 32)), neighbours


def test_a_report_is_collected_from_evaluations_and_shows_the_pairs_they_scored(
    workspace: Workspace, tmp_path: Path
) -> None:
    attributes = workspace.schema.subset(STYLE_ATTRIBUTES)
    pairs = make_pairs(workspace, attributes, split="test", seed=0)
    distance = np.linspace(0, 1, len(pairs))[::-1].copy()  # the last pair is the best
    two = frechet(np.eye(2), np.eye(2))
    scores = PairScores(pairs.changed, distance, None, distance, None, two, None, None)
    evaluation = Evaluation(TRANSLATION, pairs, {"guided": scores})

    table = workspace.images("split=test origin=real")
    columns = workspace.schema.indices(STYLE_ATTRIBUTES)
    targets = table.labels[:, columns]
    n = len(table)
    hits = np.stack([np.roll(table.ids, -i - 1)[:4] for i in range(n)])
    share = np.linspace(0, 1, n)
    summary = {**RETRIEVAL, "per_attribute": dict.fromkeys(STYLE_ATTRIBUTES, 0.7)}
    retrieval = RetrievalEvaluation(
        summary, table.ids, targets, hits, np.ones((n, 4), np.float32), share, np.full(n, np.nan), np.full(n, np.nan)
    )
    painter = Painter(workspace)
    data = collect(
        workspace,
        title="Drawn",
        stages=[],
        retrieval=retrieval,
        translation=evaluation,
        arms={"guided": painter},
        truth=painter.truth,
        size=32,
        per_case=2,
    )
    best = data.translation_rows[0]
    assert best.case == "best"
    assert best.truth is not None
    assert np.array_equal(best.outputs[0].image, best.truth)
    assert np.array_equal(best.source, workspace.load(pairs.source[-1:], 32)[0])
    assert len(best.neighbours) == 3
    assert all(best.outputs[0].right.values())
    query = data.retrieval_rows[0]
    assert query.case == "best"
    assert np.array_equal(query.query, workspace.load(table.ids[-1:], 32)[0])
    row = workspace.images(ids=np.sort(hits[-1]))
    labels = dict(zip(row.ids.tolist(), row.labels[:, columns], strict=True))[int(hits[-1, 0])]
    assert list(query.neighbours[0].matches.values()) == (labels == targets[-1]).tolist()
    assert query.content is None
    text, _ = read(write_report(workspace, tmp_path / "report.html", data))
    assert text.count('<figure class="row">') == 12


def test_pairs_are_drawn_in_one_picture_with_neighbours_arms_mask_and_truth() -> None:
    red, blue = (np.full((32, 32, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 0, 200]))
    outputs = [Output("unguided", red, {"+Hat": False}), Output("guided", blue, {"+Hat": True})]
    mask = np.full((32, 32), 0.5, np.float32)
    row = TranslationRow("worst", red, "/somewhere/a.png", "+Hat", outputs, [blue, blue], mask, truth=blue)
    sheet = pair_sheet([row, replace(row, case="best", mask=None, truth=None)])
    step = TILE + GAP
    assert sheet.shape[1] == GAP + 7 * step, "source, 2 neighbours, 2 arms, mask and truth"
    middle = sheet[GAP + LINE + 4 + TILE // 2, GAP + TILE // 2 :: step]
    assert middle.tolist() == [[200, 0, 0], [0, 0, 200], [0, 0, 200], [200, 0, 0], [0, 0, 200], [128] * 3, [0, 0, 200]]
    frames = sheet[GAP + LINE + 4 + TILE // 2, GAP + 3 * step - 1 :: step][:2]
    assert frames.tolist() == [list(BAD), list(GOOD)]
