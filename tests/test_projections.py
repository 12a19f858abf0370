"""Projections: which one a file has, in metres; whether two are the same; what fits Antarctica."""

import netCDF4
import numpy as np
import pytest
from test_map_files import write_file
from test_map_layout import SOUTH, THK, TOPG, X, Y

from icesheet import beds, map_files, projections
from icesheet.command_line import InputError

X_M = 140e3 * (np.arange(41) - 20)
R_M = np.hypot(X_M, X_M[:, None])
DOME = np.maximum(0, 3000 * (1 - R_M / 2000e3))
CONTINENT = np.where(R_M < 2200e3, 100 + 1500 * np.random.default_rng(0).random((41, 41)), -3000)

@pytest.mark.parametrize("changes, expected", [
    ({}, ""),
    ({"latitude_of_projection_origin": 90.0, "standard_parallel": 70.0},  # as EPSG:3413
     "latitude_of_projection_origin -90.0 and 90.0; standard_parallel -71.0 and 70.0"),
    ({"grid_mapping_name": "lambert_azimuthal_equal_area"},
     "grid_mapping_name polar_stereographic and lambert_azimuthal_equal_area"),
    ({"semi_major_axis": 6378273.0}, "semi_major_axis 6378137.0 and 6378273.0"),
    ({"standard_parallel": [-71.0, -60.0]}, "standard_parallel -71.0 and [-71.0, -60.0]"),
    ({"standard_parallel": [-71.0], "semi_major_axis": 6378137}, ""),  # the same numbers
    ({"spatial_ref": "another wording", "standard_parallel": "-70"}, ""),  # texts prove nothing
])
def test_projections_are_compared_by_all_that_both_say(changes, expected):
    assert projections.describe_crs_differences(SOUTH, SOUTH | changes) == expected


def test_projections_that_say_little_are_not_said_to_differ():
    assert projections.describe_crs_differences(SOUTH, {}) == ""
    assert projections.describe_crs_differences({}, SOUTH) == ""
    few = {"standard_parallel": -71.0, "false_easting": 7.0}
    assert projections.describe_crs_differences(SOUTH, few) == ""
    assert projections.describe_crs_differences(SOUTH, {"standard_parallel": -70.0}) != ""


def wkt(latitude, longitude, method="Polar_Stereographic"):
    """WKT 1, as of GDAL, GMT and terra."""
    return ('PROJCS["made",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563'
            f']],UNIT["degree",0.0174532925199433]],PROJECTION["{method}"],PARAMETER['
            f'"latitude_of_origin",{latitude}],PARAMETER["central_meridian",{longitude}],PARAMETER['
            '"false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]')


WKT2 = ('PROJCRS["a",BASEGEOGCRS["b",DATUM["c",ELLIPSOID["WGS 84",6378137,298.257223563,LENGTHUNIT['
        '"metre",1]]]],CONVERSION["d",METHOD["{}"],PARAMETER["{}",{},ANGLEUNIT["degree",0.0174532]]'
        ',PARAMETER["Longitude of {}origin",{},ANGLEUNIT["degree",0.0174532]],PARAMETER["False '
        'easting",{},LENGTHUNIT["kilometre",1000]]],CS[Cartesian,2],LENGTHUNIT["metre",1]]')
WKT2_SOUTH = WKT2.format("Polar Stereographic (variant B)", "Latitude of standard parallel", -71,
                         "", 0, 0)
WKT2_UTM = WKT2.format("Transverse Mercator", "Latitude of natural origin", 0, "natural ", 9, 500)
EQUAL = [  # projections, every one written in several ways
    [SOUTH, {"crs_wkt": wkt(-71, 0)}, {"spatial_ref": WKT2_SOUTH}, {"crs": "EPSG:3031"},
     {"proj4": "+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=360 +datum=WGS84"}],
    [{"crs_wkt": wkt(70, -45)}, {"crs": "EPSG:3413"},
     {"proj4": "+proj=stere +lat_0=90 +lat_ts=70 +lon_0=315"}],
    [{"crs_wkt": wkt(71, 180)}, {"crs_wkt": wkt(71, -180)}], [{"crs": "EPSG:3995"}],
    [{"crs_wkt": WKT2_UTM}, {"epsg": "EPSG:32632"}, {"proj4": "+proj=utm +zone=32"}],
    [{"proj4": "+proj=somerc +lat_0=46.95 +lon_0=7.44"}], [{"crs": "EPSG:2056"}],
]


