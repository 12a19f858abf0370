"""Map files as modellers have them: what is in them, where it lies, what cannot be right.

A *map* is a dict of gridded fields, made by `make_map` or read by `read_map`:
    x, y            centres of the cells [m], 1-D, ascending
    spacing_m       side of a cell [m]
    thk             ice thickness [m], (y, x) float32, no NaN: missing thickness is zero ice
    topg, usrf      elevation of bed and upper surface [m], (y, x) float32, NaN where missing;
                    None where the file has none; usrf is read only where it is needed
    topg_change     what the bed has risen since the first record [m], (y, x); None: it stays
    topg_error      standard error of the bed [m], (y, x); None where the file says none
    unknown         (y, x) bool: neither thickness nor bed is known
    n_missing_thk, n_negative_thk   cells whose thickness was missing, or negative and set to 0
    crs             attributes of the grid mapping, {} where unknown
    record          number of the record that was read; None where the file has only one
    record_text     the same for a reader, "record 1 of 3 (2100-01-01)"; "" for None
    records         dimension of the records and how many there are; None without a time axis
    flips           -1 where the file's axis y, x runs down, else 1
    taken, notes    which variables were read; what was assumed or left out: for a reader
    path, name, sha256, title, citation, synthetic     where the map comes from
"""

import contextlib
import functools
import math
import re
import warnings
from pathlib import Path

import netCDF4
import numpy as np

import projections
from utils import DENSITIES, LEAST_ICE_M, STANDARD_NAMES, InputError, file_sha256, is_ice, one_line

# Names of each field in map files, then those too short or too general to be sure of, which count
# only beside another field. Its CF standard name goes before both.
NAMES = {
    "x": ("x x1 xc easting x_coordinate xcoord X", ""),
    "y": ("y y1 yc northing y_coordinate ycoord Y", ""),
    "thk": ("thk thickness ice_thickness land_ice_thickness lithk H_ice Hi thck", "H"),
    "topg": ("topg bed bed_topography bedrock_altitude bedrock bed_elevation z_bed Hb", "zl b"),
    "usrf": ("usrf usurf surface_topography surface_altitude orog z_srf Hs zs", "surface topo s"),
    "lsrf": ("lsrf ice_base z_base", "base zb"),
    "topg_error": ("topg_error errbed bed_error bed_uncertainty z_bed_err bed_err", ""),
}
LENGTH = re.compile(  # metres or kilometres, and words after it that do not change the length
    r"(km|kilomet(?:er|re)s?|m|met(?:er|re)s?)[ .,(]*(?:(?:a\.? ?(?:m\.? ?)?s\.? ?l|above .*"
    r"|(?:of )?ice(?: thickness| eq(?:uivalent)?)?)[.)]*)?", re.IGNORECASE)
NO_UNITS = ("", "1", "-", "none", "no unit", "unitless")
PLAUSIBLE_M = {"thk": (-np.inf, 6000), "topg": (-13000, 9000), "usrf": (-13000, 9000),
               "lsrf": (-13000, 9000), "topg_error": (-np.inf, 9000)}
UNDECLARED_FILLS = (-9999, -99999, -32767, 32767, -32768, 32768)  # and all that is beyond 1e9
NO_OPTIONS = {"names": {}, "units": None, "densities": None}  # see map_options
MAP_BYTES = 40  # that reading a cell of a map takes at the most
READ_CELLS = 4_000_000  # of a bed that are read at a time, to check them
LEAST_WIDTH = 5000  # an axis without units that is narrower is in km: no ice sheet is 5 km wide


# ------------------------------------------------------------------ options


def add_map_arguments(parser):
    """Add the options of all scripts that read a map: --names, --units, --densities."""
    parser.add_argument("--names", nargs="+", metavar="FIELD=VAR", help="variables of the map that "
                        "are not found by themselves: thk=VAR topg=VAR usrf=VAR x=VAR y=VAR")
    parser.add_argument("--units", choices=("m", "km"), help="of x and y, whatever the map says")
    parser.add_argument("--densities", type=float, nargs=2, metavar=("ICE", "SEA"),
                        help="of ice and sea water, kg m-3 (default: those of the run, or "
                             "{:g} {:g})".format(*DENSITIES))


