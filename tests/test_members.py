"""Members: their noise, its distribution and correlation, their calibration, and what they keep."""

import netCDF4
import numpy as np
import pytest
import scipy
from conftest import run_main, write_map
from test_downscale import CALIBRATED, means, rough, save_map, write_run
from test_job_arrays import assert_strips_equal, make

import downscale
import model
from icesheet import figures, members, uncertainty

NORMAL = scipy.stats.norm.ppf((1 + uncertainty.QUANTILE_LEVELS) / 2)
NORMAL_TAIL = scipy.stats.norm.ppf((1 + np.array(members.TAIL_LEVELS)) / 2) / NORMAL[17]
SHARES = {"all": [0.0, 0.0, 1.0, 0.0], "grounded": [0.5, 0.0, 0.0, 0.5]}
MEMBER_FIT = {"lengths_cells": [0.0, 0.5, 1.0, 2.0], "length_shares": SHARES,
              "inflation": {"all": 1.0}, "tail_quantiles": NORMAL_TAIL.tolist()}
FIT = {"error_quantiles": (NORMAL / NORMAL[17]).tolist(), "members": MEMBER_FIT,
       "coverage_factors": {"all": 1.0}, "scale_by_thickness": False, "slope": 1.0,
       "intercept": 0.0}
SETTINGS = {"scale": 4, "data": {"degrade": "area"}}
make_consistent = model.remove_thin_ice_compiled


