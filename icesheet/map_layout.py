"""The layout of a map file: which variables hold the fields and the axes, in which units.

Variables are recognised by the user's --variables, by CF standard name, or by the names that models
and data sets use. Nothing is read here but attributes and axes; fields are read in map_files.py.
"""

import warnings

import numpy as np

import utils
from icesheet import command_line
from icesheet.command_line import InputError
from icesheet.units import parse_length_units

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
# Names of each field in map files; then ambiguous ones, too short or too general, which count only
# beside another field. The CF standard name goes before both.
VARIABLE_NAMES = {
    "x": ("x x1 xc easting x_coordinate xcoord X", ""),
    "y": ("y y1 yc northing y_coordinate ycoord Y", ""),
    "thk": ("thk thickness ice_thickness land_ice_thickness lithk H_ice Hi thck", "H"),
    "topg": ("topg bed bed_topography bedrock_altitude bedrock bed_elevation z_bed Hb", "zl b"),
    "usrf": ("usrf usurf surface_topography surface_altitude orog z_srf Hs zs", "surface topo s"),
    "lsrf": ("lsrf ice_base z_base", "base zb"),
    "topg_std": ("topg_std errbed bed_error bed_uncertainty z_bed_err bed_err", ""),
}
MAP_FIELDS = ("thk", "topg", "usrf", "lsrf", "topg_std")
BED_FIELDS = ("topg", "topg_std")
# What parse_map_options returns without any option.
DEFAULT_OPTIONS = {"names": {}, "units": {}, "densities": None, "sea_level_m": None}
MAX_SEA_LEVEL_M = 500
MIN_DOMAIN_WIDTH_M = 5000  # a narrower axis without units is in km: no ice sheet is 5 km wide
MAX_COORDINATE_M = 2e7  # no place is farther from the origin of a projection


def add_map_arguments(parser):
    """Add the options of all scripts that read a map: variables, units, densities, sea level."""
    parser.add_argument("--variables", nargs="+", action="extend", metavar="FIELD=VAR",
                        help="names of variables that are not recognised automatically, e.g. "
                        "thk=VAR topg=VAR (also usrf, lsrf, topg_std, x, y)")
    parser.add_argument("--xy-units", choices=("m", "km"),
                        help="unit of x and y; overrides the file's attributes")
    parser.add_argument("--units", nargs="+", action="extend", metavar="FIELD=UNIT",
                        help="units of fields, m or km, e.g. topg=m; override the file's")
    parser.add_argument("--densities", type=float, nargs=2, metavar=("ICE", "SEA"),
                        help="densities of ice and sea water [kg m-3] (default: those of the run, "
                             "or {:g} {:g})".format(*utils.DENSITIES))
    parser.add_argument("--sea-level", type=float, metavar="M", help="height of the sea level in "
                        "the map and the bed [m], for flotation (default: 0)")


def parse_map_options(args):
    """Return the options of add_map_arguments, checked, as keyword arguments of read_map."""
    for word in args.units or []:
        if "=" not in word:
            raise InputError(f"--units is now --xy-units; units of a field: --units {word}: "
                             "expected FIELD=m or FIELD=km")
    for name in ("variables", "xy_units", "units", "sea_level"):
        if getattr(args, name) and vars(args).get("input", "") is None:
            raise InputError(f"--{name.replace('_', '-')} describes the input map; add --input "
                             "MAP.nc")
    names = parse_pairs("--variables", args.variables, VARIABLE_NAMES, "VAR")
    fields = [field for field in VARIABLE_NAMES if field not in "xy"]
    units = parse_pairs("--units", args.units, fields, "UNIT")
    for field, unit in units.items():
        if unit not in ("m", "km"):
            raise InputError(f"--units {field}={unit}: expected {field}=m or {field}=km")
    if args.xy_units:
        units |= {"x": args.xy_units, "y": args.xy_units}
    if args.densities and not 500 < args.densities[0] < args.densities[1] < 1500:
        raise InputError("--densities {:g} {:g}: expected the densities of ice and of sea water, "
                         "500 to 1500 kg m-3, ice lighter".format(*args.densities))
    if args.sea_level is not None and not abs(args.sea_level) <= MAX_SEA_LEVEL_M:
        raise InputError(f"--sea-level {args.sea_level:g}: expected metres, -{MAX_SEA_LEVEL_M} to "
                         f"{MAX_SEA_LEVEL_M}")
    return {"names": names, "units": units, "densities": args.densities,
            "sea_level_m": args.sea_level}


