"""Metrics by hand, figures and tables of a real evaluation, comparison, and what is refused."""

import functools
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL_WINDOW, run_main

import evaluate
import model
import prepare_data
import train
import utils
from utils import InputError


@pytest.fixture
def trained(small_patches, small_settings):
    """The run `tiny`, trained for 3 epochs; its settings."""
    train.train(small_patches, small_settings)
    return utils.read_settings("tiny")


# ---------------------------------------------------------------- metrics


def flat_patches(*levels_m, topg_m=None, side=41):
    """Two patches side by side, flat at each level, of the given thickness and bed [m]."""
    thk, topg = (None if levels is None else np.ones((2, 1, side, side)) * np.reshape(
        levels, (1, -1, 1, 1)) for levels in (levels_m, topg_m))
    x = 5000.0 * np.arange(2 * side).reshape(2, side)
    return {"thk": thk, "topg": topg, "split": np.array([2, 2], np.int8), "x": x, "y": x[[0, 0]],
            "row": np.array([0, 0]), "column": np.array([0, 1])}


def plain_settings(**changes):
    return {"run": "flat", "scale": 4, "recipe": "default", "seed": 3, "validation": True,
            "consistency": False, "average_turns": False,
            "data": {"source": "here", "source_title": "", "citation": "", "synthetic": "no",
                     "degrade": "bicubic", "split": "random", "seed": 0, "thk_max_m": 1000.0,
                     "spacing_m": 5000.0}} | changes


def test_metrics_by_hand():
    patches = flat_patches(100.0, 120.0, 140.0)
    predictions = np.stack([np.full((2, 41, 41), 110.0), np.full((2, 41, 41), 130.0)])
    predictions[1, 1] = 190  # the second patch is worse than bicubic
    metrics = evaluate.measure(predictions, patches, plain_settings(), np.arange(2))
    assert metrics["test"]["bicubic"] == pytest.approx(
        {"mse": 1.6e-3, "rmse_m": 40, "mae_m": 40, "bias_m": -40})
    assert metrics["test"]["model"] == pytest.approx(
        {"mse": (10**2 + 50**2) / 2 / 1000**2, "rmse_m": np.sqrt(1300), "mae_m": 30, "bias_m": 20})
    assert metrics["test"]["ratio"] == pytest.approx(1300 / 1600)
    assert metrics["test"]["won"] == 0.5
    first, second = metrics["stages"]
    assert (first["from_km"], first["to_km"], second["from_km"], second["to_km"]) == (20, 10, 10, 5)
    assert first["bicubic"]["rmse_m"] == pytest.approx(20)
    assert first["model"]["rmse_m"] == pytest.approx(10)
    assert second["model"] == metrics["test"]["model"]


def test_surface_base_by_hand():
    """Bed 150, 120, 100 m under 900 m of ice at level 0: the surface is at 1050 m."""
    patches = flat_patches(900.0, 940.0, 1000.0, topg_m=[150.0, 120.0, 100.0])
    predictions = np.stack([np.full((2, 41, 41), 945.0), np.full((2, 41, 41), 1025.0)])
    predictions[1, 1] = 1100
    metrics = evaluate.measure(predictions, patches, plain_settings(), np.arange(2))
    first, test = metrics["stages"][0], metrics["test"]
    assert first["surface"]["bias_m"] == pytest.approx(930 - 940)
    assert test["surface"] == pytest.approx(
        {"mse": 2.5e-3, "rmse_m": 50, "mae_m": 50, "bias_m": -50})
    assert test["ratio_surface"] == pytest.approx((25**2 + 100**2) / 2 / 50**2)
    assert (test["won_surface"], test["won"]) == (0.5, 0.5)
    assert [(row["method"], row["rmse_m"]) for row in evaluate.metrics_rows(metrics)[:2]] == [
        ("bicubic", pytest.approx(40)), ("surface", pytest.approx(10))]


