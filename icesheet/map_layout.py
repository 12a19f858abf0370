"""icesheet.map_layout."""

import re
import warnings

import numpy as np

import utils
from icesheet import command_line
from icesheet.command_line import InputError

# CF standard names of the fields of a map.
STANDARD_NAMES = {
    "x": "projection_x_coordinate",
    "y": "projection_y_coordinate",
    "thk": "land_ice_thickness",
    "topg": "bedrock_altitude",
    "topg_std": "bedrock_altitude standard_error",
    "usrf": "surface_altitude",
    "lsrf": "land_ice_basal_altitude",
}
# Names of each field in map files, then those too short or too general to be sure of, which count
# only beside another field. Its CF standard name goes before both.
VARIABLE_NAMES = {
    "x": ("x x1 xc easting x_coordinate xcoord X", ""),
    "y": ("y y1 yc northing y_coordinate ycoord Y", ""),
    "thk": ("thk thickness ice_thickness land_ice_thickness lithk H_ice Hi thck", "H"),
    "topg": ("topg bed bed_topography bedrock_altitude bedrock bed_elevation z_bed Hb", "zl b"),
    "usrf": ("usrf usurf surface_topography surface_altitude orog z_srf Hs zs", "surface topo s"),
    "lsrf": ("lsrf ice_base z_base", "base zb"),
    "topg_std": ("topg_std errbed bed_error bed_uncertainty z_bed_err bed_err", ""),
}
LENGTH_UNITS = re.compile(  # metres or kilometres, and words after it that do not change the length
    r"(km|kilomet(?:er|re)s?|m|met(?:er|re)s?)[ .,(]*(?:(?:a\.? ?(?:m\.? ?)?s\.? ?l|above .*"
    r"|(?:of )?ice(?: thickness| eq(?:uivalent)?)?)[.)]*)?", re.IGNORECASE)
UNITLESS = ("", "1", "-", "none", "no unit", "unitless")
DEFAULT_OPTIONS = {"names": {}, "units": None, "densities": None}  # see parse_map_options
MIN_DOMAIN_WIDTH_M = 5000  # an axis without units that is narrower is in km: no ice sheet is 5 km wide


def add_map_arguments(parser):
    """Add the options of all scripts that read a map: --variables, --xy-units, --densities."""
    parser.add_argument("--variables", nargs="+", metavar="FIELD=VAR", help="variables of the map that "
                        "are not found by themselves: thk=VAR topg=VAR usrf=VAR x=VAR y=VAR")
    parser.add_argument("--xy-units", choices=("m", "km"), help="of x and y, whatever the map says")
    parser.add_argument("--densities", type=float, nargs=2, metavar=("ICE", "SEA"),
                        help="of ice and sea water, kg m-3 (default: those of the run, or "
                             "{:g} {:g})".format(*utils.DENSITIES))


def parse_map_options(args):
    """The options of add_map_arguments, checked, as arguments of read_map."""
    for name in ("variables", "xy_units"):
        if getattr(args, name) and vars(args).get("input", "") is None:
            raise InputError(f"--{name.replace('_', '-')}: goes with --input MAP.nc")
    names = dict(pair.partition("=")[::2] for pair in args.variables or [])
    for field, name in names.items():
        if field not in VARIABLE_NAMES or not name:
            raise InputError(f"--variables {field}={name}: expected FIELD=VAR, with one of "
                             f"{', '.join(VARIABLE_NAMES)}")
    if args.densities and not 500 < args.densities[0] < args.densities[1] < 1500:
        raise InputError("--densities {:g} {:g}: expected those of ice and of sea water, kg m-3, "
                         "ice lighter".format(*args.densities))
    return {"names": names, "units": args.xy_units, "densities": args.densities}


def is_numeric(variable):
    """Whether a NetCDF variable holds plain numbers: no text, compound, complex, ragged or enum."""
    return isinstance(variable.datatype, np.dtype) and variable.datatype.kind in "iuf"


def text_attribute(variable, key):
    """An attribute of a variable as text; "" where it has none, or one that is no text."""
    value = getattr(variable, key, "")
    return value if isinstance(value, str) else ""


def numeric_attribute(variable, key, default, path):
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


def describe_contents(ds):
    """The variables of a file for an error message, ten at most, and its groups."""
    names = list(ds.variables)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    groups = f"; groups {', '.join(list(ds.groups)[:10])}, which are not read" if ds.groups else ""
    return f"it has {', '.join(names[:10]) or 'no variables'}{more}{groups}"


def find_variable(variables, field, names, path, ds, sure=True):
    """The one of `variables` that holds `field` (a key of VARIABLE_NAMES), or None.

    names: {field: name} of the user's, which are believed. Else the standard name decides, then the
    names of VARIABLE_NAMES, in any case; sure: only those that are sure. A name whose standard name is that
    of something else does not count.
    """
    if field in names:
        if names[field] not in ds.variables:
            raise InputError(f"{path}: --variables {field}={names[field]}: no such variable; "
                             + describe_contents(ds))
        if not is_numeric(ds[names[field]]):
            raise InputError(f"{path}: --variables {field}={names[field]}: holds no plain numbers "
                             f"({command_line.one_line(ds[names[field]].datatype)[:60]}); choose another one")
        return ds[names[field]]
    listed = VARIABLE_NAMES[field][not sure].split()
    lower = [name.lower() for name in listed]
    other = set(STANDARD_NAMES.values()) - {STANDARD_NAMES[field]}

    def rank(variable):
        standard = text_attribute(variable, "standard_name")
        named = variable.name.lower() in lower
        if variable.name in names.values() or standard in other or (
                standard and named and (not sure or standard.startswith("sea_ice"))):
            return None
        place = (lower.index(variable.name.lower()), variable.name not in listed) if named else (
            len(lower), True)
        by_axis = field in "xy" and text_attribute(variable, "axis") == field.upper()
        return (standard != STANDARD_NAMES[field], *place) if (
            named or by_axis or sure and standard == STANDARD_NAMES[field]) else None

    ranked = [(rank(variable), variable) for variable in variables]
    return min((pair for pair in ranked if pair[0]), key=lambda pair: pair[0],
               default=(None, None))[1]


