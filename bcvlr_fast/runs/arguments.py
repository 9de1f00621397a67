"""From the command line to the settings of a run and its folder."""

from __future__ import annotations

import argparse
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bcvlr_fast import config
from bcvlr_fast.config import Config
from bcvlr_fast.envs import chosen_rendering, parse_name
from bcvlr_fast.system.command import parse
from bcvlr_fast.system.errors import UserError
from bcvlr_fast.system.files import LOCK, check_writable

if TYPE_CHECKING:
    from bcvlr_fast.system.screen import Screen


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
    from bcvlr_fast.training.compute import choose_compute, choose_device, measured_tflops

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