def test_surface_base_made_consistent_is_measured_beside_a_model_that_is():
    topg = np.zeros((2, 3, 48, 48))
    topg[:, 2, :, ::2] = -100  # half of the cells lie 100 m deeper, so they hold more ice
    patches = flat_patches(500.0, 500.0, 500.0, topg_m=[0.0, 0.0, 0.0])
    patches |= {"thk": np.full((2, 3, 48, 48), 500.0, "f"), "topg": topg.astype("f"),
                "x": 5000.0 * np.arange(96).reshape(2, 48)}
    patches["y"] = patches["x"][[0, 0]]
    predictions = np.full((2, 2, 48, 48), 500.0)
    settings = plain_settings(consistency=True)
    settings["data"]["degrade"] = "area"
    test = evaluate.measure(predictions, patches, settings, np.arange(2))["test"]
    # 500 and 600 m where 500 are right; scaled by 500 / 550
    assert test["surface"]["rmse_m"] == pytest.approx(np.sqrt(100**2 / 2))
    assert test["surface_consistent"]["rmse_m"] == pytest.approx(50 * 500 / 550, rel=1e-3)
    assert test["surface_consistent"]["bias_m"] == pytest.approx(0, abs=0.01)
    assert "surface_consistent" not in evaluate.measure(
        predictions, patches, plain_settings(), np.arange(2))["test"]


def test_surface_base_starts_from_no_ice_where_the_spline_falls_below_zero():
    patches = flat_patches(-30.0, 0.0, topg_m=[200.0, 100.0])
    found = evaluate.estimate(np.zeros((2, 41, 41)), patches, np.arange(2))
    np.testing.assert_array_equal(found["surface"], 0)


def test_without_a_bed_there_is_no_surface_base():
    patches = flat_patches(100.0, 120.0, 140.0)
    metrics = evaluate.measure(np.full((2, 2, 41, 41), 130.0), patches, plain_settings(),
                               np.arange(2))
    test = metrics["test"]
    for entry in (test, metrics["stages"][0]):
        assert entry["surface"] is entry["ratio_surface"] is entry["won_surface"] is None
    assert set(test["by_type"]) == {"ice", "margin", "all"}
    assert test["by_type"]["all"]["surface"] is test["detail"]["surface"] is None
    assert {row["method"] for row in evaluate.metrics_rows(metrics)} == {"bicubic", "model"}


def test_errors_by_type_with_the_margin_of_the_patch_beside():
    """Ocean in one patch, grounded ice in the other: 2 x 4 of its columns are near the edge."""
    patches = flat_patches(1000.0, 1000.0, topg_m=[100.0, 100.0], side=48)
    patches["thk"][0], patches["topg"][0] = 0, -3000
    predicted = patches["thk"][:, -1].copy()
    predicted[1, :, :8] += 10
    maps = {"bicubic": predicted - 20, "model": predicted}
    ice = evaluate.measure_types({name: field[[1]] for name, field in maps.items()}, patches,
                                 plain_settings(), np.array([1]))
    assert {name: entry["n_cells"] for name, entry in ice.items()} == {
        "grounded": 48**2, "floating": 0, "ice_free": 0, "margin": 8 * 48, "all": 48**2}
    assert ice["margin"]["model"] == pytest.approx(
        {"mse": 1e-4, "rmse_m": 10, "mae_m": 10, "bias_m": 10,
         "volume_error_km3": 10 * 8 * 48 * 25e6 / 1e9, "volume_error_percent": 1})
    assert ice["margin"]["bicubic"]["bias_m"] == pytest.approx(-10)
    assert ice["all"]["model"]["bias_m"] == pytest.approx(10 * 8 / 48)
    assert ice["floating"]["model"] is ice["all"]["surface"] is None
    ocean = evaluate.measure_types(maps, patches, plain_settings(), np.arange(2))["ice_free"]
    assert (ocean["n_cells"], ocean["model"]["volume_error_percent"]) == (48**2, None)


def test_worst_patches_are_named_with_their_places():
    patches = flat_patches(100.0, 100.0)
    predicted = patches["thk"][:, -1] + np.array([3.0, -7.0])[:, None, None]
    worst = evaluate.worst_patches(evaluate.estimate(predicted, patches, np.arange(2)), patches,
                                   np.arange(2))
    assert worst[0] == {"patch": 1, "x_km": 305, "y_km": 100, "bicubic_rmse_m": 0,
                        "surface_rmse_m": None, "model_rmse_m": 7}
    assert worst[1]["patch"] == 0


