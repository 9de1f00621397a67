"""A mark that skips tests that render where EGL is missing."""

import ctypes

import pytest


def has_egl() -> bool:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True


needs_egl = pytest.mark.skipif(not has_egl(), reason="EGL is missing: nothing can be rendered")
