"""Mean, spread and probability of grounded ice over the finer maps of an ensemble, of beds say.

    python -m icesheet.map_ensemble FINE_*.nc --output ENSEMBLE.nc

The files are those of downscale.py --output on the same cells; all count the same. They are read
chunk by chunk, one after the other, so memory does not grow with their size or number.
"""

import json
from pathlib import Path

import numpy as np

from icesheet import command_line, derived_maps, files, map_layout
from icesheet.command_line import InputError

COPIED = ("citation", "densities", "sea_level_m", "synthetic")  # of the first member
# Variables of the file: the variable of the finer maps that each comes from, and its attributes.
PROBABILITIES = {  # name in derived_maps.locate_ice: name in the file, source, meaning
    "sftgif": ("ice_probability", "thk", "ice"),
    "sftgrf": ("grounded_probability", "mask", "grounded ice"),
    "sftflf": ("floating_probability", "mask", "floating ice")}
ENSEMBLE_VARIABLES = {
    f"{name}{suffix}": (name, {
        "units": "m", "standard_name": map_layout.STANDARD_NAMES[name],
        "cell_methods": f"realization: {method}", "long_name": f"{what} of {quantity}",
        "comment": comment})
    for name, quantity in (("thk", "ice thickness"), ("topg", "bed elevation"),
                           ("usrf", "upper surface elevation"))
    for suffix, method, what, comment in (
        ("", "mean", "ensemble mean", "NaN where a member is unknown"),
        ("_stddev", "standard_deviation", "ensemble standard deviation",
         "of a sample: the sum of squares over the number of members less 1; NaN where a member "
         "is unknown"))
} | {
    name: (source, {
        "units": "1", "cell_methods": "realization: mean",
        "long_name": f"probability of {what}: share of the members that have it in the cell",
        "comment": "NaN where a member is unknown"})
    for name, source, what in PROBABILITIES.values()}


def check_same_cells(paths):
    """Raise InputError unless the finer maps have the same cells, times and variables."""
    with derived_maps.open_fine_map(paths[0]) as first:
        for path in paths[1:]:
            with derived_maps.open_fine_map(path) as fine:
                for name in ("x", "y", "time"):
                    values = [ds[name][...] if name in ds.variables else None
                              for ds in (first, fine)]
                    if not np.array_equal(*values):
                        raise InputError(f"{path}: {name} is not that of {paths[0]}; expected "
                                         "finer maps on the same cells, at the same times")
                for name in ("topg", "usrf", "mask"):
                    if (name in fine.variables) != (name in first.variables):
                        raise InputError(f"{path}: only one of this file and {paths[0]} has {name};"
                                         " expected finer maps with the same variables")


def list_chunks(variable):
    """List the chunks of a variable (..., y, x): pairs of slices (rows, columns)."""
    sizes = variable.shape[-2:]
    sides = sizes if variable.chunking() == "contiguous" else variable.chunking()[-2:]
    rows, columns = ([slice(start, min(start + side, size)) for start in range(0, size, side)]
                     for size, side in zip(sizes, sides, strict=True))
    return [(part_of_y, part_of_x) for part_of_y in rows for part_of_x in columns]


def compute_statistics(paths, time_index, rows, columns):
    """Return the fields of ENSEMBLE_VARIABLES in a part of the cells at a time, {name: (y, x)}."""
    means, squares = {}, {}
    for count, path in enumerate(paths, 1):
        # One file at a time: every open one has buffers of its own.
        with derived_maps.open_fine_map(path) as fine:
            fields = {name: fine[name][derived_maps.index_part(
                fine[name], time_index, rows, columns)]
                for name in ("thk", "topg", "usrf", "mask") if name in fine.variables}
        fields |= derived_maps.locate_ice(fields["thk"], fields.pop("mask", None))
        # Welford (1962): the squares are never large numbers that cancel.
        for name, field in fields.items():
            deviation = field.astype(float) - means.get(name, 0.0)
            means[name] = means.get(name, 0.0) + deviation / count
            squares[name] = squares.get(name, 0.0) + deviation * (field - means[name])
    return {PROBABILITIES[name][0] if name in PROBABILITIES else name: mean
            for name, mean in means.items()} | {
        f"{name}_stddev": np.sqrt(squares[name] / (len(paths) - 1))
        for name in squares if name not in PROBABILITIES}


def write_ensemble(path, paths):
    """Write mean, spread and probabilities over finer maps as CF-1.8 NetCDF.

    The file is left as it is if it was made from these very files by this code. It has the axes,
    times and projection of the first. Raises InputError for files that are no ensemble.
    """
    files.check_output_path(path, *paths)
    if len({Path(member).resolve() for member in paths}) < max(len(paths), 2):
        raise InputError(f"{len(paths)} files: expected 2 or more, each of them once")
    members = {str(member): files.hash_file(member) for member in paths}
    made_from = {"members": json.dumps(members), "code_sha256": files.hash_code()}
    if derived_maps.is_up_to_date(path, made_from):
        print(f"{path}: complete, left as it is")
        return
    check_same_cells(paths)
    with derived_maps.open_fine_map(paths[0]) as first, files.atomic_write(path) as temporary:
        attributes = {name: value for name, value in first.__dict__.items() if name in COPIED}
        attributes |= made_from | {
            "title": f"{first.title}: mean and spread of {len(paths)} members",
            "source": f"{len(paths)} finer maps, the first from {first.source}",
            "history": files.history_entry(), "versions": json.dumps(files.package_versions())}
        with files.explain_write_errors(path):
            ds = derived_maps.create_file(temporary, first, ENSEMBLE_VARIABLES, attributes)
            for variable in ds.variables.values():
                if variable.ndim > 1:  # chunks are written whole; the library's cache has 64 MB
                    variable.set_var_chunk_cache(size=1, nelems=1, preemption=1)
        try:
            for time_index in derived_maps.list_times(first):
                for rows, columns in list_chunks(first["thk"]):
                    fields = compute_statistics(paths, time_index, rows, columns)
                    with files.explain_write_errors(path):
                        for name, field in fields.items():
                            ds[name][derived_maps.index_part(
                                ds[name], time_index, rows, columns)] = field
        finally:
            with files.explain_write_errors(path):
                ds.close()
    print(f"wrote    {path}: mean, spread and probabilities of {len(paths)} members")


def main(argv=None):
    """Run the command."""
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("members", nargs="+", metavar="FINE.nc", help="files of downscale.py")
    parser.add_argument("--output", required=True, metavar="ENSEMBLE.nc", help="file to write")
    args = parser.parse_args(argv)
    write_ensemble(args.output, args.members)
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
