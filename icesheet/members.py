"""Members: realisations of a thickness around the prediction, as uncertain as its intervals say.

    member = consistent(thk + inflation * half-width * error_from_noise(noise))

The noise is Gaussian and correlated as the errors are; error_from_noise gives it the shape of their
distribution; `consistent` is model.remove_thin_ice, after which the coarse map comes back and no
ice is negative. That takes away what all cells of a coarse cell have in common, and what is below
0; the inflation makes up for it. Correlation and inflation are of a surface type, fitted to
the calibration sample. A cell's noise follows from seed, member and the cell's number in the map
alone, so neither tiles nor strips nor other members change it.
"""

import math

import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.special

import utils
from icesheet import figures, map_files
from icesheet.command_line import InputError
from icesheet.settings import get_densities
from icesheet.uncertainty import (
    QUANTILE_LEVELS, compute_half_width, expand_by_type)

TAIL_LEVELS = (0.99, 0.999)  # at which a fit keeps quantiles of |error| / half-width too
BLOCK_CELLS = 64       # side of the blocks that white noise is drawn in
KERNEL_REACH = 4       # of a smoothing kernel, in lengths: there it is e^-8 of its centre
N_FIT_MEMBERS = 19     # a cell that is as uncertain lies inside their range with 18/20 = 90 %
N_FIT_STEPS = 4        # after which coverage is within 0.2 % of its target
N_FIT_PATCHES = 200    # at most
N_PLOTTED_MEMBERS = 4
MIN_FIT_CELLS = 500    # of a surface type that gets a correlation and an inflation of its own
INFLATION_LIMITS = (0.5, 4.0)


# ---- The noise -----------------------------------------------------------------------------------

def smoothing_lengths(scale):
    """Return the lengths of the smoothing kernels [fine cells]: 0, then 0.5 to half a coarse cell.

    Noise of longer ones hardly varies within a coarse cell: consistency takes it away.
    """
    return [0.0, *(0.5 * 2 ** (np.arange(2 * np.log2(scale) + 1) / 2))]


def smoothing_kernel(length):
    """Return the Gaussian kernel of a length [cells] that keeps the variance of white noise."""
    reach = int(np.ceil(KERNEL_REACH * length))
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / max(2 * length**2, 1e-9))
    return kernel / np.sqrt(np.sum(kernel**2))


def kernel_correlation(length, n_lags):
    """Return the correlation of noise smoothed with smoothing_kernel at 0, 1, ... cells, (lag,)."""
    kernel = smoothing_kernel(length)
    correlation = np.correlate(kernel, kernel, "full")[len(kernel) - 1:]
    return np.pad(correlation, (0, n_lags))[:n_lags]


def draw_white_noise(seed, member, layer, rows, columns):
    """Return independent standard normal noise of a part of a map, (y, x).

    rows, columns: slices of the cells' numbers in the whole map, which may begin below 0.
    Source: Philox, a counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405).
    """
    def draw_block(*block):  # its counter begins with the block's numbers, never below 0
        counter = [0, layer, *(number + 2**32 for number in block)]
        generator = np.random.Philox(counter=counter, key=[seed, member])
        return np.random.Generator(generator).standard_normal((BLOCK_CELLS, BLOCK_CELLS))

    first, end = ([side // BLOCK_CELLS for side in sides] for sides in (
        (rows.start, columns.start), (rows.stop - 1, columns.stop - 1)))
    noise = np.block([[draw_block(i, j) for j in range(first[1], end[1] + 1)]
                      for i in range(first[0], end[0] + 1)])
    y, x = (part.start - BLOCK_CELLS * number
            for part, number in zip((rows, columns), first, strict=True))
    return noise[y:y + rows.stop - rows.start, x:x + columns.stop - columns.start]


def draw_smooth_noise(length, seed, member, layer, rows, columns):
    """Return draw_white_noise, smoothed with the kernel of a length [cells]: of variance 1."""
    kernel = smoothing_kernel(length)
    reach = len(kernel) // 2
    noise = draw_white_noise(seed, member, layer, *(
        slice(part.start - reach, part.stop + reach) for part in (rows, columns)))
    for axis in (0, 1):  # cell by cell in one order of additions, wherever the part begins
        noise = scipy.ndimage.correlate1d(noise, kernel, axis)
    return noise[reach:len(noise) - reach, reach:noise.shape[1] - reach]


