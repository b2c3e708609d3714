"""Parquet tables of the house: their columns, types and units, written and read in one way.

Columns follow IVOA ObsCore where it has a name for them. A table on disk carries every declared column in the declared
order, with the unit and the meaning in the column's metadata; further columns may follow the declared ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from astrid.core.errors import InputError
from astrid.core.runtime import atomic_path

_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_(), "tags": pa.list_(pa.string())}
_DTYPE = {"str": "str", "float": "float64", "int": "int64", "bool": "bool"}  # of a column that needs no conversion
_EMPTY = {"str": "", "float": float("nan"), "int": 0, "bool": False}


@dataclass(frozen=True)
class Column:
    """One column: its name, kind ("str", "float", "int", "bool" or "tags", a list of words), unit and meaning."""

    name: str
    kind: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table's name, declared columns and the columns that no file may lack."""

    name: str
    columns: tuple[Column, ...]
    required: tuple[str, ...]

    def empty(self) -> pd.DataFrame:
        """A frame with every declared column and no row."""
        return pa.schema([(c.name, _ARROW[c.kind]) for c in self.columns]).empty_table().to_pandas()


def columns(*lines: tuple[str, str, str, str]) -> tuple[Column, ...]:
    """Columns from (name, kind, unit, meaning)."""
    return tuple(Column(*line) for line in lines)


_IDENTITY = (
    ("survey", "str", "", "survey or mission, e.g. jwst"),
    ("instrument", "str", "", "instrument, e.g. nircam"),
    ("detector", "str", "", "detector or chip"),
    ("filter", "str", "", "band"),
)

CATALOG = Table(
    "catalog",
    columns(
        ("object_id", "str", "", "name of the event"),
        ("s_ra", "float", "deg", "right ascension, ICRS"),
        ("s_dec", "float", "deg", "declination, ICRS"),
        ("discovery_mjd", "float", "d", "discovery date; NaN where unknown"),
        ("transient_type", "str", "", "normalised type, e.g. SN Ia; variable, asteroid for others"),
        ("redshift", "float", "", "NaN where unknown"),
        ("host", "str", "", "host galaxy"),
        ("host_ra", "float", "deg", "host's right ascension, ICRS; NaN where unknown"),
        ("host_dec", "float", "deg", "host's declination, ICRS"),
        ("source", "str", "", "where the row comes from; several after a merger, that of the name first, with ; between"),
        ("aliases", "tags", "", "other names of the event"),
        ("discovery_precision", "float", "d", "length of the time that the date names from discovery_mjd on: 1 a day, 0 an instant"),
        ("type_uncertain", "bool", "", "the type is in doubt"),
        ("type_peculiar", "bool", "", "the event is peculiar for its type"),
        ("position_source", "str", "", "where s_ra and s_dec come from; empty where the catalogue was not compiled"),
        ("discovery_source", "str", "", "where the date comes from"),
        ("type_source", "str", "", "where the type comes from"),
        ("redshift_source", "str", "", "where the redshift comes from"),
        ("host_source", "str", "", "where the host comes from"),
    ),
    ("object_id", "s_ra", "s_dec"),
)

EXPOSURES = Table(
    "exposures",
    columns(
        ("exposure_id", "str", "", "one detector of one visit"),
        ("path", "str", "", "FITS file, relative to the table's folder"),
        ("hdu", "str", "", "extension that holds the image: a number or a name; empty = first image"),
        ("role", "str", "", "science or reference"),
        *_IDENTITY,
        ("field_id", "str", "", "pointing or event the exposure belongs to"),
        ("mjd", "float", "d", "middle of the exposure"),
        ("exptime", "float", "s", "exposure time"),
        ("s_ra", "float", "deg", "centre, ICRS"),
        ("s_dec", "float", "deg", "centre, ICRS"),
        ("calibrated", "bool", "", "true when the archive has already removed the detector's signature"),
        ("unit", "str", "", "unit of the pixel values after calibration"),
        ("gain", "float", "electron/ADU", "raw: electrons an ADU; calibrated: electrons a unit, NaN where unknown"),
        ("read_noise", "float", "electron", "NaN where unknown"),
        ("saturation", "float", "ADU", "raw: saturation level; calibrated: in the image's unit; NaN where unknown"),
        ("bias_path", "str", "", "master bias, relative; empty = none"),
        ("flat_path", "str", "", "master flat, relative; empty = none"),
        ("mask_path", "str", "", "bad-pixel mask (non-zero = bad), relative; empty = none"),
        ("noise_path", "str", "", "1-sigma noise image in the image's unit, relative; empty = estimate it"),
        ("psf_path", "str", "", "PSF stamp, relative; empty = estimate it"),
        ("dark_path", "str", "", "master dark without its bias, with its exposure time, relative; empty = none"),
        ("variance_path", "str", "", "variance image in the image's unit squared, relative; empty = none"),
        ("exposure_path", "str", "", "exposure map or relative response of a known mission, relative; empty = none"),
    ),
    ("exposure_id", "path", "role", "survey", "instrument", "filter", "mjd"),
)

