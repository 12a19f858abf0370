"""The recurrent SRCNN: a dict of layers, one stage, and the chain of stages.

SRCNN is Dong et al. (2014, arXiv:1501.00092): convolutions 9-1-5 with 64 and 32 filters, ReLU,
padded so that sizes stay. The chain runs log2(scale) of them: stage k takes the map from level k-1
to level k, twice as fine, and the next stage takes its prediction. After every stage the result can
be made to agree with the coarse map (enforce_consistency). Thickness and bed go in and out in metres;
they are normalised inside run_stage and nowhere else. Any height and width will do.

Every level has cells of its own, coarse ones for a coarse level, so that a stage sees far for
little. Or all levels are on the fine grid, as in the original (setting `grid`). The code is the
same: there all sizes are equal, and bringing a field from level to level leaves it as it is.
"""

import math

import numpy as np

import utils
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.patches import make_chain_inputs
from icesheet.settings import SELF_ENSEMBLE_MEMBERS, get_densities

PREDICTION_BATCH_SIZE = 50  # patches predicted at a time
LOCAL_WINDOW_CELLS = 5           # side in cells, odd, of the surroundings that make_normalised_channels compares with
THIN_ICE_M = {"bicubic": 5.0, "area": 2.5}  # ice thinner than that, times the cells across a coarse
                                        # one, is a film (see remove_thin_ice): where ice area came out
                                        # right on training patches, and in the 8 km hindcasts
THIN_ICE_MAX_SHARE = 0.2    # no more than this part of the thickest coarse cell near by is a film


def count_stages(scale):
    """Stages in the chain: log2(scale), that is 1, 2, 3, 4 for 2x, 4x, 8x, 16x."""
    return scale.bit_length() - 1


def build_layers(settings):
    """All layers of the chain, built once: {"stage1": {"conv1": layer, "conv2": ...}, ...}.

    Biases start at 0. With weights "he" and a base the last convolution of a stage starts at 0 too,
    so that the stage starts as its base.
    Raises InputError for kernels that will not do, and for grid fine with consistency.
    """
    if len(settings["kernels"]) != len(settings["filters"]) + 1:
        raise InputError(f"kernels {settings['kernels']} for filters {settings['filters']}: "
                               "one kernel more is needed, for the last convolution")
    if settings["grid"] == "fine" and settings["consistency"]:
        raise InputError("consistency needs the coarse cells, which grid fine has not: train "
                               "with --no-consistency")
    if any(kernel % 2 == 0 for kernel in settings["kernels"]):
        raise InputError(f"kernels {settings['kernels']}: sides have to be odd, so that a "
                               "cell is at the centre")
    n_channels = {"thk": 1, "thk+topg": 1 + settings["bed_levels"],
                  "normalised": 8}[settings["channels"]]
    filters = [*settings["filters"], 1]
    layers = {}
    for stage in range(1, count_stages(settings["scale"]) + 1):
        convs, width = {}, n_channels
        for i, (n_filters, kernel) in enumerate(zip(filters, settings["kernels"], strict=True), 1):
            is_last = i == len(filters)
            seed = settings["seed"] * 10000 + stage * 100 + i  # every layer draws its own weights
            if settings["initializer"] == "normal":
                first = tf.keras.initializers.RandomNormal(stddev=1e-3, seed=seed)
            else:
                starts_at_0 = is_last and settings["first_guess"] != "none"
                first = "zeros" if starts_at_0 else tf.keras.initializers.HeNormal(seed)
            convs[f"conv{i}"] = tf.keras.layers.Conv2D(
                n_filters, kernel, padding="valid", activation=None if is_last else "relu",
                kernel_initializer=first, name=f"stage{stage}_conv{i}")
            convs[f"conv{i}"].build((None, None, None, width))
            width = n_filters
        layers[f"stage{stage}"] = convs
    return layers


def list_weights(layers):
    """All trainable variables of the dict of layers, in the order of the chain."""
    return [weight for convs in layers.values() for conv in convs.values()
            for weight in conv.trainable_variables]


def count_flops(settings, side):
    """Floating-point operations of the convolutions for a patch of side x side cells, forwards."""
    operations = 0
    for name, convs in build_layers(settings).items():
        factor = settings["scale"] // 2 ** int(name.removeprefix("stage"))
        cells = (utils.coarse_size(side, factor) if settings["grid"] == "level" else side) ** 2
        operations += sum(2 * cells * math.prod(conv.kernel.shape) for conv in convs.values())
    return operations


