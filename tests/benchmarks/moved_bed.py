"""A state whose bed has moved: what is aground with and without --reference-bed.

    python tests/benchmarks/moved_bed.py MAP.nc [RUN]    # the 8 km BedMachine grid: 3 minutes

Two made states. sunk: the bed of MAP.nc lies lower by 0.27 of its thickness, smoothed (a Gaussian
of 75 km); thickness as it is. grown: 600 m more ice at the margins, on shallow sea beds too, the
bed lower by 0.27 of that, smoothed, and the sea level 120 m lower. A state is averaged over coarse
cells and refined with the bed of MAP.nc, with and without the averaged bed of MAP.nc as reference,
and with its own fine bed. Prints the share of ice cells with another type than with the latter, and
than in the state itself, the error of the grounded area, and the RMSE of the thickness on ice.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import netCDF4
import numpy as np
import scipy.ndimage

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 2)]  # benchmarks, scripts

import other_ice_sheets

import downscale
import utils
from icesheet import checkpoints, command_line, example, files, map_files
from icesheet.device import set_up_device

SINKING = 0.27  # of the thickness: density of ice over that of the mantle
SMOOTHING_M = 75e3


def make_states(ice_map):
    """Return {name: (thk, topg (y, x) [m], sea level [m])} of the made states."""
    def sink(load):
        return ice_map["topg"] - SINKING * scipy.ndimage.gaussian_filter(
            load, SMOOTHING_M / ice_map["spacing_m"])

    thk, topg = ice_map["thk"].astype(float), ice_map["topg"]
    inside = utils.is_ice(thk) | (topg > -700)
    inland_m = ice_map["spacing_m"] * scipy.ndimage.distance_transform_edt(
        utils.classify_cells(thk, topg) == 2)
    growth = np.where(inside, 600 * np.exp(-inland_m / 300e3), 0)
    return {"sunk": (thk, sink(thk), 0), "grown": (thk + growth, sink(growth), -120)}


def compare(state, ice_map, run, scale):
    """Print how a state is refined with the three beds; it is averaged over coarse cells first."""
    thk, topg, sea_level_m = state
    axes = {name: ice_map[name] for name in "yx"}
    coarse_axes = {name: axis.reshape(-1, scale).mean(axis=1) for name, axis in axes.items()}

    def write(name, **fields):
        fields = {key: utils.coarsen_fields(field[None], scale, "area")[0]
                  for key, field in fields.items()}
        example.write_fields(Path(name), coarse_axes, fields, "made")

    write("state.nc", thk=thk, topg=topg)
    write("reference.nc", topg=ice_map["topg"])
    example.write_fields(Path("own.nc"), axes, {"topg": topg}, "made")
    example.write_fields(Path("today.nc"), axes, {"topg": ice_map["topg"]}, "made")
    types, made = {}, {}
    for name, bed, reference in (("its own fine bed", "own.nc", None),
                                 ("--reference-bed", "today.nc", ("reference.nc", 0)),
                                 ("no reference", "today.nc", None)):
        downscale.downscale_map(run, "state.nc", f"{name}.nc", bed, scale, reference=reference,
                                options={"sea_level_m": sea_level_m})
        with netCDF4.Dataset(f"{name}.nc") as ds:
            types[name], made[name] = ds["mask"][...], ds["thk"][...]
    true = utils.classify_cells(thk, topg - sea_level_m)
    ice, own = true >= 2, types["its own fine bed"]
    rows = [("bed", "other type than own %", "than the state %", "grounded area %", "RMSE m")]
    for name, kind in types.items():
        rows.append((name, *(f"{100 * np.mean((kind != other)[ice]):.2f}" for other in (own, true)),
                     f"{100 * ((kind == 2).sum() / (true == 2).sum() - 1):+.2f}",
                     f"{np.sqrt(np.mean((made[name] - thk)[ice]**2)):.1f}"))
    command_line.print_table(rows)


def main():
    run, scale = other_ice_sheets.split_run(sys.argv[2] if len(sys.argv) > 2 else "map:4")
    set_up_device()
    ice_map = map_files.read_map(sys.argv[1])
    files.choose_checkpoints(run)
    files.CHECKPOINTS = files.CHECKPOINTS.resolve()
    scale = scale or checkpoints.read_settings(run)["scale"]
    ny, nx = (n // scale * scale for n in ice_map["thk"].shape)
    ice_map |= {"x": ice_map["x"][:nx], "y": ice_map["y"][:ny]} | {
        name: ice_map[name][:ny, :nx] for name in ("thk", "topg")}
    for name, state in make_states(ice_map).items():
        print(f"\n{name}", flush=True)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            compare(state, ice_map, run, scale)


if __name__ == "__main__":
    command_line.run_script(main)
