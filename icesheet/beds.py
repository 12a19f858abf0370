"""Beds: the bed of a map in memory, or of a file that is read in parts, regridded to other cells.

A *bed* is a dict, made by `bed_in_memory` or `open_bed`:
    x, y, spacing_m, name, path, sha256, crs, citation, time_label, variables_read, notes    as in
                    a map (see the top of map_files.py)
    read_topg       function of two slices (rows, columns) of the ascending axes: bed elevation
                    above the sea level [m], (y, x) float32, NaN where missing
    read_topg_std   the same of its standard error [m]; None if there is none
    change          a bed: change of elevation [m] that is added to this one; None if there is none
"""

import contextlib
import functools
import re
from pathlib import Path

import numpy as np

import utils
from icesheet import files, map_files, map_layout, projections
from icesheet.command_line import InputError
from icesheet.settings import needs_topg
from icesheet.time_axis import describe_time, select_time_index

CELLS_PER_READ = 4_000_000  # cells of a bed file that are checked at a time


def bed_in_memory(ice_map):
    """Return the bed of a map as a bed (keys: top of this file); None if the map has none."""
    if ice_map["topg"] is None:
        return None
    readers = {name: (lambda rows, columns, field=ice_map[key]: field[rows, columns])
               if ice_map[key] is not None else None
               for name, key in (("read_topg", "topg"), ("read_topg_std", "topg_std"))}
    return {key: ice_map[key] for key in (
        "x", "y", "spacing_m", "name", "path", "sha256", "crs", "citation", "time_label",
        "variables_read", "notes")} | readers | {"change": None}


@contextlib.contextmanager
def open_bed(path, time_index=-1, names=None, units=None, sea_level_m=None):
    """Open the bed of a map file and yield it as a bed; it may be far larger than memory.

    The file is open as long as the block lasts. time_index: of a bed with a time axis, -1 is the
    last; names, units, sea_level_m: as in map_files.read_map.
    Raises InputError as read_map does, and if there is no bed in the file.
    """
    file_state = map_files.read_file_state(path)
    with map_files.open_netcdf(path) as ds:
        names = {field: name for field, name in (names or {}).items()
                 if field.startswith("topg") or (field in "xy" and name in ds.variables)}
        layout = map_layout.find_fields_and_axes(ds, path, names, map_layout.BED_FIELDS, units)
        layout["sea_level_m"] = sea_level_m or 0.0
        variables = layout["fields"]
        (x_dim, x, metres_per_unit), (y_dim, y, _) = (layout["axes"][name] for name in "xy")

        def read(rows, columns, field="topg"):
            (rows, y_step), (columns, x_step) = file_slice(rows, y), file_slice(columns, x)
            values = map_files.read_field(layout, field, time_index, path, None, rows, columns)
            map_files.check_unchanged(path, file_state)
            return values[::y_step, ::x_step]

        selection = select_time_index(variables["topg"], x_dim, y_dim, time_index, path, True)
        layout["notes"] += check_bed_values(layout, time_index, path)
        crs = projections.read_crs(ds, variables["topg"], layout["notes"], metres_per_unit)
        sha256 = files.hash_file(path)
        map_files.check_unchanged(path, file_state)
        yield {"x": np.sort(x), "y": np.sort(y), "spacing_m": abs(x[-1] - x[0]) / (len(x) - 1),
               "read_topg": read, "read_topg_std": functools.partial(read, field="topg_std")
               if "topg_std" in variables else None, "change": None, "name": Path(path).name,
               "path": Path(path), "sha256": sha256, "crs": crs,
               "citation": map_files.find_citation(ds), "variables_read": layout["summary"],
               "time_label": describe_time(ds, *selection),
               "notes": tuple(layout["notes"])}


def file_slice(part, values):
    """Return the slice of the file's axis for a slice of the ascending one, and its step, 1 or -1.

    values: of the file's axis.
    """
    start, stop, _ = part.indices(len(values))
    if values[0] < values[-1]:
        return slice(start, stop), 1
    return slice(len(values) - stop, len(values) - start), -1


