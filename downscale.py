"""Downscale whole ice-thickness maps with a trained run, or test the run on a map.

    python downscale.py MAP.nc --run map --scale 4 --output FINE.nc                # 4 times finer
    python downscale.py MAP.nc --run map --scale 4 --output FINE.nc --bed BED.nc  # with a finer bed
    python downscale.py MAP.nc --run map --scale 4 --reconstruct    # coarsen, reconstruct, compare
    python downscale.py --help

Reads checkpoints/<run>/; writes FINE.nc, and scores and figures to results/<run>/. The mean of the
finer thickness over each cell of the coarse map equals the coarse thickness. A map is computed in
overlapping tiles, so memory holds the coarse map and one tile. Nothing is trained here.

On a cluster, times and strips of a map are independent jobs. After a failure submit the same
command again: files that are complete, by the same code from the same input, are left as they are.

    #!/bin/bash
    #SBATCH --array=1-8 --cpus-per-task=1 --mem=3G
    export OMP_NUM_THREADS=1 K=$SLURM_ARRAY_TASK_ID
    python downscale.py MAP.nc --run map --scale 4 --output FINE_$K.nc --strip $K/8   # or --time $K

On one machine, one job a core with one thread each takes the least time: a second thread in a job
costs a fifth more CPU time.

    export OMP_NUM_THREADS=1 COMMAND="downscale.py MAP.nc --run map --scale 4"
    seq 8 | xargs -P 2 -I{} python $COMMAND --output FINE_{}.nc --strip {}/8
    seq 0 285 | parallel -j 2 python $COMMAND --output YEAR_{}.nc --time {}

A map has one strip for about every 650 fine cells along y (850 at 2x) at most. Strips have no
figure; together they equal the whole map bit for bit: xarray.open_mfdataset("FINE_*.nc",
combine="by_coords", data_vars="minimal") or gdalbuildvrt thk.vrt NETCDF:FINE_1.nc:thk ...
"""

import functools
import time

import numpy as np

import evaluate
import model
import utils
from icesheet import (
    beds, checkpoints, command_line, downscaling_options, figures, files, fine_map, ice_numbers,
    map_files, map_layout, members, reconstruction, subgrid, tiles, uncertainty)
from icesheet.command_line import InputError
from icesheet.device import set_up_device
from icesheet.settings import get_densities, needs_topg, with_densities, with_self_ensemble

# ---- Settings ---------------------------------------------------------------------------------
MAX_TILE_CELLS = 896  # side of a tile with its halo, in fine cells: 1.6 GB
SPLINE_HALO_CELLS = 16  # coarse cells at which a step of 4000 m changes a spline by < 0.01 mm


def open_run(run, scale=None, densities=None):
    """Return a trained run: its settings, the scale, its chain (thk, topg), its weights' checksum.

    scale: smaller than the run's uses the last stages only, and has no calibrated uncertainty.
    densities: of ice and sea water [kg m-3] for the chain; the settings stay what they are.
    Raises InputError if there is no such run or it has too few stages.
    """
    settings = checkpoints.read_settings(run)
    scale = scale or settings["scale"]
    if scale > settings["scale"]:
        raise InputError(f"run {run} was trained for {settings['scale']}x, not for {scale}x; "
                         "choose a --scale up to that or another --run")
    layers, checkpoint_info = evaluate.load_layers(settings)
    if scale != settings["scale"]:  # intervals are calibrated for each number of stages
        settings.pop("uncertainty", None)
        fit = settings.get("uncertainty_of_scales", {}).get(str(scale))
        settings |= {"uncertainty": fit} if fit else {}
    # Each stage doubles the resolution whatever that is, so the last ones serve a smaller scale.
    chain = model.compile_chain(model.take_last_stages(layers, scale),
                                with_densities(settings, densities), whole_map=True)
    return settings, scale, chain, checkpoint_info["weights_sha256"]


