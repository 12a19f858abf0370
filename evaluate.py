"""Score and plot the test patches of a run beside bicubic and surface minus bed; compare runs.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --rows 10          # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # maps of every test patch
    python evaluate.py --compare x8 wide             # one table, one figure

Reads checkpoints/<run>/ and its patches; writes metrics.json, metrics.csv and figures to
results/<run>/. Nothing is trained here. Whole maps are made and tested by downscale.py.
"""

import numpy as np

import model
import prepare_data
import utils
from icesheet import (
    checkpoints, command_line, crops, figures, files, map_layout, members, training_maps,
    uncertainty)
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.patches import (
    cut_patches, describe_split, find_patches_in_split, join_patches,
    training_and_validation_indices)
from icesheet.scores import (
    METRICS_SCHEMA, compute_spectra, flatten_metrics, mean_of_folds, print_ice_extent_table,
    print_metrics_table, print_score_table, print_summary, score_methods, score_patches,
    summary_row)
from icesheet.settings import SCALES, get_densities, needs_topg, read_validated_json, with_densities


def read_metrics(run):
    """Return the metrics of a run from its metrics.json; InputError if there are none."""
    path = files.RESULTS / run / "metrics.json"
    again = " again" if path.exists() else " first"  # older ones lack keys that are read today
    return read_validated_json(path, METRICS_SCHEMA,
                               f"evaluate the run{again}: python evaluate.py --run {run}")


def load_layers(settings):
    """Return the layers of a run's best epoch, and its {"epoch", "weights_sha256"}, for results.

    Raises InputError if there are none or they do not fit.
    """
    # Find the checkpoint first: without one the settings may not even build layers.
    checkpoints.restore_best({}, settings)
    layers = model.build_layers(settings)
    return layers, checkpoints.restore_best({"layers": layers}, settings)


def compute_metrics(predictions, patches, settings, patch_indices, spread=None):
    """Compute all metrics of the predictions of some patches; return them as metrics.json has them.

    predictions: thickness after every stage, (stage, patch, y, x) [m]; spread: of the ensemble,
    (patch, y, x) [m], or None.
    test: score_patches of every method (model.add_baselines) against the label; stages: the same
    after every stage against the label of its level, where baselines too start from the input of
    the whole chain; by_surface_type, uncertainty, spectrum, sub_grid_power: of the functions below.
    """
    data, stages = settings["data"], []
    for stage, thk in enumerate(predictions, 1):
        label = patches["thk"][patch_indices, stage]  # (patch, y, x)
        by_method = model.add_baselines(thk, patches, patch_indices, settings, stage)
        to_km = data["spacing_m"] * settings["scale"] / 1000 / 2**stage  # stages halve the spacing
        stages.append({"from_km": 2 * to_km, "to_km": to_km}
                      | score_patches(by_method, label, data))
    # by_method and label are now those of the last stage: of the whole chain.
    spectrum, sub_grid_power = compute_spectra(by_method, label, settings)
    n_train, n_validation = map(len, training_and_validation_indices(patches, settings))
    cells = mask_surface_types(patches, settings, patch_indices)
    return {
        "run": settings["run"], "scale": settings["scale"], "recipe": settings["recipe"],
        **{key: data[key] for key in ("synthetic", "source", "source_title", "citation", "degrade",
                                      "thk_max_m")},
        "split": describe_split(data), "seed": settings["seed"], "split_seed": data["seed"],
        "n_train": n_train, "n_validation": n_validation, "n_test": len(patch_indices),
        "test": {key: stages[-1][key] for key in ("n_cells", "errors", "mse_ratio", "win_rate")},
        "by_surface_type": {name: score_methods(
            by_method, label, mask, data["thk_max_m"], data["spacing_m"])
            for name, mask in cells.items()},
        "uncertainty": score_patch_intervals(by_method, label, cells, patches["topg"],
                                             patch_indices, settings, spread),
        "sub_grid_power": sub_grid_power, "stages": stages, "spectrum": spectrum,
        "settings": settings, "versions": files.package_versions(),
        "command": command_line.command_text(),
    }


