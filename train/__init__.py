"""Training: recordings in, checkpoint out. Runs from the checkout: ``python -m train``."""
