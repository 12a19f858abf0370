"""Sensitivity to bed errors: the error of every method when the bed differs from the true one.

    python tests/benchmarks/bed_error_sensitivity.py MAP.nc RUN [RUN ...]    # 2 to 4 minutes a run

MAP.nc: the 8 km BedMachine grid. In a reconstruction test every method gets the exact bed of the
reference map; real beds have errors of 50 to 300 m between radar lines. Here the bed is that of the
map plus a Gaussian random field (make_bed_error) of 0, 50, 100 and 200 m RMS under the ice,
correlated over 20 km, 0 at the ice edge. The coarse thickness stays that of the true map.
Prints the RMSE [m] over ice and 8 cells around it, by groups of cells (group_cells), and the RMS
bed error from which bicubic interpolation, which uses no bed, is better than the network
(interpolated linearly between the four).
"""

import sys
from pathlib import Path

import numpy as np
import scipy.ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

import utils
from icesheet import command_line, map_files, reconstruction
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.scores import METHOD_STYLES, compute_rmse_m
from icesheet.settings import get_densities

ERRORS_M = (0, 50, 100, 200)  # RMS of the bed's error
CORRELATION_LENGTH_M = 20e3  # distance at which the correlation of the bed's error is 1/e
MAX_SMOOTH_STD_M = 50.0  # standard deviation in a coarse cell below which a bed is smooth


def make_bed_error(thk, spacing_m, seed=0):
    """Return a Gaussian bed error of RMS 1 under ice thk (y, x) [m], see CORRELATION_LENGTH_M.

    It grows from 0 at and beyond the ice edge to its full size over CORRELATION_LENGTH_M.
    """
    noise = np.random.default_rng(seed).standard_normal(thk.shape)
    field = scipy.ndimage.gaussian_filter(noise, CORRELATION_LENGTH_M / 2 / spacing_m, mode="wrap")
    ice = utils.is_ice(thk)
    inland_m = spacing_m * (scipy.ndimage.distance_transform_edt(ice) - 1)
    field *= np.clip(inland_m / CORRELATION_LENGTH_M, 0, 1)
    return field / np.sqrt(np.mean(field[ice] ** 2))


def group_cells(fine, scale, densities):
    """Return groups of cells that are scored by themselves: {name: (y, x) bool}; fine: true map.

    all: ice and the cells around it, as in a reconstruction test; of these grounded, floating and
    boundary_zone; and grounded ice whose bed is smooth or rough within its coarse cell.
    """
    thk, topg = fine["thk"], fine["topg"].astype(float)
    distance_to_ice = scipy.ndimage.distance_transform_edt(~utils.is_ice(thk))
    near = distance_to_ice <= reconstruction.SCORED_CELLS_AROUND_ICE
    types = utils.surface_type_masks(thk, topg, 2 * scale, densities)
    blocks = topg.reshape(len(topg) // scale, scale, -1, scale)
    smooth = np.kron(blocks.std(axis=(1, 3)) < MAX_SMOOTH_STD_M, np.ones((scale, scale), bool))
    return {"all": near, "grounded": types["grounded"], "floating": types["floating"],
            "boundary_zone": types["boundary_zone"] & near,
            "smooth bed": types["grounded"] & smooth, "rough bed": types["grounded"] & ~smooth}


def find_break_even(model_rmse_m, bicubic_rmse_m):
    """Return, as text, the bed error at which the network's RMSE rises to that of bicubic."""
    for i, (low, high) in enumerate(zip(ERRORS_M, ERRORS_M[1:], strict=False)):
        before, after = (bicubic_rmse_m[j] - model_rmse_m[j] for j in (i, i + 1))
        if before >= 0 > after:
            return f"{low + (high - low) * before / (before - after):.0f} m"
    return "0 m" if model_rmse_m[0] > bicubic_rmse_m[0] else "none of these"


def print_errors(run, ice_map, error):
    """Print the table of a run on a map whose bed is given with ERRORS_M times `error`."""
    rmse_m = {}  # {group: {method: RMSE by ERRORS_M}}
    for size_m in ERRORS_M:
        wrong = ice_map | {"topg": (ice_map["topg"] + size_m * error).astype(np.float32)}
        by_method, fine, _, settings, scale = other_ice_sheets.reconstruct(run, wrong)
        true = reconstruction.coarsen_map(ice_map, scale)[0]
        known = np.isfinite(by_method["model"])
        for group, cells in group_cells(true, scale, get_densities(settings["data"])).items():
            cells &= known
            for method in METHOD_STYLES:
                rmse_m.setdefault(group, {}).setdefault(method, []).append(
                    compute_rmse_m(by_method[method][cells], fine["thk"][cells]))
    rows = [("", "", *(f"{size_m} m" for size_m in ERRORS_M))]
    for group, by_method in rmse_m.items():
        rows += [(group if method == "bicubic" else "", METHOD_STYLES[method][0],
                  *(f"{value:.1f}" for value in by_method[method])) for method in METHOD_STYLES]
        rows.append(("", "bicubic is better from", *[""] * (len(ERRORS_M) - 1),
                     find_break_even(by_method["model"], by_method["bicubic"])))
    print(f"\n{ice_map['name']}, {run}: RMSE m by RMS error of the bed", flush=True)
    command_line.print_table(rows)


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    set_up_device()
    ice_map = map_files.read_map(sys.argv[1])
    error = make_bed_error(ice_map["thk"], ice_map["spacing_m"])
    for run in sys.argv[2:]:
        print_errors(run, ice_map, error)


if __name__ == "__main__":
    command_line.run_script(main)
