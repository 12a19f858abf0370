"""ALBMAP v1, a map of Antarctica, fetched when the user asks for it: prepare_data.py --download."""

import http.client
import os
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np

from icesheet import command_line, files, map_files
from icesheet.command_line import InputError

ALBMAP_URL = "https://store.pangaea.de/Publications/LeBrocq_et_al_2010/ALBMAPv1.nc.zip"
ALBMAP_CITATION = (
    "Le Brocq A.M., Payne A.J., Vieli A. (2010), ALBMAP v1, Earth Syst. Sci. Data 2, "
    "247-260, doi:10.5194/essd-2-247-2010 (data doi:10.1594/PANGAEA.734145)"
)
ALBMAP_SHA256 = ""            # of ALBMAPv1.nc, where known: then its contents are not looked at
MAX_DOWNLOAD_BYTES = 500e6        # a file that is larger is not ALBMAP: 16 MB packed
DOWNLOAD_TIMEOUT_S = 30       # give up when the server says nothing for so long


def download_albmap(url=ALBMAP_URL, folder=files.DATA, timeout_s=DOWNLOAD_TIMEOUT_S):
    """Fetch ALBMAP v1 into `folder`, check it by opening it, and return the path of ALBMAPv1.nc.

    A file that is there already is checked and used. Raises InputError where the download, the
    archive or its contents are not what they should be; nothing is left behind then.
    """
    path = Path(folder) / "ALBMAPv1.nc"
    if path.exists():
        print(f"{path} is there already")
        check_albmap(path)
        return path
    print(f"downloading {url}\n  {ALBMAP_CITATION}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download", dir=folder) as scratch:
        archive, unpacked = Path(scratch) / "albmap.zip", Path(scratch) / path.name
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer, \
                    open(archive, "xb") as file:
                copy_limited(answer, file, url)
        except (OSError, http.client.HTTPException) as error:  # all that a network can do
            raise InputError(f"{url}: download failed ({command_line.one_line(error)}); try again later, "
                             "or fetch it with a browser, unzip it and give it with --input"
                             ) from None
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [name for name in zipped.namelist() if name.endswith(".nc")]
                if len(members) != 1:
                    raise InputError(f"{url}: expected one .nc file in it, found {members}")
                with zipped.open(members[0]) as packed, open(unpacked, "xb") as file:
                    copy_limited(packed, file, url)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError
                ) as error:  # the last two: encrypted, or packed in another way
            raise InputError(f"{url}: not a zip archive ({error}); try again later") from None
        check_albmap(unpacked)
        os.replace(unpacked, path)
    print(f"saved {path}")
    return path


def copy_limited(source, target, url):
    """Copy an open file to another; InputError where it is longer than MAX_DOWNLOAD_BYTES."""
    done = 0
    while part := source.read(1 << 20):
        done += len(part)
        if done > MAX_DOWNLOAD_BYTES:
            raise InputError(f"{url}: more than {MAX_DOWNLOAD_BYTES / 1e6:.0f} MB, which ALBMAP v1 is "
                             "not; fetch it with a browser and give it with --input")
        target.write(part)


def check_albmap(path):
    """Raise InputError unless `path` is ALBMAP v1 by its SHA-256, or by its contents.

    By contents: a map of all Antarctica with plausible values.
    """
    if files.hash_file(path) == ALBMAP_SHA256:
        return
    ice_map = map_files.read_map(path)
    thk, topg = ice_map["thk"], ice_map["topg"]
    if topg is None:
        raise InputError(f"{path}: no bed topography; expected ALBMAP v1: delete it, try again")
    low, high = np.nanmin(topg), np.nanmax(topg)
    if thk.size < 1000**2 or not 3000 < thk.max() < 6000 or low < -12000 or high > 6000:
        raise InputError(f"{path}: {thk.shape} cells, thickness to {thk.max():.0f} m, bed "
                         f"{low:.0f} to {high:.0f} m; expected ALBMAP v1 (about 1200 x 1200, 4000 "
                         "to 5000 m, -8000 to 5000 m): delete it, try again")
