"""Errors that matter to flow models: against numbers by hand and closed forms."""

import json

import numpy as np
import pytest
from conftest import REPOSITORY

import utils
from icesheet import flow_metrics
from icesheet.scores import compute_rmse_m

SHARE = 1 - utils.RHO_ICE / utils.RHO_SEA  # of floating ice above the sea


def everywhere(field):
    return np.ones(np.shape(field), bool)


def plane(shape, along_x, along_y, spacing_m=1000.0):
    """A field that rises by these slopes [m/m]."""
    y, x = np.indices(shape) * spacing_m
    return along_x * x + along_y * y


def test_slopes_and_what_follows_from_them_on_planes():
    """Ice 1000 m thick on a bed that rises 3 m/km in x and 4 in y: |slope| 5 m/km."""
    thk, topg = np.full((5, 7), 1000.0), 100 + plane((5, 7), 0.003, 0.004)
    found = flow_metrics.compute_flow_fields(thk, topg, everywhere(thk), 1000.0)
    for name, value in (("diffusivity", 1e15 * 0.005**2), ("stress", 917 * 9.81 * 1000 * 0.005)):
        assert found[name].shape == (4, 6)
        np.testing.assert_allclose(found[name], value)
    np.testing.assert_allclose(found["slope"][0], 0.003)
    np.testing.assert_allclose(found["slope"][1], 0.004)
    assert (found["kind"] == 2).all()


def test_the_surface_of_floating_ice_has_the_slope_of_its_share_above_the_sea():
    thk = 500 + plane((4, 4), 0.01, 0)
    found = flow_metrics.compute_flow_fields(thk, np.full((4, 4), -2000.0), everywhere(thk), 1000.0)
    np.testing.assert_allclose(found["slope"][0], 0.01 * SHARE)
    assert (found["kind"] == 3).all()


def test_errors_of_a_tilted_map_by_hand():
    """The label's surface rises 2 m/km in x; the map's 1 m/km more in y, and it is 10 % thicker."""
    shape = (6, 6)
    topg = 50 + plane(shape, 0.002, 0)
    label = np.full(shape, 1000.0)
    found = flow_metrics.compute_flow_errors(label + plane(shape, 0, 0.001), label, topg, 1000.0,
                                             everywhere(topg))
    assert found["slope_rmse_m_km"] == pytest.approx(1)
    assert found["slope_error_99_m_km"] == pytest.approx(1)
    assert found["rmse_m"] == pytest.approx(np.sqrt(np.mean(np.arange(6.0) ** 2)))
    assert found["surface_rmse_m"] == pytest.approx(found["rmse_m"])
    largest = (1004.5 / 1000) ** 5 * (0.002**2 + 0.001**2) / 0.002**2
    assert found["diffusivity_largest"] == pytest.approx(largest)
    assert found["diffusivity_median"] == pytest.approx(
        (1002.5 / 1000) ** 5 * 1.25)
    thicker = flow_metrics.compute_flow_errors(1.1 * label, label, topg, 1000.0, everywhere(topg))
    assert thicker["slope_rmse_m_km"] == pytest.approx(0, abs=1e-9)
    assert thicker["diffusivity_largest"] == pytest.approx(1.1**5)
    assert thicker["diffusivity_median"] == pytest.approx(1.1**5)
    assert thicker["stress_error"] == pytest.approx(0.1)


def test_driving_stress_is_compared_over_thick_ice_only():
    topg = 50 + plane((4, 8), 0.002, 0)
    label = np.where(np.arange(8) < 4, 90.0, 1000.0) * np.ones((4, 1))
    thk = np.where(label < 100, 500.0, 1000.0)
    thk[:, 4:] = 1000.0
    found = flow_metrics.compute_flow_errors(thk, label, topg, 1000.0, everywhere(topg))
    assert found["stress_error"] == pytest.approx(0, abs=1e-12)
    assert found["rmse_m"] > 200


