"""A coarse map and its finer bed to try downscale.py with, for a reader who has no data yet."""

import netCDF4
import numpy as np

import utils
from icesheet import files
from icesheet.map_layout import STANDARD_NAMES


def write_example_maps(sheet, factor=4):
    """Write a coarse map of an ice sheet and its fine bed to data/; return both paths.

    sheet: a map (see map_files) with thk and topg; factor: fine cells along a coarse cell. The
    coarse map holds cell means of thk and topg, as an ice-sheet model would.
    """
    ny, nx = (n // factor * factor for n in sheet["thk"].shape)
    fine = {name: sheet[name][:ny, :nx] for name in ("thk", "topg")}
    axes = {"y": sheet["y"][:ny], "x": sheet["x"][:nx]}
    coarse = {name: utils.coarsen_fields(field[None], factor, "area")[0]
              for name, field in fine.items()}
    coarse_axes = {name: axis.reshape(-1, factor).mean(axis=1) for name, axis in axes.items()}
    fine_km = sheet["spacing_m"] / 1000
    return [write_fields(files.DATA / f"example_{factor * fine_km:g}km.nc", coarse_axes, coarse,
                         sheet["title"]),
            write_fields(files.DATA / f"example_bed_{fine_km:g}km.nc", axes,
                         {"topg": fine["topg"]}, sheet["title"])]


def write_fields(path, axes, fields, title):
    """Write fields {name: (y, x) [m]} on axes {"y", "x"} [m] to a NetCDF file; return its path."""
    with files.atomic_write(path) as temporary, files.explain_write_errors(path), \
            netCDF4.Dataset(temporary, "w") as ds:
        ds.setncatts({"Conventions": "CF-1.8", "title": title, "synthetic": "yes",
                      "history": files.history_entry()})
        for name, axis in axes.items():
            ds.createDimension(name, len(axis))
        for name, values in (axes | fields).items():
            dims = (name,) if name in axes else ("y", "x")
            variable = ds.createVariable(name, np.float64 if name in axes else np.float32, dims,
                                         zlib=name in fields)
            variable[...] = values
            variable.setncatts({"units": "m", "standard_name": STANDARD_NAMES[name]})
    return path