def draw_noise(member_fit, types, seed, member, rows, columns):
    """Return Gaussian noise of variance 1 that is correlated as the errors are, (y, x).

    member_fit: of fit_members; types: {surface type: cells (bool)}; others: of draw_white_noise.
    """
    shape, noise = (rows.stop - rows.start, columns.stop - columns.start), 0.0
    for layer, length in enumerate(member_fit["lengths_cells"]):
        amplitude = expand_by_type(
            {name: np.sqrt(shares[layer]) for name, shares in member_fit["length_shares"].items()},
            types, shape)
        if amplitude.any():
            noise += amplitude * draw_smooth_noise(length, seed, member, layer, rows, columns)
    return noise


# ---- The distribution of the errors --------------------------------------------------------------

def error_distribution(fit, tail_quantiles):
    """Return -log(1 - level) and |error| / half-width there; beyond the last the tail goes on."""
    exceedance = -np.log1p(-np.array([0, *QUANTILE_LEVELS, *TAIL_LEVELS]))
    ratio = np.array([0, *fit["error_quantiles"], *tail_quantiles])
    # An exponential tail: linear in the logarithm of the share of cells with larger errors.
    tail = (ratio[-1] - ratio[-2]) / (exceedance[-1] - exceedance[-2])
    return np.append(exceedance, exceedance[-1] + 100), np.append(ratio, ratio[-1] + 100 * tail)


def error_from_noise(noise, fit, tail_quantiles):
    """Return errors over half-widths that are as rare as standard normal noise is."""
    exceedance, ratio = error_distribution(fit, tail_quantiles)
    return np.sign(noise) * np.interp(
        -np.log(scipy.special.erfc(np.abs(noise) / np.sqrt(2))), exceedance, ratio)


def noise_from_error(standardised, fit, tail_quantiles):
    """Return the standard normal noise that is as rare as errors over half-widths are."""
    exceedance, ratio = error_distribution(fit, tail_quantiles)
    rarity = np.exp(-np.interp(np.abs(standardised), ratio, exceedance))
    return np.sign(standardised) * np.sqrt(2) * scipy.special.erfcinv(rarity)


# ---- Members -------------------------------------------------------------------------------------

def draw_member(thk, coarse, width, types, fit, seed, member, rows, columns, make_consistent):
    """Return a member of a thickness, (y, x) float32 [m].

    thk [m], width: half-width of its 90 % interval, 0 or NaN where it is not drawn [m], types
      {name: cells (bool)}: of the fine cells (y, x); coarse: thickness of the coarse cells [m]
    fit: of uncertainty.fit_intervals, with members; seed, member, rows, columns: see draw_noise
    make_consistent: model.remove_thin_ice, compiled
    """
    width, member_fit = np.nan_to_num(width), fit["members"]
    if not width.any():
        return thk
    noise = draw_noise(member_fit, types, seed, member, rows, columns)
    error = error_from_noise(noise, fit, member_fit["tail_quantiles"])
    error *= width * expand_by_type(member_fit["inflation"], types, thk.shape)
    drawn = make_consistent(np.float32(thk + error)[None], np.float32(coarse)[None],
                            "area").numpy()[0]
    # Coarse cells without any noise keep the last digits of the prediction.
    scale = len(thk) // len(coarse)
    is_drawn = (width > 0).reshape(len(coarse), scale, -1, scale).any(axis=(1, 3))
    return np.where(np.kron(is_drawn, np.ones((scale, scale), bool)), drawn, thk)


def require_fit(settings, effective, drawn):
    """Raise InputError if members are asked for that cannot be drawn with a run.

    settings: of the run; effective: with the self-ensemble that is used; drawn: None for none.
    """
    run = settings["run"]
    if not drawn or "members" in effective.get("uncertainty", {}):
        return
    if settings["data"]["degrade"] != "area":
        raise InputError(f"--members: run {run} was trained on point samples; members are of cell "
                         "means. Train a run with --degrade area")
    if "members" in settings.get("uncertainty", {}):
        raise InputError("--members: calibrated for the run's own self-ensemble; leave out "
                         "--self-ensemble")
    raise InputError(f"--members: run {run} is not calibrated for them; first "
                     f"python train.py --calibrate --run {run}")


def describe_members(drawn):
    """Return the global attributes of a file with members; drawn: {"numbers", "seed"} or None."""
    return {"members": " ".join(map(str, drawn["numbers"])), "member_seed": drawn["seed"]} if (
        drawn) else {}


