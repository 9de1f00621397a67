"""Reads mp4, mkv, webm and other formats of FFmpeg, through torchcodec if it is usable, else through PyAV."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

from bcvlr_fast.videos.readers.chunks import CHUNK_BYTES, CHUNK_FRAMES, Chunk, Part, Reader, Unreadable, check_side

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
_MAX_MISSING_S = 1.0


def read(part: Part) -> Reader:
    """Yields the frames of a video file with their times. Raises Unreadable if it is damaged."""
    decoded = _read_torchcodec(part) if torchcodec() else _read_av(part)
    empty = True
    for chunk in decoded:
        empty = False
        yield chunk
    if empty:
        raise Unreadable("expected frames, found none")


@functools.cache
def torchcodec() -> Any:
    """The module torchcodec.decoders, or None if it or the FFmpeg libraries that it needs are missing."""
    if importlib.util.find_spec("torchcodec") is None:
        return None
    try:
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError):
        return None
    return torchcodec.decoders


def _read_torchcodec(part: Part) -> Reader:
    try:
        decoder = torchcodec().VideoDecoder(str(part.path), dimension_order="NHWC", seek_mode="exact")
    except (RuntimeError, ValueError) as error:
        raise Unreadable(f"not a video ({_first_line(error)})") from None
    metadata = decoder.metadata
    check_side(metadata.height, metadata.width, "frames", part.limits)
    rows = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (metadata.height * metadata.width * 3)))
    for start in range(0, len(decoder), rows):
        try:
            batch = decoder.get_frames_in_range(start, min(start + rows, len(decoder)))
        except RuntimeError as error:
            raise Unreadable(f"damaged near frame {start} ({_first_line(error)})") from None
        yield Chunk(batch.data.numpy(), time_s=batch.pts_seconds.numpy().astype(np.float64))


def _read_av(part: Part) -> Reader:
    import av

    done = 0
    try:
        with av.open(str(part.path)) as container:
            if not container.streams.video:
                raise Unreadable("expected a video stream, found none")
            stream = container.streams.video[0]
            check_side(stream.codec_context.height, stream.codec_context.width, "frames", part.limits)
            stream.thread_type = "AUTO"
            period_s = 1 / float(stream.average_rate) if stream.average_rate else 1.0
            frames: list[np.ndarray] = []
            times: list[float] = []
            for frame in container.decode(stream):
                image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                if frames and (image.shape != frames[0].shape or len(frames) * image.nbytes >= CHUNK_BYTES):
                    yield Chunk(np.stack(frames), time_s=np.array(times))
                    frames, times = [], []
                check_side(image.shape[0], image.shape[1], "frames", part.limits)
                frames.append(image)
                times.append(frame.time if frame.time is not None else done * period_s)
                done += 1
            if frames:
                yield Chunk(np.stack(frames), time_s=np.array(times))
                _check_whole(container, times[-1])
    except av.FFmpegError as error:
        raise Unreadable(f"not a whole video ({error.strerror} after {done} frames)") from None


def _check_whole(container: Any, last_s: float) -> None:
    """Raises Unreadable if a file without sound ends well before the duration that it states.

    Decoders of some formats do not report a truncated file.
    """
    if len(container.streams) == 1 and container.duration:
        stated_s = container.duration / 1e6
        if last_s - (container.start_time or 0) / 1e6 < stated_s - max(_MAX_MISSING_S, 0.05 * stated_s):
            raise Unreadable(f"ends after {last_s:.1f} of {stated_s:.1f} s")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
