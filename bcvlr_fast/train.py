"""Learns a policy from expert videos and reward-free interaction.

python -m bcvlr_fast.train --env procgen:bossfight
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bcvlr_fast import config
from bcvlr_fast.command import call, parse
from bcvlr_fast.config import Config
from bcvlr_fast.envs import chosen_rendering, parse_name
from bcvlr_fast.errors import UserError
from bcvlr_fast.files import LOCK, check_writable

if TYPE_CHECKING:
    from bcvlr_fast.replay import Replay
    from bcvlr_fast.run import Run
    from bcvlr_fast.screen import Screen

_TFLOP = {("paper", False): 55_400.0, ("quick", False): 200.0, ("paper", True): 28_600.0, ("quick", True): 310.0}
"""What the measured residual blocks would do in the time of a run, by scale and by whether it sees stacked frames: at
scale `paper` what its updates take, at scale `quick` twice that or more, for much of it is not convolutions."""
_ONLINE_SHARE = {"paper": 0.23, "quick": 0.85}
"""Of that time; several tasks share the rest."""


@dataclass(frozen=True)
class Arguments(Config):
    """Learn a policy from expert videos alone: no actions, no rewards."""

    env_factory: str = ""
    """module:function that makes a gymnasium.Env: the same as --env factory:module:function."""
    out: Path | None = None
    """Run folder; default runs/<env>/<time>-s<seed>."""
    resume: str = "never"
    """never, auto (the run in --out, or the environment's newest unfinished one; starts anew where there is none),
    or a run folder."""
    config_file: Path | None = None
    """JSON of an earlier run's configuration; flags on top override it."""
    track: Literal["none", "tensorboard"] = "none"
    profile: str = ""
    """Updates FIRST:END of each stage to profile: for Nsight on a GPU, as a trace in the run folder on a CPU."""
    print_config: bool = False
    """Print the resolved configuration as JSON and stop."""
    dry_run: bool = False
    """Check everything that can be checked, say what would run, and stop."""


def main(argv: list[str]) -> None:
    """The command."""
    start = time.monotonic()
    arguments, folder, why = resolve(argv)
    profiled = _updates(arguments.profile)
    settings = Config(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Config)})
    if arguments.print_config:
        print(config.to_json(settings))
        return
    from bcvlr_fast import logger, training_videos
    from bcvlr_fast.envs import make, spec
    from bcvlr_fast.multitask import split_tasks, train_tasks
    from bcvlr_fast.pretrained import PretrainedEncoder
    from bcvlr_fast.screen import Screen

    screen = Screen()
    announce(settings, folder, why, screen)
    tasks = split_tasks(settings)
    for task in tasks:  # what is missing is said before anything is written
        make(task.env, 1, 0, rendering=task.rendering).close()
    if settings.encoder.pretrained:
        shape = spec(tasks[0].env).frame_shape
        PretrainedEncoder(
            settings.encoder, settings.frame_stack * shape[0], shape[1], load=not (folder / "ckpt").exists()
        )
    logger.check_tracker(arguments.track)
    videos = [training_videos.find(task, screen, arguments.dry_run) for task in tasks]
    if arguments.dry_run:
        screen.say("dry run: nothing was written")
    elif len(tasks) == 1:
        train(settings, folder, videos[0], screen, arguments.track, start, profiled)
    else:
        train_tasks(settings, tasks, videos, folder, screen, arguments.track, start)