def parse_pairs(option, pairs, fields, what):
    """Return the pairs FIELD=VALUE of an option as a dict; InputError for other words."""
    values = {}
    for pair in pairs or []:
        field, _, value = pair.partition("=")
        if field not in fields or not value:
            raise InputError(f"{option} {pair}: expected FIELD={what}, with FIELD one of "
                             f"{', '.join(fields)}")
        if field in values:
            raise InputError(f"{option} {field}={values[field]} and {field}={value}: {field} is "
                             "named twice; give one of them")
        values[field] = value
    return values


def is_numeric(variable):
    """Return whether a NetCDF variable holds plain numbers: no text, compound, ragged or enum."""
    return isinstance(variable.datatype, np.dtype) and variable.datatype.kind in "iuf"


def text_attribute(variable, key):
    """Return an attribute of a variable as text; "" if it is absent or not a text."""
    value = getattr(variable, key, "")
    return value if isinstance(value, str) else ""


def numeric_attribute(variable, key, default, path):
    """Return an attribute of a variable as a number; InputError if it is none."""
    value = getattr(variable, key, default)
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, str) or not np.isfinite(number) or (key, number) == ("scale_factor", 0):
        raise InputError(f"{path}: {variable.name} has the {key} {value!r}, expected a number; "
                         "fix the attribute (ncatted)")
    return number


def describe_contents(ds):
    """Return the variables of a file for an error message, at most ten, and its groups."""
    names = list(ds.variables)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    groups = f"; groups {', '.join(list(ds.groups)[:10])}, which are not read" if ds.groups else ""
    return f"it has {', '.join(names[:10]) or 'no variables'}{more}{groups}"


def find_variable(variables, field, names, path, ds, strict=True):
    """Find the variable that holds `field` (a key of VARIABLE_NAMES), or return None.

    Order: the user's `names` {field: name}; the CF standard name; the known names, ignoring case.
    strict: skip the ambiguous names. Raises InputError if the user's name cannot be read.
    """
    if field in names:
        return get_named_variable(ds, path, field, names[field])
    ranked = [(rank, variable) for variable in variables
              if (rank := rank_candidate(variable, field, names, strict)) is not None]
    return min(ranked, key=lambda pair: pair[0], default=(None, None))[1]


def fields_by_name_and_standard_name(variable):
    """Return the fields that a variable holds by its own name and by its standard name, or None."""
    name, standard_name = variable.name.lower(), text_attribute(variable, "standard_name")
    by_name = next((field for field, (known, _) in VARIABLE_NAMES.items()
                    if name in known.lower().split()), None)
    return by_name, next((field for field, known in STANDARD_NAMES.items()
                          if known == standard_name), None)


def check_contradictions(variables, field, names, path):
    """Raise InputError if name and standard name of a variable disagree on `field`.

    Not if another variable holds the field by both, or if the user named it.
    """
    claims = [(variable, *fields_by_name_and_standard_name(variable)) for variable in variables
              if variable.name not in names.values()]
    if field in names or any(by_name == by_standard_name == field
                             for _, by_name, by_standard_name in claims):
        return
    for variable, by_name, by_standard_name in claims:
        if None not in (by_name, by_standard_name) and by_name != by_standard_name and (
                field in (by_name, by_standard_name)):
            raise InputError(
                f"{path}: {variable.name} is {by_name} by its name, but {by_standard_name} by its "
                f"standard name {STANDARD_NAMES[by_standard_name]}; say which variables hold them "
                f"with --variables {by_name}=VAR {by_standard_name}=VAR, and fix the attribute")


def get_named_variable(ds, path, field, name):
    """Return the variable that the user named for a field; InputError if it cannot be read."""
    if name not in ds.variables:
        raise InputError(f"{path}: --variables {field}={name}: no such variable; "
                         + describe_contents(ds))
    if not is_numeric(ds[name]):
        raise InputError(f"{path}: --variables {field}={name}: holds no plain numbers "
                         f"({command_line.one_line(ds[name].datatype)[:60]}); choose another one")
    return ds[name]


