from __future__ import annotations

import numpy as np
import pytest
import torch

from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import rollout
from pathnas.decisions import Limits, State, step
from pathnas.envs import observation

LIMITS = Limits()


def test_every_allowed_action_is_equally_likely():
    at_op = step(step(step(State(), 1, LIMITS), 5, LIMITS), 2, LIMITS)
    assert at_op.agenda[0].kind == "op"
    seen = observation.Observed([State(), at_op], LIMITS)
    expected = np.zeros((2, 13), np.float32)
    expected[0, :4], expected[1, 6:] = 1 / 4, 1 / 7
    np.testing.assert_allclose(RandomController()(seen), expected, rtol=1e-6)


def test_choices_are_even():
    counts = np.zeros(13)
    for episode in rollout(RandomController(), LIMITS, 600, torch.Generator().manual_seed(0)):
        counts[episode.actions[0]] += 1
    assert counts[:4].sum() == 600
    assert np.abs(counts[:4] / 600 - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 600)


def test_an_empty_mask_is_an_error():
    seen = dict(observation.Observed([State()], LIMITS))
    seen["action_mask"][:] = 0
    with pytest.raises(ValueError, match="at least one action"):
        RandomController()(seen)
