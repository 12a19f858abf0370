"""The runs that train.py is asked for: its command line, the jobs that follow, and their checks."""

import argparse
import json
import math
import re

from icesheet import checkpoints, command_line, files, map_layout, training_maps
from icesheet.command_line import InputError
from icesheet.patches import read_patches
from icesheet.scores import METRICS_SCHEMA
from icesheet.settings import (
    CHANNELS, FIRST_GUESSES, GRADIENTS, SCALES, diff_settings, format_differences, needs_topg,
    read_validated_json)

MAPS_SCALE = 16  # default for a training on whole maps, which then refines 2, 4 and 8 times too
ASSUMED_FLOPS_PER_S = 55e9  # of 2 cores with AVX-512, measured on the default recipe at 8x
# Settings of a run that an option changes: {key: (option, name of its argument)}.
OPTIONS = {"first_guess": ("--first-guess", "first_guess"), "channels": ("--channels", "channels"),
           "gradients": ("--gradients", "gradients"), "epochs": ("--epochs", "epochs"),
           "consistency": ("--no-consistency", "consistency"), "learning_rate": ("--lr", "lr"),
           "batch_size": ("--batch-size", "batch_size")}
USED_BY_CALIBRATION = {"calibrate", "run", "scale", "input", "patches", "variables", "xy_units",
                       "factors", "weights"}
# Settings that decide which layers a run has and what they are made for.
ARCHITECTURE = ("scale", "grid", "first_guess", "channels", "bed_levels", "filters", "kernels",
                "padding", "output_scale_m", "shared_weights")


def add_training_arguments(parser, recipes):
    """Add the options of train.py; recipes: names of the sets of training settings."""
    def add(option, help_text, **about):
        parser.add_argument(option, help=help_text, **about)

    add("--scale", "how many times finer the map becomes (default: that of the run or of the "
        "patches, else 8)", type=int, choices=SCALES)
    add("--input", "map to make the patches from (default: that of the patches); several maps are "
        "trained on whole, by crops from anywhere in them, and nothing is held out",
        metavar="MAP.nc", nargs="+")
    add("--factors", "for each map of --input the factors by which its crops are coarsened, 1,2,4 "
        "(default: those of 1, 2, 4 and 8 that leave room for a crop)", metavar="LIST", nargs="+")
    add("--weights", "for each map of --input how often it is drawn, relative to the others of its "
        "size (default: 1)", metavar="W", nargs="+", type=float)
    add("--start-from", "fine-tune: start from the weights of this run, on whole maps",
        metavar="RUN")
    add("--patches", "file of prepare_data.py (default: the one in data/ with what is wanted)",
        metavar="FILE")
    add("--synthetic", "train on the synthetic ice sheet (the default if no --run, --input or "
        "--patches is given and no patch file exists)", action="store_true")
    add("--recipe", "set of training settings: default | map, for whole maps anywhere | original, "
        "as published (default: default)", choices=recipes, default="default")
    add("--run", "name of the run, its folder in checkpoints/ and results/ (default: x<scale>)",
        metavar="NAME")
    of_recipe = "(default: the recipe's)"
    add("--epochs", f"passes over the training patches {of_recipe}", type=int, metavar="N")
    add("--lr", f"learning rate of Adam {of_recipe}", type=float, metavar="LR")
    add("--batch-size", f"patches in a training step {of_recipe}", type=int, metavar="N")
    add("--first-guess", f"first guess that each stage corrects {of_recipe}", choices=FIRST_GUESSES)
    add("--channels", f"input channels of each stage {of_recipe}", choices=CHANNELS)
    add("--no-consistency", f"do not enforce consistency with the coarse map {of_recipe}",
        dest="consistency", action="store_false", default=None)
    add("--gradients", "stage: train each stage on its own error; end-to-end: also on the errors "
        f"of later stages {of_recipe}", choices=GRADIENTS)
    add("--seed", "random seed of initial weights, crops and batch order (default: 0)", type=int,
        default=0)
    add("--seeds", "train N runs, with --seed and the N-1 seeds after it, and print one table "
        "(default: one run)", type=int, metavar="N")
    add("--crossval", "K-fold cross-validation: whole blocks of patches, each held out once "
        "(default: none)", type=int, metavar="K")
    add("--job", "train only the J-th fold of --crossval, with all seeds; without folds the J-th "
        "of --seeds (default: all)", type=int, metavar="J")
    add("--summary-only", "print the table of --crossval or --seeds, train nothing",
        action="store_true")
    add("--calibrate", "only calibrate the prediction intervals of an existing run",
        action="store_true")
    add("--dry-run", "print all settings and where they come from, write nothing",
        action="store_true")
    add("--restart", "discard the run and its results, and train it again", action="store_true")
    map_layout.add_map_arguments(parser)


