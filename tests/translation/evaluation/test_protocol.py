"""The pairs are the same every time, share nobody between halves, and ask for a change."""

import json

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from translation.evaluation.protocol import Pairs, check_neighbours, halves, kept_pairs, make_pairs, people_of
from translation.guides import guide_filter

USED = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Glasses", "Hat")


@pytest.fixture
def used(workspace):
    return workspace.schema.subset(USED)


def people_by_id(workspace):
    table = workspace.images()
    return dict(zip(table.ids.tolist(), table.fields["identity"], strict=True))


def test_nobody_is_on_both_sides(workspace, used):
    pairs, people = make_pairs(workspace, used), people_by_id(workspace)
    sources = {people[key] for key in pairs.source.tolist()}
    references = {people[key] for key in pairs.others.tolist()}
    assert sources and references and not sources & references
    assert len(sources) == len(references) == 10
    assert set(pairs.reference.tolist()) <= set(pairs.others.tolist())


def test_exchanged_halves_change_roles_and_are_kept_as_a_list_of_their_own(workspace, used, tmp_path):
    pairs, back = (make_pairs(workspace, used, exchanged=way) for way in (False, True))
    assert set(back.source.tolist()) == set(pairs.others.tolist())
    assert set(back.others.tolist()) == set(pairs.source.tolist())
    assert set(back.people) == set(pairs.other_people) and back.changed.any(1).all()
    asked = {"split": "test", "limit": 8, "seed": 0}
    kept = [kept_pairs(tmp_path, workspace, used, **asked, exchanged=way)[0] for way in (False, True, False)]
    assert (kept[0].source == kept[2].source).all() and not set(kept[0].source) & set(kept[1].source)


def test_only_real_test_images_take_part(workspace, used):
    pairs = make_pairs(workspace, used)
    table = workspace.images(ids=np.concatenate([pairs.source, pairs.others]))
    assert set(table.split) == {"test"} and set(table.origin) == {"real"}
    assert len(pairs) + len(pairs.others) == len(workspace.images("split=test"))


def test_every_pair_changes_a_known_bit_and_asks_for_at_most_one_of_a_group(workspace, used):
    pairs = make_pairs(workspace, used)
    assert pairs.changed.any(1).all()
    assert not (pairs.changed & pairs.kept).any()
    assert used.violations(pairs.target) == 0


def test_the_target_is_the_reference_with_its_unknown_bits_from_the_source(workspace, used):
    pairs = make_pairs(workspace, used)
    table = workspace.images()
    labels = table.labels[:, workspace.schema.indices(USED)]
    before, reference = labels[table.places(pairs.source)], labels[table.places(pairs.reference)]
    assert (pairs.before == before).all()
    assert (pairs.target[reference >= 0] == reference[reference >= 0]).all()
    alone = workspace.schema.indices(["Glasses"])[0]
    unknown = table.labels[table.places(pairs.reference), alone] < 0
    assert (pairs.target[unknown, 3] == before[unknown, 3]).all()


def test_the_seed_fixes_the_pairs_and_another_seed_gives_others(workspace, used):
    first, again, other = (make_pairs(workspace, used, seed=seed) for seed in (0, 0, 1))
    assert (first.source == again.source).all() and (first.reference == again.reference).all()
    assert (first.seeds == again.seeds).all()
    assert set(first.source.tolist()) != set(other.source.tolist())


def test_the_labels_of_half_b_are_used_evenly(workspace, used):
    pairs = make_pairs(workspace, used)
    assert np.unique(pairs.reference, return_counts=True)[1].max() <= 2
    assert len(np.unique(pairs.reference)) > 0.9 * len(pairs)


def test_the_limit_draws_among_half_a(workspace, used):
    some, every = make_pairs(workspace, used, limit=10), make_pairs(workspace, used)
    assert len(some) == 10
    assert set(some.source.tolist()) < set(every.source.tolist())
    assert (some.others == every.others).all()


def test_saved_pairs_say_what_was_asked(workspace, used, tmp_path):
    pairs = make_pairs(workspace, used)
    pairs.save(tmp_path / "new" / "pairs.jsonl")
    every = [json.loads(line) for line in (tmp_path / "new" / "pairs.jsonl").read_text().splitlines()]
    lines = [line for line in every if line["half"] == "A"]
    assert len(lines) == len(pairs) and len(every) == len(pairs) + len(pairs.others)
    assert [line["source"] for line in lines] == pairs.source.tolist()
    assert lines[0]["target"] == used.describe(pairs.target[0])
    assert lines[0]["changed"] == [name for name, bit in zip(USED, pairs.changed[0], strict=True) if bit]


