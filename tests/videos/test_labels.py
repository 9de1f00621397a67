"""Converting the labels of videos to actions of an environment."""

import numpy as np
import pytest

from bcvlr_fast.envs.specs import Actions
from bcvlr_fast.videos.labels import NO_ACTION, as_actions

ENDS = np.array([2, 5])


def test_continuous_actions_are_scaled_to_unit_range() -> None:
    own = np.array([[-2, 0], [0, 100], [np.nan, np.nan], [2, 200], [1, 50], [np.nan, np.nan]], np.float32)
    converted = as_actions(own, ENDS, Actions(True, 2, (-2.0, 0.0), (2.0, 200.0)))
    assert converted is not None
    np.testing.assert_allclose(np.delete(converted, ENDS, axis=0), [[-1, -1], [0, 0], [1, 1], [0.5, -0.5]])
    unscaled = as_actions(own[:, :1] / 2, ENDS, Actions(True, 1))
    assert unscaled is not None
    np.testing.assert_array_equal(unscaled, own[:, :1] / 2)


def test_discrete_actions_are_counted_from_0() -> None:
    own = np.array([1, 5, NO_ACTION, 3, 1, NO_ACTION], np.uint8)
    converted = as_actions(own, ENDS, Actions(False, 5, own_start=1))
    assert converted is not None
    assert np.delete(converted, ENDS).tolist() == [0, 4, 2, 0]
    with pytest.raises(ValueError, match="actions: expected"):
        as_actions(own - 1, ENDS, Actions(False, 5, own_start=1))


@pytest.mark.parametrize(
    ("action", "actions"),
    [
        (np.zeros((6, 3), np.float32), Actions(True, 2)),
        (np.zeros((6, 2), np.float32), Actions(False, 15)),
        (np.zeros(6, np.uint8), Actions(True, 1)),
        (np.full(6, 15, np.uint8), Actions(False, 15)),
        (np.array([[0], [np.nan], [0], [0], [0], [0]], np.float32), Actions(True, 1)),
        (np.full((6, 1), 1.5, np.float32), Actions(True, 1)),
        (np.array([0, NO_ACTION, NO_ACTION, 0, 0, NO_ACTION], np.uint8), Actions(False, 15)),
    ],
)
def test_actions_of_another_kind_or_missing_ones_are_refused(action: np.ndarray, actions: Actions) -> None:
    with pytest.raises(ValueError, match="actions: expected"):
        as_actions(action, ENDS, actions)


def test_videos_without_actions_have_none() -> None:
    assert as_actions(np.full(6, NO_ACTION, np.uint8), ENDS, Actions(False, 15)) is None
    assert as_actions(np.full((6, 2), np.nan, np.float32), ENDS, Actions(True, 2)) is None
