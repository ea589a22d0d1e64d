"""What a workflow or activity function takes and gives, compiled for a codec."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import GenericAlias, NoneType, SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    Never,
    NoReturn,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from romancy.core.binding import POSITIONAL, binder, signature_of
from romancy.core.codec import Codec, encode_error, is_record
from romancy.errors import CodecError, DefinitionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from romancy.core.codec import What

_PARAMETER = re.compile(r"`\$\.(\w+)")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_UNTYPED = (Any, object)
_PLAIN = (*_UNTYPED, bool, int, float, str, bytes, NoneType)  # annotations that no record comes back from
_CODECS_KEPT = 8  # a process has one or two; a test run that makes many must not keep them all


class _Compiled(NamedTuple):
    """A signature for one codec.

    ``records`` are the parameters that a record may be given for: name and position.
    """

    codec: Codec
    decode_arguments: Callable[[bytes], object]
    decode_result: Callable[[bytes], object]
    records: tuple[tuple[str, int], ...]
    is_result_typed: bool


class Signature:
    """The parameters and result of a function, as a codec sees them.

    Arguments are one JSON object by parameter name: a parameter may move, and one with a default may be
    added, and recorded inputs stay readable. A parameter or result without an annotation is ``Any``: it comes
    back as what JSON holds. ``x: int = None`` is read as ``int | None``.

    Annotations are resolved when the signature is made; a name that is missing then is looked for again at
    first use, where a `DefinitionError` says what is still missing or can't be decoded.

    Args:
        fn: A plain function or coroutine function.
        namespace: The locals of the frame that decorates ``fn``: annotations may name classes in them.
    """

    def __init__(self, fn: Callable[..., object], *, namespace: Mapping[str, object] | None = None) -> None:
        self.fn = fn
        self.name: str = getattr(fn, "__qualname__", repr(fn))
        signature = signature_of(fn, self.name)
        self._parameters = tuple(signature.parameters.values())
        self._bind = binder(self.name, self._parameters)
        kinds = {parameter.kind for parameter in self._parameters}
        self._is_positional = kinds <= set(POSITIONAL)
        self._namespace: Mapping[str, object] = namespace or {}
        self._annotations: dict[str, object] = {}
        self._unresolved: dict[str, object] = {
            parameter.name: parameter.annotation
            for parameter in self._parameters
            if parameter.annotation is not parameter.empty
        }
        if signature.return_annotation is not signature.empty:
            self._unresolved["return"] = signature.return_annotation
        self._resolve()
        self._compiled: _Compiled | None = None
        self._kept: dict[int, _Compiled] = {}

    def __repr__(self) -> str:
        return f"<Signature of {self.name}>"

    def bind_encode(self, codec: Codec, args: tuple[object, ...], kwargs: Mapping[str, object], what: What) -> bytes:
        """Return a call's arguments, defaults included, encoded.

        They are decoded once, so that what can't be read later is refused now.

        Raises:
            TypeError: The function can't be called like this; the message is Python's own.
            CodecError: An argument can't be encoded, does not fit its annotation, or is a record of another
                class (a subclass would come back as its base); the message names the path.
            DefinitionError: See the class.
        """
        values = self._bind(*args, **kwargs)
        compiled = self._compiled
        if compiled is None or compiled.codec is not codec:
            compiled = self._compile(codec)
        try:
            data = codec.encode(values)
        except Exception as error:
            raise _unencodable_argument(codec, error, values, what) from error
        try:
            decoded = compiled.decode_arguments(data)
        except Exception as error:
            raise self._misfit_argument(error, values, what) from error
        if compiled.records:
            found = msgspec.structs.astuple(cast("msgspec.Struct", decoded))
            for name, index in compiled.records:
                if type(values[name]) is not type(found[index]) and is_record(type(values[name])):
                    raise _other_class(f"{what}: {name!r}", values[name], found[index])
        return data

    def decode_arguments(self, codec: Codec, data: bytes, what: What) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the positional and keyword arguments of an encoded call, typed.

        A parameter that was added since, with a default, takes it.

        Raises:
            CodecError: The call does not fit the function any more: a parameter was removed, added without a
                default, or has another type.
            DefinitionError: See the class.
        """
        compiled = self._compiled
        if compiled is None or compiled.codec is not codec:
            compiled = self._compile(codec)
        try:
            decoded = compiled.decode_arguments(data)
        except Exception as error:
            raise CodecError(f"{what} does not fit {self.name}: {error}") from error
        values = msgspec.structs.astuple(cast("msgspec.Struct", decoded))
        if self._is_positional:
            return values, {}
        return self._unbind(values)

    def encode_result(self, codec: Codec, value: object, what: What) -> tuple[bytes, object]:
        """Return a result encoded, and as it will be read: what replay sees is what the caller sees now.

        Raises:
            CodecError: It can't be encoded, does not fit the return annotation, or is of another class
                (a subclass would come back as its base).
            DefinitionError: See the class.
        """
        compiled = self._compiled
        if compiled is None or compiled.codec is not codec:
            compiled = self._compile(codec)
        try:
            data = codec.encode(value)
        except Exception as error:
            raise encode_error(error, value, what) from error
        try:
            decoded = compiled.decode_result(data)
        except Exception as error:
            raise self._misfit(error, value, what) from error
        if type(decoded) is not type(value) and compiled.is_result_typed:
            self._check_class(value, decoded, what)
        return data, decoded

    def decode_result(self, codec: Codec, data: bytes, what: What) -> object:
        """Return an encoded result, typed by the return annotation.

        Raises:
            CodecError: It does not fit the annotation (any more).
            DefinitionError: See the class.
        """
        compiled = self._compiled
        if compiled is None or compiled.codec is not codec:
            compiled = self._compile(codec)
        try:
            return compiled.decode_result(data)
        except Exception as error:
            raise CodecError(
                f"{what} does not fit the annotation {self._shown_result()} of {self.name}: {error}"
            ) from error

    def result_decoder(self, codec: Codec) -> Callable[[bytes], object]:
        """Return the codec's decoder for the return annotation; it raises what the codec raises.

        Raises:
            DefinitionError: See the class.
        """
        return self._compile(codec).decode_result

    def _shown_result(self) -> str:
        annotation = self._annotations.get("return", Any)
        return f"`-> {None if annotation is NoneType else inspect.formatannotation(annotation)}`"

    def _misfit_argument(self, error: Exception, values: Mapping[str, object], what: What) -> CodecError:
        found = _PARAMETER.search(str(error))
        given = f" (given a {type(values[found[1]]).__qualname__})" if found and found[1] in values else ""
        return CodecError(f"{what} does not fit {self.name}: {error}{given}")

    def _misfit(self, error: Exception, value: object, what: What) -> CodecError:
        return CodecError(
            f"{what}, of type {type(value).__qualname__}, does not fit the annotation {self._shown_result()} "
            f"of {self.name}: {error}"
        )

    def _check_class(self, value: object, decoded: object, what: What) -> None:
        annotation = self._annotations["return"]
        if is_record(get_origin(annotation) or annotation) or is_record(type(value)):
            raise _other_class(str(what), value, decoded)

    def _unbind(self, values: tuple[object, ...]) -> tuple[tuple[object, ...], dict[str, object]]:
        args: list[object] = []
        kwargs: dict[str, object] = {}
        for parameter, value in zip(self._parameters, values, strict=True):
            match parameter.kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    args.extend(cast("list[object]", value))
                case inspect.Parameter.KEYWORD_ONLY:
                    kwargs[parameter.name] = value
                case inspect.Parameter.VAR_KEYWORD:
                    kwargs.update(cast("dict[str, object]", value))
                case _:
                    args.append(value)
        return tuple(args), kwargs

    def _resolve(self) -> dict[str, Exception]:
        """Resolve what can be resolved now; return why the rest can't."""
        failed: dict[str, Exception] = {}
        names = {**_closure_of(self.fn), **self._namespace} if self._unresolved else {}
        for name, annotation in list(self._unresolved.items()):
            try:
                self._annotations[name] = _evaluate(self.fn, annotation, names)
            except Exception as error:  # noqa: BLE001 - an annotation may be any expression
                failed[name] = error
            else:
                del self._unresolved[name]
        if not self._unresolved:
            self._namespace = {}  # so that a frame's locals are not kept alive
        return failed

    def _compile(self, codec: Codec) -> _Compiled:
        compiled = self._kept.get(id(codec))
        if compiled is None:
            decode_arguments = self._arguments_decoder(codec)
            result = self._annotations.get("return", Any)
            compiled = _Compiled(
                codec=codec,
                decode_arguments=decode_arguments,
                decode_result=self._decoder(codec, result, f"the result {self._shown_result()}"),
                records=tuple(
                    (parameter.name, index)
                    for index, parameter in enumerate(self._parameters)
                    if parameter.kind not in _VARIADIC
                    if not _is_among(_PLAIN, self._annotations.get(parameter.name, Any))
                ),
                is_result_typed=not _is_among(_UNTYPED, result),
            )
            if len(self._kept) >= _CODECS_KEPT:
                self._kept.clear()
            self._kept[id(codec)] = compiled
        self._compiled = compiled
        return compiled

    @property
    def only_parameter(self) -> str | None:
        """The name of the parameter, if there is one and it takes one argument."""
        only = self._parameters[0] if len(self._parameters) == 1 else None
        return None if only is None or only.kind in _VARIADIC else only.name

    def arguments_type(self) -> type[msgspec.Struct]:
        """Return a type whose fields are the parameters: what an encoded call is an instance of.

        Raises:
            DefinitionError: See the class.
        """
        for name, error in self._resolve().items():
            raise _unresolvable(self.name, name, self._unresolved[name], error) from error
        fields = [self._field(index, parameter) for index, parameter in enumerate(self._parameters)]
        return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)

    def _arguments_decoder(self, codec: Codec) -> Callable[[bytes], object]:
        struct = self.arguments_type()
        try:
            return codec.decoder(struct)
        except Exception:
            for parameter, field in zip(self._parameters, msgspec.structs.fields(struct), strict=True):
                self._decoder(codec, field.type, f"parameter {parameter.name!r}")
            raise

    def _field(self, index: int, parameter: inspect.Parameter) -> tuple[str, Any, Any]:
        """Return a parameter as a field of a Struct.

        The fields' own names are numbered: a parameter may have a name that a Struct's attribute has.
        """
        annotation: Any = self._annotations.get(parameter.name, Any)
        is_unpacked = get_origin(annotation) is Unpack
        (annotation,) = get_args(annotation) if is_unpacked else (annotation,)
        default: dict[str, Any] = {}
        if parameter.kind is parameter.VAR_POSITIONAL:
            annotation = annotation if is_unpacked else GenericAlias(list, (annotation,))
            default = {"default_factory": list}
        elif parameter.kind is parameter.VAR_KEYWORD:
            annotation = annotation if is_unpacked else GenericAlias(dict, (str, annotation))
            default = {"default_factory": dict}
        elif parameter.default is not parameter.empty:
            annotation = annotation | None if parameter.default is None else annotation
            # What can be shown in a schema is; another value may be one that msgspec would copy, or refuse.
            is_plain = type(parameter.default) in _PLAIN
            default = {"default": parameter.default} if is_plain else {"default_factory": _constant(parameter.default)}
        return f"p{index}", annotation, msgspec.field(name=parameter.name, **default)

    def _decoder(self, codec: Codec, annotation: object, where: str) -> Callable[[bytes], object]:
        try:
            return codec.decoder(annotation)
        except Exception as error:
            advice = (
                " Make the members msgspec Structs with `tag=True`, which says in the data which one it is."
                if "union" in str(error)
                else ""
            )
            raise DefinitionError(f"{self.name}: {where} can't be decoded: {error}.{advice}") from error


