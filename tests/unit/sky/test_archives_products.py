from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from astrid.config.schema.archive import SearchConfig
from astrid.sky.archives import ArchiveFile, Event, Observation, open_archive
from astrid.sky.archives.mast import cloud_uri
from astrid.sky.archives.products import PRODUCTS, companions, fingerprint, merged, rows, wanted
from astrid.sky.manners import Manners

EVENT = Event("SN 2014J", 148.9, 69.7, 50000.0, 60000.0)
ARCHIVE = open_archive(
    "mast",
    SearchConfig(server="http://localhost", radius=30.0, before_days=1.0, after_days=1.0, chunk=1, parallel=1, rate=1.0, retries=0,
                 timeout=1.0, page=10, accept_failed=0.5),
    Manners(1.0, 0),
)  # fmt: skip
NAN = float("nan")


def plane(mission: str, **changes: Any) -> Observation:
    plain = Observation("7", mission, "INSTR", "archive's", 2, 55000.0, 55001.0, 300.0, 148.9, 69.7, "CIRCLE ICRS 148.9 69.7 1", "public")
    return dataclasses.replace(plain, **changes)


def files(*uris: str, **changes: Any) -> list[ArchiveFile]:
    return [dataclasses.replace(ArchiveFile("7", uri.rsplit("/", 1)[-1], uri, 100, 2, ""), **changes) for uri in uris]


def found(mission: str, *uris: str, event: Event = EVENT, **changes: Any) -> list[dict[str, Any]]:
    return merged(rows(ARCHIVE, event, [plane(mission, **changes)], files(*uris)))


