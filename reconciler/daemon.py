"""The daemon: every adapter made from the settings, wired to the loop, and run until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from reconciler.adapters import state_folder
from reconciler.adapters.api_tokens import TokenFile
from reconciler.adapters.clock import SystemClock
from reconciler.adapters.gates import HttpGates
from reconciler.adapters.git import GitSettings, GitSource
from reconciler.adapters.git_access import GitAccess
from reconciler.adapters.git_trust import Trust
from reconciler.adapters.herald import Form, Herald, Target
from reconciler.adapters.jobs import RayJobs
from reconciler.adapters.kubernetes_secrets import KubernetesApi, KubernetesApiSecrets
from reconciler.adapters.lease import FileLease
from reconciler.adapters.node_drains import RayDrains
from reconciler.adapters.node_providers import KubeRay, NoProvider, RayCluster
from reconciler.adapters.nodes import MarkedNodes, RayNodes
from reconciler.adapters.outbound import Outbound
from reconciler.adapters.packages import RayPackages
from reconciler.adapters.planner_process import PlannerProcess
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
from reconciler.claim import Claim
from reconciler.compaction import Compactor
from reconciler.desk import Desk
from reconciler.errors import PortError, Stalled
from reconciler.garbage import spare_what_is_there
from reconciler.gateway import GatewaySettings, HAProxyGateway
from reconciler.journal import Journal, saved_events
from reconciler.loop import Reconciler, Tick, WrongMode
from reconciler.node_settings import NodeProviderKind
from reconciler.observe import is_direct
from reconciler.planner import Planner
from reconciler.planning.moment import Surroundings
from reconciler.ports import CompactionPorts, NodeProvider, Ports
from reconciler.preemption import Preemptions
from reconciler.settings import GatewayMode, Secret, Settings
from reconciler.standby import with_keeper
from reconciler.telemetry import Metrics, setup_logging, setup_tracing
from reconciler.trust_settings import ForcePush, ReadAccess, prune_limits
from specs.preemption import Preemption
from specs.world import World

log = structlog.get_logger("heliostat")


class _Last:
    """The loop's last turn, for who works beside it."""

    def __init__(self) -> None:
        self._world: World | None = None
        self.compactor: Compactor | None = None
        self.preemptions: Preemptions | None = None

    def ticked(self, tick: Tick) -> None:
        """Take in a turn: what was seen, and what is remembered after it."""
        self._world = replace(tick.world, memory=tick.compiled.memory)

    def world(self) -> World | None:
        """Return the world as it was last seen, None before."""
        return self._world

    def draining(self) -> frozenset[str]:
        """Return the nodes that compaction drains."""
        return self.compactor.draining if self.compactor is not None else frozenset()

    def notices(self) -> Mapping[str, Preemption]:
        """Return the notices of nodes that are about to go."""
        return self.preemptions.notices if self.preemptions is not None else {}


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
    last: _Last
    herald: Herald


