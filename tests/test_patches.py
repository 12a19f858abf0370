"""Cutting, joining and splitting patches, the file that they are written to, how it is found."""

import netCDF4
import numpy as np
import pytest
from conftest import PLAIN_WINDOW, SMALL_WINDOW, plain_map
from sklearn.model_selection import train_test_split

import prepare_data
from icesheet import files
from icesheet.command_line import InputError
from icesheet.patches import (
    SPLITS, apply_split, assign_blocks, cut_patches, describe_split, find_patches_in_split,
    join_patches, read_patches, split_patches, write_patches)
from icesheet.settings import PATCH_FILE_ATTRIBUTES


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


def split_indices(rows=10, columns=20, method="random", test_size=0.3, seed=0, fold=()):
    """Return the indices of the patches in every split: {name: (patch,)}."""
    split = split_patches(rows, columns, method, test_size, seed, fold)
    return {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}


def patch_distances(indices, others):
    """Return how many patches lie from some patches to others, of 20 columns: (patch, other)."""
    rows, columns = (np.abs(np.subtract.outer(a, b)) for a, b in zip(
        np.divmod(indices, 20), np.divmod(others, 20), strict=True))
    return np.maximum(rows, columns)


def test_random_split_is_scikit_learns():
    split = split_indices()
    assert {name: len(indices) for name, indices in split.items()} == {
        "train": 126, "validation": 14, "test": 60, "buffer": 0}
    expected = train_test_split(np.arange(200), test_size=0.3, random_state=0)[1]
    np.testing.assert_array_equal(split["test"], np.sort(expected))
    for method in ("random", "block"):
        assert not np.array_equal(split_indices(method=method)["test"],
                                  split_indices(method=method, seed=1)["test"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_block_split_keeps_test_patches_a_patch_away_from_training(seed):
    split, blocks = split_indices(method="block", seed=seed), assign_blocks(10, 20)
    test = split["test"]
    assert len(test) == 60
    np.testing.assert_array_equal(np.isin(blocks, blocks[test]).nonzero()[0], test)  # whole blocks
    training = np.concatenate([split["train"], split["validation"]])
    assert patch_distances(test, training).min() > 1
    # Nothing is thrown away that could be used.
    np.testing.assert_array_equal(patch_distances(test, split["buffer"]).min(axis=0), 1)


@pytest.mark.parametrize("folds", [2, 5])
def test_every_patch_is_held_out_in_one_fold_a_patch_away_from_training(folds):
    n_held_out = np.zeros(200, int)
    for fold in range(1, folds + 1):
        split = split_indices(method="block", fold=(fold, folds))
        n_held_out[split["test"]] += 1
        training = np.concatenate([split["train"], split["validation"]])
        assert patch_distances(split["test"], training).min() == 2  # a patch between, corners too
    np.testing.assert_array_equal(n_held_out, 1)


@pytest.mark.parametrize("arguments, message", [
    ((2, 3), "holds 6 patches; a split needs at least 10"),
    ((3, 4, "block"), "block split of 3 x 4 patches leaves 0 for training and 12 for test"),
    ((10, 20, "block", 0.3, 0, (1, 11)), "11 folds of 10 blocks")])
def test_splits_that_cannot_be_made_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        split_indices(*arguments)


def test_another_split_keeps_the_fields_and_its_constants_know_only_training(folder):
    thk = np.full((123, 328), 1000.0)
    thk[:, :164] = 2000.0  # of the two blocks the first has the thicker ice
    patches = prepare_data.make_patches(plain_map(thk.shape, thk=thk, topg=-thk), 2,
                                        window=(0, 327 * 5000, 0, 122 * 5000))
    assert describe_split(patches["data"]) == "random split"
    norms_m, test = [], []
    for fold in ((1, 2), (2, 2)):
        write_patches("fold.nc", apply_split(patches, "block", fold))
        again = read_patches("fold.nc")
        np.testing.assert_array_equal(again["thk"], patches["thk"])
        np.testing.assert_array_equal(again["split"], split_patches(3, 8, "block", 0.3, 0, fold))
        data = again["data"]
        assert (data["split_method"], data["fold"]) == ("block", list(fold))
        assert describe_split(data) == f"block split, fold {fold[0]} of 2"
        training = find_patches_in_split(again, "train", "validation")
        norms_m.append(data["thk_norm_m"])
        assert norms_m[-1] == patches["thk"][training, -1].max() == data["topg_norm_m"]
        test += list(find_patches_in_split(again, "test"))
    assert sorted(norms_m) == [1000, 2000]
    assert sorted(test) == list(range(24))
    assert patches["data"]["split_method"] == "random"  # left as it was


# ---------------------------------------------------------------- the patch file


def test_patch_file_describes_itself(small_patches, small_map, folder):
    data = small_patches["data"]
    assert set(data) == {*PATCH_FILE_ATTRIBUTES, "crs"}
    assert data == data | {
        "source": "small.nc", "source_sha256": files.hash_file(small_map), "source_title": "",
        "citation": "made for the tests", "time_index": -1, "synthetic": False,
        "degrade": "bicubic", "split_method": "random", "fold": [], "test_size": 0.3, "seed": 0,
        "window": list(SMALL_WINDOW), "spacing_m": 5000, "crs": {}}
    assert small_patches["scale"] == 4
    assert small_patches["thk"].shape == small_patches["topg"].shape == (12, 3, 41, 41)
    with netCDF4.Dataset(folder / "data" / "patches_x4.nc") as ds:
        assert ds["thk"].dimensions == ("patch", "level", "y", "x")
        assert ds["x"].dimensions == ("patch", "x")
        for name in ("thk", "topg", "x", "y", "spacing"):
            assert ds[name].units == "m"
        np.testing.assert_allclose(ds["spacing"][:], [20000, 10000, 5000])
        assert ds["split"].flag_meanings == "train validation test buffer"
        np.testing.assert_array_equal(ds["column"][:5], [0, 1, 2, 3, 0])
        for each in (ds, *ds.variables.values()):  # texts and numbers: any program reads them
            for key in each.ncattrs():
                assert np.asarray(each.getncattr(key)).dtype.kind in "Uif", key


def test_network_constants_come_from_training_patches_only():
    ice_map = plain_map((123, 164))
    row, column = divmod(split_indices(3, 4)["test"][0], 4)
    peak = 41 * row + 7, 41 * column + 7  # that training must not know of
    ice_map["thk"][peak], ice_map["topg"][peak] = 9000, -9000
    data = prepare_data.make_patches(ice_map, 2, window=PLAIN_WINDOW)["data"]
    assert data["thk_max_m"] == 9000  # the original's, of the whole window
    assert 1990 < data["thk_norm_m"] < 2001
    assert 499 < data["topg_norm_m"] < 501


def test_what_is_no_file_of_patches_is_named(folder, small_map):
    with pytest.raises(InputError, match="small.nc: not a file of patches"):
        read_patches(small_map)
    with pytest.raises(InputError, match="absent.nc: no such file"):
        read_patches("absent.nc")


def test_patches_that_are_written_to_while_they_are_read(small_patches, folder, monkeypatch):
    """In place, they are an error; a whole file that takes their place is not read at all."""
    path, numpy_filled = folder / "data" / "patches_x4.nc", np.ma.filled
    for replace in (True, False):
        def filled(values, replace=replace):
            other = folder / "other.nc"
            other.write_bytes(path.read_bytes() + b" ")
            other.replace(path) if replace else path.write_bytes(other.read_bytes())
            return numpy_filled(values)

        with monkeypatch.context() as patched:
            patched.setattr(np.ma, "filled", filled)
            if replace:
                np.testing.assert_array_equal(read_patches(path)["thk"], small_patches["thk"])
            else:
                with pytest.raises(InputError, match="patches_x4.nc: changed while it was read"):
                    read_patches(path)
