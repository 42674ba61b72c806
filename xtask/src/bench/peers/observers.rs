//! Who looks at the operations, each as its manual has it for the whole system. A new one needs a line here and nothing
//! else.

use super::super::fault_cost::tracer as ours;
use super::super::turns::Observer;
use super::said;

/// To whom an observer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// This program.
    Ours,
    /// Somebody else's.
    Peer,
    /// Programs that do next to nothing, where ours has its probes.
    Limit,
}

impl Side {
    /// As JSON has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
            Self::Limit => "limit",
        }
    }

    pub(super) fn of(observer: &Observer) -> Self {
        match observer.command.split(' ').next() {
            Some("tracer") => Self::Ours,
            Some("limit") => Self::Limit,
            _ => Self::Peer,
        }
    }
}

/// Programs at the hooks of tracer that do next to nothing. Who counts nothing is proved to run by one more storm, in which
/// the kernel counts: that costs time, and comes after what was measured.
macro_rules! limit {
    ($name:literal, $label:literal, $program:literal) => {
        Observer {
            name: $name,
            label: $label,
            command: concat!("limit --hooks /tmp/plan.json --program ", $program),
            ready: "grep -q attached /tmp/said",
            tell: concat!(
                "limit --hooks /tmp/plan.json --runs --program ",
                $program,
                " > /tmp/proof & l=$!
  until grep -q attached /tmp/proof; do kill -0 $l || return 1; sleep 0.2; done 2> /dev/null
  opstorm --times TIMES --rounds STORMS OPERATIONS > /dev/null
  kill -INT $l; wait $l; cat /tmp/proof"
            ),
            without: None,
            read: said::limit,
        }
    };
}

/// bpftrace pairing both locks in the kernel: how long each was held, in a histogram. Raw tracepoints cost it less than
/// `tracepoint:` does.
const HISTOGRAM: &str = "bpftrace -f json -e '
  fexit:vmlinux:lock_vma_under_rcu /retval/ { @at[tid] = nsecs; }
  fexit:vmlinux:handle_mm_fault /@at[tid]/ { @vma = hist(nsecs - @at[tid]); delete(@at[tid]); }
  rawtracepoint:mmap_lock_acquire_returned /arg2/ { @since[tid, arg0] = nsecs; }
  rawtracepoint:mmap_lock_released /@since[tid, arg0]/ {
    @mmap = hist(nsecs - @since[tid, arg0]); delete(@since[tid, arg0]);
  }'";

