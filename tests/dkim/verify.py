"""Verifies every DKIM signature of every message in a folder with dkimpy; the keys come from a file, not from DNS.

Usage: verify.py KEYS FOLDER. KEYS has a name and its record a line. Prints `file signature True|False` a line.
"""
import os
import sys

import dkim

keys = {}
with open(sys.argv[1], encoding="ascii") as lines:
    for line in lines:
        name, record = line.rstrip("\n").split(" ", 1)
        keys[name] = record


def txt(name, timeout=5):
    return keys.get(name.decode("ascii").rstrip("."), "").encode("ascii")


for file in sorted(os.listdir(sys.argv[2])):
    with open(os.path.join(sys.argv[2], file), "rb") as content:
        message = content.read()
    header = message.split(b"\r\n\r\n", 1)[0] + b"\r\n"
    count = sum(line.lower().startswith(b"dkim-signature:") for line in header.split(b"\r\n"))
    for index in range(count):
        try:
            is_good = dkim.DKIM(message).verify(index, dnsfunc=txt)
        except dkim.DKIMException as error:
            print(error, file=sys.stderr)
            is_good = False
        print(file, index, bool(is_good))