def map_options(args):
    """The options of add_map_arguments, checked, as arguments of read_map."""
    for name in ("names", "units"):
        if getattr(args, name) and vars(args).get("input", "") is None:
            raise InputError(f"--{name}: goes with --input MAP.nc")
    names = dict(pair.partition("=")[::2] for pair in args.names or [])
    for field, name in names.items():
        if field not in NAMES or not name:
            raise InputError(f"--names {field}={name}: expected FIELD=VAR, with one of "
                             f"{', '.join(NAMES)}")
    if args.densities and not 500 < args.densities[0] < args.densities[1] < 1500:
        raise InputError("--densities {:g} {:g}: expected those of ice and of sea water, kg m-3, "
                         "ice lighter".format(*args.densities))
    return {"names": names, "units": args.units, "densities": args.densities}


# ------------------------------------------------------------------ reading maps


def make_map(x, y, thk, topg=None, usrf=None, **about):
    """A map (see the top of this file) of axes x, y [m], ascending, and fields (y, x) [m].

    thk: NaN where missing: it becomes zero ice, as negative thickness does, and is counted.
    about: more of the map's keys.
    """
    missing, negative = np.isnan(thk), thk < 0
    return {
        "x": x, "y": y, "spacing_m": float(x[-1] - x[0]) / (len(x) - 1),
        "thk": np.where(missing | negative, 0, thk).astype(np.float32), "topg": topg, "usrf": usrf,
        "unknown": missing if topg is None else missing & np.isnan(topg),
        "n_missing_thk": int(missing.sum()), "n_negative_thk": int(negative.sum()),
        "crs": {}, "record": None, "record_text": "", "records": None, "topg_change": None,
        "topg_error": None, "flips": (1, 1), "taken": "", "notes": (), "path": None,
        "name": "a map", "sha256": "", "title": "", "citation": "", "synthetic": False} | about


def open_netcdf(path):
    """Open a NetCDF file for reading; InputError if it is missing, truncated or something else."""
    path = Path(path)
    if path.is_dir() and any((path / name).exists() for name in
                             (".zgroup", ".zmetadata", "zarr.json")):
        raise InputError(f"{path}: a Zarr folder; make a NetCDF file of it: python -c \"import "
                         f"xarray; xarray.open_zarr('{path}').to_netcdf('{path.stem}.nc')\"")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with open(path, "rb") as file:
        if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise InputError(f"{path}: a GeoTIFF; make a NetCDF file of it: gdal_translate -of "
                             f"netCDF {path} {path.stem}.nc, then --names thk=Band1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that are not read, before an error says it
            needed, ds = classic_size(path), netCDF4.Dataset(path)
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        raise InputError(f"{path}: not a readable NetCDF file, or truncated ({one_line(error)})"
                         ) from None
    size = path.stat().st_size
    if size < needed:  # the library reads zeros there
        ds.close()
        raise InputError(f"{path}: {size} bytes, its header needs {needed}: truncated; copy or "
                         "download it again")
    return ds


def classic_size(path):
    """Bytes that a NetCDF-3 file must have by its own header; 0 of any other file.

    The header is that of the classic format (CDF-1, CDF-2, CDF-5), big-endian. Raises EOFError,
    KeyError or IndexError where it is cut short or damaged.
    """
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}  # of the types
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF":
            return 0
        wide = 8 if magic[3] == 5 else 4

        def number(size=wide):
            part = file.read(size)
            if len(part) < size:
                raise EOFError("the header ends too soon")
            return int.from_bytes(part, "big")

        def skip(size):
            file.seek(size + -size % 4, 1)

        def skip_attributes():
            number(4)
            for _ in range(number()):
                skip(number())
                kind = number(4)
                skip(number() * sizes[kind])

        records, lengths, parts = number(), [], []
        if records == 256**wide - 1:  # still being written: how many is not said
            records = 0
        number(4)
        for _ in range(number()):
            skip(number())
            lengths.append(number())
        skip_attributes()
        number(4)
        for _ in range(number()):
            skip(number())
            shape = [lengths[number()] for _ in range(number())]
            skip_attributes()
            size = sizes[number(4)]
            number()  # its size, as the file says it, wrong beyond 4 GB
            start = number(4 if magic[3] == 1 else 8)
            parts.append((start, size * math.prod(shape[1:] if 0 in shape[:1] else shape),
                          0 in shape[:1]))
        moving = [size for _, size, moves in parts if moves]
        step = moving[0] if len(moving) == 1 else sum(size + -size % 4 for size in moving)
        return max([file.tell(), *(start + size + (step * (records - 1) if moves else 0)
                                   for start, size, moves in parts if records or not moves)])


