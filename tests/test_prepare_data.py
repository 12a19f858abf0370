"""Window, patches, splits, the patch file, the synthetic sheet, the download, bad input."""

import functools
import http.server
import resource
import subprocess
import sys
import threading
import zipfile

import netCDF4
import numpy as np
import pytest
import scipy.ndimage
from conftest import REPOSITORY, SMALL_WINDOW, run_main, write_map
from sklearn.model_selection import train_test_split

import prepare_data
import utils
from utils import InputError

WINDOW_ARGUMENTS = ["--window", *SMALL_WINDOW]


def plain_map(shape=(90, 130), **fields):
    """A map as utils.read_map returns it: cells of 5 km from 0, 1 ... 2 km thick unless given."""
    rng = np.random.default_rng(0)
    fields = {"thk": 1000 + 1000 * rng.random(shape), "topg": -500 * rng.random(shape)} | fields
    return {
        "x": 5000.0 * np.arange(shape[1]),
        "y": 5000.0 * np.arange(shape[0]),
        "usrf": None,
        "crs": {},
        "name": "plain",
        "sha256": "",
        "title": "",
        "citation": "",
        "synthetic": False,
        "n_missing_thk": 0,
        "n_negative_thk": 0,
    } | {
        name: None if field is None else np.asarray(field, np.float32)
        for name, field in fields.items()
    }


# ---------------------------------------------------------------- window and patches


def test_window_of_the_original_on_5_km_cells():
    found = {
        "name": "map",
        "x": -2802500 + 5000.0 * np.arange(1160),
        "y": -2802500 + 5000.0 * np.arange(1120),
    }
    y, x = prepare_data.window_slices(found, prepare_data.WINDOW, 41)
    assert (y.stop - y.start, x.stop - x.start) == (410, 820)
    assert (found["x"][x.start], found["y"][y.start]) == (-1742500, -917500)


@pytest.mark.parametrize("window, message", [
    ((-50000, 300000, 0, 400000), "x -50000 to 300000 m lies outside the map"),
    ((0, 700000, 0, 400000), "x 0 to 700000 m lies outside the map"),
    ((0, 645000, 0, 100000), "y 0 to 100000 m is 21 cells of 5000 m, smaller than a patch of 41"),
    ((0, 645000, 400000, 0), "is 0 cells of 5000 m"),
])
def test_bad_windows_are_named(window, message):
    with pytest.raises(InputError, match=message):
        prepare_data.window_slices(plain_map(), window, 41)


def test_patches_run_row_by_row_from_the_lowest_corner():
    y, x = np.mgrid[:82, :123]
    patches = prepare_data.cut_patches(1000 * y + x, 41)
    assert patches.shape == (6, 41, 41)
    assert patches[0, 0, 0] == 0
    assert patches[2, 0, 0] == 82  # second along x
    assert patches[3, 0, 0] == 41000  # then the next row
    assert patches[4, 2, 1] == 1000 * 43 + 42


# ---------------------------------------------------------------- splits


def parts(rows=10, columns=20, method="random", test_size=0.3, seed=0):
    split = prepare_data.split_patches(rows, columns, method, test_size, seed)
    return {name: np.flatnonzero(split == i) for i, name in enumerate(utils.SPLITS)}


def test_random_split_is_scikit_learns():
    found = parts()
    assert {name: len(numbers) for name, numbers in found.items()} == {
        "train": 126, "validation": 14, "test": 60, "gap": 0}
    expected = train_test_split(np.arange(200), test_size=0.3, random_state=0)[1]
    np.testing.assert_array_equal(found["test"], np.sort(expected))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_block_split_keeps_test_patches_a_patch_away_from_training(seed):
    found = parts(method="block", seed=seed)
    assert len(found["test"]) == 60
    blocks = prepare_data.block_numbers(10, 20)
    for number in np.unique(blocks[found["test"]]):  # whole blocks
        assert np.isin(np.flatnonzero(blocks == number), found["test"]).all()
    learnt = np.concatenate([found["train"], found["validation"]])
    rows, columns = np.divmod(found["test"], 20)
    for patch in learnt:
        row, column = divmod(patch, 20)
        assert np.maximum(abs(rows - row), abs(columns - column)).min() > 1
    for patch in found["gap"]:  # nothing is thrown away that could be used
        row, column = divmod(patch, 20)
        assert np.maximum(abs(rows - row), abs(columns - column)).min() == 1


