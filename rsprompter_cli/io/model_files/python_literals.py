"""Values of a Python text that assigns literals, such as a stored configuration. Nothing in it is executed.

Each statement of the form `NAME = EXPRESSION` is parsed on its own, once its length and nesting are known to
be small. An expression is made of literals, containers, names assigned before, `dict(...)`, `list(...)`,
`tuple(...)`, `range(...)` and plain arithmetic. Anything else becomes `UNREAD` where it stands.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

MAX_BYTES = 2_000_000
MAX_NESTING = 100
"""Brackets and operators that may enclose each other."""
MAX_TOKENS = 100_000
"""A syntax tree takes about a kilobyte per token; the original's configurations have 3,000 tokens."""
MAX_ITEMS = 200_000
"""Items of all containers, and characters of joined strings, that a text may produce."""
_LARGEST = 2**63
_LONGEST_NUMBER = 400
"""Characters; converting digits takes time that grows with their square."""
_UNREAD_NAME = "__unread__"
"""Takes the place of a token that is not to be parsed. No text can assign it a value: see `read_literals`."""
_KEYWORDS = frozenset(["and", "await", "else", "for", "if", "in", "is", "lambda", "not", "or", "yield"])
"""Words that may enclose what follows them."""


class LiteralsError(ValueError):
    """A text that is too long, too deep, or not made of statements."""


class _Unread:
    """Stands for the value of an expression that is not a literal."""

    def __repr__(self) -> str:
        return "UNREAD"


