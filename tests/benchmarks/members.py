"""Measure the members of runs: on their test patches, and in a reconstruction test of a map.

    python tests/benchmarks/members.py MAP.nc RUN [RUN ...]    # some 3 CPU minutes a run

MAP.nc: the 8 km BedMachine grid. RUN: calibrated runs for cell means, map:4 for a run of several
scales. Test patches are scored where the run's file of patches is. Of 100 members, over the cells
that the coarse map leaves open:
- histogram: the label's rank among the members, in tenths; largest difference from flat, and the
  first tenth, the mean of the middle ones and the last
- in 90 %: labels within the central 90 % of the members (91 of 101 ranks); intervals: within the
  90 % interval; half cells: within the members' central 90 % for the volume of half coarse cells
- CRPS: of the members (Gneiting and Raftery 2007, equation 21, of a sample: Ferro 2014, equation
  8) over that of the intervals
- slope: RMS of thickness differences between neighbouring cells with ice, of members over that of
  the label, and of the prediction; the same of the surface
- consistency: largest difference from the coarse map, lowest thickness
Labels that equal some members, as 0 m does, get a random rank among them.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

import downscale
import evaluate
import model
import utils
from icesheet import beds, command_line, files, map_files, members, reconstruction, uncertainty
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.patches import find_patches_in_split, read_patches
from icesheet.settings import get_densities

DRAWN = {"numbers": list(range(1, 101)), "seed": 0}


def rank_labels(drawn, label, rng):
    """Return the rank of every label among the members, 0 to their number; equal ones at random."""
    n_below, n_equal = (sum(compare(member, label).astype(int) for member in drawn)
                        for compare in (np.less, np.equal))
    return n_below + rng.integers(0, n_equal + 1)


def members_crps_m(drawn, label):
    """Return the continuous ranked probability score of cells [m]; drawn: (member, cell)."""
    n = len(drawn)
    ordered = np.sort(drawn, axis=0)
    weights = 2 * np.arange(1, n + 1) - n - 1  # half the mean difference of two members
    return np.abs(drawn - label).mean(axis=0) - weights @ ordered / (n * (n - 1))


def rms_slope_m(field, ice):
    """Return the RMS difference [m] of neighbouring cells with ice along both axes."""
    squares = [np.diff(field, axis=axis)[pairs] ** 2 for axis, pairs in (
        (1, ice[:, 1:] & ice[:, :-1]), (0, ice[1:] & ice[:-1]))]
    return np.sqrt(np.mean(np.concatenate(squares)))


def sum_half_cells(field, scale):
    """Return the sums over half coarse cells of a field (y, x), (coarse y, half x)."""
    return field.reshape(len(field) // scale, scale, -1, scale // 2).sum(axis=(1, 3), dtype=float)


def score(drawn, fields, fit, scale, densities):
    """Return a row of the table; drawn: (member, y, x) [m]; fields: thk, label, width, topg [m]."""
    thk, label, width, topg = fields
    rng, cells = np.random.default_rng(0), width > 0
    ranks = rank_labels(drawn[:, cells], label[cells], rng)
    n = len(drawn) + 1
    histogram = 10 * np.bincount(ranks * 10 // n, minlength=10) / len(ranks)
    halves = np.stack([sum_half_cells(np.where(cells, member, 0), scale) for member in drawn])
    is_open = sum_half_cells(cells, scale) > 0
    half_ranks = rank_labels(halves[:, is_open], sum_half_cells(
        np.where(cells, label, 0), scale)[is_open], rng)
    outside = round(0.05 * n)  # ranks at both ends
    in_90, half_in_90 = (np.mean((r >= outside) & (r < n - outside)) for r in (ranks, half_ranks))
    crps = members_crps_m(drawn[:, cells], label[cells]).mean() / uncertainty.crps_m(
        (thk - label)[cells], width[cells], fit["error_quantiles"]).mean()
    ice, slopes = utils.is_ice(label), []
    for field_of in (lambda h: h, lambda h: utils.surface_from_thickness(h, topg, densities)):
        label_slope = rms_slope_m(field_of(label), ice)
        of_members = np.mean([rms_slope_m(field_of(member), ice) for member in drawn[:10]])
        slopes += [f"{of_members / label_slope:.2f}",
                   f"{rms_slope_m(field_of(thk), ice) / label_slope:.2f}"]
    coarse = utils.coarsen_fields(thk[None], scale, "area")
    consistency_m = max(np.abs(utils.coarsen_fields(member[None], scale, "area") - coarse).max()
                        for member in drawn)
    return (f"{100 * np.abs(histogram - 1).max():.0f} %",
            f"{histogram[0]:.2f} {histogram[1:-1].mean():.2f} {histogram[-1]:.2f}",
            f"{in_90:.1%}", f"{np.mean((np.abs(thk - label) <= width)[cells]):.1%}",
            f"{half_in_90:.1%}", f"{crps:.3f}", *slopes, f"{consistency_m:.4f}",
            f"{drawn.min():.1f}")


def draw_test_patches(settings):
    """Return members of the test patches of a run, one above the other, and fields of score."""
    layers, patches = evaluate.load_layers(settings)[0], read_patches(settings["patches"])
    test, scale = find_patches_in_split(patches, "test"), settings["scale"]
    predictions, spread = model.predict_patches(layers, patches, settings, test)
    thk, label, topg = predictions[-1], patches["thk"][test, -1], patches["topg"][test, -1]
    types = uncertainty.classify_patches(thk, topg, settings)
    width = uncertainty.compute_half_width(spread, thk, types, settings["uncertainty"])
    coarse = utils.coarsen_fields(label, scale, "area")
    fields = [field.reshape(-1, label.shape[2]) for field in (thk, label, width, topg)]
    types = {name: cells.reshape(fields[0].shape) for name, cells in types.items()}
    rows, columns = (slice(0, n) for n in fields[0].shape)
    drawn = np.stack([members.draw_member(
        fields[0], np.float32(coarse.reshape(-1, coarse.shape[2])), fields[2], types,
        settings["uncertainty"], DRAWN["seed"], number, rows, columns,
        model.remove_thin_ice_compiled) for number in DRAWN["numbers"]])
    return drawn, fields


def draw_reconstruction(ice_map, settings, scale, chain):
    """Return members of the reconstruction of a map with a run, and fields of score."""
    fine, coarse = reconstruction.coarsen_map(ice_map, scale)
    bed = beds.bed_in_memory(fine) | {"read_topg_std": None}
    drawn = np.zeros((len(DRAWN["numbers"]), *fine["thk"].shape), np.float32)
    thk, width = np.zeros((2, *fine["thk"].shape), np.float32)
    for rows, columns, by_method, read in downscale.downscale_tiles(
            chain, coarse, bed, settings, scale, drawn=DRAWN):
        thk[rows, columns], width[rows, columns] = by_method["model"], by_method["uncertainty"]
        for i, member in enumerate(read["members"]):
            drawn[i, rows, columns] = member
    return drawn, [thk, fine["thk"], width, fine["topg"]]


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    set_up_device()
    ice_map = map_files.read_map(sys.argv[1])
    table = [("", "flat to", "histogram", "in 90 %", "intervals", "half cells", "CRPS", "slope",
              "prediction", "surface", "prediction", "consistency m", "lowest m")]
    for run in sys.argv[2:]:
        name, scale = other_ice_sheets.split_run(run)
        files.choose_checkpoints(name)
        settings, scale, chain, _ = downscale.open_run(name, scale)
        members.require_fit(settings, settings, DRAWN)
        drawings = {ice_map["name"]: draw_reconstruction(ice_map, settings, scale, chain)}
        if scale == settings["scale"] and Path(settings.get("patches", "none")).exists():
            drawings["test patches"] = draw_test_patches(settings)
        for place, (drawn, fields) in drawings.items():
            table.append((f"{run}, {place}", *score(
                drawn, fields, settings["uncertainty"], scale, get_densities(settings["data"]))))
    command_line.print_table(table)


if __name__ == "__main__":
    command_line.run_script(main)
