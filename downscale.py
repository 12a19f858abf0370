"""Make whole ice-thickness maps finer with a trained run; or score the run on a map (hindcast).

    python downscale.py MAP.nc --run map_x2 --output FINE.nc                 # the map, 2x finer
    python downscale.py MAP.nc --run map_x4 --output FINE.nc --bed BED.nc    # with a finer bed
    python downscale.py MAP.nc --run map_x4 --output FINE_1.nc --part 1/4    # a strip of it
    python downscale.py MAP.nc --run map_x4 --hindcast    # reduce it, rebuild it, score that

The map is worked through in tiles that overlap: memory holds the coarse map and one tile. Averaged
over the cells of the coarse map, the finer thickness gives that map back. Reads checkpoints/<run>/;
writes FINE.nc, and scores and figures to results/<run>/. Nothing is trained here.
"""

import contextlib
import json
import re
import time
from pathlib import Path

import numpy as np
import scipy.ndimage

import evaluate
import figures
import flow
import maps
import model
import prepare_data
import projections
import runs
import uncertainty
import utils
from figures import METHODS
from icesheet.device import set_up_device
from utils import InputError

# ---- Settings ---------------------------------------------------------------------------------
TILE = 896          # side of a tile with its halo, in fine cells: 1.6 GB
SPLINE_HALO = 16    # coarse cells after which a cubic spline forgets 4000 m (< 0.01 mm)
NEAR_ICE = 8        # a hindcast is scored on ice and so many cells around it
# -----------------------------------------------------------------------------------------------


# ---------------------------------------------------------------- the bed


def rise_of_bed(ice_map):
    """What the bed of a map has risen since its first record, as a bed (see maps.open_bed)."""
    if ice_map["topg_change"] is None:
        return None
    change = utils.fill_nearest(ice_map["topg_change"], np.isnan(ice_map["topg_change"]))
    return maps.bed_of_map(ice_map) | {"read": lambda rows, columns: change[rows, columns]}


def own_bed_text(ice_map, means, bed):
    """How far a bed is from the map's own, for a reader; means: the bed's over the map's cells."""
    off = (means - ice_map["topg"])[utils.is_ice(ice_map["thk"])]
    off = off[np.isfinite(off)].astype(float)
    return f"the bed of {bed['name']} is not that of {ice_map['name']}: " + (
        f"RMS {np.sqrt(np.mean(off**2)):.1f} m under ice" if len(off) else "no ice on both")


@contextlib.contextmanager
def open_bed(ice_map, settings, bed_file=None, record=-1, options=None):
    """The bed for a map (see maps.open_bed): of another file, or its own; None where it has none.

    That of another file is of the map's first record: its `change` is what the map's own has risen
    since. Raises InputError where the run needs one, or it is of another projection or place.
    """
    if bed_file is None:
        if model.needs_topg(settings) and (
                ice_map["topg"] is None or np.isnan(ice_map["topg"]).all()):
            raise InputError(f"{ice_map['path']}: no bed (topg) in it, and run {settings['run']} "
                             "needs one; give it with --bed, or use a run trained with --channels "
                             "thk")
        yield maps.bed_of_map(ice_map)
        return
    options = {key: (options or {}).get(key) for key in ("names", "units")}
    with maps.open_bed(bed_file, record, **options) as bed:
        crs = ice_map["crs"] or {  # taken for EPSG:3031, of whatever ellipsoid
            key: value for key, value in projections.EPSG_3031.items()
            if projections.looks_antarctic(ice_map) and "axis" not in key and "flat" not in key}
        different = projections.crs_differences(crs, bed["crs"])
        if different:
            raise InputError(f"{bed_file}: its projection is not that of {ice_map['name']} "
                             f"({different}); reproject it first")
        for name in "xy":
            if bed[name][-1] < ice_map[name][0] or bed[name][0] > ice_map[name][-1]:
                raise InputError(f"{bed_file}: {name} from {bed[name][0]:.0f} to "
                                 f"{bed[name][-1]:.0f} m, the map's from {ice_map[name][0]:.0f} "
                                 f"to {ice_map[name][-1]:.0f} m: not the same place")
        for note in filter(None, (bed["taken"], bed["record_text"], *bed["notes"])):
            print(f"bed {bed['name']}: {note}")
        yield bed | {"change": rise_of_bed(ice_map)}