def is_numeric(variable):
    """Whether a NetCDF variable holds plain numbers: no text, compound, complex, ragged or enum."""
    return isinstance(variable.datatype, np.dtype) and variable.datatype.kind in "iuf"


def text_of(variable, key):
    """An attribute of a variable as text; "" where it has none, or one that is no text."""
    value = getattr(variable, key, "")
    return value if isinstance(value, str) else ""


def number_of(variable, key, default, path):
    """An attribute of a variable as a number; InputError where it is none."""
    value = getattr(variable, key, default)
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, str) or not np.isfinite(number) or (key, number) == ("scale_factor", 0):
        raise InputError(f"{path}: {variable.name} has the {key} {value!r}, expected a number; "
                         "mend the attribute (ncatted)")
    return number


def contents(ds):
    """The variables of a file for an error message, ten at most, and its groups."""
    names = list(ds.variables)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    groups = f"; groups {', '.join(list(ds.groups)[:10])}, which are not read" if ds.groups else ""
    return f"it has {', '.join(names[:10]) or 'no variables'}{more}{groups}"


def find_variable(variables, field, names, path, ds, sure=True):
    """The one of `variables` that holds `field` (a key of NAMES), or None.

    names: {field: name} of the user's, which are believed. Else the standard name decides, then the
    names of NAMES, in any case; sure: only those that are sure. A name whose standard name is that
    of something else does not count.
    """
    if field in names:
        if names[field] not in ds.variables:
            raise InputError(f"{path}: --names {field}={names[field]}: no such variable; "
                             + contents(ds))
        if not is_numeric(ds[names[field]]):
            raise InputError(f"{path}: --names {field}={names[field]}: holds no plain numbers "
                             f"({one_line(ds[names[field]].datatype)[:60]}); choose another one")
        return ds[names[field]]
    listed = NAMES[field][not sure].split()
    lower = [name.lower() for name in listed]
    other = set(STANDARD_NAMES.values()) - {STANDARD_NAMES[field]}

    def rank(variable):
        standard = text_of(variable, "standard_name")
        named = variable.name.lower() in lower
        if variable.name in names.values() or standard in other or (
                standard and named and (not sure or standard.startswith("sea_ice"))):
            return None
        place = (lower.index(variable.name.lower()), variable.name not in listed) if named else (
            len(lower), True)
        by_axis = field in "xy" and text_of(variable, "axis") == field.upper()
        return (standard != STANDARD_NAMES[field], *place) if (
            named or by_axis or sure and standard == STANDARD_NAMES[field]) else None

    ranked = [(rank(variable), variable) for variable in variables]
    return min((pair for pair in ranked if pair[0]), key=lambda pair: pair[0],
               default=(None, None))[1]


