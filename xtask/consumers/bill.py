"""Reads a bill of materials with the library of the format's makers, and compares it with what cargo locked.

bill.py BILL PROGRAM LOCK
"""

import hashlib
import json
import sys
import tomllib

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import ComponentScope
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1]).read()
validator = JsonStrictValidator(SchemaVersion.V1_6)
wrong = validator.validate_str(text)
if wrong:
    sys.exit(f"not CycloneDX 1.6: {wrong.data}")

bill = Bom.from_json(json.loads(text))
program = bill.metadata.component
assert (program.name, program.type.value) == ("tracer", "application")
(digest,) = program.hashes
assert digest.content == hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest(), "the program has another sum"

# Each crate is in the lock, with the sum that is there.
locked = {(one["name"], one["version"]): one for one in tomllib.load(open(sys.argv[3], "rb"))["package"]}
crates = 0
for component in bill.components:
    licences = [licence.value for licence in component.licenses]
    assert len(licences) == 1 and licences[0], f"{component.name} has the licences {licences}"
    if component.purl is None or component.purl.type != "cargo":
        continue
    crates += 1
    assert (component.purl.name, component.purl.version) == (component.name, component.version), component.purl
    lock = locked[component.name, component.version]
    (digest,) = component.hashes
    assert digest.content == lock["checksum"], f"{component.name} has another sum in Cargo.lock"
assert crates > 100, f"only {crates} crates"

names = {component.name: component for component in bill.components}
for name in ["aya", "aya-ebpf", "zstd", "glibc", "rust-std"]:
    assert names[name].scope == ComponentScope.REQUIRED, name
assert names["syn"].scope == ComponentScope.EXCLUDED
assert "insta" not in names and "proptest" not in names, "what only tests is no part of it"

# Whatever is inside is reached from the program.
uses = {edge.ref: [used.ref for used in edge.dependencies] for edge in bill.dependencies}
reached, todo = set(), [program.bom_ref]
while todo:
    ref = todo.pop()
    if ref not in reached:
        reached.add(ref)
        todo.extend(uses.get(ref, []))
inside = {component.bom_ref for component in bill.components if component.scope == ComponentScope.REQUIRED}
assert inside <= reached, f"not reached: {[str(ref) for ref in inside - reached]}"

# What is wrong has to be found: a schema that takes everything proves nothing.
broken = json.loads(text)
broken["components"][0]["scope"] = "inside"
assert validator.validate_str(json.dumps(broken)) is not None
