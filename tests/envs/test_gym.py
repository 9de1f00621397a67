"""Gymnasium environments, by id and by factory, as `PixelEnv`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bcvlr_fast.envs import PixelEnv, make, parse_name, spec
from bcvlr_fast.envs.scoring import play
from bcvlr_fast.envs.specs import Actions, EnvSpec
from bcvlr_fast.system.errors import UserError
from helpers import small_envs


@pytest.fixture(scope="module")
def colored() -> Iterator[PixelEnv]:
    env = make("gym:small/Colors-v0", num_envs=3, seed=4)
    yield env
    env.close()


def color(frame: np.ndarray) -> list[int]:
    """The color of a single-color frame: [10 * steps, green, the environment's own action]."""
    assert (frame == frame[:, :1, :1]).all()
    return [int(channel) for channel in frame[:, 0, 0]]


def test_specs_are_read_from_the_environments() -> None:
    drawn = EnvSpec((3, 64, 64), Actions(True, 2, (-2.0, 0.0), (2.0, 200.0)), 30.0, "return", 16)
    assert spec("gym:small/Colors-v0") == EnvSpec((3, 64, 64), Actions(False, 3, own_start=5), 12.0, "return", 16)
    assert spec("gym:helpers.small_envs:small/Dot-v0") == drawn
    assert spec("factory:helpers.small_envs:dot") == drawn
    assert (
        spec("factory:helpers.small_envs:planes")
        == spec("factory:helpers.small_envs:Colors")
        == spec("gym:small/Colors-v0")
    )


def test_frames_are_the_image_observations(colored: PixelEnv) -> None:
    frames = colored.reset()
    assert (frames.shape, frames.dtype) == ((3, 3, 64, 64), np.uint8)
    greens = [color(frame)[1] for frame in frames]
    assert len(set(greens)) == 3
    step = colored.step(np.array([0, 1, 2]))
    assert [color(frame) for frame in step.frames] == [[10, green, 5 + n] for n, green in enumerate(greens)]
    assert not step.ended.any()
    assert step.first_frames.shape == (0, 3, 64, 64)


def test_only_the_environments_asked_for_step(colored: PixelEnv) -> None:
    colored.reset()
    colored.step(np.array([0]), np.array([1]))
    step = colored.step(np.array([2, 0]), np.array([2, 1]))
    assert [color(frame)[::2] for frame in step.frames] == [[10, 7], [20, 5]]
    step = colored.step(np.array([1, 1, 1]))
    assert [color(frame)[0] for frame in step.frames] == [10, 30, 20]


def test_ended_episodes_are_scored_and_followed_by_others(colored: PixelEnv) -> None:
    first_frames_before = colored.reset()
    for _ in range(4):
        assert not colored.step(np.array([1, 2]), np.array([0, 2])).ended.any()
    colored.step(np.array([0]), np.array([1]))
    step = colored.step(np.array([1, 1, 2]))
    assert step.ended.tolist() == [True, False, True]
    assert [color(frame)[0] for frame in step.frames] == [50, 20, 50]
    assert [color(frame)[::2] for frame in step.first_frames] == [[0, 0], [0, 0]]
    assert color(step.first_frames[0]) != color(first_frames_before[0])  # its randomness continues
    assert colored.pop_episodes() == [(0, 5 * 6.0, 5), (2, 5 * 7.0, 5)]
    assert colored.pop_episodes() == []
    step = colored.step(np.array([0, 0, 0]))
    assert [color(frame)[0] for frame in step.next_frames()] == [10, 30, 10]


@pytest.mark.parametrize("actions", [np.array([0, 1, 3]), np.array([0, 1]), np.array([0.0, 1.0, 2.0])])
def test_bad_actions_are_refused_before_the_step(colored: PixelEnv, actions: np.ndarray) -> None:
    colored.reset()
    with pytest.raises(ValueError, match="actions: expected"):
        colored.step(actions)
    assert color(colored.step(np.array([0, 0, 0])).frames[0])[0] == 10


def test_evaluation_plays_gymnasium_environments(colored: PixelEnv) -> None:
    score = play(colored, lambda turn: np.zeros(len(turn.frames), int), episodes=4)
    assert (score.mean, score.episodes, score.mean_length_steps) == (25.0, 4, 5.0)


def test_drawn_frames_and_scaled_actions() -> None:
    """Actions from -1 to 1 are scaled to low..high, gray is repeated, and seeds reach the global random state."""
    ours, again = (make("gym:small/Dot-v0", num_envs, seed=3) for num_envs in (2, 1))
    frames = ours.reset()
    np.testing.assert_array_equal(frames[:1], again.reset())
    assert color(frames[0]) != color(frames[1])
    edges = []
    for action in (-1.0, 0.5, 1.0):
        actions = np.array([[action, action], [0.0, -action]], np.float32)
        step = ours.step(actions)
        edges.append(step.frames[:, :, [0, -1], 0])
        np.testing.assert_array_equal(step.next_frames()[:1], again.step(actions[:1]).next_frames())
    assert step.ended.all()
    gray = np.array(edges)[..., 0, :]  # [3 steps, 2 environments, top and bottom]
    assert gray.tolist() == [[[80, 0], [100, 200]], [[110, 150], [100, 50]], [[120, 200], [100, 0]]]
    assert (np.array(edges) == gray[..., None, :]).all()
    assert [episode.score for episode in ours.pop_episodes()] == [1.5, 1.5]
    ours.close()
    again.close()


@pytest.mark.parametrize(
    ("action", "message"),
    [(1, r"environment 1 failed in step[^$]*the 100% bug"), (2, "the process of environment 1 ended with code 9")],
)
def test_failures_name_the_environment(action: int, message: str) -> None:
    env = make("factory:helpers.small_envs:fragile", num_envs=2, seed=0)
    env.reset()
    with pytest.raises(RuntimeError, match=f"env: factory:helpers.small_envs:fragile: {message}"):
        env.step(np.array([0, action]))
    env.close()
    assert not any(process.is_alive() for process in env._vector.processes)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:CartPol-v1", "Did you mean: `CartPole`"),
        ("gym:CartPole", "did you mean 'CartPole-v"),
        ("gym:nowhere/Pong-v5", "package:id imports the package that registers it"),
        ("gym:no_such_package:Pong-v5", "No module named 'no_such_package', neither installed nor"),
        ("gym:a/b.py:Pong-v5", "expected the name of a module"),
        ("gym:small/NeedsPackage-v0", "Box2D is not installed, run `pip install box2d`"),
        ("gym:small/Silent-v0", r"found observations Box\(-1.0, 1.0, \(2,\), float32\) and no rgb_array"),
        ("factory:helpers.small_envs:Silent", "and a rendering None"),
        ("gym:small/TwoKnobs-v0", r"expected Discrete actions or a Box .* found MultiDiscrete\(\[2 2\]\)"),
        ("gym:small/Unbounded-v0", r"finite bounds, found Box\(-inf, inf, \(2,\), float32\)"),
        ("factory:helpers.small_envs", "expected factory:module:function"),
        ("factory:small_env:colors", "No module named 'small_env'"),
        ("factory:helpers.small_envs:colrs", r"small_envs has no such function \(did you mean 'colors'\?\)"),
        ("factory:helpers.small_envs:needs", "called without arguments: missing a required argument: 'steps'"),
        ("factory:helpers.small_envs:not_an_env", "expected the function to return a gymnasium.Env, found 'Colors'"),
    ],
)
def test_unusable_environments_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(name, num_envs=1, seed=0)
    assert str(caught.value).startswith("env: ")
    assert "\n" not in str(caught.value)


def test_names_of_both_suites_are_parsed() -> None:
    assert parse_name("gym:ale_py:ALE/Pong-v5") == ("gym", "ale_py:ALE/Pong-v5")
    assert parse_name("factory:my.envs:maze") == ("factory", "my.envs:maze")


def test_a_program_is_not_imported_by_its_environments(tmp_path: Path) -> None:
    """A program needs no __main__ guard, can register an id itself, and can import modules from its folder."""
    (tmp_path / "mine.py").write_text(Path(small_envs.__file__).read_text())
    program = tmp_path / "program.py"
    program.write_text(
        "print('begins')\n"
        "import gymnasium, mine\n"
        "from bcvlr_fast.envs import make\n"
        "gymnasium.register('Made/Up-v0', lambda: mine.Colors())\n"
        "for name in ('gym:Made/Up-v0', 'factory:mine:colors'):\n"
        "    env = make(name, 1, 0)\n"
        "    print(env.reset().shape)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["begins", "(1, 3, 64, 64)", "(1, 3, 64, 64)"]