def find_variables(ds, path, names, wanted=("thk", "topg", "usrf", "lsrf", "topg_error"),
                   units=None):
    """What a map file has: {field: variable}, axes {x, y: (dimension, values [m], metres to a
    unit of them)}, notes, text.

    The axes are those of the first field found. A name that is not sure counts beside another field
    on the same axes. text: what was taken. Raises InputError where there is none of `wanted`.
    """
    grids = [variable for variable in ds.variables.values() if variable.ndim >= 2
             and is_numeric(variable)]
    fields = {field: variable for field in wanted
              if (variable := find_variable(grids, field, names, path, ds)) is not None}
    unsure = {field: variable for field in wanted if field not in fields and (
        variable := find_variable(grids, field, {}, path, ds, sure=False)) is not None
        and length_units(variable) is not None}
    if len(fields) + len(unsure) > 1 or "topg" in wanted[:1]:
        fields |= unsure
    first = next((fields[field] for field in wanted if field in fields), None)
    if wanted[0] not in fields and not {"usrf", "lsrf"} <= fields.keys():
        what = "ice thickness (thk, thickness, H_ice ..., or usrf and lsrf)" if (
            "thk" in wanted) else "bed (topg, bed, z_bed ..., standard name bedrock_altitude)"
        raise InputError(f"{path}: no {what}, {contents(ds)}; name it with --names "
                         f"{wanted[0]}=VAR")
    axes, notes = {}, []
    for name in "xy":
        lines = [variable for variable in ds.variables.values() if variable.ndim == 1
                 and variable.dimensions[0] in first.dimensions
                 and is_numeric(variable)]
        axis = find_variable(lines, name, names, path, ds)
        if axis is None and any(one.name.lower()[:3] in ("lon", "lat") for one in
                                (lines or ds.variables.values())):
            raise refused_degrees(path, f"no {name}, the axes are longitude and latitude")
        if axis is None or axis.ndim != 1 or axis.dimensions[0] not in first.dimensions:
            raise InputError(f"{path}: no 1-D coordinate variable {name} of {first.name} "
                             f"{first.dimensions}, {contents(ds)}; name it with --names {name}=VAR")
        told = None if "thk" not in wanted and length_units(axis) else units  # --units: the map's
        axes[name] = (axis.dimensions[0], *axis_values(axis, path, told, notes))
        fields[name] = axis
    if axes["x"][0] == axes["y"][0] or len(set(first.dimensions)) < first.ndim:
        raise InputError(f"{path}: {first.name} {first.dimensions}: which of them is x and which "
                         f"is y is not said, {fields['x'].name} and {fields['y'].name} have one "
                         "dimension; give each its own (HDF5: a dimension scale)")
    for field in [field for field in wanted if field in fields and field not in names]:
        if not {axes["x"][0], axes["y"][0]} <= set(fields[field].dimensions):
            del fields[field]  # of other axes
    for field, needed in (("usrf", {"thk", "topg"}), ("lsrf", {"thk"})):
        if needed <= fields.keys() and field not in names:
            fields.pop(field, None)
    said = length_units(fields["x"])
    text = ", ".join(f"{field} = {fields[field].name}" for field in wanted if field in fields)
    text += f", axes {fields['x'].name} {fields['y'].name} ({told or said or 'no units'})"
    return fields, axes, notes, text


def length_units(variable):
    """ "m", "km", "" where a variable says no units, None where they are no length."""
    units = str(getattr(variable, "units", "")).strip()
    if units.lower() in NO_UNITS:
        return ""
    match = LENGTH.fullmatch(units)
    return None if match is None else "km" if match[1][0] in "kK" else "m"


def read_values(variable, index=...):
    """Values of a NetCDF variable as float64, masked where missing; InputError if unreadable."""
    path = variable.group().filepath()
    for key, default in (("scale_factor", 1), ("add_offset", 0)):
        number_of(variable, key, default, path)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of attributes that do not fit the type
            return np.ma.asarray(variable[index], np.float64)
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise InputError(f"{path}: {variable.name} cannot be read, the file may be truncated "
                         f"({one_line(error)})") from None


def refused_degrees(path, why):
    return InputError(f"{path}: {why}; expected projected x and y in m or km: reproject "
                      "the map first (gdalwarp, cdo), or say --units m or km")


