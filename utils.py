"""Maps, interpolation operators and metrics: everything the scripts share that needs no TensorFlow.

A *map* is a dict: `x`, `y` (1-D, ascending, m), `thk`, `topg`, `usrf` ((y, x) float32, m; None
where the file has none), `crs` (attributes of the grid mapping), `name`, `sha256`, `title`,
`citation`, `synthetic`. Missing thickness is zero ice; missing bed and surface stay NaN.
"""

import argparse
import contextlib
import csv
import functools
import hashlib
import json
import os
import platform
import signal
import sys
from pathlib import Path

import netCDF4
import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

# Folders of the three steps, relative to where the scripts are run.
DATA = Path("data")
CHECKPOINTS = Path("checkpoints")
RESULTS = Path("results")

SCALES = (2, 4, 8, 16)
SPLITS = ("train", "validation", "test", "gap")  # values 0, 1, 2, 3 of split(patch)

RHO_ICE = 917.0  # density of ice [kg m-3]
RHO_SEA = 1027.5  # density of sea water [kg m-3]

# What each field may be called, first match wins; then its CF standard name.
NAMES = {
    "x": ("x", "x1"),
    "y": ("y", "y1"),
    "thk": ("thk", "thickness", "ice_thickness", "land_ice_thickness"),
    "topg": ("topg", "bed", "bed_topography", "bedrock_altitude"),
    "usrf": ("usrf", "usurf", "surface", "surface_topography", "surface_altitude"),
    "lsrf": ("lsrf", "ice_base", "base"),
}
STANDARD_NAMES = {
    "x": "projection_x_coordinate",
    "y": "projection_y_coordinate",
    "thk": "land_ice_thickness",
    "topg": "bedrock_altitude",
    "usrf": "surface_altitude",
    "lsrf": "land_ice_basal_altitude",
}
# Fields of a map that is written: type and attributes. Ice is where the mask says so: LEAST_ICE_M.
LEAST_ICE_M = 1.0
MASKS = ("ocean", "ice_free_land", "grounded_ice", "floating_ice")  # values 0, 1, 2, 3
WRITTEN = {
    "thk": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["thk"],
                   "long_name": "ice thickness"}),
    "topg": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["topg"],
                    "long_name": "bed elevation"}),
    "usrf": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["usrf"],
                    "long_name": "ice upper surface elevation, from thk and topg by flotation"}),
    "mask": ("i1", {"flag_values": np.arange(len(MASKS), dtype=np.int8),
                    "flag_meanings": " ".join(MASKS), "long_name": "surface type",
                    "comment": f"ice where thk > {LEAST_ICE_M:g} m, floating where its weight does "
                               f"not ground it (densities {RHO_ICE:g} and {RHO_SEA:g} kg m-3)"}),
}
# Grid mapping of EPSG:3031, which maps of Antarctica mostly have even where they do not say so.
EPSG_3031 = {
    "grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
    "standard_parallel": -71.0, "straight_vertical_longitude_from_pole": 0.0, "false_easting": 0.0,
    "false_northing": 0.0, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
    "epsg_code": "EPSG:3031",
}
METRES = {"": 1, "m": 1, "meter": 1, "meters": 1, "metre": 1, "metres": 1,
          "km": 1000, "kilometer": 1000, "kilometers": 1000, "kilometre": 1000, "kilometres": 1000}
UNDECLARED_FILL = -9999.0  # ALBMAP and its children use it, not all of them say so


# ------------------------------------------------------------------ errors, files, command lines


class InputError(Exception):
    """Bad usage or bad input: one line for the user, exit status 2, no traceback."""


def one_line(error):
    """The text of an exception on one line, for a person to read."""
    return " ".join(str(error).split()) or type(error).__name__


def run_script(main):
    """Run `main()` as a script: a user's or the disk's errors end in one line and status 2.

    A kill ends it as Ctrl-C does, so that nothing half-written is left behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    except OSError as error:  # unwritable folder, full disk
        print(f"error: {one_line(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)


def argument_parser(doc):
    """An argparse parser with the script's docstring as help, whose errors are one line."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(message):
        raise InputError(f"{message} (see python {parser.prog} --help)")

    parser.error = error
    return parser


