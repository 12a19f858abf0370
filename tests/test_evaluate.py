"""Metrics by hand, a real evaluation, the comparison of runs, and what is refused."""

import csv
import functools
import json
import shutil

import numpy as np
import pytest
from conftest import SMALL_WINDOW, example_settings, run_main

import evaluate
import model
import prepare_data
import train
import utils
from icesheet import checkpoints, command_line, files, map_files, uncertainty
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.patches import find_patches_in_split, read_patches
from icesheet.scores import METHOD_STYLES, flatten_metrics, print_metrics_table, print_score_table

# ---------------------------------------------------------------- metrics


def flat_patches(*levels_m, topg_m=None, side=41):
    """Two patches side by side, flat at each level, of the given thickness and bed [m]."""
    thk, topg = (None if levels is None else np.float32(np.ones((2, 1, side, side)) * np.reshape(
        levels, (1, -1, 1, 1))) for levels in (levels_m, topg_m))
    x = 5000.0 * np.arange(2 * side).reshape(2, side)
    return {"thk": thk, "topg": topg, "split": np.array([2, 2], np.int8), "x": x, "y": x[[0, 0]],
            "row": np.array([0, 0]), "column": np.array([0, 1])}


FLAT = example_settings(run="flat", seed=3, self_ensemble=False,
                        data={"source": "here", "thk_max_m": 1000.0})


def test_metrics_by_hand():
    patches = flat_patches(100.0, 120.0, 140.0)
    predictions = np.stack([np.full((2, 41, 41), 110.0), np.full((2, 41, 41), 130.0)])
    predictions[1, 1] = 190  # the second patch is worse than bicubic
    metrics = evaluate.compute_metrics(predictions, patches, FLAT, np.arange(2))
    volume_km3 = 2 * 41**2 * 25e6 / 1e9  # of 1 m of ice
    test = metrics["test"]
    assert test["errors"]["bicubic"] == pytest.approx({
        "mse": 1.6e-3, "rmse_m": 40, "mae_m": 40, "bias_m": -40,
        "volume_error_km3": -40 * volume_km3, "volume_error_percent": -100 * 40 / 140,
        "false_ice_km2": 0, "missed_ice_km2": 0, "ice_area_error_percent": 0})
    assert test["errors"]["model"] == pytest.approx({
        "mse": (10**2 + 50**2) / 2 / 1000**2, "rmse_m": np.sqrt(1300), "mae_m": 30, "bias_m": 20,
        "volume_error_km3": 20 * volume_km3, "volume_error_percent": 100 * 20 / 140,
        "false_ice_km2": 0, "missed_ice_km2": 0, "ice_area_error_percent": 0})
    assert test["mse_ratio"] == {"bicubic": pytest.approx(1300 / 1600)}
    assert test["win_rate"] == {"bicubic": 0.5}
    assert test["n_cells"] == 2 * 41**2
    first, second = metrics["stages"]
    assert (first["from_km"], first["to_km"], second["from_km"], second["to_km"]) == (20, 10, 10, 5)
    assert first["errors"]["bicubic"]["rmse_m"] == pytest.approx(20)
    assert first["errors"]["model"]["rmse_m"] == pytest.approx(10)
    assert second["errors"] == test["errors"]


def test_surface_minus_bed_by_hand():
    """Bed 150, 120, 100 m under 900 m of ice at level 0: the surface is at 1050 m."""
    patches = flat_patches(900.0, 940.0, 1000.0, topg_m=[150.0, 120.0, 100.0])
    predictions = np.stack([np.full((2, 41, 41), 945.0), np.full((2, 41, 41), 1025.0)])
    predictions[1, 1] = 1100
    metrics = evaluate.compute_metrics(predictions, patches, FLAT, np.arange(2))
    first, test = metrics["stages"][0], metrics["test"]
    assert first["errors"]["surface_minus_bed"]["bias_m"] == pytest.approx(930 - 940)
    assert "surface_minus_bed_consistent" not in first["errors"]  # of the whole chain alone
    assert test["errors"]["surface_minus_bed"]["bias_m"] == pytest.approx(-50)
    assert test["mse_ratio"]["surface_minus_bed"] == pytest.approx((25**2 + 100**2) / 2 / 50**2)
    assert (test["win_rate"]["surface_minus_bed"], test["win_rate"]["bicubic"]) == (0.5, 0.5)
    assert [(row["method"], row["rmse_m"]) for row in flatten_metrics(metrics)[:2]] == [
        ("bicubic", pytest.approx(40)), ("surface_minus_bed", pytest.approx(10))]


