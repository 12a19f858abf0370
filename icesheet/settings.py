"""Settings of a run and attributes of a file of patches: meaning, checking, comparing.

Every function here that takes `settings` takes those of a run: the dict that train.make_settings
makes and checkpoints/<run>/settings.json keeps.
"""

import hashlib
import json

import utils
from icesheet import files
from icesheet.command_line import InputError

SCALES = (2, 4, 8, 16)
FIRST_GUESSES = ("none", "bicubic", "surface-minus-bed")
CHANNELS = ("thk", "thk+topg", "normalised")
GRADIENTS = ("stage", "end-to-end")
LOSSES = ("mse", "rmse", "balanced")
SELF_ENSEMBLE_MEMBERS = {1: (0,), 2: (0, 3), 4: (0, 3, 5, 6), 8: range(8)}  # see apply_symmetry

# What decides the numbers in a file of patches: {attribute: (schema, meaning)}, schemas as of
# find_schema_error. In the settings of a run they are the dict `data`.
PATCH_FILE_ATTRIBUTES = {
    "source": (str, "name of the map file"),
    "source_sha256": (str, "checksum of the map file; empty for the synthetic sheet"),
    "source_title": (str, "title of the map"),
    "citation": (str, "how the map is to be cited"),
    "time_index": (int, "which time of the map; -1 where it has only one"),
    "time_label": (str, "the same for a reader, with the date where the file has one"),
    "synthetic": (bool, "whether the map is the synthetic ice sheet, no real place"),
    "degrade": (("bicubic", "area"), "how it was coarsened: by point samples | by cell means"),
    "split_method": (("random", "block"), "how test patches were chosen"),
    "fold": (list, "of a cross-validation: which fold of how many, 2 5; empty without"),
    "test_size": (float, "share of the patches held out"),
    "seed": (int, "random seed of the split"),
    "window": ([float] * 4, "x0 x1 y0 y1 [m] of the part of the map that was cut into patches"),
    "spacing_m": (float, "side of a cell [m]"),
    "thk_max_m": (float, "largest thickness in the window [m]: divides the error MSE / max2"),
    "thk_norm_m": (float, "largest thickness in the training patches [m]: scales the channels"),
    "topg_norm_m": (float, "largest height or depth of their bed [m]: the same; 0 without a bed"),
    "densities": ([float] * 2, "of ice and sea water [kg m-3], for flotation"),
    "variables_read": (str, "which variables of the map were read"),
    "sea_level_m": (float, "height of the sea level in the map file, above which patches are"),
}
# Files of older versions lack these.
DEFAULTS_FOR_OLDER_FILES = {"densities": list(utils.DENSITIES), "variables_read": "",
                            "sea_level_m": 0.0}
PATCH_FILE_SCHEMA = {key + "?" * (key in DEFAULTS_FOR_OLDER_FILES): schema
                     for key, (schema, _) in PATCH_FILE_ATTRIBUTES.items()}

# `data` of a run on whole maps (training_maps.py): what decides the numbers.
MAPS_SCHEMA = {
    "maps": [{"source": str, "source_sha256": str, "variables_read": str, "time_index": int,
              "spacing_m": float, "factors": [int], "weight": float, "sea_level_m": float}],
    "source": str, "citation": str, "synthetic": bool, "degrade": ("area",), "crs": dict,
    "densities": [float] * 2, "thk_norm_m": float, "topg_norm_m": float}

UNCERTAINTY_SCHEMA = {  # what uncertainty.fit_intervals returns
    "slope": float, "intercept": float, "scale_by_thickness": bool, "constant_width": dict,
    "coverage_factors": {"all": float, None: float}, "n_patches": {"all": int, None: int},
    "error_quantiles": [float], "variance": float,
    "cells_per_effective_sample": {"all": float, None: float}, "n_held_out": int,
    "spread_p99_m": float, "boundary_share": float,
    "members?": {  # what members.fit_members returns; fits of older versions lack it
        "lengths_cells": [float], "length_shares": {"all": [float], None: [float]},
        "inflation": {"all": float, None: float}, "tail_quantiles": [float] * 2}}
