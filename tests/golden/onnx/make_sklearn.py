"""Write the scikit-learn models of this folder: `python make_sklearn.py`, with scikit-learn and skl2onnx installed.

Small nets on the iris and digits data that scikit-learn ships, as skl2onnx writes them: with labels, maps and free
batches.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

HERE = Path(__file__).parent


def main() -> None:
    warnings.simplefilter("ignore")
    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    two = y < 2
    hidden = (12, 8)
    classifiers = {
        "mlp_classifier": make_pipeline(
            StandardScaler(), MLPClassifier(hidden_layer_sizes=hidden, max_iter=400, random_state=0)
        ),
        "mlp_tanh": MLPClassifier(hidden_layer_sizes=hidden, activation="tanh", max_iter=400, random_state=0),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        "one_against_rest": OneVsRestClassifier(LogisticRegression()),
    }
    for name, model in classifiers.items():
        save(name, model.fit(x, y), {})
    save("mlp_plain", classifiers["mlp_classifier"], {"zipmap": False})
    save("mlp_binary", MLPClassifier(hidden_layer_sizes=(6,), max_iter=400, random_state=0).fit(x[two], y[two]), {})
    save("logistic_binary", LogisticRegression().fit(x[two], y[two]), {})
    target = x @ np.array([[1.0, 0.5], [-1.0, 0.2], [0.3, 2.0], [0.0, -1.0]], np.float32)
    scaled = make_pipeline(
        MinMaxScaler(),
        MLPRegressor(hidden_layer_sizes=hidden, activation="logistic", solver="lbfgs", max_iter=400, random_state=0),
    )
    save("mlp_regressor", scaled.fit(x, target), {})
    save("linear_regression", LinearRegression().fit(x, target[:, 0]), {})


def save(name: str, model: object, options: dict[str, bool]) -> None:
    given = {type(model): options} if options and not hasattr(model, "steps") else {id(model): options}
    made = convert_sklearn(
        model,
        name,
        [("x", FloatTensorType([None, 4]))],
        options=given if options else None,
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    (HERE / f"{name}.onnx").write_bytes(made.SerializeToString())


if __name__ == "__main__":
    main()
