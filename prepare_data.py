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
import os
import re
import socket
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import scipy.ndimage
from sklearn.model_selection import train_test_split

import utils
from utils import InputError

# ---- Settings ---------------------------------------------------------------------------------
PATCH = {"bicubic": 41, "area": 48}  # cells along each side of a patch; whole coarse cells for area
WINDOW = (-1741591, 2356950, -915923, 1131135)  # x0 x1 y0 y1 [m]: 820 x 410 cells of 5 km
TEST_SIZE = 0.3               # share of the patches held out: 60 of 200
VALIDATION_SIZE = 0.1         # share of the training patches that chooses the best epoch: 14 of 140
BLOCK = (5, 4)  # rows and columns of patches in a block of the block split (1025 x 820 km)
ALBMAP_URL = "https://store.pangaea.de/Publications/LeBrocq_et_al_2010/ALBMAPv1.nc.zip"
ALBMAP_CITATION = (
    "Le Brocq A.M., Payne A.J., Vieli A. (2010), ALBMAP v1, Earth Syst. Sci. Data 2, "
    "247-260, doi:10.5194/essd-2-247-2010 (data doi:10.1594/PANGAEA.734145)"
)
DOWNLOAD_TIMEOUT_S = 30       # give up when the server says nothing for so long
# -----------------------------------------------------------------------------------------------


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
    thk = utils.thickness(usrf, topg) * (usrf > 0)
    thk[thk < 1] = 0
    thk, topg = thk.astype(np.float32), topg.astype(np.float32)
    return {"x": x, "y": y, "thk": thk, "topg": topg, "usrf": None, "crs": {}, "sha256": "",
            "name": f"synthetic ice sheet, seed {seed}", "citation": "", "synthetic": True,
            "title": "SYNTHETIC ice sheet made by prepare_data.py, no real place",
            "n_missing_thk": 0, "n_negative_thk": 0}


# ---------------------------------------------------------------- ALBMAP v1, when the user asks