def surface_from_thickness(thk, topg, densities=utils.DENSITIES):
    """utils.surface_from_thickness in TensorFlow [m], but 0 where there is no ice."""
    floating = (1 - densities[0] / densities[1]) * thk
    return tf.where(thk > 0, tf.maximum(thk + topg, floating), tf.zeros_like(thk))


def thickness_from_surface(usrf, topg, densities=utils.DENSITIES):
    """utils.thickness_from_surface in TensorFlow: ice [m] between the surface usrf [m] and bed topg [m]."""
    ratio = densities[0] / densities[1]
    grounded = usrf - topg
    floating = tf.minimum(usrf / (1 - ratio), -topg / ratio)
    return tf.nn.relu(tf.where(utils.is_floating(grounded, topg, densities), floating, grounded))


def compute_first_guess(thk, topg, topg_before, settings):
    """What a stage's convolutions correct [m], (patch, y, x); arguments as in run_stage.

    none: nothing, they make the whole map, as in the original.
    bicubic: the map as it comes in.
    surface: the ice that the finer bed leaves under the same surface (utils.surface_minus_bed). An ice
    surface is smooth where its bed is not.
    """
    if settings["first_guess"] == "surface-minus-bed":
        densities = get_densities(settings.get("data", {}))
        return thickness_from_surface(surface_from_thickness(tf.nn.relu(thk), topg_before, densities), topg, densities)
    return thk if settings["first_guess"] == "bicubic" else tf.zeros_like(thk)


def compute_coarse_residual(before, base, degrade):
    """Input thickness minus the base, at the input's resolution [m], (patch, y, x).

    before: the input, level k-1; base: level k; each on its own cells (patch, y, x) m. The base is
    reduced to level k-1, the difference brought back linearly. It is 0 where the ice surface is as
    smooth as the surface base takes it to be, which differs from one ice sheet to another.
    """
    lacking = before - regrid_level(base, before.shape[1:], utils.coarsening_matrix, degrade)
    return regrid_level(lacking, base.shape[1:], utils.linear_matrix, degrade)


def make_absolute_channels(thk, topg, topg_before, settings):
    """Input of a stage's convolutions, without units: (patch, y, x, channel).

    thk: thickness so far; topg, topg_before: bed at this level and the level before; all (patch, y,
    x) m. Of these settings["channels"] names the ones that are taken. With bed_levels 2 the bed at
    the level before is given as what this level has more than it.
    """
    channels = [thk / settings["data"]["thk_norm_m"]]  # never 0, see train.train
    if "topg" in settings["channels"]:
        topg_norm_m = settings["data"]["topg_norm_m"] or 1.0  # a bed at 0 m throughout
        channels.append(topg / topg_norm_m)
        if settings["bed_levels"] == 2:
            # Steps between levels are small beside the bed's range; ten times larger train faster.
            channels.append(10 * (topg - topg_before) / topg_norm_m)
    return tf.stack(channels, axis=-1)


def make_normalised_channels(thk, topg, topg_before, base, misfit, densities=utils.DENSITIES):
    """Input of a stage's convolutions and the unit of their output, relative to what is near.

    thk, topg, topg_before: as in make_absolute_channels; base: see compute_first_guess; misfit: see compute_coarse_residual;
    all (patch, y, x) m. Returns (patch, y, x, channel) and the unit (patch, y, x) m.
    The unit is how much there is to correct around a cell: the root mean square of the misfit and
    of a fifth of the bed's detail, 1 m at least. All heights are divided by it, those of surface
    and bed from their mean around. Large values are squashed.
    So a stage treats heights half as large in the same way, down to that 1 m: what it learns on an
    ice sheet holds on a glacier. Where the formula is right, next to nothing is corrected.
    """
    def around(field):
        return tf.nn.avg_pool2d(field[..., None], LOCAL_WINDOW_CELLS, 1, "SAME")[..., 0]

    detail, usrf = topg - topg_before, surface_from_thickness(tf.nn.relu(thk), topg_before, densities)
    above_flotation = densities[0] / densities[1] * base + topg
    unit = tf.sqrt(around(tf.square(misfit) + tf.square(detail / 5)) + 1)
    fields = [(misfit, 3), (detail, 5), (thk, 10), (base, 10), (base - thk, 3),
              (above_flotation, 5), (usrf - around(usrf), 5), (topg - around(topg), 5)]
    scaled = [field / (size * unit) for field, size in fields]
    return tf.stack([field / tf.sqrt(1 + tf.square(field)) for field in scaled], axis=-1), unit


