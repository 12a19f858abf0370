"""Train the recurrent SRCNN, stage after stage in every batch, and evaluate it on the test patches.

    python train.py --scale 8                          # synthetic ice sheet: needs nothing else
    python train.py --scale 8 --input MAP.nc           # your map (thk, topg, x, y)
    python train.py --scale 8 --recipe original        # the published recipe, 30000 epochs
    python train.py --patches data/patches_x8.nc --run wide --lr 3e-4    # an experiment beside it
    python train.py --scale 8 --seeds 3                # x8, x8_seed1, x8_seed2: one table
    python train.py --scale 8 --crossval 5             # each block of patches held out once
    python train.py --scale 8 --crossval 5 --job 2    # one of them; then --summary-only in its place
    python train.py --run wide --calibrate             # how sure it is, without training it

The same command again resumes a run that was stopped (Ctrl-C, kill, power), bit for bit on a CPU.
Patches come from --patches FILE, else from data/patches_x<scale>.nc, which is made from --input
where it is missing (prepare_data.py). Weights and history.csv go to checkpoints/<run>/, results to
results/<run>/.
"""

import argparse
import math
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import evaluate
import model
import prepare_data
import utils
from icesheet import checkpoints, command_line, crops, figures, files, map_layout, uncertainty
from icesheet.command_line import InputError
from icesheet.device import set_up_device, tf
from icesheet.patches import (
    describe_split,
    make_chain_inputs,
    read_patches,
    training_and_validation_indices,
)
from icesheet.settings import (
    CHANNELS,
    FIRST_GUESSES,
    GRADIENTS,
    SCALES,
    hash_settings,
    needs_topg,
    require_same_settings,
)

# ---- Settings: edit here -----------------------------------------------------------------------
# What each key means is said in settings.SETTING_DESCRIPTIONS; a value that is a dict is by scale.
RECIPES = {
    "default": {
        "grid": "level",              # own | fine
        "first_guess": "bicubic",          # none | bicubic | surface
        "consistency": True,
        "gradients": "end-to-end",       # stage | chain
        "channels": "thk+topg",     # thk | thk+topg | relative
        "bed_levels": 2,            # 1 | 2
        "filters": [32, 32, 32, 32],
        "kernels": [3, 3, 3, 3, 3],
        "padding": "SYMMETRIC",     # CONSTANT | SYMMETRIC
        "output_scale_m": 300.0,
        "initializer": "he",            # he | normal
        "learning_rate": 2e-3,
        "adam_epsilon": 1e-7,       # Keras's; TensorFlow 1 had 1e-8
        "schedule": "cosine",       # constant | cosine
        "loss": "mse",              # mse | rmse
        "epochs": {2: 300, 4: 300, 8: 300, 16: 150},  # 16x overfits after that
        "batch_size": 5,
        "augment": True,
        "crop_factors": [1],
        "thin_ice_share": 0.0,
        "self_ensemble": True,
        "validation": True,
    },
    # As published (see README), with the batch, the seed and the number of stages put right.
    "original": {
        "grid": "fine", "first_guess": "none", "consistency": False, "gradients": "stage",
        "channels": "thk+topg", "bed_levels": 1, "filters": [64, 32], "kernels": [9, 1, 5],
        "padding": "CONSTANT",
        "output_scale_m": None, "initializer": "normal",
        "learning_rate": {2: 1e-4, 4: 1e-6, 8: 1e-4, 16: 1e-4},
        "adam_epsilon": 1e-8, "schedule": "constant", "loss": "mse",
        "epochs": {2: 30000, 4: 100000, 8: 30000, 16: 30000},
        "batch_size": 80, "augment": False, "crop_factors": [1], "thin_ice_share": 0.0,
        "self_ensemble": False, "validation": False,
    },
}
# For whole maps of any spacing and place (see README). Errors at one spacing say little of others,
# so all patches are trained on.
RECIPES["map"] = RECIPES["default"] | {
    "first_guess": "surface-minus-bed", "channels": "normalised", "loss": "rmse", "learning_rate": 4e-3,
    "crop_factors": [2, 3], "thin_ice_share": 0.1, "validation": False,
    "epochs": {2: 300, 4: 600, 8: 600, 16: 600}}
SAVE_EVERY_S = 20  # seconds of training that a kill -9 can cost
ASSUMED_FLOPS_PER_S = 100e9       # floating-point operations a second, to say beforehand how long it takes


