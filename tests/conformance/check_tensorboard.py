#!/usr/bin/env python3
"""Event files of Tandem as TensorBoard reads them. Needs tensorboard; run from the repository's root:

    python tests/conformance/check_tensorboard.py --events-tool BUILD/tests/events_tool
"""
import argparse
import pathlib
import struct
import subprocess
import tempfile

import tensorboard
from tensorboard.backend.event_processing import event_accumulator, event_file_loader
from tensorboard.compat.proto import event_pb2


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events-tool", required=True)
    tool = pathlib.Path(parser.parse_args().events_tool).resolve()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([tool, folder], check=True)
        acc = event_accumulator.EventAccumulator(folder, size_guidance={event_accumulator.SCALARS: 0})
        acc.Reload()
        tags = acc.Tags()["scalars"]
        assert len(tags) == 25, tags
        assert "train/reward_mean" in tags and "reward/number" in tags and "eval/accuracy" in tags, tags
        for tag in tags:
            steps = [e.step for e in acc.Scalars(tag)]
            assert steps == list(range(1, 261)), (tag, len(steps))
        for e in acc.Scalars("reward/number"):
            assert e.value == struct.unpack("f", struct.pack("f", e.step / 64))[0]
        assert [e.value for e in acc.Scalars("eval/accuracy")] == [1.0] * 200 + [201.0] * 40 + [241.0] * 20
        starts, count = [], 0
        for path in sorted(pathlib.Path(folder).iterdir()):
            for i, event in enumerate(event_file_loader.RawEventFileLoader(str(path)).Load()):
                event = event_pb2.Event.FromString(event)
                count += event.HasField("summary")
                assert i > 0 or event.file_version == "brain.Event:2"
                if event.HasField("session_log"):
                    assert event.session_log.status == event_pb2.SessionLog.START
                    starts.append(event.step)
        assert starts == [201, 241] and count == 260, (starts, count)  # nothing is left to purge: each step stands once on disk
    print(f"tensorboard {tensorboard.version.VERSION}: all agree")


if __name__ == "__main__":
    main()