TRUTH = Table(
    "truth",
    columns(
        ("object_id", "str", "", "the simulated object or artefact"),
        ("kind", "str", "", "supernova, variable, asteroid, injected, or an artefact such as cosmic_ray or ghost"),
        ("transient_type", "str", "", "e.g. SN Ia; empty for artefacts"),
        ("exposure_id", "str", "", "the exposure this row speaks of"),
        ("s_ra", "float", "deg", "true position in this exposure, ICRS"),
        ("s_dec", "float", "deg", "true position in this exposure, ICRS"),
        ("x", "float", "pixel", "0-based position in the trimmed image"),
        ("y", "float", "pixel", "0-based position in the trimmed image"),
        ("flux", "float", "electron", "true flux in this exposure, in the calibrated exposure's unit; a PSF flux where light is spread"),
        ("magnitude", "float", "mag", "AB; NaN when the flux is not positive"),
        ("host_ra", "float", "deg", "host centre; NaN without a host"),
        ("host_dec", "float", "deg", "host centre; NaN without a host"),
        ("simulated", "bool", "", "true for everything a simulator or the injector made"),
    ),
    ("object_id", "kind", "exposure_id", "s_ra", "s_dec"),
)

PAIRS = Table(
    "pairs",
    columns(
        ("pair_id", "str", "", "science exposure, two underscores, reference exposure"),
        ("science_id", "str", "", "exposure_id of the science exposure"),
        ("reference_id", "str", "", "exposure_id of the reference; empty when none was found"),
        *_IDENTITY,
        ("field_id", "str", "", "pointing or event"),
        ("mjd", "float", "d", "of the science exposure"),
        ("reference_mjd", "float", "d", "of the reference"),
        ("status", "str", "", "ok, refused or quarantined"),
        ("reason", "str", "", "one sentence where the status is not ok"),
    ),
    ("pair_id", "science_id", "reference_id", "status"),
)

CANDIDATES = Table(
    "candidates",
    columns(
        ("candidate_id", "str", "", "pair_id, a colon, the running number"),
        ("pair_id", "str", "", "the difference product it was found in"),
        ("exposure_id", "str", "", "of the science exposure"),
        ("reference_id", "str", "", "of the reference exposure"),
        *_IDENTITY,
        ("field_id", "str", "", "pointing or event"),
        ("mjd", "float", "d", "of the science exposure"),
        ("x", "float", "pixel", "0-based sub-pixel position"),
        ("y", "float", "pixel", "0-based sub-pixel position"),
        ("x_reference", "float", "pixel", "the same place on the reference exposure; NaN where unknown or of another instrument"),
        ("y_reference", "float", "pixel", "the same place on the reference exposure; NaN where unknown or of another instrument"),
        ("reference_detector", "str", "", "detector or chip of the reference exposure"),
        ("s_ra", "float", "deg", "ICRS"),
        ("s_dec", "float", "deg", "ICRS"),
        ("sign", "int", "", "+1 brightened, -1 faded"),
        ("snr", "float", "", "absolute S_corr at the peak"),
        ("flux", "float", "electron", "signed PSF flux in the science image's unit"),
        ("flux_err", "float", "electron", "1-sigma error of flux"),
        ("fwhm", "float", "pixel", "of the source in the difference"),
        ("elongation", "float", "", "major over minor axis"),
        ("sharpness", "float", "", "peak pixel over PSF-predicted peak"),
        ("roundness", "float", "", "(sigma_x - sigma_y) / mean of both along the axes"),
        ("symmetry", "float", "", "share of opposite-sign flux beside the peak: 0 none, 1 a full dipole"),
        ("chi2", "float", "", "reduced chi-squared of the PSF fit over the core"),
        ("science_snr", "float", "", "aperture S/N at the position in the science image"),
        ("reference_snr", "float", "", "aperture S/N at the position in the reference image"),
        ("bad_fraction", "float", "", "share of unusable pixels in the core"),
        ("edge_distance", "float", "pixel", "to the nearest edge of the footprint or image"),
        ("star_distance", "float", "pixel", "to the nearest bright or saturated star; large when none"),
        ("host_offset", "float", "arcsec", "to the nearest extended source of the reference; NaN without one"),
        ("host_dlr", "float", "", "host_offset over the directional light radius; NaN without one"),
        ("host_dlr_second", "float", "", "the same of the next host; NaN without one"),
        ("host_ambiguous", "bool", "", "true where the next host is about as likely"),
        ("host_major", "float", "arcsec", "RMS of the host's light along its major axis; NaN without a host"),
        ("host_minor", "float", "arcsec", "the same along its minor axis"),
        ("host_theta", "float", "deg", "of its major axis from +x towards +y"),
        ("psf_fwhm", "float", "pixel", "of the science image"),
        ("pixel_scale", "float", "arcsec", "arcsec a pixel"),
        ("tags", "tags", "", "artefacts that it looks like, by the names of candidates/tags.py; moving on a known track"),
        ("scorable", "bool", "", "false when a full stamp cannot be cut"),
        ("reason", "str", "", "why it is unscorable"),
        ("moving_name", "str", "", "known moving object at this place and time; empty where none is"),
        ("track_id", "str", "", "track of linked detections it belongs to; empty where none"),
    ),
    ("candidate_id", "pair_id", "x", "y", "sign", "snr"),
)

