"""Whole maps: geometry, tiles, consistency, beds of other grids, the file written, the scores."""

import json
import shutil
import subprocess

import netCDF4
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_main, write_map

import evaluate
import model
import train
import utils
from utils import InputError

DATA = {"degrade": "area", "spacing_m": 5000.0, "source": "made.nc", "citation": "none",
        "window": [0.0, 20000.0, 0.0, 20000.0]}


def write_run(run="made", scatter=0.0, **changes):
    """A run with a narrow 4x chain in checkpoints/, never trained: it gives back its base.

    scatter: standard deviation of random weights added to all layers.
    """
    settings = {"run": run, "scale": 4, **train.RECIPES["default"], "recipe": "default", "seed": 0,
                "filters": [4], "kernels": [3, 3], "thk_norm_m": 3000.0, "topg_norm_m": 1000.0,
                "average_turns": False, "data": DATA} | changes
    layers = model.build_layers(settings)
    rng = np.random.default_rng(1)
    for weight in model.list_weights(layers):
        weight.assign_add(scatter * rng.standard_normal(weight.shape))
    utils.write_json(utils.CHECKPOINTS / run / "settings.json", settings)
    tf.train.Checkpoint(layers=layers).save(str(utils.CHECKPOINTS / run / "best" / "ckpt"))
    return settings


def axes(ny, nx, spacing_m=20000.0):
    """x, y of a map whose lower left corner is at (-40 km, 100 km)."""
    return (-40e3 + spacing_m * (np.arange(nx) + 0.5), 100e3 + spacing_m * (np.arange(ny) + 0.5))


def save_map(path, thk, topg=None, spacing_m=20000.0, attributes=None):
    x, y = axes(*thk.shape, spacing_m)
    fields = {"thk": thk} | ({} if topg is None else {"topg": topg})
    return write_map(path, {"y": len(y), "x": len(x)},
                     {"x": (("x",), x, {"units": "m"}), "y": (("y",), y, {"units": "m"})},
                     {name: (("y", "x"), np.float32(field), {"units": "m"})
                      for name, field in fields.items()}, attributes)


def downscaled(*argv):
    """What evaluate.py makes of coarse.nc, {name: values}, masked values as NaN."""
    assert evaluate.main(["--map", "coarse.nc", "--output", "fine.nc", *argv]) == 0
    with netCDF4.Dataset("fine.nc") as ds:
        ds.set_auto_mask(False)
        return {name: variable[...] for name, variable in ds.variables.items()}


def rough(ny, nx, seed=0):
    """An ice sheet with ocean on one side, rock, and a rough bed: thk, topg (y, x) m."""
    rng = np.random.default_rng(seed)
    topg = 400 * rng.standard_normal((ny, nx)) + np.linspace(-1500, 800, nx)
    thk = np.maximum(rng.uniform(0, 2500, (ny, nx)) * np.linspace(-0.3, 1.3, nx), 0)
    return np.float32(thk), np.float32(topg)


# ---------------------------------------------------------------- geometry


def test_fine_cells_divide_the_coarse_ones():
    np.testing.assert_allclose(utils.finer_axis(np.array([10.0, 30.0]), 2), [5, 15, 25, 35])
    np.testing.assert_allclose(utils.finer_axis(np.array([0.0, 8.0, 16.0]), 4)[:4], [-3, -1, 1, 3])


def test_a_ramp_stays_a_ramp_and_a_bump_stays_where_it_is(folder):
    write_run(base="bicubic", channels="thk")
    x, y = axes(9, 11)
    save_map("coarse.nc", 1000 + x / 1000 + 2 * y[:, None] / 1000)
    fine = downscaled("--run", "made")
    assert fine["x"][0] == pytest.approx(-37500)
    assert fine["y"][-1] == pytest.approx(100e3 + 9 * 20e3 - 2500)
    np.testing.assert_allclose(
        fine["thk"], 1000 + fine["x"] / 1000 + 2 * fine["y"][:, None] / 1000, atol=0.01)

    bump = np.zeros((9, 11))
    bump[4, 6] = 800
    save_map("coarse.nc", bump)
    fine = downscaled("--run", "made")
    assert (fine["thk"] * fine["x"]).sum() / fine["thk"].sum() == pytest.approx(x[6], abs=1)
    assert (fine["thk"].T * fine["y"]).sum() / fine["thk"].sum() == pytest.approx(y[4], abs=1)
    assert (fine["thk"] > 0).sum() == 16  # ocean stays ocean


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("size, halo, side", [(100, 5, 30), (41, 3, 20), (20, 5, 20), (3, 5, 30)])
def test_tiles_cover_an_axis_once_with_their_halo(size, halo, side):
    tiles = model.axis_tiles(size, halo, side)
    own = np.concatenate([np.arange(size)[part] for part, _ in tiles])
    np.testing.assert_array_equal(own, np.arange(size))
    for part, whole in tiles:
        assert whole.stop - whole.start == min(side, size)
        assert whole.start == 0 or part.start - whole.start >= halo
        assert whole.stop == size or whole.stop - part.stop >= halo


