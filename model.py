"""The recurrent SRCNN: a dict of layers, one stage, and the chain of stages.

SRCNN is Dong et al. (2014, arXiv:1501.00092): convolutions 9-1-5 with 64 and 32 filters, ReLU,
padded so that sizes stay. The chain runs log2(scale) of them: stage k takes the map from level k-1
to level k, twice as fine, and the next stage takes its prediction. After every stage the result can
be made to agree with the coarse map (enforce_consistency).

With grid "level" each stage works at its own resolution, which gives the early stages a large
receptive field at low cost. With grid "fine" all levels are stored on the fine grid, as in the
original; regridding between levels then does nothing. Thickness and bed go in and out in metres, of
any height and width, and are normalised in run_stage only. `_prev`: of the level before a stage's.
"""

import functools
import math

import numpy as np

import utils
from icesheet.command_line import InputError
from icesheet.convolution import check_architecture, convolve_to_single_channel
from icesheet.device import tf
from icesheet.patches import make_chain_inputs
from icesheet.settings import SELF_ENSEMBLE_MEMBERS, get_densities

PREDICTION_BATCH_SIZE = 50  # patches
LOCAL_WINDOW_CELLS = 5      # side of the window of local means, odd (make_normalised_channels)
# Thickness below which ice may be an artefact, per unit of scale [m] (remove_thin_ice): tuned so
# that the ice area is right on training patches and in the 8 km reconstruction tests.
THIN_ICE_M = {"bicubic": 5.0, "area": 2.5}
THIN_ICE_MAX_SHARE = 0.2    # thicker than this share of the ice nearby is no artefact
MAX_ICE_SCALING = 10.0      # of a coarse cell's ice (enforce_consistency); keeps gradients finite


def count_stages(scale):
    """Return the number of stages of a chain: log2(scale), 1 to 4 for 2x to 16x."""
    return scale.bit_length() - 1


def build_layers(settings):
    """Build all layers of the chain once: {"stage1": {"conv1": layer, "conv2": ...}, ...}.

    With shared_weights all stages are the same object: one network that is applied log2(scale)
    times. Raises InputError for settings that no chain can have (check_architecture).
    """
    check_architecture(settings)
    filters, kernels = [*settings["filters"], 1], settings["kernels"]
    n_channels = {"thk": 1, "thk+topg": 1 + settings["bed_levels"], "normalised": 8}
    layers = {}
    for stage in range(1, count_stages(settings["scale"]) + 1):
        if stage > 1 and settings.get("shared_weights"):
            layers[f"stage{stage}"] = layers["stage1"]
            continue
        convs, n_inputs = {}, n_channels[settings["channels"]]
        for i, (n_filters, kernel) in enumerate(zip(filters, kernels, strict=True), 1):
            is_last = i == len(filters)
            seed = settings["seed"] * 10000 + stage * 100 + i  # every layer draws its own weights
            if settings["initializer"] == "normal":
                initializer = tf.keras.initializers.RandomNormal(stddev=1e-3, seed=seed)
            elif is_last and settings["first_guess"] != "none":
                # The correction starts at 0: an untrained stage returns its first guess.
                initializer = "zeros"
            else:
                initializer = tf.keras.initializers.HeNormal(seed)
            convs[f"conv{i}"] = tf.keras.layers.Conv2D(
                n_filters, kernel, padding="valid", activation=None if is_last else "relu",
                kernel_initializer=initializer, name=f"stage{stage}_conv{i}")
            convs[f"conv{i}"].build((None, None, None, n_inputs))
            n_inputs = n_filters
        layers[f"stage{stage}"] = convs
    return layers


def list_weights(layers):
    """Return all trainable variables of the dict of layers, each once, in the chain's order."""
    weights = [weight for convs in layers.values() for conv in convs.values()
               for weight in conv.trainable_variables]
    return list({id(weight): weight for weight in weights}.values())


def take_last_stages(layers, scale):
    """Return the last stages of a chain, as many as refine `scale` times: a dict of layers."""
    return dict(list(layers.items())[-count_stages(scale):])