def learning_rate(settings, epoch):
    """Adam's learning rate in `epoch` (from 1): constant, or half a cosine down towards 0."""
    if settings["schedule"] == "constant":
        return settings["learning_rate"]
    done = (epoch - 1) / settings["epochs"]
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def compute_stage_mse(layers, thk, topg, settings):
    """MSE of each stage and patch [m2], on the cells of its level: (stage, patch).

    thk, topg: of draw_training_patches.
    """
    predictions = model.run_chain(layers, thk[0], topg, settings)
    return tf.stack([tf.reduce_mean(tf.square(prediction - label), axis=(1, 2))
                     for prediction, label in zip(predictions, thk[1:], strict=True)])


def make_train_step(layers, optimizer, settings, compiled=False):
    """The step that trains every stage on one batch: step(thk, topg) -> each stage's MSE [m2].

    thk, topg: as of draw_training_patches. Adam treats each weight by itself. So where gradients stay within
    a stage, one Adam on the sum of the losses is an Adam step of each stage on its own.
    loss "rmse" is the mean of the patches' RMSE: a few patches with large errors do not outweigh
    the others, which on a map of another place may be all there is.
    compiled: by XLA, see choose_step.
    """
    weights = model.list_weights(layers)

    @tf.function(jit_compile=compiled)
    def step(thk, topg):
        with tf.GradientTape() as tape:
            mse = compute_stage_mse(layers, thk, topg, settings)
            errors = mse / settings["data"]["thk_norm_m"] ** 2
            if settings["loss"] == "rmse":
                errors = tf.sqrt(mse + 1)  # [m]; 1 m2: what is below 1 m is as good as right
            loss = tf.reduce_sum(tf.reduce_mean(errors, axis=1))
        optimizer.apply(tape.gradient(loss, weights), weights)
        return tf.reduce_mean(mse, axis=1)

    return step


def choose_step(layers, optimizer, settings, epoch_inputs, is_gpu):
    """Return the training step, on a GPU compiled by XLA where that works; nothing is trained.

    XLA makes one kernel of many small operations: a third of the time on a GPU, nothing gained on
    a CPU. epoch_inputs: thk, topg of an epoch, to try it on a whole batch and on the last, smaller
    one.
    """
    plain = make_train_step(layers, optimizer, settings)
    if not is_gpu:
        return plain
    variables = [*model.list_weights(layers), *optimizer.variables]
    values = [variable.numpy() for variable in variables]
    step, size = make_train_step(layers, optimizer, settings, compiled=True), settings["batch_size"]
    try:
        for batch in (slice(0, size), slice(-(len(epoch_inputs[0][0]) % size), None)):
            step(*([tf.constant(level[batch]) for level in field] for field in epoch_inputs))
        print("training step compiled by XLA")
        return step
    except (tf.errors.OpError, ValueError, TypeError) as error:
        print("note: XLA cannot compile the training step; training goes on without it "
              f"({command_line.one_line(error)[:200]})")
        return plain
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def compile_epoch(step, layers, settings):
    """The compiled epoch: train_epoch(thk, topg) -> (each stage's RMSE [m], weights all finite).

    thk, topg: the epoch's patches, of draw_training_patches. The loop over batches is inside the graph: no
    Python runs between them, and nothing is traced twice.
    """
    size, weights = settings["batch_size"], model.list_weights(layers)

    @tf.function
    def train_epoch(thk, topg):
        total, n_patches = tf.zeros(len(layers)), thk[0].shape[0]
        for start in tf.range(0, n_patches, size):
            batch, bed = ([level[start:start + size] for level in field] for field in (thk, topg))
            total += step(batch, bed) * tf.cast(tf.shape(batch[0])[0], tf.float32)
        finite = [tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]
        return tf.sqrt(total / n_patches), tf.reduce_all(finite)

    return train_epoch


def compile_validation(layers, patches, numbers, settings):
    """The compiled validation: validate() -> each stage's RMSE [m] on patches `numbers`."""
    thk, topg = ([tf.constant(level) for level in field]
                 for field in make_chain_inputs(patches, numbers, settings))
    return tf.function(lambda: tf.sqrt(tf.reduce_mean(
        compute_stage_mse(layers, thk, topg, settings), axis=1)))


