"""Projections written as text (PROJ strings, EPSG codes, WKT) as attributes of CF grid mappings."""

import math
import re

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
# The same in WKT: parts of the names, and of the parameters' names, first match.
WKT_PROJECTIONS = {
    "polar_stereographic": "stere", "stereographic_south": "stere", "stereographic_north": "stere",
    "transverse_mercator": "tmerc", "gauss_kruger": "tmerc", "lambert_azimuthal": "laea",
    "lambert_con": "lcc", "albers": "aea"}
WKT_PARAMETERS = {
    "standard_parallel": "standard_parallel", "latitude": "latitude_of_projection_origin",
    "longitude": "longitude", "central_meridian": "longitude", "scale_factor": "scale_factor",
    "easting": "false_easting", "northing": "false_northing"}
NUMBER = r"([-+.\deE]+)"
WKT_PARAMETER = re.compile(  # name, value, metres to a unit of it (WKT 2)
    rf'PARAMETER\[\s*"([^"]+)"\s*,\s*{NUMBER}(?:\s*,\s*LENGTHUNIT\[\s*"[^"]*"\s*,\s*{NUMBER})?')
WKT_PROJECTED = re.compile(r"\s*(PROJCS|PROJCRS|PROJECTEDCRS|COMPD_CS|COMPOUNDCRS|BOUNDCRS)\s*\[")
GEOGRAPHIC = re.compile(  # texts of longitude and latitude
    r"\s*(latitude_longitude$|GEOGCS|GEOGCRS|GEOGRAPHICCRS|GEODCRS|GEODETICCRS|.*proj=latlon"
    r"|.*proj=lonlat|.*proj=longlat|(epsg:+)?(4326|4258|4267|4269|4979)$)", re.IGNORECASE)
EPSG_CODE = re.compile(r"(?:(?:\+?init=)?epsg:+)?(\d{4,6})", re.IGNORECASE)
WKT_CODE = re.compile(r'(?:ID|AUTHORITY)\["EPSG",\s*"?(\d+)"?\]\s*\]\s*$')
ELLIPSOIDS = {"WGS84": (6378137.0, 298.257223563), "GRS80": (6378137.0, 298.257222101),
              "NAD83": (6378137.0, 298.257222101), "bessel": (6377397.155, 299.1528128),
              "intl": (6378388.0, 297.0), "hughes": (6378273.0, 298.279411123064)}
PROJ_NUMBERS = {"zone", "lat_0", "lat_ts", "lat_1", "lat_2", "lon_0", "k", "k_0", "x_0", "y_0", "a",
                "b", "rf", "R"}
PROJ_WORDS = {"proj", "south", "datum", "ellps", "units", "no_defs", "type", "wktext", "towgs84"}
POLAR = "+proj=stere +lat_0={} +lat_ts={} +lon_0={} +ellps={}"
EPSG_TO_PROJ = {
    "3031": POLAR.format(-90, -71, 0, "WGS84"), "3032": POLAR.format(
        -90, -71, 70, "WGS84") + " +x_0=6000000 +y_0=6000000",
    "3412": POLAR.format(-90, -70, 0, "hughes"), "3976": POLAR.format(-90, -70, 0, "WGS84"),
    "3411": POLAR.format(90, 70, -45, "hughes"), "3413": POLAR.format(90, 70, -45, "WGS84"),
    "3995": POLAR.format(90, 71, 0, "WGS84"), "3996": POLAR.format(90, 75, 0, "WGS84"),
    "5938": POLAR.format(90, 70, -33, "WGS84") + " +x_0=2000000 +y_0=2000000",
    "3035": "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80",
    "6931": "+proj=laea +lat_0=90 +lon_0=0", "6932": "+proj=laea +lat_0=-90 +lon_0=0",
    "3057": "+proj=lcc +lat_1=64.25 +lat_2=65.75 +lat_0=65 +lon_0=-19 +x_0=500000 +y_0=500000 "
            "+ellps=GRS80",
    "3338": "+proj=aea +lat_1=55 +lat_2=65 +lat_0=50 +lon_0=-154 +ellps=GRS80",
} | {f"32{6 + south}{zone:02d}": f"+proj=utm +zone={zone}{' +south' * south}"
     for zone in range(1, 61) for south in (0, 1)} | {
    f"258{zone}": f"+proj=utm +zone={zone} +ellps=GRS80" for zone in range(28, 39)}


def parse_crs(text):
    """Return the grid mapping of a PROJ string, a known EPSG code or a WKT; None if not understood.

    A WKT is kept as text; parse_wkt has its numbers.
    """
    if WKT_PROJECTED.match(text):
        return {"crs_wkt": text, "spatial_ref": text}
    code = EPSG_CODE.fullmatch(text.strip())
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


def parse_wkt(text):
    """Return the numbers of a projected WKT 1 or 2 as CF attributes [m]; {} of other texts.

    The longitude of the origin has the key longitude, a scale factor scale_factor.
    """
    text = text.split("TARGETCRS")[0]  # of a BOUNDCRS: what follows is its datum shift
    method = re.search(r'(?:PROJECTION|METHOD)\[\s*"([^"]+)"', text)
    if not WKT_PROJECTED.match(text) or not method:
        return {}
    method = re.sub(r"\W+", "_", method[1].lower())
    projection = next((kind for part, kind in WKT_PROJECTIONS.items() if part in method), None)
    crs, parallels = {}, []
    matches = list(WKT_PARAMETER.finditer(text))
    unit = matches and re.search(
        rf'(?:\bUNIT|LENGTHUNIT)\[\s*"[^"]*"\s*,\s*{NUMBER}', text[matches[-1].end():])
    for name, value, metres_per_unit in (match.groups() for match in matches):
        name = re.sub(r"\W+", "_", name.lower())
        key = next((key for part, key in WKT_PARAMETERS.items() if part in name), None)
        if key == "standard_parallel":
            parallels.append(float(value))
        elif key:
            is_length = key.startswith("false_")
            crs[key] = float(value) * float(
                metres_per_unit or (unit[1] if unit and is_length else 1))
    if projection:
        crs["grid_mapping_name"] = CF_PROJECTIONS[projection][0]
    if projection == "stere":  # its latitude is the pole, or that of true scale, in either sign
        latitude = crs.get("latitude_of_projection_origin", -90 if "south" in method else 90)
        if not parallels and abs(latitude) < 90:
            parallels = [latitude]
        crs["latitude_of_projection_origin"] = math.copysign(90, (parallels or [latitude])[0])
    if parallels:
        crs["standard_parallel"] = parallels
        if projection == "stere":
            crs.pop("scale_factor", None)  # a second way to say it
    ellipsoid = re.search(
        rf'(?:SPHEROID|ELLIPSOID)\[\s*"[^"]*"\s*,\s*{NUMBER}\s*,\s*{NUMBER}', text)
    if ellipsoid:
        crs |= {"semi_major_axis": float(ellipsoid[1]), "inverse_flattening": float(ellipsoid[2])}
    return crs
