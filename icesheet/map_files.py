"""Map files as modellers have them: what is in them, where it lies, what cannot be right.

A *map* is a dict of gridded fields, made by `make_map` or read by `read_map`:
    x, y            centres of the cells [m], 1-D, ascending
    spacing_m       side of a cell [m]
    thk             ice thickness [m], (y, x) float32, no NaN: missing thickness is zero ice
    topg, usrf      elevation of bed and upper surface [m], (y, x) float32, NaN where missing;
                    None where the file has none; usrf is read only where it is needed
    topg_change     what the bed has risen since the first record [m], (y, x); None: it stays
    topg_std      standard error of the bed [m], (y, x); None where the file says none
    unknown         (y, x) bool: neither thickness nor bed is known
    n_missing_thk, n_negative_thk   cells whose thickness was missing, or negative and set to 0
    crs             attributes of the grid mapping, {} where unknown
    record          number of the record that was read; None where the file has only one
    describe_time     the same for a reader, "record 1 of 3 (2100-01-01)"; "" for None
    records         dimension of the records and how many there are; None without a time axis
    flips           -1 where the file's axis y, x runs down, else 1
    taken, notes    which variables were read; what was assumed or left out: for a reader
    path, name, sha256, title, citation, synthetic     where the map comes from
"""

import contextlib
import warnings
from pathlib import Path

import netCDF4
import numpy as np

import utils
from icesheet import command_line, files, map_layout, netcdf3, projections
from icesheet.command_line import InputError

PLAUSIBLE_M = {"thk": (-np.inf, 6000), "topg": (-13000, 9000), "usrf": (-13000, 9000),
               "lsrf": (-13000, 9000), "topg_std": (-np.inf, 9000)}
UNDECLARED_FILLS = (-9999, -99999, -32767, 32767, -32768, 32768)  # and all that is beyond 1e9
BYTES_PER_CELL = 40  # that reading a cell of a map takes at the most


def make_map(x, y, thk, topg=None, usrf=None, **about):
    """A map (see the top of this file) of axes x, y [m], ascending, and fields (y, x) [m].

    thk: NaN where missing: it becomes zero ice, as negative thickness does, and is counted.
    about: more of the map's keys.
    """
    missing, negative = np.isnan(thk), thk < 0
    return {
        "x": x, "y": y, "spacing_m": float(x[-1] - x[0]) / (len(x) - 1),
        "thk": np.where(missing | negative, 0, thk).astype(np.float32), "topg": topg, "usrf": usrf,
        "no_data": missing if topg is None else missing & np.isnan(topg),
        "n_missing_thk": int(missing.sum()), "n_negative_thk": int(negative.sum()),
        "crs": {}, "time_index": None, "time_label": "", "times": None, "topg_change": None,
        "topg_std": None, "flips": (1, 1), "variables_read": "", "notes": (), "path": None,
        "name": "a map", "sha256": "", "title": "", "citation": "", "synthetic": False} | about