def test_surface_minus_bed_made_consistent_by_hand():
    patches = flat_patches(500.0, 500.0, 500.0, topg_m=[0.0, 0.0, 0.0], side=48)
    patches["topg"][:, 2, :, ::2] = -100  # half of the cells lie 100 m deeper: they hold more ice
    settings = example_settings(run="flat", data={"degrade": "area", "thk_max_m": 1000.0})
    predictions = np.full((2, 2, 48, 48), 500.0)
    test = evaluate.compute_metrics(predictions, patches, settings, np.arange(2))["test"]
    # 500 and 600 m where 500 are right; scaled by 500 / 550
    assert test["errors"]["surface_minus_bed"]["rmse_m"] == pytest.approx(np.sqrt(100**2 / 2))
    mended = test["errors"]["surface_minus_bed_consistent"]
    assert mended["rmse_m"] == pytest.approx(50 * 500 / 550, rel=1e-3)
    assert mended["bias_m"] == pytest.approx(0, abs=0.01)


def test_surface_minus_bed_starts_from_no_ice_where_the_spline_falls_below_zero():
    patches = flat_patches(-30.0, 0.0, 0.0, topg_m=[200.0, 150.0, 100.0])
    by_method = model.add_baselines(np.zeros((2, 41, 41)), patches, np.arange(2), FLAT)
    np.testing.assert_array_equal(by_method["surface_minus_bed"], 0)


def test_a_method_that_is_missing_is_absent():
    patches = flat_patches(100.0, 120.0, 140.0)
    metrics = evaluate.compute_metrics(np.full((2, 2, 41, 41), 130.0), patches, FLAT, np.arange(2))
    assert set(metrics["by_surface_type"]) == {"ice", "boundary_zone"}
    for entry in (metrics["test"], *metrics["stages"], metrics["by_surface_type"]["ice"]):
        assert set(entry["errors"]) == {"bicubic", "model"}
        assert set(entry["mse_ratio"]) == {"bicubic"}
    assert metrics["by_surface_type"]["boundary_zone"] == {
        "n_cells": 0, "errors": {}, "mse_ratio": {}}  # no edge
    for by_method in (metrics["sub_grid_power"], metrics["spectrum"]["power"]):
        assert set(by_method) == {"bicubic", "model"}
    assert {row["method"] for row in flatten_metrics(metrics)} == {"bicubic", "model"}


def test_perfect_baseline_leaves_no_nan(folder, capsys):
    """Nothing to divide by: no ratio, a dash in the table, valid JSON and CSV."""
    patches = flat_patches(0.0, 0.0, 0.0)
    metrics = evaluate.compute_metrics(np.full((2, 2, 41, 41), 0.5), patches, FLAT, np.arange(2))
    assert metrics["test"]["mse_ratio"] == {}
    files.write_json("metrics.json", metrics)
    files.write_table("metrics.csv", flatten_metrics(metrics))
    print_metrics_table(flatten_metrics(metrics))
    print_score_table({"all": metrics["test"]})
    said = capsys.readouterr().out + (folder / "metrics.csv").read_text()
    assert "nan" not in said.lower() and "+0.00" not in said.splitlines()[-1]
    assert " - " in said


