"""Two epochs of Abell 2744 with JWST NIRCam F200W: a cluster field of galaxies, correlated noise, few stars, no bright transient.

Each is subtracted twice: with the archive's model PSFs and noise planes, and with what AstrID measures in the images itself.
Artificial point sources carry the PSF of the case, so that their true flux is known.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from astrid.candidates.extract import find_candidates
from astrid.commands.exposure import load
from astrid.config.schema import CandidatesConfig
from astrid.config.schema.imaging import ImagingConfig
from astrid.config.validate import validate
from astrid.core.dq import DQ, unusable
from astrid.core.records import Calibrated, Difference
from astrid.imaging.inject import inject
from astrid.imaging.pair import subtract_pair
from support.injections import recover

SCIENCE = "jw02561001002-02561-o001_t003_nircam_clear-f200w_i2d_stamp"
REFERENCE = "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp"
GAIN = 10960.0  # electrons a MJy/sr, from the slope of the archive's noise plane; the photon noise of the injected sources
NUMBER, SEPARATION, MARGIN = 80, 25.0, 30.0  # injected sources; px between them and from the border
MATCH_PX = 1.5
BRIGHT, MIN_BRIGHT = 20.0, 30  # S/N of the sources whose fluxes are compared, and how many there must be


@dataclass
class Case:
    """One way to subtract the pair, with and without injected sources."""

    science: Calibrated
    plain: Difference
    injected: Difference
    candidates: pd.DataFrame
    positions: np.ndarray
    fluxes: np.ndarray

    def matched(self) -> pd.DataFrame:
        """Candidates at the injected positions, with `truth`, one row a found source."""
        frame = self.candidates[self.candidates["sign"] > 0]
        distance = np.hypot(*(frame[[name]].to_numpy() - self.positions[:, k] for k, name in enumerate("xy")))
        nearest = distance.argmin(axis=0)
        near = distance.min(axis=0) < MATCH_PX
        return frame.iloc[nearest[near]].assign(truth=self.fluxes[near], distance=distance.min(axis=0)[near])


def _section(root: Path, name: str, kind: type):
    return validate(kind, yaml.safe_load((root / "conf" / name / "default.yaml").read_text()))


def _positions(rng: np.random.Generator, side: int) -> np.ndarray:
    chosen: list[np.ndarray] = []
    while len(chosen) < NUMBER:
        place = rng.uniform(MARGIN, side - MARGIN, 2)
        if all(np.hypot(*(place - other)) > SEPARATION for other in chosen):
            chosen.append(place)
    return np.array(chosen)


@pytest.fixture(scope="module")
def folder(shared_data):
    folder = shared_data / "fits" / "jwst-nircam-abell2744"
    if not folder.is_dir():
        pytest.skip(f"the JWST pair is not at hand ({folder} is absent)")
    return folder


def _case(root: Path, folder: Path, given: bool) -> Case:
    imaging, finding = _section(root, "imaging", ImagingConfig), _section(root, "candidates", CandidatesConfig)

    def read(stem: str, role: str) -> Calibrated:
        beside = {kind: folder / f"{stem}.{name}.fits" for kind, name in (("psf", "WebbPSF"), ("noise", "noise"))} if given else {}
        return load(folder / f"{stem}.fits", imaging.calibrate, role=role, **beside)

    science, reference = read(SCIENCE, "science"), read(REFERENCE, "reference")
    plain = subtract_pair(science, reference, imaging.difference)
    rng = np.random.default_rng(5)
    positions = _positions(rng, min(science.data.shape))
    fluxes = float(np.nanmedian(plain.flux_err)) * rng.uniform(8, 60, NUMBER)
    added = inject(dataclasses.replace(science, gain=GAIN), positions, fluxes, rng)
    if not np.isfinite(science.gain):  # then the image's variance plane knows no photon noise, nor that of the sources
        added = dataclasses.replace(added, variance=science.variance)
    injected = subtract_pair(added, reference, imaging.difference)
    return Case(science, plain, injected, find_candidates(injected, finding, pair_id="jwst"), positions, fluxes)


@pytest.fixture(scope="module")
def given(project_root, folder) -> Case:
    return _case(project_root, folder, True)


@pytest.fixture(scope="module")
def own(project_root, folder) -> Case:
    return _case(project_root, folder, False)


@pytest.fixture(params=["given", "own"])
def case(request) -> Case:
    return request.getfixturevalue(request.param)


def test_the_pair_subtracts_and_says_how_well(case):
    quality = case.plain.quality
    assert quality["q_overlap"] > 0.999
    assert quality["q_registration_method"] == "affine"
    assert quality["q_registration_median_px"] < 0.15  # few stars among galaxies
    assert quality["q_flux_method"] == "stars"
    assert quality["q_flux_ratio"] == pytest.approx(1.0, abs=0.1)  # both are in MJy/sr; the two model PSFs differ in their wings
    for role in ("science", "reference"):
        assert 2.0 < quality[f"q_noise_correlation_{role}"] < 3.0  # drizzled noise; neither noise plane knows it
    assert 0.95 < quality["q_score_std_raw"] < 1.15  # 1.63 without that
    assert quality["q_score_std"] == pytest.approx(1.0, abs=0.01)
    assert quality["q_reasons"] == ""


def test_nothing_new_and_bright_is_claimed(case):
    known = ~unusable(case.plain.dq) & ((case.plain.dq & np.uint32(DQ.EDGE)) == 0)
    assert (case.plain.score[known] > 5).mean() < 2e-5
    assert case.plain.score[known].max() < 9  # with own PSFs of four stars the cores of bright galaxies leave up to 7.7


def test_stars_are_told_from_a_majority_of_galaxies(given, own):
    for new, old in ((own.plain.psf_science, given.plain.psf_science), (own.plain.psf_reference, given.plain.psf_reference)):
        assert new.fwhm == pytest.approx(old.fwhm, rel=0.2)  # drizzled stars are broader than the model, by 13 % as measured
    quality = own.plain.quality
    for role in ("science", "reference"):
        assert quality[f"q_psf_method_{role}"] == "moffat"  # the rung for so few stars, as the product says
        assert 2 <= quality[f"q_psf_stars_{role}"] < 8


def test_fluxes_of_injected_sources_come_back(case):
    found = case.matched()
    bright = found[found["truth"] > BRIGHT * found["flux_err"]]
    assert len(bright) >= MIN_BRIGHT
    ratio = bright["flux"] / bright["truth"]
    assert ratio.median() == pytest.approx(1.0, abs=0.02)
    assert ratio.std() < 0.06
    assert bright["distance"].median() < 0.08


def test_the_stated_errors_are_those_of_the_fluxes(case):
    found = case.matched()
    pull = (found["flux"] - found["truth"]) / found["flux_err"]
    assert 0.7 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.3
    assert abs(pull.mean()) < 0.5


def test_what_is_clear_is_found_without_a_tag(case):
    place = np.rint(case.positions).astype(int)
    expected = case.fluxes / case.injected.flux_err[place[:, 1], place[:, 0]]
    assert (expected > 6.5).sum() >= NUMBER // 2
    found = case.matched()
    assert len(found) >= 0.97 * (expected > 6.5).sum()
    assert (found["tags"].map(len) == 0).mean() > 0.95
    # S_corr in the peak's pixel is the flux over its error, less what a source between pixels loses (FWHM 2: up to 7 %)
    clear = found[found["flux"] > 8 * found["flux_err"]]
    assert (clear["snr"] / (clear["flux"] / clear["flux_err"])).median() == pytest.approx(0.97, abs=0.04)


def test_completeness_is_what_theory_says_of_the_stated_errors(project_root, folder, given):
    """Faint injections on quiet places: drizzled noise is correlated, so that it is the renormalised score that has to be right."""
    imaging, finding = _section(project_root, "imaging", ImagingConfig), _section(project_root, "candidates", CandidatesConfig)
    beside = {kind: folder / f"{REFERENCE}.{name}.fits" for kind, name in (("psf", "WebbPSF"), ("noise", "noise"))}
    reference = load(folder / f"{REFERENCE}.fits", imaging.calibrate, role="reference", **beside)
    science = dataclasses.replace(given.science, gain=GAIN)
    found = recover(
        science, reference, given.plain, snr=(3, 12), number=150, separation=SEPARATION, rng=np.random.default_rng(8),
        difference=imaging.difference, extract=finding.extract,
    )  # fmt: skip
    assert len(found.truth) == 150
    assert abs(found.z) < 3.0
    assert 0.7 < found.chi2 < 1.4
    assert abs(found.bias) < 0.03
