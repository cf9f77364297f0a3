"""The columns of a run folder's tables, with units in their names: the one list that writers, readers and docs share."""

from __future__ import annotations

INFERENCES: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "device": "host that made the request",
    "request": "number of the request on its device, from 0; warm-up requests are counted by themselves",
    "warmup": "true for a warm-up request: it is recorded, and left out of all statistics",
    "epoch": "plan that the request was carried out with (see plans.jsonl); unique within the run",
    "input": "seed of the input image",
    "due_s": "when the request was due, in scenario seconds since the replay began (warm-up: since the session began)",
    "submitted_s": "when the device started it",
    "latency_s": "from then until the device had the last part of the answer; empty for a failed request",
    "queue_s": "waiting for busy hosts, summed over steps and tiles",
    "compute_device_s": "time in which the device computed for this request",
    "compute_edge_s": "time in which at least one edge host did",
    "compute_cloud_s": "time in which the cloud did",
    "transfer_access_s": "time in which tensors were on their way from the device to the edge",
    "transfer_lan_s": "time in which tiles were on their way between edge hosts",
    "transfer_backbone_s": "time in which tensors were on their way to the cloud",
    "transfer_return_s": "time in which answers, and tensors that come back, were on their way to the device",
    "access_bytes": "application bytes (message prefix, header and tensors) from the device to the edge",
    "lan_bytes": "application bytes between edge hosts",
    "backbone_bytes": "application bytes to the cloud over backbone or cellular links",
    "weights_bytes": "application bytes of weights that servers had been sent by then (planners that upload the model)",
    "overrun_s": "by how much real computation outlasted the modelled time, summed",
    "tiles": "how many tiles each edge host computed (`e1:3 e2:5`), those of every stack together; empty where nothing was tiled",
    "correct": "true when the answer is the whole model's: bit-equal, or for tiles within 1e-5 of the largest magnitude and the "
    "same five best classes; empty where only sizes travel, and for lossy plans (exits, coded tensors), which do not promise it",
    "max_rel_error": "largest absolute difference from the whole model's answer over its largest magnitude",
    "exit": "which of the plan's exits answered, from 0; empty for a plan without exits",
    "local_answer": "true when that exit counts as local (the device's own, or DDNN's first)",
    "fallback": "true when the device answered by itself because the others took too long or were gone",
    "absent_devices": "devices whose views were not waited for (plans that join several devices)",
    "agrees": "lossy plans: true when the answer's best class is that of the whole model's last output",
    "label": "class of the input in the model's data set, if it has one",
    "label_correct": "true when the answer's best class is the label",
    "error": "name of the error for a failed request, else empty",
    "error_text": "what the error says",
}

RECOVERED: dict[str, str] = {
    "recoveries": "how often the request had lost a host and went on without it",
    "recovered_s": "from the moment that the loss was known until it went on, summed; empty where there was none",
}
"""Columns that inferences.csv has besides, where the scenario has faults or recovery."""

FAULTS: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "fault": "number of the fault in the scenario, from 1",
    "kind": "kill, hang, slow, down, flap, loss, partition, corrupt, truncate or orchestrator",
    "target": "host, link or hosts that it hit; for corrupt and truncate sender and receiver",
    "begin_s": "when it began, in scenario seconds since the replay began; empty where it did not come about",
    "end_s": "when it was undone: after its `for`, or with the session",
    "noticed_s": "when the orchestrator took a host for lost or out of reach because of it; empty where it did not",
    "replanned_s": "when plans without that host were in force",
    "resumed": "requests that went on without it",
}

STEPS: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "device": "host that made the request",
    "request": "number of the request on its device",
    "warmup": "true for a warm-up request",
    "epoch": "plan that the request was carried out with",
    "what": "compute or transfer",
    "host": "host that computed, or that received the message",
    "tier": "that host's: device, edge or cloud",
    "peer": "transfer: host that sent the message",
    "leg": "transfer: access, lan, backbone or return, the column of inferences.csv that it counts for",
    "kind": "transfer: kind of the message (docs/wire.md): tensor, tile, tile_done, halo, answer, ...",
    "vertices": "compute: vertices of the graph, runs of them as `first-last`; transfer: the vertex whose tensor travelled",
    "stack": "number of the stack in the plan, from 0; empty outside tiles",
    "tile": "number of the tile in its stack, from 0",
    "start_s": "when it began, in scenario seconds since the replay began; transfer: when it was handed to the network",
    "end_s": "when it was done; transfer: when the last byte was there",
    "queue_s": "compute: how long it had waited for a busy host before `start_s`",
    "message_bytes": "transfer: application bytes (message prefix, header, tensors)",
}

LINKS: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "link": "name of the link",
    "direction": "up (away from the devices) or down",
    "kind": "state: from `at_s` on the link had this state; total: counters of the whole session, warm-up included (of what "
    "there was of one cut short)",
    "at_s": "scenario seconds since the replay began",
    "late_s": "how much later than due the state was in force",
    "rate_bps": "rate in bit/s; 0 is an outage",
    "delay_s": "one-way delay",
    "loss": "loss probability",
    "wire_bytes": "bytes of frames that the backend counted on the link",
    "packets": "frames counted",
    "drops": "frames dropped on a full queue",
    "lost": "frames lost at random, as the link's `loss` asks",
    "messages": "application messages that crossed the link, by the receivers' reports",
    "message_bytes": "their bytes: prefix, header, tensors",
    "weights_bytes": "those of weights among them (planners that upload the model)",
    "framed_bytes": "all of them with framing: 66 bytes for every 1448 begun, message by message",
}
