"""Prediction intervals of a thickness: their calibration, half-widths, scores and volumes.

train.py calibrates a run (fit_intervals), downscale.py writes the half-width of every cell,
evaluate.py and the reconstruction test score the intervals. Nothing here needs TensorFlow.
A cell is *undetermined* where the coarse map leaves its thickness open: its coarse cell has ice.
"""

import numpy as np
import scipy.ndimage
from sklearn.linear_model import QuantileRegressor

import utils
from icesheet import command_line
from icesheet.scores import METHOD_STYLES, compute_rmse_m
from icesheet.settings import get_densities

# ---- Settings ---------------------------------------------------------------------------------
QUANTILE_LEVELS = np.arange(1, 20) / 20  # at which a fit keeps quantiles of |error| / half-width
COVERAGE_LEVELS = (0.5, 0.8, 0.9, 0.95)  # of the intervals that are scored
Z_90 = 1.645  # half-width of a 90 % interval of a normal distribution, in standard deviations
LOG_OFFSET_M = 0.1  # added to errors, spreads and thickness before their logarithms
LOCAL_MEAN_CELLS = 9  # side of the square whose mean thickness is the local scale
DEFAULT_INFLATION = 1.1  # of the coverage factors of a run without validation patches
N_FIT_CELLS = 5000  # cells that the line is fitted to
BED_LENGTH_M = 20e3  # distance at which the correlation of a bed's errors is 1/e
MIN_PATCHES = 5  # in which a surface type has to occur to get a coverage factor of its own
MIN_HALF_WIDTH_M = 1e-3  # of an undetermined cell
MIN_COVERAGE_FACTOR = 0.05  # a type without errors in most of its cells is not certain either
MAX_SHARE_ABOVE_P99 = 0.05  # of a map's cells above the calibration's 99th percentile of spread
MAX_BOUNDARY_RATIO = 3  # boundary zone of a map, relative to that of the calibration


def fit_intervals(samples, scale_by_thickness, is_held_out=False):
    """Calibrate prediction intervals on the errors of a run: `uncertainty` of its settings.

    samples: of the training patches and, where there are any, of the validation patches; dicts of
      errors: {method: thk - label} of the model and of the baselines, (patch, y, x) [m]
      spread, thk: of the model (see model.mask_determined_cells), (patch, y, x) [m]
      types: {predicted surface type, or "all": its undetermined cells (bool)}
    scale_by_thickness: divide by the local thickness, for runs with normalised channels: ice half
      as thick with half the spread then has intervals half as wide.
    is_held_out: the first sample too is of places that the network was not trained on, so what
    covers 90 % of it needs no inflation.

    Returns the fit:
      slope, intercept, scale_by_thickness: see compute_half_width
      coverage_factors: {type: factor}, `all` for types in fewer than MIN_PATCHES patches
      n_patches: {type: training patches that it occurs in}
      n_held_out: validation patches
      error_quantiles, variance: of error / half-width, see compute_error_quantiles
      cells_per_effective_sample: {type: see cells_per_effective_sample}
      spread_p99_m, boundary_share: of the training cells, see warn_outside_calibration
      constant_width: {method: see fit_constant_width}
    """
    training, validation = samples[0], samples[1:]
    spread, types = training["spread"], training["types"]
    n_patches = {name: int(cells.any(axis=(1, 2)).sum()) for name, cells in types.items()}
    fit = fit_spread_line(training, scale_by_thickness) | {"n_patches": n_patches}
    fit["coverage_factors"] = find_coverage_factors(training, fit)
    inflation = 1.0 if is_held_out else find_inflation(validation, fit)
    fit["coverage_factors"] = {name: inflation * factor
                               for name, factor in fit["coverage_factors"].items()}
    standardised = [standardise(sample, fit) for sample in samples]
    return fit | {
        "error_quantiles": compute_error_quantiles(np.abs(np.concatenate(standardised))),
        "variance": float(np.nanmean(standardised[0]**2)),
        "cells_per_effective_sample": {name: cells_per_effective_sample(standardised[0], cells)
                                       for name, cells in types.items()},
        "n_held_out": sum(len(sample["spread"])
                          for sample in (samples if is_held_out else validation)),
        "spread_p99_m": float(np.nanquantile(spread, 0.99)),
        "boundary_share": float(types["boundary_zone"].sum() / max(types["all"].sum(), 1)),
        "constant_width": {method: fit_constant_width(samples, method)
                           for method in training["errors"]}}


