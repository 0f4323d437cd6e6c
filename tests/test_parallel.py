"""A group of one, and batch norm over a group; two processes are in test_train.py."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pathnas import networks, parallel
from pathnas.parallel import Group, SyncedNorm

CPU = torch.device("cpu")


@pytest.fixture
def gloo() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_process_alone_is_a_group_of_one_that_changes_nothing() -> None:
    network = networks.build("chain", channels=1, classes=2, widths=(4,))
    with parallel.joined(CPU, {}) as group:
        assert (group.rank, group.size, group.first, group.weight) == (0, 1, True, 1.0)
        assert group.told(7) == 7
        assert group.wrap(network) is network
        assert parallel.sync_norms(network, group) is network
        x = torch.arange(3)
        assert group.total(x) is x
    assert not dist.is_initialized()


def test_the_cpu_is_every_process_own() -> None:
    assert parallel.own_device(CPU, {"LOCAL_RANK": "3", "WORLD_SIZE": "4"}) == CPU


def test_a_cuda_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda")
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    assert parallel.own_device(cuda, environment) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="up to cuda:2, got 2"):
        parallel.own_device(cuda, {"LOCAL_RANK": "2", "WORLD_SIZE": "3"})
    with pytest.raises(ValueError, match="must be cuda for several processes"):
        parallel.own_device(torch.device("cuda:0"), environment)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_synced_norm_of_one_process_is_a_batch_norm(gloo: None, momentum: float | None) -> None:
    torch.manual_seed(0)
    plain, synced = (cls(5, momentum=momentum).double() for cls in (nn.BatchNorm2d, SyncedNorm))
    x = (torch.randn(6, 5, 3, 4) * 3 + 2).double()
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
        plain.bias.normal_()
    synced.load_state_dict(plain.state_dict())
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for _ in range(2):
        outputs = [norm(own) for norm, own in zip((plain, synced), inputs, strict=True)]
        for out in outputs:
            (out.pow(3)).sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    torch.testing.assert_close(synced.weight.grad, plain.weight.grad)
    torch.testing.assert_close(synced.state_dict(), plain.state_dict())
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))


def test_synced_norms_keep_names_values_and_parameters() -> None:
    network = networks.build("residual", channels=1, classes=2, widths=(4, 8))
    before = deepcopy(network.state_dict())
    parameters = {id(p) for p in network.parameters()}
    synced = parallel.sync_norms(network, Group(0, 2, CPU))
    assert {id(p) for p in synced.parameters()} == parameters
    torch.testing.assert_close(synced.state_dict(), before)
    norms = [m for m in synced.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(type(norm) is SyncedNorm for norm in norms)
