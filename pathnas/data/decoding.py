"""Image files, decoded one by one or as a whole set."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pathnas.data.sets import Files, Images, Normalization, Source, labels_of

MEASURED_FILES = 1000
"""The normalization of a set on disk is measured on so many of its images."""


class Decoder(Dataset[tuple[Tensor, int]]):
    """Decodes files: (index, seed) -> uint8 pixels `[size, size, 3]` and the label."""

    def __init__(self, source: Files, crop: bool) -> None:
        from torchvision.transforms import v2

        self._source = source
        self._crop = crop
        size = source.size
        if crop:
            geometry = [v2.RandomResizedCrop(size, antialias=True)]
        else:
            geometry = [v2.Resize(256 * size // 224, antialias=True), v2.CenterCrop(size)]
        self._transform = v2.Compose([*geometry, v2.PILToTensor()])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        from PIL import Image

        index, seed = key
        path = Path(self._source.root, self._source.paths[index])
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"cannot decode the image {path}: {error}") from error
        # torchvision draws from the global generator, whose state is put back afterwards.
        with torch.random.fork_rng(devices=[], enabled=self._crop):
            if self._crop:
                torch.default_generator.manual_seed(seed)
            pixels = self._transform(image)
        return pixels.permute(1, 2, 0), self._source.labels[index]


def decode(source: Files, first: int | None = None) -> Images:
    """Reads a set on disk (or its first images) into memory.

    The shorter side is brought to 8/7 of the size, then the middle square is taken.
    """
    decoder = Decoder(source, crop=False)
    labels = torch.from_numpy(labels_of(source))[:first]
    pixels = torch.stack([decoder[i, 0][0] for i in range(len(labels))])
    return Images(pixels.permute(0, 3, 1, 2), labels)


def measure(source: Source) -> Normalization:
    """Measures mean and standard deviation of each channel over a set.

    A set on disk is measured on its first 1,000 images; a channel that never changes gets the
    standard deviation 1.
    """
    if isinstance(source, Files):
        source = decode(source, MEASURED_FILES)
    # float64 sums of uint8 are exact, whatever the order; chunks keep the float64 copy small.
    total, squares = torch.zeros(2, source.shape[0], dtype=torch.float64)
    for chunk in source.pixels.split(256):
        wide = chunk.transpose(0, 1).flatten(1).double()
        total += wide.sum(1)
        squares += wide.square_().sum(1)
    count = source.pixels[:, 0].numel()
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std[std == 0] = 1.0
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))
