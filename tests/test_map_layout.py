"""Files of every layout read as the same map, bad ones are named, times are chosen by index."""

import netCDF4
import numpy as np
import pytest
from conftest import write_map

from icesheet import beds, map_files
from icesheet.command_line import InputError

# A 3 x 4 map (y, x) with nothing symmetric about it, as it has to come out of every layout.
X = np.array([0, 5000, 10000, 15000.0])
Y = np.array([-10000, -5000, 0.0])
THK = np.array([[0, 100, 200, 300], [400, 0, 600, 700], [800, 900, 1000, 1100.0]])
TOPG = THK / 10 - 500
USRF = THK * 1.0 + TOPG
DAYS = np.array([[0, 31], [31, 59], [59, 90.0]])  # bounds of three times
METRES = {"units": "m"}
SOUTH = {"grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
         "standard_parallel": -71.0, "straight_vertical_longitude_from_pole": 0.0,
         "semi_major_axis": 6378137.0, "spatial_ref": "PROJCS[south]"}  # EPSG:3031


def standard_map(path, dimensions=(), **replaced):
    """A plain CF map of the fields above; keywords replace or, with None, remove variables."""
    variables = {"x": (("x",), X, METRES), "y": (("y",), Y, METRES),
                 "thk": (("y", "x"), THK, METRES), "topg": (("y", "x"), TOPG, METRES)} | replaced
    variables = {name: value for name, value in variables.items() if value is not None}
    return write_map(path, {"y": 3, "x": 4} | dict(dimensions), {}, variables)


def albmap_v1(path):
    coordinates = {"x1": (("x1",), X, METRES), "y1": (("y1",), Y, METRES)}
    no_ice = THK == 0
    usrf, lsrf = USRF.copy(), USRF - THK
    usrf[no_ice], lsrf[no_ice] = -9999, -9999  # undeclared fill, as in its offspring
    fields = {"usrf": usrf, "lsrf": lsrf, "topg": TOPG}
    return write_map(path, {"y1": 3, "x1": 4}, coordinates,
                     {name: (("y1", "x1"), values, {}) for name, values in fields.items()})


def searise(path):
    coordinates = {"x1": (("x1",), X, {"units": "meters"}), "y1": (("y1",), Y, {"units": "meters"})}
    dims = ("time", "y1", "x1")
    return write_map(path, {"time": 2, "y1": 3, "x1": 4}, coordinates, {
        "thk": (dims, np.stack([THK + 7, THK]), METRES),
        "topg": (dims, np.stack([TOPG + 7, TOPG]), METRES),
        "usrf": (dims, np.stack([USRF, USRF]), METRES)})


def old_pism(path):
    coordinates = {"x": (("x",), X, METRES), "y": (("y",), Y, METRES),
                   "lon": (("y", "x"), THK, {"units": "degrees_east"})}
    dims = ("time", "x", "y")
    return write_map(path, {"time": 1, "y": 3, "x": 4}, coordinates, {
        "thk": (dims, THK.T[None], METRES), "topg": (dims, TOPG.T[None], METRES)})


def bedmachine(path):
    coordinates = {"x": (("x",), X.astype(np.int32), {"units": "meter"}),
                   "y": (("y",), Y[::-1].astype(np.int32), {"units": "meter"})}
    about = {"units": "meters", "_FillValue": -9999.0}
    return write_map(path, {"y": 3, "x": 4}, coordinates, {
        name: (("y", "x"), values[::-1].astype(np.float32), about)
        for name, values in {"thickness": THK, "bed": TOPG, "surface": USRF}.items()})


def bedmap3(path):
    coordinates = {"x": (("x",), X, METRES), "y": (("y",), Y[::-1], METRES)}
    thk = np.where(THK == 0, np.nan, THK)
    return write_map(path, {"y": 3, "x": 4}, coordinates, {
        "ice_thickness": (("y", "x"), thk[::-1], METRES),
        "bed_topography": (("y", "x"), TOPG[::-1], METRES),
        "surface_topography": (("y", "x"), USRF[::-1], METRES)})


