"""Beds: the bed of a map in memory, or of a file that is read in parts, regridded to other cells.

A *bed* is a dict, made by `bed_in_memory` or `open_bed`:
    x, y, spacing_m, name, path, sha256, crs, citation, time_label, variables_read, notes    as in
                    a map (see the top of map_files.py)
    read_topg       function of two slices (rows, columns) of the ascending axes: bed elevation
                    above the sea level [m], (y, x) float32, NaN where missing
    read_topg_std   the same of its standard error [m]; None if there is none
    change          a bed: change of elevation [m] that is added to this one; None if there is none
    reference       the map's own bed when it was this one, see read_reference_bed; None if unknown
"""

import contextlib
import functools
import re
from pathlib import Path

import numpy as np
import scipy.ndimage

import utils
from icesheet import files, map_files, map_layout, projections
from icesheet.command_line import InputError
from icesheet.settings import needs_topg
from icesheet.time_axis import describe_time, select_time_index

CELLS_PER_READ = 4_000_000  # cells of a bed file that are checked at a time
# Two beds of one map are compared by what is smooth over this length, as isostasy is, and the rest.
SMOOTH_LENGTH_M = 200e3
MAX_SMOOTH_RMS_M, MAX_REST_RMS_M = 20, 50  # bilinear for mean: rest 76 m from 8 to 32 km


