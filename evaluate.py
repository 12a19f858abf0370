"""Score and plot the test patches of a run: bicubic, surface base, model and label; compare runs.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --patches 10       # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # maps of every test patch
    python evaluate.py --compare x8 wide             # one table, one figure

Reads checkpoints/<run>/ and the patches it was trained on; writes metrics.json, metrics.csv and the
figures to results/<run>/. Nothing is trained here, and without a checkpoint nothing is shown.
Whole maps, finer ones and hindcasts, are made by downscale.py.
"""

import json

import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

import maps
import model
import prepare_data
import utils
from utils import InputError

# ---- Settings ---------------------------------------------------------------------------------
METHODS = {                    # what is compared with the label: name and colour
    "bicubic": ("bicubic", "#969696"),
    "surface_base": ("surface base", "#e6550d"),  # no network; where there is a bed
    "surface_base_consistent": ("surface base, consistent", "#fdae6b"),  # still none
    "model": ("model", "#08519c"),
}
MAPPED = ("bicubic", "surface_base", "model")  # of these, what figures show maps of
PATCHES = 6                    # rows of comparison.png: best, median and worst among them
DPI = 150
THK_COLOURS = "viridis"        # thickness
ERROR_COLOURS = "RdBu_r"       # errors: red too thick, blue too thin, white right
SPLIT_COLOURS = ("#c6dbef", "#6baed6", "#e6550d", "#d9d9d9")  # train, validation, test, gap
LEAST_SCALE_M = 100.0          # thickness scale of a patch goes so far at least
ERROR_PERCENTILE = 99.5  # of |bicubic error|, ends the error scale; beyond it colours saturate
plt.rcParams.update({
    "savefig.dpi": DPI, "font.size": 8, "figure.titlesize": 11, "axes.titlesize": 9,
    "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
    "grid.alpha": 0.3, "image.origin": "lower", "image.interpolation": "nearest"})
# -----------------------------------------------------------------------------------------------


# ---------------------------------------------------------------- a trained run


def read_metrics(run):
    """The metrics of a run, from results/<run>/metrics.json; InputError where there are none."""
    path = utils.RESULTS / run / "metrics.json"
    metrics = utils.read_json(path, f"evaluate the run first: python evaluate.py --run {run}")
    if "errors" not in metrics.get("test", {}):
        raise InputError(f"{path}: written by an older version; evaluate the run again: python "
                         f"evaluate.py --run {run}")
    return metrics


# ---------------------------------------------------------------- scores


def patch_rmse_m(by_method, label):
    """RMSE of each patch: {method: (patch,) m}; by_method {method: (patch, y, x) m} and label."""
    return {method: utils.rmse_m(thk, label, axis=(1, 2)) for method, thk in by_method.items()}


def score_patches(by_method, label, data):
    """utils.score over all cells of some patches, and won: {other method: share of the patches}.

    by_method: {method: (patch, y, x) m}, label (patch, y, x) m; won: where the model has the lower
    RMSE.
    """
    rmse = patch_rmse_m(by_method, label)
    return utils.score(by_method, label, np.ones(label.shape, bool), data["thk_max_m"],
                       data["spacing_m"]) | {
        "won": {method: float((rmse["model"] < rmse[method]).mean())
                for method in by_method if method != "model"}}


