"""Job files: what they may say, and that errors name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eigenmill.jobs.reduction.build import build_estimator, cleaning_of, filters_of
from eigenmill.jobs.reduction.config import Job, load_job, read_job
from eigenmill.reduce import PCA, ConfigError, StandardScaler, TruncatedSVD

GOOD = """\
input:
  path: data
reduce:
  components: 3
output:
  model: out/model
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_job(text, "job.yaml", overrides)
    return str(caught.value)


def test_defaults_are_filled_in_and_sizes_read() -> None:
    job = read_job(GOOD + "engine: {memory: 2GiB, workers: 3}\n", "job.yaml").job
    assert (job.input.path, job.reduce.method, job.engine.memory, job.engine.workers) == ("data", "pca", 2 << 30, 3)
    assert read_job(GOOD + "engine:\n", "job.yaml").job.engine.kind == "local"


@pytest.mark.parametrize("value", ["1.5", "true", "[1]"])
def test_a_size_is_text_or_a_whole_number(value: str) -> None:
    said = refusal(GOOD, f"engine.memory={value}")
    assert said == f"--set engine.memory={value}: engine.memory: expected a whole number, found {value}"


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (2, "path: data", "input.vectr: expected a key of this section, found 'vectr'; did you mean 'vector'?"),
        (2, "path: data", "input.missing: expected one of error, drop, mean, zero, keep or a number or keys"),
        (
            2,
            "path: data",
            "input.missing.a: expected one of error, drop, mean, zero, keep or a number, found 'drip'; did",
        ),
        (2, "path: data", "input.clip: expected 2 items"),
        (2, "path: data", "input.path: expected text or a list, found 5"),
        (
            4,
            "components: 3",
            "reduce.components: expected a whole number >= 1, a share of the variance between 0 and 1",
        ),
        (4, "components: 3", "reduce.method: expected one of pca, svd, scale, found 'pac'; did you mean 'pca'?"),
        (4, "components: 3", "reduce.memory: expected a key of this section, found 'memory'; it belongs under engine:"),
        (4, "components: 3", "reduce.whiten: expected true or false, found 'sure'"),
        (
            6,
            "model: out/model",
            "output.part_bytes: expected a size such as '2GiB' or a number of bytes, found '64Mib?'",
        ),
        (6, "model: out/model", "output.layout: expected one of list, columns, found 'lst'; did you mean 'list'?"),
    ],
)
def test_an_error_names_file_line_key_and_what_was_expected(line: int, text: str, said: str) -> None:
    wrong = {
        "input.vectr": "vectr: x",
        "input.missing": "missing: dorp",
        "input.missing.a": "missing: {a: drip}",
        "input.clip": "clip: [1, 2, 3]",
        "input.path": "path: 5",
        "reduce.components": "components: 1.5",
        "reduce.method": "method: pac",
        "reduce.memory": "memory: 2GiB",
        "reduce.whiten": "whiten: sure",
        "output.part_bytes": "part_bytes: 64Mib?",
        "output.layout": "layout: lst",
    }[said.partition(": ")[0]]
    same = wrong.partition(":")[0] == text.partition(":")[0]
    changed = GOOD.replace(text, wrong) if same else GOOD.replace(text, f"{text}\n  {wrong}")
    message = refusal(changed)
    assert message.startswith(f"job.yaml:{line if same else line + 1}: {said}"), message
    assert "\n" not in message


def test_all_wrong_places_are_named_in_the_order_of_the_file() -> None:
    lines = refusal("input: {pth: data}\noutput:\n  features: 5\nengin: {}\n").splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "1", "3", "4"]
    assert "did you mean 'engine'?" in lines[-1]


def test_numbers_with_exponents_and_numbers_as_text() -> None:
    assert "write 1000.0 for the number" in refusal(GOOD + "engine:\n  save_every: '1e3'\n")
    for text, value in (("1e3", 1000.0), ("2.5e-1", 0.25), ("1e-3", 0.001)):
        assert read_job(GOOD + f"engine:\n  save_every: {text}\n", "job.yaml").job.engine.save_every == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input: [", "job.yaml:1: expected YAML"),
        ("input:\n\tpath: x", "job.yaml:2: expected YAML, found found character '\\t'"),
        ("- a", "job.yaml:1: expected the sections input, reduce, output, engine"),
        ("input: {path: a}\ninput: {path: b}", "job.yaml:2: expected every key once, found 'input' again"),
        ("output: {model: m,\n model: n}", "job.yaml:2: expected every key once, found 'model' again"),
        ("a: &a [*a]", "job.yaml:1: expected an alias to something complete"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "job.yaml:1: expected YAML, found could not determine a constructor",
        ),
        ("", "job.yaml:1: input: expected this key, found none"),
        ("? [a]\n: b", "job.yaml:1: expected a word as key"),
    ],
)
def test_what_is_no_job_file_is_refused(text: str, said: str) -> None:
    assert refusal(text).startswith(said)


def test_aliases_of_aliases_are_refused_before_they_grow() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "use fewer aliases" in refusal("\n".join(lines))


def test_aliases_and_merge_keys_work_and_keep_their_lines() -> None:
    text = "input: &i\n  path: data\noutput:\n  model: m\nengine:\n  workers: &w 2\n"
    assert read_job(text, "job.yaml").job.engine.workers == 2
    assert refusal(text + "reduce:\n  <<: {seed: x}\n").startswith("job.yaml:8: reduce.seed: expected a whole number")