def test_another_seed_gives_another_split():
    for method in ("random", "block"):
        assert not np.array_equal(
            parts(method=method)["test"], parts(method=method, seed=1)["test"]
        )


def test_a_window_too_small_to_split_is_named():
    with pytest.raises(InputError, match="holds 6 patches; a split needs at least 10"):
        parts(2, 3)
    with pytest.raises(
        InputError, match="block split of 3 x 4 patches leaves 0 for training and 12 for test"
    ):
        parts(3, 4, "block")


# ---------------------------------------------------------------- the patch file


def test_patch_file_describes_itself(small_patches, folder):
    attrs = small_patches["attrs"]
    assert attrs["scale"] == 4
    assert (attrs["degrade"], attrs["split"], attrs["seed"]) == ("bicubic", "random", 0)
    assert attrs["synthetic"] == "no"  # a file is what its attributes say it is
    assert attrs["citation"] == "made for the tests"
    assert len(attrs["source_sha256"]) == 64
    assert small_patches["thk"].shape == small_patches["topg"].shape == (12, 3, 41, 41)
    with netCDF4.Dataset(folder / "data" / "patches_x4.nc") as ds:
        assert ds["thk"].dimensions == ("patch", "level", "y", "x")
        assert ds["x"].dimensions == ("patch", "x")
        for name in ("thk", "topg", "x", "y", "spacing"):
            assert ds[name].units == "m"
        np.testing.assert_allclose(ds["spacing"][:], [20000, 10000, 5000])
        assert ds["split"].flag_meanings == "train validation test gap"
        np.testing.assert_array_equal(ds["column"][:5], [0, 1, 2, 3, 0])


def test_patches_hold_the_map_and_its_levels(small_patches, small_map):
    found = utils.read_map(small_map)
    last = small_patches["thk"][:, -1]
    np.testing.assert_array_equal(last[5], found["thk"][41:82, 41:82])
    np.testing.assert_allclose(small_patches["x"][5], found["x"][41:82])
    np.testing.assert_allclose(small_patches["y"][5], found["y"][41:82])
    coarse = scipy.ndimage.zoom(last[5].astype(float), 1 / 4)
    np.testing.assert_allclose(
        small_patches["thk"][5, 0], scipy.ndimage.zoom(coarse, 4.1), atol=1e-2
    )


def test_network_constants_come_from_training_patches_only(folder):
    found = plain_map((123, 164))
    test = parts(3, 4)["test"]
    row, column = divmod(test[0], 4)
    found["thk"][41 * row + 7, 41 * column + 7] = 9000  # a peak that training must not know of
    found["topg"][41 * row + 7, 41 * column + 7] = -9000
    path = prepare_data.prepare(2, found, window=(0, 163 * 5000, 0, 122 * 5000))
    attrs = utils.read_patches(path)["attrs"]
    assert attrs["thk_max_m"] == 9000  # the original's, of the whole window
    assert 1990 < attrs["thk_norm_m"] < 2001
    assert 499 < attrs["topg_norm_m"] < 501


def test_patches_are_the_same_at_every_scale(folder, small_map):
    found = utils.read_map(small_map)
    made = [utils.read_patches(prepare_data.prepare(scale, found, window=SMALL_WINDOW))
            for scale in utils.SCALES]
    for patches in made[1:]:
        np.testing.assert_array_equal(patches["split"], made[0]["split"])
        np.testing.assert_array_equal(patches["thk"][:, -1], made[0]["thk"][:, -1])
    assert [patches["thk"].shape[1] for patches in made] == [2, 3, 4, 5]


