"""JSON schemas of what is sent and replied, without references: they fit into any document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from romancy.core.definitions import Workflow

_REFERENCE = "#/romancy/{name}"
_PREFIX = "#/romancy/"
_ANYTHING: dict[str, Any] = {}


def schema_of(kind: object) -> dict[str, Any]:
    """Return a type's schema; that of one that msgspec can't describe admits anything.

    Where a type holds itself, its inner self admits anything: such a schema has no end without references.
    """
    try:
        (schema,), components = msgspec.json.schema_components([kind], schema_hook=_of_others, ref_template=_REFERENCE)
    except (TypeError, NotImplementedError):
        return _ANYTHING
    return cast("dict[str, Any]", _inlined(schema, components, ()))


def arguments_schema(workflow: Workflow[..., Any]) -> dict[str, Any]:
    """Return the schema of a workflow's arguments, an object by parameter names."""
    schema = schema_of(workflow.signature.arguments_type())
    return {**schema, "title": f"The arguments of {workflow.name}"} if schema else _ANYTHING


def _of_others(kind: type) -> dict[str, Any]:
    """Describe a type that msgspec does not know: pydantic models describe themselves."""
    describe = getattr(kind, "model_json_schema", None)
    if describe is None:
        raise NotImplementedError
    schema = cast("dict[str, Any]", describe(ref_template="#/pydantic/{model}"))
    return cast("dict[str, Any]", _inlined(schema, schema.pop("$defs", {}), (), "#/pydantic/"))


def _inlined(node: object, components: dict[str, Any], path: tuple[str, ...], prefix: str = _PREFIX) -> object:
    """Return a schema with what its references lead to in their places."""
    if isinstance(node, list):
        return [_inlined(each, components, path, prefix) for each in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("dict[str, object]", node)
    target = schema.get("$ref")
    if not isinstance(target, str) or not target.startswith(prefix):
        # What tells the members of a union apart names them by reference, which it can't here.
        return {
            key: _inlined(value, components, path, prefix) for key, value in schema.items() if key != "discriminator"
        }
    name = target.removeprefix(prefix)
    if name in path:
        return _ANYTHING
    return _inlined(components[name], components, (*path, name), prefix)
