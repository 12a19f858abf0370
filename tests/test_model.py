"""The dict of layers, a stage, the chain: against hand values and an independent convolution."""

import numpy as np
import pytest
import scipy.signal
from conftest import example_settings

import model
import utils
from icesheet.command_line import InputError
from icesheet.device import tf
from icesheet.patches import make_chain_inputs


SURFACE = "surface-minus-bed"


def settings(data=None, **changes):
    """Settings of a plain 9-1-5 chain at 8x with a bicubic first guess, all on the fine cells."""
    return example_settings(data=data, **{
        "scale": 8, "grid": "fine", "padding": "CONSTANT", "first_guess": "bicubic",
        "consistency": False, "gradients": "stage", "output_scale_m": None,
        "filters": [64, 32], "kernels": [9, 1, 5]}
        | changes)


def fill(layers, seed=0, scale=0.05):
    """Give every layer random weights and biases."""
    rng = np.random.default_rng(seed)
    for weight in model.list_weights(layers):
        weight.assign(scale * rng.standard_normal(weight.shape))


def fields(n=2, levels=4, shape=(41, 41)):
    """Thickness at level 0 and bed at every level, all of one shape."""
    rng = np.random.default_rng(1)
    return (rng.uniform(0, 3000, (n, *shape)).astype(np.float32),
            list(rng.uniform(-1000, 1000, (levels, n, *shape)).astype(np.float32)))


def own_fields(scale, degrade, shape, n=1):
    """Thickness and bed of a made-up map at every level, each on its own cells: two lists."""
    thk, topg = fields(n, 1, shape)
    return [utils.build_levels(field, scale, degrade, "level") for field in (thk, topg[0])]


def fields_of(grid, scale=4, degrade="area", shape=(16, 24), n=2):
    """Level 0 and the list of beds that the chain takes, for either grid."""
    if grid == "fine":
        return fields(n, model.count_stages(scale) + 1, shape)
    thk, topg = own_fields(scale, degrade, shape, n)
    return thk[0], topg


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
    ({"channels": "thk"}, 1), ({"bed_levels": 1}, 2), ({"bed_levels": 2}, 3),
    ({"channels": "normalised"}, 8)])
def test_input_channels(changes, n_channels):
    layers = model.build_layers(settings(**changes))
    assert layers["stage1"]["conv1"].kernel.shape[2] == n_channels


def test_first_weights_of_the_original():
    layers = model.build_layers(settings(initializer="normal", bed_levels=1))
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
def test_first_guess_by_hand(base, expected):
    """One 1 x 1 convolution that adds 0.25 x bed / bed norm + 0.01, on either first guess."""
    chosen = settings(first_guess=base, filters=(), kernels=(1,), bed_levels=1)
    convs = model.build_layers(chosen)["stage1"]
    convs["conv1"].kernel.assign(np.reshape([0.0, 0.25], (1, 1, 2, 1)))
    convs["conv1"].bias.assign([0.01])
    thk, topg = np.full((1, 3, 3), 1500.0, "f"), np.full((1, 3, 3), -400.0, "f")
    found = model.run_stage(convs, thk, topg, topg, "bicubic", chosen)
    np.testing.assert_allclose(found, expected * 1500 + 4000 * (0.25 * -400 / 2000 + 0.01),
                               rtol=1e-6)


def test_coarse_residual_by_hand():
    """A first guess 80 m too high in one of 4 x 4 coarse cells: so there, and half-way off."""
    before, guess = np.full((1, 4, 4), 500.0, "f"), np.full((1, 8, 8), 500.0, "f")
    guess[0, 2:4, 4:6] += [[160, 0], [0, 160]]
    found = model.compute_coarse_residual(before, guess, "area")[0]
    # Linear between centres 2 cells apart: 1/4 and 3/4 of the way there on both axes.
    across = np.array([0, 0.25, 0.75, 0.75, 0.25, 0])
    np.testing.assert_allclose(found[0:6, 2:8], -80 * np.outer(across, across), atol=1e-4)
    assert not np.any(found[:, :2])


def test_padding_by_hand():
    """A 3 x 3 kernel takes one cell off each side: zeros around, or the cells at the edge again."""
    (conv,) = model.build_layers(settings(scale=2, channels="thk", filters=(), kernels=(3,)))[
        "stage1"].values()
    values = np.reshape([[1.0, 2, 3], [4, 5, 6]], (1, 2, 3, 1))
    for padding, expected in (
            ("CONSTANT", [[0, 0, 0, 0, 0], [0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 0, 0, 0, 0]]),
            ("SYMMETRIC", [[1, 1, 2, 3, 3], [1, 1, 2, 3, 3], [4, 4, 5, 6, 6], [4, 4, 5, 6, 6]])):
        found = model.pad_for_convolution(values, conv, {"padding": padding})
        np.testing.assert_array_equal(found[0, :, :, 0], expected)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_untrained_chain_returns_its_first_guess(degrade):
    thk, topg = fields()
    for prediction in model.run_chain(model.build_layers(settings()), thk, topg, settings()):
        np.testing.assert_array_equal(prediction, thk)
    own = settings(grid="level", data={"degrade": degrade})
    thk, topg = own_fields(8, degrade, (48, 32))
    before = thk[0][0]
    for prediction in model.run_chain(model.build_layers(own), thk[0], topg, own):
        along_y, along_x = (utils.catmull_rom_matrix(n, 2 * n, degrade) for n in before.shape)
        before = along_y @ before @ along_x.T
        np.testing.assert_allclose(prediction[0], before, atol=0.01)


