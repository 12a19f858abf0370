"""Wrong and odd inputs, one fast test a kind; at random and of all scripts: tests/fault_injection."""

import os
import zipfile
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from conftest import run_main

import prepare_data
from icesheet import albmap, command_line, files, map_files, netcdf3
from icesheet.command_line import InputError
from icesheet.patches import read_patches


def save(path, form="NETCDF4", size=6, **about):
    """A small map of cells of 5 km; about: attributes of its thickness."""
    with netCDF4.Dataset(path, "w", format=form) as ds:
        for name in "yx":
            ds.createDimension(name, size)
            ds.createVariable(name, "f8", (name,))[...] = 5000.0 * np.arange(size) - 9999
            ds[name].units = "m"
        ds.createVariable("thk", "f4", ("y", "x"))[...] = np.arange(size**2).reshape(size, size)
        ds["thk"].set_auto_maskandscale(False)
        ds["thk"].setncatts({"units": "m"} | about)
    return path


@pytest.mark.parametrize("argv, said", [
    (["--input", ""], '--input: "" is empty'), (["--output="], '"--output=" is empty'),
    (["--input", "a\udcff.nc"], "not UTF-8"), (["--seed", "9" * 400], "not so large"),
    (["--window", "nan", "1", "2", "3"], "--window nan"),
    (["--window", "0", "1e400", "2", "3"], "--window inf"),
    (["--window", "0", "-inf", "2", "3"], "--window"), (["--input", "/dev/zero"], "no such file"),
])
def test_odd_words_of_a_command_line_get_one_line(folder, capsys, argv, said):
    status, error = run_main(prepare_data.main, argv, capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", ["-500000", "-5e5", "-5.0E+5"])
def test_negative_numbers_are_numbers(number):
    parser = command_line.make_argument_parser("")
    parser.add_argument("--window", type=float, nargs=2)
    assert parser.parse_args(["--window", number, "1"]).window == [-500000, 1]


def test_what_is_read_or_is_of_a_run_or_no_file_is_no_output(folder):
    save("map.nc")
    Path("soft.nc").symlink_to("map.nc")
    Path("lost.nc").symlink_to("absent.nc")
    os.link("map.nc", "hard.nc")
    for output in ("map.nc", "./map.nc", folder / "map.nc", "soft.nc", "hard.nc", "lost.nc",
                   "/dev/null", ".", "checkpoints/x8/settings.json"):
        with pytest.raises(InputError, match="choose another name"):
            files.check_output_path(output, "map.nc")
    files.check_output_path("new.nc", "map.nc")


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("records", [None, 3])
def test_netcdf_3_files_cut_short_are_refused(folder, form, records):
    save("map.nc", form)
    if records:
        with netCDF4.Dataset("map.nc", "a") as ds:
            ds.createDimension("time", None)
            ds.createVariable("time", "f8", ("time",))[...] = np.arange(records)
            ds.createVariable("odd", "i1", ("time", "x"))[...] = np.ones((records, 6))
    whole = Path("map.nc").read_bytes()
    assert len(whole) - 8 < netcdf3.expected_netcdf3_size("map.nc") <= len(whole)
    assert map_files.read_map("map.nc")["thk"][5, 5] == 35
    for size in (10, len(whole) // 2, len(whole) - 8):
        Path("map.nc").write_bytes(whole[:size])
        with pytest.raises(InputError, match="truncated"):
            map_files.read_map("map.nc")


@pytest.mark.parametrize("kind", ["text", "compound", "ragged"])
def test_variables_that_hold_no_plain_numbers_are_refused(folder, kind):
    save("map.nc")
    with netCDF4.Dataset("map.nc", "a") as ds:
        of_type = str if kind == "text" else ds.createVLType("f4", "v") if kind == "ragged" else (
            ds.createCompoundType(np.dtype([("re", "f8"), ("im", "f8")]), "c"))
        ds.createVariable("odd", of_type, ("y", "x"))
    with pytest.raises(InputError, match="no plain numbers"):
        map_files.read_map("map.nc", names={"thk": "odd"})


@pytest.mark.parametrize("value", ["ten", np.array([1.0, 2.0]), np.nan, 0.0])
def test_a_scale_factor_that_is_no_number_is_refused(folder, value):
    with pytest.raises(InputError, match="scale_factor .* expected a number"):
        map_files.read_map(save("map.nc", scale_factor=value))


@pytest.mark.parametrize("key", ["standard_name", "axis", "grid_mapping"])
def test_attributes_that_are_arrays_do_no_harm(folder, key):
    assert map_files.read_map(save("map.nc", **{key: np.array([1, 2])}))["thk"][5, 5] == 35


def test_a_coordinate_of_minus_9999_is_one(folder):
    save("map.nc")
    with netCDF4.Dataset("map.nc", "a") as ds:
        ds["x"].missing_value = -9999.0
    assert map_files.read_map("map.nc")["x"][0] == -9999


def test_equal_coordinates_and_axes_of_one_dimension_are_refused(folder):
    save("equal.nc")
    with netCDF4.Dataset("equal.nc", "a") as ds:
        ds["x"][...] = 7
    with netCDF4.Dataset("one.nc", "w") as ds:
        ds.createDimension("n", 6)
        for name in "yx":
            ds.createVariable(name, "f8", ("n",))[...] = 5000.0 * np.arange(6)
        ds.createVariable("thk", "f4", ("n", "n"))[...] = 1
    for name, said in (("equal.nc", "not evenly spaced"), ("one.nc", "share the dimension")):
        with pytest.raises(InputError, match=said):
            map_files.read_map(name)


def test_a_map_larger_than_memory_says_how_much_it_needs():
    with pytest.raises(InputError, match=r"need about 3600000\.0 GB of memory"):
        map_files.check_memory("map.nc", 300_000_000, 300_000)


@pytest.mark.parametrize("key, value", [
    ("window", None), ("window", "text"), ("window", [1.0, 2.0]), ("fold", "one"),
    ("thk_max_m", np.nan), ("degrade", "other"), ("source", 7)])
def test_damaged_patches_are_named(small_patches, key, value):
    path = next(Path("data").glob("*.nc"))
    with netCDF4.Dataset(path, "a") as ds:
        ds.delncattr(key)
        if value is not None:
            ds.setncattr(key, value)
    with pytest.raises(InputError, match=f"{key}.*make it anew|make it anew.*"):
        read_patches(path)


def test_a_download_without_end_or_of_another_packing_is_refused(folder, monkeypatch):
    Path("long").write_bytes(bytes(3000))
    monkeypatch.setattr(albmap, "MAX_DOWNLOAD_BYTES", 2000)
    with open("long", "rb") as source, open("copy", "xb") as target, \
            pytest.raises(InputError, match="more than 0 MB"):
        albmap.copy_limited(source, target, "http://here")
    with zipfile.ZipFile("a.zip", "w") as zipped:
        zipped.writestr("a.nc", "text")
    content = bytearray(Path("a.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # encrypted
    Path("a.zip").write_bytes(content)
    with pytest.raises(InputError, match="not a zip archive"):
        albmap.download_albmap(Path("a.zip").resolve().as_uri())