def check_bed_values(layout, time_index, path):
    """Read a whole bed in parts, so that errors come before the work; returns notes.

    Raises InputError for values out of range, and if all are missing. Arguments as in
    map_files.read_field.
    """
    counts, n_rows, is_known = {}, len(layout["axes"]["y"][1]), False
    rows_per_read = max(CELLS_PER_READ // len(layout["axes"]["x"][1]), 1)
    for start in range(0, n_rows, rows_per_read):
        topg = map_files.read_field(layout, "topg", time_index, path, counts,
                                    slice(start, start + rows_per_read))
        is_known |= bool(np.isfinite(topg).any())
    if not is_known:
        raise InputError(f"{path}: {layout['fields']['topg'].name} is missing everywhere; give "
                         "another bed")
    return [text.replace("{}", str(n)) for text, n in counts.items() if n] + (
        map_files.describe_ellipsoidal_heights(layout["fields"]))


@contextlib.contextmanager
def open_bed_for_map(ice_map, settings, bed_file=None, time_index=-1, options=None):
    """Open the bed to use with a map: from bed_file if given, else the map's own, else None.

    A bed file is taken as the bed of the first time of the map; if the map's own bed changes, that
    change is added. options: names, units and sea_level_m of map_layout.parse_map_options.
    Raises InputError if the run needs a bed and there is none, or if the file has another
    projection or does not overlap the map.
    """
    if bed_file is None:
        if needs_topg(settings) and (
                ice_map["topg"] is None or np.isnan(ice_map["topg"]).all()):
            raise InputError(f"{ice_map['path']}: contains no bed (topg), but run "
                             f"{settings['run']} needs one. Add --bed BED.nc, or use a run trained "
                             "with --channels thk")
        yield bed_in_memory(ice_map)
        return
    options = {key: (options or {}).get(key) for key in ("names", "units", "sea_level_m")}
    with open_bed(bed_file, time_index, **options) as bed:
        note = check_same_place(bed, ice_map)
        map_files.print_notes(f"bed {bed['name']}", (
            bed["variables_read"], bed["time_label"], *bed["notes"], note))
        yield bed | {"change": bed_change_since_first_time(ice_map)}


def check_same_place(bed, ice_map):
    """Raise InputError if a bed has another projection than the map, or does not overlap it.

    Returns a warning if the projections cannot be compared, else "".
    """
    crs = ice_map["crs"] or {  # assumed to be EPSG:3031, of whatever ellipsoid
        key: value for key, value in projections.EPSG_3031.items()
        if projections.looks_antarctic(ice_map) and not re.search("axis|flat|code", key)}
    differences, is_compared = projections.compare_crs(crs, bed["crs"])
    if differences:
        raise InputError(f"{bed['path']}: its projection is not that of {ice_map['name']} "
                         f"({'; '.join(differences)}); reproject it first")
    for name in "xy":
        if bed[name][-1] < ice_map[name][0] or bed[name][0] > ice_map[name][-1]:
            raise InputError(f"{bed['path']}: {name} from {bed[name][0]:.0f} to "
                             f"{bed[name][-1]:.0f} m, the map's from {ice_map[name][0]:.0f} to "
                             f"{ice_map[name][-1]:.0f} m: not the same place; give another bed")
    if is_compared or not bed["crs"] and not ice_map["crs"] or not crs:
        return ""
    return (f"warning: its projection and that of {ice_map['name']} cannot be compared; check that "
            "they are the same")


def bed_change_since_first_time(ice_map):
    """Return the change of the map's bed since its first time as a bed; None if it is constant."""
    if ice_map["topg_change"] is None:
        return None
    change = utils.fill_nearest(ice_map["topg_change"], np.isnan(ice_map["topg_change"]))
    return bed_in_memory(ice_map) | {"read_topg": lambda rows, columns: change[rows, columns]}


def describe_bed_difference(ice_map, bed_means, bed):
    """Return a list with a warning how much a separate bed differs from the map's own, if it does.

    bed_means: the separate bed averaged over the map's cells, (y, x) [m]; used if it is large.
    """
    if len(bed["x"]) * len(bed["y"]) <= CELLS_PER_READ:  # compared where its values are
        bed_means = regrid_bed(bed, ice_map["x"], ice_map["y"])
    differences = (bed_means - ice_map["topg"])[utils.is_ice(ice_map["thk"])]
    differences = differences[np.isfinite(differences)].astype(float)
    if len(differences) and np.abs(differences).max() < 0.01:
        return []
    how = (f"RMS {np.sqrt(np.mean(differences**2)):.1f} m under ice" if len(differences) else
           "no ice on both")
    return [f"warning: the bed of {bed['name']} is not that of {ice_map['name']}: {how}"]


def regrid_bed(bed, x, y):
    """Return a bed on the cells x, y (centres [m], ascending, evenly spaced): (y, x) float32 [m].

    A bed finer than the target is averaged over the target cells, whatever its alignment. A coarser
    bed is interpolated with cubic splines; a bed on the same cells is copied. Cells less than half
    covered by data are NaN; of an interpolated bed, those whose centre is in a cell without data.
    The change with time is added.
    """
    if bed.get("change"):
        return regrid_bed(bed | {"change": None}, x, y) + regrid_bed(bed["change"], x, y)
    cell, spacing = x[1] - x[0], bed["spacing_m"]
    offset = (np.array([x[0] - bed["x"][0], y[0] - bed["y"][0]]) / spacing + 0.5) % 1 - 0.5
    is_averaged = spacing < 0.999 * cell or (
        spacing < 1.001 * cell and np.abs(offset).max() < 1e-3)
    # a value farther away than 12 cells does not change a cubic spline noticeably
    margin = (cell if is_averaged else 12 * spacing) + spacing
    slices, matrices, nearest = [], [], []
    for source, target in ((bed["y"], y), (bed["x"], x)):
        start, stop = np.searchsorted(source, (target[0] - margin, target[-1] + margin))
        if stop - start < 2:
            return np.full((len(y), len(x)), np.nan, np.float32)
        source = source[start:stop]
        slices.append(slice(start, stop))
        if is_averaged:
            matrices.append(utils.overlap_matrix(source, target))
        else:
            beyond = (target < source[0] - spacing / 2) | (target > source[-1] + spacing / 2)
            matrices.append(np.where(beyond[:, None], 0, utils.spline_matrix(source, target)))
            index = np.clip(np.rint((target - source[0]) / spacing), 0, len(source) - 1)
            nearest.append(np.where(beyond, len(source), index).astype(int))
    topg = bed["read_topg"](*slices)
    known = np.isfinite(topg)
    share = matrices[0] @ known.astype(float) @ matrices[1].T
    mean = matrices[0] @ np.where(known, topg, 0).astype(float) @ matrices[1].T
    is_known, fallback = share > 0.5, np.nan
    if not is_averaged:  # a spline must not make a hole larger or smaller
        fallback = np.pad(topg, (0, 1), constant_values=np.nan)[np.ix_(*nearest)]
        is_known &= np.isfinite(fallback)
    return np.where(is_known, mean / np.maximum(share, 0.5), fallback).astype(np.float32)
