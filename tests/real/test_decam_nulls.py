"""Five DECam exposures of one night: every pair of them, in both directions, is a null, and injections into it come back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from scipy import ndimage

from astrid.candidates.peaks import find_peaks
from astrid.commands.exposure import load
from astrid.config.schema.candidates import CandidatesConfig
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, Difference
from astrid.imaging.pair import subtract_pair
from support.injections import joined, recover

EXPOSURES = "abcde"
FALSE_A_MEGAPIXEL = 0.35  # of each sign beyond 5 sigma, of Gaussian noise through this matched filter
ONE_WAY = [pair for pair in itertools.permutations(EXPOSURES, 2) if pair[0] < pair[1]]


@dataclass(frozen=True, eq=False)
class Night:
    images: dict[str, Calibrated]
    pairs: dict[tuple[str, str], Difference]
    imaging: ImagingConfig
    finding: CandidatesConfig


@pytest.fixture(scope="module")
def night(project_root, shared_data) -> Night:
    """The archive masked no cosmic ray of these single exposures: they are searched for here."""
    folder = shared_data / "fits" / "decam-i"
    if not folder.is_dir():
        pytest.skip(f"the DECam exposures are not at hand ({folder} is absent)")
    values = yaml.safe_load((project_root / "conf" / "imaging" / "default.yaml").read_text())
    values["calibrate"]["cosmics"]["apply_to"] = "every"
    imaging = validate(ImagingConfig, values)
    finding = validate(CandidatesConfig, yaml.safe_load((project_root / "conf" / "candidates" / "default.yaml").read_text()))
    images = {name: load(folder / f"DEC-OBS04{name}.mini.fits", imaging.calibrate, role="science") for name in EXPOSURES}
    pairs = {(new, old): subtract_pair(images[new], images[old], imaging.difference) for new, old in itertools.permutations(EXPOSURES, 2)}
    return Night(images, pairs, imaging, finding)


def test_every_pair_is_registered_by_its_stars(night):
    for pair, product in night.pairs.items():
        quality = product.quality
        assert quality["q_registration_method"] != "header", pair
        assert quality["q_registration_rms_px"] < 0.13, pair
        assert quality["q_registration_rms_px"] < 2.5 * quality["q_registration_centroid_px"], pair  # what six stars' centroids explain
        assert quality["q_flux_ratio"] == pytest.approx(1.0, abs=0.05), pair
        assert quality["q_overlap"] > 0.95, pair


def test_the_score_has_its_width_although_the_noise_is_correlated(night):
    """These cutouts were resampled by their archive: neighbours correlate by 0.05 to 0.27, which the variance plane cannot know."""
    for pair, product in night.pairs.items():
        assert 0.98 < product.quality["q_score_std_raw"] < 1.15, pair  # 1.05 to 1.18 without their measured correlation
        assert product.quality["q_score_std"] == pytest.approx(1.0, abs=0.02), pair


def test_a_null_shows_no_more_peaks_than_noise(night):
    count, area = 0, 0.0
    for product in night.pairs.values():
        peaks = find_peaks(product, night.finding.extract)
        known = ~unusable(product.dq) & ((product.dq & np.uint32(DQ.EDGE)) == 0)
        count += int(known[peaks.iy, peaks.ix].sum())
        area += known.sum() / 1e6
    assert area > 1.0
    assert count <= 2 * FALSE_A_MEGAPIXEL * area + 3 * np.sqrt(2 * FALSE_A_MEGAPIXEL * area)


def test_turning_a_pair_round_turns_its_sign(night):
    for new, old in ONE_WAY:
        ahead, back = night.pairs[new, old], night.pairs[old, new]
        shift = night.images[old].wcs.all_world2pix(*night.images[new].wcs.all_pix2world(128.0, 128.0, 0), 0)
        moved = ndimage.shift(back.score.astype(float), (128.0 - shift[1], 128.0 - shift[0]), order=3, mode="nearest")
        inner = (slice(30, -30), slice(30, -30))
        assert np.corrcoef(ahead.score[inner].ravel(), -moved[inner].ravel())[0, 1] > 0.9, (new, old)


def test_injections_come_back_as_theory_says(night):
    rng = np.random.default_rng(7)
    settings = {"difference": night.imaging.difference, "extract": night.finding.extract, "number": 12, "separation": 30.0}
    found = joined([recover(night.images[n], night.images[o], night.pairs[n, o], snr=(3, 30), rng=rng, **settings) for n, o in ONE_WAY])
    assert len(found.truth) > 80
    assert abs(found.z) < 3.0
    assert found.chi2 == pytest.approx(1.0, abs=0.35)  # of pairs that share exposures: their noise is not independent
    assert abs(found.bias) < 0.02
