"""A search keeps to its target or says how far off it is, keeps its best, goes on, and stops in time."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from eigenmill.compress import Model, Samples, evaluate, pack
from eigenmill.compress.format import FORMAT_1
from eigenmill.compress.search import (
    Candidate,
    Search,
    SearchKeywords,
    SearchSettings,
    Target,
    Trial,
    pareto_front,
    search,
)
from eigenmill.reduce import PCA
from eigenmill.reduce.errors import ConfigError, OutputError
from tests.compress.conftest import error

search_module = importlib.import_module("eigenmill.compress.search")  # the package has a function of this name


def look(samples: Samples, target: Target, **options: Any) -> Search:
    return search(
        Model.mlp(None, [32], 10), samples, target, **{"epochs": 15, "trials": 6, "lr": 5e-3, "batch": 32, **options}
    )


def test_a_target_is_met_by_the_model_that_comes_back(samples: Samples, digits: Any, tmp_path: Path) -> None:
    found = look(samples, Target(max_bytes=900, max_error=0.1))
    assert found.met
    assert pack(found.model, tmp_path / "m.emill") == found.best.bytes <= 900
    assert evaluate(tmp_path / "m.emill", samples).error == found.best.error <= 0.1
    assert error(found.model, *digits[2:]) < 0.15


def test_without_a_limit_of_the_error_the_fewest_errors_within_the_limits_are_looked_for(samples: Samples) -> None:
    one = look(samples, Target(max_bytes=1500), trials=1, epochs=3)
    found = look(samples, Target(max_bytes=1500), trials=8, epochs=3)
    assert one.met
    assert found.best.error < one.best.error
    assert found.best.bytes <= 1500
    kept = [trial.error for trial in found.trials if trial.bytes <= 1500]
    assert found.best.error == min(kept)
    # It ends after three in a row that have brought nothing, or when all trials are spent.
    last = found.trials.index(found.best)
    assert len(found.trials) == min(last + 1 + FORMAT_1.patience, 8)


def test_a_target_that_names_an_error_is_met_by_the_first(samples: Samples) -> None:
    assert len(look(samples, Target(max_bytes=5000, max_error=0.9), epochs=1).trials) == 1


def test_of_what_cannot_be_met_the_nearest_comes_back_with_the_front(samples: Samples) -> None:
    target = Target(max_bytes=300, max_error=0.01)
    found = look(samples, target, trials=4, epochs=3)
    assert not found.met
    assert len(found.trials) == 4
    assert len({trial.candidate for trial in found.trials}) == 4
    assert found.best.excess == min(trial.excess for trial in found.trials) > 0
    for trial in found.trials:
        assert trial.excess == max(trial.bytes / 300, trial.error / 0.01) - 1
        assert any(f.bytes <= trial.bytes and f.error <= trial.error for f in found.front)


def test_the_front_holds_what_nothing_beats() -> None:
    def trial(size: int, wrong: float) -> Trial:
        return Trial(Candidate((size,)), size, wrong, None, 0.0, 0.0)

    trials = [trial(5, 0.3), trial(3, 0.5), trial(4, 0.6), trial(9, 0.1), trial(9, 0.2), trial(12, 0.1)]
    assert [(t.bytes, t.error) for t in pareto_front(trials)] == [(3, 0.5), (5, 0.3), (9, 0.1)]


def test_a_stopped_search_goes_on_and_tries_nothing_twice(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(max_bytes=300, max_error=0.01)
    whole = look(samples, target, trials=3, epochs=2)
    seen: list[Trial] = []

    def stop(trial: Trial) -> None:
        seen.append(trial)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(samples, target, trials=3, epochs=2, directory=tmp_path, progress=stop)
    kept = Model.restore(tmp_path / "best.model")
    assert evaluate(kept, samples).error in [trial.error for trial in seen]
    found = look(samples, target, trials=3, epochs=2, directory=tmp_path, progress=seen.append)
    assert len(seen) == 3
    assert [(t.candidate, t.bytes, t.error) for t in found.trials] == [
        (t.candidate, t.bytes, t.error) for t in whole.trials
    ]
    for a, b in zip(found.model.layers, whole.model.layers, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
    with pytest.raises(OutputError, match="another"):
        look(samples, Target(max_bytes=301), directory=tmp_path)


def test_settings_are_a_record_and_keywords_alike(samples: Samples) -> None:
    """Whatever ba05dba took as a keyword is one still, and a record of them says the same."""
    names = ["label", "epochs", "trials", "seconds", "batch", "lr", "class_weight", "forget", "first", "directory"]
    names += ["seed", "validation", "teacher", "temperature", "share"]
    assert get_type_hints(SearchKeywords) == get_type_hints(SearchSettings)
    assert list(get_type_hints(SearchSettings)) == names
    record = SearchSettings(epochs=1, trials=2, batch=64)
    start, target = Model.mlp(None, [8], 10), Target(max_bytes=300)
    found = [
        search(start, samples, target, record, trials=1),
        search(start, samples, target, epochs=1, trials=1, batch=64),
    ]
    assert [len(one.trials) for one in found] == [1, 1]
    assert found[0].best.error == found[1].best.error
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch_'"):
        search(start, samples, target, epoch_=3)  # type: ignore[call-arg]


def test_no_trial_begins_after_its_time(samples: Samples) -> None:
    assert len(look(samples, Target(max_bytes=300), epochs=1, seconds=1e-9).trials) == 1


def test_time_and_components_are_searched_too(samples: Samples, folder: Path) -> None:
    from tests.compress.conftest import read

    found = look(samples, Target(max_latency_us=1e-3), trials=2, epochs=1)
    assert found.best.latency_us is not None
    assert not found.met
    assert sum(found.trials[1].candidate.hidden) < sum(found.trials[0].candidate.hidden)
    start = Model.mlp(PCA(20).fit(read(folder)), [8], 10)
    cut = search(start, read(folder), Target(max_bytes=10), epochs=1, trials=5)
    assert {t.candidate.components for t in cut.trials} == {None, 13}
    assert {la.n_out for la in cut.model.layers[:1]} <= {20, 13}


def test_wrong_requests_are_refused(samples: Samples, trained: Model) -> None:
    with pytest.raises(ConfigError, match="at least one limit"):
        Target()
    with pytest.raises(ConfigError, match="backend among numpy, onnxruntime, c"):
        Target(max_latency_us=3, backend="gpu")
    with pytest.raises(ConfigError, match="untrained"):
        search(trained, samples, Target(max_bytes=10))


@pytest.mark.parametrize("backend", ["onnxruntime", "c"])
def test_latency_is_that_of_the_backend_asked_for(
    backend: str, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "c" and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    called: list[Any] = []
    timed = search_module.time_calls
    monkeypatch.setattr(
        search_module, "time_calls", lambda predict, X, batch: called.append((predict, X)) or timed(predict, X, batch)
    )
    found = look(samples, Target(max_latency_us=1e7, backend=backend, batch=3, quantile=0.9), trials=1, epochs=1)
    assert found.met
    ((predict, X),) = called
    assert type(predict.__self__).__name__ == {"c": "Native", "onnxruntime": "OnnxNet"}[backend]
    assert np.mean(predict(X) == found.model.predict(X)) > 0.98
