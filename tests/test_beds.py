"""Beds: read in parts, of any time, from files or from a map in memory."""

import json
import re

import netCDF4
import numpy as np
import pytest
from conftest import SMALL_WINDOW, example_settings, plain_map, run_main, write_map
from test_downscale import axes, downscaled, save_map, write_run
from test_map_layout import METRES, THK, TOPG, X, Y, standard_map

import downscale
import prepare_data
from icesheet import beds, files, map_files
from icesheet.command_line import InputError
from icesheet.patches import find_mismatch, read_patches, wanted_contents
from icesheet.settings import hash_settings


def test_a_bed_file_has_a_time_index_of_its_own(tmp_path):
    """Parts of a bed are read whatever the order of its axes, at any time."""
    dims = ("time", "y", "x")
    path = standard_map(
        tmp_path / "bed.nc", {"time": 2}, x=(("x",), X[::-1], METRES), thk=None,
        time=(("time",), np.array([0.0, 31.0]), {"units": "days since 1999-12-01"}),
        topg=(dims, np.stack([TOPG[:, ::-1], 2 * TOPG[:, ::-1]]), METRES))
    for time_index, topg, text in ((0, TOPG, "time index 0 of 2 (1999-12-01)"),
                                   (-1, 2 * TOPG, "time index 1 of 2 (2000-01-01)")):
        with beds.open_bed(path, time_index) as bed:
            np.testing.assert_array_equal(bed["x"], X)
            np.testing.assert_array_equal(bed["y"], Y)
            np.testing.assert_allclose(bed["read_topg"](slice(1, 3), slice(0, 3)), topg[1:3, 0:3])
            assert (bed["spacing_m"], bed["time_label"]) == (5000, text)
    own = beds.bed_in_memory(map_files.read_map(standard_map(tmp_path / "map.nc")))
    np.testing.assert_allclose(own["read_topg"](slice(1, 3), slice(0, 3)), TOPG[1:3, 0:3])
    assert set(own) == set(bed)
    assert beds.bed_in_memory(map_files.make_map(X, Y, THK)) is None
    with pytest.raises(InputError, match="no bed .* it has x, y, thk"), beds.open_bed(
            standard_map(tmp_path / "bare.nc", topg=None)):
        pass


def test_a_bed_of_the_same_numbers_is_not_another_one(tmp_path):
    """It is compared where its values are, not where the spline between them lies."""
    ice_map = map_files.read_map(standard_map(tmp_path / "map.nc"))
    standard_map(tmp_path / "same.nc")
    standard_map(tmp_path / "bed.nc", topg=(("y", "x"), TOPG + 7, METRES))
    for name, notes in (("map.nc", []), ("same.nc", []), ("bed.nc", [
            "note: the bed of bed.nc is not that of map.nc: RMS 7.0 m under ice (smooth over "
            "200 km: mean 7.0 m, RMS 7.0 m; the rest: RMS 0.0 m)"])):
        with beds.open_bed(tmp_path / name) as bed:
            assert beds.describe_bed_difference(ice_map, bed) == notes


def test_a_bed_that_has_moved_is_told_from_another_data_set(monkeypatch):
    """By what is smooth over 200 km, here 5 cells, and by the rest; in parts as in one."""
    monkeypatch.setattr(beds, "CELLS_PER_READ", 5000)
    rng, shape = np.random.default_rng(0), (60, 60)
    topg = 300 * rng.standard_normal(shape)
    ice_map = plain_map(shape, 40e3, thk=np.full(shape, 900.0), topg=topg) | {"name": "map"}
    noise = 100 * rng.standard_normal(shape)
    hill = 400 * np.hypot.outer(np.linspace(-1, 1, 60), np.linspace(-1, 1, 60))
    for difference, smooth_m, rest_m, moved, another in (
            (hill, np.sqrt(np.mean(hill**2)), 0, True, False), (noise, 20, 98, False, True),
            (hill + noise, np.sqrt(np.mean(hill**2)), 98, True, True)):
        fine = np.kron(topg + difference, np.ones((2, 2)))
        bed = beds.bed_in_memory(plain_map((120, 120), 20e3, -10e3, -10e3, topg=fine, thk=fine))
        means = beds.average_over_map(bed, ice_map)
        np.testing.assert_allclose(means, topg + difference, atol=0.01)
        (note,) = beds.describe_bed_difference(ice_map, bed | {"path": "bed.nc", "name": "bed.nc"})
        assert note.startswith("warning: the bed of bed.nc is not that of map: RMS ")
        assert ("add --reference-bed" in note) == moved and ("another data set" in note) == another
        smooth, rest = (float(number) for number in re.findall(r"RMS ([.\d]+) m[;)]", note))
        assert (smooth, rest) == (pytest.approx(smooth_m, abs=4), pytest.approx(rest_m, abs=4))


