"""Recipes, batches, the compiled epoch, resuming bit for bit, and what the user is told."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import (QUICK, REPOSITORY, SMALL_WINDOW, example_settings, load_state, run_main,
                      write_plain_map)

import evaluate
import model
import prepare_data
import train
import utils
from icesheet import checkpoints, crops, device, files
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.patches import find_patches_in_split, join_patches, make_chain_inputs, read_patches
from icesheet.scores import METRICS_SCHEMA, compute_rmse_m
from icesheet.settings import SETTING_DESCRIPTIONS
from icesheet.training_runs import parse_training_arguments


def parse(*argv):
    return parse_training_arguments("", tuple(train.RECIPES), list(argv))


def settings_of(*argv):
    return train.make_settings(parse(*argv))


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("scale, epochs, rate", [
    ("4", 100000, 1e-6), ("8", 30000, 1e-4), ("16", 30000, 1e-4)])
def test_original_recipe_is_the_published_one(folder, scale, epochs, rate):
    settings = settings_of("--scale", scale, "--recipe", "original")
    expected = {
        "epochs": epochs, "learning_rate": rate, "schedule": "constant", "initializer": "normal",
        "adam_epsilon": 1e-8, "first_guess": "none", "consistency": False, "gradients": "stage",
        "grid": "fine", "padding": "CONSTANT", "loss": "mse", "channels": "thk+topg",
        "output_scale_m": None, "filters": [64, 32], "kernels": [9, 1, 5], "bed_levels": 1,
        "batch_size": 80, "augment": False, "self_ensemble": False, "validation": False}
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize("recipe", list(train.RECIPES))
def test_every_setting_has_its_meaning_and_only_those(folder, recipe):
    """Some come with the patches and the machine, not with the recipe."""
    settings = settings_of("--scale", "8", "--recipe", recipe)
    later = {"patches", "data", "versions", "later_versions", "n_threads", "uncertainty",
             "uncertainty_of_scales", "start_from", "crop_cells", "crops_per_epoch"}
    assert set(settings) | later == set(SETTING_DESCRIPTIONS)
    assert set(example_settings()) | later == set(SETTING_DESCRIPTIONS)


def test_command_line_changes_the_recipe(folder):
    settings = settings_of("--scale", "4", "--first-guess", "none", "--channels", "thk", "--epochs",
                           "7", "--lr", "0.5", "--batch-size", "3", "--seed", "9", "--run", "mine")
    expected = {"first_guess": "none", "channels": "thk", "epochs": 7, "learning_rate": 0.5,
                "batch_size": 3, "seed": 9, "run": "mine"}
    assert {key: settings[key] for key in expected} == expected
    assert parse().run == "x8"


def test_learning_rates():
    cosine = {"schedule": "cosine", "learning_rate": 1e-3, "epochs": 100}
    assert train.learning_rate(cosine, 1) == 1e-3
    assert train.learning_rate(cosine, 51) == pytest.approx(0.5e-3)
    assert 0 < train.learning_rate(cosine, 100) < 1e-6
    assert train.learning_rate(cosine | {"schedule": "constant"}, 77) == 1e-3


# ---------------------------------------------------------------- batches


def numbered_patches(rows, columns, side=8):
    """Patches (one per window) whose every cell of thk and -topg has a number of its own."""
    window = np.arange(rows * columns * side**2, dtype=np.float32).reshape(
        rows * side, columns * side)
    fields = window.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    thk = np.stack(utils.build_levels(fields, 4, "area", "fine"), axis=1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    return {"thk": thk, "topg": -thk, "row": row, "column": column,
            "x": np.zeros((rows * columns, side)), "y": np.zeros((rows * columns, side))}


def draw(*arguments):
    """crops.draw_training_patches on the fine cells: thk, topg (patch, level, y, x)."""
    return [np.stack(levels, axis=1) for levels in crops.draw_training_patches(*arguments)]


DRAW = example_settings(seed=1, first_guess="bicubic", grid="fine", data={"degrade": "area"})


def test_patches_are_drawn_from_seed_and_epoch_alone():
    patches, numbers = numbered_patches(3, 4), np.arange(12)
    places = crops.find_crop_positions(patches, numbers, DRAW)
    drawn = draw(patches, numbers, places, DRAW, 5)[0]
    again = draw(patches, numbers, places, DRAW, 5)[0]
    np.testing.assert_array_equal(again, drawn)
    for settings, epoch in ((DRAW, 6), (DRAW | {"seed": 2}, 5)):
        other = draw(patches, numbers, places, settings, epoch)[0]
        assert not np.array_equal(other, drawn)

    as_they_are = DRAW | {"augment": False}
    thk, topg = draw(patches, numbers[3:], None, as_they_are, 5)
    np.testing.assert_array_equal(thk[np.argsort(thk[:, -1, 0, 0])], patches["thk"][3:])
    np.testing.assert_array_equal(topg, -thk)
    as_they_are |= {"channels": "thk"}
    thk, topg = draw(patches, numbers, None, as_they_are, 5)
    assert topg.shape == thk.shape and not topg.any()


def test_drawn_patches_are_pieces_of_the_window_turned_with_their_levels_and_bed():
    patches, numbers = numbered_patches(3, 4), np.arange(12)
    places = crops.find_crop_positions(patches, numbers, DRAW)
    window = join_patches(patches["thk"][:, -1], patches)
    pieces = {}  # the eight turns of the 8 x 8 piece at each place
    for y, x in np.ndindex(17, 25):
        piece = window[y:y + 8, x:x + 8]
        for quarter in range(4):
            for flipped in (piece, piece.T):
                pieces[np.rot90(flipped, quarter).tobytes()] = (y, x)
    found = set()
    for epoch in range(1, 9):
        thk, topg = draw(patches, numbers, places, DRAW, epoch)
        found |= {pieces[patch.tobytes()] for patch in thk[:, -1]}
        levels = np.stack(utils.build_levels(thk[:, -1], 4, "area", "fine"), axis=1)
        np.testing.assert_allclose(thk, levels, rtol=1e-6)
        np.testing.assert_array_equal(topg, -thk)
    assert len(found) > 60  # of 96 drawn


def test_drawn_patches_have_their_levels_on_their_own_cells():
    """Of the same pieces as on the fine cells: each level the means of the last."""
    patches, numbers = numbered_patches(3, 4), np.arange(12)
    places = crops.find_crop_positions(patches, numbers, DRAW)
    for settings in (DRAW, DRAW | {"augment": False}):
        thk, topg = crops.draw_training_patches(patches, numbers, places,
                                                settings | {"grid": "level"}, 5)
        fine = draw(patches, numbers, places, settings, 5)[0]
        np.testing.assert_array_equal(thk[-1], fine[:, -1])
        for level, n in zip(thk, (2, 4, 8), strict=True):
            np.testing.assert_allclose(
                level, thk[-1].reshape(12, n, 8 // n, n, 8 // n).mean(axis=(2, 4)), rtol=1e-6)
        for level, bed in zip(thk, topg, strict=True):
            np.testing.assert_allclose(bed, -level, rtol=1e-6)


def test_drawn_patches_never_touch_a_patch_that_is_held_out():
    """Of 3 x 4 patches of 8 x 8 cells the test holds out the one at row 1, column 1."""
    patches = numbered_patches(3, 4)
    numbers = np.delete(np.arange(12), 5)
    places = crops.find_crop_positions(patches, numbers, DRAW)
    assert [tuple(place) for place in places[0]] == [(0, x, 1) for x in range(5)] + [
        (y, 0, 1) for y in range(1, 5)]  # the corner patch can go along the edges alone
    held_out = set(patches["thk"][5, -1].ravel())
    for epoch in range(1, 9):
        thk, _ = draw(patches, numbers, places, DRAW, epoch)
        assert not held_out & set(thk[:, -1].ravel())


def test_patches_of_twice_the_spacing_are_means_of_four_cells_of_the_training_patches():
    """Of 3 x 5 patches the last column is held out: 16 x 16 cells go anywhere in the rest."""
    patches = numbered_patches(3, 5)
    numbers = np.delete(np.arange(15), [4, 9, 14])
    settings = DRAW | {"crop_factors": [2]}
    places = crops.find_crop_positions(patches, numbers, settings)
    centre = places[list(numbers).index(6)]  # cells 8 to 16 both ways: 16 wide around them, +- 4
    assert sorted(map(tuple, centre)) == [(y, x, 2) for y in range(9) for x in range(9)]
    window = join_patches(patches["thk"][:, -1], patches)
    means = {}
    for y, x in np.ndindex(9, 25):
        piece = window[y:y + 16, x:x + 16].reshape(8, 2, 8, 2).mean(axis=(1, 3))
        means[np.sort(piece.ravel()).tobytes()] = x
    for epoch in range(1, 9):
        thk, topg = draw(patches, numbers, places, settings, epoch)
        assert thk.shape == (12, 3, 8, 8)
        assert all(means[np.sort(patch.ravel()).tobytes()] <= 16 for patch in thk[:, -1])
        np.testing.assert_array_equal(topg, -thk)

    both = crops.find_crop_positions(  # 4 does not fit
        patches, numbers, DRAW | {"crop_factors": [1, 2, 4]})
    for place, wide in zip(both, places, strict=True):
        assert {times for *_, times in place} == {1, 2}
        assert (place[:, 2] == 2).sum() == len(wide)


def test_patches_with_no_room_for_a_wider_spacing_are_drawn_at_the_map_s_own():
    """Every window of 8, 16 or 24 cells around a patch that holds no cell that is held out."""
    patches = numbered_patches(4, 5)
    numbers = np.delete(np.arange(20), [3, 10])
    allowed = join_patches(np.isin(np.arange(20), numbers)[:, None, None]
                                    * np.ones((8, 8), bool), patches)

    def room(number, times):
        wide = 8 * times
        y, x = np.array(np.divmod(number, 5)) * 8 + 4 - wide // 2
        return sorted((i, j, times) for i in range(max(y - 4, 0), y + 5)
                      for j in range(max(x - 4, 0), x + 5)
                      if i + wide <= 32 and j + wide <= 40
                      and allowed[i:i + wide, j:j + wide].all())

    n_without = 0
    for factors in ([2, 3], [3], [1, 2]):
        places = crops.find_crop_positions(patches, numbers, DRAW | {"crop_factors": factors})
        for number, found in zip(numbers, places, strict=True):
            expected = [place for times in factors for place in room(number, times)]
            n_without += not expected
            assert sorted(map(tuple, found)) == sorted(expected or room(number, 1))
            assert len(found)
    assert 5 < n_without < 30
    one_row = numbered_patches(1, 5)  # 8 cells high: no wider spacing fits at all
    for settings in (DRAW | {"crop_factors": [2, 3]}, DRAW):
        places = crops.find_crop_positions(one_row, np.arange(5), settings)
        assert [sorted(map(tuple, found)) for found in places] == [
            [(0, x, 1) for x in range(max(8 * n - 4, 0), min(8 * n + 4, 32) + 1)]
            for n in range(5)]


def test_augment_thin_ice_by_hand():
    """From 1000 m of ice a part is taken everywhere; what floats then has gone, the bed is up."""
    thk = np.full((400, 1, 4), [1000, 500, 0, 300], np.float32)
    topg = np.full((400, 1, 4), [0, 100, -50, -250], np.float32)
    before = thk.copy(), topg.copy()
    found, bed = crops.augment_thin_ice([thk, topg], 0.4, np.random.default_rng(0))
    np.testing.assert_array_equal((thk, topg), before)
    thinned = (found != thk).any(axis=(1, 2))
    assert 0.3 < thinned.mean() < 0.5
    np.testing.assert_array_equal(found[~thinned], thk[~thinned])
    np.testing.assert_array_equal(bed[~thinned], topg[~thinned])
    found, bed = found[thinned, 0], bed[thinned, 0]
    rise, taken = bed[:, 0], 1000 - found[:, 0]
    assert 0 <= taken.min() < 100 and 900 < taken.max() <= 1000
    assert (rise >= 0).all() and (rise <= 1.2 * taken + 0.01).all()
    np.testing.assert_allclose(bed, topg[0] + rise[:, None], atol=0.01)
    np.testing.assert_allclose(found[:, 1], np.maximum(500 - taken, 0), atol=0.01)
    assert not found[:, 2].any()
    left = np.maximum(300 - taken, 0)
    afloat = left * 917 / 1027.5 < 250 - rise
    assert 20 < afloat.sum() < len(found) - 5
    np.testing.assert_allclose(found[:, 3], np.where(afloat, 0, left), atol=0.01)


def test_thin_ice_is_in_the_drawn_patches_and_their_levels():
    patches, numbers = numbered_patches(3, 4), np.arange(12)
    places = crops.find_crop_positions(patches, numbers, DRAW)
    plain = draw(patches, numbers, places, DRAW, 5)
    thk, topg = draw(patches, numbers, places, DRAW | {"thin_ice_share": 0.5}, 5)
    changed = (thk != plain[0]).any(axis=(1, 2, 3))
    assert 0 < changed.sum() < 12
    assert (thk[:, -1] <= plain[0][:, -1] + 1e-3).all() and not np.array_equal(topg, plain[1])
    levels = np.stack(utils.build_levels(thk[:, -1], 4, "area", "fine"), axis=1)
    np.testing.assert_allclose(thk, levels, rtol=1e-5, atol=1e-3)


# ---------------------------------------------------------------- the step and the epoch


def random_fields(grid, n=6, size=16):
    """Thickness and bed at every level of a 4x chain: two lists."""
    rng = np.random.default_rng(0)
    sizes = (size, size, size) if grid == "fine" else (size // 4, size // 2, size)
    return [[tf.constant(rng.uniform(*extent, (n, side, side)), tf.float32) for side in sizes]
            for extent in ((0, 3000), (-1000, 1000))]


def small_chain(grid, **changes):
    """Settings and layers of a chain whose stages learn by themselves, as in the original."""
    settings = example_settings(grid=grid, **{
        "first_guess": "bicubic", "consistency": False, "gradients": "stage",
        "output_scale_m": None, "filters": [4], "kernels": [3, 3], "initializer": "normal"}
        | changes,
        data={"thk_norm_m": 3000.0, "topg_norm_m": 1000.0, "degrade": "area"})
    return settings, model.build_layers(settings)


def adam(layers, rate):
    """Adam for these layers, as build_objects has it: built before anything is compiled."""
    optimizer = tf.keras.optimizers.Adam(rate)
    optimizer.build(model.list_weights(layers))
    return optimizer


@pytest.mark.parametrize("grid", ["fine", "level"])
def test_one_step_is_an_adam_step_of_each_stage_on_its_own_mse(grid):
    settings, layers = small_chain(grid)
    expected = model.build_layers(settings)
    thk, topg = random_fields(grid)
    step = train.make_train_step(layers, adam(layers, 1e-2), settings)
    mse = step(thk, topg).numpy()

    before = thk[0]
    for stage, convs in enumerate(expected.values(), 1):
        weights = [weight for conv in convs.values() for weight in conv.trainable_variables]
        with tf.GradientTape() as tape:
            prediction = model.run_stage(convs, before, topg[stage - 1], topg[stage], "area",
                                         settings)
            loss = tf.reduce_mean(tf.square((prediction - thk[stage]) / 3000))
        assert mse[stage - 1] == pytest.approx(float(loss) * 3000**2, rel=1e-5)
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            # Adam's first step (Kingma & Ba 2015, with their epsilon-hat of 1e-7)
            weight.assign_sub(1e-2 * gradient / (tf.abs(gradient) + 1e-7 / np.sqrt(1 - 0.999)))
        before = prediction.numpy()
    for found, wanted in zip(model.list_weights(layers), model.list_weights(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_losses_by_hand():
    """One bias of 3000 m a unit, on flat ice that is 30 m too thick in a patch, 400 m too thin in
    another: the mean square wants it higher, the mean root hardly minds the larger error.
    """
    thk = [np.full((2, n, n), 1000.0, "f") for n in (4, 8)]
    thk[1] += np.reshape([-30, 400], (2, 1, 1)).astype("f")
    topg = [np.zeros_like(level) for level in thk]
    for loss, slope in (
            ("mse", 3000 * 2 * (30 - 400) / 2 / 3000**2),  # d/db of mean square over 3000 m squared
            ("rmse", 3000 * (30 / np.sqrt(901) - 400 / np.sqrt(160001)) / 2)):
        settings, layers = small_chain("level", scale=2, loss=loss, filters=[], kernels=[1],
                                       initializer="he")
        bias = layers["stage1"]["conv1"].bias
        optimizer = tf.keras.optimizers.SGD(1.0)
        optimizer.build(model.list_weights(layers))
        step = train.make_train_step(layers, optimizer, settings)
        mse = step(*([tf.constant(level) for level in field] for field in (thk, topg)))
        np.testing.assert_allclose(mse, [(30**2 + 400**2) / 2], rtol=1e-5)
        np.testing.assert_allclose(bias, [-slope], rtol=1e-3)


def test_loss_of_a_perfect_patch_has_a_gradient():
    """The root of no error at all has a slope without end; 1 m2 more has not."""
    settings, layers = small_chain("level", scale=2, loss="rmse", initializer="he")
    flat = [tf.fill((1, n, n), 1000.0) for n in (4, 8)]
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build(model.list_weights(layers))
    before = [weight.numpy() for weight in model.list_weights(layers)]
    assert train.make_train_step(layers, optimizer, settings)(flat, flat).numpy() == [0]
    for weight, same in zip(model.list_weights(layers), before, strict=True):
        np.testing.assert_array_equal(weight, same)


def test_errors_of_stages_and_patches_by_hand():
    settings, layers = small_chain("level", initializer="he")  # untrained: its first guess
    thk = [tf.constant(np.float32(np.reshape(means, (2, 1, 1)) * np.ones((2, n, n))))
           for means, n in (((100, 500), 2), ((110, 500), 4), ((70, 540), 8))]
    errors = train.compute_stage_mse(layers, thk, [0 * level for level in thk], settings)
    np.testing.assert_allclose(errors, [[10**2, 0], [30**2, 40**2]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", ["fine", "level"])
def test_epoch_sees_every_patch_once_the_last_smaller_batch_too(grid):
    """At a learning rate of 0 the epoch's RMSE is that of all 6 patches, in batches of 4 and 2."""
    settings, layers = small_chain(grid)
    thk, topg = random_fields(grid)
    step = train.make_train_step(layers, adam(layers, 0.0), settings)
    rmse_m, finite = train.compile_epoch(step, layers, settings)(thk, topg)
    predictions = model.run_chain(layers, thk[0], topg, settings)
    for stage, prediction in enumerate(predictions, 1):
        assert float(rmse_m[stage - 1]) == pytest.approx(
            compute_rmse_m(prediction, thk[stage]), rel=1e-4)
    assert finite


