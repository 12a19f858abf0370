"""Sub-grid fields for coarse models: what a finer map holds within the cells of the coarse one."""

import numpy as np
import scipy.ndimage
import scipy.sparse.csgraph

from icesheet import derived_maps, files, map_layout
from icesheet.flow_metrics import NEIGHBOURHOOD

CELLS_PER_READ = 2_000_000  # cells of the finer map that are in memory at a time
UNKNOWN = "NaN where a fine cell of it is unknown"
# Variables of the file: the variable of the finer map that each comes from, and its attributes.
SUBGRID_VARIABLES = {
    "sftgif": ("thk", {
        "units": "1", "standard_name": "land_ice_area_fraction", "cell_methods": "area: mean",
        "long_name": "fraction of the cell with ice", "comment": UNKNOWN}),
    "sftgrf": ("mask", {
        "units": "1", "standard_name": "grounded_ice_sheet_area_fraction",
        "cell_methods": "area: mean", "long_name": "fraction of the cell with grounded ice",
        "comment": f"sftgrf + sftflf = sftgif; {UNKNOWN}"}),
    "sftflf": ("mask", {
        "units": "1", "standard_name": "floating_ice_shelf_area_fraction",
        "cell_methods": "area: mean", "long_name": "fraction of the cell with floating ice",
        "comment": f"sftgrf + sftflf = sftgif; {UNKNOWN}"}),
    "pinned_fraction": ("mask", {
        "units": "1", "cell_methods": "area: mean",
        "long_name": "fraction of the cell with grounded ice of pinning points",
        "comment": "contained in sftgrf; a pinning point is a region of grounded ice of any size, "
                   "connected by sides or corners of fine cells, all of whose neighbours are "
                   f"floating ice; {UNKNOWN}"}),
} | {
    f"{name}{suffix}": (name, {
        "units": "m", "standard_name": map_layout.STANDARD_NAMES[name],
        "cell_methods": f"area: {method}", "long_name": f"{what} of {quantity} over the cell",
        "comment": f"over the fine cells, 0 m where there is no ice; {UNKNOWN}" if name == "thk"
                   else f"over the fine cells; {UNKNOWN}"})
    for name, quantity in (("thk", "ice thickness"), ("topg", "bed elevation"))
    for suffix, method, what in (("", "mean", "mean"),
                                 ("_stddev", "standard_deviation", "standard deviation"))}


def write_subgrid_file(path, fine_path):
    """Write the sub-grid fields of a finer map on the cells of its coarse map, as CF-1.8 NetCDF.

    The file is left as it is if it was made from this very finer map by this code. It has the axes,
    times and attributes of the finer map; of a strip it has the strip's rows, and no
    pinned_fraction, since a pinning point may lie in two strips.
    """
    made_from = {"fine_map_sha256": files.hash_file(fine_path), "code_sha256": files.hash_code()}
    if derived_maps.is_up_to_date(path, made_from):
        print(f"{path}: complete, left as it is")
        return
    with derived_maps.open_fine_map(fine_path) as fine, files.atomic_write(path) as temporary:
        scale, is_whole = int(fine.scale), fine.strip == "1/1"
        variables = {name: entry for name, entry in SUBGRID_VARIABLES.items()
                     if is_whole or name != "pinned_fraction"}
        attributes = {name: value for name, value in fine.__dict__.items()
                      if name != "uncertainty"} | made_from | {
            "title": f"{fine.title}: sub-grid fields on the cells of the coarse map",
            "history": f"{files.history_entry()}\n{fine.history}"}
        with files.explain_write_errors(path):
            ds = derived_maps.create_file(temporary, fine, variables, attributes, scale)
        try:
            for time_index in derived_maps.list_times(fine):
                for rows, fields in read_row_blocks(fine, scale, time_index, is_whole):
                    with files.explain_write_errors(path):
                        for name, field in compute_subgrid_fields(fields, scale).items():
                            variable = ds[name]
                            variable[derived_maps.index_part(variable, time_index, rows)] = field
        finally:
            with files.explain_write_errors(path):
                ds.close()
    if not is_whole:
        print(f"note: {path}: no pinned_fraction, because a pinning point may lie in two strips")
    print(f"wrote    {path}")


