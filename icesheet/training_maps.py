"""Whole maps to train on: reading them, what a run's settings say of them, and crops of an epoch.

A training map is a dict: thk, topg (y, x) float32 [m]; usable (y, x) bool, cells where both are
known; factors, by which its crops are coarsened; and weight, how often it is drawn.
"""

from pathlib import Path

import numpy as np

import utils
from icesheet import crops, map_files
from icesheet.command_line import InputError

DEFAULT_FACTORS = (1, 2, 4, 8)  # those of them that leave a map room for a crop
MIN_ROOM = 2 / 3                # of a crop's side; the rest of the crop is the map's mirror image
MIN_ICE_SHARE = 0.05            # of a crop's cells
MAX_DRAWS = 200                 # until a crop has enough ice


def read_training_maps(paths, factors, weights, crop_cells, options):
    """Read maps to train on: a list of training maps, and the `data` of the run's settings.

    factors: a list for each map, or None for DEFAULT_FACTORS; weights: a number for each map;
    options: of map_layout.parse_map_options
    Raises InputError for a map without a bed, ice or room for a crop.
    """
    maps, entries, citations = [], [], []
    densities = list(options.get("densities") or utils.DENSITIES)
    for path, map_factors, weight in zip(paths, factors, weights, strict=True):
        ice_map = map_files.read_map(path, **options)
        map_files.print_map_summary(ice_map)
        if ice_map["topg"] is None:
            raise InputError(f"{path}: no bed (topg), which a training on whole maps needs")
        shape = ice_map["thk"].shape
        chosen = [int(factor) for factor in map_factors or DEFAULT_FACTORS
                  if min(shape) >= MIN_ROOM * factor * crop_cells]
        if not chosen or (map_factors and len(chosen) < len(map_factors)):
            raise InputError(f"{path}: {shape[0]} x {shape[1]} cells, too few for crops of "
                             f"{crop_cells} cells coarsened by {map_factors or DEFAULT_FACTORS}; "
                             f"expected at least {MIN_ROOM * crop_cells:.0f} cells times the "
                             "factor along both sides")
        if not utils.is_ice(ice_map["thk"]).any():
            raise InputError(f"{path}: no ice in it, nothing can be learnt from it")
        usable = ~(ice_map["no_data"] | np.isnan(ice_map["topg"]))
        maps.append({"thk": ice_map["thk"], "topg": np.float32(ice_map["topg"]), "usable": usable,
                     "factors": chosen, "weight": weight, "name": ice_map["name"]})
        entries.append({
            "source": ice_map["name"], "source_sha256": ice_map["sha256"],
            "variables_read": ice_map["variables_read"], "spacing_m": ice_map["spacing_m"],
            "time_index": -1 if ice_map["time_index"] is None else ice_map["time_index"],
            "factors": chosen, "weight": float(weight), "sea_level_m": ice_map["sea_level_m"]})
        citations.append(ice_map["citation"] or ice_map["title"] or ice_map["name"])
    thk_max_m = max(float(ice_map["thk"].max()) for ice_map in maps)
    topg_max_m = max(float(np.abs(ice_map["topg"][ice_map["usable"]]).max(initial=1))
                     for ice_map in maps)
    return maps, {"maps": entries, "source": ", ".join(Path(path).name for path in paths),
                  "citation": "; ".join(dict.fromkeys(citations)), "synthetic": False,
                  "degrade": "area", "crs": {}, "densities": densities, "thk_norm_m": thk_max_m,
                  "topg_norm_m": topg_max_m}


def list_resolutions(maps, crop_cells):
    """Return all pairs (index of a map, factor), and the probability with which each is drawn.

    It grows with the square root of the number of crops that the map has room for: a continent
    counts more than a glacier, but not as much more as it is larger.
    """
    pairs = [(index, factor) for index, ice_map in enumerate(maps) for factor in ice_map["factors"]]
    weights = np.array([
        maps[index]["weight"] * max(maps[index]["thk"].size / (factor * crop_cells) ** 2, 1) ** 0.5
        for index, factor in pairs])
    return pairs, weights / weights.sum()


def draw_crop(ice_map, factor, side, rng):
    """Return a crop of a map, coarsened by `factor`: thk and topg, (side, side) float32 [m].

    Raises InputError if no crop without gaps and with enough ice turns up.
    """
    size = factor * side
    for _ in range(MAX_DRAWS):
        y, x = (int(rng.integers(max(n - size, 0) + 1)) for n in ice_map["thk"].shape)
        cells = np.s_[y:y + size, x:x + size]
        if (ice_map["usable"][cells].all()
                and utils.is_ice(ice_map["thk"][cells]).mean() >= MIN_ICE_SHARE):
            break
    else:
        raise InputError(f"{ice_map['name']}: no crop of {size} x {size} cells with a bed in all "
                         f"of them and ice in {MIN_ICE_SHARE:.0%} of them was found; leave out "
                         "the map, or choose smaller --factors")
    fields = []
    for name in ("thk", "topg"):
        field = ice_map[name][cells]
        # A map smaller than the crop goes on as its mirror image, as it does for the convolutions.
        field = np.pad(field, [(0, size - n) for n in field.shape], "symmetric")
        fields.append(np.float32(utils.coarsen_fields(field[None], factor, "area")[0]))
    return fields


def draw_map_crops(maps, settings, epoch):
    """Return the crops of an epoch: thk, topg at every level, lists of (patch, y, x) float32 [m].

    maps: of read_training_maps. A crop comes from one map at one of its resolutions.
    """
    # From seed and epoch alone, as patches are.
    rng = np.random.default_rng([settings["seed"], epoch])
    side, n_crops = settings["crop_cells"], settings["crops_per_epoch"]
    pairs, probabilities = list_resolutions(maps, side)
    crop_fields = []
    for pair in rng.choice(len(pairs), n_crops, p=probabilities):
        index, factor = pairs[pair]
        symmetry = int(rng.integers(8))
        crop_fields.append([utils.apply_symmetry(field, symmetry)
                            for field in draw_crop(maps[index], factor, side, rng)])
    fields = [np.stack(crops_of_field) for crops_of_field in zip(*crop_fields, strict=True)]
    return [utils.build_levels(field, settings["scale"], "area", settings["grid"])
            for field in crops.augment_fields(fields, settings, rng)]


def draw_epoch(patches, training, positions, settings, epoch):
    """Return what an epoch trains on: thk, topg at every level, two lists of (patch, y, x) [m].

    patches: or the list of training maps; training, positions: of patches, see crops.py
    With shared weights a third list follows, of one array: start_level (patch,), the level at which
    the chain of each patch starts anew from the true thickness. So the one network learns to start
    from data at every level, as it does where a map is refined 2, 4 or 8 times only.
    """
    if isinstance(patches, list):
        fields = draw_map_crops(patches, settings, epoch)
    else:
        fields = crops.draw_training_patches(patches, training, positions, settings, epoch)
    if not settings["shared_weights"]:
        return fields
    rng = np.random.default_rng([settings["seed"], epoch, 1])
    n_stages, n_patches = len(fields[0]) - 1, len(fields[0][0])
    return [*fields, [rng.integers(n_stages, size=n_patches).astype(np.int32)]]
