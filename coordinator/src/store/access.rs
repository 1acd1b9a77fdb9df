//! The durable side of who may speak: tokens, holders, revocations, and the audit log, changed together
//! in one transaction.

use super::{Store, StoreError, decode, encode};
use crate::access::audit::{self, Entry, Note};
use identity::{Role, Serial};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
const HOLDERS: TableDefinition<&str, &[u8]> = TableDefinition::new("holders");
const REVOKED: TableDefinition<&str, u64> = TableDefinition::new("revoked");
const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

/// A role and a name.
pub type Holder = (Role, String);

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Of the secret.
    pub digest: String,
    /// Of the holder-to-be.
    pub role: Role,
    /// The holder's name, if the token prescribes it.
    pub name: Option<String>,
    /// Seconds since 1970.
    pub expires: u64,
    /// Who made it.
    pub creator: String,
    /// Digest of the key that was enrolled with it.
    pub used: Option<String>,
}

/// Who has a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRecord {
    /// Digest of the newest key.
    pub key: String,
    /// Of the newest certificate.
    pub serial: Serial,
    /// When that was issued, in seconds since 1970.
    pub issued: u64,
    /// Its end.
    pub not_after: u64,
}

/// The tables inside one transaction.
pub struct AccessTables<'t> {
    tokens: Table<'t, &'static str, &'static [u8]>,
    holders: Table<'t, &'static str, &'static [u8]>,
    revoked: Table<'t, &'static str, u64>,
    audit: Table<'t, u64, &'static [u8]>,
}

impl std::fmt::Debug for AccessTables<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessTables")
    }
}

fn key((role, name): &Holder) -> String {
    format!("{role}/{name}")
}

fn holder(key: &str) -> Result<Holder, StoreError> {
    let damaged = |detail: String| StoreError::Record { what: format!("holder {key}"), detail };
    let (role, name) = key.split_once('/').ok_or_else(|| damaged("expected ROLE/NAME".into()))?;
    Ok((role.parse().map_err(damaged)?, name.to_owned()))
}

impl AccessTables<'_> {
    /// A token by its id.
    pub fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        self.tokens.get(id)?.map(|bytes| decode(id, bytes.value())).transpose()
    }

    /// Adds or replaces a token.
    pub fn put_token(&mut self, id: &str, record: &TokenRecord) -> Result<(), StoreError> {
        self.tokens.insert(id, encode(record).as_slice())?;
        Ok(())
    }

    /// Removes tokens that ended before an instant (seconds since 1970).
    pub fn drop_tokens(&mut self, before: u64) -> Result<(), StoreError> {
        let mut ended = Vec::new();
        for row in self.tokens.iter()? {
            let (id, bytes) = row?;
            if decode::<TokenRecord>(id.value(), bytes.value())?.expires < before {
                ended.push(id.value().to_owned());
            }
        }
        for id in ended {
            self.tokens.remove(id.as_str())?;
        }
        Ok(())
    }

    /// What is known of a holder.
    pub fn holder(&self, holder: &Holder) -> Result<Option<HolderRecord>, StoreError> {
        let key = key(holder);
        self.holders.get(key.as_str())?.map(|bytes| decode(&key, bytes.value())).transpose()
    }

    /// Adds or replaces a holder.
    pub fn put_holder(&mut self, holder: &Holder, record: &HolderRecord) -> Result<(), StoreError> {
        self.holders.insert(key(holder).as_str(), encode(record).as_slice())?;
        Ok(())
    }

    /// Nothing that was issued to a holder until then is accepted any more.
    pub fn revoke(&mut self, holder: &Holder, until: u64) -> Result<(), StoreError> {
        self.revoked.insert(key(holder).as_str(), until)?;
        Ok(())
    }

    /// Appends to the audit log.
    pub fn note(&mut self, note: Note, time_ms: u64) -> Result<(), StoreError> {
        let (sequence, previous) = match self.audit.last()? {
            Some((sequence, body)) => {
                let body = std::str::from_utf8(body.value()).map_err(|error| StoreError::Record {
                    what: format!("audit entry {}", sequence.value()),
                    detail: error.to_string(),
                })?;
                (sequence.value() + 1, audit::digest(body))
            }
            None => (0, String::new()),
        };
        let entry: Entry = note.entry(time_ms, previous);
        self.audit.insert(sequence, encode(&entry).as_slice())?;
        Ok(())
    }
}

/// Creates the tables.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), StoreError> {
    tables(transaction).map(drop)
}

