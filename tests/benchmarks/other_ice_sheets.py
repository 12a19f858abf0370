"""Test runs on ice sheets that are not Antarctica: four synthetic ones, derived from its map.

    python tests/benchmarks/other_ice_sheets.py MAP.nc RUN [RUN ...]       # 6 minutes and more

MAP.nc: the 8 km BedMachine grid (another map with thk and topg gives other numbers). RUN: runs of
one scale, map:4 for a run of several. All four ice sheets have large ice-free areas, which
Antarctica has not:
- thinned: 1000 m less ice on a bed 1000 m higher, without the ice that would float
- mountain: 1500 m less ice on a bed 2000 m higher, then all heights a quarter, on cells of 1 km
- flow, land: from an ice-flow model of East Antarctica on its isostatically rebounded bed, with a
  snow line at 2300 m
- flow, icefield: the same on a bed 0.6 times as high, on cells of 1 km, after 400 years
The flow model is the shallow-ice approximation (Mahaffy 1976, doi:10.1029/JC081i006p01059) with the
rate factor of EISMINT (Huybrechts et al. 1996). The surface of its ice is in balance with the bed;
the first two keep the surface of the thicker ice.
Prints RMSE [m] over ice and 8 cells around it; in brackets, relative to the consistent
surface-minus-bed estimate; and the coverage of the 90 % intervals of a calibrated run.
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import downscale
import utils
from icesheet import command_line, map_files, reconstruction
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.scores import METHOD_STYLES

RATE_FACTOR = 1e-16  # Glen's A [Pa-3 a-1]
MAX_DIFFUSIVITY = 3e7  # [m2 a-1]: keeps time steps from getting tiny over the first cliffs


def thinned(thk, topg, less_m, rise_m, size=1.0):
    """Return thk, topg (y, x) [m] with less ice on a higher bed, none afloat; all times size."""
    topg = topg + rise_m
    thk = np.maximum(thk - less_m, 0)
    thk[~utils.is_ice(thk) | utils.is_floating(thk, topg)] = 0
    return size * thk, size * topg


def flow_rates(thk, usrf, spacing_m, max_diffusivity=MAX_DIFFUSIVITY):
    """Return what ice flow does to ice of thickness thk and surface usrf (y, x) [m].

    Thickness change of the inner cells [m a-1], and diffusivity at their corners [m2 a-1], capped
    at max_diffusivity.
    """
    factor = 2 * RATE_FACTOR * (utils.RHO_ICE * 9.81) ** 3 / 5
    slope_x, slope_y = (np.diff(usrf, axis=axis) / spacing_m for axis in (1, 0))
    along_x, along_y = (slope_x[1:] + slope_x[:-1]) / 2, (slope_y[:, 1:] + slope_y[:, :-1]) / 2
    corner = (thk[1:, 1:] + thk[:-1, 1:] + thk[1:, :-1] + thk[:-1, :-1]) / 4
    diffusivity = np.minimum(factor * corner**5 * (along_x**2 + along_y**2), max_diffusivity)
    flux_x = (diffusivity[1:] + diffusivity[:-1]) / 2 * slope_x[1:-1]
    flux_y = (diffusivity[:, 1:] + diffusivity[:, :-1]) / 2 * slope_y[:, 1:-1]
    return (np.diff(flux_x, axis=1) + np.diff(flux_y, axis=0)) / spacing_m, diffusivity


def longest_step(diffusivity, spacing_m):
    """Return the time step [a] of an explicit scheme with these diffusivities [m2 a-1]."""
    return spacing_m**2 / (8 * max(diffusivity.max(), 100))


def simulate_flow(thk, topg, spacing_m, years, snowline_m, max_snow, gradient):
    """Return the ice thickness (y, x) [m] after `years` of flow from thk on the bed topg [m].

    Surface mass balance: gradient [a-1] times the height above the snow line, from -4 to max_snow
    [m a-1]. Explicit steps; floating ice is removed.
    """
    thk, topg = thk.astype(np.float32), topg.astype(np.float32)
    time, steps = 0.0, 0
    while time < years:
        usrf = topg + thk
        change, diffusivity = flow_rates(thk, usrf, spacing_m)
        step = min(longest_step(diffusivity, spacing_m), 5.0)
        change += np.clip(gradient * (usrf[1:-1, 1:-1] - snowline_m), -4, max_snow)
        thk[1:-1, 1:-1] = np.maximum(thk[1:-1, 1:-1] + step * change, 0)
        if steps % 20 == 0:
            thk[utils.is_floating(thk, topg)] = 0
        time, steps = time + step, steps + 1
    return np.where(thk < 1, 0, thk)


def make_maps(path):
    """Yield name, spacing [m], thk and topg (y, x) [m] of the four ice sheets."""
    ice_map = map_files.read_map(path)
    thk, topg = ice_map["thk"], ice_map["topg"]
    yield "thinned", 8000.0, *thinned(thk, topg, 1000, 1000)
    yield "mountain", 1000.0, *thinned(thk, topg, 1500, 2000, 0.25)
    east = slice(200, 560), slice(400, 760)  # East Antarctica
    bed = topg[east] + utils.RHO_ICE / 3300 * thk[east] + 200  # isostatic rebound
    start = np.maximum(thk[east] - 800, 0)
    yield "flow, land", 8000.0, simulate_flow(start, bed, 8000.0, 20000, 2300, 0.1, 0.006), bed
    bed = 0.6 * (bed + 1000)
    yield ("flow, icefield", 1000.0,
           simulate_flow(0.6 * start, bed, 1000.0, 400, 2000, 1.0, 0.006), bed)


def split_run(text):
    """Return a run and a scale, (name, None) without: of `map:4`, a run of several scales at 4x."""
    run, _, scale = text.partition(":")
    return run, int(scale) if scale else None


def reconstruct(run, ice_map):
    """Coarsen a map in memory and reconstruct it with a run, without progress on screen.

    Returns {method: (y, x) [m]}, the fine and the coarse map, the settings and the scale.
    """
    settings, scale, chain, _ = downscale.open_run(*split_run(run))
    fine, coarse = reconstruction.coarsen_map(ice_map, scale)
    with contextlib.redirect_stdout(io.StringIO()):
        by_method = downscale.reconstruct(chain, fine, coarse, settings, scale)
    return by_method, fine, coarse, settings, scale


def make_synthetic_map(thk, topg, spacing_m):
    """Return a map (see map_files.make_map) of fields (y, x) [m]."""
    y, x = (spacing_m * np.arange(n) for n in thk.shape)
    return map_files.make_map(x, y, thk, topg.astype(np.float32))


def score(run, thk, topg, spacing_m):
    """Return the RMSE of a reconstruction, {method: m}, and uncertainty.score_intervals or None."""
    ice_map = make_synthetic_map(thk, topg, spacing_m)
    scores = reconstruction.score_reconstruction(*reconstruct(run, ice_map))
    intervals = scores["uncertainty"]["by_surface_type"]["all"] if "uncertainty" in scores else None
    rmse_m = {method: errors["rmse_m"] for method, errors in scores["all"]["errors"].items()}
    return rmse_m, intervals


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    set_up_device()
    runs, others = sys.argv[2:], [method for method in METHOD_STYLES if method != "model"]
    rows = [("", *(METHOD_STYLES[method][0] for method in others), *runs)]
    for name, spacing_m, thk, topg in make_maps(sys.argv[1]):
        cells = []
        for run in runs:
            rmse_m, intervals = score(run, thk, topg, spacing_m)
            share = rmse_m["model"] / rmse_m["surface_minus_bed_consistent"]
            cells.append(f"{rmse_m['model']:.1f} ({share:.3f})" + (
                f", 90 % in {intervals['coverage']['0.9']:.1%}" if intervals else ""))
        rows.append((name, *(f"{rmse_m[method]:.1f}" for method in others), *cells))
        print(f"{name}: done", flush=True)
    command_line.print_table(rows)


if __name__ == "__main__":
    command_line.run_script(main)