# Forced photometry of positions on the difference products that hold them: a light curve a position, filter and reference.
LIGHTCURVES = Table(
    "lightcurves",
    columns(
        ("position_id", "str", "", "name of the position, e.g. an object of the catalogue"),
        ("s_ra", "float", "deg", "ICRS"),
        ("s_dec", "float", "deg", "ICRS"),
        ("pair_id", "str", "", "the difference product"),
        ("exposure_id", "str", "", "of the science exposure"),
        ("reference_id", "str", "", "of the reference exposure"),
        *_IDENTITY,
        ("field_id", "str", "", "pointing or event"),
        ("mjd", "float", "d", "middle of the science exposure"),
        ("exptime", "float", "s", "of the science exposure"),
        ("x", "float", "pixel", "0-based, in the science image"),
        ("y", "float", "pixel", "0-based, in the science image"),
        ("flux", "float", "electron", "signed PSF flux of the difference, in the science image's unit (column unit)"),
        ("flux_err", "float", "electron", "1-sigma error of flux"),
        ("unit", "str", "", "unit of flux, flux_err and upper_limit"),
        ("snr", "float", "", "flux over flux_err"),
        ("detected", "bool", "", "|snr| at or above the limit"),
        ("upper_limit", "float", "electron", "of |flux| where it is not detected; NaN where it is"),
        ("chi2", "float", "", "reduced chi-squared of the point source over the core"),
        ("masked_fraction", "float", "", "unusable share of the core"),
        ("edge_distance", "float", "pixel", "to the nearest edge of the footprint or image"),
        ("usable", "bool", "", "false where masked or without flux"),
        ("flags", "tags", "", "masked, edge, no_flux"),
    ),
    ("position_id", "s_ra", "s_dec", "pair_id", "mjd", "flux", "flux_err"),
)

# Known moving objects: one row an object and time.
ASTEROIDS = Table(
    "asteroids",
    columns(
        ("name", "str", "", "number or designation"),
        ("mjd", "float", "d", "time of the position, UTC"),
        ("s_ra", "float", "deg", "predicted, ICRS"),
        ("s_dec", "float", "deg", "predicted, ICRS"),
        ("error", "float", "arcsec", "1-sigma error of the prediction; NaN where unknown"),
        ("rate_ra", "float", "arcsec/h", "motion along right ascension, times cos(dec); NaN where unknown"),
        ("rate_dec", "float", "arcsec/h", "motion along declination; NaN where unknown"),
        ("magnitude", "float", "mag", "predicted, V; NaN where unknown"),
        ("source", "str", "", "where the row comes from"),
    ),
    ("name", "mjd", "s_ra", "s_dec"),
)

TRACKS = Table(
    "tracks",
    columns(
        ("track_id", "str", "", "moving object in this table"),
        ("name", "str", "", "known object on it; empty where none is"),
        ("detections", "int", "", "candidates on the track, each of another exposure"),
        ("candidate_ids", "tags", "", "the candidates, in time order"),
        ("mjd", "float", "d", "reference time: the mean of the detections"),
        ("s_ra", "float", "deg", "fitted position at mjd, ICRS"),
        ("s_dec", "float", "deg", "fitted position at mjd, ICRS"),
        ("rate_ra", "float", "arcsec/h", "motion along right ascension, times cos(dec)"),
        ("rate_dec", "float", "arcsec/h", "motion along declination"),
        ("rate", "float", "arcsec/h", "apparent motion on the sky"),
        ("position_angle", "float", "deg", "of the motion, east of north"),
        ("rms", "float", "arcsec", "of the detections about the fitted motion, a coordinate"),
        ("span", "float", "h", "first to last detection"),
        ("chance", "float", "", "tracks like this that are expected by chance"),
    ),
    ("track_id", "detections", "mjd", "s_ra", "s_dec", "rate"),
)