def train(
    settings: Config,
    folder: Path,
    videos_path: Path,
    screen: Screen,
    track: str = "none",
    start: float | None = None,
    profiled: tuple[int, int] | None = None,
    resume_folder: Path | None = None,
) -> None:
    """The four phases, the closing evaluation and the report.

    `start` is when the clock began (time.monotonic); updates `profiled` (first, end) of each stage are profiled;
    `resume_folder` is what to go on with after a stop, if not `folder`.
    """
    start = time.monotonic() if start is None else start
    from bcvlr_fast import report, training_videos
    from bcvlr_fast.evaluate import EVALUATION_SEED, RESULT, evaluate
    from bcvlr_fast.labelled import labelled_replay
    from bcvlr_fast.likeness import size_complaints
    from bcvlr_fast.pretrain import pretrain
    from bcvlr_fast.run import Run
    from bcvlr_fast.videos import read_manifest

    videos = training_videos.use(settings, videos_path)
    labelled = labelled_replay(settings, screen) if settings.labels else None
    run = Run(folder, settings, screen, track, start, profiled, resume_folder)
    try:
        (folder / "videos.json").write_text(json.dumps({"path": str(videos_path.resolve())}))
        run.load_videos(videos)
        if run.before("features"):
            run.warn("videos", size_complaints(read_manifest(videos_path)))
        screen.say(
            f"videos: {len(videos.lengths)} episodes, {len(videos.frames):,} frames "
            f"({run.store.placement}), {videos_path}"
        )
        with run.signals():
            pretrain(run)
            if labelled is None:
                interact(run)
            else:
                decode_offline(run, labelled)
            run.finish_training()
            with run.spent.on("evaluation", settings.episodes):
                evaluation = evaluate(run.agent, settings, settings.episodes, EVALUATION_SEED, videos_path, screen)
            (folder / RESULT).write_text(evaluation.to_json())
            screen.table(evaluation.table())
            means = {name: score.mean for name, score in evaluation.scores.items()}
            run.log.write("done", run.updates, {"stage": "evaluation", **means})
            with run.spent.on("report", 1):
                report.write(folder, run.agent, settings, videos, run.held_out)
    finally:
        run.close()
    minutes = (time.monotonic() - run.start) / 60
    peaks = run.peaks()
    status = {"minutes": round(minutes, 2), **peaks, "spent": run.spent.parts}
    (folder / "status.json").write_text(json.dumps(status))
    screen.say(f"time: {run.spent.line()}")
    screen.say(f"report: {folder / 'report.html'}")
    memory = ", ".join(f"{name.removesuffix('_gb').replace('_', ' ')} {gb:.1f} GB" for name, gb in peaks.items())
    screen.say(f"done in {minutes:.1f} minutes, {memory}")


def interact(run: Run) -> None:
    """Phase 4: rounds of collecting, fine-tuning and cloning, until the interactions are used up."""
    if not run.before("online"):
        return
    from bcvlr_fast.evaluate import EVALUATION_SEED, make_seen
    from bcvlr_fast.online import Online
    from bcvlr_fast.rounds import finish_round

    # Procgen's environment n is seeded with the first seed + n: runs share no sequence of levels with each other or
    # with the evaluation, as long as seed * num_envs stays below the evaluation's seed. Other suites draw theirs from
    # the first.
    num_envs = run.config.online.num_envs
    with contextlib.closing(make_seen(run.config, num_envs, run.config.seed * num_envs % EVALUATION_SEED)) as env:
        online = Online(run.config, run.agent, env, run.sampler, run.generator)
        run.attach(online)
        while online.round < online.rounds:
            finish_round(run, online)


def decode_offline(run: Run, replay: Replay) -> None:
    """Phase 4 without an environment: the rounds of fine-tuning and cloning, on labelled transitions."""
    if not run.before("online"):
        return
    from bcvlr_fast.online import Decoding
    from bcvlr_fast.rounds import finish_round

    decoding = Decoding(run.config, run.agent, replay, run.sampler, run.generator)
    run.attach(decoding)
    while decoding.round < decoding.rounds:
        finish_round(run, decoding)


def resolve(argv: list[str]) -> tuple[Arguments, Path, str]:
    """(arguments with the preset filled in, run folder, why this preset) from the command line."""
    argv = _with_factory([_dashed(a) for a in argv])
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--env", "--preset", "--device", "--config-file", "--resume", "--out"):
        first.add_argument(flag)
    try:
        early, _ = first.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    folder = _resumed(early)
    kept = None if folder is None else config.load(folder / "config.json")
    base, why = _base(early, kept, helping=bool({"-h", "--help"} & set(argv)))
    default = Arguments(**{f.name: getattr(base, f.name) for f in dataclasses.fields(Config)})
    arguments = parse(Arguments, argv, default)
    videos = (
        Path(",".join(str(path.absolute()) for path in config.video_paths(arguments))) if arguments.videos else None
    )
    labels = arguments.labels.absolute() if arguments.labels else None
    weights = arguments.encoder.pretrained_weights
    if weights:
        encoder = dataclasses.replace(arguments.encoder, pretrained_weights=weights.absolute())
        arguments = dataclasses.replace(arguments, encoder=encoder)
    scale = base.preset if arguments.preset == "auto" else arguments.preset
    names = arguments.env.split(",")
    for name in names:
        parse_name(name)
    rendering = chosen_rendering(names[0], arguments.rendering)
    arguments = dataclasses.replace(arguments, preset=scale, videos=videos, labels=labels, rendering=rendering)
    config.validate(arguments)
    if folder is not None and kept is not None:
        _same_settings(dataclasses.replace(kept, rendering=chosen_rendering(names[0], kept.rendering)), arguments)
        if arguments.out not in (None, folder):
            raise UserError(f"out: a resumed run stays in its folder ({folder}), got {arguments.out}")
        why = f"resumed from {folder}"
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = (
            arguments.out
            or Path("runs") / arguments.env.replace(":", "-").replace(",", "+") / f"{stamp}-s{arguments.seed}"
        )
        if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {LOCK}):
            raise UserError(f"out: {folder} is not an empty folder (go on with it: --resume {folder})")
    check_writable(folder, "out")
    return arguments, folder, why


