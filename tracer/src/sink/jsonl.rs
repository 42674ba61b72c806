//! `tracer export -f jsonl`: one JSON object a line, one line an event.
//!
//! `docs/schema/jsonl.md` documents the fields and `docs/schema/event.schema.json` is their JSON Schema.
//! Lines are put together by hand in one buffer that is used again: a general serialiser takes
//! several times as long.

use std::io::{self, Write};

use tracer_common::wire::{Event, Kind, Provenance, sched};

use super::address::Addresses;
use crate::export::{Ending, Exporter, Output};
use crate::info::SourceInfo;
use crate::outside::formats;
use crate::stacks::{Frame, Stacks};
use crate::state::Meta;

/// Lines go out when so many bytes have come together.
const BUFFER: usize = 64 << 10;

/// Writes events as lines.
pub struct JsonlWriter<W: Write> {
    out: W,
    line: Vec<u8>,
    addresses: Addresses,
    /// Names of the functions of all sites, as JSON strings.
    sites: Vec<Vec<u8>>,
    /// All stacks, as JSON lists of strings.
    stacks: Vec<Vec<u8>>,
    lines: u64,
}

impl<W: Write> JsonlWriter<W> {
    /// Starts to write events of the stream that `info` tells about.
    pub fn new(out: W, info: &SourceInfo, addresses: Addresses) -> Self {
        let sites = info.sites.iter().map(|site| {
            let mut name = Vec::new();
            string(&mut name, site.function.as_bytes());
            name
        });
        Self {
            out,
            line: Vec::with_capacity(BUFFER + 1024),
            addresses,
            sites: sites.collect(),
            stacks: Vec::new(),
            lines: 0,
        }
    }

    /// Takes in the stacks that are new since the last call, before the events that have their numbers.
    pub fn stacks(&mut self, stacks: &Stacks) {
        for stack in stacks.since(self.stacks.len()) {
            let mut list = vec![b'['];
            for frame in &stack.frames {
                if list.len() > 1 {
                    list.push(b',');
                }
                string(&mut list, self.frame(frame, stack.pid == 0).as_bytes());
            }
            list.push(b']');
            self.stacks.push(list);
        }
    }

    /// One frame for people: the name, else the address if it may be shown.
    fn frame(&self, frame: &Frame, of_kernel: bool) -> String {
        let Frame {
            address,
            name,
            module,
        } = frame;
        let hidden = of_kernel && !self.addresses.are_raw();
        match (name.as_str(), module.as_str()) {
            ("", "") if hidden => "?".to_owned(),
            ("", module) if hidden => format!("? [{module}]"),
            ("", "") => format!("{address:#x}"),
            ("", module) => format!("{address:#x} [{module}]"),
            (name, "") => name.to_owned(),
            (name, module) => format!("{name} [{module}]"),
        }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the output; a broken pipe is one of them.
    #[inline]
    pub fn write(&mut self, event: &Event, meta: &Meta) -> io::Result<()> {
        self.append(event, meta);
        self.lines += 1;
        if self.line.len() >= BUFFER {
            self.flush_lines()?;
        }
        Ok(())
    }

    /// Writes what is left; gives the output back.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_lines()?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Lines written so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    fn flush_lines(&mut self) -> io::Result<()> {
        let result = self.out.write_all(&self.line);
        self.line.clear();
        result
    }

    fn append(&mut self, event: &Event, meta: &Meta) {
        let header = &event.header;
        let line = &mut self.line;
        line.extend_from_slice(b"{\"ts_ns\":");
        number(line, header.ts_ns);
        field(line, b",\"cpu\":", u64::from(header.cpu));
        field(line, b",\"seq\":", u64::from(header.seq));
        field(line, b",\"pid\":", u64::from(header.pid));
        field(line, b",\"tid\":", u64::from(header.tid));
        line.extend_from_slice(b",\"comm\":");
        string(line, event.comm());
        line.extend_from_slice(b",\"kind\":\"");
        line.extend_from_slice(event.kind.name().as_bytes());
        line.push(b'"');
        address(line, b",\"mm\":", event.mm(), &self.addresses);
        address(line, b",\"vma\":", event.vma(), &self.addresses);
        let range = event.range();
        optional(line, b",\"vm_start\":", range.map(|(start, _)| start));
        optional(line, b",\"vm_end\":", range.map(|(_, end)| end));
        optional(line, b",\"address\":", event.address());
        optional(line, b",\"vm_refcnt\":", event.vm_refcnt().map(u64::from));
        optional(line, b",\"vm_lock_seq\":", event.vm_lock_seq().map(u64::from));
        optional(line, b",\"mm_lock_seq\":", event.mm_lock_seq().map(u64::from));
        line.extend_from_slice(b",\"provenance\":\"");
        line.extend_from_slice(meta.provenance.name().as_bytes());
        line.push(b'"');
        optional(line, b",\"bound_ns\":", meta.bound_ns);
        flag(line, b",\"derived\":", meta.derived);
        let known = meta.hold.filter(|start| start.provenance != Provenance::Unknown);
        optional(line, b",\"held_since_ns\":", known.map(|start| start.since_ns));
        line.extend_from_slice(b",\"held_since_provenance\":");
        match meta.hold {
            Some(start) => string(line, start.provenance.name().as_bytes()),
            None => line.extend_from_slice(b"null"),
        }
        let bound_ns = known.and_then(|start| start.bound_ns);
        optional(line, b",\"held_since_bound_ns\":", bound_ns);
        self.append_by_kind(event);
    }

