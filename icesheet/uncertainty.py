"""How sure a thickness is: fit the width of its 90 % intervals, score intervals, say so.

train.py fits a run (train.calibrate), downscale.py writes the half-width of every cell, evaluate.py
and hindcasts score it against a label. Nothing here needs TensorFlow.
Sections: the fit | scores of intervals | volumes | on screen.
"""


import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse
from sklearn.linear_model import QuantileRegressor

import utils
from icesheet import command_line
from icesheet.scores import METHOD_STYLES, compute_rmse_m
from icesheet.settings import get_densities

# ---- Settings ---------------------------------------------------------------------------------
QUANTILE_LEVELS = np.arange(1, 20) / 20   # the `shape` of a fit: quantiles of |error| / half-width at these
COVERAGE_LEVELS = (0.5, 0.8, 0.9, 0.95)  # of QUANTILE_LEVELS: intervals that are scored; half-widths are of 0.9
Z_90 = 1.645        # half-width of a 90 % interval over the standard deviation, if normal
LOG_OFFSET_M = 0.1       # added to errors, spreads and thickness before their logarithms
LOCAL_MEAN_CELLS = 9           # side of the square, in cells, whose mean thickness says how large ice is
DEFAULT_INFLATION = 1.1           # what held-out patches are taken to need more, where none are held out
N_FIT_CELLS = 5000        # cells that the line is fitted to
BED_LENGTH_M = 20e3  # over which errors of a bed are correlated
MIN_PATCHES = 5     # patches that a surface type has to be in, to get a factor of its own
MIN_HALF_WIDTH_M = 1e-3  # of an interval where something is free
MIN_COVERAGE_FACTOR = 0.05  # of a surface type: without any error in most cells it is not sure either
MAX_CALIBRATION_SHARES = 0.05, 3     # a map is unlike those calibrated on if more cells have the spread that 1 %
                     # had there, or so many times more are near a margin


def fit_intervals(parts, relative):
    """Fit how sure a run is to its own errors: `uncertainty` of its settings, a dict.

    parts: of the patches trained on and, where there are any, of those held out: errors
    {method: thk - label}, the model's and for comparison others', spread (see model.mask_determined_cells),
    thk, all (patch, y, x) m, and {type: cells (bool) where something is free} by surface type as
    predicted, with "all".
    The 90 % quantile of log(|error|) is a line in log(spread): slope, intercept, fitted to N_FIT_CELLS
    cells of the patches trained on. relative, for runs whose channels are: both over the thickness
    around, so ice half as thick with half the spread has intervals half as wide.
    factors: what it takes by surface type to cover 90 % of their cells, `all` for a type in fewer
    than MIN_PATCHES patches (blocks: in how many); all times what the patches held out take more,
    but at least 1: where they err less than those trained on, that is luck. shape: quantiles of
    |error| / half-width at QUANTILE_LEVELS; variance: the mean square of that; together: cells_per_effective_sample, by
    type. seen_m: the spread that 1 % of the cells exceed; margin: share of margin cells. constant:
    of every method, what is to be beaten, see fit_constant_width.
    """
    constant = {method: fit_constant_width(parts, method) for method in parts[0][0]}
    parts = [(errors["model"], *others) for errors, *others in parts]
    error, spread, thk, types = parts[0]
    cells = np.random.default_rng(0).permutation(np.flatnonzero(types["all"]))[:N_FIT_CELLS]
    unit_m = compute_local_scale(thk, relative)
    x, y = (np.log((LOG_OFFSET_M + np.abs(field)) / unit_m).ravel()[cells] for field in (spread, error))
    line = QuantileRegressor(quantile=0.9, alpha=0, solver="highs").fit(x[:, None], y)
    fit = {"slope": float(line.coef_[0]), "intercept": float(line.intercept_),
           "scale_by_thickness": relative, "coverage_factors": {"all": 1.0},
           "n_patches": {name: int(of_type.any(axis=(1, 2)).sum()) for name, of_type in types.items()}}

    def scaled(error, spread, thk, types):  # error over half-width, NaN where nothing is free
        return error / np.where(types["all"], compute_half_width(spread, thk, types, fit), np.nan)

    errors = np.abs(scaled(*parts[0]))
    fit["coverage_factors"] = {name: max(float(np.quantile(errors[of_type], 0.9)), MIN_COVERAGE_FACTOR)
                      for name, of_type in types.items()
                      if name == "all" or fit["n_patches"][name] >= MIN_PATCHES}
    held_out = np.abs(scaled(*parts[-1])) if parts[1:] else np.full(1, DEFAULT_INFLATION)
    if np.isnan(held_out).all():  # no ice in the patches that are held out
        held_out = np.full(1, DEFAULT_INFLATION)
    more = max(float(np.nanquantile(held_out, 0.9)), 1.0)
    fit["coverage_factors"] = {name: more * value for name, value in fit["coverage_factors"].items()}
    errors = scaled(*parts[0])
    return fit | {
        "error_quantiles": compute_error_quantiles(np.abs(np.concatenate([scaled(*part) for part in parts]))),
        "variance": float(np.nanmean(errors**2)),
        "cells_per_effective_sample": {name: cells_per_effective_sample(errors, of_type) for name, of_type in types.items()},
        "n_held_out": len(held_out) if parts[1:] else 0,
        "spread_p99_m": float(np.nanquantile(spread, 0.99)),
        "boundary_share": float(types["boundary_zone"].sum() / max(types["all"].sum(), 1)), "constant_width": constant}


