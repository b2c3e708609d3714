"""The table of alerts: one row for everything that the packets of an alert survey held, usable or not."""

from __future__ import annotations

from astrid.io.alerts import NUMBERS
from astrid.io.tables import CANDIDATES, Column, Table, columns

PACKET = "alert."  # in front of the names of a packet's own numbers

_SHARED = (
    *("candidate_id", "pair_id", "exposure_id", "reference_id", "survey", "instrument", "detector", "filter", "field_id", "mjd"),
    *("x", "y", "s_ra", "s_dec", "sign", "snr", "fwhm", "elongation", "chi2", "edge_distance", "host_offset", "pixel_scale"),
)

ALERTS = Table(
    "alerts",
    (
        *(column for column in CANDIDATES.columns if column.name in _SHARED),
        *columns(
            ("event_id", "str", "", "the object on the sky as the survey names it; the alert itself where it names none"),
            ("scorable", "bool", "", "false where the alert was set aside"),
            ("problem", "str", "", "why it was set aside, in a few words; empty where it was not"),
            ("reason", "str", "", "the same as a sentence"),
            ("source", "str", "", "the user's file, relative to the root, with !member inside an archive"),
            ("file", "str", "", "the copy of that file, relative to data/raw"),
            ("digest", "str", "", "SHA-256 of the file"),
            ("number", "int", "", "of the reading in its file, from 0"),
        ),
        *(Column(f"{PACKET}{name}", "float", "", "as the packet has it, NaN where it has none") for name in NUMBERS),
    ),
    ("candidate_id", "pair_id", "x", "y", "sign", "snr", "event_id", "scorable", "file", "number"),
)
