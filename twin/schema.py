"""docs/scenario.md, made out of what checks a scenario: its structs, and the signatures of the controllers that ship.

    python -m twin.schema > docs/scenario.md

Types, ranges, defaults and descriptions are those of the structs; a unit is the suffix of the key's name. Controllers
are read as source and never imported, so the page is the same with and without the extra `learn`: an option's
description stands in the class docstring, its range in the table of (name, value, low, high) that __init__ checks.
"""

import ast
import importlib
import inspect
import math
import operator
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import inspect as types

from twin.faults import CONTROLLER, LINK, SKY
from twin.scenario import CONTROLLERS, OWN, WORLDS, Scenario, Scheduling, Seating, shipped, table_of

UNITS = {  # the end of a key's name; the longest counts
    "s": "s",
    "m_s": "m/s",
    "mm_h": "mm/h",
    "dbw_mhz": "dBW/MHz",
    "db_k": "dB/K",
    "percent": "%",
    "deg": "deg",
    "m": "m",
    "km": "km",
    "hz": "Hz",
    "db": "dB",
    "dbi": "dBi",
    "w": "W",
    "k": "K",
    "bit": "bit",
    "units": "units",
    "cycles": "cycles",
    "utc": "UTC",
}
IN_SLOTS = ("slots", "every", "delay", "learn_delay", "batch")
TYPES = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false"}
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
LEARNING = re.compile(r"^(?:from|import) (?:torch|scipy|controllers\.nets)", re.MULTILINE)  # the extra `learn`
EXAMPLE = "quickstart"
NOTES = {
    "ntn_cell": (
        "Seats: `leo` (order 0, `every` = 10 slots where the scenario gives none) and `ue` (order 1, `every` must "
        "be 1). `n_groups` must divide `n_rb`. A window more than 3 days from the median epoch of its element sets "
        "gives a warning. Angles, losses and fading are described in [physics.md](physics.md)."
    )
}


class Row(NamedTuple):
    """One key as the page's tables show it."""

    key: str
    type: str
    unit: str
    range: str
    default: str
    meaning: str


def scenario_page() -> str:
    """The text of docs/scenario.md."""
    parts = [
        "# Scenario files",
        "This page is generated: `python -m twin.schema > docs/scenario.md`. A test compares it with the code.",
        "A scenario is one TOML file. A key that is not on this page, a wrong type and a value out of range are errors "
        "that say what there is. A path starts at the scenario file's folder. Units are degrees, metres, seconds, hertz"
        " and watts, decibels only where the key says so; a dash means a plain number, or that the meaning says it.",
        f"This is `{EXAMPLE}`, as it ships:",
        f"```toml\n{shipped()[EXAMPLE].read_text(encoding='utf-8').strip()}\n```",
        "## Keys of every scenario",
        _table([row for row in _rows(Scenario) if row.key not in OWN]),
        "## `scheduling`: real-time scheduling of the twin",
        "Under `realtime` only, and as far as it is permitted: what is not is a warning, and the run goes on "
        "([machines.md](machines.md#scheduling-the-twin)). For instance `scheduling = { fifo = 50, cpus = [1], "
        "lock_memory = true }`.",
        _table(_rows(Scheduling)),
        "## `agent.NAME`: who sits on a seat, and when it must answer",
        "A seat that the scenario does not name keeps these defaults. Any other key in the table is an option of the "
        "controller that sits there, and that controller must know it.",
        _table([row for row in _rows(Seating) if row.key != "options"]),
        "- `at_least`: m must not be larger than k. It is a verdict in the report, not a limit.\n"
        "- `window`: without one, 0.8 of the slot in equal steps over the orders of the seats that answer within the "
        "slot; for `leo` and `ue` of `ntn_cell` 0.4 and 0.8. A window must be larger than that of every seat that "
        "decides before it.\n"
        "- `compute_scale` has no effect under `lockstep`; below 1, a faster computer, it needs `virtual`. See "
        "[hil.md](hil.md#a-slower-computer).\n"
        '- `latency` is `"measured"`, `{ fixed_s = 0.004 }`, `{ lognormal = { median_s = 0.004, sigma = 0.5 } }` or '
        '`{ recorded = "RUN" }`; see [hil.md](hil.md#virtual-time).\n'
        "- Options may also stand in a table of their own, `options = { ... }`. Those of an `external` seat must, and "
        "travel with the welcome to whoever comes.",
        *_fault_sections(),
        "## Options of the controllers that ship",
        "Equations in brackets are the paper's; a repair is explained in "
        "[decisions/0009](decisions/0009-repaired-learning-is-the-default.md).",
    ]
    for name in CONTROLLERS:
        parts += _controller_section(name)
    shown: dict[type, str] = {}
    for world, place in WORLDS.items():
        parts += _world_section(world, place.partition(":")[0], shown)
    parts += [
        "## On the command line",
        "`--set KEY=VALUE` replaces a key by its dotted name and may be repeated: `--set link.n_paths=6 --set "
        "agent.ue.learn=false`. The value is TOML; a bare word is text. `--seed`, `--clock` and `--rt-factor` stand "
        "for their keys, and `--seat ue=greedy` for `agent.ue.controller`, which also drops the options of whoever sat "
        "there before. The record of a run holds the scenario as resolved, every default filled in.",
    ]
    return "\n\n".join(parts) + "\n"


