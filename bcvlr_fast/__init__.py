"""BCV-LR: visual control policies from expert videos, without actions or rewards."""

import os

__version__ = "0.1.0"

# Idle OpenMP threads spin for a moment instead of for long: updates keep their speed, EnvPool's threads get the
# cores (1.5 times as many steps/s on two), and a busy machine is not ground to a halt. Read when torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
