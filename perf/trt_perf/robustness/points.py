"""Where a job's way can throw: found by walking the source, and made to throw while the real parts run.

A module is compiled from a syntax tree in which every point passes `passing(number)` first. This needs a process whose
modules were not imported yet: `instrument` is to be called before anything of the worker is.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import anyio

SUPERVISOR = (
    "trt_worker.concurrency",
    "trt_worker.delivery",
    "trt_worker.encode",
    "trt_worker.intake",
    "trt_worker.supervisor.device_link",
    "trt_worker.supervisor.maker",
    "trt_worker.supervisor.service",
    "trt_worker.submit",
)
"""Packages and modules between a job's frame and its receipt in the supervisor; each of their awaits is a point."""

DEVICE = ("trt_worker.device.loop", "trt_worker.device.preparation")
"""Modules in which the device process goes through a job's stages; each of their calls of a stage is a point."""

STAGES = ("trt_worker.condition", "trt_worker.decode", "trt_worker.denoise")
"""What is imported from here is a stage, or makes one."""

STAGE_CALL = re.compile(
    r"(self\._networks|conditioner|encoder|decoder|prepared|batch|self\._batches|self\.(positive|negative|source))\.\w+"
)
"""Calls of what holds the stages' engines, tensors and results in the modules of `DEVICE`."""

BORDER = ("handed_back(", "self._hand_back(")
"""Called where a job's way ends with something unexpected: what these await are points, their calls are not."""

NOTES = frozenset(
    {
        "self._batches.finish",
        "self._batches.stepped",
        "self._batches.close",
        "self._networks.release",
        "batch.hand_out",
    }
)
"""Calls for all rows of a batch, which wait or note something: what each row needs is a point of its own."""

ELSEWHERE = {
    "trt_worker.intake.grid.connection": "before a frame comes, and after its connection has ended",
    "trt_worker.intake.grid.pool": "starts and ends connections",
    "trt_worker.intake.grid.catalogue": "checks recipes beside the jobs",
    "trt_worker.intake.grid.presence": "looks whether a name is online, without a connection",
    "trt_worker.intake.grid.session:Session._renew_in_gap": "between two jobs",
    "trt_worker.concurrency:in_daemon_thread": "reads the configuration",
    "trt_worker.supervisor.service:Service.models_changed": "waits for other models",
    "trt_worker.intake.transport": "declares what transports and gates are",
    "trt_worker.intake.horde.transport:HordeTransport.run": "starts and ends",
    "trt_worker.intake.horde.transport:HordeTransport._sign_in": "before the first pop",
    "trt_worker.intake.horde.transport:HordeTransport._leave_maintenance": "before the first pop",
    "trt_worker.intake.horde.transport:HordeTransport._insist": "before the first pop",
    "trt_worker.intake.horde.transport:HordeTransport._take_jobs": "between two pops",
    "trt_worker.intake.horde.transport:HordeTransport._take_turns": "between two pops",
    "trt_worker.intake.horde.transport:HordeTransport._room": "between two pops",
    "trt_worker.intake.horde.client:HordeClient.find_user": "before the first pop",
    "trt_worker.intake.horde.client:HordeClient.find_worker": "before the first pop",
    "trt_worker.intake.horde.client:HordeClient.set_maintenance": "before the first pop",
    "trt_worker.supervisor.device_link:DeviceLink.run": "a process's life",
    "trt_worker.supervisor.device_link:DeviceLink._live": "a process's life",
    "trt_worker.supervisor.device_link:DeviceLink._death": "a process's end",
    "trt_worker.supervisor.device_link:DeviceLink._watch_silence": "a process's life",
    "trt_worker.supervisor.service:Service.wait_for_room": "before a job is taken",
    "trt_worker.device.loop:DeviceLoop.__init__": "before any job",
    "trt_worker.device.loop:DeviceLoop.busy": "asks whether there are jobs",
    "trt_worker.device.loop:DeviceLoop.withdraw": "after a job has ended",
    "trt_worker.device.loop:DeviceLoop.step": "decides for all jobs: what it throws ends the process",
    "trt_worker.device.loop:DeviceLoop._wait": "waits for whatever comes first",
    "trt_worker.device.loop:DeviceLoop._collect": "looks for whatever has come",
    "trt_worker.device.loop:DeviceLoop._measure": "looks for whatever is done",
    "trt_worker.device.loop:DeviceLoop._batch_failed": "after its jobs have ended",
    "trt_worker.device.loop:DeviceLoop._batch_closed": "after its jobs have left",
    "trt_worker.device.loop:DeviceLoop._with_room": "after memory ran out",
    "trt_worker.device.loop:DeviceLoop._tell_models": "beside the jobs",
    "trt_worker.device.loop:DeviceLoop._waits_for_its_turn": "looks at what is loaded",
}
"""Modules, and functions as `module:name`, that no job passes between its frame and its receipt, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One place on a job's way."""

    module: str
    function: str
    kind: str  # "await", "async for", "async with" or "stage"
    text: str  # of the source, as Python writes it
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.function}:{self.line} {self.kind} {self.text}"


points: list[Point] = []
"""All points of the modules imported so far; a point's number is its place."""

armed: dict[int, list[Exception]] = {}
"""What is to be thrown the next times that a point is passed, by its number."""

fired: set[int] = set()
"""Points that have thrown."""

waiting: list[anyio.Event] = []


