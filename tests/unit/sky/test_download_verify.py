"""What counts as a whole file and as an image of an event, and what a .tar may hold."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from astrid.sky.download.unpack import unpack
from astrid.sky.download.verify import DamagedError, UnusableError, check_bytes, check_fits
from support.archive_server import small

HERE = (small.RA, small.DEC)


def check(folder: Path, content: bytes, target: tuple[float, float] | None = HERE, *, image: bool = True, sized: bool = False) -> None:
    path = folder / "file.part"
    path.write_bytes(content)
    check_fits(path, target, image=image, sized=sized)


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz"])
@pytest.mark.parametrize("sums", [True, False])
def test_whole_files_pass(tmp_path: Path, name: str, sums: bool) -> None:
    check(tmp_path, small.image(name, hdus=3, sums=sums))


def test_an_image_packed_as_bzip2_passes(tmp_path: Path) -> None:
    check(tmp_path, bz2.compress(small.image("a.fits")))


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.fits.fz"])
def test_a_file_cut_anywhere_is_damaged(tmp_path: Path, name: str) -> None:
    content = small.image(name, hdus=2)
    for share in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        with pytest.raises(DamagedError):
            check(tmp_path, content[: int(share * len(content))])
    with pytest.raises(DamagedError):
        check(tmp_path, content[:-1])


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
def test_bytes_behind_the_end_are_damage_unless_the_archive_has_them(tmp_path: Path, name: str) -> None:
    content = small.image(name)
    for extra in (b"\0", bytes(2880), b"garbage"):
        with pytest.raises(DamagedError, match=r"lie behind|packing is broken|ends in the middle"):
            check(tmp_path, content + extra)
        check(tmp_path, content + extra, sized=True)


def test_one_wrong_bit_is_found_by_the_sums(tmp_path: Path) -> None:
    content = bytearray(small.image("a.fits"))
    content[-3500] ^= 1
    with pytest.raises(DamagedError, match=r"(Datasum|Checksum) verification failed"):
        check(tmp_path, bytes(content))
    packed = bytearray(small.image("a.fits.gz"))
    packed[len(packed) // 2] ^= 4
    with pytest.raises(DamagedError, match="packing is broken"):
        check(tmp_path, bytes(packed))
    tiles = bytearray(small.image("a.fits.fz"))
    tiles[len(tiles.rstrip(b"\0")) - 10] ^= 1
    with pytest.raises(DamagedError, match="verification failed"):
        check(tmp_path, bytes(tiles))


def test_what_is_no_fits_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="it is not FITS"):
        check(tmp_path, b'{"error": "none"}' * 50)
    with pytest.raises(DamagedError, match="FITS"):
        check(tmp_path, gzip.compress(b"a page" * 500))


def test_a_header_against_the_standard_is_damage(tmp_path: Path) -> None:
    content = small.image("a.fits", sums=False, SOMEKEY=1)
    with pytest.raises(DamagedError, match="Illegal keyword name"):
        check(tmp_path, content.replace(b"SOMEKEY =", b"SOME E  ="))


def _image(data: Any, **cards: Any) -> bytes:
    hdu = fits.ImageHDU(np.asarray(data, np.float32))
    hdu.header.update({**small.cards(32), **cards})
    return small.pack("a.fits", [fits.PrimaryHDU(), hdu])


NOISE = np.random.default_rng(1).normal(0, 1, (32, 32))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_image(np.ones((32, 32))), "one value"),
        (_image(np.full((32, 32), np.nan)), "one value"),
        (small.pack("a.fits", [fits.PrimaryHDU(NOISE)]), "no celestial WCS"),
        (_image(NOISE, CTYPE1="LINEAR", CTYPE2="LINEAR"), "no celestial WCS"),
        (_image(NOISE, CTYPE1="RA---TAN", CTYPE2="GLAT-TAN"), "no celestial WCS"),
        (small.image("a", ra=150.1), "is not in its image"),
        (small.image("a", ra=330.0, dec=-2.0), "is not in its image"),  # the antipode
        (_image(np.where(np.hypot(*(np.mgrid[:32, :32] - 15.5)) < 4, np.nan, NOISE)), "no data around it"),
        (small.pack("a.fits", [fits.PrimaryHDU(NOISE[:8, :8])]), "no image of at least 16 x 16"),
        (small.pack("a.fits", [fits.PrimaryHDU()]), "no image of at least 16 x 16"),
    ],
)
def test_a_whole_file_may_be_of_no_use(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(UnusableError, match=why):
        check(tmp_path, content)
    check(tmp_path, content, image=False)  # as a companion it need only be readable


def test_the_event_may_lie_in_any_of_many_extensions(tmp_path: Path) -> None:
    parts = []
    for ra in (149.0, 150.0, 151.0):
        hdu = fits.ImageHDU(NOISE.astype(np.float32), name="SCI")
        hdu.header.update(small.cards(32, ra=ra))
        parts.append(hdu)
    table = fits.BinTableHDU.from_columns([fits.Column("T", "D", array=np.arange(5.0))])
    cube = fits.ImageHDU(np.zeros((3, 32, 32), np.int16), name="DQ")
    content = small.pack("a.fits", [fits.PrimaryHDU(), *parts, cube, table])
    check(tmp_path, content)
    check(tmp_path, content, (151.0, 2.0))
    with pytest.raises(UnusableError, match="is not in its image"):
        check(tmp_path, content, (152.0, 2.0))


@pytest.mark.parametrize("whole", [True, False])
def test_distortions_in_tables_are_read_where_they_are(tmp_path: Path, whole: bool) -> None:
    science = fits.ImageHDU(NOISE.astype(np.float32), name="SCI")
    science.header.update(small.cards(32))
    for axis in (1, 2):
        science.header[f"CPDIS{axis}"] = "LOOKUP"
        for word in ("EXTVER: 1", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2") if whole else ("EXTVER: 1",):
            science.header.append(fits.Card(f"DP{axis}", word), end=True)
    table = fits.ImageHDU(np.full((4, 4), 3.0, np.float32), name="WCSDVARR")  # px
    table.header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0, "CDELT1": 10.0, "CDELT2": 10.0})
    content = small.pack("a.fits", [fits.PrimaryHDU(), science, table])
    check(tmp_path, content)
    near = (small.RA, small.DEC + 15.0 / 3600)  # 15 px up; with the table the pixels lie 3 px lower
    far = (small.RA, small.DEC - 15.0 / 3600)
    check(tmp_path, content, near)
    if whole:
        with pytest.raises(UnusableError, match="is not in its image"):
            check(tmp_path, content, far)
    else:
        check(tmp_path, content, far)


def test_flags_that_vary_do_not_make_up_for_an_empty_image(tmp_path: Path) -> None:
    flat, flags = (
        fits.ImageHDU(np.zeros((32, 32), np.float32), name="SCI"),
        fits.ImageHDU(np.arange(1024, dtype=np.int16).reshape(32, 32), name="DQ"),
    )
    for hdu in (flat, flags):
        hdu.header.update(small.cards(32))
    with pytest.raises(UnusableError, match="one value"):
        check(tmp_path, small.pack("a.fits", [fits.PrimaryHDU(), flat, flags]))


@pytest.mark.parametrize("offset", [-15.9, -16.6, 15.9, 16.6])
def test_the_border_is_that_of_the_pixels(tmp_path: Path, offset: float) -> None:
    target = (small.RA, small.DEC + offset / 3600)
    if abs(offset) < 16:
        check(tmp_path, small.image("a"), target)
    else:
        with pytest.raises(UnusableError, match="is not in its image"):
            check(tmp_path, small.image("a"), target)


def test_size_and_checksum_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    check_bytes(path, 0, "")
    check_bytes(path, 3, "MD5:900150983CD24FB0D6963F7D28E17F72")
    with pytest.raises(DamagedError, match="3 bytes and the archive says 4"):
        check_bytes(path, 4, "")
    with pytest.raises(DamagedError, match="its sha1 is a9993e"):
        check_bytes(path, 3, "sha1:00")
    with pytest.raises(UnusableError, match="unknown kind 'crc99'"):
        check_bytes(path, 3, "crc99:00")
    path.write_bytes(b"")
    with pytest.raises(DamagedError, match="empty"):
        check_bytes(path, 0, "")


def tar(members: dict[str, bytes], *special: tarfile.TarInfo, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as made:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
        for entry in special:
            made.addfile(entry)
    return stream.getvalue()


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_a_tar_loses_the_folders_that_all_share(tmp_path: Path, mode: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar({"MAST_2024-01-01T0000/SWIFT/x/a.fits": b"1", "MAST_2024-01-01T0000/SWIFT/b.fits": b"22"}, mode=mode))
    found = unpack(archive, tmp_path / "out", 1e6)
    assert {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in found} == {"x/a.fits": b"1", "b.fits": b"22"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (tar({"../evil": b"1"}), "leads out of the folder"),
        (tar({"a/../../evil": b"1"}), "leads out of the folder"),
        (tar({"/tmp/evil": b"1"}), "leads out of the folder"),
        (tar({"..\\evil": b"1"}), "leads out of the folder"),
        (tar({"a": b"1"}, _special("link", tarfile.SYMTYPE, "/etc/passwd")), "no plain file"),
        (tar({"a": b"1"}, _special("link", tarfile.LNKTYPE, "a")), "no plain file"),
        (tar({"a": b"1"}, _special("pipe", tarfile.FIFOTYPE)), "no plain file"),
        (tar({"a": bytes(2000)}), "more than 1e-06 GB"),
        (tar({"a": b"1", "b": b"2", "./a": b"3"}), "stands twice"),
        (tar({}), "holds no file"),
    ],
)
def test_a_tar_that_is_not_safe_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    archive = tmp_path / "in" / "a.tar"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(UnusableError, match=why):
        unpack(archive, tmp_path / "in" / "out", 1000.0)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "in" / "evil").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_cut_off_is_damaged(tmp_path: Path, mode: str) -> None:
    content = tar({"a": bytes(3000), "b": bytes(range(256)) * 40}, mode=mode)
    archive = tmp_path / "a.tar"
    for share in (0.2, 0.6):
        archive.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DamagedError, match="tar"):
            unpack(archive, tmp_path / "out", 1e6)
