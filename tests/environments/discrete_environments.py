"""Environments for DQN: actions that do not start at 0, two kinds of ends, one it cannot take."""

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv


class Counting(gym.Env):
    """The reward is the action itself; ten steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    taken = []

    def __init__(self, action, render_mode=None):
        self.action_space = action
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def step(self, action):
        assert self.action_space.contains(action), action
        Counting.taken.append(int(action))
        self.age += 1
        return self.observe(), float(action), False, self.age == 10, {}


class Ending(gym.Env):
    """Episodes of 7 steps cut off by a time limit and of 5 that terminate take turns.

    Every second of these ends at a time limit, too. The rewards of an episode are 1, 2, 3, …
    """

    observation_space = gym.spaces.Box(-100, 100, (2,))
    action_space = gym.spaces.Discrete(2)
    taken = []

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        self.episode += 1
        return np.float32([0, self.episode]), {}

    def step(self, action):
        Ending.taken.append(int(action))
        self.age += 1
        terminated = self.episode % 2 == 0 and self.age == 5
        truncated = self.age == 7
        if terminated and self.episode % 4 == 0:
            truncated = True
        observation = np.float32([self.age, self.episode])
        return observation, float(self.age), terminated, truncated, {}


class ThreeActions(CartPoleEnv):
    """CartPole's observations, and an action more."""

    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = gym.spaces.Discrete(3)


gym.register("Ending-v0", Ending)
gym.register("From5-v0", Counting, kwargs={"action": gym.spaces.Discrete(3, start=5)})
gym.register("Four-v0", Counting, kwargs={"action": gym.spaces.Discrete(4)})
gym.register("Multi-v0", Counting, kwargs={"action": gym.spaces.MultiDiscrete([2, 3])})
gym.register("ThreeActions-v0", ThreeActions)
