"""
The JSON Schema of a configuration file, for editors.

It says what may be written, which is more than the model holds: durations as text, short forms, `${VAR}` in any value.
What it lets through may still be a mistake; `config check` has the last word.
"""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from tidegate.config.knobs import Model

__all__ = ["schema"]

_TEXT = {"type": "string"}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_SHORT_FORMS: dict[str, list[dict[str, Any]]] = {
    "Auth": [{"const": "none"}],
    "DynamicEndpoints": [{"type": "boolean"}],
    "UpstreamAddress": [_TEXT, {"type": "integer"}],
    "Health": [{"const": "tcp"}, {"type": "string", "pattern": "^/"}],
    "Ejection": [{"type": "boolean"}],
    "Redirect": [_TEXT],
    "Respond": [{"type": "integer"}],
}
"""What may be written instead of the whole, by model."""


def schema(model: type[Model]) -> dict[str, Any]:
    """The schema of one role's file."""
    made: dict[str, Any] = model.model_json_schema(schema_generator=_Generator)
    if "ListenerTo" in made.get("$defs", {}):
        # The list stands in the place of the whole.
        whole = made["$defs"]["ListenerTo"]
        rules = whole["properties"].pop("rules")
        rules.pop("default", None)
        made["$defs"]["ListenerTo"] = {"description": whole.pop("description"), "anyOf": [rules, whole]}
    for name, short in _SHORT_FORMS.items():
        if name in made.get("$defs", {}):
            whole = made["$defs"][name]
            made["$defs"][name] = {"description": whole.pop("description"), "anyOf": [*short, whole]}
    return {"$schema": GenerateJsonSchema.schema_dialect, **_plain(made)}


class _Generator(GenerateJsonSchema):
    """Leaves out titles, which repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _plain(node: Any, one_of_several: bool = False) -> Any:
    """The same without what belongs to options, and with the ways in which values may be written."""
    if isinstance(node, list):
        return [_plain(item, one_of_several) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _plain(item, key == "anyOf") for key, item in node.items() if key not in ("flag", "advanced")}
    if "default" in found and found["default"] is None:
        del found["default"]
    choices = [choice for choice in found.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        found = {**{key: item for key, item in found.items() if key != "anyOf"}, **choices[0]}
    if found.get("type") in ("integer", "number", "boolean") and not one_of_several:
        kept = {key: found.pop(key) for key in ("description", "default") if key in found}
        return {**kept, "anyOf": [found, _VARIABLE]}
    return found
