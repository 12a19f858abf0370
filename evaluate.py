"""Compare bicubic, surface base, model and label: tables, figures, runs; and downscale whole maps.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --patches 10       # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # maps of every test patch
    python evaluate.py --compare x8 wide             # one table, two figures
    python evaluate.py --map coarse.nc --bed bed.nc --run wide --output fine.nc   # a whole map
    python evaluate.py --map fine.nc --hindcast --run wide    # reduce it, rebuild it, score that

Reads checkpoints/<run>/ and the patches it was trained on; writes metrics.json, metrics.csv and the
figures to results/<run>/. A whole map needs the checkpoint alone. Nothing is trained here, and
without a checkpoint nothing is shown.
"""

import contextlib
import json
import math
import shlex
import sys
import time
from pathlib import Path

import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import scipy.ndimage

import model
import prepare_data
import utils
from utils import InputError

with utils.quiet_import():
    import tensorflow as tf

# ---- Settings ---------------------------------------------------------------------------------
METHODS = {                    # what is compared with the label: name and colour in figures
    "bicubic": ("bicubic", "#969696"),
    "surface": ("surface base", "#e6550d"),  # no network; where the patches have a bed
    "model": ("model", "#08519c"),
}
PATCHES = 6                    # rows of comparison.png: best, median and worst among them
DPI = 150
THK_COLOURS = "viridis"        # thickness
ERROR_COLOURS = "RdBu_r"       # errors: red too thick, blue too thin, white right
SPLIT_COLOURS = ("#c6dbef", "#6baed6", "#e6550d", "#d9d9d9")  # train, validation, test, gap
LEAST_SCALE_M = 100.0          # thickness scale of a patch goes so far at least
ERROR_PERCENTILE = 99.5  # of |bicubic error|, ends the error scale; beyond it colours saturate
WORST = 5                      # patches named in the table of the worst
PREDICT_BATCH = 50             # patches predicted at a time
NEAR_ICE = 8                   # a hindcast is scored on ice and so many cells around it
MAP_PIXELS = 1200              # a figure of a whole map shows every n-th cell, so many at most;
                               # its zoom is from a map of at most twice as many
ZOOM = 96                      # side of the zoom in it, in fine cells
# -----------------------------------------------------------------------------------------------


# ---------------------------------------------------------------- a trained run


def load_layers(settings):
    """The trained layers of a run: those of its best epoch. InputError where they do not fit."""
    folder = utils.CHECKPOINTS / settings["run"] / "best"
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        raise InputError(f"{folder}: no checkpoint; train the run first: python train.py --run "
                         f"{settings['run']} --scale {settings['scale']}")
    layers = model.build_layers(settings)
    restore(tf.train.Checkpoint(layers=layers), path)
    return layers


def restore(checkpoint, path):
    """Restore everything in a tf.train.Checkpoint from `path`; InputError where it does not fit."""
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except (ValueError, AssertionError, LookupError, tf.errors.OpError) as error:
        raise InputError(f"{path}: not the layers that settings.json describes, or damaged "
                         f"({utils.one_line(error)[:200]}); train again with --restart") from None


def load_patches(settings, input_file=None):
    """The patches a run was trained on, made from input_file where they are missing.

    Raises InputError, naming what differs, where they are others.
    """
    path, patches = prepare_data.find_patches(settings["run"], settings["scale"], input_file,
                                              settings)
    lines = utils.differing(settings["data"], prepare_data.describe_data(patches))
    if lines:
        raise InputError(f"{path}: not the patches that run {settings['run']} was trained on: "
                         f"{'; '.join(lines)}; make those again with prepare_data.py")
    return patches


def predict(layers, patches, settings, numbers):
    """Every stage's thickness for the patches of these numbers: (stage, patch, y, x) m."""
    chain, beds = compile_chain(layers, settings), model.needs_topg(settings)
    parts = [np.stack(model.predict(chain, patches["thk"][batch, 0],
                                    patches["topg"][batch] if beds else None, settings))
             for batch in np.split(numbers, range(PREDICT_BATCH, len(numbers), PREDICT_BATCH))]
    return np.concatenate(parts, axis=1)


def compile_chain(layers, settings):
    """model.run_chain of a run's layers as one graph: chain(thk, topg), see model.predict."""
    return tf.function(lambda thk, topg: model.run_chain(layers, thk, topg, settings))


# ---------------------------------------------------------------- metrics


def patch_rmse_m(maps, label):
    """RMSE [m] of each patch, {method: (patch,)}, of maps {method: (patch, y, x)} m and label."""
    return {method: utils.rmse_m(field, label, axis=(1, 2)) for method, field in maps.items()}


def estimate(predicted, patches, numbers, stage=-1):
    """Thickness of every method for the patches of these numbers: {method: (patch, y, x) m}.

    bicubic: the input of the chain; surface: the surface base of the whole chain, from that input
    and the bed at level 0 and at the level of `stage`, no network (left out without a bed); model:
    `predicted` as it comes.
    """
    found = {"bicubic": patches["thk"][numbers, 0]}
    if patches["topg"] is not None:
        usrf = utils.surface(np.maximum(found["bicubic"], 0), patches["topg"][numbers, 0])
        found["surface"] = utils.thickness(usrf, patches["topg"][numbers, stage])
    return found | {"model": predicted}


def measure(predictions, patches, settings, numbers):
    """Metrics of predictions (stage, patch, y, x) m for the patches of these numbers: a dict.

    test: every method against the label (None: surface without a bed), with the ratio of the
    model's MSE to bicubic's and the surface base's and the share of patches in which the model has
    the lower error; surface_consistent: the surface base made consistent, still no network (where
    the model is); by_type, worst, spectrum and detail: see below. stages: the same ratios at each
    stage, against the label of its level; bicubic and surface start at the input of the whole
    chain there too.
    """
    data = settings["data"]

    def against_label(stage):
        label = patches["thk"][numbers, stage]
        maps = estimate(predictions[stage - 1], patches, numbers, stage)
        rmse = patch_rmse_m(maps, label)
        found = dict.fromkeys(METHODS) | {
            method: utils.errors(field, label, data["thk_max_m"]) for method, field in maps.items()}
        for method, suffix in (("bicubic", ""), ("surface", "_surface")):
            base = found[method]
            found[f"ratio{suffix}"] = (found["model"]["mse"] / base["mse"]
                                       if base and base["mse"] else None)
            found[f"won{suffix}"] = base and float((rmse["model"] < rmse[method]).mean())
        return found

    n_stages = len(predictions)
    coarsest_km = data["spacing_m"] * settings["scale"] / 1000
    maps = estimate(predictions[-1], patches, numbers)
    test = against_label(n_stages)
    if "surface" in maps and settings["consistency"]:
        label = patches["thk"][numbers, -1]
        mended = model.make_consistent(maps["surface"], maps["bicubic"], settings).numpy()
        test["surface_consistent"] = utils.errors(mended, label, data["thk_max_m"])
        test["ratio_surface_consistent"] = test["model"]["mse"] / (
            test["surface_consistent"]["mse"] or np.nan)
    spectrum, detail = measure_spectra(maps, patches["thk"][numbers, -1], settings)
    return {
        "run": settings["run"], "scale": settings["scale"], "recipe": settings["recipe"],
        "synthetic": data["synthetic"] == "yes", "source": data["source"],
        "source_title": data["source_title"], "citation": data["citation"],
        "degrade": data["degrade"], "split": data["split"], "seed": settings["seed"],
        "split_seed": data["seed"], "thk_max_m": data["thk_max_m"],
        "n_train": len(utils.in_split(patches, "train")) + (
            0 if settings["validation"] else len(utils.in_split(patches, "validation"))),
        "n_validation": len(utils.in_split(patches, "validation")) if settings["validation"] else 0,
        "n_test": len(numbers),
        "test": test | {
            "by_type": measure_types(maps, patches, settings, numbers),
            "worst": worst_patches(maps, patches, numbers), "detail": detail,
            "spectrum": spectrum},
        "stages": [{"from_km": coarsest_km / 2 ** (k - 1), "to_km": coarsest_km / 2**k}
                   | against_label(k) for k in range(1, n_stages + 1)],
        "settings": settings, "versions": utils.versions(),
    }


