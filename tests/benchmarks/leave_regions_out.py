"""Train one network on many maps, and with each region left out in turn; score the maps left out.

    python tests/benchmarks/leave_regions_out.py DATA --train RUN      # one of RUNS; half an hour
    python tests/benchmarks/leave_regions_out.py DATA --score RUN      # on maps it never saw
    python tests/benchmarks/leave_regions_out.py DATA --calibrate      # run `map`, by the others

DATA: the folder with the maps of MAPS and NEVER_USED. Trainings resume; each writes a run
checkpoints/<run>/. `map` is trained on all of MAPS, the others without a region. --calibrate fits
the intervals of `map` to the errors that each of these makes in the region that it never saw.
Scores go to results/regions/<run>.json: RMSE [m] by method and scale over ice and 8 cells around
it, and the coverage of 90 % intervals, which are fitted to the regions other than the scored one.
"""

import contextlib
import io
import sys
from pathlib import Path

import netCDF4
import numpy as np
import scipy.ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import downscale
import evaluate
import model
import prepare_data
import train
import utils
from icesheet import (
    checkpoints, command_line, files, map_files, reconstruction, training_maps, uncertainty)
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.settings import SCALES

# Training maps: region, the factors by which crops are coarsened, weight. The 5 km map is
# interpolated from 8 km and the Rhone map is smooth at 10 m, so neither is used as it is.
MAPS = {
    "antarctica_bedmachine_8km.nc": ("antarctica", "1,2,4", "1"),
    "antarctica_bedmachine_5km.nc": ("antarctica", "2,3", "1"),
    "regions/antarctica_byrd_bedmachine_v3_500m.nc": ("antarctica", "1,2", "1"),
    "regions/antarctica_maudwest_bedmachine_v3_5km_median.nc": ("antarctica", "1", "1"),
    "regions/antarctica_maudeast_bedmachine_v3_5km_median.nc": ("antarctica", "1", "1"),
    "regions/antarctica_getz_bedmachine_v3_5km_median.nc": ("antarctica", "1", "1"),
    "regions/antarctica_totten_bedmachine_v3_5km_median.nc": ("antarctica", "1", "1"),
    "regions/greenland_bedmachine_v5_4.8km.nc": ("greenland", "1,2", "1.5"),
    "regions/greenland_rink_bedmachine_v4_600m.nc": ("greenland", "1,2", "1"),
    "regions/alps_pennine_east_100m.nc": ("glaciers", "1,2", "2"),
    "regions/alps_rhone_10m.nc": ("glaciers", "2,4", "1"),
}
# Which region each run leaves out. Of Antarctica the window of the 5 km map is kept, at 10 and
# 15 km: without any ice shelf in training nothing could be learnt of floating ice.
RUNS = {"map": None, "map_with_antarctic_window": "antarctica",
        "map_without_greenland": "greenland", "map_without_glaciers": "glaciers"}
NEVER_USED = {  # test maps: their region
    "other_models/GRL-16KM_TOPO-M17.nc": "greenland",
    "other_models/aletsch_basic_geology.nc": "glaciers",
    "other_models/RGI60-11.01450_gridded_data.nc": "glaciers",
    "other_models/nbreen_input.nc": "glaciers",
    "other_models/Antarctica_64km.nc": "antarctica",
    "other_models/bedmap2_schmidtko14_50km.nc": "antarctica"}
WINDOW_SOURCE = "antarctica_bedmachine_5km.nc"
NAMES = {  # of the variables, where a file has several thicknesses
    "RGI60-11.01450_gridded_data.nc": {"thk": "consensus_ice_thickness", "usrf": "topo"}}
MIN_COARSE_CELLS = 6       # along the shorter side of a map that is scored
SMALL_GLACIER_M2 = 2e6     # connected ice of less area is a small glacier
N_CALIBRATION_CROPS = 60   # of each region