def mask_surface_types(patches, settings, patch_indices):
    """Return the cells of each surface type of the label: {type: (patch, y, x) bool}.

    Types are those of utils.surface_type_masks. The boundary zone is two coarse cells wide; it is
    computed on the joined window, so it continues across the edges of patches.
    """
    thk, topg = (None if patches[name] is None else join_patches(patches[name][:, -1], patches)
                 for name in ("thk", "topg"))
    masks = utils.surface_type_masks(thk, topg, 2 * settings["scale"],
                                     get_densities(settings["data"]))
    # Only now the patches asked for are picked: ice in a patch beside has its boundary here too.
    side = patches["thk"].shape[-1]
    return {name: cut_patches(mask, side)[patch_indices] for name, mask in masks.items()}


def score_patch_intervals(by_method, label, cells, topg, patch_indices, settings, spread):
    """Score the prediction intervals of a calibrated run; return {} for any other.

    by_method: {method: thickness}; label, cells: of the same patches, (patch, y, x) [m].
    by_surface_type: uncertainty.score_intervals in every type and in all cells; constant_width:
    the same of intervals with one width per surface type, {method: {type: scores}};
    patch_volume_coverage: share of the patches whose volume is in its 90 % interval;
    volume_half_width_km3: the mean half-width of these.
    Cells that the coarse map determines (NaN in spread) are left out.
    """
    if "uncertainty" not in settings or spread is None:
        return {}
    fit, thk = settings["uncertainty"], by_method["model"]
    bed = topg[patch_indices, -1] if needs_topg(settings) else None
    predicted_types = uncertainty.classify_patches(thk, bed, settings)
    half_width_m = uncertainty.compute_half_width(spread, thk, predicted_types, fit)
    # Where the coarse map determines the thickness, any interval contains it: that is no merit.
    undetermined = np.isfinite(spread)
    cells = {name: undetermined & mask for name, mask in cells.items()} | {"all": undetermined}
    # What the ensemble spread has to beat: one width for all cells of a surface type.
    constant_width = {}
    for method in fit["constant_width"].keys() & by_method.keys():
        constant = fit["constant_width"][method]
        constant_width_m = uncertainty.expand_by_type(
            constant["half_width_m"], predicted_types, label.shape)
        constant_width[method] = {name: uncertainty.score_intervals(
            by_method[method] - label, constant_width_m, mask, constant["error_quantiles"])
            for name, mask in cells.items()}
    # Volumes of patches are compared as sums of thickness [m].
    volume_error = np.abs((thk - label).sum(axis=(1, 2), dtype=float))  # (patch,)
    volume_half_width = uncertainty.half_width_of_sum(half_width_m, predicted_types, fit,
                                                      axis=(1, 2))
    return {
        "by_surface_type": {name: uncertainty.score_intervals(
            thk - label, half_width_m, mask, fit["error_quantiles"])
            for name, mask in cells.items()},
        "constant_width": constant_width,
        "patch_volume_coverage": float(np.mean(volume_error <= volume_half_width)),
        "volume_half_width_km3": float(
            volume_half_width.mean() * settings["data"]["spacing_m"]**2 / 1e9)}


