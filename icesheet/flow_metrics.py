"""Errors of a thickness map that matter to ice-flow models: surface, slopes, grounding line.

No flow model is run here (tests/benchmarks/initialisation_shock.py runs one).
Slopes, diffusivity and driving stress are at the corners of cells, as in a shallow-ice model
(Mahaffy 1976, doi:10.1029/JC081i006p01059): means over the four cells that meet there.
Arrays are (y, x), in m, on square cells.
"""

import numpy as np
import scipy.ndimage

import utils
from icesheet import command_line
from icesheet.scores import METHOD_STYLES, compute_rmse_m

GRAVITY = 9.81  # [m s-2]
MIN_STRESS_THICKNESS_M = 100.0  # driving stress is compared where the reference is thicker
METHOD_NAMES = {  # the baselines of reconstruction tests, and how flow models regrid coarse maps
    "constant": "piecewise constant",  # first-order conservative, as CDO's remapycon
    "bilinear": "bilinear",  # as PISM
} | {method: name for method, (name, _) in METHOD_STYLES.items()}
TABLE_COLUMNS = (  # of print_flow: heading, key of compute_flow_errors, format
    (("surface m", "surface_rmse_m", ".1f"), ("slope m/km", "slope_rmse_m_km", ".1f"),
     ("99 % m/km", "slope_error_99_m_km", ".1f"),
     ("largest D", "diffusivity_largest", ".2f"), ("median D", "diffusivity_median", ".2f"),
     ("stress", "stress_error", ".2f")),
    tuple((name, f"{name.replace(' ', '_')}_km2", ".0f") for name in (
        "falsely grounded", "falsely floating", "false ice", "missed ice"))
    + tuple((f"{name} points", f"pinning_points_{name}", "d") for name in ("missed", "spurious")))
NEIGHBOURHOOD = np.ones((3, 3), bool)  # a cell and its eight neighbours


def interpolation_baselines(coarse, scale):
    """Return a coarse thickness on `scale` times finer cells, as flow models regrid it.

    {"constant": the value of the coarse cell, "bilinear": between the centres of the coarse cells,
    constant beyond the outermost}, (y, x) [m].
    """
    return {"constant": np.kron(coarse, np.ones((scale, scale))),
            "bilinear": scipy.ndimage.zoom(np.asarray(coarse, float), scale, order=1,
                                           mode="nearest", grid_mode=True)}


def combine_at_corners(cells, combine):
    """Return combine(a, b, c, d) of the four cells at every inner corner: (y - 1, x - 1)."""
    return combine(cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:])


def corners_inside(cells):
    """Return the corners all four of whose cells are in `cells` (bool)."""
    return combine_at_corners(cells, lambda a, b, c, d: a & b & c & d)


def mean_at_corners(field):
    """Return the mean of the four cells at every inner corner."""
    return combine_at_corners(field, lambda a, b, c, d: (a + b + c + d) / 4)


def compute_surface_slopes(usrf, spacing_m):
    """Return the slope along x and y [m/m] of a surface at the corners of cells."""
    return (combine_at_corners(usrf, lambda a, b, c, d: b - a + d - c) / (2 * spacing_m),
            combine_at_corners(usrf, lambda a, b, c, d: c - a + d - b) / (2 * spacing_m))


def label_pinning_points(kind):
    """Return the pinning points, numbered: (y, x) int, 0 elsewhere; kind: utils.classify_cells.

    A pinning point is a region of grounded ice, of any size, connected by sides or corners, all of
    whose neighbours are floating ice: not the map's edge, sea, land or an unknown cell.
    """
    grounded_regions, _ = scipy.ndimage.label(kind == 2, structure=NEIGHBOURHOOD)
    near_no_ice = scipy.ndimage.binary_dilation(kind < 2, NEIGHBOURHOOD, border_value=1)
    return np.where(np.isin(grounded_regions, grounded_regions[near_no_ice]), 0, grounded_regions)


def count_regions(regions, ungrounded_in=None):
    """Count numbered regions; with a `kind`, only those without any grounded ice in it."""
    numbers = np.unique(regions[regions > 0])
    if ungrounded_in is not None:
        numbers = np.setdiff1d(numbers, regions[ungrounded_in == 2])
    return len(numbers)


def compute_flow_fields(thk, topg, cells, spacing_m, densities=utils.DENSITIES):
    """Return the fields that a flow model derives from thickness and bed: a dict.

    Of cells: thk, usrf [m], kind (utils.classify_cells, -1 where not in `cells`). Of corners: slope
    (along x and y, m/m), diffusivity H^5 |slope|^2 [m5], stress rho g H |slope| [Pa].
    """
    usrf = utils.surface_from_thickness(thk, topg, densities)
    slope, corner_m = compute_surface_slopes(usrf, spacing_m), mean_at_corners(thk)
    return {"kind": np.where(cells, utils.classify_cells(thk, topg, densities), -1), "usrf": usrf,
            "thk": thk, "slope": slope,
            "diffusivity": corner_m**5 * (slope[0] ** 2 + slope[1] ** 2),
            "stress": densities[0] * GRAVITY * corner_m * np.hypot(*slope)}