LABELS = Table(
    "labels",
    columns(
        ("candidate_id", "str", "", "candidate that is labelled"),
        ("label", "int", "", "1 real, 0 bogus"),
        ("transient_type", "str", "", "type of a real one, kind of a bogus one"),
        ("source", "str", "", "truth, injection, catalogue, evidence, human, weak"),
        ("annotator", "str", "", "who or what said so"),
        ("confidence", "float", "", "0 to 1"),
        ("time", "str", "", "ISO 8601, UTC; empty for derived labels, so that they reproduce"),
        ("x", "float", "pixel", "where the candidate was; NaN where its name alone says so"),
        ("y", "float", "pixel", "where the candidate was; a candidate's number changes when it is detected anew"),
    ),
    ("candidate_id", "label", "source"),
)

# The table beside the triplet shards: a candidate's columns and these.
TRIPLETS = Table(
    "triplets",
    (
        *CANDIDATES.columns,
        *columns(
            ("label", "int", "", "1 real, 0 bogus, -1 unlabelled"),
            ("label_source", "str", "", "source of the label that won"),
            ("kind", "str", "", "transient type of a real one, bogus kind of a bogus one"),
            ("event_id", "str", "", "the object on the sky; detections of one object over epochs share it"),
            ("cell_id", "str", "", "cell of the sky grid"),
            ("true_snr", "float", "", "true flux over flux_err; NaN without truth"),
            ("stamp_digest", "str", "", "content digest of the stamps, to find duplicates"),
            ("content_key", "str", "", "hashes of places of the stamps, the same for turned and shifted copies, after their version"),
            ("near_key", "str", "", "coarse picture of the stamps, near for slightly changed copies, after its version"),
        ),
    ),
    ("candidate_id", "label", "event_id", "cell_id", "exposure_id"),
)

SPLITS = Table(
    "splits",
    columns(
        ("candidate_id", "str", "", "row of the triplet table"),
        ("part", "str", "", "train, validation, test or unused"),
        ("group_id", "str", "", "connected group of events, cells and exposures"),
    ),
    ("candidate_id", "part", "group_id"),
)

EVALUATED = Table(
    "evaluation scores",
    columns(
        ("candidate_id", "str", "", "row of the triplet table"),
        ("part", "str", "", "validation or test"),
        ("label", "int", "", "1 real, 0 bogus"),
        ("score", "float", "", "calibrated probability of being real"),
        ("raw_score", "float", "", "the network's sigmoid before calibration"),
        ("baseline_score", "float", "", "calibrated probability of the random forest"),
    ),
    ("candidate_id", "part", "label", "score", "raw_score"),
)

SCORES = Table(
    "scores",
    columns(
        ("candidate_id", "str", "", "alert or candidate; empty where none could be read"),
        ("object_id", "str", "", "object on the sky where known"),
        ("survey", "str", "", "survey of the alert"),
        ("source", "str", "", "file, and member after ! inside an archive"),
        ("score", "float", "", "calibrated probability of being real; NaN without a score"),
        ("raw_score", "float", "", "the network's sigmoid before calibration"),
        ("real", "bool", "", "score at or above the model's threshold"),
        ("sign", "int", "", "+1 brightened, -1 faded"),
        ("model_version", "str", "", "name and version or digest of the model"),
        ("reason", "str", "", "why there is no score; empty where there is one"),
    ),
    ("candidate_id", "source", "score", "reason"),
)


def conform(frame: pd.DataFrame, table: Table, *, source: str) -> pd.DataFrame:
    """The frame with every declared column, typed and in order; undeclared columns follow.

    Raises `InputError` naming `source` when a required column is absent or a value has the wrong type.
    """
    missing = [name for name in table.required if name not in frame.columns]
    if missing:
        required = ", ".join(table.required)
        raise InputError(f"{source} lacks the column {missing[0]!r} of the {table.name} table; add it (required: {required}).")
    out = pd.DataFrame({column.name: _typed(frame, column, source) for column in table.columns}, index=frame.index, copy=False)
    for name in frame.columns:
        if name not in out.columns:
            out[name] = frame[name]
    return out.reset_index(drop=True)


