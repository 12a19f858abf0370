"""Read the projection of a map file as a CF grid mapping in metres, and compare two projections."""

import re

import numpy as np

import utils
from icesheet import command_line
from icesheet.crs_texts import EPSG_CODE, GEOGRAPHIC, WKT_CODE, parse_crs, parse_wkt

GLOBAL_KEYS = ("proj4", "pyproj_srs", "crs", "spatial_ref", "crs_wkt", "proj", "projection", "epsg")
MAPPING_KEYS = {"grid_mapping_name", "spatial_ref", "crs_wkt", "proj4", "proj4_params"}
# Attributes of a grid mapping variable that are about the variable, or about other cells.
NOT_OF_A_MAPPING = {"_fillvalue", "missing_value", "geotransform", "units", "coordinates", "bounds",
                    "actual_range", "valid_range", "valid_min", "valid_max", "grid_mapping", "axis",
                    "cell_methods", "cell_measures", "ancillary_variables", "scale_factor",
                    "add_offset", "dimension_labels", "class", "name", "reference_list", "positive",
                    "calendar", "standard_name"}
# Antarctic polar stereographic, and the largest and least |x|, |y| of the edges of its maps [m].
EPSG_3031 = {
    "grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
    "standard_parallel": -71.0, "straight_vertical_longitude_from_pole": 0.0, "false_easting": 0.0,
    "false_northing": 0.0, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
    "epsg_code": "EPSG:3031",
}
MAX_ANTARCTIC_EXTENT_M, MIN_ANTARCTIC_EXTENT_M = 3333e3, 2000e3
MIN_SEA_SHARE = 0.9  # of the cells at the edges of a map of Antarctica
MIN_ASYMMETRY = 0.1  # of its bed: RMS difference to the bed mirrored, over its standard deviation


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

    Sources, in this order: the mapping that `variable` (default: any) declares; those of the file,
    if they agree; the global attributes. Geographic mappings do not count, as the axes are metres.
    notes: extended by what was assumed. metres_per_unit: of the axes.
    """
    declared = declared_mappings(ds, variable)
    in_file = [name for name, candidate in ds.variables.items()
               if MAPPING_KEYS & set(candidate.ncattrs())]
    crs = {}
    for names in (declared, in_file):
        mappings = {name: read_mapping(ds[name]) for name in names}
        projected = {name: crs for name, crs in mappings.items() if not is_geographic(crs)}
        if len(projected) < len(mappings) and not projected and names is in_file:
            notes.append(f"warning: no projection: {', '.join(mappings)} is geographic, but the "
                         "axes are in m")
        if projected:
            crs, *others = projected.values()
            if not all(is_same_crs(crs, other) for other in others):
                notes.append(f"warning: no projection: {', '.join(projected)} differ; link one to "
                             "the thickness (attribute grid_mapping)")
                return {}
            if names is in_file and variable is not None:
                notes.append(f"projection: that of {' and '.join(projected)}, the only one in the "
                             "file, though not linked to the thickness or bed")
            break
    crs = crs or mapping_from_globals(ds)
    if crs and "grid_mapping_name" not in crs:
        parsed = next(filter(None, (parse_crs(str(value)) for value in crs.values())), None)
        if parsed is None:
            notes.append("projection not understood, copied as text: "
                         + " ".join(str(next(iter(crs.values()))).split())[:60])
            return crs
        if "crs_wkt" not in parsed:
            return repair_polar_stereographic(parsed, notes)
        crs = parsed
    return convert_crs_to_metres(repair_polar_stereographic(crs, notes), metres_per_unit)


def declared_mappings(ds, variable):
    """Return the names of the grid mappings that a variable (None: any) declares."""
    names = []
    for declaring in ds.variables.values() if variable is None else [variable]:
        words = str(getattr(declaring, "grid_mapping", "")).split()
        names += [word.rstrip(":") for word in words  # CF's two forms: "crs" or "crs: x y"
                  if word.endswith(":") or len(words) == 1]
    return [name for name in dict.fromkeys(names) if name in ds.variables and ds[name].ncattrs()]


def read_mapping(variable):
    """Return the attributes of a grid mapping variable that describe the projection."""
    crs = {key: np.asarray(variable.getncattr(key)).tolist() for key in variable.ncattrs()
           if key.lower() not in NOT_OF_A_MAPPING and not key.startswith("_")}
    return {key: value for key, value in crs.items() if value not in ("", [])}


def mapping_from_globals(ds):
    """Return what the global attributes of a file say of its projection, or {}."""
    crs = {key: str(ds.getncattr(key)).strip() for key in ds.ncattrs()
           if key.lower() in GLOBAL_KEYS}
    return {key: value for key, value in crs.items() if value and not GEOGRAPHIC.match(value)}


def is_geographic(crs):
    """Return whether a grid mapping is of longitude and latitude, by its name or else its texts."""
    texts = [crs["grid_mapping_name"]] if "grid_mapping_name" in crs else crs.values()
    return any(GEOGRAPHIC.match(str(text)) for text in texts)


def repair_polar_stereographic(crs, notes):
    """Return a polar stereographic mapping with its origin at the pole of its standard parallel.

    Other mappings are returned as they are. notes: extended by what was changed.
    """
    if crs.get("grid_mapping_name") != "polar_stereographic":
        return crs
    parallel = crs.get("standard_parallel")
    latitude = float(crs.get("latitude_of_projection_origin", 0))
    if 0 < abs(latitude) < 90 and parallel is None:
        notes.append(f"polar stereographic with its origin at {latitude:g}: assumed to be the "
                     "latitude of true scale")
        return {key: value for key, value in crs.items() if "scale_factor" not in key} | {
            "standard_parallel": latitude,
            "latitude_of_projection_origin": float(np.copysign(90, latitude))}
    if abs(latitude) == 90 and isinstance(parallel, (int, float)) and parallel * latitude < 0:
        notes.append(f"polar stereographic: standard parallel {parallel:g} has the sign of the "
                     f"other pole than the origin, {latitude:g}; {-parallel:g} assumed")
        crs = {key: re.sub(r"\+lat_ts=[-+.\d]+", f"+lat_ts={-parallel:g}", value)
               if isinstance(value, str) else value for key, value in crs.items()}
        return crs | {"standard_parallel": -parallel}
    return crs


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


def comparable_parameters(crs):
    """Return the numbers of a grid mapping under one key each, from its attributes and texts.

    Keys are CF's, but for longitude (of the origin), scale_factor and epsg, a code as text.
    """
    parameters = {}
    for text in [value for value in crs.values() if isinstance(value, str)]:
        parameters |= parse_wkt(text) or {key: value for key, value in (
            parse_crs(text) or parse_unknown_proj(text)).items() if key != "crs_wkt"}
        if code := EPSG_CODE.fullmatch(text.strip()) or WKT_CODE.search(text):
            parameters["epsg"] = code[1]
    parameters |= {key: value for key, value in crs.items()
                   if key == "grid_mapping_name" or np.asarray(value).dtype.kind in "iuf"}
    parallel = parameters.get("standard_parallel")
    if parameters.get("grid_mapping_name") == "polar_stereographic" and parallel is not None:
        parameters.setdefault("latitude_of_projection_origin",
                              float(np.copysign(90, np.ravel(parallel)[0])))
    if "semi_minor_axis" in parameters and "semi_major_axis" in parameters:
        a, b = parameters["semi_major_axis"], parameters.pop("semi_minor_axis")
        parameters["inverse_flattening"] = a / (a - b) if a != b else 0.0
    return {"longitude" if key.startswith(("longitude_of", "straight")) else
            "scale_factor" if key.startswith("scale_factor") else key: value
            for key, value in parameters.items() if "prime_meridian" not in key}


def parse_unknown_proj(text):
    """Return the numbers of a PROJ string of any projection, by their own names; {} of others."""
    return {key: float(value) for key, value in re.findall(r"\+(\w+)=([-+.\d]+)(?:\s|$)", text)
            if "+proj=" in text}


def compare_crs(crs, other):
    """Return the differences of two grid mappings, texts, and whether anything was compared."""
    a, b = comparable_parameters(crs), comparable_parameters(other)
    common = a.keys() & b.keys() - {"epsg"}
    differences = sorted(f"{key} {a[key]} and {b[key]}" for key in common
                         if not is_same_value(key, a[key], b[key]))
    if not common & {"grid_mapping_name", "longitude", "lon_0"} and {"epsg"} <= a.keys() & b.keys():
        if a["epsg"] != b["epsg"]:
            differences.append(f"EPSG:{a['epsg']} and EPSG:{b['epsg']}")
        return differences, True
    texts = [{" ".join(str(value).split()).lower() for value in each.values()}
             for each in (crs, other)]
    return differences, bool(common) or bool(texts[0] & texts[1])


def is_same_value(key, a, b):
    """Return whether two values of a parameter are the same; longitudes are compared modulo 360."""
    a, b = np.ravel(a), np.ravel(b)
    if "U" in (a.dtype.kind, b.dtype.kind):
        return a.tolist() == b.tolist()
    if a.shape != b.shape:
        return False
    if key in ("longitude", "lon_0"):
        return bool(np.all(np.abs((a - b + 180) % 360 - 180) < 1e-6))
    rtol = 2e-5 if key == "inverse_flattening" else 1e-6
    return bool(np.allclose(np.sort(a), np.sort(b), rtol=rtol, atol=1e-6))


def is_same_crs(crs, other):
    """Return whether two grid mappings were compared and do not differ."""
    return compare_crs(crs, other) == ([], True)


def describe_crs_differences(crs, other):
    """Return the parameters in which two grid mappings differ, for a reader; "" if none do."""
    return "; ".join(compare_crs(crs, other)[0])


def choose_crs(ice_map, bed):
    """Return the grid mapping of a map, or what is assumed instead, and a note on that, or "".

    bed: the bed used with it, or None.
    """
    if ice_map["crs"]:
        return ice_map["crs"], ""
    if bed and bed["crs"]:
        return bed["crs"], ("note: the map declares no projection: that of the bed "
                            f"{bed['name']} is assumed")
    if looks_antarctic(ice_map):
        return EPSG_3031, ("warning: the map declares no projection and fits Antarctica: EPSG:3031 "
                           "is assumed")
    return {}, "note: the map declares no projection, so the result has none"


def looks_antarctic(ice_map):
    """Return whether a map without a projection fits Antarctica's: a rough continent in the sea.

    It reaches from MIN_ to MAX_ANTARCTIC_EXTENT_M on all sides of the pole, there is ice or land at
    the pole and open sea at the edges, and the bed is neither flat nor symmetric, as in
    experiments with an idealised ice sheet.
    """
    x, y, thk, topg = (ice_map[key] for key in ("x", "y", "thk", "topg"))
    reach = np.array([-x[0], x[-1], -y[0], y[-1]])
    if reach.min() < MIN_ANTARCTIC_EXTENT_M or reach.max() > MAX_ANTARCTIC_EXTENT_M:
        return False
    pole = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))
    is_sea = ~utils.is_ice(thk) & (True if topg is None else ~(topg >= 0))
    edges = np.concatenate([is_sea[0], is_sea[-1], is_sea[:, 0], is_sea[:, -1]])
    if edges.mean() < MIN_SEA_SHARE or is_sea[pole]:
        return False
    field = np.nan_to_num(thk if topg is None else topg)
    # the square of cells around the pole, mirrored in both axes and turned by 90 degrees
    half = min(pole[0], pole[1], len(y) - 1 - pole[0], len(x) - 1 - pole[1])
    square = field[pole[0] - half:pole[0] + half + 1, pole[1] - half:pole[1] + half + 1]
    spread = square.std()
    return bool(spread > 1 and all(
        np.sqrt(np.mean((square - mirrored)**2)) > MIN_ASYMMETRY * spread
        for mirrored in (square[::-1], square[:, ::-1], square[::-1, ::-1], square.T)))


def compute_scale_factor(crs, x, y):
    """Return the scale of a polar stereographic projection at x, y [m]: k, 1 at true scale.

    A length on the map is k times the true one, an area k**2 times. None for another projection.
    Snyder (1987), Map projections, USGS Professional Paper 1395, for the ellipsoid; in brackets:
    numbers of its equations.
    """
    parameters = comparable_parameters(crs) if crs else {}
    if parameters.get("grid_mapping_name") != "polar_stereographic":
        return None
    a, inverse_flattening = (parameters.get(key, EPSG_3031[key]) for key in (
        "semi_major_axis", "inverse_flattening"))
    if "earth_radius" in parameters:
        a, inverse_flattening = parameters["earth_radius"], 0
    flattening = 1 / inverse_flattening if inverse_flattening else 0
    e = np.sqrt(flattening * (2 - flattening))

    def t(latitude):  # (15-9)
        sine = e * np.sin(latitude)
        return np.tan(np.pi / 4 - latitude / 2) * ((1 + sine) / (1 - sine)) ** (e / 2)

    def m(latitude):  # (14-15)
        return np.cos(latitude) / np.sqrt(1 - (e * np.sin(latitude)) ** 2)

    at_pole = np.sqrt((1 + e) ** (1 + e) * (1 - e) ** (1 - e)) / 2
    parallel = np.radians(abs(np.ravel(parameters.get("standard_parallel", 90))[0]))
    # Distance from the pole over a t: (21-33) with the scale at the pole, else (21-34).
    ratio = (parameters.get("scale_factor", 1) / at_pole if np.isclose(parallel, np.pi / 2) else
             m(parallel) / t(parallel))
    distance = np.hypot(x - parameters.get("false_easting", 0), y - parameters.get(
        "false_northing", 0)) / a
    latitude = np.pi / 2 - 2 * np.arctan(distance / ratio)
    for _ in range(6):  # (7-9): converges to 1e-15 on the earth
        sine = e * np.sin(latitude)
        latitude = np.pi / 2 - 2 * np.arctan(
            distance / ratio * ((1 - sine) / (1 + sine)) ** (e / 2))
    is_pole = distance < 1e-9
    return np.where(is_pole, ratio * at_pole,  # (21-35), then (21-32)
                    distance / np.where(is_pole, 1, m(latitude)))
