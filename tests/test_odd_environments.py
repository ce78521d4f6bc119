"""Environments with the habits of people's own: each trains, or is refused in one line.

CASES says which script runs which of them, and how that ends. What it rests on is the same text in
all scripts (test_repository.py), so that each case runs in one script that takes its actions.
"""

import os
import sys

import gymnasium as gym
import numpy as np
import odd_environments
import pandas as pd
import pytest
from helpers import (
    Killed,
    assert_same_run,
    checkpoint_step,
    refused,
    summary,
)

import ddpg_continuous
import dqn

pytestmark = [
    pytest.mark.usefixtures("folder"),
    pytest.mark.filterwarnings("ignore:.*WARN", "ignore:overflow"),
]
SMALL = (
    *("--hidden-sizes", 16, 16, "--batch-size", 8, "--eval-episodes", 2),
    *("--total-timesteps", 300, "--eval-every", 100, "--checkpoint-every", 150),
)
TRAINS = ()
UNUSUAL_BOX = ("Box", "float vectors", "bounded")
CASES = [
    # Randomness and memory
    ("Base-v0", ddpg_continuous, TRAINS),
    ("OwnRandom-v0", ddpg_continuous, TRAINS),
    ("LegacyRandom-v0", ddpg_continuous, TRAINS),
    ("Twister-v0", ddpg_continuous, TRAINS),
    ("GlobalRandom-v0", ddpg_continuous, TRAINS),
    ("ModuleRandom-v0", ddpg_continuous, TRAINS),
    ("Curriculum-v0", ddpg_continuous, TRAINS),
    ("Normalised-v0", ddpg_continuous, TRAINS),
    ("Shifted-v0", ddpg_continuous, TRAINS),
    # How it is made, closed, limited
    ("NoRenderArgument-v0", ddpg_continuous, TRAINS),
    ("Spawns-v0", ddpg_continuous, TRAINS),
    ("Closes-v0", ddpg_continuous, TRAINS),
    ("Limited-v0", ddpg_continuous, TRAINS),
    ("LimitedByNumpy-v0", ddpg_continuous, ("max_episode_steps", "integer")),
    ("Checked-v0", ddpg_continuous, TRAINS),
    ("Threshold-v0", ddpg_continuous, TRAINS),
    ("Prints-v0", ddpg_continuous, TRAINS),
    ("NoFps-v0", ddpg_continuous, TRAINS),
    ("NoMetadata-v0", ddpg_continuous, TRAINS),
    ("OldMetadata-v0", ddpg_continuous, TRAINS),
    ("RenderNone-v0", ddpg_continuous, TRAINS),
    ("RenderFloat-v0", ddpg_continuous, TRAINS),
    ("RenderModeForgotten-v0", ddpg_continuous, TRAINS),
    ("OneAtATime-v0", ddpg_continuous, ("address already in use", "--eval-every 0")),
    ("PortAtReset-v0", ddpg_continuous, ("address already in use", "--eval-every 0")),
    ("NoSpaces-v0", ddpg_continuous, ("spaces", "NoSpaces-v0 failed", "action_space")),
    ("ThresholdText-v0", ddpg_continuous, ("reward_threshold", "high")),
    ("Needs-v0", ddpg_continuous, ("pip install package_that_is_not_installed",)),
    ("NeedsUnversioned", ddpg_continuous, ("pip install package_that_is_not_installed",)),
    ("Two-v0", ddpg_continuous, ("pip install package_that_is_not_installed",)),
    ("Newer-v0", ddpg_continuous, ("use `Newer-v1`",)),  # registered is Newer-v1 alone
    ("WrongEntry-v0", ddpg_continuous, ("no_such_module",)),
    ("WrongClass-v0", ddpg_continuous, ("no attribute 'NoSuchClass'",)),
    ("Kwargs-v0", ddpg_continuous, ("unexpected keyword argument 'unknown'",)),
    # Its interface
    ("OldReset-v0", ddpg_continuous, ("step 0:", "reset() failed", "argument 'seed'")),
    ("ResetNoInfo-v0", ddpg_continuous, ("step 0:", "reset()", "observation, info")),
    ("ResetPairNoInfo-v0", ddpg_continuous, ("step 0:", "reset()", "observation, info")),
    ("Options-v0", ddpg_continuous, ("step 0:", "reset() failed", "TypeError")),
    ("OldStep-v0", ddpg_continuous, ("step 0:", "step() failed", "expected 5, got 4")),
    ("OldStepUnchecked-v0", ddpg_continuous, ("step 0:", "step()", "terminated, truncated")),
    ("RaisesFrom-v0", ddpg_continuous, ("step() failed", "ValueError", "no state")),
    ("Raises-v0", ddpg_continuous, ("step() failed", "RuntimeError", "became unstable")),
    ("RaisesFromItself-v0", ddpg_continuous, ("step() failed", "RuntimeError", "unstable")),
    ("Exits-v0", ddpg_continuous, ("step() failed", "SystemExit")),
    ("Panics-v0", ddpg_continuous, ("step() failed", "Panic")),
    ("Threaded-v0", ddpg_continuous, TRAINS),
    ("ChangesFolder-v0", ddpg_continuous, TRAINS),
    ("RaisesOSError-v0", ddpg_continuous, ("step() failed", "ConnectionResetError")),
    # Observations
    ("WrongShape-v0", ddpg_continuous, ("step 0:", "shape (3, 1)", "says (3,)")),
    ("WrongSize-v0", ddpg_continuous, ("step 0:", "shape (4,)", "says (3,)")),
    ("DictObservation-v0", ddpg_continuous, ("reading the observation failed", "TypeError")),
    ("ScalarObservation-v0", ddpg_continuous, ("step 0:", "shape ()", "says (1,)")),
    ("ColumnObservation-v0", ddpg_continuous, ("step 0:", "shape (1, 1)", "says (1,)")),
    ("Zero-v0", ddpg_continuous, ("observes", "(0,)", "one number or more")),
    ("ZeroDim-v0", ddpg_continuous, ("observes", "()", "vector")),
    ("Bytes-v0", ddpg_continuous, TRAINS),
    ("Big-v0", ddpg_continuous, ("step 0:", "observation is not finite")),
    ("Timestamps-v0", ddpg_continuous, TRAINS),
    # Rewards and ends
    ("RewardVector-v0", ddpg_continuous, TRAINS),
    ("DoneVector-v0", ddpg_continuous, TRAINS),
    ("RewardInteger-v0", ddpg_continuous, TRAINS),
    ("TerminatedNone-v0", ddpg_continuous, ("terminated is None", "one number")),
    ("TerminatedNaN-v0", ddpg_continuous, ("step 0:", "terminated is not finite: nan")),
    ("TruncatedNaN-v0", ddpg_continuous, ("step 0:", "truncated is not finite: nan")),
    ("TruncatedNone-v0", ddpg_continuous, ("truncated is None", "one number")),
    ("RewardNone-v0", ddpg_continuous, ("step 0:", "the reward is None", "one number")),
    ("RewardTwo-v0", ddpg_continuous, ("step 0:", "the reward is [", "one number")),
    ("RewardRagged-v0", ddpg_continuous, ("step 0:", "reading the reward failed")),
    ("RewardTensor-v0", ddpg_continuous, ("step 0:", "reading the reward failed", "grad")),
    ("RewardText-v0", ddpg_continuous, ("step 0:", "the reward is high", "one number")),
    # Actions
    ("Asymmetric-v0", ddpg_continuous, TRAINS),
    ("HalfPrecision-v0", ddpg_continuous, TRAINS),
    ("Integers-v0", ddpg_continuous, (*UNUSUAL_BOX, "int32")),
    ("IntegersAndCloses-v0", ddpg_continuous, (*UNUSUAL_BOX, "int32")),
    ("HugeAction-v0", ddpg_continuous, UNUSUAL_BOX),
    ("ZeroDimAction-v0", ddpg_continuous, UNUSUAL_BOX),
    ("D-v0", ddpg_continuous, ("Discrete", "dqn.py")),
    ("SpawnsDiscrete-v0", ddpg_continuous, ("Discrete", "dqn.py")),
    ("D-v0", dqn, TRAINS),
    ("DNegative-v0", dqn, TRAINS),
    ("DStrict-v0", dqn, TRAINS),
    ("DMasked-v0", dqn, TRAINS),
    ("DMulti-v0", dqn, ("MultiDiscrete", "Discrete")),
    ("DBinary-v0", dqn, ("MultiBinary", "Discrete")),
    ("DDiscreteObservation-v0", dqn, ("observes Discrete", "vector")),
    ("DTuple-v0", dqn, ("observes Tuple", "vector")),
    ("Base-v0", dqn, ("Box", "Discrete", "ddpg_continuous.py")),
]
ELSEWHERE = {
    "Endless-v0",  # test_what_no_time_limit_means_is_said_in_one_line_at_the_start
    "Two-v1",  # beside Two-v0
    "Newer-v1",  # beside Newer-v0, which is not registered
}


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """Whatever the environments have noted of those before them is forgotten."""
    odd_environments.Raises.steps = 0
    for noted in (odd_environments.OPEN, odd_environments.CLOSED, odd_environments.CHILDREN):
        noted.clear()