UNREAD: Final = _Unread()

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\f\ufeff]|\\\r?\n|\#[^\n]*)+)
    |(?P<newline>\r?\n|\r)
    |(?P<string>[A-Za-z]{0,2}(?:'''(?:[^\\]|\\.)*?'''|\"""(?:[^\\]|\\.)*?\"""|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<number>\.?[0-9](?:[eE][+-]|[0-9A-Za-z_.])*)
    |(?P<name>[^\W\d]\w*)
    |(?P<open>[(\[{])|(?P<close>[)\]}])
    |(?P<end>[,;:]|=(?!=))
    |(?P<operator>[^\s\w])""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN_STRING = re.compile(r"(?:[rRuU]?)['\"]")
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_literals(text: str, names: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values that a text assigns, by name; a statement that is not an assignment is left out.

    Args:
        text: as mmengine prints a configuration.
        names: values that are known before, returned as well.

    Raises:
        LiteralsError: over 2 MB, 100 levels or 100,000 tokens, or it is not Python.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise LiteralsError(f"longer than {MAX_BYTES:,} bytes")
    reader = _Reader(names or {})
    for name, expression in _assignments(text):
        if name != _UNREAD_NAME:
            reader.assign(name, expression)
    return reader.values


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Name and expression of each `NAME = EXPRESSION` that stands on lines of its own."""
    statement = _Statement(text)
    count = position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise LiteralsError(f"not Python at character {position}")
        kind, word, start = str(match.lastgroup), match[0], position
        position = match.end()
        if kind == "space":
            statement.indented |= not statement.tokens and word.endswith((" ", "\t"))
            continue
        count += 1
        if count > MAX_TOKENS:
            raise LiteralsError(f"more than {MAX_TOKENS:,} tokens")
        if kind != "newline":
            statement.add(kind, word, start)
        elif not statement.open:
            yield from statement.assignment()
            statement = _Statement(text)
    if statement.open:
        raise LiteralsError("a bracket is not closed")
    yield from statement.assignment()


class _Statement:
    """The tokens of one logical line: kind, text and where it starts."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        self.indented = False
        self._text = text
        # The operators since the last comma, for each bracket that is open.
        self._chains = [0]
        self._keywords = 0

    @property
    def open(self) -> bool:
        """Whether a bracket is open."""
        return len(self._chains) > 1

    def add(self, kind: str, word: str, start: int) -> None:
        """Take a token, and count what may enclose the next one."""
        self.tokens.append((kind, word, start))
        if kind == "close":
            if not self.open:
                raise LiteralsError("a closing bracket has no opening one")
            self._chains.pop()
        elif kind == "end":
            self._chains[-1] = 0
        elif kind == "name":
            self._keywords += word in _KEYWORDS
        elif kind in ("open", "operator"):
            self._chains[-1] += 1
        if kind == "open":
            self._chains.append(0)
        if sum(self._chains) + self._keywords > MAX_NESTING:
            raise LiteralsError(f"nested more than {MAX_NESTING} deep")

    def assignment(self) -> Iterator[tuple[str, str]]:
        """Name and expression; nothing if this is another statement."""
        if len(self.tokens) < 3 or self.indented or self.tokens[0][0] != "name" or self.tokens[1][1] != "=":
            return
        pieces, position = [], self.tokens[1][2] + 1
        for kind, word, start in self.tokens[2:]:
            pieces += [self._text[position:start], _UNREAD_NAME if _is_refused(kind, word) else word]
            position = start + len(word)
        yield self.tokens[0][1], "".join(pieces)


def _is_refused(kind: str, word: str) -> bool:
    """Whether a token is bytes, a formatted string or a number of very many digits."""
    return (kind == "string" and not _PLAIN_STRING.match(word)) or (kind == "number" and len(word) > _LONGEST_NUMBER)


class _Reader:
    """Evaluates expressions one after the other; `values` holds what was assigned."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = dict(names)
        self._items = 0

    def assign(self, name: str, expression: str) -> None:
        self.values[name] = self._evaluated(expression)

    def _evaluated(self, expression: str) -> Any:
        try:
            # Strings may have escapes that Python warns of.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(f"({expression}\n)", mode="eval")
            return self._value(tree.body)
        except LiteralsError:
            raise
        # Nesting and length are bounded above; the last two are for interpreters with less room.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return UNREAD

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value if _is_plain(value) else UNREAD
            case ast.Name(id=name):
                return self.values.get(name, UNREAD)
            case ast.List(elts=parts):
                return self._take([self._value(part) for part in parts])
            case ast.Tuple(elts=parts):
                return tuple(self._take([self._value(part) for part in parts]))
            case ast.Dict(keys=keys, values=parts):
                return self._table(
                    [(self._value(key) if key else UNREAD, part) for key, part in zip(keys, parts, strict=True)]
                )
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                number = self._value(operand)
                if not _is_number(number):
                    return UNREAD
                return -number if isinstance(sign, ast.USub) else number
            case ast.BinOp(left=left, op=op, right=right):
                return self._combined(type(op), self._value(left), self._value(right))
            case ast.Subscript(value=table, slice=index):
                return _item(self._value(table), self._value(index))
            case ast.Call(func=ast.Name(id=name)):
                return self._called(name, node)
            case _:
                return UNREAD

    def _take(self, items: list[Any]) -> list[Any]:
        self._charge(len(items))
        return items

    def _charge(self, count: int) -> None:
        self._items += count
        if self._items > MAX_ITEMS:
            raise LiteralsError(f"produces more than {MAX_ITEMS:,} items")

    def _table(self, pairs: Sequence[tuple[Any, ast.expr]]) -> Any:
        if not all(isinstance(key, str | int | float | bool | None) for key, _ in pairs):
            return UNREAD
        self._charge(len(pairs))
        return {key: self._value(part) for key, part in pairs}

    def _called(self, name: str, node: ast.Call) -> Any:
        if name == "dict" and not node.args and all(word.arg is not None for word in node.keywords):
            return self._table([(word.arg, word.value) for word in node.keywords])
        given = [self._value(argument) for argument in node.args]
        if node.keywords:
            return UNREAD
        if name == "range" and 1 <= len(given) <= 3 and all(type(number) is int for number in given):
            if len(given) == 3 and given[2] == 0:
                return UNREAD
            numbers = range(*given)
            # len() itself fails for more than the largest index.
            return self._take(list(numbers)) if numbers[:MAX_ITEMS] == numbers else UNREAD
        if name in ("list", "tuple") and len(given) == 1 and isinstance(given[0], list | tuple):
            copied = self._take(list(given[0]))
            return copied if name == "list" else tuple(copied)
        return UNREAD

    def _combined(self, kind: type[ast.operator], left: Any, right: Any) -> Any:
        apply = _OPERATORS.get(kind)
        if apply is None:
            return UNREAD
        if _is_number(left) and _is_number(right):
            return _computed(apply, left, right)
        for sequence in (str, list, tuple):
            if kind is ast.Add and isinstance(left, sequence) and isinstance(right, sequence):
                self._charge(len(left) + len(right))
                joined: Any = left
                return joined + right
        if kind is ast.Mult and isinstance(left, list | tuple) and type(right) is int:
            self._charge(len(left) * max(right, 0))
            return left * right
        return UNREAD


def _computed(apply: Callable[[Any, Any], Any], left: float, right: float) -> Any:
    try:
        result = apply(left, right)
    except (ArithmeticError, ValueError):
        return UNREAD
    return result if _is_number(result) else UNREAD


def _is_number(value: object) -> bool:
    """Whether a value is a finite number of ordinary size; True is not one."""
    return (type(value) is int and abs(value) < _LARGEST) or (type(value) is float and math.isfinite(value))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _item(table: Any, index: Any) -> Any:
    if isinstance(table, dict) and isinstance(index, str | int):
        return table.get(index, UNREAD)
    if isinstance(table, list | tuple) and type(index) is int and -len(table) <= index < len(table):
        return table[index]
    return UNREAD
