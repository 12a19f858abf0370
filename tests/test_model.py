"""The dict of layers, a stage, the chain: against hand values and an independent convolution."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf
from conftest import REPOSITORY, example_settings

import model
import utils


def settings(data=None, **changes):
    """Settings of a plain 9-1-5 chain at 8x on the bicubic base."""
    return example_settings(data=data, **{
        "scale": 8, "base": "bicubic", "consistency": False, "gradients": "stage",
        "correction_m": None, "filters": [64, 32], "kernels": [9, 1, 5]} | changes)


def fill(layers, seed=0, scale=0.05):
    """Give every layer random weights and biases."""
    rng = np.random.default_rng(seed)
    for weight in model.list_weights(layers):
        weight.assign(scale * rng.standard_normal(weight.shape))


def fields(n=2, levels=4, shape=(41, 41)):
    rng = np.random.default_rng(1)
    return (rng.uniform(0, 3000, (n, *shape)).astype(np.float32),
            rng.uniform(-1000, 1000, (n, levels, *shape)).astype(np.float32))


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("scale, stages", [(2, 1), (4, 2), (8, 3), (16, 4)])
def test_dict_of_layers_has_log2_scale_stages_of_9_1_5(scale, stages):
    layers = model.build_layers(settings(scale=scale))
    assert list(layers) == [f"stage{k}" for k in range(1, stages + 1)]
    for convs in layers.values():
        assert list(convs) == ["conv1", "conv2", "conv3"]
        assert [tuple(conv.kernel.shape) for conv in convs.values()] == [
            (9, 9, 3, 64), (1, 1, 64, 32), (5, 5, 32, 1)]
    n_weights = sum(int(np.prod(weight.shape)) for weight in model.list_weights(layers))
    assert n_weights == stages * (81 * 3 * 64 + 64 + 64 * 32 + 32 + 25 * 32 + 1)


@pytest.mark.parametrize("changes, n_channels", [
    ({"channels": "thk"}, 1), ({"bed_levels": 1}, 2), ({"bed_levels": 2}, 3)])
def test_input_channels(changes, n_channels):
    layers = model.build_layers(settings(**changes))
    assert layers["stage1"]["conv1"].kernel.shape[2] == n_channels


def test_first_weights_of_the_original():
    layers = model.build_layers(settings(weights="normal", bed_levels=1))
    kernel = layers["stage2"]["conv1"].kernel.numpy()  # 10368 draws of N(0, 1e-3)
    assert kernel.std() == pytest.approx(1e-3, rel=0.03)
    assert abs(kernel.mean()) < 5e-5
    assert not np.any(layers["stage2"]["conv1"].bias.numpy())


def test_first_weights_he():
    layers = model.build_layers(settings())
    assert layers["stage1"]["conv1"].kernel.numpy().std() == pytest.approx(np.sqrt(2 / 243),
                                                                           rel=0.03)
    assert not np.any(layers["stage1"]["conv3"].kernel.numpy())


def test_seed_decides_the_weights_and_every_layer_has_its_own():
    def kernels(seed):
        layers = model.build_layers(settings(seed=seed))
        return [convs["conv1"].kernel.numpy() for convs in layers.values()]
    for first, again in zip(kernels(0), kernels(0), strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(kernels(0)[0], kernels(1)[0])
    assert not np.array_equal(kernels(0)[0], kernels(0)[1])


# ---------------------------------------------------------------- one stage


@pytest.mark.parametrize("base, expected", [("none", 0), ("bicubic", 1)])
def test_base_by_hand(base, expected):
    """One 1 x 1 convolution that adds 0.25 x bed / bed norm + 0.01, on either base."""
    chosen = settings(base=base, filters=(), kernels=(1,), bed_levels=1)
    convs = model.build_layers(chosen)["stage1"]
    convs["conv1"].kernel.assign(np.reshape([0.0, 0.25], (1, 1, 2, 1)))
    convs["conv1"].bias.assign([0.01])
    thk, topg = np.full((1, 3, 3), 1500.0, "f"), np.full((1, 3, 3), -400.0, "f")
    found = model.run_stage(convs, thk, topg, topg, 2, "bicubic", chosen)
    np.testing.assert_allclose(found, expected * 1500 + 4000 * (0.25 * -400 / 2000 + 0.01),
                               rtol=1e-6)


def test_misfit_by_hand():
    """A base 80 m too high in one of 4 x 4 coarse cells of 2 x 2: found there, and half-way off."""
    thk, base = np.full((1, 8, 8), 500.0, "f"), np.full((1, 8, 8), 500.0, "f")
    base[0, 2:4, 4:6] += [[160, 0], [0, 160]]
    found = model.stage_misfit(thk, base, 2, "area")[0]
    # Linear between centres 2 cells apart: 1/4 and 3/4 of the way there on both axes.
    across = np.array([0, 0.25, 0.75, 0.75, 0.25, 0])
    np.testing.assert_allclose(found[0:6, 2:8], -80 * np.outer(across, across), atol=1e-4)
    assert not np.any(found[:, :2])


def test_misfit_is_the_last_channel_and_that_of_the_stage_s_own_level():
    """1 x 1 convolutions that pass the misfit on: the base is mended by it, stage after stage."""
    chosen = settings(scale=4, channels="thk+topg+misfit", filters=(), kernels=(1,), base="surface",
                      correction_m=300.0, data={"degrade": "area"})
    layers = model.build_layers(chosen)
    for convs in layers.values():
        convs["conv1"].kernel.assign(np.reshape([0.0, 0, 0, 1], (1, 1, 4, 1)))
    thk, topg = fields(n=1, levels=3, shape=(16, 24))
    before = thk
    for stage, (prediction, factor) in enumerate(
            zip(model.run_chain(layers, thk, topg, chosen), (4, 2), strict=True), 1):
        base = model.stage_base(before, topg[:, stage], topg[:, stage - 1], chosen)
        misfit = model.stage_misfit(before, base, factor, "area")
        assert np.abs(misfit).max() > 50
        np.testing.assert_allclose(prediction, base + misfit, atol=0.01)
        before = prediction


def test_untrained_default_is_the_base_itself():
    thk, topg = fields()
    for prediction in model.run_chain(model.build_layers(settings()), thk, topg, settings()):
        np.testing.assert_array_equal(prediction, thk)


@pytest.mark.parametrize("side", [1, 5])
def test_convolution_to_one_channel_is_conv2d_with_its_gradients(side):
    rng = np.random.default_rng(0)
    values = tf.constant(rng.standard_normal((2, 9, 12, 6)), tf.float64)
    kernel = tf.constant(rng.standard_normal((side, side, 6, 1)), tf.float64)
    weights = rng.standard_normal((2, 9, 12, 1))  # of each output, so that every gradient differs
    found = []
    for convolve in (lambda v, k: tf.nn.conv2d(v, k, 1, "SAME"), model.convolve_to_one):
        with tf.GradientTape() as tape:
            tape.watch([values, kernel])
            result = convolve(values, kernel)
            loss = tf.reduce_sum(result * weights)
        found.append([result, *tape.gradient(loss, [values, kernel])])
    for expected, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernels, message", [((9, 2, 5), "odd"), ((9, 5), "one kernel more")])
def test_kernels_that_will_not_do(kernels, message):
    with pytest.raises(utils.InputError, match=message):
        model.build_layers(settings(kernels=kernels))


def srcnn_by_scipy(convs, thk, topg, before):
    """A stage by scipy's correlation with zero padding: an independent SRCNN on one patch."""
    values = [thk / 4000, topg / 2000, 10 * (topg - before) / 2000]  # the norms of settings()
    for i, conv in enumerate(convs.values(), 1):
        kernel, bias = conv.kernel.numpy().astype(float), conv.bias.numpy()
        values = [sum(scipy.signal.correlate2d(value, kernel[:, :, c, f], mode="same")
                      for c, value in enumerate(values)) + bias[f] for f in range(kernel.shape[3])]
        if i < len(convs):
            values = [np.maximum(value, 0) for value in values]
    return thk + 4000 * values[0]


