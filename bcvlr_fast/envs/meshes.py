"""Triangle meshes: STL files, and a coarser version that renders faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
_STL_HEADER_BYTES = 84


def coarser(corners: np.ndarray, cell_m: float) -> np.ndarray:
    """Simplifies triangles [n, 3, 3] in meters to triangles [m, 3, 3].

    All corners in a cell of a grid become one, placed nearest to the planes of its triangles, weighted by area
    (Lindstrom 2000, Out-of-core simplification).
    """
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    corners, normal, area = corners[area > 0], normal[area > 0], area[area > 0]
    point, weight = corners.reshape(-1, 3), np.repeat(area, 3)[:, None]
    normal = np.repeat(normal, 3, axis=0) / weight
    cells, cell = np.unique(np.floor(point / cell_m).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.reshape(-1)

    def summed(values: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(cells), *values.shape[1:]))
        np.add.at(sums, cell, values)
        return sums

    total = summed(weight)
    middle = summed(weight * point) / total
    off_plane = np.sum(normal * (point - middle[cell]), axis=1, keepdims=True)
    planes = summed(weight[..., None] * normal[:, :, None] * normal[:, None, :])
    planes += 0.01 * total[..., None] * np.eye(3)  # keeps a corner in the middle where all its planes are parallel
    shift = np.linalg.solve(planes, summed(weight * off_plane * normal)[..., None])[..., 0]
    merged = middle + shift.clip(-cell_m, cell_m)

    triangle = cell.reshape(-1, 3)
    triangle = triangle[(triangle != np.roll(triangle, 1, axis=1)).all(axis=1)]
    first = triangle.argmin(axis=1, keepdims=True)
    triangle = np.unique(np.take_along_axis(triangle, (first + np.arange(3)) % 3, axis=1), axis=0)
    return merged[triangle]


def read_stl(file: Path) -> np.ndarray:
    """Triangles [n, 3, 3] float64 of a binary STL file."""
    return np.frombuffer(file.read_bytes(), _STL, offset=_STL_HEADER_BYTES)["corners"].astype(np.float64)


def write_stl(file: Path, corners: np.ndarray) -> None:
    """Writes triangles [n, 3, 3] as binary STL, with zero normals: MuJoCo computes its own."""
    triangles = np.zeros(len(corners), _STL)
    triangles["corners"] = corners
    count = len(corners).to_bytes(4, "little")
    file.write_bytes(count.rjust(_STL_HEADER_BYTES, b"\0") + triangles.tobytes())
