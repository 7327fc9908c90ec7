//! Python's `random.Random(seed).sample(range(n), k)`, which draws lm-eval's few-shot examples.
//!
//! The generator is MT19937 (Matsumoto and Nishimura 1998), seeded by an array of one word. CPython's `sample` draws from a shrinking pool
//! where k is large beside n, else again and again until k different numbers are there; a number below n is the first of ⌈log₂⌉ bits that is.

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// CPython's generator.
#[derive(Clone, Debug)]
pub(super) struct PythonRandom {
    state: [u32; WORDS],
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)` of a seed below 2³².
    pub(super) fn new(seed: u32) -> Self {
        let mut state = [0; WORDS];
        state[0] = 19_650_218u32;
        for place in 1..WORDS {
            let before = state[place - 1];
            state[place] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(place as u32);
        }
        let mut place = 1;
        let mut step = |state: &mut [u32; WORDS], mix: &dyn Fn(u32, u32, usize) -> u32| {
            let before = state[place - 1];
            state[place] = mix(state[place], before ^ (before >> 30), place);
            place += 1;
            if place == WORDS {
                state[0] = state[WORDS - 1];
                place = 1;
            }
        };
        for _ in 0..WORDS {
            step(&mut state, &|own, before, _| (own ^ before.wrapping_mul(1_664_525)).wrapping_add(seed));
        }
        for _ in 1..WORDS {
            step(&mut state, &|own, before, place| {
                (own ^ before.wrapping_mul(1_566_083_941)).wrapping_sub(place as u32)
            });
        }
        state[0] = 1 << 31;
        Self { state, next: WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            for place in 0..WORDS {
                let following = self.state[(place + 1) % WORDS];
                let joined = (self.state[place] & 0x8000_0000) | (following & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[place] = self.state[(place + MIDDLE) % WORDS] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `_randbelow(n)`, n from 1 to 2³² − 1.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let number = (self.word() >> (32 - bits)) as usize;
            if number < n {
                return number;
            }
        }
    }

    /// `sample(range(n), k)`; at most n numbers.
    pub(super) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = k.min(n);
        let mut small = 21;
        if k > 5 {
            let mut power = 1;
            while power < 3 * k {
                power *= 4;
            }
            small += power;
        }
        if n <= small {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|taken| {
                    let place = self.below(n - taken);
                    let number = pool[place];
                    pool[place] = pool[n - taken - 1];
                    number
                })
                .collect();
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(k);
        while drawn.len() < k {
            let number = self.below(n);
            if !drawn.contains(&number) {
                drawn.push(number);
            }
        }
        drawn
    }
}
