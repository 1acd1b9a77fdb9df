//! Reading what a compressor wrote: every read is checked, nothing is allocated by a declared length.

use super::CompressError;

/// The bytes that are left.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], CompressError> {
        let Some((taken, rest)) = self.0.split_at_checked(count) else {
            let detail = format!("{} bytes are left, {count} were expected", self.0.len());
            return Err(CompressError::Bytes(detail));
        };
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn words<const N: usize>(&mut self, count: usize) -> Result<Vec<[u8; N]>, CompressError> {
        let bytes = self.take(count.saturating_mul(N))?;
        Ok(bytes.as_chunks::<N>().0.to_vec())
    }

    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f32>, CompressError> {
        Ok(self.words(count)?.into_iter().map(f32::from_le_bytes).collect())
    }

    pub(super) fn halves(&mut self, count: usize) -> Result<Vec<u16>, CompressError> {
        Ok(self.words(count)?.into_iter().map(u16::from_le_bytes).collect())
    }

    pub(super) fn end(self) -> Result<(), CompressError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(CompressError::Bytes(format!("{} bytes too many", self.0.len())))
    }
}

/// One bit for each flag, the lowest first.
pub(super) fn pack(flags: impl IntoIterator<Item = bool>, out: &mut Vec<u8>) {
    for (at, flag) in flags.into_iter().enumerate() {
        if at % 8 == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= u8::from(flag) << (at % 8);
        }
    }
}

/// The flag at that place.
pub(super) fn flag(bytes: &[u8], at: usize) -> bool {
    bytes[at / 8] >> (at % 8) & 1 == 1
}

pub(super) fn put(values: impl IntoIterator<Item = f32>, out: &mut Vec<u8>) {
    out.extend(values.into_iter().flat_map(f32::to_le_bytes));
}
