"""As much of `kustomize build` as deploy/kubernetes uses, so that tests see what a cluster would get: resources, components, patches,
images, namespace. A word that it does not know is an error, not ignored.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "patches", "images"}


def build(folder: Path) -> list[Document]:
    """The documents of an overlay or base."""
    return _build(folder, [])


def containers(document: Document) -> list[Document]:
    """The containers of whatever makes pods, those that run first too."""
    spec = pod_spec(document)
    return [*spec.get("initContainers", ()), *spec.get("containers", ())]


def pod_spec(document: Document) -> Document:
    """The spec of the pods that a document makes, empty where it makes none."""
    found: Document = document.get("spec", {}).get("template", {}).get("spec", {}) if isinstance(document.get("spec"), dict) else {}
    return found


def _build(folder: Path, inherited: list[Document]) -> list[Document]:
    given = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(given) <= KNOWN, f"{folder} says {sorted(set(given) - KNOWN)}"
    documents = list(inherited)
    for name in given.get("resources", ()):
        path = (folder / name).resolve()
        documents += build(path) if path.is_dir() else [d for d in yaml.safe_load_all(path.read_text()) if d]
    for name in given.get("components", ()):
        documents = _build((folder / name).resolve(), documents)
    for entry in given.get("patches", ()):
        documents = _patched(documents, yaml.safe_load(entry["patch"]), entry.get("target"))
    for document in documents:
        if "namespace" in given and document["kind"] != "Namespace":
            document["metadata"]["namespace"] = given["namespace"]
        for container in containers(document):
            container["image"] = _image(container["image"], given.get("images", ()))
    return documents


def _patched(documents: list[Document], patch: Any, target: Document | None) -> list[Document]:
    about = target or {"kind": patch["kind"], "name": patch["metadata"]["name"]}
    chosen = [d for d in documents if _meant(d, about)]
    assert chosen, f"a patch is about {about}, which is not there"
    if isinstance(patch, dict) and patch.get("$patch") == "delete":
        return [d for d in documents if d not in chosen]
    for document in chosen:
        if isinstance(patch, dict):
            _merge(document, patch)
        else:
            for step in patch:
                _replace(document, step)
    return documents


def _meant(document: Document, about: Document) -> bool:
    return all(re.fullmatch(about[k], v) for k, v in (("kind", document["kind"]), ("name", document["metadata"]["name"])) if k in about)


def _merge(document: Document, patch: Document) -> None:
    for key, value in patch.items():
        if isinstance(value, dict):
            _merge(document.setdefault(key, {}), value)
        else:
            assert not isinstance(value, list), f"lists are merged by rules of their own: {key}"
            document[key] = copy.deepcopy(value)


def _replace(document: Document, step: Document) -> None:
    assert step["op"] == "replace", step
    *way, last = [int(part) if part.isdecimal() else part for part in step["path"].removeprefix("/").split("/")]
    at: Any = document
    for part in way:
        at = at[part]
    assert isinstance(at, list) or last in at, f"there is nothing at {step['path']}"
    at[last] = step["value"]


def _image(image: str, changes: Any) -> str:
    name, _, tag = image.partition(":")
    for change in changes:
        if change["name"] == name:
            return f"{change.get('newName', name)}:{change.get('newTag', tag)}"
    return image