def open_netcdf(path):
    """Open a NetCDF file for reading; InputError if it is missing, truncated or something else."""
    path = Path(path)
    if path.is_dir() and any((path / name).exists() for name in
                             (".zgroup", ".zmetadata", "zarr.json")):
        raise InputError(f"{path}: a Zarr folder; make a NetCDF file of it: python -c \"import "
                         f"xarray; xarray.open_zarr('{path}').to_netcdf('{path.stem}.nc')\"")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise InputError(f"{path}: a GeoTIFF; make a NetCDF file of it: gdal_translate -of "
                             f"netCDF {path} {path.stem}.nc, then --variables thk=Band1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are not read, before an error says it
            needed, ds = netcdf3.expected_netcdf3_size(path), netCDF4.Dataset(path)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        raise InputError(f"{path}: not a readable NetCDF file, or truncated ({command_line.one_line(error)})"
                         ) from None
    size = path.stat().st_size
    if size < needed:  # the library reads zeros there
        ds.close()
        raise InputError(f"{path}: {size} bytes, its header needs {needed}: truncated; copy or "
                         "download it again")
    return ds


def select_time_index(variable, x_dim, y_dim, record, path, is_asked_for=False):
    """Which record of a variable is read: its dimension, its number, how many; else None, None, 1.

    record: its number, from 0, or from -1 backwards. A dimension of length 1 has one record, which
    does for every number, unless it is this variable's record that the user asks for.
    Raises InputError where there is no such record.
    """
    longer = [(dim, size) for dim, size in zip(variable.dimensions, variable.shape, strict=True)
              if dim not in (x_dim, y_dim) and size != 1]
    if not longer:
        if is_asked_for and record not in (-1, 0):
            raise InputError(f"{path}: {variable.name} has one record, there is no record {record}")
        return None, None, 1
    if len(longer) > 1:
        names = " and ".join(f"{dim} ({size})" for dim, size in longer)
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions} with "
                         f"records along {names}; expected records along one more than {y_dim}, "
                         f"{x_dim}; choose one first: ncks -d {longer[0][0]},0 "
                         f"{Path(path).name} ONE.nc")
    dim, count = longer[0]
    if count == 0:
        raise InputError(f"{path}: {variable.name} has no records: {dim} has length 0")
    if not -count <= record < count:
        raise InputError(f"{path}: {variable.name} has {count} records along {dim}, there is no "
                         f"record {record}; choose 0 to {count - 1}")
    return dim, record % count, count


def describe_time(ds, dim, number, count):
    """A record for a reader, with its date where the file has one: "record 0 of 3 (2100-01-01)".

    Arguments as from select_time_index; "" where the file has only one record.
    """
    if dim is None:
        return ""
    date, axis = "", ds.variables.get(dim)
    if axis is not None and " since " in str(getattr(axis, "units", "")):
        with contextlib.suppress(ValueError, OverflowError, TypeError, AttributeError):  # no date
            when = netCDF4.num2date(axis[number], axis.units, getattr(axis, "calendar", "standard"))
            date = f" ({when.strftime('%Y-%m-%d')})"
    return f"record {number} of {count}{date}"


def read_time_axis(path, dim):
    """The time axis of a file for another one: values, attributes, bounds (record, 2) or None."""
    with open_netcdf(path) as ds:
        axis = ds.variables.get(dim)
        if axis is None or axis.ndim != 1 or not map_layout.is_numeric(axis):
            return np.arange(len(ds.dimensions[dim])), {"long_name": f"record along {dim}"}, None
        about = {key: axis.getncattr(key) for key in axis.ncattrs()
                 if key in ("units", "calendar", "long_name", "standard_name")}
        bounds = ds.variables.get(map_layout.text_attribute(axis, "bounds"))
        return np.ma.filled(map_layout.read_values(axis)), about, (
            None if bounds is None else np.ma.filled(map_layout.read_values(bounds)))