/// bpftrace printing acquire and release of both locks.
const PRINT: &str = "bpftrace -e '
  fexit:vmlinux:lock_vma_under_rcu /retval/ { printf(\"%lu %d %s vma+ %lx\\n\", nsecs, tid, comm, retval); }
  fexit:vmlinux:handle_mm_fault { printf(\"%lu %d %s vma-\\n\", nsecs, tid, comm); }
  rawtracepoint:mmap_lock_start_locking { printf(\"%lu %d %s mmap? %lx\\n\", nsecs, tid, comm, arg0); }
  rawtracepoint:mmap_lock_acquire_returned { printf(\"%lu %d %s mmap+ %lx\\n\", nsecs, tid, comm, arg0); }
  rawtracepoint:mmap_lock_released { printf(\"%lu %d %s mmap- %lx\\n\", nsecs, tid, comm, arg0); }'";

/// Those that are the limit stand last.
pub(super) const LIMITS: usize = 5;

pub(super) static ALL: [Observer; 17] = [
    ours("tracer", "tracer record", "tracer record -o /tmp/f"),
    Observer {
        read: said::tracer_without_faults,
        ..ours(
            "tracer-mmap",
            "tracer record, mmap_lock only",
            "tracer record -o /tmp/f --only mmap_start,mmap_acquire,mmap_fail,mmap_release,mmap_downgrade",
        )
    },
    Observer {
        read: said::tracer_holds,
        ..ours(
            "tracer-holds",
            "tracer record, mode holds",
            "tracer record -o /tmp/f --mode holds",
        )
    },
    Observer {
        // It says nothing before its end.
        ready: "sleep 20",
        tell: "cat /tmp/said",
        read: said::tracer_sums,
        ..ours(
            "tracer-summary",
            "tracer stats, mode summary",
            "tracer stats --mode summary --json",
        )
    },
    Observer {
        name: "bpftrace-histogram",
        label: "bpftrace, histogram of holds",
        command: HISTOGRAM,
        ready: "grep -q attached_probes /tmp/said",
        tell: "cat /tmp/said",
        without: None,
        read: said::bpftrace_histogram,
    },
    Observer {
        name: "bpftrace-print",
        label: "bpftrace, a line an event",
        command: PRINT,
        ready: "grep -q Attaching /tmp/said",
        tell: "for what in vma- 'mmap[?+-]' mmap-; do grep -c \" opstorm $what\" /tmp/said; done; grep Lost /tmp/said /tmp/err",
        without: None,
        read: said::bpftrace_print,
    },
    Observer {
        name: "perf-record",
        label: "perf record, mmap_lock",
        command: "perf record -a -o /tmp/f -e 'mmap_lock:*'",
        // It says nothing; it was seen to take two seconds.
        ready: "sleep 5",
        tell: "perf script -i /tmp/f --comm opstorm | grep -c mmap_lock:mmap_lock_; perf report --stats -i /tmp/f",
        without: None,
        read: said::perf_record,
    },
    Observer {
        name: "perf-trace",
        label: "perf trace, mmap_lock",
        command: "perf trace -a -o /tmp/f -e 'mmap_lock:*'",
        ready: "sleep 5",
        tell: "grep -c 'opstorm/.*mmap_lock:mmap_lock_' /tmp/f; grep LOST /tmp/f /tmp/err",
        without: None,
        read: said::perf_trace,
    },
    Observer {
        name: "trace-cmd",
        label: "trace-cmd record, mmap_lock",
        command: "trace-cmd record -o /tmp/f -e mmap_lock",
        ready: "grep -q 1 /sys/kernel/tracing/events/mmap_lock/enable",
        tell: "trace-cmd report -i /tmp/f | grep -c 'opstorm.* mmap_lock_'; trace-cmd report -i /tmp/f --stat",
        without: None,
        read: said::trace_cmd,
    },
    Observer {
        name: "trace-cmd-functions",
        label: "trace-cmd record, two functions",
        command: "trace-cmd record -o /tmp/f -p function -l lock_vma_under_rcu -l handle_mm_fault",
        ready: "grep -q function /sys/kernel/tracing/current_tracer",
        tell: "trace-cmd report -i /tmp/f | grep -c 'opstorm.* handle_mm_fault'; trace-cmd report -i /tmp/f --stat",
        without: None,
        read: said::trace_cmd_functions,
    },
    Observer {
        name: "klockstat",
        label: "klockstat of libbpf-tools",
        command: "klockstat-libbpf -n 1000000",
        ready: "sleep 5",
        tell: "cat /tmp/said",
        without: None,
        read: said::klockstat,
    },
    Observer {
        name: "klockstat-bcc",
        label: "klockstat of bcc",
        command: "klockstat-bpfcc",
        ready: "grep -q Tracing /tmp/said",
        tell: "cat /tmp/said",
        without: None,
        read: said::klockstat,
    },
    limit!("limit-empty", "an empty program", "empty"),
    limit!("limit-submit64", "reserve and submit, 64 bytes", "submit64"),
    limit!("limit-submit96", "reserve and submit, 96 bytes", "submit96"),
    limit!("limit-write64", "the same, 64 bytes written", "write64"),
    limit!("limit-write96", "the same, 96 bytes written", "write96"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_have_names_of_their_own() {
        for (at, one) in ALL.iter().enumerate() {
            assert!(
                ALL[..at]
                    .iter()
                    .all(|other| other.name != one.name && other.label != one.label),
                "{}",
                one.name
            );
        }
    }

    #[test]
    fn sides_are_known_by_the_command() {
        let of = |side| ALL.iter().filter(|one| Side::of(one) == side).count();
        assert_eq!(of(Side::Limit), LIMITS);
        assert!(
            ALL[ALL.len() - LIMITS..]
                .iter()
                .all(|one| Side::of(one) == Side::Limit)
        );
        assert!(of(Side::Ours) >= 2);
    }
}