# The settings of a run: {key: (schema, meaning)}.
SETTING_DESCRIPTIONS = {
    "run": (str, "name of the training: its folder under checkpoints/ and results/"),
    "scale": (SCALES, "how many times finer the chain makes a map"),
    "recipe": (str, "name of the set of training settings that the run started from"),
    "grid": (("level", "fine"), "of a stage: its own resolution | that of the result (original)"),
    "first_guess": (FIRST_GUESSES, "what a stage corrects, see model.compute_first_guess"),
    "consistency": (bool, "whether every stage's map, coarsened, gives the coarse map back"),
    "gradients": (GRADIENTS, "a stage's error trains that stage | the stages before it too"),
    "channels": (CHANNELS, "what a stage's convolutions receive, see model.run_stage"),
    "bed_levels": ((1, 2), "bed inputs of a stage: 1 = at its level; 2 = at the level before too"),
    "filters": ([int], "filters of every convolution but the last, which has 1"),
    "padding": (("CONSTANT", "SYMMETRIC"), "around the map: zeros (original) | the map mirrored"),
    "kernels": ([int], "sides of the convolutions' kernels, odd, one more than filters"),
    "output_scale_m": ((float, type(None)), "metres to one unit of the last convolution; null: "
                       "thk_norm_m; normalised channels have a local scale instead"),
    "initializer": (("he", "normal"), "first weights: arXiv:1502.01852 | N(0, 1e-3)"),
    "learning_rate": (float, "of Adam, at the first epoch"),
    "adam_epsilon": (float, "epsilon of Adam"),
    "loss": (LOSSES, "error of a stage that is made small, see train.make_train_step"),
    "schedule": (("constant", "cosine"), "learning rate over the epochs; cosine: half a wave to 0"),
    "epochs": (int, "passes over the training patches"),
    "batch_size": (int, "patches in an Adam step; the last, smaller batch is kept"),
    "augment": (bool, "whether every epoch cuts, flips and rotates the training patches again"),
    "crop_factors": ([int], "with augment: multiples of the map's spacing that patches are cut at"),
    "thin_ice_share": (float, "with augment: share of patches with artificially thinned ice"),
    "cut_ice_share": (float, "with augment: share of patches whose ice is made land in part"),
    "shared_weights": (bool, "one set of weights for all stages | one for every stage"),
    "crop_cells": (int, "of a run on whole maps: side of a crop, a multiple of the scale"),
    "crops_per_epoch": (int, "of a run on whole maps: crops that are drawn for an epoch"),
    "self_ensemble": (bool, "whether a prediction is the mean over 8 flips and rotations"),
    "validation": (bool, "whether a tenth of the training patches is held out for validation; "
                   "with a constant learning rate they also choose the best epoch"),
    "seed": (int, "random seed of the first weights and of all that is drawn in training"),
    "patches": (str, "path of the file of patches; a run on whole maps has none"),
    "data": (PATCH_FILE_SCHEMA | {"crs": dict},
             "PATCH_FILE_ATTRIBUTES of that file, and crs: attributes of the map's grid mapping; "
             "of a run on whole maps MAPS_SCHEMA"),
    "start_from": ({"run": str, "weights_sha256": str}, "run whose weights the training starts "
                   "from, and their checksum"),
    "uncertainty": (UNCERTAINTY_SCHEMA, "calibrated prediction intervals, see train.calibrate"),
    "uncertainty_of_scales": ({None: UNCERTAINTY_SCHEMA}, "the same for smaller scales"),
    "versions": ({None: str}, "of Python and the libraries that the first epoch was trained with"),
    "later_versions": ({None: {None: str}}, "the same of later epochs, by the first of them"),
    "n_threads": (int, "of the CPU that the run was trained with; others change last digits"),
}
# What runs of older versions lack, and what that means. Where a run has these values its checksum
# does not count them, so that a new setting leaves the checksums of older runs as they are.
DEFAULTS_FOR_OLDER_RUNS = {"shared_weights": False, "cut_ice_share": 0.0}
OPTIONAL = {"patches", "start_from", "crop_cells", "crops_per_epoch", "uncertainty",
            "uncertainty_of_scales", "later_versions", "n_threads", *DEFAULTS_FOR_OLDER_RUNS}