def build_objects(settings):
    """Return all that a run carries from epoch to epoch, as a checkpoint keeps it: a dict.

    layers, best_layers (see train), optimizer, epoch, best_epoch, best_rmse_m [m], and settings:
    the checksum of the settings that made them.
    """
    tf.keras.utils.set_random_seed(settings["seed"])
    objects = {
        "layers": model.build_layers(settings), "best_layers": model.build_layers(settings),
        "optimizer": tf.keras.optimizers.Adam(settings["learning_rate"],
                                              epsilon=settings["adam_epsilon"]),
        "epoch": tf.Variable(0, dtype=tf.int64), "best_epoch": tf.Variable(0, dtype=tf.int64),
        "best_rmse_m": tf.Variable(float("inf"), dtype=tf.float32),
        "settings": tf.Variable(hash_settings(settings), dtype=tf.string)}
    objects["optimizer"].build(model.list_weights(objects["layers"]))
    return objects


def copy_to_best_layers(objects):
    """Copy the weights of `layers` to `best_layers`, and `epoch` to `best_epoch`."""
    objects["best_epoch"].assign(objects["epoch"])
    for best, weight in zip(model.list_weights(objects["best_layers"]),
                            model.list_weights(objects["layers"]), strict=True):
        best.assign(weight)


def train(patches, settings, is_gpu=False):
    """Train a run to its last epoch, from its latest checkpoint if it has one.

    patches: see prepare_data.make_patches; settings: see settings.SETTING_DESCRIPTIONS.
    Writes checkpoints/<run>/: settings.json, history.csv, latest/ (all of checkpoints.load_or_create_state) and
    best/ (the layers of the epoch with the least validation error; with the cosine schedule or
    without validation those of the latest).
    Returns True when the run is complete, False when it was stopped by a signal. Raises InputError
    where the checkpoint does not fit, ArithmeticError at a NaN.
    """
    training, validation = training_and_validation_indices(patches, settings)
    objects = build_objects(settings)
    history = checkpoints.resume_training(objects, settings)
    layers, optimizer = objects["layers"], objects["optimizer"]
    places = crops.find_crop_positions(patches, training, settings) if settings["augment"] else None
    first, seconds_before = int(objects["epoch"]) + 1, history[-1]["seconds"] if history else 0.0
    last = settings["epochs"]
    if first > 1:
        print(f"resuming after epoch {first - 1}")
    checkpoints.write_training_settings(settings, first)

    def draw(epoch):
        return crops.draw_training_patches(patches, training, places, settings, epoch)

    step = choose_step(layers, optimizer, settings, draw(first), is_gpu)
    train_epoch = compile_epoch(step, layers, settings)
    validate = compile_validation(layers, patches, validation, settings) if len(validation) else None
    signals = []  # a signal only ends the loop between epochs, never inside one
    handlers = {each: signal.signal(each, lambda number, frame: signals.append(number))
                for each in (signal.SIGINT, signal.SIGTERM)}
    started = saved = time.monotonic()
    pool = ThreadPoolExecutor(1)
    try:
        drawn = pool.submit(draw, first)
        for epoch in range(first, last + 1):
            rate = learning_rate(settings, epoch)
            optimizer.learning_rate.assign(rate)
            inputs = [[tf.constant(level) for level in field] for field in drawn.result()]
            if epoch < last:  # the next patches are drawn while this epoch trains
                drawn = pool.submit(draw, epoch + 1)
            rmse_m, finite = train_epoch(*inputs)
            if not (finite and np.isfinite(rmse_m).all()):
                raise ArithmeticError(divergence_message(epoch, settings["run"]))
            objects["epoch"].assign(epoch)
            validation_rmse_m = validate().numpy() if validate else [None] * len(layers)
            if validate is None or settings["schedule"] == "cosine":
                # While the rate is high, a low error on a few patches is luck: the last is better.
                copy_to_best_layers(objects)
            elif validation_rmse_m[-1] < objects["best_rmse_m"]:
                objects["best_rmse_m"].assign(validation_rmse_m[-1])
                copy_to_best_layers(objects)

            now = time.monotonic()
            row = {"epoch": epoch, "seconds": round(seconds_before + now - started, 3),
                   "learning_rate": rate}
            for stage, values in enumerate(zip(rmse_m.numpy(), validation_rmse_m, strict=True), 1):
                row[f"train_rmse_m_stage{stage}"], row[f"validation_rmse_m_stage{stage}"] = values
            history.append(row)
            text = "".join(f" {value:6.1f}" for value in rmse_m) + (
                f"   validation {validation_rmse_m[-1]:6.1f}" if validate else "")
            command_line.show_progress("epoch", epoch, last, (now - started) / (epoch - first + 1),
                                f"stage RMSE{text} m   ")
            if signals or now - saved > SAVE_EVERY_S or epoch == last:
                checkpoints.save_training_state(objects, history, settings)
                saved = now
            if signals:
                break
    finally:
        pool.shutdown()
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if int(objects["epoch"]) < last:
            print()  # after a line of progress that was to be overwritten
    return int(objects["epoch"]) >= last


