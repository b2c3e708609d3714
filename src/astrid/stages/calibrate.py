"""Stage calibrate: data/raw -> data/calibrated, one product an exposure; broken exposures are set aside with their reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astrid.config.params import settings
from astrid.config.schema.calibrate import CalibrateConfig
from astrid.core.errors import AstridError, ImagingError, InputError
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.records import Calibrated, ExposureInfo
from astrid.core.runtime import log, write_json
from astrid.io.fits import read_frames, write_calibrated
from astrid.io.images import COMPANIONS
from astrid.io.tables import EXPOSURES, read_table, write_table
from astrid.stages.common import Job, executor, only_alerts, prune, quarantine, resume, run

RAW = Path("data/raw")
CALIBRATED = Path("data/calibrated")
REPORT = Path("reports/calibrate.json")
CODE = (
    "astrid.imaging",
    "astrid.io.fits",
    "astrid.io.flags",
    "astrid.io.images",
    "astrid.io.wcs",
    "astrid.io.amplifiers",
    "astrid.io.missions",
    "astrid.core",
)

_COMPANIONS = tuple(f"{kind}_path" for kind in COMPANIONS)
_MEASURED = ("fwhm", "sky", "sky_rms", "n_stars", "masked_fraction", "noise_ratio", "n_cosmic_ray")
_NOTED = ("n_crosstalk", "n_persistence")
_NAMED_REASONS = 20  # reasons that the report repeats


def main() -> None:
    """Calibrate every exposure of data/raw/exposures.parquet."""
    config = settings(CalibrateConfig, "imaging.calibrate")
    exposures = read_table(RAW / "exposures.parquet", EXPOSURES)
    _check_names(exposures)
    jobs = _jobs(exposures, config)
    rows = resume(_calibrate_one, jobs, description="calibrate", unit="exposures", executor=executor(), on_loss=quarantine)
    table = _table(exposures, rows)
    write_table(table, CALIBRATED / "exposures.parquet", EXPOSURES)
    write_json(REPORT, report(table))
    prune(CALIBRATED, [CALIBRATED / "exposures.parquet", *(path for job in jobs for path in (job.output, job.record))])
    set_aside = table[table["status"] != "ok"]
    for row in set_aside.itertuples():
        log.warning("calibrate: %s is quarantined: %s", row.exposure_id, row.reason)
    if len(set_aside) == len(table) and not (exposures.empty and only_alerts("calibrate")):
        first = f" The first: {set_aside['reason'].iloc[0]}" if len(table) else ""
        raise ImagingError(f"none of the {len(table)} exposures could be calibrated; see {REPORT}.{first}")


def _check_names(exposures: pd.DataFrame) -> None:
    names = exposures["exposure_id"]
    twice = names[names.duplicated()]
    if len(twice):
        raise InputError(f"{RAW / 'exposures.parquet'} holds the exposure_id {twice.iloc[0]!r} more than once; make them unique.")
    unfit = names[names.str.contains(r"[/\\]|^\.|^$", regex=True)]
    if len(unfit):
        raise InputError(f"the exposure_id {unfit.iloc[0]!r} cannot be a file name; rename it without slashes or a leading dot.")


def _jobs(exposures: pd.DataFrame, config: CalibrateConfig) -> list[Job]:
    common = digest_settings(config) + digest_code(CODE)
    frames: dict[str, str] = {}  # master frames serve many exposures
    jobs = []
    for row in exposures.to_dict("records"):
        identity = digest_settings({key: row[key] for key in (column.name for column in EXPOSURES.columns)})
        parts = [common, identity]
        for key in ("path", *_COMPANIONS):
            name = str(row[key])
            if name and name not in frames:
                frames[name] = digest_file(RAW / name) if (RAW / name).is_file() else "absent"
            parts.append(frames[name] if name else "")
        digest = digest_bytes(*(part.encode() for part in parts))
        jobs.append(Job(str(row["exposure_id"]), digest, CALIBRATED / f"{row['exposure_id']}.fits", (row, config)))
    return jobs


def _calibrate_one(job: Job) -> dict[str, Any]:
    row, config = job.payload
    try:
        calibrated = calibrate_row(row, RAW, config)
    except AstridError as error:
        job.output.unlink(missing_ok=True)
        return {"status": "quarantined", "reason": str(error)}
    write_calibrated(job.output, calibrated)
    return {"status": "ok", "reason": "", **measured(calibrated)}


def calibrate_row(row: Mapping[str, Any], folder: Path, config: CalibrateConfig) -> Calibrated:
    """Read the exposure of one EXPOSURES row, whose paths are relative to `folder`, and calibrate it.

    Raises `InputError` or `ImagingError` when it is broken.
    """
    from astrid.imaging.calibrate import calibrate, raw_exposure

    companions = {key.removesuffix("_path"): folder / str(row[key]) for key in _COMPANIONS if row[key]}
    frames = read_frames(folder / str(row["path"]), hdu=str(row["hdu"]), **companions)
    identity = {key: str(row[key]) for key in ("exposure_id", "survey", "instrument", "detector", "filter", "role", "field_id", "unit")}
    info = ExposureInfo(mjd=float(row["mjd"]), exptime=float(row["exptime"]), **identity)
    numbers = {key: float(row[key]) for key in ("gain", "read_noise", "saturation")}
    return calibrate(raw_exposure(frames, info, calibrated=bool(row["calibrated"]), **numbers), config)


def measured(calibrated: Calibrated) -> dict[str, Any]:
    """The scalars of a calibrated exposure that its table row carries."""
    psf = calibrated.psf
    return {
        "fwhm": psf.fwhm if psf else float("nan"),
        "psf_method": psf.method if psf else "",
        "n_stars": psf.n_stars if psf else 0,
        "sky": calibrated.sky,
        "sky_rms": calibrated.sky_rms,
        "gain": calibrated.gain if np.isfinite(calibrated.gain) else float("nan"),
        "unit": calibrated.info.unit,
        **{key: calibrated.meta[key] for key in ("masked_fraction", "noise_ratio", "n_cosmic_ray", *_NOTED, "applied")},
    }


def _table(exposures: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The raw table with the products' paths and what was measured; companions stay behind with the raw files."""
    results = pd.DataFrame(rows, columns=["status", "reason", "psf_method", "applied", "gain", "unit", *_MEASURED, *_NOTED])
    table = exposures.reset_index(drop=True).copy()
    ok = results["status"] == "ok"
    table["path"] = (table["exposure_id"] + ".fits").where(ok, "")
    table["hdu"] = "SCI"
    table["calibrated"] = True
    for key in _COMPANIONS:
        table[key] = ""
    table["gain"] = pd.to_numeric(results["gain"])
    table["unit"] = results["unit"].where(ok, table["unit"])
    for key in ("status", "reason", "psf_method", "applied"):
        table[key] = results[key].where(results[key].notna(), "").astype(str)
    for key in (*_MEASURED, *_NOTED):
        table[key] = pd.to_numeric(results[key]).astype(float)
    return table


def report(table: pd.DataFrame) -> dict[str, Any]:
    """Counts, medians over the good exposures, and the reasons of those set aside."""
    good = table[table["status"] == "ok"]
    aside = table[table["status"] != "ok"]
    return {
        "exposures": len(table),
        "ok": len(good),
        "quarantined": len(aside),
        "median": {key: float(good[key].median()) for key in _MEASURED} if len(good) else {},
        "noted": {key.removeprefix("n_"): int((good[key] > 0).sum()) for key in _NOTED},  # exposures with such pixels
        "psf_methods": {str(key): int(count) for key, count in good["psf_method"].value_counts().sort_index().items()},
        "reasons": {str(row.exposure_id): str(row.reason) for row in aside.head(_NAMED_REASONS).itertuples()},
    }


if __name__ == "__main__":
    run(main)
