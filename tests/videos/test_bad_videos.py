"""Damaged videos and files that are not videos are refused in one line."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from bcvlr_fast.system.errors import UserError
from bcvlr_fast.videos.importing import Options, import_videos
from bcvlr_fast.videos.mp4 import write_mp4
from helpers.sources import ACTIONS, FRAMES, QUIET

pytestmark = pytest.mark.usefixtures("shared_worker")

BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "float.npy": (lambda f: np.save(f, np.zeros((5, 8, 8, 3), np.float32)), "expected uint8"),
    "flat.npy": (lambda f: np.save(f, np.zeros((5, 8), np.uint8)), "expected uint8"),
    "object.npy": (lambda f: np.save(f, np.array([{}], object), allow_pickle=True), "got objects"),
    "short.npy": (lambda f: np.save(f, np.zeros((2, 8, 8, 3), np.uint8)), "frames: expected >= 3, got 2"),
    "atari.npy": (lambda f: np.save(f, np.random.default_rng(0).integers(0, 9, (5, 8, 8, 4), np.uint8)), "four chang"),
    "picture.npy": (lambda f: np.save(f, FRAMES[0]), "got one picture"),
    "large.npy": (lambda f: np.save(f, np.zeros((3, 5000, 8, 3), np.uint8)), "sides of 1 to 4096"),
    "text.npy": (lambda f: f.write_text("hello"), "not a numpy array"),
    "empty.npy": (lambda f: f.write_bytes(b""), "not a numpy array"),
    "cut.npy": (lambda f: (np.save(f, FRAMES), cut_off(f)), "its header promises"),
    "text.npz": (lambda f: f.write_text("hello"), "not a whole archive"),
    "cut.npz": (lambda f: (np.savez(f, obs=FRAMES), cut_off(f)), "not a whole archive"),
    "bomb.npz": (lambda f: np.savez_compressed(f, obs=np.zeros((999, 64, 64, 3), np.uint8)), "200 times its size"),
    "two.npz": (lambda f: np.savez(f, left=FRAMES, right=FRAMES), "found left, right (--key chooses)"),
    "none.npz": (lambda f: np.savez(f, ta=ACTIONS), "expected one array of frames, found none"),
    "promise.npz": (lambda f: promise_more(f), "its header promises"),
    "damaged.npz": (lambda f: (np.savez_compressed(f, obs=FRAMES), overwrite(f)), "not a whole archive"),
    "text.h5": (lambda f: f.write_text("hello"), "not a whole HDF5 file"),
    "linked.h5": (lambda f: linked(f), "links out of the file"),
    "text.mp4": (lambda f: f.write_text("hello"), "not a whole video"),
    "empty.mp4": (lambda f: f.write_bytes(b""), "not a whole video"),
    "cut.mp4": (lambda f: (write_mp4(f, FRAMES), cut_off(f)), "not a whole video"),
    "cut.mkv": (lambda f: (write_mp4(f, np.tile(FRAMES, (2, 1, 1, 1)), lossless=True), cut_off(f)), "ends after"),
    "sound.mp4": (lambda f: sound(f), "expected a video stream, found none"),
    "folder": (lambda f: f.mkdir(), "found no videos"),
    "deep": (lambda f: (f.mkdir(), Image.new("I;16", (9, 9)).save(f / "0.png")), "expected 8 bits a channel"),
    "images": (lambda f: (f.mkdir(), (f / "0.png").write_text("hello")), "0.png: not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_videos_are_one_line_errors_and_leave_nothing(tmp_path: Path, name: str) -> None:
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UserError) as error:
        import_videos(tmp_path / name, tmp_path / "data", Options(), QUIET)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[1000:1100] = bytes(100)
    file.write_bytes(data)


def promise_more(file: Path) -> None:
    """Writes an npz whose header promises more rows than follow."""
    with zipfile.ZipFile(file, "w") as archive, archive.open("obs.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(64 * 64 * 3 * 5))


def linked(file: Path) -> None:
    with h5py.File(file, "w") as h5:
        h5["obs"] = h5py.ExternalLink("/etc/passwd", "/")


def sound(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