def parse_training_arguments(doc, recipes, argv):
    """Return the arguments of train.py, checked; run, scale and source are filled in.

    source: where patches may come from, as in prepare_data.load_or_make_patches; given: names of
    the options that the user gave; map_options: of map_layout.parse_map_options.
    """
    parser = command_line.make_argument_parser(doc)
    add_training_arguments(parser, recipes)
    args = parser.parse_args(argv)
    args.given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    args.map_options = map_layout.parse_map_options(args)
    choose_maps(args)
    check_training_arguments(args)
    choose_run(args)
    return args


def option_text(name):
    """Return an option as it is typed, from the name of its argument."""
    return "--no-consistency" if name == "consistency" else f"--{name.replace('_', '-')}"


def choose_maps(args):
    """Fill in `maps`, the maps to be trained on whole, or None; `input` is one map, for patches.

    factors and weights become lists with an entry for each map.
    """
    args.maps = None
    is_on_maps = args.run is not None and not args.restart and checkpoints.is_on_maps(args.run)
    if is_on_maps and not args.input:
        raise InputError(f"run {args.run} was trained on whole maps; give them again with --input, "
                         "and --factors and --weights if it had any")
    if args.input and (len(args.input) > 1 or args.factors or args.weights or args.start_from
                       or is_on_maps):
        args.maps = args.input
    args.input = args.input[0] if args.input and not args.maps else None
    if not args.maps:
        for name in ("factors", "weights", "start_from"):
            if name in args.given:
                raise InputError(f"{option_text(name)} needs the maps to train on: --input A.nc ..")
        return
    for name in ("patches", "synthetic", "crossval", "seeds"):
        if name in args.given:
            raise InputError(f"{option_text(name)} is for patches; a training on whole maps "
                             "(several --input, --factors, --weights, --start-from) cannot have "
                             "it")
    for name in ("factors", "weights"):
        n_given = len(getattr(args, name) or args.maps)
        if n_given != len(args.maps):
            raise InputError(f"{option_text(name)}: {n_given} values for {len(args.maps)} maps of "
                             "--input; expected one for each")
    args.weights = args.weights or [1.0] * len(args.maps)
    if not all(0 < weight < 1e6 for weight in args.weights):
        raise InputError(f"--weights {' '.join(f'{w:g}' for w in args.weights)}: expected numbers "
                         "above 0")
    texts = args.factors or [None] * len(args.maps)
    for text in texts:
        if text is not None and not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", text):
            raise InputError(f"--factors {text}: expected whole numbers from 1 to 99 with commas "
                             "between them, 1,2,4, for each map of --input")
    args.factors = [text and [int(number) for number in text.split(",")] for text in texts]


def read_maps(args, settings, existing_settings):
    """Read the maps of --input; return them and the `data` of the run (training_maps.py).

    Raises InputError if the maps cannot be trained on, or the run was trained on others.
    """
    known = (existing_settings or {}).get("data", {})
    densities = args.densities or known.get("densities")
    maps, data = training_maps.read_training_maps(
        args.maps, args.factors, args.weights, settings["crop_cells"],
        args.map_options | {"densities": densities})
    if "densities" in known:
        data["densities"] = list(densities)
    if existing_settings and "maps" not in known:
        raise InputError(f"run {args.run} was trained on patches, not on whole maps; choose "
                         "another name with --run, or --restart to start it over")
    return maps, data


def start_from_settings(args, settings):
    """Return {"start_from": ...} for settings of a run that starts from another, else {}.

    Raises InputError, naming what differs, if the layers of that run do not fit.
    """
    if not args.start_from:
        return {}
    start = checkpoints.read_settings(args.start_from)
    keys = [key for key in ARCHITECTURE if key != "scale" or not start.get("shared_weights")]
    differences = diff_settings({key: start.get(key) for key in keys},
                                {key: settings.get(key) for key in keys})
    if differences:
        raise InputError(f"--start-from {args.start_from}: its layers do not fit the run: "
                         f"{format_differences(differences)}; leave out what changes them")
    return {"start_from": {"run": args.start_from,
                           "weights_sha256": checkpoints.hash_weights(args.start_from)}}


