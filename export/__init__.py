"""Export: checkpoint in, self-describing ONNX files out. Runs from the checkout: ``python -m export``."""

import edge  # noqa: F401  # before onnxruntime: it turns telemetry off
