"""Whether the 90 % intervals of runs hold: test patches, hindcasts of a map, made ice sheets.

    python tests/benchmarks/reliability.py RUN [RUN ...]                     # about 20 s a run
    python tests/benchmarks/reliability.py --map MAP.nc RUN [RUN ...]        # its hindcast
    python tests/benchmarks/reliability.py --made MAP.nc RUN [RUN ...]       # about 4 minutes

RUN: a calibrated one (python train.py --calibrate --run RUN); for --map and --made of recipe map.
Without an option the patches are those of the run: CRPS [m] of its intervals beside that of a width
that is constant for each surface type, of the model, of bicubic and of the surface base, all fitted
to the same patches as the run's; and results/<run>/reliability.png. --made: the four ice sheets of
other_ice_sheets.py from the 8 km map.
"""

import contextlib
import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import other_ice_sheets

import downscale
import evaluate
import maps
import model
import prepare_data
import runs
import train
import utils

TYPES = ("grounded", "floating", "ice_free", "margin", "all")


def drawn_patches(patches, numbers, settings):
    """Patches as train.calibrate draws them, every level on the fine cells: thk, topg of a dict."""
    places = train.find_places(patches, numbers, settings)
    fields = train.draw_patches(patches, numbers, places, settings, epoch=0)
    return {name: np.stack(utils.make_levels(
        levels[-1], settings["scale"], settings["data"]["degrade"], "fine"), axis=1)
        for name, levels in zip(("thk", "topg"), fields, strict=True)}


def predicted(layers, patches, numbers, settings):
    """Errors {method: (patch, y, x) m}, spread [m] and predicted types of some patches."""
    predictions, spread = model.predict_patches(layers, patches, settings, numbers)
    by_method = model.with_baselines(predictions[-1], patches, numbers, settings)
    types = utils.types_of_patches(predictions[-1], patches["topg"][numbers, -1], settings)
    label = patches["thk"][numbers, -1]
    return {method: thk - label for method, thk in by_method.items()}, spread, types


def constant_fit(error, spread, types):
    """A fit like that of train.calibrate whose half-width is constant for each surface type."""
    free = np.isfinite(spread)
    fit = {"slope": 0.0, "intercept": np.log(1 + utils.OFFSET_M), "factors": {"all": np.quantile(
        np.abs(error[free]), 0.9)}}
    for name, cells in types.items():
        if (cells & free).any(axis=(1, 2)).sum() >= train.LEAST_BLOCKS:
            fit["factors"][name] = max(np.quantile(np.abs(error[cells & free]), 0.9), 1e-3)
    width = utils.half_width(spread, types, fit)
    shape = np.quantile(np.abs(error[free] / width[free]), utils.SHAPE)
    return fit | {"shape": shape / shape[17], "together": {"all": 0.0}, "variance": 0.0}


def score_patches(run):
    """Print the tables of a run on its test patches and draw reliability.png."""
    settings = runs.read_settings(run)
    fit = settings["uncertainty"]
    patches = prepare_data.find_patches(run, settings["scale"], trained=settings)[1]
    layers = runs.load_layers(settings)
    parts = [drawn_patches(patches, numbers, settings)
             for numbers in prepare_data.training_numbers(patches, settings) if len(numbers)]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in ("thk", "topg")}
    errors, spread, types = predicted(layers, drawn, np.arange(len(drawn["thk"])), settings)
    constant = {method: constant_fit(error, spread, types) for method, error in errors.items()}

    numbers = prepare_data.in_split(patches, "test")
    errors, spread, types = predicted(layers, patches, numbers, settings)
    thk, topg = (prepare_data.assemble(patches[name][:, -1], patches) for name in ("thk", "topg"))
    free = np.isfinite(spread)
    cells = {name: free & prepare_data.cut_patches(field, spread.shape[-1])[numbers]
             for name, field in utils.cells_by_type(
                 thk, topg, 2 * settings["scale"], utils.densities_of(settings["data"])).items()}
    cells["all"] = free
    fits = {"intervals": ("model", fit)} | {
        f"constant, {method}": (method, each) for method, each in constant.items()}
    scores = {name: {kind: utils.score_intervals(
        errors[method], utils.half_width(spread, types, each), cells[kind], each,
        settings["data"]["spacing_m"]) for kind in TYPES} for name, (method, each) in fits.items()}
    print(f"\n{run}: {len(numbers)} test patches ({prepare_data.split_text(settings['data'])})")
    evaluate.print_intervals(scores["intervals"])
    print("\nconstant widths by surface type, of the model:")
    evaluate.print_intervals(scores["constant, model"])
    print()
    utils.print_table([("CRPS m", *TYPES)] + [
        (name, *(f"{entry[kind]['crps_m']:.2f}" if entry[kind] else "-" for kind in TYPES))
        for name, entry in scores.items()])
    less = 1 - scores["intervals"]["all"]["crps_m"] / scores["constant, model"]["all"]["crps_m"]
    print(f"CRPS {less:.1%} below that of a constant width by surface type")
    width = utils.half_width(spread, types, fit)
    off_km3 = np.abs(errors["model"].sum(axis=(1, 2))) * settings["data"]["spacing_m"] ** 2 / 1e9
    wide_km3 = [utils.volume_width_km3(each, settings["data"]["spacing_m"], fit) for each in width]
    print(f"volumes: {np.mean(off_km3 <= wide_km3):.0%} of the patches in their 90 % interval; "
          f"{fit['together']['all']:.0f} cells err as one")
    draw(run, settings, {kind: (errors["model"][cells[kind]], width[cells[kind]])
                         for kind in TYPES}, scores["intervals"])


