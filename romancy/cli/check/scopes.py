"""Which code of a module is workflow code, and what its names stand for."""

from __future__ import annotations

import ast
from typing import NamedTuple, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_WORKFLOW = frozenset({"romancy.workflow", "romancy.core.definitions.workflow"})
_ACTIVITY = frozenset({"romancy.activity", "romancy.core.definitions.activity"})
_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MAKERS = frozenset({"list", "dict", "set", "collections.defaultdict", "collections.deque", "collections.Counter"})


class WorkflowCode(NamedTuple):
    """A function whose code is replayed: a workflow, or what one calls (``caller``)."""

    function: Function
    caller: str | None


class Names:
    """What the names of a module stand for: imports by what is imported, and everything else by itself."""

    def __init__(self, tree: ast.Module) -> None:
        self._imported: dict[str, str] = {}
        for node in ast.walk(tree):
            self._learn(node)
        self.functions = {node.name: node for node in tree.body if isinstance(node, Function)}
        self.mutable = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and self._is_mutable(node.value)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                self._imported[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                self._imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _is_mutable(self, value: ast.expr | None) -> bool:
        if isinstance(value, ast.Call):
            return self.name_of(value.func) in _MAKERS
        return isinstance(value, _DISPLAYS)

    def name_of(self, node: ast.AST) -> str | None:
        """Return what a name, or attributes of one, stand for; None: it is something else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Call) and parts:  # a method of what a call has returned, such as Path(...)
            inner = self.name_of(node.func)
            return None if inner is None else ".".join([inner, *reversed(parts)])
        if not isinstance(node, ast.Name):
            return None
        return ".".join([self._imported.get(node.id, node.id), *reversed(parts)])

    def is_decorated(self, function: Function, names: frozenset[str]) -> bool:
        """Tell whether a function has one of some decorators, called or not."""
        for decorator in function.decorator_list:
            target = decorator.func if isinstance(decorator, ast.Call) else decorator
            if self.name_of(target) in names:
                return True
        return False

    def workflow_code(self, tree: ast.Module) -> list[WorkflowCode]:
        """Return the workflows of a module, and the functions of it that they call, in the order of their lines."""
        workflows = [
            node for node in ast.walk(tree) if isinstance(node, Function) and self.is_decorated(node, _WORKFLOW)
        ]
        found = {id(each): WorkflowCode(each, None) for each in workflows}
        todo = list(found.values())
        while todo:
            code = todo.pop()
            for node in ast.walk(code.function):
                helper = self.functions.get(_called_name(node))
                if helper is None or id(helper) in found or self.is_decorated(helper, _ACTIVITY):
                    continue
                found[id(helper)] = WorkflowCode(helper, code.caller or code.function.name)
                todo.append(found[id(helper)])
        return sorted(found.values(), key=lambda code: code.function.lineno)


def _called_name(node: ast.AST) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
