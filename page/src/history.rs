//! What is remembered of a run's lines of metrics: sums, the newest line, and a curve of bounded length, so
//! that a page of a run with a hundred thousand rounds costs as much as one with two hundred.

use crate::plot::Point;
use proto::event::Metrics;
use serde::Serialize;

/// Points of a curve; even.
const MOST: usize = 256;

/// Sums over all lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Payload bytes sent to workers.
    pub bytes_down: u64,
    /// Payload bytes received from workers.
    pub bytes_up: u64,
    /// Updates rejected.
    pub rejected: u64,
}

/// Lines so far.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The round of the next line.
    next: u64,
    /// Lines in a point.
    stride: usize,
    /// Lines in the last point.
    filled: usize,
    points: Vec<Point>,
    totals: Totals,
    last: Option<Metrics>,
}

impl Default for History {
    fn default() -> Self {
        Self { next: 0, stride: 1, filled: 0, points: Vec::new(), totals: Totals::default(), last: None }
    }
}

impl History {
    /// Takes the next line; one that was taken before is not taken again.
    pub fn push(&mut self, line: &Metrics) {
        if line.round < self.next {
            return;
        }
        self.next = line.round + 1;
        self.totals.bytes_down += line.bytes_down;
        self.totals.bytes_up += line.bytes_up;
        self.totals.rejected += line.rejected as u64;
        self.last = Some(line.clone());
        let point = Point::from(line);
        match self.points.last_mut() {
            Some(last) if self.filled < self.stride => {
                *last = merged(*last, point);
                self.filled += 1;
            }
            _ => {
                self.points.push(point);
                self.filled = 1;
            }
        }
        if self.points.len() > MOST {
            // An odd number: the last one stands alone, and is filled further.
            let pairs = self.points.chunks(2).filter_map(|two| two.iter().copied().reduce(merged));
            self.points = pairs.collect();
            self.stride *= 2;
        }
    }

    /// The round of the next line that is wanted.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The curve, in order of rounds.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Sums over all lines.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The newest line.
    pub fn last(&self) -> Option<&Metrics> {
        self.last.as_ref()
    }
}

/// Two points as one: the later value of each kind, where there is one.
fn merged(first: Point, then: Point) -> Point {
    Point {
        round: then.round,
        eval_accuracy: then.eval_accuracy.or(first.eval_accuracy),
        federated_accuracy: then.federated_accuracy.or(first.federated_accuracy),
        worst_decile: then.worst_decile.or(first.worst_decile),
        personal_accuracy: then.personal_accuracy.or(first.personal_accuracy),
        eval_loss: then.eval_loss.or(first.eval_loss),
        federated_loss: then.federated_loss.or(first.federated_loss),
        train_loss: then.train_loss.or(first.train_loss),
        epsilon: then.epsilon.or(first.epsilon),
    }
}
