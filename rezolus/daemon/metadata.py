"""What a recording says of the sources it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rezolus.daemon.feeds import Feed

DESCRIPTIONS = "descriptions"
JSON_TEXTS = ("systeminfo", "sampler_status")
"""What sources say in JSON. It is put in as it came: decoding what a remote made up costs what that remote likes."""


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
    helps: dict[str, dict[str, str]] = {}
    pinned: dict[str, str] = {}
    for name, (metadata, labels) in found.items():
        kind = labels.get("source", name)
        if DESCRIPTIONS in metadata:
            helps.setdefault(kind, {}).update(msgspec.json.decode(metadata[DESCRIPTIONS], type=dict[str, str]))
        identity = {key: labels[key] for key in ("node", "instance") if key in labels}
        own = {key: _embedded(key, text) for key, text in metadata.items() if key not in ("source", DESCRIPTIONS)}
        sources.setdefault(kind, {})[next(iter(identity.values()), name)] = {**own, **identity}
        if "node" in identity and not pinned:
            pinned = {"pinned_node": identity["node"]}
            if "systeminfo" in metadata:
                pinned["systeminfo"] = metadata["systeminfo"]
    combined = {
        **pinned,
        "source": _json(sorted(sources)),
        "per_source_metadata": _json(
            {
                kind: {**entry, **({DESCRIPTIONS: helps[kind]} if kind in helps else {})}
                for kind, entry in sources.items()
            }
        ),
    }
    if helps:
        combined[DESCRIPTIONS] = _json({metric: text for of_kind in helps.values() for metric, text in of_kind.items()})
    return combined


def _embedded(key: str, text: str) -> object:
    """JSON as such, so that it need not be quoted twice; all else as the text it is."""
    return msgspec.Raw(text.encode()) if key in JSON_TEXTS else text


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