def test_saved_pairs_are_read_again_as_they_were(workspace, used, tmp_path):
    pairs = make_pairs(workspace, used)
    pairs.save(tmp_path / "pairs.jsonl")
    again = Pairs.load(tmp_path / "pairs.jsonl")
    for name, value in vars(pairs).items():
        assert np.array_equal(getattr(again, name), value), name
    assert again.before.dtype == np.int8 and again.source.dtype == np.int64


def test_a_kept_list_outlives_new_images_but_not_the_loss_of_its_own(tmp_path):
    rng = np.random.default_rng(0)

    def images(folder, first):
        folder.mkdir()
        for number in range(8):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{first + number}.png")
        rows = [f"{first + number}.png,test,{number % 2}\n" for number in range(8)]
        (folder / "labels.csv").write_text("image,split,Hat\n" + "".join(rows))
        return folder

    with Workspace.create(tmp_path / "w") as grown:
        grown.add_images(images(tmp_path / "a", 0), attributes=tmp_path / "a/labels.csv")

        def kept():
            return kept_pairs(tmp_path / "run", grown, grown.schema, split="test", limit=100, seed=0)

        first, stale = kept()
        assert not stale and len(list((tmp_path / "run").iterdir())) == 1
        grown.add_images(images(tmp_path / "b", 10), attributes=tmp_path / "b/labels.csv")
        again, stale = kept()
        assert not stale and (again.source == first.source).all() and (again.others == first.others).all()
        assert len(make_pairs(grown, grown.schema)) > len(first)
        grown.store().remove(first.others[:1])
        third, stale = kept()
        assert stale and first.others[0] not in third.others and not kept()[1]


def test_a_file_that_is_no_list_of_pairs_says_to_delete_it(tmp_path):
    for text in ("", "nonsense\n", '{"half": "A"}\n', "[1]\n"):
        (tmp_path / "pairs.jsonl").write_text(text)
        with pytest.raises(RgunitError, match=r"is not a list of pairs .* delete it"):
            Pairs.load(tmp_path / "pairs.jsonl")


def test_halves_are_even_and_follow_the_seed():
    people = [f"person {number // 3}" for number in range(300)]
    before = halves(people, 0)
    assert 147 <= before.sum() <= 153
    assert (halves(people, 0) == before).all()
    assert (halves(people, 1) != before).any()


def test_images_without_identity_are_people_of_their_own(workspace):
    table = workspace.images("split=test")
    nameless = type(table)(**{**vars(table), "fields": {}})
    assert len(set(people_of(nameless))) == len(table)
    assert len(set(people_of(table))) == 20


def test_a_split_without_images_says_what_is_needed(workspace, used):
    with pytest.raises(RgunitError, match="split nowhere has 0 labelled real images"):
        make_pairs(workspace, used, split="nowhere")


def test_an_attribute_on_which_all_agree_leaves_nothing_to_translate(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{number}.png,test,1\n" for number in range(8)]
    for number in range(8):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text("image,split,Hat\n" + "".join(rows))
    with Workspace.create(tmp_path / "w") as alike:
        alike.add_images(tmp_path, attributes=tmp_path / "labels.csv")
        with pytest.raises(RgunitError, match="hardly differ in Hat"):
            make_pairs(alike, alike.schema)


def test_guides_are_training_images_only(workspace):
    assert set(workspace.images(guide_filter()).split) == {"train"}


def test_a_neighbour_from_the_test_split_or_the_image_itself_is_refused(workspace):
    train, test = workspace.images("split=train").ids, workspace.images("split=test").ids
    check_neighbours(workspace, test[:3], np.array([[train[0], -1], [train[1], train[2]], [-1, -1]]))
    with pytest.raises(RgunitError, match="split test"):
        check_neighbours(workspace, test[:2], np.array([train[0], test[5]]))
    with pytest.raises(RgunitError, match="its own neighbour"):
        check_neighbours(workspace, train[:2], train[:2])
