"""Sub-grid fields on coarse cells: hand values, pinning points block by block, the file."""

import json

import netCDF4
import numpy as np
import pytest
from conftest import run_main, write_map
from test_downscale import axes, means, rough, save_map, write_run

import downscale
from icesheet import flow_metrics, map_files, subgrid

pytestmark = pytest.mark.usefixtures("quick_figures", "uncompiled")


def read(path):
    with netCDF4.Dataset(path) as ds:
        ds.set_auto_mask(False)
        return {name: variable[...] for name, variable in ds.variables.items()}, dict(ds.__dict__)


def make(*argv, output="fine.nc"):
    """Return the finer map of coarse.nc and its sub-grid fields, and the attributes of these."""
    assert downscale.main(["coarse.nc", "--run", "made", "--output", output, "--coarse-output",
                           f"subgrid_of_{output}", *argv]) == 0
    return read(output)[0], *read(f"subgrid_of_{output}")


def test_fields_of_single_cells_by_hand():
    """A bed that is a plane; ice on half of a cell; half grounded and half floating; unknown."""
    plane = np.float32(100 + 10 * np.arange(4) + np.zeros((4, 1)))  # 115 +- 5, +- 15 m
    half = np.float32([[200, 200, 0, 0]] * 4)
    thk = np.hstack([half, np.full((4, 4), 500), half, half]).astype(np.float32)
    topg = np.hstack([plane] * 4)
    mask = np.int8([[2, 2, 1, 1, 2, 3, 2, 3, 3, 3, 0, 0, -1, 2, 0, -1]] * 4)
    thk[0, 0], thk[0, 2] = 100, 100  # 100 and 100 in place of 200 and 0
    topg[3, 15] = np.nan
    pinned = np.zeros((4, 16), bool)
    pinned[:3, 4] = True
    fields = subgrid.compute_subgrid_fields(
        {"thk": thk, "topg": topg, "mask": mask, "pinned": pinned}, 4)
    expected = {
        "sftgif": [9 / 16, 1, 1 / 2, 1 / 2], "sftgrf": [1 / 2, 1 / 2, 0, np.nan],
        "sftflf": [0, 1 / 2, 1 / 2, np.nan], "pinned_fraction": [0, 3 / 16, 0, np.nan],
        "thk": [100, 500, 100, 100],
        "thk_stddev": [np.sqrt(7 / 8) * 100, 0, 100, 100],
        "topg": [115, 115, 115, np.nan], "topg_stddev": [np.sqrt(125)] * 3 + [np.nan]}
    assert fields.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(fields[name], [values], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("rows_per_read", [1, 3, 40])
def test_pinning_points_do_not_depend_on_how_the_map_is_read(rows_per_read):
    """They are those of the whole map; a ring of grounded ice winds through all of the blocks."""
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 2, 3], p=[0.01, 0.25, 0.74], size=(40, 60))
    mask[4:36, 4:30] = 3
    mask[6:34, 6:28] = 2
    mask[8:32, 8:26] = 3
    mask[20, 27] = 0
    mask[10:30, 14:16] = 2  # a long pinning point in it
    blocks = [slice(start, min(start + rows_per_read, 40)) for start in range(0, 40, rows_per_read)]
    pinned = np.concatenate(list(subgrid.find_pinned_cells(lambda rows: mask[rows], 40, blocks)))
    np.testing.assert_array_equal(pinned, flow_metrics.label_pinning_points(mask) > 0)
    assert pinned[10:30, 14:16].all() and not pinned[6:34, 6].any() and pinned.sum() > 60


