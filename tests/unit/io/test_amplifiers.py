from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from astrid.core.dq import DQ
from astrid.core.errors import InputError
from astrid.io.amplifiers import mosaic, numbered_amplifiers
from astrid.io.images import read_frames
from support.missions import image_hdu, save, wcs_cards

NY, NX, WIDE = 40, 30, 6


def test_lettered_sections_of_one_image_are_channels() -> None:
    cards = {
        "DATASECA": "[7:36,1:40]", "DATASECB": "[37:66,1:40]", "BIASSECA": "[1:6,1:40]", "BIASSECB": "[67:72,1:40]",
        "GAINA": 4.0, "GAINB": 4.2, "RDNOISEA": 7.0, "RDNOISEB": 8.0, "SATURATA": 4e4, "SATURATB": 5e4,
    }  # fmt: skip
    first, second = numbered_amplifiers(fits.Header(cards))
    assert (first.name, second.name) == ("A", "B")
    assert (first.data[1], first.place[1], first.overscan[1]) == (slice(6, 36), slice(0, 30), slice(0, 6))
    assert (second.data[1], second.place[1]) == (slice(36, 66), slice(30, 60))
    assert (second.gain, second.read_noise, second.saturation) == (4.2, 8.0, 5e4)
    assert numbered_amplifiers(fits.Header({"DATASECA": "[7:36,1:40]", "GAINA": 4.0})) == ()
    with pytest.raises(InputError, match=r"the section '\[7\]' is not of the form"):
        numbered_amplifiers(fits.Header({**cards, "DATASECB": "[7]"}))


def parts(**changes: Any) -> tuple[list[Any], np.ndarray]:
    """Two extensions of one CCD, the second read from its other end; the WCS counts from the first one's own pixels."""
    truth = np.random.default_rng(1).normal(50, 5, (NY, 2 * NX)).astype(np.float32)
    hdus: list[Any] = [fits.PrimaryHDU()]
    for index in range(2):
        half = truth[:, index * NX : (index + 1) * NX]
        frame = np.concatenate([half if index == 0 else half[:, ::-1], np.zeros((NY, WIDE), np.float32)], axis=1)
        place = "[1:30,1:40]" if index == 0 else "[60:31,1:40]"
        cards = {
            "CCDNAME": "ccd1", "DETSEC": place, "DATASEC": "[1:30,1:40]", "BIASSEC": "[31:36,1:40]", "GAIN": 2.0 + index, "RDNOISE": 5.0,
            "EXTNAME": f"im{index + 1}", **wcs_cards(1.0, 40), **changes,
        }  # fmt: skip
        hdus.append(image_hdu(frame, **cards))
    return hdus, truth


def assembled(frame: np.ndarray, amplifiers: Any) -> np.ndarray:
    out = np.zeros((NY, 2 * NX), np.float32)
    for amplifier in amplifiers:
        out[amplifier.place] = frame[amplifier.data]
    return out


def test_extensions_of_one_detector_are_joined_and_turned_upright(tmp_path: Path) -> None:
    hdus, truth = parts()
    path = save(tmp_path / "raw.fits", *hdus)
    for hdu in ("", "im2"):
        frames = read_frames(path, hdu=hdu)
        assert [one.name for one in frames.amplifiers] == ["im1", "im2"]
        assert (assembled(frames.data, frames.amplifiers) == truth).all()
        assert [one.gain for one in frames.amplifiers] == [2.0, 3.0]
        for one in frames.amplifiers:
            assert not frames.data[one.overscan].any()
        assert frames.wcs.all_world2pix([[150.0, 2.0]], 0)[0] == pytest.approx([19.0, 19.0])


