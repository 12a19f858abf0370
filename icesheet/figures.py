"""All figures: of test patches, trainings and whole maps.

evaluate.py and downscale.py call these: plot_... returns a figure, save writes it. Sections: what
they share | test patches | trainings | whole maps.
"""

import json
import math
import os

# Notebooks and clusters set a backend that may not be there. Figures are files: only --show asks.
WISHED_BACKEND = os.environ.pop("MPLBACKEND", "")

import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

import utils
from icesheet import checkpoints, command_line, files, map_files
from icesheet.command_line import InputError
from icesheet.patches import SPLITS, find_patches_in_split, join_patches
from icesheet.scores import METHOD_STYLES, compute_patch_rmse_m
from icesheet.settings import get_densities

MAPPED_METHODS = ("bicubic", "surface_minus_bed", "model")  # of these, what figures show maps of
COMPARISON_ROWS = 6                    # rows of comparison.png: best, median and worst among them
DPI = 150
THK_COLOURS = "viridis"        # thickness
WIDTH_COLOURS = "magma_r"      # half-widths of intervals
ERROR_COLOURS = "RdBu_r"       # errors: red too thick, blue too thin, white right
SPLIT_COLOURS = ("#c6dbef", "#6baed6", "#e6550d", "#d9d9d9")  # train, validation, test, gap
MIN_COLOUR_RANGE_M = 100.0          # thickness scale of a patch goes so far at least
ERROR_PERCENTILE = 99.5  # ends the scale of errors and widths; beyond it colours saturate
MAX_PANEL_CELLS = 1200   # longest side of a map in a figure, in cells; its zoom reads up to twice that
ZOOM_CELLS = 96           # side of the zoom, in fine cells
matplotlib.rcdefaults()  # the same figures whatever a user's matplotlibrc asks for, LaTeX say
plt.rcParams.update({
    "savefig.dpi": DPI, "font.size": 8, "figure.titlesize": 11, "axes.titlesize": 9,
    "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "grid.alpha": 0.3, "image.origin": "lower", "image.interpolation": "nearest"})


def select_backend(show):
    """Decide once whether figures are shown on screen at the end, or only written.

    Raises InputError where they are to be shown and there is no screen for them.
    """
    if not show:
        plt.switch_backend("Agg")
        return
    try:
        plt.switch_backend(WISHED_BACKEND or matplotlib.get_backend())
    except (ImportError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--show: no window can be opened ({command_line.one_line(error)[:120]}); leave out --show: "
            "figures are written to files anyway") from None


def show():
    """Show all figures that are open, until their windows are closed."""
    plt.show()


def save_figure(figure, path, made_by):
    """Write a figure to `path` at once or not at all, and close it unless it is to be shown.

    made_by: what made it (settings, versions; for JSON), kept in the PNG's Description.
    """
    made_by = made_by | {"command": command_line.command_text(), "versions": files.library_versions()}
    with files.atomic_write(path) as temporary, files.explain_write_errors(path):
        figure.savefig(temporary, format="png", metadata={"Description": json.dumps(made_by)})
    if plt.get_backend().lower() == "agg":
        plt.close(figure)


def figure_title(metrics):
    """Title of every figure of a run: what was done to what."""
    synthetic = "SYNTHETIC ice sheet, no real place\n" if metrics["synthetic"] else ""
    to_km = metrics["stages"][-1]["to_km"]
    return (f"{synthetic}Run {metrics['run']}: ice thickness, {metrics['scale'] * to_km:g} km to "
            f"{to_km:g} km ({metrics['scale']}x, {metrics['degrade']} reduction, "
            f"{metrics['split']})\n{metrics['source']}")


def pick_patches_by_rank(rmse_m, count):
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
    image = axes.imshow(field, extent=extent, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set_title(title)
    axes.locator_params(nbins=4)
    return image


def plain_ticks(axis):
    """Label a log axis with plain numbers, between the decades where they fit."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2.5, 0.4)))


def error_colour_limit_m(error):
    """End of a colour scale [m]: a high percentile of |error|; for all methods, of bicubic's."""
    return max(float(np.percentile(np.abs(error), ERROR_PERCENTILE)), 1.0)


def plot_comparison(metrics, patches, by_method, count):
    """A row per chosen test patch: every method, the label and the errors. Returns the figure.

    by_method: {method: (patch, y, x) m} of all patches, here and in the figures below. Thickness
    has one colour scale across a row's maps, errors one scale in the whole figure.
    """
    numbers = find_patches_in_split(patches, "test")
    label = patches["thk"][:, -1]
    rmse = compute_patch_rmse_m(by_method, label)
    chosen = pick_patches_by_rank(rmse["model"][numbers], count)
    rows = [numbers[i] for i in chosen]
    limit = error_colour_limit_m(by_method["bicubic"][rows] - label[rows])
    n = len(by_method)
    figure, grid = plt.subplots(len(rows), 2 * n + 1, figsize=(5.6 * n + 3, 2.7 * len(rows) + 1.2),
                                squeeze=False, layout="constrained")
    figure.suptitle(figure_title(metrics))
    for axes, number, what in zip(grid, rows, chosen.values(), strict=True):
        extent = km_extent(patches["x"][number], patches["y"][number])
        limits = (0, max(label[number].max(), MIN_COLOUR_RANGE_M))
        for panel, error_panel, (method, thk) in zip(axes[:n], axes[n + 1:], by_method.items(),
                                                     strict=True):
            name = METHOD_STYLES[method][0]
            draw_panel(panel, thk[number], extent, f"{name}, RMSE {rmse[method][number]:.1f} m",
                       limits, THK_COLOURS)
            error_image = draw_panel(error_panel, thk[number] - label[number], extent,
                                     f"{name} error", (-limit, limit), ERROR_COLOURS)
        image = draw_panel(axes[n], label[number], extent, f"label, patch {number} ({what})",
                           limits, THK_COLOURS)
        figure.colorbar(image, ax=axes[:n + 1], label="thickness (m)", pad=0.01, extend="both")
        figure.colorbar(error_image, ax=axes[n + 1:], label="error (m)", pad=0.01, extend="both")
        axes[0].set_ylabel("y (km)")
    for panel in grid[-1]:
        panel.set_xlabel("x (km)")
    return figure


def plot_window(metrics, patches, by_method):
    """The whole window put together from its patches, and which were for what: the figure."""
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
    thk_image = draw_panel(grid[-1, 0], label, extent, "label", *thk_style)
    for column, image, name in ((0, thk_image, "thickness (m)"), (1, error_image, "error (m)")):
        figure.colorbar(image, ax=grid[:, column], location="bottom", label=name, aspect=40,
                        pad=0.02, extend="both")
    draw_split_map(grid[-1, 1], patches, x, y, label)
    for axes in grid.ravel():
        axes.locator_params(nbins=8)
        axes.set(xlabel="x (km)", ylabel="y (km)")
    return figure


def draw_split_map(axes, patches, x, y, label):
    """Draw which patches were trained on and which tested, with the edge of the ice."""
    split = patches["split"].reshape(patches["row"].max() + 1, patches["column"].max() + 1)
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in SPLIT_COLOURS])
    axes.imshow(colours[split], extent=km_extent(x, y))
    axes.contour(x / 1000, y / 1000, utils.is_ice(label), levels=[0.5], colors="black",
                 linewidths=0.5)
    axes.set_title("patches, and the edge of the ice")
    counts = {name: len(find_patches_in_split(patches, name)) for name in SPLITS}
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=f"{name} ({counts[name]})")
                         for name, colour in zip(SPLITS, SPLIT_COLOURS, strict=True)
                         if counts[name]], loc="upper right", framealpha=0.9)


