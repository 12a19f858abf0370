"""Trainings on whole maps: crops, one network for all stages, fine-tuning, intervals by scale."""

import json
import shutil

import netCDF4
import numpy as np
import pytest
import tensorflow as tf
from conftest import example_settings, plain_map, run_main, write_plain_map

import downscale
import evaluate
import model
import train
import utils
from icesheet import checkpoints, crops, training_maps
from icesheet.command_line import InputError

MAP_SETTINGS = {"crop_cells": 16, "crops_per_epoch": 6}


def made_map(shape, seed=0):
    """A map with relief: a smooth surface over a rough bed, land beside it."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) / 16
    topg = 200 * np.sin(3 * y + seed) * np.cos(2 * x) + 50 * rng.standard_normal(shape)
    return plain_map(shape, topg=topg, thk=np.maximum(800 - 150 * x - topg, 0))


def in_memory(ice_map, factors, weight=1.0):
    """A map as read_training_maps returns it."""
    return {"thk": ice_map["thk"], "topg": ice_map["topg"], "name": "made", "factors": factors,
            "usable": np.ones(ice_map["thk"].shape, bool), "weight": weight}


def map_settings(**changes):
    """Settings of a narrow run on maps, 4x."""
    settings = example_settings(4, "map", **MAP_SETTINGS) | {"shared_weights": True} | changes
    return settings | {"data": settings["data"] | {"degrade": "area"}}


@pytest.fixture
def two_maps(folder, monkeypatch, narrow):
    """Two small maps in the working folder, and small crops."""
    monkeypatch.setattr(train, "MAP_CROPS", {"crop_cells": 16, "crops_per_epoch": 6})
    write_plain_map("a.nc", made_map((40, 48)), {"title": "map A"})
    write_plain_map("b.nc", made_map((20, 30), seed=1), {"citation": "B et al. (2000)"})
    return ["a.nc", "b.nc"]


def test_a_crop_holds_the_means_of_the_map_and_only_cells_that_are_known():
    thk = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    ice_map = in_memory(plain_map((64, 64), thk=thk, topg=-thk), [4])
    crop, bed = training_maps.draw_crop(ice_map, 4, 8, np.random.default_rng(0))
    corner = crop[0, 0] - (1.5 * 64 + 1.5)  # the mean of 4 x 4 cells less that of its first cell
    y, x = divmod(round(float(corner)), 64)
    np.testing.assert_allclose(crop, utils.coarsen_fields(
        thk[None, y:y + 32, x:x + 32], 4, "area")[0], rtol=1e-6)
    np.testing.assert_array_equal(bed, -crop)
    ice_map["usable"][:, 20:] = False  # 20 columns leave room for no crop of 32 cells
    with pytest.raises(InputError, match="made: no crop of 32 x 32 cells"):
        training_maps.draw_crop(ice_map, 4, 8, np.random.default_rng(0))
    crop, _ = training_maps.draw_crop(ice_map, 2, 10, np.random.default_rng(0))  # 20 do for 20
    assert (crop[0, 0] - (0.5 * 64 + 0.5)) % 64 == 0


def test_a_map_smaller_than_a_crop_goes_on_as_its_mirror_image():
    thk = 1 + np.arange(12 * 16, dtype=np.float32).reshape(12, 16)
    ice_map = in_memory(plain_map((12, 16), thk=thk, topg=thk), [1])
    crop, _ = training_maps.draw_crop(ice_map, 1, 16, np.random.default_rng(0))
    np.testing.assert_array_equal(crop[:12], thk)
    np.testing.assert_array_equal(crop[12:], thk[:7:-1])


def test_maps_are_drawn_by_the_root_of_their_room_times_their_weight():
    maps = [in_memory(plain_map((64, 64)), [1, 2]), in_memory(plain_map((16, 16)), [1], weight=2)]
    pairs, probabilities = training_maps.list_resolutions(maps, 16)
    assert pairs == [(0, 1), (0, 2), (1, 1)]  # room for 16, 4 and 1 crops
    np.testing.assert_allclose(probabilities, np.array([4, 2, 2]) / 8)


def test_crops_depend_on_seed_and_epoch_alone():
    maps = [in_memory(made_map((40, 48)), [1, 2]), in_memory(made_map((20, 30), 1), [1])]
    settings = map_settings()

    def draw(settings, epoch):
        return np.stack([field[-1] for field in training_maps.draw_map_crops(
            maps, settings, epoch)])

    first = draw(settings, 3)
    assert first.shape == (2, 6, 16, 16)
    np.testing.assert_array_equal(first, draw(settings, 3))
    assert (first != draw(settings, 4)).any() and (first != draw(settings | {"seed": 1}, 3)).any()


def test_cut_ice_keeps_the_surface_of_grounded_ice_and_leaves_the_sea_behind():
    ice_map = made_map((32, 32))
    thk, topg = (np.stack([ice_map[name]] * 20) for name in ("thk", "topg"))
    topg[10:] -= 3000  # these float
    cut_thk, cut_topg = crops.cut_ice([thk, topg], 1.0, np.random.default_rng(0))
    cut = (cut_thk == 0) & (thk > 0)
    assert 0.1 < cut.mean() < 0.9 and (cut_thk[~cut] == thk[~cut]).all()
    np.testing.assert_allclose((cut_thk + cut_topg)[:10], (thk + topg)[:10], atol=1e-3)
    assert (cut_topg[10:] == topg[10:]).all()
    untouched = crops.cut_ice([thk, topg], 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(untouched, [thk, topg])


def test_all_stages_are_one_network_and_any_number_of_them_is_a_chain():
    settings = map_settings(scale=8)
    layers = model.build_layers(settings)
    assert layers["stage1"] is layers["stage2"] is layers["stage3"]
    assert len(model.list_weights(layers)) == 2 * 3  # kernel and bias of three convolutions
    own = model.build_layers(settings | {"shared_weights": False})
    assert len(model.list_weights(own)) == 3 * 2 * 3
    assert list(model.take_last_stages(layers, 4)) == ["stage2", "stage3"]


def test_a_chain_starts_anew_from_the_true_thickness_of_a_level():
    settings = map_settings(scale=4)
    rng = np.random.default_rng(0)
    layers = model.build_layers(settings)
    for weight in model.list_weights(layers):
        weight.assign(0.1 * rng.standard_normal(weight.shape))
    ice_map = made_map((16, 16))
    thk, topg = ([tf.constant(level) for level in utils.build_levels(
        np.stack([ice_map[name]] * 2), 4, "area", "level")] for name in ("thk", "topg"))
    mixed = model.run_chain(layers, thk[0], topg, settings, restart=(thk, tf.constant([0, 1])))
    whole = model.run_chain(layers, thk[0], topg, settings)
    last = model.run_chain(model.take_last_stages(layers, 2), thk[1], topg[1:], settings)
    np.testing.assert_allclose(mixed[-1][0], whole[-1][0], atol=1e-3)
    np.testing.assert_allclose(mixed[-1][1], last[-1][1], atol=1e-3)
    assert np.abs(whole[-1][1] - last[-1][1]).max() > 0.1


def test_a_training_on_maps_refines_by_every_scale_and_others_start_from_it(
        two_maps, capsys, monkeypatch):
    command = ["--recipe", "map", "--scale", "4", "--run", "places", "--input", *two_maps]
    assert train.main([*command, "--epochs", "2"]) == 0
    settings = checkpoints.read_settings("places")
    assert [(entry["source"], entry["factors"], entry["weight"], len(entry["source_sha256"]))
            for entry in settings["data"]["maps"]] == [("a.nc", [1, 2], 1.0, 64),
                                                       ("b.nc", [1], 1.0, 64)]
    assert settings["data"]["citation"] == "map A; B et al. (2000)"
    assert set(settings["uncertainty_of_scales"]) == {"2"} and "patches" not in settings
    assert "no test patches" in capsys.readouterr().out
    for scale in (2, 4):
        assert downscale.main(["a.nc", "--run", "places", "--scale", str(scale), "--output",
                               "fine.nc"]) == 0
        with netCDF4.Dataset("fine.nc") as ds, netCDF4.Dataset("a.nc") as coarse:
            assert np.isfinite(ds["thk_uncertainty"][...]).any()
            means = utils.coarsen_fields(ds["thk"][...].filled()[None], scale, "area")[0]
            np.testing.assert_allclose(means, coarse["thk"][...], atol=0.01)
    with pytest.raises(InputError, match="has no test patches"):
        evaluate.main(["--run", "places"])

    status, error = run_main(train.main, ["--calibrate", "--run", "places"], capsys)
    assert status == 2 and "give them again with --input" in error
    assert train.main([*command, "--epochs", "2", "--dry-run"]) == 0

    # Another run starts from its weights.
    monkeypatch.setattr(train, "FINE_TUNING", train.FINE_TUNING | {"epochs": 1,
                                                                   "learning_rate": 1e-9})
    tune = ["--start-from", "places", "--run", "mine", "--input", "b.nc"]
    assert train.main(tune) == 0
    places, mine = (checkpoints.read_settings(run) for run in ("places", "mine"))
    assert mine["start_from"] == {"run": "places",
                                  "weights_sha256": checkpoints.hash_weights("places")}
    assert (mine["scale"], mine["epochs"], mine["learning_rate"], mine["recipe"]) == (
        4, 1, 1e-9, "map")
    weights = [model.list_weights(evaluate.load_layers(settings)[0]) for settings in (places, mine)]
    for before, after in zip(*weights, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)
    shutil.rmtree("checkpoints/mine")
    status, error = run_main(train.main, [*tune, "--channels", "thk+topg"], capsys)
    assert status == 2 and "channels normalised -> thk+topg" in error
    status, error = run_main(train.main, ["--start-from", "none", *tune[2:]], capsys)
    assert status == 2 and "checkpoints/none/settings.json" in error

    write_plain_map("b.nc", made_map((20, 30), seed=2))
    status, error = run_main(train.main, [*command, "--epochs", "2"], capsys)
    assert status == 2 and "exists with other settings" in error and "data.maps" in error


@pytest.mark.parametrize("options, message", [
    (["--factors", "1"], "--factors: 1 values for 2 maps"),
    (["--factors", "1", "0"], "--factors 0: expected whole numbers"),
    (["--factors", "1", "4"], "b.nc: 20 x 30 cells, too few for crops of 16 cells"),
    (["--weights", "1", "-1"], "expected numbers above 0"),
    (["--crossval", "3"], "--crossval is for patches")])
def test_what_does_not_fit_is_named(two_maps, options, message, capsys):
    status, error = run_main(train.main, [
        "--recipe", "map", "--scale", "4", "--input", *two_maps, *options], capsys)
    assert status == 2 and message in error and "Traceback" not in error


def test_committed_settings_without_the_new_keys_keep_their_checksum():
    settings = example_settings()
    older = {key: value for key, value in settings.items()
             if key not in ("shared_weights", "cut_ice_share")}
    assert checkpoints.hash_settings(settings) == checkpoints.hash_settings(older)
    assert checkpoints.hash_settings(settings | {"shared_weights": True}) != (
        checkpoints.hash_settings(older))
    assert json.dumps(settings)  # all of it goes into a file
