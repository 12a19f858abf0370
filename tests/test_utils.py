"""Maps of every layout, interpolation operators, ice geometry, metrics: against hand values."""

import os
import signal
import time

import netCDF4
import numpy as np
import pytest
from conftest import write_map

import utils
from utils import InputError

# A 3 x 4 map (y, x) with nothing symmetric about it, as it has to come out of every layout.
X = np.array([0, 5000, 10000, 15000.0])
Y = np.array([-10000, -5000, 0.0])
THK = np.array([[0, 100, 200, 300], [400, 0, 600, 700], [800, 900, 1000, 1100.0]])
TOPG = THK / 10 - 500
USRF = THK * 1.0 + TOPG


def standard_map(path, **replaced):
    """A plain CF map of the fields above; keywords replace or, with None, remove variables."""
    variables = {
        "x": (("x",), X, {"units": "m"}),
        "y": (("y",), Y, {"units": "m"}),
        "thk": (("y", "x"), THK, {"units": "m"}),
        "topg": (("y", "x"), TOPG, {"units": "m"}),
    }
    variables = {name: value for name, value in (variables | replaced).items() if value is not None}
    return write_map(path, {"y": 3, "x": 4}, {}, variables)


def albmap(path):
    coordinates = {"x1": (("x1",), X, {"units": "m"}), "y1": (("y1",), Y, {"units": "m"})}
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
        "thk": (dims, np.stack([THK + 7, THK]), {"units": "m"}),
        "topg": (dims, np.stack([TOPG + 7, TOPG]), {"units": "m"}),
        "usrf": (dims, np.stack([USRF, USRF]), {"units": "m"})})


def old_pism(path):
    coordinates = {"x": (("x",), X, {"units": "m"}), "y": (("y",), Y, {"units": "m"}),
                   "lon": (("y", "x"), THK, {"units": "degrees_east"})}
    dims = ("time", "x", "y")
    return write_map(path, {"time": 1, "y": 3, "x": 4}, coordinates, {
        "thk": (dims, THK.T[None], {"units": "m"}), "topg": (dims, TOPG.T[None], {"units": "m"})})


def bedmachine(path):
    coordinates = {"x": (("x",), X.astype(np.int32), {"units": "meter"}),
                   "y": (("y",), Y[::-1].astype(np.int32), {"units": "meter"})}
    fields = {"thickness": THK, "bed": TOPG, "surface": USRF}
    return write_map(
        path,
        {"y": 3, "x": 4},
        coordinates,
        {
            name: (
                ("y", "x"),
                values[::-1].astype(np.float32),
                {"units": "meters", "_FillValue": -9999.0},
            )
            for name, values in fields.items()
        },
    )


def bedmap3(path):
    coordinates = {"x": (("x",), X, {"units": "m"}), "y": (("y",), Y[::-1], {"units": "m"})}
    thk = np.where(THK == 0, np.nan, THK)
    return write_map(path, {"y": 3, "x": 4}, coordinates, {
        "ice_thickness": (("y", "x"), thk[::-1], {"units": "m"}),
        "bed_topography": (("y", "x"), TOPG[::-1], {"units": "m"}),
        "surface_topography": (("y", "x"), USRF[::-1], {"units": "m"})})


def cf_in_km(path):
    coordinates = {
        "rlon": (
            ("i",),
            X[::-1] / 1000,
            {"units": "km", "standard_name": "projection_x_coordinate"},
        ),
        "rlat": (("j",), Y / 1000, {"units": "km", "standard_name": "projection_y_coordinate"}),
    }
    return write_map(
        path,
        {"j": 3, "i": 4},
        coordinates,
        {
            "H": (
                ("j", "i"),
                THK[:, ::-1] / 1000,
                {"units": "km", "standard_name": "land_ice_thickness"},
            ),
            "b": (("j", "i"), TOPG[:, ::-1], {"units": "m", "standard_name": "bedrock_altitude"}),
        },
    )


@pytest.mark.parametrize(
    "write", [standard_map, albmap, searise, old_pism, bedmachine, bedmap3, cf_in_km]
)
def test_every_layout_reads_as_the_same_map(write, tmp_path):
    found = utils.read_map(write(tmp_path / "map.nc"))
    np.testing.assert_allclose(found["x"], X)
    np.testing.assert_allclose(found["y"], Y)
    np.testing.assert_allclose(found["thk"], THK, rtol=1e-6)
    np.testing.assert_allclose(found["topg"], TOPG, rtol=1e-6)
    assert found["thk"].dtype == np.float32
    assert found["n_missing_thk"] == (2 if write in (albmap, bedmap3) else 0)


