"""Compare bicubic, model and label on the test patches: tables, figures, runs side by side.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --patches 10       # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # three maps of every test patch
    python evaluate.py --compare x8 wide             # one table, one figure

Reads checkpoints/<run>/ and the patches it was trained on; writes metrics.json, metrics.csv and the
figures to results/<run>/. Nothing is trained here, and without a checkpoint nothing is shown.
"""

import json

import matplotlib.colors
import matplotlib.patches
import matplotlib.pyplot as plt
import numpy as np

import model
import prepare_data
import utils
from utils import InputError

with utils.quiet_import():
    import tensorflow as tf

# ---- Settings ---------------------------------------------------------------------------------
PATCHES = 6                    # rows of comparison.png: best, median and worst among them
DPI = 150
THK_COLOURS = "viridis"        # thickness
ERROR_COLOURS = "RdBu_r"       # errors: red too thick, blue too thin, white right
SPLIT_COLOURS = ("#c6dbef", "#6baed6", "#e6550d", "#d9d9d9")  # train, validation, test, gap
LEAST_SCALE_M = 100.0          # thickness scale of a patch goes so far at least
ERROR_PERCENTILE = 99.5  # of |bicubic error|, ends the error scale; beyond it colours saturate
PREDICT_BATCH = 50             # patches predicted at a time
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
    chain = tf.function(lambda thk, topg: tf.stack(model.run_chain(layers, thk, topg, settings)),
                        reduce_retracing=True)
    beds = settings["channels"] == "thk+topg"
    parts = [chain(tf.constant(patches["thk"][batch, 0]),
                   tf.constant(patches["topg"][batch]) if beds else None).numpy()
             for batch in np.split(numbers, range(PREDICT_BATCH, len(numbers), PREDICT_BATCH))]
    return np.concatenate(parts, axis=1)


# ---------------------------------------------------------------- metrics


def patch_rmse_m(predicted, label):
    """RMSE [m] of each patch, (patch,), of predicted thickness against the label (patch, y, x)."""
    return utils.rmse_m(predicted, label, axis=(1, 2))


def measure(predictions, patches, settings, numbers):
    """Metrics of predictions (stage, patch, y, x) m for the patches of these numbers: a dict.

    test: bicubic (the chain's input) and model against the label, with the ratio of their MSE and
    the share of patches in which the model has the lower error. stages: the same at each stage,
    against the label of its level; bicubic is the input of the whole chain there too.
    """
    thk = patches["thk"][numbers]  # (patch, level, y, x)
    data = settings["data"]

    def pair(stage):
        label, bicubic, predicted = thk[:, stage], thk[:, 0], predictions[stage - 1]
        found = {"bicubic": utils.errors(bicubic, label, data["thk_max_m"]),
                 "model": utils.errors(predicted, label, data["thk_max_m"])}
        won = patch_rmse_m(predicted, label) < patch_rmse_m(bicubic, label)
        return found | {"ratio": found["model"]["mse"] / found["bicubic"]["mse"],
                        "won": float(won.mean())}

    n_stages = len(predictions)
    coarsest_km = data["spacing_m"] * settings["scale"] / 1000
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
        "test": pair(n_stages),
        "stages": [{"from_km": coarsest_km / 2 ** (k - 1), "to_km": coarsest_km / 2**k} | pair(k)
                   for k in range(1, n_stages + 1)],
        "settings": settings, "versions": utils.versions(),
    }


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
        for method in ("bicubic", "model"):
            rows.append({"run": metrics["run"], "part": name, "from_km": entry["from_km"],
                         "to_km": entry["to_km"], "method": method, **entry[method],
                         "source": metrics["source"], "synthetic": metrics["synthetic"],
                         "degrade": metrics["degrade"], "split": metrics["split"],
                         "ratio": entry[method]["mse"] / entry["bicubic"]["mse"],
                         "won": entry["won"] if method == "model" else ""})
    return rows


def print_table(rows):
    """Print rows of metrics_rows as a table."""
    print(f"{'':16} {'':8} {'km':>12} {'MSE/max2':>10} {'RMSE m':>8} {'MAE m':>8} {'bias m':>8} "
          f"{'ratio':>7} {'won':>5}")
    for row in rows:
        won = f"{row['won']:5.0%}" if row["won"] != "" else ""
        print(f"{row['part']:16} {row['method']:8} {row['from_km']:5g} > {row['to_km']:4g} "
              f"{row['mse']:10.2e} {row['rmse_m']:8.1f} {row['mae_m']:8.1f} {row['bias_m']:+8.1f} "
              f"{row['ratio']:7.3f} {won}")


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


def error_limit_m(bicubic, label):
    """End of the error colour scale [m] of all methods: a high percentile of bicubic's error."""
    return max(float(np.percentile(np.abs(bicubic - label), ERROR_PERCENTILE)), 1.0)


