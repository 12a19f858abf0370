"""Window, patches of a map and of a run, the synthetic sheet, bad input."""

import functools
import resource
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import scipy.ndimage
from conftest import (
    PLAIN_WINDOW, REPOSITORY, SMALL_WINDOW, plain_map, run_main, write_map, write_plain_map)

import prepare_data
import utils
from icesheet import map_files, projections
from icesheet.command_line import InputError
from icesheet.patches import apply_split, find_patches_in_split, read_patches, write_patches
from icesheet.scores import compute_errors, compute_rmse_m
from icesheet.settings import SCALES
from prepare_data import load_or_make_patches

WINDOW_ARGUMENTS = ["--window", *SMALL_WINDOW]


# ---------------------------------------------------------------- window and patches


def test_window_of_the_original_on_5_km_cells():
    ice_map = plain_map((1120, 1160), x0=-2802500, y0=-2802500)
    y, x = prepare_data.find_window_slices(ice_map, prepare_data.WINDOW_M, 41)
    assert (y.stop - y.start, x.stop - x.start) == (410, 820)
    assert (ice_map["x"][x.start], ice_map["y"][y.start]) == (-1742500, -917500)


@pytest.mark.parametrize("spacing_m", [1000 / 3, 4999.9999, 5000.0, 1e4 / 7])
@pytest.mark.parametrize("cells", [41, 123])
def test_a_window_of_whole_patches_keeps_them_all(spacing_m, cells):
    """Whatever the last digit of the spacing: from first to last centre is one cell less."""
    ice_map = plain_map((130, 130), spacing_m)
    edge = ice_map["x"][cells - 1]
    for window in ((0, edge, 0, edge), (0, round(edge, 1), 0, round(edge, 1))):
        assert prepare_data.find_window_slices(ice_map, window, 41) == (slice(0, cells),) * 2
    with pytest.raises(InputError, match="is 40 cells of"):
        prepare_data.find_window_slices(ice_map, (0, edge, 0, ice_map["y"][39]), 41)


@pytest.mark.parametrize("window, message", [
    ((-50000, 300000, 0, 400000), "x -50000 to 300000 m lies outside the map"),
    ((0, 700000, 0, 400000), "x 0 to 700000 m lies outside the map"),
    ((0, 645000, 0, 100000), "y 0 to 100000 m is 21 cells of 5000 m, smaller than a patch of 41"),
    ((0, 645000, 400000, 0), "is 0 cells of 5000 m"),
])
def test_bad_windows_are_named(window, message):
    with pytest.raises(InputError, match=message):
        prepare_data.find_window_slices(plain_map(), window, 41)


# ---------------------------------------------------------------- what is cut


def three_records(path, small_map):
    """small_map as a file of three records: half its ice, all of it, half more."""
    ice_map = map_files.read_map(small_map)
    return write_map(path, {"time": 3, "y": 123, "x": 164}, {
        "time": (("time",), np.array([0.0, 366, 731]), {"units": "days since 2000-01-01"}),
        "x": (("x",), ice_map["x"], {"units": "m"}), "y": (("y",), ice_map["y"], {"units": "m"})}, {
        "thk": (("time", "y", "x"), np.stack([part * ice_map["thk"] for part in (0.5, 1, 1.5)]),
                {"units": "m", "grid_mapping": "crs"}),
        "topg": (("y", "x"), ice_map["topg"], {"units": "m"}),
        "crs": ((), np.int32(0), projections.EPSG_3031)})


def test_record_and_command_are_in_the_patches(folder, small_map, small_patches, monkeypatch,
                                               capsys):
    path = three_records(folder / "three records.nc", small_map)
    for number, arguments in ((0, ["--time", "0"]), (2, [])):
        argv = ["--scale", "4", "--input", path.name, *arguments, *map(str, WINDOW_ARGUMENTS),
                "--output", "made.nc"]
        monkeypatch.setattr(sys, "argv", ["/somewhere/prepare_data.py", *argv])
        prepare_data.main(argv)
        made = read_patches("made.nc")
        np.testing.assert_allclose(made["thk"][:, -1], small_patches["thk"][:, -1] * (0.5, 1, 1.5)[
            number])
        assert made["data"]["time_index"] == number
        assert made["data"]["crs"] == projections.EPSG_3031
        said = capsys.readouterr().out
        assert f"three records.nc: time index {number} of 3 (200{number}-01-01)" in said
        with netCDF4.Dataset("made.nc") as ds:
            assert ds.history.partition(" ")[2] == (
                "python prepare_data.py --scale 4 --input 'three records.nc' "
                + " ".join([*arguments, *map(str, WINDOW_ARGUMENTS), "--output made.nc"]))


