//! Words of scenario files: names, numbers, and the fields of events.

use tracer_common::wire::sched::out;
use tracer_common::wire::{Event, Kind, Reason, fault, flag};

use super::Result;

pub(super) fn set_field(event: &mut Event, field: &str) -> Result<()> {
    if is_name(field, 't') {
        let (tid, pid) = field[1..].split_once('/').unwrap_or((&field[1..], &field[1..]));
        event.header.tid = parse(tid)?;
        event.header.pid = parse(pid)?;
        return Ok(());
    }
    if is_name(field, 'm') {
        event.header.flags |= flag::MM;
        event.body.mm = address_of(field)?;
        return Ok(());
    }
    if is_name(field, 'v') {
        event.header.flags |= flag::VMA;
        event.body.vma = address_of(field)?;
        return Ok(());
    }
    match field.split_once('=').unwrap_or((field, "")) {
        ("write", "") => event.header.flags |= flag::WRITE,
        ("non_owner", "") => event.header.flags |= flag::NON_OWNER,
        ("cpu", value) => event.header.cpu = parse(value)?,
        ("site", value) => event.header.site = parse(value)?,
        ("missing" | "errno" | "was", value) => event.body.arg = parse(value)?,
        ("last", "") => event.body.arg = 1,
        ("child" | "woken", value) => {
            let (tid, pid) = value.split_once('/').unwrap_or((value, value));
            event.body.arg = parse(tid)?;
            event.body.vm_refcnt = parse(pid)?;
        }
        ("state", value) => event.body.arg |= parse::<u32>(value)?,
        ("iowait", "") => event.body.arg |= out::IOWAIT,
        ("reclaim", "") => event.body.arg |= out::RECLAIM,
        ("preempted", "") => event.body.arg |= out::PREEMPTED,
        ("stacks", value) => {
            let (kernel, user) = value.split_once(',').ok_or("stacks are KERNEL,USER")?;
            event.body.vma = parse(kernel)?;
            event.body.vm_start = parse(user)?;
        }
        ("of", value) => {
            event.body.arg = Kind::from_name(value).ok_or_else(|| format!("no kind {value}"))? as u32;
        }
        ("seq", value) => {
            event.header.flags |= flag::MM_SEQ;
            event.body.mm_lock_seq = parse(value)?;
        }
        ("range", value) => {
            let (start, end) = value.split_once('-').ok_or("a range is START-END")?;
            event.header.flags |= flag::RANGE;
            event.body.vm_start = hex(start)?;
            event.body.vm_end = hex(end)?;
        }
        // What lockdep calls `read`: 0 is a writer.
        ("read", value) => event.body.arg = parse(value)?,
        ("reason", value) => {
            let reason = Reason::ALL.iter().find(|reason| reason.name() == value);
            event.body.arg |= (*reason.ok_or_else(|| format!("no reason {value}"))? as u32) << 16;
        }
        ("refcnt", value) => {
            event.header.flags |= flag::REFCNT;
            event.body.vm_refcnt = u32::try_from(hex(value)?).map_err(|error| error.to_string())?;
        }
        ("flags", value) => {
            for name in value.split(',') {
                event.body.arg |= 1
                    << 16
                    << match name {
                        "vma" => fault::FLAG_VMA_LOCK.trailing_zeros(),
                        "user" => fault::FLAG_USER.trailing_zeros(),
                        "tried" => fault::FLAG_TRIED.trailing_zeros(),
                        "write" => fault::FLAG_WRITE.trailing_zeros(),
                        "remote" => fault::FLAG_REMOTE.trailing_zeros(),
                        _ => return Err(format!("no fault flag {name}")),
                    };
            }
        }
        ("result", value) => {
            event.body.arg |= u32::from(match value {
                "retry" => fault::RESULT_RETRY,
                "completed" => fault::RESULT_COMPLETED,
                "major" => fault::RESULT_MAJOR,
                "sigbus" => 2,
                _ => return Err(format!("no fault result {value}")),
            });
        }
        _ => return Err(format!("no field {field}")),
    }
    Ok(())
}

pub(super) fn is_name(word: &str, letter: char) -> bool {
    word.strip_prefix(letter)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// `m1`, `v1`: kernel addresses that can be told apart and led back.
pub(super) fn address_of(name: &str) -> Result<u64> {
    let number: u64 = parse(&name[1..])?;
    Ok(match name.as_bytes()[0] {
        b'm' => 0xffff_8880_0000_0000,
        _ => 0xffff_8881_0000_0000,
    } + (number << 8))
}

pub(super) fn name_of(address: u64) -> String {
    let letter = if address >> 32 == 0xffff_8880 { 'm' } else { 'v' };
    format!("{letter}{}", (address & 0xffff_ffff) >> 8)
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| format!("'{text}': {error}"))
}

pub(super) fn hex(text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16).map_err(|error| format!("'{text}': {error}"))
}
