"""The recurrent SRCNN: a dict of layers, one stage, and the chain of stages.

SRCNN is Dong et al. (2014, arXiv:1501.00092): convolutions 9-1-5 with 64 and 32 filters, ReLU,
`same` padding. The chain runs log2(scale) of them: stage k takes the map from level k-1 to level k,
twice as fine, and the next stage takes its prediction. At its end the chain can be made to agree
with its input (make_consistent). Thickness and bed go in and out in metres; they are normalised
inside run_stage and nowhere else. Any height and width will do.
"""

import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import utils


def has_gpu():
    """Whether the machine has a GPU, be it usable or not."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


held_messages = []  # lines of TensorFlow's that hold_messages kept off the screen


@contextlib.contextmanager
def hold_messages():
    """Keep what the block writes to file descriptor 2 in `held_messages`, off the screen.

    TensorFlow's C++ part greets with a dozen lines on every machine without a GPU.
    set_up_device shows them where they matter. Python's exceptions still pass.
    """
    # Warnings tell why a GPU is not used; without one they only repeat what Python raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if has_gpu() else "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        screen = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            held_messages.extend(kept.read().decode(errors="replace").splitlines())


with hold_messages():
    import tensorflow as tf

# The settings of a run, a dict that train.make_settings makes and settings.json keeps. Every
# function here that takes `settings` takes this one.
SETTINGS = {
    "run": "name of the training: its folder under checkpoints/ and results/",
    "scale": "how many times finer the chain makes a map: 2, 4, 8 or 16",
    "recipe": "name of the set of training settings that the run started from",
    "base": "what the convolutions of a stage correct, see stage_base: one of BASES",
    "consistency": "whether the map made, reduced again, gives the coarse map back",
    "gradients": "what a stage's error trains: one of GRADIENTS, see run_chain",
    "channels": "what the convolutions see: one of CHANNELS, see stage_channels",
    "bed_levels": "beds that they see: 1 the one at this level, 2 that of the level before too",
    "filters": "filters of every convolution but the last, which has 1",
    "kernels": "sides of the convolutions' kernels, odd, one more than filters",
    "correction_m": "metres to one unit of the last convolution; null: thk_norm_m",
    "weights": "first weights: he (He et al. 2015, arXiv:1502.01852) | normal (N(0, 1e-3))",
    "learning_rate": "of Adam, at the first epoch",
    "adam_epsilon": "epsilon of Adam",
    "schedule": "learning rate over the epochs: constant | cosine (half a wave, down to 0)",
    "epochs": "passes over the training patches",
    "batch_size": "patches in an Adam step; the last, smaller batch is kept",
    "augment": "whether each epoch cuts, flips and turns the training patches anew",
    "spacings": "with augment: at which multiples of the map's spacing patches are cut",
    "thinned": "with augment: share of patches with artificially thinned ice, see make_thinner",
    "average_turns": "whether a prediction is the mean over the eight flips and turns of the map",
    "validation": "whether a tenth of the training patches chooses the best epoch",
    "seed": "of the first weights and of all that is drawn in training",
    "patches": "path of the file of patches",
    "data": "what decides the numbers in that file, see prepare_data.DATA_KEYS; among them "
            "degrade (reduction: bicubic | area), and thk_norm_m and topg_norm_m, which scale the "
            "channels",
    "versions": "of Python and the libraries that the run was trained with",
}
BASES = ("none", "bicubic", "surface")
CHANNELS = ("thk", "thk+topg", "thk+topg+misfit")
GRADIENTS = ("stage", "chain")


def set_up_device():
    """Use the GPU if there is one, taking its memory as needed, else the CPU; returns its name.

    Where the machine has a GPU that TensorFlow cannot use, what TensorFlow said of it is printed.
    """
    with hold_messages():
        gpus = tf.config.list_physical_devices("GPU")
    if not gpus and has_gpu():
        print("note: TensorFlow cannot use the GPU of this machine:\n  "
              + "\n  ".join(dict.fromkeys(held_messages)))
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()
    return gpus[0].name if gpus else "CPU"


def needs_topg(settings):
    """Whether a run needs the bed: to correct the surface base, or to see it."""
    return settings["base"] == "surface" or "topg" in settings["channels"]


def count_stages(scale):
    """Stages in the chain: log2(scale), that is 1, 2, 3, 4 for 2x, 4x, 8x, 16x."""
    return scale.bit_length() - 1


def build_layers(settings):
    """All layers of the chain, built once: {"stage1": {"conv1": layer, "conv2": ...}, ...}.

    Biases start at 0. With weights "he" and a base the last convolution of a stage starts at 0 too,
    so that the stage starts as its base.
    Raises InputError for kernels that will not do.
    """
    if len(settings["kernels"]) != len(settings["filters"]) + 1:
        raise utils.InputError(f"kernels {settings['kernels']} for filters {settings['filters']}: "
                               "one kernel more is needed, for the last convolution")
    if any(kernel % 2 == 0 for kernel in settings["kernels"]):
        raise utils.InputError(f"kernels {settings['kernels']}: sides have to be odd, so that a "
                               "cell is at the centre")
    n_channels = (1 + ("topg" in settings["channels"]) * settings["bed_levels"]
                  + ("misfit" in settings["channels"]))
    filters = [*settings["filters"], 1]
    layers = {}
    for stage in range(1, count_stages(settings["scale"]) + 1):
        convs, width = {}, n_channels
        for i, (n_filters, kernel) in enumerate(zip(filters, settings["kernels"], strict=True), 1):
            is_last = i == len(filters)
            seed = settings["seed"] * 10000 + stage * 100 + i  # every layer draws its own weights
            if settings["weights"] == "normal":
                first = tf.keras.initializers.RandomNormal(stddev=1e-3, seed=seed)
            else:
                starts_at_0 = is_last and settings["base"] != "none"
                first = "zeros" if starts_at_0 else tf.keras.initializers.HeNormal(seed)
            convs[f"conv{i}"] = tf.keras.layers.Conv2D(
                n_filters, kernel, padding="same", activation=None if is_last else "relu",
                kernel_initializer=first, name=f"stage{stage}_conv{i}")
            convs[f"conv{i}"].build((None, None, None, width))
            width = n_filters
        layers[f"stage{stage}"] = convs
    return layers


def list_weights(layers):
    """All trainable variables of the dict of layers, in the order of the chain."""
    return [weight for convs in layers.values() for conv in convs.values()
            for weight in conv.trainable_variables]


# ---------------------------------------------------------------- a trained run


def read_settings(run):
    """The settings of a run (see SETTINGS), from checkpoints/<run>/settings.json.

    Raises InputError where there are none, or where an older version of this program wrote them.
    """
    path = utils.CHECKPOINTS / run / "settings.json"
    settings = utils.read_json(
        path, f"train the run first: python train.py --run {run} --scale 2|4|8|16")
    for key in SETTINGS:
        if key not in settings:
            raise utils.InputError(f"{path}: no {key} in it: trained by an older version; train "
                                   "again with --restart")
    return settings


def best_checkpoint(run):
    """Path and epoch of the layers of a run's best epoch; InputError where there are none."""
    folder = utils.CHECKPOINTS / run / "best"
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        raise utils.InputError(f"{folder}: no checkpoint; train the run first: python train.py "
                               f"--run {run}")
    return path, int(path.rpartition("-")[2])