def draw(run, settings, by_type, scores):
    """results/<run>/reliability.png: coverage by level, and spread against skill by tenth."""
    fit, data = settings["uncertainty"], settings["data"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
    figure.suptitle(f"Run {run}: 90 % intervals of thickness on its test patches "
                    f"({settings['scale']}x, {prepare_data.split_text(data)}, {data['source']})")
    left.plot([0, 1], [0, 1], "k-", linewidth=0.8)
    for kind, (error, width) in by_type.items():
        if len(error):
            share = [np.mean(np.abs(error) <= quantile * width) for quantile in fit["shape"]]
            left.plot(utils.SHAPE, share, "k.-" if kind == "all" else ".-",
                      label=f"{kind} ({len(error)} cells)")
    left.set(xlabel="level of the interval", ylabel="share of the cells in it",
             title="above the line the intervals are too wide")
    left.legend()
    tenths = scores["all"]["tenths"]
    width_m = [tenth["half_width_m"] for tenth in tenths]
    middle.plot(width_m, [tenth["coverage"] for tenth in tenths], "ko-")
    middle.axhline(0.9, color="grey", linestyle="--")
    middle.set(xlabel="half-width (m)", ylabel="share of the cells in the 90 % interval",
               ylim=(0.5, 1), xscale="log", title="by tenth of the half-width")
    right.loglog(width_m, [tenth["rmse_m"] for tenth in tenths], "ko-", label="cells, by tenth")
    right.loglog(width_m, np.array(width_m) * np.sqrt(fit["variance"]), "k--",
                 label="as calibrated")
    right.set(xlabel="half-width (m)", ylabel="RMSE (m)", title="spread and skill")
    right.legend()
    for axes in (left, middle, right):
        axes.grid()
    for axis in (middle.xaxis, right.xaxis, right.yaxis):
        evaluate.plain_ticks(axis)
    path = utils.RESULTS / run / "reliability.png"
    evaluate.save(figure, path, {"settings": settings})
    print(f"figure   {path}")


def score_map(run, ice_map):
    """utils.score_intervals of a hindcast, {part: entry}; of the map in memory or as read."""
    settings, scale, chain = runs.open_run(run)
    fine, coarse = downscale.coarsen(ice_map, scale)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # no progress
        by_method = downscale.rebuild(chain, fine, coarse, settings, scale)
    notes = [line for line in said.getvalue().splitlines() if line.startswith("note")]
    if notes:
        print("\n".join(notes))
    return downscale.score_map(by_method, fine, coarse, settings, scale)["uncertainty"]


def main():
    plt.switch_backend("Agg")
    if not sys.argv[1:] or (sys.argv[1].startswith("--") and len(sys.argv) < 4):
        raise utils.InputError("expected runs, or --map or --made, MAP.nc and runs; see the top of "
                               "this file")
    if sys.argv[1] == "--map":
        ice_map = maps.read_map(sys.argv[2])
        for run in sys.argv[3:]:
            print(f"\n{run}, hindcast of {ice_map['name']}", flush=True)
            evaluate.print_intervals(score_map(run, ice_map))
    elif sys.argv[1] == "--made":
        for name, spacing_m, thk, topg in other_ice_sheets.make_maps(sys.argv[2]):
            y, x = (spacing_m * np.arange(n) for n in thk.shape)
            for run in sys.argv[3:]:
                print(f"\n{run}, {name}", flush=True)
                evaluate.print_intervals(score_map(run, maps.make_map(
                    x, y, thk.astype(np.float32), topg.astype(np.float32))))
    else:
        for run in sys.argv[1:]:
            score_patches(run)


if __name__ == "__main__":
    utils.run_script(main)