def test_errors_by_type_with_the_boundary_zone_of_the_patch_beside():
    """Ocean in one patch, grounded ice in the other: 2 x 4 of its columns are near the edge."""
    patches = flat_patches(1000.0, 1000.0, topg_m=[100.0, 100.0], side=48)
    patches["thk"][0], patches["topg"][0] = 0, -3000
    predicted = patches["thk"][:, -1].copy()
    predicted[1, :, :8] += 10
    patches["thk"][1, 0, :, :8] -= 10  # bicubic
    metrics = evaluate.compute_metrics(predicted[None, [1]], patches, FLAT, np.array([1]))
    assert metrics["uncertainty"] == {}
    ice = metrics["by_surface_type"]
    assert {name: entry["n_cells"] for name, entry in ice.items()} == {
        "grounded": 48**2, "floating": 0, "ice_free": 0, "boundary_zone": 8 * 48}
    assert ice["boundary_zone"]["errors"]["model"] == pytest.approx(
        {"mse": 1e-4, "rmse_m": 10, "mae_m": 10, "bias_m": 10,
         "volume_error_km3": 10 * 8 * 48 * 25e6 / 1e9, "volume_error_percent": 1,
         "false_ice_km2": 0, "missed_ice_km2": 0, "ice_area_error_percent": 0})
    assert ice["boundary_zone"]["errors"]["bicubic"]["bias_m"] == pytest.approx(-10)
    assert ice["floating"]["errors"] == {}
    ocean = evaluate.compute_metrics(predicted[None], patches, FLAT, np.arange(2))[
        "by_surface_type"]["ice_free"]
    assert ocean["n_cells"] == 48**2
    assert "volume_error_percent" not in ocean["errors"]["model"]


EVEN = [float(share) / 0.9 for share in uncertainty.QUANTILE_LEVELS]
# Errors are even between -10/9 and 10/9 half-widths, which are 2 spread + 0.1 m.
FIT = {"slope": 1.0, "scale_by_thickness": False, "intercept": np.log(2),
       "coverage_factors": {"all": 1.0}, "error_quantiles": EVEN, "variance": 1 / 2.43,
       "cells_per_effective_sample": dict.fromkeys(
           ("all", "grounded", "floating", "ice_free"), 1.0),
       "constant_width": {"model": {"half_width_m": {"all": 7.0, "grounded": 90.0},
                                    "error_quantiles": EVEN}}}


def test_intervals_by_hand(capsys):
    """Grounded ice in one patch, ocean in the other; errors of 1 to 100 m, all intervals 50.5 m."""
    patches = flat_patches(1000.0, 1000.0, topg_m=[100.0, 100.0], side=40)
    patches["thk"][0], patches["topg"][0] = 0, -3000
    predicted = patches["thk"][:, -1].copy()
    predicted[1] += np.resize(np.arange(1.0, 101), (40, 40)) * np.resize([1, -1], (40, 1))
    spread = np.full((2, 40, 40), 25.2, np.float32)
    spread[0] = np.nan
    settings = FLAT | {"uncertainty": FIT, "first_guess": "surface-minus-bed"}
    found = evaluate.score_patch_intervals(
        {"model": predicted}, patches["thk"][:, -1],
        evaluate.mask_surface_types(patches, settings, np.arange(2)), patches["topg"],
        np.arange(2), settings, spread)
    assert found["by_surface_type"]["ice_free"] == {} == found["by_surface_type"]["floating"]
    grounded = found["by_surface_type"]["grounded"]
    assert (grounded["n_cells"], grounded["half_width_m"]) == (1600, pytest.approx(50.5))
    assert grounded["coverage"] == pytest.approx(
        {"0.5": 0.28, "0.8": 0.44, "0.9": 0.5, "0.95": 0.53}, abs=1e-6)
    assert found["by_surface_type"]["all"] == grounded
    assert found["constant_width"]["model"]["grounded"]["half_width_m"] == pytest.approx(90)
    # Rows of 40 cells, 50.5 m on the average and with both signs: volumes balance.
    assert found["patch_volume_coverage"] == 1
    cell_km2 = FLAT["data"]["spacing_m"] ** 2 / 1e6
    assert found["volume_half_width_km3"] == pytest.approx(  # of two patches, one of open ocean
        1.645 * np.sqrt(1600 / 2.43) * 50.5 / 1000 * cell_km2 / 2, rel=1e-3)
    uncertainty.print_interval_scores({"uncertainty": found, "n_test": 2})
    rows = capsys.readouterr().out.splitlines()
    assert "in 90%" in rows[1]
    assert rows[2].split()[:3] == ["grounded", "1600", "50.5"]
    assert "50.0%" in rows[2]
    # Types without a cell are left out.
    assert rows[6].split() == ["CRPS", "m", "grounded", "boundary_zone", "all"]
    assert rows[-1].endswith("coverage 100% of 2 patches")


def test_a_run_that_was_never_calibrated_has_no_intervals(capsys):
    patches = flat_patches(100.0, 120.0, 140.0)
    metrics = evaluate.compute_metrics(np.full((2, 2, 41, 41), 130.0), patches, FLAT, np.arange(2),
                               np.ones((2, 41, 41)))
    assert metrics["uncertainty"] == {}
    uncertainty.print_interval_scores(metrics)
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- a whole evaluation


