"""What ddpg_tf_explicit.py guarantees where it differs from ddpg_continuous.py; test_parity.py compares their values.

Sections that stand letter for letter in both scripts (test_repository.py) are tested with ddpg_continuous.py.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import ddpg_continuous
import ddpg_tf_explicit

tf.config.threading.set_intra_op_parallelism_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 3, 2
SMALL = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50, "--eval-episodes", 1)
SHORT = (*SMALL, "--total-timesteps", 650, "--eval-every", 300, "--checkpoint-every", 200, "--norm", "batch")


@pytest.fixture
def script():
    return ddpg_tf_explicit


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    keras.utils.set_random_seed(0)
    args = ddpg_tf_explicit.Args(norm=norm, hidden_sizes=hidden_sizes, **args)
    return ddpg_tf_explicit.DDPG(OBSERVATION_SIZE, ACTION_SIZE, args)


def new_batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, OBSERVATION_SIZE))
    a, r = rng.uniform(-1, 1, (size, ACTION_SIZE)), rng.normal(size=(size, 1))
    return [x.astype(np.float32) for x in (s, a, r, rng.random((size, 1)) < 0.3, next_s)]


def weights(model):
    return [x.numpy() for x in model.trainable_variables]


def identical(one, other):
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def contents(path):
    """The arrays in an .npz and, as text, its numbers, as numpy itself reads them."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def assert_same_run(run, reference):
    for log in ("episodes.csv", "evaluations.csv", "updates.csv"):
        assert (run / log).read_bytes() == (reference / log).read_bytes(), log
    for name in ("last.npz", "best.npz"):
        one, other = ddpg_tf_explicit.load(run / name), ddpg_tf_explicit.load(reference / name)
        identical(one["agent"]["variables"], other["agent"]["variables"])


# ---------------------------------------------------------------------------------------------------- the networks
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(400, 300))
    for model, fan_ins in ((agent.actor, (3, 400, 3e-3)), (agent.critic, (3, 402, 3e-3))):
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in layers] == [400, 300, model.output_shape[-1]]
        for layer, fan_in in zip(layers, fan_ins, strict=True):
            bound = fan_in if fan_in < 1 else fan_in**-0.5
            for x in weights(layer):
                assert np.abs(x).max() <= bound
                assert np.abs(x).max() > 0.9 * bound or x.size < 20
                assert x.size < 300 or x.std() == pytest.approx(bound / 3**0.5, rel=0.15)


@every_norm
def test_the_targets_start_equal_to_the_online_networks_and_follow_by_tau(norm):
    agent = new_agent(norm, tau=0.3)
    identical(weights(agent.actor), weights(agent.target_actor))
    identical(weights(agent.critic), weights(agent.target_critic))
    before = weights(agent.target_actor) + weights(agent.target_critic)
    agent.update(new_batch())
    online = weights(agent.actor) + weights(agent.critic)
    for old, new, x in zip(before, weights(agent.target_actor) + weights(agent.target_critic), online, strict=True):
        np.testing.assert_allclose(new, 0.3 * x + 0.7 * old, rtol=1e-5, atol=1e-7)


def test_only_the_network_that_acts_has_running_averages_and_only_acting_reads_them():
    agent = new_agent("batch")
    assert len(agent.actor.non_trainable_variables) == 6  # mean and variance of the observation and both hidden layers
    for model in (agent.critic, agent.target_actor, agent.target_critic):
        assert not model.non_trainable_variables
    start, batch = [x.numpy() for x in agent.variables], new_batch()
    expected, at = agent.update(batch, read=True), agent.act(batch[0][0])
    agent.set_state({"variables": start})
    for x in agent.actor.non_trainable_variables:
        x.assign(x + 7.0)
    assert agent.update(batch, read=True) == expected
    assert np.abs(agent.act(batch[0][0]) - at).max() > 1e-5


def test_acting_leaves_everything_as_it_is():
    agent = new_agent("batch")
    agent.update(new_batch())
    before = [x.numpy() for x in agent.variables]
    action = agent.act(new_batch()[0][0])
    assert action.shape == (ACTION_SIZE,)
    assert action.dtype == np.float32
    identical(before, [x.numpy() for x in agent.variables])


