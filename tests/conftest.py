"""What the tests share: small maps, trained runs, the real grids where they are, and no network.

TensorFlow takes seconds to import: train and model are imported where they are needed.
"""

import os

# Of this process and all that tests start: no GPU, and one number of threads, which decides the
# last bits; one thread costs the least. What the user has set for threads stays.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import contextlib
import functools
import io
import shutil
import socket
from pathlib import Path

import netCDF4
import numpy as np
import pytest

import model
import prepare_data
import train
from icesheet import checkpoints, command_line, device, figures, files, map_files
from icesheet.device import tf
from icesheet.patches import read_patches
from icesheet.settings import hash_settings
from icesheet.training_runs import parse_training_arguments

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_GRIDS = REPOSITORY.parent / "shared" / "data"
SMALL_WINDOW = (-1741591, -1741591 + 163 * 5000, -915923, -915923 + 122 * 5000)  # 4 x 3 patches
PLAIN_WINDOW = (0, 163 * 5000, 0, 122 * 5000)  # all of a plain map of 123 x 164 cells


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection that leaves this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            assert address[0] in ("127.0.0.1", "::1", "localhost"), f"connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, as a user's shell would stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def real_grid():
    """Path of a real Antarctic grid by name; the test is skipped where the grids are not."""
    def path(name):
        if not (REAL_GRIDS / name).exists():
            pytest.skip(f"real grid {name} is not here (expected in {REAL_GRIDS})")
        return REAL_GRIDS / name
    return path


def write_map(path, dimensions, coordinates, fields, attributes=None):
    """Write a NetCDF map: coordinates and fields are {name: (dims, values, attributes)}."""
    with netCDF4.Dataset(path, "w") as ds:
        ds.setncatts(attributes or {})
        for name, size in dimensions.items():
            ds.createDimension(name, size)
        for name, (dims, values, attrs) in (coordinates | fields).items():
            values = np.asarray(values)
            variable = ds.createVariable(name, values.dtype, dims, zlib=values.ndim > 1,
                                         fill_value=attrs.get("_FillValue"))
            variable[...] = values
            variable.setncatts({key: value for key, value in attrs.items() if key != "_FillValue"})
    return path


def plain_map(shape=(90, 130), spacing_m=5000.0, x0=0.0, y0=0.0, **fields):
    """A map in memory: cells of 5 km from 0, ice 1 ... 2 km thick unless given."""
    rng = np.random.default_rng(0)
    fields = {"thk": 1000 + 1000 * rng.random(shape), "topg": -500 * rng.random(shape)} | fields
    return map_files.make_map(
        x0 + spacing_m * np.arange(shape[1]), y0 + spacing_m * np.arange(shape[0]), name="plain",
        **{name: None if field is None else np.asarray(field, np.float32)
           for name, field in fields.items()})


def write_plain_map(path, ice_map, attributes=None):
    """A map in memory as a file."""
    return write_map(
        path, {"y": len(ice_map["y"]), "x": len(ice_map["x"])},
        {name: ((name,), ice_map[name], {"units": "m"}) for name in "yx"},
        {name: (("y", "x"), ice_map[name], {"units": "m"}) for name in ("thk", "topg")}, attributes)


@pytest.fixture(scope="session")
def small_map(tmp_path_factory):
    """A file with a corner of the synthetic ice sheet: 123 x 164 cells, 12 patches."""
    sheet = prepare_data.make_synthetic_map(seed=3, shape=(123, 164))
    path = tmp_path_factory.mktemp("map") / "small.nc"
    return write_map(
        path, {"y": 123, "x": 164},
        {"x": (("x",), sheet["x"], {"units": "m"}), "y": (("y",), sheet["y"], {"units": "m"})},
        {name: (("y", "x"), sheet[name], {"units": "m"}) for name in ("thk", "topg")},
        {"citation": "made for the tests"})


@pytest.fixture
def small_sheet(monkeypatch):
    """The synthetic sheet on cells of 20 km, as quick as that."""
    monkeypatch.setattr(prepare_data, "make_synthetic_map", functools.partial(
        prepare_data.make_synthetic_map, shape=(104, 206), spacing_m=20e3))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, small_map):
    """A working folder with data/patches_x4.nc, made from small_map."""
    made = tmp_path_factory.mktemp("prepared")
    with contextlib.chdir(made):
        prepare_data.prepare(4, map_files.read_map(small_map), window=SMALL_WINDOW)
    return made


@pytest.fixture
def small_patches(folder, prepared):
    """The patches of `prepared` in an empty working folder, and read back."""
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    return read_patches("data/patches_x4.nc")


