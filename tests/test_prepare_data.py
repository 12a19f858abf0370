"""Window, patches, splits, the patch file, the synthetic sheet, the download, bad input."""

import functools
import resource
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import scipy.ndimage
from conftest import REPOSITORY, SMALL_WINDOW, run_main, write_map
from sklearn.model_selection import train_test_split

import prepare_data
import utils
from icesheet import files, map_files, projections
from icesheet.command_line import InputError
from icesheet.patches import (
    SPLITS,
    apply_split,
    assign_blocks,
    cut_patches,
    describe_split,
    find_patches_in_split,
    join_patches,
    read_patches,
    split_patches,
    write_patches,
)
from icesheet.scores import compute_errors, compute_rmse_m
from icesheet.settings import PATCH_FILE_ATTRIBUTES, SCALES

WINDOW_ARGUMENTS = ["--window", *SMALL_WINDOW]
PLAIN_WINDOW = (0, 163 * 5000, 0, 122 * 5000)  # all of a plain map of 123 x 164 cells


def plain_map(shape=(90, 130), spacing_m=5000.0, x0=0.0, y0=0.0, **fields):
    """A map in memory: cells of 5 km from 0, ice 1 ... 2 km thick unless given."""
    rng = np.random.default_rng(0)
    fields = {"thk": 1000 + 1000 * rng.random(shape), "topg": -500 * rng.random(shape)} | fields
    return map_files.make_map(
        x0 + spacing_m * np.arange(shape[1]), y0 + spacing_m * np.arange(shape[0]), name="plain",
        **{name: None if field is None else np.asarray(field, np.float32)
           for name, field in fields.items()})


def write_plain_map(path, ice_map, attributes=None):
    """A map in memory as a file."""
    return write_map(
        path, {"y": len(ice_map["y"]), "x": len(ice_map["x"])},
        {name: ((name,), ice_map[name], {"units": "m"}) for name in "yx"},
        {name: (("y", "x"), ice_map[name], {"units": "m"}) for name in ("thk", "topg")}, attributes)


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


def test_patches_run_row_by_row_from_the_lowest_corner():
    y, x = np.mgrid[:82, :123]
    patches = cut_patches(1000 * y + x, 41)
    assert patches.shape == (6, 41, 41)
    assert patches[0, 0, 0] == 0
    assert patches[2, 0, 0] == 82  # second along x
    assert patches[3, 0, 0] == 41000  # then the next row
    assert patches[4, 2, 1] == 1000 * 43 + 42
    numbers = {"row": np.repeat([0, 1], 3), "column": np.tile([0, 1, 2], 2)}
    np.testing.assert_array_equal(join_patches(patches, numbers), 1000 * y + x)


# ---------------------------------------------------------------- splits


def parts(rows=10, columns=20, method="random", test_size=0.3, seed=0, fold=()):
    split = split_patches(rows, columns, method, test_size, seed, fold)
    return {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}


def test_random_split_is_scikit_learns():
    found = parts()
    assert {name: len(numbers) for name, numbers in found.items()} == {
        "train": 126, "validation": 14, "test": 60, "buffer": 0}
    expected = train_test_split(np.arange(200), test_size=0.3, random_state=0)[1]
    np.testing.assert_array_equal(found["test"], np.sort(expected))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_block_split_keeps_test_patches_a_patch_away_from_training(seed):
    found = parts(method="block", seed=seed)
    assert len(found["test"]) == 60
    blocks = assign_blocks(10, 20)
    for number in np.unique(blocks[found["test"]]):  # whole blocks
        assert np.isin(np.flatnonzero(blocks == number), found["test"]).all()
    learnt = np.concatenate([found["train"], found["validation"]])
    rows, columns = np.divmod(found["test"], 20)
    for patch in learnt:
        row, column = divmod(patch, 20)
        assert np.maximum(abs(rows - row), abs(columns - column)).min() > 1
    for patch in found["buffer"]:  # nothing is thrown away that could be used
        row, column = divmod(patch, 20)
        assert np.maximum(abs(rows - row), abs(columns - column)).min() == 1


def test_another_seed_gives_another_split():
    for method in ("random", "block"):
        assert not np.array_equal(parts(method=method)["test"],
                                  parts(method=method, seed=1)["test"])


def test_a_window_too_small_to_split_is_named():
    with pytest.raises(InputError, match="holds 6 patches; a split needs at least 10"):
        parts(2, 3)
    with pytest.raises(InputError, match="block split of 3 x 4 patches leaves 0 for training and "
                                         "12 for test"):
        parts(3, 4, "block")


