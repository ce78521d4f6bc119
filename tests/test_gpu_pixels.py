"""ddpg_pixels.py on a CUDA GPU: needs one. python -m pytest -m gpu"""

import numpy as np
import pytest
import torch
from helpers import assert_close, gradient

import ddpg_pixels as script

pytestmark = pytest.mark.gpu
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

DEVICE = "cuda"
FRAME_SIZE, CHANNELS, ACTION_SIZE = 64, 9, 2


def new_agents(norm, **args):
    """Equal ones, on the CPU and on the GPU."""
    script.prepare_cudnn()
    torch.manual_seed(0)
    cpu = script.DDPG(CHANNELS, ACTION_SIZE, script.Args(norm=norm, **args))
    for parameter in cpu.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    gpu = script.DDPG(CHANNELS, ACTION_SIZE, script.Args(norm=norm, device=DEVICE, **args))
    gpu.load_state_dict(cpu.state_dict())
    return cpu, gpu


def new_batch(seed, size=32):
    rng = np.random.default_rng(seed)
    pictures = (size, FRAME_SIZE, FRAME_SIZE, CHANNELS)
    s, next_s = rng.integers(256, size=(2, *pictures), dtype=np.uint8)
    a = rng.uniform(-1, 1, (size, ACTION_SIZE))
    r = rng.normal(size=(size, 1))
    terminated = rng.random((size, 1)) < 0.3
    return [s, *(x.astype(np.float32) for x in (a, r, terminated)), next_s]


@every_norm
def test_losses_and_gradients_of_an_update_equal_the_cpus(norm):
    # The critic stands still, so that the actor's gradient is of the same critic on both
    cpu, gpu = new_agents(norm, critic_learning_rate=0.0)
    for seed in range(3):
        batch = new_batch(seed)
        gpu.load_state_dict(cpu.state_dict())
        expected = cpu.update(batch)
        metrics = gpu.update(batch)
        for name in ("critic_loss", "actor_loss", "q"):
            assert_close(metrics[name], expected[name])
        assert_close(gradient(gpu.actor), gradient(cpu.actor))
        assert_close(gradient(gpu.critic), gradient(cpu.critic))


@every_norm
def test_acting_equals_the_cpus(norm):
    cpu, gpu = new_agents(norm)
    for seed in range(3):
        observation = new_batch(seed)[0][0]
        np.testing.assert_allclose(gpu.act(observation), cpu.act(observation), rtol=1e-5, atol=1e-6)


def test_updates_give_the_same_bits_each_time():
    batches = [new_batch(seed) for seed in range(20)]
    agents = [new_agents("batch")[1] for _ in range(2)]
    for agent in agents:
        for batch in batches:
            agent.update(batch)
    one, other = [agent.state_dict() for agent in agents]
    assert all(torch.equal(one[name], other[name]) for name in one)
