"""What changes on a field's sky: supernovae in and beside their hosts, variable stars and nuclei, outbursts.

Positions are in field pixels, as those of the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrid.config.schema.simulate import SimulateConfig, SurveySpec
from astrid.core.runtime import rng_for
from astrid.sky.simulate import galaxies, schedule, transients
from astrid.sky.simulate.galaxies import GALAXY
from astrid.sky.simulate.transients import OutburstCurve, SupernovaCurve, VariableCurve

Galaxies = NDArray[np.void]

_KNOTTED = 0.5  # share of core collapses in a knot, where the host has any
_FADING_PEAK = (-5.0, 25.0)  # d (rest frame) from the peak to the reference of a supernova that fades


@dataclass(frozen=True, slots=True)
class Transient:
    """A changing point source."""

    object_id: str
    kind: str  # supernova or variable
    transient_type: str
    x: float  # field pixel
    y: float
    curve: SupernovaCurve | VariableCurve | OutburstCurve
    redshift: float
    host_id: str
    host_x: float  # NaN without a host
    host_y: float


def supernovae(cfg: SimulateConfig, spec: SurveySpec, name: str, field: int, rng: np.random.Generator) -> tuple[list[Transient], Galaxies]:
    """Supernovae whose peaks spread evenly over the magnitudes that the survey can see, each with the redshift that its class
    and brightness imply and a host galaxy at that redshift. Returns them and the hosts, which the field's galaxies lack."""
    band = spec.filters[schedule.field_filters(cfg, spec, field)[0]]
    seasons = schedule.field_seasons(cfg, field)
    kinds = list(transients.TYPES)
    shares = np.array([transients.TYPES[kind].share for kind in kinds])
    found: list[Transient] = []
    hosts = np.zeros(0, GALAXY)
    for number in range(1, spec.scene.supernovae + 1):
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        start = cfg.schedule.season_starts[seasons[int(rng.integers(len(seasons)))]]
        peak = start + rng.uniform(-0.05, 0.85) * cfg.schedule.season_days
        magnitude = band.limit + rng.uniform(-spec.scene.peak_range, spec.scene.peak_below)
        model = transients.TYPES[kind]
        redshift = transients.redshift_at(magnitude - rng.normal(model.absolute, model.scatter))
        identity = f"{name}-sn{number:02d}"
        early = rng_for(cfg.seed, identity, "epoch")
        if early.random() < spec.scene.fading:
            peak = schedule.reference_date(cfg, spec, field) - early.uniform(*_FADING_PEAK) * (1.0 + redshift)
        curve = SupernovaCurve(kind, peak, 0.0, redshift, float(np.clip(rng.normal(1.0, 0.1), 0.7, 1.3)))
        curve = SupernovaCurve(kind, peak, magnitude - curve.magnitude(peak, band.wavelength), redshift, curve.stretch)
        host = _host(cfg, spec, kind, redshift, rng)
        galaxies.dress(host, spec.scene, rng_for(cfg.seed, identity, "structure"))
        x, y = _place(spec, kind, host[0], rng)
        hosted = rng.random() >= spec.scene.hostless
        if hosted:
            hosts = np.append(hosts, host)
        place = (float(host["x"][0]), float(host["y"][0])) if hosted else (float("nan"), float("nan"))
        found.append(Transient(identity, "supernova", kind, x, y, curve, redshift, f"{name}-host{number:02d}" if hosted else "", *place))
    return found, hosts


def _host(cfg: SimulateConfig, spec: SurveySpec, kind: str, redshift: float, rng: np.random.Generator) -> Galaxies:
    """A galaxy (one GALAXY row) at a redshift, well inside the image, of the kind that a class of supernovae lives in.

    Half-light radius and luminosity follow R ~ L^0.3 at 3.5 kpc for M = -20.5.
    """
    hosts = np.zeros(1, GALAXY)
    host = hosts[0]
    inside = cfg.image_size * 0.06
    host["x"], host["y"] = rng.uniform(inside, cfg.image_size - 1 - inside, 2)
    absolute = rng.normal(-20.0, 1.0) + (2.5 if kind in transients.DWARF_TYPES else 0.0)
    host["mag"] = absolute + transients.distance_modulus(redshift)
    host["radius"] = 3.5 * 10 ** (-0.12 * (absolute + 20.5)) * rng.lognormal(0.0, 0.25) * transients.kiloparsec(redshift)
    host["radius"] = min(host["radius"], 0.06 * cfg.image_size * spec.pixel_scale)
    host["axis_ratio"] = rng.uniform(0.35, 1.0)
    host["angle"] = rng.uniform(0, 180)
    host["bulge"] = np.clip(rng.normal(0.25, 0.2), 0.0, 0.8)
    if kind in transients.OLD_TYPES:
        host["bulge"] = 0.75 + 0.25 * host["bulge"]
    return hosts


def _place(spec: SurveySpec, kind: str, host: np.void, rng: np.random.Generator) -> tuple[float, float]:
    """A position that follows the host's light, or its disc and knots for massive stars, or on its core."""
    nuclear = rng.random() < spec.scene.nuclear
    knotted = 0.0 if nuclear else _KNOTTED
    x, y = galaxies.in_disc(host, rng, knotted=knotted) if kind in transients.DISC_TYPES else galaxies.in_light(host, rng)
    scale = float(host["radius"]) / spec.pixel_scale * (0.08 if nuclear else 1.0)
    return float(host["x"]) + x * scale, float(host["y"]) + y * scale


