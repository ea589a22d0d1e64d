"""What a call's arguments are called: binding them to parameters, fast."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, cast

from romancy.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_of(fn: Callable[..., object], name: str) -> inspect.Signature:
    """Return a function's signature, its annotations as they are written.

    Raises:
        DefinitionError: It has none.
    """
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(fn)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{name} can't be used: {error}") from error


def binder(name: str, parameters: tuple[inspect.Parameter, ...]) -> Callable[..., dict[str, object]]:
    """Return a function that takes a call's arguments and returns them by parameter name.

    It is compiled from source, like a NamedTuple's constructor: ten times as fast as
    `inspect.Signature.bind`, and the interpreter itself says what is wrong with a call. The source holds
    parameter names and nothing else.
    """
    source: list[str] = []
    previous: inspect.Parameter | None = None
    for parameter in parameters:
        kind = parameter.kind
        if previous is not None and previous.kind is kind.POSITIONAL_ONLY is not kind:
            source.append("/")
        if kind is kind.KEYWORD_ONLY and (previous is None or previous.kind in POSITIONAL):
            source.append("*")
        stars = {kind.VAR_POSITIONAL: "*", kind.VAR_KEYWORD: "**"}.get(kind, "")
        default = "" if parameter.default is parameter.empty else "=None"
        source.append(f"{stars}{parameter.name}{default}")
        previous = parameter
    if previous is not None and previous.kind is previous.POSITIONAL_ONLY:
        source.append("/")
    named = ", ".join(f"{parameter.name!r}: {parameter.name}" for parameter in parameters)
    scope: dict[str, Any] = {}
    exec(f"def bind({', '.join(source)}): return {{{named}}}", scope)  # noqa: S102 - parameter names and nothing else: see above
    bind = scope["bind"]
    given = [parameter for parameter in parameters if parameter.default is not parameter.empty]
    bind.__defaults__ = tuple(parameter.default for parameter in given if parameter.kind in POSITIONAL)
    bind.__kwdefaults__ = {parameter.name: parameter.default for parameter in given if parameter.kind not in POSITIONAL}
    bind.__qualname__ = name
    return cast("Callable[..., dict[str, object]]", bind)