def rank_candidate(variable, field, names, strict):
    """Return how well a variable fits a field, a tuple of which the least is best; None if not.

    A variable whose name or standard name belongs to another field is ignored. Arguments as in
    find_variable.
    """
    accepted_names = VARIABLE_NAMES[field][not strict].split()
    accepted_lower = [name.lower() for name in accepted_names]
    standard_name = text_attribute(variable, "standard_name")
    is_known_name = variable.name.lower() in accepted_lower
    is_of_another_field = set(fields_by_name_and_standard_name(variable)) - {None, field}
    is_of_sea_ice = standard_name.startswith("sea_ice")
    if variable.name in names.values() or is_of_another_field or (
            is_known_name and standard_name and (not strict or is_of_sea_ice)):
        return None
    has_standard_name = standard_name == STANDARD_NAMES[field]
    has_axis = field in "xy" and text_attribute(variable, "axis") == field.upper()
    if not (is_known_name or has_axis or strict and has_standard_name):
        return None
    position = accepted_lower.index(variable.name.lower()) if is_known_name else len(accepted_lower)
    return not has_standard_name, position, variable.name not in accepted_names


def find_fields_and_axes(ds, path, names, wanted=MAP_FIELDS, units=None):
    """Find what a map file holds; a dict.

    fields: {field or x, y: variable}; axes: {x, y: (dimension, values [m], metres per file unit)},
    those of the first of `wanted` that is there; surface: the variable of the surface, if it is
    only needed to check the others; notes: what was assumed; summary: variables read; units.
    names: {field: variable} and units: {field: m or km} of the user's, instead of the file's;
    wanted: fields to look for. Raises InputError if there is none of `wanted`.
    """
    units, axes, notes = units or {}, {}, []
    fields = find_fields(ds, path, names, wanted, units)
    main_field = next(fields[field] for field in wanted if field in fields)
    for name in "xy":
        axis = fields[name] = find_axis(ds, path, name, names, main_field)
        # --xy-units is about the map: the axes of a bed file keep the units that they declare
        if "thk" not in wanted and parse_length_units(axis):
            units = {field: unit for field, unit in units.items() if field != name}
        axes[name] = (axis_dimension(axis), *read_axis(axis, path, units.get(name), notes))
        by_name = fields_by_name_and_standard_name(axis)[0]
        if name in names and by_name in ("x", "y") and by_name != name:
            notes.append(f"warning: --variables {name}={axis.name}: by its name this is the other "
                         "axis; if it is not, the map is read transposed")
    if axes["x"][0] == axes["y"][0] or len(set(main_field.dimensions)) < main_field.ndim:
        raise InputError(f"{path}: x and y share the dimension {axes['x'][0]}, so the orientation "
                         f"of {main_field.name} {main_field.dimensions} is ambiguous; expected one "
                         "dimension each. Rename one (ncrename -d), or attach an HDF5 dimension "
                         "scale")
    surface = drop_unused_fields(fields, axes, names, wanted, notes)
    axis_units = units.get("y") or parse_length_units(fields["x"]) or "no units"
    summary = ", ".join(f"{field} = {fields[field].name}" for field in wanted if field in fields)
    summary += f", axes {fields['x'].name} {fields['y'].name} ({axis_units})"
    return {"fields": fields, "axes": axes, "surface": surface, "notes": notes, "units": units,
            "summary": summary}


def find_fields(ds, path, names, wanted, units):
    """Find the variables of the fields `wanted`: {field: variable}; InputError if there are none.

    An ambiguous name counts beside another field, and for a bed.
    """
    grids = [variable for variable in ds.variables.values() if variable.ndim >= 2
             and is_numeric(variable)]
    fields = {field: variable for field in wanted
              if (variable := find_variable(grids, field, names, path, ds)) is not None}
    needed = ("thk", "topg") if "thk" in fields else ("usrf", "lsrf", "thk", "topg")
    for field in [field for field in needed if field in wanted]:
        check_contradictions(grids, field, names, path)
    ambiguous = {field: variable for field in wanted if field not in fields and (
        variable := find_variable(grids, field, {}, path, ds, strict=False)) is not None
        and (field in units or parse_length_units(variable) is not None)}
    if len(fields) + len(ambiguous) > 1 or wanted[0] == "topg":
        fields |= ambiguous
    if wanted[0] not in fields and not {"usrf", "lsrf"} <= fields.keys():
        what = "ice thickness (thk, thickness, H_ice ..., or usrf and lsrf)" if (
            "thk" in wanted) else "bed (topg, bed, z_bed ..., standard name bedrock_altitude)"
        raise InputError(f"{path}: no {what}, {describe_contents(ds)}; name it with --variables "
                         f"{wanted[0]}=VAR")
    return fields


