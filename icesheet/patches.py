"""icesheet.patches."""

import math
import re

import netCDF4
import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse
from sklearn.model_selection import train_test_split

import utils
from icesheet import command_line, files, map_files, map_layout, projections
from icesheet.command_line import InputError
from icesheet.settings import DEFAULTS_FOR_OLDER_FILES, PATCH_FILE_ATTRIBUTES, PATCH_FILE_SCHEMA
from icesheet.settings import SCALES, find_schema_error, needs_topg

# ---- Settings ---------------------------------------------------------------------------------
PATCH_CELLS = {"bicubic": 41, "area": 48}  # cells along each side of a patch; whole coarse cells for area
VALIDATION_SHARE = 0.1         # share of the training patches that chooses the best epoch: 14 of 140
BLOCK_PATCHES = (5, 4)  # rows and columns of patches in a block of the block split (1025 x 820 km)
SPLITS = ("train", "validation", "test", "buffer")  # values 0, 1, 2, 3 of split(patch)


def cut_patches(field, side=PATCH_CELLS["bicubic"]):
    """Cut a field (y, x) into patches (patch, side, side), row by row from the first row up."""
    rows, columns = (n // side for n in field.shape)
    return field.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def join_patches(fields, patches):
    """Put fields of all patches (patch, y, x) together to the window (y, x): undo cut_patches."""
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    side = fields.shape[1]
    fields = fields.reshape(rows, columns, side, side).swapaxes(1, 2)
    return fields.reshape(rows * side, columns * side)


def assign_blocks(rows, columns):
    """Block that each patch of a grid of rows x columns belongs to: (patch,) int, from 0.

    Blocks are BLOCK_PATCHES patches large, as nearly as the grid allows: 10 for the 10 x 20 patches.
    """
    n_y, n_x = (max(round(n / block), 1) for n, block in zip((rows, columns), BLOCK_PATCHES, strict=True))
    block_y, block_x = (np.arange(n) * blocks // n for n, blocks in ((rows, n_y), (columns, n_x)))
    return (block_y[:, None] * n_x + block_x).ravel()


def split_patches(rows, columns, split_method, test_size, seed, fold=()):
    """Split a grid of rows x columns patches: (patch,) int8, values as in patches.SPLITS.

    random: scikit-learn's train_test_split. A test patch then lies among training patches whose ice
    and bed continue into it, so the score is too good for a new region.
    block: whole blocks of neighbouring patches are held out, and a gap of one patch around them is
    used for nothing. Here a block of 2 x 3 patches (T) in a corner, its gap (.), training (x):
        x x x x x x
        . . . . x x
        T T T . x x
        T T T . x x
    fold: (2, 5) holds out the second fifth of the blocks; each block is in one fold.
    A tenth of the training patches, drawn at random, is kept for validation.
    """
    n = rows * columns
    if n < 10:
        raise InputError(f"the window holds {n} patches; a split needs at least 10")
    if split_method == "random":
        n_test = min(math.ceil(test_size * n), n - 1)  # scikit-learn's own rule, short of all
        test = train_test_split(np.arange(n), test_size=n_test, random_state=seed)[1]
        gap = np.zeros(n, bool)
    else:
        block = assign_blocks(rows, columns)
        order = np.random.default_rng(seed).permutation(block.max() + 1)
        if len(fold):
            number, folds = fold
            if folds > len(order):
                raise InputError(f"{folds} folds of {len(order)} blocks of patches: ask for at "
                                 f"most {len(order)}, or edit BLOCK in prepare_data.py")
            chosen = order[number - 1::folds]
        else:
            held_out = np.cumsum(np.bincount(block)[order])
            chosen = order[:1 + int(np.argmin(np.abs(held_out - test_size * n)))]
        is_test = np.isin(block, chosen)
        grown = scipy.ndimage.binary_dilation(is_test.reshape(rows, columns), np.ones((3, 3)))
        test, gap = np.flatnonzero(is_test), grown.ravel() & ~is_test
    split = np.full(n, SPLITS.index("train"), np.int8)
    split[gap] = SPLITS.index("buffer")
    split[test] = SPLITS.index("test")
    train = np.flatnonzero(split == SPLITS.index("train"))
    if len(train) < 4 or len(test) == 0:
        raise InputError(f"{split_method} split of {rows} x {columns} patches leaves {len(train)} "
                         f"for training and {len(test)} for test, at least 4 and 1 are needed; "
                         "choose another --test-size or a larger --window")
    validation = train_test_split(train, test_size=VALIDATION_SHARE, random_state=seed)[1]
    split[validation] = SPLITS.index("validation")
    return split


def describe_split(data):
    """The split of patches for a reader: "block split, fold 2 of 5"; data: see PATCH_FILE_ATTRIBUTES."""
    return f"{data['split_method']} split" + (
        ", fold {} of {}".format(*data["fold"]) if data["fold"] else "")


def find_patches_in_split(patches, *names):
    """Numbers of the patches in the given splits ("train", "validation", ...), ascending."""
    return np.flatnonzero(np.isin(patches["split"], [SPLITS.index(name) for name in names]))


def training_and_validation_indices(patches, settings):
    """Numbers of the patches that a run trains on, and of those held out to watch it (or none)."""
    if settings["validation"]:
        return find_patches_in_split(patches, "train"), find_patches_in_split(patches, "validation")
    return find_patches_in_split(patches, "train", "validation"), np.array([], int)


def apply_split(patches, split_method, fold=()):
    """The same patches under a split, with what follows from it: `split` and the norms in `data`.

    The norms must not know the test patches.
    """
    data = patches["data"]
    split = split_patches(patches["row"].max() + 1, patches["column"].max() + 1, split_method,
                          data["test_size"], data["seed"], fold)
    learnt = split <= SPLITS.index("validation")
    if not utils.is_ice(patches["thk"][learnt, -1]).any():
        raise InputError(f"{data['source']}: no ice in the patches to train on, so there is "
                         "nothing to learn; choose another --window, --seed or --split")
    thk, topg = patches["thk"][learnt, -1], patches["topg"]
    return patches | {"split": split, "data": data | {
        "split_method": split_method, "fold": list(fold), "thk_norm_m": float(thk.max()),
        "topg_norm_m": 0.0 if topg is None else float(
            np.abs(topg[learnt, -1]).max() or 1)}}  # 1: a bed at 0 m throughout is divided by it


def make_chain_inputs(patches, numbers, settings):
    """Thickness and bed of the patches of these numbers as the chain takes them: two lists.

    (patch, y, x) float32 [m] at every level, see utils.build_levels; the bed is zero where
    needs_topg says no.
    """
    thk = patches["thk"][numbers, -1]
    topg = patches["topg"][numbers, -1] if needs_topg(settings) else np.zeros_like(thk)
    return [utils.build_levels(field, settings["scale"], settings["data"]["degrade"],
                              settings["grid"]) for field in (thk, topg)]


def write_patches(path, patches):
    """Write patches (see make_patches) to a NetCDF file that describes itself, at once or not at
    all.
    """
    scale, data = patches["scale"], patches["data"]
    crs, levels = data["crs"], np.arange(scale.bit_length(), dtype=np.int32)
    flags = {"flag_values": np.arange(len(SPLITS), dtype=np.int8),
             "flag_meanings": " ".join(SPLITS)}
    field = ("patch", "level", "y", "x")
    mapping = {"grid_mapping": "crs"} if crs else {}
    variables = {  # name: dimensions, values, attributes
        "level": (("level",), levels, {"long_name": "level: 0 the input, the last the label"}),
        "spacing": (("level",), data["spacing_m"] * scale / 2.0**levels,
                    {"units": "m", "long_name": "nominal spacing"}),
        "x": (("patch", "x"), patches["x"], {"units": "m", "standard_name":
                                             map_layout.STANDARD_NAMES["x"]}),
        "y": (("patch", "y"), patches["y"], {"units": "m", "standard_name":
                                             map_layout.STANDARD_NAMES["y"]}),
        "row": (("patch",), patches["row"], {"long_name": "row of the patch, from the lowest y"}),
        "column": (("patch",), patches["column"],
                   {"long_name": "column of the patch, from the lowest x"}),
        "split": (("patch",), patches["split"],
                  {"long_name": "what the patch is used for", **flags})}
    for name in ("thk", "topg"):
        if patches[name] is not None:
            variables[name] = (field, patches[name], {
                "units": "m", "standard_name": map_layout.STANDARD_NAMES[name], **mapping})
    if crs:
        variables["crs"] = ((), np.int32(0), crs)
    sizes = dict(zip(field, patches["thk"].shape, strict=True))
    with files.atomic_write(path) as temporary, files.explain_write_errors(path), \
            netCDF4.Dataset(temporary, "w") as ds:
        ds.setncatts({
            "Conventions": "CF-1.8",
            "title": ("SYNTHETIC i" if data["synthetic"] else "I") + "ce-sheet patches for SRCNN",
            "history": files.history_entry(), "versions": str(files.library_versions()),
            "scale": np.int32(scale), **{key: data[key] for key in PATCH_FILE_ATTRIBUTES},
            "fold": " ".join(map(str, data["fold"])),
            "synthetic": "yes" if data["synthetic"] else "no"})
        for name, size in sizes.items():
            ds.createDimension(name, size)
        for name, (dims, values, attributes) in variables.items():
            packed = {"zlib": True, "complevel": 4} if len(dims) > 1 else {}
            ds.createVariable(name, values.dtype, dims, **packed)[...] = values
            ds[name].setncatts(attributes)


def read_patches(path):
    """Read a file that prepare_data.py wrote: patches as of make_patches.

    Raises InputError where it is missing or something else.
    """
    with map_files.open_netcdf(path) as ds:
        try:
            patches = {name: np.ma.filled(ds.variables[name][...])
                       for name in ("thk", "x", "y", "split", "row", "column")}
            patches["topg"] = np.ma.filled(ds["topg"][...]) if "topg" in ds.variables else None
            patches["scale"] = int(ds.getncattr("scale"))
            data = DEFAULTS_FOR_OLDER_FILES | {key: np.asarray(ds.getncattr(key)).tolist() for key in PATCH_FILE_ATTRIBUTES
                            if key in ds.ncattrs() or key not in DEFAULTS_FOR_OLDER_FILES}
        except (KeyError, AttributeError, OSError, RuntimeError, ValueError, TypeError, IndexError
                ) as error:
            raise InputError(
                f"{path}: not a file of patches that this prepare_data.py wrote, or truncated "
                f"({command_line.one_line(error)}); make it anew with prepare_data.py") from None
        data["synthetic"] = data["synthetic"] == "yes"
        if re.fullmatch(r"(\d{1,4} \d{1,4})?", str(data["fold"])):
            data["fold"] = [int(number) for number in data["fold"].split()]
        check_patches(path, patches, data)
        return patches | {"data": data | {"crs": projections.read_crs(ds)}}


def check_patches(path, patches, data):
    """Raise InputError for the first thing in a file of patches that is not as write_patches does.

    data: see PATCH_FILE_ATTRIBUTES.
    """
    def check(name, is_right):
        if not is_right:
            raise InputError(f"{path}: {name} is not what prepare_data.py writes: a damaged file "
                             "of patches; make it anew with prepare_data.py")

    error = find_schema_error(data, PATCH_FILE_SCHEMA)
    check(error, not error)
    for key in ("spacing_m", "thk_max_m", "thk_norm_m"):
        check(key, data[key] > 0)
    check("topg_norm_m", data["topg_norm_m"] >= 0)
    check("scale", patches["scale"] in SCALES)
    n, side = len(patches["row"]), PATCH_CELLS[data["degrade"]]
    shape = (n, patches["scale"].bit_length(), side, side)
    for name, expected in (("thk", shape), ("topg", shape), ("x", (n, side)), ("y", (n, side)),
                           ("row", (n,)), ("column", (n,)), ("split", (n,))):
        values = patches[name]
        check(name, name == "topg" and values is None or values.shape == expected and n > 0
              and values.dtype.kind in ("f" if len(expected) > 1 else "i")
              and np.isfinite(values).all() and np.abs(values).max() < 1e9)
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    check("row", rows * columns == n and np.array_equal(
        patches["row"] * columns + patches["column"], np.arange(n)))
    check("split", set(patches["split"]) <= set(range(len(SPLITS)))
          and {0, 2} <= set(patches["split"]))
