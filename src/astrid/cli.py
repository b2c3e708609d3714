"""`astrid …`: parses and calls; every verb is a plain function in `astrid.commands`, imported when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from astrid import __version__
from astrid.cli_groups import existing, labels, registry, target
from astrid.core.runtime import configure_logging, exit_codes
from astrid.core.threads import hold_to_one_thread

if TYPE_CHECKING:
    from astrid.commands.exposure import PairCompanions

CONF = Path("conf")
PARAMS = Path("params.yaml")

_COMPANIONS = {  # fields of commands.exposure.PairCompanions
    "science_psf": "PSF stamp of the science image; estimated when absent.",
    "reference_psf": "PSF stamp of the reference; estimated when absent.",
    "science_noise": "1-sigma noise image of the science image.",
    "reference_noise": "1-sigma noise image of the reference.",
    "science_mask": "Mask of the science image, non-zero = bad.",
    "reference_mask": "Mask of the reference, non-zero = bad.",
}


def with_companions(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options for what stands beside the images of a pair; it gets them as one argument, `companions`."""

    @wraps(verb)
    def gathered(**given: Any) -> None:
        from astrid.commands.exposure import PairCompanions

        verb(companions=PairCompanions(**{name: given.pop(name) for name in _COMPANIONS}), **given)

    for name, text in reversed(_COMPANIONS.items()):
        gathered = click.option(f"--{name.replace('_', '-')}", type=existing, help=text)(gathered)
    return gathered


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="astrid")
@click.option("--json-logs", is_flag=True, help="Log one JSON object a line to standard error.")
def cli(json_logs: bool) -> None:
    """From raw telescope images to a deployed real/bogus classifier for supernovae."""
    configure_logging(json_logs=json_logs)


@cli.command()
def doctor() -> None:
    """Say what this machine has, and what is missing.

    Packages, accelerators, compilers and stores, a line each. Exit code 2 when something is missing without which AstrID
    cannot work.
    """
    from astrid.commands.doctor import doctor as run

    raise SystemExit(run())


@cli.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 2 when params.yaml is stale.")
@click.option("--conf", type=existing, default=CONF, show_default=True, help="Folder of the configuration groups.")
@click.argument("overrides", nargs=-1)
def params(check: bool, conf: Path, overrides: tuple[str, ...]) -> None:
    """Compose conf/ into params.yaml.

    OVERRIDES are Hydra's, e.g. split=temporal train.epochs=5. Without any, params.yaml is what conf/ says.
    """
    from astrid.commands.params import params as run

    run(conf, PARAMS, overrides, check=check)


@cli.command()
@click.argument("science", type=existing)
@click.argument("reference", type=existing)
@click.option("-o", "--output", type=target, required=True, help="Difference product to write (FITS).")
@with_companions
@click.option("--picture", type=target, help="Also write a PNG of science, reference, difference and score.")
@click.option("-S", "--set", "overrides", multiple=True, help="Change a setting, e.g. imaging.difference.allow_cross_mission=true.")
def subtract(
    science: Path, reference: Path, output: Path, companions: PairCompanions, picture: Path | None, overrides: tuple[str, ...]
) -> None:
    """Calibrate, align and properly subtract one pair of FITS images.

    Either image is a raw frame (with an overscan section), an image that its archive has calibrated, or a calibrated product of
    AstrID. Nothing is written when the pair cannot be subtracted.
    """
    from astrid.commands.settings import section
    from astrid.commands.subtract import subtract as run
    from astrid.config.schema import ImagingConfig

    imaging = section(ImagingConfig, "imaging", overrides)
    run(science, reference, output, calibrate=imaging.calibrate, difference=imaging.difference, companions=companions, picture=picture)


@cli.command()
@click.argument("product", type=existing)
@click.option("-o", "--output", type=target, required=True, help="Candidate table to write (Parquet).")
@click.option("--triplets", type=click.Path(path_type=Path, file_okay=False), help="Also write 63x63 triplets into this folder.")
@click.option("--picture", type=target, help="Also write a PNG of the candidates over the score image.")
@click.option("-S", "--set", "overrides", multiple=True, help="Change a setting, e.g. candidates.extract.threshold=6.")
def detect(product: Path, output: Path, triplets: Path | None, picture: Path | None, overrides: tuple[str, ...]) -> None:
    """Find, measure and tag the candidates of one difference product.

    PRODUCT is what `astrid subtract` or the stage difference wrote. The strongest candidates are printed.
    """
    from astrid.commands.detect import detect as run
    from astrid.commands.settings import section
    from astrid.config.schema import CandidatesConfig

    run(product, output, cfg=section(CandidatesConfig, "candidates", overrides), triplets=triplets, picture=picture)