def test_chain_is_srcnn_after_srcnn_with_the_bed_of_each_level():
    chosen = settings(scale=4, filters=(5, 4), kernels=(9, 1, 5))
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields(levels=3, shape=(17, 13))
    found = model.run_chain(layers, thk, topg, chosen)
    assert [prediction.shape for prediction in found] == [(2, 17, 13)] * 2
    for patch in range(2):
        first = srcnn_by_scipy(layers["stage1"], thk[patch].astype(float), topg[patch, 1],
                               topg[patch, 0])
        second = srcnn_by_scipy(layers["stage2"], first, topg[patch, 2], topg[patch, 1])
        np.testing.assert_allclose(found[0][patch], first, rtol=1e-4, atol=0.05)
        np.testing.assert_allclose(found[1][patch], second, rtol=1e-4, atol=0.05)


# ---------------------------------------------------------------- the surface base

R = 917 / 1027.5  # of the densities of ice and sea water
# thk and bed before, finer bed, and the thickness that follows, all m
HAND = {
    "grounded inland": (1000, 500, 300, 1200),
    "grounded below sea level": (1000, -600, -700, 1100),
    "floating, the bed does not matter": (300, -800, -1500, 300),
    "grounded, afloat over a deeper bed": (1000, -890, -2000, 110 / (1 - R)),
    "floating, aground on a rise": (300, -800, -100, 300 * (1 - R) + 100),
    "ice-free land": (0, 200, 100, 0),
    "a mountain through the ice": (50, 200, 300, 0),
    "ocean": (0, -3000, -2000, 0),
    "overshoot of the spline in the ocean": (-20, -500, -400, 0),
}


