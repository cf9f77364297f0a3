"""Latency regression: seconds of a vertex from its kind and sizes, fitted to measured profiles, with its errors.

One non-negative linear model per kind of operator (Neurosurgeon, ASPLOS 2017; Edgent, 2018), fitted to relative errors, because
a planner adds up small and large layers alike. Coefficients are a JSON file that a scenario can name as a host's profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from d3node.graph import INPUT, LayerGraph
from testbed.costs import regression
from testbed.costs.features import COLUMNS, KINDS, Features, FeatureSet, Kind, features_of
from testbed.costs.profile import Profile, read_text
from testbed.costs.regression import model_of
from testbed.costs.table import TierCosts
from testbed.errors import InputError

FORMAT = "d3-testbed predictor"


@dataclass(frozen=True)
class Sample:
    """One measured vertex: what it is, and its seconds. `model` says which model it came from."""

    model: str
    features: Features
    seconds: float


@dataclass(frozen=True)
class KindModel:
    """Seconds = sum of coefficient x column, all coefficients >= 0. `r2` and `mape` (share) are of the fit on its own samples."""

    columns: tuple[str, ...]
    coefficients: tuple[float, ...]
    samples: int
    r2: float
    mape: float

    def parts(self, features: Features) -> tuple[float, float]:
        """(fixed, scaled) seconds: the overhead of the operators, and what grows with sizes."""
        terms = dict(zip(self.columns, features.row(self.columns), strict=True))
        fixed = scaled = 0.0
        for column, coefficient in zip(self.columns, self.coefficients, strict=True):
            if column == "operators":
                fixed += coefficient * terms[column]
            else:
                scaled += coefficient * terms[column]
        return fixed, scaled


@dataclass(frozen=True)
class Predictor:
    """A regression per kind of operator; `source` says what it was fitted to."""

    kinds: dict[Kind, KindModel]
    features: FeatureSet
    source: str

    def seconds(self, features: Features) -> float:
        """Predicted seconds of one vertex. Raises InputError for a kind without samples."""
        return sum(model_of(self.kinds, features.kind).parts(features))

    def tier_costs(self, graph: LayerGraph) -> TierCosts:
        """Predicted costs of any model. Raises InputError where it has a kind of operator that was never measured."""
        fixed, scaled = [0.0], [0.0]
        for vertex in graph.vertices[INPUT + 1 :]:
            features = features_of(graph, vertex.index)
            overhead, work = model_of(self.kinds, features.kind).parts(features)
            fixed.append(overhead)
            scaled.append(work)
        return TierCosts(tuple(fixed), tuple(scaled), source=f"regression ({self.features} features) on {self.source}")

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal predictor."""
        return regression.write(self, FORMAT)

    @classmethod
    def from_json(cls, text: str, name: str = "predictor") -> Predictor:
        """Read what `to_json` wrote. Raises InputError naming the file."""
        return regression.read(text, FORMAT, name, cls, KindModel)


def load(path: str | Path) -> Predictor:
    """Read a predictor file. Raises InputError naming the file."""
    return Predictor.from_json(read_text(path), str(path))


def samples_of(profile: Profile, models: Iterable[str] | None = None) -> list[Sample]:
    """All measured vertices of a profile (of some of its models), the inputs left out."""
    wanted = set(profile.models if models is None else models)
    return [
        Sample(name, _features(time.kind, time.features), time.seconds)
        for name, measured in profile.models.items()
        if name in wanted
        for time in measured.vertices[INPUT + 1 :]
    ]


def fit(samples: Sequence[Sample], features: FeatureSet = "extended", source: str = "measured vertices") -> Predictor:
    """Fit one regression per kind that has samples. Raises InputError without samples."""
    if not samples:
        raise InputError("nothing to fit a regression to: the profile has no vertices")
    kinds = {}
    for kind in KINDS:
        chosen = [sample for sample in samples if sample.features.kind == kind and sample.seconds > 0.0]
        if chosen:
            kinds[kind] = _fit_kind(chosen, COLUMNS[features][kind])
    return Predictor(kinds, features, source)


