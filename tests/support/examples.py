"""What the tests of every example do: find the tests that a rule answers with a call, and make that call at a simulator."""

from __future__ import annotations

from common.endpoints.answer import Outcome, compile_action, perform, variables_for
from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from common.workflow.load import load_text
from common.workflow.schema import Skill, Workflow, WorkflowTest
from lightweight.matching.compile import compile_rules


def calls_by_rule(workflow: Workflow) -> list[WorkflowTest]:
    """The workflow's tests whose message a rule answers through an HTTP call."""
    rules, found = compile_rules(workflow), []
    for test in workflow.tests:
        match = rules.match(test.say or "", context=test.context)
        agent = match and isinstance(match.action, Skill) and match.action.execution_mode == "agent"
        if match and getattr(match.action, "endpoint", None) and not agent:
            found.append(test)
    return found


async def answer_at(port: int, text: str, test: WorkflowTest, user_id: str | None) -> Outcome:
    """The rule's answer to a test's message under the workflow file `text`, with the business API on this port of 127.0.0.1."""
    workflow = load_text(text.replace("127.0.0.1:8910", f"127.0.0.1:{port}"), env={})
    say = test.say or ""
    match = compile_rules(workflow).match(say, context=test.context)
    assert match is not None
    variables = variables_for(
        workflow,
        message=say,
        session_id="s-1",
        user_id=user_id,
        context=test.context,
        groups=match.groups,
        parameter_mapping=match.action.parameter_mapping,
    )
    async with HttpCaller(EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"}))) as caller:
        return await perform(compile_action(match.kind, match.action, {}), variables, caller)
