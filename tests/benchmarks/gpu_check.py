"""Check that a GPU keeps what the README promises, and say what it gains over the CPU.

    python tests/benchmarks/gpu_check.py

Takes less than 3 minutes and needs no data (synthetic ice sheet). GPU and CPU are checked in a
process of its own each time. Exit status 1 if something does not hold. On a machine without a
GPU that TensorFlow can use the CPU is checked alone.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAX_DEVIATION_M, EPOCHS = 0.01, 4  # epochs of the trainings that are compared
LABELS = {"device": "device", "versions": "versions",
          "deviation_m": "largest deviation from the coarse means, m",
          "same_seed": "two trainings with one seed are equal",
          "resumed": "a stopped training resumes equal", "epoch_s": "an 8x epoch of 140 patches, s",
          "epoch_xla_s": "the same compiled by XLA, s",
          "xla_first_s": "first call of that, s", "map_s": "a 2x map of 205 x 410 cells, s"}


def make_settings(patches, *argv):
    """Return the settings of a run with these options of train.py."""
    args = training_runs.parse_training_arguments("", tuple(train.RECIPES), argv)
    return train.make_settings(args) | {"patches": "none.nc", "data": patches["data"]}


def train_run(run, patches, is_gpu, stop_after=None):
    """Train a run, stopped by a signal and resumed if asked; return its layers and settings."""
    settings = make_settings(patches, "--run", run, "--scale", "2", "--epochs", str(EPOCHS))

    def stop(history, n_epochs):
        if history[-1]["epoch"] == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    training_runs.show_epoch = stop
    finished = train.train(patches, settings, is_gpu)
    if stop_after is not None:
        assert not finished and train.train(patches, settings, is_gpu)
    return evaluate.load_layers(settings)[0], settings


def time_map(layers, settings, sheet):
    """Return the seconds that a 2x map takes, and its largest deviation from the coarse means."""
    thk, topg = (utils.build_levels(sheet[name][None], 2, "area", "level")
                 for name in ("thk", "topg"))
    started = time.monotonic()
    chain = model.compile_chain(layers, settings, whole_map=True)
    predictions, _ = model.predict_ensemble(chain, thk[0], topg, self_ensemble=True)
    fine = model.remove_thin_ice(predictions[-1], thk[0], "area").numpy()
    seconds = time.monotonic() - started
    return seconds, float(np.abs(utils.coarsen_fields(fine, 2, "area") - thk[0]).max())


def time_epochs(sheet, is_compiled):
    """Return the seconds of an epoch of the default recipe at 8x, and of its first call."""
    patches = prepare_data.make_patches(sheet, 8)
    settings = make_settings(patches, "--scale", "8")
    indices = find_patches_in_split(patches, "train", "validation")
    inputs = crops.draw_training_patches(patches, indices, crops.find_crop_positions(
        patches, indices, settings), settings, epoch=1)
    objects = train.build_objects(settings)
    step = train.make_train_step(objects["layers"], objects["optimizer"], settings)
    seconds = [time.monotonic()]  # then after each epoch; the first includes compilation
    if is_compiled:
        variables = [*model.list_weights(objects["layers"]), *objects["optimizer"].variables]
        step = compile_with_xla(step, inputs, settings["batch_size"], variables)
    epoch = train.compile_epoch(step, objects["layers"], settings)
    for _ in range(6):
        epoch(*([tf.constant(level) for level in field] for field in inputs))[0].numpy()
        seconds.append(time.monotonic())
    first, *others = np.diff(seconds)
    return float(np.median(others)), first


def are_equal(layers, others):
    """Return whether two chains have the same weights, bit for bit."""
    return all(map(np.array_equal, model.list_weights(layers), model.list_weights(others)))


def measure():
    """Measure everything on the device that this process sees; return {key of LABELS: value}."""
    device = set_up_device()
    sheet = prepare_data.make_synthetic_map()
    patches = prepare_data.make_patches(sheet, 2, degrade="area")
    (layers, settings), (again, _), (stopped, _) = (
        train_run(run, patches, device["is_gpu"], stop_after) for run, stop_after in (
            ("one", None), ("again", None), ("stopped", EPOCHS // 2)))
    map_s, deviation_m = time_map(layers, settings, sheet)
    versions = " ".join(map(" ".join, files.package_versions().items()))
    found = {"device": device["name"], "is_gpu": device["is_gpu"], "versions": versions,
             "deviation_m": deviation_m, "same_seed": are_equal(layers, again),
             "resumed": are_equal(layers, stopped), "map_s": map_s,
             "epoch_s": time_epochs(sheet, is_compiled=False)[0]}
    if device["is_gpu"]:
        found["epoch_xla_s"], found["xla_first_s"] = time_epochs(sheet, is_compiled=True)
    return found


def run_in_process(environment):
    """Return what measure() finds in a process of its own; exit with its last words if it fails."""
    done = subprocess.run([sys.executable, __file__, "--measure"], text=True, capture_output=True,
                          env=os.environ | environment)
    if done.returncode:
        sys.exit(f"{done.stderr[-3000:]}\nthe measurement failed")
    return json.loads(done.stdout)


def main():
    results = [run_in_process({})]
    if results[0]["is_gpu"]:
        results.append(run_in_process({"CUDA_VISIBLE_DEVICES": "-1"}))
    else:
        print("no GPU that TensorFlow can use: CPU only")
    for key, label in LABELS.items():
        values = [result.get(key, "-") for result in results]
        print(f"{label:45}" + "  ".join(f"{value:<24.3g}" if isinstance(value, float) else
                                       f"{value!s:<24}" for value in values).rstrip())
    holds = all(result["deviation_m"] < MAX_DEVIATION_M and result["same_seed"]
                and result["resumed"] for result in results)
    print("all holds" if holds else "NOT ALL HOLDS")
    return 0 if holds else 1


if __name__ == "__main__":
    if sys.argv[1:] != ["--measure"]:
        sys.exit(main())
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import numpy as np
    import evaluate
    import model
    import prepare_data
    import train
    import utils
    from icesheet import crops, files, training_runs
    from icesheet.device import compile_with_xla, set_up_device, tf
    from icesheet.patches import find_patches_in_split
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), \
            contextlib.redirect_stdout(io.StringIO()):
        measured = measure()
    print(json.dumps(measured))