def cf_in_km(path):
    def about(units, name):
        return {"units": units, "standard_name": name}

    coordinates = {"rlon": (("i",), X[::-1] / 1000, about("km", "projection_x_coordinate")),
                   "rlat": (("j",), Y / 1000, about("km", "projection_y_coordinate"))}
    return write_map(path, {"j": 3, "i": 4}, coordinates, {
        "H": (("j", "i"), THK[:, ::-1] / 1000, about("km", "land_ice_thickness")),
        "b": (("j", "i"), TOPG[:, ::-1], about("m", "bedrock_altitude"))})


@pytest.mark.parametrize(
    "write", [standard_map, albmap_v1, searise, old_pism, bedmachine, bedmap3, cf_in_km])
def test_every_layout_reads_as_the_same_map(write, tmp_path):
    ice_map = map_files.read_map(write(tmp_path / "map.nc"))
    np.testing.assert_allclose(ice_map["x"], X)
    np.testing.assert_allclose(ice_map["y"], Y)
    np.testing.assert_allclose(ice_map["thk"], THK, rtol=1e-6)
    np.testing.assert_allclose(ice_map["topg"], TOPG, rtol=1e-6)
    assert ice_map["thk"].dtype == np.float32
    assert ice_map["spacing_m"] == 5000
    assert ice_map["n_missing_thk"] == (2 if write in (albmap_v1, bedmap3) else 0)


def test_missing_and_negative_thickness_are_zero_ice_and_counted():
    thk, topg = THK.copy(), TOPG.copy()
    thk[0, :3] = np.nan
    thk[2, 2:] = -5
    topg[0, 1:] = np.nan
    with_bed, bare = map_files.make_map(X, Y, thk, topg), map_files.make_map(X, Y, thk, name="bare")
    np.testing.assert_array_equal(
        with_bed["thk"], [[0, 0, 0, 300], [400, 0, 600, 700], [800, 900, 0, 0]])
    assert (with_bed["n_missing_thk"], with_bed["n_negative_thk"]) == (3, 2)
    np.testing.assert_array_equal(np.argwhere(with_bed["no_data"]), [[0, 1], [0, 2]])
    np.testing.assert_array_equal(np.argwhere(bare["no_data"]), [[0, 0], [0, 1], [0, 2]])
    assert bare["name"] == "bare"
    assert bare["topg"] is bare["path"] is bare["time_index"] is None


def test_grid_mapping_and_citation_are_carried(tmp_path):
    path = standard_map(tmp_path / "map.nc", thk=(("y", "x"), THK, {"grid_mapping": "crs"}),
                        crs=((), np.int32(0), SOUTH))
    with netCDF4.Dataset(path, "a") as ds:
        ds.References = "Somebody (2020)"
    ice_map = map_files.read_map(path)
    assert ice_map["crs"] == SOUTH
    assert ice_map["citation"] == "Somebody (2020)"


