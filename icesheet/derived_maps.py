"""Files that are computed from finer maps: their axes, their fields, whether they are current."""

import contextlib
from pathlib import Path

import netCDF4
import numpy as np

import utils
from icesheet import map_files
from icesheet.command_line import InputError

COPIED_DIMENSIONS = ("time", "nv", "y", "x")
COPIED_VARIABLES = ("time", "time_bnds", "y", "x", "crs")


def open_fine_map(path):
    """Open a finer map that downscale.py wrote, for reading; InputError if it is another file.

    Values are read as they are: NaN, or -1 in the mask, where nothing is known.
    """
    ds = map_files.open_netcdf(path)
    ds.set_auto_mask(False)
    if "model_run" not in ds.ncattrs() or not {"x", "y", "thk"} <= ds.variables.keys():
        ds.close()
        raise InputError(f"{path}: not a finer map of downscale.py (no thk, x, y and attribute "
                         "model_run); give the file of its --output")
    return ds


def create_file(path, fine, variables, attributes, scale=1):
    """Return an open netCDF4.Dataset on the cells of a finer map, without data.

    fine: the open finer map, whose axes, times and projection are copied
    variables: {name: (variable of the finer map it comes from, attributes)}, those of variables
      that the finer map does not have are left out
    attributes: global ones; scale: fine cells in a cell of the file, along an axis
    """
    ds = netCDF4.Dataset(path, "w")
    ds.setncatts({"Conventions": "CF-1.8"} | attributes)
    cells = {"x": scale, "y": scale}
    for name, dim in fine.dimensions.items():
        if name in COPIED_DIMENSIONS:
            ds.createDimension(name, None if dim.isunlimited() else
                               dim.size // cells.get(name, 1))
    for name in [name for name in COPIED_VARIABLES if name in fine.variables]:
        source = fine[name]
        ds.createVariable(name, source.dtype, source.dimensions, fletcher32=source.ndim > 0)
        ds[name].setncatts(source.__dict__)
        values = source[...]
        ds[name][...] = values.reshape(-1, scale).mean(axis=1) if name in cells else values
    for name, (source, variable_attributes) in variables.items():
        if source in fine.variables:
            source = fine[source]
            chunks = source.chunking() if scale == 1 else None
            ds.createVariable(name, "f4", source.dimensions, zlib=True, complevel=4, shuffle=True,
                              fletcher32=True, chunksizes=chunks, fill_value=np.float32(np.nan))
            ds[name].setncatts(variable_attributes | (
                {"grid_mapping": "crs"} if "crs" in fine.variables else {}))
    return ds


def list_times(fine):
    """List the time indices of a finer map; [0] if it has no time axis."""
    return range(len(fine.dimensions["time"]) if "time" in fine.dimensions else 1)


def index_part(variable, time_index, rows, columns=slice(None)):
    """Return the index of a part of a variable at a time, whether it has a time axis or not."""
    return (time_index, rows, columns) if "time" in variable.dimensions else (rows, columns)


def locate_ice(thk, mask=None):
    """Return where there is ice, grounded ice, floating ice: {name: (y, x)}, 1, 0 or NaN (unknown).

    Names are sftgif and, with a mask, sftgrf and sftflf.
    thk: (y, x) [m]; mask: of utils.classify_cells, -1 where the bed is unknown, where ice is
      neither grounded nor floating
    """
    located = {"sftgif": np.where(np.isnan(thk), np.nan, utils.is_ice(thk))}
    if mask is not None:
        unknown = np.isnan(thk) | utils.is_ice(thk) & (mask == -1)
        located |= {"sftgrf": np.where(unknown, np.nan, mask == 2),
                    "sftflf": np.where(unknown, np.nan, mask == 3)}
    return located


def is_up_to_date(path, attributes):
    """Return whether a file is whole and has these attributes, the checksums of what made it."""
    if not Path(path).exists():
        return False
    with contextlib.suppress(InputError, OSError, RuntimeError), map_files.open_netcdf(path) as ds:
        if any(getattr(ds, name, None) != value for name, value in attributes.items()):
            return False
        map_files.read_every_chunk(ds)
        return True
    return False