def write_window(data, folder):
    """Write the window of the 5 km map to a file of its own; return its path."""
    path = Path(folder) / "antarctica_window_5km.nc"
    with netCDF4.Dataset(Path(data) / WINDOW_SOURCE) as source, \
            netCDF4.Dataset(path, "w") as ds:
        x, y = source["x"][:], source["y"][:]
        x0, x1, y0, y1 = prepare_data.WINDOW_M
        inside = {"x": np.flatnonzero((x >= x0 - 2500) & (x <= x1 + 2500)),
                  "y": np.flatnonzero((y >= y0 - 2500) & (y <= y1 + 2500))}
        ds.setncatts({key: source.getncattr(key) for key in source.ncattrs()})
        for axis, cells in inside.items():
            ds.createDimension(axis, len(cells))
            ds.createVariable(axis, "f8", (axis,))[:] = source[axis][:][cells]
            ds[axis].units = "m"
        for name in ("thk", "topg"):
            dimensions = source[name].dimensions
            values = source[name][:][np.ix_(*(inside[axis] for axis in dimensions))]
            ds.createVariable(name, "f4", dimensions)[:] = values
            ds[name].units = "m"
    return path


def list_training_maps(data, run, folder):
    """Return the paths of a run's training maps, their factors and weights: lists of texts."""
    kept = {str(Path(data) / name): options for name, (region, *options) in MAPS.items()
            if region != RUNS[run]}
    if run == "map_with_antarctic_window":
        kept[str(write_window(data, folder))] = "2,3", "2"  # alone it stands for the continent
    return list(kept), *zip(*kept.values(), strict=True)


def list_left_out_maps(region):
    """Return the names of the training maps of a region: what the run without it never saw."""
    return [name for name, (own_region, *_) in MAPS.items()
            if own_region == region and name != WINDOW_SOURCE]


def list_scored_maps(run):
    """Return {map: region} of the maps that a run is scored on: none of them did it see."""
    region = RUNS[run]
    return NEVER_USED if region is None else dict.fromkeys(list_left_out_maps(region), region) | {
        name: own_region for name, own_region in NEVER_USED.items() if own_region == region}


def collect_left_out_samples(data, scale):
    """Return {region: calibration sample}, of the run that was trained without the region."""
    samples = {}
    for run, region in RUNS.items():
        if region is None:
            continue
        settings, names = checkpoints.read_settings(run), list_left_out_maps(region)
        paths = [Path(data) / name for name in names]
        factors = [[int(number) for number in MAPS[name][1].split(",")] for name in names]
        with contextlib.redirect_stdout(io.StringIO()):
            maps, _ = training_maps.read_training_maps(
                paths, factors, [1.0] * len(paths), settings["crop_cells"], {})
        fields = evaluate.draw_calibration_crops(
            maps, settings | {"crops_per_epoch": N_CALIBRATION_CROPS})[0]
        layers = model.take_last_stages(evaluate.load_layers(settings)[0], scale)
        samples[region] = evaluate.collect_calibration_sample(
            layers, fields, settings | {"scale": scale})
    return samples


def pool_samples(samples):
    """Return one calibration sample of several, patch after patch."""
    pooled = {key: np.concatenate([sample[key] for sample in samples])
              for key in ("spread", "thk")}
    return pooled | {key: {name: np.concatenate([sample[key][name] for sample in samples])
                           for name in samples[0][key]} for key in ("errors", "types")}


def calibrate(data):
    """Fit the intervals of run `map` to the errors that the other runs make where they never were.

    Writes results/regions/fits.json too: for each region the fit to the others, for its scores.
    """
    samples = {scale: collect_left_out_samples(data, scale) for scale in SCALES}
    settings = checkpoints.read_settings("map")
    fits = evaluate.fit_scales(settings, lambda scale: [pool_samples(list(
        samples[scale].values()))], is_held_out=True)
    evaluate.write_fits(settings, fits)
    without = {region: {str(scale): uncertainty.fit_intervals([pool_samples(
        [sample for name, sample in samples[scale].items() if name != region])], True, True)
        for scale in SCALES} for region in samples[SCALES[0]]}
    files.write_json(files.RESULTS / "regions" / "fits.json", without)


def glacier_sizes(fine):
    """Return {"small": ..., "large": ...} glaciers and the 8 cells around them, (y, x) bool."""
    labels, n = scipy.ndimage.label(utils.is_ice(fine["thk"]), np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=n + 1) * fine["spacing_m"] ** 2
    distance, nearest = scipy.ndimage.distance_transform_edt(labels == 0, return_indices=True)
    area = areas[labels[tuple(nearest)]]
    near = distance <= reconstruction.SCORED_CELLS_AROUND_ICE
    return {"small": near & (area < SMALL_GLACIER_M2), "large": near & (area >= SMALL_GLACIER_M2)}