def axis_values(variable, path, units, notes):
    """Values of a coordinate variable in m, evenly spaced, and metres to a unit of it.

    notes: of what was assumed, added to.
    Even is what differs by no more than its type can hold; the exact axis is rebuilt. units: m or
    km, whatever the file says.
    """
    name, said = variable.name, length_units(variable)
    variable.set_auto_mask(False)  # no coordinate is missing: -9999 m is one, whatever the fill
    values = read_values(variable).filled(np.nan)
    variable.set_auto_mask(True)
    n, about = len(values), " ".join(str(getattr(variable, key, "")) for key in
                                     ("units", "standard_name", "long_name")).lower()
    if units is None and not said and any(
            word in f"{about} {name.lower()}" for word in ("degree", "longitude", "latitude")):
        raise refused_degrees(path, f"{name}: the axes are longitude and latitude")
    if n < 2 or not (np.abs(values) < 1e9).all():  # so far is no place on Earth
        raise InputError(f"{path}: {name} has " + (
            f"{n} cells, expected 2 or more" if n < 2 else "missing values") + "; mend the axis")
    step, reach = (values[-1] - values[0]) / (n - 1), np.abs(values).max()
    held = 1.0 if variable.dtype.kind in "iu" else 0.0
    if (values == values.astype(np.float32)).all():
        held = max(held, 2 * float(np.spacing(np.float32(reach))))
    off = np.abs(values - values[0] - step * np.arange(n))
    if step == 0 or off.max() > min(max(1e-3 * abs(step), held), 0.3 * abs(step)):
        at = int(np.argmax(np.abs(np.diff(values) - step)))
        raise InputError(f"{path}: {name} is not evenly spaced (cells {at} and {at + 1} are "
                         f"{values[at + 1] - values[at]:g} apart, the mean is {step:g}); "
                         "interpolate the map to a regular grid first")
    if off.max() > 0 and held:
        for digits in range(1, 16):  # the roundest step that the values allow
            rounded = float(f"{step:.{digits}g}")
            if abs(rounded - step) * (n - 1) <= held:
                values = np.mean(values - rounded * np.arange(n)) + rounded * np.arange(n)
                break
    if units is None and said != "km" and reach <= 360 and abs(step) < 5:
        raise refused_degrees(path, f"{name} from {values[0]:g} to {values[-1]:g}, {abs(step):g} "
                                    "apart, looks like degrees")
    if units is None and said is None:
        raise InputError(f"{path}: {name} has units '{variable.units}', expected m or km; say "
                         "--units m or km")
    if units is None and said == "" and abs(step) * n < LEAST_WIDTH and reach < 20000:
        notes.append(f"{name} says no units and is {abs(step) * n:g} wide: taken for km (else "
                     "--units m)")
        units = "km"
    factor = 1000 if (units or said) == "km" else 1
    return values * factor, factor


def pick_record(variable, x_dim, y_dim, record, path, is_asked_for=False):
    """Which record of a variable is read: its dimension, its number, how many; else None, None, 1.

    record: its number, from 0, or from -1 backwards. A dimension of length 1 has one record, which
    does for every number, unless it is this variable's record that the user asks for.
    Raises InputError where there is no such record.
    """
    longer = [(dim, size) for dim, size in zip(variable.dimensions, variable.shape, strict=True)
              if dim not in (x_dim, y_dim) and size != 1]
    if not longer:
        if is_asked_for and record not in (-1, 0):
            raise InputError(f"{path}: {variable.name} has one record, there is no record {record}")
        return None, None, 1
    if len(longer) > 1:
        names = " and ".join(f"{dim} ({size})" for dim, size in longer)
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions} with "
                         f"records along {names}; expected records along one more than {y_dim}, "
                         f"{x_dim}; choose one first: ncks -d {longer[0][0]},0 "
                         f"{Path(path).name} ONE.nc")
    dim, count = longer[0]
    if count == 0:
        raise InputError(f"{path}: {variable.name} has no records: {dim} has length 0")
    if not -count <= record < count:
        raise InputError(f"{path}: {variable.name} has {count} records along {dim}, there is no "
                         f"record {record}; choose 0 to {count - 1}")
    return dim, record % count, count


def record_text(ds, dim, number, count):
    """A record for a reader, with its date where the file has one: "record 0 of 3 (2100-01-01)".

    Arguments as from pick_record; "" where the file has only one record.
    """
    if dim is None:
        return ""
    date, axis = "", ds.variables.get(dim)
    if axis is not None and " since " in str(getattr(axis, "units", "")):
        with contextlib.suppress(ValueError, OverflowError, TypeError, AttributeError):  # no date
            when = netCDF4.num2date(axis[number], axis.units, getattr(axis, "calendar", "standard"))
            date = f" ({when.strftime('%Y-%m-%d')})"
    return f"record {number} of {count}{date}"


