"""Errors, tables and spectra by hand."""

import numpy as np
import pytest

from icesheet.scores import (
    compute_errors, compute_spectra, power_spectrum, print_ice_extent_table, score_methods)


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
