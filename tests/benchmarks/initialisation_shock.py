"""Initialisation shock of an ice-flow model that starts from each map: ten years, no mass balance.

    python tests/benchmarks/initialisation_shock.py MAP.nc RUN [RUN ...]        # 3 minutes a run
    python tests/benchmarks/initialisation_shock.py --synthetic MAP.nc RUN [RUN ...]

MAP.nc: the 8 km BedMachine grid. The shallow-ice model and the synthetic ice sheet ("flow, land",
which takes 4 minutes) are those of other_ice_sheets.py. The model starts from the reference map and
from the reconstructions of every method, on the reference's bed. Ice that floats at the start and
the sea stay as they are, since the shallow-ice approximation does not hold for shelves; grounded
ice flows into them. Scored are the cells of grounded ice in all maps. Printed are
- the RMSE of the thickness there [m]
- the initial time step [days] that the largest diffusivity allows. Diffusivity is then capped at
  MAX_DIFFUSIVITY, where real ice slides; `capped`: share of the corners in grounded ice
- RMS change of thickness [m a-1] in the first 30 days, in ten years and in the last of them, in
  brackets relative to the reference: 1 is a start without a shock
- excess drift: RMS difference of the change in ten years from that of the reference [m a-1]
PISM's manual asks for a 30-day run after regridding, to smooth the surface: needed if a map changes
more than the reference in its first 30 days.
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
from icesheet.device import set_up_device
from icesheet.scores import compute_rmse_m
from icesheet.settings import get_densities

MAX_DIFFUSIVITY = 1e9  # [m2 a-1]: steps of 3 days on cells of 8 km
STOPS = (30 / 365, 9.0, 10.0)  # times [a] at which the thickness is kept


def relax(thk, topg, spacing_m, densities):
    """Return the thickness (y, x) [m] at each of STOPS of ice that flows from thk on topg [m].

    And the initial time step [days] of the uncapped diffusivity on grounded ice and land, and the
    share of the corners in grounded ice whose diffusivity is capped.
    """
    kind = utils.classify_cells(thk, topg, densities)
    non_floating = (kind == 1) | (kind == 2)
    thk, topg = thk.astype(np.float32), topg.astype(np.float32)
    usrf = utils.surface_from_thickness(thk, topg, densities)
    uncapped = other_ice_sheets.flow_rates(thk, usrf, spacing_m, np.inf)[1]
    step_days = 365 * other_ice_sheets.longest_step(
        uncapped[flow_metrics.corners_inside(non_floating)], spacing_m)
    capped = np.mean(uncapped[flow_metrics.corners_inside(kind == 2)] > MAX_DIFFUSIVITY)
    time, kept = 0.0, []
    for stop in STOPS:
        while time < stop - 1e-9:
            usrf = utils.surface_from_thickness(thk, topg, densities)
            change, diffusivity = other_ice_sheets.flow_rates(thk, usrf, spacing_m, MAX_DIFFUSIVITY)
            step = min(other_ice_sheets.longest_step(diffusivity, spacing_m), stop - time)
            change = np.where(non_floating[1:-1, 1:-1], change, 0)
            thk[1:-1, 1:-1] = np.maximum(thk[1:-1, 1:-1] + step * change, 0)
            time += step
        kept.append(thk.copy())
    return kept, step_days, capped


def print_shock(run, ice_map):
    """Print the table of a run on a map."""
    by_method, fine, coarse, settings, scale = other_ice_sheets.reconstruct(run, ice_map)
    densities, topg = get_densities(settings["data"]), fine["topg"]
    by_method = flow_metrics.interpolation_baselines(coarse["thk"], scale) | by_method
    thicknesses = {"reference": fine["thk"]} | {
        method: np.maximum(np.nan_to_num(by_method[method]), 0)
        for method in flow_metrics.METHOD_NAMES}
    grounded = np.all([utils.classify_cells(thk, topg, densities) == 2
                       for thk in thicknesses.values()], axis=0)
    print(f"\n{ice_map['name']}, {scale}x by {run}: {grounded.sum()} cells", flush=True)
    rows = [("", "RMSE m", "initial time step days", "capped", "30 days", "ten years", "last year",
             "excess drift")]
    reference_changes = None
    for method, thk in thicknesses.items():
        kept, step_days, capped = relax(thk, topg, fine["spacing_m"], densities)
        changes = [(after - before)[grounded].astype(float) / years for before, after, years in (
            (thk, kept[0], STOPS[0]), (thk, kept[2], STOPS[2]), (kept[1], kept[2], 1.0))]
        reference_changes = reference_changes or changes
        rms = [(compute_rmse_m(change, 0), compute_rmse_m(reference, 0))
               for change, reference in zip(changes, reference_changes, strict=True)]
        rows.append((flow_metrics.METHOD_NAMES.get(method, method),
                     f"{compute_rmse_m(thk[grounded], fine['thk'][grounded]):.1f}",
                     f"{step_days:.3f}", f"{capped:.2%}",
                     *(f"{change:.2f} ({change / reference:.1f})" for change, reference in rms),
                     f"{compute_rmse_m(changes[1], reference_changes[1]):.2f}"))
    command_line.print_table(rows)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--synthetic"]
    if len(arguments) < 2:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    set_up_device()
    if "--synthetic" in sys.argv:
        ((name, spacing_m, thk, topg),) = itertools.islice(
            other_ice_sheets.make_maps(arguments[0]), 2, 3)
        ice_map = other_ice_sheets.make_synthetic_map(thk, topg, spacing_m) | {"name": name}
    else:
        ice_map = map_files.read_map(arguments[0])
    for run in arguments[1:]:
        print_shock(run, ice_map)


if __name__ == "__main__":
    command_line.run_script(main)
