"""Train the recurrent SRCNN, stage after stage in every batch, and evaluate it on the test patches.

    python train.py --scale 8                          # synthetic ice sheet: needs nothing else
    python train.py --scale 8 --input MAP.nc           # your map (thk, topg, x, y)
    python train.py --scale 8 --recipe original        # the published recipe, 30000 epochs
    python train.py --patches data/patches_x8.nc --run wide --lr 3e-4    # an experiment beside it
    python train.py --scale 8 --seeds 3                # x8, x8_seed1, x8_seed2: one table
    python train.py --scale 8 --crossval 5             # each block of patches held out once
    python train.py --scale 8 --crossval 5 --fold 2    # one of them; then --table in its place
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
from pathlib import Path

import numpy as np

import evaluate
import figures
import maps
import model
import prepare_data
import runs
import uncertainty
import utils
from icesheet.device import set_up_device, tf
from utils import InputError

# ---- Settings: edit here -----------------------------------------------------------------------
# What each key means is said in model.SETTINGS; a value that is a dict is by scale.
RECIPES = {
    "default": {
        "grid": "own",              # own | fine
        "base": "bicubic",          # none | bicubic | surface
        "consistency": True,
        "gradients": "chain",       # stage | chain
        "channels": "thk+topg",     # thk | thk+topg | relative
        "bed_levels": 2,            # 1 | 2
        "filters": [32, 32, 32, 32],
        "kernels": [3, 3, 3, 3, 3],
        "padding": "SYMMETRIC",     # CONSTANT | SYMMETRIC
        "correction_m": 300.0,
        "weights": "he",            # he | normal
        "learning_rate": 2e-3,
        "adam_epsilon": 1e-7,       # Keras's; TensorFlow 1 had 1e-8
        "schedule": "cosine",       # constant | cosine
        "loss": "mse",              # mse | rmse
        "epochs": {2: 300, 4: 300, 8: 300, 16: 150},  # 16x overfits after that
        "batch_size": 5,
        "augment": True,
        "spacings": [1],
        "thinned": 0.0,
        "average_turns": True,
        "validation": True,
    },
    # As published (see README), with the batch, the seed and the number of stages put right.
    "original": {
        "grid": "fine", "base": "none", "consistency": False, "gradients": "stage",
        "channels": "thk+topg", "bed_levels": 1, "filters": [64, 32], "kernels": [9, 1, 5],
        "padding": "CONSTANT",
        "correction_m": None, "weights": "normal",
        "learning_rate": {2: 1e-4, 4: 1e-6, 8: 1e-4, 16: 1e-4},
        "adam_epsilon": 1e-8, "schedule": "constant", "loss": "mse",
        "epochs": {2: 30000, 4: 100000, 8: 30000, 16: 30000},
        "batch_size": 80, "augment": False, "spacings": [1], "thinned": 0.0,
        "average_turns": False, "validation": False,
    },
}
# For whole maps of any spacing and place (see README). Errors at one spacing say little of others,
# so all patches are trained on.
RECIPES["map"] = RECIPES["default"] | {
    "base": "surface", "channels": "relative", "loss": "rmse", "learning_rate": 4e-3,
    "spacings": [2, 3], "thinned": 0.1, "validation": False,
    "epochs": {2: 300, 4: 600, 8: 600, 16: 600}}
SAVE_EVERY_S = 20  # seconds of training that a kill -9 can cost
RATE = 100e9       # floating-point operations a second, to say beforehand how long it takes
# -------------------------------------------------------------------------------------------------


# ---------------------------------------------------------------- the patches of an epoch


def learning_rate(settings, epoch):
    """Adam's learning rate in `epoch` (from 1): constant, or half a cosine down towards 0."""
    if settings["schedule"] == "constant":
        return settings["learning_rate"]
    done = (epoch - 1) / settings["epochs"]
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def find_places(patches, numbers, settings):
    """Allowed positions of random crops in the window: for each patch an array (place, 3).

    numbers: patches to train on. A place is y, x, times: the lower left corner [cells of the
    window] and the coarsening factor of the crop, one of settings["spacings"]; 1 where none of
    them has room.
    The centre of a crop stays within half a patch of the patch's own. Every cell of it is in one of
    these patches: nothing held out is seen.
    """
    side = patches["x"].shape[1]
    half = side // 2
    allowed = np.isin(np.arange(len(patches["row"])), numbers)
    allowed = prepare_data.assemble(np.repeat(allowed, side**2).reshape(-1, side, side), patches)
    places = [[] for _ in numbers]
    for times in dict.fromkeys([*settings["spacings"], 1]):
        inside, wide = allowed, times * side
        if min(allowed.shape) < wide:
            continue
        for axis in (0, 1):  # (y, x) of the lower left corner
            inside = np.lib.stride_tricks.sliding_window_view(inside, wide, axis).all(axis=-1)
        for of_patch, number in zip(places, numbers, strict=True):
            if times not in settings["spacings"] and any(map(len, of_patch)):
                continue
            y, x = (patches[name][number] * side - (wide - side) // 2 for name in ("row", "column"))
            low, high = np.maximum([(y - half, x - half), (y + half + 1, x + half + 1)], 0)
            corners = low + np.argwhere(inside[low[0]:high[0], low[1]:high[1]])
            of_patch.append(np.insert(corners, 2, times, axis=1))
    return [np.concatenate(of_patch) for of_patch in places]


def draw_patches(patches, numbers, places, settings, epoch):
    """The training patches of an epoch, in its order: thk, topg at every level, two lists.

    See model.chain_levels: (patch, y, x) float32 [m] each.
    patches: see prepare_data.make_patches; numbers: those to train on; places: see find_places.
    With augment each patch is cut anew at one of its places, flipped and turned.
    All is drawn from seed and epoch alone: no generator is carried along, the epoch is all the
    random state of a checkpoint.
    """
    rng = np.random.default_rng([settings["seed"], epoch])
    order = rng.permutation(len(numbers))
    names = ("thk", "topg") if model.needs_topg(settings) else ("thk",)
    if not settings["augment"]:
        return model.chain_levels(patches, numbers[order], settings)

    side = patches["x"].shape[1]
    crops = [(*rng.choice(places[number]), rng.integers(8)) for number in order]
    fields = []
    for name in names:
        window = prepare_data.assemble(patches[name][:, -1], patches)  # (y, x)
        of_name = []
        for y, x, times, turn in crops:
            crop = window[None, y:y + times * side, x:x + times * side]
            if times > 1:
                crop = utils.reduce_fields(crop, times, "area").astype(np.float32)
            of_name.append(model.turn(crop[0], turn))
        fields.append(np.stack(of_name))  # (patch, y, x)
    if settings["thinned"]:
        fields = make_thinner(fields, settings["thinned"], rng,
                              utils.densities_of(settings["data"]))
    thk, topg = fields if len(fields) == 2 else (*fields, np.zeros_like(fields[0]))
    return [utils.make_levels(field, settings["scale"], settings["data"]["degrade"],
                              settings["grid"]) for field in (thk, topg)]


def make_thinner(fields, share, rng, densities=utils.DENSITIES):
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
        thk[chosen & utils.floats(thk, topg, densities)] = 0
    return [thk, *beds]


# ---------------------------------------------------------------- training


def stage_errors(layers, thk, topg, settings):
    """MSE of each stage and patch [m2], on the cells of its level: (stage, patch).

    thk, topg: of draw_patches.
    """
    predictions = model.run_chain(layers, thk[0], topg, settings)
    return tf.stack([tf.reduce_mean(tf.square(prediction - label), axis=(1, 2))
                     for prediction, label in zip(predictions, thk[1:], strict=True)])


def make_step(layers, optimizer, settings, compiled=False):
    """The step that trains every stage on one batch: step(thk, topg) -> each stage's MSE [m2].

    thk, topg: as of draw_patches. Adam treats each weight by itself. So where gradients stay within
    a stage, one Adam on the sum of the losses is an Adam step of each stage on its own.
    loss "rmse" is the mean of the patches' RMSE: a few patches with large errors do not outweigh
    the others, which on a map of another place may be all there is.
    compiled: by XLA, see choose_step.
    """
    weights = model.list_weights(layers)

    @tf.function(jit_compile=compiled)
    def step(thk, topg):
        with tf.GradientTape() as tape:
            mse = stage_errors(layers, thk, topg, settings)
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
    plain = make_step(layers, optimizer, settings)
    if not is_gpu:
        return plain
    variables = [*model.list_weights(layers), *optimizer.variables]
    values = [variable.numpy() for variable in variables]
    step, size = make_step(layers, optimizer, settings, compiled=True), settings["batch_size"]
    try:
        for batch in (slice(0, size), slice(-(len(epoch_inputs[0][0]) % size), None)):
            step(*([tf.constant(level[batch]) for level in field] for field in epoch_inputs))
        print("training step compiled by XLA")
        return step
    except (tf.errors.OpError, ValueError, TypeError) as error:
        print("note: XLA cannot compile the training step; training goes on without it "
              f"({utils.one_line(error)[:200]})")
        return plain
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def make_epoch(step, layers, settings):
    """The compiled epoch: train_epoch(thk, topg) -> (each stage's RMSE [m], weights all finite).

    thk, topg: the epoch's patches, of draw_patches. The loop over batches is inside the graph: no
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


def make_validation(layers, patches, numbers, settings):
    """The compiled validation: validate() -> each stage's RMSE [m] on patches `numbers`."""
    thk, topg = ([tf.constant(level) for level in field]
                 for field in model.chain_levels(patches, numbers, settings))
    return tf.function(lambda: tf.sqrt(tf.reduce_mean(
        stage_errors(layers, thk, topg, settings), axis=1)))


def train(patches, settings, is_gpu=False):
    """Train a run to its last epoch, from its latest checkpoint if it has one.

    patches: see prepare_data.make_patches; settings: see model.SETTINGS.
    Writes checkpoints/<run>/: settings.json, history.csv, latest/ (all of runs.make_state) and
    best/ (the layers of the epoch with the least validation error; with the cosine schedule or
    without validation those of the latest).
    Returns True when the run is complete, False when it was stopped by a signal. Raises InputError
    where the checkpoint does not fit, ArithmeticError at a NaN.
    """
    training, validation = prepare_data.training_numbers(patches, settings)
    state = runs.make_state(settings)
    objects, history = state["objects"], state["history"]
    layers, optimizer = objects["layers"], objects["optimizer"]
    places = find_places(patches, training, settings) if settings["augment"] else None
    first, seconds_before = int(objects["epoch"]) + 1, history[-1]["seconds"] if history else 0.0
    last = settings["epochs"]
    if first > 1:
        print(f"resuming after epoch {first - 1}")
    runs.write_settings(settings | {"versions": utils.versions()})

    def draw(epoch):
        return draw_patches(patches, training, places, settings, epoch)

    step = choose_step(layers, optimizer, settings, draw(first), is_gpu)
    train_epoch = make_epoch(step, layers, settings)
    validate = make_validation(layers, patches, validation, settings) if len(validation) else None
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
                raise ArithmeticError(not_a_number(epoch, settings["run"]))
            objects["epoch"].assign(epoch)
            validation_rmse_m = validate().numpy() if validate else [None] * len(layers)
            if validate is None or settings["schedule"] == "cosine":
                # While the rate is high, a low error on a few patches is luck: the last is better.
                runs.keep_as_best(state)
            elif validation_rmse_m[-1] < objects["best_rmse_m"]:
                objects["best_rmse_m"].assign(validation_rmse_m[-1])
                runs.keep_as_best(state)

            now = time.monotonic()
            row = {"epoch": epoch, "seconds": round(seconds_before + now - started, 3),
                   "learning_rate": rate}
            for stage, values in enumerate(zip(rmse_m.numpy(), validation_rmse_m, strict=True), 1):
                row[f"train_rmse_m_stage{stage}"], row[f"validation_rmse_m_stage{stage}"] = values
            history.append(row)
            text = "".join(f" {value:6.1f}" for value in rmse_m) + (
                f"   validation {validation_rmse_m[-1]:6.1f}" if validate else "")
            utils.show_progress("epoch", epoch, last, (now - started) / (epoch - first + 1),
                                f"stage RMSE{text} m   ")
            if signals or now - saved > SAVE_EVERY_S or epoch == last:
                runs.save_state(state, settings)
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


def expected_minutes(settings):
    """Minutes that all epochs take with the usual patches (140 of 41 x 41 cells), roughly.

    On 2 cores of 2025; a step back costs twice one forwards.
    """
    return settings["epochs"] * 140 * 3 * model.count_operations(settings, 41) / RATE / 60


def not_a_number(epoch, run):
    """What to say of the training of a run that diverged in `epoch`."""
    kept = [f"{path} is kept" for path in runs.list_checkpoints(runs.folder_of(run) / "latest")]
    kept = kept[0] if kept else "no checkpoint was written yet"
    return (f"the loss of epoch {epoch} is not a number; {kept}; try a lower --lr with --restart "
            "or another --run")


# ---------------------------------------------------------------- how sure a run is


def calibration_part(layers, patches, numbers, settings):
    """What uncertainty.fit_intervals needs of patches `numbers`, cut as in an epoch."""
    places = find_places(patches, numbers, settings) if settings["augment"] else None
    fields = draw_patches(patches, numbers, places, settings, epoch=0)
    drawn = {name: np.stack(utils.make_levels(
        levels[-1], settings["scale"], settings["data"]["degrade"], "fine"), axis=1)
        for name, levels in zip(("thk", "topg"), fields, strict=True)}
    if not model.needs_topg(settings):
        drawn["topg"] = None
    numbers, label = np.arange(len(numbers)), drawn["thk"][:, -1]
    predictions, spread = model.predict_patches(layers, drawn, settings, numbers)
    by_method = model.with_baselines(predictions[-1], drawn, numbers, settings)
    bed = None if drawn["topg"] is None else drawn["topg"][:, -1]
    types = uncertainty.types_of_patches(by_method["model"], bed, settings)
    free = np.isfinite(spread)
    types = {"all": free} | {name: free & cells for name, cells in types.items()}
    return ({method: thk - label for method, thk in by_method.items()}, spread, by_method["model"],
            types)


def calibrate(run, patches):
    """Fit how sure a run is and write that to its settings.json: see uncertainty.fit_intervals."""
    settings = runs.read_settings(run)
    if not settings["average_turns"]:
        raise InputError(f"run {run} does not average over turns, which tell how sure it is")
    layers = runs.load_layers(settings)
    parts = [calibration_part(layers, patches, numbers, settings)
             for numbers in prepare_data.training_numbers(patches, settings) if len(numbers)]
    parts = [part for part in parts if part[-1]["all"].any()]
    if not parts:
        print("note: not calibrated: there is no ice in the patches that were drawn for it")
        return
    fit = uncertainty.fit_intervals(parts, settings["channels"] == "relative")
    runs.write_settings(settings | {"uncertainty": fit})
    factors = ", ".join(f"{name} {value:.2f}" for name, value in fit["factors"].items())
    print(f"calibrated on {fit['blocks']['all']} patches trained on and {fit['held_out']} held "
          f"out: factors {factors}")


# ---------------------------------------------------------------- runs


def make_settings(args):
    """The settings of a run (see model.SETTINGS) but for patches and data, which come later.

    The recipe at this scale, with what the command line changes.
    """
    settings = {"run": args.run, "scale": args.scale, "recipe": args.recipe}
    for key, value in RECIPES[args.recipe].items():
        settings[key] = value[args.scale] if isinstance(value, dict) else value
    if args.channels == "thk" and settings["base"] == "surface":
        settings["base"] = "bicubic"  # the surface base is made of the bed
    changes = {"base": args.base, "channels": args.channels, "gradients": args.gradients,
               "consistency": args.consistency, "epochs": args.epochs, "learning_rate": args.lr,
               "batch_size": args.batch_size}
    settings.update({key: value for key, value in changes.items() if value is not None})
    return settings | {"seed": args.seed}


def check_same_settings(old, settings):
    """Raise InputError, naming what differs, where a run exists with other settings.

    A longer or shorter run at a constant learning rate is the same run; so is one whose patches
    were moved.
    """
    ignored = {"versions", "n_threads", "patches", "uncertainty"} | (
        {"epochs"} if settings["schedule"] == "constant" else set())
    known = old | {"data": {key: settings["data"].get(key) if key == "taken" else value
                            for key, value in prepare_data.OLDER.items()} | old["data"]}
    changed = {key: pair for key, pair in utils.differences(known, settings).items()
               if key.split(".")[0] not in ignored}
    if changed:
        raise InputError(f"run {old['run']} exists with other settings: "
                         f"{utils.differences_text(changed)}. Choose another name with --run, or "
                         "--restart to start it over")


def is_finished(settings):
    """Whether a run is trained to its last epoch and evaluated after that."""
    run = settings["run"]
    latest = runs.list_checkpoints(runs.folder_of(run) / "latest")
    metrics = utils.RESULTS / run / "metrics.json"
    return (bool(latest) and int(runs.epoch_of(latest[0])) >= settings["epochs"]
            and metrics.exists() and metrics.stat().st_mtime >= Path(
                f"{latest[0]}.index").stat().st_mtime
            and evaluate.read_metrics(run)["weights_sha256"] == runs.weights_sha256(run))


def train_run(args, fold=()):
    """Train the run of these arguments (on a fold, (2, 5)) and evaluate it; returns exit status.

    0: done; 1: the training diverged; 130: stopped. Raises InputError while another process does.

    A run of several (--seeds, --crossval) that is trained and evaluated already is left as it is.
    """
    with runs.lock(args.run):
        return train_locked(args, fold)


def train_locked(args, fold):
    """train_run, once no other process can train that run."""
    device = set_up_device()  # before TensorFlow does anything else
    old = None  # settings of the run, where it exists and is to go on
    if not args.restart and (utils.CHECKPOINTS / args.run / "settings.json").exists():
        old = runs.read_settings(args.run)
    settings = make_settings(args)
    if old and old["scale"] != args.scale:
        raise InputError(f"run {args.run} was trained for {old['scale']}x, not for {args.scale}x; "
                         "choose another name with --run, or --restart to start it over")
    print(f"run {args.run}: {args.scale}x, recipe {args.recipe}, {settings['epochs']} epochs, "
          f"about {max(expected_minutes(settings), 1):.0f} minutes on 2 cores for 140 patches")
    path, patches = prepare_data.find_patches(args.run, args.scale, args.input, args.patches,
                                              args.synthetic, old, fold, args.options)
    if model.needs_topg(settings) and patches["topg"] is None:
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
        check_same_settings(old, settings)
        if several and is_finished(settings):
            print(f"run {args.run}: finished already")
            return 0
        if old.get("n_threads", device["n_threads"]) != device["n_threads"]:
            print(f"note: the run was trained with {old['n_threads']} threads, it goes on with "
                  f"{device['n_threads']}: last digits will differ")
    if args.restart:  # its results would no longer be true
        runs.start_over(args.run)

    if data["synthetic"]:
        print("SYNTHETIC ice sheet: the figures below say nothing of a real place")
    print(f"patches  {path} ({data['source']}, {data['degrade']}, "
          f"{prepare_data.split_text(data)}), on {device['name']}, {device['n_threads']} threads")
    try:
        complete = train(patches, settings, device["is_gpu"])
    except ArithmeticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not complete:
        print("stopped; everything so far is kept, and the same command goes on from here")
        return 130
    if settings["average_turns"]:
        calibrate(args.run, patches)
    evaluate.evaluate(args.run, draw=not several)
    return 0


def summarise(name, runs_by_fold):
    """One table of runs that differ in fold and seed: on screen, and results/<name>.csv.

    runs_by_fold: {"fold 1" ..., or "test" without folds: [run of each seed]}, all evaluated.
    - a row for each fold: medians over its seeds
    - mean of folds: their mean; spread: standard deviation
    - all patches: every test patch once; medians over seeds of the pooled MSE
    ratio: MSE of the model over that of bicubic and of the surface base; spread in the other rows:
    highest less lowest seed.
    """
    by_fold = {part: [evaluate.read_metrics(run) for run in runs]
               for part, runs in runs_by_fold.items()}

    def table_row(part, groups):  # groups: for each seed, the metrics of its folds
        weights = [metrics["n_test"] for metrics in groups[0]]
        mse = {method: np.array([np.average([
            metrics["test"]["errors"][method]["rmse_m"] ** 2 for metrics in group],
            weights=weights) for group in groups]) for method in groups[0][0]["test"]["errors"]}
        row = {"part": part, "n_test": sum(weights), "seeds": len(groups)}
        row |= {f"{method}_rmse_m": float(np.sqrt(np.median(values)))
                for method, values in mse.items()}
        for method in ("bicubic", "surface_base"):
            if method in mse and mse[method].min() >= utils.LEAST_RMSE_M**2:
                ratio = mse["model"] / mse[method]
                row |= {f"ratio_{method}": float(np.median(ratio)),
                        f"ratio_{method}_spread": float(np.ptp(ratio))}
        return row

    rows = [table_row(part, [[metrics] for metrics in seeds]) for part, seeds in by_fold.items()]
    if len(rows) > 1:
        shared = [key for key in rows[0] if key != "part" and all(key in row for row in rows)]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in shared}
        mean |= {key: float(np.std([row[key.removesuffix("_spread")] for row in rows], ddof=1))
                 for key in shared if key.endswith("_spread")}
        rows += [{"part": "mean of folds"} | mean,
                 table_row("all patches", list(zip(*by_fold.values(), strict=True)))]
    path = utils.RESULTS / f"{name}.csv"
    first = next(iter(by_fold.values()))[0]
    utils.write_table(path, [row | {"source": first["source"], "degrade": first["degrade"],
                                    "recipe": first["recipe"], "command": utils.command()}
                             for row in rows])
    print()
    methods = [method for method in evaluate.METHODS if f"{method}_rmse_m" in rows[0]]
    others = [method for method in methods if f"ratio_{method}" in rows[0]]
    utils.print_table(
        [("", "patches", "seeds", *(f"{evaluate.METHODS[method][0]} m" for method in methods),
          *(f"model / {evaluate.METHODS[method][0]}" for method in others))]
        + [(row["part"], f"{row['n_test']:g}", f"{row['seeds']:g}",
            *(f"{row[f'{method}_rmse_m']:.1f}" for method in methods),
            *(f"{row[f'ratio_{method}']:.3f} ± {row[f'ratio_{method}_spread']:.3f}"
              if f"ratio_{method}" in row else "-" for method in others)) for row in rows])
    print(f"\ntable    {path}  (ratios of MSE; ±: highest less lowest seed; of the mean, standard "
          "deviation of the folds)")


