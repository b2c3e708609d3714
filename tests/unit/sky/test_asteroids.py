"""Against a server on this machine that answers as SkyBoT does: a VOTable in which right ascension is sexagesimal."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pytest

from astrid.commands import asteroids as command
from astrid.core.errors import InputError
from astrid.io.tables import ASTEROIDS, EXPOSURES, conform, read_table, write_table
from astrid.sky.asteroids import fetch_asteroids, read_asteroids

FIELDS = {
    "num": ("char", "", "*"), "name": ("char", "", "*"), "ra": ("char", "h:m:s", "*"), "de": ("char", "d:m:s", "*"),
    "class": ("char", "", "*"), "magV": ("float", "mag", ""), "errpos": ("float", "arcsec", ""), "angdist": ("float", "arcsec", ""),
    "dracosdec": ("float", "arcsec/h", ""), "ddec": ("float", "arcsec/h", ""), "jdref": ("double", "d", ""),
}  # fmt: skip
EROS = ["433", "Eros", "10 00 00.000", "+02 00 00.00", "NEA>Amor", 11.2, 0.05, 12.0, 60.5, -12.25, 2460000.5]
FAINT = ["-", "2016 AA1", "10 00 04.000", "-00 30 00.00", "MB>Inner", 20.1, 31.0, 90.0, -20.0, 5.0, 2460000.5]


def votable(rows):
    fields = "".join(
        f'<FIELD ID="{name}" name="{name}" datatype="{kind}"'
        + (f' unit="{unit}"' if unit else "")
        + (f' arraysize="{size}"' if size else "")
        + "/>"
        for name, (kind, unit, size) in FIELDS.items()
    )
    body = "".join("<TR>" + "".join(f"<TD>{value}</TD>" for value in row) + "</TR>" for row in rows)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        '<RESOURCE name="Skybot.ConeSearch"><INFO name="QUERY_STATUS" value="OK"/>'
        f"<TABLE>{fields}<DATA><TABLEDATA>{body}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )


class SkyBoT(ThreadingHTTPServer):
    def __init__(self):
        self.asked, self.status, self.answer = [], 200, lambda query: votable([EROS, FAINT])
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = {name: values[0] for name, values in parse_qs(urlparse(self.path).query).items()}
                server.asked.append(query)
                content = server.answer(query).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                return

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/conesearch.php"


@pytest.fixture
def skybot(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with SkyBoT() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def exposures(*centres):
    ra, dec, mjd = zip(*centres, strict=True)
    frame = pd.DataFrame({"s_ra": ra, "s_dec": dec, "mjd": mjd})
    return conform(
        frame.assign(exposure_id="e", path="e.fits", role="science", survey="s", instrument="i", filter="r"), EXPOSURES, source="test"
    )


def test_the_answer_becomes_the_table_with_its_units(skybot):
    table = fetch_asteroids(exposures((150.0, 2.0, 60000.25)), radius=0.5, location="I41", server=skybot.url)
    assert list(table.columns) == [column.name for column in ASTEROIDS.columns]
    assert list(table["name"]) == ["2016 AA1", "Eros"]
    eros = table.iloc[1]
    assert (eros["s_ra"], eros["s_dec"]) == pytest.approx((150.0, 2.0))
    assert (eros["error"], eros["rate_ra"], eros["rate_dec"], eros["magnitude"]) == pytest.approx((0.05, 60.5, -12.25, 11.2), rel=1e-6)
    assert table["s_dec"][0] == pytest.approx(-0.5)
    assert (table["mjd"] == 60000.25).all()
    query = skybot.asked[0]
    assert float(query["-ra"]), float(query["-dec"]) == (150.0, 2.0)
    assert float(query["-rd"]) == 0.5
    assert float(query["-ep"]) == pytest.approx(2460000.75)
    assert query["-loc"] == "I41"


def test_each_field_and_time_is_asked_once(skybot):
    fetch_asteroids(exposures((150.0, 2.0, 60000.0), (150.00001, 2.0, 60000.0), (150.0, 2.0, 60001.0)), radius=0.5, server=skybot.url)
    assert len(skybot.asked) == 2


def test_an_empty_field_is_an_empty_table(skybot):
    skybot.answer = lambda query: votable([])
    assert len(fetch_asteroids(exposures((10.0, 80.0, 60000.0)), radius=0.1, server=skybot.url)) == 0


def test_a_server_that_fails_is_named_with_the_way_out(skybot):
    skybot.status = 503
    with pytest.raises(InputError, match=r"SkyBoT cannot be reached .*503.*name it in candidates\.moving\.asteroids"):
        fetch_asteroids(exposures((150.0, 2.0, 60000.0)), radius=0.5, server=skybot.url)


def test_no_network_is_said_in_one_sentence():
    with pytest.raises(InputError, match="SkyBoT cannot be reached for the known asteroids"):
        fetch_asteroids(exposures((150.0, 2.0, 60000.0)), radius=0.5, server="http://127.0.0.1:9/nothing")


def test_an_answer_that_is_no_table_is_said(skybot):
    skybot.answer = lambda query: "the service is down"
    with pytest.raises(InputError, match=r"SkyBoT's answer for 150\.0000, \+2\.0000 at MJD 60000\.00000 is no table"):
        fetch_asteroids(exposures((150.0, 2.0, 60000.0)), radius=0.5, server=skybot.url)


def test_a_cone_too_wide_is_refused_before_it_is_asked():
    with pytest.raises(InputError, match="a cone of 11 deg"):
        fetch_asteroids(exposures((150.0, 2.0, 60000.0)), radius=11.0)


def test_the_command_writes_the_table(skybot, tmp_path, monkeypatch, capsys):
    import astrid.sky.asteroids as room

    real = room._client
    monkeypatch.setattr(room, "_client", lambda _: real(skybot.url))
    write_table(exposures((150.0, 2.0, 60000.0)), tmp_path / "exposures.parquet", EXPOSURES)
    command.asteroids(tmp_path / "exposures.parquet", tmp_path / "known.parquet", radius=0.5, location="500")
    assert len(read_table(tmp_path / "known.parquet", ASTEROIDS)) == 2
    assert "2 positions of 2 known objects" in capsys.readouterr().out
    assert len(read_asteroids(tmp_path / "known.parquet")) == 2


def test_a_hand_made_table_needs_four_columns(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("name, mjd, ra, dec\nCeres, 60000.5, 12.5, -3.25\n")
    table = read_asteroids(path)
    assert (table["name"][0], table["s_ra"][0], table["s_dec"][0]) == ("Ceres", 12.5, -3.25)
    assert np.isnan(table["error"][0])
    path.write_text("name, ra, dec\nCeres, 12.5, -3.25\n")
    with pytest.raises(InputError, match="lacks the column 'mjd' of the asteroids table"):
        read_asteroids(path)
