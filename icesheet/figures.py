"""All figures: what they share, then those of test patches, of trainings, of whole maps.

A plot_... function returns a figure, save_figure writes it. by_method is {method: thickness of all
patches (patch, y, x) [m]}. Nothing here imports TensorFlow.
"""

import contextlib
import json
import math
import os
from pathlib import Path

# Notebooks and clusters set a backend that may not be there. Figures are files: only --show asks.
WISHED_BACKEND = os.environ.pop("MPLBACKEND", "")
# No matplotlibrc is read, which may ask for LaTeX or be broken: matplotlib looks for it in the
# working folder, then where this variable says.
os.environ["MATPLOTLIBRC"] = os.devnull
with contextlib.chdir(Path(__file__).parent):
    import matplotlib

import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import scipy.ndimage

import utils
from icesheet import command_line, files, map_files
from icesheet.command_line import InputError
from icesheet.patches import SPLITS, find_patches_in_split, join_patches
from icesheet.scores import METHOD_STYLES, compute_patch_rmse_m
from icesheet.settings import get_densities

MAPPED_METHODS = ("bicubic", "surface_minus_bed", "model")  # those that figures show maps of
COMPARISON_ROWS = 6        # rows of comparison.png: best, median and worst are among them
MIN_ICE_SHARE = 0.1        # of the cells of a patch in comparison.png, where there are such
THK_COLOURS = "viridis"    # thickness
WIDTH_COLOURS = "magma_r"  # half-widths of intervals
ERROR_COLOURS = "RdBu_r"   # errors: red too thick, blue too thin, white right
SPLIT_COLOURS = ("#c6dbef", "#6baed6", "#e6550d", "#d9d9d9")  # of SPLITS
MIN_COLOUR_RANGE_M = 100.0  # least end of a thickness scale
ERROR_PERCENTILE = 99.5    # ends the scale of errors and widths; beyond it colours saturate
MAX_PANEL_CELLS = 1200     # longest side of a map in a figure; it is read at up to twice that
ZOOM_CELLS = 96            # side of the zoom, in fine cells
GROUNDED = utils.CELL_TYPES.index("grounded_ice")
plt.rcParams.update({
    "savefig.dpi": 150, "font.size": 8, "figure.titlesize": 11, "axes.titlesize": 9,
    "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "grid.alpha": 0.3, "image.origin": "lower", "image.interpolation": "nearest"})


def select_backend(show):
    """Decide once whether figures are shown on screen at the end, or only written.

    Raises InputError if they are to be shown and there is no screen for them.
    """
    if not show:
        plt.switch_backend("Agg")
        return
    try:
        plt.switch_backend(WISHED_BACKEND or matplotlib.get_backend())
    except (ImportError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--show: no window can be opened ({command_line.one_line(error)[:120]}); leave out "
            "--show: figures are written to files anyway") from None


def show():
    """Show all figures that are open, until their windows are closed."""
    plt.show()


def save_figure(figure, path, provenance):
    """Write a figure to `path`, whole or not at all, and close it unless it is to be shown.

    provenance: what made it (settings, checksums; for JSON), kept in the PNG's Description.
    """
    provenance = provenance | {"command": command_line.command_text(),
                               "versions": files.package_versions()}
    with files.atomic_write(path) as temporary, files.explain_write_errors(path):
        figure.savefig(temporary, format="png", metadata={"Description": json.dumps(provenance)})
    if plt.get_backend().lower() == "agg":
        plt.close(figure)


def mark_synthetic(title, is_synthetic):
    """Return the title of a figure, which says first if nothing in it is real."""
    return "SYNTHETIC ice sheet, no real place\n" * bool(is_synthetic) + title


def figure_title(metrics):
    """Return the title of the figures of a run: what was done to what."""
    to_km = metrics["stages"][-1]["to_km"]
    return mark_synthetic(
        f"Run {metrics['run']}: ice thickness, {metrics['scale'] * to_km:g} km to {to_km:g} km "
        f"({metrics['scale']}x, {metrics['degrade']} coarsening, {metrics['split']})\n"
        f"{metrics['source']}", metrics["synthetic"])


def pick_patches_by_rank(rmse_m, count):
    """Pick `count` patches from the lowest to the highest RMSE, evenly spaced in rank.

    From 3 on best, median and worst are among them. Returns {position in rmse_m: its rank's name}.
    """
    order, n = np.argsort(rmse_m, kind="stable"), len(rmse_m)
    ranks = np.linspace(0, n - 1, min(count, n)).round().astype(int)
    if len(ranks) > 2:
        ranks[len(ranks) // 2] = n // 2
    names = {n - 1: "worst", n // 2: "median", 0: "best"}
    return {order[rank]: names.get(rank, f"rank {rank + 1} of {n}") for rank in ranks}


def km_extent(x, y):
    """Return the outer edges of cells (left, right, bottom, top) [km] with centres x, y [m]."""
    half = (x[1] - x[0]) / 2
    return np.array([x[0] - half, x[-1] + half, y[0] - half, y[-1] + half]) / 1000


def draw_panel(axes, field, extent, title, limits, colours):
    """Draw a field (y, x) [m]; return the image, for its colour bar."""
    image = axes.imshow(field, extent=extent, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set_title(title)
    axes.locator_params(nbins=4)
    return image


def plain_ticks(*log_axes):
    """Label log axes with plain numbers, between the decades where they fit."""
    for axis in log_axes:
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2.5, 0.4)))


def error_colour_limit_m(error):
    """Return the end of a colour scale of errors [m]: a high percentile of |error|."""
    return max(float(np.percentile(np.abs(error), ERROR_PERCENTILE)), 1.0)


def plot_comparison(metrics, patches, by_method, count):
    """Plot `count` test patches, one a row: every method, the reference, and the errors.

    Patches are picked by the RMSE of the network, among those with ice: an empty sea is no best.
    Thickness has one colour scale across a row, errors have one in the whole figure.
    """
    test, label = find_patches_in_split(patches, "test"), patches["thk"][:, -1]
    has_ice = utils.is_ice(label[test]).mean(axis=(1, 2)) >= MIN_ICE_SHARE
    test = test[has_ice] if has_ice.any() else test
    rmse = compute_patch_rmse_m(by_method, label)
    picked = pick_patches_by_rank(rmse["model"][test], count)
    rows, n = test[list(picked)], len(by_method)
    limit = error_colour_limit_m(by_method["bicubic"][rows] - label[rows])
    figure, grid = plt.subplots(len(rows), 2 * n + 1, figsize=(5.6 * n + 3, 2.7 * len(rows) + 1.2),
                                squeeze=False, layout="constrained")
    figure.suptitle(figure_title(metrics))
    for axes, patch, rank_name in zip(grid, rows, picked.values(), strict=True):
        extent = km_extent(patches["x"][patch], patches["y"][patch])
        limits = (0, max(label[patch].max(), MIN_COLOUR_RANGE_M))
        for i, (method, thk) in enumerate(by_method.items()):
            name = METHOD_STYLES[method][0]
            draw_panel(axes[i], thk[patch], extent, f"{name}, RMSE {rmse[method][patch]:.1f} m",
                       limits, THK_COLOURS)
            error_image = draw_panel(axes[n + 1 + i], thk[patch] - label[patch], extent,
                                     f"{name} error", (-limit, limit), ERROR_COLOURS)
        image = draw_panel(axes[n], label[patch], extent, f"reference, patch {patch} ({rank_name})",
                           limits, THK_COLOURS)
        figure.colorbar(image, ax=axes[:n + 1], label="thickness (m)", pad=0.01, extend="both")
        figure.colorbar(error_image, ax=axes[n + 1:], label="error (m)", pad=0.01, extend="both")
        axes[0].set_ylabel("y (km)")
    for axes in grid[-1]:
        axes.set_xlabel("x (km)")
    return figure


def plot_window(metrics, patches, by_method):
    """Plot the whole window, joined from its patches, and the split of the patches."""
    x = patches["x"][patches["row"] == 0].ravel()
    y = patches["y"][patches["column"] == 0].ravel()
    extent = km_extent(x, y)
    label = join_patches(patches["thk"][:, -1], patches)
    limit = error_colour_limit_m(by_method["bicubic"] - patches["thk"][:, -1])
    thk_style = ((0, float(label.max())), THK_COLOURS)
    figure, grid = plt.subplots(len(by_method) + 1, 2, figsize=(13, 3.2 * len(by_method) + 4.2),
                                layout="compressed")
    figure.suptitle(figure_title(metrics))
    for axes, (method, thk) in zip(grid, by_method.items(), strict=False):
        name, thk = METHOD_STYLES[method][0], join_patches(thk, patches)
        draw_panel(axes[0], thk, extent, name, *thk_style)
        error_image = draw_panel(axes[1], thk - label, extent, f"{name} error", (-limit, limit),
                                 ERROR_COLOURS)
    thk_image = draw_panel(grid[-1, 0], label, extent, "reference", *thk_style)
    for column, image, name in ((0, thk_image, "thickness (m)"), (1, error_image, "error (m)")):
        figure.colorbar(image, ax=grid[:, column], location="bottom", label=name, aspect=40,
                        pad=0.02, extend="both")
    draw_split_map(grid[-1, 1], patches, x, y, label)
    for axes in grid.ravel():
        axes.locator_params(nbins=8)
        axes.set(xlabel="x (km)", ylabel="y (km)")
    return figure


def draw_split_map(axes, patches, x, y, label):
    """Draw what every patch is used for, and the edge of the ice."""
    split = patches["split"].reshape(patches["row"].max() + 1, patches["column"].max() + 1)
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in SPLIT_COLOURS])
    axes.imshow(colours[split], extent=km_extent(x, y))
    axes.contour(x / 1000, y / 1000, utils.is_ice(label), levels=[0.5], colors="black",
                 linewidths=0.5)
    axes.set_title("split of the patches, and the edge of the ice")
    counts = [len(find_patches_in_split(patches, name)) for name in SPLITS]
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=f"{name} ({count})")
                         for name, colour, count in zip(SPLITS, SPLIT_COLOURS, counts, strict=True)
                         if count], loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)


