"""What workflow code must not use, by the name that it is imported under, and what takes its place."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Rule(StrEnum):
    """Say what kind of fault a finding is; the words that ``# romancy: ignore[...]`` takes."""

    CLOCK = "clock"
    SLEEP = "sleep"
    RANDOM = "random"
    UUID = "uuid"
    ENVIRONMENT = "environment"
    FILES = "files"
    NETWORK = "network"
    THREADS = "threads"
    OUTPUT = "output"
    SETS = "sets"
    GLOBALS = "globals"
    IDENTITY = "identity"
    AS_COMPLETED = "as-completed"
    SWALLOWED = "swallowed"


class Advice(NamedTuple):
    """What a rule says about a name: what is wrong, and what to write."""

    rule: Rule
    instead: str


_ACTIVITY = "put it into an activity"
_NOW = "romancy.now() is the same at every replay"
_SIDE_EFFECT = "pass it as an argument, or record it by romancy.side_effect(...)"
_LOGGER = "romancy.logger is muted while the code is replayed"

_BY_RULE: tuple[tuple[Advice, tuple[str, ...]], ...] = (
    (
        Advice(Rule.CLOCK, _NOW),
        (
            *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"),
            *("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter"),
            *("time.perf_counter_ns", "time.process_time", "time.localtime", "time.gmtime", "time.ctime"),
            "time.strftime",
        ),
    ),
    (Advice(Rule.SLEEP, "await romancy.sleep(...) or asyncio.sleep(...), which are durable"), ("time.sleep",)),
    (
        Advice(Rule.RANDOM, "romancy.random() is the same at every replay"),
        ("random.*", "secrets.*", "os.urandom", "os.getrandom", "numpy.random.*"),
    ),
    (
        Advice(Rule.UUID, "romancy.uuid4() is the same at every replay"),
        ("uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7", "uuid.getnode"),
    ),
    (
        Advice(Rule.ENVIRONMENT, _SIDE_EFFECT),
        (
            *("os.environ", "os.environ.*", "os.environb", "os.getenv", "os.getpid", "os.getcwd", "os.uname"),
            *("os.cpu_count", "sys.argv", "socket.gethostname", "platform.*", "getpass.*", "os.getlogin"),
        ),
    ),
    (
        Advice(Rule.FILES, _ACTIVITY),
        (
            *("open", "io.open", "os.listdir", "os.scandir", "os.walk", "os.stat", "os.remove", "os.rename"),
            *("os.mkdir", "os.makedirs", "os.path.exists", "os.path.isfile", "os.path.isdir", "os.path.getmtime"),
            *("shutil.*", "tempfile.*", "glob.*", "sqlite3.*", "pathlib.Path.cwd", "pathlib.Path.home"),
            *("aiofiles.*", "anyio.open_file", "anyio.Path", "anyio.Path.*", "aiosqlite.*"),
        ),
    ),
    (
        Advice(Rule.NETWORK, _ACTIVITY),
        (
            *("httpx.*", "requests.*", "aiohttp.*", "urllib.request.*", "urllib3.*", "http.client.*", "socket.*"),
            *("asyncpg.*", "psycopg.*", "psycopg2.*", "redis.*", "boto3.*", "aioboto3.*", "smtplib.*", "grpc.*"),
            *("openai.*", "anthropic.*", "asyncio.open_connection", "asyncio.start_server"),
            *(
                "asyncio.open_unix_connection",
                "asyncio.start_unix_server",
                "anyio.connect_tcp",
                "anyio.create_tcp_listener",
            ),
        ),
    ),
    (
        Advice(Rule.THREADS, _ACTIVITY),
        (
            *("threading.*", "multiprocessing.*", "concurrent.futures.*", "subprocess.*", "os.system", "os.popen"),
            *("asyncio.to_thread", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"),
            *("anyio.to_thread.run_sync", "anyio.to_process.run_sync", "anyio.run_process", "anyio.open_process"),
        ),
    ),
    (
        Advice(Rule.OUTPUT, _LOGGER),
        (
            *("print", "logging.debug", "logging.info", "logging.warning", "logging.error", "logging.exception"),
            *("logging.critical", "logging.log", "warnings.warn", "sys.stdout.write", "sys.stderr.write"),
        ),
    ),
    (Advice(Rule.OUTPUT, "ask for it in an activity, or wait for a message on a Channel"), ("input",)),
    (Advice(Rule.IDENTITY, "it differs from process to process: use a value of your own"), ("id", "hash")),
    (
        Advice(Rule.AS_COMPLETED, "romancy.as_completed gives them in the recorded order"),
        ("asyncio.as_completed",),
    ),
)
_EXACT = {name: advice for advice, names in _BY_RULE for name in names if not name.endswith(".*")}
_WITHIN = {name.removesuffix(".*"): advice for advice, names in _BY_RULE for name in names if name.endswith(".*")}
_HARMLESS = frozenset(
    {
        # What makes, reads or compares values only.
        *("random.Random.random", "aiohttp.ClientError", "httpx.HTTPError", "requests.RequestException"),
        *("subprocess.CalledProcessError", "concurrent.futures.TimeoutError", "socket.gaierror", "socket.timeout"),
    }
)


def advice_on(name: str) -> Advice | None:
    """Return what is wrong with using a name, given as it is imported: ``datetime.datetime.now``."""
    if name in _HARMLESS or name.endswith(("Error", "Exception", "Timeout")):
        return None
    exact = _EXACT.get(name)
    if exact is not None:
        return exact
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        within = _WITHIN.get(".".join(parts[:length]))
        if within is not None:
            return within
    return None


PATH_METHODS = frozenset(
    {
        *("read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir", "iterdir", "glob"),
        *("rglob", "mkdir", "unlink", "touch", "stat", "rename", "replace", "rmdir", "open", "resolve"),
    }
)
"""Of `pathlib.Path`, those that look at the file system or change it."""

MUTATORS = frozenset(
    {
        *("append", "extend", "insert", "remove", "pop", "clear", "update", "add", "discard", "setdefault", "popitem"),
        *("appendleft", "popleft", "sort", "reverse"),
    }
)
"""Methods that change a list, dict, set or deque."""