    /// The fields that mean something for some kinds only; `null` for the others.
    fn append_by_kind(&mut self, event: &Event) {
        let line = &mut self.line;
        maybe(line, b",\"write\":", event.writes());
        optional(line, b",\"fault_flags\":", event.flags_of_fault().map(u64::from));
        optional(line, b",\"result\":", event.result_of_fault().map(u64::from));
        let has_errno = matches!(
            event.kind,
            Kind::VmaReadFail | Kind::VmaWriteFail | Kind::VmaReadRefused
        );
        let arg = u64::from(event.body.arg);
        let errno = u64::from(event.errno());
        optional(line, b",\"errno\":", has_errno.then_some(errno));
        line.extend_from_slice(b",\"reason\":");
        match event.kind {
            Kind::VmaReadFail | Kind::VmaReadRefused | Kind::VmaReadTemporary => {
                string(line, event.reason().name().as_bytes());
            }
            _ => line.extend_from_slice(b"null"),
        }
        let is_gap = event.kind == Kind::Gap;
        optional(line, b",\"missing\":", is_gap.then_some(arg));
        optional(line, b",\"gap_from_ns\":", is_gap.then_some(event.body.vm_start));
        let end = (is_gap && event.body.vm_end != 0).then_some(event.body.vm_end);
        optional(line, b",\"gap_to_ns\":", end);
        self.append_tasks(event);
        let line = &mut self.line;
        line.extend_from_slice(b",\"site\":");
        match self.sites.get(event.header.site as usize) {
            Some(name) if !is_gap => line.extend_from_slice(name),
            _ => line.extend_from_slice(b"null"),
        }
        line.extend_from_slice(b"}\n");
    }

    /// What tasks do beside their locks, and stacks.
    fn append_tasks(&mut self, event: &Event) {
        let line = &mut self.line;
        if !event.is_about_tasks() && event.kind != Kind::Hold {
            // Most events: all at once.
            line.extend_from_slice(
                b",\"other_pid\":null,\"other_tid\":null,\"last\":null,\"state\":null,\"iowait\":null,\"reclaim\":null,\
                  \"preempted\":null,\"of\":null,\"length_ns\":null,\"waited_ns\":null,\"stack\":null,\"user_stack\":null",
            );
            return;
        }
        let arg = u64::from(event.body.arg);
        let other = event.other_task();
        optional(line, b",\"other_pid\":", other.map(|(pid, _)| u64::from(pid)));
        let before = (event.kind == Kind::TaskExec).then_some(arg);
        let other_tid = other.map(|(_, tid)| u64::from(tid)).or(before);
        optional(line, b",\"other_tid\":", other_tid);
        maybe(
            line,
            b",\"last\":",
            (event.kind == Kind::TaskExit).then_some(arg == 1),
        );
        let is_out = event.kind == Kind::SchedOut;
        optional(
            line,
            b",\"state\":",
            is_out.then_some(u64::from(event.sched_state())),
        );
        for (name, bit) in [
            (&b",\"iowait\":"[..], sched::out::IOWAIT),
            (b",\"reclaim\":", sched::out::RECLAIM),
            (b",\"preempted\":", sched::out::PREEMPTED),
        ] {
            maybe(line, name, is_out.then_some(event.sched_out_is(bit)));
        }
        line.extend_from_slice(b",\"of\":");
        match event.stack_of() {
            Some(kind) => string(line, kind.name().as_bytes()),
            None => line.extend_from_slice(b"null"),
        }
        optional(line, b",\"length_ns\":", event.length_ns());
        optional(line, b",\"waited_ns\":", event.waited_ns());
        let (kernel, user) = event.stacks();
        for (name, number) in [(&b",\"stack\":"[..], kernel), (b",\"user_stack\":", user)] {
            line.extend_from_slice(name);
            let list = (number as usize)
                .checked_sub(1)
                .and_then(|index| self.stacks.get(index));
            line.extend_from_slice(list.map_or(b"null", Vec::as_slice));
        }
    }
}

