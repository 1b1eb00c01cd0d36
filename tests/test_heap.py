from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes, threading
from rezolus.heap import share_heap
{call}
together = threading.Barrier(8)
def work():
    block = ctypes.create_string_buffer(5000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def heaps(call: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True, check=True)
    return done.stdout.count("<heap nr=")


def test_threads_share_one_heap() -> None:
    assert heaps("share_heap()") == 1
    assert heaps("") > 1
