"""icesheet.settings."""

import hashlib
import json

import utils
from icesheet import files
from icesheet.command_line import InputError

SCALES = (2, 4, 8, 16)
FIRST_GUESSES = ("none", "bicubic", "surface-minus-bed")
CHANNELS = ("thk", "thk+topg", "normalised")
GRADIENTS = ("stage", "end-to-end")
LOSSES = ("mse", "rmse")
# The settings of a run, a dict that train.make_settings makes and settings.json keeps. Every
# function here that takes `settings` takes this one.
SETTING_DESCRIPTIONS = {
    "run": "name of the training: its folder under checkpoints/ and results/",
    "scale": "how many times finer the chain makes a map: 2, 4, 8 or 16",
    "recipe": "name of the set of training settings that the run started from",
    "grid": "the cells that a stage works on: own, those of its level | fine, as in the original",
    "first_guess": "what the convolutions of a stage correct, see stage_base: one of BASES",
    "consistency": "whether the map made, reduced again, gives the coarse map back",
    "gradients": "what a stage's error trains: one of GRADIENTS, see run_chain",
    "channels": "what the convolutions see: one of CHANNELS, see stage_channels and "
                "relative_channels",
    "bed_levels": "beds that they see: 1 the one at this level, 2 that of the level before too",
    "filters": "filters of every convolution but the last, which has 1",
    "padding": "around the map: CONSTANT, zeros as in the original | SYMMETRIC, the map mirrored",
    "kernels": "sides of the convolutions' kernels, odd, one more than filters",
    "output_scale_m": "metres to one unit of the last convolution (null: thk_norm_m); relative "
                    "channels have a unit of their own",
    "initializer": "first weights: he (He et al. 2015, arXiv:1502.01852) | normal (N(0, 1e-3))",
    "learning_rate": "of Adam, at the first epoch",
    "adam_epsilon": "epsilon of Adam",
    "loss": "error of a stage that is made small: one of LOSSES, see train.make_step",
    "schedule": "learning rate over the epochs: constant | cosine (half a wave, down to 0)",
    "epochs": "passes over the training patches",
    "batch_size": "patches in an Adam step; the last, smaller batch is kept",
    "augment": "whether each epoch cuts, flips and turns the training patches anew",
    "crop_factors": "with augment: at which multiples of the map's spacing patches are cut",
    "thin_ice_share": "with augment: share of patches with artificially thinned ice, see make_thinner",
    "self_ensemble": "a prediction is the mean over turns of the map: true (8) | false | of TURNS",
    "validation": "whether a tenth of the training patches is held out to watch the training; with "
                  "a constant learning rate it chooses the best epoch",
    "seed": "of the first weights and of all that is drawn in training",
    "patches": "path of the file of patches",
    "data": "what decides the numbers in that file, see prepare_data.DATA_KEYS; among them "
            "degrade (reduction: bicubic | area), and thk_norm_m and topg_norm_m, which scale the "
            "channels",
    "uncertainty": "how sure its thickness is: a fit, see train.calibrate; left out until then",
    "versions": "of Python and the libraries that the run was trained with",
    "n_threads": "of the CPU that the run was trained with; another number changes last digits",
}
TEXT_KEYS = ("source", "source_sha256", "source_title", "citation", "time_label")
SETTINGS_SCHEMA = {  # of settings.json, see utils.misfit; what the keys mean is said in settings.SETTING_DESCRIPTIONS
    "run": str, "scale": SCALES, "recipe": str, "grid": ("level", "fine"),
    "first_guess": FIRST_GUESSES, "consistency": bool, "gradients": GRADIENTS,
    "channels": CHANNELS, "bed_levels": (1, 2), "filters": [int],
    "padding": ("CONSTANT", "SYMMETRIC"), "kernels": [int], "output_scale_m": (float, type(None)),
    "initializer": ("he", "normal"), "learning_rate": float, "adam_epsilon": float,
    "loss": LOSSES, "schedule": ("constant", "cosine"), "epochs": int, "batch_size": int,
    "augment": bool, "crop_factors": [int], "thin_ice_share": float, "self_ensemble": bool,
    "validation": bool, "seed": int, "patches": str, "versions": {None: str}, "n_threads?": int,
    "data": {
        **dict.fromkeys(TEXT_KEYS, str), "variables_read?": str, "time_index": int, "synthetic": bool,
        "degrade": ("bicubic", "area"), "split_method": ("random", "block"), "fold": list,
        "test_size": float, "seed": int, "window": [float], "spacing_m": float,
        "thk_max_m": float, "thk_norm_m": float, "topg_norm_m": float, "densities?": [float],
        "crs": dict},
    "uncertainty?": {
        "slope": float, "intercept": float, "scale_by_thickness": bool, "constant_width": dict,
        "coverage_factors": {"all": float, None: float},
        "n_patches": {"all": int, None: int}, "error_quantiles": [float], "variance": float,
        "cells_per_effective_sample": {"all": float, None: float}, "n_held_out": int, "spread_p99_m": float,
        "boundary_share": float}}
