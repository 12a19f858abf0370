"""The recurrent SRCNN: a dict of layers, one stage, and the chain of stages.

SRCNN is Dong et al. (2014, arXiv:1501.00092): convolutions 9-1-5 with 64 and 32 filters, ReLU,
`same` padding. The chain runs log2(scale) of them: stage k takes the map from level k-1 to level k,
twice as fine, and the next stage takes its prediction. What leaves the chain can be made to agree
with what went in (make_consistent). Thickness and bed go in and come out in metres; they are
normalised inside run_stage and nowhere else. Any height and width will do.
"""

import math

import numpy as np

import utils

with utils.quiet_import():
    import tensorflow as tf

BASES = ("none", "bicubic", "surface")  # what a stage's convolutions correct; see stage_base
CHANNELS = ("thk", "thk+topg", "thk+topg+misfit")  # what they see; see stage_channels
GRADIENTS = ("stage", "chain")  # how far a stage's error reaches back; see run_chain

TILE = 640  # side of a tile of a whole map with its halo, in fine cells
SPLINE_HALO = 16  # coarse cells after which a cubic spline forgets 4000 m (< 0.01 mm)


def needs_topg(settings):
    """Whether a run needs the bed: to correct the surface base, or to see it."""
    return settings["base"] == "surface" or "topg" in settings["channels"]


def count_stages(scale):
    """Stages in the chain: log2(scale), that is 1, 2, 3, 4 for 2x, 4x, 8x, 16x."""
    return scale.bit_length() - 1


def build_layers(settings):
    """All layers of the chain, built once: {"stage1": {"conv1": layer, "conv2": ...}, ...}.

    settings: scale; channels and bed_levels (see stage_channels); filters, of every convolution but
    the last, which has 1; kernels, one more than filters, odd; weights, "normal" for N(0, 1e-3) as
    in the original, or "he" (He et al. 2015, arXiv:1502.01852) with the last convolution at 0 where
    there is a base, so that a stage starts as that; seed. Biases start at 0. Raises InputError for
    other kernels.
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


def stage_channels(thk, topg, topg_before, misfit, settings):
    """Input of a stage's convolutions: (patch, y, x, channel), without units.

    thk: thickness so far; topg, topg_before: bed at this level and the level before; misfit: see
    stage_misfit; all (patch, y, x) in m. channels "thk" takes thickness only; "thk+topg" also the
    bed at this level and, with bed_levels 2, what it has more than the level before (the original
    has 1: this level); "thk+topg+misfit" the misfit too.
    """
    channels = [thk / settings["thk_norm_m"]]
    if "topg" in settings["channels"]:
        channels.append(topg / settings["topg_norm_m"])
        if settings["bed_levels"] == 2:
            # Steps between levels are small beside the bed's range; ten times larger train faster.
            channels.append(10 * (topg - topg_before) / settings["topg_norm_m"])
    if "misfit" in settings["channels"]:
        channels.append(misfit / 300)
    return tf.stack(channels, axis=-1)


def surface(thk, topg):
    """utils.surface in TensorFlow: upper surface elevation [m] of ice thk [m] on bed topg [m]."""
    floating = (1 - utils.RHO_ICE / utils.RHO_SEA) * thk
    return tf.where(thk > 0, tf.maximum(thk + topg, floating), tf.zeros_like(thk))


def thickness(usrf, topg):
    """utils.thickness in TensorFlow: ice thickness [m] below usrf [m] on or above bed topg [m]."""
    ratio = utils.RHO_ICE / utils.RHO_SEA
    grounded = usrf - topg
    floating = tf.minimum(usrf / (1 - ratio), -topg / ratio)
    return tf.nn.relu(tf.where(ratio * grounded >= -topg, grounded, floating))


def stage_base(thk, topg, topg_before, settings):
    """What a stage's convolutions correct: (patch, y, x) m, from fields as in run_stage.

    "none": nothing, they make the whole map, as in the original. "bicubic": the map as it comes in.
    "surface": the ice that the finer bed leaves under the same surface, which is smooth where the
    bed is not; afloat where it is too thin to ground.
    """
    if settings["base"] == "surface":
        return thickness(surface(tf.nn.relu(thk), topg_before), topg)
    return thk if settings["base"] == "bicubic" else tf.zeros_like(thk)


def stage_misfit(thk, base, factor, settings):
    """What the base lacks of the thickness so far at the resolution of that: (patch, y, x) m.

    thk, base: (patch, y, x) m; factor: fine cells across a cell of the level before. Their
    difference is reduced to that level and brought back linearly. A base that is right has none: it
    shows where the ice surface is not as smooth as the surface base takes it to be, which differs
    from one ice sheet to another.
    """
    smooth_y, smooth_x = (
        tf.constant(utils.smoothing_weights(size, factor, settings["data"]["degrade"]), tf.float32)
        for size in thk.shape[1:])
    return smooth_y @ (thk - base) @ tf.transpose(smooth_x)


def make_consistent(thk, thk0, settings):
    """Thickness [m] that gives the coarse map back when it is reduced, from a prediction of it.

    thk: prediction; thk0: the chain's input, level 0; both (patch, y, x) m. settings: scale and
    data.degrade, the reduction. Never below 0.
    area: the ice of each coarse cell is scaled to the cell's mean, tenfold at most; what is missing
    then, all of it where there was no ice, is spread evenly. Exact, so ice volume is kept.
    bicubic: what the samples lack is added, fading linearly towards the samples around. Exact but
    where that falls below 0: only at 4x and 2x, whose samples lie between cells and can overshoot.
    """
    degrade = settings["data"]["degrade"]
    (recover_y, reduce_y, spread_y), (recover_x, reduce_x, spread_x) = (
        [tf.constant(matrix, tf.float32)
         for matrix in utils.consistency_weights(size, settings["scale"], degrade)]
        for size in thk.shape[1:])
    thk = tf.nn.relu(thk)
    wanted = recover_y @ thk0 @ tf.transpose(recover_x)  # (patch, coarse y, coarse x)
    found = reduce_y @ thk @ tf.transpose(reduce_x)
    if degrade == "bicubic":
        return tf.nn.relu(thk + spread_y @ (wanted - found) @ tf.transpose(spread_x))
    wanted = tf.where(wanted < 0.005, 0.0, wanted)  # rounding of level 0: ocean stays ocean
    factor = tf.minimum(wanted / tf.maximum(found, 1e-6), 10.0)  # keeps gradients finite too
    missing = tf.nn.relu(wanted - factor * found)
    return (thk * (spread_y @ factor @ tf.transpose(spread_x))
            + spread_y @ missing @ tf.transpose(spread_x))


@tf.custom_gradient
def convolve_to_one(values, kernel):
    """A convolution to one channel, (patch, y, x, channel) to (patch, y, x, 1), kernel sides odd.

    Equal to tf.nn.conv2d(values, kernel, 1, "SAME"), which on a CPU takes a quarter of the whole
    training step, for it is laid out for many channels out. So forward is channel by channel and a
    sum; both gradients are those of the mirrored convolution, from one channel to many.
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