def test_detail_is_what_lies_between_coarse_and_fine_grid():
    """Waves of 41 / 10 cells (20.5 km) at 4x, where the coarse grid ends at 40 km."""
    wave = 100 * np.sin(2 * np.pi * 10 / 41 * np.arange(41)) * np.ones((2, 41, 1))
    maps = {"bicubic": 0 * wave, "surface": -wave, "model": wave / 2}
    spectrum, detail = evaluate.measure_spectra(maps, wave, plain_settings())
    for method, power, explained in (("bicubic", 0, 0), ("surface", 1, -3), ("model", 0.25, 0.75)):
        assert detail[method] == pytest.approx({"power": power, "explained": explained})
    assert spectrum["wavelength_km"][np.argmax(spectrum["label"])] == pytest.approx(20.5)
    slow = 100 * np.sin(2 * np.pi * 2 / 41 * np.arange(41)) * np.ones((2, 41, 1))
    detail = evaluate.measure_spectra({"model": wave + slow}, wave, plain_settings())[1]
    assert detail["model"]["explained"] == pytest.approx(1, abs=1e-3)  # waves of 100 km: no matter


def test_chosen_patches_are_the_best_the_median_and_the_worst():
    rmse_m = np.array([5.0, 1, 9, 3, 7])
    assert evaluate.choose_patches(rmse_m, 3) == {1: "best", 0: "median", 2: "worst"}
    assert list(evaluate.choose_patches(rmse_m, 9)) == [1, 3, 0, 4, 2]
    assert evaluate.choose_patches(rmse_m, 1) == {1: "best"}
    six = evaluate.choose_patches(np.arange(60.0), 6)
    assert [six[rank] for rank in (0, 30, 59)] == ["best", "median", "worst"]
    assert len(six) == 6


def test_window_is_put_together_as_it_was_cut():
    field = np.random.default_rng(0).random((82, 123))
    cut = prepare_data.cut_patches(field)
    row, column = np.divmod(np.arange(6), 3)
    np.testing.assert_array_equal(evaluate.assemble(cut, {"row": row, "column": column}), field)


def test_axes_end_at_the_edges_of_the_cells():
    extent = evaluate.km_extent(np.array([0, 5000, 10000.0]), np.array([-5000, 0.0]))
    np.testing.assert_allclose(extent, [-2.5, 12.5, -7.5, 2.5])


def test_title_of_a_figure_says_synthetic():
    metrics = {"run": "x8", "synthetic": True, "scale": 8, "degrade": "area", "split": "block",
               "source": "synthetic ice sheet, seed 0", "stages": [{"to_km": 5.0}]}
    assert evaluate.headline(metrics).startswith("SYNTHETIC ice sheet, no real place")
    assert "40 km to 5 km (8x, area reduction, block split)" in evaluate.headline(metrics)
    assert "SYNTHETIC" not in evaluate.headline(metrics | {"synthetic": False})


# ---------------------------------------------------------------- a whole evaluation


def test_evaluation_writes_what_it_says(trained, small_patches, folder, capsys):
    evaluate.main(["--run", "tiny", "--all-patches", "--patches", "3"])
    said = capsys.readouterr().out
    results = folder / "results" / "tiny"
    metrics = json.loads((results / "metrics.json").read_text())
    for key in (
        "run",
        "scale",
        "recipe",
        "synthetic",
        "source",
        "degrade",
        "split",
        "seed",
        "thk_max_m",
        "n_train",
        "n_test",
        "versions",
        "citation",
    ):
        assert key in metrics
    assert (metrics["n_train"], metrics["n_validation"], metrics["n_test"]) == (7, 1, 4)
    assert metrics["versions"]["tensorflow"]
    assert tf.train.latest_checkpoint("checkpoints/tiny/best").endswith(f"-{metrics['epoch']}")
    assert f"{metrics['test']['model']['rmse_m']:.1f}" in said
    for name in ("comparison", "window", "training", "patches", "spectrum"):
        assert (results / f"{name}.png").stat().st_size > 10000
    assert len(list((results / "patches").iterdir())) == 4 * 4
    assert b'"run": "tiny"' in (results / "window.png").read_bytes()  # says what made it
    assert (
        (results / "metrics.csv")
        .read_text()
        .splitlines()[0]
        .startswith("run,part,from_km,to_km,method,mse")
    )

    # The numbers are those of the test patches and of the label, worked out here anew.
    test = np.flatnonzero(small_patches["split"] == 2)
    thk, topg = small_patches["thk"][test], small_patches["topg"][test]
    chain = functools.partial(model.run_chain, evaluate.load_layers(trained), settings=trained)
    predicted = model.predict(chain, thk[:, 0], topg, trained)[-1]
    rmse_m = np.sqrt(np.mean((np.float64(predicted) - thk[:, -1]) ** 2))
    assert metrics["test"]["model"]["rmse_m"] == pytest.approx(rmse_m, rel=1e-4)
    assert metrics["test"]["bicubic"]["rmse_m"] == pytest.approx(
        np.sqrt(np.mean((np.float64(thk[:, 0]) - thk[:, -1]) ** 2)))
    base = utils.thickness(utils.surface(np.maximum(thk[:, 0], 0), topg[:, 0]), topg[:, -1])
    assert metrics["test"]["surface"]["rmse_m"] == pytest.approx(
        np.sqrt(np.mean((np.float64(base) - thk[:, -1]) ** 2)))

    # Parts add up to the whole, and the tables say them.
    by_type = metrics["test"]["by_type"]
    parts = [by_type[name] for name in ("grounded", "floating", "ice_free")]
    assert sum(part["n_cells"] for part in parts) == by_type["all"]["n_cells"] == thk[:, 0].size
    for method in ("bicubic", "surface", "model"):
        assert by_type["all"][method]["rmse_m"] == metrics["test"][method]["rmse_m"]
        assert sum(part[method]["volume_error_km3"] for part in parts) == pytest.approx(
            by_type["all"][method]["volume_error_km3"])
    worst = metrics["test"]["worst"]
    assert sorted(row["patch"] for row in worst) == test.tolist()
    for found in ("grounded", f"patch {worst[0]['patch']:4d} {worst[0]['x_km']:8.0f}"):
        assert found in said


