"""Known light curves: supernovae by type, filter and redshift, variable stars, and outbursts of stars.

Magnitudes are AB. Times are observer's days (MJD); a light curve is a frozen record with one method, so that the truth table
and the rendered image speak of the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_C_KM_S = 299_792.458
_H0 = 70.0  # km/s/Mpc
_OMEGA_M = 0.3


@dataclass(frozen=True, slots=True)
class SupernovaType:
    """Shape of a supernova class in its rest frame.

    The rise is a power law from the explosion (an expanding fireball for SN Ia), the decline `rate15 (t/15 d)^bend` in
    magnitudes until `tail_start`, then linear; a class with a plateau declines at `plateau_slope`, falls by `plateau_drop` at its
    end and follows the decay of cobalt (0.0098 mag/d). An envelope that cools adds `cooling` of the peak's flux in the first days.
    """

    name: str
    share: float  # among the supernovae that are drawn, evenly in the brightness of their peaks
    absolute: float  # mag, B at peak
    scatter: float  # mag
    rise: float  # d
    rise_power: float
    rate15: float  # mag in the first 15 d after peak, at 450 nm
    bend: float
    tail_start: float  # d
    tail_slope: float  # mag/d
    plateau: float  # d; 0 = none
    bump: float  # mag, secondary maximum in the red
    cooling: float  # flux of the cooling envelope after the explosion over that of the peak
    colours: tuple[float, ...]  # mag over B at peak for the wavelengths of _COLOUR_GRID


_COLOUR_GRID = (250.0, 350.0, 450.0, 550.0, 650.0, 780.0, 900.0)  # nm
_COBALT = 0.0098  # mag/d
_PLATEAU_SLOPE = 0.012  # mag/d at 600 nm
_PLATEAU_DROP = 2.0  # mag
_DROP_WIDTH = 5.0  # d

_COOLING_DAYS = 2.5  # d, over which a cooling envelope fades by e (SN 1993J: Richmond et al. 1994, AJ 107, 1022)

# Peak luminosities and their scatter: Richardson et al. 2014 (AJ 147, 118, table 1), 91bg: Taubenberger 2017, superluminous: De Cia
# et al. 2018 (ApJ 860, 100). Shares: those of the Bright Transient Survey (Perley et al. 2020, ApJ 904, 35), the rare ones raised.
TYPES: dict[str, SupernovaType] = {
    kind.name: kind
    for kind in (
        SupernovaType("SN Ia", 0.42, -19.3, 0.25, 17.5, 2.0, 1.1, 1.5, 28.0, 0.016, 0.0, 0.35, 0.0, (2.2, 0.4, 0.0, 0.0, 0.1, 0.4, 0.5)),
        SupernovaType("SN Ia-91T", 0.06, -19.6, 0.25, 19.0, 2.0, 0.9, 1.5, 30.0, 0.015, 0.0, 0.4, 0.0, (1.7, 0.2, 0.0, 0.0, 0.1, 0.4, 0.5)),
        SupernovaType("SN Ia-91bg", 0.06, -17.7, 0.4, 13.5, 2, 1.9, 1.2, 18.0, 0.025, 0.0, 0.0, 0.0, (3, 1.4, 0.0, -0.6, -0.7, -0.6, -0.5)),
        SupernovaType("SN II", 0.16, -16.9, 0.8, 9.0, 1.0, 0.0, 1.0, 0.0, 0.0, 95.0, 0.0, 0.0, (0.1, 0.0, 0.0, -0.05, -0.1, 0.0, 0.1)),
        SupernovaType("SN IIL", 0.05, -17.9, 0.7, 10.0, 1.0, 0.5, 1.0, 80.0, 0.0098, 0.0, 0.0, 0.0, (0.2, 0.0, 0.0, -0.05, -0.1, 0.0, 0.1)),
        SupernovaType("SN IIn", 0.07, -18.7, 0.9, 20.0, 1.2, 0.25, 1.0, 110.0, 0.01, 0.0, 0.0, 0.0, (0.2, 0.0, 0.0, 0.0, -0.1, 0.05, 0.15)),
        SupernovaType("SN IIb", 0.05, -17.1, 0.7, 20.0, 1.6, 1.2, 1.3, 25.0, 0.02, 0.0, 0.0, 0.7, (1.8, 0.6, 0.0, -0.25, -0.25, -0.1, 0.0)),
        SupernovaType("SN Ibc", 0.1, -17.6, 0.7, 16.0, 1.6, 1.05, 1.3, 25.0, 0.02, 0.0, 0.0, 0.0, (2.0, 0.7, 0.0, -0.2, -0.2, 0.0, 0.1)),
        SupernovaType("SLSN", 0.03, -21.5, 0.5, 35.0, 1.8, 0.35, 1.2, 60.0, 0.02, 0.0, 0.0, 0.0, (0.4, 0.0, 0.0, 0.05, 0.1, 0.25, 0.4)),
    )
}  # fmt: skip
DISC_TYPES = ("SN II", "SN IIL", "SN IIn", "SN IIb", "SN Ibc", "SLSN")  # of massive stars: where stars form
DWARF_TYPES = ("SLSN",)  # in faint hosts of few metals (Perley et al. 2016, ApJ 830, 13)
OLD_TYPES = ("SN Ia-91bg",)  # of old stars: in early-type galaxies


@dataclass(frozen=True, slots=True)
class SupernovaCurve:
    """Light curve of one supernova."""

    kind: str  # key of TYPES
    peak_mjd: float
    peak_b: float  # mag, observed at peak for rest-frame 450 nm
    redshift: float
    stretch: float

    @property
    def explosion_mjd(self) -> float:
        """First light, d."""
        return self.peak_mjd - TYPES[self.kind].rise * self.stretch * (1.0 + self.redshift)

    def magnitude(self, mjd: float, wavelength: float) -> float:
        """AB magnitude at a date in a band of effective `wavelength` (nm); infinite before the explosion."""
        model = TYPES[self.kind]
        days = (mjd - self.peak_mjd) / (1.0 + self.redshift) / self.stretch
        rest = wavelength / (1.0 + self.redshift)
        if days <= -model.rise:
            return float("inf")
        colour = float(np.interp(rest, _COLOUR_GRID, model.colours))
        fainter = _decline(model, days, rest) if days >= 0 else -2.5 * model.rise_power * float(np.log10(1.0 + days / model.rise))
        if model.cooling:
            age = days + model.rise
            early = model.cooling * float(np.exp(-age / _COOLING_DAYS) * (1.0 - np.exp(-age / 0.5)))
            fainter = -2.5 * float(np.log10(10 ** (-0.4 * fainter) + early))
        return self.peak_b + colour + fainter


def _decline(model: SupernovaType, days: float, rest: float) -> float:
    if model.plateau:
        slope = _PLATEAU_SLOPE * (600.0 / rest) ** 2.5
        drop = _PLATEAU_DROP / (1.0 + np.exp(-(days - model.plateau) / _DROP_WIDTH))
        return float(slope * min(days, model.plateau) + drop + _COBALT * max(0.0, days - model.plateau))
    bluer = (450.0 / rest) ** 0.9
    early = model.rate15 * bluer * (min(days, model.tail_start) / 15.0) ** model.bend
    bump = model.bump * np.exp(-0.5 * ((days - 24.0) / 6.0) ** 2) * np.clip((rest - 580.0) / 150.0, 0.0, 1.0)
    return float(early + model.tail_slope * max(0.0, days - model.tail_start) - bump)


@dataclass(frozen=True, slots=True)
class VariableCurve:
    """Light curve of a variable star or active nucleus; `mean` is the magnitude at 500 nm."""

    kind: str  # RR Lyrae, eclipsing binary, long-period variable, AGN
    mean: float
    amplitude: float  # mag, full
    period: float  # d
    phase: float  # turns
    colour: float

    def magnitude(self, mjd: float, wavelength: float) -> float:
        """AB magnitude at a date in a band of effective `wavelength` (nm)."""
        turn = (mjd / self.period + self.phase) % 1.0
        bluer: float = (500.0 / wavelength) ** 0.6
        shape = _SHAPES[self.kind](turn)
        return band_magnitude(self.mean, self.colour, wavelength) + self.amplitude * bluer * shape


@dataclass(frozen=True, slots=True)
class OutburstCurve:
    """Light curve of a star that flares once; `peak` and `quiet` are the magnitudes at 500 nm.

    From the onset, 5 mag below the quiet star, the burst brightens linearly in magnitude for `rise` days, stays for `stay` and fades
    at `slope` mag/d. A flare of an M dwarf fades as Davenport et al. 2014 (ApJ 797, 122, eq. 4) give it, in units of `rise`.
    """

    kind: str  # key of OUTBURSTS
    peak_mjd: float  # d, end of the rise
    peak: float  # mag
    quiet: float  # mag
    rise: float  # d
    stay: float  # d
    slope: float  # mag/d
    colour: float  # of the quiet star; the outburst is white

    def magnitude(self, mjd: float, wavelength: float) -> float:
        """AB magnitude at a date in a band of effective `wavelength` (nm)."""
        days, quiet = mjd - self.peak_mjd, band_magnitude(self.quiet, self.colour, wavelength)
        if days <= -self.rise:
            return quiet
        if days < 0:
            burst = self.peak - (self.quiet + 5.0 - self.peak) * days / self.rise
        elif self.kind == "flare":
            turns = days / self.rise
            burst = self.peak - 2.5 * float(np.log10(max(0.689 * np.exp(-1.6 * turns) + 0.303 * np.exp(-0.2783 * turns), 1e-12)))
        else:
            burst = self.peak + self.slope * max(0.0, days - self.stay)
        return float(-2.5 * np.log10(10 ** (-0.4 * quiet) + 10 ** (-0.4 * burst)))


@dataclass(frozen=True, slots=True)
class OutburstType:
    """Ranges of a class of outbursts."""

    share: float
    amplitude: tuple[float, float]  # mag at 500 nm
    rise: tuple[float, float]  # d
    stay: tuple[float, float]  # d
    slope: tuple[float, float]  # mag/d
    colour: tuple[float, float]  # of the quiet star


# Novae: Strope, Schaefer & Henden 2010 (AJ 140, 34); dwarf novae: Warner 1995, Otulakowska-Hypka et al. 2016 (MNRAS 460, 2526);
# flares: Davenport et al. 2014, Guenther et al. 2020 (AJ 159, 60), whose half width is the `rise` here.
OUTBURSTS: dict[str, OutburstType] = {
    "nova": OutburstType(0.3, (8.0, 13.0), (1.0, 5.0), (0.0, 3.0), (0.04, 0.4), (0.0, 0.5)),
    "dwarf nova": OutburstType(0.4, (2.0, 6.0), (0.5, 2.0), (2.0, 15.0), (0.3, 1.2), (-0.2, 0.4)),
    "flare": OutburstType(0.3, (0.8, 5.0), (0.003, 0.03), (0.0, 0.0), (0.0, 0.0), (1.2, 2.0)),
}


def band_magnitude(magnitude: float, colour: float, wavelength: float) -> float:
    """Magnitude of a star of a colour index (0 = flat spectrum, 1 = red) in a band, from that at 500 nm."""
    return magnitude - 0.6 * colour * (wavelength - 500.0) / 200.0


def _saw_tooth(turn: float) -> float:
    return float(turn / 0.85 - 0.5) if turn < 0.85 else float(0.5 - (turn - 0.85) / 0.15)


def _eclipse(turn: float) -> float:
    primary = np.exp(-0.5 * ((turn - 0.5) / 0.08) ** 2)
    secondary = 0.5 * np.exp(-0.5 * ((min(turn, 1.0 - turn)) / 0.08) ** 2)
    return float(primary + secondary - 0.3)


def _sine(turn: float) -> float:
    return float(0.5 * np.sin(2 * np.pi * turn))


def _wander(turn: float) -> float:
    return float(0.3 * np.sin(2 * np.pi * turn) + 0.25 * np.sin(6 * np.pi * turn + 1.0) + 0.2 * np.sin(14 * np.pi * turn + 2.0))


_SHAPES = {"RR Lyrae": _saw_tooth, "eclipsing binary": _eclipse, "long-period variable": _sine, "AGN": _wander}
PERIODS = {"RR Lyrae": (0.3, 0.9), "eclipsing binary": (0.6, 12.0), "long-period variable": (80.0, 450.0), "AGN": (300.0, 1500.0)}  # d

# mag, median full amplitude: Catelan & Smith 2015 (Pulsating Stars), Prsa et al. 2011 (AJ 141, 83), MacLeod et al. 2010 (ApJ 721, 1014)
AMPLITUDES = {"RR Lyrae": 0.75, "eclipsing binary": 0.45, "long-period variable": 1.5, "AGN": 0.35}


@cache
def _distance_grid() -> tuple[Floats, Floats]:
    """Redshift and comoving distance (Mpc) in a flat universe of matter and a cosmological constant, by the trapezoid rule."""
    z = np.linspace(0.0, 2.0, 4001)
    rate = 1.0 / np.sqrt(_OMEGA_M * (1 + z) ** 3 + 1 - _OMEGA_M)
    distance = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(z))]) * _C_KM_S / _H0
    return z, distance


def distance_modulus(redshift: float) -> float:
    """Distance modulus, mag, for H0 = 70 km/s/Mpc and Omega_m = 0.3."""
    z, distance = _distance_grid()
    return float(5 * np.log10((1 + redshift) * np.interp(redshift, z, distance) * 1e5))


def redshift_at(modulus: float) -> float:
    """Redshift at which the distance modulus (mag) has this value; held within 0.002 to 2."""
    z, distance = _distance_grid()
    moduli = 5 * np.log10((1 + z[4:]) * distance[4:] * 1e5)
    return float(np.interp(modulus, moduli, z[4:]))


def kiloparsec(redshift: float) -> float:
    """Angle, arcsec, of one proper kiloparsec."""
    z, distance = _distance_grid()
    return float(206.265 / (np.interp(redshift, z, distance) / (1 + redshift)))