def test_a_map_without_bed_gives_patches_without_topg(folder, capsys):
    path = prepare_data.prepare(2, plain_map((123, 164), topg=None), window=(0, 815000, 0, 610000))
    assert utils.read_patches(path)["topg"] is None
    assert "--channels thk" in capsys.readouterr().out


def test_patches_of_a_run_are_found(folder, small_map, capsys):
    """Runs of a scale share a patch file; one of another scale is refused."""
    prepare_data.prepare(4, utils.read_map(small_map), window=SMALL_WINDOW)
    path, patches = prepare_data.find_patches("x4", 4, small_map)
    assert str(path) == "data/patches_x4.nc"
    assert prepare_data.find_patches("wide", 4)[0] == path  # shared by runs of the same scale
    with pytest.raises(InputError, match="made for scale 4, not 8"):
        (folder / "data" / "patches_x8.nc").write_bytes(path.read_bytes())
        prepare_data.find_patches("x8", 8)


# ---------------------------------------------------------------- real grids


@pytest.mark.parametrize("name, scale, everywhere, test_mse", [
    ("antarctica_bedmachine_5km.nc", 4, 4.83e-4, 3.88e-4),
    ("antarctica_bedmachine_5km.nc", 8, 2.14e-3, 1.68e-3),
    ("antarctica_bedmachine_5km.nc", 16, 4.53e-3, 3.32e-3),
    ("antarctica_albmap_5km.nc", 4, 3.02e-4, None),
    ("antarctica_albmap_5km.nc", 8, 1.51e-3, None),
    ("antarctica_albmap_5km.nc", 16, 3.29e-3, None)])
def test_reference_figures_of_the_patch_file(real_grid, folder, name, scale, everywhere, test_mse):
    path = prepare_data.prepare(scale, utils.read_map(real_grid(name)))
    patches = utils.read_patches(path)
    thk, thk_max_m = patches["thk"], patches["attrs"]["thk_max_m"]
    assert len(thk) == 200
    assert utils.errors(thk[:, 0], thk[:, -1], thk_max_m)["mse"] == pytest.approx(
        everywhere, rel=0.01
    )
    if test_mse:
        test = utils.in_split(patches, "test")
        assert utils.errors(thk[test, 0], thk[test, -1], thk_max_m)["mse"] == pytest.approx(
            test_mse, rel=0.01
        )


@pytest.mark.parametrize("folds", [2, 5])
def test_every_patch_is_held_out_in_one_fold_a_patch_away_from_training(folds):
    held_out = np.zeros(200, int)
    for fold in range(1, folds + 1):
        found = parts(method=f"fold {fold} of {folds}")
        held_out[found["test"]] += 1
        learnt = np.concatenate([found["train"], found["validation"]])
        rows, columns = (np.subtract.outer(test, training) for test, training in
                         zip(np.divmod(found["test"], 20), np.divmod(learnt, 20), strict=True))
        assert np.maximum(abs(rows), abs(columns)).min() == 2  # a gap of one patch, corners too
    np.testing.assert_array_equal(held_out, 1)


def test_more_folds_than_blocks():
    with pytest.raises(InputError, match="11 folds of 10 blocks"):
        prepare_data.split_patches(10, 20, "fold 1 of 11", 0.3, 0)


def test_patches_shared_out_anew_keep_their_fields_and_norms_know_only_training(folder):
    side, columns = 41, 8
    thk = np.full((3 * side, columns * side), 1000.0)
    thk[:, :4 * side] = 2000.0  # of the two blocks the first has the thicker ice
    found = plain_map(thk=thk, topg=-thk, x=5000.0 * np.arange(columns * side),
                      y=5000.0 * np.arange(3 * side))
    window = (0, 5000 * (columns * side - 1), 0, 5000 * (3 * side - 1))
    patches = utils.read_patches(prepare_data.prepare(2, found, window=window))
    norms = []
    for fold in (1, 2):
        again = prepare_data.resplit(patches, f"fold {fold} of 2")
        np.testing.assert_array_equal(again["thk"], patches["thk"])
        norms.append(again["attrs"]["thk_norm_m"])
        learnt = utils.in_split(again, "train", "validation")
        assert norms[-1] == patches["thk"][learnt, -1].max() == again["attrs"]["topg_norm_m"]
        assert prepare_data.describe_data(again)["split"] == f"fold {fold} of 2"
    assert sorted(norms) == [1000, 2000]


