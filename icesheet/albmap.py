"""Download ALBMAP v1, a map of Antarctica: prepare_data.py --download."""

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
    "247-260, doi:10.5194/essd-2-247-2010 (data doi:10.1594/PANGAEA.734145)")
MAX_DOWNLOAD_BYTES = 500e6  # a larger file is not ALBMAP, which has 16 MB
DOWNLOAD_TIMEOUT_S = 30  # longest time without an answer of the server


def download_albmap(url=ALBMAP_URL, folder=files.DATA, timeout_s=DOWNLOAD_TIMEOUT_S):
    """Download ALBMAP v1 into `folder`, check it, and return the path of ALBMAPv1.nc.

    An existing file is checked and used. Raises InputError if the download, the archive or its
    contents are not as expected; nothing is left in the folder then.
    """
    path = Path(folder) / "ALBMAPv1.nc"
    if path.exists():
        print(f"{path} exists, not downloaded again")
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
            raise InputError(f"{url}: download failed ({command_line.one_line(error)}); try again "
                             "later, or fetch it with a browser, unzip it and give it with --input"
                             ) from None
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = [name for name in zipped.namelist() if name.endswith(".nc")]
                if len(members) != 1:
                    raise InputError(f"{url}: expected one .nc file in it, found {members}")
                with zipped.open(members[0]) as packed, open(unpacked, "xb") as file:
                    copy_limited(packed, file, url)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError
                ) as error:  # the last two: encrypted, or an unknown compression
            raise InputError(f"{url}: not a zip archive ({error}); try again later") from None
        check_albmap(unpacked)
        os.replace(unpacked, path)
    print(f"saved {path}")
    return path


def copy_limited(source, target, url):
    """Copy an open file to another; InputError if it is longer than MAX_DOWNLOAD_BYTES."""
    n_bytes = 0
    while block := source.read(1 << 20):
        n_bytes += len(block)
        if n_bytes > MAX_DOWNLOAD_BYTES:
            raise InputError(f"{url}: more than {MAX_DOWNLOAD_BYTES / 1e6:.0f} MB, which is not "
                             "ALBMAP v1; fetch it with a browser and give it with --input")
        target.write(block)


def check_albmap(path):
    """Raise InputError unless `path` is a map of all Antarctica with plausible values."""
    ice_map = map_files.read_map(path)
    thk, topg = ice_map["thk"], ice_map["topg"]
    low, high = (np.nan, np.nan) if topg is None else (np.nanmin(topg), np.nanmax(topg))
    if thk.size < 1000**2 or not 3000 < thk.max() < 6000 or not (low > -12000 and high < 6000):
        raise InputError(f"{path}: {thk.shape} cells, thickness to {thk.max():.0f} m, bed "
                         f"{low:.0f} to {high:.0f} m; expected ALBMAP v1 (about 1200 x 1200, 4000 "
                         "to 5000 m, -8000 to 5000 m): delete it, try again")