def fit_spread_line(sample, scale_by_thickness):
    """Fit the 90 % quantile of log |error| as a line in log spread (see compute_half_width)."""
    cells = np.flatnonzero(sample["types"]["all"])
    cells = np.random.default_rng(0).permutation(cells)[:N_FIT_CELLS]
    scale_m = compute_local_scale(sample["thk"], scale_by_thickness)
    log_spread, log_error = (np.log((LOG_OFFSET_M + np.abs(field)) / scale_m).ravel()[cells]
                             for field in (sample["spread"], sample["errors"]["model"]))
    line = QuantileRegressor(quantile=0.9, alpha=0, solver="highs")
    line.fit(log_spread[:, None], log_error)
    return {"slope": float(line.coef_[0]), "intercept": float(line.intercept_),
            "scale_by_thickness": scale_by_thickness, "coverage_factors": {"all": 1.0}}


def standardise(sample, fit):
    """Return the model's error over its half-width, NaN in determined cells."""
    width = compute_half_width(sample["spread"], sample["thk"], sample["types"], fit)
    return sample["errors"]["model"] / np.where(sample["types"]["all"], width, np.nan)


def find_coverage_factors(sample, fit):
    """Return the factor by which each surface type's intervals cover 90 % of its cells."""
    ratio = np.abs(standardise(sample, fit))
    return {name: max(float(np.quantile(ratio[cells], 0.9)), MIN_COVERAGE_FACTOR)
            for name, cells in sample["types"].items()
            if name == "all" or fit["n_patches"][name] >= MIN_PATCHES}


def find_inflation(validation, fit):
    """Return the factor that intervals need on validation patches; validation: 0 or 1 samples.

    At least 1: errors smaller than on the training patches are chance.
    """
    ratio = np.abs(standardise(validation[0], fit)) if validation else np.nan
    if np.isnan(ratio).all():  # no validation patches, or no ice in them
        return DEFAULT_INFLATION
    return max(float(np.nanquantile(ratio, 0.9)), 1.0)


def fit_constant_width(samples, method):
    """Fit 90 % intervals of one width for each surface type: what calibrated ones have to beat.

    Returns half_width_m: {type: m}, and error_quantiles; samples, types: as of fit_intervals.
    """
    error = np.abs(np.concatenate([sample["errors"][method] for sample in samples]))
    types = {name: np.concatenate([sample["types"][name] for sample in samples])
             for name in samples[0]["types"]}
    widths = {name: max(float(np.quantile(error[cells], 0.9)), MIN_HALF_WIDTH_M)
              for name, cells in types.items()
              if name == "all" or cells.any(axis=(1, 2)).sum() >= MIN_PATCHES}
    ratio = (error / expand_by_type(widths, types, error.shape))[types["all"]]
    return {"half_width_m": widths, "error_quantiles": compute_error_quantiles(ratio)}


def compute_error_quantiles(ratio):
    """Return quantiles of |error| / half-width at QUANTILE_LEVELS, over that of 0.9.

    Without any error they are those of an even distribution.
    """
    quantiles = np.nanquantile(ratio, QUANTILE_LEVELS)
    at_90 = quantiles[17]
    return (quantiles / at_90 if at_90 > 0 else QUANTILE_LEVELS / 0.9).tolist()


