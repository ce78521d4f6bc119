"""Small environments, each with one habit that people's own environments have.

Their ids are odd_environments:NAME-v0. What becomes of each: test_odd_environments.py.
"""

import os
import random
import subprocess
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

THREE_NUMBERS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ONE_ACTION = spaces.Box(-1, 1, (1,), np.float32)


class Base(gym.Env):
    """Ten steps, then the time limit (its own); observation (3,), action (1,)."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = THREE_NUMBERS
    action_space = ONE_ACTION
    limit = 10

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def obs(self):
        return self.np_random.standard_normal(3).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action):
        self.t += 1
        return self.obs(), float(-abs(np.sum(action))), False, self.t >= self.limit, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)


def register(cls, id=None, **kwargs):
    gym.register(f"{id or cls.__name__}-v0", cls, **kwargs)
    return cls


register(Base)


@register
class Endless(Base):  # a continuing task: never terminates, registered without max_episode_steps
    limit = np.inf


@register
class NoRenderArgument(Base):  # a constructor that takes nothing
    def __init__(self):
        pass


@register
class OldReset(Base):  # gym < 0.26: reset() without seed, one value
    def reset(self):
        self.t = 0
        return np.zeros(3, np.float32)


@register
class OldStep(Base):  # gym < 0.26: four values
    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, truncated, info


@register
class ResetNoInfo(Base):  # new signature, returns the observation alone
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


@register
class ResetPairNoInfo(Base):  # the same, and the observation has two numbers
    observation_space = spaces.Box(-9, 9, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32)


gym.register("OldStepUnchecked-v0", OldStep, disable_env_checker=True)


@register
class LegacyRandom(Base):  # np_random is a RandomState
    def reset(self, *, seed=None, options=None):
        if seed is not None or self._np_random is None:
            self.np_random = np.random.RandomState(seed)
        self.t = 0
        return self.obs(), {}


@register
class Twister(Base):  # a Generator, but not on PCG64
    def reset(self, *, seed=None, options=None):
        if seed is not None or self._np_random is None:
            self.np_random = np.random.Generator(np.random.MT19937(seed))
        self.t = 0
        return self.obs(), {}


@register
class GlobalRandom(Base):  # draws from np.random, ignores the seed
    def obs(self):
        return np.random.standard_normal(3).astype(np.float32)  # noqa: NPY002


@register
class ModuleRandom(Base):  # draws from random, ignores the seed
    def obs(self):
        return np.full(3, random.random(), np.float32)


@register
class OwnRandom(Base):  # its own generator, seeded by reset(seed)
    def reset(self, *, seed=None, options=None):
        if seed is not None or not hasattr(self, "rng"):
            self.rng = np.random.default_rng(seed)
        self.t = 0
        return self.obs(), {}

    def obs(self):
        return self.rng.standard_normal(3).astype(np.float32)


@register
class Curriculum(Base):  # gets harder with every episode that it has seen
    level = 0

    def reset(self, *, seed=None, options=None):
        self.level = self.level + 1
        return super().reset(seed=seed)

    def step(self, action):
        o, _, a, b, i = super().step(action)
        return o, float(self.level), a, b, i


OPEN = []
CLOSED = []


@register
class OneAtATime(
    Base
):  # a simulator on a port: a second instance is refused while the first is open
    def __init__(self, render_mode=None):
        if OPEN:
            raise RuntimeError("address already in use")
        self.render_mode = render_mode
        OPEN.append(self)

    def close(self):
        if self in OPEN:
            OPEN.remove(self)


@register
class Closes(Base):  # fails when it is closed
    def close(self):
        CLOSED.append(self)
        raise ConnectionResetError(104, "Connection reset by peer")


CHILDREN = []


@register
class Spawns(Base):  # a simulator in a process of its own, ended by close()
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.process = subprocess.Popen(["sleep", "600"])
        CHILDREN.append(self.process)

    def close(self):
        self.process.terminate()
        self.process.wait()


@register
class Raises(Base):  # fails in the middle of the training
    steps = 0

    def step(self, action):
        Raises.steps += 1
        if Raises.steps > 150:
            raise RuntimeError("simulation became unstable")
        return super().step(action)


@register
class RaisesFrom(Raises):  # one error from another
    def step(self, action):
        try:
            return super().step(action)
        except RuntimeError as error:
            raise ValueError("no state") from error


@register
class RaisesFromItself(Raises):  # an error that is its own cause
    def step(self, action):
        try:
            return super().step(action)
        except RuntimeError as error:
            raise error from error


@register
class RaisesOSError(Raises):
    def step(self, action):
        Raises.steps += 1
        if Raises.steps > 150:
            raise ConnectionResetError(104, "Connection reset by peer")
        return Base.step(self, action)


@register
class Exits(Raises):  # ends the process, as one whose window is closed
    def step(self, action):
        Raises.steps += 1
        if Raises.steps > 150:
            raise SystemExit
        return Base.step(self, action)


class Panic(BaseException):
    """As extensions in Rust raise it: `except Exception` does not catch it."""

    def __str__(self):
        raise RuntimeError("it has no text either")


@register
class Panics(Raises):
    def step(self, action):
        Raises.steps += 1
        if Raises.steps > 150:
            raise Panic
        return Base.step(self, action)


@register
class PortAtReset(OneAtATime):  # refused at the first reset, not when it is made
    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        if OPEN not in ([], [self]):
            raise RuntimeError("address already in use")
        OPEN[:] = [self]
        return super().reset(seed=seed)


@register
class ChangesFolder(Base):  # works in a folder of its own from some reset on
    def reset(self, *, seed=None, options=None):
        (Path.cwd() / "own").mkdir(exist_ok=True)
        os.chdir("own")
        return super().reset(seed=seed)


class NoSpaces(gym.Env):  # and nobody checks it
    pass


gym.register("NoSpaces-v0", NoSpaces, disable_env_checker=True)
gym.register("ThresholdText-v0", Base, reward_threshold="high")


@register
class Integers(Base):  # an integer Box of actions: 0 .. 10
    action_space = spaces.Box(0, 10, (2,), np.int32)

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        table = list(range(11))
        reward = float(table[action[0]] + table[action[1]])
        return observation, reward, terminated, truncated, info


@register
class IntegersAndCloses(Closes):  # is refused, and fails when it is closed
    action_space = spaces.Box(0, 10, (2,), np.int32)


@register
class HalfPrecision(Base):  # insists on its own type of actions
    action_space = spaces.Box(-1, 1, (1,), np.float16)

    def step(self, action):
        assert self.action_space.contains(action), action.dtype
        return super().step(action)


@register
class WrongShape(Base):  # declares (3,), returns (3, 1)
    def obs(self):
        return super().obs().reshape(3, 1)


@register
class WrongSize(Base):  # declares (3,), returns (4,)
    def obs(self):
        return np.zeros(4, np.float32)


@register
class DictObservation(Base):  # declares (3,), returns a dict
    def obs(self):
        return {"x": 1.0}


@register
class ScalarObservation(Base):  # declares (1,), returns a number
    observation_space = spaces.Box(-1, 1, (1,))

    def obs(self):
        return float(self.np_random.uniform(-1, 1))


@register
class ColumnObservation(Base):  # declares (1,), returns (1, 1)
    observation_space = spaces.Box(-1, 1, (1,))

    def obs(self):
        return np.array([[self.np_random.uniform(-1, 1)]], np.float32)


class Returns(Base):
    """Something in what step() returns is changed: by place, the function that changes it."""

    def __init__(self, changes, render_mode=None):
        self.changes = changes
        self.render_mode = render_mode

    def step(self, action):
        returned = list(super().step(action))
        for place, change in self.changes.items():
            returned[place] = change(returned[place])
        return tuple(returned)


REWARD, TERMINATED, TRUNCATED = 1, 2, 3
CHANGES = {
    "RewardVector": {REWARD: lambda r: np.array([r])},  # of shape (1,)
    "RewardInteger": {REWARD: lambda r: np.int64(1), TERMINATED: np.uint8, TRUNCATED: int},
    "RewardNone": {REWARD: lambda r: None},
    "RewardTwo": {REWARD: lambda r: np.array([r, r])},  # one for each objective
    "RewardText": {REWARD: lambda r: "high"},
    "RewardRagged": {REWARD: lambda r: [r, [r, r]]},
    "RewardTensor": {REWARD: lambda r: torch.tensor(r, requires_grad=True)},  # a learned one
    "TerminatedNone": {TERMINATED: lambda a: None},
    "TerminatedNaN": {TERMINATED: lambda a: np.nan},
    "TruncatedNaN": {TRUNCATED: lambda b: np.nan},
    "TruncatedNone": {TRUNCATED: lambda b: None},
    "DoneVector": {TERMINATED: lambda a: np.array([a]), TRUNCATED: lambda b: np.array([b])},
}
for name, changes in CHANGES.items():
    gym.register(f"{name}-v0", Returns, kwargs={"changes": changes})


@register
class Options(Base):  # reset() needs options
    def reset(self, *, seed=None, options=None):
        self.goal = options["goal"]
        return super().reset(seed=seed)


@register
class Zero(Base):  # observes nothing: a bandit
    observation_space = spaces.Box(-1, 1, (0,))

    def obs(self):
        return np.zeros(0, np.float32)


@register
class ZeroDim(Base):  # 0-d spaces
    observation_space = spaces.Box(-1, 1, ())

    def obs(self):
        return np.float32(0)


@register
class ZeroDimAction(Base):
    action_space = spaces.Box(-1, 1, ())


@register
class Bytes(Base):  # uint8 memory
    observation_space = spaces.Box(0, 255, (128,), np.uint8)

    def obs(self):
        return self.np_random.integers(0, 256, 128, np.uint8)


@register
class Big(Base):  # finite in float64, infinite in float32
    def obs(self):
        return np.full(3, 1e39)


@register
class Timestamps(Base):  # float64 that float32 cannot tell apart
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def obs(self):
        return 1.7e9 + self.np_random.uniform(0, 50, 3)


@register
class HugeAction(Base):  # "unbounded" written as the largest float32
    action_space = spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,))

    def step(self, action):
        assert np.isfinite(action).all(), action
        return super().step(action)


@register
class Asymmetric(Base):
    action_space = spaces.Box(np.array([0, -2, 5], np.float32), np.array([1, 8, 5], np.float32))

    def step(self, action):
        assert self.action_space.contains(action), (action, action.dtype)
        return super().step(action)


@register
class Needs(Base):  # a package that is not installed, imported in the constructor
    def __init__(self, render_mode=None):
        import package_that_is_not_installed  # noqa: F401


gym.register("NeedsUnversioned", Needs)
gym.register("Two-v1", Base)
gym.register("Two-v0", Needs)  # its package is missing, and there is a newer version
gym.register("Newer-v1", Base)  # there is no version 0


@register
class NoFps(Base):
    metadata = {"render_modes": ["rgb_array"]}


@register
class NoMetadata(Base):
    metadata = {}


@register
class OldMetadata(Base):  # the names of gym < 0.26
    metadata = {"render.modes": ["human", "rgb_array"], "video.frames_per_second": 30}


@register
class RenderNone(Base):
    def render(self):
        return None


@register
class RenderFloat(Base):
    def render(self):
        return np.zeros((64, 64))


@register
class RenderModeForgotten(Base):  # takes render_mode and does not keep it
    render_mode = None

    def __init__(self, render_mode=None):
        pass


@register
class Threaded(Base):  # a thread of its own fails
    def reset(self, *, seed=None, options=None):
        thread = threading.Thread(target=self.listen)
        thread.start()
        thread.join()
        return super().reset(seed=seed)

    def listen(self):
        raise ConnectionResetError(104, "Connection reset by peer")


@register
class Prints(Base):  # chats on stdout
    def reset(self, *, seed=None, options=None):
        print("resetting…")
        return super().reset(seed=seed)


def normalised(render_mode=None):
    from gymnasium.wrappers import NormalizeObservation

    env = Shifted(render_mode)
    return NormalizeObservation(env)


class Shifted(Base):  # observations of 1000 ± 100; rewards an action that follows the first
    limit = 20

    def obs(self):
        self.x = self.np_random.standard_normal(3)
        return (1000 + 100 * self.x).astype(np.float32)

    def step(self, action):
        reward = -((float(action[0]) - np.tanh(self.x[0])) ** 2)
        self.t += 1
        return self.obs(), float(reward), False, self.t >= self.limit, {}


gym.register("Normalised-v0", normalised)
gym.register("Shifted-v0", Shifted)


gym.register("Threshold-v0", Base, reward_threshold=np.float64(-5))
gym.register("Limited-v0", Endless, max_episode_steps=10)
gym.register("LimitedByNumpy-v0", Endless, max_episode_steps=np.int64(10))
gym.register("Checked-v0", Base, disable_env_checker=True, order_enforce=False)
gym.register("WrongEntry-v0", "no_such_module:Env")
gym.register("WrongClass-v0", "odd_environments:NoSuchClass")
gym.register("Kwargs-v0", Base, kwargs={"unknown": 1})


# -------------------------------------------------------------------------------------- for dqn.py
@register
class SpawnsDiscrete(Spawns):
    action_space = spaces.Discrete(2)


@register
class D(Base):
    action_space = spaces.Discrete(3)


@register
class DNegative(Base):
    action_space = spaces.Discrete(3, start=-1)

    def step(self, action):
        assert action in (-1, 0, 1), action
        return super().step(action)


@register
class DStrict(Base):  # insists on a Python int
    action_space = spaces.Discrete(3)

    def step(self, action):
        assert isinstance(action, int), type(action)
        return super().step(action)


@register
class DMulti(Base):
    action_space = spaces.MultiDiscrete([3, 2])


@register
class DBinary(Base):
    action_space = spaces.MultiBinary(3)


@register
class DDiscreteObservation(Base):
    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def obs(self):
        return int(self.np_random.integers(5))


@register
class DTuple(Base):
    observation_space = spaces.Tuple((THREE_NUMBERS, THREE_NUMBERS))
    action_space = spaces.Discrete(2)

    def obs(self):
        return (super().obs(), super().obs())


@register
class DMasked(Base):  # some actions are not allowed now; says so in info
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.array([1, 0, 1], np.int8)}

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        info = {"action_mask": np.array([1, 0, 1], np.int8)}
        return observation, reward, terminated, truncated, info
