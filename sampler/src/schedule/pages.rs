//! Cache pages and their reference counts.
//!
//! A page holds [`selfplay_model::PAGE_TOKENS`] positions. Candidates of the same prompt hold its
//! pages together; a page is written only by its single holder ([`PagePool::is_writable`]), else it is copied first.
//! A row takes a page when it reaches it, so that no memory is reserved for tokens that never come; the schedule decides
//! what happens when none is free.

/// Reference counts of pages.
#[derive(Clone, Debug)]
pub(crate) struct PagePool {
    holders: Vec<u32>,
    /// Last freed, first taken: its memory is still warm.
    free: Vec<u32>,
}

impl PagePool {
    /// A pool of free pages numbered from 0.
    pub(crate) fn new(pages: usize) -> Self {
        Self { holders: vec![0; pages], free: (0..pages as u32).rev().collect() }
    }

    /// A pool of `pages` pages out of one of fewer: the others come after those that are free now.
    pub(crate) fn grow_to(&mut self, pages: usize) {
        let now = self.holders.len();
        if pages > now {
            self.holders.resize(pages, 0);
            self.free.splice(0..0, (now as u32..pages as u32).rev());
        }
    }

    /// All pages.
    pub(crate) fn pages(&self) -> usize {
        self.holders.len()
    }

    /// Free pages.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a page, with one holder; `None` where all are held.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// One holder more.
    pub(crate) fn retain(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// One holder less; with the last one the page is free.
    pub(crate) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "page {page} was released once too often");
        if *holders == 1 {
            self.free.push(page);
        }
        *holders = holders.saturating_sub(1);
    }

    /// Whether the page's single holder may write to it as it stands. Otherwise it is copied first.
    pub(crate) fn is_writable(&self, page: u32) -> bool {
        self.holders[page as usize] == 1
    }

    /// How many hold each page.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> &[u32] {
        &self.holders
    }
}

#[cfg(test)]
mod tests {
    use selfplay_testing::Random;

    use super::*;

    #[test]
    fn a_pool_gives_what_it_has() {
        let mut pool = PagePool::new(2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(first, second);
        assert_eq!((pool.take(), pool.free()), (None, 0));
        pool.release(first);
        assert_eq!((pool.free(), pool.take()), (1, Some(first)));
    }

    #[test]
    fn a_shared_page_is_not_writable_until_one_holder_is_left() {
        let mut pool = PagePool::new(1);
        let page = pool.take().unwrap();
        assert!(pool.is_writable(page));
        pool.retain(page);
        assert!(!pool.is_writable(page));
        pool.release(page);
        assert!(pool.is_writable(page));
        assert_eq!(pool.free(), 0);
        pool.release(page);
        assert_eq!(pool.free(), 1);
    }

    /// Pages are taken in the order of a pool that had all of them from the start.
    #[test]
    fn a_pool_that_grows_gives_what_a_larger_one_gives() {
        let (mut grown, mut whole) = (PagePool::new(3), PagePool::new(60));
        let (mut held, mut random) = (Vec::new(), Random::new(3));
        for _ in 0..2000 {
            if held.is_empty() || (held.len() < 55 && random.below(2) == 0) {
                if grown.free() == 0 {
                    grown.grow_to((grown.pages() + 1 + random.below(9)).min(60));
                }
                let page = whole.take().unwrap();
                assert_eq!(grown.take(), Some(page));
                held.push(page);
            } else {
                let page = held.swap_remove(random.below(held.len()));
                grown.release(page);
                whole.release(page);
            }
        }
        assert!(grown.pages() > 40);
        grown.grow_to(5);
        assert!(grown.pages() > 40);
    }

    /// A million operations against a plain list of holdings.
    #[test]
    fn no_page_is_lost_or_given_twice() {
        const PAGES: usize = 97;
        let mut pool = PagePool::new(PAGES);
        let mut held: Vec<u32> = Vec::new();
        let mut random = Random::new(1);
        let mut random = |below: usize| random.below(below);
        for step in 0..1_000_000 {
            match random(4) {
                0 | 1 => match pool.take() {
                    Some(page) => {
                        assert!(!held.contains(&page), "page {page} was given twice");
                        held.push(page);
                    }
                    None => assert!((0..PAGES as u32).all(|page| held.contains(&page))),
                },
                2 if !held.is_empty() && held.len() < 4 * PAGES => {
                    let page = held[random(held.len())];
                    pool.retain(page);
                    held.push(page);
                }
                // Now and then all at once, so that the pool is seen full as well as empty.
                _ if random(500) == 0 => held.drain(..).for_each(|page| pool.release(page)),
                _ if !held.is_empty() => {
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
                for &page in &distinct {
                    let holders = held.iter().filter(|&&other| other == page).count();
                    assert_eq!(pool.is_writable(page), holders == 1);
                }
            }
        }
    }
}
