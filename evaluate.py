"""Score and plot the test patches of a run: bicubic, surface base, model and label; compare runs.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --rows 10       # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # maps of every test patch
    python evaluate.py --compare x8 wide             # one table, one figure

Reads checkpoints/<run>/ and its patches; writes metrics.json, metrics.csv and figures to
results/<run>/. Nothing is trained here. Whole maps and hindcasts are made by downscale.py.
"""


import numpy as np

import model
import prepare_data
import utils
from icesheet import checkpoints, command_line, figures, files, map_layout, uncertainty
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.patches import (
    cut_patches,
    describe_split,
    find_patches_in_split,
    join_patches,
    training_and_validation_indices,
)
from icesheet.scores import (
    METHOD_STYLES,
    METRICS_SCHEMA,
    MIN_BASELINE_RMSE_M,
    flatten_metrics,
    print_ice_extent_table,
    print_metrics_table,
    print_score_table,
    score_methods,
    score_patches,
)
from icesheet.settings import SCALES, get_densities, needs_topg, read_validated_json, with_densities


def read_metrics(run):
    """The metrics of a run, from results/<run>/metrics.json; InputError where there are none."""
    path = files.RESULTS / run / "metrics.json"
    again = " again" if path.exists() else " first"
    return read_validated_json(path, METRICS_SCHEMA, f"evaluate the run{again}: python evaluate.py --run "
                             f"{run}")


def load_layers(settings):
    """The trained layers of a run: those of its best epoch. InputError where they do not fit."""
    path = checkpoints.best_checkpoint(settings)[0]  # first: what made them may not even build
    layers = model.build_layers(settings)
    checkpoints.restore_checkpoint({"layers": layers}, path)
    return layers


def compute_metrics(predictions, patches, settings, numbers, spread=None):
    """Metrics of predictions (stage, patch, y, x) m for the patches of these numbers: a dict.

    test: score_patches against the label, of every method there is (see model.add_baselines).
    by_type, uncertainty: see score_by_surface_type; spectrum, detail: see compute_spectra.
    stages: score_patches at each stage against the label of its level, with from_km and to_km. Its
    bicubic and surface base start at the input of the whole chain too.
    """
    data, stages = settings["data"], []
    for stage, predicted in enumerate(predictions, 1):
        label = patches["thk"][numbers, stage]
        by_method = model.add_baselines(predicted, patches, numbers, settings, stage)
        to_km = data["spacing_m"] * settings["scale"] / 1000 / 2**stage
        stages.append({"from_km": 2 * to_km, "to_km": to_km}
                      | score_patches(by_method, label, data))
    spectrum, detail = compute_spectra(by_method, label, settings)
    n_train, n_validation = map(len, training_and_validation_indices(patches, settings))
    by_type, intervals = score_by_surface_type(by_method, patches, settings, numbers, spread)
    return {
        "run": settings["run"], "scale": settings["scale"], "recipe": settings["recipe"],
        **{key: data[key] for key in ("synthetic", "source", "source_title", "citation", "degrade",
                                      "thk_max_m")},
        "split": describe_split(data), "seed": settings["seed"],
        "split_seed": data["seed"],
        "n_train": n_train, "n_validation": n_validation, "n_test": len(numbers),
        "test": {key: stages[-1][key] for key in ("n_cells", "errors", "mse_ratio", "win_rate")},
        "by_surface_type": by_type, "uncertainty": intervals, "sub_grid_power": detail,
        "stages": stages, "spectrum": spectrum, "settings": settings,
        "versions": files.library_versions(), "command": command_line.command_text(),
    }


def score_by_surface_type(by_method, patches, settings, numbers, spread=None):
    """scores.score_methods by what the label has in a cell: {type: score}, see utils.surface_type_masks.

    by_method: {method: (patch, y, x) m} of these patches. The margin reaches two coarse cells, and
    across the edges of patches. Second, of a calibrated run (else {}), where the spread is not NaN:
    by_type: uncertainty.score_intervals; constant: the same of every method if its intervals had
    one width for each surface type; patch_volume_coverage: share of the patches whose volume is in its
    90 % interval, volume_half_width_km3: the mean of those.
    """
    thk, topg = (None if patches[name] is None else
                 join_patches(patches[name][:, -1], patches) for name in ("thk", "topg"))
    label, data = patches["thk"][numbers, -1], settings["data"]
    types = utils.surface_type_masks(thk, topg, 2 * settings["scale"], get_densities(data))
    cells, cell_m = {name: cut_patches(field, label.shape[-1])[numbers]
                     for name, field in types.items()}, data["spacing_m"]
    scores = {name: score_methods(by_method, label, of_type, data["thk_max_m"], cell_m)
              for name, of_type in cells.items()}
    if "uncertainty" not in settings or spread is None:
        return scores, {}
    fit, error, free = settings["uncertainty"], by_method["model"] - label, np.isfinite(spread)
    bed = patches["topg"][numbers, -1] if needs_topg(settings) else None
    predicted = uncertainty.classify_patches(by_method["model"], bed, settings)
    width = uncertainty.compute_half_width(spread, by_method["model"], predicted, fit)
    volume = np.abs(error.sum(axis=(1, 2), dtype=float))  # as a sum of thickness [m]
    wide = uncertainty.half_width_of_sum(width, predicted, fit, axis=(1, 2))
    cells = {name: free & of_type for name, of_type in (cells | {"all": free}).items()}
    constant = {}
    for name in fit["constant_width"].keys() & by_method.keys():
        of_method = fit["constant_width"][name]
        one = uncertainty.expand_by_type(of_method["half_width_m"], predicted, label.shape)
        constant[name] = {kind: uncertainty.score_intervals(
            by_method[name] - label, one, of_type, of_method["error_quantiles"])
            for kind, of_type in cells.items()}
    return scores, {
        "by_surface_type": {kind: uncertainty.score_intervals(error, width, of_type, fit["error_quantiles"])
                    for kind, of_type in cells.items()},
        "constant_width": constant, "patch_volume_coverage": float(np.mean(volume <= wide)),
        "volume_half_width_km3": float(wide.mean() * cell_m**2 / 1e9)}


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