def tile_halo_and_size(settings, scale, baselines=False):
    """Return halo width and tile size, halo included, in coarse cells.

    The halo covers all that a result cell depends on: the receptive field of the chain, two cells
    for the boundary zone and, on the fine grid or with baselines, the stencil of the spline.
    """
    halo = model.receptive_field_radius(settings, scale) + 2
    if settings["grid"] == "fine":  # its input is a spline through the coarse values
        halo += SPLINE_HALO_CELLS
    elif baselines:
        halo = max(SPLINE_HALO_CELLS, halo)
    # At least a third of a tile's side is core, or most of the time would go into halos.
    return halo, max(MAX_TILE_CELLS // scale, 3 * halo)


def list_tiles(shape, settings, scale, baselines=False, strip=(1, 1)):
    """List the tiles of a coarse map (y, x): pairs (y, x) of utils.split_axis_into_tiles.

    strip: (K, N), those of strip K of N from the lowest y. Raises InputError for too large an N.
    """
    halo, size = tile_halo_and_size(settings, scale, baselines)
    along_y, (k, n) = utils.split_axis_into_tiles(shape[0], halo, size), strip
    if n > len(along_y):
        raise InputError(f"--strip {k}/{n}: this map can be divided into at most {len(along_y)} "
                         f"strips; choose N <= {len(along_y)}")
    # Whole rows of the undivided map's tiles, so a strip has the same values, bit for bit.
    return [(rows, columns) for rows in along_y[len(along_y) * (k - 1) // n:len(along_y) * k // n]
            for columns in utils.split_axis_into_tiles(shape[1], halo, size)]


def predict_tile(chain, arrays, settings, scale, baselines):
    """Return {method: thickness (1, y, x) [m]} of a tile, and the ensemble spread [m].

    The methods are the model's and, with baselines, those of model.compute_baselines. The spread is
    NaN where the coarse map determines the thickness.
    """
    coarse, topg, shape = arrays["coarse"], arrays["topg"], arrays["source"].shape
    thk_by_method, level0 = {}, coarse
    if baselines or settings["grid"] == "fine":
        thk0 = utils.upsample_fields(coarse, shape, "area").astype(np.float32)
    if baselines:
        topg0 = None if topg is None else utils.build_levels(topg, scale, "area", "fine")[0]
        thk_by_method = model.compute_baselines(thk0, coarse, topg0, topg, "area",
                                                get_densities(settings["data"]))
    if not coarse.any():  # open ocean: there is nothing to compute
        return (thk_by_method | {"model": np.zeros((1, *shape), np.float32)},
                np.full((1, *shape), np.nan, np.float32))
    # The chain takes a bed at every level, also of runs that make no use of it.
    levels = utils.build_levels(topg if needs_topg(settings) else np.zeros((1, *shape), np.float32),
                                scale, "area", settings["grid"])
    if settings["grid"] == "fine":
        level0 = thk0
    (*_, thk), spread = model.predict_ensemble(chain, level0, levels, settings["self_ensemble"])
    if settings["grid"] == "fine":  # a chain on the fine grid does not see the coarse cells
        thk = model.enforce_consistency(thk, coarse, "area")
    thk = model.remove_thin_ice(thk, coarse, "area").numpy()
    source = arrays["source"][None]
    thk = interpolate_without_bed(thk, coarse, source == tiles.BICUBIC, scale)
    # The network was given the nearest known thickness there.
    thk = np.where(source == tiles.FILLED, np.float32(0), thk)
    return (thk_by_method | {"model": thk},
            model.mask_determined_cells(spread, coarse, "area").numpy())


def interpolate_without_bed(thk, coarse, without_bed, scale):
    """Return a thickness (1, y, x) [m] that is bicubic in the cells `without_bed` (bool).

    In coarse cells with such cells the whole is scaled to the coarse thickness, so the mean over
    all of their cells is kept, of which the others are the network's. Other coarse cells stay as
    they are.
    """
    if not without_bed.any():
        return thk
    # Cubic convolution reaches two coarse cells, a spline the whole tile: its result would depend
    # on the tiles.
    bicubic = model.regrid_level(coarse, thk.shape[1:], utils.catmull_rom_matrix, "area").numpy()
    mixed = np.where(without_bed, bicubic, thk)
    mixed = model.enforce_consistency(mixed, coarse, "area").numpy()
    # Only these: scaling the others once more would change their last digits.
    affected = without_bed.reshape(1, coarse.shape[1], scale, -1, scale).any(axis=(2, 4))
    return np.where(np.kron(affected, np.ones((1, scale, scale), bool)), mixed, thk)


def downscale_tiles(chain, ice_map, bed, settings, scale, baselines=False, label="tile",
                    strip=(1, 1), fill_missing=False, drawn=None):
    """Downscale a whole map or a strip of it (see list_tiles) tile by tile, with progress.

    chain: of open_run; ice_map, bed, fill_missing: of tiles.read_tile; settings: of the run; label:
    of the progress; drawn: the members to draw, {"numbers": [int], "seed": int}.
    Yields rows, columns (slices of the fine map), {method: thickness (y, x) float32 [m]}, NaN where
    nothing is known, and the fields topg_read, usrf_read, source and is_own_bed of tiles.read_tile
    with members, an iterator over (y, x) [m] (see draw_tile_members).
    Methods are those of predict_tile, and "uncertainty" of a calibrated run: the half-width of
    uncertainty.compute_half_width, NaN where the thickness is not the network's.
    """
    axes = [utils.refine_axis(ice_map[name], scale) for name in "xy"]
    fit, started = settings.get("uncertainty"), time.monotonic()
    cell_counts = np.zeros(3)  # undetermined cells: all, above spread_p99_m, in the boundary zone
    tile_list = list_tiles(ice_map["thk"].shape, settings, scale, baselines, strip)
    for done, tile in enumerate(tile_list, 1):
        arrays = tiles.read_tile(ice_map, axes, bed, tile, scale, needs_topg(settings),
                                 fill_missing)
        thk_by_method, spread = predict_tile(chain, arrays, settings, scale, baselines)
        drawn_members = ()
        # The core of a tile is what counts of it; in the halo values may be wrong.
        core = [slice(own.start * scale, own.stop * scale) for own, _ in tile]
        core_in_tile = tuple(
            slice((own.start - halo.start) * scale, (own.stop - halo.start) * scale)
            for own, halo in tile)
        if fit:
            width, types, groups = estimate_uncertainty(
                thk_by_method["model"], spread, arrays, settings, scale, ice_map["spacing_m"])
            thk_by_method["uncertainty"] = width
            if drawn:
                drawn_members = draw_tile_members(thk_by_method["model"], width, types, arrays, fit,
                                                  drawn, tile, core_in_tile)
            cell_counts += [cells[0][core_in_tile].sum() for cells in groups]
        thk_by_method = {method: np.where(arrays["source"] == -1, np.nan, thk[0])[core_in_tile]
                         for method, thk in thk_by_method.items()}
        yield (*core, thk_by_method, {"members": drawn_members} | {
            name: None if arrays[name] is None else arrays[name][core_in_tile]
            for name in ("topg_read", "usrf_read", "source", "is_own_bed")})
        command_line.show_progress(label, done, len(tile_list), (time.monotonic() - started) / done)
    if fit:
        uncertainty.warn_outside_calibration(fit, *(cell_counts[1:] / max(cell_counts[0], 1)))


def draw_tile_members(thk, width, types, arrays, fit, drawn, tile, core_in_tile):
    """Yield the members of a tile's core, (y, x) [m], one by one: they may be many.

    thk, width, types: of the tile, (1, y, x); others: of downscale_tiles.
    """
    coarse, types = arrays["coarse"][0], {name: cells[0] for name, cells in types.items()}
    scale = thk.shape[1] // len(coarse)
    rows, columns = (slice(halo.start * scale, halo.stop * scale) for _, halo in tile)
    for number in drawn["numbers"]:
        member = members.draw_member(thk[0], coarse, width[0], types, fit, drawn["seed"], number,
                                     rows, columns, model.remove_thin_ice_compiled)
        yield np.where(arrays["source"] == -1, np.nan, member)[core_in_tile]


def estimate_uncertainty(thk, spread, arrays, settings, scale, coarse_spacing_m):
    """Return the half-width of the 90 % interval of a tile's thickness [m], (1, y, x).

    NaN where the thickness is neither the network's nor determined. And the surface types, and
    three groups of cells (bool): undetermined ones, those with a spread above spread_p99_m, those
    in the boundary zone.
    """
    fit, source = settings["uncertainty"], arrays["source"]
    topg = arrays["topg"] if needs_topg(settings) else None
    # The boundary zone is as wide as it was in the calibration for this scale.
    types = uncertainty.classify_patches(thk, topg, settings | {"scale": scale})
    width = uncertainty.compute_half_width(spread, thk, types, fit)
    if arrays["topg_std"] is not None:
        width = uncertainty.add_bed_error(width, arrays["topg_std"], types["grounded"], scale,
                                          coarse_spacing_m / scale)
    width = np.where(np.isin(source, (tiles.BICUBIC, tiles.FILLED)), np.nan, width)
    # Without a bed the spread says nothing of the map: the network saw a bed that was filled in.
    undetermined = np.isfinite(spread) & (source != tiles.BICUBIC)
    return width, types, (undetermined, undetermined & (spread > fit["spread_p99_m"]),
                          undetermined & types["boundary_zone"])


def print_job(ice_map, settings, scale):
    """Print what a run is asked to compute, and where it was not trained for that."""
    run, data, spacing_m = settings["run"], settings["data"], ice_map["spacing_m"]
    print(f"{ice_map['name']}: {ice_map['thk'].shape[1]} x {ice_map['thk'].shape[0]} cells of "
          f"{spacing_m / 1000:g} km to {spacing_m / scale / 1000:g} km with run {run} ({scale}x)")
    if data["degrade"] != "area":
        print(f"warning: run {run} was trained on point samples (--degrade bicubic), but maps are "
              "treated as cell means. A run trained with --degrade area is more accurate")
    # No warning: runs of recipe map are meant for other resolutions too, those on whole maps most.
    if "maps" not in data and not np.isclose(data["spacing_m"], spacing_m / scale, rtol=0.01):
        print(f"note: the run was trained for a resolution of {data['spacing_m'] / 1000:g} km")
    if "uncertainty" not in settings:
        print(f"warning: no thk_uncertainty: run {run} is not calibrated for {scale}x "
              f"(python train.py --calibrate --run {run}, for its own scale)")


def downscale_map(run, map_file, output, bed_file=None, scale=None, time_option=-1, bed_time=-1,
                  options=None, self_ensemble=None, strip=(1, 1), fill_missing=False,
                  reference=None, drawn=None):
    """Downscale a coarse map with a run: write `output` (CF-1.8 NetCDF) and a figure of it.

    time_option: see select_times; options: of map_layout.parse_map_options; self_ensemble: see
    settings.with_self_ensemble; strip: (K, N), see list_tiles, a strip has no figure; fill_missing:
    see tiles.read_tile; reference: (path, time index) of the reference bed, see open_bed_for_map;
    drawn: see downscale_tiles.
    """
    # Before anything is computed: the output must not destroy what is read.
    files.check_output_path(output, map_file, bed_file, reference and reference[0])
    options = map_layout.DEFAULT_OPTIONS | (options or {})
    settings, scale, chain, weights_sha256 = open_run(run, scale, options["densities"])
    files.check_output_path(output, settings.get("patches"))
    effective = with_self_ensemble(with_densities(settings, options["densities"]), self_ensemble)
    members.require_fit(settings, effective, drawn)
    map_options = map_options_with_separate_bed(options, settings, bed_file)
    ice_map, indices, time_axis = tiles.select_times(map_file, time_option, map_options)
    map_files.print_map_summary(ice_map)
    print_job(ice_map, settings, scale)
    strip_tiles = list_tiles(ice_map["thk"].shape, settings, scale, strip=strip)
    fine_rows = slice(scale * strip_tiles[0][0][0].start, scale * strip_tiles[-1][0][0].stop)
    halo, size = tile_halo_and_size(settings, scale)
    with beds.open_bed_for_map(ice_map, settings, bed_file, bed_time, options, reference) as bed:
        crs, notes = fine_map.choose_crs_and_note(ice_map, bed)
        attributes = members.describe_members(drawn) | fine_map.make_attributes(
            ice_map, bed, settings, effective, scale, strip, fill_missing, weights_sha256,
            [*ice_map["notes"], *notes])
        # A chunk of the file is the core of a tile, so each is compressed and written once.
        layout = {"scale": scale, "crs": crs, "chunk_cells": (size - 2 * halo) * scale,
                  "densities": get_densities(effective["data"]), "time_axis": time_axis,
                  "strip": fine_rows, "members": drawn["numbers"] if drawn else []}
        if fine_map.is_up_to_date(output, ice_map, layout, attributes):
            print(f"{output}: complete, left as it is")
        else:
            label = "time {}/" + f"{len(indices)}, tile" if time_axis else "tile"
            slices = tiles.read_time_slices(map_file, ice_map, indices, map_options, bed, bed_file)
            # Generators: a map is read and a tile computed when the file is ready for it.
            tiles_by_time = (
                (map_at_time, downscale_tiles(chain, map_at_time, bed_at_time, effective, scale,
                                              label=label.format(number), strip=strip,
                                              fill_missing=fill_missing, drawn=drawn))
                for number, (map_at_time, bed_at_time) in enumerate(slices, 1))
            fine_map.write_tiles(output, tiles_by_time, ice_map, bed, layout, attributes)
            print(f"wrote    {output}")
        ice_numbers.print_ice_numbers(output)
    if strip == (1, 1):
        provenance = fine_map.make_provenance(settings, ice_map, bed, scale, weights_sha256)
        save_map_figures(output, ice_map, bed, effective, scale, provenance, drawn)


def save_map_figures(output, ice_map, bed, settings, scale, provenance, drawn):
    """Save the figure of a finer map, and that of its members."""
    plots = {"map": figures.plot_downscaled} | ({"members": members.plot_members} if drawn else {})
    for kind, plot in plots.items():
        stem = fine_map.result_stem(settings["run"], kind, output, ice_map, bed, scale)
        save_figure_or_warn(functools.partial(plot, output, ice_map, settings, scale),
                            f"{stem}.png", provenance)


def save_figure_or_warn(plot, path, provenance):
    """Save the figure that plot() returns; print a warning where that fails.

    The result is written already, and a job that ends with an error would be started again.
    """
    try:
        figures.save_figure(plot(), path, provenance)
        print(f"figure   {path}")
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        print(f"warning: no figure: {command_line.one_line(error)}")


def map_options_with_separate_bed(options, settings, bed_file):
    """Return the options for reading the map; with a bed file, topg=... is of that file."""
    of_map = {key: {field: value for field, value in options[key].items()
                    if field != "topg" or bed_file is None} for key in ("names", "units")}
    return options | of_map | {"densities": options["densities"] or get_densities(
        settings["data"])}


def reconstruct(chain, fine, coarse, settings, scale):
    """Reconstruct a map of reconstruction.coarsen_map: {method: thickness (y, x) [m]}.

    Methods: the model, model.compute_baselines and, of a calibrated run, "uncertainty". NaN in
    coarse cells with a gap in a bed that is needed: not all of their thickness is the network's.
    """
    thk_by_method, bed = {}, beds.bed_in_memory(fine)
    if bed:  # the very bed of the reference, so without an error
        bed |= {"read_topg_std": None}
    for rows, columns, thickness, fields in downscale_tiles(chain, coarse, bed, settings, scale,
                                                            True):
        gaps = np.zeros((1, 1), bool)
        if needs_topg(settings):
            gaps = reconstruction.split_into_coarse_cells(np.isnan(fields["topg_read"]), scale)
            gaps = np.kron(gaps.any(axis=(1, 3)), np.ones((scale, scale), bool))
        for method, thk in thickness.items():
            whole = thk_by_method.setdefault(method, np.empty(fine["thk"].shape, np.float32))
            whole[rows, columns] = np.where(gaps, np.nan, thk)
    return thk_by_method


def run_reconstruction_test(run, map_file, bed_file=None, scale=None, time_index=-1, bed_time=-1,
                            options=None, self_ensemble=None, reference=None):
    """Coarsen a fine map to cell means, reconstruct it with a run and score it against the map.

    Writes results/<run>/reconstruction_<map>_x<scale>_<checksum>.json and .png; returns the
    metrics. Other arguments: as of downscale_map.
    """
    options = map_layout.DEFAULT_OPTIONS | (options or {})
    settings, scale, chain, weights_sha256 = open_run(run, scale, options["densities"])
    effective = with_self_ensemble(with_densities(settings, options["densities"]), self_ensemble)
    map_options = map_options_with_separate_bed(options, settings, bed_file)
    ice_map = map_files.read_map(map_file, time_index, **map_options)
    map_files.print_map_summary(ice_map)
    with beds.open_bed_for_map(ice_map, settings, bed_file, bed_time, options, reference) as bed:
        if bed_file is not None:
            for note in [*beds.describe_bed_change(ice_map, bed),
                         *beds.describe_bed_difference(ice_map, bed)]:
                print(note)
            topg = ice_map["topg"] = beds.regrid_bed(bed, ice_map["x"], ice_map["y"])
            # As in a coarse map: no thickness over a known bed means that there is no ice.
            ice_map["no_data"] &= np.isnan(topg)
    # A bed file may overlap the map without a single value there.
    if needs_topg(settings) and np.isnan(ice_map["topg"]).all():
        raise InputError(f"{bed_file or map_file}: the bed is missing in every cell of the map; "
                         "give another with --bed")
    fine, coarse = reconstruction.coarsen_map(ice_map, scale)
    if fine["thk"].shape != ice_map["thk"].shape:
        print(f"{scale}x: {fine['thk'].shape[0]} x {fine['thk'].shape[1]} of the "
              f"{ice_map['thk'].shape} cells make whole coarse cells")
    print_job(coarse, settings, scale)
    thk_by_method = reconstruct(chain, fine, coarse, effective, scale)
    provenance = fine_map.make_provenance(settings, fine, bed, scale, weights_sha256)
    metrics = provenance | {
        "from_km": fine["spacing_m"] * scale / 1000, "to_km": fine["spacing_m"] / 1000,
        "cells": list(fine["thk"].shape), "densities": list(get_densities(effective["data"])),
        "self_ensemble": effective["self_ensemble"],
        **reconstruction.score_reconstruction(thk_by_method, fine, coarse, effective, scale),
        "versions": files.package_versions(), "command": command_line.command_text()}
    kind = f"reconstruction_self_ensemble{self_ensemble}" if self_ensemble else "reconstruction"
    path = fine_map.result_stem(run, kind, map_file, fine, bed, scale)
    files.write_json(f"{path}.json", metrics)
    reconstruction.print_reconstruction(metrics)
    if metrics["all"]["errors"]:
        print()
        save_figure_or_warn(lambda: figures.plot_reconstruction(metrics, thk_by_method, fine),
                            f"{path}.png", provenance)
    return metrics


def main(argv=None):
    """Run the command."""
    args = downscaling_options.parse_downscaling_arguments(__doc__, argv)
    options = map_layout.parse_map_options(args)
    figures.select_backend(args.show)
    files.choose_checkpoints(args.run)  # this program reads runs and writes none
    set_up_device()
    bed_time = -1 if args.bed_time is None else args.bed_time
    if args.reconstruct:
        run_reconstruction_test(args.run, args.map, args.bed, args.scale, args.time, bed_time,
                                options, args.self_ensemble, args.reference)
    else:
        if args.coarse_output:  # before the work
            files.check_output_path(args.coarse_output, args.map, args.bed, args.reference_bed,
                                    args.output)
        downscale_map(args.run, args.map, args.output, args.bed, args.scale, args.time, bed_time,
                      options, args.self_ensemble, args.strip, args.fill_missing, args.reference,
                      args.drawn)
        if args.coarse_output:
            subgrid.write_subgrid_file(args.coarse_output, args.output)
    if args.show:
        figures.show()
    return 0


if __name__ == "__main__":
    command_line.run_script(main)