def estimate_minutes(settings):
    """Minutes that all epochs take with the usual patches (140 of 41 x 41 cells), roughly.

    On 2 cores of 2025; a step back costs twice one forwards.
    """
    return settings["epochs"] * 140 * 3 * model.count_flops(settings, 41) / ASSUMED_FLOPS_PER_S / 60


def divergence_message(epoch, run):
    """What to say of the training of a run that diverged in `epoch`."""
    kept = [f"{path} is kept" for path in checkpoints.list_checkpoints(checkpoints.run_folder(run) / "latest")]
    kept = kept[0] if kept else "no checkpoint was written yet"
    return (f"the loss of epoch {epoch} is not a number; {kept}; try a lower --lr with --restart "
            "or another --run")


def collect_calibration_sample(layers, patches, numbers, settings):
    """What uncertainty.fit_intervals needs of patches `numbers`, cut as in an epoch."""
    places = crops.find_crop_positions(patches, numbers, settings) if settings["augment"] else None
    fields = crops.draw_training_patches(patches, numbers, places, settings, epoch=0)
    drawn = {name: np.stack(utils.build_levels(
        levels[-1], settings["scale"], settings["data"]["degrade"], "fine"), axis=1)
        for name, levels in zip(("thk", "topg"), fields, strict=True)}
    if not needs_topg(settings):
        drawn["topg"] = None
    numbers, label = np.arange(len(numbers)), drawn["thk"][:, -1]
    predictions, spread = model.predict_patches(layers, drawn, settings, numbers)
    by_method = model.add_baselines(predictions[-1], drawn, numbers, settings)
    bed = None if drawn["topg"] is None else drawn["topg"][:, -1]
    types = uncertainty.classify_patches(by_method["model"], bed, settings)
    free = np.isfinite(spread)
    types = {"all": free} | {name: free & cells for name, cells in types.items()}
    return {"errors": {method: thk - label for method, thk in by_method.items()}, "spread": spread,
            "thk": by_method["model"], "types": types}


def calibrate(run, patches):
    """Fit how sure a run is and write that to its settings.json: see uncertainty.fit_intervals."""
    settings = checkpoints.read_settings(run)
    if not settings["self_ensemble"]:
        raise InputError(f"run {run} does not average over turns, which tell how sure it is")
    layers, _ = evaluate.load_layers(settings)
    parts = [collect_calibration_sample(layers, patches, numbers, settings)
             for numbers in training_and_validation_indices(patches, settings) if len(numbers)]
    parts = [part for part in parts if part["types"]["all"].any()]
    if not parts:
        print("note: not calibrated: there is no ice in the patches that were drawn for it")
        return
    fit = uncertainty.fit_intervals(parts, settings["channels"] == "normalised")
    checkpoints.write_settings(settings | {"uncertainty": fit})
    factors = ", ".join(f"{name} {value:.2f}" for name, value in fit["coverage_factors"].items())
    print(f"calibrated on {fit['n_patches']['all']} patches trained on and {fit['n_held_out']} held "
          f"out: factors {factors}")


def make_settings(args):
    """The settings of a run (see settings.SETTING_DESCRIPTIONS) but for patches and data, which come later.

    The recipe at this scale, with what the command line changes.
    """
    settings = {"run": args.run, "scale": args.scale, "recipe": args.recipe}
    for key, value in RECIPES[args.recipe].items():
        settings[key] = value[args.scale] if isinstance(value, dict) else value
    if args.channels == "thk" and settings["first_guess"] == "surface-minus-bed":
        settings["first_guess"] = "bicubic"  # the surface base is made of the bed
    changes = {"first_guess": args.first_guess, "channels": args.channels, "gradients": args.gradients,
               "consistency": args.consistency, "epochs": args.epochs, "learning_rate": args.lr,
               "batch_size": args.batch_size}
    settings.update({key: value for key, value in changes.items() if value is not None})
    return settings | {"seed": args.seed}