def test_largest_diffusivity_is_that_of_corners_on_land_too():
    """Flat ice that ends in a cliff on land: all of its slope is at the corners of the cliff."""
    reference = np.array([[1000.0, 1000, 0, 0]] * 3)
    thk = np.array([[1000.0, 800, 0, 0]] * 3)
    found = flow_metrics.compute_flow_errors(thk, reference, np.full((3, 4), 100.0), 1000.0,
                                             everywhere(thk))
    assert found["diffusivity_largest"] == pytest.approx(900**5 * 0.2**2 / 500**5)


def test_cells_without_a_bed_are_not_scored():
    """Nor corners of such cells: as if only the others had been given."""
    rng = np.random.default_rng(0)
    topg = rng.uniform(0, 100, (6, 8))
    fine = {"thk": rng.uniform(500, 900, (6, 8)), "topg": topg, "spacing_m": 1000.0}
    thk = {"model": rng.uniform(500, 900, (6, 8))}
    expected = flow_metrics.compute_flow_errors(thk["model"], fine["thk"], topg, 1000.0,
                                                np.indices((6, 8))[1] > 1)
    topg[:, :2] = np.nan
    found = flow_metrics.score_flow(thk, fine, {"thk": np.zeros((3, 4))}, 2, everywhere(topg),
                                    utils.DENSITIES)
    assert found["model"] == pytest.approx(expected, nan_ok=False)


def test_one_wrong_slope_in_a_hundred_is_the_percentile():
    """A slope that is wrong along one line: none of 1 % of the corners, all of 2 % of them."""
    label = np.full((11, 102), 1000.0)
    thk = label.copy()
    thk[:, 51:] += 10  # a step: 1 of 101 columns of corners
    found = flow_metrics.compute_flow_errors(thk, label, 0 * label, 1000.0, everywhere(label))
    assert found["slope_rmse_m_km"] == pytest.approx(10 / np.sqrt(101))
    assert found["slope_error_99_m_km"] == pytest.approx(0)
    thk[:, 20:] += 10
    found = flow_metrics.compute_flow_errors(thk, label, 0 * label, 1000.0, everywhere(label))
    assert found["slope_error_99_m_km"] == pytest.approx(10)


def test_grounding_and_ice_extent_by_hand():
    """A row of 2 km cells: two grounded, two afloat, two of open sea; the map errs in each."""
    topg = np.full((1, 6), -500.0)
    label = np.array([[600.0, 600, 500, 500, 0, 0]])
    thk = np.array([[600.0, 500, 600, 0, 300, 0]])
    found = flow_metrics.compute_flow_errors(thk, label, topg, 2000.0, everywhere(topg))
    for name, percent in (("falsely_grounded", 50), ("falsely_floating", 50), ("false_ice", 25),
                          ("missed_ice", 25)):
        assert (found[f"{name}_km2"], found[f"{name}_percent"]) == (4, percent)
    # PISM's densities ground it later, and what is not scored is not counted.
    cells = np.array([[1, 1, 1, 0, 0, 0]], bool)
    found = flow_metrics.compute_flow_errors(thk, label, topg, 2000.0, cells, (910.0, 1028.0))
    assert (found["missed_ice_km2"], found["false_ice_km2"]) == (0, 0)


def shelf():
    """A shelf of 300 m, its bed too deep to touch: 12 x 12 cells, grounded land ice at the left."""
    topg = np.full((12, 12), -1000.0)
    topg[:, :2] = 100
    return np.full((12, 12), 300.0), topg


def test_pinning_points_are_grounded_regions_within_floating_ice():
    thk, topg = shelf()
    topg[5:7, 6] = -200      # one of two cells
    topg[7, 7] = -200        # touches it by a corner: the same
    topg[2, 4] = -200        # another
    topg[9, 11] = -200       # at the map's edge: unknown what is around
    topg[10, 2] = -200       # touches the land ice
    kind = utils.classify_cells(thk, topg)
    points = flow_metrics.label_pinning_points(kind)
    assert flow_metrics.count_regions(points) == 2
    assert (points > 0).sum() == 4
    thk[1, 3] = 0            # sea beside the other one
    points = flow_metrics.label_pinning_points(utils.classify_cells(thk, topg))
    assert flow_metrics.count_regions(points) == 1