def weights_sha256(run):
    """Checksum of the weights of a run: results that quote it are of these weights."""
    return utils.file_sha256(f"{best_checkpoint(run)[0]}.data-00000-of-00001")


def load_layers(settings):
    """The trained layers of a run: those of its best epoch. InputError where they do not fit."""
    layers = build_layers(settings)
    restore(tf.train.Checkpoint(layers=layers), best_checkpoint(settings["run"])[0])
    return layers


def restore(checkpoint, path):
    """Restore everything in a tf.train.Checkpoint from `path`; InputError where it does not fit."""
    try:
        checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
    except (ValueError, AssertionError, LookupError, tf.errors.OpError) as error:
        raise utils.InputError(
            f"{path}: not the layers that settings.json describes, or damaged "
            f"({utils.one_line(error)[:200]}); train again with --restart") from None


def open_run(run, scale=None):
    """A trained run for whole maps: its settings, the scale, and its chain, see predict.

    scale: may be smaller than the run's; the last stages of its layers do that. Raises InputError
    where there is no such run or it has too few stages.
    """
    settings = read_settings(run)
    scale = scale or settings["scale"]
    if scale > settings["scale"]:
        raise utils.InputError(f"run {run} was trained for {settings['scale']}x, not for {scale}x; "
                               "choose a --scale up to that or another --run")
    last = dict(list(load_layers(settings).items())[-count_stages(scale):])
    return settings, scale, compile_chain(last, settings, whole_map=True)


