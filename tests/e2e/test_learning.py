"""The package learns: from videos alone a policy beats random play, and every phase contributes."""

import json
from pathlib import Path

from bcvlr_fast.training.metrics_log import read_metrics
from helpers import gridworld
from helpers.commands import run

SMALL = f"""
--env {gridworld.ENV} --preset quick --optimizer adamw --precision fp32 --device cpu --films 0
--encoder.channels 8 --encoder.stride 4 --features.objective contrastive --features.updates 60
--features.batch-size 32 --features.projection-dim 32 --features.hidden-dim 64
--latent-actions.past-frames 0 --latent-actions.future-frames 1 --latent-actions.updates 250
--latent-actions.batch-size 32 --latent-actions.learning-rate 1e-3 --latent-actions.impala-channels 16 32
--latent-actions.hidden-dim 64 --latent-actions.codebooks 1 --latent-actions.positions 1
--latent-actions.world-model-width 8 --latent-actions.world-model-start zero
--policy.updates 150 --policy.batch-size 32 --policy.shift-pad 0 --policy.impala-channels 16 32 --policy.hidden-dim 64
--online.interactions 1600 --online.num-envs 8 --online.round-interactions 400 --online.exploration-steps 1
--online.finetune-updates 30 --online.finetune-batch-size 64 --online.finetune-shift-pad 0
--online.decoder-learning-rate 1e-2 --online.clone-updates 150 --online.clone-batch-size 64
--online.clone-learning-rate 1e-3 --online.predictor-learning-rate 2e-5
""".split()
"""At the paper's learning rate, and with its optimizer, p stays close to what phase 2 made of it, so d can only read
what z already holds."""


def test_a_policy_is_learned_from_videos_alone(tmp_path: Path) -> None:
    """Every bound is far from what these settings reach, and from what they reach with one phase left out."""
    gridworld.write_expert_videos(tmp_path / "videos", episodes=200)
    done = run("train", *SMALL, "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = read_metrics(tmp_path / "run")

    # Phase 2: w starts as a copy of the frame and learns to predict where a step leads.
    (health,) = [row for row in rows if row.get("stage") == "health"]
    assert health["prediction_error"] < 0.5 * health["copy_error"]

    # Phases 2 and 4: d reads the agent's actions from the latent actions, from the first round on.
    rounds = [row for row in rows if row.get("stage") == "round"]
    assert [row["interactions"] for row in rounds] == [400, 800, 1200, 1600]
    for row in rounds[1:]:
        assert row["accuracy_of_one_answer"] < 0.5 < 0.7 < row["decoder_accuracy"], row

    # All phases, and cloning.
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    assert scores["expert"]["mean"] == 1
    for policy in ("sampled", "greedy", "unstuck"):
        assert scores[policy]["low"] > scores["random"]["high"], scores
