"""`astrid registry`: what is registered, and under which alias."""

from __future__ import annotations


def list_models() -> None:
    """Print the registered versions, the newest first."""
    from astrid.registry.promote import MODEL_NAME
    from astrid.registry.promote import list_models as rows

    table = rows()
    if table.empty:
        print(f"No version of {MODEL_NAME} is registered yet; `dvc repro register` registers one.")
        return
    print(table.to_string(index=False, float_format="%.4f"))