impl Exporter for JsonlWriter<Output> {
    fn event(&mut self, event: &Event, meta: &Meta, stacks: &Stacks) -> anyhow::Result<()> {
        self.stacks(stacks);
        Ok(self.write(event, meta)?)
    }

    fn finish(self: Box<Self>, _end: &Ending<'_>) -> anyhow::Result<()> {
        JsonlWriter::finish(*self)?.finish()
    }
}

fn field(line: &mut Vec<u8>, name: &[u8], value: u64) {
    line.extend_from_slice(name);
    number(line, value);
}

fn optional(line: &mut Vec<u8>, name: &[u8], value: Option<u64>) {
    line.extend_from_slice(name);
    match value {
        Some(value) => number(line, value),
        None => line.extend_from_slice(b"null"),
    }
}

fn maybe(line: &mut Vec<u8>, name: &[u8], value: Option<bool>) {
    match value {
        Some(value) => flag(line, name, value),
        None => {
            line.extend_from_slice(name);
            line.extend_from_slice(b"null");
        }
    }
}

fn flag(line: &mut Vec<u8>, name: &[u8], value: bool) {
    line.extend_from_slice(name);
    line.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Sixteen hexadecimal digits in quotes: many consumers keep numbers as doubles, which cannot tell
/// two addresses of the kernel apart.
fn address(line: &mut Vec<u8>, name: &[u8], value: Option<u64>, addresses: &Addresses) {
    line.extend_from_slice(name);
    let Some(value) = value else {
        line.extend_from_slice(b"null");
        return;
    };
    let mut text = [b'"'; 18];
    let mut rest = addresses.show(value);
    for place in text[1..17].iter_mut().rev() {
        *place = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    line.extend_from_slice(&text);
}

fn number(line: &mut Vec<u8>, mut value: u64) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&text[at..]);
}

