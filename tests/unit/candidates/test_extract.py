import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import fftconvolve

from astrid.candidates.extract import find_candidates, pixel_scale
from astrid.candidates.peaks import find_peaks
from astrid.core.dq import DQ
from astrid.core.errors import ImagingError
from astrid.core.records import PixelMap
from astrid.io.tables import CANDIDATES

FEATURES = [c.name for c in CANDIDATES.columns if c.kind == "float" and not c.name.startswith("host_")]


@pytest.fixture
def crowded(scene):
    view = scene()
    rng = np.random.default_rng(4)
    for x in range(40, 230, 35):
        for y in range(40, 230, 35):
            view.add(x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5), rng.choice([-1, 1]) * rng.uniform(8, 60))
    return view


def shifted(dx, dy):
    """The mapping to a reference that is moved by so many pixels."""
    y, x = np.mgrid[0:255:3j, 0:255:3j]
    return PixelMap(np.stack([x + dx, y + dy]), (256, 256))


def test_no_candidate_is_an_empty_table_of_the_right_columns(scene, cfg):
    view = scene()
    view.science *= 0.1
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert list(frame.columns) == [c.name for c in CANDIDATES.columns]
    assert len(frame) == 0


def test_features_are_finite_and_the_table_is_complete(crowded, cfg):
    frame = find_candidates(replace(crowded.build(), to_reference=shifted(7.25, -3.5)), cfg, pair_id="s__r")
    assert len(frame) == 36
    assert list(frame.columns) == [c.name for c in CANDIDATES.columns]
    assert np.isfinite(frame[FEATURES].to_numpy()).all()
    assert frame["candidate_id"].is_unique
    assert frame["candidate_id"][0] == "s__r:00000"
    assert (frame["y"].round().diff().dropna() >= 0).all()


def test_a_point_source_looks_like_the_psf(crowded, cfg):
    frame = find_candidates(crowded.build(), cfg, pair_id="s__r")
    assert frame["sharpness"].median() == pytest.approx(1.0, abs=0.1)
    assert frame["chi2"].median() == pytest.approx(1.0, abs=0.15)
    assert frame["fwhm"].median() == pytest.approx(2.3548 * 1.7, rel=0.05)
    assert frame["elongation"].median() < 1.25
    assert abs(frame["roundness"].median()) < 0.1
    assert frame["symmetry"].max() < 0.2
    assert (frame["bad_fraction"] == 0).all()


def test_the_flux_is_unbiased_between_pixels(scene, cfg):
    view = scene()
    truth = 500 * view.flux_error
    for number in range(6):
        view.science += truth * view.source(30 + 35 * number + number / 10, 100 - number / 10)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    np.testing.assert_allclose(frame["flux"], truth, rtol=0.01)


def test_science_and_reference_have_their_own_aperture_signal(scene, cfg):
    view = scene()
    view.add(100, 100, 30)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert 18 < frame["science_snr"][0] < 32
    assert abs(frame["reference_snr"][0]) < 4


def test_masked_pixels_beside_a_peak_are_counted(scene, cfg):
    view = scene()
    view.add(100, 100, 40)
    view.dq[95:106, 102:106] = DQ.BAD
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert len(frame) == 1
    assert 0.1 < frame["bad_fraction"][0] < 0.6


def test_a_source_at_the_image_edge_is_unscorable_with_its_numbers(scene, cfg):
    view = scene()
    view.add(10, 100, 40)
    view.add(150, 100, 40)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert list(frame["scorable"]) == [False, True]
    assert frame["reason"][0] == "the 63 px stamp leaves the image: 10 px to its edge, 31 are needed"
    assert frame["reason"][1] == ""
    assert frame["edge_distance"][0] == pytest.approx(10.5, abs=0.1)
    assert list(frame["tags"][0]) == ["edge"]


def test_the_footprint_has_an_edge_and_a_hole_has_none(scene, cfg):
    view = scene()
    view.dq[:, 200:] = DQ.NO_COVERAGE
    view.dq[95:98, 105:108] = DQ.NO_COVERAGE
    view.add(190, 60, 40)
    view.add(100, 100, 40)
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert frame["edge_distance"][0] == pytest.approx(10, abs=0.1)
    assert frame["edge_distance"][1] == pytest.approx(100, abs=0.2)