def collect_calibration_sample(layers, fields, settings):
    """Collect the calibration sample for uncertainty.fit_intervals from some crops: a dict.

    layers: as many stages as the scale of the settings needs; fields: thk, topg of the crops at
    every level, two lists of (patch, y, x) [m]
    """
    sample = {name: np.stack(utils.build_levels(
        levels[-1], settings["scale"], settings["data"]["degrade"], "fine"), axis=1)
        for name, levels in zip(("thk", "topg"), fields, strict=True)}  # (patch, level, y, x)
    if not needs_topg(settings):
        sample["topg"] = None
    sample_indices, label = np.arange(len(sample["thk"])), sample["thk"][:, -1]
    predictions, spread = model.predict_patches(layers, sample, settings, sample_indices)
    thk_by_method = model.add_baselines(predictions[-1], sample, sample_indices, settings)
    bed = None if sample["topg"] is None else sample["topg"][:, -1]
    types = uncertainty.classify_patches(thk_by_method["model"], bed, settings)
    # Where the coarse map determines the thickness there is nothing to be uncertain about.
    undetermined = np.isfinite(spread)
    types = {"all": undetermined} | {name: undetermined & cells for name, cells in types.items()}
    errors = {method: thk - label for method, thk in thk_by_method.items()}
    return {"errors": errors, "spread": spread, "thk": thk_by_method["model"], "types": types}


def draw_calibration_crops(patches, settings):
    """Draw crops as in training, but of an epoch that is none of it: 0; of all kinds of data.

    patches: or the list of training maps, which are not augmented
    Returns a list of thk, topg at every level: of the training and, if any, validation patches.
    """
    if isinstance(patches, list):
        return [training_maps.draw_map_crops(
            patches, settings | {"thin_ice_share": 0.0, "cut_ice_share": 0.0}, epoch=0)]
    return [crops.draw_training_patches(
        patches, indices, crops.find_crop_positions(patches, indices, settings), settings, epoch=0)
        for indices in training_and_validation_indices(patches, settings) if len(indices)]


def calibrate(run, patches):
    """Fit the prediction intervals of a run and write them to its settings.json.

    patches: or the list of training maps. A run with shared weights is calibrated for the smaller
    scales too, that is for its last stages alone.
    """
    settings = checkpoints.read_settings(run)
    if not settings["self_ensemble"]:
        raise InputError(f"run {run} has self_ensemble = false; calibration needs the ensemble "
                         "spread. Train a run with self_ensemble = true")
    layers, _ = load_layers(settings)
    draws = draw_calibration_crops(patches, settings)

    def collect_samples(scale):
        return [collect_calibration_sample(model.take_last_stages(layers, scale), fields,
                                           settings | {"scale": scale}) for fields in draws]

    fits = fit_scales(settings, collect_samples)
    if fits:
        write_fits(settings, fits)


def fit_scales(settings, collect_samples, is_held_out=False):
    """Fit the prediction intervals of a run for every scale that it serves: {scale: fit}.

    collect_samples(scale): the samples for uncertainty.fit_intervals; is_held_out: see there
    Returns {} without any ice to calibrate on.
    """
    fits = {}
    for scale in [scale for scale in SCALES if scale == settings["scale"] or (
            scale < settings["scale"] and settings.get("shared_weights"))]:
        samples = [sample for sample in collect_samples(scale) if sample["types"]["all"].any()]
        if not samples:
            print("warning: not calibrated: there is no ice in the patches that were drawn for it")
            return {}
        fits[scale] = fit = uncertainty.fit_intervals(
            samples, settings["channels"] == "normalised", is_held_out)
        fit |= members.fit_members(samples, fit, settings | {"scale": scale},
                                   model.remove_thin_ice_compiled)
        factors = ", ".join(f"{name} {value:.2f}"
                            for name, value in fit["coverage_factors"].items())
        print(f"{scale}x calibrated on {fit['n_patches']['all']} training and {fit['n_held_out']} "
              f"held-out patches: coverage factors {factors}")
    return fits


def write_fits(settings, fits):
    """Write fitted intervals {scale: of uncertainty.fit_intervals} to the settings of a run."""
    smaller = {str(scale): fit for scale, fit in fits.items() if scale < settings["scale"]}
    checkpoints.write_settings(settings | {"uncertainty": fits[settings["scale"]]} | (
        {"uncertainty_of_scales": smaller} if smaller else {}))