def expand_by_type(values, types, shape):
    """Return an array of `shape` with the value of each cell's surface type, else that of `all`.

    values, types: {type: number}, {type: cells (bool)}; the last of several types counts.
    """
    field = np.full(shape, values["all"])
    for name, cells in types.items():
        field[cells] = values.get(name, values["all"])
    return field


def compute_local_scale(thk, scale_by_thickness):
    """Return what spread and error are divided by [m]: 1 m, or the mean thickness near a cell.

    thk: (..., y, x) [m]; its mean is over LOCAL_MEAN_CELLS x LOCAL_MEAN_CELLS cells.
    """
    if not scale_by_thickness:
        return np.ones(np.shape(thk))
    size = (0,) * (np.ndim(thk) - 2) + (LOCAL_MEAN_CELLS, LOCAL_MEAN_CELLS)
    local_mean = scipy.ndimage.uniform_filter(np.asarray(thk, float), size, mode="nearest")
    return LOG_OFFSET_M + np.maximum(local_mean, 0)


def compute_half_width(spread, thk, types, fit):
    """Return the half-width of the 90 % prediction interval (..., y, x) [m].

    From the ensemble spread s, with e = LOG_OFFSET_M and the local scale L:

        half-width = coverage_factor * (L exp(intercept) ((e + s) / L)^slope - e)

    0 in determined cells, where the spread is NaN. Intervals are symmetric about the thickness.
    spread: see model.mask_determined_cells [m]; types: {name: cells (bool)} of
    utils.surface_type_masks, as predicted; fit: of fit_intervals.
    """
    coverage_factor = expand_by_type(fit["coverage_factors"], types, spread.shape)
    scale_m = compute_local_scale(thk, fit["scale_by_thickness"])
    log_spread = np.log((LOG_OFFSET_M + np.nan_to_num(spread)) / scale_m)
    width = scale_m * np.exp(fit["intercept"] + fit["slope"] * log_spread)
    width = coverage_factor * np.maximum(width - LOG_OFFSET_M, MIN_HALF_WIDTH_M)
    return np.float32(np.where(np.isnan(spread), 0, width))


def add_bed_error(width, topg_std, grounded, scale, spacing_m):
    """Return half-widths [m] that include the bed's standard error on grounded ice.

    A bed error changes the thickness of grounded ice by the same amount, since the surface is
    given. The mean of a coarse cell is kept, so only the part that varies within it counts. With a
    correlation of exp(-distance / BED_LENGTH_M) and means over all pairs of cells in a coarse cell:

        half-width^2 = width^2 + (Z_90 topg_std)^2 (1 - mean correlation)

    width, topg_std [m], grounded (bool): of one shape; scale: fine cells along a coarse one;
    spacing_m: of the fine cells.
    """
    cells = np.indices((scale, scale)).reshape(2, -1)
    positions = spacing_m / BED_LENGTH_M * np.stack(cells, axis=1)  # (cell, 2)
    distance = np.hypot(*np.moveaxis(positions[:, None] - positions, -1, 0))  # (cell, cell)
    within_cell_variance = 1 - np.exp(-distance).mean()
    bed_error_m = Z_90 * np.sqrt(within_cell_variance) * topg_std
    return np.where(grounded & (width > 0), np.hypot(width, bed_error_m), width).astype(np.float32)


def classify_patches(thk, topg, settings):
    """Return utils.surface_type_masks of each patch alone, {name: (patch, y, x)}.

    thk, topg: (patch, y, x) [m]; topg may be None.
    """
    densities = get_densities(settings["data"])
    types = [utils.surface_type_masks(*fields, 2 * settings["scale"], densities)
             for fields in zip(thk, [None] * len(thk) if topg is None else topg, strict=True)]
    return {name: np.stack([masks[name] for masks in types]) for name in types[0]}


