"""BCV-LR: visual control policies from expert videos, without actions or rewards."""

__version__ = "0.1.0"
