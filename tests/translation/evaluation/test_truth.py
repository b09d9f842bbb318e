"""The truth of drawn faces: where an edit acts, and that only evaluation's copy of it counts there."""

import numpy as np

from translation.drawings import STYLE_ATTRIBUTES
from translation.evaluation.distances import pixel_distance
from translation.evaluation.truth import Goal, truth_of


def test_an_edit_acts_where_drawn_truth_and_drawn_source_differ(workspace):
    truth = truth_of(workspace, STYLE_ATTRIBUTES, 32)
    column = workspace.schema.indices(STYLE_ATTRIBUTES)
    table = workspace.images("-Glasses -Hat split=test")
    ids, own = table.ids[:4], table.labels[:4][:, column]
    source = workspace.load(ids, 32)
    kept = Goal.of(truth, ids, own)
    assert (kept.images == source).all() and not kept.edited.any(), "its own labels change nothing"
    assert np.isnan(pixel_distance(source, kept.images, kept.edited)).all()

    target = own.copy()
    target[:, STYLE_ATTRIBUTES.index("Glasses")] = 1
    goal = Goal.of(truth, ids, target)
    assert goal.edited.any((1, 2)).all() and (goal.edited.mean((1, 2)) < 0.5).all()
    assert (goal.images[~goal.edited] == source[~goal.edited]).all()
    ruined = np.where(goal.edited[..., None], goal.images, 255 - source)
    assert (pixel_distance(ruined, goal.images, goal.edited) == 0).all(), "what lies outside counts for `truth` alone"
    whole, inside = pixel_distance(source, goal.images), pixel_distance(source, goal.images, goal.edited)
    assert np.allclose(whole, inside * goal.edited.mean((1, 2))), "copying errs inside alone"


def test_what_was_not_drawn_has_no_truth(workspace):
    assert Goal.of(lambda source, target: None, np.arange(2), np.zeros((2, 2), np.int8)) is None
