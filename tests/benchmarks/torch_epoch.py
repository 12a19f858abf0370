"""The epochs of benchmark_training.py in PyTorch, in a process of its own: it is started there.

    python tests/benchmarks/torch_epoch.py CASES.npz

Two OpenMP runtimes in one process end in a segmentation fault, so nothing of TensorFlow is imported
here. CASES.npz: settings: a JSON list of those of each network; thk0_1, topg0_1 and so on: fields
(patch, y, x) [m] of network 0 at level 1; bring1, reduce1, spread1 and so on: matrices of
utils.catmull_rom_matrix from the level before, of utils.coarsening_matrix to level 0 and of
model.prolongation_matrix from it, all of own grids; weight: see below.
Says "ready" and for each network the RMSE [m] of its stages with all kernels at `weight`; then
answers each line of its input, "product" or the number of a network, with the seconds that a matrix
product or an epoch took.
"""

import json
import sys
import time

import numpy as np
import torch

THREADS = 2
RATIO = 917.0 / 1027.5  # density of ice over that of sea water, as in utils.py
# A map mirrored at its edge is, one cell around it, the edge again: kernels of 1 and 3.
PADDING = {"CONSTANT": "zeros", "SYMMETRIC": "replicate"}


def make_stages(settings, n_stages):
    """The chain's layers, channels last; they start as model.build_layers does: the last one at 0.
    """
    filters, kernels = [3, *settings["filters"], 1], settings["kernels"]
    stages = torch.nn.ModuleList()
    for _ in range(n_stages):
        convs = []
        for i, kernel in enumerate(kernels):
            conv = torch.nn.Conv2d(filters[i], filters[i + 1], kernel, padding=kernel // 2,
                                   padding_mode=PADDING[settings["padding"]])
            torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            torch.nn.init.zeros_(conv.bias)
            convs += [conv, torch.nn.ReLU()]
        torch.nn.init.zeros_(convs[-2].weight)
        stages.append(torch.nn.Sequential(*convs[:-1]))
    return stages.to(memory_format=torch.channels_last)


def surface_minus_bed(thk, topg_before, topg):
    """Return the surface-minus-bed estimate [m], as model.compute_first_guess does."""
    thk = thk.relu()
    usrf = torch.maximum(thk + topg_before, (1 - RATIO) * thk) * (thk > 0)
    grounded = usrf - topg
    floating = torch.minimum(usrf / (1 - RATIO), -topg / RATIO)
    return torch.where(RATIO * grounded < -topg, floating, grounded).relu()


def bring(fields, matrix):
    """Regrid fields (patch, y, x) as model.regrid_level does; both axes have one matrix."""
    return matrix @ fields @ matrix.T


def make_consistent(thk, thk0, reduce, spread):
    """Enforce consistency with point samples [m] as model.py does; thk0: level 0 on its cells."""
    thk = thk.relu()
    return (thk + bring(thk0 - bring(thk, reduce), spread)).relu()


def run_chain(stages, thk, topg, settings, matrices):
    """Return every stage's prediction (patch, y, x) [m], as model.run_chain does.

    thk: level 0; topg: bed at every level; matrices: {name: matrix}, see the top of this file.
    """
    data, predictions, thk0, own = settings["data"], [], thk, settings["grid"] == "level"
    for k, stage in enumerate(stages, 1):
        before, topg_before = thk, topg[k - 1]
        if own:
            before, topg_before = (bring(field, matrices[f"bring{k}"])
                                   for field in (before, topg_before))
        base = before
        if settings["first_guess"] == "surface-minus-bed":
            base = surface_minus_bed(before, topg_before, topg[k])
        channels = torch.stack([
            before / data["thk_norm_m"], topg[k] / data["topg_norm_m"],
            10 * (topg[k] - topg_before) / data["topg_norm_m"]], 1)
        values = stage(channels.to(memory_format=torch.channels_last))[:, 0]
        thk = base + (settings["output_scale_m"] or data["thk_norm_m"]) * values
        if own and settings["consistency"]:
            thk = make_consistent(thk, thk0, matrices[f"reduce{k}"], matrices[f"spread{k}"])
        predictions.append(thk)
        if settings["gradients"] == "stage":
            thk = thk.detach()
    return predictions


def compare(settings, thk, topg, matrices, weight):
    """RMSE [m] of each stage with all kernels at `weight`, biases at 0."""
    stages = make_stages(settings, len(thk) - 1)
    with torch.no_grad():
        for values in stages.parameters():
            values.fill_(0.0 if values.ndim == 1 else weight)
        return [float((prediction - label).square().mean().sqrt()) for prediction, label in zip(
            run_chain(stages, thk[0], topg, settings, matrices), thk[1:], strict=True)]


def make_epoch(settings, thk, topg, matrices):
    """An epoch as a function; thk, topg: fields at every level, two lists."""
    stages = make_stages(settings, len(thk) - 1)
    optimizer = torch.optim.Adam(stages.parameters(), settings["learning_rate"])

    def epoch():
        for batch in torch.randperm(len(thk[0])).split(settings["batch_size"]):
            labels, beds = ([level[batch] for level in field] for field in (thk, topg))
            predictions = run_chain(stages, labels[0], beds, settings, matrices)
            loss = sum((prediction - label).square().mean() for prediction, label
                       in zip(predictions, labels[1:], strict=True))
            optimizer.zero_grad()
            (loss / settings["data"]["thk_norm_m"] ** 2).backward()
            optimizer.step()

    return epoch


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    with np.load(sys.argv[1]) as cases:
        networks, weight = json.loads(str(cases["settings"])), float(cases["weight"])
        arrays = {name: torch.from_numpy(cases[name]) for name in cases.files
                  if name not in ("settings", "weight")}
    epochs, rmse_m = [], []
    for number, settings in enumerate(networks):
        n_levels = settings["scale"].bit_length()
        thk, topg = ([arrays[f"{name}{number}_{k}"] for k in range(n_levels)]
                     for name in ("thk", "topg"))
        rmse_m += compare(settings, thk, topg, arrays, weight)
        epochs.append(make_epoch(settings, thk, topg, arrays))
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