@pytest.fixture
def script(request):
    """The script of a test that names one."""
    return getattr(request, "param", ddpg_continuous)


def flags_of(name, *flags):
    return ("--env-id", f"odd_environments:{name}", *SMALL, "--run-name", "run", *flags)


# ------------------------------------------------------------------------------------ all of them
@pytest.mark.parametrize(
    ("name", "script", "parts"),
    CASES,
    indirect=["script"],
    ids=[f"{name}-{script.SCRIPT}" for name, script, _ in CASES],
)
def test_each_trains_or_is_refused_in_one_line(name, script, parts, command, folder):
    flags = flags_of(name)
    if script is ddpg_continuous:
        flags = (*flags, "--learning-starts", 20)
    status, _, err = command(*flags)
    if parts:
        last_line = err.splitlines()[-1]
        assert status == 2
        for part in parts:
            assert part in last_line, last_line
    else:
        assert status == 0, err
        assert summary(folder / "runs/run")["steps"] == 300
        os.chdir(folder)  # one of them changes it
        assert command("--resume", "runs/run", "--total-timesteps", 310)[0] == 0


def test_no_case_is_forgotten():
    registered = {
        env_id
        for env_id, spec in gym.registry.items()
        if getattr(spec.entry_point, "__module__", "") == "odd_environments"
        or str(spec.entry_point).startswith(("odd_environments:", "no_such_module:"))
    }
    assert len(registered) > 50
    cases = {name for name, *_ in CASES}
    assert registered | {"Newer-v0"} == cases | ELSEWHERE


