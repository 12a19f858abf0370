"""How hard the map that a flow model starts from shakes it: ten years of flow, no mass balance.

    python tests/benchmarks/initialisation_shock.py MAP.nc RUN [RUN ...]          # its hindcast; 3 minutes a run
    python tests/benchmarks/initialisation_shock.py --made MAP.nc RUN [RUN ...]   # of an ice sheet made by flow

MAP.nc: the 8 km BedMachine grid. Shallow-ice model and made ice sheet ("flow, land", which takes
4 minutes by itself) are those of other_ice_sheets.py. It starts from the label, and from what each
method makes of the label's means over coarse cells, on the label's bed. Ice that floats at the
start and the sea are held as they are, since shallow ice is not for shelves; grounded ice flows out
into them. Scored are the cells that are grounded ice in the label and in all maps. Printed are
- the RMSE of the thickness there [m]
- the first time step [days] that the largest diffusivity allows. Diffusivity is then cut at
  MOST_DIFFUSIVE, where real ice slides; `cut`: at how many of the corners in grounded ice
- RMS change of thickness [m a-1] in the first 30 days, in ten years, and in the last of them, in
  brackets over the label's: 1 is a start without a shock
- own: RMS of the change in ten years less the label's, what the map does by its own error [m a-1]
PISM's manual asks for a 30-day run after a regrid, to smooth it: needed where the first 30 days
move a map more than the label.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

import utils
from icesheet import command_line, flow_metrics, map_files
from icesheet.command_line import InputError
from icesheet.scores import compute_rmse_m
from icesheet.settings import get_densities

MOST_DIFFUSIVE = 1e9  # [m2 a-1]: steps of 3 days on cells of 8 km
STOPS = (30 / 365, 9.0, 10.0)  # years at which the thickness is looked at


def relax(thk, topg, spacing_m, densities):
    """Thickness (y, x) m at each of STOPS of ice that flows from thk, and the first step and cut.

    The first step [days] is that of the uncut diffusivity where ice or land is grounded.
    """
    kind = utils.classify_cells(thk, topg, densities)
    moves = ((kind == 1) | (kind == 2))[1:-1, 1:-1]
    thk, topg = thk.astype(np.float32), topg.astype(np.float32)
    usrf = utils.surface_from_thickness(thk, topg, densities)
    free = other_ice_sheets.flow_rates(thk, usrf, spacing_m, np.inf)[1]
    step_days = 365 * other_ice_sheets.longest_step(
        free[flow_metrics.corners_inside((kind == 1) | (kind == 2))], spacing_m)
    cut = np.mean(free[flow_metrics.corners_inside(kind == 2)] > MOST_DIFFUSIVE)
    time, seen = 0.0, []
    for stop in STOPS:
        while time < stop - 1e-9:
            usrf = utils.surface_from_thickness(thk, topg, densities)
            change, diffusive = other_ice_sheets.flow_rates(thk, usrf, spacing_m, MOST_DIFFUSIVE)
            step = min(other_ice_sheets.longest_step(diffusive, spacing_m), stop - time)
            thk[1:-1, 1:-1] = np.maximum(thk[1:-1, 1:-1] + step * np.where(moves, change, 0), 0)
            time += step
        seen.append(thk.copy())
    return seen, step_days, cut


def shake(run, ice_map):
    """Print the table of a run on a map."""
    by_method, fine, coarse, settings, scale = other_ice_sheets.hindcast(run, ice_map)
    densities, topg = get_densities(settings["data"]), fine["topg"]
    by_method = flow_metrics.interpolation_baselines(coarse["thk"], scale) | by_method
    thicknesses = {"label": fine["thk"]} | {
        method: np.maximum(np.nan_to_num(by_method[method]), 0) for method in flow_metrics.METHOD_NAMES}
    grounded = np.all([utils.classify_cells(thk, topg, densities) == 2
                       for thk in thicknesses.values()], axis=0)
    print(f"\n{ice_map['name']}, {scale}x by {run}: {grounded.sum()} cells", flush=True)
    rows = [("", "RMSE m", "first step days", "cut", "30 days", "ten years", "last year", "level")]
    of_label = None
    for method, thk in thicknesses.items():
        seen, step_days, cut = relax(thk, topg, fine["spacing_m"], densities)
        changes = [(after - before)[grounded].astype(float) / years for before, after, years in (
            (thk, seen[0], STOPS[0]), (thk, seen[2], STOPS[2]), (seen[1], seen[2], 1.0))]
        of_label = of_label or changes
        rms = [(compute_rmse_m(each, 0), compute_rmse_m(label, 0))
               for each, label in zip(changes, of_label, strict=True)]
        rows.append((flow_metrics.METHOD_NAMES.get(method, method),
                     f"{compute_rmse_m(thk[grounded], fine['thk'][grounded]):.1f}",
                     f"{step_days:.3f}", f"{cut:.2%}",
                     *(f"{each:.2f} ({each / label:.1f})" for each, label in rms),
                     f"{compute_rmse_m(changes[1], of_label[1]):.2f}"))
    command_line.print_table(rows)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--made"]
    if len(arguments) < 2:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    if "--made" in sys.argv:
        ((name, spacing_m, thk, topg),) = itertools.islice(
            other_ice_sheets.make_maps(arguments[0]), 2, 3)
        ice_map = other_ice_sheets.made_map(thk, topg, spacing_m) | {"name": name}
    else:
        ice_map = map_files.read_map(arguments[0])
    for run in arguments[1:]:
        shake(run, ice_map)


if __name__ == "__main__":
    command_line.run_script(main)
