"""The file of a finer map: CF-1.8 NetCDF, written tile by tile. Another file layout starts here."""

import contextlib
import itertools
import json
from pathlib import Path

import netCDF4
import numpy as np

import utils
from icesheet import (
    beds, checkpoints, files, ice_numbers, map_files, map_layout, projections, tiles, uncertainty)
from icesheet.command_line import InputError
from icesheet.settings import get_densities

# Variables of a finer map: NetCDF type and attributes.
OUTPUT_VARIABLES = {
    "thk": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["thk"],
                   "long_name": "ice thickness"}),
    "thk_uncertainty": ("f4", {
        "units": "m", "long_name": "half-width of the 90 % prediction interval of thk"}),
    "thk_member": ("f4", {
        "units": "m", "standard_name": map_layout.STANDARD_NAMES["thk"],
        "long_name": "realization of the ice thickness",
        "comment": "drawn around thk, as uncertain as thk_uncertainty says, with errors that are "
                   "correlated in space and the same at all times; its mean over each coarse cell "
                   "equals the input thickness (global attributes members and member_seed)"}),
    "thk_source": ("i1", {
        "flag_values": np.arange(len(tiles.THK_SOURCES), dtype=np.int8),
        "flag_meanings": " ".join(tiles.THK_SOURCES), "long_name": "what thk is computed from",
        "comment": "network_on_own_bed: the network, with the coarse map's own bed, interpolated, "
                   "where the bed has a gap; bicubic: interpolated thickness without a bed, scaled "
                   "to the coarse thickness, without uncertainty; no_ice: no ice in the coarse "
                   "cell; filled: 0 where nothing is known"}),
    "topg": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["topg"],
                    "long_name": "bed elevation"}),
    "usrf": ("f4", {"units": "m", "standard_name": map_layout.STANDARD_NAMES["usrf"],
                    "long_name": "upper surface elevation, from thk and topg by flotation"}),
    "mask": ("i1", {
        "flag_values": np.arange(len(utils.CELL_TYPES), dtype=np.int8),
        "flag_meanings": " ".join(utils.CELL_TYPES), "long_name": "type of the cell",
        "comment": f"ice: thk > {utils.MIN_ICE_THICKNESS_M:g} m; floating: thinner than flotation "
                   "thickness (global attributes densities and sea_level_m)"}),
}


def choose_crs_and_note(ice_map, bed):
    """Return the grid mapping of the output, and notes on it and on the bed, which are printed."""
    crs, note = projections.choose_crs(ice_map, bed)
    notes = [note] if note else []
    notes += beds.describe_bed_change(ice_map, bed)
    if bed and bed["spacing_m"] > 0.999 * ice_map["spacing_m"]:
        notes.append(f"warning: the bed in {bed['name']} ({bed['spacing_m'] / 1000:g} km) is not "
                     "finer than the map; little detail will be added")
    for note in notes:
        print(note)
    return crs, notes


def make_provenance(settings, ice_map, bed, scale, weights_sha256):
    """Return what a result of a whole map was made from, for JSON."""
    bed_provenance = {f"bed{suffix}": bed[key] for suffix, key in (
        ("", "name"), ("_sha256", "sha256"), ("_time_label", "time_label"))} if bed else {}
    if bed and bed["reference"]:
        bed_provenance |= {f"reference_bed{suffix}": bed["reference"][key] for suffix, key in (
            ("", "name"), ("_sha256", "sha256"), ("_time_label", "time_label"))}
    return {"run": settings["run"], "scale": scale, "degrade": "area", "map": ice_map["name"],
            "map_sha256": ice_map["sha256"], "time_label": ice_map["time_label"], **bed_provenance,
            "sea_level_m": ice_map["sea_level_m"],
            "citation": ice_map["citation"], "synthetic": ice_map["synthetic"],
            "weights_sha256": weights_sha256, "settings": settings}


