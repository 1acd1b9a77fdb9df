//! Reading a part of what a run has written: never more than a bound, however long the run.

use super::{EVENTS, METRICS, Store, StoreError, StoredEvent, decode};
use proto::event::Metrics;

impl Store {
    /// At most `limit` lines of metrics of a run from a round on.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn metrics_from(&self, run: &str, round: u64, limit: usize) -> Result<Vec<Metrics>, StoreError> {
        let table = self.database.begin_read()?.open_table(METRICS)?;
        let rows = table.range((run, round)..=(run, u64::MAX))?.take(limit);
        rows.map(|row| decode(run, row?.1.value())).collect()
    }

    /// The last `limit` lines of metrics of a run, in order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn last_metrics(&self, run: &str, limit: usize) -> Result<Vec<Metrics>, StoreError> {
        let table = self.database.begin_read()?.open_table(METRICS)?;
        let rows = table.range((run, 0)..=(run, u64::MAX))?.rev().take(limit);
        let mut lines =
            rows.map(|row| decode(run, row?.1.value())).collect::<Result<Vec<_>, StoreError>>()?;
        lines.reverse();
        Ok(lines)
    }

    /// At most `limit` events of a run from a sequence number on, and no more than the first that makes
    /// `bytes` full: a cohort of thousands is one event.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn events_within(
        &self,
        run: &str,
        from: u64,
        (limit, bytes): (usize, usize),
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let table = self.database.begin_read()?.open_table(EVENTS)?;
        let (mut events, mut read) = (Vec::new(), 0);
        for row in table.range((run, from)..=(run, u64::MAX))?.take(limit) {
            let (_, row) = row?;
            events.push(decode(run, row.value())?);
            read += row.value().len();
            if read >= bytes {
                break;
            }
        }
        Ok(events)
    }
}