def test_missed_and_spurious_pinning_points():
    label, topg = shelf()
    topg[5:7, 6] = -260      # 300 m lie on it, 250 m float over it
    topg[2, 4] = -260
    topg[9, 8] = -290        # 300 m float over it, 350 m lie on it
    thk = label.copy()
    thk[2, 4], thk[6, 6], thk[9, 8] = 250, 250, 350
    found = flow_metrics.compute_flow_errors(thk, label, topg, 1000.0, everywhere(topg))
    assert (found["pinning_points"], found["pinning_points_missed"],
            found["pinning_points_spurious"]) == (2, 1, 1)
    # A point that the map joins to the land is neither missed nor spurious.
    thk = np.where(everywhere(label), 2000.0, 0)
    found = flow_metrics.compute_flow_errors(thk, label, topg, 1000.0, everywhere(topg))
    assert (found["pinning_points_missed"], found["pinning_points_spurious"]) == (0, 0)


@pytest.mark.parametrize("thk_m", [0.0, 500.0])
def test_undefined_metrics_are_omitted(thk_m, capsys):
    """No ice at all, or a level plain without a slope; and a bed unknown where nothing counts."""
    label, topg = np.full((4, 4), thk_m), np.full((4, 4), 10.0)
    topg[0, 0] = np.nan
    found = flow_metrics.compute_flow_errors(label, label, topg, 1000.0, np.isfinite(topg))
    json.dumps(found, allow_nan=False)
    assert not {"diffusivity_largest", "diffusivity_median", "stress_error"} & set(found)
    assert ("missed_ice_percent" in found) == ("slope_rmse_m_km" in found) == (thk_m > 0)
    assert "falsely_grounded_percent" not in found
    flow_metrics.print_flow({"model": found})
    flow_metrics.print_flow({})
    assert "-" in capsys.readouterr().out


def test_interpolation_baselines_by_hand():
    """Cells 2 wide; centres of the coarse ones at 0.5 and 2.5 of the fine cells."""
    coarse = np.array([[0.0, 4], [8, 12]])
    found = flow_metrics.interpolation_baselines(coarse, 2)
    np.testing.assert_array_equal(found["constant"][0], [0, 0, 4, 4])
    np.testing.assert_array_equal(found["constant"][:, 0], [0, 0, 8, 8])
    np.testing.assert_allclose(found["bilinear"][0], [0, 1, 3, 4], atol=1e-12)
    np.testing.assert_allclose(found["bilinear"][:, 0], [0, 2, 6, 8], atol=1e-12)
    np.testing.assert_allclose(utils.coarsen_fields(found["constant"][None], 2, "area")[0], coarse)


def test_the_ice_of_the_shock_test_flows_as_the_closed_form_does(monkeypatch):
    """Halfar's dome, 3600 m high and 750 km wide, over ten years (test B of Bueler et al. 2005).

    n = 3; it keeps its volume, and its height falls as t^(-1/9) from t0, here 413 years.
    """
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "benchmarks"))
    import initialisation_shock
    height_m, radius_m, spacing_m = 3600.0, 750e3, 16e3
    stiff = 2 * 1e-16 * (utils.RHO_ICE * 9.81) ** 3 / 5
    t0 = (7 / 4) ** 3 * radius_m**4 / height_m**7 / (18 * stiff)
    axis = (np.arange(120) - 59.5) * spacing_m
    far = np.hypot(axis[:, None], axis) / radius_m

    def dome(years):
        stretch = ((t0 + years) / t0) ** (-1 / 18)
        return height_m * stretch**2 * np.maximum(1 - (stretch * far) ** (4 / 3), 0) ** (3 / 7)

    seen, _, cut = initialisation_shock.relax(dome(0), np.full(far.shape, 500.0), spacing_m,
                                              utils.DENSITIES)
    inner = far < 0.85  # at its edge the closed form is infinitely steep
    change = (dome(initialisation_shock.STOPS[-1]) - dome(0))[inner]
    assert change.min() == pytest.approx(-9, abs=1)
    assert compute_rmse_m((seen[-1] - dome(0))[inner], change) < 0.01 * compute_rmse_m(change, 0)
    assert seen[-1].sum() == pytest.approx(dome(0).sum(), rel=1e-5)
    assert cut == 0
