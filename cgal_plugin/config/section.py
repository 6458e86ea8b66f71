"""The base class of all sections of the configuration."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Tag


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


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
