"""Known moving objects: a table read from a file, or asked of SkyBoT for the fields and times of exposures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.core.errors import InputError
from astrid.core.runtime import track
from astrid.io.tables import ASTEROIDS, conform
from astrid.sky.catalog import read_table_file

_SAME_CENTRE = 3  # decimals of a degree: detectors and dithers of one visit nearer than this are asked once
_TIMEOUT = 60.0  # s


def read_asteroids(path: Path) -> pd.DataFrame:
    """Read a table of known objects (ASTEROIDS) from Parquet, CSV or ECSV with at least name, mjd, s_ra and s_dec (or ra, dec).

    Raises `InputError` when the file or a column is missing or a value is not a number.
    """
    frame = read_table_file(path)
    return conform(frame.rename(columns={"ra": "s_ra", "dec": "s_dec"}), ASTEROIDS, source=str(path))


def fetch_asteroids(exposures: pd.DataFrame, *, radius: float, location: str = "500", server: str | None = None) -> pd.DataFrame:
    """Ask SkyBoT (Berthier et al. 2006, IMCCE) which asteroids and comets stand in the fields of exposures, at their times.

    Parameters
    ----------
    exposures
        EXPOSURES rows; s_ra, s_dec (deg) and mjd are read, one question a field and time.
    radius
        Of the cone about each centre, deg, at most 10.
    location
        IAU code of the observatory; 500 is the Earth's centre, which misplaces near objects by their parallax.
    server
        Another address than SkyBoT's own.

    Returns
    -------
    ASTEROIDS rows, by time and name; positions are astrometric, J2000.

    Raises
    ------
    InputError
        The service cannot be reached or answers with something else than a table.
    """
    centres = exposures[["s_ra", "s_dec", "mjd"]].dropna().drop_duplicates().reset_index(drop=True)
    centres = centres[~centres.round({"s_ra": _SAME_CENTRE, "s_dec": _SAME_CENTRE}).duplicated()]
    if not 0 < radius <= 10:
        raise InputError(f"a cone of {radius:g} deg cannot be asked for; SkyBoT takes more than 0 and at most 10 deg.")
    client = _client(server)
    rows = list(centres.itertuples(index=False))
    frames = [_cone(client, float(row.s_ra), float(row.s_dec), float(row.mjd), radius, location) for row in track(rows, "asteroids")]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return ASTEROIDS.empty()
    table = pd.concat(frames, ignore_index=True).sort_values(["mjd", "name"], kind="stable")
    return conform(table, ASTEROIDS, source="SkyBoT")


def _client(server: str | None) -> Any:
    """astroquery's SkyBoT client, sent to `server` where one is given."""
    from astroquery.imcce import SkybotClass

    class Client(SkybotClass):  # type: ignore[misc]
        def _request(self, method: str, url: str, **options: Any) -> Any:
            return super()._request(method, server or url, **(options | {"timeout": _TIMEOUT}))

    return Client()


def _cone(client: Any, ra: float, dec: float, mjd: float, radius: float, location: str) -> pd.DataFrame:
    import requests
    from astropy.coordinates import SkyCoord
    from astropy.io.votable.exceptions import VOWarning
    from astropy.time import Time
    from astroquery.exceptions import NoResultsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoResultsWarning)  # an empty field is an answer
        warnings.simplefilter("ignore", VOWarning)  # of the service's VOTable dialect
        try:
            found = client.cone_search(
                SkyCoord(ra, dec, unit="deg"),
                radius,
                Time(mjd, format="mjd", scale="utc"),
                location=location,
                find_planets=False,
                cache=False,
            )
        except requests.exceptions.RequestException as error:
            raise InputError(
                f"SkyBoT cannot be reached for the known asteroids ({_short(error)}); make the table where a network is and name it in "
                "candidates.moving.asteroids, or leave that empty."
            ) from error
        except (ValueError, IndexError, TypeError, KeyError, VOWarning) as error:
            raise InputError(
                f"SkyBoT's answer for {ra:.4f}, {dec:+.4f} at MJD {mjd:.5f} is no table ({_short(error)}); try later."
            ) from error
    if not len(found):
        return ASTEROIDS.empty()
    return pd.DataFrame(
        {
            "name": [str(name) for name in found["Name"]],
            "mjd": mjd,
            "s_ra": _plain(found["RA"]),
            "s_dec": _plain(found["DEC"]),
            "error": _plain(found["posunc"]),
            "rate_ra": _plain(found["RA_rate"]),
            "rate_dec": _plain(found["DEC_rate"]),
            "magnitude": _plain(found["V"]),
            "source": "SkyBoT",
        }
    )


def _plain(column: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = getattr(column, "value", column)
    return np.asarray(np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