def test_runs_side_by_side_with_one_that_has_no_bed(trained, small_map, small_settings, folder,
                                                   capsys):
    path = prepare_data.prepare(4, utils.read_map(small_map) | {"topg": None}, window=SMALL_WINDOW,
                                output="data/patches_bare.nc")
    patches = utils.read_patches(path)
    train.train(patches, small_settings | {
        "run": "bare", "channels": "thk", "base": "bicubic", "epochs": 1, "validation": False,
        "data": prepare_data.describe_data(patches)})
    for run in ("tiny", "bare"):
        evaluate.evaluate(run)
    assert (folder / "results/bare/window.png").exists()
    capsys.readouterr()
    evaluate.main(["--compare", "tiny", "bare"])
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines()[1:7]] == [
        ["tiny", "bicubic"], ["tiny", "surface"], ["tiny", "surface+cons."], ["tiny", "model"],
        ["bare", "bicubic"], ["bare", "model"]]
    assert len((folder / "results/compare_tiny_bare.csv").read_text().splitlines()) == 1 + 6
    for name in ("compare_tiny_bare.png", "compare_tiny_bare_training.png"):
        assert (folder / "results" / name).stat().st_size > 10000

    # Results without their checkpoints still compare, but have no training to show.
    shutil.rmtree(folder / "checkpoints")
    evaluate.main(["--compare", "bare"])
    assert "no training curve of bare" in capsys.readouterr().out
    assert (folder / "results/compare_bare.png").exists()
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


def test_checkpoint_of_another_shape_is_an_error(trained):
    for changes in ({"filters": [9, 4]}, {"scale": 8}, {"channels": "thk"}):
        with pytest.raises(InputError, match="not the layers that settings.json describes"):
            evaluate.load_layers(trained | changes)


def test_missing_patches_are_made_again_as_the_run_knew_them(trained, folder, small_map):
    before = evaluate.evaluate("tiny")
    (folder / "data" / "patches_x4.nc").unlink()
    with pytest.raises(InputError, match="run tiny was trained on small.nc, not on synthetic"):
        evaluate.evaluate("tiny")
    evaluate.main(["--run", "tiny", "--input", str(small_map)])
    assert json.loads((folder / "results/tiny/metrics.json").read_text())["test"] == before["test"]


def test_damaged_checkpoint_is_an_error(trained, folder):
    for path in (folder / "checkpoints" / "tiny" / "best").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="or damaged"):
        evaluate.evaluate("tiny")


def test_other_patches_are_an_error(trained, small_map):
    prepare_data.prepare(4, utils.read_map(small_map), seed=1, window=SMALL_WINDOW)
    with pytest.raises(
        InputError, match="not the patches that run tiny was trained on: seed 0 -> 1"
    ):
        evaluate.evaluate("tiny")