def variables(cfg: SimulateConfig, spec: SurveySpec, name: str, sky: Galaxies, rng: np.random.Generator) -> list[Transient]:
    """Variable stars anywhere in the image, and active nuclei in galaxies of the field (`sky`)."""
    kinds = list(transients.PERIODS)
    limit = float(np.mean([band.limit for band in spec.filters.values()]))
    found = []
    inside = cfg.image_size * 0.03
    for number in range(1, spec.scene.variables + 1):
        kind = kinds[int(rng.integers(len(kinds)))]
        low, high = transients.PERIODS[kind]
        mean = rng.uniform(limit - spec.scene.variable_range, limit - 0.3)
        amplitude = float(rng.lognormal(np.log(transients.AMPLITUDES[kind]), spec.scene.amplitude_scatter))
        amplitude = float(np.clip(amplitude, spec.scene.amplitude_least, 5.0))
        curve = VariableCurve(kind, mean, amplitude, float(rng.uniform(low, high)), float(rng.random()), float(rng.normal(0.3, 0.4)))
        x, y = rng.uniform(inside, cfg.image_size - 1 - inside, 2)
        host, host_x, host_y = "", float("nan"), float("nan")
        if kind == "AGN" and len(sky):
            x, y, host, host_x, host_y = _nucleus(cfg, name, sky, float(x), float(y))
        found.append(Transient(f"{name}-var{number:02d}", "variable", kind, float(x), float(y), curve, float("nan"), host, host_x, host_y))
    return found


def _nucleus(cfg: SimulateConfig, name: str, sky: Galaxies, x: float, y: float) -> tuple[float, float, str, float, float]:
    """Centre of the galaxy in the image that is nearest to a position."""
    seen = _inside(cfg, sky)
    if not seen.any():
        return x, y, "", float("nan"), float("nan")
    index = int(np.argmin(np.where(seen, np.hypot(sky["x"] - x, sky["y"] - y), np.inf)))
    place = float(sky["x"][index]), float(sky["y"][index])
    return *place, f"{name}-gal{index:03d}", *place


def _inside(cfg: SimulateConfig, sky: Galaxies) -> NDArray[np.bool_]:
    return np.asarray((sky["x"] > 0) & (sky["x"] < cfg.image_size) & (sky["y"] > 0) & (sky["y"] < cfg.image_size))


def outbursts(cfg: SimulateConfig, spec: SurveySpec, name: str, field: int, sky: Galaxies) -> list[Transient]:
    """Novae, dwarf novae and flares, each caught by one of the field's exposures, the reference as likely as any other.

    Half of the novae are those of the galaxy of the field (`sky`) that appears largest, where they follow the light; the others and
    the dwarf novae and flares are stars of the Milky Way. Each has a generator of its own.
    """
    visits = schedule.field_dates(cfg, spec, name, field)
    kinds = list(transients.OUTBURSTS)
    shares = np.array([model.share for model in transients.OUTBURSTS.values()])
    found = []
    for number in range(1, spec.scene.outbursts + 1):
        rng = rng_for(cfg.seed, name, "outburst", number)
        kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        model, (band, caught) = transients.OUTBURSTS[kind], visits[int(rng.integers(len(visits)))]
        rise, stay, slope, amplitude, colour = (
            float(rng.uniform(*span)) for span in (model.rise, model.stay, model.slope, model.amplitude, model.colour)
        )
        peak = spec.filters[band].limit + float(rng.uniform(-spec.scene.peak_range, spec.scene.peak_below))
        late = rise * float(rng.exponential(1.0)) if kind == "flare" else float(rng.uniform(0.0, stay + 1.0 / max(slope, 0.1)))
        curve = OutburstCurve(kind, caught - late, peak, peak + amplitude, rise, stay, slope, colour)
        x, y, host, host_x, host_y = _burst_place(cfg, spec, name, kind, sky, rng)
        found.append(Transient(f"{name}-out{number:02d}", "variable", kind, x, y, curve, float("nan"), host, host_x, host_y))
    return found


def _burst_place(
    cfg: SimulateConfig, spec: SurveySpec, name: str, kind: str, sky: Galaxies, rng: np.random.Generator
) -> tuple[float, float, str, float, float]:
    inside = cfg.image_size * 0.03
    x, y = (float(value) for value in rng.uniform(inside, cfg.image_size - 1 - inside, 2))
    seen = _inside(cfg, sky)
    if kind != "nova" or rng.random() < 0.5 or not seen.any():
        return x, y, "", float("nan"), float("nan")
    index = int(np.argmax(np.where(seen, sky["radius"], -np.inf)))
    host = sky[index]
    dx, dy = galaxies.in_light(host, rng)
    scale = float(host["radius"]) / spec.pixel_scale
    centre = float(host["x"]), float(host["y"])
    return centre[0] + dx * scale, centre[1] + dy * scale, f"{name}-gal{index:03d}", *centre