def fit_constant_width(parts, method):
    """The 90 % interval of a method, of one width for each surface type: {half_width_m, shape}.

    parts: as of fit_intervals; half_width_m: {type: m}, and shape as there.
    """
    error = np.abs(np.concatenate([part[0][method] for part in parts]))
    types = {name: np.concatenate([part[-1][name] for part in parts]) for name in parts[0][-1]}
    widths = {name: max(float(np.quantile(error[cells], 0.9)), MIN_HALF_WIDTH_M)
              for name, cells in types.items()
              if name == "all" or cells.any(axis=(1, 2)).sum() >= MIN_PATCHES}
    cells = types["all"]
    return {"half_width_m": widths,
            "error_quantiles": compute_error_quantiles((error / expand_by_type(widths, types, error.shape))[cells])}


def compute_error_quantiles(ratio):
    """Quantiles at QUANTILE_LEVELS of |error| / half-width, over that of 0.9; even without any error."""
    shape = np.nanquantile(ratio, QUANTILE_LEVELS)
    return (shape / shape[17] if shape[17] > 0 else QUANTILE_LEVELS / 0.9).tolist()


def expand_by_type(values, types, shape):
    """The value of each cell by its surface type, an array of `shape`; `all` for others.

    values, types: {type: number}, {type: cells (bool)}; the last of several types counts.
    """
    field = np.full(shape, values["all"])
    for name, cells in types.items():
        field[cells] = values.get(name, values["all"])
    return field


def compute_local_scale(thk, relative):
    """What spread and error are measured in [m]: 1 m; relative: the mean of the thickness around.

    thk: (..., y, x) m; that mean is over the LOCAL_MEAN_CELLS x LOCAL_MEAN_CELLS cells around each.
    """
    if not relative:
        return np.ones(np.shape(thk))
    size = (0,) * (np.ndim(thk) - 2) + (LOCAL_MEAN_CELLS, LOCAL_MEAN_CELLS)
    around = scipy.ndimage.uniform_filter(np.asarray(thk, float), size, mode="nearest")
    return LOG_OFFSET_M + np.maximum(around, 0)


def compute_half_width(spread, thk, types, fit):
    """Half-width of the 90 % interval of a thickness (..., y, x) [m]; 0 where nothing is free.

    spread: see model.mask_determined_cells [m]; types: {name: cells (bool)} of utils.surface_type_masks, as
    predicted; fit: see fit_intervals.
    One width does for both sides: what of it is below 0 m covers nothing.
    """
    factor = expand_by_type(fit["coverage_factors"], types, spread.shape)
    unit_m = compute_local_scale(thk, fit["scale_by_thickness"])
    width = unit_m * np.exp(fit["intercept"] + fit["slope"] * np.log(
        (LOG_OFFSET_M + np.nan_to_num(spread)) / unit_m))
    width = factor * np.maximum(width - LOG_OFFSET_M, MIN_HALF_WIDTH_M)
    return np.float32(np.where(np.isnan(spread), 0, width))