def test_native_8_km_map_cell_means_blocks(real_grid, folder):
    found = utils.read_map(real_grid("antarctica_bedmachine_8km.nc"))
    path = prepare_data.prepare(4, found, degrade="area", split="block",
                                window=(-2832000, 2920000, -2576000, 2408000))
    patches = utils.read_patches(path)
    assert patches["thk"].shape == (13 * 15, 3, 48, 48)  # the whole continent: all of its ice
    assert (patches["thk"][:, -1] > 0).sum() == (found["thk"] > 0).sum()
    fine = patches["thk"][:, -1].astype(float)
    coarse = utils.reduce_fields(fine, 4, "area")
    np.testing.assert_allclose(coarse.mean(axis=(1, 2)), fine.mean(axis=(1, 2)), rtol=1e-6)


# ---------------------------------------------------------------- the synthetic sheet


@pytest.fixture(scope="module")
def synthetic():
    return prepare_data.synthetic_map()


def radial_slope(field, spacing_m, longest_m, shortest_m):
    """Exponent of the radially averaged 2-D power spectrum of a field between two wavelengths."""
    taper = np.outer(*(np.hanning(n) for n in field.shape))
    power = np.abs(np.fft.fft2((field - field.mean()) * taper)) ** 2
    wavenumber = np.hypot(
        *np.meshgrid(*(np.fft.fftfreq(n, spacing_m) for n in field.shape), indexing="ij")
    )
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


def test_synthetic_sheet_has_all_kinds_of_surface(synthetic):
    thk, topg = synthetic["thk"], synthetic["topg"]
    floats = (thk > 0) & (utils.RHO_ICE / utils.RHO_SEA * thk < -topg - 0.01)
    share = {"grounded": (thk > 0) & ~floats, "floating": floats, "ocean": (thk == 0) & (topg < 0),
             "land": (thk == 0) & (topg > 0)}
    share = {name: mask.mean() for name, mask in share.items()}
    assert 0.6 < share["grounded"] < 0.9
    assert 0.02 < share["floating"] < 0.2
    assert 0.05 < share["ocean"] < 0.3
    assert 0.0005 < share["land"] < 0.05  # nunataks
    shelf_bed = topg[(thk == 0) & (topg < 0)]
    assert (
        np.mean((shelf_bed < -150) & (shelf_bed > -1200)) > 0.2
    )  # a continental shelf, below sea level


def test_synthetic_surface_is_smooth_over_a_rough_bed(synthetic):
    thk, topg = synthetic["thk"], synthetic["topg"]
    usrf = utils.surface(thk, topg)
    inland = scipy.ndimage.binary_erosion(thk > 500, iterations=30)
    roughness = {name: np.abs(scipy.ndimage.laplace(field))[inland].mean()
                 for name, field in {"bed": topg, "surface": usrf}.items()}
    assert roughness["surface"] < 0.3 * roughness["bed"]
    assert usrf[inland].min() > 0


def test_synthetic_sheet_is_reproducible(synthetic):
    again, other = prepare_data.synthetic_map(), prepare_data.synthetic_map(seed=1)
    np.testing.assert_array_equal(again["thk"], synthetic["thk"])
    assert np.mean(other["thk"] != synthetic["thk"]) > 0.5


# ---------------------------------------------------------------- the download, from this machine


@pytest.fixture
def server(tmp_path_factory):
    """A web server on loopback: its address and the folder it serves; /stall never answers."""
    folder = tmp_path_factory.mktemp("web")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/stall":
                release.wait(20)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    release = threading.Event()
    web = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    )
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", folder
    release.set()
    web.shutdown()
    thread.join()
    web.server_close()