def test_a_mostly_masked_stamp_is_unscorable(scene, cfg):
    view = scene()
    view.add(100, 100, 40)
    view.dq[:, 108:] = DQ.NO_COVERAGE
    frame = find_candidates(view.build(), cfg, pair_id="s__r")
    assert not frame["scorable"][0]
    assert frame["reason"][0] == "38% of the stamp is unusable (38% without reference), 30% is allowed"


def test_the_sky_position_is_that_of_the_wcs(scene, cfg):
    view = scene()
    view.add(100.25, 80.5, 300)
    product = view.build()
    frame = find_candidates(product, cfg, pair_id="s__r")
    x, y = product.wcs.all_world2pix(frame["s_ra"], frame["s_dec"], 0)
    assert (x[0], y[0]) == pytest.approx((frame["x"][0], frame["y"][0]), abs=1e-6)
    assert pixel_scale(product) == pytest.approx(0.2)


def test_planes_of_different_shapes_are_refused(scene, cfg):
    product = scene().build()
    with pytest.raises(ImagingError, match=r"s__r: the plane flux has the shape \(255, 256\) and the score \(256, 256\)"):
        find_candidates(replace(product, flux=product.flux[1:]), cfg, pair_id="s__r")


def test_a_psf_that_varies_is_taken_at_the_candidate(scene, cfg):
    """Narrow on the left, wide on the right: with the PSF of the centre alone chi-squared rises at both ends."""
    view = scene(shape=(120, 480))
    places = [(40 + 57 * number, 60) for number in range(8)]
    widths = np.linspace(1.5, 1.9, 8)
    for (x, y), width in zip(places, widths, strict=True):
        view.science += 400 * view.flux_error * view.source(x, y, sigma=width)
    product = view.build()
    for (x, _), width in zip(places, widths, strict=True):  # each part filtered with its own PSF, as tiles do
        part = slice(x - 28, x + 29)
        stamp = scene(sigma=width).stamp.astype(np.float64)
        product.flux[:, part] = fftconvolve(view.science, stamp, mode="same")[:, part] / np.sum(stamp**2)
    left, right = (scene(sigma=width).stamp.astype(np.float64) for width in (1.5, 1.9))
    terms = np.stack([(right - left) / 2, np.zeros_like(left)]).astype(np.float32)
    varying = replace(product.psf_difference, stamp=((left + right) / 2).astype(np.float32), terms=terms, frame=(239.5, 60.0, 199.5))
    with_terms = find_candidates(replace(product, psf_difference=varying), cfg, pair_id="s__r")
    constant = find_candidates(replace(product, psf_difference=replace(varying, terms=None)), cfg, pair_id="s__r")
    assert len(with_terms) == len(constant) == 8
    ends = [0, 1, 6, 7]
    assert (with_terms["chi2"].iloc[ends] < 0.35 * constant["chi2"].iloc[ends]).all()
    assert with_terms["sharpness"].iloc[ends].sub(1).abs().max() < 0.5 * constant["sharpness"].iloc[ends].sub(1).abs().max()


def test_the_limit_of_a_pair_is_recorded(crowded, cfg):
    limited = replace(cfg, extract=replace(cfg.extract, max_candidates=10))
    frame = find_candidates(crowded.build(), limited, pair_id="s__r")
    assert len(frame) == 10
    assert frame.attrs["dropped"] == 26


def test_extraction_is_fast(scene, cfg):
    view = scene(shape=(512, 512))
    for number in range(64):
        view.add(40 + 60 * (number % 8), 40 + 60 * (number // 8), 20)
    product = view.build()
    find_candidates(product, cfg, pair_id="s__r")

    def best(function):
        times = []
        for _ in range(5):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return min(times)

    assert best(lambda: find_peaks(product, cfg.extract)) < 0.06
    assert best(lambda: find_candidates(product, cfg, pair_id="s__r")) < 0.25


def test_a_candidate_knows_its_place_on_the_reference_where_that_is_of_its_instrument(crowded, cfg):
    product = replace(crowded.build(), to_reference=shifted(7.25, -3.5))
    product = replace(product, reference_info=replace(product.reference_info, detector="2"))
    frame = find_candidates(product, cfg, pair_id="s__r")
    np.testing.assert_allclose(frame[["x_reference", "y_reference"]], frame[["x", "y"]] + [7.25, -3.5])
    assert set(frame["reference_detector"]) == {"2"}
    foreign = replace(product, reference_info=replace(product.reference_info, instrument="other"))
    for unknown in (replace(product, to_reference=None), foreign):
        assert find_candidates(unknown, cfg, pair_id="s__r")[["x_reference", "y_reference"]].isna().all(axis=None)
