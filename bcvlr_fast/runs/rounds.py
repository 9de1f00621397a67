"""One round of phase 4 in a run: collect, fine-tune, clone, each resumable."""

from __future__ import annotations

import time

import numpy as np
import torch

from bcvlr_fast.evaluation.likeness import colour_complaints
from bcvlr_fast.methods.bcvlr.finetuning import agent_agreement, decoder_agreement
from bcvlr_fast.methods.bcvlr.online import Decoding, Online
from bcvlr_fast.runs.run import Run

_CHECKED_TRANSITIONS = 1024
_JUDGED_ROUND = 3
_COMPARED_FRAMES = 2048


def finish_round(run: Run, online: Decoding) -> None:
    """Brings the round that `run.cursor` is in to its end; offline there is nothing to collect."""
    cursor = run.cursor
    title = f"4/4 {'online' if isinstance(online, Online) else 'offline'} {online.round + 1}/{online.rounds}"
    if cursor.part == "collect" and isinstance(online, Online):
        while online.collector.interactions < online.round_end:
            before, start = online.collector.interactions, time.perf_counter()
            online.collect_step()
            run.spent.add("collecting", online.collector.interactions - before, time.perf_counter() - start)
            run.yield_to_signals()
        if online.round == 0:
            compare_looks(run, online)
        log_round(run, online)
    if cursor.part == "collect":
        cursor.part, cursor.done = "finetune", 0
    if cursor.part == "finetune":
        if online.begin_finetuning():
            run.finish_stage(online.finetuning, f"{title} fine-tune")
        cursor.part, cursor.done = "clone", 0
    if cursor.part == "clone":
        online.begin_cloning()
        run.finish_stage(online.cloning, f"{title} clone")
    online.round += 1
    cursor.round, cursor.part, cursor.done = online.round, "collect", 0


def compare_looks(run: Run, online: Online) -> None:
    """Complains where the first round's frames have other colours than the videos."""
    rng = np.random.default_rng(run.config.seed)
    own = np.flatnonzero(online.replay.acted)
    samples = []
    for frames, rows in ((run.store.frames, np.arange(len(run.store.frames))), (online.replay.store.frames, own)):
        chosen = np.sort(rng.choice(rows, min(_COMPARED_FRAMES, len(rows)), replace=False))
        samples.append(frames[torch.from_numpy(chosen).to(frames.device)].cpu().numpy())
    run.warn("online", colour_complaints(*samples))


def log_round(run: Run, online: Online) -> None:
    """Training returns of the episodes that ended in this round, and d's accuracy before it learns from them."""
    episodes = online.env.pop_episodes()
    figures: dict[str, float] = {"episodes": len(episodes)}
    if episodes:
        figures[online.env.spec.score] = float(np.mean([e.score for e in episodes]))
        figures["length_steps"] = float(np.mean([e.length_steps for e in episodes]))
    newest = online.newest_windows(run.health_generator())
    if newest is not None and online.round > 0:
        agrees, same = decoder_agreement(run.agent, newest, _CHECKED_TRANSITIONS)
        name = agent_agreement(run.agent)
        figures |= {f"decoder_{name}": agrees, f"{name}_of_one_answer": same}
        if agrees <= same and online.round in (_JUDGED_ROUND, online.rounds - 1):
            what = name.replace("_", " ")
            line = f"decoded actions have a {what} of {agrees:.0%} on own transitions; one answer to all has {same:.0%}"
            run.warn("online", [line])
    interactions = online.collector.interactions
    run.log.write("online", interactions, {"stage": "round", "interactions": interactions, **figures})
    shown = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
    run.screen.say(f"  {interactions:,} interactions: {shown}")