def test_far_away_observations_are_learned_from_with_batch_norm(command, folder):
    flags = (
        *("--total-timesteps", 1_000, "--eval-every", 1_000, "--eval-episodes", 10),
        *("--learning-starts", 200, "--batch-size", 64, "--gamma", 0, "--no-anneal"),
        *("--actor-learning-rate", 1e-3),
    )
    assert command(*flags_of("Shifted-v0", *flags))[0] == 0
    before, after = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"]
    assert after > 0.1 * before  # both are negative; without a norm it would be worse than before


# ------------------------------------------------------------------------------------- randomness
def die_after_the_first_checkpoint(command, monkeypatch, *flags):
    save_checkpoint = ddpg_continuous.Run.save_checkpoint

    def save_and_die(run):
        save_checkpoint(run)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ddpg_continuous.Run, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            command(*flags)


@pytest.mark.parametrize("name", ["Base-v0", "OwnRandom-v0", "LegacyRandom-v0", "Twister-v0"])
def test_one_seed_is_one_run_also_after_a_kill_whatever_generator_reset_seeds(
    name, command, folder, monkeypatch
):
    flags = flags_of(name, "--learning-starts", 20)
    for run in ("one", "two"):
        assert command(*flags, "--run-name", run)[0] == 0
    die_after_the_first_checkpoint(command, monkeypatch, *flags, "--run-name", "killed")
    assert checkpoint_step(folder / "runs/killed") == 150
    assert command("--resume", "runs/killed")[0] == 0
    for run in ("two", "killed"):
        assert_same_run(folder / "runs" / run, folder / "runs/one")