def _updates(text: str) -> tuple[int, int] | None:
    """(first, end) of FIRST:END; None of an empty text."""
    if not text:
        return None
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UserError(f"profile: expected updates FIRST:END such as 20:30, got '{text}'")
    return int(first), int(end)


def _dashed(argument: str) -> str:
    """--some_flag=value as --some-flag=value."""
    name, equals, value = argument.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def _with_factory(argv: list[str]) -> list[str]:
    """--env-factory module:function as --env factory:module:function."""
    found: list[str] = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name == "--env-factory":
            found += ["--env", f"factory:{value}"] if equals else [name]
        elif found and found[-1] == "--env-factory":
            found[-1:] = ["--env", f"factory:{argument}"]
        else:
            found.append(argument)
    return found


def _same_settings(kept: Config, asked: Config) -> None:
    """Raises UserError where a resumed run is asked to become another one."""
    for item in dataclasses.fields(Config):
        old, new = getattr(kept, item.name), getattr(asked, item.name)
        if old != new and item.name not in ("device", "episodes"):
            raise UserError(f"resume: {item.name}: a run goes on with its own settings ({old}), got {new}")


def _resumed(early: argparse.Namespace) -> Path | None:
    """The run folder to go on in, if that is asked for; with auto, None where there is none yet."""
    if early.resume in (None, "never"):
        return None
    if early.resume != "auto":
        folder = Path(early.resume)
        if not (folder / "config.json").is_file():
            raise UserError(f"resume: {folder}: expected a run folder with config.json")
        return folder
    if early.out is not None:
        return Path(early.out) if (Path(early.out) / "config.json").is_file() else None
    runs = sorted((Path("runs") / (early.env or Config.env).replace(":", "-").replace(",", "+")).glob("*/config.json"))
    unfinished = [file.parent for file in runs if not (file.parent / "status.json").exists()]
    return unfinished[-1] if unfinished else None


def _base(early: argparse.Namespace, kept: Config | None, helping: bool) -> tuple[Config, str]:
    """(the configuration that flags change, where it comes from): a file, the resumed run's, or a preset."""
    if kept is not None and not early.config_file:
        return kept, ""
    if helping:
        return Config(), ""
    scale, why = early.preset or "auto", "as asked"
    if scale == "auto":
        import torch

        wanted = early.device or "auto"
        cuda = torch.cuda.is_available() if wanted == "auto" else wanted.startswith("cuda")
        scale = "paper" if cuda else "quick"
        why = "a CUDA device is there" if cuda else "no CUDA device in use; --preset paper overrides"
    if early.config_file:
        file = Path(early.config_file)
        settings = config.load(file, scale)
        if early.preset not in (None, "auto", settings.preset):
            raise UserError(f"preset: {file} is of preset {settings.preset}, got {early.preset}")
        return settings, f"from {file}"
    env = early.env or Config.env
    for name in env.split(","):
        parse_name(name)
    return config.preset(env, scale), why


def announce(settings: Config, folder: Path, why: str, screen: Screen) -> None:
    """The first lines: what will run, where, and about how long it takes here."""
    from bcvlr_fast import kernels
    from bcvlr_fast.compute import choose_compute, choose_device, measured_tflops

    compute = choose_compute(choose_device(settings.device), settings.precision)
    tflops = measured_tflops(compute)
    others = settings.env.count(",")
    one = _TFLOP[settings.preset, settings.frame_stack > 1] / tflops / 60
    minutes = one * (1 + others * _ONLINE_SHARE[settings.preset])
    about = f"{minutes:.0f} minutes" if minutes < 180 else f"{minutes / 60:.0f} hours"
    precision = str(compute.dtype).removeprefix("torch.")
    screen.say(f"BCV-LR on {settings.env}, preset {settings.preset} ({why})")
    screen.say(f"{compute.device} in {precision}, {tflops:.2f} TFLOP/s measured: about {about}; run folder {folder}")
    screen.say(f"kernels: {kernels.describe(compute.device)}")


if __name__ == "__main__":
    sys.exit(call(lambda: main(sys.argv[1:])))