def crps_m(error, width, error_quantiles):
    """Return the continuous ranked probability score of each cell [m].

    error: thk - label [m], width: half-width of its 90 % interval [m], of one shape. The errors'
    distribution is symmetric with |error| / width at QUANTILE_LEVELS equal to error_quantiles. For
    samples e_i of it: mean |e_i - error| - mean |e_i - e_j| / 2.
    Source: Gneiting and Raftery (2007, doi:10.1198/016214506000001437), equation 21.
    """
    samples = np.concatenate([-np.array(error_quantiles[::-1]), [0], error_quantiles])
    mean_half_distance = np.mean(np.abs(samples[:, None] - samples)) / 2
    mean_distance = sum(np.abs(sample * width - error) for sample in samples) / len(samples)
    return mean_distance - mean_half_distance * width


def score_intervals(error, width, cells, error_quantiles):
    """Score the intervals of a thickness in some cells: a dict, {} without cells.

    error: thk - label [m], width: half-width of its 90 % interval [m], cells (bool): of one shape.
    Returns
      n_cells, half_width_m (the mean), rmse_m, crps_m (the mean)
      coverage: {level: share of the cells whose interval contains the label}
      deciles: of the cells, from the narrowest interval up: half_width_m, rmse_m, coverage
    """
    error, width = (np.asarray(field, float)[cells] for field in (error, width))
    if not len(error):
        return {}
    width_of_level = np.interp(COVERAGE_LEVELS, QUANTILE_LEVELS, error_quantiles)

    def score(error, width):
        coverage = {f"{level:g}": float(np.mean(np.abs(error) <= factor * width))
                    for level, factor in zip(COVERAGE_LEVELS, width_of_level, strict=True)}
        return {"half_width_m": float(width.mean()), "rmse_m": float(compute_rmse_m(error, 0)),
                "coverage": coverage}

    deciles = np.array_split(np.argsort(width, kind="stable"), min(10, len(width)))
    return {"n_cells": len(error), "crps_m": float(crps_m(error, width, error_quantiles).mean()),
            **score(error, width), "deciles": [score(error[cells], width[cells])
                                               for cells in deciles]}


def cells_per_effective_sample(error, cells):
    """Return the sum of the error correlation over all distances: cells that err as one.

    The variance of a mean over n cells is that of a cell times this over n; it is 1 for white
    noise. The correlation by distance is 1 - variogram / variance (Cressie 1993, section 2.4), up
    to half a patch or to where it is lost in its own sampling error.
    error: standardised, (patch, y, x); cells (bool): those that count.
    """
    shape = tuple(2 * n for n in error.shape[1:])  # padded: the transform would wrap around

    def sum_pairs(fields):  # sums of products over all pairs of cells, by offset (y, x)
        power = np.abs(np.fft.rfft2(fields, shape)) ** 2
        return np.fft.irfft2(power.sum(axis=0), shape).ravel()

    lag_y, lag_x = (np.fft.fftfreq(n, 1 / n) for n in shape)
    distance = np.rint(np.hypot(lag_y[:, None], lag_x)).astype(int).ravel()
    n_offsets, products, pairs = (
        np.bincount(distance, weights)[:min(shape) // 4 + 1] for weights in (
            None, sum_pairs(np.where(cells, error, 0.0)), sum_pairs(np.where(cells, 1.0, 0.0))))
    pairs = np.maximum(pairs, 1)
    correlation = products / pairs / max(products[0] / pairs[0], 1e-12)
    # Two standard errors of a correlation from so many pairs; every pair was counted twice.
    is_noise = np.append(correlation <= 2 / np.sqrt(pairs / 2), True)
    end = max(int(np.argmax(is_noise)), 1)
    return float(n_offsets[0] + np.sum((n_offsets * correlation)[1:end]))


