"""Models say exactly which documents a family carries, and errors say where one does not fit."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import KW_ONLY, InitVar, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Generic, Literal, NotRequired, Optional, Required, TypedDict, TypeVar, Union

import pytest
import typing_extensions

from rtsync.core import InvalidValue, ModelError, UsageError, checked_document
from rtsync.hub._models import to_document, validator_for

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SAMPLES: dict[str, object] = {
    "None": None,
    "bool": True,
    "int": 1,
    "float": 1.0,
    "Decimal": Decimal("1"),
    "str": "1",
    "bytes": b"1",
    "datetime": NOW,
    "list": [],
    "dict": {},
}


def refusal(model: type, document: Mapping[str, object]) -> ModelError:
    """Return the error that *document* meets."""
    validate = validator_for(model)
    with pytest.raises(ModelError) as caught:
        validate(document)
    return caught.value


def model_of(annotation: Any) -> type:
    """Return a dataclass with one field ``x`` of this type."""
    return dataclasses.make_dataclass("Model", [("x", annotation)])


@dataclass
class Position:
    qty: Decimal
    side: Literal["long", "short"] = "long"
    note: str | None = None


@dataclass
class Portfolio:
    owner: str
    positions: dict[str, Position]
    marks: list[list[float]] = field(default_factory=list)


PORTFOLIO: dict[str, object] = {
    "owner": "auth0|1",
    "positions": {"ETH-USD": {"qty": Decimal("1.5"), "side": "short", "note": None}, "BTC/USD": {"qty": Decimal("2")}},
    "marks": [[1.0, 2.0], []],
}


# ---- fits and misfits ----------------------------------------------------------------------------------------------


def test_without_a_model_every_document_passes() -> None:
    """A family need not declare a model."""
    validator_for(None)({"anything": object()})


def test_document_of_the_model_passes_and_stays_untouched() -> None:
    """Checking reads only."""
    before = repr(PORTFOLIO)
    validator_for(Portfolio)(PORTFOLIO)
    validator_for(Portfolio)(types.MappingProxyType(PORTFOLIO))
    assert repr(PORTFOLIO) == before


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"owner": None}, "document.owner", "must be str, is None"),
        ({"positions": []}, "document.positions", "must be dict, is list"),
        ({"positions": {"A": 1}}, "document.positions.A", "must be Position, is int"),
        ({"positions": {"A": {}}}, "document.positions.A.qty", "is required"),
        ({"positions": {"A": {"qty": 1}}}, "document.positions.A.qty", "must be Decimal, is int"),
        ({"positions": {"A": {"qty": Decimal(1), "qtty": 1}}}, "document.positions.A.qtty", "is not a field of Position"),
        (
            {"positions": {"A": {"qty": Decimal(1), "side": "up"}}},
            "document.positions.A.side",
            "'long' or 'short', is another str",
        ),
        ({"positions": {"A": {"qty": Decimal(1), "side": 0}}}, "document.positions.A.side", "'long' or 'short', is int"),
        ({"positions": {"A": {"qty": Decimal(1), "note": 0}}}, "document.positions.A.note", "must be str or None, is int"),
        ({"positions": {7: {"qty": Decimal(1)}}}, "document.positions", "must have str keys, has int"),
        ({"marks": [[1.0], [2.0, 3]]}, "document.marks[1][1]", "must be float, is int"),
        ({"marks": [()]}, "document.marks[0]", "must be list, is tuple"),
        ({"mark": 1}, "document.mark", "is not a field of Portfolio"),
    ],
)
def test_misfit_is_named_by_its_full_path(change: dict[str, object], field: str, problem: str) -> None:
    """Whoever published reads where, what was needed and what was there, but no value."""
    error = refusal(Portfolio, {**PORTFOLIO, **change})
    assert error.field == field
    assert problem in error.problem


def test_missing_field_is_named() -> None:
    """The first missing field in declared order is reported."""
    assert str(refusal(Portfolio, {})) == "document.owner: is required"
    assert str(refusal(Portfolio, {"owner": "a"})) == "document.positions: is required"


def test_document_that_is_no_mapping_is_refused() -> None:
    """Also when a caller ignores the types."""
    assert str(refusal(Portfolio, [])) == "document: must be Portfolio, is list"  # type: ignore[arg-type]


@pytest.mark.parametrize("needed", [*SAMPLES, "object"])
def test_each_type_accepts_itself_alone(needed: str) -> None:
    """An int is no float, True is no int, text is no Decimal; object takes all."""
    annotations: dict[str, Any] = {
        "None": None,
        **{name: type(value) for name, value in SAMPLES.items() if value is not None},
        "list": list[object],
        "dict": dict[str, Any],
        "object": object,
    }
    model = model_of(annotations[needed])
    for name, value in SAMPLES.items():
        if needed in (name, "object"):
            validator_for(model)({"x": value})
        else:
            assert str(refusal(model, {"x": value})) == f"document.x: must be {needed}, is {name}"


def test_none_may_be_the_type_of_list_items() -> None:
    """``None`` means its type wherever it stands."""
    validator_for(model_of(list[None]))({"x": [None]})
    assert refusal(model_of(list[None]), {"x": [0]}).problem == "must be None, is int"


class Side(StrEnum):
    LONG = "long"


def test_subclass_of_a_type_is_refused_as_it_would_be_at_publish() -> None:
    """A value that encodes as something else than its type says is not taken for it."""
    assert refusal(model_of(str), {"x": Side.LONG}).problem == "must be str, is Side"


def test_path_shows_hostile_keys_escaped_and_shortened() -> None:
    """Keys may come from users; an error is one printable ASCII line."""
    for key in ("a\r\nb", "é\u2028", "k" * 100_000):
        text = str(refusal(model_of(dict[str, int]), {"x": {key: "no"}}))
        assert text.isascii() and text.isprintable() and len(text) < 120
    assert refusal(model_of(int), {3: 1}).field == "document[3]"  # type: ignore[dict-item]
    assert refusal(model_of(int), {None: 1}).field == "document.None"  # type: ignore[dict-item]


# ---- unions and literals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotation", [int | str | None, Union[int, str, None], Optional[int | str]])  # noqa: UP007, UP045
def test_union_accepts_each_alternative(annotation: Any) -> None:
    """All spellings of a union mean the same."""
    validate = validator_for(model_of(annotation))
    for value in (1, "1", None):
        validate({"x": value})
    problem = refusal(model_of(annotation), {"x": 1.0}).problem
    # typing caches unions by equality, which ignores their order.
    assert problem in ("must be int or str or None, is float", "must be str or int or None, is float")


def test_union_reports_the_alternative_that_went_deepest() -> None:
    """A position with one wrong field was meant as a position."""
    model = model_of(None | str | dict[str, Position] | list[int])
    error = refusal(model, {"x": {"A": {"qty": 1}}})
    assert str(error) == "document.x.A.qty: must be Decimal, is int"
    assert refusal(model, {"x": 1.0}).problem == "must be None or str or dict or list, is float"


def test_union_with_object_accepts_everything() -> None:
    """Whatever a document can carry."""
    validator_for(model_of(Optional[object]))({"x": [1, {"a": b""}]})  # noqa: UP045


def test_literal_compares_type_and_value() -> None:
    """In Python 1 == True == 1.0; in a document they differ."""
    model = model_of(Literal[1, "a", None, b"b"])
    for value in (1, "a", None, b"b"):
        validator_for(model)({"x": value})
    others: list[object] = [True, 1.0, Decimal(1), 2, "b", [], {}]
    for other in others:
        assert refusal(model, {"x": other}).field == "document.x"
    assert refusal(model, {"x": 2}).problem == "must be 1 or 'a' or None or b'b', is another int"


# ---- dataclasses ---------------------------------------------------------------------------------------------------


@dataclass
class Odd:
    shared: ClassVar[int] = 1
    seed: InitVar[int]
    _: KW_ONLY
    made: int = field(init=False)
    kept: int

    def __post_init__(self, seed: int) -> None:
        self.made = seed


def test_dataclass_fields_are_those_that_instances_hold() -> None:
    """Class variables and init-only variables are no fields; what the class fills in may be absent."""
    validate = validator_for(Odd)
    validate({"kept": 1})
    validate(to_document(Odd(5, kept=1)))
    assert refusal(Odd, {"kept": 1, "shared": 1}).field == "document.shared"
    assert refusal(Odd, {"kept": 1, "seed": 1}).field == "document.seed"


@dataclass
class Node:
    name: str
    children: dict[str, Node] = field(default_factory=dict)
    next: Node | None = None


def test_model_may_contain_itself() -> None:
    """A tree is checked to its leaves."""
    tree = to_document(Node("a", {"b": Node("b", {"c": Node("c")})}, next=Node("d")))
    validator_for(Node)(tree)
    bad = {"name": "a", "children": {"b": {"name": "b", "next": {"name": 1}}}}
    assert refusal(Node, bad).field == "document.children.b.next.name"


# ---- typed dicts ---------------------------------------------------------------------------------------------------


class Base(TypedDict):
    id: int
    hint: NotRequired[str]


class Trade(Base, total=False):
    price: Required[Decimal]
    tags: list[str]


class Plain(typing_extensions.TypedDict):
    id: int
    hint: typing_extensions.NotRequired[Trade]


def test_typed_dict_requires_what_it_says() -> None:
    """`total`, `Required` and `NotRequired` count, inherited ones too, also where annotations are text."""
    validate = validator_for(Trade)
    validate({"id": 1, "price": Decimal(1)})
    validate({"id": 1, "price": Decimal(1), "hint": "a", "tags": ["b"]})
    assert str(refusal(Trade, {"price": Decimal(1)})) == "document.id: is required"
    assert str(refusal(Trade, {"id": 1})) == "document.price: is required"
    assert refusal(Trade, {"id": 1, "price": Decimal(1), "hint": 1}).field == "document.hint"
    assert refusal(Trade, {"id": 1, "price": Decimal(1), "other": 1}).field == "document.other"


def test_typed_dict_of_typing_extensions_is_one() -> None:
    """Both kinds of TypedDict are models, and may be nested."""
    validator_for(Plain)({"id": 1, "hint": {"id": 1, "price": Decimal(1)}})
    assert refusal(Plain, {"id": 1, "hint": {"id": 1}}).field == "document.hint.price"


# ---- declarations --------------------------------------------------------------------------------------------------

T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Vague:
    content: Box[int]


class NoModel:
    x: int


@dataclass
class Unresolved:
    x: Missing  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("model", [int, dict, NoModel, list[int], Position(Decimal(1)), "Position", Side])
def test_what_is_no_model_is_refused_at_declaration(model: Any) -> None:
    """The mistake is found when the family is declared, not when it publishes."""
    with pytest.raises(UsageError, match="is not a dataclass, a TypedDict or a pydantic model") as caught:
        validator_for(model)
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    "annotation",
    [
        complex,
        tuple[int, ...],
        set[str],
        list,
        dict,
        typing.List,  # noqa: UP006
        typing.Dict,  # noqa: UP006
        dict[int, str],
        Mapping[str, int],
        Side,
        Literal[Side.LONG],
        Annotated[int, []],
        NoModel,
        list[set[int]],
        dict[str, complex],
        int | complex,
        Box[int],
        T,
    ],
)
def test_unknown_annotation_is_refused_at_declaration(annotation: Any) -> None:
    """The error names model and field, and says what can be written instead."""
    with pytest.raises(UsageError, match="documents have no") as caught:
        validator_for(model_of(annotation))
    assert caught.value.field == "Model.x"
    assert not isinstance(caught.value, ModelError)


def test_unknown_annotation_in_a_nested_model_names_that_model() -> None:
    """The innermost place is the one to correct."""
    with pytest.raises(UsageError) as caught:
        validator_for(model_of(list[Vague]))
    assert caught.value.field == "Vague.content"


def test_unresolvable_annotation_is_refused_at_declaration() -> None:
    """A name that does not exist at run time is reported as such."""
    with pytest.raises(UsageError, match="cannot be resolved: name 'Missing' is not defined") as caught:
        validator_for(Unresolved)
    assert caught.value.field == "Unresolved"


# ---- pydantic ------------------------------------------------------------------------------------------------------


class Complaint(ValueError):
    """Looks like a pydantic ValidationError."""

    def errors(self) -> list[dict[str, object]]:
        return [{"loc": ("levels", 2, "px"), "msg": "Input should be a valid number"}, {"loc": (), "msg": "second"}]


class Duck:
    """Looks like a pydantic model, and remembers how it was asked."""

    model_config: ClassVar[dict[str, str]] = {}
    asked: ClassVar[dict[str, object]] = {}
    failure: ClassVar[ValueError | None] = None

    @classmethod
    def model_validate(cls, obj: object, *, strict: bool | None = None, extra: str | None = None) -> None:
        cls.asked.update(obj=obj, strict=strict, extra=extra)
        if cls.failure:
            raise cls.failure


def test_pydantic_model_is_asked_strictly_and_refuses_unknown_fields() -> None:
    """Pydantic may not coerce what will travel as it is."""
    validator_for(Duck)({"a": 1})
    assert Duck.asked == {"obj": {"a": 1}, "strict": True, "extra": "forbid"}


def test_pydantic_model_that_allows_other_fields_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicitly open model stays open."""
    monkeypatch.setattr(Duck, "model_config", {"extra": "allow"})
    validator_for(Duck)({"a": 1})
    assert Duck.asked["extra"] is None


