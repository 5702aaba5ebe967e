"""Every error of ours, named for the fact; what is not in this tree is a fault of ours and ends with 70.

PipelineError                     70
├── CheckFailed                    1   what was checked does not hold; the report says where
│   ├── DataTestsFailed            1   a dbt test found rows that break it
│   ├── InvalidEvent               1   an event breaks the contract and is not sent
│   ├── PostgresRefused            1   Postgres answers, and refuses a statement
│   ├── SourceMismatch             1   a table of the source, or a column of it, is not there
│   └── ValidationError            1   rows lack a required value
│       └── DataContractError      1   a column is missing, or rows break a rule of the contract
├── KafkaFailed                   70   Kafka answers, and says what no repetition mends
├── ModelsFailed                  70   dbt could not build a model
├── StepFailed                    70   the command of a scheduled step did not end well
├── UsageError                     2   the command line asks for something that does not exist
│   └── ConfigurationError         2   a file, a variable or --set holds a wrong key or value
├── TransientError                70   may be retried as it is
│   └── DependencyError            3   something we need does not answer, or not as it should
│       ├── KafkaUnreachable       3
│       │   └── KafkaRefused       3   a broker answers, but does not let us in
│       ├── LakeUnreachable        3   there is no lake where it should be, or it cannot be read
│       ├── NotDelivered           3   Kafka did not take an event
│       ├── PostgresUnreachable    3
│       ├── SparkEnded             3   Spark's JVM has ended by itself, as when its heap is full
│       └── TopicMissing           3
├── SetupError                     3   Java, a jar or a package is missing or too old
└── RefusedToStart                 4   starting, or going on, would damage data
    ├── AlreadyRunning             4   another process runs the query
    ├── CheckpointDamaged          4   a part of the checkpoint is gone or cannot be read
    ├── CheckpointMismatch         4   the checkpoint and a table do not belong together
    ├── DefinitionChanged          4   the live version of a view was made by another definition
    ├── DiskFull                   4
    ├── LeaseLost                  4   another process took our lock on an object store for dead
    ├── OffsetsLost                4   Kafka no longer holds what is to be read next
    ├── PlanChanged                4   the query is not the one that made the checkpoint
    ├── TopicReplaced              4   a topic is not the one that the checkpoint has read
    └── UnreadableRecord           4   Spark cannot read a Kafka record at all

The message says what was expected, what came, where, and what to do next; the attributes carry the same
facts for programs. `exit_code` is what the command line ends with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AlreadyRunning",
    "CheckFailed",
    "CheckpointDamaged",
    "CheckpointMismatch",
    "ConfigurationError",
    "DataContractError",
    "DataTestsFailed",
    "DefinitionChanged",
    "DependencyError",
    "DiskFull",
    "InvalidEvent",
    "KafkaFailed",
    "KafkaRefused",
    "KafkaUnreachable",
    "LakeUnreachable",
    "LeaseLost",
    "ModelsFailed",
    "NotDelivered",
    "OffsetsLost",
    "PipelineError",
    "PlanChanged",
    "PostgresRefused",
    "PostgresUnreachable",
    "RefusedToStart",
    "SetupError",
    "SourceMismatch",
    "SparkEnded",
    "StepFailed",
    "TopicMissing",
    "TopicReplaced",
    "TransientError",
    "UnreadableRecord",
    "UsageError",
    "ValidationError",
]


class PipelineError(Exception):
    """The root of the tree; `message` is complete and can be shown to a person as it is."""

    exit_code = 70

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CheckFailed(PipelineError):
    exit_code = 1


class SourceMismatch(CheckFailed):
    """`columns` are those that `table` lacks; none where the table itself is not there or is no table."""

    def __init__(self, message: str, *, table: str, columns: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.table = table
        self.columns = tuple(columns)


class DataTestsFailed(CheckFailed):
    """`tests` are the names of the dbt tests that failed."""

    def __init__(self, message: str, *, tests: Sequence[str]) -> None:
        super().__init__(message)
        self.tests = tuple(tests)


class KafkaFailed(PipelineError):
    """`name` is Kafka's for the error."""

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class ModelsFailed(PipelineError):
    """`models` are those that failed, without those left out because of them."""

    def __init__(self, message: str, *, models: Sequence[str]) -> None:
        super().__init__(message)
        self.models = tuple(models)


class StepFailed(PipelineError):
    """`ended_with` is the exit code of the command, negative where a signal killed it."""

    def __init__(self, message: str, *, step: str, ended_with: int) -> None:
        super().__init__(message)
        self.step = step
        self.ended_with = ended_with


