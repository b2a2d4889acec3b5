//! The lost update, and the same program with versions.
//!
//! Eight threads add one to a counter, 10,000 times each. First as one would over a store that
//! overwrites: read, add, write. Then with the version that was read as the condition.

use std::time::Duration;

use ifmatch::{Collection, Result, RetryPolicy, Store};

const THREADS: u64 = 8;
const INCREMENTS: u64 = 10_000;

fn main() -> Result<()> {
    let store = Store::in_memory();
    let counters = store.collection::<String, u64>("counters")?;

    let overwritten = race(&counters, |counters| {
        let seen = counters.get("n")?.map_or(0, |entity| *entity);
        counters.put("n", seen + 1).unconditional().commit()?;
        Ok(())
    })?;
    println!("overwriting:   {overwritten} of {}", THREADS * INCREMENTS);

    let budget = Duration::from_secs(60);
    let patient = RetryPolicy { attempts: u32::MAX, budget, ..RetryPolicy::default() };
    let versioned = race(&counters, |counters| {
        let add = counters.update("n", |n| *n += 1);
        add.retry(patient.clone()).commit()?;
        Ok(())
    })?;
    println!("with versions: {versioned} of {}", THREADS * INCREMENTS);
    Ok(())
}

/// Lets all threads increment from zero, and returns what the counter shows in the end.
fn race(
    counters: &Collection<String, u64>,
    increment: impl Fn(&Collection<String, u64>) -> Result<()> + Sync,
) -> Result<u64> {
    counters.put("n", 0).unconditional().commit()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| (0..INCREMENTS).try_for_each(|_| increment(counters))))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    Ok(*counters.get("n")?.expect("it was written"))
}
