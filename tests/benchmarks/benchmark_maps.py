"""Speed of downscaling a whole map, and the network's share of it.

    python tests/benchmarks/benchmark_maps.py MAP.nc RUN [RUN ...]       # map:2: about 2 minutes

Measures all that downscale.py does but the figure, and the rate of a large matrix product in the
same process. For each run it prints
- fine cells a second, and peak memory
- network: its share of the time, and the arithmetic of its convolutions, halos of the tiles
  included, as a share of the matrix product
- halos: cells of all tiles over cells of the map; tiles of open ocean cost nothing
- outside the network: reading, splines, half-widths, mask, compression, writing
"""

import contextlib
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 1, 2)]  # tests, the scripts

import other_ice_sheets
from benchmark_training import matrix_product_flops

import downscale
import model
from icesheet import checkpoints, command_line, figures, map_files
from icesheet.command_line import InputError
from icesheet.device import set_up_device


def timed(function, calls):
    """Return `function` such that it appends its time [s] and fine cells to the list `calls`."""
    def call(chain, thk, topg, *args):
        start = time.perf_counter()
        result = function(chain, thk, topg, *args)
        calls.append((time.perf_counter() - start, topg[-1].shape[1] * topg[-1].shape[2]))
        return result
    return call


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    set_up_device()
    figures.select_backend(show=False)
    figures.plot_downscaled = lambda *args: figures.plt.figure()
    figures.save_figure = lambda *args: None
    predict, ice_map = model.predict_ensemble, map_files.read_map(sys.argv[1])
    product = matrix_product_flops()
    print(f"matrix product 4096   {product / 1e9:.1f} GFLOP/s")
    for run in sys.argv[2:]:
        (name, scale), calls = other_ice_sheets.split_run(run), []
        settings = checkpoints.read_settings(name)
        scale = scale or settings["scale"]
        model.predict_ensemble = timed(predict, calls)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            downscale.downscale_map(name, sys.argv[1], f"{folder}/fine.nc", scale=scale)
            whole = time.perf_counter() - start
        seconds, cells = np.sum(calls, axis=0)
        n = ice_map["thk"].size * scale**2
        members = 8 if settings["self_ensemble"] else 1
        flops_per_patch = model.count_flops(settings | {"scale": scale}, 41)
        flops = cells * members * flops_per_patch / 41**2 / seconds
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{name}, {scale}x, {members} members: {n / whole / 1e6:.3f} million fine "
              f"cells a second ({whole:.0f} s); network {seconds / whole:.0%} of the time, "
              f"{flops / 1e9:.1f} GFLOP/s, {flops / product:.0%} of the product; halos "
              f"{cells / n:.2f}; outside the network {1 - seconds / whole:.0%}; {memory:.2f} GB",
              flush=True)


if __name__ == "__main__":
    command_line.run_script(main)
