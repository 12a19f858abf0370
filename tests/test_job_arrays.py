"""Work for many machines: strips of a map, folds and seeds as jobs, on real processes too."""

import json
import shutil
import signal
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
from conftest import REPOSITORY, run_main, write_map
from test_downscale import CALIBRATED, rough, save_map, save_times, write_run
from test_train import assert_same_state, final_state

import downscale
import evaluate
import model
import prepare_data
import train
from icesheet import projections
from icesheet.settings import SELF_ENSEMBLE_MEMBERS

pytestmark = pytest.mark.usefixtures("quick_figures")


def make(output, *argv):
    """Return fields and attributes of coarse.nc downscaled with the run `made`."""
    assert downscale.main(["coarse.nc", "--run", "made", "--output", output, *argv]) == 0
    return read(output)


def read(path):
    with netCDF4.Dataset(path) as ds:
        ds.set_auto_mask(False)
        return {name: variable[...] for name, variable in ds.variables.items()}, dict(ds.__dict__)


def assert_strips_equal(strips, whole, downwards=False):
    """Fields of strips, from the lowest y, joined are those of the whole map, bit for bit."""
    for name, field in whole.items():
        pieces = [strip[name] for strip in strips][::-1 if downwards else 1]
        found = np.concatenate(pieces) if name == "y" or field.ndim == 2 else pieces[0]
        assert found.dtype == field.dtype and found.tobytes() == field.tobytes(), name


@pytest.mark.filterwarnings("ignore:In a future version of xarray")
@pytest.mark.parametrize("downwards", [False, True])
def test_strips_equal_whole_map_bitwise(folder, monkeypatch, downwards):
    """With unknown cells and intervals; xarray and GDAL open them as one, where they are."""
    monkeypatch.setattr(downscale, "MAX_TILE_CELLS", 1)  # the smallest tiles there can be
    write_run(scatter=0.05, **CALIBRATED)
    thk, topg = rough(75, 6)
    topg[30, 2] = np.nan
    x, y = 20e3 * np.arange(6), 20e3 * np.arange(75)
    save_map("coarse.nc", thk, topg, at=(x, y[::-1] if downwards else y),
             crs=projections.EPSG_3031)
    whole, about = make("whole.nc")
    assert about["strip"] == "1/1" and {"thk_uncertainty", "mask", "usrf"} < set(whole)
    names = [f"fine_{k}.nc" for k in (1, 2, 3)]
    strips = [make(name, "--strip", f"{k}/3") for k, name in enumerate(names, 1)]
    assert [about["strip"] for _, about in strips] == ["1/3", "2/3", "3/3"]
    assert_strips_equal([fields for fields, _ in strips], whole, downwards)
    assert len(list((folder / "results").glob("*/*.png"))) == 1  # of the whole map

    if shutil.which("gdalbuildvrt"):
        subprocess.run(["gdalbuildvrt", "-q", "all.vrt", *(f"NETCDF:{name}:thk" for name in names)],
                       check=True)
        subprocess.run(["gdal_translate", "-q", "-of", "netCDF", "all.vrt", "gdal.nc"], check=True)
        found, north_up = read("gdal.nc")[0], 1 if not downwards else -1
        assert np.array_equal(found["Band1"], whole["thk"][::north_up], equal_nan=True)
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    pytest.importorskip("dask", reason="dask is not installed")
    with xarray.open_mfdataset("fine_*.nc", combine="by_coords") as ds:
        for name in set(whole) - {"crs", "x", "y", "mask"}:
            order = -1 if downwards and ds["y"][0] < ds["y"][-1] else 1
            assert np.array_equal(ds[name].values[::order], whole[name], equal_nan=True), name


def test_a_file_is_made_again_only_if_something_differs(folder, capsys, uncompiled):
    write_run()
    save_times("coarse.nc", rough(8, 8)[0], times=1, topg=rough(8, 8)[1])

    def is_made_again(*argv):
        capsys.readouterr()
        make("fine.nc", *argv)
        return "complete, left as it is" not in capsys.readouterr().out

    assert is_made_again()
    assert not is_made_again() and not is_made_again("--strip", "1/1")
    assert is_made_again("--densities", "910", "1028") and is_made_again() and not is_made_again()
    assert is_made_again("--self-ensemble", "2") and is_made_again()
    write_run(scatter=0.05)  # other weights
    assert is_made_again()
    save_times("coarse.nc", rough(8, 8, 5)[0], times=1, topg=rough(8, 8)[1])
    assert is_made_again()
    assert is_made_again("--fill-missing") and is_made_again()
    assert is_made_again("--time", "0:1")  # with a time axis
    assert not is_made_again("--time", "0:1") and is_made_again()
    whole = (folder / "fine.nc").read_bytes()
    (folder / "fine.nc").write_bytes(whole[:5000])
    assert is_made_again() and not is_made_again()
    at = whole.rindex(b"\x78\x5e") + 20  # in the last compressed chunk
    (folder / "fine.nc").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    assert is_made_again() and not is_made_again()