@pytest.mark.parametrize("side", [1, 5])
def test_convolution_to_one_channel_is_conv2d_with_its_gradients(side):
    rng = np.random.default_rng(0)
    values = tf.constant(rng.standard_normal((2, 9, 12, 6)), tf.float64)
    kernel = tf.constant(rng.standard_normal((side, side, 6, 1)), tf.float64)
    weights = rng.standard_normal((2, 9, 12, 1))  # of each output, so that every gradient differs
    found = []
    for convolve in (lambda v, k: tf.nn.conv2d(v, k, 1, "SAME"), model.convolve_to_single_channel):
        with tf.GradientTape() as tape:
            tape.watch([values, kernel])
            result = convolve(values, kernel)
            loss = tf.reduce_sum(result * weights)
        found.append([result, *tape.gradient(loss, [values, kernel])])
    for expected, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernels, message", [((9, 2, 5), "odd"), ((9, 5), "one kernel more")])
def test_invalid_kernels_are_rejected(kernels, message):
    with pytest.raises(InputError, match=message):
        model.build_layers(settings(kernels=kernels))


def test_consistency_is_refused_where_there_are_no_coarse_cells():
    with pytest.raises(InputError, match="keeps no coarse cells"):
        model.build_layers(settings(grid="fine", consistency=True))


def test_flops_of_a_patch_by_hand():
    """Two operations a weight and cell: of 20 x 20 and 41 x 41 cells, or twice 41 x 41."""
    chosen = settings(scale=4, channels="thk", filters=[4], kernels=[3, 1])  # 9 x 4 + 4 weights
    assert model.count_flops(chosen, 41) == 2 * 40 * 2 * 1681
    assert model.count_flops(chosen | {"grid": "level"}, 41) == 2 * 40 * (400 + 1681)


def srcnn_by_scipy(convs, thk, topg, before, padding):
    """A stage by scipy's correlation, on the cells of its level: an independent SRCNN."""
    values = [thk / 4000, topg / 2000, 10 * (topg - before) / 2000]  # the norms of settings()
    boundary = {"CONSTANT": "fill", "SYMMETRIC": "symm"}[padding]
    for i, conv in enumerate(convs.values(), 1):
        kernel, bias = conv.kernel.numpy().astype(float), conv.bias.numpy()
        values = [sum(scipy.signal.correlate2d(value, kernel[:, :, c, f], "same", boundary)
                      for c, value in enumerate(values)) + bias[f] for f in range(kernel.shape[3])]
        if i < len(convs):
            values = [np.maximum(value, 0) for value in values]
    return thk + 4000 * values[0]


