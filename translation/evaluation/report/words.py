"""What the report says for the names of arms and measures."""

from __future__ import annotations

ON_CHARTS = {"stage1": "first training", "swapped": "guided at random", "random": "random", "neighbour": "nearest"}
"""Names of arms beside a chart, where they differ."""

WHO = {
    "stage1": "the painter after its first training (stage 1), from which the next three go on",
    "unguided": "trained further without examples",
    "random": "trained further with images drawn at random as examples (neighbours)",
    "guided": "trained further with the images that the search finds as examples",
    "swapped": "the guided one, but shown images drawn at random when it is used",
    "copy": "the untouched image: a translation must do better",
    "neighbour": "the nearest image that the search found, as it is: a translation must keep more of its source",
}
"""What each arm is, in a sentence."""

TOLD = {
    "accuracy_changed": "of the attributes to change, the share that the classifier sees changed; more is better",
    "accuracy_kept": "of those to keep, the share that it sees kept; more is better",
    "accuracy_other": "of the attributes that nobody asks about, the share read as in the source; more is better",
    "fd_attr": "how far the set of translations is from real images, as the classifier sees them (a Fréchet distance "
    "in its features); less is better",
    "fd_judge": "the same in a network that no training saw; less is better",
    "truth": "mean difference of pixels from the true picture, 0 to 1; less is better",
    "truth_edit": "the same over the pixels that had to change; half of the untouched image's is the aim",
    "identity": "how far the translation is from its source in a network that knows persons; less is better",
    "diversity": "how much several translations of one image differ",
    "reverse": "how well a classifier trained on the translations reads real images; more is better",
    "relevance": "the share whose kind is still recognised; more is better",
    "neighbour_copies": "the share that is nearly one of the examples; less is better",
    "fid": "Fréchet Inception distance; less is better",
    "kid": "kernel Inception distance; less is better",
    "inception_score": "Inception score; more is better",
    "lpips": "how much several translations of one image differ to the eye of a network",
}
"""What each measure is, and which way is better."""

PLAIN = {
    "accuracy_changed": "changing what is asked",
    "accuracy_kept": "keeping the rest",
    "fd_attr": "likeness to real images",
    "fd_judge": "likeness to real images (independent network)",
    "truth": "nearness to the true picture",
    "truth_edit": "nearness to it where something had to change",
    "fid": "likeness to real images (FID)",
    "reverse": "use as examples for a classifier",
    "relevance": "keeping the content",
}
"""Each measure as something to be better or worse in."""