def regrid_level(fields, shape, weights, degrade):
    """Fields (patch, y, x) on the cells of another level, of `shape` (y, x).

    weights: utils.coarsening_matrix, utils.upsampling_matrix, catmull_rom_matrix, linear_matrix or
    prolongation_matrix. A level of the same size has the same cells: nothing is done.
    """
    if tuple(fields.shape[1:]) == tuple(shape):
        return fields
    along_y, along_x = (tf.constant(weights(*sizes, degrade), tf.float32)
                        for sizes in zip(fields.shape[1:], shape, strict=True))
    return along_y @ fields @ tf.transpose(along_x)


def prolongation_matrix(coarse, size, degrade):
    """Matrix (size, coarse): a fine axis from coarse values that gives them back when reduced.

    area: the coarse value in each of its cells; bicubic: linear between the samples.
    Raises InputError where coarse cells are not whole cells.
    """
    reduce = utils.coarsening_matrix(size, coarse, degrade)
    if degrade == "area":
        if size % coarse:
            raise InputError(
                f"consistency needs whole coarse cells: {size} cells do not divide into {coarse}; "
                "train with --no-consistency, or prepare larger patches")
        return (reduce > 0).T.astype(float)
    linear = utils.linear_matrix(coarse, size, degrade)
    return linear @ np.linalg.inv(reduce @ linear)


def enforce_consistency(thk, coarse, degrade):
    """Correct a prediction so that, reduced, it gives a coarser level back [m], >= 0.

    thk: prediction; coarse: the coarser level, each on its own cells (patch, y, x) m.
    area: the ice of each coarse cell is scaled to the cell's mean, tenfold at most. What is missing
    then, all of it where there was no ice, goes to the side of the coarse cell where its neighbours
    have more ice; where there is no such side, evenly. Exact, so ice volume is kept.
    bicubic: what the samples lack is added, fading linearly towards the samples around. Exact but
    where that falls below 0: only at 4x and 2x, whose samples lie between cells and can overshoot.
    """
    def spread(field):
        return regrid_level(field, thk.shape[1:], prolongation_matrix, degrade)

    thk = tf.nn.relu(thk)
    reduced = regrid_level(thk, coarse.shape[1:], utils.coarsening_matrix, degrade)
    if degrade == "bicubic":
        return tf.nn.relu(thk + spread(coarse - reduced))
    factor = tf.minimum(coarse / tf.maximum(reduced, 1e-6), 10.0)  # keeps gradients finite too
    missing = tf.nn.relu(coarse - factor * reduced)
    side = regrid_level(coarse, thk.shape[1:], utils.linear_matrix, degrade) - 0.9 * spread(coarse)
    side = tf.nn.relu(side) + 1e-3 * spread(coarse) + 1e-9  # never 0 all over a coarse cell
    share = missing / regrid_level(side, coarse.shape[1:], utils.coarsening_matrix, degrade)
    return thk * spread(factor) + side * spread(share)


def remove_thin_ice(thk, coarse, degrade):
    """Thickness [m] without the film that a mean over possible maps leaves on ice-free cells.

    thk: prediction; coarse: level 0, each on its own cells (patch, y, x) m. Cells lose their ice to
    the others of their coarse cell where they are thinner than THIN_ICE_M times the cells across it,
    than THIN_ICE_MAX_SHARE of the thickest coarse cell around and, with cell means, than 0.9 of their own.
    With samples, where no sample around has ice there is none. Consistent as thk was.
    """
    thickest = tf.nn.max_pool2d(coarse[..., None], 3, 1, "SAME")[..., 0]
    thickest = regrid_level(thickest, thk.shape[1:], utils.linear_matrix, degrade)
    limit = tf.minimum(THIN_ICE_M[degrade] * thk.shape[1] / coarse.shape[1], THIN_ICE_MAX_SHARE * thickest)
    if degrade == "bicubic":
        thk = tf.where(thickest > utils.MIN_ICE_THICKNESS_M, thk, 0.0)
    if degrade == "area":
        limit = tf.minimum(limit, 0.9 * regrid_level(coarse, thk.shape[1:], prolongation_matrix, degrade))
    # A ramp from 0.8 of the limit, not a step: tiles of a map that differ by rounding stay alike.
    return enforce_consistency(tf.minimum(thk, tf.nn.relu(5 * thk - 4 * limit)), coarse, degrade)


@tf.custom_gradient
def convolve_to_single_channel(values, kernel):
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


