"""Opens the agents of a heavy process and its config centre, whichever way LOADSPLIT_CONFIG says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.endpoints.egress import EgressPolicy
from common.errors import ConfigInvalid
from common.hotstore.protocol import HotStore
from common.settings import SettingsError
from common.telemetry.metrics import Metrics
from common.web.config_files import FileConfigs
from common.web.config_source import DATABASE, ConfigSource
from common.workflow.schema import Workflow
from common.workflow.shelf import FOLDER, Shelf
from heavy.agent.mcp_servers import McpServers
from heavy.configs.centre import Centre
from heavy.configs.keeper import CentreKeeper
from heavy.configs.rulebook import NoRules, Rulebook
from heavy.configs.stores import ConfigStore
from heavy.configs.watchdog import Watchdog
from heavy.settings import HeavySettings
from heavy.turns.agents import Agents

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configs:
    """Where agents come from before anything is open: files, with the workflows to compile at once, or the centre (None)."""

    files: FileConfigs | None = None
    first: Mapping[str, Workflow] = field(default_factory=dict)

    @property
    def public_only(self) -> bool:
        """Whether calls of these workflows reach public addresses only."""
        return self.files is None


def read_configs(settings: HeavySettings, rulebook: Rulebook | None) -> Configs:
    """Reads LOADSPLIT_CONFIG. Raises SettingsError without one, ConfigInvalid with every problem of its files."""
    if not settings.config:
        raise SettingsError("LOADSPLIT_CONFIG is not set: give a workflow file with --config, or db: for the config centre")
    if settings.config == DATABASE:
        return Configs()
    files = FileConfigs.of(settings, (rulebook or NoRules()).check_pattern)
    return Configs(files, files.read())


async def open_agents(
    configs: Configs,
    store: ConfigStore,
    hotstore: HotStore,
    policy: EgressPolicy,
    settings: HeavySettings,
    metrics: Metrics,
    rulebook: Rulebook | None,
) -> tuple[Agents, Centre]:
    """The agents, in force, and the centre with its background work. Raises ConfigInvalid, DependencyUnavailable."""
    rules = rulebook or NoRules()
    source: ConfigSource
    keeper: CentreKeeper | None = None
    if configs.files is not None:
        source = configs.files
    else:
        shelf = Shelf(settings.data_dir / FOLDER)
        keeper = CentreKeeper(store, hotstore, settings.ticket_key, shelf, dict(settings.environ), rules.check_pattern, metrics)
        source = keeper
    agents = Agents(
        configs.first,
        source.bring,
        rules_of=rulebook.rules_of if rulebook is not None else None,
        policy=policy,
        memory=settings.config_memory,
    )
    await source.begin(agents)
    watchdog = Watchdog(store, hotstore, metrics, keeper.catch_up if keeper is not None else _nothing)
    return agents, Centre(store, source, keeper, watchdog, agents, rules, settings.environ)


async def open_servers(configs: Configs, agents: Agents, mcp: McpServers) -> None:
    """Opens the MCP servers of the agents that are compiled. Without the extra `mcp` a file that names one stops the start
    (ConfigInvalid); a version of the centre does not: its turns say what is missing."""
    for agent in list(agents.all()):
        try:
            await mcp.of(agent.workflow)
        except ConfigInvalid as e:
            if configs.files is not None:
                raise
            log.error("the agent %s has no MCP tools: %s", agent.workflow.agent_id, e.detail)


async def _nothing() -> None:
    """Where files serve nothing is ever taken back."""
