"""lmlab: a laboratory for language models.

Notable: importing lmlab before torch limits how long OpenMP threads spin while they wait
(`GOMP_SPINCOUNT`, unless that or OMP_WAIT_POLICY is set already). The library's default is to spin
for milliseconds, which slows a training step several times wherever another process wants a core;
benchmarks/openmp_waiting.py measures it.
"""

import os

__version__ = "0.1.0"

# Read by the OpenMP library when it is loaded, so it must stand here, before any import of torch
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
