"""A unit written by hand, as the compiler would emit it: what the agent is tested with on a real kernel.

Sampler `switches` counts context switches by CPU and in total and observes random numbers in a histogram; sampler
`groups` counts switches by cgroup; sampler `waker` counts wake-ups on a hook shared with `switches`' second program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsl.btf import Btf
from dsl.hooks import Hook
from dsl.kernel.btf_types import Struct
from dsl.schema import (
    CGROUP_NAME_ROW,
    CGROUP_NAMES,
    CGROUP_ROWS,
    Bank,
    ByCgroup,
    ByCpu,
    EventUse,
    FromSource,
    Label,
    Metric,
    Op,
    Program,
    Sampler,
    Schema,
    Slots,
    Source,
)
from rezolus.agent.isolate import Enabled

FILE = "handmade.rzl"
LINES = {"switches": 10, "groups": 30, "waker": 50}
SWITCH = Hook(kind="raw_tp", name="sched_switch")
WAKEUP = Hook(kind="raw_tp", name="sched_wakeup")
CPU_WORDS = 8
CGROUP_WORDS = 2
BUCKETS = 496


@dataclass(frozen=True, slots=True)
class HandmadeUnit:
    """What the compiler's result looks like."""

    text: str
    schema: Schema
    initial: Mapping[str, bytes] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)


def compile_handmade(cpus: int, btf: Btf, enabled: Enabled, *, broken: Mapping[str, str] | None = None) -> HandmadeUnit:
    """The unit for the samplers that are enabled; `broken` puts statements of its own into a sampler's code."""
    broken = broken or {}
    on = {name for name in LINES if enabled(name)}
    switch = "".join(_SWITCH_CODE[name] + broken.get(name, "") for name in ("switches", "groups") if name in on)
    wakeup = "".join(
        _WAKEUP_CODE[name] + broken.get(f"{name}/wakeup", "") for name in ("switches", "waker") if name in on
    )
    programs, text = [], _head(cpus, btf)
    for hook, name, body, users in (
        (SWITCH, "on_switch", switch, ("switches", "groups")),
        (WAKEUP, "on_wakeup", wakeup, ("switches", "waker")),
    ):
        used = tuple(user for user in users if user in on)
        if used:
            text += _function(name, body)
            programs.append(Program(function=name, hook=hook, samplers=used, weights=(1,) * len(used)))
    return HandmadeUnit(text, _schema(cpus, on, tuple(programs)))


def _function(name: str, body: str) -> str:
    return f"int {name}(unsigned long long *ctx) {{\nu32 key = bpf_get_smp_processor_id(); struct cpu_row *row = cpu.lookup(&key); if (!row) return 0;\n{body}\nreturn 0;\n}}\n"


_SWITCH_CODE = {
    "switches": f'#line 12 "{FILE}"\nrow->w[0] += 1; row->w[1] += 1; row->w[3] += 2;\n'
    "{ struct hist_row *hist = hists.lookup(&key); u32 random = bpf_get_prandom_u32() & 7; if (hist) hist->w[random] += 1; }\n",
    "groups": f'#line 32 "{FILE}"\n{{ u64 at = ctx[1]; count_group((void *)at); }}\n',
}
_WAKEUP_CODE = {
    "switches": f'#line 14 "{FILE}"\nrow->w[2] += 1;\n',
    "waker": f'#line 52 "{FILE}"\nrow->w[4] += 1;\n',
}


def _head(cpus: int, btf: Btf) -> str:
    offsets = {name: _offset(btf, *path) for name, path in _PATHS.items()}
    fields = "".join(f"#define AT_{name} {offset}\n" for name, offset in offsets.items())
    return f"""
struct cpu_row {{ u64 w[{CPU_WORDS}]; }};
struct hist_row {{ u64 w[{BUCKETS}]; }};
struct group_row {{ u64 w[{CGROUP_WORDS}]; }};
struct name_row {{ u64 serial; u64 id; u64 level; char names[3][64]; }};
BPF_F_TABLE("array", u32, struct cpu_row, cpu, {cpus}, 0x400);
BPF_F_TABLE("array", u32, struct hist_row, hists, {cpus}, 0x400);
BPF_F_TABLE("array", u32, struct group_row, groups, {CGROUP_ROWS}, 0x400);
BPF_F_TABLE("array", u32, struct name_row, {CGROUP_NAMES}, {CGROUP_ROWS}, 0x400);
{fields}
{_GROUP_CODE}
"""


_PATHS = {
    "GROUP": ("task_struct", "sched_task_group"),
    "CSS": ("task_group", "css"),
    "ID": ("cgroup_subsys_state", "id"),
    "SERIAL": ("cgroup_subsys_state", "serial_nr"),
    "CGROUP": ("cgroup_subsys_state", "cgroup"),
    "KN": ("cgroup", "kn"),
    "LEVEL": ("cgroup", "level"),
    "NAME": ("kernfs_node", "name"),
    "PARENT": ("kernfs_node", "__parent"),
    "KID": ("kernfs_node", "id"),
}