# ------------------------------------------------------------------------------------------------------- the update
@pytest.mark.parametrize(("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)])
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(network, rate, decay):
    """Keras's Adam: ε is added to the root of the second moment before the bias correction."""
    agent = new_agent("none", actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    optimizer, model = getattr(agent, f"{network}_optimizer"), getattr(agent, network)
    taken, apply = [], optimizer.apply
    optimizer.apply = lambda gradients, variables: (
        taken.extend(x.numpy() for x in gradients),
        apply(gradients, variables),
    )
    before = weights(model)
    batch = [tf.constant(x) for x in new_batch()]
    s, a, r, terminated, next_s = batch
    with tf.GradientTape() as tape:
        if network == "critic":
            y = r + 0.99 * (1 - terminated) * agent.target_critic([next_s, agent.target_actor(next_s)])
            loss = tf.reduce_mean((agent.critic([s, a]) - y) ** 2)
    expected = tape.gradient(loss, model.trainable_variables) if network == "critic" else None
    agent.learn(batch, 0.5)
    for i, (x, g) in enumerate(zip(weights(model), taken, strict=True)):
        if network == "critic":
            np.testing.assert_allclose(g, expected[i] + decay * before[i], rtol=1e-3, atol=1e-6)
        m, v = 0.1 * g, 0.001 * g * g
        step = 0.5 * rate * np.sqrt(1 - 0.999) / (1 - 0.9) * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(before[i] - x, step, rtol=2e-3, atol=1e-6)


@every_norm
def test_the_policy_learns_which_way_the_reward_grows(norm):
    agent = new_agent(norm, actor_learning_rate=3e-3, critic_learning_rate=1e-2)
    for seed in range(100):
        s, a, _, terminated, next_s = new_batch(seed=seed)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in new_batch(50, 1000)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


def test_the_update_and_the_policy_are_traced_once_whatever_the_rate_and_whether_or_not_values_are_read():
    agent = new_agent()
    for seed in range(5):
        agent.update(new_batch(seed=seed), scale=1 - seed / 5, read=seed % 2 == 0)
        agent.act(new_batch(seed=seed)[0][0])
    assert agent.compiled_update.experimental_get_tracing_count() == 1
    assert agent.compiled_policy.experimental_get_tracing_count() == 1


def test_a_whole_training_traces_once_too(command, script, monkeypatch):
    agents = []
    make = script.DDPG
    monkeypatch.setattr(script, "DDPG", lambda *args: agents.append(make(*args)) or agents[-1])
    assert command(*SHORT)[0] == 0
    assert agents[0].compiled_update.experimental_get_tracing_count() == 1
    assert agents[0].compiled_policy.experimental_get_tracing_count() == 1


def test_a_learning_rate_of_zero_moves_nothing_but_the_targets():
    agent = new_agent("none", tau=0.0)
    before = [x.numpy() for model in (agent.actor, agent.critic) for x in model.trainable_variables]
    agent.update(new_batch(), scale=0.0)
    identical(before, [x.numpy() for model in (agent.actor, agent.critic) for x in model.trainable_variables])


def test_at_the_start_no_action_is_at_an_edge_and_no_slope_counts_as_outward():
    logged = new_agent().update(new_batch(), read=True)
    assert logged["dq_da_norm"] > 0
    assert logged["saturation"] == logged["dq_da_outward"] == 0


@pytest.mark.parametrize(("sign", "share"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_slope_counts_as_outward_only_where_it_points_out_of_the_box(sign, share):
    agent = new_agent("none", weight_decay=0.0, critic_learning_rate=1e-2)
    agent.actor.layers[-1].bias.assign([4.0, -4.0])  # in front of tanh: both actions at an edge
    agent.actor_optimizer.apply = lambda *_: None  # where they stay
    for seed in range(100):  # the critic learns to like, or to dislike, both
        s, a, _, terminated, next_s = new_batch(64, seed)
        logged = agent.update([s, a, sign * (a[:, :1] - a[:, 1:]), np.ones_like(terminated), next_s], read=True)
    assert logged["saturation"] == 1.0
    assert logged["dq_da_outward"] == share


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    lines = Path(ddpg_tf_explicit.__file__).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"# -+ the training", line))
    alone = {"__name__": "alone"}
    exec("\n".join(lines[:end]), alone)
    keras.utils.set_random_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(16, 12))
    agent, same = alone["DDPG"](OBSERVATION_SIZE, ACTION_SIZE, args), new_agent()
    assert agent.update(new_batch(), read=True) == same.update(new_batch(), read=True)
    identical([x.numpy() for x in agent.variables], [x.numpy() for x in same.variables])


# ---------------------------------------------------------------------------------------------------------- the run
@pytest.fixture(scope="module")
def smoke(complete_run):
    """A run of a few hundred steps: its directory, what it printed."""
    return complete_run(ddpg_tf_explicit, SHORT)


def test_tensorflow_does_not_chatter(smoke):
    assert smoke[2] == ""


def test_a_run_leaves_the_same_files_as_the_other_script_but_for_the_format_of_the_weights(smoke):
    names = {file.name for file in smoke[0].iterdir() if not file.name.startswith(("events", "."))}
    logs = {"episodes.csv", "evaluations.csv", "updates.csv", "args.json", "summary.json"}
    assert names == logs | {"learning_curve.png", "learning_curve.pdf", "best.npz", "last.npz", "checkpoint.npz"}
    versions = json.loads((smoke[0] / "args.json").read_text())["versions"]
    assert set(versions) == {"python", "gymnasium", "numpy", "tensorflow", "keras"}
    updates = pd.read_csv(smoke[0] / "updates.csv")
    values = ["critic_loss", "dq_da_norm", "q", "saturation", "dq_da_outward"]
    assert list(updates) == ["step", *values, "noise_sigma"]
    assert (updates["dq_da_norm"] > 0).all()


def test_the_script_imports_no_torch():
    code = "import sys, ddpg_tf_explicit; sys.exit('torch' in sys.modules)"
    folder = os.path.dirname(ddpg_tf_explicit.__file__)
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True).returncode == 0


def test_a_seed_fixes_everything_whatever_the_process_did_before(smoke, command, folder):
    tf.random.normal((3,))
    assert command(*SHORT, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", smoke[0])


def test_another_seed_gives_other_weights(smoke, command, folder):
    assert command(*SHORT, "--seed", 1, "--run-name", "other")[0] == 0
    assert (folder / "runs/other/updates.csv").read_bytes() != (smoke[0] / "updates.csv").read_bytes()


@pytest.mark.parametrize("kill_at", [120, 420])
def test_a_run_killed_before_its_first_checkpoint_or_after_it_equals_one_never_killed(
    kill_at, smoke, script, command, folder, monkeypatch
):
    class Killed(BaseException):
        pass

    after_step = script.Run.after_step

    def dying(run, *values):
        after_step(run, *values)
        if run.step == kill_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "after_step", dying)
        with pytest.raises(Killed):
            command(*SHORT, "--run-name", "killed")
    status, _, err = command("--resume", "runs/killed")
    assert (status, err) == (0, "")
    assert_same_run(folder / "runs/killed", smoke[0])


def test_a_run_killed_by_sigkill_equals_one_never_killed(smoke, command, folder):
    command_line = [sys.executable, ddpg_tf_explicit.__file__, *map(str, SHORT), "--run-name", "killed"]
    process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = folder / "runs/killed/checkpoint.npz"
    while not checkpoint.exists():
        assert process.poll() is None
    process.kill()
    assert process.wait() < 0
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", smoke[0])


def test_best_weights_load_in_ones_own_program_and_earn_what_the_csv_says(smoke, script):
    policy, args = script.load_policy(smoke[0] / "last.npz")
    returns = script.evaluate(script.make_env(args.env_id), policy, 1, args.seed + script.EVALUATION_SEED)
    assert pd.read_csv(smoke[0] / "evaluations.csv")["mean"].iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_prints_every_episode_and_their_mean(smoke, command):
    status, out, _ = command("--evaluate", smoke[0] / "best.npz", "--eval-episodes", 2)
    assert status == 0
    assert len(out.splitlines()) == 3
    assert "mean" in out


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.fixture
def run(smoke, folder):
    return shutil.copytree(smoke[0], folder / "runs" / "run")


def refused(result, *parts):
    status, _, err = result
    assert status == 2
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert "Traceback" not in err


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-500])


