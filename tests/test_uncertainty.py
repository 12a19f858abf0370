"""The width of intervals, their scores, and volumes: closed forms and made error fields."""

import numpy as np
import pytest
import scipy

from icesheet import uncertainty

# Quantiles of |error| / half-width, evenly up to 10/9.
EVEN = [float(share) / 0.9 for share in uncertainty.QUANTILE_LEVELS]


def made_errors(seed, n, size=1.0):
    """Return a sample as train.collect_calibration_sample does, of errors even up to a width.

    That is size 3 spread^0.8 thickness^0.2 / 0.9, times 2 where ice floats. The first column is
    determined; the boundary zone is in two patches only, too few for a factor of its own.
    """
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0, 60, (n, 30, 30))
    thk = np.full(spread.shape, 1.0) * rng.uniform(100, 4000, (n, 1, 1))
    floating = np.arange(30) >= np.full((n, 30, 1), 20)
    width = size * np.where(floating, 2, 1) * 3 * spread**0.8 * thk**0.2
    error = rng.uniform(-1, 1, spread.shape) * width / 0.9
    spread[..., 0], error[..., 0] = np.nan, 1e4
    every = np.isfinite(spread)
    types = {"all": every, "grounded": every & ~floating, "floating": floating,
             "ice_free": every & False, "boundary_zone": every & (np.arange(n) < 2)[:, None, None]}
    return {"errors": {"model": error, "bicubic": 2 * error}, "spread": spread, "thk": thk,
            "types": types}


@pytest.mark.parametrize("held_out, inflation", [
    (0, uncertainty.DEFAULT_INFLATION), (1.2, 1.2), (0.5, 1)])
def test_fit_finds_the_quantiles_of_a_synthetic_error_field(held_out, inflation):
    """Held-out patches make all intervals wider, never narrower."""
    samples = [made_errors(0, 20), made_errors(1, 12, held_out)][:1 + bool(held_out)]
    fit = uncertainty.fit_intervals(samples, scale_by_thickness=True)
    assert fit["slope"] == pytest.approx(0.8, abs=0.1)
    factors = fit["coverage_factors"]
    assert factors["floating"] / factors["grounded"] == pytest.approx(2, rel=0.05)
    assert set(factors) == {"all", "grounded", "floating"}
    assert fit["n_patches"] == {"all": 20, "grounded": 20, "floating": 20, "ice_free": 0,
                                "boundary_zone": 2}
    assert fit["n_held_out"] == (12 if held_out else 0)
    assert fit["spread_p99_m"] == pytest.approx(59.4, abs=0.3)
    assert fit["boundary_share"] == pytest.approx(0.1)
    # Errors of the size that it should be calibrated to.
    errors, spread, thk, types = made_errors(2, 20, inflation).values()
    types.pop("boundary_zone")
    width = uncertainty.compute_half_width(spread, thk, types, fit)
    half = uncertainty.compute_half_width(spread / 2, thk / 2, types, fit)
    np.testing.assert_allclose(half[spread > 5], width[spread > 5] / 2, rtol=0.02)
    assert not width[..., 0].any()
    for name in ("all", "grounded", "floating"):
        found = uncertainty.score_intervals(errors["model"], width, types[name],
                                            fit["error_quantiles"])
        assert found["coverage"]["0.9"] == pytest.approx(0.9, abs=0.02)
        if held_out != 0.5:
            assert found["coverage"]["0.5"] == pytest.approx(0.5, abs=0.02)
    assert fit["cells_per_effective_sample"]["all"] == pytest.approx(1, abs=0.1)
    one, other = (fit["constant_width"][method]["half_width_m"] for method in ("model", "bicubic"))
    assert other == pytest.approx({name: 2 * width for name, width in one.items()})


def test_half_width_by_hand():
    """e (3.9 + 0.1)^0.5 (98.9 + 0.1)^0.5 - 0.1; unknown types take the factor of all."""
    fit = {"intercept": 1.0, "slope": 0.5, "scale_by_thickness": True,
           "coverage_factors": {"all": 2.0, "boundary_zone": 3.0, "grounded": 1.5}}
    spread = np.array([[3.9, 3.9, 3.9, 3.9, 0, np.nan]])
    thk = np.full(spread.shape, 98.9)
    types = {"grounded": np.array([[1, 0, 0, 1, 0, 1]], bool),
             "floating": np.array([[0, 1, 0, 0, 0, 0]], bool),
             "boundary_zone": np.array([[0, 0, 0, 1, 0, 0]], bool)}
    width, least = np.e * np.sqrt(4 * 99) - 0.1, np.e * np.sqrt(0.1 * 99) - 0.1
    np.testing.assert_allclose(
        uncertainty.compute_half_width(spread, thk, types, fit),
        [[1.5 * width, 2 * width, 2 * width, 3 * width, 2 * least, 0]], rtol=1e-6)
    alone = uncertainty.compute_half_width(spread, thk, types, fit | {"scale_by_thickness": False})
    assert alone[0, 1] == pytest.approx(2 * (np.e * 2 - 0.1), rel=1e-6)
    uneven = np.zeros((1, 30))
    uneven[0, 15] = 9 * 99  # 99 m around, over 9 cells
    around = uncertainty.compute_local_scale(uneven, scale_by_thickness=True)
    np.testing.assert_allclose(around[0, 11:20], 99.1)
    np.testing.assert_allclose(around[0, [0, 10, 20]], 0.1)