def plot_training(metrics, history):
    """RMSE of each stage by epoch, training and validation, log scale: the figure."""
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
    errors = metrics["test"]["errors"]
    for method in [method for method in MAPPED_METHODS[:-1] if method in errors]:
        axes.axhline(errors[method]["rmse_m"], color=METHOD_STYLES[method][1], linestyle=":",
                     label=f"{METHOD_STYLES[method][0]}, test patches")
    axes.plot(metrics["epoch"], errors["model"]["rmse_m"], "k*",
              label=f"model, test patches (epoch {metrics['epoch']})")
    axes.set(xlabel="epoch", ylabel="RMSE (m)", title=figure_title(metrics))
    plain_ticks(axes.yaxis)
    axes.grid(which="both")
    axes.legend(ncols=2)
    return figure


def plot_rmse_scatter(metrics, patches, by_method):
    """Model RMSE against that of each other method, a dot a test patch, log axes: the figure."""
    numbers = find_patches_in_split(patches, "test")
    label = patches["thk"][numbers, -1]
    floor = 1.0  # patches of open ocean may have no error at all; log axes need one
    rmse = compute_patch_rmse_m({method: thk[numbers] for method, thk in by_method.items()}, label)
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
        axes.text(0.97, 0.03, "below the line the model is better", transform=axes.transAxes,
                  ha="right")
        name, won = METHOD_STYLES[method][0], metrics["test"]["win_rate"][method]
        axes.set(title=f"model better than {name} in {won:.0%} of {len(numbers)} test patches",
                 xlabel=f"{name} RMSE (m; {floor:g} m or less drawn at {floor:g})",
                 ylabel="model RMSE (m)", aspect="equal")
        axes.grid()
    figure.colorbar(dots, ax=panels[0], label="mean thickness of the patch (m)")
    return figure