def count_flops(settings, side):
    """Return the operations of all convolutions, forwards, for a patch of side x side cells."""
    flops = 0
    for stage, convs in enumerate(build_layers(settings).values(), 1):
        factor = settings["scale"] // 2**stage
        cells = (utils.coarse_size(side, factor) if settings["grid"] == "level" else side) ** 2
        flops += sum(2 * cells * math.prod(conv.kernel.shape) for conv in convs.values())
    return flops


# ---- What a stage corrects, and what its convolutions receive ------------------------------------

def surface_from_thickness(thk, topg, densities=utils.DENSITIES):
    """Return utils.surface_from_thickness of tensors [m], but 0 where there is no ice."""
    floating = (1 - densities[0] / densities[1]) * thk
    return tf.where(thk > 0, tf.maximum(thk + topg, floating), tf.zeros_like(thk))


def thickness_from_surface(usrf, topg, densities=utils.DENSITIES):
    """Return utils.thickness_from_surface of tensors [m]: ice between surface usrf and bed topg."""
    ratio = densities[0] / densities[1]
    grounded = usrf - topg
    floating = tf.minimum(usrf / (1 - ratio), -topg / ratio)
    return tf.nn.relu(tf.where(utils.is_floating(grounded, topg, densities), floating, grounded))


def compute_first_guess(thk, topg, topg_prev, settings):
    """Return the thickness that a stage's convolutions correct, (patch, y, x) [m].

    thk, topg_prev: of the previous level, on this level's cells; topg: bed of this level
    none: 0, the convolutions make the whole map, as in the original; bicubic: thk itself
    surface-minus-bed: T(S(thk, topg_prev), topg), where S is surface_from_thickness and T is
        thickness_from_surface. The surface of ice is smooth where its bed is not.
    """
    if settings["first_guess"] == "surface-minus-bed":
        densities = get_densities(settings.get("data", {}))
        usrf = surface_from_thickness(tf.nn.relu(thk), topg_prev, densities)
        return thickness_from_surface(usrf, topg, densities)
    return thk if settings["first_guess"] == "bicubic" else tf.zeros_like(thk)


def compute_coarse_residual(thk_prev, first_guess, degrade):
    """Return what the first guess lacks at the previous level: thk_prev - R(first_guess) [m].

    thk_prev: thickness of the previous level, on its own cells; first_guess: on this level's
    R coarsens; the difference is interpolated linearly to this level's cells. It is 0 where the ice
    surface is as smooth as surface minus bed assumes, which differs between ice sheets.
    """
    coarsened = regrid_level(first_guess, thk_prev.shape[1:], utils.coarsening_matrix, degrade)
    return regrid_level(thk_prev - coarsened, first_guess.shape[1:], utils.linear_matrix, degrade)


def make_absolute_channels(thk, topg, topg_prev, settings):
    """Return the input of a stage's convolutions, without units: (patch, y, x, channel).

    thk / thk_norm, topg / topg_norm, 10 (topg - topg_prev) / topg_norm; settings["channels"] and
    settings["bed_levels"] say how many of these, topg_prev is on this level's cells.
    """
    channels = [thk / settings["data"]["thk_norm_m"]]
    if "topg" in settings["channels"]:
        topg_norm_m = settings["data"]["topg_norm_m"] or 1.0  # 0: a bed at 0 m throughout
        channels.append(topg / topg_norm_m)
        if settings["bed_levels"] == 2:
            # Steps between levels are small beside the bed's range; ten times larger train faster.
            channels.append(10 * (topg - topg_prev) / topg_norm_m)
    return tf.stack(channels, axis=-1)


