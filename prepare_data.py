"""Cut an Antarctic ice-thickness map into 41 x 41 patches with inputs at every level of the chain.

    python prepare_data.py --scale 8                         # a synthetic ice sheet: nothing needed
    python prepare_data.py --scale 8 --input MAP.nc          # your map: BedMachine, PISM ...
    python prepare_data.py --scale 8 --download              # fetch ALBMAP v1 (16 MB) and use it
    python prepare_data.py --scale 8 --input MAP.nc --degrade area --split block
    python prepare_data.py --example                         # a coarse map to try downscale.py with

The patches go to data/patches_x8.nc, which train.py reads. Level 0 of a patch is the map reduced by
the scale and brought back to 41 x 41 by a cubic spline: the input. Each level after it is twice as
fine; the last is the map itself: the label.
"""

import math
from pathlib import Path

import numpy as np
import scipy.ndimage

import utils
from icesheet import albmap, command_line, example, files, map_files, map_layout
from icesheet.command_line import InputError
from icesheet.patches import (
    DESCRIPTIVE_KEYS, PATCH_CELLS, SPLITS, apply_split, choose_new_path, cut_patches, default_path,
    describe_split, find_patches, find_patches_in_split, wanted_contents, write_patches)
from icesheet.scores import compute_errors
from icesheet.settings import SCALES

WINDOW_M = (-1741591, 2356950, -915923, 1131135)  # x0 x1 y0 y1 [m]: 820 x 410 cells of 5 km
TEST_SHARE = 0.3               # share of the patches held out: 60 of 200


def make_fractal_field(rng, shape, spacing_m, spectral_slope, max_wavelength_m):
    """Return a Gaussian random field (y, x) of mean 0 and unit variance with a power-law spectrum.

    2-D power ~ max(wavenumber, 1 / max_wavelength_m)^-spectral_slope. The field is drawn at twice
    the size and cut, because a Fourier sum repeats itself at its edges.
    """
    ny, nx = 2 * shape[0], 2 * shape[1]
    wavenumber = np.hypot(np.fft.fftfreq(ny, spacing_m)[:, None], np.fft.rfftfreq(nx, spacing_m))
    amplitude = np.maximum(wavenumber, 1 / max_wavelength_m) ** (-spectral_slope / 2)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((ny, nx))) * amplitude, (ny, nx))
    field = field[:shape[0], :shape[1]]
    return (field - field.mean()) / field.std()


