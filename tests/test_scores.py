"""Errors, tables and spectra by hand."""

import numpy as np
import pytest

from icesheet.scores import (
    compute_errors, compute_rmse_m, compute_spectra, power_spectrum, print_ice_extent_table,
    score_methods)


def test_table_of_methods_by_hand(capsys):
    """Ice in 3 of 4 cells of 5 km; the network misses one, bicubic has ice in the fourth."""
    label = np.array([100.0, 200, 300, 0])
    errors = score_methods({"bicubic": label + 4, "model": label - [100, 0, 10, 0]}, label,
                           np.ones(4, bool), 1000.0, 5000.0)["errors"]
    print_ice_extent_table(errors)
    assert capsys.readouterr().out.splitlines() == [
        "         MAE m  false ice km2  missed ice km2  ice area %",
        "bicubic    4.0             25               0      +33.33",
        "network   27.5              0              25      -33.33"]
    print_ice_extent_table(errors, {"bicubic": {"least": "0.1"}, "model": {"least": "0.2"}})
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "least", "0.1", "0.2"]


def test_no_ice_has_no_per_cent_of_its_area(capsys):
    print_ice_extent_table({"model": compute_errors(np.ones(3), np.zeros(3), 1000.0, 5000.0)})
    assert capsys.readouterr().out.splitlines()[1].split() == ["network", "1.0", "0", "0", "-"]


def test_power_spectrum_of_a_wave_and_of_noise():
    spacing_m, n = 5000.0, 41
    wavenumber, power = power_spectrum(
        7.0 + 30 * np.sin(2 * np.pi * 8 / n * np.arange(n)) * np.ones((3, n, 1)), spacing_m)
    np.testing.assert_allclose(wavenumber, np.arange(1, 21) / (41 * 5))  # cycles per km
    assert np.argmax(power) == 8 - 1
    step = wavenumber[0]
    assert np.sum(power * 2 * np.pi * wavenumber) * step == pytest.approx(30**2 / 2, rel=0.05)
    assert np.all(power[[*range(5), *range(10, 20)]] < 1e-6 * power.max())

    noise = 100 + 20 * np.random.default_rng(0).standard_normal((400, n, n))
    power = power_spectrum(noise, spacing_m)[1]
    np.testing.assert_allclose(power[1:], 20**2 * 5**2, rtol=0.1)  # times (1 / 5 km)2: 20 m squared


def test_sub_grid_power_is_what_lies_between_coarse_and_fine_grid():
    """Waves of 41 / 10 cells (20.5 km) at 4x, where the coarse grid ends at 40 km."""
    wave = 100 * np.sin(2 * np.pi * 10 / 41 * np.arange(41)) * np.ones((2, 41, 1))
    settings = {"scale": 4, "data": {"spacing_m": 5000.0}}
    by_method = {"bicubic": 0 * wave, "surface_minus_bed": -wave, "model": wave / 2}
    spectrum, sub_grid_power = compute_spectra(by_method, wave, settings)
    for method, power, explained in (("bicubic", 0, 0), ("surface_minus_bed", 1, -3),
                                     ("model", 0.25, 0.75)):
        assert sub_grid_power[method] == pytest.approx({"power": power, "explained": explained})
    assert spectrum["wavelength_km"][np.argmax(spectrum["label"])] == pytest.approx(20.5)
    slow = 100 * np.sin(2 * np.pi * 2 / 41 * np.arange(41)) * np.ones((2, 41, 1))
    sub_grid_power = compute_spectra({"model": wave + slow}, wave, settings)[1]
    assert sub_grid_power["model"]["explained"] == pytest.approx(1, abs=1e-3)  # not of 100 km


def test_errors_by_hand():
    found = compute_errors(np.array([[110.0, 0]]), np.array([[100.0, 20]]), 1000.0, 5000.0)
    assert found == pytest.approx({
        "mse": 250e-6, "rmse_m": np.sqrt(250), "mae_m": 15, "bias_m": -5,
        "volume_error_km3": -10 * 25e6 / 1e9, "volume_error_percent": -100 * 10 / 120,
        "false_ice_km2": 0, "missed_ice_km2": 25, "ice_area_error_percent": -50})
    ocean = compute_errors(np.ones(4), np.zeros(4), 1000.0, 1000.0)
    assert ocean["volume_error_km3"] == pytest.approx(4e-3)
    assert "volume_error_percent" not in ocean
    assert "ice_area_error_percent" not in ocean
    assert compute_rmse_m(np.array([[3.0], [1]]), np.zeros((2, 1)), axis=1) == pytest.approx([3, 1])


def test_false_and_missed_ice_by_hand():
    """Of 8 cells of 2 km 4 are ice; the result has 2 of them, and 3 beside. 1 m is no ice."""
    label = np.array([[500.0, 2, 30, 900], [0, 0, 1, 0.5]])
    thk = np.array([[400.0, 9, 1, 0.0], [3, 2, 1.5, 1]])
    found = compute_errors(thk, label, 1000.0, 2000.0)
    assert (found["false_ice_km2"], found["missed_ice_km2"]) == (12, 8)
    assert found["ice_area_error_percent"] == pytest.approx(25)
    other = compute_errors(label, thk, 1000.0, 2000.0)
    assert (other["false_ice_km2"], other["missed_ice_km2"]) == (8, 12)
    assert other["ice_area_error_percent"] == pytest.approx(-20)


def test_score_by_hand():
    """Only the chosen cells count; a method without an error has no ratio, and nothing is NaN."""
    label, cells = np.array([100.0, 100, 100, 0]), np.array([True, True, False, False])
    thickness = {"bicubic": label + [4, -4, 999, 0], "perfect": label + [0.005, 0.005, 7, 0],
                 "model": label + [1, 1, 999, 999]}
    found = score_methods(thickness, label, cells, 1000.0, 1000.0)
    assert found["n_cells"] == 2
    assert found["mse_ratio"] == {"bicubic": pytest.approx(1 / 16)}
    assert list(found["errors"]) == ["bicubic", "perfect", "model"]
    assert found["errors"]["bicubic"] == pytest.approx({
        "mse": 16e-6, "rmse_m": 4, "mae_m": 4, "bias_m": 0, "volume_error_km3": 0,
        "volume_error_percent": 0, "false_ice_km2": 0, "missed_ice_km2": 0,
        "ice_area_error_percent": 0})
    nowhere = score_methods(thickness, label, np.zeros(4, bool), 1000.0, 1000.0)
    assert nowhere == {"n_cells": 0, "errors": {}, "mse_ratio": {}}