def test_record_of_a_time_axis(tmp_path):
    path = searise(tmp_path / "map.nc")
    np.testing.assert_allclose(utils.read_map(path, time=0)["thk"], THK + 7)
    with pytest.raises(InputError, match="no record 2; choose --time 0 to 1"):
        utils.read_map(path, time=2)


def test_negative_thickness_is_zero_ice_and_counted(tmp_path):
    thk = THK.copy()
    thk[2, 3] = -5
    found = utils.read_map(standard_map(tmp_path / "map.nc", thk=(("y", "x"), thk, {})))
    assert found["thk"][2, 3] == 0
    assert found["n_negative_thk"] == 1


def test_grid_mapping_and_citation_are_carried(tmp_path):
    path = standard_map(tmp_path / "map.nc", thk=(("y", "x"), THK, {"grid_mapping": "crs"}),
                        crs=((), np.int32(0), {"grid_mapping_name": "polar_stereographic"}))
    with netCDF4.Dataset(path, "a") as ds:
        ds.References = "Somebody (2020)"
    found = utils.read_map(path)
    assert found["crs"] == {"grid_mapping_name": "polar_stereographic"}
    assert found["citation"] == "Somebody (2020)"


@pytest.mark.parametrize(
    "replaced, message",
    [
        ({"thk": None}, r"no ice thickness .* it has x, y, topg"),
        ({"x": None}, r"no 1-D coordinate variable x .* it has y, thk, topg"),
        ({"x": (("x",), X, {"units": "degrees_east"})}, "longitude and latitude"),
        (
            {"x": None, "y": None, "lon": (("x",), X, {}), "lat": (("y",), Y, {})},
            "longitude and latitude",
        ),
        ({"x": (("x",), X**1.1, {"units": "m"})}, "not evenly spaced"),
        ({"x": (("x",), 2 * X, {"units": "m"})}, "cells of 10000 m by 5000 m"),
        ({"thk": (("y", "x"), np.where(THK == 100, np.inf, THK), {})}, "thk has 1 infinite values"),
        ({"thk": (("y", "x"), THK, {"units": "feet"})}, "units 'feet', expected m or km"),
    ],
)
def test_bad_maps_are_named(replaced, message, tmp_path):
    with pytest.raises(InputError, match=message):
        utils.read_map(standard_map(tmp_path / "map.nc", **replaced))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        utils.read_map(tmp_path / "absent.nc")
    text = tmp_path / "text.nc"
    text.write_text("not a map")
    with pytest.raises(InputError, match="not a readable NetCDF file"):
        utils.read_map(text)
    size = 400
    whole = write_map(tmp_path / "whole.nc", {"y": size, "x": size}, {
        "x": (("x",), np.arange(size) * 5e3, {}), "y": (("y",), np.arange(size) * 5e3, {})}, {
        "thk": (("y", "x"), np.random.default_rng(0).random((size, size)), {})})
    for share in (0.3, 0.9):
        cut = tmp_path / "cut.nc"
        cut.write_bytes(whole.read_bytes()[:int(share * whole.stat().st_size)])
        with pytest.raises(InputError, match="truncated"):
            utils.read_map(cut)


# ---------------------------------------------------------------- operators


