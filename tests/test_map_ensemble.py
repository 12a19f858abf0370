"""Ensembles: beds of one file by --bed-time; mean, spread, probabilities against hand values."""

import netCDF4
import numpy as np
import pytest
from conftest import run_main, write_map
from test_downscale import axes, save_map, write_run

import downscale
from icesheet import beds, map_ensemble

pytestmark = pytest.mark.usefixtures("quick_figures", "uncompiled")
BEDS_M = np.array([-3000.0, 100.0, 400.0])  # 900 m of ice float over the first


def read(path):
    with netCDF4.Dataset(path) as ds:
        ds.set_auto_mask(False)
        return {name: variable[...] for name, variable in ds.variables.items()}, dict(ds.__dict__)


def save_beds(path, dim="realization", coordinates=None):
    """Three flat beds, BEDS_M, on cells of 5 km, with a hole in the last."""
    x, y = axes(32, 32, 5000.0)
    topg = BEDS_M[:, None, None] * np.ones((3, 32, 32))
    topg[2, 10, 20] = np.nan
    return write_map(path, {dim: 3, "y": 32, "x": 32}, {
        "x": (("x",), x, {"units": "m"}), "y": (("y",), y, {"units": "m"})} | (coordinates or {}),
        {"topg": ((dim, "y", "x"), np.float32(topg), {"units": "m"})})


def test_every_bed_of_an_ensemble_is_selected_and_combined(folder, capsys):
    write_run()
    thk = np.full((8, 8), 900.0)
    thk[0, 0] = 0
    save_map("coarse.nc", thk)
    save_beds("beds.nc")
    names = [f"fine_{k}.nc" for k in range(3)]
    for k, name in enumerate(names):
        assert downscale.main(["coarse.nc", "--run", "made", "--bed", "beds.nc", "--bed-time",
                               str(k), "--output", name]) == 0
        assert f"bed beds.nc: realization index {k} of 3\n" in capsys.readouterr().out
        known = np.isfinite(read(name)[0]["topg"])
        np.testing.assert_array_equal(read(name)[0]["topg"][known], np.float32(BEDS_M[k]))
    assert map_ensemble.main([*names, "--output", "ensemble.nc"]) == 0
    fields, attributes = read("ensemble.nc")
    assert "3 members" in attributes["title"] and "fine_2.nc" in attributes["members"]
    known[10, 20] = False
    assert not known[10, 20] and known.sum() == 32 * 32 - 1
    inside = known.copy()
    inside[:16, :16] = False  # where the cell without ice changes its neighbours
    for name, value in (
            ("thk", 900), ("thk_stddev", 0), ("topg", BEDS_M.mean()),
            ("topg_stddev", np.std(BEDS_M, ddof=1)), ("ice_probability", 1),
            ("grounded_probability", 2 / 3), ("floating_probability", 1 / 3),
            ("usrf", (900 * (1 - 917 / 1027.5) + 1000 + 1300) / 3)):
        np.testing.assert_allclose(fields[name][inside], value, rtol=1e-5, atol=1e-3, err_msg=name)
    assert np.isnan(fields["grounded_probability"][10, 20]) and not fields["thk"][:4, :4].any()
    assert not fields["grounded_probability"][:4, :4].any()

    assert map_ensemble.main([*names, "--output", "ensemble.nc"]) == 0
    assert "ensemble.nc: complete, left as it is" in capsys.readouterr().out
    save_map("other.nc", thk[:, :6])
    assert downscale.main(["other.nc", "--run", "made", "--bed", "beds.nc", "--output",
                           "other_fine.nc"]) == 0
    capsys.readouterr()
    for argv, message in (
            (["fine_0.nc"], "1 files: expected 2 or more"),
            (["fine_0.nc", "./fine_0.nc"], "2 files: expected 2 or more, each of them once"),
            (["fine_0.nc", "coarse.nc"], "coarse.nc: not a finer map"),
            (["fine_0.nc", "other_fine.nc"], "other_fine.nc: x is not that of fine_0.nc"),
            (["fine_0.nc", "ensemble_2.nc"], "this is the input ensemble_2.nc")):
        status, said = run_main(map_ensemble.main, [*argv, "--output", "ensemble_2.nc"], capsys)
        assert status == 2 and message in said and said.count("\n") == 1


def test_statistics_of_random_members_in_parts(folder, monkeypatch):
    """Times and a bed without any; parts of the cells one by one; against NumPy."""
    rng = np.random.default_rng(0)
    thk, topg = rng.uniform(0, 3, (4, 2, 6, 9)), rng.normal(0, 1, (4, 6, 9))
    x, y = axes(6, 9)
    for k in range(4):
        write_map(f"{k}.nc", {"time": 2, "y": 6, "x": 9}, {
            "time": (("time",), np.arange(2.0), {}), "x": (("x",), x, {}), "y": (("y",), y, {})},
            {"thk": (("time", "y", "x"), np.float32(thk[k]), {}),
             "topg": (("y", "x"), np.float32(topg[k]), {})},
            {"model_run": "made", "title": "", "source": "", "citation": "", "densities": ""})
    monkeypatch.setattr(map_ensemble, "list_chunks", lambda variable: [
        (slice(0, 6), slice(0, 4)), (slice(0, 6), slice(4, 9))])
    assert map_ensemble.main(["--output", "all.nc", *(f"{k}.nc" for k in range(4))]) == 0
    fields, _ = read("all.nc")
    for name, expected in (
            ("thk", thk.mean(axis=0)), ("thk_stddev", thk.std(axis=0, ddof=1)),
            ("topg", topg.mean(axis=0)), ("topg_stddev", topg.std(axis=0, ddof=1)),
            ("ice_probability", (thk > 1).mean(axis=0))):
        np.testing.assert_allclose(fields[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert "usrf" not in fields and "grounded_probability" not in fields


@pytest.mark.parametrize("dim, coordinates, label", [
    ("member", {"member": (("member",), np.array([1, 2, 30]), {})},
     "member index 2 of 3 (member = 30)"),
    ("n", {}, "n index 2 of 3"),
    ("t", {"t": (("t",), np.arange(3.0), {"units": "days since 2000-01-01"})},
     "time index 2 of 3 (2000-01-03)"),
    ("record", {"years": (("record",), np.arange(3.0), {})}, "time index 2 of 3 (years = 2)")])
def test_the_beds_of_a_file_lie_along_a_dimension_of_any_name(tmp_path, dim, coordinates, label):
    with beds.open_bed(save_beds(tmp_path / "beds.nc", dim, coordinates)) as bed:
        assert bed["time_label"] == label
        np.testing.assert_array_equal(bed["read_topg"](slice(0, 2), slice(0, 2)), 400)