def compute_spectra(by_method, label, settings):
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


def evaluate(run, input_file=None, count=figures.COMPARISON_ROWS, all_patches=False, draw=True,
             options=None):
    """Evaluate a run on its test patches: table on screen, results/<run>/; returns the metrics.

    input_file: the map to make the patches from where they are missing, options: see
    map_layout.parse_map_options; count: rows of comparison.png. Without draw only metrics.json and metrics.csv
    are written.
    """
    settings = checkpoints.read_settings(run)
    patches = prepare_data.load_or_make_patches(run, settings["scale"], input_file, trained=settings,
                                        options=options)[1]
    layers = load_layers(settings)
    about = {"epoch": checkpoints.best_checkpoint(settings)[1],
             "weights_sha256": checkpoints.hash_weights(run)}
    settings = with_densities(settings, (options or {}).get("densities"))
    numbers, all_numbers = find_patches_in_split(patches, "test"), np.arange(len(patches["thk"]))
    predicted = all_numbers if draw else numbers  # the window is a figure
    predictions, spread = model.predict_patches(layers, patches, settings, predicted)
    history = checkpoints.read_history(run)
    tested = np.isin(predicted, numbers)
    metrics = compute_metrics(predictions[:, tested], patches, settings, numbers, spread[tested]) | about
    folder = files.RESULTS / run
    files.write_table(folder / "metrics.csv", flatten_metrics(metrics))
    files.write_json(folder / "metrics.json", metrics)  # last: a run that has it is finished
    print(f"\n{figures.figure_title(metrics)}\n{metrics['n_test']} test patches; ratio: MSE over that "
          "of bicubic; won: share of patches in which the model is better\n")
    print_metrics_table(flatten_metrics(metrics))
    print()
    print_score_table(metrics["by_surface_type"] | {"all": metrics["test"]})
    print()
    print_ice_extent_table(metrics["test"]["errors"])
    uncertainty.print_interval_scores(metrics)
    if not draw:
        return metrics

    by_method = {method: thk for method, thk in model.add_baselines(
        predictions[-1], patches, all_numbers, settings).items() if method in figures.MAPPED_METHODS}
    made_by = {key: metrics[key] for key in ("settings", "citation", "weights_sha256")}
    plots = {"comparison": figures.plot_comparison(metrics, patches, by_method, count),
             "window": figures.plot_window(metrics, patches, by_method),
             **({"training": figures.plot_training(metrics, history)} if history else {}),
             "patches": figures.plot_rmse_scatter(metrics, patches, by_method),
             "spectrum": figures.plot_spectrum(metrics)}
    if metrics["uncertainty"]:
        plots["reliability"] = figures.plot_reliability(metrics)
    for name, figure in plots.items():
        figures.save_figure(figure, folder / f"{name}.png", made_by)
    each = figures.plot_patch_panels(metrics, patches, by_method) if all_patches else ()
    for name, figure in each:
        figures.save_figure(figure, folder / "patches" / f"{name}.png", made_by)
    print(f"\nfigures  {folder / 'comparison.png'}  and "
          + ", ".join(f"{name}.png" for name in plots if name != "comparison"))
    return metrics


def compare_runs(runs):
    """Put runs side by side: a table on screen and in results/compare_<runs>.csv, and a figure."""
    metrics_of_runs = [read_metrics(run) for run in runs]
    rows = [row | {"part": metrics["run"]} for metrics in metrics_of_runs
            for row in flatten_metrics(metrics) if row["part"] == "test"]
    print_metrics_table(rows)
    for key in ("source", "degrade", "split", "split_seed", "n_test"):
        values = dict.fromkeys(str(metrics[key]) for metrics in metrics_of_runs)
        if len(values) > 1:
            print(f"note: the runs differ in {key} ({', '.join(values)}): not the same test")

    path = files.RESULTS / f"compare_{'_'.join(runs)}_training.png"
    files.write_table(path.with_name(f"compare_{'_'.join(runs)}.csv"), rows)
    synthetic = ", ".join(metrics["run"] for metrics in metrics_of_runs if metrics["synthetic"])
    title = "Error against training time; stars and dotted lines: test patches" + (
        f"\nSYNTHETIC ice sheet: {synthetic}" if synthetic else "")
    figure = figures.plot_error_against_time(metrics_of_runs, title)
    if figure is not None:
        figures.save_figure(figure, path,
                     {metrics["run"]: metrics["settings"] for metrics in metrics_of_runs})
        print(f"\nfigure   {path}")


