//! What the benchmarks share: keys, access patterns and a race between barriers.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part")]

use std::sync::Barrier;
use std::time::{Duration, Instant};

pub const KEYS: usize = 1_000;

/// Which keys a thread touches, in order, drawn beforehand from a fixed seed.
pub struct Access {
    pub name: &'static str,
    weights: fn(usize) -> f64,
}

/// One key for all, Zipf with exponent 0.99, and uniform.
pub const ACCESS: [Access; 3] = [
    Access { name: "one key", weights: |rank| if rank == 0 { 1.0 } else { 0.0 } },
    Access { name: "zipf", weights: |rank| 1.0 / ((rank + 1) as f64).powf(0.99) },
    Access { name: "uniform", weights: |_| 1.0 },
];

impl Access {
    pub fn draw(&self, keys: usize, count: usize, seed: u64) -> Vec<usize> {
        let mut sum = 0.0;
        let cumulative: Vec<f64> = (0..keys)
            .map(|rank| {
                sum += (self.weights)(rank);
                sum
            })
            .collect();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut one = || {
            let at = random.f64() * sum;
            cumulative.partition_point(|end| *end <= at).min(keys - 1)
        };
        (0..count).map(|_| one()).collect()
    }
}

/// Runs `body(thread)` on each of `threads` threads between two barriers.
pub fn race(threads: usize, body: impl Fn(usize) + Sync) -> Duration {
    let (start, end) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (start, end, body) = (&start, &end, &body);
            scope.spawn(move || {
                start.wait();
                body(thread);
                end.wait();
            });
        }
        start.wait();
        let started = Instant::now();
        end.wait();
        started.elapsed()
    })
}

/// Splits `iterations` over `threads`, at least one each.
pub fn share(iterations: u64, threads: usize) -> u64 {
    iterations.div_ceil(threads as u64)
}
