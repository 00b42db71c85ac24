"""The tables. Times are milliseconds since 1970, UTC; our own ids are ULIDs, which sort by time."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Id = String(26)
Millis = BigInteger

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("password_hash", String(255)),  # none: no login by password yet
    Column("role", String(16), nullable=False),
    Column("profile", String(64), nullable=False),
    Column("disabled", Boolean, nullable=False, default=False),
    Column("created_ms", Millis, nullable=False),
    # Tokens issued before this time are invalid: the password was changed, or the user disabled.
    Column("valid_from_ms", Millis, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", String(64), nullable=False),  # with blanks between
    Column("created_ms", Millis, nullable=False),
    Column("expires_ms", Millis),
    Column("revoked_ms", Millis),
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("jti", Id, primary_key=True),
    Column("expires_ms", Millis, nullable=False, index=True),
)

login_links = Table(
    "login_links",
    metadata,
    Column("secret_hash", LargeBinary(32), primary_key=True),
    Column("user_id", Id, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("expires_ms", Millis, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("owner_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    Column("profile", String(64), nullable=False),
    Column("allowed_extra", Text, nullable=False),  # JSON list of programs
    Column("network", Boolean, nullable=False),
    Column(
        "hosts", Text, nullable=False, server_default="[]"
    ),  # JSON list of those that may be reached; `network` is off
    Column("metadata_only", Boolean, nullable=False),
    Column("created_ms", Millis, nullable=False),
    Column("deleted_ms", Millis),  # the row remains, because executions and the audit name it
)

project_members = Table(
    "project_members",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
)

executions = Table(
    "executions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("principal", String(128), nullable=False),
    Column("user_id", Id),
    Column("target", String(128), nullable=False, server_default="local"),  # the text of a TargetRef
    Column("project_id", Id),
    Column("command", Text, nullable=False),
    Column("working_dir", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("exit_code", Integer),
    Column("signal", String(16)),  # that ended its last program
    Column("duration_ms", BigInteger),
    Column("risk", String(16), nullable=False),
    Column("rule", String(64), nullable=False),
    Column("deletes", Boolean, nullable=False),  # whether rm was among its programs
    Column("dry_run", Boolean, nullable=False),
    Column("metadata_only", Boolean, nullable=False),
    Column("protection", String(8), nullable=False, default=""),
    Column("cpu_ms", BigInteger),
    Column("peak_memory_bytes", BigInteger),
    Column("read_bytes", BigInteger),
    Column("written_bytes", BigInteger),
    Column("folder", Id, nullable=False),  # the data folder that holds its recording
    Column("created_ms", Millis, nullable=False),
    Column("owner", Id),  # the server process that runs it or ran it
    Column("lease_until_ms", Millis),  # the end of the owner's lease
    Column("job", Text),  # of a queued execution: what its executor is to run
    Column("schedule_id", Id),  # the schedule that started it
    Index(None, "target", "id"),
    Index(None, "schedule_id", "id"),
    Index(None, "user_id", "id"),
    # A page of a rare status has to be found without reading all others.
    Index(None, "status", "id"),
    Index(None, "user_id", "status", "id"),
    Index(None, "target", "status", "id"),
)

# What an account did in an hour (since 1970): sums over its rows in `executions` that count.
execution_hours = Table(
    "execution_hours",
    metadata,
    Column("user_id", Id, primary_key=True),
    Column("hour", Integer, primary_key=True, autoincrement=False, index=True),
    Column("total", Integer, nullable=False),
    Column("successful", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("high_risk", Integer, nullable=False),
    Column("measured", Integer, nullable=False),  # those that have a duration
    Column("duration_ms", BigInteger, nullable=False),  # of them together
)

# One row, none before the first hour: the first hour that is not summed up.
summarised_hours = Table(
    "summarised_hours",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("until", Integer, nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("execution", Id, nullable=False),
    Column("created_ms", Millis, nullable=False, index=True),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner_id", Id, ForeignKey("users.id", name="fk_schedules_owner_id_users"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("command", Text, nullable=False),
    Column("target", String(128), nullable=False),  # the text of a TargetRef
    Column("working_dir", Text, nullable=False),
    Column("timeout", Integer),
    Column("cron", String(100), nullable=False),
    Column("zone", String(100), nullable=False),
    Column("missed", String(16), nullable=False),
    Column("overlap", String(16), nullable=False),
    Column("jitter", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("retry_delay", Integer, nullable=False),
    Column("created_ms", Millis, nullable=False),
    Column("next_due_ms", Millis, index=True),  # none while it is paused
)

# A due time of a schedule has one row for each attempt, so that one of several servers claims it.
schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column(
        "schedule_id",
        Id,
        ForeignKey("schedules.id", name="fk_schedule_runs_schedule_id_schedules", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("due_ms", Millis, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("start_ms", Millis, nullable=False),
    Column("status", String(16), nullable=False),
    Column("manual", Boolean, nullable=False),
    Column("execution", Id),
    Column("reason", Text, nullable=False),
    Index(None, "status", "start_ms"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner_id", Id, ForeignKey("users.id", name="fk_notifications_owner_id_users"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("subject", String(100), nullable=False, index=True),
    Column("events", String(64), nullable=False),  # with blanks between
    Column("url", Text),
    Column("email", String(320)),
    Column("secret", String(64), nullable=False),  # signs, so it cannot be a hash
    Column("created_ms", Millis, nullable=False),
)

# The executions whose end is to be looked at; written with the end, while there are notifications.
ended_executions = Table("ended_executions", metadata, Column("execution", Id, primary_key=True))

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column(
        "notification_id",
        Id,
        ForeignKey("notifications.id", name="fk_deliveries_notification_id_notifications", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("execution", Id, nullable=False),
    Column("event", String(16), nullable=False),
    Column("body", Text, nullable=False),
    Column("next_ms", Millis, nullable=False),
    Column("created_ms", Millis, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Index(None, "notification_id", "id"),
    Index(None, "status", "next_ms"),
)

hooks = Table(
    "hooks",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner_id", Id, ForeignKey("users.id", name="fk_hooks_owner_id_users"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("command", Text, nullable=False),
    Column("parameters", Text, nullable=False),  # JSON
    Column("target", String(128), nullable=False),  # the text of a TargetRef
    Column("working_dir", Text, nullable=False),
    Column("timeout", Integer),
    Column("secret", String(64), nullable=False),  # signs, so it cannot be a hash
    Column("created_ms", Millis, nullable=False),
    Column("old_secret", String(64)),
    Column("old_until_ms", Millis, nullable=False, server_default="0"),
)

# A runner of a Django project is whatever has the secret of its key.
runner_keys = Table(
    "runner_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False, unique=True),
    Column("created_ms", Millis, nullable=False),
    Column("expires_ms", Millis),  # in the past: it was revoked
    Column("suspended", Text),  # the reason why its runner gets no executions
    Column("seen_ms", Millis),  # its last heartbeat
    Column("runner_version", String(64), nullable=False),
    Column("python_version", String(64), nullable=False),
    Column("django_version", String(64), nullable=False),
)

runner_commands = Table(
    "runner_commands",
    metadata,
    Column("project_id", Id, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("commands", Text, nullable=False),  # JSON list of objects
    Column("hash", String(80), nullable=False),
)

# What requests of runners were answered, for requests that are repeated.
runner_answers = Table(
    "runner_answers",
    metadata,
    Column("key_id", Id, primary_key=True),
    Column("nonce", String(64), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),  # of the method, the path and the body
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_ms", Millis, nullable=False, index=True),
)

runner_runs = Table(
    "runner_runs",
    metadata,
    Column("execution", Id, primary_key=True),
    Column("key_id", Id, nullable=False),
    Column("nonce", String(64), nullable=False),  # of the request that started it
    Column("begun_ms", Millis, nullable=False, index=True),
    Column("heard_ms", Millis, nullable=False),  # the last call about it
    Column("timeout_ms", Millis, nullable=False, server_default="86400000"),
    Column("muted", Boolean, nullable=False),
    Column("stop", Integer, nullable=False),  # StopLevel
    Column("end_status", String(16)),
    Column("exit_code", Integer),
    Column("closed", Boolean, nullable=False),
)

runner_chunks = Table(
    "runner_chunks",
    metadata,
    Column("execution", Id, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("is_stderr", Boolean, nullable=False),
    Column("content", Text, nullable=False),
)

# Append-only. `body` is the canonical JSON that the hash is over; nothing else is stored of an event.
audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
)

# One row: where the chain begins and ends, signed. `end_*` is where it ends by now, NULL while nothing follows.
audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("first_previous", LargeBinary(32), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary(64), nullable=False),
    Column("end_seq", BigInteger),
    Column("end_hash", LargeBinary(32)),
    Column("end_mac", LargeBinary(32)),
)
