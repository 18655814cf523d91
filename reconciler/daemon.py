"""The daemon: every adapter made from the settings, wired to the loop, and run until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from reconciler.adapters import state_folder
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.gates import HttpGates
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.adapters.git_access import GitAccess
from reconciler.adapters.git_trust import Trust
from reconciler.adapters.kubernetes_secrets import KubernetesApi, KubernetesApiSecrets
from reconciler.adapters.lease import FileLease
from reconciler.adapters.nodes import RayNodes
from reconciler.adapters.outbound import Outbound
from reconciler.adapters.packages import RayPackages
from reconciler.adapters.policies import PluginPolicies
from reconciler.adapters.prometheus import Prometheus
from reconciler.adapters.ray_rest import RayRest
from reconciler.adapters.sealed_rest import SealedRest
from reconciler.adapters.secrets import SecretLimits, Vault
from reconciler.adapters.serve import RayServe, ServeStart
from reconciler.adapters.serve_approval import ApprovedServe
from reconciler.adapters.store import SqliteStore
from reconciler.api.app import make_app
from reconciler.api.guard import Access
from reconciler.api.server import ApiServer
from reconciler.api.webhooks import Sender, Webhooks
from reconciler.desk import Desk
from reconciler.errors import PortError
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.journal import Journal
from reconciler.loop import Reconciler, Tick, WrongMode
from reconciler.observe import is_direct
from reconciler.planner import Planner
from reconciler.planning.moment import Surroundings
from reconciler.ports import Ports
from reconciler.settings import GatewayMode, Secret, Settings
from reconciler.telemetry import Metrics, setup_logging, setup_tracing
from reconciler.trust_settings import ForcePush, prune_limits

log = structlog.get_logger("heliostat")


@dataclass(frozen=True, kw_only=True)
class _Fittings:
    """What lives as long as the process, whichever way requests reach the replicas."""

    settings: Settings
    clock: SystemClock
    rest: RayRest
    serve: ApprovedServe
    store: SqliteStore
    source: GitSource
    outbound: Outbound
    prometheus: Prometheus
    policies: PluginPolicies
    metrics: Metrics
    desk: Desk


async def serve(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises Stalled when it cannot even start.

    When it ends, HAProxy goes on serving the last routes; the next daemon on the same state takes it over.
    """
    setup_logging(settings)
    state_folder.prepare(settings.state)
    async with AsyncExitStack() as stack:
        stack.enter_context(FileLease(settings.state))
        api = ApiServer(settings.listen)
        stack.callback(api.close)
        fittings = await stack.enter_async_context(_fitted(settings))
        state_folder.announce(settings.state, settings.server, state_folder.default_folder(os.environ))
        access = Access(token=Secret(state_folder.api_token(settings.state)), hosts=settings.allowed_hosts)
        app = make_app(fittings.desk, access, fittings.clock, _webhooks(fittings))
        log.info("started", repo=settings.repo_shown, branch=settings.branch, ray=settings.ray, page=settings.server)
        await _until_told(_run(fittings, api.serve(app)))
        log.info("stopped; the gateway goes on with the last routes")


def _vault(settings: Settings) -> Vault:
    limits = SecretLimits(
        folders=settings.secret_folders,
        prefixes=settings.secret_env_prefixes,
        namespaces=settings.secret_namespaces,
    )
    api = KubernetesApi(url=settings.kubernetes_api) if settings.kubernetes_api else KubernetesApi.of_pod()
    if api is not None:
        token, authorities = settings.kubernetes_token_file, settings.kubernetes_ca_file
        api = replace(api, token_file=token or api.token_file, ca_file=authorities)
    return Vault(limits, state_folder.seal_key(settings.state), KubernetesApiSecrets(api) if api else None)


def _webhooks(fittings: _Fittings) -> Webhooks:
    settings = fittings.settings
    secrets = {
        Sender.GITHUB: settings.webhook_github_secret_file,
        Sender.GITLAB: settings.webhook_gitlab_secret_file,
        Sender.GENERIC: settings.webhook_generic_secret_file,
    }
    return Webhooks(
        secrets=secrets,
        branch=settings.branch,
        nudge=fittings.source.nudge,
        count=fittings.metrics.count_webhook,
    )


