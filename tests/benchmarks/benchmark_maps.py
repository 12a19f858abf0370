"""How fast a whole map is downscaled: target cells per second, and their share of matrix products.

    python tests/benchmarks/benchmark_maps.py

One 2x stage of 9-1-5 with a bed, one turn, on a made-up map: all that downscale.refine does, which
leaves out writing the file. Beside it, in the same run, the rate of a large matrix product.
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (0, 1, 2)]  # tests, the scripts

from benchmark_training import matrix_product_flops, seconds
from conftest import example_settings

import downscale
import maps
import model

SIDE = 1500  # coarse cells along each side of the map


def main():
    settings = example_settings(scale=2, filters=[64, 32], kernels=[9, 1, 5], average_turns=False,
                                data={"degrade": "area"})
    layers = model.build_layers(settings)
    chain = model.compile_chain(layers, settings, whole_map=True)
    rng = np.random.default_rng(0)
    axis, fine = 5000.0 * np.arange(SIDE), 2500.0 * np.arange(2 * SIDE) - 1250
    topg = rng.uniform(-1000, 1000, (2 * SIDE, 2 * SIDE)).astype(np.float32)
    ice_map = maps.make_map(axis, axis, rng.uniform(1, 4000, (SIDE, SIDE)))
    bed = maps.bed_of_map(maps.make_map(fine, fine, np.zeros_like(topg), topg))

    def whole_map():
        with contextlib.redirect_stdout(io.StringIO()):  # no progress
            for _ in downscale.refine(chain, ice_map, bed, settings, 2):
                pass

    product = matrix_product_flops()
    one = np.median(seconds(whole_map, 3))
    per_cell = sum(2 * np.prod(conv.kernel.shape) for conv in layers["stage1"].values())
    cells = topg.size / one
    print(f"matrix product 4096   {product / 1e9:8.1f} GFLOP/s")
    print(f"whole map             {cells / 1e6:8.2f} million target cells a second, "
          f"{cells * per_cell / 1e9:.1f} GFLOP/s, {cells * per_cell / product:.0%} of the product")


if __name__ == "__main__":
    main()