def zipped_albmap(path, deepest=4400.0, size=1100):
    """A stand-in for ALBMAPv1.nc.zip: right names and size, thickness up to `deepest`."""
    usrf = np.zeros((size, size), np.float32)
    usrf[400:700, 400:700] = deepest - 500
    axis = 5000.0 * np.arange(size)
    bed = np.full_like(usrf, -500)
    dims = ("y1", "x1")
    write_map(path.with_suffix(""), {"y1": size, "x1": size},
              {"x1": (("x1",), axis, {"units": "m"}), "y1": (("y1",), axis, {"units": "m"})},
              {"usrf": (dims, usrf, {}), "lsrf": (dims, np.where(usrf > 0, bed, usrf), {}),
               "topg": (dims, bed, {})})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path.with_suffix(""), "ALBMAPv1.nc")


def test_download_is_unpacked_checked_and_kept(server, folder, capsys):
    address, served = server
    zipped_albmap(served / "map.nc.zip")
    path = prepare_data.download_albmap(f"{address}/map.nc.zip")
    assert [each.name for each in (folder / "data").iterdir()] == ["ALBMAPv1.nc"]
    assert utils.read_map(path)["thk"].max() == 4400
    assert "doi:10.1594/PANGAEA.734145" in capsys.readouterr().out
    assert prepare_data.download_albmap("http://127.0.0.1:1/never") == path  # there already


@pytest.mark.parametrize("page, message", [
    ("absent.zip", "404"), ("text.zip", "not a zip archive"), ("thin.nc.zip", "expected ALBMAP v1"),
    ("stall", "download failed.*timed out")])
def test_failed_download_is_named_and_leaves_nothing(server, folder, page, message):
    address, served = server
    (served / "text.zip").write_text("sorry")
    if page == "thin.nc.zip":
        zipped_albmap(served / page, deepest=900)
    with pytest.raises(InputError, match=message):
        prepare_data.download_albmap(f"{address}/{page}", timeout_s=1)
    assert list((folder / "data").iterdir()) == []


# ---------------------------------------------------------------- as a user: bad input, full disk


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scale", "3"], "invalid choice: 3"),
        (["--input", "absent.nc"], "absent.nc: no such file"),
        (["--input", "map.nc", "--synthetic"], "not allowed with"),
        (["--test-size", "1.5"], "--test-size 1.5: expected a share between 0 and 1"),
        (["--input", "{map}"], "lies outside the map: small.nc reaches from x -1741591"),
        (
            ["--input", "{map}", "--output", "/proc/nowhere/patches.nc", *WINDOW_ARGUMENTS],
            "/proc/nowhere",
        ),
        (["--input", "{map}", "--output", "file/patches.nc", *WINDOW_ARGUMENTS], "file"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, folder, small_map, capsys):
    (folder / "file").write_text("in the way of a folder")
    argv = [str(small_map) if argument == "{map}" else argument for argument in arguments]
    status, said = run_main(prepare_data.main, argv, capsys)
    assert status == 2
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (folder / "data").exists() or not list((folder / "data").iterdir())


@pytest.mark.parametrize("change, message", [
    ({"thk": np.zeros((123, 164))}, "no ice in the window"),
    ({"topg": np.where(np.arange(164) == 80, np.nan, 1) * np.ones((123, 1))},
     r"bed \(topg\) is missing in 123 cells")])
def test_maps_that_will_not_do(change, message, folder):
    with pytest.raises(InputError, match=message):
        prepare_data.prepare(
            2, plain_map((123, 164), **change), window=(0, 163 * 5000, 0, 122 * 5000)
        )
    assert not list(folder.rglob("*.nc"))


def test_full_disk_is_one_line_and_leaves_nothing(folder, small_map):
    """A limit on file size stands in for the full disk: the write fails half-way."""
    arguments = ["--input", small_map, "--scale", "4", *WINDOW_ARGUMENTS]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "prepare_data.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000)),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: data/patches_x4.nc: cannot be written; is the disk full")
    assert done.stderr.count("\n") == 1
    assert list((folder / "data").iterdir()) == []
