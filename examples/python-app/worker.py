"""A small worker: does a piece of work each second, and ends cleanly on SIGINT and SIGTERM."""

import os
import signal
import threading

stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())

done = 0
every = float(os.environ.get("EVERY_SECONDS", "1"))
while not stop.wait(every):
    done += 1
    print(f"piece {done} done")
print(f"stopping after {done} pieces")
