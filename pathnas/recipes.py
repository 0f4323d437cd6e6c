"""Recipes of full trainings by name, for ``python -m pathnas.train --recipe NAME``.

Where the numbers come from:

- ``cifar10_300`` and ``cifar10_600``: the paper (Cai et al., 2018, section 4): 300 epochs, or 600
  with DropPath, of which the rate 0.2 is ours; batches of 64, learning rate 0.1 that falls along a
  cosine, weight decay 1e-4, Nesterov momentum 0.9, shifts by 4 pixels and mirroring; Cutout of 16
  pixels (DeVries and Taylor, 2017) in its best rows. Its others are ``recipe.augment.cutout=0``.
- ``imagenet_120``: CondenseNet (Huang et al., 2018), whose training the paper takes over: 120
  epochs, batches of 256, learning rate 0.1 along a cosine, weight decay 1e-4, Nesterov momentum
  0.9, random resized crops and mirroring. Label smoothing is ``recipe.label_smoothing=0.1``.
- ``digits_40``: the full training of ``experiments/digits.yaml``, for a CPU.
"""

from __future__ import annotations

from pathnas.config import Augment, Recipe

_CIFAR = Augment(crop=4, flip=True, cutout=16)

RECIPES: dict[str, Recipe] = {
    "cifar10_300": Recipe(epochs=300, augment=_CIFAR),
    "cifar10_600": Recipe(epochs=600, drop_path=0.2, augment=_CIFAR),
    "imagenet_120": Recipe(epochs=120, batch_size=256, augment=Augment(crop=1, flip=True)),
    "digits_40": Recipe(epochs=40, batch_size=32),
}
"""What is not written is the default of :class:`pathnas.config.Recipe`: the paper's."""
