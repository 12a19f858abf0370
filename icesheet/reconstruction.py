"""icesheet.reconstruction."""


import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

import utils
from icesheet import flow_metrics, map_files, projections, uncertainty
from icesheet.command_line import InputError
from icesheet.scores import METHOD_STYLES, print_ice_extent_table, print_score_table, score_methods
from icesheet.settings import get_densities

SCORED_CELLS_AROUND_ICE = 8        # a hindcast is scored on ice and so many cells around it


def coarsen_map(fine, scale):
    """A map cut to whole coarse cells, and what its thickness is reduced to by cell means.

    Two maps (see maps). A coarse cell is unknown where one of its cells is. InputError where small.
    """
    ny, nx = (n // scale * scale for n in fine["thk"].shape)
    if min(ny, nx) < 2 * scale:
        raise InputError(f"{fine['name']}: {fine['thk'].shape} cells, too few to be reduced "
                         f"{scale}x")
    fine = fine | {"x": fine["x"][:nx], "y": fine["y"][:ny]} | {
        name: fine[name][:ny, :nx] for name in ("thk", "topg", "usrf", "no_data")
        if fine[name] is not None}
    coarse = map_files.make_map(
        fine["x"].reshape(-1, scale).mean(axis=1), fine["y"].reshape(-1, scale).mean(axis=1),
        utils.coarsen_fields(fine["thk"][None], scale, "area")[0],
        **{key: fine[key] for key in ("crs", "name", "sha256", "title", "synthetic")})
    coarse["no_data"] = fine["no_data"].reshape(ny // scale, scale, nx // scale, scale).any(
        axis=(1, 3))
    return fine, coarse


def score_reconstruction(by_method, fine, coarse, settings, scale):
    """Scores of a hindcast, on ice and SCORED_CELLS_AROUND_ICE cells around it: a dict.

    by_method: {method: (y, x) m}; fine, coarse: of coarsen; settings: of the run.
    all: scores.score_methods; n_lost: ice cells that are not scored, for want of a bed. by_type: the same by
    utils.surface_type_masks (margin: within two coarse cells). by_place: inside and outside the window
    that the run was trained on; only where its map and this one say that they have one projection.
    uncertainty, of a calibrated run, where the coarse map leaves a choice: by_type: {part of the
    above: uncertainty.score_intervals}; halves_within: see uncertainty.half_cell_volume_coverage.
    checks: {method: {max_coarse_mean_error_m: largest difference of the reduced result from the coarse map,
    min_thk_m: lowest thickness, if any is known}}. flow: see flow_metrics.score_flow.
    """
    label, spacing_m, crs = fine["thk"], fine["spacing_m"], settings["data"]["crs"]
    width = by_method.get("uncertainty")
    by_method = {method: by_method[method] for method in METHOD_STYLES if method in by_method}
    known = np.isfinite(by_method["model"])
    ice = utils.is_ice(label)
    near = known & (scipy.ndimage.distance_transform_edt(~ice) <= SCORED_CELLS_AROUND_ICE if ice.any() else True)
    thk_max_m = max(float(label.max()), 1.0)

    def score(cells):
        return score_methods(by_method, label, cells & near, thk_max_m, spacing_m)

    types = utils.surface_type_masks(label, fine["topg"], 2 * scale,
                                get_densities(settings["data"]))
    places, scores = {}, {
        "all": score(near), "n_ice_cells_without_bed": int((ice & ~known).sum()), "by_region": {}, "checks": {},
        "by_surface_type": {name: score(cells) for name, cells in types.items()}}
    if crs and fine["crs"] and not projections.describe_crs_differences(crs, fine["crs"]):
        x0, x1, y0, y1 = settings["data"]["window"]
        window = (((fine["y"] >= y0) & (fine["y"] <= y1))[:, None]
                  & (fine["x"] >= x0) & (fine["x"] <= x1))
        places = {"inside training window": window, "outside training window": ~window}
        scores["by_region"] = {name: score(cells) for name, cells in places.items()}
    if width is not None:
        fit, error = settings["uncertainty"], by_method["model"] - label
        free = near & (width > 0)
        scores["uncertainty"] = {
            "by_surface_type": {name: uncertainty.score_intervals(error, width, free & cells, fit["error_quantiles"])
                        for name, cells in ({"all": near} | types | places).items()},
            "half_cell_volume_coverage": uncertainty.half_cell_volume_coverage(
                error, np.where(free, width, 0), types, fit, scale)}
    for method, thk in by_method.items():
        reduced = utils.coarsen_fields(np.where(known, thk, 0)[None], scale, "area")[0]
        off = np.abs(reduced - coarse["thk"])[known[::scale, ::scale]]
        scores["checks"][method] = {"max_coarse_mean_error_m": float(off.max(initial=0))}
        if known.any():
            scores["checks"][method]["min_thk_m"] = float(np.nanmin(thk))
    scores["flow"] = flow_metrics.score_flow(by_method, fine, coarse, scale, near,
                                     get_densities(settings["data"]))
    return scores


def print_reconstruction(metrics):
    """Print the tables of a hindcast; metrics: see hindcast."""
    print(f"\n{metrics['map']}, {metrics['from_km']:g} km to {metrics['to_km']:g} km: ice and "
          f"{SCORED_CELLS_AROUND_ICE} cells around it" + (f", without {metrics['n_lost']} ice cells whose bed is "
                                           "not known" if metrics["n_ice_cells_without_bed"] else "") + "\n")
    print_score_table({"all": metrics["all"]} | metrics["by_surface_type"] | metrics["by_region"])
    print()
    print_ice_extent_table(metrics["all"]["errors"], {
        method: {"consistency m": f"{checks['max_coarse_mean_error_m']:.3f}",
                 "least thk m": f"{checks['min_thk_m']:.1f}"}
        for method, checks in metrics["checks"].items() if "min_thk_m" in checks})
    flow_metrics.print_flow(metrics["flow"])
    if "uncertainty" in metrics:
        uncertainty.print_intervals(metrics["uncertainty"]["by_surface_type"])
        halves = metrics["uncertainty"]["half_cell_volume_coverage"]
        print("volume: that of coarse cells is kept" + (
            f"; that of their halves is in its 90 % interval in {halves:.0%}" if halves else ""))
