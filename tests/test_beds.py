"""Beds: read in parts, of any time, from files or from a map in memory."""

import numpy as np
import pytest
from test_map_layout import METRES, THK, TOPG, X, Y, standard_map

from icesheet import beds, map_files
from icesheet.command_line import InputError


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
    smooth = np.full(TOPG.shape, np.nan)  # what comes of spline and means
    with beds.open_bed(tmp_path / "map.nc") as bed:
        assert beds.describe_bed_difference(ice_map, smooth, bed) == []
    standard_map(tmp_path / "bed.nc", topg=(("y", "x"), TOPG + 7, METRES))
    with beds.open_bed(tmp_path / "bed.nc") as bed:
        assert beds.describe_bed_difference(ice_map, smooth, bed) == [
            "warning: the bed of bed.nc is not that of map.nc: RMS 7.0 m under ice"]
