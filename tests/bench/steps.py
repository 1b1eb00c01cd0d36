"""`python -m tests.bench.steps`: does what the loader does and prints for each step its seconds and seconds of CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path

BEGIN = time.perf_counter(), time.process_time()


def main() -> None:
    """Print one step per line."""
    last = BEGIN

    def mark(step: str) -> None:
        nonlocal last
        now = time.perf_counter(), time.process_time()
        print(f"{step}\t{now[0] - last[0]:.4f}\t{now[1] - last[1]:.4f}")
        last = now

    import dsl.pipeline
    from rezolus.agent.facts import probe
    from rezolus.bpf.attach import attach
    from rezolus.bpf.compile import compile_unit
    from rezolus.bpf.load import Unit, load
    from rezolus.bpf.targets import kernel_btf_ids

    mark("imports")
    folder = Path(__file__).parent.parent.parent / "probes"
    texts = {str(path): path.read_text() for path in sorted(folder.glob("*.rzl"))}
    parsed = dsl.parse_files(texts, lambda path: Path(path).read_text())
    mark("parse")
    facts = probe()
    mark("describe the host")
    checked = dsl.check_files(parsed, facts)
    mark("check")
    unit = dsl.compile_unit(checked.unit, facts)
    mark("plan and emit")
    with compile_unit(unit.text):
        mark("BCC: compile")
    mark("BCC: free")
    programs = load(Unit(unit.text, unit.schema.programs, unit.schema.maps), kernel_btf_ids(facts.btf), attached=False)
    mark("BCC once more, and verify")
    links = [fd for item in programs.outcomes for fd in attach(programs.programs[item.function], item.hook)]
    mark("attach")
    for fd in links:
        os.close(fd)
    programs.close()


if __name__ == "__main__":
    main()
