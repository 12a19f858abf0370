"""Read the projection of a map file as a CF grid mapping in metres, and compare two projections."""

import re

import numpy as np

import utils
from icesheet import command_line

# Projections of PROJ strings: CF name; CF's keys of lon_0 and k_0.
CF_PROJECTIONS = {
    "stere": ("polar_stereographic", "straight_vertical_longitude_from_pole",
              "scale_factor_at_projection_origin"),
    "tmerc": ("transverse_mercator", "longitude_of_central_meridian",
              "scale_factor_at_central_meridian"),
    "laea": ("lambert_azimuthal_equal_area", "longitude_of_projection_origin", ""),
    "lcc": ("lambert_conformal_conic", "longitude_of_central_meridian", ""),
    "aea": ("albers_conical_equal_area", "longitude_of_central_meridian", ""),
}
ELLIPSOIDS = {"WGS84": (6378137.0, 298.257223563), "GRS80": (6378137.0, 298.257222101),
              "NAD83": (6378137.0, 298.257222101), "bessel": (6377397.155, 299.1528128),
              "intl": (6378388.0, 297.0)}
PROJ_NUMBERS = {"zone", "lat_0", "lat_ts", "lat_1", "lat_2", "lon_0", "k", "k_0", "x_0", "y_0", "a",
                "b", "rf", "R"}
PROJ_WORDS = {"proj", "south", "datum", "ellps", "units", "no_defs", "type", "wktext", "towgs84"}
GLOBAL_KEYS = ("proj4", "pyproj_srs", "crs", "spatial_ref", "crs_wkt", "proj", "projection", "epsg")
MAPPING_KEYS = {"grid_mapping_name", "spatial_ref", "crs_wkt", "proj4", "proj4_params"}
# Attributes of a grid mapping variable that are about its value, or about other cells.
NOT_OF_A_MAPPING = ("_fillvalue", "missing_value", "geotransform", "units", "coordinates",
                    "actual_range", "valid_range", "bounds")
POLAR = "+proj=stere +datum=WGS84 +lat_0={} +lat_ts={} +lon_0={}"
EPSG_TO_PROJ = {"3031": POLAR.format(-90, -71, 0), "3413": POLAR.format(90, 70, -45)} | {
    f"32{6 + south}{zone:02d}": f"+proj=utm +datum=WGS84 +zone={zone}{' +south' * south}"
    for zone in range(1, 61) for south in (0, 1)}
# Antarctic polar stereographic, and the largest |x|, |y| of its maps [m].
EPSG_3031 = {
    "grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
    "standard_parallel": -71.0, "straight_vertical_longitude_from_pole": 0.0, "false_easting": 0.0,
    "false_northing": 0.0, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
    "epsg_code": "EPSG:3031",
}
MAX_ANTARCTIC_EXTENT_M = 3333e3


def read_crs(ds, variable=None, notes=None, metres_per_unit=1):
    """Return the grid mapping of a file, or {} with a note if its attributes have other types.

    Arguments and result as in find_grid_mapping.
    """
    notes = [] if notes is None else notes
    try:
        return find_grid_mapping(ds, variable, notes, metres_per_unit)
    except (TypeError, ValueError) as error:
        notes.append(f"projection not understood, left out: {command_line.one_line(error)}")
        return {}


def find_grid_mapping(ds, variable, notes, metres_per_unit):
    """Return the attributes of the grid mapping of a file, lengths in m, or {}.

    Sources, in this order: the mapping that `variable` (default: any) declares; the only one in the
    file; the global attributes. notes: extended by what was assumed. metres_per_unit: of the axes.
    """
    crs = (mapping_of_variable(ds, variable) or only_mapping(ds, variable is not None and notes)
           or mapping_from_globals(ds))
    if crs and "grid_mapping_name" not in crs:
        parsed = next(filter(None, (parse_crs(str(value)) for value in crs.values())), None)
        if parsed is None:
            notes.append("projection not understood, copied as text: "
                         + " ".join(str(next(iter(crs.values()))).split())[:60])
        return convert_crs_to_metres(
            parsed or crs, metres_per_unit if parsed and "crs_wkt" in parsed else 1)
    return convert_crs_to_metres(repair_polar_stereographic(crs, notes), metres_per_unit)


