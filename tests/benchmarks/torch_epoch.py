"""The epochs of benchmark_training.py in PyTorch, in a process of its own: it is started there.

    python tests/benchmarks/torch_epoch.py CASES.npz

Two OpenMP runtimes in one process end in a segmentation fault, so nothing of TensorFlow is imported
here. CASES.npz: thk, topg (patch, level, y, x) [m]; settings: a JSON list of those of each network;
recover, reduce, spread: matrices of model.consistency_weights.
Says "ready" and the RMSE [m] of each untrained network; then answers each line of its input,
"product" or the number of a network, with the seconds that a matrix product or an epoch took.
"""

import json
import sys
import time

import numpy as np
import torch

THREADS = 2
RATIO = 917.0 / 1027.5  # density of ice over that of sea water, as in utils.py


def make_stages(settings, n_stages):
    """The chain's layers, channels last; they start as model.build_layers does: the last one at 0.
    """
    filters, kernels = [3, *settings["filters"], 1], settings["kernels"]
    stages = torch.nn.ModuleList()
    for _ in range(n_stages):
        convs = []
        for i, kernel in enumerate(kernels):
            conv = torch.nn.Conv2d(filters[i], filters[i + 1], kernel, padding=kernel // 2)
            torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            torch.nn.init.zeros_(conv.bias)
            convs += [conv, torch.nn.ReLU()]
        torch.nn.init.zeros_(convs[-2].weight)
        stages.append(torch.nn.Sequential(*convs[:-1]))
    return stages.to(memory_format=torch.channels_last)


def surface_base(thk, topg_before, topg):
    """Thickness that a finer bed leaves under the surface of ice, as in model.stage_base [m]."""
    thk = thk.relu()
    usrf = torch.maximum(thk + topg_before, (1 - RATIO) * thk) * (thk > 0)
    grounded = usrf - topg
    floating = torch.minimum(usrf / (1 - RATIO), -topg / RATIO)
    return torch.where(RATIO * grounded < -topg, floating, grounded).relu()


def make_consistent(thk, thk0, matrices):
    """What model.make_consistent does to point samples [m]."""
    recover, reduce, spread = matrices
    thk = thk.relu()
    lacking = recover @ thk0 @ recover.T - reduce @ thk @ reduce.T
    return (thk + spread @ lacking @ spread.T).relu()


def run_chain(stages, thk, topg, settings, matrices):
    """Every stage's prediction (patch, y, x) [m], as model.run_chain makes it."""
    data, predictions, thk0, before = settings["data"], [], thk, thk
    for k, stage in enumerate(stages, 1):
        base = (surface_base(before, topg[:, k - 1], topg[:, k]) if settings["base"] == "surface"
                else before)
        channels = torch.stack([
            before / data["thk_norm_m"], topg[:, k] / data["topg_norm_m"],
            10 * (topg[:, k] - topg[:, k - 1]) / data["topg_norm_m"]], 1)
        values = stage(channels.to(memory_format=torch.channels_last))[:, 0]
        before = base + (settings["correction_m"] or data["thk_norm_m"]) * values
        if settings["consistency"] and k == len(stages):
            before = make_consistent(before, thk0, matrices)
        predictions.append(before)
        if settings["gradients"] == "stage":
            before = before.detach()
    return predictions


def make_epoch(settings, thk, topg, matrices):
    """An epoch as a function, and the RMSE [m] of the last stage before the first one."""
    stages = make_stages(settings, thk.shape[1] - 1)
    optimizer = torch.optim.Adam(stages.parameters(), settings["learning_rate"])
    with torch.no_grad():
        untrained = run_chain(stages, thk[:, 0], topg, settings, matrices)[-1]
        rmse_m = float((untrained - thk[:, -1]).square().mean().sqrt())

    def epoch():
        for batch in torch.randperm(len(thk)).split(settings["batch_size"]):
            label = thk[batch]
            predictions = run_chain(stages, label[:, 0], topg[batch], settings, matrices)
            loss = sum((prediction - label[:, k]).square().mean() for k, prediction
                       in enumerate(predictions, 1)) / settings["data"]["thk_norm_m"] ** 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch, rmse_m


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    with np.load(sys.argv[1]) as cases:
        thk, topg, *matrices = (torch.from_numpy(cases[name]) for name in (
            "thk", "topg", "recover", "reduce", "spread"))
        epochs, rmse_m = zip(*(make_epoch(settings, thk, topg, matrices) for settings in
                               json.loads(str(cases["settings"]))), strict=True)
    matrix = torch.randn(4096, 4096)
    print("ready", torch.__version__, *rmse_m, flush=True)
    for line in sys.stdin:
        job = (lambda: (matrix @ matrix).sum().item()) if line.strip() == "product" else (
            epochs[int(line)])
        start = time.perf_counter()
        job()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
