"""Errors, scores and spectra of thickness against a label or reference map, and tables of them.

*Scores* are a dict: n_cells; errors {method: compute_errors}; mse_ratio {other method: MSE of the
model / its MSE}, without methods that have no error to speak of (MIN_BASELINE_RMSE_M). Without
cells both are empty. Functions take thickness as {method: array [m]}, of the label's shape.
"""

import numpy as np

import utils
from icesheet import command_line
from icesheet.settings import SCALES

METHOD_STYLES = {  # methods that are compared with the label: name and colour
    "bicubic": ("bicubic", "#969696"),
    "surface_minus_bed": ("surface minus bed", "#e6550d"),  # no network; needs a bed
    "surface_minus_bed_consistent": ("surface minus bed, consistent", "#fdae6b"),  # no network
    "model": ("network", "#08519c"),
}
SHORT_NAMES = {  # for narrow tables
    method: name.replace("surface minus ", "surf.−").replace("consistent", "cons.")
    for method, (name, _) in METHOD_STYLES.items()}
MIN_BASELINE_RMSE_M = 0.01  # a method with less has no error to compare with
SCORES_SCHEMA = {  # what is read of metrics.json, see settings.find_schema_error
    "errors": {None: dict.fromkeys(("mse", "rmse_m", "mae_m", "bias_m"), float),
               "bicubic": {}, "model": {}},
    "win_rate": {None: float}}
METRICS_SCHEMA = {
    **dict.fromkeys(("run", "recipe", "source", "degrade", "split", "command", "weights_sha256"),
                    str),
    "scale": SCALES, "synthetic": bool, "epoch": int, "n_test": int, "split_seed": int,
    "test": SCORES_SCHEMA, "settings": dict,
    "stages": [SCORES_SCHEMA | {"from_km": float, "to_km": float}]}


def compute_rmse_m(thk, label, axis=None):
    """Return the root mean square of thk - label [m], over everything or over `axis`."""
    return np.sqrt(np.mean((np.asarray(thk, np.float64) - label) ** 2, axis=axis))


def compute_patch_rmse_m(by_method, label):
    """Return the RMSE of every patch: {method: (patch,) [m]}; fields are (patch, y, x) [m]."""
    return {method: compute_rmse_m(thk, label, axis=(1, 2)) for method, thk in by_method.items()}


def compute_errors(thk, label, thk_max_m, spacing_m):
    """Return the errors of a thickness against the label, both of any shape [m].

    mse: mean of ((thk - label) / thk_max_m)^2, the quantity that the original calls RMSE.
    rmse_m, mae_m, bias_m: of thk - label [m]. volume_error_km3: of the ice volume.
    false_ice_km2, missed_ice_km2: area that is ice (utils.is_ice) in thk alone, in the label alone.
    volume_error_percent, ice_area_error_percent: of the label's, absent if it has no ice.
    Areas are those of the projection, spacing_m squared a cell: its scale (up to some per cent away
    from the latitude of true scale) is not corrected for.
    """
    difference, cell_km2 = np.asarray(thk, np.float64) - label, spacing_m**2 / 1e6
    is_ice, label_is_ice = utils.is_ice(thk), utils.is_ice(label)
    n_false, n_missed, n_ice = map(np.count_nonzero, (
        is_ice & ~label_is_ice, label_is_ice & ~is_ice, label_is_ice))
    values = {"mse": np.mean((difference / thk_max_m) ** 2), "rmse_m": compute_rmse_m(thk, label),
              "mae_m": np.mean(np.abs(difference)), "bias_m": np.mean(difference),
              "volume_error_km3": difference.sum() * cell_km2 / 1000,
              "false_ice_km2": n_false * cell_km2, "missed_ice_km2": n_missed * cell_km2}
    if n_ice:
        values |= {"volume_error_percent": 100 * difference.sum() / np.sum(label, dtype=np.float64),
                   "ice_area_error_percent": 100 * (n_false - n_missed) / n_ice}
    return {name: float(value) for name, value in values.items()}


def score_methods(by_method, label, cells, thk_max_m, spacing_m):
    """Return the scores (see the top of this file) of every method in some cells, a bool array."""
    scores = {"n_cells": int(np.count_nonzero(cells)), "errors": {}, "mse_ratio": {}}
    if scores["n_cells"]:
        scores["errors"] = {method: compute_errors(thk[cells], label[cells], thk_max_m, spacing_m)
                            for method, thk in by_method.items()}
        scores["mse_ratio"] = compute_mse_ratios(scores["errors"])
    return scores


