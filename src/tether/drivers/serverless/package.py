"""The code of a function, as the one file that is sent."""

from __future__ import annotations

import io
import zipfile
from os import PathLike
from pathlib import Path

from tether.errors import SpecError

__all__ = ["packed"]

_MOST_BYTES = 50 * 1000 * 1000
_UNIX_READ = 0o644 << 16


def packed(code: str | bytes | PathLike[str]) -> bytes:
    """Return a zip file: of a folder, of one file, or the one that is given.

    Raises:
        SpecError: there is no such file, it is no zip file, or it is too long to be sent in a request.
    """
    data = code if isinstance(code, bytes) else _read(Path(code))
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise SpecError("code= is neither a folder, a file of Python, nor a zip file")
    if len(data) > _MOST_BYTES:
        raise SpecError(f"code= is {len(data)} bytes when it is packed; AWS takes {_MOST_BYTES}. Use image= for more")
    return data


def _read(path: Path) -> bytes:
    if path.is_dir():
        return _zip({file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()})
    try:
        return _zip({path.name: path}) if path.suffix == ".py" else path.read_bytes()
    except OSError as error:
        raise SpecError(f"code={str(path)!r} can't be read: {error}") from error


def _zip(files: dict[str, Path]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            # Whoever runs it there is another user, and the same code is the same file at another time.
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = _UNIX_READ, zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    return whole.getvalue()
