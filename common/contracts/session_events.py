"""What reaches a session outside a query: messages of timers and humans, hand-offs, approvals, ended tasks. The same for SSE, WebSocket
and webhooks.

Every event has an id (1, 2, 3 … within its session), a type and `data`, an object with at least `session_id`:

| type                        | data beside session_id                                                                        |
|-----------------------------|-----------------------------------------------------------------------------------------------|
| `session.message`           | `from` (user, human, timer), `text`, `turn_id`, `timer_id` of a timer's                        |
| `session.transferred`       | `turn_id`, `action` (the system action)                                                       |
| `session.accepted`          | `by`: the human who took the session                                                          |
| `session.released`          | `summary`: what the bot is told, null without one                                             |
| `session.closed`            | `turn_id`, `by` (bot, timer)                                                                  |
| `session.awaiting_approval` | `turn_id`, `calls`: [{call_id, name, arguments}]                                              |
| `session.approval_decided`  | `turn_id`, `call_id`, `decision` (approve, deny), `by`                                        |
| `task.completed`            | `task_id`, `status`, `result` (the /query reply); `batch_id`, `schedule_id` where it has one  |
| `task.failed`               | `task_id`, `status`, `error` (the problem); the same                                          |
| `task.cancelled`            | `task_id`, `status`; the same                                                                 |

A `session.message` from the user is there only while the session is with a human, who reads it here.
"""

from __future__ import annotations

MESSAGE = "session.message"
TRANSFERRED = "session.transferred"
ACCEPTED = "session.accepted"
RELEASED = "session.released"
CLOSED = "session.closed"
AWAITING_APPROVAL = "session.awaiting_approval"
APPROVAL_DECIDED = "session.approval_decided"
TASK_COMPLETED = "task.completed"
TASK_FAILED = "task.failed"
TASK_CANCELLED = "task.cancelled"
