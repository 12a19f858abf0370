"""Metrics by hand, figures and tables of a real evaluation, comparison, and what is refused."""

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


def flat_patches(*levels_m):
    """Two patches that are flat at each level, with the given thickness [m]; all else as small."""
    thk = np.ones((2, 1, 41, 41)) * np.reshape(levels_m, (1, -1, 1, 1))
    return {"thk": thk, "split": np.array([2, 2], np.int8)}


def plain_settings(**changes):
    return {"run": "flat", "scale": 4, "recipe": "default", "seed": 3, "validation": True,
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
    for name in ("comparison", "window", "training", "patches"):
        assert (results / f"{name}.png").stat().st_size > 10000
    assert len(list((results / "patches").iterdir())) == 3 * 4
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
    predicted = model.run_chain(evaluate.load_layers(trained), thk[:, 0], topg, trained)[-1]
    rmse_m = np.sqrt(np.mean((np.float64(predicted) - thk[:, -1]) ** 2))
    assert metrics["test"]["model"]["rmse_m"] == pytest.approx(rmse_m, rel=1e-4)
    assert metrics["test"]["bicubic"]["rmse_m"] == pytest.approx(
        np.sqrt(np.mean((np.float64(thk[:, 0]) - thk[:, -1]) ** 2)))


def test_runs_side_by_side(trained, small_patches, small_settings, folder, capsys):
    train.train(small_patches, small_settings | {"run": "other", "seed": 1})
    for run in ("tiny", "other"):
        evaluate.evaluate(run)
    capsys.readouterr()
    evaluate.main(["--compare", "tiny", "other"])
    said = capsys.readouterr().out
    assert "tiny" in said
    assert "other" in said
    assert (folder / "results" / "compare_tiny_other.png").exists()
    rows = (folder / "results" / "compare_tiny_other.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2


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
    prepare_data.prepare(4, utils.read_map(small_map), degrade="area", window=SMALL_WINDOW)
    with pytest.raises(
        InputError, match="not the patches that run tiny was trained on: degrade bicubic -> area"
    ):
        evaluate.evaluate("tiny")
