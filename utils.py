"""What all scripts share and that needs no TensorFlow: files, operators, scores.

Sections: errors, files, command lines | ice geometry | interpolation operators |
cells of whole maps | scores.
"""

import math

import numpy as np
import scipy
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

RHO_ICE = 917.0  # density of ice [kg m-3]
RHO_SEA = 1027.5  # density of sea water [kg m-3]
DENSITIES = (RHO_ICE, RHO_SEA)
MIN_ICE_THICKNESS_M = 1.0  # thinner ice is no ice: see is_ice
CELL_TYPES = ("ocean", "ice_free_land", "grounded_ice", "floating_ice")  # see classify_cells


def is_ice(thk):
    """Where there is ice: thickness `thk` [m] above MIN_ICE_THICKNESS_M."""
    return thk > MIN_ICE_THICKNESS_M


def is_floating(thk, topg, densities=DENSITIES):
    """Where ice `thk` [m] is too light to lie on the bed `topg` [m]; arrays or tensors.

    densities: of ice and sea water [kg m-3], here and below.
    """
    return densities[0] / densities[1] * thk < -topg


def surface_from_thickness(thk, topg, densities=DENSITIES):
    """Upper surface elevation [m] of ice `thk` [m] on bed `topg` [m], grounded or floating.

    max(thk + topg, (1 - rho_ice / rho_sea) thk): flotation decides by itself which is higher.
    Without ice: that of the land or, at 0, of the sea.
    """
    return np.maximum(thk + topg, (1 - densities[0] / densities[1]) * thk)


def thickness_from_surface(usrf, topg, densities=DENSITIES):
    """Ice thickness [m] below the surface `usrf` [m] over the bed `topg` [m]: the inverse.

    usrf - topg where that is heavy enough to ground; else floating ice in hydrostatic equilibrium,
    which at the grounding line is the same. Never below 0.
    """
    ratio = densities[0] / densities[1]
    grounded = usrf - topg
    floating = np.minimum(usrf / (1 - ratio), -topg / ratio)
    return np.maximum(np.where(is_floating(grounded, topg, densities), floating, grounded), 0)


def surface_minus_bed(thk, topg_before, topg, densities=DENSITIES):
    """Thickness [m] of the ice that a finer bed leaves under the surface of ice `thk` [m].

    topg_before: bed under thk, at its resolution [m]; topg: the finer bed [m]. Where thk is 0 the
    surface is taken to be at 0 m.
    """
    usrf = np.where(thk > 0, surface_from_thickness(thk, topg_before, densities), 0)
    return thickness_from_surface(usrf, topg, densities)


def classify_cells(thk, topg, densities=DENSITIES):
    """Type of each cell: int8, place in CELL_TYPES, -1 where thk or topg [m] is NaN."""
    with_ice = np.where(is_floating(thk, topg, densities), 3, 2)
    kind = np.where(is_ice(thk), with_ice, np.where(topg >= 0, 1, 0))
    return np.where(np.isnan(thk) | np.isnan(topg), -1, kind).astype(np.int8)


def surface_type_masks(thk, topg, near_cells, densities=DENSITIES):
    """Cells (y, x) that are scored by themselves, from thk and topg [m], (y, x): {name: bool}.

    grounded, floating: ice; ice_free: land or open ocean; margin: cells of any of these within
    near_cells (from centre to centre) of a cell of another one, that is of an ice edge or a
    grounding line. Where topg is None: ice and margin (the ice edge).
    """
    if topg is None:
        types = {"ice": is_ice(thk)}
    else:
        kind = classify_cells(thk, topg, densities)
        types = {"grounded": kind == 2, "floating": kind == 3,
                 "ice_free": (kind == 0) | (kind == 1)}
    margin = np.zeros(thk.shape, bool)
    for cells in [*types.values(), ~is_ice(thk)]:
        if cells.any() and not cells.all():  # else there is no other cell to be near to
            margin |= cells & (scipy.ndimage.distance_transform_edt(cells) <= near_cells)
    return types | {"boundary_zone": margin}


def coarse_size(size, factor):
    """Cells or samples along an axis of `size` cells reduced by `factor`: 20, 10, 5, 3 for 41."""
    return max(round(size / factor), 1)


def overlap_matrix(source, target):
    """Sparse matrix (target, source): share of each target cell that each source cell covers.

    source, target: centres of evenly spaced cells [m], ascending, in any position to each other.
    Rows sum to 1 where the source covers the whole target cell.
    """
    spacing, wide = source[1] - source[0], target[1] - target[0]
    low = (target - wide / 2 - source[0]) / spacing + 0.5  # edges in source cells
    high = low + wide / spacing
    rows, columns, shares = [], [], []
    for i in range(int(np.ceil(wide / spacing)) + 1):
        column = np.floor(low + 1e-6).astype(int) + i
        share = (np.minimum(high, column + 1) - np.maximum(low, column)) * spacing / wide
        inside = (share > 1e-9) & (column >= 0) & (column < len(source))
        rows.append(np.flatnonzero(inside))
        columns.append(column[inside])
        shares.append(share[inside])
    return scipy.sparse.csr_array(
        (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns))),
        (len(target), len(source)))


def spline_matrix(source, target):
    """Matrix (target, source): natural cubic spline through values at `source`, at `target` [m].

    Constants and ramps come back exactly; beyond the outermost centres it goes on.
    """
    if len(source) == 1:
        return np.ones((len(target), 1))
    return scipy.interpolate.CubicSpline(source, np.eye(len(source)), bc_type="natural")(target)