def _typed(frame: pd.DataFrame, column: Column, source: str) -> pd.Series:
    if column.name not in frame.columns:
        fill: object = [[] for _ in range(len(frame))] if column.kind == "tags" else _EMPTY[column.kind]
        return pd.Series(fill, index=frame.index, dtype=object if column.kind in ("tags", "str") else None)
    values = frame[column.name]
    if column.kind in _DTYPE and values.dtype == _DTYPE[column.kind] and not (column.kind == "str" and values.hasnans):
        return values
    if column.kind == "str" and _holds_words(values):
        return values
    try:
        if column.kind in ("float", "int"):
            return pd.to_numeric(values).astype(f"{column.kind}64")
        if column.kind == "bool":
            return values.map(_truth).astype("bool")
        if column.kind == "str":
            return values.astype(object).where(values.notna(), "").map(str)
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: column {column.name!r} should hold {column.kind} values ({error}).") from error
    return values


def _holds_words(values: pd.Series) -> bool:
    """True for a categorical without gaps whose categories are strings."""
    return isinstance(values.dtype, pd.CategoricalDtype) and values.dtype.categories.dtype == "str" and not values.hasnans


def _truth(value: object) -> bool:
    if isinstance(value, str):
        if value.strip().lower() in ("true", "1", "yes"):
            return True
        if value.strip().lower() in ("false", "0", "no", ""):
            return False
        raise ValueError(f"{value!r} is neither true nor false")
    return bool(value) and not pd.isna(value)


def write_table(frame: pd.DataFrame, path: Path, table: Table) -> None:
    """Write a frame as Parquet, atomically, with the declared columns first and their units in the metadata."""
    arrow = to_arrow(frame, table, source=path.name)
    with atomic_path(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def to_arrow(frame: pd.DataFrame, table: Table, *, source: str) -> pa.Table:
    """The frame as an Arrow table with the declared columns first and their units in the metadata; see `conform`."""
    conformed = conform(frame, table, source=source)
    arrow = pa.Table.from_pandas(conformed, preserve_index=False)
    declared = {c.name: pa.field(c.name, _ARROW[c.kind], metadata={"unit": c.unit, "meaning": c.meaning}) for c in table.columns}
    schema = pa.schema([declared.get(field.name, field) for field in arrow.schema])
    return arrow.cast(schema).replace_schema_metadata({"astrid.table": table.name})


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


def read_table(
    path: Path, table: Table, *, columns: Sequence[str] | None = None, where: tuple[str, Collection[str]] | None = None
) -> pd.DataFrame:
    """Read a Parquet table and check its declared columns. Raises `InputError` when it is missing, broken or not such a table.

    `columns`: these alone. `where`: a column and its values; the other rows are not brought into memory.
    """
    frame = to_frame(_arrow(path, table, columns, where))
    return frame if columns else conform(frame, table, source=str(path))


def read_tables(paths: Sequence[Path], table: Table, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of several files, in their order, as one frame; without any the empty table. Raises as `read_table`."""
    if not paths:
        return table.empty()[list(columns)] if columns else table.empty()
    frame = to_frame(pa.concat_tables([_arrow(path, table, columns) for path in paths], promote_options="default"))
    return frame if columns else conform(frame, table, source=f"{paths[0]} and those beside it")


def to_frame(arrow: pa.Table) -> pd.DataFrame:
    """The table as a frame; `arrow` is used up, and what its columns took goes back to the system, where Arrow would keep it."""
    frame = arrow.to_pandas(self_destruct=True, split_blocks=True)
    pa.default_memory_pool().release_unused()
    return frame


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A block that reads a Parquet file: `InputError` where the file is missing or broken."""
    if not path.exists():
        raise InputError(f"{path} does not exist; run the stage that makes it, or correct the path.")
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({_first_sentence(error)}); make it again or correct the path.") from error


def _arrow(path: Path, table: Table, columns: Sequence[str] | None = None, where: tuple[str, Collection[str]] | None = None) -> pa.Table:
    with readable(path):
        present = pq.read_schema(path).names if columns or where else []
        for name in (*(columns or ()), *((where[0],) if where else ())):
            if name not in present:
                raise InputError(f"{path} lacks the column {name!r} of the {table.name} table; run the stage that makes it again.")
        wanted = [(where[0], "in", list(where[1]))] if where else None
        return pq.read_table(path, columns=list(columns) if columns else None, filters=wanted)
