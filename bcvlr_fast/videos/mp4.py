"""Writes H.264 video files with PyAV."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

FRAMES_PER_S = 15
_SCALE = 4


def available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def write_mp4(
    path: Path, frames: np.ndarray, frames_per_s: float = FRAMES_PER_S, *, lossless: bool = False, scale: int = _SCALE
) -> None:
    """Writes frames [T, H, W, 3] uint8 as H.264 that every browser plays, enlarged `scale` times without smoothing.

    An enlargement of four hides chroma subsampling, so the file is visually lossless. `lossless` keeps the size of the
    frames and every bit, in a format that few players show.
    """
    import av

    scale, pixels = (1, "rgb24") if lossless else (scale, "yuv420p")
    codec: Literal["libx264rgb", "libx264"] = "libx264rgb" if lossless else "libx264"
    options = {"qp": "0", "preset": "fast"} if lossless else {"crf": "12", "preset": "veryfast"}
    rate = Fraction(frames_per_s).limit_denominator(1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1] * scale, frames.shape[2] * scale
        stream.pix_fmt = pixels
        stream.time_base = 1 / rate
        for frame in frames:
            small = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(small.reformat(stream.width, stream.height, pixels, interpolation="POINT")))
        container.mux(stream.encode())