_GROUP_CODE = """
#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(from))
static inline void count_group(char *task) {
    char *group = 0, *cgroup = 0, *kn = 0, *name = 0;
    u32 id = 0, level = 0;
    u64 serial = 0;
    READ(group, task + AT_GROUP);
    READ(id, group + AT_CSS + AT_ID);
    READ(serial, group + AT_CSS + AT_SERIAL);
    if (id >= 4096) id = 0;
    struct group_row *row = groups.lookup(&id);
    struct name_row *named = cgroup_names.lookup(&id);
    if (!row || !named) return;
    if (serial && row->w[0] != serial) {
        READ(cgroup, group + AT_CSS + AT_CGROUP);
        READ(kn, cgroup + AT_KN);
        READ(level, cgroup + AT_LEVEL);
        named->level = level;
        READ(named->id, kn + AT_KID);
        READ(name, kn + AT_NAME);
        bpf_probe_read_kernel_str(named->names[0], 64, name);
        if (level > 0) {
            READ(kn, kn + AT_PARENT);
            READ(name, kn + AT_NAME);
            bpf_probe_read_kernel_str(named->names[1], 64, name);
        }
        if (level > 1) {
            READ(kn, kn + AT_PARENT);
            READ(name, kn + AT_NAME);
            bpf_probe_read_kernel_str(named->names[2], 64, name);
        }
        row->w[1] = 0;
        named->serial = serial;
        row->w[0] = serial;
    }
    __sync_fetch_and_add(&row->w[1], 1);
}
"""


def _offset(btf: Btf, type_name: str, member: str) -> int:
    kind = btf.find(type_name, Struct)
    assert kind is not None, type_name
    path = btf.member_path(kind, member) or btf.member_path(kind, member.removeprefix("__"))
    assert path is not None, f"{type_name}.{member}"
    return sum(step.bit_offset for step in path) // 8


def _schema(cpus: int, on: set[str], programs: tuple[Program, ...]) -> Schema:
    metrics = [metric for metric in _METRICS if metric.sampler in on or metric.sampler == "files"]
    return Schema(
        samplers=(
            *(_sampler(name) for name in LINES if name in on),
            Sampler(name="files", help="Read from files", file=FILE, line=70),
        ),
        metrics=tuple(metrics),
        banks=(
            Bank(name="cpu", axis="cpu", rows=cpus, words=CPU_WORDS),
            Bank(name="hists", axis="stripe", rows=cpus, words=BUCKETS),
            Bank(name="groups", axis="cgroup", rows=CGROUP_ROWS, words=CGROUP_WORDS),
        ),
        sources=(Source(name="meminfo", form="keys", path="/proc/meminfo", keys=("MemTotal",)),),
        programs=programs,
        maps=("cpu", "hists", "groups", CGROUP_NAMES),
    )


def _sampler(name: str) -> Sampler:
    hooks = {"switches": (SWITCH, WAKEUP), "groups": (SWITCH,), "waker": (WAKEUP,)}[name]
    return Sampler(
        name=name,
        help=f"Handmade {name}",
        file=FILE,
        line=LINES[name],
        events=tuple(EventUse(event=hook.name, hook=hook, line=LINES[name] + 1) for hook in hooks),
        discards=(("clock", 3),) if name == "switches" else (),
    )


def _counter(name: str, sampler: str, offset: int, **more: object) -> Metric:
    return Metric(
        name=name,
        kind="counter",
        unit="",
        help=f"Handmade {name}",
        sampler=sampler,
        storage=Slots("groups" if more.get("dimension") == ByCgroup() else "cpu", offset),
        **more,  # type: ignore[arg-type]
    )


_METRICS = (
    _counter("switches_by_cpu", "switches", 0, dimension=ByCpu()),
    _counter("switches_total", "switches", 1, labels=(Label("what", ("switch", "wakeup")),)),
    Metric(
        name="random_numbers",
        kind="histogram",
        unit="",
        help="Random numbers below 8",
        sampler="switches",
        storage=Slots("hists", 0),
    ),
    _counter("cgroup_switches", "groups", 1, dimension=ByCgroup()),
    _counter("wakeups", "waker", 4),
    Metric(
        name="memory_total",
        kind="gauge",
        unit="bytes",
        help="Memory",
        sampler="files",
        storage=FromSource(
            ((Op("load", source="meminfo", key="MemTotal"), Op("const", number=1024), Op("mul")),),
        ),
    ),
)

assert CGROUP_NAME_ROW == 8 * 27
