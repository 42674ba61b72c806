//! `tracer export -f html`: one page with all that people ask first, in one file that needs no network.
//!
//! Tables and pictures are there without any script; the script sorts, filters and magnifies. A content security policy
//! allows exactly that script and that style, by their hashes, and nothing else.

mod markup;
mod page;
mod pictures;
mod timeline;

use std::io::Write as _;

use tracer_common::wire::Event;

use super::address::Addresses;
use super::{check, stats};
use crate::export::{Ending, Exporter, Interval, Output, PrivacyArgs};
use crate::stacks::Stacks;
use crate::state::{Meta, What};

use timeline::{Longest, Timeline};

/// Collects what the page shows.
pub struct HtmlWriter {
    out: Output,
    addresses: Addresses,
    privacy: PrivacyArgs,
    timeline: Timeline,
    longest: Longest,
}

impl HtmlWriter {
    /// Starts to collect.
    pub fn new(out: Output, start_ns: u64, addresses: Addresses, privacy: PrivacyArgs) -> Self {
        Self {
            out,
            addresses,
            privacy,
            timeline: Timeline::new(start_ns),
            longest: Longest::default(),
        }
    }
}

impl Exporter for HtmlWriter {
    fn event(&mut self, event: &Event, _meta: &Meta, _stacks: &Stacks) -> anyhow::Result<()> {
        self.timeline.event(event);
        Ok(())
    }

    fn wants_intervals(&self) -> bool {
        true
    }

    fn wants_checks(&self) -> bool {
        true
    }

    fn interval(&mut self, interval: &Interval, _stacks: &Stacks) -> anyhow::Result<()> {
        if interval.span.what == What::Wait
            && interval.holder.is_some()
            && let Some(ns) = interval.ns()
        {
            self.timeline.waited(interval.end_ns, ns);
        }
        self.longest.add(interval);
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: &Ending<'_>) -> anyhow::Result<()> {
        let report = stats::Report::new(&stats::Inputs {
            info: end.info,
            engine: end.engine,
            order: end.order,
            accounting: end.checker.map(crate::check::Checker::accounting),
            contention: end.contention,
            stacks: end.stacks,
            losses: end.losses,
            complete: end.complete,
            warnings: end.warnings.clone(),
            addresses: &self.addresses,
        });
        let checked = end.checker.map(|checker| {
            check::Report::new(&check::Inputs {
                info: end.info,
                engine: end.engine,
                checker,
                order: end.order,
                losses: end.losses,
                complete: end.complete,
                warnings: Vec::new(),
                addresses: &self.addresses,
            })
        });
        let page = page::render(&page::Content {
            end,
            report: &report,
            checked: checked.as_ref(),
            timeline: &self.timeline,
            longest: &self.longest,
            privacy: self.privacy,
        });
        self.out.write_all(page.as_bytes())?;
        self.out.finish()
    }
}
