"""What figures show, and what they are drawn with."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

import evaluate
import model
from icesheet import figures
from icesheet.patches import find_patches_in_split, join_patches
from icesheet.scores import compute_patch_rmse_m


def test_chosen_patches_are_the_best_the_median_and_the_worst():
    rmse_m = np.array([5.0, 1, 9, 3, 7])
    assert figures.pick_patches_by_rank(rmse_m, 3) == {1: "best", 0: "median", 2: "worst"}
    assert list(figures.pick_patches_by_rank(rmse_m, 9)) == [1, 3, 0, 4, 2]
    assert figures.pick_patches_by_rank(rmse_m, 1) == {1: "best"}
    six = figures.pick_patches_by_rank(np.arange(60.0), 6)
    assert [six[rank] for rank in (0, 30, 59)] == ["best", "median", "worst"]
    assert len(six) == 6


def test_axes_end_at_the_edges_of_the_cells():
    extent = figures.km_extent(np.array([0, 5000, 10000.0]), np.array([-5000, 0.0]))
    np.testing.assert_allclose(extent, [-2.5, 12.5, -7.5, 2.5])


def test_title_of_a_figure_says_synthetic():
    metrics = {"run": "x8", "synthetic": True, "scale": 8, "degrade": "area",
               "split": "block split", "source": "synthetic ice sheet, seed 0",
               "stages": [{"to_km": 5.0}]}
    assert figures.figure_title(metrics).startswith("SYNTHETIC ice sheet, no real place")
    assert "40 km to 5 km (8x, area coarsening, block split)" in figures.figure_title(metrics)
    assert "SYNTHETIC" not in figures.figure_title(metrics | {"synthetic": False})


@pytest.fixture
def predicted(small_patches, small_settings):
    """Metrics and maps {method: (patch, y, x) [m]} of random layers on small_patches."""
    patch_indices = np.arange(len(small_patches["thk"]))
    predictions = model.predict_patches(
        model.build_layers(small_settings), small_patches, small_settings, patch_indices)[0]
    test = find_patches_in_split(small_patches, "test")
    metrics = evaluate.compute_metrics(predictions[:, test], small_patches, small_settings, test)
    by_method = model.add_baselines(predictions[-1], small_patches, patch_indices, small_settings)
    yield metrics, {method: by_method[method] for method in figures.MAPPED_METHODS}
    figures.plt.close("all")


def test_comparison_shows_methods_reference_and_errors_on_shared_scales(small_patches, predicted):
    metrics, by_method = predicted
    label, test = small_patches["thk"][:, -1], find_patches_in_split(small_patches, "test")
    ranks = figures.pick_patches_by_rank(
        compute_patch_rmse_m(by_method, label)["model"][test], 3)
    figure = figures.plot_comparison(metrics, small_patches, by_method, 3)
    panels = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert len(panels) == 3 * 7
    assert [panels[i].get_title() for i in (3, 10, 17)] == [
        f"reference, patch {test[i]} ({name})" for i, name in zip(
            ranks, ("best", "median", "worst"), strict=True)]
    for row in range(3):
        limits = {axes.images[0].get_clim() for axes in panels[7 * row:7 * row + 4]}
        assert len(limits) == 1 and limits.pop()[0] == 0
    errors = {axes.images[0].get_clim() for row in range(3)
              for axes in panels[7 * row + 4:7 * row + 7]}
    (low, high), = errors  # one scale, centred on zero
    assert low == -high
    colour_bars = {axes.get_ylabel() for axes in figure.axes if not axes.get_title()}
    assert {"thickness (m)", "error (m)"} <= colour_bars
    assert panels[0].get_ylabel() == "y (km)" and panels[-1].get_xlabel() == "x (km)"


@pytest.mark.parametrize("n_empty", [1, 4])
def test_comparison_picks_among_patches_with_ice(small_patches, predicted, n_empty):
    """An empty sea, or a tenth of it, is no best patch; where all are empty they will do."""
    metrics, by_method = predicted
    test = find_patches_in_split(small_patches, "test")
    empty = test[:n_empty]
    for thk in (small_patches["thk"][:, -1], *by_method.values()):
        thk[empty] = 0
    small_patches["thk"][empty[0], -1, :4] = 500  # 4 of 41 rows
    figure = figures.plot_comparison(metrics, small_patches, by_method, 6)
    titles = [axes.get_title() for axes in figure.axes]
    shown = {patch for patch in test if any(f"patch {patch} (" in title for title in titles)}
    assert shown == set(test if n_empty == len(test) else test[n_empty:])


def test_other_figures_of_a_run(small_patches, predicted):
    metrics, by_method = predicted
    figure = figures.plot_window(metrics, small_patches, by_method)
    np.testing.assert_array_equal(
        next(axes for axes in figure.axes if axes.get_title() == "reference").images[0].get_array(),
        join_patches(small_patches["thk"][:, -1], small_patches))
    figure = figures.plot_rmse_scatter(metrics, small_patches, by_method)
    assert figure.axes[0].get_title().startswith("win rate over bicubic: ")
    figure = figures.plot_spectrum(metrics)
    assert [line.get_label() for line in figure.axes[0].lines][:5] == [
        "reference", "bicubic", "surface minus bed", "surface minus bed, consistent", "network"]


def test_figures_know_no_matplotlibrc_and_need_no_tensorflow(tmp_path):
    """Neither that of the working folder, which is read first and is broken, nor any other."""
    (tmp_path / "matplotlib").mkdir()
    for path, content in (("matplotlibrc", b"\xff"), ("elsewhere", b"text.usetex: True"),
                          ("matplotlib/matplotlibrc", b"savefig.dpi: 10")):
        (tmp_path / path).write_bytes(content + b"\nno: such key")
    code = ("import sys; from icesheet import figures; figures.select_backend(False); "
            "figures.save_figure(figures.plt.figure(figsize=(1, 1)), 'a.png', {}); "
            "print('tensorflow' in sys.modules, figures.plt.rcParams['savefig.dpi'])")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(tmp_path),
                          "MATPLOTLIBRC": str(tmp_path / "elsewhere")})
    assert (done.stdout, done.stderr) == ("False 150.0\n", "")
    assert (tmp_path / "a.png").exists()
