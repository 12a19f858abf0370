"""Measure how fast an 8x epoch trains, and what share of the machine it uses, all in one run.

    python tests/benchmarks/benchmark_training.py                   # about 5 minutes on 2 cores
    python tests/benchmarks/benchmark_training.py --flatness 1000   # and epochs 900-1000
    python tests/benchmarks/benchmark_training.py --torch-python OTHER_VENV/bin/python

On random fields of the shape of the 140 training patches, with two networks: that of the recipe
`default`, and SRCNN's 9-1-5 on the fine cells with a bicubic first guess, each stage by itself. On
two threads, or on the GPU if there is one, there with the step compiled by XLA:
- a float32 matrix product of 4096 x 4096, just before: what this machine reaches
- patches x stages per second, and the arithmetic of the epoch's convolutions over its time as a
  share of that product
- loop overhead: the epoch over the bare compiled step (forward, backward, update), same batch size
- where PyTorch can be imported: its matrix product, and its time for the same epoch over ours. It
  has a process of its own (torch_epoch.py), with two threads too, and the two take turns: while
  one works the other waits. --torch-python: the Python that has it, if not this one.
- flatness: epochs 900-1000 over epochs 10-110 of 9-1-5 (shorter without --flatness)
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]  # the scripts

import model
import train
import utils
from icesheet.device import compile_with_xla, set_up_device, tf
from icesheet.scores import compute_rmse_m
from icesheet.training_runs import parse_training_arguments

N_PATCHES, SCALE, SIZE, THREADS, ROUNDS = 140, 8, 41, 2, 3
WEIGHT = 0.005  # of all kernels where our chain and PyTorch's are compared


def seconds(job, runs):
    """Return the times of `runs` calls of job(), each waited for, after one that is not counted."""
    job()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return np.array(times)


def matrix_product_flops(runs=5):
    """Return the float32 operations per second of a 4096 x 4096 matrix product (median)."""
    matrix = tf.constant(np.random.default_rng(0).standard_normal((4096, 4096), np.float32))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    return 2 * 4096**3 / np.median(seconds(lambda: product().numpy(), runs))


def epoch_flops(settings):
    """Return the operations of an epoch: 2 per weight and cell forward, 2 for each gradient.

    Convolutions only. The first convolution of a stage needs no gradient of its input where
    gradients stay within a stage; of the first stage never.
    """
    layers = model.build_layers(settings)
    cells = [level[0].size for level in utils.build_levels(
        np.zeros((1, SIZE, SIZE)), SCALE, "bicubic", settings["grid"])]
    return sum(2 * N_PATCHES * cells[k] * int(np.prod(conv.kernel.shape)) * (
        2 if name == "conv1" and (settings["gradients"] == "stage" or k == 1) else 3)
        for k, convs in enumerate(layers.values(), 1) for name, conv in convs.items())


def start_device():
    """Set up the device with the benchmark's number of threads; return what was chosen."""
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)
    return set_up_device()


def make_networks():
    """Return the settings of the two networks: {name: settings}."""
    args = parse_training_arguments("", tuple(train.RECIPES), ["--scale", str(SCALE)])
    default = train.make_settings(args) | {
        "data": {"thk_norm_m": 4000.0, "topg_norm_m": 1000.0, "degrade": "bicubic"}}
    return {"default": default, "9-1-5": default | {
        "filters": [64, 32], "kernels": [9, 1, 5], "grid": "fine", "padding": "CONSTANT",
        "consistency": False, "gradients": "stage", "output_scale_m": None}}


def make_fields(networks):
    """Return random thickness and bed [m] at every level, as each network takes them.

    {name: two lists}, the levels of one map, so that what is regridded from one to the next fits.
    """
    rng, shape = np.random.default_rng(0), (N_PATCHES, SIZE, SIZE)
    thk, topg = rng.uniform(0, 4000, shape), rng.uniform(-1000, 1000, shape)
    return {name: [utils.build_levels(field, SCALE, "bicubic", settings["grid"])
                   for field in (thk, topg)] for name, settings in networks.items()}


def make_epoch(settings, thk, topg, is_gpu):
    """Return functions of no argument that run an epoch and a bare compiled step, until it is done.

    thk, topg: of make_fields. And each stage's RMSE [m] of a chain with all kernels at WEIGHT:
    PyTorch's have to be the same.
    """
    layers = model.build_layers(settings)
    optimizer = tf.keras.optimizers.Adam(settings["learning_rate"])
    optimizer.build(model.list_weights(layers))
    step = train.make_train_step(layers, optimizer, settings)
    if is_gpu:
        step = compile_with_xla(step, (thk, topg), settings["batch_size"],
                                [*model.list_weights(layers), *optimizer.variables])
    train_epoch, bare = train.compile_epoch(step, layers, settings), tf.function(step)
    alike = model.build_layers(settings)
    for weight in model.list_weights(alike):
        weight.assign(tf.fill(weight.shape, 0.0 if len(weight.shape) == 1 else WEIGHT))
    predictions = model.run_chain(alike, thk[0], topg, settings)
    rmse_m = [compute_rmse_m(*pair) for pair in zip(predictions, thk[1:], strict=True)]

    def constants(size=None):
        return [[tf.constant(level[:size]) for level in field] for field in (thk, topg)]

    batch = constants(settings["batch_size"])
    return (lambda: train_epoch(*constants())[0].numpy(), lambda: bare(*batch).numpy(), rmse_m)