def test_patches_hold_the_map_and_its_levels(small_patches, small_map):
    ice_map = map_files.read_map(small_map)
    last = small_patches["thk"][:, -1]
    np.testing.assert_array_equal(last[5], ice_map["thk"][41:82, 41:82])
    np.testing.assert_allclose(small_patches["x"][5], ice_map["x"][41:82])
    np.testing.assert_allclose(small_patches["y"][5], ice_map["y"][41:82])
    coarse = scipy.ndimage.zoom(last[5].astype(float), 1 / 4)
    np.testing.assert_allclose(small_patches["thk"][5, 0], scipy.ndimage.zoom(coarse, 4.1),
                               atol=1e-2)


def test_patches_are_the_same_at_every_scale(small_map):
    ice_map = map_files.read_map(small_map)
    made = [prepare_data.make_patches(ice_map, scale, window=SMALL_WINDOW)
            for scale in SCALES]
    for patches in made[1:]:
        np.testing.assert_array_equal(patches["split"], made[0]["split"])
        np.testing.assert_array_equal(patches["thk"][:, -1], made[0]["thk"][:, -1])
    assert [patches["thk"].shape[1] for patches in made] == [2, 3, 4, 5]


def test_a_map_without_bed_gives_patches_without_topg(folder, capsys):
    path = prepare_data.prepare(2, plain_map((123, 164), topg=None), window=PLAIN_WINDOW)
    patches = read_patches(path)
    assert patches["topg"] is None
    assert patches["data"]["topg_norm_m"] == 0
    assert "--channels thk" in capsys.readouterr().out


# ---------------------------------------------------------------- patches of a run


@pytest.fixture
def wide_map(folder):
    """A file whose 104 x 206 cells of 20 km are all of the default window: 10 patches."""
    return write_plain_map(folder / "wide.nc", plain_map(
        (104, 206), 20e3, prepare_data.WINDOW_M[0], prepare_data.WINDOW_M[2]))


def settings_of(patches, path):
    """As much of the settings of a run on these patches as load_or_make_patches looks at."""
    return {"patches": str(path), "data": patches["data"]}


def test_runs_of_a_scale_share_their_patches(small_patches, small_map, folder):
    shared = folder / "data" / "patches_x4.nc"
    for run, input_file in (("x4", small_map), ("wide", small_map), ("wide", None)):
        path, patches = load_or_make_patches(run, 4, input_file, source="map")
        assert path.resolve() == shared
        np.testing.assert_array_equal(patches["thk"], small_patches["thk"])
    shared.rename(folder / "data" / "patches_x8.nc")
    with pytest.raises(InputError, match="patches_x8.nc: made for scale 4, not 8"):
        load_or_make_patches("x8", 8)


def test_patches_of_another_map_are_left_alone_and_not_in_the_way(small_patches, wide_map, folder,
                                                                  capsys):
    shared = folder / "data" / "patches_x4.nc"
    before = shared.read_bytes()
    path, patches = load_or_make_patches("x4", 4, wide_map)
    assert "patches_x4.nc: made from small.nc, not from wide.nc;" in capsys.readouterr().out
    assert (patches["data"]["source"], len(patches["row"])) == ("wide.nc", 10)
    made = path.stat().st_mtime_ns
    assert load_or_make_patches("wide", 4, wide_map)[0] == path  # for every run on that map
    assert path.stat().st_mtime_ns == made
    assert load_or_make_patches("x4", 4)[0].resolve() == shared
    # prepare_data.py: the same map with another seed may take its place, another map never.
    prepare_data.main(["--scale", "4", "--input", str(wide_map), "--seed", "1"])
    assert "patches_x4.nc has no patches of this map and scale and stays" in capsys.readouterr().out
    assert shared.read_bytes() == before
    assert len(list((folder / "data").iterdir())) == 3
    with pytest.raises(InputError, match="both hold patches of wide.nc; choose with --patches"):
        load_or_make_patches("new", 4, wide_map)
    assert load_or_make_patches("old", 4, run_settings=settings_of(patches, shared))[0] == path