@contextlib.contextmanager
def quiet_import():
    """Keep TensorFlow's start-up chatter, a dozen lines from C++, off the screen at its import.

    It goes straight to file descriptor 2, before any log level is read; Python's errors still show.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a half; after an error nothing is left.
    Raises OSError naming `path` where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written; is the disk full or the folder read-only? "
                      f"({one_line(error)})") from None
    finally:
        with contextlib.suppress(OSError):  # where even the folder is not one
            temporary.unlink()


def show_progress(what, done, total, seconds_each, text=""):
    """Print how far a long job is: a line that a terminal overwrites, or 20 lines in a log.

    what: name of a step, of which `done` are done; seconds_each: what one takes; text: more to say.
    """
    left_s = int(seconds_each * (total - done))
    line = f"{what} {done:5d}/{total}   {text}{left_s // 60:3d}:{left_s % 60:02d} left"
    if sys.stdout.isatty():
        print(f"\r{line}", end="" if done < total else "\n", flush=True)
    elif done in (1, total) or done % max(total // 20, 1) == 0:
        print(line, flush=True)


def write_json(path, content):
    """Write `content` to `path` as indented JSON, at once or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path, hint):
    """The content of a JSON file; InputError with `hint`, what to do, where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {hint}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({one_line(error)}); {hint}") from None


def write_table(path, rows):
    """Write `rows` (dicts with the same keys) to `path` as CSV, at once or not at all."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    """The rows of a CSV file as dicts of numbers, int where written so; None where empty."""
    def number(text):
        if not text:
            return None
        return int(text) if text.isdigit() else float(text)

    with open(path, newline="", encoding="utf-8") as file:
        return [{key: number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def check_run_name(run):
    """Return the name of a run; InputError unless it will do for a folder."""
    if not run.replace("_", "").replace("-", "").replace(".", "").isalnum() or run.startswith("."):
        raise InputError(f"--run {run}: expected letters, digits, _ - and . only")
    return run


def read_settings(run):
    """The settings of a run, from checkpoints/<run>/settings.json; InputError if there are none."""
    path = CHECKPOINTS / run / "settings.json"
    return read_json(path, f"train the run first: python train.py --run {run} --scale 2|4|8|16")


def differing(old, new):
    """Names and values of the settings in which two runs differ: ["lr 0.001 -> 0.0003", ...]."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            lines += differing(old[key], new[key])
        elif old.get(key) != new.get(key):
            lines.append(f"{key} {old.get(key)} -> {new.get(key)}")
    return lines


def versions():
    """Versions of what computes the numbers, for the result files."""
    found = {"python": platform.python_version(), "numpy": np.__version__,
             "scipy": scipy.__version__, "netCDF4": netCDF4.__version__}
    if "tensorflow" in sys.modules:
        found["tensorflow"] = sys.modules["tensorflow"].__version__
    return found


# ------------------------------------------------------------------ reading maps


def open_netcdf(path):
    """Open a NetCDF file for reading; InputError if it is missing, truncated or something else."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable NetCDF file, or truncated ({one_line(error)})"
                         ) from None


def file_sha256(path):
    """SHA-256 of a file, by which a run knows its map again; InputError if there is no file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def find_variable(ds, field):
    """The variable of `ds` that holds `field` (a key of NAMES), or None.

    Coordinates have to be 1-D, fields at least 2-D: PISM files carry both `x` and a 2-D `lon`.
    """
    def fits(variable):
        return variable.ndim == 1 if field in "xy" else variable.ndim >= 2

    for name in NAMES[field]:
        if name in ds.variables and fits(ds.variables[name]):
            return ds.variables[name]
    for variable in ds.variables.values():
        if getattr(variable, "standard_name", "") == STANDARD_NAMES[field] and fits(variable):
            return variable
    return None


def values_m(variable, index=slice(None)):
    """Values of a NetCDF variable in metres, NaN where it has none; units m or km."""
    units = str(getattr(variable, "units", "")).strip()
    if units.lower() not in METRES:
        raise InputError(f"variable {variable.name}: units '{units}', expected m or km")
    values = np.ma.filled(np.ma.asarray(variable[index], dtype=np.float64), np.nan)
    return np.where(values == UNDECLARED_FILL, np.nan, values) * METRES[units.lower()]