async def serve(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises Stalled when it cannot even start.

    When it ends, HAProxy goes on serving the last routes; the next daemon on the same state takes it over.
    """
    setup_logging(settings)
    state_folder.prepare(settings.state)
    async with AsyncExitStack() as stack:
        stack.enter_context(FileLease(settings.state))
        claim = Claim(settings.state / "gateway")
        stack.callback(claim.release)
        await asyncio.to_thread(claim.take)
        api = ApiServer(settings.listen, settings.listen_tls)
        stack.callback(api.close)
        fittings = await stack.enter_async_context(_fitted(settings))
        state_folder.announce(settings.state, settings.server, state_folder.default_folder(os.environ))
        access = Access(
            token=Secret(state_folder.api_token(settings.state)),
            hosts=settings.allowed_hosts,
            find=TokenFile(settings.state).find,
            reads_need_token=settings.read_access is ReadAccess.TOKEN,
        )
        app = make_app(fittings.desk, access, fittings.clock, _webhooks(fittings))
        log.info("started", repo=settings.repo_shown, branch=settings.branch, ray=settings.ray, page=settings.server)
        ports = await stack.enter_async_context(_compaction(fittings))
        compactor = Compactor(ports, fittings.last.world)
        fittings.last.compactor = app.state.compaction = compactor
        preemptions = Preemptions(ports.clock, ports.store, ports.drains, fittings.last.world)
        fittings.last.preemptions = app.state.preemption = preemptions
        fittings.metrics.watch_compaction(compactor)
        compactor.answered = fittings.metrics.count_answer
        await compactor.load()
        await preemptions.load()
        beside = (api.serve(app), compactor.run(), preemptions.run(), fittings.herald.run())
        await _until_told(_run(fittings, *beside))
        log.info("stopped; the gateway goes on with the last routes")


def _herald(settings: Settings, clock: SystemClock, metrics: Metrics) -> Herald:
    hooks = ((Form.WEBHOOK, settings.notify_webhook_file), (Form.SLACK, settings.notify_slack_file))
    targets = [
        Target(form=form, url=words[0], secret=words[1] if len(words) > 1 else None)
        for form, listed in hooks
        for words in listed
    ]
    if settings.commit_status is not None:
        if not settings.commit_status_url:
            raise Stalled("--commit-status needs --commit-status-url: the repository in the API of its host")
        form, url = Form(settings.commit_status.value), Secret(settings.commit_status_url)
        targets.append(Target(form=form, url=url, token_file=settings.commit_status_token_file))
    return Herald(targets, clock, settings.cluster, count=metrics.count_notification)


def _vault(settings: Settings) -> Vault:
    limits = SecretLimits(
        folders=settings.secret_folders,
        prefixes=settings.secret_env_prefixes,
        namespaces=settings.secret_namespaces,
    )
    api = _kubernetes(settings)
    return Vault(limits, state_folder.seal_key(settings.state), KubernetesApiSecrets(api) if api else None)


def _kubernetes(settings: Settings) -> KubernetesApi | None:
    api = KubernetesApi(url=settings.kubernetes_api) if settings.kubernetes_api else KubernetesApi.of_pod()
    if api is None:
        return None
    token, authorities = settings.kubernetes_token_file, settings.kubernetes_ca_file
    return replace(api, token_file=token or api.token_file, ca_file=authorities)


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


def _kuberay(settings: Settings) -> KubeRay:
    api = _kubernetes(settings)
    if api is None:
        raise Stalled("--node-provider kuberay outside of Kubernetes needs --kubernetes-api URL")
    return KubeRay(api, RayCluster(name=settings.kuberay_cluster, namespace=settings.kuberay_namespace))


@asynccontextmanager
async def _compaction(fittings: _Fittings) -> AsyncIterator[CompactionPorts]:
    async with AsyncExitStack() as stack:
        provider: NodeProvider = NoProvider()
        if fittings.settings.node_provider is NodeProviderKind.KUBERAY:
            provider = await stack.enter_async_context(_kuberay(fittings.settings))
        yield CompactionPorts(
            clock=fittings.clock,
            store=fittings.store,
            drains=RayDrains(fittings.rest, fittings.settings.cluster_python),
            provider=provider,
            planner=PlannerProcess(),
            advisers=fittings.policies,
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
            if clock.is_astray() and (await store.load()).is_at_rest:
                clock.catch_up()
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
                herald=_herald(settings, clock, metrics),
                last=_Last(),
            )
        finally:
            await store.close()


async def _run(fittings: _Fittings, *others: Coroutine[object, object, None]) -> None:
    """Run the others (API, compaction) for as long as the process lives, and beside them the gateway and the loop."""
    async with asyncio.TaskGroup() as group:
        for other in others:
            group.create_task(other)
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
    gateway_settings = _gateway_settings(settings, direct=direct)
    gateway = HAProxyGateway(gateway_settings, fittings.clock)
    tracer, journal = setup_tracing(), Journal()

    def ticked(tick: Tick) -> None:
        fittings.last.ticked(tick)
        fittings.desk.ticked(tick)
        journal.ticked(tick)
        fittings.herald.take(saved_events(tick), tick.status, tick.world)
        fittings.metrics.observe_tick(tick, gateway)
        tracer(tick)
        if fittings.desk.is_ready():
            spare_what_is_there()

    surroundings = Surroundings(
        gateway_url=settings.public_url,
        cluster=settings.cluster,
        prune=prune_limits(settings),
        stage_python=settings.stage_python,
    )
    async with gateway.running(), with_keeper(settings, gateway_settings, fittings.clock):
        reconciler = Reconciler(
            Ports(
                clock=fittings.clock,
                source=fittings.source,
                serve=fittings.serve,
                nodes=MarkedNodes(RayNodes(fittings.rest), fittings.last.draining, fittings.last.notices),
                packages=RayPackages(fittings.rest),
                gateway=gateway,
                store=fittings.store,
                gates=HttpGates(fittings.outbound),
                metrics=fittings.prometheus,
                advisers=fittings.policies,
                jobs=RayJobs(fittings.rest, owner=settings.cluster),
            ),
            surroundings,
            cluster=settings.cluster,
            is_direct=direct,
            ticked=ticked,
        )
        await reconciler.load()
        reconciler.notices = fittings.last.notices
        if fittings.last.preemptions is not None:
            fittings.last.preemptions.woken = reconciler.wake
            fittings.last.preemptions.count = fittings.metrics.count_preemption
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
        zone=settings.zone,
        lanes=settings.gateway_lanes,
    )