def test_the_default_file_is_replaced_by_patches_of_the_same_map_alone(small_patches, small_map,
                                                                       folder, capsys):
    shared, argv = folder / "data" / "patches_x4.nc", ["--scale", 4, "--input", small_map]
    prepare_data.main([*map(str, argv + WINDOW_ARGUMENTS), "--seed", "5"])
    assert read_patches(shared)["data"]["seed"] == 5
    (folder / "data/patches_x8.nc").write_bytes(shared.read_bytes())  # of another scale
    prepare_data.main([*map(str, [*argv[2:], *WINDOW_ARGUMENTS]), "--scale", "8"])
    assert read_patches("data/patches_x8.nc")["scale"] == 4
    # Jobs that start together make the same patches, and share them.
    assert prepare_data.prepare(4, map_files.read_map(small_map), seed=5, window=SMALL_WINDOW,
                                replace=False).resolve() == shared
    for content in (b"a user's own", small_map.read_bytes()):  # damaged, or no patches at all
        shared.write_bytes(content)
        prepare_data.main([*map(str, argv + WINDOW_ARGUMENTS)])
        assert "stays as it is" in capsys.readouterr().out
        assert shared.read_bytes() == content


def test_patches_are_found_by_what_they_are_made_of(small_patches, small_map, folder):
    """Whatever the file is called, and whatever lies beside it."""
    data = folder / "data"
    (data / "patches_x4.nc").rename(data / "patches_of_last_year.nc")
    (data / "patches_a.nc").write_bytes(b"damaged")
    other = small_patches | {"data": small_patches["data"] | {"time_index": 3}}
    write_patches(data / "patches_b.nc", other)
    for patches, name in ((small_patches, "patches_of_last_year.nc"), (other, "patches_b.nc")):
        settings = settings_of(patches, "data/patches_x4.nc")
        settings["data"] = settings["data"] | {
            "source": "as it was called then.nc", "crs": {"spheroid": "as it was read then"}}
        path, again = load_or_make_patches("tiny", 4, run_settings=settings)
        assert path.name == name
        assert again["data"] == settings["data"]
    (data / "patches_b.nc").unlink()
    assert load_or_make_patches("new", 4, small_map)[0].name == "patches_of_last_year.nc"
    with pytest.raises(InputError, match="patches_x4.nc: no such file. Give a map with --input"):
        load_or_make_patches("new", 4, source="map")  # nothing says of which map


def test_patches_that_are_named(small_patches, small_map, wide_map, folder):
    """--patches FILE: these and no others, whatever else there is."""
    write_patches("mine.nc", apply_split(small_patches, "random") | {
        "data": small_patches["data"] | {"seed": 7}})
    for input_file in (None, small_map):
        path, patches = load_or_make_patches("wide", 4, input_file, "mine.nc")
        assert (str(path), patches["data"]["seed"]) == ("mine.nc", 7)
    with pytest.raises(InputError, match="mine.nc: made from small.nc, not from wide.nc"):
        load_or_make_patches("wide", 4, wide_map, "mine.nc")
    with pytest.raises(InputError, match="mine.nc: made for scale 4, not 8"):
        load_or_make_patches("wide", 8, None, "mine.nc")
    with pytest.raises(InputError, match="absent.nc: no such file"):
        load_or_make_patches("wide", 4, None, "absent.nc")
    settings = settings_of(small_patches, "data/patches_x4.nc")
    with pytest.raises(InputError, match="mine.nc: settings differ from the run's: seed 0 -> 7"):
        load_or_make_patches("wide", 4, None, "mine.nc", run_settings=settings)