def half_width_of_sum(width, types, fit, axis):
    """Return the half-width [m] of the 90 % interval of a thickness summed over regions.

    The sum of many errors is normal. Its variance is the sum of theirs times
    cells_per_effective_sample, and at most that of cells whose errors are all one.
    width: of the cells [m]; types: as of compute_half_width; axis: the axes that a region fills.
    """
    correlated = fit["cells_per_effective_sample"]
    correlated_cells = sum(correlated.get(name, correlated["all"]) * cells
                           for name, cells in types.items() if name not in ("boundary_zone", "all"))
    variance_sum = np.minimum(
        np.sum(correlated_cells * np.square(width, dtype=float), axis=axis),
        np.sum(width, axis=axis, dtype=float) ** 2)
    return Z_90 * np.sqrt(fit["variance"] * variance_sum)


def half_cell_volume_coverage(error, width, types, fit, scale):
    """Return the coverage of the 90 % volume interval over half coarse cells; None without any.

    The volume of a coarse cell is kept exactly, so only regions that cut through one have an error.
    A half cell counts where any of its cells is undetermined (width above 0).
    error, width [m], types: as of compute_half_width, of a map (y, x); scale: fine cells along a
    coarse one.
    """
    def split_in_halves(field):  # (half cell, its cells)
        rows = field.reshape(len(field) // scale, scale, -1, scale // 2)
        return np.moveaxis(rows, 1, 2).reshape(-1, scale * scale // 2)

    width_in_halves = split_in_halves(width)
    undetermined = (width_in_halves > 0).any(axis=1)
    if not undetermined.any():
        return None
    volume_error = np.abs(split_in_halves(np.where(width > 0, error, 0)).sum(axis=1))
    volume_half_width = half_width_of_sum(
        width_in_halves, {name: split_in_halves(cells) for name, cells in types.items()},
        fit, axis=1)
    return float(np.mean((volume_error <= volume_half_width)[undetermined]))


def print_intervals(scores):
    """Print {name: score_intervals} as a table; nothing for {}."""
    if scores:
        print()
        command_line.print_table([("90 % interval", "cells", "± m", "CRPS m", *(
            f"in {level:.0%}" for level in COVERAGE_LEVELS))] + [
            (name, str(entry["n_cells"]), f"{entry['half_width_m']:.1f}", f"{entry['crps_m']:.2f}",
             *(f"{share:.1%}" for share in entry["coverage"].values()))
            for name, entry in scores.items() if entry])


def warn_outside_calibration(fit, share_above_p99, boundary_share):
    """Warn of a map with many more uncertain or boundary cells than the calibration data.

    Shares of the undetermined cells: with a spread above spread_p99_m, and in the boundary zone.
    """
    if (share_above_p99 > MAX_SHARE_ABOVE_P99
            or boundary_share > MAX_BOUNDARY_RATIO * fit["boundary_share"]):
        print("warning: this map differs from the calibration data, so thk_uncertainty may be too "
              f"small: ensemble spread above {fit['spread_p99_m']:.0f} m in {share_above_p99:.0%} "
              f"of the cells (1 % in calibration); {boundary_share:.0%} of the cells near an ice "
              f"margin or grounding line ({fit['boundary_share']:.0%} in calibration)")


def print_interval_scores(metrics):
    """Print the interval scores of the test patches, and those to beat; nothing without any."""
    scores = metrics["uncertainty"]
    if not scores:
        return
    print_intervals(scores["by_surface_type"])
    print()
    types = [name for name, entry in scores["by_surface_type"].items() if entry]
    rows = {"intervals of the model": scores["by_surface_type"]} | {
        f"constant width per surface type, {METHOD_STYLES[method][0]}":
            scores["constant_width"][method]
        for method in METHOD_STYLES if method in scores["constant_width"]}
    command_line.print_table([("CRPS m", *types)] + [
        (name, *(f"{entry[surface_type]['crps_m']:.2f}" for surface_type in types))
        for name, entry in rows.items()])
    print(f"volume of a patch: ± {scores['volume_half_width_km3']:.0f} km3, coverage "
          f"{scores['patch_volume_coverage']:.0%} of {metrics['n_test']} patches")
