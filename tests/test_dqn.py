"""What the algorithm in dqn.py guarantees. Its runs: test_dqn_run.py."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import adam, algorithm_of

import dqn

torch.set_num_threads(1)

OBSERVATION_SIZE, ACTIONS = 3, 4
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def script():
    return dqn


def new_agent(**args):
    """As the script makes it, in float64, in which derivatives can be told from rounding."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        return dqn.DQN(OBSERVATION_SIZE, ACTIONS, dqn.Args(**{"hidden_sizes": (16, 12), **args}))
    finally:
        torch.set_default_dtype(torch.float32)


def new_batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, OBSERVATION_SIZE))
    a = rng.integers(ACTIONS, size=(size, 1)).astype(np.float64)
    r = rng.normal(size=(size, 1))
    terminated = (rng.random((size, 1)) < 0.3).astype(np.float64)
    return [s, a, r, terminated, next_s]


def q_values(network, observations):
    """By hand: two hidden layers with ReLU, then a value per action."""

    def linear(layer, x):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    x = np.maximum(linear(network.layer_1, observations), 0)
    x = np.maximum(linear(network.layer_2, x), 0)
    return linear(network.output, x)


def weights(network):
    return [x.detach().clone() for x in network.parameters()]


def equal(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def part_ways(agent):
    """Gives the target other weights than the Q-network's, as in the middle of a training."""
    with torch.no_grad():
        for x in agent.target_network.parameters():
            x += 0.1 * torch.randn_like(x)


# -------------------------------------------------------------------------------------- exploration
def test_epsilon_falls_linearly_and_then_stays():
    args = dqn.Args(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay_steps=200)
    epsilons = [dqn.epsilon_at(step, args) for step in (0, 50, 100, 200, 201, 10**6)]
    assert epsilons == pytest.approx([0.9, 0.7, 0.5, 0.1, 0.1, 0.1])


def test_with_probability_epsilon_every_action_is_equally_likely_and_else_it_is_the_policys():
    rng, n = np.random.default_rng(0), 20_000
    taken = [dqn.epsilon_greedy(lambda s: 2, None, 0.4, 4, rng) for _ in range(n)]
    shares = np.bincount(taken, minlength=4) / n
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.7, 0.1], atol=0.01)


def test_the_seed_fixes_the_epsilon_greedy_choices_and_their_extremes_are_pure():
    def choices(seed, epsilon=0.5):
        rng = np.random.default_rng(seed)
        return [dqn.epsilon_greedy(lambda s: 0, None, epsilon, 4, rng) for _ in range(200)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
    assert set(choices(1, 0.0)) == {0}
    assert {*choices(1, 1.0)} == {0, 1, 2, 3}


def test_acting_takes_the_action_of_the_highest_value():
    agent, observations = new_agent(), new_batch(50)[0]
    # So that not one action is the best everywhere
    torch.nn.init.normal_(agent.q_network.output.weight)
    actions = [agent.act(s) for s in observations]
    assert actions == list(q_values(agent.q_network, observations).argmax(axis=1))
    assert all(type(action) is int for action in actions)
    assert len(set(actions)) > 1


# -------------------------------------------------------------------------------------- the network
def test_the_network_has_two_hidden_layers_and_a_value_for_every_action():
    agent = new_agent(hidden_sizes=(16, 12))
    s = new_batch()[0]
    values = agent.q_network(torch.from_numpy(s))
    assert values.shape == (16, ACTIONS)
    np.testing.assert_allclose(values.detach().numpy(), q_values(agent.q_network, s), atol=1e-12)


def test_layers_start_uniformly_within_one_over_root_fan_in():
    network = new_agent(hidden_sizes=(400, 300)).q_network
    fan_ins = [(network.layer_1, 3), (network.layer_2, 400), (network.output, 300)]
    for layer, fan_in in fan_ins:
        for x in (layer.weight, layer.bias):
            assert x.abs().max() <= fan_in**-0.5
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.1)


# ----------------------------------------------------------------------------------- replay buffer
def filled_replay(capacity, added):
    """The transition number i is (i, …), i % 4, −i, i % 3 == 0, (i + 0.5, …)."""
    replay = dqn.ReplayBuffer(capacity, 3, 1, np.random.default_rng(0))
    for i in range(added):
        s = np.full(3, i, np.float32)
        replay.add(s, i % 4, -float(i), i % 3 == 0, s + 0.5)
    return replay


def test_replay_returns_whole_transitions_as_they_were_stored_in_columns():
    """A column (N,) against Q (N, 1) would silently broadcast to (N, N)."""
    s, a, r, terminated, next_s = filled_replay(100, 70).sample(500)
    number = s[:, :1]
    np.testing.assert_array_equal(s, number.repeat(3, axis=1))
    np.testing.assert_array_equal(a, number % 4)
    np.testing.assert_array_equal(r, -number)
    np.testing.assert_array_equal(terminated, number % 3 == 0)
    np.testing.assert_array_equal(next_s, s + 0.5)
    assert a.shape == r.shape == terminated.shape == (500, 1)


