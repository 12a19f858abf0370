"""The time axis of a map file: which time is read, what it is called, its values and bounds."""

import contextlib
from pathlib import Path

import netCDF4
import numpy as np

from icesheet.command_line import InputError
from icesheet.map_layout import is_numeric, read_values, text_attribute

TIME_NAMES = ("time", "t", "year", "years", "yr")
SIGNS_OF_TIME = (  # of a variable, the surest first
    lambda variable: text_attribute(variable, "standard_name") == "time",
    lambda variable: text_attribute(variable, "axis") == "T",
    lambda variable: " since " in text_attribute(variable, "units"),
    lambda variable: variable.name.lower() in TIME_NAMES)
NO_DATE = (ValueError, OverflowError, TypeError, AttributeError, KeyError)  # of cftime


def select_time_index(variable, x_dim, y_dim, time_index, path, is_user_choice=False):
    """Return the time dimension of a variable, the index to read and the number of times.

    (None, None, 1) if it has no time dimension. A dimension of length 1 is used for any index,
    except for the variable to which --time applies (is_user_choice). time_index: from 0, or from
    -1 backwards. Raises InputError if there is no such time.
    """
    time_dims = [(dim, size) for dim, size in zip(variable.dimensions, variable.shape, strict=True)
                 if dim not in (x_dim, y_dim) and size != 1]
    if not time_dims:
        if is_user_choice and time_index not in (-1, 0):
            raise InputError(f"{path}: {variable.name} has a single time (index 0); time index "
                             f"{time_index} does not exist")
        return None, None, 1
    if len(time_dims) > 1:
        names = " and ".join(f"{dim} ({size})" for dim, size in time_dims)
        raise InputError(f"{path}: {variable.name} has dimensions {variable.dimensions}: {names} "
                         f"beside {y_dim} and {x_dim}; expected time alone; choose one first: "
                         f"ncks -d {time_dims[0][0]},0 {Path(path).name} ONE.nc")
    dim, count = time_dims[0]
    if count == 0:
        raise InputError(f"{path}: {variable.name} has no times: {dim} has length 0")
    if not -count <= time_index < count:
        raise InputError(f"{path}: {variable.name} has {count} times along {dim}; time index "
                         f"{time_index} does not exist; choose 0 to {count - 1}")
    return dim, time_index % count, count


def find_time_variable(ds, dim):
    """Return the 1-D numeric variable of a time dimension, or None.

    It is named as the dimension, or the only one that is time by its attributes or its name.
    """
    candidates = [variable for variable in ds.variables.values()
                  if variable.dimensions == (dim,) and is_numeric(variable)]
    for is_time in (lambda variable: variable.name == dim, *SIGNS_OF_TIME):
        matches = [variable for variable in candidates if is_time(variable)]
        if len(matches) == 1:
            return matches[0]
    return None


def describe_time(ds, dim, time_index, count):
    """Return a time for a reader: "time index 0 of 3 (2100-01-01)", or with its value.

    Along another dimension, of an ensemble for example: "member index 0 of 3". Arguments as from
    select_time_index; "" if the file has only one time.
    """
    if dim is None:
        return ""
    variable = find_time_variable(ds, dim)
    is_time = dim.lower() in TIME_NAMES or variable is not None and any(
        is_sign(variable) for is_sign in SIGNS_OF_TIME)
    label = f"{'time' if is_time else dim} index {time_index} of {count}"
    value = np.nan if variable is None else np.ma.filled(read_values(variable, time_index), np.nan)
    if not abs(value) < 1e15:  # missing, or never written
        return label
    units = text_attribute(variable, "units")
    with contextlib.suppress(*NO_DATE):
        date = netCDF4.num2date(value, units, getattr(variable, "calendar", "standard"))
        return f"{label} ({date.strftime('%Y-%m-%d')})"
    return f"{label} ({f'{variable.name} = {value:.10g} {units}'.strip()})"


def read_time_axis(ds, dim, notes):
    """Read the time axis of a dimension: values, attributes, bounds (time, 2) or None.

    Without a variable of time the values are indices. notes: extended by what is left out.
    """
    variable = find_time_variable(ds, dim)
    if variable is None:
        return np.arange(len(ds.dimensions[dim])), {"long_name": f"index along {dim}"}, None
    attributes = {key: variable.getncattr(key) for key in variable.ncattrs()
                  if key in ("units", "calendar", "long_name", "standard_name")}
    bounds = ds.variables.get(text_attribute(variable, "bounds"))
    if bounds is not None:
        try:
            bounds = read_bounds(bounds, variable)
        except NO_DATE as error:
            notes.append(f"time bounds left out: {error}")
            bounds = None
    return np.ma.filled(read_values(variable)), attributes, bounds


def read_bounds(bounds, variable):
    """Read time bounds as (time, 2) in the units of the time variable; ValueError if unusable."""
    values = np.ma.filled(read_values(bounds), np.nan) if is_numeric(bounds) else np.full(1, np.nan)
    if not (np.abs(values) < 1e15).all():
        raise ValueError(f"{bounds.name} has missing values")
    n = len(variable)
    if values.shape == (n + 1,):  # edges
        values = np.stack([values[:-1], values[1:]], axis=1)
    if values.shape != (n, 2):
        raise ValueError(f"{bounds.name} has shape {values.shape}, expected ({n}, 2)")
    units = text_attribute(variable, "units")
    calendar = getattr(variable, "calendar", "standard")
    own_units = text_attribute(bounds, "units") or units
    own_calendar = getattr(bounds, "calendar", calendar)
    if (own_units, own_calendar) == (units, calendar):
        return values
    dates = netCDF4.num2date(values, own_units, own_calendar, only_use_cftime_datetimes=True)
    return np.asarray(netCDF4.date2num(dates, units, calendar), np.float64)
