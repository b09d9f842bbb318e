"""The language of edits and filters, and packed labels."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from index_store.attributes import AttributeSchema, parse_group
from index_store.errors import UnknownAttribute, UsageError
from index_store.names import listed_names, quoted

HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair")
SCHEMA = AttributeSchema((*HAIR, "Male", "Wavy Hair", "5_o_Clock_Shadow"), (HAIR,))


def test_an_edit_sets_clears_and_ends_the_rivals_of_what_it_sets():
    labels = np.array([1, 0, 0, 1, -1, 0], np.int8)
    assert SCHEMA.edit("+Blond_Hair -Male").apply(labels).tolist() == [0, 1, 0, 0, -1, 0]
    assert SCHEMA.edit("Blond_Hair=1,Male=0").apply(labels).tolist() == [0, 1, 0, 0, -1, 0]
    assert SCHEMA.edit("-Black_Hair").apply(labels).tolist() == [0, 0, 0, 1, -1, 0]
    assert labels.tolist() == [1, 0, 0, 1, -1, 0]


def test_an_edit_applies_to_a_batch():
    labels = np.full((2, 3, 6), -1, np.int8)
    edited = SCHEMA.edit('+"Wavy Hair" 5_o_Clock_Shadow=1').apply(labels)
    assert (edited[..., 4:] == 1).all() and (edited[..., :4] == -1).all()


@pytest.mark.parametrize(
    "text", ["", " , ", "+Male -Male", "+Black_Hair +Blond_Hair", "?Male", "Male", "Male=2", "++Male"]
)
def test_an_edit_that_makes_no_sense_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as error:
        SCHEMA.edit(text)
    assert "\n" not in str(error.value)


def test_an_unknown_attribute_offers_the_nearest_names():
    with pytest.raises(UnknownAttribute, match="did you mean Blond_Hair"):
        SCHEMA.edit("+blonde_hair")
    with pytest.raises(UnknownAttribute, match=r"unknown attribute 'splt': did you mean split\?"):
        SCHEMA.filter("splt=test")
    with pytest.raises(UnknownAttribute, match="there are Black_Hair"):
        SCHEMA.index("xyzzy")


@pytest.mark.parametrize(
    "text", ["+Male -Male", "+Male ?Male", "split=a split=b", "origin=fake", "split=", "Male=3", "-Male Male=1|?"]
)
def test_a_filter_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        SCHEMA.filter(text)


def test_a_filter_tells_known_false_from_unknown():
    labels = np.array([[1], [0], [-1]], np.int8)
    schema = AttributeSchema(("a",))
    texts = ("+a", "-a", "?a", "", "a=?", "a=0", "a=1|?", "a=?|0", "a=1|? a=0|?", "+a a=1|?")
    kept = {text: schema.filter(text).match_labels(labels).tolist() for text in texts}
    assert kept["+a"] == [True, False, False]
    assert kept["-a"] == kept["a=0"] == [False, True, False]
    assert kept["?a"] == kept["a=?"] == [False, False, True]
    assert kept[""] == [True, True, True]
    assert kept["a=1|?"] == [True, False, True] and kept["a=?|0"] == [False, True, True]  # true, or unknown
    assert kept["a=1|? a=0|?"] == kept["?a"] and kept["+a a=1|?"] == kept["+a"]
    for text in texts:
        assert schema.filter(text).match_bits(*schema.pack(labels)).tolist() == kept[text]


def test_a_filter_takes_alternatives_of_split_and_origin():
    wanted = SCHEMA.filter("+Male split=train|val origin=real|unlabelled")
    assert wanted.split == {"train", "val"} and wanted.origin == {"real", "unlabelled"}


def test_a_filter_takes_ids_and_alternatives_of_them():
    ids = np.array([1, 3, 17, 18, 2**62], np.int64)
    kept = {text: ids[SCHEMA.filter(text).match_ids(ids)].tolist() for text in ("id=17", "id=3|18|99", "", "id=017")}
    assert kept == {"id=17": [17], "id=3|18|99": [3, 18], "": ids.tolist(), "id=017": [17]}
    for nothing in ("id=99", "id=0", f"id={2**63}", "id=" + "9" * 5000):
        assert not SCHEMA.filter(nothing).match_ids(ids).any()
    assert SCHEMA.filter("id=1|3 id=3|17").ids == {3}
    assert not SCHEMA.filter("id=17").everything


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id=", "needs a value"),
        ("id=cat", "no image id"),
        ("id=-3", "no image id"),
        ("id=1.5", "no image id"),
        ("id=?", "no image id"),
        ("id=\u00b2", "no image id"),
        ("id=17,18", r"id=17\|18"),
        ("id=17 id=18", "contradicts"),
    ],
)
def test_what_is_no_image_id_is_refused_in_one_line(text, said):
    with pytest.raises(UsageError, match=said) as error:
        SCHEMA.filter(text)
    assert "\n" not in str(error.value)


def test_an_attribute_called_id_of_an_older_workspace_is_reached_by_its_sign():
    schema = AttributeSchema(("id",))
    assert schema.filter("+id").bits == {0: 1} and schema.filter("id=1").ids == {1}


def test_a_subset_keeps_the_order_given_and_what_is_left_of_groups():
    subset = SCHEMA.subset(["Male", "Brown_Hair", "Black_Hair"])
    assert subset.names == ("Male", "Brown_Hair", "Black_Hair")
    assert subset.groups == (("Black_Hair", "Brown_Hair"),)
    assert SCHEMA.subset(["Male", "Brown_Hair"]).groups == ()


def test_groups_need_known_names_and_names_must_differ():
    with pytest.raises(UnknownAttribute):
        AttributeSchema(("a", "b"), (("a", "c"),))
    with pytest.raises(UsageError):
        AttributeSchema(("a", "a"))
    with pytest.raises(UsageError, match="reserved"):
        AttributeSchema(("split",))


def test_violations_count_rows_with_two_members_of_a_group():
    labels = np.array([[1, 1, 0, 0, 0, 0], [0, 1, -1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], np.int8)
    assert SCHEMA.violations(labels) == 1
    assert SCHEMA.describe(labels[1])["Brown_Hair"] is None


@settings(deadline=None)  # a loaded machine is no failure
@given(st.integers(0, 19).flatmap(lambda n: hnp.arrays(np.int8, (7, n), elements=st.integers(-1, 1))), st.data())
def test_packing_loses_nothing_and_filters_packed_labels_alike(labels, data):
    schema = AttributeSchema(tuple(f"a{i}" for i in range(labels.shape[1])))
    known, value = schema.pack(labels)
    assert (schema.unpack(known, value) == labels).all()
    signs = data.draw(st.lists(st.sampled_from(["", "+", "-", "?"]), min_size=len(schema), max_size=len(schema)))
    wanted = schema.filter(" ".join(sign + name for sign, name in zip(signs, schema.names, strict=True) if sign))
    assert (wanted.match_bits(known, value) == wanted.match_labels(labels)).all()


def test_labels_outside_the_three_values_are_refused():
    with pytest.raises(UsageError, match="labels must be"):
        AttributeSchema(("a",)).pack(np.array([[2]]))
    with pytest.raises(UsageError, match="shape"):
        AttributeSchema(("a",)).pack(np.zeros((2, 3), np.int8))


ODD = ["Hair, black", "x|y", 'say "hi"', "a b", "+a", "-a", "a=1", "−a", "?", "17", "Käse", '"']


@pytest.mark.parametrize("name", ODD)
def test_any_name_can_be_used_quoted_as_the_messages_show_it(name):
    schema = AttributeSchema((name, "B", "C"))
    text = quoted(name)
    assert schema.edit(f"+{text} -B").bits == {0: 1, 1: 0} and schema.edit(f"{text}=0").bits == {0: 0}
    assert schema.filter(f"-{text},?B split=test").bits == {0: 0, 1: -1}
    assert listed_names(f"B, {text},C") == ("B", name, "C") and parse_group(f"{text}|B") == (name, "B")
    assert schema.index(text) == schema.index(name) == 0
    with pytest.raises(UsageError) as error:
        schema.edit("+missing")
    assert text in str(error.value)
    with pytest.raises(UsageError) as error:
        schema.filter(f"+{text} -{text}")
    assert text in str(error.value)


def test_composed_and_decomposed_spellings_are_one_name():
    composed, apart = (unicodedata.normalize(form, "Käse") for form in ("NFC", "NFD"))
    for have, asked in ((composed, apart), (apart, composed)):
        schema = AttributeSchema((have, "B")).extend([asked, "C"], [[asked, "C"]])
        assert schema.names == (have, "B", "C") and schema.groups == ((have, "C"),)
        assert schema.edit(f"+{asked}").bits == {0: 1} and schema.subset([asked]).names == (have,)
    with pytest.raises(UsageError, match="twice"):
        AttributeSchema((composed, apart))


def test_a_quote_that_is_not_closed_is_told():
    for text in ('"A,B', '"A"x,B'):
        with pytest.raises(UsageError, match="quote"):
            listed_names(text)
