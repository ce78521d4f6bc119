"""benchmark/repeated.py: the pendulum whose actions last for three steps."""

import gymnasium
import numpy as np
import pytest
import repeated


def test_an_action_lasts_for_three_steps_and_earns_their_rewards_until_the_time_limit():
    decided, plain = repeated.make_pendulum(), gymnasium.make("Pendulum-v1")
    decided.reset(seed=3)
    plain.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-2, 2, (67, 1)).astype(np.float32)
    for number, action in enumerate(actions, start=1):
        steps = [plain.step(action) for _ in range(3 if number < 67 else 2)]  # 200 in all
        observation, reward, terminated, truncated, _ = decided.step(action)
        assert np.array_equal(observation, steps[-1][0])
        assert reward == pytest.approx(sum(step[1] for step in steps))
        assert (terminated, truncated) == (False, number == 67)