def plot_rmse_scatter(metrics, patches, by_method):
    """Plot the network's RMSE against that of every other method, a dot a test patch, log axes."""
    test = find_patches_in_split(patches, "test")
    label = patches["thk"][test, -1]
    floor = 1.0  # m; patches of open ocean may have no error at all, which log axes cannot show
    rmse = compute_patch_rmse_m({method: thk[test] for method, thk in by_method.items()}, label)
    rmse = {method: np.maximum(values, floor) for method, values in rmse.items()}
    ends = np.array([floor, 1.3 * max(values.max() for values in rmse.values())])
    others = [method for method in by_method if method != "model"]
    figure, panels = plt.subplots(1, len(others), figsize=(5.2 * len(others) + 1.8, 6),
                                  squeeze=False, layout="constrained")
    figure.suptitle(figure_title(metrics))
    for axes, method in zip(panels[0], others, strict=True):
        dots = axes.scatter(rmse[method], rmse["model"], s=22, c=label.mean(axis=(1, 2)),
                            cmap=THK_COLOURS, edgecolors="black", linewidths=0.4)
        axes.loglog(ends, ends, "k-", linewidth=0.8)
        axes.text(0.97, 0.03, "below the line the network is better", transform=axes.transAxes,
                  ha="right")
        name, win_rate = METHOD_STYLES[method][0], metrics["test"]["win_rate"][method]
        axes.set(title=f"win rate over {name}: {win_rate:.0%} of {len(test)} test patches",
                 xlabel=f"RMSE of {name} (m; {floor:g} m or less drawn at {floor:g})",
                 ylabel="RMSE of the network (m)", aspect="equal")
        plain_ticks(axes.xaxis, axes.yaxis)
        axes.grid()
    figure.colorbar(dots, ax=panels[0], label="mean thickness of the patch (m)")
    return figure