def plot_spectrum(metrics):
    """Power by wavelength, and the share of the label's that each method explains: the figure."""
    spectrum = metrics["spectrum"]
    wavelength_km = spectrum["wavelength_km"]
    figure, panels = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    figure.suptitle(figure_title(metrics))
    panels[0].loglog(wavelength_km, spectrum["label"], "k-", linewidth=2, label="label")
    for method, power in spectrum["power"].items():
        name, colour = METHOD_STYLES[method]
        panels[0].loglog(wavelength_km, power, color=colour, label=name)
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
        axes.grid()
    panels[0].legend(loc="lower left")
    return figure


def plot_reliability(metrics):
    """How often intervals hold on the test patches, and spread against skill: the figure."""
    by_type = {kind: entry for kind, entry in metrics["uncertainty"]["by_surface_type"].items() if entry}
    tenths = by_type["all"]["deciles"]
    width_m = [tenth["half_width_m"] for tenth in tenths]
    levels = [float(level) for level in by_type["all"]["coverage"]]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    figure.suptitle(f"{figure_title(metrics)}, {metrics['n_test']} test patches")
    left.plot([0.45, 1], [0.45, 1], color="grey", linewidth=0.8)
    for kind, entry in by_type.items():
        left.plot(levels, list(entry["coverage"].values()), "ko-" if kind == "all" else ".-",
                  label=f"{kind} ({entry['n_cells']} cells)")
    left.set(xlabel="level of the interval", ylabel="share of cells in it",
             title="by surface type; above the line intervals are too wide", xticks=levels)
    left.legend()
    for level in by_type["all"]["coverage"]:
        (line,) = middle.plot(width_m, [tenth["coverage"][level] for tenth in tenths], "o-",
                              markersize=3, label=f"{float(level):.0%} interval")
        middle.axhline(float(level), color=line.get_color(), linestyle="--", linewidth=0.8)
    middle.set(xlabel="half-width of the 90 % interval (m)", ylabel="share of cells in it",
               xscale="log", title="by tenth of the half-width")
    middle.legend()
    right.loglog(width_m, [tenth["rmse_m"] for tenth in tenths], "ko-", label="each tenth of cells")
    scale = np.sqrt(metrics["settings"]["uncertainty"]["variance"])
    right.loglog(width_m, np.multiply(width_m, scale), color="grey", linewidth=0.8,
                 label="as calibrated")
    right.set(xlabel="half-width of the 90 % interval (m)", ylabel="RMSE (m)",
              title="spread and skill")
    right.legend()
    for axes in (left, middle, right):
        axes.grid()
    for axis in (middle.xaxis, right.xaxis, right.yaxis):
        plain_ticks(axis)
    return figure


def plot_patch_panels(metrics, patches, by_method):
    """Maps of each test patch, one a figure: yields (name as in the original, figure)."""
    for number in find_patches_in_split(patches, "test"):
        label = patches["thk"][number, -1]
        fields = {"predicted" if method == "model" else method: thk[number]
                  for method, thk in by_method.items()} | {"label": label}
        limits = (0, max(label.max(), MIN_COLOUR_RANGE_M))  # one scale for all of them
        extent = km_extent(patches["x"][number], patches["y"][number])
        for name, thk in fields.items():
            figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
            title = f"{figure_title(metrics)}\npatch {number}, {name}"
            image = draw_panel(axes, thk, extent, title, limits, THK_COLOURS)
            axes.title.set_fontsize(7)
            axes.set(xlabel="x (km)", ylabel="y (km)")
            figure.colorbar(image, ax=axes, label="thickness (m)", extend="both")
            yield f"{number:03d}_{name}", figure