@pytest.mark.parametrize("replaced, message", [
    ({"thk": None}, r"no ice thickness .* it has x, y, topg"),
    ({"x": None}, r"no 1-D coordinate variable x .* it has y, thk, topg"),
    ({"x": (("x",), X, {"units": "degrees_east"})}, "longitude and latitude"),
    ({"x": None, "y": None, "lon": (("x",), X, {}), "lat": (("y",), Y, {})},
     "longitude and latitude"),
    ({"x": (("x",), X**1.1, METRES)}, "not evenly spaced"),
    ({"x": (("x",), 2 * X, METRES)}, "cells of 10000 m by 5000 m"),
    ({"thk": (("y", "x"), np.where(THK == 100, np.inf, THK), {})}, "thk has 1 infinite values"),
    ({"thk": (("y", "x"), THK, {"units": "feet"})}, "units 'feet', expected m or km"),
    ({"thk": (("a", "b", "y", "x"), np.zeros((2, 3, 3, 4)), METRES), "dimensions":
      {"a": 2, "b": 3}}, r"dimensions \('a', 'b', 'y', 'x'\): .*expected time alone"),
])
def test_bad_maps_are_named(replaced, message, tmp_path):
    with pytest.raises(InputError, match=message):
        map_files.read_map(standard_map(tmp_path / "map.nc", **replaced))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        map_files.read_map(tmp_path / "absent.nc")
    text = tmp_path / "text.nc"
    text.write_text("not a map")
    with pytest.raises(InputError, match="not a readable NetCDF file"):
        map_files.read_map(text)
    size = 400
    whole = write_map(tmp_path / "whole.nc", {"y": size, "x": size}, {
        "x": (("x",), np.arange(size) * 5e3, {}), "y": (("y",), np.arange(size) * 5e3, {})}, {
        "thk": (("y", "x"), np.random.default_rng(0).random((size, size)), {})})
    for share in (0.3, 0.9):
        cut = tmp_path / "cut.nc"
        cut.write_bytes(whole.read_bytes()[:int(share * whole.stat().st_size)])
        with pytest.raises(InputError, match="truncated"):
            map_files.read_map(cut)


# ---------------------------------------------------------------- times


def map_of_times(path, units="days since 2000-01-01", days=(0, 366, 731), **replaced):
    """Three times of thickness, THK + 7, THK, 2 THK, over a bed that has one."""
    return standard_map(path, {"time": 3, "once": 1}, **{
        "time": (("time",), np.array(days, float), {"units": units}),
        "thk": (("time", "y", "x"), np.stack([THK + 7, THK, 2 * THK]), METRES),
        "topg": (("once", "y", "x"), TOPG[None], METRES)} | replaced)


@pytest.mark.parametrize("time_index, expected, thk, date", [
    (0, 0, THK + 7, "2000-01-01"), (1, 1, THK, "2001-01-01"), (-1, 2, 2 * THK, "2002-01-01")])
def test_a_time_of_the_map_and_its_date(time_index, expected, thk, date, tmp_path):
    ice_map = map_files.read_map(map_of_times(tmp_path / "map.nc"), time_index)
    np.testing.assert_allclose(ice_map["thk"], thk)
    np.testing.assert_allclose(ice_map["topg"], TOPG)
    assert ice_map["time_index"] == expected
    assert ice_map["time_label"] == f"time index {expected} of 3 ({date})"


def test_times_that_do_not_exist_are_named(tmp_path):
    path = map_of_times(tmp_path / "map.nc")
    for time_index in (3, -4):
        with pytest.raises(InputError, match=f"{time_index} does not exist; choose 0 to 2"):
            map_files.read_map(path, time_index)
    path = standard_map(tmp_path / "single.nc")
    single = map_files.read_map(path, 0)  # all it has
    assert (single["time_index"], single["time_label"]) == (None, "")
    with pytest.raises(InputError, match="thk has a single time .* time index 2 does not"):
        map_files.read_map(path, 2)
    with pytest.raises(InputError, match="topg has a single time .* time index 2 does not"), \
            beds.open_bed(path, 2):
        pass


@pytest.mark.parametrize("changes, value", [
    ({"time": None}, ""), ({"units": "years"}, " (time = 731 years)"),
    ({"units": "days since the flood"}, " (time = 731 days since the flood)"),
    ({"days": [0, 1, np.nan]}, ""), ({"days": [0, 1, 1e30]}, ""),
    ({"time": (("time",), np.array([0, 1, -9.0]), {
        "units": "days since 2000-01-01", "_FillValue": -9.0})}, ""),
    ({"time": None, "year": (("time",), np.array([1990, 2000, 2010]), {})}, " (year = 2010)"),
    ({"time": None, "n": (("time",), np.arange(3), {}), "daysSinceStart": (
        ("time",), np.array([0, 366, 731.0]), {"units": "days since 2000-01-01"})},
     " (2002-01-01)")])
def test_a_time_without_a_date_is_labelled_by_its_value(changes, value, tmp_path):
    ice_map = map_files.read_map(map_of_times(tmp_path / "map.nc", **changes))
    assert ice_map["time_label"] == "time index 2 of 3" + value


