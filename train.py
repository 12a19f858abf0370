"""Train the recurrent SRCNN, stage after stage in every batch, and evaluate it on the test patches.

    python train.py --scale 8                          # synthetic ice sheet: needs nothing else
    python train.py --scale 8 --input MAP.nc           # your map (thk, topg, x, y)
    python train.py --scale 8 --recipe original        # the published recipe, 30000 epochs
    python train.py --scale 8 --run wide --lr 3e-4     # an experiment beside the default
    python train.py --scale 8 --seeds 3                # x8, x8_seed1, x8_seed2: one table
    python train.py --scale 8 --crossval 5             # each block of patches held out once

The same command again resumes a run that was stopped (Ctrl-C, kill, power), bit for bit on a CPU.
Patches come from data/patches_<run>.nc or data/patches_x<scale>.nc; prepare_data.py makes them,
here too when they are missing. Weights and history.csv go to checkpoints/<run>/, results to
results/<run>/.
"""

import argparse
import math
import shutil
import signal
import sys
import time

import numpy as np

import evaluate
import model
import prepare_data
import utils
from utils import InputError

with utils.quiet_import():
    import tensorflow as tf

# ---- Settings: edit here -----------------------------------------------------------------------
RECIPES = {
    "default": {
        "base": "surface",          # the convolutions correct: none (they make the map) | bicubic |
                                    # surface (the ice between the same surface and the finer bed)
        "consistency": True,        # the map made, reduced again, gives the coarse map back
        "gradients": "chain",       # a stage's error trains: stage (it) | chain (those before too)
        "channels": "thk+topg",     # they see: thk | thk+topg | thk+topg+misfit
        "bed_levels": 2,            # bed at this level (1), and at the level before (2)
        "filters": [32, 32, 32, 32],  # of every convolution but the last, which has 1
        "kernels": [3, 3, 3, 3, 3],   # their sizes
        "correction_m": 300.0,      # metres to one unit of the last convolution (None: thk_norm_m)
        "weights": "he",            # first weights: he | normal (standard deviation 1e-3)
        "learning_rate": 1e-3,      # of Adam
        "adam_epsilon": 1e-7,       # Keras's; TensorFlow 1 had 1e-8
        "schedule": "cosine",       # constant | cosine (falls to 0 at the last epoch)
        "epochs": {2: 400, 4: 400, 8: 400, 16: 200},  # a dict: by scale; 16x overfits after that
        "batch_size": 5,            # patches; the last, smaller batch is kept
        "augment": True,            # each epoch cuts, flips and turns the training patches anew
        "spacings": [1],            # and at so many times the spacing of the map, with cell means
        "thinned": 0.0,             # share of them made like other ice sheets: see make_thinner
        "average_turns": True,      # evaluation: the mean of all eight flips and turns of the map
        "validation": True,         # a tenth of the training patches chooses the best epoch
    },
    # As published (see README), with the batch, the seed and the number of stages put right.
    "original": {
        "base": "none", "consistency": False, "gradients": "stage",
        "channels": "thk+topg", "bed_levels": 1, "filters": [64, 32], "kernels": [9, 1, 5],
        "correction_m": None, "weights": "normal",
        "learning_rate": {2: 1e-4, 4: 1e-6, 8: 1e-4, 16: 1e-4},
        "adam_epsilon": 1e-8, "schedule": "constant",
        "epochs": {2: 30000, 4: 100000, 8: 30000, 16: 30000},
        "batch_size": 80, "augment": False, "spacings": [1], "thinned": 0.0,
        "average_turns": False,
        "validation": False,
    },
}
# For maps of any spacing and place (see README). An epoch that is best at one is not best at
# others, so it keeps the last.
RECIPES["map"] = RECIPES["default"] | {
    "channels": "thk+topg+misfit", "spacings": [1, 2, 3], "thinned": 0.1, "epochs": 600,
    "validation": False}
SAVE_EVERY_S = 20  # seconds of training that a kill -9 can cost
# -------------------------------------------------------------------------------------------------


