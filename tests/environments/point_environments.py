"""A point on a line, as a user's own environment; some variants of it fail, or warn."""

import warnings

import gymnasium as gym
import numpy as np


class Point(gym.Env):
    """A point that is pushed along a line.

    From the step `fault_at` of all Points together, the reward or the observation is the given one;
    with `in_evaluation`, only in episodes that an evaluation has begun.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(np.float32([-1]), np.float32([3]))
    num_steps = 0  # of all of them together

    def __init__(
        self,
        length=10,
        fault_at=None,
        reward=None,
        observation=None,
        in_evaluation=False,
        render_mode=None,
    ):
        self.length = length
        self.fault_at = fault_at
        self.faulty_reward = reward
        self.faulty_observation = observation
        self.in_evaluation = in_evaluation
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1)
        self.age = 0
        self.drift = 0.0
        is_evaluation = seed is not None and 1_000_000 <= seed < 1_001_000
        self.may_fail = is_evaluation or not self.in_evaluation
        return np.float32([self.x, self.drift]), {}

    def step(self, action):
        Point.num_steps += 1
        self.age += 1
        self.drift += 0.01 * action[0]
        self.x += 0.1 * action[0] + self.drift
        x = self.x
        reward = 1 - abs(self.x) / 1000
        if self.fault_at is not None and Point.num_steps >= self.fault_at and self.may_fail:
            if self.faulty_reward is not None:
                reward = self.faulty_reward
            if self.faulty_observation is not None:
                x = self.faulty_observation
        return np.float32([x, self.drift]), reward, False, self.age == self.length, {}

    def render(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[20:40, 4 * self.age : 4 * self.age + 16] = (255, 160, 0)
        return frame


class WarningPoint(Point):
    """Warns, as users' own code and the libraries that it calls do."""

    def reset(self, *, seed=None, options=None):
        warnings.warn("the point is blunt", stacklevel=1)
        return super().reset(seed=seed, options=options)


class WarningDiscretePoint(Point):
    """Warns, and has actions that DDPG cannot take."""

    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        warnings.warn("the point is blunt", stacklevel=1)
        super().__init__(render_mode=render_mode)


gym.register("Point-v0", Point)
gym.register("Quick-v0", Point, reward_threshold=1.5, kwargs={"length": 2})
gym.register("Warning-v0", WarningPoint)
gym.register("WarningDiscrete-v0", WarningDiscretePoint)
FAULTS = {
    "NanReward": {"fault_at": 75, "reward": np.nan},
    "InfiniteReward": {"fault_at": 75, "reward": -np.inf},
    "OverflowingReward": {"fault_at": 75, "reward": 1e39},
    "HugeReward": {"fault_at": 125, "reward": 1e30},
    "NanObservation": {"fault_at": 75, "observation": np.nan},
    "NanInEvaluation": {"fault_at": 75, "reward": np.nan, "in_evaluation": True},
    "NanAtOnce": {"fault_at": 1, "reward": np.nan, "in_evaluation": True},
}
for name, fault in FAULTS.items():
    gym.register(f"{name}-v0", Point, kwargs=fault)
