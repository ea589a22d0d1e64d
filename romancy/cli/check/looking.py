"""Going through workflow code, and finding what a replay would not repeat."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from romancy.cli.check.names import MUTATORS, PATH_METHODS, Advice, Rule, advice_on
from romancy.cli.check.scopes import Function, Names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from romancy.cli.check.scopes import WorkflowCode

_IGNORE = re.compile(r"#\s*romancy:\s*ignore(?:\[([\w\s,-]+)\])?")
_RECORDED = frozenset({"romancy.side_effect"})
_IN_NO_ORDER = frozenset({"set", "frozenset"})
_INTO_AN_ORDER = frozenset({"list", "tuple", "enumerate", "zip", "map", "filter", "iter", "next", "reversed"})
_SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})
_SORTED = Advice(Rule.SETS, "a set has no order that a replay repeats: sorted(...), a list or a dict has")
_GLOBAL = Advice(
    Rule.GLOBALS, "other runs share it, and a replay changes it again: use a local variable, or an activity"
)
_RAISE = Advice(Rule.SWALLOWED, "it catches SuspendSignal too, by which a run leaves memory: raise it again")


class Finding(NamedTuple):
    """Something that a replay would not repeat.

    Attributes:
        path: The file, as it was given.
        line: From 1.
        column: From 1.
        rule: What kind of fault it is.
        what: The code that it is about.
        instead: What to write.
        function: The workflow, or the function that it calls.
        caller: The workflow that calls the function; None: it is one.
    """

    path: str
    line: int
    column: int
    rule: Rule
    what: str
    instead: str
    function: str
    caller: str | None

    def __str__(self) -> str:
        called = f", which workflow {self.caller} calls" if self.caller else ""
        place = f"{self.path}:{self.line}:{self.column}"
        return f"{place}: {self.rule}: {self.what} in {self.function}{called}: {self.instead}"


def check_source(source: str, path: str) -> list[Finding]:
    """Return what is wrong with the workflow code of a module, in the order of its lines.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = ast.parse(source, path)
    names = Names(tree)
    lines = source.splitlines()
    found: dict[tuple[int, int, Rule], Finding] = {}
    for code in names.workflow_code(tree):
        for node, what, advice in _Look(names, code.function).all():
            place = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0) + 1)
            if not _is_ignored(lines[place[0] - 1], advice.rule):
                finding = Finding(path, *place, advice.rule, what, advice.instead, *_named(code))
                found.setdefault((*place, advice.rule), finding)
    return sorted(found.values(), key=lambda finding: (finding.line, finding.column, finding.rule))


def _named(code: WorkflowCode) -> tuple[str, str | None]:
    return code.function.name, code.caller


def _is_ignored(line: str, rule: Rule) -> bool:
    ignore = _IGNORE.search(line)
    return ignore is not None and (ignore[1] is None or rule in {word.strip() for word in ignore[1].split(",")})