# ---------------------------------------------------------------- the bed of another time


@pytest.mark.usefixtures("quick_figures", "uncompiled")
def test_a_lowered_plane_is_lowered_on_the_finer_cells(folder, capsys):
    """By hand: the finer bed, an undulation on a plane, gets the plane that the map's bed lost."""
    write_run(first_guess="bicubic", channels="thk+topg")
    (x, y), (fine_x, fine_y) = axes(8, 9), axes(32, 36, 5000.0)
    thk, plane = np.full((8, 9), 1500.0), -600 + x / 1000 + 0 * y[:, None]
    sunk = -200 - x / 500 + y[:, None] / 1000
    save_map("coarse.nc", thk, plane + sunk)
    for name, topg in (("first.nc", plane), ("moved.nc", plane + 50)):
        save_map(name, thk, topg)
    save_map("finer.nc", *(np.kron(field, np.ones((8, 8))) for field in (thk, plane)),
             spacing_m=2500.0)
    undulation = 100 * np.sin(fine_x / 7000) * np.cos(fine_y / 9000)[:, None]
    save_map("bed.nc", undulation, undulation - 600 + fine_x / 1000, spacing_m=5000.0)
    fine_sunk = -200 - fine_x / 500 + fine_y[:, None] / 1000
    for reference, shift in (("first.nc", 0), ("moved.nc", -50), ("finer.nc", 0)):
        fine = downscaled("--run", "made", "--bed", "bed.nc", "--reference-bed", reference)
        said = capsys.readouterr().out
        assert "left as it is" not in said and f"differs from {reference}: mean " in said
        np.testing.assert_allclose(
            fine["topg"], undulation - 600 + fine_x / 1000 + fine_sunk + shift, atol=0.02)
        with netCDF4.Dataset("fine.nc") as ds:
            assert (ds.reference_bed, ds.reference_bed_sha256) == (
                reference, files.hash_file(reference))
    downscaled("--run", "made", "--bed", "bed.nc", "--reference-bed", reference)
    assert "left as it is" in capsys.readouterr().out
    downscaled("--run", "made", "--bed", "bed.nc", "--reference-bed", "coarse.nc")
    assert "warning: no shift" in capsys.readouterr().out
    downscaled("--run", "made", "--bed", "bed.nc")
    assert "as if it has moved: add --reference-bed with the bed of coarse.nc when" in (
        capsys.readouterr().out)
    downscale.main(["coarse.nc", "--run", "made", "--bed", "bed.nc", "--reconstruct",
                    "--reference-bed", "first.nc"])
    (path,) = files.RESULTS.glob("made/reconstruction_*.json")
    assert files.read_json(path, "")["reference_bed"] == "first.nc"


@pytest.mark.usefixtures("quick_figures", "uncompiled")
def test_a_reference_is_of_any_time_of_the_map_itself(folder, capsys):
    """--reference-time chooses it; every time of the map is shifted by its own difference."""
    write_run(first_guess="bicubic", channels="thk+topg")
    (x, y), bed = axes(4, 5), np.full((16, 20), -300.0)
    rise = np.array([0.0, 40, 100])[:, None, None]
    write_map("coarse.nc", {"time": 3, "y": 4, "x": 5}, {
        "x": (("x",), x, METRES), "y": (("y",), y, METRES)},
        {"thk": (("time", "y", "x"), np.full((3, 4, 5), 2000.0), METRES),
         "topg": (("time", "y", "x"), rise + np.zeros((3, 4, 5)), METRES)})
    save_map("bed.nc", bed, bed, spacing_m=5000.0)
    reference = ["--reference-bed", "coarse.nc"]
    for argv, expected in (([], rise), (reference, rise),
                           ([*reference, "--reference-time", "-1"], rise - 100)):
        fine = downscaled("--run", "made", "--bed", "bed.nc", "--time", "all", *argv)
        np.testing.assert_allclose(fine["topg"], expected + bed, atol=0.01)
    with netCDF4.Dataset("fine.nc") as ds:  # over a bed of -400, -360 and -300 m
        above_flotation_km3 = [8000 * (2 - 0.001 * depth_m * 1027.5 / 917)
                               for depth_m in (400, 360, 300)]
        assert [numbers["projected_area"]["fine"]["volume_above_flotation_km3"]
                for numbers in json.loads(ds.ice_numbers)] == pytest.approx(above_flotation_km3)
    save_map("bare.nc", np.full((4, 5), 900.0))
    for argv, words in ((["bare.nc", "--reference-bed", "coarse.nc"], "contains no bed (topg) to"),
                        (["coarse.nc", "--reference-bed", "fine.nc"], "this is the input"),
                        (["coarse.nc", "--reference-time", "1"], "add --reference-bed REF.nc")):
        status, said = run_main(downscale.main, [*argv, "--run", "made", "--bed", "bed.nc",
                                                 "--output", "fine.nc"], capsys)
        assert (status, said.count("\n")) == (2, 1) and words in said


