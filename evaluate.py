"""Score and plot the test patches of a run: bicubic, surface base, model and label; compare runs.

    python evaluate.py --scale 8                     # the run x8
    python evaluate.py --run wide --patches 10       # another run, more rows in comparison.png
    python evaluate.py --run wide --all-patches      # maps of every test patch
    python evaluate.py --compare x8 wide             # one table, one figure

Reads checkpoints/<run>/ and its patches; writes metrics.json, metrics.csv and figures to
results/<run>/. Nothing is trained here. Whole maps and hindcasts are made by downscale.py.
"""

import numpy as np

import figures
import maps
import model
import prepare_data
import runs
import uncertainty
import utils
from figures import METHODS
from icesheet.device import set_up_device
from utils import InputError

SCORES = {  # what is read of metrics.json, see runs.misfit
    "errors": {None: dict.fromkeys(("mse", "rmse_m", "mae_m", "bias_m"), float),
               "bicubic": {}, "model": {}},
    "won": {None: float}}
METRICS = {
    **dict.fromkeys(("run", "recipe", "source", "degrade", "split", "command", "weights_sha256"),
                    str),
    "scale": utils.SCALES, "synthetic": bool, "epoch": int, "n_test": int, "split_seed": int,
    "test": SCORES, "stages": [SCORES | {"from_km": float, "to_km": float}], "settings": dict}


def read_metrics(run):
    """The metrics of a run, from results/<run>/metrics.json; InputError where there are none."""
    path = utils.RESULTS / run / "metrics.json"
    again = " again" if path.exists() else " first"
    return runs.read_checked(path, METRICS, f"evaluate the run{again}: python evaluate.py --run "
                             f"{run}")


# ---------------------------------------------------------------- scores


def score_patches(by_method, label, data):
    """utils.score over all cells of some patches, and won: {other method: share of the patches}.

    by_method: {method: (patch, y, x) m}, label: the same; won: where the model's RMSE is lower.
    """
    rmse = utils.patch_rmse_m(by_method, label)
    return utils.score(by_method, label, np.ones(label.shape, bool), data["thk_max_m"],
                       data["spacing_m"]) | {
        "won": {method: float((rmse["model"] < rmse[method]).mean())
                for method in by_method if method != "model"}}


