"""`pipeline report`: one HTML page about a lake, with its pictures in it; no Spark, no network, no JavaScript."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SetupError, UsageError
from pipeline.files import replace_bytes
from pipeline.reading import lake_here
from pipeline.settings import Settings

__all__ = ["write"]


def write(settings: Settings, *, output: Path | None = None, pictures: Path | None = None) -> Path:
    """Write the page about the lake and return its path: `output`, by default `report.html` in the lake.

    `pictures` is a folder for the same pictures as PNG. Raises RefusedToStart where there is no lake, UsageError where it is not
    on this machine or the page cannot be written, SetupError where the extra `report` is not installed.
    """
    lake = lake_here(settings.lake.root, what="the report")
    files = _files(settings, output or lake / "report.html", pictures)
    for file, content in files.items():
        try:
            replace_bytes(file, content)
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}. Name another place.") from error
    return next(iter(files))


def _files(settings: Settings, output: Path, pictures: Path | None) -> dict[Path, bytes]:
    """The page first, and what it is to be accompanied by."""
    try:
        from pipeline.report import page
    except ModuleNotFoundError as error:
        raise SetupError(
            f"pipeline report needs {error.name}, which is not installed. Install it: pip install 'pipeline[report]'."
        ) from error
    made = page.make(settings, with_pictures=pictures is not None)
    drawn = {pictures / f"{name}.png": png for name, png in made.pictures.items()} if pictures else {}
    return {output: made.html.encode("utf-8"), **drawn}
