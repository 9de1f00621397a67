"""Draws a film strip from a film of a report: the policy above, its expert below, with seconds on top.

python tools/film_strip.py runs/procgen-bossfight/<run>/videos/level-<level>-agent-expert.mp4 docs/bossfight.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt

from bcvlr_fast.system.command import call

_PICTURES = 8


def main(film: Path, out: Path, begin: float, seconds: float) -> None:
    """Draws eight moments of `seconds` of the film, from `begin` on."""
    with av.open(str(film)) as container:
        rate = float(container.streams.video[0].average_rate or 1)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = np.linspace(begin * rate, min((begin + seconds) * rate, len(frames) - 1), _PICTURES).round().astype(int)
    figure, axes = plt.subplots(2, _PICTURES, figsize=(1.25 * _PICTURES, 2.7), layout="constrained")
    for column, moment in enumerate(shown):
        side = frames[moment].shape[0]
        for row, picture in enumerate((frames[moment][:, :side], frames[moment][:, -side:])):
            axes[row, column].imshow(picture)
            axes[row, column].set(xticks=[], yticks=[], frame_on=False)
        axes[0, column].set_title(f"{moment / rate:.1f} s", fontsize=9)
    for row, name in enumerate(("learned policy", "expert")):
        axes[row, 0].set_ylabel(name, fontsize=9)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--begin", type=float, default=0.0, metavar="S", help="seconds (default: 0)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="default: 3")
    a = parser.parse_args()
    sys.exit(call(lambda: main(a.film, a.out, a.begin, a.seconds)))
