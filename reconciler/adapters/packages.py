"""Code packages in the cluster's object store of runtime environments, addressed by their content."""

from __future__ import annotations

import re
from datetime import timedelta

from reconciler.adapters.ray_rest import RayRest, last_line
from reconciler.errors import Retry, Stalled

MAX_PACKAGE_BYTES = 100 * 1024 * 1024
"""Ray keeps packages in the GCS and refuses larger ones, some of them only after the whole upload."""

UPLOAD_WITHIN = timedelta(seconds=120)
"""100 MiB to a dashboard behind a slow link."""

PACKAGE_URI = re.compile(r"gcs://(_ray_pkg_[0-9a-f]+\.zip)")


class RayPackages:
    """ports.Packages on a Ray cluster's dashboard."""

    def __init__(self, rest: RayRest) -> None:
        """`rest` is Ray's dashboard."""
        self._rest = rest

    async def has(self, uri: str) -> bool:
        """Return whether the package is there. Asking also keeps it from expiring for ten minutes."""
        answer = await self._rest.get(_path(uri))
        if answer.status == 404:
            return False
        if answer.status != 200:
            raise Retry(f"Ray does not say whether it has {uri} ({answer.status}): {last_line(answer.text)}")
        return True

    async def upload(self, uri: str, content: bytes) -> None:
        """Upload a package. Raises Stalled above 100 MiB."""
        if len(content) > MAX_PACKAGE_BYTES:
            raise Stalled(
                f"Package {uri} has {len(content) / 2**20:.0f} MiB; Ray takes at most 100 MiB. Leave weights and data "
                "out of the folder (for instance with `export-ignore` in .gitattributes) and load them at start."
            )
        answer = await self._rest.send("PUT", _path(uri), body=content, within=UPLOAD_WITHIN)
        if answer.status != 200:
            raise Retry(f"Ray does not take {uri} ({answer.status}): {last_line(answer.text)}")


def _path(uri: str) -> str:
    match = PACKAGE_URI.fullmatch(uri)
    if match is None:
        raise Stalled(f"{uri} is not a package that Ray can hold; it must look like gcs://_ray_pkg_<hex digits>.zip.")
    return f"/api/packages/gcs/{match[1]}"
