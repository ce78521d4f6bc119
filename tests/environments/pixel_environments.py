"""Environments to be seen: a column that says where the right action is, a clock, odd pictures."""

import gymnasium as gym
import numpy as np


class Column(gym.Env):
    """A white column stands somewhere, and the best action points at it; two steps.

    The vector that it observes is noise: whoever learns has seen the picture.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(np.float32([-1]), np.float32([1]))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        self.place()
        return self.observation(), {}

    def place(self):
        self.column = self.np_random.integers(15)

    def step(self, action):
        reward = 1 - abs(action[0] - (self.column / 7 - 1))
        self.age += 1
        return self.observation(), float(reward), False, self.age == 2, {}

    def observation(self):
        return np.random.default_rng().standard_normal(2).astype(np.float32)

    def render(self):
        picture = np.zeros((15, 15, 3), np.uint8)
        picture[:, self.column] = 255
        return picture


class ColumnImage(Column):
    """The same, where the picture is the observation; it renders nothing."""

    metadata = {"render_modes": []}
    observation_space = gym.spaces.Box(0, 255, (15, 15, 3), np.uint8)

    def observation(self):
        return super().render()

    def render(self):
        raise AssertionError("nobody needs this")


class Clock(gym.Env):
    """Its picture is as bright as it is old: 10 for each step; the reward is the step's number.

    Episodes terminate after 7 steps and are cut off after 5, in turn. `taken`: all actions.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(np.float32([-1]), np.float32([1]))
    taken = []

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        self.episode += 1
        return np.float32([0]), {}

    def step(self, action):
        Clock.taken.append(float(action[0]))
        self.age += 1
        terminated = self.episode % 2 == 1 and self.age == 7
        truncated = self.episode % 2 == 0 and self.age == 5
        if terminated and self.episode % 4 == 3:
            truncated = True
        return np.float32([self.age]), float(self.age), terminated, truncated, {}

    def render(self):
        return np.full((20, 20, 3), 10 * self.age, np.uint8)


class Trace(Clock):
    """Its picture is as bright as what was done so far says."""

    def reset(self, *, seed=None, options=None):
        self.shade = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.shade = (3 * self.shade + round(100 * float(action[0]))) % 251
        return super().step(action)

    def render(self):
        return np.full((20, 20, 3), self.shade, np.uint8)


class Middle(Clock):
    """A white square, 10 by 10, in the middle of a black picture of 40 by 20."""

    def render(self):
        picture = np.zeros((40, 20, 3), np.uint8)
        picture[15:25, 5:15] = 255
        return picture


class Strange(Clock):
    """Renders something that is no picture."""

    def __init__(self, picture, render_mode=None):
        super().__init__(render_mode)
        self.picture = picture

    def render(self):
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture


class Huge(Clock):
    """Three of its rewards together are more than float32 holds."""

    def step(self, action):
        observation, _, *others = super().step(action)
        return observation, 3e38, *others


class Unseen(Clock):
    """Cannot be rendered."""

    metadata = {"render_modes": []}


gym.register("Column-v0", Column)
gym.register("ColumnImage-v0", ColumnImage)
gym.register("Clock-v0", Clock)
gym.register("Trace-v0", Trace)
gym.register("Middle-v0", Middle)
gym.register("Huge-v0", Huge)
gym.register("Unseen-v0", Unseen)
gym.register("Nothing-v0", Strange, kwargs={"picture": None})
gym.register("Floats-v0", Strange, kwargs={"picture": np.zeros((20, 20, 3))})
gym.register("Grey-v0", Strange, kwargs={"picture": np.zeros((20, 20), np.uint8)})
gym.register("Failing-v0", Strange, kwargs={"picture": RuntimeError("no GL")})