def read_field(variable, field, axes, record, path, counts=None, rows=slice(None),
               columns=slice(None)):
    """A field of a map as (y, x) float32 in m, NaN where missing.

    axes: see find_fields_and_axes; rows, columns: a part of it, slices of the file's own axes; counts:
    {text with {}: cells} of what is missing, added to. InputError for values that cannot be right.
    """
    name, x_dim, y_dim = variable.name, axes["x"][0], axes["y"][0]
    if not {x_dim, y_dim} <= set(variable.dimensions):
        raise InputError(f"{path}: {name} has dimensions {variable.dimensions}, expected {y_dim} "
                         f"and {x_dim} among them")
    units = map_layout.parse_length_units(variable)
    if units is None:
        raise InputError(f"{path}: variable {name}: units '{variable.units}', expected m or km; "
                         "convert it first")
    along, number, _ = select_time_index(variable, x_dim, y_dim, record, path)
    parts = {x_dim: columns, y_dim: rows, along: number}
    index = tuple(parts.get(dim, 0) for dim in variable.dimensions)
    counts, (low, high) = {} if counts is None else counts, PLAUSIBLE_M[field]
    values = map_layout.read_values(variable, index)
    hidden = np.ma.getmaskarray(values)
    if field == "thk" and hidden.any() and any("valid" in key for key in variable.ncattrs()):
        variable.set_auto_mask(False)
        whole = map_layout.read_values(variable, index)
        variable.set_auto_mask(True)
        counts[f"{name}: valid_range (or _min, _max) makes {{}} cells with ice missing"] = (
            np.count_nonzero(hidden & (whole > utils.MIN_ICE_THICKNESS_M) & (whole <= high)))
    values = np.ma.filled(values, np.nan)
    if np.isinf(values).any():
        raise InputError(f"{path}: {name} has {np.isinf(values).sum()} infinite values; "
                         "mark them as missing (_FillValue) or mend them")
    scale = map_layout.numeric_attribute(variable, "scale_factor", 1, path)
    offset = map_layout.numeric_attribute(variable, "add_offset", 0, path)
    listed = [scale * fill + offset for fill in UNDECLARED_FILLS if scale == 1 or abs(fill) > 32000]
    narrow = np.float32(np.clip(values, -2e9, 2e9))
    fills = np.isin(narrow, np.float32(listed)) | (np.abs(narrow) > 1e9)
    if fills.any():
        text = f"{name}: {{}} cells hold {values[fills][0]:g}, an undeclared fill value: missing"
        counts[text] = counts.get(text, 0) + int(fills.sum())
        values[fills] = np.nan
    values *= 1000 if units == "km" else 1
    kept = [dim for dim in variable.dimensions if dim in (x_dim, y_dim)]
    wrong = np.argwhere((values < low) | (values > high))
    if len(wrong):
        at = tuple(wrong[0])
        place = ", ".join(f"{d} {i + (parts[d].start or 0)}" for d, i in zip(kept, at, strict=True))
        raise InputError(f"{path}: {name} is {values[at]:g} m in cell {place} and out of range in "
                         f"{len(wrong)} cells, expected " + (f"{low:g} to " if low > -np.inf else
                         "at most ") + f"{high:g} m; check its units and fill values")
    return (values.T if kept == [x_dim, y_dim] else values).astype(np.float32)


def derive_bed(thk, usrf, densities, notes):
    """The bed [m] of a map without one, from thickness and surface [m]: grounded ice and land.

    None where some of the ice floats: its bed does not follow; NaN in open ocean.
    """
    thk = np.where(np.isnan(thk), 0, thk)
    n_floating = np.count_nonzero(utils.is_ice(thk) & (
        usrf < 1.01 * (1 - densities[0] / densities[1]) * thk + 1))
    if n_floating:
        notes.append(f"no bed, and it does not follow from surface and thickness: {n_floating} "
                     "cells of ice float; give one with --bed")
        return None
    notes.append("no bed: taken to be surface - thickness, the surface where there is no ice")
    return np.where(~utils.is_ice(thk) & (usrf == 0), np.nan, usrf - thk).astype(np.float32)


def find_citation(ds):
    """How a file wants to be cited: its first global attribute of that name; "" if it has none."""
    return next((str(ds.getncattr(key)) for key in ds.ncattrs()
                 if "citation" in key.lower() or "reference" in key.lower()), "")


def check_memory(path, rows, columns):
    """Raise InputError where a map of so many cells is larger than the free memory, if known."""
    needed, free = rows * columns * BYTES_PER_CELL, np.inf
    with contextlib.suppress(ImportError, OSError, KeyError, IndexError, ValueError):
        import resource  # Linux alone says all of this
        lines = {line.split()[0]: int(line.split()[1]) for line in [
            *Path("/proc/meminfo").read_text().splitlines(),
            *(line for line in Path("/proc/self/status").read_text().splitlines()
              if line.startswith("VmSize:"))]}
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        free = min(1024 * lines["MemAvailable:"], np.inf if limit == resource.RLIM_INFINITY else
                   limit - 1024 * lines["VmSize:"])
    if needed > free:
        raise InputError(f"{path}: {rows} x {columns} cells need about {needed / 1e9:.1f} GB of "
                         f"memory, {max(free, 0) / 1e9:.1f} GB are free; cut out a part first: "
                         f"ncks -d x,0,999 -d y,0,999 {Path(path).name} PART.nc")


