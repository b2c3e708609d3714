import gzip
import io
import tarfile

import fastavro
import numpy as np
import pytest
from astropy.io import fits

from astrid.core.errors import InputError
from astrid.core.records import Problem, Triplet
from astrid.io.alerts import alert_files, read_alerts
from astrid.io.cutouts import CutoutError, read_cutout

CUTOUT = {
    "type": "record",
    "name": "cutout",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
SCHEMA = {
    "type": "record",
    "name": "alert",
    "namespace": "ztf",
    "fields": [
        {"name": "publisher", "type": "string"},
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {
            "name": "candidate",
            "type": {
                "type": "record",
                "name": "candidate",
                "fields": [{"name": "jd", "type": "double"}, {"name": "isdiffpos", "type": ["null", "string"], "default": None}],
            },
        },
        {"name": "cutoutScience", "type": ["null", CUTOUT], "default": None},
        {"name": "cutoutTemplate", "type": ["null", "cutout"], "default": None},
        {"name": "cutoutDifference", "type": ["null", "cutout"], "default": None},
    ],
}


def image(value, size=63, dtype=np.float32):
    data = np.full((size, size), value, dtype)
    data[size // 2, size // 2] = value + 100
    return data


def fits_bytes(data, *, compressed=False, **cards):
    stream = io.BytesIO()
    hdu = fits.CompImageHDU(data, compression_type="GZIP_2", quantize_level=0) if compressed else fits.PrimaryHDU(data)
    hdu.header.update(cards)
    hdus = fits.HDUList([fits.PrimaryHDU(), hdu] if compressed else [hdu])
    hdus.writeto(stream)
    return stream.getvalue()


def packed(data, **options):
    return gzip.compress(fits_bytes(data, **options), mtime=0)


def alert(candid=1, sign="t", object_id="ZTF18aaaaaaa", publisher="ZTF", **cutouts):
    stamps = {"cutoutScience": packed(image(1)), "cutoutTemplate": packed(image(2)), "cutoutDifference": packed(image(3))} | cutouts
    wrapped = {name: None if data is None else {"fileName": "x.fits.gz", "stampData": data} for name, data in stamps.items()}
    return {
        "publisher": publisher,
        "objectId": object_id,
        "candid": candid,
        "candidate": {"jd": 2458000.5, "isdiffpos": sign},
        **wrapped,
    }


def avro(*records, schema=SCHEMA, codec="null"):
    stream = io.BytesIO()
    fastavro.writer(stream, schema, records, codec=codec)
    return stream.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def only(path):
    (reading,) = read_alerts([path])
    return reading


def test_an_alert_becomes_three_stamps_in_order(tmp_path):
    triplet = only(write(tmp_path / "a.avro", avro(alert(7))))
    assert isinstance(triplet, Triplet)
    assert (triplet.candidate_id, triplet.object_id, triplet.survey, triplet.sign) == ("7", "ZTF18aaaaaaa", "ZTF", 1)
    assert triplet.stamps.dtype == np.float32
    assert triplet.stamps[:, 0, 0].tolist() == [1, 2, 3]
    assert triplet.stamps[:, 31, 31].tolist() == [101, 102, 103]
    assert triplet.meta == {"source": str(tmp_path / "a.avro"), "jd": 2458000.5}


@pytest.mark.parametrize(("value", "sign"), [("t", 1), ("1", 1), ("f", -1), ("0", -1)])
def test_a_faded_ztf_source_keeps_its_turned_difference(tmp_path, value, sign):
    triplet = only(write(tmp_path / "a.avro", avro(alert(sign=value))))
    assert triplet.sign == sign
    assert triplet.stamps[2, 31, 31] == 103


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy"])
def test_a_file_of_many_records_gives_one_reading_each(tmp_path, codec):
    records = [alert(1), alert(2, cutoutTemplate=None), alert(3)]
    readings = list(read_alerts([write(tmp_path / "many.avro", avro(*records, codec=codec))]))
    assert [r.candidate_id for r in readings] == ["1", "2", "3"]
    assert readings[1].reason == "the alert has no cutoutTemplate."
    assert (readings[1].object_id, readings[1].survey) == ("ZTF18aaaaaaa", "ZTF")


@pytest.mark.parametrize(("size", "cut"), [(61, slice(1, 62)), (81, slice(None))])
def test_other_sizes_keep_the_source_in_the_middle_pixel(tmp_path, size, cut):
    stamps = {name: packed(image(k, size)) for k, name in enumerate(("cutoutScience", "cutoutTemplate", "cutoutDifference"))}
    triplet = only(write(tmp_path / "a.avro", avro(alert(object_id="PGIR19a", publisher="pgirdps", **stamps))))
    assert triplet.survey == "PGIR"
    assert triplet.stamps[:, 31, 31].tolist() == [100, 101, 102]
    assert np.isfinite(triplet.stamps[:, cut, cut]).all()
    assert np.isfinite(triplet.stamps).sum() == 3 * min(size, 63) ** 2


@pytest.mark.parametrize(
    ("object_id", "publisher", "survey"),
    [("ZTF20a", "Fink", "ZTF"), ("WNTR24a", "WINTER-mirar", "WINTER"), ("None.20", "turbo", "TURBO"), ("x", "ZTF (www.ztf)", "ZTF")],
)
def test_surveys_are_known_by_object_or_publisher(tmp_path, object_id, publisher, survey):
    assert only(write(tmp_path / "a.avro", avro(alert(object_id=object_id, publisher=publisher)))).survey == survey


def lsst_alert(flux):
    fields = [
        {"name": "diaSourceId", "type": "long"},
        {
            "name": "diaSource",
            "type": {
                "type": "record",
                "name": "source",
                "fields": [{"name": "psfFlux", "type": "double"}, {"name": "diaObjectId", "type": "long"}],
            },
        },
        *({"name": f"cutout{name}", "type": "bytes"} for name in ("Science", "Template", "Difference")),
    ]
    record = {"diaSourceId": 5, "diaSource": {"psfFlux": flux, "diaObjectId": 6}}
    record |= {f"cutout{name}": fits_bytes(image(-3)) for name in ("Science", "Template", "Difference")}
    return avro(record, schema={"type": "record", "name": "alert", "fields": fields})


@pytest.mark.parametrize(("flux", "sign"), [(-5.0, -1), (5.0, 1)])
def test_rubins_difference_is_turned_by_the_sign_of_the_flux(tmp_path, flux, sign):
    triplet = only(write(tmp_path / "a.avro", lsst_alert(flux)))
    assert (triplet.candidate_id, triplet.object_id, triplet.survey, triplet.sign) == ("5", "6", "LSST", sign)
    assert triplet.stamps[:, 0, 0].tolist() == [-3, -3, -3 * sign]


def test_a_flux_that_is_not_finite_has_no_sign(tmp_path):
    assert "no finite psfFlux" in only(write(tmp_path / "a.avro", lsst_alert(float("nan")))).reason


def test_a_schema_with_an_invalid_default_is_still_read(tmp_path):
    content = avro(alert())
    broken = content.replace(b'"default": null', b'"default": 1e99', 1)
    assert broken != content
    assert isinstance(only(write(tmp_path / "a.avro", broken)), Triplet)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (alert(sign=None), "isdiffpos is None"),
        (alert(sign="maybe"), "isdiffpos is 'maybe'"),
        (alert(object_id="X1", publisher="me"), "survey is not known"),
        (alert(cutoutDifference=None), "no cutoutDifference"),
        (alert(cutoutScience=b""), "no cutoutScience"),
        (alert(cutoutScience=b"\xff\xd8\xff\xe0JFIF"), "cutoutScience is a JPEG picture, not FITS"),
        (alert(cutoutScience=packed(image(1))[:-30]), "cutoutScience is not a whole gzip file"),
        (alert(cutoutScience=b"\x1f\x8bnonsense"), "cutoutScience is not readable gzip"),
        (alert(cutoutScience=gzip.compress(b"hello")), "cutoutScience is not a readable FITS file"),
        (alert(cutoutScience=gzip.compress(bytes(5 << 20))), "more than 4194304 bytes"),
        (alert(cutoutTemplate=packed(image(1, 55))), "cutoutTemplate has 55x55 pixels"),
        (alert(cutoutTemplate=packed(np.ones((63, 51), np.float32))), "cutoutTemplate has 63x51 pixels"),
        (alert(cutoutTemplate=packed(np.full((63, 63), np.nan, np.float32))), "cutoutTemplate has no finite pixel"),
        (alert(cutoutTemplate=packed(np.ones(5, np.float32))), "without a two-dimensional image"),
    ],
)
def test_a_bad_record_is_a_problem_of_one_sentence_and_the_rest_go_on(tmp_path, record, reason):
    readings = list(read_alerts([write(tmp_path / "a.avro", avro(record, alert(2)))]))
    assert isinstance(readings[0], Problem)
    assert reason in readings[0].reason
    assert readings[0].reason.endswith(".")
    assert "\n" not in readings[0].reason
    assert readings[1].candidate_id == "2"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html><body>404</body></html>", "not an Avro file, it begins with b'<htm'"),
        (avro(alert())[:200], "no alert can be read"),
        (avro(alert())[:-2000], "no alert can be read"),
        (
            avro({"a": 1}, schema={"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}),
            "neither a candidate nor a diaSource",
        ),
        (avro(3, schema={"type": "int"}), "a record is a int, not an alert"),
    ],
    ids=["empty", "html", "cut in its header", "cut in its data", "another record", "no record"],
)
def test_a_broken_file_is_a_problem_and_the_next_file_is_read(tmp_path, content, reason):
    bad, good = write(tmp_path / "a.avro", content), write(tmp_path / "b.avro", avro(alert(2)))
    first, second = read_alerts([bad, good])
    assert reason in first.reason
    assert first.source == str(bad)
    assert second.candidate_id == "2"