def plot_error_against_time(metrics_of_runs, title):
    """RMSE of the last stage against training time: the figure; None where no run has a history."""
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    lines = {}  # the same test patches give the same two lines: drawn once
    for metrics in metrics_of_runs:
        history = checkpoints.read_history(metrics["run"])
        if not history:
            continue
        seconds, errors = [row["seconds"] for row in history], metrics["test"]["errors"]
        training, validation = ([row[f"{part}_rmse_m_stage{len(metrics['stages'])}"]
                                 for row in history] for part in ("train", "validation"))
        (line,) = axes.loglog(seconds, training, linewidth=1, label=metrics["run"])
        if validation[0] is not None:
            axes.loglog(seconds, validation, "--", linewidth=1, color=line.get_color())
        at = [row["seconds"] for row in history if row["epoch"] == metrics["epoch"]]
        axes.plot(at, [errors["model"]["rmse_m"]] * len(at), "*", color=line.get_color(),
                  markeredgecolor="black", markersize=12)
        for method in [method for method in MAPPED_METHODS[:-1] if method in errors]:
            lines.setdefault((method, round(errors[method]["rmse_m"], 3)), []).append(
                metrics["run"])
    if not axes.lines:
        plt.close(figure)
        return None
    for (method, rmse_m), runs in lines.items():
        axes.axhline(rmse_m, color=METHOD_STYLES[method][1], linestyle=":",
                     label=f"{METHOD_STYLES[method][0]}: {', '.join(runs)}")
    axes.plot([], [], "k--", linewidth=1, label="validation patches")
    axes.plot([], [], "k*", markersize=12, label="test patches, at the best epoch")
    axes.set(xlabel="training time (s)", ylabel="RMSE (m)", title=title)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.grid(which="both")
    axes.legend()
    return figure


def plot_reconstruction(metrics, by_method, fine):
    """Label, errors of every method on one scale; zoomed on the model's worst: the figure."""
    label = fine["thk"]
    errors = {method: by_method[method] - label for method in MAPPED_METHODS
              if method in by_method}
    limit = error_colour_limit_m(np.nan_to_num(errors["bicubic"]))
    panels = [("label", label, "thk")] + [
        (f"{METHOD_STYLES[method][0]} error, RMSE {metrics['all']['errors'][method]['rmse_m']:.1f} m",
         error, "error") for method, error in errors.items()]
    title = (f"Hindcast with run {metrics['run']}: {metrics['map']}, {metrics['from_km']:g} km to "
             f"{metrics['to_km']:g} km")
    if metrics["synthetic"]:
        title = f"SYNTHETIC ice sheet, no real place\n{title}"
    return plot_map(title, fine["x"], fine["y"], panels,
                    (label, fine["topg"], get_densities(metrics)), limit,
                    np.nan_to_num(errors["model"]))


