"""Model files that lie at a URL."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pooch

from xspinn.errors import ModelError
from xspinn.files import cache_folder, write_atomically

__all__ = ["download", "file_sha256", "is_url", "shown"]

_POOCH = {"http", "https", "ftp", "sftp", "doi"}


def is_url(origin: str) -> bool:
    """Tell a URL or DOI from a path; one letter before the colon is a Windows drive."""
    return origin.startswith("doi:") or len(origin.partition("://")[0]) not in (1, len(origin))


def download(url: str, sha256: str | None) -> str:
    """Return the path of a copy of a file, fetched unless this machine has it already.

    `pooch` fetches from http, https, ftp, sftp and doi, and `fsspec` from everything else it knows,
    such as s3 and gs. Copies are kept in pooch's cache folder for xspinn, by their hash where it is
    known; the environment variable ``XSPINN_CACHE`` names another.

    Parameters
    ----------
    url : str
    sha256 : str or None
        What the file's sha256 must be, in lower case.

    Raises
    ------
    ModelError
        If it cannot be fetched, or its hash is another.
    """
    folder = cache_folder() / "models"
    name = Path(urlsplit(url).path).name or "model"
    # Without a hash nobody knows whether the file behind a URL is still the same: fetch it again.
    target = folder / f"{(sha256 or uuid4().hex)[:32]}-{name}"
    try:
        if urlsplit(url).scheme in _POOCH:
            _with_pooch(url, sha256, target)
        elif sha256 is None or not target.exists() or file_sha256(target) != sha256:
            _with_fsspec(url, target)
        if sha256 is None:
            target = target.replace(folder / f"{file_sha256(target)[:32]}-{name}")
    except Exception as error:  # noqa: BLE001 - whatever a library raises may hold a secret
        raise ModelError(
            f"the model at {shown(url)} cannot be fetched: {type(error).__name__}: "
            f"{_without_secrets(str(error), url)}. Check the address, and that this machine may "
            "reach it; or fetch the file yourself and give its path."
        ) from None
    return str(target)


def shown(origin: str) -> str:
    """Return a path as it is, and a URL without what may be secret: passwords, keys, signatures.

    Examples
    --------
    >>> shown("https://me:password@example.org/facies.pt2?signature=2f3a")
    'https://***@example.org/facies.pt2'
    """
    if not is_url(origin):
        return origin
    return _USER.sub("://***@", re.split(r"[?#]", origin)[0])


# A password may hold a slash or an at sign that should have been quoted.
_USER = re.compile(r"://(?:[^/?#\s]*|[^:/?#@\s]+:[^?#\s]*)@")


def _without_secrets(text: str, url: str) -> str:
    """Return what a library says of a URL, or of one that it was sent on to, without secrets."""
    _, mark, tail = url.partition("?")
    secrets = [mark + tail, tail, *(found[3:-1] for found in _USER.findall(url))]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for form in (secret, unquote(secret), secret.partition(":")[2]):
            text = text.replace(form, "***") if len(form) > 1 else text
    text = re.sub(r"\?[^\s'\")>]+", "", text)
    return re.sub(r"\w[\w+.-]*://[^\s'\")>]+", lambda found: shown(found[0]), text)


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_pooch(url: str, sha256: str | None, target: Path) -> None:
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            url,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
        )
    finally:
        logger.setLevel(level)


def _with_fsspec(url: str, target: Path) -> None:
    import fsspec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the file systems themselves
        with fsspec.open(url, "rb") as source, write_atomically(target) as sink:
            while piece := source.read(2**24):
                sink.write(piece)
