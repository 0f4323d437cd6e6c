"""Receipts tell the truth, to people and in JSON."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pathnas import receipts
from pathnas.cell import Cell
from pathnas.receipts import Change, Receipt
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Birth, Branch, Insert, Replace, grow
from tests.strategies import images, randomize

POOL = [Insert((0,)), Replace((0, 0), "max_pool3x3")]


@pytest.mark.parametrize(("mode", "exact"), [("gated", True), ("hard", False)])
def test_receipts_tell_the_truth(mode: str, exact: bool) -> None:
    torch.manual_seed(0)
    cell = Cell(CellSpec(Conv(4, 4), "pre")).double()
    randomize(cell, 0)
    x, birth = images(4, 0, torch.float64), Birth(mode)  # type: ignore[arg-type]
    found = receipts.receipt(cell, grow(cell, POOL, birth), x, POOL, birth)
    assert found.change is not None
    assert found.exact is found.change.exact is exact
    assert (found.change.relative < 1e-12) is exact
    assert (found.change.top1 == 0) is exact and found.change.images == 4
    assert found.macs == (9 * 4 * 4 * 49,) * 2  # pooling multiplies nothing
    assert found.parameters == (9 * 4 * 4 + 8,) * 2
    words = ["exact", "approximate"]
    assert f"{words[not exact]} by law; {words[not exact]} as measured" in str(found)


class Fixed(nn.Module):
    """Answers always the same."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows


def test_what_is_counted() -> None:
    before = receipts.look(Fixed([[1.0, 2.0], [-4.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 1))
    after = receipts.look(Fixed([[1.0, 2.0], [1.0, 0.0], [2.0, 1.0]]), torch.zeros(3, 1))
    found = receipts.compare(before, after, [Branch((), "add", 2)]).change
    assert found == Change(images=3, max_abs=5.0, relative=1.25, top1=2, tolerance=1e-4)
    assert "approximate as measured: output changed by 5 (1.25 relative), 2 top-1" in str(found)


def test_what_counts_as_rounding_depends_on_the_type() -> None:
    assert receipts.tolerance(torch.float64) == 1e-10
    assert receipts.tolerance(torch.float32) == 1e-4
    assert 1e-4 < receipts.tolerance(torch.float16) < receipts.tolerance(torch.bfloat16) < 0.2
    silent = Change(images=1, max_abs=0.0, relative=float("nan"), top1=0, tolerance=1e-4)
    assert not silent.exact


STEP = Receipt(
    (Branch((0, 1), "concat", 2),),
    ("a.b",),
    True,
    Change(2, 1e-7, 0.1 + 0.2, 1, 1e-4),
    (1, 2),
    (3, 4),
)


@pytest.mark.parametrize(
    "receipt",
    [
        STEP,
        Receipt((Insert((0,)),), (), False, None, (10, 20), None),
        Receipt(
            (*STEP.transforms, Insert((0,))), ("a", "b"), True, None, (1, 2), None, (STEP,) * 2
        ),
    ],
)
def test_a_receipt_survives_json(receipt: Receipt) -> None:
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_a_receipt_without_images_says_that_nothing_was_measured() -> None:
    module = nn.Linear(2, 2)
    looks = receipts.look(module, None), receipts.look(module, None)
    found = receipts.compare(*looks, [Insert((0,))])
    assert str(found) == "exact by law; not measured; parameters 6 -> 6"


def test_what_is_no_receipt_is_refused() -> None:
    for text in ("[]", "{}", '{"parameters": [1]}', "nothing"):
        with pytest.raises(ValueError):
            Receipt.from_json(text)


def test_a_module_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="one tensor in eval mode, got tuple from LSTM"):
        receipts.look(nn.LSTM(2, 2), torch.zeros(1, 2))