def result_stem(run, kind, path, ice_map, bed, scale):
    """Return the path of a result without suffix; checksums tell maps of one name apart."""
    time_text = "" if ice_map["time_index"] is None else f"_time{ice_map['time_index']}"
    checksums = dict.fromkeys(source["sha256"][:8] for source in (
        ice_map, bed, bed and bed["reference"]) if source)
    name = f"{kind}_{Path(path).stem}{time_text}_x{scale}_{'_'.join(checksums)}"
    return files.RESULTS / run / name


def make_attributes(ice_map, bed, settings, effective, scale, strip, fill_missing, weights_sha256,
                    notes):
    """Return the global attributes of a finer map; bed: None without one.

    settings: of the run, as they are; effective: with the densities and the ensemble that are used.
    """
    run, sources = settings["run"], [source for source in (ice_map, bed) if source]
    names = [source["name"] + (f" ({source['time_label']})" if source["time_label"] else "")
             for source in sources]
    trained_on = settings["data"]["source"]
    reference = bed and bed["reference"] or dict.fromkeys(("name", "time_label", "sha256"), "")
    return {
        "title": f"{ice_map['title'] or ice_map['name']}, ice thickness downscaled {scale}x to "
                 f"{ice_map['spacing_m'] / scale:g} m",
        "history": files.history_entry(),
        "source": f"{' with the bed of '.join(dict.fromkeys(names))}; recurrent SRCNN, run {run}, "
                  f"trained on {trained_on}",
        "source_variables": "; ".join(dict.fromkeys(
            source["variables_read"] for source in sources)),
        "citation": "; ".join(filter(None, dict.fromkeys(
            source["citation"] for source in sources))),
        "source_sha256": ice_map["sha256"], "bed_sha256": bed["sha256"] if bed else "",
        "reference_bed": " ".join(filter(None, (reference["name"], reference["time_label"]))),
        "reference_bed_sha256": reference["sha256"],
        "densities": "ice {:g}, sea water {:g} kg m-3".format(*get_densities(effective["data"])),
        "sea_level_m": ice_map["sea_level_m"], "scale": scale, "strip": "{}/{}".format(*strip),
        "self_ensemble": effective["self_ensemble"],
        "fill_missing": "yes" if fill_missing else "no",
        "model_run": run, "model_settings": json.dumps(settings),
        "model_weights_sha256": weights_sha256,
        "model_training_citation": settings["data"]["citation"],
        "model_scores": json.dumps(checkpoints.read_run_scores(run, weights_sha256)),
        "uncertainty": describe_uncertainty(effective.get("uncertainty"), trained_on, bed),
        "versions": json.dumps(files.package_versions()), "code_sha256": files.hash_code(),
        "comment": "; ".join([
            "the mean of thk over each coarse cell equals the input thickness", *notes])
        } | ({"synthetic": "yes"} if ice_map["synthetic"] else {})


def describe_uncertainty(fit, trained_on, bed):
    """Return what thk_uncertainty is and contains, for the file; "" without a calibration."""
    if not fit:
        return ""
    bed_text = "Does not include errors of the bed."
    if bed and bed["read_topg_std"]:
        bed_text = (f"Includes the bed's standard error from {bed['name']} on grounded ice, "
                    "reduced to its variation within a coarse cell (correlation length "
                    f"{uncertainty.BED_LENGTH_M / 1000:g} km).")
    crops = f"{fit['n_patches']['all']} training and {fit['n_held_out']} held-out patches of"
    if fit["n_held_out"] >= fit["n_patches"]["all"]:  # errors of other runs, which left regions out
        crops = f"{fit['n_held_out']} crops, each of a region that the network had not seen, from"
    return (f"Half-width of the 90 % prediction interval of thk. Calibrated on {crops} "
            f"{trained_on}. 0 where the coarse map has no ice. Does not include errors of the "
            f"coarse map. {bed_text}")