def _fault_sections() -> list[str]:
    parts = [
        "## `[[faults]]`: what goes wrong, and when",
        "A list of tables, each with its `kind`. A fault lasts for every slot that its interval touches. What is left "
        "to chance is drawn from the scenario's seed. What each does is in [faults.md](faults.md).",
    ]
    for title, kinds in (("a link", LINK), ("a controller", CONTROLLER), ("the sky", SKY)):
        rows = {kind: _rows(kind) for kind in kinds}
        shared = [row for row in rows[kinds[0]] if all(row in others for others in rows.values())]
        parts += [f"### Faults of {title}", _table(shared)]
        for kind in kinds:
            own = [row for row in rows[kind] if row not in shared]
            parts += [f'`kind = "{kind.__struct_config__.tag}"`: {inspect.getdoc(kind)}']
            parts += [_table(own)] if own else []
    return parts


def _world_section(world: str, module_name: str, shown: dict[type, str]) -> list[str]:
    """A world's tables; those that another world's section has already, `shown`, are only named."""
    module = importlib.import_module(module_name)
    rows, tables, again = [], [], {}
    for field in msgspec.structs.fields(module.Settings):
        table = table_of(field.type)
        if table is None:
            rows += [row for row in _rows(module.Settings) if row.key == field.name]
        elif table in shown:
            again[field.name] = shown[table]
        else:
            shown[table] = world
            optional = "" if field.required else " The table may be left out."
            tables += [f"### `{field.name}`", _headline(table) + optional, _table(_rows(table))]
            for name, inner in _tables_in(table).items():
                tables += [f"### `{field.name}.{name}`", _headline(inner), _table(_rows(inner))]
    first = (inspect.getdoc(module) or "").partition("\n\n")[0].replace("\n", " ")
    parts = [f"## World `{world}`", first, *([NOTES[world]] if world in NOTES else [])]
    parts += ["### Its own keys", _table(rows)] if rows else []
    if again:
        of = "; ".join(f"`{name}` as in `{where}`" for name, where in again.items())
        parts += [f"Tables it shares with worlds above: {of}."]
    return [*parts, *tables]


