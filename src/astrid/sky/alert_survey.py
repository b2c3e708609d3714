"""Alert packets as a survey: what a packet says in the columns of the house, and which alerts cannot be used.

Surveys: ZTF (Masci et al. 2019, PASP 131, 018003) and those that write its schema with changes of their own (Gattini-IR, WINTER, TURBO),
and Rubin's diaSources. What a packet does not say stays NaN or empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrid.core.errors import InputError
from astrid.core.records import Problem, Triplet
from astrid.io.alert_table import PACKET
from astrid.io.alerts import BROKEN_FILE, NUMBERS, AlertProblem, alert_files

NO_ID, NO_PLACE, NO_TIME, FLAT, NOISE = "no id", "no position", "no time", "flat stamp", "noise stamps"

_JD_MJD = 2400000.5  # d
_TAI_UTC = 37.0  # s, since 2017
_DAY = 86400.0  # s
_MAGNITUDE_SNR = 2.5 / np.log(10)  # mag: error of a magnitude times S/N, for small errors
_GALAXY = 0.5  # star-galaxy score of PS1 (0 galaxy, 1 star; 0.5 not known) below which a neighbour counts as a galaxy
_NEIGHBOURS = ("1", "2", "3")
_MIDDLE, _SKY = 3.0, 8.0  # px from the stamp's centre: the source lies within the one, the sky is measured beyond the other
_SMOOTH = 1.2  # px, sigma of the Gaussian that gathers a source's light: about that of a FWHM of 2.8 px
_SHOWN = 5.0  # sigma from which the middle of a stamp shows a source
_STAMPS = ("science", "reference", "difference")


@dataclass(frozen=True)
class _Survey:
    instrument: str
    filters: Mapping[int, str]  # by fid
    filter: str = ""  # of a survey with one
    pixel_scale: float = float("nan")  # arcsec


_ORDER = {0: "Y", 1: "J", 2: "H", 3: "K"}  # as WINTER's schema says
_SURVEYS = {
    "ZTF": _Survey("ztf", {1: "g", 2: "r", 3: "i"}, pixel_scale=1.01),
    "PGIR": _Survey("gattini", {}, "J"),
    "WINTER": _Survey("winter", _ORDER),
    "TURBO": _Survey("turbo", {}),
    "LSST": _Survey("lsstcam", {}, pixel_scale=0.2),
}


def packets(root: Path) -> list[tuple[Path, str]]:
    """The packet files and archives under `root`, or `root` itself, in order of name: (path, name relative to the root).

    Raises `InputError` when `root` does not exist or holds none.
    """
    if not root.exists():
        raise InputError(f"survey.alerts.root is {root}, which does not exist; name a folder of alert packets, or one file.")
    if not root.is_dir():
        return [(root, root.name)]
    found = [(path, path.relative_to(root).as_posix()) for path in alert_files(root)]
    if not found:
        raise InputError(f"{root} holds no .avro file and no tar archive; name a folder of alert packets in survey.alerts.root.")
    return found


def alert_rows(readings: Iterable[Triplet | Problem], path: Path, name: str, *, contrast: float) -> Iterator[dict[str, Any]]:
    """Rows of the ALERTS table for what `read_alerts` read from the file `path`, which the rows call `name`.

    `contrast`: see `stamp_problem`. Columns that the file as a whole gives (file, digest) are not set.
    """
    for number, reading in enumerate(readings):
        if isinstance(reading, Triplet):
            row = alert_row(reading)
            row["problem"], row["reason"] = _problem(reading, row, contrast)
            source = str(reading.meta["source"])
        else:
            row = _set_aside(reading)
            source = reading.source
        member = source.removeprefix(str(path))
        yield {**row, "scorable": not row["problem"], "source": f"{name}{member}", "number": number}


def alert_row(alert: Triplet) -> dict[str, Any]:
    """What an alert says in the columns of CANDIDATES, with its event and its own numbers under `alert.` names."""
    said = {name: _number(alert.meta.get(name)) for name in NUMBERS}
    known = _SURVEYS[alert.survey]
    survey = alert.survey.lower()
    exposure, reference = _exposures(alert.meta, survey, said)
    object_id = "" if alert.object_id in ("0", "None") else alert.object_id
    identity = {
        "candidate_id": f"{survey}:{alert.candidate_id}" if alert.candidate_id else "",
        "exposure_id": exposure,
        "reference_id": reference,
        "pair_id": f"{exposure}__{reference}",
        "survey": survey,
        "instrument": known.instrument,
        "detector": _name(alert.meta, "rcid") or (_name(alert.meta, "detector") if alert.survey == "LSST" else ""),
        "filter": known.filter or str(alert.meta.get("band", "")) or _filter(known, said["fid"]),
        "field_id": _name(alert.meta, "field"),
        "event_id": f"{survey}:{object_id or alert.candidate_id}",
    }
    measured = {
        "mjd": _mjd(said),
        "s_ra": said["ra"],
        "s_dec": said["dec"],
        "sign": alert.sign,
        "snr": _snr(said),
        "fwhm": _positive(said["fwhm"]),
        "elongation": _positive(said["elong"]),
        "chi2": _first(_positive(said["chipsf"]), said["psfChi2"] / said["psfNdata"] if said["psfNdata"] > 0 else np.nan),
        "edge_distance": _positive(said["mindtoedge"]),
        "host_offset": _host(said),
        "pixel_scale": known.pixel_scale,
        "x": np.nan,
        "y": np.nan,
    }
    return {**identity, **measured, **{f"{PACKET}{name}": value for name, value in said.items()}}


def stamp_problem(stamps: NDArray[np.float32], contrast: float) -> tuple[str, str]:
    """Why stamps (3, 63, 63) show no observation, as a few words and a sentence; two empty strings where they do.

    A stamp of one value is none. Stamps are noise where neither science nor reference shows a source in its middle (a peak of 5 sigma
    of the smoothed stamp within 3 px) while the difference, which is made of the two, shows one `contrast` times as significant.
    """
    for name, stamp in zip(_STAMPS, stamps, strict=True):
        finite = stamp[np.isfinite(stamp)]
        if finite.min() == finite.max():
            return FLAT, f"the {name} stamp has the value {finite[0]:g} everywhere."
    if (science := _middle(stamps[0])) >= _SHOWN or (reference := _middle(stamps[1])) >= _SHOWN:
        return "", ""
    difference = _middle(stamps[2])
    if difference > contrast * max(science, reference, 1.0):
        return NOISE, (
            f"the difference stamp shows {difference:.0f} sigma in its middle where science and reference show {science:.1f} and "
            f"{reference:.1f}: they are noise."
        )
    return "", ""


def _middle(stamp: NDArray[np.float32]) -> float:
    """Significance of the highest peak, of either sign, in the middle of a stamp."""
    from scipy.ndimage import gaussian_filter

    good = np.isfinite(stamp)
    sky = np.median(stamp[good])
    smooth = gaussian_filter(np.where(good, stamp - sky, 0), _SMOOTH)
    inner, outer = _rings(stamp.shape[0])
    around = smooth[good & outer]
    middle = np.abs(smooth[inner]).max()
    spread = 1.4826 * np.median(np.abs(around - np.median(around))) if len(around) else 0.0
    return float(middle / spread) if spread > 0 else float("inf") if middle > 0 else 0.0


@cache
def _rings(size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    y, x = np.indices((size, size)) - size // 2
    radius = np.hypot(x, y)
    return radius <= _MIDDLE, radius > _SKY


def _problem(alert: Triplet, row: Mapping[str, Any], contrast: float) -> tuple[str, str]:
    if not row["candidate_id"]:
        return NO_ID, "the alert has no id (candid)."
    if not (np.isfinite(row["s_ra"]) and np.isfinite(row["s_dec"])):
        return NO_PLACE, "the alert has no finite position (ra, dec)."
    if not np.isfinite(row["mjd"]):
        return NO_TIME, "the alert has no finite time (jd, midpointMjdTai)."
    return stamp_problem(alert.stamps, contrast)


def _set_aside(problem: Problem) -> dict[str, Any]:
    known = problem if isinstance(problem, AlertProblem) else AlertProblem(problem.source, problem.reason, kind=BROKEN_FILE)
    survey = known.survey.lower()
    name = f"{survey}:{known.candidate_id}" if survey and known.candidate_id else ""
    identity = {"candidate_id": name, "pair_id": "", "survey": survey, "sign": 0, "x": np.nan, "y": np.nan, "snr": np.nan}
    event = f"{survey}:{known.object_id}" if survey and known.object_id else ""
    return {**identity, "event_id": event, "problem": known.kind, "reason": known.reason}


def _exposures(meta: Mapping[str, Any], survey: str, said: Mapping[str, float]) -> tuple[str, str]:
    """Names of the science exposure, one detector of one visit, and of the reference; "" where the packet names none."""
    own = _name(meta, "pid") or _name(meta, "stackquadid")
    if not own and "visit" in meta:
        own = f"{_name(meta, 'visit')}-{_name(meta, 'detector')}"
    if not own:  # alerts of one time in one field come from one image
        own = f"{said['jd']:.6f}-{_name(meta, 'field')}".rstrip("-")
    reference = _name(meta, "rfid")
    return f"{survey}-{own}", f"{survey}-ref-{reference}" if reference else ""


def _name(meta: Mapping[str, Any], key: str) -> str:
    value = meta.get(key)
    return "" if value is None else str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _positive(value: float) -> float:
    return value if value >= 0 else float("nan")


def _first(*values: float) -> float:
    return next((value for value in values if np.isfinite(value)), float("nan"))


def _filter(survey: _Survey, fid: float) -> str:
    if not np.isfinite(fid):
        return ""
    return survey.filters.get(int(fid), f"fid{int(fid)}")


def _mjd(said: Mapping[str, float]) -> float:
    """Middle of the exposure, UTC: `jd` is its start."""
    if np.isfinite(said["midpointMjdTai"]):
        return said["midpointMjdTai"] - _TAI_UTC / _DAY
    exptime = said["exptime"]
    return said["jd"] - _JD_MJD + (exptime / 2 / _DAY if exptime > 0 else 0.0)


def _snr(said: Mapping[str, float]) -> float:
    """Peak of the matched-filtered difference where the packet has it, else from the error of the magnitude, or of the flux."""
    scorr, sigma = said["scorr"], said["sigmapsf"]
    flux = abs(said["psfFlux"]) / said["psfFluxErr"] if said["psfFluxErr"] > 0 else np.nan
    return _first(scorr if scorr > 0 else np.nan, _MAGNITUDE_SNR / sigma if sigma > 0 else np.nan, _positive(said["snr"]), flux)


def _host(said: Mapping[str, float]) -> float:
    """Distance, arcsec, of the nearest of the three PS1 neighbours that is a galaxy."""
    near = [said[f"distpsnr{k}"] for k in _NEIGHBOURS if said[f"distpsnr{k}"] >= 0 and 0 <= said[f"sgscore{k}"] < _GALAXY]
    return min(near, default=float("nan"))
