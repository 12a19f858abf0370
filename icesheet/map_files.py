"""Read map files of ice-sheet models and data sets as maps.

A *map* is a dict of gridded fields, made by `make_map` or read by `read_map`:
    x, y            cell centres [m], 1-D, ascending
    spacing_m       side of a cell [m]
    thk             ice thickness [m], (y, x) float32, no NaN: missing thickness is no ice
    topg            bed elevation above the sea level [m], (y, x) float32, NaN where missing; None
                    if there is none
    usrf            surface elevation, like topg; read only where it is needed
    sea_level_m     height of the sea level in the file [m]: the file has topg + sea_level_m
    topg_change     change of the bed since the first time [m], (y, x); None if it is constant
    topg_std        standard error of the bed [m], (y, x); None if the file has none
    no_data         (y, x) bool: neither thickness nor bed is known
    n_missing_thk, n_negative_thk   number of cells with missing or negative thickness, set to 0
    crs             attributes of the grid mapping, {} if unknown
    time_index      index of the time that was read; None if the file has only one
    time_label      the same for a reader, "time index 1 of 3 (2100-01-01)"; "" for None
    times           (dimension, length) of the time axis; None if there is none
    time_axis       its values, attributes, bounds (time, 2) or None; None if there is none
    flips           (y, x): -1 if the file's axis descends, else 1
    variables_read  which variables were read, for a reader
    notes           what was assumed or left out, for a reader; some begin with "warning: "
    path, name, sha256, title, citation, synthetic     where the map comes from
    file_state      device, inode, size and time stamp of the file, by which a change is seen
"""

import contextlib
import os
import warnings
from pathlib import Path

import netCDF4
import numpy as np

import utils
from icesheet import command_line, files, map_layout, netcdf3, projections
from icesheet.command_line import InputError
from icesheet.time_axis import (
    TIME_NAMES,
    describe_time,
    find_time_variable,
    read_time_axis,
    select_time_index,
)
from icesheet.units import is_above_ellipsoid, parse_length_units

PLAUSIBLE_M = {"thk": (-np.inf, 6000), "topg": (-13000, 9000), "usrf": (-13000, 9000),
               "lsrf": (-13000, 9000), "topg_std": (-np.inf, 9000)}
ELEVATIONS = ("topg", "usrf", "lsrf")
UNDECLARED_FILLS = (-9999, -99999, -32767, 32767, -32768, 32768)
# Magnitudes of further ones: powers of ten, limits of types, NetCDF's defaults.
HUGE_FILLS = np.array([*(10.0**n for n in range(10, 39)), 2.0**31, 2.0**31 - 1, 2.0**63,
                       9.96921e36, 3.402823e38, 1.797693e308])