def create_output_file(path, ice_map, bed, output, attributes):
    """Return an open netCDF4.Dataset for a finer map, without data; arguments: of write_tiles."""
    ds, strip, time_axis = netCDF4.Dataset(path, "w"), output["strip"], output["time_axis"]
    ds.setncatts({"Conventions": "CF-1.8"} | attributes)
    if time_axis:
        ds.createDimension("time", None)
        ds.createVariable("time", "f8", ("time",), fletcher32=True)
        ds["time"].setncatts({"axis": "T"} | time_axis[1])
        if time_axis[2] is not None:
            ds["time"].bounds = "time_bnds"
            ds.createDimension("nv", 2)
            ds.createVariable("time_bnds", "f8", ("time", "nv"), fletcher32=True)
    for name, part, step in zip("yx", (strip, slice(None)), ice_map["flips"], strict=True):
        axis = utils.refine_axis(ice_map[name], output["scale"])[part][::step]
        ds.createDimension(name, len(axis))
        ds.createVariable(name, "f8", (name,), fletcher32=True)[...] = axis
        ds[name].setncatts({"units": "m", "axis": name.upper(),
                            "standard_name": map_layout.STANDARD_NAMES[name],
                            "long_name": f"{name} coordinate of cell centre"})
    if output["members"]:
        ds.createDimension("realization", len(output["members"]))
        ds.createVariable("realization", "i4", ("realization",), fletcher32=True)[...] = output[
            "members"]
        ds["realization"].setncatts({"units": "1", "standard_name": "realization"})
    if output["crs"]:
        ds.createVariable("crs", "i4").setncatts(output["crs"])
    sides = tuple(min(output["chunk_cells"], ds.dimensions[dim].size) for dim in "yx")
    bed_changes = ice_map["topg_change"] is not None or not has_separate_bed(ice_map, bed)
    for name, (data_type, variable_attributes) in OUTPUT_VARIABLES.items():
        if (not bed and not name.startswith("thk")) or (
                name == "thk_uncertainty" and not attributes["uncertainty"]) or (
                name == "thk_member" and not output["members"]):
            continue
        axes = ("realization",) * (name == "thk_member") + ("time",) * (
            bool(time_axis) and (name != "topg" or bed_changes))
        # A checksum of every chunk, fletcher32: damage is an error when the file is read.
        ds.createVariable(name, data_type, (*axes, "y", "x"), zlib=True, complevel=4,
                          shuffle=True, fletcher32=True, chunksizes=(1,) * len(axes) + sides,
                          fill_value=np.float32(np.nan) if data_type == "f4" else np.int8(-1))
        ds[name].setncatts(variable_attributes | (
            {"grid_mapping": "crs"} if output["crs"] else {}))
    if attributes["uncertainty"]:
        ds["thk"].ancillary_variables = "thk_uncertainty"
        ds["thk_uncertainty"].comment = attributes["uncertainty"]
    return ds


def has_separate_bed(ice_map, bed):
    """Return whether the bed is of another file than the map."""
    return bool(bed) and bed["path"] != ice_map["path"]


def derive_fields(thickness, read, densities, sea_level_m):
    """Return the variables of a tile {name: (y, x)}; thickness, read: of downscale_tiles.

    sea_level_m: height of the sea level in the map, in whose heights bed and surface are returned.
    """
    thk, topg = thickness["model"], read["topg_read"]
    fields = {"thk": thk, "thk_source": read["source"]}
    if "uncertainty" in thickness:
        fields["thk_uncertainty"] = thickness["uncertainty"]
    if topg is not None:
        usrf = utils.surface_from_thickness(thk, topg, densities)
        if read["usrf_read"] is not None:
            usrf = np.where(np.isnan(usrf), read["usrf_read"], usrf)
        fields |= {"topg": topg + np.float32(sea_level_m), "usrf": usrf + np.float32(sea_level_m),
                   "mask": utils.classify_cells(thk, topg, densities)}
    return fields


