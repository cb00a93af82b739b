"""The meta-training loop, held-out evaluation, and the folder a run leaves behind."""

from .._checked import check_public as _check_public
from .._compiled import keep_compiled as keep_compiled
from ._callbacks import Callback as Callback
from ._collapse import CollapsedError as CollapsedError
from ._devices import use_devices as use_devices
from ._divergence import DivergedError as DivergedError
from ._evaluate import evaluate as evaluate
from ._evaluate import evaluator as evaluator
from ._flagged import FlaggedError as FlaggedError
from ._folder import read_metrics as read_metrics
from ._loop import meta_train as meta_train
from ._mesh import device_mesh as device_mesh
from ._processes import LostProcessError as LostProcessError
from ._result import read_result as read_result
from ._run import Trained as Trained
from ._theta import load_theta as load_theta
from ._theta import save_theta as save_theta

# For a frame of experiments: folders and results that look like those of `meta_train`.
# isort: split
from ._folder import open_folder as open_folder
from ._folder import write_json as write_json
from ._processes import by_first as by_first
from ._processes import is_first as is_first
from ._result import RESULT as RESULT
from ._result import describe as describe
from ._result import half_width as half_width
from ._result import provenance as provenance
from ._result import summarise as summarise
from ._result import validation as validation
from ._result import write_result as write_result

_check_public(globals())
