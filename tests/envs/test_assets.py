"""Models of rendering "fast" look different but move identically, and the cheetah can run backward."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pytest

if importlib.util.find_spec("envpool") is None:  # looked up, not imported: envs.pool loads system libraries first
    pytest.skip("no EnvPool", allow_module_level=True)

from bcvlr_fast.envs import SUITES, assets, dmc, metaworld, spec
from bcvlr_fast.envs.assets import Models, asset_folder, drawing_digest
from bcvlr_fast.envs.meshes import coarser
from bcvlr_fast.system.errors import UserError
from helpers.egl import needs_egl

MODELS = [dmc.MODELS, metaworld.MODELS]
ENVS = np.arange(2)


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("models", MODELS, ids=lambda models: models.suite)
def test_the_copy_is_complete_and_made_once(models: Models) -> None:
    stock, fast = (asset_folder(models, "any", rendering) / models.folder for rendering in ("stock", "fast"))
    missing, more = files(stock) - files(fast), files(fast) - files(stock)
    assert not missing
    assert {path.stem.partition("_")[2] for path in more} == ({"drawn"} if models.coarsen else set())
    with mock.patch.object(assets, "_make", side_effect=AssertionError):
        assert asset_folder(models, "other", "fast") / models.folder == fast
    assert sum(path.lstat().st_size for path in fast.rglob("*")) < 2_000_000


@pytest.mark.parametrize("models", MODELS, ids=lambda models: models.suite)
def test_every_model_is_drawn_as_the_setting_says(models: Models) -> None:
    expected = dict(models.settings["fast"].quality)
    folder = asset_folder(models, "any", "fast") / models.folder
    for file in folder.rglob("*.xml"):
        for quality in ElementTree.parse(file).iter("quality"):
            assert {name: int(quality.attrib[name]) for name in expected} == expected, file
    compiler = pytest.importorskip("mujoco")
    names = ("cheetah.xml", "stacker.xml") if models is dmc.MODELS else ("assets/sawyer_xyz/sawyer_drawer.xml",)
    for name in names:  # one model includes its quality settings, the other has its own
        model = compiler.MjModel.from_xml_path(str(folder / name))
        assert {name: getattr(model.vis.quality, name) for name in expected} == expected
        assert not model.mat_reflectance.any() or models.settings["fast"].reflections


def test_concurrent_copies_leave_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCVLR_FAST_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda task: asset_folder(dmc.MODELS, task, "fast"), "abcd"))
    assert folders == set((tmp_path / "assets").iterdir())  # nothing remains of the other copies


def test_recordings_have_names_without_the_rendering_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    here = drawing_digest(dmc.MODELS, "fast")
    monkeypatch.setattr("importlib.metadata.version", mock.Mock(side_effect=PackageNotFoundError))
    assert drawing_digest(dmc.MODELS, "fast") != here


def test_a_read_only_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "assets").write_text("a file")
    monkeypatch.setenv("BCVLR_FAST_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"env: cannot write a copy of EnvPool's models to .*assets"):
        asset_folder(dmc.MODELS, "cheetah_run", "fast")


def trajectory(suite: str, task: str, rendering: str, steps: int = 50) -> bytes:
    """States and rewards under random actions, with the models of a rendering."""
    module, simulate = {"dmc": dmc, "metaworld": metaworld}[suite], SUITES[suite].simulation
    assert simulate is not None
    with mock.patch.object(module, "asset_folder", lambda models, task, _: asset_folder(models, task, rendering)):
        simulation = simulate(task, [3, 4], None)
    rng = np.random.default_rng(0)
    arrays = [simulation.reset(ENVS)]
    for _ in range(steps):
        size = spec(f"{suite}:{task}").actions.size
        states, outcome = simulation.step(rng.uniform(-1, 1, (len(ENVS), size)), ENVS)
        arrays += [states, outcome.reward]
    simulation.close()
    return b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize(
    ("suite", "task"), [("dmc", "finger_spin"), ("dmc", "cheetah_run_backward"), ("metaworld", "drawer-open")]
)
def test_fast_models_move_bit_identically(suite: str, task: str) -> None:
    assert trajectory(suite, task, "stock") == trajectory(suite, task, "fast")


def test_metaworlds_fast_models_differ_only_in_appearance() -> None:
    compiler = pytest.importorskip("mujoco")
    models = [
        compiler.MjModel.from_xml_path(
            str(
                asset_folder(metaworld.MODELS, "any", rendering)
                / "mujoco/metaworld/assets/sawyer_xyz/sawyer_faucet.xml"
            )
        )
        for rendering in ("stock", "fast")
    ]
    stock, fast = models
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_M0", "dof_invweight0", "qpos0"):
        np.testing.assert_array_equal(getattr(stock, name), getattr(fast, name), name)
    colliding = [np.flatnonzero(model.geom_contype | model.geom_conaffinity) for model in models]
    for name in ("geom_type", "geom_contype", "geom_conaffinity", "geom_bodyid", "geom_size", "geom_pos", "geom_quat"):
        of_stock, of_fast = (getattr(model, name)[own] for model, own in zip(models, colliding, strict=True))
        np.testing.assert_array_equal(of_stock, of_fast, name)
    triangles = [
        sum(
            int(model.mesh_facenum[mesh])
            for mesh, rgba in zip(model.geom_dataid, model.geom_rgba, strict=True)
            if mesh >= 0 and rgba[3]
        )
        for model in models
    ]
    assert triangles[0] > 5 * triangles[1]


def test_backward_cheetah_is_dm_controls_cheetah_rewarded_for_running_backward() -> None:
    suite = pytest.importorskip("dm_control.suite")
    physics = suite.load("cheetah", "run").physics
    simulation = dmc.simulation("cheetah_run_backward", [3], None)
    pool, one = simulation._pool, np.arange(1)  # type: ignore[attr-defined]  # its observations are float64
    observation, _ = pool.reset(one)
    with physics.reset_context():
        physics.data.qpos[1:] = observation["position"][0]  # observations exclude the distance run
        physics.data.qvel[:] = observation["velocity"][0]
    rng = np.random.default_rng(0)
    total_reward = 0.0
    for _ in range(100):
        action = rng.uniform(-1, 1, (1, 6))
        observation, reward, *_ = pool.step(action, one)
        physics.set_control(action[0])
        physics.step()
        np.testing.assert_allclose(observation["position"][0], physics.data.qpos[1:], rtol=0, atol=1e-6)
        np.testing.assert_allclose(observation["velocity"][0], physics.data.qvel, rtol=0, atol=1e-6)
        assert reward[0] == pytest.approx(np.clip(-physics.speed() / 10, 0, 1), abs=1e-6)
        total_reward += reward[0]
    assert total_reward > 0.1
    simulation.close()


def test_coarser_keeps_flat_faces_and_edges_in_place() -> None:
    axis = np.linspace(0, 1, 21)
    x, y = np.meshgrid(axis[:-1], axis[:-1])
    corner = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    right, up = np.array([0.05, 0, 0]), np.array([0, 0.05, 0])
    square = np.concatenate(
        [
            np.stack([corner, corner + right, corner + right + up], axis=1),
            np.stack([corner, corner + right + up, corner + up], axis=1),
        ]
    )
    both = np.concatenate([square, square[:, ::-1, [0, 2, 1]]])  # a floor and a wall that meet at y = 0
    fewer = coarser(both, 0.2)
    assert 0 < len(fewer) < len(both) / 8
    assert np.minimum(np.abs(fewer[..., 1]), np.abs(fewer[..., 2])).max() < 0.02
    assert fewer.min() > -0.02
    assert fewer.max() > 0.85


LOOK = """
import numpy as np
from bcvlr_fast.envs.dmc import simulation
pictures = []
for rendering in ("stock", "fast"):
    envs = simulation("finger_spin", [5, 6], rendering)
    envs.reset(np.arange(2))
    pictures.append(envs.render(np.arange(2)).astype(int))
print("difference", np.abs(pictures[0] - pictures[1]).mean())
"""


@needs_egl
def test_fast_looks_like_stock() -> None:
    """Runs in a separate process, which EnvPool ends if rendering fails."""
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True)
    assert "difference" in done.stdout, done.stderr
    assert 0 < float(done.stdout.split()[-1]) < 1