def plot_spectrum(metrics):
    """Plot power by wavelength, and the share of the reference's that every method explains."""
    spectrum = metrics["spectrum"]
    wavelength_km = spectrum["wavelength_km"]
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    figure.suptitle(figure_title(metrics))
    panels[0].loglog(wavelength_km, spectrum["label"], "k-", linewidth=2, label="reference")
    for method, power in spectrum["power"].items():
        name, colour = METHOD_STYLES[method]
        panels[0].loglog(wavelength_km, power, color=colour, label=name)
        panels[1].semilogx(wavelength_km, spectrum["explained"][method], color=colour)
    panels[0].set(ylabel="power (m² km²)", title="Mean power spectrum of the test patches")
    panels[1].set(ylabel="1 − power of the error / power of the reference", ylim=(-0.6, 1.05),
                  title="Share of the reference's power that is right")
    panels[1].axhline(0, color="black", linewidth=0.8)
    coarse_km = 2 * metrics["stages"][0]["from_km"]
    for axes in panels:
        axes.axvline(coarse_km, color="grey", linestyle="--", linewidth=1,
                     label=f"two coarse cells ({coarse_km:g} km)")
        plain_ticks(axes.xaxis)
        axes.invert_xaxis()
        axes.set_xlabel("wavelength (km)")
        axes.grid()
    panels[0].legend(loc="lower left")
    return figure