def evaluate(run, input_file=None, n_rows=figures.COMPARISON_ROWS, all_patches=False,
             make_figures=True, options=None):
    """Evaluate a run on its test patches: tables on screen and in results/<run>/; return metrics.

    input_file: the map to recreate the patches from if they are missing; options: of
    map_layout.parse_map_options; n_rows: rows of comparison.png; all_patches: maps of every patch
    too. With other densities than the run's, the results go to a folder in results/<run>/.
    """
    settings = checkpoints.read_settings(run)
    if "maps" in settings["data"]:
        raise InputError(f"run {run} was trained on whole maps and has no test patches; test it on "
                         f"a map: python downscale.py MAP.nc --run {run} --reconstruct")
    patches = prepare_data.load_or_make_patches(
        run, settings["scale"], input_file, run_settings=settings, options=options)[1]
    layers, checkpoint_info = load_layers(settings)
    # A table of runs reads results/<run>/metrics.json: other densities must not change that.
    folder, own_densities = files.RESULTS / run, get_densities(settings["data"])
    settings = with_densities(settings, (options or {}).get("densities"))
    densities = get_densities(settings["data"])
    if densities != own_densities:
        folder /= "densities_{:g}_{:g}".format(*densities)

    test = find_patches_in_split(patches, "test")
    # window.png shows all patches; without figures only those of the test are predicted.
    patch_indices = np.arange(len(patches["thk"])) if make_figures else test
    predictions, spread = model.predict_patches(layers, patches, settings, patch_indices)
    is_test = np.isin(patch_indices, test)
    metrics = compute_metrics(predictions[:, is_test], patches, settings, test,
                              spread[is_test]) | checkpoint_info
    files.write_table(folder / "metrics.csv", flatten_metrics(metrics))
    files.write_json(folder / "metrics.json", metrics)  # last: a run that has it is finished
    print_metrics(metrics)
    if make_figures:
        by_method = model.add_baselines(predictions[-1], patches, patch_indices, settings)
        save_figures(folder, metrics, patches, by_method, n_rows, all_patches)
    if densities != own_densities:
        print("warning: these are no results of run {} itself, whose densities are {:g} and {:g}; "
              "they are in {}".format(run, *own_densities, folder))
    return metrics


def print_metrics(metrics):
    """Print the tables of an evaluation."""
    print(f"\n{figures.figure_title(metrics)}\n{metrics['n_test']} test patches; MSE ratio: MSE "
          "over bicubic's; win rate: share of patches in which the network has the lower RMSE\n")
    print_metrics_table(flatten_metrics(metrics))
    print()
    print_score_table(metrics["by_surface_type"] | {"all": metrics["test"]})
    print()
    print_ice_extent_table(metrics["test"]["errors"])
    uncertainty.print_interval_scores(metrics)


def save_figures(folder, metrics, patches, by_method, n_rows, all_patches):
    """Draw the figures of an evaluation and write them to a folder.

    by_method: {method: thickness of all patches, (patch, y, x) [m]}.
    """
    by_method = {method: by_method[method] for method in figures.MAPPED_METHODS
                 if method in by_method}
    history = checkpoints.read_history(metrics["run"])  # none, where weights alone were copied
    plots = {"comparison": figures.plot_comparison(metrics, patches, by_method, n_rows),
             "window": figures.plot_window(metrics, patches, by_method),
             **({"training": figures.plot_training(metrics, history)} if history else {}),
             "patches": figures.plot_rmse_scatter(metrics, patches, by_method),
             "spectrum": figures.plot_spectrum(metrics)}
    if metrics["uncertainty"]:
        plots["reliability"] = figures.plot_reliability(metrics)
    provenance = {key: metrics[key] for key in ("settings", "citation", "weights_sha256")}
    for name, figure in plots.items():
        figures.save_figure(figure, folder / f"{name}.png", provenance)
    # One at a time: every test patch has a figure for each method.
    panels = figures.plot_patch_panels(metrics, patches, by_method) if all_patches else ()
    for name, figure in panels:
        figures.save_figure(figure, folder / "patches" / f"{name}.png", provenance)
    print(f"\nfigures  {folder / 'comparison.png'}  and "
          + ", ".join(f"{name}.png" for name in plots if name != "comparison"))


