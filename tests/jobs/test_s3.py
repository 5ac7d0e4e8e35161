"""A whole job from an object store to an object store, with credentials in its URIs: they stay there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import FILES, ROWS
from tests.support.s3 import client as client_of
from tests.support.s3 import serving

pytestmark = pytest.mark.filterwarnings("default")  # those of moto and its server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving() as address:
        yield address


def test_a_job_on_s3(endpoint: str, vectors: Path, tmp_path: Path, eigenmill: Any) -> None:
    client = client_of(endpoint, "KEYSECRET", "SECRET")
    client.create_bucket(Bucket="mill")
    for path in vectors.iterdir():
        client.upload_file(str(path), "mill", f"data/{path.name}")

    def uri(name: str) -> str:
        return f"s3://KEYSECRET:SECRET@mill/{name}?endpoint_override={endpoint}&scheme=http&region=us-east-1"

    conf = tmp_path / "job.yaml"
    conf.write_text(
        f"input: {{path: '{uri('data')}', vector: x, carry: id}}\nreduce: {{components: 3}}\n"
        f"output: {{features: '{uri('features')}', model: '{uri('model')}', report: '{uri('report.json')}'}}\n"
    )
    first = json.loads(eigenmill("reduce", conf, "--json").stdout)
    assert (first["status"], first["rows"], first["output"]["rows"]) == ("complete", FILES * ROWS, FILES * ROWS)
    assert json.loads(eigenmill("reduce", conf, "--json").stdout)["status"] == "unchanged"
    names = [entry["Key"] for entry in client.list_objects_v2(Bucket="mill")["Contents"]]
    assert {"features/_SUCCESS", "model/model.json", "model/job.json", "report.json"} <= set(names)
    for name in names:
        if not name.startswith("data/"):
            assert b"SECRET" not in client.get_object(Bucket="mill", Key=name)["Body"].read(), name
    assert "SECRET" not in json.dumps(first)
    result = eigenmill("reduce", conf, "--set", f"input.path={uri('nothing')}", "--debug", code=3)
    assert "SECRET" not in result.output
