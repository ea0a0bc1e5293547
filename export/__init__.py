"""Export: checkpoint in, self-describing ONNX files out. Runs from the checkout: ``python -m export``."""
