"""Where a run can be watched: callbacks of `meta_train`, each by a package of its own.

Each is made with a folder, opens it when the run begins, and goes on there when the run is resumed.
"""

from .._checked import check_public as _check_public
from ._csv import CSV as CSV
from ._mlflow import MLflow as MLflow
from ._tensorboard import TensorBoard as TensorBoard
from ._wandb import WandB as WandB

_check_public(globals())
