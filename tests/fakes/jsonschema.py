"""As much of JSON Schema as our schemas use; a keyword that is not known here fails the test."""

from __future__ import annotations

import re
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_SILENT = {"$schema", "title", "description"}


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Everything in `value` that `schema` forbids."""
    found: list[str] = []
    wanted = schema.get("type")
    if wanted and (
        not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")
    ):
        return [f"{where}: expected {wanted}"]
    for keyword, bound in schema.items():
        match keyword:
            case "type" | "properties" | "additionalProperties":
                pass
            case "required":
                found += [f"{where}: {key} is missing" for key in bound if key not in value]
            case "enum":
                found += [] if value in bound else [f"{where}: not one of {bound}"]
            case "pattern":
                found += [] if re.search(bound, value) else [f"{where}: not like {bound}"]
            case "minimum":
                found += [] if value >= bound else [f"{where}: below {bound}"]
            case "maximum":
                found += [] if value <= bound else [f"{where}: above {bound}"]
            case "minLength" | "minItems":
                found += [] if len(value) >= bound else [f"{where}: shorter than {bound}"]
            case "maxLength" | "maxItems":
                found += [] if len(value) <= bound else [f"{where}: longer than {bound}"]
            case "items":
                for index, item in enumerate(value):
                    found += faults(item, bound, f"{where}[{index}]")
            case _ if keyword not in _SILENT:
                raise NotImplementedError(keyword)
    for key, item in value.items() if isinstance(value, dict) else ():
        rule = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
        found += [f"{where}: {key} is unknown"] if rule is False else []
        found += faults(item, rule or {}, f"{where}.{key}")
    return found
