"""The one configuration file, and Rezolus' own: the structures, and `load`, which reads and checks a file as a whole."""

from rezolus.config.read import load as load
from rezolus.config.read import parse as parse
from rezolus.config.structures import AGENT_IS_SETTLED as AGENT_IS_SETTLED
from rezolus.config.structures import LOCAL as LOCAL
from rezolus.config.structures import SHIPPED_PROBES as SHIPPED_PROBES
from rezolus.config.structures import SINK_TYPES as SINK_TYPES
from rezolus.config.structures import AgentConfig as AgentConfig
from rezolus.config.structures import Config as Config
from rezolus.config.structures import ConfigError as ConfigError
from rezolus.config.structures import ExporterConfig as ExporterConfig
from rezolus.config.structures import ExternalConfig as ExternalConfig
from rezolus.config.structures import Form as Form
from rezolus.config.structures import HindsightConfig as HindsightConfig
from rezolus.config.structures import LogConfig as LogConfig
from rezolus.config.structures import RecorderConfig as RecorderConfig
from rezolus.config.structures import SamplerConfig as SamplerConfig
from rezolus.config.structures import SchedulerConfig as SchedulerConfig
from rezolus.config.structures import Selection as Selection
from rezolus.config.structures import SinkConfig as SinkConfig
from rezolus.config.structures import SourceConfig as SourceConfig
from rezolus.config.structures import type_of as type_of
from rezolus.config.wire import from_wire as from_wire
from rezolus.config.wire import to_wire as to_wire