def make_settings(args):
    """The settings of a run: the recipe at this scale, with what the command line changes."""
    settings = {"run": args.run, "scale": args.scale, "recipe": args.recipe}
    for key, value in RECIPES[args.recipe].items():
        settings[key] = value[args.scale] if isinstance(value, dict) else value
    if args.channels == "thk" and settings["base"] == "surface":
        settings["base"] = "bicubic"  # the surface base is made of the bed
    changes = {"base": args.base, "channels": args.channels, "gradients": args.gradients,
               "consistency": args.consistency, "epochs": args.epochs, "learning_rate": args.lr,
               "batch_size": args.batch_size}
    settings.update({key: value for key, value in changes.items() if value is not None})
    settings["seed"] = args.seed
    return settings


# ---------------------------------------------------------------- the settings of a run that exists


def check_same_settings(old, settings):
    """Raise InputError, naming what differs, where a run exists with other settings.

    A longer or shorter run at a constant learning rate is the same run.
    """
    old = {key: value for key, value in old.items() if key != "versions"}
    ignored = {"epochs"} if settings["schedule"] == "constant" else set()
    lines = [line for line in utils.differing(old, settings) if line.split()[0] not in ignored]
    if lines:
        raise InputError(f"run {old['run']} exists with other settings: {'; '.join(lines)}. Choose "
                         "another name with --run, or --restart to start it over")


# ---------------------------------------------------------------- training


def set_up_device():
    """Use the GPU if there is one, taking its memory as needed, else the CPU; returns its name."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    return gpus[0].name if gpus else "CPU"


def learning_rate(settings, epoch):
    """Adam's learning rate in `epoch` (from 1): constant, or half a cosine down towards 0."""
    if settings["schedule"] == "constant":
        return settings["learning_rate"]
    done = (epoch - 1) / settings["epochs"]
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * done))