def test_pydantic_error_becomes_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its location continues ours."""
    monkeypatch.setattr(Duck, "failure", Complaint())
    assert str(refusal(Duck, {})) == "document.levels[2].px: Input should be a valid number"
    assert refusal(model_of(dict[str, Duck]), {"x": {"a": {}}}).field == "document.x.a.levels[2].px"


def test_other_error_of_a_pydantic_model_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a model is not disguised as a bad document."""
    monkeypatch.setattr(Duck, "failure", ValueError("bug"))
    with pytest.raises(ValueError, match=r"^bug$"):
        validator_for(Duck)({})


def test_pydantic_model_takes_mappings_only() -> None:
    """An instance where a document should be is not let through."""
    assert refusal(model_of(Duck), {"x": Duck()}).problem == "must be Duck, is Duck"


class OldDuck:
    @classmethod
    def model_validate(cls, obj: object, *, strict: bool | None = None) -> None: ...


def test_pydantic_too_old_to_refuse_unknown_fields_is_refused() -> None:
    """The promise would silently be weaker."""
    with pytest.raises(UsageError, match=r"pydantic 2\.12"):
        validator_for(OldDuck)


def test_real_pydantic_models_are_checked_and_dumped() -> None:
    """With pydantic installed, nesting, strictness, unknown fields and aliases work as told."""
    pydantic = pytest.importorskip("pydantic")
    level: Any = pydantic.create_model("Level", px=(Decimal, ...))
    book = pydantic.create_model("Book", levels=(list[level], ...), at=(datetime, pydantic.Field(alias="when")))
    document: dict[str, object] = {"levels": [{"px": Decimal(1)}], "when": NOW}
    validator_for(book)(document)
    assert to_document(book(**document)) == document
    assert refusal(book, {"levels": [{"px": "1"}], "when": NOW}).field == "document.levels[0].px"
    assert refusal(book, {"levels": [{"px": Decimal(1), "qx": 1}], "when": NOW}).field == "document.levels[0].qx"
    assert refusal(book, {"levels": []}).field == "document.when"