def compute_flow_errors(thk, reference, topg, spacing_m, cells, densities=utils.DENSITIES):
    """Compute the errors that a flow model inherits from a thickness map: a dict of numbers.

    thk, reference, topg: (y, x) [m]; both thicknesses on one bed, their surfaces by flotation; thk
    below 0 counts as 0. cells (bool): those that count, where all three are known.
    Returns rmse_m and surface_rmse_m (thickness, surface elevation), the numbers of
    compute_gradient_errors and compute_extent_errors, and pinning_points (of the reference),
    pinning_points_missed (no cell of them is grounded in thk) and pinning_points_spurious (points
    of thk that are not grounded anywhere in the reference). Undefined numbers are left out.
    """
    thk, reference, topg = (np.where(cells, field, 0).astype(float)
                            for field in (thk, reference, topg))
    predicted, true = (compute_flow_fields(np.maximum(field, 0), topg, cells, spacing_m, densities)
                       for field in (thk, reference))
    errors = {f"{prefix}rmse_m": compute_rmse_m(predicted[name][cells], true[name][cells])
              for prefix, name in (("", "thk"), ("surface_", "usrf"))}
    errors |= compute_gradient_errors(predicted, true)
    errors |= compute_extent_errors(predicted["kind"], true["kind"], spacing_m)
    points, true_points = (label_pinning_points(fields["kind"]) for fields in (predicted, true))
    return {name: float(value) for name, value in errors.items()} | {
        "pinning_points": count_regions(true_points),
        "pinning_points_missed": count_regions(true_points, predicted["kind"]),
        "pinning_points_spurious": count_regions(points, true["kind"])}


def compute_gradient_errors(predicted, true):
    """Compare what depends on the surface slope; predicted, true: of compute_flow_fields.

    slope_rmse_m_km, slope_error_99_m_km: RMS and 99th percentile of |slope - true slope| [m/km]
      within the reference's ice
    diffusivity_largest: over that of the reference, each on its own grounded ice and land; it sets
      the time step of a flow model
    diffusivity_median: over that of the reference, within the reference's grounded ice
    stress_error: RMSE of the driving stress over its RMS, where the reference is thicker than
      MIN_STRESS_THICKNESS_M
    """
    errors, kind = {}, true["kind"]
    slope_error_m_km = 1000 * np.hypot(*np.subtract(predicted["slope"], true["slope"]))
    slope_error_m_km = slope_error_m_km[corners_inside(kind >= 2)]
    if slope_error_m_km.size:
        errors |= {"slope_rmse_m_km": compute_rmse_m(slope_error_m_km, 0),
                   "slope_error_99_m_km": np.percentile(slope_error_m_km, 99)}
    non_floating = [fields["diffusivity"][corners_inside(np.isin(fields["kind"], (1, 2)))]
                    for fields in (predicted, true)]
    grounded = [fields["diffusivity"][corners_inside(kind == 2)] for fields in (predicted, true)]
    for name, measure, (values, true_values) in (("largest", np.max, non_floating),
                                                 ("median", np.median, grounded)):
        if true_values.size and measure(true_values) > 0:
            ratio = measure(values) / measure(true_values) if values.size else 0
            errors[f"diffusivity_{name}"] = ratio
    thick = corners_inside(true["thk"] > MIN_STRESS_THICKNESS_M)
    stress, true_stress = predicted["stress"][thick], true["stress"][thick]
    if true_stress.any():
        errors["stress_error"] = (compute_rmse_m(stress, true_stress)
                                  / compute_rmse_m(true_stress, 0))
    return errors


def compute_extent_errors(kind, true_kind, spacing_m):
    """Compare grounded, floating and ice-covered area; kind, true_kind: of compute_flow_fields.

    falsely_grounded, falsely_floating: the reference floats or is grounded there, each _km2 and
      _percent of the reference's floating or grounded area
    false_ice, missed_ice: ice in thk or in the reference alone, _km2 and _percent of its ice
    """
    errors = {}
    for name, wrong, reference_area in (
            ("falsely_grounded", (kind == 2) & (true_kind == 3), true_kind == 3),
            ("falsely_floating", (kind == 3) & (true_kind == 2), true_kind == 2),
            ("false_ice", (kind >= 2) & (true_kind < 2), true_kind >= 2),
            ("missed_ice", (kind < 2) & (true_kind >= 2), true_kind >= 2)):
        errors[f"{name}_km2"] = wrong.sum() * spacing_m**2 / 1e6
        if reference_area.any():
            errors[f"{name}_percent"] = 100 * wrong.sum() / reference_area.sum()
    return errors


def score_flow(thk_by_method, fine, coarse, scale, cells, densities):
    """Score a reconstruction test by compute_flow_errors: {method: errors}, {} without a bed.

    Methods: those of thk_by_method and interpolation_baselines of the coarse map. Arguments: as of
    reconstruction.score_reconstruction; cells (bool): those scored.
    """
    if fine["topg"] is None:
        return {}
    cells = cells & np.isfinite(fine["topg"])
    thk_by_method = interpolation_baselines(coarse["thk"], scale) | thk_by_method
    return {method: compute_flow_errors(thk_by_method[method], fine["thk"], fine["topg"],
                                        fine["spacing_m"], cells, densities)
            for method in METHOD_NAMES if method in thk_by_method and cells.any()}


def print_flow(errors):
    """Print the results of score_flow: areas in km2 with their per cent in brackets."""
    def text(entry, key, form):
        if key not in entry:
            return "-"
        share = entry.get(key.replace("_km2", "_percent")) if key.endswith("_km2") else None
        return f"{entry[key]:{form}}" + ("" if share is None else f" ({share:.1f} %)")

    if not errors:
        return
    points = next(iter(errors.values()))["pinning_points"]
    print("\nEffect on ice-flow models: diffusivity D and stress error relative to the reference "
          f"map, which has {points} pinning points")
    for table in TABLE_COLUMNS:
        print()
        command_line.print_table([("", *(heading for heading, _, _ in table))] + [
            (METHOD_NAMES[method], *(text(entry, key, form) for _, key, form in table))
            for method, entry in errors.items()])