def read_axis(ds, field, path):
    """Coordinate `x` or `y` of a map: the NetCDF variable and its values in m, evenly spaced."""
    variable = find_variable(ds, field)
    units = str(getattr(variable, "units", "")).lower()
    if units.startswith("degree") or (variable is None and {"lat", "latitude"} & set(ds.variables)):
        raise InputError(f"{path}: the axes are longitude and latitude; expected projected x and y "
                         "in m or km: reproject the map first (gdalwarp, cdo)")
    if variable is None:
        raise InputError(f"{path}: no 1-D coordinate variable {field} (or {field}1); it has "
                         f"{', '.join(ds.variables)}")
    values = values_m(variable)
    steps = np.diff(values)
    if len(steps) == 0 or not np.allclose(
        steps, steps.mean(), rtol=0, atol=1e-3 * abs(steps.mean())
    ):
        raise InputError(f"{path}: {variable.name} is not evenly spaced (steps from "
                         f"{np.min(steps, initial=0):g} to {np.max(steps, initial=0):g} m); "
                         "interpolate the map to a regular grid first")
    return variable, values


def read_field(ds, field, x_dim, y_dim, time, path, rows=slice(None), columns=slice(None)):
    """A field of a map as (y, x) float32 in m, NaN where missing; None if the file has none.

    rows, columns: a part of it, slices of the file's own axes.
    """
    variable = find_variable(ds, field)
    if variable is None:
        return None
    if x_dim not in variable.dimensions or y_dim not in variable.dimensions:
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}, expected "
                         f"{y_dim} and {x_dim} among them")
    index = []
    for dim, size in zip(variable.dimensions, variable.shape, strict=True):
        if dim in (x_dim, y_dim):
            index.append(columns if dim == x_dim else rows)
        elif not -size <= time < size:
            raise InputError(f"{path}: {variable.name} has {size} records along {dim}, there is no "
                             f"record {time}; choose --time 0 to {size - 1}")
        else:
            index.append(time)
    try:
        values = values_m(variable, tuple(index))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {variable.name} cannot be read, the file may be truncated "
                         f"({one_line(error)})") from None
    if np.isinf(values).any():
        raise InputError(f"{path}: {variable.name} has {np.isinf(values).sum()} infinite values; "
                         "mark them as missing (_FillValue) or mend them")
    kept = [dim for dim in variable.dimensions if dim in (x_dim, y_dim)]
    return (values.T if kept == [x_dim, y_dim] else values).astype(np.float32)


@contextlib.contextmanager
def open_bed(path, time=-1):
    """The bed of a map, to be read in parts: a dict, with the file open as long as the block lasts.

    `x`, `y`: its axes, ascending [m]; `read(rows, columns)`: topg (y, x) float32 [m] of two slices
    of them, NaN where missing; `name`, `sha256`, `citation`. The map may be far larger than memory.
    Raises InputError as read_map does, and where there is no bed in it.
    """
    with open_netcdf(path) as ds:
        axes = [read_axis(ds, name, path) for name in "xy"]
        dims = [variable.dimensions[0] for variable, _ in axes]
        if find_variable(ds, "topg") is None:
            raise InputError(f"{path}: no bed (topg, bed, standard name bedrock_altitude); it has "
                             f"{', '.join(ds.variables)}")
        steps = [1 if values[0] < values[-1] else -1 for _, values in axes]

        def read(rows, columns):
            parts = []
            for part, (_, values), step in zip((columns, rows), axes, steps, strict=True):
                start, stop, _ = part.indices(len(values))
                parts.append(slice(start, stop) if step == 1
                             else slice(len(values) - stop, len(values) - start))
            field = read_field(ds, "topg", *dims, time, path, parts[1], parts[0])
            return field[::steps[1], ::steps[0]]

        yield {"x": np.sort(axes[0][1]), "y": np.sort(axes[1][1]), "read": read,
               "name": Path(path).name, "sha256": file_sha256(path), "crs": read_crs(ds),
               "citation": find_citation(ds)}


def find_citation(ds):
    """How a file wants to be cited: its first global attribute of that name; "" if it has none."""
    return next((str(ds.getncattr(key)) for key in ds.ncattrs()
                 if "citation" in key.lower() or "reference" in key.lower()), "")


