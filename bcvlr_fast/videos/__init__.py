"""Expert videos: the datasets that training reads.

`python -m bcvlr_fast.videos` imports, inspects and exports them.
"""

from bcvlr_fast.videos.dataset import (
    FRAMES,
    MANIFEST,
    DatasetWriter,
    ExpertVideos,
    Manifest,
    open_videos,
    read_manifest,
)

__all__ = [
    "FRAMES",
    "MANIFEST",
    "DatasetWriter",
    "ExpertVideos",
    "Manifest",
    "open_videos",
    "read_manifest",
]