def compare_runs(run_names):
    """Compare runs: a table on screen and in results/compare_<run>+<run>.csv, and a figure."""
    metrics_of_runs = [read_metrics(run) for run in run_names]
    rows = [row | {"part": metrics["run"]} for metrics in metrics_of_runs
            for row in flatten_metrics(metrics) if row["part"] == "test"]
    print_metrics_table(rows)
    # Errors of other patches do not compare: some regions are harder than others.
    for key in ("source", "degrade", "split", "split_seed", "n_test"):
        values = dict.fromkeys(str(metrics[key]) for metrics in metrics_of_runs)
        if len(values) > 1:
            print(f"warning: the runs differ in {key} ({', '.join(values)}): not the same test")

    # No run's name has a +, so no other comparison has this file.
    name = f"compare_{'+'.join(run_names)}"
    files.write_table(files.RESULTS / f"{name}.csv", rows)
    histories = [checkpoints.read_history(run) for run in run_names]
    figure = figures.plot_error_against_time(metrics_of_runs, histories)
    if figure is not None:
        path = files.RESULTS / f"{name}_training.png"
        figures.save_figure(figure, path, {
            metrics["run"]: metrics["settings"] for metrics in metrics_of_runs})
        print(f"\nfigure   {path}")


def write_summary_table(name, runs_by_fold):
    """Write one table of runs that differ in fold and seed: on screen, and results/<name>.csv.

    runs_by_fold: {"fold 1" ..., or "test" without folds: [run of each seed]}, all evaluated.
    Rows: every fold, medians over its seeds; mean of folds; all patches, every test patch once.
    mse_ratio_<method>: MSE of the network over that method's; ..._range: highest less lowest seed;
    ..._std: standard deviation of the folds.
    """
    by_fold = {part: [read_metrics(run) for run in runs] for part, runs in runs_by_fold.items()}
    rows = [summary_row(part, [[metrics] for metrics in seeds]) for part, seeds in by_fold.items()]
    if len(rows) > 1:  # pooled: for every seed all folds, which hold out every patch once
        rows += [mean_of_folds(rows),
                 summary_row("all patches", list(zip(*by_fold.values(), strict=True)))]
    first = next(iter(by_fold.values()))[0]
    provenance = {key: first[key] for key in ("source", "degrade", "recipe")}
    path = files.RESULTS / f"{name}.csv"
    files.write_table(path, [row | provenance | {"command": command_line.command_text()}
                             for row in rows])
    print()
    print_summary(rows)
    print(f"\ntable    {path}")


def main(argv=None):
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc",
                        help="map from which to recreate the run's patches if they are missing")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="compare evaluated runs")
    parser.add_argument("--rows", type=int, metavar="N",
                        help=f"rows of comparison.png (default {figures.COMPARISON_ROWS})")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.rows is not None and args.rows < 1:
        raise InputError(f"--rows {args.rows}: expected 1 or more")
    figures.select_backend(args.show)
    if args.compare:  # all else is known of the runs
        for name, value in vars(args).items():
            if value and name not in ("compare", "show"):
                raise InputError("--compare can be combined only with --show; remove "
                                 f"--{name.replace('_', '-')}")
        compare_runs([command_line.check_run_name(run) for run in args.compare])
    else:
        options = map_layout.parse_map_options(args)
        run = command_line.check_run_name(
            args.run if args.run is not None else f"x{args.scale or 8}")
        files.choose_checkpoints(run)  # this program reads runs and writes none
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