def passing(number: int) -> None:
    """A point is passed. Raises: what it is armed with, once."""
    if errors := armed.get(number):
        fired.add(number)
        while waiting:
            waiting.pop().set()
        raise errors.pop(0)


def next_fired() -> anyio.Event:
    """Set once any point throws."""
    waiting.append(anyio.Event())
    return waiting[-1]


class each:  # noqa: N801  # stands for a function in the compiled source
    """Passes a point before every item of an asynchronous iteration."""

    def __init__(self, number: int, items: Any) -> None:
        self._number, self._items = number, items

    def __aiter__(self) -> AsyncIterator[Any]:
        self._iterator = aiter(self._items)
        return self

    async def __anext__(self) -> Any:
        passing(self._number)
        return await anext(self._iterator)


def instrument() -> None:
    """Compile modules with their points from now on."""
    sys.meta_path.insert(0, _Finder())


def marked(module: str, tree: ast.Module) -> ast.Module:
    """A module that passes its points, which are added to `points`. Args: tree: of its source; it is changed."""
    changed: ast.Module = ast.fix_missing_locations(_Marker(module, tree).visit(tree))
    return changed


def modules_on_the_way(root: Path) -> list[str]:
    """Modules that hold points or may come to. Args: root: the folder that `trt_worker` lies in."""
    found = []
    for file in sorted((root / "trt_worker").rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if _on_the_way(name):
            found.append(name)
    return found


def _on_the_way(module: str) -> bool:
    return module not in ELSEWHERE and any(
        module == one or module.startswith(f"{one}.") for one in (*SUPERVISOR, *DEVICE)
    )


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if _on_the_way(fullname) else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        compiled = marked(fullname, tree)
        first = sum(
            isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
            for node in compiled.body[:2]
        )  # behind the docstring and what comes from the future
        ours = ast.parse(f"from {__name__} import each as _each, passing as _passing").body
        compiled.body[first:first] = ours
        code: CodeType = compile(compiled, self.path, "exec")
        return code


class _Marker(ast.NodeTransformer):
    """Puts a pass of its number before every point of a module."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module = module
        self._device = module in DEVICE
        self._where: list[str] = []
        self._stages = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(STAGES)
            for alias in node.names
            if not alias.name[0].isupper()
        }

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        return self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        return self._inside(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> Any:
        """Nobody takes offers any more: the worker is going down, and with it all jobs."""
        going_down = node.type is not None and "ClosedResourceError" in ast.unparse(node.type)
        return node if going_down else self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        text = ast.unparse(node.value)
        self.generic_visit(node)
        return node if self._device or text.startswith(BORDER) else self._before(node, "await", text)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        texts = [ast.unparse(item.context_expr) for item in node.items]
        self.generic_visit(node)
        for item, text in zip(node.items, texts, strict=True):
            item.context_expr = self._before(item.context_expr, "async with", text)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        text = ast.unparse(node.iter)
        self.generic_visit(node)
        if (number := self._number(node, "async for", text)) is not None:
            node.iter = ast.copy_location(_call("_each", ast.Constant(number), node.iter), node.iter)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        text, callee = ast.unparse(node), ast.unparse(node.func)
        handed = [ast.unparse(one) for one in node.args]  # as `batch.step`, to be called at once
        self.generic_visit(node)
        if self._device and self._where and callee in {"self._with_room", "partial"}:
            node.args = [
                self._before(one, "stage", said) if _is_stage(said) else one
                for one, said in zip(node.args, handed, strict=True)
            ]
        if self._device and self._where and (_is_stage(callee) or callee in self._stages):
            return self._before(node, "stage", text)
        return node

    def _inside(self, node: Any) -> Any:
        self._where.append(node.name)
        if f"{self._module}:{'.'.join(self._where)}" not in ELSEWHERE and not _declares(node):
            self.generic_visit(node)
        self._where.pop()
        return node

    def _before(self, node: ast.expr, kind: str, text: str) -> ast.expr:
        number = self._number(node, kind, text)
        if number is None:
            return node
        pair = ast.Tuple(elts=[_call("_passing", ast.Constant(number)), node], ctx=ast.Load())
        return ast.copy_location(ast.Subscript(value=pair, slice=ast.Constant(1), ctx=ast.Load()), node)

    def _number(self, node: ast.expr | ast.AsyncFor, kind: str, text: str) -> int | None:
        if not self._where:
            return None
        shown = " ".join(text.split())
        function = ".".join(self._where)
        points.append(Point(module=self._module, function=function, kind=kind, text=shown, line=node.lineno))
        return len(points) - 1


def _is_stage(text: str) -> bool:
    return STAGE_CALL.fullmatch(text) is not None and text not in NOTES


def _declares(node: ast.AST) -> bool:
    """Whether a class is a protocol: nothing of it is run."""
    return isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=list(arguments), keywords=[])


def numbers(*, device: bool) -> Iterator[int]:
    """Points of one of the two processes."""
    return (number for number, point in enumerate(points) if (point.module in DEVICE) is device)


def a_surprise() -> Exception:
    """What nobody foresees anywhere."""
    return ZeroDivisionError("thrown at a point of a job's way")


def arm(where: str, errors: list[Exception]) -> None:
    """Throw errors the next times that the first point is passed which is called so. Args: where: a pattern."""
    number = next(number for number, point in enumerate(points) if re.search(where, str(point)))
    armed[number] = errors
