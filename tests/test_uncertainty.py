"""The width of intervals, their scores, and volumes: closed forms and made error fields."""

import numpy as np
import pytest
import scipy

import uncertainty

# Quantiles of |error| / half-width, evenly up to 10/9.
EVEN = [float(share) / 0.9 for share in uncertainty.SHAPE]


def test_half_width_by_hand():
    """e^(1 + 0.5 log(0.1 + 3.9)) - 0.1 = 2 e - 0.1; unknown types take the factor of all."""
    fit = {"intercept": 1.0, "slope": 0.5, "factors": {"all": 2.0, "margin": 3.0, "grounded": 1.5}}
    spread = np.array([3.9, 3.9, 3.9, 3.9, 0, np.nan])
    types = {"grounded": np.array([1, 0, 0, 1, 0, 1], bool),
             "floating": np.array([0, 1, 0, 0, 0, 0], bool),
             "margin": np.array([0, 0, 0, 1, 0, 0], bool)}
    width, least = 2 * np.e - 0.1, np.e * np.sqrt(0.1) - 0.1
    np.testing.assert_allclose(
        uncertainty.half_width(spread, types, fit),
        [1.5 * width, 2 * width, 2 * width, 3 * width, 2 * least, 0], rtol=1e-6)


def test_crps_of_known_distributions():
    """Even from -a to a: (e^2 + a^2) / 2a - a / 3 at |e| <= a. All at one point: the mean error."""
    error = np.array([0.0, 3.0, -6.0])
    exact = (error**2 + 36) / 12 - 2
    found = uncertainty.crps_m(error, np.full(3, 0.9 * 6), EVEN)
    np.testing.assert_allclose(found, exact, rtol=0.03)
    np.testing.assert_allclose(uncertainty.crps_m(error, np.zeros(3), EVEN), np.abs(error))
    # Normal errors with their own quantiles: sigma / sqrt(pi) on the average.
    normal = scipy.stats.norm.ppf((1 + uncertainty.SHAPE) / 2)
    draws = 7 * np.random.default_rng(0).standard_normal(100_000)
    shape = list(normal / normal[17])
    score = uncertainty.crps_m(draws, np.full(draws.shape, 7 * normal[17]), shape)
    assert score.mean() == pytest.approx(7 / np.sqrt(np.pi), rel=0.02)
    wrong = uncertainty.crps_m(draws, np.full(draws.shape, 14 * normal[17]), shape)
    assert wrong.mean() > 1.1 * score.mean()


def test_intervals_of_a_made_error_field_cover_what_they_say():
    rng = np.random.default_rng(0)
    width = rng.uniform(1, 100, (200, 200))
    error = width * rng.uniform(-1, 1, width.shape) / 0.9
    error[:, :20] = 1000
    cells = np.arange(200) >= np.full((200, 1), 20)
    fit = {"shape": EVEN, "together": {"all": 1.0}, "variance": 1 / 2.43}
    found = uncertainty.score_intervals(error, width, cells, fit, 1000.0)
    assert found["n_cells"] == 200 * 180
    assert found["coverage"] == pytest.approx(
        {"0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "0.95": 0.95}, abs=0.01)
    assert [tenth["half_width_m"] for tenth in found["tenths"]] == pytest.approx(
        np.arange(5.95, 100, 9.9), abs=1.5)
    for tenth in found["tenths"]:
        assert tenth["coverage"] == pytest.approx(0.9, abs=0.02)
        assert tenth["rmse_m"] == pytest.approx(tenth["half_width_m"] / 0.9 / np.sqrt(3), rel=0.2)
    assert found["volume_error_km3"] == pytest.approx(error[cells].sum() / 1000)
    assert found["volume_width_km3"] == uncertainty.volume_width_km3(width[cells], 1000.0, fit)
    assert uncertainty.score_intervals(error, width, np.zeros_like(cells), fit, 1000.0) == {}


def test_cells_that_err_as_one_by_hand():
    """White noise: 1. Means over 3 x 3 cells: 9. One error in all of a patch: its cells near by."""
    noise = np.random.default_rng(0).standard_normal((60, 40, 40))
    every = np.ones(noise.shape, bool)
    assert uncertainty.cells_together(noise, every) == pytest.approx(1, abs=0.05)
    some = np.random.default_rng(1).uniform(size=noise.shape) < 0.3
    found = uncertainty.cells_together(np.where(some, noise, np.nan), some)
    assert found == pytest.approx(1, abs=0.1)
    smooth = scipy.ndimage.uniform_filter(noise, (1, 3, 3), mode="wrap")
    assert uncertainty.cells_together(smooth, every) == pytest.approx(9, rel=0.08)
    assert uncertainty.cells_together(100 * smooth, every) == pytest.approx(
        uncertainty.cells_together(smooth, every))
    one = np.ones(noise.shape) * noise[:, :1, :1]
    assert uncertainty.cells_together(one, every) == pytest.approx(np.pi * 20.5**2, rel=0.05)
    assert uncertainty.cells_together(noise, ~every) == 1


def test_width_of_a_volume_holds_the_means_of_errors_that_go_together():
    """100 x 100 cells of 1 km, normal errors of 10 m: 1.645 x 10 m x 100 km2, 3 times for 9."""
    width = np.full((100, 100), 16.45)
    fit = {"together": {"all": 1.0}, "variance": 1 / 1.645**2}
    assert uncertainty.volume_width_km3(width, 1000.0, fit) == pytest.approx(1.645, rel=1e-3)
    fit["together"]["all"] = 9.0
    assert uncertainty.volume_width_km3(width, 1000.0, fit) == pytest.approx(3 * 1.645, rel=1e-3)
    noise = np.random.default_rng(0).standard_normal((400, 60, 60))
    errors = 10 * scipy.ndimage.uniform_filter(noise, (1, 3, 3), mode="wrap") * 3
    fit["together"]["all"] = uncertainty.cells_together(errors, np.ones(errors.shape, bool))
    within = np.abs(errors.sum(axis=(1, 2))) / 1000 <= uncertainty.volume_width_km3(
        np.full((60, 60), 16.45), 1000.0, fit)
    assert within.mean() == pytest.approx(0.9, abs=0.05)