class _Look:
    """One function's code."""

    def __init__(self, names: Names, function: Function) -> None:
        self._names = names
        self._function = function
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        stored = (node for node in ast.walk(function) if isinstance(node, ast.Name))
        self._globals = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        self._local = {each.arg for each in every} | {node.id for node in stored if isinstance(node.ctx, ast.Store)}
        self._local -= self._globals
        self._sets = set(self._set_variables())

    def all(self) -> Iterator[tuple[ast.AST, str, Advice]]:
        """Give every place, what it says, and what is wrong with it."""
        for statement in self._function.body:
            yield from self._within(statement)

    def _within(self, node: ast.AST) -> Iterator[tuple[ast.AST, str, Advice]]:
        if isinstance(node, ast.Call) and self._names.name_of(node.func) in _RECORDED:
            return  # what it does is recorded
        if isinstance(node, ast.AnnAssign):
            children: list[ast.AST] = [node.target, *([] if node.value is None else [node.value])]
        elif isinstance(node, Function):
            children = [*node.body]
        else:
            children = [*ast.iter_child_nodes(node)]
        yield from self._at(node)
        if isinstance(node, ast.Attribute) and self._meaning(node) is not None:
            return  # its parts were looked at with it
        for child in children:
            yield from self._within(child)

    def _at(self, node: ast.AST) -> Iterator[tuple[ast.AST, str, Advice]]:
        match node:
            case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                advice = self._meaning(node)
                if advice is not None:
                    yield node, ast.unparse(node), advice
            case ast.For(iter=it) | ast.AsyncFor(iter=it) | ast.comprehension(iter=it) if self._is_set(it):
                yield it, f"iterating over {ast.unparse(it)}", _SORTED
            case ast.Starred(value=value) if self._is_set(value):
                yield value, f"unpacking {ast.unparse(value)}", _SORTED
            case ast.Call():
                yield from self._at_call(node)
            case ast.Global() | ast.Assign() | ast.AugAssign() | ast.Delete():
                yield from self._at_change(node)
            case ast.ExceptHandler() if self._swallows(node):
                yield node, f"except {ast.unparse(node.type) if node.type else 'without a class'}", _RAISE
            case _:
                return

    def _meaning(self, node: ast.AST) -> Advice | None:
        """Return what is wrong with what a name stands for, if it is no local variable."""
        name = self._names.name_of(node)
        if name is None or name.partition(".")[0] in self._local:
            return None
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self._local:
            return None
        if isinstance(node, ast.Attribute) and name.startswith("pathlib.Path.") and node.attr in PATH_METHODS:
            return Advice(Rule.FILES, "put it into an activity")
        return advice_on(name)

    def _at_call(self, node: ast.Call) -> Iterator[tuple[ast.AST, str, Advice]]:
        function = node.func
        name = self._names.name_of(function)
        orders = name in _INTO_AN_ORDER or (isinstance(function, ast.Attribute) and function.attr == "join")
        for argument in node.args if orders else ():
            if self._is_set(argument):
                yield argument, f"{ast.unparse(function)}() of {ast.unparse(argument)}", _SORTED
        if not isinstance(function, ast.Attribute):
            return
        if function.attr == "pop" and not node.args and self._is_set(function.value):
            yield node, f"{ast.unparse(node)}, which takes any one", _SORTED
        if function.attr in MUTATORS and self._is_shared(function.value):
            yield node, f"changing {ast.unparse(function.value)}", _GLOBAL
        if function.attr in {"run_in_executor", "add_reader", "add_writer"}:
            yield node, ast.unparse(function), Advice(Rule.THREADS, "put it into an activity")

    def _at_change(
        self, node: ast.Global | ast.Assign | ast.AugAssign | ast.Delete
    ) -> Iterator[tuple[ast.AST, str, Advice]]:
        if isinstance(node, ast.Global):
            yield node, ast.unparse(node), _GLOBAL
            return
        targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
        for target in targets:
            if isinstance(target, ast.Subscript | ast.Attribute) and self._is_shared(target.value):
                yield target, f"changing {ast.unparse(target)}", _GLOBAL

    def _is_shared(self, node: ast.AST) -> bool:
        """Tell whether an expression is something of the module that can be changed."""
        return isinstance(node, ast.Name) and node.id not in self._local and node.id in self._names.mutable

    # -- sets -------------------------------------------------------------------------------------------

    def _set_variables(self) -> Iterator[str]:
        for node in ast.walk(self._function):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if self._makes_set(value):
                    yield name
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind) if self._says_set(kind):
                    yield name
                case ast.arg(arg=name, annotation=kind) if kind is not None and self._says_set(kind):
                    yield name
                case _:
                    continue

    def _says_set(self, annotation: ast.AST) -> bool:
        kind = annotation.value if isinstance(annotation, ast.Subscript) else annotation
        return self._names.name_of(kind) in {*_IN_NO_ORDER, "collections.abc.Set", "typing.AbstractSet"}

    def _makes_set(self, node: ast.AST) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=function):
                if self._names.name_of(function) in _IN_NO_ORDER:
                    return True
                return isinstance(function, ast.Attribute) and function.attr in _SET_METHODS
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
                return self._makes_set(left) or self._makes_set(right)
            case _:
                return False

    def _is_set(self, node: ast.AST) -> bool:
        return self._makes_set(node) or (isinstance(node, ast.Name) and node.id in self._sets)

    # -- suspension -------------------------------------------------------------------------------------

    def _swallows(self, handler: ast.ExceptHandler) -> bool:
        """Tell whether a handler catches the signal to leave memory, and does not raise it again."""
        kinds: list[ast.expr | None] = [*handler.type.elts] if isinstance(handler.type, ast.Tuple) else [handler.type]
        catches = any(
            kind is None or self._names.name_of(kind) in {"BaseException", "romancy.SuspendSignal"} for kind in kinds
        )
        return catches and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))