def pad_for_convolution(values, conv, settings):
    """Values (patch, y, x, channel) with as much around them as the convolution takes off.

    Zeros look like open ocean, and on the small grids of the first stages they are near everywhere:
    so mirror the map at its edge, but for the original.
    """
    half = conv.kernel.shape[0] // 2
    return tf.pad(values, ((0, 0), (half, half), (half, half), (0, 0)), settings["padding"])


def run_stage(convs, before, topg_before, topg, degrade, settings):
    """One SRCNN: thickness at level k from thickness at level k-1, (patch, y, x) m.

    convs: the stage's entry of build_layers.
    before, topg_before: thickness and bed at level k-1; topg: bed at level k; each on the cells of
    its level. degrade: how the map was reduced.
    """
    thk, topg_before = (regrid_level(field, topg.shape[1:], utils.catmull_rom_matrix, degrade)
                        for field in (before, topg_before))  # (patch, y, x) of level k
    base = compute_first_guess(thk, topg, topg_before, settings)      # (patch, y, x)
    if settings["channels"] == "normalised":  # values: (patch, y, x, channel)
        misfit = compute_coarse_residual(before, base, degrade)
        values, unit_m = make_normalised_channels(thk, topg, topg_before, base, misfit,
                                           get_densities(settings["data"]))
    else:
        values = make_absolute_channels(thk, topg, topg_before, settings)
        unit_m = settings["output_scale_m"] or settings["data"]["thk_norm_m"]
    *hidden, last = convs.values()
    for conv in hidden:
        values = conv(pad_for_convolution(values, conv, settings))  # (patch, y, x, filter)
    values = convolve_to_single_channel(pad_for_convolution(values, last, settings), tf.convert_to_tensor(last.kernel))
    half = last.kernel.shape[0] // 2
    inside = slice(half, -half or None)
    values = values[:, inside, inside, 0] + last.bias  # (patch, y, x)
    return base + unit_m * values


def run_chain(layers, thk, topg, settings, whole_map=False):
    """Every stage's prediction: a list of (patch, y, x) thickness in m, the last the finest.

    layers: of build_layers, or only the last stages of them, for a smaller scale.
    thk: level 0, (patch, y, x) m; topg: bed at every level, a list of the same, each on its own
    cells (see utils.build_levels); zeros will do where needs_topg says no.
    whole_map: the coarse map has means over its cells, and they are kept, whatever the run was
    trained on; else the settings say.
    gradients "stage": each stage takes the prediction of the one before as data, as in the
    original; "end-to-end": its error also trains the stages before.
    """
    degrade = "area" if whole_map else settings["data"]["degrade"]
    thk0, predictions = thk, []
    for convs, topg_before, topg_here in zip(layers.values(), topg[:-1], topg[1:], strict=True):
        before = thk
        thk = run_stage(convs, before, topg_before, topg_here, degrade, settings)
        if settings["grid"] == "level" and (whole_map or settings["consistency"]):
            # Means of means are means; samples of samples are not quite the samples.
            thk = enforce_consistency(thk, before if degrade == "area" else thk0, degrade)
        predictions.append(thk)
        if settings["gradients"] == "stage":
            thk = tf.stop_gradient(thk)
    return predictions


def compile_chain(layers, settings, whole_map=False):
    """run_chain as one graph: chain(thk, topg), see predict."""
    return tf.function(lambda thk, topg: run_chain(layers, thk, topg, settings, whole_map))


