"""The averages of a network's weights that a run keeps: over its last steps, and over the ends of its cycles."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.config import TrainConfig


class Averages:
    """``last``: exponentially over the last steps. Of a run in cycles it becomes, in the end, the mean of what it was
    at the end of each, and of the beginning (Izmailov 2018, Wortsman 2022).
    """

    def __init__(self, model: nn.Module, config: TrainConfig, epoch_steps: int, *, with_beginning: bool) -> None:
        """``with_beginning``: the weights that ``model`` has now count as well."""
        self._ends, self._epochs = config.cycle_ends(), config.epochs
        decay = 1 - 1 / max(1.0, config.average * self._ends[0] * epoch_steps)
        self.last = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        for module in self.last.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # a copy is no longer the one block that cuDNN reads as it is
        self._mean = AveragedModel(model, use_buffers=True) if len(self._ends) > 1 else None
        if self._mean is not None and with_beginning:
            self._mean.update_parameters(model)

    def parts(self) -> dict[str, nn.Module]:
        """What it takes to go on, by name."""
        return {"average": self.last} | ({} if self._mean is None else {"mean": self._mean})

    def end_epoch(self, epochs: int) -> None:
        """After so many epochs of the run."""
        if self._mean is not None and epochs in self._ends:
            self._mean.update_parameters(self.last.module)
            if epochs == self._epochs:
                self.last.module.load_state_dict(self._mean.module.state_dict())