def linear_matrix(coarse, size, degrade):
    """Matrix (size, coarse): linear interpolation from samples or means of an axis to its cells.

    Between the places of utils.upsampling_matrix; beyond the outermost one its value is kept.
    """
    if degrade == "area":
        places = cell_centres(size, coarse) - 0.5
    else:
        places = np.linspace(0, size - 1, coarse) if coarse > 1 else np.zeros(1)
    return np.stack([np.interp(np.arange(size), places, unit) for unit in np.eye(coarse)], axis=1)


def catmull_rom_matrix(coarse, size, degrade):
    """Matrix (size, coarse): utils.upsampling_matrix that look near only, for tiles of a map.

    area: cubic Hermite with central differences (Catmull-Rom), which reaches two coarse cells;
    constants and ramps come back exactly. bicubic, in patches only: as upsampling_matrix.
    """
    if degrade != "area" or coarse == 1:
        return upsampling_matrix(coarse, size, degrade)
    centres = cell_centres(size, coarse)
    slopes = np.gradient(np.eye(coarse), centres, axis=0)
    return scipy.interpolate.CubicHermiteSpline(centres, np.eye(coarse), slopes)(
        cell_centres(size, size))


def cell_centres(size, cells):
    """Centres of `cells` equal cells on an axis of `size` cells, in those from the first's edge."""
    return (np.arange(cells) + 0.5) * size / cells


def coarsening_matrix(size, coarse, degrade):
    """Matrix (coarse, size) that reduces an axis of `size` cells: W_y @ field @ W_x.T.

    degrade `bicubic`: point samples on a cubic spline, that of scipy.ndimage.zoom as in the
    original (the corner samples are the corner cells' values); `area`: means over coarse cells.
    """
    if degrade == "bicubic":
        return scipy.ndimage.zoom(np.eye(size), (coarse / size, 1))
    if size == 1:
        return np.ones((coarse, 1))
    if coarse == 1:
        return np.full((1, size), 1 / size)
    return overlap_matrix(cell_centres(size, size), cell_centres(size, coarse)).toarray()


def upsampling_matrix(coarse, size, degrade):
    """Matrix (size, coarse) that brings samples or means of an axis back to `size` cells.

    A cubic spline through the samples, on the corner cells' centres (`bicubic`, that of
    scipy.ndimage.zoom), or on the centres of the coarse cells, which the fine ones divide (`area`):
    nothing shifts by half a cell.
    """
    if degrade == "bicubic":
        return scipy.ndimage.zoom(np.eye(coarse), (size / coarse, 1))
    return spline_matrix(cell_centres(size, coarse), cell_centres(size, size))


def coarsen_fields(fields, factor, degrade):
    """Reduce fields (n, y, x) by `factor` to (n, coarse y, coarse x): see coarsening_matrix."""
    down_y, down_x = (coarsening_matrix(n, coarse_size(n, factor), degrade)
                      for n in fields.shape[1:])
    return down_y @ np.asarray(fields, np.float64) @ down_x.T


def upsample_fields(fields, shape, degrade):
    """Bring reduced fields (n, coarse y, coarse x) back to `shape`: see upsampling_matrix."""
    up_y, up_x = (upsampling_matrix(*sizes, degrade)
                  for sizes in zip(fields.shape[1:], shape, strict=True))
    return up_y @ fields @ up_x.T


def build_levels(fields, scale, degrade, grid):
    """Fields (n, y, x) at every level of the chain: a list of (n, y, x) float32, level 0 first.

    Level 0 is reduced by `scale`, each next level by half of that; the last level is the field
    itself. grid "level" leaves each on its own cells, "fine" brings it back to the fine ones. Units
    as they come in.
    """
    fields = np.asarray(fields)
    levels = []
    while scale > 1:
        level = coarsen_fields(fields, scale, degrade)
        if grid == "fine":
            level = upsample_fields(level, fields.shape[1:], degrade)
        levels.append(level.astype(np.float32))
        scale //= 2
    return [*levels, fields.astype(np.float32)]


def refine_axis(axis, factor):
    """Centres [m] of the cells that divide each cell of an evenly spaced axis by `factor`."""
    spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
    return axis[0] + spacing * ((np.arange(len(axis) * factor) + 0.5) / factor - 0.5)


def fill_nearest(field, unknown):
    """A field (y, x) with its unknown cells given the value of the nearest known one, else 0."""
    if unknown.all():
        return np.zeros_like(field)
    if not unknown.any():
        return field
    nearest = scipy.ndimage.distance_transform_edt(unknown, return_distances=False,
                                                   return_indices=True)
    return field[tuple(nearest)]


def split_axis_into_tiles(size, halo, side):
    """Tiles along an axis of `size` cells: [(slice of its own cells, slice with the halo), ...].

    Tiles are equally wide with their halos (or the whole axis), so one graph does them all, and at
    most `side` cells; their own cells are `halo` or more away from their edges, but for the edges
    of the map.
    """
    if size <= side:
        return [(slice(0, size), slice(0, size))]
    own = math.ceil(size / math.ceil(size / (side - 2 * halo)))
    side = min(own + 2 * halo, size)
    firsts = [min(max(start - halo, 0), size - side) for start in range(0, size, own)]
    return [(slice(start, min(start + own, size)), slice(first, first + side))
            for start, first in zip(range(0, size, own), firsts, strict=True)]


def apply_symmetry(fields, index, inverse=False, transpose=lambda fields: fields.swapaxes(-1, -2)):
    """Flip and rotate fields (..., y, x) by symmetry `index` of the square; inverse: undo it.

    Bit 1 of the index flips y, bit 2 flips x, bit 4 transposes: 0 to 7 are all flips and rotations.
    transpose: swaps the last two axes, of arrays or of tensors.
    """
    if inverse and index & 4:
        fields = transpose(fields)
    fields = fields[..., ::-1 if index & 1 else 1, ::-1 if index & 2 else 1]
    return fields if inverse or not index & 4 else transpose(fields)