def add_bed_error(width, topg_std, grounded, scale, spacing_m):
    """Half-widths [m] with the error of the bed in them, where ice is grounded.

    width, grounded (bool), topg_std: the bed's standard error [m], of one shape; scale: fine
    cells along a coarse one; spacing_m: of the fine cells. There the upper surface stays and the
    thickness is off by as much as the bed. The coarse cell's thickness is kept, so an error that is
    the same all over it changes nothing. Errors are taken to be correlated as
    exp(-distance / BED_LENGTH_M); what of their variance is left are the differences inside.
    """
    place = spacing_m / BED_LENGTH_M * np.stack(np.indices((scale, scale)).reshape(2, -1), axis=1)
    apart = np.hypot(*np.moveaxis(place[:, None] - place, -1, 0))
    inside = 1 - np.exp(-apart).mean()
    off = Z_90 * np.sqrt(inside) * topg_std
    return np.where(grounded & (width > 0), np.hypot(width, off), width).astype(np.float32)


def classify_patches(thk, topg, settings):
    """utils.surface_type_masks of each patch alone, {name: (patch, y, x)}; thk, topg (or None) [m]."""
    densities = get_densities(settings["data"])
    types = [utils.surface_type_masks(*fields, 2 * settings["scale"], densities)
             for fields in zip(thk, [None] * len(thk) if topg is None else topg, strict=True)]
    return {name: np.stack([each[name] for each in types]) for name in types[0]}


def crps_m(error, width, shape):
    """Continuous ranked probability score [m] of each cell (Gneiting and Raftery 2007, eq. 21).

    error: thk - label [m], width: half-width of its 90 % interval [m], of one shape. The errors'
    distribution is symmetric: its |error| / width has the quantiles `shape` at QUANTILE_LEVELS.
    """
    points = np.concatenate([-np.array(shape[::-1]), [0], shape])
    apart = np.mean(np.abs(points[:, None] - points)) / 2
    return sum(np.abs(point * width - error) for point in points) / len(points) - apart * width


def score_intervals(error, width, cells, shape):
    """Score intervals of a thickness in some cells: a dict, {} without cells.

    error: thk - label [m], width: half-width of its 90 % interval [m], cells (bool): of one shape;
    shape: of the fit.
    n_cells; half_width_m: the mean; crps_m; coverage: {level: share of the cells with the label in
    their interval}, by COVERAGE_LEVELS. tenths: of the cells, from the narrowest interval up: half_width_m,
    compute_rmse_m, coverage.
    """
    error, width = (np.asarray(field, float)[cells] for field in (error, width))
    if not len(error):
        return {}

    def score(error, width):
        within = {f"{level:g}": float(np.mean(np.abs(error) <= part * width))
                  for level, part in zip(COVERAGE_LEVELS, np.interp(COVERAGE_LEVELS, QUANTILE_LEVELS, shape), strict=True)}
        return {"half_width_m": float(width.mean()), "rmse_m": float(compute_rmse_m(error, 0)),
                "coverage": within}

    tenths = np.array_split(np.argsort(width, kind="stable"), min(10, len(width)))
    return {"n_cells": len(error), "crps_m": float(crps_m(error, width, shape).mean()),
            **score(error, width), "deciles": [score(error[part], width[part]) for part in tenths]}


def cells_per_effective_sample(error, cells):
    """How many cells err as one: the correlation of a cell's error with all around it, summed.

    error: standardised, (patch, y, x); cells (bool): those that count. A mean over n cells has the
    variance of one over n / this, the number of independent cells; this is 1 for white noise. The
    correlation is 1 - variogram / variance (Cressie 1993, 2.4), by distance, up to half a patch or
    to where it is lost in its own error.
    """
    shape = tuple(2 * n for n in error.shape[1:])

    def sum_pairs(fields):  # of all pairs of cells, by their distance along y and x
        power = np.abs(np.fft.rfft2(fields, shape)) ** 2
        return np.fft.irfft2(power.sum(axis=0), shape).ravel()

    lag_y, lag_x = (np.fft.fftfreq(n, 1 / n) for n in shape)
    ring = np.rint(np.hypot(lag_y[:, None], lag_x)).astype(int).ravel()
    size, products, pairs = (np.bincount(ring, weights)[:min(shape) // 4 + 1] for weights in (
        None, sum_pairs(np.where(cells, error, 0.0)), sum_pairs(np.where(cells, 1.0, 0.0))))
    pairs = np.maximum(pairs, 1)
    correlation = products / pairs / max(products[0] / pairs[0], 1e-12)
    lost = np.append(correlation <= 2 / np.sqrt(pairs / 2), True)
    return float(size[0] + np.sum((size * correlation)[1:max(int(np.argmax(lost)), 1)]))


