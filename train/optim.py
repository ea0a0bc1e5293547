"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from train.config import TrainConfig


def make_optimiser(model: nn.Module, config: TrainConfig, head: str | None) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov's momentum, or Muon. Weight decay is for matrices and kernels, not for biases and norms.

    ``head``: the name of the last layer, which learns at the full rate while the others learn at ``trunk_rate`` of it.
    """
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head, kind = head is not None and name.startswith(head), min(parameter.ndim, 3)
        rate = config.learning_rate * (1.0 if in_head or head is None else config.trunk_rate)
        empty = {"params": [], "lr": rate, "weight_decay": config.weight_decay * (kind > 1)}
        groups.setdefault((in_head, kind), empty)["params"].append(parameter)
    ordered = [groups[key] for key in sorted(groups)]
    if config.optimiser == "muon":
        return Muon(ordered, config.learning_rate)
    if config.optimiser == "adamw":
        return torch.optim.AdamW(ordered, lr=config.learning_rate)
    return torch.optim.SGD(ordered, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan 2024) for the kernels of convolutions, as the matrices [outputs, inputs × places] that they are, and
    AdamW for all else. A rate means the same to both: Muon's steps are made as large as AdamW's (Liu 2025).
    """

    def __init__(self, groups: list[dict[str, Any]], learning_rate: float) -> None:
        """``groups``: as of every optimiser of torch; all parameters of one are kernels, or none is."""
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0})
        self._matrices = [
            [nn.Parameter(p.detach().flatten(1).clone()) for p in group["params"] if p.ndim > 2]
            for group in self.param_groups
        ]
        self._inner = [
            torch.optim.Muon(matrices, weight_decay=group["weight_decay"], adjust_lr_fn="match_rms_adamw")
            if matrices
            else torch.optim.AdamW(group["params"], weight_decay=group["weight_decay"])
            for group, matrices in zip(self.param_groups, self._matrices, strict=True)
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing is evaluated again
        """One step of each group, at the rate that it has now."""
        for group, matrices, inner in zip(self.param_groups, self._matrices, self._inner, strict=True):
            inner.param_groups[0]["lr"] = group["lr"]
            kernels = group["params"] if matrices else []
            for kernel, matrix in zip(kernels, matrices, strict=True):
                matrix.copy_(kernel.flatten(1))  # it may have been loaded, or averaged, since
                matrix.grad = kernel.grad.flatten(1)
            inner.step()
            for kernel, matrix in zip(kernels, matrices, strict=True):
                kernel.copy_(matrix.view_as(kernel))

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to go on."""
        return {"groups": super().state_dict(), "inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state["groups"])
        for inner, saved in zip(self._inner, state["inner"], strict=True):
            inner.load_state_dict(saved)


class Schedule:
    """The learning rate of each step. It rises in the share ``warm_up`` of each cycle."""

    def __init__(self, optimiser: torch.optim.Optimizer, config: TrainConfig, epoch_steps: int) -> None:
        """``epoch_steps``: of an epoch."""
        ends = [epoch_steps * epochs for epochs in config.cycle_ends()]
        shape = SHAPES.get(config.schedule, _constant)

        def relative(step: int) -> float:
            cycle = min(bisect_right(ends, step), len(ends) - 1)
            begin = ends[cycle - 1] if cycle else 0
            length, step = ends[cycle] - begin, step - begin
            warm = max(1, round(config.warm_up * length))
            return shape(step / warm, (step - warm) / max(1, length - warm))

        self._steps = LambdaLR(optimiser, relative)
        self._optimiser = optimiser
        self._later = ends[:-1]  # steps at which cycles begin after the first
        self._new_plateau = partial(
            ReduceLROnPlateau, optimiser, factor=config.plateau_factor, patience=config.plateau_patience
        )
        self._plateau = self._new_plateau() if config.schedule == "plateau" else None

    def step(self) -> None:
        """After each step of the optimiser."""
        if self._plateau is not None and self._steps.last_epoch + 1 in self._later:
            self._plateau = self._new_plateau()
            self._steps.base_lrs = [group["initial_lr"] for group in self._optimiser.param_groups]
        self._steps.step()

    def end_epoch(self, loss: float) -> None:
        """After each epoch that measured ``loss``: validation's where there is one, training's otherwise."""
        if self._plateau is None or self._steps.last_epoch in self._later:  # of the cycle that has ended
            return
        before = [group["lr"] for group in self._optimiser.param_groups]
        self._plateau.step(loss)
        for index, (group, rate) in enumerate(zip(self._optimiser.param_groups, before, strict=True)):
            if rate:  # the next steps start from what it set; a trunk_rate of 0 stays
                self._steps.base_lrs[index] *= group["lr"] / rate

    def state_dict(self) -> dict[str, Any]:
        """All that it takes to go on."""
        return {"steps": self._steps.state_dict(), "plateau": self._plateau and self._plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._steps.load_state_dict(state["steps"])
        if self._plateau is not None:
            self._plateau.load_state_dict(state["plateau"])


# The learning rate relative to its highest, of the share of the warm-up that is over, and of the share of the rest.


def _one_cycle(rise: float, fall: float) -> float:
    """Half a cosine up from 1/25, half a cosine down to almost nothing (Smith 2018)."""
    return 1 / 25 + 24 / 25 * _half_cosine(1 - rise) if rise < 1 else max(4e-6, _half_cosine(fall))


def _cosine(rise: float, fall: float) -> float:
    """A straight rise, half a cosine down (Loshchilov 2017, without restarts)."""
    return _constant(rise, fall) if rise < 1 else _half_cosine(fall)


def _constant(rise: float, fall: float) -> float:
    """A straight rise, and no fall: of that, a plateau takes care."""
    return min(1.0, max(rise, 1e-3))


def _half_cosine(share: float) -> float:
    """From 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


SHAPES = {"one-cycle": _one_cycle, "cosine": _cosine}