@contextlib.contextmanager
def torch_process(python, networks, fields):
    """Start PyTorch's process: ask(job) -> seconds (torch_epoch.py), and what it said at its start.

    fields: of make_fields. None where PyTorch cannot be imported.
    """
    sizes = [level.shape[1] for level in fields["default"][0]]
    matrices = {}
    for k, size in enumerate(sizes[1:], 1):
        matrices |= {f"bring{k}": utils.catmull_rom_matrix(sizes[k - 1], size, "bicubic"),
                     f"reduce{k}": utils.coarsening_matrix(size, sizes[0], "bicubic"),
                     f"spread{k}": model.prolongation_matrix(sizes[0], size, "bicubic")}
    levels = {f"{field}{number}_{k}": level for number, name in enumerate(networks)
              for field, of_name in zip(("thk", "topg"), fields[name], strict=True)
              for k, level in enumerate(of_name)}
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases.npz"
        np.savez(cases, settings=json.dumps(list(networks.values())), weight=np.float32(WEIGHT),
                 **levels,
                 **{name: matrix.astype(np.float32) for name, matrix in matrices.items()})
        process = subprocess.Popen(
            [python, Path(__file__).with_name("torch_epoch.py"), cases], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        def ask(job):
            process.stdin.write(f"{job}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise ChildProcessError(f"PyTorch's process ended, status {process.wait()}: "
                                        + process.stderr.read())
            return float(answer)

        try:
            said = process.stdout.readline().split()
            if said:
                yield ask, said
            else:
                last = (process.stderr.read().strip().splitlines() or ["no reason given"])[-1]
                print(f"PyTorch                   not measured: {last}")
                yield None
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def compare_with_torch(python, networks, epochs, fields):
    """Print PyTorch's matrix product, and its time for each network's epoch over ours, in turns.

    epochs: of compile_epoch, {name: (epoch, step, RMSE [m] of each stage)}; fields: of make_fields.
    """
    with torch_process(python, networks, fields) as found:
        if found is None:
            return
        ask, (_, version, *alike) = found
        alike = np.array(alike, float).reshape(len(networks), -1)
        ask("product")
        flops = 2 * 4096**3 / np.median([ask("product") for _ in range(5)])
        print(f"\nPyTorch {version}, matrix product 4096 {flops / 1e9:.1f} GFLOP/s")
        for number, (name, (epoch, _, rmse_m)) in enumerate(epochs.items()):
            if not np.allclose(alike[number], rmse_m, rtol=1e-3):
                raise ArithmeticError(f"{name}: PyTorch's chain is another: RMSE of its stages "
                                      f"{alike[number]} and {rmse_m} m")
            pairs = []
            for _ in range(ROUNDS):
                ask(number)  # not counted, as in seconds
                theirs = np.median([ask(number) for _ in range(3)])
                pairs.append((theirs, np.median(seconds(epoch, 3))))
            theirs, ours = np.median(pairs, axis=0)
            ratio = np.median([one / other for one, other in pairs])
            share = epoch_flops(networks[name]) / ours / flops
            print(f"{name:8} epoch {theirs:8.3f} s, ours {ours:.3f} s: PyTorch over ours "
                  f"{ratio:.2f} (to reach: 1.5), ours {share:.1%} of its product (to reach: 70 %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flatness", type=int, default=150, metavar="EPOCHS",
                        help="epochs to compare")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PYTHON",
                        help="a Python that has PyTorch (default: this one)")
    args = parser.parse_args()

    device = start_device()
    print(f"device {device['name']}, TensorFlow {tf.__version__}, {device['n_threads']} threads")
    networks, n_stages = make_networks(), model.count_stages(SCALE)
    fields = make_fields(networks)
    epochs = {name: make_epoch(settings, *fields[name], device["is_gpu"])
              for name, settings in networks.items()}

    product = matrix_product_flops()
    print(f"matrix product 4096       {product / 1e9:8.1f} GFLOP/s")
    for name, (epoch, step, _) in epochs.items():
        ours, flops = np.median(seconds(epoch, 10)), epoch_flops(networks[name])
        n_steps = N_PATCHES / networks[name]["batch_size"]
        print(f"\n{name}: filters {networks[name]['filters']}, kernels {networks[name]['kernels']}")
        print(f"8x epoch, batch {networks[name]['batch_size']:3d}       {ours:8.3f} s   "
              f"{flops / 1e9:.1f} GFLOP")
        print(f"patches x stages / s      {N_PATCHES * n_stages / ours:8.0f}")
        print(f"share of matrix product   {flops / ours / product:8.1%}")
        pairs = [(np.median(seconds(epoch, 3)), np.median(seconds(step, 10)) * n_steps)
                 for _ in range(ROUNDS)]
        print(f"loop overhead             {np.median([a / b for a, b in pairs]):8.3f}   "
              "(epoch over its bare steps)")

    compare_with_torch(args.torch_python, networks, epochs, fields)

    times = seconds(epochs["9-1-5"][0], args.flatness)
    late, early = times[-100:], times[10:110]
    print(f"\nflatness                  {np.median(late) / np.median(early):8.3f}   (last 100 of "
          f"{args.flatness} epochs over epochs 10-110; to reach: at most 1.05)")


if __name__ == "__main__":
    main()