def read_time(path, dim):
    """The time axis of a file for another one: values, attributes, bounds (record, 2) or None."""
    with open_netcdf(path) as ds:
        axis = ds.variables.get(dim)
        if axis is None or axis.ndim != 1 or not is_numeric(axis):
            return np.arange(len(ds.dimensions[dim])), {"long_name": f"record along {dim}"}, None
        about = {key: axis.getncattr(key) for key in axis.ncattrs()
                 if key in ("units", "calendar", "long_name", "standard_name")}
        bounds = ds.variables.get(text_of(axis, "bounds"))
        return np.ma.filled(read_values(axis)), about, (
            None if bounds is None else np.ma.filled(read_values(bounds)))


def read_field(variable, field, axes, record, path, counts=None, rows=slice(None),
               columns=slice(None)):
    """A field of a map as (y, x) float32 in m, NaN where missing.

    axes: see find_variables; rows, columns: a part of it, slices of the file's own axes; counts:
    {text with {}: cells} of what is missing, added to. InputError for values that cannot be right.
    """
    name, x_dim, y_dim = variable.name, axes["x"][0], axes["y"][0]
    if not {x_dim, y_dim} <= set(variable.dimensions):
        raise InputError(f"{path}: {name} has dimensions {variable.dimensions}, expected {y_dim} "
                         f"and {x_dim} among them")
    units = length_units(variable)
    if units is None:
        raise InputError(f"{path}: variable {name}: units '{variable.units}', expected m or km; "
                         "convert it first")
    along, number, _ = pick_record(variable, x_dim, y_dim, record, path)
    parts = {x_dim: columns, y_dim: rows, along: number}
    index = tuple(parts.get(dim, 0) for dim in variable.dimensions)
    counts, (low, high) = {} if counts is None else counts, PLAUSIBLE_M[field]
    values = read_values(variable, index)
    hidden = np.ma.getmaskarray(values)
    if field == "thk" and hidden.any() and any("valid" in key for key in variable.ncattrs()):
        variable.set_auto_mask(False)
        whole = read_values(variable, index)
        variable.set_auto_mask(True)
        counts[f"{name}: valid_range (or _min, _max) makes {{}} cells with ice missing"] = (
            np.count_nonzero(hidden & (whole > LEAST_ICE_M) & (whole <= high)))
    values = np.ma.filled(values, np.nan)
    if np.isinf(values).any():
        raise InputError(f"{path}: {name} has {np.isinf(values).sum()} infinite values; "
                         "mark them as missing (_FillValue) or mend them")
    scale = number_of(variable, "scale_factor", 1, path)
    offset = number_of(variable, "add_offset", 0, path)
    listed = [scale * fill + offset for fill in UNDECLARED_FILLS if scale == 1 or abs(fill) > 32000]
    narrow = np.float32(np.clip(values, -2e9, 2e9))
    fills = np.isin(narrow, np.float32(listed)) | (np.abs(narrow) > 1e9)
    if fills.any():
        text = f"{name}: {{}} cells hold {values[fills][0]:g}, an undeclared fill value: missing"
        counts[text] = counts.get(text, 0) + int(fills.sum())
        values[fills] = np.nan
    values *= 1000 if units == "km" else 1
    kept = [dim for dim in variable.dimensions if dim in (x_dim, y_dim)]
    wrong = np.argwhere((values < low) | (values > high))
    if len(wrong):
        at = tuple(wrong[0])
        place = ", ".join(f"{d} {i + (parts[d].start or 0)}" for d, i in zip(kept, at, strict=True))
        raise InputError(f"{path}: {name} is {values[at]:g} m in cell {place} and out of range in "
                         f"{len(wrong)} cells, expected " + (f"{low:g} to " if low > -np.inf else
                         "at most ") + f"{high:g} m; check its units and fill values")
    return (values.T if kept == [x_dim, y_dim] else values).astype(np.float32)


