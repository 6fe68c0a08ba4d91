"""/openapi.json and /docs: the description of the public API, kept as data in openapi.json, and one page that shows it.

The page is made from the document when it is first asked for; it needs no script and nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}
details{border:1px solid var(--line);border-radius:.5rem;margin:.5rem 0}
summary{padding:.5rem .75rem;cursor:pointer}details>div{padding:0 .75rem .75rem}
.verb{display:inline-block;min-width:4.5em;font-weight:700}
table{border-collapse:collapse;width:100%;margin:.5rem 0;display:block;overflow-x:auto}
td,th{border:1px solid var(--line);padding:.25rem .5rem;text-align:left;vertical-align:top}th{background:var(--soft)}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@lru_cache(maxsize=1)
def document_bytes() -> bytes:
    """The OpenAPI 3.1 document as it is served."""
    return orjson.dumps(orjson.loads(files("common.web").joinpath("openapi.json").read_bytes()))


@lru_cache(maxsize=1)
def docs_page() -> bytes:
    """The HTML page of the document."""
    return "".join(_page(orjson.loads(document_bytes()))).encode()


async def openapi_json(request: Request) -> Response:
    """Handler of /openapi.json."""
    return Response(document_bytes(), media_type="application/json")


async def docs(request: Request) -> Response:
    """Handler of /docs."""
    return Response(docs_page(), media_type="text/html", headers={"content-security-policy": _POLICY})


def _page(doc: Mapping[str, Any]) -> Iterator[str]:
    info = doc["info"]
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
    yield f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
    yield f"<h1>{escape(info['title'])} API</h1><p>{_prose(info['summary'])} {_prose(info['description'])}</p>"
    yield '<p>The same as data: <a href="/openapi.json">/openapi.json</a></p>'
    for tag in doc["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_prose(tag['description'])}</p>"
        for path, methods in doc["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(doc, path, method, operation)
    yield "<h2>Objects</h2>"
    for name, schema in doc["components"]["schemas"].items():
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> {_prose(schema.get("description", ""))}</summary><div>'
        yield from _fields(schema)
        yield "</div></details>"
    yield "</body></html>"


def _operation(doc: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<details><summary><span class="verb">{method.upper()}</span><code>{escape(path)}</code> — '
    yield f"{_prose(operation['summary'])}</summary><div><p>{_prose(operation.get('description', ''))}</p>"
    if parameters := [_resolve(doc, p) for p in operation.get("parameters", ())]:
        yield "<table><tr><th>Parameter</th><th>In</th><th>Meaning</th></tr>"
        for p in parameters:
            meaning = f"{_prose(p.get('description', ''))} {_kind(p['schema'])}"
            yield f"<tr><td><code>{escape(p['name'])}</code></td><td>{p['in']}</td><td>{meaning}</td></tr>"
        yield "</table>"
    if body := operation.get("requestBody"):
        yield f"<p>Body: {_kind(next(iter(body['content'].values()))['schema'])}</p>"
    yield "<table><tr><th>Status</th><th>Meaning</th><th>Body</th></tr>"
    for status, response in operation["responses"].items():
        found = _resolve(doc, response)
        kinds = "; ".join(f"<code>{escape(t)}</code> {_kind(c['schema'])}" for t, c in found.get("content", {}).items())
        yield f"<tr><td>{status}</td><td>{_prose(found['description'])}</td><td>{kinds}</td></tr>"
    yield "</table></div></details>"


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    required = set(schema.get("required", ()))
    yield "<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>"
    for name, part in schema.get("properties", {}).items():
        mark = "" if name in required else " <small>(optional)</small>"
        yield f"<tr><td><code>{escape(name)}</code>{mark}</td><td>{_kind(part)}</td><td>{_prose(part.get('description', ''))}</td></tr>"
    yield "</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with a link where it is named."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "oneOf" in schema:
        return " or ".join(_kind(s) for s in schema["oneOf"])
    if "enum" in schema or "const" in schema:
        return " | ".join(f"<code>{escape(str(v))}</code>" for v in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and schema.get("properties"):
        return "{ " + ", ".join(escape(n) for n in schema["properties"]) + " }"
    return escape(words) + (f" <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else "")


def _prose(text: str) -> str:
    """Escaped text whose `code` is marked up."""
    parts = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))


def _resolve(doc: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = doc
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found