@pytest.mark.parametrize("padding", ["CONSTANT", "SYMMETRIC"])
def test_chain_is_srcnn_after_srcnn_with_the_bed_of_each_level(padding):
    """All levels on the fine cells: the original, whatever the grid is called."""
    chosen = settings(scale=4, filters=(5, 4), kernels=(9, 1, 5), padding=padding)
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields(levels=3, shape=(17, 13))
    found = model.run_chain(layers, thk, topg, chosen)
    assert [prediction.shape for prediction in found] == [(2, 17, 13)] * 2
    for patch in range(2):
        first = srcnn_by_scipy(layers["stage1"], thk[patch].astype(float), topg[1][patch],
                               topg[0][patch], padding)
        second = srcnn_by_scipy(layers["stage2"], first, topg[2][patch], topg[1][patch], padding)
        np.testing.assert_allclose(found[0][patch], first, rtol=1e-4, atol=0.05)
        np.testing.assert_allclose(found[1][patch], second, rtol=1e-4, atol=0.05)
    for degrade in ("bicubic", "area"):
        own = settings(scale=4, filters=(5, 4), kernels=(9, 1, 5), padding=padding, grid="level",
                       data={"degrade": degrade})
        for one, other in zip(model.run_chain(layers, thk, topg, own), found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_chain_on_level_grids_is_srcnn_on_the_cells_of_each_level(degrade):
    chosen = settings(scale=4, filters=(5, 4), kernels=(3, 1, 5), padding="SYMMETRIC", grid="level",
                      data={"degrade": degrade})
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = own_fields(4, degrade, (20, 12))
    before = thk[0][0].astype(float)
    for k, prediction in enumerate(model.run_chain(layers, thk[0], topg, chosen), 1):
        assert prediction.shape == (1, 5 * 2**k, 3 * 2**k)
        along_y, along_x = (utils.catmull_rom_matrix(n, 2 * n, degrade) for n in before.shape)
        before = srcnn_by_scipy(
            layers[f"stage{k}"], along_y @ before @ along_x.T, topg[k][0],
            along_y @ topg[k - 1][0].astype(float) @ along_x.T, "SYMMETRIC")
        np.testing.assert_allclose(prediction[0], before, rtol=1e-4, atol=0.05)


# ---------------------------------------------------------------- normalised channels


def squash(value):
    return value / np.sqrt(1 + value**2)


def test_normalised_channels_by_hand():
    """1000 m of ice on a bed of -100 m; -200 m before; first guess 950 m, residual 60 m."""
    thk, topg, before, guess, residual = (np.full((1, 7, 6), value, "f") for value in (
        1000, -100, -200, 950, 60))
    found, unit = model.make_normalised_channels(tf.constant(thk), topg, before, guess, residual)
    u = np.sqrt(60**2 + (100 / 5) ** 2 + 1)
    np.testing.assert_allclose(unit, u, rtol=1e-5)
    expected = squash(np.array([60 / 3, 100 / 5, 1000 / 10, 950 / 10, -50 / 3,
                                (917 / 1027.5 * 950 - 100) / 5, 0, 0]) / u)
    np.testing.assert_allclose(found[0], expected * np.ones((7, 6, 1)), rtol=1e-4, atol=1e-5)

    # One cell of bed 250 m higher, then of ice: against the mean of 5 x 5 cells around.
    for change, field in ((7, topg), (6, thk)):
        field[0, 3, 3] += 250
        found, unit = model.make_normalised_channels(tf.constant(thk), topg, before, guess,
                                                     residual)
        field[0, 3, 3] -= 250
        mean_square = 60**2 + (100**2 if change == 6 else (24 * 100**2 + 350**2) / 25) / 25
        assert float(unit[0, 3, 3]) == pytest.approx(np.sqrt(mean_square + 1), rel=1e-5)
        assert float(found[0, 3, 3, change]) == pytest.approx(
            squash(240 / 5 / np.sqrt(mean_square + 1)), rel=1e-4)
        assert float(found[0, 2, 2, change]) == pytest.approx(
            squash(-10 / 5 / np.sqrt(mean_square + 1)), rel=1e-3)


def test_stage_receives_the_coarse_residual_of_its_own_level():
    """1 x 1 convolutions that pass the residual on: it corrects the first guess of each stage."""
    chosen = settings(scale=4, channels="normalised", filters=(), kernels=(1,), first_guess=SURFACE,
                      grid="level", data={"degrade": "area"})
    layers = model.build_layers(chosen)
    for convs in layers.values():
        convs["conv1"].kernel.assign(np.reshape([3.0, *7 * [0]], (1, 1, 8, 1)))
    thk, topg = own_fields(4, "area", (16, 24))
    before = thk[0]
    for stage, prediction in enumerate(model.run_chain(layers, before, topg, chosen), 1):
        thk_before, topg_before = (
            model.regrid_level(field, prediction.shape[1:], utils.catmull_rom_matrix, "area")
            for field in (before, topg[stage - 1]))
        guess = model.compute_first_guess(thk_before, topg[stage], topg_before, chosen)
        residual = model.compute_coarse_residual(before, guess, "area")
        assert np.abs(residual).max() > 20
        unit = model.make_normalised_channels(thk_before, topg[stage], topg_before, guess,
                                              residual)[1]
        np.testing.assert_allclose(
            prediction, guess + residual / np.sqrt(1 + (residual / (3 * unit)) ** 2), atol=0.01)
        before = prediction


@pytest.mark.parametrize("consistency", [False, True])
def test_normalised_channels_correct_twice_as_much_where_all_is_twice_as_high(consistency):
    """Heights of kilometres: there is far more to correct than 1 m."""
    chosen = settings(scale=4, channels="normalised", filters=(8, 8), kernels=(3, 3, 3),
                      grid="level", first_guess=SURFACE, consistency=consistency,
                      data={"degrade": "area"})
    layers = model.build_layers(chosen)
    thk, topg = own_fields(4, "area", (16, 24))
    guess = model.run_chain(layers, thk[0], topg, chosen)  # untrained
    fill(layers, scale=0.3)
    one, two = (model.run_chain(layers, size * thk[0], [size * bed for bed in topg], chosen)
                for size in (1, 2))
    for single, double, untrained in zip(one, two, guess, strict=True):
        assert np.abs(single - untrained).max() > 30
        np.testing.assert_allclose(double, 2 * single, rtol=1e-3, atol=1)


def test_normalised_channels_leave_alone_what_the_formula_has_right():
    """No coarse residual, and a bed without detail: even random layers hardly change the ice."""
    chosen = settings(scale=2, channels="normalised", grid="level", first_guess=SURFACE,
                      data={"degrade": "area"})
    layers = model.build_layers(chosen)
    fill(layers, scale=0.01)
    thk, topg = np.full((1, 6, 6), 900, "f"), [np.full((1, n, n), 100, "f") for n in (6, 12)]
    alone = np.abs(model.run_chain(layers, thk, topg, chosen)[-1] - 900)
    assert alone.max() < 1
    topg[1] += 200 * np.tile([[1, -1], [-1, 1]], (6, 6)).astype("f")  # detail: as much as 40 m
    usrf = np.abs(model.run_chain(layers, thk, topg, chosen)[-1] + topg[1] - 1000)
    assert usrf.mean() > 10 * alone.mean()


# ---------------------------------------------------------------- surface minus bed

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
def test_surface_minus_bed_by_hand(cell):
    thk, before, topg, expected = (np.full((1, 1, 1), value, "f") for value in HAND[cell])
    found = model.compute_first_guess(tf.constant(thk), topg, before, settings(first_guess=SURFACE))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(utils.surface_minus_bed(np.maximum(thk, 0), before, topg), expected,
                               rtol=1e-5, atol=1e-3)


def test_surface_minus_bed_is_that_of_utils():
    rng = np.random.default_rng(0)
    thk = np.maximum(rng.uniform(-1000, 3000, 4000), 0).astype("f")
    before, topg = rng.uniform(-3000, 2000, (2, 4000)).astype("f")
    usrf = np.where(thk > 0, utils.surface_from_thickness(thk, before), 0)
    np.testing.assert_allclose(model.surface_from_thickness(thk, before), usrf, atol=1e-3)
    np.testing.assert_allclose(model.thickness_from_surface(usrf, topg),
                               utils.thickness_from_surface(usrf, topg), rtol=1e-5, atol=0.01)
    found = model.compute_first_guess(thk, topg, before, settings(first_guess=SURFACE))
    np.testing.assert_allclose(found, utils.surface_minus_bed(thk, before, topg), rtol=1e-5,
                               atol=0.01)


def test_surface_minus_bed_has_finite_gradients_at_zero_ice_and_at_the_flotation_line():
    # no ice; at the flotation line; afloat; on dry land, d thickness / d thk is 1
    thk = tf.constant([0.0, 500 / R, 300.0, 1000.0])
    before, topg = (np.array([-500, -500, -500, bed], "f") for bed in (500, 300))
    with tf.GradientTape() as tape:
        tape.watch(thk)
        total = tf.reduce_sum(model.compute_first_guess(thk, topg, before, {
            "first_guess": SURFACE}))
    slope = tape.gradient(total, thk).numpy()
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[2:], 1, rtol=1e-5)


# ---------------------------------------------------------------- consistency


