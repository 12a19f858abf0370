"""Map files of every kind: what is read of them, what is rejected, what is written from them."""

import json
import shutil
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
from conftest import REAL_GRIDS, example_settings, run_main, save_layers

import downscale
import evaluate
import model
import prepare_data
import train
import utils
from icesheet import beds, files, map_files, map_layout, projections
from icesheet.command_line import InputError

NY, NX, SIDE = 5, 6, 20e3
X, Y = 100e3 + SIDE * np.arange(NX), -400e3 + SIDE * np.arange(NY)
THK = np.float32(np.linspace(0, 1450, NY * NX).reshape(NY, NX))
TOPG = np.float32(np.linspace(-90, 200, NY * NX).reshape(NY, NX))
USRF = THK + TOPG
SOUTH = projections.EPSG_3031
PROJ_SOUTH = "+proj=stere +lat_0=-90 +lat_ts=-71 +lon_0=0 +datum=WGS84 +units=m"
WKT_KM = ('PROJCS["made",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]]'
          ',PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],PROJECTION["Polar_'
          'Stereographic"],PARAMETER["latitude_of_origin",-71],PARAMETER["central_meridian",0],'
          'PARAMETER["false_easting",{}],PARAMETER["false_northing",0],UNIT["{}",{}]]')


def write_file(path, fields, x=X, y=Y, axes=("x", "y"), axis_about=None, mapping=None, linked="crs",
               about=None, y_down=False, time=None, extra=()):
    """Write a small map file of any kind.

    fields: {name: values or (values, attributes)}, (y, x) or (time, y, x); axis_about: attributes
    of both axes; mapping: attributes of the grid mapping `crs`, which fields call `linked`; about:
    global attributes; time: (values, attributes, bounds or None); extra: more dimensions, sizes.
    """
    flip = -1 if y_down else 1
    with netCDF4.Dataset(path, "w") as ds:
        ds.setncatts(about or {})
        for field, name, axis in zip("xy", axes, (x, y[::flip]), strict=True):
            ds.createDimension(name, len(axis))
            ds.createVariable(name, axis.dtype, (name,))[...] = axis
            ds[name].setncatts({"units": "m", "standard_name": map_layout.STANDARD_NAMES[field]}
                               if axis_about is None else axis_about)
        if mapping:
            variable = ds.createVariable("crs", "f8", fill_value=mapping.get("_FillValue"))
            variable.setncatts({key: mapping[key] for key in mapping if key != "_FillValue"})
        if time:
            ds.createDimension("time", None)
            ds.createVariable("time", "f8", ("time",))[...] = time[0]
            ds["time"].setncatts(time[1])
            if time[2] is not None:
                ds.createDimension("nv", 2)
                ds.createVariable("time_bnds", "f8", ("time", "nv"))[...] = time[2]
                ds["time"].bounds = "time_bnds"
        for dim, size in extra:
            ds.createDimension(dim, size)
        for name, given in fields.items():
            values, attrs = given if isinstance(given, tuple) else (given, {"units": "m"})
            values = np.asarray(values)
            dims = (*(dim for dim, _ in extra), *(("time",) if time else ()), axes[1], axes[0])
            variable = ds.createVariable(name, values.dtype if values.dtype.kind != "U" else str,
                                         dims[-values.ndim:])
            if variable.ndim == values.ndim and values.size:
                variable[...] = values[..., ::flip, :] if values.ndim > 1 else values
            variable.setncatts(attrs | ({"grid_mapping": linked} if mapping and linked else {}))
    return path


NAMED = [("thk", "topg"), ("H_ice", "z_bed"), ("Hi", "Hb"), ("LITHK", "TOPG"), ("H", "bed"),
         ("ice_thickness", "zl"), ("land_ice_thickness", "bedrock_altitude")]
