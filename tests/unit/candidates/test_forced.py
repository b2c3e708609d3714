from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from astrid.candidates.forced import force, light_curve
from astrid.commands import forced as command
from astrid.core.dq import DQ
from astrid.core.errors import InputError
from astrid.io.fits import write_difference
from astrid.io.tables import LIGHTCURVES, read_table


@pytest.mark.parametrize("sigma", [0.85, 1.1, 1.7])
def test_the_flux_between_pixels_is_unbiased(scene, cfg, sigma):
    """FWHM 2 px and wider, at every place within the pixel, without noise: below 0.3 per cent."""
    view = scene(sigma=sigma, noise=1e-3)
    rng = np.random.default_rng(2)
    grid = np.arange(25, 240, 30)
    x, y = (axis.ravel() + rng.uniform(-0.5, 0.5, axis.size) for axis in np.meshgrid(grid, grid))
    for at in zip(x, y, strict=True):
        view.science += 1000 * view.source(*at)
    ratio = force(view.build(), x, y, cfg.forced).flux / 1000
    assert abs(ratio.mean() - 1) < 0.003
    assert np.abs(ratio - 1).max() < 0.006


def test_blank_positions_have_no_flux_and_the_right_error(scene, cfg):
    view = scene(shape=(512, 512))
    rng = np.random.default_rng(5)
    x, y = rng.uniform(30, 480, (2, 600))
    found = force(view.build(), x, y, cfg.forced)
    pull = found.flux / found.flux_err
    assert np.mean(pull**2) == pytest.approx(1.0, abs=0.12)
    np.testing.assert_allclose(found.flux_err, view.flux_error, rtol=1e-5)
    assert np.median(found.chi2) == pytest.approx(1.0, abs=0.1)
    assert (found.masked_fraction == 0).all()


def test_a_blemish_beside_the_source_is_counted_and_leaves_the_flux(scene, cfg):
    view = scene()
    view.add(100.3, 99.6, 50)
    clean = force(view.build(), np.array([100.3]), np.array([99.6]), cfg.forced)
    product = view.build()
    for plane in (product.flux, product.flux_err, product.difference):
        plane[98:102, 102:104] = np.nan
    view.dq[98:102, 102:104] = DQ.BAD
    hurt = force(product, np.array([100.3]), np.array([99.6]), cfg.forced)
    assert hurt.flux[0] == pytest.approx(clean.flux[0], abs=0.5 * clean.flux_err[0])
    assert 0.02 < hurt.masked_fraction[0] < 0.3


def test_positions_without_pixels_have_no_flux(scene, cfg):
    view = scene()
    product = view.build()
    product.flux[90:111, 90:111] = np.nan
    view.dq[90:111, 90:111] = DQ.NO_COVERAGE
    found = force(product, np.array([100.0, -40.0]), np.array([100.0, 50.0]), cfg.forced)
    assert np.isnan(found.flux).all()
    assert np.isnan(found.flux_err).all()
    np.testing.assert_array_equal(found.masked_fraction, [1.0, 1.0])


def test_a_neighbour_is_not_taken_for_the_source(scene, cfg):
    view = scene()
    view.add(100, 100, 400)
    found = force(view.build(), np.array([112.4]), np.array([100.2]), cfg.forced)
    assert abs(found.flux[0]) < 4 * found.flux_err[0]


def curve(product, cfg, *places):
    ra, dec = product.wcs.all_pix2world(*np.array(places).T, 0)
    return light_curve(product, [f"p{row}" for row in range(len(places))], ra, dec, cfg.forced, pair_id="s__r")


def test_detections_limits_and_flags(scene, cfg):
    view = scene()
    view.add(100, 100, 40)
    view.add(50, 180, -20)
    view.dq[200:212, 200:212] = DQ.BAD
    rows = curve(view.build(), cfg, (100, 100), (50, 180), (150, 60), (205, 205), (3, 40))
    assert list(rows.columns) == [column.name for column in LIGHTCURVES.columns]
    assert list(rows["detected"][:3]) == [True, True, False]
    assert rows["flux"][1] < 0
    assert np.isnan(rows["upper_limit"][:2]).all()
    assert rows["upper_limit"][2] == pytest.approx(3 * view.flux_error, rel=1e-4)
    assert [list(flags) for flags in rows["flags"]] == [[], [], [], ["masked"], ["edge"]]
    assert list(rows["usable"]) == [True, True, True, False, True]
    assert set(rows["unit"]) == {"electron"}
    five = curve(view.build(), replace(cfg, forced=replace(cfg.forced, sigma=50.0)), (100, 100))
    assert not five["detected"][0]
    assert five["upper_limit"][0] == pytest.approx(50 * view.flux_error, rel=1e-4)