def find_places(patches, numbers, settings):
    """Where each patch of these numbers may be cut instead: a list of (place, 3) y, x, times.

    y, x: lower left corner in the window, in cells. times: of settings["spacings"], how many cells
    of the window go into one of the patch. The centre stays within half a patch of the patch's own.
    Every cell of such a patch is in one of the patches of these numbers: nothing held out is seen.
    """
    side = patches["x"].shape[1]
    half = side // 2
    allowed = np.isin(np.arange(len(patches["row"])), numbers)
    allowed = evaluate.assemble(np.repeat(allowed, side**2).reshape(-1, side, side), patches)
    places = [[] for _ in numbers]
    for times in settings["spacings"]:
        inside, wide = allowed, times * side
        if min(allowed.shape) < wide:
            continue
        for axis in (0, 1):  # (y, x) of the lower left corner
            inside = np.lib.stride_tricks.sliding_window_view(inside, wide, axis).all(axis=-1)
        for found, number in zip(places, numbers, strict=True):
            y, x = (patches[name][number] * side - (wide - side) // 2 for name in ("row", "column"))
            low, high = np.maximum([(y - half, x - half), (y + half + 1, x + half + 1)], 0)
            corners = low + np.argwhere(inside[low[0]:high[0], low[1]:high[1]])
            found.append(np.insert(corners, 2, times, axis=1))
    return [np.concatenate(found) for found in places]


def draw_patches(patches, numbers, places, settings, epoch):
    """The training patches of an epoch, in its order: thk, topg (patch, level, y, x) m float32.

    patches: see utils.read_patches; numbers: those to train on; places: see find_places, for
    augment, which cuts each anew at one of them, flips it and turns it. All is drawn from seed and
    epoch alone: no generator is carried along, the epoch is all the random state of a checkpoint.
    topg is None where the run needs none.
    """
    rng = np.random.default_rng([settings["seed"], epoch])
    order = rng.permutation(len(numbers))
    names = ("thk", "topg") if model.needs_topg(settings) else ("thk",)
    if settings["augment"]:
        side = patches["x"].shape[1]
        cuts = [(*rng.choice(places[number]), rng.integers(8)) for number in order]
        fields = []
        for name in names:
            window = evaluate.assemble(patches[name][:, -1], patches)
            of_name = []
            for y, x, times, turn in cuts:
                cut = window[None, y:y + times * side, x:x + times * side]
                if times > 1:
                    cut = utils.reduce_fields(cut, times, "area").astype(np.float32)
                of_name.append(model.turn(cut[0], turn))
            fields.append(np.stack(of_name))
        if settings["thinned"]:
            fields = make_thinner(fields, settings["thinned"], rng)
        drawn = [utils.make_levels(field, settings["scale"], settings["data"]["degrade"])
                 for field in fields]
    else:
        drawn = [patches[name][numbers[order]] for name in names]
    return drawn if len(drawn) == 2 else (*drawn, None)


def make_thinner(fields, share, rng):
    """Patches as other ice sheets might have them: nunataks, valley glaciers, bare land.

    fields: [thk] or [thk, topg], (patch, y, x) m. In a share of the patches, drawn at random, as
    much ice is taken from every cell, up to the most there is in one, and the bed rises by 0 to 1.2
    of that; ice that would float then has calved, since shelves do not thin out to nothing; last
    all heights are made smaller, to a quarter at least.
    """
    thk, *beds = fields
    chosen, part, rise, size = (rng.uniform(size=(len(thk), 1, 1)).astype(np.float32)
                                for _ in range(4))
    chosen = chosen < share
    taken = chosen * part * thk.max(axis=(1, 2), keepdims=True)
    size = np.where(chosen, 0.25 + 0.75 * size, 1)
    thk, beds = np.maximum(thk - taken, 0), [topg + 1.2 * rise * taken for topg in beds]
    for topg in beds:
        thk[chosen & (utils.RHO_ICE / utils.RHO_SEA * thk < -topg)] = 0
    return [size * field for field in (thk, *beds)]


def make_step(layers, optimizer, settings):
    """The step that trains every stage on one batch: step(thk, topg) -> each stage's MSE [m2].

    thk, topg: (patch, level, y, x) m. Adam treats each weight by itself, so where gradients stay
    within a stage, one Adam on the sum of the losses is an Adam step of each stage on its own MSE.
    """
    weights = model.list_weights(layers)
    optimizer.build(weights)

    def step(thk, topg):
        with tf.GradientTape() as tape:
            predictions = model.run_chain(layers, thk[:, 0], topg, settings)
            mse = tf.stack([tf.reduce_mean(tf.square(prediction - thk[:, stage]))
                            for stage, prediction in enumerate(predictions, 1)])
            loss = tf.reduce_sum(mse) / settings["thk_norm_m"] ** 2
        optimizer.apply(tape.gradient(loss, weights), weights)
        return mse

    return step


def make_epoch(step, layers, settings):
    """The compiled epoch: train_epoch(thk, topg) -> (each stage's RMSE [m], weights all finite).

    thk, topg: the epoch's patches in their order (patch, level, y, x) m; topg may be None. The loop
    over batches is inside the graph: no Python runs between them, and nothing is traced twice.
    """
    size, weights = settings["batch_size"], model.list_weights(layers)

    @tf.function
    def train_epoch(thk, topg):
        total, n_patches = tf.zeros(len(layers)), thk.shape[0]
        for start in tf.range(0, n_patches, size):
            batch = thk[start:start + size]
            bed = None if topg is None else topg[start:start + size]
            total += step(batch, bed) * tf.cast(tf.shape(batch)[0], tf.float32)
        finite = [tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]
        return tf.sqrt(total / n_patches), tf.reduce_all(finite)

    return train_epoch


def make_validation(layers, thk, topg, settings):
    """The compiled validation: validate() -> each stage's RMSE [m] on the validation patches."""
    thk = tf.constant(thk)
    topg = None if topg is None else tf.constant(topg)

    @tf.function
    def validate():
        predictions = model.run_chain(layers, thk[:, 0], topg, settings)
        return tf.stack([tf.sqrt(tf.reduce_mean(tf.square(prediction - thk[:, stage])))
                         for stage, prediction in enumerate(predictions, 1)])

    return validate


def train(patches, settings):
    """Train a run to its last epoch, from its latest checkpoint if it has one.

    patches: see utils.read_patches; settings: see make_settings, with normalisation and data.
    Writes checkpoints/<run>/: settings.json, history.csv, latest/ (layers, Adam, epoch, best layers
    so far) and best/ (the layers of the epoch with the least validation error; the latest without
    validation). Returns True when the run is complete, False when it was stopped by a signal.
    Raises InputError where the checkpoint does not fit, ArithmeticError at a NaN.
    """
    folder = utils.CHECKPOINTS / settings["run"]
    validation = utils.in_split(patches, "validation") if settings["validation"] else []
    training = utils.in_split(patches, "train", *([] if len(validation) else ["validation"]))

    def chosen(numbers):
        return patches["thk"][numbers], (patches["topg"][numbers] if model.needs_topg(settings)
                                         else None)

    # Everything that TensorFlow holds is made here, once; the loop below only runs it.
    tf.keras.utils.set_random_seed(settings["seed"])
    layers, best_layers = model.build_layers(settings), model.build_layers(settings)
    optimizer = tf.keras.optimizers.Adam(settings["learning_rate"],
                                         epsilon=settings["adam_epsilon"])
    step = make_step(layers, optimizer, settings)
    train_epoch = make_epoch(step, layers, settings)
    places = find_places(patches, training, settings) if settings["augment"] else None
    validate = make_validation(layers, *chosen(validation), settings) if len(validation) else None

    epoch, best_epoch = (tf.Variable(0, dtype=tf.int64) for _ in range(2))
    best_rmse_m = tf.Variable(np.inf, dtype=tf.float32)
    state = tf.train.Checkpoint(layers=layers, optimizer=optimizer, epoch=epoch,
                                best_layers=best_layers, best_epoch=best_epoch,
                                best_rmse_m=best_rmse_m)
    latest = tf.train.CheckpointManager(state, folder / "latest", max_to_keep=1)
    best = tf.train.CheckpointManager(tf.train.Checkpoint(layers=best_layers, epoch=best_epoch),
                                      folder / "best", max_to_keep=1)
    history = []
    if latest.latest_checkpoint:
        evaluate.restore(state, latest.latest_checkpoint)
        history = [row for row in utils.read_table(folder / "history.csv") if row["epoch"] <= epoch]
        print(f"resuming after epoch {int(epoch)}")
    utils.write_json(folder / "settings.json", settings | {"versions": utils.versions()})

    def keep_as_best():
        best_epoch.assign(epoch)
        for kept, weight in zip(model.list_weights(best_layers), model.list_weights(layers),
                                strict=True):
            kept.assign(weight)

    def save():
        if validate is None:
            keep_as_best()
        # latest goes last: whatever a kill interrupts, it is made again from the latest before.
        best.save(checkpoint_number=best_epoch)
        utils.write_table(folder / "history.csv", history)
        latest.save(checkpoint_number=epoch)

    signals = []  # a signal only ends the loop between epochs, never inside one
    handlers = {each: signal.signal(each, lambda number, frame: signals.append(number))
                for each in (signal.SIGINT, signal.SIGTERM)}
    first, seconds_before = int(epoch) + 1, history[-1]["seconds"] if history else 0.0
    started = saved = time.monotonic()
    try:
        for number in range(first, settings["epochs"] + 1):
            rate = learning_rate(settings, number)
            optimizer.learning_rate.assign(rate)
            drawn = draw_patches(patches, training, places, settings, number)
            rmse_m, finite = train_epoch(*(None if field is None else tf.constant(field)
                                           for field in drawn))
            if not (finite and np.isfinite(rmse_m).all()):
                kept = (f"{latest.latest_checkpoint} is kept" if latest.latest_checkpoint
                        else "no checkpoint was written yet")
                raise ArithmeticError(f"the loss of epoch {number} is not a number; {kept}; try a "
                                      "lower --lr with --restart or another --run")
            epoch.assign(number)
            validation_rmse_m = validate().numpy() if validate else [None] * len(layers)
            if validate and validation_rmse_m[-1] < best_rmse_m:
                best_rmse_m.assign(validation_rmse_m[-1])
                keep_as_best()

            now = time.monotonic()
            row = {"epoch": number, "seconds": round(seconds_before + now - started, 3),
                   "learning_rate": rate}
            for stage, values in enumerate(zip(rmse_m.numpy(), validation_rmse_m, strict=True), 1):
                row[f"train_rmse_m_stage{stage}"], row[f"validation_rmse_m_stage{stage}"] = values
            history.append(row)
            said = "".join(f" {value:6.1f}" for value in rmse_m)
            if validate:
                said += f"   validation {validation_rmse_m[-1]:6.1f}"
            utils.show_progress("epoch", number, settings["epochs"],
                                (now - started) / (number - first + 1), f"stage RMSE{said} m   ")
            if signals or now - saved > SAVE_EVERY_S or number == settings["epochs"]:
                save()
                saved = now
            if signals:
                break
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if int(epoch) < settings["epochs"]:
            print()  # after a line of progress that was to be overwritten
    return int(epoch) >= settings["epochs"]


def remove_run(run):
    """Remove the checkpoints of a run, and its results, which would no longer be true."""
    for folder in (utils.CHECKPOINTS / run, utils.RESULTS / run):
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- the command line


def parse_arguments(argv):
    """The command line, checked; the run has a name."""
    parser = utils.argument_parser(__doc__)
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="default 8, or the run's")
    parser.add_argument("--input", metavar="MAP.nc", help="ice-sheet map to make the patches from")
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
    parser.add_argument("--restart", action="store_true", help="start the run over")
    args = parser.parse_args(argv)
    if args.crossval is not None and args.crossval < 2:
        raise InputError(f"--crossval {args.crossval}: expected 2 or more folds")
    for name in ("epochs", "lr", "batch_size", "seeds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or more")
    args.run = utils.check_run_name(args.run or f"x{args.scale or 8}")
    return args


