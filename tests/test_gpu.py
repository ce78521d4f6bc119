"""ddpg_continuous.py on a CUDA GPU: needs one. python -m pytest -m gpu"""

import copy

import numpy as np
import pytest
import torch
from helpers import assert_close, continuous_batch, gradient, leaves

import ddpg_continuous as script

pytestmark = pytest.mark.gpu
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 8, 2


def new_agents(norm, *devices, **args):
    """Equal ones, an agent on each device."""
    torch.manual_seed(0)
    first = script.DDPG(OBSERVATION_SIZE, ACTION_SIZE, script.Args(norm=norm, **args))
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    agents = []
    for device in devices:
        agent = script.DDPG(
            OBSERVATION_SIZE, ACTION_SIZE, script.Args(norm=norm, device=device, **args)
        )
        agent.load_state_dict(first.state_dict())
        agents.append(agent)
    return agents


def new_batch(seed=0):
    return continuous_batch(64, seed, OBSERVATION_SIZE, ACTION_SIZE)


def identical(one, other):
    pairs = zip(leaves(one), leaves(other), strict=True)
    assert all(torch.equal(x.cpu(), y.cpu()) for x, y in pairs)


@pytest.fixture
def without_graphs(monkeypatch):
    """On CUDA, too, functions run operation by operation."""

    def make(norm, **args):
        with monkeypatch.context() as patch:
            patch.setattr(script, "CudaGraph", lambda function: function)
            return new_agents(norm, "cuda", **args)[0]

    return make


@every_norm
def test_losses_and_gradients_of_an_update_equal_the_cpus(norm):
    # The critic stands still, so that the actor's gradient is of the same critic on both
    cpu, cuda = new_agents(norm, "cpu", "cuda", critic_learning_rate=0.0)
    for call in range(6):  # operation by operation at first, then captured, then replayed
        batch = new_batch(seed=call)
        cuda.load_state_dict(cpu.state_dict())
        expected = cpu.update(batch)
        metrics = cuda.update(batch)
        for name in ("critic_loss", "actor_loss", "q"):
            assert_close(metrics[name], expected[name])
        assert_close(gradient(cuda.actor), gradient(cpu.actor))
        assert_close(gradient(cuda.critic), gradient(cpu.critic))


@every_norm
def test_acting_equals_the_cpus(norm):
    cpu, cuda = new_agents(norm, "cpu", "cuda")
    for seed in range(6):
        observation = new_batch(seed)[0][0]
        action = cuda.act(observation)
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, cpu.act(observation), rtol=1e-5, atol=1e-6)


@every_norm
def test_graphs_give_the_bits_of_single_operations_over_a_hundred_updates(norm, without_graphs):
    one, other = new_agents(norm, "cuda")[0], without_graphs(norm)
    for step in range(100):
        batch, scale = new_batch(step), 1 - step / 100
        identical(one.act(batch[0][0]).tolist(), other.act(batch[0][0]).tolist())
        # The other one's learning rate: a tensor, too, since float32 rounds it
        identical(one.update(batch, scale), other.update(batch, torch.tensor(scale).cuda()))
    identical(one.state_dict(), other.state_dict())
    assert isinstance(one.learn_on_device.graph, torch.cuda.CUDAGraph)
    assert isinstance(one.act_on_device.graph, torch.cuda.CUDAGraph)


def test_an_agent_that_takes_a_state_back_goes_on_from_it():
    agent = new_agents("batch", "cuda")[0]
    for step in range(10):
        agent.update(new_batch(step))
    state = copy.deepcopy(agent.state())
    for step in range(10, 20):
        agent.update(new_batch(step))
    later = copy.deepcopy(agent.state())
    agent.set_state(state)
    for step in range(10, 20):
        agent.update(new_batch(step))
    identical(agent.state(), later)