@pytest.mark.parametrize("folds", [2, 5])
def test_every_patch_is_held_out_in_one_fold_a_patch_away_from_training(folds):
    held_out = np.zeros(200, int)
    for fold in range(1, folds + 1):
        found = parts(method="block", fold=(fold, folds))
        held_out[found["test"]] += 1
        learnt = np.concatenate([found["train"], found["validation"]])
        rows, columns = (np.subtract.outer(test, training) for test, training in
                         zip(np.divmod(found["test"], 20), np.divmod(learnt, 20), strict=True))
        assert np.maximum(abs(rows), abs(columns)).min() == 2  # a gap of one patch, corners too
    np.testing.assert_array_equal(held_out, 1)


def test_more_folds_than_blocks():
    with pytest.raises(InputError, match="11 folds of 10 blocks"):
        split_patches(10, 20, "block", 0.3, 0, (1, 11))


def test_a_split_made_anew_keeps_the_fields_and_its_norms_know_only_training(folder):
    thk = np.full((123, 328), 1000.0)
    thk[:, :164] = 2000.0  # of the two blocks the first has the thicker ice
    patches = prepare_data.make_patches(plain_map(thk.shape, thk=thk, topg=-thk), 2,
                                        window=(0, 327 * 5000, 0, 122 * 5000))
    assert describe_split(patches["data"]) == "random split"
    norms, test = [], []
    for fold in ((1, 2), (2, 2)):
        write_patches("fold.nc", apply_split(patches, "block", fold))
        again = read_patches("fold.nc")
        np.testing.assert_array_equal(again["thk"], patches["thk"])
        np.testing.assert_array_equal(again["split"], split_patches(
            3, 8, "block", 0.3, 0, fold))
        data = again["data"]
        assert (data["split_method"], data["fold"]) == ("block", list(fold))
        assert describe_split(data) == f"block split, fold {fold[0]} of 2"
        learnt = find_patches_in_split(again, "train", "validation")
        norms.append(data["thk_norm_m"])
        assert norms[-1] == patches["thk"][learnt, -1].max() == data["topg_norm_m"]
        test += list(find_patches_in_split(again, "test"))
    assert sorted(norms) == [1000, 2000]
    assert sorted(test) == list(range(24))
    assert patches["data"]["split_method"] == "random"  # left as it was


# ---------------------------------------------------------------- the patch file


def test_patch_file_describes_itself(small_patches, small_map, folder):
    data = small_patches["data"]
    assert set(data) == {*PATCH_FILE_ATTRIBUTES, "crs"}
    assert data == data | {
        "source": "small.nc", "source_sha256": files.hash_file(small_map), "source_title": "",
        "citation": "made for the tests", "time_index": -1, "synthetic": False, "degrade": "bicubic",
        "split_method": "random", "fold": [], "test_size": 0.3, "seed": 0,
        "window": list(SMALL_WINDOW), "spacing_m": 5000, "crs": {}}
    assert small_patches["scale"] == 4
    assert small_patches["thk"].shape == small_patches["topg"].shape == (12, 3, 41, 41)
    with netCDF4.Dataset(folder / "data" / "patches_x4.nc") as ds:
        assert ds["thk"].dimensions == ("patch", "level", "y", "x")
        assert ds["x"].dimensions == ("patch", "x")
        for name in ("thk", "topg", "x", "y", "spacing"):
            assert ds[name].units == "m"
        np.testing.assert_allclose(ds["spacing"][:], [20000, 10000, 5000])
        assert ds["split"].flag_meanings == "train validation test gap"
        np.testing.assert_array_equal(ds["column"][:5], [0, 1, 2, 3, 0])
        for each in (ds, *ds.variables.values()):  # texts and numbers: any program reads them
            for key in each.ncattrs():
                assert np.asarray(each.getncattr(key)).dtype.kind in "Uif", key


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


def test_network_constants_come_from_training_patches_only():
    ice_map = plain_map((123, 164))
    row, column = divmod(parts(3, 4)["test"][0], 4)
    peak = 41 * row + 7, 41 * column + 7  # that training must not know of
    ice_map["thk"][peak], ice_map["topg"][peak] = 9000, -9000
    data = prepare_data.make_patches(ice_map, 2, window=PLAIN_WINDOW)["data"]
    assert data["thk_max_m"] == 9000  # the original's, of the whole window
    assert 1990 < data["thk_norm_m"] < 2001
    assert 499 < data["topg_norm_m"] < 501


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


