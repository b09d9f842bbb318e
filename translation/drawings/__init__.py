"""Drawn faces whose true translation is known."""

from translation.drawings.content import Content
from translation.drawings.faces import (
    ATTRIBUTES,
    CONTENT_ATTRIBUTES,
    GROUPS,
    STYLE_ATTRIBUTES,
    draw_face,
    labels_of,
    make_dataset,
    name_drawing,
    parse_drawing,
    random_attributes,
    restyled,
    true_translation,
)

__all__ = [
    "ATTRIBUTES",
    "CONTENT_ATTRIBUTES",
    "GROUPS",
    "STYLE_ATTRIBUTES",
    "Content",
    "draw_face",
    "labels_of",
    "make_dataset",
    "name_drawing",
    "parse_drawing",
    "random_attributes",
    "restyled",
    "true_translation",
]
