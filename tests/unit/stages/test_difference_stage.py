from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from astropy.wcs import WCS

from astrid.core.errors import ImagingError
from astrid.core.records import Calibrated, ExposureInfo, Psf
from astrid.io.fits import read_difference, write_calibrated
from astrid.io.tables import EXPOSURES, PAIRS, TRUTH, read_table, write_table
from astrid.stages import difference

ROOT = Path(__file__).parents[3]
SIZE, SIGMA = 128, 1.5
TRANSIENT = (70.3, 60.8)


def exposure(name: str, seed: int, *, instrument: str = "i", transient: float = 0.0, ra: float = 150.0) -> Calibrated:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    places = np.random.default_rng(3).uniform(14, SIZE - 14, (18, 2))
    fluxes = [*np.random.default_rng(4).uniform(4e3, 4e4, 18), transient]
    light = np.zeros((SIZE, SIZE))
    for (at_x, at_y), flux in zip([*places, TRANSIENT], fluxes, strict=True):
        light += flux * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    variance = light + 100.0
    axis = np.arange(-10, 11)
    stamp = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * SIGMA**2))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [64.0, 64.0]
    wcs.wcs.crval = [ra, 2.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    return Calibrated(
        data=(light + rng.normal(size=light.shape) * np.sqrt(variance)).astype(np.float32),
        variance=variance.astype(np.float32),
        dq=np.zeros(light.shape, np.uint32),
        wcs=wcs,
        info=ExposureInfo(name, "s", instrument, "d", "r", 59000.0, 30.0),
        psf=Psf((stamp / stamp.sum()).astype(np.float32), "given", fwhm=SIGMA * 2.3548),
        sky=100.0,
        sky_rms=10.0,
    )


def pair(science: str, reference: str, **changes: str) -> dict[str, object]:
    row = {"pair_id": f"{science}__{reference}", "science_id": science, "reference_id": reference, "survey": "s", "instrument": "i"}
    return {**row, "detector": "d", "filter": "r", "mjd": 59000.0, "status": "ok", "reason": "", **changes}


def settings(folder: Path, **changes: object) -> None:
    imaging = yaml.safe_load((ROOT / "conf/imaging/default.yaml").read_text())
    imaging["difference"]["gate"].update(changes)
    imaging["report"]["worst"] = 0
    (folder / "params.yaml").write_text(
        yaml.safe_dump({"imaging": imaging, "compute": {"workers": 1, "memory_gb": 0, "retries": 2, "dask": None}})
    )


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A good pair, one of two instruments, one off the sky, one quarantined exposure, one unknown, one refused before."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/calibrated"
    products = [
        exposure("new", 1, transient=8000.0),
        exposure("old", 2),
        exposure("other", 3, instrument="j"),
        exposure("far", 4, ra=151.0),
    ]
    for product in products:
        write_calibrated(folder / f"{product.info.exposure_id}.fits", product)
    rows = [{"exposure_id": p.info.exposure_id, "path": "x", "role": "science", "status": "ok", "reason": ""} for p in products]
    rows.append({"exposure_id": "sick", "path": "", "role": "science", "status": "quarantined", "reason": "it is broken."})
    frame = pd.DataFrame(rows).assign(survey="s", instrument="i", filter="r", mjd=59000.0)
    write_table(frame, folder / "exposures.parquet", EXPOSURES)
    pairs = [pair("new", name) for name in ("old", "other", "far", "sick", "unheard")]
    pairs.append(pair("lone", "", status="refused", reason="no reference was found."))
    write_table(pd.DataFrame(pairs), tmp_path / "data/pairs/pairs.parquet", PAIRS)
    truth = pd.DataFrame(
        {
            "object_id": ["sn", "ray", "gone"],
            "kind": ["supernova", "cosmic_ray", "supernova"],
            "exposure_id": "new",
            "s_ra": 150.0,
            "s_dec": 2.0,
            "x": [TRANSIENT[0], 20.0, 30.0],
            "y": [TRANSIENT[1], 20.0, 30.0],
            "flux": [8000.0, 500.0, 0.0],
        }
    )
    write_table(truth, tmp_path / "data/raw/truth.parquet", TRUTH)
    settings(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_pair_gets_a_status_and_the_good_one_a_product(project):
    difference.main()
    made = read_table(project / "data/difference/pairs.parquet", PAIRS).set_index("reference_id")
    assert made["status"].to_dict() == {
        "old": "ok", "other": "refused", "far": "refused", "sick": "quarantined", "unheard": "quarantined", "": "refused",
    }  # fmt: skip
    assert "differ in instrument" in made.loc["other", "reason"]
    assert "exposure sick is quarantined: it is broken." in made.loc["sick", "reason"]
    assert "not in data/calibrated" in made.loc["unheard", "reason"]
    assert made.loc["", "reason"] == "no reference was found."
    assert made.loc["old", "q_overlap"] == pytest.approx(1.0, abs=0.05)
    assert np.isnan(made.loc["far", "q_overlap"])
    products = sorted(path.name for path in (project / "data/difference").glob("*.fits"))
    assert products == ["new__old.fits"]
    summary = json.loads((project / "reports/difference.json").read_text())
    assert summary["status"] == {"ok": 1, "quarantined": 2, "refused": 3}
    assert summary["median"]["registration_rms_px"] < 0.2


def test_the_transient_is_in_the_truth_plane_and_in_the_score(project):
    difference.main()
    out = read_difference(project / "data/difference/new__old.fits")
    column, row = round(TRANSIENT[0]), round(TRANSIENT[1])
    assert out.truth.sum() == 1
    assert out.truth[row, column] == 1
    assert out.score[row, column] > 20
    near = out.flux[row, column]
    assert abs(near - 8000.0) < 5 * out.flux_err[row, column] + 0.1 * 8000


def test_running_again_does_nothing_and_new_truth_does(project, monkeypatch):
    difference.main()
    before = contents(project / "data/difference")
    with monkeypatch.context() as patched:
        patched.setattr(difference, "_subtract_one", lambda job: pytest.fail(f"{job.key} was done again"))
        difference.main()
    assert contents(project / "data/difference") == before
    (project / "data/raw/truth.parquet").unlink()
    difference.main()
    assert read_difference(project / "data/difference/new__old.fits").truth.sum() == 0


def test_a_fatal_gate_refuses_and_a_lenient_one_marks(project):
    settings(project, min_matched=10_000)
    difference.main()
    table = read_table(project / "data/difference/pairs.parquet", PAIRS).set_index("reference_id")
    assert "fewer than 10000" in table.loc["old", "q_reasons"]
    assert json.loads((project / "reports/difference.json").read_text())["marked_by_gate"] == 1
    settings(project, min_matched=10_000, fatal=True)
    with pytest.raises(ImagingError, match="none of the 6 pairs could be subtracted"):
        difference.main()
    table = read_table(project / "data/difference/pairs.parquet", PAIRS).set_index("reference_id")
    assert table.loc["old", "status"] == "refused"
    assert not list((project / "data/difference").glob("*.fits"))


def test_the_report_lists_every_pair_and_has_a_page_of_the_marked(project):
    settings(project, min_matched=10_000)
    pages = project / "reports/difference"
    pages.mkdir(parents=True)
    (pages / "stale.png").touch()
    difference.main()
    assert sorted(path.name for path in pages.iterdir()) == ["index.html", "new__old.png", "overview.png"]
    html = (pages / "index.html").read_text()
    assert '<a href="new__old.png">' in html
    assert "fewer than 10000" in html
    assert "exposure sick is quarantined: it is broken." in html
    before = contents(pages)
    difference.main()
    assert contents(pages) == before


@pytest.mark.parametrize(("worst", "pages"), [(0, []), (3, ["new__old.png"])])
def test_an_unmarked_pair_has_a_page_when_it_is_among_the_worst(project, worst, pages):
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["imaging"]["report"]["worst"] = worst
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    difference.main()
    assert sorted(path.name for path in (project / "reports/difference").iterdir()) == ["index.html", *pages, "overview.png"]


def test_the_memory_of_a_pair_is_bounded_from_both_sides(tmp_path):
    small, large = tmp_path / "s", tmp_path / "l"
    small.write_bytes(b"0" * 1000)
    with large.open("wb") as file:
        file.truncate(2_000_000_000)
    least, most = difference.memory_needed(small, small), difference.memory_needed(large, large)
    assert 0.2e9 < least < 0.4e9
    assert most < 2e9


def test_a_corrupt_product_is_quarantined_by_name(project):
    path = project / "data/calibrated/other.fits"
    content = bytearray(path.read_bytes())
    content[20000] ^= 1
    path.write_bytes(content)
    difference.main()
    table = read_table(project / "data/difference/pairs.parquet", PAIRS).set_index("reference_id")
    assert table.loc["other", "status"] == "quarantined"
    assert "checksum of HDU" in table.loc["other", "reason"]


def test_truth_outside_the_image_is_left_out(project):
    difference.main()
    out = read_difference(project / "data/difference/new__old.fits")
    marked = difference.with_truth(replace(out, truth=None), ((-3.0, 5.0), (5.0, 500.0), (5.4, 6.6)))
    assert np.argwhere(marked.truth).tolist() == [[7, 5]]