def axis_dimension(variable):
    """Return the dimension of a coordinate variable, 1-D or (n, 1) as in MATLAB; else None."""
    long_dims = [dim for dim, size in zip(variable.dimensions, variable.shape, strict=True)
                 if size != 1]
    if variable.ndim == 1 or variable.ndim == 2 and len(long_dims) == 1:
        return (long_dims or variable.dimensions)[0]
    return None


def find_axis(ds, path, name, names, main_field):
    """Find the coordinate variable `name`, x or y, of a field; InputError if there is none."""
    axis_candidates = [variable for variable in ds.variables.values() if is_numeric(variable)
                       and axis_dimension(variable) in main_field.dimensions]
    axis = find_variable(axis_candidates, name, names, path, ds)
    check_contradictions(axis_candidates, name, names, path)
    lonlat = [variable for variable in ds.variables.values()
              if variable.name.lower()[:3] in ("lon", "lat")]
    if axis is None and any(variable.ndim < 2 and (variable in axis_candidates or not
                                                   axis_candidates) for variable in lonlat):
        raise degrees_error(path, f"no {name}, the axes are longitude and latitude")
    if axis is None or axis_dimension(axis) not in main_field.dimensions:
        contents = describe_contents(ds) if axis_candidates or not lonlat else (
            f"{', '.join(variable.name for variable in lonlat)} are 2-D")
        y_dim, x_dim = main_field.dimensions[-2:]
        raise InputError(f"{path}: no 1-D coordinate variable {name} of {main_field.name} "
                         f"{main_field.dimensions}, {contents}; name it with --variables "
                         f"{name}=VAR, or add projected axes in m: ncap2 -s 'x=array(X0,DX,"
                         f"${x_dim}); y=array(Y0,DY,${y_dim})' IN.nc OUT.nc")
    if name not in names:
        check_rival_axes(axis, axis_candidates, name, path)
    return axis


def check_rival_axes(axis, axis_candidates, name, path):
    """Raise InputError if a dimension has two different coordinates in x, or in y.

    The grids of thickness and bed may differ then, though their sizes are equal. Numbers of cells,
    and the same places in another unit, are no other coordinates.
    """
    def in_cells(variable):  # place of the first cell in cells, spacing in units of the file
        values = read_values(variable).filled(np.nan).ravel()
        spacing = (values[-1] - values[0]) / max(len(values) - 1, 1)
        return values[0] / spacing if spacing else np.nan, abs(spacing)

    start, _ = in_cells(axis)
    for rival in axis_candidates:
        if rival is axis or axis_dimension(rival) != axis_dimension(axis) or (
                rival.name[0].lower() != name) or parse_length_units(rival) is None:
            continue
        rival_start, rival_spacing = in_cells(rival)
        if rival_spacing != 1 and abs(rival_start - start) > 0.25:
            raise InputError(f"{path}: {axis.name} and {rival.name} are different coordinates of "
                             f"the dimension {axis_dimension(axis)}, so its fields may lie on "
                             "different grids; write one file for each grid, or say --variables "
                             f"{name}=VAR")


def drop_unused_fields(fields, axes, names, wanted, notes):
    """Remove fields on other axes, and surfaces that are not needed, unless the user named them.

    Returns the variable of the surface if it was not needed, else None.
    """
    for field in [field for field in wanted if field in fields and field not in names]:
        if not {axes["x"][0], axes["y"][0]} <= set(fields[field].dimensions):
            notes.append(f"warning: {field} = {fields[field].name} is not read: it lies on other "
                         f"dimensions, {', '.join(fields[field].dimensions)}")
            del fields[field]
    surface = fields.get("usrf") if {"thk", "topg"} <= fields.keys() else None
    for field, sufficient in (("usrf", {"thk", "topg"}), ("lsrf", {"thk"})):
        if sufficient <= fields.keys() and field not in names:
            fields.pop(field, None)
    return surface


def read_values(variable, index=...):
    """Read a NetCDF variable as float64, masked if missing; InputError if it is unreadable."""
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
    """Return the InputError for axes in degrees."""
    return InputError(f"{path}: {why}; expected projected x and y in m or km: reproject "
                      "the map first (gdalwarp, cdo), or say --xy-units m or km")


