import subprocess
import sys

import pytest

from astrid.commands import doctor
from astrid.serving import runtimes


def findings(check):
    return {finding.topic: finding for finding in check()}


def test_runtimes_delegate_compiler_and_pycoral_each_have_a_line(monkeypatch, tmp_path):
    found = findings(doctor._runtimes) | findings(doctor._edge)
    assert found["ONNX Runtime"].state == "ok"
    assert "CPUExecutionProvider" in found["ONNX Runtime"].detail
    assert {"TFLite runtime", "Edge TPU delegate", "Edge TPU compiler", "pycoral"} <= set(found)
    compiler = tmp_path / "edgetpu_compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert findings(doctor._edge)["Edge TPU compiler"].detail == str(compiler)


def test_a_machine_without_a_runtime_is_broken_and_one_without_training_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in runtimes.TFLITE_RUNTIMES:
        monkeypatch.setitem(sys.modules, name, None)
    found = findings(doctor._runtimes)
    assert found["scoring"].state == "broken"
    assert "pip install onnxruntime" in found["ONNX Runtime"].detail
    real = doctor.importlib.metadata.version

    def version(name):
        if name in ("numpy", "astropy"):
            return real(name)
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    states = {finding.topic: finding.state for finding in doctor._packages()}
    assert states == {"packages": "ok", "pipeline": "absent"}
    monkeypatch.setattr(doctor, "SCORING", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package"))
    assert [finding.state for finding in doctor._packages()] == ["ok", "broken"]


@pytest.mark.parametrize("blocked", [("torch", "mlflow", "rich", "pandas", "pydantic", "click")])
def test_a_device_gets_its_report_without_the_pipelines_packages(blocked, tmp_path):
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); from astrid.commands import device; device.main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TFLite runtime: " in done.stdout
    assert "Edge TPU delegate: " in done.stdout