def compute_mse_ratios(errors_by_method):
    """Return the MSE of the model over that of every other method that has an error."""
    return {method: errors_by_method["model"]["mse"] / errors["mse"]
            for method, errors in errors_by_method.items()
            if method != "model" and errors["rmse_m"] >= MIN_BASELINE_RMSE_M}


def score_patches(by_method, label, data):
    """Return the scores over all cells of patches, and win_rate {other method: share}.

    The win rate is the share of patches in which the model has the lower RMSE.
    """
    rmse = compute_patch_rmse_m(by_method, label)
    return score_methods(by_method, label, np.ones(label.shape, bool), data["thk_max_m"],
                         data["spacing_m"]) | {
        "win_rate": {method: float((rmse["model"] < rmse[method]).mean())
                     for method in by_method if method != "model"}}


def power_spectrum(fields, spacing_m):
    """Return the radially averaged power spectrum of fields (patch, y, x) [m], the mean of patches.

    P = <|FFT((f - mean f) w)|^2> dx^2 / sum(w^2) with the Hann window w, averaged over rings of
    wavenumber that are one cycle per patch wide, out to two cells per wave.
    Returns wavenumber (ring,) [cycles km-1] and power (ring,) [m2 km2], a density in the plane of
    wavenumbers whose integral is the variance: noise of variance s2 has s2 dx^2 throughout.
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
    """Return the spectra of label and methods (patch, y, x), and the methods' sub-grid power.

    spectrum: wavelength_km (ring,); label (ring,) and power {method: (ring,)} [m2 km2];
    explained {method: (ring,)}: 1 - power of the error / power of the label (1: right in size and
    place, 0: no better than nothing, below 0: worse).
    sub_grid_power: {method: {power, explained}} of the wavelengths that the coarse grid cannot
    represent, shorter than two of its cells; power is over the label's.
    """
    spacing_m = settings["data"]["spacing_m"]
    wavenumber, label_power = power_spectrum(label, spacing_m)
    label_power = np.maximum(label_power, 1e-9)  # a flat label has none
    # The area of a ring, and so its part of the variance, grows with the wavenumber.
    ring_weight = wavenumber * (wavenumber > 1000 / (2 * settings["scale"] * spacing_m))
    spectrum = {"wavelength_km": (1 / wavenumber).tolist(), "label": label_power.tolist(),
                "power": {}, "explained": {}}
    sub_grid_power = {}
    for method, thk in by_method.items():
        power, error = (power_spectrum(field, spacing_m)[1] for field in (thk, thk - label))
        spectrum["power"][method] = power.tolist()
        spectrum["explained"][method] = (1 - error / label_power).tolist()
        sub_grid_power[method] = {
            "power": float(ring_weight @ power / (ring_weight @ label_power)),
            "explained": float(1 - ring_weight @ error / (ring_weight @ label_power))}
    return spectrum, sub_grid_power


def flatten_metrics(metrics):
    """Return the rows of metrics.csv: one for every stage and method, the whole chain last.

    mse_ratio: MSE of the method over bicubic's; win_rate: see score_patches.
    """
    full_chain = metrics["test"] | {"from_km": metrics["stages"][0]["from_km"],
                                    "to_km": metrics["stages"][-1]["to_km"]}
    rows = []
    for part, scores in [*((f"stage {k}", stage) for k, stage in enumerate(metrics["stages"], 1)),
                         ("test", full_chain)]:
        bicubic = scores["errors"]["bicubic"]
        for method, errors in scores["errors"].items():
            row = {"run": metrics["run"], "part": part, "from_km": scores["from_km"],
                   "to_km": scores["to_km"], "method": method, **errors,
                   **{key: metrics[key] for key in ("source", "synthetic", "degrade", "split",
                                                    "command")}}
            if bicubic["rmse_m"] >= MIN_BASELINE_RMSE_M:
                row["mse_ratio"] = errors["mse"] / bicubic["mse"]
            if method in scores["win_rate"]:
                row["win_rate"] = scores["win_rate"][method]
            rows.append(row)
    return rows


def print_metrics_table(rows):
    """Print rows of flatten_metrics as a table."""
    command_line.print_table([("", "method", "km", "MSE / max2", "RMSE m", "MAE m", "bias m",
                               "MSE ratio", "win rate")] + [
        (row["part"], METHOD_STYLES[row["method"]][0], f"{row['from_km']:g} > {row['to_km']:g}",
         f"{row['mse']:.2e}", f"{row['rmse_m']:.1f}", f"{row['mae_m']:.1f}",
         f"{row['bias_m']:+.1f}", f"{row['mse_ratio']:.3f}" if "mse_ratio" in row else "-",
         f"{row['win_rate']:.0%}" if "win_rate" in row else "") for row in rows])


def print_score_table(scores_by_name):
    """Print {name: scores} as a table: RMSE, bias and error in volume of every method."""
    methods = [method for method in METHOD_STYLES
               if any(method in scores["errors"] for scores in scores_by_name.values())]
    headings = (("rmse_m", "RMSE m", ".1f"), ("bias_m", "bias m", "+.1f"),
                ("volume_error_percent", "volume %", "+.2f"))
    columns = [(key, form, method) for key, _, form in headings for method in methods]
    command_line.print_table([
        ("", "", *(heading if method == methods[0] else "" for _, heading, _ in headings
                   for method in methods)),
        ("", "cells", *(SHORT_NAMES[method] for _, _, method in columns)),
        *((name, str(scores["n_cells"]),
           *(f"{scores['errors'][method][key]:{form}}"
             if key in scores["errors"].get(method, {}) else "-" for key, form, method in columns))
          for name, scores in scores_by_name.items())])


def print_ice_extent_table(errors, extra_columns=None):
    """Print the MAE and the ice extent of every method.

    errors: {method: compute_errors}; extra_columns: {method: {heading: text}}.
    """
    extra_columns = extra_columns or {}
    command_line.print_table([
        ("", "MAE m", "false ice km2", "missed ice km2", "ice area %",
         *next(iter(extra_columns.values()), {}))] + [
        (METHOD_STYLES[method][0], f"{entry['mae_m']:.1f}", f"{entry['false_ice_km2']:.0f}",
         f"{entry['missed_ice_km2']:.0f}", f"{entry['ice_area_error_percent']:+.2f}"
         if "ice_area_error_percent" in entry else "-",
         *extra_columns.get(method, {}).values()) for method, entry in errors.items()])


def pooled_mse(metrics_of_folds, method):
    """Return the MSE of a method over all test patches of some folds [m2]."""
    return np.average(
        [metrics["test"]["errors"][method]["rmse_m"] ** 2 for metrics in metrics_of_folds],
        weights=[metrics["n_test"] for metrics in metrics_of_folds])


def summary_row(name, metrics_by_seed):
    """Return a row of evaluate.write_summary_table: medians over seeds, and the range of ratios.

    metrics_by_seed: for every seed a list, the metrics of its folds, whose test patches are pooled.
    """
    first_seed = metrics_by_seed[0]
    mse = {method: np.array([pooled_mse(folds, method) for folds in metrics_by_seed])  # (seed,)
           for method in first_seed[0]["test"]["errors"]}
    row = {"part": name, "n_test": sum(metrics["n_test"] for metrics in first_seed),
           "seeds": len(metrics_by_seed),
           **{f"{method}_rmse_m": float(np.sqrt(np.median(mse[method]))) for method in mse}}
    for method in ("bicubic", "surface_minus_bed"):
        if method in mse and mse[method].min() >= MIN_BASELINE_RMSE_M**2:
            ratio = mse["model"] / mse[method]
            row |= {f"mse_ratio_{method}": float(np.median(ratio)),
                    f"mse_ratio_{method}_range": float(np.ptp(ratio))}
    return row


def mean_of_folds(rows):
    """Return the mean of the rows of folds, and the standard deviation of their MSE ratios."""
    values = {key: [row[key] for row in rows] for key in rows[0]
              if all(key in row for row in rows) and key != "part" and not key.endswith("_range")}
    return {"part": "mean of folds"} | {key: float(np.mean(values[key])) for key in values} | {
        f"{key}_std": float(np.std(values[key], ddof=1)) for key in values if "ratio" in key}


def print_summary(rows):
    """Print rows of summary_row and mean_of_folds as a table."""
    methods = [method for method in METHOD_STYLES if f"{method}_rmse_m" in rows[0]]
    compared = [method for method in methods if f"mse_ratio_{method}" in rows[0]]
    table = [("", "patches", "seeds", *(f"{SHORT_NAMES[method]} m" for method in methods),
              *(f"MSE ratio to {SHORT_NAMES[method]}" for method in compared), "± is the")]
    for row in rows:
        suffix, meaning = (("std", "std of folds") if row["part"] == "mean of folds" else
                           ("range", "range of seeds"))
        table.append((
            row["part"], f"{row['n_test']:g}", f"{row['seeds']:g}",
            *(f"{row[f'{method}_rmse_m']:.1f}" for method in methods),
            *(f"{row[f'mse_ratio_{method}']:.3f} ± {row[f'mse_ratio_{method}_{suffix}']:.3f}"
              if f"mse_ratio_{method}" in row else "-" for method in compared), meaning))
    command_line.print_table(table)