def check_training_arguments(args):
    """Raise InputError for values out of range, and for options that exclude each other."""
    for name in ("epochs", "lr", "batch_size", "seeds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{option_text(name)} {value:g}: expected a number above 0")
    if args.crossval is not None and args.crossval < 2:
        raise InputError(f"--crossval {args.crossval}: expected 2 or more folds")
    max_seed = 2**32 - (args.seeds or 1)  # TensorFlow accepts no seed of more than 32 bits
    if not 0 <= args.seed <= max_seed:
        raise InputError(f"--seed {args.seed}: expected 0 to {max_seed}")
    ignored = sorted(args.given - USED_BY_CALIBRATION)
    if args.calibrate and ignored:
        raise InputError("--calibrate only fits the prediction intervals of a run that is trained; "
                         f"remove {', '.join(map(option_text, ignored))}")
    if (args.job is not None or args.summary_only) and not (args.crossval or args.seeds):
        raise InputError("--job and --summary-only need --crossval K or --seeds N")
    if args.summary_only and (args.restart or args.dry_run or args.job is not None):
        raise InputError("--summary-only cannot be combined with --restart, --dry-run or --job")
    if args.job is not None and not 1 <= args.job <= (args.crossval or args.seeds):
        raise InputError(f"--job {args.job}: expected 1 to {args.crossval or args.seeds}")
    if args.synthetic and (args.input is not None or args.patches is not None):
        raise InputError("--synthetic cannot be combined with --input or --patches: choose one "
                         "source of data")


def choose_run(args):
    """Fill in the name of the run, its scale, and where its patches may come from."""
    is_named, scale_of_patches = args.run is not None, None
    if args.start_from and args.start_from == args.run:
        raise InputError(f"--start-from {args.run} is the run itself; choose another name with "
                         "--run for the new one")
    if args.start_from:
        start = checkpoints.read_settings(command_line.check_run_name(args.start_from))
        args.scale = args.scale or start["scale"]
        args.recipe = args.recipe if "recipe" in args.given else start["recipe"]
    elif args.maps and args.scale is None and not is_named:
        args.scale = MAPS_SCALE
    if args.scale is None and args.patches is not None:
        scale_of_patches = read_patches(args.patches)["scale"]
    args.run = command_line.check_run_name(
        args.run if is_named else f"x{args.scale or scale_of_patches or 8}")
    if args.scale is None:
        exists = (checkpoints.run_folder(args.run) / "settings.json").exists()
        args.scale = (checkpoints.read_settings(args.run)["scale"] if exists
                      else scale_of_patches or (MAPS_SCALE if args.maps else 8))
    # A run named with --run never trains on the synthetic ice sheet unless --synthetic is given.
    args.source = ("synthetic" if args.synthetic else
                   "map" if is_named and args.patches is None else "any")


def changed_settings(args):
    """Return the settings that the command line changes."""
    values = {key: getattr(args, name) for key, (_, name) in OPTIONS.items()}
    return {key: value for key, value in values.items() if value is not None}


def list_jobs(args):
    """Return the runs to train and all runs of the table.

    The first is a list of (arguments of the run, fold as (2, 5) or ()), only those of --job; the
    second {"fold 1" ..., or "test" without folds: [run of each seed]}, empty for a single run.
    """
    if not (args.seeds or args.crossval):
        return [(args, ())], {}
    folds, runs_by_fold, jobs = args.crossval or 0, {}, []
    for fold in range(1, folds + 1) if folds else [0]:
        for number, seed in enumerate(range(args.seed, args.seed + (args.seeds or 1)), 1):
            run = (args.run + (f"_fold{fold}of{folds}" if fold else "")
                   + (f"_seed{seed}" if seed != args.seed else ""))
            runs_by_fold.setdefault(f"fold {fold}" if fold else "test", []).append(run)
            if args.job in (None, fold or number):
                job_args = argparse.Namespace(**vars(args) | {"run": run, "seed": seed})
                jobs.append((job_args, (fold, folds) if fold else ()))
    return jobs, runs_by_fold


def is_finished(settings):
    """Return whether a run is trained to its last epoch and evaluated after that.

    What the files hold decides: their times are those of a copy, or of a server's clock.
    """
    run = settings["run"]
    latest = checkpoints.list_checkpoints(checkpoints.run_folder(run) / "latest")
    path = files.RESULTS / run / "metrics.json"
    if (not latest or int(checkpoints.checkpoint_epoch(latest[0])) < settings["epochs"]
            or not path.exists()):
        return False
    metrics = read_validated_json(path, METRICS_SCHEMA, "evaluate the run again: python "
                                  f"evaluate.py --run {run}")
    return (metrics["settings"] == checkpoints.read_settings(run)
            and metrics["weights_sha256"] == checkpoints.hash_weights(run))


def require_finished(settings_of_runs):
    """Raise InputError, naming them, if some runs are not trained to the end and evaluated."""
    unfinished = [settings["run"] for settings in settings_of_runs if not is_finished(settings)]
    if unfinished:
        raise InputError(f"not trained to the end: {', '.join(unfinished)}; train them without "
                         "--summary-only")


