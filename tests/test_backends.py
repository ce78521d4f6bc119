"""ddpg_keras.py on the other backends: its tests once more, each backend in a process of its own, as Keras demands."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import refused

import ddpg_keras

ROOT = Path(ddpg_keras.__file__).parent
BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"pip install {name}"))
    for name in ("tensorflow", "jax", "torch")
]
OTHERS = [param for param in BACKENDS if param.values != (ddpg_keras.BACKEND,)]


def python(*command, backend, folder=ROOT, **environment):
    """Runs Python in a new process, on this backend: exit status, stdout, stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, **environment}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("name", ["test_keras.py", "test_npz.py"])
def test_every_test_of_the_script_passes_on_the_other_backends_too(name, backend):
    status, out, err = python("-m", "pytest", "-q", ROOT / "tests" / name, backend=backend)
    assert status == 0, out[-5_000:] + err[-2_000:]
    assert " passed" in out
    assert "skipped" not in out


@pytest.mark.parametrize("backend", OTHERS)
def test_weights_play_on_every_backend_whichever_trained_them(backend, complete_run):
    flags = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50, "--eval-every", 0)
    run, _, _ = complete_run(ddpg_keras, (*flags, "--total-timesteps", 90))
    policy, _ = ddpg_keras.load_policy(run / "last.npz")
    expected = [policy(s).tolist() for s in np.eye(2, dtype=np.float32)]
    program = "import ddpg_keras, numpy, json, sys; policy, _ = ddpg_keras.load_policy(sys.argv[1])"
    program += "; print(json.dumps([policy(s).tolist() for s in numpy.eye(2, dtype='float32')]), ddpg_keras.BACKEND)"
    status, out, err = python("-c", program, run / "last.npz", backend=backend)
    assert status == 0, err
    actions, _, name = out.strip().rpartition(" ")
    assert name == backend
    np.testing.assert_allclose(json.loads(actions), expected, rtol=1e-4, atol=1e-6)
    result = python(ROOT / "ddpg_keras.py", "--resume", run, "--total-timesteps", 120, backend=backend)
    refused(result, f"KERAS_BACKEND={ddpg_keras.BACKEND}")


@pytest.mark.parametrize("backend", ["nonsense", "numpy", "openvino"])
def test_a_backend_that_is_unknown_unfit_or_not_installed_ends_in_one_line(backend, tmp_path):
    if backend == "openvino":
        (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError(\"No module named 'openvino'\")")
    result = python(ROOT / "ddpg_keras.py", backend=backend, folder=tmp_path, PYTHONPATH=str(tmp_path))
    refused(result, "KERAS_BACKEND", backend, "tensorflow, jax or torch")
    assert not (tmp_path / "runs").exists()


BUSY_THREADS = """
import os, sys, numpy as np, ddpg_keras as d
agent = d.DDPG(3, 2, d.Args(hidden_sizes=(1200, 1200)))
shapes = ((64, 3), (64, 2), (64, 1), (64, 1), (64, 3))
batch = [np.random.default_rng(0).random(shape, np.float32) for shape in shapes]
ticks = lambda: {t: sum(map(int, open(f"/proc/self/task/{t}/stat").read().rpartition(")")[2].split()[11:13]))
                 for t in os.listdir("/proc/self/task")}
agent.update(batch, read=True)
before = ticks()
for _ in range(30):
    agent.update(batch, read=True)
spent = [after - before.get(thread, 0) for thread, after in ticks().items()]
names = [open(f"/proc/self/task/{t}/comm").read().strip() for t in ticks()]
print(names.count("tf_XLAEigen") or sum(x > 0.2 * max(spent) for x in spent))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux shows them")
@pytest.mark.parametrize("backend", BACKENDS)
def test_another_thread_works_only_if_omp_num_threads_asks_for_it(backend, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    counts = []
    for given in ({}, {"OMP_NUM_THREADS": "2"}):
        status, out, err = python("-c", BUSY_THREADS, backend=backend, **given)
        assert status == 0, err
        counts.append(int(out))
    assert counts == [1, 2]  # threads that were busy; of TensorFlow, whose own move about, those of XLA's pool


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_keras_json_of_ones_own_does_not_change_the_precision(backend, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float64", "epsilon": 1e-3}))
    program = "import ddpg_keras as d; agent = d.DDPG(3, 2, d.Args(hidden_sizes=(8, 8)))"
    program += "; print({str(d.keras.backend.standardize_dtype(x.dtype)) for x in agent.actor.variables})"
    status, out, err = python("-c", program, backend=backend, KERAS_HOME=str(tmp_path))
    assert (status, out.strip()) == (0, "{'float32'}"), err
