"""Train the recurrent SRCNN, all stages in every batch, and evaluate it on the test patches.

    python train.py --scale 8                          # synthetic ice sheet: needs nothing else
    python train.py --scale 8 --input MAP.nc           # your map (thk, topg, x, y)
    python train.py --recipe map --run places --input A.nc B.nc C.nc     # whole maps, 2x to 16x
    python train.py --start-from map --run mine --input MAP.nc           # fine-tune a run on a map
    python train.py --scale 8 --recipe original        # the published recipe, 30000 epochs
    python train.py --patches data/patches_x8.nc --run wide --lr 3e-4    # an experiment beside it
    python train.py --scale 8 --seeds 3                # x8, x8_seed1, x8_seed2: one table
    python train.py --scale 8 --crossval 5             # each block of patches held out once
    python train.py --run wide --lr 3e-4 --dry-run     # print the settings, write nothing
    python train.py --run wide --calibrate             # fit its prediction intervals, no training

The same command resumes a run that was stopped (Ctrl-C, kill, power cut), bit for bit on a CPU with
the same number of threads. Patches are read from --patches FILE, else from the file in data/ with
those of --input, which is made if it is missing (prepare_data.py). Weights and history.csv go to
checkpoints/<run>/, results to results/<run>/.

On a cluster, prepare the patches, then let each job of an array train one of the runs that
--crossval or --seeds list; afterwards --summary-only in place of --job prints the table:
    python train.py --scale 8 --input MAP.nc --crossval 5 --job $SLURM_ARRAY_TASK_ID
On one machine, two runs with one thread each finish before one after the other with two, since a
second thread costs about a fifth more CPU time; so, or with parallel -j 2 ... ::: 1 2 3 4 5:
    export OMP_NUM_THREADS=1
    seq 5 | xargs -P 2 -I{} python train.py --scale 8 --crossval 5 --job {}
"""

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import evaluate
import model
import prepare_data
import utils
from icesheet import checkpoints, command_line, crops, figures, training_maps, training_runs
from icesheet.device import compile_with_xla, set_up_device, tf
from icesheet.patches import describe_split, make_chain_inputs, training_and_validation_indices
from icesheet.settings import hash_settings, require_same_settings

# ---- Settings: edit here -------------------------------------------------------------------------
# What each key means: icesheet/settings.py, SETTING_DESCRIPTIONS. A dict is a value for each scale.
RECIPES = {
    "default": {
        "grid": "level",                # level | fine
        "first_guess": "bicubic",       # none | bicubic | surface-minus-bed
        "consistency": True,
        "gradients": "end-to-end",      # stage | end-to-end
        "channels": "thk+topg",         # thk | thk+topg | normalised
        "bed_levels": 2,                # 1 | 2
        "filters": [32, 32, 32, 32],    # of all convolutions but the last, which has 1
        "kernels": [3, 3, 3, 3, 3],     # odd
        "padding": "SYMMETRIC",         # CONSTANT | SYMMETRIC
        "output_scale_m": 300.0,        # None: thk_norm_m of the patches
        "initializer": "he",            # he | normal
        "learning_rate": 2e-3,
        "adam_epsilon": 1e-7,           # Keras's; TensorFlow 1 had 1e-8
        "schedule": "cosine",           # constant | cosine
        "loss": "mse",                  # mse | rmse | balanced
        "epochs": {2: 300, 4: 300, 8: 150, 16: 150},  # 8x: 300 lower the RMSE by 2 %; 16x overfits
        "batch_size": 5,
        "augment": True,
        "crop_factors": [1],            # whole numbers
        "thin_ice_share": 0.0,          # 0 ... 1
        "cut_ice_share": 0.0,           # 0 ... 1
        "shared_weights": False,
        "self_ensemble": True,
        "validation": True,
    },
    # As published (see README), with the batch, the seed and the number of stages put right.
    "original": {
        "grid": "fine", "first_guess": "none", "consistency": False, "gradients": "stage",
        "channels": "thk+topg", "bed_levels": 1, "filters": [64, 32], "kernels": [9, 1, 5],
        "padding": "CONSTANT", "output_scale_m": None, "initializer": "normal",
        "learning_rate": {2: 1e-4, 4: 1e-6, 8: 1e-4, 16: 1e-4},
        "adam_epsilon": 1e-8, "schedule": "constant", "loss": "mse",
        "epochs": {2: 30000, 4: 100000, 8: 30000, 16: 30000},
        "batch_size": 80, "augment": False, "crop_factors": [1], "thin_ice_share": 0.0,
        "cut_ice_share": 0.0, "shared_weights": False, "self_ensemble": False, "validation": False,
    },
}
# For whole maps at any resolution, anywhere: one network, applied once or several times. Validation
# at one resolution says little about others, so no patches are held out for it.
RECIPES["map"] = RECIPES["default"] | {
    "first_guess": "surface-minus-bed", "channels": "normalised", "loss": "balanced",
    "learning_rate": 4e-3, "crop_factors": [2, 3], "thin_ice_share": 0.1, "cut_ice_share": 0.1,
    "shared_weights": True, "validation": False, "epochs": 600}
