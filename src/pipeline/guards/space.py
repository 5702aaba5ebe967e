"""That the disk of the lake has room for a batch."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline.errors import DiskFull
from pipeline.tables import local_path

__all__ = ["require_space"]

_MEBIBYTE = 1024 * 1024


def require_space(root: str, *, query: str, min_free_mebibytes: int) -> None:
    """Raise DiskFull when less is free where the lake lies. Only a local disk can be asked."""
    path = local_path(root)
    if path is None or not min_free_mebibytes:
        return
    free = shutil.disk_usage(_nearest_folder(path)).free
    if free < min_free_mebibytes * _MEBIBYTE:
        raise DiskFull(
            f"query {query}: only {free // _MEBIBYTE} MiB are free on the disk of the lake {root}; it begins no batch with "
            f"less than {min_free_mebibytes} MiB.\nWhat is finished is safe. Make room and start it again "
            "(--set lake.min_free_mebibytes=… sets the limit).",
            path=root,
            free_bytes=free,
        )


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