def plot_reliability(metrics):
    """Plot how often intervals contain the reference, and their half-width against the error."""
    by_type = {name: scores for name, scores in
               metrics["uncertainty"]["by_surface_type"].items() if scores}
    coverage, deciles = by_type["all"]["coverage"], by_type["all"]["deciles"]
    width_m, levels = [decile["half_width_m"] for decile in deciles], [*map(float, coverage)]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    figure.suptitle(f"{figure_title(metrics)}, {metrics['n_test']} test patches")
    left.plot([0.45, 1], [0.45, 1], color="grey", linewidth=0.8)
    for name, scores in by_type.items():
        left.plot(levels, list(scores["coverage"].values()), "ko-" if name == "all" else ".-",
                  label=f"{name.replace('_', ' ')} ({scores['n_cells']} cells)")
    left.set(xlabel="level of the interval", ylabel="coverage (share of cells)", xticks=levels,
             title="by surface type; above the line intervals are too wide")
    for key, level in zip(coverage, levels, strict=True):
        (line,) = middle.plot(width_m, [decile["coverage"][key] for decile in deciles], "o-",
                              markersize=3, label=f"{level:.0%} interval")
        middle.axhline(level, color=line.get_color(), linestyle="--", linewidth=0.8)
    middle.set(xlabel="half-width of the 90 % interval (m)", ylabel="coverage (share of cells)",
               xscale="log", title="by decile of the half-width")
    right.loglog(width_m, [decile["rmse_m"] for decile in deciles], "ko-", label="decile of cells")
    ratio = np.sqrt(metrics["settings"]["uncertainty"]["variance"])
    right.loglog(width_m, np.multiply(width_m, ratio), color="grey", linewidth=0.8,
                 label="as calibrated")
    right.set(xlabel="half-width of the 90 % interval (m)", ylabel="RMSE (m)",
              title="half-width and error")
    for axes in (left, middle, right):
        axes.legend()
        axes.grid()
    plain_ticks(middle.xaxis, right.xaxis, right.yaxis)
    return figure


def plot_patch_panels(metrics, patches, by_method):
    """Plot maps of every test patch, one a figure; yield (name as in the original, figure)."""
    for patch in find_patches_in_split(patches, "test"):
        label = patches["thk"][patch, -1]
        fields = {"label": ("reference", label)} | {
            "predicted" if method == "model" else method: (METHOD_STYLES[method][0], thk[patch])
            for method, thk in by_method.items()}
        limits = (0, max(label.max(), MIN_COLOUR_RANGE_M))  # one scale for all of them
        extent = km_extent(patches["x"][patch], patches["y"][patch])
        for file_name, (name, thk) in fields.items():
            figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
            image = draw_panel(axes, thk, extent, f"{figure_title(metrics)}\npatch {patch}, {name}",
                               limits, THK_COLOURS)
            axes.title.set_fontsize(7)
            axes.set(xlabel="x (km)", ylabel="y (km)")
            figure.colorbar(image, ax=axes, label="thickness (m)", extend="both")
            yield f"{patch:03d}_{file_name}", figure


def draw_history(axes, x_key, history, stage, label):
    """Draw the RMSE of a stage by epoch or time, dashed for validation; return the colour."""
    x = [row[x_key] for row in history]
    training, validation = ([row[f"{split}_rmse_m_stage{stage}"] for row in history]
                            for split in ("train", "validation"))
    (line,) = axes.plot(x, training, linewidth=1, label=label)
    if validation[0] is not None:
        axes.plot(x, validation, "--", linewidth=1, color=line.get_color())
    return line.get_color()


def plot_training(metrics, history):
    """Plot the RMSE of every stage by epoch, of training and validation patches, on a log scale."""
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for k, stage in enumerate(metrics["stages"], 1):
        draw_history(axes, "epoch", history, k, f"stage {k}: {stage['from_km']:g} to "
                     f"{stage['to_km']:g} km, training (dashed: validation)")
    errors = metrics["test"]["errors"]
    for method in [method for method in MAPPED_METHODS[:-1] if method in errors]:
        name, colour = METHOD_STYLES[method]
        axes.axhline(errors[method]["rmse_m"], color=colour, linestyle=":",
                     label=f"{name}, test patches")
    axes.plot(metrics["epoch"], errors["model"]["rmse_m"], "k*",
              label=f"network, test patches (epoch {metrics['epoch']})")
    axes.set(xlabel="epoch", ylabel="RMSE (m)", yscale="log", title=figure_title(metrics))
    plain_ticks(axes.yaxis)
    axes.grid(which="both")
    axes.legend()
    return figure