def make_synthetic_map(seed=0, shape=(410, 820), spacing_m=5000.0):
    """Make an Antarctic-like ice sheet on the cells of the window; return a map (map_files.py).

    Bed: fractal (2-D power ~ wavenumber^-3.5 between 200 and 10 km) on a continent that falls to a
    shelf below sea level and a deep ocean, with sinuous troughs and mountain chains. Surface:
    Vialov (1958) profile, s = s0 (1 - (1 - d / L)^(4/3))^(3/8) at the distance d from the coast,
    plus a damped copy of the bed relief; low over the ice shelves. Thickness: surface minus bed
    with flotation, at most 4500 m; zero on open ocean and nunataks. One seed gives one sheet.
    """
    rng = np.random.default_rng(seed)
    x = WINDOW_M[0] + spacing_m * np.arange(shape[1])
    y = WINDOW_M[2] + spacing_m * np.arange(shape[0])
    rough, continent, trough, mountain, mountain_chain, front = (
        make_fractal_field(rng, shape, spacing_m, spectral_slope, max_wavelength_m)
        for spectral_slope, max_wavelength_m in (
            (3.7, 300e3), (5.0, 1500e3), (4.5, 500e3), (3.6, 150e3), (5.0, 1200e3), (4.5, 800e3)))

    # Distance from the coast, positive inland: an ellipse with bays and headlands.
    ellipse = 1 - np.hypot((x - 300e3) / 2150e3, y[:, None] / 1150e3)
    land = ellipse + 0.17 * continent > 0
    coast_distance_m = (scipy.ndimage.distance_transform_edt(land, sampling=spacing_m)
                        - scipy.ndimage.distance_transform_edt(~land, sampling=spacing_m))

    # Troughs and mountain chains follow the zero lines of a smooth field, which are sinuous.
    topg = np.interp(coast_distance_m, [-600e3, -250e3, -120e3, 0, 150e3, 600e3],
                     [-3500, -2800, -550, -450, -100, 250])
    topg += rough * np.interp(coast_distance_m, [-250e3, 0, 200e3], [100, 260, 360])
    topg -= np.exp(-(trough / 0.09) ** 2) * np.interp(
        coast_distance_m, [-200e3, 0, 400e3], [300, 800, 700])
    topg += (np.exp(-(mountain_chain / 0.16) ** 2) * (1200 + 800 * mountain)
             * np.interp(coast_distance_m, [0, 150e3], [0, 1]))

    # The divide lies 900 km from the coast; beyond it the surface is flat.
    usrf = 3300 * (1 - (1 - np.clip(coast_distance_m / 900e3, 0, 1)) ** (4 / 3)) ** (3 / 8)
    usrf = scipy.ndimage.gaussian_filter(usrf, 3)  # no kink along the divide
    bed_relief = scipy.ndimage.gaussian_filter(topg, 1) - scipy.ndimage.gaussian_filter(topg, 8)
    usrf += 0.08 * bed_relief * np.interp(coast_distance_m, [0, 50e3], [0, 1])
    usrf = np.maximum(usrf, np.interp(coast_distance_m, [-180e3, 0], [35, 90]))  # ice shelves
    usrf[(coast_distance_m < np.minimum(-70e3 - 110e3 * front, 0)) & (topg < 0)] = 0  # open ocean

    topg = np.maximum(topg, usrf - 4500)
    thk = utils.thickness_from_surface(usrf, topg) * (usrf > 0)
    thk[thk < 1] = 0
    return map_files.make_map(
        x, y, thk, topg.astype(np.float32), name=f"synthetic ice sheet, seed {seed}",
        title="SYNTHETIC ice sheet made by prepare_data.py, no real place", synthetic=True)