def consistent(degrade, scale=4, side=48):
    """A prediction made consistent with a coarse map, and what that was: thickness in m."""
    rng = np.random.default_rng(2)
    coarse = rng.uniform(0, 3000, (3, *2 * (utils.coarse_size(side, scale),)))
    coarse[:, :, 0] = 0  # open ocean
    thk = rng.uniform(-300, 3000, (3, side, side)).astype("f")
    thk[1] = 0  # a prediction without ice
    found = model.enforce_consistency(tf.constant(thk), tf.constant(coarse, tf.float32), degrade)
    return found.numpy(), thk, coarse


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_cell_means_are_kept_and_no_ice_is_negative(scale):
    found, thk, coarse = consistent("area", scale)
    assert found.min() >= 0
    means = found.reshape(3, 48 // scale, scale, 48 // scale, scale).mean(axis=(2, 4))
    np.testing.assert_allclose(means, coarse, atol=0.01)
    np.testing.assert_array_equal(found[:, :, :scale], 0)  # ocean stays ocean
    # where ice was predicted it stays in proportion
    block = np.s_[0, :scale, scale:2 * scale]
    share = np.maximum(thk[block], 0)
    np.testing.assert_allclose(found[block], share * coarse[0, 0, 1] / share.mean(), rtol=1e-3)
    # where none was it goes to the side with more ice: linearly between the centres, less 0.9
    centres = (np.arange(48 // scale) + 0.5) * scale - 0.5
    along = np.array([np.interp(np.arange(48), centres, row) for row in coarse[1]])
    linear = np.array([np.interp(np.arange(48), centres, column) for column in along.T]).T
    own = np.kron(coarse[1], np.ones((scale, scale)))
    side = np.maximum(linear - 0.9 * own, 0) + 1e-3 * own + 1e-9
    mean = side.reshape(48 // scale, scale, 48 // scale, scale).mean(axis=(1, 3))
    np.testing.assert_allclose(
        found[1], own * side / np.kron(mean, np.ones((scale, scale))), rtol=1e-3, atol=0.01)


def test_little_predicted_ice_is_scaled_tenfold_and_the_rest_spread():
    thk = np.zeros((1, 2, 2), "f")
    thk[0, 0, 0] = 4  # mean 1 where 100 is wanted: 10 x 4, and 90 everywhere
    found = model.enforce_consistency(tf.constant(thk), tf.fill((1, 1, 1), 100.0), "area")
    np.testing.assert_allclose(found, [[[130, 90], [90, 90]]], rtol=1e-5)


@pytest.mark.parametrize("coarse, sides", [
    # Between the centres of 0, 100 and 300: 25, 75, 150, 250, and 300 at the end. Above 0.9 of
    # their own cell are 150 by 60 and 300 by 30; a thousandth of the cell is for all.
    ([0, 100, 300], [(0, 0), (0.1, 60.1), (0.3, 30.3)]),
    ([300, 100, 0], [(30.3, 0.3), (60.1, 0.1), (0, 0)]),
    ([0, 100, 0], [(0, 0), (0.1, 0.1), (0, 0)]),          # no such side: evenly
    ([100, 100, 100], [(1, 1), (1, 1), (1, 1)])])
def test_missing_ice_goes_to_the_side_with_more_ice(coarse, sides):
    expected = [mean * 2 * side / max(sum(pair), 1e-9)
                for mean, pair in zip(coarse, sides, strict=True) for side in pair]
    nothing = np.zeros((1, 2, 6), "f")
    found = model.enforce_consistency(tf.constant(nothing), np.float32([[coarse]]), "area").numpy()
    np.testing.assert_allclose(found, [[expected] * 2], rtol=1e-3, atol=1e-4)
    found = model.enforce_consistency(  # and so across
        tf.constant(nothing.swapaxes(1, 2)), np.float32([[[mean] for mean in coarse]]), "area")
    np.testing.assert_allclose(found, [np.transpose([expected] * 2)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_samples_are_kept(scale):
    found, _, coarse = consistent("bicubic", scale, side=41)
    assert found.min() >= 0
    samples = utils.coarsen_fields(found, scale, "bicubic")
    if scale >= 8:  # the samples lie on cells
        np.testing.assert_allclose(samples, coarse, atol=0.02)
    else:  # between cells, so what was below 0 moves them: look where nothing was
        high = np.random.default_rng(0).uniform(5000, 6000, (1, 41, 41))
        given = utils.build_levels(high, scale, "bicubic", "level")[0]
        again = model.enforce_consistency(tf.constant(high[:, ::-1], tf.float32), given, "bicubic")
        np.testing.assert_allclose(utils.coarsen_fields(again, scale, "bicubic"),
                                   utils.coarsen_fields(high, scale, "bicubic"), atol=0.05)


@pytest.mark.parametrize("degrade, side", [("bicubic", 41), ("area", 48)])
def test_a_consistent_map_is_left_as_it_is_and_gradients_are_finite(degrade, side):
    label = np.random.default_rng(0).uniform(100, 3000, (2, side, side)).astype("f")
    label[1] = 0
    level0 = tf.constant(utils.build_levels(label, 8, degrade, "level")[0])
    thk = tf.constant(label)
    with tf.GradientTape() as tape:
        tape.watch(thk)
        found = model.enforce_consistency(thk, level0, degrade)
        total = tf.reduce_sum(found)
    np.testing.assert_allclose(found, label, atol=0.02)
    assert np.isfinite(tape.gradient(total, thk)).all()


def test_linear_matrix_by_hand():
    """Between the centres 0.5 and 2.5 of two coarse cells, or samples at both ends; flat beyond."""
    for degrade, first in (("area", [1, 0.75, 0.25, 0]), ("bicubic", [1, 2 / 3, 1 / 3, 0])):
        weights = utils.linear_matrix(2, 4, degrade)
        np.testing.assert_allclose(weights, np.stack([first, 1 - np.array(first)], axis=1))
        np.testing.assert_array_equal(utils.linear_matrix(1, 3, degrade), np.ones((3, 1)))


def test_catmull_rom_matrix_keeps_ramps_and_reaches_two_coarse_cells():
    weights = utils.catmull_rom_matrix(10, 20, "area")
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights @ np.arange(10), (np.arange(20) + 0.5) / 2 - 0.5, atol=1e-9)
    for fine, row in enumerate(weights):
        assert np.abs(np.flatnonzero(np.abs(row) > 1e-12) - fine // 2).max() <= 2
    # Catmull-Rom a quarter of the way from one centre to the next
    np.testing.assert_allclose(weights[9], np.array([*3 * [0], -9, 111, 29, -3, *3 * [0]]) / 128,
                               atol=1e-12)
    np.testing.assert_allclose(weights[10], weights[9][::-1], atol=1e-12)
    for size, coarse, degrade in ((12, 6, "bicubic"), (3, 1, "area")):
        np.testing.assert_array_equal(utils.catmull_rom_matrix(coarse, size, degrade),
                                      utils.upsampling_matrix(coarse, size, degrade))


@pytest.mark.parametrize("degrade, size, coarse", [("area", 12, 3), ("bicubic", 41, 5)])
def test_prolongation_matrix_gives_the_coarse_values_back(degrade, size, coarse):
    spread = model.prolongation_matrix(coarse, size, degrade)
    np.testing.assert_allclose(utils.coarsening_matrix(size, coarse, degrade) @ spread,
                               np.eye(coarse), atol=1e-9)
    if degrade == "area":
        np.testing.assert_array_equal(spread, np.kron(np.eye(coarse), np.ones((4, 1))))


def test_fields_are_brought_along_both_axes_and_left_alone_on_the_same_cells():
    field = tf.constant(np.random.default_rng(0).standard_normal((2, 4, 6)), tf.float32)
    found = model.regrid_level(field, (8, 3), utils.coarsening_matrix, "area")
    expected = np.repeat(field.numpy().reshape(2, 4, 3, 2).mean(axis=3), 2, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    again = model.regrid_level(field, (4, 6), lambda *args: pytest.fail("the same cells"), "area")
    np.testing.assert_array_equal(again, field)


def test_coarse_cells_have_to_be_whole_cells():
    with pytest.raises(InputError, match="41 cells do not divide into 5"):
        model.prolongation_matrix(5, 41, "area")


@pytest.mark.parametrize("scale", [2, 4, 8, 16])
def test_every_stage_gives_the_means_of_the_level_before_back(scale):
    chosen = settings(scale=scale, first_guess=SURFACE, consistency=True, grid="level",
                      output_scale_m=300.0, data={"degrade": "area"})
    layers = model.build_layers(chosen)
    fill(layers, scale=0.1)
    thk, topg = own_fields(scale, "area", (48, 64), n=2)
    thk[0][:, :2] = 0  # open ocean
    before = thk[0]
    for prediction, label in zip(model.run_chain(layers, thk[0], topg, chosen), thk[1:],
                                 strict=True):
        assert prediction.shape == label.shape
        assert np.min(prediction) >= 0
        for coarser in (before, thk[0]):
            times = prediction.shape[1] // coarser.shape[1]
            np.testing.assert_allclose(
                utils.coarsen_fields(prediction, times, "area"), coarser, atol=0.01)
        np.testing.assert_array_equal(prediction[:, :2 * times], 0)
        before = prediction.numpy()
    flat = model.regrid_level(thk[0], (48, 64), model.prolongation_matrix, "area")
    assert np.abs(before - flat).max() > 100


def test_every_stage_gives_the_samples_of_level_0_back():
    """High enough that nothing falls below 0, where samples would not be kept quite."""
    chosen = settings(scale=8, consistency=True, grid="level", output_scale_m=300.0)
    layers = model.build_layers(chosen)
    fill(layers)
    high = np.random.default_rng(0).uniform(5000, 6000, (2, 41, 41))
    thk, topg = utils.build_levels(high, 8, "bicubic", "level"), fields_of("level", 8, "bicubic",
                                                                        (41, 41))[1]
    free = model.run_chain(layers, thk[0], topg, chosen | {"consistency": False})
    for stage, prediction in enumerate(model.run_chain(layers, thk[0], topg, chosen)):
        assert np.min(prediction) > 0
        reduce = utils.coarsening_matrix(prediction.shape[1], 5, "bicubic")
        np.testing.assert_allclose(reduce @ prediction.numpy() @ reduce.T, thk[0], atol=0.05)
        assert np.abs(reduce @ free[stage].numpy() @ reduce.T - thk[0]).max() > 10


def test_a_whole_map_keeps_its_cell_means_whatever_the_run_was_trained_on():
    chosen = settings(scale=4, grid="level", consistency=False, data={"degrade": "bicubic"})
    layers = model.build_layers(chosen)
    fill(layers, scale=0.02)
    coarse = np.random.default_rng(2).uniform(500, 3000, (2, 4, 6)).astype("f")
    topg = own_fields(4, "area", (16, 24), n=2)[1]
    *_, last = model.compile_chain(layers, chosen, whole_map=True)(coarse, topg)
    np.testing.assert_allclose(utils.coarsen_fields(last, 4, "area"), coarse, atol=0.01)
    thk = coarse
    for convs, before, here in zip(layers.values(), topg[:-1], topg[1:], strict=True):
        free = model.run_stage(convs, thk, before, here, "area", chosen)
        assert np.abs(utils.coarsen_fields(free, 2, "area") - thk).max() > 10
        thk = model.enforce_consistency(free, thk, "area").numpy()
    np.testing.assert_allclose(last, thk, atol=0.02)
    *_, patch = model.compile_chain(layers, chosen)(coarse, topg)
    assert np.abs(utils.coarsen_fields(patch, 4, "area") - coarse).max() > 10
    assert chosen["data"]["degrade"] == "bicubic"  # nothing is rewritten


def test_baselines_by_hand():
    """Ice of 400 m in one of two coarse cells; the finer bed is 100 m higher in half of it."""
    thk0 = np.array([[[400.0, 400, -20, 0], [400, 400, -20, 0]]], "f")
    before = np.full((1, 2, 4), -100.0, "f")
    topg = before + np.array([100, 0, 0, 0], "f")
    found = model.compute_baselines(thk0, np.array([[[400.0, 0]]]), before, topg, "area")
    assert list(found) == ["bicubic", "surface_minus_bed", "surface_minus_bed_consistent"]
    np.testing.assert_array_equal(found["bicubic"], thk0)
    np.testing.assert_allclose(found["surface_minus_bed"], [[[300, 400, 0, 0]] * 2])
    np.testing.assert_allclose(found["surface_minus_bed_consistent"],  # 350 m on the average
                               [[[300 * 400 / 350, 400 * 400 / 350, 0, 0]] * 2], rtol=1e-5)
    assert list(model.compute_baselines(thk0, found["bicubic"], None, None, "area")) == ["bicubic"]


# ---------------------------------------------------------------- thin ice


@pytest.fixture
def thin_ice_of_20_m(monkeypatch):
    """Limits for hand values: 20 m where a coarse cell is two wide, a tenth of the thickest."""
    monkeypatch.setattr(model, "THIN_ICE_M", {"area": 10.0, "bicubic": 10.0})
    monkeypatch.setattr(model, "THIN_ICE_MAX_SHARE", 0.1)


def test_thin_ice_gives_way_to_the_ice_beside_it_and_ice_thin_all_over_stays(thin_ice_of_20_m):
    thk = np.array([[3, 2, 300, 500], [1, 400, 30, 5], [2, 2, 0, 0], [2, 2, 0, 0]], "f")[None]
    coarse = thk.reshape(1, 2, 2, 2, 2).mean(axis=(2, 4))
    found = model.remove_thin_ice(tf.constant(thk), tf.constant(coarse), "area")
    np.testing.assert_allclose(found[0, :2, :2], [[0, 0], [0, 406]], rtol=1e-5)
    np.testing.assert_allclose(found[0, :2, 2:], np.array([[300, 500], [30, 0]]) * 835 / 830,
                               rtol=1e-5)
    np.testing.assert_array_equal(found[0, 2:], thk[0, 2:])


def test_thin_ice_ends_on_a_ramp(thin_ice_of_20_m):
    """Of a limit of 20 m: nothing left of 16 m, half of 17.78 m, all of 20 m; then 1.05 times."""
    thk = np.array([[16, 160 / 9, 20, 0], [1000, 1000, 1000, 1000]], "f")[None]
    coarse = np.full((1, 1, 1), thk.mean(), "f")
    found = model.remove_thin_ice(tf.constant(thk), tf.constant(coarse), "area")
    kept = np.array([[0, 80 / 9, 20, 0], [1000, 1000, 1000, 1000]])
    np.testing.assert_allclose(found[0], kept * thk.mean() / kept.mean(), rtol=1e-4)


@pytest.mark.parametrize("degrade, side", [("area", 48), ("bicubic", 41)])
def test_remove_thin_ice_keeps_consistency(degrade, side):
    """Ice of a kilometre, and around it ice-free land under thin ice; then open ocean."""
    rng = np.random.default_rng(0)
    thk = rng.uniform(1000, 1200, (2, side, side)).astype("f")
    thk[:, :, :20] = rng.uniform(0.5, 3, (2, side, 20))  # ends within a coarse cell of 8
    thk[:, :, :16] = 0
    coarse = utils.build_levels(thk, 8, degrade, "level")[0]
    found = model.remove_thin_ice(tf.constant(thk), tf.constant(coarse), degrade).numpy()
    assert found.min() >= 0
    assert (found[:, :, :15] <= 0.01).all()  # ocean
    if degrade == "area":
        np.testing.assert_array_equal(found[:, :, :20], 0)
        np.testing.assert_allclose(utils.coarsen_fields(found, 8, "area"), coarse, atol=0.01)
        expected = thk[:, :8, 20:24] * coarse[:, :1, 2:3] * 64 / thk[:, :8, 20:24].sum(
            axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found[:, :8, 20:24], expected, rtol=1e-4)
    else:  # samples fall on cells
        np.testing.assert_allclose(utils.coarsen_fields(found, 8, degrade), coarse, atol=0.01)
        assert (found[:, :, 16:20] < 5).mean() > 0.8


def test_no_ice_is_left_where_no_sample_around_has_any():
    coarse = np.zeros((1, 5, 5), "f")
    coarse[0, 0, 0] = 500  # the samples of 41 cells at 8x lie ten cells apart
    thk = np.full((1, 41, 41), 4.0, "f")
    found = model.remove_thin_ice(tf.constant(thk), tf.constant(coarse), "bicubic").numpy()
    np.testing.assert_allclose(found[0, 20:], 0, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 20:], 0, atol=1e-6)
    assert found[0, 0, 0] == pytest.approx(500)


@pytest.mark.parametrize("degrade", ["area", "bicubic"])
def test_a_small_glacier_keeps_its_ice(degrade):
    """30 m at its thickest: what is thicker than THIN_ICE_MAX_SHARE of that stays."""
    across = 30 * np.maximum(1 - (np.arange(16) - 7.5) ** 2 / 50, 0)
    across[across <= 30.5 * model.THIN_ICE_MAX_SHARE] = 0
    thk = np.float32(np.ones((1, 16, 1)) * across)
    coarse = utils.build_levels(thk, 4, degrade, "level")[0]
    found = model.remove_thin_ice(tf.constant(thk), tf.constant(coarse), degrade)
    assert 25 < thk.max() <= 30
    np.testing.assert_allclose(found, thk, atol=0.01)


# ---------------------------------------------------------------- the chain


@pytest.mark.parametrize("grid", ["fine", "level"])
def test_error_of_the_last_stage_trains_all_of_the_chain_when_asked(grid):
    chosen = settings(scale=4, filters=(4,), kernels=(3, 3), gradients="end-to-end",
                      first_guess=SURFACE, grid=grid, data={"degrade": "area"})
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields_of(grid)
    with tf.GradientTape() as tape:
        last = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1]))
    for gradient in tape.gradient(last, model.list_weights(layers)):
        assert np.any(gradient)


@pytest.mark.parametrize("grid", ["fine", "level"])
def test_gradients_stay_within_a_stage(grid):
    chosen = settings(scale=4, filters=(4,), kernels=(3, 3), grid=grid, consistency=grid == "level",
                      data={"degrade": "area"})
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields_of(grid)
    with tf.GradientTape() as tape:
        last = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1]))
    gradients = tape.gradient(last, model.list_weights(layers))
    assert [gradient is None for gradient in gradients] == [True] * 4 + [False] * 4