@pytest.mark.parametrize("grid", ["fine", "level"])
def test_nothing_is_traced_or_added_after_the_first_epoch(grid):
    settings, layers = small_chain(grid)
    optimizer = adam(layers, 1e-3)
    step = train.make_train_step(layers, optimizer, settings)
    epoch = train.compile_epoch(step, layers, settings)
    counts = []
    for number in range(1, 6):
        thk, topg = random_fields(grid)
        optimizer.learning_rate.assign(1e-3 / number)
        epoch(thk, topg)
        graph = epoch.get_concrete_function(thk, topg).graph
        counts.append((epoch.experimental_get_tracing_count(), len(graph.get_operations()),
                       len(optimizer.variables), len(model.list_weights(layers))))
    assert counts == [counts[0]] * 5
    assert counts[0][0] == 1


def test_training_beats_bicubic(small_patches, small_settings):
    train.train(small_patches, small_settings | {
        "epochs": 60, "first_guess": "bicubic", "consistency": False, "output_scale_m": None})
    assert evaluate.evaluate("tiny", make_figures=False)["test"]["mse_ratio"]["bicubic"] < 0.6


def test_seconds_of_training_pass_the_published_ratio_on_the_real_grid(
        real_grid, folder, monkeypatch):
    """The author's weights leave 0.36 of bicubic's MSE on these 60 patches at 8x."""
    monkeypatch.setitem(train.RECIPES["default"], "self_ensemble", False)  # which would gain more
    grid = str(real_grid("antarctica_bedmachine_5km.nc"))
    assert train.main(["--scale", "8", "--epochs", "6", "--seeds", "1", "--input", grid]) == 0
    metrics = json.loads((folder / "results" / "x8" / "metrics.json").read_text())
    assert metrics["test"]["errors"]["bicubic"]["mse"] == pytest.approx(1.68e-3, rel=0.005)
    assert metrics["test"]["mse_ratio"]["bicubic"] < 0.36
    assert metrics["test"]["mse_ratio"]["surface_minus_bed"] < 1
    assert metrics["citation"].startswith("Morlighem M. et al. (2020)")


