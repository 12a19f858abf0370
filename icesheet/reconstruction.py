"""Reconstruction test: a fine map is coarsened, reconstructed with a run, and compared with itself.

Remote sensing calls this reduced-resolution assessment (Wald's protocol). downscale.py makes the
reconstruction; this module coarsens the map, scores the result and prints the scores.
"""

import numpy as np
import scipy.ndimage

import utils
from icesheet import flow_metrics, map_files, projections, uncertainty
from icesheet.command_line import InputError
from icesheet.scores import METHOD_STYLES, print_ice_extent_table, print_score_table, score_methods
from icesheet.settings import get_densities

SCORED_CELLS_AROUND_ICE = 8  # cells are scored on ice and within this distance of it [fine cells]


def coarsen_map(fine, scale):
    """Return a map cut to whole coarse cells, and its cell means as a coarse map.

    A coarse cell has no data if any of its fine cells has none. Raises InputError for a map with
    fewer than two coarse cells along a side.
    """
    ny, nx = (n // scale * scale for n in fine["thk"].shape)
    if min(ny, nx) < 2 * scale:
        raise InputError(f"{fine['name']}: {fine['thk'].shape} cells, too few to be coarsened "
                         f"{scale}x; expected at least {2 * scale} along both sides")
    fine = fine | {"x": fine["x"][:nx], "y": fine["y"][:ny]} | {
        name: fine[name][:ny, :nx] for name in ("thk", "topg", "usrf", "no_data")
        if fine[name] is not None}
    coarse = map_files.make_map(
        fine["x"].reshape(-1, scale).mean(axis=1), fine["y"].reshape(-1, scale).mean(axis=1),
        utils.coarsen_fields(fine["thk"][None], scale, "area")[0],
        **{key: fine[key] for key in ("crs", "name", "sha256", "title", "synthetic")})
    coarse["no_data"] = split_into_coarse_cells(fine["no_data"], scale).any(axis=(1, 3))
    return fine, coarse


def split_into_coarse_cells(field, scale):
    """Return a field (y, x) as (coarse y, y within, coarse x, x within)."""
    return field.reshape(len(field) // scale, scale, -1, scale)


def score_reconstruction(thk_by_method, fine, coarse, settings, scale):
    """Score a reconstruction on ice and SCORED_CELLS_AROUND_ICE cells around it: a dict.

    thk_by_method: {method: (y, x) [m]}, with the half-width as "uncertainty"; fine, coarse: of
    coarsen_map; settings: of the run.
    Returns
      all, by_surface_type, by_region: scores.score_methods of all cells, of {type: ...} and of
        {region: ...}
      n_ice_cells_without_bed: ice cells that are not scored because their bed is unknown
      uncertainty: see score_uncertainty; only of a calibrated run
      checks: {method: max_coarse_mean_error_m, min_thk_m}, see check_methods
      flow: see flow_metrics.score_flow
    """
    reference, densities = fine["thk"], get_densities(settings["data"])
    width = thk_by_method.get("uncertainty")
    thk_by_method = {method: thk_by_method[method] for method in METHOD_STYLES
                     if method in thk_by_method}
    known, ice = np.isfinite(thk_by_method["model"]), utils.is_ice(reference)
    scored = known
    if ice.any():
        scored = known & (scipy.ndimage.distance_transform_edt(~ice) <= SCORED_CELLS_AROUND_ICE)
    thk_max_m = max(float(reference.max()), 1.0)

    def score(groups):
        return {name: score_methods(thk_by_method, reference, cells & scored, thk_max_m,
                                    fine["spacing_m"]) for name, cells in groups.items()}

    types = utils.surface_type_masks(reference, fine["topg"], 2 * scale, densities)
    regions = find_regions(fine, settings["data"])
    scores = score({"all": scored}) | {
        "n_ice_cells_without_bed": int((ice & ~known).sum()), "by_region": score(regions),
        "checks": check_methods(thk_by_method, coarse, known, scale),
        "by_surface_type": score(types)}
    if width is not None:
        scores["uncertainty"] = score_uncertainty(thk_by_method["model"] - reference, width, scored,
                                                  types, regions, settings["uncertainty"], scale)
    scores["flow"] = flow_metrics.score_flow(thk_by_method, fine, coarse, scale, scored, densities)
    return scores


def find_regions(fine, data):
    """Return the cells (bool) inside and outside the window that the run was trained on.

    {} unless the map and the run's `data` declare the same projection.
    """
    if not data["crs"] or not fine["crs"] or projections.describe_crs_differences(
            data["crs"], fine["crs"]):
        return {}
    x0, x1, y0, y1 = data["window"]
    window = (((fine["y"] >= y0) & (fine["y"] <= y1))[:, None]
              & (fine["x"] >= x0) & (fine["x"] <= x1))
    return {"inside training window": window, "outside training window": ~window}


def score_uncertainty(error, width, scored, types, regions, fit, scale):
    """Score the prediction intervals where the coarse map leaves the thickness undetermined.

    error: model - reference [m], width [m], scored: (y, x); types, regions: {name: cells}.
    Returns by_surface_type: {type or region: uncertainty.score_intervals}, and
    half_cell_volume_coverage.
    """
    undetermined = scored & (width > 0)
    return {
        "by_surface_type": {
            name: uncertainty.score_intervals(error, width, undetermined & cells,
                                              fit["error_quantiles"])
            for name, cells in ({"all": scored} | types | regions).items()},
        "half_cell_volume_coverage": uncertainty.half_cell_volume_coverage(
            error, np.where(undetermined, width, 0), types, fit, scale)}


def check_methods(thk_by_method, coarse, known, scale):
    """Return what holds for every cell: {method: max_coarse_mean_error_m, min_thk_m}.

    max_coarse_mean_error_m: largest difference between the means over coarse cells, all of whose
    cells are known, and the coarse map; min_thk_m: lowest thickness, left out if none is known.
    """
    whole = split_into_coarse_cells(known, scale).all(axis=(1, 3))
    checks = {}
    for method, thk in thk_by_method.items():
        means = utils.coarsen_fields(np.where(known, thk, 0)[None], scale, "area")[0]
        mean_error_m = np.abs(means - coarse["thk"])[whole]
        checks[method] = {"max_coarse_mean_error_m": float(mean_error_m.max(initial=0))}
        if known.any():
            checks[method]["min_thk_m"] = float(np.nanmin(thk))
    return checks


def print_reconstruction(metrics):
    """Print the tables of a reconstruction test; metrics: of downscale.run_reconstruction_test."""
    n_without_bed = metrics["n_ice_cells_without_bed"]
    print(f"\n{metrics['map']}, {metrics['from_km']:g} km to {metrics['to_km']:g} km: ice and "
          f"{SCORED_CELLS_AROUND_ICE} cells around it"
          + (f", without {n_without_bed} ice cells whose bed is unknown" if n_without_bed else "")
          + "\n")
    print_score_table({"all": metrics["all"]} | metrics["by_surface_type"] | metrics["by_region"])
    print()
    print_ice_extent_table(metrics["all"]["errors"], {
        method: {"consistency m": f"{checks['max_coarse_mean_error_m']:.3f}",
                 "lowest thk m": f"{checks['min_thk_m']:.1f}"}
        for method, checks in metrics["checks"].items() if "min_thk_m" in checks})
    flow_metrics.print_flow(metrics["flow"])
    if "uncertainty" in metrics:
        uncertainty.print_intervals(metrics["uncertainty"]["by_surface_type"])
        half_cell_coverage = metrics["uncertainty"]["half_cell_volume_coverage"]
        print("volume: that of coarse cells is preserved" + (
            f"; coverage of the 90 % interval of half coarse cells {half_cell_coverage:.0%}"
            if half_cell_coverage is not None else ""))
