"""What a flow model feels of an error in thickness: surface, slopes, grounding, pinning points.

No model is run here (tests/benchmarks/shock.py does that). The divergence of the flux of a given
velocity is out of scope: it needs velocities, which a map of thickness does not bring.

Slopes, diffusivity and driving stress are those of the corners of cells, where a shallow-ice model
has them (Mahaffy 1976, doi:10.1029/JC081i006p01059): means over the four cells that meet there.
Arrays are (y, x), in m, on square cells.
"""


import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

import utils
from icesheet import command_line
from icesheet.scores import METHOD_STYLES, compute_rmse_m

GRAVITY = 9.81  # [m s-2]
MIN_STRESS_THICKNESS_M = 100.0  # driving stress is compared where ice is thicker than that
METHOD_NAMES = {  # what is compared: also how flow models bring a coarse map to their grids
    "constant": "piecewise constant",  # first-order conservative, as CDO's remapycon
    "bilinear": "bilinear",  # as PISM
} | {method: name for method, (name, _) in METHOD_STYLES.items()}
TABLE_COLUMNS = (  # what print_flow prints of compute_flow_errors: heading, key, format
    (("surface m", "surface_rmse_m", ".1f"), ("slope m/km", "slope_rmse_m_km", ".1f"),
     ("99 % m/km", "slope_error_99_m_km", ".1f"),
     ("largest D", "diffusivity_largest", ".2f"), ("median D", "diffusivity_median", ".2f"),
     ("stress", "stress_error", ".2f")),
    tuple((name, f"{name.replace(' ', '_')}_km2", ".0f") for name in (
        "falsely grounded", "falsely floating", "false ice", "missed ice"))
    + tuple((f"{name} points", f"pinning_points_{name}", "d") for name in ("missed", "spurious")))
NEIGHBOURHOOD = np.ones((3, 3), bool)  # a cell and its eight neighbours


def interpolation_baselines(coarse, scale):
    """A coarse thickness on cells `scale` times finer, as flow models do it: {method: (y, x)}.

    constant: that of its coarse cell; bilinear: between the centres of the coarse cells, constant
    beyond the outermost.
    """
    return {"constant": np.kron(coarse, np.ones((scale, scale))),
            "bilinear": scipy.ndimage.zoom(np.asarray(coarse, float), scale, order=1,
                                           mode="nearest", grid_mode=True)}


def combine_at_corners(cells, combine):
    """combine (a function of four) of the cells around every inner corner: (y - 1, x - 1)."""
    return combine(cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:])


def corners_inside(cells):
    """Corners all four of whose cells are in `cells` (bool)."""
    return combine_at_corners(cells, lambda a, b, c, d: a & b & c & d)


def mean_at_corners(field):
    """Mean of the four cells around every inner corner."""
    return combine_at_corners(field, lambda a, b, c, d: (a + b + c + d) / 4)


def compute_surface_slopes(usrf, spacing_m):
    """Slope along x and y [m/m] of a surface at the corners of cells."""
    return (combine_at_corners(usrf, lambda a, b, c, d: b - a + d - c) / (2 * spacing_m),
            combine_at_corners(usrf, lambda a, b, c, d: c - a + d - b) / (2 * spacing_m))


def label_pinning_points(kind):
    """Numbered pinning points, (y, x) int, 0 elsewhere; kind: of utils.classify_cells.

    A pinning point is grounded ice, cells that touch by sides or corners, around which every cell
    is floating ice: not the map's edge, not sea, land or an unknown cell. Of any size.
    """
    patches, _ = scipy.ndimage.label(kind == 2, structure=NEIGHBOURHOOD)
    no_ice = scipy.ndimage.binary_dilation(kind < 2, NEIGHBOURHOOD, border_value=1)
    return np.where(np.isin(patches, patches[no_ice]), 0, patches)


def count_regions(patches, ungrounded_in=None):
    """How many numbered patches there are; or of them, without grounded ice in another `kind`."""
    numbers = np.unique(patches[patches > 0])
    if ungrounded_in is not None:
        numbers = np.setdiff1d(numbers, patches[ungrounded_in == 2])
    return len(numbers)


def compute_flow_fields(thk, topg, cells, spacing_m, densities=utils.DENSITIES):
    """Fields that a flow model makes of thickness and bed: a dict.

    Of cells: kind (utils.classify_cells, -1 where not in `cells`) and usrf [m]. Of corners: slope (along
    x and y, m/m), diffusivity H^5 |slope|^2 [m5], stress rho g H |slope| [Pa].
    """
    usrf = utils.surface_from_thickness(thk, topg, densities)
    slope, corner_m = compute_surface_slopes(usrf, spacing_m), mean_at_corners(thk)
    return {"kind": np.where(cells, utils.classify_cells(thk, topg, densities), -1), "usrf": usrf,
            "slope": slope, "diffusivity": corner_m**5 * (slope[0] ** 2 + slope[1] ** 2),
            "stress": densities[0] * GRAVITY * corner_m * np.hypot(*slope)}


