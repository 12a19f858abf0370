"""The example map of a reader who has no data."""

import numpy as np

import prepare_data
import utils
from icesheet import beds, map_files


def test_example_is_the_synthetic_sheet_as_cell_means_with_its_fine_bed(folder, small_sheet,
                                                                        capsys):
    prepare_data.main(["--example"])
    assert "python downscale.py data/example_80km.nc" in capsys.readouterr().out
    sheet = prepare_data.make_synthetic_map()
    fine = [sheet[name][:104, :204] for name in ("thk", "topg")]
    ice_map = map_files.read_map("data/example_80km.nc")
    for name, field in zip(("thk", "topg"), fine, strict=True):
        means = field.reshape(26, 4, 51, 4).mean(axis=(1, 3))
        np.testing.assert_allclose(ice_map[name], means, atol=1e-2)
    assert ice_map["synthetic"] and ice_map["spacing_m"] == 80e3
    with beds.open_bed("data/example_bed_20km.nc") as bed:
        np.testing.assert_array_equal(bed["read_topg"](slice(None), slice(None)), fine[1])
        np.testing.assert_allclose(utils.refine_axis(ice_map["x"], 4), bed["x"])
