"""What the tests share: small maps, the real grids where they are, and no way to the network."""

import socket
from pathlib import Path

import netCDF4
import numpy as np
import pytest

import prepare_data
import train
import utils

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_GRIDS = REPOSITORY.parent / "shared" / "data"
SMALL_WINDOW = (-1741591, -1741591 + 163 * 5000, -915923, -915923 + 122 * 5000)  # 4 x 3 patches


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
            fill = attrs.get("_FillValue")
            variable = ds.createVariable(
                name, values.dtype, dims, fill_value=fill, zlib=values.ndim > 1
            )
            variable[...] = values
            variable.setncatts({key: value for key, value in attrs.items() if key != "_FillValue"})
    return path


@pytest.fixture(scope="session")
def small_map(tmp_path_factory):
    """A file with a corner of the synthetic ice sheet: 123 x 164 cells, 12 patches."""
    found = prepare_data.synthetic_map(seed=3, shape=(123, 164))
    path = tmp_path_factory.mktemp("map") / "small.nc"
    return write_map(
        path, {"y": 123, "x": 164},
        {"x": (("x",), found["x"], {"units": "m"}), "y": (("y",), found["y"], {"units": "m"})},
        {name: (("y", "x"), found[name], {"units": "m"}) for name in ("thk", "topg")},
        {"citation": "made for the tests"})


@pytest.fixture
def small_patches(folder, small_map):
    """data/patches_x4.nc made from small_map in an empty working folder; its contents."""
    path = prepare_data.prepare(4, utils.read_map(small_map), window=SMALL_WINDOW)
    return utils.read_patches(path)


@pytest.fixture
def small_settings(small_patches):
    """Settings of a quick run `tiny` on small_patches: 4x, two stages of a narrow SRCNN."""
    settings = {
        "run": "tiny",
        "scale": 4,
        **train.RECIPES["default"],
        "recipe": "default",
        "seed": 0,
        "filters": (8, 4),
        "kernels": (5, 1, 3),
        "epochs": 3,
        "batch_size": 4,
    }
    settings["data"] = prepare_data.describe_data(small_patches)
    return settings | {key: settings["data"][key] for key in ("thk_norm_m", "topg_norm_m")}


def run_main(main, argv, capsys):
    """Run a script's main as the shell would: exit status, and what it said on stderr."""
    with pytest.raises(SystemExit) as stopped:
        utils.run_script(lambda: main([str(arg) for arg in argv]))
    return stopped.value.code or 0, capsys.readouterr().err
