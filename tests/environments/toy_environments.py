"""An environment that notes all that happens to it."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np

LOW = np.array([-0.3, 5.0], np.float32)
HIGH = np.array([1.7, 7.1], np.float32)
OBSERVATION_SIZE = 3
EVENTS = []  # of all Toys, in order


class Toy(gym.Env):
    """Random observations, in one array used again and again.

    Episodes take turns: 20 steps cut off by a time limit, 12 that terminate, every second time at a
    time limit, too. `spoilt` says what is to be `by`: an observation of "reset" or "step", or the
    "reward".
    """

    def __init__(self, actions=None, observations=None, spoilt=None, by=None, render_mode=None):
        any_observation = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64)
        self.action_space = actions or gym.spaces.Box(LOW, HIGH)
        self.observation_space = observations or any_observation
        self.spoilt = spoilt
        self.by = by
        self.episodes = 0
        self.observation = np.zeros(OBSERVATION_SIZE, self.observation_space.dtype)

    def observe(self, what, **happened):
        """A new observation, which is noted with what has happened."""
        self.observation[:] = self.np_random.normal(size=OBSERVATION_SIZE)
        if self.spoilt == what:
            self.observation[1] = self.by
        noted = self.observation.copy()
        EVENTS.append(SimpleNamespace(what=what, env=id(self), observation=noted, **happened))
        return self.observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        self.episodes += 1
        return self.observe("reset", seed=seed), {}

    def step(self, action):
        self.age += 1
        has_time_limit = self.episodes % 2 == 1
        terminated = not has_time_limit and self.age == 12
        truncated = has_time_limit and self.age == 20
        if terminated and self.episodes % 4 == 0:
            truncated = True
        reward = float(self.np_random.normal() + action.sum())
        if self.spoilt == "reward":
            reward = self.by
        observation = self.observe(
            "step", action=action, reward=reward, terminated=terminated, truncated=truncated
        )
        return observation, reward, terminated, truncated, {}

    def close(self):
        EVENTS.append(SimpleNamespace(what="close", env=id(self)))