@pytest.mark.parametrize("name", ["GlobalRandom-v0", "ModuleRandom-v0"])
def test_an_environment_that_draws_from_a_global_generator_is_seeded_at_the_start(
    name, command, folder
):
    flags = flags_of(name, "--learning-starts", 20)
    for run in ("one", "two"):
        assert command(*flags, "--run-name", run)[0] == 0
    assert_same_run(folder / "runs/two", folder / "runs/one")


def test_no_two_episodes_of_these_runs_and_their_evaluations_have_the_same_seed():
    seeds = [
        ddpg_continuous.episode_seed(seed, episode) for seed in range(20) for episode in range(500)
    ]
    evaluations = {ddpg_continuous.EVALUATION_SEED + i for i in range(40)}
    assert len({*seeds, *evaluations}) == len(seeds) + len(evaluations)
    assert min(seeds) >= 0 and max(seeds) < 2**31  # as C++ takes them
    assert ddpg_continuous.episode_seed(3, 7) == ddpg_continuous.episode_seed(3, 7)


def test_an_environment_that_learns_across_episodes_goes_on_after_a_checkpoint(command, folder):
    flags = flags_of("Curriculum-v0", "--checkpoint-every", 50)
    assert command(*flags)[0] == 0
    returns = pd.read_csv(folder / "runs/run/episodes.csv")["return"]
    assert list(returns) == [10.0 * level for level in range(1, 31)]
    assert checkpoint_step(folder / "runs/run") == 300


# ---------------------------------------------------------------------------- opened and closed
@pytest.mark.parametrize("ending", ["finished", "unsuitable", "refused", "failed", "interrupted"])
def test_an_environment_is_closed_however_the_run_ends(ending, command, folder, monkeypatch):
    flags = flags_of("Spawns-v0")
    status = 0
    if ending == "unsuitable":
        flags = flags_of("SpawnsDiscrete-v0")
        status = 2
    elif ending == "refused":
        (folder / "runs/run").mkdir(parents=True)
        (folder / "runs/run/notes.txt").write_text("mine")
        status = 2
    elif ending != "finished":
        error = KeyboardInterrupt if ending == "interrupted" else RuntimeError
        status = 130 if ending == "interrupted" else 2

        def fail(env, action):
            raise error("now")

        monkeypatch.setattr(odd_environments.Spawns, "step", fail)
    assert command(*flags)[0] == status
    assert_all_children_have_ended()


def assert_all_children_have_ended():
    assert odd_environments.CHILDREN
    assert all(child.poll() is not None for child in odd_environments.CHILDREN)


def test_the_environments_that_try_a_video_are_closed(command):
    assert command(*flags_of("Spawns-v0", "--eval-every", 0, "--capture-video"))[0] == 0
    assert len(odd_environments.CHILDREN) == 3  # a frame, a video, the training
    assert_all_children_have_ended()


def test_what_close_raises_is_shown_and_changes_nothing_else(command, folder):
    status, out, err = command(*flags_of("Closes-v0"))
    assert status == 0
    assert "finished after 300 steps" in out
    assert "close() failed: ConnectionResetError: [Errno 104] Connection reset by peer" in err


def test_where_only_one_environment_can_be_open_a_run_goes_through_without_evaluations(
    command, folder
):
    assert command(*flags_of("OneAtATime-v0", "--eval-every", 0))[0] == 0
    assert summary(folder / "runs/run")["steps"] == 300
    assert command("--evaluate", "runs/run/last.pt", "--eval-episodes", 1)[0] == 0
    assert not odd_environments.OPEN


