"""Training a network: fit, accuracy, and the calibration that births need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pathnas import cell, quick_layers, scheduled
from pathnas.probing import mode
from pathnas.specs import Moments

Precision = Literal["float32", "bfloat16", "float16"]


class Batches(Iterable[tuple[Tensor, Tensor]], Sized, Protocol):
    """Batches of images `[B, C, H, W]` and labels `[B]`; iterating again is the next epoch."""


@dataclass(frozen=True)
class Epoch:
    """An epoch of :func:`fit` that has ended.

    Attributes:
        number: from 1.
        loss: mean over its images, in all processes.
        learning_rate: of its last step.
        images: training images seen so far, in all processes and epochs.
        optimizer: of the network.
        scaler: of the loss.
    """

    number: int
    loss: float
    learning_rate: float
    images: int
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def state(self) -> dict[str, Any]:
        """Returns what :attr:`Hooks.resume` takes; the network's own state is not in it."""
        return {
            "epoch": self.number,
            "images": self.images,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }


Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs `[B, classes]` and targets to one number."""


def _alone(tensor: Tensor) -> Tensor:
    return tensor


def _one() -> float:
    return 1.0


@dataclass(frozen=True)
class Hooks:
    """What :func:`fit` does beside training, for trainings that are long or shared.

    Attributes:
        resume: of :meth:`Epoch.state`, to go on after that epoch; None: from the beginning. The
            network must be in the state that it had then.
        step_end: called after every step of the optimizer.
        epoch_end: called after every epoch; the network is as the epoch left it, in train mode.
        across: sums a tensor over all processes that train the network together.
        weight: of the loss of the batch at hand.
    """

    resume: Mapping[str, Any] | None = None
    step_end: Callable[[], None] | None = None
    epoch_end: Callable[[Epoch], None] | None = None
    across: Callable[[Tensor], Tensor] = _alone
    weight: Callable[[], float] = _one


def fit(
    network: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 1e-4,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup_epochs: float = 0.0,
    label_smoothing: float = 0.0,
    precision: Precision = "float32",
    gate_fraction: float = 0.1,
    drop_path: float = 0.0,
    drop_path_schedule: Literal["linear", "constant"] = "linear",
    optimizer: torch.optim.Optimizer | None = None,
    loss_of: Loss | None = None,
    hooks: Hooks = Hooks(),
) -> int:
    """Trains a network in place by SGD.

    Modules with a part of their own in it (:class:`pathnas.scheduled.Scheduled`) are told how far
    the training has come, and add to the loss.

    Args:
        network: left in train mode; gates (see :class:`pathnas.ops.Gate`) fall from 1 to 0 over
            the first `gate_fraction` of the steps and are removed.
        batches: one pass is one epoch.
        epochs: passes.
        learning_rate: at its highest; ``"cosine"`` brings it to 0 at the end, step by step.
        momentum: of SGD.
        nesterov: whether momentum is Nesterov's.
        weight_decay: on every parameter, norms included.
        schedule: of the learning rate.
        warmup_epochs: over which the learning rate rises from 0.
        label_smoothing: of the cross entropy.
        precision: of the forward pass, by autocast; float16 scales the loss.
        gate_fraction: share of all steps, in (0, 1].
        drop_path: how often a branch of an *add* node is dropped at most (paper, section 4.2), by
            draws from torch's global generator; see :func:`pathnas.drop_path.drop_paths`.
        drop_path_schedule: ``"linear"``: the rate rises from 0; ``"constant"``: it does not change.
        optimizer: of the network's parameters, to go on with what it remembers; only the learning
            rate of its first group is set. None: a new one by :func:`sgd`.
        loss_of: the loss, of the outputs and what `batches` gives beside the images; None: cross
            entropy.
        hooks: what is done beside.

    Returns:
        The number of training images seen, repeats counted.

    Raises:
        FloatingPointError: if the loss of an epoch is not finite.
    """
    steps = epochs * len(batches)
    rates = _Rates(learning_rate, steps, warmup_epochs * len(batches), schedule == "cosine")
    if optimizer is None:
        optimizer = sgd(network, momentum, nesterov=nesterov, weight_decay=weight_decay)
    loss_of = loss_of or nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    plan = _Plan(network, rates, gate_fraction, drop_path, drop_path_schedule == "linear")
    learner = _Learner(network, optimizer, loss_of, precision, hooks)
    with quick_layers.used(network) if precision == "float32" else nullcontext():
        return _epochs(learner, plan, batches, epochs)


@dataclass(frozen=True)
class _Rates:
    """The learning rate: up to its peak in the warmup, then constant, or down to 0 by a cosine."""

    peak: float
    steps: int
    warmup: float
    cosine: bool

    def at(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return self.peak
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))


class _Plan:
    """What a network is told before each step, and when all are over."""

    def __init__(
        self,
        network: nn.Module,
        rates: _Rates,
        gate_fraction: float,
        drop_path: float,
        rising: bool,
    ) -> None:
        self.network = network
        self.rates = rates
        self.gated_steps = gate_fraction * rates.steps
        self.drop_path = drop_path
        self.rising = rising
        self.parts = scheduled.parts(network)
        self.gates = cell.gates(network)

    def begin(self, step: int) -> None:
        if self.gates:  # to walk over all modules at every step would cost a tenth of small ones
            a = max(0.0, 1 - step / self.gated_steps)
            for gate in self.gates:
                gate.a = a
            if a == 0:
                cell.set_gates(self.network, a)
                self.gates = []
        progress = step / self.rates.steps
        for part in self.parts:
            part.advance(progress)
        if self.drop_path:
            share = progress if self.rising else 1.0
            cell.set_drop_path(self.network, self.drop_path * share)

    def end(self) -> None:
        cell.set_gates(self.network, 0.0)
        cell.set_drop_path(self.network, 0.0)
        for part in self.parts if self.rates.steps else ():
            part.advance(1.0)


class _Learner:
    """Takes the steps of an optimizer."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_of: Loss,
        precision: Precision,
        hooks: Hooks,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.loss_of = loss_of
        self.precision = precision
        self.hooks = hooks
        self.device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")
        self.parts = scheduled.parts(network)
        self.learned = [p for group in optimizer.param_groups for p in group["params"]]

    def resume(self) -> tuple[int, int]:
        """Goes on from a state, if there is one; returns its epoch and the images seen."""
        state = self.hooks.resume
        if state is None:
            return 0, 0
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        return int(state["epoch"]), int(state["images"])

    def step(self, x: Tensor, y: Tensor, learning_rate: float) -> Tensor:
        """Takes a step; returns the loss before it, `[]`."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        with _autocast(self.device, self.precision):
            loss = self.loss_of(self.network(x), y)
        if self.parts:
            loss = loss + sum(part.penalty() for part in self.parts)
        for parameter in self.learned:  # zero_grad's bookkeeping takes 3% of the smallest steps
            parameter.grad = None
        weighted = loss if self.hooks.weight is _one else loss * self.hooks.weight()
        self.scaler.scale(weighted).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.hooks.step_end is not None:
            self.hooks.step_end()
        return loss.detach()


def _epochs(learner: _Learner, plan: _Plan, batches: Batches, epochs: int) -> int:
    hooks = learner.hooks
    done, images = learner.resume()
    step = done * len(batches)
    learner.network.train()
    for epoch in range(done + 1, epochs + 1):
        total, seen = torch.zeros((), device=learner.device), 0
        for x, y in batches:
            plan.begin(step)
            total += learner.step(x, y, plan.rates.at(step)) * len(y)
            step, seen = step + 1, seen + len(y)
        sums = hooks.across(torch.tensor([float(total), seen], dtype=torch.float64))
        mean, images = float(sums[0] / sums[1]), images + int(sums[1])
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean} in epoch {epoch} of {epochs}")
        if hooks.epoch_end is not None:
            rate = plan.rates.at(step - 1)
            hooks.epoch_end(Epoch(epoch, mean, rate, images, learner.optimizer, learner.scaler))
    plan.end()
    return images


def sgd(
    network: nn.Module, momentum: float = 0.9, *, nesterov: bool = True, weight_decay: float = 1e-4
) -> torch.optim.SGD:
    """Returns the optimizer of :func:`fit`, which sets its learning rate."""
    return torch.optim.SGD(
        network.parameters(),
        lr=0.0,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        weight_decay=weight_decay,
        fused=next(network.parameters()).device.type in ("cpu", "cuda"),
    )


class _Taught:
    """Batches whose labels give way to the logits of a teacher in eval mode, `[B, classes]`."""

    def __init__(self, batches: Batches, teacher: nn.Module) -> None:
        self.batches = batches
        self.teacher = teacher

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, _ in self.batches:
            with torch.no_grad(), mode(self.teacher, training=False):
                logits = self.teacher(x)
            yield x, logits


def distill(
    student: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    *,
    epochs: int = 1,
    learning_rate: float = 0.01,
    **options: Any,
) -> int:
    """Brings a network's logits near a teacher's by training it briefly, in place.

    The paper's remedy for what is born as no identity: pooling, or an activation that cuts its
    input. The loss is the mean squared distance of the logits (Ba and Caruana, "Do deep nets really
    need to be deep?", 2014; Kim et al., 2021, compare it with the divergence of softened
    probabilities and find it better), since what is wanted is the teacher's function itself.

    Args:
        student: the grown network; left in train mode.
        teacher: the network before the growth; it stays as it is, its mode included.
        batches: of training images; their labels are not looked at.
        epochs: passes.
        learning_rate: at its highest.
        options: others of :func:`fit`. What that does beside, such as letting gates fall, is done.

    Returns:
        The number of training images seen, repeats counted.

    Raises:
        FloatingPointError: if the loss of an epoch is not finite.
    """
    taught = _Taught(batches, teacher)
    fitted = {"epochs": epochs, "learning_rate": learning_rate, **options}
    return fit(student, taught, loss_of=nn.MSELoss(), **fitted)


def _autocast(device: torch.device, precision: Precision) -> Any:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


class Evaluation(NamedTuple):
    """How well a network classifies images.

    Attributes:
        accuracy: share classified right, in [0, 1].
        loss: mean cross entropy, in nats; not finite if an output is not.
    """

    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(
    network: nn.Module, batches: Batches, across: Callable[[Tensor], Tensor] = _alone
) -> Evaluation:
    """Returns how well a network classifies images; its mode is restored.

    Args:
        network: to be asked.
        batches: of images and labels.
        across: sums a tensor over all processes that share the images; see :class:`Hooks`.
    """
    right, loss, images = [], [], 0
    with mode(network, training=False):
        for x, y in batches:
            outputs = network(x)
            right.append((outputs.argmax(1) == y).sum())
            loss.append(nn.functional.cross_entropy(outputs.float(), y, reduction="sum"))
            images += len(y)
    sums = [float(torch.stack(right).sum()), float(torch.stack(loss).sum()), images]
    total = across(torch.tensor(sums, dtype=torch.float64))
    return Evaluation(float(total[0] / total[2]), float(total[1] / total[2]))


def accuracy(
    network: nn.Module, batches: Batches, across: Callable[[Tensor], Tensor] = _alone
) -> float:
    """Returns the share of images classified right, in [0, 1]; see :func:`evaluate`."""
    return evaluate(network, batches, across).accuracy


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Measures the moments of every edge, in place, by one pass over a batch.

    With them, what is born below an edge is an identity in train mode on this batch, as well as in
    eval mode on any input. The pass is in train mode, as training will be; running statistics and
    the network's mode are restored.

    Args:
        network: with cells.
        images: `[B, C, H, W]` of training images, normalized, without augmentation.
    """
    edges = [edge for edge in network.modules() if isinstance(edge, cell.CellEdge)]
    for edge in edges:
        edge.moments = None
    saved = {name: buffer.clone() for name, buffer in network.named_buffers()}
    hooks = [edge.op.register_forward_hook(_measure(edge)) for edge in edges]
    try:
        with mode(network, training=True):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
        for name, buffer in network.named_buffers():
            if name in saved:  # moments are new
                buffer.copy_(saved[name])


def _measure(edge: cell.CellEdge) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(op: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.is_cpu and output.dtype in (torch.float32, torch.float64):
            # What batch norm itself computes there, ten times as fast as var_mean.
            mean, var = torch.batch_norm_update_stats(output, None, None, 0.0)
        else:
            var, mean = torch.var_mean(output, dim=(0, 2, 3), correction=0)
        edge.moments = Moments(mean, var)

    return hook
