"""Volumes and areas before and after, against hand values; the scale of the projection."""

import json

import netCDF4
import numpy as np
import pytest
from test_downscale import rough, save_map, write_run

import downscale
from icesheet import ice_numbers, projections

RATIO = 1027.5 / 917  # of the densities of sea water and ice


def test_a_slab_by_hand():
    """Four cells of 1000 m: aground below the sea, on land, afloat, of unknown bed; and others."""
    thk = np.float32([[1000, 1000, 1000, 1000], [0, 0.5, np.nan, 0]])
    topg = np.float32([[-500, 100, -950, np.nan], [-500, 100, 100, np.nan]])
    sums = ice_numbers.sum_ice(thk, topg, 100e6)
    above_flotation_km3 = 100 * (1000 - RATIO * 500 + 1000 + 0.5) / 1000
    assert sums == pytest.approx({
        "volume_km3": 400.05, "ice_area_km2": 400, "n_ice_cells": 4, "grounded_area_km2": 200,
        "floating_area_km2": 100, "volume_above_flotation_km3": above_flotation_km3,
        "sea_level_equivalent_m": above_flotation_km3 * 1e9 * 0.917 / 3.625e14}, rel=1e-6)
    areas = np.float64([[1, 2, 4, 8], [16, 16, 16, 16]]) * 1e6
    sums = ice_numbers.sum_ice(thk, topg, areas, (450, 1000))  # the first floats too
    assert [sums[key] for key in ("volume_km3", "grounded_area_km2", "floating_area_km2")] == (
        pytest.approx([15.008, 2, 5]))
    assert set(ice_numbers.sum_ice(thk, None, 1)) == {"volume_km3", "ice_area_km2", "n_ice_cells"}


def test_scale_of_the_projection():
    """Snyder's own example (p. 315), the pole, 71 degrees south, a sphere by its closed form."""
    example = {"grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": -90.0,
               "standard_parallel": -71.0, "semi_major_axis": 6378388.0,
               "inverse_flattening": 297.0}
    assert projections.compute_scale_factor(example, -1540033.6, -560526.4) == (
        pytest.approx(0.9896255, abs=1e-7))
    squared = (2 - 1 / 298.257223563) / 298.257223563  # eccentricity
    sine, cosine = np.sin(np.radians(71)), np.cos(np.radians(71))
    at_71_m = 6378137 * cosine / np.sqrt(1 - squared * sine**2)
    scale = projections.compute_scale_factor(projections.EPSG_3031, np.array([0, at_71_m]),
                                             np.zeros((3, 1)))
    np.testing.assert_allclose(scale, [[0.97276901289, 1]] * 3, rtol=1e-10)
    sphere = {"grid_mapping_name": "polar_stereographic", "latitude_of_projection_origin": 90.0,
              "scale_factor_at_projection_origin": 0.994, "earth_radius": 6371000.0,
              "false_easting": 2e6, "false_northing": 1e6}
    latitude = np.radians(60)
    x = 2e6 + 2 * 0.994 * 6371000 * np.tan(np.pi / 4 - latitude / 2)
    assert projections.compute_scale_factor(sphere, x, 1e6) == pytest.approx(
        0.994 * 2 / (1 + np.sin(latitude)))
    for other in ({}, {"grid_mapping_name": "lambert_azimuthal_equal_area"}):
        assert projections.compute_scale_factor(other, 0.0, 0.0) is None
    areas = ice_numbers.cell_areas(np.array([0.0]), np.array([0.0]), 1000.0, projections.EPSG_3031)
    assert areas["true_area"][0, 0] == pytest.approx(1e6 / 0.97276901289**2)