def train_run(args, split=None):
    """Train the run of these arguments (on a fold, "fold 2 of 5"), evaluate it; exit status.

    A run of several (--seeds, --crossval) that is trained and evaluated already is left as it is.
    """
    old = None  # settings of the run, where it exists and is to go on
    if not args.restart and (utils.CHECKPOINTS / args.run / "settings.json").exists():
        old = utils.read_settings(args.run)
    args.scale = args.scale or (old["scale"] if old else 8)
    settings = make_settings(args)
    path, patches = prepare_data.find_patches(args.run, args.scale, args.input, old, split)
    if model.needs_topg(settings) and patches["topg"] is None:
        raise InputError(f"{path}: its map has no bed (topg); train on thickness alone with "
                         "--channels thk")
    settings["data"] = prepare_data.describe_data(patches)
    settings |= {key: settings["data"][key] for key in ("thk_norm_m", "topg_norm_m")}
    if old:
        check_same_settings(old, settings)
        if is_finished(settings) and (args.seeds or args.crossval):
            print(f"run {args.run}: finished already")
            return 0
    if args.restart:
        remove_run(args.run)

    data = settings["data"]
    if data["synthetic"] == "yes":
        print("SYNTHETIC ice sheet: the figures below say nothing of a real place")
    print(f"run {args.run}: {args.scale}x, recipe {args.recipe}, patches {path} ({data['source']}, "
          f"{data['degrade']}, {data['split']} split), on {set_up_device()}")
    try:
        complete = train(patches, settings)
    except ArithmeticError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except tf.errors.OpError as error:
        raise InputError(f"{utils.CHECKPOINTS / args.run}: the checkpoint cannot be written; is "
                         "the disk full or the folder read-only? "
                         f"({utils.one_line(error)[:200]})") from None
    if not complete:
        print("stopped; everything so far is kept, and the same command goes on from here")
        return 130
    evaluate.evaluate(args.run, figures=not (args.seeds or args.crossval))
    return 0