def test_chain_without_a_first_guess_learns_from_the_first_step_on():
    """A last convolution at 0 would make no ice at all, and consistency would cut its gradient."""
    chosen = settings(first_guess="none", consistency=True, gradients="end-to-end", grid="level")
    layers = model.build_layers(chosen)
    thk, topg = fields_of("level", 8, "bicubic", (41, 41))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model.run_chain(layers, thk, topg, chosen)[-1] - 1000))
    weights = [conv.kernel for convs in layers.values() for conv in convs.values()]
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, weights))


def test_thickness_alone_needs_no_bed():
    chosen = settings(channels="thk")
    layers = model.build_layers(chosen)
    fill(layers)
    thk, topg = fields()
    predictions = model.run_chain(layers, thk, [np.zeros_like(bed) for bed in topg], chosen)
    assert len(predictions) == 3
    assert np.isfinite(predictions[-1]).all()
    for one, other in zip(model.run_chain(layers, thk, topg, chosen), predictions, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (64, 33)])
def test_any_height_and_width(shape):
    layers = model.build_layers(settings(scale=2))
    fill(layers)
    last = model.run_chain(layers, *fields(levels=2, shape=shape), settings(scale=2))[-1]
    assert last.shape == (2, *shape)
    own = settings(scale=2, grid="level", first_guess=SURFACE, data={"degrade": "area"})
    coarse, topg = fields(levels=1, shape=shape)
    fine = np.repeat(np.repeat(topg[0], 2, axis=1), 2, axis=2)
    last = model.run_chain(layers, coarse, [topg[0], fine], own, whole_map=True)[-1]
    np.testing.assert_allclose(last.numpy().reshape(2, shape[0], 2, shape[1], 2).mean(axis=(2, 4)),
                               coarse, atol=0.01)


