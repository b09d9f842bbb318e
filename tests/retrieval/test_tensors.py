"""Bytes of pictures to and fro, and fingerprints that old workspaces hold."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from retrieval.tensors import fingerprint, to_pixels, to_tensor


def test_every_grey_level_comes_back_and_a_picture_that_is_read_only_stays_as_it_is() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    before = pixels.copy()
    pixels.setflags(write=False)
    images = to_tensor(pixels)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(images), before)
    np.testing.assert_array_equal(pixels, before)
    torch.testing.assert_close(to_tensor(torch.from_numpy(before)), images, rtol=0, atol=0)


def test_fingerprints_are_those_that_older_versions_wrote() -> None:
    """A store keeps vectors under them: another way of counting would make every index there is useless."""
    network = nn.LayerNorm(2)
    assert fingerprint({"two": network, "one": network}).startswith("e9ef36ba08ef9ea00e2174829f1dd41d")
    assert fingerprint({"": network}, "other").startswith("2963791abc7bfd2d2cba106cd325a959")


def test_a_number_among_the_weights_counts_too() -> None:
    network = nn.BatchNorm1d(2)
    before = fingerprint({"one": network})
    network(torch.randn(4, 2))
    assert fingerprint({"one": network}) != before