def test_area_means_by_hand():
    np.testing.assert_allclose(utils.area_means(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    np.testing.assert_allclose(utils.area_means(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("factor, size", [(2, 20), (4, 10), (8, 5), (16, 3)])
def test_reduction_sizes_and_what_each_keeps(factor, size):
    field = np.random.default_rng(factor).random((2, 41, 41))
    points = utils.reduce_fields(field, factor, "bicubic")
    means = utils.reduce_fields(field, factor, "area")
    assert points.shape == means.shape == (2, size, size)
    np.testing.assert_allclose(points[:, ::size - 1, ::size - 1], field[:, ::40, ::40])  # corners
    np.testing.assert_allclose(means.mean(axis=(1, 2)), field.mean(axis=(1, 2)))  # ice volume


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_constant_field_survives_at_every_level(degrade):
    levels = utils.make_levels(np.full((1, 41, 41), 1234.0), 16, degrade)
    np.testing.assert_allclose(levels, 1234, rtol=1e-6)
    assert levels.shape == (1, 5, 41, 41)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_no_half_cell_shift(degrade):
    """A ramp comes back as itself (zoom mirrors at the edges: inside), a bump stays centred."""
    ramp = np.broadcast_to(np.arange(41.0), (1, 41, 41))
    level0 = utils.make_levels(ramp, 4, degrade)[:, 0]
    inner = slice(12, 29) if degrade == "bicubic" else slice(2, 39)
    np.testing.assert_allclose(level0[..., inner], ramp[..., inner], atol=0.05)
    bump = np.exp(-(((np.arange(41) - 20.0) / 6) ** 2)) * np.ones((1, 41, 1))
    level0 = utils.make_levels(bump, 4, degrade)[:, 0]
    np.testing.assert_allclose(level0, level0[..., ::-1], atol=1e-6)


def test_spline_keeps_ramps_and_passes_through_the_centres():
    centres = (np.arange(5) + 0.5) * 2
    np.testing.assert_allclose(utils.spline_weights(5, 10) @ centres, np.arange(10) + 0.5)
    # 15 cells over 5: every third fine centre is a coarse centre
    np.testing.assert_allclose(utils.spline_weights(5, 15)[1::3], np.eye(5), atol=1e-12)


def test_last_level_is_the_field_itself():
    field = np.random.default_rng(0).random((3, 41, 41)).astype(np.float32)
    for degrade in ("bicubic", "area"):
        np.testing.assert_array_equal(utils.make_levels(field, 8, degrade)[:, -1], field)


# ---------------------------------------------------------------- geometry of ice


def test_surface_and_thickness_by_hand():
    r = 917 / 1027.5
    # grounded inland, grounded below sea level, floating, ice-free land, open ocean
    thk = np.array([1000, 1000, 300, 0, 0.0])
    topg = np.array([500, -600, -800, 200, -3000.0])
    usrf = np.array([1500, 400, 300 * (1 - r), 0, 0])
    np.testing.assert_allclose(utils.surface(thk, topg), usrf)
    np.testing.assert_allclose(utils.thickness(usrf, topg), thk, atol=1e-9)
    # Just at the grounding line both answers are the thickness that just floats.
    line = 650 * (1 / r - 1)
    np.testing.assert_allclose(utils.thickness(line + np.array([-1e-9, 1e-9]), -650.0), 650 / r)
    assert utils.thickness(100.0, 300.0) == 0  # rock above the surface


# ---------------------------------------------------------------- metrics and files


def test_errors_by_hand():
    found = utils.errors([[3.0, 0.0]], [[0.0, 4.0]], thk_max_m=10)
    assert found == pytest.approx(
        {"mse": 0.125, "rmse_m": np.sqrt(12.5), "mae_m": 3.5, "bias_m": -0.5}
    )
    assert utils.rmse_m(np.array([[3.0], [1]]), np.zeros((2, 1)), axis=1) == pytest.approx([3, 1])


def test_volume_error_by_hand():
    assert utils.volume_error([[110.0, 0.0]], [[100.0, 20.0]], spacing_m=5000) == pytest.approx(
        {"volume_error_km3": -10 * 25e6 / 1e9, "volume_error_percent": -100 * 10 / 120})
    ocean = utils.volume_error(np.ones(4), np.zeros(4), spacing_m=1000)
    assert ocean == {"volume_error_km3": pytest.approx(4e-3), "volume_error_percent": None}


def test_surface_types_by_hand():
    # ocean, ice shelf, grounded below sea level, grounded on land, land without ice; 2 rows
    thk = np.array([[0, 0, 300, 300, 1000, 1000, 1000, 1000, 500, 0.0]] * 2)
    topg = np.array([[-900, -900, -900, -900, -800, -800, 50, 50, 50, 50.0]] * 2)
    found = utils.surface_types(thk, topg, near_cells=1)
    for name, row in (("grounded", [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]),
                      ("floating", [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
                      ("ice_free", [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
                      ("margin", [0, 1, 1, 1, 1, 0, 0, 0, 1, 1]), ("all", [1] * 10)):
        np.testing.assert_array_equal(found.pop(name), [row, row])
    assert not found
    wide = utils.surface_types(thk, topg, near_cells=2)["margin"]
    np.testing.assert_array_equal(wide[0], [1, 1, 1, 1, 1, 1, 0, 1, 1, 1])

    bare = utils.surface_types(thk, None, near_cells=1)
    assert set(bare) == {"ice", "margin", "all"}
    np.testing.assert_array_equal(bare["margin"][0], [0, 1, 1, 0, 0, 0, 0, 0, 1, 1])
    for same in (np.zeros((3, 3)), np.full((3, 3), 500.0)):  # one type: nothing to be near to
        assert not utils.surface_types(same, 0 * same, near_cells=9)["margin"].any()
    # At the thickness that just floats, ice counts as grounded; distance is that of the centres.
    thk, topg = np.full((5, 5), utils.RHO_SEA), np.full((5, 5), -utils.RHO_ICE)
    thk[2, 2] = 0
    found = utils.surface_types(thk, topg, near_cells=1.5)
    assert found["grounded"].sum() == 24
    np.testing.assert_array_equal(found["margin"], np.pad(np.ones((3, 3), bool), 1))


def test_power_spectrum_of_a_wave_and_of_noise():
    spacing_m, n = 5000.0, 41
    wavenumber, power = utils.power_spectrum(
        7.0 + 30 * np.sin(2 * np.pi * 8 / n * np.arange(n)) * np.ones((3, n, 1)), spacing_m)
    np.testing.assert_allclose(wavenumber, np.arange(1, 21) / (41 * 5))  # cycles per km
    assert np.argmax(power) == 8 - 1
    step = wavenumber[0]
    assert np.sum(power * 2 * np.pi * wavenumber) * step == pytest.approx(30**2 / 2, rel=0.05)
    assert np.all(power[[*range(5), *range(10, 20)]] < 1e-6 * power.max())

    noise = 100 + 20 * np.random.default_rng(0).standard_normal((400, n, n))
    power = utils.power_spectrum(noise, spacing_m)[1]
    np.testing.assert_allclose(power[1:], 20**2 * 5**2, rtol=0.1)  # times (1 / 5 km)2: 20 m squared


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with utils.replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), utils.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_tables_keep_numbers_and_gaps(tmp_path):
    rows = [{"epoch": 1, "rmse_m": 0.1}, {"epoch": 2, "rmse_m": None}]
    for _ in range(2):  # written again as read, not a letter changes
        utils.write_table(tmp_path / "t.csv", rows)
        assert (tmp_path / "t.csv").read_text() == "epoch,rmse_m\n1,0.1\n2,\n"
        rows = utils.read_table(tmp_path / "t.csv")


# ---------------------------------------------------------------- figures for the real grid


@pytest.mark.parametrize(
    "scale, mse, rmse_m, surface_rmse_m",
    [
        (2, 2.83e-5, 23.3, 8.0),
        (4, 4.83e-4, 96.1, 27.3),
        (8, 2.14e-3, 202.4, 63.8),
        (16, 4.53e-3, 294.6, 113.3),
    ],
)
def test_reference_figures_of_bedmachine(real_grid, scale, mse, rmse_m, surface_rmse_m):
    import prepare_data

    found = utils.read_map(real_grid("antarctica_bedmachine_5km.nc"))
    cells = prepare_data.window_slices(found, prepare_data.WINDOW, 41)
    thk, topg = (prepare_data.cut_patches(found[name][cells]) for name in ("thk", "topg"))
    assert thk.shape == (200, 41, 41)
    assert thk.max() == pytest.approx(4375.6, abs=0.1)
    thk0, topg0 = (utils.make_levels(field, scale, "bicubic")[:, 0] for field in (thk, topg))
    found = utils.errors(thk0, thk, thk.max())
    assert found["mse"] == pytest.approx(mse, rel=0.01)
    assert found["rmse_m"] == pytest.approx(rmse_m, rel=0.01)
    base = utils.thickness(utils.surface(np.maximum(thk0, 0), topg0), topg)
    assert utils.rmse_m(base, thk) == pytest.approx(surface_rmse_m, rel=0.01)


# ---------------------------------------------------------------- progress


def test_progress_says_how_long_it_will_take(capsys):
    for done in range(1, 101):
        utils.show_progress("tile", done, 100, 2.5, "here   ")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21  # in a log, the first and every twentieth
    assert lines[0] == "tile     1/100   here     4:07 left"
    assert lines[-1] == "tile   100/100   here     0:00 left"


def test_a_kill_leaves_nothing_half_written(folder, capsys):
    def main():
        with utils.replacing("fine.nc") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the signal comes first

    with pytest.raises(SystemExit) as stopped:
        utils.run_script(main)
    assert stopped.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(folder.iterdir())