def measure_types(maps, patches, settings, numbers):
    """Errors of maps {method: (patch, y, x) m} by what the label has in a cell: {type: dict}.

    Types are those of utils.surface_types; margin reaches two coarse cells, and across the edges of
    patches. Each has n_cells and, for every method, utils.errors and utils.volume_error over its
    cells of these patches (None: no such cells, or no such method).
    """
    thk, topg = (None if patches[name] is None else assemble(patches[name][:, -1], patches)
                 for name in ("thk", "topg"))
    data, label, found = settings["data"], patches["thk"][numbers, -1], {}
    for name, mask in utils.surface_types(thk, topg, 2 * settings["scale"]).items():
        cells = prepare_data.cut_patches(mask, label.shape[-1])[numbers]
        found[name] = {"n_cells": int(cells.sum())} | dict.fromkeys(METHODS)
        for method, field in maps.items() if cells.any() else ():
            pair = field[cells], label[cells]
            found[name][method] = (utils.errors(*pair, data["thk_max_m"])
                                   | utils.volume_error(*pair, data["spacing_m"]))
    return found


def worst_patches(maps, patches, numbers):
    """The patches with the highest model RMSE, worst first: number, centre [km], every RMSE [m]."""
    rmse = patch_rmse_m(maps, patches["thk"][numbers, -1])
    worst = np.argsort(-rmse["model"], kind="stable")[:WORST]
    centre_km = {axis: patches[axis][numbers].mean(axis=1) / 1000 for axis in "xy"}
    return [{"patch": int(numbers[i])}
            | {f"{axis}_km": float(values[i]) for axis, values in centre_km.items()}
            | {f"{method}_rmse_m": float(rmse[method][i]) if method in rmse else None
               for method in METHODS} for i in worst]


def measure_spectra(maps, label, settings):
    """Power spectra of maps {method: (patch, y, x) m} and label, and what each has of its detail.

    spectrum: wavelength_km and power [m2 km2] of the label and of every method, see
    utils.power_spectrum; explained: 1 - power of the error / power of the label, by wavelength (1
    is right in size and place, 0 no better than nothing, below 0 worse). detail: between the
    shortest wavelength of the coarse grid (two of its cells) and that of the fine one, `power`, the
    power of each method over the label's, and `explained`. None: no such method.
    """
    spacing_m = settings["data"]["spacing_m"]
    wavenumber, of_label = utils.power_spectrum(label, spacing_m)
    of_label = np.maximum(of_label, 1e-9)  # a flat label has none
    # Rings grow with the wavenumber, and with them what they hold of the variance.
    share = wavenumber * (wavenumber > 1000 / (2 * settings["scale"] * spacing_m))
    spectrum = {"wavelength_km": (1 / wavenumber).tolist(), "label": of_label.tolist()}
    spectrum |= dict.fromkeys(METHODS)
    explained, detail = dict.fromkeys(METHODS), dict.fromkeys(METHODS)
    for method, field in maps.items():
        power, error = (utils.power_spectrum(each, spacing_m)[1] for each in (field, field - label))
        spectrum[method], explained[method] = power.tolist(), (1 - error / of_label).tolist()
        detail[method] = {"power": float(share @ power / (share @ of_label)),
                          "explained": float(1 - share @ error / (share @ of_label))}
    return spectrum | {"explained": explained}, detail


def best_epoch(history):
    """Epoch whose layers are in best/: that of the least validation error, else the last one."""
    last_stage = next(key for key in reversed(history[-1]) if key.startswith("validation"))
    if history[-1][last_stage] is None:
        return history[-1]["epoch"]
    return min(history, key=lambda row: row[last_stage])["epoch"]


def metrics_rows(metrics):
    """The table of a run: a dict for each stage, and of each method in it, the whole chain last."""
    rows = []
    whole = {"from_km": metrics["stages"][0]["from_km"], "to_km": metrics["stages"][-1]["to_km"]}
    for name, entry in [*((f"stage {k}", entry) for k, entry in enumerate(metrics["stages"], 1)),
                        ("test", whole | metrics["test"])]:
        for method in ("bicubic", "surface", "surface_consistent", "model"):
            if entry.get(method) is None:
                continue
            rows.append({"run": metrics["run"], "part": name, "from_km": entry["from_km"],
                         "to_km": entry["to_km"], "method": method, **entry[method],
                         "source": metrics["source"], "synthetic": metrics["synthetic"],
                         "degrade": metrics["degrade"], "split": metrics["split"],
                         "ratio": entry[method]["mse"] / (entry["bicubic"]["mse"] or np.nan),
                         "won": entry["won"] if method == "model" else ""})
    return rows


def print_table(rows):
    """Print rows of metrics_rows as a table."""
    print(f"{'':16} {'':13} {'km':>12} {'MSE/max2':>10} {'RMSE m':>8} {'MAE m':>8} {'bias m':>8} "
          f"{'ratio':>7} {'won':>5}")
    for row in rows:
        won = f"{row['won']:5.0%}" if row["won"] != "" else ""
        method = row["method"].replace("_consistent", "+cons.")
        print(f"{row['part']:16} {method:13} {row['from_km']:5g} > {row['to_km']:4g} "
              f"{row['mse']:10.2e} {row['rmse_m']:8.1f} {row['mae_m']:8.1f} {row['bias_m']:+8.1f} "
              f"{row['ratio']:7.3f} {won}")


def print_more(test):
    """Print the tables by type of the label and of the worst patches; test: metrics["test"]."""
    methods = [method for method in METHODS if test[method]]
    head = "".join(f"{method:>9}" for method in methods)
    wide = len(head)
    print(f"\n{'label':10} {'cells':>8}{'RMSE m':>{wide}}{'bias m':>{wide}}{'volume %':>{wide}}\n"
          f"{'':19}{head * 3}")
    for name, entry in test["by_type"].items():
        print(f"{name:10} {entry['n_cells']:8d}" + "".join(
            f"{'-':>9}" if entry[method] is None or entry[method][key] is None else
            f"{entry[method][key]:{form}}"
            for key, form in (("rmse_m", "9.1f"), ("bias_m", "+9.1f"),
                              ("volume_error_percent", "+9.2f")) for method in methods))
    print(f"\n{'worst':10} {'x km':>8} {'y km':>8}{'RMSE m':>{wide}}\n{'':28}{head}")
    for row in test["worst"]:
        print(f"patch {row['patch']:4d} {row['x_km']:8.0f} {row['y_km']:8.0f}"
              + "".join(f"{row[f'{method}_rmse_m']:9.1f}" for method in methods))


# ---------------------------------------------------------------- figures


