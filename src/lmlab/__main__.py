"""`python -m lmlab`, for launchers that start a module (torchrun)."""

import sys

from lmlab.cli import main

sys.exit(main())