def test_a_run_with_a_name_gets_the_synthetic_sheet_only_when_asked(folder, small_sheet, capsys):
    with pytest.raises(InputError, match="patches_x4.nc: no such file.*--synthetic"):
        load_or_make_patches("wide", 4, source="map")
    assert not list(folder.iterdir())
    path, patches = load_or_make_patches("x4", 4)  # a run without a name: the first command
    assert (path.name, patches["data"]["synthetic"]) == ("patches_x4.nc", True)
    assert "SYNTHETIC" in capsys.readouterr().out
    with pytest.raises(InputError, match="patches_x4.nc: patches of the synthetic ice sheet.*"
                                         "ask for the synthetic ice sheet with --synthetic"):
        load_or_make_patches("wide", 4, source="map")
    assert load_or_make_patches("wide", 4, source="synthetic")[0] == path
    # Once trained on it the run goes on with it, and evaluates; it is made again if it is lost.
    settings = settings_of(patches, path)
    for source in ("any", "synthetic", "map"):
        assert load_or_make_patches("wide", 4, source=source, run_settings=settings)[0] == path
        path.unlink()


def test_synthetic_sheets_beside_patches_of_a_map(small_patches, small_sheet, wide_map, folder):
    """The built-in one, and a map that says that it is synthetic, which is refused unless given."""
    for _ in range(2):  # made, then found
        path, patches = load_or_make_patches("wide", 4, source="synthetic")
        assert patches["data"]["synthetic"]
        assert {"patches_x4.nc", path.name} == {made.name for made in (folder / "data").iterdir()}
    with netCDF4.Dataset(wide_map, "a") as ds:
        ds.synthetic = "yes"
    for _ in range(2):
        made, patches = load_or_make_patches("wide", 4, wide_map, source="map")
        assert patches["data"]["synthetic"] is True
    for source, again in (("any", None), ("map", None), ("map", wide_map)):  # evaluated, resumed
        assert load_or_make_patches("wide", 4, again, source=source,
                                    run_settings=settings_of(patches, made))[0] == made


def test_patches_of_a_run_are_made_again_as_it_knew_them(folder, small_map):
    """Of another time, window, test size and seed than the defaults; of a fold."""
    records = three_records(folder / "three.nc", small_map)
    thk = np.linspace(500, 2500, 123 * 328).reshape(123, 328)
    blocks = write_plain_map(folder / "blocks.nc", plain_map(thk.shape, thk=thk, topg=-thk))
    for path, patches in (
            (records, prepare_data.make_patches(map_files.read_map(records, 1), 4, test_size=0.5,
                                                seed=3, window=SMALL_WINDOW)),
            (blocks, apply_split(prepare_data.make_patches(
                map_files.read_map(blocks), 4, "area", window=(0, 327 * 5000, 0, 122 * 5000)),
                "block", (2, 2)))):
        settings = settings_of(patches, "data/patches_x4.nc")
        with pytest.raises(InputError, match=f"no such file. Run tiny was trained on {path.name}: "
                                             "give that map with --input"):
            load_or_make_patches("tiny", 4, run_settings=settings)
        again = load_or_make_patches("tiny", 4, path, run_settings=settings)[1]
        assert again["data"] == patches["data"]
        for name in ("thk", "topg", "split"):
            np.testing.assert_array_equal(again[name], patches[name])
        # Beside patches of others it gets a file of its own, also beside others of its map.
        for first in (small_map, path):
            (folder / "data" / "patches_x4.nc").unlink()
            prepare_data.prepare(4, map_files.read_map(first), seed=9, window=(
                patches["data"]["window"] if first == path else SMALL_WINDOW))
            own, again = load_or_make_patches("tiny", 4, path, run_settings=settings)
            assert own.name != "patches_x4.nc"
            assert again["data"] == patches["data"]
            assert read_patches("data/patches_x4.nc")["data"]["seed"] == 9
            own.unlink()
        for made in (folder / "data").iterdir():
            made.unlink()