def plot_downscaled(path, ice_map, settings, scale):
    """The coarse map, the finer one in `path`, their difference, zoomed on it: the figure."""
    with map_files.open_netcdf(path) as ds:
        step = math.ceil(max(ds["thk"].shape) / (2 * MAX_PANEL_CELLS)) | 1  # see plot_map
        parts = tuple(slice(None, None, step * flip) for flip in ice_map["flips"])
        thk, topg, width = (np.ma.filled(ds[name][(-1,) * (ds[name].ndim - 2) + parts], np.nan)
                            if name in ds.variables else None
                            for name in ("thk", "topg", "thk_uncertainty"))
    x, y = (utils.refine_axis(ice_map[name], scale)[::step] for name in "xy")
    rows, columns = (np.arange(n * scale)[::step] // scale for n in ice_map["thk"].shape)
    coarse = ice_map["thk"][rows[:, None], columns]
    panels = [("coarse map", coarse, "thk"), ("downscaled", thk, "thk"),
              ("downscaled - coarse", thk - coarse, "error")]
    if width is not None:
        panels.append(("90 % interval", width, "width"))
    spacing_km = ice_map["spacing_m"] / 1000
    title = (f"{ice_map['name']} from {spacing_km:g} km to {spacing_km / scale:g} km with run "
             f"{settings['run']}")
    change = np.nan_to_num(thk - coarse)
    return plot_map(title, x, y, panels, (thk, topg, get_densities(settings["data"])),
                    error_colour_limit_m(change), change)


def find_worst_square(field, side):
    """First row, column of the square of `side` cells in which `field`, squared, is largest."""
    mean = scipy.ndimage.uniform_filter(field.astype(np.float64) ** 2, side, mode="constant")
    half = side // 2
    inside = mean[half:field.shape[0] - side + half + 1, half:field.shape[1] - side + half + 1]
    return np.unravel_index(np.argmax(inside), inside.shape)


def plot_map(title, x, y, panels, outline, limit, zoom_on):
    """A figure of a whole map: its panels, and below them the same, zoomed. Returns the figure.

    x, y: axes [m]; panels: [(name, (y, x) field [m], "thk", "error" or "width")]; outline: thk,
    topg [m] and densities, for ice edge (black) and grounding line (orange); limit: end of the
    scale of errors [m]; zoom_on: (y, x) [m], the zoom is where its squares are largest.
    """
    side = min(ZOOM_CELLS, *zoom_on.shape)
    row, column = find_worst_square(zoom_on, side)
    # An odd step, so that the sample does not always hit the same fine cell of a coarse one.
    step = math.ceil(max(zoom_on.shape) / MAX_PANEL_CELLS) | 1
    views = [(slice(None, None, step),) * 2, (slice(row, row + side), slice(column, column + side))]
    thk, topg, densities = outline
    lines = [(utils.is_ice(thk), "black")]
    if topg is not None:
        lines.append((utils.classify_cells(thk, topg, densities) == 2, "#ff7f00"))
    widths = [field[field > 0] for _, field, kind in panels if kind == "width"]
    widths = widths[0] if widths and widths[0].size else np.zeros(1)
    styles = {"thk": ((0, max(float(np.nanmax(thk, initial=0)), MIN_COLOUR_RANGE_M)),
                      THK_COLOURS),
              "error": ((-limit, limit), ERROR_COLOURS),
              "width": ((0, error_colour_limit_m(widths)), WIDTH_COLOURS)}
    n, tall = len(panels), len(y) / len(x)
    figure, grid = plt.subplots(2, n, figsize=(4 * n, 4 * tall + 5.2), layout="compressed",
                                height_ratios=(tall, 1))
    lines_are = "ice edge black" + (", grounding line orange" if topg is not None else "")
    figure.suptitle(f"{title}\n{lines_are}, zoom red")
    images = {}
    for axes, (rows, columns), what in zip(grid, views, ("", ", zoom"), strict=True):
        extent = km_extent(x[columns], y[rows])
        for panel, (name, field, kind) in zip(axes, panels, strict=True):
            heading = name.split(",")[0] + what if what else name  # its RMSE is of the whole map
            images[kind] = draw_panel(panel, field[rows, columns], extent, heading,
                                               *styles[kind])
            for cells, colour in lines:
                if 0 < cells[rows, columns].mean() < 1:
                    panel.contour(x[columns] / 1000, y[rows] / 1000, cells[rows, columns], [0.5],
                                  colors=colour, linewidths=0.4 if not what else 0.8)
            panel.set_xlabel("x (km)")
        axes[0].set_ylabel("y (km)")
    box = km_extent(x[views[1][1]], y[views[1][0]])
    for panel in grid[0]:  # where the zoom is
        panel.add_patch(matplotlib.patches.Rectangle(
            (box[0], box[2]), box[1] - box[0], box[3] - box[2], fill=False, edgecolor="red"))
    for kind, label in (("thk", "thickness (m)"), ("error", "difference (m)"),
                        ("width", "± (m), half-width of the interval")):
        of_kind = [i for i, panel in enumerate(panels) if panel[2] == kind]
        if of_kind:
            figure.colorbar(images[kind], ax=grid[:, of_kind], label=label, location="bottom",
                            aspect=30, pad=0.02, extend="both" if kind == "error" else "max")
    return figure
