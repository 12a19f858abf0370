"""Rotational symmetry of a run: its error by azimuth on a radially symmetric dome.

    python tests/benchmarks/rotational_symmetry.py RUN [RUN ...]      # half a minute a run

The dome is test C of Bueler et al. (2005, doi:10.3189/172756505781829449), a closed form, on cells
of 8 km: on a flat bed, and with the same surface on a bed with concentric ripples. It is coarsened
to cell means and reconstructed by RUN, of recipe map. Prints the RMSE [m] and the largest deviation
from it [%] among the eight octants, which are rotations and flips of each other and so the same for
a program without a preferred direction (cells on an axis or a diagonal belong to two octants and
are left out); and among the sectors around the axes and around the diagonals, which are not
equivalent on a square grid.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

from icesheet import command_line, flow_metrics
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.scores import compute_rmse_m

SPACING_M = 8000.0
CELLS = 240  # along a side, a multiple of twice the coarse cells
RIPPLES = (200.0, 60e3)  # height and wavelength [m] of the ripples of the rough bed


def dome(cells=CELLS, spacing_m=SPACING_M):
    """Return thickness [m], distance [m] and azimuth [deg] (y, x) of test C at 15208 years.

    3600 (1 - (r / 750 km)^(4/3))^(3/7) m, that is n = 3.
    """
    axis = (np.arange(cells) - (cells - 1) / 2) * spacing_m
    far_m, azimuth = np.hypot(axis[:, None], axis), np.arctan2(axis[:, None], axis)
    thk = 3600 * np.maximum(1 - (far_m / 750e3) ** (4 / 3), 0) ** (3 / 7)
    return thk, far_m, np.degrees(azimuth) % 360


def domes(thk, far_m):
    """Return the two ice sheets, {name: (thk, topg)}, (y, x) [m], above the sea, of one surface."""
    height_m, length_m = RIPPLES
    topg = 500 + height_m * np.cos(2 * np.pi * far_m / length_m)
    return {"flat": (thk, np.full(thk.shape, 500.0)),
            "rough": (np.where(thk > 0, np.maximum(500 + thk - topg, 0), 0), topg)}


def unevenness(error, near, sectors):
    """Return the largest deviation of the RMS error in a sector (bool) from that in all [%]."""
    whole = compute_rmse_m(error[near & np.any(sectors, axis=0)], 0)
    return 100 * max(abs(compute_rmse_m(error[near & sector], 0) / whole - 1) for sector in sectors)


def main():
    if len(sys.argv) < 2:
        raise InputError("expected one run or more; see the top of this file")
    set_up_device()
    thk, far_m, azimuth = dome()
    octants = [(azimuth > 45 * i + 1e-6) & (azimuth < 45 * (i + 1) - 1e-6) for i in range(8)]
    around_axes = np.abs(azimuth % 90 - 45) > 22.5
    rows = [("", "bed", "method", "RMSE m", "octants %", "axes or diagonals %")]
    for run in sys.argv[1:]:
        for bed, fields in domes(thk, far_m).items():
            by_method, fine, coarse, _, scale = other_ice_sheets.reconstruct(
                run, other_ice_sheets.make_synthetic_map(*fields, SPACING_M))
            by_method = flow_metrics.interpolation_baselines(coarse["thk"], scale) | by_method
            near = far_m < 750e3 + 8 * SPACING_M
            for method, predicted in by_method.items():
                if method in flow_metrics.METHOD_NAMES:
                    error = predicted.astype(float) - fine["thk"]
                    rows.append((run, bed, flow_metrics.METHOD_NAMES[method],
                                 f"{compute_rmse_m(error[near], 0):.2f}",
                                 f"{unevenness(error, near, octants):.3f}",
                                 f"{unevenness(error, near, [around_axes, ~around_axes]):.1f}"))
    command_line.print_table(rows)


if __name__ == "__main__":
    command_line.run_script(main)
