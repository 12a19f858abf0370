"""How fast an 8x epoch trains, and what of the machine it uses: all measured in one run.

    python tests/benchmarks/benchmark_training.py                   # about 3 minutes on 2 cores
    python tests/benchmarks/benchmark_training.py --flatness 1000   # and epochs 900-1000

On random fields of the shape of the 140 training patches, with SRCNN's 9-1-5 on the bicubic base,
each stage by itself:
- a float32 matrix product of 4096 x 4096, just before: what this machine reaches
- patches x stages per second, and the epoch's arithmetic over its time as a share of that product
- loop overhead: the epoch over the bare compiled step (forward, backward, update), same batch size
- flatness: epochs 900-1000 over epochs 10-110 (shorter without --flatness)
- where PyTorch is installed, its time for the same epoch over ours; the two take turns
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]  # tests, the scripts

from conftest import example_settings

import model
import train
from model import tf

N_PATCHES, SCALE, SIZE = 140, 8, 41


def seconds(job, runs):
    """Times of `runs` calls of job(), each waited for, after one that is not counted."""
    job()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return np.array(times)


def matrix_product_flops(runs=5):
    """float32 operations per second of a 4096 x 4096 matrix product in TensorFlow (median)."""
    matrix = tf.constant(np.random.default_rng(0).standard_normal((4096, 4096), np.float32))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    return 2 * 4096**3 / np.median(seconds(lambda: product().numpy(), runs))


def epoch_flops(settings):
    """Arithmetic of an epoch: 2 operations per weight and cell forward, as many for each gradient.

    Convolutions only. The first convolution of a stage needs no gradient of its input, for
    gradients stay within a stage.
    """
    layers = model.build_layers(settings)
    cells = N_PATCHES * SIZE**2
    return sum(2 * cells * int(np.prod(conv.kernel.shape)) * (2 if name == "conv1" else 3)
               for convs in layers.values() for name, conv in convs.items())


def torch_epoch(settings, thk, topg):
    """The same epoch in PyTorch, channels last, as a function; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    torch.manual_seed(0)
    filters, kernels = [3, *settings["filters"], 1], settings["kernels"]
    stages = []
    for _ in range(model.count_stages(SCALE)):
        convs = []
        for i, kernel in enumerate(kernels):
            convs += [torch.nn.Conv2d(filters[i], filters[i + 1], kernel, padding=kernel // 2),
                      torch.nn.ReLU()]
        stages.append(torch.nn.Sequential(*convs[:-1]))
    stages = torch.nn.ModuleList(stages).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(stages.parameters(), settings["learning_rate"])
    thk, topg = torch.tensor(thk), torch.tensor(topg)

    def epoch():
        for batch in torch.randperm(N_PATCHES).split(settings["batch_size"]):
            before, loss = thk[batch, 0] / 4000, 0
            for k, stage in enumerate(stages, 1):
                beds = topg[batch, k] / 1000, (topg[batch, k] - topg[batch, k - 1]) / 100
                channels = torch.stack([before, *beds], 1).to(memory_format=torch.channels_last)
                prediction = before + stage(channels)[:, 0]
                loss = loss + ((prediction - thk[batch, k] / 4000) ** 2).mean()
                before = prediction.detach()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flatness", type=int, default=150, metavar="EPOCHS",
                        help="epochs to compare")
    args = parser.parse_args()

    print(f"device {model.set_up_device()}, TensorFlow {tf.__version__}")
    settings = example_settings(
        scale=SCALE, filters=[64, 32], kernels=[9, 1, 5], base="bicubic", consistency=False,
        gradients="stage", correction_m=None, batch_size=5,
        data={"thk_norm_m": 4000.0, "topg_norm_m": 1000.0})
    rng = np.random.default_rng(0)
    n_stages = model.count_stages(SCALE)
    shape = (N_PATCHES, n_stages + 1, SIZE, SIZE)
    thk = rng.uniform(0, 4000, shape).astype(np.float32)
    topg = rng.uniform(-1000, 1000, shape).astype(np.float32)
    layers = model.build_layers(settings)
    optimizer = tf.keras.optimizers.Adam(1e-4)
    optimizer.build(model.list_weights(layers))
    step = train.make_step(layers, optimizer, settings)
    epoch = train.make_epoch(step, layers, settings)

    def one_epoch():
        epoch(tf.constant(thk), tf.constant(topg))[0].numpy()

    product = matrix_product_flops()
    ours = np.median(seconds(one_epoch, 15))
    flops = epoch_flops(settings)
    print(f"matrix product 4096       {product / 1e9:8.1f} GFLOP/s")
    print(f"8x epoch, batch {settings['batch_size']:3d}       {ours:8.3f} s   "
          f"{flops / 1e9:.1f} GFLOP")
    print(f"patches x stages / s      {N_PATCHES * n_stages / ours:8.0f}")
    print(f"share of matrix product   {flops / ours / product:8.1%}   (to reach: 45 %)")

    bare, n_steps = tf.function(step), N_PATCHES / settings["batch_size"]
    batch = tf.constant(thk[:settings["batch_size"]]), tf.constant(topg[:settings["batch_size"]])
    pairs = [(np.median(seconds(one_epoch, 3)),
              np.median(seconds(lambda: bare(*batch).numpy(), 10)) * n_steps) for _ in range(5)]
    print(f"loop overhead             {np.median([a / b for a, b in pairs]):8.3f}   "
          "(epoch over its bare steps)")

    other = torch_epoch(settings, thk, topg)
    if other is None:
        print("PyTorch                   not installed")
    else:
        pairs = [(np.median(seconds(other, 3)), np.median(seconds(one_epoch, 3))) for _ in range(5)]
        ratio = np.median([a / b for a, b in pairs])
        print(f"PyTorch over this         {ratio:8.2f}   (to reach: 1.5)")

    times = seconds(one_epoch, args.flatness)
    late, early = times[-100:], times[10:110]
    print(f"flatness                  {np.median(late) / np.median(early):8.3f}   (last 100 of "
          f"{args.flatness} epochs over epochs 10-110; to reach: at most 1.05)")


if __name__ == "__main__":
    main()