def read_crs(ds):
    """Attributes of the grid mapping that a variable of the file refers to; {} if none does."""
    for variable in ds.variables.values():
        mapping = ds.variables.get(getattr(variable, "grid_mapping", None))
        if mapping is not None:
            return {key: mapping.getncattr(key) for key in mapping.ncattrs()}
    return {}


def read_map(path, time=-1):
    """Read an ice-sheet map in any of the usual layouts.

    ALBMAP, SeaRISE, PISM, BedMachine, Bedmap3 and CF files: variables by name, then by CF standard
    name; record `time` of files with a time axis (the last by default); either axis order; y up or
    down; m or km; declared fill values, NaN and -9999 as missing; thickness as usrf - lsrf where
    there is no thickness variable.

    Returns a map (see the top of this file), with two counts more: `n_missing_thk`, cells without
    thickness, which become zero ice, and `n_negative_thk`, cells below zero, which do too; and
    `unknown` (y, x): cells of which nothing is known, neither thickness nor, if there is one, bed.
    Raises InputError with one line that names the file and what to do.
    """
    with open_netcdf(path) as ds:
        x_variable, x = read_axis(ds, "x", path)
        y_variable, y = read_axis(ds, "y", path)
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")
        dims = (x_variable.dimensions[0], y_variable.dimensions[0])
        fields = {field: read_field(ds, field, *dims, time, path)
                  for field in ("thk", "topg", "usrf", "lsrf")}
        if fields["thk"] is None and (fields["usrf"] is None or fields["lsrf"] is None):
            raise InputError(
                f"{path}: no ice thickness (thk, thickness, ice_thickness, standard name "
                "land_ice_thickness, or usrf and lsrf); it has "
                f"{', '.join(ds.variables)}"
            )
        crs = read_crs(ds)
        citation = find_citation(ds)
        texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
    lsrf = fields.pop("lsrf")
    if fields["thk"] is None:
        fields["thk"] = fields["usrf"] - lsrf
    # Both axes ascending, whatever the file's order.
    flip = (
        slice(None, None, -1 if y[0] > y[-1] else 1),
        slice(None, None, -1 if x[0] > x[-1] else 1),
    )
    fields = {key: None if values is None else values[flip] for key, values in fields.items()}
    thk = fields["thk"]
    missing, negative = np.isnan(thk), thk < 0
    thk[missing | negative] = 0
    unknown = missing if fields["topg"] is None else missing & np.isnan(fields["topg"])
    return dict(fields, x=np.sort(x), y=np.sort(y), crs=crs, name=Path(path).name,
                sha256=file_sha256(path), unknown=unknown,
                title=texts.get("title", ""), citation=citation,
                synthetic=texts.get("synthetic") == "yes",
                n_missing_thk=int(missing.sum()), n_negative_thk=int(negative.sum()))


# ------------------------------------------------------------------ writing maps


@contextlib.contextmanager
def writing_map(path, x, y, crs, names, chunk, attributes):
    """A CF-1.8 map file to be filled part by part in the block: yields the open netCDF4.Dataset.

    x, y: axes [m], ascending; crs: attributes of the grid mapping, {} if unknown; names: fields of
    WRITTEN to make, (y, x) each; chunk: side of the compressed chunks in cells, best that of the
    parts; attributes: global ones. At `path` only when the block has ended without an error.
    """
    with replacing(path) as temporary:
        try:
            with netCDF4.Dataset(temporary, "w") as ds:
                ds.setncatts({"Conventions": "CF-1.8"} | attributes)
                for name, axis in (("y", y), ("x", x)):
                    ds.createDimension(name, len(axis))
                    ds.createVariable(name, "f8", (name,))[...] = axis
                    ds[name].setncatts({
                        "units": "m", "axis": name.upper(), "standard_name": STANDARD_NAMES[name],
                        "long_name": f"{name} coordinate of cell centre"})
                if crs:
                    ds.createVariable("crs", "i4").setncatts(crs)
                chunks = min(chunk, len(y)), min(chunk, len(x))
                for name in names:
                    kind, attrs = WRITTEN[name]
                    fill = {"fill_value": np.float32(np.nan) if kind == "f4" else np.int8(-1)}
                    ds.createVariable(name, kind, ("y", "x"), zlib=True, complevel=4, shuffle=True,
                                      chunksizes=chunks, **fill)
                    ds[name].setncatts(attrs | ({"grid_mapping": "crs"} if crs else {}))
                yield ds
        except RuntimeError as error:  # what the NetCDF library makes of a failed write
            raise OSError(one_line(error)) from None


