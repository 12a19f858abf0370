"""Whether a run prefers a direction: the error by azimuth on a dome that has none.

    python tests/benchmarks/rotational_symmetry.py RUN [RUN ...]      # half a minute a run

The dome is that of test C of Bueler et al. (2005, doi:10.3189/172756505781829449), closed form and
radially symmetric, on cells of 8 km: on a flat bed, and with the same surface on a bed that has
ripples around its middle. It is reduced to cell means and rebuilt by RUN, of recipe map. Printed:
RMSE [m], and how far that of a sector is off it at most [%]: of the eight octants, which a program
without a preferred direction leaves the same, since they are turns and flips of each other (cells
on an axis or a diagonal are of two octants and left out); and of the sectors around the axes and
around the diagonals, which no square grid leaves the same.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

from icesheet import command_line, flow_metrics
from icesheet.command_line import InputError
from icesheet.scores import compute_rmse_m

SPACING_M = 8000.0
CELLS = 240  # along a side, a multiple of twice the coarse cells
RIPPLES = (200.0, 60e3)  # height [m] and length [m] of those of the rough bed


def dome(cells=CELLS, spacing_m=SPACING_M):
    """Thickness (y, x) m of test C at its first time (15208 years), and distance, azimuth [m, deg].

    3600 (1 - (r / 750 km)^(4/3))^(3/7) m, that is n = 3.
    """
    axis = (np.arange(cells) - (cells - 1) / 2) * spacing_m
    far_m, azimuth = np.hypot(axis[:, None], axis), np.arctan2(axis[:, None], axis)
    thk = 3600 * np.maximum(1 - (far_m / 750e3) ** (4 / 3), 0) ** (3 / 7)
    return thk, far_m, np.degrees(azimuth) % 360


def domes(thk, far_m):
    """Ice and bed of the two, {name: (thk, topg)}, each (y, x) m, above the sea; of one surface."""
    height_m, length_m = RIPPLES
    topg = 500 + height_m * np.cos(2 * np.pi * far_m / length_m)
    return {"flat": (thk, np.full(thk.shape, 500.0)),
            "rough": (np.where(thk > 0, np.maximum(500 + thk - topg, 0), 0), topg)}


def unevenness(error, near, sectors):
    """How far, at most, the RMS of `error` in one of the sectors (bool) is off that in all [%]."""
    whole = compute_rmse_m(error[near & np.any(sectors, axis=0)], 0)
    return 100 * max(abs(compute_rmse_m(error[near & sector], 0) / whole - 1) for sector in sectors)


def main():
    if len(sys.argv) < 2:
        raise InputError("expected one run or more; see the top of this file")
    thk, far_m, azimuth = dome()
    octants = [(azimuth > 45 * i + 1e-6) & (azimuth < 45 * (i + 1) - 1e-6) for i in range(8)]
    around_axes = np.abs(azimuth % 90 - 45) > 22.5
    rows = [("", "bed", "method", "RMSE m", "octants %", "axes or diagonals %")]
    for run in sys.argv[1:]:
        for bed, fields in domes(thk, far_m).items():
            by_method, fine, coarse, _, scale = other_ice_sheets.hindcast(
                run, other_ice_sheets.made_map(*fields, SPACING_M))
            near = far_m < 750e3 + 8 * SPACING_M
            for method, made in (flow_metrics.interpolation_baselines(coarse["thk"], scale) | by_method).items():
                if method in flow_metrics.METHOD_NAMES:
                    error = made.astype(float) - fine["thk"]
                    rows.append((run, bed, flow_metrics.METHOD_NAMES[method],
                                 f"{compute_rmse_m(error[near], 0):.2f}",
                                 f"{unevenness(error, near, octants):.3f}",
                                 f"{unevenness(error, near, [around_axes, ~around_axes]):.1f}"))
    command_line.print_table(rows)


if __name__ == "__main__":
    command_line.run_script(main)
