//! Cache pages: who holds which, and how many are spoken for.
//!
//! A page holds [`selfplay_model::PAGE_TOKENS`] positions. Rows that go on from a common prompt hold its
//! pages together; a page is written only by its single holder ([`PagePool::is_writable`]), else it is copied first.
//! A candidate is admitted only when the pages of its longest possible course are reserved, so that no running row
//! is ever turned out; a reserved page is taken only when the row reaches it.

use crate::SampleError;

/// Reference counts of a fixed number of pages.
#[derive(Clone, Debug)]
pub struct PagePool {
    holders: Vec<u32>,
    /// Last freed, first taken: its memory is still warm.
    free: Vec<u32>,
    reserved: usize,
}

impl PagePool {
    /// A pool of free pages numbered from 0.
    pub fn new(pages: usize) -> Self {
        Self { holders: vec![0; pages], free: (0..pages as u32).rev().collect(), reserved: 0 }
    }

    /// Pages that nobody holds and nobody has reserved.
    pub fn available(&self) -> usize {
        self.free.len() - self.reserved
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Sets `pages` aside; false, and nothing changes, when there are not as many.
    pub fn reserve(&mut self, pages: usize) -> bool {
        let fits = pages <= self.available();
        if fits {
            self.reserved += pages;
        }
        fits
    }

    /// Gives back reserved pages that were not taken.
    pub fn unreserve(&mut self, pages: usize) {
        self.reserved = self.reserved.saturating_sub(pages);
    }

    /// Takes one of the pages that the caller reserved, with one holder.
    ///
    /// Fails when none is reserved: a defect of the caller.
    pub fn take_reserved(&mut self) -> Result<u32, SampleError> {
        if self.reserved == 0 {
            return Err(SampleError::internal("a cache page was taken that nobody had reserved"));
        }
        let page =
            self.free.pop().ok_or_else(|| SampleError::internal("more cache pages reserved than free"))?;
        self.reserved -= 1;
        self.holders[page as usize] = 1;
        Ok(page)
    }

    /// One holder more.
    pub fn retain(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// One holder less; with the last one the page is free.
    pub fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "page {page} was released once too often");
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            self.free.push(page);
        }
    }

    /// Whether the page's single holder may write to it as it stands. Otherwise it is copied first.
    pub fn is_writable(&self, page: u32) -> bool {
        self.holders[page as usize] == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_kept_for_its_owner() {
        let mut pool = PagePool::new(3);
        assert!(pool.reserve(2));
        assert!(!pool.reserve(2));
        assert_eq!(pool.available(), 1);
        let page = pool.take_reserved().unwrap();
        assert_eq!((pool.available(), pool.free()), (1, 2));
        pool.unreserve(1);
        pool.release(page);
        assert_eq!((pool.available(), pool.free()), (3, 3));
        assert!(pool.take_reserved().is_err());
    }

    #[test]
    fn a_shared_page_is_not_writable_until_one_holder_is_left() {
        let mut pool = PagePool::new(1);
        assert!(pool.reserve(1));
        let page = pool.take_reserved().unwrap();
        assert!(pool.is_writable(page));
        pool.retain(page);
        assert!(!pool.is_writable(page));
        pool.release(page);
        assert!(pool.is_writable(page));
        assert_eq!(pool.free(), 0);
        pool.release(page);
        assert_eq!(pool.free(), 1);
    }

    /// A million operations against a plain list of holdings.
    #[test]
    fn no_page_is_lost_or_given_twice() {
        const PAGES: usize = 97;
        let mut pool = PagePool::new(PAGES);
        let mut held: Vec<u32> = Vec::new();
        let mut reserved = 0usize;
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for step in 0..1_000_000 {
            match random(5) {
                0 => {
                    let pages = random(9);
                    if pool.reserve(pages) {
                        reserved += pages;
                    }
                }
                1 if reserved > 0 => {
                    let page = pool.take_reserved().unwrap();
                    assert!(!held.contains(&page), "page {page} was given twice");
                    held.push(page);
                    reserved -= 1;
                }
                2 if !held.is_empty() => {
                    let page = held[random(held.len())];
                    pool.retain(page);
                    held.push(page);
                }
                3 if reserved > 0 => {
                    let pages = 1 + random(reserved);
                    pool.unreserve(pages);
                    reserved -= pages;
                }
                4 if !held.is_empty() => {
                    let page = held.swap_remove(random(held.len()));
                    pool.release(page);
                }
                _ => {}
            }
            if step % 64 == 0 {
                let mut distinct = held.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(pool.free(), PAGES - distinct.len());
                assert_eq!(pool.available(), pool.free() - reserved);
                for &page in &distinct {
                    let holders = held.iter().filter(|&&other| other == page).count();
                    assert_eq!(pool.is_writable(page), holders == 1);
                }
            }
        }
    }
}