# ---------------------------------------------------------------- what a stage corrects and sees


def ice_surface(thk, topg):
    """utils.upper_surface in TensorFlow [m], but 0 where there is no ice."""
    floating = (1 - utils.RHO_ICE / utils.RHO_SEA) * thk
    return tf.where(thk > 0, tf.maximum(thk + topg, floating), tf.zeros_like(thk))


def ice_thickness(usrf, topg):
    """utils.ice_thickness in TensorFlow: ice [m] between the surface usrf [m] and bed topg [m]."""
    ratio = utils.RHO_ICE / utils.RHO_SEA
    grounded = usrf - topg
    floating = tf.minimum(usrf / (1 - ratio), -topg / ratio)
    return tf.nn.relu(tf.where(utils.floats(grounded, topg), floating, grounded))


def stage_base(thk, topg, topg_before, settings):
    """What a stage's convolutions correct [m], (patch, y, x); arguments as in run_stage.

    none: nothing, they make the whole map, as in the original.
    bicubic: the map as it comes in.
    surface: the ice that the finer bed leaves under the same surface (utils.surface_base). An ice
    surface is smooth where its bed is not.
    """
    if settings["base"] == "surface":
        return ice_thickness(ice_surface(tf.nn.relu(thk), topg_before), topg)
    return thk if settings["base"] == "bicubic" else tf.zeros_like(thk)


@functools.lru_cache(maxsize=32)
def smoothing_weights(size, factor, degrade):
    """Matrix (size, size): an axis of cells reduced by `factor` and brought back linearly."""
    coarse = utils.coarse_size(size, factor)
    return (linear_weights(coarse, size, degrade)
            @ utils.reduction_weights(size, coarse, degrade))


def linear_weights(coarse, size, degrade):
    """Matrix (size, coarse): linear interpolation from samples or means of an axis to its cells.

    Between the places of utils.enlargement_weights; beyond the outermost one its value is kept.
    """
    if degrade == "area":
        places = utils.cell_centres(size, coarse) - 0.5
    else:
        places = np.linspace(0, size - 1, coarse) if coarse > 1 else np.zeros(1)
    return np.stack([np.interp(np.arange(size), places, unit) for unit in np.eye(coarse)], axis=1)


def stage_misfit(thk, base, factor, degrade):
    """Input thickness minus the base, smoothed to the input's resolution [m], (patch, y, x).

    thk, base: (patch, y, x) m; factor: fine cells across a cell of the level before. It is 0 where
    the ice surface is as smooth as the surface base takes it to be, which differs from one ice
    sheet to another.
    """
    smooth_y, smooth_x = (  # (y, y), (x, x)
        tf.constant(smoothing_weights(size, factor, degrade), tf.float32)
        for size in thk.shape[1:])
    return smooth_y @ (thk - base) @ tf.transpose(smooth_x)


def stage_channels(thk, topg, topg_before, misfit, settings):
    """Input of a stage's convolutions, without units: (patch, y, x, channel).

    thk: thickness so far; topg, topg_before: bed at this level and the level before; misfit: see
    stage_misfit; all (patch, y, x) m. Of these settings["channels"] names the ones that are taken.
    With bed_levels 2 the bed at the level before is given as what this level has more than it.
    """
    channels = [thk / settings["data"]["thk_norm_m"]]
    if "topg" in settings["channels"]:
        topg_norm_m = settings["data"]["topg_norm_m"]
        channels.append(topg / topg_norm_m)
        if settings["bed_levels"] == 2:
            # Steps between levels are small beside the bed's range; ten times larger train faster.
            channels.append(10 * (topg - topg_before) / topg_norm_m)
    if "misfit" in settings["channels"]:
        channels.append(misfit / 300)
    return tf.stack(channels, axis=-1)


