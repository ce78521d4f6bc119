"""Environments that DDPG cannot take, and some that it can."""

import gymnasium as gym
import numpy as np


class Still(gym.Env):
    """Nothing happens, for ten steps."""

    def __init__(self, observation, action, render_mode=None):
        self.observation_space = observation
        self.action_space = action
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.age += 1
        return self.observation_space.sample(), 0.0, False, self.age == 10, {}


Box = gym.spaces.Box
SPACES = {
    "Still": (Box(-1, 1, (2,)), Box(-1, 1, (1,))),
    "Twin": (Box(-1, 1, (2,)), Box(-1, 1, (1,))),
    "TwoActions": (Box(-1, 1, (2,)), Box(-1, 1, (2,))),
    "Dict": (gym.spaces.Dict({"x": Box(-1, 1, (2,))}), Box(-1, 1, (1,))),
    "Unbounded": (Box(-1, 1, (2,)), Box(-np.inf, np.inf, (1,))),
    "HalfBounded": (Box(-1, 1, (2,)), Box(0, np.inf, (1,))),
    "Matrix": (Box(-1, 1, (2,)), Box(-1, 1, (2, 2))),
}
for name, (observation, action) in SPACES.items():
    gym.register(f"{name}-v0", Still, kwargs={"observation": observation, "action": action})