# ---------------------------------------------------------------- another sea level


@pytest.mark.usefixtures("quick_figures", "uncompiled")
def test_a_slab_floats_at_one_sea_level_and_grounds_at_another(folder, capsys):
    """1000 m of ice are afloat in 892.5 m of water; heights in files stay in their datum."""
    write_run(first_guess="bicubic", channels="thk+topg")
    save_map("coarse.nc", np.full((4, 5), 1000.0), np.full((4, 5), -850.1))
    for argv in ([], ["--bed", "coarse.nc"]):
        for sea_level, kind, usrf in ((0, 2, 149.9), (100, 3, 100 + 1000 * (1 - 917 / 1027.5)),
                                      (40, 2, 149.9), (-500, 2, 149.9)):
            sea = ["--sea-level", str(sea_level)]
            fine = downscaled("--run", "made", *sea, *argv)
            assert (fine["mask"] == kind).all()
            np.testing.assert_allclose(fine["usrf"], usrf, atol=1e-3)
            np.testing.assert_allclose(fine["topg"], -850.1, atol=1e-3)
        assert "left as it is" not in capsys.readouterr().out
        downscaled("--run", "made", *sea, *argv)
        assert "left as it is" in capsys.readouterr().out
        with netCDF4.Dataset("fine.nc") as ds:
            assert ds.sea_level_m == -500


def test_elevations_are_read_above_the_sea_level(tmp_path):
    """A surface is checked above it; open ocean may be at it, or at 0 m, and has no bed."""
    usrf = TOPG + THK
    usrf[0, 0], usrf[1, 1], usrf[0, 1] = -120.3, 0, -20.3  # ocean, ocean, land
    thk = THK * (THK > 100) + 0.0
    path = standard_map(tmp_path / "map.nc", topg=None, thk=(("y", "x"), thk, METRES),
                        usrf=(("y", "x"), usrf + 1000 * (thk > 0), METRES))
    ice_map = map_files.read_map(path, sea_level_m=-120.3)
    np.testing.assert_array_equal(np.argwhere(np.isnan(ice_map["topg"])), [[0, 0], [1, 1]])
    assert ice_map["topg"][0, 1] == pytest.approx(100)
    path = standard_map(tmp_path / "float.nc", **{  # that would ground if the sea were at 0 m
        name: (("y", "x"), np.full(THK.shape, value), METRES)
        for name, value in (("thk", 600), ("topg", -500), ("usrf", 214.5))})
    for sea_level_m in (0, 150):
        notes = map_files.read_map(path, sea_level_m=sea_level_m)["notes"]
        assert any("is not the bed" in note for note in notes) == (sea_level_m == 0)


def test_a_run_knows_the_sea_level_of_its_patches(folder, small_map):
    """It changes the checksum of the settings; 0 m is that of runs which do not know any."""
    options = {"sea_level_m": 30.0}
    data = {}
    for name, sea_level_m in (("", None), ("sea", 30.0)):
        ice_map = prepare_data.load_map(small_map, options={"sea_level_m": sea_level_m})
        path = prepare_data.prepare(4, ice_map, window=SMALL_WINDOW, output=f"{name}.nc")
        data[name] = read_patches(path)
    np.testing.assert_allclose(data[""]["topg"] - data["sea"]["topg"], 30, atol=1e-2)
    old, new = (data[name]["data"] for name in ("", "sea"))
    assert (old["sea_level_m"], new["sea_level_m"]) == (0, 30)
    older = {key: value for key, value in old.items() if key != "sea_level_m"}
    checksums = [hash_settings(example_settings(data=about)) for about in (older, old, new)]
    assert checksums[0] == checksums[1] != checksums[2]
    with pytest.raises(InputError, match="tiny was trained with --sea-level 0, not 30"):
        wanted_contents("tiny", older, small_map, options=options)
    assert "sea_level_m 0.0 -> 30.0" in find_mismatch(
        data["sea"], 4, wanted_contents("tiny", older))
    assert not find_mismatch(data["sea"], 4, wanted_contents("tiny", None, small_map,
                                                             options=options))