def put_fields(ds, fields, time_number, rows, columns, flips, member_number=0):
    """Write the fields of a tile; rows, columns: its slices of the file's axes, if ascending."""
    number_on_axis = {"time": time_number, "realization": member_number}
    slices = []
    for dim, part, step in zip("yx", (rows, columns), flips, strict=True):
        size = ds.dimensions[dim].size
        slices.append(part if step == 1 else slice(size - part.stop, size - part.start))
    for name, field in fields.items():
        numbers = [number_on_axis[axis] for axis in ds[name].dimensions[:-2]]
        # A bed that does not change, and members of one time, are written at the first.
        if time_number == 0 or "time" in ds[name].dimensions:
            ds[name][(*numbers, *slices)] = field[::flips[0], ::flips[1]]


def put_time(ds, time_axis, number):
    """Write a time and its bounds, if there is a time axis."""
    if time_axis:
        ds["time"][number] = time_axis[0][number]
        if time_axis[2] is not None:
            ds["time_bnds"][number] = time_axis[2][number]


def write_tiles(path, time_slices, first_map, bed, output, attributes):
    """Write the tiles of downscale.downscale_tiles to a file that appears only when it is whole.

    time_slices: pairs (map, its tiles), one a time; first_map: the first map; bed: its bed or None
    output: scale, crs (attributes of the grid mapping, {} if unknown), chunk_cells, densities,
      time_axis (values, attributes, bounds or None; or None), strip (slice of the fine rows),
      members (their numbers, [] for none)
    attributes: of make_attributes
    The axes run as in the file of the map. Prints notes for the user, which the file has too.
    """
    scale, first_row, flips = output["scale"], output["strip"].start or 0, first_map["flips"]
    statistics = {"volume": 0.0, "n_without_bed": 0, "volume_without_bed": 0.0, "n_own_bed": 0,
                  "n_missing": 0}
    numbers_by_time = []
    notes = beds.describe_bed_difference(first_map, bed)
    for note in notes:  # before the work, which may be in vain
        print(note)
    with files.atomic_write(path) as temporary:
        # Only what writes is in these blocks: an error of the computation is not one of the disk.
        with files.explain_write_errors(path):
            ds = create_output_file(temporary, first_map, bed, output, attributes)
        try:
            for number, (ice_map, tiles_of_map) in enumerate(time_slices):
                with files.explain_write_errors(path):
                    put_time(ds, output["time_axis"], number)
                statistics["volume"] += ice_map["thk"].sum(dtype=float)
                sums = {}
                for rows, columns, thickness, read in tiles_of_map:
                    fields = derive_fields(thickness, read, output["densities"],
                                           first_map["sea_level_m"])
                    rows_in_file = slice(rows.start - first_row, rows.stop - first_row)
                    # Members one by one: a tile of all of them may be larger than the map.
                    drawn = enumerate({"thk_member": thk} for thk in read.get("members", ()))
                    for member, part in itertools.chain([(0, fields)], drawn):
                        with files.explain_write_errors(path):
                            put_fields(ds, part, number, rows_in_file, columns, flips, member)
                    coarse = tuple(slice(part.start // scale, part.stop // scale)
                                   for part in (rows, columns))
                    add_statistics(statistics, fields, read, ice_map["thk"][coarse])
                    add_ice_numbers(sums, ice_map, coarse, fields["thk"], read["topg_read"], output)
                numbers_by_time.append(describe_sums(sums, ice_map, bed, attributes["strip"]))
            for note in describe_gaps(statistics):
                print(note)
                notes.append(note)
            with files.explain_write_errors(path):
                ds.comment = "; ".join([ds.comment, *notes])
                ds.ice_numbers = json.dumps(numbers_by_time)
        finally:
            with files.explain_write_errors(path):
                ds.close()


def add_statistics(statistics, fields, read, thk):
    """Add a tile to the statistics of write_tiles; thk: its coarse thickness [m]."""
    scale = len(fields["thk"]) // len(thk)
    without_bed = (read["source"] == tiles.BICUBIC).reshape(len(thk), scale, -1, scale)
    without_bed = without_bed.any(axis=(1, 3)) & utils.is_ice(thk)
    statistics["n_without_bed"] += int(without_bed.sum())
    statistics["volume_without_bed"] += thk[without_bed].sum(dtype=float)
    statistics["n_own_bed"] += int(read["is_own_bed"].sum())
    statistics["n_missing"] += int(np.isnan(fields["thk"]).sum())


def add_ice_numbers(sums, ice_map, coarse, thk, topg, output):
    """Add a tile to the sums of ice_numbers.add_tile; coarse: its slices of the coarse map.

    thk, topg: of the finer map, (y, x) [m]; topg above the sea level, None without a bed
    """
    rows, columns = coarse
    areas_m2 = ice_numbers.cell_areas(ice_map["x"][columns], ice_map["y"][rows],
                                      ice_map["spacing_m"], output["crs"])
    ice_numbers.add_tile(sums, (ice_map["thk"][coarse], None if ice_map["topg"] is None else
                                ice_map["topg"][coarse]), (thk, topg), areas_m2,
                         output["densities"])


def describe_sums(sums, ice_map, bed, strip):
    """Return the entry of a time in the attribute ice_numbers; sums: of ice_numbers.add_tile."""
    has_own_bed = ice_map["topg"] is not None and np.isfinite(ice_map["topg"]).any()
    return {"time_index": ice_map["time_index"], "time_label": ice_map["time_label"],
            "strip": strip, "ocean_area_m2": ice_numbers.OCEAN_AREA_M2,
            "fresh_water_density": ice_numbers.RHO_FRESH,
            "bed_of_coarse_map": "" if not bed else "its own bed" if has_own_bed else (
                "the means of the finer bed")} | ice_numbers.compare_sums(sums)


def describe_gaps(statistics):
    """Return notes for the user on gaps in the bed and in the map."""
    notes = []
    if statistics["n_without_bed"]:
        share = 100 * statistics["volume_without_bed"] / statistics["volume"]
        notes.append(f"warning: {statistics['n_without_bed']} coarse ice cells ({share:.2f} % of "
                     "the volume) have gaps in the bed: thk is bicubic there (thk_source), without "
                     "uncertainty; fill the gaps or give another --bed")
    if statistics["n_own_bed"]:
        notes.append(f"note: {statistics['n_own_bed']} cells have the map's own bed, interpolated, "
                     "because the bed has gaps there")
    if statistics["n_missing"]:
        notes.append(f"note: {statistics['n_missing']} cells are NaN, because the map has neither "
                     "thickness nor bed there; --fill-missing writes 0")
    return notes


def is_up_to_date(path, ice_map, output, attributes):
    """Return whether a file is whole and made by the same code from the same input and options.

    It gets its name when it is complete, but may have been damaged since: all of it is read, and
    the library compares the checksums. Arguments: of write_tiles.
    """
    if not Path(path).exists():
        return False
    with contextlib.suppress(InputError, OSError, RuntimeError), map_files.open_netcdf(path) as ds:
        ny, nx = (n * output["scale"] for n in ice_map["thk"].shape)
        sizes = {"y": len(range(ny)[output["strip"]]), "x": nx}
        if output["time_axis"]:
            sizes |= {"time": len(output["time_axis"][0])}
            sizes |= {"nv": 2} if output["time_axis"][2] is not None else {}
        sizes |= {"realization": len(output["members"])} if output["members"] else {}
        if sizes != {dim.name: dim.size for dim in ds.dimensions.values()} or any(
                getattr(ds, name, None) != value for name, value in attributes.items()
                if name not in ("history", "comment", "model_scores")):
            return False
        map_files.read_every_chunk(ds, output["chunk_cells"])
        return True
    return False
