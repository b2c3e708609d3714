"""The small files that the test archive delivers are what the readers of the missions take them for."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from astrid.io.images import list_exposures, read_frames
from support.archive_server.missions import Content, Supernova, archive_tar, product, tile_compressed
from support.archive_server.queries import Observation, observation

RA, DEC, DISCOVERY = 210.8, 54.3, 57000.0
NAMES = {"swift": "00032819001", "galex": "AIS_1", "ps1": "1334.061", "hst": "ibxx01010", "jwst": "jw01234-o001_t001", "tess": "12"}


def one(mission: str, day: float) -> Observation:
    days = 1.0 if mission == "tess" else 0.01
    return observation(mission, NAMES[mission], RA, DEC, mjd=DISCOVERY + day, days=days, exptime=400.0)


def written(folder: Path, sky: Content) -> list[Path]:
    paths = []
    for uri in sky._by_uri:
        path = folder / uri.rsplit("/", 1)[-1]
        content = sky(uri)
        assert content
        path.write_bytes(content)
        paths.append(path)
    return paths


IMAGE = {
    "swift": "_sk.img.gz",
    "galex": "-int.fits.gz",
    "ps1": ".unconv.fits",
    "hst": "_drc.fits",
    "jwst": "_i2d.fits",
    "tess": "_ffic.fits",
}


@pytest.mark.parametrize("mission", NAMES)
def test_a_mission_file_is_read_as_its_mission(tmp_path: Path, mission: str) -> None:
    sky = one(mission, 5.0)
    paths = written(tmp_path, Content([sky], [Supernova(RA, DEC, DISCOVERY)]))
    image = next(path for path in paths if path.name.endswith(IMAGE[mission]))
    listings = list_exposures(image, "")
    assert len(listings) == (2 if mission == "swift" else 1)
    identity = listings[-1].identity
    assert identity is not None
    assert (identity.survey, identity.filter) == (mission, sky.filters)
    assert sky.t_min - 0.01 <= identity.mjd <= sky.t_max + 0.01
    x, y = listings[-1].wcs.world_to_pixel_values(RA, DEC)
    frames = read_frames(image)
    at = frames.data[round(float(y)) - 1 : round(float(y)) + 2, round(float(x)) - 1 : round(float(x)) + 2]
    assert at.max() > np.median(frames.data) + 10 * 1.4826 * np.median(np.abs(frames.data - np.median(frames.data)))  # the supernova
    assert frames.archive is not None
    if mission in ("swift", "galex"):
        assert frames.archive.exposure is not None


def test_the_supernova_is_in_the_later_image_only() -> None:
    events = [Supernova(RA, DEC, DISCOVERY)]
    before, after = (Content([one("hst", day)], events) for day in (-30.0, 5.0))
    uri = next(uri for uri in before._by_uri if uri.endswith("_drc.fits"))
    without = Content([one("hst", 5.0)])
    assert before(uri) != after(uri) != without(uri)
    assert after("mast:HST/product/other.fits") is None


def test_compressed_and_bundled_forms(tmp_path: Path) -> None:
    plain = product(one("hst", 5.0), "ibxx01010_flc.fits", [Supernova(RA, DEC, DISCOVERY)])
    packed = tmp_path / "ibxx01010_flc.fits.fz"
    packed.write_bytes(tile_compressed(plain))
    (tmp_path / "ibxx01010_flc.fits").write_bytes(plain)
    both = [read_frames(tmp_path / name, hdu="1") for name in ("ibxx01010_flc.fits", packed.name)]
    assert np.array_equal(both[0].data, both[1].data)
    with tarfile.open(fileobj=io.BytesIO(archive_tar({"a/ibxx01010_flc.fits": plain}))) as tar:
        assert tar.getnames() == ["a/ibxx01010_flc.fits"]
        assert tar.extractfile("a/ibxx01010_flc.fits").read() == plain  # type: ignore[union-attr]