def plot_error_against_time(metrics_of_runs, histories):
    """Plot the RMSE of the last stage against training time; return None without any history.

    histories: rows of history.csv of every run, [] if it has none.
    """
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    runs_by_line = {}  # runs of the same test patches have the same two lines: drawn once
    for metrics, history in zip(metrics_of_runs, histories, strict=True):
        if not history:
            continue
        errors = metrics["test"]["errors"]
        colour = draw_history(axes, "seconds", history, len(metrics["stages"]), metrics["run"])
        for row in [row for row in history if row["epoch"] == metrics["epoch"]]:
            axes.plot(row["seconds"], errors["model"]["rmse_m"], "*", color=colour,
                      markeredgecolor="black", markersize=12)
        for method in [method for method in MAPPED_METHODS[:-1] if method in errors]:
            runs_by_line.setdefault((method, round(errors[method]["rmse_m"], 3)), []).append(
                metrics["run"])
    if not axes.lines:
        plt.close(figure)
        return None
    for (method, rmse_m), runs in runs_by_line.items():
        name, colour = METHOD_STYLES[method]
        axes.axhline(rmse_m, color=colour, linestyle=":", label=f"{name}: {', '.join(runs)}")
    axes.plot([], [], "k--", linewidth=1, label="validation patches")
    axes.plot([], [], "k*", markersize=12, label="test patches, at the best epoch")
    synthetic = ", ".join(metrics["run"] for metrics in metrics_of_runs if metrics["synthetic"])
    axes.set(xlabel="training time (s)", ylabel="RMSE (m)", xscale="log", yscale="log",
             title="Error against training time; stars and dotted lines: test patches"
             + f"\nSYNTHETIC ice sheet: {synthetic}" * bool(synthetic))
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.grid(which="both")
    axes.legend()
    return figure


def plot_reconstruction(metrics, by_method, fine):
    """Plot a reference map `fine` and the errors of every method, on one scale.

    by_method: {method: (y, x) [m]}. The zoom is where the network's errors are largest.
    """
    errors = {method: by_method[method] - fine["thk"] for method in MAPPED_METHODS
              if method in by_method}
    rmse_m = {method: entry["rmse_m"] for method, entry in metrics["all"]["errors"].items()}
    panels = [("reference", fine["thk"], "thk")] + [
        (f"{METHOD_STYLES[method][0]} error, RMSE {rmse_m[method]:.1f} m", error, "error")
        for method, error in errors.items()]
    title = (f"Reconstruction test of run {metrics['run']}: {metrics['map']}, "
             f"{metrics['from_km']:g} km to {metrics['to_km']:g} km")
    return plot_map(mark_synthetic(title, metrics["synthetic"]), fine["x"], fine["y"], panels,
                    (fine["thk"], fine["topg"], get_densities(metrics)),
                    error_colour_limit_m(np.nan_to_num(errors["bicubic"])),
                    np.nan_to_num(errors["model"]))


