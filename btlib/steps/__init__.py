"""What the paper does: a state, the two steps that take it on, and the strategies that are made of them.

    State = (program with its prompts Π, LM with its weights Θ)
    optimize_prompts, finetune_weights : State -> State
    a strategy is a tuple of steps, "p -> w -> p"; running it is a fold over them

Taught in notebooks 01 (State, evaluate), 02 (bootstrap_traces), 03 (optimize_prompts), 04 (finetune_weights) and 05
(the fold).
"""

from btlib.support.lazy import lazy

_WHERE = {
    "Call": "bootstrap",
    "EmptyTraceSet": "record",
    "Evaluation": "evaluation",
    "STEPS": "table",
    "STRATEGIES": "strategies",
    "State": "state",
    "Step": "table",
    "StepRecord": "record",
    "Trace": "bootstrap",
    "TraceSet": "bootstrap",
    "bootstrap_traces": "bootstrap",
    "copy_program": "state",
    "evaluate": "evaluation",
    "finetune_weights": "weights",
    "gold_by_hop": "bootstrap",
    "intermediate_quality": "bootstrap",
    "label": "strategies",
    "load_state": "state",
    "optimize_prompts": "prompts",
    "parse_strategy": "strategies",
    "prediction_rows": "evaluation",
    "running_on": "evaluation",
    "save_state": "state",
    "strategy_name": "strategies",
    "strategy_slug": "strategies",
    "vanilla_state": "state",
    "verdict": "bootstrap",
}
__all__ = list(_WHERE)  # noqa: PLE0604
__getattr__ = lazy(__name__, _WHERE)