@pytest.mark.parametrize("values, units, expected, note", [
    (DAYS + 54786, "days since 1850-01-01", DAYS, ""), (DAYS, None, DAYS, ""),
    ([0, 31, 59, 90], None, DAYS, ""), (None, None, None, "tb has missing values"),
    (DAYS, "years", None, "time bounds left out"), (DAYS[0], None, None, "tb has shape (2,)")])
def test_time_bounds_are_in_the_units_of_the_time(values, units, expected, note, tmp_path):
    path = map_of_times(tmp_path / "map.nc", days=(0, 31, 59))
    with netCDF4.Dataset(path, "a") as ds:
        shape = (3, 2) if values is None else np.shape(values)
        dims = [ds.createDimension(f"n{i}", size).name for i, size in enumerate(shape)]
        bounds = ds.createVariable("tb", "f8", dims)
        ds["time"].bounds = "tb"
        if values is not None:
            bounds[...] = values
        if units:
            bounds.units = units
    ice_map = map_files.read_map(path)
    np.testing.assert_array_equal(ice_map["time_axis"][0], [0, 31, 59])
    np.testing.assert_array_equal(ice_map["time_axis"][2], expected)
    assert note in "; ".join(ice_map["notes"]) and bool(note) == bool(ice_map["notes"])


def test_the_time_axis_is_found_by_what_it_is(tmp_path):
    """Its variable is not named as its dimension: time(nTime) in MISMIP+."""
    path = tmp_path / "map.nc"
    write_map(path, {"nTime": 2, "y": 3, "x": 4}, {"x": (("x",), X, METRES), "y": (
        ("y",), Y, METRES), "time": (("nTime",), np.array([5.0, 6]), {"units": "years"})}, {
            "thk": (("nTime", "y", "x"), np.stack([THK, THK]), METRES)})
    ice_map = map_files.read_map(path, 0)
    assert ice_map["times"] == ("nTime", 2)
    assert ice_map["time_axis"][0].tolist() == [5, 6]
    assert ice_map["time_label"] == "time index 0 of 2 (time = 5 years)"


def test_axes_of_matlab_are_read_and_2d_coordinates_are_no_axes(tmp_path):
    fields = {"thk": (("y", "x"), THK, METRES), "topg": (("y", "x"), TOPG, METRES)}
    path = write_map(tmp_path / "map.nc", {"y": 3, "x": 4, "one": 1}, {
        "x": (("x", "one"), X[:, None], METRES), "y": (("one", "y"), Y[None], METRES)}, fields)
    ice_map = map_files.read_map(path)
    np.testing.assert_array_equal(ice_map["x"], X)
    np.testing.assert_array_equal(ice_map["thk"], THK)
    path = write_map(tmp_path / "roms.nc", {"y": 3, "x": 4}, {
        name: (("y", "x"), THK, {"units": "degrees"}) for name in ("lon_rho", "lat_rho")}, fields)
    with pytest.raises(InputError, match="lon_rho, lat_rho are 2-D; .* add projected axes in m"):
        map_files.read_map(path)


@pytest.mark.parametrize("names, transposed", [
    ({}, None), ({"x": "x", "y": "y"}, False), ({"x": "y", "y": "x"}, True)])
def test_axes_with_the_standard_name_of_the_other_are_for_the_user(names, transposed, tmp_path):
    path = standard_map(
        tmp_path / "map.nc", x=(("x",), X, METRES | {"standard_name": "projection_y_coordinate"}),
        y=(("y",), Y, METRES | {"standard_name": "projection_x_coordinate"}))
    if transposed is None:
        with pytest.raises(InputError, match="x is x by its name, but y by its standard name"):
            map_files.read_map(path)
        return
    ice_map = map_files.read_map(path, names=names)
    np.testing.assert_array_equal(ice_map["thk"], THK.T if transposed else THK)
    assert transposed == any("the map is read transposed" in note for note in ice_map["notes"])