def test_crps_of_known_distributions():
    """Even from -a to a: (e^2 + a^2) / 2a - a / 3 at |e| <= a. All at one point: the mean error."""
    error = np.array([0.0, 3.0, -6.0])
    exact = (error**2 + 36) / 12 - 2
    found = uncertainty.crps_m(error, np.full(3, 0.9 * 6), EVEN)
    np.testing.assert_allclose(found, exact, rtol=0.03)
    np.testing.assert_allclose(uncertainty.crps_m(error, np.zeros(3), EVEN), np.abs(error))
    # Normal errors with their own quantiles: sigma / sqrt(pi) on the average.
    normal = scipy.stats.norm.ppf((1 + uncertainty.QUANTILE_LEVELS) / 2)
    draws = 7 * np.random.default_rng(0).standard_normal(100_000)
    shape = list(normal / normal[17])
    score = uncertainty.crps_m(draws, np.full(draws.shape, 7 * normal[17]), shape)
    assert score.mean() == pytest.approx(7 / np.sqrt(np.pi), rel=0.02)
    wrong = uncertainty.crps_m(draws, np.full(draws.shape, 14 * normal[17]), shape)
    assert wrong.mean() > 1.1 * score.mean()


def test_intervals_of_a_synthetic_error_field_cover_what_they_should():
    rng = np.random.default_rng(0)
    width = rng.uniform(1, 100, (200, 200))
    error = width * rng.uniform(-1, 1, width.shape) / 0.9
    error[:, :20] = 1000
    cells = np.arange(200) >= np.full((200, 1), 20)
    found = uncertainty.score_intervals(error, width, cells, EVEN)
    assert found["n_cells"] == 200 * 180
    assert found["coverage"] == pytest.approx(
        {"0.5": 0.5, "0.8": 0.8, "0.9": 0.9, "0.95": 0.95}, abs=0.01)
    assert [decile["half_width_m"] for decile in found["deciles"]] == pytest.approx(
        np.arange(5.95, 100, 9.9), abs=1.5)
    for decile in found["deciles"]:
        assert decile["coverage"] == pytest.approx(found["coverage"], abs=0.03)
        assert decile["rmse_m"] == pytest.approx(decile["half_width_m"] / 0.9 / np.sqrt(3), rel=0.2)
    assert uncertainty.score_intervals(error, width, np.zeros_like(cells), EVEN) == {}


def test_constant_width_per_type_by_hand():
    """Errors of 1 to 100 m grounded and 1 to 10 m floating; the boundary zone is in too few."""
    error = np.tile(np.linspace(-100, 100, 201), (6, 2, 1))
    error[:, 1] /= 10
    every = np.ones(error.shape, bool)
    floating = every & (np.arange(2) == 1)[:, None]
    boundary_zone = every & (np.arange(6) < 4)[:, None, None]
    types = {"all": every, "grounded": ~floating, "floating": floating,
             "boundary_zone": boundary_zone}
    samples = [{"errors": {"bicubic": error}, "types": types}]
    found = uncertainty.fit_constant_width(samples, "bicubic")
    assert found["half_width_m"] == pytest.approx(
        {"all": 80.4, "grounded": 90, "floating": 9}, rel=0.01)
    # Such cells have the width of all: what they need of it is far from even.
    samples[0]["types"] = types | {"boundary_zone": every & False}
    found = uncertainty.fit_constant_width(samples, "bicubic")
    np.testing.assert_allclose(found["error_quantiles"], EVEN, rtol=0.02)


