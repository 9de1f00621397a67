"""Skips tests that draw where EGL is missing."""

import ctypes

import pytest


def draws() -> bool:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True


needs_egl = pytest.mark.skipif(not draws(), reason="no EGL: nothing to draw with")
