"""The recurrent SRCNN: a dict of layers, one stage, and the chain of stages.

SRCNN is Dong et al. (2014, arXiv:1501.00092): convolutions 9-1-5 with 64 and 32 filters, ReLU,
`same` padding. The chain runs log2(scale) of them: stage k takes the map from level k-1 to level k,
twice as fine, and the next stage takes its prediction. Thickness and bed go in and come out in
metres; they are normalised inside run_stage and nowhere else. Any height and width will do.
"""

import utils

with utils.quiet_import():
    import tensorflow as tf

BASES = ("none", "bicubic")  # what a stage's convolutions correct; see stage_base
CHANNELS = ("thk", "thk+topg")  # what they see; see stage_channels


def count_stages(scale):
    """Stages in the chain: log2(scale), that is 1, 2, 3, 4 for 2x, 4x, 8x, 16x."""
    return scale.bit_length() - 1


def build_layers(settings):
    """All layers of the chain, built once: {"stage1": {"conv1": layer, "conv2": ...}, ...}.

    settings: scale; channels and bed_levels (see stage_channels); filters, of every convolution but
    the last, which has 1; kernels, one more than filters, odd; weights, "normal" for N(0, 1e-3) as
    in the original, or "he" (He et al. 2015, arXiv:1502.01852) with the last convolution at 0, so
    that a stage starts as its base; seed. Biases start at 0. Raises InputError for other kernels.
    """
    if len(settings["kernels"]) != len(settings["filters"]) + 1:
        raise utils.InputError(f"kernels {settings['kernels']} for filters {settings['filters']}: "
                               "one kernel more is needed, for the last convolution")
    if any(kernel % 2 == 0 for kernel in settings["kernels"]):
        raise utils.InputError(f"kernels {settings['kernels']}: sides have to be odd, so that a "
                               "cell is at the centre")
    n_channels = 1 if settings["channels"] == "thk" else 1 + settings["bed_levels"]
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
                first = "zeros" if is_last else tf.keras.initializers.HeNormal(seed)
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


def stage_channels(thk, topg, topg_before, settings):
    """Input of a stage's convolutions: (patch, y, x, channel), without units.

    thk: thickness so far; topg, topg_before: bed at this level and the level before, all (patch, y,
    x) in m. channels "thk" takes thickness only; "thk+topg" also the bed at this level and, with
    bed_levels 2, what it has more than the level before (the original has 1: this level).
    """
    channels = [thk / settings["thk_norm_m"]]
    if settings["channels"] == "thk+topg":
        channels.append(topg / settings["topg_norm_m"])
        if settings["bed_levels"] == 2:
            # Steps between levels are small beside the bed's range; ten times larger train faster.
            channels.append(10 * (topg - topg_before) / settings["topg_norm_m"])
    return tf.stack(channels, axis=-1)


def stage_base(thk, settings):
    """What a stage's convolutions correct: (patch, y, x) m.

    "none": nothing, they make the whole map, as in the original. "bicubic": the map as it comes in,
    so that they learn the residual.
    """
    return thk if settings["base"] == "bicubic" else tf.zeros_like(thk)


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


def run_stage(convs, thk, topg, topg_before, settings):
    """One SRCNN: thickness at level k from thickness at level k-1, all (patch, y, x) in m.

    convs: the stage's entry of build_layers; topg, topg_before: bed at levels k and k-1 (None where
    settings["channels"] is "thk").
    """
    values = stage_channels(thk, topg, topg_before, settings)  # (patch, y, x, channel)
    *hidden, last = convs.values()
    for conv in hidden:
        values = conv(values)
    values = convolve_to_one(values, tf.convert_to_tensor(last.kernel)) + last.bias
    return stage_base(thk, settings) + settings["thk_norm_m"] * values[..., 0]


def run_chain(layers, thk, topg, settings):
    """Every stage's prediction: a list of (patch, y, x) thickness in m, the last the finest.

    thk: bicubic input, level 0, (patch, y, x) m; topg: bed (patch, level, y, x) m, or None. Each
    stage takes the prediction of the one before as data: gradients stay within a stage.
    """
    predictions = []
    for stage, convs in enumerate(layers.values(), 1):
        beds = (None, None) if topg is None else (topg[:, stage], topg[:, stage - 1])
        predictions.append(run_stage(convs, thk, *beds, settings))
        thk = tf.stop_gradient(predictions[-1])
    return predictions