@cli.command()
@click.argument("products", type=existing, nargs=-1, required=True)
@click.option("-o", "--output", type=target, required=True, help="Table of light curves to write (Parquet).")
@click.option("--at", multiple=True, help="Position RA,DEC in degrees or sexagesimal, ICRS; may be given again.")
@click.option("--positions", type=existing, help="Table of positions (csv, ecsv or parquet) with a name for each.")
@click.option("--picture", type=target, help="Also write a PNG of flux against time.")
@click.option("-S", "--set", "overrides", multiple=True, help="Change a setting, e.g. candidates.forced.sigma=5.")
def forced(
    products: tuple[Path, ...], output: Path, at: tuple[str, ...], positions: Path | None, picture: Path | None, overrides: tuple[str, ...]
) -> None:
    """Measure the flux at given positions on difference products: light curves with upper limits.

    PRODUCTS are what `astrid subtract` or the stage difference wrote, of one field or of many.
    """
    from astrid.commands.forced import forced as run
    from astrid.commands.settings import section
    from astrid.config.schema import CandidatesConfig

    cfg = section(CandidatesConfig, "candidates", overrides).forced
    run(list(products), output, at=at, positions=positions, cfg=cfg, picture=picture)


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "-o", "--output", type=target, required=True, help="Catalogue to write (Parquet); lists of merged and refused rows lie beside."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["sncat", "osc", "tns", "table", "vizier"]),
    help="Format of the sources, once for all or once each; detected when absent.",
)
@click.option("-S", "--set", "overrides", multiple=True, help="Change a setting, e.g. survey.archive.catalog.match_radius=2.")
def catalog(sources: tuple[str, ...], output: Path, formats: tuple[Any, ...], overrides: tuple[str, ...]) -> None:
    """Compile catalogues of supernovae into one table.

    A SOURCE is a file (csv export of TNS or the Open Supernova Catalog, a pipe-delimited sncat text, a table of your own as csv,
    parquet or ecsv) or a catalogue's name in VizieR, e.g. B/sn/sncat. Where several know an event, the earlier one wins field by
    field. Settings are those of `survey=mast`.
    """
    from astrid.commands.catalog import catalog as run
    from astrid.commands.settings import section
    from astrid.config.schema.archive import CatalogConfig

    cfg = section(CatalogConfig, "survey.archive.catalog", ["survey=mast", *overrides])
    run(sources, output, formats=formats, cfg=cfg)


@cli.command()
@click.argument("exposures", type=existing)
@click.option("-o", "--output", type=target, required=True, help="Table of moving objects to write (Parquet).")
@click.option("--radius", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Of the cone a field, deg.")
@click.option("--location", default="500", show_default=True, help="IAU code of the observatory; 500 = the geocentre.")
def asteroids(exposures: Path, output: Path, radius: float, location: str) -> None:
    """Fetch the known moving objects in the fields of a table of exposures from SkyBoT.

    Needs a network. `candidates.moving.asteroids` names the table to the stage detect.
    """
    from astrid.commands.asteroids import asteroids as run

    run(exposures, output, radius=radius, location=location)


@cli.command()
@click.argument("image", type=existing)
@click.option("-o", "--output", type=target, required=True, help="Image with the transients added (FITS).")
@click.option("--truth", type=target, required=True, help="Truth table to write (Parquet).")
@click.option("-n", "--number", type=click.IntRange(min=1), default=50, show_default=True, help="Transients to add.")
@click.option("--snr", type=(float, float), default=(4.0, 40.0), show_default=True, help="Range of matched-filter S/N.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of positions and fluxes.")
@click.option("--psf", type=existing, help="PSF stamp; estimated when absent.")
@click.option("--noise", type=existing, help="1-sigma noise image.")
def inject(image: Path, output: Path, truth: Path, psf: Path | None, noise: Path | None, **drawn: Any) -> None:
    """Add point sources of known flux to an image.

    Writes the image as a calibrated product, which `astrid subtract` takes, and a truth table of what was added where.
    """
    from astrid.commands.inject import inject as run
    from astrid.commands.settings import section
    from astrid.config.schema import ImagingConfig

    calibrate = section(ImagingConfig, "imaging").calibrate
    run(image, output, truth, psf=psf, noise=noise, calibrate=calibrate, **drawn)


@cli.command("inject-pair")
@click.argument("science", type=existing)
@click.argument("reference", type=existing)
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="New folder to write.")
@click.option("--bogus", type=click.FloatRange(0, 1), help="Nothing has changed in this pair: its own detections are bogus, this surely.")
@with_companions
@click.option("-S", "--set", "overrides", multiple=True, help="Change a setting, e.g. injection.copies=4.")
def inject_pair(
    science: Path, reference: Path, folder: Path, companions: PairCompanions, bogus: float | None, overrides: tuple[str, ...]
) -> None:
    """Make labelled triplets of a pair: point sources of known flux in copies of it, and its own detections.

    Sources that brighten go into the science image, fading ones into the reference. The folder gets the difference products, what was
    injected, the candidates, their labels and a triplet store. Settings are those of `injection=default`.
    """
    from astrid.commands.inject_pair import Rooms
    from astrid.commands.inject_pair import inject_pair as run
    from astrid.commands.settings import section
    from astrid.config.schema import CandidatesConfig, DatasetConfig, ImagingConfig, InjectionConfig

    rooms = Rooms(
        section(ImagingConfig, "imaging", overrides),
        section(InjectionConfig, "injection", ["injection=default", *overrides]),
        section(CandidatesConfig, "candidates", overrides),
        section(DatasetConfig, "dataset", overrides),
    )
    run(science, reference, folder, rooms=rooms, companions=companions, bogus_confidence=bogus)