@dataclass(frozen=True)
class HeldOut:
    """How well a model is predicted from the others: mean absolute relative error of its vertices per kind, and the relative
    error of their sum. Kinds that the others lack are in neither."""

    mape: dict[Kind, float]
    total_error: float


def cross_validated(samples: Sequence[Sample], features: FeatureSet = "extended") -> dict[str, HeldOut]:
    """Every model predicted by a regression that has not seen it; empty for fewer than two models."""
    found: dict[str, HeldOut] = {}
    for left_out in dict.fromkeys(sample.model for sample in samples):
        others = [sample for sample in samples if sample.model != left_out]
        if not others:
            continue
        predictor = fit(others, features)
        own = [s for s in samples if s.model == left_out and s.features.kind in predictor.kinds and s.seconds > 0.0]
        pairs = [(s.features.kind, predictor.seconds(s.features), s.seconds) for s in own]
        mape = {
            kind: fmean(abs(guess - seconds) / seconds for k, guess, seconds in pairs if k == kind)
            for kind in dict.fromkeys(kind for kind, _, _ in pairs)
        }
        total = sum(seconds for _, _, seconds in pairs)
        found[left_out] = HeldOut(mape, sum(guess for _, guess, _ in pairs) / total - 1.0 if total else 0.0)
    return found


@dataclass(frozen=True)
class Comparison:
    """Predicted against measured seconds of one vertex (or of the sum, `vertex` None)."""

    vertex: int | None
    name: str
    kind: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured; 0 where both are 0, infinite where only the measured one is."""
        if self.measured_s == 0.0:
            return 0.0 if self.predicted_s == 0.0 else float("inf")
        return (self.predicted_s - self.measured_s) / self.measured_s


def compare(graph: LayerGraph, predicted: TierCosts, measured: TierCosts) -> list[Comparison]:
    """A row per vertex behind the input, and a last row for the sum."""
    rows = [
        Comparison(v.index, v.name, features_of(graph, v.index).kind, predicted.seconds(v.index), measured.seconds(v.index))
        for v in graph.vertices[INPUT + 1 :]
    ]
    total = Comparison(None, "sum", "", sum(r.predicted_s for r in rows), sum(r.measured_s for r in rows))
    return [*rows, total]


def _features(kind: Kind, values: dict[str, float]) -> Features:
    try:
        return Features(
            kind=kind,
            operators=int(values["operators"]),
            input_elements=int(values["input_elements"]),
            output_elements=int(values["output_elements"]),
            filter_work=values["filter_work"],
            window_reads=int(values["window_reads"]),
            flops=int(values["flops"]),
            parameter_bytes=int(values["parameter_bytes"]),
        )
    except KeyError as error:
        raise InputError(f"profile: a vertex has no feature {error}; measure it again with `testbed profile`") from error


def _fit_kind(samples: Sequence[Sample], columns: tuple[str, ...]) -> KindModel:
    import numpy as np  # these two are slow to import, and only fitting needs them
    from sklearn.linear_model import LinearRegression

    measured = np.array([sample.seconds for sample in samples])
    table = np.array([sample.features.row(columns) for sample in samples])
    scale = table.max(axis=0)
    scale[scale == 0.0] = 1.0
    # dividing both sides by the measured time makes the squared error a relative one
    fitted = LinearRegression(fit_intercept=False, positive=True)
    fitted.fit(table / scale / measured[:, None], np.ones(len(measured)))
    coefficients = fitted.coef_ / scale
    predicted = table @ coefficients
    residual, spread = float(np.sum((predicted - measured) ** 2)), float(np.sum((measured - measured.mean()) ** 2))
    return KindModel(
        columns=columns,
        coefficients=tuple(float(c) for c in coefficients),
        samples=len(samples),
        r2=1.0 - residual / spread if spread > 0.0 else float(residual == 0.0),
        mape=float(np.mean(np.abs(predicted - measured) / measured)),
    )