def empty(path):
    path.write_bytes(b"")


def hostile_pickle(path):
    path.write_bytes(pickle.dumps(Hostile()))


def hostile_array(path):
    content = {"script": "ddpg_tf_explicit", "agent": {"array": "arr_1"}}
    np.savez(path, json.dumps(content), np.array([Hostile()], dtype=object))


def hostile_first_array(path):
    np.savez(path, np.array([Hostile()], dtype=object))


def zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", b"nothing")


def of_another_network(path):
    content = contents(path)
    content[1:] = [x[..., :3] if x.ndim else x for x in content[1:]]
    with open(path, "wb") as file:
        np.savez(file, *content)


@pytest.mark.parametrize(
    "damage",
    [truncated, empty, hostile_pickle, hostile_array, hostile_first_array, zip_of_something_else, of_another_network],
)
def test_a_checkpoint_that_is_damaged_foreign_or_hostile_is_refused_and_no_code_in_it_runs(
    damage, command, run, folder
):
    damage(run / "checkpoint.npz")
    before = {file: file.read_bytes() for file in run.iterdir()}
    refused(command("--resume", run), "checkpoint.npz")
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    damage(run / "best.npz")
    refused(command("--evaluate", run / "best.npz"), "best.npz")
    assert not (folder / "hacked").exists()


def test_each_script_refuses_a_run_of_the_other_and_says_which_to_use(command, run, script, monkeypatch):
    content = json.loads((run / "args.json").read_text())
    content["script"] = "ddpg_continuous"
    (run / "args.json").write_text(json.dumps(content))
    refused(command("--resume", run), "args.json", "use that script")
    ddpg_continuous.save(run / "best.pt", {"agent": {}})
    refused(command("--evaluate", run / "best.pt"), "best.pt", "foreign")


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(command, folder):
    refused(command("--device", "gpu"), "--device gpu", "--device cpu")
    assert not (folder / "runs").exists()


def test_a_value_out_of_range_is_refused(command, folder):
    refused(command("--tau", 1.5), "--tau")
    assert not (folder / "runs").exists()


def test_help_names_the_script(command):
    status, out, _ = command("--help")
    assert status == 0
    assert "ddpg_tf_explicit.py --env-id Pendulum-v1" in out
    assert ".pt" not in out


def test_a_program_that_has_loaded_a_policy_can_still_train(smoke, folder):
    code = "import ddpg_tf_explicit as d, sys; policy, args = d.load_policy(sys.argv[1]); policy(d.np.zeros(3, 'f'))"
    code += "; args.run_name, args.num_threads = 'more', 2; d.train(args)"
    environment = {**os.environ, "PYTHONPATH": str(Path(ddpg_tf_explicit.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code, smoke[0] / "best.npz"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/more/last.npz").exists()
