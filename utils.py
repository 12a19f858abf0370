"""Ice geometry and interpolation on NumPy arrays; no TensorFlow, no files.

Thickness `thk`, bed elevation `topg` and upper surface `usrf` are in metres, fields are
(..., y, x) with y upwards, `densities` those of ice and sea water [kg m-3].
An interpolation along an axis is a matrix W: a field is regridded by W_y @ field @ W_x.T.
"""

import math

import numpy as np
import scipy.interpolate
import scipy.ndimage
import scipy.sparse

RHO_ICE = 917.0             # [kg m-3]
RHO_SEA = 1027.5            # sea water [kg m-3]
DENSITIES = (RHO_ICE, RHO_SEA)
MIN_ICE_THICKNESS_M = 1.0   # thinner is no ice
# Values 0, 1, 2, 3 of classify_cells, and of the variable mask in every finer map.
CELL_TYPES = ("ocean", "ice_free_land", "grounded_ice", "floating_ice")


# ---- Ice geometry --------------------------------------------------------------------------------

def is_ice(thk):
    """Return where there is ice: thickness `thk` [m] above MIN_ICE_THICKNESS_M."""
    return thk > MIN_ICE_THICKNESS_M


def is_floating(thk, topg, densities=DENSITIES):
    """Return where ice floats, (rho_ice / rho_sea) thk < -topg [m]; arrays or tensors."""
    return densities[0] / densities[1] * thk < -topg


def surface_from_thickness(thk, topg, densities=DENSITIES):
    """Return the upper surface elevation [m] of ice `thk` [m] on the bed `topg` [m].

        usrf = max(thk + topg, (1 - rho_ice / rho_sea) thk)       the higher: grounded or floating

    Without ice: the elevation of the land, or 0 m at sea.
    """
    return np.maximum(thk + topg, (1 - densities[0] / densities[1]) * thk)


def thickness_from_surface(usrf, topg, densities=DENSITIES):
    """Return the ice thickness [m] between a surface `usrf` [m] and the bed `topg` [m].

        thk = usrf - topg                                    where that is heavy enough to ground
            = min(usrf / (1 - r), -topg / r)                 else: hydrostatic equilibrium
        r   = rho_ice / rho_sea;  never below 0

    The inverse of surface_from_thickness; -topg / r is the thickness at which ice begins to float.
    """
    ratio = densities[0] / densities[1]
    # Both branches everywhere, then a choice: the same operations as in TensorFlow (model.py).
    grounded = usrf - topg
    floating = np.minimum(usrf / (1 - ratio), -topg / ratio)
    return np.maximum(np.where(is_floating(grounded, topg, densities), floating, grounded), 0)


def surface_minus_bed(thk, topg_prev, topg, densities=DENSITIES):
    """Estimate thickness [m] as surface minus bed: the surface of `thk`, minus a finer bed.

    topg_prev: bed under thk, at its resolution [m]; topg: finer bed [m], with flotation on it
    Where thk is 0 the surface is taken to be at 0 m, so no ice appears over a deeper bed.
    """
    usrf = np.where(thk > 0, surface_from_thickness(thk, topg_prev, densities), 0)
    return thickness_from_surface(usrf, topg, densities)


def classify_cells(thk, topg, densities=DENSITIES):
    """Return each cell's index in CELL_TYPES, int8; -1 where thk or topg [m] is NaN."""
    # NaN compares as False, so such cells get some type here and -1 at the end.
    ice_type = np.where(is_floating(thk, topg, densities), 3, 2)
    cell_type = np.where(is_ice(thk), ice_type, np.where(topg >= 0, 1, 0))
    return np.where(np.isnan(thk) | np.isnan(topg), -1, cell_type).astype(np.int8)


def surface_type_masks(thk, topg, boundary_cells, densities=DENSITIES):
    """Return the cells of each surface type that is scored by itself: {name: bool (y, x)}.

    thk, topg: (y, x) [m]; topg may be None
    boundary_cells: half-width of the boundary zone [cells], from centre to centre
    Types: grounded, floating, ice_free (land or open ocean), without a bed only ice; and
    boundary_zone: cells of any type near one of another, along ice margins and grounding lines.
    """
    if topg is None:
        masks = {"ice": is_ice(thk)}
    else:
        cell_type = classify_cells(thk, topg, densities)
        masks = {"grounded": cell_type == 2, "floating": cell_type == 3,
                 "ice_free": (cell_type == 0) | (cell_type == 1)}
    # The distance of a cell to the nearest one of another type is that to the edge of its own.
    boundary_zone = np.zeros(thk.shape, bool)
    for cells in [*masks.values(), ~is_ice(thk)]:
        if cells.any() and not cells.all():  # else there is no other cell to be near
            distance = scipy.ndimage.distance_transform_edt(cells)
            boundary_zone |= cells & (distance <= boundary_cells)
    return masks | {"boundary_zone": boundary_zone}