SETTINGS_SCHEMA = {key + "?" * (key in OPTIONAL): schema
                   for key, (schema, _) in SETTING_DESCRIPTIONS.items()}
# Settings that do not decide the weights; nor does `epochs` where a training can go on.
NOT_OF_THE_WEIGHTS = {"patches", "versions", "later_versions", "n_threads", "uncertainty",
                      "uncertainty_of_scales"}


def settings_schema(content):
    """Return the schema of the settings of a run, on patches or on whole maps."""
    data = content.get("data") if isinstance(content, dict) else None
    is_on_maps = isinstance(data, dict) and "maps" in data
    return SETTINGS_SCHEMA | ({"data": MAPS_SCHEMA} if is_on_maps else {})


def read_validated_json(path, schema, hint):
    """Read a JSON file that has to fit a schema; every file of settings or metrics is read here.

    schema: of find_schema_error, or the function that returns it for a content
    hint: what the user can do. Raises InputError, naming the key, where the content does not fit.
    """
    content = files.read_json(path, hint)
    error = find_schema_error(content, schema(content) if callable(schema) else schema)
    if error:
        raise InputError(f"{path}: {error}: damaged, or written by an older version; {hint}")
    return content


def find_schema_error(value, schema, key=""):
    """Return a description of the first error in a value, naming its key, or "" if it fits.

    A schema is one of:
        bool, int, str, dict, list      a value of this type
        float                           a finite number, whole or not
        ("a", "b", 1, float)            one of these values, or a value of one of these types
        [int]                           a list of one or more such values
        [float, float]                  a list of exactly so many
        {"a": int, "b?": str}           a dict with at least the key a; b may be missing
        {None: float}                   a dict of any keys with such values
    """
    shown = f"{key} {json.dumps(value, default=str)[:60]}".strip()
    find_error = {dict: find_dict_error, list: find_list_error, tuple: find_choice_error}.get(
        type(schema), find_type_error)
    return find_error(value, schema, key, shown)


def find_dict_error(value, schema, key, shown):
    """Return what is wrong with a value that should be a dict of this schema, or ""."""
    if not isinstance(value, dict):
        return find_type_error(value, dict, key, shown)
    for name, inner in schema.items():
        for member in value if name is None else [name.removesuffix("?")]:
            full = f"{key}.{member}" if key else member
            if member in value:
                error = find_schema_error(value[member], inner, full)
            else:
                error = "" if name.endswith("?") else f"no {full} in it"
            if error:
                return error
    return ""


def find_list_error(value, schema, key, shown):
    """Return what is wrong with a value that should be a list of this schema, or ""."""
    if not isinstance(value, list) or not value:
        return f"{shown}, expected a list"
    if len(schema) > 1 and len(value) != len(schema):
        return f"{shown}, expected a list of {len(schema)}"
    return next(filter(None, (find_schema_error(member, schema[0], key) for member in value)), "")


def find_choice_error(value, schema, key, shown):
    """Return what is wrong with a value that should be one of these values or types, or ""."""
    for choice in schema:
        if not find_type_error(value, choice, key, shown) if isinstance(choice, type) else (
                value == choice and type(value) is type(choice)):
            return ""
    return f"{shown}, expected one of {', '.join(map(str, schema))}"