def half_width_of_sum(width, types, fit, axis):
    """Half-width [m] of the 90 % interval of a thickness summed over the cells of regions.

    width: of their cells [m]; types: as of compute_half_width; axis: the axes that a region fills. The sum
    of many errors is normal; its variance is theirs times the cells that err as one, see
    cells_per_effective_sample, and at most that of cells that all do.
    """
    together = sum(fit["cells_per_effective_sample"].get(name, fit["cells_per_effective_sample"]["all"]) * cells
                   for name, cells in types.items() if name not in ("boundary_zone", "all"))
    squares = np.minimum(np.sum(together * np.square(width, dtype=float), axis=axis),
                         np.sum(width, axis=axis, dtype=float) ** 2)
    return Z_90 * np.sqrt(fit["variance"] * squares)


def half_cell_volume_coverage(error, width, types, fit, scale):
    """Share of half coarse cells whose volume is in its 90 % interval; None without any.

    error, width, types: as of compute_half_width, of a map (y, x) whose coarse cells, scale x scale, keep
    their volume exactly: only a region that cuts through them can be off.
    """
    def halves(field):  # (half cell, its cells)
        rows = field.reshape(len(field) // scale, scale, -1, scale // 2)
        return np.moveaxis(rows, 1, 2).reshape(-1, scale * scale // 2)

    free = halves(width) > 0
    if not free.any():
        return None
    off = np.abs(halves(np.where(width > 0, error, 0)).sum(axis=1))
    wide = half_width_of_sum(halves(width), {name: halves(of_type) for name, of_type in types.items()},
                          fit, axis=1)
    return float(np.mean((off <= wide)[free.any(axis=1)]))


def print_intervals(scores):
    """Print {name: score_intervals} as a table; nothing without."""
    if scores:
        print()
        command_line.print_table([("90 % interval", "cells", "± m", "CRPS m", *(
            f"in {level:.0%}" for level in COVERAGE_LEVELS))] + [
            (name, str(entry["n_cells"]), f"{entry['half_width_m']:.1f}", f"{entry['crps_m']:.2f}",
             *(f"{share:.1%}" for share in entry["coverage"].values()))
            for name, entry in scores.items() if entry])


def warn_outside_calibration(fit, beyond, margin):
    """Say if shares of cells beyond the spread seen, and near a margin, are not as in the fit."""
    if beyond > MAX_CALIBRATION_SHARES[0] or margin > MAX_CALIBRATION_SHARES[1] * fit["boundary_share"]:
        print("note: unlike what thk_uncertainty was calibrated on: spread above "
              f"{fit['spread_p99_m']:.0f} m in {beyond:.0%} of the cells (there 1 %), {margin:.0%} near "
              f"a margin (there {fit['boundary_share']:.0%}); intervals may be too narrow")


def print_interval_scores(metrics):
    """Print how sure the model is on the test patches, and what is to be beaten; or nothing."""
    found = metrics["uncertainty"]
    if not found:
        return
    print_intervals(found["by_surface_type"])
    print()
    kinds = [kind for kind, entry in found["by_surface_type"].items() if entry]
    rows = {"intervals of the model": found["by_surface_type"]} | {
        f"one width a type, {METHOD_STYLES[method][0]}": found["constant_width"][method]
        for method in METHOD_STYLES if method in found["constant_width"]}
    command_line.print_table([("CRPS m", *kinds)] + [
        (name, *(f"{entry[kind]['crps_m']:.2f}" for kind in kinds))
        for name, entry in rows.items()])
    print(f"volume of a patch: ± {found['volume_half_width_km3']:.0f} km3, right in "
          f"{found['patch_volume_coverage']:.0%} of the {metrics['n_test']}")