@pytest.mark.parametrize("downwards", [False, True])
def test_fractions_and_means_are_those_of_the_finer_map(folder, monkeypatch, capsys, downwards):
    """Areas as its attributes say; unknown stays unknown; read as a map it is the input again."""
    monkeypatch.setattr(subgrid, "CELLS_PER_READ", 200)
    write_run(scatter=0.05)
    thk, topg = rough(12, 10)
    thk[5, 3] = topg[5, 3] = np.nan
    x, y = axes(12, 10)
    save_map("coarse.nc", thk, topg, at=(x, y[::-1] if downwards else y))
    fine, coarse, attributes = make()
    np.testing.assert_allclose(coarse["y"], y[::-1] if downwards else y)
    np.testing.assert_allclose(coarse["x"], x)
    unknown = np.isnan(means(fine["thk"]))
    assert unknown[5, 3] and (np.isnan(coarse["sftgif"]) == unknown).all()
    for name, cells in (("sftgif", fine["mask"] >= 2), ("sftgrf", fine["mask"] == 2),
                        ("sftflf", fine["mask"] == 3)):
        np.testing.assert_allclose(coarse[name][~unknown], means(cells)[~unknown], rtol=1e-6)
    np.testing.assert_allclose(coarse["sftgrf"] + coarse["sftflf"], coarse["sftgif"], rtol=1e-6)
    assert np.nanmax(coarse["pinned_fraction"] - coarse["sftgrf"]) <= 0
    areas = json.loads(attributes["ice_numbers"])[0]["projected_area"]["fine"]
    for name, kind in (("sftgif", "ice"), ("sftgrf", "grounded"), ("sftflf", "floating")):
        area_km2 = 400 * np.nansum(coarse[name], dtype=float)
        assert area_km2 > 0 and area_km2 == pytest.approx(areas[f"{kind}_area_km2"], rel=1e-6)
    np.testing.assert_allclose(coarse["thk"], thk, atol=0.01)
    assert (attributes["Conventions"], attributes["scale"]) == ("CF-1.8", 4)
    assert attributes["model_run"] == "made" and "source_sha256" in attributes
    again = map_files.read_map("subgrid_of_fine.nc")  # no standard deviation is taken for a field
    np.testing.assert_allclose(again["thk"], np.nan_to_num(thk[::-1 if downwards else 1]),
                               atol=0.01)
    assert again["topg_std"] is None
    capsys.readouterr()
    make()
    assert "subgrid_of_fine.nc: complete, left as it is" in capsys.readouterr().out
    make("--fill-missing")  # another finer map
    assert "wrote    subgrid_of_fine.nc" in capsys.readouterr().out


def test_times_and_strips_have_their_own_files(folder, monkeypatch, capsys):
    """A bed that does not change has no time; a strip has its rows, but no pinning."""
    monkeypatch.setattr(downscale, "MAX_TILE_CELLS", 1)
    write_run()
    thk, topg = rough(75, 6)
    x, y = axes(75, 6)
    write_map("coarse.nc", {"time": 2, "y": 75, "x": 6}, {
        "time": (("time",), np.arange(2.0), {"units": "days since 2000-01-01"}),
        "x": (("x",), x, {"units": "m"}), "y": (("y",), y, {"units": "m"})},
        {"thk": (("time", "y", "x"), thk * np.float32([[[1]], [[0.5]]]), {"units": "m"})})
    save_map("bed.nc", topg, topg)
    argv = ["--bed", "bed.nc", "--time", "all"]
    fine, whole, _ = make(*argv)
    np.testing.assert_array_equal(whole["time"], [0, 1])
    assert whole["topg"].shape == (75, 6) and whole["sftgif"].shape == (2, 75, 6)
    for time_index in (0, 1):
        np.testing.assert_allclose(whole["sftgrf"][time_index],
                                   means(fine["mask"][time_index] == 2), rtol=1e-6)
    _, strip, _ = make(*argv, "--strip", "2/2", output="strip.nc")
    assert strip.keys() == whole.keys() - {"pinned_fraction"}
    for name in ("y", "topg_stddev", "thk_stddev"):
        of_strip = whole[name][..., -strip["topg"].shape[0]:, :] if name != "y" else (
            whole[name][-len(strip["y"]):])
        np.testing.assert_array_equal(strip[name], of_strip)
    assert "no pinned_fraction, because" in capsys.readouterr().out


@pytest.mark.parametrize("argv, message", [
    (["--output", "fine.nc", "--coarse-output", "./fine.nc"], "this is the input fine.nc"),
    (["--output", "fine.nc", "--coarse-output", "coarse.nc"], "this is the input coarse.nc"),
    (["--reconstruct", "--coarse-output", "c.nc"], "--coarse-output is about the file of --output"),
])
def test_invalid_coarse_outputs_are_one_line(folder, capsys, monkeypatch, argv, message):
    save_map("coarse.nc", *rough(8, 8))
    monkeypatch.setattr(downscale, "open_run", lambda *args: pytest.fail("work before the check"))
    status, said = run_main(downscale.main, ["coarse.nc", "--run", "made", *argv], capsys)
    assert status == 2 and message in said and said.count("\n") == 1