def read_mapping(variable):
    """Return the attributes of a grid mapping variable that describe the projection."""
    crs = {key: np.asarray(variable.getncattr(key)).tolist() for key in variable.ncattrs()
           if key.lower() not in NOT_OF_A_MAPPING and not key.startswith("_")}
    return {key: value for key, value in crs.items() if value not in ("", [])}


def mapping_of_variable(ds, variable):
    """Return the grid mapping that a variable (None: any) declares in either CF form, or {}."""
    for declaring in ds.variables.values() if variable is None else [variable]:
        words = str(getattr(declaring, "grid_mapping", "")).split()
        for word in words:  # "crs" or "crs: x y"
            name = word.rstrip(":")
            if (word.endswith(":") or len(words) == 1) and name in ds.variables and (
                    ds[name].ncattrs()):
                return read_mapping(ds[name])
    return {}


def only_mapping(ds, notes):
    """Return the grid mapping of a file that has exactly one, with a note if `notes` is a list."""
    candidates = [variable for variable in ds.variables.values()
                  if MAPPING_KEYS & set(variable.ncattrs())]
    if len(candidates) != 1:
        return {}
    if isinstance(notes, list):
        notes.append(f"projection: that of {candidates[0].name}, the only one in the file")
    return read_mapping(candidates[0])


def mapping_from_globals(ds):
    """Return what the global attributes of a file say of its projection, or {}."""
    crs = {key: str(ds.getncattr(key)).strip() for key in ds.ncattrs()
           if key.lower() in GLOBAL_KEYS}
    return {key: value for key, value in crs.items() if value}


def repair_polar_stereographic(crs, notes):
    """Return a grid mapping whose origin is the pole, where it was the latitude of true scale."""
    latitude = float(crs.get("latitude_of_projection_origin", 90))
    if crs.get("grid_mapping_name") != "polar_stereographic" or not 0 < abs(latitude) < 90 or (
            "standard_parallel" in crs):
        return crs
    notes.append(f"polar stereographic with its origin at {latitude:g}: assumed to be the latitude "
                 "of true scale")
    return {key: value for key, value in crs.items() if "scale_factor" not in key} | {
        "standard_parallel": latitude,
        "latitude_of_projection_origin": float(np.copysign(90, latitude))}


def convert_crs_to_metres(crs, metres_per_unit):
    """Return a grid mapping with lengths in m, from one for axes of `metres_per_unit`."""
    crs, wkts = dict(crs), [key for key in ("crs_wkt", "spatial_ref") if key in crs]
    kilometres = re.compile(r'"(?:kilomet[er]+s?|km)",\s*1000(?:\.0*)?', re.IGNORECASE)
    if metres_per_unit == 1 or (
            wkts and not any(kilometres.search(str(crs[key])) for key in wkts)):
        return crs  # a WKT in metres: the numbers beside it are metres too
    for key in ("false_easting", "false_northing"):
        if key in crs:
            crs[key] = float(crs[key]) * metres_per_unit
    for key in wkts:
        text = kilometres.sub('"metre",1', crs[key])
        text = re.sub(r'("false[ _](?:east|north)ing",)([-+.0-9eE]+)', lambda match: match[1]
                      + f"{float(match[2]) * metres_per_unit:g}", text, flags=re.IGNORECASE)
        crs[key] = re.sub(r',\s*(?:AUTHORITY|ID)\["EPSG",\s*"?\d+"?\]\s*\]$', "]", text)
    for key in ("proj4", "proj4_params"):
        if key in crs:
            crs[key] = str(crs[key]).replace("+units=km", "+units=m")
    return crs


