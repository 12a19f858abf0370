"""Wrong and odd maps, one fast test a kind; at random, of all scripts: tests/fault_injection."""

import zipfile
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from icesheet import albmap, map_files, netcdf3
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
    with pytest.raises(InputError, match=r"need about 4320000\.0 GB of memory"):
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
    with pytest.raises(InputError, match=f"{key}.*Recreate it|truncated .*recreate it"):
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