def plot_members(path, ice_map, settings, scale):
    """Plot members in the file `path` less the prediction, and the half-width of its intervals."""
    with map_files.open_netcdf(path) as ds:
        step = math.ceil(max(ds["thk"].shape) / (2 * figures.MAX_PANEL_CELLS)) | 1  # odd, as there
        slices = tuple(slice(None, None, step * flip) for flip in ice_map["flips"])

        def read(name, *numbers):  # at the last time
            n_times = ds[name].ndim - 2 - len(numbers)
            return np.ma.filled(ds[name][(*numbers, *(-1,) * n_times, *slices)], np.nan)

        thk, half_width = read("thk"), read("thk_uncertainty")
        topg = read("topg") - ice_map["sea_level_m"] if "topg" in ds.variables else None
        changes = {f"member {number} - prediction": read("thk_member", i) - thk
                   for i, number in enumerate(ds["realization"][:N_PLOTTED_MEMBERS])}
    panels = [(name, change, "error") for name, change in changes.items()]
    x, y = (utils.refine_axis(ice_map[name], scale)[::step] for name in "xy")
    drawn = half_width[half_width > 0]
    limit_m = figures.error_colour_limit_m(drawn if drawn.size else np.zeros(1))
    title = (f"Members of {ice_map['name']} from {ice_map['spacing_m'] / 1000:g} km to "
             f"{ice_map['spacing_m'] / scale / 1000:g} km with run {settings['run']}")
    return figures.plot_map(
        figures.mark_synthetic(title, ice_map["synthetic"]), x, y,
        [*panels, ("90 % interval", half_width, "width")],
        (thk, topg, get_densities(settings["data"])), limit_m, np.nan_to_num(half_width))


# ---- Calibration ---------------------------------------------------------------------------------

def fit_members(samples, fit, settings, make_consistent):
    """Fit what members need beside the intervals: {"members": fit}, of the same samples.

    samples, fit: as of uncertainty.fit_intervals; make_consistent: model.remove_thin_ice, compiled
    Returns
      lengths_cells: of the kernels that noise is smoothed with, (length,) [fine cells]
      length_shares: {surface type: share of the noise's variance by length}
      inflation: {surface type: factor of the half-width}
      tail_quantiles: see find_tail_quantiles
    {} for runs of point samples: members are of maps whose values are cell means.
    """
    scale, data = settings["scale"], settings["data"]
    if data["degrade"] != "area":
        return {}
    sample = pool_samples(samples, fit)
    tail = find_tail_quantiles(sample, fit)
    lengths = smoothing_lengths(scale)
    member_fit = {"lengths_cells": lengths, "tail_quantiles": tail,
                  "length_shares": fit_correlation(sample, fit, tail, lengths, scale)}
    member_fit["inflation"] = fit_inflation(sample, fit | {"members": member_fit}, scale,
                                            make_consistent)
    return {"members": member_fit}


def pool_samples(samples, fit):
    """Return at most N_FIT_PATCHES patches of all samples: thk, error, width and types.

    types: {name: cells that are of this type alone}, and all undetermined cells.
    """
    parts = []
    for sample in samples:
        names = [name for name in sample["types"] if name != "all"]
        number = expand_by_type({"all": -1} | {name: i for i, name in enumerate(names)},
                                sample["types"], sample["thk"].shape)
        parts.append({
            "thk": sample["thk"], "error": sample["errors"]["model"],
            "width": compute_half_width(sample["spread"], sample["thk"], sample["types"], fit),
            "all": sample["types"]["all"]} | {
            name: sample["types"]["all"] & (number == i) for i, name in enumerate(names)})
    pooled = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    chosen = np.random.default_rng(0).permutation(len(pooled["thk"]))[:N_FIT_PATCHES]
    pooled = {key: field[chosen] for key, field in pooled.items()}
    types = {name: pooled.pop(name) for name in ("all", *names)}
    return pooled | {"types": {name: cells for name, cells in types.items() if name == "all" or (
        name in fit["coverage_factors"] and cells.sum() >= MIN_FIT_CELLS)}}


def find_tail_quantiles(sample, fit):
    """Return quantiles of |error| / half-width at TAIL_LEVELS, over that of 0.9: a list.

    Cells count by their half-width: the largest ratios are of cells that have hardly any, and
    would make errors of kilometres where it is large.
    """
    width, error = (sample[key][sample["types"]["all"]] for key in ("width", "error"))
    ratio = np.abs(error) / width
    order = np.argsort(ratio)
    share = np.cumsum(width[order], dtype=float) / np.sum(width, dtype=float)
    at_90, *tail = np.interp([0.9, *TAIL_LEVELS], share, ratio[order])
    at_95 = fit["error_quantiles"][18]
    return [float(max(quantile / at_90 if at_90 > 0 else level / 0.9, at_95))
            for quantile, level in zip(tail, TAIL_LEVELS, strict=True)]