# ---------------------------------------------------------------- tiles


def tile_sides(settings, scale, baselines=False):
    """Halo and side, halo included, of the tiles of a map in coarse cells.

    The halo holds all that a cell of the result depends on: the reach of the chain, the two cells
    of a margin, and the reach of the spline to the fine cells. On own grids that is only compared
    with, in baselines.
    """
    halo = model.chain_reach(settings, scale) + 2
    if settings["grid"] == "fine":
        halo += SPLINE_HALO
    elif baselines:
        halo = max(SPLINE_HALO, halo)
    return halo, max(TILE // scale, 3 * halo)


def map_tiles(shape, settings, scale, baselines=False, part=(1, 1)):
    """The tiles of a coarse map of `shape` (y, x): pairs (along y, along x) as of axis_tiles.

    part: (K, N): those of the K-th of N strips, from the lowest y. A strip is of whole rows of
    tiles: they are those of the whole map, and so are their values. InputError where rows are few.
    """
    halo, side = tile_sides(settings, scale, baselines)
    along_y, (k, n) = utils.axis_tiles(shape[0], halo, side), part
    if n > len(along_y):
        raise InputError(f"--part {k}/{n}: the map has {len(along_y)} rows of tiles, so many parts "
                         "at most")
    return [(rows, columns) for rows in along_y[len(along_y) * (k - 1) // n:len(along_y) * k // n]
            for columns in utils.axis_tiles(shape[1], halo, side)]


def cut_tile(ice_map, axes, bed, tile, scale, bed_is_needed):
    """What is needed for one tile of a map, with its halo: a dict of arrays.

    ice_map: the coarse map (see maps); axes: x, y of the fine map [m]; bed: see maps.open_bed, or
    None; tile: of map_tiles. coarse: (1, y, x) float32 [m] without gaps; topg: the same of the fine
    cells, or None; topg_read: (y, x) m, NaN in its gaps, or None; topg_error: its standard error,
    (1, y, x) m, 0 where the file says none, or None; unknown: fine cells (y, x) where nothing is
    known: a coarse cell is known as a whole or not at all.
    """
    rows, columns = (slice(part.start * scale, part.stop * scale) for _, part in tile)
    whole = tile[0][1], tile[1][1]
    cell = np.ones((scale, scale), bool)
    coarse_unknown = ice_map["unknown"][whole]
    arrays = {"topg": None, "topg_read": None, "topg_error": None}
    unknown = np.kron(coarse_unknown, cell)
    if bed:
        topg = utils.bring_to_cells(bed, axes[0][columns], axes[1][rows])
        gaps = np.isnan(topg)
        lacking = gaps.reshape(len(topg) // scale, scale, -1, scale).any(axis=(1, 3))
        coarse_unknown = coarse_unknown & lacking  # no thickness over a known bed: no ice
        unknown = np.kron(coarse_unknown | lacking if bed_is_needed else coarse_unknown, cell)
        arrays |= {"topg_read": topg, "topg": utils.fill_nearest(topg, gaps)[None]}
        if bed["read_error"] and bed_is_needed:
            error = utils.bring_to_cells(bed | {"read": bed["read_error"], "change": None},
                                         axes[0][columns], axes[1][rows])
            arrays["topg_error"] = np.maximum(np.nan_to_num(error), 0)[None]
    arrays["coarse"] = utils.fill_nearest(ice_map["thk"][whole], coarse_unknown)[None]
    return arrays | {"unknown": unknown}


def refine(chain, ice_map, bed, settings, scale, baselines=False, what="tile", part=(1, 1)):
    """Make a whole map, or a part of it (see map_tiles), finer, tile by tile, with progress.

    chain(thk, topg): see runs.open_run; ice_map, bed: see cut_tile; settings: of the run. Yields
    rows, columns (slices of the fine map) and what is in them: thickness {method: (y, x) float32
    m}, NaN where nothing is known, and topg (y, x) m or None. thickness has the model, with
    baselines those of model.baselines, of a calibrated run its uncertainty: uncertainty.half_width.
    """
    axes = [utils.finer_axis(ice_map[name], scale) for name in "xy"]
    needs_topg, started = model.needs_topg(settings), time.monotonic()
    fit, seen = settings.get("uncertainty"), np.zeros(3)  # free cells: all, unlike, at a margin
    tiles = map_tiles(ice_map["thk"].shape, settings, scale, baselines, part)
    for done, tile in enumerate(tiles, 1):
        arrays = cut_tile(ice_map, axes, bed, tile, scale, needs_topg)
        coarse, topg, shape = arrays["coarse"], arrays["topg"], arrays["unknown"].shape
        if baselines or settings["grid"] == "fine":
            thk0 = utils.enlarge_fields(coarse, shape, "area").astype(np.float32)
        thickness = {}
        if baselines:
            topg0 = None if topg is None else utils.make_levels(topg, scale, "area", "fine")[0]
            thickness = model.baselines(thk0, coarse, topg0, topg, "area",
                                        utils.densities_of(settings["data"]))
        if coarse.any():
            levels = utils.make_levels(topg if needs_topg else np.zeros((1, *shape), np.float32),
                                       scale, "area", settings["grid"])
            level0 = coarse if settings["grid"] == "own" else thk0
            (*_, thk), spread = model.predict(chain, level0, levels, settings["average_turns"])
            if settings["grid"] == "fine":
                thk = model.make_consistent(thk, coarse, "area")
            thickness["model"] = model.remove_film(thk, coarse, "area").numpy()
            spread = model.free_spread(spread, coarse, "area").numpy()
        else:
            thickness["model"] = np.zeros((1, *shape), np.float32)  # open ocean: nothing to ask
            spread = np.full((1, *shape), np.nan, np.float32)
        own = [slice(part.start * scale, part.stop * scale) for part, _ in tile]
        inside = tuple(slice((part.start - whole.start) * scale, (part.stop - whole.start) * scale)
                       for part, whole in tile)
        if fit:
            types = uncertainty.types_of_patches(thickness["model"], topg if needs_topg else None,
                                           settings)
            width = uncertainty.half_width(spread, thickness["model"], types, fit)
            if arrays["topg_error"] is not None:
                width = uncertainty.add_bed_error(width, arrays["topg_error"], types["grounded"],
                                                  scale, ice_map["spacing_m"] / scale)
            thickness["uncertainty"] = width
            free = np.isfinite(spread)
            seen += [cells[0][inside].sum() for cells in (
                free, free & (spread > fit["seen_m"]), free & types["margin"])]
        yield (*own, {method: np.where(arrays["unknown"], np.nan, thk[0])[inside]
                      for method, thk in thickness.items()},
               arrays["topg_read"][inside] if bed else None)
        utils.show_progress(what, done, len(tiles), (time.monotonic() - started) / done)
    if fit:
        uncertainty.print_unlike(fit, *(seen[1:] / max(seen[0], 1)))


# ---------------------------------------------------------------- a finer map, as a file


def write_fine_map(path, records, first, bed, crs, scale, chunk, attributes, densities,
                   time_axis=None, strip=slice(None)):
    """Write the tiles of refine to a map file, at `path` only when it is whole.

    records: pairs (map, its tiles) of every record; first: the first map; bed: its bed or None;
    strip: the fine rows that the tiles are of; else as in create_fine_map. The axes run as in the
    file of the map. Returns two texts, "" for nothing: how far the bed is from the map's own, and
    what is lost where the bed is missing.
    """
    axes = {name: utils.finer_axis(first[name], scale)[part][::step]
            for name, part, step in zip("yx", (strip, slice(None)), first["flips"], strict=True)}
    names = [name for name in utils.WRITTEN if (bed or name.startswith("thk"))
             and (attributes["uncertainty"] or name != "thk_uncertainty")]
    moves = first["topg_change"] is not None or (bed and bed["path"] == first["path"])
    moving = [name for name in names if name != "topg" or moves]
    is_other = bed and bed["path"] != first["path"] and first["topg"] is not None
    means, n_lost, volumes = np.full(first["thk"].shape, np.nan), 0, np.zeros(2)
    with utils.replacing(path) as temporary:
        with utils.writing(path):
            ds = utils.create_fine_map(temporary, axes, crs, names, chunk, attributes, time_axis,
                                       moving)
            if attributes["uncertainty"]:
                ds["thk"].ancillary_variables = "thk_uncertainty"
                ds["thk_uncertainty"].comment = attributes["uncertainty"]
        try:
            for record, (ice_map, tiles) in enumerate(records):
                if time_axis:
                    with utils.writing(path):
                        ds["time"][record] = time_axis[0][record]
                        if time_axis[2] is not None:
                            ds["time_bnds"][record] = time_axis[2][record]
                volumes[1] += ice_map["thk"].sum(dtype=float)
                for rows, columns, thickness, topg in tiles:
                    thk = thickness["model"]
                    fields = {"thk": thk} | {f"thk_{name}": field for name, field
                                             in thickness.items() if name == "uncertainty"}
                    if bed:
                        fields |= {"usrf": utils.upper_surface(thk, topg, densities),
                                   "mask": utils.cell_type(thk, topg, densities)}
                        if moves or record == 0:
                            fields["topg"] = topg
                    start = strip.start or 0
                    own = slice(rows.start - start, rows.stop - start)
                    parts = [part if step == 1 else slice(len(axis) - part.stop,
                                                          len(axis) - part.start)
                             for part, step, axis in zip((own, columns), first["flips"],
                                                         axes.values(), strict=True)]
                    with utils.writing(path):
                        for name, field in fields.items():
                            index = (record, *parts) if "time" in ds[name].dimensions else parts
                            ds[name][tuple(index)] = field[::first["flips"][0], ::first["flips"][1]]
                    coarse = tuple(slice(part.start // scale, part.stop // scale)
                                   for part in (rows, columns))
                    lost = np.isnan(thk[::scale, ::scale]) & utils.is_ice(ice_map["thk"][coarse])
                    n_lost += int(lost.sum())
                    volumes[0] += ice_map["thk"][coarse][lost].sum(dtype=float)
                    if is_other and record == 0:
                        means[coarse] = utils.reduce_fields(topg[None], scale, "area")[0]
            texts = [own_bed_text(first, means, bed) if is_other else "", ""]
            if n_lost:
                texts[1] = (f"{n_lost} ice cells of the coarse map, "
                            f"{100 * volumes[0] / volumes[1]:.2f} % of its volume, are missing: "
                            "the bed is not known all over them")
            with utils.writing(path):
                ds.comment = "; ".join(filter(None, [ds.comment, *texts]))
        finally:
            with utils.writing(path):
                ds.close()
    return texts


def print_task(ice_map, settings, scale):
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


def result_path(run, kind, path, ice_map, bed, scale):
    """Where results of a map go, without suffix: maps and beds of one name keep apart."""
    record = "" if ice_map["record"] is None else f"_record{ice_map['record']}"
    sources = dict.fromkeys(each["sha256"][:8] for each in (ice_map, bed) if each)
    return utils.RESULTS / run / f"{kind}_{Path(path).stem}{record}_x{scale}_{'_'.join(sources)}"


def downscale(run, map_file, output, bed_file=None, scale=None, record=-1, bed_record=-1,
              options=None, turns=None, part=(1, 1)):
    """Make a coarse map finer with a run and write it to `output`, CF-1.8 NetCDF; and a figure.

    record: a number, or a range, see utils.chosen_records; options: see maps.map_options; turns:
    see runs.with_turns; part: see map_tiles, one of several has no figure. A file that is made
    (runs.is_made) is left.
    """
    utils.check_output(output, map_file, bed_file)
    options = maps.NO_OPTIONS | (options or {})
    settings, scale, chain = runs.open_run(run, scale, options["densities"])
    utils.check_output(output, settings["patches"])
    used = runs.with_turns(utils.with_densities(settings, options["densities"]), turns)
    of_map, weights = map_options_beside(options, settings, bed_file), runs.weights_sha256(run)
    several = not isinstance(record, int)
    ice_map = maps.read_map(map_file, 0 if several else record, **of_map)
    numbers, time_axis, sha256 = [record], None, ice_map["sha256"]
    dim, count = ice_map["records"] or (None, 1)
    if several:
        numbers = utils.chosen_records(record, count, map_file)
    if several and dim:
        values, about, bounds = maps.read_time(map_file, dim)
        time_axis = values[numbers], about, None if bounds is None else bounds[numbers]
        if numbers[0] != 0:
            ice_map = maps.read_map(map_file, numbers[0], **of_map, sha256=sha256)
        if count > 1:
            ice_map["record_text"] = f"records {numbers[0]} to {numbers[-1]} of {count}"
    prepare_data.print_map_notes(ice_map)
    print_task(ice_map, settings, scale)
    tiles = map_tiles(ice_map["thk"].shape, settings, scale, part=part)
    strip = slice(scale * tiles[0][0][0].start, scale * tiles[-1][0][0].stop)
    spacing_m, densities = ice_map["spacing_m"], utils.densities_of(used["data"])
    crs, notes = ice_map["crs"], list(ice_map["notes"])
    if not crs and projections.looks_antarctic(ice_map):
        notes.append("the map says nothing of its projection and fits Antarctica's: taken for "
                     "EPSG:3031")
        crs = projections.EPSG_3031
        print(f"note: {notes[-1]}")
    with open_bed(ice_map, settings, bed_file, bed_record, options) as bed:
        if bed and bed["change"]:
            notes.append("the bed is that of the first record, and what the map's own has risen "
                         "since is added")
            print(f"note: {notes[-1]}")
        if bed and bed["spacing_m"] > 0.999 * spacing_m:
            print(f"note: the bed of {bed['name']} is no finer than the map; little can be gained")
        sources = [each for each in (ice_map, bed) if each]
        names = dict.fromkeys(each["name"] + (f" ({each['record_text']})" if each["record_text"]
                                              else "") for each in sources)
        fit = used.get("uncertainty")
        attributes = {
            "title": f"{ice_map['title'] or ice_map['name']}, ice thickness downscaled {scale}x to "
                     f"{spacing_m / scale:g} m",
            "history": utils.made_now(),
            "source": f"{' with the bed of '.join(names)}; recurrent SRCNN, run {run}, trained on "
                      f"{settings['data']['source']}",
            "source_variables": "; ".join(dict.fromkeys(each["taken"] for each in sources)),
            "citation": "; ".join(filter(None, dict.fromkeys(
                each["citation"] for each in sources))),
            "source_sha256": ice_map["sha256"], "bed_sha256": bed["sha256"] if bed else "",
            "densities": "ice {:g}, sea water {:g} kg m-3".format(*densities),
            "part": "{}/{}".format(*part), "turns": used["average_turns"],
            "model_run": run, "model_settings": json.dumps(settings),
            "model_weights_sha256": weights,
            "model_training_citation": settings["data"]["citation"],
            "model_scores": json.dumps(runs.run_scores(run, weights)),
            "uncertainty": fit and (
                "thk - thk_uncertainty (0 where that is less) to thk + thk_uncertainty covers 90 % "
                f"of the cells of {fit['blocks']['all']} patches of {settings['data']['source']} "
                f"that the run was trained on and of {fit['held_out']} held out; 0 where the "
                "coarse map has no ice; errors of the coarse map are not in it; those of the bed "
                + (f"are in it, where ice is grounded, by the standard error in {bed['name']}, of "
                   "which what is equal all over a coarse cell is left out: correlated over "
                   f"{uncertainty.BED_LENGTH_M / 1000:g} km" if bed and bed["read_error"]
                   else "are not in it")) or "",
            "versions": json.dumps(utils.versions()), "code_sha256": runs.code_sha256(),
            "comment": "; ".join(["thk averaged over the cells of the coarse map gives it back",
                                  *notes]),
            **({"synthetic": "yes"} if ice_map["synthetic"] else {})}

        def records():
            for done, number in enumerate(numbers):
                each, what = ice_map, "tile"
                if done:
                    each = maps.read_map(map_file, number, **of_map, sha256=sha256)
                    if bed and not bed_file and each["topg"] is None:
                        raise InputError(f"{map_file}: record {number} has no bed, others have; "
                                         "give one with --bed")
                    prepare_data.print_map_notes(each | {"taken": "", "notes": [
                        note for note in each["notes"] if note not in notes]})
                if time_axis:
                    what = f"record {done + 1}/{len(numbers)}, tile"
                of_record = bed | {"change": rise_of_bed(each)} if bed_file else (
                    maps.bed_of_map(each))
                yield each, refine(chain, each, of_record, used, scale, False, what, part)

        halo, side = tile_sides(settings, scale)
        if runs.is_made(output, attributes):
            print(f"{output}: complete, left as it is")
        else:
            apart, lost = write_fine_map(
                output, records(), ice_map, bed, crs, scale, (side - 2 * halo) * scale, attributes,
                densities, time_axis, strip)
            for text in filter(None, (apart, lost and f"note: {lost}", f"wrote    {output}")):
                print(text)
    if part != (1, 1):
        return
    path = f"{result_path(run, 'map', output, ice_map, bed, scale)}.png"
    figures.save(figures.plot_downscaled(output, ice_map, used, scale), path,
                  map_provenance(settings, ice_map, bed, scale))
    print(f"figure   {path}")


def map_options_beside(options, settings, bed_file):
    """Options of maps.read_map for a map beside a bed file, of which --names topg= is then."""
    names = {field: name for field, name in (options["names"] or {}).items()
             if field != "topg" or bed_file is None}
    return options | {"names": names, "densities": options["densities"] or utils.densities_of(
        settings["data"])}


def map_provenance(settings, ice_map, bed, scale):
    """What made a result of a whole map: for JSON."""
    of_bed = {f"bed{suffix}": bed[key] for suffix, key in (
        ("", "name"), ("_sha256", "sha256"), ("_record", "record_text"))} if bed else {}
    return {"run": settings["run"], "scale": scale, "degrade": "area", "map": ice_map["name"],
            "map_sha256": ice_map["sha256"], "record": ice_map["record_text"], **of_bed,
            "citation": ice_map["citation"], "synthetic": ice_map["synthetic"],
            "weights_sha256": runs.weights_sha256(settings["run"]), "settings": settings}


# ---------------------------------------------------------------- hindcasts


def coarsen(fine, scale):
    """A map cut to whole coarse cells, and what its thickness is reduced to by cell means.

    Two maps (see maps). A coarse cell is unknown where one of its cells is. InputError where small.
    """
    ny, nx = (n // scale * scale for n in fine["thk"].shape)
    if min(ny, nx) < 2 * scale:
        raise InputError(f"{fine['name']}: {fine['thk'].shape} cells, too few to be reduced "
                         f"{scale}x")
    fine = fine | {"x": fine["x"][:nx], "y": fine["y"][:ny]} | {
        name: fine[name][:ny, :nx] for name in ("thk", "topg", "usrf", "unknown")
        if fine[name] is not None}
    coarse = maps.make_map(
        fine["x"].reshape(-1, scale).mean(axis=1), fine["y"].reshape(-1, scale).mean(axis=1),
        utils.reduce_fields(fine["thk"][None], scale, "area")[0],
        **{key: fine[key] for key in ("crs", "name", "sha256", "title", "synthetic")})
    coarse["unknown"] = fine["unknown"].reshape(ny // scale, scale, nx // scale, scale).any(
        axis=(1, 3))
    return fine, coarse


def rebuild(chain, fine, coarse, settings, scale):
    """What refine makes of a coarse map, and baselines: {method: (y, x) m}; maps: of coarsen."""
    by_method, bed = {}, maps.bed_of_map(fine)
    if bed:
        bed |= {"read_error": None}  # the label was made of this very bed
    for rows, columns, thickness, _ in refine(chain, coarse, bed, settings, scale, baselines=True):
        for method, thk in thickness.items():
            by_method.setdefault(method, np.empty(fine["thk"].shape, np.float32))[
                rows, columns] = thk
    return by_method


def score_map(by_method, fine, coarse, settings, scale):
    """Scores of a hindcast, on ice and NEAR_ICE cells around it: a dict.

    by_method: {method: (y, x) m}; fine, coarse: of coarsen; settings: of the run.
    all: utils.score; n_lost: ice cells that are not scored, for want of a bed. by_type: the same by
    utils.cells_by_type (margin: within two coarse cells). by_place: inside and outside the window
    that the run was trained on; only where its map and this one say that they have one projection.
    uncertainty, of a calibrated run, where the coarse map leaves a choice: by_type: {part of the
    above: uncertainty.score_intervals}; halves_within: see uncertainty.share_of_halves.
    checks: {method: {consistency_m: largest difference of the reduced result from the coarse map,
    least_thk_m: lowest thickness, if any is known}}. flow: see flow.score_flow.
    """
    label, spacing_m, crs = fine["thk"], fine["spacing_m"], settings["data"]["crs"]
    width = by_method.get("uncertainty")
    by_method = {method: by_method[method] for method in METHODS if method in by_method}
    known = np.isfinite(by_method["model"])
    ice = utils.is_ice(label)
    near = known & (scipy.ndimage.distance_transform_edt(~ice) <= NEAR_ICE if ice.any() else True)
    thk_max_m = max(float(label.max()), 1.0)

    def score(cells):
        return utils.score(by_method, label, cells & near, thk_max_m, spacing_m)

    types = utils.cells_by_type(label, fine["topg"], 2 * scale,
                                utils.densities_of(settings["data"]))
    places, scores = {}, {
        "all": score(near), "n_lost": int((ice & ~known).sum()), "by_place": {}, "checks": {},
        "by_type": {name: score(cells) for name, cells in types.items()}}
    if crs and fine["crs"] and not projections.crs_differences(crs, fine["crs"]):
        x0, x1, y0, y1 = settings["data"]["window"]
        window = (((fine["y"] >= y0) & (fine["y"] <= y1))[:, None]
                  & (fine["x"] >= x0) & (fine["x"] <= x1))
        places = {"training window": window, "elsewhere": ~window}
        scores["by_place"] = {name: score(cells) for name, cells in places.items()}
    if width is not None:
        fit, error = settings["uncertainty"], by_method["model"] - label
        free = near & (width > 0)
        scores["uncertainty"] = {
            "by_type": {name: uncertainty.score_intervals(error, width, free & cells, fit["shape"])
                        for name, cells in ({"all": near} | types | places).items()},
            "halves_within": uncertainty.share_of_halves(
                error, np.where(free, width, 0), types, fit, scale)}
    for method, thk in by_method.items():
        reduced = utils.reduce_fields(np.where(known, thk, 0)[None], scale, "area")[0]
        off = np.abs(reduced - coarse["thk"])[known[::scale, ::scale]]
        scores["checks"][method] = {"consistency_m": float(off.max(initial=0))}
        if known.any():
            scores["checks"][method]["least_thk_m"] = float(np.nanmin(thk))
    scores["flow"] = flow.score_flow(by_method, fine, coarse, scale, near,
                                     utils.densities_of(settings["data"]))
    return scores


def hindcast(run, map_file, bed_file=None, scale=None, record=-1, bed_record=-1, options=None,
             turns=None):
    """Reduce a fine map to cell means, rebuild it with a run, and score that against the map.

    options: see maps.map_options; turns: see runs.with_turns.
    Writes results/<run>/hindcast_<map>_x<scale>_<checksum>.json and .png; returns the metrics.
    """
    options = maps.NO_OPTIONS | (options or {})
    settings, scale, chain = runs.open_run(run, scale, options["densities"])
    used = runs.with_turns(utils.with_densities(settings, options["densities"]), turns)
    ice_map = maps.read_map(map_file, record, **map_options_beside(options, settings, bed_file))
    prepare_data.print_map_notes(ice_map)
    with open_bed(ice_map, settings, bed_file, bed_record, options) as bed:
        if bed_file is not None:
            topg = utils.bring_to_cells(bed, ice_map["x"], ice_map["y"])
            if ice_map["topg"] is not None:
                print(own_bed_text(ice_map, topg, bed))
            ice_map["topg"] = topg
            ice_map["unknown"] &= np.isnan(ice_map["topg"])
    if model.needs_topg(settings) and np.isnan(ice_map["topg"]).all():
        raise InputError(f"{bed_file or map_file}: the bed is missing in every cell of the map; "
                         "give another with --bed")
    fine, coarse = coarsen(ice_map, scale)
    if fine["thk"].shape != ice_map["thk"].shape:
        print(f"{scale}x: {fine['thk'].shape[0]} x {fine['thk'].shape[1]} of the "
              f"{ice_map['thk'].shape} cells make whole coarse cells")
    print_task(coarse, settings, scale)
    by_method = rebuild(chain, fine, coarse, used, scale)
    made_by = map_provenance(settings, fine, bed, scale)
    metrics = made_by | {
        "from_km": fine["spacing_m"] * scale / 1000, "to_km": fine["spacing_m"] / 1000,
        "cells": list(fine["thk"].shape),
        "densities": list(utils.densities_of(used["data"])), "turns": used["average_turns"],
        **score_map(by_method, fine, coarse, used, scale),
        "versions": utils.versions(), "command": utils.command()}
    path = result_path(run, f"hindcast_turns{turns}" if turns else "hindcast", map_file, fine, bed,
                       scale)
    utils.write_json(f"{path}.json", metrics)
    print_hindcast(metrics)
    if metrics["all"]["errors"]:
        figures.save(figures.plot_hindcast(metrics, by_method, fine), f"{path}.png", made_by)
        print(f"\nfigure   {path}.png")
    return metrics


def print_hindcast(metrics):
    """Print the tables of a hindcast; metrics: see hindcast."""
    print(f"\n{metrics['map']}, {metrics['from_km']:g} km to {metrics['to_km']:g} km: ice and "
          f"{NEAR_ICE} cells around it" + (f", without {metrics['n_lost']} ice cells whose bed is "
                                           "not known" if metrics["n_lost"] else "") + "\n")
    evaluate.print_scores({"all": metrics["all"]} | metrics["by_type"] | metrics["by_place"])
    print()
    evaluate.print_methods(metrics["all"]["errors"], {
        method: {"consistency m": f"{checks['consistency_m']:.3f}",
                 "least thk m": f"{checks['least_thk_m']:.1f}"}
        for method, checks in metrics["checks"].items() if "least_thk_m" in checks})
    flow.print_flow(metrics["flow"])
    if "uncertainty" in metrics:
        uncertainty.print_intervals(metrics["uncertainty"]["by_type"])
        halves = metrics["uncertainty"]["halves_within"]
        print("volume: that of coarse cells is kept" + (
            f"; that of their halves is in its 90 % interval in {halves:.0%}" if halves else ""))


def main(argv=None):
    parser = utils.argument_parser(__doc__)
    parser.add_argument("map", metavar="MAP.nc", help="the map, its thickness means over its cells")
    parser.add_argument("--run", metavar="NAME", required=True, help="the trained run")
    parser.add_argument("--output", metavar="FINE.nc", help="where the finer map goes")
    parser.add_argument("--hindcast", action="store_true",
                        help="reduce the map, rebuild it and score that, in place of --output")
    parser.add_argument("--bed", metavar="BED.nc", help="the bed (default: that of the map)")
    parser.add_argument("--scale", type=int, choices=utils.SCALES, help="default: that of the run")
    parser.add_argument("--time", metavar="N|N:M|all", help="record of MAP.nc, from 0 (default: "
                        "the last); a range, without M; or all")
    parser.add_argument("--bed-time", type=int, metavar="N",
                        help="record of BED.nc, from 0 (default: the last)")
    parser.add_argument("--turns", type=int, choices=tuple(model.TURNS), help="flips and turns of "
                        "the map that are averaged (default: as the run was trained for, mostly 8)")
    parser.add_argument("--part", metavar="K/N", help="make only the K-th of N strips of the map, "
                        "together the whole, bit for bit")
    maps.add_map_arguments(parser)
    parser.add_argument("--show", action="store_true", help="also show the figure on screen")
    args = parser.parse_args(argv)
    if args.hindcast == (args.output is not None):
        raise InputError("give --output FINE.nc to make the map finer, or --hindcast to score the "
                         "run on it")
    if args.bed_time is not None and args.bed is None:
        raise InputError("--bed-time: goes with --bed BED.nc")
    run = utils.check_run_name(args.run)
    record, bed_record = args.time or "-1", -1 if args.bed_time is None else args.bed_time
    if not re.fullmatch(r"-?\d{1,9}|all|(-?\d{1,9})?:(-?\d{1,9})?", record) or (
            args.hindcast and not re.fullmatch(r"-?\d{1,9}", record)):
        raise InputError(f"--time {record[:20]}: expected the number of a record"
                         + ("" if args.hindcast else ", a range N:M, or all"))
    part = re.fullmatch(r"0*([1-9]\d*)/0*([1-9]\d*)", args.part or "1/1")
    part = part and tuple(map(int, part.groups()))
    if not part or part[0] > part[1] or (args.part and args.hindcast):
        raise InputError(f"--part {args.part}: expected K/N, the K-th of N parts, from 1/N to N/N, "
                         "with --output")
    record = int(record) if re.fullmatch(r"-?\d{1,9}", record) else record
    options = maps.map_options(args)
    figures.choose_screen(args.show)
    set_up_device()
    if args.hindcast:
        hindcast(run, args.map, args.bed, args.scale, record, bed_record, options, args.turns)
    else:
        downscale(run, args.map, args.output, args.bed, args.scale, record, bed_record, options,
                  args.turns, part)
    if args.show:
        figures.show()
    return 0


if __name__ == "__main__":
    utils.run_script(main)
