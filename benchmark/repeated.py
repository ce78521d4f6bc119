"""Pendulum with every action lasting for three steps: as ddpg_pixels.py sees it, from the state.

    python ddpg_continuous.py --env-id benchmark.repeated:RepeatedPendulum-v0

For the study pixels-from-state, started in the repository's root.
"""

from typing import SupportsFloat

import gymnasium
import numpy as np

REPEATS = 3  # the default of ddpg_pixels.py's --action-repeat


class ActionRepeat(gymnasium.Wrapper):
    """Takes every action REPEATS times, or until the episode ends; its rewards are added up."""

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, object]]:
        total = 0.0
        for _ in range(REPEATS):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def make_pendulum(render_mode: str | None = None) -> gymnasium.Env:
    """Pendulum-v1 with its time limit of 200 steps, which are 67 decisions."""
    return ActionRepeat(gymnasium.make("Pendulum-v1", render_mode=render_mode))


gymnasium.register("RepeatedPendulum-v0", make_pendulum)