# Of trainings on whole maps (several --input) only; crops of 6 coarse cells at 16x.
MAP_CROPS = {"crop_cells": 96, "crops_per_epoch": 140}
# Of trainings that start from the weights of another (--start-from): what it knows is to be kept.
FINE_TUNING = {"learning_rate": 1e-4, "epochs": 10}
SAVE_EVERY_S = 20  # seconds of training that a kill -9 can cost


class TrainingDiverged(Exception):
    """The loss or the weights of a training are no longer finite."""


# ---- The training step ---------------------------------------------------------------------------

def learning_rate(settings, epoch):
    """Return Adam's learning rate in `epoch` (from 1): constant, or half a cosine towards 0."""
    if settings["schedule"] == "constant":
        return settings["learning_rate"]
    done = (epoch - 1) / settings["epochs"]
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def compute_stage_mse(layers, thk, topg, settings, start_level=()):
    """Return the MSE [m2] of each stage and patch, on the cells of its level: (stage, patch).

    thk, topg: of every level, as crops.draw_training_patches returns them; start_level: of
    training_maps.draw_epoch, a list of one array or none.
    """
    restart = (thk, start_level[0]) if start_level else None
    predictions = model.run_chain(layers, thk[0], topg, settings, restart=restart)
    return tf.stack([tf.reduce_mean(tf.square(prediction - label), axis=(1, 2))
                     for prediction, label in zip(predictions, thk[1:], strict=True)])


def compute_detail(thk):
    """Return the detail that each stage has to add, RMS [m], at least 1 m: (stage, patch).

    thk: true thickness of every level, (patch, y, x) [m]. Detail is what the means over the cells
    of the level before do not hold.
    """
    detail = [fine - model.regrid_level(coarse, fine.shape[1:], utils.linear_matrix, "area")
              for coarse, fine in zip(thk[:-1], thk[1:], strict=True)]
    return tf.sqrt(tf.stack([tf.reduce_mean(field**2, axis=(1, 2)) for field in detail]) + 1)


def make_train_step(layers, optimizer, settings):
    """Return the step that trains every stage on one batch: step(thk, topg) -> MSE by stage [m2].

    thk, topg: of every level, (patch, y, x) [m]; a third argument may be start_level
    """
    weights = model.list_weights(layers)

    @tf.function
    def step(thk, topg, start_level=()):
        with tf.GradientTape() as tape:
            mse = compute_stage_mse(layers, thk, topg, settings, start_level)  # (stage, patch)
            if settings["loss"] in ("rmse", "balanced"):
                # A few patches with large errors do not outweigh the others, which may be all there
                # is on the map of another place. 1 m2 keeps the gradient of a perfect patch finite.
                errors = tf.sqrt(mse + 1)
                # Glaciers of 100 m beside ice sheets of 3000 m: half-way to relative errors.
                if settings["loss"] == "balanced":
                    errors /= tf.sqrt(compute_detail(thk))
            else:
                errors = mse / settings["data"]["thk_norm_m"] ** 2
            # One loss for all stages. Adam's update is elementwise: with gradients "stage" it is
            # therefore the same as a separate Adam for each stage.
            loss = tf.reduce_sum(tf.reduce_mean(errors, axis=1))
        optimizer.apply(tape.gradient(loss, weights), weights)
        return tf.reduce_mean(mse, axis=1)

    return step


