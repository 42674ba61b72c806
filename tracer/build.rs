//! Finds the eBPF object, which `cargo xtask build-ebpf` has built, and hands its path to the source.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=TRACER_EBPF_OBJECT");
    let object = std::env::var_os("TRACER_EBPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/tracer-ebpf"),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    assert!(
        object.is_file(),
        "the eBPF object {} is not there: run `cargo xtask build-ebpf`",
        object.display()
    );
    println!("cargo::rustc-env=TRACER_EBPF_OBJECT={}", object.display());
}
