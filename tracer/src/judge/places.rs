//! Names for code that lockdep was called from.

use std::path::Path;

use tracer_common::wire::CODE_PERIOD;

use super::Spot;
use crate::info::SourceInfo;
use crate::sink::address::Addresses;
use crate::text::Symbols;

/// What turns a [`Spot`] into words.
pub(super) struct Places<'a> {
    pub info: &'a SourceInfo,
    /// Those of the kernel that was watched, if they are at hand.
    pub symbols: Option<Symbols>,
}

impl<'a> Places<'a> {
    /// Reads symbols from `kallsyms`; a file that hides them, or is none, gives numbers instead of names.
    pub(super) fn new(info: &'a SourceInfo, kallsyms: Option<&Path>) -> Self {
        Self {
            info,
            symbols: kallsyms.and_then(|path| Symbols::read(path).ok()),
        }
    }

    pub(super) fn name(&self, spot: Spot) -> String {
        match spot {
            Spot::Site(number) => {
                let Some(site) = self.info.sites.get(number as usize) else {
                    return format!("site {number}");
                };
                let place = if site.place.is_empty() {
                    &site.function
                } else {
                    &site.place
                };
                format!("{place} ({})", site.mechanism)
            }
            Spot::Code(code) => self
                .code(code)
                .unwrap_or_else(|| format!("code {:#x}", Addresses::of(self.info).show(code))),
        }
    }

    fn code(&self, code: u64) -> Option<String> {
        let symbols = self.symbols.as_ref()?;
        let text = symbols.text()?;
        let address = text + (code.wrapping_sub(text) & (CODE_PERIOD - 1));
        let (name, offset) = symbols.at(address)?;
        Some(format!("{name}+{offset:#x}"))
    }
}