def _evaluate(fn: Callable[..., object], annotation: object, names: dict[str, object]) -> object:
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    function_globals: dict[str, Any] = getattr(inspect.unwrap(fn), "__globals__", {})
    resolved = get_type_hints(holder, function_globals, names, include_extras=True)["it"]
    return Any if _is_among((Never, NoReturn), resolved) else resolved


def _closure_of(fn: Callable[..., object]) -> dict[str, object]:
    """Return what ``fn`` closes over, and its type parameters: an annotation may name them."""
    function = inspect.unwrap(fn)
    names: dict[str, object] = {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
    code = getattr(function, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names


def _is_among(annotations: Iterable[object], annotation: object) -> bool:
    return any(annotation is other for other in annotations)  # annotations need not be hashable or comparable


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


def _unresolvable(name: str, parameter: str, annotation: object, error: Exception) -> DefinitionError:
    where = "its result" if parameter == "return" else f"parameter {parameter!r}"
    shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return DefinitionError(
        f"{name}: the annotation `{shown}` of {where} can't be resolved: {error}. Import or define it at run "
        f"time, before {name} is first used; an import under `if TYPE_CHECKING` is not enough"
    )


def _unencodable_argument(codec: Codec, error: Exception, values: Mapping[str, object], what: What) -> CodecError:
    for name, value in values.items():
        try:
            codec.encode(value)
        except Exception:  # noqa: BLE001 - whatever the value's own code raises
            return encode_error(error, value, f"{what}: {name!r}")
    return encode_error(error, values, what)


def _other_class(what: str, given: object, decoded: object) -> CodecError:
    return CodecError(
        f"{what} is of class {type(given).__qualname__} and would come back as {type(decoded).__qualname__}: "
        "give exactly the annotated class, or annotate a union of tagged msgspec Structs"
    )
