"""A catalogue from VizieR, by astroquery."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from astrid.core.errors import InputError
from astrid.sky.catalog.formats import BY_FORMAT, mapped
from astrid.sky.manners import ArchiveError, Manners, PassingError, is_page, passing_status

_TIMEOUT = 120.0  # s; a whole catalogue comes in one answer
_RATE, _RETRIES = 5.0, 3
_HOST = "vizier.cds.unistra.fr"


def fetch_table(name: str, *, server: str = "") -> pd.DataFrame:
    """All rows and columns of a table of VizieR, e.g. B/sn/sncat, with the position that VizieR computes.

    Parameters
    ----------
    name
        Of the table, or of a catalogue in which one table has names and coordinates.
    server
        Address of a mirror, with or without its scheme; empty = VizieR's own.

    Raises
    ------
    InputError
        VizieR cannot be reached, knows no such table, or several of its tables could be meant.
    """
    import requests

    address = (server if "://" in server else f"https://{server or _HOST}").rstrip("/")
    try:
        tables = Manners(_RATE, _RETRIES).ask(f"VizieR at {address}", lambda: _ask(address, name))
    except (ArchiveError, requests.RequestException) as error:
        raise InputError(
            f"{name} cannot be had: {' '.join(str(error).split())[:200].rstrip('.')}; try later, name a mirror in "
            "survey.archive.catalog.server, or save the table as csv where a network is and give that file."
        ) from error
    usable = {key: frame for key, frame in tables.items() if {"object_id", "s_ra", "s_dec"} <= set(mapped(frame, BY_FORMAT["vizier"]))}
    if not tables:
        raise InputError(f"VizieR at {address} has no table {name} with rows; look for its name on that page.")
    if not usable:
        columns = ", ".join(map(str, next(iter(tables.values())).columns[:12]))
        raise InputError(f"VizieR's {name} has no table with names and coordinates (its columns begin {columns}); name another.")
    if len(usable) > 1:
        raise InputError(f"VizieR's {name} has {len(usable)} tables with names and coordinates ({', '.join(usable)}); name one.")
    return next(iter(usable.values()))


def _ask(address: str, name: str) -> dict[str, pd.DataFrame]:
    from astropy.io.votable.exceptions import VOWarning
    from astroquery.exceptions import TableParseError

    client = _client(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VOWarning)  # of the service's VOTable dialect
        warnings.simplefilter("ignore", UserWarning)  # units that astropy does not know
        response = client.get_catalogs_async(name)
        passing = passing_status(response.status_code, response.headers)
        if passing is not None:
            raise passing
        response.raise_for_status()
        if is_page(response.content[:200], response.headers.get("Content-Type", "")) or not response.content.startswith(b"<?xml"):
            raise PassingError("it answered with something that is no VOTable")
        try:
            tables = client._parse_result(response)
        except (TableParseError, ValueError) as error:
            raise PassingError("its table breaks off or cannot be read") from error
    return {str(key): _plain(tables[key]) for key in tables.keys()}  # noqa: SIM118, a TableList


def _client(address: str) -> Any:
    """astroquery's VizieR client, sent to `address` and asking for all rows and columns; it keeps no copy of answers."""
    from astroquery.vizier import VizierClass

    class Client(VizierClass):  # type: ignore[misc]
        def _server_to_url(self, return_type: str = "votable") -> str:
            return f"{address}/viz-bin/{return_type}"

        def _request(self, method: str, url: str, **options: Any) -> Any:
            return super()._request(method, url, **(options | {"cache": False}))

    return Client(columns=["**", "_RAJ2000", "_DEJ2000"], row_limit=-1, timeout=_TIMEOUT)


def _plain(table: Any) -> pd.DataFrame:
    """Cells as text and numbers, numbers with the digits that VizieR wrote; masked ones are empty."""
    return pd.DataFrame({name: [_cell(value) for value in table[name]] for name in table.colnames})


def _cell(value: Any) -> Any:
    if value is None or np.ma.is_masked(value):
        return ""
    return value.decode() if isinstance(value, bytes) else str(value)
