"""How sure a thickness is: fit the width of its 90 % intervals, score intervals, say so.

train.py fits a run (train.calibrate), downscale.py writes the half-width of every cell, evaluate.py
and hindcasts score it against a label. Nothing here needs TensorFlow.
Sections: the fit | scores of intervals | volumes | on screen.
"""

import numpy as np
from sklearn.linear_model import QuantileRegressor

import utils

# ---- Settings ---------------------------------------------------------------------------------
SHAPE = np.arange(1, 20) / 20   # the `shape` of a fit: quantiles of |error| / half-width at these
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of SHAPE: intervals that are scored; half-widths are of 0.9
OFFSET_M = 0.1       # added to errors and spreads before their logarithms
FITTED = 5000        # cells that the line is fitted to
LEAST_BLOCKS = 5     # patches that a surface type has to be in, to get a factor of its own
LEAST_FACTOR = 0.05  # of a surface type: without any error in most cells it is not sure either
UNLIKE = 0.05, 3     # a map is unlike those calibrated on if more cells have the spread that 1 %
                     # had there, or so many times more are near a margin
# -----------------------------------------------------------------------------------------------


# ---------------------------------------------------------------- the fit


def fit_intervals(parts):
    """Fit how sure a run is to its own errors: `uncertainty` of its settings, a dict.

    parts: of the patches trained on and, where there are any, of those held out: error
    (thk - label), spread (see model.free_spread), both (patch, y, x) m, and {type: cells (bool)
    where something is free} by surface type as predicted, with "all".
    The 90 % quantile of log(0.1 m + |error|) is a line in log(0.1 m + spread): slope, intercept,
    fitted to FITTED cells of the patches trained on. factors: what it takes by surface type to
    cover 90 % of their cells, `all` for a type in fewer than LEAST_BLOCKS patches (blocks: in how
    many); all times what the patches held out for validation take, but at least 1: where they err
    less than those trained on, that is luck. shape: quantiles of |error| / half-width at SHAPE;
    variance: the mean square of that; together: cells_together, by type. seen_m: the spread that
    1 % of the cells exceed; margin: share of margin cells.
    """
    error, spread, types = parts[0]
    cells = np.random.default_rng(0).permutation(np.flatnonzero(types["all"]))[:FITTED]
    x, y = (np.log(OFFSET_M + np.abs(field.ravel()[cells])) for field in (spread, error))
    line = QuantileRegressor(quantile=0.9, alpha=0, solver="highs").fit(x[:, None], y)
    fit = {"slope": float(line.coef_[0]), "intercept": float(line.intercept_),
           "factors": {"all": 1.0}, "blocks": {name: int(of_type.any(axis=(1, 2)).sum())
                                               for name, of_type in types.items()}}

    def scaled(error, spread, types):  # error over half-width, NaN where nothing is free
        return error / np.where(types["all"], half_width(spread, types, fit), np.nan)

    errors = np.abs(scaled(*parts[0]))
    fit["factors"] = {name: max(float(np.quantile(errors[of_type], 0.9)), LEAST_FACTOR)
                      for name, of_type in types.items()
                      if name == "all" or fit["blocks"][name] >= LEAST_BLOCKS}
    held_out = np.abs(scaled(*parts[-1])) if parts[1:] else np.ones(1)
    if np.isnan(held_out).all():  # no ice in the patches that are held out
        held_out = np.ones(1)
    more = max(float(np.nanquantile(held_out, 0.9)), 1.0)
    fit["factors"] = {name: more * value for name, value in fit["factors"].items()}
    errors = scaled(*parts[0])
    shape = np.nanquantile(np.abs(np.concatenate([scaled(*part) for part in parts])), SHAPE)
    return fit | {
        "shape": (shape / shape[17]).tolist(), "variance": float(np.nanmean(errors**2)),
        "together": {name: cells_together(errors, of_type) for name, of_type in types.items()},
        "held_out": len(held_out) if parts[1:] else 0,
        "seen_m": float(np.nanquantile(spread, 0.99)),
        "margin": float(types["margin"].sum() / max(types["all"].sum(), 1))}


def half_width(spread, types, fit):
    """Half-width of the 90 % interval of a thickness [m], any shape; 0 where nothing is free.

    spread: see model.free_spread [m]; types: {name: cells (bool)} of utils.cells_by_type, as
    predicted; fit: see fit_intervals.
    One width does for both sides: what of it is below 0 m covers nothing.
    """
    factor = np.full(spread.shape, fit["factors"]["all"])
    for name, cells in types.items():
        factor[cells] = fit["factors"].get(name, fit["factors"]["all"])
    width = np.exp(fit["intercept"] + fit["slope"] * np.log(OFFSET_M + np.nan_to_num(spread)))
    return np.float32(np.where(np.isnan(spread), 0, factor * np.maximum(width - OFFSET_M, 1e-3)))