def receptive_field_radius(settings, scale):
    """How far away something can change a cell of the whole map that is made, in coarse cells.

    On own grids counted backwards, from a whole coarse cell (remove_thin_ice) at the last level: in
    cells of the level before, what the layers see, one for the misfit, two for catmull_rom_matrix.
    """
    reach = sum(kernel // 2 for kernel in settings["kernels"])
    if settings["channels"] == "normalised":
        reach += LOCAL_WINDOW_CELLS // 2
    if settings["grid"] == "level":
        cells = 0
        for _ in range(count_stages(scale)):
            cells = math.ceil(cells / 2) + math.ceil(reach / 2) + 3
        return cells
    misfit = 2 * (settings["channels"] == "normalised")  # linearly, a cell of the level before
    return math.ceil((reach + misfit) * count_stages(scale) / scale) + 3  # and remove_thin_ice


def apply_symmetry(fields, number, back=False):
    """Fields (..., y, x) after turn `number`: bit 1 flips y, bit 2 flips x, bit 4 transposes.

    0 ... 7 are all flips and quarter turns of a rectangle. back: undo it.
    """
    return utils.apply_symmetry(fields, number, back, tf.linalg.matrix_transpose)


def predict_ensemble(chain, thk, topg, self_ensemble):
    """Every stage's thickness, as run_chain gives it, and the last's spread, of maps or patches.

    chain(thk, topg): run_chain of a run's layers, compiled or not. self_ensemble: the mean over
    SELF_ENSEMBLE_MEMBERS of the map, still consistent, or not; spread: their standard deviation, (patch, y, x) m.
    """
    numbers = SELF_ENSEMBLE_MEMBERS[8 if self_ensemble is True else int(self_ensemble) or 1]
    turned = [[apply_symmetry(prediction, number, back=True) for prediction in chain(
        apply_symmetry(thk, number), [apply_symmetry(level, number) for level in topg])] for number in numbers]
    spread = tf.math.reduce_std(tf.stack([stages[-1] for stages in turned]), axis=0)
    return [tf.add_n(stage) / len(turned) for stage in zip(*turned, strict=True)], spread


def mask_determined_cells(spread, coarse, degrade):
    """The spread (patch, y, x) m, NaN where the coarse map, level 0, leaves no choice.

    Cell means: where their cell has no ice; samples: where none around has any, see remove_thin_ice.
    """
    weights = prolongation_matrix if degrade == "area" else utils.linear_matrix
    ice = coarse if degrade == "area" else tf.nn.max_pool2d(coarse[..., None], 3, 1, "SAME")[..., 0]
    return tf.where(regrid_level(ice, spread.shape[1:], weights, degrade) > 0, spread, np.nan)


def predict_patches(layers, patches, settings, numbers):
    """Thickness of every stage, (stage, patch, y, x) m, and mask_determined_cells, for patches `numbers`.

    On the fine cells, as the levels in the file: a coarser stage's is enlarged to them. The last
    is without a film, see remove_thin_ice.
    """
    chain, degrade = compile_chain(layers, settings), settings["data"]["degrade"]
    shape, batches, spreads = patches["thk"].shape[2:], [], []
    for batch in np.split(numbers, range(PREDICTION_BATCH_SIZE, len(numbers), PREDICTION_BATCH_SIZE)):
        thk, topg = make_chain_inputs(patches, batch, settings)
        predictions, spread = predict_ensemble(chain, thk[0], topg, settings["self_ensemble"])
        spreads.append(mask_determined_cells(spread, thk[0], degrade))
        if settings["consistency"]:
            predictions[-1] = remove_thin_ice(predictions[-1], thk[0], degrade)
        batches.append(np.stack([regrid_level(prediction, shape, utils.upsampling_matrix, degrade)
                                 for prediction in predictions]))
    return np.concatenate(batches, axis=1), np.concatenate(spreads)


def compute_baselines(thk0, coarse, topg0, topg, degrade, densities=utils.DENSITIES):
    """What needs no network: thickness by method, {name: (patch, y, x) m}.

    bicubic: level 0 on the fine cells, thk0 (patch, y, x) float32 m.
    surface_minus_bed: from that, with the bed at level 0 and a finer one (None: left out).
    surface_minus_bed_consistent: the same made consistent with level 0 on its own cells, `coarse`.
    """
    by_method = {"bicubic": thk0}
    if topg is not None:
        base = utils.surface_minus_bed(np.maximum(thk0, 0), topg0, topg, densities).astype(np.float32)
        by_method |= {"surface_minus_bed": base, "surface_minus_bed_consistent": enforce_consistency(
            base, coarse.astype(np.float32), degrade).numpy()}
    return by_method


def add_baselines(predicted, patches, numbers, settings, stage=-1):
    """Thickness by method: {name: (patch, y, x) m}, baselines first, the model's last.

    predicted: the model's at a stage, (patch, y, x) m; the others start at the input of the whole
    chain, see baselines. The consistent one is of the last stage only.
    """
    thk, degrade = patches["thk"][numbers], settings["data"]["degrade"]
    beds = (None, None) if patches["topg"] is None else (
        patches["topg"][numbers, 0], patches["topg"][numbers, stage])
    by_method = compute_baselines(
        thk[:, 0], utils.coarsen_fields(thk[:, -1], settings["scale"], degrade), *beds, degrade,
        get_densities(settings["data"]))
    if stage not in (-1, patches["thk"].shape[1] - 1):
        by_method.pop("surface_minus_bed_consistent", None)
    return by_method | {"model": predicted}