BYTES_PER_CELL = 48  # most memory that reading a map takes
MAX_SURFACE_RMS_M = 20  # a surface that is farther from bed + thickness is another quantity
# First bytes of other files: what they are, and the command that makes a NetCDF file of them.
OTHER_FORMATS = {
    magic: (name, command) for name, command, *magics in (
        ("GeoTIFF", "convert it to NetCDF: gdal_translate -of netCDF {0} {1}.nc, then --variables "
         "thk=Band1", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        ("gzip archive", "unpack it: gunzip -k {0}", b"\x1f\x8b"),
        ("zip archive", "unpack it: unzip {0}", b"PK\3\4"),
        ("bzip2 archive", "unpack it: bunzip2 -k {0}", b"BZh"),
        ("xz archive", "unpack it: unxz -k {0}", b"\xfd7zXZ")) for magic in magics}


def make_map(x, y, thk, topg=None, usrf=None, **attributes):
    """Return a map (keys: top of this file) of ascending axes x, y [m] and fields (y, x) [m].

    thk: NaN where missing; missing and negative thickness become 0 and are counted.
    attributes: further keys of the map.
    """
    missing, negative = np.isnan(thk), thk < 0
    return {
        "x": x, "y": y, "spacing_m": float(x[-1] - x[0]) / (len(x) - 1),
        "thk": np.where(missing | negative, 0, thk).astype(np.float32), "topg": topg, "usrf": usrf,
        "no_data": missing if topg is None else missing & np.isnan(topg),
        "n_missing_thk": int(missing.sum()), "n_negative_thk": int(negative.sum()), "crs": {},
        "time_index": None, "time_label": "", "times": None, "topg_change": None,
        "topg_std": None, "sea_level_m": 0.0, "time_axis": None, "flips": (1, 1),
        "variables_read": "", "notes": (), "path": None, "file_state": None, "name": "a map",
        "sha256": "", "title": "", "citation": "", "synthetic": False} | attributes


def open_netcdf(path):
    """Open a NetCDF file for reading; InputError if it is missing, truncated or something else."""
    path = Path(path)
    if path.is_dir() and any((path / name).exists() for name in
                             (".zgroup", ".zmetadata", "zarr.json")):
        raise InputError(f"{path}: a Zarr folder; convert it to NetCDF: python -c \"import "
                         f"xarray; xarray.open_zarr('{path}').to_netcdf('{path.stem}.nc')\"")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        start = file.read(8)
    for magic, (name, command) in OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InputError(f"{path}: a {name}; {command.format(path, path.stem)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are not read, before an error says it
            needed, ds = netcdf3.expected_netcdf3_size(path), netCDF4.Dataset(path)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        why = describe_lock_problem(path) or "not a readable NetCDF file, or truncated"
        raise InputError(f"{path}: {why} ({command_line.one_line(error)})") from None
    size = path.stat().st_size
    if size < needed:  # the library reads zeros there
        ds.close()
        raise InputError(f"{path}: file is truncated: {size} bytes, but its header implies "
                         f"{needed}. Copy or download it again")
    return ds


def read_every_chunk(ds, rows_per_read=1000):
    """Read all values of a file in parts; an OSError or RuntimeError where a checksum is wrong."""
    for variable in ds.variables.values():
        n_rows = variable.shape[-2] if variable.ndim > 1 else 1
        for time_number in np.ndindex(variable.shape[:-2]):
            for start in range(0, n_rows, rows_per_read):
                rows = slice(start, start + rows_per_read)
                variable[(*time_number, rows) if variable.ndim > 1 else ...]


def describe_lock_problem(path):
    """Return why HDF5 cannot lock a file, with what to do; "" if it can."""
    with open(path, "rb") as file, contextlib.suppress(ImportError):
        import fcntl  # not on Windows
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return ("locked by another program that has it open to write; wait until that is done, "
                    "or read it as it is with HDF5_USE_FILE_LOCKING=FALSE in the environment")
        except OSError:
            return ("its disk has no file locks, which HDF5 wants; set HDF5_USE_FILE_LOCKING=FALSE "
                    "in the environment")
    return ""


def read_file_state(path):
    """Return device, inode, size and time stamp [ns] of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(path, file_state):
    """Raise InputError if a file has changed since read_file_state returned `file_state`."""
    if read_file_state(path) != file_state:
        raise InputError(f"{path}: changed while it was read; run the command again when the file "
                         "is complete")


def read_field(layout, field, time_index, path, counts=None, rows=slice(None),
               columns=slice(None)):
    """Read a field of a map as (y, x) float32 [m], NaN where missing.

    layout: of map_layout.find_fields_and_axes, and sea_level_m, above which elevations are
    returned; rows, columns: slices of the file's own axes; counts: {text with {}: number of missing
    cells}, added to. Raises InputError for values that cannot be right.
    """
    variable, (x_dim, y_dim) = layout["fields"][field], (layout["axes"][name][0] for name in "xy")
    if not {x_dim, y_dim} <= set(variable.dimensions):
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}, expected "
                         f"{y_dim} and {x_dim} among them")
    units = layout["units"].get(field, parse_length_units(variable))
    if units is None:
        raise InputError(f"{path}: variable {variable.name}: units '{variable.units}', expected m "
                         f"or km; if they are metres under another name, add --units {field}=m")
    counts = {} if counts is None else counts
    time_dim, number, _ = select_time_index(variable, x_dim, y_dim, time_index, path)
    slices = {x_dim: columns, y_dim: rows, time_dim: number}
    index = tuple(slices.get(dim, 0) for dim in variable.dimensions)
    values = mask_fills(variable, field, index, path, counts)
    values *= 1000 if units == "km" else 1
    axis_order = [dim for dim in variable.dimensions if dim in (x_dim, y_dim)]
    low, high = PLAUSIBLE_M[field]
    wrong = np.argwhere((values < low) | (values > high))
    if len(wrong):
        place = ", ".join(f"{dim} {i + (slices[dim].start or 0)}"
                          for dim, i in zip(axis_order, wrong[0], strict=True))
        expected = f"{low:g} to {high:g} m" if low > -np.inf else f"at most {high:g} m"
        raise InputError(f"{path}: {variable.name} is {values[tuple(wrong[0])]:g} m in cell "
                         f"{place} and out of range in {len(wrong)} cells, expected {expected}; "
                         "check its units and fill values")
    if field in ELEVATIONS:  # so flotation, and all that follows from it, needs no sea level
        values -= layout["sea_level_m"]
    return (values.T if axis_order == [x_dim, y_dim] else values).astype(np.float32)


def mask_fills(variable, field, index, path, counts):
    """Read values of a variable in its own units, NaN where missing, by declaration or by value.

    Arguments as in read_field.
    """
    values = map_layout.read_values(variable, index)
    masked = np.ma.getmaskarray(values)
    if field == "thk" and masked.any() and any("valid" in key for key in variable.ncattrs()):
        variable.set_auto_mask(False)
        unmasked = map_layout.read_values(variable, index)
        variable.set_auto_mask(True)
        text = f"{variable.name}: valid_range (or _min, _max) makes {{}} cells with ice missing"
        counts[text] = np.count_nonzero(
            masked & utils.is_ice(unmasked) & (unmasked <= PLAUSIBLE_M[field][1]))
    values = np.ma.filled(values, np.nan)
    if np.isinf(values).any():
        raise InputError(f"{path}: {variable.name} has {np.isinf(values).sum()} infinite values; "
                         "mark them as missing (_FillValue) or correct them")
    scale = map_layout.numeric_attribute(variable, "scale_factor", 1, path)
    offset = map_layout.numeric_attribute(variable, "add_offset", 0, path)
    fill_values = [scale * fill + offset for fill in UNDECLARED_FILLS
                   if scale == 1 or abs(fill) > 32000]
    huge = np.abs(values) > 1e9
    huge[huge] = np.isclose(np.abs(values[huge])[:, None], HUGE_FILLS, 1e-5, 0).any(axis=1)
    with np.errstate(over="ignore"):
        fills = np.isin(np.float32(np.clip(values, -2e9, 2e9)), np.float32(fill_values)) | huge
    if fills.any():
        text = (f"{variable.name}: {{}} cells hold {values[fills][0]:g}, an undeclared fill value: "
                "missing")
        counts[text] = counts.get(text, 0) + int(fills.sum())
        values[fills] = np.nan
    return values


def derive_bed(thk, usrf, densities, sea_level_m, notes):
    """Return the bed [m] of a map without one, surface - thickness, for grounded ice and land.

    NaN in open ocean, whose surface may be at 0 m in the file, or at its sea level. None if some of
    the ice floats, as its bed does not follow.
    """
    thk = np.where(np.isnan(thk), 0, thk)
    n_floating = np.count_nonzero(utils.is_ice(thk) & (
        usrf < 1.01 * (1 - densities[0] / densities[1]) * thk + 1))
    if n_floating:
        notes.append(f"no bed, and it does not follow from surface and thickness: {n_floating} "
                     "cells of ice float; give one with --bed")
        return None
    notes.append("no bed: surface - thickness assumed, the surface where there is no ice")
    is_sea = ~utils.is_ice(thk) & np.isin(usrf, np.float32((0, -sea_level_m)))
    return np.where(is_sea, np.nan, usrf - thk).astype(np.float32)


def find_citation(ds):
    """Return how a file wants to be cited: its first global attribute of that name, or ""."""
    return next((str(ds.getncattr(key)) for key in ds.ncattrs()
                 if "citation" in key.lower() or "reference" in key.lower()), "")


def check_memory(path, rows, columns):
    """Raise InputError if a map of so many cells is larger than the free memory, if known."""
    needed, free = rows * columns * BYTES_PER_CELL, np.inf
    with contextlib.suppress(ImportError, OSError, KeyError, IndexError, ValueError):
        import resource  # Linux alone has all of these files
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


def check_surface(layout, fields, time_index, path, densities):
    """Add a warning to the notes if the surface of a file is not bed + thickness on grounded ice.

    Then one of the three may be another quantity. fields: (y, x) [m] of read_fields.
    """
    variable, thk, topg = layout["surface"], fields["thk"], fields["topg"]
    with contextlib.suppress(InputError):  # a surface that cannot be read is not needed
        usrf = read_field(layout | {"fields": {"usrf": variable}}, "usrf", time_index, path)
        grounded = utils.is_ice(thk) & ~utils.is_floating(thk, topg, densities) & np.isfinite(
            usrf + topg)
        differences = (usrf - topg - thk)[grounded].astype(float)
        rms_m = np.sqrt(np.mean(differences**2)) if len(differences) else 0
        if rms_m > MAX_SURFACE_RMS_M:
            topg_name, thk_name = (layout["fields"][field].name for field in ("topg", "thk"))
            layout["notes"].append(
                f"warning: the surface {variable.name} is not the bed {topg_name} + the thickness "
                f"{thk_name} on grounded ice: RMS {rms_m:.1f} m; if one of them is another "
                "quantity, name the right variables with --variables")


def read_map(path, time_index=-1, names=None, units=None, densities=None, first=None,
             sea_level_m=None):
    """Read an ice-sheet map in any of the usual layouts; returns a map (keys: top of this file).

    Variables are recognised by CF standard name, then by name; any axis order; y up or down; m or
    km. Fill values, declared or not, and NaN are missing. Without a thickness it is usrf - lsrf,
    without a bed usrf - thk.
    time_index: of a file with a time axis, from 0; -1 is the last. names: {field: variable};
    units: {field or x, y: m or km}, instead of the file's; densities: of ice and sea water
    [kg m-3]; first: a map read before from the same file; sea_level_m: height of the sea level in
    the file (None: 0 m).
    Raises InputError, which names the file and what to do, also if the file changes meanwhile.
    """
    file_state = first["file_state"] if first else read_file_state(path)
    with open_netcdf(path) as ds:
        layout = map_layout.find_fields_and_axes(ds, path, names or {}, units=units)
        layout["sea_level_m"] = sea_level_m or 0.0
        (x_dim, x, metres_per_unit), (y_dim, y, _) = layout["axes"]["x"], layout["axes"]["y"]
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")
        check_memory(path, len(y), len(x))
        densities, notes = densities or utils.DENSITIES, layout["notes"]
        fields = read_fields(layout, time_index, path, densities)
        if layout["surface"] and not first:
            check_surface(layout, fields, time_index, path, densities)
        main_field = layout["fields"]["thk" if "thk" in layout["fields"] else "usrf"]
        selection = select_time_index(main_field, x_dim, y_dim, time_index, path, True)
        attributes = read_attributes(ds, path) | {
            "sea_level_m": layout["sea_level_m"],
            "crs": projections.read_crs(ds, main_field, notes, metres_per_unit),
            "time_index": selection[1], "time_label": describe_time(ds, *selection),
            "times": selection[::2] if selection[0] else next((
                (dim, 1) for dim in main_field.dimensions if dim not in (x_dim, y_dim) and (
                    dim.lower() in TIME_NAMES or find_time_variable(ds, dim))), None)}
        if attributes["times"]:
            attributes["time_axis"] = read_time_axis(ds, attributes["times"][0], notes)
        sha256 = first["sha256"] if first else files.hash_file(path)
        check_unchanged(path, file_state)
    # both axes ascending, whatever the file's order
    flips = tuple(-1 if axis[0] > axis[-1] else 1 for axis in (y, x))
    flip = tuple(slice(None, None, step) for step in flips)
    fields = {field: None if values is None else values[flip] for field, values in fields.items()}
    if not utils.is_ice(fields["thk"]).any():
        notes.append(f"warning: no ice: nowhere more than {utils.MIN_ICE_THICKNESS_M:g} m thick")
    return make_map(np.sort(x), np.sort(y), **fields, **attributes, flips=flips, sha256=sha256,
                    file_state=file_state, notes=tuple(notes), variables_read=layout["summary"])


def read_attributes(ds, path):
    """Return what a file is called and says of itself, as keys of a map."""
    texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
    return {"path": Path(path), "name": Path(path).name, "citation": find_citation(ds),
            "title": texts.get("title", ""), "synthetic": texts.get("synthetic") == "yes"}


def read_fields(layout, time_index, path, densities):
    """Read the fields of a map at a time: {key of a map: (y, x) [m] in the file's order, or None}.

    layout: of map_layout.find_fields_and_axes; its notes are extended. Other arguments as in
    read_map.
    """
    variables, axes, notes = layout["fields"], layout["axes"], layout["notes"]
    counts, fields = {}, dict.fromkeys(("thk", "topg", "usrf", "topg_change", "topg_std"))

    def read(field, index=time_index):
        return read_field(layout, field, index, path, counts)

    if "topg" in variables:
        fields["topg"] = read("topg")
    if "usrf" in variables and not {"thk", "topg"} <= variables.keys():
        try:
            fields["usrf"] = read("usrf")
        except InputError as error:
            if "thk" not in variables:
                raise
            notes.append(f"no bed from the surface ({error})")  # --bed may have one
    fields["thk"] = read("thk") if "thk" in variables else fields["usrf"] - read("lsrf")
    if {"topg", "topg_std"} <= variables.keys():
        fields["topg_std"] = read("topg_std")
    notes += [text.replace("{}", str(n)) for text, n in counts.items() if n]
    notes += describe_ellipsoidal_heights(variables)
    if fields["topg"] is None and fields["usrf"] is not None:
        fields["topg"] = derive_bed(fields["thk"], fields["usrf"], densities,
                                    layout["sea_level_m"], notes)
    elif fields["topg"] is not None and select_time_index(
            variables["topg"], axes["x"][0], axes["y"][0], -1, path)[2] > 1:
        fields["topg_change"] = fields["topg"] - read("topg", 0)
    return fields


def describe_ellipsoidal_heights(variables):
    """Return a list with a warning if elevations {field: variable} are above an ellipsoid."""
    names = [variables[field].name for field in ("topg", "usrf", "lsrf")
             if field in variables and is_above_ellipsoid(variables[field])]
    return [f"warning: {' and '.join(names)} above an ellipsoid: flotation needs heights above "
            "sea level; subtract the height of the geoid first"] if names else []


def print_notes(name, notes):
    """Print notes on a file, warnings marked first."""
    for note in filter(None, notes):
        is_warning = note.startswith("warning: ")
        print(f"{'warning: ' * is_warning}{name}: {note.removeprefix('warning: ')}")


def print_map_summary(ice_map):
    """Print what a user should know of a map: variables, time, notes, missing cells."""
    missing, negative = ice_map["n_missing_thk"], ice_map["n_negative_thk"]
    print_notes(ice_map["name"], [
        ice_map["variables_read"], ice_map["time_label"], *ice_map["notes"],
        missing and f"{missing} cells have no thickness: {int(ice_map['no_data'].sum())} of them "
                    "have no bed either (no data), the others are ice-free",
        negative and f"{negative} cells have negative thickness, set to 0"])
