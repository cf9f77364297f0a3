"""Neurosurgeon's regression (ASPLOS 2017): the *rate* at which a machine works on a vertex, by kind, from its configuration.

What is known of it: per kind of layer a linear or a logarithmic function of the layer's configuration, with GFLOPS as the
metric; the logarithm stands for the saturation of the hardware. The variables are the published ones (`features.py`). Ours:
seconds = work / rate, with FLOP as work and, for kinds that count none, input elements; the form with the smaller error on
samples left out; and no rate beyond those measured, because a line leaves them and may fall below zero. Seconds straight from
sizes are in `predict.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log
from statistics import fmean
from typing import Literal, get_args

from d3node.graph import INPUT, LayerGraph
from testbed.costs import regression
from testbed.costs.features import COLUMNS, KINDS, Features, Kind, features_of
from testbed.costs.predict import Sample
from testbed.costs.regression import model_of
from testbed.costs.table import TierCosts
from testbed.errors import InputError

FORMAT = "d3-testbed rate predictor"
Form = Literal["linear", "logarithmic"]
FORMS: tuple[Form, ...] = get_args(Form)
FOLDS = 5
VARIABLES: dict[Kind, tuple[str, ...]] = {
    kind: tuple(column for column in columns if column != "operators") for kind, columns in COLUMNS["published"].items()
}


@dataclass(frozen=True)
class RateModel:
    """Work per second = intercept + sum of coefficient x variable (or its natural logarithm), within [least, most].

    `counts_flop`: work is FLOP, else input elements. `mape` is the mean absolute relative error of seconds on its own samples,
    `held_out` that of samples left out while fitting (None for fewer than two), `other_form` the same of the form not chosen.
    """

    form: Form
    variables: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    least: float
    most: float
    counts_flop: bool
    samples: int
    mape: float
    held_out: float | None
    other_form: float | None

    def seconds(self, features: Features) -> float:
        """Predicted seconds of one vertex."""
        terms = zip(self.coefficients, _row(features, self.variables, self.form), strict=True)
        rate = self.intercept + sum(coefficient * value for coefficient, value in terms)
        return _work(features, self.counts_flop) / min(max(rate, self.least), self.most)


@dataclass(frozen=True)
class RatePredictor:
    """A regression per kind of operator; `source` says what it was fitted to."""

    kinds: dict[Kind, RateModel]
    source: str

    def seconds(self, features: Features) -> float:
        """Predicted seconds of one vertex. Raises InputError for a kind without samples."""
        return model_of(self.kinds, features.kind).seconds(features)

    def tier_costs(self, graph: LayerGraph) -> TierCosts:
        """Predicted costs of any model; the form knows no overhead per operator, so all of it scales with work. Raises InputError
        where the model has a kind of operator that was never measured."""
        scaled = [0.0, *(self.seconds(features_of(graph, vertex.index)) for vertex in graph.vertices[INPUT + 1 :])]
        return TierCosts((0.0,) * len(graph), tuple(scaled), source=f"Neurosurgeon's regression on {self.source}")

    def to_json(self) -> str:
        """JSON text that `from_json` reads back to an equal predictor."""
        return regression.write(self, FORMAT)

    @classmethod
    def from_json(cls, text: str, name: str = "predictor") -> RatePredictor:
        """Read what `to_json` wrote. Raises InputError naming the file."""
        return regression.read(text, FORMAT, name, cls, RateModel)


def fit(samples: Sequence[Sample], source: str = "measured vertices") -> RatePredictor:
    """Fit every kind that has samples, in the form that predicts left-out ones better. Raises InputError without samples."""
    if not samples:
        raise InputError("nothing to fit a regression to: the profile has no vertices")
    kinds = {}
    for kind in KINDS:
        chosen = [sample for sample in samples if sample.features.kind == kind and sample.seconds > 0.0]
        if chosen:
            kinds[kind] = _fit_kind(chosen, VARIABLES[kind])
    return RatePredictor(kinds, source)


def _fit_kind(samples: Sequence[Sample], variables: tuple[str, ...]) -> RateModel:
    counts_flop = all(sample.features.flops > 0 for sample in samples)
    folds = min(FOLDS, len(samples))
    errors: dict[Form, float] = {}
    for form in FORMS if folds > 1 else ():
        found = []
        for fold in range(folds):
            model = _fitted([s for i, s in enumerate(samples) if i % folds != fold], variables, form, counts_flop)
            found += [_error(model, s) for i, s in enumerate(samples) if i % folds == fold]
        errors[form] = fmean(found)
    form = min(FORMS, key=lambda each: errors.get(each, 0.0))
    best = _fitted(samples, variables, form, counts_flop)
    (other,) = (each for each in FORMS if each != form)
    return RateModel(
        **{
            **asdict(best),
            "mape": fmean(_error(best, sample) for sample in samples),
            "held_out": errors.get(form),
            "other_form": errors.get(other),
        }
    )


def _fitted(samples: Sequence[Sample], variables: tuple[str, ...], form: Form, counts_flop: bool) -> RateModel:
    import numpy as np  # these two are slow to import, and only fitting needs them
    from sklearn.linear_model import LinearRegression

    rates = np.array([_work(sample.features, counts_flop) / sample.seconds for sample in samples])
    table = np.array([_row(sample.features, variables, form) for sample in samples])
    scale = np.abs(table).max(axis=0)
    scale[scale == 0.0] = 1.0
    fitted = LinearRegression().fit(table / scale, rates)
    return RateModel(
        form=form,
        variables=variables,
        coefficients=tuple(float(c) for c in fitted.coef_ / scale),
        intercept=float(fitted.intercept_),
        least=float(rates.min()),
        most=float(rates.max()),
        counts_flop=counts_flop,
        samples=len(samples),
        mape=0.0,
        held_out=None,
        other_form=None,
    )


def _error(model: RateModel, sample: Sample) -> float:
    return abs(model.seconds(sample.features) - sample.seconds) / sample.seconds


def _work(features: Features, counts_flop: bool) -> float:
    return float(max(features.flops if counts_flop else features.input_elements, 1))


def _row(features: Features, variables: tuple[str, ...], form: Form) -> list[float]:
    values = features.row(variables)
    return values if form == "linear" else [log(max(value, 1.0)) for value in values]