@cli.command()
@click.argument("inputs", type=existing, nargs=-1, required=True)
@click.option("-o", "--output", type=target, required=True, help="Score table to write: Parquet, or CSV where it ends in .csv.")
@click.option("--model", default="models/export", show_default=True, help="Model folder, or models:/NAME@ALIAS of the registry.")
@click.option(
    "--target",
    type=click.Choice(["auto", "onnx", "onnx-int8", "tflite-int8", "edgetpu"]),
    default="auto",
    show_default=True,
    help="Which artifact of the model; auto takes the best that this machine can run.",
)
@click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True, help="Triplets a batch.")
@click.option("--evidence", type=existing, help="Table of independent evidence, to report how the scores rank it.")
@click.option("--report", type=target, default="reports/alerts.json", show_default=True, help="Where the ranking is written.")
def score(inputs: tuple[Path, ...], output: Path, model: str, target: str, batch: int, evidence: Path | None, report: Path) -> None:
    """Score alerts, triplets or difference products.

    INPUTS are Avro files, folders of them, tar archives, folders of a triplet store, triplets as an array (.npy or FITS), or
    difference products (FITS). Every alert and candidate gets a row in the table: a score, or the reason why there is none.
    """
    from astrid.commands.score import score as run

    run(list(inputs), output, model=model, target=target, batch=batch, evidence=evidence, report=report)


@cli.command()
@click.argument("trainings", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("--alerts", type=existing, multiple=True, required=True, help="Alert files or folders of them.")
@click.option("--evidence", type=existing, required=True, help="Table of independent evidence, an alert a row.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each set.")
@click.option("--report", type=target, default="reports/transfer.json", show_default=True, help="Where the comparison is written.")
@click.option(
    "--with-test-parts",
    is_flag=True,
    help="Train on the test parts of the sets too: the alerts are the test, so that nothing here looks at those rows otherwise. "
    "Without it a set trains as its split says, and what that holds out stays held out.",
)
def transfer(trainings: tuple[str, ...], alerts: tuple[Path, ...], evidence: Path, seeds: int, report: Path, with_test_parts: bool) -> None:
    """Train on one set of triplets or another and rank real alerts with each.

    A FOLDER is a project in which the stages up to `split` have run (data/triplets and data/splits); FOLDER+FOLDER trains on both.
    Model and training are the configured ones; every training is a run of MLflow.
    """
    from astrid.commands.transfer import parse
    from astrid.commands.transfer import transfer as run

    run(
        [parse(one) for one in trainings],
        list(alerts),
        evidence,
        report,
        seeds=seeds,
        parts=("train", "test") if with_test_parts else ("train",),
    )


for group in (labels, registry):
    cli.add_command(group)


def main() -> None:
    """Entry point: an `AstridError` is one sentence and exit code 2; anything else is a defect and keeps its traceback."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    hold_to_one_thread()
    with exit_codes():
        try:
            code = cli.main(standalone_mode=False)
        except click.exceptions.Exit as stop:
            raise SystemExit(stop.exit_code) from None
        except click.ClickException as error:
            error.show()
            raise SystemExit(2) from None
        except click.Abort:
            raise KeyboardInterrupt from None
    raise SystemExit(code)


if __name__ == "__main__":
    main()