def test_halo_is_the_receptive_field_and_the_splines():
    settings = {"scale": 8, "kernels": [9, 1, 5], "channels": "thk"}  # 3 stages of 4 + 0 + 2 cells
    assert model.tile_sides(settings)[0] == model.SPLINE_HALO + 3
    settings["channels"] = "thk+topg+misfit"
    assert model.tile_sides(settings)[0] == model.SPLINE_HALO + 7


@pytest.mark.parametrize("average_turns, channels", [
    (False, "thk+topg"), (True, "thk+topg"), (False, "thk+topg+misfit")])
def test_tiled_is_untiled_and_consistent_whatever_the_weights(
        folder, monkeypatch, average_turns, channels):
    write_run(scatter=0.05, average_turns=average_turns, channels=channels)
    thk, _ = rough(70, 80)
    _, topg = rough(280, 320, seed=1)
    save_map("coarse.nc", thk)
    save_map("bed.nc", topg, topg, spacing_m=5000.0)
    whole = downscaled("--run", "made", "--bed", "bed.nc")
    monkeypatch.setattr(model, "TILE", 1)  # the smallest tiles there can be
    tiled = downscaled("--run", "made", "--bed", "bed.nc")
    sides = model.tile_sides({"scale": 4, "kernels": [3, 3], "channels": channels})
    assert sides[1] == 3 * sides[0] < 70  # more than one
    for name in ("thk", "topg", "usrf"):
        np.testing.assert_allclose(tiled[name], whole[name], atol=0.01)
    base = downscaled("--run", write_run("plain")["run"], "--bed", "bed.nc")
    assert np.abs(whole["thk"] - base["thk"]).max() > 10  # the layers do something here

    np.testing.assert_allclose(utils.reduce_fields(whole["thk"][None], 4, "area")[0], thk,
                               atol=0.01)
    assert whole["thk"].min() >= 0
    ocean = np.kron(thk == 0, np.ones((4, 4), bool))
    assert ocean.sum() > 1000
    assert not whole["thk"][ocean].any()


def test_stages_that_are_left_out_are_the_first(folder):
    settings = write_run(scatter=0.05)
    layers = evaluate.load_layers(settings)
    last, changed = model.last_stages(layers, settings, 2)
    assert list(last) == ["stage2"]
    assert (changed["scale"], changed["data"]["degrade"]) == (2, "area")
    thk, topg = rough(12, 12)
    save_map("coarse.nc", thk, topg)
    fine = downscaled("--run", "made", "--scale", "2")
    assert fine["thk"].shape == (24, 24)
    np.testing.assert_allclose(utils.reduce_fields(fine["thk"][None], 2, "area")[0], thk, atol=0.01)


@pytest.mark.parametrize("shape", [(2, 2), (3, 40), (17, 23)])
@pytest.mark.parametrize("ice", ["none", "all", "some"])
def test_maps_of_any_size_with_and_without_ice(folder, shape, ice):
    write_run(scatter=0.05)
    thk, topg = rough(*shape)
    thk = {"none": 0 * thk, "all": thk + 500, "some": thk}[ice]
    save_map("coarse.nc", thk, topg)
    fine = downscaled("--run", "made")
    assert fine["thk"].shape == (4 * shape[0], 4 * shape[1])
    np.testing.assert_allclose(utils.reduce_fields(fine["thk"][None], 4, "area")[0], thk, atol=0.01)
    assert fine["thk"].min() >= 0
    assert fine["thk"].any() == (ice != "none")


# ---------------------------------------------------------------- what is not known


