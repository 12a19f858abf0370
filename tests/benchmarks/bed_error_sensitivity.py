"""What a wrong bed costs: each method's error when the bed that it is given is not the label's.

    python tests/benchmarks/bed_error_sensitivity.py MAP.nc RUN [RUN ...]      # 2 to 4 minutes a run

MAP.nc: the 8 km BedMachine grid. A hindcast has the very bed that its label was made with; beds of
users are wrong by 50 to 300 m between radar lines. Here the bed is that of the map plus a Gaussian
random field (see wrong_bed) of 0, 50, 100 and 200 m RMS under the ice, correlated over 20 km, none
at the margin. The coarse thickness stays that of the true map.
Printed: RMSE [m] over ice and 8 cells around it, of parts by what the true map has there (see
parts_of); and from which RMS of the bed's error bicubic, which sees no bed, is better than the
model, by lines between the four.
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
from icesheet.scores import METHOD_STYLES, compute_rmse_m
from icesheet.settings import get_densities

ERRORS_M = (0, 50, 100, 200)  # RMS of the bed's error
CORRELATED_M = 20e3  # distance at which the correlation of the bed's error is 1/e
SMOOTH_M = 50.0  # a bed whose standard deviation in a coarse cell is less is smooth


def bed_error(thk, spacing_m, seed=0):
    """An error of the bed under ice thk (y, x) m, of RMS 1: Gaussian, see CORRELATED_M.

    It grows from 0 at the ice's edge and beyond to its whole over CORRELATED_M.
    """
    noise = np.random.default_rng(seed).standard_normal(thk.shape)
    field = scipy.ndimage.gaussian_filter(noise, CORRELATED_M / 2 / spacing_m, mode="wrap")
    ice = utils.is_ice(thk)
    inland_m = spacing_m * (scipy.ndimage.distance_transform_edt(ice) - 1)
    field *= np.clip(inland_m / CORRELATED_M, 0, 1)
    return field / np.sqrt(np.mean(field[ice] ** 2))


def parts_of(fine, scale, densities):
    """Cells (bool) that are scored by themselves: {name: (y, x)}; fine: the true map.

    all: ice and SCORED_CELLS_AROUND_ICE cells around it; of these grounded, floating and margin as in a hindcast,
    and grounded ice whose bed is smooth or rough within its coarse cell (see SMOOTH_M).
    """
    thk, topg = fine["thk"], fine["topg"].astype(float)
    near = scipy.ndimage.distance_transform_edt(~utils.is_ice(thk)) <= reconstruction.SCORED_CELLS_AROUND_ICE
    types = utils.surface_type_masks(thk, topg, 2 * scale, densities)
    blocks = topg.reshape(len(topg) // scale, scale, -1, scale)
    smooth = np.kron(blocks.std(axis=(1, 3)) < SMOOTH_M, np.ones((scale, scale), bool))
    return {"all": near, "grounded": types["grounded"], "floating": types["floating"],
            "boundary_zone": types["boundary_zone"] & near, "smooth bed": types["grounded"] & smooth,
            "rough bed": types["grounded"] & ~smooth}


def even_at(of_model, of_bicubic):
    """Where, on lines between ERRORS_M, the model's RMSE rises to that of bicubic; a text."""
    for i, (low, high) in enumerate(zip(ERRORS_M, ERRORS_M[1:], strict=False)):
        before, after = (of_bicubic[j] - of_model[j] for j in (i, i + 1))
        if before >= 0 > after:
            return f"{low + (high - low) * before / (before - after):.0f} m"
    return "0 m" if of_model[0] > of_bicubic[0] else "none of these"


def print_errors(run, ice_map, error):
    """Print the table of a run on a map whose bed is given with ERRORS_M times `error`."""
    rmse_m = {}  # {part: {method: RMSE by ERRORS_M}}
    for size_m in ERRORS_M:
        wrong = ice_map | {"topg": (ice_map["topg"] + size_m * error).astype(np.float32)}
        by_method, fine, _, settings, scale = other_ice_sheets.hindcast(run, wrong)
        true = reconstruction.coarsen_map(ice_map, scale)[0]
        known = np.isfinite(by_method["model"])
        for part, cells in parts_of(true, scale, get_densities(settings["data"])).items():
            cells &= known
            for method in METHOD_STYLES:
                rmse_m.setdefault(part, {}).setdefault(method, []).append(
                    compute_rmse_m(by_method[method][cells], fine["thk"][cells]))
    rows = [("", "", *(f"{size_m} m" for size_m in ERRORS_M))]
    for part, of_part in rmse_m.items():
        rows += [(part if method == "bicubic" else "", METHOD_STYLES[method][0],
                  *(f"{each:.1f}" for each in of_part[method])) for method in METHOD_STYLES]
        rows.append(("", "bicubic is better from", *[""] * (len(ERRORS_M) - 1),
                     even_at(of_part["model"], of_part["bicubic"])))
    print(f"\n{ice_map['name']}, {run}: RMSE m by RMS error of the bed", flush=True)
    command_line.print_table(rows)


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    ice_map = map_files.read_map(sys.argv[1])
    error = bed_error(ice_map["thk"], ice_map["spacing_m"])
    for run in sys.argv[2:]:
        print_errors(run, ice_map, error)


if __name__ == "__main__":
    command_line.run_script(main)