def test_times_are_computed_by_index_and_in_strips(folder, monkeypatch, capsys):
    monkeypatch.setattr(downscale, "MAX_TILE_CELLS", 1)
    write_run()
    thk, topg = rough(75, 6)
    write_map("coarse.nc", {"time": 3, "y": 75, "x": 6}, {
        "time": (("time",), np.arange(3.0), {"units": "days since 2000-01-01"}),
        "x": (("x",), 20e3 * np.arange(6), {"units": "m"}),
        "y": (("y",), 20e3 * np.arange(75), {"units": "m"})}, {
        "thk": (("time", "y", "x"), thk * np.float32([[[1]], [[0.9]], [[0.8]]]), {"units": "m"}),
        "topg": (("y", "x"), topg, {"units": "m"})})
    years = [make(f"fine_{k}.nc", "--time", str(k))[0]["thk"] for k in range(3)]
    whole = make("whole.nc", "--time", "all")[0]["thk"]
    assert np.array_equal(np.stack(years), whole, equal_nan=True)
    strips = [make(f"strip_{k}.nc", "--time", "all", "--strip", f"{k}/2")[0]["thk"] for k in (1, 2)]
    assert np.array_equal(np.concatenate(strips, axis=1), whole, equal_nan=True)
    capsys.readouterr()
    make("fine_1.nc", "--time", "1")
    assert "complete, left as it is" in capsys.readouterr().out
    make("fine_1.nc", "--time", "2")
    assert "wrote    fine_1.nc" in capsys.readouterr().out


@pytest.mark.parametrize("argv, message", [
    (["--strip", "0/3"], "--strip 0/3: expected K/N"), (["--strip", "4/3"], "4/3: expected"),
    (["--strip", "2"], "--strip 2: expected K/N"), (["--strip", "1/2"], "at most 1 strips"),
    (["--self-ensemble", "3"], "invalid choice: 3")])
def test_invalid_strips_and_ensembles_are_one_line(folder, capsys, argv, message):
    write_run()
    save_map("coarse.nc", *rough(8, 8))
    status, said = run_main(downscale.main, ["coarse.nc", "--run", "made", "--output", "fine.nc",
                                             *argv], capsys)
    assert status == 2 and message in said and said.count("\n") == 1
    assert not (folder / "fine.nc").exists()