def plot_comparison(path, metrics, patches, predicted, count, show=False):
    """comparison.png: a row per chosen test patch; bicubic, model, label and the two errors.

    Thickness has one colour scale across a row's three maps, errors one scale in the whole figure.
    """
    numbers = utils.in_split(patches, "test")
    bicubic, label = patches["thk"][numbers, 0], patches["thk"][numbers, -1]
    predicted = predicted[numbers]
    rmse = {"bicubic": patch_rmse_m(bicubic, label), "model": patch_rmse_m(predicted, label)}
    rows = choose_patches(rmse["model"], count)
    limit = error_limit_m(bicubic[list(rows)], label[list(rows)])
    figure, grid = plt.subplots(len(rows), 5, figsize=(15, 2.7 * len(rows) + 1.2), squeeze=False,
                                layout="constrained")
    figure.suptitle(headline(metrics), fontsize=11)
    for axes, i in zip(grid, rows, strict=True):
        number = numbers[i]
        extent = km_extent(patches["x"][number], patches["y"][number])
        maps = (bicubic[i], predicted[i], label[i])
        limits = (0, max(label[i].max(), LEAST_SCALE_M))
        titles = (f"bicubic, RMSE {rmse['bicubic'][i]:.1f} m",
                  f"model, RMSE {rmse['model'][i]:.1f} m", f"label, patch {number} ({rows[i]})")
        for panel, field, title in zip(axes, maps, titles, strict=False):
            image = draw_panel(panel, field, extent, title, limits, THK_COLOURS)
        figure.colorbar(image, ax=axes[:3], label="thickness (m)", pad=0.01, extend="both")
        for panel, field, title in zip(axes[3:], maps[:2], ("bicubic", "model"), strict=True):
            error_image = draw_panel(panel, field - label[i], extent, f"{title} error",
                                     (-limit, limit), ERROR_COLOURS)
        figure.colorbar(error_image, ax=axes[3:], label="error (m)", pad=0.01, extend="both")
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


def plot_window(path, metrics, patches, predicted, show=False):
    """window.png: the whole window put together from its patches, and which were for what."""
    x = patches["x"][patches["row"] == 0].ravel()
    y = patches["y"][patches["column"] == 0].ravel()
    extent = km_extent(x, y)
    bicubic, label = (assemble(patches["thk"][:, level], patches) for level in (0, -1))
    model_map = assemble(predicted, patches)
    limit = error_limit_m(bicubic, label)
    thk_style = ((0, float(label.max())), THK_COLOURS)
    error_style = ((-limit, limit), ERROR_COLOURS)
    figure, grid = plt.subplots(3, 2, figsize=(13, 11.3), layout="compressed")
    figure.suptitle(headline(metrics), fontsize=11)
    for axes, title, field in zip(grid[:, 0], ("bicubic", "model", "label"),
                                  (bicubic, model_map, label), strict=True):
        thk_image = draw_panel(axes, field, extent, title, *thk_style)
    for axes, title, field in zip(grid[:2, 1], ("bicubic error", "model error"),
                                  (bicubic, model_map), strict=True):
        error_image = draw_panel(axes, field - label, extent, title, *error_style)
    figure.colorbar(thk_image, ax=grid[:, 0], location="bottom", label="thickness (m)", aspect=40,
                    extend="both")
    figure.colorbar(error_image, ax=grid[:, 1], location="bottom", label="error (m)", aspect=40,
                    extend="both")
    draw_split(grid[2, 1], patches, x, y, label)
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
    axes.axhline(metrics["test"]["bicubic"]["rmse_m"], color="grey", linestyle=":",
                 label="bicubic, test patches")
    axes.plot(metrics["epoch"], metrics["test"]["model"]["rmse_m"], "k*",
              label=f"model, test patches (epoch {metrics['epoch']})")
    axes.set(xlabel="epoch", ylabel="RMSE (m)")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title(headline(metrics), fontsize=10)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    save(figure, path, made_of(metrics), show)


def plot_patches(path, metrics, patches, predicted, show=False):
    """patches.png: model RMSE against bicubic RMSE, a dot a test patch, log axes."""
    numbers = utils.in_split(patches, "test")
    bicubic, label = patches["thk"][numbers, 0], patches["thk"][numbers, -1]
    bicubic_rmse, model_rmse = (patch_rmse_m(thk, label) for thk in (bicubic, predicted[numbers]))
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    floor = 1.0  # patches of open ocean may have no error at all; log axes need one
    dots = axes.scatter(np.maximum(bicubic_rmse, floor), np.maximum(model_rmse, floor), s=22,
                        c=label.mean(axis=(1, 2)), cmap=THK_COLOURS, edgecolors="black",
                        linewidths=0.4)
    ends = np.array([floor, 1.3 * max(bicubic_rmse.max(), model_rmse.max(), 1.0)])
    axes.loglog(ends, ends, "k-", linewidth=0.8)
    axes.text(0.97, 0.03, "below the line the model is better", transform=axes.transAxes,
              fontsize=8, ha="right")
    axes.set(xlabel=f"bicubic RMSE (m; {floor:g} m or less drawn at {floor:g})",
             ylabel="model RMSE (m)", aspect="equal")
    axes.set_title(f"{headline(metrics)}\nmodel better in {metrics['test']['won']:.0%} of "
                   f"{len(numbers)} test patches", fontsize=9)
    axes.grid(alpha=0.3)
    figure.colorbar(dots, ax=axes, label="mean thickness of the patch (m)")
    save(figure, path, made_of(metrics), show)