def make_normalised_channels(thk, topg, topg_prev, first_guess, residual,
                             densities=utils.DENSITIES):
    """Return locally normalised channels, (patch, y, x, 8), and the local scale of the output [m].

        scale   = sqrt(mean(residual^2 + (bed detail / 5)^2) + 1 m^2)     over LOCAL_WINDOW_CELLS^2
        channel = v / sqrt(1 + v^2),    v = field / (divisor x scale)

    All arguments and the scale are on this level's cells, (patch, y, x) [m]. Surface and bed count
    from their local mean; residual: of compute_coarse_residual.
    """
    def local_mean(field):
        return tf.nn.avg_pool2d(field[..., None], LOCAL_WINDOW_CELLS, 1, "SAME")[..., 0]

    bed_detail = topg - topg_prev
    usrf = surface_from_thickness(tf.nn.relu(thk), topg_prev, densities)
    above_flotation = densities[0] / densities[1] * first_guess + topg
    # About how large the correction is near a cell. In this measure heights half as large look the
    # same, so what a stage learns on an ice sheet holds on a glacier.
    local_scale_m = tf.sqrt(local_mean(tf.square(residual) + tf.square(bed_detail / 5)) + 1)
    # What the coarse cells lack, relief, thickness, the correction so far, flotation, slopes.
    fields_and_divisors = [
        (residual, 3), (bed_detail, 5), (thk, 10), (first_guess, 10), (first_guess - thk, 3),
        (above_flotation, 5), (usrf - local_mean(usrf), 5), (topg - local_mean(topg), 5)]
    scaled = [field / (divisor * local_scale_m) for field, divisor in fields_and_divisors]
    # Limit large values: at cliffs and deep troughs a field can be hundreds of times the scale.
    return tf.stack([v / tf.sqrt(1 + tf.square(v)) for v in scaled], axis=-1), local_scale_m


def regrid_level(fields, shape, make_matrix, degrade):
    """Regrid fields (patch, y, x) to the cells of another level, of `shape` (y, x).

    make_matrix: prolongation_matrix, or one of the matrices of utils
    """
    if tuple(fields.shape[1:]) == tuple(shape):  # levels of one size have the same cells
        return fields
    along_y, along_x = (tf.constant(make_matrix(*sizes, degrade), tf.float32)
                        for sizes in zip(fields.shape[1:], shape, strict=True))
    return along_y @ fields @ tf.transpose(along_x)


def prolongation_matrix(coarse, size, degrade):
    """Return the prolongation P (size, coarse) of an axis, for which R P = 1 (R coarsens).

    area: the coarse value in each cell of a coarse cell; bicubic: linear between the samples.
    Raises InputError if fine cells do not divide the coarse ones.
    """
    coarsening = utils.coarsening_matrix(size, coarse, degrade)
    if degrade == "area" and size % coarse:
        raise InputError(f"consistency needs whole coarse cells: {size} cells do not divide into "
                         f"{coarse}; train with --no-consistency, or prepare larger patches")
    if degrade == "area":
        return (coarsening > 0).T.astype(float)
    linear = utils.linear_matrix(coarse, size, degrade)
    return linear @ np.linalg.inv(coarsening @ linear)


def enforce_consistency(thk, coarse, degrade):
    """Correct a prediction so that coarsening it returns the coarser level; thickness stays >= 0.

    thk: H, the prediction; coarse: C, the coarser level; each on its own cells (patch, y, x) [m]
    With R the coarsening and P the prolongation, for cell means (area):

        H' = P(a) H + P((C - a R(H)) / R(w)) w,      a = min(C / R(H), 10)
        w  = max(L(C) - 0.9 P(C), 0) + 0.001 P(C)    L: linear interpolation

    The ice in each coarse cell is scaled by a. The deficit that then remains, all of C where no ice
    was predicted, goes towards the neighbours with more ice (w), evenly if there are none. This is
    exact: ice volume is kept.
    Point samples (bicubic): H' = max(H + P(C - R(H)), 0). Exact except where the maximum cuts, at
    2x and 4x, whose samples lie between cells and can overshoot.
    """
    def prolong(field):
        return regrid_level(field, thk.shape[1:], prolongation_matrix, degrade)

    thk = tf.nn.relu(thk)
    coarsened = regrid_level(thk, coarse.shape[1:], utils.coarsening_matrix, degrade)
    if degrade == "bicubic":
        return tf.nn.relu(thk + prolong(coarse - coarsened))
    # Limited, so that a coarse cell with hardly any predicted ice does not pile it on one cell.
    scaling = tf.minimum(coarse / tf.maximum(coarsened, 1e-6), MAX_ICE_SCALING)
    deficit_m = tf.nn.relu(coarse - scaling * coarsened)
    # The small terms keep the weight above 0 in every coarse cell, also where it is flat or empty.
    linear = regrid_level(coarse, thk.shape[1:], utils.linear_matrix, degrade)
    neighbour_weight = tf.nn.relu(linear - 0.9 * prolong(coarse)) + 1e-3 * prolong(coarse) + 1e-9
    deficit_per_weight = deficit_m / regrid_level(
        neighbour_weight, coarse.shape[1:], utils.coarsening_matrix, degrade)
    return thk * prolong(scaling) + neighbour_weight * prolong(deficit_per_weight)


