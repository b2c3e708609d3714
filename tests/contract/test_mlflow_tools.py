"""MLflow's own tools score triplets with the registered champion: the Python function, and the server that `mlflow models serve` starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from astrid.core.errors import DataSetError
from astrid.registry import flavor, versions
from astrid.registry.store import client, load_mlflow
from astrid.registry.tracking import resume_run
from astrid.serving import pyfunc
from astrid.serving.engine import ScoringEngine
from astrid.serving.pyfunc import TripletModel
from support.tiny_model import write_tiny_model

URI = "models:/astrid-realbogus@onnx-champion"
_START = 120.0  # s, that the server may take on a busy machine


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(folder / "mlartifacts"))
        yield folder


@pytest.fixture(scope="module")
def model(store):
    """The folder of the champion in a store of this test's own."""
    folder = write_tiny_model(store / "model")
    with resume_run("training") as run:
        kept = versions.keep(folder, run, tags={})
    client().set_registered_model_alias(kept.name, "onnx-champion", str(kept.version))
    return folder


@pytest.fixture(scope="module")
def triplets():
    """Raw ones: with a sky level, in electrons, the first with a source, the second with a masked stamp."""
    out = np.random.default_rng(0).normal(100, 5, (4, 3, 63, 63)).astype(np.float32)
    out[0, 2, 27:36, 27:36] += 40
    out[1, 1] = np.nan
    return out


def test_the_python_function_takes_raw_triplets_and_gives_what_the_engine_gives(model, triplets):
    expected = ScoringEngine.load(model).score(triplets)
    loaded = load_mlflow().pyfunc.load_model(URI)
    for given in (triplets, {"triplets": triplets}):
        found = loaded.predict(given)
        np.testing.assert_array_equal(found["score"], expected.calibrated)
        np.testing.assert_array_equal(found["raw_score"], expected.raw)
        assert found["real"].tolist() == expected.real.tolist()
    assert expected.real[0]
    assert np.isnan(expected.raw[1])


def test_the_graph_itself_can_be_loaded_too(model):
    graph = load_mlflow().onnx.load_model(URI)
    assert graph.SerializeToString() == (model / "model.onnx").read_bytes()


def test_the_signature_names_the_input_that_the_loader_takes():
    assert flavor.INPUT == pyfunc.INPUT
    assert flavor.signature().inputs.input_names() == [pyfunc.INPUT]


def test_another_input_is_refused(model, triplets):
    inside = TripletModel(ScoringEngine.load(model))
    with pytest.raises(DataSetError, match="the input holds stamps; give one array, 'triplets'"):
        inside.predict({"stamps": triplets})
    with pytest.raises(DataSetError, match=r"give \(n, 3, 63, 63\)"):
        inside.predict(triplets[:, :2])


@pytest.fixture(scope="module")
def server(model, store):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        URI,
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = (store / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=store, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{address}/ping", store / "server.log")
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
        log.close()


def _wait(process, address, log):
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server did not come up:\n{log.read_text()[-2000:]}")


def test_the_server_scores_triplets(server, model, triplets):
    expected = ScoringEngine.load(model).score(triplets)
    body = json.dumps({"inputs": {"triplets": triplets.tolist()}}).encode()  # NaN where masked, as Python's json writes it
    request = urllib.request.Request(f"{server}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.loads(answer.read())["predictions"]
    found = found if isinstance(found, dict) else {name: [row[name] for row in found] for name in found[0]}
    np.testing.assert_allclose(np.array(found["score"], dtype=float), expected.calibrated, rtol=1e-6)
    assert [bool(value) for value in found["real"]] == expected.real.tolist()
    wrong = urllib.request.Request(f"{server}/invocations", b'{"inputs": [[1.0]]}', {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(wrong, timeout=60)