def score_map(path, region, chains, fits):
    """Return the scores of a map by scale: {scale: {rmse_m, by_surface_type, coverage, ...}}."""
    ice_map, scores = map_files.read_map(path, names=NAMES.get(path.name)), {}
    for scale, (settings, chain) in chains.items():
        if min(ice_map["thk"].shape) < MIN_COARSE_CELLS * scale:
            continue
        fit = fits.get(region, {}).get(str(scale))
        settings = {key: value for key, value in settings.items() if key != "uncertainty"} | (
            {"uncertainty": fit} if fit else {})
        fine, coarse = reconstruction.coarsen_map(ice_map, scale)
        with contextlib.redirect_stdout(io.StringIO()):
            by_method = downscale.reconstruct(chain, fine, coarse, settings, scale)
        scored = reconstruction.score_reconstruction(by_method, fine, coarse, settings, scale)
        score = {"rmse_m": {method: errors["rmse_m"]
                            for method, errors in scored["all"]["errors"].items()}}
        if fit:
            score["coverage"] = {
                name: intervals["coverage"]["0.9"] for name, intervals in
                scored["uncertainty"]["by_surface_type"].items() if intervals}
        if region == "glaciers":
            for name, cells in glacier_sizes(fine).items():
                cells &= np.isfinite(by_method["model"])
                score[f"rmse_m_{name}"] = {method: float(np.sqrt(np.mean(
                    (by_method[method] - fine["thk"])[cells] ** 2))) if cells.any() else None
                    for method in score["rmse_m"]}
        scores[str(scale)] = score
    return scores


def print_scores(scores):
    """Print the scores of maps: bicubic, consistent formula, network [m]; ratio, coverage."""
    rows = [("map", "factor", "bicubic", "formula", "network", "of formula", "in 90 %")]
    for name, by_scale in scores.items():
        for scale, score in by_scale.items():
            formula, network = (score["rmse_m"][method] for method in
                                ("surface_minus_bed_consistent", "model"))
            rows.append((Path(name).stem[:40], f"{scale}x", f"{score['rmse_m']['bicubic']:.1f}",
                         f"{formula:.1f}", f"{network:.1f}", f"{network / formula:.3f}",
                         f"{score['coverage']['all']:.1%}" if "coverage" in score else ""))
    command_line.print_table(rows)


def score(data, run):
    """Score a run on the maps that it never saw; print and write results/regions/<run>.json."""
    chains = {scale: (settings, chain) for scale in SCALES
              for settings, _, chain, _ in [downscale.open_run(run, scale)]}
    path, scores = files.RESULTS / "regions" / "fits.json", {}
    fits = files.read_json(path, "run --calibrate again") if path.exists() else {}
    for name, region in list_scored_maps(run).items():
        if (Path(data) / name).exists():
            scores[name] = score_map(Path(data) / name, region, chains, fits)
            print(f"{name}: done", flush=True)
    files.write_json(files.RESULTS / "regions" / f"{run}.json", {
        "run": run, "left_out": RUNS[run], "weights_sha256": checkpoints.hash_weights(run),
        "settings": checkpoints.read_settings(run), "scores": scores,
        "versions": files.package_versions(), "command": command_line.command_text()})
    print_scores(scores)


def main(argv=None):
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("data", metavar="DATA", help="folder with the maps")
    parser.add_argument("--train", metavar="RUN", choices=RUNS)
    parser.add_argument("--score", metavar="RUN", choices=RUNS)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--epochs", metavar="N", help="of --train (default: the recipe's)")
    args = parser.parse_args(argv)
    if not (args.train or args.score or args.calibrate):
        raise InputError("expected --train RUN, --score RUN or --calibrate")
    if args.train:
        with files.scratch_folder(files.DATA) as folder:
            paths, factors, weights = list_training_maps(args.data, args.train, folder)
            return train.main(["--recipe", "map", "--run", args.train, "--input", *paths,
                               "--factors", *factors, "--weights", *weights]
                              + (["--epochs", args.epochs] if args.epochs else []))
    set_up_device()
    if args.calibrate:
        calibrate(args.data)
    if args.score:
        score(args.data, args.score)
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