def compile_epoch(step, layers, settings):
    """Return the compiled epoch: train_epoch(*fields) -> RMSE by stage [m], all weights finite.

    fields: of training_maps.draw_epoch, an epoch's patches at every level, (patch, y, x) [m]
    """
    size, weights = settings["batch_size"], model.list_weights(layers)

    @tf.function
    def train_epoch(*fields):
        total, n_patches = tf.zeros(len(layers)), fields[0][0].shape[0]
        # The loop is inside the graph: no Python between batches, and nothing is traced twice. The
        # last, smaller batch is kept.
        for start in tf.range(0, n_patches, size):
            batch = [[level[start:start + size] for level in field] for field in fields]
            total += step(*batch) * tf.cast(tf.shape(batch[0][0])[0], tf.float32)
        finite = [tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]
        return tf.sqrt(total / n_patches), tf.reduce_all(finite)

    return train_epoch


def compile_validation(layers, patches, patch_indices, settings):
    """Return the compiled validation: validate() -> RMSE by stage [m] on these patches."""
    thk, topg = ([tf.constant(level) for level in field] for field in
                 make_chain_inputs(patches, patch_indices, settings))
    return tf.function(lambda: tf.sqrt(tf.reduce_mean(
        compute_stage_mse(layers, thk, topg, settings), axis=1)))


# ---- The training loop ---------------------------------------------------------------------------

