"""The download of ALBMAP, from a web server on this machine."""

import functools
import http.server
import re
import threading
import zipfile

import numpy as np
import pytest
from conftest import write_map

from icesheet import albmap, map_files
from icesheet.command_line import InputError


@pytest.fixture
def server(tmp_path_factory):
    """A web server on loopback: its address and the folder it serves; /stall never answers."""
    folder = tmp_path_factory.mktemp("web")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/stall":
                release.wait(20)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    release = threading.Event()
    web = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", folder
    release.set()
    web.shutdown()
    thread.join()
    web.server_close()


def zipped_albmap(path, deepest=4400.0, size=1100, members=("ALBMAPv1.nc",)):
    """A stand-in for ALBMAPv1.nc.zip: right size, thickness up to `deepest`, and names `members`.
    """
    usrf = np.zeros((size, size), np.float32)
    usrf[400:700, 400:700] = deepest - 500
    axis = 5000.0 * np.arange(size)
    bed = np.full_like(usrf, -500)
    dims = ("y1", "x1")
    write_map(path.with_suffix(""), {"y1": size, "x1": size},
              {"x1": (("x1",), axis, {"units": "m"}), "y1": (("y1",), axis, {"units": "m"})},
              {"usrf": (dims, usrf, {}), "lsrf": (dims, np.where(usrf > 0, bed, usrf), {}),
               "topg": (dims, bed, {})})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.write(path.with_suffix(""), member)


def test_download_is_unpacked_checked_and_kept(server, folder, capsys):
    """Whatever the archive calls it: no name of a member is taken for a path."""
    address, served = server
    zipped_albmap(served / "map.nc.zip", members=("../../x.nc",))
    (folder / "x.nc").write_text("the user's own")
    path = albmap.download_albmap(f"{address}/map.nc.zip")
    assert sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*")) == [
        "data", "data/ALBMAPv1.nc", "x.nc"]
    assert (folder / "x.nc").read_text() == "the user's own"
    assert map_files.read_map(path)["thk"].max() == 4400
    assert "doi:10.1594/PANGAEA.734145" in capsys.readouterr().out
    assert albmap.download_albmap("http://127.0.0.1:1/never") == path  # there already


@pytest.mark.parametrize("page, message", [
    ("absent.zip", "404"), ("text.zip", "not a zip archive"), ("thin.nc.zip", "expected ALBMAP v1"),
    ("two.nc.zip", "expected one .nc file in it, found ['a.nc', 'b/c.nc']"),
    ("damaged.nc.zip", "not a zip archive"), ("stall", "timed out")])
def test_failed_download_is_named_and_leaves_nothing(server, folder, page, message):
    address, served = server
    (served / "text.zip").write_text("sorry")
    if page == "thin.nc.zip":
        zipped_albmap(served / page, deepest=900)
    if page == "two.nc.zip":
        zipped_albmap(served / page, size=10, members=("a.nc", "b/c.nc"))
    if page == "damaged.nc.zip":  # its list of members is whole, what is packed is not
        zipped_albmap(served / page, size=500)
        packed = bytearray((served / page).read_bytes())
        packed[100:1000] = bytes(range(250, 25, -1)) * 4
        (served / page).write_bytes(packed)
    with pytest.raises(InputError, match=re.escape(message)):
        albmap.download_albmap(f"{address}/{page}", timeout_s=1)
    assert list((folder / "data").iterdir()) == []
