"""What each catalogue calls the house's columns, compared in lower case; the first present wins."""

from __future__ import annotations

import pandas as pd

from astrid.config.schema.archive import CatalogFormat
from astrid.sky.catalog.values import text_of

Names = dict[str, tuple[str, ...]]

TABLE: Names = {
    "object_id": ("object_id", "name", "objname", "event", "id", "iauid"),
    "s_ra": ("s_ra", "ra", "raj2000", "ra_deg", "r.a."),
    "s_dec": ("s_dec", "dec", "dej2000", "decj2000", "dec_deg", "decl."),
    "discovery_mjd": ("discovery_mjd", "mjd", "discovery_date", "discoverdate", "date"),
    "transient_type": ("transient_type", "type", "obj. type", "claimedtype", "class"),
    "redshift": ("redshift", "z"),
    "host": ("host", "host_name", "galaxy"),
    "host_ra": ("host_ra", "hostra"),
    "host_dec": ("host_dec", "hostdec"),
    "source": ("source",),
    "aliases": ("aliases", "alias"),
    "maximum": ("maximum_mjd", "maxdate"),
    "discovery_precision": ("discovery_precision",),
    "type_uncertain": ("type_uncertain",),
    "type_peculiar": ("type_peculiar",),
}

_SNCAT: Names = {
    "object_id": ("sn_name",),
    "s_ra": ("sn_ra",),
    "s_dec": ("sn_dec",),
    "discovery_mjd": ("disc_date",),
    "maximum": ("max_date",),
    "transient_type": ("sn_type",),
    "redshift": ("redshift",),
    "host": ("gal_name",),
    "host_ra": ("gal_ra",),
    "host_dec": ("gal_dec",),
}

# The table on sne.space (headers) and its API (keys).
_OSC: Names = {
    "object_id": ("name", "event"),
    "s_ra": ("r.a.", "ra"),
    "s_dec": ("dec.", "dec"),
    "discovery_mjd": ("disc. date", "discoverdate"),
    "maximum": ("max date", "maxdate"),
    "transient_type": ("type", "claimedtype"),
    "redshift": ("z", "redshift"),
    "host": ("host name", "host"),
    "host_ra": ("host r.a.", "hostra"),
    "host_dec": ("host dec.", "hostdec"),
    "aliases": ("aliases", "alias"),
}

# The csv of a search on wis-tns.org, and the daily dump of all public objects.
_TNS: Names = {
    "object_id": ("name",),
    "prefix": ("name_prefix",),
    "s_ra": ("ra",),
    "s_dec": ("dec", "declination"),
    "discovery_mjd": ("discovery date (ut)", "discoverydate"),
    "transient_type": ("obj. type", "type"),
    "redshift": ("redshift", "host redshift"),
    "host": ("host name", "hostname"),
    "aliases": ("disc. internal name", "internal_names"),
}

# Asiago (B/sn, II/283), the unified catalogue (J/A+A/538/A120) and others; _RAJ2000 is what VizieR computes.
_VIZIER: Names = {
    "object_id": ("sn", "name", "objname", "id", "snname"),
    "s_ra": ("raj2000", "ra_icrs", "raicrs", "radeg", "_raj2000", "_ra"),
    "s_dec": ("dej2000", "de_icrs", "deicrs", "dedeg", "_dej2000", "_de"),
    "discovery_mjd": ("discdate", "discovery", "date", "disc.date", "ddate"),
    "maximum": ("epmax", "maxdate", "date.max", "tmax"),
    "maximum_flag": ("u_epmax",),
    "transient_type": ("type", "sntype", "class"),
    "redshift": ("z", "redshift", "zhel"),
    "host": ("galaxy", "gal", "host", "gname"),
    "host_ra": ("rag",),
    "host_dec": ("deg",),
    "aliases": ("oname", "othername", "altname"),
}

BY_FORMAT: dict[CatalogFormat, Names] = {"sncat": _SNCAT, "osc": _OSC, "tns": _TNS, "table": TABLE, "vizier": _VIZIER}
_SEVERAL = ("s_ra", "s_dec", "discovery_mjd", "maximum", "transient_type", "redshift", "host", "host_ra", "host_dec")
_DISCOVERY_MARK = "*"  # in u_EpMax of Asiago: the date is that of the discovery


def mapped(frame: pd.DataFrame, names: Names) -> pd.DataFrame:
    """The frame's columns under the house's names, cells as they are; what it lacks is absent."""
    known = {str(name).lower(): name for name in frame.columns}
    found = {house: next((known[one] for one in theirs if one in known), None) for house, theirs in names.items()}
    return pd.DataFrame({house: frame[name] for house, name in found.items() if name is not None}, index=frame.index)


def given(frame: pd.DataFrame, kind: CatalogFormat) -> pd.DataFrame:
    """A catalogue's rows under the house's names, with what is peculiar to its format undone.

    OSC lists several values in one cell, the first of them is taken; TNS keeps `SN` and `AT` beside the name; Asiago marks
    dates that are not of the maximum but of the discovery.
    """
    out = mapped(frame, BY_FORMAT[kind])
    if kind == "osc":
        for name in out.columns.intersection(_SEVERAL):
            out[name] = [text_of(value).split(",")[0].strip() for value in out[name]]
    if "prefix" in out:
        out["object_id"] = [
            f"{text_of(prefix)} {text_of(name)}".strip() for prefix, name in zip(out["prefix"], out["object_id"], strict=True)
        ]
    if "maximum_flag" in out:
        discovered = [_DISCOVERY_MARK in text_of(flag) for flag in out["maximum_flag"]]
        dates = out["discovery_mjd"] if "discovery_mjd" in out else pd.Series("", index=out.index)
        out["discovery_mjd"] = [
            peak if marked and not text_of(day) else day for day, peak, marked in zip(dates, out["maximum"], discovered, strict=True)
        ]
    return out.drop(columns=["prefix", "maximum_flag"], errors="ignore")