def test_error_of_a_bed_counts_only_with_what_differs_inside_a_coarse_cell():
    """Not correlated at all: 1 - 1/16 of the variance; over far more than a cell: nothing."""
    width = np.array([[30.0, 30.0, 0.0]], np.float32)
    error, grounded = np.full((1, 3), 100.0), np.array([[True, False, True]])

    def found(spacing_m):
        return uncertainty.add_bed_error(width, error, grounded, 4, spacing_m)

    np.testing.assert_allclose(found(1e6), [[np.hypot(30, 1.645 * 100 * np.sqrt(15 / 16)), 30, 0]],
                               rtol=1e-5)
    np.testing.assert_allclose(found(1.0), width, rtol=2e-3)
    # Two cells a side, 20 km apart: 4 pairs of a cell with itself, 8 along, 4 across.
    width = uncertainty.add_bed_error(width, error, grounded, 2, 20e3)
    inside = 1 - (4 + 8 * np.exp(-1) + 4 * np.exp(-np.sqrt(2))) / 16
    assert width[0, 0] == pytest.approx(np.hypot(30, 164.5 * np.sqrt(inside)), rel=1e-5)


def test_cells_per_effective_sample():
    """White noise: 1. Means over 3 x 3 cells: 9. One error in all of a patch: its cells near by."""
    noise = np.random.default_rng(0).standard_normal((60, 40, 40))
    every = np.ones(noise.shape, bool)
    assert uncertainty.cells_per_effective_sample(noise, every) == pytest.approx(1, abs=0.05)
    some = np.random.default_rng(1).uniform(size=noise.shape) < 0.3
    found = uncertainty.cells_per_effective_sample(np.where(some, noise, np.nan), some)
    assert found == pytest.approx(1, abs=0.1)
    smooth = scipy.ndimage.uniform_filter(noise, (1, 3, 3), mode="wrap")
    assert uncertainty.cells_per_effective_sample(smooth, every) == pytest.approx(9, rel=0.08)
    assert uncertainty.cells_per_effective_sample(100 * smooth, every) == pytest.approx(
        uncertainty.cells_per_effective_sample(smooth, every))
    one = np.ones(noise.shape) * noise[:, :1, :1]
    found = uncertainty.cells_per_effective_sample(one, every)
    assert found == pytest.approx(np.pi * 20.5**2, rel=0.05)
    assert uncertainty.cells_per_effective_sample(noise, ~every) == 1


TYPES = ("grounded", "floating", "ice_free")


def test_half_width_of_a_sum_of_correlated_errors():
    """100 x 100 cells, normal errors of 10 m: 1.645 x 10 m x 100, 3 times that for 9 cells."""
    width = np.full((100, 100), 16.45)
    grounded = {name: np.full(width.shape, name == "grounded") for name in TYPES}
    correlated = dict.fromkeys((*TYPES, "all"), 1.0)
    fit = {"cells_per_effective_sample": correlated, "variance": 1 / 1.645**2}
    for n, expected_m in ((1, 1645), (9, 4935), (1e9, 164500)):  # no more than all cells as one
        correlated["grounded"] = n
        found = uncertainty.half_width_of_sum(width, grounded, fit, (0, 1))
        assert found == pytest.approx(expected_m, rel=1e-3)
    noise = np.random.default_rng(0).standard_normal((400, 60, 60))
    errors = 10 * scipy.ndimage.uniform_filter(noise, (1, 3, 3), mode="wrap") * 3
    correlated["grounded"] = uncertainty.cells_per_effective_sample(
        errors, np.ones(errors.shape, bool))
    within = np.abs(errors.sum(axis=(1, 2))) <= uncertainty.half_width_of_sum(
        np.full(errors.shape, 16.45), {name: np.full(errors.shape, name == "grounded")
                                       for name in TYPES}, fit, (1, 2))
    assert within.mean() == pytest.approx(0.9, abs=0.05)


def test_half_cell_volume_coverage_by_hand():
    """4 x 4 cells are halves of 8: errors of 1 m in all of a half err 8 m; 4 x 4 determined."""
    width = np.full((4, 8), 1.0)
    width[:, 4:] = 0
    error = np.ones((4, 8))
    error[:, 2:4] = -1
    types = {name: np.full(width.shape, name == "grounded") for name in TYPES}
    # +- 1.645 sqrt(8) = 4.7 m
    fit = {"cells_per_effective_sample": dict.fromkeys((*TYPES, "all"), 1.0), "variance": 1.0}
    assert uncertainty.half_cell_volume_coverage(error, width, types, fit, 4) == 0
    assert uncertainty.half_cell_volume_coverage(error / 2, width, types, fit, 4) == 1  # 4 m
    error[:, 2:4] = [-1, 1]  # one half is off by 8 m, the other by 0
    assert uncertainty.half_cell_volume_coverage(error, width, types, fit, 4) == 0.5
    width[:, 3] = 0  # half of its cells are determined: it is off by 4 m of +- 3.3 m
    assert uncertainty.half_cell_volume_coverage(error, width, types, fit, 4) == 0
    error[:, 2] = 0.5
    assert uncertainty.half_cell_volume_coverage(error, width, types, fit, 4) == 0.5
    assert uncertainty.half_cell_volume_coverage(error, 0 * width, types, fit, 4) is None