def test_an_id_of_ones_own_is_not_retired_even_if_gymnasium_once_had_it(capsys):
    gym.register("Pendulum-v0", odd_environments.Base)
    try:
        with ddpg_continuous.make_env("Pendulum-v0") as env:
            assert type(env.unwrapped) is odd_environments.Base
    finally:
        del gym.registry["Pendulum-v0"]
    assert "retired" not in capsys.readouterr().out


def test_a_gymnasium_environment_that_cannot_be_made_anew_is_named(command, monkeypatch):
    make = gym.make
    made = []

    def make_once(env_id, **options):
        if made:
            raise RuntimeError("no licence")
        made.append(env_id)
        return make(env_id, **options)

    monkeypatch.setattr(gym, "make", make_once)
    status, _, err = command(*SMALL, "--env-id", "Pendulum-v1", "--eval-every", 0)
    assert status == 2
    failure = "making Pendulum-v1 failed: RuntimeError: no licence"
    assert err.splitlines()[-1] == f"step 200: {failure}; the checkpoint of step 200 is intact"


def test_gymnasiums_own_environments_are_made_anew_at_a_checkpoint_after_the_old_one_is_closed(
    command, monkeypatch
):
    events = []
    make = gym.make

    def noting_make(env_id, **options):
        env = make(env_id, **options)
        events.append(("made", getattr(env_id, "id", env_id)))
        close = env.close

        def noting_close():
            events.append(("closed", env.spec.id))
            close()

        env.close = noting_close
        return env

    monkeypatch.setattr(gym, "make", noting_make)
    flags = (*SMALL, "--env-id", "Pendulum-v1", "--eval-every", 0, "--total-timesteps", 450)
    assert command(*flags)[0] == 0
    made_and_closed = [("made", "Pendulum-v1"), ("closed", "Pendulum-v1")]
    assert events == made_and_closed * 3  # at the start, and at the steps 200 and 400


# -------------------------------------------------------------------------------- no time limit
def test_what_no_time_limit_means_is_said_in_one_line_at_the_start(command, monkeypatch):
    # An evaluation would never end
    monkeypatch.setattr(ddpg_continuous, "episodic_returns", lambda *_: [0.0])
    status, out, _ = command(*flags_of("Endless-v0"))
    assert status == 0
    first_line = out.splitlines()[0]
    for part in ("odd_environments:Endless-v0", "without a time limit", "max_episode_steps"):
        assert part in first_line
    assert "without a time limit" in command("--evaluate", "runs/run/last.pt")[1].splitlines()[0]
    for name in ("odd_environments:Limited-v0", "Pendulum-v1"):
        flags = ("--env-id", name, "--run-name", name)
        assert "time limit" not in command(*SMALL, *flags)[1]


# --------------------------------------------------------------------------------- what it raises
def test_what_a_thread_of_the_environment_raises_is_shown(command):
    _, _, err = command(*flags_of("Threaded-v0"))
    assert "ConnectionResetError" in err


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Raises-v0", "RuntimeError: simulation became unstable"),
        ("RaisesOSError-v0", "ConnectionResetError: [Errno 104] Connection reset by peer"),
        ("Exits-v0", "SystemExit"),
        ("Panics-v0", "Panic"),
    ],
)
def test_what_an_environment_raises_is_named_with_step_and_checkpoint_below_its_own_traceback(
    name, error, command, folder
):
    flags = flags_of(name, "--eval-every", 0, "--checkpoint-every", 100)
    status, _, err = command(*flags)
    assert status == 2
    lines = err.splitlines()
    assert lines[-1] == f"step 151: step() failed: {error}; the checkpoint of step 100 is intact"
    assert lines[0] == "Traceback (most recent call last):"
    files = [line for line in lines if line.lstrip().startswith("File ")]
    assert files
    assert all("odd_environments.py" in line for line in files), "not its own code"
    odd_environments.Raises.steps = -1000
    assert command("--resume", "runs/run")[0] == 0
    assert summary(folder / "runs/run")["steps"] == 300


