"""The base class of all sections of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Tag, model_validator

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

#: value of a key that stands for its default
AUTO = "auto"
#: residues of the molecule on which defaults were measured, and of a section that is used without one
MEASURED = 10


class Decision(NamedTuple):
    """Value of a key that was not given or ``auto``.

    Attributes
    ----------
    value, rule
        The value, and how it was chosen.
    say
        Whether a run says it: it is not what a user expects.
    """

    value: Any
    rule: str
    say: bool = False


@dataclass(frozen=True)
class Auto:
    """Mark of a key whose default follows other keys or the molecule; it may be given as ``auto``.

    Attributes
    ----------
    rule
        How the default is chosen, in words.
    """

    rule: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(core_schema), {"const": AUTO, "type": "string"}]}


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    @classmethod
    def decide(cls, given: Mapping[str, Any], n_residues: int) -> dict[str, Decision]:
        """Return the values of keys that are not given and follow other keys or the size of the molecule.

        Keys of a section inside this one have a dot. Wrong values in ``given`` are left to the checks.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Set what follows other keys; a section without a configuration is for a molecule of 10 residues."""
        if not isinstance(data, dict):
            return data
        given = without_auto(cls, data)
        decided = cls.decide(given, MEASURED)
        return filled(given, {k: d.value for k, d in decided.items() if d.value != default_of(cls, k)})


def autos(model: type[BaseModel]) -> dict[str, Auto]:
    """Return the keys of a section that may be ``auto``."""
    marks = {k: [m for m in f.metadata if isinstance(m, Auto)] for k, f in model.model_fields.items()}
    return {key: found[0] for key, found in marks.items() if found}


def without_auto(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that are given, without those that are ``auto``, here and in sections inside."""
    marked = autos(model)
    found = {k: v for k, v in data.items() if not (k in marked and isinstance(v, str) and v == AUTO)}
    for key, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(found.get(key), dict) and isinstance(inner, type) and issubclass(inner, BaseModel):
            found[key] = without_auto(inner, found[key])
    return found


def given_in(value: Any) -> dict[str, Any]:
    """Return the keys that are given in a section: a dictionary, a model, or nothing."""
    if isinstance(value, BaseModel):
        return {key: getattr(value, key) for key in value.model_fields_set}
    return dict(value) if isinstance(value, dict) else {}


def filled(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with more keys; a dot leads into a section inside, unless that is not one."""
    found = dict(given)
    for key, value in values.items():
        section, _, inner = key.partition(".")
        if not inner:
            found[section] = value
            continue
        own = found.get(section, {})
        if isinstance(own, BaseModel):
            found[section] = own.model_copy(update={inner: value})
        elif isinstance(own, dict):
            found[section] = {**own, inner: value}
    return found


def default_of(model: type[BaseModel], key: str) -> Any:
    """Return the default of a key; a dot leads into a section inside."""
    section, _, inner = key.partition(".")
    default = model.model_fields[section].get_default(call_default_factory=True)
    return getattr(default, inner) if inner else default


def kinds(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the models that a field may hold: tag in pydantic's error locations → model.

    If a field may hold one model only, the tag is the name of the model.
    """
    if get_origin(annotation) in (Union, UnionType):
        return {tag: model for option in get_args(annotation) for tag, model in kinds(option).items()}
    if get_origin(annotation) is dict:
        return kinds(get_args(annotation)[1])
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        tags = [mark.tag for mark in marks if isinstance(mark, Tag)]
        return {tags[0] if tags else tag: model for tag, model in kinds(inner).items()}
    if not isinstance(annotation, type) or not issubclass(annotation, BaseModel):
        return {}
    kind = annotation.model_fields.get("kind")
    literal = get_args(kind.annotation) if kind is not None else ()
    return {str(literal[0]) if literal else annotation.__name__: annotation}