def is_finished(settings):
    """Return whether a run is trained to its last epoch and evaluated after that.

    What the files say decides: their times are those of a copy, or of a server's clock.
    """
    run = settings["run"]
    latest = checkpoints.list_checkpoints(checkpoints.run_folder(run) / "latest")
    if (not latest or int(checkpoints.checkpoint_epoch(latest[0])) < settings["epochs"]
            or not (files.RESULTS / run / "metrics.json").exists()):
        return False
    metrics = evaluate.read_metrics(run)
    return (metrics["settings"] == checkpoints.read_settings(run)
            and metrics["weights_sha256"] == checkpoints.hash_weights(run))


def train_and_evaluate(args, fold=()):
    """Train the run of these arguments (on a fold, (2, 5)) and evaluate it; returns exit status.

    0: done; 1: the training diverged; 130: stopped. Raises InputError while another process does.

    A run of several (--seeds, --crossval) that is trained and evaluated already is left as it is.
    """
    with checkpoints.lock_run(args.run):
        return train_locked(args, fold)


def train_locked(args, fold):
    """train_and_evaluate, once no other process can train that run."""
    device = set_up_device()  # before TensorFlow does anything else
    old = None  # settings of the run, where it exists and is to go on
    if not args.restart and (files.CHECKPOINTS / args.run / "settings.json").exists():
        old = checkpoints.read_settings(args.run)
    settings = make_settings(args)
    if old and old["scale"] != args.scale:
        raise InputError(f"run {args.run} was trained for {old['scale']}x, not for {args.scale}x; "
                         "choose another name with --run, or --restart to start it over")
    print(f"run {args.run}: {args.scale}x, recipe {args.recipe}, {settings['epochs']} epochs, "
          f"about {max(estimate_minutes(settings), 1):.0f} minutes on 2 cores for 140 patches")
    path, patches = prepare_data.load_or_make_patches(args.run, args.scale, args.input, args.patches,
                                              args.source, old, fold, args.options)
    if needs_topg(settings) and patches["topg"] is None:
        raise InputError(f"{path}: its map has no bed (topg); train on thickness alone with "
                         "--channels thk")
    if not patches["data"]["thk_norm_m"] > 0:
        raise InputError(f"{path}: no ice in the patches to train on, nothing can be learnt from "
                         "them; choose another --window or --seed with prepare_data.py")
    last = old["data"] if old else {}
    data = patches["data"] | {
        "densities": args.densities or last.get("densities", patches["data"]["densities"])}
    settings |= {"patches": str(path), "data": data, "n_threads": device["n_threads"]}
    several = bool(args.seeds or args.crossval)
    if old:
        require_same_settings(old, settings)
        if several and is_finished(settings):
            print(f"run {args.run}: finished already")
            return 0
        if old.get("n_threads", device["n_threads"]) != device["n_threads"]:
            print(f"note: the run was trained with {old['n_threads']} threads, it goes on with "
                  f"{device['n_threads']}: last digits will differ")
    if args.restart:  # its results would no longer be true
        checkpoints.delete_run(args.run)

    if data["synthetic"]:
        print("SYNTHETIC ice sheet: the figures below say nothing of a real place")
    print(f"patches  {path} ({data['source']}, {data['degrade']}, "
          f"{describe_split(data)}), on {device['name']}, {device['n_threads']} threads")
    try:
        complete = train(patches, settings, device["is_gpu"])
    except ArithmeticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not complete:
        print("stopped; everything so far is kept, and the same command goes on from here")
        return 130
    if settings["self_ensemble"]:
        calibrate(args.run, patches)
    evaluate.evaluate(args.run, make_figures=not several)
    return 0