def test_a_file_cut_between_blocks_gives_its_first_alerts_and_a_problem(tmp_path):
    stream = io.BytesIO()
    fastavro.writer(stream, SCHEMA, [alert(k) for k in range(1, 7)], sync_interval=1)
    content = stream.getvalue()
    readings = list(read_alerts([write(tmp_path / "a.avro", content[: len(content) // 2])]))
    assert [r.candidate_id for r in readings[:-1]] == [str(k) for k in range(1, len(readings))]
    assert len(readings) > 2
    assert f"breaks off after {len(readings) - 1} alerts" in readings[-1].reason


def test_damaged_bytes_never_raise(tmp_path):
    content = avro(alert(1), alert(2), codec="deflate")
    rng = np.random.default_rng(1)
    kinds = set()
    for trial in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 1 + trial % 4):
            damaged[place] = rng.integers(256)
        readings = list(read_alerts([write(tmp_path / f"{trial}.avro", bytes(damaged))]))
        kinds |= {type(reading) for reading in readings}
        assert all(isinstance(reading, Triplet | Problem) for reading in readings)
    assert Problem in kinds


NOTHING = {"type": "record", "name": "nothing", "fields": [{"name": "a", "type": "null"}]}


@pytest.mark.parametrize("items", ["null", NOTHING, {"type": "fixed", "name": "none", "size": 0}])
def test_an_array_whose_count_alone_would_fill_the_memory_is_refused(tmp_path, items):
    schema = {"type": "record", "name": "alert", "fields": [{"name": "many", "type": ["null", {"type": "array", "items": items}]}]}
    reading = only(write(tmp_path / "a.avro", avro({"many": None}, schema=schema)))
    assert "an array of items that take no bytes" in reading.reason


def test_records_that_take_no_bytes_are_refused(tmp_path):
    assert "its records take no bytes" in only(write(tmp_path / "a.avro", avro({"a": None}, schema=NOTHING))).reason


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_archives_are_read_member_by_member(tmp_path):
    path = tar(
        tmp_path / "night.tar.gz", {"x/1.avro": avro(alert(1)), "readme.txt": b"hello", "2.avro": b"<html>", "3.avro": avro(alert(3))}
    )
    first, second, third = read_alerts([path])
    assert first.meta["source"] == f"{path}!x/1.avro"
    assert second.source == f"{path}!2.avro"
    assert "not an Avro file" in second.reason
    assert third.candidate_id == "3"


def test_an_archive_broken_in_the_middle_gives_what_came_before(tmp_path):
    rng = np.random.default_rng(0)
    members = {f"{k}.avro": avro(alert(k, cutoutScience=packed(rng.normal(size=(63, 63))))) for k in range(8)}
    path = tar(tmp_path / "night.tar.gz", members)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    good = write(tmp_path / "z.avro", avro(alert(99)))
    readings = list(read_alerts([tmp_path]))
    assert next(r.candidate_id for r in readings if isinstance(r, Triplet)) == "0"
    assert any(r.source == str(path) and "breaks off after" in r.reason for r in readings if isinstance(r, Problem))
    assert readings[-1].meta["source"] == str(good)


@pytest.mark.parametrize(("members", "reason"), [({"a.txt": b"x"}, "holds no .avro file"), (None, "breaks off after 0 alert files")])
def test_an_archive_without_alerts_says_so(tmp_path, members, reason):
    path = write(tmp_path / "a.tar.gz", b"junk") if members is None else tar(tmp_path / "a.tar.gz", members)
    assert reason in only(path).reason


def test_folders_are_read_recursively_in_name_order(tmp_path):
    for name in ("b/2.avro", "a/1.avro", "c.txt"):
        write(tmp_path / name, avro(alert(int(name[2]) if name[2].isdigit() else 0)))
    assert [path.name for path in alert_files(tmp_path)] == ["1.avro", "2.avro"]
    assert [r.candidate_id for r in read_alerts([tmp_path])] == ["1", "2"]


def test_an_empty_folder_is_a_problem_and_an_absent_path_a_mistake(tmp_path):
    assert "holds no .avro file" in only(tmp_path).reason
    with pytest.raises(InputError, match="does not exist"):
        list(read_alerts([tmp_path / "nothing"]))


@pytest.mark.parametrize(
    "content",
    [
        fits_bytes(image(5)),
        fits_bytes(image(5, dtype=np.float64)),
        fits_bytes(image(5, dtype=np.int16)),
        fits_bytes(image(5), compressed=True),
        gzip.compress(fits_bytes(image(5)), mtime=0),
        fits_bytes(image(5), **{f"KEY{k}": k for k in range(40)}),
    ],
    ids=["float32", "float64", "int16", "fpacked", "gzipped", "long header"],
)
def test_every_kind_of_fits_gives_the_same_stamp(content):
    np.testing.assert_array_equal(read_cutout(content, "x"), image(5))


def test_scaled_images_are_scaled():
    content = fits_bytes(image(5), SCALED=2.0).replace(b"SCALED  =", b"BSCALE  =")
    np.testing.assert_array_equal(read_cutout(content, "x"), 2 * image(5))


def test_infinite_pixels_become_nan_and_a_truncated_plain_file_is_refused():
    data = image(5)
    data[0, 0] = np.inf
    assert np.isnan(read_cutout(fits_bytes(data), "x")[0, 0])
    with pytest.raises(CutoutError, match="x is not a readable FITS file"):
        read_cutout(fits_bytes(image(5))[:4000], "x")


def test_the_number_that_stands_for_no_coverage_is_masked(tmp_path):
    reference = image(2)
    reference[:20] = -np.finfo(np.float32).max
    triplet = only(write(tmp_path / "a.avro", avro(alert(cutoutTemplate=packed(reference)))))
    assert np.isnan(triplet.stamps[1, :20]).all()
    assert np.isfinite(triplet.stamps[1, 20:]).all()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"cutoutScience": None}, "no cut-out"),
        ({"cutoutScience": packed(image(1, 55))}, "wrong size"),
        ({"cutoutScience": b"not gzip"}, "broken cut-out"),
        ({"sign": "maybe"}, "broken record"),
    ],
)
def test_a_problem_says_of_what_sort_it_is(tmp_path, changes, kind):
    assert only(write(tmp_path / "a.avro", avro(alert(**changes)))).kind == kind
