"""Runs h2spec, the conformance tests of HTTP/2 and HPACK, against a node's client port.

    h2spec.py H2SPEC ADDRESS [whatever the other clients take]

The plain pages are asked for, since h2spec knows no gRPC.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

# What does not pass, and why that is right. One that passes must leave the list.
KNOWN = {
    "3.5. HTTP/2 Connection Preface: Sends invalid connection preface": "the port speaks HTTP/1.1, too, and answers it so",
    "5.3.1. Stream Dependencies: Sends HEADERS frame that depend on itself": "RFC 9113 has no priorities any more",
    "5.3.1. Stream Dependencies: Sends PRIORITY frame that depend on itself": "RFC 9113 has no priorities any more",
}


def main():
    h2spec, address = sys.argv[1:3]
    if "--against-etcd" in sys.argv:
        print("ok nothing is asked of etcd")
        return 0
    host, port = address.rsplit(":", 1)
    with tempfile.TemporaryDirectory() as directory:
        report = os.path.join(directory, "report.xml")
        command = [h2spec, "-h", host, "-p", port, "-P", "/version", "-o", "2", "-j", report]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if not os.path.exists(report):
            print(f"FAILED h2spec left no report: {run.stdout.strip()[-300:]}")
            return 1
        results = [check(suite, case) for suite in xml.etree.ElementTree.parse(report).iter("testsuite") for case in suite.iter("testcase")]
    if len(results) < 140:
        print(f"FAILED h2spec made {len(results)} checks only")
        return 1
    return 1 if any(results) else 0


def check(suite, case):
    """Prints a line; says whether it is bad."""
    name = f"{suite.get('name')}: {case.get('classname')}"
    found = [part for part in (case.find("failure"), case.find("error")) if part is not None]
    wrong = bool(found)
    if wrong == (name in KNOWN):
        print(f"ok {name}" + (f" (differs: {KNOWN[name]})" if wrong else ""))
        return False
    text = " ".join(found[0].itertext()) if wrong else "it passes now: take it off the list of what does not"
    print(f"FAILED {name}: {' '.join(text.split())}")
    return True


if __name__ == "__main__":
    sys.exit(main())
