"""The training patches of an epoch: random crops of the window, flipped, rotated, thinned."""

import numpy as np

import utils
from icesheet.patches import join_patches, make_chain_inputs
from icesheet.settings import get_densities, needs_topg


def find_crop_positions(patches, patch_indices, settings):
    """Return where each patch may be cut anew: a list of arrays (position, 3).

    A position is y, x, factor: the lower left corner [cells of the window] and by how much the crop
    is coarsened, one of settings["crop_factors"], or 1 where no such crop has room.
    The centre of a crop stays within half a patch of the patch's own. None without augment.
    """
    if not settings["augment"]:
        return None
    side = patches["x"].shape[1]
    half = side // 2
    # Every cell of a crop belongs to a training patch: nothing that is held out is trained on.
    allowed = np.isin(np.arange(len(patches["row"])), patch_indices)
    allowed = join_patches(np.repeat(allowed, side**2).reshape(-1, side, side), patches)  # (y, x)
    positions = [[] for _ in patch_indices]
    for factor in dict.fromkeys([*settings["crop_factors"], 1]):
        fits, crop_cells = allowed, factor * side
        if min(allowed.shape) < crop_cells:
            continue
        for axis in (0, 1):  # afterwards (y, x) of the lower left corner
            fits = np.lib.stride_tricks.sliding_window_view(fits, crop_cells, axis).all(axis=-1)
        for patch_positions, index in zip(positions, patch_indices, strict=True):
            if factor not in settings["crop_factors"] and any(map(len, patch_positions)):
                continue
            y, x = (patches[name][index] * side - (crop_cells - side) // 2
                    for name in ("row", "column"))
            low, high = np.maximum([(y - half, x - half), (y + half + 1, x + half + 1)], 0)
            corners = low + np.argwhere(fits[low[0]:high[0], low[1]:high[1]])
            patch_positions.append(np.insert(corners, 2, factor, axis=1))
    return [np.concatenate(patch_positions) for patch_positions in positions]


def draw_training_patches(patches, patch_indices, crop_positions, settings, epoch):
    """Return the training patches of an epoch in its order: thk, topg at every level, two lists.

    patch_indices: patches to train on; crop_positions: of find_crop_positions, used with augment
    Returns lists of (patch, y, x) float32 [m], as patches.make_chain_inputs does.
    """
    # From seed and epoch alone: no generator is carried along, so a checkpoint needs none either.
    rng = np.random.default_rng([settings["seed"], epoch])
    order = rng.permutation(len(patch_indices))
    if not settings["augment"]:
        return make_chain_inputs(patches, patch_indices[order], settings)

    side = patches["x"].shape[1]
    crops = [(*rng.choice(crop_positions[index]), rng.integers(8)) for index in order]
    fields = []
    for name in ("thk", "topg") if needs_topg(settings) else ("thk",):
        window = join_patches(patches[name][:, -1], patches)  # (y, x)
        field_crops = []
        for y, x, factor, symmetry in crops:
            crop = window[None, y:y + factor * side, x:x + factor * side]
            if factor > 1:
                crop = utils.coarsen_fields(crop, factor, "area").astype(np.float32)
            field_crops.append(utils.apply_symmetry(crop[0], symmetry))
        fields.append(np.stack(field_crops))  # (patch, y, x)
    fields = augment_fields(fields, settings, rng)
    thk, topg = fields if len(fields) == 2 else (*fields, np.zeros_like(fields[0]))
    return [utils.build_levels(field, settings["scale"], settings["data"]["degrade"],
                               settings["grid"]) for field in (thk, topg)]


def augment_fields(fields, settings, rng):
    """Return [thk] or [thk, topg] (patch, y, x) [m] after the augmentations that change the ice."""
    densities = get_densities(settings["data"])
    if settings["thin_ice_share"]:
        fields = augment_thin_ice(fields, settings["thin_ice_share"], rng, densities)
    if settings.get("cut_ice_share"):
        fields = cut_ice(fields, settings["cut_ice_share"], rng, densities)
    return fields


def cut_ice(fields, share, rng, densities=utils.DENSITIES):
    """Make a share of the patches resemble glaciers that were cut out of an ice cap.

    fields: [thk] or [thk, topg], (patch, y, x) [m]
    In maps of single glaciers the ice of the neighbours is missing and its surface is the bed, so
    surface minus bed is nearly exact along the cut and has to be left alone. In each selected patch
    this is done to a random 20 to 80 % of the cells, in blobs of an eighth to half of the patch.
    """
    thk, *beds = (field.copy() for field in fields)
    side = thk.shape[-1]
    for patch in np.flatnonzero(rng.uniform(size=len(thk)) < share):
        # A smooth random field: noise on a few cells, interpolated.
        noise = rng.standard_normal((int(rng.integers(2, 9)),) * 2)
        smooth = utils.upsample_fields(noise[None], (side, side), "area")[0]
        cut = smooth > np.quantile(smooth, rng.uniform(0.2, 0.8))
        for topg in beds:  # floating ice leaves the sea behind
            grounded = cut & ~utils.is_floating(thk[patch], topg[patch], densities)
            topg[patch][grounded] += thk[patch][grounded]
        thk[patch][cut] = 0
    return [thk, *beds]


def augment_thin_ice(fields, share, rng, densities=utils.DENSITIES):
    """Make a share of the patches resemble other ice sheets: nunataks, valley glaciers, bare land.

    fields: [thk] or [thk, topg], (patch, y, x) [m]
    In each selected patch: subtract a random thickness (0 to the patch's maximum), raise the bed by
    0 to 1.2 times as much, remove ice that would then float (shelves do not thin out to nothing).
    """
    thk, *beds = fields
    selected, removed_share, uplift_factor = (
        rng.uniform(size=(len(thk), 1, 1)).astype(np.float32) for _ in range(3))
    selected = selected < share
    removed_m = selected * removed_share * thk.max(axis=(1, 2), keepdims=True)
    thk = np.maximum(thk - removed_m, 0)
    beds = [topg + 1.2 * uplift_factor * removed_m for topg in beds]
    for topg in beds:
        thk[selected & utils.is_floating(thk, topg, densities)] = 0
    return [thk, *beds]
