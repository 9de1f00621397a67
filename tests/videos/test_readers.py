"""Every format is read, with its episodes and its labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bcvlr_fast.videos import labels as evaluation_labels
from bcvlr_fast.videos import open_videos
from bcvlr_fast.videos.labels import NO_ACTION, NO_LEVEL
from bcvlr_fast.videos.readers import lerobot
from bcvlr_fast.videos.readers.chunks import Part, Unreadable
from helpers.commands import invoke, refusal
from helpers.sources import (
    ACTIONS,
    FRAMES,
    LENGTHS,
    LOSSLESS,
    REWARDS,
    SIDE,
    imported,
    write_aloha,
    write_lapo,
    write_lerobot,
    write_minari,
    write_npy,
)

pytestmark = pytest.mark.usefixtures("shared_worker")


@pytest.mark.parametrize("write", LOSSLESS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_every_format_gives_back_frames_and_episodes(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "source")
    videos, manifest = imported(tmp_path / "source", tmp_path / "data", fps=15.0)
    assert videos.lengths.tolist() == LENGTHS
    np.testing.assert_array_equal(np.asarray(videos.frames).transpose(0, 2, 3, 1), FRAMES)
    assert manifest.source_sizes == [[SIDE, SIDE]]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["frames.npy", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "source"]


LABELED = [write_lapo, write_minari, write_aloha, write_lerobot]


@pytest.mark.parametrize("write", LABELED, ids=["npz", "minari", "aloha", "lerobot"])
def test_labels_are_imported_only_on_request_and_stored_apart(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "source")
    done = invoke("videos", "import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels")
    assert done.returncode == 0, done.stderr
    labels = evaluation_labels.load_labels(tmp_path / "data")
    assert labels is not None
    ends = np.cumsum(LENGTHS) - 1
    acted = np.delete(np.arange(len(FRAMES)), ends)
    if write is write_lerobot:
        np.testing.assert_array_equal(labels.action[acted, 0], ACTIONS[acted])
    else:
        np.testing.assert_array_equal(labels.action[acted], ACTIONS[acted])
        assert (labels.action[ends] == NO_ACTION).all()
    assert (labels.level == NO_LEVEL).all()
    if write is write_aloha:  # it has no rewards
        assert np.isnan(labels.episode_return).all()
    else:
        last = 0 if write is write_minari else 1  # it has no reward after the last observation
        expected = [REWARDS[e - n + 1 : e + last].sum() for e, n in zip(ends, LENGTHS, strict=True)]
        np.testing.assert_allclose(labels.episode_return, expected, rtol=1e-5)


@pytest.mark.parametrize("fps", ["5", "7.5"])
def test_rewards_of_skipped_frames_are_added_up(tmp_path: Path, fps: str) -> None:
    write_lerobot(tmp_path / "source")
    arguments = ["import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels", "--fps", fps]
    done = invoke("videos", *arguments)
    assert done.returncode == 0, done.stderr
    every = round(15 / float(fps))
    assert open_videos(tmp_path / "data", (3, SIDE, SIDE)).lengths.tolist() == [-(-n // every) for n in LENGTHS]
    labels = evaluation_labels.load_labels(tmp_path / "data")
    assert labels is not None
    expected = [part.sum() for part in np.split(REWARDS, np.cumsum(LENGTHS)[:-1])]
    np.testing.assert_allclose(labels.episode_return, expected, rtol=1e-5)


def test_labels_of_lerobot_are_matched_by_frame(tmp_path: Path) -> None:
    """The film lacks the last frame of the first episode, which the data has."""
    write_lerobot(tmp_path / "source")
    table = next((tmp_path / "source").glob("meta/episodes/*/*.parquet"))
    column = "videos/observation.images.top/to_timestamp"
    episodes = pyarrow.parquet.read_table(table).to_pydict()
    episodes[column][0] -= 1 / 15
    pyarrow.parquet.write_table(pyarrow.table(episodes), table)
    part = lerobot.parts(Part(tmp_path / "source", "lerobot", wants_labels=True))[0]
    actions = np.concatenate([chunk.labels["action"][:, 0] for chunk in lerobot.read(part)])
    np.testing.assert_array_equal(actions, np.delete(ACTIONS, LENGTHS[0] - 1))
    data = next((tmp_path / "source").glob("data/*/*.parquet"))
    whole = pyarrow.parquet.read_table(data)
    for rows, message in ((whole.slice(1), "episode 0 lacks rows"), (whole.slice(0, 60), "fewer rows than the film")):
        pyarrow.parquet.write_table(rows, data)
        with pytest.raises(Unreadable, match=message):
            list(lerobot.read(part))


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    write_npy(tmp_path / "source")
    done = invoke("videos", "import", str(tmp_path / "source"), "--out", str(tmp_path / "data"), "--keep-labels")
    assert "expected actions or rewards in every file, found none" in refusal(done)
    assert not (tmp_path / "data").exists()
