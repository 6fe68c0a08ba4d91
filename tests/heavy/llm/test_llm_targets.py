"""The models file and the targets without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import ConfigInvalid
from heavy.llm.targets import ANTHROPIC_MODEL, OPENAI_MODEL, default_targets, load_targets, parse_targets
from heavy.llm.types import Prices

FILE = """
models:
  default:
    targets:
      - {provider: openai, model: gpt-4.1, prices: {input: 2, output: 8}, idle_timeout: 7}
      - {provider: anthropic, model: claude-sonnet-4-6, api_key_env: OTHER_KEY}
    fallback: [local]
  local:
    targets: [{provider: openai, model: qwen, base_url: "http://127.0.0.1:8000/v1", context_tokens: 32000}]
    fallback: [default]
"""
ENV = {"OPENAI_API_KEY": "sk-1", "OTHER_KEY": "sk-2", "ANTHROPIC_API_KEY": "sk-3", "ANTHROPIC_BASE_URL": "http://proxy"}


def test_aliases_hold_their_targets_and_then_their_fallbacks() -> None:
    aliases = parse_targets(FILE, "models.yaml", ENV)
    first, second, third = aliases["default"].targets
    assert (first.name, first.api_key, first.prices, first.idle_timeout) == ("openai/gpt-4.1", "sk-1", Prices(2, 0, 8), 7)
    assert (second.name, second.api_key, second.base_url) == ("anthropic/claude-sonnet-4-6", "sk-2", None)
    assert (third.name, third.base_url, third.context_tokens) == ("openai/qwen", "http://127.0.0.1:8000/v1", 32000)
    assert aliases["local"].targets == (third, first, second)  # circles end
    assert "sk-" not in repr(aliases)


def test_an_alias_says_how_targets_are_chosen_and_what_happens_when_they_fail() -> None:
    text = """
models:
  default:
    strategy: balanced
    retry: {attempts: 3, backoff: 0.5, budget: 0.1}
    cache: {ttl: 60}
    continue_after_failure: true
    fallback: [backup]
    targets:
      - {provider: openai, model: a, weight: 3, rpm: 60, tpm: 90000, max_concurrency: 8, eject_after: 0, prompt_cache: false}
      - {provider: openai, model: b, prices: {input: 4, cache_write: 5}}
  backup: {targets: [{provider: openai, model: b, prices: {input: 4, cache_write: 5}}, {provider: openai, model: c}]}
"""
    aliases = parse_targets(text, "models.yaml", ENV)
    default, backup = aliases["default"], aliases["backup"]
    assert (default.attempts, default.backoff, default.retry_share, default.cache_seconds, default.continues) == (3, 0.5, 0.1, 60, True)
    assert [(g.strategy, [t.model for t in g.targets]) for g in default.groups] == [("balanced", ["a", "b"]), ("ordered", ["c"])]
    a, b, _ = default.targets
    assert (a.weight, a.rpm, a.tpm, a.max_concurrency, a.eject_after, a.prompt_cache) == (3, 60, 90000, 8, 0, False)
    assert (b.weight, b.rpm, b.tpm, b.max_concurrency, b.eject_after, b.prompt_cache) == (1, None, None, None, 5, True)
    assert b.prices.cache_write == 5
    assert (backup.groups[0].strategy, backup.tries, backup.retry_share) == ("ordered", 1, 0.2)
    assert (backup.cache_seconds, backup.continues) == (0, False)


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": {"default": {"targets": [{"provider": "anthropic", "model": "m"}]}}}))
    assert load_targets(path, ENV)["default"].targets[0].base_url == "http://proxy"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "idle_timeout: 7",
            "idle_timeouts: 7",
            "models.yaml:5:90: $.models.default.targets[0].idle_timeouts: unknown key; did you mean 'idle_timeout'?",
        ),
        ("provider: openai, model: gpt-4.1", "provider: bard, model: x", "models.yaml:5:20: $.models.default.targets[0].provider"),
        ("fallback: [local]", "fallback: [locol]", "models.yaml:7:16: $.models.default.fallback[0]: there is no alias 'locol'"),
        ("OTHER_KEY", "MISSING_KEY", "models.yaml:6:9: $.models.default.targets[1]: the environment has no MISSING_KEY"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", "$.models.local.targets[0].base_url"),
        ("targets: [{", "targets: [[{", "models.yaml:10:5: expected"),
        ("idle_timeout: 7", "rpm: 0", "models.yaml:5:80: $.models.default.targets[0].rpm: "),
        ("fallback: [default]", "strategy: fastest", "models.yaml:10:15: $.models.local.strategy: "),
        (
            "fallback: [default]",
            "retry: {attempt: 2}",
            "models.yaml:10:22: $.models.local.retry.attempt: unknown key; did you mean 'attempts'?",
        ),
        ("fallback: [default]", "cache: {}", "models.yaml:10:12: $.models.local.cache.ttl: Field required"),
        (
            "fallback: [default]",
            "fallback: [other]\n  other: {targets: [{provider: anthropic, model: claude-sonnet-4-6, api_key_env: OTHER_KEY, tpm: 9}]}",
            "models.yaml:11:98: $.models.other.targets[0].tpm: an earlier target for anthropic/claude-sonnet-4-6 at the same"
            " account has tpm None",
        ),
    ],
)
def test_problems_name_line_and_place(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_targets(FILE.replace(old, new), "models.yaml", ENV)
    assert says in "\n".join(caught.value.extra["problems"])


@pytest.mark.parametrize("text", ["", "[]", "models: {}", "models: {a: {targets: []}}"])
def test_files_without_targets_are_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        parse_targets(text, "models.yaml", ENV)


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_targets(Path("/nowhere/models.yaml"), {})


def test_without_a_file_openai_comes_first_then_anthropic_then_the_simulator() -> None:
    demo = "http://127.0.0.1:8900/v1"
    openai = default_targets({"OPENAI_API_KEY": "a", "OPENAI_BASE_URL": "http://x/v1", "ANTHROPIC_API_KEY": "b"}, demo)["default"].targets[
        0
    ]
    assert (openai.provider, openai.model, openai.base_url, openai.api_key) == ("openai", OPENAI_MODEL, "http://x/v1", "a")
    anthropic = default_targets({"ANTHROPIC_API_KEY": "b", "OPENAI_API_KEY": ""}, demo)["default"].targets[0]
    assert (anthropic.provider, anthropic.model, anthropic.base_url) == ("anthropic", ANTHROPIC_MODEL, None)
    assert default_targets({}, demo)["default"].targets[0].base_url == demo
    assert default_targets({}) == {}
    assert default_targets({"OPENAI_API_KEY": "a", "OPENAI_MODEL": "m"})["default"].targets[0].model == "m"


def test_a_price_for_writing_into_the_cache_may_be_given() -> None:
    text = """models: {default: {targets: [
      {provider: anthropic, model: a, base_url: "http://x", prices: {input: 1, cache_write: 1.25}},
      {provider: openai, model: b, base_url: "http://x", prices: {input: 1}}]}}"""
    assert [t.prices.cache_write for t in parse_targets(text, "models.yaml", {})["default"].targets] == [1.25, None]