# ---------------------------------------------------------------- the command line


def parse_arguments(argv):
    """The command line, checked; run, scale and synthetic are filled in."""
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES,
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
    parser.add_argument("--base", choices=model.BASES, help="what the convolutions correct")
    parser.add_argument("--channels", choices=model.CHANNELS, help="what they see")
    parser.add_argument("--no-consistency", dest="consistency", action="store_false", default=None,
                        help="do not make the result give the coarse map back")
    parser.add_argument("--gradients", choices=model.GRADIENTS,
                        help="train a stage on its own error, or on those of the stages after too")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the batch order")
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="train N runs, --seed and those after it, and print one table")
    parser.add_argument("--crossval", type=int, metavar="K",
                        help="K-fold cross-validation: whole blocks of patches, each held out once")
    parser.add_argument("--fold", type=int, metavar="K", help="train only the K-th fold "
                        "of --crossval, with all seeds; without folds the K-th of --seeds")
    parser.add_argument("--table", action="store_true", help="only print the table, train nothing")
    parser.add_argument("--calibrate", action="store_true", help="only fit how sure a run is")
    maps.add_map_arguments(parser)
    parser.add_argument("--restart", action="store_true", help="start the run over")
    args = parser.parse_args(argv)
    args.options = maps.map_options(args)
    if args.crossval is not None and args.crossval < 2:
        raise InputError(f"--crossval {args.crossval}: expected 2 or more folds")
    for name in ("epochs", "lr", "batch_size", "seeds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    parts = args.crossval or args.seeds
    if (args.fold is not None or args.table) and (
            parts is None or args.table and (args.restart or args.fold is not None)):
        raise InputError("--fold, or --table without --restart, goes with --crossval or --seeds")
    if args.fold is not None and not 1 <= args.fold <= parts:
        raise InputError(f"--fold {args.fold}: expected 1 to {parts}")
    if not 0 <= args.seed <= 2**32 - (args.seeds or 1):  # more, TensorFlow does not take
        raise InputError(f"--seed {args.seed}: expected 0 to {2**32 - (args.seeds or 1)}")
    if args.synthetic and (args.input is not None or args.patches is not None):
        raise InputError("--synthetic: leave out --input and --patches, or --synthetic")
    is_named = args.run is not None
    if not is_named and args.scale is None and args.patches is not None:
        args.scale = prepare_data.read_patches(args.patches)["scale"]
    args.run = utils.check_run_name(args.run if is_named else f"x{args.scale or 8}")
    if args.scale is None:
        exists = (utils.CHECKPOINTS / args.run / "settings.json").exists()
        args.scale = (runs.read_settings(args.run)["scale"] if exists else
                      8 if args.patches is None else
                      prepare_data.read_patches(args.patches)["scale"])
    # A run with a name has been thought about: it gets the synthetic sheet only when asked for it.
    if not args.synthetic:
        args.synthetic = False if is_named and args.patches is None else None
    return args


def main(argv=None):
    args = parse_arguments(argv)
    figures.choose_screen(show=False)
    if args.calibrate:
        set_up_device()
        patches = prepare_data.find_patches(
            args.run, args.scale, args.input, args.patches,
            trained=runs.read_settings(args.run), options=args.options)[1]
        with runs.lock(args.run):
            calibrate(args.run, patches)
        return 0
    if not (args.seeds or args.crossval):
        return train_run(args)
    folds, runs_by_fold, chosen = args.crossval or 0, {}, []
    for fold in range(1, folds + 1) if folds else [0]:
        for number, seed in enumerate(range(args.seed, args.seed + (args.seeds or 1)), 1):
            run = (args.run + (f"_fold{fold}of{folds}" if fold else "")
                   + (f"_seed{seed}" if seed != args.seed else ""))
            runs_by_fold.setdefault(f"fold {fold}" if fold else "test", []).append(run)
            if args.fold in (None, fold or number):
                chosen.append((argparse.Namespace(**vars(args) | {"run": run, "seed": seed}),
                               (fold, folds) if fold else ()))
    missing = [each.run for each, _ in chosen if not is_finished(make_settings(each))]
    if args.table and missing:
        raise InputError(f"not trained to the end: {', '.join(missing)}; train them without "
                         "--table")
    for each, fold in chosen:
        status = train_run(each, fold)
        if status:
            return status
    if args.fold is None:
        summarise(f"{args.run}_" + (f"crossval{folds}" if folds else f"seeds{args.seeds}"),
                  runs_by_fold)
    return 0


if __name__ == "__main__":
    utils.run_script(main)
