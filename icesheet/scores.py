"""icesheet.scores."""


import numpy as np

import utils
from icesheet import command_line
from icesheet.settings import SCALES

# ---- Settings ---------------------------------------------------------------------------------
METHOD_STYLES = {                    # what is compared with the label: name and colour
    "bicubic": ("bicubic", "#969696"),
    "surface_minus_bed": ("surface minus bed", "#e6550d"),  # no network; where there is a bed
    "surface_minus_bed_consistent": ("surface minus bed, consistent", "#fdae6b"),  # still none
    "model": ("model", "#08519c"),
}
MIN_BASELINE_RMSE_M = 0.01  # a method with less has no error to compare with: see ratios
SCORES_SCHEMA = {  # what is read of metrics.json, see settings.find_schema_error
    "errors": {None: dict.fromkeys(("mse", "rmse_m", "mae_m", "bias_m"), float),
               "bicubic": {}, "model": {}},
    "win_rate": {None: float}}
METRICS_SCHEMA = {
    **dict.fromkeys(("run", "recipe", "source", "degrade", "split", "command", "weights_sha256"),
                    str),
    "scale": SCALES, "synthetic": bool, "epoch": int, "n_test": int, "split_seed": int,
    "test": SCORES_SCHEMA, "stages": [SCORES_SCHEMA | {"from_km": float, "to_km": float}], "settings": dict}


def compute_rmse_m(thk, label, axis=None):
    """Root mean square of thk - label [m], over everything or over `axis`."""
    return np.sqrt(np.mean((np.asarray(thk, np.float64) - label) ** 2, axis=axis))


def compute_patch_rmse_m(by_method, label):
    """RMSE of each patch: {method: (patch,) m}; by_method {method: (patch, y, x) m} and label."""
    return {method: compute_rmse_m(thk, label, axis=(1, 2)) for method, thk in by_method.items()}


def compute_errors(thk, label, thk_max_m, spacing_m):
    """Errors of a thickness against the label, any shape, both in m: a dict.

    mse: mean square of (thk - label) / thk_max_m, the quantity that the original calls RMSE.
    compute_rmse_m, mae_m, bias_m (thk - label) [m].
    volume_error_km3: of the ice volume. false_ice_km2, missed_ice_km2: area that is ice (is_ice) in
    one of the two alone. volume_error_percent, ice_area_error_percent: of the label's; left out
    where no cell of it is ice. Cells are spacing_m squared, areas of the projection: its scale (up
    to some per cent away from the latitude of true scale) is not corrected for.
    """
    difference, cell_km2 = np.asarray(thk, np.float64) - label, spacing_m**2 / 1e6
    false, lost, ice = (np.count_nonzero(cells) for cells in (
        utils.is_ice(thk) & ~utils.is_ice(label), utils.is_ice(label) & ~utils.is_ice(thk), utils.is_ice(label)))
    values = {"mse": np.mean((difference / thk_max_m) ** 2), "rmse_m": compute_rmse_m(thk, label),
              "mae_m": np.mean(np.abs(difference)), "bias_m": np.mean(difference),
              "volume_error_km3": difference.sum() * cell_km2 / 1000,
              "false_ice_km2": false * cell_km2, "missed_ice_km2": lost * cell_km2}
    if ice:
        values |= {"volume_error_percent": 100 * difference.sum() / np.sum(label, dtype=np.float64),
                   "ice_area_error_percent": 100 * (false - lost) / ice}
    return {name: float(value) for name, value in values.items()}


def score_methods(thickness, label, cells, thk_max_m, spacing_m):
    """Score every method against the label in some cells, of patches or of a map: a dict.

    thickness: {method: thk [m]}, label [m], cells (bool): of one shape.
    n_cells; errors: {method: see errors}; ratio: {other method: MSE of the model / its MSE}, left
    out where the other has no error to speak of (RMSE below MIN_BASELINE_RMSE_M). Without cells both are
    empty.
    """
    scores = {"n_cells": int(np.count_nonzero(cells)), "errors": {}, "mse_ratio": {}}
    if scores["n_cells"]:
        scores["errors"] = {method: compute_errors(thk[cells], label[cells], thk_max_m, spacing_m)
                            for method, thk in thickness.items()}
        scores["mse_ratio"] = compute_mse_ratios(scores["errors"])
    return scores