def test_projections_are_compared_however_they_are_written():
    for i, group in enumerate(EQUAL):
        for crs in group:
            assert all(projections.is_same_crs(crs, other) for other in group)
            for other in [other for group in EQUAL[i + 1:] for other in group]:
                differences, is_compared = projections.compare_crs(crs, other)
                assert differences or not is_compared
    assert projections.compare_crs({"crs": "EPSG:3995"}, {"crs": "EPSG:3413"})[0]
    assert projections.compare_crs({"crs": "EPSG:2056"}, {"crs": "EPSG:21781"})[0]
    assert projections.compare_crs({"crs": "my own"}, {"crs": "My  own"}) == ([], True)
    assert projections.compare_crs({"crs": "my own"}, {"crs": "his"}) == ([], False)


def test_a_bed_of_another_projection_is_refused_however_it_is_written(tmp_path, capsys):
    settings = {"run": "made", "channels": "relative"}
    maps = [map_files.read_map(write_file(tmp_path / f"{i}.nc", {"thk": THK}, X, Y, mapping={
        "spatial_ref": text})) for i, text in enumerate((wkt(-71, 0), wkt(70, -45), "my own"))]
    bed = write_file(tmp_path / "bed.nc", {"topg": TOPG}, X, Y, mapping={"crs_wkt": wkt(70, -45)})
    with pytest.raises(InputError, match="bed.nc: its projection is not that of 0.nc"), \
            beds.open_bed_for_map(maps[0], settings, bed):
        pass
    for ice_map in maps[1:]:
        with beds.open_bed_for_map(ice_map, settings, bed):
            assert ("cannot be compared" in capsys.readouterr().out) == (ice_map is maps[2])


@pytest.mark.parametrize("mappings, linked, parallel, note", [
    ({"crs": {"standard_parallel": 71.0}}, "crs", -71, "the other pole"),
    ({"latlon": None, "crs": {}}, "latlon: lat lon crs: x y", -71, ""),
    ({"latlon": None, "crs": {}}, "latlon", -71, "that of crs, the only one"),
    ({"a": {}, "b": {"straight_vertical_longitude_from_pole": 360.0}}, None, -71, "of a and b"),
    ({"a": {}, "b": {"standard_parallel": -70.0}}, None, None, "warning: no projection: a, b"),
    ({"latlon": None}, "latlon", None, "warning: no projection: latlon is geographic"),
    ({"crs": {"grid_mapping": "crs", "axis": "X", "units": "m"}}, "crs", -71, ""),
])
def test_of_several_grid_mappings_the_right_one_is_read(mappings, linked, parallel, note, tmp_path):
    path = write_file(tmp_path / "map.nc", {"thk": THK}, X, Y)
    with netCDF4.Dataset(path, "a") as ds:
        for name, changes in mappings.items():
            ds.createVariable(name, "i4").setncatts(
                {"grid_mapping_name": "latitude_longitude"} if changes is None else SOUTH | changes)
        if linked:
            ds["thk"].grid_mapping = linked
    ice_map = map_files.read_map(path)
    assert ice_map["crs"].get("standard_parallel") == parallel
    assert not {"grid_mapping", "axis", "units"} & ice_map["crs"].keys()
    assert note in "; ".join(ice_map["notes"]) and bool(note) == bool(ice_map["notes"])


@pytest.mark.parametrize("expected, change", [
    (True, {}), (True, {"topg": None}),
    (True, {"thk": 0 * CONTINENT}),  # land at the pole
    (False, {"topg": np.minimum(CONTINENT, -50), "thk": 0 * CONTINENT}),  # the Arctic Ocean
    (False, {"x": X_M + 600e3}), (False, {"x": X_M / 2, "y": X_M / 2}),  # off the pole, too small
    (False, {"x": 1.2 * X_M, "y": 1.2 * X_M}),  # Antarctica does not reach so far
    (False, {"thk": np.full((41, 41), 900.0)}),  # no open sea around it
    (False, {"topg": np.full((41, 41), -300.0)}),  # flat
    (False, {"topg": 1000 - R_M / 1000}), (False, {"topg": DOME, "thk": DOME}),  # symmetric
    (False, {"topg": None, "thk": DOME}),
])
def test_maps_that_fit_antarctica(expected, change):
    fields = {"x": X_M, "y": X_M, "thk": np.maximum(CONTINENT, 0), "topg": CONTINENT}
    assert projections.looks_antarctic(map_files.make_map(**fields | change)) is expected