def types_of_patches(thk, topg, settings):
    """utils.cells_by_type of each patch alone, {name: (patch, y, x)}; thk, topg (or None) [m]."""
    densities = utils.densities_of(settings["data"])
    types = [utils.cells_by_type(*fields, 2 * settings["scale"], densities)
             for fields in zip(thk, [None] * len(thk) if topg is None else topg, strict=True)]
    return {name: np.stack([each[name] for each in types]) for name in types[0]}


# ---------------------------------------------------------------- scores of intervals


def crps_m(error, width, shape):
    """Continuous ranked probability score [m] of each cell (Gneiting and Raftery 2007, eq. 21).

    error: thk - label [m], width: half-width of its 90 % interval [m], of one shape. The errors'
    distribution is symmetric: its |error| / width has the quantiles `shape` at SHAPE.
    """
    points = np.concatenate([-np.array(shape[::-1]), [0], shape])
    apart = np.mean(np.abs(points[:, None] - points)) / 2
    return sum(np.abs(point * width - error) for point in points) / len(points) - apart * width


def score_intervals(error, width, cells, fit, spacing_m):
    """Score intervals of a thickness in some cells: a dict, {} without cells.

    error: thk - label [m], width: half-width of its 90 % interval [m], cells (bool): of one shape.
    n_cells; half_width_m: the mean; crps_m; volume_error_km3, volume_width_km3 (90 %); coverage:
    {level: share of the cells with the label in their interval}, by LEVELS. tenths: of the cells,
    from the narrowest interval up: half_width_m, rmse_m, coverage at 0.9.
    """
    error, width = (np.asarray(field, float)[cells] for field in (error, width))
    if not len(error):
        return {}
    tenths = np.array_split(np.argsort(width, kind="stable"), min(10, len(width)))
    return {
        "n_cells": len(error), "half_width_m": float(width.mean()),
        "crps_m": float(crps_m(error, width, fit["shape"]).mean()),
        "volume_error_km3": float(error.sum() * spacing_m**2 / 1e9),
        "volume_width_km3": volume_width_km3(width, spacing_m, fit),
        "coverage": {f"{level:g}": float(np.mean(
            np.abs(error) <= np.interp(level, SHAPE, fit["shape"]) * width)) for level in LEVELS},
        "tenths": [{
            "half_width_m": float(width[part].mean()),
            "rmse_m": float(utils.rmse_m(error[part], 0)),
            "coverage": float(np.mean(np.abs(error[part]) <= width[part]))} for part in tenths]}


# ---------------------------------------------------------------- volumes


def cells_together(error, cells):
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


def volume_width_km3(width, spacing_m, fit):
    """Half-width of the 90 % interval of the volume of cells [km3], normal; width: theirs [m]."""
    variance = fit["together"]["all"] * fit["variance"] * np.sum(np.square(width, dtype=float))
    return float(1.645 * np.sqrt(variance) * spacing_m**2 / 1e9)


# ---------------------------------------------------------------- on screen


def print_intervals(scores):
    """Print {name: score_intervals} as a table; nothing without."""
    if scores:
        print()
        utils.print_table([("90 % interval", "cells", "± m", "CRPS m", *(
            f"in {level:.0%}" for level in LEVELS))] + [
            (name, str(entry["n_cells"]), f"{entry['half_width_m']:.1f}", f"{entry['crps_m']:.2f}",
             *(f"{share:.1%}" for share in entry["coverage"].values()))
            for name, entry in scores.items() if entry])
        if scores["all"]:
            print("volume off by {volume_error_km3:.0f} km3; in 90 % ± {volume_width_km3:.0f}"
                  .format(**scores["all"]))


def print_unlike(fit, beyond, margin):
    """Say if shares of cells beyond the spread seen, and near a margin, are not as in the fit."""
    if beyond > UNLIKE[0] or margin > UNLIKE[1] * fit["margin"]:
        print("note: unlike what thk_uncertainty was calibrated on: spread above "
              f"{fit['seen_m']:.0f} m in {beyond:.0%} of the cells (there 1 %), {margin:.0%} near "
              f"a margin (there {fit['margin']:.0%}); intervals may be too narrow")
