"""The file of patches: cutting and splitting, writing and reading, finding the one that fits a run.

*Patches* are a dict:
    thk, topg       ice thickness and bed at every level, (patch, level, y, x) float32 [m]; topg is
                    None if the map has no bed. Level 0 is the input, the last level the label
    x, y            centres of the cells, (patch, x) and (patch, y) [m]
    row, column     position of the patch in the window, from the lower left, (patch,) int
    split           what the patch is used for, (patch,) int8: its index in SPLITS
    scale           how many times finer the last level is than the input
    data            what decides the numbers, see settings.PATCH_FILE_ATTRIBUTES
"""

import contextlib
import hashlib
import json
import math
import re
from pathlib import Path

import netCDF4
import numpy as np
import scipy.ndimage
from sklearn.model_selection import train_test_split

import utils
from icesheet import command_line, files, map_files, map_layout, projections
from icesheet.command_line import InputError
from icesheet.settings import (
    DEFAULTS_FOR_OLDER_FILES, PATCH_FILE_ATTRIBUTES, PATCH_FILE_SCHEMA, SCALES, diff_settings,
    find_schema_error, format_differences, needs_topg)

PATCH_CELLS = {"bicubic": 41, "area": 48}  # side of a patch; for area it holds whole coarse cells
VALIDATION_SHARE = 0.1    # share of the training patches that monitors the training: 14 of 140
BLOCK_PATCHES = (5, 4)    # rows and columns of patches in a block of the split (1025 x 820 km)
SPLITS = ("train", "validation", "test", "buffer")  # values 0, 1, 2, 3 of split(patch)
OF_THE_SPLIT = ("split_method", "fold", "thk_norm_m", "topg_norm_m")  # what apply_split sets
DESCRIPTIVE_KEYS = ("source", "source_title", "citation", "time_label", "crs")  # decide no number


