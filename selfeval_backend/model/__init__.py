"""A model: where its files are, how it is loaded, how it answers, and the answer on its way out.

What adapters and the command line talk to::

    model = load_model("reference")
    answer = await model.answer([Message(role="user", content="Use 3, 19 and 25 to make 41.")])
    answer.text, answer.outcome.confidence, answer.outcome.usage
"""

from selfeval_backend.model.answer import Answer, ReasoningPiece
from selfeval_backend.model.folder import (
    BASE_FOLDER,
    REFERENCE_FOLDER,
    count_parameters,
    identify_files,
    locate_model_files,
)
from selfeval_backend.model.generation_config import read_generation_config
from selfeval_backend.model.loading import (
    EngineName,
    Server,
    check_where_it_runs,
    choose_engine,
    load_model,
)
from selfeval_backend.model.self_evaluating_model import SelfEvaluatingModel, UncalibratedWarning
from selfeval_backend.model.selfeval_files import (
    FoundSelfEval,
    file_to_write,
    find_selfeval,
    user_folder,
)
from selfeval_backend.model.shared import ModelSource, ashared_model, shared_model

__all__ = [
    "BASE_FOLDER",
    "REFERENCE_FOLDER",
    "Answer",
    "EngineName",
    "FoundSelfEval",
    "ModelSource",
    "ReasoningPiece",
    "SelfEvaluatingModel",
    "Server",
    "UncalibratedWarning",
    "ashared_model",
    "check_where_it_runs",
    "choose_engine",
    "count_parameters",
    "file_to_write",
    "find_selfeval",
    "identify_files",
    "load_model",
    "locate_model_files",
    "read_generation_config",
    "shared_model",
    "user_folder",
]
