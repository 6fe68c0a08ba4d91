"""`locust -f loadtests/locustfile.py --host URL [CLASS ...]`: users of every kind, a shape for their number, a readable summary at the end.

`--shape ramp|spike|soak` grows to `-u` users within `-t`; without one Locust's own way is kept. `--messages CSV` gives RealTextUser real
messages. With `--master` and `--worker` several processes or machines load together.
"""

from __future__ import annotations

from typing import Any

from locust import events

from loadtests import locust_shape, recorder, shapes
from loadtests.users import AgentTurnUser, ConversationUser, FlowUser, RealTextUser, RuleUser, StreamUser, TaskUser

__all__ = ["AgentTurnUser", "ConversationUser", "FlowUser", "RealTextUser", "RuleUser", "StreamUser", "TaskUser", "recorder"]


@events.init_command_line_parser.add_listener
def add_options(parser: Any, **_: Any) -> None:
    """Options of this file."""
    parser.add_argument("--shape", choices=["", *shapes.SHAPES], default="", help="how the number of users changes")
    parser.add_argument("--messages", default="", help="a CSV with the columns text,category for RealTextUser")


@events.init.add_listener
def shape(environment: Any, **_: Any) -> None:
    """Gives the environment the shape that was asked for; a worker does as its master says."""
    options = environment.parsed_options
    if options is not None and options.shape and not options.worker:
        environment.shape_class = locust_shape.Shaped(options.shape, options.num_users or 10, float(options.run_time or 60))
        environment.shape_class.runner = environment.runner
