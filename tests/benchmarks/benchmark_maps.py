"""How fast a whole map is downscaled, and what of that is the network.

    python tests/benchmarks/benchmark_maps.py MAP.nc RUN [RUN ...]       # map_x2: about 2 minutes

All that downscale.py does but the figure, beside the rate of a large matrix product in the same
process. For each run:
- fine cells a second, and peak memory
- network: its share of the time, and the arithmetic of its convolutions as a share of the matrix
  product, halos of the tiles included
- halos: how many times more cells the tiles have than the map; tiles of open ocean cost nothing
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

from benchmark_training import matrix_product_flops

import downscale
import model
from icesheet import checkpoints, command_line, figures, map_files
from icesheet.command_line import InputError


def timed(function, spent):
    """`function`, that adds each call's time and the fine cells it made to the list `spent`."""
    def call(chain, thk, topg, *args):
        start = time.perf_counter()
        result = function(chain, thk, topg, *args)
        spent.append((time.perf_counter() - start, topg[-1].shape[1] * topg[-1].shape[2]))
        return result
    return call


def main():
    if len(sys.argv) < 3:
        raise InputError("expected MAP.nc and one run or more; see the top of this file")
    figures.select_backend(show=False)
    figures.plot_downscaled = lambda *args: figures.plt.figure()
    figures.save_figure = lambda *args: None
    predict, ice_map = model.predict_ensemble, map_files.read_map(sys.argv[1])
    product = matrix_product_flops()
    print(f"matrix product 4096   {product / 1e9:.1f} GFLOP/s")
    for run in sys.argv[2:]:
        settings, spent = checkpoints.read_settings(run), []
        model.predict_ensemble = timed(predict, spent)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            start = time.perf_counter()
            downscale.downscale_map(run, sys.argv[1], f"{folder}/fine.nc")
            whole = time.perf_counter() - start
        seconds, cells = np.sum(spent, axis=0)
        n = ice_map["thk"].size * settings["scale"] ** 2
        turns = 8 if settings["self_ensemble"] else 1
        flops = cells * turns * model.count_flops(settings, 41) / 41**2 / seconds
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{run}, {settings['scale']}x, {turns} turns: {n / whole / 1e6:.3f} million fine "
              f"cells a second ({whole:.0f} s); network {seconds / whole:.0%} of the time, "
              f"{flops / 1e9:.1f} GFLOP/s, {flops / product:.0%} of the product; halos "
              f"{cells / n:.2f}; outside the network {1 - seconds / whole:.0%}; {memory:.2f} GB",
              flush=True)


if __name__ == "__main__":
    command_line.run_script(main)
