"""What one forward pass costs."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, frames: Tensor) -> int:
    """Multiply-accumulates of the convolutions and matrix products of one forward pass over ``frames``.

    Recurrent layers and attention are computed the plain way, as the products that they consist of.
    """
    training = model.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch tells of Intel's GPUs when its library is switched off
        with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH), counter:
            model.eval()(frames)
    model.train(training)
    return int(counter.get_total_flops()) // 2
