"""Phases 1 to 3, from the videos alone."""

from __future__ import annotations

from bcvlr_fast.evaluation import health
from bcvlr_fast.methods.bcvlr.cloning import Cloning
from bcvlr_fast.methods.bcvlr.features import Features
from bcvlr_fast.methods.bcvlr.latent_actions import LatentActions
from bcvlr_fast.runs.run import Run

_SMALLEST_EXPLAINED = 0.0


def pretrain(run: Run) -> None:
    """Features, latent actions, pre-imitation; phases that a resumed run has behind it are skipped."""
    config, agent = run.config, run.agent
    if run.before("features"):
        if config.features.objective != "none":
            run.finish_stage(Features(config.features, agent.encoder, run.sampler, run.compute), "1/4 features")
        run.enter("latent_actions")
    agent.encoder.requires_grad_(False)
    if run.before("latent_actions"):
        run.finish_stage(
            LatentActions(
                config.latent_actions,
                agent.encoder,
                agent.predictor,
                agent.codebook,
                agent.world_model,
                run.sampler,
                run.compute,
            ),
            "2/4 latent actions",
        )
        check_latent_actions(run)
        run.enter("pre_imitation")
    if run.before("pre_imitation"):
        figures = run.finish_stage(_pre_imitation(run), "3/4 pre-imitation")
        if figures.get("explained", 1.0) <= _SMALLEST_EXPLAINED:
            run.warn("pre_imitation", ["the policy explains none of the latent actions' variance"])
        run.enter("online")


def check_latent_actions(run: Run) -> None:
    """Logs the held-out figures of p, codebook and w, and complains where they look broken."""
    if run.held_out is None:
        return
    report = health.latent_report(run.agent, run.held_out)
    run.log.write(run.cursor.phase, run.updates, {"stage": "health", **report.figures()})
    probe = "" if report.probe is None else f", {report.describe_probe()}"
    run.screen.say(
        f"  held out: world model error {report.error_of_copy:.2f} of copying, "
        f"perplexity {report.perplexity:.1f}, {report.dead_codes} of {report.codes} codes unused{probe}"
    )
    run.warn(run.cursor.phase, report.complaints())


def _pre_imitation(run: Run) -> Cloning:
    policy = run.config.policy
    agent = run.agent
    optimizer = run.compute.optimizer(agent.policy.parameters(), policy.learning_rate, policy.weight_decay)
    return Cloning(
        policy.updates,
        policy.batch_size,
        policy,
        optimizer,
        agent.encoder,
        agent.predictor,
        agent.policy,
        run.sampler,
        run.compute,
    )