# What decides the numbers in a file of patches: `data` in the settings of a run.
PATCH_FILE_ATTRIBUTES = {
    "source": "name of the map file",
    "source_sha256": "its checksum, by which a run knows it again; empty for the synthetic sheet",
    "source_title": "its title",
    "citation": "how it wants to be cited",
    "time_index": "which record of its time axis; -1 where it has only one",
    "time_label": "the same for a reader, with its date where the file has one",
    "synthetic": "whether it is the synthetic ice sheet, no real place",
    "degrade": "how it was reduced: bicubic (point samples) | area (cell means)",
    "split_method": "how test patches were chosen: random | block",
    "fold": "of a cross-validation: which fold of how many, 2 5; empty without",
    "test_size": "share of the patches held out",
    "seed": "of the split",
    "window": "x0 x1 y0 y1 [m] of the part of the map that was cut into patches",
    "spacing_m": "side of a cell [m]",
    "thk_max_m": "largest thickness in the window [m]: divides the error MSE / max2",
    "thk_norm_m": "largest thickness in the training patches [m]: scales the network's channels",
    "topg_norm_m": "largest height or depth of the bed in them [m]: the same; 0 without a bed",
    "densities": "of ice and sea water [kg m-3], for the surface base",
    "variables_read": "which variables of the map were read",
}  # and crs: attributes of the map's grid mapping
DEFAULTS_FOR_OLDER_FILES = {"densities": list(utils.DENSITIES), "variables_read": ""}  # where an older version wrote the file
SELF_ENSEMBLE_MEMBERS = {1: (0,), 2: (0, 3), 4: (0, 3, 5, 6), 8: range(8)}  # numbers of `turn`: groups


def read_validated_json(path, kind, hint):
    """The content of a JSON file, of a kind (see misfit); InputError with `hint` where it is not.

    Every file of settings or metrics is read here: what is wrong with it is said by its key.
    """
    content = files.read_json(path, hint)
    wrong = find_schema_error(content, kind)
    if wrong:
        raise InputError(f"{path}: {wrong}: damaged, or written by an older version; {hint}")
    return content


