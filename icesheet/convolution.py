"""The convolutions of a stage: which are valid, and the last one, made fast on a CPU."""

from icesheet.command_line import InputError
from icesheet.device import tf


def check_architecture(settings):
    """Raise InputError for convolutions that no stage can have, and consistency that none can."""
    n_filters, kernels = len(settings["filters"]), settings["kernels"]
    if len(kernels) != n_filters + 1:
        raise InputError(f"settings: {len(kernels)} kernels for {n_filters} filters; expected one "
                         "kernel more than filters (the last convolution has 1 output channel)")
    if any(kernel % 2 == 0 for kernel in kernels):
        raise InputError(f"settings: kernels {kernels}; expected odd sides, so that a cell is at "
                         "the centre")
    if settings["grid"] == "fine" and settings["consistency"]:
        raise InputError("consistency cannot be enforced with grid 'fine', which keeps no coarse "
                         "cells; add --no-consistency or use grid 'level'")


@tf.custom_gradient
def convolve_to_single_channel(values, kernel):
    """Convolve (patch, y, x, channel) to (patch, y, x, 1), with a kernel of odd sides.

    Same as tf.nn.conv2d(values, kernel, 1, "SAME"), which takes a quarter of a training step on a
    CPU; a depthwise convolution and a sum are faster.
    """
    by_channel = tf.nn.depthwise_conv2d(values, kernel, (1, 1, 1, 1), "SAME")

    def gradient(upstream):
        # The gradients are those of the mirrored convolution, from one channel to many.
        mirrored = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
        kernel_gradient = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream, filter_sizes=tf.shape(mirrored), out_backprop=values,
            strides=[1, 1, 1, 1], padding="SAME")
        return (tf.nn.conv2d(upstream, mirrored, 1, "SAME"),
                tf.transpose(kernel_gradient, (0, 1, 3, 2))[::-1, ::-1])

    return tf.reduce_sum(by_channel, axis=-1, keepdims=True), gradient
