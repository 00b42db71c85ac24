"""The house: its parts below the fronts, put together by the settings."""

import time
from collections.abc import Callable

import structlog
from limits.aio.storage import Storage

from backend.accounts.authentication import Authenticator
from backend.accounts.shared_holders import SharedHolders
from backend.application.background import Background
from backend.application.django_targets import DjangoTargets
from backend.application.executions import ExecutionService
from backend.application.host_targets import HostTargets
from backend.application.local_executions import LocalExecutions
from backend.application.queue_runner import QueueRunner
from backend.application.runners import Runners, is_django
from backend.application.schedule_runner import ScheduleRunner
from backend.application.submission import Submission
from backend.application.target_resolver import LocalPlaces, TargetResolver
from backend.bus.memory import MemoryBus
from backend.core.dataclasses import dataclass, replace
from backend.core.execution.bus import ExecutionBus
from backend.core.execution.gateway import Gateway, Rates
from backend.core.execution.lifecycle import Clock, Lifecycle
from backend.core.execution.sessions import Sessions
from backend.core.execution.targets import ExecutionLimits
from backend.core.identity import Principal
from backend.core.limits import Rate, RateLimiter, Slots, share_of_accounts
from backend.core.policy.profile import Profile
from backend.core.recording.redaction import Masks
from backend.core.recording.retention import SHARE, RecordingShares, Retention
from backend.core.times import DAY_MS
from backend.policies.loader import check_folder, load_profile
from backend.runtime.clock import new_id, now_ms, utc_now
from backend.runtime.egress import egress_proxies
from backend.runtime.hosts import Hosts, build_hosts
from backend.runtime.lifespan import Server
from backend.runtime.local_executor import local_places, output_lines, visitors_files
from backend.runtime.masking import MaskedAuditLog
from backend.runtime.notifications import build_notifier, build_senders
from backend.runtime.persistence import Stores, open_stores
from backend.runtime.preflight import Guard, build_guard
from backend.runtime.programs import OutsidePrograms
from backend.runtime.retention import RecordingRetention
from backend.runtime.runners import Django, build_django
from backend.runtime.schedules import schedule_runner
from backend.runtime.settings import Settings
from backend.runtime.stored_jobs import decode_job, encode_job
from backend.runtime.telemetry import Telemetry
from backend.runtime.tokens import access_tokens
from backend.storage.limiter import moving_window, shared_storage


@dataclass(frozen=True, slots=True)
class House:
    """The parts that the fronts use."""

    settings: Settings
    stores: Stores
    audit: MaskedAuditLog
    guard: Guard
    telemetry: Telemetry
    counters: Storage | None
    resolver: TargetResolver
    gateway: Gateway
    service: ExecutionService
    hosts: Hosts
    schedule_runner: ScheduleRunner
    django: Django
    queue_runner: QueueRunner
    runners: Runners
    background: Background

    def leave(self, visitor: Principal) -> None:
        """The connection of a visitor has ended."""
        self.resolver.leave(visitor)
        self.background.leave(visitor)

    def window(self, rate: Rate, name: str) -> RateLimiter:
        """A limit, shared by all servers if Redis is configured."""
        return moving_window(rate, name, self.counters)


def build_house(settings: Settings, programs: OutsidePrograms, masks: Masks) -> House:
    """The house of these settings. Raises SettingsError or ProfileError for those that cannot be used."""
    stores = open_stores(settings)
    telemetry = Telemetry(time.monotonic)
    counters = shared_storage(settings.redis_url.get_secret_value()) if settings.redis_url else None
    guard = build_guard(settings)
    audit = MaskedAuditLog(stores.audit, masks.text)
    guard.rooms.proxies = egress_proxies(settings, audit)

    profile = _profiles(settings, guard, programs)
    limits = _execution_limits(settings)
    hosts = build_hosts(
        settings, stores.owner, limits, stores.audit, stores.projects, output_lines(settings, masks), masks.text
    )
    stores = replace(
        stores, recovery=replace(stores.recovery, goes_on=lambda target: hosts.goes_on(target) or is_django(target))
    )
    django = build_django(stores, limits, output_lines(settings, masks))
    places = local_places(settings, guard, masks, stores, programs, background := Background())
    resolver = _resolver(settings, stores, limits, guard, places, profile, hosts.targets, django.targets)
    mask = hosts.mask(settings, masks)
    gateway = _gateway(settings, stores, telemetry, counters, guard, mask, django.wakeups.wake)
    service = background.service = _service(settings, stores, gateway, resolver)
    queue_runner = QueueRunner(gateway, resolver, stores.ownership, stores.identities, decode_job)
    return House(
        settings=settings,
        stores=stores,
        audit=audit,
        guard=guard,
        telemetry=telemetry,
        counters=counters,
        resolver=resolver,
        gateway=gateway,
        service=service,
        hosts=hosts,
        schedule_runner=schedule_runner(stores, gateway, service),
        django=django,
        queue_runner=queue_runner,
        runners=django.runners(stores, queue_runner, audit, masks.text),
        background=background,
    )


