"""Projections of map files: what a file says of its own, in metres, and whether two are one."""

import re

import numpy as np

import utils
from icesheet import command_line

# Projections of PROJ texts: CF name; where CF puts lon_0 and k_0.
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
GLOBAL_CRS = ("proj4", "pyproj_srs", "crs", "spatial_ref", "crs_wkt", "proj", "projection", "epsg")
POLAR = "+proj=stere +datum=WGS84 +lat_0={} +lat_ts={} +lon_0={}"
EPSG_TO_PROJ = {"3031": POLAR.format(-90, -71, 0), "3413": POLAR.format(90, 70, -45)} | {
    f"32{6 + south}{zone:02d}": f"+proj=utm +datum=WGS84 +zone={zone}{' +south' * south}"
    for zone in range(1, 61) for south in (0, 1)}
# Antarctic polar stereographic, and how far from the pole its maps reach [m].
EPSG_3031 = {
    "grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
    "standard_parallel": -71.0, "straight_vertical_longitude_from_pole": 0.0, "false_easting": 0.0,
    "false_northing": 0.0, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
    "epsg_code": "EPSG:3031",
}
MAX_ANTARCTIC_EXTENT_M = 3333e3


def read_crs(ds, variable=None, notes=None, factor=1):
    """What find_grid_mapping says; {} with a note where its attributes are not of the types they should.

    Arguments as there.
    """
    notes = [] if notes is None else notes
    try:
        return find_grid_mapping(ds, variable, notes, factor)
    except (TypeError, ValueError) as error:
        notes.append(f"projection not understood, left out: {command_line.one_line(error)}")
        return {}


def find_grid_mapping(ds, variable, notes, factor):
    """Attributes of the grid mapping of a file, lengths in m, to be written as they are, or {}.

    That of `variable` (default: any), in both CF forms; else the only one in the file; else what
    the global attributes say. notes: what was assumed is added. factor: metres to a unit of the
    axes. Left out is what is of the variable's values, and GeoTransform, which is of other cells.
    """
    asked = [str(getattr(each, "grid_mapping", "")).split() for each in
             ([variable] if variable is not None else ds.variables.values())]
    named = [word.rstrip(":") for words in asked for word in words  # "crs" or "crs: x y"
             if (word.endswith(":") or len(words) == 1) and word.rstrip(":") in ds.variables
             and ds[word.rstrip(":")].ncattrs()]
    if not named:
        named = [name for name, each in ds.variables.items() if set(each.ncattrs()) & {
            "grid_mapping_name", "spatial_ref", "crs_wkt", "proj4", "proj4_params"}]
        named = named if len(named) == 1 else []
        if named and variable is not None:
            notes.append(f"projection: that of {named[0]}, the only one in the file")
    if named:
        mapping = ds[named[0]]
        crs = {key: np.asarray(mapping.getncattr(key)).tolist() for key in mapping.ncattrs()
               if key.lower() not in ("_fillvalue", "missing_value", "geotransform", "units",
                                      "coordinates", "actual_range", "valid_range", "bounds")
               and not key.startswith("_")}
    else:
        crs = {key: str(ds.getncattr(key)).strip() for key in ds.ncattrs()
               if key.lower() in GLOBAL_CRS}
    crs = {key: value for key, value in crs.items() if value not in ("", [])}
    if "grid_mapping_name" not in crs and crs:
        known = next(filter(None, (parse_crs(str(value)) for value in crs.values())), None)
        if known is None:
            notes.append("projection not understood, copied as text: "
                         + " ".join(str(next(iter(crs.values()))).split())[:60])
        return convert_crs_to_metres(known or crs, factor if known and "crs_wkt" in known else 1)
    latitude = float(crs.get("latitude_of_projection_origin", 90))
    if crs.get("grid_mapping_name") == "polar_stereographic" and 0 < abs(latitude) < 90 and (
            "standard_parallel" not in crs):
        notes.append(f"polar stereographic with its origin at {latitude:g}: taken for the latitude "
                     "of true scale")
        crs = {key: value for key, value in crs.items() if "scale_factor" not in key} | {
            "standard_parallel": latitude,
            "latitude_of_projection_origin": float(np.copysign(90, latitude))}
    return convert_crs_to_metres(crs, factor)