@pytest.mark.parametrize("cell", HAND)
def test_surface_base_by_hand(cell):
    thk, before, topg, expected = (np.full((1, 1, 1), value, "f") for value in HAND[cell])
    found = model.stage_base(tf.constant(thk), topg, before, settings(base="surface"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(utils.surface_base(np.maximum(thk, 0), before, topg), expected,
                               rtol=1e-5, atol=1e-3)


def test_surface_base_is_that_of_utils():
    rng = np.random.default_rng(0)
    thk = np.maximum(rng.uniform(-1000, 3000, 4000), 0).astype("f")
    before, topg = rng.uniform(-3000, 2000, (2, 4000)).astype("f")
    usrf = np.where(thk > 0, utils.upper_surface(thk, before), 0)
    np.testing.assert_allclose(model.ice_surface(thk, before), usrf, atol=1e-3)
    np.testing.assert_allclose(model.ice_thickness(usrf, topg), utils.ice_thickness(usrf, topg),
                               rtol=1e-5, atol=0.01)
    found = model.stage_base(thk, topg, before, settings(base="surface"))
    np.testing.assert_allclose(found, utils.surface_base(thk, before, topg), rtol=1e-5, atol=0.01)


def test_surface_base_has_finite_gradients_at_zero_ice_and_at_the_flotation_line():
    # no ice; at the flotation line; afloat; on dry land, d thickness / d thk is 1
    thk = tf.constant([0.0, 500 / R, 300.0, 1000.0])
    before, topg = (np.array([-500, -500, -500, bed], "f") for bed in (500, 300))
    with tf.GradientTape() as tape:
        tape.watch(thk)
        total = tf.reduce_sum(model.stage_base(thk, topg, before, settings(base="surface")))
    slope = tape.gradient(total, thk).numpy()
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[2:], 1, rtol=1e-5)


# ---------------------------------------------------------------- coarse consistency


def consistent(degrade, scale=4, side=48):
    """A prediction made consistent with a coarse map, and what that was: thickness in m."""
    rng = np.random.default_rng(2)
    coarse = rng.uniform(0, 3000, (3, *2 * (utils.coarse_size(side, scale),)))
    coarse[:, :, 0] = 0  # open ocean
    thk0 = utils.enlarge_fields(coarse, (side, side), degrade).astype("f")
    thk = rng.uniform(-300, 3000, thk0.shape).astype("f")
    thk[1] = 0  # a prediction without ice
    found = model.make_consistent(tf.constant(thk), tf.constant(thk0), scale, degrade)
    return found.numpy(), thk, coarse


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_cell_means_are_kept_and_no_ice_is_negative(scale):
    found, thk, coarse = consistent("area", scale)
    assert found.min() >= 0
    means = found.reshape(3, 48 // scale, scale, 48 // scale, scale).mean(axis=(2, 4))
    np.testing.assert_allclose(means, coarse, atol=0.01)
    np.testing.assert_array_equal(found[:, :, :scale], 0)  # ocean stays ocean
    # where nothing was predicted the ice is spread evenly, elsewhere in proportion
    np.testing.assert_allclose(found[1], np.kron(coarse[1], np.ones((scale, scale))), atol=0.01)
    block = np.s_[0, :scale, scale:2 * scale]
    share = np.maximum(thk[block], 0)
    np.testing.assert_allclose(found[block], share * coarse[0, 0, 1] / share.mean(), rtol=1e-3)


def test_little_predicted_ice_is_scaled_tenfold_and_the_rest_spread():
    thk = np.zeros((1, 2, 2), "f")
    thk[0, 0, 0] = 4  # mean 1 where 100 is wanted: 10 x 4, and 90 everywhere
    found = model.make_consistent(tf.constant(thk), tf.fill((1, 2, 2), 100.0), 2, "area")
    np.testing.assert_allclose(found, [[[130, 90], [90, 90]]], rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_samples_are_kept(scale):
    found, _, coarse = consistent("bicubic", scale, side=41)
    assert found.min() >= 0
    samples = utils.reduce_fields(found, scale, "bicubic")
    if scale >= 8:  # the samples lie on cells
        np.testing.assert_allclose(samples, coarse, atol=0.02)
    else:  # between cells, so what was below 0 moves them: look where nothing was
        high = np.random.default_rng(0).uniform(5000, 6000, (1, 41, 41))
        given = utils.make_levels(high, scale, "bicubic")[:, 0]
        again = model.make_consistent(tf.constant(high[:, ::-1], tf.float32), given, scale,
                                      "bicubic")
        np.testing.assert_allclose(utils.reduce_fields(again, scale, "bicubic"),
                                   utils.reduce_fields(high, scale, "bicubic"), atol=0.05)


@pytest.mark.parametrize("degrade, side", [("bicubic", 41), ("area", 48)])
def test_a_consistent_map_is_left_as_it_is_and_gradients_are_finite(degrade, side):
    label = np.random.default_rng(0).uniform(100, 3000, (2, side, side)).astype("f")
    label[1] = 0
    level0 = tf.constant(utils.make_levels(label, 8, degrade)[:, 0])
    thk = tf.constant(label)
    with tf.GradientTape() as tape:
        tape.watch(thk)
        found = model.make_consistent(thk, level0, 8, degrade)
        total = tf.reduce_sum(found)
    np.testing.assert_allclose(found, label, atol=0.02)
    assert np.isfinite(tape.gradient(total, thk)).all()


def test_linear_weights_by_hand():
    """Between the centres 0.5 and 2.5 of two coarse cells, or samples at both ends; flat beyond."""
    for degrade, first in (("area", [1, 0.75, 0.25, 0]), ("bicubic", [1, 2 / 3, 1 / 3, 0])):
        weights = model.linear_weights(2, 4, degrade)
        np.testing.assert_allclose(weights, np.stack([first, 1 - np.array(first)], axis=1))
        np.testing.assert_array_equal(model.linear_weights(1, 3, degrade), np.ones((3, 1)))


def test_coarse_cells_have_to_be_whole_cells():
    with pytest.raises(utils.InputError, match="41 cells do not divide by 8"):
        model.consistency_weights(41, 8, "area")


def test_chain_is_consistent_at_its_end_when_asked():
    thk0 = np.abs(fields(n=1, shape=(48, 48))[0])
    topg = fields(n=1, shape=(48, 48))[1]
    found = {}
    for consistency in (False, True):
        chosen = settings(base="surface", consistency=consistency, data={"degrade": "area"})
        layers = model.build_layers(chosen)
        fill(layers, scale=0.02)
        found[consistency] = model.run_chain(layers, thk0, topg, chosen)
    for stage in (0, 1):  # the stages before are left alone
        np.testing.assert_array_equal(found[True][stage], found[False][stage])
    expected = model.make_consistent(found[False][2], thk0, 8, "area")
    np.testing.assert_allclose(found[True][2], expected, atol=0.01)


def test_a_whole_map_keeps_its_cell_means_whatever_the_run_was_trained_on():
    chosen = settings(scale=4, consistency=False, data={"degrade": "bicubic"})
    layers = model.build_layers(chosen)
    fill(layers, scale=0.02)
    coarse = np.random.default_rng(2).uniform(500, 3000, (2, 4, 6))
    thk0 = utils.enlarge_fields(coarse, (16, 24), "area").astype("f")
    topg = fields(levels=3, shape=(16, 24))[1]
    *_, last = model.compile_chain(layers, chosen, whole_map=True)(thk0, topg)
    np.testing.assert_allclose(utils.reduce_fields(last, 4, "area"), coarse, atol=0.01)
    *_, free = model.compile_chain(layers, chosen)(thk0, topg)
    np.testing.assert_allclose(last, model.make_consistent(free, thk0, 4, "area"), atol=0.01)
    assert np.abs(utils.reduce_fields(free, 4, "area") - coarse).max() > 10
    assert chosen["data"]["degrade"] == "bicubic"  # nothing is rewritten


def test_baselines_by_hand():
    """Ice of 400 m in one of two coarse cells; the finer bed is 100 m higher in half of it."""
    thk0 = np.array([[[400.0, 400, -20, 0], [400, 400, -20, 0]]], "f")
    before = np.full((1, 2, 4), -100.0, "f")
    topg = before + np.array([100, 0, 0, 0], "f")
    found = model.baselines(thk0, before, topg, 2, "area")
    assert list(found) == ["bicubic", "surface_base", "surface_base_consistent"]
    np.testing.assert_array_equal(found["bicubic"], thk0)
    np.testing.assert_allclose(found["surface_base"], [[[300, 400, 0, 0]] * 2])
    np.testing.assert_allclose(found["surface_base_consistent"], model.make_consistent(
        found["surface_base"], thk0, 2, "area"))
    assert found["surface_base_consistent"].mean() == pytest.approx(
        model.make_consistent(thk0, thk0, 2, "area").numpy().mean(), rel=1e-5)
    assert list(model.baselines(thk0, None, None, 2, "area")) == ["bicubic"]


# ---------------------------------------------------------------- the chain


def test_error_of_the_last_stage_trains_all_of_the_chain_when_asked():
    chosen = settings(scale=4, filters=(4,), kernels=(3, 3), gradients="chain", base="surface")
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields(levels=3)
    with tf.GradientTape() as tape:
        last = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1]))
    for gradient in tape.gradient(last, model.list_weights(layers)):
        assert np.any(gradient)


