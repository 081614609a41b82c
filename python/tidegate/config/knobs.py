"""
One line in the model is one knob: its default, its help, its flag and environment name.

This is the machinery: `knob` writes such a line, `knobs` finds them all again for the command line and the reference.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from tidegate.config import names, targets, values
from tidegate.config.looks import look

__all__ = [
    "TEXT_OR_TEXTS", "AccessTarget", "Addresses", "Allows", "Bind", "Duration", "Endpoint", "FileName", "Knob", "Label",
    "ListenerName", "Model", "Networks", "Parts", "PortOrBind", "Positive", "Size", "Texts", "Urls", "child_model",
    "default_text", "is_labelled", "knob", "knobs", "plain_type", "type_label",
]  # fmt: skip


Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Parts:
    """A configuration piece by piece; what is wrong in itself stands as `None`."""

    value: Callable[[str], Any]
    """The value of a key; None where it is wrong. A list or names: each by its position or name."""
    where: Callable[[Path_], str]
    """The place of something, in words."""


class Model(BaseModel):
    """Anything a person writes: complete, unchangeable, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    later: ClassVar[dict[str, str]] = {}
    """Keys of the design that are refused until they are built, and what to say about each."""
    narrows: ClassVar[tuple[str, ...]] = ()
    """Keys that let less through: one without a value must not be read as if it were not there."""

    @classmethod
    def between(cls, parts: Parts) -> Iterable[tuple[Path_, str]]:  # noqa: ARG003  most models have none
        """Mistakes between parts that are each right in themselves, with their place."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _unwritten(cls, value: Any) -> Any:
        """A known key without a value is one that was not written; an unknown one stays a mistake."""
        if not isinstance(value, dict):
            return value
        for key in cls.narrows:
            if key in value and value[key] in (None, [], ()):
                raise ValueError(f"`{key}` has no value (leave it out where it is not meant)")
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}


@dataclass(frozen=True)
class Label:
    """What stands for the value in `--help` and in the reference."""

    text: str


def knob(default: Any, help: str, *, flag: str | None = None, advanced: bool = True) -> Any:
    """One knob: `...` as default means required; `flag` where the derived one is too long; else it is `advanced`."""
    extra: JsonDict = {"flag": flag, "advanced": advanced and flag is None}
    return Field(default=default, description=help, json_schema_extra=extra, validate_default=False)


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def _bind(value: object) -> str:
    values.bind_parts(value)
    return str(value)


def _port_or_bind(value: object) -> str:
    return _bind(f"localhost:{value}" if str(value).isdigit() else value)


def _beside(value: str, info: ValidationInfo) -> str:
    if not value:
        raise ValueError("a file name cannot be empty")
    base = (info.context or {}).get("base", "")
    return str(Path(base) / Path(value).expanduser())


def _read_from(value: str, info: ValidationInfo) -> str:
    name = _beside(value, info)
    files = (info.context or {}).get("files")
    if files is not None:
        files.setdefault(name, look(name))
    return name


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# What may be written, where that is more than the value that is made of it.
_DURATION = WithJsonSchema(
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d)?)+$|\$\{"}]}
)
_SIZE = WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]})
_WORD = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})
TEXT_OR_TEXTS = WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]})

Duration = Annotated[float, BeforeValidator(values.duration), Label("DURATION"), _DURATION]
Positive = Annotated[float, BeforeValidator(values.duration), AfterValidator(_positive), Label("DURATION"), _DURATION]
Size = Annotated[int, BeforeValidator(values.size), Label("SIZE"), _SIZE]
Bind = Annotated[str, BeforeValidator(_bind), Label("ADDR")]
PortOrBind = Annotated[str, BeforeValidator(_port_or_bind), Label("ADDR"), _WORD]
Endpoint = Annotated[str, BeforeValidator(_text), AfterValidator(values.endpoint_name), Label("NAME"), _WORD]
ListenerName = Annotated[str, BeforeValidator(_text), AfterValidator(values.listener_name)]
FileName = Annotated[str, AfterValidator(_read_from), Label("FILE")]
AccessTarget = Annotated[
    str, AfterValidator(lambda value, info: value if value in ("stdout", "off") else _beside(value, info)),
    Label("stdout|FILE|off"),
]  # fmt: skip
Texts = Annotated[tuple[str, ...], BeforeValidator(_split), Label("NAME"), TEXT_OR_TEXTS]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_split), Label("ADDR"), TEXT_OR_TEXTS]
Networks = Annotated[
    tuple[Annotated[str, AfterValidator(names.network)], ...], BeforeValidator(_split), Label("NETWORK"), TEXT_OR_TEXTS
]
Allows = Annotated[
    tuple[Annotated[str, AfterValidator(targets.allow_text)], ...],
    BeforeValidator(_split), Label("NETWORK|NAME[:PORT]"), TEXT_OR_TEXTS,
]  # fmt: skip
Urls = Annotated[
    tuple[Annotated[str, AfterValidator(values.connect_url)], ...],
    BeforeValidator(_split), Field(min_length=1), Label("URL"), TEXT_OR_TEXTS,
]  # fmt: skip


@dataclass(frozen=True)
class Knob:
    """One knob as the command line and the reference see it."""

    path: tuple[str, ...]
    """Where it stands in the file."""
    flag: str
    """`--timeouts-connect`."""
    env: str
    """`TIDEGATE_TIMEOUTS_CONNECT`."""
    help: str
    """One sentence, with the unit."""
    default: str
    """The default as a person reads it; empty for none."""
    label: str
    """What stands for the value."""
    is_flag: bool
    """A switch that takes no value."""
    multiple: bool
    """May be given more than once."""
    advanced: bool
    """Listed after the options that people use every day."""


def knobs(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Knob]:
    """Every knob below a model that has one value, in the order of the file."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        child = child_model(field)
        section = child is not None and not is_labelled(field)
        if section:
            # A section that may be missing, and one of which there are several, has no options.
            if child is not None and field.default is not None and get_origin(plain_type(field)) not in (dict, tuple):
                yield from knobs(child, here)
        elif isinstance(field.json_schema_extra, dict):
            flag = field.json_schema_extra["flag"]
            flag = str(flag) if flag else "--" + "-".join(here).replace("_", "-")
            yield Knob(
                path=here,
                flag=flag,
                env="TIDEGATE_" + flag.removeprefix("--").replace("-", "_").upper(),
                help=field.description or "",
                default=default_text(field),
                label=type_label(field),
                is_flag=plain_type(field) is bool,
                # Of a command several values are its words.
                multiple=get_origin(plain_type(field)) is tuple and type_label(field) != "COMMAND",
                advanced=bool(field.json_schema_extra["advanced"]),
            )