def test_evaluation_writes_what_it_says(trained, small_patches, folder, capsys):
    evaluate.main(["--run", "tiny", "--all-patches", "--rows", "3"])
    said = capsys.readouterr().out
    results = folder / "results" / "tiny"
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["n_train"], metrics["n_validation"], metrics["n_test"]) == (7, 1, 4)
    assert (metrics["run"], metrics["source"], metrics["citation"]) == (
        "tiny", "small.nc", "made for the tests")
    assert metrics["settings"] == trained
    assert metrics["versions"]["tensorflow"] == tf.__version__
    assert metrics["weights_sha256"] == checkpoints.hash_weights("tiny")
    assert tf.train.latest_checkpoint("checkpoints/tiny/best").endswith(f"-{metrics['epoch']}")
    errors = metrics["test"]["errors"]
    assert f"{errors['model']['rmse_m']:.1f}" in said
    for name in ("comparison", "window", "training", "patches", "spectrum"):  # what made it
        assert b'"run": "tiny"' in (results / f"{name}.png").read_bytes()
    assert sorted(path.name for path in (results / "patches").iterdir())[:4] == [
        f"{find_patches_in_split(small_patches, 'test')[0]:03d}_{name}.png"
        for name in ("bicubic", "label", "predicted", "surface_minus_bed")]
    header, *rows = (results / "metrics.csv").read_text().splitlines()
    assert header.startswith("run,part,from_km,to_km,method,mse")
    assert len(rows) == 3 + 4 + 4  # two stages and the whole

    # The numbers are those of the test patches and of the label, worked out here anew.
    test = np.flatnonzero(small_patches["split"] == 2)
    thk, topg = small_patches["thk"][test], small_patches["topg"][test]
    chain = functools.partial(model.run_chain, evaluate.load_layers(trained)[0], settings=trained)
    level0, beds = utils.coarsen_fields(thk[:, -1], 4, "bicubic").astype("f"), utils.build_levels(
        topg[:, -1], 4, "bicubic", "level")
    predicted = model.predict_ensemble(chain, level0, beds, True)[0][-1]
    predicted = model.remove_thin_ice(predicted, level0, "bicubic")
    rmse_m = np.sqrt(np.mean((np.float64(predicted) - thk[:, -1]) ** 2))
    assert errors["model"]["rmse_m"] == pytest.approx(rmse_m, rel=1e-4)
    assert errors["bicubic"]["rmse_m"] == pytest.approx(
        np.sqrt(np.mean((np.float64(thk[:, 0]) - thk[:, -1]) ** 2)))
    base = utils.surface_minus_bed(np.maximum(thk[:, 0], 0), topg[:, 0], topg[:, -1])
    assert errors["surface_minus_bed"]["rmse_m"] == pytest.approx(
        np.sqrt(np.mean((np.float64(base) - thk[:, -1]) ** 2)))

    # Parts add up to the whole, and the tables say them.
    parts = [metrics["by_surface_type"][name] for name in ("grounded", "floating", "ice_free")]
    assert sum(part["n_cells"] for part in parts) == metrics["test"]["n_cells"] == thk[:, 0].size
    for method in errors:
        assert sum(part["errors"][method]["volume_error_km3"] for part in parts) == pytest.approx(
            errors[method]["volume_error_km3"])
    assert "grounded" in said


def test_results_of_other_densities_lie_beside_those_of_the_run(trained, folder, capsys):
    """What is known of the run itself stays: metrics.json is what the table of runs reads."""
    own = evaluate.evaluate("tiny", make_figures=False)["test"]["errors"]
    results = folder / "results" / "tiny"
    before = (results / "metrics.json").read_bytes(), (results / "metrics.csv").read_bytes()
    options = {"densities": (910.0, 1028.0)}
    other = evaluate.evaluate("tiny", make_figures=False, options=options)
    assert "warning: these are no results of run tiny itself" in capsys.readouterr().out
    assert other == json.loads((results / "densities_910_1028" / "metrics.json").read_text())
    assert other["settings"]["data"]["densities"] == [910, 1028]
    assert other["test"]["errors"]["surface_minus_bed"] != own["surface_minus_bed"]
    assert before == (
        (results / "metrics.json").read_bytes(), (results / "metrics.csv").read_bytes())
    evaluate.evaluate("tiny", make_figures=False, options={"densities": (917.0, 1027.5)})
    assert "warning" not in capsys.readouterr().out  # these are the run's own