def test_gradients_stay_within_a_stage():
    chosen = settings(scale=4, filters=(4,), kernels=(3, 3))
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields(levels=3)
    with tf.GradientTape() as tape:
        last = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1]))
    gradients = tape.gradient(last, model.list_weights(layers))
    assert [gradient is None for gradient in gradients] == [True] * 4 + [False] * 4


def test_chain_without_a_base_learns_from_the_first_step_on():
    """A last convolution at 0 would make no ice at all, and consistency would cut its gradient."""
    chosen = settings(base="none", consistency=True, gradients="chain",
                      data={"degrade": "bicubic"})
    layers = model.build_layers(chosen)
    thk, topg = fields()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1] - 1000))
    weights = [conv.kernel for convs in layers.values() for conv in convs.values()]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, weights))


def test_thickness_alone_needs_no_bed():
    chosen = settings(channels="thk")
    layers = model.build_layers(chosen)
    fill(layers)
    predictions = model.run_chain(layers, fields()[0], None, chosen)
    assert len(predictions) == 3
    assert np.isfinite(predictions[-1]).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (64, 33)])
def test_any_height_and_width(shape):
    layers = model.build_layers(settings(scale=2))
    fill(layers)
    last = model.run_chain(layers, *fields(levels=2, shape=shape), settings(scale=2))[-1]
    assert last.shape == (2, *shape)


