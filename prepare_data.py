"""Cut an Antarctic ice-thickness map into 41 x 41 patches with inputs at every level of the chain.

    python prepare_data.py --scale 8                         # a synthetic ice sheet: nothing needed
    python prepare_data.py --scale 8 --input MAP.nc          # your map: BedMachine, PISM ...
    python prepare_data.py --scale 8 --download              # fetch ALBMAP v1 (16 MB) and use it
    python prepare_data.py --scale 8 --input MAP.nc --degrade area --split block

The patches go to data/patches_x8.nc, which train.py reads. Level 0 of a patch is the map reduced by
the scale and brought back to 41 x 41 by a cubic spline: the input. Each level after it is twice as
fine; the last is the map itself: the label.
"""

import math
import re
from pathlib import Path

import netCDF4
import numpy as np
import scipy.ndimage
from sklearn.model_selection import train_test_split

import albmap
import maps
import projections
import utils
from utils import InputError

# ---- Settings ---------------------------------------------------------------------------------
PATCH = {"bicubic": 41, "area": 48}  # cells along each side of a patch; whole coarse cells for area
WINDOW = (-1741591, 2356950, -915923, 1131135)  # x0 x1 y0 y1 [m]: 820 x 410 cells of 5 km
TEST_SIZE = 0.3               # share of the patches held out: 60 of 200
VALIDATION_SIZE = 0.1         # share of the training patches that chooses the best epoch: 14 of 140
BLOCK = (5, 4)  # rows and columns of patches in a block of the block split (1025 x 820 km)
# -----------------------------------------------------------------------------------------------

# What decides the numbers in a file of patches: `data` in the settings of a run.
DATA_KEYS = {
    "source": "name of the map file",
    "source_sha256": "its checksum, by which a run knows it again; empty for the synthetic sheet",
    "source_title": "its title",
    "citation": "how it wants to be cited",
    "record": "which record of its time axis; -1 where it has only one",
    "record_text": "the same for a reader, with its date where the file has one",
    "synthetic": "whether it is the synthetic ice sheet, no real place",
    "degrade": "how it was reduced: bicubic (point samples) | area (cell means)",
    "split_method": "how test patches were chosen: random | block",
    "fold": "of a cross-validation: which fold of how many, 2 5; empty without",
    "test_size": "share of the patches held out",
    "seed": "of the split",
    "window": "x0 x1 y0 y1 [m] of the part of the map that was cut into patches",
    "spacing_m": "side of a cell [m]",
    "thk_max_m": "largest thickness in the window [m]: divides the error MSE / max2",
    "thk_norm_m": "largest thickness in the training patches [m]: scales the network's channels",
    "topg_norm_m": "largest height or depth of the bed in them [m]: the same; 0 without a bed",
    "densities": "of ice and sea water [kg m-3], for the surface base",
    "taken": "which variables of the map were read",
}  # and crs: attributes of the map's grid mapping
OLDER = {"densities": list(utils.DENSITIES), "taken": ""}  # where an older version wrote the file


# ---------------------------------------------------------------- a synthetic ice sheet


def fractal(rng, shape, spacing_m, slope, longest_m):
    """Gaussian random field of unit variance whose 2-D power falls as wavenumber^-slope.

    Flat beyond the wavelength `longest_m`; made on twice the size and cut, so it does not wrap
    round.
    """
    ny, nx = 2 * shape[0], 2 * shape[1]
    wavenumber = np.hypot(np.fft.fftfreq(ny, spacing_m)[:, None], np.fft.rfftfreq(nx, spacing_m))
    amplitude = np.maximum(wavenumber, 1 / longest_m) ** (-slope / 2)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((ny, nx))) * amplitude, (ny, nx))
    field = field[:shape[0], :shape[1]]
    return (field - field.mean()) / field.std()


