"""In how many bits the forward pass computes."""

from __future__ import annotations

import torch


def forward_dtype(precision: str, device: str) -> torch.dtype:
    """The type that ``precision`` (of :class:`train.config.TrainConfig`) stands for on ``device``.

    ``auto`` is bfloat16 where ``device`` multiplies it: elsewhere it is emulated, ten times slower than float32.
    Raises ValueError for float16 on a processor.
    """
    if precision == "auto":
        precision = "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if precision == "float16" and device == "cpu":
        raise ValueError("precision is 'float16'; on the processor, allowed: auto, float32, bfloat16")
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def _multiplies_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # avx512_bf16 and amx_bf16 on x86-64, arm_bf16 or bf16 elsewhere
    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
