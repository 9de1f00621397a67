"""Diagnostics, scores, films and plots."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bcvlr_fast.envs import make, spec
from bcvlr_fast.envs.scoring import Score
from bcvlr_fast.evaluation import health, plots
from bcvlr_fast.evaluation.evaluation import Evaluation
from bcvlr_fast.evaluation.films import side_by_side
from bcvlr_fast.evaluation.health import HeldOut, LatentReport
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.presets import preset
from bcvlr_fast.runs.expert_videos import open_run_videos
from bcvlr_fast.system.screen import Screen
from bcvlr_fast.training.compute import Compute
from bcvlr_fast.videos.mp4 import write_mp4

FP32 = Compute(torch.device("cpu"), torch.float32)


def report(codes_used: int = 61, **change: float | None) -> LatentReport:
    use = np.zeros((2, 64))
    use[:, :codes_used] = 1 / codes_used
    figures = {
        "prediction_error": 0.5,
        "copy_error": 1.0,
        "spread": 0.3,
        "probe": 0.5,
        "probe_chance": 0.1,
        **change,
    }
    return LatentReport(code_use=use, **figures)  # type: ignore[arg-type]


def test_a_healthy_phase_has_no_warnings() -> None:
    assert report().warnings() == []
    assert report(probe=None).warnings() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_error": 1.0}, "no better than a copy"),
        ({"spread": 0.0}, "the same latent action"),
        ({"codes_used": 1}, "collapsed (perplexity 1.0)"),
        ({"codes_used": 4}, "120 of 128 codes"),
        ({"probe": 0.09}, "do not separate true actions"),
    ],
)
def test_each_fault_gives_one_warning(change: dict, message: str) -> None:
    (line,) = report(**change).warnings()
    assert message in line


def test_probe_weights_rare_actions_like_common_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(4096, generator=generator) < 0.05).long()
    z = torch.randn(4096, 8, generator=generator)
    without_signal, chance = health.probe_recall(z, truth)
    assert chance == 0.5
    assert abs(without_signal - 0.5) < 0.12
    z[:, 3] += 4 * truth
    with_signal, _ = health.probe_recall(z, truth)
    assert with_signal > 0.9


def held_out_windows(dataset: Path, settings: Config) -> HeldOut | None:
    videos = open_run_videos(settings, dataset)
    return videos.held_out_windows(settings.first_env, settings.window, FP32, 0.0, Screen(quiet=True))


def test_reports_on_held_out_videos(dataset: Path) -> None:
    settings = preset("procgen:bossfight", "quick")
    agent = Agent(settings, spec("procgen:bossfight"), FP32)
    held_out = held_out_windows(dataset, settings)
    assert held_out is not None
    truth = held_out.true_actions()
    assert truth is not None
    windows = 30 - settings.latent_actions.future_frames
    assert len(truth) == windows
    latent = health.latent_report(agent, held_out)
    assert latent.codes == 128
    assert latent.copy_error > 0
    actions = health.action_report(agent.acting_policy(), held_out, agent)
    assert actions is not None
    assert np.sum(actions.confusion) == windows
    assert latent.code_use.sum() == pytest.approx(2)
    assert 1 <= latent.perplexity <= 64
    (dataset / "evaluation_only.npz").unlink()
    unlabeled = held_out_windows(dataset, settings)
    assert unlabeled is not None
    assert unlabeled.true_actions() is None
    assert health.latent_report(agent, unlabeled).probe is None
    assert health.action_report(agent.acting_policy(), unlabeled, agent) is None


def test_score_interval_covers_the_mean() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        score = Score.of(rng.normal(3, 1, 50))
        hits += score.low <= 3 <= score.high
    assert 88 <= hits <= 100


def test_video_norm_is_agent_over_expert() -> None:
    scores = {
        name: Score.of(np.full(5, value)) for name, value in (("sampled", 3.0), ("greedy", 6.0), ("expert", 12.0))
    }
    evaluation = Evaluation("procgen:bossfight", 0, scores)
    assert (evaluation.video_norm("sampled"), evaluation.video_norm("greedy")) == (0.25, 0.5)
    assert Evaluation("x", 0, {"sampled": scores["sampled"]}).video_norm("sampled") is None


def test_films_are_visually_lossless(tmp_path: Path) -> None:
    import av

    env = make("procgen:starpilot", num_envs=6, seed=0)
    left = env.reset()
    film = side_by_side(left, left[:3])
    assert film.shape == (6, 64, 132, 3)
    np.testing.assert_array_equal(film[5, :, 68:], left[2].transpose(1, 2, 0) // 3)
    write_mp4(tmp_path / "film.mp4", film)
    with av.open(str(tmp_path / "film.mp4")) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == (6, 256, 528, 3)
    small = decoded.reshape(6, 64, 4, 132, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - film).mean() < 2


def test_plots_are_svg() -> None:
    rows = [
        {"phase": "features", "step": 50, "time_s": 1, "stage": "features", "loss": 1.0},
        {"phase": "online", "step": 240, "time_s": 2, "stage": "round", "interactions": 240, "return": 1.0},
    ]
    evaluation = {"score": "return", "scores": {"sampled": {"mean": 1.0}, "expert": {"mean": 3.0}}}
    pictures = [
        plots.learning_curve(rows, evaluation),
        plots.losses(rows),
        plots.confusion([[3, 1], [0, 2]]),
        plots.code_use(np.full((2, 8), 1 / 8)),
    ]
    assert all(p.startswith("<svg") for p in pictures)
    assert "No updates" in plots.losses([])


def test_videos_of_another_size_or_environment_cause_warnings() -> None:
    from bcvlr_fast.evaluation.likeness import color_warnings, size_warnings
    from bcvlr_fast.videos import Manifest

    def sizes(*old_sizes: list[int]) -> list[str]:
        return size_warnings(Manifest("", "test", [9], [3, 64, 64], source_sizes=list(old_sizes)))

    assert sizes([64, 64], [1080, 1080]) == []
    assert "1080 x 1920 were squeezed" in sizes([1080, 1920])[0]
    assert "20 x 20 were enlarged" in sizes([20, 20])[0]
    rng = np.random.default_rng(0)

    def frames(game: str, level: int) -> np.ndarray:
        env = make(f"procgen:{game}", 32, seed=level)
        batches = [env.reset()] + [env.step(rng.integers(15, size=32)).next_frames() for _ in range(20)]
        return np.concatenate(batches[::5])

    assert color_warnings(frames("maze", 1), frames("maze", 50)) == []
    assert "of the videos' colors" in color_warnings(frames("maze", 1), frames("bigfish", 50))[0]