def compute_flow_errors(thk, label, topg, spacing_m, cells, densities=utils.DENSITIES):
    """What a flow model feels of a thickness in place of the label, on one bed: a dict of numbers.

    thk, label, topg: (y, x) m; cells: those that count (bool), all of them known. Both surfaces
    follow from flotation. thk below 0 is taken for 0.
    compute_rmse_m, surface_rmse_m: of thickness and of upper surface elevation.
    slope_rmse_m_km, slope_error_99_m_km: RMS and 99th percentile of the length of the difference of
    the two slopes [m/km], at corners that lie in the label's ice.
    diffusivity_largest, diffusivity_median: H^5 |slope|^2 over the label's. The largest is that of
    grounded ice and land, each map by its own flotation: it sets the time step. The median is over
    corners in the label's grounded ice.
    stress_error: RMSE of the driving stress rho g H |slope| over the RMS of the label's, where the
    label is thicker than MIN_STRESS_THICKNESS_M.
    falsely_grounded, falsely_floating: grounded ice that floats in the label and the reverse, _km2 and
    _percent of the label's floating or grounded ice. false_ice, missed_ice: ice in one of the two
    alone, _km2 and _percent of the label's ice.
    label_pinning_points: how many the label has (see label_pinning_points). pinning_points_missed: those without
    any grounded cell left; pinning_points_spurious: those of thk without one in the label.
    A number that there is nothing for (no ice, no slope) is left out.
    """
    thk, label, topg = (np.where(cells, field, 0).astype(float) for field in (thk, label, topg))
    thk = np.maximum(thk, 0)
    made, true = (compute_flow_fields(each, topg, cells, spacing_m, densities) for each in (thk, label))
    kind, true_kind = made["kind"], true["kind"]
    values = {"rmse_m": compute_rmse_m(thk[cells], label[cells]),
              "surface_rmse_m": compute_rmse_m(made["usrf"][cells], true["usrf"][cells])}
    off_m_km = 1000 * np.hypot(*np.subtract(made["slope"], true["slope"]))[corners_inside(true_kind >= 2)]
    if off_m_km.size:
        values |= {"slope_rmse_m_km": compute_rmse_m(off_m_km, 0),
                   "slope_error_99_m_km": np.percentile(off_m_km, 99)}
    moving = [each["diffusivity"][corners_inside((each["kind"] == 1) | (each["kind"] == 2))]
              for each in (made, true)]
    grounded = [each["diffusivity"][corners_inside(true_kind == 2)] for each in (made, true)]
    for name, measure, (mine, labels) in (("largest", np.max, moving),
                                          ("median", np.median, grounded)):
        if labels.size and measure(labels) > 0:
            values[f"diffusivity_{name}"] = measure(mine) / measure(labels) if mine.size else 0
    stress = [each["stress"][corners_inside(label > MIN_STRESS_THICKNESS_M)] for each in (made, true)]
    if stress[1].any():
        values["stress_error"] = compute_rmse_m(*stress) / compute_rmse_m(stress[1], 0)
    for name, wrong, of in (
            ("falsely_grounded", (kind == 2) & (true_kind == 3), true_kind == 3),
            ("falsely_floating", (kind == 3) & (true_kind == 2), true_kind == 2),
            ("false_ice", (kind >= 2) & (true_kind < 2), true_kind >= 2),
            ("missed_ice", (kind < 2) & (true_kind >= 2), true_kind >= 2)):
        values[f"{name}_km2"] = wrong.sum() * spacing_m**2 / 1e6
        if of.any():
            values[f"{name}_percent"] = 100 * wrong.sum() / of.sum()
    points, true_points = label_pinning_points(kind), label_pinning_points(true_kind)
    return {name: float(value) for name, value in values.items()} | {
        "pinning_points": count_regions(true_points),
        "pinning_points_missed": count_regions(true_points, kind),
        "pinning_points_spurious": count_regions(points, true_kind)}


def score_flow(by_method, fine, coarse, scale, cells, densities):
    """compute_flow_errors of the methods of a hindcast and of interpolation_baselines: {method: errors}.

    by_method, fine, coarse: see reconstruction.score_reconstruction; cells: those scored. Empty where there is no
    bed or nothing to score.
    """
    if fine["topg"] is None:
        return {}
    cells = cells & np.isfinite(fine["topg"])
    by_method = interpolation_baselines(coarse["thk"], scale) | by_method
    return {method: compute_flow_errors(by_method[method], fine["thk"], fine["topg"], fine["spacing_m"],
                                cells, densities)
            for method in METHOD_NAMES if method in by_method and cells.any()}


def print_flow(errors):
    """Print what score_flow found: areas in km2, with the per cent of compute_flow_errors in brackets."""
    def text(entry, key, form):
        if key not in entry:
            return "-"
        share = entry.get(key.replace("_km2", "_percent")) if key.endswith("_km2") else None
        return f"{entry[key]:{form}}" + ("" if share is None else f" ({share:.1f} %)")

    if not errors:
        return
    points = next(iter(errors.values()))["pinning_points"]
    print("\nwhat a flow model feels; diffusivity D over the label's, stress error over its RMS, "
          f"{points} pinning points")
    for table in TABLE_COLUMNS:
        print()
        command_line.print_table([("", *(heading for heading, _, _ in table))] + [
            (METHOD_NAMES[method], *(text(entry, key, form) for _, key, form in table))
            for method, entry in errors.items()])
