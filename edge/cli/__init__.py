"""The commands. Each file has three parts: parse, run, print; the middle one is callable from a test."""

import os

# A thread pool of BLAS would cost memory and time, and is of no use at these sizes. It is read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