def example_settings(scale=4, recipe="default", data=None, **changes):
    """Complete settings of a quick run `tiny`: a narrow SRCNN, 3 epochs.

    changes: other values of its keys; data: other values of some keys of its `data`.
    """

    settings = train.make_settings(parse_training_arguments(
        "", tuple(train.RECIPES), ["--run", "tiny", "--scale", str(scale), "--recipe", recipe]))
    return settings | {
        "filters": [8, 4], "kernels": [5, 1, 3], "epochs": 3, "batch_size": 4,
        "patches": f"data/patches_x{scale}.nc", "versions": files.package_versions(), "data": {
            "source": "example.nc", "source_sha256": "0" * 64, "source_title": "", "citation": "",
            "time_index": -1, "time_label": "", "synthetic": False, "degrade": "bicubic",
            "split_method": "random", "fold": [], "test_size": 0.3, "seed": 0,
            "window": [0.0, 815000.0, 0.0, 610000.0],
            "spacing_m": 5000.0, "thk_max_m": 4000.0, "thk_norm_m": 4000.0, "topg_norm_m": 2000.0,
            "crs": {}} | (data or {})} | changes


def load_state(settings):
    """Return what a run carries from epoch to epoch, as train.train starts with it."""
    import train

    objects = train.build_objects(settings)
    return {"objects": objects, "history": checkpoints.resume_training(objects, settings)}


def save_layers(settings, layers, epoch=1):
    """Save layers as the best ones of a run with these settings, as its training does."""

    folder = checkpoints.run_folder(settings["run"]) / "best"
    checkpoints.save_checkpoint(folder, {"layers": layers, "settings": tf.Variable(
        hash_settings(settings))}, epoch)
    checkpoints.delete_other_checkpoints(folder, [epoch])


@pytest.fixture
def small_settings(small_patches):
    """Settings of a quick run `tiny` on small_patches."""
    return example_settings(data=small_patches["data"])


@pytest.fixture(scope="session")
def trained_once(prepared, tmp_path_factory):
    """A copy of `prepared` with the run `tiny` in checkpoints/, trained on its patches."""

    made = shutil.copytree(prepared, tmp_path_factory.mktemp("trained") / "tiny")
    with contextlib.chdir(made):
        patches = read_patches("data/patches_x4.nc")
        device.set_up_device()
        train.train(patches, example_settings(data=patches["data"]))
    return made


@pytest.fixture
def trained(folder, trained_once):
    """A copy of the run `tiny` and its patches in an empty working folder; its settings."""
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    return files.read_json("checkpoints/tiny/settings.json", "train again")


QUICK = ["--scale", "4", "--epochs", "3", "--batch-size", "4", "--seeds", "1"]  # no figures


def make_narrow(monkeypatch):
    """Give all recipes a few filters only, for tests that are not about accuracy."""

    for recipe in train.RECIPES.values():
        monkeypatch.setitem(recipe, "filters", [4])
        monkeypatch.setitem(recipe, "kernels", [3, 3])


@pytest.fixture
def narrow(monkeypatch):
    make_narrow(monkeypatch)


@pytest.fixture(scope="session")
def quick_once(prepared, tmp_path_factory):
    """What `train.py` with QUICK and a narrow recipe leaves in a copy of `prepared`, and says."""

    made, said = shutil.copytree(prepared, tmp_path_factory.mktemp("quick") / "x4"), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(said):
        monkeypatch.chdir(made)
        make_narrow(monkeypatch)
        assert train.main(QUICK) == 0
    return made, said.getvalue()


@pytest.fixture
def quick_run(folder, quick_once, narrow):
    """A copy of the run `x4`, its patches and results in an empty working folder; what was said."""
    shutil.copytree(quick_once[0], folder, dirs_exist_ok=True)
    return quick_once[1]


@pytest.fixture
def uncompiled(monkeypatch):
    """Chains of small maps are not compiled, which takes longer than they do: see test_parts.py."""

    monkeypatch.setattr(model, "compile_chain", lambda *about, whole_map=False: lambda *fields: (
        model.run_chain(about[0], *fields, about[1], whole_map)))


@pytest.fixture
def quick_figures(request, monkeypatch):
    """Figures of maps are empty, but in tests that look at them: those that ask for `drawn`."""

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "plot_map", lambda *args: figures.plt.figure(figsize=(1, 1)))
    figures.plt.switch_backend("Agg")
    yield
    figures.plt.close("all")


def run_main(main, argv, capsys):
    """Run a script's main as the shell would: exit status, and what it said on stderr."""
    with pytest.raises(SystemExit) as stopped:
        command_line.run_script(lambda: main([str(arg) for arg in argv]))
    return stopped.value.code or 0, capsys.readouterr().err