def test_a_trained_run_knows_its_map_by_the_checksum(small_patches, small_map, wide_map, folder):
    settings = settings_of(small_patches, "data/patches_x4.nc")
    with pytest.raises(InputError, match="tiny was trained on small.nc, not on wide.nc"):
        load_or_make_patches("tiny", 4, wide_map, run_settings=settings)
    with pytest.raises(InputError, match="trained on small.nc, not on the synthetic ice sheet"):
        load_or_make_patches("tiny", 4, source="synthetic", run_settings=settings)
    (folder / "data" / "patches_x4.nc").unlink()
    (folder / "renamed.nc").write_bytes(small_map.read_bytes())
    path, patches = load_or_make_patches("tiny", 4, "renamed.nc", run_settings=settings)
    assert patches["data"] == small_patches["data"]
    np.testing.assert_array_equal(patches["thk"], small_patches["thk"])
    assert path.name == "patches_x4.nc"


def test_variables_that_were_asked_for_are_what_patches_are_made_of(small_map, folder):
    """Two thicknesses in one file: what was made of the one is nothing for the other."""
    path = folder / "two.nc"
    path.write_bytes(small_map.read_bytes())
    with netCDF4.Dataset(path, "a") as ds:
        half = ds.createVariable("half", "f4", ("y", "x"))
        half.units, half[...] = "m", ds["thk"][...] / 2
    argv = ["--scale", 4, "--input", path, *WINDOW_ARGUMENTS]
    prepare_data.main(list(map(str, argv)))
    options = {"names": {"thk": "half"}, "units": None, "densities": None}
    prepare_data.main([*map(str, argv), "--variables", "thk=half", "--output", "data/patches_h.nc"])
    made, patches = load_or_make_patches("new", 4, path, options=options)
    assert made.name == "patches_h.nc"
    (folder / "data" / "patches_h.nc").unlink()
    settings = settings_of(patches, made)
    again, patches = load_or_make_patches("new", 4, path, run_settings=settings, options=options)
    assert patches["data"] == settings["data"]
    again.unlink()
    with pytest.raises(InputError, match="two.nc: patches made from it do not fit: settings "
                                         "differ.* variables_read thk = half"):
        load_or_make_patches("new", 4, path, run_settings=settings)
    assert not again.exists()


# ---------------------------------------------------------------- real grids


@functools.cache
def read_once(path):
    """A real grid, read for all tests."""
    return map_files.read_map(path)


BEDMACHINE, ALBMAP = "antarctica_bedmachine_5km.nc", "antarctica_albmap_5km.nc"


@pytest.mark.parametrize("name, scale, mse, rmse_m, test_mse, base_rmse_m", [
    (BEDMACHINE, 2, 2.83e-5, 23.3, None, 8.0), (BEDMACHINE, 4, 4.83e-4, 96.1, 3.88e-4, 27.3),
    (BEDMACHINE, 8, 2.14e-3, 202.4, 1.68e-3, 63.8),
    (BEDMACHINE, 16, 4.53e-3, 294.6, 3.32e-3, 113.3),
    (ALBMAP, 2, 2.32e-5, None, None, None), (ALBMAP, 4, 3.02e-4, None, None, None),
    (ALBMAP, 8, 1.51e-3, None, None, None), (ALBMAP, 16, 3.29e-3, None, None, None)])
def test_reference_figures(real_grid, name, scale, mse, rmse_m, test_mse, base_rmse_m):
    patches = prepare_data.make_patches(read_once(real_grid(name)), scale)
    (thk, topg), test = (patches["thk"], patches["topg"]), find_patches_in_split(patches, "test")
    assert thk.shape == (200, scale.bit_length(), 41, 41)
    thk_max_m = patches["data"]["thk_max_m"]
    assert thk_max_m == pytest.approx(4375.6 if name == BEDMACHINE else 4308.9, abs=0.1)

    def of_input(numbers):
        return compute_errors(thk[numbers, 0], thk[numbers, -1], thk_max_m, 5000)

    found = of_input(slice(None))
    assert found["mse"] == pytest.approx(mse, rel=0.005)
    if rmse_m:
        assert found["rmse_m"] == pytest.approx(rmse_m, abs=0.06)
    if test_mse:
        assert of_input(test)["mse"] == pytest.approx(test_mse, rel=0.005)
    if base_rmse_m:
        base = utils.surface_minus_bed(np.maximum(thk[:, 0], 0), topg[:, 0], topg[:, -1])
        assert compute_rmse_m(base, thk[:, -1]) == pytest.approx(base_rmse_m, abs=0.06)