def test_no_traceback_where_the_fault_is_in_what_the_environment_declares(command):
    for name in (
        *("WrongShape-v0", "RewardTwo-v0", "OldReset-v0", "Kwargs-v0", "Newer-v0"),
        *("WrongEntry-v0", "WrongClass-v0"),
    ):
        status, _, err = command(*flags_of(name, "--run-name", name))
        assert status == 2
        assert "Traceback" not in err, name


def test_an_error_from_another_one_is_shown_with_it_and_once(command):
    _, _, err = command(*flags_of("RaisesFrom-v0", "--eval-every", 0))
    assert err.count("Traceback") == 2
    assert err.count("RuntimeError: simulation became unstable") == 1
    assert err.count("ValueError: no state") == 2  # in the traceback and in the last line


def test_gymnasiums_own_warnings_are_shown(command):
    _, _, err = command(*flags_of("WrongShape-v0"))
    assert "not within the observation space" in err


# -------------------------------------------------------------------------------------- its frames
@pytest.mark.parametrize(
    "name",
    [
        *("NoRenderArgument-v0", "NoMetadata-v0", "RenderNone-v0"),
        *("RenderFloat-v0", "RenderModeForgotten-v0"),
    ],
)
def test_without_frames_no_video_is_begun_and_nothing_is_left(name, command, folder):
    status, _, err = command(*flags_of(name, "--capture-video"))
    assert status == 2
    assert "render" in err.splitlines()[-1]
    assert err.splitlines()[-1].count("--capture-video") == 1
    is_its_own_code = "failed" in err.splitlines()[-1]
    assert ("MUJOCO_GL" in err.splitlines()[-1]) == is_its_own_code
    assert not (folder / "runs").exists()


def test_without_moviepy_no_video_is_begun_and_the_line_says_how_to_get_it(
    command, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "moviepy", None)
    refused(command(*flags_of("Base-v0", "--capture-video")), "no video", "MoviePy", "pip install")
    assert not (folder / "runs").exists()


def test_without_frames_the_weights_are_not_blamed(command, folder):
    assert command(*flags_of("RenderNone-v0"))[0] == 0
    message = refused(command("--evaluate", "runs/run/best.pt", "--capture-video"), "render()")
    assert "best.pt" not in message
    assert not (folder / "runs/run/videos").exists()


def test_what_render_raises_names_what_mujoco_needs_without_a_display(command, folder, monkeypatch):
    def render(env):
        raise RuntimeError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(odd_environments.Base, "render", render)
    result = command(*flags_of("Base-v0", "--capture-video"))
    message = result[2].splitlines()[-1]
    assert result[0] == 2
    assert "MUJOCO_GL=egl" in message
    assert "OpenGL" in message
    assert not (folder / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a display")
def test_render_without_a_display_is_refused_before_mujoco_aborts_the_process(command, monkeypatch):
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ddpg_continuous.RunError, match="needs a display"):
        ddpg_continuous.check_display()
    result = command("--evaluate", "runs/run/best.pt", "--render")
    refused(result, "--render", "DISPLAY", "--capture-video")
    for name in names:
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            ddpg_continuous.check_display()


# ---------------------------------------------------------------------------- kinds of numbers
def test_actions_of_dqn_are_plain_integers_as_the_environment_numbers_them(monkeypatch):
    taken = []
    step = odd_environments.DNegative.step

    def noting_step(env, action):
        taken.append(action)
        return step(env, action)

    monkeypatch.setattr(odd_environments.DNegative, "step", noting_step)
    env = dqn.make_env("odd_environments:DNegative-v0")
    env.reset(seed=0)
    for action in (0, np.int64(1), 2):
        env.step(action)
    assert taken == [-1, 0, 1]
    assert {type(action) for action in taken} == {int}


def test_an_untrained_policy_can_be_at_the_threshold_which_may_be_numpys(command, folder):
    assert command(*flags_of("Threshold-v0"))[0] == 0
    assert summary(folder / "runs/run")["solved_at_step_by"]["evaluation"] == 0