def find_type_error(value, schema, key, shown):
    """Return what is wrong with a value that should be of this type, or ""."""
    fits = type(value) in (int, float) and abs(value) < 1e300 if schema is float else (
        type(value) is schema)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
             dict: "a {...} of keys and values", list: "a list", type(None): "null"}
    return "" if fits else f"{shown}, expected {names[schema]}"


def hash_settings(settings):
    """Return a checksum of the settings that decide the weights.

    Two runs that share it have the same weights, whatever their names.
    """
    ignored = NOT_OF_THE_WEIGHTS | {"run"} | (
        {"epochs"} if settings["schedule"] == "constant" else set())
    kept = {key: settings[key] for key in SETTING_DESCRIPTIONS
            if key in settings and key not in ignored
            and settings[key] != DEFAULTS_FOR_OLDER_RUNS.get(key)}
    if "maps" not in kept["data"]:
        kept["data"] = DEFAULTS_FOR_OLDER_FILES | kept["data"]
        kept["data"].pop("variables_read")  # unknown of older files
        if kept["data"]["sea_level_m"] == 0:  # so that older runs keep their checksum
            del kept["data"]["sea_level_m"]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def require_same_settings(old_settings, settings):
    """Raise InputError, naming what differs, where a run exists with other settings.

    A longer or shorter run at a constant learning rate is the same run; so is one whose patches
    were moved.
    """
    ignored = NOT_OF_THE_WEIGHTS | ({"epochs"} if settings["schedule"] == "constant" else set())
    defaults = {}
    if "maps" not in settings["data"]:
        defaults = DEFAULTS_FOR_OLDER_FILES | {"variables_read": settings["data"]["variables_read"]}
    known = DEFAULTS_FOR_OLDER_RUNS | old_settings | {"data": defaults | old_settings["data"]}
    changed = {key: pair for key, pair in diff_settings(known, settings).items()
               if key.split(".")[0] not in ignored}
    if changed:
        raise InputError(f"run {old_settings['run']} exists with other settings: "
                         f"{format_differences(changed)}. Choose another name with --run, or "
                         "--restart to start it over")


def diff_settings(old, new):
    """Return the values in which two nested dicts differ: {"data.seed": (0, 1), ...}.

    None stands for a value that one of them lacks.
    """
    pairs = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = diff_settings(before, after)
            pairs |= {f"{key}.{inner_key}": pair for inner_key, pair in inner.items()}
        elif before != after:
            pairs[key] = (before, after)
    return pairs


def format_differences(pairs):
    """Return the pairs of diff_settings as a text: "data.seed 0 -> 1; learning_rate 0.1 -> 0.2"."""
    return "; ".join(f"{key} {old} -> {new}" for key, (old, new) in pairs.items())


def get_densities(data):
    """Return the densities of ice and sea water [kg m-3] in the `data` of a run."""
    return tuple(data.get("densities", utils.DENSITIES))


def with_densities(settings, densities):
    """Return settings with other densities of ice and sea water [kg m-3]; None: with their own."""
    data = settings["data"]
    return settings | {"data": data | {"densities": list(densities)}} if densities else settings


def with_self_ensemble(settings, n_members):
    """Return settings whose self_ensemble is a number of members; None: as the run was trained for.

    n_members: a key of SELF_ENSEMBLE_MEMBERS. With another number than the run's there is no
    uncertainty, since it was calibrated on the spread of the run's members.
    """
    trained_members = 8 if settings["self_ensemble"] is True else (
        int(settings["self_ensemble"]) or 1)
    if n_members in (None, trained_members):
        return settings | {"self_ensemble": trained_members}
    if "uncertainty" in settings:
        print("warning: no thk_uncertainty: it was calibrated for a self-ensemble of "
              f"{trained_members} members, not of {n_members}")
    return {key: value for key, value in settings.items() if key != "uncertainty"} | {
        "self_ensemble": n_members}


def needs_topg(settings):
    """Return whether a run needs the bed, for its first guess or as an input channel."""
    return settings["first_guess"] == "surface-minus-bed" or settings["channels"] != "thk"