def test_native_8_km_map_cell_means_blocks(real_grid):
    ice_map = read_once(real_grid("antarctica_bedmachine_8km.nc"))
    thk = prepare_data.make_patches(ice_map, 4, "area", "block", window=(
        -2832000, 2920000, -2576000, 2408000))["thk"]
    assert thk.shape == (13 * 15, 3, 48, 48)  # the whole continent: all of its ice
    assert (thk[:, -1] > 0).sum() == (ice_map["thk"] > 0).sum()
    fine = thk[:, -1].astype(float)
    coarse = utils.coarsen_fields(fine, 4, "area")
    np.testing.assert_allclose(coarse.mean(axis=(1, 2)), fine.mean(axis=(1, 2)), rtol=1e-6)


# ---------------------------------------------------------------- the synthetic sheet


@pytest.fixture(scope="module")
def synthetic():
    return prepare_data.make_synthetic_map()


def radial_slope(field, spacing_m, longest_m, shortest_m):
    """Exponent of the radially averaged 2-D power spectrum of a field between two wavelengths."""
    taper = np.outer(*(np.hanning(n) for n in field.shape))
    power = np.abs(np.fft.fft2((field - field.mean()) * taper)) ** 2
    wavenumber = np.hypot(
        *np.meshgrid(*(np.fft.fftfreq(n, spacing_m) for n in field.shape), indexing="ij"))
    edges = np.geomspace(1 / longest_m, 1 / shortest_m, 12)
    mean = [power[(wavenumber >= low) & (wavenumber < high)].mean()
            for low, high in zip(edges, edges[1:], strict=False)]
    return np.polyfit(np.log(edges[:-1] * edges[1:]) / 2, np.log(mean), 1)[0]


def test_synthetic_sheet_has_the_size_range_and_bed_spectrum_of_antarctica(synthetic):
    assert synthetic["thk"].shape == (410, 820)
    assert synthetic["thk"].min() == 0
    assert 4000 < synthetic["thk"].max() <= 4500
    assert synthetic["topg"].min() < -2500  # deep ocean
    assert 2000 < synthetic["topg"].max() < 5000  # mountains
    assert -4 < radial_slope(synthetic["topg"], 5000, 200e3, 10e3) < -3


def test_synthetic_sheet_has_cells_of_all_types(synthetic):
    thk, topg = synthetic["thk"], synthetic["topg"]
    kind = utils.classify_cells(thk, topg)
    for name, low, high in (("grounded_ice", 0.6, 0.9), ("floating_ice", 0.02, 0.2),
                            ("ocean", 0.05, 0.3), ("ice_free_land", 0.0005, 0.05)):
        assert low < np.mean(kind == utils.CELL_TYPES.index(name)) < high, name
    ocean_bed = topg[kind == 0]  # a continental shelf, below sea level
    assert np.mean((ocean_bed < -150) & (ocean_bed > -1200)) > 0.2


def test_synthetic_surface_is_smooth_over_a_rough_bed(synthetic):
    thk, topg = synthetic["thk"], synthetic["topg"]
    usrf = utils.surface_from_thickness(thk, topg)
    inland = scipy.ndimage.binary_erosion(thk > 500, iterations=30)
    roughness = {name: np.abs(scipy.ndimage.laplace(field))[inland].mean()
                 for name, field in {"bed": topg, "surface": usrf}.items()}
    assert roughness["surface"] < 0.3 * roughness["bed"]
    assert usrf[inland].min() > 0


def test_synthetic_sheet_is_reproducible(synthetic):
    again, other = prepare_data.make_synthetic_map(), prepare_data.make_synthetic_map(seed=1)
    np.testing.assert_array_equal(again["thk"], synthetic["thk"])
    assert not synthetic["no_data"].any()  # all that a map has: it can be refined
    assert (synthetic["synthetic"], synthetic["spacing_m"]) == (True, 5000)
    assert np.mean(other["thk"] != synthetic["thk"]) > 0.5