def write_summary_table(name, runs_by_fold):
    """One table of runs that differ in fold and seed: on screen, and results/<name>.csv.

    runs_by_fold: {"fold 1" ..., or "test" without folds: [run of each seed]}, all evaluated.
    - a row for each fold: medians over its seeds
    - mean of folds: their mean; spread: standard deviation
    - all patches: every test patch once; medians over seeds of the pooled MSE
    ratio: MSE of the model over that of bicubic and of the surface base; spread in the other rows:
    highest less lowest seed.
    """
    by_fold = {part: [read_metrics(run) for run in runs]
               for part, runs in runs_by_fold.items()}

    def table_row(part, groups):  # groups: for each seed, the metrics of its folds
        weights = [metrics["n_test"] for metrics in groups[0]]
        mse = {method: np.array([np.average([
            metrics["test"]["errors"][method]["rmse_m"] ** 2 for metrics in group],
            weights=weights) for group in groups]) for method in groups[0][0]["test"]["errors"]}
        row = {"part": part, "n_test": sum(weights), "seeds": len(groups)}
        row |= {f"{method}_rmse_m": float(np.sqrt(np.median(values)))
                for method, values in mse.items()}
        for method in ("bicubic", "surface_minus_bed"):
            if method in mse and mse[method].min() >= MIN_BASELINE_RMSE_M**2:
                ratio = mse["model"] / mse[method]
                row |= {f"ratio_{method}": float(np.median(ratio)),
                        f"ratio_{method}_spread": float(np.ptp(ratio))}
        return row

    rows = [table_row(part, [[metrics] for metrics in seeds]) for part, seeds in by_fold.items()]
    if len(rows) > 1:
        shared = [key for key in rows[0] if key != "part" and all(key in row for row in rows)]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in shared}
        mean |= {key: float(np.std([row[key.removesuffix("_spread")] for row in rows], ddof=1))
                 for key in shared if key.endswith("_spread")}
        rows += [{"part": "mean of folds"} | mean,
                 table_row("all patches", list(zip(*by_fold.values(), strict=True)))]
    path = files.RESULTS / f"{name}.csv"
    first = next(iter(by_fold.values()))[0]
    files.write_table(path, [row | {"source": first["source"], "degrade": first["degrade"],
                                    "recipe": first["recipe"], "command": command_line.command_text()}
                             for row in rows])
    print()
    methods = [method for method in METHOD_STYLES if f"{method}_rmse_m" in rows[0]]
    others = [method for method in methods if f"ratio_{method}" in rows[0]]
    command_line.print_table(
        [("", "patches", "seeds", *(f"{METHOD_STYLES[method][0]} m" for method in methods),
          *(f"model / {METHOD_STYLES[method][0]}" for method in others))]
        + [(row["part"], f"{row['n_test']:g}", f"{row['seeds']:g}",
            *(f"{row[f'{method}_rmse_m']:.1f}" for method in methods),
            *(f"{row[f'ratio_{method}']:.3f} ± {row[f'ratio_{method}_spread']:.3f}"
              if f"ratio_{method}" in row else "-" for method in others)) for row in rows])
    print(f"\ntable    {path}  (ratios of MSE; ±: highest less lowest seed; of the mean, standard "
          "deviation of the folds)")


def main(argv=None):
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc", help="the map, where its patches are missing")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="evaluated runs side by side")
    parser.add_argument("--rows", type=int, metavar="N",
                        help=f"rows of comparison.png (default {figures.COMPARISON_ROWS})")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.rows is not None and args.rows < 1:
        raise InputError(f"--rows {args.rows}: expected 1 or more")
    figures.select_backend(args.show)
    if args.compare:
        if any(value for name, value in vars(args).items() if name not in ("compare", "show")):
            raise InputError("--compare names the runs itself, of which all is known: it goes "
                             "with --show alone")
        compare_runs([command_line.check_run_name(run) for run in args.compare])
    else:
        options = map_layout.parse_map_options(args)
        run = command_line.check_run_name(args.run if args.run is not None else f"x{args.scale or 8}")
        scale = checkpoints.read_settings(run)["scale"]
        if args.scale not in (None, scale):
            raise InputError(f"run {run} was trained for {scale}x, not {args.scale}x; leave out "
                             "--scale")
        set_up_device()
        evaluate(run, args.input, args.rows or figures.COMPARISON_ROWS, args.all_patches,
                 options=options)
    if args.show:
        figures.show()
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