def bed_in_memory(ice_map):
    """Return the bed of a map as a bed (keys: top of this file); None if the map has none."""
    if ice_map["topg"] is None:
        return None
    readers = {name: (lambda rows, columns, field=ice_map[key]: field[rows, columns])
               if ice_map[key] is not None else None
               for name, key in (("read_topg", "topg"), ("read_topg_std", "topg_std"))}
    return {key: ice_map[key] for key in (
        "x", "y", "spacing_m", "name", "path", "sha256", "crs", "citation", "time_label",
        "variables_read", "notes")} | readers | {"change": None, "reference": None}


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
               if "topg_std" in variables else None, "change": None, "reference": None,
               "name": Path(path).name, "path": Path(path), "sha256": sha256, "crs": crs,
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
def open_bed_for_map(ice_map, settings, bed_file=None, time_index=-1, options=None,
                     reference=None):
    """Open the bed to use with a map: from bed_file if given, else the map's own, else None.

    A bed file is shifted by what the map's own bed has risen since it was that of the file: since
    the bed of `reference`, (path, time index), or without one since the first time of the map.
    options: names, units and sea_level_m of map_layout.parse_map_options.
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
        if reference:
            bed["reference"] = read_reference_bed(ice_map, *reference, options)
        yield add_bed_change(bed, ice_map)


def read_reference_bed(ice_map, path, time_index, options):
    """Return the map's own bed when it was the finer one: name, sha256, time_label and topg.

    topg: on the cells of the map, (y, x) [m]. Other arguments: of open_bed_for_map; names and units
    of a bed are about the finer one. Raises InputError if the map has no bed of its own.
    """
    if ice_map["topg"] is None:
        raise InputError(f"{ice_map['path']}: contains no bed (topg) to compare with that of "
                         f"--reference-bed {path}; add it to the file, or leave the option out")
    options = options | {key: {name: value for name, value in (options[key] or {}).items()
                               if not name.startswith("topg")} for key in ("names", "units")}
    with open_bed(path, time_index, **options) as bed:
        note = check_same_place(bed, ice_map)
        map_files.print_notes(f"reference bed {bed['name']}", (
            bed["variables_read"], bed["time_label"], *bed["notes"], note))
        topg = average_over_map(bed, ice_map)
    if np.isnan(topg - ice_map["topg"]).all():
        raise InputError(f"{path}: no bed in any cell where {ice_map['name']} has one; give "
                         "another --reference-bed")
    return {key: bed[key] for key in ("name", "sha256", "time_label")} | {"topg": topg}


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


def add_bed_change(bed, ice_map):
    """Return the bed of another file, with the change of the map's own bed as its `change`.

    The change is that since the reference bed, or since the first time of the map, if it changes.
    """
    change = ice_map["topg_change"]
    if bed["reference"]:
        change = ice_map["topg"] - bed["reference"]["topg"]
    if change is None:
        return bed | {"change": None}
    change = utils.fill_nearest(change, np.isnan(change))
    return bed | {"change": bed_in_memory(ice_map) | {
        "read_topg": lambda rows, columns: change[rows, columns]}}


def describe_bed_change(ice_map, bed):
    """Return a list with a note by what a bed of another file is shifted, if it is."""
    if not bed or not bed["change"]:
        return []
    if not bed["reference"]:
        return ["note: the bed is taken as that of the first time; the change of the map's own bed "
                "since then is added"]
    change = bed["change"]["read_topg"](slice(None), slice(None)).astype(float)
    label = f" ({bed['reference']['time_label']})" if bed["reference"]["time_label"] else ""
    text = (f"the bed of {bed['name']} is shifted by what that of {ice_map['name']} differs from "
            f"{bed['reference']['name']}{label}: mean {change.mean():.1f} m, RMS "
            f"{np.sqrt(np.mean(change**2)):.1f} m")
    return [f"{'note' if np.abs(change).max() > 0.01 else 'warning: no shift'}: {text}"]


def describe_bed_difference(ice_map, bed):
    """Return a list with a note how much a bed of another file differs from the map's own.

    It is a warning, with what to do, if the difference under ice is large: smooth over
    SMOOTH_LENGTH_M where the bed has moved since, rough where it is of another data set.
    """
    if not bed or bed["path"] == ice_map["path"] or ice_map["topg"] is None:
        return []
    difference = (average_over_map(bed, ice_map) - ice_map["topg"]).astype(float)
    known = utils.is_ice(ice_map["thk"]) & np.isfinite(difference)
    name = f"the bed of {bed['name']} is not that of {ice_map['name']}"
    if not known.any():
        return [f"warning: {name}: no ice on both"]
    if np.abs(difference[known]).max() < 0.01:
        return []
    smooth = smooth_where_known(difference, known, SMOOTH_LENGTH_M / ice_map["spacing_m"])[known]
    difference = difference[known]
    rms, smooth_rms, rest_rms = (np.sqrt(np.mean(values**2)) for values in (
        difference, smooth, difference - smooth))
    advice = ""
    if smooth_rms > max(MAX_SMOOTH_RMS_M, rest_rms / 2):
        advice = (f"; smooth, as if {bed['reference']['name']} were of another time than "
                  f"{bed['name']}" if bed["reference"] else
                  "; smooth, as if it has moved: add --reference-bed with the bed of "
                  f"{ice_map['name']} when it was that of {bed['name']}")
    if rest_rms > MAX_REST_RMS_M:
        advice += "; rough, as of another data set: give the one that the map was made with"
    return [f"{'warning' if advice else 'note'}: {name}: RMS {rms:.1f} m under ice (smooth over "
            f"{SMOOTH_LENGTH_M / 1000:g} km: mean {smooth.mean():.1f} m, RMS {smooth_rms:.1f} m; "
            f"the rest: RMS {rest_rms:.1f} m){advice}"]


def smooth_where_known(field, known, length_cells):
    """Return the mean of the known cells of a field (y, x) in a square around each cell."""
    side = 2 * max(round((length_cells - 1) / 2), 0) + 1  # odd, so that the cell is in its middle
    known_share = scipy.ndimage.uniform_filter(known.astype(float), side, mode="constant")
    mean = scipy.ndimage.uniform_filter(np.where(known, field, 0), side, mode="constant")
    return mean / np.where(known, known_share, 1)


def average_over_map(bed, ice_map):
    """Return a bed on the cells of a map, (y, x) [m], as regrid_bed, but read in parts."""
    x, y = ice_map["x"], ice_map["y"]
    bed_cells_per_row = len(bed["x"]) * max(ice_map["spacing_m"] / bed["spacing_m"], 1)
    n_parts = max(min(round(len(y) * bed_cells_per_row / CELLS_PER_READ), len(y) // 2), 1)
    return np.concatenate([regrid_bed(bed, x, part) for part in np.array_split(y, n_parts)])


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