def find_fields_and_axes(ds, path, names, wanted=("thk", "topg", "usrf", "lsrf", "topg_std"),
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
        and parse_length_units(variable) is not None}
    if len(fields) + len(unsure) > 1 or "topg" in wanted[:1]:
        fields |= unsure
    first = next((fields[field] for field in wanted if field in fields), None)
    if wanted[0] not in fields and not {"usrf", "lsrf"} <= fields.keys():
        what = "ice thickness (thk, thickness, H_ice ..., or usrf and lsrf)" if (
            "thk" in wanted) else "bed (topg, bed, z_bed ..., standard name bedrock_altitude)"
        raise InputError(f"{path}: no {what}, {describe_contents(ds)}; name it with --variables "
                         f"{wanted[0]}=VAR")
    axes, notes = {}, []
    for name in "xy":
        lines = [variable for variable in ds.variables.values() if variable.ndim == 1
                 and variable.dimensions[0] in first.dimensions
                 and is_numeric(variable)]
        axis = find_variable(lines, name, names, path, ds)
        if axis is None and any(one.name.lower()[:3] in ("lon", "lat") for one in
                                (lines or ds.variables.values())):
            raise degrees_error(path, f"no {name}, the axes are longitude and latitude")
        if axis is None or axis.ndim != 1 or axis.dimensions[0] not in first.dimensions:
            raise InputError(f"{path}: no 1-D coordinate variable {name} of {first.name} "
                             f"{first.dimensions}, {describe_contents(ds)}; name it with --variables {name}=VAR")
        told = None if "thk" not in wanted and parse_length_units(axis) else units  # --xy-units: the map's
        axes[name] = (axis.dimensions[0], *read_axis(axis, path, told, notes))
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
    said = parse_length_units(fields["x"])
    text = ", ".join(f"{field} = {fields[field].name}" for field in wanted if field in fields)
    text += f", axes {fields['x'].name} {fields['y'].name} ({told or said or 'no units'})"
    return fields, axes, notes, text


def parse_length_units(variable):
    """ "m", "km", "" where a variable says no units, None where they are no length."""
    units = str(getattr(variable, "units", "")).strip()
    if units.lower() in UNITLESS:
        return ""
    match = LENGTH_UNITS.fullmatch(units)
    return None if match is None else "km" if match[1][0] in "kK" else "m"


def read_values(variable, index=...):
    """Values of a NetCDF variable as float64, masked where missing; InputError if unreadable."""
    path = variable.group().filepath()
    for key, default in (("scale_factor", 1), ("add_offset", 0)):
        numeric_attribute(variable, key, default, path)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of attributes that do not fit the type
            return np.ma.asarray(variable[index], np.float64)
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise InputError(f"{path}: {variable.name} cannot be read, the file may be truncated "
                         f"({command_line.one_line(error)})") from None


def degrees_error(path, why):
    return InputError(f"{path}: {why}; expected projected x and y in m or km: reproject "
                      "the map first (gdalwarp, cdo), or say --xy-units m or km")


def read_axis(variable, path, units, notes):
    """Values of a coordinate variable in m, evenly spaced, and metres to a unit of it.

    notes: of what was assumed, added to.
    Even is what differs by no more than its type can hold; the exact axis is rebuilt. units: m or
    km, whatever the file says.
    """
    name, said = variable.name, parse_length_units(variable)
    variable.set_auto_mask(False)  # no coordinate is missing: -9999 m is one, whatever the fill
    values = read_values(variable).filled(np.nan)
    variable.set_auto_mask(True)
    n, about = len(values), " ".join(str(getattr(variable, key, "")) for key in
                                     ("units", "standard_name", "long_name")).lower()
    if units is None and not said and any(
            word in f"{about} {name.lower()}" for word in ("degree", "longitude", "latitude")):
        raise degrees_error(path, f"{name}: the axes are longitude and latitude")
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
        raise degrees_error(path, f"{name} from {values[0]:g} to {values[-1]:g}, {abs(step):g} "
                                    "apart, looks like degrees")
    if units is None and said is None:
        raise InputError(f"{path}: {name} has units '{variable.units}', expected m or km; say "
                         "--xy-units m or km")
    if units is None and said == "" and abs(step) * n < MIN_DOMAIN_WIDTH_M and reach < 20000:
        notes.append(f"{name} says no units and is {abs(step) * n:g} wide: taken for km (else "
                     "--xy-units m)")
        units = "km"
    factor = 1000 if (units or said) == "km" else 1
    return values * factor, factor
