"""Decodes a trace with Perfetto's own protos, and puts its tracks together as its query engine does.

perfetto_trace.py TRACE STATS
"""

import collections
import json
import sys

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

trace = protos.Trace()
with open(sys.argv[1], "rb") as file:
    trace.ParseFromString(file.read())
stats = json.load(open(sys.argv[2]))

Event = protos.TrackEvent
texts = {}
tracks = {}
packets = []
for number, packet in enumerate(trace.packet):
    assert packet.trusted_packet_sequence_id == 1, f"packet {number} has no sequence"
    data = packet.interned_data
    for kind, entries in (("name", data.event_names), ("category", data.event_categories),
                          ("note", data.debug_annotation_names)):
        for entry in entries:
            texts[kind, entry.iid] = entry.name
    for entry in data.debug_annotation_string_values:
        texts["value", entry.iid] = entry.str.decode()
    if packet.HasField("track_descriptor"):
        tracks[packet.track_descriptor.uuid] = packet.track_descriptor
    if packet.HasField("track_event"):
        event = packet.track_event
        assert event.track_uuid in tracks, f"packet {number} is on a track that was not described before"
        name = texts["name", event.name_iid] if event.name_iid else None
        category = [texts["category", iid] for iid in event.category_iids]
        notes = {}
        for note in event.debug_annotations:
            key = texts["note", note.name_iid]
            if note.HasField("string_value_iid"):
                notes[key] = texts["value", note.string_value_iid]
            elif note.HasField("pointer_value"):
                notes[key] = note.pointer_value
            else:
                notes[key] = note.uint_value if note.HasField("uint_value") else note.bool_value
        packets.append((packet.timestamp, event, name, category, notes))


def thread_of(uuid):
    """The tid of the task that a track belongs to."""
    while tracks[uuid].parent_uuid:
        uuid = tracks[uuid].parent_uuid
    return tracks[uuid].thread.tid


# Stable, as the query engine has it: what is written first comes first.
packets.sort(key=lambda packet: packet[0])
stacks = collections.defaultdict(list)
slices = []
instants = []
counters = collections.defaultdict(list)
for ts, event, name, category, notes in packets:
    stack = stacks[event.track_uuid]
    if event.type == Event.TYPE_SLICE_BEGIN:
        stack.append((ts, name, category, notes, list(event.flow_ids)))
    elif event.type == Event.TYPE_SLICE_END:
        assert stack, f"a slice ends at {ts} that has not begun"
        begin, name, category, notes, flows = stack.pop()
        slices.append((event.track_uuid, begin, ts, name, category, notes, flows))
    elif event.type == Event.TYPE_INSTANT:
        instants.append((event.track_uuid, ts, name, list(event.flow_ids), notes))
    else:
        assert event.type == Event.TYPE_COUNTER
        counters[tracks[event.track_uuid].name].append((ts, event.counter_value))
open_slices = [entry for stack in stacks.values() for entry in stack]

# All that lasted a known time is there, and lasts as long.
for category, key in (("hold", "holds"), ("wait", "waits")):
    found = [one for one in slices if one[4] == [category] and not one[5].get("gave up")]
    count = sum(lock["count"] for lock in stats[key].values())
    total = sum(lock["total_ns"] for lock in stats[key].values())
    assert len(found) == count, f"{len(found)} slices of {category}, {count} in the statistics"
    assert sum(one[2] - one[1] for one in found) == total, f"{category}: another sum than in the statistics"
assert {entry[1] for entry in open_slices} == {
    "holds mmap_lock for writing",
    "waits for mmap_lock for reading",
}, open_slices

# Each flow leads from one wait to those who were in its way.
givers = collections.defaultdict(list)
for uuid, ts, name, flows, notes in instants:
    for flow in flows:
        givers[flow].append((thread_of(uuid), ts))
tied = 0
for uuid, begin, end, name, category, notes, flows in slices:
    for flow in flows:
        assert category == ["wait"]
        assert givers[flow], f"the flow of a wait at {begin} leads nowhere"
        for tid, ts in givers[flow]:
            assert tid != thread_of(uuid) and begin <= ts <= end
        assert notes["waited for thread"] == givers[flow][-1][0]
        tied += 1
assert tied >= 70, f"{tied} waits are tied to who was in their way"

assert {"events/s", "contended waits/s", "failed look-ups/s", "lost events (in sum)"} <= set(counters)
assert max(value for _, value in counters["lost events (in sum)"]) == stats["events"]["missing"]
# Every event is in some step's rate; a step is 10 ms.
assert sum(value for _, value in counters["events/s"]) // 100 == stats["events"]["total"]
assert sum(1 for one in instants if one[2] == "gap") == stats["events"]["gaps"]
names = {track.thread.thread_name for track in tracks.values() if track.HasField("thread")}
assert "</script><b>" in names and "work" in names, names
text = open(sys.argv[1], "rb").read()
assert b"secret-of-the-user" not in text, "the command line is in the trace"