# ---- to_document ---------------------------------------------------------------------------------------------------


def test_instances_become_plain_documents_at_every_depth() -> None:
    """Dataclasses inside mappings, lists and other dataclasses are converted; the result is a legal document."""
    portfolio = Portfolio("a", {"X": Position(Decimal(1))}, marks=[[1.0]])
    plain = {"owner": "a", "positions": {"X": {"qty": Decimal(1), "side": "long", "note": None}}, "marks": [[1.0]]}
    assert to_document(portfolio) == plain
    assert to_document({"list": [portfolio], "map": OrderedDict(p=portfolio)}) == {"list": [plain], "map": {"p": plain}}
    converted = to_document(types.MappingProxyType({"m": types.MappingProxyType({"a": 1})}))
    assert checked_document(converted) == {"m": {"a": 1}}


def test_document_is_a_copy() -> None:
    """Later changes to containers of the original do not reach the document."""
    inner: list[object] = [1]
    original = {"a": {"b": inner}}
    document = to_document(original)
    inner.append(2)
    original["a"]["c"] = []
    assert document == {"a": {"b": [1]}}


def test_leaves_keep_type_and_identity() -> None:
    """Nothing is converted that a document can carry, nor what it cannot: that is judged, by path, at publish."""
    odd = object()
    document = to_document({**SAMPLES, "odd": odd, "tuple": (1,), "class": Position})
    assert document["odd"] is odd
    assert document["class"] is Position
    assert document["tuple"] == (1,)
    assert {name: type(document[name]) for name in SAMPLES} == {name: type(value) for name, value in SAMPLES.items()}
    with pytest.raises(InvalidValue, match=r"document\.odd"):
        checked_document(document)


class Dumping:
    """Looks like an instance of a pydantic model."""

    def model_dump(self, *, by_alias: bool) -> dict[str, object]:
        return {"by_alias": by_alias, "position": Position(Decimal(1))}


def test_pydantic_instances_are_dumped_by_alias() -> None:
    """Documents use the names that the model validates."""
    position = {"qty": Decimal(1), "side": "long", "note": None}
    assert to_document(Dumping()) == {"by_alias": True, "position": position}


@pytest.mark.parametrize("value", [None, 1, "text", [], (), Position, Dumping, object()])
def test_what_is_no_document_is_refused(value: object) -> None:
    """Only mappings and instances of models are documents; a class is no instance."""
    with pytest.raises(InvalidValue, match="document: must be a mapping or an instance of a model, is"):
        to_document(value)


def test_document_that_contains_itself_is_refused() -> None:
    """A cycle is a typed error, not a crash."""
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    with pytest.raises(InvalidValue, match="contains itself"):
        to_document(cycle)