def find_window_slices(ice_map, window, side):
    """Return the slices (y, x) of the cells of a map in a window, cut to whole patches.

    window: x0, x1, y0, y1 [m]; it starts at the cell nearest to its lower left corner. Cells beyond
    the last whole patch of side x side cells are left out.
    Raises InputError if the window leaves the map or holds no patch.
    """
    slices, spacing_m = [], ice_map["spacing_m"]
    extent_text = (f"{ice_map['name']} reaches from x {ice_map['x'][0]:.0f} to "
                   f"{ice_map['x'][-1]:.0f} and y {ice_map['y'][0]:.0f} to "
                   f"{ice_map['y'][-1]:.0f} m")
    for name, low, high in (("y", *window[2:]), ("x", *window[:2])):
        axis = ice_map[name]
        # A thousandth of a cell to spare: spacings such as 1000/3 m are not exact.
        n_cells = math.floor((high - low) / spacing_m + 1e-3) + 1
        start = int(np.argmin(np.abs(axis - low)))
        if low < axis[0] - spacing_m / 2 or start + n_cells > len(axis):
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m lies outside the map: "
                             f"{extent_text}; choose --window X0 X1 Y0 Y1 inside")
        if n_cells < side:
            raise InputError(f"window {name} {low:.0f} to {high:.0f} m is {max(n_cells, 0)} cells "
                             f"of {spacing_m:.0f} m, smaller than a patch of {side}; {extent_text}")
        slices.append(slice(start, start + n_cells // side * side))
    return tuple(slices)


def make_patches(ice_map, scale, degrade="bicubic", split_method="random", test_size=TEST_SHARE,
                 seed=0, window=WINDOW_M, densities=None):
    """Cut a map (see icesheet/map_files.py) into patches (see icesheet/patches.py).

    Raises InputError if the window leaves the map, its bed has gaps, or it holds no ice.
    """
    side = PATCH_CELLS[degrade]
    rows_and_columns = find_window_slices(ice_map, window, side)
    x, y = ice_map["x"][rows_and_columns[1]], ice_map["y"][rows_and_columns[0]]
    thk, topg = (None if ice_map[name] is None else ice_map[name][rows_and_columns]
                 for name in ("thk", "topg"))  # (y, x)
    if topg is not None and np.isnan(topg).any():
        raise InputError(f"{ice_map['name']}: the bed (topg) is missing in {np.isnan(topg).sum()} "
                         "cells of the window; fill them, choose a --window without them, or leave "
                         "topg out of the file")
    if thk.max() <= 0:  # errors are divided by the largest thickness
        raise InputError(f"{ice_map['name']}: no ice in the window (thickness is zero everywhere); "
                         "choose another --window")

    # A patch is reduced by itself, as in the original: its edges know nothing of the patch beside.
    # Every level comes back on the fine grid, so that one array holds them all.
    thk, topg = (None if field is None else np.stack(utils.build_levels(
        cut_patches(field, side), scale, degrade, "fine"), axis=1)  # (patch, level, y, x)
        for field in (thk, topg))

    # Over all levels: a spline can overshoot, and the errors of runs are divided by this number.
    thk_max_m = float(thk.max())
    # Patches are numbered row by row from the lower left corner, as cut_patches does.
    row, column = np.divmod(np.arange(len(thk), dtype=np.int32), len(x) // side)
    patches = {
        "thk": thk, "topg": topg, "row": row, "column": column, "scale": scale,
        "x": x.reshape(-1, side)[column], "y": y.reshape(-1, side)[row],
        "data": {
            "source": ice_map["name"], "source_sha256": ice_map["sha256"],
            "source_title": ice_map["title"],
            **{key: ice_map[key] for key in ("citation", "time_label", "synthetic", "spacing_m",
                                             "variables_read", "crs", "sea_level_m")},
            "time_index": -1 if ice_map["time_index"] is None else ice_map["time_index"],
            "degrade": degrade, "split_method": split_method, "test_size": test_size, "seed": seed,
            "window": [float(edge) for edge in window], "thk_max_m": thk_max_m,
            "densities": list(densities or utils.DENSITIES)}}
    # The split comes last: the constants that scale the network's input follow from it.
    return apply_split(patches, split_method)


def print_patches_summary(path, patches):
    """Print what a file of patches holds: source, window, split, error of the input and levels."""
    data = patches["data"]
    if data["synthetic"]:
        print("SYNTHETIC ice sheet: made by formula, no real place; --input MAP.nc for real data")
    print(f"source   {data['source']}" + f" ({data['source_title']})" * bool(data["source_title"]))
    if patches["topg"] is None:
        print("         it has no bed (topg): train with --channels thk")
    side, scale = patches["x"].shape[1], patches["scale"]
    columns, rows = (side * (patches[name].max() + 1) for name in ("column", "row"))
    print(f"window   {columns} x {rows} cells of {data['spacing_m'] / 1000:g} km from x "
          f"{patches['x'].min():.0f} to {patches['x'].max():.0f}, y {patches['y'].min():.0f} to "
          f"{patches['y'].max():.0f} m; thickness to {data['thk_max_m']:.1f} m")
    counts = {name: len(find_patches_in_split(patches, name)) for name in SPLITS}
    print(f"patches  {len(patches['row'])} of {side} x {side}: "
          + ", ".join(f"{count} {name}" for name, count in counts.items() if count)
          + f" ({describe_split(data)}, seed {data['seed']})")
    print(f"\n{data['degrade']} coarsening: MSE / max2 and RMSE m of the input and each level\n")
    rows = [("level", "spacing", "all patches", "", "test patches", "")]
    for level in range(patches["thk"].shape[1] - 1):
        row = [str(level), f"{data['spacing_m'] * scale / 2**level / 1000:g} km"]
        for thk in (patches["thk"], patches["thk"][find_patches_in_split(patches, "test")]):
            errors = compute_errors(thk[:, level], thk[:, -1], data["thk_max_m"], data["spacing_m"])
            row += [f"{errors['mse']:.2e}", f"{errors['rmse_m']:.1f}"]
        rows.append(row)
    command_line.print_table(rows)
    print(f"\nwrote    {path}")


def prepare(scale, ice_map, degrade="bicubic", split_method="random", test_size=TEST_SHARE, seed=0,
            window=WINDOW_M, output=None, densities=None, replace=True):
    """Make the patches of a map, write them to `output` and print a summary; return the path.

    output: data/patches_x<scale>.nc, or a name of their own if that file has patches of another
    map, or without `replace` if it is there at all.
    Raises InputError as make_patches does, and if the output is the map itself.
    """
    files.check_output_path(output or default_path(scale), ice_map["path"])
    map_files.print_map_summary(ice_map)
    patches = make_patches(ice_map, scale, degrade, split_method, test_size, seed, window,
                           densities)
    path = Path(output or choose_new_path(patches, replace))
    write_patches(path, patches)
    print_patches_summary(path, patches)
    return path


def load_map(input_file=None, download=False, time_index=-1, options=None):
    """Return the map that the user asked for: of a file, ALBMAP v1, or the synthetic ice sheet.

    time_index: from 0, or -1 for the last; options: of map_layout.parse_map_options.
    """
    if download:
        ice_map = map_files.read_map(albmap.download_albmap())
        return ice_map | {"citation": ice_map["citation"] or albmap.ALBMAP_CITATION}
    if input_file is not None:
        return map_files.read_map(input_file, time_index, **(options or {}))
    return make_synthetic_map()


def make_missing_patches(path, why_not, scale, wanted, input_file, options):
    """Make the patches that a run needs, as a run that exists had them; return path and patches.

    path, why_not: of find_patches. Raises InputError if the map now gives other patches.
    """
    ice_map = load_map(input_file, time_index=wanted.get("time_index", -1),
                       options=options | {"sea_level_m": wanted.get("sea_level_m")})
    recorded_options = {key: wanted[key] for key in ("degrade", "test_size", "seed", "window",
                                                     "split_method") if key in wanted}
    print(f"{path}: {why_not or 'no such file'}; patches of {ice_map['name']} are made first "
          "(prepare_data.py)\n")
    # Another process may have made the default file since: prepare looks again before it writes.
    output = None if path.exists() or path == default_path(scale) else path
    path = prepare(scale, ice_map, output=output, replace=False,
                   densities=options.get("densities"), **recorded_options)
    print()
    path, patches, why_not = find_patches(path, [], scale, wanted)
    if patches is None:  # or the default file would be of a map read in another way
        path.unlink()
        raise InputError(f"{input_file}: patches made from it do not fit: {why_not}; read it as "
                         "before (--variables, --xy-units)")
    return path, patches


def load_or_make_patches(run, scale, input_file=None, patches_file=None, source="any",
                         run_settings=None, fold=(), options=None, dry_run=False):
    """Return the file of a run's patches and the patches; make them first if there are none.

    What is given                      | file that is read                     | if none fits
    patches_file                       | that file                             | error
    run_settings, the run exists       | its own, else any of the same content | made, with the map
    input_file or source "synthetic"   | the default file, else any made of it | made
    none of these                      | the default file                      | synthetic if "any"
    The default file is data/patches_x<scale>.nc; "any" is any data/patches_*.nc. source: "map"
    refuses the synthetic ice sheet, "synthetic" asks for it, "any" takes it if there is nothing
    else. fold: (2, 5) splits the patches again; options: of map_layout.parse_map_options; dry_run:
    return None for patches that would have to be made.
    Raises InputError with the reason if no patches fit and none can be made.
    """
    run_data, options = run_settings and run_settings["data"], options or {}
    wanted = wanted_contents(run, run_data, input_file, source, options)
    first = Path(patches_file or (run_settings["patches"] if run_data else default_path(scale)))
    # Without a map to look for, only the default file can be meant.
    is_known_map = "source_sha256" in wanted and patches_file is None
    others = sorted(files.DATA.glob("patches_*.nc")) if is_known_map else []
    path, patches, why_not = find_patches(first, others, scale, wanted)
    if patches is None:
        is_synthetic = wanted.get("synthetic") and not wanted["source_sha256"]
        is_first_command = source == "any" and not wanted and not why_not
        if patches_file is not None or not (input_file or is_synthetic or is_first_command):
            advice = ("Choose other --patches or another --run" if patches_file is not None else
                      f"Run {run} was trained on {run_data['source']}: give that map with --input "
                      "MAP.nc" if run_data else "Give a map with --input MAP.nc, patches with "
                      "--patches FILE, or ask for the synthetic ice sheet with --synthetic")
            raise InputError(f"{path}: {why_not or 'no such file'}. {advice}")
        if dry_run:
            return path, None
        path, patches = make_missing_patches(path, why_not, scale, wanted, input_file, options)
    if run_data:  # the map as the run knew it, whatever its file is called now
        patches["data"] |= {key: run_data[key] for key in DESCRIPTIVE_KEYS}
    fold = run_data["fold"] if run_data else fold
    return path, apply_split(patches, "block", fold) if len(fold) else patches


def main(argv=None):
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=SCALES, default=8,
                        help="how many times finer the network makes a map (default 8)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", metavar="MAP.nc", help="map with thk (and topg), x and y")
    source.add_argument("--synthetic", action="store_true", help="synthetic ice sheet (default)")
    source.add_argument("--download", action="store_true", help="fetch ALBMAP v1, 16 MB")
    source.add_argument("--example", action="store_true", help="write no patches but a coarse "
                        "synthetic map and its finer bed, to try downscale.py with")
    parser.add_argument("--degrade", choices=("bicubic", "area"), default="bicubic",
                        help="point samples on a cubic spline (the original), or cell means")
    parser.add_argument("--split", choices=("random", "block"), default="random",
                        help="test patches: single ones (default), or whole blocks with a buffer")
    parser.add_argument("--test-size", type=float, default=TEST_SHARE, metavar="SHARE",
                        help=f"share of the patches held out for the test (default {TEST_SHARE})")
    parser.add_argument("--seed", type=int, default=0,
                        help="random seed of the train/test split (default 0)")
    parser.add_argument("--window", type=float, nargs=4, default=WINDOW_M,
                        metavar=("X0", "X1", "Y0", "Y1"),
                        help="in projected metres (default: the original's 820 x 410 cells)")
    parser.add_argument("--time", type=int, metavar="N",
                        help="time index of --input, from 0 (default: the last)")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="default data/patches_x<scale>.nc")
    args = parser.parse_args(argv)
    options = map_layout.parse_map_options(args)
    if args.example:
        map_path, bed_path = example.write_example_maps(make_synthetic_map())
        print(f"wrote    {map_path} and {bed_path}, SYNTHETIC; try: python downscale.py {map_path} "
              f"--run map --scale 4 --bed {bed_path} --output data/example_fine.nc")
        return
    if not 0 < args.test_size < 1:
        raise InputError(f"--test-size {args.test_size:g}: expected a share between 0 and 1")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or more")
    if args.time is not None and args.input is None:
        raise InputError("--time selects a time in the input map; add --input MAP.nc")
    if args.output is not None:  # before a long read
        files.check_output_path(args.output, args.input)
    ice_map = load_map(args.input, args.download, -1 if args.time is None else args.time, options)
    path = prepare(args.scale, ice_map, args.degrade, args.split, args.test_size, args.seed,
                   tuple(args.window), args.output, args.densities)
    if args.output is None and path != default_path(args.scale):
        print(f"note: {default_path(args.scale)} has no patches of this map and scale and stays as "
              f"it is; train on these with --patches {path}")


if __name__ == "__main__":
    command_line.run_script(main)
