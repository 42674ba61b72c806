//! What this process may do, and what the kernel lets anybody do.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

// Numbers of capabilities, from the kernel's user interface.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYSLOG: u32 = 34;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Capabilities that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// `CAP_BPF`, or `CAP_SYS_ADMIN`, which includes it.
    pub bpf: bool,
    /// `CAP_PERFMON`, or `CAP_SYS_ADMIN`, which includes it.
    pub perfmon: bool,
    /// `CAP_SYSLOG`: kernel addresses can be read.
    pub syslog: bool,
    /// `CAP_SYS_PTRACE`: other users' processes can be looked at.
    pub ptrace: bool,
}

impl Capabilities {
    /// Reads them from a `/proc/PID/status`.
    pub fn read(status: &Path) -> Option<Self> {
        let text = fs::read_to_string(status).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        Some(Self::from_mask(u64::from_str_radix(line.trim(), 16).ok()?))
    }

    const fn from_mask(mask: u64) -> Self {
        let admin = mask & 1 << CAP_SYS_ADMIN != 0;
        Self {
            bpf: admin || mask & 1 << CAP_BPF != 0,
            perfmon: admin || mask & 1 << CAP_PERFMON != 0,
            syslog: mask & 1 << CAP_SYSLOG != 0,
            ptrace: mask & 1 << CAP_SYS_PTRACE != 0,
        }
    }

    /// The capabilities without which nothing can be attached, if any is missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.bpf {
            missing.push("CAP_BPF");
        }
        if !self.perfmon {
            missing.push("CAP_PERFMON");
        }
        missing
    }
}

/// Kernel lockdown, which even root does not get around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Off, or not built in.
    #[default]
    None,
    /// The kernel's code cannot be changed.
    Integrity,
    /// Its memory cannot be read either.
    Confidentiality,
    /// Cannot be told, for example because securityfs is not mounted.
    Unknown,
}

impl Lockdown {
    /// Reads `/sys/kernel/security/lockdown`.
    pub fn read(path: &Path) -> Self {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(_) => Self::Unknown,
        }
    }

    fn parse(text: &str) -> Self {
        if text.contains("[none]") {
            Self::None
        } else if text.contains("[integrity]") {
            Self::Integrity
        } else if text.contains("[confidentiality]") {
            Self::Confidentiality
        } else {
            Self::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_stands_for_the_newer_capabilities() {
        let admin = Capabilities::from_mask(1 << CAP_SYS_ADMIN);
        assert!(admin.bpf && admin.perfmon && admin.missing().is_empty());
        assert_eq!(Capabilities::from_mask(1 << CAP_BPF).missing(), ["CAP_PERFMON"]);
        assert_eq!(Capabilities::from_mask(0).missing(), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(
            Lockdown::parse("[none] integrity confidentiality\n"),
            Lockdown::None
        );
        assert_eq!(
            Lockdown::parse("none [integrity] confidentiality\n"),
            Lockdown::Integrity
        );
        assert_eq!(
            Lockdown::parse("none integrity [confidentiality]\n"),
            Lockdown::Confidentiality
        );
        assert_eq!(Lockdown::parse(""), Lockdown::Unknown);
    }
}
