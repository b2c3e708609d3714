"""Surveys drawn at random, so that a real one is one more draw: telescope, sky, sensor, depth and crowding of each.

Every value has a generator of its own, made of the seed, the survey's index and the key: a new key moves no other draw, and a
set of more surveys begins with the same ones (domain randomisation: Tobin et al. 2017, arXiv:1703.06907).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_type_hints

import numpy as np

from astrid.config.schema.simulate import BandSpec, RandomSpec, SimulateConfig, SurveySpec
from astrid.config.validate import validate
from astrid.core.errors import ConfigError
from astrid.core.runtime import rng_for

_PLASTIC = (0.7548776662466927, 0.5698402909980532)  # steps of a sequence that fills a square evenly (Roberts 2018)
_MAX_DEC = 60.0  # deg
_MAX_SKY = 0.08  # of the full well that the dark sky may fill
_MAX_ADU = 60000.0  # a pixel that is full reads at most this many, above the bias
_NOISE_AREA = 1.3 * 2.266  # noise-equivalent area over FWHM^2: 2.266 for a Gaussian, King 1983 (PASP 95, 163); 1.3 for wings
_PEAK_SHARE = 0.8  # flux in the brightest pixel over that of a Gaussian of the same FWHM
_DETECTION = 5.0  # S/N of the limit
_SPAN = 4.0  # mag between the brightest and the faintest star, at least
_STACK_STEP = 1.0  # largest ADU of a stack over its noise: frames are averaged before they are written as integers
_PARTS = ("psf", "detector", "weather", "scene", "artifacts")


def expand(cfg: SimulateConfig) -> SimulateConfig:
    """The settings with the random surveys in place of `surveys`; unchanged where `random` is null.

    Survey number i starts from survey i modulo their number, by name, of `cfg.surveys` and replaces what `cfg.random` names.

    Raises
    ------
    ConfigError
        For a key that a survey does not have, a range whose ends are the wrong way round or not positive where its log is
        drawn, and a draw that no survey may have.
    """
    return cfg if cfg.random is None else _expanded(_Key(cfg))


class _Key:
    """The settings as a key of the cache: equal by value, hashed by what changes most."""

    def __init__(self, cfg: SimulateConfig) -> None:
        self.cfg = cfg

    def __hash__(self) -> int:
        return hash((self.cfg.seed, self.cfg.image_size, self.cfg.random.surveys if self.cfg.random else 0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.cfg == other.cfg


@lru_cache(maxsize=2)
def _expanded(key: _Key) -> SimulateConfig:
    cfg = key.cfg
    random = cfg.random
    if random is None:
        return cfg
    _check(random)
    surveys = {f"sim{index:04d}": draw_survey(cfg, random, index) for index in range(random.surveys)}
    return dataclasses.replace(cfg, surveys=surveys, random=None)


def _check(random: RandomSpec) -> None:
    types = get_type_hints(SurveySpec)
    known = {part: {item.name for item in dataclasses.fields(types[part])} for part in _PARTS}
    for law in ("uniform", "log", "integer", "choice", "absent", "unit"):
        for part, keys in getattr(random, law).items():
            for name in keys:
                if name not in known.get(part, ()):
                    raise ConfigError(f"simulate.random.{law}.{part}.{name} names no key of a survey; remove it or mend its name.")
    spans = {name: value for name, value in vars(random).items() if isinstance(value, tuple) and name != "detectors"}
    logs = {name: value for name, value in spans.items() if not name.startswith(("star", "galaxy"))}
    for law in ("uniform", "log", "integer"):
        for part, keys in getattr(random, law).items():
            spans |= {f"{law}.{part}.{name}": span for name, span in keys.items()}
            logs |= {f"{law}.{part}.{name}": span for name, span in keys.items() if law == "log"}
    for where, (low, high) in spans.items():
        if low > high:
            raise ConfigError(f"simulate.random.{where} = [{low:g}, {high:g}] runs backwards; give the lower end first.")
        if where in logs and not low > 0:
            raise ConfigError(f"simulate.random.{where} = [{low:g}, {high:g}] has no logarithm; give a lower end above 0.")


def draw_survey(cfg: SimulateConfig, random: RandomSpec, index: int) -> SurveySpec:
    """Survey number `index` of the random ones, as a pure function of the settings, the seed and that number."""

    def rng(*key: str) -> np.random.Generator:
        return rng_for(cfg.seed, "random survey", index, *key)

    def between(name: str, law: Callable[[tuple[float, float], np.random.Generator], float]) -> float:
        return law(getattr(random, name), rng(name))

    base = dataclasses.asdict(cfg.surveys[sorted(cfg.surveys)[index % len(cfg.surveys)]])  # not in the order of a mapping
    values: dict[str, Any] = {**base, **_drawn(base, random, rng)}
    names = sorted(random.bands)
    name = names[int(rng("band").integers(len(names)))]
    aperture, fwhm = between("aperture", _log), between("fwhm", _log)
    values["pixel_scale"] = fwhm / between("fwhm_pixels", _log)
    values["psf"] |= {"fwhm": fwhm, "diameter": aperture}
    values["detector"]["full_well"] = min(values["detector"]["full_well"], _MAX_ADU * values["detector"]["gain"])
    light = _light(values, random.bands[name], aperture, between("exptime", _log))
    for part, keys in random.unit.items():
        for key, unit in keys.items():
            values[part][key] *= {"fwhm": fwhm, "noise": light.noise, "noise_adu": light.noise / values["detector"]["gain"]}[unit]
    bright = light.saturation - between("star_bright", _uniform)
    values["scene"] |= {
        "star_bright": bright,
        "star_faint": max(light.limit + between("star_faint", _uniform), bright + _SPAN),
        "galaxy_bright": light.limit - between("galaxy_bright", _uniform),
        "galaxy_faint": light.limit + between("galaxy_faint", _uniform),
    }
    frames = min(between("reference_frames", _log), (_STACK_STEP * light.noise / values["detector"]["gain"]) ** 2)
    ra, dec = _place(index)
    values |= {
        "telescope": f"SIM-{index:04d}",
        "instrument": f"camera{index:04d}",
        "s_ra": ra,
        "s_dec": dec,
        "exptime": light.exptime,
        "reference_exptime": light.exptime,
        "reference_frames": max(round(frames), 1),
        "reference_lead": between("reference_age", _log),
        "header_error": between("header_shift", _log) * values["pixel_scale"] / cfg.pointing.shift_max,
        "detectors": random.detectors,
        "filters": {name: {**dataclasses.asdict(random.bands[name]), "zeropoint": light.zeropoint, "limit": light.limit}},
    }  # fmt: skip
    return validate(SurveySpec, values, path=f"simulate.random (survey {index})")


def _drawn(base: dict[str, Any], random: RandomSpec, rng: Callable[..., np.random.Generator]) -> dict[str, Any]:
    """The parts of a survey with the keys that are drawn on their own, in the units of the draw."""
    parts = {part: dict(base[part]) for part in _PARTS}
    laws: tuple[tuple[Any, Any], ...] = ((random.uniform, _uniform), (random.log, _log), (random.integer, _integer), (random.choice, _one))
    for spans, law in laws:
        for part, keys in spans.items():
            for name, span in keys.items():
                absent = rng(part, name, "absent").random() < random.absent.get(part, {}).get(name, 0.0)
                parts[part][name] = 0 if absent else law(span, rng(part, name))
    return parts


def _uniform(span: tuple[float, float], rng: np.random.Generator) -> float:
    return float(rng.uniform(*span))


def _log(span: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(math.log(span[0]), math.log(span[1]))))


def _integer(span: tuple[float, float], rng: np.random.Generator) -> int:
    return int(rng.integers(round(span[0]), round(span[1]) + 1))


def _one(values: tuple[str | int | float, ...], rng: np.random.Generator) -> str | int | float:
    return values[int(rng.integers(len(values)))]


@dataclasses.dataclass(frozen=True)
class _Light:
    """What a telescope's light comes to in one science exposure."""

    exptime: float  # s
    zeropoint: float  # mag of one electron a second
    noise: float  # electron a pixel, of dark sky and readout
    limit: float  # mag of a point source of S/N 5
    saturation: float  # mag of a star that fills its brightest pixel


