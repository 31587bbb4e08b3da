"""Load on `runner serve`, for minutes: latencies, and whether its memory stays bounded.

    python tools/bench/serve.py DIR [--seconds 600] [--clients 16] [--runner target/release/runner]

DIR is what `runner serve` takes. Clients ask one thing after another: completions and streams of several lengths, some that hang up in mid-stream, some with prompts
that are refused. Prints how many of each, the median and the 99th percentile of answered requests, and the server's resident memory each tenth of the time.
Exit code 1 where an answer is neither the expected status nor a clear refusal (429), or where memory in the last tenth is more than 16 MB above the second.
Standard library only; Linux.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request


def resident_mb(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024


class Clients:
    def __init__(self, address, until):
        self.address, self.until = address, until
        self.lock, self.seconds, self.counts, self.faults = threading.Lock(), [], {}, []

    def note(self, what, seconds=None, fault=None):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1
            if seconds is not None:
                self.seconds.append(seconds)
            if fault:
                self.faults.append(fault)

    def ask(self, draw):
        kind = draw.choices(["whole", "stream", "hangs up", "too long"], [5, 4, 1, 1])[0]
        prompt = "The town " * (20_000 if kind == "too long" else draw.randint(1, 6))
        body = {"model": "m", "prompt": prompt, "max_tokens": draw.choice([4, 16, 40]), "seed": draw.randint(0, 9), "stream": kind in ("stream", "hangs up")}
        request = urllib.request.Request(self.address + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        began = time.time()
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                if kind == "hangs up":
                    answer.readline()
                    return self.note("hung up")
                text = answer.read().decode()
            whole = text.rstrip().endswith("[DONE]") if kind == "stream" else json.loads(text)["choices"]
            if kind == "too long" or not whole:
                return self.note("wrong", fault=f"{kind}: {text[:200]}")
            self.note(kind, time.time() - began)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            refused = error.code == 429 or (kind == "too long" and error.code == 400)
            self.note(f"{error.code}", fault=None if refused else f"{kind}: {error.code} {said[:200]}")
            if error.code == 429:
                time.sleep(0.2)
        except Exception as error:  # noqa: BLE001: whatever it is, it is no answer
            self.note("no answer", fault=f"{kind}: {error!r}")

    def run(self, seed):
        draw = random.Random(seed)
        while time.time() < self.until:
            self.ask(draw)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--runner", default="target/release/runner")
    arguments = parser.parse_args()
    server = subprocess.Popen([arguments.runner, "serve", arguments.dir, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    try:
        address = None
        for line in server.stderr:
            if found := re.search(r"(http://\S+?)/ in a browser", line):
                address = found.group(1)
                break
        if not address:
            sys.exit("the server did not start")
        threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
        clients = Clients(address, time.time() + arguments.seconds)
        threads = [threading.Thread(target=clients.run, args=(seed,)) for seed in range(arguments.clients)]
        [thread.start() for thread in threads]
        memory = []
        for _ in range(10):
            time.sleep(arguments.seconds / 10)
            memory.append(resident_mb(server.pid))
        [thread.join() for thread in threads]
    finally:
        server.terminate()
        server.wait()
    seconds = sorted(clients.seconds)
    at = lambda share: seconds[min(len(seconds) - 1, int(share * len(seconds)))] * 1000
    print(f"{arguments.clients} clients for {arguments.seconds:.0f} s: {dict(sorted(clients.counts.items()))}")
    print(f"answered {len(seconds)}, p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms")
    print("resident MB, each tenth: " + ", ".join(f"{mb:.1f}" for mb in memory))
    print("\n".join(clients.faults[:10]))
    sys.exit(bool(clients.faults) or memory[-1] > memory[1] + 16)


if __name__ == "__main__":
    main()