fn tables(transaction: &WriteTransaction) -> Result<AccessTables<'_>, StoreError> {
    Ok(AccessTables {
        tokens: transaction.open_table(TOKENS)?,
        holders: transaction.open_table(HOLDERS)?,
        revoked: transaction.open_table(REVOKED)?,
        audit: transaction.open_table(AUDIT)?,
    })
}

impl Store {
    /// Changes what the tables hold, durably and as one; not at all if `change` fails.
    pub fn change_access<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut AccessTables<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.database.begin_write().map_err(StoreError::from)?;
        let result = change(&mut tables(&transaction)?)?;
        transaction.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    /// Appends one line to the audit log.
    pub fn note(&self, note: Note, time_ms: u64) -> Result<(), StoreError> {
        self.change_access(|tables| tables.note(note, time_ms))
    }

    /// Until when each revoked holder's certificates are refused.
    pub fn revoked(&self) -> Result<BTreeMap<Holder, u64>, StoreError> {
        let table = self.database.begin_read()?.open_table(REVOKED)?;
        table
            .iter()?
            .map(|row| {
                let (key, until) = row?;
                Ok((holder(key.value())?, until.value()))
            })
            .collect()
    }

    /// Every holder.
    pub fn holders(&self) -> Result<BTreeMap<Holder, HolderRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(HOLDERS)?;
        table
            .iter()?
            .map(|row| {
                let (key, bytes) = row?;
                Ok((holder(key.value())?, decode(key.value(), bytes.value())?))
            })
            .collect()
    }

    /// Every token, by id.
    pub fn tokens(&self) -> Result<BTreeMap<String, TokenRecord>, StoreError> {
        let table = self.database.begin_read()?.open_table(TOKENS)?;
        table
            .iter()?
            .map(|row| {
                let (id, bytes) = row?;
                Ok((id.value().to_owned(), decode(id.value(), bytes.value())?))
            })
            .collect()
    }

    /// At most `limit` lines of the audit log from a sequence number on, as they were written.
    pub fn audit(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let table = self.database.begin_read()?.open_table(AUDIT)?;
        table
            .range(from..)?
            .take(limit)
            .map(|row| {
                let (sequence, body) = row?;
                let text = String::from_utf8_lossy(body.value()).into_owned();
                Ok((sequence.value(), text))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::audit::Action;

    fn worker(name: &str) -> Holder {
        (Role::Worker, name.to_owned())
    }

    #[test]
    fn what_changed_together_is_there_together() {
        let folder = tempfile::tempdir().unwrap();
        let token = TokenRecord {
            digest: "d".into(),
            role: Role::Worker,
            name: None,
            expires: 10,
            creator: "operator a".into(),
            used: None,
        };
        let record = HolderRecord { key: "k".into(), serial: Serial("01".into()), issued: 5, not_after: 99 };
        {
            let store = Store::open(folder.path()).unwrap();
            let failed: Result<(), StoreError> = store.change_access(|tables| {
                tables.put_token("t0", &token)?;
                Err(StoreError::Record { what: "x".into(), detail: "y".into() })
            });
            failed.unwrap_err();
            assert!(store.tokens().unwrap().is_empty());
            let changed: Result<(), StoreError> = store.change_access(|tables| {
                tables.put_token("t1", &token)?;
                tables.put_holder(&worker("w"), &record)?;
                tables.revoke(&worker("v"), 7)?;
                tables.note(Note::own(Action::Revoked, "v"), 1)
            });
            changed.unwrap();
        }
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.tokens().unwrap(), BTreeMap::from([("t1".to_owned(), token)]));
        assert_eq!(store.holders().unwrap(), BTreeMap::from([(worker("w"), record)]));
        assert_eq!(store.revoked().unwrap(), BTreeMap::from([(worker("v"), 7)]));
        let dropped: Result<(), StoreError> = store.change_access(|tables| tables.drop_tokens(11));
        dropped.unwrap();
        assert!(store.tokens().unwrap().is_empty());
    }

    #[test]
    fn each_line_of_the_audit_log_vouches_for_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for (time, subject) in [(5, "a"), (6, "b"), (7, "c")] {
            store.note(Note::own(Action::Released, subject).with_outcome("ok"), time).unwrap();
        }
        let lines = store.audit(0, 10).unwrap();
        let entries: Vec<Entry> = lines.iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
        assert_eq!(lines.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(entries[0].previous, "");
        for (before, after) in lines.iter().zip(&entries[1..]) {
            assert_eq!(after.previous, audit::digest(&before.1));
        }
        assert_eq!((entries[2].subject.as_str(), entries[2].time_ms), ("c", 7));
        assert_eq!(store.audit(2, 10).unwrap().len(), 1);
    }
}
