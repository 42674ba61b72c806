//! What the program consists of, for programs that ask: a bill of materials in CycloneDX 1.6, as JSON.
//!
//! It is made of what cargo says, and of nothing that changes from one build of a commit to the next.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::inside::{Crate, Crates, Id};
use super::pack;
use crate::{deps, ws};

/// Libraries of other languages that crates bring along and build, by the name that cargo's `links` gives them. A new one is an
/// error until its licence is known here.
const BROUGHT: [(&str, &str, &str); 1] = [("zstd", "BSD-3-Clause", "pkg:github/facebook/zstd")];

/// What no crate is, and inside all the same.
#[derive(Debug)]
pub(super) struct Toolchains {
    /// Of the program, and so the version of its standard library.
    rustc: String,
    /// Of the eBPF programs.
    nightly: String,
    /// The C library that is linked in.
    glibc: String,
}

impl Toolchains {
    /// Asks them.
    pub(super) fn ask() -> Result<Self> {
        let rustc = ws::capture(Command::new("rustc").arg("--version").current_dir(ws::root()))?;
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc", "--version"]);
        let nightly = ws::capture(&mut nightly)?;
        let glibc = ws::capture(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
        let glibc = glibc.split_whitespace().nth(1);
        Ok(Self {
            rustc: version(&rustc)?,
            nightly: version(&nightly)?,
            glibc: glibc
                .context("getconf names no version of the C library")?
                .to_owned(),
        })
    }
}

/// `1.95.0` of `rustc 1.95.0 (f2d3ce0bd 2026-03-21)`; of a nightly with its commit, since its number is no version.
fn version(said: &str) -> Result<String> {
    let mut words = said.trim().splitn(3, ' ').skip(1);
    let number = words.next().with_context(|| format!("rustc says {said:?}"))?;
    let rest = words.next().unwrap_or_default();
    Ok(if number.contains('-') {
        format!("{number} {rest}").trim_end().to_owned()
    } else {
        number.to_owned()
    })
}

/// The bill of a program.
///
/// # Errors
/// A crate brings a library along that [`BROUGHT`] does not know, or names no licence.
pub(super) fn text(
    crates: &Crates,
    toolchains: &Toolchains,
    version: &str,
    program: &[u8],
    time: u64,
) -> Result<String> {
    let mut components = Vec::new();
    let mut edges = Vec::new();
    let inside = crates.inside.iter().map(|one| (one, "required"));
    let builders = crates.builders.iter().map(|one| (one, "excluded"));
    for (one, scope) in inside.chain(builders) {
        components.push(component(one, scope)?);
        let mut uses: Vec<String> = one.uses.iter().map(purl).collect();
        if scope == "required"
            && let Some(links) = &one.links
        {
            let brought = brought(one, links)?;
            uses.push(brought["bom-ref"].as_str().unwrap_or_default().to_owned());
            components.push(brought);
        }
        edges.push(json!({"ref": purl(&one.id()), "dependsOn": uses}));
    }
    let linked = [
        ("rust-std", &toolchains.rustc, "MIT OR Apache-2.0"),
        ("glibc", &toolchains.glibc, "LGPL-2.1-or-later"),
    ];
    for (name, version, licence) in linked {
        let at = generic(name, version);
        components.push(library(&at, name, version, licence));
        edges.push(json!({"ref": at, "dependsOn": []}));
    }
    let roots: Vec<String> = crates
        .inside
        .iter()
        .filter(|one| one.is_ours())
        .map(|one| purl(&one.id()))
        .chain(linked.map(|(name, version, _)| generic(name, version)))
        .collect();
    edges.push(json!({"ref": PROGRAM, "dependsOn": roots}));
    let tool = |name: &str, version: &str| json!({"type": "application", "name": name, "version": version});
    let mut bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": utc(time),
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [
                tool("cargo xtask dist", version),
                tool("rustc", &toolchains.rustc),
                tool("rustc (eBPF programs)", &toolchains.nightly),
                tool("bpf-linker", deps::BPF_LINKER),
            ]},
            "component": {
                "type": "application",
                "bom-ref": PROGRAM,
                "name": "tracer",
                "version": version,
                "licenses": [{"expression": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)"}],
                "hashes": [{"alg": "SHA-256", "content": pack::hex(&Sha256::digest(program))}],
            },
        },
        "components": components,
        "dependencies": edges,
    });
    // A number for this very bill, which another build of the same gets as well.
    bill["serialNumber"] = json!(number(&Sha256::digest(bill.to_string())));
    Ok(serde_json::to_string_pretty(&bill).context("writing a bill of materials")? + "\n")
}

/// How the program itself is called in there.
const PROGRAM: &str = "tracer-program";

fn component(one: &Crate, scope: &str) -> Result<Value> {
    let licence = one.licence.as_ref();
    let licence = licence.with_context(|| format!("{} {} names no licence", one.name, one.version))?;
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(&one.id()),
        "name": one.name,
        "version": one.version,
        "scope": scope,
        "licenses": [{"expression": alternatives(licence)}],
    });
    // What is of this repository only is not to be had anywhere by this name.
    if let Some(sum) = &one.sum {
        component["purl"] = json!(purl(&one.id()));
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    if let Some(repository) = &one.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    Ok(component)
}

