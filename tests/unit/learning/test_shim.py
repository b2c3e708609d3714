from __future__ import annotations

import importlib

import pytest

from astrid.core.errors import MissingDependencyError
from astrid.learning import shim


def test_the_zoo_and_the_transforms_can_be_imported():
    torchvision = shim.ensure_torchvision()
    assert torchvision is shim.ensure_torchvision()
    from torchvision.models import resnet18
    from torchvision.transforms import v2

    assert callable(resnet18)
    assert callable(v2.RandomHorizontalFlip)


def test_a_working_torchvision_is_left_alone(monkeypatch):
    marker = object()
    monkeypatch.setattr(importlib, "import_module", lambda name: marker)
    monkeypatch.setattr(shim, "declare_operators", lambda: pytest.fail("operators were declared"))
    assert shim.ensure_torchvision.__wrapped__() is marker


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError("no", name="torchvision"), "torchvision is not installed"),
        (RuntimeError("CUDA versions differ"), "torchvision cannot be imported"),
    ],
)
def test_an_import_that_the_shim_cannot_mend_is_said(monkeypatch, error, sentence):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MissingDependencyError, match=sentence):
        shim.ensure_torchvision.__wrapped__()
