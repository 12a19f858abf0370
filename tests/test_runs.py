"""A run's folder: what is read of it, and what power cuts, processes and other runs do to it."""

import numpy as np
import pytest
from conftest import example_settings, save_layers
from test_model import fields_of, fill

import model
import runs
import utils


@pytest.fixture
def run_x4(folder):
    """The run `tiny` at 4x as train.py leaves it, random layers of epoch 7; settings and layers."""
    chosen = example_settings(scale=4, filters=[4], kernels=[3, 3], grid="own", base="bicubic")
    layers = model.build_layers(chosen)
    fill(layers)
    utils.write_json("checkpoints/tiny/settings.json", chosen)
    save_layers(chosen, layers, 7)
    return chosen, layers


def test_a_run_is_read_as_it_was_written(run_x4):
    chosen, layers = run_x4
    assert runs.read_settings("tiny") == chosen
    assert runs.best_checkpoint(runs.read_settings("tiny"))[1] == 7
    for weight, written in zip(model.list_weights(runs.load_layers(chosen)),
                               model.list_weights(layers), strict=True):
        np.testing.assert_array_equal(weight, written)
    before = runs.weights_sha256("tiny")
    fill(layers, seed=1)
    save_layers(chosen, layers, 7)
    assert runs.weights_sha256("tiny") != before


def test_a_smaller_scale_is_made_by_the_last_stages(run_x4):
    chosen, layers = run_x4
    thk, topg = fields_of("own", 2)
    for scale in (None, 4, 2):
        opened, found, chain = runs.open_run("tiny", scale)
        assert opened == chosen  # of the run, whatever it is used for
        assert found == (scale or 4)
    last = {"stage2": layers["stage2"]}
    np.testing.assert_allclose(chain(thk, topg)[-1], model.run_chain(
        last, thk, topg, chosen, whole_map=True)[-1], rtol=1e-5, atol=0.01)
    with pytest.raises(utils.InputError, match="tiny was trained for 4x, not for 8x"):
        runs.open_run("tiny", 8)


def test_runs_that_will_not_do_are_named(run_x4):
    with pytest.raises(utils.InputError, match="absent/settings.json: no such file; train"):
        runs.read_settings("absent")
    with pytest.raises(utils.InputError, match="checkpoints/absent/best: no checkpoint; train"):
        runs.best_checkpoint(run_x4[0] | {"run": "absent"})
    with pytest.raises(utils.InputError, match="not the layers that settings.json describes"):
        runs.load_layers(run_x4[0] | {"filters": [5]})
    for key in ("channels", "data"):
        older = {name: value for name, value in run_x4[0].items() if name != key}
        utils.write_json("checkpoints/tiny/settings.json", older)
        with pytest.raises(utils.InputError, match=f"no {key} in it: damaged, or written by"):
            runs.open_run("tiny")