/// The library that a crate brings along. Which version, such crates say behind a `+` in their own.
fn brought(by: &Crate, links: &str) -> Result<Value> {
    let Some((name, licence, at)) = BROUGHT.iter().find(|(name, ..)| *name == links) else {
        bail!(
            "{} {} brings the library {links} along: find out its licence, and add it to {}",
            by.name,
            by.version,
            file!()
        );
    };
    let version = by
        .version
        .split_once('+')
        .map_or(&*by.version, |(_, behind)| behind);
    let version = version
        .strip_prefix(name)
        .unwrap_or(version)
        .trim_start_matches('.');
    let at = format!("{at}@{}", encoded(version));
    Ok(library(&at, name, version, licence))
}

/// Where what no registry has is from.
fn generic(name: &str, version: &str) -> String {
    format!("pkg:generic/{name}@{}", encoded(version))
}

/// A library that is no crate.
fn library(at: &str, name: &str, version: &str, licence: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": at,
        "name": name,
        "version": version,
        "scope": "required",
        "licenses": [{"expression": licence}],
        "purl": at,
    })
}

/// An expression, of which there were none once: then `/` stood between alternatives.
fn alternatives(licence: &str) -> String {
    let each: Vec<&str> = licence.split('/').map(str::trim).collect();
    each.join(" OR ")
}

fn purl((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", encoded(version))
}

/// The one character of cargo's versions that means something else in an address.
fn encoded(version: &str) -> String {
    version.replace('+', "%2B")
}

/// A UUID of the kind that leaves to us what is in it (RFC 9562, version 8).
fn number(hash: &[u8]) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = pack::hex(&bytes);
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("urn:uuid:{}", parts.join("-"))
}

/// Seconds since 1970 as ISO 8601 has them.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years of 400 years begin in March, so that a leap day is a last one.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    fn one(name: &str, version: &str, sum: Option<&str>) -> Crate {
        Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: Some("MIT/Apache-2.0".to_owned()),
            repository: None,
            sum: sum.map(ToOwned::to_owned),
            links: None,
            folder: PathBuf::new(),
            uses: BTreeSet::new(),
        }
    }

    fn crates() -> Crates {
        let mut ours = one("tracer", "0.1.0", None);
        let zstd = Crate {
            links: Some("zstd".to_owned()),
            ..one("zstd-sys", "2.0.16+zstd.1.5.7", Some("ab"))
        };
        ours.uses.insert(zstd.id());
        Crates {
            inside: vec![ours, zstd],
            builders: vec![one("syn", "2.0.1", Some("cd"))],
        }
    }

    fn bill(crates: &Crates, program: &[u8]) -> Result<String> {
        let toolchains = Toolchains {
            rustc: "1.95.0".to_owned(),
            nightly: "1.97.0-nightly (abc 2026-05-01)".to_owned(),
            glibc: "2.41".to_owned(),
        };
        text(crates, &toolchains, "0.1.0", program, 1_700_000_000)
    }

    #[test]
    fn a_bill_says_what_is_inside_and_what_built_it() {
        let said: Value = serde_json::from_str(&bill(&crates(), b"x").unwrap()).unwrap();
        let list: Vec<[&str; 3]> = said["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| ["name", "version", "scope"].map(|key| one[key].as_str().unwrap()))
            .collect();
        assert_eq!(
            list,
            [
                ["tracer", "0.1.0", "required"],
                ["zstd-sys", "2.0.16+zstd.1.5.7", "required"],
                ["zstd", "1.5.7", "required"],
                ["syn", "2.0.1", "excluded"],
                ["rust-std", "1.95.0", "required"],
                ["glibc", "2.41", "required"],
            ]
        );
        assert_eq!(said["components"][0]["purl"], Value::Null);
        assert_eq!(
            said["components"][1]["purl"],
            "pkg:cargo/zstd-sys@2.0.16%2Bzstd.1.5.7"
        );
        let licence = &said["components"][1]["licenses"][0]["expression"];
        assert_eq!(licence, "MIT OR Apache-2.0");
        assert_eq!(said["components"][1]["hashes"][0]["content"], "ab");
        let edges = said["dependencies"].as_array().unwrap();
        let zstd = edges
            .iter()
            .find(|edge| edge["ref"] == said["components"][1]["bom-ref"]);
        assert_eq!(
            zstd.unwrap()["dependsOn"],
            json!(["pkg:github/facebook/zstd@1.5.7"])
        );
    }

    #[test]
    fn the_same_program_has_the_same_bill_and_another_one_another() {
        assert_eq!(bill(&crates(), b"x").unwrap(), bill(&crates(), b"x").unwrap());
        let number = |program| -> Value {
            let said: Value = serde_json::from_str(&bill(&crates(), program).unwrap()).unwrap();
            said["serialNumber"].clone()
        };
        assert_ne!(number(b"x"), number(b"y"));
    }

    #[test]
    fn a_library_that_nobody_looked_at_is_an_error() {
        let mut crates = crates();
        crates.inside[1].links = Some("ssl".to_owned());
        let error = bill(&crates, b"x").unwrap_err().to_string();
        assert!(error.contains("brings the library ssl along"), "{error}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, said) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), said);
        }
    }

    #[test]
    fn toolchains_say_their_versions() {
        assert_eq!(
            version("rustc 1.95.0 (f2d3ce0bd 2026-03-21)\n").unwrap(),
            "1.95.0"
        );
        assert_eq!(
            version("rustc 1.97.0-nightly (abc 2026-05-01)\n").unwrap(),
            "1.97.0-nightly (abc 2026-05-01)"
        );
        assert!(version("").is_err());
    }
}
