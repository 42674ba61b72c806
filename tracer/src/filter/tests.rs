use tracer_common::wire::{Event, Kind, Provenance, flag};

use super::{EventFacts, Field, Filter};

fn event() -> Event {
    let mut event = Event::synthetic(Kind::VmaWriteAcquire, 5_000_000);
    event.header.comm[..8].copy_from_slice(b"postgres");
    (event.header.pid, event.header.tid, event.header.cpu) = (100, 101, 3);
    event.header.flags = flag::MM | flag::VMA | flag::RANGE;
    event.body.mm = 0xffff_8881_0000_0000;
    event.body.vma = 0xffff_8881_2222_0000;
    event.body.vm_start = 0x7f00_0000_0000;
    event.body.vm_end = 0x7f00_0000_4000;
    event
}

fn fits(text: &str) -> bool {
    let event = event();
    let facts = EventFacts {
        event: &event,
        provenance: Provenance::Derived,
        hold_ns: None,
        wait_ns: Some(1_500_000),
        sites: &[],
    };
    text.parse::<Filter>().unwrap().fits(&facts)
}

fn refused(text: &str) -> String {
    text.parse::<Filter>().unwrap_err().to_string()
}

#[test]
fn fields_are_compared() {
    for yes in [
        "comm=postgres",
        "comm=post*",
        "comm=p?stg*s",
        "comm~GRES",
        "pid=100 && tid=101",
        "tid=0x65",
        "cpu<4 cpu>=3 cpu<=3 cpu>2 cpu in 2-3",
        "kind=vma_write_acquire",
        "kind=vma_*",
        "lock=vma_write",
        "wait>1ms",
        "wait>=1.5ms wait<=1500us",
        "vma=7f0000000000",
        "vma=0x7f0000003fff",
        "vma=ffff888122220000",
        "vma in 7f0000001000-7f0000002000",
        "vma in 0x7efffffff000..0x7f0000000001",
        "mm=ffff888100000000",
        "known=derived",
        "hold!=1ms",
        "postgres",
        "POSTG",
        "101",
        "100",
        "write_acq",
        "comm=x || (pid=100 and not cpu=1)",
        "!comm=x",
        "comm != x",
        "comm=\"postgres\"",
    ] {
        assert!(fits(yes), "{yes}");
    }
    for no in [
        "comm=post",
        "comm=Postgres",
        "wait>2ms",
        "wait<1.5ms",
        "hold>0",
        "hold=1ms",
        "vma=7f0000004000",
        "vma in 7f0000004000-7f0000005000",
        "10",
        "kind=mmap_*",
        "!comm=postgres",
        "comm!=postgres",
        "comm=x || pid=1",
        "addr=1",
    ] {
        assert!(!fits(no), "{no}");
    }
}

#[test]
fn and_binds_more_than_or() {
    assert!(fits("comm=postgres || comm=x && pid=1"));
    assert!(!fits("(comm=postgres || comm=x) && pid=1"));
    assert!(!fits("!pid=1 && pid=1"));
}

#[test]
fn an_inverse_lets_through_what_was_kept_back() {
    let event = event();
    let facts = EventFacts {
        event: &event,
        provenance: Provenance::Observed,
        hold_ns: None,
        wait_ns: None,
        sites: &[],
    };
    let filter: Filter = "pid=1 || wait>1ms".parse().unwrap();
    assert!(!filter.fits(&facts) && filter.inverse().fits(&facts));
    let again: Filter = filter.inverse().to_string().parse().unwrap();
    assert!(again.fits(&facts));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, place, words) in [
        ("", 1, "missing"),
        ("com=x", 1, "no field is called com"),
        ("comm=", 6, "value is missing"),
        ("comm=x &&", 10, "something is missing"),
        ("(comm=x", 1, "not closed"),
        ("comm=x)", 7, "nothing was opened"),
        ("wait>1", 6, "1ms"),
        ("wait>1parsec", 6, "1ms"),
        ("kind=mmap", 6, "mmap_start"),
        ("pid=x", 5, "no number"),
        ("vma>7f00", 5, "vma in LOW-HIGH"),
        ("vma in 7f00", 8, "LOW-HIGH"),
        ("vma in 2000-1000", 8, "empty"),
        ("mm=xyz", 4, "no hexadecimal"),
        ("comm<x", 6, "is a name"),
        ("comm=\"x", 6, "not closed"),
        ("a & b", 3, "&&"),
        ("=x", 1, "a field is missing"),
    ] {
        let error = refused(text);
        assert!(
            error.starts_with(&format!("character {place}:")),
            "{text}: {error}"
        );
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn no_text_can_hurt() {
    assert!(refused(&"(".repeat(4000)).contains("nested deeper"));
    assert!(refused(&"!".repeat(4000)).contains("nested deeper"));
    assert!(refused(&"x".repeat(5000)).contains("at most"));
    assert!("a ".repeat(1000).parse::<Filter>().is_ok());
}

#[test]
fn every_field_has_a_name_of_its_own_and_a_help() {
    for (at, field) in Field::ALL.iter().enumerate() {
        assert!(!field.help().is_empty());
        assert!(Field::ALL[..at].iter().all(|other| other.name() != field.name()));
    }
}