def test_binning_and_other_detectors_are_minded(tmp_path: Path) -> None:
    hdus, truth = parts(CCDSUM="2 2")
    hdus[1].header["DETSEC"], hdus[2].header["DETSEC"] = "[2001:2060,1:80]", "[2120:2061,1:80]"
    stranger = hdus[2].copy()
    stranger.header["CCDNAME"] = "ccd2"
    joined = mosaic(fits.HDUList([*hdus, stranger]), 1)
    assert joined is not None
    assert (assembled(joined.data, joined.amplifiers) == truth).all()
    assert mosaic(fits.HDUList([*hdus, stranger]), 3) is None


def test_a_mirrored_detector_turns_its_wcs(tmp_path: Path) -> None:
    hdus, _ = parts()
    hdus[1].header["DETSEC"], hdus[2].header["DETSEC"] = "[30:1,1:40]", "[60:31,1:40]"
    joined = mosaic(fits.HDUList(hdus), 1)
    assert joined is not None
    assert joined.header["CRPIX1"] == NX + WIDE + 1 - 20
    assert joined.header["CDELT1"] == pytest.approx(1.0 / 3600.0)
    hdus[1].header["CTYPE1"] = "RA---TPV"
    with pytest.raises(InputError, match="every amplifier of this detector is mirrored"):
        mosaic(fits.HDUList(hdus), 1)


def test_amplifiers_of_other_sizes_are_refused() -> None:
    hdus, _ = parts()
    hdus[2].data = hdus[2].data[:-1]
    with pytest.raises(InputError, match="the amplifiers of detector ccd1 have 2 sizes"):
        mosaic(fits.HDUList(hdus), 1)


def test_a_master_frame_brings_its_exposure_time_and_variance(tmp_path: Path) -> None:
    data = np.random.default_rng(2).normal(50, 5, (NY, NX)).astype(np.float32)
    path = save(tmp_path / "raw.fits", image_hdu(data, fits.PrimaryHDU))
    dark = save(
        tmp_path / "dark.fits", image_hdu(data, fits.PrimaryHDU, EXPTIME=300.0), fits.ImageHDU(np.full_like(data, 0.5), name="UNCERT")
    )
    frames = read_frames(path, dark=dark)
    assert frames.dark_exptime == 300.0
    assert (frames.variances["dark"] == 0.25).all()
    assert (frames.dark == data).all()
    lost = save(tmp_path / "lost.fits", fits.PrimaryHDU(np.full((NY, NX), np.nan, np.float32)))
    with pytest.raises(InputError, match=r"the master flat .* holds no finite value"):
        read_frames(path, flat=lost)


def test_flags_beside_a_raw_frame_are_read_by_the_names_of_their_bits(tmp_path: Path) -> None:
    data = np.random.default_rng(2).normal(50, 5, (NY, NX)).astype(np.float32)
    given = np.zeros((NY, NX), np.int16)
    given[3, 4], given[5, 6], given[7, 8] = 1, 2, 4
    image = fits.PrimaryHDU(data, fits.Header(wcs_cards(1.0, 40)))
    for cards, expected in (
        ({"DQBIT0": "PERSISTENCE", "DQBIT1": "HOT", "DQBIT2": "FLUFF"}, [DQ.PERSISTENCE, DQ.HOT, 0]),
        ({"DQBIT1": "CROSSTALK"}, [0, DQ.CROSSTALK, 0]),
    ):
        dq = read_frames(save(tmp_path / "raw.fits", image, image_hdu(given, EXTNAME="DQ", **cards))).dq
        assert dq is not None
        assert dq.dtype == np.uint32
        assert [int(dq[place]) for place in ((3, 4), (5, 6), (7, 8))] == [int(bit) for bit in expected]
        assert np.count_nonzero(dq) == sum(bit != 0 for bit in expected)
    for name, cards in (("DQ", {}), ("DQ", {"DQBIT0": "FLUFF"}), ("FLAGS", {"DQBIT0": "HOT"})):
        assert read_frames(save(tmp_path / "raw.fits", image, image_hdu(given, EXTNAME=name, **cards))).dq is None
