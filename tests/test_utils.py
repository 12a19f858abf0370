"""Ice geometry and interpolation, against values by hand."""

import numpy as np
import pytest

import utils
from icesheet.scores import compute_errors

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
    np.testing.assert_allclose(
        utils.thickness_from_surface(line + np.array([-1e-9, 1e-9]), -650.0), 650 / r)
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