class InvalidEvent(CheckFailed):
    """`violations` are the rules that the event breaks, in contract order."""

    def __init__(self, message: str, *, violations: Sequence[str]) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class PostgresRefused(CheckFailed):
    """`address` is host:port/database; `sqlstate` Postgres' code for the reason, None where only its words are known."""

    def __init__(self, message: str, *, address: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.address = address
        self.sqlstate = sqlstate


class ValidationError(CheckFailed):
    """`count` rows are wrong in `column`."""

    def __init__(self, message: str, *, column: str, count: int) -> None:
        super().__init__(message)
        self.column = column
        self.count = count


class DataContractError(ValidationError):
    """`rule` is the one that is broken: missing, type, null or value."""

    def __init__(self, message: str, *, column: str, count: int, rule: str) -> None:
        super().__init__(message, column=column, count=count)
        self.rule = rule


class UsageError(PipelineError):
    """`nearest` is the known name that looks most like the unknown one, where there is one."""

    exit_code = 2

    def __init__(self, message: str, *, nearest: str | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class ConfigurationError(UsageError):
    """`source` is the file (with its line), the environment variable or the --set that is wrong; `key` the dotted path."""

    def __init__(
        self, message: str, *, source: str | None = None, key: str | None = None, nearest: str | None = None
    ) -> None:
        super().__init__(message, nearest=nearest)
        self.source = source
        self.key = key


class TransientError(PipelineError):
    pass


class DependencyError(TransientError):
    exit_code = 3


class KafkaUnreachable(DependencyError):
    """`bootstrap_servers` as they are configured, separated by commas."""

    def __init__(self, message: str, *, bootstrap_servers: str) -> None:
        super().__init__(message)
        self.bootstrap_servers = bootstrap_servers


class KafkaRefused(KafkaUnreachable):
    """A login, a certificate or the protocol does not fit."""


class LakeUnreachable(DependencyError):
    """`root` is where the lake should be."""

    def __init__(self, message: str, *, root: str) -> None:
        super().__init__(message)
        self.root = root


class PostgresUnreachable(DependencyError):
    """`address` is host:port/database, without user and password."""

    def __init__(self, message: str, *, address: str) -> None:
        super().__init__(message)
        self.address = address


class NotDelivered(DependencyError):
    """`name` is Kafka's for the first error; `keys` are of the `count` events that are concerned, as far as they are known."""

    def __init__(self, message: str, *, name: str, keys: Sequence[str], count: int) -> None:
        super().__init__(message)
        self.name = name
        self.keys = tuple(keys)
        self.count = count


class SparkEnded(DependencyError):
    """Spark's JVM ended with `exit_code_of_jvm`; a negative one is a signal."""

    def __init__(self, message: str, *, exit_code_of_jvm: int) -> None:
        super().__init__(message)
        self.exit_code_of_jvm = exit_code_of_jvm


class TopicMissing(DependencyError):
    """`topics` are those that are missing, `alike` those on the brokers that look like one of them."""

    def __init__(
        self, message: str, *, bootstrap_servers: str, topics: Sequence[str], alike: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.bootstrap_servers = bootstrap_servers
        self.topics = tuple(topics)
        self.alike = tuple(alike)


class SetupError(PipelineError):
    exit_code = 3


class RefusedToStart(PipelineError):
    exit_code = 4


class AlreadyRunning(RefusedToStart):
    def __init__(self, message: str, *, query: str) -> None:
        super().__init__(message)
        self.query = query


class CheckpointDamaged(RefusedToStart):
    """`file` of the checkpoint of `query` is missing or unreadable."""

    def __init__(self, message: str, *, query: str, file: str) -> None:
        super().__init__(message)
        self.query = query
        self.file = file


class CheckpointMismatch(RefusedToStart):
    """The checkpoint of `query` was not made for this table: going on would skip or repeat batches."""

    def __init__(self, message: str, *, query: str, table: str, checkpoint: str) -> None:
        super().__init__(message)
        self.query = query
        self.table = table
        self.checkpoint = checkpoint


class DefinitionChanged(RefusedToStart):
    """The `live` version of `view` was made by another definition than `version`, which the code has."""

    def __init__(self, message: str, *, view: str, live: str, version: int) -> None:
        super().__init__(message)
        self.view = view
        self.live = live
        self.version = version


class DiskFull(RefusedToStart):
    """`free_bytes` are left below `path`; None where a write has found none left."""

    def __init__(self, message: str, *, path: str, free_bytes: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.free_bytes = free_bytes


class LeaseLost(RefusedToStart):
    """The lock at `path` was not renewed in time."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class OffsetsLost(RefusedToStart):
    """`query` would go on at `expected`, but Kafka holds the offsets from `first` to before `end`."""

    def __init__(
        self, message: str, *, query: str, topic: str, partition: int, expected: int, first: int, end: int
    ) -> None:
        super().__init__(message)
        self.query = query
        self.topic = topic
        self.partition = partition
        self.expected = expected
        self.first = first
        self.end = end


class PlanChanged(RefusedToStart):
    """`differences` names each thing that must stay under a checkpoint and has not, as (what, before, now)."""

    def __init__(self, message: str, *, query: str, differences: Sequence[tuple[str, str, str]]) -> None:
        super().__init__(message)
        self.query = query
        self.differences = tuple(differences)


class TopicReplaced(RefusedToStart):
    def __init__(self, message: str, *, query: str, topic: str) -> None:
        super().__init__(message)
        self.query = query
        self.topic = topic


class UnreadableRecord(RefusedToStart):
    """The record at `offset` stops every query that reads it."""

    def __init__(self, message: str, *, query: str, topic: str, partition: int, offset: int) -> None:
        super().__init__(message)
        self.query = query
        self.topic = topic
        self.partition = partition
        self.offset = offset