def read_axis(variable, path, forced_units, notes):
    """Read a coordinate in metres; returns its values and the metres per unit of the file.

    forced_units: m or km from the user, instead of the attributes. notes: extended by assumptions.
    Deviations from even spacing up to the rounding error of the data type are accepted, and the
    exact axis is restored.
    """
    variable.set_auto_mask(False)  # no coordinate is missing: -9999 m is one, whatever the fill
    values = read_values(variable).filled(np.nan).ravel()
    variable.set_auto_mask(True)
    description = " ".join(str(getattr(variable, key, "")) for key in (
        "units", "standard_name", "long_name", "name")).lower()
    if forced_units is None and not parse_length_units(variable) and any(
            word in description for word in ("degree", "longitude", "latitude")):
        raise degrees_error(path, f"{variable.name}: the axes are longitude and latitude")
    if len(values) < 2 or not (np.abs(values) < 1e9).all():  # no place on Earth is so far away
        raise InputError(f"{path}: {variable.name} has " + (
            f"{len(values)} cells, expected 2 or more" if len(values) < 2 else "missing values")
            + "; fix the axis")
    values = restore_exact_axis(variable, values, path)
    unit = resolve_axis_units(variable, values, path, forced_units, notes)
    metres_per_unit = 1000 if unit == "km" else 1
    if np.abs(values).max() * metres_per_unit > MAX_COORDINATE_M:
        raise InputError(f"{path}: {variable.name} reaches {np.abs(values).max():g} {unit} from "
                         f"the origin, farther than {MAX_COORDINATE_M / 1000:g} km; fix its units"
                         + ", or say --xy-units m" * (unit == "km"))
    return values * metres_per_unit, metres_per_unit


def restore_exact_axis(variable, values, path):
    """Return an evenly spaced axis without its rounding errors; InputError if it is uneven."""
    n, max_abs = len(values), np.abs(values).max()
    spacing = (values[-1] - values[0]) / (n - 1)
    rounding = 1.0 if variable.dtype.kind in "iu" else 0.0
    if (values == values.astype(np.float32)).all():
        rounding = max(rounding, 2 * float(np.spacing(np.float32(max_abs))))
    deviation = np.abs(values - values[0] - spacing * np.arange(n)).max()
    if spacing == 0 or deviation > min(max(1e-3 * abs(spacing), rounding), 0.3 * abs(spacing)):
        i = int(np.argmax(np.abs(np.diff(values) - spacing)))
        raise InputError(f"{path}: {variable.name} is not evenly spaced (cells {i} and {i + 1} are "
                         f"{values[i + 1] - values[i]:g} apart, the mean is {spacing:g}); "
                         "interpolate the map to a regular grid first")
    if deviation > 0 and rounding:
        for digits in range(1, 16):  # the roundest spacing that the values allow
            rounded = float(f"{spacing:.{digits}g}")
            if abs(rounded - spacing) * (n - 1) <= rounding:
                return np.mean(values - rounded * np.arange(n)) + rounded * np.arange(n)
    return values


def resolve_axis_units(variable, values, path, forced_units, notes):
    """Return the unit of an axis, m or km, by the user, the file or the values; else InputError."""
    if forced_units is not None:
        return forced_units
    declared_units, max_abs = parse_length_units(variable), np.abs(values).max()
    spacing = abs(values[-1] - values[0]) / (len(values) - 1)
    if declared_units == "" and spacing == 1 and values.min() in (0, 0.5, 1):
        raise InputError(f"{path}: {variable.name} is {values[0]:g}, {values[1]:g} ... without "
                         "units: cell numbers, not coordinates in m or km; write coordinates into "
                         "the file, or say --xy-units km if its cells are 1 km wide")
    if declared_units != "km" and max_abs <= 360 and spacing < 5:
        raise degrees_error(path, f"{variable.name} from {values[0]:g} to {values[-1]:g}, "
                                  f"{spacing:g} apart, looks like degrees")
    if declared_units is None:
        raise InputError(f"{path}: {variable.name} has units '{variable.units}'; expected m or km. "
                         "If they are metres or kilometres under another name, add --xy-units m "
                         "(or km)")
    width = spacing * len(values)
    if declared_units == "" and width < MIN_DOMAIN_WIDTH_M and max_abs < 20000:
        notes.append(f"{variable.name} declares no units and is {width:g} wide: km assumed (else "
                     "--xy-units m)")
        return "km"
    return declared_units or "m"
