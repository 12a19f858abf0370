"""What fine-tuning on a part of a map gives for the rest of it.

    python tests/benchmarks/fine_tuning.py MAP.nc [RUN [SCALE ...]]      # map, 2 4 8: 5 minutes

The map is cut across its longer side into two halves. RUN is fine-tuned on each half by
`train.py --start-from RUN` with its defaults, and scored on the other half, which it has not seen.
Prints the RMSE [m] over both halves together of the consistent surface-minus-bed estimate, of RUN
as it is and of the fine-tuned runs. The runs are made in a temporary folder.
"""

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import downscale
import evaluate
import train
from icesheet import checkpoints, command_line, example, files, map_files, reconstruction
from icesheet.command_line import InputError
from icesheet.device import set_up_device


def halve(ice_map):
    """Return the two halves of a map, cut across its longer side."""
    axis = int(ice_map["thk"].shape[1] > ice_map["thk"].shape[0])
    n = ice_map["thk"].shape[axis] // 2
    halves = []
    for part in (slice(0, n), slice(n, None)):
        cells = (part, slice(None)) if axis == 0 else (slice(None), part)
        halves.append(map_files.make_map(
            ice_map["x"][cells[1]], ice_map["y"][cells[0]], ice_map["thk"][cells],
            ice_map["topg"][cells]))
    return halves


def squared_errors(run, half, scale):
    """Return {method: sum of squared errors [m2]} of a reconstructed half, and its scored cells."""
    settings, _, chain, _ = downscale.open_run(run, scale)
    settings.pop("uncertainty", None)
    fine, coarse = reconstruction.coarsen_map(half, scale)
    with contextlib.redirect_stdout(io.StringIO()):
        by_method = downscale.reconstruct(chain, fine, coarse, settings, scale)
    scores = reconstruction.score_reconstruction(by_method, fine, coarse, settings, scale)["all"]
    return {method: errors["rmse_m"]**2 * scores["n_cells"]
            for method, errors in scores["errors"].items()}, scores["n_cells"]


def main():
    if len(sys.argv) < 2:
        raise InputError("expected MAP.nc; see the top of this file")
    run = sys.argv[2] if len(sys.argv) > 2 else "map"
    scales = [int(scale) for scale in sys.argv[3:]] or [2, 4, 8]
    set_up_device()
    evaluate.calibrate = lambda *args: None  # intervals are not scored, and take as long again
    files.choose_checkpoints(run)
    source, halves = checkpoints.run_folder(run).resolve(), halve(map_files.read_map(sys.argv[1]))
    rows = [("factor", "formula", run, "fine-tuned on the other half")]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        files.CHECKPOINTS = Path("checkpoints")
        shutil.copytree(source, Path("checkpoints") / run)
        for name, half in zip("ab", halves, strict=True):
            example.write_fields(Path(f"{name}.nc"), {axis: half[axis] for axis in "yx"},
                                 {field: half[field] for field in ("thk", "topg")}, name)
            train.main(["--start-from", run, "--run", f"tuned_{name}", "--input", f"{name}.nc"])
        for scale in scales:
            sums, n = np.zeros(3), 0
            for half, other in zip(halves, "ba", strict=True):
                as_it_is, n_cells = squared_errors(run, half, scale)
                tuned, _ = squared_errors(f"tuned_{other}", half, scale)
                sums += (as_it_is["surface_minus_bed_consistent"], as_it_is["model"],
                         tuned["model"])
                n += n_cells
            rows.append((f"{scale}x", *(f"{rmse_m:.2f}" for rmse_m in np.sqrt(sums / n))))
    command_line.print_table(rows)


if __name__ == "__main__":
    command_line.run_script(main)
