//! Bytes by what they are for.

/// Bytes by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryBreakdown {
    pub(crate) items: Vec<MemoryItem>,
}

/// One purpose and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryItem {
    pub(crate) what: &'static str,
    pub(crate) bytes: u64,
}

impl MemoryBreakdown {
    pub(in crate::plan) fn add(&mut self, what: &'static str, bytes: u64) {
        self.items.push(MemoryItem { what, bytes });
    }

    pub(crate) fn total(&self) -> u64 {
        self.items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes))
    }
}