# ---------------------------------------------------------------- consistency with the coarse map


@functools.lru_cache(maxsize=16)
def consistency_weights(size, scale, degrade):
    """Matrices (recover, reduce, spread) for an axis of `size` cells, see make_consistent.

    recover (coarse, size): coarse values from level 0, which was enlarged from them.
    reduce (coarse, size): coarse values of a fine field.
    spread (size, coarse): a fine field from coarse values. bicubic: linear between the samples, so
    that `reduce` of it gives them back; area: the coarse value in each of its cells.
    Raises InputError where coarse cells are not whole cells.
    """
    coarse = utils.coarse_size(size, scale)
    if degrade == "area" and size != coarse * scale:
        raise utils.InputError(
            f"consistency needs whole coarse cells: {size} cells do not divide by {scale}; train "
            "with --no-consistency, or prepare larger patches")
    enlarge = utils.enlargement_weights(coarse, size, degrade)
    reduce = utils.reduction_weights(size, coarse, degrade)
    if degrade == "area":
        spread = (reduce > 0).T.astype(float)
    else:
        linear = linear_weights(coarse, size, degrade)
        spread = linear @ np.linalg.inv(reduce @ linear)
    return np.linalg.pinv(enlarge), reduce, spread


def make_consistent(thk, thk0, scale, degrade):
    """Correct a prediction so that reduced by `scale` it gives the coarse map back [m], >= 0.

    thk: prediction; thk0: the chain's input, level 0; both (patch, y, x) m.
    area: the ice of each coarse cell is scaled to the cell's mean, tenfold at most; what is missing
    then, all of it where there was no ice, is spread evenly. Exact, so ice volume is kept.
    bicubic: what the samples lack is added, fading linearly towards the samples around. Exact but
    where that falls below 0: only at 4x and 2x, whose samples lie between cells and can overshoot.
    """
    (recover_y, reduce_y, spread_y), (recover_x, reduce_x, spread_x) = (
        [tf.constant(matrix, tf.float32) for matrix in consistency_weights(size, scale, degrade)]
        for size in thk.shape[1:])
    thk = tf.nn.relu(thk)
    wanted = recover_y @ thk0 @ tf.transpose(recover_x)  # (patch, coarse y, coarse x)
    reduced = reduce_y @ thk @ tf.transpose(reduce_x)    # (patch, coarse y, coarse x)
    if degrade == "bicubic":
        return tf.nn.relu(thk + spread_y @ (wanted - reduced) @ tf.transpose(spread_x))
    wanted = tf.where(wanted < 0.005, 0.0, wanted)  # rounding of level 0: ocean stays ocean
    factor = tf.minimum(wanted / tf.maximum(reduced, 1e-6), 10.0)  # keeps gradients finite too
    missing = tf.nn.relu(wanted - factor * reduced)
    return (thk * (spread_y @ factor @ tf.transpose(spread_x))
            + spread_y @ missing @ tf.transpose(spread_x))


# ---------------------------------------------------------------- stages and chain


@tf.custom_gradient
def convolve_to_one(values, kernel):
    """A convolution to one channel, (patch, y, x, channel) to (patch, y, x, 1), kernel sides odd.

    Same as tf.nn.conv2d(values, kernel, 1, "SAME"), but faster on a CPU, where that takes a quarter
    of a training step: depthwise convolution, then a sum. Its gradients are those of the mirrored
    convolution, from one channel to many.
    """
    by_channel = tf.nn.depthwise_conv2d(values, kernel, (1, 1, 1, 1), "SAME")

    def gradient(upstream):
        mirrored = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
        for_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream, filter_sizes=tf.shape(mirrored), out_backprop=values,
            strides=[1, 1, 1, 1], padding="SAME")
        return (tf.nn.conv2d(upstream, mirrored, 1, "SAME"),
                tf.transpose(for_kernel, (0, 1, 3, 2))[::-1, ::-1])

    return tf.reduce_sum(by_channel, axis=-1, keepdims=True), gradient