def test_nothing_known_stays_nothing_known_and_does_not_bleed(folder):
    write_run(scatter=0.02)
    thk, topg = rough(12, 16)
    thk += 500
    unknown = np.zeros((12, 16), bool)
    unknown[3:5, 6:9] = True
    topg[unknown] = np.nan
    save_map("coarse.nc", np.where(unknown, np.nan, thk), topg)
    fine = downscaled("--run", "made")
    np.testing.assert_array_equal(np.isnan(fine["thk"]), np.kron(unknown, np.ones((4, 4), bool)))
    assert (fine["mask"][np.isnan(fine["thk"])] == -1).all()
    means = utils.reduce_fields(np.nan_to_num(fine["thk"])[None], 4, "area")[0]
    np.testing.assert_allclose(means[~unknown], thk[~unknown], atol=0.01)

    save_map("coarse.nc", np.where(unknown, np.nan, 1000.0))  # no bed: nothing else is known
    write_run("flat", base="bicubic", channels="thk")
    fine = downscaled("--run", "flat")
    np.testing.assert_allclose(fine["thk"][~np.kron(unknown, np.ones((4, 4), bool))], 1000,
                               atol=0.01)
    assert np.isnan(fine["thk"]).sum() == 16 * unknown.sum()


def test_missing_thickness_over_a_known_bed_is_no_ice(folder):
    write_run()
    thk = np.full((8, 8), 900.0)
    thk[:, :3] = np.nan
    save_map("coarse.nc", thk, np.full((8, 8), 100.0))
    fine = downscaled("--run", "made")
    assert not fine["thk"][:, :12].any()
    assert (fine["mask"][:, :12] == 1).all()


# ---------------------------------------------------------------- beds of other grids


def test_overlap_by_hand():
    """Three cells of 4 m over four of 3 m that start with them; then shifted by 1 m."""
    source, target = np.array([1.5, 4.5, 7.5, 10.5]), np.array([2.0, 6.0, 10.0])
    np.testing.assert_allclose(utils.overlap_weights(source, target).toarray(), np.array(
        [[3, 1, 0, 0], [0, 2, 2, 0], [0, 0, 1, 3]]) / 4, atol=1e-12)
    np.testing.assert_allclose(utils.overlap_weights(source, target - 1).toarray(), np.array(
        [[3, 0, 0, 0], [0, 3, 1, 0], [0, 0, 2, 2]]) / 4, atol=1e-12)  # 1 m lies outside


@pytest.mark.parametrize("spacing_m, shift_m", [(500, 0), (700, 130), (1250, -300), (5000, 0)])
def test_bed_of_another_grid_is_averaged_over_the_cells(folder, spacing_m, shift_m):
    """A plane keeps its values at the centres of the cells, whatever the bed's own grid is."""
    def plane(x, y):
        return np.float32(0.01 * x - 0.02 * y[:, None] + 300)

    n = int(90e3 / spacing_m)
    x = shift_m - 5000 + spacing_m * (np.arange(n) + 0.5)
    y = x[::-1] + 1000  # downwards, as in BedMachine
    write_map("bed.nc", {"y": n, "x": n}, {
        "x": (("x",), x, {"units": "m"}), "y": (("y",), y, {"units": "m"})},
        {"bed": (("y", "x"), plane(x, y), {"units": "m"})})
    target_x, target_y = np.arange(10e3, 60e3, 5000), np.arange(12e3, 40e3, 5000)
    with utils.open_bed("bed.nc") as bed:
        found = utils.bring_to_cells(bed, target_x, target_y)
        far = utils.bring_to_cells(bed, target_x + 1e6, target_y)
        np.testing.assert_allclose(bed["read"](slice(2, 5), slice(1, 3)),
                                   plane(x, np.sort(y))[2:5, 1:3])
    np.testing.assert_allclose(found, plane(target_x, target_y), atol=0.2)  # of 100 m a cell
    assert np.isnan(far).all()