# ---------------------------------------------------------------- turns


def test_turns_are_the_eight_symmetries_of_the_square_and_go_back():
    square = np.arange(9.0).reshape(3, 3)
    expected = {each.tobytes() for quarter in range(4)
                for each in (np.rot90(square, quarter), np.rot90(square.T, quarter))}
    assert {np.array(model.turn(square, number)).tobytes() for number in range(8)} == expected
    np.testing.assert_array_equal(model.turn(square, 0), square)
    rectangles = tf.random.normal((2, 4, 5, 7))
    for number in range(8):
        there = model.turn(rectangles, number)
        assert there.shape[2:] == ((7, 5) if number >= 4 else (5, 7))
        np.testing.assert_array_equal(model.turn(there, number, back=True), rectangles)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_average_over_turns_is_the_same_from_every_side_and_consistent(degrade):
    """Single predictions of random layers change with the map's turn, their average does not."""
    chosen = settings(scale=4, base="surface", consistency=True, data={"degrade": degrade})
    layers = model.build_layers(chosen)
    fill(layers)
    _, topg = fields(levels=3, shape=(16, 24))
    coarse = np.random.default_rng(2).uniform(500, 3000, (2, 4, 6))
    thk0 = utils.enlarge_fields(coarse, (16, 24), degrade).astype("f")

    def chain(thk, topg):
        return model.run_chain(layers, thk, topg, chosen)

    found = model.predict(chain, thk0, topg, True)
    assert len(found) == 2
    for number in range(8):
        turned = model.predict(chain, model.turn(thk0, number), model.turn(topg, number), True)
        for there, here in zip(turned, found, strict=True):
            np.testing.assert_allclose(model.turn(there, number, back=True), here, atol=0.01)
    if degrade == "area":
        np.testing.assert_allclose(utils.reduce_fields(found[-1], 4, degrade), coarse, atol=0.01)

    single = chain(thk0, topg)[-1]
    assert np.abs(single - found[-1]).max() > 10
    alone = model.predict(chain, thk0, topg, False)[-1]
    np.testing.assert_array_equal(alone, single)


