"""What a recording says of the sources it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rezolus.daemon.feeds import Feed

DESCRIPTIONS = "descriptions"


def metadata_of(feeds: Mapping[str, Feed], names: Sequence[str]) -> dict[str, str]:
    """The metadata of a recording of these sources, as they are now.

    That of one source stays as it is. Of several, `source` lists them and `per_source_metadata` has what each says of itself, by
    source and by the label (`node` or `instance`) that tells it from others of its kind; the first host is the `pinned_node`, which a
    viewer begins with, and whose `systeminfo` stands for all.
    """
    found = {name: (feed.source.metadata(), feed.source.merge_labels()) for name in names if (feed := feeds.get(name))}
    if len(names) == 1:
        return dict(next(iter(found.values()))[0]) if found else {}
    sources: dict[str, dict[str, object]] = {}
    descriptions: dict[str, object] = {}
    pinned: dict[str, str] = {}
    for name, (metadata, labels) in found.items():
        kind = labels.get("source", name)
        entry = sources.setdefault(kind, {})
        of_kind = _parsed(metadata.get(DESCRIPTIONS, ""))
        if isinstance(of_kind, dict):
            descriptions |= of_kind
            entry[DESCRIPTIONS] = {**_mapping(entry.get(DESCRIPTIONS)), **of_kind}
        identity = {key: labels[key] for key in ("node", "instance") if key in labels}
        own = {key: _parsed(value) for key, value in metadata.items() if key not in ("source", DESCRIPTIONS)}
        entry[next(iter(identity.values()), name)] = {**own, **identity}
        if "node" in identity and not pinned:
            pinned = {"pinned_node": identity["node"]}
            if "systeminfo" in metadata:
                pinned["systeminfo"] = metadata["systeminfo"]
    combined = {
        **pinned,
        "source": json.dumps(sorted(sources), separators=(",", ":")),
        "per_source_metadata": json.dumps(sources, separators=(",", ":")),
    }
    if descriptions:
        combined[DESCRIPTIONS] = json.dumps(descriptions, separators=(",", ":"))
    return combined


def _parsed(text: str) -> object:
    """JSON objects and lists as such, so that they need not be quoted twice; all else as the text it is."""
    if text[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