/// A JSON string: what is harmful is escaped without loss, invalid UTF-8 replaced.
fn string(line: &mut Vec<u8>, raw: &[u8]) {
    // Nearly all are of this kind, and there are millions of them.
    let is_plain = |&byte: &u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if raw.iter().all(is_plain) {
        line.push(b'"');
        line.extend_from_slice(raw);
        line.push(b'"');
    } else {
        formats::json_string(line, &String::from_utf8_lossy(raw));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::SiteInfo;
    use crate::state::Start;
    use serde_json::{Value, json};
    use tracer_common::wire::{Reason, flag};

    const OBSERVED: Meta = Meta {
        provenance: Provenance::Observed,
        bound_ns: None,
        derived: false,
        hold: None,
    };

    fn lines(events: &[(Event, Meta)], addresses: Addresses) -> Vec<Value> {
        let info = SourceInfo {
            sites: vec![SiteInfo {
                function: "handle_mm_fault".into(),
                ..SiteInfo::default()
            }],
            ..SourceInfo::default()
        };
        let mut writer = JsonlWriter::new(Vec::new(), &info, addresses);
        for (event, meta) in events {
            writer.write(event, meta).unwrap();
        }
        let text = String::from_utf8(writer.finish().unwrap()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn fault_end() -> Event {
        let mut event = Event::synthetic(Kind::FaultEnd, u64::MAX);
        event.header.flags = flag::MM | flag::VMA | flag::RANGE | flag::REFCNT;
        event.header.comm[..8].copy_from_slice(b"a\"\\\n\x1b\xffbc");
        event.body.mm = 0xffff_8881_0000_0000;
        event.body.vma = 0xffff_8881_0000_1000;
        event.body.vm_start = 0x1000;
        event.body.vm_end = 0x2000;
        event.body.vm_refcnt = 2;
        event.body.arg = 0x1055_0400;
        event
    }

    #[test]
    fn every_field_is_there_and_what_is_missing_is_null() {
        let found = lines(&[(fault_end(), OBSERVED)], Addresses::raw());
        let expected = json!({
            "ts_ns": u64::MAX, "cpu": 0, "seq": 0, "pid": 0, "tid": 0, "comm": "a\"\\\n\u{1b}\u{fffd}bc",
            "kind": "fault_end", "mm": "ffff888100000000", "vma": "ffff888100001000",
            "vm_start": 4096, "vm_end": 8192, "address": null, "vm_refcnt": 2, "vm_lock_seq": null,
            "mm_lock_seq": null, "provenance": "observed", "bound_ns": null, "derived": false,
            "held_since_ns": null, "held_since_provenance": null, "held_since_bound_ns": null,
            "write": null, "fault_flags": 0x1055, "result": 0x0400, "errno": null, "reason": null,
            "missing": null,
            "gap_from_ns": null, "gap_to_ns": null, "other_pid": null, "other_tid": null, "last": null,
            "state": null, "iowait": null, "reclaim": null, "preempted": null, "of": null,
            "length_ns": null, "stack": null, "user_stack": null, "site": "handle_mm_fault",
        });
        let mut expected = expected;
        // One field more than the macro takes.
        expected["waited_ns"] = serde_json::Value::Null;
        assert_eq!(found, [expected]);
    }

    #[test]
    fn no_control_byte_reaches_the_output() {
        let mut writer = JsonlWriter::new(Vec::new(), &SourceInfo::default(), Addresses::raw());
        let mut event = fault_end();
        for byte in 1..=255u8 {
            event.header.comm[0] = byte;
            writer.write(&event, &OBSERVED).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.chars().all(|char| char == '\n' || !char.is_control()));
        assert_eq!(text.lines().count(), 255);
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap();
        }
    }

    #[test]
    fn kernel_addresses_are_hidden_but_told_apart() {
        let mut other = fault_end();
        other.body.vma += 0x100;
        let meta = Meta {
            provenance: Provenance::Bounded,
            bound_ns: Some(17),
            derived: true,
            hold: Some(Start {
                since_ns: 5,
                provenance: Provenance::Derived,
                bound_ns: Some(3),
            }),
        };
        let found = lines(
            &[(fault_end(), OBSERVED), (fault_end(), meta), (other, OBSERVED)],
            Addresses::hashed(),
        );
        assert_ne!(found[0]["vma"], json!("ffff888100001000"));
        assert_eq!(found[0]["vma"], found[1]["vma"]);
        assert_ne!(found[0]["vma"], found[2]["vma"]);
        assert_eq!(found[1]["bound_ns"], json!(17));
        assert_eq!(found[1]["provenance"], json!("bounded"));
        assert_eq!(found[1]["derived"], json!(true));
        assert_eq!(found[1]["held_since_ns"], json!(5));
        assert_eq!(found[1]["held_since_provenance"], json!("derived"));
        assert_eq!(found[1]["held_since_bound_ns"], json!(3));
    }

    #[test]
    fn a_gap_says_where_and_how_many() {
        let mut gap = Event::synthetic(Kind::Gap, 5);
        gap.body.arg = 3;
        gap.body.vm_start = 4;
        let found = lines(&[(gap, OBSERVED)], Addresses::raw());
        assert_eq!(found[0]["missing"], json!(3));
        assert_eq!(found[0]["gap_from_ns"], json!(4));
        assert_eq!(found[0]["gap_to_ns"], Value::Null);
        assert_eq!(found[0]["vm_start"], Value::Null);
        assert_eq!(found[0]["site"], Value::Null);
    }

    #[test]
    fn a_failure_says_why_beside_its_errno() {
        let mut fail = Event::synthetic(Kind::VmaReadFail, 5);
        fail.body.arg = (Reason::Detached as u32) << 16 | 11;
        let found = lines(&[(fail, OBSERVED)], Addresses::raw());
        assert_eq!(
            (&found[0]["reason"], &found[0]["errno"]),
            (&json!("detached"), &json!(11))
        );
    }

    #[test]
    fn a_task_that_goes_to_sleep_says_how_and_where() {
        let mut stacks = Stacks::default();
        let frames = |names: &[&str]| {
            let frame = |name: &&str| Frame {
                address: 0xabc,
                name: (*name).to_owned(),
                module: if name.is_empty() { "" } else { "xfs" }.to_owned(),
            };
            names.iter().map(frame).collect()
        };
        stacks.number(0, &[1], |_| frames(&["down_read+0x1c", ""]));
        stacks.number(7, &[1], |_| frames(&[""]));
        let mut out = Event::synthetic(Kind::SchedOut, 5);
        out.body.arg = 2 | sched::out::IOWAIT;
        (out.body.vma, out.body.vm_start) = (1, 2);
        for (addresses, unnamed) in [(Addresses::hashed(), "?"), (Addresses::raw(), "0xabc")] {
            let mut writer = JsonlWriter::new(Vec::new(), &SourceInfo::default(), addresses);
            writer.stacks(&stacks);
            writer.write(&out, &OBSERVED).unwrap();
            let line: Value = serde_json::from_slice(&writer.finish().unwrap()).unwrap();
            assert_eq!(line["stack"], json!(["down_read+0x1c [xfs]", unnamed]));
            assert_eq!(line["user_stack"], json!(["0xabc"]));
            assert_eq!((&line["state"], &line["iowait"]), (&json!(2), &json!(true)));
            assert_eq!(line["preempted"], json!(false));
        }
    }

    #[test]
    fn every_kind_makes_a_whole_line() {
        let events: Vec<_> = Kind::ALL
            .iter()
            .map(|&kind| (Event::synthetic(kind, 1), OBSERVED))
            .collect();
        let found = lines(&events, Addresses::hashed());
        for (line, kind) in found.iter().zip(Kind::ALL) {
            assert_eq!(line["kind"], json!(kind.name()));
            assert_eq!(line.as_object().unwrap().len(), 42);
        }
    }
}