def test_set_overrides_with_yaml_values() -> None:
    job = read_job(GOOD, "job.yaml", ["reduce.components=0.9", "input.carry=[a, b]", "output.report=r.json"]).job
    assert (job.reduce.components, job.input.carry, job.output.report) == (0.9, ["a", "b"], "r.json")
    assert read_job(GOOD, "job.yaml", ["reduce.components=null"]).job.reduce.components is None
    assert read_job(GOOD, "job.yaml", ["input.missing.a=mean"]).job.input.missing == {"a": "mean"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("reduce.componets=5", "--set reduce.componets=5: reduce.componets: expected a key of this section"),
        ("reduce.components=many", "--set reduce.components=many: reduce.components: expected a whole number"),
        ("reduce.components", "--set reduce.components: expected section.key=value"),
        ("input.path.x=1", "--set input.path.x=1: expected input.path to hold keys, found 'data'"),
        ("reduce.seed=[", "--set reduce.seed=[:1: expected YAML"),
        ("redcue.seed=1", "--set redcue.seed=1: redcue: expected a key of a job file"),
    ],
)
def test_an_override_that_is_wrong_is_named(override: str, said: str) -> None:
    assert refusal(GOOD, override).startswith(said)


def test_sections_that_contradict_themselves_are_refused() -> None:
    assert "job.yaml:1: input: expected one of vector, columns and sparse; found vector and columns" in refusal(
        GOOD.replace("path: data", "path: data\n  vector: x\n  columns: [a]")
    )
    assert "expected no max_scans with method: scale" in refusal(
        GOOD.replace("components: 3", "method: scale\n  max_scans: 3")
    )
    assert "reduce.max_scans: expected" in refusal(GOOD.replace("components: 3", "max_scans: 0"))
    assert "reduce.tol: expected" in refusal(GOOD.replace("components: 3", "tol: -0.1"))
    assert "expected no whiten with method: scale" in refusal(
        GOOD.replace("components: 3", "method: scale\n  whiten: true")
    )
    assert "expected features or model" in refusal("input: {path: d}\noutput: {}\n")
    for model in ("", ", model: null"):
        refused = refusal(f"input: {{path: d}}\noutput: {{features: f, state: true{model}}}\n")
        assert "job.yaml:2: output: expected model, for the state is saved with it; found state: true" in refused
    assert read_job("input: {path: d}\noutput: {model: m, state: true}\n", "job.yaml").job.output.state
    assert "expected a number or null as components with method: svd" in refusal(
        GOOD, "reduce.method=svd", "reduce.components=mle"
    )


def test_errors_from_further_down_name_their_section(tmp_path: Path) -> None:
    source = read_job(GOOD, "job.yaml")
    with pytest.raises(ConfigError, match=r"^job\.yaml:1: input: wrong$"), source.blame("input"):
        raise ConfigError("wrong")


@pytest.mark.parametrize("conditions", ["[x]", "[[a, '<']]", "[[a, '<', 1], [[b, '>', 2]]]", "[]", "5"])
def test_filters_that_are_none_are_refused(conditions: str) -> None:
    assert "input.filters: expected" in refusal(GOOD, f"input.filters={conditions}")


def test_filters_become_tuples() -> None:
    assert filters_of([["a", "<", 1]]) == [("a", "<", 1)]
    assert filters_of([[["a", "<", 1]], [["b", "in", [1, 2]]]]) == [[("a", "<", 1)], [("b", "in", [1, 2])]]


def test_cleaning_becomes_tuples() -> None:
    job = read_job(GOOD, "job.yaml", ["input.clip={a: [0, 1]}", "input.clip_sd=3", "input.missing={a: 5}"]).job
    assert cleaning_of(job.input) == {"missing": {"a": 5.0}, "clip": {"a": (0.0, 1.0)}, "clip_sd": 3.0}


def test_methods_become_estimators() -> None:
    def estimator(*overrides: str) -> Any:
        return build_estimator(
            read_job(GOOD.replace("  components: 3\n", "  seed: 0\n"), "job.yaml", overrides).job.reduce
        )

    assert isinstance(estimator("reduce.scale=true"), PCA)
    assert estimator("reduce.whiten=true").whiten
    assert isinstance(estimator("reduce.method=svd"), TruncatedSVD)
    asked = ["tol=null", "max_scans=5", "max_components=60", "block_size=20", "solver=sketch", "components=0.9"]
    for method, kind in (("pca", PCA), ("svd", TruncatedSVD)):
        sketch = estimator(f"reduce.method={method}", *(f"reduce.{option}" for option in asked))
        assert type(sketch) is kind
        assert (sketch.tol, sketch.max_scans, sketch.max_components, sketch.block_size) == (None, 5, 60, 20)
        assert (sketch.solver, sketch.n_components) == ("sketch", 0.9)
        assert estimator(f"reduce.method={method}").get_params() == kind(0.95, random_state=0).get_params()
    scaler = estimator("reduce.method=scale", "reduce.center=false")
    assert isinstance(scaler, StandardScaler)
    assert (scaler.with_mean, scaler.with_std) == (False, True)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_job(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_job(tmp_path / "latin.yaml")


def test_the_schema_describes_all_sections() -> None:
    schema = json.loads(json.dumps(Job.model_json_schema()))
    assert set(schema["properties"]) == {"input", "reduce", "output", "engine"}
    assert schema["$defs"]["Reduction"]["additionalProperties"] is False
    assert all("description" in field for field in schema["$defs"]["Output"]["properties"].values())
