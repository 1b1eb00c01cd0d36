"""The OpenAPI document is valid, and what it says is what the pages answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import jsonschema
import yaml
from openapi_spec_validator import validate

from rezolus.recording.child import Finished
from rezolus.sinks.dumps import MAX_OPEN
from rezolus.sinks.hindsight import Hindsight
from rezolus.sinks.hindsight_pages import make_app
from tests.sinks.test_hindsight import SMALL, config, running, until
from tests.synthetic import Walk

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "hindsight.openapi.yaml"
AUTOMATIC = {"HEAD", "OPTIONS"}


def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
    return found


def resolved(spec: dict[str, Any], node: Any) -> Any:
    """The node with its references replaced by what they name."""
    if isinstance(node, list):
        return [resolved(spec, item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = spec
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(spec, target)
    return {key: resolved(spec, value) for key, value in node.items()}


def check(answer: httpx.Response) -> None:
    """Status, content type, headers and body are among what the document allows."""
    spec = document()
    operation = spec["paths"][answer.request.url.path][answer.request.method.lower()]
    described = resolved(spec, operation["responses"][str(answer.status_code)])
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in described["content"]
    if kind == "application/json":
        jsonschema.validate(answer.json(), described["content"][kind]["schema"])
    assert {name for name in described.get("headers", {}) if name != "Content-Disposition"} <= {
        name.title() for name in answer.headers
    }
    assert ("content-disposition" in answer.headers) == (kind == "application/octet-stream")


def test_the_document_is_valid() -> None:
    validate(document())


def test_every_page_is_described_and_no_other(tmp_path: Path) -> None:
    app = make_app(Hindsight("hind", config(tmp_path)))
    served = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - AUTOMATIC
    }
    assert served == {(path, method) for path, methods in document()["paths"].items() for method in methods}


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    allowed = {"Authorization": "Bearer sesame"}
    seen = set()
    sink = Hindsight("hind", config(tmp_path, token_file=tmp_path / "token"))
    async with running(sink) as hindsight:
        answers = [await hindsight.client.get(path) for path in ("/", "/status")]
        await hindsight.give(list(Walk(SMALL).run(3)))
        for query in ("", "?last=soon", "?start=0&end=0"):
            answers.append(await hindsight.client.get(f"/dump{query}"))
            answers.append(await hindsight.client.post(f"/dump/file{query}", headers=allowed))
        answers.append(await hindsight.client.get("/status"))
        answers.append(await hindsight.client.post("/dump/file"))
        answers.append(await hindsight.client.post("/dump/file", headers={"Origin": "http://evil.example"}))
        (tmp_path / "token").rename(tmp_path / "elsewhere")
        answers.append(await hindsight.client.post("/dump/file", headers=allowed))
        assert answers[-1].status_code == 503
        (tmp_path / "elsewhere").rename(tmp_path / "token")
        await until(lambda: sink.dumps.open == 0)
        for _ in range(MAX_OPEN):
            sink.dumps.enter()
        answers.append(await hindsight.client.get("/dump"))
        answers.append(await hindsight.client.post("/dump/file", headers=allowed))

    async def failing(arguments: list[str]) -> Finished:
        return Finished(1, "", "error: no")

    async with running(Hindsight("hind", config(tmp_path), finisher=failing)) as hindsight:
        answers.append(await hindsight.client.get("/dump"))
        answers.append(await hindsight.client.post("/dump/file"))
    for answer in answers:
        check(answer)
        seen.add((answer.request.url.path, answer.request.method.lower(), str(answer.status_code)))
    assert seen == {
        (path, method, status)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        for status in operation["responses"]
    }