def convert_crs_to_metres(crs, factor):
    """A grid mapping whose lengths are in m, of one for axes of `factor` metres a unit."""
    crs, wkts = dict(crs), [key for key in ("crs_wkt", "spatial_ref") if key in crs]
    kilometres = re.compile(r'"(?:kilomet[er]+s?|km)",\s*1000(?:\.0*)?', re.IGNORECASE)
    if factor == 1 or (wkts and not any(kilometres.search(str(crs[key])) for key in wkts)):
        return crs  # a WKT in metres: the numbers beside it are metres too
    for key in ("false_easting", "false_northing"):
        if key in crs:
            crs[key] = float(crs[key]) * factor
    for key in wkts:
        text = kilometres.sub('"metre",1', crs[key])
        text = re.sub(r'("false[ _](?:east|north)ing",)([-+.0-9eE]+)', lambda found: found[1]
                      + f"{float(found[2]) * factor:g}", text, flags=re.IGNORECASE)
        crs[key] = re.sub(r',\s*(?:AUTHORITY|ID)\["EPSG",\s*"?\d+"?\]\s*\]$', "]", text)
    for key in ("proj4", "proj4_params"):
        if key in crs:
            crs[key] = str(crs[key]).replace("+units=km", "+units=m")
    return crs


def parse_crs(text):
    """Grid mapping of a PROJ text, an EPSG_TO_PROJ code of ice sheets or of UTM, or a WKT; None if unknown.
    """
    if re.match(r"(PROJCS|PROJCRS|PROJECTEDCRS|COMPD_CS|COMPOUNDCRS|BOUNDCRS)\s*\[", text):
        return {"crs_wkt": text, "spatial_ref": text}
    code = re.fullmatch(r"(?:(?:\+?init=)?epsg:+)?(\d+)", text.strip(), re.IGNORECASE)
    text = EPSG_TO_PROJ.get(code[1], "") if code else text
    said = dict((word.lstrip("+").split("=") + [""])[:2] for word in text.split())
    kind = {"utm": "tmerc", "etmerc": "tmerc"}.get(said.get("proj"), said.get("proj"))
    ellipsoid = ELLIPSOIDS.get(said.get("datum", said.get("ellps", "WGS84")))
    try:
        numbers = {key: float(value) for key, value in said.items() if key in PROJ_NUMBERS}
        unknown = said.keys() - PROJ_NUMBERS - PROJ_WORDS
        a = numbers.get("a", numbers.get("R", ellipsoid and ellipsoid[0]))
        if kind not in CF_PROJECTIONS or unknown or a is None or (
                said.get("units", "m") not in ("m", "km")):
            return None
        name, lon, scale = CF_PROJECTIONS[kind]
        if said["proj"] == "utm":
            numbers |= {"lon_0": 6 * numbers["zone"] - 183, "k_0": 0.9996, "x_0": 500000.0,
                        "y_0": 1e7 if "south" in said else 0.0}
    except (ValueError, KeyError):
        return None
    lat_0 = numbers.get("lat_0", 0.0)
    if kind == "stere" and abs(lat_0) != 90:
        return None
    crs = {"grid_mapping_name": name, "latitude_of_projection_origin": lat_0,
           lon: numbers.get("lon_0", 0.0), "false_easting": numbers.get("x_0", 0.0),
           "false_northing": numbers.get("y_0", 0.0), "semi_major_axis": a}
    if "R" in said or numbers.get("b") == a:
        crs["semi_minor_axis"] = a
    elif "b" in said:
        crs["semi_minor_axis"] = numbers["b"]
    else:
        crs["inverse_flattening"] = numbers.get("rf", ellipsoid[1] if ellipsoid else 298.257223563)
    parallels = [numbers[key] for key in ("lat_ts", "lat_1", "lat_2") if key in numbers]
    if parallels:
        crs["standard_parallel"] = parallels[0] if len(parallels) == 1 else parallels
    elif scale:
        crs[scale] = numbers.get("k_0", numbers.get("k", 1.0))
    return crs


def describe_crs_differences(crs, other):
    """In which parameters two grid mappings differ, for a reader; "" where in none that both have.

    Compared are the name and all numbers that both have; texts (WKT, long_name) are not.
    """
    lines = []
    for key in crs.keys() & other.keys():
        if key == "grid_mapping_name":
            same = crs[key] == other[key]
        elif isinstance(crs[key], str) or isinstance(other[key], str):
            continue
        else:
            one, two = np.ravel(crs[key]), np.ravel(other[key])
            if "U" in (one.dtype.kind, two.dtype.kind):
                continue
            same = one.shape == two.shape and np.allclose(one, two, rtol=1e-6, atol=1e-6)
        if not same:
            lines.append(f"{key} {crs[key]} and {other[key]}")
    return "; ".join(sorted(lines))


def looks_antarctic(ice_map):
    """Whether a map that says nothing of its projection fits Antarctica's: around the South Pole.

    Its cells lie within MAX_ANTARCTIC_EXTENT_M of the pole, and there is ice or land at it.
    """
    x, y, topg = ice_map["x"], ice_map["y"], ice_map["topg"]
    if np.abs([x[0], x[-1], y[0], y[-1]]).max() > MAX_ANTARCTIC_EXTENT_M or (
            x[0] * x[-1] >= 0 or y[0] * y[-1] >= 0):
        return False
    pole = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))
    return bool(utils.is_ice(ice_map["thk"][pole]) or (topg is not None and topg[pole] > 0))
