"""Every mission's product, in its own shape, as AstrID reads it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from astrid.core.dq import DQ, names
from astrid.core.errors import InputError
from astrid.io.images import list_exposures, read_frames
from astrid.io.missions import is_companion, mission_of
from astrid.io.missions.galex import GALEX
from astrid.io.missions.hst import HST
from astrid.io.missions.jwst import JWST, flagged
from astrid.io.missions.panstarrs import PANSTARRS, linear, mask_bits
from astrid.io.missions.tess import TESS
from astrid.io.missions.uvot import UVOT
from support import missions as made


def at(dq: np.ndarray, y: int, x: int) -> list[str]:
    return names(int(dq[y, x]))


def test_every_mission_claims_its_own_file_and_no_other(tmp_path: Path) -> None:
    files = {
        UVOT: made.uvot(tmp_path), GALEX: made.galex(tmp_path), PANSTARRS: made.panstarrs(tmp_path)[0], HST: made.hst(tmp_path),
        JWST: made.jwst(tmp_path), TESS: made.tess(tmp_path),
    }  # fmt: skip
    for mission, path in files.items():
        with fits.open(path) as hdus:
            headers = [hdu.header for hdu in hdus]
            assert mission_of(hdus) is mission
        assert [other.name for other in files if other.claims(headers)] == [mission.name]


def test_a_file_of_no_mission_is_read_by_its_keywords(tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(10, 1, (40, 40)).astype(np.float32)
    path = made.save(tmp_path / "a.fits", made.image_hdu(data, fits.PrimaryHDU, TELESCOP="JWST", INSTRUME="NIRCAM"))
    frames = read_frames(path)
    assert frames.archive is None
    assert (frames.data == data).all()
    with pytest.raises(InputError, match="of no known mission, so that the meaning of the exposure map"):
        read_frames(path, exposure=path)


def test_uvot_snapshots_are_exposures_with_their_own_maps(tmp_path: Path) -> None:
    path = made.uvot(tmp_path)
    listed = list_exposures(path)
    assert [one.hdu for one in listed] == ["1", "2", "3"]
    assert [one.identity.exptime for one in listed] == [100.0, 600.0, 300.0]
    assert {one.identity.filter for one in listed} == {"UVW1"}
    assert listed[0].identity.mjd == pytest.approx(51910 + (4.0e8 + 50 - 5) / 86400, abs=1e-6)
    assert listed[0].siblings["exposure"].name == "sw00032081001uw1_ex.img.gz"
    for one in listed:
        archive = read_frames(path, hdu=one.hdu).archive
        assert archive is not None
        assert archive.exposure.max() == pytest.approx(one.identity.exptime, rel=0.35)
        assert archive.exposure.max() > 0.7 * one.identity.exptime
        assert archive.counting
        assert (archive.gain, archive.notes["coincidence"]) == (1.0, "not corrected")
    assert read_frames(path).archive.identity.exptime == 600.0  # the longest where none is named


def test_uvot_coincidence_is_flagged_where_the_detector_is_too_slow(tmp_path: Path) -> None:
    faint = read_frames(made.uvot(tmp_path, star=0.5), hdu="2").archive
    assert not (faint.dq & np.uint32(DQ.SUSPECT | DQ.SATURATED)).any()
    busy = read_frames(made.uvot(tmp_path, star=30.0), hdu="2").archive
    assert (busy.dq & np.uint32(DQ.SUSPECT)).any()
    assert not (busy.dq & np.uint32(DQ.SATURATED)).any()
    full = read_frames(made.uvot(tmp_path, star=150.0), hdu="2").archive
    assert (full.dq & np.uint32(DQ.SATURATED)).any()
    # -ln(1 - alpha x) / alpha of Poole et al. 2008 at 30 counts/s and 0.0110322 s, over the 5 arcsec that hold all of a star here
    x = 0.9842 * 30 * 0.85 * 0.0110322
    assert busy.notes["coincidence_loss_max"] == pytest.approx(1 + x / np.log1p(-x), rel=0.2)


def test_galex_response_is_the_counts_a_unit(tmp_path: Path) -> None:
    frames = read_frames(made.galex(tmp_path))
    archive = frames.archive
    assert (archive.identity.filter, archive.identity.unit, archive.identity.survey) == ("NUV", "count/s", "galex")
    assert archive.identity.mjd == pytest.approx(44244 + (7.5e8 + 75) / 86400)
    seen = archive.exposure > 0
    counts = frames.data[seen] * archive.gain[seen]
    assert np.abs(counts - np.round(counts)).max() < 1e-3
    assert at(archive.dq, 80, 80) == at(archive.dq, 87, 87) == ["HOT"]
    assert at(archive.dq, 40, 48) == ["SUSPECT"]
    assert at(archive.dq, 88, 80) == []
    assert read_frames(made.galex(tmp_path, kind="cnt")).archive.gain == 1.0


def test_panstarrs_stacks_are_made_linear_and_warps_are_left(tmp_path: Path) -> None:
    path, flux = made.panstarrs(tmp_path)
    frames = read_frames(path)
    archive = frames.archive
    assert frames.data == pytest.approx(flux, rel=1e-4, abs=1e-2)
    assert (archive.identity.filter, archive.identity.instrument, archive.identity.mjd) == ("i", "gpc1", 56000.25)
    assert np.median(archive.variance) == pytest.approx(64.0, rel=0.01)
    found = [at(archive.dq, *place) for place in ((20, 21), (30, 31), (41, 41), (60, 61), (0, 0))]
    assert found == [["SATURATED"], ["COSMIC_RAY"], ["NO_COVERAGE"], ["SUSPECT"], []]
    warp, flux = made.panstarrs(tmp_path, stacked=False)
    assert read_frames(warp).data == pytest.approx(flux, rel=1e-5, abs=1e-4)
    assert read_frames(warp).archive.identity.mjd == pytest.approx(56000.25 + 400 / 86400)


def test_panstarrs_mask_bits_follow_the_header_that_names_them() -> None:
    header = fits.Header(
        [("MSKNAM00", "MASK.SAT"), ("MSKVAL00", 1), ("MSKNAM01", "CR"), ("MSKVAL01", 2), ("MSKNAM02", "ODD"), ("MSKVAL02", 4)]
    )
    assert mask_bits(header) == {1: DQ.SATURATED, 2: DQ.COSMIC_RAY}
    assert mask_bits(fits.Header())[0x20] == DQ.SATURATED
    burnt = [("MSKNAM00", "SUSPECT"), ("MSKVAL00", 128), ("MSKNAM01", "MASK.BURNTOOL"), ("MSKVAL01", 256)]
    assert mask_bits(fits.Header(burnt)) == {128: DQ.SUSPECT, 256: DQ.PERSISTENCE}
    shared = [*burnt[:3], ("MSKVAL01", 128)]
    assert mask_bits(fits.Header(shared)) == mask_bits(fits.Header([*shared[2:], *shared[:2]])) == {128: DQ.SUSPECT}
    assert linear(np.array([[1.0]]), fits.Header())[0, 0] == 1.0
    scaled = fits.Header([("BOFFSET", 5.0), ("BSOFTEN", 2.0)])
    assert linear(np.array([[0.0, 2.5 / np.log(10.0)]]), scaled)[0] == pytest.approx([5.0, 5.0 + 4.0 * np.sinh(1.0)])


def test_hst_chips_are_exposures_with_error_and_flags(tmp_path: Path) -> None:
    path = made.hst(tmp_path)
    listed = list_exposures(path)
    assert [one.identity.detector for one in listed] == ["UVIS2", "UVIS1"]
    archive = read_frames(path, hdu=listed[1].hdu).archive
    assert (archive.gain, archive.identity.unit, archive.identity.filter) == (1.0, "electron", "F606W")
    assert archive.identity.mjd == pytest.approx(59000.005)
    assert archive.done == ("bias", "dark", "flat")
    found = [at(archive.dq, 8 + 2 * step, 9 + 2 * step) for step in range(1, 6)]
    assert found == [["SATURATED"], ["COSMIC_RAY"], ["HOT"], ["COSMIC_RAY"], ["SUSPECT"]]


@pytest.mark.parametrize("name", ["WCSDVARR", "D2IMARR", ""])
def test_hst_distortions_in_tables_move_the_pixels(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = read_frames(made.hst(tmp_path), hdu="1").wcs
    path = made.with_tables(made.hst(tmp_path))
    if name:
        with fits.open(path) as hdus:
            fits.HDUList([hdu for hdu in hdus if hdu.name != name]).writeto(path, overwrite=True)
    frames, listed = read_frames(path, hdu="1"), list_exposures(path)
    assert len(listed) == 2
    assert frames.header["CPDIS2"] == "LOOKUP"
    sky = plain.all_pix2world([[40.0, 50.0]], 0)
    for wcs in (frames.wcs, listed[0].wcs, pickle.loads(pickle.dumps(frames.wcs))):
        moved = 0.0 if name else -0.8  # both tables count, or neither
        assert wcs.all_world2pix(sky, 0)[0] == pytest.approx([40.0, 50.0 + moved], abs=1e-3)
    assert ("its tables of distortions cannot be read" in caplog.text) == bool(name)


def test_hst_infrared_rates_carry_their_seconds(tmp_path: Path) -> None:
    frames = read_frames(made.hst(tmp_path, infrared=True))
    archive = frames.archive
    assert archive.identity.unit == "electron/s"
    assert np.median(archive.gain) == 500.0
    assert at(archive.dq, 16, 17) == ["SUSPECT"]  # a cosmic ray that the ramp fit took out
    assert np.median(archive.variance) == pytest.approx((60 + 3.1**2) / 500.0**2, rel=0.1)


def test_hst_drizzled_weight_is_relative_exposure(tmp_path: Path) -> None:
    archive = read_frames(made.hst_drizzled(tmp_path)).archive
    assert archive.variance is None
    assert archive.identity.filter == "F814W"
    assert not archive.exposure[:5].any()
    assert archive.gain[100, 10] / archive.gain[100, 150] == pytest.approx(4.0)


def test_jwst_flags_keep_the_cause_of_a_lost_pixel(tmp_path: Path) -> None:
    archive = read_frames(made.jwst(tmp_path)).archive
    assert (archive.identity.filter, archive.identity.unit, archive.identity.mjd) == ("F162M", "MJy/sr", 59885.5)
    assert archive.done == ("dark", "flat")
    found = [at(archive.dq, 8 + 2 * step, 9 + 2 * step) for step in range(1, 8)]
    assert found == [
        ["SATURATED", "SUSPECT"], ["SUSPECT"], ["BAD"], ["NO_COVERAGE"], ["COSMIC_RAY", "SUSPECT"], ["SUSPECT"], ["BAD"],
    ]  # fmt: skip
    assert archive.variance[7, 8] == 0
    resampled = read_frames(made.jwst(tmp_path, resampled=True)).archive
    assert at(resampled.dq, 30, 2) == ["NO_COVERAGE"]
    lit = flagged(np.array([[32, 1 | 32, 2 | 32, 0]]))  # PERSISTENCE alone, not to be used, saturated late
    assert [at(lit, 0, column) for column in range(4)] == [["PERSISTENCE"], ["BAD", "PERSISTENCE"], ["SUSPECT", "PERSISTENCE"], []]


def test_tess_images_are_cut_to_their_exposed_pixels(tmp_path: Path) -> None:
    frames = read_frames(made.tess(tmp_path))
    archive = frames.archive
    assert frames.data.shape == archive.variance.shape == (made.SIZE, made.SIZE)
    assert frames.wcs.all_world2pix([[150.0, 2.0]], 0)[0] == pytest.approx([made.SIZE / 2 - 1, made.SIZE / 2 - 1])
    assert archive.gain == pytest.approx(0.0165 * 86400)
    assert (archive.identity.detector, archive.identity.filter, archive.identity.field_id) == ("2.3", "TESS", "s0012")
    assert archive.identity.mjd == pytest.approx(1600.01 + 2457000 - 2400000.5)
    assert not archive.dq.any()
    assert at(read_frames(made.tess(tmp_path, quality=32)).archive.dq, 5, 5) == ["SUSPECT"]


def test_companions_are_known_by_their_names() -> None:
    folder = ["sw1_sk.img.gz", "A-nd-int.fits.gz", "A-nd-cnt.fits.gz", "B-nd-cnt.fits.gz"]
    companions = ("sw00012_ex.img.gz", "A-nd-rrhr.fits.gz", "A-nd-cnt.fits.gz", "rings.v3.skycell.1.2.stk.i.unconv.wt.fits")
    assert all(is_companion(Path(name), folder) for name in companions)
    exposures = ("sw00012_sk.img.gz", "B-nd-cnt.fits.gz", "rings.v3.skycell.1.2.stk.i.unconv.fits", "mine.wt.fits", "x_flc.fits")
    assert not any(is_companion(Path(name), folder) for name in exposures)


def test_what_does_not_fit_or_is_no_exposure_says_so(tmp_path: Path) -> None:
    path = made.jwst(tmp_path)
    with pytest.raises(InputError, match="has no extension '9'"):
        read_frames(path, hdu="9")
    with pytest.raises(InputError, match="does not exist"):
        list_exposures(tmp_path / "gone.fits")
    sky = made.uvot(tmp_path)
    small = made.save(tmp_path / "small.fits", made.image_hdu(np.ones((20, 20), np.float32), fits.PrimaryHDU))
    with pytest.raises(InputError, match=r"the exposure map of .* has 20 x 20 pixels but its image has 160 x 160"):
        read_frames(sky, hdu="1", exposure=small)
    empty = made.save(tmp_path / "empty.fits", fits.PrimaryHDU(), fits.BinTableHDU.from_columns([]))
    with pytest.raises(InputError, match=r"the exposure file .* holds no image"):
        read_frames(sky, hdu="1", exposure=empty)
    headers = fits.PrimaryHDU()
    headers.header.update({"TELESCOP": "SWIFT", "INSTRUME": "UVOTA"})
    bare = made.save(tmp_path / "bare.fits", headers)
    for read in (read_frames, list_exposures):
        with pytest.raises(InputError, match="holds no exposure of swift"):
            read(bare)