# ------------------------------------------------------------------ patch files


def write_netcdf(path, dimensions, variables, attributes):
    """Write a NetCDF4 file at once or not at all.

    dimensions: {name: size}; variables: {name: (dimensions, values, attributes)}; floats are
    compressed. Raises OSError as replacing() does.
    """
    with replacing(path) as temporary:
        try:
            with netCDF4.Dataset(temporary, "w") as ds:
                ds.setncatts(attributes)
                for name, size in dimensions.items():
                    ds.createDimension(name, size)
                for name, (dims, values, attrs) in variables.items():
                    values = np.asarray(values)
                    packed = {"zlib": True, "complevel": 4} if values.ndim > 1 else {}
                    ds.createVariable(name, values.dtype, dims, **packed)[...] = values
                    ds.variables[name].setncatts(attrs)
        except RuntimeError as error:  # what the NetCDF library makes of a failed write
            raise OSError(one_line(error)) from None


def read_patches(path):
    """Read a file that prepare_data.py wrote.

    Returns a dict: `thk`, `topg` ((patch, level, y, x) float32, m; topg None where the map had no
    bed), `x`, `y` ((patch, x or y) m), `split`, `row`, `column` ((patch,) int), `attrs` (the global
    attributes). Raises InputError where it is missing or something else.
    """
    with open_netcdf(path) as ds:
        try:
            patches = {name: np.ma.filled(ds.variables[name][...])
                       for name in ("thk", "x", "y", "split", "row", "column")}
            patches["topg"] = np.ma.filled(ds["topg"][...]) if "topg" in ds.variables else None
            patches["attrs"] = {key: ds.getncattr(key) for key in ds.ncattrs()}
            patches["attrs"]["scale"] = int(ds.getncattr("scale"))
        except (KeyError, AttributeError, OSError, RuntimeError) as error:
            raise InputError(
                f"{path}: not a file of patches that prepare_data.py wrote, or truncated "
                f"({one_line(error)}); make it anew with prepare_data.py"
            ) from None
    return patches


def in_split(patches, *names):
    """Numbers of the patches in the given splits ("train", "validation", ...), ascending."""
    return np.flatnonzero(np.isin(patches["split"], [SPLITS.index(name) for name in names]))


# ------------------------------------------------------------------ ice-sheet geometry


def surface(thk, topg):
    """Upper surface elevation [m] of ice `thk` [m] on bed `topg` [m], grounded or floating.

    max(thk + topg, (1 - rho_ice / rho_sea) thk), and 0 where there is no ice: flotation decides by
    itself which of the two is higher.
    """
    return np.where(thk > 0, np.maximum(thk + topg, (1 - RHO_ICE / RHO_SEA) * thk), 0)


def thickness(usrf, topg):
    """Ice thickness [m] from its surface `usrf` [m] over the bed `topg` [m]: surface() inverted.

    usrf - topg where that is heavy enough to ground; else floating ice in hydrostatic equilibrium,
    which at the grounding line is the same. Never below 0.
    """
    ratio = RHO_ICE / RHO_SEA
    grounded = usrf - topg
    floating = np.minimum(usrf / (1 - ratio), -topg / ratio)
    return np.maximum(np.where(ratio * grounded >= -topg, grounded, floating), 0)


def surface_mask(thk, topg):
    """Surface type of each cell, int8 values of MASKS, -1 where thk is NaN; thk, topg in m."""
    ice = thk > LEAST_ICE_M
    grounds = RHO_ICE / RHO_SEA * thk >= -topg
    mask = np.where(ice, np.where(grounds, 2, 3), np.where(topg > 0, 1, 0))
    return np.where(np.isnan(thk), -1, mask).astype(np.int8)


# ------------------------------------------------------------------ interpolation operators


def coarse_size(size, factor):
    """Cells or samples along an axis of `size` cells reduced by `factor`: 20, 10, 5, 3 for 41."""
    return max(round(size / factor), 1)