@pytest.mark.parametrize("changes", [
    {"kernels": [3, 3]}, {"kernels": [5, 3]}, {"kernels": [3, 3], "channels": "normalised"}])
@pytest.mark.parametrize("grid", ["level", "fine"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_receptive_field_holds_what_a_coarse_cell_can_change(changes, grid, scale):
    """And it is hardly more than that."""
    chosen = settings(**{"scale": scale, "grid": grid, "filters": [4], "first_guess": SURFACE,
                         "data": {"degrade": "area"}} | changes)
    layers = model.build_layers(chosen)
    fill(layers, scale=0.2)
    reach = model.receptive_field_radius(chosen, scale)
    side, middle = 2 * reach + 9, reach + 4
    rng = np.random.default_rng(0)
    coarse = rng.uniform(200, 3000, (1, side, 5)).astype("f")
    topg = rng.uniform(-800, 800, (1, scale * side, 5 * scale)).astype("f")
    found = []
    for change in (0, 500):
        coarse[0, middle] += change
        topg[0, scale * middle:scale * middle + scale] += change
        beds = utils.build_levels(topg, scale, "area", "level")
        level0 = coarse
        if grid == "fine":  # only what the layers see: the spline has no end
            beds = [np.repeat(np.repeat(bed, n := topg.shape[1] // bed.shape[1], 1), n, 2)
                    for bed in beds]
            level0 = np.repeat(np.repeat(coarse, scale, 1), scale, 2)
        thk = model.run_chain(layers, level0, beds, chosen, whole_map=True)[-1]
        if grid == "fine":
            thk = model.enforce_consistency(thk, coarse, "area")
        found.append(model.remove_thin_ice(thk, coarse, "area").numpy())
    changed = np.flatnonzero((np.abs(found[1] - found[0]) > 1e-2).any(axis=(0, 2))) // scale
    assert np.abs(changed - middle).max() <= reach
    assert np.abs(changed - middle).max() >= reach - (4 if grid == "level" else 6)


# ---------------------------------------------------------------- self-ensemble


def test_symmetries_and_inverses():
    square = np.arange(9.0).reshape(3, 3)
    expected = {turned.tobytes() for quarter in range(4)
                for turned in (np.rot90(square, quarter), np.rot90(square.T, quarter))}
    assert {np.array(model.apply_symmetry(square, n)).tobytes() for n in range(8)} == expected
    np.testing.assert_array_equal(model.apply_symmetry(square, 0), square)
    rectangles = tf.constant(np.random.default_rng(0).standard_normal((2, 4, 5, 7)))
    for number in range(8):
        there = model.apply_symmetry(rectangles, number)
        assert there.shape[2:] == ((7, 5) if number >= 4 else (5, 7))
        np.testing.assert_array_equal(model.apply_symmetry(there, number, inverse=True), rectangles)


@pytest.mark.parametrize("degrade", ["bicubic", "area"])
def test_self_ensemble_is_the_same_from_every_side_and_consistent(degrade):
    """Single predictions of random layers change with the map's turn, their average does not."""
    chosen = settings(scale=4, first_guess=SURFACE, consistency=True, grid="level",
                      data={"degrade": degrade})
    layers = model.build_layers(chosen)
    fill(layers)
    _, topg = own_fields(4, degrade, (16, 24), n=2)
    coarse = np.random.default_rng(2).uniform(500, 3000, (2, 4, 6)).astype("f")

    chain = model.compile_chain(layers, chosen)
    found, spread = model.predict_ensemble(chain, coarse, topg, True)
    assert len(found) == 2
    turn = model.apply_symmetry
    members = np.stack([turn(chain(turn(coarse, number), [turn(bed, number) for bed in topg])[-1],
                             number, inverse=True) for number in range(8)])
    np.testing.assert_allclose(spread, members.std(axis=0), atol=0.01)
    assert spread.numpy().max() > 10
    for number in (3, 6):
        turned, around = model.predict_ensemble(
            chain, turn(coarse, number), [turn(bed, number) for bed in topg], True)
        np.testing.assert_allclose(turn(around, number, inverse=True), spread, atol=0.01)
        for there, here in zip(turned, found, strict=True):
            np.testing.assert_allclose(turn(there, number, inverse=True), here, atol=0.01)
    if degrade == "area":
        np.testing.assert_allclose(utils.coarsen_fields(found[-1], 4, degrade), coarse, atol=0.01)

    single = chain(coarse, topg)[-1]
    assert np.abs(single - found[-1]).max() > 10
    alone, spread = model.predict_ensemble(chain, coarse, topg, False)
    np.testing.assert_array_equal(alone[-1], single)
    assert not np.any(spread)


def test_spread_is_masked_where_the_coarse_map_determines_the_thickness():
    """Cell means: in coarse cells with ice; samples: in the cells between and beside such ones."""
    coarse = np.zeros((1, 3, 3), np.float32)
    coarse[0, 0, 0] = 5
    spread = tf.ones((1, 12, 12))
    expected = np.zeros((12, 12), bool)
    expected[:4, :4] = True
    found = model.mask_determined_cells(spread, coarse, "area")[0]
    np.testing.assert_array_equal(np.isfinite(found), expected)
    assert set(np.unique(found[:4, :4])) == {1}
    wide = np.zeros((1, 5, 5), np.float32)
    wide[0, 0, 0] = 5  # the samples around it are at the fine cells 0, 10, 20 ...
    found = np.isfinite(model.mask_determined_cells(tf.ones((1, 41, 41)), wide, "bicubic")[0])
    assert found[:20, :20].all() and not found[20:].any() and not found[:, 20:].any()


# ---------------------------------------------------------------- patches


def some_patches(scale, degrade, side, n=7):
    """Patches as prepare_data.py stacks them: all levels on the fine cells."""
    rng = np.random.default_rng(3)
    thk, topg = rng.uniform(5, 3000, (n, side, side)), rng.uniform(-1000, 1000, (n, side, side))
    return {name: np.stack(utils.build_levels(field, scale, degrade, "fine"), axis=1)
            for name, field in (("thk", thk), ("topg", topg))}


@pytest.mark.parametrize("degrade, side, sizes", [
    ("bicubic", 41, [5, 10, 20, 41]), ("area", 48, [6, 12, 24, 48])])
def test_levels_of_patches_as_the_chain_takes_them(degrade, side, sizes):
    patches, numbers = some_patches(8, degrade, side), np.array([4, 1])
    for grid in ("level", "fine"):
        chosen = settings(grid=grid, data={"degrade": degrade})
        for levels, name in zip(make_chain_inputs(patches, numbers, chosen), ("thk", "topg"),
                                strict=True):
            if grid == "level":
                assert [level.shape[1:] for level in levels] == [(n, n) for n in sizes]
            for level, fine in zip(levels, np.moveaxis(patches[name][numbers], 1, 0), strict=True):
                assert level.dtype == np.float32
                if grid == "level":
                    level = utils.upsample_fields(level, (side, side), degrade)
                np.testing.assert_allclose(level, fine, atol=0.01)
        bare = make_chain_inputs({"thk": patches["thk"], "topg": None}, numbers,
                                  chosen | {"channels": "thk"})
        assert [bed.shape for bed in bare[1]] == [level.shape for level in levels]
        assert not any(np.any(bed) for bed in bare[1])


@pytest.mark.parametrize("consistency", [False, True])
@pytest.mark.parametrize("degrade, side", [("bicubic", 41), ("area", 48)])
def test_predicted_patches_are_on_the_fine_cells_and_the_last_without_thin_ice(
        monkeypatch, consistency, degrade, side):
    monkeypatch.setattr(model, "PREDICTION_BATCH_SIZE", 3)
    chosen = settings(scale=4, grid="level", filters=(4,), kernels=(3, 3), first_guess=SURFACE,
                      self_ensemble=False, consistency=consistency, data={"degrade": degrade})
    layers = model.build_layers(chosen)
    fill(layers)
    patches, numbers = some_patches(4, degrade, side), np.array([6, 0, 3, 4, 1])
    found, spread = model.predict_patches(layers, patches, chosen, numbers)
    np.testing.assert_array_equal(spread, np.zeros((5, side, side)))  # one turn, ice everywhere
    thk, topg = (utils.build_levels(patches[name][numbers, -1], 4, degrade, "level")
                 for name in ("thk", "topg"))
    first, last = model.run_chain(layers, thk[0], topg, chosen)
    np.testing.assert_allclose(found[0], utils.upsample_fields(first, (side, side), degrade),
                               rtol=1e-4, atol=0.05)
    if consistency:
        last = model.remove_thin_ice(last, thk[0], degrade)
    np.testing.assert_allclose(found[1], last, rtol=1e-4, atol=0.05)
