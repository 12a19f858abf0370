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
from pathlib import Path

import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

import utils
from icesheet import albmap, command_line, files, map_files, map_layout
from icesheet.command_line import InputError
from icesheet.patches import (
    PATCH_CELLS,
    SPLITS,
    apply_split,
    cut_patches,
    describe_split,
    find_patches_in_split,
    read_patches,
    write_patches,
)
from icesheet.scores import compute_errors
from icesheet.settings import SCALES, diff_settings, format_differences

WINDOW_M = (-1741591, 2356950, -915923, 1131135)  # x0 x1 y0 y1 [m]: 820 x 410 cells of 5 km
TEST_SHARE = 0.3               # share of the patches held out: 60 of 200


def make_fractal_field(rng, shape, spacing_m, slope, longest_m):
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


def make_synthetic_map(seed=0, shape=(410, 820), spacing_m=5000.0):
    """An Antarctic-like ice sheet on the cells of the window: a map (see utils), not a real place.

    Bed: fractal (2-D power ~ wavenumber^-3.5 between 200 and 10 km) on a continent that falls to a
    shelf below sea level and a deep ocean, with sinuous troughs and mountain chains. Surface:
    Vialov (1958) profile from the coast inward, smooth over the rough bed but for a damped copy of
    it; low over the ice shelves. Thickness: surface - bed, floating ice in hydrostatic equilibrium,
    at most 4500 m; zero on open ocean and on nunataks. The same seed gives the same sheet.
    """
    rng = np.random.default_rng(seed)
    x = WINDOW_M[0] + spacing_m * np.arange(shape[1])
    y = WINDOW_M[2] + spacing_m * np.arange(shape[0])
    rough, continent, trough, mountain, chain, front = (
        make_fractal_field(rng, shape, spacing_m, slope, longest_m) for slope, longest_m in
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
    thk = utils.thickness_from_surface(usrf, topg) * (usrf > 0)
    thk[thk < 1] = 0
    return map_files.make_map(
        x, y, thk, topg.astype(np.float32), name=f"synthetic ice sheet, seed {seed}",
        title="SYNTHETIC ice sheet made by prepare_data.py, no real place", synthetic=True)


def find_window_slices(ice_map, window, side):
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


def make_patches(ice_map, scale, degrade="bicubic", split_method="random", test_size=TEST_SHARE,
                 seed=0, window=WINDOW_M, densities=None):
    """Cut a map (see map_files.read_map) into patches at every level of the chain: a dict.

    thk, topg       (patch, level, y, x) float32 [m]; topg None where the map has no bed
    x, y            (patch, x or y) [m]
    row, column     (patch,) int: place of the patch in the window, from the lower left
    split           (patch,) int8: see patches.SPLITS
    scale           of the chain
    data            what decides the numbers, see PATCH_FILE_ATTRIBUTES
    Raises InputError where the window, the bed or the thickness will not do.
    """
    side = PATCH_CELLS[degrade]
    cells = find_window_slices(ice_map, window, side)
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
    thk, topg = (None if field is None else np.stack(utils.build_levels(
        cut_patches(field, side), scale, degrade, "fine"), axis=1) for field in (thk, topg))
    patches = {
        "thk": thk, "topg": topg,
        "x": x.reshape(-1, side)[column], "y": y.reshape(-1, side)[row], "row": row,
        "column": column, "scale": scale,
        "data": {
            "source": ice_map["name"], "source_sha256": ice_map["sha256"],
            "source_title": ice_map["title"], "citation": ice_map["citation"],
            "time_index": -1 if ice_map["time_index"] is None else ice_map["time_index"],
            "time_label": ice_map["time_label"], "synthetic": ice_map["synthetic"],
            "degrade": degrade, "split_method": split_method,
            "test_size": test_size, "seed": seed, "window": [float(edge) for edge in window],
            "spacing_m": ice_map["spacing_m"], "thk_max_m": float(thk.max()),
            "densities": list(densities or utils.DENSITIES), "variables_read": ice_map["variables_read"],
            "crs": ice_map["crs"]}}
    return apply_split(patches, split_method)


def print_patches_summary(path, patches):
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
    counts = ", ".join(f"{len(find_patches_in_split(patches, name))} {name}" for name in SPLITS
                       if len(find_patches_in_split(patches, name)))
    print(f"patches  {len(patches['row'])} of {side} x {side}: {counts} ({describe_split(data)}, "
          f"seed {data['seed']})")
    print(f"\n{data['degrade']} reduction: MSE / max2 and RMSE m of the input and each level\n")
    rows = [("level", "spacing", "all patches", "", "test patches", "")]
    for level in range(patches["thk"].shape[1] - 1):
        row = [str(level), f"{data['spacing_m'] * scale / 2**level / 1000:g} km"]
        for thk in (patches["thk"], patches["thk"][find_patches_in_split(patches, "test")]):
            error = compute_errors(thk[:, level], thk[:, -1], data["thk_max_m"], data["spacing_m"])
            row += [f"{error['mse']:.2e}", f"{error['rmse_m']:.1f}"]
        rows.append(row)
    command_line.print_table(rows)
    print(f"\nwrote    {path}")


def prepare(scale, ice_map, degrade="bicubic", split_method="random", test_size=TEST_SHARE, seed=0,
            window=WINDOW_M, output=None, densities=None):
    """Make the patches of a map, write them to `output` and print what they are; returns its path.

    output: data/patches_x<scale>.nc unless given. Raises InputError as make_patches does, and where
    the output is the map itself.
    """
    output = Path(files.DATA / f"patches_x{scale}.nc" if output is None else output)
    files.check_output_path(output, ice_map["path"])
    map_files.print_map_summary(ice_map)
    patches = make_patches(ice_map, scale, degrade, split_method, test_size, seed, window,
                           densities)
    write_patches(output, patches)
    print_patches_summary(output, patches)
    return output


def load_map(input_file=None, download=False, record=-1, options=None):
    """The map that the user asked for: a file, ALBMAP from the net, or the synthetic sheet.

    options: see map_layout.parse_map_options.
    """
    if download:
        ice_map = map_files.read_map(albmap.download_albmap())
        return ice_map | {"citation": ice_map["citation"] or albmap.ALBMAP_CITATION}
    if input_file is not None:
        return map_files.read_map(input_file, record, **(options or {}))
    return make_synthetic_map()


def load_or_make_patches(run, scale, input_file=None, patches_file=None, synthetic=None, trained=None,
                 fold=(), options=None):
    """The path and the contents of a run's patches; made first where they are missing.

    They are patches_file; else those that the run was trained on, where it exists; else
    data/patches_x<scale>.nc. Patches of another map are left alone: those of this one get a file of
    their own.
    input_file: the map they have to come from. synthetic: True asks for the synthetic sheet, False
    refuses it, None takes it where there is nothing else. trained: settings of the run if it
    exists: its patches are made as it knew them. fold: (2, 5), for which the split is made anew.
    options: see map_layout.parse_map_options; of densities patches know only what a run on them starts from.
    Raises InputError where there are no such patches and they cannot be made.
    """
    data = trained["data"] if trained else {"synthetic": synthetic, "fold": fold}
    if trained and input_file is None and not synthetic:
        synthetic = data["synthetic"] and not data["source_sha256"]
    map_sha256 = files.hash_file(input_file) if input_file is not None else ""
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
                name in patches["data"]["variables_read"].split(", ") for name in names):
            return None
        if len(data["fold"]):
            patches = apply_split(patches, "block", data["fold"])
        if trained and diff_settings(
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

    path = Path(trained["patches"]) if trained else files.DATA / f"patches_x{scale}.nc"
    own = files.DATA / (f"patches_{run}.nc" if trained else
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
                         + format_differences(diff_settings(
                             data, read_patches(made)["data"])) + "; move it away")
    ice_map = load_map(input_file, record=data["time_index"] if trained else -1, options=options)
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
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=SCALES, default=8)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", metavar="MAP.nc", help="map with thk (and topg), x and y")
    source.add_argument("--synthetic", action="store_true", help="a made-up ice sheet (default)")
    source.add_argument("--download", action="store_true", help="fetch ALBMAP v1, 16 MB")
    parser.add_argument("--degrade", choices=("bicubic", "area"), default="bicubic",
                        help="point samples on a cubic spline (the original), or cell means")
    parser.add_argument("--split", choices=("random", "block"), default="random")
    parser.add_argument("--test-size", type=float, default=TEST_SHARE, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--window", type=float, nargs=4, default=WINDOW_M,
                        metavar=("X0", "X1", "Y0", "Y1"),
                        help="in projected metres (default: the original's 820 x 410 cells)")
    parser.add_argument("--time", type=int, metavar="N",
                        help="record of --input, from 0 (default: the last)")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="default data/patches_x<scale>.nc")
    args = parser.parse_args(argv)
    options = map_layout.parse_map_options(args)
    if not 0 < args.test_size < 1:
        raise InputError(f"--test-size {args.test_size:g}: expected a share between 0 and 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or more")
    if args.time is not None and args.input is None:
        raise InputError("--time: goes with --input MAP.nc")
    if args.output is not None:  # before a long read
        files.check_output_path(args.output, args.input)
    ice_map = load_map(args.input, args.download, -1 if args.time is None else args.time, options)
    prepare(args.scale, ice_map, args.degrade, args.split, args.test_size, args.seed,
            tuple(args.window), args.output, args.densities)


if __name__ == "__main__":
    command_line.run_script(main)
