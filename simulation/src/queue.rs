//! Virtual time: what happens next.

use crate::Millis;
use std::collections::BTreeMap;

/// Events in order of time; those of the same time in the order in which they were pushed, so that a
/// run has one order whatever a heap would do.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BTreeMap<(Millis, u64), T>,
    sequence: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), sequence: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds an event.
    pub fn push(&mut self, at: Millis, event: T) {
        self.sequence += 1;
        self.waiting.insert((at, self.sequence), event);
    }

    /// Takes the next event and its time.
    pub fn pop(&mut self) -> Option<(Millis, T)> {
        self.waiting.pop_first().map(|((at, _), event)| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_first_then_order_of_pushing() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(at, event);
        }
        let order: Vec<(Millis, char)> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, 'a'), (2, 'b'), (5, 'c'), (5, 'd')]);
    }
}
