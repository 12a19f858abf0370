"""What runs are worth on ice sheets that are not Antarctica: made from its map, rebuilt, scored.

    python tests/benchmarks/other_ice_sheets.py MAP.nc RUN [RUN ...]       # about 6 minutes and on

MAP.nc: the 8 km BedMachine grid (another map with thk and topg gives other figures). RUN: of one
scale, which the first columns are of. Four maps are made from it, every one with wide ice-free
land, which Antarctica has not:
- thinned: 1000 m less ice on a bed 1000 m higher, ice that would float has calved
- mountain: 1500 m less on a bed 2000 m higher, then all heights a quarter, as of cells of 1 km
- flow, land: what an ice-flow model leaves of East Antarctica on its bed risen without the ice,
  where snow stays above 2300 m
- flow, icefield: the same on a bed 0.6 times as high, of 1 km cells, after 400 years
The flow model is the shallow-ice approximation (Mahaffy 1976, doi:10.1029/JC081i006p01059) with the
rate factor of EISMINT (Huybrechts et al. 1996). Its ice has the surface that its bed makes it have;
the first two keep the surface of the ice that is gone.
Printed: RMSE [m] over ice and 8 cells around it; in brackets, over the consistent surface base's;
and how many cells the 90 % intervals of a calibrated run cover.
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import downscale
import utils
from icesheet import command_line, flow_metrics, map_files, reconstruction
from icesheet.command_line import InputError
from icesheet.scores import METHOD_STYLES

RATE_FACTOR = 1e-16  # Glen's A [Pa-3 a-1]
MOST_DIFFUSIVE = 3e7  # [m2 a-1], keeps steps from getting tiny over cliffs of the first years


def thinned(thk, topg, less_m, rise_m, size=1.0):
    """thk, topg (y, x) m with less ice on a higher bed, none afloat; all heights times size."""
    topg = topg + rise_m
    thk = np.maximum(thk - less_m, 0)
    thk[~utils.is_ice(thk) | utils.is_floating(thk, topg)] = 0
    return size * thk, size * topg


def flow_rates(thk, usrf, spacing_m, most_diffusive=MOST_DIFFUSIVE):
    """What ice flow does to the inner cells of thk with surface usrf (y, x) m, and to the step.

    Returns the change of their thickness [m a-1] and the diffusivity at corners [m2 a-1], which is
    taken for most_diffusive where it is more.
    """
    factor = 2 * RATE_FACTOR * (utils.RHO_ICE * 9.81) ** 3 / 5
    slope_x, slope_y = (np.diff(usrf, axis=axis) / spacing_m for axis in (1, 0))
    along_x, along_y = (slope_x[1:] + slope_x[:-1]) / 2, (slope_y[:, 1:] + slope_y[:, :-1]) / 2
    corner = (thk[1:, 1:] + thk[:-1, 1:] + thk[1:, :-1] + thk[:-1, :-1]) / 4
    diffusive = np.minimum(factor * corner**5 * (along_x**2 + along_y**2), most_diffusive)
    flux_x = (diffusive[1:] + diffusive[:-1]) / 2 * slope_x[1:-1]
    flux_y = (diffusive[:, 1:] + diffusive[:, :-1]) / 2 * slope_y[:, 1:-1]
    return (np.diff(flux_x, axis=1) + np.diff(flux_y, axis=0)) / spacing_m, diffusive


def longest_step(diffusive, spacing_m):
    """Time step [a] that an explicit scheme takes with these diffusivities [m2 a-1]."""
    return spacing_m**2 / (8 * max(diffusive.max(), 100))


def flow(thk, topg, spacing_m, years, snowline_m, most_snow, gradient):
    """Ice thickness (y, x) m that an ice sheet has after `years` from thk on the bed topg [m].

    Surface mass balance: gradient [a-1] times the height above the snow line, from -4 to most_snow
    [m a-1]. Explicit steps; ice that floats is taken away.
    """
    thk, topg = thk.astype(np.float32), topg.astype(np.float32)
    time, steps = 0.0, 0
    while time < years:
        usrf = topg + thk
        change, diffusive = flow_rates(thk, usrf, spacing_m)
        step = min(longest_step(diffusive, spacing_m), 5.0)
        change += np.clip(gradient * (usrf[1:-1, 1:-1] - snowline_m), -4, most_snow)
        thk[1:-1, 1:-1] = np.maximum(thk[1:-1, 1:-1] + step * change, 0)
        if steps % 20 == 0:
            thk[utils.is_floating(thk, topg)] = 0
        time, steps = time + step, steps + 1
    return np.where(thk < 1, 0, thk)


def make_maps(path):
    """The four maps of a map file: yields name, spacing [m], thk and topg (y, x) m."""
    ice_map = map_files.read_map(path)
    thk, topg = ice_map["thk"], ice_map["topg"]
    yield "thin_ice_share", 8000.0, *thinned(thk, topg, 1000, 1000)
    yield "mountain", 1000.0, *thinned(thk, topg, 1500, 2000, 0.25)
    part = slice(200, 560), slice(400, 760)
    bare = topg[part] + utils.RHO_ICE / 3300 * thk[part] + 200  # risen as far as mantle lets it
    less = np.maximum(thk[part] - 800, 0)
    yield "flow, land", 8000.0, flow_metrics(less, bare, 8000.0, 20000, 2300, 0.1, 0.006), bare
    bare = 0.6 * (bare + 1000)
    yield ("flow, icefield", 1000.0,
           flow_metrics(0.6 * less, bare, 1000.0, 400, 2000, 1.0, 0.006), bare)


def hindcast(run, ice_map):
    """A map in memory rebuilt by a run, without a word: of downscale.reconstruct, coarsen, open_run.

    Returns {method: (y, x) m}, the fine and the coarse map, the settings and the scale.
    """
    settings, scale, chain = downscale.open_run(run)
    fine, coarse = reconstruction.coarsen_map(ice_map, scale)
    with contextlib.redirect_stdout(io.StringIO()):  # no progress
        by_method = downscale.reconstruct(chain, fine, coarse, settings, scale)
    return by_method, fine, coarse, settings, scale


def made_map(thk, topg, spacing_m):
    """A map (see maps) of fields (y, x) m."""
    y, x = (spacing_m * np.arange(n) for n in thk.shape)
    return map_files.make_map(x, y, thk, topg.astype(np.float32))


def score(run, thk, topg, spacing_m):
    """RMSE [m] of every method in a hindcast of a map in memory, {method: compute_rmse_m}, and the scores
    of the intervals, see uncertainty.score_intervals; None of a run that was not calibrated.
    """
    scores = reconstruction.score_reconstruction(*hindcast(run, made_map(thk, topg, spacing_m)))
    intervals = scores.get("uncertainty", {"by_surface_type": {"all": None}})["by_surface_type"]["all"]
    rmse_m = {method: errors["rmse_m"] for method, errors in scores["all"]["errors"].items()}
    return rmse_m, intervals


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
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
