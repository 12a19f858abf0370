"""icesheet.fine_map."""

import contextlib
from pathlib import Path

import netCDF4
import numpy as np

import utils
from icesheet import beds, files, map_files, map_layout
from icesheet.command_line import InputError

# Fields of a finer map: NetCDF type and attributes.
OUTPUT_VARIABLES = {
    "thk": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["thk"],
                   "long_name": "ice thickness"}),
    "thk_uncertainty": ("f4", {"units": "m",
                               "long_name": "half-width of the 90 % interval of thk"}),
    "topg": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["topg"],
                    "long_name": "bed elevation"}),
    "usrf": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["usrf"],
                    "long_name": "upper surface elevation, from thk and topg by flotation"}),
    "mask": ("i1", {"flag_values": np.arange(len(utils.CELL_TYPES), dtype=np.int8),
                    "flag_meanings": " ".join(utils.CELL_TYPES), "long_name": "type of the cell",
                    "comment": f"ice where thk > {utils.MIN_ICE_THICKNESS_M:g} m, floating where its "
                               "weight does not ground it (see the attribute densities)"}),
}


def create_output_file(path, axes, crs, names, chunk, attributes, time_axis=None, moving=()):
    """An open netCDF4.Dataset for a CF-1.8 map, to be filled part by part.

    axes: {"y", "x"} [m], in the order of the file; crs: attributes of the grid mapping, {} if
    unknown; names: fields of OUTPUT_VARIABLES, (y, x) each; chunk: side of the compressed chunks in cells;
    attributes: global ones. time_axis: values, attributes and bounds (or None) of the records of
    the fields `moving`, along an unlimited axis; None: one record, without an axis.
    """
    ds = netCDF4.Dataset(path, "w")
    ds.setncatts({"Conventions": "CF-1.8"} | attributes)
    if time_axis:
        ds.createDimension("time", None)
        ds.createVariable("time", "f8", ("time",)).setncatts({"axis": "T"} | time_axis[1])
        if time_axis[2] is not None:
            ds["time"].bounds = "time_bnds"
            ds.createDimension("nv", 2)
            ds.createVariable("time_bnds", "f8", ("time", "nv"))
    for name, axis in axes.items():
        ds.createDimension(name, len(axis))
        ds.createVariable(name, "f8", (name,))[...] = axis
        ds[name].setncatts({"units": "m", "axis": name.upper(),
                            "standard_name": map_layout.STANDARD_NAMES[name],
                            "long_name": f"{name} coordinate of cell centre"})
    if crs:
        ds.createVariable("crs", "i4").setncatts(crs)
    sides = tuple(min(chunk, len(axes[name])) for name in "yx")
    for name in names:
        kind, about = OUTPUT_VARIABLES[name]
        fill = np.float32(np.nan) if kind == "f4" else np.int8(-1)
        along = ("time",) if time_axis and name in moving else ()
        ds.createVariable(name, kind, (*along, "y", "x"), zlib=True, complevel=4, shuffle=True,
                          chunksizes=(1,) * len(along) + sides, fill_value=fill)
        ds[name].setncatts(about | ({"grid_mapping": "crs"} if crs else {}))
    return ds


def write_tiles(path, records, first, bed, crs, scale, chunk, attributes, densities,
                   time_axis=None, strip=slice(None)):
    """Write the tiles of refine to a map file, at `path` only when it is whole.

    records: pairs (map, its tiles) of every record; first: the first map; bed: its bed or None;
    strip: the fine rows that the tiles are of; else as in create_output_file. The axes run as in the
    file of the map. Returns two texts, "" for nothing: how far the bed is from the map's own, and
    what is lost where the bed is missing.
    """
    axes = {name: utils.refine_axis(first[name], scale)[part][::step]
            for name, part, step in zip("yx", (strip, slice(None)), first["flips"], strict=True)}
    names = [name for name in OUTPUT_VARIABLES if (bed or name.startswith("thk"))
             and (attributes["uncertainty"] or name != "thk_uncertainty")]
    moves = first["topg_change"] is not None or (bed and bed["path"] == first["path"])
    moving = [name for name in names if name != "topg" or moves]
    is_other = bed and bed["path"] != first["path"] and first["topg"] is not None
    means, n_lost, volumes = np.full(first["thk"].shape, np.nan), 0, np.zeros(2)
    with files.atomic_write(path) as temporary:
        with files.explain_write_errors(path):
            ds = create_output_file(temporary, axes, crs, names, chunk, attributes, time_axis,
                                       moving)
            if attributes["uncertainty"]:
                ds["thk"].ancillary_variables = "thk_uncertainty"
                ds["thk_uncertainty"].comment = attributes["uncertainty"]
        try:
            for record, (ice_map, tiles) in enumerate(records):
                if time_axis:
                    with files.explain_write_errors(path):
                        ds["time"][record] = time_axis[0][record]
                        if time_axis[2] is not None:
                            ds["time_bnds"][record] = time_axis[2][record]
                volumes[1] += ice_map["thk"].sum(dtype=float)
                for rows, columns, thickness, topg in tiles:
                    thk = thickness["model"]
                    fields = {"thk": thk} | {f"thk_{name}": field for name, field
                                             in thickness.items() if name == "uncertainty"}
                    if bed:
                        fields |= {"usrf": utils.surface_from_thickness(thk, topg, densities),
                                   "mask": utils.classify_cells(thk, topg, densities)}
                        if moves or record == 0:
                            fields["topg"] = topg
                    start = strip.start or 0
                    own = slice(rows.start - start, rows.stop - start)
                    parts = [part if step == 1 else slice(len(axis) - part.stop,
                                                          len(axis) - part.start)
                             for part, step, axis in zip((own, columns), first["flips"],
                                                         axes.values(), strict=True)]
                    with files.explain_write_errors(path):
                        for name, field in fields.items():
                            index = (record, *parts) if "time" in ds[name].dimensions else parts
                            ds[name][tuple(index)] = field[::first["flips"][0], ::first["flips"][1]]
                    coarse = tuple(slice(part.start // scale, part.stop // scale)
                                   for part in (rows, columns))
                    lost = np.isnan(thk[::scale, ::scale]) & utils.is_ice(ice_map["thk"][coarse])
                    n_lost += int(lost.sum())
                    volumes[0] += ice_map["thk"][coarse][lost].sum(dtype=float)
                    if is_other and record == 0:
                        means[coarse] = utils.coarsen_fields(topg[None], scale, "area")[0]
            texts = [beds.describe_bed_difference(first, means, bed) if is_other else "", ""]
            if n_lost:
                texts[1] = (f"{n_lost} ice cells of the coarse map, "
                            f"{100 * volumes[0] / volumes[1]:.2f} % of its volume, are missing: "
                            "the bed is not known all over them")
            with files.explain_write_errors(path):
                ds.comment = "; ".join(filter(None, [ds.comment, *texts]))
        finally:
            with files.explain_write_errors(path):
                ds.close()
    return texts


def is_up_to_date(path, attributes):
    """Whether the file `path` is there, which means whole, and says that all was the same."""
    if not Path(path).exists():
        return False
    with contextlib.suppress(InputError), map_files.open_netcdf(path) as ds:  # another file
        return all(getattr(ds, name, None) == value for name, value in attributes.items()
                   if name not in ("history", "comment", "model_scores"))
    return False
