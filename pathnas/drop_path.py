"""DropPath: whole branches are dropped in training (Larsson et al. 2017; Zoph et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def drop_paths(branches: Sequence[Tensor], rate: float) -> list[Tensor]:
    """Drops branches at random, for each image on its own, and scales up those that stay.

    Where all branches of an image would go, one that is drawn uniformly stays. What stays is
    divided by its probability, so the expectation of every branch is unchanged. Draws from torch's
    global generator of the branches' device.

    Args:
        branches: outputs of one node's branches, `[B, C, H, W]` each.
        rate: probability of a branch to be dropped, in [0, 1].
    """
    first, n = branches[0], len(branches)
    kept = torch.rand(len(first), n, device=first.device) >= rate
    saved = torch.randint(n, (len(first), 1), device=first.device)
    rescue = torch.zeros_like(kept).scatter_(1, saved, ~kept.any(1, keepdim=True))
    share = (1 - rate) + rate**n / n
    scales = ((kept | rescue) / share).to(first.dtype)
    return [branch * scales[:, i, None, None, None] for i, branch in enumerate(branches)]