def listed(table: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    return [(row["filter"], row["obs_id"], row["kind"], row["filename"]) for row in table]


def test_a_uvot_sky_image_comes_with_its_exposure_map_and_a_grism_image_not_at_all() -> None:
    base = "mast:SWIFT/00032819001/uvot/image/sw00032819001"
    table = found("swift", *(f"{base}{end}.img.gz" for end in ("uw1_sk", "uw1_ex", "uw1_rw", "ubb_sk", "ugu_sk")), f"{base}uuu_cat.fits.gz")
    assert listed(table) == [
        ("B", "sw00032819001ubb", "image", "sw00032819001ubb_sk.img.gz"),
        ("UVW1", "sw00032819001uw1", "companion", "sw00032819001uw1_ex.img.gz"),
        ("UVW1", "sw00032819001uw1", "image", "sw00032819001uw1_sk.img.gz"),
    ]


def test_a_uvot_file_that_is_not_compressed_counts_as_well() -> None:
    base = "mast:SWIFT/00032819001/uvot/image/sw00032819001uw1"
    assert [row["filename"] for row in found("swift", f"{base}_sk.img", f"{base}_ex.img")] == [
        "sw00032819001uw1_ex.img",
        "sw00032819001uw1_sk.img",
    ]


def test_a_galex_coadd_comes_before_its_visits_with_response_and_flags() -> None:
    main, visits = (
        "mast:GALEX/url/data/GR6/pipe/A/d/01-main/0001-img/07-try/A",
        "mast:GALEX/url/data/GR6/pipe/A/d/00-visits/0001-img/07-try/A_0001",
    )
    ends = ("nd-int", "nd-cnt", "nd-rrhr", "nd-flags", "nd-skybg", "fd-int", "ng-int")
    table = found("galex", *(f"{base}-{end}.fits.gz" for base in (visits, main) for end in ends))
    assert listed(table) == [
        ("FUV", "A-fd", "image", "A-fd-int.fits.gz"),
        ("NUV", "A-nd", "companion", "A-nd-flags.fits.gz"),
        ("NUV", "A-nd", "image", "A-nd-int.fits.gz"),
        ("NUV", "A-nd", "companion", "A-nd-rrhr.fits.gz"),
    ]
    assert [row["filename"] for row in found("galex", f"{visits}-nd-int.fits.gz")] == ["A_0001-nd-int.fits.gz"]


def test_a_band_has_the_exposure_time_of_its_own_line_in_the_archive() -> None:
    main = "mast:GALEX/url/data/GR6/pipe/A/d/01-main/0001-img/07-try/A"
    planes = [plane("galex", filters="FUV", exptime=100.0), plane("galex", filters="NUV", exptime=200.0)]
    table = merged(rows(ARCHIVE, EVENT, planes, files(f"{main}-nd-int.fits.gz", f"{main}-fd-int.fits.gz")))
    assert [(row["filter"], row["exptime"]) for row in table] == [("FUV", 100.0), ("NUV", 200.0)]


def test_panstarrs_stacks_and_warps_come_with_mask_and_variance_and_a_warp_with_its_own_date() -> None:
    warp = "mast:PS1/product/rings.v3.skycell.1334.061.wrp.r.55560_46188"
    table = found("ps1", f"{warp}.fits", f"{warp}.mask.fits", f"{warp}.wt.fits", f"{warp}.cmf", exptime=820.0)
    assert [row["kind"] for row in table] == ["image", "companion", "companion"]
    assert {row["t_min"] for row in table} == {55560.46188}
    assert {row["exptime"] for row in table} == {40.0}  # of one exposure in r; the archive's is the stack's
    assert table[0]["t_max"] == pytest.approx(55560.46188 + 40.0 / 86400.0)
    stack = "mast:PS1/product/rings.v3.skycell.1334.061.stk.g.unconv"
    table = found("ps1", *(f"{stack}.{end}" for end in ("fits", "mask.fits", "wt.fits", "exp.fits", "num.fits", "expwt.fits")))
    assert [row["filename"].removeprefix("rings.v3.skycell.1334.061.stk.g.unconv.") for row in table] == ["fits", "mask.fits", "wt.fits"]
    assert {row["filter"] for row in table} == {"g"}
    assert {row["exptime"] for row in table} == {300.0}


@pytest.mark.parametrize(
    ("there", "taken"),
    [(("raw", "flt", "flc", "drz", "drc"), "drc"), (("flt", "flc", "drz"), "drz"), (("flt", "flc"), "flc"), (("raw", "flt"), "flt")],
)
def test_the_best_hubble_product_is_taken(there: tuple[str, ...], taken: str) -> None:
    table = found("hst", *(f"mast:HST/product/jbf801010_{end}.fits" for end in there))
    assert [row["filename"] for row in table] == [f"jbf801010_{taken}.fits"]
    assert not found("hst", "mast:HST/product/jbf801010_raw.fits", "mast:HST/product/hst_1_01_acs_wfc_total_jbf801_drc.fits")


def test_a_webb_mosaic_comes_before_its_exposures() -> None:
    level3, level2 = "mast:JWST/product/jw01234-o001_t001_nircam_clear-f200w_i2d.fits", "mast:JWST/product/jw01234001001_02101_00001_nrcb1"
    assert [row["obs_id"] for row in found("jwst", f"{level2}_cal.fits", f"{level2}_i2d.fits", level3)] == [
        "jw01234-o001_t001_nircam_clear-f200w"
    ]
    assert [row["filename"][-8:] for row in found("jwst", f"{level2}_cal.fits", f"{level2}_i2d.fits")] == ["i2d.fits"]
    assert [row["filename"][-8:] for row in found("jwst", f"{level2}_cal.fits", f"{level2}_rate.fits")] == ["cal.fits"]


def test_one_full_frame_image_a_day_within_the_window_is_taken() -> None:
    # 2020-06-01 is day 153 and MJD 59001.
    clocks = ("2020153001000", "2020153004000", "2020154011000", "2020155000000", "2020156000000")
    uris = [f"mast:TESS/product/tess{clock}-s0026-1-1-0188-s_ffic.fits" for clock in clocks]
    event = dataclasses.replace(EVENT, first=59001.0, last=59003.5)
    table = found("tess", *uris, *(uri.replace("ffic", "ffir") for uri in uris), event=event, t_min=59000.0, t_max=59030.0, exptime=1425.6)
    assert [row["obs_id"][4:17] for row in table] == ["2020153001000", "2020154011000", "2020155000000"]
    assert table[0]["t_min"] == pytest.approx(59001.0 + 10 / 1440, abs=1e-8)
    assert table[0]["t_max"] - table[0]["t_min"] == pytest.approx(1425.6 / 86400)
    odd = "mast:TESS/product/tess2020999001000-s0026-1-1-0188-s_ffic.fits"  # no such day: the sector's time is used
    assert [row["t_min"] for row in found("tess", odd, t_min=55000.0, t_max=55030.0)] == [55000.0]


def test_what_the_archive_says_of_a_file_wins_over_what_it_says_of_the_observation() -> None:
    uri = "mast:HST/product/jbf801010_drc.fits"
    own = files(uri, rights="exclusive_access", calib_level=3)
    (row,) = rows(ARCHIVE, EVENT, [plane("hst")], own)
    assert (row["rights"], row["calib_level"]) == ("exclusive_access", 3)
    (row,) = rows(ARCHIVE, EVENT, [plane("hst", rights="restricted")], files(uri, calib_level=0))
    assert (row["rights"], row["calib_level"], row["instrument"], row["filter"]) == ("restricted", 2, "instr", "archive's")


def test_a_file_of_two_observations_and_one_listed_twice_is_one_row() -> None:
    uri = "mast:HST/product/jbf801010_drc.fits"
    twice = [*rows(ARCHIVE, EVENT, [plane("hst")], files(uri, uri)), *rows(ARCHIVE, EVENT, [plane("hst", number="8")], files(uri))]
    assert len(merged(twice)) == 1


def test_only_imagers_that_are_read_are_wanted() -> None:
    cases = {
        ("hst", "WFC3/UVIS"): True, ("hst", "ACS/WFC"): True, ("hst", "STIS/CCD"): False, ("hst", "WFPC2/PC"): True,
        ("jwst", "NIRCAM/IMAGE"): True, ("jwst", "NIRCAM"): True, ("jwst", "NIRCAM/CORON"): False, ("jwst", "NIRSPEC/MSA"): False,
        ("swift", "UVOT"): True,
    }  # fmt: skip
    assert {case: wanted(case[0], plane(case[0], instrument=case[1])) for case in cases} == cases


def test_companions_are_those_of_the_reader() -> None:
    assert "sw1uw1_ex.img.gz" in companions("swift", "sw1uw1_sk.img.gz")
    assert "x-nd-rrhr.fits" in companions("galex", "x-nd-int.fits.gz")
    assert {"a.mask.fits.fz", "a.wt.fits"} <= set(companions("ps1", "a.fits.fz"))
    assert companions("hst", "jbf801010_drc.fits") == []


def test_the_fingerprint_changes_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("swift")
    monkeypatch.setitem(PRODUCTS, "swift", dataclasses.replace(PRODUCTS["swift"], every=2.0))
    assert fingerprint("swift") != before


@pytest.mark.parametrize(
    ("mission", "uri", "key"),
    [
        ("hst", "mast:HST/product/u24r0102t_c1f.fits", "hst/public/u24r/u24r0102t/u24r0102t_c1f.fits"),
        (
            "ps1",
            "mast:PS1/product/rings.v3.skycell.1334.061.stk.r.unconv.exp.fits",
            "panstarrs/ps1/public/rings.v3.skycell/1334/061/rings.v3.skycell.1334.061.stk.r.unconv.exp.fits",
        ),
        (
            "tess",
            "mast:TESS/product/tess2018206192942-s0001-1-2-0120-s_ffic.fits",
            "tess/public/ffi/s0001/2018/206/1-2/tess2018206192942-s0001-1-2-0120-s_ffic.fits",
        ),
        (
            "jwst",
            "mast:JWST/product/jw02733002001_02101_00001_mirimage_cal.fits",
            "jwst/public/jw02733/jw02733002001/jw02733002001_02101_00001_mirimage_cal.fits",
        ),
        (
            "jwst",
            "mast:JWST/product/jw02727-o002_t062_nircam_clear-f277w_i2d.fits",
            "jwst/public/jw02727/L3/t/o002/jw02727-o002_t062_nircam_clear-f277w_i2d.fits",
        ),
        ("galex", "mast:GALEX/url/data/GR6/pipe/02-vsn/a-nd-int.fits.gz", "galex/GR6/pipe/02-vsn/a-nd-int.fits.gz"),
    ],
)
def test_keys_in_the_public_bucket(mission: str, uri: str, key: str) -> None:
    assert cloud_uri(mission, uri.rsplit("/", 1)[-1], uri) == f"s3://stpubdata/{key}"
    assert cloud_uri("swift", "sw1_sk.img.gz", "mast:SWIFT/sw1_sk.img.gz") == ""
    assert cloud_uri("jwst", "jw01345-c1018_t021_nircam_clear-f200w_i2d.fits", "mast:JWST/product/x") == ""  # of a candidate: not known