def derived_bed(thk, usrf, densities, notes):
    """The bed [m] of a map without one, from thickness and surface [m]: grounded ice and land.

    None where some of the ice floats: its bed does not follow; NaN in open ocean.
    """
    thk = np.where(np.isnan(thk), 0, thk)
    n_floating = np.count_nonzero(is_ice(thk) & (
        usrf < 1.01 * (1 - densities[0] / densities[1]) * thk + 1))
    if n_floating:
        notes.append(f"no bed, and it does not follow from surface and thickness: {n_floating} "
                     "cells of ice float; give one with --bed")
        return None
    notes.append("no bed: taken to be surface - thickness, the surface where there is no ice")
    return np.where(~is_ice(thk) & (usrf == 0), np.nan, usrf - thk).astype(np.float32)


def find_citation(ds):
    """How a file wants to be cited: its first global attribute of that name; "" if it has none."""
    return next((str(ds.getncattr(key)) for key in ds.ncattrs()
                 if "citation" in key.lower() or "reference" in key.lower()), "")


def check_memory(path, rows, columns):
    """Raise InputError where a map of so many cells is larger than the free memory, if known."""
    needed, free = rows * columns * MAP_BYTES, np.inf
    with contextlib.suppress(ImportError, OSError, KeyError, IndexError, ValueError):
        import resource  # Linux alone says all of this
        lines = {line.split()[0]: int(line.split()[1]) for line in [
            *Path("/proc/meminfo").read_text().splitlines(),
            *(line for line in Path("/proc/self/status").read_text().splitlines()
              if line.startswith("VmSize:"))]}
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        free = min(1024 * lines["MemAvailable:"], np.inf if limit == resource.RLIM_INFINITY else
                   limit - 1024 * lines["VmSize:"])
    if needed > free:
        raise InputError(f"{path}: {rows} x {columns} cells need about {needed / 1e9:.1f} GB of "
                         f"memory, {max(free, 0) / 1e9:.1f} GB are free; cut out a part first: "
                         f"ncks -d x,0,999 -d y,0,999 {Path(path).name} PART.nc")


def read_map(path, record=-1, names=None, units=None, densities=None, sha256=None):
    """Read an ice-sheet map in any of the usual layouts; returns a map (see the top of this file).

    Variables are found by CF standard name, then by name (see find_variable); any axis order; y up
    or down; m or km. Fill values, declared or not, and NaN are missing. Thickness is usrf - lsrf
    where there is no thickness, the bed usrf - thk where there is no bed (see derived_bed).
    record: of a file with a time axis, from 0; -1 is the last. names: {field: variable}; units: of
    the axes, m or km, whatever the file says; densities: of ice and sea water [kg m-3]; sha256: of
    the file, where it is known.
    Raises InputError with one line that names the file and what to do.
    """
    with open_netcdf(path) as ds:
        found, axes, notes, taken = find_variables(ds, path, names or {}, units=units)
        (x_dim, x, factor), (y_dim, y, _) = axes["x"], axes["y"]
        dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
        if not np.isclose(dx, dy, rtol=1e-3):
            raise InputError(f"{path}: cells of {dx:g} m by {dy:g} m; expected square cells")

        check_memory(path, len(y), len(x))

        def read(field):
            return read_field(found[field], field, axes, record, path, counts)

        counts = {}
        topg = read("topg") if "topg" in found else None
        usrf = None
        if "usrf" in found and not {"thk", "topg"} <= found.keys():
            try:
                usrf = read("usrf")
            except InputError as error:
                if "thk" not in found:
                    raise
                notes.append(f"no bed from the surface ({error})")  # --bed may have one
        thk = read("thk") if "thk" in found else usrf - read("lsrf")
        topg_error = read("topg_error") if {"topg", "topg_error"} <= found.keys() else None
        topg_change, first = None, found["thk" if "thk" in found else "usrf"]
        notes += [text.replace("{}", str(n)) for text, n in counts.items() if n]
        if topg is None and usrf is not None:
            topg = derived_bed(thk, usrf, densities or DENSITIES, notes)
        elif topg is not None and pick_record(found["topg"], x_dim, y_dim, -1, path)[2] > 1:
            topg_change = topg - read_field(found["topg"], "topg", axes, 0, path)
        picked = pick_record(first, x_dim, y_dim, record, path, is_asked_for=True)
        about = {"crs": projections.read_crs(ds, first, notes, factor),
                 "citation": find_citation(ds), "record": picked[1],
                 "record_text": record_text(ds, *picked), "notes": tuple(notes), "taken": taken,
                 "records": (picked[0], picked[2]) if picked[0] else next((
                     (dim, 1) for dim in first.dimensions if dim.lower() in ("time", "t")), None)}
        texts = {key.lower(): str(ds.getncattr(key)) for key in ds.ncattrs()}
    # Both axes ascending, whatever the file's order.
    flips = tuple(-1 if axis[0] > axis[-1] else 1 for axis in (y, x))
    flip = tuple(slice(None, None, step) for step in flips)
    fields = {key: None if values is None else values[flip] for key, values in (
        ("thk", thk), ("topg", topg), ("usrf", usrf), ("topg_change", topg_change),
        ("topg_error", topg_error))}
    return make_map(np.sort(x), np.sort(y), **fields, **about, path=Path(path), flips=flips,
                    name=Path(path).name, sha256=sha256 or file_sha256(path),
                    title=texts.get("title", ""), synthetic=texts.get("synthetic") == "yes")