def test_what_is_no_file_of_patches_is_named(folder, small_map):
    with pytest.raises(InputError, match="small.nc: not a file of patches"):
        read_patches(small_map)
    with pytest.raises(InputError, match="absent.nc: no such file"):
        read_patches("absent.nc")


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
        path, patches = prepare_data.load_or_make_patches(run, 4, input_file, synthetic=False)
        assert path.resolve() == shared
        np.testing.assert_array_equal(patches["thk"], small_patches["thk"])
    shared.rename(folder / "data" / "patches_x8.nc")
    with pytest.raises(InputError, match="patches_x8.nc: made for scale 4, not 8"):
        prepare_data.load_or_make_patches("x8", 8)


def test_patches_of_another_map_are_left_alone(small_patches, wide_map, folder, capsys):
    shared = folder / "data" / "patches_x4.nc"
    before = shared.read_bytes()
    path, patches = prepare_data.load_or_make_patches("x4", 4, wide_map)
    assert path.name == f"patches_x4_{files.hash_file(wide_map)[:8]}.nc"
    assert "comes from another map" in capsys.readouterr().out
    assert (patches["data"]["source"], len(patches["row"])) == ("wide.nc", 10)
    assert shared.read_bytes() == before
    made = path.stat().st_mtime_ns
    assert prepare_data.load_or_make_patches("wide", 4, wide_map)[0] == path  # for every run on that map
    assert path.stat().st_mtime_ns == made
    assert prepare_data.load_or_make_patches("x4", 4)[0].resolve() == shared


def test_patches_that_are_named(small_patches, small_map, wide_map, folder):
    """--patches FILE: these and no others, whatever else there is."""
    write_patches("mine.nc", apply_split(small_patches, "random") | {
        "data": small_patches["data"] | {"seed": 7}})
    for input_file in (None, small_map):
        path, patches = prepare_data.load_or_make_patches("wide", 4, input_file, "mine.nc")
        assert (str(path), patches["data"]["seed"]) == ("mine.nc", 7)
    with pytest.raises(InputError, match="mine.nc: not of the map .*wide.nc"):
        prepare_data.load_or_make_patches("wide", 4, wide_map, "mine.nc")
    with pytest.raises(InputError, match="mine.nc: made for scale 4, not 8"):
        prepare_data.load_or_make_patches("wide", 8, None, "mine.nc")
    with pytest.raises(InputError, match="absent.nc: no such file"):
        prepare_data.load_or_make_patches("wide", 4, None, "absent.nc")
    trained = settings_of(small_patches, "data/patches_x4.nc")
    with pytest.raises(InputError, match="mine.nc: .*not what run wide was trained on"):
        prepare_data.load_or_make_patches("wide", 4, None, "mine.nc", trained=trained)


def test_a_run_with_a_name_gets_the_synthetic_sheet_only_when_asked(folder, small_sheet, capsys):
    with pytest.raises(InputError, match="patches_x4.nc: no patches of a map there.*--synthetic"):
        prepare_data.load_or_make_patches("wide", 4, synthetic=False)
    assert not list(folder.iterdir())
    path, patches = prepare_data.load_or_make_patches("x4", 4)  # a run without a name: the first command
    assert (path.name, patches["data"]["synthetic"]) == ("patches_x4.nc", True)
    assert "SYNTHETIC" in capsys.readouterr().out
    with pytest.raises(InputError, match="patches_x4.nc: patches of the synthetic ice sheet.*"
                                         "--synthetic to train on them"):
        prepare_data.load_or_make_patches("wide", 4, synthetic=False)
    assert prepare_data.load_or_make_patches("wide", 4, synthetic=True)[0] == path
    # Once trained on it the run goes on with it, and evaluates.
    trained = settings_of(patches, path)
    for synthetic in (None, True, False):
        assert prepare_data.load_or_make_patches("wide", 4, synthetic=synthetic, trained=trained)[0] == path


def test_the_synthetic_sheet_beside_patches_of_a_map(small_patches, small_sheet):
    path, patches = prepare_data.load_or_make_patches("wide", 4, synthetic=True)
    assert (path.name, patches["data"]["synthetic"]) == ("patches_x4_synthetic.nc", True)


