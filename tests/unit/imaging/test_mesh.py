from __future__ import annotations

import numpy as np
import pytest

from astrid.imaging.alignment.mesh import MappingMesh, Surface, row_crossings, tabulate

SHAPE = (400, 300)


def _bent(x, y):
    """Turned by 3 degrees, with a cubic distortion of some pixels."""
    u, v = (x - 150) / 200, (y - 200) / 200
    return 10 + 0.998 * x - 0.05 * y + u * (u**2 + v**2), 5 + 0.05 * x + 1.002 * y - v * (u**2 + v**2)


def test_a_surface_goes_through_a_polynomial():
    nodes = np.linspace(-2, 12, 8)
    surface = Surface(nodes, nodes, nodes[:, None] ** 3 - 2 * nodes[None, :] ** 2, 5)
    y, x = np.linspace(0, 10, 7), np.linspace(1, 9, 5)
    np.testing.assert_allclose(np.matmul(*surface.on(y, x)), y[:, None] ** 3 - 2 * x[None, :] ** 2, atol=1e-9)
    np.testing.assert_allclose(surface.at(y[:5], x), y[:5] ** 3 - 2 * x**2, atol=1e-9)


def test_the_mesh_is_the_mapping():
    mesh = MappingMesh(_bent, SHAPE, 32)
    y, x = np.arange(0.0, 400.0, 7.0), np.arange(0.0, 300.0, 11.0)
    gx, gy = np.meshgrid(x, y)
    for surface, truth in zip((mesh.x, mesh.y), _bent(gx, gy), strict=True):
        np.testing.assert_allclose(np.matmul(*surface.on(y, x)), truth, atol=1e-7)
    low_x, high_x, low_y, high_y = mesh.bounds(y, x)
    assert (low_x, high_y) == pytest.approx((_bent(gx, gy)[0].min(), _bent(gx, gy)[1].max()))
    assert high_x > low_x
    assert high_y > low_y
    assert np.matmul(*mesh.area.on(np.array([200.0]), np.array([150.0])))[0, 0] == pytest.approx(
        np.linalg.det(mesh.linear(200.0, 150.0)), rel=2e-3
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_crossings_lie_on_rows_and_columns(transposed):
    mapping = (lambda x, y: _bent(x, y)[::-1]) if transposed else _bent
    mesh = MappingMesh(mapping, SHAPE, 32)
    nodes = np.linspace(40, 380, 14), np.linspace(0, 299, 12)
    crossing = row_crossings(mesh, *nodes, transposed=transposed)
    y, x = np.array([57.0, 133.3, 300.0]), np.array([20.0, 150.0, 288.8])
    along, across = _bent(x, y)
    np.testing.assert_allclose(crossing.at(across, x), along, atol=1e-6)


def test_lost_nodes_are_reported():
    mesh = MappingMesh(lambda x, y: (np.where(x > 100, np.nan, x), y), SHAPE, 32)
    assert not mesh.complete
    assert np.isfinite(np.matmul(*mesh.area.on(np.arange(400.0), np.arange(300.0)))).all()


def test_a_tabulated_mapping_is_the_mapping_to_a_fraction_of_a_pixel():
    table = tabulate(_bent, SHAPE, 32)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-0.5, 299.5, 500), rng.uniform(-0.5, 399.5, 500)
    for found, truth in zip(table(x, y), _bent(x, y), strict=True):
        np.testing.assert_allclose(found, truth, atol=0.03)
    assert table.nodes.shape == (2, 14, 11)


def test_a_tabulated_mapping_has_no_answer_beside_a_lost_node_and_one_elsewhere():
    table = tabulate(lambda x, y: (np.where(x > 280, np.nan, x + 1.0), y), SHAPE, 32)
    x, _ = table(np.array([10.0, 298.0]), np.array([20.0, 20.0]))
    assert x[0] == pytest.approx(11.0)
    assert np.isnan(x[1])
