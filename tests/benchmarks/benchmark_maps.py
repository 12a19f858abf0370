"""How fast a whole map is downscaled: target cells per second, and their share of matrix products.

    python tests/benchmarks/benchmark_maps.py

One 2x stage of 9-1-5 with a bed, one turn, on a synthetic map; all that evaluate.downscale does but
writing the file. Beside it, in the same run, the rate of a large matrix product on this machine.
"""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from benchmark_training import matrix_product_flops, seconds  # noqa: E402

import evaluate  # noqa: E402
import model  # noqa: E402
import train  # noqa: E402

SIDE = 1500  # coarse cells along each side of the map


def main():
    settings = dict(
        train.RECIPES["default"], run="speed", scale=2, seed=0, thk_norm_m=4000.0,
        topg_norm_m=1000.0, filters=[64, 32], kernels=[9, 1, 5], average_turns=False,
        data={"degrade": "area"})
    layers = model.build_layers(settings)
    rng = np.random.default_rng(0)
    axis = 5000.0 * np.arange(SIDE)
    fine = 2500.0 * np.arange(2 * SIDE) - 1250
    topg = rng.uniform(-1000, 1000, (2 * SIDE, 2 * SIDE)).astype(np.float32)
    found = {"x": axis, "y": axis, "thk": rng.uniform(1, 4000, (SIDE, SIDE)).astype(np.float32),
             "unknown": np.zeros((SIDE, SIDE), bool)}
    bed = {"x": fine, "y": fine, "read": lambda rows, columns: topg[rows, columns]}
    chain = evaluate.compile_chain(layers, settings)

    def whole_map():
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in evaluate.downscale(chain, found, bed, settings):
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
