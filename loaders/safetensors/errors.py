"""What can go wrong when weights are loaded.

Each error names the URI and, where there is one, the tensor and the byte range.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def shown(uri: str) -> str:
    """Return the URI without password and query: presigned URLs and proxies carry secrets there."""
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # no URL at all, and so nobody knows where in it a secret may stand
        return f"{uri.partition('://')[0]}://..."
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class LoadError(Exception):
    """The common ground; `problem` is a sentence for a person."""

    def __init__(
        self, problem: str, *, uri: str = "", tensor: str | None = None, span: tuple[int, int] | None = None
    ) -> None:
        """`span` is the byte range [start, stop) of the file that was being read or judged."""
        self.problem = problem
        self.uri = shown(uri)
        self.tensor = tensor
        self.span = span
        super().__init__(problem)

    def __str__(self) -> str:
        """Return where, then what."""
        where = [self.uri] if self.uri else []
        if self.tensor is not None:
            where.append(f"tensor {self.tensor!r}")
        if self.span is not None:
            where.append(f"bytes {self.span[0]}-{self.span[1]}")
        return ": ".join([", ".join(where), self.problem] if where else [self.problem])


class InvalidFile(LoadError):
    """The header or the index breaks the format's rules; nothing was allocated."""


class UnknownTensor(LoadError):
    """A tensor was asked for that the file does not have."""


class UnsupportedDtype(LoadError):
    """The file is fine, but this build of PyTorch has no such dtype."""


class SourceFailed(LoadError):
    """The origin does not give the bytes, and trying again did not help or cannot."""


class SourceMissing(SourceFailed):
    """The origin says that there is no such object, or forbids it: S3 does so with what is not there."""


class SourceUnreachable(SourceFailed):
    """The origin does not answer, or not with sense; a refusal such as 403 is not that."""


class SourceChanged(LoadError):
    """The object is not the one the load began with: its ETag, size or modification time is another."""


class LoadTimedOut(LoadError):
    """The time given for the whole load is over."""


class LoadCancelled(LoadError):
    """The caller's `cancel` event was set."""


class NotEnoughMemory(LoadError):
    """The load would not fit; said before the first byte is read."""
