"""What all scripts share and that needs no TensorFlow: files, maps, operators, scores.

Sections: errors, files, command lines | reading maps | ice geometry | interpolation operators |
scores.

A *map* is a dict of gridded fields, made by `make_map` or read by `read_map`:
    x, y            centres of the cells [m], 1-D, ascending
    spacing_m       side of a cell [m]
    thk             ice thickness [m], (y, x) float32, no NaN: missing thickness is zero ice
    topg, usrf      elevation of bed and upper surface [m], (y, x) float32, NaN where missing;
                    None where the file has none
    unknown         (y, x) bool: neither thickness nor bed is known
    n_missing_thk, n_negative_thk   cells whose thickness was missing, or negative and set to 0
    crs             attributes of the grid mapping, {} where unknown
    record          number of the record that was read; None where the file has only one
    record_text     the same for a reader, "record 1 of 3 (2100-01-01)"; "" for None
    path, name, sha256, title, citation, synthetic     where the map comes from
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import shlex
import signal
import sys
import time
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
LEAST_ICE_M = 1.0  # thinner ice is no ice: see is_ice
CELL_TYPES = ("ocean", "ice_free_land", "grounded_ice", "floating_ice")  # see cell_type
LEAST_RMSE_M = 0.01  # a method with less has no error to compare with: see ratios

# Names of each field in map files, the first match wins; then its CF standard name.
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
METRES = {"": 1, "m": 1, "meter": 1, "meters": 1, "metre": 1, "metres": 1,
          "km": 1000, "kilometer": 1000, "kilometers": 1000, "kilometre": 1000, "kilometres": 1000}
UNDECLARED_FILL = -9999.0  # ALBMAP and files made from it use it, not all of them say so


# ------------------------------------------------------------------ errors, files, command lines


class InputError(Exception):
    """Bad usage or bad input: one line for the user, exit status 2, no traceback."""


def one_line(error):
    """The text of an exception on one line, for a person to read."""
    return " ".join(str(error).split()) or type(error).__name__


def run_script(main):
    """Run `main()` as a script: a user's or the disk's errors end in one line and status 2.

    A kill (SIGTERM) ends it as Ctrl-C does, so that nothing half-written is left behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except (InputError, OSError) as error:  # OSError: unwritable folder, full disk
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


def command():
    """The command that runs, as typed in a shell: every file made says it."""
    return f"python {Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()


