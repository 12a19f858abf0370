"""What a whole map is downscaled from: its times, and the input arrays of a tile."""

import numpy as np

import utils
from icesheet import beds, command_line, map_files
from icesheet.command_line import InputError


def read_tile(ice_map, axes, bed, tile, scale, bed_is_needed):
    """Return the input arrays of one tile of list_tiles, halo included.

    ice_map: the coarse map; axes: x, y of the fine map [m]; bed: of beds.open_bed_for_map or None.
    coarse: thickness without gaps, (1, coarse y, coarse x) float32 [m]
    topg, topg_read, topg_std: bed without gaps (1, y, x), with NaN in its gaps (y, x), standard
      error with 0 in gaps (1, y, x) [m]; None without one
    no_data: cells (y, x) without a result: a coarse cell has a result everywhere or nowhere
    """
    rows, columns = (slice(halo.start * scale, halo.stop * scale) for _, halo in tile)
    with_halo = tile[0][1], tile[1][1]
    ones = np.ones((scale, scale), bool)
    coarse_no_data = ice_map["no_data"][with_halo]
    arrays = {"topg": None, "topg_read": None, "topg_std": None}
    no_data = np.kron(coarse_no_data, ones)
    if bed:
        topg = beds.regrid_bed(bed, axes[0][columns], axes[1][rows])
        gaps = np.isnan(topg)
        incomplete = gaps.reshape(len(gaps) // scale, scale, -1, scale).any(axis=(1, 3))
        # Maps often have no thickness where there is no ice: there a known bed says it is 0.
        coarse_no_data = coarse_no_data & incomplete
        no_data = np.kron(coarse_no_data | incomplete if bed_is_needed else coarse_no_data, ones)
        arrays |= {"topg_read": topg, "topg": utils.fill_nearest(topg, gaps)[None]}
        if bed["read_topg_std"] and bed_is_needed:
            topg_std = beds.regrid_bed(bed | {"read_topg": bed["read_topg_std"], "change": None},
                                       axes[0][columns], axes[1][rows])
            arrays["topg_std"] = np.maximum(np.nan_to_num(topg_std), 0)[None]
    # The nearest thickness in place of an unknown one: a zero would look like an ice margin.
    arrays["coarse"] = utils.fill_nearest(ice_map["thk"][with_halo], coarse_no_data)[None]
    return arrays | {"no_data": no_data}


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
    values, attributes, bounds = map_files.read_time_axis(map_file, dim)
    if indices[0] != 0:
        ice_map = map_files.read_map(map_file, indices[0], **map_options, sha256=ice_map["sha256"])
    if n_times > 1:
        ice_map["time_label"] = f"times {indices[0]} to {indices[-1]} of {n_times}"
    return ice_map, indices, (values[indices], attributes,
                              None if bounds is None else bounds[indices])


def read_time_slices(map_file, first_map, indices, map_options, bed, bed_is_separate):
    """Yield the map and its bed at every time; first_map: the first, which was read already."""
    for number, time_index in enumerate(indices):
        ice_map = first_map
        if number:
            ice_map = map_files.read_map(map_file, time_index, **map_options,
                                         sha256=first_map["sha256"])
            if bed and not bed_is_separate and ice_map["topg"] is None:
                raise InputError(f"{map_file}: no bed at time index {time_index}, but at others; "
                                 "give one with --bed")
            new_notes = [note for note in ice_map["notes"] if note not in first_map["notes"]]
            map_files.print_map_summary(ice_map | {"variables_read": "", "notes": new_notes})
        yield ice_map, bed | {"change": beds.bed_change_since_first_time(ice_map)} if (
            bed_is_separate) else beds.bed_in_memory(ice_map)