def download_albmap(url=ALBMAP_URL, folder=utils.DATA, timeout_s=DOWNLOAD_TIMEOUT_S):
    """Fetch ALBMAP v1 into `folder`, check it by opening it, and return the path of ALBMAPv1.nc.

    A file that is there already is checked and used. Raises InputError where the download, the
    archive or its contents are not what they should be; nothing is left behind then.
    """
    path = Path(folder) / "ALBMAPv1.nc"
    if path.exists():
        print(f"{path} is there already")
        check_albmap(path)
        return path
    from keras.utils import get_file  # slow to import, so only here

    print(f"downloading {url}\n  {ALBMAP_CITATION}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    socket.setdefaulttimeout(timeout_s)
    try:
        with tempfile.TemporaryDirectory(prefix=".download", dir=folder) as scratch:
            archive = get_file("albmap.zip", url, cache_dir=scratch, cache_subdir="")
            with zipfile.ZipFile(archive) as zipped:
                members = [name for name in zipped.namelist() if name.endswith(".nc")]
                if len(members) != 1:
                    raise InputError(f"{url}: expected one .nc file in it, found {members}")
                zipped.extract(members[0], scratch)
            check_albmap(Path(scratch) / members[0])
            os.replace(Path(scratch) / members[0], path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{url}: not a zip archive ({error}); try again later") from None
    except InputError:
        raise
    except Exception as error:  # get_file raises plain Exception for everything the network can do
        raise InputError(f"{url}: download failed ({utils.one_line(error)}); try again later, or "
                         "fetch it with a browser, unzip it and give it with --input") from None
    finally:
        socket.setdefaulttimeout(None)
    print(f"saved {path}")
    return path


def check_albmap(path):
    """Raise InputError unless `path` is a map of all Antarctica with plausible values."""
    found = utils.read_map(path)
    if found["topg"] is None:
        raise InputError(f"{path}: no bed topography; expected ALBMAP v1: delete it, try again")
    low, high = np.nanmin(found["topg"]), np.nanmax(found["topg"])
    deepest = found["thk"].max()
    if found["thk"].size < 1000**2 or not 3000 < deepest < 6000 or low < -12000 or high > 6000:
        raise InputError(f"{path}: {found['thk'].shape} cells, thickness to {deepest:.0f} m, bed "
                         f"{low:.0f} to {high:.0f} m; expected ALBMAP v1 (about 1200 x 1200, 4000 "
                         "to 5000 m, -8000 to 5000 m): delete it, try again")


# ---------------------------------------------------------------- window, patches, split


def window_slices(found, window, side):
    """Slices (y, x) of the cells of a map in `window` (x0, x1, y0, y1, m), cut to whole patches.

    The window starts at the cell nearest to its lower left corner; cells beyond the last whole
    patch of side x side cells are left out. Raises InputError where it leaves the map or holds no
    patch.
    """
    slices = []
    for name, low, high in (("y", *window[2:]), ("x", *window[:2])):
        axis = found[name]
        spacing = axis[1] - axis[0]
        cells = int((high - low) // spacing) + 1
        start = int(np.argmin(np.abs(axis - low)))
        extent = (f"{found['name']} reaches from x {found['x'][0]:.0f} to {found['x'][-1]:.0f} and "
                  f"y {found['y'][0]:.0f} to {found['y'][-1]:.0f} m")
        if low < axis[0] - spacing / 2 or start + cells > len(axis):
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m lies outside the map: "
                             f"{extent}; choose --window X0 X1 Y0 Y1 inside")
        if cells < side:
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m is {max(cells, 0)} cells of "
                             f"{spacing:.0f} m, smaller than a patch of {side}; {extent}")
        slices.append(slice(start, start + cells // side * side))
    return tuple(slices)


def cut_patches(field, side=PATCH["bicubic"]):
    """Cut a field (y, x) into patches (patch, side, side), row by row from the first row up."""
    rows, columns = (n // side for n in field.shape)
    return field.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def block_numbers(rows, columns):
    """Block that each patch of a grid of rows x columns belongs to: (patch,) int, from 0.

    Blocks are BLOCK patches large, as nearly as the grid allows: 10 for the 10 x 20 patches.
    """
    n_y, n_x = (max(round(n / block), 1) for n, block in zip((rows, columns), BLOCK, strict=True))
    block_y, block_x = (np.arange(n) * blocks // n for n, blocks in ((rows, n_y), (columns, n_x)))
    return (block_y[:, None] * n_x + block_x).ravel()


def split_patches(rows, columns, method, test_size, seed):
    """Split a grid of rows x columns patches: (patch,) int8, values as in utils.SPLITS.

    random: scikit-learn's train_test_split. A test patch then lies among training patches whose ice
    and bed continue into it, so the score is too good for a new region. block: whole blocks of
    neighbouring patches are held out, and a gap of one patch around them is used for nothing.
    "fold 2 of 5": block with a fifth of the blocks held out, the second; each block is in one fold.
    A tenth of the training patches, drawn at random, is kept for validation.
    """
    n = rows * columns
    if n < 10:
        raise InputError(f"the window holds {n} patches; a split needs at least 10")
    if method == "random":
        n_test = min(math.ceil(test_size * n), n - 1)  # scikit-learn's own rule, short of all
        test = train_test_split(np.arange(n), test_size=n_test, random_state=seed)[1]
        gap = np.zeros(n, bool)
    else:
        block = block_numbers(rows, columns)
        order = np.random.default_rng(seed).permutation(block.max() + 1)
        if method == "block":
            held_out = np.cumsum(np.bincount(block)[order])
            chosen = order[:1 + int(np.argmin(np.abs(held_out - test_size * n)))]
        else:
            fold, folds = (int(word) for word in method.split()[1::2])
            if folds > len(order):
                raise InputError(f"{folds} folds of {len(order)} blocks of patches: ask for at "
                                 f"most {len(order)}, or edit BLOCK in prepare_data.py")
            chosen = order[fold - 1::folds]
        is_test = np.isin(block, chosen)
        grown = scipy.ndimage.binary_dilation(is_test.reshape(rows, columns), np.ones((3, 3)))
        test, gap = np.flatnonzero(is_test), grown.ravel() & ~is_test
    split = np.full(n, utils.SPLITS.index("train"), np.int8)
    split[gap] = utils.SPLITS.index("gap")
    split[test] = utils.SPLITS.index("test")
    train = np.flatnonzero(split == utils.SPLITS.index("train"))
    if len(train) < 4 or len(test) == 0:
        raise InputError(f"{method} split of {rows} x {columns} patches leaves {len(train)} for "
                         f"training and {len(test)} for test, at least 4 and 1 are needed; choose "
                         "another --test-size or a larger --window")
    validation = train_test_split(train, test_size=VALIDATION_SIZE, random_state=seed)[1]
    split[validation] = utils.SPLITS.index("validation")
    return split


# ---------------------------------------------------------------- from map to patch file


def prepare(scale, found, degrade="bicubic", split="random", test_size=TEST_SIZE, seed=0,
            window=WINDOW, output=None):
    """Make the patches of a map (see utils.read_map) and write them to `output`; returns its path.

    output: data/patches_x<scale>.nc unless given. Raises InputError where the window, the bed or
    the thickness will not do. Prints what it made.
    """
    output = Path(output or utils.DATA / f"patches_x{scale}.nc")
    side = PATCH[degrade]
    cells = window_slices(found, window, side)
    x, y = found["x"][cells[1]], found["y"][cells[0]]
    thk = found["thk"][cells]
    topg = None if found["topg"] is None else found["topg"][cells]
    if topg is not None and np.isnan(topg).any():
        raise InputError(f"{found['name']}: the bed (topg) is missing in {np.isnan(topg).sum()} "
                         "cells of the window; fill them, choose a --window without them, or leave "
                         "topg out of the file")
    if thk.max() <= 0:
        raise InputError(f"{found['name']}: no ice in the window (thickness is zero everywhere); "
                         "choose another --window")

    rows, columns = len(y) // side, len(x) // side
    parts = split_patches(rows, columns, split, test_size, seed)
    thk, topg = (None if field is None else cut_patches(field, side) for field in (thk, topg))
    attributes = {
        "Conventions": "CF-1.8",
        "title": ("SYNTHETIC i" if found["synthetic"] else "I") + "ce-sheet patches for SRCNN",
        "history": f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} prepare_data.py",
        "versions": str(utils.versions()), "synthetic": "yes" if found["synthetic"] else "no",
        "source": found["name"], "source_sha256": found["sha256"], "source_title": found["title"],
        "citation": found["citation"], "scale": np.int32(scale), "degrade": degrade,
        "split": split, "test_size": test_size, "seed": np.int32(seed),
        "window": np.array(window, np.float64), "spacing_m": float(x[1] - x[0]),
        "thk_max_m": float(thk.max()),
        "thk_max_m_comment": "of the window; divides the error MSE / max2, as in the original",
        **norms(thk, topg, parts),
        "norm_comment": "maxima of |thk| and |topg| of training patches; scale network channels",
    }
    write_patches(output, x, y, thk, topg, parts, found["crs"], attributes)
    report(output, found, (len(y), len(x)), utils.read_patches(output))
    return output


def norms(thk, topg, parts):
    """What scales the network's channels [m], from patches (patch, y, x) that are learnt from."""
    learnt = parts <= utils.SPLITS.index("validation")  # must not know the test patches
    return {"thk_norm_m": float(thk[learnt].max()),
            "topg_norm_m": 0.0 if topg is None else float(np.abs(topg[learnt]).max())}


def resplit(patches, split):
    """The same patches (see utils.read_patches) under another split, with the constants of it."""
    attrs = dict(patches["attrs"], split=split)
    parts = split_patches(patches["row"].max() + 1, patches["column"].max() + 1, split,
                          attrs["test_size"], attrs["seed"])
    topg = None if patches["topg"] is None else patches["topg"][:, -1]
    return dict(patches, split=parts, attrs=attrs | norms(patches["thk"][:, -1], topg, parts))


def write_patches(path, x, y, thk, topg, parts, crs, attributes):
    """Write the patches of a window, at every level, to a NetCDF file that describes itself.

    x, y: axes of the window [m]; thk, topg: (patch, y, x) m, topg may be None; parts: their split;
    crs: attributes of the grid mapping, {} if unknown; attributes: global ones, with scale, degrade
    and spacing_m.
    """
    scale, side = int(attributes["scale"]), thk.shape[1]
    columns = len(x) // side
    row, column = np.divmod(np.arange(len(parts), dtype=np.int32), columns)
    levels = np.arange(scale.bit_length(), dtype=np.int32)
    spacing_m = attributes["spacing_m"] * scale / 2.0**levels
    flags = {"flag_values": np.arange(len(utils.SPLITS), dtype=np.int8),
             "flag_meanings": " ".join(utils.SPLITS)}
    variables = {
        "level": (("level",), levels, {"long_name": "level: 0 the input, the last the label"}),
        "spacing": (("level",), spacing_m, {"units": "m", "long_name": "nominal spacing"}),
        "x": (("patch", "x"), x.reshape(-1, side)[column],
              {"units": "m", "standard_name": "projection_x_coordinate"}),
        "y": (("patch", "y"), y.reshape(-1, side)[row],
              {"units": "m", "standard_name": "projection_y_coordinate"}),
        "row": (("patch",), row, {"long_name": "row of the patch, from the lowest y"}),
        "column": (("patch",), column, {"long_name": "column of the patch, from the lowest x"}),
        "split": (("patch",), parts, {"long_name": "what the patch is used for", **flags}),
    }
    mapping = {"grid_mapping": "crs"} if crs else {}
    for name, field, standard_name in (("thk", thk, "land_ice_thickness"),
                                       ("topg", topg, "bedrock_altitude")):
        if field is not None:
            values = utils.make_levels(field, scale, attributes["degrade"])
            variables[name] = (("patch", "level", "y", "x"), values,
                               {"units": "m", "standard_name": standard_name, **mapping})
    if crs:
        variables["crs"] = ((), np.int32(0), crs)
    sizes = {"patch": len(parts), "level": len(levels), "y": side, "x": side}
    utils.write_netcdf(path, sizes, variables, attributes)


def report(path, found, shape, patches):
    """Print what prepare() made: source, window, patches, split, bicubic error at each level."""
    attrs = patches["attrs"]
    if found["synthetic"]:
        print("SYNTHETIC ice sheet: made by formula, no real place; --input MAP.nc for real data")
    print(f"source   {found['name']}" + (f" ({found['title']})" if found["title"] else ""))
    if found["n_missing_thk"]:
        print(f"         {found['n_missing_thk']} cells of the map have no thickness: zero ice")
    if found["n_negative_thk"]:
        print(f"         {found['n_negative_thk']} cells have negative thickness: zero ice")
    if patches["topg"] is None:
        print("         no bed (topg) in it: train with --channels thk")
    print(f"window   {shape[1]} x {shape[0]} cells of {attrs['spacing_m'] / 1000:g} km from x "
          f"{patches['x'].min():.0f} to {patches['x'].max():.0f}, y {patches['y'].min():.0f} to "
          f"{patches['y'].max():.0f} m; thickness to {attrs['thk_max_m']:.1f} m")
    counts = ", ".join(f"{len(utils.in_split(patches, name))} {name}" for name in utils.SPLITS
                       if len(utils.in_split(patches, name)))
    side = patches["x"].shape[1]
    print(f"patches  {len(patches['row'])} of {side} x {side}: {counts} ({attrs['split']} split, "
          f"seed {attrs['seed']})")
    print(f"\n{attrs['degrade']} reduction        all patches            test patches\n"
          "level   spacing     MSE/max2    RMSE m      MSE/max2    RMSE m")
    test = utils.in_split(patches, "test")
    for level in range(patches["thk"].shape[1] - 1):
        both = [utils.errors(thk[:, level], thk[:, -1], attrs["thk_max_m"])
                for thk in (patches["thk"], patches["thk"][test])]
        print(f"{level:5d} {attrs['spacing_m'] * attrs['scale'] / 2**level / 1000:6g} km" + "".join(
            f"{error['mse']:13.2e}{error['rmse_m']:10.1f} " for error in both))
    print(f"\nwrote    {path}")


def find_map(input_file=None, download=False, record=-1):
    """The map that the user asked for: a file, ALBMAP from the net, or the synthetic sheet."""
    if download:
        found = utils.read_map(download_albmap())
        return dict(found, citation=found["citation"] or ALBMAP_CITATION)
    if input_file:
        return utils.read_map(input_file, record)
    return synthetic_map()


# ---------------------------------------------------------------- patches of a run


def own_patches_path(run):
    """data/patches_<run>.nc; runs that differ by fold and seed (x8_fold2of5_seed1) share it."""
    name = re.sub(r"(_fold[0-9]+of[0-9]+)?(_seed[0-9]+)?$", "", run)
    return utils.DATA / f"patches_{name}.nc"


def patches_path(run, scale):
    """Patches of a run: its own (see own_patches_path) if they exist, else those of the scale."""
    own = own_patches_path(run)
    return own if own.exists() else utils.DATA / f"patches_x{scale}.nc"


def find_patches(run, scale, input_file=None, trained=None, split=None):
    """The path and the contents of a run's patches; made first where missing or of another map.

    input_file: the map they have to come from; without it whatever patches are there will do, and
    where there are none the synthetic ice sheet. trained: settings of the run if it exists, whose
    patches are made as it was trained on; InputError where this map cannot give them. split: a
    fold, "fold 2 of 5", for which the patches are shared out anew; else that of the run.
    """
    path = patches_path(run, scale)
    split = split or (trained["data"]["split"] if trained else "")

    def shared_out(patches):
        return resplit(patches, split) if split.startswith("fold") else patches

    if path.exists():
        patches = utils.read_patches(path)
        if patches["attrs"]["scale"] != scale:
            raise InputError(f"{path}: made for scale {patches['attrs']['scale']}, not {scale}; "
                             f"remake it: python prepare_data.py --scale {scale} --output {path}")
        if input_file is None or utils.file_sha256(input_file) == patches["attrs"]["source_sha256"]:
            return path, shared_out(patches)
    found = find_map(input_file)
    wanted = {}
    if trained:
        data = trained["data"]
        if data["source_sha256"] != found["sha256"]:
            raise InputError(f"run {run} was trained on {data['source']}, not on {found['name']}; "
                             "give that map with --input, or choose another --run, or --restart")
        wanted = {key: data[key] for key in ("degrade", "test_size", "seed", "window")}
        wanted["split"] = "block" if split.startswith("fold") else split
    made, why = path, "is missing"
    if path.exists():
        # Runs of the same scale share a file of patches; theirs must stay.
        made, why = own_patches_path(run), "comes from another map"
    print(f"{path} {why}: making {made} first (prepare_data.py)\n")
    prepare(scale, found, output=made, **wanted)
    print()
    return made, shared_out(utils.read_patches(made))


def describe_data(patches):
    """What decides the numbers in a file of patches: part of a run's settings."""
    keys = ("source", "source_sha256", "source_title", "citation", "synthetic", "degrade", "split",
            "test_size", "seed", "window", "spacing_m", "thk_max_m", "thk_norm_m", "topg_norm_m")
    return {key: np.asarray(patches["attrs"][key]).tolist() for key in keys}


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
    parser.add_argument("--time", type=int, default=-1, metavar="N", help="record (default: last)")
    parser.add_argument("--output", metavar="FILE", help="default data/patches_x<scale>.nc")
    args = parser.parse_args(argv)
    if not 0 < args.test_size < 1:
        raise InputError(f"--test-size {args.test_size:g}: expected a share between 0 and 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or more")
    prepare(args.scale, find_map(args.input, args.download, args.time), args.degrade, args.split,
            args.test_size, args.seed, tuple(args.window), args.output)


if __name__ == "__main__":
    utils.run_script(main)