def plot_all_patches(folder, metrics, patches, predicted):
    """<patch>_bicubic.png, _predicted.png and _label.png of each test patch, on one scale."""
    for number in utils.in_split(patches, "test"):
        thk = patches["thk"][number]
        maps = {"bicubic": thk[0], "predicted": predicted[number], "label": thk[-1]}
        limits = (0, max(thk[-1].max(), LEAST_SCALE_M))
        extent = km_extent(patches["x"][number], patches["y"][number])
        for name, field in maps.items():
            figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
            title = f"{headline(metrics)}\npatch {number}, {name}"
            image = draw_panel(axes, field, extent, title, limits, THK_COLOURS)
            axes.title.set_fontsize(7)
            axes.set(xlabel="x (km)", ylabel="y (km)")
            figure.colorbar(image, ax=axes, label="thickness (m)", extend="both")
            save(figure, folder / f"{number:03d}_{name}.png", made_of(metrics), show=False)


# ---------------------------------------------------------------- the two jobs


def evaluate(run, input_file=None, count=PATCHES, all_patches=False, show=False):
    """Evaluate a run on its test patches: table on screen, results/<run>/; returns the metrics.

    input_file: the map to make the patches from where they are missing; count: rows of
    comparison.png.
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
    predicted = predictions[-1]
    plot_comparison(folder / "comparison.png", metrics, patches, predicted, count, show)
    plot_window(folder / "window.png", metrics, patches, predicted, show)
    plot_training(folder / "training.png", metrics, history, show)
    plot_patches(folder / "patches.png", metrics, patches, predicted, show)
    if all_patches:
        plot_all_patches(folder / "patches", metrics, patches, predicted)

    print(f"\n{headline(metrics)}\n{metrics['n_test']} test patches; ratio: MSE over that of "
          "bicubic; won: share of patches in which the model is better\n")
    print_table(metrics_rows(metrics))
    print(f"\nfigures  {folder / 'comparison.png'}  and window.png, training.png, patches.png")
    if show:
        plt.show()
    return metrics


def compare(runs, show=False):
    """Put evaluated runs side by side: a table on screen, results/compare_<runs>.csv and .png."""
    if not show:
        plt.switch_backend("Agg")
    every = [utils.read_json(utils.RESULTS / run / "metrics.json",
                             f"evaluate the run first: python evaluate.py --run {run}")
             for run in runs]
    rows = []
    for metrics in every:
        for row in metrics_rows(metrics)[-2:]:
            rows.append(row | {"part": metrics["run"]})
    print_table(rows)
    for key in ("source", "degrade", "split", "split_seed", "n_test"):
        values = list(dict.fromkeys(str(metrics[key]) for metrics in every))
        if len(values) > 1:
            print(f"note: the runs differ in {key} ({', '.join(values)}): not the same test")

    path = utils.RESULTS / f"compare_{'_'.join(runs)}.png"
    utils.write_table(path.with_suffix(".csv"), rows)
    figure, panels = plt.subplots(1, 2, figsize=(6 + 1.5 * len(runs), 5), layout="constrained")
    synthetic = ", ".join(metrics["run"] for metrics in every if metrics["synthetic"])
    figure.suptitle("Runs side by side, test patches"
                    + (f"\nSYNTHETIC ice sheet: {synthetic}" if synthetic else ""), fontsize=11)
    places = np.arange(len(runs))
    for offset, method, colour in ((-0.2, "bicubic", "#9ecae1"), (0.2, "model", "#08519c")):
        heights = [metrics["test"][method]["rmse_m"] for metrics in every]
        bars = panels[0].bar(places + offset, heights, 0.4, label=method, color=colour)
        panels[0].bar_label(bars, fmt="%.1f", fontsize=8)
    panels[0].set(ylabel="RMSE (m)")
    panels[0].legend()
    ratios = [metrics["test"]["ratio"] for metrics in every]
    bars = panels[1].bar(places, ratios, 0.5, color="#08519c")
    panels[1].bar_label(bars, fmt="%.3f", fontsize=8)
    panels[1].axhline(1, color="grey", linestyle=":")
    panels[1].set(ylabel="MSE, model / bicubic")
    for axes in panels:
        axes.set_xticks(places, [f"{metrics['run']}\n{metrics['scale']}x, {metrics['split']}"
                                 for metrics in every], fontsize=8)
    save(figure, path, {metrics["run"]: metrics["settings"] for metrics in every}, show)
    print(f"\nfigure   {path}")
    if show:
        plt.show()


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc", help="the map, where its patches are missing")
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="evaluated runs side by side")
    parser.add_argument("--patches", type=int, default=PATCHES, metavar="N",
                        help="rows of comparison.png")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.patches < 1:
        raise InputError(f"--patches {args.patches}: expected 1 or more")
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