def measure(predictions, patches, settings, numbers, spread=None):
    """Metrics of predictions (stage, patch, y, x) m for the patches of these numbers: a dict.

    test: score_patches against the label, of every method there is (see model.with_baselines).
    by_type, uncertainty: see score_types; spectrum, detail: see measure_spectra.
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
    n_train, n_validation = map(len, prepare_data.training_numbers(patches, settings))
    by_type, intervals = score_types(by_method, patches, settings, numbers, spread)
    return {
        "run": settings["run"], "scale": settings["scale"], "recipe": settings["recipe"],
        **{key: data[key] for key in ("synthetic", "source", "source_title", "citation", "degrade",
                                      "thk_max_m")},
        "split": prepare_data.split_text(data), "seed": settings["seed"],
        "split_seed": data["seed"],
        "n_train": n_train, "n_validation": n_validation, "n_test": len(numbers),
        "test": {key: stages[-1][key] for key in ("n_cells", "errors", "ratio", "won")},
        "by_type": by_type, "uncertainty": intervals, "detail": detail,
        "stages": stages, "spectrum": spectrum, "settings": settings,
        "versions": utils.versions(), "command": utils.command(),
    }


def score_types(by_method, patches, settings, numbers, spread=None):
    """utils.score by what the label has in a cell: {type: score}, see utils.cells_by_type.

    by_method: {method: (patch, y, x) m} of these patches. The margin reaches two coarse cells, and
    across the edges of patches. Second, of a calibrated run (else {}), where the spread is not NaN:
    by_type: uncertainty.score_intervals; constant: the same of every method if its intervals had
    one width for each surface type; volume_within: share of the patches whose volume is in its
    90 % interval, volume_half_width_km3: the mean of those.
    """
    thk, topg = (None if patches[name] is None else
                 prepare_data.assemble(patches[name][:, -1], patches) for name in ("thk", "topg"))
    label, data = patches["thk"][numbers, -1], settings["data"]
    types = utils.cells_by_type(thk, topg, 2 * settings["scale"], utils.densities_of(data))
    cells, cell_m = {name: prepare_data.cut_patches(field, label.shape[-1])[numbers]
                     for name, field in types.items()}, data["spacing_m"]
    scores = {name: utils.score(by_method, label, of_type, data["thk_max_m"], cell_m)
              for name, of_type in cells.items()}
    if "uncertainty" not in settings or spread is None:
        return scores, {}
    fit, error, free = settings["uncertainty"], by_method["model"] - label, np.isfinite(spread)
    bed = patches["topg"][numbers, -1] if model.needs_topg(settings) else None
    predicted = uncertainty.types_of_patches(by_method["model"], bed, settings)
    width = uncertainty.half_width(spread, by_method["model"], predicted, fit)
    volume = np.abs(error.sum(axis=(1, 2), dtype=float))  # as a sum of thickness [m]
    wide = uncertainty.sum_half_width(width, predicted, fit, axis=(1, 2))
    cells = {name: free & of_type for name, of_type in (cells | {"all": free}).items()}
    constant = {}
    for name in fit["constant"].keys() & by_method.keys():
        of_method = fit["constant"][name]
        one = uncertainty.of_types(of_method["half_width_m"], predicted, label.shape)
        constant[name] = {kind: uncertainty.score_intervals(
            by_method[name] - label, one, of_type, of_method["shape"])
            for kind, of_type in cells.items()}
    return scores, {
        "by_type": {kind: uncertainty.score_intervals(error, width, of_type, fit["shape"])
                    for kind, of_type in cells.items()},
        "constant": constant, "volume_within": float(np.mean(volume <= wide)),
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
    """Print the other utils.errors of every method; checks: more, {method: {heading: text}}."""
    utils.print_table([
        ("", "MAE m", "false ice km2", "lost ice km2", "ice area %",
         *next(iter((checks or {"": {}}).values())))] + [
        (METHODS[method][0], f"{entry['mae_m']:.1f}", f"{entry['false_ice_km2']:.0f}",
         f"{entry['lost_ice_km2']:.0f}", f"{entry['ice_area_error_percent']:+.2f}"
         if "ice_area_error_percent" in entry else "-",
         *(checks or {}).get(method, {}).values()) for method, entry in errors.items()])


def print_uncertainty(metrics):
    """Print how sure the model is on the test patches, and what is to be beaten; or nothing."""
    found = metrics["uncertainty"]
    if not found:
        return
    uncertainty.print_intervals(found["by_type"])
    print()
    kinds = [kind for kind, entry in found["by_type"].items() if entry]
    rows = {"intervals of the model": found["by_type"]} | {
        f"one width a type, {METHODS[method][0]}": found["constant"][method]
        for method in METHODS if method in found["constant"]}
    utils.print_table([("CRPS m", *kinds)] + [
        (name, *(f"{entry[kind]['crps_m']:.2f}" for kind in kinds))
        for name, entry in rows.items()])
    print(f"volume of a patch: ± {found['volume_half_width_km3']:.0f} km3, right in "
          f"{found['volume_within']:.0%} of the {metrics['n_test']}")


# ---------------------------------------------------------------- the two jobs


def evaluate(run, input_file=None, count=figures.PATCHES, all_patches=False, draw=True,
             options=None):
    """Evaluate a run on its test patches: table on screen, results/<run>/; returns the metrics.

    input_file: the map to make the patches from where they are missing, options: see
    maps.map_options; count: rows of comparison.png. Without draw only metrics.json and metrics.csv
    are written.
    """
    settings = runs.read_settings(run)
    patches = prepare_data.find_patches(run, settings["scale"], input_file, trained=settings,
                                        options=options)[1]
    layers = runs.load_layers(settings)
    about = {"epoch": runs.best_checkpoint(settings)[1],
             "weights_sha256": runs.weights_sha256(run)}
    settings = utils.with_densities(settings, (options or {}).get("densities"))
    numbers, all_numbers = prepare_data.in_split(patches, "test"), np.arange(len(patches["thk"]))
    predicted = all_numbers if draw else numbers  # the window is a figure
    predictions, spread = model.predict_patches(layers, patches, settings, predicted)
    history = runs.read_history(run)
    tested = np.isin(predicted, numbers)
    metrics = measure(predictions[:, tested], patches, settings, numbers, spread[tested]) | about
    folder = utils.RESULTS / run
    utils.write_table(folder / "metrics.csv", metrics_rows(metrics))
    utils.write_json(folder / "metrics.json", metrics)  # last: a run that has it is finished
    print(f"\n{figures.headline(metrics)}\n{metrics['n_test']} test patches; ratio: MSE over that "
          "of bicubic; won: share of patches in which the model is better\n")
    print_rows(metrics_rows(metrics))
    print()
    print_scores(metrics["by_type"] | {"all": metrics["test"]})
    print()
    print_methods(metrics["test"]["errors"])
    print_uncertainty(metrics)
    if not draw:
        return metrics

    by_method = {method: thk for method, thk in model.with_baselines(
        predictions[-1], patches, all_numbers, settings).items() if method in figures.MAPPED}
    made_by = {key: metrics[key] for key in ("settings", "citation", "weights_sha256")}
    plots = {"comparison": figures.plot_comparison(metrics, patches, by_method, count),
             "window": figures.plot_window(metrics, patches, by_method),
             **({"training": figures.plot_training(metrics, history)} if history else {}),
             "patches": figures.plot_patches(metrics, patches, by_method),
             "spectrum": figures.plot_spectrum(metrics)}
    if metrics["uncertainty"]:
        plots["reliability"] = figures.plot_reliability(metrics)
    for name, figure in plots.items():
        figures.save(figure, folder / f"{name}.png", made_by)
    each = figures.plot_each_patch(metrics, patches, by_method) if all_patches else ()
    for name, figure in each:
        figures.save(figure, folder / "patches" / f"{name}.png", made_by)
    print(f"\nfigures  {folder / 'comparison.png'}  and "
          + ", ".join(f"{name}.png" for name in plots if name != "comparison"))
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
    figure = figures.plot_times(metrics_of_runs, title)
    if figure is not None:
        figures.save(figure, path,
                     {metrics["run"]: metrics["settings"] for metrics in metrics_of_runs})
        print(f"\nfigure   {path}")


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="evaluate the run x<scale>")
    parser.add_argument("--run", metavar="NAME", help="evaluate this run")
    parser.add_argument("--input", metavar="MAP.nc", help="the map, where its patches are missing")
    maps.add_map_arguments(parser)
    parser.add_argument("--compare", nargs="+", metavar="RUN", help="evaluated runs side by side")
    parser.add_argument("--patches", type=int, metavar="N",
                        help=f"rows of comparison.png (default {figures.PATCHES})")
    parser.add_argument("--all-patches", action="store_true", help="also maps of each test patch")
    parser.add_argument("--show", action="store_true", help="also show the figures on screen")
    args = parser.parse_args(argv)
    if args.patches is not None and args.patches < 1:
        raise InputError(f"--patches {args.patches}: expected 1 or more")
    figures.choose_screen(args.show)
    if args.compare:
        if any(value for name, value in vars(args).items() if name not in ("compare", "show")):
            raise InputError("--compare names the runs itself, of which all is known: it goes "
                             "with --show alone")
        compare([utils.check_run_name(run) for run in args.compare])
    else:
        options = maps.map_options(args)
        run = utils.check_run_name(args.run if args.run is not None else f"x{args.scale or 8}")
        scale = runs.read_settings(run)["scale"]
        if args.scale not in (None, scale):
            raise InputError(f"run {run} was trained for {scale}x, not {args.scale}x; leave out "
                             "--scale")
        set_up_device()
        evaluate(run, args.input, args.patches or figures.PATCHES, args.all_patches,
                 options=options)
    if args.show:
        figures.show()
    return 0


if __name__ == "__main__":
    utils.run_script(main)
