"""What a whole map is downscaled from: its times, and the input arrays of a tile."""

import functools

import numpy as np

import utils
from icesheet import beds, command_line, map_files
from icesheet.command_line import InputError


# Where the thickness of a cell comes from: the values of thk_source; -1 where it is unknown.
THK_SOURCES = ("network", "network_on_own_bed", "bicubic", "no_ice", "filled")
NETWORK, OWN_BED, BICUBIC, NO_ICE, FILLED = range(len(THK_SOURCES))


def read_tile(ice_map, axes, bed, tile, scale, bed_is_needed, fill_missing=False):
    """Return the input arrays of one tile of list_tiles, halo included.

    ice_map: the coarse map; axes: x, y of the fine map [m]; bed: of beds.open_bed_for_map or None.
    coarse: thickness without gaps, (1, coarse y, coarse x) float32 [m]
    topg, topg_read: bed without gaps (1, y, x), with NaN in its gaps (y, x) [m]; None without one
    topg_std: standard error of the bed, 0 in gaps (1, y, x) [m]; None without one
    usrf_read: the map's own surface (y, x) [m], where the bed has gaps; None without one
    is_own_bed: cells (y, x) whose bed is the map's own, because another has a gap there
    source: (y, x) int8, see THK_SOURCES. With fill_missing there are no gaps in thickness and bed.
    """
    y_halo, x_halo = tile[0][1], tile[1][1]
    y, x = (axis[slice(halo.start * scale, halo.stop * scale)]
            for axis, halo in ((axes[1], y_halo), (axes[0], x_halo)))
    no_data = ice_map["no_data"][y_halo, x_halo]  # of coarse cells
    gaps, is_own_bed = np.zeros((len(y), len(x)), bool), np.zeros((len(y), len(x)), bool)
    arrays = dict.fromkeys(("topg", "topg_read", "topg_std", "usrf_read"))
    if bed:
        topg, is_own_bed = read_bed(ice_map, bed, y, x)
        gaps = np.isnan(topg)
        # Maps often have no thickness where there is no ice: there a known bed says it is 0.
        no_data = no_data & gaps.reshape(len(y) // scale, scale, -1, scale).any(axis=(1, 3))
        arrays["topg"] = utils.fill_nearest(topg, gaps)[None]
        arrays["topg_read"] = arrays["topg"][0] if fill_missing else topg
        if bed["read_topg_std"] and bed_is_needed:
            topg_std = beds.regrid_bed(
                bed | {"read_topg": bed["read_topg_std"], "change": None}, x, y)
            arrays["topg_std"] = np.maximum(np.nan_to_num(topg_std), 0)[None]
        if ice_map["usrf"] is not None and gaps.any():
            arrays["usrf_read"] = regrid_own_field(ice_map, "usrf", y, x)
    # The nearest thickness in place of an unknown one: a zero would look like an ice margin.
    coarse = utils.fill_nearest(ice_map["thk"][y_halo, x_halo], no_data)
    expand = functools.partial(np.kron, b=np.ones((scale, scale), bool))
    source = np.select(
        [expand(no_data), expand(coarse == 0), gaps & bed_is_needed, is_own_bed & bed_is_needed],
        [FILLED if fill_missing else -1, NO_ICE, BICUBIC, OWN_BED], NETWORK).astype(np.int8)
    return arrays | {"coarse": coarse[None], "source": source, "is_own_bed": is_own_bed}


def read_bed(ice_map, bed, y, x):
    """Return the bed on the cells y, x [m], (y, x) [m], and where it is the map's own (bool).

    The map's own bed, interpolated by a spline, serves where that of another file has gaps.
    """
    topg = beds.regrid_bed(bed, x, y)
    is_own_bed = np.zeros(topg.shape, bool)
    if bed["path"] != ice_map["path"] and ice_map["topg"] is not None and np.isnan(topg).any():
        own_topg = regrid_own_field(ice_map, "topg", y, x)
        is_own_bed = np.isnan(topg) & np.isfinite(own_topg)
        topg = np.where(is_own_bed, own_topg, topg)
    return topg, is_own_bed


def regrid_own_field(ice_map, name, y, x):
    """Return a field of the map on finer cells y, x [m] as a bed is (see beds.regrid_bed)."""
    return beds.regrid_bed({key: ice_map[key] for key in ("x", "y", "spacing_m")} | {
        "read_topg": lambda rows, columns: ice_map[name][rows, columns]}, x, y)


def select_times(map_file, time_option, map_options):
    """Return the map at the first time to compute, the time indices and the output's time axis.

    time_option: an index, or N:M or "all": then the output has a time axis (values, attributes,
    bounds or None) if the map has one; else None.
    """
    if isinstance(time_option, int):
        return map_files.read_map(map_file, time_option, **map_options), [time_option], None
    ice_map = map_files.read_map(map_file, 0, **map_options)
    dim, n_times = ice_map["times"] or (None, 1)
    indices = command_line.parse_time_option(time_option, n_times, map_file)
    if not dim:
        return ice_map, indices, None
    values, attributes, bounds = ice_map["time_axis"]
    if indices[0] != 0:
        ice_map = map_files.read_map(map_file, indices[0], **map_options, first=ice_map)
    if n_times > 1:
        ice_map["time_label"] = f"times {indices[0]} to {indices[-1]} of {n_times}"
    return ice_map, indices, (values[indices], attributes,
                              None if bounds is None else bounds[indices])


def read_time_slices(map_file, first_map, indices, map_options, bed, bed_is_separate):
    """Yield the map and its bed at every time; first_map: the first, which was read already."""
    for number, time_index in enumerate(indices):
        ice_map = first_map
        if number:
            ice_map = map_files.read_map(map_file, time_index, **map_options, first=first_map)
            if bed and ice_map["topg"] is None and (not bed_is_separate or bed["reference"]):
                raise InputError(f"{map_file}: no bed at time index {time_index}, but at others; "
                                 "give one with --bed, without --reference-bed")
            new_notes = [note for note in ice_map["notes"] if note not in first_map["notes"]]
            map_files.print_map_summary(ice_map | {"variables_read": "", "notes": new_notes})
        yield ice_map, beds.add_bed_change(bed, ice_map) if bed_is_separate else (
            beds.bed_in_memory(ice_map))