def compute_mse_ratios(errors_by_method):
    """MSE of the model over that of every other method that has an error: {method: ratio}."""
    return {method: errors_by_method["model"]["mse"] / entry["mse"]
            for method, entry in errors_by_method.items()
            if method != "model" and entry["rmse_m"] >= MIN_BASELINE_RMSE_M}


def score_patches(by_method, label, data):
    """scores.score_methods over all cells of some patches, and won: {other method: share of the patches}.

    by_method: {method: (patch, y, x) m}, label: the same; won: where the model's RMSE is lower.
    """
    rmse = compute_patch_rmse_m(by_method, label)
    return score_methods(by_method, label, np.ones(label.shape, bool), data["thk_max_m"],
                       data["spacing_m"]) | {
        "win_rate": {method: float((rmse["model"] < rmse[method]).mean())
                for method in by_method if method != "model"}}


def flatten_metrics(metrics):
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
            if errors["bicubic"]["rmse_m"] >= MIN_BASELINE_RMSE_M:
                row["mse_ratio"] = of_method["mse"] / errors["bicubic"]["mse"]
            if method in entry["win_rate"]:
                row["win_rate"] = entry["win_rate"][method]
            rows.append(row)
    return rows


def print_metrics_table(rows):
    """Print rows of flatten_metrics as a table; the methods by their names."""
    command_line.print_table([("", "method", "km", "MSE / max2", "RMSE m", "MAE m", "bias m", "mse_ratio",
                        "win_rate")] + [
        (row["part"], METHOD_STYLES[row["method"]][0], f"{row['from_km']:g} > {row['to_km']:g}",
         f"{row['mse']:.2e}", f"{row['rmse_m']:.1f}", f"{row['mae_m']:.1f}",
         f"{row['bias_m']:+.1f}", f"{row['mse_ratio']:.3f}" if "mse_ratio" in row else "-",
         f"{row['win_rate']:.0%}" if "win_rate" in row else "") for row in rows])


def print_score_table(scores_by_name):
    """Print {name: scores.score_methods} as a table: RMSE, bias and error in volume of every method."""
    methods = [method for method in METHOD_STYLES
               if any(method in scores["errors"] for scores in scores_by_name.values())]
    columns = [(key, form, method) for key, form in (
        ("rmse_m", ".1f"), ("bias_m", "+.1f"), ("volume_error_percent", "+.2f"))
        for method in methods]
    heads = {"rmse_m": "RMSE m", "bias_m": "bias m", "volume_error_percent": "volume %"}
    command_line.print_table([
        ("", "", *(heads[key] if method == methods[0] else "" for key, _, method in columns)),
        ("", "cells", *(METHOD_STYLES[method][0].replace("surface minus bed", "surface").replace(
            ", consistent", "+c.") for _, _, method in columns)),
        *((name, str(scores["n_cells"]),
           *(f"{scores['errors'][method][key]:{form}}"
             if key in scores["errors"].get(method, {}) else "-" for key, form, method in columns))
          for name, scores in scores_by_name.items())])


def print_ice_extent_table(errors, checks=None):
    """Print the other scores.compute_errors of every method; checks: more, {method: {heading: text}}."""
    command_line.print_table([
        ("", "MAE m", "false ice km2", "missed ice km2", "ice area %",
         *next(iter((checks or {"": {}}).values())))] + [
        (METHOD_STYLES[method][0], f"{entry['mae_m']:.1f}", f"{entry['false_ice_km2']:.0f}",
         f"{entry['missed_ice_km2']:.0f}", f"{entry['ice_area_error_percent']:+.2f}"
         if "ice_area_error_percent" in entry else "-",
         *(checks or {}).get(method, {}).values()) for method, entry in errors.items()])
