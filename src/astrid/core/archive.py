"""What a file says of its pixels beside them: the readout channels of a raw frame, and what an archive has already done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Section = tuple[slice, slice]  # rows, columns
NAN = float("nan")


@dataclass(frozen=True)
class Amplifier:
    """One readout channel of a detector: where its pixels lie in the raw frame and where they belong in the trimmed image."""

    name: str
    data: Section  # its exposed pixels, in the raw frame
    place: Section  # the same pixels, in the trimmed image
    overscan: Section | None = None  # in the raw frame
    gain: float = NAN  # electron/ADU; NaN takes the exposure's
    read_noise: float = NAN  # electron; NaN takes the exposure's, or the overscan's scatter
    saturation: float = NAN  # ADU; NaN takes the exposure's


@dataclass(frozen=True)
class Identity:
    """Who an exposure is, by its mission's own keywords; empty and NaN where they do not say."""

    survey: str
    instrument: str
    detector: str
    filter: str
    unit: str
    mjd: float = NAN  # d, middle of the exposure
    exptime: float = NAN  # s
    field_id: str = ""


@dataclass(frozen=True, eq=False)
class Archive:
    """What a mission's product says of itself; every plane has the shape (ny, nx) of its image, None stands for unknown."""

    identity: Identity
    done: tuple[str, ...] = ()  # what the archive has already removed or corrected, in the mission's words
    dq: NDArray[np.uint32] | None = None  # its flags as bits of `core.dq.DQ`
    variance: NDArray[np.float32] | None = None  # of all noise, unit^2; not finite or <= 0 where unknown
    photon_variance: NDArray[np.float32] | None = None  # the photons' share of it, unit^2: its slope over the flux is the gain
    gain: float | NDArray[np.float32] | None = None  # electrons (or counts) a unit
    exposure: NDArray[np.float32] | None = None  # exposure time or weight, relative; 0 = nothing was exposed there
    saturation: float = NAN  # in the image's unit
    counting: bool = False  # single photons were counted: the noise is Poisson's, also at less than one a pixel
    notes: Mapping[str, Any] = field(default_factory=dict)  # scalars for the product's header


def pack(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Sections of a frame moved together, without the gaps between them: the places of amplifiers in the trimmed image."""
    starts = [sorted({(part[axis].start, part[axis].stop) for part in sections}) for axis in (0, 1)]
    moved: list[dict[int, int]] = []
    for ranges in starts:
        places, end = {}, 0
        for start, stop in ranges:
            places[start] = end
            end += stop - start
        moved.append(places)
    return tuple(
        (
            slice(moved[0][rows.start], moved[0][rows.start] + rows.stop - rows.start),
            slice(moved[1][columns.start], moved[1][columns.start] + columns.stop - columns.start),
        )
        for rows, columns in sections
    )