def _light(values: dict[str, Any], band: BandSpec, aperture: float, exptime: float) -> _Light:
    zeropoint = band.zeropoint + 5.0 * math.log10(aperture)
    rate = 10 ** (0.4 * (zeropoint - band.sky)) * values["pixel_scale"] ** 2
    full_well = values["detector"]["full_well"]
    exptime = min(exptime, _MAX_SKY * full_well / rate)
    noise = math.sqrt(rate * exptime + values["detector"]["read_noise"] ** 2)
    wide = (values["psf"]["fwhm"] / values["pixel_scale"]) ** 2 + 0.5  # FWHM^2 with the pixel's own width
    blank = _DETECTION * noise * math.sqrt(_NOISE_AREA * wide)
    faint = 0.5 * _DETECTION**2 + math.sqrt(0.25 * _DETECTION**4 + blank**2)
    brightest = full_well * 1.133 * wide / _PEAK_SHARE
    whole = zeropoint + 2.5 * math.log10(exptime)
    return _Light(exptime, zeropoint, noise, whole - 2.5 * math.log10(faint), whole - 2.5 * math.log10(brightest))


def _place(index: int) -> tuple[float, float]:
    """Right ascension and declination (deg) of a survey's first field, spread evenly over the sky between +-60 deg."""
    u, v = ((index + 0.5) * step % 1.0 for step in _PLASTIC)
    return 360.0 * u, math.degrees(math.asin((2.0 * v - 1.0) * math.sin(math.radians(_MAX_DEC))))