def _profiles(settings: Settings, guard: Guard, programs: OutsidePrograms) -> Callable[[str], Profile]:
    """What loads a profile as it applies here. Raises ProfileError for a folder of profiles that is invalid."""
    if settings.profiles:
        check_folder(settings.profiles)

    def profile(name: str) -> Profile:
        loaded = load_profile(name, settings.profiles).without(programs.missing)
        return loaded.in_rooms() if guard.protection.meets("L3") else loaded

    return profile


def _resolver(
    settings: Settings,
    stores: Stores,
    limits: ExecutionLimits,
    guard: Guard,
    places: LocalPlaces,
    profile: Callable[[str], Profile],
    hosts: HostTargets | None,
    django: DjangoTargets,
) -> TargetResolver:
    return TargetResolver(
        visitors_profile=profile(settings.profile),
        visitors_files=visitors_files(settings, guard),
        projects=stores.projects,
        places=places,
        limits=limits,
        load_profile=profile,
        hosts=hosts,
        holds_hosts=guard.rooms.make is not None,
        django=django,
    )


def _execution_limits(settings: Settings) -> ExecutionLimits:
    longest = max(settings.command_timeout, settings.longest_timeout)
    return ExecutionLimits(settings.command_timeout, longest, settings.output_limit, settings.detach_grace)


def _gateway(
    settings: Settings,
    stores: Stores,
    telemetry: Telemetry,
    counters: Storage | None,
    guard: Guard,
    mask: Callable[[str], str],
    enqueued: Callable[[str], None],
) -> Gateway:
    return Gateway(
        rates=Rates(
            moving_window(Rate.parse(settings.command_rate), "commands", counters),
            moving_window(Rate.parse(settings.user_rate), "user-commands", counters),
            moving_window(Rate.parse(settings.check_rate), "checks", counters),
        ),
        slots=Slots(
            settings.concurrent_per_principal,
            settings.concurrent_total,
            share_of_accounts(settings.concurrent_total, settings.accounts_share),
        ),
        refusals=stores.executions,
        lifecycle=Lifecycle(
            log=stores.executions,
            queue=stores.ownership,
            encode=encode_job,
            recordings=stores.recordings,
            observer=telemetry,
            clock=Clock(time.monotonic, utc_now, new_id),
            mask=mask,
            enqueued=enqueued,
            # Every command may write what the limit of output permits, however little is stored.
            shares=RecordingShares(max(settings.retention_bytes // SHARE, settings.output_limit)),
        ),
        protected=guard.refusal,
    )


def _service(settings: Settings, stores: Stores, gateway: Gateway, resolver: TargetResolver) -> ExecutionService:
    return ExecutionService(
        submission=Submission(gateway, resolver, stores.keys, new_id),
        history=stores.history,
        projects=stores.projects,
        tokens=_open_sockets_check(settings, stores),
        queue=stores.ownership,
        local=LocalExecutions(gateway.lifecycle.registry, stores.recordings, stores.history, raw=settings.raw_output),
        bus=_bus(settings),
        owner=stores.owner,
        folder=stores.folder,
        sessions=Sessions(time.monotonic),
    )


def _open_sockets_check(settings: Settings, stores: Stores) -> Authenticator:
    """Judges the tokens of sockets that are open, of which an account may have many."""
    holders = SharedHolders(stores.identities, time.monotonic)
    return Authenticator(holders, access_tokens(settings), now_ms, time.monotonic)


def _bus(settings: Settings) -> ExecutionBus:
    if settings.redis_url is None:
        return MemoryBus()
    from backend.bus.redis import RedisBus  # with its library, which other servers do without

    log = structlog.get_logger()
    return RedisBus(settings.redis_url.get_secret_value(), lambda report: log.warning("bus", report=report))


def server_of(house: House) -> Server:
    """What begins and ends with the server process."""
    return Server(
        house.settings,
        house.stores,
        house.guard,
        house.gateway,
        house.service,
        house.queue_runner,
        house.schedule_runner,
        build_notifier(house.stores, house.service, build_senders(house.settings)),
        _retention(house),
        house.hosts,
        house.runners,
    )


def _retention(house: House) -> RecordingRetention:
    settings, stores = house.settings, house.stores
    retention = Retention(int(settings.retention_days * DAY_MS), settings.retention_bytes)
    shares = house.gateway.lifecycle.shares
    return RecordingRetention(stores.recordings, stores.history, stores.audit, shares, retention, stores.clock)
