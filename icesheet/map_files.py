"""Read map files of ice-sheet models and data sets as maps.

A *map* is a dict of gridded fields, made by `make_map` or read by `read_map`:
    x, y            cell centres [m], 1-D, ascending
    spacing_m       side of a cell [m]
    thk             ice thickness [m], (y, x) float32, no NaN: missing thickness is no ice
    topg            bed elevation [m], (y, x) float32, NaN where missing; None if there is none
    usrf            surface elevation [m], like topg; read only where it is needed
    topg_change     change of the bed since the first time [m], (y, x); None if it is constant
    topg_std        standard error of the bed [m], (y, x); None if the file has none
    no_data         (y, x) bool: neither thickness nor bed is known
    n_missing_thk, n_negative_thk   number of cells with missing or negative thickness, set to 0
    crs             attributes of the grid mapping, {} if unknown
    time_index      index of the time that was read; None if the file has only one
    time_label      the same for a reader, "time index 1 of 3 (2100-01-01)"; "" for None
    times           (dimension, length) of the time axis; None if there is none
    flips           (y, x): -1 if the file's axis descends, else 1
    variables_read  which variables were read, for a reader
    notes           what was assumed or left out, for a reader; some begin with "warning: "
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
BYTES_PER_CELL = 40  # most memory that reading a map takes


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
        "n_missing_thk": int(missing.sum()), "n_negative_thk": int(negative.sum()),
        "crs": {}, "time_index": None, "time_label": "", "times": None, "topg_change": None,
        "topg_std": None, "flips": (1, 1), "variables_read": "", "notes": (), "path": None,
        "name": "a map", "sha256": "", "title": "", "citation": "", "synthetic": False} | attributes


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
        if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise InputError(f"{path}: a GeoTIFF; convert it to NetCDF: gdal_translate -of "
                             f"netCDF {path} {path.stem}.nc, then --variables thk=Band1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are not read, before an error says it
            needed, ds = netcdf3.expected_netcdf3_size(path), netCDF4.Dataset(path)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        raise InputError(f"{path}: not a readable NetCDF file, or truncated "
                         f"({command_line.one_line(error)})") from None
    size = path.stat().st_size
    if size < needed:  # the library reads zeros there
        ds.close()
        raise InputError(f"{path}: file is truncated: {size} bytes, but its header implies "
                         f"{needed}. Copy or download it again")
    return ds


def select_time_index(variable, x_dim, y_dim, time_index, path, is_user_choice=False):
    """Return the time dimension of a variable, the index to read and the number of times.

    (None, None, 1) if it has no time dimension. A dimension of length 1 is used for any index,
    except for the variable to which --time applies (is_user_choice). time_index: from 0, or from
    -1 backwards. Raises InputError if there is no such time.
    """
    time_dims = [(dim, size) for dim, size in zip(variable.dimensions, variable.shape, strict=True)
                 if dim not in (x_dim, y_dim) and size != 1]
    if not time_dims:
        if is_user_choice and time_index not in (-1, 0):
            raise InputError(f"{path}: {variable.name} has a single time (index 0); time index "
                             f"{time_index} does not exist")
        return None, None, 1
    if len(time_dims) > 1:
        names = " and ".join(f"{dim} ({size})" for dim, size in time_dims)
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}: {names} "
                         f"beside {y_dim} and {x_dim}; expected time alone; choose one first: "
                         f"ncks -d {time_dims[0][0]},0 {Path(path).name} ONE.nc")
    dim, count = time_dims[0]
    if count == 0:
        raise InputError(f"{path}: {variable.name} has no times: {dim} has length 0")
    if not -count <= time_index < count:
        raise InputError(f"{path}: {variable.name} has {count} times along {dim}; time index "
                         f"{time_index} does not exist; choose 0 to {count - 1}")
    return dim, time_index % count, count


def describe_time(ds, dim, time_index, count):
    """Return a time for a reader, with its date if there is one: "time index 0 of 3 (2100-01-01)".

    Arguments as from select_time_index; "" if the file has only one time.
    """
    if dim is None:
        return ""
    date, axis = "", ds.variables.get(dim)
    if axis is not None and " since " in str(getattr(axis, "units", "")):
        with contextlib.suppress(ValueError, OverflowError, TypeError, AttributeError):  # no date
            when = netCDF4.num2date(axis[time_index], axis.units,
                                    getattr(axis, "calendar", "standard"))
            date = f" ({when.strftime('%Y-%m-%d')})"
    return f"time index {time_index} of {count}{date}"


def read_time_axis(path, dim):
    """Read the time axis of a file: values, attributes, bounds (time, 2) or None."""
    with open_netcdf(path) as ds:
        axis = ds.variables.get(dim)
        if axis is None or axis.ndim != 1 or not map_layout.is_numeric(axis):
            return np.arange(len(ds.dimensions[dim])), {"long_name": f"index along {dim}"}, None
        attributes = {key: axis.getncattr(key) for key in axis.ncattrs()
                      if key in ("units", "calendar", "long_name", "standard_name")}
        bounds = ds.variables.get(map_layout.text_attribute(axis, "bounds"))
        return np.ma.filled(map_layout.read_values(axis)), attributes, (
            None if bounds is None else np.ma.filled(map_layout.read_values(bounds)))


def read_field(variable, field, axes, time_index, path, counts=None, rows=slice(None),
               columns=slice(None)):
    """Read a field of a map as (y, x) float32 [m], NaN where missing.

    axes: of map_layout.find_fields_and_axes; rows, columns: slices of the file's own axes;
    counts: {text with {}: number of missing cells}, added to. Raises InputError for values that
    cannot be right.
    """
    x_dim, y_dim = axes["x"][0], axes["y"][0]
    if not {x_dim, y_dim} <= set(variable.dimensions):
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}, expected "
                         f"{y_dim} and {x_dim} among them")
    units = map_layout.parse_length_units(variable)
    if units is None:
        raise InputError(f"{path}: variable {variable.name}: units '{variable.units}', expected m "
                         "or km; convert it first")
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
    as_float32 = np.float32(np.clip(values, -2e9, 2e9))
    fills = np.isin(as_float32, np.float32(fill_values)) | (np.abs(as_float32) > 1e9)
    if fills.any():
        text = (f"{variable.name}: {{}} cells hold {values[fills][0]:g}, an undeclared fill value: "
                "missing")
        counts[text] = counts.get(text, 0) + int(fills.sum())
        values[fills] = np.nan
    return values


def derive_bed(thk, usrf, densities, notes):
    """Return the bed [m] of a map without one, surface - thickness, for grounded ice and land.

    NaN in open ocean. None if some of the ice floats, as its bed does not follow.
    """
    thk = np.where(np.isnan(thk), 0, thk)
    n_floating = np.count_nonzero(utils.is_ice(thk) & (
        usrf < 1.01 * (1 - densities[0] / densities[1]) * thk + 1))
    if n_floating:
        notes.append(f"no bed, and it does not follow from surface and thickness: {n_floating} "
                     "cells of ice float; give one with --bed")
        return None
    notes.append("no bed: surface - thickness assumed, the surface where there is no ice")
    return np.where(~utils.is_ice(thk) & (usrf == 0), np.nan, usrf - thk).astype(np.float32)


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


def read_map(path, time_index=-1, names=None, units=None, densities=None, sha256=None):
    """Read an ice-sheet map in any of the usual layouts; returns a map (keys: top of this file).

    Variables are recognised by CF standard name, then by name; any axis order; y up or down; m or
    km. Fill values, declared or not, and NaN are missing. Without a thickness it is usrf - lsrf,
    without a bed usrf - thk.
    time_index: of a file with a time axis, from 0; -1 is the last. names: {field: variable};
    units: of the axes, m or km, instead of the file's; densities: of ice and sea water [kg m-3];
    sha256: of the file, if it is known.
    Raises InputError, which names the file and what to do.
    """
    with open_netcdf(path) as ds:
        layout = map_layout.find_fields_and_axes(ds, path, names or {}, units=units)
        (x_dim, x, metres_per_unit), (y_dim, y, _) = layout["axes"]["x"], layout["axes"]["y"]
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")
        check_memory(path, len(y), len(x))
        fields = read_fields(layout, time_index, path, densities or utils.DENSITIES)
        main_field = layout["fields"]["thk" if "thk" in layout["fields"] else "usrf"]
        selection = select_time_index(main_field, x_dim, y_dim, time_index, path, True)
        single_time = next(((dim, 1) for dim in main_field.dimensions
                            if dim.lower() in ("time", "t")), None)
        texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
        attributes = {
            "crs": projections.read_crs(ds, main_field, layout["notes"], metres_per_unit),
            "times": (selection[0], selection[2]) if selection[0] else single_time,
            "time_index": selection[1], "time_label": describe_time(ds, *selection),
            "notes": tuple(layout["notes"]), "variables_read": layout["summary"],
            "path": Path(path), "name": Path(path).name, "citation": find_citation(ds),
            "title": texts.get("title", ""), "synthetic": texts.get("synthetic") == "yes"}
    # both axes ascending, whatever the file's order
    flips = tuple(-1 if axis[0] > axis[-1] else 1 for axis in (y, x))
    flip = tuple(slice(None, None, step) for step in flips)
    fields = {field: None if values is None else values[flip] for field, values in fields.items()}
    return make_map(np.sort(x), np.sort(y), **fields, **attributes, flips=flips,
                    sha256=sha256 or files.hash_file(path))


def read_fields(layout, time_index, path, densities):
    """Read the fields of a map at a time: {key of a map: (y, x) [m] in the file's order, or None}.

    layout: of map_layout.find_fields_and_axes; its notes are extended. Other arguments as in
    read_map.
    """
    variables, axes, notes = layout["fields"], layout["axes"], layout["notes"]
    counts, fields = {}, dict.fromkeys(("thk", "topg", "usrf", "topg_change", "topg_std"))

    def read(field, index=time_index):
        return read_field(variables[field], field, axes, index, path, counts)

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
    if fields["topg"] is None and fields["usrf"] is not None:
        fields["topg"] = derive_bed(fields["thk"], fields["usrf"], densities, notes)
    elif fields["topg"] is not None and select_time_index(
            variables["topg"], axes["x"][0], axes["y"][0], -1, path)[2] > 1:
        fields["topg_change"] = fields["topg"] - read("topg", 0)
    return fields


def print_map_summary(ice_map):
    """Print what a user should know of a map: variables, time, notes, missing cells."""
    missing, negative = ice_map["n_missing_thk"], ice_map["n_negative_thk"]
    for note in (
            ice_map["variables_read"], ice_map["time_label"], *ice_map["notes"],
            missing and f"{missing} cells have no thickness: {int(ice_map['no_data'].sum())} of "
                        "them have no bed either (no data), the others are ice-free",
            negative and f"{negative} cells have negative thickness, set to 0"):
        if note:
            print(f"{ice_map['name']}: {note}")