def synthetic_map(seed=0, shape=(410, 820), spacing_m=5000.0):
    """An Antarctic-like ice sheet on the cells of the window: a map (see utils), not a real place.

    Bed: fractal (2-D power ~ wavenumber^-3.5 between 200 and 10 km) on a continent that falls to a
    shelf below sea level and a deep ocean, with sinuous troughs and mountain chains. Surface:
    Vialov (1958) profile from the coast inward, smooth over the rough bed but for a damped copy of
    it; low over the ice shelves. Thickness: surface - bed, floating ice in hydrostatic equilibrium,
    at most 4500 m; zero on open ocean and on nunataks. The same seed gives the same sheet.
    """
    rng = np.random.default_rng(seed)
    x = WINDOW[0] + spacing_m * np.arange(shape[1])
    y = WINDOW[2] + spacing_m * np.arange(shape[0])
    rough, continent, trough, mountain, chain, front = (
        fractal(rng, shape, spacing_m, slope, longest_m) for slope, longest_m in
        ((3.7, 300e3), (5.0, 1500e3), (4.5, 500e3), (3.6, 150e3), (5.0, 1200e3), (4.5, 800e3)))

    # Distance from the coast [m], positive inland: an ellipse with bays and headlands.
    ellipse = 1 - np.hypot((x - 300e3) / 2150e3, y[:, None] / 1150e3)
    land = ellipse + 0.17 * continent > 0
    inland = (scipy.ndimage.distance_transform_edt(land, sampling=spacing_m)
              - scipy.ndimage.distance_transform_edt(~land, sampling=spacing_m))

    topg = np.interp(inland, [-600e3, -250e3, -120e3, 0, 150e3, 600e3],
                     [-3500, -2800, -550, -450, -100, 250])
    topg += rough * np.interp(inland, [-250e3, 0, 200e3], [100, 260, 360])
    topg -= np.exp(-(trough / 0.09) ** 2) * np.interp(inland, [-200e3, 0, 400e3], [300, 800, 700])
    topg += (np.exp(-(chain / 0.16) ** 2) * (1200 + 800 * mountain)
             * np.interp(inland, [0, 150e3], [0, 1]))

    # Vialov: s = s0 (1 - (1 - d / L)^(4/3))^(3/8), the divide 900 km from the coast.
    usrf = 3300 * (1 - (1 - np.clip(inland / 900e3, 0, 1)) ** (4 / 3)) ** (3 / 8)
    usrf = scipy.ndimage.gaussian_filter(usrf, 3)  # no kink along the divide
    bumps = scipy.ndimage.gaussian_filter(topg, 1) - scipy.ndimage.gaussian_filter(topg, 8)
    usrf += 0.08 * bumps * np.interp(inland, [0, 50e3], [0, 1])
    usrf = np.maximum(usrf, np.interp(inland, [-180e3, 0], [35, 90]))  # ice shelves
    usrf[(inland < np.minimum(-70e3 - 110e3 * front, 0)) & (topg < 0)] = 0  # open ocean

    topg = np.maximum(topg, usrf - 4500)
    thk = utils.ice_thickness(usrf, topg) * (usrf > 0)
    thk[thk < 1] = 0
    return maps.make_map(
        x, y, thk, topg.astype(np.float32), name=f"synthetic ice sheet, seed {seed}",
        title="SYNTHETIC ice sheet made by prepare_data.py, no real place", synthetic=True)


# ---------------------------------------------------------------- window, patches, split