def remove_thin_ice(thk, coarse, degrade):
    """Remove the thin ice [m] that a mean over possible maps leaves on ice-free cells.

    thk: prediction; coarse: level 0; each on its own cells (patch, y, x) [m]
    Ice moves to the other cells of its coarse cell if it is thinner than all of: THIN_ICE_M times
    the scale; THIN_ICE_MAX_SHARE of the thickest coarse cell nearby; with cell means, 0.9 of its
    own coarse cell. With point samples there is no ice where no sample nearby has any.
    The result is as consistent with the coarse map as thk was.
    """
    max_nearby_m = tf.nn.max_pool2d(coarse[..., None], 3, 1, "SAME")[..., 0]
    max_nearby_m = regrid_level(max_nearby_m, thk.shape[1:], utils.linear_matrix, degrade)
    limit_m = THIN_ICE_M[degrade] * thk.shape[1] / coarse.shape[1]
    threshold_m = tf.minimum(limit_m, THIN_ICE_MAX_SHARE * max_nearby_m)
    if degrade == "bicubic":
        thk = tf.where(max_nearby_m > utils.MIN_ICE_THICKNESS_M, thk, 0.0)
    else:
        # In a coarse cell that is thin all over, the thin ice is no artefact: it has to stay.
        own_m = regrid_level(coarse, thk.shape[1:], prolongation_matrix, degrade)
        threshold_m = tf.minimum(threshold_m, 0.9 * own_m)
    # A ramp from 0.8 of the threshold, not a step: tiles that differ by rounding stay alike.
    thk = tf.minimum(thk, tf.nn.relu(5 * thk - 4 * threshold_m))
    return enforce_consistency(thk, coarse, degrade)


remove_thin_ice_compiled = tf.function(remove_thin_ice, autograph=False)  # a graph for each shape


def pad_for_convolution(values, conv, settings):
    """Pad values (patch, y, x, channel) so that the convolution keeps their size.

    The default mirrors the map at its edge: zeros would look like open ocean, and on the small
    grids of the first stages the edge is always near. The original recipe pads with zeros.
    """
    half = conv.kernel.shape[0] // 2
    return tf.pad(values, ((0, 0), (half, half), (half, half), (0, 0)), settings["padding"])


def run_stage(convs, thk_prev, topg_prev, topg, degrade, settings):
    """Run one SRCNN: return the thickness of level k from that of level k-1, (patch, y, x) [m].

    convs: the stage's entry of build_layers
    thk_prev, topg_prev: thickness and bed of level k-1; topg: bed of level k; each on its own cells
    degrade: how the map was coarsened
    """
    # Everything on the cells of level k: (patch, y, x) [m].
    thk, topg_prev = (regrid_level(field, topg.shape[1:], utils.catmull_rom_matrix, degrade)
                      for field in (thk_prev, topg_prev))
    first_guess = compute_first_guess(thk, topg, topg_prev, settings)

    # Out of metres: (patch, y, x, channel).
    if settings["channels"] == "normalised":
        residual = compute_coarse_residual(thk_prev, first_guess, degrade)
        values, output_scale_m = make_normalised_channels(
            thk, topg, topg_prev, first_guess, residual, get_densities(settings["data"]))
    else:
        values = make_absolute_channels(thk, topg, topg_prev, settings)
        output_scale_m = settings["output_scale_m"] or settings["data"]["thk_norm_m"]

    # The hidden convolutions, with ReLU: (patch, y, x, filter).
    *hidden, last = convs.values()
    for conv in hidden:
        values = conv(pad_for_convolution(values, conv, settings))

    # The last one, to one channel. It keeps sizes by itself, so the padding is cut off again.
    values = convolve_to_single_channel(pad_for_convolution(values, last, settings),
                                        tf.convert_to_tensor(last.kernel))
    half = last.kernel.shape[0] // 2
    correction = values[:, half:-half or None, half:-half or None, 0] + last.bias  # (patch, y, x)
    return first_guess + output_scale_m * correction