def headline(metrics):
    """Title of every figure of a run: what was done to what."""
    synthetic = "SYNTHETIC ice sheet, no real place\n" if metrics["synthetic"] else ""
    to_km = metrics["stages"][-1]["to_km"]
    return (f"{synthetic}Run {metrics['run']}: ice thickness, {metrics['scale'] * to_km:g} km to "
            f"{to_km:g} km ({metrics['scale']}x, {metrics['degrade']} reduction, "
            f"{metrics['split']} split)\n{metrics['source']}")


def save(figure, path, made_of, show):
    """Write a figure to `path` at once or not at all, and close it unless it is to be shown.

    made_of: what made it (settings, versions; for JSON), kept in the PNG's Description.
    """
    with utils.replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png",
                       metadata={"Description": json.dumps(made_of)})
    if not show:
        plt.close(figure)


def made_of(metrics):
    """What made the figures of a run, for save()."""
    return {key: metrics[key] for key in ("settings", "versions", "citation")}


def choose_patches(rmse_m, count):
    """Positions of `count` patches from the lowest to the highest RMSE, evenly spaced in rank.

    Best, median and worst are among them from 3 on. Returns {position: what it is}.
    """
    order, last = np.argsort(rmse_m, kind="stable"), len(rmse_m) - 1
    ranks = np.linspace(0, last, min(count, last + 1)).round().astype(int)
    ranks[len(ranks) // 2] = (last + 1) // 2 if len(ranks) > 2 else ranks[len(ranks) // 2]
    names = {last: "worst", (last + 1) // 2: "median", 0: "best"}
    return {order[rank]: names.get(rank, f"rank {rank + 1} of {last + 1}") for rank in ranks}


def km_extent(x, y):
    """Edges of the cells (left, right, bottom, top) in km of axes x, y in m, for imshow."""
    half = (x[1] - x[0]) / 2
    return np.array([x[0] - half, x[-1] + half, y[0] - half, y[-1] + half]) / 1000


def draw_panel(axes, field, extent, title, limits, colours):
    """Draw a field (y, x) in m over axes in km; returns the image, for its colour bar."""
    image = axes.imshow(field, origin="lower", extent=extent, vmin=limits[0], vmax=limits[1],
                        cmap=colours, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=4)
    return image


def plain_ticks(axis):
    """Label a log axis with plain numbers, between the decades where they fit."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2.5, 0.4)))


def error_limit_m(bicubic, label):
    """End of the error colour scale [m] of all methods: a high percentile of bicubic's error."""
    return max(float(np.percentile(np.abs(bicubic - label), ERROR_PERCENTILE)), 1.0)


def plot_comparison(path, metrics, patches, maps, count, show=False):
    """comparison.png: a row per chosen test patch; every method, the label and the errors.

    maps: {method: (patch, y, x) m} of all patches, here and in the figures below. Thickness has one
    colour scale across a row's maps, errors one scale in the whole figure.
    """
    numbers = utils.in_split(patches, "test")
    label = patches["thk"][:, -1]
    rmse = patch_rmse_m(maps, label)
    chosen = choose_patches(rmse["model"][numbers], count)
    rows = [numbers[i] for i in chosen]
    limit = error_limit_m(maps["bicubic"][rows], label[rows])
    n = len(maps)
    figure, grid = plt.subplots(len(rows), 2 * n + 1, figsize=(5.6 * n + 3, 2.7 * len(rows) + 1.2),
                                squeeze=False, layout="constrained")
    figure.suptitle(headline(metrics), fontsize=11)
    for axes, number, what in zip(grid, rows, chosen.values(), strict=True):
        extent = km_extent(patches["x"][number], patches["y"][number])
        limits = (0, max(label[number].max(), LEAST_SCALE_M))
        for panel, error_panel, (method, field) in zip(axes[:n], axes[n + 1:], maps.items(),
                                                       strict=True):
            name = METHODS[method][0]
            draw_panel(panel, field[number], extent, f"{name}, RMSE {rmse[method][number]:.1f} m",
                       limits, THK_COLOURS)
            error_image = draw_panel(error_panel, field[number] - label[number], extent,
                                     f"{name} error", (-limit, limit), ERROR_COLOURS)
        image = draw_panel(axes[n], label[number], extent, f"label, patch {number} ({what})",
                           limits, THK_COLOURS)
        figure.colorbar(image, ax=axes[:n + 1], label="thickness (m)", pad=0.01, extend="both")
        figure.colorbar(error_image, ax=axes[n + 1:], label="error (m)", pad=0.01, extend="both")
        axes[0].set_ylabel("y (km)", fontsize=8)
    for panel in grid[-1]:
        panel.set_xlabel("x (km)", fontsize=8)
    save(figure, path, made_of(metrics), show)


def assemble(fields, patches):
    """Put fields of all patches (patch, y, x) together to the window (y, x)."""
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    size = fields.shape[1]
    fields = fields.reshape(rows, columns, size, size).swapaxes(1, 2)
    return fields.reshape(rows * size, columns * size)


def plot_window(path, metrics, patches, maps, show=False):
    """window.png: the whole window put together from its patches, and which were for what."""
    x = patches["x"][patches["row"] == 0].ravel()
    y = patches["y"][patches["column"] == 0].ravel()
    extent = km_extent(x, y)
    label = assemble(patches["thk"][:, -1], patches)
    limit = error_limit_m(maps["bicubic"], patches["thk"][:, -1])
    thk_style = ((0, float(label.max())), THK_COLOURS)
    figure, grid = plt.subplots(len(maps) + 1, 2, figsize=(13, 3.2 * len(maps) + 4.2),
                                layout="compressed")
    figure.suptitle(headline(metrics), fontsize=11)
    for axes, (method, field) in zip(grid, maps.items(), strict=False):
        name, field = METHODS[method][0], assemble(field, patches)
        draw_panel(axes[0], field, extent, name, *thk_style)
        error_image = draw_panel(axes[1], field - label, extent, f"{name} error", (-limit, limit),
                                 ERROR_COLOURS)
    thk_image = draw_panel(grid[-1, 0], label, extent, "label", *thk_style)
    for column, image, name in ((0, thk_image, "thickness (m)"), (1, error_image, "error (m)")):
        figure.colorbar(image, ax=grid[:, column], location="bottom", label=name, aspect=40,
                        pad=0.02, extend="both")
    draw_split(grid[-1, 1], patches, x, y, label)
    for axes in grid.ravel():
        axes.locator_params(nbins=8)
        axes.set_xlabel("x (km)", fontsize=8)
        axes.set_ylabel("y (km)", fontsize=8)
    save(figure, path, made_of(metrics), show)


def draw_split(axes, patches, x, y, label):
    """Draw which patches were trained on and which tested, with the edge of the ice."""
    split = patches["split"].reshape(patches["row"].max() + 1, patches["column"].max() + 1)
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in SPLIT_COLOURS])
    axes.imshow(colours[split], origin="lower", extent=km_extent(x, y), interpolation="nearest")
    axes.contour(x / 1000, y / 1000, label > 0, levels=[0.5], colors="black", linewidths=0.5)
    axes.set_title("patches, and the edge of the ice", fontsize=9)
    axes.tick_params(labelsize=7)
    counts = {name: len(utils.in_split(patches, name)) for name in utils.SPLITS}
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=f"{name} ({counts[name]})")
                         for name, colour in zip(utils.SPLITS, SPLIT_COLOURS, strict=True)
                         if counts[name]], fontsize=7, loc="upper right", framealpha=0.9)


