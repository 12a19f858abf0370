"""icesheet.crops."""


import numpy as np

import utils
from icesheet.patches import join_patches, make_chain_inputs
from icesheet.settings import get_densities, needs_topg


def find_crop_positions(patches, numbers, settings):
    """Allowed positions of random crops in the window: for each patch an array (place, 3).

    numbers: patches to train on. A place is y, x, times: the lower left corner [cells of the
    window] and the coarsening factor of the crop, one of settings["crop_factors"]; 1 where none of
    them has room.
    The centre of a crop stays within half a patch of the patch's own. Every cell of it is in one of
    these patches: nothing held out is seen.
    """
    side = patches["x"].shape[1]
    half = side // 2
    allowed = np.isin(np.arange(len(patches["row"])), numbers)
    allowed = join_patches(np.repeat(allowed, side**2).reshape(-1, side, side), patches)
    places = [[] for _ in numbers]
    for times in dict.fromkeys([*settings["crop_factors"], 1]):
        inside, wide = allowed, times * side
        if min(allowed.shape) < wide:
            continue
        for axis in (0, 1):  # (y, x) of the lower left corner
            inside = np.lib.stride_tricks.sliding_window_view(inside, wide, axis).all(axis=-1)
        for of_patch, number in zip(places, numbers, strict=True):
            if times not in settings["crop_factors"] and any(map(len, of_patch)):
                continue
            y, x = (patches[name][number] * side - (wide - side) // 2 for name in ("row", "column"))
            low, high = np.maximum([(y - half, x - half), (y + half + 1, x + half + 1)], 0)
            corners = low + np.argwhere(inside[low[0]:high[0], low[1]:high[1]])
            of_patch.append(np.insert(corners, 2, times, axis=1))
    return [np.concatenate(of_patch) for of_patch in places]


def draw_training_patches(patches, numbers, places, settings, epoch):
    """The training patches of an epoch, in its order: thk, topg at every level, two lists.

    See patches.make_chain_inputs: (patch, y, x) float32 [m] each.
    patches: see prepare_data.make_patches; numbers: those to train on; places: see find_crop_positions.
    With augment each patch is cut anew at one of its places, flipped and turned.
    All is drawn from seed and epoch alone: no generator is carried along, the epoch is all the
    random state of a checkpoint.
    """
    rng = np.random.default_rng([settings["seed"], epoch])
    order = rng.permutation(len(numbers))
    names = ("thk", "topg") if needs_topg(settings) else ("thk",)
    if not settings["augment"]:
        return make_chain_inputs(patches, numbers[order], settings)

    side = patches["x"].shape[1]
    crops = [(*rng.choice(places[number]), rng.integers(8)) for number in order]
    fields = []
    for name in names:
        window = join_patches(patches[name][:, -1], patches)  # (y, x)
        of_name = []
        for y, x, times, turn in crops:
            crop = window[None, y:y + times * side, x:x + times * side]
            if times > 1:
                crop = utils.coarsen_fields(crop, times, "area").astype(np.float32)
            of_name.append(utils.apply_symmetry(crop[0], turn))
        fields.append(np.stack(of_name))  # (patch, y, x)
    if settings["thin_ice_share"]:
        fields = augment_thin_ice(fields, settings["thin_ice_share"], rng,
                              get_densities(settings["data"]))
    thk, topg = fields if len(fields) == 2 else (*fields, np.zeros_like(fields[0]))
    return [utils.build_levels(field, settings["scale"], settings["data"]["degrade"],
                              settings["grid"]) for field in (thk, topg)]


def augment_thin_ice(fields, share, rng, densities=utils.DENSITIES):
    """Make a share of the patches like other ice sheets: nunataks, valley glaciers, bare land.

    fields: [thk] or [thk, topg], (patch, y, x) m. In each patch drawn: subtract a random thickness
    (0 ... the patch's maximum), raise the bed by 0 ... 1.2 times that, remove ice that would float
    (shelves do not thin out to nothing).
    """
    thk, *beds = fields
    chosen, part, rise = (rng.uniform(size=(len(thk), 1, 1)).astype(np.float32) for _ in range(3))
    chosen = chosen < share
    taken = chosen * part * thk.max(axis=(1, 2), keepdims=True)
    thk, beds = np.maximum(thk - taken, 0), [topg + 1.2 * rise * taken for topg in beds]
    for topg in beds:
        thk[chosen & utils.is_floating(thk, topg, densities)] = 0
    return [thk, *beds]