# ---------------------------------------------------------------- a trained run, the device


@pytest.fixture
def run_x4(folder):
    """The run `tiny` at 4x as train.py leaves it, random layers of epoch 7; settings and layers."""
    chosen = settings(scale=4, filters=[4], kernels=[3, 3])
    layers = model.build_layers(chosen)
    fill(layers)
    utils.write_json("checkpoints/tiny/settings.json", chosen)
    tf.train.CheckpointManager(tf.train.Checkpoint(layers=layers), "checkpoints/tiny/best",
                               max_to_keep=1).save(checkpoint_number=7)
    return chosen, layers


def test_a_run_is_read_as_it_was_written(run_x4):
    chosen, layers = run_x4
    assert model.read_settings("tiny") == chosen
    assert model.best_checkpoint("tiny")[1] == 7
    for weight, written in zip(model.list_weights(model.load_layers(chosen)),
                               model.list_weights(layers), strict=True):
        np.testing.assert_array_equal(weight, written)
    before = model.weights_sha256("tiny")
    fill(layers, seed=1)
    tf.train.Checkpoint(layers=layers).write(model.best_checkpoint("tiny")[0])
    assert model.weights_sha256("tiny") != before


def test_a_smaller_scale_is_made_by_the_last_stages(run_x4):
    chosen, layers = run_x4
    thk, topg = fields(levels=2, shape=(16, 24))
    for scale in (None, 4, 2):
        opened, found, chain = model.open_run("tiny", scale)
        assert opened == chosen  # of the run, whatever it is used for
        assert found == (scale or 4)
    last = {"stage2": layers["stage2"]}
    np.testing.assert_allclose(chain(thk, topg)[-1], model.run_chain(
        last, thk, topg, chosen, whole_map=True)[-1], rtol=1e-5, atol=0.01)
    with pytest.raises(utils.InputError, match="tiny was trained for 4x, not for 8x"):
        model.open_run("tiny", 8)


def test_runs_that_will_not_do_are_named(run_x4):
    with pytest.raises(utils.InputError, match="absent/settings.json: no such file; train"):
        model.read_settings("absent")
    with pytest.raises(utils.InputError, match="checkpoints/absent/best: no checkpoint; train"):
        model.best_checkpoint("absent")
    with pytest.raises(utils.InputError, match="not the layers that settings.json describes"):
        model.load_layers(run_x4[0] | {"filters": [5]})
    for key in ("channels", "data"):
        older = {name: value for name, value in run_x4[0].items() if name != key}
        utils.write_json("checkpoints/tiny/settings.json", older)
        with pytest.raises(utils.InputError, match=f"no {key} in it: trained by an older version"):
            model.open_run("tiny")


def test_tensorflow_greets_nobody():
    done = subprocess.run([sys.executable, "-c", "import model; print(model.tf.__name__)"],
                          cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tensorflow\n", "")


def test_messages_are_held_and_told_where_a_gpu_cannot_be_used(monkeypatch, capfd):
    monkeypatch.setattr(model, "held_messages", [])
    with pytest.raises(ZeroDivisionError), model.hold_messages():
        os.write(2, b"Could not load libcudart.so\n")  # as the C++ part does
        raise ZeroDivisionError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    for devices, said in (([], ""), ([Path("/dev/nvidia0")], (
            "note: TensorFlow cannot use the GPU of this machine:\n"
            "  Could not load libcudart.so\n"))):
        monkeypatch.setattr(Path, "glob", lambda self, pattern, found=devices: iter(found))
        assert model.set_up_device() == "CPU"
        assert capfd.readouterr().out == said