def find_schema_error(value, kind, key=""):
    """What is wrong with a value read from a file, naming its key, or "" where it fits a kind.

    kind: bool, int, float (whole or not, finite), str, dict or list; a tuple: one of these values;
    a list of one kind: a list of such, not empty; {key: kind}: a dict with at least these keys, one
    whose name ends in "?" may be missing; {None: kind}: a dict of such values.
    """
    where = f"{key} {json.dumps(value, default=str)[:60]}" if key else json.dumps(value)[:60]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{where}, expected a {{...}} of keys and values"
        for name, inner in kind.items():
            for each in value if name is None else [name.removesuffix("?")]:
                full = f"{key}.{each}" if key else each
                if each not in value:
                    if not name.endswith("?"):
                        return f"no {full} in it"
                elif wrong := find_schema_error(value[each], inner, full):
                    return wrong
        return ""
    if isinstance(kind, list):
        if not isinstance(value, list) or not value:
            return f"{where}, expected a list"
        return next(filter(None, (find_schema_error(each, kind[0], key) for each in value)), "")
    if isinstance(kind, tuple):
        fits = any(not find_schema_error(value, each) if isinstance(each, type) else
                   value == each and type(value) is type(each) for each in kind)
        return "" if fits else f"{where}, expected one of {', '.join(map(str, kind))}"
    fits = (type(value) in (int, float) and abs(value) < 1e300 if kind is float
            else type(value) is kind)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
             dict: "a {...} of keys and values", list: "a list", type(None): "null"}
    return "" if fits else f"{where}, expected {names[kind]}"


def hash_settings(settings):
    """Checksum of the settings that decide the weights: runs that share it have the same weights.

    Not of the name, the place of the patches and what is fitted afterwards; not of the epochs at a
    constant learning rate, which may go on.
    """
    ignored = {"run", "patches", "versions", "n_threads", "uncertainty"} | (
        {"epochs"} if settings["schedule"] == "constant" else set())
    kept = {key: settings[key] for key in SETTING_DESCRIPTIONS if key in settings and key not in ignored}
    kept["data"] = DEFAULTS_FOR_OLDER_FILES | kept["data"]
    kept["data"].pop("variables_read")  # unknown of older files
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def get_densities(data):
    """Densities of ice and sea water [kg m-3] of the `data` of a run; older ones have none."""
    return tuple(data.get("densities", utils.DENSITIES))


def with_densities(settings, densities):
    """Settings of a run with other densities of ice and sea water [kg m-3]; None: with its own."""
    data = settings["data"]
    return settings | {"data": data | {"densities": list(densities)}} if densities else settings


def with_self_ensemble(settings, turns):
    """Settings of a run, self_ensemble the number `turns` (see model.predict_ensemble); None: the run's."""
    own = 8 if settings["self_ensemble"] is True else int(settings["self_ensemble"]) or 1
    if turns in (None, own):
        return settings | {"self_ensemble": own}
    if "uncertainty" in settings:
        print("note: no thk_uncertainty: it was calibrated on the spread of 8 turns, not of "
              f"{turns}")
    return {key: value for key, value in settings.items() if key != "uncertainty"} | {
        "self_ensemble": turns}


def needs_topg(settings):
    """Whether a run needs the bed: to correct the surface base, or to see it."""
    return settings["first_guess"] == "surface-minus-bed" or settings["channels"] != "thk"


def diff_settings(old, new):
    """Values in which two nested dicts differ: {"data.seed": (0, 1), ...}; None if one has none."""
    pairs = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            pairs |= {f"{key}.{inner}": pair for inner, pair in diff_settings(before, after).items()}
        elif before != after:
            pairs[key] = (before, after)
    return pairs


def format_differences(pairs):
    """What differs (see differences) for a reader: "data.seed 0 -> 1; learning_rate 0.1 -> 0.2"."""
    return "; ".join(f"{key} {old} -> {new}" for key, (old, new) in pairs.items())


def require_same_settings(old, settings):
    """Raise InputError, naming what differs, where a run exists with other settings.

    A longer or shorter run at a constant learning rate is the same run; so is one whose patches
    were moved.
    """
    ignored = {"versions", "n_threads", "patches", "uncertainty"} | (
        {"epochs"} if settings["schedule"] == "constant" else set())
    known = old | {"data": {key: settings["data"].get(key) if key == "variables_read" else value
                            for key, value in DEFAULTS_FOR_OLDER_FILES.items()} | old["data"]}
    changed = {key: pair for key, pair in diff_settings(known, settings).items()
               if key.split(".")[0] not in ignored}
    if changed:
        raise InputError(f"run {old['run']} exists with other settings: "
                         f"{format_differences(changed)}. Choose another name with --run, or "
                         "--restart to start it over")
