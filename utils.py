"""What all scripts share and that needs no TensorFlow: files, operators, scores.

Sections: errors, files, command lines | ice geometry | interpolation operators |
cells of whole maps | scores.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import math
import os
import platform
import re
import shlex
import shutil
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
DENSITIES = (RHO_ICE, RHO_SEA)
LEAST_ICE_M = 1.0  # thinner ice is no ice: see is_ice
CELL_TYPES = ("ocean", "ice_free_land", "grounded_ice", "floating_ice")  # see cell_type
LEAST_RMSE_M = 0.01  # a method with less has no error to compare with: see ratios
# CF standard names of the fields of a map.
STANDARD_NAMES = {
    "x": "projection_x_coordinate",
    "y": "projection_y_coordinate",
    "thk": "land_ice_thickness",
    "topg": "bedrock_altitude",
    "topg_error": "bedrock_altitude standard_error",
    "usrf": "surface_altitude",
    "lsrf": "land_ice_basal_altitude",
}
# Fields of a finer map: NetCDF type and attributes.
WRITTEN = {
    "thk": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["thk"],
                   "long_name": "ice thickness"}),
    "thk_uncertainty": ("f4", {"units": "m",
                               "long_name": "half-width of the 90 % interval of thk"}),
    "topg": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["topg"],
                    "long_name": "bed elevation"}),
    "usrf": ("f4", {"units": "m", "standard_name": STANDARD_NAMES["usrf"],
                    "long_name": "upper surface elevation, from thk and topg by flotation"}),
    "mask": ("i1", {"flag_values": np.arange(len(CELL_TYPES), dtype=np.int8),
                    "flag_meanings": " ".join(CELL_TYPES), "long_name": "type of the cell",
                    "comment": f"ice where thk > {LEAST_ICE_M:g} m, floating where its "
                               "weight does not ground it (see the attribute densities)"}),
}


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
    except MemoryError as error:
        print(f"error: not enough memory ({one_line(error)}); use a part of the map, or a machine "
              "with more", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)


def argument_parser(doc):
    """An argparse parser with the script's docstring as help, whose errors are one line.

    It takes -5e5 as a number, and refuses what no option can mean: see check_words, check_numbers.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(message):
        raise InputError(f"{message} (see python {parser.prog} --help)")

    def parse_args(argv=None):
        words = list(sys.argv[1:] if argv is None else argv)
        check_words(words)
        args = argparse.ArgumentParser.parse_args(parser, [
            # argparse itself takes -500000.0 for a number, -5e5 for an option
            f"{float(word):f}" if re.fullmatch(r"-[\d.]+[eE][-+]?\d{1,2}", word) else word
            for word in words])
        check_numbers(vars(args))
        return args

    parser.error, parser.parse_args = error, parse_args
    return parser


def check_words(words):
    """Raise InputError for a word of a command line that is empty or not UTF-8."""
    for before, word in zip(["", *words], words, strict=False):
        if not word.strip() or word.startswith("--") and word.endswith("="):
            raise InputError(f'{before or "command line"}: "{word}" is empty; is a variable of the '
                             "shell not set?")
        try:
            word.encode()
        except UnicodeEncodeError:  # no such name can be written into a NetCDF or JSON file
            raise InputError(f"{ascii(word)}: not UTF-8; rename the file, or make a link to it "
                             "with a plain name") from None


def check_numbers(values):
    """Raise InputError for a number of a command line that is infinite, NaN or beyond 32 bits.

    values: {name of the option: value or values}.
    """
    for name, value in values.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not (
                    abs(number) < 2**32 if isinstance(number, int) else abs(number) < 1e30):
                raise InputError(f"--{name.replace('_', '-')} {str(number)[:20]}: expected a "
                                 "number, not so large")


def densities_of(data):
    """Densities of ice and sea water [kg m-3] of the `data` of a run; older ones have none."""
    return tuple(data.get("densities", DENSITIES))


def with_densities(settings, densities):
    """Settings of a run with other densities of ice and sea water [kg m-3]; None: with its own."""
    data = settings["data"]
    return settings | {"data": data | {"densities": list(densities)}} if densities else settings


def chosen_records(text, records, path):
    """The numbers of the records that --time asks for, N (int), "N:M" (without M) or "all"; a list.

    records: how many there are in the file `path`.
    """
    if isinstance(text, int):
        return [text]
    ends = [int(end) if end else None for end in text.replace("all", ":").split(":")]
    numbers = list(range(records)[slice(*ends)])
    if not numbers:
        raise InputError(f"{path}: --time {text}: none of its records, 0 to {records - 1}")
    return numbers


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


