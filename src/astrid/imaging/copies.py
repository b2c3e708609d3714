"""Injected copies of a pair: the same pixels under other names, with point sources of known flux among them.

Sources that brighten are added to the science exposure and fading ones to the reference. What is added stands in tables (TRUTH and
PAIRS), and it is put on the pixels when an exposure of a copy is asked for, so that no image is stored twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from astrid.core.copies import copy_id
from astrid.core.runtime import rng_for
from astrid.io.tables import PAIRS, TRUTH

if TYPE_CHECKING:
    from astrid.config.schema.imaging import FluxScaleConfig, RegistrationConfig
    from astrid.config.schema.injection import InjectionConfig
    from astrid.config.schema.psf import PsfConfig
    from astrid.core.records import Calibrated
    from astrid.imaging.pair import Allocate

# What `imaging.injections.truth_rows` adds to the columns of TRUTH.
_FURTHER = {"fading": bool, "aimed_snr": float, "width": float, "host_dlr": float, "flux_ratio": float}


@dataclass(frozen=True)
class Alignment:
    """The settings of the subtraction that an injection needs as well."""

    psf: PsfConfig
    registration: RegistrationConfig
    flux_scale: FluxScaleConfig


@dataclass(frozen=True)
class Added:
    """The point sources that a copy's exposure has beside its parent's light; picklable."""

    exposure_id: str  # of the copy
    sources: tuple[tuple[float, float, float, float], ...]  # x, y in px, flux in the exposure's unit, width over the PSF's

    def to(self, exposure: Calibrated, allocate: Allocate) -> Calibrated:
        """The exposure under the copy's name, with the sources. Their photon noise follows from the name and the sources alone."""
        from astrid.imaging.inject import inject

        named = replace(exposure, info=replace(exposure.info, exposure_id=self.exposure_id))
        if not self.sources:
            return named
        x, y, flux, width = np.array(self.sources).T
        rng = rng_for(0, "photons", self.exposure_id, repr(self.sources))
        return inject(named, np.column_stack([x, y]), flux, rng, widths=width, allocate=allocate)


def copies_of(
    science: Calibrated,
    reference: Calibrated,
    config: InjectionConfig,
    alignment: Alignment,
    *,
    names: tuple[str, str],
    known: NDArray[np.float64],
) -> pd.DataFrame:
    """Draw the sources of all copies of a pair.

    Every copy has its own generator, so that more copies leave the first ones as they are.

    Parameters
    ----------
    science, reference
        The pair.
    config, alignment
        What to inject, and the settings of the pair's subtraction.
    names
        exposure_id of science and reference.
    known
        (k, 2) x, y in science px of changes that are there already; sources keep away from them.

    Returns
    -------
    DataFrame
        TRUTH with the further columns of `imaging.injections.truth_rows`, one copy after the other.

    Raises
    ------
    ImagingError
        An exposure has no usable pixel or no gain that photon noise can be drawn from, or the pair cannot be aligned.
    """
    from astrid.imaging.injections import draw, survey_pair, truth_rows

    ground = survey_pair(
        science,
        reference,
        psf=alignment.psf,
        registration=alignment.registration,
        flux_scale=alignment.flux_scale,
        hosts=config.hosts,
    )
    frames = []
    for copy in range(config.copies):
        sources = draw(ground, config, rng_for(config.seed, "inject", *names, copy), known=known)
        frames.append(truth_rows(sources, ground, copy_names(names, copy), copy_id("__".join(names), copy)))
    return joined_truth(frames)


def copy_names(names: tuple[str, str], copy: int) -> tuple[str, str]:
    """exposure_id of the science exposure and of the reference of a pair's copy."""
    return copy_id(names[0], copy, names[1]), copy_id(names[1], copy, names[0])


def copy_rows(pairs: pd.DataFrame, chosen: Collection[str], copies: int) -> pd.DataFrame:
    """PAIRS rows of the copies of the pairs whose pair_id is `chosen`, each with its own names."""
    parents = pairs[pairs["pair_id"].isin(chosen)]
    frames = []
    for copy in range(copies if len(parents) else 0):
        names = [copy_names((str(row.science_id), str(row.reference_id)), copy) for row in parents.itertuples()]
        science, reference = zip(*names, strict=True)
        pair_ids = [copy_id(str(name), copy) for name in parents["pair_id"]]
        frames.append(parents.assign(pair_id=pair_ids, science_id=science, reference_id=reference))
    return pd.concat(frames, ignore_index=True) if frames else PAIRS.empty()


def added_sources(copies: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Added]:
    """What each exposure of the copies (PAIRS) has added by the truth of `copies_of`, by exposure_id."""
    there = truth[truth["flux"] > 0]
    columns = [there[name].tolist() for name in ("x", "y", "flux", "width")] if len(there) else [[]] * 4
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, *source in zip(there["exposure_id"], *columns, strict=True):
        rows.setdefault(str(name), []).append((source[0], source[1], source[2], source[3]))
    names = [str(name) for role in ("science_id", "reference_id") for name in copies[role]]
    return {name: Added(name, tuple(rows.get(name, ()))) for name in names}


def joined_truth(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The truth of several copies as one table; one without rows has the further columns as well."""
    filled = [frame for frame in frames if len(frame)]
    if filled:
        return pd.concat(filled, ignore_index=True)
    return TRUTH.empty().assign(**{name: pd.Series(dtype=kind) for name, kind in _FURTHER.items()})
