"""A program that forks while its threads search, and counts the children that did not answer.

`python forks.py STORE TRIES`: started by a test, for it needs a process of its own.
"""

import os
import sys
import threading
import time

import numpy as np

from index_store.store import IndexStore


def main(path, tries):
    with IndexStore.open(path) as store:
        rng = np.random.default_rng(0)
        one, many = rng.normal(size=(1, 16)), rng.normal(size=(64, 16))
        truth = store.search(many, k=5).ids
        over = threading.Event()
        searched = [0]

        def search():
            while not over.is_set():
                store.search(one, k=5)
                store.search(many, k=5, where="+a")
                store.count("split=train")
                searched[0] += 1

        threads = [threading.Thread(target=search, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        hung = wrong = 0
        for number in range(tries):
            child = os.fork()
            if not child:
                status = 1
                try:
                    same = np.array_equal(store.search(many, k=5).ids, truth)
                    status = 0 if same and store.count("-a") else 2
                    if number % 4 == 0:  # one that is opened there, and a thread of the child
                        with IndexStore.open(path) as other:
                            other.search(many, k=5)
                        own = threading.Thread(target=store.search, args=(many,))
                        own.start()
                        own.join()
                finally:
                    os._exit(status)
            until = time.monotonic() + 20
            done = 0
            while not done and time.monotonic() < until:
                done, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0 if done else 0.001)
            if not done:
                os.kill(child, 9)
                os.waitpid(child, 0)
                hung += 1
            elif status:
                wrong += 1
        over.set()
        for thread in threads:
            thread.join(10)
        print(f"{hung} hung, {wrong} wrong, searched: {searched[0] > 0}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
