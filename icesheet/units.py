"""Units of length in map files: metres or kilometres, and the words beside them."""

import re

UNITLESS = ("", "1", "-", "none", "no unit", "unitless")
UNITS = {word: unit for unit, words in (
    ("m", "m metre metres meter meters masl mamsl"),
    ("km", "km kilometre kilometres kilometer kilometers")) for word in words.split()}
# Words beside a unit that do not change the length. Anything else does: "y-1", "w.e.", "below".
WORDS = """
    of in the to with respect wrt relative rel above over on present pd day modern current mean
    sea level sealevel sl msl asl amsl geoid ellipsoid ellipsoidal orthometric datum vertical
    horizontal reference eigen wgs navd ice thickness equivalent equiv eq ie elevation elev height
    altitude east north easting northing projection projected map grid cartesian coordinate
    coordinates unit units polar stereographic"""
# Datums and codes: WGS84, EIGEN-6C4, EGM2008, EPSG:3031; no powers of time (yr-1)
DATUM = re.compile(r"(?!yr|sec|day|year|hour|min|mon)[a-z]{2,}[-_:]*\d[a-z0-9]*(?<!-\d)")
ELLIPSOID = re.compile(r"ellipsoid|wgs[ _-]?(19)?84|grs[ _-]?80", re.IGNORECASE)
SEA_LEVEL = re.compile(r"geoid|sea.?level|msl|eigen|egm|a\.?s\.?l", re.IGNORECASE)


def parse_length_units(variable):
    """Return "m" or "km", "" if a variable declares no units, None if they are not a length."""
    units = getattr(variable, "units", "")
    if not isinstance(units, str):
        return None
    text = units.strip().lower()
    if text in UNITLESS:
        return ""
    text = re.sub(r"\ba\W*(?:m\W*)?s\W*l\b", "asl", text)  # a.s.l., a.m.s.l.
    text = re.sub(r"(?<=\b\w)\.", "", text)  # other abbreviations: w.r.t., i.e.
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)
    text = re.sub(r"\b(wgs|egm|grs|epsg)[\s:_-]+(?=\d)", r"\1", text)
    words = re.findall(r"[^\s()\[\]{},;.]+", text)
    lengths = {UNITS[word] for word in words if word in UNITS}
    is_plain = all(word in UNITS or word in WORDS.split() or DATUM.fullmatch(word)
                   for word in words)
    return lengths.pop() if is_plain and len(lengths) == 1 else None


def is_above_ellipsoid(variable):
    """Return whether a variable is an elevation above an ellipsoid, by its units or long name."""
    text = " ".join(str(getattr(variable, key, "")) for key in (
        "units", "long_name", "standard_name"))
    return bool(ELLIPSOID.search(text)) and not SEA_LEVEL.search(text)
