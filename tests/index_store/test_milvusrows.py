"""Filters as Milvus's expressions: a row passes one if and only if it passes the filter. (Such an expression is one of
Python's, too.)"""

import numpy as np
import pytest

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.milvusrows import MOST, PACK, Layout, entities, grouped, text
from index_store.state import EncoderInfo, State

NAMES = ("a", "b", "c", "d e", "f", "g", "h", "i", "j")
GROUP = ("b", "f", "j")
ODD = ("", "train", 'say "no"', "it's\\", "in [1]", "x\ny", "é€", "%20", "50%", "a" * 3000, "a" * 3001)
FILTERS = ["", "+a", "-b", "?c", '+"d e"', "+a -b", "+b +f", "+b -f", "-b -f -j", "?b", "b=1|?", "b=0|?", "a=1|? f=1"]
FILTERS += [
    "split=train",
    "split=train|test origin=real",
    "origin=real|generated",
    "id=3|5|99999999999999999999",
    "id=0",
]
FILTERS += ["+a -b ?c +g -h ?i j=0|?", "+b +f +j", "g=1|? g=0|?", "+j id=1|2|3|4|5|6|7|8"]


def state(rows=400, schema=None):
    rng = np.random.default_rng(0)
    schema = schema or AttributeSchema(NAMES, (GROUP,))
    known, value = schema.pack(rng.integers(-1, 2, (rows, len(schema))).astype(np.int8))
    codes = [rng.integers(0, len(ODD), rows).astype(np.int32), (len(ODD) + rng.integers(0, 3, rows)).astype(np.int32)]
    names = (*ODD, "real", "unlabelled", "generated")
    return State(1, schema, np.arange(1, rows + 1), known, value, *codes, names, (), (), None)


@pytest.mark.parametrize("groups", [(), (GROUP,)])
def test_an_expression_keeps_what_the_filter_keeps(groups):
    held = state(schema=AttributeSchema(NAMES, groups))
    layout, fields = Layout.of(held.schema), {"embedding": EncoderInfo(1, "e", "", 2)}
    rows = entities(layout.scalars(held, np.arange(400), {"embedding": np.ones(400, bool)}))
    splits = [f'split="{one.replace(chr(34), chr(34) * 2)}"' for one in ODD if one]
    for wanted in (*FILTERS, *splits):
        parsed = held.schema.filter(wanted)
        expression = layout.expression(held.schema, parsed, "embedding", fields)
        assert expression.isascii() and expression.isprintable()
        assert [eval(expression or "True", {}, row) for row in rows] == held.mask(parsed).tolist(), (wanted, expression)
    assert len({text(one) for one in ODD}) == len(ODD)


def test_the_key_is_asked_for_where_a_filter_wants_a_member_of_the_group_to_be_true():
    held = state()
    layout, fields = Layout.of(held.schema), {"embedding": EncoderInfo(1, "e", "", 2)}
    for wanted, key in (("+f", "domain in [2, 4]"), ("+f +j", "domain in [4]"), ("-f", None), ("+a", None)):
        expression = layout.expression(held.schema, held.schema.filter(wanted), "embedding", fields)
        assert ("domain" in expression) == (key is not None) and (key or "") in expression


def test_attributes_that_are_appended_have_room_and_are_unknown():
    held = state()
    layout = Layout.of(held.schema)
    wider = AttributeSchema((*NAMES, "k", "l"), (GROUP,))
    assert layout.fits(wider) and not layout.fits(AttributeSchema(tuple(map(str, range(layout.columns * PACK + 1)))))
    (row,) = entities(layout.scalars(held, np.array([3]), {"embedding": np.array([True])}))
    fields = {"embedding": EncoderInfo(1, "e", "", 2)}
    for wanted, kept in (("?k ?l", True), ("+k", False), ("-l", False), ("k=0|?", True)):
        assert eval(layout.expression(wider, wider.filter(wanted), "embedding", fields), {}, row) == kept
    with pytest.raises(RgunitError, match=f"{MOST + 1} attributes.*at most {MOST}.*--vectors files"):
        Layout.of(AttributeSchema(tuple(map(str, range(MOST + 1)))))


def test_the_vectors_of_a_run_share_a_collection():
    names = [
        ("r2", "x"),
        ("r2.content", "x"),
        ("r2.style", "x"),
        ("r2.style", "y"),
        ("content.12ab34cd", "m"),
        ("e", ""),
    ]
    infos = [EncoderInfo(number, *name, 4) for number, name in enumerate(names, 1)]
    found = {group: sorted(fields) for group, fields in grouped(infos).items()}
    assert found == {
        ("r2", "x"): ["content", "embedding", "style"],
        ("r2", "y"): ["style"],
        ("content.12ab34cd", "m"): ["embedding"],
        ("e", ""): ["embedding"],
    }
    held, layout = state(), Layout(3)
    has = {"embedding": np.array([True, False]), "style": np.array([False, True])}
    rows = entities(layout.scalars(held, np.array([0, 1]), has))
    for field, kept in (("embedding", [True, False]), ("style", [False, True]), ("content", [False, False])):
        expression = layout.expression(
            held.schema, held.schema.filter(""), field, dict.fromkeys(("embedding", field, "style"))
        )
        assert [eval(expression, {}, row) for row in rows] == kept