def parse_crs(text):
    """Return the grid mapping of a PROJ string, a known EPSG code or a WKT; None if not understood.
    """
    if re.match(r"(PROJCS|PROJCRS|PROJECTEDCRS|COMPD_CS|COMPOUNDCRS|BOUNDCRS)\s*\[", text):
        return {"crs_wkt": text, "spatial_ref": text}
    code = re.fullmatch(r"(?:(?:\+?init=)?epsg:+)?(\d+)", text.strip(), re.IGNORECASE)
    text = EPSG_TO_PROJ.get(code[1], "") if code else text
    parameters = dict((word.lstrip("+").split("=") + [""])[:2] for word in text.split())
    projection = {"utm": "tmerc", "etmerc": "tmerc"}.get(
        parameters.get("proj"), parameters.get("proj"))
    try:
        numbers = {key: float(value) for key, value in parameters.items() if key in PROJ_NUMBERS}
        if parameters.get("proj") == "utm":
            numbers |= {"lon_0": 6 * numbers["zone"] - 183, "k_0": 0.9996, "x_0": 500000.0,
                        "y_0": 1e7 if "south" in parameters else 0.0}
    except (ValueError, KeyError):
        return None
    unknown = parameters.keys() - PROJ_NUMBERS - PROJ_WORDS
    if projection not in CF_PROJECTIONS or unknown or (
            parameters.get("units", "m") not in ("m", "km")) or (
            projection == "stere" and abs(numbers.get("lat_0", 0)) != 90):
        return None
    ellipsoid = parse_ellipsoid(parameters, numbers)
    if ellipsoid is None:
        return None
    name, longitude_key, scale_key = CF_PROJECTIONS[projection]
    crs = {"grid_mapping_name": name, "latitude_of_projection_origin": numbers.get("lat_0", 0.0),
           longitude_key: numbers.get("lon_0", 0.0), "false_easting": numbers.get("x_0", 0.0),
           "false_northing": numbers.get("y_0", 0.0)} | ellipsoid
    parallels = [numbers[key] for key in ("lat_ts", "lat_1", "lat_2") if key in numbers]
    if parallels:
        crs["standard_parallel"] = parallels[0] if len(parallels) == 1 else parallels
    elif scale_key:
        crs[scale_key] = numbers.get("k_0", numbers.get("k", 1.0))
    return crs


def parse_ellipsoid(parameters, numbers):
    """Return the ellipsoid of a PROJ string as CF attributes; None if its name is not known.

    parameters: words of the string; numbers: those with a numeric value.
    """
    ellipsoid = ELLIPSOIDS.get(parameters.get("datum", parameters.get("ellps", "WGS84")))
    a = numbers.get("a", numbers.get("R", ellipsoid and ellipsoid[0]))
    if a is None:
        return None
    if "R" in parameters or "b" in numbers:
        return {"semi_major_axis": a, "semi_minor_axis": a if "R" in parameters else numbers["b"]}
    return {"semi_major_axis": a, "inverse_flattening": numbers.get(
        "rf", ellipsoid[1] if ellipsoid else 298.257223563)}


def describe_crs_differences(crs, other):
    """Return the parameters in which two grid mappings differ, for a reader; "" if none do.

    Compared are the name and all numbers that both have; texts (WKT, long_name) are not.
    """
    differences = []
    for key in crs.keys() & other.keys():
        if key == "grid_mapping_name":
            same = crs[key] == other[key]
        elif isinstance(crs[key], str) or isinstance(other[key], str):
            continue
        else:
            a, b = np.ravel(crs[key]), np.ravel(other[key])
            if "U" in (a.dtype.kind, b.dtype.kind):
                continue
            same = a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-6)
        if not same:
            differences.append(f"{key} {crs[key]} and {other[key]}")
    return "; ".join(sorted(differences))


def looks_antarctic(ice_map):
    """Return whether a map without a projection fits Antarctica's: around the South Pole.

    Its cells lie within MAX_ANTARCTIC_EXTENT_M of the pole, and there is ice or land at it.
    """
    x, y, topg = ice_map["x"], ice_map["y"], ice_map["topg"]
    if np.abs([x[0], x[-1], y[0], y[-1]]).max() > MAX_ANTARCTIC_EXTENT_M or (
            x[0] * x[-1] >= 0 or y[0] * y[-1] >= 0):
        return False
    pole = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))
    return bool(utils.is_ice(ice_map["thk"][pole]) or (topg is not None and topg[pole] > 0))
