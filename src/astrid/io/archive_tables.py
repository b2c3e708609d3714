"""The tables between a catalogue and raw files: what an archive has, what was chosen, fetched and why the rest was not."""

from __future__ import annotations

from astrid.io.tables import Table, columns

_PRODUCT = (
    ("object_id", "str", "", "the event that was asked for"),
    ("mission", "str", "", "swift, galex, ps1, hst, jwst or tess"),
    ("instrument", "str", "", "as the archive names it, lower case, e.g. uvot"),
    ("filter", "str", "", "as the archive names it"),
    ("obs_id", "str", "", "observation, unique in its mission"),
    ("kind", "str", "", "image, or companion: a file that an image of the same observation needs"),
    ("filename", "str", "", "name of the file"),
    ("uri", "str", "", "name that the archive delivers it by, e.g. mast:SWIFT/..."),
    ("cloud_uri", "str", "", "s3://bucket/key in a public bucket; empty = none known"),
    ("size", "int", "byte", "as the archive says; 0 where it says nothing"),
    ("checksum", "str", "", "algorithm:hex, e.g. md5:...; empty where the archive gives none"),
    ("calib_level", "int", "", "as the archive says: 1 raw, 2 calibrated, 3 combined"),
    ("t_min", "float", "d", "start (MJD)"),
    ("t_max", "float", "d", "end (MJD)"),
    ("exptime", "float", "s", "exposure time"),
    ("s_ra", "float", "deg", "centre, ICRS"),
    ("s_dec", "float", "deg", "centre, ICRS"),
    ("s_region", "str", "", "footprint, STC-S: POLYGON or CIRCLE, ICRS, deg; may be empty"),
    ("rights", "str", "", "public, or what the archive says instead"),
)

# What the archive has near the events, frozen: sorted by object_id, mission, obs_id, filename; no time of asking in it.
MANIFEST = Table("manifest", columns(*_PRODUCT), ("object_id", "mission", "instrument", "filter", "obs_id", "filename", "uri", "t_min"))

# One row an event and mission that was asked for.
QUESTIONS = Table(
    "questions",
    columns(
        ("object_id", "str", "", "the event"),
        ("mission", "str", "", "the mission"),
        ("key", "str", "", "digest of all that the answer depends on: position, windows, radius, archive"),
        ("status", "str", "", "answered; failed, which is asked again; or not asked, as it cannot be"),
        ("observations", "int", "", "found"),
        ("products", "int", "", "rows in the manifest"),
        ("reason", "str", "", "one sentence where it is not answered"),
    ),
    ("object_id", "mission", "key", "status"),
)

# The manifest's rows that are wanted.
CHOSEN = Table("chosen", columns(("role", "str", "", "science or reference"), *_PRODUCT), ("role", *MANIFEST.required))

# One row an event and mission: how far it came and why no further.
OUTCOMES = Table(
    "outcomes",
    columns(
        ("object_id", "str", "", "the event"),
        ("mission", "str", "", "the mission"),
        ("discovery_mjd", "float", "d", "NaN where unknown"),
        ("stage", "str", "", "where it ended: asked, found, chosen, fetched or paired"),
        ("observations", "int", "", "found in the archive"),
        ("chosen", "int", "", "files wanted"),
        ("fetched", "int", "", "files that arrived and passed every check"),
        ("pairs", "int", "", "usable pairs"),
        ("why", "str", "", "the reason in a few words, one of sky.choose.WHYS; empty where there is a pair"),
        ("reason", "str", "", "one sentence why there is no pair; empty where there is one"),
    ),
    ("object_id", "mission", "stage", "pairs"),
)
