"""Writes through redis-py's Sentinel client until standard input ends. See ../README.md for what it is told and says."""

import sys
import threading
import time

from redis.sentinel import Sentinel

sentinels, master, password = sys.argv[1:4]
places = [(host, int(port)) for host, port in (place.rsplit(":", 1) for place in sentinels.split(","))]
options = {"socket_timeout": 1, "password": password or None}
client = Sentinel(places, sentinel_kwargs=options, **options).master_for(master)

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
number = 0
while not ended.is_set():
    try:
        client.set(f"python:{number}", number)
        print(f"ok {number}", flush=True)
    except Exception as error:  # an application would go on, too
        print(f"error {number} {type(error).__name__}: {error}", flush=True)
    number += 1
    time.sleep(0.005)