def plain_type(field: FieldInfo) -> Any:
    """The type without `None` and without annotations."""
    kind = field.annotation
    members = [member for member in get_args(kind) if member is not type(None)]
    if type(None) in get_args(kind) and len(members) == 1:
        kind = members[0]
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def child_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model that this field holds, alone, in a list or by name."""
    kind = plain_type(field)
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def is_labelled(field: FieldInfo) -> bool:
    """True for a value in a form of its own, even where a model stands behind it."""
    return any(isinstance(mark, Label) for mark in field.metadata)


def type_label(field: FieldInfo) -> str:
    """What stands for the value: `DURATION`, `[text|json]`, `true|false`."""
    for mark in field.metadata:
        if isinstance(mark, Label):
            return mark.text
    kind = field.annotation
    for candidate in get_args(kind):
        for mark in getattr(candidate, "__metadata__", ()):
            if isinstance(mark, Label):
                return mark.text
    plain = plain_type(field)
    if get_origin(plain) is Literal:
        return "[" + "|".join(str(choice) for choice in get_args(plain)) + "]"
    return {bool: "true|false", int: "NUMBER", SecretStr: "TOKEN"}.get(plain, "TEXT")


def default_text(field: FieldInfo) -> str:
    """The default as it would be written; empty where there is none."""
    default = field.default
    if field.is_required() or default is None or default == () or field.default_factory is not None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(str(part) for part in default)
    label = type_label(field)
    if label == "DURATION":
        return duration_text(float(default))
    if label == "SIZE" and default % 1024 == 0:
        return f"{default // 1024}KiB"
    return str(default)


def duration_text(seconds: float) -> str:
    """The shortest way to write a duration."""
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:g}h"
    if seconds > 60 and seconds % 60 == 0:
        return f"{seconds / 60:g}m"
    return f"{seconds:g}s"