def window_slices(ice_map, window, side):
    """Slices (y, x) of the cells of a map in `window` (x0, x1, y0, y1, m), cut to whole patches.

    The window starts at the cell nearest to its lower left corner; cells beyond the last whole
    patch of side x side cells are left out. Raises InputError where it leaves the map or holds no
    patch.
    """
    slices, spacing_m = [], ice_map["spacing_m"]
    reach = (f"{ice_map['name']} reaches from x {ice_map['x'][0]:.0f} to {ice_map['x'][-1]:.0f} "
             f"and y {ice_map['y'][0]:.0f} to {ice_map['y'][-1]:.0f} m")
    for name, low, high in (("y", *window[2:]), ("x", *window[:2])):
        axis = ice_map[name]
        # A thousandth of a cell to spare: spacings such as 1000/3 m are not exact.
        cells = math.floor((high - low) / spacing_m + 1e-3) + 1
        start = int(np.argmin(np.abs(axis - low)))
        if low < axis[0] - spacing_m / 2 or start + cells > len(axis):
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m lies outside the map: "
                             f"{reach}; choose --window X0 X1 Y0 Y1 inside")
        if cells < side:
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m is {max(cells, 0)} cells of "
                             f"{spacing_m:.0f} m, smaller than a patch of {side}; {reach}")
        slices.append(slice(start, start + cells // side * side))
    return tuple(slices)


def cut_patches(field, side=PATCH["bicubic"]):
    """Cut a field (y, x) into patches (patch, side, side), row by row from the first row up."""
    rows, columns = (n // side for n in field.shape)
    return field.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def assemble(fields, patches):
    """Put fields of all patches (patch, y, x) together to the window (y, x): undo cut_patches."""
    rows, columns = patches["row"].max() + 1, patches["column"].max() + 1
    side = fields.shape[1]
    fields = fields.reshape(rows, columns, side, side).swapaxes(1, 2)
    return fields.reshape(rows * side, columns * side)


def block_numbers(rows, columns):
    """Block that each patch of a grid of rows x columns belongs to: (patch,) int, from 0.

    Blocks are BLOCK patches large, as nearly as the grid allows: 10 for the 10 x 20 patches.
    """
    n_y, n_x = (max(round(n / block), 1) for n, block in zip((rows, columns), BLOCK, strict=True))
    block_y, block_x = (np.arange(n) * blocks // n for n, blocks in ((rows, n_y), (columns, n_x)))
    return (block_y[:, None] * n_x + block_x).ravel()


def split_patches(rows, columns, split_method, test_size, seed, fold=()):
    """Split a grid of rows x columns patches: (patch,) int8, values as in utils.SPLITS.

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
        block = block_numbers(rows, columns)
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
    split = np.full(n, utils.SPLITS.index("train"), np.int8)
    split[gap] = utils.SPLITS.index("gap")
    split[test] = utils.SPLITS.index("test")
    train = np.flatnonzero(split == utils.SPLITS.index("train"))
    if len(train) < 4 or len(test) == 0:
        raise InputError(f"{split_method} split of {rows} x {columns} patches leaves {len(train)} "
                         f"for training and {len(test)} for test, at least 4 and 1 are needed; "
                         "choose another --test-size or a larger --window")
    validation = train_test_split(train, test_size=VALIDATION_SIZE, random_state=seed)[1]
    split[validation] = utils.SPLITS.index("validation")
    return split


def split_text(data):
    """The split of patches for a reader: "block split, fold 2 of 5"; data: see DATA_KEYS."""
    return f"{data['split_method']} split" + (
        ", fold {} of {}".format(*data["fold"]) if data["fold"] else "")


def in_split(patches, *names):
    """Numbers of the patches in the given splits ("train", "validation", ...), ascending."""
    return np.flatnonzero(np.isin(patches["split"], [utils.SPLITS.index(name) for name in names]))


def training_numbers(patches, settings):
    """Numbers of the patches that a run trains on, and of those held out to watch it (or none)."""
    if settings["validation"]:
        return in_split(patches, "train"), in_split(patches, "validation")
    return in_split(patches, "train", "validation"), np.array([], int)


# ---------------------------------------------------------------- from map to patches


def make_patches(ice_map, scale, degrade="bicubic", split_method="random", test_size=TEST_SIZE,
                 seed=0, window=WINDOW, densities=None):
    """Cut a map (see maps.read_map) into patches at every level of the chain: a dict.

    thk, topg       (patch, level, y, x) float32 [m]; topg None where the map has no bed
    x, y            (patch, x or y) [m]
    row, column     (patch,) int: place of the patch in the window, from the lower left
    split           (patch,) int8: see utils.SPLITS
    scale           of the chain
    data            what decides the numbers, see DATA_KEYS
    Raises InputError where the window, the bed or the thickness will not do.
    """
    side = PATCH[degrade]
    cells = window_slices(ice_map, window, side)
    x, y = ice_map["x"][cells[1]], ice_map["y"][cells[0]]
    thk = ice_map["thk"][cells]
    topg = None if ice_map["topg"] is None else ice_map["topg"][cells]
    if topg is not None and np.isnan(topg).any():
        raise InputError(f"{ice_map['name']}: the bed (topg) is missing in {np.isnan(topg).sum()} "
                         "cells of the window; fill them, choose a --window without them, or leave "
                         "topg out of the file")
    if thk.max() <= 0:
        raise InputError(f"{ice_map['name']}: no ice in the window (thickness is zero everywhere); "
                         "choose another --window")
    rows, columns = len(y) // side, len(x) // side
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int32), columns)
    thk, topg = (None if field is None else np.stack(utils.make_levels(
        cut_patches(field, side), scale, degrade, "fine"), axis=1) for field in (thk, topg))
    patches = {
        "thk": thk, "topg": topg,
        "x": x.reshape(-1, side)[column], "y": y.reshape(-1, side)[row], "row": row,
        "column": column, "scale": scale,
        "data": {
            "source": ice_map["name"], "source_sha256": ice_map["sha256"],
            "source_title": ice_map["title"], "citation": ice_map["citation"],
            "record": -1 if ice_map["record"] is None else ice_map["record"],
            "record_text": ice_map["record_text"], "synthetic": ice_map["synthetic"],
            "degrade": degrade, "split_method": split_method,
            "test_size": test_size, "seed": seed, "window": [float(edge) for edge in window],
            "spacing_m": ice_map["spacing_m"], "thk_max_m": float(thk.max()),
            "densities": list(densities or utils.DENSITIES), "taken": ice_map["taken"],
            "crs": ice_map["crs"]}}
    return split_anew(patches, split_method)


def split_anew(patches, split_method, fold=()):
    """The same patches under a split, with what follows from it: `split` and the norms in `data`.

    The norms must not know the test patches.
    """
    data = patches["data"]
    split = split_patches(patches["row"].max() + 1, patches["column"].max() + 1, split_method,
                          data["test_size"], data["seed"], fold)
    learnt = split <= utils.SPLITS.index("validation")
    if not utils.is_ice(patches["thk"][learnt, -1]).any():
        raise InputError(f"{data['source']}: no ice in the patches to train on, so there is "
                         "nothing to learn; choose another --window, --seed or --split")
    thk, topg = patches["thk"][learnt, -1], patches["topg"]
    return patches | {"split": split, "data": data | {
        "split_method": split_method, "fold": list(fold), "thk_norm_m": float(thk.max()),
        "topg_norm_m": 0.0 if topg is None else float(
            np.abs(topg[learnt, -1]).max() or 1)}}  # 1: a bed at 0 m throughout is divided by it


def write_patches(path, patches):
    """Write patches (see make_patches) to a NetCDF file that describes itself, at once or not at
    all.
    """
    scale, data = patches["scale"], patches["data"]
    crs, levels = data["crs"], np.arange(scale.bit_length(), dtype=np.int32)
    flags = {"flag_values": np.arange(len(utils.SPLITS), dtype=np.int8),
             "flag_meanings": " ".join(utils.SPLITS)}
    field = ("patch", "level", "y", "x")
    mapping = {"grid_mapping": "crs"} if crs else {}
    variables = {  # name: dimensions, values, attributes
        "level": (("level",), levels, {"long_name": "level: 0 the input, the last the label"}),
        "spacing": (("level",), data["spacing_m"] * scale / 2.0**levels,
                    {"units": "m", "long_name": "nominal spacing"}),
        "x": (("patch", "x"), patches["x"], {"units": "m", "standard_name":
                                             utils.STANDARD_NAMES["x"]}),
        "y": (("patch", "y"), patches["y"], {"units": "m", "standard_name":
                                             utils.STANDARD_NAMES["y"]}),
        "row": (("patch",), patches["row"], {"long_name": "row of the patch, from the lowest y"}),
        "column": (("patch",), patches["column"],
                   {"long_name": "column of the patch, from the lowest x"}),
        "split": (("patch",), patches["split"],
                  {"long_name": "what the patch is used for", **flags})}
    for name in ("thk", "topg"):
        if patches[name] is not None:
            variables[name] = (field, patches[name], {
                "units": "m", "standard_name": utils.STANDARD_NAMES[name], **mapping})
    if crs:
        variables["crs"] = ((), np.int32(0), crs)
    sizes = dict(zip(field, patches["thk"].shape, strict=True))
    with utils.replacing(path) as temporary, utils.writing(path), \
            netCDF4.Dataset(temporary, "w") as ds:
        ds.setncatts({
            "Conventions": "CF-1.8",
            "title": ("SYNTHETIC i" if data["synthetic"] else "I") + "ce-sheet patches for SRCNN",
            "history": utils.made_now(), "versions": str(utils.versions()),
            "scale": np.int32(scale), **{key: data[key] for key in DATA_KEYS},
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
    with maps.open_netcdf(path) as ds:
        try:
            patches = {name: np.ma.filled(ds.variables[name][...])
                       for name in ("thk", "x", "y", "split", "row", "column")}
            patches["topg"] = np.ma.filled(ds["topg"][...]) if "topg" in ds.variables else None
            patches["scale"] = int(ds.getncattr("scale"))
            data = OLDER | {key: np.asarray(ds.getncattr(key)).tolist() for key in DATA_KEYS
                            if key in ds.ncattrs() or key not in OLDER}
        except (KeyError, AttributeError, OSError, RuntimeError, ValueError, TypeError, IndexError
                ) as error:
            raise InputError(
                f"{path}: not a file of patches that this prepare_data.py wrote, or truncated "
                f"({utils.one_line(error)}); make it anew with prepare_data.py") from None
        check_patches(path, patches, data)
        data["synthetic"] = data["synthetic"] == "yes"
        data["fold"] = [int(number) for number in data["fold"].split()]
        return patches | {"data": data | {"crs": projections.read_crs(ds)}}


def check_patches(path, patches, data):
    """Raise InputError for the first thing in a file of patches that is not as write_patches does.

    data: as in the file, see DATA_KEYS.
    """
    def check(name, is_right):
        if not is_right:
            raise InputError(f"{path}: {name} is not what prepare_data.py writes: a damaged file "
                             "of patches; make it anew with prepare_data.py")

    numbers = {"record": 1, "test_size": 1, "seed": 1, "window": 4, "spacing_m": 1, "thk_max_m": 1,
               "thk_norm_m": 1, "topg_norm_m": 1, "densities": 2}
    for key, value in data.items():
        if key in numbers:
            array = np.asarray(value)
            check(key, array.size == numbers[key] and array.dtype.kind in "iuf"
                  and np.isfinite(array).all())
            check(key, key[-2:] != "_m" or value > 0 or key == "topg_norm_m" and value >= 0)
            data[key] = array.tolist()
        else:
            check(key, isinstance(value, str))
    check("fold", re.fullmatch(r"(\d{1,4} \d{1,4})?", data["fold"]))
    check("degrade", data["degrade"] in PATCH)
    check("split_method", data["split_method"] in ("random", "block"))
    check("scale", patches["scale"] in utils.SCALES)
    n, side = len(patches["row"]), PATCH[data["degrade"]]
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
    check("split", set(patches["split"]) <= set(range(len(utils.SPLITS)))
          and {0, 2} <= set(patches["split"]))


def print_map_notes(ice_map):
    """Print what was read of a map that its user should know: variables, record, missing cells."""
    missing, negative = ice_map["n_missing_thk"], ice_map["n_negative_thk"]
    for note in (
            ice_map["taken"], ice_map["record_text"], *ice_map["notes"],
            missing and f"{missing} cells have no thickness: {int(ice_map['unknown'].sum())} of "
                        "them unknown, the others without ice",
            negative and f"{negative} cells have negative thickness: zero ice"):
        if note:
            print(f"{ice_map['name']}: {note}")


def print_patches(path, patches):
    """Print what a file of patches holds: source, window, split, bicubic error at each level."""
    data = patches["data"]
    if data["synthetic"]:
        print("SYNTHETIC ice sheet: made by formula, no real place; --input MAP.nc for real data")
    print(f"source   {data['source']}" + f" ({data['source_title']})" * bool(data["source_title"]))
    if patches["topg"] is None:
        print("         no bed (topg) in it: train with --channels thk")
    side, scale = patches["x"].shape[1], patches["scale"]
    columns, rows = (side * (patches[name].max() + 1) for name in ("column", "row"))
    print(f"window   {columns} x {rows} cells of {data['spacing_m'] / 1000:g} km from x "
          f"{patches['x'].min():.0f} to {patches['x'].max():.0f}, y {patches['y'].min():.0f} to "
          f"{patches['y'].max():.0f} m; thickness to {data['thk_max_m']:.1f} m")
    counts = ", ".join(f"{len(in_split(patches, name))} {name}" for name in utils.SPLITS
                       if len(in_split(patches, name)))
    print(f"patches  {len(patches['row'])} of {side} x {side}: {counts} ({split_text(data)}, "
          f"seed {data['seed']})")
    print(f"\n{data['degrade']} reduction: MSE / max2 and RMSE m of the input and each level\n")
    rows = [("level", "spacing", "all patches", "", "test patches", "")]
    for level in range(patches["thk"].shape[1] - 1):
        row = [str(level), f"{data['spacing_m'] * scale / 2**level / 1000:g} km"]
        for thk in (patches["thk"], patches["thk"][in_split(patches, "test")]):
            error = utils.errors(thk[:, level], thk[:, -1], data["thk_max_m"], data["spacing_m"])
            row += [f"{error['mse']:.2e}", f"{error['rmse_m']:.1f}"]
        rows.append(row)
    utils.print_table(rows)
    print(f"\nwrote    {path}")


def prepare(scale, ice_map, degrade="bicubic", split_method="random", test_size=TEST_SIZE, seed=0,
            window=WINDOW, output=None, densities=None):
    """Make the patches of a map, write them to `output` and print what they are; returns its path.

    output: data/patches_x<scale>.nc unless given. Raises InputError as make_patches does, and where
    the output is the map itself.
    """
    output = Path(utils.DATA / f"patches_x{scale}.nc" if output is None else output)
    utils.check_output(output, ice_map["path"])
    print_map_notes(ice_map)
    patches = make_patches(ice_map, scale, degrade, split_method, test_size, seed, window,
                           densities)
    write_patches(output, patches)
    print_patches(output, patches)
    return output


def find_map(input_file=None, download=False, record=-1, options=None):
    """The map that the user asked for: a file, ALBMAP from the net, or the synthetic sheet.

    options: see maps.map_options.
    """
    if download:
        ice_map = maps.read_map(albmap.download_albmap())
        return ice_map | {"citation": ice_map["citation"] or albmap.ALBMAP_CITATION}
    if input_file is not None:
        return maps.read_map(input_file, record, **(options or {}))
    return synthetic_map()


# ---------------------------------------------------------------- patches of a run


def find_patches(run, scale, input_file=None, patches_file=None, synthetic=None, trained=None,
                 fold=(), options=None):
    """The path and the contents of a run's patches; made first where they are missing.

    They are patches_file; else those that the run was trained on, where it exists; else
    data/patches_x<scale>.nc. Patches of another map are left alone: those of this one get a file of
    their own.
    input_file: the map they have to come from. synthetic: True asks for the synthetic sheet, False
    refuses it, None takes it where there is nothing else. trained: settings of the run if it
    exists: its patches are made as it knew them. fold: (2, 5), for which the split is made anew.
    options: see maps.map_options; of densities patches know only what a run on them starts from.
    Raises InputError where there are no such patches and they cannot be made.
    """
    data = trained["data"] if trained else {"synthetic": synthetic, "fold": fold}
    if trained and input_file is None and not synthetic:
        synthetic = data["synthetic"] and not data["source_sha256"]
    map_sha256 = utils.file_sha256(input_file) if input_file is not None else ""
    is_given, options = input_file is not None or bool(synthetic), options or {}  # which map it is
    names = [f"{field} = {name}" for field, name in (options.get("names") or {}).items()
             if field not in "xy"]
    if trained and is_given and map_sha256 != data["source_sha256"]:
        raise InputError(f"run {run} was trained on {data['source']}, not on "
                         f"{input_file or 'the synthetic ice sheet'}; give that map with --input, "
                         "or choose another --run, or --restart")

    def usable(path):
        patches = read_patches(path)
        if patches["scale"] != scale:
            raise InputError(f"{path}: made for scale {patches['scale']}, not {scale}; make "
                             f"others: python prepare_data.py --scale {scale} --output FILE")
        if is_given and patches["data"]["source_sha256"] != map_sha256 or not all(
                name in patches["data"]["taken"].split(", ") for name in names):
            return None
        if len(data["fold"]):
            patches = split_anew(patches, "block", data["fold"])
        if trained and utils.differences(
                data, {key: patches["data"][key] for key in data} | {
                    key: data[key] for key in ("densities",) if key in data}):
            return None
        return patches

    if patches_file is not None:
        patches = usable(patches_file)
        if patches is None:
            raise InputError(f"{patches_file}: not of the map {input_file or ''}, or not what run "
                             f"{run} was trained on; choose other --patches or --run")
        return Path(patches_file), patches

    path = Path(trained["patches"]) if trained else utils.DATA / f"patches_x{scale}.nc"
    own = utils.DATA / (f"patches_{run}.nc" if trained else
                        f"patches_x{scale}_{map_sha256[:8] or 'synthetic'}.nc")
    for each in (path, own):
        patches = usable(each) if each.exists() else None
        if patches is not None:
            if patches["data"]["synthetic"] and synthetic is False and not (trained or is_given):
                raise InputError(f"{each}: patches of the synthetic ice sheet; give --input MAP.nc "
                                 "or --patches FILE, or --synthetic to train on them")
            return each, patches
    if not is_given and (trained or synthetic is False):
        raise InputError(f"{path}: no patches of {data['source'] if trained else 'a map'} there; "
                         "give the map with --input MAP.nc, or patches with --patches FILE"
                         + ("" if trained else ", or ask for the synthetic ice sheet: --synthetic"))
    made = own if path.exists() else path
    if made.exists():
        raise InputError(f"{made}: not the patches that run {run} was trained on: "
                         + utils.differences_text(utils.differences(
                             data, read_patches(made)["data"])) + "; move it away")
    ice_map = find_map(input_file, record=data["record"] if trained else -1, options=options)
    wanted = {}
    if trained:
        ice_map |= {"name": data["source"], "citation": data["citation"]}  # whatever it is now
        wanted = {key: data[key] for key in
                  ("degrade", "split_method", "test_size", "seed", "window")}
    why = "comes from another map" if path.exists() else "is missing"
    print(f"{path} {why}: making {made} first (prepare_data.py)\n")
    prepare(scale, ice_map, output=made, densities=options.get("densities"), **wanted)
    print()
    return made, usable(made)


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, default=8)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", metavar="MAP.nc", help="map with thk (and topg), x and y")
    source.add_argument("--synthetic", action="store_true", help="a made-up ice sheet (default)")
    source.add_argument("--download", action="store_true", help="fetch ALBMAP v1, 16 MB")
    parser.add_argument("--degrade", choices=("bicubic", "area"), default="bicubic",
                        help="point samples on a cubic spline (the original), or cell means")
    parser.add_argument("--split", choices=("random", "block"), default="random")
    parser.add_argument("--test-size", type=float, default=TEST_SIZE, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--window", type=float, nargs=4, default=WINDOW,
                        metavar=("X0", "X1", "Y0", "Y1"),
                        help="in projected metres (default: the original's 820 x 410 cells)")
    parser.add_argument("--time", type=int, metavar="N",
                        help="record of --input, from 0 (default: the last)")
    maps.add_map_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="default data/patches_x<scale>.nc")
    args = parser.parse_args(argv)
    options = maps.map_options(args)
    if not 0 < args.test_size < 1:
        raise InputError(f"--test-size {args.test_size:g}: expected a share between 0 and 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or more")
    if args.time is not None and args.input is None:
        raise InputError("--time: goes with --input MAP.nc")
    if args.output is not None:  # before a long read
        utils.check_output(args.output, args.input)
    ice_map = find_map(args.input, args.download, -1 if args.time is None else args.time, options)
    prepare(args.scale, ice_map, args.degrade, args.split, args.test_size, args.seed,
            tuple(args.window), args.output, args.densities)


if __name__ == "__main__":
    utils.run_script(main)
