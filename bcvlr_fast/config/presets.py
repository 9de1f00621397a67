"""Presets as tables: rows of settings by scale and environment, applied in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from bcvlr_fast.config.fields import flat
from bcvlr_fast.config.overlay import overlay
from bcvlr_fast.config.run import RunConfig
from bcvlr_fast.envs import spec
from bcvlr_fast.system.errors import UserError, did_you_mean

SCALES = ("paper", "quick")
R = TypeVar("R", bound=RunConfig)


@dataclass(frozen=True)
class Row:
    """Settings of the environments that it matches; a later row of a table replaces those of an earlier one."""

    scale: Literal["any", "paper", "quick"]
    actions: Literal["any", "discrete", "continuous"]
    tasks: str
    """Patterns of suite:task, separated by spaces: * matches everything."""
    values: Mapping[str, Any]
    """By dotted name."""
    reason: str
    """Why, or the source of the values."""

    @property
    def source(self) -> str:
        """What `--print-config` prints for its values."""
        scale = "every preset" if self.scale == "any" else f"preset {self.scale}"
        return f"{scale}{'' if self.tasks == '*' else f', {self.tasks}'}: {self.reason}"

    def matches(self, scale: str, actions: str, name: str) -> bool:
        """Whether the row is for environments `name` with `actions`, at `scale`."""
        return (
            self.scale in ("any", scale)
            and self.actions in ("any", actions)
            and any(fnmatchcase(name, pattern) for pattern in self.tasks.split())
        )


class Preset(NamedTuple, Generic[R]):
    """A configuration, and where each of its values that is not a default comes from, by dotted name."""

    config: R
    sources: dict[str, str]


def build(base: R, table: Sequence[Row], env: Sequence[str], scale: str) -> Preset[R]:
    """`base` for environments `env` at `scale`, from the rows of `table` that match.

    Several environments have the settings of the first one's suite, without exceptions by task. Raises UserError for an
    unknown scale or environment. An environment of Gymnasium is made once, to see whether its actions are continuous.
    """
    if scale not in SCALES:
        raise UserError(f"preset: expected one of {', '.join(SCALES)}, got '{scale}'{did_you_mean(scale, SCALES)}")
    name = env[0] if len(env) == 1 else env[0].partition(":")[0] + ":"
    actions = "continuous" if spec(env[0]).actions.continuous else "discrete"
    config: R = overlay(base, {"env": list(env), "preset": scale})
    sources: dict[str, str] = {}
    for row in table:
        if row.matches(scale, actions, name):
            config = overlay(config, row.values)
            sources |= dict.fromkeys(row.values, row.source)
    return Preset(config, differing(sources, config))


def differing(sources: Mapping[str, str], config: RunConfig) -> dict[str, str]:
    """The `sources` of those values of `config` that are not defaults."""
    values, defaults = flat(config), flat(type(config)())
    return {name: sources[name] for name in values if name in sources and values[name] != defaults[name]}
