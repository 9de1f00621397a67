"""Gymnasium: any of its environments by id (gym), or the result of a user's function (factory)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bcvlr_fast.envs.interface import PixelEnv
from bcvlr_fast.envs.specs import EnvSpec
from bcvlr_fast.envs.suite import EnvOptions, MakeEnv, Suite
from bcvlr_fast.system.errors import UserError


def _spec_in(suite: str) -> Callable[[str], EnvSpec]:
    def spec(task: str) -> EnvSpec:
        with _needs_gymnasium():
            from bcvlr_fast.envs.gym_probe import probe

        return probe(suite, task).spec

    return spec


def _make_in(suite: str) -> MakeEnv:
    def make(task: str, num_envs: int, seed: int, _: EnvOptions) -> PixelEnv:
        with _needs_gymnasium():
            from bcvlr_fast.envs.gym_env import GymEnv

        return GymEnv(suite, task, num_envs, seed)

    return make


@contextlib.contextmanager
def _needs_gymnasium() -> Iterator[None]:
    """Raises UserError if an import within it finds Gymnasium, or a package that it needs, missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"env: gym and factory need the package '{error.name}' (pip install gymnasium)") from None


def _check_factory(task: str) -> None:
    if not all(task.partition(":")):
        raise UserError(f"env: expected factory:module:function, got 'factory:{task}'")


GYM = Suite("gym", spec=_spec_in("gym"), make=_make_in("gym"))
FACTORY = Suite("factory", spec=_spec_in("factory"), make=_make_in("factory"), check=_check_factory)
