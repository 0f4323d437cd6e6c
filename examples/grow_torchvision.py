"""Grows some convolutions of a torchvision ResNet, trains on, and writes it as plain PyTorch.

python examples/grow_torchvision.py [--steps 20] [--to grown.pt]

The images are noise, so nothing is learned here: put a data loader of yours in their place. It
shows that the grown network starts where the old one stood.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from torch.nn import functional as F

import pathnas
from pathnas import cell, export
from pathnas.transforms import Branch, Insert, Replace, grow

STEPS = [
    Branch((), "add", 2),
    Insert((0,)),
    Replace((0, 0), "sep_conv5x5"),
    Insert((1,)),
    Replace((1, 0), "max_pool3x3"),
]


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--to", type=Path, help="file for the weights of the plain network")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(10, (16,))

    grafted = pathnas.graft(model, "layer[23].*.conv2")
    grown = grow(grafted, STEPS).eval()
    with torch.no_grad():
        change = (grown(images) - model(images)).abs().max().item()
    print(f"{len(cell.cells(grown))} cells hold {next(iter(cell.cells(grown).values())).tree}")
    print(f"largest change of the output by growing: {change:.1e}")

    optimizer = torch.optim.SGD(grown.parameters(), lr=0.01, momentum=0.9)
    grown.train()
    for step in range(options.steps):
        cell.set_gates(grown, max(0.0, 1 - 5 * step / options.steps))  # 0 after a fifth
        optimizer.zero_grad()
        loss = F.cross_entropy(grown(images), labels)
        loss.backward()
        optimizer.step()
        print(f"step {step:3d}  loss {loss.item():.4f}")

    cell.set_gates(grown, 0.0)
    plain = export.plain(grown.eval())
    with torch.no_grad():
        change = (plain(images) - grown(images)).abs().max().item()
    print(f"largest change of the output by making it plain: {change:.1e}")
    if options.to is not None:
        torch.save(plain.state_dict(), options.to)
        print(f"weights are in {options.to}")


if __name__ == "__main__":
    main()