def cut_patches(field, side=PATCH_CELLS["bicubic"]):
    """Cut a field (y, x) into patches (patch, side, side), row by row from the first row up."""
    rows, columns = (n // side for n in field.shape)
    return field.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def join_patches(fields, patches):
    """Join fields of all patches (patch, y, x) to the window (y, x), the inverse of cut_patches."""
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    side = fields.shape[1]
    fields = fields.reshape(rows, columns, side, side).swapaxes(1, 2)
    return fields.reshape(rows * side, columns * side)


def assign_blocks(rows, columns):
    """Return the block that each patch of a grid of rows x columns belongs to, (patch,) int from 0.

    Blocks have BLOCK_PATCHES patches, as nearly as the grid allows: 10 for 10 x 20 patches.
    """
    n_blocks_y, n_blocks_x = (max(round(n / size), 1) for n, size in zip(
        (rows, columns), BLOCK_PATCHES, strict=True))
    block_y = np.arange(rows) * n_blocks_y // rows
    block_x = np.arange(columns) * n_blocks_x // columns
    return (block_y[:, None] * n_blocks_x + block_x).ravel()


def split_patches(rows, columns, split_method, test_size, seed, fold=()):
    """Split a grid of rows x columns patches; return the use of each, (patch,) int8 as in SPLITS.

    random: scikit-learn's train_test_split. A test patch then lies among training patches whose ice
    and bed continue into it, so the score is too good for a new region.
    block: whole blocks of neighbouring patches are held out, and a buffer one patch wide around
    them is used for nothing. A block of 2 x 3 patches (T) in a corner, its buffer (.), training x:
        x x x x x x
        . . . . x x
        T T T . x x
        T T T . x x
    fold: (2, 5) holds out the second fifth of the blocks; every block is in one fold.
    A tenth of the training patches, drawn at random, is kept for validation.
    Raises InputError if too few patches are left for training or test.
    """
    n = rows * columns
    if n < 10:
        raise InputError(f"the window holds {n} patches; a split needs at least 10")
    if split_method == "random":
        n_test = min(math.ceil(test_size * n), n - 1)  # scikit-learn's own rule, but never all
        test = train_test_split(np.arange(n), test_size=n_test, random_state=seed)[1]
        buffer = np.zeros(n, bool)
    else:
        is_test = np.isin(assign_blocks(rows, columns),
                          draw_test_blocks(rows, columns, test_size, seed, fold))
        test_and_buffer = scipy.ndimage.binary_dilation(
            is_test.reshape(rows, columns), np.ones((3, 3))).ravel()
        test, buffer = np.flatnonzero(is_test), test_and_buffer & ~is_test
    split = np.full(n, SPLITS.index("train"), np.int8)
    split[buffer], split[test] = SPLITS.index("buffer"), SPLITS.index("test")
    training = np.flatnonzero(split == SPLITS.index("train"))
    if len(training) < 4 or len(test) == 0:
        raise InputError(f"{split_method} split of {rows} x {columns} patches leaves "
                         f"{len(training)} for training and {len(test)} for test, at least 4 and 1 "
                         "are needed; choose another --test-size or a larger --window")
    validation = train_test_split(training, test_size=VALIDATION_SHARE, random_state=seed)[1]
    split[validation] = SPLITS.index("validation")
    return split


def draw_test_blocks(rows, columns, test_size, seed, fold=()):
    """Draw the blocks of test patches: those of a fold, or as many as come nearest to test_size."""
    n_patches = np.bincount(assign_blocks(rows, columns))  # (block,)
    order = np.random.default_rng(seed).permutation(len(n_patches))
    if not len(fold):
        cumulative_patches = np.cumsum(n_patches[order])
        return order[:1 + int(np.argmin(np.abs(cumulative_patches - test_size * rows * columns)))]
    number, n_folds = fold
    if n_folds > len(order):
        raise InputError(f"{n_folds} folds of {len(order)} blocks of patches: ask for at most "
                         f"{len(order)}, or edit BLOCK_PATCHES in icesheet/patches.py")
    return order[number - 1::n_folds]


def describe_split(data):
    """Return the split of patches in words, "block split, fold 2 of 5"; data: of the patches."""
    return f"{data['split_method']} split" + (
        ", fold {} of {}".format(*data["fold"]) if data["fold"] else "")


def find_patches_in_split(patches, *names):
    """Return the indices of the patches in the given splits ("train", ...), ascending."""
    return np.flatnonzero(np.isin(patches["split"], [SPLITS.index(name) for name in names]))


def training_and_validation_indices(patches, settings):
    """Return the indices of a run's training patches, and of its validation patches (or none)."""
    if settings["validation"]:
        return find_patches_in_split(patches, "train"), find_patches_in_split(patches, "validation")
    return find_patches_in_split(patches, "train", "validation"), np.array([], int)


def apply_split(patches, split_method, fold=()):
    """Return the same patches with another split and the normalisation constants that follow.

    The constants come from training and validation patches alone: they must not know the test's.
    """
    data = patches["data"]
    split = split_patches(patches["row"].max() + 1, patches["column"].max() + 1, split_method,
                          data["test_size"], data["seed"], fold)
    is_training = split <= SPLITS.index("validation")
    thk, topg = patches["thk"][is_training, -1], patches["topg"]
    if not utils.is_ice(thk).any():
        raise InputError(f"{data['source']}: no ice in the patches to train on, so there is "
                         "nothing to learn; choose another --window, --seed or --split")
    topg_norm_m = 0.0 if topg is None else float(np.abs(topg[is_training, -1]).max())
    if topg is not None and topg_norm_m == 0:
        topg_norm_m = 1.0  # the bed is divided by it, and may lie at 0 m throughout
    return patches | {"split": split, "data": data | {
        "split_method": split_method, "fold": list(fold), "thk_norm_m": float(thk.max()),
        "topg_norm_m": topg_norm_m}}


def make_chain_inputs(patches, patch_indices, settings):
    """Return thickness and bed of some patches at every level of the chain: two lists.

    Their arrays are (patch, y, x) float32 [m] (utils.build_levels). The bed is zero if the run
    does not use it.
    """
    thk = patches["thk"][patch_indices, -1]
    topg = patches["topg"][patch_indices, -1] if needs_topg(settings) else np.zeros_like(thk)
    return [utils.build_levels(field, settings["scale"], settings["data"]["degrade"],
                               settings["grid"]) for field in (thk, topg)]


def netcdf_variables(patches):
    """Return the variables of a file of patches: {name: (dimensions, values, attributes)}."""
    scale, data = patches["scale"], patches["data"]
    names, levels = map_layout.STANDARD_NAMES, np.arange(scale.bit_length(), dtype=np.int32)
    mapping = {"grid_mapping": "crs"} if data["crs"] else {}
    variables = {
        "level": (("level",), levels, {"long_name": "level: 0 the input, the last the label"}),
        "spacing": (("level",), data["spacing_m"] * scale / 2.0**levels,
                    {"units": "m", "long_name": "nominal spacing"}),
        "row": (("patch",), patches["row"], {"long_name": "row of the patch, from the lowest y"}),
        "column": (("patch",), patches["column"],
                   {"long_name": "column of the patch, from the lowest x"}),
        "split": (("patch",), patches["split"], {
            "long_name": "what the patch is used for", "flag_meanings": " ".join(SPLITS),
            "flag_values": np.arange(len(SPLITS), dtype=np.int8)})}
    for axis in "xy":
        variables[axis] = (("patch", axis), patches[axis],
                           {"units": "m", "standard_name": names[axis]})
    for name in ("thk", "topg"):
        if patches[name] is not None:
            variables[name] = (("patch", "level", "y", "x"), patches[name],
                               {"units": "m", "standard_name": names[name], **mapping})
    if mapping:
        variables["crs"] = ((), np.int32(0), data["crs"])
    return variables


def write_patches(path, patches):
    """Write patches to a NetCDF file that describes itself; it appears whole or not at all."""
    data = patches["data"]
    with files.atomic_write(path) as temporary, files.explain_write_errors(path), \
            netCDF4.Dataset(temporary, "w") as ds:
        ds.setncatts({
            "Conventions": "CF-1.8",
            "title": ("SYNTHETIC i" if data["synthetic"] else "I") + "ce-sheet patches for SRCNN",
            "history": files.history_entry(), "versions": str(files.package_versions()),
            **{key: data[key] for key in PATCH_FILE_ATTRIBUTES},
            "scale": np.int32(patches["scale"]), "fold": " ".join(map(str, data["fold"])),
            "synthetic": "yes" if data["synthetic"] else "no"})
        for name, size in zip(("patch", "level", "y", "x"), patches["thk"].shape, strict=True):
            ds.createDimension(name, size)
        for name, (dimensions, values, attributes) in netcdf_variables(patches).items():
            compression = {"zlib": True, "complevel": 4} if len(dimensions) > 1 else {}
            ds.createVariable(name, values.dtype, dimensions, **compression)[...] = values
            ds[name].setncatts(attributes)


def read_patches(path):
    """Read a file that prepare_data.py wrote; return its patches (see the top of this file).

    Raises InputError if the file is missing, damaged, something else, or written to meanwhile.
    """
    file_state = map_files.read_file_state(path)
    with map_files.open_netcdf(path) as ds:
        try:
            patches = {name: np.ma.filled(ds.variables[name][...])
                       for name in ("thk", "x", "y", "split", "row", "column")}
            patches["topg"] = np.ma.filled(ds["topg"][...]) if "topg" in ds.variables else None
            patches["scale"] = int(ds.getncattr("scale"))
            data = DEFAULTS_FOR_OLDER_FILES | {
                key: np.asarray(ds.getncattr(key)).tolist() for key in PATCH_FILE_ATTRIBUTES
                if key in ds.ncattrs() or key not in DEFAULTS_FOR_OLDER_FILES}
            # A job beside may put a whole new file in its place: then this was all of the old one.
            if (map_files.read_file_state(path) or ())[:2] == file_state[:2]:
                map_files.check_unchanged(path, file_state)
        except (KeyError, AttributeError, OSError, RuntimeError, ValueError, TypeError, IndexError
                ) as error:
            raise InputError(
                f"{path}: not a file of patches, or truncated ({command_line.one_line(error)}); "
                f"recreate it: python prepare_data.py --output {path}") from None
        data["synthetic"] = data["synthetic"] == "yes"
        if re.fullmatch(r"(\d{1,4} \d{1,4})?", str(data["fold"])):
            data["fold"] = [int(number) for number in data["fold"].split()]
        check_patches(path, patches, data)
        return patches | {"data": data | {"crs": projections.read_crs(ds)}}


def check_patches(path, patches, data):
    """Raise InputError for the first value that no file of write_patches has.

    data: see settings.PATCH_FILE_ATTRIBUTES.
    """
    def require(name, is_right):
        if not is_right:
            raise InputError(f"{path}: a damaged file of patches: {name} is not what "
                             "prepare_data.py writes. Recreate it: python prepare_data.py "
                             f"--output {path}")

    error = find_schema_error(data, PATCH_FILE_SCHEMA)
    require(error, not error)
    for key in ("spacing_m", "thk_max_m", "thk_norm_m"):
        require(key, data[key] > 0)
    require("topg_norm_m", data["topg_norm_m"] >= 0)
    require("scale", patches["scale"] in SCALES)
    n, side = len(patches["row"]), PATCH_CELLS[data["degrade"]]
    shape = (n, patches["scale"].bit_length(), side, side)
    for name, expected in (("thk", shape), ("topg", shape), ("x", (n, side)), ("y", (n, side)),
                           ("row", (n,)), ("column", (n,)), ("split", (n,))):
        values = patches[name]
        require(name, name == "topg" and values is None or values.shape == expected and n > 0
                and values.dtype.kind in ("f" if len(expected) > 1 else "i")
                and np.isfinite(values).all() and np.abs(values).max() < 1e9)
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    require("row", rows * columns == n and np.array_equal(
        patches["row"] * columns + patches["column"], np.arange(n)))
    require("split", set(patches["split"]) <= set(range(len(SPLITS)))
            and {SPLITS.index("train"), SPLITS.index("test")} <= set(patches["split"]))


def default_path(scale):
    """Return the file of the first map's patches at a scale."""
    return files.DATA / f"patches_x{scale}.nc"


def choose_new_path(patches, replace=True):
    """Return the file to write patches to: the default one, or one named by their contents.

    The default file may be missing, have the same contents, or with `replace` be of the same map.
    Patches of another map, or anything else, are never overwritten: the name is then
    data/patches_x8_1a2b3c4d.nc.
    """
    path = default_path(patches["scale"])
    if not path.exists():
        return path
    contents = {key: patches["data"][key] for key in PATCH_FILE_ATTRIBUTES
                if key not in DESCRIPTIVE_KEYS}
    with contextlib.suppress(InputError):
        old = read_patches(path)
        if old["scale"] == patches["scale"] and all(
                old["data"][key] == contents[key]
                for key in (("source_sha256",) if replace else contents)):
            return path
    checksum = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return path.with_stem(f"{path.stem}_{checksum[:8]}")


def wanted_contents(run, run_data=None, input_file=None, source="any", options=None):
    """Return what the patches of a run have to be made of: {key of their `data`: value}.

    run_data: `data` in the settings of a run that exists: all of it but names and densities; the
    other arguments: of load_or_make_patches. `variables` is what the user asked for, ["thk = H"].
    Raises InputError if the run was trained on another map than the given one.
    """
    given, sea_level_m = {}, (options or {}).get("sea_level_m")
    if input_file is not None:
        names = (options or {}).get("names") or {}
        given = {"source": Path(input_file).name, "source_sha256": files.hash_file(input_file),
                 "variables": [f"{field} = {names[field]}" for field in names if field not in "xy"]}
    elif source == "synthetic":
        given = {"source": "the synthetic ice sheet", "source_sha256": "", "synthetic": True}
    if sea_level_m is not None:
        given["sea_level_m"] = sea_level_m
    if run_data is None:
        return given or ({"synthetic": False} if source == "map" else {})
    if given.get("source_sha256", run_data["source_sha256"]) != run_data["source_sha256"]:
        raise InputError(f"run {run} was trained on {run_data['source']}, not on "
                         f"{given['source']}; give that map with --input, choose another --run, or "
                         "train it again with --restart")
    run_data = {"sea_level_m": 0.0} | run_data
    if given.get("sea_level_m", run_data["sea_level_m"]) != run_data["sea_level_m"]:
        raise InputError(f"run {run} was trained with --sea-level {run_data['sea_level_m']:g}, not "
                         f"{sea_level_m:g}; leave the option out, or choose another --run")
    ignored = ("densities", *(OF_THE_SPLIT if run_data["fold"] else ()))  # a fold is split later
    return given | {key: value for key, value in run_data.items() if key not in ignored}


def find_mismatch(patches, scale, wanted):
    """Return in words why patches are not the wanted ones (of wanted_contents), or ""."""
    data = patches["data"]
    if patches["scale"] != scale:
        return f"made for scale {patches['scale']}, not {scale}"
    if wanted.get("source_sha256", data["source_sha256"]) != data["source_sha256"]:
        return f"made from {data['source']}, not from {wanted['source']}"
    if wanted.get("synthetic") is False and data["synthetic"]:
        return "patches of the synthetic ice sheet"
    if not set(wanted.get("variables", ())) <= set(data["variables_read"].split(", ")):
        return f"read from {data['variables_read']}, not from {', '.join(wanted['variables'])}"
    compared = [key for key in data if key in wanted and key not in DESCRIPTIVE_KEYS]
    differences = diff_settings(*({key: values[key] for key in compared}
                                  for values in (wanted, data)))
    return "" if not differences else (
        f"settings differ from the run's: {format_differences(differences)}")


def find_patches(first, others, scale, wanted):
    """Find the file that holds the wanted patches; return (path, patches, "").

    first: the file to be used if it fits; others: files of any contents. If none fits, return
    (first, None, why that does not: "" if it is missing).
    Raises InputError if `first` is damaged, or if several others fit a run that is new.
    """
    why_not, fitting = "", []
    if first.exists():
        patches = read_patches(first)
        why_not = find_mismatch(patches, scale, wanted)
        if not why_not:
            return first, patches, ""
    for path in others:
        with contextlib.suppress(InputError):  # damaged, or something else
            patches = read_patches(path)
            fitting += [] if find_mismatch(patches, scale, wanted) else [(path, patches, "")]
    if len(fitting) > 1 and "window" not in wanted:
        raise InputError(f"{fitting[0][0]} and {fitting[1][0]} both hold patches of "
                         f"{wanted['source']}; choose with --patches FILE")
    return fitting[0] if fitting else (first, None, why_not)