def test_runs_side_by_side_with_one_that_has_no_bed(trained, small_map, small_settings, folder,
                                                   capsys):
    path = prepare_data.prepare(4, map_files.read_map(small_map) | {"topg": None},
                                window=SMALL_WINDOW, output="data/patches_bare.nc")
    patches = read_patches(path)
    train.train(patches, small_settings | {
        "run": "bare", "channels": "thk", "first_guess": "bicubic", "epochs": 1,
        "validation": False, "patches": str(path), "data": patches["data"]})
    for run in ("tiny", "bare"):
        evaluate.evaluate(run, make_figures=False)
    capsys.readouterr()
    evaluate.main(["--compare", "tiny", "bare"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:7]] == ["tiny"] * 4 + ["bare"] * 2
    assert "the runs differ in" not in said
    with open(folder / "results/compare_tiny+bare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [*METHOD_STYLES, "bicubic", "model"]
    assert b'"bare"' in (folder / "results/compare_tiny+bare_training.png").read_bytes()

    with pytest.raises(InputError, match="letters, digits, _ - and . only"):
        command_line.check_run_name("tiny+bare")  # so no other comparison has these files

    # Results without their checkpoints still compare, but have no training to show.
    shutil.rmtree(folder / "checkpoints")
    evaluate.main(["--compare", "bare"])
    assert "bare/history.csv is missing: there is no curve" in capsys.readouterr().out
    assert (folder / "results/compare_bare.csv").exists()
    assert not (folder / "results/compare_bare_training.png").exists()


# ---------------------------------------------------------------- what is refused


def test_no_checkpoint_is_an_error_not_random_weights(trained, folder, capsys):
    for arguments, message in (
        (["--scale", "16"], "checkpoints/x16/settings.json: no such file; train"),
        (["--run", "absent"], "checkpoints/absent/settings.json: no such file"),
        (["--run", "tiny", "--scale", "8"], "run tiny was trained for 4x, not 8x"),
        (["--compare", "tiny"], "results/tiny/metrics.json: no such file; evaluate"),
    ):
        status, said = run_main(evaluate.main, arguments, capsys)
        assert status == 2
        assert message in said
        assert said.count("\n") == 1
    shutil.rmtree(folder / "checkpoints" / "tiny" / "best")
    with pytest.raises(InputError, match="best: no checkpoint; train the run first"):
        evaluate.evaluate("tiny")
    assert not (folder / "results").exists()


def test_missing_patches_are_made_again_as_the_run_knew_them(trained, folder, small_map):
    before = evaluate.evaluate("tiny", make_figures=False)
    (folder / "data" / "patches_x4.nc").unlink()
    with pytest.raises(InputError, match="tiny was trained on small.nc: give that map with"):
        evaluate.evaluate("tiny")
    again = evaluate.evaluate("tiny", str(small_map), make_figures=False)
    assert again["test"] == before["test"]


@pytest.mark.parametrize("arguments, message", [
    (["--compare", "tiny", "--rows", "3"], "can be combined only with --show; remove --rows"),
    (["--compare", "tiny", "--all-patches"], "only with --show; remove --all-patches"),
    (["--compare", "tiny", "--input", "map.nc"], "only with --show; remove --input"),
    (["--rows", "0"], "--rows 0: expected 1 or more"),
    (["--map", "map.nc"], "unrecognized arguments: --map"),
])
def test_options_that_do_nothing_are_refused(folder, capsys, arguments, message):
    status, said = run_main(evaluate.main, arguments, capsys)
    assert status == 2
    assert message in said and said.count("\n") == 1


def test_results_of_an_older_version_are_named(folder, capsys):
    files.write_json("results/old/metrics.json", {"run": "old", "test": {"mse_ratio": 0.1}})
    status, said = run_main(evaluate.main, ["--compare", "old"], capsys)
    assert status == 2
    assert "results/old/metrics.json: no recipe in it: damaged, or written by an older" in said