def area_means(size, coarse):
    """Matrix (coarse, size) that averages `size` cells over `coarse` equal cells of the same axis.

    A fine cell that lies across two coarse ones counts in each by its overlap, so the mean over the
    axis, and with it the ice volume, is kept exactly whether or not `coarse` divides `size`.
    """
    fine_edges = np.arange(size + 1) * coarse / size  # in units of coarse cells
    edges = np.arange(coarse + 1)
    overlap = np.minimum(edges[1:, None], fine_edges[1:]) - np.maximum(
        edges[:-1, None], fine_edges[:-1]
    )
    return np.maximum(overlap, 0)


def spline_weights(coarse, size):
    """Matrix (size, coarse) that interpolates from centres of `coarse` cells to those of `size`.

    Both sets of cells divide the same axis, so nothing shifts by half a cell. Natural cubic spline:
    constants and ramps come back exactly, the outermost half cells are extrapolated.
    """
    if coarse == 1:
        return np.ones((size, 1))
    centres = (np.arange(coarse) + 0.5) * size / coarse
    spline = scipy.interpolate.CubicSpline(centres, np.eye(coarse), bc_type="natural")
    return spline(np.arange(size) + 0.5)


def reduction_weights(size, coarse, degrade):
    """Matrix (coarse, size) that reduces an axis of `size` cells: W_y @ field @ W_x.T.

    degrade `bicubic`: point samples on a cubic spline, that of scipy.ndimage.zoom as in the
    original (the corner samples are the corner cells' values); `area`: means over coarse cells.
    """
    if degrade == "area":
        return area_means(size, coarse)
    return scipy.ndimage.zoom(np.eye(size), (coarse / size, 1))


def enlargement_weights(coarse, size, degrade):
    """Matrix (size, coarse) that brings samples or means of an axis back to `size` cells.

    A cubic spline through the samples, on the corner cells' centres (`bicubic`, that of
    scipy.ndimage.zoom), or on the centres of the coarse cells, which the fine ones subdivide
    (`area`).
    """
    if degrade == "area":
        return spline_weights(coarse, size)
    return scipy.ndimage.zoom(np.eye(coarse), (size / coarse, 1))


def reduce_fields(fields, factor, degrade):
    """Reduce fields (n, y, x) by `factor` to (n, coarse y, coarse x): see reduction_weights."""
    down_y, down_x = (reduction_weights(n, coarse_size(n, factor), degrade)
                      for n in fields.shape[1:])
    return down_y @ np.asarray(fields, np.float64) @ down_x.T


def enlarge_fields(fields, shape, degrade):
    """Bring reduced fields (n, coarse y, coarse x) back to `shape`: see enlargement_weights."""
    up_y, up_x = (enlargement_weights(*sizes, degrade)
                  for sizes in zip(fields.shape[1:], shape, strict=True))
    return up_y @ fields @ up_x.T


def linear_weights(coarse, size, degrade):
    """Matrix (size, coarse): linear interpolation from samples or means of an axis to its cells.

    Between the places of enlargement_weights; beyond the outermost one its value is kept.
    """
    if degrade == "area":
        places = (np.arange(coarse) + 0.5) * size / coarse - 0.5
    else:
        places = np.linspace(0, size - 1, coarse) if coarse > 1 else np.zeros(1)
    return np.stack([np.interp(np.arange(size), places, one) for one in np.eye(coarse)], axis=1)


@functools.lru_cache(maxsize=32)
def smoothing_weights(size, factor, degrade):
    """Matrix (size, size): an axis of cells reduced by `factor` and brought back linearly."""
    coarse = coarse_size(size, factor)
    return linear_weights(coarse, size, degrade) @ reduction_weights(size, coarse, degrade)


@functools.lru_cache(maxsize=16)
def consistency_weights(size, scale, degrade):
    """Matrices (recover, reduce, spread) for an axis of `size` cells, see model.make_consistent.

    recover (coarse, size): coarse values from level 0, which was enlarged from them; reduce
    (coarse, size): coarse values of a fine field; spread (size, coarse): a fine field from coarse
    values. bicubic: linear between the samples, so that `reduce` of it gives them back; area: the
    coarse value in each of its cells. Raises InputError where coarse cells are not whole cells.
    """
    coarse = coarse_size(size, scale)
    if degrade == "area" and size != coarse * scale:
        raise InputError(f"consistency needs whole coarse cells: {size} cells do not divide by "
                         f"{scale}; train with --no-consistency, or prepare larger patches")
    enlarge = enlargement_weights(coarse, size, degrade)
    reduce = reduction_weights(size, coarse, degrade)
    if degrade == "area":
        spread = (reduce > 0).T.astype(float)
    else:
        linear = linear_weights(coarse, size, degrade)
        spread = linear @ np.linalg.inv(reduce @ linear)
    return np.linalg.pinv(enlarge), reduce, spread