def plot_training(path, metrics, history, show=False):
    """training.png: RMSE of each stage by epoch, training and validation, log scale."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for k, stage in enumerate(metrics["stages"], 1):
        training = [row[f"train_rmse_m_stage{k}"] for row in history]
        name = f"stage {k}: {stage['from_km']:g} to {stage['to_km']:g} km, training"
        (line,) = axes.semilogy(epochs, training, linewidth=1, label=name)
        validation = [row[f"validation_rmse_m_stage{k}"] for row in history]
        if validation[0] is not None:
            axes.semilogy(epochs, validation, "--", linewidth=1, color=line.get_color(),
                          label="  validation")
    for method, (name, colour) in METHODS.items():
        if method != "model" and metrics["test"][method]:
            axes.axhline(metrics["test"][method]["rmse_m"], color=colour, linestyle=":",
                         label=f"{name}, test patches")
    axes.plot(metrics["epoch"], metrics["test"]["model"]["rmse_m"], "k*",
              label=f"model, test patches (epoch {metrics['epoch']})")
    axes.set(xlabel="epoch", ylabel="RMSE (m)")
    plain_ticks(axes.yaxis)
    axes.set_title(headline(metrics), fontsize=10)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    save(figure, path, made_of(metrics), show)


def plot_patches(path, metrics, patches, maps, show=False):
    """patches.png: model RMSE against that of each other method, a dot a test patch, log axes."""
    numbers = utils.in_split(patches, "test")
    label = patches["thk"][numbers, -1]
    floor = 1.0  # patches of open ocean may have no error at all; log axes need one
    rmse = patch_rmse_m({method: field[numbers] for method, field in maps.items()}, label)
    rmse = {method: np.maximum(values, floor) for method, values in rmse.items()}
    ends = np.array([floor, 1.3 * max(values.max() for values in rmse.values())])
    others = [method for method in maps if method != "model"]
    figure, panels = plt.subplots(1, len(others), figsize=(5.2 * len(others) + 1.8, 6),
                                  squeeze=False, layout="constrained")
    figure.suptitle(headline(metrics), fontsize=10)
    for axes, method in zip(panels[0], others, strict=True):
        dots = axes.scatter(rmse[method], rmse["model"], s=22, c=label.mean(axis=(1, 2)),
                            cmap=THK_COLOURS, edgecolors="black", linewidths=0.4)
        axes.loglog(ends, ends, "k-", linewidth=0.8)
        axes.text(0.97, 0.03, "below the line the model is better", transform=axes.transAxes,
                  fontsize=8, ha="right")
        won = metrics["test"]["won" if method == "bicubic" else f"won_{method}"]
        axes.set_title(f"model better than {METHODS[method][0]} in {won:.0%} of {len(numbers)} "
                       "test patches", fontsize=9)
        axes.set(xlabel=f"{METHODS[method][0]} RMSE (m; {floor:g} m or less drawn at {floor:g})",
                 ylabel="model RMSE (m)", aspect="equal")
        axes.grid(alpha=0.3)
    figure.colorbar(dots, ax=panels[0], label="mean thickness of the patch (m)")
    save(figure, path, made_of(metrics), show)


def plot_spectrum(path, metrics, show=False):
    """spectrum.png: power by wavelength, and the share of the label's that each method explains."""
    spectrum = metrics["test"]["spectrum"]
    wavelength_km = spectrum["wavelength_km"]
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    figure.suptitle(headline(metrics), fontsize=10)
    panels[0].loglog(wavelength_km, spectrum["label"], "k-", linewidth=2, label="label")
    for method, (name, colour) in METHODS.items():
        if spectrum[method]:
            panels[0].loglog(wavelength_km, spectrum[method], color=colour, label=name)
            panels[1].semilogx(wavelength_km, spectrum["explained"][method], color=colour)
    panels[0].set(ylabel="power (m² km²)", title="Mean power spectrum of the test patches")
    panels[1].set(ylabel="1 − power of the error / power of the label", ylim=(-0.6, 1.05),
                  title="Share of the label's power that is right")
    panels[1].axhline(0, color="black", linewidth=0.8)
    coarse_km = 2 * metrics["stages"][0]["from_km"]
    for axes in panels:
        axes.axvline(coarse_km, color="grey", linestyle="--", linewidth=1,
                     label=f"two coarse cells ({coarse_km:g} km)")
        plain_ticks(axes.xaxis)
        axes.invert_xaxis()
        axes.set_xlabel("wavelength (km)")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="lower left")
    save(figure, path, made_of(metrics), show)


def plot_all_patches(folder, metrics, patches, maps):
    """<patch>_bicubic.png, _surface.png, _predicted.png and _label.png of each test patch."""
    for number in utils.in_split(patches, "test"):
        label = patches["thk"][number, -1]
        fields = {"predicted" if method == "model" else method: field[number]
                  for method, field in maps.items()} | {"label": label}
        limits = (0, max(label.max(), LEAST_SCALE_M))  # one scale for all of them
        extent = km_extent(patches["x"][number], patches["y"][number])
        for name, field in fields.items():
            figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
            title = f"{headline(metrics)}\npatch {number}, {name}"
            image = draw_panel(axes, field, extent, title, limits, THK_COLOURS)
            axes.title.set_fontsize(7)
            axes.set(xlabel="x (km)", ylabel="y (km)")
            figure.colorbar(image, ax=axes, label="thickness (m)", extend="both")
            save(figure, folder / f"{number:03d}_{name}.png", made_of(metrics), show=False)


# ---------------------------------------------------------------- the two jobs


def evaluate(run, input_file=None, count=PATCHES, all_patches=False, show=False, figures=True):
    """Evaluate a run on its test patches: table on screen, results/<run>/; returns the metrics.

    input_file: the map to make the patches from where they are missing; count: rows of
    comparison.png. Without figures only metrics.json and metrics.csv are written.
    """
    if not show:
        plt.switch_backend("Agg")
    settings = utils.read_settings(run)
    patches = load_patches(settings, input_file)
    layers = load_layers(settings)
    predictions = predict(layers, patches, settings, np.arange(len(patches["thk"])))
    numbers = utils.in_split(patches, "test")
    history = utils.read_table(utils.CHECKPOINTS / run / "history.csv")
    metrics = measure(predictions[:, numbers], patches, settings, numbers)
    metrics["epoch"] = best_epoch(history)

    folder = utils.RESULTS / run
    utils.write_json(folder / "metrics.json", metrics)
    utils.write_table(folder / "metrics.csv", metrics_rows(metrics))
    print(f"\n{headline(metrics)}\n{metrics['n_test']} test patches; ratio: MSE over that of "
          "bicubic; won: share of patches in which the model is better\n")
    print_table(metrics_rows(metrics))
    print_more(metrics["test"])
    if not figures:
        return metrics

    maps = estimate(predictions[-1], patches, np.arange(len(patches["thk"])))
    plot_comparison(folder / "comparison.png", metrics, patches, maps, count, show)
    plot_window(folder / "window.png", metrics, patches, maps, show)
    plot_training(folder / "training.png", metrics, history, show)
    plot_patches(folder / "patches.png", metrics, patches, maps, show)
    plot_spectrum(folder / "spectrum.png", metrics, show)
    if all_patches:
        plot_all_patches(folder / "patches", metrics, patches, maps)
    print(f"\nfigures  {folder / 'comparison.png'}  and window.png, training.png, patches.png, "
          "spectrum.png")
    if show:
        plt.show()
    return metrics


