"""ddpg_keras.py on the other backends: its tests once more, each backend in its own process.

In a process, Keras has one backend for good.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import OF_THE_SHELL, ROOT, SHORT_NPZ, process_variables, refused

import ddpg_keras

BACKENDS = ["tensorflow", "jax", "torch"]
OTHERS = [backend for backend in BACKENDS if backend != ddpg_keras.BACKEND]


@pytest.fixture
def backend(request):
    """The name of a backend that is installed."""
    pytest.importorskip(request.param)
    return request.param


def python(*words, backend, folder=ROOT, **variables):
    """Runs Python in a new process, on this backend: exit status, stdout, stderr."""
    variables = process_variables(KERAS_BACKEND=backend, **variables)
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
@pytest.mark.parametrize("name", ["test_keras.py", "test_npz.py"])
def test_every_test_of_the_script_passes_on_the_other_backends_too(name, backend):
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow")
    no_backend_decides = "refused or refuses or help"
    words += ("-k", f"not ({no_backend_decides})")
    status, out, err = python(*words, ROOT / "tests" / name, backend=backend)
    assert status == 0, out[-5_000:] + err[-2_000:]
    assert " passed" in out


PLAY = """if True:
    import json, sys
    import numpy as np
    import ddpg_keras
    policy, _ = ddpg_keras.load_policy(sys.argv[1])
    actions = [policy(s).tolist() for s in np.eye(3, dtype=np.float32)]
    print(json.dumps([ddpg_keras.BACKEND, actions]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS, indirect=True)
def test_weights_play_on_every_backend_whichever_trained_them(backend, finished_run):
    run, _, _ = finished_run(ddpg_keras, *SHORT_NPZ)
    policy, _ = ddpg_keras.load_policy(run / "last.npz")
    expected = [policy(s) for s in np.eye(3, dtype=np.float32)]
    status, out, err = python("-c", PLAY, run / "last.npz", backend=backend)
    assert status == 0, err
    name, actions = json.loads(out.splitlines()[-1])
    assert name == backend
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-6)
    words = (ROOT / "ddpg_keras.py", "--resume", run, "--total-timesteps", 500)
    result = python(*words, backend=backend)
    refused(result, f"KERAS_BACKEND={ddpg_keras.BACKEND}")


@pytest.mark.parametrize("name", ["nonsense", "numpy", "openvino"])
def test_a_backend_that_is_unknown_unfit_or_not_installed_ends_in_one_line(name, tmp_path):
    if name == "openvino":
        module = tmp_path / "openvino.py"
        module.write_text("raise ModuleNotFoundError(\"No module named 'openvino'\")")
    words = (ROOT / "ddpg_keras.py",)
    result = python(*words, backend=name, folder=tmp_path, PYTHONPATH=str(tmp_path))
    hint = "set KERAS_BACKEND to tensorflow, jax or torch, and pip install that"
    message = refused(result, hint)
    # Where scipy is not installed, Keras's numpy backend ends with scipy's name instead
    assert name in message or (name == "numpy" and "scipy" in message)
    assert not (tmp_path / "runs").exists()


COUNT_BUSY_THREADS = """if True:
    import os
    import numpy as np
    import ddpg_keras

    def ticks():
        \"\"\"The processor time of every thread so far.\"\"\"
        spent = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/stat") as file:
                columns = file.read().rpartition(")")[2].split()
            spent[thread] = int(columns[11]) + int(columns[12])
        return spent

    agent = ddpg_keras.DDPG(3, 2, ddpg_keras.Args(hidden_sizes=(1200, 1200)))
    rng = np.random.default_rng(0)
    shapes = [(64, 3), (64, 2), (64, 1), (64, 1), (64, 3)]
    batch = [rng.random(shape, np.float32) for shape in shapes]

    def update():
        return {name: float(value) for name, value in agent.update(batch).items()}

    update()
    before = ticks()
    for _ in range(30):
        update()
    spent = [after - before.get(thread, 0) for thread, after in ticks().items()]
    names = []
    for thread in ticks():
        with open(f"/proc/self/task/{thread}/comm") as file:
            names.append(file.read().strip())
    of_xla = names.count("tf_XLAEigen")  # TensorFlow's own threads move about
    print(of_xla or sum(x > 0.2 * max(spent) for x in spent))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads as Linux shows them")
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_another_thread_works_only_if_omp_num_threads_asks_for_it(backend, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "PJRT_NPROC"):
        monkeypatch.delitem(OF_THE_SHELL, name, raising=False)
    counts = []
    for variables in ({}, {"OMP_NUM_THREADS": "2"}):
        status, out, err = python("-c", COUNT_BUSY_THREADS, backend=backend, **variables)
        assert status == 0, err
        counts.append(int(out))
    assert counts == [1, 2]


TYPES = """if True:
    import ddpg_keras
    agent = ddpg_keras.DDPG(3, 2, ddpg_keras.Args(hidden_sizes=(8, 8)))
    to_name = ddpg_keras.keras.backend.standardize_dtype
    print({str(to_name(x.dtype)) for x in agent.actor.variables})
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_keras_json_of_ones_own_does_not_change_the_precision(backend, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "float64", "epsilon": 1e-3}))
    status, out, err = python("-c", TYPES, backend=backend, KERAS_HOME=str(tmp_path))
    assert (status, out.strip()) == (0, "{'float32'}"), err
