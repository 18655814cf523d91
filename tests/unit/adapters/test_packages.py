"""Packages in Ray's dashboard."""

from __future__ import annotations

import httpx
import pytest

from reconciler.adapters.packages import MAX_PACKAGE_BYTES, RayPackages
from reconciler.adapters.ray_rest import RayRest
from reconciler.errors import Retry, Stalled
from tests.sim.fake_dashboard import FakeDashboard

URI = "gcs://_ray_pkg_00ff00ff.zip"


async def test_a_package_is_there_after_its_upload_byte_for_byte() -> None:
    dashboard = FakeDashboard()
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        packages = RayPackages(rest)
        assert not await packages.has(URI)
        await packages.upload(URI, b"\x00zip")
        assert await packages.has(URI)
    assert dashboard.packages == {"_ray_pkg_00ff00ff.zip": b"\x00zip"}


async def test_too_large_a_package_is_refused_before_it_is_sent() -> None:
    dashboard = FakeDashboard()
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        with pytest.raises(Stalled, match="export-ignore"):
            await RayPackages(rest).upload(URI, bytes(MAX_PACKAGE_BYTES + 1))
    assert dashboard.requests == []


@pytest.mark.parametrize("uri", ["", "s3://a/b.zip", "gcs://_ray_pkg_../x.zip", "gcs://_ray_pkg_00ff.zip/../y"])
async def test_only_packages_of_rays_form_are_asked_for(uri: str) -> None:
    dashboard = FakeDashboard()
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        with pytest.raises(Stalled, match="_ray_pkg_"):
            await RayPackages(rest).has(uri)
    assert dashboard.requests == []


async def test_a_failing_dashboard_is_not_a_missing_package() -> None:
    dashboard = FakeDashboard()
    path = "/api/packages/gcs/_ray_pkg_00ff00ff.zip"
    async with RayRest("http://ray.test", transport=dashboard.transport) as rest:
        for status in (500, 302):
            dashboard.answers[path] = [httpx.Response(status)]
            with pytest.raises(Retry):
                await RayPackages(rest).has(URI)
            dashboard.answers[path] = [httpx.Response(status)]
            with pytest.raises(Retry):
                await RayPackages(rest).upload(URI, b"")