def run_stage(convs, thk, topg, topg_before, factor, degrade, settings):
    """One SRCNN: thickness at level k from thickness at level k-1, all (patch, y, x) m.

    convs: the stage's entry of build_layers.
    topg, topg_before: bed at levels k and k-1 (None where needs_topg says no).
    factor: cells of the fine grid across one of level k-1; degrade: how the map was reduced.
    """
    base = stage_base(thk, topg, topg_before, settings)  # (patch, y, x)
    misfit = (stage_misfit(thk, base, factor, degrade) if "misfit" in settings["channels"]
              else None)
    values = stage_channels(thk, topg, topg_before, misfit, settings)  # (patch, y, x, channel)
    *hidden, last = convs.values()
    for conv in hidden:
        values = conv(values)  # (patch, y, x, filter)
    values = convolve_to_one(values, tf.convert_to_tensor(last.kernel)) + last.bias  # (..., 1)
    return base + (settings["correction_m"] or settings["data"]["thk_norm_m"]) * values[..., 0]


def run_chain(layers, thk, topg, settings, whole_map=False):
    """Every stage's prediction: a list of (patch, y, x) thickness in m, the last the finest.

    layers: of build_layers, or only the last stages of them, for a smaller scale.
    thk: the input, level 0, (patch, y, x) m; topg: bed (patch, level, y, x) m, or None.
    whole_map: the coarse map has means over its cells, and they are kept, whatever the run was
    trained on; else the settings say.
    gradients "stage": each stage takes the prediction of the one before as data, as in the
    original; "chain": its error also trains the stages before.
    """
    degrade = "area" if whole_map else settings["data"]["degrade"]
    scale, thk0, predictions = 2 ** len(layers), thk, []
    for stage, convs in enumerate(layers.values(), 1):
        # (patch, y, x) each: the bed at this level and the level before
        beds = (None, None) if topg is None else (topg[:, stage], topg[:, stage - 1])
        thk = run_stage(convs, thk, *beds, scale // 2 ** (stage - 1), degrade, settings)
        if (whole_map or settings["consistency"]) and stage == len(layers):
            thk = make_consistent(thk, thk0, scale, degrade)
        predictions.append(thk)
        if settings["gradients"] == "stage":
            thk = tf.stop_gradient(thk)
    return predictions


def compile_chain(layers, settings, whole_map=False):
    """run_chain as one graph: chain(thk, topg), see predict."""
    return tf.function(lambda thk, topg: run_chain(layers, thk, topg, settings, whole_map))


def turn(fields, number, back=False):
    """Fields (..., y, x) after turn `number`: bit 1 flips y, bit 2 flips x, bit 4 transposes.

    0 ... 7 are all flips and quarter turns of a rectangle. back: undo it.
    """
    if back and number & 4:
        fields = tf.linalg.matrix_transpose(fields)
    fields = fields[..., ::-1 if number & 1 else 1, ::-1 if number & 2 else 1]
    return fields if back or not number & 4 else tf.linalg.matrix_transpose(fields)


def predict(chain, thk, topg, average_turns):
    """Every stage's thickness, as run_chain gives it, for maps or patches.

    chain(thk, topg): run_chain of a run's layers, compiled or not; thk, topg: as there.
    average_turns: average the prediction over the eight flips and rotations of the map (test-time
    augmentation). The average is still consistent.
    """
    numbers = range(8) if average_turns else [0]
    turned = [[turn(prediction, number, back=True) for prediction in chain(
        turn(thk, number), None if topg is None else turn(topg, number))] for number in numbers]
    return [tf.add_n(stage) / len(turned) for stage in zip(*turned, strict=True)]


def baselines(thk0, topg_before, topg, scale, degrade):
    """What needs no network: thickness by method, {name: (patch, y, x) m}.

    bicubic: the input of the chain, thk0 (patch, y, x) float32 m.
    surface_base: from that, with the bed at level 0 and a finer one (None: left out).
    surface_base_consistent: the same made consistent.
    """
    by_method = {"bicubic": thk0}
    if topg is not None:
        base = utils.surface_base(np.maximum(thk0, 0), topg_before, topg).astype(np.float32)
        by_method |= {"surface_base": base, "surface_base_consistent":
                      make_consistent(base, thk0, scale, degrade).numpy()}
    return by_method