def sync(path):
    """Wait until a file or folder is on the disk: what follows may count on it after a power cut.

    Of a file that is its contents, of a folder the names in it.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def make_folder(path):
    """Make a folder and those above it, where they are not there, for good (see sync)."""
    path = Path(path)
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def temporary_path(path):
    """The hidden name beside `path` that this process writes it under: names machine and process.

    What earlier processes of this machine left in that folder when they were killed is removed.
    """
    path, mark = Path(path), f".{platform.node()}-"
    for each in path.parent.glob(f"{mark}*"):
        number = each.name.removeprefix(mark).split(".")[0]
        if number.isdigit() and not is_running(int(number)):
            remove(each)
    temporary = path.with_name(f"{mark}{os.getpid()}.{path.name}")
    remove(temporary)  # of a process that had the same number
    return temporary


def remove(path):
    """Remove a file, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_running(number):
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(number, 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block ends without an error.

    A reader sees the old file or the whole new one, never a half, after a power cut too: the
    contents are on the disk before the name is switched. After an error nothing is left.
    """
    path = Path(path)
    with writing(path):
        make_folder(path.parent)
        temporary = temporary_path(path)
    try:
        yield temporary
        with writing(path):
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # where even the folder is not one
            temporary.unlink()



def check_output(path, *inputs):
    """Raise InputError where writing `path` would destroy one of the files `inputs`, or no file.

    The same file by any path, link or relative name counts. inputs: paths; None and "" are skipped.
    What lies in the folder of a run is one too: its weights, settings and results.
    """
    path = Path(path)
    with writing(path):  # where its folder is not one, or the name is too long
        is_other = path.is_symlink() and not path.exists() or path.exists() and not path.is_file()
    if is_other or path.name in ("", ".."):
        raise InputError(f"{path}: not a file; choose another name for the output")
    if CHECKPOINTS.resolve() in path.resolve().parents or path.exists() and (
            RESULTS.resolve() in path.resolve().parents and path.suffix != ".nc"):
        raise InputError(f"{path}: belongs to a run; choose another name for the output")
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
    except (ValueError, RecursionError) as error:
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
    if not Path(path).is_file():  # /dev/zero has no end
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------ ice geometry


def is_ice(thk):
    """Where there is ice: thickness `thk` [m] above LEAST_ICE_M."""
    return thk > LEAST_ICE_M


def floats(thk, topg, densities=DENSITIES):
    """Where ice `thk` [m] is too light to lie on the bed `topg` [m]; arrays or tensors.

    densities: of ice and sea water [kg m-3], here and below.
    """
    return densities[0] / densities[1] * thk < -topg


def upper_surface(thk, topg, densities=DENSITIES):
    """Upper surface elevation [m] of ice `thk` [m] on bed `topg` [m], grounded or floating.

    max(thk + topg, (1 - rho_ice / rho_sea) thk): flotation decides by itself which is higher.
    Without ice: that of the land or, at 0, of the sea.
    """
    return np.maximum(thk + topg, (1 - densities[0] / densities[1]) * thk)


def ice_thickness(usrf, topg, densities=DENSITIES):
    """Ice thickness [m] below the surface `usrf` [m] over the bed `topg` [m]: the inverse.

    usrf - topg where that is heavy enough to ground; else floating ice in hydrostatic equilibrium,
    which at the grounding line is the same. Never below 0.
    """
    ratio = densities[0] / densities[1]
    grounded = usrf - topg
    floating = np.minimum(usrf / (1 - ratio), -topg / ratio)
    return np.maximum(np.where(floats(grounded, topg, densities), floating, grounded), 0)


def surface_base(thk, topg_before, topg, densities=DENSITIES):
    """Thickness [m] of the ice that a finer bed leaves under the surface of ice `thk` [m].

    topg_before: bed under thk, at its resolution [m]; topg: the finer bed [m]. Where thk is 0 the
    surface is taken to be at 0 m.
    """
    usrf = np.where(thk > 0, upper_surface(thk, topg_before, densities), 0)
    return ice_thickness(usrf, topg, densities)


def cell_type(thk, topg, densities=DENSITIES):
    """Type of each cell: int8, place in CELL_TYPES, -1 where thk or topg [m] is NaN."""
    with_ice = np.where(floats(thk, topg, densities), 3, 2)
    kind = np.where(is_ice(thk), with_ice, np.where(topg >= 0, 1, 0))
    return np.where(np.isnan(thk) | np.isnan(topg), -1, kind).astype(np.int8)


def cells_by_type(thk, topg, near_cells, densities=DENSITIES):
    """Cells (y, x) that are scored by themselves, from thk and topg [m], (y, x): {name: bool}.

    grounded, floating: ice; ice_free: land or open ocean; margin: cells of any of these within
    near_cells (from centre to centre) of a cell of another one, that is of an ice edge or a
    grounding line. Where topg is None: ice and margin (the ice edge).
    """
    if topg is None:
        types = {"ice": is_ice(thk)}
    else:
        kind = cell_type(thk, topg, densities)
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


# ------------------------------------------------------------------ cells of whole maps, their file


def finer_axis(axis, factor):
    """Centres [m] of the cells that divide each cell of an evenly spaced axis by `factor`."""
    spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
    return axis[0] + spacing * ((np.arange(len(axis) * factor) + 0.5) / factor - 0.5)


def fill_nearest(field, unknown):
    """A field (y, x) with its unknown cells given the value of the nearest known one, else 0."""
    if unknown.all():
        return np.zeros_like(field)
    if not unknown.any():
        return field
    nearest = scipy.ndimage.distance_transform_edt(unknown, return_distances=False,
                                                   return_indices=True)
    return field[tuple(nearest)]


def bring_to_cells(bed, x, y):
    """The bed on the cells x, y (centres [m], ascending, evenly spaced): (y, x) float32 [m].

    bed: see maps.open_bed. A finer bed is averaged over the cells, wherever its own lie; one as
    coarse or coarser is interpolated by cubic splines, unless its cells are these very ones.
    NaN where less than half a cell is known. Its change, if any, is added.
    """
    if bed.get("change"):
        return bring_to_cells(bed | {"change": None}, x, y) + bring_to_cells(bed["change"], x, y)
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
            weights.append(overlap_weights(source, axis))
        else:
            beyond = (axis < source[0] - spacing / 2) | (axis > source[-1] + spacing / 2)
            weights.append(np.where(beyond[:, None], 0, spline_weights(source, axis)))
    field = bed["read"](*parts)
    known = np.isfinite(field)
    share = weights[0] @ known.astype(float) @ weights[1].T
    mean = weights[0] @ np.where(known, field, 0).astype(float) @ weights[1].T
    return np.where(share > 0.5, mean / np.maximum(share, 0.5), np.nan).astype(np.float32)


def axis_tiles(size, halo, side):
    """Tiles along an axis of `size` cells: [(slice of its own cells, slice with the halo), ...].

    Tiles are equally wide with their halos (or the whole axis), so one graph does them all, and at
    most `side` cells; their own cells are `halo` or more away from their edges, but for the edges
    of the map.
    """
    if size <= side:
        return [(slice(0, size), slice(0, size))]
    own = math.ceil(size / math.ceil(size / (side - 2 * halo)))
    side = min(own + 2 * halo, size)
    firsts = [min(max(start - halo, 0), size - side) for start in range(0, size, own)]
    return [(slice(start, min(start + own, size)), slice(first, first + side))
            for start, first in zip(range(0, size, own), firsts, strict=True)]


def create_fine_map(path, axes, crs, names, chunk, attributes, time_axis=None, moving=()):
    """An open netCDF4.Dataset for a CF-1.8 map, to be filled part by part.

    axes: {"y", "x"} [m], in the order of the file; crs: attributes of the grid mapping, {} if
    unknown; names: fields of WRITTEN, (y, x) each; chunk: side of the compressed chunks in cells;
    attributes: global ones. time_axis: values, attributes and bounds (or None) of the records of
    the fields `moving`, along an unlimited axis; None: one record, without an axis.
    """
    ds = netCDF4.Dataset(path, "w")
    ds.setncatts({"Conventions": "CF-1.8"} | attributes)
    if time_axis:
        ds.createDimension("time", None)
        ds.createVariable("time", "f8", ("time",)).setncatts({"axis": "T"} | time_axis[1])
        if time_axis[2] is not None:
            ds["time"].bounds = "time_bnds"
            ds.createDimension("nv", 2)
            ds.createVariable("time_bnds", "f8", ("time", "nv"))
    for name, axis in axes.items():
        ds.createDimension(name, len(axis))
        ds.createVariable(name, "f8", (name,))[...] = axis
        ds[name].setncatts({"units": "m", "axis": name.upper(),
                            "standard_name": STANDARD_NAMES[name],
                            "long_name": f"{name} coordinate of cell centre"})
    if crs:
        ds.createVariable("crs", "i4").setncatts(crs)
    sides = tuple(min(chunk, len(axes[name])) for name in "yx")
    for name in names:
        kind, about = WRITTEN[name]
        fill = np.float32(np.nan) if kind == "f4" else np.int8(-1)
        along = ("time",) if time_axis and name in moving else ()
        ds.createVariable(name, kind, (*along, "y", "x"), zlib=True, complevel=4, shuffle=True,
                          chunksizes=(1,) * len(along) + sides, fill_value=fill)
        ds[name].setncatts(about | ({"grid_mapping": "crs"} if crs else {}))
    return ds


# ------------------------------------------------------------------ scores


def rmse_m(thk, label, axis=None):
    """Root mean square of thk - label [m], over everything or over `axis`."""
    return np.sqrt(np.mean((np.asarray(thk, np.float64) - label) ** 2, axis=axis))


def patch_rmse_m(by_method, label):
    """RMSE of each patch: {method: (patch,) m}; by_method {method: (patch, y, x) m} and label."""
    return {method: rmse_m(thk, label, axis=(1, 2)) for method, thk in by_method.items()}


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