def test_killed_strips_are_made_again_and_two_jobs_may_write_one(folder, capsys):
    """Real processes: one killed hard, then two by xargs with the same strip at once."""
    write_run(scatter=0.05)
    save_map("coarse.nc", *rough(300, 8))  # two rows of tiles
    script = [sys.executable, str(REPOSITORY / "downscale.py"), "coarse.nc", "--run", "made"]
    with subprocess.Popen([*script, "--output", "fine_1.nc", "--strip", "1/2"],
                          stdout=subprocess.PIPE, text=True) as killed:
        for line in killed.stdout:
            if line.startswith("tile"):
                break
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL and not (folder / "fine_1.nc").exists()

    done = subprocess.run(["xargs", "-P", "2", "-I{}", *script, "--output", "fine_{}.nc", "--strip",
                           "{}/2"], input="1\n1\n", text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    make("fine_2.nc", "--strip", "2/2")
    whole, _ = make("whole.nc")
    assert_strips_equal([read(f"fine_{k}.nc")[0] for k in (1, 2)], whole)

    before = (folder / "fine_2.nc").stat().st_mtime_ns
    make("fine_2.nc", "--strip", "2/2")
    assert "fine_2.nc: complete, left as it is" in capsys.readouterr().out
    assert (folder / "fine_2.nc").stat().st_mtime_ns == before


# ---------------------------------------------------------------- self-ensemble


@pytest.mark.parametrize("size", SELF_ENSEMBLE_MEMBERS)
def test_self_ensemble_is_the_mean_over_a_group_of_symmetries(size):
    """A group: the mean of a flipped map is the flipped mean."""
    rng = np.random.default_rng(0)
    thk = np.float32(rng.uniform(0, 1000, (1, 5, 5)))
    shift = np.float32(rng.uniform(0, 100, (1, 5, 5)))

    def chain(thk, topg):
        return [thk + shift]

    numbers = SELF_ENSEMBLE_MEMBERS[size]
    (found,), spread = model.predict_ensemble(chain, thk, [], size)
    members = [model.apply_symmetry(model.apply_symmetry(thk, number) + shift, number,
                                    inverse=True) for number in numbers]
    np.testing.assert_allclose(found, np.mean(members, axis=0), rtol=1e-6)
    np.testing.assert_allclose(spread, np.std(members, axis=0), atol=1e-3)
    for number in numbers:
        (turned,), _ = model.predict_ensemble(chain, model.apply_symmetry(thk, number), [], size)
        np.testing.assert_allclose(turned, model.apply_symmetry(found, number), rtol=1e-5)


def test_a_smaller_self_ensemble_warns_and_has_no_intervals(folder, capsys, uncompiled):
    write_run(scatter=0.05, **CALIBRATED)
    save_map("coarse.nc", *rough(8, 12))
    eight, about = make("fine.nc")
    assert about["self_ensemble"] == 8 and "thk_uncertainty" in eight
    np.testing.assert_array_equal(make("fine8.nc", "--self-ensemble", "8")[0]["thk"], eight["thk"])
    capsys.readouterr()
    two, about = make("fine2.nc", "--self-ensemble", "2")
    assert about["self_ensemble"] == 2 and "thk_uncertainty" not in two
    assert "warning: no thk_uncertainty: it was calibrated for a self-ensemble of 8" in (
        capsys.readouterr().out)
    assert np.nanmax(np.abs(two["thk"] - eight["thk"])) > 0


def test_reconstructions_of_a_smaller_self_ensemble_get_their_own_files(folder, uncompiled):
    write_run(scatter=0.05, **CALIBRATED)
    save_map("coarse.nc", *rough(16, 24), spacing_m=5000.0)
    for argv in ([], ["--self-ensemble", "1"]):
        assert downscale.main(["coarse.nc", "--run", "made", "--reconstruct", *argv]) == 0
    found = {path.name.split("_coarse")[0]: json.loads(path.read_text())
             for path in (folder / "results" / "made").glob("reconstruction_*.json")}
    assert {name: metrics["self_ensemble"] for name, metrics in found.items()} == {
        "reconstruction": 8, "reconstruction_self_ensemble1": 1}
    assert "uncertainty" in found["reconstruction"]
    assert "uncertainty" not in found["reconstruction_self_ensemble1"]


# ---------------------------------------------------------------- folds and seeds


def test_every_fold_and_seed_is_trained_once_and_as_a_job(folder, capsys, narrow):
    """A fold as the jobs of an array do, then what is missing; the last command prints a table."""
    sheet = prepare_data.make_synthetic_map(seed=3, shape=(123, 328))  # 3 x 8 patches, two blocks
    window = (-1741591, -1741591 + 327 * 5000, -915923, -915923 + 122 * 5000)
    prepare_data.prepare(2, sheet, window=window)
    command = ["--scale", "2", "--epochs", "1", "--crossval", "2", "--seeds", "2"]
    runs = ["x2_fold1of2", "x2_fold1of2_seed1", "x2_fold2of2", "x2_fold2of2_seed1"]
    status, said = run_main(train.main, [*command, "--summary-only"], capsys)
    assert status == 2 and f"not trained to the end: {', '.join(runs)};" in said
    assert not (folder / "checkpoints").exists()

    assert train.main([*command, "--job", "2"]) == 0
    said = capsys.readouterr().out
    assert "model / bicubic" not in said and "mean of folds" not in said
    before = {run: final_state(run) for run in runs[2:]}
    status, said = run_main(train.main, [*command, "--summary-only"], capsys)
    assert status == 2 and f"not trained to the end: {', '.join(runs[:2])};" in said
    assert train.main(command) == 0  # finished runs are not trained again
    said = capsys.readouterr().out
    assert said.count("finished already") == 2 and "mean of folds" in said
    assert train.main([*command, "--summary-only"]) == 0
    said = capsys.readouterr().out
    assert said.count("finished already") == 4 and "mean of folds" in said
    for run, state in before.items():
        assert_same_state(state, final_state(run))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == runs
    metrics = [evaluate.read_metrics(run) for run in runs]
    assert [(each["split"], each["seed"], each["n_test"]) for each in metrics] == [
        (f"block split, fold {fold} of 2", seed, 12) for fold in (1, 2) for seed in (0, 1)]
    assert not list((folder / "results").glob("*/*.png"))


def test_a_seed_is_trained_as_a_job(small_patches, folder, monkeypatch):
    """The K-th of --seeds, or of --crossval with all its seeds."""
    made = []
    monkeypatch.setattr(train, "run_job",
                        lambda args, fold, device: made.append((args.run, fold)) or 0)
    monkeypatch.setattr(evaluate, "write_summary_table", lambda name, runs: made.append(name))
    seeds = ["--scale", "4", "--seeds", "3", "--seed", "5"]
    train.main([*seeds, "--job", "2"])
    train.main([*seeds, "--job", "1"])
    train.main([*seeds, "--crossval", "2", "--job", "2"])
    assert made == [("x4_seed6", ()), ("x4", ())] + [
        (f"x4_fold2of2{seed}", (2, 2)) for seed in ("", "_seed6", "_seed7")]


@pytest.mark.parametrize("argv, message", [
    (["--job", "1"], "need --crossval K or --seeds N"),
    (["--summary-only"], "need --crossval K or --seeds N"),
    (["--seeds", "2", "--summary-only", "--restart"], "cannot be combined with --restart"),
    (["--seeds", "2", "--summary-only", "--job", "1"], "cannot be combined with --restart"),
    (["--crossval", "2", "--job", "3"], "--job 3: expected 1 to 2"),
    (["--seeds", "2", "--job", "0"], "--job 0: expected 1 to 2")])
def test_invalid_folds_are_one_line(folder, capsys, argv, message):
    status, said = run_main(train.main, ["--scale", "4", *argv], capsys)
    assert status == 2 and message in said and said.count("\n") == 1