async def _until_told(work: Coroutine[object, object, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _fitted(settings: Settings) -> AsyncIterator[_Fittings]:
    clock, metrics, vault = SystemClock(settings.state), Metrics(), _vault(settings)
    token = settings.ray_token.reveal() if settings.ray_token else None
    async with (
        SealedRest(settings.ray, vault, token=token) as rest,
        Outbound(settings.allow_hosts) as outbound,
        Prometheus(settings.prometheus) as prometheus,
        PluginPolicies(settings.policies, clock) as policies,
    ):
        store = SqliteStore(settings.state)
        git = GitSettings(
            url=settings.repo,
            state=settings.state,
            branch=settings.branch,
            path=settings.path,
            interval=settings.git_interval,
            vault=vault,
            access=GitAccess(
                ssh_key=settings.git_ssh_key,
                known_hosts=settings.git_known_hosts,
                token_file=settings.git_token_file,
                username=settings.git_username,
                helper=settings.git_credential_helper,
            ),
            trust=Trust(
                signers=settings.allowed_signers,
                gpg_keys=settings.allowed_gpg_keys,
                may_rewrite=settings.force_push is ForcePush.ALLOW,
            ),
        )
        serve = ApprovedServe(RayServe(rest, nodes=RayNodes(rest), start=ServeStart(host=settings.serve_host)))
        try:
            yield _Fittings(
                settings=settings,
                clock=clock,
                rest=rest,
                serve=serve,
                store=store,
                source=GitSource(git, clock, metrics.count_git_request),
                outbound=outbound,
                prometheus=prometheus,
                policies=policies,
                metrics=metrics,
                desk=Desk(store, settings.cluster, metrics.render),
            )
        finally:
            await store.close()


async def _run(fittings: _Fittings, api: Coroutine[object, object, None]) -> None:
    """Run the API for as long as the process lives, and below it the gateway and the loop."""
    async with asyncio.TaskGroup() as group:
        group.create_task(api)
        direct = await _is_direct(fittings)
        while True:
            try:
                await _reconcile(fittings, direct=direct)
            except* WrongMode:
                direct = not direct
                log.warning("the cluster routes differently than assumed", direct_ingress=direct)


async def _is_direct(fittings: _Fittings) -> bool:
    """Return whether replicas take requests themselves; assumed until an application shows otherwise."""
    mode = fittings.settings.gateway_mode
    if mode is not GatewayMode.AUTO:
        return mode is GatewayMode.DIRECT
    try:
        seen = await fittings.serve.read()
    except PortError:
        return True
    return is_direct(seen) is not False


async def _reconcile(fittings: _Fittings, *, direct: bool) -> None:
    settings = fittings.settings
    gateway = HAProxyGateway(_gateway_settings(settings, direct=direct), fittings.clock)
    tracer, journal = setup_tracing(), Journal()

    def ticked(tick: Tick) -> None:
        fittings.desk.ticked(tick)
        journal.ticked(tick)
        fittings.metrics.observe_tick(tick, gateway)
        tracer(tick)

    surroundings = Surroundings(gateway_url=settings.public_url, cluster=settings.cluster, prune=prune_limits(settings))
    async with gateway.running():
        reconciler = Reconciler(
            Ports(
                clock=fittings.clock,
                source=fittings.source,
                serve=fittings.serve,
                nodes=RayNodes(fittings.rest),
                packages=RayPackages(fittings.rest),
                gateway=gateway,
                store=fittings.store,
                gates=HttpGates(fittings.outbound),
                metrics=fittings.prometheus,
                advisers=fittings.policies,
            ),
            surroundings,
            cluster=settings.cluster,
            is_direct=direct,
            ticked=ticked,
        )
        await reconciler.load()
        fittings.desk.serve(reconciler)
        fittings.desk.plans(Planner(commits=fittings.source, store=fittings.store, surroundings=surroundings))
        await reconciler.run()


def _gateway_settings(settings: Settings, *, direct: bool) -> GatewaySettings:
    return GatewaySettings(
        folder=settings.state / "gateway",
        host=settings.gateway.host,
        port=settings.gateway.port,
        tls_pem=settings.gateway_tls,
        is_direct=direct,
        lanes=settings.gateway_lanes,
    )
