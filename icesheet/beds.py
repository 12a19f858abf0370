"""icesheet.beds."""

import contextlib
import functools
from pathlib import Path

import numpy as np

import utils
from icesheet import files, map_files, map_layout, projections
from icesheet.command_line import InputError
from icesheet.settings import needs_topg

CELLS_PER_READ = 4_000_000  # of a bed that are read at a time, to check them


def bed_in_memory(ice_map):
    """The bed of a map in memory, as open_bed_for_map gives that of a file; None where the map has none."""
    if ice_map["topg"] is None:
        return None
    reads = {name: (lambda rows, columns, field=ice_map[key]: field[rows, columns])
             if ice_map[key] is not None else None
             for name, key in (("read_topg", "topg"), ("read_topg_std", "topg_std"))}
    return {key: ice_map[key] for key in (
        "x", "y", "spacing_m", "name", "path", "sha256", "crs", "citation", "time_label", "variables_read",
        "notes")} | reads | {"change": None}


@contextlib.contextmanager
def open_bed(path, record=-1, names=None, units=None):
    """The bed of a map file, to be read in parts: it may be far larger than memory.

    Yields a *bed*, a dict of x, y, spacing_m, name, path, sha256, crs, citation, describe_time, taken
    and notes as in a map, and read(rows, columns): topg (y, x) float32 [m] of two slices of the
    ascending axes, NaN where missing. read_error: the same of its standard error, or None. change:
    None, or a bed of what is to be added to it [m]. The file is open as long as the block lasts.
    record: of a bed with a time axis; -1 is the last; else as in read_map.
    Raises InputError as read_map does, and where there is no bed in the file.
    """
    with map_files.open_netcdf(path) as ds:
        names = {field: name for field, name in (names or {}).items()
                 if field.startswith("topg") or (field in "xy" and name in ds.variables)}
        found, axes, notes, taken = map_layout.find_fields_and_axes(ds, path, names, ("topg", "topg_std"), units)
        (x_dim, x, factor), (y_dim, y, _), variable = axes["x"], axes["y"], found["topg"]

        def in_file(part, values):
            """The slice of the file's own axis, and the step that makes it ascending."""
            start, stop, _ = part.indices(len(values))
            if values[0] < values[-1]:
                return slice(start, stop), 1
            return slice(len(values) - stop, len(values) - start), -1

        def read(rows, columns, field="topg"):
            (rows, step_y), (columns, step_x) = in_file(rows, y), in_file(columns, x)
            values = map_files.read_field(found[field], field, axes, record, path, None, rows, columns)
            return values[::step_y, ::step_x]

        picked = map_files.select_time_index(variable, x_dim, y_dim, record, path, is_asked_for=True)
        counts, step, known = {}, max(CELLS_PER_READ // len(x), 1), False
        for start in range(0, len(y), step):  # what is wrong anywhere is said before the work
            known |= bool(np.isfinite(map_files.read_field(
                variable, "topg", axes, record, path, counts, slice(start, start + step))).any())
        if not known:
            raise InputError(f"{path}: {variable.name} is missing everywhere; give another bed")
        notes += [text.replace("{}", str(n)) for text, n in counts.items() if n]
        crs = projections.read_crs(ds, variable, notes, factor)
        error = functools.partial(read, field="topg_std") if "topg_std" in found else None
        yield {"x": np.sort(x), "y": np.sort(y), "spacing_m": abs(x[-1] - x[0]) / (len(x) - 1),
               "read_topg": read, "read_topg_std": error, "change": None, "name": Path(path).name,
               "path": Path(path), "sha256": files.hash_file(path), "crs": crs, "variables_read": taken,
               "citation": map_files.find_citation(ds), "time_label": map_files.describe_time(ds, *picked),
               "notes": tuple(notes)}


@contextlib.contextmanager
def open_bed_for_map(ice_map, settings, bed_file=None, record=-1, options=None):
    """The bed for a map (see beds.open_bed_for_map): of another file, or its own; None where it has none.

    That of another file is of the map's first record: its `change` is what the map's own has risen
    since. Raises InputError where the run needs one, or it is of another projection or place.
    """
    if bed_file is None:
        if needs_topg(settings) and (
                ice_map["topg"] is None or np.isnan(ice_map["topg"]).all()):
            raise InputError(f"{ice_map['path']}: no bed (topg) in it, and run {settings['run']} "
                             "needs one; give it with --bed, or use a run trained with --channels "
                             "thk")
        yield bed_in_memory(ice_map)
        return
    options = {key: (options or {}).get(key) for key in ("names", "units")}
    with open_bed(bed_file, record, **options) as bed:
        crs = ice_map["crs"] or {  # taken for EPSG_TO_PROJ:3031, of whatever ellipsoid
            key: value for key, value in projections.EPSG_3031.items()
            if projections.looks_antarctic(ice_map) and "axis" not in key and "flat" not in key}
        different = projections.describe_crs_differences(crs, bed["crs"])
        if different:
            raise InputError(f"{bed_file}: its projection is not that of {ice_map['name']} "
                             f"({different}); reproject it first")
        for name in "xy":
            if bed[name][-1] < ice_map[name][0] or bed[name][0] > ice_map[name][-1]:
                raise InputError(f"{bed_file}: {name} from {bed[name][0]:.0f} to "
                                 f"{bed[name][-1]:.0f} m, the map's from {ice_map[name][0]:.0f} "
                                 f"to {ice_map[name][-1]:.0f} m: not the same place")
        for note in filter(None, (bed["variables_read"], bed["time_label"], *bed["notes"])):
            print(f"bed {bed['name']}: {note}")
        yield bed | {"change": bed_change_since_first_time(ice_map)}


def bed_change_since_first_time(ice_map):
    """What the bed of a map has risen since its first record, as a bed (see beds.open_bed_for_map)."""
    if ice_map["topg_change"] is None:
        return None
    change = utils.fill_nearest(ice_map["topg_change"], np.isnan(ice_map["topg_change"]))
    return bed_in_memory(ice_map) | {"read_topg": lambda rows, columns: change[rows, columns]}


def describe_bed_difference(ice_map, means, bed):
    """How far a bed is from the map's own, for a reader; means: the bed's over the map's cells."""
    off = (means - ice_map["topg"])[utils.is_ice(ice_map["thk"])]
    off = off[np.isfinite(off)].astype(float)
    return f"the bed of {bed['name']} is not that of {ice_map['name']}: " + (
        f"RMS {np.sqrt(np.mean(off**2)):.1f} m under ice" if len(off) else "no ice on both")


def regrid_bed(bed, x, y):
    """The bed on the cells x, y (centres [m], ascending, evenly spaced): (y, x) float32 [m].

    bed: see beds.open_bed_for_map. A finer bed is averaged over the cells, wherever its own lie; one as
    coarse or coarser is interpolated by cubic splines, unless its cells are these very ones.
    NaN where less than half a cell is known. Its change, if any, is added.
    """
    if bed.get("change"):
        return regrid_bed(bed | {"change": None}, x, y) + regrid_bed(bed["change"], x, y)
    wide, spacing = x[1] - x[0], bed["spacing_m"]
    offset = (np.array([x[0] - bed["x"][0], y[0] - bed["y"][0]]) / spacing + 0.5) % 1 - 0.5
    averaged = spacing < 0.999 * wide or (spacing < 1.001 * wide and np.abs(offset).max() < 1e-3)
    margin = (wide if averaged else 12 * spacing) + spacing  # the spline forgets what lies farther
    parts, weights = [], []
    for source, axis in ((bed["y"], y), (bed["x"], x)):
        start, stop = np.searchsorted(source, (axis[0] - margin, axis[-1] + margin))
        if stop - start < 2:
            return np.full((len(y), len(x)), np.nan, np.float32)
        source = source[start:stop]
        parts.append(slice(start, stop))
        if averaged:
            weights.append(utils.overlap_matrix(source, axis))
        else:
            beyond = (axis < source[0] - spacing / 2) | (axis > source[-1] + spacing / 2)
            weights.append(np.where(beyond[:, None], 0, utils.spline_matrix(source, axis)))
    field = bed["read_topg"](*parts)
    known = np.isfinite(field)
    share = weights[0] @ known.astype(float) @ weights[1].T
    mean = weights[0] @ np.where(known, field, 0).astype(float) @ weights[1].T
    return np.where(share > 0.5, mean / np.maximum(share, 0.5), np.nan).astype(np.float32)
