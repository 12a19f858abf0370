"""Files, maps of every layout, ice geometry, operators, scores: against hand values."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import utils
from icesheet import command_line, files
from icesheet.command_line import InputError
from icesheet.scores import compute_errors, compute_rmse_m, score_methods
from icesheet.settings import diff_settings, format_differences

# ---------------------------------------------------------------- operators


def test_cell_means_by_hand():
    def means(size, coarse):
        return utils.coarsening_matrix(size, coarse, "area")

    np.testing.assert_allclose(means(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-12)
    np.testing.assert_allclose(means(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(means(3, 1), [[1 / 3] * 3])
    np.testing.assert_allclose(means(1, 1), [[1]])


def test_shares_of_cells_that_lie_anywhere_by_hand():
    """Source cells of 2 m from -1 to 7 m; target cells of 3 m from 0 to 9 m."""
    found = utils.overlap_matrix(np.array([0, 2, 4, 6.0]), np.array([1.5, 4.5, 7.5])).toarray()
    np.testing.assert_allclose(
        found, [[1 / 3, 2 / 3, 0, 0], [0, 0, 2 / 3, 1 / 3], [0, 0, 0, 1 / 3]], atol=1e-12)


@pytest.mark.parametrize("factor, size", [(2, 20), (4, 10), (8, 5), (16, 3)])
def test_reduction_sizes_and_what_each_keeps(factor, size):
    field = np.random.default_rng(factor).random((2, 41, 41))
    points = utils.coarsen_fields(field, factor, "bicubic")
    means = utils.coarsen_fields(field, factor, "area")
    assert points.shape == means.shape == (2, size, size)
    np.testing.assert_allclose(points[:, ::size - 1, ::size - 1], field[:, ::40, ::40])  # corners
    np.testing.assert_allclose(means.mean(axis=(1, 2)), field.mean(axis=(1, 2)))  # ice volume


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_constant_field_survives_at_every_level(degrade):
    sizes = {"fine": 5 * [41], "level": [3, 5, 10, 20, 41]}
    for grid in ("fine", "level"):
        levels = utils.build_levels(np.full((1, 41, 41), 1234.0), 16, degrade, grid)
        assert [level.shape for level in levels] == [(1, n, n) for n in sizes[grid]]
        for level in levels:
            np.testing.assert_allclose(level, 1234, rtol=1e-6)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_no_half_cell_shift(degrade):
    """A ramp comes back as itself (zoom mirrors at the edges: inside), a bump stays centred."""
    ramp = np.broadcast_to(np.arange(41.0), (1, 41, 41))
    level0 = utils.build_levels(ramp, 4, degrade, "fine")[0]
    inner = slice(12, 29) if degrade == "bicubic" else slice(2, 39)
    np.testing.assert_allclose(level0[..., inner], ramp[..., inner], atol=0.05)
    bump = np.exp(-(((np.arange(41) - 20.0) / 6) ** 2)) * np.ones((1, 41, 1))
    level0 = utils.build_levels(bump, 4, degrade, "fine")[0]
    np.testing.assert_allclose(level0, level0[..., ::-1], atol=1e-6)


def test_spline_keeps_ramps_and_passes_through_the_centres():
    centres = utils.cell_centres(10, 5)
    np.testing.assert_allclose(centres, [1, 3, 5, 7, 9])
    fine = utils.cell_centres(10, 10)
    np.testing.assert_allclose(utils.spline_matrix(centres, fine) @ centres, fine)
    np.testing.assert_allclose(utils.upsampling_matrix(5, 10, "area") @ centres, fine)
    # 15 cells over 5: every third fine centre is a coarse centre
    np.testing.assert_allclose(utils.upsampling_matrix(5, 15, "area")[1::3], np.eye(5),
                               atol=1e-12)
    np.testing.assert_array_equal(utils.upsampling_matrix(1, 3, "area"), np.ones((3, 1)))


def test_last_level_is_the_field_itself():
    field = np.random.default_rng(0).random((3, 41, 41)).astype(np.float32)
    for degrade in ("bicubic", "area"):
        for grid in ("fine", "level"):
            np.testing.assert_array_equal(utils.build_levels(field, 8, degrade, grid)[-1], field)


def test_levels_on_their_own_cells_by_hand():
    """Means of 4 x 4 and of 2 x 2 cells of a product of two rows."""
    along_x, along_y = np.array([1.0, 3, 2, 6, 0, 4, 5, 11]), np.array([1.0, 2, 5, 0])
    first, second, last = utils.build_levels((along_y[:, None] * along_x)[None], 4, "area", "level")
    np.testing.assert_allclose(first, [[[6, 10]]])  # 2 times 3 and 5
    np.testing.assert_allclose(second[0], np.outer([1.5, 2.5], [2, 4, 2, 8]))
    np.testing.assert_allclose(last[0], np.outer(along_y, along_x))
    # Point samples: a plane's, from corner to corner.
    plane = np.arange(41.0) + 100 * np.arange(41)[:, None]
    for level, n in zip(utils.build_levels(plane[None], 8, "bicubic", "level"), (5, 10, 20, 41),
                        strict=True):
        inside = slice(1, -1)  # zoom mirrors at the edges
        places = np.linspace(0, 40, n)
        np.testing.assert_allclose(level[0, inside, inside],
                                   (places + 100 * places[:, None])[inside, inside], atol=1.5)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_levels_on_the_fine_cells_are_the_own_ones_enlarged(degrade):
    field = np.random.default_rng(0).random((2, 41, 48))
    for own, fine in zip(utils.build_levels(field, 8, degrade, "level"),
                         utils.build_levels(field, 8, degrade, "fine"), strict=True):
        np.testing.assert_allclose(utils.upsample_fields(own, (41, 48), degrade), fine, atol=1e-5)


# ---------------------------------------------------------------- geometry of ice


def test_surface_and_thickness_by_hand():
    r = 917 / 1027.5
    # grounded inland, grounded below sea level, floating, ice-free land, open ocean
    thk = np.array([1000, 1000, 300, 0, 0.0])
    topg = np.array([500, -600, -800, 200, -3000.0])
    usrf = np.array([1500, 400, 300 * (1 - r), 200, 0])
    np.testing.assert_allclose(utils.surface_from_thickness(thk, topg), usrf)
    np.testing.assert_allclose(utils.thickness_from_surface(usrf, topg), thk, atol=1e-9)
    np.testing.assert_array_equal(utils.is_floating(thk, topg), [0, 0, 1, 0, 1])
    assert not utils.is_floating(utils.RHO_SEA, -utils.RHO_ICE)  # what just floats is grounded
    # Just at the grounding line both answers are the thickness that just floats.
    line = 650 * (1 / r - 1)
    np.testing.assert_allclose(utils.thickness_from_surface(line + np.array([-1e-9, 1e-9]), -650.0), 650 / r)
    assert utils.thickness_from_surface(100.0, 300.0) == 0  # rock above the surface


def test_ice_begins_at_one_thickness_everywhere():
    """0.5 m is no ice: not in a mask, not among the scored cells, not in a volume."""
    thin, topg = np.full((2, 2), 0.5), np.array([[100, -100], [0, np.nan]])
    assert not utils.is_ice(thin).any()
    assert utils.is_ice(np.array([0, 1, 1.001, np.nan])).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(utils.classify_cells(thin, topg), [[1, 0], [1, -1]])
    cells = utils.surface_type_masks(thin, np.nan_to_num(topg), 1)
    assert cells["ice_free"].all()
    assert not (cells["grounded"].any() or cells["floating"].any() or cells["boundary_zone"].any())
    assert not utils.surface_type_masks(thin, None, 1)["ice"].any()
    assert "volume_error_percent" not in compute_errors(2 * thin, thin, 1000.0, 1000.0)


def test_cell_type_by_hand():
    # ocean, land, at sea level, grounded, grounded below the sea, floating; nothing of an unknown
    thk = np.array([0, 0, 0, 500, 500, 500, 500, 0, np.nan, np.nan])
    topg = np.array([-300, 300, 0, 300, -300, -500, np.nan, np.nan, 100, np.nan])
    kind = utils.classify_cells(thk, topg)
    np.testing.assert_array_equal(kind, [0, 1, 1, 2, 2, 3, -1, -1, -1, -1])
    assert kind.dtype == np.int8
    assert [utils.CELL_TYPES[i] for i in kind[[0, 1, 3, 5]]] == [
        "ocean", "ice_free_land", "grounded_ice", "floating_ice"]


def test_cells_by_type_by_hand():
    # ocean, ice shelf, grounded below sea level, grounded on land, land without ice; 2 rows
    thk = np.array([[0, 0, 300, 300, 1000, 1000, 1000, 1000, 500, 0.0]] * 2)
    topg = np.array([[-900, -900, -900, -900, -800, -800, 50, 50, 50, 50.0]] * 2)
    cells = utils.surface_type_masks(thk, topg, boundary_cells=1)
    for name, row in (("grounded", [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]),
                      ("floating", [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
                      ("ice_free", [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
                      ("boundary_zone", [0, 1, 1, 1, 1, 0, 0, 0, 1, 1])):
        np.testing.assert_array_equal(cells.pop(name), [row, row])
    assert not cells
    wide = utils.surface_type_masks(thk, topg, boundary_cells=2)["boundary_zone"]
    np.testing.assert_array_equal(wide[0], [1, 1, 1, 1, 1, 1, 0, 1, 1, 1])

    bare = utils.surface_type_masks(thk, None, boundary_cells=1)
    assert set(bare) == {"ice", "boundary_zone"}
    np.testing.assert_array_equal(bare["ice"][0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(bare["boundary_zone"][0], [0, 1, 1, 0, 0, 0, 0, 0, 1, 1])
    for same in (np.zeros((3, 3)), np.full((3, 3), 500.0)):  # one type: nothing to be near to
        assert not utils.surface_type_masks(same, 0 * same, boundary_cells=9)["boundary_zone"].any()
    # At the thickness that just floats, ice counts as grounded; distance is that of the centres.
    thk, topg = np.full((5, 5), utils.RHO_SEA), np.full((5, 5), -utils.RHO_ICE)
    thk[2, 2] = 0
    cells = utils.surface_type_masks(thk, topg, boundary_cells=1.5)
    assert cells["grounded"].sum() == 24
    np.testing.assert_array_equal(cells["boundary_zone"], np.pad(np.ones((3, 3), bool), 1))


# ---------------------------------------------------------------- scores


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


# ---------------------------------------------------------------- files


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.atomic_write(path) as temporary:
        temporary.write_text("old")
    # What a computation raises while a file is open is its own, not a full disk.
    with pytest.raises(RuntimeError, match="^the sum went wrong$"), \
            files.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("the sum went wrong")
    for error in (RuntimeError("NetCDF: HDF error"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match="file.txt: cannot be written; is the disk full"), \
                files.atomic_write(path) as temporary, files.explain_write_errors(path):
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match="cannot be written"), files.atomic_write(path / "below"):
        pass  # a file is in the way of its folder


@pytest.mark.parametrize("output", ["map.nc", "./sub/../map.nc", "symbolic.nc", "hard.nc",
                                    "sub/map.nc", "sub"])
def test_an_output_that_is_an_input_is_refused(output, folder):
    (folder / "sub").mkdir()
    (folder / "map.nc").write_text("the user's map")
    Path("symbolic.nc").symlink_to(folder / "map.nc")
    Path("hard.nc").hardlink_to("map.nc")
    Path("sub/map.nc").symlink_to("../symbolic.nc")
    message = "sub: not a file" if output == "sub" else "this is .*map.nc, which is read"
    with pytest.raises(InputError, match=message):
        files.check_output_path(output, None, "absent.nc", folder / "map.nc")
    with pytest.raises(InputError, match=message):
        files.check_output_path(folder / output, "", "map.nc")
    with pytest.raises(InputError, match="this is later.nc"):  # where there is no file yet, too
        files.check_output_path("sub/../later.nc", "later.nc")


def test_an_output_of_its_own_is_fine(folder):
    for name in ("map.nc", "old.nc"):
        (folder / name).write_text("the same text")
    files.check_output_path("new.nc", "map.nc", None)
    files.check_output_path("old.nc", "map.nc")  # made anew
    files.check_output_path("map.nc")


def test_tables_keep_numbers_and_gaps(tmp_path):
    rows = [{"epoch": 1, "rmse_m": 0.1}, {"epoch": 2, "rmse_m": None}]
    for _ in range(2):  # written again as read, not a letter changes
        files.write_table(tmp_path / "t.csv", rows)
        assert (tmp_path / "t.csv").read_text() == "epoch,rmse_m\n1,0.1\n2,\n"
        rows = files.read_table(tmp_path / "t.csv")


def test_json_has_no_nan_in_it(tmp_path):
    path = tmp_path / "scores.json"
    files.write_json(path, {"rmse_m": 1.5})
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.write_json(path, {"rmse_m": bad})
    assert files.read_json(path, "") == {"rmse_m": 1.5}
    path.write_text("{")
    with pytest.raises(InputError, match="scores.json: not valid JSON .*; make it again"):
        files.read_json(path, "make it again")


def test_differences_say_where_in_the_settings_they_are():
    old = {"seed": 0, "gone": 1, "same": [1, 2], "data": {"seed": 0, "source": "a.nc"}}
    new = {"seed": 0, "same": [1, 2], "data": {"seed": 1, "source": "a.nc"}, "new": None, "lr": 0.1}
    found = diff_settings(old, new)
    assert found == {"gone": (1, None), "data.seed": (0, 1), "lr": (None, 0.1)}
    assert format_differences(found) == "gone 1 -> None; data.seed 0 -> 1; lr None -> 0.1"
    assert diff_settings(old, old) == {}



# ---------------------------------------------------------------- on screen


def test_tables_on_screen_are_aligned(capsys):
    command_line.print_table([("", "RMSE m", ""), ("bicubic", "1.5", "x"), ("model", "100.25", "")])
    assert capsys.readouterr().out == ("         RMSE m\n"
                                       "bicubic     1.5  x\n"
                                       "model    100.25\n")


def test_progress_says_how_long_it_will_take(capsys):
    for done in range(1, 101):
        command_line.show_progress("tile", done, 100, 2.5, "here   ")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21  # in a log, the first and every twentieth
    assert lines[0] == "tile     1/100   here     4:07 left"
    assert lines[-1] == "tile   100/100   here     0:00 left"


def test_a_kill_leaves_nothing_half_written(folder, capsys):
    def main():
        with files.atomic_write("fine.nc") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the signal comes first

    with pytest.raises(SystemExit) as stopped:
        command_line.run_script(main)
    assert stopped.value.code == 130
    assert "stopped" in capsys.readouterr().err
    assert not list(folder.iterdir())