def plot_downscaled(path, ice_map, settings, scale):
    """Plot a coarse map, the finer one in `path` and their difference; zoom where that is large."""
    with map_files.open_netcdf(path) as ds:
        step = math.ceil(max(ds["thk"].shape) / (2 * MAX_PANEL_CELLS)) | 1  # odd, as in plot_map
        slices = tuple(slice(None, None, step * flip) for flip in ice_map["flips"])
        thk, topg, half_width = (
            np.ma.filled(ds[name][(-1,) * (ds[name].ndim - 2) + slices], np.nan)
            if name in ds.variables else None for name in ("thk", "topg", "thk_uncertainty"))
    x, y = (utils.refine_axis(ice_map[name], scale)[::step] for name in "xy")
    rows, columns = (np.arange(n * scale)[::step] // scale for n in ice_map["thk"].shape)
    coarse = ice_map["thk"][rows[:, None], columns]
    panels = [("coarse map", coarse, "thk"), ("downscaled", thk, "thk"),
              ("downscaled - coarse", thk - coarse, "error")]
    if half_width is not None:
        panels.append(("90 % interval", half_width, "width"))
    spacing_km = ice_map["spacing_m"] / 1000
    title = (f"{ice_map['name']} from {spacing_km:g} km to {spacing_km / scale:g} km with run "
             f"{settings['run']}")
    change = np.nan_to_num(thk - coarse)
    return plot_map(mark_synthetic(title, ice_map["synthetic"]), x, y, panels,
                    (thk, None if topg is None else topg - ice_map["sea_level_m"],
                     get_densities(settings["data"])), error_colour_limit_m(change), change)


def find_worst_square(field, side):
    """Return first row and column of the square of `side` cells in which field^2 is largest."""
    mean = scipy.ndimage.uniform_filter(field.astype(np.float64) ** 2, side, mode="constant")
    half = side // 2
    inside = mean[half:field.shape[0] - side + half + 1, half:field.shape[1] - side + half + 1]
    return np.unravel_index(np.argmax(inside), inside.shape)


def plot_map(title, x, y, panels, outline_fields, error_limit, zoom_field):
    """Plot panels of a whole map, and below them the same, zoomed.

    x, y: axes [m]; panels: [(name, field (y, x) [m], "thk", "error" or "width")]; outline_fields:
    thk, topg [m] and densities, for ice edge (black) and grounding line (orange); error_limit: end
    of the scale of errors [m]; zoom_field: (y, x) [m], the zoom is where its squares are largest.
    """
    side = min(ZOOM_CELLS, *zoom_field.shape)
    row, column = find_worst_square(zoom_field, side)
    # An odd step, so that the sample does not always hit the same fine cell of a coarse one.
    step = math.ceil(max(zoom_field.shape) / MAX_PANEL_CELLS) | 1
    views = [(slice(None, None, step),) * 2, (slice(row, row + side), slice(column, column + side))]
    thk, topg, densities = outline_fields
    lines = [(utils.is_ice(thk), "black")] + ([] if topg is None else [
        (utils.classify_cells(thk, topg, densities) == GROUNDED, "#ff7f00")])
    styles, n, aspect = panel_styles(panels, thk, error_limit), len(panels), len(y) / len(x)
    figure, grid = plt.subplots(2, n, figsize=(4 * n, 4 * aspect + 5.2), layout="compressed",
                                height_ratios=(aspect, 1))
    grounding_line = ", grounding line orange" * (topg is not None)
    figure.suptitle(f"{title}\nice edge black{grounding_line}, zoom red")
    images = {}
    for axes, (rows, columns), suffix in zip(grid, views, ("", ", zoom"), strict=True):
        extent = km_extent(x[columns], y[rows])
        for panel, (name, field, kind) in zip(axes, panels, strict=True):
            name = name.split(",")[0] + suffix if suffix else name  # its RMSE is of the whole map
            images[kind] = draw_panel(panel, field[rows, columns], extent, name, *styles[kind])
            for cells, colour in lines:
                if 0 < cells[rows, columns].mean() < 1:
                    panel.contour(x[columns] / 1000, y[rows] / 1000, cells[rows, columns], [0.5],
                                  colors=colour, linewidths=0.8 if suffix else 0.4)
            panel.set_xlabel("x (km)")
        axes[0].set_ylabel("y (km)")
    left, right, bottom, top = km_extent(x[views[1][1]], y[views[1][0]])
    for panel in grid[0]:
        panel.add_patch(matplotlib.patches.Rectangle(
            (left, bottom), right - left, top - bottom, fill=False, edgecolor="red"))
    for kind, label in (("thk", "thickness (m)"), ("error", "difference (m)"),
                        ("width", "± (m), half-width of the interval")):
        columns = [i for i, panel in enumerate(panels) if panel[2] == kind]
        if columns:
            figure.colorbar(images[kind], ax=grid[:, columns], label=label, location="bottom",
                            aspect=30, pad=0.02, extend="both" if kind == "error" else "max")
    return figure


def panel_styles(panels, thk, error_limit):
    """Return limits and colours of a whole map's panels: {kind: ((low, high) [m], colours)}."""
    widths = [field[field > 0] for _, field, kind in panels if kind == "width"]
    widths = widths[0] if widths and widths[0].size else np.zeros(1)
    return {"thk": ((0, max(float(np.nanmax(thk, initial=0)), MIN_COLOUR_RANGE_M)), THK_COLOURS),
            "error": ((-error_limit, error_limit), ERROR_COLOURS),
            "width": ((0, error_colour_limit_m(widths)), WIDTH_COLOURS)}
