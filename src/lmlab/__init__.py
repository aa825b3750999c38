"""lmlab: a laboratory for language models.

Notable: importing lmlab before torch makes OpenMP threads sleep, not spin, while they wait
(`OMP_WAIT_POLICY=passive`, unless it is set already). Where other processes share the cores,
spinning threads slow a training step several times; docs/experiments.md has the figures.
"""

import os

__version__ = "0.1.0"

# Read by the OpenMP library when it is loaded, so it must stand here, before any import of torch
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