def run_stage(convs, thk, topg, topg_before, factor, settings):
    """One SRCNN: thickness at level k from thickness at level k-1, all (patch, y, x) in m.

    convs: the stage's entry of build_layers; topg, topg_before: bed at levels k and k-1 (None where
    needs_topg says no); factor: cells of the fine grid across one of level k-1.
    """
    base = stage_base(thk, topg, topg_before, settings)
    misfit = (stage_misfit(thk, base, factor, settings) if "misfit" in settings["channels"]
              else None)
    values = stage_channels(thk, topg, topg_before, misfit, settings)  # (patch, y, x, channel)
    *hidden, last = convs.values()
    for conv in hidden:
        values = conv(values)
    values = convolve_to_one(values, tf.convert_to_tensor(last.kernel)) + last.bias
    return base + (settings["correction_m"] or settings["thk_norm_m"]) * values[..., 0]


def run_chain(layers, thk, topg, settings):
    """Every stage's prediction: a list of (patch, y, x) thickness in m, the last the finest.

    thk: bicubic input, level 0, (patch, y, x) m; topg: bed (patch, level, y, x) m, or None.
    gradients "stage": each stage takes the prediction of the one before as data, as in the
    original; "chain": its error also trains the stages before. consistency: see make_consistent.
    """
    predictions, thk0 = [], thk
    for stage, convs in enumerate(layers.values(), 1):
        beds = (None, None) if topg is None else (topg[:, stage], topg[:, stage - 1])
        thk = run_stage(convs, thk, *beds, settings["scale"] // 2 ** (stage - 1), settings)
        if settings["consistency"] and stage == len(layers):
            thk = make_consistent(thk, thk0, settings)
        predictions.append(thk)
        if settings["gradients"] == "stage":
            thk = tf.stop_gradient(thk)
    return predictions


def turn(fields, number, back=False):
    """Fields (..., y, x) after turn `number`: bit 1 flips y, bit 2 flips x, bit 4 transposes.

    0 ... 7 are all flips and quarter turns of a rectangle. back: undo it.
    """
    if back and number & 4:
        fields = tf.linalg.matrix_transpose(fields)
    fields = fields[..., ::-1 if number & 1 else 1, ::-1 if number & 2 else 1]
    return fields if back or not number & 4 else tf.linalg.matrix_transpose(fields)


def predict(chain, thk, topg, settings):
    """What a chain makes of level 0: run_chain's predictions, averaged over the turns of the map.

    chain(thk, topg): run_chain of a run's layers, compiled or not; thk, topg: as there. An ice
    sheet looks alike from all sides, the layers nearly do: what they make of the turned map, turned
    back, differs by their errors, and the mean of all eight has less of them. It stays consistent.
    One turn alone without settings["average_turns"].
    """
    turns = range(8) if settings["average_turns"] else [0]
    turned = [[turn(prediction, number, back=True) for prediction in chain(
        turn(thk, number), None if topg is None else turn(topg, number))] for number in turns]
    return [tf.add_n(stage) / len(turned) for stage in zip(*turned, strict=True)]


# ---------------------------------------------------------------- whole maps


def last_stages(layers, settings, scale):
    """The last stages of a run's chain, those that make a map `scale` times finer.

    Returns layers and settings as of a run of that scale. A whole map has means over its cells and
    they are kept, whatever the run was trained on: degrade `area`, consistency on. Raises
    InputError where the run has too few stages.
    """
    if scale > settings["scale"]:
        raise utils.InputError(f"run {settings['run']} was trained for {settings['scale']}x, not "
                               f"for {scale}x; choose a --scale up to that or another --run")
    layers = dict(list(layers.items())[-count_stages(scale):])
    return layers, settings | {"scale": scale, "consistency": True,
                               "data": settings["data"] | {"degrade": "area"}}


def tile_sides(settings):
    """Halo and side, halo included, of the tiles of a map in coarse cells; settings: of the chain.

    The halo holds all that a cell of the result depends on: the chain's receptive field, and the
    splines that bring the coarse fields to the fine cells.
    """
    n_stages = count_stages(settings["scale"])
    reach = n_stages * sum(kernel // 2 for kernel in settings["kernels"])  # fine cells
    halo = SPLINE_HALO + math.ceil(reach / settings["scale"])
    if "misfit" in settings["channels"]:  # two cells of each stage's own level: 2 + 1 + 1/2 ...
        halo += 4
    return halo, max(TILE // settings["scale"], 3 * halo)


def axis_tiles(size, halo, side):
    """Tiles along an axis of `size` cells: [(slice of its own cells, slice with the halo), ...].

    Every tile is `side` cells wide with its halo (or the whole axis), so one graph does them all;
    its own cells are `halo` or more away from its edges, but for the edges of the map.
    """
    if size <= side:
        return [(slice(0, size), slice(0, size))]
    own = side - 2 * halo
    firsts = [min(max(start - halo, 0), size - side) for start in range(0, size, own)]
    return [(slice(start, min(start + own, size)), slice(first, first + side))
            for start, first in zip(range(0, size, own), firsts, strict=True)]


def map_tiles(shape, settings):
    """The tiles of a coarse map of `shape` (y, x): pairs (along y, along x) as of axis_tiles."""
    halo, side = tile_sides(settings)
    return [(rows, columns) for rows in axis_tiles(shape[0], halo, side)
            for columns in axis_tiles(shape[1], halo, side)]


def run_tile(chain, found, bed, tile, settings, baselines=False):
    """Make one tile of a map finer: slices of the fine map (rows, columns) and the fields in them.

    chain(thk, topg): run_chain of the layers, compiled; found: the coarse map (see utils.read_map),
    its thickness means over its cells; bed: see utils.open_bed, or None; tile: of map_tiles;
    settings: of the chain, see last_stages. fields: `model` and, with baselines, `bicubic` and,
    where there is a bed, the surface base, as it is and made consistent (`surface`,
    `surface_consistent`), all thk (y, x) float32 m; and `topg`, None without a bed. The fine cells
    divide the coarse ones. NaN where the map or the bed says nothing is known.
    """
    scale = settings["scale"]
    own, whole = zip(*tile, strict=True)
    x, y = (utils.finer_axis(found[name], scale) for name in "xy")
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in whole)
    inside = tuple(slice((part.start - around.start) * scale, (part.stop - around.start) * scale)
                   for part, around in zip(own, whole, strict=True))
    cell = np.ones((scale, scale), bool)
    unknown = found["unknown"][whole]
    coarse = utils.fill_nearest(found["thk"][whole], unknown)
    unknown = np.kron(unknown, cell)
    thk0 = utils.enlarge_fields(coarse[None], unknown.shape, "area").astype(np.float32)
    topg = levels = None
    if bed:
        topg = utils.bring_to_cells(bed, x[columns], y[rows])
        gaps = np.isnan(topg)
        if needs_topg(settings):  # a coarse cell is known as a whole or not at all
            blocks = gaps.reshape(len(topg) // scale, scale, -1, scale)
            unknown |= np.kron(blocks.any(axis=(1, 3)), cell)
        levels = utils.make_levels(utils.fill_nearest(topg, gaps)[None], scale, "area")
    fields = {"bicubic": thk0} if baselines else {}
    if baselines and bed:
        usrf = utils.surface(np.maximum(thk0, 0), levels[:, 0])
        fields["surface"] = utils.thickness(usrf, levels[:, -1]).astype(np.float32)
        fields["surface_consistent"] = make_consistent(fields["surface"], thk0, settings)
    if coarse.any():
        fields["model"] = predict(chain, thk0, levels if needs_topg(settings) else None,
                                  settings)[-1]
    else:
        fields["model"] = np.zeros_like(thk0)  # open ocean: nothing to ask the network
    fields = {name: np.where(unknown, np.nan, field[0])[inside] for name, field in fields.items()}
    fields["topg"] = topg if topg is None else topg[inside]
    return (*(slice(part.start * scale, part.stop * scale) for part in own), fields)
