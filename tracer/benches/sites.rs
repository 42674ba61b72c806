//! How long it takes to find all sites in a whole kernel, cold: by default in the running one (as root), or
//! `cargo bench -p tracer --bench sites -- --kernel-text VMLINUZ --kallsyms FILE --btf FILE`.

use std::time::Instant;

use clap::Parser;
use tracer::kernel::Btf;
use tracer::text::{Offsets, SitesArgs, Symbols, Text, find};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sites: SitesArgs,
    /// Handed over by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse().sites;
    let start = Instant::now();
    let symbols = match Symbols::read(&args.kallsyms) {
        Ok(symbols) => symbols,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let read_symbols = start.elapsed();
    let text = match &args.kernel_text {
        Some(path) => Text::from_file(path, &symbols),
        None => Text::from_kcore(&args.kcore, &symbols),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let read_text = start.elapsed() - read_symbols;
    let btf = Btf::parse(std::fs::read(&args.btf)?)?;
    let offsets = Offsets::from_btf(&btf)?;
    let read_types = start.elapsed() - read_symbols - read_text;
    let sites = find(&text, &symbols, &offsets, None)?;
    let whole = start.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!(
        "symbols {:.0} ms, text {:.0} ms, types {:.0} ms, search {:.0} ms, in all {:.0} ms (limit 1000 ms)",
        ms(read_symbols),
        ms(read_text),
        ms(read_types),
        ms(whole - read_symbols - read_text - read_types),
        ms(whole)
    );
    println!(
        "{} MB of text, {} functions with a lock, {} of them decoded, {} instructions, {} sites",
        sites.stats.text_bytes >> 20,
        sites.stats.functions_with_lock,
        sites.stats.functions_decoded,
        sites.stats.instructions,
        sites.sites.len()
    );
    Ok(())
}