def read_row_blocks(fine, scale, time_index, with_pinned):
    """Yield the rows of the coarse map (a slice) and the finer map's fields in them, at a time.

    Fields {name: (y, x)}: thk and, with a bed, topg, mask and, with_pinned, `pinned` (bool).
    """
    n_rows, n_columns = (fine.dimensions[dim].size for dim in "yx")
    rows_per_read = scale * max(CELLS_PER_READ // (n_columns * scale), 1)
    blocks = [slice(start, min(start + rows_per_read, n_rows))
              for start in range(0, n_rows, rows_per_read)]

    def read(name, rows):
        return fine[name][derived_maps.index_part(fine[name], time_index, rows)]

    names = [name for name in ("thk", "topg", "mask") if name in fine.variables]
    pinned_blocks = find_pinned_cells(lambda rows: read("mask", rows), n_rows, blocks) if (
        with_pinned and "mask" in names) else None
    for rows in blocks:
        fields = {name: read(name, rows) for name in names}
        if pinned_blocks is not None:
            fields["pinned"] = next(pinned_blocks)
        yield slice(rows.start // scale, rows.stop // scale), fields


def compute_subgrid_fields(fields, scale):
    """Return the fields of SUBGRID_VARIABLES on coarse cells, {name: (coarse y, coarse x)}.

    fields: {name: (y, x)} of read_row_blocks; scale: fine cells in a coarse cell, along an axis
    """
    def over_cells(statistic, field):
        blocks = field.reshape(len(field) // scale, scale, -1, scale)
        return statistic(blocks, axis=(1, 3), dtype=float)

    located = derived_maps.locate_ice(fields["thk"], fields.get("mask"))
    if "pinned" in fields:
        located["pinned_fraction"] = np.where(np.isnan(located["sftgrf"]), np.nan,
                                              fields["pinned"])
    result = {name: over_cells(np.mean, cells) for name, cells in located.items()}
    for name in [name for name in ("thk", "topg") if name in fields]:
        result[name] = over_cells(np.mean, fields[name])
        result[f"{name}_stddev"] = over_cells(np.std, fields[name])
    return result


def find_pinned_cells(read_mask, n_rows, blocks):
    """Yield the cells of pinning points (y, x) bool, block by block; memory holds one block.

    The points are those of flow_metrics.label_pinning_points of the whole map. The blocks are read
    twice: a region that goes on in the next block is only known as a whole after the last one.
    read_mask: function of a slice of rows: utils.classify_cells of them, (y, x)
    blocks: slices that divide the n_rows rows
    """
    n_regions, links, excluded = 0, [], [np.zeros(1, int)]  # 0: cells of no region
    row_before = None
    for rows in blocks:
        # One row more on both sides: neighbours in it may be without ice. At the map's edge there
        # is none, and the edge itself counts as such a neighbour.
        first = max(rows.start - 1, 0)
        mask = read_mask(slice(first, min(rows.stop + 1, n_rows)))
        near_no_ice = scipy.ndimage.binary_dilation(mask < 2, NEIGHBOURHOOD, border_value=1)
        own_rows = slice(rows.start - first, rows.stop - first)
        regions, n_new = label_regions(mask[own_rows], n_regions)
        excluded.append(np.unique(regions[near_no_ice[own_rows]]))
        if row_before is not None:  # cells that touch by sides or corners
            padded, n_columns = np.pad(row_before, 1), len(row_before)
            for shift in range(3):
                pairs = np.stack([padded[shift:shift + n_columns], regions[0]])
                links.append(np.unique(pairs[:, (pairs > 0).all(axis=0)], axis=1))
        row_before, n_regions = regions[-1], n_regions + n_new
    links = np.concatenate([np.zeros((2, 0), int), *links], axis=1)
    graph = scipy.sparse.coo_array((np.ones(links.shape[1]), tuple(links)), (n_regions + 1,) * 2)
    _, whole_region = scipy.sparse.csgraph.connected_components(graph, directed=False)
    is_pinning = ~np.isin(whole_region, whole_region[np.concatenate(excluded)])
    n_regions = 0
    for rows in blocks:
        regions, n_new = label_regions(read_mask(rows), n_regions)
        n_regions += n_new
        yield is_pinning[regions]


def label_regions(mask, n_before):
    """Return the regions of grounded ice, numbered from n_before + 1, (y, x) int, and how many."""
    regions, n_regions = scipy.ndimage.label(mask == 2, structure=NEIGHBOURHOOD)
    return np.where(regions > 0, regions + n_before, 0), n_regions