# ---- Interpolation along an axis -----------------------------------------------------------------
# degrade says what coarse values are: "bicubic" point samples, the first and last of them on the
# centres of the corner cells; "area" means over coarse cells, which the fine cells divide.


def coarse_size(size, factor):
    """Return the number of coarse cells along `size` cells: 20, 10, 5, 3 of 41 for 2x ... 16x."""
    return max(round(size / factor), 1)


def cell_centres(size, n_cells):
    """Return the centres of `n_cells` equal cells on an axis `size` long, from its first edge."""
    return (np.arange(n_cells) + 0.5) * size / n_cells


def overlap_matrix(source, target):
    """Return the share of each target cell that each source cell covers, sparse (target, source).

    source, target: centres of evenly spaced cells [m], ascending, in any position to each other
    """
    spacing, target_spacing = source[1] - source[0], target[1] - target[0]
    # Edges of the target cells, counted in source cells from the first source cell's low edge.
    low = (target - target_spacing / 2 - source[0]) / spacing + 0.5
    high = low + target_spacing / spacing
    rows, columns, shares = [], [], []
    # A target cell touches at most so many source cells; for all rows at once, the i-th of them.
    for i in range(int(np.ceil(target_spacing / spacing)) + 1):
        column = np.floor(low + 1e-6).astype(int) + i
        share = np.minimum(high, column + 1) - np.maximum(low, column)
        share = share * spacing / target_spacing
        inside = (share > 1e-9) & (column >= 0) & (column < len(source))
        rows.append(np.flatnonzero(inside))
        columns.append(column[inside])
        shares.append(share[inside])
    return scipy.sparse.csr_array(
        (np.concatenate(shares), (np.concatenate(rows), np.concatenate(columns))),
        (len(target), len(source)))


def spline_matrix(source, target):
    """Return the natural cubic spline from values at `source` to `target` [m], (target, source).

    Constants and ramps come back exactly; beyond the outermost centres the spline is extrapolated.
    """
    if len(source) == 1:
        return np.ones((len(target), 1))
    return scipy.interpolate.CubicSpline(source, np.eye(len(source)), bc_type="natural")(target)


def linear_matrix(coarse, size, degrade):
    """Return linear interpolation from coarse values to cells, (size, coarse); constant outside."""
    if degrade == "area":
        positions = cell_centres(size, coarse) - 0.5
    else:
        positions = np.linspace(0, size - 1, coarse) if coarse > 1 else np.zeros(1)
    return np.stack([np.interp(np.arange(size), positions, basis) for basis in np.eye(coarse)],
                    axis=1)


def catmull_rom_matrix(coarse, size, degrade):
    """Return local cubic interpolation from coarse values to cells, (size, coarse).

    area: cubic Hermite with central differences (Catmull-Rom), which reaches two coarse cells, so
    that tiles of a map need a small halo; exact for ramps. bicubic, in patches: upsampling_matrix.
    """
    if degrade != "area" or coarse == 1:
        return upsampling_matrix(coarse, size, degrade)
    centres = cell_centres(size, coarse)
    # The spline is linear in its values, so its matrix is the spline through each unit vector.
    slopes = np.gradient(np.eye(coarse), centres, axis=0)
    return scipy.interpolate.CubicHermiteSpline(centres, np.eye(coarse), slopes)(
        cell_centres(size, size))


def coarsening_matrix(size, coarse, degrade):
    """Return the coarsening of an axis of `size` cells, (coarse, size).

    bicubic: point samples on a cubic spline, as in the original; area: means over coarse cells
    """
    if degrade == "bicubic":
        return scipy.ndimage.zoom(np.eye(size), (coarse / size, 1))
    # One cell has no spacing, which overlap_matrix needs.
    if size == 1:
        return np.ones((coarse, 1))
    if coarse == 1:
        return np.full((1, size), 1 / size)
    return overlap_matrix(cell_centres(size, size), cell_centres(size, coarse)).toarray()