def summarise(name, every):
    """One table of runs that differ in fold and seed: on screen, and results/<name>.csv.

    every: {fold, or "test" where there are none: [run of each seed]}, all of them evaluated. A row
    a fold, with the medians over its seeds; then the mean over the folds, its spread their standard
    deviation; last all test patches, each in it once: their pooled MSE, the median over seeds.
    ratio: MSE, model over bicubic; ratio_surface: over the surface base; else spread is the highest
    less the lowest of the seeds.
    """
    tests = {part: [utils.read_json(utils.RESULTS / run / "metrics.json",
                                    f"evaluate the run first: python evaluate.py --run {run}")
                    for run in runs] for part, runs in every.items()}

    def row(part, groups):  # groups: for each seed, the metrics of its folds
        weights = [metrics["n_test"] for metrics in groups[0]]
        mse = {method: np.array([np.average([metrics["test"][method]["rmse_m"] ** 2
                                             for metrics in group], weights=weights)
                                 for group in groups])
               for method in METHODS if groups[0][0]["test"][method]}
        found = {"part": part, "n_test": sum(weights), "seeds": len(groups)}
        found |= {f"{method}_rmse_m": float(np.sqrt(np.median(values)))
                  for method, values in mse.items()}
        for key, other in (("ratio", "bicubic"), ("ratio_surface", "surface")):
            if other in mse:
                ratio = mse["model"] / mse[other]
                found |= {key: float(np.median(ratio)), f"{key}_spread": float(np.ptp(ratio))}
        return found

    rows = [row(part, [[metrics] for metrics in seeds]) for part, seeds in tests.items()]
    if len(rows) > 1:
        mean = {key: float(np.mean([each[key] for each in rows])) for key in rows[0]
                if key != "part"}
        mean |= {f"{key}_spread": float(np.std([each[key] for each in rows], ddof=1))
                 for key in ("ratio", "ratio_surface") if key in mean}
        rows += [mean | {"part": "mean of folds"},
                 row("all patches", list(zip(*tests.values(), strict=True)))]
    path = utils.RESULTS / f"{name}.csv"
    first = next(iter(tests.values()))[0]
    utils.write_table(path, [each | {key: first[key] for key in ("source", "degrade", "recipe")}
                             for each in rows])
    print(f"\n{'':14}{'patches':>8}{'seeds':>6}{'bicubic m':>11}{'surface m':>11}{'model m':>9}"
          f"{'model / bicubic':>20}{'model / surface':>20}")
    for each in rows:
        print(f"{each['part']:14}{each['n_test']:8g}{each['seeds']:6g}"
              f"{each['bicubic_rmse_m']:11.1f}{each.get('surface_rmse_m', np.nan):11.1f}"
              f"{each['model_rmse_m']:9.1f}" + "".join(
                  f"{each.get(key, np.nan):12.3f} ± {each.get(f'{key}_spread', np.nan):5.3f}"
                  for key in ("ratio", "ratio_surface")))
    print(f"\ntable    {path}  (ratios of MSE; ±: highest less lowest seed; of the mean, standard "
          "deviation of the folds)")


def compare(runs, show=False):
    """Put evaluated runs side by side: a table on screen, results/compare_<runs>.csv and .png.

    And results/compare_<runs>_training.png, error against training time.
    """
    if not show:
        plt.switch_backend("Agg")
    every = [utils.read_json(utils.RESULTS / run / "metrics.json",
                             f"evaluate the run first: python evaluate.py --run {run}")
             for run in runs]
    rows = [row | {"part": metrics["run"]} for metrics in every for row in metrics_rows(metrics)
            if row["part"] == "test"]
    print_table(rows)
    for key in ("source", "degrade", "split", "split_seed", "n_test"):
        values = list(dict.fromkeys(str(metrics[key]) for metrics in every))
        if len(values) > 1:
            print(f"note: the runs differ in {key} ({', '.join(values)}): not the same test")

    path = utils.RESULTS / f"compare_{'_'.join(runs)}.png"
    utils.write_table(path.with_suffix(".csv"), rows)
    synthetic = ", ".join(metrics["run"] for metrics in every if metrics["synthetic"])
    title = "test patches" + (f"\nSYNTHETIC ice sheet: {synthetic}" if synthetic else "")
    plot_bars(path, every, f"Runs side by side, {title}", show)
    print(f"\nfigure   {path}")
    path = path.with_name(f"{path.stem}_training.png")
    if plot_times(path, every, f"Error against training time; stars and dotted lines: {title}",
                  show):
        print(f"figure   {path}")
    if show:
        plt.show()


def plot_bars(path, every, title, show=False):
    """compare_<runs>.png: RMSE of every method, and the model's MSE over the others', by run."""
    figure, panels = plt.subplots(1, 2, figsize=(6 + 2 * len(every), 5), layout="constrained")
    figure.suptitle(title, fontsize=11)

    tests = [metrics["test"] for metrics in every]
    rmse_m = {method: [(test.get(method) or {}).get("rmse_m") for test in tests]
              for method in METHODS}
    ratio = {method: [test.get(key) for test in tests]
             for method, key in (("bicubic", "ratio"), ("surface", "ratio_surface"))}
    for axes, label, name, digits, bars in ((panels[0], "RMSE (m)", "{}", 1, rmse_m),
                                            (panels[1], "ratio of MSE", "model / {}", 3, ratio)):
        for i, (method, values) in enumerate(bars.items()):
            drawn = axes.bar(np.arange(len(every)) + 0.29 * (i - (len(bars) - 1) / 2),
                             np.array(values, float), 0.29, color=METHODS[method][1],
                             label=name.format(METHODS[method][0]))
            axes.bar_label(drawn, ["" if value is None else f"{value:.{digits}f}"
                                   for value in values], fontsize=8)
        axes.set(ylabel=label, xlim=(-0.6, len(every) - 0.4))
        axes.margins(y=0.1)
        axes.set_xticks(range(len(every)), [f"{metrics['run']}\n{metrics['scale']}x, "
                                            f"{metrics['split']}" for metrics in every], fontsize=8)
    panels[1].axhline(1, color="black", linestyle=":")
    for axes in panels:
        axes.legend(fontsize=8)
    save(figure, path, {metrics["run"]: metrics["settings"] for metrics in every}, show)


def plot_times(path, every, title, show=False):
    """compare_<runs>_training.png: RMSE of the last stage against training time, log axes.

    Training patches by epoch, dashed the validation patches, and test RMSE at the epoch that is
    evaluated. Returns False where no run has its history.csv any more.
    """
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    lines = {}  # the same test patches give the same two lines: drawn once
    for metrics in every:
        history_path = utils.CHECKPOINTS / metrics["run"] / "history.csv"
        if not history_path.exists():
            print(f"note: {history_path} is missing: no training curve of {metrics['run']}")
            continue
        history = utils.read_table(history_path)
        seconds = [row["seconds"] for row in history]
        last = len(metrics["stages"])
        training, validation = ([row[f"{part}_rmse_m_stage{last}"] for row in history]
                                for part in ("train", "validation"))
        (line,) = axes.loglog(seconds, training, linewidth=1, label=metrics["run"])
        if validation[0] is not None:
            axes.loglog(seconds, validation, "--", linewidth=1, color=line.get_color())
        at = next(row["seconds"] for row in history if row["epoch"] == metrics["epoch"])
        axes.plot(at, metrics["test"]["model"]["rmse_m"], "*", color=line.get_color(),
                  markeredgecolor="black", markersize=12)
        for method in ("bicubic", "surface"):
            if metrics["test"].get(method):
                rmse_m = metrics["test"][method]["rmse_m"]
                lines.setdefault((method, round(rmse_m, 3)), []).append(metrics["run"])
    if not axes.lines:
        plt.close(figure)
        return False
    for (method, rmse_m), runs in lines.items():
        axes.axhline(rmse_m, color=METHODS[method][1], linestyle=":",
                     label=f"{METHODS[method][0]}: {', '.join(runs)}")
    axes.plot([], [], "k--", linewidth=1, label="validation patches")
    axes.plot([], [], "k*", markersize=12, label="test patches, at the best epoch")
    axes.set(xlabel="training time (s)", ylabel="RMSE (m)")
    axes.set_title(title, fontsize=10)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path, {metrics["run"]: metrics["settings"] for metrics in every}, show)
    return True