def run_chain(layers, thk, topg, settings, whole_map=False, restart=None):
    """Return every stage's prediction: a list of thickness (patch, y, x) [m], the last the finest.

    layers: of build_layers, or only its last stages, for a smaller scale
    thk: level 0; topg: bed of every level, a list (zeros will do where needs_topg says no); each on
        its own cells (patch, y, x) [m]
    whole_map: the input holds means over its cells, which are kept whatever the run was trained on
    restart: in training, (thickness of every level, (patch,) level at which each patch's chain
        starts anew from the true thickness), so that stages learn to start from data too
    """
    degrade = "area" if whole_map else settings["data"]["degrade"]
    thk0, predictions = thk, []
    for k, (convs, topg_prev, topg_k) in enumerate(
            zip(layers.values(), topg[:-1], topg[1:], strict=True)):
        thk_prev = thk
        if restart and k:
            true_thk, start_level = restart
            thk_prev = tf.where((start_level == k)[:, None, None], true_thk[k], thk)
        thk = run_stage(convs, thk_prev, topg_prev, topg_k, degrade, settings)
        if settings["grid"] == "level" and (whole_map or settings["consistency"]):
            # Cell means can be enforced against the previous level. Point samples do not nest, so
            # enforce level 0 directly.
            thk = enforce_consistency(thk, thk_prev if degrade == "area" else thk0, degrade)
        predictions.append(thk)
        if settings["gradients"] == "stage":
            # As in the original: the next stage takes the prediction as data. Without this its
            # error would also train the stages before ("end-to-end").
            thk = tf.stop_gradient(thk)
    return predictions


def compile_chain(layers, settings, whole_map=False):
    """Return run_chain as one graph: chain(thk, topg)."""
    return tf.function(lambda thk, topg: run_chain(layers, thk, topg, settings, whole_map))