def read_existing_settings(args):
    """Return the settings of the run if it exists and is to be resumed, else None."""
    if args.restart or not (checkpoints.run_folder(args.run) / "settings.json").exists():
        return None
    settings = checkpoints.read_settings(args.run)
    if settings["scale"] != args.scale:
        raise InputError(f"run {args.run} was trained for {settings['scale']}x, not for "
                         f"{args.scale}x; choose another name with --run, or discard it with "
                         "--restart")
    return settings


def print_run(settings, flops):
    """Print what is trained and about how long it takes; flops: of the chain, for a patch."""
    # Backwards costs about twice as much as forwards.
    minutes = 3 * flops * 140 * settings["epochs"] / ASSUMED_FLOPS_PER_S / 60
    print(f"run {settings['run']}: {settings['scale']}x, recipe {settings['recipe']}, "
          f"{settings['epochs']} epochs, about {max(minutes, 1):.0f} minutes on 2 cores for 140 "
          "patches")


def require_trainable(path, patches, settings):
    """Raise InputError if nothing can be learnt from the patches with these settings."""
    if needs_topg(settings) and patches["topg"] is None:
        raise InputError(f"{path}: its map has no bed (topg); train on thickness alone with "
                         "--channels thk")
    if not patches["data"]["thk_norm_m"] > 0:
        raise InputError(f"{path}: no ice in the training patches, nothing can be learnt from "
                         "them; choose another --window or --seed with prepare_data.py")


def print_thread_note(existing_settings, n_threads):
    """Print a note if a run resumes with another number of threads than it was trained with."""
    n_before = existing_settings.get("n_threads", n_threads)
    if n_before != n_threads:
        print(f"note: the run was trained with {n_before} threads and resumes with {n_threads}: "
              "last digits will differ")


def history_row(epoch, seconds, rate, rmse_m, validation_rmse_m):
    """Return a row of history.csv; rmse_m, validation_rmse_m (or None): by stage [m]."""
    row = {"epoch": epoch, "seconds": round(seconds, 3), "learning_rate": rate}
    for stage, errors in enumerate(zip(rmse_m, validation_rmse_m, strict=True), 1):
        row[f"train_rmse_m_stage{stage}"], row[f"validation_rmse_m_stage{stage}"] = errors
    return row


def show_epoch(history, n_epochs):
    """Show the last epoch of a history, rows of history_row, as a line of progress."""
    row = history[-1]
    train_m = [value for key, value in row.items() if key.startswith("train_rmse_m")]
    validation_m = row[f"validation_rmse_m_stage{len(train_m)}"]
    command_line.show_progress(
        "epoch", row["epoch"], n_epochs, row["seconds"] / len(history),
        "stage RMSE" + "".join(f" {value:6.1f}" for value in train_m)
        + (f"   validation {validation_m:6.1f}" if validation_m is not None else "") + " m   ")


def divergence_message(run, epoch):
    """Return the message for a training whose loss or weights are no longer finite."""
    kept = checkpoints.list_checkpoints(checkpoints.run_folder(run) / "latest")
    return (f"run {run}: loss or weights of epoch {epoch} are not a number; "
            + (f"{kept[0]} is kept" if kept else "no checkpoint was written yet")
            + ". Try a lower --lr with --restart, or another --run")


def print_settings(args, settings, patches, existing_settings):
    """Print the settings of a run, one a line, and where each comes from, for --dry-run.

    patches: None if they would have to be made first
    """
    run_or_default = f"run {args.run}" if existing_settings else "default"
    sources = {"patches": "command line, --patches" if args.patches else run_or_default,
               "n_threads": "this machine"}
    for name in ("run", "scale", "recipe", "seed"):
        sources[name] = f"command line, --{name}" if name in args.given else (
            run_or_default if name == "scale" else "default")
    for key, (option, _) in OPTIONS.items():
        if key in changed_settings(args):
            sources[key] = f"command line, {option}"
    if args.channels == "thk" and "first_guess" not in args.given:
        sources["first_guess"] = f"recipe {args.recipe}, as far as --channels thk allows"
    rows = [(key, settings[key], sources.get(key, f"recipe {args.recipe}"))
            for key in settings if key != "data"]
    for key, value in settings.get("data", {}).items():
        source = f"file {settings['patches']}" if "patches" in settings else "maps of --input"
        if key == "densities" and (args.densities or existing_settings):
            source = "command line, --densities" if args.densities else run_or_default
        rows.append((f"data.{key}", value, source))
    width, value_width = (max(len(text) for text in texts) for texts in zip(*(
        (key, json.dumps(value)) for key, value, _ in rows), strict=True))
    for key, value, source in rows:
        print(f"{key:{width}}  {json.dumps(value):{min(value_width, 40)}}  {source}")
    if patches is None:
        print(f"{'data.*':{width}}  known when the patches are made, which they are not yet")
    print("dry run: nothing was trained or written\n")
