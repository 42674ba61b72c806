//! Discovery with all its effects, and the command `tracer sites`.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::sites::{Confidence, FoundSite, Kprobe, Place, Sites};
use super::source::build_id;
use super::{Blacklist, Cache, Capture, Offsets, Symbols, Text, TextError};
use crate::disk::Draft;
use crate::kernel::Btf;
use crate::outside;
use crate::say::say;

/// How much text a capture holds, about.
const CAPTURE_BYTES: usize = 20 << 10;

/// Options of `sites`.
#[derive(Args, Clone, Debug)]
pub struct SitesArgs {
    /// A vmlinux or boot image to look at, instead of the running kernel's memory.
    #[arg(long, value_name = "FILE")]
    pub kernel_text: Option<PathBuf>,
    /// Symbols, as in /proc/kallsyms or a System.map.
    #[arg(long, value_name = "FILE", default_value = "/proc/kallsyms")]
    pub kallsyms: PathBuf,
    /// Type information.
    #[arg(long, value_name = "FILE", default_value = "/sys/kernel/btf/vmlinux")]
    pub btf: PathBuf,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Neither use what was found before, nor store it.
    #[arg(long)]
    pub no_cache: bool,
    /// Also write the functions with sites to a file, to report a pattern that is not recognised.
    #[arg(long, value_name = "FILE", hide = true)]
    pub capture: Option<PathBuf>,
    /// The running kernel's memory.
    #[arg(long, value_name = "FILE", default_value = "/proc/kcore", hide = true)]
    pub kcore: PathBuf,
    /// Where the kernel takes no kprobes.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/sys/kernel/debug/kprobes/blacklist",
        hide = true
    )]
    pub blacklist: PathBuf,
    /// The running kernel's build id.
    #[arg(long, value_name = "FILE", default_value = "/sys/kernel/notes", hide = true)]
    pub notes: PathBuf,
}

impl Default for SitesArgs {
    /// The running kernel.
    fn default() -> Self {
        Self {
            kernel_text: None,
            kallsyms: "/proc/kallsyms".into(),
            btf: "/sys/kernel/btf/vmlinux".into(),
            json: false,
            no_cache: false,
            capture: None,
            kcore: "/proc/kcore".into(),
            blacklist: "/sys/kernel/debug/kprobes/blacklist".into(),
            notes: "/sys/kernel/notes".into(),
        }
    }
}

/// Finds the sites of a kernel; of the running one with the help of the cache.
///
/// # Errors
/// When the kernel does not let us, or when what it is told to look at does not belong together.
pub fn discover(args: &SitesArgs) -> Result<Sites, TextError> {
    if let Some(sites) = remembered(args) {
        return Ok(sites);
    }
    let symbols = Symbols::read(&args.kallsyms)?;
    let running_symbols = args.kallsyms == SitesArgs::default().kallsyms;
    let running = fs::read(&args.notes)
        .ok()
        .and_then(|notes| build_id(&notes))
        .filter(|_| running_symbols);
    let text_base = symbols.text().ok_or(TextError::NoSymbol { name: "_text" })?;
    let mut notes = Vec::new();

    let plain = !args.no_cache && args.kernel_text.is_none() && args.capture.is_none();
    let cache = Cache::of_user().filter(|_| plain);
    let cache = cache.zip(running.clone());
    let mut known = None;
    if let Some((cache, key)) = &cache {
        match cache.load(key) {
            // What belongs to the kernel lies where it lies in this boot; modules are looked at anew.
            Ok(found) => known = found.and_then(|found| found.moved_to(text_base, &symbols)),
            Err(note) => notes.push(note),
        }
    }
    let bytes = fs::read(&args.btf).map_err(|error| TextError::unreadable(&args.btf, &error))?;
    let offsets = Btf::parse(bytes)
        .map_err(|_| TextError::Broken {
            what: "no type information in that file",
        })
        .and_then(|btf| Offsets::from_btf(&btf))?;
    let blacklist = fs::read_to_string(&args.blacklist)
        .ok()
        .and_then(|text| Blacklist::parse(&text));

    let mut sites = if let Some(mut known) = known {
        match Text::modules_from_kcore(&args.kcore, &symbols) {
            Ok(text) if !text.is_empty() => {
                match super::find_in_part(&text, &symbols, &offsets, blacklist.as_ref()) {
                    Ok(found) => known.extend(found),
                    Err(error) => notes.push(format!("modules: {error}")),
                }
            }
            Ok(_) => {}
            Err(error) => notes.push(format!("modules: {error}")),
        }
        known
    } else {
        let text = match &args.kernel_text {
            Some(path) => Text::from_file(path, &symbols)?,
            None => Text::from_kcore(&args.kcore, &symbols)?,
        };
        if let (Some(text), Some(running)) = (&text.build_id, &running)
            && text != running
        {
            return Err(TextError::BuildId {
                text: text.clone(),
                running: running.clone(),
            });
        }
        let mut found = super::find(&text, &symbols, &offsets, blacklist.as_ref())?;
        found.build_id = found.build_id.or(running);
        if let Some(path) = &args.capture {
            let list = blacklist
                .clone()
                .unwrap_or_else(|| Blacklist::from_symbols(&symbols));
            let kernel = found.build_id.clone().unwrap_or_default();
            let capture = Capture::new(kernel, &text, &symbols, &offsets, &list, &found, CAPTURE_BYTES);
            let written = Draft::beside(path).and_then(|mut file| {
                capture.write(&mut file)?;
                file.place()
            });
            written.map_err(|error| TextError::unreadable(path, &error))?;
        }
        // Text that somebody's probes have patched would be remembered with holes.
        if let (Some((cache, key)), true) = (&cache, found.notes.is_empty())
            && let Err(note) = cache.store(key, &found.without_modules())
        {
            notes.push(note);
        }
        found
    };
    sites.notes.splice(0..0, notes);
    Ok(sites)
}