KINDS = {  # kind: arguments of write_file, arguments of read_map, words of variables_read or notes
    **{f"names {thk} {topg}": ({"fields": {thk: THK, topg: TOPG}}, {},
                               f"thk = {thk}, topg = {topg}") for thk, topg in NAMED},
    "standard name": ({"fields": {"thk": (0 * THK, {"standard_name": "sea_ice_thickness"}), "q": (
        THK, {"standard_name": "land_ice_thickness"}), "topg": TOPG}}, {}, "thk = q"),
    "names given": ({"fields": {"z": THK, "Band1": TOPG}},
                    {"names": {"thk": "z", "topg": "Band1"}}, "thk = z, topg = Band1"),
    "axes in km": ({"fields": {"thk": THK, "topg": TOPG}, "x": X / 1000, "y": Y / 1000, "axes": (
        "xc", "yc"), "axis_about": {"units": "kilometers"}}, {}, "axes xc yc (km)"),
    "km unsaid": ({"fields": {"thk": THK, "topg": TOPG}, "x": X / 1000, "y": Y / 1000,
                   "axis_about": {}}, {}, "km assumed"),
    "km told": ({"fields": {"thk": THK, "topg": TOPG}, "x": X / 1000, "y": Y / 1000,
                 "axis_about": {"units": "nonsense"}}, {"units": {"x": "km", "y": "km"}}, "(km)"),
    "y down": ({"fields": {"thk": THK, "topg": TOPG}, "y_down": True}, {}, "thk = thk"),
    "bed derived": ({"fields": {"thk": THK, "usurf": USRF + 1000}}, {}, "surface - thickness"),
    "surface of no concern": ({"fields": {"thk": THK, "topg": TOPG, "usurf": (USRF, {
        "units": "degrees"})}}, {}, "topg = topg, axes x y (m)"),
    "surface and base": ({"fields": {"orog": USRF, "base": TOPG, "topg": TOPG}}, {}, "lsrf = base"),
    **{f"units {units}": ({"fields": {"thk": (THK, {"units": units}), "topg": (TOPG, {
        "units": "m a.s.l."})}}, {}, "thk = thk") for units in
       ("1", "m of ice", "metres", "masl", "metres above sea level", "m (ice)", "m i.e.", "[m]")},
    **{f"bed {units}": ({"fields": {"thk": THK, "topg": (TOPG, {"units": units})}}, {}, words)
       for units, words in (
           ("m w.r.t. PD sea level", ""), ("m wrt geoid", ""), ("m MSL", ""), ("m a.m.s.l.", ""),
           ("m rel. to sea level", ""), ("m relative to EIGEN-6C4", ""), ("metres elevation", ""),
           ("meters (WGS84)", "warning: topg above an ellipsoid"))},
    **{f"axes {units}": ({"fields": {"thk": THK, "topg": TOPG}, "axis_about": {"units": units}}, {},
                         "axes x y (m)")
       for units in ("meters east", "m (EPSG:3031)", "projection meters", "[m]")},
    "units given": ({"fields": {"thk": (THK / 1000, {"units": "nonsense"}), "topg": TOPG}},
                    {"units": {"thk": "km"}}, ""),
    "standard names of others, names given": (
        {"fields": {"usurf": (USRF, {"standard_name": "land_ice_thickness"}), "topg": TOPG,
                    "thk": (THK, {"standard_name": "bedrock_altitude"})}},
        {"names": {"thk": "thk", "topg": "topg"}}, "thk = thk, topg = topg"),
    "right names beside a wrong standard name": (
        {"fields": {"thk": (THK, {"standard_name": "land_ice_thickness", "units": "m"}), "topg": (
            TOPG, {"standard_name": "bedrock_altitude"}), "usurf": (
                USRF, {"standard_name": "land_ice_thickness"})}}, {}, "thk = thk, topg = topg"),
    "surface that does not fit": ({"fields": {"thk": THK, "topg": TOPG, "usurf": USRF + 1000}}, {},
                                  "warning: the surface usurf is not the bed topg + the thickness "
                                  "thk on grounded ice: RMS 1000.0 m"),
    "numbers of cells beside the axes": ({"fields": {"thk": THK, "topg": TOPG, "xi": np.arange(
        NX), "xkm": (X / 1000, {"units": "km"})}}, {}, "axes x y (m)"),
    "fills": ({"fields": {"thk": THK, "topg": np.where(TOPG[0, 0] == TOPG, 1e20, TOPG)}}, {},
              "1 cells hold 1e+20"),
    "packed fills": ({"fields": {"thk": (np.where(THK[0, 0] == THK, -32768, np.round(THK / 0.1)
                                                  ).astype("i2"), {"scale_factor": 0.1}),
                                 "topg": TOPG}}, {}, "thk: 1 cells hold -3276.8"),
    "attributes that do not fit": ({"fields": {
        "thk": (THK, {"units": "m", "valid_max": "much"}), "topg": (TOPG, {"valid_range": "any"})},
        "axis_about": {"units": "m", "valid_min": "low"}}, {}, "thk = thk"),
    "valid range": ({"fields": {"thk": (THK, {"units": "m", "valid_max": np.float32(1440)}),
                                "topg": TOPG}}, {}, "makes 1 cells with ice missing"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_as_the_same_map(kind, tmp_path, recwarn):
    written, arguments, words = KINDS[kind]
    ice_map = map_files.read_map(write_file(tmp_path / "map.nc", **written), **arguments)
    np.testing.assert_allclose(ice_map["x"], X)
    np.testing.assert_allclose(ice_map["y"], Y)
    thk, topg = THK.copy(), TOPG + 1000 * (kind == "bed derived")
    if kind == "valid range":
        thk[-1, -1] = 0
    np.testing.assert_allclose(ice_map["thk"], thk, atol=0.051 if kind == "packed fills" else 1e-3)
    known = np.isfinite(ice_map["topg"])
    assert known.sum() == NY * NX - (kind == "fills")
    np.testing.assert_allclose(ice_map["topg"][known], topg[known], atol=1e-3)
    assert words in "; ".join([ice_map["variables_read"], *ice_map["notes"]])
    assert not list(recwarn)


REFUSED = {  # what: arguments of write_file, words of the error
    "general names alone": ({"fields": {"H": THK}}, "no ice thickness"),
    "a list cut": ({"fields": {f"v{i}": THK for i in range(20)}}, "v7 and 12 more"),
    "degrees unsaid": ({"fields": {"thk": THK}, "x": np.arange(NX) - 60.0,
                        "y": np.arange(NY) + 70.0, "axis_about": {}}, "degrees"),
    "longitude": ({"fields": {"thk": THK}, "axis_about": {"long_name": "longitude", "units": ""}},
                  "longitude"),
    "too thick": ({"fields": {"thk": THK * 1000}}, "thk is 50000 m in cell y 0, x 1"),
    "units misread": ({"fields": {"thk": (THK, {"units": "km"})}}, "expected at most 6000 m"),
    "bed too deep": ({"fields": {"thk": THK, "topg": TOPG - 14000}}, "topg is -14090 m"),
    "water equivalent": ({"fields": {"thk": (THK, {"units": "m w.e."})}}, "units 'm w.e.'"),
    "two record axes": ({"fields": {"thk": np.zeros((2, 3, NY, NX))}, "extra": (
        ("member", 2), ("run", 3))}, "member (2) and run (3)"),
    "no records": ({"fields": {"thk": np.zeros((0, NY, NX))}, "time": ([], {}, None)}, "length 0"),
    "standard names of others": (
        {"fields": {"usurf": (USRF, {"standard_name": "land_ice_thickness"}), "topg": TOPG,
                    "thk": (THK, {"standard_name": "bedrock_altitude"})}},
        "usurf is usrf by its name, but thk by its standard name"),
    **{str(units): ({"fields": {"thk": THK, "topg": (TOPG, {"units": units})}}, f"'{units}'")
       for units in ("m y-1", "m/s", "m below sea level", "m2", "m yr-1", 1, 5.0)},
    "units of axes, a number": ({"fields": {"thk": THK}, "axis_about": {"units": 1}}, "'1'"),
    "cell numbers": ({"fields": {"thk": THK}, "x": np.arange(NX) + 1.0, "y": np.arange(NY) + 1.0,
                      "axis_about": {}}, "x is 1, 2 ... without units: cell numbers"),
    "metres that say km": ({"fields": {"thk": THK}, "axis_about": {"units": "km"}},
                           "farther than 20000 km"),
    "an overflow": ({"fields": {"thk": np.where(THK[1, 1] == THK, 1e300, THK.astype(float))}},
                    "1e+300 m"),
    "axes of two grids": ({"fields": {"thk": THK, "topg": TOPG, "xb": X + 1e5}},
                          "x and xb are different coordinates"),
    "NaN in an axis": ({"fields": {"thk": THK}, "x": np.where(X[0] == X, np.nan, X)}, "missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(what, tmp_path):
    written, words = REFUSED[what]
    path = write_file(tmp_path / "map.nc", **written)
    with pytest.raises(InputError) as error:
        map_files.read_map(path)
    assert words in str(error.value) and str(error.value).startswith(str(path))
    assert "\n" not in str(error.value) and "nan" not in str(error.value)


def test_bed_does_not_follow_where_ice_floats(tmp_path):
    thk = np.full((NY, NX), 1000.0)
    path = write_file(tmp_path / "map.nc", {"lithk": thk, "orog": thk * (1 - 917 / 1027.5)})
    ice_map = map_files.read_map(path)
    assert ice_map["topg"] is None and "30 cells of ice float" in ice_map["notes"][0]
    # With lighter water it floats no more, or with heavier ice.
    assert map_files.read_map(path, densities=(700, 1000))["topg"] is None
    assert map_files.read_map(path, densities=(950, 1000))["topg"] is not None


def test_float32_axes_are_rebuilt(tmp_path):
    """UTM: steps of 100 m at 5000 km, where float32 holds half a metre."""
    y = (5161056.3 + 100.0 * np.arange(40)).astype(np.float32)
    x = (414049.7 + 100.0 * np.arange(NX)).astype(np.float32)
    ice_map = map_files.read_map(write_file(tmp_path / "map.nc", {"thk": np.zeros((40, NX))}, x, y))
    np.testing.assert_allclose(np.diff(ice_map["y"]), 100, rtol=1e-9)
    np.testing.assert_allclose(ice_map["y"], y, atol=0.5)
    assert ice_map["spacing_m"] == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize("about, mapping, linked, expected", [
    ({}, SOUTH, "crs", SOUTH), ({}, SOUTH, "crs: x y", SOUTH), ({}, SOUTH, "gone", SOUTH),
    ({}, SOUTH, None, SOUTH),
    ({}, SOUTH | {"_FillValue": np.nan, "GeoTransform": "0 1 0 0 0 1"}, "crs", SOUTH),
    ({"proj4": PROJ_SOUTH}, None, None, SOUTH), ({"pyproj_srs": PROJ_SOUTH}, None, None, SOUTH),
    ({"crs": "EPSG:3031"}, None, None, SOUTH), ({"proj": PROJ_SOUTH}, None, None, SOUTH),
    ({}, {"spatial_epsg": 3031}, "crs", SOUTH), ({}, {"note": "my own"}, "crs", {"note": "my own"}),
    ({"crs": "my own"}, None, None, {"crs": "my own"}),
    ({}, {"spatial_ref": WKT_KM.format(0, "metre", 1)}, "crs",
     {"spatial_ref": WKT_KM.format(0, "metre", 1)})])
def test_the_projection_that_a_file_has_is_found(about, mapping, linked, expected, tmp_path):
    path = write_file(tmp_path / "map.nc", {"thk": THK}, about=about, mapping=mapping,
                      linked=linked)
    crs = map_files.read_map(path)["crs"]
    assert not {"_FillValue", "GeoTransform"} & crs.keys()
    assert {key: crs.get(key) for key in expected if key != "epsg_code"} == pytest.approx({
        key: value for key, value in expected.items() if key != "epsg_code"})


def test_lengths_of_a_projection_are_in_the_units_written(tmp_path):
    mapping = SOUTH | {"false_easting": 500.0, "false_northing": -300.0,
                       "crs_wkt": WKT_KM.format(500, "kilometre", 1000)}
    crs = map_files.read_map(write_file(tmp_path / "map.nc", {"thk": THK}, X / 1000, Y / 1000,
                                    axis_about={"units": "km"}, mapping=mapping))["crs"]
    assert (crs["false_easting"], crs["false_northing"]) == (500e3, -300e3)
    assert crs["crs_wkt"] == WKT_KM.format(500000, "metre", 1)


def test_other_formats_come_with_the_command_that_converts_them(tmp_path):
    (tmp_path / "map.tif").write_bytes(b"II*\0" + bytes(50))
    (tmp_path / "map.zarr").mkdir()
    (tmp_path / "map.zarr" / ".zgroup").write_text("{}")
    (tmp_path / "map.nc.gz").write_bytes(b"\x1f\x8b" + bytes(50))
    (tmp_path / "map.zip").write_bytes(b"PK\3\4" + bytes(50))
    for name, words in (("map.tif", "gdal_translate -of netCDF"), ("map.zarr", "to_netcdf"),
                        ("map.nc.gz", "gunzip -k .*map.nc.gz"), ("map.zip", "unzip .*map.zip")):
        with pytest.raises(InputError, match=words):
            map_files.read_map(tmp_path / name)


def test_missing_cells_are_told(capsys):
    thk = np.full((4, 5), 500.0)
    thk[0], thk[1, :2], topg = np.nan, -3, np.full((4, 5), -9.0)
    topg[0, :2] = np.nan
    map_files.print_map_summary(map_files.make_map(
        1e3 * np.arange(5), 1e3 * np.arange(4), thk, topg, name="plain"))
    assert capsys.readouterr().out.splitlines() == [
        "plain: 5 cells have no thickness: 2 of them have no bed either (no data), the others are "
        "ice-free",
        "plain: 2 cells have negative thickness, set to 0"]


def test_a_file_without_locks_or_locked_says_which_lock(tmp_path, monkeypatch):
    path = write_file(tmp_path / "map.nc", {"thk": THK})
    writer = subprocess.Popen([sys.executable, "-c", "import sys, netCDF4; ds = netCDF4.Dataset("
                               "sys.argv[1], 'a'); print(flush=True); input()", str(path)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer.stdout.readline()
    with pytest.raises(InputError, match="locked by another .* HDF5_USE_FILE_LOCKING=FALSE"):
        map_files.read_map(path)
    writer.communicate(b"\n")
    map_files.read_map(path)

    def fail(*args):
        raise OSError("no locks")

    monkeypatch.setattr("fcntl.flock", fail)
    monkeypatch.setattr(netCDF4, "Dataset", fail)
    with pytest.raises(InputError, match="no file locks, .* HDF5_USE_FILE_LOCKING=FALSE"):
        map_files.read_map(path)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    """Replaced, grown or written in place: between two times, while it is read, as a bed."""
    path, other = tmp_path / "map.nc", tmp_path / "other.nc"
    fields = {"thk": np.stack([THK, THK + 1]), "topg": TOPG}
    for file in (path, other):
        write_file(file, fields, time=([0, 1], {}, None))
    first = map_files.read_map(path, 0)
    assert map_files.read_map(path, 1, first=first)["sha256"] == first["sha256"]
    with beds.open_bed(path) as bed:
        bed["read_topg"](slice(0, 2), slice(0, 2))
        shutil.copystat(path, other)
        other.replace(path)  # of the same size and time
        with pytest.raises(InputError, match="map.nc: changed while it was read"):
            bed["read_topg"](slice(0, 2), slice(0, 2))
    with pytest.raises(InputError, match="map.nc: changed while it was read"):
        map_files.read_map(path, 1, first=first)
    hash_file = files.hash_file

    def hash_and_touch(path):
        path.touch()
        return hash_file(path)

    monkeypatch.setattr(files, "hash_file", hash_and_touch)
    with pytest.raises(InputError, match="map.nc: changed while it was read"):
        map_files.read_map(path)
    with pytest.raises(InputError, match="changed while it was read"), beds.open_bed(path):
        pass


def test_a_map_without_ice_or_with_fields_on_other_axes_says_so(tmp_path, capsys):
    path = write_file(tmp_path / "map.nc", {"thk": 0 * THK})
    with netCDF4.Dataset(path, "a") as ds:
        ds.createDimension("xb", NX)
        ds.createVariable("bed", "f4", ("y", "xb"))
    map_files.print_map_summary(map_files.read_map(path))
    said = capsys.readouterr().out
    assert "warning: map.nc: no ice: nowhere more than 1 m thick\n" in said
    assert "warning: map.nc: topg = bed is not read: it lies on other dimensions, y, xb\n" in said


# ---------------------------------------------------------------- whole maps


@pytest.fixture
def run(folder, quick_figures, uncompiled):
    """A 2x run `made`, never trained: it gives back its base."""
    settings = example_settings(scale=2, run="made", filters=[4], kernels=[3, 3],
                                self_ensemble=False, data={"degrade": "area"})
    files.write_json(files.CHECKPOINTS / "made" / "settings.json", settings)
    save_layers(settings, model.build_layers(settings))
    return settings


def refined(*argv):
    assert downscale.main([str(arg) for arg in argv] + ["--run", "made", "--output", "f.nc"]) == 0
    return netCDF4.Dataset("f.nc")


TIME = ([0.0, 31.0, 59.0], {"units": "days since 2000-01-01", "calendar": "noleap"},
        [[0, 31], [31, 59], [59, 90]])


@pytest.mark.parametrize("text, numbers", [("all", [0, 1, 2]), ("1:", [1, 2]), ("0:1", [0])])
def test_records_are_written_along_an_unlimited_time(run, text, numbers, capsys):
    rise = np.array([0, 10, 30])[:, None, None]
    write_file("map.nc", {"thk": THK + 100 * np.arange(3)[:, None, None], "topg": TOPG + rise},
               time=TIME)
    write_file("bed.nc", {"bed": np.kron(TOPG + 500, np.ones((4, 4)))}, 92.5e3 + 5e3 * np.arange(
        4 * NX), -407.5e3 + 5e3 * np.arange(4 * NY))
    with refined("map.nc", "--time", text, "--bed", "bed.nc") as ds:
        assert ds.dimensions["time"].isunlimited()
        assert (ds["time"].units, ds["time"].calendar) == (TIME[1]["units"], "noleap")
        np.testing.assert_array_equal(ds["time"][...], np.array(TIME[0])[numbers])
        np.testing.assert_array_equal(ds["time_bnds"][...], np.array(TIME[2])[numbers])
        for i, number in enumerate(numbers):
            means = ds["thk"][i].reshape(NY, 2, NX, 2).mean(axis=(1, 3))
            np.testing.assert_allclose(means, THK + 100 * number, atol=0.01)
            # the fine bed is of the first record of the file, and rises as the map's own
            np.testing.assert_allclose(ds["topg"][i], np.kron(TOPG + 500, np.ones((2, 2)))
                                       + rise[number], atol=0.01)
        assert "own bed since then is added" in ds.comment
    said = capsys.readouterr().out
    assert f"time {len(numbers)}/{len(numbers)}, tile" in said
    assert "is not that of map.nc: RMS 500.0 m under ice" in said


def test_a_bed_that_stays_is_written_once_and_one_record_has_no_time(run):
    write_file("map.nc", {"thk": THK + np.zeros((3, 1, 1)), "topg": TOPG}, time=TIME)
    write_file("bed.nc", {"topg": TOPG})
    with refined("map.nc", "--time", "all", "--bed", "bed.nc") as ds:
        assert ds["thk"].dimensions == ("time", "y", "x") and ds["topg"].dimensions == ("y", "x")
    with refined("map.nc", "--time", "1") as ds:
        assert ds["thk"].dimensions == ("y", "x")
    write_file("single.nc", {"thk": THK[None], "topg": TOPG}, time=([31.0], TIME[1], [[0, 31]]))
    with refined("single.nc", "--time", "all") as ds:
        assert ds["thk"].shape == (1, 2 * NY, 2 * NX)
        assert (ds["time"][0], list(ds["time_bnds"][0])) == (31, [0, 31])


@pytest.mark.parametrize("text", ["3", "5:", "x", "1:2:3"])
@pytest.mark.parametrize("several", [True, False])
def test_records_that_are_not_there_are_refused(run, several, text, capsys):
    write_file("map.nc", {"thk": THK + np.zeros((3, 1, 1)) if several else THK, "topg": TOPG},
               time=TIME if several else None)
    status, said = run_main(downscale.main, ["map.nc", "--time", text, "--run", "made", "--output",
                                             "f.nc"], capsys)
    assert (status, said.count("\n")) == (2, 1)


def test_one_variable_a_file_and_missing_thickness_over_a_known_bed_is_no_ice(run):
    thk = THK.copy()
    thk[:, :2] = np.nan
    write_file("lithk.nc", {"lithk": thk})
    write_file("topg.nc", {"topg": TOPG})
    with refined("lithk.nc", "--bed", "topg.nc") as ds:
        assert not np.ma.getmaskarray(ds["thk"][...]).any() and not ds["thk"][:, :4].any()
    metrics = downscale.run_reconstruction_test("made", "lithk.nc", "topg.nc")
    assert metrics["all"]["n_cells"] == 24  # 4 x 6 whole coarse cells


def test_densities_decide_what_floats_and_are_stored(run):
    write_file("map.nc", {"thk": np.full((NY, NX), 1000.0), "topg": np.full((NY, NX), -890.0)})
    for argv, kind, text in (([], 2, "ice 917, sea water 1027.5"),
                             (["--densities", "910", "1028"], 3, "ice 910, sea water 1028")):
        with refined("map.nc", *argv) as ds:
            assert (ds["mask"][...] == kind).all() and text in ds.densities
    np.testing.assert_allclose(
        utils.surface_from_thickness(1000.0, -890.0, (910, 1028)), 1000 * 118 / 1028)


def test_fills_of_another_bed_are_missing_and_counted_once(run, monkeypatch, capsys):
    monkeypatch.setattr(beds, "CELLS_PER_READ", 10)  # the bed is read in parts
    topg = np.kron(TOPG, np.ones((2, 2)))
    topg[0, :2], topg[7, 3] = 1e20, 1e20
    write_file("map.nc", {"thk": THK})
    write_file("bed.nc", {"topg": topg}, 95e3 + 10e3 * np.arange(2 * NX),
               -405e3 + 10e3 * np.arange(2 * NY))
    with refined("map.nc", "--bed", "bed.nc") as ds:
        np.testing.assert_array_equal(np.ma.getmaskarray(np.ma.masked_invalid(ds["topg"][...])),
                                      topg > 1e9)
    said = capsys.readouterr().out
    assert "bed bed.nc: topg: 3 cells hold 1e+20, an undeclared fill value: missing" in said
    write_file("bed.nc", {"topg": np.where(TOPG[-1, -1] == TOPG, 2e4, TOPG)})
    status, said = run_main(downscale.main, ["map.nc", "--bed", "bed.nc", "--run", "made",
                                             "--output", "g.nc"], capsys)
    assert status == 2 and "bed.nc: topg is 20000 m in cell y 4, x 5" in said


def test_a_surface_that_cannot_be_read_does_not_stop_a_map_with_another_bed(run, capsys):
    write_file("map.nc", {"lithk": THK, "orog": (USRF, {"units": "degrees"})})
    write_file("bed.nc", {"topg": TOPG})
    with refined("map.nc", "--bed", "bed.nc") as ds:
        assert "no bed from the surface (map.nc: variable orog: units 'degrees'" in ds.comment
    status, said = run_main(downscale.main, ["map.nc", "--run", "made", "--output", "g.nc"],
                            capsys)
    assert status == 2 and "contains no bed (topg)" in said


def test_units_of_the_command_line_are_of_the_map_and_of_a_bed_that_says_none(run):
    write_file("map.nc", {"thk": THK}, X / 1000, Y / 1000, axis_about={})
    for about, scale in (({"units": "m"}, 1), ({}, 1000)):
        write_file("bed.nc", {"topg": TOPG}, X / scale, Y / scale, axis_about=about)
        with refined("map.nc", "--bed", "bed.nc", "--xy-units", "km") as ds:
            np.testing.assert_allclose(ds["x"][:2], X[0] + [-5e3, 5e3])
            assert ("topg = topg, axes x y (m)" in ds.source_variables) == (scale == 1)


def antarctic_axes_and_fields():
    """A rough continent with ice around the pole, sea around it: x, thk, topg."""
    x, rng = 600e3 * (np.arange(8) - 3.5), np.random.default_rng(0)
    topg = np.where(np.hypot(x, x[:, None]) < 1900e3, 200 + 800 * rng.random((8, 8)), -3000)
    return x, np.where(topg > 0, 900.0, 0), topg


def test_projection_of_a_map_that_declares_none_is_that_of_the_bed(run, capsys):
    x, thk, topg = antarctic_axes_and_fields()
    write_file("map.nc", {"thk": thk, "topg": topg}, x, x)
    hughes = SOUTH | {"semi_major_axis": 6378273.0, "inverse_flattening": 298.279411123064}
    write_file("bed.nc", {"topg": topg}, x, x, mapping=hughes)
    with refined("map.nc", "--bed", "bed.nc") as ds:
        assert "declares no projection: that of the bed bed.nc is assumed" in ds.comment
        assert ds["crs"].semi_major_axis == 6378273.0
    with refined("map.nc") as ds:
        assert "warning: the map declares no projection and fits Antarctica" in ds.comment
    write_file("bed.nc", {"topg": topg}, x, x, mapping=SOUTH | {"standard_parallel": -60.0})
    status, said = run_main(downscale.main, ["map.nc", "--bed", "bed.nc", "--run", "made",
                                             "--output", "g.nc"], capsys)
    assert status == 2 and "standard_parallel -71.0 and -60.0" in said


def test_records_without_a_bed_among_others_are_refused(run, capsys):
    thk = np.stack([THK, np.full_like(THK, 1000)])
    usrf = np.stack([THK + 500, np.full_like(THK, 100)])  # the second floats
    write_file("map.nc", {"thk": thk, "usurf": usrf}, time=([0, 1], {}, None))
    status, said = run_main(downscale.main, ["map.nc", "--time", "all", "--run", "made", "--output",
                                             "f.nc"], capsys)
    assert status == 2 and "map.nc: no bed at time index 1, but at others" in said


@pytest.mark.parametrize("script", [prepare_data, train, evaluate])
def test_names_and_units_are_of_a_map_that_is_given(script, folder, capsys):
    for argv in (["--variables", "thk=z"], ["--xy-units", "km"]):
        status, said = run_main(script.main, argv, capsys)
        assert status == 2 and f"{argv[0]} describes the input map; add --input MAP.nc" in said
    if script is evaluate:
        status, said = run_main(script.main, ["--compare", "a", "--densities", "910", "1028"],
                                capsys)
        assert status == 2 and "--compare can be combined only with --show" in said


def test_names_of_the_command_line_are_believed(run, capsys):
    write_file("map.nc", {"z": THK})
    write_file("bed.nc", {"Band1": TOPG})
    with refined("map.nc", "--bed", "bed.nc", "--variables", "thk=z", "topg=Band1") as ds:
        assert ds.source_variables == "thk = z, axes x y (m); topg = Band1, axes x y (m)"
    with refined("map.nc", "--bed", "bed.nc", "--variables", "thk=z", "--variables", "topg=Band1",
                 "--units", "thk=m", "topg=m") as ds:
        assert ds.source_variables == "thk = z, axes x y (m); topg = Band1, axes x y (m)"
    capsys.readouterr()
    for names in (["thk"], ["q=z"], ["thk=gone"], ["thk=z", "--variables", "thk=z"],
                  ["thk=z", "--units", "thk=feet"], ["thk=z", "--units", "x=m"]):
        status, said = run_main(downscale.main, ["map.nc", "--run", "made", "--output", "g.nc",
                                                 "--variables", *names], capsys)
        assert (status, said.count("\n")) == (2, 1)


def place(path):
    """Edges, cells and orientation of the field thk by rioxarray and by GDAL, where they are."""
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    pytest.importorskip("rioxarray", reason="rioxarray is not installed")
    with xarray.open_dataset(path, decode_coords="all") as ds:
        # of the axes: gdal_translate's GeoTransform runs down whatever the axis does
        found = [*ds["thk"].rio.bounds(recalc=True), *ds["thk"].rio.resolution(recalc=True)]
        projected = ds.rio.crs is not None and ds.rio.crs.is_projected
    if shutil.which("gdalinfo"):
        said = json.loads(subprocess.check_output(
            ["gdalinfo", "-json", f"NETCDF:{path}:thk"], stderr=subprocess.DEVNULL))
        left, dx, _, top, _, dy = said["geoTransform"]
        assert [left, top] == pytest.approx([found[0], found[3]])
        assert [dx, abs(dy)] == pytest.approx([found[4], abs(found[5])])
    return np.array(found), projected


@pytest.mark.parametrize("y_down", [False, True])
@pytest.mark.parametrize("kind", ["netCDF4", "fill value", "rioxarray", "gdal_translate"])
def test_fine_map_lies_on_the_coarse_one(run, kind, y_down):
    mapping = SOUTH | ({"_FillValue": np.nan} if kind == "fill value" else {})
    write_file("map.nc", {"thk": THK, "topg": TOPG}, mapping=mapping, y_down=y_down)
    if kind == "rioxarray":
        xarray = pytest.importorskip("xarray", reason="xarray is not installed")
        pytest.importorskip("rioxarray", reason="rioxarray is not installed")
        with xarray.open_dataset("map.nc", decode_coords="all") as ds:
            ds.load().rio.write_crs("EPSG:3031").rio.write_transform().to_netcdf("again.nc")
    elif kind == "gdal_translate":
        if not shutil.which("gdal_translate"):
            pytest.skip("gdal_translate is not installed")
        subprocess.check_call(["gdal_translate", "-q", "-of", "netCDF", "-co", "WRITE_BOTTOMUP="
                               + ("NO" if y_down else "YES"), "NETCDF:map.nc:thk", "again.nc"])
    shutil.move("map.nc" if kind in ("netCDF4", "fill value") else "again.nc", "in.nc")
    write_file("bed.nc", {"topg": TOPG}, mapping=SOUTH)
    refined("in.nc", "--bed", "bed.nc").close()
    (coarse, _), (fine, projected) = place("in.nc"), place("f.nc")
    np.testing.assert_allclose(fine[:4], coarse[:4])
    np.testing.assert_allclose(fine[4:], coarse[4:] / 2)  # the sign is the orientation
    assert projected
    with netCDF4.Dataset("f.nc") as ds:
        assert not {"_FillValue", "GeoTransform"} & set(ds["crs"].ncattrs())
        fine = ds["thk"][::-1 if y_down else 1].reshape(NY, 2, NX, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(fine, THK, atol=0.01)


# ---------------------------------------------------------------- real files

REAL = {  # file: names, what is taken, side of a cell [m], mean thickness [m], whether it has a bed
    "Antarctica_64km.nc": ({}, "thk = Hi, topg = Hb, axes x y (m)", 64000, 595.011, True),
    "ESHI.input.nc": ({}, "axes x1 y1 (no units)", 5000, 889.870, True),
    "GRL-16KM_TOPO-M17.nc": ({}, "axes xc yc (km)", 16000, 601.639, True),
    "RGI60-11.01450_gridded_data.nc": (
        {"thk": "consensus_ice_thickness"}, "usrf = topo", 100, 26.1769, True),
    "aletsch_basic_geology.nc": ({}, "usrf = usurf", 100, 31.4871, True),
    "bedmap2_schmidtko14_50km.nc": ({}, "thk = thk", 50800, 676.465, True),
    "great_lakes_equivalent_ice_thickness.nc": ({"thk": "z"}, "thk = z", 5000, 0.488762, False),
    "nbreen_input.nc": ({}, "topg = topg, axes x y (m)", 125, 147.114, True),
    "pico_subset_written_by_xarray.nc": ({}, "thk = thk", 50800, 1933.08, True),
    "startSMALLablate.nc": ({}, "thk = thk", 10000, 29.6424, True),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_of_other_models(real_grid, name, recwarn):
    names, taken, spacing_m, mean_m, has_bed = REAL[name]
    ice_map = map_files.read_map(real_grid(f"other_models/{name}"), names=names)
    assert taken in ice_map["variables_read"]
    assert ice_map["spacing_m"] == pytest.approx(spacing_m, rel=1e-9)
    assert ice_map["thk"].mean(dtype=float) == pytest.approx(mean_m, rel=1e-5)
    assert (ice_map["topg"] is not None) == has_bed
    assert not list(recwarn)
    assert REAL_GRIDS.exists()
