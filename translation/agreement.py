"""What neighbours must have in common with the source (`guided.agree`): its label, else what an extractor reads of it.

An image of which it is not known does not agree: neighbours are images whose label is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.workspace import Workspace
from translation.config import Config
from translation.extractor import SemanticExtractor, extractor_of
from translation.progress import Progress
from translation.translator import Translator

Bits = NDArray[np.int8]
Ids = NDArray[np.int64]


class Agreement:
    """The attributes `names` to agree in, and what reads each where its label is not known (None: nothing)."""

    def __init__(
        self, workspace: Workspace, names: Sequence[str], readers: Mapping[str, SemanticExtractor | None]
    ) -> None:
        self._schema = AttributeSchema(workspace.schema.subset(names).names)
        self.names = self._schema.names
        self.readers = readers
        table = workspace.images("origin=real|unlabelled")
        self._ids, self._labels = table.ids, table.labels[:, workspace.schema.indices(names)]

    @property
    def runs(self) -> tuple[str, ...]:
        """The extractors that read."""
        return tuple(sorted({reader.run for reader in self.readers.values() if reader is not None}))

    def bits(self, own: Ids, images: Tensor | None) -> Bits:
        """int8 [B, n] in {0, 1} of sources with ids `own` [B] (−1: foreign), images [B, 3, H, W].

        RgunitError where a label is not known and nothing reads it.
        """
        found = self._known(own)
        for column, name in enumerate(self.names):
            unknown = np.flatnonzero(found[:, column] < 0)
            if not len(unknown):
                continue
            reader = self.readers.get(name)
            if reader is None or images is None:
                raise RgunitError(
                    f"guided.agree: whether a picture has {quoted(name)} is not known, and no extractor reads it: "
                    f"`rgunit train extractor --protect {quoted(name)}`, or label it"
                )
            found[unknown, column] = reader.bits(images[torch.from_numpy(unknown).to(images.device)])
        return found

    def filters(self, bits: Bits) -> list[str]:
        """A filter for each row of bits [B, n]."""
        return [self._schema.terms(row) for row in bits]

    def agreeing(self, pool: Ids, bits: Bits) -> Ids:
        """Those of ids [p] whose labels are `bits` [n]."""
        kept: Ids = pool[(self._known(pool) == bits).all(axis=1)]
        return kept

    def require(self, pool: Ids, k: int) -> None:
        """RgunitError unless more than k images of the pool agree with every source that there may be."""
        for row in product((0, 1), repeat=len(self.names)):
            count = len(self.agreeing(pool, np.array(row, np.int8)))
            if count <= k:
                told = self.filters(np.array([row], np.int8))[0]
                raise RgunitError(
                    f"guided.agree: {count} training images are known to be {told}, and {k} neighbours are to agree "
                    "with such a source: add images with labels, or agree in fewer attributes"
                )

    def _known(self, ids: Ids) -> Bits:
        """Labels int8 [B, n] of images; −1 of foreign ones."""
        if not len(self._ids):
            return np.full((len(ids), len(self.names)), -1, np.int8)
        rows = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        there = self._ids[rows] == ids
        labels: Bits = np.where(there[:, None], self._labels[rows], np.int8(-1)).astype(np.int8)
        return labels


def open_agreement(
    workspace: Workspace,
    config: Config,
    device: torch.device | str,
    runs: Sequence[str] = (),
    progress: Progress | None = None,
) -> Agreement | None:
    """What a configuration's `guided.agree` asks for, None where it asks for nothing.

    `runs`: the extractors that a guided run was trained with; by default that of `semantic.extractor`, else the newest.
    `progress` is told of doubts about them.
    """
    names = config.guided.agree
    if not names:
        return None
    named = runs or ([workspace.run(config.semantic.extractor).id] if config.semantic.extractor else [])
    workspace.schema.indices(names)
    return Agreement(
        workspace,
        names,
        {name: extractor_of(workspace, name, config.data.size, device, named, progress) for name in names},
    )


def agreement_of(workspace: Workspace, translator: Translator) -> Agreement | None:
    """In what the neighbours of a guided run agree with the source, read by the extractors of its training."""
    runs = () if translator.run is None else tuple(translator.run.config.get("agreement_runs", ()))
    return open_agreement(workspace, translator.config, translator.device, runs)


def check_agreed(names: Sequence[str], schema: AttributeSchema) -> None:
    """UsageError for an attribute that translation changes: neighbours are to have the target's."""
    if changed := [name for name in names if name in schema.names]:
        raise UsageError(
            f"guided.agree={quoted(changed[0])} is an attribute in use, which translation changes: neighbours have the "
            "target's; agree in others, or leave it out of --attributes-used"
        )