/// What was found before in this very kernel, by its build id, if it has no modules that would have to be looked at.
/// Saves the reading of all symbols and types, which is most of the time where a cache helps at all. Whatever is in
/// the way leads to the long way round, which says what is wrong.
fn remembered(args: &SitesArgs) -> Option<Sites> {
    let running = SitesArgs::default();
    let plain = !args.no_cache && args.kernel_text.is_none() && args.capture.is_none();
    if !plain || args.kallsyms != running.kallsyms || args.notes != running.notes {
        return None;
    }
    if !fs::read("/proc/modules").ok()?.is_empty() {
        return None;
    }
    let key = build_id(&fs::read(&args.notes).ok()?)?;
    let known = Cache::of_user()?.load(&key).ok()??;
    let by = Symbols::text_only(&args.kallsyms)?.wrapping_sub(known.text_base);
    Some(known.moved_by(by))
}

/// `tracer sites`: prints what was found.
///
/// # Errors
/// As [`discover`].
pub fn main_sites(args: &SitesArgs) -> anyhow::Result<()> {
    let sites = discover(args)?;
    if args.json {
        say!("{}", outside::formats::json_pretty(&sites)?);
    } else {
        crate::say::text(format_args!("{}", table(&sites)));
    }
    Ok(())
}

/// Where the VMA is, for people.
fn place(place: Option<Place>) -> String {
    match place {
        None => "-".to_owned(),
        Some(Place::Register {
            register,
            displacement,
        }) => plus(register.name(), displacement),
        Some(Place::Memory {
            register,
            offset,
            displacement,
        }) => plus(&format!("[{}]", plus(register.name(), offset)), displacement),
    }
}

fn plus(text: &str, number: i64) -> String {
    match number {
        0 => text.to_owned(),
        1.. => format!("{text}+{number:#x}"),
        _ => format!("{text}-{:#x}", number.unsigned_abs()),
    }
}

fn row(site: &FoundSite) -> String {
    let kprobe = match site.spot.kprobe {
        Kprobe::Yes => "kprobe",
        Kprobe::Notrace => "notrace",
        Kprobe::Blacklisted => "blacklisted",
    };
    let mut about = Vec::new();
    if let Some(callee) = &site.callee {
        about.push(callee.clone());
    }
    if site.only_undoes {
        about.push(format!("takes back: {}", names(&site.undoes)));
    } else if !site.undoes.is_empty() {
        about.push(format!("also takes back: {}", names(&site.undoes)));
    }
    if site.confidence == Confidence::Likely {
        about.push("likely".to_owned());
    }
    format!(
        "{:<12} {:<44} {:<22} {:<11} {} {}",
        site.operation.name(),
        format!("{}+{:#x}", site.spot.symbol, site.spot.offset),
        place(site.spot.vma),
        kprobe,
        site.instruction,
        about.join("; ")
    )
    .trim_end()
    .to_owned()
}

fn names<T: serde::Serialize>(all: &[T]) -> String {
    let names: Vec<String> = all
        .iter()
        .filter_map(|one| Some(serde_json::to_value(one).ok()?.as_str()?.to_owned()))
        .collect();
    names.join(", ")
}

/// What was found, as a table.
pub fn table(sites: &Sites) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "{:<12} {:<44} {:<22} {:<11} INSTRUCTION\n",
        "OPERATION", "PLACE", "VMA", "PROBE"
    );
    for site in &sites.sites {
        let _ = writeln!(out, "{}", row(site));
        let spot = |what: &str, spot: &super::Spot, about: String| {
            let shared = if spot.shared { " (shared)" } else { "" };
            let at = format!("{}+{:#x}", spot.symbol, spot.offset);
            format!("  {what:<10} {at:<44} {:<22} {about}{shared}", place(spot.vma))
                .trim_end()
                .to_owned()
        };
        if site.failures.is_empty() && site.confirmed.is_none() {
            continue;
        }
        for (what, at) in [
            ("candidate", &site.candidate),
            ("success", &site.after),
            ("confirmed", &site.confirmed),
        ] {
            if let Some(at) = at {
                let _ = writeln!(out, "{}", spot(what, at, String::new()));
            }
        }
        for failure in &site.failures {
            let temporary = if failure.temporary { " temporary" } else { "" };
            let _ = writeln!(
                out,
                "{}",
                spot("fails", &failure.spot, names(&failure.reasons) + temporary)
            );
        }
    }
    for odd in &sites.unrecognised {
        let _ = writeln!(
            out,
            "unrecognised {}+{:#x}: {}: {}",
            odd.function, odd.offset, odd.instruction, odd.why
        );
    }
    for note in &sites.notes {
        let _ = writeln!(out, "note: {note}");
    }
    let counts: Vec<String> = sites
        .stats
        .by_operation
        .iter()
        .map(|(operation, count)| format!("{count} {operation}"))
        .collect();
    let _ = writeln!(
        out,
        "{} sites: {}; {} unrecognised",
        sites.sites.len(),
        counts.join(", "),
        sites.unrecognised.len()
    );
    out
}