def test_bed_finer_than_the_target_is_its_mean_and_unknown_parts_stay_unknown(folder):
    write_run()
    rng = np.random.default_rng(0)
    topg = np.float32(rng.uniform(-500, 500, (160, 200)))  # 1 km under 8 x 10 cells of 20 km
    topg[:20, :20] = np.nan
    save_map("coarse.nc", np.full((8, 10), 1500.0))
    save_map("bed.nc", topg, topg, spacing_m=1000.0)
    fine = downscaled("--run", "made", "--bed", "bed.nc")
    means = topg.reshape(32, 5, 40, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(fine["topg"], means, atol=0.01)
    assert np.isnan(fine["thk"][:4, :4]).all()
    assert np.isnan(fine["thk"]).sum() == 16


# ---------------------------------------------------------------- the file


def test_file_says_what_and_where_it_is(folder):
    write_run()
    thk, topg = rough(20, 24)
    save_map("coarse.nc", thk, topg, attributes={
        "title": "Antarctica, made up", "citation": "Somebody (2026)"})
    fine = downscaled("--run", "made")
    assert set(fine) == {"x", "y", "crs", "thk", "topg", "usrf", "mask"}
    with netCDF4.Dataset("fine.nc") as ds:
        assert ds.Conventions == "CF-1.8"
        assert ds.citation == "Somebody (2026)"
        assert "evaluate.py" in ds.history
        assert "made" in ds.source
        assert ds.model_run == "made"
        assert json.loads(ds.model_settings)["scale"] == 4
        assert ds.model_scores == "not evaluated here"
        assert ds["thk"].standard_name == "land_ice_thickness"
        assert ds["topg"].standard_name == "bedrock_altitude"
        assert ds["usrf"].standard_name == "surface_altitude"
        assert all(ds[name].units == "m" for name in ("x", "y", "thk", "topg", "usrf"))
        assert ds["thk"].grid_mapping == "crs"
        assert ds["crs"].grid_mapping_name == "polar_stereographic"  # called Antarctic, had none
        assert ds["crs"].standard_parallel == -71
        assert ds["thk"].filters()["zlib"]
        assert ds["mask"].flag_meanings == "ocean ice_free_land grounded_ice floating_ice"
    ice = fine["thk"] > 1
    grounded = ice & (fine["thk"] * 917 >= -fine["topg"] * 1027.5)
    np.testing.assert_array_equal(fine["mask"] == 2, grounded)
    np.testing.assert_array_equal(fine["mask"] == 3, ice & ~grounded)
    np.testing.assert_array_equal(fine["mask"] == 1, ~ice & (fine["topg"] > 0))
    floating = (1 - 917 / 1027.5) * fine["thk"]  # open ocean: 0
    np.testing.assert_allclose(fine["usrf"], np.maximum(fine["thk"] + fine["topg"], floating),
                               atol=0.01)
    again = utils.read_map("fine.nc")  # it can be downscaled anew
    np.testing.assert_allclose(again["thk"], fine["thk"])
    assert (folder / "results" / "made" / "map_fine.png").stat().st_size > 10000


def test_grid_mapping_is_that_of_the_input(folder):
    write_run(base="bicubic", channels="thk")
    crs = {"grid_mapping_name": "lambert_azimuthal_equal_area", "false_easting": 7.0}
    x, y = axes(6, 6)
    with netCDF4.Dataset("coarse.nc", "w") as ds:
        for name, axis in (("y", y), ("x", x)):
            ds.createDimension(name, 6)
            ds.createVariable(name, "f8", (name,))[...] = axis
        ds.createVariable("mapping", "i4").setncatts(crs)
        ds.createVariable("thk", "f4", ("y", "x"))[...] = 500
        ds["thk"].grid_mapping = "mapping"
    downscaled("--run", "made")
    with netCDF4.Dataset("fine.nc") as ds:
        assert {key: ds["crs"].getncattr(key) for key in ds["crs"].ncattrs()} == crs


def test_other_programs_place_the_file(folder):
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    write_run()
    save_map("coarse.nc", *rough(20, 24), attributes={"title": "Antarctica"})
    fine = downscaled("--run", "made")
    with xarray.open_dataset("fine.nc") as ds:
        np.testing.assert_allclose(ds["thk"].sel(x=-37500, y=102500), fine["thk"][0, 0])


@pytest.mark.skipif(not shutil.which("gdalinfo"), reason="gdalinfo is not installed")
def test_gdal_places_the_file(folder):
    write_run()
    save_map("coarse.nc", *rough(20, 24), attributes={"title": "Antarctica"})
    downscaled("--run", "made")
    said = json.loads(subprocess.check_output(["gdalinfo", "-json", "NETCDF:fine.nc:thk"]))
    assert said["geoTransform"] == pytest.approx([-40e3, 5000, 0, 500e3, 0, -5000])
    assert "Stereographic" in said["coordinateSystem"]["wkt"]


def test_stopped_half_way_leaves_no_file(folder, monkeypatch):
    write_run()
    save_map("coarse.nc", *rough(20, 24))
    monkeypatch.setattr(evaluate, "downscale", lambda *args: iter([1 / 0] if not args else boom()))
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(["--map", "coarse.nc", "--output", "fine.nc", "--run", "made"])
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "coarse.nc"]


def boom():
    yield (slice(0, 4), slice(0, 4), {"model": np.zeros((4, 4)), "topg": np.zeros((4, 4))})
    raise KeyboardInterrupt