# ---------------------------------------------------------------- checkpoints


def final_state(run, which="latest"):
    """All numbers of a run's checkpoint by name."""
    path = tf.train.latest_checkpoint(files.CHECKPOINTS / run / which)
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
            if "OBJECT_GRAPH" not in name and not name.startswith("settings/")}


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    assert len(one) > 20
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def start(*argv):
    """Start train.py as a process of its own, narrow, that saves after every epoch."""
    code = ("import sys; sys.path.insert(0, sys.argv.pop(1)); import train; "
            "from icesheet import command_line; "
            "train.RECIPES['default'].update(filters=[4], kernels=[3, 3], self_ensemble=False); "
            "train.SAVE_EVERY_S = 0; command_line.run_script(train.main)")
    return subprocess.Popen([sys.executable, "-u", "-c", code, str(REPOSITORY), *argv], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process, text):
    """Read what a process prints up to a line with `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without '{text}': {process.stderr.read()}")


def test_killed_and_stopped_runs_end_bit_for_bit_as_one_never_stopped(
        small_patches, narrow, capsys, monkeypatch):
    """All of them on the number of threads of the suite: see conftest.py."""
    monkeypatch.setitem(train.RECIPES["default"], "self_ensemble", False)  # as in start
    command = ["--patches", "data/patches_x4.nc", "--epochs", "14", "--batch-size", "3",
               "--seeds", "1", "--run"]
    assert train.main([*command, "whole"]) == 0

    killed = start(*command, "killed")
    assert killed.stdout.readline().startswith("run killed: 4x")  # TensorFlow greets nobody
    wait_for(killed, "epoch     3/14")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and killed.stderr.read() == ""
    stop_at = len(files.read_table(files.CHECKPOINTS / "killed" / "history.csv")) + 2
    with monkeypatch.context() as context:
        context.setattr(train.training_runs, "show_epoch", lambda history, n_epochs: (
            len(history) == stop_at and os.kill(os.getpid(), signal.SIGINT)))  # Ctrl-C
        assert train.main([*command, "killed"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().out
    assert train.main([*command, "killed"]) == 0
    assert f"resuming after epoch {stop_at}\n" in capsys.readouterr().out

    for which in ("latest", "best"):
        names = {Path(tf.train.latest_checkpoint(files.CHECKPOINTS / run / which)).name
                 for run in ("whole", "killed")}
        assert len(names) == 1
    assert_same_state(final_state("whole"), final_state("killed"))
    for run in ("whole", "killed"):
        with open(files.CHECKPOINTS / run / "history.csv", newline="") as file:
            rows = [{key: value for key, value in row.items() if key != "seconds"}
                    for row in csv.DictReader(file)]
        assert [float(row["epoch"]) for row in rows] == list(range(1, 15))
        if run == "whole":
            expected = rows
    assert rows == expected


def test_same_seed_same_numbers(trained, small_patches):
    device.set_up_device()  # as for `tiny`, with seed 0
    for run, seed in (("again", 0), ("other", 5)):
        train.train(small_patches, trained | {"run": run, "seed": seed})
    assert_same_state(final_state("tiny"), final_state("again"))
    one, other = (next(value for name, value in final_state(run).items() if "conv1/_kernel" in name)
                  for run in ("tiny", "other"))
    assert not np.array_equal(one, other)


def test_best_checkpoint_is_the_epoch_of_least_validation_error(small_patches, small_settings):
    small_settings |= {"epochs": 30, "learning_rate": 0.02, "self_ensemble": False,
                       "schedule": "constant"}
    train.train(small_patches, small_settings)
    rows = files.read_table(files.CHECKPOINTS / "tiny" / "history.csv")
    validation = [row["validation_rmse_m_stage2"] for row in rows]
    path = tf.train.latest_checkpoint(files.CHECKPOINTS / "tiny" / "best")
    assert path.endswith(f"ckpt-{np.argmin(validation) + 1}")
    layers, _ = evaluate.load_layers(small_settings)
    numbers = find_patches_in_split(small_patches, "validation")
    thk, topg = make_chain_inputs(small_patches, numbers, small_settings)
    predicted = model.run_chain(layers, thk[0], topg, small_settings)[-1]
    assert compute_rmse_m(predicted, small_patches["thk"][numbers, -1]) == pytest.approx(
        min(validation), rel=1e-4)


def test_a_falling_learning_rate_ends_at_its_best(small_patches, small_settings):
    """Whatever the validation patches say: here they are ice and the others ocean."""
    small_settings |= {"epochs": 12, "learning_rate": 0.02, "schedule": "cosine"}
    held_out = find_patches_in_split(small_patches, "validation")
    small_patches["thk"][held_out, -1] = 0
    train.train(small_patches, small_settings)
    rows = files.read_table(files.CHECKPOINTS / "tiny" / "history.csv")
    validation = [row["validation_rmse_m_stage2"] for row in rows]
    epoch = checkpoints.restore_best({}, checkpoints.read_settings("tiny"))["epoch"]
    assert epoch == 12 != np.argmin(validation) + 1
    last = load_state(small_settings)["objects"]["layers"]
    for one, other in zip(model.list_weights(last), model.list_weights(
            evaluate.load_layers(small_settings)[0]), strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------- calibration


def test_a_trained_run_is_calibrated_and_again_when_asked(quick_run, folder):
    """The fit is part of the run, but no setting of it: the same command goes on with the run."""
    said, small_patches = quick_run, read_patches("data/patches_x4.nc")
    path = folder / "checkpoints" / "x4" / "settings.json"
    settings = json.loads(path.read_text())
    fit = settings.pop("uncertainty")
    assert fit["n_held_out"] == len(find_patches_in_split(small_patches, "validation"))
    # A patch of open ocean alone is determined: it is not counted.
    assert fit["n_patches"]["all"] == len(find_patches_in_split(small_patches, "train")) - 1
    assert "calibrated on" in said and "90 % interval" in said
    metrics = json.loads((folder / "results" / "x4" / "metrics.json").read_text())
    assert 0 < metrics["uncertainty"]["by_surface_type"]["all"]["coverage"]["0.9"] <= 1
    files.write_json(path, settings)
    before = (folder / "checkpoints" / "x4" / "history.csv").read_bytes()
    assert train.main(["--calibrate", "--run", "x4"]) == 0
    assert json.loads(path.read_text()) == settings | {"uncertainty": fit}
    assert (folder / "checkpoints" / "x4" / "history.csv").read_bytes() == before
    assert train.main(QUICK) == 0
    assert json.loads(path.read_text())["uncertainty"] == fit


def test_calibration_of_what_cannot_be_calibrated_is_one_line(small_patches, folder, capsys):
    status, said = run_main(train.main, ["--calibrate", "--run", "absent"], capsys)
    assert status == 2 and "no such file; train the run first" in said
    assert said.count("\n") == 1
    files.write_json(files.CHECKPOINTS / "tiny" / "settings.json", example_settings(
        data=small_patches["data"], self_ensemble=False))
    status, said = run_main(train.main, ["--calibrate", "--run", "tiny"], capsys)
    assert status == 2 and "self_ensemble = false" in said and said.count("\n") == 1


def test_original_trains_on_validation_patches_too_and_can_go_on(small_patches, narrow, capsys):
    command = ["--patches", "data/patches_x4.nc", "--recipe", "original", "--run", "old",
               "--seeds", "1", "--epochs"]  # --seeds: no figures
    for epochs in ("2", "4"):
        assert train.main([*command, epochs]) == 0
    assert "resuming after epoch 2" in capsys.readouterr().out
    metrics = json.loads((files.RESULTS / "old" / "metrics.json").read_text())
    assert (metrics["n_train"], metrics["n_validation"], metrics["n_test"]) == (8, 0, 4)
    assert len(files.read_table(files.CHECKPOINTS / "old" / "history.csv")) == 4


def test_surface_minus_bed_gives_way_where_the_bed_is_left_out(folder):
    assert settings_of("--scale", "8", "--recipe", "map")["first_guess"] == "surface-minus-bed"
    for recipe in ("default", "map"):
        bare = ["--scale", "8", "--recipe", recipe, "--channels", "thk"]
        assert settings_of(*bare)["first_guess"] == "bicubic"
        asked = settings_of(*bare, "--first-guess", "surface-minus-bed")
        assert asked["first_guess"] == "surface-minus-bed"
    assert settings_of("--scale", "8", "--no-consistency")["consistency"] is False
    assert settings_of("--scale", "8", "--gradients", "stage")["gradients"] == "stage"


def write_metrics(run, n_test, **rmse_m):
    """A metrics.json with no more than the table of runs needs."""
    errors = {method: {"rmse_m": float(value), "mse": 0, "mae_m": 0, "bias_m": 0}
              for method, value in rmse_m.items()}
    scores = {"errors": errors, "win_rate": {}}
    files.write_json(files.RESULTS / run / "metrics.json", dict.fromkeys(METRICS_SCHEMA, "-") | {
        "n_test": n_test, "test": scores, "source": "made.nc", "degrade": "area", "scale": 4,
        "recipe": "default", "synthetic": False, "epoch": 1, "split_seed": 0, "settings": {},
        "stages": [scores | {"from_km": 20, "to_km": 5}]})


def test_table_of_folds_and_seeds_by_hand(folder, capsys):
    """Two folds of 10 and 30 patches, two seeds each; bicubic 100 m in both."""
    for run, n_test, model_m in (("a", 10, 10), ("a1", 10, 20), ("b", 30, 30), ("b1", 30, 50)):
        write_metrics(run, n_test, bicubic=100, surface_minus_bed=50, model=model_m)
    evaluate.write_summary_table("both", {"fold 1": ["a", "a1"], "fold 2": ["b", "b1"]})
    with open(folder / "results" / "both.csv", newline="") as file:
        first, second, mean, pooled = list(csv.DictReader(file))
    assert [row["part"] for row in (first, second, mean, pooled)] == [
        "fold 1", "fold 2", "mean of folds", "all patches"]
    # Medians over two seeds are means; ranges are highest less lowest.
    assert float(first["model_rmse_m"]) == pytest.approx(np.sqrt((100 + 400) / 2))
    assert float(first["mse_ratio_bicubic"]) == pytest.approx(0.025)
    assert float(first["mse_ratio_bicubic_range"]) == pytest.approx(0.03)
    assert float(second["mse_ratio_bicubic"]) == pytest.approx(0.17)
    assert float(mean["mse_ratio_bicubic"]) == pytest.approx((0.025 + 0.17) / 2)
    assert float(mean["mse_ratio_bicubic_std"]) == pytest.approx(0.145 / np.sqrt(2))  # ddof 1
    assert float(mean["mse_ratio_surface_minus_bed"]) == pytest.approx(4 * (0.025 + 0.17) / 2)
    seeds = [(10 * 10**2 + 30 * 30**2) / 40, (10 * 20**2 + 30 * 50**2) / 40]
    assert float(pooled["mse_ratio_bicubic"]) == pytest.approx(np.mean(seeds) / 100**2)
    assert float(pooled["mse_ratio_bicubic_range"]) == pytest.approx(np.ptp(seeds) / 100**2)
    assert (pooled["n_test"], pooled["seeds"]) == ("40", "2")
    said = capsys.readouterr().out
    assert "0.025 ± 0.030" in said
    assert f"± {float(mean['mse_ratio_bicubic_std']):.3f}" in said

    write_metrics("c", 10, bicubic=0, model=1)  # nothing to compare with, and no bed
    evaluate.write_summary_table("alone", {"test": ["c"]})
    assert "nan" not in capsys.readouterr().out.lower()
    with open(folder / "results" / "alone.csv", newline="") as file:
        assert not [key for key in next(csv.DictReader(file)) if key.startswith("mse_ratio")]


def test_other_settings_leave_the_run_alone_and_are_named(quick_run, capsys):
    before = final_state("x4")
    for dry_run in ([], ["--dry-run"]):
        status, said = run_main(train.main, [*QUICK, "--lr", "0.01", "--seed", "3", *dry_run],
                                capsys)
        assert status == 2
        assert "learning_rate 0.002 -> 0.01; seed 0 -> 3" in said
    assert_same_state(before, final_state("x4"))
    assert train.main([*QUICK, "--dry-run"]) == 0
    assert "run x4" in [line[-6:] for line in capsys.readouterr().out.splitlines()]
    status, said = run_main(train.main, ["--scale", "8", "--run", "x4"], capsys)
    assert status == 2
    assert "run x4 was trained for 4x, not for 8x" in said
    status, said = run_main(train.main, [*QUICK, "--restart", "--input", "absent.nc"], capsys)
    assert (status, said) == (2, "error: absent.nc: no such file\n")
    assert_same_state(before, final_state("x4"))
    assert train.main([*QUICK, "--lr", "0.01", "--restart"]) == 0
    assert checkpoints.read_settings("x4")["learning_rate"] == 0.01


def test_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(
        small_patches, narrow, capsys, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(train, "learning_rate", lambda settings, epoch: 1e-3 if epoch < 4 else 1e30)
    assert train.main(["--scale", "4", "--epochs", "9", "--batch-size", "4"]) == 1
    said = capsys.readouterr().err
    assert "not a number" in said
    assert "latest/ckpt-3 is kept" in said
    state = final_state("x4")
    assert all(np.isfinite(values).all() for name, values in state.items()
               if values.dtype == np.float32 and "best_rmse_m" not in name)  # that is not used here


# ---------------------------------------------------------------- as a user


def test_result_of_a_synthetic_run_says_so(folder, capsys, narrow, small_sheet):
    assert train.main(["--scale", "2", "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "data/patches_x2.nc: no such file; patches of synthetic ice sheet, seed 0" in said
    assert said.count("SYNTHETIC") >= 3
    assert "results/x2/comparison.png" in said
    assert json.loads((folder / "results/x2/metrics.json").read_text())["synthetic"] is True


def test_runs_on_other_maps_keep_to_themselves(quick_run, folder, capsys):
    """--input with another map: a run that exists refuses, a new one makes patches of its own."""
    other = prepare_data.make_synthetic_map(seed=8, shape=(104, 206), spacing_m=20e3)
    path = write_plain_map(folder / "other.nc", other)
    status, said = run_main(train.main, [*QUICK, "--input", path], capsys)
    assert status == 2
    assert "run x4 was trained on small.nc, not on other.nc" in said
    assert train.main(["--scale", "4", "--input", str(path), "--run", "new", "--epochs", "1",
                       "--seeds", "1"]) == 0
    made = checkpoints.read_settings("new")["patches"]
    assert re.fullmatch(r"data/patches_x4_[0-9a-f]{8}.nc", made)
    assert read_patches(made)["data"]["source"] == "other.nc"
    assert read_patches("data/patches_x4.nc")["data"]["source"] == "small.nc"


def test_another_run_on_the_same_patches(small_patches, narrow, capsys):
    """The scale is that of the patches; settings remember the file."""
    assert train.main(["--patches", "data/patches_x4.nc", "--run", "other", "--recipe", "map",
                       "--epochs", "1", "--seeds", "1"]) == 0
    settings = checkpoints.read_settings("other")
    assert (settings["scale"], settings["patches"]) == (4, "data/patches_x4.nc")
    os.utime("results/other/metrics.json", (0, 0))  # as a copy or a server's clock may have it
    Path("data/patches_x4.nc").rename("data/moved.nc")
    assert train.main(["--patches", "data/moved.nc", "--run", "other", "--recipe", "map",
                       "--epochs", "1", "--seeds", "1"]) == 0
    assert "finished already" in capsys.readouterr().out  # the same patches at another place


def test_named_run_is_not_trained_on_the_synthetic_sheet_unless_asked(folder, capsys, narrow,
                                                                      small_sheet):
    for arguments in ([], ["--seeds", "2"]):
        status, said = run_main(train.main, ["--run", "mine", *arguments], capsys)
        assert status == 2
        assert "--synthetic" in said and said.count("\n") == 1
    assert not list(folder.iterdir())
    assert train.main(["--scale", "2", "--run", "mine", "--synthetic", "--epochs", "1",
                       "--seeds", "1"]) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    status, said = run_main(train.main, ["--scale", "2", "--run", "wide"], capsys)
    assert status == 2
    assert "data/patches_x2.nc: patches of the synthetic ice sheet" in said


def test_dry_run_prints_settings_with_their_sources_and_writes_nothing(
        small_patches, folder, narrow, capsys):
    files_before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    expected = {
        "run": '"x4"  default', "scale": "4  command line, --scale", "lr": None,
        "learning_rate": "0.01  command line, --lr", "filters": "[4]  recipe map",
        "channels": '"thk"  command line, --channels', "consistency": "true  recipe map",
        "first_guess": '"bicubic"  recipe map, as far as --channels thk allows',
        "seed": "0  default", "patches": '"data/patches_x4.nc"  default',
        "data.degrade": '"bicubic"  file data/patches_x4.nc',
        "data.densities": "[910.0, 1028.0]  command line, --densities",
        "n_threads": f"{device.count_threads()}  this machine"}
    assert train.main(["--scale", "4", "--recipe", "map", "--lr", "0.01", "--channels", "thk",
                       "--densities", "910", "1028", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    found = dict(re.findall(r"^(\S+) +(.*)$", printed, re.MULTILINE))
    assert {key: re.sub("  +", "  ", found.get(key, "")) or None for key in expected} == expected
    assert set(found) >= set(settings_of("--scale", "4", "--recipe", "map"))
    assert printed.endswith("dry run: nothing was trained or written\n\n")

    assert train.main(["--scale", "8", "--synthetic", "--crossval", "2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("nothing was trained or written") == 2
    assert "known when the patches are made" in printed
    assert files_before == {path: path.read_bytes() for path in folder.rglob("*")
                            if path.is_file()}
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("arguments, message", [
    (["--scale", "5"], "invalid choice: 5"),
    (["--recipe", "best"], "invalid choice: 'best'"),
    (["--lr", "-1"], "--lr -1: expected a number above 0"),
    (["--epochs", "0"], "--epochs 0: expected a number above 0"),
    (["--seed", "4294967296"], "--seed 4294967296: out of range"),
    (["--seed", "4294967295", "--seeds", "2"], "expected 0 to 4294967294"),
    (["--seeds", "0"], "--seeds 0: expected a number above 0"),
    (["--crossval", "1"], "--crossval 1: expected 2 or more folds"),
    (["--crossval", "2"], "2 folds of 1 blocks"),
    (["--run", "../x8"], "expected letters, digits"),
    (["--input", "absent.nc", "--run", "new"], "absent.nc: no such file"),
    (["--patches", "absent.nc"], "absent.nc: no such file"),
    (["--synthetic", "--patches", "data/patches_x4.nc"], "--synthetic cannot be combined"),
    (["--calibrate", "--restart", "--lr", "0.1", "--no-consistency"],
     "--calibrate only fits the prediction intervals of a run that is trained; remove "
     "--no-consistency, --lr, --restart"),
])
def test_bad_usage_is_one_line_and_status_2(arguments, message, small_patches, capsys):
    status, said = run_main(train.main, ["--scale", "4", *arguments], capsys)
    assert status == 2
    assert message in said
    assert said.count("\n") == 1


def test_no_bed_offers_thickness_only(folder, capsys, narrow):
    sheet = prepare_data.make_synthetic_map(seed=3, shape=(123, 164))
    prepare_data.prepare(2, sheet | {"topg": None}, window=SMALL_WINDOW)
    command = [*QUICK, "--scale", "2"]
    status, said = run_main(train.main, command, capsys)
    assert status == 2
    assert "no bed (topg); train on thickness alone with --channels thk" in said
    assert train.main([*command, "--channels", "thk"]) == 0


def test_maps_without_relief_or_ice_give_no_nan_and_no_warning(folder, narrow):
    """A slab on a flat bed at 0 m; no ice but in a test patch. Warnings of numpy are errors."""
    slab = prepare_data.make_synthetic_map(seed=3, shape=(123, 164))
    slab["thk"][:], slab["topg"][:] = 1000, 0
    test = find_patches_in_split(prepare_data.make_patches(slab, 2, window=SMALL_WINDOW), "test")[0]
    bare = slab | {"thk": np.zeros_like(slab["thk"])}
    rows, columns = (slice(41 * n, 41 * n + 41) for n in divmod(int(test), 4))
    bare["thk"][rows, columns] = 500
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        prepare_data.prepare(2, slab, window=SMALL_WINDOW, output="data/slab.nc")
        assert train.main([*QUICK, "--scale", "2", "--patches", "data/slab.nc", "--run",
                           "slab"]) == 0
        with pytest.raises(InputError, match="no ice in the patches to train on"):
            prepare_data.prepare(2, bare, window=SMALL_WINDOW, output="data/bare.nc")
    for path in (folder / "results/slab").glob("metrics.*"):
        assert "nan" not in path.read_text().lower()


def test_ctrl_c_while_tensorflow_is_imported_is_no_traceback():
    code = ("import os, signal, sys\n"
            "class Stop:\n    def find_spec(self, name, *args):\n"
            "        if name == 'tensorflow.python': os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Stop())\nimport model")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True,
                          text=True)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.split() == ["stopped"]


def test_checkpoint_that_does_not_fit_is_named(trained, small_patches):
    for changes in ({"filters": [9, 4]}, {"filters": [8, 8, 4], "kernels": [5, 1, 1, 3]}):
        with pytest.raises(InputError, match="not the layers that settings.json describes"):
            train.train(small_patches, trained | changes)


def test_full_disk_ends_a_training_in_one_line(small_patches, folder, narrow, capfd):
    """A limit on file size stands in for the full disk: the first checkpoint does not fit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        status, said = run_main(train.main, QUICK, capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and said.count("\n") == 1
    assert said.startswith("error: checkpoints/x4: the checkpoint cannot be written; is the disk")


def test_unwritable_checkpoints_are_one_line(small_patches, folder, narrow, capsys):
    (folder / "checkpoints").write_text("in the way of a folder")
    status, said = run_main(train.main, QUICK, capsys)
    assert status == 2
    assert said.count("\n") == 1