@pytest.mark.parametrize(("added", "kept"), [(1, range(1)), (50, range(50)), (127, range(77, 127))])
def test_replay_samples_uniformly_from_the_newest_transitions_and_nothing_else(added, kept):
    numbers = filled_replay(50, added).sample(100_000)[0][:, 0].astype(int)
    assert set(numbers.tolist()) == set(kept)
    counts = np.bincount(numbers)[list(kept)]
    expected = 100_000 / len(kept)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < len(kept) + 5 * (2 * len(kept)) ** 0.5


# --------------------------------------------------------------------------------------- the update
def target_by_hand(agent, batch, gamma=0.99):
    """y = r + γ max Q'(s', a'), a transition at a time."""
    _, _, r, terminated, next_s = batch
    next_values = q_values(agent.target_network, next_s)
    y = r[:, 0].copy()
    for i in range(len(y)):
        if not terminated[i, 0]:
            y[i] += gamma * max(next_values[i])
    return y


def test_the_target_is_the_reward_and_the_discounted_best_value_of_the_target_network():
    agent, batch = new_agent(), new_batch()
    part_ways(agent)
    y = target_by_hand(agent, batch)
    assert agent.update(batch)["target"].item() == pytest.approx(y.mean(), abs=1e-12)


@pytest.mark.parametrize(("terminated", "share_of_the_rest"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_terminal_state_is_worth_its_reward_alone(terminated, share_of_the_rest):
    agent, batch = new_agent(), new_batch()
    batch[2][:] = 1.0
    batch[3][:] = terminated
    best = q_values(agent.target_network, batch[4]).max(axis=1).mean()
    y = agent.update(batch)["target"].item()
    assert y == pytest.approx(1.0 + share_of_the_rest * 0.99 * best, abs=1e-12)


def test_the_loss_is_the_mean_of_n_squared_errors_of_the_actions_taken_not_of_n_by_n():
    agent, batch = new_agent(), new_batch()
    part_ways(agent)
    torch.nn.init.normal_(agent.q_network.output.weight)  # the values of the 16 differ
    q = q_values(agent.q_network, batch[0])[np.arange(16), batch[1][:, 0].astype(int)]
    batch[2][:, 0] = q  # and so do the targets, alike
    y = target_by_hand(agent, batch)
    n_by_n = np.mean((q[:, None] - y[None, :]) ** 2)
    loss = agent.update(batch)["loss"].item()
    assert loss == pytest.approx(np.mean((q - y) ** 2), abs=1e-12)
    assert abs(loss - n_by_n) > 0.05


def test_the_gradient_treats_the_target_as_a_constant():
    """By finite differences of the loss with y held still: through y, too, it would be another."""
    agent, batch = new_agent(), new_batch()
    # The target still is a copy, so that y depends on the same numbers
    y = target_by_hand(agent, batch)[:, None]
    taken = batch[1].astype(int)

    def loss():
        q = np.take_along_axis(q_values(agent.q_network, batch[0]), taken, 1)
        return np.mean((q - y) ** 2)

    def slope(flat, i):
        value = flat[i].item()
        flat[i] = value + 1e-5
        above = loss()
        flat[i] = value - 1e-5
        below = loss()
        flat[i] = value
        return (above - below) / 2e-5

    places = []
    for x in agent.q_network.parameters():
        places.extend((x, i) for i in (0, x.numel() // 2, x.numel() - 1))
    slopes = [slope(x.data.view(-1), i) for x, i in places]
    agent.optimizer.step = lambda: None  # the weights are to stay where the slopes were taken
    agent.update(batch)
    gradients = [x.grad.view(-1)[i].item() for x, i in places]
    np.testing.assert_allclose(gradients, slopes, atol=1e-8)
    assert np.abs(slopes).max() > 0.01


@pytest.mark.parametrize("target_network", ["none", "hard", "soft"])
def test_no_gradient_reaches_the_target_network(target_network):
    agent = new_agent(target_network=target_network)
    agent.update(new_batch())
    assert all(x.grad is None and not x.requires_grad for x in agent.target_network.parameters())
    stepped = {id(x) for group in agent.optimizer.param_groups for x in group["params"]}
    assert stepped == {id(x) for x in agent.q_network.parameters()}


def test_adam_steps_by_hand():
    agent = new_agent(learning_rate=0.01)
    parameters = list(agent.q_network.parameters())
    expected, memory = [x.detach().numpy().copy() for x in parameters], {}
    for seed in range(3):
        agent.update(new_batch(seed=seed))
        expected = adam(expected, [x.grad.numpy() for x in parameters], memory, rate=0.01)
        for x, w in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(x.detach().numpy(), w, rtol=1e-6, atol=1e-9)


# --------------------------------------------------------------------------------------- the target
def test_the_target_starts_as_a_copy():
    agent = new_agent()
    assert equal(weights(agent.q_network), weights(agent.target_network))


def test_without_a_target_network_the_target_is_the_q_network_after_every_update():
    agent = new_agent(target_network="none")
    for seed in range(3):
        agent.update(new_batch(seed=seed))
        assert equal(weights(agent.q_network), weights(agent.target_network))


def test_a_hard_target_is_a_copy_every_so_many_updates_and_stays_in_between():
    agent = new_agent(target_network="hard", target_period=3)
    held = weights(agent.q_network)
    for update in range(1, 8):
        agent.update(new_batch(seed=update))
        is_copied = update in (3, 6)
        if is_copied:
            held = weights(agent.q_network)
        assert equal(held, weights(agent.target_network))
        assert equal(held, weights(agent.q_network)) == is_copied


def test_a_soft_target_is_tau_online_plus_the_rest_of_itself_after_every_update():
    agent = new_agent(target_network="soft", tau=0.3)
    for seed in range(3):
        before = weights(agent.target_network)
        agent.update(new_batch(seed=seed))
        after, online = weights(agent.target_network), weights(agent.q_network)
        for new, x, old in zip(after, online, before, strict=True):
            torch.testing.assert_close(new, 0.3 * x + 0.7 * old)


# ----------------------------------------------------------------------------------- what it learns
CELLS, GAMMA = 5, 0.9


def exact_values():
    """Of the corridor, by value iteration."""
    values = np.zeros((CELLS, 2))
    for _ in range(100):
        best = [0.0, *values.max(axis=1), 0.0]  # with the two ends
        for cell in range(CELLS):
            values[cell, 0] = GAMMA * best[cell] - 0.2 * (cell == 0)
            values[cell, 1] = GAMMA * best[cell + 2] + 1.0 * (cell == CELLS - 1)
    return values


def corridor_batch(rng):
    """A minibatch of transitions from any cell by any action."""
    cells = np.eye(CELLS, dtype=np.float32)
    cell = rng.integers(CELLS, size=64)
    a = rng.integers(2, size=64)
    following = cell + 2 * a - 1
    r = 1.0 * (following >= CELLS) - 0.2 * (following < 0)
    terminated = (following < 0) | (following >= CELLS)
    next_s = cells[np.clip(following, 0, CELLS - 1)]
    columns = [x[:, None].astype(np.float32) for x in (a, r, terminated)]
    return [cells[cell], *columns, next_s]


@pytest.mark.parametrize("target_network", ["none", "hard", "soft"])
def test_q_approaches_the_values_of_value_iteration(target_network):
    """A corridor of five cells: right is +1 at its end, left −0.2 at the other; both end it."""
    torch.manual_seed(0)
    args = dqn.Args(
        hidden_sizes=(32, 32),
        gamma=GAMMA,
        learning_rate=3e-3,
        target_network=target_network,
        target_period=20,
        tau=0.05,
    )
    agent = dqn.DQN(CELLS, 2, args)
    rng = np.random.default_rng(0)
    for _ in range(1_000):
        agent.update(corridor_batch(rng))
    cells = np.eye(CELLS, dtype=np.float32)
    q = agent.q_network(torch.from_numpy(cells)).detach().numpy()
    np.testing.assert_allclose(q, exact_values(), atol=0.05)
    assert [agent.act(x) for x in cells] == [1] * CELLS


def test_the_pole_is_balanced_for_longer_after_a_few_thousand_steps(command, folder):
    flags = (
        *("--env-id", "CartPole-v1", "--total-timesteps", 3_000, "--hidden-sizes", 64, 64),
        *("--epsilon-decay-steps", 1_500, "--learning-rate", 1e-3, "--eval-every", 1_500),
        *("--eval-episodes", 5, "--run-name", "run"),
    )
    assert command(*flags)[0] == 0
    evaluations = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"]
    assert evaluations.iloc[0] < 60  # falls over at once
    assert evaluations.iloc[1:].max() > 100


# ----------------------------------------------------------------------------- metrics, determinism
def test_an_update_gives_scalar_tensors_which_are_finite():
    metrics = new_agent().update(new_batch())
    assert list(metrics) == ["loss", "q", "target"]
    for name, value in metrics.items():
        assert isinstance(value, torch.Tensor), name
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name


def test_equal_seeds_and_batches_give_equal_bits():
    one, other = new_agent(), new_agent()
    for seed in range(5):
        assert one.update(new_batch(seed=seed)) == other.update(new_batch(seed=seed))
    assert equal(weights(one), weights(other))


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    agents = []
    for module in (algorithm_of(dqn), vars(dqn)):
        torch.manual_seed(0)
        agents.append(module["DQN"](OBSERVATION_SIZE, ACTIONS, module["Args"]()))
    batch = [x.astype(np.float32) for x in new_batch()]
    assert agents[0].update(batch) == agents[1].update(batch)
