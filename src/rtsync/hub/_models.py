"""
Models of documents: what a family's ``model=`` promises, checked at publish.

A model describes the document as it travels, so checking is exact and changes nothing: an ``int`` is no ``float``, ``True`` is
no ``int``, ``"1"`` is no ``Decimal``. Whoever reads the channel may rely on the model's types.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Final, Literal, NotRequired, Required, TypeAlias, Union, get_args, get_origin, get_type_hints

from ..core import InvalidValue, ModelError, UsageError

__all__ = ["Validator", "to_document", "validator_for"]

Validator: TypeAlias = Callable[[Mapping[str, object]], None]
"""Called with a document before it is published; returns, or raises `ModelError` with the path of what does not fit."""


def validator_for(model: type | None) -> Validator:
    """
    Return a function that raises `ModelError` for documents that do not fit *model*; for ``None``, one that never does.

    Models are

    - dataclasses: fields without a default are required;
    - TypedDicts: required by ``total``, ``Required`` and ``NotRequired``;
    - pydantic models (2.12 or newer), checked in strict mode by pydantic's own rules, under its field aliases.

    Fields of the first two are annotated with ``None``, ``bool``, ``int``, ``float``, ``Decimal``, ``str``, ``bytes``,
    ``datetime``, ``list[T]``, ``dict[str, T]``, unions, ``Literal``, other models or the model itself, and ``object`` or
    ``Any`` for whatever a document can carry. Fields that the model does not name are refused everywhere; a pydantic model
    with ``extra="allow"`` leaves that to its fields' own models.

    The work of reading annotations is done here, once.

    Raises:
        UsageError: *model* is none of these, or a field has another annotation. Names the field.
    """
    if model is None:
        return _accept
    if not _is_model(model):
        raise UsageError("model", f"{model!r} is not a dataclass, a TypedDict or a pydantic model")
    check = _Builder().model(model).check

    def validate(document: Mapping[str, object]) -> None:
        try:
            check(document)
        except _Misfit as misfit:
            raise ModelError(misfit.where("document"), misfit.problem) from None

    return validate


def to_document(value: object) -> dict[str, object]:
    """
    Return a mapping, or an instance of a dataclass or pydantic model, as a plain document.

    Mappings, lists and model instances inside it are converted, too, and copied; all other values are passed on as they are,
    for `checked_document` to judge. An instance always holds all its fields: one that is ``None`` becomes null, not absent.

    Raises:
        InvalidValue: *value* is something else, or contains itself.
    """
    try:
        plain = _plain(value)
    except RecursionError:
        raise InvalidValue("document", "is nested too deeply, or contains itself") from None
    if not isinstance(plain, dict):
        raise InvalidValue("document", f"must be a mapping or an instance of a model, is {_kind(value)}")
    return plain


_LEAVES: Final = frozenset({NoneType, bool, int, float, Decimal, str, bytes, datetime})


def _plain(value: object) -> object:
    if type(value) in _LEAVES:
        return value
    if isinstance(value, (dict, Mapping)):
        return {key: item if type(item) in _LEAVES else _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return value
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):
        return _plain(dump(by_alias=True))
    return value


# ---- checks --------------------------------------------------------------------------------------------------------

_Check: TypeAlias = Callable[[object], None]


class _Misfit(Exception):
    """A value does not fit. Each container it passes on its way out adds its key, so paths cost nothing while all is well."""

    def __init__(self, problem: str, *path: object) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = list(path)  # innermost first

    @classmethod
    def type_of(cls, value: object, says: str) -> _Misfit:
        return cls(f"must be {says}, is {_kind(value)}")

    def where(self, root: str) -> str:
        return root + "".join(f"[{key}]" if isinstance(key, int) else f".{_shown_key(key)}" for key in reversed(self.path))


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    check: _Check
    says: str  # what fits, in words


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _shown_key(key: object) -> str:
    """Return *key* fit for one line of a log, whoever chose it."""
    text = ascii(key)[1:-1] if isinstance(key, str) else ascii(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _accept(value: object) -> None:
    pass


def _exactly(kind: type) -> _Rule:
    says = "None" if kind is NoneType else kind.__name__

    def check(value: object) -> None:
        if type(value) is not kind:
            raise _Misfit.type_of(value, says)

    return _Rule(check, says)


_ANYTHING: Final = _Rule(_accept, "anything")
_SCALARS: Final[dict[type, _Rule]] = {kind: _exactly(kind) for kind in _LEAVES}


def _list_of(item: _Rule) -> _Rule:
    check_item = item.check

    def check(value: object) -> None:
        if not isinstance(value, list):
            raise _Misfit.type_of(value, "list")
        for index, entry in enumerate(value):
            try:
                check_item(entry)
            except _Misfit as misfit:
                misfit.path.append(index)
                raise

    return _Rule(check, "list")


def _map_of(item: _Rule) -> _Rule:
    check_item = item.check

    def check(value: object) -> None:
        if not isinstance(value, (dict, Mapping)):
            raise _Misfit.type_of(value, "dict")
        for key, entry in value.items():
            if not isinstance(key, str):
                raise _Misfit(f"must have str keys, has {_kind(key)}")
            try:
                check_item(entry)
            except _Misfit as misfit:
                misfit.path.append(key)
                raise

    return _Rule(check, "dict")


def _one_of(rules: list[_Rule]) -> _Rule:
    says = " or ".join(rule.says for rule in rules)

    def check(value: object) -> None:
        nearest: _Misfit | None = None
        for rule in rules:
            try:
                return rule.check(value)
            except _Misfit as misfit:
                # An alternative that fails deeper inside was probably meant.
                if len(misfit.path) > (len(nearest.path) if nearest else 0):
                    nearest = misfit
        raise nearest or _Misfit.type_of(value, says)

    return _Rule(check, says)


def _literal(options: tuple[object, ...]) -> _Rule:
    says = " or ".join(map(repr, options))

    def check(value: object) -> None:
        # By type and value, because 1 == True == 1.0.
        if any(type(value) is type(option) and value == option for option in options):
            return
        other = "another " if any(type(value) is type(option) for option in options) else ""
        raise _Misfit(f"must be {says}, is {other}{_kind(value)}")

    return _Rule(check, says)


def _fields(name: str, checks: dict[str, _Check], required: tuple[str, ...]) -> _Check:
    def check(value: object) -> None:
        if not isinstance(value, (dict, Mapping)):
            raise _Misfit.type_of(value, name)
        for key, item in value.items():
            check_item = checks.get(key)
            if check_item is None:
                raise _Misfit(f"is not a field of {name}", key)
            try:
                check_item(item)
            except _Misfit as misfit:
                misfit.path.append(key)
                raise
        for key in required:
            if key not in value:
                raise _Misfit("is required", key)

    return check


# ---- models --------------------------------------------------------------------------------------------------------


def _is_pydantic(model: type) -> bool:
    return callable(getattr(model, "model_validate", None))


def _is_typed_dict(model: type) -> bool:
    # By its mark: the one of typing_extensions is not typing's.
    return issubclass(model, dict) and hasattr(model, "__required_keys__")


def _is_model(model: object) -> bool:
    return isinstance(model, type) and (dataclasses.is_dataclass(model) or _is_typed_dict(model) or _is_pydantic(model))


class _Builder:
    """Turns annotations into checks, each model once."""

    def __init__(self) -> None:
        self._checks: dict[type, _Check] = {}

    def model(self, model: type) -> _Rule:
        if model not in self._checks:
            # A model that contains itself meets this stand-in, which finds the finished check when it is called.
            self._checks[model] = lambda value: self._checks[model](value)
            self._checks[model] = _pydantic_check(model) if _is_pydantic(model) else self._own_check(model)
        return _Rule(self._checks[model], model.__name__)

    def _own_check(self, model: type) -> _Check:
        checks: dict[str, _Check] = {}
        required: list[str] = []
        for name, annotation, needed in _declared_fields(model):
            checks[name] = self._rule(annotation, f"{model.__name__}.{name}").check
            if needed:
                required.append(name)
        return _fields(model.__name__, checks, tuple(required))

    def _rule(self, annotation: Any, where: str) -> _Rule:
        if annotation is Any or annotation is object:
            return _ANYTHING
        if annotation is None:
            return _SCALARS[NoneType]
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is list and args:
            return _list_of(self._rule(args[0], where))
        if origin is dict and args[:1] == (str,):
            return _map_of(self._rule(args[1], where))
        if origin in (Union, UnionType):
            return _one_of([self._rule(alternative, where) for alternative in args])
        if origin is Literal and all(type(option) in (NoneType, bool, int, str, bytes) for option in args):
            return _literal(args)
        if isinstance(annotation, type) and annotation in _SCALARS:
            return _SCALARS[annotation]
        if _is_model(annotation):
            return self.model(annotation)
        shown = annotation.__name__ if isinstance(annotation, type) else annotation
        raise UsageError(
            where,
            f"documents have no {shown}; use None, bool, int, float, Decimal, str, bytes, datetime, list[T], dict[str, T],"
            " unions, Literal, object, or another model",
        )


def _declared_fields(model: type) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, annotation and whether it is required, for each field of a dataclass or TypedDict."""
    try:
        hints = get_type_hints(model, include_extras=True)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise UsageError(model.__name__, f"has an annotation that cannot be resolved: {error}") from error
    if dataclasses.is_dataclass(model):
        for item in dataclasses.fields(model):
            default = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
            # What __init__ does not take is filled in by the class, so a document made by hand may lack it.
            yield item.name, hints[item.name], item.init and not default
        return
    required: frozenset[str] = model.__required_keys__  # type: ignore[attr-defined]
    for name, annotation in hints.items():
        # Where annotations are text, __required_keys__ knows only of `total`.
        origin = get_origin(annotation)
        if origin in (Required, NotRequired):
            yield name, get_args(annotation)[0], origin is Required
        else:
            yield name, annotation, name in required


def _pydantic_check(model: Any) -> _Check:
    if "extra" not in inspect.signature(model.model_validate).parameters:
        raise UsageError(model.__name__, "pydantic models need pydantic 2.12 or newer, which can refuse unknown fields")
    extra = None if getattr(model, "model_config", {}).get("extra") == "allow" else "forbid"

    def check(value: object) -> None:
        # Strict mode takes instances as they are; a document holds none.
        if not isinstance(value, (dict, Mapping)):
            raise _Misfit.type_of(value, model.__name__)
        try:
            model.model_validate(value, strict=True, extra=extra)
        except ValueError as error:
            if (errors := getattr(error, "errors", None)) is None:
                raise
            first = errors()[0]
            raise _Misfit(first["msg"], *reversed(first["loc"])) from None

    return check
