"""Reads the event file of a run of `prune heal --track tensorboard` and compares it with the run's log.

    python tests/interop/tensorboard_events.py OUT

With the package `tensorboard` its own reader is used; without it one of the record format, checksums included, that is
written here, and the last line says which. Exits 0 when they agree, 1 when not."""
import json
import pathlib
import struct
import sys

TAGS = {"loss": "train/loss", "lr": "train/learning_rate", "grad_norm": "train/grad_norm",
        "tokens_per_second": "train/tokens_per_second", "cross_entropy": "train/cross_entropy", "val_loss": "eval/loss"}


def check(condition, message):
    if not condition:
        sys.exit(f"tensorboard_events: {message}")


def crc32c(data):
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    at = 0

    def varint():
        nonlocal at
        number = shift = 0
        while True:
            number |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                return number

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = {1: lambda: 8, 5: lambda: 4, 2: varint}[key & 7]()
            yield key >> 3, data[at : at + length]
            at += length


def read(path):
    """(tag, step, number) of every value."""
    data, at, found, times = path.read_bytes(), 0, [], []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = data[at + 12 : at + 12 + length]
        check(struct.unpack_from("<I", data, at + 8)[0] == masked(data[at : at + 8]), f"checksum of a length at {at}")
        check(struct.unpack_from("<I", data, at + 12 + length)[0] == masked(event), f"checksum of an event at {at}")
        own = dict(fields(event))
        times.append(struct.unpack("<d", own[1])[0])
        check(at > 0 or own[3] == b"brain.Event:2", "the first event has no version")
        for _, value in fields(own.get(5, b"")):
            value = dict(fields(value))
            found.append((value[1].decode(), own[2], struct.unpack("<f", value[2])[0]))
        at += length + 16
    check(times == sorted(times), "times go back")
    return found


def main():
    out = pathlib.Path(sys.argv[1])
    (path,) = (out / "tensorboard").glob("*tfevents*")
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        reader, found = "the format as it is described", read(path)
    else:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        reader, found = "tensorboard", [(tag, own.step, own.value) for tag in tags for own in events.Scalars(tag)]
    lines = [json.loads(line) for line in open(out / "log.jsonl", encoding="utf-8")]
    lines = [line for line in lines if "step" in line]
    single = lambda number: struct.unpack("<f", struct.pack("<f", number))[0]  # noqa: E731
    expected = [(TAGS[key], line["step"], single(line[key])) for line in lines for key in line if key in TAGS]
    # right answers, where questions were asked
    shares = [({"accuracy": line["accuracy"]} | {f"{task}_accuracy": share for task, share in line["tasks"].items()}, line)
              for line in lines if "accuracy" in line]
    expected += [(f"eval/{name}", line["step"], single(share)) for own, line in shares for name, share in own.items()]
    check(sorted(found) == sorted(expected), f"{len(found)} values in the events, {len(expected)} in the log, or others")
    print(f"tensorboard_events: {len(found)} values of {len(lines)} lines agree, read by {reader}")


if __name__ == "__main__":
    main()