def test_what_is_unknown_on_one_grid_counts_on_neither():
    """Coarse cells of 1 km2: unknown thickness, a gap in one fine bed, in the own bed; known."""
    coarse_thk, coarse_topg = np.full((1, 4), 800.0), np.array([[0, 0, np.nan, 100.0]])
    thk, topg = (np.full((2, 8), value) for value in (800.0, 50.0))
    thk[:, :2], topg[0, 2], topg[:, 4:6] = np.nan, np.nan, -5000
    areas = {"projected_area": np.full((1, 4), 1e6)}
    for own, bed, grounded_km2, floating_km2 in (
            (coarse_topg, topg, 1, 1), (None, topg, 1, 1), (None, None, None, None)):
        sums = {}
        ice_numbers.add_tile(sums, (coarse_thk, own), (thk, bed), areas, (917, 1027.5))
        for grid, n_cells in (("coarse", 3), ("fine", 12)):
            numbers = sums["projected_area"][grid]
            assert (numbers["volume_km3"], numbers["ice_area_km2"], numbers["n_ice_cells"]) == (
                pytest.approx(2.4), 3, n_cells)
            assert (numbers.get("grounded_area_km2"), numbers.get("floating_area_km2")) == (
                grounded_km2, floating_km2)
    compared = ice_numbers.compare_sums({"projected_area": {
        "coarse": {"volume_km3": 4.0, "floating_area_km2": 0.0, "n_ice_cells": 1},
        "fine": {"volume_km3": 5.0, "floating_area_km2": 2.0, "n_ice_cells": 4}}})
    assert compared["projected_area"]["difference"] == {"volume_km3": 1, "floating_area_km2": 2}
    assert compared["projected_area"]["difference_percent"] == {
        "volume_km3": 25, "floating_area_km2": None}


@pytest.mark.usefixtures("quick_figures", "uncompiled")
def test_strips_add_up_and_agree_with_file_and_subgrid_fields(folder, capsys, monkeypatch):
    monkeypatch.setattr(downscale, "MAX_TILE_CELLS", 1)
    write_run()
    thk, _ = rough(60, 6)
    _, topg = rough(240, 24, seed=1)
    save_map("coarse.nc", thk, topg.reshape(60, 4, 6, 4).mean(axis=(1, 3)),
             crs=projections.EPSG_3031)
    save_map("bed.nc", topg, topg, spacing_m=5000.0, crs=projections.EPSG_3031)
    numbers = {}
    for strip in ("1/1", "1/2", "2/2"):
        assert downscale.main(["coarse.nc", "--run", "made", "--bed", "bed.nc", "--output",
                               f"{strip[0]}of{strip[2]}.nc", "--strip", strip, "--sea-level", "30",
                               "--coarse-output", "subgrid.nc"]) == 0
        with netCDF4.Dataset(f"{strip[0]}of{strip[2]}.nc") as ds, \
                netCDF4.Dataset("subgrid.nc") as subgrid:
            (numbers[strip],) = json.loads(ds.ice_numbers)
            fine = numbers[strip]["projected_area"]["fine"]
            assert fine["volume_km3"] == pytest.approx(ds["thk"][...].sum(dtype=float) * 25e-3)
            for name, kind in (("grounded", 2), ("floating", 3)):
                area_km2 = fine[f"{name}_area_km2"]
                assert area_km2 == pytest.approx(25.0 * (ds["mask"][...] == kind).sum())
                fraction = subgrid["sftgrf" if name == "grounded" else "sftflf"][...]
                assert area_km2 == pytest.approx(400 * fraction.sum(dtype=float))
        said = capsys.readouterr().out
        assert ("in strip 1/2" in said) == (strip == "1/2") and "grounded by its own bed" in said
    whole = numbers["1/1"]
    for kind in ("projected_area", "true_area"):
        assert abs(whole[kind]["difference_percent"]["volume_km3"]) < 1e-3
        for grid in ("coarse", "fine", "difference"):
            parts = [numbers[strip][kind][grid] for strip in ("1/2", "2/2")]
            assert whole[kind][grid] == pytest.approx(
                {key: parts[0][key] + parts[1][key] for key in parts[0]}, rel=1e-7, abs=1e-4)
    assert whole["true_area"]["fine"]["volume_km3"] / whole["projected_area"]["fine"][
        "volume_km3"] == pytest.approx(1 / 0.97276901289**2, rel=1e-2)  # up to 1300 km away