def _tables_in(struct: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The tables within a table, by their key."""
    hints = get_type_hints(struct)
    return {
        name: part
        for name, hint in hints.items()
        for part in (hint, *get_args(hint))
        if isinstance(part, type) and issubclass(part, msgspec.Struct)
    }


def _controller_section(name: str) -> list[str]:
    module_name, _, class_name = CONTROLLERS[name].partition(":")
    spec = find_spec(module_name)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    headline, rows = options_of(source, class_name)
    needs = " Needs the extra `learn`." if LEARNING.search(source) else ""
    section = [f"### `{name}`", headline + needs]
    return [*section, _table(rows)] if rows else [section[0], section[1] + " No options."]


def options_of(source: str, class_name: str) -> tuple[str, list[Row]]:
    """First line of a class's docstring and one row per option of its __init__, read from its source alone."""
    tree = ast.parse(source)
    made = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    init = next(node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    headline, _, rest = (ast.get_docstring(made) or "").partition("\n")
    meanings, ranges = _definitions(rest), _checked_ranges(init, _constants(tree))
    rows = []
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults):
        kind = ast.unparse(argument.annotation) if argument.annotation else ""
        value = "required" if default is None else _value(ast.literal_eval(default))
        limits = ranges.get(argument.arg, "")
        rows.append(
            Row(argument.arg, TYPES.get(kind, kind), _unit(argument.arg), limits, value, meanings.get(argument.arg, ""))
        )
    return headline, rows


def _definitions(docstring: str) -> dict[str, str]:
    """`name   text` lines, with their indented continuations, of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.splitlines():
        word, gap, text = line.partition("  ")
        if gap and word.isidentifier():
            name = word
            found[name] = text.strip()
        elif name and line.startswith(" "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return found


def _checked_ranges(init: ast.FunctionDef, constants: Mapping[str, float]) -> dict[str, str]:
    """Ranges of the loop `for name, value, low, high in (...)` at the top of an __init__, if there is one."""
    for loop in (node for node in init.body if isinstance(node, ast.For)):
        if ast.unparse(loop.target) == "(name, value, low, high)" and isinstance(loop.iter, ast.Tuple):
            rows = [row.elts for row in loop.iter.elts if isinstance(row, ast.Tuple)]
            return {
                ast.literal_eval(row[0]): _limits(ge=_number(row[2], constants), le=_number(row[3], constants))
                for row in rows
            }
    return {}


def _constants(tree: ast.Module) -> dict[str, float]:
    """The plain numbers that a module gives names to."""
    found: dict[str, float] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        name, value = node.targets[0], node.value.value
        if isinstance(name, ast.Name) and isinstance(value, int | float):
            found[name.id] = value
    return found


def _number(node: ast.expr, constants: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return constants[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_number(node.left, constants), _number(node.right, constants))
    if ast.unparse(node) == "np.inf":
        return math.inf
    raise ValueError(f"a limit is no number that can be read from the source: {ast.unparse(node)}")


def _rows(struct: type[msgspec.Struct]) -> list[Row]:
    """One row per field of a struct."""
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return [_row(field) for field in info.fields]


def _row(field: types.Field) -> Row:
    kind, meaning = field.type, ""
    while isinstance(kind, types.Metadata | types.UnionType):
        if isinstance(kind, types.Metadata):
            meaning = (kind.extra_json_schema or {}).get("description", meaning)
            kind = kind.type
        else:  # `| None` says that the key may be left out; what may also be a table says so in its meaning
            kind = next(part for part in kind.types if not isinstance(part, types.NoneType | types.StructType))
    default = "required" if field.required else _value(field.default)
    return Row(field.name, _type(kind), _unit(field.name), _range(kind), default, meaning)


def _type(kind: types.Type) -> str:
    if isinstance(kind, types.LiteralType):
        return " or ".join(f'`"{value}"`' for value in kind.values)
    if isinstance(kind, types.TupleType) and isinstance(kind.item_types[0], types.LiteralType):
        return f"{len(kind.item_types)} of {_type(kind.item_types[0]).replace(' or ', ', ')}"
    if isinstance(kind, types.TupleType):
        whole = all(isinstance(item, types.IntType) for item in kind.item_types)
        return f"{len(kind.item_types)} {'whole ' if whole else ''}numbers"
    names: dict[type, str] = {
        types.IntType: TYPES["int"],
        types.FloatType: TYPES["float"],
        types.StrType: TYPES["str"],
        types.BoolType: TYPES["bool"],
        types.DateTimeType: "date and time",
        types.VarTupleType: "whole numbers",
    }
    return names.get(type(kind), "table")


def _range(kind: types.Type) -> str:
    if isinstance(kind, types.TupleType | types.VarTupleType):
        of_one = _range(kind.item_types[0] if isinstance(kind, types.TupleType) else kind.item_type)
        return f"each {of_one}" if of_one else ""
    if isinstance(kind, types.IntType | types.FloatType):
        return _limits(kind.ge, kind.gt, kind.le, kind.lt)
    return ""


def _limits(ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None) -> str:
    limits = {"≥": ge, ">": gt, "≤": le, "<": lt}
    return ", ".join(f"{sign} {_value(x)}" for sign, x in limits.items() if x is not None and math.isfinite(x))


def _unit(key: str) -> str:
    if key in IN_SLOTS:
        return "slots"
    parts = key.split("_")
    ends = ("_".join(parts[i:]) for i in range(len(parts)))
    return next((UNITS[end] for end in ends if end in UNITS), "–")


def _value(value: Any) -> str:
    """A value as TOML writes it, numbers as short as they go."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        short = f"{value:g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
        return short if float(short) == value else repr(value)
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return str(list(value))
    return "not set"


def _headline(struct: type) -> str:
    """The first sentence of a struct's docstring."""
    return (inspect.getdoc(struct) or "").partition("\n")[0].partition(". ")[0].rstrip(".") + "."


def _table(rows: list[Row]) -> str:
    lines = ["| key | type | unit | range | default | meaning |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| `{row.key}` | " + " | ".join(row[1:]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(scenario_page())