def receptive_field_radius(settings, scale):
    """Return the radius of the receptive field of the whole chain, in coarse cells."""
    stage_radius = sum(kernel // 2 for kernel in settings["kernels"])
    is_normalised = settings["channels"] == "normalised"  # which takes means over a window
    stage_radius += is_normalised * (LOCAL_WINDOW_CELLS // 2)
    if settings["grid"] == "level":
        # Backwards, from a whole coarse cell (remove_thin_ice) at the last level. In cells of the
        # level before: what the layers receive, one for the residual, two for catmull_rom_matrix.
        radius = 0
        for _ in range(count_stages(scale)):
            radius = math.ceil(radius / 2) + math.ceil(stage_radius / 2) + 3
        return radius
    # On the fine cells throughout; the residual is linear between those of the level before.
    stage_radius += 2 * is_normalised
    return math.ceil(stage_radius * count_stages(scale) / scale) + 3


# For tensors (..., y, x): flip and rotate by symmetry 0 ... 7, or undo it.
apply_symmetry = functools.partial(utils.apply_symmetry, transpose=tf.linalg.matrix_transpose)


def predict_ensemble(chain, thk, topg, self_ensemble):
    """Return every stage's mean over flips and rotations, and the ensemble spread of the last.

    chain(thk, topg): run_chain of a run's layers, compiled or not
    self_ensemble: number of members 1, 2, 4 or 8; True is 8, False 1
    Returns a list of (patch, y, x) [m], consistent as its members are, and (patch, y, x) [m].
    """
    n_members = 8 if self_ensemble is True else int(self_ensemble) or 1
    members = []
    for index in SELF_ENSEMBLE_MEMBERS[n_members]:
        predictions = chain(apply_symmetry(thk, index),
                            [apply_symmetry(level, index) for level in topg])
        members.append([apply_symmetry(thk_k, index, inverse=True) for thk_k in predictions])
    spread = tf.math.reduce_std(tf.stack([stages[-1] for stages in members]), axis=0)
    return [tf.add_n(stage) / len(members) for stage in zip(*members, strict=True)], spread


def mask_determined_cells(spread, coarse, degrade):
    """Return the ensemble spread [m], NaN where the coarse map alone determines the thickness.

    That is in coarse cells without ice (area), or where no sample nearby has any (bicubic); there
    remove_thin_ice leaves none. spread: fine cells; coarse: level 0; (patch, y, x) [m].
    """
    if degrade == "area":
        ice, make_matrix = coarse, prolongation_matrix
    else:
        ice = tf.nn.max_pool2d(coarse[..., None], 3, 1, "SAME")[..., 0]
        make_matrix = utils.linear_matrix
    return tf.where(regrid_level(ice, spread.shape[1:], make_matrix, degrade) > 0, spread, np.nan)


def predict_patches(layers, patches, settings, patch_indices):
    """Predict patches: thickness of every stage (stage, patch, y, x) and ensemble spread [m].

    All on the fine cells; the spread (patch, y, x) is that of mask_determined_cells.
    """
    chain, degrade = compile_chain(layers, settings), settings["data"]["degrade"]
    shape, batches, spreads = patches["thk"].shape[2:], [], []
    for start in range(0, len(patch_indices), PREDICTION_BATCH_SIZE):
        batch = patch_indices[start:start + PREDICTION_BATCH_SIZE]
        thk, topg = make_chain_inputs(patches, batch, settings)
        predictions, spread = predict_ensemble(chain, thk[0], topg, settings["self_ensemble"])
        spreads.append(mask_determined_cells(spread, thk[0], degrade))
        if settings["consistency"]:  # which removing thin ice enforces too
            predictions[-1] = remove_thin_ice(predictions[-1], thk[0], degrade)
        batches.append(np.stack([regrid_level(prediction, shape, utils.upsampling_matrix, degrade)
                                 for prediction in predictions]))
    return np.concatenate(batches, axis=1), np.concatenate(spreads)


def compute_baselines(thk0, coarse, topg0, topg, degrade, densities=utils.DENSITIES):
    """Compute the baselines, which need no network: {method: thickness (patch, y, x) [m]}.

    thk0, topg0: level 0 on the fine cells; coarse: thickness of level 0 on its own; topg: a finer
    bed, or None, which leaves bicubic (thk0) alone
    """
    if topg is None:
        return {"bicubic": thk0}
    estimate = utils.surface_minus_bed(np.maximum(thk0, 0), topg0, topg, densities)
    estimate, coarse = estimate.astype(np.float32), coarse.astype(np.float32)
    return {"bicubic": thk0, "surface_minus_bed": estimate,
            "surface_minus_bed_consistent": enforce_consistency(estimate, coarse, degrade).numpy()}


def add_baselines(predicted, patches, patch_indices, settings, stage=-1):
    """Return thickness by method, baselines first, the model's last: {method: (patch, y, x) [m]}.

    predicted: the model's at a stage, whereas the baselines always start at level 0
    """
    thk, degrade = patches["thk"][patch_indices], settings["data"]["degrade"]
    beds = (None, None) if patches["topg"] is None else (
        patches["topg"][patch_indices, 0], patches["topg"][patch_indices, stage])
    thk_by_method = compute_baselines(
        thk[:, 0], utils.coarsen_fields(thk[:, -1], settings["scale"], degrade), *beds, degrade,
        get_densities(settings["data"]))
    if stage not in (-1, patches["thk"].shape[1] - 1):
        # It agrees with level 0 through the fine cells, so it is no baseline for a coarser stage.
        thk_by_method.pop("surface_minus_bed_consistent", None)
    return thk_by_method | {"model": predicted}