def measure(predictions, patches, settings, numbers):
    """Metrics of predictions (stage, patch, y, x) m for the patches of these numbers: a dict.

    test: score_patches against the label, of every method there is (see model.with_baselines).
    by_type: see score_types; spectrum, detail: see measure_spectra.
    stages: score_patches at each stage against the label of its level, with from_km and to_km. Its
    bicubic and surface base start at the input of the whole chain too.
    """
    data, stages = settings["data"], []
    for stage, predicted in enumerate(predictions, 1):
        label = patches["thk"][numbers, stage]
        by_method = model.with_baselines(predicted, patches, numbers, settings, stage)
        to_km = data["spacing_m"] * settings["scale"] / 1000 / 2**stage
        stages.append({"from_km": 2 * to_km, "to_km": to_km}
                      | score_patches(by_method, label, data))
    spectrum, detail = measure_spectra(by_method, label, settings)
    n_train, n_validation = (len(prepare_data.in_split(patches, name))
                             for name in ("train", "validation"))
    if not settings["validation"]:
        n_train, n_validation = n_train + n_validation, 0
    return {
        "run": settings["run"], "scale": settings["scale"], "recipe": settings["recipe"],
        **{key: data[key] for key in ("synthetic", "source", "source_title", "citation", "degrade",
                                      "thk_max_m")},
        "split": prepare_data.split_text(data), "seed": settings["seed"],
        "split_seed": data["seed"],
        "n_train": n_train, "n_validation": n_validation, "n_test": len(numbers),
        "test": {key: stages[-1][key] for key in ("n_cells", "errors", "ratio", "won")},
        "by_type": score_types(by_method, patches, settings, numbers), "detail": detail,
        "stages": stages, "spectrum": spectrum, "settings": settings,
        "versions": utils.versions(), "command": utils.command(),
    }


def score_types(by_method, patches, settings, numbers):
    """utils.score by what the label has in a cell: {type: score}, see utils.cells_by_type.

    by_method: {method: (patch, y, x) m} of the patches of these numbers. The margin reaches two
    coarse cells, and across the edges of patches.
    """
    thk, topg = (None if patches[name] is None else
                 prepare_data.assemble(patches[name][:, -1], patches) for name in ("thk", "topg"))
    label, data = patches["thk"][numbers, -1], settings["data"]
    cells = {name: prepare_data.cut_patches(field, label.shape[-1])[numbers] for name, field in
             utils.cells_by_type(thk, topg, 2 * settings["scale"],
                                 utils.densities_of(data)).items()}
    return {name: utils.score(by_method, label, of_type, data["thk_max_m"], data["spacing_m"])
            for name, of_type in cells.items()}