def test_positions_elsewhere_on_the_sky_have_no_row(scene, cfg):
    product = scene().build()
    rows = light_curve(
        product, ["away", "antipode", "pole"], np.array([151.0, 330.0, 0.0]), np.array([2.0, -2.0, 90.0]), cfg.forced, pair_id="p"
    )
    assert len(rows) == 0
    assert list(rows.columns) == [column.name for column in LIGHTCURVES.columns]


@pytest.fixture
def products(scene, tmp_path):
    paths = []
    for number, snr in enumerate((0, 30, 15)):
        view = scene(seed=number)
        view.add(100.4, 90.3, snr)
        product = view.build()
        info = replace(product.info, mjd=60000.0 + number, exposure_id=f"s{number}", filter="gr"[number % 2])
        paths.append(tmp_path / f"s{number}__r.fits")
        write_difference(paths[-1], replace(product, info=info))
    ra, dec = view.build().wcs.all_pix2world(100.4, 90.3, 0)
    return paths, float(ra), float(dec)


def test_the_command_writes_the_light_curve_and_its_picture(products, cfg, tmp_path, capsys):
    paths, ra, dec = products
    output, picture = tmp_path / "curve.parquet", tmp_path / "curve.png"
    command.forced(paths, output, at=[f"{ra},{dec}"], positions=None, cfg=cfg.forced, picture=picture)
    rows = read_table(output, LIGHTCURVES)
    assert list(rows["filter"]) == ["g", "g", "r"]
    assert list(rows["mjd"]) == [60000.0, 60002.0, 60001.0]
    assert list(rows["detected"]) == [False, True, True]
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "3 points of 1 positions, 2 detected" in printed
    assert f"{rows['snr'][1]:+7.1f}" in printed


def test_positions_come_from_a_table_too_and_a_broken_product_is_left_out(products, cfg, tmp_path):
    paths, ra, dec = products
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = no")
    pd.DataFrame({"name": ["A", "far"], "ra": [ra, 10.0], "dec": [dec, -60.0]}).to_csv(tmp_path / "positions.csv", index=False)
    output = tmp_path / "curve.parquet"
    command.forced([*paths, tmp_path / "broken.fits"], output, at=[], positions=tmp_path / "positions.csv", cfg=cfg.forced, picture=None)
    assert list(read_table(output, LIGHTCURVES)["position_id"]) == ["A", "A", "A"]


def test_sexagesimal_positions_are_understood(products, cfg, tmp_path):
    paths, _, _ = products
    output = tmp_path / "curve.parquet"
    command.forced(paths[:1], output, at=["10:00:00.4,+02:00:03"], positions=None, cfg=cfg.forced, picture=None)
    assert read_table(output, LIGHTCURVES)["s_ra"][0] == pytest.approx(150.0 + 0.4 / 240)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ([], "no position is given; name one with --at"),
        (["150.0"], "the position '150.0' is not RA,DEC"),
        (["a,b"], "the position 'a,b' is not RA,DEC"),
        (["10.0,-60.0"], r"none of the 1 positions lies in one of the 3 products"),
    ],
)
def test_wrong_positions_are_named(products, cfg, tmp_path, at, message):
    with pytest.raises(InputError, match=message):
        command.forced(products[0], tmp_path / "out.parquet", at=at, positions=None, cfg=cfg.forced, picture=None)


def test_no_readable_product_is_an_error(cfg, tmp_path):
    with pytest.raises(InputError, match=r"none of the 1 products can be read\. The first: .*absent\.fits"):
        command.forced([tmp_path / "absent.fits"], tmp_path / "out.parquet", at=["1,2"], positions=None, cfg=cfg.forced, picture=None)
