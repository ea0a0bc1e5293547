"""Training over several processes, which ``torchrun`` starts: the batch is shared out, the gradients are averaged.

Every process makes the same whole batch, from the same random numbers, and computes its share of it; with batch norms
that see all shares, the steps are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

LONGEST = timedelta(days=1)  # that the others wait while the first one computes features


@dataclass(frozen=True)
class Group:
    """One process among those that train together."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """The part of ``batch`` that is computed here."""
        return batch if self.size == 1 else batch[self.rank :: self.size]

    def check(self, batch_size: int) -> None:
        """Raises ValueError when a batch cannot be shared out evenly."""
        if batch_size % self.size:
            raise ValueError(f"a batch of {batch_size} does not divide among {self.size} processes; change batch_size")

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model``, whose gradients are averaged over the group."""
        if self.size == 1:
            return model
        return DistributedDataParallel(_synchronised(model))

    def mean(self, value: float) -> float:
        """The mean of every process's ``value``."""
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return float(total) / self.size

    def main_does(self, action: Callable[[], None]) -> None:
        """What only one may do; its ValueError is raised in all processes."""
        errors: list[str | None] = [None]
        if self.main:
            try:
                action()
            except ValueError as error:
                errors = [str(error)]
        if self.size > 1:
            distributed.broadcast_object_list(errors)
        if errors[0] is not None:
            raise ValueError(errors[0])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does what is inside before the others do."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            distributed.barrier()


def start(device: str) -> Group:
    """Join the group that ``torchrun`` has announced in the environment; alone without it.

    ``device``: "auto" is a GPU where there is one; a process of several takes the one of its local rank.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    there += [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    if device not in there:
        raise ValueError(f"there is no device {device!r} here; allowed: auto, {', '.join(there)}")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group(device=device)
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        backend = "nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=LONGEST)
    return Group(distributed.get_rank(), size, device)


def stop() -> None:
    """Leave the group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes. ``torch.nn.SyncBatchNorm`` is the same for GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[B, C, ...] → the same shape."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.to(self.running_mean.dtype)  # sums of 16-bit numbers would lose too much
        count = values.numel() // values.shape[1] * distributed.get_world_size()
        mean = all_reduce(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        return (normed * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def _synchronised(module: nn.Module) -> nn.Module:
    """``module`` with every batch norm replaced, in place; it keeps its weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            replacement = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
            replacement.load_state_dict(child.state_dict())
            setattr(module, name, replacement.to(child.weight).train(child.training))
        else:
            _synchronised(child)
    return module