def test_noise_of_a_part_is_that_of_the_whole_bit_for_bit():
    types = {"grounded": np.arange(200) < np.full((150, 1), 90)}
    whole = members.draw_noise(MEMBER_FIT, types, 7, 3, slice(-20, 130), slice(0, 200))
    for y, x in ((slice(0, 1), slice(5, 6)), (slice(-9, 70), slice(60, 133))):
        rows = slice(y.start + 20, y.stop + 20)
        part = members.draw_noise(MEMBER_FIT, {"grounded": types["grounded"][rows, x]}, 7, 3, y, x)
        assert np.array_equal(part, whole[rows, x])
    others = [members.draw_noise(MEMBER_FIT, types, *seed_and_member, slice(-20, 130),
                                 slice(0, 200)) for seed_and_member in ((8, 3), (7, 4))]
    for one, other in ((whole, others[0]), (whole, others[1]), (whole[:, 64:], whole[:, :-64]),
                       (whole[64:], whole[:-64])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


def test_correlation_of_the_noise_is_the_one_that_was_fitted():
    """By lag (y, x): half of the variance is white, half of kernels exp(-d^2 / 8) wide."""
    shape = (700, 700)
    noise = members.draw_noise(MEMBER_FIT, {"grounded": np.ones(shape, bool)}, 0, 1,
                               slice(0, 700), slice(0, 700))
    assert noise.std() == pytest.approx(1, abs=0.02)
    for y, x in ((0, 1), (3, 0), (2, 2), (9, 0)):
        expected = 0.5 * np.exp(-(y**2 + x**2) / 16)  # half, of a kernel with itself
        found = np.mean(noise[y:, x:] * noise[:700 - y, :700 - x])
        assert found == pytest.approx(expected, abs=0.02)
    assert members.kernel_correlation(2.0, 4) == pytest.approx(
        np.exp(-np.arange(4)**2 / 16), abs=1e-3)


def test_noise_has_the_distribution_of_the_errors():
    fit = {"error_quantiles": (uncertainty.QUANTILE_LEVELS**2 / 0.81).tolist()}
    noise = members.draw_white_noise(0, 1, 0, slice(0, 1000), slice(0, 1000))
    error = members.error_from_noise(noise, fit, (1.5, 3.0))
    assert np.quantile(np.abs(error), uncertainty.QUANTILE_LEVELS) == pytest.approx(
        fit["error_quantiles"], abs=0.01)
    # The exponential tail: 1.5 more for every tenth of the cells.
    assert np.quantile(np.abs(error), [0.99, 0.999, 0.9999]) == pytest.approx(
        [1.5, 3, 4.5], rel=0.05)
    assert np.mean(error > 0) == pytest.approx(0.5, abs=0.002)
    np.testing.assert_allclose(members.noise_from_error(error, fit, (1.5, 3.0)), noise, atol=1e-6)


def test_covariance_that_coarse_means_leave():
    """White noise in 4 x 4 cells: 15/16, and -1/16 for three of four neighbours."""
    found = members.covariance_within_cells(0.0, 4, 9)
    assert found == pytest.approx([15/16, -3/64, -2/64, -1/64, 0, 0, 0, 0, 0])
    noise = members.draw_smooth_noise(1.5, 0, 1, 0, slice(0, 800), slice(0, 800))
    means = noise.reshape(200, 4, 200, 4).mean(axis=(1, 3), keepdims=True)
    noise = (noise.reshape(200, 4, 200, 4) - means).reshape(1, 800, 800)
    assert members.measure_covariance(noise, np.ones(noise.shape, bool), 9) == pytest.approx(
        members.covariance_within_cells(1.5, 4, 9), abs=0.01)


def made_sample(width_m=30.0, n=12):
    """Return a sample of thick ice whose errors are noise of MEMBER_FIT without coarse means.

    Errors of a cell are normal, 90 % of them less than its half-width.
    """
    shape = (n * 48, 48)
    types = {"all": np.ones(shape, bool), "grounded": np.arange(48) < np.full((n * 48, 1), 24)}
    error = members.draw_noise(MEMBER_FIT, types, 11, 5, slice(0, n * 48), slice(0, 48))
    blocks = error.reshape(n * 12, 4, 12, 4)
    error = (blocks - blocks.mean(axis=(1, 3), keepdims=True)).reshape(n, 48, 48)
    types = {name: cells.reshape(error.shape) for name, cells in types.items()}
    for cells in (types["grounded"], ~types["grounded"]):
        error[cells] /= np.quantile(np.abs(error[cells]), 0.9) / width_m
    thk = np.full(error.shape, 2000.0)
    return {"errors": {"model": error}, "spread": np.full(error.shape, width_m), "thk": thk,
            "types": types}


def test_members_of_made_errors_cover_what_they_should():
    """Correlation, spread and half-cell volumes of the errors come back from their sample."""
    sample = made_sample()
    fit = FIT | {"coverage_factors": {"all": 1.0, "grounded": 1.0}}
    fit |= members.fit_members([sample], fit, SETTINGS, make_consistent)
    found = fit["members"]
    correlations = [
        np.dot(fit["length_shares"]["grounded"],
               [members.kernel_correlation(length, 5) for length in fit["lengths_cells"]])
        for fit in (found, MEMBER_FIT)]
    np.testing.assert_allclose(*correlations, atol=0.08)
    # 1 / sqrt(what coarse means leave of the variance)
    left = np.dot(SHARES["grounded"], [members.covariance_within_cells(length, 4, 1)[0]
                                       for length in MEMBER_FIT["lengths_cells"]])
    assert found["inflation"]["grounded"] == pytest.approx(left**-0.5, rel=0.05)
    label = (sample["thk"] - sample["errors"]["model"]).reshape(-1, 48)
    grounded = {"grounded": sample["types"]["grounded"].reshape(-1, 48)}
    n = len(label)
    drawn = [members.draw_member(
        np.full((n, 48), 2000.0), np.full((n // 4, 12), 2000.0), np.full((n, 48), 30.0),
        grounded, fit, 0, member, slice(0, n), slice(0, 48), make_consistent)
        for member in range(19)]
    assert members.share_in_range(drawn, label).mean() == pytest.approx(0.9, abs=0.02)
    halves, half_label = (np.reshape(field, (*np.shape(field)[:-2], n // 4, 4, 24, 2)).sum(
        axis=(-3, -1)) for field in (drawn, label))
    assert members.share_in_range(halves, half_label).mean() == pytest.approx(0.9, abs=0.03)


def test_point_samples_have_no_members():
    settings = SETTINGS | {"data": {"degrade": "bicubic"}}
    assert members.fit_members([made_sample(n=1)], FIT, settings, None) == {}


def test_a_member_keeps_the_coarse_map_and_what_is_determined():
    rng = np.random.default_rng(0)
    coarse = np.float32(rng.uniform(5, 300, (10, 12)))
    coarse[:, :3] = 0
    thk = np.kron(coarse, np.ones((4, 4), np.float32))
    width = np.where(thk > 0, 200, 0).astype(np.float32)
    width[:8, 20:24] = np.nan  # two coarse cells without a bed
    found = members.draw_member(thk, coarse, width, {}, FIT, 0, 1, slice(0, 40), slice(0, 48),
                                make_consistent)
    assert found.dtype == np.float32 and found.min() == 0
    np.testing.assert_allclose(found.reshape(10, 4, 12, 4).mean(axis=(1, 3)), coarse, atol=0.01)
    unchanged = ~(width > 0)
    assert np.array_equal(found[unchanged], thk[unchanged])
    assert np.std((found - thk)[~unchanged]) > 40


def test_share_in_range_by_hand():
    """Three members: the label has to be second or third of four; equal ones by chance."""
    drawn = np.array([[1, 1, 1, 0, 0], [2, 2, 2, 0, 0], [3, 3, 3, 4, 0]], float)
    label = np.array([0.5, 1.5, 3.5, 0, 0])
    assert members.share_in_range(drawn, label) == pytest.approx([0, 1, 0, 2 / 3, 1 / 2])


# ---------------------------------------------------------------- files


@pytest.fixture
def two_orientations(monkeypatch):
    """The self-ensemble has 2 members in place of 8, for its spread alone."""
    monkeypatch.setitem(model.SELF_ENSEMBLE_MEMBERS, 8, (0, 3))


def write_run_with_members(**changes):
    fit = CALIBRATED["uncertainty"] | {"members": MEMBER_FIT}
    return write_run(scatter=0.05, **CALIBRATED | {"uncertainty": fit} | changes)


def test_members_of_strips_and_single_members_are_those_of_the_whole(
        folder, monkeypatch, quick_figures, uncompiled, two_orientations):
    """Bit for bit; with other tiles as near as the predictions are. `thk` is the prediction."""
    write_run_with_members()
    thk, topg = rough(40, 5)
    thk[:, 0], topg[30, 2] = 0, np.nan
    x, y = 20e3 * np.arange(5), 20e3 * np.arange(40)
    save_map("coarse.nc", thk[::-1], topg[::-1], at=(x, y[::-1]))
    options = ("--members", "2", "--seed", "5")
    untiled, _ = make("untiled.nc", *options)
    monkeypatch.setattr(downscale, "MAX_TILE_CELLS", 1)
    whole, about = make("whole.nc", *options)
    assert about["members"] == "1 2" and about["member_seed"] == 5
    drawn = whole.pop("thk_member")
    assert drawn.shape == (2, 160, 20) and list(whole.pop("realization")) == [1, 2]
    assert np.mean(np.abs(drawn - untiled["thk_member"]) > 1) < 1e-2
    strips = [make(f"strip_{k}.nc", *options, "--member", "2", "--strip", f"{k}/2")[0]
              for k in (1, 2)]
    assert [list(strip.pop("realization")) for strip in strips] == [[2], [2]]
    joined = np.concatenate([strip.pop("thk_member")[0] for strip in strips[::-1]])
    assert joined.tobytes() == drawn[1].tobytes()
    assert_strips_equal(strips, whole, downwards=True)
    assert drawn.min() == 0
    for member in drawn:
        np.testing.assert_allclose(means(member), thk[::-1], atol=0.01)
        free = whole["thk_uncertainty"] > 1
        assert np.std((member - whole["thk"])[free] / whole["thk_uncertainty"][free]) > 0.3
    assert not drawn[:, whole["thk_source"] == 3].any()  # no ice in the coarse cell
    assert np.corrcoef(*(drawn - whole["thk"])[:, free])[0, 1] < 0.2


def test_members_of_all_times_have_the_same_noise(
        folder, quick_figures, uncompiled, two_orientations, capsys):
    """As CF has them, realization first; the file is made again for other members alone."""
    write_run_with_members()
    thk, topg = rough(4, 4)
    write_map("coarse.nc", {"time": 2, "y": 4, "x": 4}, {
        "time": (("time",), np.arange(2.0), {"units": "days since 2000-01-01"}),
        "x": (("x",), 20e3 * np.arange(4), {"units": "m"}),
        "y": (("y",), 20e3 * np.arange(4), {"units": "m"})}, {
        "thk": (("time", "y", "x"), np.stack([thk, thk]), {"units": "m"}),
        "topg": (("y", "x"), topg, {"units": "m"})})
    argv = ("--members", "2", "--time", "all")
    drawn = make("fine.nc", *argv)[0]["thk_member"]
    assert drawn.shape == (2, 2, 16, 16)
    assert np.array_equal(drawn[:, 0], drawn[:, 1]) and not np.array_equal(*drawn)
    with netCDF4.Dataset("fine.nc") as ds:
        assert ds["realization"].standard_name == "realization"
        assert ds["thk_member"].dimensions == ("realization", "time", "y", "x")
        assert ds["thk_member"].standard_name == "land_ice_thickness"
    for changed, options in ((False, argv), (True, (*argv, "--seed", "1")), (True, argv[2:])):
        capsys.readouterr()
        make("fine.nc", *options)
        assert ("left as it is" in capsys.readouterr().out) != changed


def test_the_figure_of_members(folder, monkeypatch, uncompiled, two_orientations):
    plotted = []
    monkeypatch.setattr(figures, "plot_map", lambda *args: plotted.append(args[3]) or (
        figures.plt.figure(figsize=(1, 1))))
    write_run_with_members()
    save_map("coarse.nc", *rough(8, 12))
    fields = make("fine.nc", "--members", "5")[0]
    assert len(list((folder / "results/made").glob("members_fine_x4_*.png"))) == 1
    names, panels, kinds = zip(*plotted[-1], strict=True)
    assert names == (*(f"member {k} - prediction" for k in (1, 2, 3, 4)), "90 % interval")
    assert kinds == ("error",) * 4 + ("width",)
    np.testing.assert_allclose(panels[3], fields["thk_member"][3] - fields["thk"])
    np.testing.assert_allclose(panels[4], fields["thk_uncertainty"])


@pytest.mark.parametrize("changes, argv, message", [
    (CALIBRATED, [], "python train.py --calibrate --run made"),
    (CALIBRATED | {"data": {"degrade": "bicubic"}}, [], "trained on point samples"),
    ({}, ["--self-ensemble", "2"], "leave out --self-ensemble"),
    ({}, ["--members", "0"], "--members 0: expected a number of members, 1 or more"),
    ({}, ["--member", "3"], "--member 3: expected K from 1 to 2"),
    ({}, ["--seed", "-1"], "--seed -1: expected 0 or more")])
def test_members_that_cannot_be_drawn_are_one_line(folder, capsys, changes, argv, message):
    write_run_with_members(**changes)
    save_map("coarse.nc", *rough(4, 4))
    status, said = run_main(downscale.main, [
        "coarse.nc", "--run", "made", "--output", "fine.nc", "--members", "2", *argv], capsys)
    assert status == 2 and message in said and said.count("\n") == 1


@pytest.mark.parametrize("argv, message", [
    (["--output", "fine.nc", "--seed", "1"], "--seed is about members; add --members N"),
    (["--reconstruct", "--members", "2"], "--members is about the file of --output")])
def test_options_of_members_need_members(folder, capsys, argv, message):
    status, said = run_main(downscale.main, ["coarse.nc", "--run", "made", *argv], capsys)
    assert status == 2 and message in said and said.count("\n") == 1
