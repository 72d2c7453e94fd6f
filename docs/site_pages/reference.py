"""The reference: what modules, classes and functions say of themselves, read from the sources without an import."""

import ast
import html
from collections.abc import Iterator
from pathlib import Path

WINGS = {
    "sim.plans": "what is being run",
    "sim.serving": "what goes into the next step",
    "sim.cost": "what a step takes",
    "sim.workload": "who asks, when, for how much",
    "sim.run": "what happens",
    "sim.study": "what it means",
    "engine": "what executes a plan",
    "calibration": "what is measured, fitted and validated",
}
Documented = ast.FunctionDef | ast.ClassDef


def pages(root: Path) -> dict[str, str]:
    """A page per wing by name, with every public class and function that has a docstring."""
    found = {"sim.errors": _page("sim.errors", "what can go wrong", [root / "sim" / "errors.py"], root)}
    for wing, what in WINGS.items():
        files = sorted((root / wing.replace(".", "/")).rglob("*.py"))
        found[wing] = _page(wing, what, files, root)
    return found


def _page(wing: str, what: str, files: list[Path], root: Path) -> str:
    sections = (_module(path, ".".join(path.relative_to(root).with_suffix("").parts)) for path in files)
    return f"# {wing}: {what}\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _module(path: Path, name: str) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if isinstance(node, Documented) and _shown(node)]
    said = ast.get_docstring(tree)
    if not public or not said:
        return ""
    parts = [f"## `{name}`", _text(said)]
    for node in public:
        parts += _entry(node)
    return "\n\n".join(parts)


def _entry(node: Documented) -> Iterator[str]:
    yield f"### {node.name}"
    yield f"```python\n{_signature(node)}\n```"
    yield _text(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        members = [n for n in node.body if isinstance(n, ast.FunctionDef) and _shown(n)]
        yield "\n".join(f"- **{m.name}**{_arguments(m)}: {_first_line(m)}" for m in members)


def _shown(node: Documented) -> bool:
    return not node.name.startswith("_") and ast.get_docstring(node) is not None


def _signature(node: Documented) -> str:
    """A function's signature on as many lines as it needs; a class with its fields."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        line = f"{node.name}({ast.unparse(node.args)}){returns}"
        return line if len(line) <= 100 else line.replace("(", "(\n    ", 1).replace(", ", ",\n    ")
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n).startswith("_")]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return "\n".join([f"class {node.name}({bases})" if bases else f"class {node.name}", *(f"    {f}" for f in fields)])


def _arguments(node: ast.FunctionDef) -> str:
    decorated = {ast.unparse(d) for d in node.decorator_list}
    if decorated & {"property", "cached_property"}:
        return ""
    names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
    return f" `({', '.join(names)})`"


def _first_line(node: ast.FunctionDef) -> str:
    return _text((ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " "))


def _text(said: str) -> str:
    """A docstring as Markdown: its words as they are, whatever they look like."""
    parts = said.split("`")
    return "`".join(part if i % 2 else _plain(part) for i, part in enumerate(parts))


def _plain(text: str) -> str:
    for sign in "\\*_[]{}|~#":
        text = text.replace(sign, f"\\{sign}")
    return html.escape(text, quote=False)