def fill_nearest(field, unknown):
    """A field (y, x) with its unknown cells given the value of the nearest known one, else 0."""
    if unknown.all():
        return np.zeros_like(field)
    if not unknown.any():
        return field
    nearest = scipy.ndimage.distance_transform_edt(unknown, return_distances=False,
                                                   return_indices=True)
    return field[tuple(nearest)]


def finer_axis(axis, factor):
    """Centres [m] of the cells that divide each cell of an evenly spaced axis by `factor`."""
    spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
    return axis[0] + spacing * ((np.arange(len(axis) * factor) + 0.5) / factor - 0.5)


def overlap_weights(source, target):
    """Sparse matrix (target, source): share of each target cell that each source cell covers.

    source, target: centres of evenly spaced cells [m], ascending, in any position to each other.
    Rows sum to 1 where the source covers the whole target cell.
    """
    spacing, wide = source[1] - source[0], target[1] - target[0]
    low = (target - wide / 2 - source[0]) / spacing + 0.5  # edges in source cells
    high = low + wide / spacing
    rows, columns, shares = [], [], []
    for i in range(int(np.ceil(wide / spacing)) + 1):
        column = np.floor(low + 1e-6).astype(int) + i
        share = (np.minimum(high, column + 1) - np.maximum(low, column)) * spacing / wide
        inside = (share > 1e-9) & (column >= 0) & (column < len(source))
        rows.append(np.flatnonzero(inside))
        columns.append(column[inside])
        shares.append(share[inside])
    return scipy.sparse.csr_array(
        (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns))),
        (len(target), len(source)))


def bring_to_cells(bed, x, y):
    """The bed on the cells x, y (centres [m], ascending, evenly spaced): (y, x) float32 [m].

    bed: see open_bed. A finer bed is averaged over the cells, wherever its own lie; one as coarse
    or coarser is interpolated by cubic splines. NaN where less than half a cell is known.
    """
    start = [int(np.argmin(np.abs(bed[name] - axis[0]))) for name, axis in (("y", y), ("x", x))]
    same = tuple(slice(first, first + len(axis)) for first, axis in zip(start, (y, x), strict=True))
    if all(len(bed[name][part]) == len(axis) and np.allclose(
            bed[name][part], axis, rtol=0, atol=1e-3 * (axis[1] - axis[0]))
            for name, part, axis in zip("yx", same, (y, x), strict=True)):
        return bed["read"](*same)
    parts, weights = [], []
    for name, axis in (("y", y), ("x", x)):
        source, wide = bed[name], axis[1] - axis[0]
        spacing = source[1] - source[0]
        finer = spacing < 0.999 * wide
        margin = (wide if finer else 12 * spacing) + spacing  # the spline forgets what lies farther
        start, stop = np.searchsorted(source, (axis[0] - margin, axis[-1] + margin))
        if stop - start < 2:
            return np.full((len(y), len(x)), np.nan, np.float32)
        source = source[start:stop]
        parts.append(slice(start, stop))
        if finer:
            weights.append(overlap_weights(source, axis))
        else:
            spline = scipy.interpolate.CubicSpline(source, np.eye(len(source)), bc_type="natural")
            beyond = (axis < source[0] - spacing / 2) | (axis > source[-1] + spacing / 2)
            weights.append(np.where(beyond[:, None], 0, spline(axis)))
    field = bed["read"](*parts)
    known = np.isfinite(field)
    share = weights[0] @ known.astype(float) @ weights[1].T
    mean = weights[0] @ np.where(known, field, 0).astype(float) @ weights[1].T
    return np.where(share > 0.5, mean / np.maximum(share, 0.5), np.nan).astype(np.float32)


