//! Work on many items at once, where there are enough of them for more than one thread.

use std::panic::resume_unwind;
use std::sync::OnceLock;

/// Fewer items than this are not worth a thread.
const WORTH_A_THREAD: usize = 4_096;

/// Calls `f` on parts of `items`, each on a thread of its own, and returns what it gives in order.
pub(crate) fn in_parts<T: Sync, R: Send>(items: &[T], f: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    in_parts_of(items, WORTH_A_THREAD, f)
}

/// As [`in_parts`], where `worth_a_thread` items are.
pub(crate) fn in_parts_of<T: Sync, R: Send>(
    items: &[T],
    worth_a_thread: usize,
    f: impl Fn(&[T]) -> R + Sync,
) -> Vec<R> {
    let threads = threads().min(items.len() / worth_a_thread).max(1);
    let part = items.len().div_ceil(threads).max(1);
    let mut parts = items.chunks(part);
    // The first part is the caller's own.
    let Some(first) = parts.next() else { return vec![f(items)] };
    std::thread::scope(|scope| {
        let f = &f;
        let others: Vec<_> = parts.map(|part| scope.spawn(move || f(part))).collect();
        let mut results = vec![f(first)];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    })
}

/// How many threads the process may run at once, as it was when it was first asked: the answer
/// takes several files of the kernel's, and a store that is opened asks often.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// loom knows its own threads alone.
fn threads() -> usize {
    if cfg!(ifmatch_loom) { 1 } else { cores() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_once_and_in_order() {
        for len in [0, 1, 7, 64, 1_000] {
            let items: Vec<usize> = (0..len).collect();
            let parts = in_parts_of(&items, 3, <[usize]>::to_vec);
            assert!(parts.len() <= threads());
            assert_eq!(parts.concat(), items);
        }
    }
}