def made_now():
    """Time and command, for the `history` of a NetCDF file."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {command()}"


@contextlib.contextmanager
def writing(path):
    """Name `path` in the errors of a block that writes it, and does nothing else.

    Raises OSError where the disk is full or the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: what netCDF4 makes of a failed write
        raise OSError(f"{path}: cannot be written; is the disk full or the folder read-only? "
                      f"({one_line(error)})") from None


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a half; after an error nothing is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with writing(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where even the folder is not one
            temporary.unlink()


def check_output(path, *inputs):
    """Raise InputError where writing `path` would destroy one of the files `inputs`, or no file.

    The same file by any path, link or relative name counts. inputs: paths; None and "" are skipped.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file; choose another name for the output")
    for each in filter(None, inputs):
        if path.resolve() == Path(each).resolve() or (
                path.exists() and Path(each).exists() and path.samefile(each)):
            raise InputError(f"{path}: this is {each}, which is read; choose another name for the "
                             "output")


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


def print_table(rows):
    """Print rows of texts as columns: the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        print("  ".join([first.ljust(widths[0]), *(
            cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]).rstrip())


def write_json(path, content):
    """Write `content` to `path` as indented JSON, at once or not at all; NaN is refused."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary, writing(path):
        temporary.write_text(text, encoding="utf-8")


def read_json(path, hint):
    """The content of a JSON file; InputError with `hint`, what to do, where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {hint}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({one_line(error)}); {hint}") from None


def write_table(path, rows):
    """Write `rows`, dicts, to `path` as CSV, at once or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, writing(path), \
            open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
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


def differences(old, new):
    """Values in which two nested dicts differ: {"data.seed": (0, 1), ...}; None if one has none."""
    pairs = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            pairs |= {f"{key}.{inner}": pair for inner, pair in differences(before, after).items()}
        elif before != after:
            pairs[key] = (before, after)
    return pairs


def differences_text(pairs):
    """What differs (see differences) for a reader: "data.seed 0 -> 1; learning_rate 0.1 -> 0.2"."""
    return "; ".join(f"{key} {old} -> {new}" for key, (old, new) in pairs.items())


def versions():
    """Versions of what computes the numbers, for the result files."""
    numbers = {"python": platform.python_version(), "numpy": np.__version__,
               "scipy": scipy.__version__, "netCDF4": netCDF4.__version__}
    if "tensorflow" in sys.modules:
        numbers["tensorflow"] = sys.modules["tensorflow"].__version__
    return numbers


def file_sha256(path):
    """SHA-256 of a file, by which a run knows its map again; InputError if there is no file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


# ------------------------------------------------------------------ reading maps


def make_map(x, y, thk, topg=None, usrf=None, **about):
    """A map (see the top of this file) of axes x, y [m], ascending, and fields (y, x) [m].

    thk: NaN where missing: it becomes zero ice, as negative thickness does, and is counted.
    about: more of the map's keys.
    """
    missing, negative = np.isnan(thk), thk < 0
    return {
        "x": x, "y": y, "spacing_m": float(x[-1] - x[0]) / (len(x) - 1),
        "thk": np.where(missing | negative, 0, thk).astype(np.float32), "topg": topg, "usrf": usrf,
        "unknown": missing if topg is None else missing & np.isnan(topg),
        "n_missing_thk": int(missing.sum()), "n_negative_thk": int(negative.sum()),
        "crs": {}, "record": None, "record_text": "", "path": None, "name": "a map", "sha256": "",
        "title": "", "citation": "", "synthetic": False} | about


def open_netcdf(path):
    """Open a NetCDF file for reading; InputError if it is missing, truncated or something else."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return netCDF4.Dataset(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable NetCDF file, or truncated ({one_line(error)})"
                         ) from None


def find_variable(ds, field):
    """The variable of `ds` that holds `field` (a key of NAMES), or None.

    Coordinates have to be 1-D, fields at least 2-D: PISM files carry both `x` and a 2-D `lon`.
    """
    named = [ds.variables[name] for name in NAMES[field] if name in ds.variables]
    for variable in named + ds.get_variables_by_attributes(standard_name=STANDARD_NAMES[field]):
        if variable.ndim == 1 if field in "xy" else variable.ndim >= 2:
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
    """Coordinate `x` or `y` of a map: its dimension and its values in m, evenly spaced."""
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
            steps, steps.mean(), rtol=0, atol=1e-3 * abs(steps.mean())):
        raise InputError(f"{path}: {variable.name} is not evenly spaced (steps from "
                         f"{np.min(steps, initial=0):g} to {np.max(steps, initial=0):g} m); "
                         "interpolate the map to a regular grid first")
    return variable.dimensions[0], values


def pick_record(variable, x_dim, y_dim, record, path, is_asked_for=False):
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
    dim, count = longer[0]
    if len(longer) > 1 or count == 0:
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions} of "
                         f"{variable.shape}; expected {y_dim}, {x_dim} and records along one more")
    if not -count <= record < count:
        raise InputError(f"{path}: {variable.name} has {count} records along {dim}, there is no "
                         f"record {record}; choose 0 to {count - 1}")
    return dim, record % count, count


def record_text(ds, dim, number, count):
    """A record for a reader, with its date where the file has one: "record 0 of 3 (2100-01-01)".

    Arguments as from pick_record; "" where the file has only one record.
    """
    if dim is None:
        return ""
    date, axis = "", ds.variables.get(dim)
    if axis is not None and " since " in str(getattr(axis, "units", "")):
        with contextlib.suppress(ValueError, OverflowError, TypeError, AttributeError):  # no date
            when = netCDF4.num2date(axis[number], axis.units, getattr(axis, "calendar", "standard"))
            date = f" ({when.strftime('%Y-%m-%d')})"
    return f"record {number} of {count}{date}"


def read_field(ds, field, x_dim, y_dim, record, path, rows=slice(None), columns=slice(None)):
    """A field of a map as (y, x) float32 in m, NaN where missing; None if the file has none.

    rows, columns: a part of it, slices of the file's own axes.
    """
    variable = find_variable(ds, field)
    if variable is None:
        return None
    if x_dim not in variable.dimensions or y_dim not in variable.dimensions:
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}, expected "
                         f"{y_dim} and {x_dim} among them")
    along, number, _ = pick_record(variable, x_dim, y_dim, record, path)
    parts = {x_dim: columns, y_dim: rows, along: number}
    try:
        values = values_m(variable, tuple(parts.get(dim, 0) for dim in variable.dimensions))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: {variable.name} cannot be read, the file may be truncated "
                         f"({one_line(error)})") from None
    if np.isinf(values).any():
        raise InputError(f"{path}: {variable.name} has {np.isinf(values).sum()} infinite values; "
                         "mark them as missing (_FillValue) or mend them")
    kept = [dim for dim in variable.dimensions if dim in (x_dim, y_dim)]
    return (values.T if kept == [x_dim, y_dim] else values).astype(np.float32)


def find_citation(ds):
    """How a file wants to be cited: its first global attribute of that name; "" if it has none."""
    return next((str(ds.getncattr(key)) for key in ds.ncattrs()
                 if "citation" in key.lower() or "reference" in key.lower()), "")


def read_crs(ds):
    """Attributes of the grid mapping that a variable of the file refers to; {} if none does."""
    for variable in ds.variables.values():
        mapping = ds.variables.get(getattr(variable, "grid_mapping", None))
        if mapping is not None:
            return {key: np.asarray(mapping.getncattr(key)).tolist() for key in mapping.ncattrs()}
    return {}


def crs_differences(crs, other):
    """In which parameters two grid mappings differ, for a reader; "" where in none that both have.

    Compared are the name and all numbers that both have; texts (WKT, long_name) are not.
    """
    lines = []
    for key in crs.keys() & other.keys():
        if key == "grid_mapping_name":
            same = crs[key] == other[key]
        elif isinstance(crs[key], str) or isinstance(other[key], str):
            continue
        else:
            one, two = np.ravel(crs[key]), np.ravel(other[key])
            same = one.shape == two.shape and np.allclose(one, two, rtol=1e-6, atol=1e-6)
        if not same:
            lines.append(f"{key} {crs[key]} and {other[key]}")
    return "; ".join(sorted(lines))


def read_map(path, record=-1):
    """Read an ice-sheet map in any of the usual layouts; returns a map (see the top of this file).

    ALBMAP, SeaRISE, PISM, BedMachine, Bedmap3 and CF files. Variables are found by name, then by CF
    standard name; either axis order; y up or down; m or km. Declared fill values, NaN and -9999 are
    missing. Thickness is usrf - lsrf where there is no thickness variable.
    record: of a file with a time axis, from 0; -1 is the last.
    Raises InputError with one line that names the file and what to do.
    """
    with open_netcdf(path) as ds:
        (x_dim, x), (y_dim, y) = (read_axis(ds, name, path) for name in "xy")
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")
        fields = {field: read_field(ds, field, x_dim, y_dim, record, path)
                  for field in ("thk", "topg", "usrf", "lsrf")}
        if fields["thk"] is None and (fields["usrf"] is None or fields["lsrf"] is None):
            raise InputError(
                f"{path}: no ice thickness (thk, thickness, ice_thickness, standard name "
                f"land_ice_thickness, or usrf and lsrf); it has {', '.join(ds.variables)}")
        thk_variable = find_variable(ds, "usrf" if fields["thk"] is None else "thk")
        picked = pick_record(thk_variable, x_dim, y_dim, record, path, is_asked_for=True)
        about = {"crs": read_crs(ds), "citation": find_citation(ds), "record": picked[1],
                 "record_text": record_text(ds, *picked)}
        texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
    if fields["thk"] is None:
        fields["thk"] = fields["usrf"] - fields["lsrf"]
    del fields["lsrf"]
    # Both axes ascending, whatever the file's order.
    flip = (slice(None, None, -1 if y[0] > y[-1] else 1),
            slice(None, None, -1 if x[0] > x[-1] else 1))
    fields = {key: None if values is None else values[flip] for key, values in fields.items()}
    return make_map(np.sort(x), np.sort(y), **fields, **about, path=Path(path),
                    name=Path(path).name, sha256=file_sha256(path), title=texts.get("title", ""),
                    synthetic=texts.get("synthetic") == "yes")


def bed_of_map(ice_map):
    """The bed of a map in memory, as open_bed gives that of a file; None where the map has none."""
    if ice_map["topg"] is None:
        return None
    return {key: ice_map[key] for key in (
        "x", "y", "spacing_m", "name", "path", "sha256", "crs", "citation", "record_text")} | {
        "read": lambda rows, columns: ice_map["topg"][rows, columns]}


@contextlib.contextmanager
def open_bed(path, record=-1):
    """The bed of a map file, to be read in parts: it may be far larger than memory.

    Yields a *bed*, a dict of x, y, spacing_m, name, path, sha256, crs, citation and record_text as
    in a map, and read(rows, columns): topg (y, x) float32 [m] of two slices of the ascending axes,
    NaN where missing. The file is open as long as the block lasts.
    record: of a bed with a time axis; -1 is the last.
    Raises InputError as read_map does, and where there is no bed in the file.
    """
    with open_netcdf(path) as ds:
        (x_dim, x), (y_dim, y) = (read_axis(ds, name, path) for name in "xy")
        variable = find_variable(ds, "topg")
        if variable is None:
            raise InputError(f"{path}: no bed (topg, bed, standard name bedrock_altitude); it has "
                             f"{', '.join(ds.variables)}")
        picked = pick_record(variable, x_dim, y_dim, record, path, is_asked_for=True)

        def in_file(part, values):
            """The slice of the file's own axis, and the step that makes it ascending."""
            start, stop, _ = part.indices(len(values))
            if values[0] < values[-1]:
                return slice(start, stop), 1
            return slice(len(values) - stop, len(values) - start), -1

        def read(rows, columns):
            (rows, step_y), (columns, step_x) = in_file(rows, y), in_file(columns, x)
            field = read_field(ds, "topg", x_dim, y_dim, record, path, rows, columns)
            return field[::step_y, ::step_x]

        yield {"x": np.sort(x), "y": np.sort(y), "spacing_m": abs(x[-1] - x[0]) / (len(x) - 1),
               "read": read, "name": Path(path).name, "path": Path(path),
               "sha256": file_sha256(path), "crs": read_crs(ds), "citation": find_citation(ds),
               "record_text": record_text(ds, *picked)}


# ------------------------------------------------------------------ ice geometry


def is_ice(thk):
    """Where there is ice: thickness `thk` [m] above LEAST_ICE_M."""
    return thk > LEAST_ICE_M


def floats(thk, topg):
    """Where ice `thk` [m] is too light to lie on the bed `topg` [m]; arrays or tensors."""
    return RHO_ICE / RHO_SEA * thk < -topg


def upper_surface(thk, topg):
    """Upper surface elevation [m] of ice `thk` [m] on bed `topg` [m], grounded or floating.

    max(thk + topg, (1 - rho_ice / rho_sea) thk): flotation decides by itself which is higher.
    Without ice: that of the land or, at 0, of the sea.
    """
    return np.maximum(thk + topg, (1 - RHO_ICE / RHO_SEA) * thk)


def ice_thickness(usrf, topg):
    """Ice thickness [m] below the surface `usrf` [m] over the bed `topg` [m]: the inverse.

    usrf - topg where that is heavy enough to ground; else floating ice in hydrostatic equilibrium,
    which at the grounding line is the same. Never below 0.
    """
    ratio = RHO_ICE / RHO_SEA
    grounded = usrf - topg
    floating = np.minimum(usrf / (1 - ratio), -topg / ratio)
    return np.maximum(np.where(floats(grounded, topg), floating, grounded), 0)


def surface_base(thk, topg_before, topg):
    """Thickness [m] of the ice that a finer bed leaves under the surface of ice `thk` [m].

    topg_before: bed under thk, at its resolution [m]; topg: the finer bed [m]. Where thk is 0 the
    surface is taken to be at 0 m.
    """
    usrf = np.where(thk > 0, upper_surface(thk, topg_before), 0)
    return ice_thickness(usrf, topg)


def cell_type(thk, topg):
    """Type of each cell: int8, place in CELL_TYPES, -1 where thk or topg [m] is NaN."""
    with_ice = np.where(floats(thk, topg), 3, 2)
    kind = np.where(is_ice(thk), with_ice, np.where(topg >= 0, 1, 0))
    return np.where(np.isnan(thk) | np.isnan(topg), -1, kind).astype(np.int8)


def cells_by_type(thk, topg, near_cells):
    """Cells (y, x) that are scored by themselves, from thk and topg [m], (y, x): {name: bool}.

    grounded, floating: ice; ice_free: land or open ocean; margin: cells of any of these within
    near_cells (from centre to centre) of a cell of another one, that is of an ice edge or a
    grounding line. Where topg is None: ice and margin (the ice edge).
    """
    if topg is None:
        types = {"ice": is_ice(thk)}
    else:
        kind = cell_type(thk, topg)
        types = {"grounded": kind == 2, "floating": kind == 3,
                 "ice_free": (kind == 0) | (kind == 1)}
    margin = np.zeros(thk.shape, bool)
    for cells in [*types.values(), ~is_ice(thk)]:
        if cells.any() and not cells.all():  # else there is no other cell to be near to
            margin |= cells & (scipy.ndimage.distance_transform_edt(cells) <= near_cells)
    return types | {"margin": margin}


# ------------------------------------------------------------------ interpolation operators


def coarse_size(size, factor):
    """Cells or samples along an axis of `size` cells reduced by `factor`: 20, 10, 5, 3 for 41."""
    return max(round(size / factor), 1)


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


def spline_weights(source, target):
    """Matrix (target, source): natural cubic spline through values at `source`, at `target` [m].

    Constants and ramps come back exactly; beyond the outermost centres it goes on.
    """
    if len(source) == 1:
        return np.ones((len(target), 1))
    return scipy.interpolate.CubicSpline(source, np.eye(len(source)), bc_type="natural")(target)


def cell_centres(size, cells):
    """Centres of `cells` equal cells on an axis of `size` cells, in those from the first's edge."""
    return (np.arange(cells) + 0.5) * size / cells


def reduction_weights(size, coarse, degrade):
    """Matrix (coarse, size) that reduces an axis of `size` cells: W_y @ field @ W_x.T.

    degrade `bicubic`: point samples on a cubic spline, that of scipy.ndimage.zoom as in the
    original (the corner samples are the corner cells' values); `area`: means over coarse cells.
    """
    if degrade == "bicubic":
        return scipy.ndimage.zoom(np.eye(size), (coarse / size, 1))
    if size == 1:
        return np.ones((coarse, 1))
    if coarse == 1:
        return np.full((1, size), 1 / size)
    return overlap_weights(cell_centres(size, size), cell_centres(size, coarse)).toarray()


def enlargement_weights(coarse, size, degrade):
    """Matrix (size, coarse) that brings samples or means of an axis back to `size` cells.

    A cubic spline through the samples, on the corner cells' centres (`bicubic`, that of
    scipy.ndimage.zoom), or on the centres of the coarse cells, which the fine ones divide (`area`):
    nothing shifts by half a cell.
    """
    if degrade == "bicubic":
        return scipy.ndimage.zoom(np.eye(coarse), (size / coarse, 1))
    return spline_weights(cell_centres(size, coarse), cell_centres(size, size))


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


def make_levels(fields, scale, degrade, grid):
    """Fields (n, y, x) at every level of the chain: a list of (n, y, x) float32, level 0 first.

    Level 0 is reduced by `scale`, each next level by half of that; the last level is the field
    itself. grid "own" leaves each on its own cells, "fine" brings it back to the fine ones. Units
    as they come in.
    """
    fields = np.asarray(fields)
    levels = []
    while scale > 1:
        level = reduce_fields(fields, scale, degrade)
        if grid == "fine":
            level = enlarge_fields(level, fields.shape[1:], degrade)
        levels.append(level.astype(np.float32))
        scale //= 2
    return [*levels, fields.astype(np.float32)]


# ------------------------------------------------------------------ scores


def rmse_m(thk, label, axis=None):
    """Root mean square of thk - label [m], over everything or over `axis`."""
    return np.sqrt(np.mean((np.asarray(thk, np.float64) - label) ** 2, axis=axis))


def errors(thk, label, thk_max_m, spacing_m):
    """Errors of a thickness against the label, any shape, both in m: a dict.

    mse: mean square of (thk - label) / thk_max_m, the quantity that the original calls RMSE.
    rmse_m, mae_m, bias_m (thk - label) [m].
    volume_error_km3: of the ice volume. false_ice_km2, lost_ice_km2: area that is ice (is_ice) in
    one of the two alone. volume_error_percent, ice_area_error_percent: of the label's; left out
    where no cell of it is ice. Cells are spacing_m squared, areas of the projection: its scale (up
    to some per cent away from the latitude of true scale) is not corrected for.
    """
    difference, cell_km2 = np.asarray(thk, np.float64) - label, spacing_m**2 / 1e6
    false, lost, ice = (np.count_nonzero(cells) for cells in (
        is_ice(thk) & ~is_ice(label), is_ice(label) & ~is_ice(thk), is_ice(label)))
    values = {"mse": np.mean((difference / thk_max_m) ** 2), "rmse_m": rmse_m(thk, label),
              "mae_m": np.mean(np.abs(difference)), "bias_m": np.mean(difference),
              "volume_error_km3": difference.sum() * cell_km2 / 1000,
              "false_ice_km2": false * cell_km2, "lost_ice_km2": lost * cell_km2}
    if ice:
        values |= {"volume_error_percent": 100 * difference.sum() / np.sum(label, dtype=np.float64),
                   "ice_area_error_percent": 100 * (false - lost) / ice}
    return {name: float(value) for name, value in values.items()}


def score(thickness, label, cells, thk_max_m, spacing_m):
    """Score every method against the label in some cells, of patches or of a map: a dict.

    thickness: {method: thk [m]}, label [m], cells (bool): of one shape.
    n_cells; errors: {method: see errors}; ratio: {other method: MSE of the model / its MSE}, left
    out where the other has no error to speak of (RMSE below LEAST_RMSE_M). Without cells both are
    empty.
    """
    scores = {"n_cells": int(np.count_nonzero(cells)), "errors": {}, "ratio": {}}
    if scores["n_cells"]:
        scores["errors"] = {method: errors(thk[cells], label[cells], thk_max_m, spacing_m)
                            for method, thk in thickness.items()}
        scores["ratio"] = ratios(scores["errors"])
    return scores


def ratios(errors_by_method):
    """MSE of the model over that of every other method that has an error: {method: ratio}."""
    return {method: errors_by_method["model"]["mse"] / entry["mse"]
            for method, entry in errors_by_method.items()
            if method != "model" and entry["rmse_m"] >= LEAST_RMSE_M}
