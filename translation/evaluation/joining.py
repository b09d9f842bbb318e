"""What is particular to methods that join networks: which pairs are judged, and the way through the anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from translation.methods import Joins, Translation
from translation.translator import Translator


def judged_domains(translator: Translator, unseen: bool) -> tuple[str, ...]:
    """The domains between which pairs are judged: () all images, of a method that joins all domains, or the unseen.

    UsageError where no pair is unseen because the method has no pairs, RgunitError where every pair was trained.
    """
    method, names = translator.method, translator.schema.names
    if not isinstance(method, Joins):
        if unseen:
            raise UsageError(
                f"--unseen is for runs that train some pairs of domains: {translator.config.method} does not"
            )
        return ()
    if not unseen:
        return names
    trained = {frozenset(pair) for pair in method.pairs}
    if len(trained) == len(names) * (len(names) - 1) // 2:
        raise RgunitError(
            f"every pair of {', '.join(map(quoted, names))} was trained, so none is unseen: --unseen takes a run of "
            "three domains or more, of which only pairs with an anchor were"
        )
    return tuple(name for column, name in enumerate(names) if column != method.anchor)


def by_way_of_anchor(translator: Translator, images: Tensor, own: Tensor, wanted: Tensor) -> Translation:
    """Images [B, 3, H, W] of domains `own` [B, n] translated to the anchor, and that to `wanted` [B, n].

    Where one of them is the anchor there is nothing between.
    """
    method = translator.method
    assert isinstance(method, Joins)
    anchor = torch.zeros_like(own, dtype=torch.float32)
    anchor[:, method.anchor] = 1
    own, wanted = own.float(), wanted.float()
    direct = ((own == anchor).all(1) | (wanted == anchor).all(1))[:, None]
    between = torch.where(direct, own, anchor)
    for before, after in ((own, between), (between, wanted)):
        told, moved = translator.told(before), (before != after).any(1).to(images.device)
        made = told.translate(images, told.content(images), told.style_mean(after.to(images.device)))
        images = torch.where(moved[:, None, None, None], made.image, images)
    return Translation(images, images)