# ---------------------------------------------------------------- whole maps


def downscale(chain, found, bed, settings, baselines=False):
    """Make a whole map finer, tile by tile, with progress: see model.run_tile.

    Yields (rows, columns, fields): slices of the fine map and what is in them.
    """
    tiles = model.map_tiles(found["thk"].shape, settings)
    started = time.monotonic()
    for done, tile in enumerate(tiles, 1):
        yield model.run_tile(chain, found, bed, tile, settings, baselines)
        utils.show_progress("tile", done, len(tiles), (time.monotonic() - started) / done)


@contextlib.contextmanager
def bed_of(found, bed_file, settings, needed_for, record):
    """The bed for a map (see utils.open_bed), from its own file or another; None if there is none.

    InputError where the run needs one, or where the bed is of another projection or place.
    """
    if bed_file is None:
        if found["topg"] is None and model.needs_topg(settings):
            raise InputError(f"{needed_for}: no bed (topg) in it, and run {settings['run']} needs "
                             "one; give it with --bed, or use a run trained with --channels thk")
        yield None if found["topg"] is None else {
            "x": found["x"], "y": found["y"], "read": lambda *parts: found["topg"][parts],
            "name": found["name"], "sha256": found["sha256"], "citation": found["citation"]}
        return
    with utils.open_bed(bed_file, record) as bed:
        kinds = [crs.get("grid_mapping_name", "") for crs in (found["crs"], bed["crs"])]
        if all(kinds) and kinds[0] != kinds[1]:
            raise InputError(f"{bed_file}: its projection is {kinds[1]}, that of the map "
                             f"{kinds[0]}; reproject it first")
        for name in "xy":
            if bed[name][-1] < found[name][0] or bed[name][0] > found[name][-1]:
                raise InputError(f"{bed_file}: {name} from {bed[name][0]:.0f} to "
                                 f"{bed[name][-1]:.0f} m, the map's from {found[name][0]:.0f} to "
                                 f"{found[name][-1]:.0f} m: not the same place")
        yield bed


def say_what_it_does(settings, found, spacing_m):
    """Print what a run is asked to make, and where that is not what it was trained for."""
    data, scale = settings["data"], settings["scale"]
    print(f"{found['name']}: {found['thk'].shape[1]} x {found['thk'].shape[0]} cells of "
          f"{spacing_m / 1000:g} km to {spacing_m / scale / 1000:g} km with run {settings['run']} "
          f"({scale}x)")
    if utils.read_settings(settings["run"])["data"]["degrade"] != "area":
        print("note: the run was trained on point samples (bicubic), a map has cell means; a run "
              "on patches made with --degrade area does better")
    if not np.isclose(data["spacing_m"], spacing_m / scale, rtol=0.01):
        print(f"note: the run was trained to end at {data['spacing_m'] / 1000:g} km")
    if found["n_missing_thk"]:
        print(f"{found['n_missing_thk']} cells have no thickness: {int(found['unknown'].sum())} of "
              "them unknown, the others without ice")


def grid_mapping(found):
    """The map's grid mapping, EPSG:3031 where it has none but is called Antarctic; else {}."""
    words = f"{found['name']} {found['title']}".lower()
    antarctic = any(word in words for word in ("antarc", "albmap", "bedmap"))
    return found["crs"] or (utils.EPSG_3031 if antarctic else {})


def downscale_map(run, map_file, bed_file, scale, output, record=-1, show=False):
    """Make a coarse map finer with a run and write it to `output`, CF-1.8 NetCDF; and a figure."""
    if not show:
        plt.switch_backend("Agg")
    trained = utils.read_settings(run)
    layers, settings = model.last_stages(load_layers(trained), trained, scale or trained["scale"])
    scale, found = settings["scale"], utils.read_map(map_file, record)
    spacing_m = float(found["x"][1] - found["x"][0])
    say_what_it_does(settings, found, spacing_m)
    x, y = (utils.finer_axis(found[name], scale) for name in "xy")
    halo, side = model.tile_sides(settings)
    with bed_of(found, bed_file, settings, map_file, record) as bed:
        if bed and bed["x"][1] - bed["x"][0] > 0.999 * spacing_m:
            print(f"note: the bed of {bed['name']} is no finer than the map; little can be gained")
        sources = dict.fromkeys([found["name"], *([bed["name"]] if bed else [])])
        citations = dict.fromkeys([each["citation"] for each in (found, bed) if each])
        attributes = {
            "title": f"{found['title'] or found['name']}, ice thickness downscaled {scale}x to "
                     f"{spacing_m / scale:g} m",
            "history": f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} python evaluate.py "
                       f"{shlex.join(sys.argv[1:])}",
            "source": f"{' with the bed of '.join(sources)}; recurrent SRCNN, run {run}, trained "
                      f"on {trained['data']['source']}",
            "citation": "; ".join(each for each in citations if each),
            "source_sha256": found["sha256"], "bed_sha256": bed["sha256"] if bed else "",
            "model_run": run, "model_settings": json.dumps(trained),
            "model_training_citation": trained["data"]["citation"],
            "model_scores": model_scores(run), "versions": json.dumps(utils.versions()),
            "comment": "thk averaged over the cells of the coarse map gives that map back",
            **({"synthetic": "yes"} if found["synthetic"] else {})}
        names = ["thk", "topg", "usrf", "mask"] if bed else ["thk"]
        chain = compile_chain(layers, settings)
        chunk = (side - 2 * halo) * scale
        with utils.writing_map(output, x, y, grid_mapping(found), names, chunk, attributes) as ds:
            for rows, columns, fields in downscale(chain, found, bed, settings):
                thk, topg = fields["model"], fields["topg"]
                ds["thk"][rows, columns] = thk
                if bed:
                    ds["topg"][rows, columns] = topg
                    # utils.surface, but rock without ice has a surface too
                    ds["usrf"][rows, columns] = np.maximum(
                        thk + topg, (1 - utils.RHO_ICE / utils.RHO_SEA) * thk)
                    ds["mask"][rows, columns] = utils.surface_mask(thk, topg)
    print(f"wrote    {output}")
    path = utils.RESULTS / run / f"map_{Path(output).stem}.png"
    plot_downscaled(path, output, found, settings, show)
    print(f"figure   {path}")
    if show:
        plt.show()