def is_finished(settings):
    """Whether a run is trained to its last epoch and evaluated after that."""
    history = utils.CHECKPOINTS / settings["run"] / "history.csv"
    metrics = utils.RESULTS / settings["run"] / "metrics.json"
    return (history.exists() and utils.read_table(history)[-1]["epoch"] >= settings["epochs"]
            and metrics.exists() and metrics.stat().st_mtime >= history.stat().st_mtime)


def main(argv=None):
    args = parse_arguments(argv)
    if not (args.seeds or args.crossval):
        return train_run(args)
    folds = args.crossval or 0
    every = {}  # runs by fold
    for fold in range(1, folds + 1) if folds else [None]:
        for seed in range(args.seed, args.seed + (args.seeds or 1)):
            name = (args.run + (f"_fold{fold}of{folds}" if fold else "")
                    + (f"_seed{seed}" if seed != args.seed else ""))
            one = argparse.Namespace(**vars(args) | {"run": name, "seed": seed})
            status = train_run(one, f"fold {fold} of {folds}" if fold else None)
            if status:
                return status
            every.setdefault(f"fold {fold}" if fold else "test", []).append(name)
    evaluate.summarise(f"{args.run}_" + (f"crossval{folds}" if folds else f"seeds{args.seeds}"),
                       every)
    return 0


if __name__ == "__main__":
    utils.run_script(main)