def parse_arguments(argv):
    """The command line, checked; run, scale and source are filled in."""
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=SCALES,
                        help="default: that of the run or of --patches, else 8")
    parser.add_argument("--input", metavar="MAP.nc", help="ice-sheet map to make the patches from")
    parser.add_argument("--patches", metavar="FILE",
                        help="made by prepare_data.py (default: data/patches_x<scale>.nc)")
    parser.add_argument("--synthetic", action="store_true",
                        help="train on the synthetic ice sheet (default of a run without a --run)")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="default")
    parser.add_argument("--run", metavar="NAME", help="name of the training (default: x<scale>)")
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--lr", type=float, metavar="LR", help="learning rate of Adam")
    parser.add_argument("--batch-size", type=int, metavar="N")
    parser.add_argument("--first-guess", choices=FIRST_GUESSES, help="what the convolutions correct")
    parser.add_argument("--channels", choices=CHANNELS, help="what they see")
    parser.add_argument("--no-consistency", dest="consistency", action="store_false", default=None,
                        help="do not make the result give the coarse map back")
    parser.add_argument("--gradients", choices=GRADIENTS,
                        help="train a stage on its own error, or on those of the stages after too")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batch order")
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="train N runs, --seed and those after it, and print one table")
    parser.add_argument("--crossval", type=int, metavar="K",
                        help="K-fold cross-validation: whole blocks of patches, each held out once")
    parser.add_argument("--job", type=int, metavar="K", help="train only the K-th fold "
                        "of --crossval, with all seeds; without folds the K-th of --seeds")
    parser.add_argument("--summary-only", action="store_true", help="only print the table, train nothing")
    parser.add_argument("--calibrate", action="store_true", help="only fit how sure a run is")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--restart", action="store_true", help="start the run over")
    args = parser.parse_args(argv)
    args.options = map_layout.parse_map_options(args)
    if args.crossval is not None and args.crossval < 2:
        raise InputError(f"--crossval {args.crossval}: expected 2 or more folds")
    for name in ("epochs", "lr", "batch_size", "seeds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    parts = args.crossval or args.seeds
    if (args.job is not None or args.summary_only) and (
            parts is None or args.summary_only and (args.restart or args.job is not None)):
        raise InputError("--job, or --summary-only without --restart, goes with --crossval or --seeds")
    if args.job is not None and not 1 <= args.job <= parts:
        raise InputError(f"--job {args.job}: expected 1 to {parts}")
    if not 0 <= args.seed <= 2**32 - (args.seeds or 1):  # more, TensorFlow does not take
        raise InputError(f"--seed {args.seed}: expected 0 to {2**32 - (args.seeds or 1)}")
    if args.synthetic and (args.input is not None or args.patches is not None):
        raise InputError("--synthetic: leave out --input and --patches, or --synthetic")
    is_named = args.run is not None
    if not is_named and args.scale is None and args.patches is not None:
        args.scale = read_patches(args.patches)["scale"]
    args.run = command_line.check_run_name(args.run if is_named else f"x{args.scale or 8}")
    if args.scale is None:
        exists = (files.CHECKPOINTS / args.run / "settings.json").exists()
        args.scale = (checkpoints.read_settings(args.run)["scale"] if exists else
                      8 if args.patches is None else
                      read_patches(args.patches)["scale"])
    # A run with a name has been thought about: it gets the synthetic sheet only when asked for it.
    args.source = ("synthetic" if args.synthetic else
                   "map" if is_named and args.patches is None else "any")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    figures.select_backend(show=False)
    if args.calibrate:
        set_up_device()
        patches = prepare_data.load_or_make_patches(
            args.run, args.scale, args.input, args.patches,
            run_settings=checkpoints.read_settings(args.run), options=args.options)[1]
        with checkpoints.lock_run(args.run):
            calibrate(args.run, patches)
        return 0
    if not (args.seeds or args.crossval):
        return train_and_evaluate(args)
    folds, runs_by_fold, chosen = args.crossval or 0, {}, []
    for fold in range(1, folds + 1) if folds else [0]:
        for number, seed in enumerate(range(args.seed, args.seed + (args.seeds or 1)), 1):
            run = (args.run + (f"_fold{fold}of{folds}" if fold else "")
                   + (f"_seed{seed}" if seed != args.seed else ""))
            runs_by_fold.setdefault(f"fold {fold}" if fold else "test", []).append(run)
            if args.job in (None, fold or number):
                chosen.append((argparse.Namespace(**vars(args) | {"run": run, "seed": seed}),
                               (fold, folds) if fold else ()))
    missing = [each.run for each, _ in chosen if not is_finished(make_settings(each))]
    if args.summary_only and missing:
        raise InputError(f"not trained to the end: {', '.join(missing)}; train them without "
                         "--summary-only")
    for each, fold in chosen:
        status = train_and_evaluate(each, fold)
        if status:
            return status
    if args.job is None:
        evaluate.write_summary_table(f"{args.run}_" + (f"crossval{folds}" if folds else f"seeds{args.seeds}"),
                  runs_by_fold)
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
