"""MetaWorld's own scripted policies as experts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from bcvlr_fast.envs import parse_name
from bcvlr_fast.experts.acting import ActingExpert
from bcvlr_fast.system.errors import UserError


def bundled(env: str) -> ActingExpert:
    """The scripted expert of a MetaWorld task. Raises UserError if the package metaworld is missing."""
    return ActingExpert(env, "scripted", ScriptedPolicy(parse_name(env)[1]))


class ScriptedPolicy:
    """Acts as MetaWorld's scripted policy of a task."""

    def __init__(self, task: str) -> None:
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ModuleNotFoundError as error:
            raise UserError(f"env: metaworld's experts need the package '{error.name}' (extra [metaworld])") from None
        policy: Any = ENV_POLICY_MAP[f"{task}-v3"]
        self._policy = policy()

    def __call__(self, states: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():  # it warns that it clips its actions, as it is meant to
            warnings.simplefilter("ignore")
            actions = [self._policy.get_action(state) for state in states.astype(np.float64)]
        return np.clip(actions, -1, 1).astype(np.float32)