def fit_correlation(sample, fit, tail_quantiles, lengths, scale):
    """Return the share of every length in the variance of the noise, {surface type: (length,)}.

    The covariance of errors is a sum of those of smoothed noise, each without its coarse means,
    with weights of 0 or more: non-negative least squares (Lawson and Hanson 1974).
    """
    n_lags = 2 * scale + 1
    expected = np.stack([covariance_within_cells(length, scale, n_lags) for length in lengths],
                        axis=1)  # (lag, length)
    # Rare large errors would outweigh all others, so covariances are those of the noise.
    noise = noise_from_error(sample["error"] / np.maximum(sample["width"], 1e-9), fit,
                             tail_quantiles)
    shares = {}
    for name, cells in sample["types"].items():
        weights = scipy.optimize.nnls(expected, measure_covariance(noise, cells, n_lags))[0]
        weights = weights if weights.any() else np.ones(len(lengths))  # no errors, no correlation
        shares[name] = (weights / weights.sum()).tolist()
    return shares


def covariance_within_cells(length, scale, n_lags):
    """Return the covariance along an axis of smoothed noise less its coarse means, (lag,).

    With K the covariance along an axis, M the means over coarse cells and averages over positions:

        K_y K_x - (M K)_y (M K)_x - (K M)_y (K M)_x + (M K M)_y (M K M)_x
    """
    n = 8 * scale
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    kept, means = kernel_correlation(length, n)[distance], np.kron(
        np.eye(n // scale), np.full((scale, scale), 1 / scale))
    inside = np.arange(2 * scale, 4 * scale)  # whole coarse cells, n_lags from the end
    covariance = np.zeros(n_lags)
    for sign, matrix in ((1, kept), (-1, means @ kept), (-1, kept @ means),
                         (1, means @ kept @ means)):
        along = [matrix[inside, inside + lag].mean() for lag in range(n_lags)]
        covariance += sign * np.multiply(along, along[0])
    return covariance


def measure_covariance(field, cells, n_lags):
    """Return the mean product of cells at 0, 1, ... cells from each other along both axes, (lag,).

    field: (patch, y, x), of mean 0; cells (bool): those that count.
    """
    field = np.where(cells, field, 0)
    covariance = np.zeros(n_lags)
    for lag in range(min(n_lags, *field.shape[1:])):
        pairs = [(np.s_[:, lag:], np.s_[:, :field.shape[1] - lag]),
                 (np.s_[:, :, lag:], np.s_[:, :, :field.shape[2] - lag])]
        n_pairs = sum(np.count_nonzero(cells[one] & cells[other]) for one, other in pairs)
        covariance[lag] = sum(np.sum(field[one] * field[other]) for one, other in pairs) / max(
            n_pairs, 1)
    return covariance


def fit_inflation(sample, fit, scale, make_consistent):
    """Return the factors with which members cover as much as the intervals do, {surface type: }.

    So a run's intervals and its members are as wide, also where the intervals were inflated.
    """
    thk, error, width, types = (sample[key] for key in ("thk", "error", "width", "types"))
    label, member_fit = thk - error, fit["members"]
    coarse = utils.coarsen_fields(label, scale, "area").astype(np.float32)
    side, n_rows = thk.shape[2], thk.shape[0] * thk.shape[1]
    as_map = {name: cells.reshape(n_rows, side) for name, cells in types.items()}
    errors = [width * error_from_noise(
        draw_noise(member_fit, as_map, 0, member, slice(0, n_rows), slice(0, side)), fit,
        member_fit["tail_quantiles"]).reshape(thk.shape) for member in range(N_FIT_MEMBERS)]
    inflation = dict.fromkeys(types, 1.0)
    # By how much the coverage rises with the logarithm of the width, at its 90 %.
    rise = 0.05 / max(np.log(fit["error_quantiles"][18]), 0.05)
    for _ in range(N_FIT_STEPS):
        factor = expand_by_type(inflation, types, thk.shape)
        members = [make_consistent(np.float32(thk + factor * drawn), coarse, "area").numpy()
                   for drawn in errors]
        is_covered = share_in_range(members, label)
        for name, cells in types.items():
            missing = np.mean((np.abs(error) <= width)[cells]) - np.mean(is_covered[cells])
            inflation[name] = float(np.clip(inflation[name] * np.exp(missing / rise),
                                            *INFLATION_LIMITS))
    return inflation


def share_in_range(members, label):
    """Return the chance that a label is neither the lowest nor the highest beside the members.

    Members that equal the label, as 0 m does, are below or above it at random.
    members: (member, y, x) or a list; label (y, x), or more axes alike; at least two members.
    """
    n_below, n_equal = np.zeros(label.shape, int), np.zeros(label.shape, int)
    for member in members:
        n_below += member < label
        n_equal += member == label
    lowest, highest = np.maximum(n_below, 1), np.minimum(n_below + n_equal, len(members) - 1)
    return np.maximum(highest - lowest + 1, 0) / (n_equal + 1)