def upsampling_matrix(coarse, size, degrade):
    """Return the cubic spline from coarse samples or means to `size` cells, (size, coarse)."""
    if degrade == "bicubic":  # that of the original
        return scipy.ndimage.zoom(np.eye(coarse), (size / coarse, 1))
    # Means count at the centres of the coarse cells: nothing shifts by half a cell.
    return spline_matrix(cell_centres(size, coarse), cell_centres(size, size))


# ---- Fields --------------------------------------------------------------------------------------

def coarsen_fields(fields, factor, degrade):
    """Coarsen fields (n, y, x) by `factor` to (n, coarse y, coarse x) with coarsening_matrix."""
    down_y, down_x = (coarsening_matrix(n, coarse_size(n, factor), degrade)
                      for n in fields.shape[1:])
    return down_y @ np.asarray(fields, np.float64) @ down_x.T


def upsample_fields(fields, shape, degrade):
    """Upsample fields (n, coarse y, coarse x) to `shape` (y, x) with upsampling_matrix."""
    up_y, up_x = (upsampling_matrix(*sizes, degrade)
                  for sizes in zip(fields.shape[1:], shape, strict=True))
    return up_y @ fields @ up_x.T


def build_levels(fields, scale, degrade, grid):
    """Return fields (n, y, x) at every level of the chain: a list of float32, level 0 first.

    Level 0 is coarsened by `scale`, each next level by half of that; the last is the field itself.
    grid "level" leaves every level on its own cells, "fine" upsamples it to those of the field.
    """
    fields = np.asarray(fields)
    levels = []
    # Every level from the field itself: a spline through samples of samples would be another one.
    while scale > 1:
        level = coarsen_fields(fields, scale, degrade)
        if grid == "fine":
            level = upsample_fields(level, fields.shape[1:], degrade)
        levels.append(level.astype(np.float32))
        scale //= 2
    return [*levels, fields.astype(np.float32)]


def refine_axis(axis, factor):
    """Return the centres [m] of cells that divide each cell of an even axis into `factor`."""
    spacing = (axis[-1] - axis[0]) / (len(axis) - 1)
    return axis[0] + spacing * ((np.arange(len(axis) * factor) + 0.5) / factor - 0.5)


def fill_nearest(field, no_data):
    """Give the cells `no_data` (bool) of a field (y, x) the nearest known value; 0 if none is."""
    if no_data.all():
        return np.zeros_like(field)
    if not no_data.any():
        return field
    # For every cell the (y, x) of the nearest known one; known cells are their own.
    nearest = scipy.ndimage.distance_transform_edt(no_data, return_distances=False,
                                                   return_indices=True)
    return field[tuple(nearest)]


def split_axis_into_tiles(size, halo, side):
    """Return the tiles along an axis of `size` cells: [(slice of core, slice with halo), ...].

    halo: cells between the core and the tile's edge, except at the edges of the map
    side: largest width of a tile with its halo
    """
    # One tile without any halo: the map ends where the tile does.
    if size <= side:
        return [(slice(0, size), slice(0, size))]
    # All tiles are of one width, so that one compiled graph serves them all: the last ones move in.
    core = math.ceil(size / math.ceil(size / (side - 2 * halo)))
    side = min(core + 2 * halo, size)
    starts = [min(max(start - halo, 0), size - side) for start in range(0, size, core)]
    return [(slice(start, min(start + core, size)), slice(tile_start, tile_start + side))
            for start, tile_start in zip(range(0, size, core), starts, strict=True)]


def apply_symmetry(fields, index, inverse=False, transpose=lambda fields: fields.swapaxes(-1, -2)):
    """Flip and rotate fields (..., y, x) by symmetry `index` of the square; inverse: undo it.

    Bit 1 of the index flips y, bit 2 flips x, bit 4 transposes: 0 to 7 are all flips and rotations.
    transpose: function that swaps the last two axes, of arrays or of tensors
    """
    # The inverse does the same in the opposite order: a flip undoes itself.
    if inverse and index & 4:
        fields = transpose(fields)
    fields = fields[..., ::-1 if index & 1 else 1, ::-1 if index & 2 else 1]
    return fields if inverse or not index & 4 else transpose(fields)
