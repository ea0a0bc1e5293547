"""What TensorRT is asked for: which precisions it may use, and where it keeps its engines, which are slow to build."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

log = logging.getLogger("edge.engine_cache")


def tensorrt_options(graph: bytes, precision: str) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider for a model file's bytes, of a precision of ``Provenance``.

    Engines are kept in ``$XDG_CACHE_HOME/edge-listen/tensorrt``, in a folder of each model's own: onnxruntime names
    them by the structure of the graph, and would take those of another model of the same structure for ours. Where the
    folder cannot be had, they are built anew at each start.
    """
    options = {"trt_fp16_enable": str(precision == "fp16"), "trt_int8_enable": str(precision == "int8-s8s8")}
    try:
        folder = cache_folder() / "tensorrt" / hashlib.sha256(graph).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        log.warning("TensorRT builds its engines at each start: no folder for them (%s)", error)
        return options
    where = str(folder)
    caches = {"trt_engine_cache_enable": "True", "trt_engine_cache_path": where, "trt_timing_cache_enable": "True"}
    return options | caches | {"trt_timing_cache_path": where}


def cache_folder() -> Path:
    """Where what can be made again is kept. Raises RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-listen"
