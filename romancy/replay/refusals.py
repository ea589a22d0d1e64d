"""What a workflow's event loop refuses: I/O, threads, subprocesses, and being run, stopped or set up by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from romancy.errors import NotInWorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable


def refuse_io(loop_class: Any) -> None:
    """Give a class of event loops the methods that refuse; nothing of it is abstract then."""
    for name in REFUSED:
        setattr(loop_class, name, _refusal(name))
    loop_class.__abstractmethods__ = frozenset()


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(self: object, *_: object, **__: object) -> Any:  # noqa: ARG001 - it becomes a method
        msg = f"loop.{name}() in a workflow: put it in an activity"
        raise NotInWorkflowError(msg)

    refuse.__name__ = name
    return refuse


REFUSED = [
    "run_forever",
    "run_until_complete",
    "stop",
    "close",
    "shutdown_asyncgens",
    "shutdown_default_executor",
    "run_in_executor",
    "set_default_executor",
    "getaddrinfo",
    "getnameinfo",
    "create_connection",
    "create_server",
    "start_tls",
    "sendfile",
    "create_unix_connection",
    "create_unix_server",
    "connect_accepted_socket",
    "create_datagram_endpoint",
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_shell",
    "subprocess_exec",
    "add_reader",
    "remove_reader",
    "add_writer",
    "remove_writer",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendto",
    "sock_connect",
    "sock_accept",
    "sock_sendfile",
    "add_signal_handler",
    "remove_signal_handler",
    "set_task_factory",
    "set_exception_handler",
    "call_soon_threadsafe",
]
