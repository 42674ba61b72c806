//! What a mode does not need is not attached.

use super::{Mechanism, Plan, Wishes};
use crate::info::SiteInfo;
use crate::mode::Mode;

impl Wishes {
    /// Without what the mode has no use for.
    pub(super) fn pared(mut self) -> Self {
        if self.mode != Mode::Stream {
            self.without.push(Mechanism::Lockdep);
            self.truth = false;
        }
        self
    }
}

impl Plan {
    /// Leaves out what shows nothing that the mode needs.
    pub(super) fn pare(&mut self, mode: Mode) {
        if mode == Mode::Stream {
            return;
        }
        let Self {
            points,
            sites,
            unseen,
            ..
        } = self;
        let needed = |operation: &str| {
            tracer_common::wire::Kind::from_name(operation).is_some_and(|kind| mode.needs(kind))
        };
        points.retain(|point| {
            let site = &mut sites[point.site as usize];
            let stays = needed(&site.operation);
            if !stays {
                *site = SiteInfo::default();
            }
            stays
        });
        unseen.retain(|one| needed(&one.operation));
    }
}