@pytest.mark.parametrize("argv, words", [
    (["--map", "coarse.nc", "--run", "made"], "--output"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc", "--hindcast"], "--output"),
    (["--map", "coarse.nc", "--output", "f.nc"], "--run"),
    (["--output", "f.nc"], "--map"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc"], "needs one"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc", "--scale", "8"], "4x"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc", "--bed", "gone.nc"], "gone.nc"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc", "--bed", "coarse.nc"], "no bed"),
    (["--map", "coarse.nc", "--run", "made", "--output", "f.nc", "--bed", "far.nc"], "same place"),
    (["--map", "gone.nc", "--run", "made", "--output", "f.nc"], "gone.nc"),
    (["--map", "coarse.nc", "--run", "none", "--hindcast"], "train"),
])
def test_bad_requests_are_one_line(folder, capsys, argv, words):
    write_run()
    save_map("coarse.nc", np.full((8, 8), 900.0))
    far = axes(4, 4)[0] + 5e6
    write_map("far.nc", {"y": 4, "x": 4}, {"x": (("x",), far, {}), "y": (("y",), far, {})},
              {"topg": (("y", "x"), np.zeros((4, 4)), {})})
    status, said = run_main(evaluate.main, argv, capsys)
    assert status == 2
    assert words in said
    assert said.count("\n") == 1
    assert not (folder / "f.nc").exists()


# ---------------------------------------------------------------- hindcast


def test_hindcast_scores_by_hand(folder, capsys):
    write_run(scatter=0.02)
    thk, topg = rough(43, 50)
    save_map("coarse.nc", thk, topg, spacing_m=5000.0)
    assert evaluate.main(["--map", "coarse.nc", "--hindcast", "--run", "made"]) == 0
    said = capsys.readouterr().out
    assert "40 x 48 of the (43, 50) cells" in said
    metrics = json.loads((folder / "results" / "made" / "hindcast_coarse_x4.json").read_text())
    assert (folder / "results" / "made" / "hindcast_coarse_x4.png").stat().st_size > 10000
    thk, topg = thk[:40, :48], topg[:40, :48]
    coarse = utils.reduce_fields(thk[None], 4, "area")
    bicubic = utils.enlarge_fields(coarse, (40, 48), "area")[0]
    distance = np.array([[np.hypot(*(np.argwhere(thk > 0) - cell).T).min() for cell in row]
                         for row in np.moveaxis(np.indices(thk.shape), 0, -1)])
    near = distance <= 8
    assert metrics["all"]["n_cells"] == near.sum()
    assert f"{metrics['all']['model']['rmse_m']:.1f}" in said
    error = (bicubic - thk)[near]
    assert metrics["all"]["bicubic"]["rmse_m"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert metrics["all"]["bicubic"]["bias_m"] == pytest.approx(error.mean(), abs=1e-3)
    assert metrics["all"]["bicubic"]["volume_error_km3"] == pytest.approx(
        error.sum() * 25e-3, abs=1e-2)
    types = [metrics["by_type"][name] for name in ("grounded", "floating", "ice_free")]
    assert sum(part["n_cells"] for part in types) == near.sum()
    assert metrics["checks"]["model"]["consistency_m"] < 0.01
    assert metrics["checks"]["model"]["least_thk_m"] >= 0
    assert metrics["checks"]["bicubic"]["consistency_m"] > 1
    rmse_m = metrics["all"]["bicubic"]["rmse_m"]
    assert evaluate.model_scores("made").startswith(
        f"RMSE on coarse.nc, whole, from 20 to 5 km: bicubic {rmse_m:.1f} m, surface base ")
    # The window of this run ends at 20 km: cells 8 to 11 in x; y begins at 100 km.
    assert metrics["by_place"]["training window"]["n_cells"] == 0
    assert metrics["by_place"]["elsewhere"]["n_cells"] == near.sum()


def test_hindcast_without_a_bed(folder):
    write_run(base="bicubic", channels="thk")
    save_map("coarse.nc", rough(16, 16)[0])
    metrics = evaluate.hindcast("made", "coarse.nc")
    assert set(metrics["checks"]) == {"bicubic", "model"}
    with pytest.raises(InputError, match="too few"):
        save_map("coarse.nc", rough(7, 16)[0])
        evaluate.hindcast("made", "coarse.nc")


def test_formula_on_the_whole_continent_is_as_known(real_grid, folder):
    """Bicubic, surface base, the same made consistent: RMSE on cell means of the 8 km map, 4x."""
    write_run()
    metrics = evaluate.hindcast("made", real_grid("antarctica_bedmachine_8km.nc"))
    for method, rmse_m in (("bicubic", 119.8), ("surface", 47.0), ("surface_consistent", 38.2)):
        assert metrics["all"][method]["rmse_m"] == pytest.approx(rmse_m, rel=0.01)
    assert metrics["checks"]["model"]["consistency_m"] < 0.01