def make_levels(fields, scale, degrade):
    """Fields (n, y, x) at every level of the chain, on the fine grid: (n, level, y, x) float32.

    Level 0 is reduced by `scale` and brought back, each next level by half of that; the last level
    is the field itself. Units as they come in.
    """
    fields = np.asarray(fields)
    levels = []
    while scale > 1:
        reduced = reduce_fields(fields, scale, degrade)
        levels.append(enlarge_fields(reduced, fields.shape[1:], degrade))
        scale //= 2
    return np.stack([*levels, fields], axis=1).astype(np.float32)


# ------------------------------------------------------------------ metrics


def errors(predicted, label, thk_max_m):
    """Errors of predicted thickness against the label, any shape, both in m.

    Returns a dict: `mse` = mean square of (predicted - label) / thk_max_m, the quantity that the
    original work calls RMSE; `rmse_m`, `mae_m`, and `bias_m` (predicted - label) in metres.
    """
    difference = np.asarray(predicted, np.float64) - np.asarray(label, np.float64)
    mean_square = np.mean(difference**2)
    return {"mse": float(mean_square / thk_max_m**2), "rmse_m": float(np.sqrt(mean_square)),
            "mae_m": float(np.mean(np.abs(difference))), "bias_m": float(np.mean(difference))}


def rmse_m(predicted, label, axis=None):
    """Root mean square of predicted - label [m], over everything or over `axis`."""
    difference = np.asarray(predicted, np.float64) - np.asarray(label, np.float64)
    return np.sqrt(np.mean(difference**2, axis=axis))


def volume_error(predicted, label, spacing_m):
    """Error in ice volume of predicted thickness against the label, any shape, both in m.

    Returns a dict: `volume_error_km3`, predicted - label, and `volume_error_percent` of the label's
    volume, None where the label has no ice. Cells are spacing_m squared, areas of the projection:
    its scale (up to some per cent away from the latitude of true scale) is not corrected for.
    """
    metres = np.sum(np.asarray(predicted, np.float64) - np.asarray(label, np.float64))
    ice = np.sum(label, dtype=np.float64)
    return {"volume_error_km3": float(metres * spacing_m**2 / 1e9),
            "volume_error_percent": float(100 * metres / ice) if ice > 0 else None}


def surface_types(thk, topg, near_cells):
    """Masks (y, x) of what a map has in its cells, from `thk` and `topg` [m], (y, x): a dict.

    grounded, floating: ice, by flotation; ice_free: rock or open ocean; margin: cells of any of
    these within near_cells (from centre to centre) of a cell of another one, that is of an ice edge
    or a grounding line; all. Where topg is None only ice, margin (the ice edge) and all.
    """
    ice = np.asarray(thk) > 0
    if topg is None:
        types = {"ice": ice}
    else:
        grounds = RHO_ICE / RHO_SEA * thk >= -topg
        types = {"grounded": ice & grounds, "floating": ice & ~grounds, "ice_free": ~ice}
    margin = np.zeros(ice.shape, bool)
    for kind in [*types.values(), ~ice]:
        if not kind.all():  # else there is no other cell to be near to
            margin |= kind & (scipy.ndimage.distance_transform_edt(kind) <= near_cells)
    return types | {"margin": margin, "all": np.ones(ice.shape, bool)}


def power_spectrum(fields, spacing_m):
    """Radially averaged power spectrum of fields (patch, y, x) in m, the mean over patches.

    Each patch without its mean, tapered with a Hann window; averaged over rings of wavenumber, one
    cycle per patch wide, out to two cells per wave. Returns wavenumber (ring,) [cycles km-1] and
    power (ring,) [m2 km2], a density in the plane of wavenumbers, whose integral over the plane is
    the variance: noise of variance s2, independent from cell to cell, has s2 * spacing2 throughout.
    """
    fields = np.asarray(fields, np.float64)
    spacing_km, shape = spacing_m / 1000, fields.shape[1:]
    hann_y, hann_x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape)
    taper = hann_y[:, None] * hann_x
    transform = np.fft.fft2((fields - fields.mean(axis=(1, 2), keepdims=True)) * taper)
    power = np.mean(np.abs(transform) ** 2, axis=0) * spacing_km**2 / np.sum(taper**2)
    wavenumber = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) / spacing_km
    step = 1 / (min(shape) * spacing_km)
    ring = np.rint(wavenumber / step).astype(int).ravel()
    rings = np.arange(1, min(shape) // 2 + 1)
    return rings * step, (np.bincount(ring, power.ravel()) / np.bincount(ring))[rings]