def power_spectrum(fields, spacing_m):
    """Radially averaged power spectrum of fields (patch, y, x) in m, the mean over patches.

    Each patch without its mean, tapered with a Hann window; averaged over rings of wavenumber, one
    cycle per patch wide, out to two cells per wave. Returns wavenumber (ring,) [cycles km-1] and
    power (ring,) [m2 km2], a density in the plane of wavenumbers, whose integral over the plane is
    the variance: noise of variance s2, independent from cell to cell, has s2 * spacing2 throughout.
    """
    fields = np.asarray(fields, np.float64)
    spacing_km, shape = spacing_m / 1000, fields.shape[1:]
    hann_y, hann_x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    taper = hann_y[:, None] * hann_x
    transform = np.fft.fft2((fields - fields.mean(axis=(1, 2), keepdims=True)) * taper)
    power = np.mean(np.abs(transform) ** 2, axis=0) * spacing_km**2 / np.sum(taper**2)
    wavenumber = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) / spacing_km
    step = 1 / (min(shape) * spacing_km)
    ring = np.rint(wavenumber / step).astype(int).ravel()
    rings = np.arange(1, min(shape) // 2 + 1)
    return rings * step, (np.bincount(ring, power.ravel()) / np.bincount(ring))[rings]


def measure_spectra(by_method, label, settings):
    """Power spectra of every method and the label, and how much of its detail each has right.

    by_method: {method: (patch, y, x) m}, label (patch, y, x) m. Returns two dicts:
    spectrum: wavelength_km (ring,); label (ring,) and power {method: (ring,)} [m2 km2], see
    power_spectrum; explained {method: (ring,)}: 1 - power of the error / power of the label (1 is
    right in size and place, 0 no better than nothing, below 0 worse).
    detail: {method: {power, explained}} between the shortest wavelength of the coarse grid (two of
    its cells) and that of the fine one; power is over the label's.
    """
    spacing_m = settings["data"]["spacing_m"]
    wavenumber, of_label = power_spectrum(label, spacing_m)
    of_label = np.maximum(of_label, 1e-9)  # a flat label has none
    # Rings grow with the wavenumber, and with them what they hold of the variance.
    share = wavenumber * (wavenumber > 1000 / (2 * settings["scale"] * spacing_m))
    spectrum = {"wavelength_km": (1 / wavenumber).tolist(), "label": of_label.tolist(),
                "power": {}, "explained": {}}
    detail = {}
    for method, thk in by_method.items():
        power, error = (power_spectrum(field, spacing_m)[1] for field in (thk, thk - label))
        spectrum["power"][method] = power.tolist()
        spectrum["explained"][method] = (1 - error / of_label).tolist()
        detail[method] = {"power": float(share @ power / (share @ of_label)),
                          "explained": float(1 - share @ error / (share @ of_label))}
    return spectrum, detail


# ---------------------------------------------------------------- tables


def metrics_rows(metrics):
    """The table of a run: a dict for each stage, and of each method in it, the whole chain last.

    ratio: MSE of the method over bicubic's; won: share of patches in which the model is better.
    """
    whole = {"from_km": metrics["stages"][0]["from_km"], "to_km": metrics["stages"][-1]["to_km"]}
    rows = []
    for part, entry in [*((f"stage {k}", entry) for k, entry in enumerate(metrics["stages"], 1)),
                        ("test", whole | metrics["test"])]:
        errors = entry["errors"]
        for method, of_method in errors.items():
            row = {"run": metrics["run"], "part": part, "from_km": entry["from_km"],
                   "to_km": entry["to_km"], "method": method, **of_method,
                   "source": metrics["source"], "synthetic": metrics["synthetic"],
                   **{key: metrics[key] for key in ("degrade", "split", "command")}}
            if errors["bicubic"]["rmse_m"] >= utils.LEAST_RMSE_M:
                row["ratio"] = of_method["mse"] / errors["bicubic"]["mse"]
            if method in entry["won"]:
                row["won"] = entry["won"][method]
            rows.append(row)
    return rows


def print_rows(rows):
    """Print rows of metrics_rows as a table; the methods by their names."""
    utils.print_table([("", "method", "km", "MSE / max2", "RMSE m", "MAE m", "bias m", "ratio",
                        "won")] + [
        (row["part"], METHODS[row["method"]][0], f"{row['from_km']:g} > {row['to_km']:g}",
         f"{row['mse']:.2e}", f"{row['rmse_m']:.1f}", f"{row['mae_m']:.1f}",
         f"{row['bias_m']:+.1f}", f"{row['ratio']:.3f}" if "ratio" in row else "-",
         f"{row['won']:.0%}" if "won" in row else "") for row in rows])


def print_scores(scores_by_name):
    """Print {name: utils.score} as a table: RMSE, bias and error in volume of every method."""
    methods = [method for method in METHODS
               if any(method in scores["errors"] for scores in scores_by_name.values())]
    columns = [(key, form, method) for key, form in (
        ("rmse_m", ".1f"), ("bias_m", "+.1f"), ("volume_error_percent", "+.2f"))
        for method in methods]
    heads = {"rmse_m": "RMSE m", "bias_m": "bias m", "volume_error_percent": "volume %"}
    utils.print_table([
        ("", "", *(heads[key] if method == methods[0] else "" for key, _, method in columns)),
        ("", "cells", *(METHODS[method][0].replace("surface base", "surface").replace(
            ", consistent", "+c.") for _, _, method in columns)),
        *((name, str(scores["n_cells"]),
           *(f"{scores['errors'][method][key]:{form}}"
             if key in scores["errors"].get(method, {}) else "-" for key, form, method in columns))
          for name, scores in scores_by_name.items())])


def print_methods(errors, checks=None):
    """Print utils.errors of every method as a table, as far as print_scores does not.

    checks: more columns, {method: {heading: text}}.
    """
    utils.print_table([
        ("", "MAE m", "false ice km2", "lost ice km2", "ice area %",
         *next(iter((checks or {"": {}}).values())))] + [
        (METHODS[method][0], f"{entry['mae_m']:.1f}", f"{entry['false_ice_km2']:.0f}",
         f"{entry['lost_ice_km2']:.0f}", f"{entry['ice_area_error_percent']:+.2f}"
         if "ice_area_error_percent" in entry else "-",
         *(checks or {}).get(method, {}).values()) for method, entry in errors.items()])


# ---------------------------------------------------------------- figures


def choose_screen(show):
    """Decide once whether figures are shown on screen at the end, or only written."""
    if not show:
        plt.switch_backend("Agg")


def save(figure, path, made_by):
    """Write a figure to `path` at once or not at all, and close it unless it is to be shown.

    made_by: what made it (settings, versions; for JSON), kept in the PNG's Description.
    """
    made_by = made_by | {"command": utils.command(), "versions": utils.versions()}
    with utils.replacing(path) as temporary, utils.writing(path):
        figure.savefig(temporary, format="png", metadata={"Description": json.dumps(made_by)})
    if plt.get_backend().lower() == "agg":
        plt.close(figure)


def headline(metrics):
    """Title of every figure of a run: what was done to what."""
    synthetic = "SYNTHETIC ice sheet, no real place\n" if metrics["synthetic"] else ""
    to_km = metrics["stages"][-1]["to_km"]
    return (f"{synthetic}Run {metrics['run']}: ice thickness, {metrics['scale'] * to_km:g} km to "
            f"{to_km:g} km ({metrics['scale']}x, {metrics['degrade']} reduction, "
            f"{metrics['split']})\n{metrics['source']}")


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
    image = axes.imshow(field, extent=extent, vmin=limits[0], vmax=limits[1], cmap=colours)
    axes.set_title(title)
    axes.locator_params(nbins=4)
    return image


def plain_ticks(axis):
    """Label a log axis with plain numbers, between the decades where they fit."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.LogFormatter(minor_thresholds=(2.5, 0.4)))


def error_limit_m(error):
    """End of the error colour scale of all methods: a high percentile of bicubic's |error| [m]."""
    return max(float(np.percentile(np.abs(error), ERROR_PERCENTILE)), 1.0)


def plot_comparison(metrics, patches, by_method, count):
    """A row per chosen test patch: every method, the label and the errors. Returns the figure.

    by_method: {method: (patch, y, x) m} of all patches, here and in the figures below. Thickness
    has one colour scale across a row's maps, errors one scale in the whole figure.
    """
    numbers = prepare_data.in_split(patches, "test")
    label = patches["thk"][:, -1]
    rmse = patch_rmse_m(by_method, label)
    chosen = choose_patches(rmse["model"][numbers], count)
    rows = [numbers[i] for i in chosen]
    limit = error_limit_m(by_method["bicubic"][rows] - label[rows])
    n = len(by_method)
    figure, grid = plt.subplots(len(rows), 2 * n + 1, figsize=(5.6 * n + 3, 2.7 * len(rows) + 1.2),
                                squeeze=False, layout="constrained")
    figure.suptitle(headline(metrics))
    for axes, number, what in zip(grid, rows, chosen.values(), strict=True):
        extent = km_extent(patches["x"][number], patches["y"][number])
        limits = (0, max(label[number].max(), LEAST_SCALE_M))
        for panel, error_panel, (method, thk) in zip(axes[:n], axes[n + 1:], by_method.items(),
                                                     strict=True):
            name = METHODS[method][0]
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
    label = prepare_data.assemble(patches["thk"][:, -1], patches)
    limit = error_limit_m(by_method["bicubic"] - patches["thk"][:, -1])
    thk_style = ((0, float(label.max())), THK_COLOURS)
    figure, grid = plt.subplots(len(by_method) + 1, 2, figsize=(13, 3.2 * len(by_method) + 4.2),
                                layout="compressed")
    figure.suptitle(headline(metrics))
    for axes, (method, thk) in zip(grid, by_method.items(), strict=False):
        name, thk = METHODS[method][0], prepare_data.assemble(thk, patches)
        draw_panel(axes[0], thk, extent, name, *thk_style)
        error_image = draw_panel(axes[1], thk - label, extent, f"{name} error", (-limit, limit),
                                 ERROR_COLOURS)
    thk_image = draw_panel(grid[-1, 0], label, extent, "label", *thk_style)
    for column, image, name in ((0, thk_image, "thickness (m)"), (1, error_image, "error (m)")):
        figure.colorbar(image, ax=grid[:, column], location="bottom", label=name, aspect=40,
                        pad=0.02, extend="both")
    draw_split(grid[-1, 1], patches, x, y, label)
    for axes in grid.ravel():
        axes.locator_params(nbins=8)
        axes.set(xlabel="x (km)", ylabel="y (km)")
    return figure


def draw_split(axes, patches, x, y, label):
    """Draw which patches were trained on and which tested, with the edge of the ice."""
    split = patches["split"].reshape(patches["row"].max() + 1, patches["column"].max() + 1)
    colours = np.array([matplotlib.colors.to_rgb(colour) for colour in SPLIT_COLOURS])
    axes.imshow(colours[split], extent=km_extent(x, y))
    axes.contour(x / 1000, y / 1000, utils.is_ice(label), levels=[0.5], colors="black",
                 linewidths=0.5)
    axes.set_title("patches, and the edge of the ice")
    counts = {name: len(prepare_data.in_split(patches, name)) for name in utils.SPLITS}
    axes.legend(handles=[matplotlib.patches.Patch(color=colour, label=f"{name} ({counts[name]})")
                         for name, colour in zip(utils.SPLITS, SPLIT_COLOURS, strict=True)
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
    for method in [method for method in MAPPED[:-1] if method in errors]:
        axes.axhline(errors[method]["rmse_m"], color=METHODS[method][1], linestyle=":",
                     label=f"{METHODS[method][0]}, test patches")
    axes.plot(metrics["epoch"], errors["model"]["rmse_m"], "k*",
              label=f"model, test patches (epoch {metrics['epoch']})")
    axes.set(xlabel="epoch", ylabel="RMSE (m)", title=headline(metrics))
    plain_ticks(axes.yaxis)
    axes.grid(which="both")
    axes.legend(ncols=2)
    return figure


def plot_patches(metrics, patches, by_method):
    """Model RMSE against that of each other method, a dot a test patch, log axes: the figure."""
    numbers = prepare_data.in_split(patches, "test")
    label = patches["thk"][numbers, -1]
    floor = 1.0  # patches of open ocean may have no error at all; log axes need one
    rmse = patch_rmse_m({method: thk[numbers] for method, thk in by_method.items()}, label)
    rmse = {method: np.maximum(values, floor) for method, values in rmse.items()}
    ends = np.array([floor, 1.3 * max(values.max() for values in rmse.values())])
    others = [method for method in by_method if method != "model"]
    figure, panels = plt.subplots(1, len(others), figsize=(5.2 * len(others) + 1.8, 6),
                                  squeeze=False, layout="constrained")
    figure.suptitle(headline(metrics))
    for axes, method in zip(panels[0], others, strict=True):
        dots = axes.scatter(rmse[method], rmse["model"], s=22, c=label.mean(axis=(1, 2)),
                            cmap=THK_COLOURS, edgecolors="black", linewidths=0.4)
        axes.loglog(ends, ends, "k-", linewidth=0.8)
        axes.text(0.97, 0.03, "below the line the model is better", transform=axes.transAxes,
                  ha="right")
        name, won = METHODS[method][0], metrics["test"]["won"][method]
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
    figure.suptitle(headline(metrics))
    panels[0].loglog(wavelength_km, spectrum["label"], "k-", linewidth=2, label="label")
    for method, power in spectrum["power"].items():
        name, colour = METHODS[method]
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


def plot_each_patch(metrics, patches, by_method):
    """Maps of each test patch, one a figure: yields (name as in the original, figure)."""
    for number in prepare_data.in_split(patches, "test"):
        label = patches["thk"][number, -1]
        fields = {"predicted" if method == "model" else method: thk[number]
                  for method, thk in by_method.items()} | {"label": label}
        limits = (0, max(label.max(), LEAST_SCALE_M))  # one scale for all of them
        extent = km_extent(patches["x"][number], patches["y"][number])
        for name, thk in fields.items():
            figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
            title = f"{headline(metrics)}\npatch {number}, {name}"
            image = draw_panel(axes, thk, extent, title, limits, THK_COLOURS)
            axes.title.set_fontsize(7)
            axes.set(xlabel="x (km)", ylabel="y (km)")
            figure.colorbar(image, ax=axes, label="thickness (m)", extend="both")
            yield f"{number:03d}_{name}", figure


# ---------------------------------------------------------------- the two jobs


def evaluate(run, input_file=None, count=PATCHES, all_patches=False, figures=True, options=None):
    """Evaluate a run on its test patches: table on screen, results/<run>/; returns the metrics.

    input_file: the map to make the patches from where they are missing, options: see
    maps.map_options; count: rows of comparison.png. Without figures only metrics.json and
    metrics.csv are written.
    """
    settings = model.read_settings(run)
    patches = prepare_data.find_patches(run, settings["scale"], input_file, trained=settings,
                                        options=options)[1]
    layers = model.load_layers(settings)
    settings = utils.with_densities(settings, (options or {}).get("densities"))
    numbers, all_numbers = prepare_data.in_split(patches, "test"), np.arange(len(patches["thk"]))
    predicted = all_numbers if figures else numbers  # the window is a figure
    predictions = model.predict_patches(layers, patches, settings, predicted)
    history = utils.read_table(utils.CHECKPOINTS / run / "history.csv")
    metrics = measure(predictions[:, np.isin(predicted, numbers)], patches, settings, numbers) | {
        "epoch": model.best_checkpoint(run)[1], "weights_sha256": model.weights_sha256(run)}

    folder = utils.RESULTS / run
    utils.write_json(folder / "metrics.json", metrics)
    utils.write_table(folder / "metrics.csv", metrics_rows(metrics))
    print(f"\n{headline(metrics)}\n{metrics['n_test']} test patches; ratio: MSE over that of "
          "bicubic; won: share of patches in which the model is better\n")
    print_rows(metrics_rows(metrics))
    print()
    print_scores(metrics["by_type"] | {"all": metrics["test"]})
    print()
    print_methods(metrics["test"]["errors"])
    if not figures:
        return metrics

    by_method = {method: thk for method, thk in model.with_baselines(
        predictions[-1], patches, all_numbers, settings).items() if method in MAPPED}
    made_by = {key: metrics[key] for key in ("settings", "citation", "weights_sha256")}
    figures = {"comparison": plot_comparison(metrics, patches, by_method, count),
               "window": plot_window(metrics, patches, by_method),
               "training": plot_training(metrics, history),
               "patches": plot_patches(metrics, patches, by_method),
               "spectrum": plot_spectrum(metrics)}
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png", made_by)
    for name, figure in plot_each_patch(metrics, patches, by_method) if all_patches else ():
        save(figure, folder / "patches" / f"{name}.png", made_by)
    print(f"\nfigures  {folder / 'comparison.png'}  and window.png, training.png, patches.png, "
          "spectrum.png")
    return metrics


def compare(runs):
    """Put runs side by side: a table on screen and in results/compare_<runs>.csv, and a figure."""
    metrics_of_runs = [read_metrics(run) for run in runs]
    rows = [row | {"part": metrics["run"]} for metrics in metrics_of_runs
            for row in metrics_rows(metrics) if row["part"] == "test"]
    print_rows(rows)
    for key in ("source", "degrade", "split", "split_seed", "n_test"):
        values = dict.fromkeys(str(metrics[key]) for metrics in metrics_of_runs)
        if len(values) > 1:
            print(f"note: the runs differ in {key} ({', '.join(values)}): not the same test")

    path = utils.RESULTS / f"compare_{'_'.join(runs)}_training.png"
    utils.write_table(path.with_name(f"compare_{'_'.join(runs)}.csv"), rows)
    synthetic = ", ".join(metrics["run"] for metrics in metrics_of_runs if metrics["synthetic"])
    title = "Error against training time; stars and dotted lines: test patches" + (
        f"\nSYNTHETIC ice sheet: {synthetic}" if synthetic else "")
    figure = plot_times(metrics_of_runs, title)
    if figure is not None:
        save(figure, path, {metrics["run"]: metrics["settings"] for metrics in metrics_of_runs})
        print(f"\nfigure   {path}")


def plot_times(metrics_of_runs, title):
    """RMSE of the last stage against training time, log axes: the figure.

    None where no run has its history.csv any more.
    """
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    lines = {}  # the same test patches give the same two lines: drawn once
    for metrics in metrics_of_runs:
        history_path = utils.CHECKPOINTS / metrics["run"] / "history.csv"
        if not history_path.exists():
            print(f"note: {history_path} is missing: no training curve of {metrics['run']}")
            continue
        history = utils.read_table(history_path)
        seconds, errors = [row["seconds"] for row in history], metrics["test"]["errors"]
        training, validation = ([row[f"{part}_rmse_m_stage{len(metrics['stages'])}"]
                                 for row in history] for part in ("train", "validation"))
        (line,) = axes.loglog(seconds, training, linewidth=1, label=metrics["run"])
        if validation[0] is not None:
            axes.loglog(seconds, validation, "--", linewidth=1, color=line.get_color())
        at = next(row["seconds"] for row in history if row["epoch"] == metrics["epoch"])
        axes.plot(at, errors["model"]["rmse_m"], "*", color=line.get_color(),
                  markeredgecolor="black", markersize=12)
        for method in [method for method in MAPPED[:-1] if method in errors]:
            lines.setdefault((method, round(errors[method]["rmse_m"], 3)), []).append(
                metrics["run"])
    if not axes.lines:
        plt.close(figure)
        return None
    for (method, rmse_m), runs in lines.items():
        axes.axhline(rmse_m, color=METHODS[method][1], linestyle=":",
                     label=f"{METHODS[method][0]}: {', '.join(runs)}")
    axes.plot([], [], "k--", linewidth=1, label="validation patches")
    axes.plot([], [], "k*", markersize=12, label="test patches, at the best epoch")
    axes.set(xlabel="training time (s)", ylabel="RMSE (m)", title=title)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.grid(which="both")
    axes.legend()
    return figure


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc", help="the map, where its patches are missing")
    maps.add_map_arguments(parser)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="evaluated runs side by side")
    parser.add_argument("--patches", type=int, metavar="N",
                        help=f"rows of comparison.png (default {PATCHES})")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.patches is not None and args.patches < 1:
        raise InputError(f"--patches {args.patches}: expected 1 or more")
    choose_screen(args.show)
    if args.compare:
        if any(value for name, value in vars(args).items() if name not in ("compare", "show")):
            raise InputError("--compare names the runs itself, of which all is known: it goes "
                             "with --show alone")
        compare([utils.check_run_name(run) for run in args.compare])
    else:
        options = maps.map_options(args)
        run = utils.check_run_name(args.run if args.run is not None else f"x{args.scale or 8}")
        scale = model.read_settings(run)["scale"]
        if args.scale not in (None, scale):
            raise InputError(f"run {run} was trained for {scale}x, not {args.scale}x; leave out "
                             "--scale")
        model.set_up_device()
        evaluate(run, args.input, args.patches or PATCHES, args.all_patches, options=options)
    if args.show:
        plt.show()
    return 0


if __name__ == "__main__":
    utils.run_script(main)