def test_a_map_that_says_it_is_synthetic_will_do_where_it_is_given(folder):
    path = write_plain_map(folder / "made_up.nc", plain_map(
        (104, 206), 20e3, prepare_data.WINDOW_M[0], prepare_data.WINDOW_M[2]), {"synthetic": "yes"})
    for _ in range(2):  # made, then found
        made, patches = prepare_data.load_or_make_patches("wide", 4, path, synthetic=False)
        assert patches["data"]["synthetic"] is True
    for synthetic, again in ((None, None), (False, None), (False, path)):  # evaluated, resumed
        assert prepare_data.load_or_make_patches("wide", 4, again, synthetic=synthetic,
                                         trained=settings_of(patches, made))[0] == made


def test_patches_of_a_trained_run_are_made_again_as_it_knew_them(folder, small_map):
    """Of another record, window, test size and seed than the defaults; of a fold."""
    records = three_records(folder / "three.nc", small_map)
    thk = np.linspace(500, 2500, 123 * 328).reshape(123, 328)
    blocks = write_plain_map(folder / "blocks.nc", plain_map(thk.shape, thk=thk, topg=-thk))
    for path, patches in (
            (records, prepare_data.make_patches(map_files.read_map(records, 1), 4, test_size=0.5,
                                                seed=3, window=SMALL_WINDOW)),
            (blocks, apply_split(prepare_data.make_patches(
                map_files.read_map(blocks), 4, "area", window=(0, 327 * 5000, 0, 122 * 5000)),
                "block", (2, 2)))):
        trained = settings_of(patches, "data/patches_x4.nc")
        with pytest.raises(InputError, match=f"no patches of {path.name} there"):
            prepare_data.load_or_make_patches("tiny", 4, trained=trained)
        again = prepare_data.load_or_make_patches("tiny", 4, path, trained=trained)[1]
        assert again["data"] == patches["data"]
        for name in ("thk", "topg", "split"):
            np.testing.assert_array_equal(again[name], patches[name])
        # Beside patches of others it gets a file of its own.
        prepare_data.prepare(4, map_files.read_map(small_map), window=SMALL_WINDOW)
        own, again = prepare_data.load_or_make_patches("tiny", 4, path, trained=trained)
        assert own.name == "patches_tiny.nc"
        assert again["data"] == patches["data"]
        for each in (folder / "data").iterdir():
            each.unlink()


def test_a_trained_run_knows_its_map_by_the_checksum(small_patches, small_map, wide_map, folder):
    trained = settings_of(small_patches, "data/patches_x4.nc")
    with pytest.raises(InputError, match="tiny was trained on small.nc, not on .*wide.nc"):
        prepare_data.load_or_make_patches("tiny", 4, wide_map, trained=trained)
    (folder / "data" / "patches_x4.nc").unlink()
    (folder / "renamed.nc").write_bytes(small_map.read_bytes())
    path, patches = prepare_data.load_or_make_patches("tiny", 4, "renamed.nc", trained=trained)
    assert patches["data"] == small_patches["data"]
    np.testing.assert_array_equal(patches["thk"], small_patches["thk"])
    assert path.name == "patches_x4.nc"


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


def test_synthetic_sheet_is_the_size_and_range_of_antarctica(synthetic):
    assert synthetic["thk"].shape == (410, 820)
    assert synthetic["thk"].min() == 0
    assert 4000 < synthetic["thk"].max() <= 4500
    assert synthetic["topg"].min() < -2500  # deep ocean
    assert 2000 < synthetic["topg"].max() < 5000  # mountains


def test_synthetic_bed_has_a_realistic_spectrum(synthetic):
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
    (["--time", "1"], "--time: goes with --input"),
    (["--input", "map.nc"], "lies outside the map: map.nc reaches from x -1741591"),
    (["--input", "map.nc", "--output", "/proc/nowhere/patches.nc", *WINDOW_ARGUMENTS],
     "/proc/nowhere"),
    (["--input", "map.nc", "--output", "file/patches.nc", *WINDOW_ARGUMENTS], "file"),
    (["--input", "map.nc", "--output", "sub/../map.nc", *WINDOW_ARGUMENTS], "this is map.nc"),
    (["--input", "map.nc", "--output", "link.nc", *WINDOW_ARGUMENTS], "this is map.nc"),
    (["--input", "sub/patches_x4.nc", "--scale", "4", *WINDOW_ARGUMENTS, "--output", "map.nc"],
     "this is sub/patches_x4.nc"),
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
    assert "which is read; choose another name for the output" in said
    assert path.read_bytes() == small_map.read_bytes()


def test_an_output_that_is_the_map_is_refused_before_a_long_read(folder, monkeypatch):
    monkeypatch.setattr(prepare_data, "load_map", None)
    with pytest.raises(InputError, match="map.nc: this is ./map.nc, which is read"):
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
