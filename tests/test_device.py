"""The device, and what other software on the machine may have set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, REPOSITORY, example_settings

import model
import train
from icesheet import device, files
from icesheet.device import tf

KERAS_JSON = {"backend": "jax", "floatx": "float64", "epsilon": 1e-3,
              "image_data_format": "channels_first"}


def test_layers_are_the_same_whatever_else_is_set_on_the_machine(tmp_path):
    """One process: KERAS_BACKEND, legacy Keras, ~/.keras/keras.json, no temporary folder."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(KERAS_JSON))
    (tmp_path / "sitecustomize.py").write_text(
        "import tempfile\ndef fail():\n    raise FileNotFoundError('No usable temporary directory')"
        "\ntempfile._get_default_tempdir = fail\n")
    settings = example_settings(2, channels="thk", filters=[2], kernels=[3, 3])
    kernel = model.build_layers(settings)["stage1"]["conv1"].kernel
    code = ("import json, sys, model; from icesheet.device import set_up_device; set_up_device(); "
            "kernel = model.build_layers(json.loads(sys.argv[1]))['stage1']['conv1'].kernel; "
            "print(kernel.dtype, kernel.numpy().ravel().tolist())")
    printed = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)], cwd=REPOSITORY, capture_output=True,
        text=True, env={name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
        | {"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "HOME": str(tmp_path),
           "PYTHONPATH": str(tmp_path)})
    assert printed.stderr == ""
    assert printed.stdout == f"{kernel.dtype} {kernel.numpy().ravel().tolist()}\n"
    assert kernel.dtype == "float32"


@pytest.mark.parametrize("arguments, status", [(False, 0), (True, 2)], ids=["files", "--show"])
def test_a_backend_that_cannot_be_had_is_an_error_for_show_alone(arguments, status, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.dpi: 10\n")
    code = ("from icesheet import command_line, figures; command_line.run_script(lambda: ("
            f"figures.select_backend({arguments}), "
            "figures.save_figure(figures.plt.figure(), 'a.png', {}))[:0] or 0)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"MPLBACKEND": "module://no_such_backend", "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == status, done.stderr
    assert (tmp_path / "a.png").exists() == (status == 0)
    if status:
        assert "error: --show: no window" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("variables, expected", [
    ({"TF_NUM_INTRAOP_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3), ({"OMP_NUM_THREADS": "5,2"}, 5),
    ({"OMP_NUM_THREADS": "many"}, None), ({"OMP_NUM_THREADS": "0"}, None), ({}, None)])
def test_number_of_threads_is_the_user_s_wish_or_the_cores(variables, expected, monkeypatch):
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert device.count_threads() == (expected or len(os.sched_getaffinity(0)))


def test_tf32_is_off_and_kernels_are_deterministic():
    tf.config.experimental.enable_tensor_float_32_execution(True)
    chosen = device.set_up_device()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert chosen == {"name": "CPU", "is_gpu": False,
                      "n_threads": device.count_threads()}


def test_tensorflow_messages_are_hidden_but_where_a_gpu_cannot_be_used(monkeypatch, capfd):
    monkeypatch.setattr(device, "captured_stderr", [])
    with pytest.raises(ZeroDivisionError), device.capture_stderr():
        os.write(2, b"no libcuda\n")  # as the C++ part does
        raise ZeroDivisionError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for hidden, device_files, printed in (
            (None, [], []), (None, [Path("/dev/nvidia0")], [
                "note: TensorFlow cannot use the GPU of this machine:", "  no libcuda",
                "  pip install 'tensorflow[and-cuda]' brings the CUDA libraries that it needs"]),
            ("-1", [Path("/dev/nvidia0")], [])):  # the user hid it
        monkeypatch.setattr(Path, "glob", lambda self, pattern, there=device_files: iter(there))
        if hidden:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        device.set_up_device()
        assert capfd.readouterr().out.splitlines() == printed


@pytest.mark.parametrize("chosen, expected", [(None, "1"), ("0", "0")])
def test_fast_kernels_are_on_unless_the_user_says_otherwise(chosen, expected, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", chosen)
    device.prepare_environment()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected


# ---------------------------------------------------------------- XLA


def small_step(compiled):
    """Return the MSE and the weights after a step on 5 of 7 random patches, compiled or not."""
    settings = example_settings(2, batch_size=5, filters=[2], kernels=[3, 3])
    layers = model.build_layers(settings)
    optimizer = tf.keras.optimizers.Adam(1e-2)
    optimizer.build(model.list_weights(layers))
    rng = np.random.default_rng(0)
    field = [rng.uniform(0, 900, (7, side, side)).astype(np.float32) for side in (20, 41)]
    inputs = [field, [-level for level in field]]
    variables = [*model.list_weights(layers), *optimizer.variables]
    before = [variable.numpy() for variable in variables]
    step = train.make_train_step(layers, optimizer, settings)
    if compiled:
        step = device.compile_with_xla(step, inputs, settings["batch_size"], variables)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)  # nothing was trained
    mse = step(*([tf.constant(level[:5]) for level in field] for field in inputs))
    return mse.numpy(), [variable.numpy() for variable in model.list_weights(layers)]


def test_step_compiled_by_xla_is_the_plain_step(capsys):
    plain, compiled = small_step(compiled=False), small_step(compiled=True)
    assert capsys.readouterr().out == "training step compiled by XLA\n"
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-4)
    for one, other in zip(compiled[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)  # an Adam step is 1e-2


def test_training_goes_on_where_xla_fails(monkeypatch, capsys):
    plain, make_function = small_step(compiled=False), tf.function

    def fail_after_training(function=None, jit_compile=None, **others):
        def train_then_fail(thk, topg):
            function(thk, topg)
            raise tf.errors.InternalError(None, None, "ptxas not found")
        return train_then_fail if function and jit_compile else make_function(
            function, jit_compile=jit_compile, **others)

    monkeypatch.setattr(tf, "function", fail_after_training)
    np.testing.assert_array_equal(small_step(compiled=True)[0], plain[0])
    assert "XLA cannot compile the training step" in capsys.readouterr().out


# ---------------------------------------------------------------- threads


def test_run_that_resumes_with_other_threads_says_so(quick_run, capsys):
    path = files.CHECKPOINTS / "x4" / "settings.json"
    settings = json.loads(path.read_text())
    n_threads = settings["n_threads"]
    assert n_threads == device.count_threads()
    path.write_text(json.dumps(settings | {"n_threads": 64}))
    (files.RESULTS / "x4" / "metrics.json").unlink()  # else it is finished already
    assert train.main(QUICK) == 0
    printed = capsys.readouterr().out
    assert (f"note: the run was trained with 64 threads and resumes with {n_threads}: last digits "
            "will differ\nresuming after epoch 3\n") in printed.replace(
                next(line for line in printed.splitlines() if "patches  " in line) + "\n", "")
    assert json.loads(path.read_text())["n_threads"] == n_threads
