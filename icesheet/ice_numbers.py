"""The numbers of the ice before and after: volume, volume above flotation, areas.

They are summed tile by tile over the cells of the coarse map and of the finer one, twice: with the
area of a cell in the projection, and with its true area where the projection's scale is known.
"""

import json

import numpy as np

import utils
from icesheet import command_line, map_files, projections

OCEAN_AREA_M2 = 3.625e14  # Gregory et al. (2019), doi:10.1007/s10712-019-09525-z
RHO_FRESH = 1000.0  # [kg m-3]: 362.5 Gt of melted ice raise the sea level by 1 mm
# Of print_ice_numbers: {key of sum_ice: what it is}.
QUANTITIES = {
    "volume_km3": "ice volume km3", "volume_above_flotation_km3": "volume above flotation km3",
    "sea_level_equivalent_m": "sea-level equivalent m", "ice_area_km2": "ice area km2",
    "grounded_area_km2": "grounded area km2", "floating_area_km2": "floating area km2",
    "n_ice_cells": "ice cells"}


def sum_ice(thk, topg, cell_area_m2, densities=utils.DENSITIES):
    """Return what the ice of a map sums up to: a dict. Cells of unknown thickness are left out.

    thk: (y, x) [m], NaN where unknown; cell_area_m2: a number, or that of every cell, (y, x)
    topg: above the sea level, (y, x) [m], NaN where unknown; None without a bed
    Returns volume_km3, ice_area_km2, n_ice_cells (thicker than 1 m); with a bed also those that
    flotation decides, of the cells whose bed is known: volume_above_flotation_km3,
    sea_level_equivalent_m, grounded_area_km2, floating_area_km2.
    """
    area_km2 = np.broadcast_to(np.asarray(cell_area_m2, float) / 1e6, thk.shape)
    ice = utils.is_ice(thk)
    sums = {"volume_km3": np.nansum(thk * area_km2) / 1000, "ice_area_km2": area_km2[ice].sum(),
            "n_ice_cells": int(ice.sum())}
    if topg is None:
        return sums
    cell_type = utils.classify_cells(thk, topg, densities)
    # Ice as heavy as the water that it displaces raises no sea level.
    above_flotation = np.maximum(thk + densities[1] / densities[0] * np.minimum(topg, 0.0), 0)
    volume_km3 = np.nansum(above_flotation * area_km2) / 1000
    return sums | {
        "volume_above_flotation_km3": volume_km3,
        "sea_level_equivalent_m": volume_km3 * 1e9 * densities[0] / RHO_FRESH / OCEAN_AREA_M2,
        "grounded_area_km2": area_km2[cell_type == 2].sum(),
        "floating_area_km2": area_km2[cell_type == 3].sum()}


def cell_areas(x, y, spacing_m, crs):
    """Return the areas of cells {"projected_area", "true_area": (y, x) [m2]}; x, y: centres [m].

    The true area only in a polar stereographic projection; crs: attributes of the grid mapping.
    """
    projected = np.full((len(y), len(x)), float(spacing_m) ** 2)
    scale_factor = projections.compute_scale_factor(crs, x, y[:, None])
    return {"projected_area": projected} | (
        {} if scale_factor is None else {"true_area": projected / scale_factor**2})


def add_tile(sums, coarse, fine, areas_m2, densities):
    """Add the ice of a tile to sums, {kind of area: {"coarse" or "fine": dict of sum_ice}}.

    coarse, fine: (thk, topg) of the same place on both grids, see sum_ice. A coarse map is judged
      by its own bed, and by the means of the finer bed where it has none. What is not known on one
      grid counts on neither, so the two are of one place.
    areas_m2: of cell_areas, of the coarse cells
    """
    (coarse_thk, coarse_topg), (thk, topg) = coarse, fine
    scale = len(thk) // len(coarse_thk)

    def in_coarse_cells(cells):
        return cells.reshape(len(coarse_thk), scale, -1, scale)

    def clear(cells, coarse_field, field):
        return (np.where(cells, np.nan, coarse_field),
                np.where(np.kron(cells, np.ones((scale, scale), bool)), np.nan, field))

    unknown = in_coarse_cells(np.isnan(thk)).any(axis=(1, 3))
    coarse_thk, thk = clear(unknown, coarse_thk, thk)
    if topg is not None:
        means = in_coarse_cells(topg).mean(axis=(1, 3))
        coarse_topg = means if coarse_topg is None else np.where(
            np.isnan(coarse_topg), means, coarse_topg)
        no_bed = in_coarse_cells(utils.is_ice(thk) & np.isnan(topg)).any(axis=(1, 3))
        no_bed |= utils.is_ice(coarse_thk) & np.isnan(coarse_topg)
        coarse_topg, topg = clear(no_bed, coarse_topg, topg)
    for kind, area_m2 in areas_m2.items():
        for name, fields in (("coarse", (coarse_thk, coarse_topg, area_m2)), ("fine", (
                thk, topg, np.kron(area_m2 / scale**2, np.ones((scale, scale)))))):
            total = sums.setdefault(kind, {}).setdefault(name, {})
            for key, value in sum_ice(*fields, densities).items():
                total[key] = total.get(key, 0) + value


def compare_sums(sums):
    """Return sums of add_tile with the differences between the grids, rounded to 10 digits.

    They have the keys difference (fine - coarse) and difference_percent (None of 0); not of the
    number of cells, of which the finer map has more.
    """
    compared = {}
    for kind, both in sums.items():
        difference = {key: both["fine"][key] - value for key, value in both["coarse"].items()
                      if key != "n_ice_cells"}
        percent = {key: 100 * value / both["coarse"][key] if both["coarse"][key] else None
                   for key, value in difference.items()}
        compared[kind] = {
            name: {key: value if isinstance(value, int | None) else float(f"{value:.10g}")
                   for key, value in values.items()}
            for name, values in (both | {"difference": difference,
                                         "difference_percent": percent}).items()}
    return compared


def print_ice_numbers(path):
    """Print the numbers of the last time in a finer map's attribute ice_numbers."""
    with map_files.open_netcdf(path) as ds:
        by_time, strip = json.loads(ds.ice_numbers), ds.strip
    numbers = by_time[-1]
    place = f" in strip {strip}" * (strip != "1/1") + (
        f", {numbers['time_label']}" if numbers["time_label"] else "")
    grounded_by = f", grounded by {numbers['bed_of_coarse_map']}" * bool(
        numbers["bed_of_coarse_map"])
    print(f"\nIce of the coarse map{grounded_by}, and of the finer map{place}")
    kinds = [kind for kind in ("projected_area", "true_area") if kind in numbers]
    headings = {"projected_area": ("coarse", "fine", "difference", "%"),
                "true_area": ("true area: coarse", "fine", "%")}
    rows = [("", *(heading for kind in kinds for heading in headings[kind]))]
    for key, quantity in QUANTITIES.items():
        if key in numbers["projected_area"]["fine"]:
            cells = []
            for kind in kinds:
                coarse, fine, difference, percent = (
                    numbers[kind][name].get(key) for name in (
                        "coarse", "fine", "difference", "difference_percent"))
                cells += [f"{coarse:.7g}", f"{fine:.7g}"]
                cells += [] if kind == "true_area" else [
                    "" if difference is None else f"{difference:+.4g}"]
                cells.append("" if percent is None else f"{percent:+.3f}")
            rows.append((quantity, *cells))
    command_line.print_table(rows)
    print(f"all {len(by_time)} times: attribute ice_numbers of {path}\n" * (len(by_time) > 1))
