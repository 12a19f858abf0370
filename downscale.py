"""Make whole ice-thickness maps finer with a trained run; or score the run on a map (hindcast).

    python downscale.py MAP.nc --run map_x2 --output FINE.nc                 # the map, 2x finer
    python downscale.py MAP.nc --run map_x4 --output FINE.nc --bed BED.nc    # with a finer bed
    python downscale.py MAP.nc --run map_x4 --output FINE_1.nc --strip 1/4    # a strip of it
    python downscale.py MAP.nc --run map_x4 --reconstruct    # reduce it, rebuild it, score that

The map is worked through in tiles that overlap: memory holds the coarse map and one tile. Averaged
over the cells of the coarse map, the finer thickness gives that map back. Reads checkpoints/<run>/;
writes FINE.nc, and scores and figures to results/<run>/. Nothing is trained here.
"""

import json
import re
import time
from pathlib import Path

import numpy as np

import evaluate
import model
import utils
from icesheet import (
    beds,
    checkpoints,
    command_line,
    figures,
    files,
    fine_map,
    map_files,
    map_layout,
    projections,
    reconstruction,
    uncertainty,
)
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.settings import (
    SCALES,
    SELF_ENSEMBLE_MEMBERS,
    get_densities,
    needs_topg,
    with_densities,
    with_self_ensemble,
)

# ---- Settings ---------------------------------------------------------------------------------
MAX_TILE_CELLS = 896          # side of a tile with its halo, in fine cells: 1.6 GB
SPLINE_HALO_CELLS = 16    # coarse cells after which a cubic spline forgets 4000 m (< 0.01 mm)


def open_run(run, scale=None, densities=None):
    """A trained run for whole maps: its settings, the scale, and its chain, see model.predict_ensemble.

    scale: may be smaller than the run's; the last stages of its layers do that. densities: in place
    of the run's in the chain [kg m-3]; its settings stay what they are. Raises InputError where
    there is no such run or it has too few stages.
    """
    settings = checkpoints.read_settings(run)
    scale = scale or settings["scale"]
    if scale > settings["scale"]:
        raise InputError(f"run {run} was trained for {settings['scale']}x, not for {scale}x; "
                         "choose a --scale up to that or another --run")
    layers = evaluate.load_layers(settings)
    if scale != settings["scale"]:  # an uncertainty is that of the whole chain
        settings.pop("uncertainty", None)
    last = dict(list(layers.items())[-model.count_stages(scale):])
    used = with_densities(settings, densities)
    return settings, scale, model.compile_chain(last, used, whole_map=True)