def read_map(path, record=-1, names=None, units=None, densities=None, sha256=None):
    """Read an ice-sheet map in any of the usual layouts; returns a map (see the top of this file).

    Variables are found by CF standard name, then by name (see find_variable); any axis order; y up
    or down; m or km. Fill values, declared or not, and NaN are missing. Thickness is usrf - lsrf
    where there is no thickness, the bed usrf - thk where there is no bed (see derive_bed).
    record: of a file with a time axis, from 0; -1 is the last. names: {field: variable}; units: of
    the axes, m or km, whatever the file says; densities: of ice and sea water [kg m-3]; sha256: of
    the file, where it is known.
    Raises InputError with one line that names the file and what to do.
    """
    with open_netcdf(path) as ds:
        found, axes, notes, taken = map_layout.find_fields_and_axes(ds, path, names or {}, units=units)
        (x_dim, x, factor), (y_dim, y, _) = axes["x"], axes["y"]
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")

        check_memory(path, len(y), len(x))

        def read(field):
            return read_field(found[field], field, axes, record, path, counts)

        counts = {}
        topg = read("topg") if "topg" in found else None
        usrf = None
        if "usrf" in found and not {"thk", "topg"} <= found.keys():
            try:
                usrf = read("usrf")
            except InputError as error:
                if "thk" not in found:
                    raise
                notes.append(f"no bed from the surface ({error})")  # --bed may have one
        thk = read("thk") if "thk" in found else usrf - read("lsrf")
        topg_std = read("topg_std") if {"topg", "topg_std"} <= found.keys() else None
        topg_change, first = None, found["thk" if "thk" in found else "usrf"]
        notes += [text.replace("{}", str(n)) for text, n in counts.items() if n]
        if topg is None and usrf is not None:
            topg = derive_bed(thk, usrf, densities or utils.DENSITIES, notes)
        elif topg is not None and select_time_index(found["topg"], x_dim, y_dim, -1, path)[2] > 1:
            topg_change = topg - read_field(found["topg"], "topg", axes, 0, path)
        picked = select_time_index(first, x_dim, y_dim, record, path, is_asked_for=True)
        about = {"crs": projections.read_crs(ds, first, notes, factor),
                 "citation": find_citation(ds), "time_index": picked[1],
                 "time_label": describe_time(ds, *picked), "notes": tuple(notes), "variables_read": taken,
                 "times": (picked[0], picked[2]) if picked[0] else next((
                     (dim, 1) for dim in first.dimensions if dim.lower() in ("time", "t")), None)}
        texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
    # Both axes ascending, whatever the file's order.
    flips = tuple(-1 if axis[0] > axis[-1] else 1 for axis in (y, x))
    flip = tuple(slice(None, None, step) for step in flips)
    fields = {key: None if values is None else values[flip] for key, values in (
        ("thk", thk), ("topg", topg), ("usrf", usrf), ("topg_change", topg_change),
        ("topg_std", topg_std))}
    return make_map(np.sort(x), np.sort(y), **fields, **about, path=Path(path), flips=flips,
                    name=Path(path).name, sha256=sha256 or files.hash_file(path),
                    title=texts.get("title", ""), synthetic=texts.get("synthetic") == "yes")


def print_map_summary(ice_map):
    """Print what was read of a map that its user should know: variables, record, missing cells."""
    missing, negative = ice_map["n_missing_thk"], ice_map["n_negative_thk"]
    for note in (
            ice_map["variables_read"], ice_map["time_label"], *ice_map["notes"],
            missing and f"{missing} cells have no thickness: {int(ice_map['no_data'].sum())} of "
                        "them unknown, the others without ice",
            negative and f"{negative} cells have negative thickness: zero ice"):
        if note:
            print(f"{ice_map['name']}: {note}")