def build_objects(settings):
    """Return all that a run carries from epoch to epoch, and a checkpoint keeps: a dict.

    layers, best_layers, optimizer, epoch, best_epoch, best_rmse_m [m], and settings: the checksum
    of the settings that made them.
    """
    tf.keras.utils.set_random_seed(settings["seed"])
    objects = {
        "layers": model.build_layers(settings), "best_layers": model.build_layers(settings),
        "optimizer": tf.keras.optimizers.Adam(settings["learning_rate"],
                                              epsilon=settings["adam_epsilon"]),
        "epoch": tf.Variable(0, dtype=tf.int64), "best_epoch": tf.Variable(0, dtype=tf.int64),
        "best_rmse_m": tf.Variable(float("inf"), dtype=tf.float32),
        "settings": tf.Variable(hash_settings(settings), dtype=tf.string)}
    # Adam's moments exist before anything is traced or restored.
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

    patches: of prepare_data.make_patches, or the list of training_maps.read_training_maps
    settings: with all keys of settings.json
    Writes checkpoints/<run>/: settings.json, history.csv, latest/ (all of build_objects) and best/
    (the layers of the epoch with the lowest validation error; with the cosine schedule or without
    validation those of the last one).
    Returns True when the run is complete, False when a signal stopped it. Raises InputError if the
    checkpoint does not fit, TrainingDiverged if the loss or the weights are not finite.
    """
    training, validation, positions = [], [], None
    if not isinstance(patches, list):
        training, validation = training_and_validation_indices(patches, settings)
        positions = crops.find_crop_positions(patches, training, settings)

    # Layers, optimizer and graphs are made here, once; the loop adds nothing to them.
    objects = build_objects(settings)
    history = checkpoints.resume_training(objects, settings)
    if not history and "start_from" in settings:
        checkpoints.restore_start(objects["layers"], settings["start_from"])
    layers, optimizer = objects["layers"], objects["optimizer"]
    first_epoch, last_epoch = int(objects["epoch"]) + 1, settings["epochs"]
    if first_epoch > 1:
        print(f"resuming after epoch {first_epoch - 1}")
    checkpoints.write_training_settings(settings, first_epoch)

    def draw(epoch):  # depends on seed and epoch alone
        return training_maps.draw_epoch(patches, training, positions, settings, epoch)

    epoch_inputs = draw(first_epoch)
    step = make_train_step(layers, optimizer, settings)
    if is_gpu:  # one kernel of many small operations takes a third of the time; a CPU gains nothing
        variables = [*model.list_weights(layers), *optimizer.variables]
        step = compile_with_xla(step, epoch_inputs, settings["batch_size"], variables)
    train_epoch = compile_epoch(step, layers, settings)
    validate = len(validation) and compile_validation(layers, patches, validation, settings)

    # The clock goes on where a stopped run left off.
    saved_s = history[-1]["seconds"] if history else 0.0
    started = time.monotonic() - saved_s
    with ThreadPoolExecutor(1) as pool, command_line.collect_signals() as received_signals:
        for epoch in range(first_epoch, last_epoch + 1):
            # The patches of the next epoch are drawn in a thread while this one trains.
            next_inputs = pool.submit(draw, epoch + 1) if epoch < last_epoch else None
            rate = learning_rate(settings, epoch)
            optimizer.learning_rate.assign(rate)
            rmse_m, finite = train_epoch(
                *([tf.constant(level) for level in field] for field in epoch_inputs))

            # Before anything is saved: the latest checkpoint stays a good one.
            if not (finite and np.isfinite(rmse_m).all()):
                raise TrainingDiverged(training_runs.divergence_message(settings["run"], epoch))
            objects["epoch"].assign(epoch)

            # Early low validation errors (high learning rate, few patches) are chance: with the
            # cosine schedule the last epoch is better.
            validation_rmse_m = validate().numpy() if validate else [None] * len(layers)
            if not validate or settings["schedule"] == "cosine":
                copy_to_best_layers(objects)
            elif validation_rmse_m[-1] < objects["best_rmse_m"]:
                objects["best_rmse_m"].assign(validation_rmse_m[-1])
                copy_to_best_layers(objects)

            seconds = time.monotonic() - started
            history.append(training_runs.history_row(epoch, seconds, rate, rmse_m.numpy(),
                                                     validation_rmse_m))
            training_runs.show_epoch(history, last_epoch)

            # A signal ends the loop between epochs, never inside one.
            if received_signals or seconds - saved_s > SAVE_EVERY_S or epoch == last_epoch:
                checkpoints.save_training_state(objects, history, settings)
                saved_s = seconds
            if received_signals:
                break
            epoch_inputs = next_inputs and next_inputs.result()
    return int(objects["epoch"]) >= last_epoch


# ---- Runs ----------------------------------------------------------------------------------------

def make_settings(args):
    """Return the settings of a run: its recipe at this scale, changed by the command line.

    Those that its patches decide come later.
    """
    settings = {"run": args.run, "scale": args.scale, "recipe": args.recipe}
    for key, value in RECIPES[args.recipe].items():
        settings[key] = value[args.scale] if isinstance(value, dict) else value
    if args.channels == "thk" and settings["first_guess"] == "surface-minus-bed":
        settings["first_guess"] = "bicubic"  # without a bed there is nothing to subtract
    settings |= MAP_CROPS if args.maps else {}
    if args.start_from:
        settings |= FINE_TUNING
    settings |= training_runs.changed_settings(args) | {"seed": args.seed}
    return settings | training_runs.start_from_settings(args, settings)


def prepare_run(args, fold, n_threads):
    """Return the settings of a run, its patches, and its settings so far (None: it is new).

    fold: (2, 5) of a cross-validation, or (). With --dry-run patches that would have to be made
    are None. In place of patches a run on whole maps has its training maps, a list.
    Raises InputError if the run exists with other settings, or cannot be trained.
    """
    settings, existing_settings = make_settings(args), training_runs.read_existing_settings(args)
    training_runs.print_run(settings, model.count_flops(settings, settings.get("crop_cells", 41)))
    settings["n_threads"] = n_threads
    if args.maps:
        patches, settings["data"] = training_runs.read_maps(args, settings, existing_settings)
    else:
        path, patches = prepare_data.load_or_make_patches(
            args.run, args.scale, args.input, args.patches, args.source, existing_settings, fold,
            args.map_options, args.dry_run)
        settings["patches"] = str(path)
        if patches is not None:
            training_runs.require_trainable(path, patches, settings)
            # Densities enter the formulas, not the patches, so a run keeps its own.
            known_data = patches["data"] | (existing_settings["data"] if existing_settings else {})
            densities = args.densities or known_data["densities"]
            settings["data"] = patches["data"] | {"densities": densities}
    if existing_settings and patches is not None:
        require_same_settings(existing_settings, settings)
    return settings, patches, existing_settings


def train_and_evaluate(settings, patches, device, make_figures):
    """Train, calibrate and evaluate a run; return False if a signal stopped it."""
    data, is_on_maps = settings["data"], isinstance(patches, list)
    if data["synthetic"]:
        print("SYNTHETIC ice sheet: the figures below say nothing about a real place")
    print((f"maps     {data['source']}" if is_on_maps else
           f"patches  {settings['patches']} ({data['source']}, {data['degrade']}, "
           f"{describe_split(data)})") + f", on {device['name']}, threads: {device['n_threads']}")
    try:
        is_complete = train(patches, settings, device["is_gpu"])
    except BaseException:
        print()  # after a line of progress that was to be overwritten
        raise
    if not is_complete:
        return False
    if settings["self_ensemble"]:
        evaluate.calibrate(settings["run"], patches)
    if is_on_maps:
        print("no test patches were held out; test the run on a map that it was not trained on: "
              f"python downscale.py MAP.nc --run {settings['run']} --reconstruct")
    else:
        evaluate.evaluate(settings["run"], make_figures=make_figures)
    return True


def run_job(args, fold, device):
    """Train and evaluate the run of these arguments while no other process can.

    Returns the exit status: 0 done, 1 the training diverged, 130 stopped.
    """
    is_batch_job = bool(args.seeds or args.crossval)
    with checkpoints.lock_run(args.run):
        settings, patches, existing_settings = prepare_run(args, fold, device["n_threads"])
        # Deleted only now that the new run is known to be possible.
        if args.restart:
            checkpoints.delete_run(args.run)
        if existing_settings and is_batch_job and training_runs.is_finished(settings):
            print(f"run {args.run}: finished already")
            return 0
        if existing_settings:
            training_runs.print_thread_note(existing_settings, device["n_threads"])
        try:
            if train_and_evaluate(settings, patches, device, make_figures=not is_batch_job):
                return 0
        except TrainingDiverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\nInterrupted. Progress is saved; run the same command again to resume.")
    return 130


def main(argv=None):
    args = training_runs.parse_training_arguments(__doc__, tuple(RECIPES), argv)
    figures.select_backend(show=False)
    device = set_up_device()  # before TensorFlow computes anything
    if args.calibrate:
        settings = checkpoints.read_settings(args.run)
        patches = (training_runs.read_maps(args, settings, settings)[0] if args.maps else
                   prepare_data.load_or_make_patches(
                       args.run, args.scale, args.input, args.patches, run_settings=settings,
                       options=args.map_options)[1])
        with checkpoints.lock_run(args.run):
            evaluate.calibrate(args.run, patches)
        return 0
    jobs, runs_by_fold = training_runs.list_jobs(args)
    if args.dry_run:
        for job_args, fold in jobs:
            settings_and_patches = prepare_run(job_args, fold, device["n_threads"])
            training_runs.print_settings(job_args, *settings_and_patches)
        return 0
    if args.summary_only:
        training_runs.require_finished([make_settings(job_args) for job_args, _ in jobs])
    for job_args, fold in jobs:
        status = run_job(job_args, fold, device)
        if status:
            return status
    if runs_by_fold and args.job is None:
        table = f"crossval{args.crossval}" if args.crossval else f"seeds{args.seeds}"
        evaluate.write_summary_table(f"{args.run}_{table}", runs_by_fold)
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