def tile_halo_and_size(settings, scale, baselines=False):
    """Halo and side, halo included, of the tiles of a map in coarse cells.

    The halo holds all that a cell of the result depends on: the reach of the chain, the two cells
    of a margin, and the reach of the spline to the fine cells. On own grids that is only compared
    with, in baselines.
    """
    halo = model.receptive_field_radius(settings, scale) + 2
    if settings["grid"] == "fine":
        halo += SPLINE_HALO_CELLS
    elif baselines:
        halo = max(SPLINE_HALO_CELLS, halo)
    return halo, max(MAX_TILE_CELLS // scale, 3 * halo)


def list_tiles(shape, settings, scale, baselines=False, part=(1, 1)):
    """The tiles of a coarse map of `shape` (y, x): pairs (along y, along x) as of split_axis_into_tiles.

    part: (K, N): those of the K-th of N strips, from the lowest y. A strip is of whole rows of
    tiles: they are those of the whole map, and so are their values. InputError where rows are few.
    """
    halo, side = tile_halo_and_size(settings, scale, baselines)
    along_y, (k, n) = utils.split_axis_into_tiles(shape[0], halo, side), part
    if n > len(along_y):
        raise InputError(f"--strip {k}/{n}: the map has {len(along_y)} rows of tiles, so many parts "
                         "at most")
    return [(rows, columns) for rows in along_y[len(along_y) * (k - 1) // n:len(along_y) * k // n]
            for columns in utils.split_axis_into_tiles(shape[1], halo, side)]


def read_tile(ice_map, axes, bed, tile, scale, bed_is_needed):
    """What is needed for one tile of a map, with its halo: a dict of arrays.

    ice_map: the coarse map (see maps); axes: x, y of the fine map [m]; bed: see beds.open_bed_for_map, or
    None; tile: of list_tiles. coarse: (1, y, x) float32 [m] without gaps; topg: the same of the fine
    cells, or None; topg_read: (y, x) m, NaN in its gaps, or None; topg_std: its standard error,
    (1, y, x) m, 0 where the file says none, or None; unknown: fine cells (y, x) where nothing is
    known: a coarse cell is known as a whole or not at all.
    """
    rows, columns = (slice(part.start * scale, part.stop * scale) for _, part in tile)
    whole = tile[0][1], tile[1][1]
    cell = np.ones((scale, scale), bool)
    coarse_unknown = ice_map["no_data"][whole]
    arrays = {"topg": None, "topg_read": None, "topg_std": None}
    unknown = np.kron(coarse_unknown, cell)
    if bed:
        topg = beds.regrid_bed(bed, axes[0][columns], axes[1][rows])
        gaps = np.isnan(topg)
        lacking = gaps.reshape(len(topg) // scale, scale, -1, scale).any(axis=(1, 3))
        coarse_unknown = coarse_unknown & lacking  # no thickness over a known bed: no ice
        unknown = np.kron(coarse_unknown | lacking if bed_is_needed else coarse_unknown, cell)
        arrays |= {"topg_read": topg, "topg": utils.fill_nearest(topg, gaps)[None]}
        if bed["read_topg_std"] and bed_is_needed:
            error = beds.regrid_bed(bed | {"read_topg": bed["read_topg_std"], "change": None},
                                         axes[0][columns], axes[1][rows])
            arrays["topg_std"] = np.maximum(np.nan_to_num(error), 0)[None]
    arrays["coarse"] = utils.fill_nearest(ice_map["thk"][whole], coarse_unknown)[None]
    return arrays | {"no_data": unknown}


def downscale_tiles(chain, ice_map, bed, settings, scale, baselines=False, what="tile", part=(1, 1)):
    """Make a whole map, or a part of it (see list_tiles), finer, tile by tile, with progress.

    chain(thk, topg): see downscale.open_run; ice_map, bed: see read_tile; settings: of the run. Yields
    rows, columns (slices of the fine map) and what is in them: thickness {method: (y, x) float32
    m}, NaN where nothing is known, and topg (y, x) m or None. thickness has the model, with
    baselines those of model.compute_baselines, of a calibrated run its uncertainty: uncertainty.compute_half_width.
    """
    axes = [utils.refine_axis(ice_map[name], scale) for name in "xy"]
    with_topg, started = needs_topg(settings), time.monotonic()
    fit, seen = settings.get("uncertainty"), np.zeros(3)  # free cells: all, unlike, at a margin
    tiles = list_tiles(ice_map["thk"].shape, settings, scale, baselines, part)
    for done, tile in enumerate(tiles, 1):
        arrays = read_tile(ice_map, axes, bed, tile, scale, with_topg)
        coarse, topg, shape = arrays["coarse"], arrays["topg"], arrays["no_data"].shape
        if baselines or settings["grid"] == "fine":
            thk0 = utils.upsample_fields(coarse, shape, "area").astype(np.float32)
        thickness = {}
        if baselines:
            topg0 = None if topg is None else utils.build_levels(topg, scale, "area", "fine")[0]
            thickness = model.compute_baselines(thk0, coarse, topg0, topg, "area",
                                        get_densities(settings["data"]))
        if coarse.any():
            levels = utils.build_levels(topg if with_topg else np.zeros((1, *shape), np.float32),
                                       scale, "area", settings["grid"])
            level0 = coarse if settings["grid"] == "level" else thk0
            (*_, thk), spread = model.predict_ensemble(chain, level0, levels, settings["self_ensemble"])
            if settings["grid"] == "fine":
                thk = model.enforce_consistency(thk, coarse, "area")
            thickness["model"] = model.remove_thin_ice(thk, coarse, "area").numpy()
            spread = model.mask_determined_cells(spread, coarse, "area").numpy()
        else:
            thickness["model"] = np.zeros((1, *shape), np.float32)  # open ocean: nothing to ask
            spread = np.full((1, *shape), np.nan, np.float32)
        own = [slice(part.start * scale, part.stop * scale) for part, _ in tile]
        inside = tuple(slice((part.start - whole.start) * scale, (part.stop - whole.start) * scale)
                       for part, whole in tile)
        if fit:
            types = uncertainty.classify_patches(thickness["model"], topg if with_topg else None,
                                           settings)
            width = uncertainty.compute_half_width(spread, thickness["model"], types, fit)
            if arrays["topg_std"] is not None:
                width = uncertainty.add_bed_error(width, arrays["topg_std"], types["grounded"],
                                                  scale, ice_map["spacing_m"] / scale)
            thickness["uncertainty"] = width
            free = np.isfinite(spread)
            seen += [cells[0][inside].sum() for cells in (
                free, free & (spread > fit["spread_p99_m"]), free & types["boundary_zone"])]
        yield (*own, {method: np.where(arrays["no_data"], np.nan, thk[0])[inside]
                      for method, thk in thickness.items()},
               arrays["topg_read"][inside] if bed else None)
        command_line.show_progress(what, done, len(tiles), (time.monotonic() - started) / done)
    if fit:
        uncertainty.warn_outside_calibration(fit, *(seen[1:] / max(seen[0], 1)))


def print_job(ice_map, settings, scale):
    """Print what a run is asked to make, and where that is not what it was trained for."""
    data, spacing_m = settings["data"], ice_map["spacing_m"]
    print(f"{ice_map['name']}: {ice_map['thk'].shape[1]} x {ice_map['thk'].shape[0]} cells of "
          f"{spacing_m / 1000:g} km to {spacing_m / scale / 1000:g} km with run {settings['run']} "
          f"({scale}x)")
    if data["degrade"] != "area":
        print("note: the run was trained on point samples (bicubic), a map has cell means; a run "
              "on patches made with --degrade area does better")
    if not np.isclose(data["spacing_m"], spacing_m / scale, rtol=0.01):
        print(f"note: the run was trained to end at {data['spacing_m'] / 1000:g} km")
    if "uncertainty" not in settings:
        print(f"note: no thk_uncertainty: run {settings['run']} was not calibrated for {scale}x "
              f"(python train.py --calibrate --run {settings['run']}, for its own scale)")


def result_stem(run, kind, path, ice_map, bed, scale):
    """Where results of a map go, without suffix: maps and beds of one name keep apart."""
    record = "" if ice_map["time_index"] is None else f"_record{ice_map['time_index']}"
    sources = dict.fromkeys(each["sha256"][:8] for each in (ice_map, bed) if each)
    return files.RESULTS / run / f"{kind}_{Path(path).stem}{record}_x{scale}_{'_'.join(sources)}"


def downscale_map(run, map_file, output, bed_file=None, scale=None, record=-1, bed_record=-1,
              options=None, self_ensemble=None, part=(1, 1)):
    """Make a coarse map finer with a run and write it to `output`, CF-1.8 NetCDF; and a figure.

    record: a number, or a range, see command_line.parse_time_option; options: see map_layout.parse_map_options; turns:
    see settings.with_self_ensemble; part: see list_tiles, one of several has no figure. A file that is made
    (fine_map.is_up_to_date) is left.
    """
    files.check_output_path(output, map_file, bed_file)
    options = map_layout.DEFAULT_OPTIONS | (options or {})
    settings, scale, chain = open_run(run, scale, options["densities"])
    files.check_output_path(output, settings["patches"])
    used = with_self_ensemble(with_densities(settings, options["densities"]), self_ensemble)
    of_map, weights = map_options_with_separate_bed(options, settings, bed_file), checkpoints.hash_weights(run)
    several = not isinstance(record, int)
    ice_map = map_files.read_map(map_file, 0 if several else record, **of_map)
    numbers, time_axis, sha256 = [record], None, ice_map["sha256"]
    dim, count = ice_map["times"] or (None, 1)
    if several:
        numbers = command_line.parse_time_option(record, count, map_file)
    if several and dim:
        values, about, bounds = map_files.read_time_axis(map_file, dim)
        time_axis = values[numbers], about, None if bounds is None else bounds[numbers]
        if numbers[0] != 0:
            ice_map = map_files.read_map(map_file, numbers[0], **of_map, sha256=sha256)
        if count > 1:
            ice_map["time_label"] = f"records {numbers[0]} to {numbers[-1]} of {count}"
    map_files.print_map_summary(ice_map)
    print_job(ice_map, settings, scale)
    tiles = list_tiles(ice_map["thk"].shape, settings, scale, part=part)
    strip = slice(scale * tiles[0][0][0].start, scale * tiles[-1][0][0].stop)
    spacing_m, densities = ice_map["spacing_m"], get_densities(used["data"])
    crs, notes = ice_map["crs"], list(ice_map["notes"])
    if not crs and projections.looks_antarctic(ice_map):
        notes.append("the map says nothing of its projection and fits Antarctica's: taken for "
                     "EPSG:3031")
        crs = projections.EPSG_3031
        print(f"note: {notes[-1]}")
    with beds.open_bed_for_map(ice_map, settings, bed_file, bed_record, options) as bed:
        if bed and bed["change"]:
            notes.append("the bed is that of the first record, and what the map's own has risen "
                         "since is added")
            print(f"note: {notes[-1]}")
        if bed and bed["spacing_m"] > 0.999 * spacing_m:
            print(f"note: the bed of {bed['name']} is no finer than the map; little can be gained")
        sources = [each for each in (ice_map, bed) if each]
        names = dict.fromkeys(each["name"] + (f" ({each['time_label']})" if each["time_label"]
                                              else "") for each in sources)
        fit = used.get("uncertainty")
        attributes = {
            "title": f"{ice_map['title'] or ice_map['name']}, ice thickness downscaled {scale}x to "
                     f"{spacing_m / scale:g} m",
            "history": files.history_entry(),
            "source": f"{' with the bed of '.join(names)}; recurrent SRCNN, run {run}, trained on "
                      f"{settings['data']['source']}",
            "source_variables": "; ".join(dict.fromkeys(each["variables_read"] for each in sources)),
            "citation": "; ".join(filter(None, dict.fromkeys(
                each["citation"] for each in sources))),
            "source_sha256": ice_map["sha256"], "bed_sha256": bed["sha256"] if bed else "",
            "densities": "ice {:g}, sea water {:g} kg m-3".format(*densities),
            "strip": "{}/{}".format(*part), "self_ensemble": used["self_ensemble"],
            "model_run": run, "model_settings": json.dumps(settings),
            "model_weights_sha256": weights,
            "model_training_citation": settings["data"]["citation"],
            "model_scores": json.dumps(checkpoints.read_run_scores(run, weights)),
            "uncertainty": fit and (
                "thk - thk_uncertainty (0 where that is less) to thk + thk_uncertainty covers 90 % "
                f"of the cells of {fit['n_patches']['all']} patches of {settings['data']['source']} "
                f"that the run was trained on and of {fit['n_held_out']} held out; 0 where the "
                "coarse map has no ice; errors of the coarse map are not in it; those of the bed "
                + (f"are in it, where ice is grounded, by the standard error in {bed['name']}, of "
                   "which what is equal all over a coarse cell is left out: correlated over "
                   f"{uncertainty.BED_LENGTH_M / 1000:g} km" if bed and bed["read_topg_std"]
                   else "are not in it")) or "",
            "versions": json.dumps(files.library_versions()), "code_sha256": files.hash_code(),
            "comment": "; ".join(["thk averaged over the cells of the coarse map gives it back",
                                  *notes]),
            **({"synthetic": "yes"} if ice_map["synthetic"] else {})}

        def records():
            for done, number in enumerate(numbers):
                each, what = ice_map, "tile"
                if done:
                    each = map_files.read_map(map_file, number, **of_map, sha256=sha256)
                    if bed and not bed_file and each["topg"] is None:
                        raise InputError(f"{map_file}: record {number} has no bed, others have; "
                                         "give one with --bed")
                    map_files.print_map_summary(each | {"variables_read": "", "notes": [
                        note for note in each["notes"] if note not in notes]})
                if time_axis:
                    what = f"record {done + 1}/{len(numbers)}, tile"
                of_record = bed | {"change": beds.bed_change_since_first_time(each)} if bed_file else (
                    beds.bed_in_memory(each))
                yield each, downscale_tiles(chain, each, of_record, used, scale, False, what, part)

        halo, side = tile_halo_and_size(settings, scale)
        if fine_map.is_up_to_date(output, attributes):
            print(f"{output}: complete, left as it is")
        else:
            apart, lost = fine_map.write_tiles(
                output, records(), ice_map, bed, crs, scale, (side - 2 * halo) * scale, attributes,
                densities, time_axis, strip)
            for text in filter(None, (apart, lost and f"note: {lost}", f"wrote    {output}")):
                print(text)
    if part != (1, 1):
        return
    path = f"{result_stem(run, 'map', output, ice_map, bed, scale)}.png"
    figures.save_figure(figures.plot_downscaled(output, ice_map, used, scale), path,
                  make_provenance(settings, ice_map, bed, scale))
    print(f"figure   {path}")


def map_options_with_separate_bed(options, settings, bed_file):
    """Options of map_files.read_map for a map beside a bed file, of which --variables topg= is then."""
    names = {field: name for field, name in (options["names"] or {}).items()
             if field != "topg" or bed_file is None}
    return options | {"names": names, "densities": options["densities"] or get_densities(
        settings["data"])}


def make_provenance(settings, ice_map, bed, scale):
    """What made a result of a whole map: for JSON."""
    of_bed = {f"bed{suffix}": bed[key] for suffix, key in (
        ("", "name"), ("_sha256", "sha256"), ("_record", "time_label"))} if bed else {}
    return {"run": settings["run"], "scale": scale, "degrade": "area", "map": ice_map["name"],
            "map_sha256": ice_map["sha256"], "time_index": ice_map["time_label"], **of_bed,
            "citation": ice_map["citation"], "synthetic": ice_map["synthetic"],
            "weights_sha256": checkpoints.hash_weights(settings["run"]), "settings": settings}


def reconstruct(chain, fine, coarse, settings, scale):
    """What refine makes of a coarse map, and baselines: {method: (y, x) m}; maps: of coarsen."""
    by_method, bed = {}, beds.bed_in_memory(fine)
    if bed:
        bed |= {"read_topg_std": None}  # the label was made of this very bed
    for rows, columns, thickness, _ in downscale_tiles(chain, coarse, bed, settings, scale, baselines=True):
        for method, thk in thickness.items():
            by_method.setdefault(method, np.empty(fine["thk"].shape, np.float32))[
                rows, columns] = thk
    return by_method


def run_reconstruction_test(run, map_file, bed_file=None, scale=None, record=-1, bed_record=-1, options=None,
             self_ensemble=None):
    """Reduce a fine map to cell means, rebuild it with a run, and score that against the map.

    options: see map_layout.parse_map_options; turns: see settings.with_self_ensemble.
    Writes results/<run>/reconstruction_<map>_x<scale>_<checksum>.json and .png; returns the metrics.
    """
    options = map_layout.DEFAULT_OPTIONS | (options or {})
    settings, scale, chain = open_run(run, scale, options["densities"])
    used = with_self_ensemble(with_densities(settings, options["densities"]), self_ensemble)
    ice_map = map_files.read_map(map_file, record, **map_options_with_separate_bed(options, settings, bed_file))
    map_files.print_map_summary(ice_map)
    with beds.open_bed_for_map(ice_map, settings, bed_file, bed_record, options) as bed:
        if bed_file is not None:
            topg = beds.regrid_bed(bed, ice_map["x"], ice_map["y"])
            if ice_map["topg"] is not None:
                print(beds.describe_bed_difference(ice_map, topg, bed))
            ice_map["topg"] = topg
            ice_map["no_data"] &= np.isnan(ice_map["topg"])
    if needs_topg(settings) and np.isnan(ice_map["topg"]).all():
        raise InputError(f"{bed_file or map_file}: the bed is missing in every cell of the map; "
                         "give another with --bed")
    fine, coarse = reconstruction.coarsen_map(ice_map, scale)
    if fine["thk"].shape != ice_map["thk"].shape:
        print(f"{scale}x: {fine['thk'].shape[0]} x {fine['thk'].shape[1]} of the "
              f"{ice_map['thk'].shape} cells make whole coarse cells")
    print_job(coarse, settings, scale)
    by_method = reconstruct(chain, fine, coarse, used, scale)
    made_by = make_provenance(settings, fine, bed, scale)
    metrics = made_by | {
        "from_km": fine["spacing_m"] * scale / 1000, "to_km": fine["spacing_m"] / 1000,
        "cells": list(fine["thk"].shape),
        "densities": list(get_densities(used["data"])), "self_ensemble": used["self_ensemble"],
        **reconstruction.score_reconstruction(by_method, fine, coarse, used, scale),
        "versions": files.library_versions(), "command": command_line.command_text()}
    path = result_stem(run, f"reconstruction_self_ensemble{self_ensemble}" if self_ensemble else "reconstruction", map_file, fine, bed,
                       scale)
    files.write_json(f"{path}.json", metrics)
    reconstruction.print_reconstruction(metrics)
    if metrics["all"]["errors"]:
        figures.save_figure(figures.plot_reconstruction(metrics, by_method, fine), f"{path}.png", made_by)
        print(f"\nfigure   {path}.png")
    return metrics


def main(argv=None):
    parser = command_line.make_argument_parser(__doc__)
    parser.add_argument("map", metavar="MAP.nc", help="the map, its thickness means over its cells")
    parser.add_argument("--run", metavar="NAME", required=True, help="the trained run")
    parser.add_argument("--output", metavar="FINE.nc", help="where the finer map goes")
    parser.add_argument("--reconstruct", action="store_true",
                        help="reduce the map, rebuild it and score that, in place of --output")
    parser.add_argument("--bed", metavar="BED.nc", help="the bed (default: that of the map)")
    parser.add_argument("--scale", type=int, choices=SCALES, help="default: that of the run")
    parser.add_argument("--time", metavar="N|N:M|all", help="record of MAP.nc, from 0 (default: "
                        "the last); a range, without M; or all")
    parser.add_argument("--bed-time", type=int, metavar="N",
                        help="record of BED.nc, from 0 (default: the last)")
    parser.add_argument("--self-ensemble", type=int, choices=tuple(SELF_ENSEMBLE_MEMBERS), help="flips and turns of "
                        "the map that are averaged (default: as the run was trained for, mostly 8)")
    parser.add_argument("--strip", metavar="K/N", help="make only the K-th of N strips of the map, "
                        "together the whole, bit for bit")
    map_layout.add_map_arguments(parser)
    parser.add_argument("--show", action="store_true", help="also show the figure on screen")
    args = parser.parse_args(argv)
    if args.reconstruct == (args.output is not None):
        raise InputError("give --output FINE.nc to make the map finer, or --reconstruct to score the "
                         "run on it")
    if args.bed_time is not None and args.bed is None:
        raise InputError("--bed-time: goes with --bed BED.nc")
    run = command_line.check_run_name(args.run)
    record, bed_record = args.time or "-1", -1 if args.bed_time is None else args.bed_time
    if not re.fullmatch(r"-?\d{1,9}|all|(-?\d{1,9})?:(-?\d{1,9})?", record) or (
            args.reconstruct and not re.fullmatch(r"-?\d{1,9}", record)):
        raise InputError(f"--time {record[:20]}: expected the number of a record"
                         + ("" if args.reconstruct else ", a range N:M, or all"))
    part = re.fullmatch(r"0*([1-9]\d*)/0*([1-9]\d*)", args.strip or "1/1")
    part = part and tuple(map(int, part.groups()))
    if not part or part[0] > part[1] or (args.strip and args.reconstruct):
        raise InputError(f"--strip {args.strip}: expected K/N, the K-th of N parts, from 1/N to N/N, "
                         "with --output")
    record = int(record) if re.fullmatch(r"-?\d{1,9}", record) else record
    options = map_layout.parse_map_options(args)
    figures.select_backend(args.show)
    set_up_device()
    if args.reconstruct:
        run_reconstruction_test(run, args.map, args.bed, args.scale, record, bed_record, options, args.self_ensemble)
    else:
        downscale_map(run, args.map, args.output, args.bed, args.scale, record, bed_record, options,
                  args.self_ensemble, part)
    if args.show:
        figures.show()
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