def model_scores(run):
    """The scores of a run in results/<run>/, test patches and hindcasts, as one text for a file."""
    folder, said = utils.RESULTS / run, []
    for path in [folder / "metrics.json", *sorted(folder.glob("hindcast_*.json"))]:
        if not path.exists():
            continue
        metrics = utils.read_json(path, f"evaluate the run again: python evaluate.py --run {run}")
        if "test" in metrics:
            scores = metrics["test"]
            what = (f"{metrics['n_test']} test patches of {metrics['source']}, {metrics['scale']}x,"
                    f" {metrics['degrade']} reduction, {metrics['split']} split")
        else:
            scores = metrics["all"]
            what = (f"{metrics['map']}, whole, from {metrics['from_km']:g} to "
                    f"{metrics['to_km']:g} km")
        errors = ", ".join(f"{name} {scores[method]['rmse_m']:.1f} m"
                           for method, (name, _) in METHODS.items() if scores.get(method))
        said.append(f"RMSE on {what}: {errors}")
    return "; ".join(said) or "not evaluated here"


def hindcast(run, map_file, scale=None, record=-1, show=False):
    """Reduce a fine map to cell means, rebuild it with a run, and score that against the map.

    Writes results/<run>/hindcast_<map>_x<scale>.json and .png, prints a table, and returns the
    metrics: see measure_map.
    """
    if not show:
        plt.switch_backend("Agg")
    trained = utils.read_settings(run)
    layers, settings = model.last_stages(load_layers(trained), trained, scale or trained["scale"])
    scale, fine = settings["scale"], utils.read_map(map_file, record)
    ny, nx = (n // scale * scale for n in fine["thk"].shape)
    if min(ny, nx) < 2 * scale:
        raise InputError(f"{map_file}: {fine['thk'].shape} cells, too few to be reduced {scale}x")
    if (ny, nx) != fine["thk"].shape:
        print(f"{scale}x: {ny} x {nx} of the {fine['thk'].shape} cells make whole coarse cells")
    fine |= {"x": fine["x"][:nx], "y": fine["y"][:ny]}
    fine |= {name: fine[name][:ny, :nx] for name in ("thk", "topg", "unknown")
             if fine[name] is not None}
    unknown = fine["unknown"].reshape(ny // scale, scale, nx // scale, scale).any(axis=(1, 3))
    coarse = fine | {
        "thk": utils.reduce_fields(fine["thk"][None], scale, "area")[0].astype(np.float32),
        "x": fine["x"].reshape(-1, scale).mean(axis=1), "unknown": unknown,
        "y": fine["y"].reshape(-1, scale).mean(axis=1)}
    spacing_m = float(fine["x"][1] - fine["x"][0])
    say_what_it_does(settings, coarse, spacing_m * scale)
    maps = {}
    with bed_of(fine, None, settings, map_file, record) as bed:
        for rows, columns, fields in downscale(compile_chain(layers, settings), coarse, bed,
                                               settings, baselines=True):
            fields.pop("topg")
            for name, field in fields.items():
                maps.setdefault(name, np.empty((ny, nx), np.float32))[rows, columns] = field
    metrics = measure_map(maps, fine, coarse, settings, trained)
    path = utils.RESULTS / run / f"hindcast_{Path(map_file).stem}_x{scale}.json"
    utils.write_json(path, metrics)
    print_map_table(metrics)
    plot_hindcast(path.with_suffix(".png"), metrics, maps, fine, show)
    print(f"\nfigure   {path.with_suffix('.png')}")
    if show:
        plt.show()
    return metrics


def measure_map(maps, fine, coarse, settings, trained):
    """Metrics of a hindcast: a dict; `all`, `by_type` and `by_place` have a dict for every method.

    maps: {method: (y, x) m}; fine: the map itself; coarse: what it was reduced to; settings: of the
    chain; trained: of the run. Scored on ice and NEAR_ICE cells around it: utils.errors and
    utils.volume_error over everything, by utils.surface_types (margin: within two coarse cells of
    an ice edge or a grounding line), and inside and outside the window that the run was trained on,
    if it was on this projection. consistency_m: largest difference of the reduced result from the
    coarse map; least_thk_m: its lowest thickness.
    """
    label, scale = fine["thk"], settings["scale"]
    spacing_m = float(fine["x"][1] - fine["x"][0])
    known = np.isfinite(maps["model"])
    near = known & (scipy.ndimage.distance_transform_edt(label <= 0) <= NEAR_ICE
                    if (label > 0).any() else True)
    thk_max_m = max(float(label.max()), 1.0)

    def score(cells):
        found = {"n_cells": int(cells.sum())}
        for method, field in maps.items() if cells.any() else ():
            found[method] = (utils.errors(field[cells], label[cells], thk_max_m)
                             | utils.volume_error(field[cells], label[cells], spacing_m))
        return found

    x0, x1, y0, y1 = trained["data"]["window"]
    window = (((fine["y"] >= y0) & (fine["y"] <= y1))[:, None]
              & (fine["x"] >= x0) & (fine["x"] <= x1))
    checks = {}
    for method, field in maps.items():
        reduced = utils.reduce_fields(np.where(known, field, 0)[None], scale, "area")[0]
        off = np.abs(reduced - coarse["thk"])[~coarse["unknown"]]
        checks[method] = {"consistency_m": float(off.max(initial=0)),
                          "least_thk_m": float(np.nanmin(field, initial=np.inf))}
    types = utils.surface_types(label, fine["topg"], 2 * scale)
    return {
        "run": settings["run"], "scale": scale, "map": fine["name"], "map_sha256": fine["sha256"],
        "citation": fine["citation"], "synthetic": fine["synthetic"],
        "from_km": spacing_m * scale / 1000, "to_km": spacing_m / 1000, "degrade": "area",
        "cells": list(label.shape), "all": score(near),
        "by_type": {name: score(cells & near) for name, cells in types.items() if name != "all"},
        "by_place": {"training window": score(near & window), "elsewhere": score(near & ~window)},
        "checks": checks, "settings": trained, "versions": utils.versions(),
    }


def print_map_table(metrics):
    """Print the table of a hindcast; metrics: see measure_map."""
    methods = [name for name in ("bicubic", "surface", "surface_consistent", "model")
               if name in metrics["all"]]
    head = "".join(f"{name.replace('_consistent', '+c.'):>11}" for name in methods)
    print(f"\n{metrics['map']}, {metrics['from_km']:g} km to {metrics['to_km']:g} km: ice and "
          f"{NEAR_ICE} cells around it\n{'':16}{'cells':>9}{'RMSE m':>{len(head)}}"
          f"{'bias m':>{len(head)}}\n{'':25}{head * 2}")
    for name, entry in [("all", metrics["all"]), *metrics["by_type"].items(),
                        *metrics["by_place"].items()]:
        print(f"{name:16}{entry['n_cells']:9d}" + "".join(
            f"{entry[method][key]:{form}}" if method in entry else f"{'-':>11}"
            for key, form in (("rmse_m", "11.1f"), ("bias_m", "+11.1f")) for method in methods))
    for name, form, values in (
            ("MAE m", "11.1f", [metrics["all"][method]["mae_m"] for method in methods]),
            ("volume %", "+11.3f", [metrics["all"][method]["volume_error_percent"] or 0.0
                                    for method in methods]),
            ("consistency m", "11.3f", [metrics["checks"][method]["consistency_m"]
                                        for method in methods]),
            ("least thk m", "11.1f", [metrics["checks"][method]["least_thk_m"]
                                      for method in methods])):
        print(f"{name:25}" + "".join(f"{value:{form}}" for value in values))


def plot_hindcast(path, metrics, maps, fine, show=False):
    """hindcast_<map>.png: label, and the errors of every method on one scale; below, the worst."""
    label = fine["thk"]
    errors = {method: maps[method] - label for method in METHODS if method in maps}
    limit = error_limit_m(np.nan_to_num(maps["bicubic"]), label)
    panels = [("label", label, "thk")] + [
        (f"{METHODS[method][0]} error, RMSE {metrics['all'][method]['rmse_m']:.1f} m", error,
         "error") for method, error in errors.items() if method in metrics["all"]]
    title = (f"Hindcast with run {metrics['run']}: {metrics['map']}, {metrics['from_km']:g} km to "
             f"{metrics['to_km']:g} km")
    if metrics["synthetic"]:
        title = f"SYNTHETIC ice sheet, no real place\n{title}"
    plot_map(path, title, fine["x"], fine["y"], panels, (label, fine["topg"]), limit,
             np.nan_to_num(errors["model"]), made_of(metrics), show)


def plot_downscaled(path, output, found, settings, show=False):
    """map_<output>.png: the coarse map, the fine one, and their difference; below, the greatest."""
    scale = settings["scale"]
    with utils.open_netcdf(output) as ds:
        every = math.ceil(max(ds["thk"].shape) / (2 * MAP_PIXELS)) | 1  # see plot_map
        thk, topg = (np.ma.filled(ds[name][::every, ::every], np.nan) if name in ds.variables
                     else None for name in ("thk", "topg"))
    x, y = (utils.finer_axis(found[name], scale)[::every] for name in "xy")
    rows, columns = (np.arange(n * scale)[::every] // scale for n in found["thk"].shape)
    coarse = found["thk"][rows[:, None], columns]
    panels = [("coarse map", coarse, "thk"), ("downscaled", thk, "thk"),
              ("downscaled - coarse", thk - coarse, "error")]
    spacing_km = (found["x"][1] - found["x"][0]) / 1000
    title = (f"{found['name']} from {spacing_km:g} km to {spacing_km / scale:g} km with run "
             f"{settings['run']}")
    change = np.nan_to_num(thk - coarse)
    plot_map(path, title, x, y, panels, (thk, topg), error_limit_m(change, 0), change,
             {"settings": settings, "versions": utils.versions()}, show)


def plot_map(path, title, x, y, panels, outline, limit, worst, made, show):
    """A figure of a whole map: its panels, and below them the same, zoomed to the worst region.

    x, y: axes [m]; panels: [(name, (y, x) field [m], "thk" or "error")]; outline: thk and topg
    [m] that give ice edge (black) and grounding line (orange); limit: end of the error scale [m];
    worst: (y, x) [m], the zoom is where its squares are largest.
    """
    side = min(ZOOM, *worst.shape)
    mean = scipy.ndimage.uniform_filter(worst.astype(np.float64) ** 2, side, mode="constant")
    half = side // 2
    allowed = mean[half:len(y) - side + half + 1, half:len(x) - side + half + 1]
    row, column = np.unravel_index(np.argmax(allowed), allowed.shape)
    # Odd: of the cells that divide a coarse one, not always the same are seen.
    step = math.ceil(max(worst.shape) / MAP_PIXELS) | 1
    views = [(slice(None, None, step),) * 2, (slice(row, row + side), slice(column, column + side))]
    thk, topg = outline
    mask = utils.surface_mask(thk, np.zeros_like(thk) if topg is None else topg)
    lines = [(mask >= 2, "black")] + ([(mask == 2, "#ff7f00")] if topg is not None else [])
    styles = {"thk": ((0, max(float(np.nanmax(thk, initial=0)), LEAST_SCALE_M)), THK_COLOURS),
              "error": ((-limit, limit), ERROR_COLOURS)}
    n, tall = len(panels), len(y) / len(x)
    figure, grid = plt.subplots(2, n, figsize=(4 * n, 4 * tall + 5.2), layout="compressed",
                                height_ratios=(tall, 1))
    lines_are = "ice edge black" + (", grounding line orange" if topg is not None else "")
    figure.suptitle(f"{title}\n{lines_are}, zoom red", fontsize=11)
    images = {}
    for axes, (rows, columns), what in zip(grid, views, ("", ", zoom"), strict=True):
        extent = km_extent(x[columns], y[rows])
        for panel, (name, field, kind) in zip(axes, panels, strict=True):
            heading = name.split(",")[0] + what if what else name  # its RMSE is of the whole map
            images[kind] = draw_panel(panel, field[rows, columns], extent, heading, *styles[kind])
            for cells, colour in lines:
                if 0 < cells[rows, columns].mean() < 1:
                    panel.contour(x[columns] / 1000, y[rows] / 1000, cells[rows, columns], [0.5],
                                  colors=colour, linewidths=0.4 if not what else 0.8)
            panel.set_xlabel("x (km)", fontsize=8)
        axes[0].set_ylabel("y (km)", fontsize=8)
    for panel in grid[0]:  # where the zoom is
        box = km_extent(x[views[1][1]], y[views[1][0]])
        panel.add_patch(matplotlib.patches.Rectangle(
            (box[0], box[2]), box[1] - box[0], box[3] - box[2], fill=False, edgecolor="red"))
    for kind, label in (("thk", "thickness (m)"), ("error", "difference (m)")):
        of_kind = [i for i, panel in enumerate(panels) if panel[2] == kind]
        figure.colorbar(images[kind], ax=grid[:, of_kind], label=label, location="bottom",
                        aspect=30, pad=0.02, extend="max" if kind == "thk" else "both")
    save(figure, path, made, show)


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc", help="the map, where its patches are missing")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="evaluated runs side by side")
    parser.add_argument("--patches", type=int, default=PATCHES, metavar="N",
                        help="rows of comparison.png")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--map", metavar="MAP.nc", help="downscale this whole map")
    parser.add_argument("--bed", metavar="BED.nc", help="its bed, finer than the map")
    parser.add_argument("--output", metavar="FINE.nc", help="where the finer map goes")
    parser.add_argument("--hindcast", action="store_true",
                        help="reduce --map, rebuild it and score that")
    parser.add_argument("--time", type=int, default=-1, metavar="N",
                        help="record of --map (default: last)")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.patches < 1:
        raise InputError(f"--patches {args.patches}: expected 1 or more")
    if args.map:
        if args.hindcast == bool(args.output):
            raise InputError("--map: give --output FINE.nc to downscale it, or --hindcast to score "
                             "a run on it")
        if not args.run or args.compare or args.input or (args.hindcast and args.bed):
            raise InputError("--map goes with --run NAME, and with --bed, --scale, --time, "
                             "--output or --hindcast (which takes the bed from the map) alone")
        run = utils.check_run_name(args.run)
        if args.hindcast:
            hindcast(run, args.map, args.scale, args.time, args.show)
        else:
            downscale_map(run, args.map, args.bed, args.scale, args.output, args.time, args.show)
        return 0
    if args.bed or args.output or args.hindcast:
        raise InputError("--bed, --output and --hindcast go with --map MAP.nc")
    if args.compare:
        if args.run or args.scale:
            raise InputError("--compare names the runs itself; leave out --run and --scale")
        return compare([utils.check_run_name(run) for run in args.compare], args.show)
    run = utils.check_run_name(args.run or f"x{args.scale or 8}")
    scale = utils.read_settings(run)["scale"]
    if args.scale not in (None, scale):
        raise InputError(f"run {run} was trained for {scale}x, not {args.scale}x; leave out "
                         "--scale")
    evaluate(run, args.input, args.patches, args.all_patches, args.show)
    return 0


if __name__ == "__main__":
    utils.run_script(main)
