"""Images as the rest of the library sees them: sets, splits, normalization, batches.

A set of images is either in memory (:class:`Images`) or on disk (:class:`Files`). This package
knows no dataset by name (see :mod:`pathnas.datasets`) and imports torch and numpy only, since every
worker process imports it.
"""

from pathnas.data.batching import Augment, Batches, batches
from pathnas.data.decoding import decode, measure
from pathnas.data.order import Part
from pathnas.data.saved import digest, is_saved, open_source, save
from pathnas.data.sets import (
    Files,
    Images,
    Normalization,
    Source,
    Splits,
    join,
    labels_of,
    sample,
    split,
    take,
)

__all__ = [
    "Augment",
    "Batches",
    "Files",
    "Images",
    "Normalization",
    "Part",
    "Source",
    "Splits",
    "batches",
    "decode",
    "digest",
    "is_saved",
    "join",
    "labels_of",
    "measure",
    "open_source",
    "sample",
    "save",
    "split",
    "take",
]