# ---------------------------------------------------------------- as a user: bad input, full disk


@pytest.mark.parametrize("arguments, message", [
    (["--scale", "3"], "invalid choice: 3"),
    (["--input", "absent.nc"], "absent.nc: no such file"),
    (["--input", "map.nc", "--synthetic"], "not allowed with"),
    (["--test-size", "1.5"], "--test-size 1.5: expected a share between 0 and 1"),
    (["--seed", "-1"], "--seed -1: expected 0 or more"),
    (["--time", "1"], "--time selects a time in the input map; add --input"),
    (["--input", "map.nc"], "lies outside the map: map.nc reaches from x -1741591"),
    (["--input", "map.nc", "--output", "/proc/nowhere/patches.nc", *WINDOW_ARGUMENTS],
     "/proc/nowhere"),
    (["--input", "map.nc", "--output", "file/patches.nc", *WINDOW_ARGUMENTS], "file"),
    (["--input", "map.nc", "--output", "sub/../map.nc"], "this is the input map.nc"),
    (["--input", "map.nc", "--output", "link.nc"], "this is the input map.nc"),
    (["--input", "sub/patches_x4.nc", "--scale", "4", *WINDOW_ARGUMENTS, "--output", "map.nc"],
     "this is the input sub/patches_x4.nc"),
    (["--output", "sub"], "sub: not a file"),
])
def test_bad_usage_is_one_line_and_status_2(arguments, message, folder, small_map, capsys):
    (folder / "file").write_text("in the way of a folder")
    (folder / "map.nc").write_bytes(small_map.read_bytes())
    (folder / "link.nc").symlink_to("map.nc")
    (folder / "sub").mkdir()
    (folder / "sub" / "patches_x4.nc").hardlink_to("map.nc")
    status, said = run_main(prepare_data.main, arguments, capsys)
    assert status == 2
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (folder / "data").exists() or not list((folder / "data").iterdir())
    assert (folder / "map.nc").read_bytes() == small_map.read_bytes()


def test_the_default_output_is_checked_too(folder, small_map, capsys):
    path = folder / "data" / "patches_x4.nc"
    path.parent.mkdir()
    path.write_bytes(small_map.read_bytes())
    argv = ["--scale", "4", "--input", path, *WINDOW_ARGUMENTS]
    status, said = run_main(prepare_data.main, argv, capsys)
    assert status == 2
    assert "choose another name for the output" in said
    assert path.read_bytes() == small_map.read_bytes()


def test_an_output_that_is_the_map_is_refused_before_a_long_read(folder, monkeypatch):
    monkeypatch.setattr(prepare_data, "load_map", None)
    with pytest.raises(InputError, match="map.nc: this is the input ./map.nc"):
        prepare_data.main(["--input", "./map.nc", "--output", "map.nc"])


@pytest.mark.parametrize("change, message", [
    ({"thk": np.zeros((123, 164))}, "no ice in the window"),
    ({"topg": np.where(np.arange(164) == 80, np.nan, 1) * np.ones((123, 1))},
     r"bed \(topg\) is missing in 123 cells")])
def test_maps_that_will_not_do(change, message, folder):
    with pytest.raises(InputError, match=message):
        prepare_data.prepare(2, plain_map((123, 164), **change), window=PLAIN_WINDOW)
    assert not list(folder.rglob("*.nc"))


def test_full_disk_is_one_line_and_leaves_nothing(folder, small_map):
    """A limit on file size stands in for the full disk: the write fails half-way."""
    arguments = ["--input", small_map, "--scale", "4", *WINDOW_ARGUMENTS]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "prepare_data.py", *map(str, arguments)],
        capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000)))
    assert done.returncode == 2
    assert done.stderr.startswith("error: data/patches_x4.nc: cannot be written; is the disk full")
    assert done.stderr.count("\n") == 1
    assert list((folder / "data").iterdir()) == []
