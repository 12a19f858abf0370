"""Projections: which one a file has, in metres; whether two are the same; what fits Antarctica."""

import numpy as np
import pytest
from test_map_layout import SOUTH

from icesheet import map_files, projections


@pytest.mark.parametrize("changes, expected", [
    ({}, ""),
    ({"latitude_of_projection_origin": 90.0, "standard_parallel": 70.0},  # as EPSG:3413
     "latitude_of_projection_origin -90.0 and 90.0; standard_parallel -71.0 and 70.0"),
    ({"grid_mapping_name": "lambert_azimuthal_equal_area"},
     "grid_mapping_name polar_stereographic and lambert_azimuthal_equal_area"),
    ({"semi_major_axis": 6378273.0}, "semi_major_axis 6378137.0 and 6378273.0"),
    ({"standard_parallel": [-71.0, -60.0]}, "standard_parallel -71.0 and [-71.0, -60.0]"),
    ({"standard_parallel": [-71.0], "semi_major_axis": 6378137}, ""),  # the same numbers
    ({"spatial_ref": "another wording", "standard_parallel": "-70"}, ""),  # texts prove nothing
])
def test_projections_are_compared_by_all_that_both_say(changes, expected):
    assert projections.describe_crs_differences(SOUTH, SOUTH | changes) == expected


def test_projections_that_say_little_are_not_said_to_differ():
    assert projections.describe_crs_differences(SOUTH, {}) == ""
    assert projections.describe_crs_differences({}, SOUTH) == ""
    few = {"standard_parallel": -71.0, "false_easting": 7.0}
    assert projections.describe_crs_differences(SOUTH, few) == ""
    assert projections.describe_crs_differences(SOUTH, {"standard_parallel": -70.0}) != ""


@pytest.mark.parametrize("expected, changes", [
    (True, {}),
    (True, {"thk": np.zeros((41, 41)), "topg": np.full((41, 41), 50.0)}),  # land at the pole
    (False, {"thk": np.zeros((41, 41)), "topg": np.full((41, 41), -4000.0)}),  # the Arctic Ocean
    (False, {"thk": np.zeros((41, 41)), "topg": None}),
    (False, {"shape": (41, 21), "x0": 100e3}),  # the pole lies outside
    (False, {"shape": (21, 41), "y0": -2100e3}),
    (False, {"x0": -2000e3 - 1340e3}),  # Antarctica does not reach so far
])
def test_maps_that_fit_antarctica(expected, changes):
    """41 x 41 cells of 100 km, of which the pole is the middle one."""
    rows, columns = changes.get("shape", (41, 41))
    fields = {"thk": np.full((rows, columns), 1500.0), "topg": np.full((rows, columns), -300.0)}
    fields |= {name: changes[name] for name in ("thk", "topg") if name in changes}
    ice_map = map_files.make_map(changes.get("x0", -2000e3) + 100e3 * np.arange(columns),
                                 changes.get("y0", -2000e3) + 100e3 * np.arange(rows), **fields)
    assert projections.looks_antarctic(ice_map) is expected