def bed_of_map(ice_map):
    """The bed of a map in memory, as open_bed gives that of a file; None where the map has none."""
    if ice_map["topg"] is None:
        return None
    reads = {name: (lambda rows, columns, field=ice_map[key]: field[rows, columns])
             if ice_map[key] is not None else None
             for name, key in (("read", "topg"), ("read_error", "topg_error"))}
    return {key: ice_map[key] for key in (
        "x", "y", "spacing_m", "name", "path", "sha256", "crs", "citation", "record_text", "taken",
        "notes")} | reads | {"change": None}


@contextlib.contextmanager
def open_bed(path, record=-1, names=None, units=None):
    """The bed of a map file, to be read in parts: it may be far larger than memory.

    Yields a *bed*, a dict of x, y, spacing_m, name, path, sha256, crs, citation, record_text, taken
    and notes as in a map, and read(rows, columns): topg (y, x) float32 [m] of two slices of the
    ascending axes, NaN where missing. read_error: the same of its standard error, or None. change:
    None, or a bed of what is to be added to it [m]. The file is open as long as the block lasts.
    record: of a bed with a time axis; -1 is the last; else as in read_map.
    Raises InputError as read_map does, and where there is no bed in the file.
    """
    with open_netcdf(path) as ds:
        names = {field: name for field, name in (names or {}).items()
                 if field.startswith("topg") or (field in "xy" and name in ds.variables)}
        found, axes, notes, taken = find_variables(ds, path, names, ("topg", "topg_error"), units)
        (x_dim, x, factor), (y_dim, y, _), variable = axes["x"], axes["y"], found["topg"]

        def in_file(part, values):
            """The slice of the file's own axis, and the step that makes it ascending."""
            start, stop, _ = part.indices(len(values))
            if values[0] < values[-1]:
                return slice(start, stop), 1
            return slice(len(values) - stop, len(values) - start), -1

        def read(rows, columns, field="topg"):
            (rows, step_y), (columns, step_x) = in_file(rows, y), in_file(columns, x)
            values = read_field(found[field], field, axes, record, path, None, rows, columns)
            return values[::step_y, ::step_x]

        picked = pick_record(variable, x_dim, y_dim, record, path, is_asked_for=True)
        counts, step, known = {}, max(READ_CELLS // len(x), 1), False
        for start in range(0, len(y), step):  # what is wrong anywhere is said before the work
            known |= bool(np.isfinite(read_field(
                variable, "topg", axes, record, path, counts, slice(start, start + step))).any())
        if not known:
            raise InputError(f"{path}: {variable.name} is missing everywhere; give another bed")
        notes += [text.replace("{}", str(n)) for text, n in counts.items() if n]
        crs = projections.read_crs(ds, variable, notes, factor)
        error = functools.partial(read, field="topg_error") if "topg_error" in found else None
        yield {"x": np.sort(x), "y": np.sort(y), "spacing_m": abs(x[-1] - x[0]) / (len(x) - 1),
               "read": read, "read_error": error, "change": None, "name": Path(path).name,
               "path": Path(path), "sha256": file_sha256(path), "crs": crs, "taken": taken,
               "citation": find_citation(ds), "record_text": record_text(ds, *picked),
               "notes": tuple(notes)}
